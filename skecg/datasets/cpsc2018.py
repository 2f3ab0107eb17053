"""CPSC2018: 6,877 recordings of 6 to 144 seconds from eleven hospitals, nine classes.

References
----------
.. [1] Liu F. et al. (2018). An open access database for evaluating the algorithms of electrocardiogram rhythm and
       morphology abnormality detection. Journal of Medical Imaging and Health Informatics 8(7), 1368-1373.
.. [2] Perez Alday E. A. et al. (2020). Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge
       2020. Physiological Measurement 41, 124003.
.. [3] Kim S. (2024). Learning general representation of 12-lead electrocardiogram with a joint-embedding predictive
       architecture. arXiv:2410.08559.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skecg.datasets.base import LabelledECGs, comments_of, number, sex_of
from skecg.datasets.physionet import Copy, Fetching, Source, find_copy
from skecg.io.wfdb import read_wfdb_header

__all__ = ["CPSC2018", "CPSC2018_CLASSES", "fetch_cpsc2018"]

CPSC2018 = Source(
    name="cpsc2018",
    title="CPSC2018 (as in the PhysioNet/CinC Challenge 2020, 1.0.2)",
    url="https://physionet.org/files/challenge-2020/1.0.2/",
    licence="CC BY 4.0",
    citation=(
        "Liu F. et al. (2018). An open access database for evaluating the algorithms of electrocardiogram rhythm and "
        "morphology abnormality detection. J Med Imaging Health Inform 8(7), 1368-1373; Perez Alday E. A. et al. "
        "(2020). Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge 2020. Physiol Meas "
        "41, 124003; Goldberger A. et al. (2000). PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23), "
        "e215-e220."
    ),
    signs=("training/cpsc_2018/**/A*.hea", "cpsc_2018/**/A*.hea", "g1/A*.hea", "A[0-9][0-9][0-9][0-9].hea"),
)
#: The nine classes, SNOMED CT code to the data set's own name.
CPSC2018_CLASSES = {
    "426783006": "Normal",
    "164889003": "AF",
    "270492004": "I-AVB",
    "164909002": "LBBB",
    "59118001": "RBBB",
    "284470004": "PAC",
    "164884008": "PVC",
    "429622005": "STD",
    "164931005": "STE",
}
_CODE_OF_NAME = {name.lower(): code for code, name in CPSC2018_CLASSES.items()}
_WANTED = re.compile(r"training/cpsc_2018/g\d+/A\d+\.(hea|mat)")


class _Header(NamedTuple):
    """What the header of a recording tells."""

    path: Path
    seconds: float
    codes: dict[str, float]
    sex: str
    age: float


def fetch_cpsc2018(
    data_home: str | os.PathLike[str] | None = None,
    *,
    min_seconds: float = 0.0,
    download_if_missing: bool = True,
    n_connections: int = 4,
    base_url: str | None = None,
    n_retries: int = 5,
    delay: float = 1.0,
    verbose: int = 1,
) -> LabelledECGs:
    """Return CPSC2018 [1]_ as the Challenge of 2020 published it [2]_, downloading what of it is not there.

    Parameters
    ----------
    data_home : path, optional
        A copy, which is read as it is whatever of it is there, or a folder that holds one or is to: that of
        ``training/cpsc_2018``, or of its folders ``g1`` to ``g7``, or of the files. By default the environment variable
        ``SKECG_DATA``, else ``~/skecg_data``.
    min_seconds : float, default=0.0
        Leave out shorter recordings. The published evaluations of JEPA encoders take those of at least 10 seconds [3]_.
    download_if_missing : bool, default=True
        Whether to download (about 1.4 GB). Otherwise files that are not there are an error.
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
        Sorted by the recording's number. `records` are paths; `codes` are SNOMED CT codes (:data:`CPSC2018_CLASSES`)
        with likelihood 100, also where an early release of the Challenge wrote names. `folds` are 0: the data set has
        none, and does not say whose the recordings are, so that each is a patient of its own. `record_ids` begin with
        the Challenge's folder where the copy has them (``"g7/A6374"``): Kim [3]_ tests on ``g7`` and trains on the
        others, which is the one published rule for JEPA encoders.

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
    .. [1] Liu F. et al. (2018). An open access database for evaluating the algorithms of electrocardiogram rhythm and
           morphology abnormality detection. Journal of Medical Imaging and Health Informatics 8(7), 1368-1373.
    .. [2] Perez Alday E. A. et al. (2020). Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology
           Challenge 2020. Physiological Measurement 41, 124003.
    .. [3] Kim S. (2024). Learning general representation of 12-lead electrocardiogram with a joint-embedding predictive
           architecture. arXiv:2410.08559.
    """
    fetching = Fetching(download_if_missing, n_connections, base_url, n_retries, delay, verbose)
    copy = find_copy(CPSC2018, data_home, fetching)
    headers = [_read_header(path) for path in _header_paths(copy)]
    return _labelled(copy.folder, [header for header in headers if header.seconds >= min_seconds])


def _header_paths(copy: Copy) -> list[Path]:
    """List the recordings: all where they were downloaded, those that are there in somebody's copy."""
    if not copy.is_downloaded:
        found = {path for sign in CPSC2018.signs for path in copy.folder.glob(sign.replace("g1/", "g[0-9]*/"))}
        # By number, whichever folder they lie in: the same recordings are the same rows.
        return sorted(found, key=lambda path: (path.stem, path))
    names = copy.listed(_WANTED.fullmatch)
    copy.require(names)
    paths = [copy.folder / name for name in names if name.endswith(".hea")]
    return sorted(paths, key=lambda path: path.stem)


def _read_header(path: Path) -> _Header:
    """Read length and comments of one recording."""
    header = read_wfdb_header(path)
    fields = dict(line.split(":", 1) for line in comments_of(path) if ":" in line)
    names = [name.strip() for name in fields.get("Dx", "").split(",") if name.strip()]
    # The Challenge writes SNOMED CT codes, the data set's own release names: both become codes.
    codes = {_CODE_OF_NAME.get(name.lower(), name): 100.0 for name in names}
    age = number(fields.get("Age", ""))
    # From the header alone: 6,877 signals need not be read to leave the short ones out.
    seconds = header.n_frames / header.sampling_rate
    return _Header(path, seconds, codes, sex_of(fields.get("Sex", "")), age if age >= 0 else float("nan"))


def _labelled(folder: Path, headers: list[_Header]) -> LabelledECGs:
    """Turn headers into columns."""
    ids = [_record_id(header.path) for header in headers]
    return LabelledECGs(
        name=CPSC2018.name,
        records=[str(header.path.with_suffix("")) for header in headers],
        sampling_rate=None,
        leads=None,
        codes=tuple(header.codes for header in headers),
        # No table says whose recordings these are, so each is taken for a patient's only one.
        patients=np.array([header.path.stem for header in headers], dtype=str),
        # Published without folds; Kim's split goes by the Challenge's folders, which the ids keep.
        folds=np.zeros(len(headers), dtype=np.int64),
        sexes=np.array([header.sex for header in headers], dtype=str),
        ages=np.array([header.age for header in headers], dtype=np.float64),
        licence=CPSC2018.licence,
        citation=CPSC2018.citation,
        folder=folder,
        record_ids=np.array(ids, dtype=str),
    )


def _record_id(path: Path) -> str:
    """Name a recording, with the Challenge's folder before it."""
    return f"{path.parent.name}/{path.stem}" if re.fullmatch(r"g\d+", path.parent.name) else path.stem
