"""Whatever a user passes as X: checked as scikit-learn checks it, and made a sequence of records.

Arrays are never copied whole, and files are never all open. A record is made when it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_n_features, validate_data

from skecg.compute.devices import in_order
from skecg.errors import (
    BadSignalError,
    LeadError,
    LeadWarning,
    ParameterError,
    SamplingRateError,
    ShapeError,
    SkecgError,
    user_stacklevel,
)
from skecg.io.times import check_frame_times
from skecg.leads import (
    CANONICAL_LEADS,
    bare_name,
    canonical_lead,
    canonical_leads,
    known_leads,
    lead_names,
    unit_in_name,
)
from skecg.preprocessing.quality import SHORTEST_SECONDS
from skecg.preprocessing.units import STANDARDIZED, with_typical_amplitudes
from skecg.records import ECGRecord, as_millivolts, as_sampling_rate, check_not_transposed, masked_to_nan, named_unit
from skecg.validation import suggestion

__all__ = ["RecordSource", "as_items", "as_plain", "is_numeric_array", "read_as", "record_source"]


def is_numeric_array(X: Any) -> bool:
    """Return whether X is one array of numbers (or nested lists of them), not a sequence of records or paths."""
    if isinstance(X, list | tuple):
        return len(X) == 0 or (_is_numbers(X[0]) and _is_regular(X))
    if _is_frame(X):
        return all(map(_is_number_type, X.dtypes))
    if _is_series(X):
        return _is_number_type(X.dtype)
    kind = getattr(getattr(X, "dtype", None), "kind", None)
    if kind in ("U", "S") or (kind == "O" and _is_column(X) and not _is_numbers(X.flat[0])):
        return False
    return (hasattr(X, "shape") or hasattr(X, "__array__")) and not isinstance(X, ECGRecord) and not _is_wfdb(X)


def _is_number_type(dtype: Any) -> bool:
    """Return whether a column's type, of pandas or polars, is one of numbers."""
    is_numeric = getattr(dtype, "is_numeric", None)
    return bool(is_numeric()) if callable(is_numeric) else getattr(dtype, "kind", "O") in "fiubc"


def _is_regular(X: Any) -> bool:
    """Return whether nested lists make one array; NumPy refuses those of different lengths itself."""
    try:
        np.asarray(X)
    except ValueError:
        return False
    return True


def _is_column(X: Any) -> bool:
    """Return whether an array has one element a row, and any."""
    return X.size > 0 and X.size == len(X)


def _is_numbers(item: Any) -> bool:
    """Return whether an element is a number or a nested list of numbers."""
    while isinstance(item, list | tuple) and len(item):
        item = item[0]
    return isinstance(item, int | float | complex | np.number) or (isinstance(item, list | tuple) and not item)


def as_items(X: Any) -> Sequence[Any] | NDArray[Any]:
    """Return the elements of a list, object array, Series or one-column frame; refuse a lone record or path."""
    if isinstance(X, str | Path | ECGRecord) or _is_wfdb(X):
        raise ShapeError(f"Got X of type {type(X).__name__}, a single record; expected a sequence. Pass [X].")
    if _is_frame(X):
        if X.shape[1] != 1:
            raise ShapeError(
                f"Got a table with columns {list(map(str, X.columns))[:6]}, expected one column of paths. "
                "Pass the column itself, for example X['path'], or name it to an embedder: "
                "JEPAEmbedder(path_column='path')."
            )
        X = X[X.columns[0]]
    if _is_series(X):
        return list(X)
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]  # a column of a table, as ColumnTransformer hands it on
    if isinstance(X, np.ndarray) and X.ndim != 1:
        raise ShapeError(f"Got an object array of shape {X.shape}, expected one record or path for each row.")
    if not isinstance(X, Sequence | np.ndarray):
        raise ShapeError(
            f"Got X of type {type(X).__name__}; expected an array (n_records, n_leads, n_samples), or a list of "
            "ECGRecord, wfdb.Record, arrays or paths."
        )
    return X


class RecordSource:
    """Records made on demand.

    Parameters
    ----------
    items : sequence
        ECGRecord, ``wfdb.Record``, arrays or tensors (n_leads, n_samples) or (n_samples,), or paths; or one array
        whose rows are such arrays. A data frame may name its leads, and their units, by its columns or its rows.
    sampling_rate : float, array-like of shape (n_records,) or None
        Rate of the arrays and of files that do not carry one.
    leads : sequence of str, mapping of str to str, or None
        Leads of the arrays and of files that do not name them; arrays of twelve rows may go without. A mapping says
        what leads of records and files with names of their own are.
    units : str
        Unit of the arrays; with ``"per-lead standard deviation"``, every lead of every record, wherever it is from, is
        given the amplitude that is typical of it.
    refuse_gaps : bool, default=True
        Whether an array is refused at once for the gaps of a record of less than a second, or that record when it is
        embedded.
    verify_checksums : bool, default=False
        Whether files' signals are compared with the checksums in their headers.

    Raises
    ------
    InputError
        When what the arrays lack is not given.
    """

    def __init__(
        self,
        items: Sequence[Any] | NDArray[Any],
        *,
        sampling_rate: Any,
        leads: Sequence[str] | Mapping[str, str] | None,
        units: str,
        refuse_gaps: bool = True,
        verify_checksums: bool = False,
    ) -> None:
        self.items = items
        self.refuse_gaps = refuse_gaps
        self.verify_checksums = verify_checksums
        self._renamed: dict[str, str] = lead_names(leads) if isinstance(leads, Mapping) else {}
        # Across all records: a name that a single file lacks is no mistake, one that all lack is.
        self._unmet = set(self._renamed)
        self.leads = None if leads is None or isinstance(leads, Mapping) else known_leads(leads)
        self.units = units
        self._rates = _as_rates(sampling_rate, len(items))
        self._standardized = isinstance(units, str) and units == STANDARDIZED
        if not self._standardized:
            # A dry run on zeros, so that a misspelt unit is an error at once, and not one for each record.
            as_millivolts(np.zeros((len(units) if isinstance(units, list | tuple) else 1, 1), dtype=np.float32), units)
            if isinstance(units, str) and leads is not None and not isinstance(leads, Mapping):
                named_unit(leads, units)
        if isinstance(items, np.ndarray) and items.dtype.kind != "O" and items.dtype.kind not in "US":
            self._check_array(items)

    def __len__(self) -> int:
        return len(self.items)

    def label(self, row: int) -> str:
        """Name a record in a message: its place, which is one of a fold while validating, and what it is called."""
        item = self.items[row]
        name = str(item) if isinstance(item, str | Path) else item.name if isinstance(item, ECGRecord) else ""
        return f"record {row} ({name!r})" if name else f"record {row}"

    def read(
        self, rows: Sequence[int], n_jobs: int | None = None, *, keep_steps: bool = False
    ) -> list[ECGRecord | SkecgError]:
        """Make several records, those of files with their steps if asked to; an error stands in its record's place."""
        # Only files wait for something; slicing arrays holds Python's lock.
        n_threads = effective_n_jobs(n_jobs) if any(isinstance(self.items[i], str | Path) for i in rows) else 1
        return list(in_order(partial(self._try, keep_steps=keep_steps), rows, n_threads))

    def warn_of_unmet_leads(self) -> None:
        """Warn of names in a mapping of leads that no record had, once records were read."""
        if self._unmet:
            warnings.warn(
                f"Got leads= for {', '.join(sorted(self._unmet))}, which none of {len(self)} record(s) has. "
                "Check the names; read_record shows those of a file.",
                LeadWarning,
                stacklevel=user_stacklevel(),
            )

    def _try(self, row: int, keep_steps: bool) -> ECGRecord | SkecgError:
        try:
            return self._make(row, keep_steps)
        except SkecgError as error:
            return error

    def __getitem__(self, row: int) -> ECGRecord:
        return self._make(row, keep_steps=False)

    def _make(self, row: int, keep_steps: bool) -> ECGRecord:
        record = self._read_item(row, keep_steps and not self._standardized and not self._renamed)
        if self._renamed:
            names = {lead: bare_name(lead) for lead in record.leads}
            self._unmet.difference_update(names.values())
            leads = tuple([self._renamed.get(name, lead) for lead, name in names.items()])
            record = ECGRecord(record.signal, record.sampling_rate, leads, record.name)
        return with_typical_amplitudes(record) if self._standardized else record

    @property
    def _voltage(self) -> str:
        """The unit of arrays and tables; standardized leads get their amplitudes once their names are known."""
        return "mV" if self._standardized else self.units

    def _read_item(self, row: int, keep_steps: bool) -> ECGRecord:
        item = self.items[row]
        if isinstance(item, ECGRecord):
            return item
        if isinstance(item, str | Path):
            return self._read_file(item, row, keep_steps)
        if _is_wfdb(item):
            from skecg.io import from_wfdb

            return from_wfdb(item)
        return self._from_array(item, row)

    def _rate(self, row: int) -> float | None:
        return None if self._rates is None else float(self._rates[row if len(self._rates) > 1 else 0])

    def _read_file(self, path: str | Path, row: int, keep_steps: bool) -> ECGRecord:
        from skecg.io.reading import read_digitized, read_record
        from skecg.io.tables import TABLE_SUFFIXES

        # What is said of a file that is not there is not about tables.
        if Path(path).suffix.lower() not in TABLE_SUFFIXES or not Path(path).exists():
            read = read_digitized if keep_steps else read_record
            return read(path, verify_checksums=self.verify_checksums)
        units = None if self._voltage == "mV" else self._voltage  # what the file says comes before the default
        return read_record(path, sampling_rate=self._rate(row), leads=self.leads, units=units)

    def _from_array(self, item: Any, row: int) -> ECGRecord:
        where = f" in X[{row}]"
        named, units, item = self._leads_of_frame(item, row) if _is_frame(item) else (None, self._voltage, item)
        array = _to_numpy(item)
        if array.ndim == 0:
            raise ShapeError(
                f"Got an element of type {type(item).__name__}{where}, expected an ECGRecord, a wfdb.Record, an array "
                "(n_leads, n_samples) or a path."
            )
        array = array[np.newaxis] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ShapeError(f"Got an array of shape {array.shape}{where}, expected (n_leads, n_samples).")
        if array.dtype.kind not in "fiub":  # complex numbers and dates would become floats, with a warning at most
            raise ShapeError(f"Got values of dtype {array.dtype}{where}, expected real numbers.")
        if named is not None and self.leads is not None and named != self.leads:
            raise LeadError(
                f"Got a data frame of lead(s) {', '.join(named)}{where} and leads={list(self.leads)}, expected the "
                "same names in the same order. Leave leads out: the frame has its own."
            )
        leads = named or self._leads_of(array.shape, where)
        return ECGRecord(as_millivolts(array, units), self._required_rate(row, where), leads, f"X[{row}]")

    def _leads_of_frame(self, frame: Any, row: int) -> tuple[tuple[str, ...] | None, str | list[str], Any]:
        """Return the leads that a data frame names, if any, their units, and its values with a row for each lead."""
        array, index, where = _values_of(frame), getattr(frame, "index", ()), f" in X[{row}]"
        for labels, others, values in ((frame.columns, index, array.T), (index, frame.columns, array)):
            names = [label for label in labels if isinstance(label, str)]
            known = [
                name for name in names if canonical_lead(name) in CANONICAL_LEADS or bare_name(name) in self._renamed
            ]
            if known and len(names) == len(labels):
                names, values = check_frame_times(others, names, values, self._required_rate(row, where), f"X[{row}]")
                return canonical_leads(names), self._units_of(names), values
        if any(isinstance(name, str) for name in (*frame.columns, *index)):
            raise LeadError(
                f"Got a data frame with the columns {list(frame.columns)[:4]}{where}, expected leads such as 'II' as "
                "names of its columns or of its rows. Rename them, say leads={'MLII': 'II'}, or pass frame.to_numpy()."
            )
        return None, self._voltage, array

    def _units_of(self, names: Sequence[str]) -> str | list[str]:
        """Return the units that a data frame's names state; as in files, they come before the default."""
        stated = [unit_in_name(name) for name in names]
        if not any(stated) or not isinstance(self._voltage, str):
            return self._voltage
        if self._voltage != "mV":
            named_unit(names, self._voltage)
        return [unit or self._voltage for unit in stated]

    def _check_array(self, array: NDArray[Any]) -> None:
        if array.ndim == 3:
            self._leads_of(array.shape[1:], "")
        elif self.leads is None or len(self.leads) != 1:
            given = "no leads" if self.leads is None else f"{len(self.leads)} leads"
            raise LeadError(
                f"Got X of shape {array.shape}, which is one lead per record, and {given}; expected the name of that "
                "lead. Pass leads=['II'], or an array (n_records, n_leads, n_samples)."
            )
        self._required_rate(0, "")
        # In one array all records have one length, so this is known before any is read, and fit can say it.
        short = np.broadcast_to(array.shape[-1] < SHORTEST_SECONDS * np.asarray(self._rates), len(array))
        if self.refuse_gaps and array.dtype.kind == "f" and short.any():
            _check_whole(array, short)

    def _leads_of(self, shape: tuple[int, ...], where: str) -> tuple[str, ...]:
        check_not_transposed(shape, where)
        n_leads = shape[0]
        if self.leads is None and n_leads == len(CANONICAL_LEADS):
            return CANONICAL_LEADS
        if self.leads is None:
            raise LeadError(
                f"Got arrays of {n_leads} lead(s){where} without names; only twelve in the order "
                f"{', '.join(CANONICAL_LEADS)} may go without. Pass leads=[...], one name for every row."
            )
        if len(self.leads) != n_leads:
            raise LeadError(
                f"Got arrays of {n_leads} lead(s){where}, expected {len(self.leads)} as named by "
                f"leads={list(self.leads)}. A record is (n_leads, n_samples)."
            )
        return self.leads

    def _required_rate(self, row: int, where: str) -> float:
        rate = self._rate(row)
        if rate is None:
            raise SamplingRateError(
                f"Got arrays{where} without a sampling rate; expected one in Hz. Pass sampling_rate=500 (whatever the "
                "recorder used), or ECGRecord objects or files that carry their own."
            )
        return rate


def _check_whole(array: NDArray[Any], short: NDArray[np.bool_]) -> None:
    """Raise for records under a second that have gaps or infinite values: nothing can bridge them."""
    rows = np.flatnonzero(short & ~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if rows.size:
        raise BadSignalError(
            f"Input X contains NaN or infinity in {len(rows)} record(s) of less than a second (first: row {rows[0]}), "
            "expected every sample; only longer records may have gaps. Leave these records out."
        )


def _as_rates(sampling_rate: Any, n_records: int) -> NDArray[np.float64] | None:
    if sampling_rate is None:
        return None
    rates = np.asarray(sampling_rate)
    if rates.ndim == 0:
        return np.array([as_sampling_rate(sampling_rate)])
    if rates.shape != (n_records,):
        raise SamplingRateError(
            f"Got sampling_rate of shape {rates.shape} for {n_records} records, expected one number or one for each."
        )
    return np.array([as_sampling_rate(rate) for rate in rates])


def _to_numpy(item: Any) -> NDArray[Any]:
    """Turn an array-like or a tensor on any device, known by what it can do, into an array; torch is not imported."""
    if hasattr(item, "detach"):
        return _of_tensor(item)
    try:
        return np.asarray(masked_to_nan(item))
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"Got an element of type {type(item).__name__} that is no record, path or array of numbers ({error})."
            f"{' Take wfdb.rdrecord in place of wfdb.rdsamp.' if isinstance(item, tuple) else ''}"
        ) from error


def _of_tensor(tensor: Any) -> NDArray[Any]:
    """Copy a tensor to where NumPy can see it; NumPy knows no bfloat16."""
    try:
        values = tensor.detach().cpu().resolve_conj().resolve_neg()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        return np.asarray(values.numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ShapeError(
            f"Got a tensor of {tensor.layout} and {tensor.dtype} that NumPy cannot take "
            f"({str(error).splitlines()[0]}); expected a dense one of real numbers. Pass a list of tensors "
            "(n_leads, n_samples), or tensor.to_dense()."
        ) from error


def as_plain(X: Any) -> Any:
    """Return a tensor's values as an array, a masked array's with NaN for what it masks, anything else as it is."""
    return _of_tensor(X) if hasattr(X, "detach") else masked_to_nan(X)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "dtypes") and getattr(X, "ndim", len(getattr(X, "shape", ()))) == 2


def _values_of(frame: Any) -> NDArray[Any]:
    """Return a data frame's values; nullable and Arrow's numbers, which NumPy takes for objects, as floats."""
    kinds = ["" if isinstance(dtype, np.dtype) else getattr(dtype, "kind", "O") for dtype in frame.dtypes]
    is_nullable = any(kinds) and "O" not in kinds  # those of polars have no kind
    return np.asarray(frame.to_numpy(np.float64, na_value=np.nan) if is_nullable else frame.to_numpy())


def _is_series(X: Any) -> bool:
    return hasattr(X, "to_numpy") and not _is_frame(X) and len(getattr(X, "shape", ())) == 1


def _is_wfdb(item: Any) -> bool:
    """Return whether an object is a record of the wfdb package, without importing it."""
    # wfdb takes long to import, and whoever has such a record has imported it.
    return any(cls.__module__.startswith("wfdb.") for cls in type(item).__mro__)


def record_source(
    estimator: Any, X: Any, sampling_rate: ArrayLike | None, *, reset: bool, refuse_gaps: bool = True
) -> RecordSource:
    """Make a source of records of X.

    Parameters
    ----------
    estimator : object
        Has ``sampling_rate``, ``leads`` and ``units``, and may have ``path_column``; is given ``n_features_in_`` and
        ``feature_names_in_`` where X is one array.
    X : array-like
        Records, as :class:`skecg.JEPAEmbedder` takes them.
    sampling_rate : float or array-like of shape (n_records,), optional
        Instead of the estimator's.
    reset : bool
        Whether the estimator is being fitted, or X has to be like what it was fitted with.
    refuse_gaps : bool, default=True
        See :class:`skecg.inference.inputs.RecordSource`.

    Raises
    ------
    InputError
        When X is not what it should be.
    """
    X = as_plain(_paths_of(X, getattr(estimator, "path_column", None)))
    items = _check_array(estimator, X, reset=reset) if is_numeric_array(X) else as_items(X)
    return RecordSource(
        items,
        sampling_rate=estimator.sampling_rate if sampling_rate is None else sampling_rate,
        leads=estimator.leads,
        units=estimator.units,
        refuse_gaps=refuse_gaps,
        verify_checksums=getattr(estimator, "verify_checksums", False),
    )


def read_as(estimator: Any, path: str | Path) -> ECGRecord:
    """Read a file as an estimator does: the rate, leads and unit that it was told are those of tables.

    What it does to every record, such as naming leads anew, it will do to this one too, and is not done here.
    """
    return RecordSource(
        [path],
        sampling_rate=estimator.sampling_rate,
        leads=None if isinstance(estimator.leads, Mapping) else estimator.leads,
        units="mV" if estimator.units == STANDARDIZED else estimator.units,
        verify_checksums=getattr(estimator, "verify_checksums", False),
    )[0]


def _paths_of(X: Any, path_column: str | None) -> Any:
    """Return the column of paths of a data frame; anything else as it is where no column is named."""
    # Whoever has a frame to learn from may have a list to predict: records and paths say what they are.
    if path_column is None or (isinstance(X, list | tuple) and all(isinstance(x, str | Path | ECGRecord) for x in X)):
        return X
    if not _is_frame(X):
        raise ParameterError(
            f"Got X of type {type(X).__name__} and path_column={path_column!r}, expected a data frame with that column."
        )
    names = list(X.columns)
    if path_column not in names:
        hint = suggestion(path_column, map(str, names)) or " Name one of these."
        raise ParameterError(f"Got path_column={path_column!r}, expected one of {names[:8]}.{hint}")
    return X[path_column]


def _check_array(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any]:
    """Check one array of numbers as scikit-learn does, making its errors ours."""
    try:
        # NaN passes here, for it is a gap that is bridged later (docs/decisions/0004-nan-tag.md).
        X = validate_data(
            estimator, X, reset=reset, dtype="numeric", ensure_2d=False, allow_nd=True, ensure_all_finite=False
        )
        if X.ndim in (2, 3):
            _check_n_features(estimator, X, reset=reset)
    except (TypeError, ValueError) as error:
        if isinstance(error, TypeError) and "Sparse" not in str(error):  # that of objects, as scikit-learn wants it
            raise
        # Some messages end in the whole array.
        raise ShapeError(str(error).partition("\n[")[0]) from error
    if X.ndim not in (2, 3):
        raise ParameterError(
            f"Got X of shape {X.shape}. Expected 2D array (one lead per record) or 3D array "
            "(n_records, n_leads, n_samples). Reshape your data: one record is X[np.newaxis]."
        )
    return np.asarray(X)
