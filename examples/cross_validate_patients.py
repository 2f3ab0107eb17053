"""
Cross-validate with several recordings a patient
================================================

Recordings of one patient resemble each other. When some of them are trained on and others tested on, a classifier can
score by recognizing patients, and the score says nothing about the next patient.

Here the label is a coin tossed for each patient, which no ECG can tell. An honest score is about one half.
"""

# %%
# Forty hearts, four recordings of ten seconds each: pieces of one long recording.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold, StratifiedGroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.embedding_cache import MemoryCache
from skecg.splits import warn_of_shared_patients

N_PATIENTS, N_PIECES = 40, 4
X = []
for long in make_ecg(N_PATIENTS, duration_seconds=40, sampling_rate=250, noise=0.02, random_state=0).records:
    X += [ECGRecord(piece, 250, long.leads) for piece in np.split(long.signal, N_PIECES, axis=1)]
patients = np.repeat(np.arange(N_PATIENTS), N_PIECES)
coins = np.random.default_rng(0).permutation(np.arange(N_PATIENTS) % 2)
y = coins[patients]

# %%
# A cache of our own instead of the one that all embedders of the process share, so that it can be asked what it did.
cache = MemoryCache(max_bytes=64 * 2**20)
pipeline = make_pipeline(JEPAEmbedder(cache=cache), StandardScaler(), KNeighborsClassifier(n_neighbors=1))

# %%
# A plain shuffled split puts the same patients on both sides. The warning says so, and the score is far too good.
plain = KFold(5, shuffle=True, random_state=0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    shared = warn_of_shared_patients(plain, X, y, patients)
print("KFold:", f"{shared} patients on both sides;", f"{caught[0].category.__name__}: {caught[0].message}")
too_good = cross_val_score(pipeline, X, y, cv=plain)
print(f"KFold: accuracy {too_good.mean():.2f}")

# %%
# A split by patients stays silent. Its score is that of a coin.
grouped = StratifiedGroupKFold(5, shuffle=True, random_state=0)
shared = warn_of_shared_patients(grouped, X, y, patients)
print("StratifiedGroupKFold:", f"{shared} patients on both sides, no warning")
honest = cross_val_score(pipeline, X, y, groups=patients, cv=grouped)
print(f"StratifiedGroupKFold: accuracy {honest.mean():.2f}")

# %%
# The two splits, fold by fold, and the half that a coin allows.
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for place, scores in enumerate([too_good, honest]):
    ax.plot(scores, [place] * len(scores), "o", markersize=9, alpha=0.6)
    ax.plot([scores.mean()] * 2, [place - 0.2, place + 0.2], color="black")
ax.axvline(0.5, color="0.6", linestyle="--")
ax.set(yticks=[0, 1], yticklabels=["patients on both sides", "patients apart"], ylim=(1.6, -0.6), xlabel="accuracy")
plt.show()

# %%
# A search over three values and five folds fits the whole pipeline sixteen times. The encoder saw each recording once,
# in the very first of the splits above: whatever was asked for later was found.
search = GridSearchCV(pipeline, {"kneighborsclassifier__n_neighbors": [1, 5, 9]}, cv=grouped)
search.fit(X, y, groups=patients)
info = cache.info()
print(f"grid search: best accuracy {search.best_score_:.2f}")
print(f"cache: {info.misses} recordings embedded of {len(X)}, {info.hits} times found")
