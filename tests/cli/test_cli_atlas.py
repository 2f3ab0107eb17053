"""``skecg atlas`` makes a page and a table of what ``skecg embed`` wrote, and says what it cannot do beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from skecg.archives.files import FeatureTable, read_features, write_features
from skecg.errors import ParameterError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def features(archive: Path, run: Run) -> list[str]:
    """Features of five recordings, and a table beside them that knows four."""
    paths = [str(archive / f"r{k:02d}.hea") for k in range(5)]
    np.savez("f.npz", features=np.random.default_rng(0).normal(size=(5, 6)), paths=np.array(paths))
    rows = [f"{Path(path).stem},{'ab'[k % 2]}" for k, path in enumerate(paths[:4])]
    (archive / "t.csv").write_text("\n".join(["file,diagnosis", *rows]) + "\n")
    return paths


def test_a_page_and_a_table_are_made_of_features_and_labels(
    run: Run, features: list[str], archive: Path, capsys: Capture
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    labels = ("--labels", archive / "t.csv", "--path-column", "file")
    assert run("atlas", "f.npz", *labels, "--out", "a.html", "--parquet", "a.parquet", "--title", "Mine") == 0

    assert "1 of 5 recordings are not in the table" in capsys.readouterr().err
    page = Path("a.html").read_text()
    assert "<title>Mine</title>" in page
    assert '"traces":[[0,' in page
    assert Path("a.html").stat().st_mode & 0o077 == 0
    table = parquet.read_table("a.parquet").to_pydict()
    assert table["diagnosis"] == ["a", "b", "a", "b", None]
    assert table["path"] == features
    assert set(table["neighbors"][0]) == {"ids", "distances"}
    assert len(table["projection_x"]) == len(table["projection_y"]) == 5


def test_features_keep_their_scales_where_that_is_asked_for(run: Run, features: list[str]) -> None:
    for name, *flag in (("kept", "--keep-scales"), ("levelled",)):
        assert run("atlas", "f.npz", *flag, "--title", "Mine", "--no-ecgs", "--out", f"{name}.html") == 0
    assert Path("kept.html").read_text() != Path("levelled.html").read_text()


def test_without_ecgs_no_recording_is_read(run: Run, features: list[str]) -> None:
    np.savez("g.npz", features=np.eye(3), paths=np.array(["no", "such", "files"]))

    assert run("atlas", "g.npz", "--out", "a.html", "--no-ecgs") == 0
    assert '"traces"' not in Path("a.html").read_text()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_are_read_in_every_format_that_they_are_written_in(run: Run, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    features[1] = np.nan
    paths = ["plain.npz", "=cmd.npz", "'quoted.npz", 'a,b;"c".npz', "ü.npz"]
    file = Path(f"f{suffix}")
    write_features(FeatureTable(paths, features, ["one", "two", "three"], {}), file)

    read, found = read_features(file)

    np.testing.assert_array_equal(read, features)
    assert read.dtype == np.float32
    assert found == paths
    assert run("atlas", file, "--out", "a.html", "--no-ecgs") == 0
    if suffix == ".csv":
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n")  # as a spreadsheet saves it
        assert read_features(file)[1] == paths
    for damaged in (
        b"",
        b"id,path,one\n1,2,3\n",
        b"file,one\na,1\n",
        b"path\na\n",
        b"path,one\na,x\n",
        b"path,one\na\n",
    ):
        file.write_bytes(damaged)
        with pytest.raises(ParameterError, match="no file of features"):
            read_features(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither --out nor --parquet"),
        (["--out", "a.txt"], "ends in .html"),
        (["--parquet", "a.csv"], "ends in .parquet"),
        (["--out", "no/a.html"], "is no folder"),
        (["--out", "a.html", "--projection", "mds"], "mds"),
        (["--out", "a.html", "--labels", "no.csv"], "no.csv"),
        (["--out", "a.html", "--neighbours", "0"], "n_neighbours"),
        (["--out", "a.html", "--parquet", "t.parquet", "--labels", "./t.parquet"], "is read by this command"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(
    arguments: list[str], message: str, run: Run, features: list[str], capsys: Capture
) -> None:
    assert run("atlas", "f.npz", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
