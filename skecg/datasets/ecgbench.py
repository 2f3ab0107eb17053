"""The folds that ecgbench fixes for public data sets, around one's own copies of them.

ecgbench is a catalogue of data sets: it says of each which columns its tables have, where the labels are, and in which
of ten folds each recording is. Recordings and labels are not in it; folds and identifiers are tables,

    <folder>/original/folds.csv, <folder>/clean/folds.csv

with columns for the recording, the patient where one is known, the files at each sampling rate, ``fold`` and
``default_split``; ``clean`` lacks the recordings that ecgbench found spoilt. Another file beside them,
``manifest.json``, names the data set.

References
----------
.. [1] Thambawita V., ECGBench, https://github.com/vlbthambawita/ECGBench (MIT).
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skecg.datasets.base import LabelledECGs, number, read_rows, sex_of, whole_number
from skecg.errors import DamagedRecordError, DatasetNotFoundError, MissingDependencyError, ParameterError

__all__ = ["read_ecgbench"]

_VERSIONS = ("clean", "original")
# What skecg.read_record reads as it is; the arrays of other formats lie many to a file.
_FORMATS = ("wfdb", "edf")
_FIXED = ("fold", "default_split")  # columns that every table of folds has


def read_ecgbench(
    data_home: str | os.PathLike[str],
    folds: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    version: str = "clean",
    sampling_rate: int | None = None,
    labels: str | None = None,
) -> LabelledECGs:
    """Read a data set with the folds of ecgbench [1]_; nothing is downloaded.

    Parameters
    ----------
    data_home : path
        One's own copy of the data set, as its publisher laid it out.
    folds : path, optional
        The folder that ``ecgbench splits`` wrote, or the data set's folder of the published folds. By default they lie
        in `data_home`.
    name : str, optional
        What ecgbench calls the data set, such as ``"cpsc_2018"``. By default what ``manifest.json`` beside the folds
        says, else the folder's name.
    version : {"clean", "original"}, default="clean"
        Whether recordings that ecgbench found spoilt are left out.
    sampling_rate : int, optional
        Which of several sets of files, in Hz; by default the one that ecgbench takes.
    labels : str, optional
        Which of the columns of labels; by default the one by which ecgbench names the data set's labels. Columns that
        hold lists, mappings (with likelihoods) or names with commas between them give several statements each.

    Returns
    -------
    LabelledECGs
        In the order of the table. `records` are paths; `folds` are ecgbench's: 1 to 8 to train on, 9 to choose with, 10
        to test on, where there are ten. Where it knows no patients each recording is a patient of its own.

    Raises
    ------
    MissingDependencyError
        When ecgbench is not installed.
    DatasetNotFoundError
        When the folds, the labels or a recording are not there.
    DamagedRecordError
        When the table lacks a column, names a recording twice, or gives no number as a fold.
    ParameterError
        When ecgbench does not know the data set, or its files are not such that skecg reads.

    References
    ----------
    .. [1] Thambawita V., ECGBench, https://github.com/vlbthambawita/ECGBench (MIT).
    """
    if version not in _VERSIONS:
        raise ParameterError(f"Got version={version!r}, expected 'clean' or 'original'.")
    home = Path(data_home).expanduser()
    where = home if folds is None else Path(folds).expanduser()
    table = where / version / "folds.csv"
    if not table.is_file():
        raise DatasetNotFoundError(
            f"Got {str(where)!r} without {version}/folds.csv, expected the folder that `ecgbench splits` wrote. Run "
            "it, or fetch the data set's folder of the published folds."
        )
    config = _config(name or _name_of(where))
    path_column = _path_column(config, sampling_rate)
    needed = [config.record_id_column, path_column, *_FIXED]
    rows = read_rows(table, [*needed, config.patient_id_column] if config.patient_id_column else needed)
    ids = [whole_number(row[config.record_id_column]) for row in rows]
    _check_ids(ids, table)
    known = _labels_of(config, home)
    statements = _statements(known, labels or config.label_column, ids, config.slug)
    return LabelledECGs(
        name=config.slug,
        records=[_file_of(home, row[path_column], config.signal_format) for row in rows],
        sampling_rate=None,
        leads=None,
        codes=statements,
        patients=np.array(_patients(rows, config.patient_id_column, ids), dtype=str),
        folds=np.array([_fold_of(row["fold"], table) for row in rows], dtype=np.int64),
        sexes=np.array([_sex(known.get(one, {}), config.slug) for one in ids], dtype=str),
        ages=np.array([_age(known.get(one, {})) for one in ids], dtype=np.float64),
        licence=config.license,
        citation=" ".join(config.citation.split()),
        folder=home,
        record_ids=np.array(ids, dtype=str),
    )


def _name_of(where: Path) -> str:
    """Return the data set that a folder of folds is of."""
    try:
        found = json.loads((where / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return where.resolve().name
    except ValueError as error:
        raise DamagedRecordError(
            f"Got {where / 'manifest.json'}, which is no JSON. Run `ecgbench splits` again."
        ) from error
    name = found.get("dataset") if isinstance(found, dict) else None
    return name if isinstance(name, str) else where.resolve().name


def _config(name: str) -> Any:
    """Return ecgbench's description of a data set."""
    try:
        from ecgbench.config import list_available_configs, load_config
    except ImportError as error:
        raise MissingDependencyError(
            "Folds of ecgbench need ecgbench, which is not installed. Run `pip install 'skecg[ecgbench]'`."
        ) from error
    known = list_available_configs()
    if name not in known:
        raise ParameterError(
            f"Got the data set {name!r}, expected one that ecgbench describes: {', '.join(sorted(known))}. Pass name=."
        )
    return load_config(name)


def _path_column(config: Any, sampling_rate: int | None) -> str:
    """Return the column of the files at a rate, where they are of a format that is read."""
    if config.signal_format not in _FORMATS or config.signal_units != "mV":
        raise ParameterError(
            f"Got the data set {config.slug!r}, whose recordings are {config.signal_format!r} in "
            f"{config.signal_units}, expected files of {' or '.join(_FORMATS)} in mV. Write them as WFDB files first, "
            "and list these in a table of labels with a column `fold`."
        )
    rate = config.default_sampling_rate if sampling_rate is None else sampling_rate
    if rate not in config.signal_path_columns:
        raise ParameterError(
            f"Got sampling_rate={rate!r} for {config.slug!r}, expected one of "
            f"{', '.join(map(str, config.signal_path_columns))}."
        )
    return str(config.signal_path_columns[rate])


def _check_ids(ids: list[str], table: Path) -> None:
    if not ids:
        raise DamagedRecordError(f"Got {table} without a recording, expected a line for each. Fetch it again.")
    twice, n_times = Counter(ids).most_common(1)[0]
    if n_times > 1:
        raise DamagedRecordError(f"Got {table} with the recording {twice!r} twice, expected each once. Fetch it again.")


def _fold_of(text: str, table: Path) -> int:
    fold = number(text)
    if not (math.isfinite(fold) and fold == int(fold) and fold >= 1):
        raise DamagedRecordError(f"Got the fold {text!r} in {table}, expected a whole number from 1. Fetch it again.")
    return int(fold)


def _file_of(home: Path, text: str, signal_format: str) -> Path:
    """Return where a recording lies, which has to be inside the data set's folder."""
    path = home / text
    # A table may come from anybody, and must not name files elsewhere.
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise DamagedRecordError(f"Got the file {text!r} in the folds, expected one inside {str(home)!r}.")
    if signal_format == "wfdb":  # named by a header, by another file, or by neither
        path = path.with_name(path.name.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat"))
    header = path.with_name(path.name + ".hea") if signal_format == "wfdb" else path
    if not header.is_file():
        raise DatasetNotFoundError(
            f"Got no {str(header)!r}, which the folds name; expected the data set in {str(home)!r} as its publisher "
            "laid it out. Download what is missing, or pass its folder as data_home."
        )
    return path


def _patients(rows: list[dict[str, str]], column: str | None, ids: list[str]) -> list[str]:
    """Return whose each recording is; one without a patient is one of its own."""
    if column is None:
        return ids
    named = (whole_number(row[column]) for row in rows)
    return [patient or f"record {one}" for patient, one in zip(named, ids, strict=True)]


def _labels_of(config: Any, home: Path) -> dict[str, Mapping[str, Any]]:
    """Read what is known of each recording, by ecgbench's own reader: it knows where each data set keeps it."""
    from ecgbench.labels import LabelSourceMissingError, LabelsUnavailableError, load_labels

    try:
        table = load_labels(config, home)
    except LabelsUnavailableError:
        return {}
    except (LabelSourceMissingError, OSError) as error:
        raise DatasetNotFoundError(
            f"The labels of {config.slug!r} are not in {str(home)!r}: {error} Pass the folder of the whole data set."
        ) from error
    return {whole_number(str(index)): row for index, row in zip(table.index, table.to_dict("records"), strict=True)}


def _statements(
    known: Mapping[str, Mapping[str, Any]], column: str, ids: list[str], name: str
) -> tuple[dict[str, float], ...]:
    """Return the statements on each recording, none where the data set has no labels."""
    if not known:
        return tuple({} for _ in ids)
    columns = next(iter(known.values())).keys()
    if column not in columns:
        raise ParameterError(f"Got labels={column!r} for {name!r}, expected one of {', '.join(map(str, columns))}.")
    return tuple(_codes(known.get(one, {}).get(column)) for one in ids)


def _codes(value: Any) -> dict[str, float]:
    """Read statements from a mapping, a list, or text that is one of these or has commas."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            # literal_eval, which builds values and runs nothing.
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = [value]
    if isinstance(value, Mapping):
        return {str(code): float(likelihood) for code, likelihood in value.items()}
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return {}
    several: Iterable[Any] = value.split(",") if isinstance(value, str) else value if np.iterable(value) else [value]
    return {whole_number(str(code)): 100.0 for code in several if str(code).strip()}


def _age(row: Mapping[str, Any]) -> float:
    """Return an age in years; PTB-XL writes 300 for those over 89, others -1 for one that is not known."""
    age = number(str(row.get("age", "")))
    return 90.0 if age >= 300 else age if age >= 0 else math.nan


def _sex(row: Mapping[str, Any], name: str) -> str:
    """Return a sex, which PTB-XL writes as a number."""
    text = str(row.get("sex", row.get("Gender", "")))
    return {"0": "M", "1": "F"}.get(whole_number(text), "") if name == "ptbxl" else sex_of(text)
