"""What an estimator needs to publish the weights it uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.weights.names import find_weights

if TYPE_CHECKING:
    from skecg.hub.uploading import Publication
    from skecg.weights import WeightsInfo

__all__ = ["PushMixin"]


class PushMixin:
    """Gives an embedder ``push_to_hub``."""

    model: str | Path
    revision: str | None
    local_files_only: bool

    def push_to_hub(self, repository: str, **choices: Any) -> Publication:
        """Publish the weights of this embedder.

        Parameters
        ----------
        repository : str
            ``"owner/name"``.
        **choices
            As of :func:`skecg.hub.publish`: ``private``, ``tag``, ``allow``, ``dry_run``, …

        Returns
        -------
        Publication

        Raises
        ------
        PublishError
            When the weights should not be published as they are.
        """
        from skecg.hub.publishing import publish

        return publish(self._own_weights().folder, repository, **choices)

    def _own_weights(self) -> WeightsInfo:
        """Give the weights that ``fit`` settled on; before it those that it would settle on."""
        if hasattr(self, "weights_sha256_"):
            return self._settled_weights()
        return find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only)

    def _settled_weights(self) -> WeightsInfo:
        raise NotImplementedError
