"""Numbers that describe a whole recording without any label, for encoders to predict beside the masked tokens."""

from __future__ import annotations

from pretraining.descriptors.table import N_DESCRIPTORS, Descriptors, read_descriptors, write_descriptors

__all__ = ["N_DESCRIPTORS", "Descriptors", "read_descriptors", "write_descriptors"]
