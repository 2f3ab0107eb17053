"""Cards of weights that leave this machine: the Hub's, and CHAI's applied model card.

What somebody wrote into a folder's card is kept to the letter. Only what skecg wrote there itself is written anew, with
the repository's name, licences and scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from skecg.errors import PublishError
from skecg.hub.licences import read_licence
from skecg.hub.results import MEASURES, EvaluatedScore, model_index
from skecg.weights.card import PIN, card_text
from skecg.weights.folder import GOLDEN_NAME
from skecg.weights.golden import verify_weights
from skecg.weights.registry import find_weights

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = ["applied_model_card", "card_pictures", "described_sha256", "published_card"]

_CARD = "README.md"
_USE, _VERIFY, _RESULTS = "## Use", "## Verify", "## Results"

_ROW = re.compile(
    r"\| (?P<dataset>.+), (?P<task>[^,|]+) \| (?P<protocol>[^|]+) \| (?P<measure>[^|]+) \| (?P<value>[\d.]+) \| "
    r"(?:(?P<level>\d+) % interval (?P<low>[\d.]+) to (?P<high>[\d.]+))? \| (?P<n_test>\d+) \|"
)

_CHAI = "https://mc.chai.org/v0.2/schema.xsd"
_UNKNOWN = "Not stated."
_NOT_MEASURED = "Not measured."


def published_card(
    info: WeightsInfo, repository: str, licences: Mapping[str, str | None], scores: Sequence[EvaluatedScore]
) -> str:
    """Return the card of a repository: the folder's own, with what the Hub wants to know.

    Parameters
    ----------
    info : WeightsInfo
    repository : str
        ``"owner/name"``, which the code on the card will load.
    licences : mapping
        Archive of the training data to its licence.
    scores : sequence of EvaluatedScore
        They take the place of the scores that the folder's card has.
    """
    data = {name: _licence_in_words(licence) for name, licence in licences.items()}
    lines = [score.for_card() for score in scores]
    # Three texts: what skecg would write now, what the folder has, and what skecg wrote there when it was saved.
    fresh = _sections(_split(card_text(info, repository=repository, data=data, scores=lines))[1])
    front, body = _split(_own_card(info))
    own = _sections(body)
    plain = _sections(_split(card_text(info))[1])
    replaced = {_RESULTS} if scores else set()
    parts = [
        fresh[heading]
        if heading in fresh and (heading in replaced or text == plain[heading])
        else _readdressed(heading, text, own, repository)
        for heading, text in own.items()
    ]
    # Sections that a card of one's own lacks are added: how to load and verify, licences, limits.
    parts += [text for heading, text in fresh.items() if heading not in own]
    whole = "".join(part if part.endswith("\n\n") else f"{part.rstrip()}\n\n" for part in parts)
    return f"---\n{_front(info, repository, scores or _scores_of(own), front)}---\n\n{whole.rstrip()}\n"


def described_sha256(folder: Path) -> str | None:
    """Return the digest of the weights that a folder's card says it describes; None when it names none."""
    found = re.search(r"sha256 of `model\.safetensors` \| `([0-9a-f]{64})`", _read(folder / _CARD))
    return found[1] if found else None


def card_pictures(card: Path) -> list[str]:
    """Return the names of the pictures that a card speaks of, which lie beside it if anywhere."""
    return sorted(set(re.findall(r"(?<![\w/.-])\w[\w.-]*\.(?:png|svg|jpe?g)\b", _read(card))))


def _read(path: Path) -> str:
    try:
        # Not read_text, which would take the machine's own encoding and line ends.
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise PublishError(f"{path} is not text in UTF-8 ({error}). Save it as UTF-8.") from error


def _own_card(info: WeightsInfo) -> str:
    return _read(info.folder / _CARD) or card_text(info)


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Part a card into its metadata and its text."""
    import yaml

    found = re.match(r"---\n(.*?)^---\n+", card, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        return {}, card
    try:
        front = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise PublishError(
            f"The metadata on top of {_CARD} are no YAML: {error}. Mend them, or leave them out."
        ) from error
    if not isinstance(front, dict):
        raise PublishError(f"Got {front!r} as the metadata on top of {_CARD}, expected lines like 'license: mit'.")
    return front, card[found.end() :]


def _sections(body: str) -> dict[str, str]:
    """Part a card's text at its headings of the second level; what stands before them goes by an empty heading."""
    sections: dict[str, str] = {}
    heading, in_code = "", False
    for line in body.splitlines(keepends=True):
        # A comment in an example begins with # as well.
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            heading = line.rstrip()
        sections[heading] = sections.get(heading, "") + line
    return sections


def _readdressed(heading: str, text: str, own: Mapping[str, str], repository: str) -> str:
    """Name the repository where a section says how the weights are loaded; nothing else is touched."""
    named = re.search(r'JEPAEmbedder\("([^"]+)"', own.get(_USE, ""))
    if heading not in (_USE, _VERIFY) or named is None:
        return text
    old = re.escape(named[1])
    # Between quotes or behind the command only: the old name may be a word of the prose, too.
    text = re.sub(rf'((?:["`]|skecg verify )){old}(?=["`\s])', lambda found: found[1] + repository, text)
    return text if heading != _USE or "revision=" in text else text.rstrip() + PIN.format(repository=repository)


def _front(info: WeightsInfo, repository: str, scores: Sequence[EvaluatedScore], own: Mapping[str, Any]) -> str:
    """Write the card's metadata in the Hub's words; what the folder's card says beyond them stays."""
    import yaml

    licence = read_licence(info.provenance.get("licence"))
    without_labels = ["self-supervised"] * _has_recipe(info.provenance)
    tags = ["ecg", "electrocardiogram", *without_labels, "feature-extraction", "scikit-learn"]
    more = own.get("tags", [])
    values: dict[str, Any] = {
        "library_name": "skecg",
        "pipeline_tag": "feature-extraction",
        "tags": list(dict.fromkeys([*tags, *([more] if isinstance(more, str) else more)])),
        # The Hub checks this against a list of its own and refuses a card with any other word.
        "license": licence.hub_id if licence else "other",
    }
    if licence is None or licence.hub_id == "other":
        values |= {"license_name": str(info.provenance.get("licence", "unknown")), "license_link": "LICENSE"}
    index = model_index(str(info.provenance.get("name") or repository), scores)
    rest = {key: value for key, value in own.items() if key not in values and not key.startswith("license")}
    values |= rest | ({"model-index": index} if index else {})
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _scores_of(sections: Mapping[str, str]) -> list[EvaluatedScore]:
    """Read the scores that a card has, as :func:`skecg.weights.card.card_text` writes them."""
    kinds = {measure: kind for _, measure, kind in MEASURES}
    found = []
    for line in sections.get(_RESULTS, "").splitlines():
        row = _ROW.fullmatch(line)
        # Rows that somebody added by hand have other measures, and stay what they are: text.
        if row is not None and row["measure"] in kinds:
            low, high = (float(row[end]) if row[end] else None for end in ("low", "high"))
            value, level, n_test = float(row["value"]), int(row["level"] or 95) / 100, int(row["n_test"])
            words = (row["dataset"], row["task"], row["protocol"], row["measure"], kinds[row["measure"]])
            found.append(EvaluatedScore(*words, value, low, high, level, n_test))
    return found


def _licence_in_words(name: str | None) -> str:
    licence = read_licence(name) if name else None
    return f"[{licence.title}]({licence.url})" if licence else name or "not known"


def applied_model_card(
    model: str | Path,
    *,
    developer: str = _UNKNOWN,
    contact: str = _UNKNOWN,
    revision: str | None = None,
    local_files_only: bool = False,
) -> str:
    """Return the card of some weights as an applied model card of the Coalition for Health AI, version 0.2 [1]_.

    It says what the weights folder and its card say, and of what they do not say that it is not stated.

    Parameters
    ----------
    model : str or Path
        A name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hub.
    developer, contact : str
        Who made the weights, and where they can be reached.
    revision : str, optional
        Branch, tag or commit, for weights on the Hub.
    local_files_only : bool, default=False
        Whether to refuse to ask the network.

    Returns
    -------
    str
        A document of XML.

    References
    ----------
    .. [1] https://mc.chai.org
    """
    info = find_weights(str(model), revision=revision, local_files_only=local_files_only)
    root = ElementTree.Element(f"{{{_CHAI}}}AppliedModelCard")
    _fill(root, _chai_fields(info, developer, contact))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", default_namespace=_CHAI)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _fill(parent: ElementTree.Element, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            element = ElementTree.SubElement(parent, f"{{{_CHAI}}}{name}")
            if isinstance(one, Mapping):
                _fill(element, one)
            else:
                # XML has no way to write other control characters.
                element.text = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", str(one))


def _chai_fields(info: WeightsInfo, developer: str, contact: str) -> dict[str, Any]:
    """Return what is known of the weights by the names of the schema, in its order."""
    known, spec = info.provenance, info.spec
    sections = _sections(_split(_own_card(info))[1])
    leads = f"{'any of ' if spec.any_leads else ''}{', '.join(spec.leads)}"
    has_recipe = _has_recipe(known)
    trained = "trained" if known.get("trained") is True else "not known to be trained"
    return {
        "BasicInfo": {
            "ModelName": str(known.get("name") or info.folder.name),
            "ModelDeveloper": developer,
            "DeveloperContact": contact,
        },
        "ReleaseInfo": {
            "ReleaseStage": "Research use only; not a medical device.",
            "ReleaseDate": _UNKNOWN,
            "ReleaseVersion": f"sha256 of model.safetensors {info.sha256}",
            "GlobalAvailability": f"Licence of the weights: {known.get('licence', _UNKNOWN)}",
            "RegulatoryApproval": "None.",
        },
        "ModelSummary": {
            "Summary": re.sub(r"\A# .*\n+", "", sections.get("", "")).strip() or _UNKNOWN,
            "Keywords": {"Keyword": ["electrocardiogram", *["self-supervised learning"] * has_recipe, "features"]},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": "Research: features of recordings for classifiers, regression, search and maps.",
            "PrimaryIntendedUsers": "Researchers in medicine and in machine learning.",
            "HowToUse": _without_heading(sections, _USE),
            "TargetedPatientPopulation": "None: not for the care of patients.",
            "CautionedOutOfScopeSettings": "Diagnosis, treatment decisions, triage, monitoring of patients.",
        },
        "Warnings": {
            "KnownRisksAndLimitations": _without_heading(sections, "## Limits", "## Where it is weak"),
            "KnownBiasesOrEthicalConsiderations": "How the features behave across devices, hospitals, ages and "
            "populations other than those of the training data is not known.",
            "ClinicalRiskLevel": "Not assigned: not for clinical use.",
        },
        "TrustIngredients": {
            "AISystemFacts": {
                "OutcomesAndOutputs": "Numbers without a clinical meaning of their own, one row a recording.",
                "ModelType": f"Encoder of kind {info.encoder.architecture}, {trained}{' without labels' * has_recipe}.",
                "FoundationModels": _foundation(known),
                "InputDataSource": "Electrocardiograms: files, arrays or records.",
                "OutputAndInputDataTypes": f"In: {leads} at {spec.sampling_rate:g} Hz, windows of "
                f"{spec.window_seconds:g} s. Out: 32-bit floating-point numbers.",
                "DevelopmentDataCharacterization": _without_heading(
                    sections, "## Training data and licence", "## What was trained on"
                ),
                "BiasMitigationApproaches": _UNKNOWN,
                "OngoingMaintenance": _UNKNOWN,
                "Security": "Tensors are safetensors, checked by their sha256; the weights hold no code.",
            },
            "TransparencyInformation": {"FundingSource": _UNKNOWN, "StakeholdersConsulted": _UNKNOWN},
        },
        "KeyMetrics": _key_metrics(info, sections),
        "Resources": {"PeerReviewedPublications": _UNKNOWN, "PatientConsentOrDisclosure": _UNKNOWN},
        "Bibliography": "",
    }


def _has_recipe(known: Mapping[str, Any]) -> bool:
    """Return whether weights were trained without labels, as all recipes do; only the card says it of others."""
    return known.get("trained") is True and "recipe" in known


def _foundation(known: Mapping[str, Any]) -> str:
    """Return which weights a training began with."""
    start, digest = known.get("fine_tuned_from", known.get("started_from")), known.get("fine_tuned_from_sha256")
    if start:
        return f"{start}, sha256 of model.safetensors {digest}." if digest else f"{start}."
    # Of what was trained elsewhere it is not known.
    return "None." if _has_recipe(known) or known.get("trained") is False else _UNKNOWN


def _without_heading(sections: Mapping[str, str], *headings: str) -> str:
    """Return what stands under the headings that begin so."""
    found = [text for name, text in sections.items() if name.startswith(headings)]
    return "\n\n".join(re.sub(r"\A## .*\n+", "", text).strip() for text in found) or _UNKNOWN


def _key_metrics(info: WeightsInfo, sections: Mapping[str, str]) -> dict[str, Any]:
    # Run again for the card: what was reproduced is to be what this machine saw.
    verification = verify_weights(info) if (info.folder / GOLDEN_NAME).is_file() else None
    return {
        "UsefulnessUsabilityEfficacy": _metric(
            "Features that simple models predict labels from.",
            [(f"{s.dataset}, {s.task}, {s.protocol}, {s.measure}", json.dumps(s.value)) for s in _scores_of(sections)],
            _without_heading(sections, _RESULTS),
        ),
        "FairnessEquity": _metric("Scores by groups of patients.", [], _NOT_MEASURED),
        "SafetyReliability": _metric(
            "The same features on every machine.",
            [] if verification is None else [("golden vectors reproduced here", json.dumps(verification.passed))],
            _NOT_MEASURED if verification is None else str(verification),
        ),
    }


def _metric(goal: str, results: Sequence[tuple[str, str]], meaning: str) -> dict[str, Any]:
    """Return one measure in the schema's words, which ask for a result even where there is none."""
    found = [{"Label": label, "ValueJson": value} for label, value in results]
    measured = "By the developers, retrospectively." if found else _NOT_MEASURED
    return {
        "MetricGoal": goal,
        "Results": {"MetricResult": found or [{"Label": _NOT_MEASURED, "ValueJson": "null"}]},
        "Interpretation": meaning,
        "TestType": measured,
        "TestingDataDescription": meaning,
        "ValidationProcessAndJustification": measured,
    }
