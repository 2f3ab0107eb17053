"""Files to a repository in one commit, which nobody else's commit may come between; nothing when nothing changed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skecg.errors import HubAccessError, HubUnreachableError, PublishError, SkecgError, WeightsNotFoundError
from skecg.weights.fetching import hub_errors, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Publication", "PublishedFile", "plan", "upload"]


@dataclass(frozen=True)
class PublishedFile:
    """A file of a publication.

    Parameters
    ----------
    name : str
        Its path in the repository.
    n_bytes : int
        Its size.
    sha256 : str
        Its digest.
    state : {"new", "changed", "unchanged", "removed"}
        What the publication does to it.
    """

    name: str
    n_bytes: int
    sha256: str
    state: str


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Parameters
    ----------
    repository : str
        ``"owner/name"``.
    commit : str or None
        The commit that holds the files; None for a dry run.
    tag : str or None
        What else names that commit.
    files : tuple of PublishedFile
        Every file of it.
    waived : tuple of str
        What spoke against publishing, and was waived.
    """

    repository: str
    commit: str | None
    tag: str | None
    files: tuple[PublishedFile, ...]
    waived: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there was anything to commit."""
        return any(file.state != "unchanged" for file in self.files)

    def __str__(self) -> str:
        width = max((len(file.name) for file in self.files), default=0)
        lines = [f"{f.state:<9}  {f.name:<{width}}  {f.n_bytes:>12,} bytes  sha256 {f.sha256}" for f in self.files]
        lines += [f"waived: {reason}" for reason in self.waived]
        tag = f", tag {self.tag}" if self.tag else ""
        if self.commit is None:
            return "\n".join([*lines, f"dry run: nothing was sent to {self.repository}{tag}"])
        done = "committed" if self.changed else "nothing has changed: still"
        return "\n".join([*lines, f"{self.repository}: {done} {self.commit}{tag}"])


@dataclass(frozen=True)
class _Remote:
    """What a repository holds now: its newest commit, and a digest as git or as LFS has it for each file."""

    commit: str | None
    digests: Mapping[str, str]
    tags: Mapping[str, str]
    private: bool


_NOTHING = _Remote(None, {}, {}, False)


def plan(repository: str, files: Mapping[str, bytes], owned: str) -> list[PublishedFile]:
    """Compare files with what a repository holds, as far as it can be seen, without changing anything."""
    from huggingface_hub import HfApi

    try:
        remote = _look(HfApi(library_name="skecg"), repository)
    # A plan is to work without a network and without a token; all files then count as new.
    except (HubUnreachableError, HubAccessError, WeightsNotFoundError):
        remote = _NOTHING
    return _compare(files, remote, owned)


def upload(
    repository: str, files: Mapping[str, bytes], message: str, *, owned: str, private: bool, tag: str | None
) -> Publication:
    """Make a repository hold these files.

    Parameters
    ----------
    repository : str
    files : mapping of str to bytes
    message : str
        Of the commit.
    owned : str
        Files of the repository whose paths begin with this, and which are not among `files`, are removed.
    private : bool
        Whether nobody else may see it.
    tag : str or None
        What the commit is to be called as well.

    Raises
    ------
    PublishError
        When somebody else committed meanwhile, the tag names another commit or could not be made, or the repository is
        public.
    HubAccessError
        When there is no token, or it does not let its user write there.
    HubUnreachableError
        When the Hub cannot be asked, or gives no answer.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubAccessError(
            f"Publishing to {repository} takes a token with the right to write; this machine has none. Run `hf auth "
            "login`, or set HF_TOKEN."
        )
    api = HfApi(library_name="skecg")
    with hub_errors(repository, sending=True):
        api.create_repo(repository, private=private, exist_ok=True)
    remote = _look(api, repository)
    # exist_ok leaves a repository that is there as it is, public ones too.
    if private and not remote.private:
        raise PublishError(
            f"{repository} is public and was to be private. Make it private in its settings on the Hub, or publish "
            "without asking for it."
        )
    states = _compare(files, remote, owned)
    changed = any(file.state != "unchanged" for file in states)
    # Before the commit: otherwise a refused tag would leave a publication without one.
    _check_tag(repository, tag, remote, changed=changed)
    commit = _commit(api, repository, files, states, remote, message, owned) if changed else str(remote.commit)
    if tag is not None and tag not in remote.tags:
        with _tagging(repository, commit, tag):
            api.create_tag(repository, tag=tag, revision=commit)
    return Publication(repository, commit, tag, tuple(states))


def _look(api: HfApi, repository: str) -> _Remote:
    from huggingface_hub.hf_api import RepoFile

    with hub_errors(repository, sending=True):
        info = api.model_info(repository)
        # At the commit just read, not at the branch, which may move in between.
        rows = list(api.list_repo_tree(repository, recursive=True, revision=info.sha))
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repository).tags}
    digests = {}
    for row in rows:
        if isinstance(row, RepoFile):
            digests[row.path] = row.lfs.sha256 if row.lfs is not None else row.blob_id
    return _Remote(info.sha, digests, tags, bool(info.private))


def _compare(files: Mapping[str, bytes], remote: _Remote, owned: str) -> list[PublishedFile]:
    found = []
    for name, content in files.items():
        sha256 = hashlib.sha256(content).hexdigest()
        # The Hub knows large files by their sha256 and small ones as git does.
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        there = remote.digests.get(name)
        state = "new" if there is None else "unchanged" if there in (sha256, git) else "changed"
        found.append(PublishedFile(name, len(content), sha256, state))
    # Only what carries our prefix: files that others put there stay.
    gone = sorted(name for name in remote.digests if name.startswith(owned) and name not in files)
    return found + [PublishedFile(name, 0, "", "removed") for name in gone]


def _check_tag(repository: str, tag: str | None, remote: _Remote, *, changed: bool) -> None:
    """Raise for a tag that names something else, before anything is committed."""
    named = remote.tags.get(tag) if tag is not None else None
    if named is not None and (changed or named != remote.commit):
        raise PublishError(
            f"The tag {tag!r} of {repository} names commit {named} already, and tags stay what they are. Choose "
            "another."
        )


def _commit(
    api: HfApi,
    repository: str,
    files: Mapping[str, bytes],
    states: Sequence[PublishedFile],
    remote: _Remote,
    message: str,
    owned: str,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for file in states:
        if file.state == "removed":
            operations.append(CommitOperationDelete(file.name))
        elif file.state != "unchanged":
            operations.append(CommitOperationAdd(file.name, files[file.name]))
    try:
        with hub_errors(repository, sending=True), _refusals(repository):
            # With the commit that was looked at as parent: the Hub refuses if another came in between (409 or 412).
            done = api.create_commit(repository, operations, commit_message=message, parent_commit=remote.commit)
        return str(done.oid)
    except (HubUnreachableError, PublishError) as error:
        return _made_all_the_same(api, repository, files, owned, error)


def _made_all_the_same(
    api: HfApi, repository: str, files: Mapping[str, bytes], owned: str, error: HubUnreachableError | PublishError
) -> str:
    """Return the commit whose answer was lost on its way, or raise."""
    # The client asks again by itself: what it is refused for may be its own commit, and not somebody else's.
    with contextlib.suppress(SkecgError):
        remote = _look(api, repository)
        if all(file.state == "unchanged" for file in _compare(files, remote, owned)):
            return str(remote.commit)
    if isinstance(error, PublishError):
        raise error
    raise HubUnreachableError(
        f"The Hub gave no answer to what was sent to {repository} ({_reason(error)}), so whether it is published is "
        "not known. Publish again later: what is there by then is not sent again."
    ) from error


@contextlib.contextmanager
def _tagging(repository: str, commit: str, tag: str) -> Iterator[None]:
    """Raise for a tag that could not be made, saying that the files are published."""
    try:
        with hub_errors(repository, commit, sending=True):
            yield
    except SkecgError as error:
        raise PublishError(
            f"{repository} holds the files, as commit {commit}, but the tag {tag!r} could not be made "
            f"({_reason(error)}). Publish again with a tag: only the tag is sent then."
        ) from error


def _reason(error: BaseException) -> str:
    """Return what the Hub's client said, in short."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0][:200]}"


@contextlib.contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Name what the Hub refuses of a publication for reasons of its own."""
    from huggingface_hub import errors

    try:
        yield
    # A ValueError as well, and one that hub_errors names better.
    except errors.HFValidationError:
        raise
    except errors.HfHubHTTPError as error:
        if status_of(error) in (409, 412):
            raise PublishError(
                f"Somebody else changed {repository} in this moment, and nothing was published. Look at what they did, "
                "and publish again."
            ) from error
        raise
    except ValueError as error:
        raise PublishError(f"The Hub refuses what was to be published to {repository}: {error}") from error
