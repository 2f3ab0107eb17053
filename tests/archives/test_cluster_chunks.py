from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skecg.archives.cluster import ChunkPlan, Share
from skecg.errors import ParameterError


@given(n_records=st.integers(0, 500), chunk_records=st.integers(1, 60), of=st.integers(1, 12))
def test_the_shares_of_a_plan_hold_every_record_exactly_once(n_records: int, chunk_records: int, of: int) -> None:
    plan = ChunkPlan(n_records, chunk_records)

    rows = [row for number in range(1, of + 1) for chunk in plan.of(Share(number, of)) for row in plan.rows(chunk)]

    assert sorted(rows) == list(range(n_records))


@given(n_records=st.integers(1, 500), chunk_records=st.integers(1, 60), of=st.integers(1, 12))
def test_shares_differ_by_one_chunk_at_most(n_records: int, chunk_records: int, of: int) -> None:
    plan = ChunkPlan(n_records, chunk_records)

    sizes = [len(plan.of(Share(number, of))) for number in range(1, of + 1)]

    assert max(sizes) - min(sizes) <= 1


@given(n_records=st.integers(1, 500), chunk_records=st.integers(1, 60))
def test_chunks_follow_each_other(n_records: int, chunk_records: int) -> None:
    plan = ChunkPlan(n_records, chunk_records)

    assert [row for chunk in range(len(plan)) for row in plan.rows(chunk)] == list(range(n_records))
    assert all(1 <= len(plan.rows(chunk)) <= chunk_records for chunk in range(len(plan)))


def test_a_share_reads_as_it_is_written() -> None:
    assert Share.parse("3/100") == Share(3, 100)
    assert str(Share.parse("003/100")) == "3/100"


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "1.0/4", "a/b", "1/", "/4", " 1/4"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="expected I/N with I from 1 to N"):
        Share.parse(text)


def test_a_chunk_holds_a_record() -> None:
    with pytest.raises(ParameterError, match="--chunk-records 0, expected 1 or more"):
        ChunkPlan(10, 0)
