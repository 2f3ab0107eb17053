"""The door to matplotlib, and figures that belong to nobody but their caller."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skecg.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["import_matplotlib", "new_axes", "new_boxes"]

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
    figure = _new_figure(width_mm, height_mm, layout="constrained")
    axes: Axes = figure.add_subplot(axes_class=_shown()[1])
    return axes


def new_boxes(
    sizes_mm: Sequence[tuple[float, float]],
    *,
    left: float,
    right: float,
    bottom: float,
    top: float,
    figure: Any = None,
) -> list[Axes]:
    """Make axes of exact sizes, one below the other, with margins in millimetres around each of them."""
    full_width = left + max(width for width, _ in sizes_mm) + right
    full_height = sum(bottom + height + top for _, height in sizes_mm)
    figure = _new_figure(full_width, full_height) if figure is None else figure
    figure.set_size_inches(full_width / _MM_PER_INCH, full_height / _MM_PER_INCH)
    y, boxes = full_height, []
    for width, height in sizes_mm:
        y -= top + height
        box = (left / full_width, y / full_height, width / full_width, height / full_height)
        boxes.append(figure.add_axes(box, axes_class=_shown()[1]))
        y -= bottom
    return boxes


def _new_figure(width_mm: float, height_mm: float, **options: Any) -> Any:
    size = (width_mm / _MM_PER_INCH, height_mm / _MM_PER_INCH)
    # A Figure and not pyplot's: that one is kept in a global list, and a loop over recordings fills memory.
    return _shown()[0](figsize=size, dpi=_DOTS_PER_INCH, **options)


def _shown() -> tuple[type[Any], type[Any]]:
    return _shown_as(import_matplotlib("figure").Figure, import_matplotlib("axes").Axes)


@functools.cache
def _shown_as(figure: Any, axes: Any) -> tuple[type[Any], type[Any]]:
    """Return a figure and axes that a notebook shows without magic commands, as the last value of a cell."""

    class ShownFigure(figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=_DOTS_PER_INCH / 2)
            return file.getvalue()

    class ShownAxes(axes):
        def _repr_png_(self) -> bytes:
            return self.figure._repr_png_()

    return ShownFigure, ShownAxes
