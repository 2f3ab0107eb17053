"""The road to the Hugging Face Hub: publish weights, and fitted pipelines.

Loading needs nothing from here: ``JEPAEmbedder("owner/name")`` is enough.
"""

from __future__ import annotations

from skecg.hub.cards import applied_model_card
from skecg.hub.pipelines import load_pipeline, push_pipeline
from skecg.hub.publishing import publish
from skecg.hub.results import registry_entry
from skecg.hub.uploading import Publication, PublishedFile

__all__ = [
    "Publication",
    "PublishedFile",
    "applied_model_card",
    "load_pipeline",
    "publish",
    "push_pipeline",
    "registry_entry",
]
