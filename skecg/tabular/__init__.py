"""From a table of recordings and labels to a fitted model, its predictions, a report and an atlas."""

from __future__ import annotations

from skecg.tabular.atlas import Atlas, make_atlas

__all__ = ["Atlas", "make_atlas"]
