"""A signature holds for the files that were signed and the key that signed them, and for nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skecg.cli import main
from skecg.errors import (
    DamagedWeightsError,
    MissingDependencyError,
    ParameterError,
    WeightsError,
    WeightsNotFoundError,
)
from skecg.weights import check_signature, sign_weights

pytest.importorskip("model_signing", reason="needs the extra signing")

from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-temporal"


def write_keys(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "mine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "weights"))


@pytest.fixture
def signed(folder: Path, keys: tuple[Path, Path]) -> Path:
    sign_weights(folder, keys[0])
    return folder


def test_what_was_signed_verifies_wherever_it_lies(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    check_signature(signed, keys[1])
    check_signature(shutil.copytree(signed, tmp_path / "elsewhere"), keys[1])


def test_a_signature_replaces_a_signature_and_nothing_else(signed: Path, keys: tuple[Path, Path]) -> None:
    sign_weights(signed, keys[0])
    for path in (keys[0], signed / "model.safetensors", signed / "config.json"):
        before = path.read_bytes()
        with pytest.raises(ParameterError, match="which holds something else"):
            sign_weights(signed, keys[0], signature=path)
        assert path.read_bytes() == before
    check_signature(signed, keys[1])


def test_a_signature_needs_a_folder_to_lie_in(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "a.sig", keys[0] / "a.sig"):
        with pytest.raises(ParameterError, match=r"a\.sig', expected a file in a folder that exists"):
            sign_weights(folder, keys[0], signature=path)


def test_a_folder_may_be_named_from_where_one_is(
    folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["sign", "./weights", "--key", keys[0].name]) == 0
    assert main(["verify", "weights", "--public-key", str(keys[1])]) == 0
    check_signature(folder, keys[1])
    monkeypatch.chdir(folder)
    check_signature(".", keys[1])
    sign_weights(".", keys[0], signature="../apart.sig")
    check_signature(folder, keys[1], signature="../apart.sig")


def test_a_signature_without_the_key_that_it_is_of_is_not_passed_over(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(signed), "--signature", str(signed / "model.sig")]) == 2
    assert "Got --signature without --public-key" in capsys.readouterr().err


def test_what_decides_no_number_may_change(signed: Path, keys: tuple[Path, Path]) -> None:
    for name in ("README.md", "LICENSE", "curves.png", ".gitattributes", "training_config.json"):
        (signed / name).write_text("of the Hub")
    check_signature(signed, keys[1])


def test_links_as_the_hub_keeps_them_are_followed(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in signed.iterdir():
        (snapshot / path.name).symlink_to(path)
    check_signature(snapshot, keys[1])


def add_a_byte(folder: Path) -> None:
    with (folder / "golden.safetensors").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_a_byte, "golden.safetensors"),
        (lambda folder: (folder / "golden.safetensors").unlink(), "golden.safetensors"),
        (lambda folder: (folder / "more.json").write_text("{}"), "more.json"),
        (lambda folder: (folder / "model.sig").write_text("{"), "model.sig"),
        (lambda folder: (folder / "model.sig").write_text("[" * 100_000), "model.sig"),
        (lambda folder: (folder / "model.sig").write_bytes(b"\xff\xfe"), "model.sig"),
    ],
)
def test_a_file_altered_added_or_taken_away_is_named(signed, keys, change, named) -> None:
    change(signed)
    with pytest.raises(DamagedWeightsError, match=f"(?s)does not hold.*{named}|{named}.*does not hold"):
        check_signature(signed, keys[1])


def test_another_key_and_what_is_no_key_are_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    for key in (write_keys(tmp_path, "other")[1], keys[0], signed / "config.json"):
        with pytest.raises(DamagedWeightsError, match="does not hold"):
            check_signature(signed, key)


def test_what_is_not_there_is_named(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"model\.sig, expected the path of a signature"):
        check_signature(folder, keys[1])
    with pytest.raises(WeightsNotFoundError, match="expected the path of a private key"):
        sign_weights(folder, tmp_path / "none.pem")


def test_the_standard_s_own_command_line_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / "model.sig"), "--public_key", str(keys[1])]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    add_a_byte(signed)
    assert subprocess.run(command, capture_output=True, text=True).returncode == 1


def test_a_locked_key_needs_its_password(folder: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "locked", b"open")
    with pytest.raises(WeightsError, match="could not be signed"):
        sign_weights(folder, private)
    sign_weights(folder, private, password="open", signature=tmp_path / "apart.sig")
    check_signature(folder, public, signature=tmp_path / "apart.sig")


def test_a_key_that_is_no_elliptic_curve_s_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ed.pem"
    key = ed25519.Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    with pytest.raises(WeightsError, match="elliptic-curve key"):
        sign_weights(folder, path)


def test_without_the_library_the_extra_is_named(signed: Path, keys: tuple[Path, Path], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with pytest.raises(MissingDependencyError, match=r"skecg\[signing\]"):
        check_signature(signed, keys[1])


def test_the_command_line_signs_and_checks(folder, capsys, monkeypatch, tmp_path) -> None:
    private, public = write_keys(tmp_path, "locked", b"open")
    monkeypatch.setenv("SKECG_KEY_PASSWORD", "open")
    assert main(["sign", str(folder), "--key", str(private)]) == 0
    assert str(folder / "model.sig") in capsys.readouterr().out
    assert main(["verify", str(folder), "--public-key", str(public)]) == 0
    assert "signed by the owner of" in capsys.readouterr().out
    add_a_byte(folder)
    assert main(["verify", str(folder), "--public-key", str(public)]) == 2
    assert "does not hold" in capsys.readouterr().err
