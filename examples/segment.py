"""
Find P waves, QRS complexes and T waves
=======================================

A segmenter learns from recordings whose waves somebody marked, labels every sample of others, and writes what it found
as WFDB annotations. The recordings here are synthetic, so that the example needs no download; with
:func:`skecg.datasets.fetch_ludb` they would be two hundred real ones that cardiologists marked.
"""

# %%
# Fourteen hearts with their waves. Each heart is a patient of its own; four are kept for the end.
import matplotlib.pyplot as plt
import numpy as np

from skecg import Segmenter
from skecg.datasets import make_waves

records, waves = make_waves(14, random_state=0)
print("first waves (onset, peak, offset, kind):", waves[0].tables[0][:3].tolist())

# %%
# First a decoder is trained on the frozen encoder, then both. A few epochs are enough for hearts as regular as these.
segmenter = Segmenter(head_epochs=8, epochs=4, batch_size=4).fit(records[:10], waves[:10])
for stage, history in segmenter.history_.items():
    print(f"{stage}: best epoch {history.best_epoch}, F1 of patients held out {max(history.scores):.3f}")

# %%
# The F1 of hearts that were not learned from, over all samples whose label is known.
print(f"F1 of unseen hearts: {segmenter.score(records[10:], waves[10:]):.3f}")

# %%
# Labels have the rate and the length of their record: here 25 s at 360 Hz, longer than any window.
long = make_waves(1, duration_seconds=25, sampling_rate=360, random_state=1).records
labels = segmenter.predict(long)[0]
print(
    "labels:", labels.shape, {name: int((labels == number).sum()) for number, name in enumerate(("-", "P", "QRS", "T"))}
)

# %%
# Waves with onset, peak and offset, from which intervals follow. ``annotations.write("patient7.waves")`` makes a file
# of them that wfdb and PhysioNet's tools read.
annotations = segmenter.annotate(long)[0]
seconds = annotations.seconds()[annotations.table[:, 3] == 1]
print(annotations)
print(f"heart rate: {60 * (len(seconds) - 1) / (seconds[-1, 1] - seconds[0, 1]):.0f} bpm")

# %%
# The first five seconds of lead II, in the colours of what was found.
record, shown = long[0], slice(0, 5 * 360)
signal = record.signal[record.leads.index("II"), shown]
time = np.arange(len(signal)) / record.sampling_rate
figure, ax = plt.subplots(figsize=(11, 3), layout="constrained")
ax.plot(time, signal, color="0.75")
for number, name in enumerate(("P", "QRS", "T"), start=1):
    ax.plot(time, np.where(labels[shown] == number, signal, np.nan), label=name, linewidth=2)
ax.set(xlabel="s", ylabel="mV")
ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
plt.show()
