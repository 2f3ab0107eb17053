"""The two matrices say the same of a heart, and the way back keeps the laws of the limb leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretraining.data.vectorcardiogram import TO_VCG, from_vcg, to_vcg
from skecg.datasets import make_ecg
from skecg.datasets.heart_model import DOWER
from skecg.errors import LeadError, ParameterError
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS

NAMES = sorted(TO_VCG)


def correlations(signal: np.ndarray) -> np.ndarray:
    """Of X, Y and Z by the two matrices."""
    dower, kors = (to_vcg(CANONICAL_LEADS, name) @ signal for name in ("dower", "kors"))
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(dower, kors, strict=True)])


def test_dower_and_kors_agree_on_synthetic_hearts() -> None:
    records, _ = make_ecg(8, sampling_rate=250.0, random_state=0)
    found = np.array([correlations(record.signal) for record in records])
    assert np.median(found, axis=0).min() > 0.9


def test_dower_and_kors_agree_on_real_recordings(shared: Path) -> None:
    with np.load(shared / "data" / "ptbxl_raw_250hz.npz", allow_pickle=True) as data:
        assert [str(lead).upper() for lead in data["leads"]] == [lead.upper() for lead in CANONICAL_LEADS]
        found = np.array([correlations(signal.astype(float)) for signal in data["signals"][:60]])
    assert np.median(found, axis=0).min() > 0.8


def test_the_inverse_dower_matrix_is_the_inverse_of_dowers() -> None:
    np.testing.assert_allclose(TO_VCG["dower"], np.linalg.pinv(DOWER), atol=0.002)
    np.testing.assert_allclose(from_vcg(EIGHT_LEADS), DOWER, atol=0.02)


def test_kors_matrix_finds_the_dipole_of_dowers_torso() -> None:
    found = TO_VCG["kors"] @ DOWER
    np.testing.assert_allclose(found, np.eye(3), atol=0.4)
    np.testing.assert_allclose(
        found, [[0.970, -0.111, 0.129], [0.088, 1.005, -0.082], [0.002, -0.378, 0.894]], atol=2e-3
    )


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_again_is_a_projection_on_three_dimensions(name: str) -> None:
    made = from_vcg(CANONICAL_LEADS, name) @ to_vcg(CANONICAL_LEADS, name)
    np.testing.assert_allclose(made @ made, made, atol=1e-12)
    assert np.linalg.matrix_rank(made) == 3


@pytest.mark.parametrize("name", NAMES)
def test_leads_that_come_back_obey_einthoven_and_goldberger(name: str) -> None:
    one, two, three, avr, avl, avf = from_vcg(CANONICAL_LEADS, name)[:6]
    np.testing.assert_allclose(two, one + three, atol=1e-7)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_leads_does_not_matter(name: str) -> None:
    order = np.random.default_rng(0).permutation(12)
    leads = [CANONICAL_LEADS[place] for place in order]
    np.testing.assert_array_equal(to_vcg(leads, name), to_vcg(CANONICAL_LEADS, name)[:, order])
    np.testing.assert_array_equal(from_vcg(leads, name), from_vcg(CANONICAL_LEADS, name)[order])


def test_leads_that_lack_and_matrices_that_are_not_known_are_refused() -> None:
    with pytest.raises(LeadError, match="V6"):
        to_vcg(CANONICAL_LEADS[:-1])
    with pytest.raises(LeadError, match="MLII"):
        from_vcg(["I", "MLII"])
    with pytest.raises(ParameterError, match="'frank'"):
        to_vcg(CANONICAL_LEADS, "frank")
