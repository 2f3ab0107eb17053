"""The card beside the weights: what they are, to a stranger."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skecg.encoders.pooling import n_encoder_features
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from skecg.weights.folder import WeightsInfo

__all__ = ["PIN", "Score", "card_text", "join_data", "write_card"]

_UNTRAINED = (
    "**This encoder is untrained.** Its weights are random numbers. Its features are random projections of the ECG: "
    "useful to test a pipeline and as the floor that a trained encoder has to beat, and nothing more."
)

_GOOD_FOR = (
    "Turns an ECG recording into {n_features} numbers. They are good for research with a simple model and your own "
    "labels: classification, regression, search for similar recordings, maps."
)

# They have a place of their own above.
_TOLD = {"name", "description", "licence", "licence_note", "data", "data_licences", "model", "trained"}

PIN = """

`{repository}` is whatever its main branch holds today. `JEPAEmbedder("{repository}", revision="COMMIT")` stays what it
is, and a fitted embedder remembers its commit."""

# Data of a training whose recordings nobody named.
_UNNAMED_DATA = "recordings that were not named"


class Score(NamedTuple):
    """A line of the table of scores."""

    task: str
    protocol: str
    measure: str
    value: float
    interval: str
    n_test: int


_TEMPLATE = """\
# {name}

{status}

**Research use only.** This is not a medical device.

## Use

```bash
pip install skecg
```

```python
from skecg import JEPAEmbedder

embedder = JEPAEmbedder({model})
features = embedder.fit_transform(["record_001.hea", "record_002.hea"])  # one row a recording
```

Recordings go in as files (WFDB, EDF, DICOM, CSV, …), arrays or records, at any rate and with their leads in any order;
skecg prepares them as this encoder expects. The features are meant for a classifier or regression of scikit-learn, for
search, and for maps.{pin}

**Intended use:** research on methods and on recordings whose use for research is allowed. **Not intended:** anything
that touches the care of a patient.

## The encoder

| | |
| --- | --- |
| architecture | {architecture} |
| {size} | {sizes} |
| features of a recording | {n_features} (pooling: {pooling}{directions}) |
| input | {leads} at {rate:g} Hz, windows of {seconds:g} s |
| any subset of the leads | {any_leads} |
| preparation | {preparation} |
| sha256 of `model.safetensors` | `{sha256}` |

## Training data and licence

{data}

{licence}

## Results

{results}

## Where it comes from

{provenance}

## Limits

- Not a medical device, and not validated for any clinical use: its outputs are numbers without validated clinical
  meaning and must not be used for diagnosis, treatment decisions, triage or monitoring of patients.
- How the features behave across devices, hospitals, ages and populations other than those of the training data is not
  known. Test them on recordings of your own.
- A recording's features are the mean over its windows: a second in an hour leaves hardly a trace.

## Verify

```bash
skecg verify {target}
```

embeds the recordings in `golden.safetensors` on your machine and says how far its features are from those recorded
there. Tensors are checked by their sha256 whenever they are loaded. The folder holds no code and no pickle.
"""


def write_card(info: WeightsInfo) -> None:
    """Write a weights folder's ``README.md``."""
    (info.folder / "README.md").write_text(card_text(info), encoding="utf-8")


def card_text(
    info: WeightsInfo,
    *,
    repository: str | None = None,
    data: Mapping[str, str] | None = None,
    scores: Sequence[Score] = (),
    front: str | None = None,
    model: str | None = None,
) -> str:
    """Write a card.

    Parameters
    ----------
    info : WeightsInfo
    repository : str, optional
        Where the weights will lie on the Hub, so that the card shows how they are loaded from there.
    data : mapping, optional
        Archive of the training data to a sentence on its licence.
    scores : sequence of Score
        What was measured.
    front : str, optional
        Metadata in YAML, without its fences; a few lines of it when not given.
    model : str, optional
        What the weights are loaded by where they do not lie on the Hub.
    """
    known = info.provenance
    name = str(known.get("name") or info.folder.name)
    model = repository or model or str(known.get("model", name))
    body = _TEMPLATE.format(
        name=name,
        status=_status(info),
        # As JSON and not as Python, which agree on it: double quotes, as the rest of the code has.
        model=json.dumps(model, ensure_ascii=False),
        target=model,
        # Only what is on the Hub has commits to pin.
        pin=PIN.format(repository=repository) if repository else "",
        architecture=info.encoder.architecture,
        size=", ".join(info.encoder.size),
        sizes=", ".join(map(str, info.encoder.size.values())),
        n_features=_n_features(info),
        leads=", ".join(info.spec.leads),
        rate=info.spec.sampling_rate,
        seconds=info.spec.window_seconds,
        any_leads="yes" if info.spec.any_leads else "no",
        preparation=_preparation(info),
        pooling=info.pooling,
        directions="" if info.directions_sha256 is None else "; fewer with truncate_dim",
        sha256=info.sha256,
        data=_data(known, data),
        licence=_licence(known),
        results=_results(scores),
        provenance=_provenance(known),
    )
    return f"---\n{_front(known) if front is None else front}---\n\n{body}"


def _front(known: Mapping[str, Any]) -> str:
    licence = str(known.get("licence", "other")).lower()
    if not re.fullmatch(r"[a-z0-9.-]+", licence):
        licence = json.dumps(licence)
    return (
        f"library_name: skecg\npipeline_tag: feature-extraction\ntags: [ecg, electrocardiogram]\nlicense: {licence}\n"
    )


def _n_features(info: WeightsInfo) -> int:
    return n_encoder_features(info.pooling, info.encoder)


def _status(info: WeightsInfo) -> str:
    if info.provenance.get("trained") is False:
        return _UNTRAINED
    made = str(info.provenance.get("description", "An encoder of electrocardiograms for skecg."))
    return f"{_GOOD_FOR.format(n_features=_n_features(info))} {made}"


def _data(known: Mapping[str, Any], data: Mapping[str, str] | None) -> str:
    if data:
        return "\n".join(
            ["| data | licence |", "| --- | --- |", *(f"| {name} | {said} |" for name, said in data.items())]
        )
    return f"Data: {known['data']}." if "data" in known else "The training data were not recorded."


def _licence(known: Mapping[str, Any]) -> str:
    licence = f"Licence of the weights: {known.get('licence', 'none was recorded')}."
    return f"{licence} {known['licence_note']}" if "licence_note" in known else licence


def _results(scores: Sequence[Score]) -> str:
    if not scores:
        return "No scores were published with these weights. `skecg evaluate` measures them."
    lines = ["| task | protocol | measure | value | interval | test records |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {s.task} | {s.protocol} | {s.measure} | {s.value:.3f} | {s.interval} | {s.n_test} |" for s in scores]
    note = "Frozen encoder; measured with `skecg evaluate`. Intervals hold the choice of test patients only."
    return "\n".join([*lines, "", note])


def _provenance(known: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in known.items() if key not in _TOLD}
    return "\n".join(f"- {key}: {_plain(value)}" for key, value in rest.items()) or "Not recorded."


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _preparation(info: WeightsInfo) -> str:
    spec = info.spec
    steps = [f"{spec.resampling} resampling"]
    if spec.notch_hz is not None:
        steps.append(f"notch {spec.notch_hz:g} Hz")
    if spec.highpass_hz is not None:
        steps.append(f"high-pass {spec.highpass_hz:g} Hz")
    if spec.lowpass_hz is not None:
        steps.append(f"low-pass {spec.lowpass_hz:g} Hz")
    if spec.baseline_samples is not None:
        steps.append(f"running median of {spec.baseline_samples} samples taken away")
    steps.append("millivolts as they are" if spec.normalization == "none" else f"normalization: {spec.normalization}")
    if spec.clip is not None:
        steps.append(f"clipped at ±{spec.clip:g}")
    return ", ".join(steps)


def join_data(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what weights that were trained further have seen: first what is new, then the data of those before.

    Parameters
    ----------
    base : mapping
        What was recorded of the weights that the training began from.
    own : mapping
        What is said of the training itself; ``data`` where it names its recordings.

    Returns
    -------
    dict
        ``data`` and ``data_licences``: what binds whoever has the weights still binds after training them further.

    Raises
    ------
    ParameterError
        When data are named by anything but text, or licences are not told of each.
    """
    known: list[str] = []
    for data in (own.get("data", _UNNAMED_DATA), base.get("data")):
        names: Sequence[Any] = data if isinstance(data, list | tuple) else [data]
        if data is not None and not all(isinstance(name, str) for name in names):
            raise ParameterError(f"Got data={data!r}, expected text that names the recordings: 'clinic (40 records)'.")
        known += [", ".join(names)] if data else []
    licences = {**_licences_of(base), **_licences_of(own)}
    # Semicolons: after a colon in one of them stand titles.
    # The same data, seen twice, are named once.
    return {"data": "; ".join(dict.fromkeys("; ".join(known).split("; ")))} | (
        {"data_licences": licences} if licences else {}
    )


def _licences_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    licences = provenance.get("data_licences", {})
    if not isinstance(licences, Mapping):
        raise ParameterError(
            f"Got data_licences={licences!r}, expected each archive with its licence: {{'clinic': 'CC0-1.0'}}."
        )
    return dict(licences)
