"""
Fine-tune an encoder
====================

A frozen encoder and a logistic regression first: that is quick, and what anything slower has to beat. Then the encoder
is trained too, for as long as patients that are held out gain by it.
"""

# %%
# Does atrial fibrillation begin in a recording, or end? Both have two and a half seconds of it; what differs is the
# order, which hardly shows in what a frozen encoder's tokens are on average. Two recordings of each of 72 hearts, a
# third of which is kept for the end.
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder
from skecg.datasets import make_ecg

N_HEARTS, N_KNOWN = 72, 48
hearts = {"duration_seconds": 2.5, "sampling_rate": 250, "noise": 0.06, "random_state": 0}
records, y = [], []
for sinus, af in zip(
    make_ecg(N_HEARTS, rhythm="sinus", **hearts).records, make_ecg(N_HEARTS, rhythm="af", **hearts).records, strict=True
):
    for label, halves in {"begins": (sinus, af), "ends": (af, sinus)}.items():
        records.append(ECGRecord(np.concatenate([half.signal for half in halves], axis=1), 250, sinus.leads))
        y.append(label)
y, patients = np.array(y), np.repeat(np.arange(N_HEARTS), 2)
known = patients < N_KNOWN
X, X_new = ([record for record, mine in zip(records, side, strict=True) if mine] for side in (known, ~known))
print(f"{known.sum()} recordings to learn from, {(~known).sum()} of other patients")


def auroc(classifier: FineTunedClassifier) -> float:
    return roc_auc_score(y[~known], classifier.decision_function(X_new))


# %%
# The head alone. Nothing is trained but a logistic regression on the embeddings; its penalty is chosen on patients held
# out, whole patients because ``fit`` is told who is who.
frozen = FineTunedClassifier(stages="head").fit(X, y[known], groups=patients[known])
print(f"frozen: AUROC {auroc(frozen):.3f}, C={frozen.C_:g}")

# %%
# Then all. Epoch 0 is the end of the first stage; the weights of the best epoch are kept. Once the few patients held
# out are told apart without a mistake, the log-loss decides which epoch is best.
tuned = FineTunedClassifier(epochs=8).fit(X, y[known], groups=patients[known])
history = tuned.history_
for epoch, score in enumerate(history.scores):
    print(f"epoch {epoch}: validation {score:.3f}" + "  <- kept" * (epoch == history.best_epoch))
print(f"fine-tuned: AUROC {auroc(tuned):.3f}")

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(range(len(history.scores)), history.scores, "o-", label="patients held out")
ax.axhline(auroc(frozen), color="0.5", linestyle="--", label="other patients, encoder frozen")
ax.axhline(auroc(tuned), color="C1", linestyle="--", label="other patients, fine-tuned")
ax.set(xlabel="epoch", ylabel="AUROC", ylim=(None, 1.02))
ax.legend()
plt.show()

held_out = np.unique(patients[known][tuned.validation_rows_])
learned = np.unique(np.delete(patients[known], tuned.validation_rows_))
print(f"patients held out: {len(held_out)}, on both sides: {len(np.intersect1d(held_out, learned))}")

# %%
# A folder keeps it, without a pickle: the encoder as any skecg weights, the head and the classes beside it.
with tempfile.TemporaryDirectory() as folder:
    tuned.save(folder, name="begins-or-ends")
    again = FineTunedClassifier.load(folder)
    features = JEPAEmbedder(folder).fit_transform(X_new)
print("same answers:", bool((again.predict_proba(X_new) == tuned.predict_proba(X_new)).all()))
print("features of the trained encoder:", features.shape)
