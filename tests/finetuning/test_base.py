"""What all fine-tuned estimators share, shown by the smallest of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from skecg import ECGRecord, FineTunedClassifier, FineTunedRegressor, JEPAEmbedder, Segmenter
from skecg.datasets import make_ecg
from skecg.encoders import build_encoder
from skecg.encoders.xlstm import XlstmConfig
from skecg.errors import BadSignalError, InputError, ParameterError, WeightsFormatError
from skecg.finetuning.heads import AttentionHead, Network, build_head
from skecg.finetuning.losses import Numbers
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import prepare_chunks
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies
from skecg.preprocessing.windows import prepare
from skecg.weights import find_weights

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
RECORDS, LABELS = make_ecg(24, duration_seconds=5, sampling_rate=100, rhythm=["sinus", "af"], random_state=2)
AF = np.array(LABELS["rhythm"]) == "af"


def regressor(**parameters: Any) -> FineTunedRegressor:
    defaults = {"head": "attention", "epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "validation_fraction": 0.25}
    return FineTunedRegressor(TINY, **{**defaults, **parameters})


def test_weights_of_a_third_kind_serve_an_embedder(tmp_path: Path) -> None:
    regressor(epochs=1, stages="all").fit(RECORDS, AF).save(tmp_path)
    assert JEPAEmbedder(tmp_path, cache=None).fit_transform(RECORDS[:2]).shape[0] == 2


def test_a_head_that_was_saved_of_another_shape_is_refused(tmp_path: Path) -> None:
    FineTunedClassifier(TINY, head="attention", epochs=1, stages="all").fit(RECORDS, AF).save(tmp_path)
    text = (tmp_path / "classifier.json").read_text(encoding="utf-8")
    (tmp_path / "classifier.json").write_text(text.replace('"head": "attention"', '"head": "linear"'), encoding="utf-8")

    with pytest.raises(WeightsFormatError, match=r"malformed, or not of head\.safetensors"):
        FineTunedClassifier.load(tmp_path)


def test_parameters_and_groups_are_checked_before_any_record_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordSource, "read", lambda *_, **__: pytest.fail("read a record"))
    for parameters in ({"stages": "both"}, {"epochs": 0}, {"validation_fraction": 1}, {"stride": 0}, {"device": "gpu"}):
        with pytest.raises(ParameterError, match=next(iter(parameters))):
            regressor(**parameters).fit(RECORDS, AF)
    with pytest.raises(ParameterError, match="groups of shape"):
        regressor().fit(RECORDS, AF, groups=[1, 2])


@pytest.mark.parametrize("estimator", [FineTunedClassifier, FineTunedRegressor, Segmenter])
@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0", np.random.default_rng(0)])
def test_a_seed_that_makes_no_generator_is_refused_before_any_record_is_read(
    estimator: type[Any], seed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordSource, "read", lambda *_, **__: pytest.fail("read a record"))
    with pytest.raises(ParameterError, match=r"Got random_state=.*expected None, an integer from 0 to 4294967295"):
        estimator(TINY, random_state=seed).fit(RECORDS, AF)


@pytest.mark.parametrize("seed", [None, 2**32 - 1, np.int64(3), np.random.RandomState(0)])
def test_seeds_and_generators_of_scikit_learn_are_taken(seed: Any) -> None:
    FineTunedClassifier(TINY, random_state=seed, stages="head").fit(RECORDS, AF)


@pytest.mark.parametrize(
    ("estimator", "y", "message"),
    [
        (FineTunedClassifier, 3, "Got y=3, a single value, expected a sequence with a label"),
        (FineTunedClassifier, "abc", "Got y='abc', a single value"),
        (FineTunedRegressor, 3.0, "Got y=3.0, a single value, expected a sequence with a number"),
        (FineTunedRegressor, "abc", "expected finite numbers"),
        (Segmenter, dict.fromkeys(range(24), np.zeros(500, int)), "y of type dict, expected a sequence"),
        (Segmenter, set(range(24)), "y of type set, expected a sequence"),
        (Segmenter, "a" * 24, "y of type str, expected a sequence"),
        (Segmenter, pd.DataFrame(np.zeros((24, 24), int)), "y of type DataFrame, expected a sequence"),
        (Segmenter, [np.full(500, "N")] * 24, r"y\[0\] of dtype <U1 with values such as N, expected integers"),
        (Segmenter, [[0] * 500, ["N"] * 500] * 12, r"y\[1\] of dtype <U1 with values such as N, expected integers"),
    ],
)
def test_a_y_that_is_no_sequence_of_labels_is_refused_before_any_record_is_read(
    estimator: type[Any], y: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordSource, "read", lambda *_, **__: pytest.fail("read a record"))
    with pytest.raises(InputError, match=message):
        estimator(TINY).fit(RECORDS, y)


def test_what_an_interrupted_first_stage_has_learned_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def interrupted(self: Numbers, logits: NDArray[np.float64], records: NDArray[np.intp]) -> float:
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return float(len(epochs))

    monkeypatch.setattr(Numbers, "score", interrupted)
    found = regressor()
    with pytest.raises(KeyboardInterrupt):
        found.fit(RECORDS, AF)

    assert found.history_.best_epoch == 1
    assert np.isfinite(found.predict(RECORDS)).all()


# --- the one road from records to windows


def test_chunks_hold_all_records_in_order_prepared_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skecg.inference.pipeline.CHUNK_RECORDS", 5)
    spec = find_weights(TINY).spec
    source = RecordSource(RECORDS, sampling_rate=None, leads=None, units="mV")

    chunks = list(prepare_chunks(source, spec, Policies("raise", "raise"), stride_seconds=1.0))

    assert [len(records) for records, _ in chunks] == [5, 5, 5, 5, 4]
    assert [record for records, _ in chunks for record in records] == list(RECORDS)
    together = prepare(RECORDS, spec, stride=1.0)
    np.testing.assert_array_equal(np.concatenate([windows.values for _, windows in chunks]), together.values)


def test_the_first_record_that_cannot_be_used_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skecg.inference.pipeline.CHUNK_RECORDS", 2)
    flat = ECGRecord(np.zeros((12, 500)), 100, CANONICAL_LEADS)
    source = RecordSource([*RECORDS[:3], flat, flat], sampling_rate=None, leads=None, units="mV")
    chunks = prepare_chunks(source, find_weights(TINY).spec, Policies("raise", "raise"))

    next(chunks)
    with pytest.raises(BadSignalError) as caught:
        next(chunks)

    assert caught.value.__notes__ == ["This is record 3 of X."]


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_heads_leave_out_the_tokens_that_an_encoder_does_not_count(kind: str) -> None:
    config = XlstmConfig(2, 5, 8, 8, 2, 16, block_kinds="s")
    encoder = build_encoder(config).eval()
    network = Network(encoder, build_head(kind, encoder, 3, "mean", seed=0)).requires_grad_(False)
    torch.nn.init.normal_(network.head.linear.weight)
    values = torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(0))
    values[:, :, 20:] = 0.0
    torch.testing.assert_close(network(values), network(values[:, :, :20]))  # a token sees those before it only
    tokens = encoder(values)
    assert (network.read_out(tokens, values) - network.head(tokens)).abs().max() > 1e-4


def test_registers_always_get_attention() -> None:
    head = AttentionHead(dim=8, num_heads=2, n_outputs=3)
    tokens = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))  # two registers and five patches' tokens
    counted = torch.tensor([[True, True, False, False, False]] * 2)
    torch.testing.assert_close(head(tokens, None, counted), head(tokens[:, :4]))
