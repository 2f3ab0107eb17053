"""What files say of their own samples, rate, leads and unit: in lines above a table, or beside an array.

Watches and chest straps write a preamble of names and values before the samples, in the language of their user. Values
tell what they are by themselves: a rate by its hertz, a unit by being one, and a lead by its number beside the unit. A
value that could be something else is not taken, and is asked for instead.

Members of an ``.npz`` file tell the same by their names, of which everyone who saves an array has others. A name that
is understood is obeyed, and two that say different things are an error; one that would change the voltages and is not
understood is refused; all others are passed over.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from skecg.errors import LeadError, SamplingRateError, SkecgError, UnitsError, UnsupportedFormatError
from skecg.io.times import is_index
from skecg.leads import CANONICAL_LEADS, canonical_lead, canonical_leads
from skecg.records import as_sampling_rate, millivolts_per_unit, named_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NOTHING_STATED",
    "Members",
    "Statements",
    "agreed_rate",
    "agreed_unit",
    "are_grouped",
    "check_no_steps",
    "check_same_leads",
    "check_units_heard",
    "count_lines_above",
    "known_rate",
    "plain_number",
    "read_members",
    "read_statements",
]

_T = TypeVar("_T")

_SHOWN = 80  # characters of a text quoted in a message

_MOST_LINES = 64
_LINES_LOOKED_AT = 3
_LEAST_RATE = 10.0  # less than that is a comma that groups thousands
_GROUPS = re.compile(r"[.,\u066b]\d{3}$")  # 10,000 Hz are no 10 either
_LEAST_PLAIN_RATE = 100.0  # below it, a number of hertz without a known name may be a filter's or the mains'

_LONGEST_VALUE = 64
# Also what stands for a sample that is missing; longer dashes rule a line off.
_VALUE = re.compile(r"(?=.*\d)[\d.:/TZe+-]+|nan|na|n/a|null|none|[+-]?inf(inity)?|-{1,3}|", re.IGNORECASE)
_NO_QUOTES = str.maketrans("", "", "\"'[]")
_KEY_AND_VALUE = re.compile(r"[#\s\"']*([^,;:=\t]*?)[\s\"']*[,;:=\t]\s*[(\[]?(.*)")
# Parts of names in the languages of phones. Without them a value has to be recognised alone.
_RATE_KEY = re.compile(
    r"sampl|abtast|messrate|fr[ée]q|frec|frekv|taajuus|cz[ęe]st|част|频|頻|サンプ|샘플|\bfs\b", re.IGNORECASE
)
_BARE_RATE_KEY = re.compile(r"rate|fr[ée]q|frec|\bfs\b|\bhz\b", re.IGNORECASE)
_FILTER_KEY = re.compile(r"filt|notch|mains|pass|cut|netz|heart|herz|card|puls", re.IGNORECASE)
_HERTZ_WORDS = r"hz|hert|her[ct]|герц|гц|χερτζ|ヘルツ|헤르츠|赫|هرتز|הרץ|เฮิรตซ"
_HERTZ = re.compile(rf"(\d[\d.,\u066b]*)\s*(k?)(?:{_HERTZ_WORDS})\S*", re.IGNORECASE)
_UNIT_KEY = re.compile(r"unit|einheit|unid|enhe|единиц|jednost|yksik|단위|単位|单位|單位", re.IGNORECASE)
_LEAD_KEY = re.compile(
    r"lead|channel|ableit|d[ée]riv|afled|avled|отвед|odprow|kytkent|导联|導聯|導程|誘導|유도", re.IGNORECASE
)

# A whole number below 100, one of three digits, or one whose separator may group thousands.
_WHOLE_OR_GROUPED = re.compile(r"[+-]?(?:\d{1,2}|(\d{3})|([1-9]\d{0,2}[.,]\d{3}))")

# What a digitizer's step is called and worth, but not the millimetres of paper for a millivolt, nor a depth in bits.
_STEP = r"adu|adc|lsb|bit|count|digit|step|(?:adc )?unit"
_PER = r"[\s_]*(?:/|per)[\s_]*"
_STEP_KEY = re.compile(
    r"gain|lsb|\badc\b|\badu\b|scal(e|ing)\b|conversion|umrechnung|multiplier"
    rf"|v(olts?)?{_PER}({_STEP})s?\b|\b({_STEP})s?{_PER}[mnuµμ]?v",
    re.IGNORECASE,
)
_NO_STEP_KEY = re.compile(r"\bmm\b", re.IGNORECASE)
_RESOLUTION_KEY = re.compile(r"resolution|auflösung|résolution|sensitivity", re.IGNORECASE)
_STEP_VALUE = re.compile(
    rf"([\d.,]+(?:e[+-]?\d+)?)\s*(?:(?:{_STEP})s?\s*(?:/|per)\s*)?([mnuµμ]?v|)(?:\s*(?:/|per)\s*(?:{_STEP})s?)?",
    re.IGNORECASE,
)
# A unit of voltage that is not the millivolt; "UV" and "NV" may be initials, or what a company is.
_OTHER_VOLTAGE = re.compile(
    r"(?:(?-i:(?<![a-z])(?:[uµμ][vV]|nV))(olts?)?|(?<![a-z])(mi[ck]ro|nano)[\s_-]?[vw](ol\w*)?)(?![a-z])"
    r"|(?<![a-z\d])(?<!\d )(?<!milli[ _-])volts?(?![a-z])|мкв|микровольт|微伏|マイクロボルト|마이크로볼트",
    re.IGNORECASE,
)
# In such a line it may be that of something else than the samples.
_OF_OTHERS = re.compile(r"noise|threshold|\bpac(e|ing)|\b[cm]m\b", re.IGNORECASE)
_STEP_UNIT = re.compile(rf"(?:.*[\s/]|)(?:{_STEP}|raw|a\.?u\.?)s?", re.IGNORECASE)

# In lower case, without blanks, hyphens and underscores.
_RATES = frozenset(
    {"fs", "sr", "sfreq", "srate", "hz", "freq", "frequency", "fshz", "ecgfs", "signalfs"}
    | {f"{word}{what}" for word in ("sampling", "sample", "samp") for what in ("rate", "freq", "frequency")}
    | {f"{word}{what}hz" for word in ("sampling", "sample") for what in ("rate", "freq", "frequency")}
)
_INTERVALS = frozenset(
    {"dt", "deltat"} | {f"{word}{what}" for word in ("sampling", "sample") for what in ("interval", "period")}
)
_MOST_SECONDS, _ROUNDING = 0.5, 1e-4
_RATES |= {f"ecg{name}" for name in _RATES} | {f"{name}ecg" for name in _RATES}
_LEADS = frozenset(
    {"leads", "lead", "leadorder", "channels"}
    | {
        f"{word}{what}"
        for word in ("lead", "ch", "channel", "sig", "signal")
        for what in ("name", "names", "label", "labels")
    }
)
_PERHAPS_LEADS = frozenset({"labels", "columns", "names"})
_UNITS = frozenset(
    {f"{word}{what}" for word in ("", "physical", "sig", "signal", "voltage") for what in ("unit", "units")}
)
# What may say that samples are steps, by a part of its name: where they are none, such a gain is 1 and an offset 0.
_GAIN = re.compile(
    r"gain|lsb|scal(e|ing)|resolution|per(bit|lsb|adu|count|[mu]v)|[mu]vper|adu|conversion|factor|multiplier"
    r"|calibration$|sensitivity$|^step(size)?$|quanti[sz]|quantum"
)
_OFFSET = re.compile(r"baseline|zero|offset")


class Statements(NamedTuple):
    """What a preamble says; None for what it does not say, several units where it contradicts itself."""

    sampling_rate: float | None = None
    units: tuple[str, ...] = ()
    lead: str | None = None
    steps: str | None = None  # the line by which samples may be steps of a digitizer
    unheard: str | None = None  # a line with another unit of voltage than millivolts, wherever it stands there


NOTHING_STATED = Statements()


def count_lines_above(lines: Sequence[str]) -> int:
    """Count the lines above the first row of values; 0 where that is the first row or follows one row of names."""
    first = next((i for i in range(min(len(lines), _MOST_LINES)) if _begins_values(lines, i)), 0)
    return first if sum(bool(line.strip(" \t,;")) for line in lines[:first]) > 1 else 0


def _begins_values(lines: Sequence[str], first: int) -> bool:
    """Whether a line and those after it are numbers and times alone."""
    following = lines[first : first + _LINES_LOOKED_AT]
    return bool(lines[first].strip(" \t,;")) and all(map(_is_row_of_values, following))


def _is_row_of_values(line: str) -> bool:
    cells = re.split(r"[\s,;|]+", line.translate(_NO_QUOTES))
    return all(len(cell) <= _LONGEST_VALUE and _VALUE.fullmatch(cell) for cell in cells)


def read_statements(lines: Sequence[str]) -> Statements:
    """Read what lines of names and values say of the samples below them.

    Parameters
    ----------
    lines : sequence of str
        As they are in the file, blank ones too.

    Returns
    -------
    Statements

    Examples
    --------
    >>> read_statements(["Messrate,511,562 Hertz", "", "Ableitung,Ableitung I", "Einheit,µV"])
    Statements(sampling_rate=511.562, units=('μV',), lead='I', steps=None, unheard='Einheit,μV')
    """
    plain = [unicodedata.normalize("NFKC", line).strip() for line in lines]
    matches = map(_KEY_AND_VALUE.fullmatch, plain)
    pairs = [("", "") if match is None else (match[1], match[2].strip(" \t,;\"')]")) for match in matches]
    places = [place for place, pair in enumerate(pairs) if _is_unit(*pair)]
    units = tuple(dict.fromkeys(pairs[place][1] for place in places))
    unheard = next((line for line in plain if _OTHER_VOLTAGE.search(line) and not _OF_OTHERS.search(line)), None)
    steps = next((f"{key}: {value}" for key, value in pairs if _is_step(key, value)), None)
    return Statements(_rate(pairs), units, _lead(pairs, places), steps, unheard)


def _rate(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return the only rate there is, one with a known name before others."""
    stated = [(key, rate) for key, value in pairs if (rate := _hertz(key, value)) is not None]
    named = {rate for key, rate in stated if _RATE_KEY.search(key)}
    rates = named or {rate for _, rate in stated if rate >= _LEAST_PLAIN_RATE}
    return rates.pop() if len(rates) == 1 else None


def _hertz(key: str, value: str) -> float | None:
    """Read a number of hertz, a bare number too where its name is that of a rate."""
    match = _HERTZ.fullmatch(value)
    is_bare = match is None and _RATE_KEY.search(key) and _BARE_RATE_KEY.search(key)
    if _FILTER_KEY.search(key) or (match is None and not is_bare):
        return None
    number = plain_number(value if match is None else match[1])
    if number is None or not _LEAST_RATE <= number < math.inf:
        return None
    if number < _LEAST_PLAIN_RATE and _GROUPS.search(value if match is None else match[1]):
        return None
    return number * 1000 if match is not None and match[2] else number


def plain_number(text: str) -> float | None:
    """Read a number with a decimal point or comma, None where both are there or anything else."""
    decimal = text.replace("\u066b", ".").replace(",", ".")
    try:
        return float(decimal) if decimal.count(".") <= 1 and "_" not in decimal else None
    except ValueError:
        return None


def are_grouped(cells: Iterable[str]) -> bool:
    """Report numbers whose separator groups thousands: only those from 1000 on have one, three digits from the end.

    Examples
    --------
    >>> are_grouped(["753", "1,153", "-80"]), are_grouped(["753", "1.153", "2.5"]), are_grouped(["0.753", "1.153"])
    (True, False, False)
    """
    found = [_WHOLE_OR_GROUPED.fullmatch(cell.strip()) for cell in cells if any(map(str.isdigit, cell))]
    numbers = [match for match in found if match is not None]
    return len(numbers) == len(found) and any(n[1] for n in numbers) and any(n[2] for n in numbers)


def _is_unit(key: str, value: str) -> bool:
    """Report a unit of voltage; V alone may be a sex or a version unless its name says that it is a unit."""
    return millivolts_per_unit(value) is not None and (len(value) > 1 or _UNIT_KEY.search(key) is not None)


def _is_step(key: str, value: str) -> bool:
    """Report what a step of a digitizer is worth, unless it is a millivolt, and a unit that is such a step."""
    if _UNIT_KEY.search(key) and _STEP_UNIT.fullmatch(value):
        return True
    is_named, is_size = _STEP_KEY.search(key), _RESOLUTION_KEY.search(key)
    worth = _STEP_VALUE.fullmatch(value) if is_named or is_size or _UNIT_KEY.search(key) else None
    # A size, or a unit, is one of a step only where it is a voltage.
    if worth is None or _NO_STEP_KEY.search(key) or (not worth[2] and (is_size or not is_named)):
        return False
    return plain_number(worth[1]) != 1.0 or worth[2].lower() not in ("", "mv")


def check_units_heard(texts: Iterable[str], path: Path) -> None:
    """Raise for a text with another unit of voltage than millivolts, for which samples of no known unit would be taken.

    Raises
    ------
    UnitsError
    """
    unheard = next(filter(_OTHER_VOLTAGE.search, texts), None)
    if unheard is not None:
        raise UnitsError(
            f"Got {unheard[:_SHOWN]!r} in {path}, and no unit that is understood in the place of one. Pass units=, for "
            "example units='uV'; or take it out of the file if the samples are millivolts."
        )


def check_no_steps(stated: Statements, path: Path) -> None:
    """Raise where lines above a table say that its samples are steps of a digitizer.

    Raises
    ------
    UnsupportedFormatError
    """
    if stated.steps is not None:
        raise _steps_beside(stated.steps, path)


def _steps_beside(statement: str, path: Path) -> UnsupportedFormatError:
    """Return the error for samples that a file has to be multiplied by something to be voltages."""
    return UnsupportedFormatError(
        f"Got {statement!r} beside the samples in {path}, which may be steps of a digitizer; expected voltages. "
        "Convert them and save them without it, or pass units= where they are voltages already."
    )


def _lead(pairs: Sequence[tuple[str, str]], units: Sequence[int]) -> str | None:
    """Return the only lead that a line of a lead's name, or one beside the unit, has for its value."""
    beside = {place + step for place in units for step in (-1, 1)}
    leads = {
        lead
        for place, (key, value) in enumerate(pairs)
        if _LEAD_KEY.search(key) or place in beside
        for token in re.findall(r"[A-Za-z]+[1-6]?", value)
        if (lead := canonical_lead(token)) in CANONICAL_LEADS
    }
    return leads.pop() if len(leads) == 1 else None


class Members(NamedTuple):
    """The samples of a file, and what it says of them; None for what it does not say."""

    signal: NDArray[Any]
    sampling_rate: float | None
    leads: tuple[str, ...] | None
    units: str | list[str] | None
    times: NDArray[Any] | None = None


def read_members(arrays: Mapping[str, NDArray[Any]], path: Path, *, are_voltages: bool = False) -> Members:
    """Tell the samples of a file from what it says of them.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        At least one. A lone array is the samples, whatever its name.
    path : Path
        For messages.
    are_voltages : bool, default=False
        Whether the caller says that the samples are voltages, also beside a gain.

    Raises
    ------
    UnsupportedFormatError
        When several arrays could be the samples, or one says that they are no voltages.
    SamplingRateError, LeadError, UnitsError
        When two members contradict each other, or one makes no sense.

    Examples
    --------
    >>> read_members({"signal": np.ones((1, 9)), "fs": np.array(500), "ch_names": np.array(["ii"])}, Path("a.npz"))[1:4]
    (500.0, ('II',), None)
    """
    if len(arrays) == 1:
        if not are_voltages:
            check_units_heard(arrays, path)
        return Members(next(iter(arrays.values())), None, None, None)
    others = {name: value for name, value in arrays.items() if name != "signal"}
    intervals = [name for name in _named(others, _INTERVALS) if others[name].dtype.kind in "iuf"]
    rates = {name: _member_rate(others.pop(name), name, path) for name in [*_named(others, _RATES), *intervals]}
    times = [others.pop(name).ravel() for name in _times_in(others)]
    of_leads = {name: others.pop(name) for name in [*_named(others, _LEADS), *_lists_of_leads(others)]}
    # Under another name than "leads", numbers may count them.
    leads = {
        name: canonical_leads(_texts(value))
        for name, value in of_leads.items()
        if name == "leads" or value.dtype.kind in "US"
    }
    units = {name: _texts(others.pop(name)) for name in _named(others, _UNITS) or _named_otherwise(others)}
    scaling = [name for name in others if _GAIN.search(_plain(name)) or _OFFSET.search(_plain(name))]
    scales = {name: others.pop(name) for name in scaling}
    if "signal" not in arrays and len(others) != 1:
        raise UnsupportedFormatError(
            f"Got {len(arrays)} arrays ({', '.join(arrays)}) in {path}, expected one, or one named 'signal' (with "
            "'sampling_rate', 'leads' and 'units' if they are known)."
        )
    name = "signal" if "signal" in arrays else next(iter(others))
    if not are_voltages:
        _check_scales(scales, path)
    if not units:
        units = {member: [of_names] for member in leads if (of_names := named_unit(_texts(of_leads[member])))}
    if not are_voltages and not units:
        check_units_heard([name, *(text for value in others.values() for text in _texts_alone(value))], path)
    rate = _agreed(rates, rates, SamplingRateError, path)
    named = _agreed(leads, leads, LeadError, path)
    unit = _agreed(units, {name: _factors(value) for name, value in units.items()}, UnitsError, path)
    of_all = unit[0] if unit is not None and len(unit) == 1 else unit
    return Members(arrays[name], rate, named, of_all, next(iter(times), None))


def _named(arrays: Mapping[str, Any], names: Container[str]) -> list[str]:
    """Return which members have one of some names, however they are written."""
    return [name for name in arrays if _plain(name) in names]


def _lists_of_leads(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return which members of names that may mean anything hold the names of standard leads alone."""
    return [
        name
        for name in _named(arrays, _PERHAPS_LEADS)
        if all(canonical_lead(text) in CANONICAL_LEADS for text in _texts(arrays[name]))
    ]


def _named_otherwise(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return which members are units of voltage by what they hold."""
    return [
        name
        for name, value in arrays.items()
        if (texts := _texts_alone(value)) and all(_is_unit(name, text) for text in texts)
    ]


def _plain(name: str) -> str:
    """Write a name in lower case without what separates its words."""
    return re.sub(r"[\s_-]", "", name).lower()


def _member_rate(value: NDArray[Any], name: str, path: Path) -> float:
    """Read a rate: one number, or the same for each lead; or seconds, milliseconds if many, between samples."""
    numbers = np.unique(value)
    rate = as_sampling_rate(numbers.item() if numbers.size == 1 else value, f" as {name!r} in {path}")
    if _plain(name) not in _INTERVALS:
        return rate
    rate = (1 if rate < _MOST_SECONDS else 1000) / rate
    return float(round(rate)) if abs(round(rate) - rate) < _ROUNDING * rate else rate


def _times_in(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return which members are times or numbers of samples."""
    return [
        name
        for name, value in arrays.items()
        if value.dtype.kind in "iuf" and value.size == max(value.shape, default=0)
        if is_index(name.lower(), 1, value.ravel(), False)
    ]


def _texts(value: NDArray[Any]) -> list[str]:
    """Return a text, or several, as a list."""
    texts: list[str] = np.atleast_1d(value).astype(str).tolist()
    return texts


def _texts_alone(value: NDArray[Any]) -> list[str]:
    """Return the texts of an array of texts, none of any other."""
    return _texts(value) if value.dtype.kind in "US" else []


def _factors(units: Sequence[str]) -> tuple[float | None, ...]:
    """Return what compares units: the only one of all leads, or that of each."""
    factors = tuple([millivolts_per_unit(unit) for unit in units])
    return factors[:1] if len(set(factors)) == 1 else factors


def _agreed(stated: Mapping[str, _T], compared: Mapping[str, Any], error: type[SkecgError], path: Path) -> _T | None:
    """Return what all members of one meaning say, None where there are none."""
    for name in stated:
        first = next(iter(stated))
        if compared[name] != compared[first]:
            raise error(
                f"Got {first}={stated[first]!r} and {name}={stated[name]!r} in {path}, expected members that agree. "
                "Save the file again without the one that is wrong."
            )
    return next(iter(stated.values()), None)


def _check_scales(scales: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Raise for a gain or an offset that would change the samples."""
    for name, value in scales.items():
        if np.any(value != (1.0 if _GAIN.search(_plain(name)) else 0.0)):
            raise _steps_beside(name, path)


def agreed_unit(given: str | None, stated: Sequence[str], path: Path) -> str:
    """Return the unit that the caller names, else the file, else millivolts; raise when the first two contradict."""
    factors = {millivolts_per_unit(unit) for unit in stated}
    if given is not None:
        if len(factors) == 1 and factors != {millivolts_per_unit(given)}:
            raise UnitsError(
                f"Got values in {stated[0]} in {path} and units={given!r}. Pass units={stated[0]!r} or none, or "
                "correct the file."
            )
        return given
    if len(factors) > 1:
        raise UnitsError(
            f"Got values in {' and in '.join(stated)} in {path}, expected one unit for all. Pass units=, for example "
            "units='uV'."
        )
    return stated[0] if stated else "mV"


def known_rate(value: Any, path: Path) -> float:
    """Check the rate, which a table without one must be given."""
    if value is None:
        raise SamplingRateError(
            f"Got no sampling rate for {path}, which does not carry one. Pass sampling_rate=, for example 500."
        )
    return as_sampling_rate(value, f" for {path}")


def agreed_rate(given: Any, stored: float | None, path: Path) -> float:
    """Return the rate that the caller, the file or both name."""
    if stored is None:
        return known_rate(given, path)
    if given is not None and not math.isclose(as_sampling_rate(given), stored, rel_tol=1e-6):  # that of float32
        raise SamplingRateError(
            f"Got sampling_rate={given!r} for {path}, which says {stored:g} Hz. Leave the argument out."
        )
    return stored


def check_same_leads(given: tuple[str, ...] | None, named: tuple[str, ...] | None, path: Path) -> None:
    """Raise for leads that the file has in another order: one of the two orders is wrong. Other names may be better."""
    if given is None or named is None or len(given) != len(named):
        return  # of another number it is said what there are
    if any(said != own and said in named for said, own in zip(given, named, strict=True)):
        raise LeadError(
            f"Got leads={list(given)} for {path}, which names leads in another order: {list(named)}. Leave the "
            "argument out, or correct the file."
        )
