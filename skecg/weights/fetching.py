"""Weights from the Hugging Face Hub, through the Hub library and its own cache.

A revision is resolved to a commit once, and every file is fetched at that commit, so that none is of another. What lies
in the cache at a commit is not asked for again. What the Hub and its client say becomes an error of ours: what was
found and what to do, and of a repository that holds no skecg weights what it is, with the way there is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skecg.errors import (
    ForeignRepositoryError,
    HubAccessError,
    HubUnreachableError,
    ParameterError,
    SkecgError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from skecg.weights.folder import (
    CONFIG_NAME,
    DIRECTIONS_NAME,
    GOLDEN_NAME,
    HEAD_FILES,
    MODEL_NAME,
    SIGNATURE_NAME,
    WeightsInfo,
    read_info,
)

__all__ = [
    "cache_folder",
    "describe_foreign",
    "fetch_file",
    "fetch_optional",
    "fetch_weights",
    "hub_errors",
    "resolve_commit",
    "status_of",
]

_SHOWN = 5

#: Files that `skecg convert` turns into weights, by the names that their authors give them.
_CONVERTIBLE = (
    (re.compile(r"(random|multiblock)\w*_epoch\d+\.pth$"), "kim", "Kim's ECG-JEPA"),
    (re.compile(r"(chkpt_\d+\.pt|_best_chkpt\.pt|\.min\.pt)$"), "weimann", "Weimann and Conrad's ECG-JEPA"),
    (re.compile(r"_lead_ECGFounder\.pth$"), "ecgfounder", "ECGFounder"),
    (re.compile(r"mimic_iv_ecg_physionet_pretrained\.pt$"), "ecg-fm", "ECG-FM"),
    (re.compile(r"resnet18\w*_encoder\.pth$"), "merl", "MERL"),
    (re.compile(r"clef_\w+\.ckpt$"), "clef", "CLEF"),
)

_LOGIN = "run `hf auth login`, or set HF_TOKEN"

# What the client raises for an answer of 200 that is not the Hub's: a network's login page, a proxy's or mirror's JSON.
_FOREIGN_ANSWERS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def describe_foreign(repository: str, revision: str | None, config: Path | None = None) -> str | None:
    """Return what a repository holds, as the message of an error; None when its configuration is one of skecg's."""
    values = _read(config)
    if isinstance(values, dict) and "skecg_format" in values:
        return None
    names = _file_names(repository, revision)
    found = f"found {_in_words(names)}" if names else "its files could not be listed"
    origin = f"; its config.json is {_origin(values)}" if config is not None else ""
    return (
        f"Got {repository!r}, which holds no skecg weights: {found}{origin}. Expected config.json with 'skecg_format' "
        f"and model.safetensors. {_way_out(repository, names)}"
    )


def _file_names(repository: str, revision: str | None) -> list[str]:
    """List a repository's files; none when that is not possible, for this only makes a message better."""
    from huggingface_hub import HfApi

    from skecg.errors import SkecgError

    try:
        with hub_errors(repository, revision):
            names = HfApi(library_name="skecg").list_repo_files(repository, revision=revision)
    except SkecgError:
        return []
    return sorted(name for name in names if name.isprintable() and not name.startswith(".git"))


def _in_words(names: list[str]) -> str:
    # The largest part of a repository is its weights; a reader looks for those first.
    ranked = sorted(names, key=lambda name: not re.search(r"\.(pth?|ckpt|bin|safetensors|h5|onnx)$", name))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(ranked[:_SHOWN]) + more


def _origin(values: Any) -> str:
    """Describe whose configuration it is."""
    if not isinstance(values, dict):
        return "no object of named fields"
    if "skecg_pipeline" in values:
        return "that of a fitted pipeline, which skecg.hub.load_pipeline loads"
    if "model_type" in values or "transformers_version" in values:
        return f"one of transformers (model_type {values.get('model_type')!r})"
    return f"another program's (fields {', '.join(map(repr, sorted(values)[:_SHOWN]))})" if values else "empty"


def _way_out(repository: str, names: list[str]) -> str:
    for pattern, origin, system in _CONVERTIBLE:
        for name in names:
            if pattern.search(name):
                return (
                    f"{name} looks like a checkpoint of {system}: fetch it with `hf download {repository} {name}`, "
                    f"turn it into weights with `skecg convert {origin} FILE FOLDER`, and pass the folder as model=."
                )
    return (
        "skecg loads weights folders of its own, and converts ONNX files and the checkpoints of several labs: see "
        "`skecg convert --help`, and pass the folder that it writes as model=."
    )


def _read(config: Path | None) -> Any:
    try:
        return json.loads(config.read_text(encoding="utf-8")) if config is not None else None
    except (ValueError, RecursionError):
        return None


@contextlib.contextmanager
def hub_errors(
    repository: str, revision: str | None = None, file: str | None = None, *, sending: bool = False
) -> Iterator[None]:
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
        raise _as_ours(error, repository, revision, file, sending=sending) from error
    except _FOREIGN_ANSWERS as error:
        raise HubUnreachableError(_not_the_hub(repository, revision, error)) from error


def _not_the_hub(repository: str, revision: str | None, error: BaseException) -> str:
    """Return that something else answered in the Hub's place, and what to do."""
    from huggingface_hub import constants

    pinned = f" --revision {revision}" if revision else ""
    return (
        f"What answered at {constants.ENDPOINT} for {repository} is not the Hub ({type(error).__name__}): a login page "
        "of this network, a proxy, or a mirror that speaks otherwise. Open the address in a browser and log in, or "
        f"check HF_ENDPOINT; or run `skecg download {repository}{pinned} --to FOLDER` elsewhere, bring the folder "
        "here, and pass its path as model=."
    )


def _as_ours(
    error: BaseException, repository: str, revision: str | None, file: str | None, *, sending: bool
) -> SkecgError:
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
    return HubUnreachableError(_unreachable(at, repository, revision, reasons, sending=sending))


def _unreachable(at: str, repository: str, revision: str | None, reasons: list[BaseException], *, sending: bool) -> str:
    """Return where was looked, why nothing could be fetched or sent, and how to come by it all the same."""
    from huggingface_hub import errors

    busy = _busy(reasons[0])
    # Without a cause, it is the caller who does not want the network to be asked.
    forbidden = len(reasons) == 1 and isinstance(reasons[0], errors.EntryNotFoundError | errors.RevisionResolutionError)
    if forbidden or any(isinstance(reason, errors.OfflineModeIsEnabled) for reason in reasons):
        why = "the network may not be used (local_files_only or HF_HUB_OFFLINE)"
    elif busy is not None:
        why = busy
    else:
        done = "reached" if sending else "fetched"
        why = f"it could not be {done} ({type(reasons[-1]).__name__}: {' '.join(str(reasons[-1]).split())[:200]})"
    if sending and busy is not None:
        return f"Nothing was sent to {repository}: {why}. Publish again later."
    if sending:
        return (
            f"Nothing was sent to {repository}: {why}. Publish from a machine with a network, or look at the files "
            "first with `skecg publish ... --stage FOLDER`."
        )
    missing = f"{at} is not in the local cache ({cache_folder(repository)}), and {why}."
    if busy is not None:
        return f"{missing} Try again later; what was fetched by then is kept."
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"{missing} On a machine with a network run "
        f"`skecg download {repository}{pinned} --to FOLDER`, bring the folder here, and pass its path as model=."
    )


def _busy(error: BaseException) -> str | None:
    """Return what the Hub answered that is no fault of this machine's and passes; None where it was something else."""
    status, headers = _answer(error)
    if status is None or (status < 500 and status != 429):
        return None
    wait = headers.get("Retry-After")
    return f"the Hub is busy or out of order (HTTP {status}{f', to be asked again in {wait} s' if wait else ''})"


def cache_folder(repository: str) -> str:
    """Return where the Hub's client keeps a repository, from the home folder when it lies there."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    home = Path.home()
    return f"~{os.sep}{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and its causes, from the outermost on."""
    # The client wraps an answer several times, and which wrapper is outermost differs between its versions.
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """Return the status of the answer behind an error; None when there was none."""
    return _answer(error)[0]


def _answer(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    """Return the status and the headers of the answer behind an error; None and nothing when there was none."""
    for reason in _chain(error):
        response = getattr(reason, "response", None)
        if response is not None:
            return int(response.status_code), response.headers
    return None, {}


def _page(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


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
    # First: all files are then of one commit, even if somebody pushes meanwhile.
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
    # After the configuration was read: what cannot be used is not fetched.
    fetch_file(repository, MODEL_NAME, commit, local_files_only=local_files_only)
    # With the weights, so that they can be verified later without a network.
    more = [DIRECTIONS_NAME] if info.directions_sha256 else []
    more += HEAD_FILES if info.provenance.get("fine_tuned_head") == "attention" else []
    for name in (GOLDEN_NAME, SIGNATURE_NAME, *more):
        fetch_optional(repository, name, commit, local_files_only=local_files_only)
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

    # First: most repositories lack the file, and every load would ask the Hub for it again.
    known = try_to_load_from_cache(repository, name, revision=commit)
    # A path; another answer that is not None says that the repository lacks the file.
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
