"""The door to matplotlib, and figures that belong to nobody but their caller."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skecg.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["import_matplotlib", "new_axes", "new_axes_in_box"]

_MM_PER_INCH = 25.4
_DOTS_PER_INCH = 150


def import_matplotlib(module: str) -> Any:
    """Import a part of matplotlib, or say how to install it."""
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "Plotting needs matplotlib, which is not installed. Run: pip install 'skecg[plot]'"
        ) from error


def new_axes(width_mm: float, height_mm: float) -> Axes:
    """Make axes that fill a figure, with room for what is written around them."""
    axes: Axes = _new_figure(width_mm, height_mm, layout="constrained").add_subplot()
    return axes


def new_axes_in_box(width_mm: float, height_mm: float, *, left: float, right: float, bottom: float, top: float) -> Axes:
    """Make axes of an exact size, with margins in millimetres around them."""
    full_width, full_height = left + width_mm + right, bottom + height_mm + top
    box = (left / full_width, bottom / full_height, width_mm / full_width, height_mm / full_height)
    axes: Axes = _new_figure(full_width, full_height).add_axes(box)
    return axes


def _new_figure(width_mm: float, height_mm: float, **options: Any) -> Any:
    size = (width_mm / _MM_PER_INCH, height_mm / _MM_PER_INCH)
    return import_matplotlib("figure").Figure(figsize=size, dpi=_DOTS_PER_INCH, **options)
