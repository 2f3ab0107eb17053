"""
What a probability rests on
===========================

A pipeline says "left bundle branch block" or "ST elevation". Which part of the beats made it say so?

Each phase of all beats is hidden in turn. How far the log-odds fall without it is what it is worth.
"""

# %%
# Two questions, each of hearts with and without.
import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skecg import JEPAEmbedder, LogisticProbe, explain
from skecg.datasets import make_ecg

common = {"sampling_rate": 250, "noise": 0.02, "random_state": 0}
blocks, kinds = make_ecg(60, conduction=["normal", "lbbb"], **common)
elevated, _ = make_ecg(30, st_level=0.3, st_territory="anterior", **common)
level, _ = make_ecg(30, st_level=0.0, **common)
questions = {
    "LBBB": (blocks, kinds["conduction"] == "lbbb"),
    "ST elevation": ([*elevated, *level], [True] * 30 + [False] * 30),
}

# %%
# The QRS complex makes the bundle branch block, the ST segment the elevation. Long pieces save time: only
# phases are asked for.
found = {}
for name, (records, has) in questions.items():
    pipeline = make_pipeline(JEPAEmbedder(), StandardScaler(), LogisticProbe()).fit(records, has)
    sick = next(record for record, yes in zip(records, has, strict=True) if yes)
    found[name] = explain(pipeline, sick, True, piece_seconds=10.0)
    worth = dict(zip(("P", "QRS", "ST", "T"), found[name].phases.round(1).tolist(), strict=True))
    print(f"{name}: {max(worth, key=worth.get)} is worth the most ({worth})")

# %%
# Red speaks for the class, blue against it; the paler, the less. How faithful this is was measured:
# :doc:`/explaining`.
for name, explanation in found.items():
    axes = plt.figure(figsize=(11, 5)).add_subplot()
    explanation.plot("phases", ax=axes).set_title(f"{name}, probability {explanation.probability:.2f}")
plt.show()
