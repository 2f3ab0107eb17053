"""The card beside the weights: what they are, to a stranger."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skecg.weights.folder import WeightsInfo

__all__ = ["write_card"]

_TEMPLATE = """\
---
library_name: skecg
pipeline_tag: feature-extraction
tags: [ecg, electrocardiogram]
license: {licence_id}
---

# {name}

{status}

```python
from skecg import JEPAEmbedder

features = JEPAEmbedder({model!r}).fit_transform(["record_001.hea", "record_002.hea"])
```

## The encoder

| | |
| --- | --- |
| architecture | {architecture} |
| width, blocks, heads | {dim}, {depth}, {heads} |
| input | {leads} at {rate:g} Hz, windows of {seconds:g} s |
| any subset of the leads | {any_leads} |
| preparation | {preparation} |
| pooling | {pooling} |
| sha256 of `model.safetensors` | `{sha256}` |

## Where it comes from

{provenance}

## Limits

Research use only. This is not a medical device and must not be used for diagnosis, treatment decisions, triage or
monitoring of patients. Its outputs are numbers without validated clinical meaning.

## Verify

`skecg verify FOLDER` embeds the records in `golden.safetensors` and says how far this machine is from the features
recorded there.
"""

_UNTRAINED = (
    "**This encoder is untrained.** Its weights are random numbers. Its features are random projections of the ECG: "
    "useful to test a pipeline and as the floor that a trained encoder has to beat, and nothing more."
)


def write_card(info: WeightsInfo) -> None:
    """Write a weights folder's ``README.md``."""
    known = info.provenance
    name = str(known.get("name") or info.folder.name)
    text = _TEMPLATE.format(
        name=name,
        status=_status(info),
        model=known.get("model", name),
        licence_id=str(known.get("licence", "other")).lower(),
        architecture=info.encoder.architecture,
        dim=info.encoder.dim,
        depth=info.encoder.depth,
        heads=info.encoder.num_heads,
        leads=", ".join(info.spec.leads),
        rate=info.spec.sampling_rate,
        seconds=info.spec.window_seconds,
        any_leads="yes" if info.spec.any_leads else "no",
        preparation=_preparation(info),
        pooling=info.pooling,
        sha256=info.sha256,
        provenance="\n".join(f"- {key}: {value}" for key, value in known.items()) or "Not recorded.",
    )
    (info.folder / "README.md").write_text(text, encoding="utf-8")


def _status(info: WeightsInfo) -> str:
    if info.provenance.get("trained") is False:
        return _UNTRAINED
    return str(info.provenance.get("description", "An encoder of electrocardiograms for skecg."))


def _preparation(info: WeightsInfo) -> str:
    spec = info.spec
    steps = [f"{spec.resampling} resampling"]
    if spec.highpass_hz is not None:
        steps.append(f"high-pass {spec.highpass_hz:g} Hz")
    if spec.lowpass_hz is not None:
        steps.append(f"low-pass {spec.lowpass_hz:g} Hz")
    steps.append("millivolts as they are" if spec.normalization == "none" else f"normalization: {spec.normalization}")
    if spec.clip is not None:
        steps.append(f"clipped at ±{spec.clip:g}")
    return ", ".join(steps)
