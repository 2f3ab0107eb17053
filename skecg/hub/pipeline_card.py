"""The card of a published pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skecg.hub.licences import read_licence

__all__ = ["pipeline_card"]

_TEMPLATE = """\
---
{front}---

# {title}

{description}

**Research use only.** This is not a medical device: not for diagnosis, treatment decisions, triage or monitoring of
patients. Its outputs are numbers without validated clinical meaning.

## Use

```bash
pip install "skecg[hub]"
```

```python
from skecg.hub import load_pipeline

pipeline = load_pipeline("{repository}", revision="COMMIT")
pipeline.predict(["record_001.hea", "record_002.hea"])
```

Nothing runs when the file is read: it is no pickle, and types that are not of scikit-learn, NumPy, SciPy or skecg are
refused.{trust}

## What it is

| | |
| --- | --- |
| steps | {steps} |
| classes | {classes} |
| weights | {weights} |
| sha256 of the weights | `{weights_sha256}` |
| fitted with | skecg {skecg}, scikit-learn {scikit_learn}, NumPy {numpy} |

The weights are not in this repository. They are fetched when the pipeline is used, at the commit named here.

## Limits

What it was fitted on, and how well it does elsewhere, is for its publisher to say; where it is not said, it is not
known. Other versions of scikit-learn may refuse or misread it.
"""


def pipeline_card(pipeline: Any, repository: str, config: Mapping[str, Any], description: str, licence: str) -> str:
    """Write the card."""
    import yaml

    known = read_licence(licence)
    front: dict[str, Any] = {
        "library_name": "skecg",
        "tags": ["ecg", "electrocardiogram", "scikit-learn", "skops"],
        "license": known.hub_id if known else "other",
    }
    if config["revision"]:
        front["base_model"] = config["model"]
    where = f"`{config['model']}`" + (
        f" at commit `{config['revision']}`" if config["revision"] else ", bundled with skecg"
    )
    needs = ", ".join(f'"{name}"' for name in config["needs_trust"])
    return _TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=repository.split("/")[-1],
        description=description or "A fitted pipeline on electrocardiograms. Its publisher has not described it.",
        repository=repository,
        trust=f"\nThis one needs `trusted=[{needs}]`, which may run their code." if needs else "",
        steps=" → ".join(config["steps"]),
        classes=", ".join(config["classes"]) or "none",
        weights=where,
        **{key: config[key] for key in ("weights_sha256", "skecg", "scikit_learn", "numpy")},
    )
