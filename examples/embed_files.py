"""
Embed files
===========

Files carry their rate, their leads and their unit, so a list of paths is all there is to say. Among real files some are
damaged: their rows stay in place, filled with NaN, and the reason is kept.
"""

# %%
# Five recordings as WFDB files, in a folder that goes away at the end.
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import wfdb

from skecg import JEPAEmbedder, read_record
from skecg.datasets import make_ecg
from skecg.plotting import plot_ecgs

folder = tempfile.TemporaryDirectory()
for number, record in enumerate(make_ecg(5, noise=0.03, random_state=0).records):
    wfdb.wrsamp(
        f"ecg{number}",
        fs=record.sampling_rate,
        units=["mV"] * record.n_leads,
        sig_name=list(record.leads),
        p_signal=record.signal.T.astype(float),
        fmt=["16"] * record.n_leads,
        write_dir=folder.name,
    )
paths = pd.Series([Path(folder.name, f"ecg{number}") for number in range(5)], name="path")
print([path.name for path in paths])
plot_ecgs([read_record(paths[0])], figure=plt.figure())
plt.show()

# %%
# The third file loses its second half, as after a copy that broke off.
damaged = Path(folder.name, "ecg2.dat")
damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])

# %%
# By default one bad record stops everything, because nothing should be lost in silence. With ``on_bad_record="warn"``
# the others are embedded and the rows still belong to the paths; ``"nan"`` does the same without a warning.
embedder = JEPAEmbedder(on_bad_record="warn")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    features = embedder.fit_transform(paths)
for warning in caught:
    print(f"{warning.category.__name__}: {str(warning.message).split(' (')[0]}")

# %%
# Which rows they are, and why.
print("features:", features.shape, "rows of NaN:", np.flatnonzero(np.isnan(features).all(axis=1)).tolist())
for row, reason in embedder.bad_records_.items():
    print(f"row {row}: {reason.replace(folder.name, '...')}")

# %%
# A classifier wants rows without NaN: drop them together with their labels, or put an imputer into the pipeline.
good = ~np.isnan(features).any(axis=1)
print("kept:", features[good].shape)
folder.cleanup()
