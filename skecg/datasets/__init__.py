"""Recordings to work with: synthetic ones, and public data sets with their labels, patients and folds."""

from __future__ import annotations

from skecg.annotations import WAVE_KINDS, Waves
from skecg.datasets.base import LabelledECGs
from skecg.datasets.cpsc2018 import CPSC2018_CLASSES, fetch_cpsc2018
from skecg.datasets.ecgbench import read_ecgbench
from skecg.datasets.ludb import fetch_ludb, read_ludb_record, read_ludb_waves
from skecg.datasets.packed import read_packed
from skecg.datasets.physionet import default_data_home
from skecg.datasets.ptbxl import fetch_ptbxl, read_scp_statements
from skecg.datasets.synthetic import SyntheticECG, SyntheticWaves, make_ecg, make_waves

__all__ = [
    "CPSC2018_CLASSES",
    "WAVE_KINDS",
    "LabelledECGs",
    "SyntheticECG",
    "SyntheticWaves",
    "Waves",
    "default_data_home",
    "fetch_cpsc2018",
    "fetch_ludb",
    "fetch_ptbxl",
    "make_ecg",
    "make_waves",
    "read_ecgbench",
    "read_ludb_record",
    "read_ludb_waves",
    "read_packed",
    "read_scp_statements",
]
