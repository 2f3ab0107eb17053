"""What keeps weights from being published: each reason has a name, and can be waived by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from skecg.errors import ParameterError, PublishError, WeightsError
from skecg.hub.licences import licence_problems
from skecg.weights.folder import GOLDEN_NAME, read_state
from skecg.weights.golden import verify_weights

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = ["REASONS", "TRAINING_CONFIG", "check_publishable"]

REASONS = ("untrained", "unverified", "incomplete", "dirty", "licence")
TRAINING_CONFIG = "training_config.json"

_WANTED = ("name", "data", "trained")


class _Reason(NamedTuple):
    name: str
    text: str


def check_publishable(info: WeightsInfo, data: Mapping[str, str | None], allow: Iterable[str]) -> list[str]:
    """Refuse weights that should not be published as they are.

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
    read_state(info)
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
    missing += [TRAINING_CONFIG] if "recipe" in known and not (info.folder / TRAINING_CONFIG).is_file() else []
    if missing:
        yield _Reason("incomplete", f"the folder lacks {', '.join(missing)}")
    if GOLDEN_NAME not in missing:
        unverified = _unverified(info)
        if unverified:
            yield _Reason("unverified", unverified)
    dirty = _dirty(info)
    if dirty:
        yield _Reason("dirty", dirty)
    for problem in licence_problems(known, data):
        yield _Reason("licence", problem)


def _unverified(info: WeightsInfo) -> str | None:
    """Say why the golden vectors do not vouch for the weights."""
    try:
        verification = verify_weights(info)
    except WeightsError as error:
        return str(error)
    return None if verification.passed else str(verification)


def _dirty(info: WeightsInfo) -> str | None:
    """Say why the code that trained the weights cannot be found again."""
    known = info.provenance
    code = known.get("code")
    if isinstance(code, Mapping) and code.get("dirty"):
        return "they were trained with code that was changed and not committed"
    if (
        "recipe" in known
        and "dev" in str(known.get("skecg", "dev"))
        and not (isinstance(code, Mapping) and code.get("commit"))
    ):
        return "they were trained with a development version, and its commit was not written down"
    return None
