"""How to train: the numbers of a fine-tuning, checked at birth."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from skecg.devices import resolve_precision
from skecg.errors import ParameterError

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the training records, at most.
    batch_size : int
        Records in a step.
    learning_rate : float
        Peak rate of the head.
    layer_decay : float
        What the rate is multiplied by from one block to the next below.
    weight_decay : float
        Of matrices.
    warmup_epochs : float
        Epochs in which the rate rises from zero.
    final_share : float
        Share of the peak rate that the last step has.
    gradient_clip : float
        Largest norm of a step's gradient; 0 leaves it.
    betas : tuple of float
        AdamW's memory of gradients and of their squares.
    patience : int or None
        Epochs without a better validation score after which training ends; None never does.
    precision : {"fp32", "bf16"}
        Of matrix products.
    random_state : int
        Seed of the batches.
    n_jobs : int or None
        Parts of a batch in flight at once on a CPU; None takes the cores that torch may use.

    Raises
    ------
    ParameterError
        When a value is not allowed.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-4
    layer_decay: float = 0.75
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    final_share: float = 0.01
    gradient_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    patience: int | None = None
    precision: str = "fp32"
    random_state: int = 0
    n_jobs: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "n_jobs"):
            self._require_integer(name, may_be_none=name in ("patience", "n_jobs"), may_be_negative=name == "n_jobs")
        self._require(self._number("learning_rate") > 0, "learning_rate", "a positive number")
        self._require(0 < self._number("layer_decay") <= 1, "layer_decay", "a number above 0 and at most 1")
        for name in ("weight_decay", "warmup_epochs", "gradient_clip"):
            self._require(self._number(name) >= 0, name, "a number of at least 0")
        self._require(0 <= self._number("final_share") <= 1, "final_share", "a share from 0 to 1")
        object.__setattr__(self, "precision", resolve_precision(self.precision))

    def factor(self, progress: float) -> float:
        """Give the share of its peak that a learning rate has after so many epochs."""
        if progress < self.warmup_epochs:
            return progress / self.warmup_epochs
        done = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        self._require(whole, name, "a number")
        return float(value)

    def _require_integer(self, name: str, *, may_be_none: bool, may_be_negative: bool) -> None:
        value = getattr(self, name)
        if value is None and may_be_none:
            return
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        wanted = "a positive integer" + (" or None" if may_be_none else "")
        self._require(whole and (value > 0 or (may_be_negative and value != 0)), name, wanted)

    def _require(self, condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise ParameterError(f"Got {name}={getattr(self, name)!r}, expected {wanted}.")
