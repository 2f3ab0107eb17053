"""Sound inputs of every kind that skecg reads, and ways to spoil them that keep most of their structure.

A spoilt input is a function of a random generator alone, so that a seed and a number give it again.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from random import Random

__all__ = ["Text", "headers", "layouts", "spoil_bytes", "spoil_json", "spoil_safetensors", "spoil_text", "tables"]

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"

# fmt: off
NUMBERS = (
    "0", "1", "-1", "2", "7", "12", "16", "80", "200", "212", "250", "500", "1000", "1024", "-32768", "32767",
    "65536", "4294967296", "99999999999999999999", "1e3", "1e-3", "1e300", "1e-320", "1e999", "-0", "0.0", ".5",
    "5.", "+3", "0x10", "1_000", "1,5", "nan", "inf", "-inf", "10:11", "٣", "1e", "00012", "9007199254740993",
    "360.0000001", "0.1",
)
WORDS = (
    "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V6", "MLII", "mV", "uV", "µV", "V", "mW", "mV_", "/mV", "/uV",
    "(0)", "(1024)", "(-5)/mV", "200(0)/mV", "200/mV", "1e3/uV", "rec", "rec/2", "rec.dat", "../rec.dat",
    "/etc/hosts", "~", "-", ".", "#", "x2", ":3", "+24", "16x2:1+4", "8", "61", "160", "310", "311", "508", "516",
    "524", "500/2(3)", "500/2", "null", "true", "=1+1", "\x1b[2J", "\x00", "ü", "\u202e", "\ufeff", "\r", "\x0b",
    "\x85", "RESP", "SpO2", "time", ";", ",", "\t", "{}", "[]", "\"", "'",
)
# fmt: on
_SPLIT = re.compile(r"([\s/()x:+,;=<>\"'{}\[\]]+)")


class Text(NamedTuple):
    """A text and its words, with what lies between them."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        """Divide a text."""
        return cls(tuple(_SPLIT.split(text)))


def headers() -> list[Text]:
    """Return WFDB headers as archives have them, and as the grammar allows."""
    return [Text.of(text) for text in _HEADERS]


_HEADERS = [
    "rec 2 500 100\nrec.dat 16 1000/mV 16 0 -12 3 0 I\nrec.dat 16 1000/mV 16 0 5 9 0 II\n# Age: 50\n",
    "rec 2 360 100 10:11:12 13/12/1941\nrec.dat 212 200 11 1024 995 -22131 0 MLII\n"
    "rec.dat 212 200 11 1024 1011 20052 0 V5\n",
    "rec 3 1000.5/250(12) 40\nrec.dat 16+24 1.0(0)/uV 16 0 0 0 0 I\nrec.dat 16+24 2e3(-7)/V 16 0 0 0 0 II\n"
    "other.dat 80 100/mV 8 0 0 0 0 RESP\n",
    "rec 1 250\nrec.dat 16x4:2+16 -200.5(12)/mV 12 3 4 5 6 a name of several words\n",
    "rec 1\nrec.dat 8\n",
    "rec/2 2 250 200\nrec_1 100\n~ 100\n",
    "rec 12 500 50\n" + "".join(f"rec.dat 16 4880/mV 0 0 {i} {i} 0 {n}\n" for i, n in enumerate(CANONICAL_LEADS)),
]  # fmt: skip


def layouts() -> list[tuple[Text, bytes]]:
    """Return headers whose signals, small ones, all lie in rec.dat, and the bytes of these."""
    random = np.random.default_rng(0)
    content = random.integers(0, 256, 400, dtype=np.uint8).tobytes()
    texts = [_HEADERS[0].replace(" 100\n", " 40\n", 1), _HEADERS[1].replace("360 100", "360 40", 1)]
    for storage in ("8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "16x2", "212x3", "80x2", "16:1"):
        lines = [
            f"rec.dat {storage} {scale} 12 3 0 0 0 {lead}" for scale, lead in (("200(5)/mV", "I"), ("1e2/uV", "V2"))
        ]
        texts.append("\n".join(["rec 2 250 20", *lines]))
    return [(Text.of(text), content) for text in texts]


def tables() -> dict[str, list[Any]]:
    """Return small tables and arrays, by suffix: text divided into words, and bytes."""
    signal = np.random.default_rng(0).normal(0, 0.2, (2, 30)).astype(np.float32)
    rows = ["I (mV),II (mV)", *(f"{a:.4f},{b:.4f}" for a, b in signal.T)]
    timed = ["time;ecg [uV]", *(f"{i * 4};{int(a * 1e3)}" for i, a in enumerate(signal[0]))]
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, signal)
    np.savez(npz, signal=signal, sampling_rate=250, leads=np.array(["I", "II"]), units=np.array("mV"))
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("signal.npy", npy.getvalue())
    return {
        "csv": [Text.of("\n".join(rows)), Text.of("\n".join(timed)), Text.of("\n".join(rows[1:]).replace(",", "\t"))],
        "npy": [npy.getvalue()],
        "npz": [npz.getvalue(), deflated.getvalue()],
    }


def spoil_text(random: Random, text: Text) -> bytes:
    """Return a text with words exchanged, lines lost, doubled or moved, and now and then any byte at all."""
    parts = list(text.parts)
    for _ in range(1 + random.getrandbits(1)):
        at = int(random.random() * len(parts))
        kind = random.getrandbits(3)
        if kind < 3:
            parts[at & ~1] = _word(random)
        elif kind < 5:
            parts[at] += _word(random)
        elif kind == 5:
            parts[at] = ""
        elif kind == 6:
            other = int(random.random() * len(parts))
            parts[at & ~1], parts[other & ~1] = parts[other & ~1], parts[at & ~1]
        else:
            stop = at + 2 + int(random.random() * 12)
            parts[at:stop] = parts[at:stop] * random.getrandbits(1)
            if not parts:
                return b""
    content = "".join(parts).encode("utf-8", "surrogatepass")
    return spoil_bytes(random, content) if random.random() < 0.1 else content


def _word(random: Random) -> str:
    words = NUMBERS if random.getrandbits(1) else WORDS
    return words[int(random.random() * len(words))]


def spoil_bytes(random: Random, content: bytes) -> bytes:
    """Return bytes with some changed, cut off, doubled, or overwritten by an extreme number."""
    spoilt = bytearray(content)
    for _ in range(1 + random.getrandbits(2)):
        if not spoilt:
            break
        at, kind = int(random.random() * len(spoilt)), random.getrandbits(3)
        if kind < 4:
            spoilt[at] = random.getrandbits(8)
        elif kind == 4:
            number = (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)[int(random.random() * 6)]
            size = 2 << random.getrandbits(1) if random.getrandbits(1) else 8
            spoilt[at : at + size] = (number & (256**size - 1)).to_bytes(size, "little")
        elif kind == 5:
            del spoilt[at : at + 1 + random.getrandbits(4)]
        elif kind == 6:
            spoilt[at:at] = spoilt[at : at + 1 + random.getrandbits(6)]
        elif random.getrandbits(1):
            del spoilt[at:]
    return bytes(spoilt)


_VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2**31, 2**63, 10**30, 1e308, float("inf"), float("nan"), "", "x", "\x1b[2J",
    "../../etc/passwd", [], {}, [[]], {"a": 1}, ["I", "II"], [0, 0], [4, 2**62], "F32", "F64",
    "temporal", "zscore", "I", 0.5, 250,
)  # fmt: skip


def spoil_json(random: Random, text: str) -> bytes:
    """Return JSON with a value exchanged, lost, doubled, or nested deeply."""
    tree = json.loads(text)
    node: Any = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = random.choice(keys)
        if not isinstance(node[key], dict | list) or random.random() < 0.15:
            _change(random, node, key)
            break
        node = node[key]
    content = json.dumps(tree)
    if random.random() < 0.02:
        content = content.replace("]", "[" * 2000 + "]", 1)
    return spoil_bytes(random, content.encode()) if random.random() < 0.1 else content.encode()


def _change(random: Random, node: Any, key: Any) -> None:
    kind = random.getrandbits(2)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[str(random.choice(_VALUES))] = node[key]
    elif kind == 2 and isinstance(node[key], int | float):
        node[key] = node[key] * random.choice([-1, 0, 2, 1.5, 10**6]) if not isinstance(node[key], bool) else 2
    else:
        node[key] = random.choice(_VALUES)


def spoil_safetensors(random: Random, content: bytes) -> bytes:
    """Return a safetensors file whose header, or what follows it, is spoilt, mostly with a length that fits."""
    length = int.from_bytes(content[:8], "little")
    if random.random() < 0.3:
        return spoil_bytes(random, content)
    header = spoil_json(random, content[8 : 8 + length].decode())
    stated = len(header) if random.random() < 0.9 else random.choice([0, 1, 2**31, 2**62, len(header) + 8])
    return struct.pack("<Q", stated) + header + content[8 + length :]
