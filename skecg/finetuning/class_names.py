"""Names of classes as JSON has them, and back as the array that they were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError, WeightsFormatError

__all__ = ["classes_from_json", "classes_to_json"]


def classes_to_json(classes: Any, *, multilabel: bool) -> dict[str, Any]:
    """Give classes as plain values with the type of their array; of an indicator the number of its labels.

    Raises
    ------
    ParameterError
        When they are neither text, numbers nor booleans.
    """
    if multilabel:
        return {"n_labels": len(classes)}
    array = np.asarray(classes)
    values = array.tolist()
    if array.dtype.kind not in "biufUO" or not all(isinstance(value, str | int | float | bool) for value in values):
        raise ParameterError(
            f"Got classes of dtype {array.dtype} ({values[:3]}), which cannot be written as JSON. Fit with classes "
            "that are text, numbers or booleans."
        )
    return {"dtype": array.dtype.str, "values": values}


def classes_from_json(found: dict[str, Any], *, multilabel: bool, n_outputs: int) -> NDArray[Any] | list[NDArray[Any]]:
    """Give classes as they were written, refusing any that do not fit a head of so many outputs."""
    n_found, n_wanted = (found["n_labels"], n_outputs) if multilabel else (len(found["values"]), max(2, n_outputs))
    if n_found != n_wanted:
        raise WeightsFormatError(f"{n_found} classes or labels for a head of {n_outputs} outputs")
    if multilabel:
        return [np.array([0, 1])] * n_wanted
    dtype = np.dtype(str(found["dtype"]))
    if dtype.kind not in "biufUO":
        raise WeightsFormatError(f"classes of dtype {dtype}")
    return np.array(found["values"], dtype=dtype)
