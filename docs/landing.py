"""Draw the picture of the README and of the documentation's first page: an ECG beside a map of embeddings.

    python docs/landing.py

writes docs/_static/landing.png. The recordings are synthetic, so that anybody can draw the same picture. No label is
shown to the encoder. The map is the plane of the two first principal components of its features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.plotting import plot_ecg, plot_embedding_map

OUT = Path(__file__).parent / "_static" / "landing.png"
KINDS = {
    "normal": {},
    "left bundle branch block": {"conduction": "lbbb"},
    "right bundle branch block": {"conduction": "rbbb"},
    "atrial fibrillation": {"rhythm": "af"},
}


def main() -> None:
    """Draw the picture."""
    made = [make_ecg(60, noise=0.03, random_state=seed, **what).records for seed, what in enumerate(KINDS.values())]
    records = [record for kind in made for record in kind]
    features = JEPAEmbedder().fit_transform(records)

    figure = Figure(figsize=(14, 5.6), layout="constrained")
    paper, plane = figure.subplots(1, 2, width_ratios=[1.45, 1])
    plot_ecg(made[1][0], ax=paper, title="A recording goes in …")
    plot_embedding_map(features, np.repeat(list(KINDS), 60), ax=plane, title="… features come out")
    figure.savefig(OUT, dpi=100)


if __name__ == "__main__":
    main()
