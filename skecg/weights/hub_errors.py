"""What the Hub and its client say, as errors of ours: what was found and what to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skecg.errors import (
    HubAccessError,
    HubUnreachableError,
    ParameterError,
    SkecgError,
    WeightsNotFoundError,
)

__all__ = ["cache_folder", "hub_errors", "status_of"]

_LOGIN = "run `hf auth login`, or set HF_TOKEN"


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None = None, file: str | None = None) -> Iterator[None]:
    """Turn whatever the Hub's client raises within into one of our errors, with the way out."""
    from huggingface_hub import errors

    # The first base of the client's error is that of the HTTP library under it, which differs between versions.
    http_error: Any = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except SkecgError:
        raise
    except errors.HFValidationError as error:
        raise ParameterError(f"Got {repository!r}, expected 'owner/name' as the Hub allows it: {error}") from error
    except (
        http_error,
        errors.EntryNotFoundError,
        errors.RevisionResolutionError,
        errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise _as_ours(error, repository, revision, file) from error


def _as_ours(error: BaseException, repository: str, revision: str | None, file: str | None) -> SkecgError:
    from huggingface_hub import errors

    reasons = list(_chain(error))
    kinds, status = tuple(map(type, reasons)), status_of(error)
    at = f"{repository} at revision {revision or 'main'}"
    if errors.GatedRepoError in kinds:
        return HubAccessError(
            f"{repository} is gated: its owner decides who may have it. Ask for access at {_page(repository)}; when it "
            f"is granted, {_LOGIN}."
        )
    if errors.RepositoryNotFoundError in kinds:
        return WeightsNotFoundError(
            f"The Hub has no repository {repository!r}, or it is private and this machine may not see it. Check the "
            f"name; for a private one {_LOGIN}."
        )
    if errors.RevisionNotFoundError in kinds:
        return WeightsNotFoundError(f"The Hub has no {at}. Name a branch, a tag or a commit that exists.")
    if errors.RemoteEntryNotFoundError in kinds:
        return WeightsNotFoundError(f"{at} holds no {file or 'such file'}. See what is there: {_page(repository)}")
    if status == 401:
        return HubAccessError(
            f"The Hub refused the token sent for {repository}: it has expired or was revoked. For another "
            f"{_LOGIN}; without a token public repositories can still be read."
        )
    if status == 403:
        return HubAccessError(
            f"The Hub forbids this user what was asked of {repository}. Use a token with the right to do so "
            f"({_LOGIN}), or ask the repository's owner."
        )
    return HubUnreachableError(_unreachable(at, repository, revision, reasons))


def _unreachable(at: str, repository: str, revision: str | None, reasons: list[BaseException]) -> str:
    """Say where was looked, why nothing could be fetched, and how to come by it all the same."""
    from huggingface_hub import errors

    # Without a cause, it is the caller who does not want the network to be asked.
    forbidden = len(reasons) == 1 and isinstance(reasons[0], errors.EntryNotFoundError | errors.RevisionResolutionError)
    if forbidden or any(isinstance(reason, errors.OfflineModeIsEnabled) for reason in reasons):
        why = "the network may not be used (local_files_only or HF_HUB_OFFLINE)"
    else:
        why = f"it could not be fetched ({type(reasons[-1]).__name__}: {' '.join(str(reasons[-1]).split())[:200]})"
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"{at} is not in the local cache ({cache_folder(repository)}), and {why}. On a machine with a network run "
        f"`skecg download {repository}{pinned} --to FOLDER`, bring the folder here, and pass its path as model=."
    )


def cache_folder(repository: str) -> str:
    """Say where the Hub's client keeps a repository, from the home folder when it lies there."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    home = Path.home()
    return f"~{os.sep}{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and its causes, from the outermost on."""
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """Give the status of the answer behind an error; None when there was none."""
    for reason in _chain(error):
        response = getattr(reason, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _page(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"
