"""Where a warning points: at the user's line, however many of our own and scikit-learn's lie between."""

from __future__ import annotations

import sys

__all__ = ["user_stacklevel"]

_PASSED_OVER = {"skecg", "sklearn", "joblib"}


def user_stacklevel() -> int:
    """Say how far above the caller the user's line lies, as `stacklevel` of :func:`warnings.warn` counts.

    scikit-learn wraps ``transform`` once, ``fit_transform`` once or twice depending on its version, and a pipeline
    puts more between, so that no fixed number is right.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    return level
