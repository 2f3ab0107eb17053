"""Leads on their way to a device: steps where they are known, the same millivolts to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from skecg.inference.batches import held_bytes
from skecg.io.wfdb_signals import DigitizedRecord
from skecg.preprocessing.on_device import Leads, gather_groups
from skecg.preprocessing.quality import Policies, record_label, screen
from skecg.records import ECGRecord
from skecg.spec import InputSpec

CPU = torch.device("cpu")
LEADS = ("I", "II", "V1", "V5")
SPEC = InputSpec(LEADS, 250, 500, any_leads=True)
BYTES = 2**25


def digitized(
    leads: Sequence[str] = LEADS,
    n_samples: int = 1000,
    rate: float = 500,
    seed: int = 0,
    columns: Sequence[int] | None = None,
) -> DigitizedRecord:
    """Steps at gains and baselines of all kinds, in a file that may have other signals between the leads."""
    random = np.random.default_rng(seed)
    columns = tuple(range(len(leads)) if columns is None else columns)
    n_columns = max(columns) + 1
    steps = random.integers(-3000, 3000, (n_samples, n_columns)).astype(np.int16)
    gains = random.choice([200.0, 1000.0, 204.8, 4.88], n_columns).astype(np.float32)
    baselines = random.integers(-9000, 9000, n_columns).astype(np.float32)
    signal = ((steps.astype(np.float32) - baselines) / gains).T[list(columns)]
    return DigitizedRecord(
        signal, rate, leads, f"r{seed}", steps=steps, columns=columns, baselines=baselines, gains=gains
    )


def undigitized(record: DigitizedRecord) -> ECGRecord:
    return ECGRecord(record.signal, record.sampling_rate, record.leads, record.name)


def gathered(records: Sequence[ECGRecord], spec: InputSpec = SPEC, missing: str = "subset") -> list[Leads]:
    policies = Policies(missing)
    screenings = [screen(record, spec, policies, record_label(record)) for record in records]
    return list(gather_groups(records, screenings, spec, BYTES, pinned=False))


def by_number(groups: Sequence[Leads]) -> dict[int, torch.Tensor]:
    return {i: row for group in groups for i, row in zip(group.numbers, group.millivolts(CPU), strict=True)}


def assert_same_bits(records: Sequence[ECGRecord], spec: InputSpec = SPEC) -> list[Leads]:
    """Hold what steps give to what the same records give without them."""
    groups = gathered(records, spec)
    plain = gathered([undigitized(r) if isinstance(r, DigitizedRecord) else r for r in records], spec)
    found, wanted = by_number(groups), by_number(plain)
    assert found.keys() == wanted.keys() == set(range(len(records)))
    for i, leads in found.items():
        assert leads.dtype == torch.float32
        assert leads.shape == (spec.n_leads, records[i].n_samples)
        assert torch.equal(leads, wanted[i])
    return groups


def test_steps_travel_in_half_the_bytes_and_give_the_same_millivolts() -> None:
    (group,) = assert_same_bits([digitized(seed=seed) for seed in range(5)])
    assert group.values.dtype == torch.int16
    assert group.values.shape == (5, 1000, 4)


def test_leads_in_another_order_and_among_other_signals_are_found() -> None:
    records = [
        digitized(),
        digitized(("V5", "II", "I", "V1"), seed=1),
        digitized(seed=2, columns=[0, 2, 3, 5]),
        digitized(seed=3),
    ]
    groups = assert_same_bits(records)
    assert [group.numbers for group in groups] == [[0, 3], [1], [2]]
    assert all(group.values.dtype == torch.int16 for group in groups)


def test_leads_that_are_absent_are_zeros() -> None:
    groups = assert_same_bits([digitized(("V5", "I")), digitized(("V5", "I"), seed=1)])
    assert groups[0].values.dtype == torch.int16
    assert (groups[0].millivolts(CPU)[:, [1, 2]] == 0).all()
    assert (groups[0].millivolts(CPU)[:, [0, 3]] != 0).any(dim=-1).all()


def test_leads_that_are_derived_travel_as_millivolts() -> None:
    (group,) = assert_same_bits([digitized(("II", "III", "V1", "V5"))])
    assert group.values.dtype == torch.float32


def test_steps_stay_where_most_of_them_are_of_no_use() -> None:
    spec = replace(SPEC, leads=("II", "V1"))
    groups = assert_same_bits([digitized(), digitized(("I", "II", "V1"), seed=1)], spec)
    assert [group.values.dtype for group in groups] == [torch.float32, torch.int16]


def test_records_with_steps_and_without_go_beside_each_other() -> None:
    records = [digitized(), undigitized(digitized(seed=1)), digitized(n_samples=900, seed=2), digitized(seed=3)]
    groups = assert_same_bits(records)
    assert [(group.numbers, group.values.dtype) for group in groups] == [
        ([0, 3], torch.int16),
        ([1], torch.float32),
        ([2], torch.int16),
    ]


def test_every_step_there_is_gives_the_same_millivolts() -> None:
    steps = np.arange(-(2**15), 2**15, dtype=np.int16)[:, np.newaxis]
    for gain, baseline in [(1000, 0), (4.88, -7), (-200, 2**23), (1e-6, 0)]:
        scale = {"baselines": np.float32([baseline]), "gains": np.float32([gain])}
        signal = ((steps.astype(np.float32) - scale["baselines"]) / scale["gains"]).T
        record = DigitizedRecord(signal, 500, ["II"], steps=steps, columns=(0,), **scale)
        (group,) = assert_same_bits([record], replace(SPEC, leads=("II",)))
        assert group.values.dtype == torch.int16


def test_steps_are_counted_among_what_is_held() -> None:
    record = digitized(columns=[0, 1, 2, 6])
    assert held_bytes(undigitized(record)) == 4 * 4 * 1000
    assert held_bytes(record) == 4 * 4 * 1000 + 2 * 7 * 1000


def test_sending_where_nothing_is_to_be_fetched_changes_nothing() -> None:
    (group,) = gathered([digitized()])
    assert group.send(CPU) is group
    # Not pinned: a device could not fetch it by itself.
    assert group.send(torch.device("cuda")) is group


def test_what_a_device_has_no_room_for_now_waits_here(monkeypatch: pytest.MonkeyPatch) -> None:
    (group,) = gathered([digitized()])

    def refuse(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("skecg.preprocessing.on_device._transfers", lambda _: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    monkeypatch.setattr(torch.Tensor, "to", refuse)
    assert group.send(torch.device("cuda:0")) is group


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_what_a_device_fetched_beside_its_work_is_what_was_sent() -> None:
    device = torch.device("cuda:0")
    records = [digitized(seed=seed) for seed in range(64)]
    policies = Policies("subset")
    screenings = [screen(record, SPEC, policies, record_label(record)) for record in records]
    wanted = by_number(gathered(records))
    busy = torch.randn(4096, 4096, device=device)
    for _ in range(20):
        groups = list(gather_groups(records, screenings, SPEC, BYTES, pinned=True))
        busy = torch.tanh(busy @ busy)
        sent = [group.send(device) for group in groups]
        assert all(group.sent is not None and group.values.is_cuda for group in sent)
        del groups
        for group in sent:
            for i, leads in zip(group.numbers, group.millivolts(device).cpu(), strict=True):
                assert torch.equal(leads, wanted[i])
