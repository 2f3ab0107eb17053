"""What is evaluated: a name and a way from recordings to features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skecg.embedder import JEPAEmbedder
from skecg.evaluation.baselines import hand_crafted, random_convolutions, write_untrained_twin
from skecg.weights import find_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skecg.datasets.base import LabelledECGs
    from skecg.weights import WeightsInfo

__all__ = ["BASELINE", "MODEL", "EncoderFeatures", "FeatureSource", "MajorityFeatures", "standard_sources"]

# Far from the seeds that people give, so that the twin of an untrained model is another draw and not its copy.
_TWIN_SEED = 1_000_003

#: Kinds of rows.
BASELINE, MODEL = "baseline", "model"


class FeatureSource(Protocol):
    """Anything that gives each recording features, known by its name and a note on how."""

    @property
    def name(self) -> str:
        """What its row is called."""

    @property
    def note(self) -> str:
        """How features are made, in words."""

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Give (n_records, n_features)."""


@dataclass(frozen=True)
class MajorityFeatures:
    """No features: every recording is given the labels' shares in the training records."""

    name: str = "majority"
    note: str = "no features: the share of each label among the training records"

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Give a table without columns, (n_records, 0)."""
        return np.empty((len(dataset), 0), dtype=np.float32)


@dataclass(frozen=True)
class EncoderFeatures:
    """A frozen encoder, through :class:`skecg.JEPAEmbedder` as any user would.

    Parameters
    ----------
    name : str
    model : str or Path
        As for the embedder.
    options : mapping of str to object
        Further parameters of the embedder (pooling, layer, stride, device, ...).
    """

    name: str
    model: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> WeightsInfo:
        """What the weights say of themselves."""
        where = {name: self.options[name] for name in ("revision", "local_files_only") if name in self.options}
        return find_weights(self.model, **where)

    @property
    def note(self) -> str:
        """Window, stride, pooling, layer, and what trained the weights."""
        info = self.info
        window = info.spec.window_seconds
        parts = [
            f"{info.encoder.architecture}, {info.spec.n_leads} leads at {info.spec.sampling_rate:g} Hz",
            f"window {window:g} s",
            f"stride {self.options.get('stride') or window:g} s",
            f"pooling {self.options.get('pooling') or info.pooling}",
            f"layer {self.options.get('layer') if self.options.get('layer') is not None else 'last'}",
            f"trained on {info.provenance.get('data', '?')}" if info.provenance.get("trained") else "untrained",
            f"weights {info.sha256[:12]}",
        ]
        return ", ".join(parts)

    def features(self, dataset: LabelledECGs, *, cache: Any = None, verbose: int = 0) -> NDArray[np.float32]:
        """Embed all recordings, (n_records, n_features)."""
        embedder = JEPAEmbedder(
            self.model,
            sampling_rate=dataset.sampling_rate,
            leads=dataset.leads,
            cache=cache,
            verbose=verbose,
            **self.options,
        )
        return embedder.fit_transform(dataset.records)


def standard_sources(
    models: Sequence[str | Path], twins_folder: Path, options: Mapping[str, Any] | None = None, *, seed: int = 0
) -> list[tuple[str, FeatureSource]]:
    """List the rows of the standard table: all baselines, and the models.

    Parameters
    ----------
    models : sequence of str or Path
        As for :class:`skecg.JEPAEmbedder`.
    twins_folder : Path
        Where the weights of untrained encoders of the models' shapes are written, one for each shape.
    options : mapping of str to object, optional
        Further parameters of the embedder, for the models and their untrained twins alike.
    seed : int, default=0
        Of the untrained weights.

    Returns
    -------
    list of (str, FeatureSource)
        :data:`BASELINE` or :data:`MODEL`, and what it is.

    Raises
    ------
    WeightsError
        When a model is not found, or damaged.
    """
    chosen = dict(options or {})
    named = _distinct_names(models)
    encoders = [EncoderFeatures(name, model, chosen) for name, model in named.items()]
    # Local weights know nothing of revisions on the Hub.
    own = {name: value for name, value in chosen.items() if name not in ("revision", "local_files_only")}
    twins: dict[str, EncoderFeatures] = {}
    for encoder in encoders:
        info = encoder.info
        shape = str((info.encoder.architecture, info.encoder.to_dict(), info.spec.to_dict(), info.pooling))
        if shape not in twins:
            folder = write_untrained_twin(info, twins_folder / f"untrained-{len(twins)}", seed=_TWIN_SEED + seed)
            twins[shape] = EncoderFeatures(f"untrained, shape of {encoder.name}", folder, own)
    baselines: list[FeatureSource] = [MajorityFeatures(), hand_crafted(), random_convolutions(), *twins.values()]
    return [(BASELINE, source) for source in baselines] + [(MODEL, encoder) for encoder in encoders]


def _distinct_names(models: Sequence[str | Path]) -> dict[str, str | Path]:
    """Call each model by the last part of its path, or by all of it where two would be called alike."""
    distinct = list(dict.fromkeys(map(str, models)))
    short = [Path(model).name or model for model in distinct]
    return {name if short.count(name) == 1 else model: model for name, model in zip(short, distinct, strict=True)}
