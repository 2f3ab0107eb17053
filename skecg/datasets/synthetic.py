"""Electrocardiograms of hearts that never beat.

Their labels (make_ecg) and their waves (make_waves) are true by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skecg.annotations import Waves
from skecg.datasets.heart_model import (
    CONDUCTIONS,
    DOWER,
    ST_TERRITORIES,
    Heart,
    beat_waves,
    draw_heart,
    st_dipole,
    trace_dipole,
)
from skecg.datasets.noise import NOISE_SHARES, NOISES, draw_noise
from skecg.datasets.rhythm import RHYTHMS, Beats, draw_beats, draw_heart_rate, fibrillatory_dipole
from skecg.errors import LeadError, ParameterError
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS, canonical_leads, derivation_matrix
from skecg.records import ECGRecord, as_sampling_rate
from skecg.validation import is_integer

__all__ = [
    "SyntheticECG",
    "SyntheticWaves",
    "make_ecg",
    "make_waves",
    "read_choice",
    "read_count",
    "read_n_samples",
    "read_noise",
    "read_range",
    "read_seed",
    "read_twelve_leads",
]

#: A number, or the two ends of a range to draw from.
Range = float | tuple[float, float]

#: A name, several to draw from, or names with their weights.
Choice = str | Sequence[str] | Mapping[str, float]

_HEART_RATES_BPM = (20.0, 240.0)

# A wave reaches as far as two widths of its outer Gaussians.
_WIDTHS = 2.0

# Annotators leave out waves that a recording cuts, and those beside its ends.
_MARGIN_SECONDS = 0.3

_NOISE_MV = 0.01


def read_range(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
    """Read a number or the two ends of a range."""
    ends = (value, value) if isinstance(value, Real) else value
    try:
        start, stop = (float(end) for end in ends)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"Got {name}={value!r}, expected a number or a pair (low, high).") from error
    if isinstance(value, bool) or not (low <= start <= stop <= high and np.isfinite([start, stop]).all()):
        limits = f" within {low:g} to {high:g}" if np.isfinite(low) or np.isfinite(high) else ""
        raise ParameterError(f"Got {name}={value!r}, expected a finite number or a pair (low, high){limits}.")
    return start, stop


def read_choice(name: str, value: Any, known: tuple[str, ...]) -> dict[str, float]:
    """Read a name, a sequence of names or a mapping of names to weights."""
    names = [value] if isinstance(value, str) else value
    try:
        weights = dict(names) if isinstance(names, Mapping) else {key: list(names).count(key) for key in names}
    except TypeError as error:
        raise ParameterError(f"Got {name}={value!r}, expected a name or several of: {', '.join(known)}.") from error
    unknown = [key for key in weights if key not in known]
    if unknown or not weights:
        raise ParameterError(f"Got {name}={value!r}, expected one or several of: {', '.join(known)}.")
    for key, weight in weights.items():
        read_range(f"{name}[{key!r}]", weight, 0.0)
    if sum(weights.values()) <= 0:
        raise ParameterError(f"Got {name}={value!r}, expected at least one positive weight.")
    return {key: float(weight) for key, weight in weights.items()}


def read_noise(value: Any, mains_hz: Any, sampling_rate: float) -> dict[str, tuple[float, float]]:
    """Read the noise: a level for the mixture, or one for each kind."""
    carried = read_range("mains_hz", mains_hz, 1.0)[0] < sampling_rate / 2
    if not isinstance(value, Mapping):
        low, high = read_range("noise", value, 0.0)
        return {k: (low * s, high * s) for k, s in NOISE_SHARES.items() if carried or k != "mains"}
    unknown = [kind for kind in value if kind not in NOISES]
    if unknown:
        raise ParameterError(f"Got noise of kind {unknown[0]!r}, expected some of: {', '.join(NOISES)}.")
    levels = {kind: read_range(f"noise[{kind!r}]", level, 0.0) for kind, level in value.items()}
    if levels.get("mains", (0.0, 0.0))[1] > 0 and not carried:
        raise ParameterError(
            f"Got noise at mains_hz={mains_hz:g} with sampling_rate={sampling_rate:g}, expected a rate above "
            f"{2 * mains_hz:g} Hz. Leave 'mains' out or ask for a higher sampling rate."
        )
    return levels


def read_count(name: str, value: Any) -> int:
    """Read a positive integer."""
    if not is_integer(value, 1):
        raise ParameterError(f"Got {name}={value!r}, expected an integer of at least 1.")
    return int(value)


def read_n_samples(duration_seconds: Any, sampling_rate: float) -> int:
    """Read a duration as a number of samples."""
    low, high = read_range("duration_seconds", duration_seconds, 0.0)
    n_samples = round(low * sampling_rate)
    if low != high or n_samples < 1:
        raise ParameterError(f"Got duration_seconds={duration_seconds!r}, expected a positive number of seconds.")
    return n_samples


def read_twelve_leads(leads: Sequence[str]) -> tuple[str, ...]:
    """Read lead names that are among the twelve."""
    names = canonical_leads(leads)
    unknown = [lead for lead in names if lead not in CANONICAL_LEADS]
    if unknown:
        raise LeadError(f"Got lead {unknown[0]!r}, expected some of: {', '.join(CANONICAL_LEADS)}.")
    return names


def read_seed(random_state: Any) -> int:
    """Turn what scikit-learn's users pass as random_state into one non-negative integer."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if not is_integer(random_state, 0):
        raise ParameterError(
            f"Got random_state={random_state!r}, expected None, an integer from 0 on, or a numpy generator."
        )
    return int(random_state)


class SyntheticECG(NamedTuple):
    """What :func:`make_ecg` gives: ``records, labels = make_ecg(...)``.

    Attributes
    ----------
    records : list of ECGRecord of length n_records
    labels : dict of str to ndarray of shape (n_records,)
        ``rhythm``, ``conduction`` and ``st_territory`` (str, the last empty without a shift of the ST segment);
        ``heart_rate`` (bpm), ``st_level`` (mV), ``axis_degrees``; ``n_beats`` and ``n_ectopic``, the R waves within the
        record and those of them that are premature.
    """

    records: list[ECGRecord]
    labels: dict[str, NDArray[Any]]


def make_ecg(
    n_records: int = 1,
    *,
    duration_seconds: float = 10.0,
    sampling_rate: float = 500.0,
    leads: Sequence[str] = CANONICAL_LEADS,
    heart_rate: Range | None = None,
    rhythm: Choice = "sinus",
    conduction: Choice = "normal",
    st_level: Range = 0.0,
    st_territory: Choice = "anterior",
    axis_degrees: Range | None = None,
    noise: Range | Mapping[str, Range] = 0.0,
    mains_hz: float = 50.0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> SyntheticECG:
    """Make synthetic 12-lead electrocardiograms.

    Every record is another person: amplitudes, widths, intervals, axis and rate vary around the textbook's. Record i
    depends on `random_state` and i alone, never on `n_records`. The noise is drawn apart from the heart: one seed gives
    the same hearts with and without it, and at every sampling rate.

    Parameters
    ----------
    n_records : int, default=1
    duration_seconds : float, default=10.0
    sampling_rate : float, default=500.0
        Samples a second (Hz).
    leads : sequence of str, default=CANONICAL_LEADS
        Which of the twelve leads, in which order.
    heart_rate : float, (low, high) or None, default=None
        Beats a minute, 20 to 240; None draws one that is usual for the rhythm. In ``"pause"`` that around the pause.
    rhythm : {"sinus", "af", "pvc", "pause"}, sequence or mapping, default="sinus"
        Sinus rhythm; atrial fibrillation (irregular, no P wave, fibrillatory waves); sinus rhythm with at least one
        premature ventricular beat and its compensatory pause; sinus rhythm with one stop of at least two seconds.
        A sequence is drawn from evenly, a mapping by its weights.
    conduction : {"normal", "lbbb", "rbbb"}, sequence or mapping, default="normal"
        Normal, left or right bundle branch block.
    st_level : float or (low, high), default=0.0
        Elevation (mV; depression when negative) of the ST segment in the territory's leading lead.
    st_territory : {"anterior", "inferior", "lateral"}, sequence or mapping, default="anterior"
        The injured wall. The leading leads are V3, III and V5; the others shift as the same dipole has it, so that
        reciprocal leads go the other way.
    axis_degrees : float, (low, high) or None, default=None
        Frontal axis of the QRS complex, by its net area in I and aVF (0 is to the left, 90 to the feet); None draws one
        that is usual for the conduction.
    noise : float, (low, high) or mapping, default=0.0
        Root mean square over the leads I, II and V1 to V6 (mV): of the usual mixture, or of each kind in a mapping with
        the keys ``"wander"``, ``"mains"``, ``"emg"`` and ``"motion"``. The mixture leaves the mains out when the
        sampling rate cannot carry them.
    mains_hz : float, default=50.0
        Frequency of the mains.
    random_state : int, numpy Generator or RandomState, or None, default=None
        An int makes the same bits every time.

    Returns
    -------
    SyntheticECG
        The pair ``(records, labels)``.

    Raises
    ------
    ParameterError
        When an argument is not what it has to be, or a record is too short to show its rhythm.
    SamplingRateError, LeadError
        When the rate is not positive, or a lead is none of the twelve.

    Notes
    -----
    The model is that of McSharry et al. (2003) for the heart's dipole on three axes as in Sameni et al. (2007), seen
    through the matrix of Dower et al. (1980). Its differential equation without the relaxation to the baseline has a
    closed solution, sums of Gaussians in the phase of the beat, which is what is evaluated; see
    :mod:`skecg.datasets.heart_model`. I, II and V1 to V6 are projected and the other limb leads computed from I and II,
    so Einthoven's and Goldberger's laws hold to the rounding of float32 (one unit in the last place of the greatest
    term), with noise too, since noise enters at the electrodes.

    These are drawings of disease, not samples of it: good to test code and to teach, not to train a diagnosis.

    Examples
    --------
    >>> records, labels = make_ecg(3, rhythm=["sinus", "af"], random_state=0)
    >>> records[0]
    ECGRecord('synthetic00000': 12 leads (I, II, III, ..., V5, V6), 5000 samples, 500 Hz, 10.0 s)
    >>> labels["rhythm"].shape
    (3,)
    """
    n_made = read_count("n_records", n_records)
    rate = as_sampling_rate(sampling_rate)
    plan = _Plan(
        sampling_rate=rate,
        n_samples=read_n_samples(duration_seconds, rate),
        leads=read_twelve_leads(leads),
        heart_rate=None if heart_rate is None else read_range("heart_rate", heart_rate, *_HEART_RATES_BPM),
        rhythm=read_choice("rhythm", rhythm, tuple(RHYTHMS)),
        conduction=read_choice("conduction", conduction, CONDUCTIONS),
        st_level=read_range("st_level", st_level),
        st_territory=read_choice("st_territory", st_territory, tuple(ST_TERRITORIES)),
        axis_degrees=None if axis_degrees is None else read_range("axis_degrees", axis_degrees, -360.0, 360.0),
        noise=read_noise(noise, mains_hz, rate),
        mains_hz=mains_hz,
    )
    seed = read_seed(random_state)
    made = [_make_one(plan, seed, i) for i in range(n_made)]
    labels = {key: np.array([label[key] for _, label in made]) for key in made[0][1]}
    return SyntheticECG([record for record, _ in made], labels)


class _Plan(NamedTuple):
    """The checked arguments of make_ecg."""

    sampling_rate: float
    n_samples: int
    leads: tuple[str, ...]
    heart_rate: tuple[float, float] | None
    rhythm: dict[str, float]
    conduction: dict[str, float]
    st_level: tuple[float, float]
    st_territory: dict[str, float]
    axis_degrees: tuple[float, float] | None
    noise: dict[str, tuple[float, float]]
    mains_hz: float


def _make_one(plan: _Plan, seed: int, index: int) -> tuple[ECGRecord, dict[str, Any]]:
    """Draw person, beats and noise from streams of their own, and record them."""
    # Four streams, so that noise or another rate leaves the hearts as they were.
    choices, anatomy, beating, disturbing = np.random.default_rng([seed, index]).spawn(4)
    rhythm, conduction, territory = (_pick(choices, c) for c in (plan.rhythm, plan.conduction, plan.st_territory))
    usual_rate = draw_heart_rate(choices, rhythm)
    # Drawn whether they are used or not: what is asked for does not move what else is drawn.
    rate_at, st_at, axis_at = choices.random(3)
    heart_rate = usual_rate if plan.heart_rate is None else _within(plan.heart_rate, rate_at)
    st_level = _within(plan.st_level, st_at)
    axis = None if plan.axis_degrees is None else _within(plan.axis_degrees, axis_at)

    heart, axis = draw_heart(anatomy, conduction, axis, st_dipole(st_level, territory))
    duration_seconds = plan.n_samples / plan.sampling_rate
    beats = draw_beats(beating, rhythm, heart_rate, duration_seconds)
    dipole = trace_dipole(
        heart, beats, atrial=rhythm != "af", sampling_rate=plan.sampling_rate, n_samples=plan.n_samples
    )
    if rhythm == "af":
        dipole += fibrillatory_dipole(beating, plan.sampling_rate, plan.n_samples)
    eight = DOWER.astype(np.float32) @ dipole
    levels = {kind: _within(ends, disturbing.random()) for kind, ends in plan.noise.items()}
    if any(levels.values()):
        eight += draw_noise(disturbing, levels, plan.sampling_rate, plan.n_samples, plan.mains_hz)
    matrix, _ = derivation_matrix(EIGHT_LEADS, plan.leads)
    record = ECGRecord(matrix @ eight, plan.sampling_rate, plan.leads, name=f"synthetic{index:05d}")
    # Beats before and after the recording were drawn for their waves alone.
    inside = (beats.seconds >= 0) & (beats.seconds < duration_seconds)
    return record, {
        "rhythm": rhythm,
        "conduction": conduction,
        "st_territory": territory if st_level else "",
        "heart_rate": heart_rate,
        "st_level": st_level,
        "axis_degrees": axis,
        "n_beats": int(inside.sum()),
        "n_ectopic": int(beats.ectopic[inside].sum()),
    }


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a name by its weight, from one uniform number whatever the names."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


def _within(ends: tuple[float, float], position: float) -> float:
    return float(ends[0] + (ends[1] - ends[0]) * position)


class SyntheticWaves(NamedTuple):
    """What :func:`make_waves` gives: ``records, waves = make_waves(...)``.

    Attributes
    ----------
    records : list of ECGRecord of length n_records
    waves : list of Waves of length n_records
        The same in all leads.
    """

    records: list[ECGRecord]
    waves: list[Waves]


def make_waves(
    n_records: int = 1,
    *,
    duration_seconds: float = 10.0,
    sampling_rate: float = 500.0,
    heart_rate: float | tuple[float, float] = (55.0, 95.0),
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> SyntheticWaves:
    """Make synthetic 12-lead electrocardiograms in sinus rhythm, and mark their P, QRS and T waves.

    The hearts are those of :func:`skecg.datasets.make_ecg`, under noise of 0.01 mV. Record i depends on `random_state`
    and i alone.

    Parameters
    ----------
    n_records : int, default=1
    duration_seconds : float, default=10.0
    sampling_rate : float, default=500.0
        Samples a second (Hz).
    heart_rate : float or (low, high), default=(55.0, 95.0)
        Beats a minute, 20 to 240.
    random_state : int, numpy Generator or RandomState, or None, default=None
        An int makes the same bits every time.

    Returns
    -------
    SyntheticWaves
        The pair ``(records, waves)``. As annotators do, waves within 0.3 s of either end are left out.

    Notes
    -----
    Onset and offset are two widths away from the outer Gaussians that draw a wave, and the peak lies in the middle of
    their centres: consistent, but nobody's reading. Good to test code, not to measure how well waves are found.

    Examples
    --------
    >>> records, waves = make_waves(2, random_state=0)
    >>> records[0].duration_seconds, waves[0].tables[0].shape[1]
    (10.0, 4)
    """
    n_made, rate = read_count("n_records", n_records), as_sampling_rate(sampling_rate)
    n_samples = read_n_samples(duration_seconds, rate)
    low, high = read_range("heart_rate", heart_rate, 20.0, 240.0)
    seed = read_seed(random_state)
    made = []
    for index in range(n_made):
        rng = np.random.default_rng([seed, index])
        heart, _ = draw_heart(rng, "normal", None, np.zeros(3))
        beats = draw_beats(rng, "sinus", low + (high - low) * float(rng.random()), n_samples / rate)
        signal = _record(heart, beats, rng, rate, n_samples)
        table = _table(heart, beats, rate, n_samples)
        record = ECGRecord(signal, rate, CANONICAL_LEADS, name=f"waves{index:05d}")
        made.append((record, Waves(rate, CANONICAL_LEADS, (table,) * len(CANONICAL_LEADS))))
    return SyntheticWaves([record for record, _ in made], [waves for _, waves in made])


def _record(
    heart: Heart, beats: Beats, rng: np.random.Generator, sampling_rate: float, n_samples: int
) -> NDArray[np.float32]:
    """Trace the twelve leads of a heart, with a little noise at the electrodes."""
    dipole = trace_dipole(heart, beats, atrial=True, sampling_rate=sampling_rate, n_samples=n_samples)
    eight = DOWER.astype(np.float32) @ dipole
    eight += rng.normal(scale=_NOISE_MV, size=eight.shape).astype(np.float32)
    matrix, _ = derivation_matrix(EIGHT_LEADS, CANONICAL_LEADS)
    return np.asarray(matrix @ eight, dtype=np.float32)


def _table(heart: Heart, beats: Beats, sampling_rate: float, n_samples: int) -> NDArray[np.int64]:
    """Return where the waves of all beats begin, peak and end, leaving out those beside the record's ends."""
    ends = np.cumsum([len(heart.p_waves), len(heart.qrs_waves)])
    rows = []
    for second, rr in zip(beats.seconds, beats.rr_seconds, strict=True):
        gaussians, _, _ = beat_waves(heart, float(rr), atrial=True, ectopic=False)
        for kind, wave in enumerate(np.split(gaussians, ends)):
            reach = _WIDTHS * wave[:, 1]
            onset, offset = (wave[:, 0] - reach).min(), (wave[:, 0] + reach).max()
            rows.append([second + onset, second + wave[:, 0].mean(), second + offset, kind / sampling_rate])
    table = np.rint(np.array(rows) * sampling_rate).astype(np.int64)
    table = table[np.argsort(table[:, 1], kind="stable")]
    margin = _MARGIN_SECONDS * sampling_rate
    return table[(table[:, 0] >= margin) & (table[:, 2] < n_samples - margin)]
