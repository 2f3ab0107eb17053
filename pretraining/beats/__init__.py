"""Where the beats of recordings are and what they are like, without any label; what the recordings are like as well."""

from __future__ import annotations

from pretraining.beats.table import BeatTable, read_beats, write_beats

__all__ = ["BeatTable", "read_beats", "write_beats"]
