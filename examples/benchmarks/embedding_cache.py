"""What the embedding cache costs a record: hashes that could name it, the name, putting and looking up.

Run ``python examples/benchmarks/embedding_cache.py [--records 1024] [--passes 15] [--tiny]``. Records have 12 leads of
5,000 float32 samples; embeddings are the default model's 1,188 numbers. One thread, its processor time, the best pass
of those in which all take turns, so that hashes are compared in the same minute. xxHash is in the table, and names
records in memory, where the package ``xxhash`` is installed. Look-ups are in batches of 64, as the embedder makes
them, and one by one. Why these hashes were chosen: docs/decisions/0003-embedding-keys.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import tempfile
import zlib
from functools import partial
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import numpy as np
from encoders import fastest

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.embedding_cache import DiskCache, MemoryCache, passing_key, record_key
from skecg.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skecg.embedding_cache import EmbeddingCache

BATCH = 64
N_HASHED = 32  # more than the second-level cache holds


def hashes() -> dict[str, tuple[int, Callable[[memoryview], object]]]:
    """Name what could digest a record: bits of the digest, and the function."""
    found: dict[str, tuple[int, Callable[[memoryview], object]]] = {
        "sha256 (on disk)": (256, lambda data: hashlib.sha256(data).digest()),
        "blake2b": (256, lambda data: hashlib.blake2b(data, digest_size=32).digest()),
        "blake2s": (256, lambda data: hashlib.blake2s(data).digest()),
        "sha512": (512, lambda data: hashlib.sha512(data).digest()),
        "sha3_256": (256, lambda data: hashlib.sha3_256(data).digest()),
        "sha1 (broken)": (160, lambda data: hashlib.sha1(data, usedforsecurity=False).digest()),
        "md5 (broken)": (128, lambda data: hashlib.md5(data, usedforsecurity=False).digest()),
        "zlib.crc32": (32, zlib.crc32),
        "zlib.adler32": (32, zlib.adler32),
    }
    try:
        xxhash = importlib.import_module("xxhash")
    except ImportError:
        return found
    return {**found, "xxh3_128 (in memory)": (128, xxhash.xxh3_128_digest), "xxh3_64": (64, xxhash.xxh3_64_digest)}


def show_hashes(passes: int) -> None:
    signals = np.random.default_rng(0).standard_normal((N_HASHED, 12, 5000)).astype(np.float32)
    records = [ECGRecord(signal, 500, CANONICAL_LEADS) for signal in signals]
    views = [signal.reshape(-1).view(np.uint8).data for signal in signals]
    candidates = hashes()
    runs: dict[str, Callable[[], object]] = {
        name: partial(lambda digest: [digest(view) for view in views], digest)
        for name, (_, digest) in candidates.items()
    }
    for name in (record_key, passing_key):
        runs[name.__name__] = partial(lambda name: [name(record, b"salt") for record in records], name)
    times = fastest(runs, passes)
    print(f"{'hash of 240,000 bytes':<24}{'bits':>6}{'us':>8}{'GB/s':>7}")
    for name in sorted(candidates, key=times.__getitem__):
        each = times[name] / N_HASHED
        print(f"{name:<24}{candidates[name][0]:>6}{each * 1e6:>8.1f}{signals[0].nbytes / each / 1e9:>7.2f}")
    on_disk, in_memory = (times[name] / N_HASHED * 1e6 for name in ("record_key", "passing_key"))
    print(f"\nthe whole name of a record: {on_disk:.1f} us on disk, {in_memory:.1f} us in memory (aim: under 150)")


def look_up(cache: EmbeddingCache, keys: Sequence[bytes], at_once: int) -> None:
    for start in range(0, len(keys), at_once):
        cache.get(keys[start : start + at_once])


def put(cache: EmbeddingCache, keys: Sequence[bytes], vectors: np.ndarray) -> None:
    for start in range(0, len(keys), BATCH):
        cache.put(dict(zip(keys[start : start + BATCH], vectors[start : start + BATCH], strict=True)))


def show_look_ups(folder: str, n_records: int, n_features: int, passes: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((n_records, n_features)).astype(np.float32)
    keys, absent = (some_keys(first, n_records) for first in (0, n_records))
    caches: dict[str, EmbeddingCache] = {"memory": MemoryCache(), "disk": DiskCache(folder)}
    head = f"{'us a record':<12}{'put':>8}{f'get {BATCH}':>9}{'get 1':>8}{'absent':>8}"
    print(f"\n{head}   (aim of get: under 30)")
    for name, cache in caches.items():
        times = fastest(
            {
                "put": partial(put, cache, keys, vectors),
                "get 64": partial(look_up, cache, keys, BATCH),
                "get 1": partial(look_up, cache, keys, 1),
                "absent": partial(look_up, cache, absent, BATCH),
            },
            passes,
        )
        each = {run: taken / n_records * 1e6 for run, taken in times.items()}
        numbers = f"{each['put']:>8.1f}{each['get 64']:>9.1f}{each['get 1']:>8.1f}{each['absent']:>8.1f}"
        print(f"{name:<12}{numbers}")


def some_keys(first: int, n_keys: int) -> list[bytes]:
    return [hashlib.sha256(number.to_bytes(8, "little")).digest() for number in range(first, first + n_keys)]


def show_embedder(folder: str, model: str, n_records: int, passes: int) -> None:
    """Time the embedder on records that it has embedded before, and with nothing to find."""
    records = make_ecg(n_records, random_state=0).records
    embedders = {
        "not cached": JEPAEmbedder(model, cache=None, device="cpu", n_jobs=1),
        "memory": JEPAEmbedder(model, cache=MemoryCache(), device="cpu", n_jobs=1),
        "disk": JEPAEmbedder(model, cache=folder, device="cpu", n_jobs=1),
    }
    runs = {name: partial(embedder.fit_transform, records) for name, embedder in embedders.items()}
    times = fastest(runs, max(1, passes // 5))
    print(f"\n{'embedder':<12}{'us a record':>13}")
    for name, taken in times.items():
        print(f"{name:<12}{taken / n_records * 1e6:>13.1f}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--model", default="default")
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument("--tiny", action="store_true", help="few records, to see that it runs")
    given = parser.parse_args(arguments)
    n_records, passes = (64, 1) if given.tiny else (given.records, given.passes)
    show_hashes(passes)
    with tempfile.TemporaryDirectory() as folder:
        show_look_ups(f"{folder}/store", n_records, 1188, passes)
        show_embedder(f"{folder}/embedder", given.model, n_records // 8, passes)


if __name__ == "__main__":
    main()
