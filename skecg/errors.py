"""Every error and warning that skecg raises on purpose.

Each message says what was found, what was wanted and what to do. The tree::

    SkecgError
    ├── InputError (ValueError)            what was passed cannot be used
    │   ├── ParameterError                 a constructor or function argument
    │   ├── ShapeError                     number of dimensions, transposed arrays, empty arrays
    │   ├── SamplingRateError              missing, non-positive or impossible rate
    │   ├── UnitsError                     an unknown unit of voltage
    │   ├── LeadError                      unknown, duplicate, missing or swapped leads
    │   ├── ShortRecordError               a record shorter than can be embedded
    │   └── BadSignalError                 a signal without usable values (all NaN, all flat, infinite)
    ├── RecordReadError (ValueError)       a file could not become a record
    │   ├── RecordNotFoundError (FileNotFoundError)
    │   ├── DamagedRecordError             empty, truncated, inconsistent or not what its name says
    │   └── UnsupportedFormatError         a format that no installed reader knows
    ├── WeightsError (ValueError)          weights could not become an encoder
    │   ├── WeightsNotFoundError (FileNotFoundError)
    │   │   └── HubUnreachableError        neither in the local cache nor to be had from the Hub
    │   ├── HubAccessError (PermissionError)   gated, private, or a token that the Hub refuses
    │   ├── DamagedWeightsError            checksum, missing or extra tensors, wrong shapes
    │   ├── WeightsFormatError             a config.json that is malformed or newer than this skecg
    │   │   └── UnregisteredError (ParameterError)   a name that nobody has registered; a plug-in may
    │   ├── ForeignRepositoryError         a repository on the Hub that holds something else than skecg's
    │   └── ForeignCheckpointError         a file that is not the published checkpoint it was said to be
    ├── PublishError (ValueError)          something that should not, or could not, be put on the Hub
    ├── CacheError (OSError)               the embedding store cannot be used
    │   └── CacheUnavailableError          … for now: it is full, read-only or out of reach
    ├── DownloadError (OSError)            a data set could not be downloaded: network, server, checksum or disk
    │   └── DatasetNotFoundError (FileNotFoundError)   it is not on disk, and not to be downloaded
    ├── ClusterError (ConnectionError)     a cluster that embeds cannot be reached, or has gone
    └── MissingDependencyError (ImportError)   an optional package is needed and absent

    SkecgWarning (UserWarning)
    ├── UnitsWarning                       the amplitudes look like another unit
    ├── LeadWarning                        leads were derived, filled or look swapped
    ├── SignalWarning                      flat or railed leads, gaps, padding
    ├── HeaderRepairWarning                a file header was malformed and read by an unambiguous repair
    ├── LeakageWarning                     the same patient is trained and tested on
    └── CacheWarning                       a damaged store was set aside and rebuilt

A warning points at the user's line, however many of our own and scikit-learn's lie between
(:func:`user_stacklevel`).
"""

from __future__ import annotations

import sys

__all__ = [
    "BadSignalError",
    "CacheError",
    "CacheUnavailableError",
    "CacheWarning",
    "ClusterError",
    "DamagedRecordError",
    "DamagedWeightsError",
    "DatasetNotFoundError",
    "DownloadError",
    "ForeignCheckpointError",
    "ForeignRepositoryError",
    "HeaderRepairWarning",
    "HubAccessError",
    "HubUnreachableError",
    "InputError",
    "LeadError",
    "LeadWarning",
    "LeakageWarning",
    "MissingDependencyError",
    "ParameterError",
    "PublishError",
    "RecordNotFoundError",
    "RecordReadError",
    "SamplingRateError",
    "ShapeError",
    "ShortRecordError",
    "SignalWarning",
    "SkecgError",
    "SkecgWarning",
    "UnitsError",
    "UnitsWarning",
    "UnregisteredError",
    "UnsupportedFormatError",
    "WeightsError",
    "WeightsFormatError",
    "WeightsNotFoundError",
]

_PASSED_OVER = {"skecg", "sklearn", "joblib"}


class SkecgError(Exception):
    """Base of every error that skecg raises on purpose."""


class InputError(SkecgError, ValueError):
    """What was passed cannot be used."""


class ParameterError(InputError):
    """A constructor or function argument has a value that is not allowed."""


class ShapeError(InputError):
    """An array has the wrong number of dimensions, is empty, or lies transposed."""


class SamplingRateError(InputError):
    """A sampling rate is missing, non-positive or otherwise impossible."""


class UnitsError(InputError):
    """A unit of voltage is unknown."""


class LeadError(InputError):
    """Leads are unknown, duplicated, missing or in another order than their names say."""


class ShortRecordError(InputError):
    """A record is shorter than can be embedded."""


class BadSignalError(InputError):
    """A signal holds no usable values: all missing, all flat, or infinite."""


class RecordReadError(SkecgError, ValueError):
    """A file could not be turned into a record."""


class RecordNotFoundError(RecordReadError, FileNotFoundError):
    """No file answers to the name of the record."""

    # Found by inheritance it would be ValueError's, which Python does not let make a FileNotFoundError (Dask tries).
    __new__ = FileNotFoundError.__new__  # type: ignore[assignment]


class DamagedRecordError(RecordReadError):
    """A file is empty, truncated, inconsistent, or not what its name says."""


class UnsupportedFormatError(RecordReadError):
    """No reader of skecg knows the format of a file."""


class WeightsError(SkecgError, ValueError):
    """Weights could not be turned into an encoder."""


class WeightsNotFoundError(WeightsError, FileNotFoundError):
    """No weights answer to the name given."""

    __new__ = FileNotFoundError.__new__  # type: ignore[assignment]


class HubUnreachableError(WeightsNotFoundError):
    """Weights are not in the local cache, and the Hub cannot be asked."""


class HubAccessError(WeightsError, PermissionError):
    """The Hub does not let this user in: gated, private, or a token that is missing, expired or too weak."""

    __new__ = PermissionError.__new__  # type: ignore[assignment]


class DamagedWeightsError(WeightsError):
    """A weights file fails its checksum or does not hold exactly the tensors expected."""


class WeightsFormatError(WeightsError):
    """A ``config.json`` is malformed, or newer than this version of skecg."""


class UnregisteredError(WeightsFormatError, ParameterError):
    """Nobody has registered an architecture, an objective or a mask of that name; a plug-in may."""


class ForeignRepositoryError(WeightsError):
    """A repository on the Hub holds no skecg weights."""


class ForeignCheckpointError(WeightsError):
    """A file is not the published checkpoint that it was said to be."""


class PublishError(SkecgError, ValueError):
    """Something should not be published as it is, or could not be."""


class CacheError(SkecgError, OSError):
    """The embedding store cannot be used."""


class CacheUnavailableError(CacheError):
    """The embedding store is full, read-only or out of reach: embedding goes on without it, with a warning."""


class DownloadError(SkecgError, OSError):
    """A data set could not be downloaded: no network, a server that refuses, wrong bytes, or a full disk."""


class DatasetNotFoundError(DownloadError, FileNotFoundError):
    """A data set, or a part of it, is not on disk and was not to be downloaded."""


class ClusterError(SkecgError, ConnectionError):
    """The scheduler of a cluster cannot be reached, or went away in the middle of the work."""


class MissingDependencyError(SkecgError, ImportError):
    """An optional package is needed and not installed."""


class SkecgWarning(UserWarning):
    """Base of every warning that skecg emits."""


class UnitsWarning(SkecgWarning):
    """Amplitudes look as if they were in another unit."""


class LeadWarning(SkecgWarning):
    """Leads were derived or filled, or look as if they were swapped."""


class SignalWarning(SkecgWarning):
    """A signal has flat or railed leads, gaps, or was padded."""


class HeaderRepairWarning(SkecgWarning):
    """A malformed file header was read by an unambiguous repair."""


class LeakageWarning(SkecgWarning):
    """A cross-validation trains and tests on recordings of the same patient."""


class CacheWarning(SkecgWarning):
    """A store was set aside and rebuilt, embeddings are not kept because it cannot be used, or workers share none."""


def user_stacklevel() -> int:
    """Return how far above the caller the user's line lies, as `stacklevel` of :func:`warnings.warn` counts.

    scikit-learn wraps ``transform`` once, ``fit_transform`` once or twice depending on its version, and a pipeline
    puts more between, so that no fixed number is right.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    return level
