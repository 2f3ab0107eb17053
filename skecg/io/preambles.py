"""What lines above the samples of a text table say of them: rate, unit and lead, in any language.

Watches and chest straps write a preamble of names and values before the samples, in the language of their user. Values
tell what they are by themselves: a rate by its hertz, a unit by being one, and a lead by its number beside the unit. A
value that could be something else is not taken, and is asked for instead.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from skecg.leads import CANONICAL_LEADS, canonical_lead
from skecg.records import millivolts_per_unit

__all__ = ["NOTHING_STATED", "Statements", "count_lines_above", "plain_number", "read_statements"]


class Statements(NamedTuple):
    """What a preamble says; None for what it does not say, several units where it contradicts itself."""

    sampling_rate: float | None = None
    units: tuple[str, ...] = ()
    lead: str | None = None


NOTHING_STATED = Statements()

_MOST_LINES = 64
_LINES_LOOKED_AT = 3
_LEAST_RATE = 10.0  # less than that is a comma that groups thousands
_LEAST_PLAIN_RATE = 100.0  # below it, a number of hertz without a known name may be a filter's or the mains'

_LONGEST_VALUE = 64
_VALUE = re.compile(r"(?=.*\d)[\d.:/TZe+-]+|nan|na|n/a|null|none|", re.IGNORECASE)
_NO_QUOTES = str.maketrans("", "", "\"'[]")
_KEY_AND_VALUE = re.compile(r"[#\s\"']*([^,;:=\t]*?)[\s\"']*[,;:=\t]\s*(.*)")
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


def count_lines_above(lines: Sequence[str]) -> int:
    """Count the lines above the first row of values; 0 where that is the first row or follows one row of names."""
    first = next((i for i in range(min(len(lines), _MOST_LINES)) if _begins_values(lines, i)), 0)
    return first if sum(bool(line.strip(" \t,;")) for line in lines[:first]) > 1 else 0


def _begins_values(lines: Sequence[str], first: int) -> bool:
    """Whether a line and those after it are numbers and times alone."""
    following = lines[first : first + _LINES_LOOKED_AT]
    return bool(lines[first].strip(" \t,;")) and all(map(_is_row_of_values, following))


def _is_row_of_values(line: str) -> bool:
    cells = re.split(r"[\s,;]+", line.translate(_NO_QUOTES))
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
    Statements(sampling_rate=511.562, units=('μV',), lead='I')
    """
    matches = [_KEY_AND_VALUE.fullmatch(unicodedata.normalize("NFKC", line).strip()) for line in lines]
    pairs = [("", "") if match is None else (match[1], match[2].strip(" \t,;\"'")) for match in matches]
    places = [place for place, pair in enumerate(pairs) if _is_unit(*pair)]
    units = tuple(dict.fromkeys(pairs[place][1] for place in places))
    return Statements(_rate(pairs), units, _lead(pairs, places))


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
    return number * 1000 if match is not None and match[2] else number


def plain_number(text: str) -> float | None:
    """Read a number with a decimal point or comma, None where both are there or anything else."""
    decimal = text.replace("\u066b", ".").replace(",", ".")
    try:
        return float(decimal) if decimal.count(".") <= 1 and "_" not in decimal else None
    except ValueError:
        return None


def _is_unit(key: str, value: str) -> bool:
    """Report a unit of voltage; V alone may be a sex or a version unless its name says that it is a unit."""
    return millivolts_per_unit(value) is not None and (len(value) > 1 or _UNIT_KEY.search(key) is not None)


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
