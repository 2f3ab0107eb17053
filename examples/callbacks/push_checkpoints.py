"""Every k-th checkpoint to a repository of the Hugging Face Hub, in the background.

``REPOSITORY=owner/name EVERY=10 python -m pretraining train --plugin examples/callbacks/push_checkpoints.py ...``; log
in with ``hf auth login``, or set ``HF_TOKEN``.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from pretraining.config import PretrainConfig
from pretraining.monitoring.callbacks import Callback, register_callback


@register_callback
class PushCheckpoints(Callback):
    def start(self, config: PretrainConfig, folder: Path, step: int) -> None:
        self.repository, self.every, self.n_seen = os.environ["REPOSITORY"], int(os.environ.get("EVERY", "10")), 0
        self.hub = HfApi()
        self.hub.create_repo(self.repository, private=True, exist_ok=True)

    def checkpoint(self, step: int, path: Path, is_best: bool) -> None:
        self.n_seen += 1
        if self.n_seen % self.every == 0:
            content = path.read_bytes()  # the file may be gone before all of it is sent
            self.sent = self.hub.upload_file(
                path_or_fileobj=content, path_in_repo=path.name, repo_id=self.repository, run_as_future=True
            )

    def end(self, step: int) -> None:
        if hasattr(self, "sent"):
            self.sent.result()
