"""What each spoilt input is handed to, and what must not come of it.

Every target takes an input and returns what became of it: ``"read"``, ``"refused"`` (by an error of skecg's own), or
``"compared"``: read, and found to be what wfdb reads. Anything else is a failure, and is raised.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import test_cardiosoft
import test_formats
import test_vendors
import torch
from fuzz_inputs import (
    FIXTURES,
    Text,
    headers,
    layouts,
    spoil_bytes,
    spoil_json,
    spoil_safetensors,
    spoil_text,
    tables,
)

from skecg.convert.checkpoint import open_checkpoint
from skecg.embedding_cache import DiskCache
from skecg.embedding_cache.sqlite import DATABASE_NAME, Row, array_of, is_sound, row_of
from skecg.errors import SkecgError, SkecgWarning
from skecg.io import read_record
from skecg.io.channels import ecg_rows
from skecg.io.wfdb import import_wfdb
from skecg.io.wfdb_header import WFDBHeader, parse_header
from skecg.io.wfdb_signals import unpack_212
from skecg.leads import EIGHT_LEADS
from skecg.records import millivolts_per_unit
from skecg.weights.folder import load_tensors, read_info

if TYPE_CHECKING:
    from random import Random

__all__ = ["Target", "targets"]

import_wfdb()
from wfdb.io import _header, _signal  # noqa: E402


class Target(NamedTuple):
    """A kind of input: how often it is drawn, how one is made, and what it is handed to."""

    share: int
    make: Callable[[Random], Any]
    check: Callable[[Any], str]


def targets(folder: Path) -> dict[str, Target]:
    """Return all targets; those that need files write them into a folder of their own, best in memory."""
    made = {
        "header": Target(6000, partial(_spoil_one, headers(), spoil_text), check_header),
        "steps": Target(1500, _steps, check_steps),
        "cache row": Target(1500, _row, check_row),
        "config": Target(500, partial(_spoil_one, _configs(), spoil_json), partial(check_config, _folder(folder, "w"))),
        "safetensors": Target(
            300, partial(_spoil_one, [(FIXTURES / "tiny-temporal" / "model.safetensors").read_bytes()],
                         spoil_safetensors), partial(check_safetensors, folder / "a.safetensors"),
        ),
        "wfdb": Target(100, partial(_spoil_layout, layouts()), partial(check_wfdb, _folder(folder, "r"))),
        "cache file": Target(5, partial(_spoil_one, [_database()], spoil_bytes), partial(check_cache, folder)),
        "checkpoint": Target(
            30, partial(_spoil_one, [_checkpoint()], spoil_bytes), partial(check_checkpoint, folder / "a.pth")
        ),
    }  # fmt: skip
    for suffix, bases in (tables() | _recordings(folder)).items():
        spoil = spoil_text if isinstance(bases[0], Text) else spoil_bytes
        share = 150 if suffix in ("csv", "npy") else 40
        made[suffix] = Target(share, partial(_spoil_one, bases, spoil), partial(check_file, folder / f"a.{suffix}"))
    return made


def _folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _spoil_one(bases: list[Any], spoil: Callable[[Random, Any], bytes], random: Random) -> bytes:
    return spoil(random, bases[int(random.random() * len(bases))])


# ---- WFDB headers, in memory


def check_header(content: bytes) -> str:
    """Parse a header, and compare every field that scales or places a signal with what wfdb understands."""
    try:
        header = parse_header(content, "rec.hea")
    except SkecgError:
        return "refused"
    if not content.isascii() or header.segments:
        return "read"  # wfdb drops what is not ASCII, and with it the micro of a unit
    lines = [line for text in content.decode().splitlines() if (line := text.strip()) and not line.startswith("#")]
    theirs = [_wfdb_record(lines[0]), *map(_wfdb_signal, lines[1:])]
    if _MADE_A_NAME.search(content):
        return "read"
    if None in theirs or len(theirs) - 1 != len(header.signals):
        return "read"  # wfdb refuses it
    assert _our_record(header) == theirs[0], f"read otherwise than by wfdb: {_our_record(header)} {theirs[0]}"
    for signal, other in zip(header.signals, theirs[1:], strict=True):
        if millivolts_per_unit(signal.units) is not None:  # others are left out, whatever they are
            assert _our_signal(signal) == other, f"read otherwise than by wfdb: {_our_signal(signal)} {other}"
    return "compared"


# A baseline with a decimal point and a number with a plus are read here; wfdb makes a name of them and of all after.
_MADE_A_NAME = re.compile(rb"\(-?\d+\.|[ \t]\+\d")


@lru_cache(maxsize=2**16)
def _wfdb_record(line: str) -> tuple[Any, ...] | None:
    """Return what wfdb understands of a record line: signals, rate, samples."""
    match = _header.rx_record.match(line)
    if match is None:
        return None
    rate, length = match["fs"], match["sig_len"]
    try:
        return int(match["n_sig"]), float(rate) if rate else 250.0, int(length) if length else 0
    except ValueError:
        return None


@lru_cache(maxsize=2**16)
def _wfdb_signal(line: str) -> tuple[Any, ...] | None:
    """Return what wfdb's own parser understands of a signal line."""
    try:
        found = {name: values[0] for name, values in _header._parse_signal_lines([line]).items()}
    except (_header.HeaderSyntaxError, ValueError):
        return None
    numbers = [found[name] or 0 for name in ("skew", "byte_offset")]
    name = found["sig_name"] or ""
    if re.match(r"\S+\s+\S+\s+\S+\s+-", line):
        # After a resolution below 0 every number is one place early, and the last of five begins the name.
        name = re.sub(r"^[+-]?\d{1,18}(?:\s+|$)", "", name)
    return (
        found["file_name"], int(found["fmt"]), found["samps_per_frame"] or 1, *numbers, found["adc_gain"],
        found["baseline"] or 0, found["units"], name,
    )  # fmt: skip


def _our_record(header: WFDBHeader) -> tuple[Any, ...]:
    return header.n_signals, header.sampling_rate, header.n_frames


def _our_signal(signal: Any) -> tuple[Any, ...]:
    return (
        signal.file_name, signal.storage_format, signal.samples_per_frame, signal.skew_frames, signal.byte_offset,
        signal.gain, signal.baseline, signal.units, signal.name,
    )  # fmt: skip


# ---- signal files, in memory and on disk


def _steps(random: Random) -> tuple[bytes, int]:
    n_steps = 1 + int(random.random() * 40)
    return random.randbytes(-(-n_steps * 3 // 2)), n_steps


def check_steps(packed: tuple[bytes, int]) -> str:
    """Unpack format 212 as wfdb does."""
    content = np.frombuffer(packed[0], np.uint8)
    ours = unpack_212(content, packed[1])
    theirs = _signal._blocks_to_samples(content, packed[1], "212")
    assert np.array_equal(ours, theirs), "unpacked otherwise than by wfdb"
    return "compared"


def _spoil_layout(bases: list[tuple[Text, bytes]], random: Random) -> tuple[bytes, bytes]:
    text, content = bases[int(random.random() * len(bases))]
    if random.getrandbits(1):
        return spoil_text(random, text), content
    return "".join(text.parts).encode(), spoil_bytes(random, content)


def check_wfdb(folder: Path, parts: tuple[bytes, bytes]) -> str:
    """Read a record of two files, and compare its voltages bit for bit with wfdb's where wfdb reads it too."""
    header = folder / "rec.hea"
    header.write_bytes(parts[0])
    (folder / "rec.dat").write_bytes(parts[1])
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record = read_record(header)
    except SkecgError:
        return "refused"
    foreign = [w for w in caught if not issubclass(w.category, SkecgWarning)]
    assert not [w for w in foreign if issubclass(w.category, RuntimeWarning)], [str(w.message) for w in foreign]
    assert not np.isinf(record.signal).any(), "infinite voltages"
    if caught or not parts[0].isascii() or _MADE_A_NAME.search(parts[0]):
        return "read"  # repaired, as the warning says, or in letters that wfdb drops
    ours = parse_header(parts[0], "rec.hea")
    rows = ecg_rows(tuple(signal.name for signal in ours.signals), tuple(signal.units for signal in ours.signals))
    theirs = _wfdb_millivolts(header, rows)
    if theirs is None:
        return "read"
    assert record.signal.shape == theirs[0].shape, (record.signal.shape, theirs[0].shape)
    assert np.array_equal(record.signal, theirs[0], equal_nan=True), "voltages other than wfdb's"
    assert math.isclose(record.sampling_rate, theirs[1], rel_tol=1e-12), (record.sampling_rate, theirs[1])
    return "compared"


def _wfdb_millivolts(header: Path, rows: tuple[int, ...]) -> tuple[np.ndarray, float] | None:
    """Return some signals as wfdb reads them, (n_leads, n_samples) in mV, and their rate."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = import_wfdb().rdrecord(str(header.with_suffix("")), smooth_frames=False)
            per_frame = {record.samps_per_frame[row] or 1 for row in rows}
            if any(record.skew) and {n or 1 for n in record.samps_per_frame} != {1}:
                return None  # which wfdb shifts by samples, where frames are meant
            if len(per_frame) > 1:
                # Of frames with a sample missing wfdb averages the code for it.
                lost = [np.isnan(v).reshape(record.sig_len, -1).any(axis=1) for v in record.e_p_signal]
                record = import_wfdb().rdrecord(str(header.with_suffix("")))
                signals, rate = np.where(lost, np.nan, record.p_signal.T), record.fs
            else:
                signals, rate = record.e_p_signal, record.fs * per_frame.pop()
            factors = [millivolts_per_unit(record.units[row]) or 0 for row in rows]
            with np.errstate(all="ignore"):
                found = [np.float32(signals[row] * factor) for row, factor in zip(rows, factors, strict=True)]
            return np.stack(found), rate
    except Exception:  # wfdb refuses in many ways
        return None


def check_file(path: Path, content: bytes) -> str:
    """Read a recording of any other format."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            record = read_record(path)
    except SkecgError:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", RuntimeWarning)
                record = read_record(path, sampling_rate=250, leads=["I", "II"])
        except SkecgError:
            return "refused"
    assert record.signal.dtype == np.float32
    assert record.signal.size <= 100 * max(len(content), 1000), "far more samples than the file has bytes"
    return "read"


def _recordings(folder: Path) -> dict[str, list[Any]]:
    """Return small recordings of other formats, by suffix, as the tests of their readers write them."""
    two, few = ("I", "II"), test_vendors.counts(2, 60)
    rows = [test_formats.edf_signal(row, name, rate=60) for name, row in zip(two, few, strict=True)]
    edf = test_formats.write_edf(folder / "a.edf", rows)
    dicom = test_formats.write_dicom(folder / "a.dcm", [test_formats.multiplex_group(few, test_formats.MEANINGS[:2])])
    eight = test_vendors.counts(8, 60)
    texts = [test_vendors.aecg(few, two), test_vendors.muse(eight, EIGHT_LEADS)]
    texts += [
        test_cardiosoft.write(folder / "a.xml", block(few, two)).read_bytes()
        for block in (test_cardiosoft.strip, test_cardiosoft.disclosure)
    ]
    return {
        "edf": [edf.read_bytes()],
        "dcm": [dicom.read_bytes()],
        "xml": [Text.of(text.decode()) for text in texts],
        "scp": [test_vendors.scp(few, two), test_vendors.scp(eight, EIGHT_LEADS, 2)],
        "ecg": [test_vendors.ishne(test_vendors.counts(3, 60), [6, 11, 15])],
        "mwf": [test_vendors.mfer(few, two)],
        "json": [Text.of(test_vendors.kardia(few, two).decode())],
    }


# ---- weights and checkpoints


def _configs() -> list[str]:
    return [(FIXTURES / name / "config.json").read_text() for name in ("tiny-temporal", "tiny-leadwise")]


def check_config(folder: Path, content: bytes) -> str:
    """Read the configuration of a weights folder."""
    (folder / "config.json").write_bytes(content)
    try:
        info = read_info(folder)
    except SkecgError:
        return "refused"
    json.dumps(info.encoder.to_dict()), json.dumps(info.spec.to_dict())
    assert len(info.digest) == 64
    return "read"


def check_safetensors(path: Path, content: bytes) -> str:
    """Read a file of tensors, none larger than the file."""
    path.write_bytes(content)
    try:
        tensors = load_tensors(path)
    except SkecgError:
        return "refused"
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(content)
    return "read"


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"encoder": {"pos_embed": torch.zeros(3, 4), "W_P.weight": torch.ones(4, 5)}, "epoch": 99}, buffer)
    return buffer.getvalue()


def check_checkpoint(path: Path, content: bytes) -> str:
    """Open a checkpoint of tensors and plain values."""
    path.write_bytes(content)
    try:
        open_checkpoint(path)
    except SkecgError:
        return "refused"
    return "read"


# ---- the cache


def _row(random: Random) -> tuple[Row, Row]:
    array = np.frombuffer(random.randbytes(4 * (1 + random.getrandbits(3))), "<f4")
    row = row_of(random.randbytes(32), array)
    field = random.choice(Row._fields)
    other: Any = random.choice([None, 3, 1.5, "text", b"", b"9999999999"])
    spoilt = spoil_bytes(random, getattr(row, field)) if random.random() < 0.9 else other
    return row, row._replace(**{field: spoilt})


def check_row(rows: tuple[Row, Row]) -> str:
    """Believe a row of the cache only if it is the one that was written."""
    sound, spoilt = rows
    if not is_sound(spoilt):
        return "refused"
    assert spoilt == sound, "a row that was altered is believed"
    assert array_of(spoilt).tobytes() == sound.value
    return "read"


_KEYS = [bytes([n]) * 32 for n in range(20)]


def _database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        cache = DiskCache(folder)
        cache.put({key: np.full(16, key[0], np.float32) for key in _KEYS})
        cache.close()
        return (Path(folder) / DATABASE_NAME).read_bytes()


def check_cache(folder: Path, content: bytes) -> str:
    """Look embeddings up in a file of the cache: those that were written, or none."""
    place = folder / "cache"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    (place / DATABASE_NAME).write_bytes(content)
    cache = DiskCache(place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = cache.get(_KEYS)
            cache.put({b"new": np.ones(3, np.float32)})
    except SkecgError:
        return "refused"
    finally:
        cache.close()
    for key, array in found.items():
        assert np.array_equal(array, np.full(16, key[0], np.float32)), "an embedding that was never written"
    return "read"
