"""PTB-XL: 21,799 recordings of ten seconds from 18,869 patients, with statements of cardiologists and ten folds.

References
----------
.. [1] Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7, 154.
.. [2] Strodthoff N. et al. (2021). Deep learning for ECG analysis: benchmarks and insights from PTB-XL. IEEE Journal of
       Biomedical and Health Informatics 25(5), 1519-1528.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.base import LabelledECGs, number, read_rows, whole_number
from skecg.datasets.physionet import Fetching, Source, find_copy
from skecg.errors import DamagedRecordError, ParameterError

__all__ = ["PTBXL", "fetch_ptbxl", "read_scp_statements"]

PTBXL = Source(
    name="ptbxl",
    title="PTB-XL 1.0.3",
    url="https://physionet.org/files/ptb-xl/1.0.3/",
    licence="CC BY 4.0",
    citation=(
        "Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7, "
        "154. https://doi.org/10.1038/s41597-020-0495-6; Goldberger A. et al. (2000). PhysioBank, PhysioToolkit, and "
        "PhysioNet. Circulation 101(23), e215-e220."
    ),
    signs=("ptbxl_database.csv",),
)
_TABLES = ("ptbxl_database.csv", "scp_statements.csv")
_FILE_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
_COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold")
_SEXES = {"0": "M", "1": "F"}  # as PTB-XL's table codes them
#: PTB-XL writes this for everybody who is older than 89.
_OLDEST_CODE, _OLDEST_YEARS = 300.0, 90.0


def fetch_ptbxl(
    data_home: str | os.PathLike[str] | None = None,
    *,
    sampling_rate: int = 100,
    download_if_missing: bool = True,
    n_connections: int = 4,
    base_url: str | None = None,
    n_retries: int = 5,
    delay: float = 1.0,
    verbose: int = 1,
) -> LabelledECGs:
    """Return PTB-XL [1]_, downloading what of it is not there.

    Parameters
    ----------
    data_home : path, optional
        An unpacked PTB-XL, which is read as it is, or a folder that holds one or is to; by default the environment
        variable ``SKECG_DATA``, else ``~/skecg_data``.
    sampling_rate : {100, 500}, default=100
        Which of the two sets of recordings (Hz). Only that one is downloaded: about 0.6 GB at 100 Hz, 2.7 GB at 500 Hz.
    download_if_missing : bool, default=True
        Whether to download. Otherwise files that are not there are an error.
    n_connections : int, default=4
        Files at a time, 1 to 8.
    base_url : str, optional
        Address of a mirror, of the folder with ``SHA256SUMS.txt`` in it.
    n_retries : int, default=5
        How often a file is asked for again after it failed without a byte of progress.
    delay : float, default=1.0
        Seconds before the first of these attempts; doubled for each, and at least what the server asks for.
    verbose : int, default=1
        0 is silent; else licence and progress go to standard error.

    Returns
    -------
    LabelledECGs
        In the order of PTB-XL's table. `records` are paths, `codes` SCP statements with likelihoods in per cent, 0
        where the annotators gave none; `folds` are 1 to 10, of which 9 and 10 are of higher quality and recommended
        for validation and test [2]_, and no patient is in two. `ages` are 90 for everybody older than 89: PTB-XL writes
        300 for these, to protect them.

    Raises
    ------
    DatasetNotFoundError
        When it is not there and not to be downloaded.
    DownloadError
        When it cannot be downloaded.
    ParameterError
        When an argument is not what it has to be.

    References
    ----------
    .. [1] Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7.
    .. [2] Strodthoff N. et al. (2021). Deep learning for ECG analysis: benchmarks and insights from PTB-XL. IEEE JBHI
           25(5), 1519-1528.
    """
    if sampling_rate not in _FILE_COLUMNS:
        raise ParameterError(f"Got sampling_rate={sampling_rate!r}, expected 100 or 500 (Hz): PTB-XL has these two.")
    fetching = Fetching(download_if_missing, n_connections, base_url, n_retries, delay, verbose)
    copy = find_copy(PTBXL, data_home, fetching)
    copy.require(_TABLES)
    column = _FILE_COLUMNS[sampling_rate]
    rows = read_rows(copy.folder / _TABLES[0], [*_COLUMNS, column])
    copy.require(f"{row[column]}{suffix}" for row in rows for suffix in (".hea", ".dat"))
    return _labelled(copy.folder, rows, column)


def read_scp_statements(folder: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """Read what PTB-XL says of each SCP statement.

    Parameters
    ----------
    folder : path
        That of a PTB-XL, ``fetch_ptbxl().folder``.

    Returns
    -------
    dict of str to dict
        By the statement's code, the columns of ``scp_statements.csv``: ``diagnostic``, ``form`` and ``rhythm``
        (``"1.0"`` where it is one, else empty), ``diagnostic_class``, ``diagnostic_subclass``, ``description`` and
        others.
    """
    rows = read_rows(Path(folder) / _TABLES[1], ["diagnostic", "form", "rhythm", "diagnostic_class"])
    key = next(iter(rows[0])) if rows else ""  # the first column has no name
    return {row[key]: {name: value for name, value in row.items() if name != key} for row in rows}


def _labelled(folder: Path, rows: list[dict[str, str]], column: str) -> LabelledECGs:
    """Turn the rows of the table into columns."""
    ages = np.array([number(row["age"]) for row in rows], dtype=np.float64)
    return LabelledECGs(
        name=PTBXL.name,
        records=[str(folder / row[column]) for row in rows],
        sampling_rate=None,
        leads=None,
        codes=tuple(_codes(row["scp_codes"], row["ecg_id"]) for row in rows),
        patients=_texts(whole_number(row["patient_id"]) for row in rows),
        folds=np.array([int(number(row["strat_fold"])) for row in rows], dtype=np.int64),
        sexes=_texts(_SEXES.get(whole_number(row["sex"]), "") for row in rows),
        ages=np.where(ages == _OLDEST_CODE, _OLDEST_YEARS, ages),
        licence=PTBXL.licence,
        citation=PTBXL.citation,
        folder=folder,
        record_ids=_texts(f"{int(number(row['ecg_id'])):05d}" for row in rows),
    )


def _texts(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=str)


def _codes(text: str, ecg_id: str) -> Mapping[str, float]:
    """Read the statements of one recording, which the table writes as a Python dict of numbers."""
    try:
        # literal_eval, which builds values and runs nothing.
        return {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise DamagedRecordError(
            f"Got scp_codes={text!r} for ecg_id {ecg_id} in {_TABLES[0]}, expected statements with likelihoods, such "
            "as {'NORM': 100.0}. Download the table again."
        ) from error
