from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skecg.datasets import make_ecg
from skecg.errors import LeadError
from skecg.leads import (
    CANONICAL_LEADS,
    EIGHT_LEADS,
    LIMB_COEFFICIENTS,
    canonical_lead,
    canonical_leads,
    derivation_matrix,
    limb_lead_orders,
)

LIMB = list(LIMB_COEFFICIENTS)
SPELLINGS = {
    "I": [
        "I",
        "i",
        " I ",
        "Lead I",
        "LEAD_I",
        "MDC_ECG_LEAD_I",
        "D1",
        "DI",
        "L1",
        "ECG I",
        "I-REF",
        "Lead I (Einthoven)",
    ],
    "II": ["II", "ii", "dii", "D2", "ECG Lead II", "lead-ii", "ABL II"],
    "III": ["III", "iii", "DIII", "L3"],
    "aVR": ["aVR", "AVR", "avr", "aVr", "VR", "MDC_ECG_LEAD_AVR", "a VR", "aV-R", "aVR (Goldberger)"],
    "aVL": ["AVL", "vl", "lead avl"],
    "aVF": ["AVF", "vf", "aVF_raw"],
    "V1": ["V1", "v1", "C1", "V 1", "V1-REF", "ECG V1", "V_1"],
    "V6": ["V6", "c6", "MDC_ECG_LEAD_V6"],
}


def test_a_lead_beside_electrodes_of_the_head_is_not_told_by_the_electrode_s_name():
    for names in (["Fp1", "C3", "C4", "O1", "ECG"], ["C3-Ref", "EOG L", "ECG"], ["D1", "Fz"], ["Chin", "L2"]):
        with pytest.raises(LeadError, match="electrodes of the head"):
            canonical_leads(names)
    assert canonical_leads(["C3", "C4", "ECG"]) == ("V3", "V4", "ECG")
    assert canonical_leads(["V3", "Fp1", "D4"]) == ("V3", "Fp1", "D4")


def test_voltages_of_limbs_that_are_not_augmented_are_other_leads():
    for code in ("MDC_ECG_LEAD_VR", "mdc_ecg_lead_vl", "MDC ECG LEAD VF"):
        assert canonical_lead(code) == code
    assert canonical_lead("MDC_ECG_LEAD_AVR") == "aVR"


@pytest.mark.parametrize(("lead", "spelling"), [(k, s) for k, v in SPELLINGS.items() for s in v])
def test_every_common_spelling_is_understood(lead, spelling):
    assert canonical_lead(spelling) == lead


@pytest.mark.parametrize(
    "spelling",
    [
        "aVR (limb lead)",
        "II (mV)",
        "V2 (chest)",
        "V 1 (Wilson)",
        "V-1",
        "d-ii",
        "aVF (filtered)",
        "II_",
        "_V1",
        "Lead_I_(mV)",
        "V1_Ref",
        "EKG I",
        "ekg_aVF",
        "EKG-V1",
        "EKG Lead II",
        "Abl. aVR",
        "Ableitung II",
        "Dérivation V1",
        "Derivación I",
        "Derivazione aVL",
    ],
)
def test_words_that_change_nothing_may_stand_around_a_name(spelling):
    assert canonical_lead(spelling) in CANONICAL_LEADS


@pytest.mark.parametrize(
    "name",
    [
        "aVR-",
        "aVR(-)",
        "aVR (neg)",
        "aVR (inverted)",
        "aVR ()",
        "--aVR",
        "-aVR (neg)",
        "I-II",
        "I II",
        "II_I",
        "II (reversed)",
        "II (mV) (inv)",
        "V1 (posterior)",
        "V3 (right)",
        "V4 (R)",
        "V1-V2",
    ],
)
def test_what_may_be_another_lead_or_another_sign_is_none_of_the_twelve(name):
    assert canonical_lead(name) not in CANONICAL_LEADS


@pytest.mark.parametrize(
    ("spelling", "lead"),
    [
        ("-avr", "-aVR"),
        ("- aVR", "-aVR"),
        ("Lead -aVR", "-aVR"),
        ("ECG -II", "-II"),
        ("lead:-V1", "-V1"),
        ("MDC_ECG_LEAD_AVRNEG", "-aVR"),
        ("aVR_neg", "-aVR"),
        ("-aVR (mV)", "-aVR"),
    ],
)
def test_a_sign_stays_whatever_stands_before_it(spelling, lead):
    assert canonical_lead(spelling) == lead


@pytest.mark.parametrize("spelling", ["ECG-aVR", "Lead-aVR", "ECG - aVR", "Lead - aVR", "ECG-LEAD-aVR", "Abl-aVR"])
def test_a_hyphen_between_a_word_and_a_name_is_no_sign(spelling):
    assert canonical_lead(spelling) == "aVR"


@pytest.mark.parametrize(
    "name", ["MLII", "vx", "V7", "V3R", "X", "CM5", "IV", "aV", "-aVR", "1", "3", "resp", "ECG", "", "V", "12", "aVX"]
)
def test_leads_that_are_none_of_the_twelve_keep_their_names(name):
    assert canonical_lead(f" {name} ") == name


@given(st.sampled_from(CANONICAL_LEADS), st.sampled_from(["", "Lead ", "MDC_ECG_LEAD_", "ECG "]), st.data())
@settings(max_examples=100, deadline=None)
def test_case_blanks_and_prefixes_do_not_matter(lead, prefix, data):
    name = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in lead)
    assert canonical_lead(f"  {prefix}{name} ") == lead


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_canonical_name_is_its_own_canonical_name(name):
    assert canonical_lead(canonical_lead(name)) == canonical_lead(name)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(LeadError, match="a lead named 2 of type int"):
        canonical_leads(["I", 2])  # type: ignore[list-item]


def test_a_bare_string_no_names_and_names_that_come_twice_are_refused():
    with pytest.raises(LeadError, match=r"Write leads=\['II'\]"):
        canonical_leads("II")
    with pytest.raises(LeadError, match="at least one"):
        canonical_leads([])
    with pytest.raises(LeadError, match=r"V1, aVR more than once"):
        canonical_leads(["V1", "aVR", "AVR", "v1"])


@pytest.mark.parametrize("names", [{"I", "II"}, frozenset({"I"}), (name for name in ("I", "II")), 5, {"MLII": "II"}])
def test_names_without_an_order_to_come_back_to_are_refused(names):
    with pytest.raises(LeadError, match="expected a list of names in the order of the rows"):
        canonical_leads(names)


def test_the_coefficients_keep_einthovens_and_goldbergers_laws():
    rows = {lead: np.array(row) for lead, row in LIMB_COEFFICIENTS.items()}
    assert np.array_equal(rows["II"], rows["I"] + rows["III"])
    assert np.array_equal(rows["aVR"] + rows["aVL"] + rows["aVF"], [0, 0])
    assert np.array_equal(rows["aVR"], -(rows["I"] + rows["II"]) / 2)
    assert np.array_equal(rows["aVL"], (rows["I"] - rows["III"]) / 2)
    assert np.array_equal(rows["aVF"], (rows["II"] + rows["III"]) / 2)


def twelve_leads(seed: int = 0, n_samples: int = 400) -> np.ndarray:
    """Leads of heartbeat size in canonical order that keep the laws."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(8, n_samples)).cumsum(axis=1)
    limb = np.array([LIMB_COEFFICIENTS[lead] for lead in CANONICAL_LEADS[:6]]) @ base[:2]
    return np.concatenate([limb, base[2:]])


def test_leads_that_are_there_are_taken_untouched():
    matrix, missing = derivation_matrix(CANONICAL_LEADS[::-1], CANONICAL_LEADS)
    assert missing == []
    assert np.array_equal(matrix, np.eye(12)[::-1])


@pytest.mark.parametrize("pair", list(itertools.permutations(LIMB, 2)), ids="-".join)
def test_any_two_limb_leads_give_the_other_four_exactly(pair):
    signal = twelve_leads()
    available = [*pair, "V1"]
    rows = [CANONICAL_LEADS.index(lead) for lead in available]
    matrix, missing = derivation_matrix(available, LIMB)
    assert missing == []
    assert np.abs(matrix @ signal[rows] - signal[:6]).max() < 1e-5 * np.abs(signal).max()


def test_from_leads_one_and_two_the_coefficients_are_exact():
    matrix, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    for row, lead in zip(matrix[:6], CANONICAL_LEADS[:6], strict=True):
        assert tuple(row[:2]) == LIMB_COEFFICIENTS[lead]
        assert not row[2:].any()


def test_what_cannot_be_had_is_named_in_order_and_left_zero():
    matrix, missing = derivation_matrix(["II", "V2"], ["V3", "II", "III", "V2", "X"])
    assert missing == ["V3", "III", "X"]
    assert matrix.tolist() == [[0, 0], [1, 0], [0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    "swap",
    [
        ("aVL", "aVF"),  # as MIMIC-IV-ECG files carry them, named in the usual order
        ("I", "II"),
        ("II", "III"),
        ("I", "aVR"),
        ("I", "II", "III"),
        ("aVR", "aVL", "aVF"),
        ("I", "aVF", "III", "aVL"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_exchanged_names_are_found_by_the_laws(swap, seed):
    names = list(CANONICAL_LEADS)
    for lead, other in zip(swap, [*swap[1:], swap[0]], strict=True):
        names[CANONICAL_LEADS.index(lead)] = other
    assert limb_lead_orders(twelve_leads(seed), names) == (CANONICAL_LEADS,)


@pytest.mark.parametrize("swap", list(itertools.combinations(LIMB, 2)), ids="-".join)
def test_any_two_exchanged_names_are_found_in_a_plausible_ecg(swap):
    record = make_ecg(1, noise=0.02, random_state=1).records[0]
    names = [dict([swap, swap[::-1]]).get(lead, lead) for lead in CANONICAL_LEADS]
    assert limb_lead_orders(record.signal, names) == (CANONICAL_LEADS,)


@pytest.mark.parametrize("turned", [p for n in (1, 2) for p in itertools.combinations(LIMB, n)], ids="-".join)
def test_limb_leads_that_are_upside_down_are_found(turned):
    record = make_ecg(1, noise=0.02, random_state=1).records[0]
    rows = [CANONICAL_LEADS.index(lead) for lead in turned]
    signal = record.signal.copy()
    signal[rows] *= -1
    true = tuple([f"-{lead}" if lead in turned else lead for lead in CANONICAL_LEADS])
    found = limb_lead_orders(signal, CANONICAL_LEADS)
    assert found[-1] == true
    # Exchanged electrodes look the same as one of I, II and III upside down, or two of them.
    assert len(found) == 1 or not set(turned) & {"aVR", "aVL", "aVF"}
    if turned == ("I",):
        assert found[0][:6] == ("I", "III", "II", "aVL", "aVR", "aVF")


def test_the_order_of_the_rows_does_not_matter():
    signal, rng = twelve_leads(), np.random.default_rng(1)
    order = rng.permutation(12)
    names = [CANONICAL_LEADS[i] for i in order]
    assert limb_lead_orders(signal[order], names) == ()
    swapped = [{"aVL": "aVF", "aVF": "aVL"}.get(name, name) for name in names]
    assert limb_lead_orders(signal[order], swapped) == (tuple(names),)


def test_leads_in_order_are_left_alone():
    for seed in range(20):
        assert limb_lead_orders(twelve_leads(seed), CANONICAL_LEADS) == ()


def test_a_little_noise_does_not_hide_an_exchange():
    signal = twelve_leads()
    noisy = signal + 0.05 * signal.std() * np.random.default_rng(0).normal(size=signal.shape)
    names = [{"aVL": "aVF", "aVF": "aVL"}.get(name, name) for name in CANONICAL_LEADS]
    assert limb_lead_orders(noisy, names) == (CANONICAL_LEADS,)
    assert limb_lead_orders(noisy, CANONICAL_LEADS) == ()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-3, 1e3]))
@settings(max_examples=40, deadline=None)
def test_noise_has_no_order(seed, size):
    noise = size * np.random.default_rng(seed).normal(size=(12, 300))
    assert limb_lead_orders(noise, CANONICAL_LEADS) == ()


@pytest.mark.parametrize("seed", range(30))
def test_leads_that_drift_by_themselves_have_no_order(seed):
    walk = np.random.default_rng(seed).normal(size=(12, 2000)).cumsum(axis=1)
    assert limb_lead_orders(walk, CANONICAL_LEADS) == ()


def test_leads_that_were_scaled_one_by_one_have_no_order():
    scaled = twelve_leads() / twelve_leads().std(axis=1, keepdims=True)
    assert limb_lead_orders(scaled, CANONICAL_LEADS) == ()


def test_without_all_six_limb_leads_or_with_a_flat_one_nothing_is_said():
    names = [{"aVL": "aVF", "aVF": "aVL"}.get(name, name) for name in CANONICAL_LEADS]
    signal = twelve_leads()
    assert limb_lead_orders(np.delete(signal, 2, axis=0), [n for n in names if n != "III"]) == ()
    signal[2] = 0.7
    assert limb_lead_orders(signal, names) == ()
    assert limb_lead_orders(np.zeros((12, 50)), CANONICAL_LEADS) == ()


def test_gaps_do_not_hide_an_exchange():
    signal = twelve_leads()
    signal[:, 50:60] = np.nan
    names = [{"aVL": "aVF", "aVF": "aVL"}.get(name, name) for name in CANONICAL_LEADS]
    assert limb_lead_orders(signal, names) == (CANONICAL_LEADS,)


@pytest.mark.parametrize("angle", [9.0, 40.0, 99.0])
def test_where_several_orders_keep_the_laws_none_is_chosen(angle):
    """Limb leads that all show one wave, only of different sizes, keep the laws in several orders."""
    wave = np.sin(np.arange(500) / 7)
    axis = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    limb = np.outer(np.array([LIMB_COEFFICIENTS[lead] for lead in LIMB]) @ axis, wave)
    for names in itertools.permutations(LIMB):
        assert limb_lead_orders(limb, names) == ()
