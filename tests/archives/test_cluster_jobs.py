from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skecg import JEPAEmbedder
from skecg.archives.cluster import Assignment, ChunkJob, embed_chunk
from skecg.datasets import make_ecg
from skecg.errors import ParameterError

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Five records, the third of which is not there."""
    records = make_ecg(5, duration_seconds=4.0, sampling_rate=250, random_state=0).records
    for number, record in enumerate(records):
        if number != 2:
            np.savez(tmp_path / f"{number}.npz", signal=record.signal, sampling_rate=250, leads=record.leads)
    return [str(tmp_path / f"{number}.npz") for number in range(5)]


def test_a_chunk_counts_its_records_among_all(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skecg.inference.pipeline.CHUNK_RECORDS", 2)
    embedder = JEPAEmbedder(TINY, cache=None, on_bad_record="nan").fit(paths)

    result = embed_chunk(Assignment.of(embedder), ChunkJob(7, 700, paths))

    assert [failure.row for failure in result.failures] == [702]
    np.testing.assert_allclose(result.features, embedder.transform(paths), rtol=1e-5, atol=1e-6)


def test_what_travels_to_a_worker_is_small(paths: list[str]) -> None:
    assert len(pickle.dumps(Assignment.of(JEPAEmbedder(TINY).fit(paths)))) < 5_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"salt": b"another"}, "whose weights or options make other features"),
        ({"versions": ("99.0", "99.1")}, "expected skecg 99.0 and torch 99.1"),
    ],
)
def test_features_of_another_making_are_refused(change: dict[str, Any], message: str, paths: list[str]) -> None:
    assignment = replace(Assignment.of(JEPAEmbedder(TINY).fit(paths)), **change)

    with pytest.raises(ParameterError, match=message):
        embed_chunk(assignment, ChunkJob(0, 0, paths))
