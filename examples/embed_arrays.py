"""
Embed arrays
============

An array holds records, leads and samples, in this order. What it cannot say itself, its sampling rate and the names of
its leads, is told to the embedder once.
"""

# %%
# Six recordings of ten seconds, as an array of millivolts. Two leads stand for a wearable that measures no more.
import matplotlib.pyplot as plt
import numpy as np

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.plotting import plot_ecgs

records, labels = make_ecg(6, sampling_rate=500, leads=["I", "II"], noise=0.03, random_state=0)
X = np.stack([record.signal for record in records])
print("X:", X.shape, X.dtype)
plot_ecgs(records[:1], titles=["The first of six, two leads"], figure=plt.figure())
plt.show()

# %%
# Fitting trains nothing. It checks the input and settles which weights are meant.
embedder = JEPAEmbedder(sampling_rate=500, leads=["I", "II"])
features = embedder.fit_transform(X)
print("features:", features.shape, features.dtype)

# %%
# As everywhere in scikit-learn, features can come as a data frame with names.
table = embedder.set_output(transform="pandas").transform(X)
print(table.iloc[:, :4].round(3))

# %%
# Leads go by name, so their order in the array does not matter, and neither does the unit once it is named.
swapped = JEPAEmbedder(sampling_rate=500, leads=["II", "I"], units="uV").fit_transform(X[:, ::-1] * 1000)
print("same features from swapped leads in microvolts:", np.allclose(swapped, features, atol=1e-5))

# %%
# Without pooling there is a vector for each slice of time, with its place in the recording.
tokens = embedder.transform_tokens(X[:1])[0]
print("tokens:", tokens.values.shape)
print("the first sees lead:", tokens.leads[0], f"from {tokens.start_seconds[0]:g} to {tokens.stop_seconds[0]:g} s")
