"""Licences: whether the data that weights were trained on allow the licence that the weights are given.

A careful reading, not legal advice. Whether weights are derived from their training data in the sense of a licence is
not settled; here they are taken to be, but for the Open Database Licence, whose conditions on databases leave works
produced from one free if the database is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skecg.errors import ParameterError
from skecg.validation import suggestion

__all__ = ["LICENCES", "Licence", "data_licences", "licence_problems", "licence_text", "read_licence"]

_OPEN_DATA = "https://opendatacommons.org/licenses"
_PHYSIONET = "https://physionet.org/about/licenses"


@dataclass(frozen=True)
class Licence:
    """A licence that is known here.

    Parameters
    ----------
    name : str
        Identifier of SPDX.
    title, url : str
        What it is called, and where its text is.
    hub_id : str
        How the Hub calls it; ``"other"`` when it does not know it.
    """

    name: str
    title: str
    url: str
    hub_id: str

    @property
    def is_non_commercial(self) -> bool:
        """Whether it forbids commercial use."""
        return "-NC" in self.name

    @property
    def is_share_alike(self) -> bool:
        """Whether what is derived has to be under the same licence."""
        return self.name.startswith("CC-") and "-SA" in self.name

    @property
    def forbids_sharing(self) -> bool:
        """Whether what is derived must not be passed on."""
        # PhysioNet's two licences bind whoever signed them, and let nobody pass the data on.
        return "-ND" in self.name or self.name.startswith("PhysioNet-")


def _creative_commons(kind: str) -> Licence:
    url = f"https://creativecommons.org/licenses/{kind}/4.0/legalcode"
    words = {"by": "Attribution", "nc": "NonCommercial", "sa": "ShareAlike", "nd": "NoDerivatives"}
    title = f"Creative Commons {'-'.join(words[part] for part in kind.split('-'))} 4.0 International"
    return Licence(f"CC-{kind.upper()}-4.0", title, url, f"cc-{kind}-4.0")


LICENCES = (
    Licence("Apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
    Licence("MIT", "MIT License", "https://opensource.org/license/mit", "mit"),
    Licence("BSD-3-Clause", "BSD 3-Clause License", "https://opensource.org/license/bsd-3-clause", "bsd-3-clause"),
    Licence("CC0-1.0", "Creative Commons Zero 1.0", "https://creativecommons.org/publicdomain/zero/1.0", "cc0-1.0"),
    *map(_creative_commons, ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")),
    Licence("ODC-By-1.0", "Open Data Commons Attribution License 1.0", f"{_OPEN_DATA}/by", "odc-by"),
    Licence("ODbL-1.0", "Open Data Commons Open Database License 1.0", f"{_OPEN_DATA}/odbl", "odbl"),
    Licence("PhysioNet-Restricted-1.5.0", "PhysioNet Restricted Health Data License 1.5.0", _PHYSIONET, "other"),
    Licence("PhysioNet-Credentialed-1.5.0", "PhysioNet Credentialed Health Data License 1.5.0", _PHYSIONET, "other"),
)

#: Public archives by the names they go by, letters and digits alone, and the licence they are distributed under.
_ARCHIVES = {
    "ptbxl": "CC-BY-4.0",
    "ptbxlraw": "CC-BY-4.0",
    "ptbxlstandardized": "CC-BY-4.0",
    "code15": "CC-BY-4.0",
    "code15samitrop": "CC-BY-4.0",
    "mimic": "ODbL-1.0",
    "mimicivecg": "ODbL-1.0",
    "ecgarrhythmia": "CC-BY-4.0",
    "chapman": "CC-BY-4.0",
    "chapmanshaoxing": "CC-BY-4.0",
    "ningbo": "CC-BY-4.0",
    "georgia": "CC-BY-4.0",
    "cpsc": "CC-BY-4.0",
    "cpsc2018": "CC-BY-4.0",
    "challenge2021": "CC-BY-4.0",
    "cinc2011": "ODC-By-1.0",
    "cinc20202021": "CC-BY-4.0",
    "ludb": "ODC-By-1.0",
    "ptb": "ODC-By-1.0",
    "incart": "ODC-By-1.0",
}


def read_licence(text: object) -> Licence | None:
    """Find a licence by its identifier; None when it is not known here."""
    wanted = re.sub(r"[\s_]+", "-", str(text).strip().lower())
    # The Hub calls "other" whatever it has no word for.
    return next((one for one in LICENCES if wanted in {one.name.lower(), one.hub_id} - {"other"}), None)


def data_licences(provenance: Mapping[str, Any], told: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Return the licence of each archive that weights were trained on, None where it is not known.

    Parameters
    ----------
    provenance : mapping
        Its ``data`` names the archives, its ``data_licences`` their licences.
    told : mapping, optional
        Archive to licence, as a user says; goes first.

    Raises
    ------
    ParameterError
        When a user says it of an archive that is not among them: a licence would go unread.
    """
    archives = _archives(provenance.get("data", ""))
    for name in told or {}:
        if _key(name) not in map(_key, archives):
            named = ", ".join(map(repr, archives)) or "none, for they name none"
            raise ParameterError(
                f"Got a licence of {name!r}, expected an archive that the weights were trained on: {named}."
                f"{suggestion(name, archives)}"
            )
    recorded = provenance.get("data_licences")
    said = {**(recorded if isinstance(recorded, Mapping) else {}), **(told or {})}
    # What the publisher says goes before what is known here: an archive may be had under terms of one's own.
    by_key = {_key(name): str(licence) for name, licence in said.items()}
    found = {}
    for name in archives:
        found[name] = by_key.get(_key(name)) or _ARCHIVES.get(_key(name))
    return found


def licence_problems(provenance: Mapping[str, Any], data: Mapping[str, str | None]) -> list[str]:
    """Return what keeps weights from being passed on under the licence that they are given."""
    problems = []
    given = provenance.get("licence")
    weights = read_licence(given)
    if not given:
        problems.append("the weights name no licence (provenance 'licence')")
    # A converter writes the note where the authors licensed their code and said nothing of the weights.
    if "licence_note" in provenance:
        problems.append(f"their licence is not certain: {provenance['licence_note']}")
    for archive, name in data.items():
        problem = _conflict(archive, name, weights, str(given))
        if problem:
            problems.append(problem)
    return problems


def _conflict(archive: str, name: str | None, weights: Licence | None, given: str) -> str | None:
    data = read_licence(name) if name else None
    # Unknown stops, too: silence is no permission.
    if data is None:
        what = f"has the licence {name!r}, which is not known here" if name else "has no licence that is known here"
        return f"{archive}, which they were trained on, {what}"
    if data.forbids_sharing:
        return f"{archive} is under {data.name}, which does not let what is made of it be passed on"
    if data.is_non_commercial and not (weights and weights.is_non_commercial):
        return f"{archive} is under {data.name}, which is for non-commercial use only, and {given} is not"
    if data.is_share_alike and not (weights and weights.name == data.name):
        return f"{archive} is under {data.name}, which wants the same licence for what is made of it, not {given}"
    return None


def licence_text(provenance: Mapping[str, Any], data: Mapping[str, str | None]) -> str:
    """Write the file ``LICENSE``: under what the weights are, and what their data ask for."""
    licence = read_licence(provenance.get("licence"))
    lines = [str(provenance.get("name", "These weights")), ""]
    if licence is not None:
        lines += [f"Licensed under the {licence.title} ({licence.name}).", f"The full text is at {licence.url}", ""]
    else:
        lines += [f"Licence: {provenance.get('licence', 'none was given')}", ""]
    for archive, name in data.items():
        known = read_licence(name) if name else None
        lines.append(f"Trained on {archive}: {f'{known.title}, {known.url}' if known else name or 'licence unknown'}")
    lines += ["", "Provided as is, without warranty of any kind. Research use only: not a medical device."]
    return "\n".join(lines) + "\n"


def _archives(data: object) -> list[str]:
    """Read the names of archives off a sentence or a list: between commas, without what stands in parentheses."""
    plain = re.sub(r"\([^)]*\)", "", "; ".join(map(str, data)) if isinstance(data, list) else str(data))
    # Numbers of records and titles stand after a colon, up to a semicolon, in cards of converted weights.
    parts = [part.partition(":")[0] for part in plain.split(";")]
    names = [name.strip() for part in parts for name in re.split(r",|\band\b", part)]
    return [name for name in names if name and name.lower() not in ("none", "synthetic")]


def _key(name: str) -> str:
    # Letters of all scripts: without theirs, two names would be one, and so have one licence.
    return re.sub(r"[\W_]", "", name.lower())
