"""What every encoder is compared with, in the same table and the same run.

An encoder that does not beat these has not learned what they lack: the majority (no features at all), numbers that a
person would compute of a signal, random convolutions, and an encoder of the same shape whose weights are random.
"""

from __future__ import annotations

from skecg.evaluation.baselines.hand_crafted import hand_crafted_features
from skecg.evaluation.baselines.random_convolutions import random_convolution_features
from skecg.evaluation.baselines.signal_features import SignalFeatures, hand_crafted, random_convolutions
from skecg.evaluation.baselines.untrained import write_untrained_twin

__all__ = [
    "SignalFeatures",
    "hand_crafted",
    "hand_crafted_features",
    "random_convolution_features",
    "random_convolutions",
    "write_untrained_twin",
]
