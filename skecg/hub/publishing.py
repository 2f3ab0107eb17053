"""Publish weights: one commit with everything that a stranger needs to use, judge and verify them.

What keeps weights from being published has a name for each reason, and can be waived by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from skecg.errors import ParameterError, PublishError, WeightsError
from skecg.hub.cards import card_pictures, described_sha256, published_card
from skecg.hub.downloading import Download, copy_weights
from skecg.hub.licences import data_licences, licence_problems, licence_text
from skecg.hub.results import EvaluatedScore, read_scores, result_files
from skecg.hub.uploading import Publication, plan, upload
from skecg.io.files import make_folder
from skecg.weights.folder import (
    CONFIG_NAME,
    GOLDEN_NAME,
    HEAD_FILES,
    MODEL_NAME,
    OPTIONAL_FILES,
    TRAINING_CONFIG,
    read_info,
    read_state,
)
from skecg.weights.golden import verify_weights
from skecg.weights.registry import find_weights

if TYPE_CHECKING:
    from skecg.hub.uploading import Publication
    from skecg.weights import WeightsInfo

__all__ = ["PushMixin", "REASONS", "check_publishable", "publish"]

REASONS = ("untrained", "unverified", "incomplete", "dirty", "licence")

_WANTED = ("name", "data", "trained")

_RESULTS = ".eval_results/skecg_"  # the Hub's folder; the prefix parts ours from other people's results


class _Reason(NamedTuple):
    name: str
    text: str


def check_publishable(info: WeightsInfo, data: Mapping[str, str | None], allow: Iterable[str]) -> list[str]:
    """Raise for weights that should not be published as they are.

    Returns
    -------
    list of str
        The reasons that were found and waived, in words.

    Raises
    ------
    PublishError
        When there is a reason that is not in `allow`.
    DamagedWeightsError
        When the tensors are not what the configuration says, which cannot be waived.
    """
    waived = _check_names(allow)
    # Every tensor is read and compared with config.json before anything else is said of them.
    read_state(info)
    # All of them, so that nobody mends one and meets the next.
    reasons = list(_reasons(info, data))
    stopping = [reason for reason in reasons if reason.name not in waived]
    if stopping:
        listed = "; ".join(f"{reason.name}: {reason.text}" for reason in stopping)
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(reason.name for reason in stopping))
        raise PublishError(
            f"{info.folder} should not be published as it is. {listed}. Mend this, or publish all the same with "
            f"{names} (in Python allow=[...])."
        )
    return [f"{reason.name}: {reason.text}" for reason in reasons]


def _check_names(allow: Iterable[str]) -> set[str]:
    names = {allow} if isinstance(allow, str) else set(allow)
    for name in names - set(REASONS):
        raise ParameterError(f"Got {name!r} to allow, expected some of {', '.join(map(repr, REASONS))}.")
    return names


def _reasons(info: WeightsInfo, data: Mapping[str, str | None]) -> Iterator[_Reason]:
    known = info.provenance
    if known.get("trained") is not True:
        yield _Reason("untrained", "the weights are random numbers, or do not say that they were trained")
    missing = [f"provenance {name!r}" for name in _WANTED if name not in known]
    missing += [] if (info.folder / GOLDEN_NAME).is_file() else [GOLDEN_NAME]
    # Converted weights have no recipe, and nobody has the configuration that made them.
    missing += [TRAINING_CONFIG] if "recipe" in known and not (info.folder / TRAINING_CONFIG).is_file() else []
    if missing:
        yield _Reason("incomplete", f"the folder lacks {', '.join(missing)}")
    # Without golden vectors there is nothing to compare; that they are absent was said above.
    if GOLDEN_NAME not in missing:
        unverified = _unverified(info)
        if unverified:
            yield _Reason("unverified", unverified)
    described = described_sha256(info.folder)
    # A card that was copied from other weights would be published with their scores.
    if described not in (None, info.sha256):
        yield _Reason("unverified", f"its README.md describes other weights, of sha256 {described}")
    dirty = _dirty(info)
    if dirty:
        yield _Reason("dirty", dirty)
    for problem in licence_problems(known, data):
        yield _Reason("licence", problem)


def _unverified(info: WeightsInfo) -> str | None:
    """Return why the golden vectors do not vouch for the weights."""
    try:
        verification = verify_weights(info)
    except WeightsError as error:
        return str(error)
    return None if verification.passed else str(verification)


def _dirty(info: WeightsInfo) -> str | None:
    """Return why the code that trained the weights cannot be found again."""
    known = info.provenance
    code = known.get("code")
    if isinstance(code, Mapping) and code.get("dirty"):
        return "they were trained with code that was changed and not committed"
    if (
        "recipe" in known
        # A release is its own commit; only what was trained between releases has to name one.
        and "dev" in str(known.get("skecg", "dev"))
        and not (isinstance(code, Mapping) and code.get("commit"))
    ):
        return "they were trained with a development version, and its commit was not written down"
    return None


def publish(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    tag: str | None = None,
    evaluations: Iterable[str | Path] = (),
    hub_datasets: Mapping[str, str] | None = None,
    data_licence: Mapping[str, str] | None = None,
    allow: Iterable[str] = (),
    with_head: bool = False,
    dry_run: bool = False,
    stage: str | Path | None = None,
) -> Publication:
    """Publish a weights folder on the Hugging Face Hub.

    One commit holds ``config.json``, ``model.safetensors``, ``golden.safetensors``, the configuration of the training
    where there is one, a licence, and the folder's card with the pictures that it names. What you wrote into the card
    stays to the letter; how the weights are loaded, licences of the data, scores and the Hub's metadata are filled in.
    Publishing the same again commits nothing. The folder itself is left as it is.

    Parameters
    ----------
    folder : path-like
        The weights.
    repository : str
        ``"owner/name"``; made when it is not there.
    private : bool, default=False
        Whether only its owner may see it.
    tag : str, optional
        Another name of the commit, such as ``"v1"``.
    evaluations : iterable of path-like, optional
        Reports of ``skecg evaluate`` on these weights.
    hub_datasets : mapping, optional
        Name of a data set in the reports to its repository on the Hub, for entries of ``.eval_results``.
    data_licence : mapping, optional
        Archive of the training data to its licence, where skecg does not know it or is wrong.
    allow : iterable of {"untrained", "unverified", "incomplete", "dirty", "licence"}, optional
        What does not keep the weights from being published.
    with_head : bool, default=False
        Whether the head of a fine-tuned model goes with its encoder, for ``JEPAEmbedder(..., pooling="attention")``.
        Its description names the classes.
    dry_run : bool, default=False
        Whether to say what would be published and send nothing.
    stage : path-like, optional
        Folder to write the files into as well, to look at them.

    Returns
    -------
    Publication
        Prints as the list of files and the commit.

    Raises
    ------
    PublishError
        When the weights should not be published as they are, or somebody else committed meanwhile.
    ParameterError
        When an option names what is not there: an archive, a data set of the reports, a head.
    WeightsError
        When the folder holds no sound weights.
    HubAccessError
        When the token is missing, or does not let its user write there.
    HubUnreachableError
        When the Hub cannot be asked.
    """
    _check_repository(repository)
    info = read_info(folder)
    licences = data_licences(info.provenance, data_licence)
    scores = read_scores(evaluations, info)
    waived = tuple(check_publishable(info, licences, allow))
    files = _files(info, repository, licences, scores, hub_datasets or {}, with_head)
    # Written before anything is sent, so that a dry run can be looked at.
    if stage is not None:
        _write(make_folder(stage), files)
    if dry_run:
        states = plan(repository, files, _RESULTS)
        return Publication(repository, None, tag, tuple(states), waived)
    name = info.provenance.get("name", info.folder.name)
    message = f"Publish {name} (sha256 {info.sha256[:12]})"
    done = upload(repository, files, message, owned=_RESULTS, private=private, tag=tag)
    return Publication(done.repository, done.commit, done.tag, done.files, waived)


def _check_repository(repository: str) -> None:
    parts = repository.split("/") if isinstance(repository, str) else []
    if len(parts) != 2 or not all(parts):
        raise ParameterError(f"Got repository={repository!r}, expected 'owner/name'.")


def _files(
    info: WeightsInfo,
    repository: str,
    licences: Mapping[str, str | None],
    scores: Sequence[EvaluatedScore],
    hub_datasets: Mapping[str, str],
    with_head: bool,
) -> dict[str, bytes]:
    """Return every file of the commit, by its path there."""
    files = {name: (info.folder / name).read_bytes() for name in (CONFIG_NAME, MODEL_NAME)}
    head = HEAD_FILES if with_head else ()
    if with_head and not (info.folder / HEAD_FILES[-1]).is_file():
        raise ParameterError(
            f"Got with_head=True (--with-head), but {info.folder} holds no {HEAD_FILES[-1]}. Leave it out, or name the "
            "folder of a FineTunedClassifier or FineTunedRegressor."
        )
    for name in (*OPTIONAL_FILES, *head, *card_pictures(info.folder / "README.md")):
        if (info.folder / name).is_file():
            files[name] = (info.folder / name).read_bytes()
    # Somebody's own text goes before ours.
    files.setdefault("LICENSE", licence_text(info.provenance, licences).encode())
    files["README.md"] = published_card(info, repository, licences, scores).encode()
    return files | result_files(scores, hub_datasets)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class PushMixin:
    """Add ``push_to_hub``, ``save_pretrained`` and ``from_pretrained`` to an embedder."""

    model: str | Path
    pooling: str | None
    revision: str | None
    local_files_only: bool

    def push_to_hub(self, repository: str, **choices: Any) -> Publication:
        """Publish the weights of this embedder, with the head that it pools by if ``pooling="attention"``.

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
        return publish(self._own_weights().folder, repository, **{"with_head": self.pooling == "attention"} | choices)

    def save_pretrained(self, folder: str | Path) -> Download:
        """Write the weights of this embedder into a folder, which :meth:`from_pretrained` and the constructor take.

        The weights alone, with the head that it pools by if ``pooling="attention"``: what else this embedder was told
        (leads, units, pooling, …) is its parameters'.

        Parameters
        ----------
        folder : path-like
            Made when absent; files of these names are replaced.

        Returns
        -------
        Download
            Prints as the list of the files.
        """
        with_head = self.pooling == "attention"
        return copy_weights(str(self.model), self._own_weights(), Path(folder), with_head=with_head)

    @classmethod
    def from_pretrained(cls, model: str | Path, **parameters: Any) -> Self:
        """Return an embedder of these weights: ``JEPAEmbedder(model, ...)``, for those who know it by this name.

        Parameters
        ----------
        model : str or Path
            A name of :func:`skecg.list_models`, a weights folder, or ``"owner/name"`` on the Hub.
        **parameters
            As of the constructor: ``revision``, ``pooling``, ``leads``, …

        Returns
        -------
        JEPAEmbedder

        Raises
        ------
        WeightsError
            When there are no such weights.
        """
        embedder = cls(model, **parameters)  # type: ignore[call-arg]
        # Asked for at once, as elsewhere from_pretrained does: a wrong name fails here and not at the first transform.
        embedder._own_weights()
        return embedder

    def _own_weights(self) -> WeightsInfo:
        """Return the weights that ``fit`` settled on; before it those that it would settle on."""
        if hasattr(self, "weights_sha256_"):
            return self._settled_weights()
        return find_weights(self.model, revision=self.revision, local_files_only=self.local_files_only)

    def _settled_weights(self) -> WeightsInfo:
        raise NotImplementedError
