"""
Look at an archive: an atlas of its embeddings
==============================================

Which recordings lie together, and which stand apart? An atlas is one page that opens from the disk: a map of the
embeddings, coloured by what is known of them, with the ECG of the record under the cursor and its nearest neighbours.
"""

# %%
# An archive of recordings of three kinds, and a table of what is known of them.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.plotting import plot_embedding_map
from skecg.tabular import make_atlas

made, labels = make_ecg(90, conduction=["normal", "lbbb", "rbbb"], noise=0.02, sampling_rate=250, random_state=0)
records = [ECGRecord(one.signal, 250, one.leads, name=f"ecg {number:03d}") for number, one in enumerate(made)]
table = {"conduction": labels["conduction"], "number": range(90)}

# %%
# Embeddings first, then the maps: of two principal components, and t-SNE.
features = JEPAEmbedder().fit_transform(records)
atlas = make_atlas(features, records, table, projections=["pca", "tsne"])

# %%
# Open ``atlas.html`` in a browser: search, draw around records with the lasso, save their paths.
with tempfile.TemporaryDirectory() as folder:
    page = Path(folder, "atlas.html")
    page.write_text(atlas.page("Three kinds of conduction"), encoding="utf-8")
    print(f"{len(atlas.paths)} recordings in one page of {page.stat().st_size / 1e6:.1f} MB")

# %%
# Of each record the nearest are known. Those of the first:
for row, distance in zip(atlas.neighbours.rows[0], atlas.neighbours.distances[0], strict=True):
    print(f"{atlas.paths[row]}  distance {distance:4.1f}  {table['conduction'][row]}")

# %%
# The first map once more, as a picture. In the shell all of it is ``skecg embed`` and ``skecg atlas``.
figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
plot_embedding_map(features, labels["conduction"], ax=ax, title="Three kinds of conduction")
plt.show()
