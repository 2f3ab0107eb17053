"""What names an embedding: the recording, and everything that shapes the result.

``key = sha256(recording, salt)`` and ``salt = sha256(weights, input spec, pooling, layer, stride, precision, ...)``.
Whatever is forgotten in the salt is a wrong answer later, so the salt takes anything and refuses what it cannot write
down exactly. Why SHA-256: docs/decisions/0003-embedding-keys.md.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import ParameterError

if TYPE_CHECKING:
    from skecg.records import ECGRecord

__all__ = ["FORMAT", "record_key", "salt_of"]

#: Part of every salt. Raise it when the same weights and settings give other embeddings than before.
FORMAT = 1


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
    signal = np.ascontiguousarray(record.signal, dtype="<f4")
    about = json.dumps(["<f4", signal.shape, record.sampling_rate, record.leads]).encode()
    digest = hashlib.sha256()
    for part in (salt, about):
        # Lengths keep the parts apart: no two different lists of parts make the same stream of bytes.
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(signal.reshape(-1).view(np.uint8).data)
    return digest.digest()


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
    """Give a value as JSON knows it, or refuse: falling back on ``repr`` would put memory addresses into keys."""
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
