"""Principal directions beside weights: written, read back, and refused when they are not what they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError
from skecg.io.files import sha256_of
from skecg.weights import read_directions, read_info, verify_weights, write_directions

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-temporal"
FEATURES = np.random.default_rng(0).normal(size=(40, 16)) * np.arange(1, 17) + 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(TINY, tmp_path / "weights"))
    write_directions(folder, FEATURES)
    return folder


def replace_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Change the directions and make their checksum right again, as somebody would who means it."""
    save_file(tensors, folder / "directions.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["directions_sha256"] = sha256_of(folder / "directions.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def test_coordinates_are_uncorrelated_and_those_that_differ_most_come_first(folder: Path) -> None:
    directions = read_directions(read_info(folder))
    found = directions.project(FEATURES.astype(np.float32), 16)

    assert len(directions) == 16
    assert np.allclose(found.mean(axis=0), 0, atol=1e-2)
    assert np.allclose(np.cov(found.T), np.diag(np.cov(found.T).diagonal()), atol=1e-2)
    assert np.all(np.diff(found.std(axis=0)) < 1e-2)
    assert np.array_equal(directions.project(FEATURES.astype(np.float32), 4).shape, (40, 4))


def test_the_unit_of_a_feature_does_not_matter(folder: Path) -> None:
    before = read_directions(read_info(folder)).project(FEATURES.astype(np.float32), 16)
    scale = np.geomspace(0.01, 100, 16)
    write_directions(folder, FEATURES * scale)

    assert np.allclose(
        read_directions(read_info(folder)).project((FEATURES * scale).astype(np.float32), 16), before, atol=3e-2
    )


def test_a_feature_that_never_changes_has_no_part(folder: Path) -> None:
    write_directions(folder, FEATURES * (np.arange(16) != 2))

    directions = read_directions(read_info(folder))
    assert len(directions) == 15
    assert not directions.components[:, 2].any()


def test_there_are_as_many_directions_as_records_differ_along(folder: Path) -> None:
    write_directions(folder, FEATURES[:5])

    assert len(read_directions(read_info(folder))) == 4
    with pytest.raises(ParameterError, match="3 rows of the same features"):
        write_directions(folder, np.repeat(FEATURES[:1], 3, axis=0))


def test_features_that_half_precision_cannot_scale_are_kept_in_single_precision(folder: Path) -> None:
    before = read_directions(read_info(folder)).project(FEATURES.astype(np.float32), 16)
    for scale in (1e-7, 1e7):
        scaled = FEATURES * np.where(np.arange(16) == 3, scale, 1)
        write_directions(folder, scaled)
        found = read_directions(read_info(folder)).project(scaled.astype(np.float32), 16)
        np.testing.assert_allclose(found, before, atol=3e-2)
        assert load_file(folder / "directions.safetensors")["components"].dtype == torch.float32


def test_what_is_written_is_what_is_read_and_embeddings_keep_their_keys(folder: Path) -> None:
    info = write_directions(folder, FEATURES)

    assert info == read_info(folder)
    assert info.digest == read_info(TINY).digest
    assert (folder / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()


def test_the_same_features_are_written_to_the_same_bytes(folder: Path) -> None:
    before = (folder / "directions.safetensors").read_bytes()
    write_directions(folder, FEATURES)

    assert (folder / "directions.safetensors").read_bytes() == before


def test_weights_without_directions_say_so() -> None:
    with pytest.raises(ParameterError, match=r"bring no principal directions.*skecg\.weights\.write_directions"):
        read_directions(read_info(TINY))


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_missing_and_altered_directions_are_refused_by_reading_and_by_verifying(folder: Path, damage) -> None:
    assert verify_weights(read_info(folder)).passed
    damage(folder / "directions.safetensors")

    for use in (read_directions, verify_weights):
        with pytest.raises(DamagedWeightsError, match=r"directions\.safetensors is missing or not the file"):
            use(read_info(folder))


@pytest.mark.parametrize("change", ["other width", "no mean", "not finite", "one more"])
def test_directions_that_do_not_fit_are_refused_though_their_checksum_is_right(folder: Path, change: str) -> None:
    tensors = load_file(folder / "directions.safetensors")
    if change == "other width":
        tensors["components"] = tensors["components"][:, :3].contiguous()
    elif change == "no mean":
        del tensors["mean"]
    elif change == "one more":
        tensors["scale"] = torch.ones(16)
    else:
        tensors["mean"][0] = torch.nan
    replace_tensors(folder, tensors)

    with pytest.raises(DamagedWeightsError, match=r"expected finite 'mean' and 'components' of 16 features"):
        read_directions(read_info(folder))


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (FEATURES[:, :3], r"shape \(40, 3\); expected finite ones \(n_records, 16\)"),
        (FEATURES[0], r"shape \(16,\)"),
        (FEATURES[:1], "of at least two records"),
        (np.where(FEATURES.max() == FEATURES, np.nan, FEATURES), "some of them not finite"),
    ],
)
def test_features_that_are_not_those_of_the_weights_are_refused(folder: Path, features, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        write_directions(folder, features)


def test_a_digest_that_is_none_is_refused_by_the_fields_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"directions_sha256": "0"}))

    with pytest.raises(WeightsFormatError, match="got directions_sha256='0', expected 64 hexadecimal digits"):
        read_info(folder)
