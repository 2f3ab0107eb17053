"""Folders, patterns and names to the records behind them.

Whatever is an ECG is listed, damaged ones too, so that reading can say why; whatever is none is passed over.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from skecg.errors import ParameterError, RecordNotFoundError, RecordReadError
from skecg.io.dicom import DICOM_SUFFIXES, holds_no_waveform, is_dicom, list_dicom_directory
from skecg.io.files import beginning_of, similar_names
from skecg.io.reading import PathLike, as_path
from skecg.io.wfdb import read_wfdb_header
from skecg.io.wfdb_header import SIGNAL_SUFFIXES, find_header

__all__ = ["find_records"]

_WILDCARDS = frozenset("*?[")

# Settings and results are JSON more often than ECGs are: one of these names stands near the beginning of Kardia's.
_KARDIA = re.compile(rb'"(?:recordedAt|amplitudeResolution|mainsFrequency|leadI{1,3})"')

_SNIFFED_BYTES = 2**14

_XML_COMMENT = re.compile(r"<!--.*?(?:-->|$)", re.DOTALL)

_XML_ROOT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)")

# AnnotatedECG, RestingECG, restingecgdata, ECG; and of systems that are not read, so that they are not lost in silence.
_ECG_ROOT = re.compile(r"ecg|ekg|cardio|muse|examdescript|sapphire", re.IGNORECASE)


def find_records(paths: PathLike | Iterable[PathLike], *, recursive: bool = True) -> list[Path]:
    """List the records that folders, patterns and names stand for.

    A WFDB record is listed once, by its header; its signal files, and the segments of a record in several parts, are
    not listed beside it, while an EDF or XML file of the same name is. In folders and behind patterns whatever is no
    ECG is passed over (other XML, DICOM images), and so are tables in folders, since they do not say what they are.
    DICOM files are found by their content where they have no suffix, and a ``DICOMDIR`` that is named stands for the
    waveforms in it. Any other file that is named is listed as it is. Links to what is not there are listed, too.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, glob patterns (``"data/**/*.hea"``), files, and WFDB record names with or without a suffix.
    recursive : bool, default=True
        Whether to look into the folders of folders, and to let ``**`` reach through them.

    Returns
    -------
    list of Path
        In the order of `paths`, those of a folder or pattern sorted; each record once, where it comes first.

    Raises
    ------
    RecordNotFoundError
        When one of `paths` stands for nothing; the message lists similar names.
    RecordReadError
        When a folder cannot be listed, also one that a pattern leads through.
    ParameterError
        When `paths` holds anything but paths.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if isinstance(paths, bytes) or not isinstance(paths, Iterable):
        raise ParameterError(f"Got paths={paths!r}, expected a path or a list of paths.")
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(sorted(_expand(as_path(path), recursive))))
    return list(found)


def _expand(path: Path, recursive: bool) -> set[Path]:
    """List the records that one path stands for."""
    header = find_header(path)
    if header is not None:
        return {header}
    if path.is_dir():
        return _records_among(_files_in(path, recursive), _format_suffixes(), f"The folder {str(path)!r}")
    if path.is_file():
        return _directory_entries(path) if path.name.upper() == "DICOMDIR" else {path}
    if _WILDCARDS & set(str(path)):
        return _records_among(
            _matches(path, recursive), _format_suffixes() | _table_suffixes(), f"The pattern {str(path)!r}"
        )
    raise RecordNotFoundError(f"Nothing answers to {str(path)!r}. {similar_names(path)}")


def _files_in(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield all files in a folder and those in it, linked ones too; a link back to where it came from ends there."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise_unlisted):
        target = os.path.realpath(place)
        if target in seen:
            folders.clear()
            continue
        seen.add(target)
        yield from (Path(place, name) for name in names)
        if not recursive:
            return


def _raise_unlisted(error: OSError) -> NoReturn:
    """Raise for a folder whose files cannot be listed: its recordings would be lost in silence."""
    raise RecordReadError(
        f"The folder {error.filename!r} cannot be listed ({type(error).__name__}: {error.strerror}). Check its "
        "permissions, or name the folders beside it."
    ) from error


def _matches(pattern: Path, recursive: bool) -> Iterator[Path]:
    """Yield what a pattern matches, as glob does, which goes round for ever where two links lead back."""
    parts = pattern.parts
    if not (recursive and "**" in parts):
        _check_listable(pattern)
        yield from map(Path, glob.iglob(str(pattern)))  # noqa: PTH207
        return
    place = parts.index("**")
    rest = Path(*parts[place + 1 :] or "*")
    for start in filter(os.path.isdir, _matches(Path(*parts[:place]), recursive) if place else [Path()]):
        for folder in _folders_below(start):
            yield from _matches(Path(glob.escape(str(folder))) / rest, recursive)


def _folders_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield a folder and those in it, hidden ones left out; a link back to where it came from ends there."""
    target = os.path.realpath(folder)
    if target in above:
        return
    yield folder
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        _raise_unlisted(error)
    for name in names:
        yield from _folders_below(folder / name, above | {target})


def _check_listable(pattern: Path) -> None:
    """Raise for a folder that a pattern leads through and that may not be listed: glob passes over it in silence."""
    for part in (pattern, *pattern.parents):
        above = os.path.join(part.parent, "")  # noqa: PTH118 - what ends so matches folders alone
        for folder in glob.iglob(above) if _WILDCARDS & set(str(part)) else ():  # noqa: PTH207
            try:
                os.scandir(folder).close()
            except PermissionError as error:
                _raise_unlisted(error)


def _directory_entries(path: Path) -> set[Path]:
    """List the waveforms of a DICOM file set by its directory."""
    files = set(list_dicom_directory(path))
    if not files:
        raise RecordNotFoundError(f"The DICOM directory {path} lists no waveform, expected an ECG. Check the path.")
    return files


def _records_among(files: Iterable[Path], suffixes: frozenset[str], where: str) -> set[Path]:
    """Keep the records among files: headers for WFDB, the files themselves for all else."""
    headers, others = set(), set()
    for path in _without_twins(files):
        suffix = path.suffix.lower()
        if suffix == ".hea" or suffix in SIGNAL_SUFFIXES:
            header = path if suffix == ".hea" and _leads_nowhere(path) else find_header(path)
            headers |= {header} if header is not None else set()
        elif _is_candidate(path, suffixes):
            others.add(path)
    parts = set().union(*map(_parts, headers))
    records = (headers | others) - parts
    if not records:
        raise RecordNotFoundError(
            f"{where} holds no recording, expected WFDB headers (.hea), DICOM files or "
            f"{', '.join(sorted(suffixes))}. Check the path."
        )
    return records


def _is_candidate(path: Path, suffixes: frozenset[str]) -> bool:
    """Report a file that may be a recording: by its suffix, and by what it begins with where many others share that."""
    suffix = path.suffix.lower()
    if not (path.is_file() or _leads_nowhere(path)):
        return False
    if suffix in DICOM_SUFFIXES:
        return not holds_no_waveform(path)
    if suffix not in suffixes:
        # Names in DICOM exports are numbers, or have no suffix at all.
        return (suffix[1:].isdigit() or not suffix) and is_dicom(path) and not holds_no_waveform(path)
    if suffix == ".xml":
        return not _is_other_xml(path)
    if suffix == ".json":
        return _KARDIA.search(beginning_of(path, _SNIFFED_BYTES).replace(b"\0", b"")) is not None
    # ISHNE's suffix is also that of an annotator; beside a header it needs the format's own first letters.
    return suffix != ".ecg" or not path.with_suffix(".hea").is_file() or beginning_of(path, 8) == b"ISHNE1.0"


def _leads_nowhere(path: Path) -> bool:
    """Report a link to what is not there, as an archive has where a drive is not mounted or DataLad got no content."""
    return path.is_symlink() and not path.exists()


def _is_other_xml(path: Path) -> bool:
    """Report XML whose root element is none of an ECG; what has no root at all may be a damaged recording."""
    # Without its zeros UTF-16 reads as the letters it stands for.
    text = beginning_of(path, _SNIFFED_BYTES).replace(b"\0", b"").decode("latin-1")
    root = _XML_ROOT.search(_XML_COMMENT.sub("", text))
    return root is not None and not _ECG_ROOT.search(root[1])


def _without_twins(files: Iterable[Path]) -> Iterator[Path]:
    """Yield files once, whatever links lead to them, without what macOS and editors put beside them."""
    seen: set[str] = set()
    # Of two ways to a file the one without a link stays: a header finds its signals beside itself.
    for path in sorted(files, key=lambda path: (path.is_symlink(), len(path.parts), path)):
        if path.name.startswith(("._", ".#")) or "__MACOSX" in path.parts:
            continue
        target = os.path.realpath(path)
        if target not in seen:
            seen.add(target)
            yield path


def _parts(header_path: Path) -> set[Path]:
    """Return the files that belong to a record: signals, headers of segments; reading says why a header has none."""
    try:
        header = read_wfdb_header(header_path)
    except RecordReadError:
        return set()
    names = {f"{segment.name}.hea" for segment in header.segments} | {signal.file_name for signal in header.signals}
    return {header_path.parent / name for name in names}


def _format_suffixes() -> frozenset[str]:
    from skecg.io.formats import FORMAT_SUFFIXES

    return FORMAT_SUFFIXES


def _table_suffixes() -> frozenset[str]:
    from skecg.io.tables import TABLE_SUFFIXES

    return TABLE_SUFFIXES
