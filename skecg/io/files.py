"""Files written whole or not at all, folders that one process at a time writes into, digests, and similar names."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from skecg.errors import DamagedRecordError, ParameterError

__all__ = [
    "MANY_FILES",
    "alone_in",
    "beginning_of",
    "check_inflated",
    "decoded_text",
    "keep_others_out",
    "largest_inflated",
    "make_folder",
    "replacing",
    "resolved",
    "sha256_of",
    "similar_names",
    "takes_files",
]

#: Of a folder no more names are looked at where a file is sought that is not there.
MANY_FILES = 2000

# Of a text, to tell its encoding by.
_SNIFFED_BYTES = 2**14

# A recording is seldom compressed to a tenth. Deflate makes a thousandth of nothing but zeros, and so of a bomb.
_MOST_INFLATED, _ALWAYS_ALLOWED = 100, 2**26


def beginning_of(path: Path, n_bytes: int) -> bytes:
    """Read the first bytes of a file, none of a file that cannot be read: reading it will say why."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return b""


def largest_inflated(n_packed: int) -> int:
    """Return how many bytes a compressed recording of so many bytes may become."""
    return max(_ALWAYS_ALLOWED, _MOST_INFLATED * n_packed)


def check_inflated(n_bytes: int, n_packed: int, path: Path) -> None:
    """Raise for a compressed file that becomes more than any recording would."""
    if n_bytes > largest_inflated(n_packed):
        raise DamagedRecordError(
            f"{path} inflates {n_packed:,} compressed bytes to more than {largest_inflated(n_packed):,}, expected a "
            "recording, which compresses less. Do not open it by other means; export the recording again uncompressed."
        )


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder to write into, made where it is absent.

    Raises
    ------
    ParameterError
        When it is no path, or a file, or cannot be made.
    """
    try:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError) as error:
        # What the system says of it, where it was the system that refused.
        reason = getattr(error, "strerror", None) or type(error).__name__
        why = "is a file" if isinstance(error, FileExistsError) else f"cannot be made ({reason})"
        raise ParameterError(f"Got {str(folder)!r} as a folder to write into, which {why}. Name another.") from error
    return path


def resolved(path: Path) -> Path:
    """Return what a path stands for, links followed.

    Raises
    ------
    ParameterError
        When it is a link that leads back to itself.
    """
    try:
        target = path.resolve()
    except RuntimeError:  # up to Python 3.12; later ones return the link
        target = path
    if target.is_symlink():
        raise ParameterError(f"Got {str(path)!r}, a link that leads back to itself. Name another file or folder.")
    return target


def takes_files(folder: Path) -> bool:
    """Return whether a file can be made in a folder, or in what is the nearest above it that is there."""
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    try:
        # By doing it: what permissions say is not all, on file systems that are read-only or full.
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name when all of it is on the disk.

    A process killed at any moment leaves the old file or the new one, and at worst a hidden file beside it. A link is
    followed, so that what it points to is replaced.

    Parameters
    ----------
    path : Path
        Its folder exists.
    private : bool, default=False
        Whether only the user may read it: what holds embeddings of patients is personal.

    Yields
    ------
    binary file
    """
    # A link stays a link, and the new file lies on the file system of what it replaces: only there is a rename atomic.
    path = resolved(path)
    new = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")  # a longer name may be more than a system takes
    # Made with its mode, not changed to it later; O_EXCL follows no link that somebody put there.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            # Before the rename: after a power cut the name could otherwise stand for an empty file.
            os.fsync(file.fileno())
        new.replace(path)
    # Ctrl-C too must leave nothing behind.
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder until the block ends, or this process and all that it forked have ended.

    Parameters
    ----------
    folder : Path
        It exists. A file ``.lock`` stays there: a lock is on a file, not on its name, and so it is never replaced.
    wait : bool, default=False
        Whether to wait for another that is at work there.

    Raises
    ------
    ParameterError
        When another is at work there, and is not waited for.
    """
    owner = os.getpid()
    with (folder / ".lock").open("ab") as file:
        keep_others_out(file, folder, wait=wait)
        try:
            yield
        finally:
            # By hand: a process that was forked meanwhile has the file open as well, and its end is not the owner's.
            if os.getpid() == owner:
                _lock(file, keep=False)


def keep_others_out(file: IO[bytes], folder: Path, *, wait: bool = False) -> None:
    """Keep other processes out of a folder for as long as this file is open, where the system has locks.

    Raises
    ------
    ParameterError
        When another is at work there, and is not waited for.
    """
    try:
        _lock(file, wait=wait)
    except BlockingIOError as error:
        raise ParameterError(f"Another run is under way in {folder}. Wait for it, or name another --out.") from error


def _lock(file: IO[bytes], *, keep: bool = True, wait: bool = False) -> None:
    """Lock a file for this process, or give the lock back, where the system and the file's own have locks."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if keep else fcntl.LOCK_UN) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def similar_names(path: Path, suffixes: Collection[str] = (".hea",)) -> str:
    """Return where a link leads, or which files of the folder bear similar names, as a sentence to end a message."""
    if path.is_symlink():
        return f"It is a link to {str(path.readlink())!r}, which is not there."
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {str(folder)!r}."
    if path.with_name(f"{path.name}.gz").is_file():
        return f"{path.name}.gz lies there. Unpack it."
    names = [p.name for p in islice(folder.iterdir(), MANY_FILES) if p.suffix.lower() in suffixes]
    by_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(f"{path.stem}{min(suffixes)}".lower(), by_lower_case, n=3, cutoff=0.6)
    if close:
        return f"Similar names there: {', '.join(by_lower_case[name] for name in close)}."
    return f"The folder holds {len(names)} file(s) of that kind, none with a similar name. Check the path."


def decoded_text(content: bytes, path: Path) -> str:
    """Return the text of a file, refusing what is none."""
    if not content.strip():
        raise DamagedRecordError(f"{path} is empty ({len(content)} bytes), expected a table of samples.")
    wide = _wide_encoding(content[:_SNIFFED_BYTES])
    if wide is not None:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(wide).removeprefix("\ufeff")
            if "\0" not in text:  # as in UTF-32
                return _plain_signs(text)
    if b"\0" in content or content.startswith(b"%PDF"):
        raise DamagedRecordError(f"{path} is a binary file, expected a text table with one row a sample, in UTF-8.")
    try:
        return _plain_signs(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _plain_signs(text: str) -> str:
    """Return a text with hyphens where typesetting put minus signs."""
    return text.replace("\N{MINUS SIGN}", "-")


def _wide_encoding(head: bytes) -> str | None:
    """Return the UTF-16 that a text begins in: by its mark, or by the zeros beside nearly every letter and digit."""
    for encoding, mark, zeros in (("utf-16-le", b"\xff\xfe", head[1::2]), ("utf-16-be", b"\xfe\xff", head[0::2])):
        if head.startswith(mark) or 2 * zeros.count(0) > max(len(zeros), head.count(0)):
            return encoding
    return None
