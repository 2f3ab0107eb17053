"""What all fine-tuned estimators share is enough for a third kind to be a small class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import RegressorMixin, clone
from torch import Tensor

from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.encoders import build_encoder
from skecg.encoders.xlstm import XlstmConfig
from skecg.errors import BadSignalError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.finetuning.base import Examples, FineTunedEstimator
from skecg.finetuning.heads import AttentionHead, Head, Network, build_head
from skecg.finetuning.serialization import Layout
from skecg.finetuning.stages import RecordTraining
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import prepare_chunks
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.quality import Policies
from skecg.preprocessing.windows import prepare
from skecg.weights import find_weights

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
RECORDS, LABELS = make_ecg(24, duration_seconds=5, sampling_rate=100, rhythm=["sinus", "af"], random_state=2)
AF = np.array(LABELS["rhythm"]) == "af"


@dataclass(frozen=True, eq=False)
class Numbers:
    """One number a record, learned by least squares."""

    values: NDArray[np.float64]

    def loss(self, logits_BL: Tensor, records: NDArray[np.integer]) -> Tensor:
        return (logits_BL[:, 0] - torch.from_numpy(self.values[records]).float()).square().sum()

    def score(self, logits: NDArray[np.float64], records: NDArray[np.intp]) -> float:
        return -float(np.square(logits[:, 0] - self.values[records]).mean())


class Regressor(RegressorMixin, FineTunedEstimator):
    """The least that an estimator of its own kind has to say."""

    _layout = Layout("regressor", "Regressor", "head", ())

    def __init__(
        self,
        model: str | Path = TINY,
        *,
        stages: str = "two",
        epochs: int = 3,
        batch_size: int = 8,
        learning_rate: float = 3e-3,
        layer_decay: float = 0.75,
        weight_decay: float = 0.0,
        warmup_epochs: float = 0.0,
        patience: int | None = None,
        validation_fraction: float = 0.25,
        sampling_rate: float | None = None,
        leads: Any = None,
        units: str = "mV",
        stride: float | None = None,
        missing_leads: str = "raise",
        short_records: str = "raise",
        device: str = "auto",
        precision: str = "auto",
        n_jobs: int | None = None,
        random_state: int | None = 0,
        revision: str | None = None,
        local_files_only: bool = False,
        verbose: int = 0,
    ) -> None:
        vars(self).update({name: value for name, value in locals().items() if name != "self"})

    def fit(self, X: Any, y: Any, *, groups: Any = None) -> Regressor:
        return self._fit(X, y, groups, None)

    def predict(self, X: Any) -> NDArray[np.float64]:
        return np.concatenate([logits[:, 0] for _, logits in self._predict_logits(X, None, stride_seconds=self.stride)])

    def _read_y(self, y: Any, n_records: int) -> Numbers:
        return Numbers(np.asarray(y, dtype=np.float64))

    def _build_head(self, encoder: Any, info: Any, labels: Numbers, seed: int) -> Head:
        return build_head("attention", encoder, 1, info.pooling, seed)

    def _build_training(self, examples: Examples, **shared: Any) -> RecordTraining:
        return RecordTraining(labels=examples.labels, **shared)

    def _keep_own(self, training: RecordTraining) -> None:
        self.histories_ = training.histories

    def _describe(self) -> dict[str, Any]:
        return {"fitted": {}}

    def _restore(self, values: dict[str, Any], encoder: Any, state: dict[str, Tensor]) -> Head:
        return build_head("attention", encoder, 1, self.pooling_, seed=0)


@pytest.fixture(scope="module")
def fitted() -> Regressor:
    return Regressor().fit(RECORDS, AF, groups=np.arange(24) // 2)


def test_a_third_kind_learns_holds_out_and_keeps_its_best_epochs(fitted: Regressor) -> None:
    assert list(fitted.histories_) == ["head", "all"]
    for history in fitted.histories_.values():
        assert history.scores[history.best_epoch] == max(history.scores)
    held = fitted.validation_rows_
    assert set(held // 2).isdisjoint(np.delete(np.arange(24), held) // 2)
    assert fitted.predict(RECORDS)[AF].mean() > fitted.predict(RECORDS)[~AF].mean()


def test_a_third_kind_is_saved_and_loaded_and_no_other_takes_it_for_itself(fitted: Regressor, tmp_path: Path) -> None:
    fitted.save(tmp_path)

    again = Regressor.load(tmp_path)

    np.testing.assert_array_equal(again.predict(RECORDS), fitted.predict(RECORDS))
    assert clone(again).get_params() == again.get_params() == {**fitted.get_params(), "model": str(TINY)}
    assert JEPAEmbedder(tmp_path, cache=None).fit_transform(RECORDS[:2]).shape[0] == 2
    with pytest.raises(WeightsNotFoundError, match=r"holds no classifier\.json"):
        FineTunedClassifier.load(tmp_path)


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
            Regressor(**parameters).fit(RECORDS, AF)
    with pytest.raises(ParameterError, match="groups of shape"):
        Regressor().fit(RECORDS, AF, groups=[1, 2])


def test_what_an_interrupted_first_stage_has_learned_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def interrupted(self: Numbers, logits: NDArray[np.float64], records: NDArray[np.intp]) -> float:
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return float(len(epochs))

    monkeypatch.setattr(Numbers, "score", interrupted)
    regressor = Regressor()
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(RECORDS, AF)

    assert regressor.histories_["head"].best_epoch == 1
    assert np.isfinite(regressor.predict(RECORDS)).all()


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
