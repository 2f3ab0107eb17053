"""What the user says of the records, checked as scikit-learn checks it."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_array

from skecg.errors import InputError
from skecg.targets import Targets, read_targets

__all__ = ["read_labels"]


def read_labels(y: Any, n_records: int) -> Targets:
    """Read classes or an indicator of labels, one row for each record, and warn of labels that cannot be learned.

    Raises
    ------
    InputError
        When there is no `y`, it is of another length, holds NaN, one class only, or neither classes nor an indicator.
    """
    if y is None:
        raise InputError("This classifier requires y to be passed, but the target y is None. Pass y, a label a record.")
    try:
        y = check_array(y, accept_sparse="csr", dtype=None, ensure_2d=False, ensure_min_samples=0, input_name="y")
        if y.shape[0] != n_records:
            raise InputError(f"Got y of {y.shape[0]} rows for {n_records} records, expected one for each.")
        targets = read_targets(y)
    except InputError:
        raise
    except TypeError as error:
        raise InputError(
            f"Got y whose classes cannot be compared ({error}), expected text, numbers or booleans, of one kind and "
            "none missing."
        ) from error
    except ValueError as error:
        raise InputError(str(error).partition("\n[")[0]) from error
    targets.find_learnable(intercept=True)
    return targets
