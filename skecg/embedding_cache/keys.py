"""What names an embedding: the recording, and everything that shapes the result.

``key = sha256(recording, salt)`` and ``salt = sha256(weights, input spec, pooling, layer, stride, precision, ...)``.
Whatever is forgotten in the salt is a wrong answer later, so the salt takes anything and refuses what it cannot write
down exactly. What never leaves the process may have a faster hash. Why these: docs/decisions/0003-embedding-keys.md.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skecg.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skecg.records import ECGRecord

__all__ = ["FORMAT", "passing_key", "record_key", "remembered_key", "salt_of"]

#: Part of every salt. Raise it when the same weights and settings give other embeddings than before, beyond rounding.
FORMAT = 1

# Some 7 MB of names. A lock to drop them one by one would have to be minded across forks.
_MOST_REMEMBERED = 2**15
_remembered: dict[bytes, bytes] = {}
# Drawn once, before any two threads can draw one each: a record named by a lost one would be embedded again.
_SEED = secrets.randbits(64)


class _Digest(Protocol):
    """A hash that takes bytes as they come."""

    def update(self, data: Any, /) -> None: ...

    def digest(self) -> bytes: ...


def record_key(record: ECGRecord, salt: bytes) -> bytes:
    """Name the embedding of a record.

    Parameters
    ----------
    record : ECGRecord
        Its samples, shape, sampling rate and leads (in their order) count; its name does not.
    salt : bytes
        Everything else that shapes the embedding, from :func:`salt_of`.

    Returns
    -------
    bytes of length 32
        The same in every process and on every machine.

    Examples
    --------
    >>> from skecg import ECGRecord
    >>> salt = salt_of(weights="1f3a", pooling="mean")
    >>> key = record_key(ECGRecord(np.zeros((1, 500)), 500, ["II"], name="before"), salt)
    >>> key == record_key(ECGRecord(np.zeros((1, 500)), 500, ["II"], name="after"), salt)
    True
    >>> key == record_key(ECGRecord(np.zeros((1, 500)), 500, ["V2"]), salt)
    False
    """
    return _key(hashlib.sha256(), record, salt)


def passing_key(record: ECGRecord, salt: bytes) -> bytes:
    """Name the embedding of a record for as long as this process lives.

    Parameters
    ----------
    record, salt
        As in :func:`record_key`.

    Returns
    -------
    bytes of length 16 or 32
        XXH3 in 128 bits where the package ``xxhash`` is installed (the extra ``fast``), from a seed drawn by each
        process, so that nobody can know which recordings would share a name; otherwise :func:`record_key`.

    Examples
    --------
    >>> from skecg import ECGRecord
    >>> record = ECGRecord(np.zeros((1, 500)), 500, ["II"])
    >>> passing_key(record, b"salt") == passing_key(record, b"salt")
    True
    """
    new_digest = _xxh3()
    return record_key(record, salt) if new_digest is None else _key(new_digest(), record, salt)


def remembered_key(record: ECGRecord, salt: bytes) -> bytes:
    """Return :func:`record_key`, digested once a process for as many records as are remembered.

    Parameters
    ----------
    record, salt
        As in :func:`record_key`.

    Returns
    -------
    bytes of length 32
        What was remembered goes by :func:`passing_key`, where that is faster.
    """
    if _xxh3() is None:
        return record_key(record, salt)
    passing = passing_key(record, salt)
    lasting = _remembered.get(passing)
    if lasting is None:
        lasting = record_key(record, salt)
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[passing] = lasting
    return lasting


@functools.cache
def _xxh3() -> Callable[[], _Digest] | None:
    """Find the faster hash, with the seed of this process; None where it is not installed."""
    try:
        from xxhash import xxh3_128
    except ImportError:
        return None
    return functools.partial(xxh3_128, seed=_SEED)


def _key(digest: _Digest, record: ECGRecord, salt: bytes) -> bytes:
    """Digest a salt, what is known of a record, and its samples."""
    # A view's strides and a machine's byte order are not the record's.
    signal = np.ascontiguousarray(record.signal, dtype="<f4")
    for part in (salt, _about(signal.shape, record.sampling_rate, record.leads)):
        # Lengths keep the parts apart: no two different lists of parts make the same stream of bytes.
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(signal.reshape(-1).view(np.uint8).data)
    return digest.digest()


@functools.lru_cache(maxsize=1024)
def _about(shape: tuple[int, ...], sampling_rate: float, leads: tuple[str, ...]) -> bytes:
    """Write down what tells records of the same samples apart; most records of a data set have it in common."""
    return json.dumps(["<f4", shape, sampling_rate, leads]).encode()


def salt_of(**parts: object) -> bytes:
    """Digest everything besides the record that shapes an embedding.

    Parameters
    ----------
    **parts
        Numbers, strings, booleans, None, and lists, tuples and string-keyed dicts of these. The order of names does
        not matter; the version of the embedding format (:data:`FORMAT`) is always part of it.

    Returns
    -------
    bytes of length 32

    Raises
    ------
    ParameterError
        When a part cannot be written down exactly.

    Examples
    --------
    >>> salt_of(layer=-1, pooling="mean") == salt_of(pooling="mean", layer=-1)
    True
    >>> salt_of(layer=-1) == salt_of(layer=-2)
    False
    """
    text = json.dumps([FORMAT, _plain(parts, "")], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object, where: str) -> Any:
    """Return a value as JSON knows it, or refuse: falling back on ``repr`` would put memory addresses into keys."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, f"{where}.{name}" if where else name) for name, item in value.items()}
    raise ParameterError(
        f"Got {where}={value!r} ({type(value).__name__}), expected numbers, strings, booleans, None, or lists and "
        "string-keyed dicts of them. Write it as one of these so that it can be part of a key."
    )
