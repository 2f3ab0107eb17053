"""The twelve leads: their names, their order, and the two laws that bind the limb leads.

Einthoven's law (``II = I + III``) and Goldberger's (``aVR = -(I + II) / 2`` and its sisters) say that the six limb
leads are two signals seen from six sides. Each limb lead is therefore a pair of coefficients on (I, II); a missing
one follows from any two others, and a set that is out of order betrays itself.

References
----------
.. [1] Einthoven W., Fahr G., de Waart A. (1913). Über die Richtung und die manifeste Grösse der Potentialschwankungen
       im menschlichen Herzen. Pflügers Archiv 150.
.. [2] Goldberger E. (1942). A simple, indifferent, electrocardiographic electrode of zero potential. Am Heart J 23.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skecg.errors import LeadError

__all__ = [
    "CANONICAL_LEADS",
    "EIGHT_LEADS",
    "LIMB_COEFFICIENTS",
    "canonical_lead",
    "canonical_leads",
    "known_leads",
    "bare_name",
    "head_electrodes",
    "lead_names",
    "unit_in_name",
    "derivation_matrix",
    "limb_lead_orders",
]

#: The standard order of the twelve leads.
CANONICAL_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

#: The eight leads that carry all the information of the twelve.
EIGHT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

#: Each limb lead as its coefficients on leads I and II.
LIMB_COEFFICIENTS: dict[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}

# Leads that exist and are none of the twelve: further chest leads, Frank's, monitors' and Holters', generic names.
_OTHER_LEADS = {f"V{n}" for n in (7, 8, 9)} | {f"V{n}R" for n in range(1, 10)} | {"X", "Y", "Z", "VX", "VY", "VZ"}
_OTHER_LEADS |= {"MLI", "MLII", "MLIII", "MCL1", "MCL5", "MCL6", "CM1", "CM2", "CM4", "CM5", "CC5", "ML5", "CH", "NASA"}
_OTHER_LEADS |= {"MV1", "MV2", "MV5", "MV6", "EASI", "ES", "AS", "AI", "ECG", "EKG", "ECG1", "ECG2", "ECG3"}
_OTHER_LEADS |= {"D3", "MOD.V1", "V1-V2", "V2-V3", "V4-V5"}
_OTHER_LEADS |= {f"-{lead.upper()}" for lead in LIMB_COEFFICIENTS}

_ALIASES = {lead.upper(): lead for lead in CANONICAL_LEADS}
_ALIASES |= {"D1": "I", "D2": "II", "D3": "III", "DI": "I", "DII": "II", "DIII": "III"}
_ALIASES |= {"L1": "I", "L2": "II", "L3": "III"}
_ALIASES |= {"VR": "aVR", "VL": "aVL", "VF": "aVF"}
_ALIASES |= {f"C{n}": f"V{n}" for n in range(1, 7)}

# What recorders write around a lead's name: "Lead I (Einthoven)", "MDC_ECG_LEAD_AVR", "ECG II", "V1-REF", "Abl. I". A
# hyphen that stands apart from what is before it, and not from the name, is the name's sign: "Lead -aVR".
_GAP = r"(?:-|[ _:]*- +|[ _:]+)"
_WORD = rf"(ABL\.?|ABLEITUNG|D[ÉE]RIVATION|DERIVACI[ÓO]N|DERIVAÇÃO|DERIVAZIONE|AFLEIDING|AVLEDNING|ODPROWADZENIE){_GAP}"
_PREFIX = re.compile(rf"^(MDC[_ ]ECG[_ ]LEAD[_ ]|(E[CK]G{_GAP}?)?LEAD{_GAP}?|E[CK]G{_GAP}|{_WORD})", re.IGNORECASE)
# Of what stands in brackets only words that change nothing: "aVR (inverted)" and "V4 (R)" are other leads.
_SAME_LEAD = (
    r"einthoven|goldberger|wilson|limb|chest|precordial|frontal|augmented|unipolar|bipolar|standard|lead|ecg|raw|ref"
    r"|filtered|[mnuµμ]?v"
)
_SUFFIX = re.compile(rf"([ _-]*(REF|RAW)|\s*\(\s*(({_SAME_LEAD})[\s_-]*)+\))$", re.IGNORECASE)

_UNIT = re.compile(r"(?<![a-z])[mnuµμ]?v(?![a-z])", re.IGNORECASE)

# How aECG and DICOM write -aVR.
_NEGATIVE = re.compile(r"^AVR[ _-]?NEG(ATIVE)?$")

# Electrodes of the head, the eyes' and the chin's beside them. Their C3 is also an old spelling of V3, their D1 of I.
_HEAD_ELECTRODE = re.compile(
    r"(E[EO]G|CHIN).*|((FP|AF|F|FC|FT|T|TP|P|PO|O|CP)(\d{1,2}|Z)|[CFP]Z|[AM][12]|[LR]OC)([^a-z0-9].*)?", re.IGNORECASE
)
_CENTRAL_ELECTRODE = re.compile(r"-?[CDL][1-6]([^a-z0-9].*)?", re.IGNORECASE)

# The standard's own codes tell VR, the voltage of the right arm, from aVR, which is half as much again.
_NOT_AUGMENTED = re.compile(r"MDC[_ ]ECG[_ ]LEAD[_ ]V[RLF]", re.IGNORECASE)

# An order of the limb leads keeps the laws when they leave less than this share of the power unexplained.
_FITTING = 0.02


def canonical_lead(name: str) -> str:
    """Return a lead's standard spelling.

    Parameters
    ----------
    name : str
        A name as files and users write it: ``"AVR"``, ``"avr"``, ``"Lead II"``, ``"MDC_ECG_LEAD_V1"``, ``"DII"``.

    Returns
    -------
    str
        One of :data:`CANONICAL_LEADS` where the name is one of theirs, else the name itself without outer blanks
        (``"MLII"``, ``"vx"`` and other leads that are none of the twelve keep their names). One with a minus before it
        is another lead: ``"-aVR"``.

    Examples
    --------
    >>> canonical_lead("MDC_ECG_LEAD_AVF"), canonical_lead("dii"), canonical_lead("MLII")
    ('aVF', 'II', 'MLII')
    """
    if not isinstance(name, str):
        raise LeadError(
            f"Got a lead named {name!r} of type {type(name).__name__}, expected a name such as 'II' or 'V1'."
        )
    return _standard_spelling(name)


@lru_cache(maxsize=1024)
def _standard_spelling(name: str) -> str:
    """Look a name up without what recorders write around it; records of one archive bear the same few."""
    if _NOT_AUGMENTED.fullmatch(name.strip()):
        return name.strip()
    bare = _NEGATIVE.sub("-AVR", _SUFFIX.sub("", _PREFIX.sub("", name.strip())).strip(" _").upper())
    parts = re.split(r"[\s_-]", bare.removeprefix("-").strip())
    # "V-1" is one name in parts. A sign, or another lead, stands before or after a whole one: "aVR-", "I-II".
    if parts[0] == "" or any("".join(parts[:i]) in _ALIASES for i in range(1, len(parts))):
        return name.strip()
    lead = _ALIASES.get("".join(parts), name.strip())
    return f"-{lead}" if bare.startswith("-") and lead in CANONICAL_LEADS else lead


def canonical_leads(names: Sequence[str]) -> tuple[str, ...]:
    """Return the standard spelling of several leads, refusing an empty list and duplicates.

    Raises
    ------
    LeadError
        When `names` is a bare string, no list (a set has no order, a mapping two names a lead), is empty, names one
        lead twice, or a lead as an electrode beside it is named (C3 beside Fp1).

    Examples
    --------
    >>> canonical_leads(["i", "AVR", "v1"])
    ('I', 'aVR', 'V1')
    """
    if isinstance(names, str):
        raise LeadError(f"Got leads={names!r}, a bare string; expected a list of names. Write leads=[{names!r}].")
    # A set has no order, and names would go to rows by chance; which of a mapping's names were meant is not told.
    if isinstance(names, Set | Mapping) or not hasattr(names, "__len__"):
        raise LeadError(
            f"Got leads={names!r} of type {type(names).__name__}, expected a list of names in the order of the rows. "
            "Pass for example leads=['I', 'II']; a mapping of names goes to JEPAEmbedder(leads=...)."
        )
    leads = tuple([canonical_lead(name) for name in names])
    if not leads:
        raise LeadError("Got no lead names, expected at least one, for example leads=['II'].")
    if len(set(leads)) < len(leads):
        twice = sorted({lead for lead in leads if leads.count(lead) > 1})
        raise LeadError(
            f"Got lead(s) {', '.join(twice)} more than once in {list(names)}, expected every row to have its own name."
        )
    heads, central = head_electrodes(tuple(names))
    doubtful = [name for name in central if canonical_lead(name) in CANONICAL_LEADS]
    if doubtful:
        raise LeadError(
            f"Got {', '.join(doubtful)} beside {', '.join(heads)}, electrodes of the head, in {list(names)}: which are "
            f"leads cannot be told. Leave out what is no ECG, or name leads {canonical_lead(doubtful[0])} and so on."
        )
    return leads


def known_leads(names: Sequence[str]) -> tuple[str, ...]:
    """Return the standard spelling of leads that a user names, refusing what nobody knows.

    Raises
    ------
    LeadError
        When a name is no lead's; the message suggests one. And as :func:`canonical_leads` does.

    Examples
    --------
    >>> known_leads(["MLII", "v1"])
    ('MLII', 'V1')
    """
    leads = canonical_leads(names)
    for lead in leads:
        if lead not in CANONICAL_LEADS and lead.upper() not in _OTHER_LEADS:
            close = difflib.get_close_matches(lead.upper(), [name.upper() for name in CANONICAL_LEADS], n=1, cutoff=0.0)
            raise LeadError(
                f"Got a lead named {lead!r}, which nobody knows; expected names such as {', '.join(CANONICAL_LEADS)}. "
                f"Did you mean {canonical_lead(close[0])!r}?"
            )
    return leads


def lead_names(mapping: Mapping[str, str]) -> dict[str, str]:
    """Check what a user says leads with other names are, such as ``{"MLII": "II"}``.

    Returns
    -------
    dict of str to str
        Names as :func:`bare_name` has them, to standard names.

    Raises
    ------
    LeadError
        When nothing is named, what is named is none of the twelve leads, or two names stand for one lead.
    """
    if not mapping:
        raise LeadError("Got leads={}, expected names and what they stand for. Pass for example leads={'MLII': 'II'}.")
    standard = known_leads(list(mapping.values()))
    for lead in standard:
        if lead not in CANONICAL_LEADS:
            raise LeadError(
                f"Got leads={dict(mapping)!r}, expected each to stand for one of {', '.join(CANONICAL_LEADS)}."
            )
    return dict(zip(map(bare_name, mapping), standard, strict=True))


@lru_cache(maxsize=1024)
def head_electrodes(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return what is named as electrodes of the head, and those names beside them that a lead may also bear.

    C3 beside Fp1 is the head's, alone among leads the chest's.

    Examples
    --------
    >>> head_electrodes(("Fp1", "C3", "ECG")), head_electrodes(("I", "C3"))
    ((['Fp1'], ['C3']), ([], []))
    """
    heads = [name for name in names if _HEAD_ELECTRODE.fullmatch(name.strip())]
    return heads, [name for name in names if _CENTRAL_ELECTRODE.fullmatch(name.strip())] if heads else []


def bare_name(lead: str) -> str:
    """Return a lead's name without what spellings differ in: case, blanks, dots and underscores."""
    return canonical_lead(lead).upper().translate(str.maketrans("", "", " ._"))


def unit_in_name(lead: str) -> str | None:
    """Return the unit of voltage that a name states in brackets, None where it states none.

    Examples
    --------
    >>> unit_in_name("I (uV)"), unit_in_name("V1 (raw)")
    ('uV', None)
    """
    suffix = _SUFFIX.search(lead.strip())
    unit = _UNIT.search(suffix[0]) if suffix else None
    return unit[0] if unit else None


def derivation_matrix(available: Sequence[str], wanted: Sequence[str]) -> tuple[NDArray[np.float32], list[str]]:
    """Return how to make the wanted leads from those available.

    A lead that is available is taken as it is. A limb lead that is not is computed from leads I and II or, where one
    of those is absent too, from the first two other limb leads there are.

    Parameters
    ----------
    available, wanted : sequence of str
        Canonical lead names.

    Returns
    -------
    matrix : ndarray of shape (n_wanted, n_available), float32
        ``matrix @ signal`` holds the wanted leads; rows of leads that cannot be had are zero.
    missing : list of str
        The wanted leads that cannot be had.

    Examples
    --------
    >>> matrix, missing = derivation_matrix(["I", "II"], ["III", "V1"])
    >>> matrix.tolist(), missing
    ([[-1.0, 1.0], [0.0, 0.0]], ['V1'])
    """
    available = list(available)
    # A matrix for all leads at once, so that deriving them is one product for a record.
    matrix = np.zeros((len(wanted), len(available)), dtype=np.float32)
    basis = [lead for lead in LIMB_COEFFICIENTS if lead in available][:2]
    missing = []
    for row, lead in enumerate(wanted):
        if lead in available:
            matrix[row, available.index(lead)] = 1.0
        elif lead in LIMB_COEFFICIENTS and len(basis) == 2:
            weights = np.linalg.solve(np.array([LIMB_COEFFICIENTS[b] for b in basis]).T, LIMB_COEFFICIENTS[lead])
            matrix[row, [available.index(b) for b in basis]] = weights
        else:
            missing.append(lead)
    return matrix, missing


def limb_lead_orders(signal: NDArray[np.floating], leads: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Find the true names of limb leads that are exchanged or upside down, by the laws that bind them.

    Parameters
    ----------
    signal : ndarray of shape (n_leads, n_samples)
        Signals as named.
    leads : sequence of str of length n_leads
        Their names; anything but the six limb leads is passed over.

    Returns
    -------
    tuple of tuple of str
        The names that the rows must bear for the laws to hold: in another order, or with a minus before up to three
        (``"-aVR"``). Each is the only one of its kind that keeps them (less than 2 % of the power unexplained) where
        the given one leaves 20 times as much unexplained; lead I upside down is the same as an order, so that there are
        two. Empty when all is well, when not all six limb leads are there, or when no order or several explain the
        signals (noise, leads scaled one by one, one wave in all leads).
    """
    rows = [i for i, lead in enumerate(leads) if lead in LIMB_COEFFICIENTS]
    if len(rows) < 6:
        return ()
    # In float64: the test is a difference of sums of squares.
    limb = np.asarray(signal)[rows].astype(np.float64)
    # Six by six: the laws are tried on it, for 720 orders, without touching the samples again.
    gram = _gram_matrix(limb)
    # Looking for NaN in the sum is cheaper than in every sample, and most records have none.
    if math.isnan(gram.trace()):
        gram = _gram_matrix(np.nan_to_num(limb))
    power = float(gram.trace())
    orders, residuals = _limb_orders()
    given = orders.index(tuple([leads[i] for i in rows]))
    # Nearly every record is in order: where the given one fits, it is the only one that does or one of several.
    if residuals[given] @ gram.ravel() < _FITTING * power or (gram.diagonal() <= 1e-9 * power).any():
        return ()
    signs = _limb_signs()
    signed = [
        tuple([f"-{lead}" if sign < 0 else lead for sign, lead in zip(row, orders[given], strict=True)])
        for row in signs
    ]
    turned = np.einsum("ni,nj,ij->nij", signs, signs, residuals[given].reshape(6, 6)).reshape(len(signs), 36)
    found: dict[tuple[str, ...], float] = {}
    for names, matrices in ((orders, residuals), (signed, turned)):
        unexplained = matrices @ gram.ravel() / power
        fitting = np.flatnonzero(unexplained < _FITTING)
        # One order alone: a wrong correction is worse than none.
        if len(fitting) > 1:
            return ()
        found |= {tuple(names[i]): max(0.0, float(unexplained[i])) for i in fitting}
    # By far better than what was given, and none by far better than it.
    worst, best = float(residuals[given] @ gram.ravel() / power), min(found.values(), default=0.0)
    true = [dict(zip(rows, names, strict=True)) for names, left in found.items() if left <= max(20 * best, 1e-9)]
    return tuple(
        [tuple([names.get(row, lead) for row, lead in enumerate(leads)]) for names in true if worst > 20 * best]
    )


def _gram_matrix(limb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply each lead, less its mean, with each."""
    centred = limb - limb.sum(axis=1, keepdims=True) / limb.shape[1]
    product: NDArray[np.float64] = centred @ centred.T
    return product


@lru_cache(maxsize=1)
def _limb_orders() -> tuple[list[tuple[str, ...]], NDArray[np.float64]]:
    """List the 720 orders of the limb leads and, for each, what measures the power that the laws leave unexplained.

    The six rows must equal C @ (I, II) for the known coefficients C; what lies outside the span of C's columns breaks
    the laws, and its power is the sum of the entries of the Gram matrix weighted by the projector onto the rest.
    """
    orders = list(itertools.permutations(LIMB_COEFFICIENTS))
    coefficients = np.array([[LIMB_COEFFICIENTS[lead] for lead in order] for order in orders])
    residuals = np.eye(6) - coefficients @ np.linalg.pinv(coefficients)
    return orders, residuals.reshape(len(orders), 36)


@lru_cache(maxsize=1)
def _limb_signs() -> NDArray[np.float64]:
    """List how one to three of the six limb leads can be upside down; with all six the laws hold again."""
    rows = [turned for n in (1, 2, 3) for turned in itertools.combinations(range(6), n)]
    rows = [turned for turned in rows if len(turned) < 3 or 0 in turned]
    return np.array([[-1.0 if i in turned else 1.0 for i in range(6)] for turned in rows])
