"""Signatures of weights folders: who made them, checked offline with a public key (OpenSSF model signing)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.errors import (
    DamagedWeightsError,
    MissingDependencyError,
    ParameterError,
    WeightsError,
    WeightsNotFoundError,
)
from skecg.io.files import beginning_of
from skecg.weights.folder import SIGNATURE_NAME, TRAINING_CONFIG, read_info

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["check_signature", "sign_weights"]

# What decides a number is in files of these kinds. The card, its pictures and the licence are written anew when weights
# are published, and how weights were trained decides nothing of what they compute.
_SIGNED = (".json", ".safetensors")

# What a signature's first bytes hold, and no key, table or tensor.
_MARK, _LONGEST_MARK = b"vnd.dev.sigstore.bundle", 512


def sign_weights(
    folder: str | PathLike[str],
    private_key: str | PathLike[str],
    *,
    password: str | None = None,
    signature: str | PathLike[str] | None = None,
) -> Path:
    """Sign every file of a weights folder that decides what its encoder computes.

    The signature is a Sigstore bundle as OpenSSF model signing has it; its own command line (``model_signing verify
    key``) checks it too. Nothing is sent anywhere. Needs ``pip install skecg[signing]``.

    Parameters
    ----------
    folder : str or path-like
        A weights folder. Its JSON and safetensors files are signed, but for ``training_config.json`` and those whose
        names begin with a dot; the card, pictures and the licence are not.
    private_key : str or path-like
        PEM file of an elliptic-curve key (P-256, P-384 or P-521).
    password : str, optional
        Of the key, if it is encrypted.
    signature : str or path-like, optional
        File to write; ``model.sig`` in the folder when not given.

    Returns
    -------
    Path
        The signature.

    Raises
    ------
    MissingDependencyError
        When model-signing is not installed.
    ParameterError
        When `signature` is a file that holds something else, such as the key, or lies in no folder.
    WeightsError
        When the folder holds no sound weights, or the key cannot be read.
    """
    folder = read_info(Path(folder)).folder.absolute()
    library, path = _model_signing(), _signature_of(folder, signature)
    key, secret = _existing(private_key, "a private key"), password.encode() if password else None
    if not path.parent.is_dir():
        raise ParameterError(f"Got signature={str(path)!r}, expected a file in a folder that exists. Make the folder.")
    if path.exists() and _MARK not in beginning_of(path, _LONGEST_MARK):
        raise ParameterError(
            f"Got signature={str(path)!r}, which holds something else. Name a new file, or a signature."
        )
    try:
        signer = library.signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
        signer.set_hashing_config(_hashing(library, folder, path)).sign(folder, path)
    except Exception as error:
        # The library has no errors of its own: what a wrong key raises depends on where it is wrong.
        raise WeightsError(
            f"{folder} could not be signed with {key}: {error}. Pass the PEM file of an elliptic-curve key (P-256, "
            "P-384 or P-521), and its password if it has one."
        ) from error
    return path


def check_signature(
    folder: str | PathLike[str], public_key: str | PathLike[str], *, signature: str | PathLike[str] | None = None
) -> None:
    """Raise unless every file of a weights folder is the one that the owner of a key signed.

    Parameters
    ----------
    folder : str or path-like
        A weights folder.
    public_key : str or path-like
        PEM file, had from the signer on another way than the weights.
    signature : str or path-like, optional
        ``model.sig`` in the folder when not given.

    Raises
    ------
    MissingDependencyError
        When model-signing is not installed.
    DamagedWeightsError
        When a file was altered, added or taken away, or the signature is damaged or of another key.
    WeightsNotFoundError
        When there is no such signature or key.
    """
    folder = read_info(Path(folder)).folder.absolute()
    path, key = _existing(_signature_of(folder, signature), "a signature"), _existing(public_key, "a public key")
    library = _model_signing()
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
        verifier.set_hashing_config(_hashing(library, folder, path)).verify(folder, path)
    except Exception as error:
        # Whatever is raised on the way, the signature was not found to hold.
        raise DamagedWeightsError(
            f"The signature {path} does not hold for {folder} and the key {key}: {error}. Fetch the weights again, or "
            "ask who signed them for their key."
        ) from error


def _model_signing() -> Any:
    """Import model-signing, which takes a second and is needed by nothing else."""
    try:
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingDependencyError(
            f"Signatures are made and checked by model-signing, which is not installed ({error}). Run "
            "`pip install skecg[signing]`."
        ) from error
    return model_signing


def _hashing(library: Any, folder: Path, signature: Path) -> Any:
    """Return what is hashed; in a Hub cache files are links."""
    ignored = [path for path in folder.iterdir() if not _is_signed(path)]
    return library.hashing.Config().set_ignored_paths(paths=[*ignored, signature]).set_allow_symlinks(True)


def _is_signed(path: Path) -> bool:
    return path.suffix in _SIGNED and path.name != TRAINING_CONFIG and not path.name.startswith(".")


def _signature_of(folder: Path, signature: str | PathLike[str] | None) -> Path:
    # The library takes what is not absolute for a place in the folder.
    return folder / SIGNATURE_NAME if signature is None else Path(signature).absolute()


def _existing(path: str | PathLike[str], what: str) -> Path:
    if not Path(path).is_file():
        raise WeightsNotFoundError(f"Got {path}, expected the path of {what}; there is no such file.")
    return Path(path)
