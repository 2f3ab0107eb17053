"""
Pre-train in a minute
=====================

The whole way of an encoder: recordings are packed into shards, an encoder learns to predict what it does not see of
them, and it is exported as a folder that the embedder takes.

Everything is small and synthetic, so that two CPU cores are enough; what comes out shows how it works, and is good for
nothing else. The trainer, ``pretraining``, lies beside ``skecg`` in a checkout (``pip install -e .``).
"""

# %%
# A thousand unlabelled recordings at 100 Hz stand for an archive. They go into a packed array, one of the things that
# ``pack`` reads; folders of files are another.
import dataclasses
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skecg
from pretraining.data.corpora import open_corpus
from pretraining.data.pack import pack
from pretraining.export import export
from pretraining.recipes import load_recipe
from pretraining.trainer import Trainer
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.encoders.encode import Encoding, encode_windows
from skecg.encoders.pooling import pool_windows
from skecg.spec import TemporalConfig

STEPS = int(os.environ.get("PRETRAIN_STEPS", "500"))
SEED = int(os.environ.get("PRETRAIN_SEED", "0"))
KINDS = {"rhythm": ["sinus", "af", "pvc"], "conduction": ["normal", "lbbb", "rbbb"], "noise": (0.02, 0.15)}

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
archive, _ = make_ecg(2 * STEPS, sampling_rate=100, random_state=100, **KINDS)
np.savez(
    folder / "archive.npz",
    signals=np.rint(np.stack([record.signal for record in archive]) * 1000).astype(np.int16),
    lsb=1.0,
    units="uV",
    fs=100.0,
    leads=np.array(archive[0].leads),
)
shards = pack([open_corpus("synthetic", folder / "archive.npz")], folder / "shards", sampling_rate=100, progress=False)
print(shards.summary)

# %%
# A recipe is a value; this one is ``tiny`` with a wider encoder for 100 Hz, whose tokens are 200 ms long.
tiny = load_recipe("tiny")
recipe = dataclasses.replace(
    tiny,
    name="minute",
    input=dataclasses.replace(tiny.input, sampling_rate=100.0, window_samples=1000),
    encoder=TemporalConfig(n_leads=12, patch_samples=20, n_patches=50, dim=64, depth=2, num_heads=4),
    predictor=dataclasses.replace(tiny.predictor, dim=32),
    masks=dataclasses.replace(tiny.masks, low=0.3, high=0.4, min_block=3),
    data=dataclasses.replace(tiny.data, lead_dropout=0.0),
    pooling="mean",
).override(
    [
        f"run.steps={STEPS}",
        "run.batch_size=32",
        f"run.seed={SEED}",
        f"optim.warmup_steps={STEPS // 10}",
        "optim.lr=5e-3",
        "optim.weight_decay=0.05",
        "optim.final_weight_decay=0.05",
        "ema.start=0.98",
        "ema.end=0.99",
        f"watch.log_every={max(1, STEPS // 6)}",
        f"watch.gauge_every={max(1, STEPS // 2)}",
        f"watch.checkpoint_every={STEPS}",
    ]
)

# %%
# The journal says how the loss falls, and whether the features still tell recordings apart (rank, spread).
torch.set_num_threads(1)  # for matrices this small, a second thread waits more than it works
torch.manual_seed(SEED)
trainer = Trainer(recipe, shards, folder / "run", device="cpu")
skecg.save_encoder(
    folder / "untrained", trainer.model.target_encoder, recipe.input, pooling="mean", name="untrained", trained=False
)
trainer.train()

# %%
# The run becomes a weights folder, which any machine can verify and embed with. Through the embedder it gives what the
# trained encoder itself gives.
export(folder / "run", folder / "weights")
embedder = JEPAEmbedder(str(folder / "weights"))
records, labels = make_ecg(600, sampling_rate=100, random_state=200, **KINDS)
trained = embedder.fit_transform(records)
windows = skecg.prepare(records, recipe.input)
direct = pool_windows(encode_windows(trainer.model.target_encoder, windows, Encoding("mean")), windows.owner, 600)
print(embedder.verify())
print(f"exported weights differ from the trained encoder by {np.abs(trained - direct).max():.0e}")

# %%
# Has it learned anything? A task that training knew nothing of, the rhythm (sinus, atrial fibrillation or premature
# beats), on recordings of other people: logistic regression on 200 of them, judged on 400, with features of the
# untrained encoder of the same shape and of the trained.
rhythms, scores = labels["rhythm"], {}
for pooling in ("mean", "mean+std"):
    for name in ("untrained", "weights"):
        features = JEPAEmbedder(str(folder / name), pooling=pooling).fit_transform(records)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        model.fit(features[:200], rhythms[:200])
        score = roc_auc_score(rhythms[200:], model.predict_proba(features[200:]), multi_class="ovr")
        print(f"{pooling} of {name}: macro AUROC {score:.3f}")
        scores[f"{pooling}, {'untrained' if name == 'untrained' else 'trained'}"] = score

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.barh(list(scores), list(scores.values()), color=["0.75", "C0"] * 2)
ax.set(xlim=(0.5, 1), xlabel="macro AUROC of the rhythm")
ax.invert_yaxis()
plt.show()

# %%
# The same in the shell is ``pack``, ``train``, ``export`` and ``inspect``; :doc:`/pretraining` has the whole guide.
scratch.cleanup()
