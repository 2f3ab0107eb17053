from __future__ import annotations

import itertools

import numpy as np
import pytest

from skecg.datasets import make_ecg
from skecg.datasets.heart_model import CONDUCTIONS, DOWER, beat_waves, draw_heart
from skecg.datasets.rhythm import RHYTHMS, draw_beats
from skecg.errors import LeadError, ParameterError, SamplingRateError
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.records import ECGRecord

KINDS = [
    {"rhythm": "sinus"},
    {"rhythm": "af"},
    {"rhythm": "pvc"},
    {"rhythm": "pause"},
    {"conduction": "lbbb"},
    {"conduction": "rbbb"},
    {"st_level": 0.3, "st_territory": "inferior"},
    {"noise": 0.1},
]


def lead(record: ECGRecord, name: str) -> np.ndarray:
    return record.signal[record.leads.index(name)]


def r_peaks(record: ECGRecord) -> np.ndarray:
    """Times (s) of QRS complexes of one kind: where the leads together change most within 32 ms."""
    step = round(0.032 * record.sampling_rate)
    change = np.abs(record.signal[:, step:] - record.signal[:, :-step]).sum(axis=0)
    change /= np.percentile(change, 98)
    steep = np.flatnonzero(change > 0.3)
    bursts = np.split(steep, np.flatnonzero(np.diff(steep) > 0.09 * record.sampling_rate) + 1)
    complexes = [burst for burst in bursts if change[burst].max() > 0.6]
    return np.array([((burst[0] + burst[-1] + step) / 2) / record.sampling_rate for burst in complexes])


def qrs_seconds(record: ECGRecord) -> float:
    """Longest time around the median R wave for which the leads together change fast."""
    slope = np.abs(np.diff(record.signal, axis=1)).max(axis=0) * record.sampling_rate  # mV/s
    fast = slope > 8.0
    runs = [len(list(group)) for is_fast, group in itertools.groupby(bridge(fast, int(0.05 * 500))) if is_fast]
    return float(np.median([run for run in runs if run > 20])) / record.sampling_rate


def bridge(flags: np.ndarray, gap: int) -> list[bool]:
    """Fill gaps of at most `gap` samples between raised flags."""
    filled = flags.copy()
    raised = np.flatnonzero(flags)
    for first, second in itertools.pairwise(raised):
        if second - first <= gap:
            filled[first:second] = True
    return filled.tolist()


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_limb_leads_obey_einthoven_and_goldberger(how: dict) -> None:
    for record in make_ecg(3, random_state=0, **how).records:
        one, two = lead(record, "I").astype(np.float64), lead(record, "II").astype(np.float64)
        laws = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
        for name, expected in laws.items():
            rounding = np.spacing(np.abs(record.signal[:6]).max())
            np.testing.assert_allclose(lead(record, name), expected, rtol=0, atol=rounding, err_msg=name)


def test_clean_leads_are_the_projections_of_three_signals() -> None:
    record = make_ecg(random_state=0, leads=EIGHT_LEADS).records[0]
    scales = np.linalg.svd(record.signal.astype(np.float64), compute_uv=False)
    assert scales[3] < 1e-5 * scales[0]
    dipole = np.linalg.lstsq(DOWER, record.signal, rcond=None)[0]
    np.testing.assert_allclose(DOWER @ dipole, record.signal, atol=1e-5)


@pytest.mark.parametrize("rhythm", ["sinus", "af"])
@pytest.mark.parametrize("heart_rate", [45, 72, 110, 150])
def test_the_heart_rate_asked_for_is_measured(heart_rate: int, rhythm: str) -> None:
    how = {"duration_seconds": 30, "random_state": 1}
    records, labels = make_ecg(5, heart_rate=heart_rate, rhythm=rhythm, **how)
    measured = [60 / np.diff(r_peaks(record)).mean() for record in records]
    np.testing.assert_allclose(measured, heart_rate, rtol=0.05)
    np.testing.assert_array_equal(labels["heart_rate"], heart_rate)


def test_the_t_wave_follows_the_square_root_of_rr_and_the_qrs_complex_does_not() -> None:
    heart, _ = draw_heart(np.random.default_rng(0), "normal", None, np.zeros(3))
    slow, qrs_end, t_peak = beat_waves(heart, 1.0, atrial=True, ectopic=False)
    fast, fast_qrs_end, fast_t_peak = beat_waves(heart, 0.49, atrial=True, ectopic=False)
    assert fast_t_peak == pytest.approx(0.7 * t_peak)
    assert fast_qrs_end == qrs_end
    np.testing.assert_array_equal(fast[2:6], slow[2:6])
    assert 0.12 < -slow[0, 0] < 0.22  # the P wave comes before, and nearer at a high rate
    assert slow[0, 0] < fast[0, 0] < 0


def test_the_label_counts_the_beats() -> None:
    records, labels = make_ecg(20, rhythm=["sinus", "af", "pause"], random_state=2)
    counted = np.array([len(r_peaks(record)) for record in records])
    assert np.all(np.abs(counted - labels["n_beats"]) <= 1)  # one may be cut at an edge


def test_fibrillation_is_irregular_and_sinus_rhythm_nearly_regular() -> None:
    def variation(rhythm: str) -> list[float]:
        records = make_ecg(8, rhythm=rhythm, heart_rate=90, random_state=3).records
        return [np.std(np.diff(peaks)) / np.mean(np.diff(peaks)) for peaks in map(r_peaks, records)]

    assert min(variation("af")) > 0.1
    assert min(variation("sinus")) > 0.005
    assert max(variation("sinus")) < 0.1


def test_fibrillation_has_no_p_wave() -> None:
    def before_the_beat(rhythm: str) -> np.ndarray:
        """Mean of lead II from 0.3 to 0.09 s before the QRS complexes that follow a long interval, in each record."""
        means = []
        made = make_ecg(8, rhythm=rhythm, heart_rate=60, axis_degrees=60, duration_seconds=60, random_state=4).records
        for record in made:
            peaks = r_peaks(record)
            starts = [round((p - 0.3) * 500) for p in peaks[np.diff(peaks, prepend=0.0) > 0.8]]
            means.append(np.mean([lead(record, "II")[start : start + 105] for start in starts], axis=0))
        return np.ptp(means, axis=1)

    # The fibrillatory waves have no fixed place before the beat, so they average out; P waves do not.
    assert before_the_beat("sinus").min() > 0.08
    assert before_the_beat("af").max() < 0.05


def test_fibrillatory_waves_are_five_to_eight_a_second() -> None:
    for record in make_ecg(5, rhythm="af", heart_rate=60, duration_seconds=60, random_state=4).records:
        starts = [round((p + 0.45) * 500) for p in r_peaks(record) if p < 58]
        v1 = lead(record, "V1")
        diastoles = [v1[start : start + 200] for start in starts if not np.ptp(v1[start : start + 200]) > 0.3]
        hz = np.fft.rfftfreq(2000, 1 / 500)
        power = np.mean([np.abs(np.fft.rfft((d - d.mean()) * np.hanning(200), 2000)) ** 2 for d in diastoles], axis=0)
        assert 4.0 < hz[power.argmax()] < 9.0


def test_premature_beats_are_early_and_followed_by_a_compensatory_pause() -> None:
    for seed in range(20):
        sinus = draw_beats(np.random.default_rng(seed), "sinus", 70.0, 10.0)
        beats = draw_beats(np.random.default_rng(seed), "pvc", 70.0, 10.0)
        early = np.flatnonzero(beats.ectopic)
        assert 1 <= len(early) <= 5
        assert np.all((beats.seconds[early] > 0) & (beats.seconds[early] < 10))
        np.testing.assert_array_equal(beats.seconds[~beats.ectopic], sinus.seconds[~beats.ectopic])
        coupling = beats.seconds[early] - beats.seconds[early - 1]
        pause = beats.seconds[early + 1] - beats.seconds[early]
        assert np.all((coupling > 0.5 * 60 / 70) & (coupling < 0.8 * 60 / 70))
        np.testing.assert_allclose(coupling + pause, 2 * 60 / 70, rtol=0.1)


def test_premature_beats_are_wide_without_p_and_as_many_as_the_label_says() -> None:
    how = {"heart_rate": 60, "random_state": 5, "axis_degrees": 60}
    sinus = make_ecg(12, **how).records
    records, labels = make_ecg(12, rhythm="pvc", **how)
    assert labels["n_ectopic"].min() >= 1
    for regular, record, n_ectopic in zip(sinus, records, labels["n_ectopic"], strict=True):
        # The same heart with the same sinus beats: what differs is the beat that came early.
        differing = np.flatnonzero(np.abs(record.signal - regular.signal).max(axis=0) > 0.3)
        places = np.split(differing, np.flatnonzero(np.diff(differing) > 0.5 * 500) + 1)
        assert len(places) == n_ectopic
        for place in places:
            early = record.signal[:, place[0] - 50 : place[0] + 150]
            wide = np.abs(early).max(axis=0) > 0.3 * np.abs(early).max()
            assert 0.07 < wide.sum() / 500 < 0.25
            before = lead(record, "II")[place[0] - 70 : place[0] - 25]
            assert before.max() - before[[0, -1]].max() < 0.02, "a P wave stands before the premature beat"


def test_a_pause_is_one_stop_of_two_seconds() -> None:
    for record in make_ecg(10, rhythm="pause", random_state=6).records:
        rr = np.diff(r_peaks(record))
        assert (rr > 1.9).sum() == 1
        assert np.sort(rr)[-2] < 1.5


def test_blocks_widen_the_qrs_beyond_120_ms() -> None:
    width = {
        kind: np.array([qrs_seconds(r) for r in make_ecg(12, conduction=kind, random_state=7).records])
        for kind in CONDUCTIONS
    }
    assert np.median(width["normal"]) < 0.11
    assert np.median(width["lbbb"]) > 0.125
    assert np.median(width["rbbb"]) > 0.12
    assert np.percentile(width["normal"], 75) < min(np.percentile(width[kind], 25) for kind in ("lbbb", "rbbb"))


def test_left_block_goes_away_from_v1_and_right_block_ends_towards_it() -> None:
    def beats(conduction: str, name: str) -> np.ndarray:
        """Median beat of each record, 0.1 s before to 0.4 s after the R wave."""
        made = make_ecg(15, conduction=conduction, heart_rate=60, random_state=8).records
        cut = []
        for record in made:
            peaks = r_peaks(record)[1:-1]
            around = [lead(record, name)[int((p - 0.1) * 500) : int((p - 0.1) * 500) + 250] for p in peaks]
            cut.append(np.median(around, axis=0))
        return np.array(cut)

    v1, v6 = beats("lbbb", "V1"), beats("lbbb", "V6")
    assert np.all(v1.min(axis=1) < -0.6)
    assert np.all(v1[:, 100:].max(axis=1) > 0.1), "the T wave of V1 is opposite to its S"
    assert np.mean(v6.max(axis=1) > 0.5) > 0.9
    assert np.mean(v6[:, 125:].min(axis=1) < -0.1) > 0.9, "the T wave of V6 is opposite to its R"
    v1, v6 = beats("rbbb", "V1"), beats("rbbb", "V6")
    assert np.all(v1.argmax(axis=1) > v1.argmin(axis=1)), "R' comes after S"
    assert np.all(v1.max(axis=1) > 0.3)
    assert np.all(v6.argmin(axis=1) > v6.argmax(axis=1)), "S ends V6"


@pytest.mark.parametrize("axis_degrees", [-60, -15, 0, 45, 60, 90, 120, 180])
@pytest.mark.parametrize("conduction", CONDUCTIONS)
def test_the_axis_asked_for_is_measured(axis_degrees: int, conduction: str) -> None:
    how = {"axis_degrees": axis_degrees, "conduction": conduction, "heart_rate": 50, "random_state": 9}
    records, labels = make_ecg(6, duration_seconds=6, **how)
    np.testing.assert_allclose(labels["axis_degrees"], axis_degrees, atol=1e-9)
    # The window holds QRS and not much else; in blocks the T wave begins within it, which costs some degrees.
    for record in records:
        peaks = r_peaks(record)[1:-1]
        window = np.concatenate([np.arange(int((p - 0.08) * 500), int((p + 0.10) * 500)) for p in peaks])
        one, foot = lead(record, "I")[window].sum(), lead(record, "aVF")[window].sum()
        measured = np.degrees(np.arctan2(2 * foot, np.sqrt(3) * one))
        off = (measured - axis_degrees + 180) % 360 - 180
        assert abs(off) < 20


@pytest.mark.parametrize(
    ("territory", "leading", "reciprocal"),
    [("anterior", "V3", None), ("inferior", "III", "aVL"), ("lateral", "V5", "III")],
)
@pytest.mark.parametrize("level", [0.3, -0.2])
def test_the_st_level_is_that_of_the_leading_lead(
    territory: str, leading: str, reciprocal: str | None, level: float
) -> None:
    how = {"heart_rate": 60, "random_state": 10}
    (flat,), _ = make_ecg(**how)
    (lifted,), labels = make_ecg(st_level=level, st_territory=territory, **how)
    shift = ECGRecord(lifted.signal - flat.signal, 500, flat.leads)
    at = [int((peak + 0.14) * 500) for peak in r_peaks(flat)[1:-1]]
    np.testing.assert_allclose(lead(shift, leading)[at], level, rtol=0.05)
    if reciprocal:
        assert np.all(np.sign(lead(shift, reciprocal)[at]) == -np.sign(level))
    before = [int((peak - 0.08) * 500) for peak in r_peaks(flat)[1:-1]]
    np.testing.assert_allclose(lead(shift, leading)[before], 0.0, atol=0.01)
    assert (labels["st_territory"][0], labels["st_level"][0]) == (territory, level)


@pytest.mark.parametrize("kind", ["wander", "mains", "emg", "motion"])
def test_noise_has_the_level_asked_for(kind: str) -> None:
    how = {"leads": EIGHT_LEADS, "random_state": 11}
    clean = make_ecg(3, **how).records
    noisy = make_ecg(3, noise={kind: 0.07}, **how).records
    for a, b in zip(clean, noisy, strict=True):
        assert np.sqrt(np.mean(np.square(b.signal - a.signal))) == pytest.approx(0.07, rel=1e-3)


def test_the_mixture_has_about_the_level_asked_for() -> None:
    how = {"leads": EIGHT_LEADS, "random_state": 12}
    pairs = zip(make_ecg(10, **how).records, make_ecg(10, noise=0.1, **how).records, strict=True)
    levels = [np.sqrt(np.mean(np.square(b.signal - a.signal))) for a, b in pairs]
    np.testing.assert_allclose(levels, 0.1, rtol=0.1)


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_mains_hum_at_their_frequency(mains_hz: float) -> None:
    how = {"random_state": 13}
    clean = make_ecg(**how).records[0]
    noisy = make_ecg(noise={"mains": 0.1}, mains_hz=mains_hz, **how).records[0]
    power = np.square(np.abs(np.fft.rfft(noisy.signal - clean.signal, axis=1))).sum(axis=0)
    hz = np.fft.rfftfreq(clean.n_samples, 1 / 500)
    assert hz[power.argmax()] == mains_hz
    assert power[np.isin(hz, [mains_hz, 3 * mains_hz])].sum() > 0.999 * power.sum()


def test_wander_is_slow_and_muscle_is_fast() -> None:
    clean = make_ecg(random_state=14).records[0].signal
    hz = np.fft.rfftfreq(clean.shape[1], 1 / 500)
    share = {}
    for kind in ("wander", "emg"):
        noise = make_ecg(noise={kind: 0.1}, random_state=14).records[0].signal - clean
        power = np.square(np.abs(np.fft.rfft(noise, axis=1))).sum(axis=0)
        share[kind] = power[hz < 1.0].sum() / power.sum()
    assert share["wander"] > 0.98
    assert share["emg"] < 0.01


def test_one_seed_gives_the_same_bits() -> None:
    first, second = (make_ecg(3, rhythm=list(RHYTHMS), noise=0.1, random_state=5) for _ in range(2))
    for a, b in zip(first.records, second.records, strict=True):
        np.testing.assert_array_equal(a.signal, b.signal)
    for key, values in first.labels.items():
        np.testing.assert_array_equal(values, second.labels[key])
    other = make_ecg(3, rhythm=list(RHYTHMS), noise=0.1, random_state=6)
    assert not np.array_equal(first.records[0].signal, other.records[0].signal)


def test_a_record_does_not_depend_on_how_many_are_made() -> None:
    few, many = (make_ecg(n, rhythm=list(RHYTHMS), noise=0.1, random_state=5) for n in (2, 7))
    for a, b in zip(few.records, many.records[:2], strict=True):
        np.testing.assert_array_equal(a.signal, b.signal)


def test_every_record_is_another_person() -> None:
    records = make_ecg(6, heart_rate=60, random_state=0).records
    for a, b in itertools.combinations(records, 2):
        assert abs(np.ptp(lead(a, "V5")) - np.ptp(lead(b, "V5"))) > 1e-3


@pytest.mark.parametrize("how", KINDS[:-1], ids=str)
def test_every_sampling_rate_sees_the_same_heart(how: dict) -> None:
    fast, slow = (make_ecg(3, sampling_rate=rate, random_state=15, **how).records for rate in (500, 250))
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a.signal[:, ::2], b.signal, rtol=0, atol=2e-6)


def test_noise_leaves_the_heart_as_it_was() -> None:
    a, b = (make_ecg(4, rhythm=list(RHYTHMS), noise=noise, random_state=16) for noise in (0.0, 0.1))
    for key, values in a.labels.items():
        np.testing.assert_array_equal(values, b.labels[key])


def test_amplitudes_are_those_of_people() -> None:
    records = make_ecg(100, random_state=17).records
    r_in_two = np.array([lead(record, "II").max() for record in records])
    assert np.mean((r_in_two > 0.5) & (r_in_two < 2.0)) > 0.9
    assert max(np.abs(record.signal).max() for record in records) < 5.0
    assert all(abs(np.median(record.signal)) < 0.05 for record in records)


def test_leads_come_as_asked_for() -> None:
    whole = make_ecg(random_state=18).records[0]
    some = make_ecg(leads=["V2", "avf", "I"], random_state=18).records[0]
    assert some.leads == ("V2", "aVF", "I")
    for name in some.leads:
        np.testing.assert_array_equal(lead(some, name), lead(whole, name))
    assert whole.leads == CANONICAL_LEADS
    assert whole.signal.dtype == np.float32


def test_mixtures_are_drawn_by_weight() -> None:
    labels = make_ecg(
        400,
        rhythm={"sinus": 3, "af": 1},
        conduction=["normal", "lbbb"],
        heart_rate=(60, 80),
        duration_seconds=1,
        sampling_rate=50,
        random_state=19,
    ).labels
    assert 0.18 < np.mean(labels["rhythm"] == "af") < 0.32
    assert 0.4 < np.mean(labels["conduction"] == "lbbb") < 0.6
    assert 60 <= labels["heart_rate"].min() < 62
    assert 78 < labels["heart_rate"].max() <= 80


def test_generators_are_seeds_too() -> None:
    for kind in (np.random.default_rng, np.random.RandomState):
        first, second = (make_ecg(random_state=kind(3), duration_seconds=1).records[0] for _ in range(2))
        np.testing.assert_array_equal(first.signal, second.signal)
    unlike = [make_ecg(duration_seconds=1).records[0].signal for _ in range(2)]
    assert not np.array_equal(*unlike)


def test_a_rate_too_low_for_the_mains_leaves_them_out_of_the_mixture() -> None:
    assert np.isfinite(make_ecg(sampling_rate=100, noise=0.1, random_state=0).records[0].signal).all()
    with pytest.raises(ParameterError, match="above 120 Hz"):
        make_ecg(sampling_rate=100, noise={"mains": 0.1}, mains_hz=60.0)


@pytest.mark.parametrize("rhythm", ["pvc", "pause"])
def test_a_record_too_short_for_its_rhythm_is_refused(rhythm: str) -> None:
    with pytest.raises(ParameterError, match=f"(?s){rhythm}.*Ask for about"):
        make_ecg(rhythm=rhythm, heart_rate=60, duration_seconds=1.5, random_state=0)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"n_records": 0}, ParameterError),
        ({"n_records": True}, ParameterError),
        ({"duration_seconds": 0}, ParameterError),
        ({"duration_seconds": np.nan}, ParameterError),
        ({"duration_seconds": (1, 2)}, ParameterError),
        ({"sampling_rate": 0}, SamplingRateError),
        ({"leads": ["MLII"]}, LeadError),
        ({"heart_rate": 5}, ParameterError),
        ({"heart_rate": (80, 60)}, ParameterError),
        ({"heart_rate": "fast"}, ParameterError),
        ({"rhythm": "sinsu"}, ParameterError),
        ({"rhythm": []}, ParameterError),
        ({"rhythm": {"sinus": -1.0}}, ParameterError),
        ({"rhythm": {"sinus": 0.0}}, ParameterError),
        ({"rhythm": 3}, ParameterError),
        ({"conduction": "wpw"}, ParameterError),
        ({"st_territory": "posterior"}, ParameterError),
        ({"st_level": np.inf}, ParameterError),
        ({"axis_degrees": 1000}, ParameterError),
        ({"noise": -0.1}, ParameterError),
        ({"noise": {"hum": 0.1}}, ParameterError),
        ({"mains_hz": 0}, ParameterError),
        ({"random_state": -1}, ParameterError),
        ({"random_state": "seed"}, ParameterError),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(how: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match="Got"):
        make_ecg(**how)
