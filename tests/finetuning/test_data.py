"""Records show all of their windows in time, one an epoch, and parts of a batch weigh what they are of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import ECGRecord
from skecg.datasets import make_ecg
from skecg.finetuning.data import PreparedWindows, RecordBatches, TokenInputs, WindowInputs, record_logits
from skecg.finetuning.heads import Network, build_head, copied_encoder
from skecg.finetuning.losses import ClassLabels, validation_score
from skecg.preprocessing.windows import prepare
from skecg.weights import read_info

INFO = read_info(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
CPU = torch.device("cpu")
WHOLE = make_ecg(9, duration_seconds=10, sampling_rate=100, random_state=4).records
# One to four windows of 2.5 s each, the last of three records shorter than a window.
RECORDS = [
    ECGRecord(record.signal[:, : 250 * (1 + i % 4) - 60 * (i % 4 == 0)], 100, record.leads)
    for i, record in enumerate(WHOLE)
]


@pytest.fixture
def inputs() -> WindowInputs:
    chunks = [prepare(RECORDS[:4], INFO.spec), prepare(RECORDS[4:], INFO.spec)]
    return WindowInputs(PreparedWindows(chunks, INFO.encoder.patch_samples), CPU)


def network(head: str = "linear") -> Network:
    encoder = copied_encoder(INFO)
    made = Network(encoder, build_head(head, encoder, 2, "mean", seed=3)).eval()
    torch.nn.init.normal_(made.head.linear.weight, generator=torch.Generator().manual_seed(0))
    return made


def batches_of(inputs: WindowInputs, **parameters) -> RecordBatches:
    options = {"weight": np.ones((9, 1)), "joint": False, "batch_size": 4} | parameters
    labels = ClassLabels(np.arange(18).reshape(9, 2) % 3 == 0, options["weight"], options["joint"])
    return RecordBatches(inputs, np.arange(1, 9), labels, options["batch_size"])


def test_an_epoch_shows_each_record_once_and_epochs_show_all_its_windows(inputs: WindowInputs) -> None:
    rng, shown = np.random.default_rng(0), set()
    for _ in range(60):
        batches = batches_of(inputs).epoch(rng)
        rows = np.concatenate([part.rows for batch in batches for part in batch])
        assert sorted(inputs.windows.owner[rows]) == list(range(1, 9))
        assert [sum(len(part.rows) for part in batch) for batch in batches] == [4, 4]
        shown |= set(rows.tolist())

    assert shown == set(np.flatnonzero(inputs.windows.owner >= 1).tolist())


@pytest.mark.parametrize("joint", [False, True])
def test_the_parts_of_a_batch_add_up_to_its_mean_loss(inputs: WindowInputs, joint: bool) -> None:
    weight = np.linspace(0.5, 2, 9)[:, None]
    taught = batches_of(inputs, weight=weight, joint=joint, batch_size=8)
    (batch,) = taught.epoch(np.random.default_rng(1))
    assert len(batch) > 1  # short windows travel by themselves

    found = sum(taught.loss(network(), part).item() for part in batch)

    expected = 0.0
    for part in batch:
        for row in part.rows:
            record = inputs.windows.owner[row]
            logits = inputs.outputs(network(), np.array([row])).detach()
            truth = torch.tensor(taught.labels.has[record : record + 1]).float()
            loss = (
                -(logits.log_softmax(dim=1) * truth).sum()
                if joint
                else torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
            )
            expected += weight[record, 0] * loss.item() / 8
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_tokens_that_are_kept_give_the_networks_answers(inputs: WindowInputs, head: str) -> None:
    whole = network(head)
    kept = TokenInputs(inputs.windows, whole.encoder, CPU, n_jobs=1)

    answers = [record_logits(whole, source, [0, 3, 5], precision="fp32", n_jobs=1) for source in (inputs, kept)]

    np.testing.assert_allclose(*answers, atol=5e-3)


def test_windows_of_several_chunks_are_found_by_their_numbers(inputs: WindowInputs) -> None:
    together = PreparedWindows([prepare(RECORDS, INFO.spec)], INFO.encoder.patch_samples)

    np.testing.assert_array_equal(inputs.windows.owner, together.owner)
    assert inputs.windows.n_records == 9
    for part in inputs.windows.micro_batches(np.arange(len(together)), 3):
        assert len(part) <= 3
        values, leads = inputs.windows.take(part)
        assert torch.equal(values, together.take(part)[0])
        assert leads is None
        assert set(inputs.windows.valid_samples[part] > values.shape[2] - 25) == {True}
    assert inputs.windows.of_record(5).tolist() == np.flatnonzero(together.owner == 5).tolist()


def test_scores_are_areas_under_the_curve_and_the_log_loss_where_there_is_none() -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    has = rng.random((50, 3)) < 0.3
    logits = np.round(has + rng.normal(size=(50, 3)), 1)  # with ties
    assert validation_score(has, logits, joint=False)[0] == pytest.approx(roc_auc_score(has, logits))

    classes = rng.integers(3, size=50)
    one_hot = np.eye(3, dtype=bool)[classes]
    logits = rng.normal(size=(50, 3))
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score, rest = validation_score(one_hot, logits, joint=True)
    assert score == pytest.approx(roc_auc_score(classes, proba, multi_class="ovr"))
    assert rest == pytest.approx(-log_loss(classes, proba))

    alike = np.ones((50, 1), bool)
    score, rest = validation_score(alike, logits[:, :1], joint=False)
    assert score == rest == pytest.approx(-np.log1p(np.exp(-logits[:, 0])).mean())
    # A label that all have is left out of the mean over the others.
    both = np.column_stack([has, alike])
    assert validation_score(both, logits[:, [0, 1, 2, 0]], joint=False)[0] == pytest.approx(roc_auc_score(has, logits))
    assert validation_score(has, logits * np.nan, joint=False) == (-np.inf, -np.inf)
