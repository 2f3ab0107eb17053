"""Pictures: an electrocardiogram on paper, a map of embeddings, and scores with their intervals.

All functions draw on the axes given or on a figure of their own, made without pyplot: no window, no display and no
global state is needed, and nothing has to be closed. ``axes.figure.savefig("ecg.png")`` writes the picture.
"""

from __future__ import annotations

from skecg.plotting.ecg import plot_ecg, plot_ecgs, plot_explanation
from skecg.plotting.results import plot_embedding_map, plot_scores

__all__ = ["plot_ecg", "plot_ecgs", "plot_embedding_map", "plot_explanation", "plot_scores"]
