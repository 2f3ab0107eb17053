"""Weights from the Hugging Face Hub, through the Hub library and its own cache.

A revision is resolved to a commit once, and every file is fetched at that commit, so that none is of another. What lies
in the cache at a commit is not asked for again.
"""

from __future__ import annotations

from pathlib import Path

from skecg.errors import ForeignRepositoryError, WeightsFormatError, WeightsNotFoundError
from skecg.weights.folder import CONFIG_NAME, GOLDEN_NAME, MODEL_NAME, WeightsInfo, read_info
from skecg.weights.foreign import describe_foreign
from skecg.weights.hub_errors import hub_errors

__all__ = ["fetch_file", "fetch_optional", "fetch_weights", "resolve_commit"]


def fetch_weights(repository: str, revision: str | None = None, *, local_files_only: bool = False) -> WeightsInfo:
    """Fetch a repository's weights into the Hub library's cache.

    Parameters
    ----------
    repository : str
        ``"owner/name"``.
    revision : str, optional
        Branch, tag or commit; the main branch when not given.
    local_files_only : bool, default=False
        Whether to refuse to ask the network.

    Raises
    ------
    WeightsNotFoundError
        When there is no such repository, revision or file.
    HubUnreachableError
        When they are not in the cache and the Hub cannot be asked.
    HubAccessError
        When the Hub does not let this user in.
    ForeignRepositoryError
        When the repository holds something else.
    WeightsFormatError
        When the configuration is malformed, or newer than this skecg.
    """
    commit = resolve_commit(repository, revision, local_files_only=local_files_only)
    try:
        config = fetch_file(repository, CONFIG_NAME, commit, local_files_only=local_files_only)
    except WeightsNotFoundError as error:
        if _lacks_file(error):
            raise ForeignRepositoryError(describe_foreign(repository, commit)) from error
        raise
    try:
        info = read_info(config.parent, revision=commit)
    except WeightsFormatError as error:
        foreign = None if local_files_only else describe_foreign(repository, commit, config)
        if foreign is None:
            raise
        raise ForeignRepositoryError(foreign) from error
    fetch_file(repository, MODEL_NAME, commit, local_files_only=local_files_only)
    fetch_optional(repository, GOLDEN_NAME, commit, local_files_only=local_files_only)
    return info


def resolve_commit(repository: str, revision: str | None = None, *, local_files_only: bool = False) -> str:
    """Ask which commit a branch or tag is, or look it up in the cache when the Hub cannot be asked."""
    from huggingface_hub import HfApi

    with hub_errors(repository, revision):
        api = HfApi(library_name="skecg")
        return api.resolve_revision(repository, revision=revision, local_files_only=local_files_only).resolved


def fetch_file(repository: str, name: str, commit: str, *, local_files_only: bool = False) -> Path:
    """Fetch a file of a commit into the Hub library's cache; its folder is named after the commit."""
    from huggingface_hub import hf_hub_download

    with hub_errors(repository, commit, name):
        path = hf_hub_download(
            repository, name, revision=commit, local_files_only=local_files_only, library_name="skecg"
        )
    return Path(path)


def fetch_optional(repository: str, name: str, commit: str, *, local_files_only: bool = False) -> Path | None:
    """Fetch a file of a commit unless it has none; that it has none is remembered as the file itself would be."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repository, name, revision=commit)
    if isinstance(known, str):
        return Path(known)
    if known is not None:
        return None
    try:
        return fetch_file(repository, name, commit, local_files_only=local_files_only)
    except WeightsNotFoundError:
        return None


def _lacks_file(error: WeightsNotFoundError) -> bool:
    from huggingface_hub import errors

    return isinstance(error.__cause__, errors.RemoteEntryNotFoundError)
