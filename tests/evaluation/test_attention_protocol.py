from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_set import TINY, small_set

from skecg.evaluation import compare, standard_sources
from skecg.evaluation.attention_protocol import AttendedProtocol, with_tokens
from skecg.evaluation.protocols import label_draws
from skecg.evaluation.splitting import Split
from skecg.metrics import area_under_roc

N = 160
SPLIT = Split(np.arange(120), np.arange(0, 120, 5), np.arange(120, N), True, "a part")


def labelled_tokens() -> tuple[list[np.ndarray], np.ndarray]:
    """Two crops of five tokens a record, that carry its label under noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (N, 2)).astype(np.int8)
    tokens = rng.normal(size=(N, 2, 5, 16))
    tokens[..., :8] += 3 * np.repeat(labels, 4, axis=1)[:, None, None]
    return list(tokens.astype(np.float16)), labels


def test_encoders_are_scored_by_their_tokens_and_the_others_by_their_vectors(tmp_path: Path) -> None:
    sources = with_tokens(standard_sources([TINY], tmp_path))
    protocol = AttendedProtocol(n_steps=10)

    report = compare(small_set(60), "superdiagnostic", sources, protocol=protocol, fractions=(1.0,), n_resamples=20)

    assert report.protocol["name"].startswith("(b)")
    assert "crops of 2.5 s every 1.25 s" in report.rows[-1].note
    chosen = {row.name: row.largest.Cs for row in report.rows}
    assert np.isnan(chosen["tiny-temporal"]).all()
    assert np.isfinite(chosen["hand-crafted"]).all()


def test_a_head_learns_from_the_training_records_and_from_no_others() -> None:
    tokens, labels = labelled_tokens()
    hidden = labels.copy()
    hidden[SPLIT.test] = 1 - hidden[SPLIT.test]
    protocol, draws = AttendedProtocol(num_heads=2, n_steps=200), label_draws(np.arange(N), labels, SPLIT, [1.0], 1)

    (found,), (same,) = (list(protocol.fits(tokens, y, SPLIT, draws)) for y in (labels, hidden))

    assert area_under_roc(labels[SPLIT.test], found.probabilities).min() > 0.8
    np.testing.assert_array_equal(found.probabilities, same.probabilities)
    np.testing.assert_array_equal(found.thresholds, same.thresholds)


def test_tokens_are_those_of_the_encoder_in_half_precision(tmp_path: Path) -> None:
    *_, (_, tokens) = with_tokens(standard_sources([TINY], tmp_path))

    found = tokens.features(small_set().select([0, 1]))

    assert len(found) == 2
    assert found[0].dtype == np.float16
    assert found[0].shape[0] == 2  # two crops in 4 s
    assert found[0].shape[2] == pytest.approx(found[1].shape[2])
