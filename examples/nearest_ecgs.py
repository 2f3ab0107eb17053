"""
Find the nearest ECGs
=====================

Embeddings turn "which recordings look like this one?" into a search for nearest neighbours.

The encoder is the one that comes with skecg. Others go in by name, and nothing else changes.
"""

# %%
# An archive of recordings of three kinds, about sixty of each.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.plotting import plot_ecgs

records, labels = make_ecg(180, conduction=["normal", "lbbb", "rbbb"], noise=0.02, sampling_rate=250, random_state=0)
kinds = labels["conduction"]

# %%
# Features are brought to one scale, so that none rules the distance by its size alone.
features = StandardScaler().fit_transform(JEPAEmbedder().fit_transform(records))
index = NearestNeighbors(n_neighbors=4).fit(features)

# %%
# The nearest to each recording is itself; the three that follow are its neighbours.
distances, neighbours = index.kneighbors(features)
same_kind = kinds[neighbours[:, 1:]] == kinds[:, np.newaxis]
by_chance = np.mean([np.mean(kinds == kind) for kind in kinds])
print(f"neighbours of the same kind: {same_kind.mean():.2f} (by chance {by_chance:.2f})")

# %%
# One recording and its neighbours, on ECG paper.
query = int(np.flatnonzero(kinds == "lbbb")[0])
found = neighbours[query]
titles = [f"Neighbour {place}, distance {distances[query, place]:.1f}: {kinds[found[place]]}" for place in (1, 2, 3)]
plot_ecgs([records[row] for row in found], titles=[f"The recording: {kinds[query]}", *titles], figure=plt.figure())
print("kinds of the neighbours:", ", ".join(kinds[neighbours[query, 1:]]))
plt.show()
