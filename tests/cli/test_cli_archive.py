"""An archive is a folder of part files that may be made by many processes, killed and continued at any time."""

from __future__ import annotations

import csv
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

pytest.importorskip("pyarrow")


@pytest.fixture
def to_archive(embed: Run) -> Run:
    """Run ``skecg embed`` into a folder, in part files of two records."""

    def call(*arguments: str | os.PathLike[str], part: str = "1/1") -> int:
        return embed("--part", part, "--chunk-records", "2", *arguments)

    return call


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("part-*.parquet"))


def test_an_archive_holds_what_the_single_file_does_in_its_order(embed: Run, to_archive: Run, archive: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert embed(archive, "--out", "one.npz") == 1
    assert to_archive(archive, "--out", "parts") == 1

    # The folder as a whole, the way that readers of Parquet take it: what is no part file is passed over.
    table = pandas.read_parquet("parts")
    with np.load("one.npz", allow_pickle=False) as stored:
        assert table["row"].tolist() == list(range(12))
        assert table["path"].tolist() == stored["paths"].tolist()
        assert table.columns[4:].tolist() == stored["feature_names"].tolist()
        np.testing.assert_allclose(table.iloc[:, 4:].to_numpy(np.float32), stored["features"], rtol=1e-5, atol=1e-6)
    assert parts_of(Path("parts")) == [f"part-{number:06d}.parquet" for number in range(6)]


def test_records_that_failed_have_their_reason_in_the_part_and_in_the_list(to_archive: Run, archive: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert to_archive(archive, "--out", "parts") == 1

    table = pandas.read_parquet("parts")
    (bad,) = table[table["error"].notna()].to_dict("records")
    assert bad["path"] == str(archive / "r05b.hea")
    assert "r05b.dat" in bad["message"]
    assert np.isnan([bad[name] for name in table.columns[4:]]).all()
    with Path("parts/_failures.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{name: bad[name] for name in ("path", "error", "message")}]


def test_provenance_is_in_every_part_and_closes_the_whole(to_archive: Run, archive: Path) -> None:
    from pyarrow import parquet

    to_archive(archive, "--out", "parts", "--pooling", "max")

    said = [json.loads(parquet.read_schema(path).metadata[b"skecg"]) for path in Path("parts").glob("part-*")]
    assert all(part == said[0] for part in said)
    whole = json.loads(Path("parts/_provenance.json").read_text())
    assert {**said[0], "n_failed": 1, "n_parts": 6} == {**whole, "run": said[0]["run"]}
    assert (whole["pooling"], whole["n_records"]) == ("max", 12)


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
def test_features_of_patients_are_private(to_archive: Run, sound: str) -> None:
    to_archive(sound, "--out", "parts")

    assert Path("parts").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shares_in_any_order_make_the_same_folder(
    order: tuple[int, ...], to_archive: Run, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_archive(archive, "--out", "whole")
    for number in order[:-1]:
        to_archive(archive, "--out", "shared", part=f"{number}/3")
        assert not Path("shared/_provenance.json").exists()
    assert "4 of 6 part files are in 'shared'" in capsys.readouterr().err

    to_archive(archive, "--out", "shared", part=f"{order[-1]}/3")

    assert contents_of(Path("shared")) == contents_of(Path("whole"))


def test_a_share_that_has_nothing_to_do_is_no_error(to_archive: Run, sound: str) -> None:
    assert to_archive(sound, "--out", "parts", part="9/9") == 0
    assert parts_of(Path("parts")) == []


class PowerLoss(BaseException):
    """Nobody catches this."""


def cut_power(survives: int, monkeypatch: pytest.MonkeyPatch, embed: Run, *arguments: str | Path) -> bool:
    """Run a command that ends when it writes to the disk for the n-th time; say whether it came to its end before."""
    fsync, calls = os.fsync, itertools.count()

    def fail(descriptor: int) -> None:
        if next(calls) >= survives:
            raise PowerLoss
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        try:
            embed(*arguments)
        except PowerLoss:
            return False
    return True


def test_power_may_fail_at_any_time(to_archive: Run, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_archive(archive, "--out", "whole")

    survives = 0
    while not cut_power(survives, monkeypatch, to_archive, archive, "--out", f"cut{survives}"):
        cut = Path(f"cut{survives}")
        assert len(parts_of(cut)) == min(max(survives - 1, 0), 6)
        assert not (cut / "_provenance.json").exists()
        assert to_archive(archive, "--out", cut) == 1
        assert contents_of(cut) == contents_of(Path("whole"))
        survives += 1

    # The manifest, six parts, the list of failures, the provenance.
    assert survives == 1 + 6 + 1 + 1


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that are read."""
    from skecg.inference.inputs import RecordSource

    names: list[str] = []
    read = RecordSource._read_file
    monkeypatch.setattr(
        RecordSource, "_read_file", lambda s, p, *how: (names.append(Path(p).stem), read(s, p, *how))[1]
    )
    return names


def test_only_the_parts_that_are_missing_are_made(to_archive: Run, sound: str, embedded: list[str]) -> None:
    to_archive(sound, "--out", "parts")
    before = contents_of(Path("parts"))
    Path("parts/part-000001.parquet").unlink()
    embedded.clear()

    assert to_archive(sound, "--out", "parts") == 0
    assert embedded == ["r02", "r03"]
    assert contents_of(Path("parts")) == before


def test_a_finished_archive_is_left_as_it_is(
    to_archive: Run, archive: Path, embedded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    to_archive(archive, "--out", "parts")
    before = contents_of(Path("parts"))
    embedded.clear()
    capsys.readouterr()

    assert to_archive(archive, "--out", "parts") == 1
    assert to_archive(archive, "--out", "parts", "--force") == 1
    assert embedded == []
    assert contents_of(Path("parts")) == before
    assert "6 of 6 part files are done" in capsys.readouterr().err


def test_records_that_failed_are_tried_again_when_asked(
    to_archive: Run, archive: Path, tmp_path: Path, embedded: list[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in archive.glob("r0*"):
        (copy / path.name).write_bytes(path.read_bytes())
    to_archive(copy, "--out", "parts")
    # Where it was copied from when the archive was made.
    (copy / "r05b.dat").write_bytes((archive / "r00.dat").read_bytes())
    embedded.clear()

    assert to_archive(copy, "--out", "parts", "--retry-failed") == 0
    assert sorted(embedded) == ["r05b", "r06"]
    assert not Path("parts/_failures.csv").exists()
    assert to_archive(copy, "--out", "whole") == 0
    assert contents_of(Path("parts")) == contents_of(Path("whole"))


def test_what_closes_an_archive_is_taken_back_while_parts_are_missing(to_archive: Run, archive: Path) -> None:
    to_archive(archive, "--out", "parts")
    Path("parts/part-000001.parquet").unlink()

    assert to_archive(archive, "--out", "parts", part="1/3") == 0
    assert not [path for path in Path("parts").iterdir() if path.name in ("_provenance.json", "_failures.csv")]
    assert to_archive(archive, "--out", "parts", part="2/3") == 1
    assert Path("parts/_provenance.json").exists()
    assert Path("parts/_failures.csv").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--pooling", "max"], "weights or options"),
        (["--units", "uV"], "sampling rate, leads or units"),
        (["RECORD"], "records, records in all"),
        (["--chunk-records", "3"], "records per part"),
    ],
)
def test_parts_of_another_run_are_not_continued(
    change: list[str], named: str, to_archive: Run, archive: Path, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to_archive(sound, "--out", "parts")
    before = contents_of(Path("parts"))
    change = [str(archive / "more" / "r08") if word == "RECORD" else word for word in change]
    capsys.readouterr()

    assert to_archive(sound, *change, "--out", "parts") == 2
    assert f"holds a run with other {named}." in capsys.readouterr().err
    assert contents_of(Path("parts")) == before

    assert to_archive(sound, *change, "--out", "parts", "--force") == 0
    assert to_archive(sound, *change, "--out", "fresh") == 0
    assert contents_of(Path("parts")) == contents_of(Path("fresh"))


def test_a_folder_of_other_things_is_not_written_into(
    to_archive: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("years of work")

    assert to_archive(sound, "--out", "thesis", "--force") == 2
    assert "a folder that holds other files" in capsys.readouterr().err
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize("damage", ["cut off", "other rows", "another run"])
def test_a_part_that_is_damaged_or_not_of_this_run_is_named(
    damage: str, to_archive: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to_archive(sound, "--out", "parts")
    to_archive(sound, "--out", "others", "--pooling", "max")
    part = Path("parts/part-000001.parquet")
    before = part.read_bytes()
    part.write_bytes(
        {
            "cut off": before[:-100],
            "other rows": Path("parts/part-000002.parquet").read_bytes(),
            "another run": Path("others/part-000001.parquet").read_bytes(),
        }[damage]
    )
    capsys.readouterr()

    assert to_archive(sound, "--out", "parts") == 2
    assert "'parts/part-000001.parquet'" in capsys.readouterr().err.replace("\\", "/")
    part.unlink()
    assert to_archive(sound, "--out", "parts") == 0
    assert part.read_bytes() == before


def test_the_archive_is_no_input_of_its_own(to_archive: Run) -> None:
    signal = np.random.default_rng(0).normal(0, 0.2, (2, 1000)).astype(np.float32)
    Path("data").mkdir()
    for number in range(3):
        np.savetxt(f"data/r{number}.csv", signal.T, delimiter=",", header="I,II", comments="")
    np.savetxt("data/short.csv", signal.T[:10], delimiter=",", header="I,II", comments="")
    options = ("data/**/*.csv", "--sampling-rate", "250", "--out", "data/parts")

    assert to_archive(*options) == 1
    before = contents_of(Path("data/parts"))
    assert "_failures.csv" in before
    assert to_archive(*options) == 1
    assert contents_of(Path("data/parts")) == before


def test_a_list_of_physionet_may_name_folders(embed: Run, archive: Path) -> None:
    (archive / "RECORDS").write_text("r01\nmore/\ngone/\n")
    assert embed("--paths-from", archive / "RECORDS", "--out", "one.npz") == 1
    with np.load("one.npz", allow_pickle=False) as stored:
        named = [Path(path).relative_to(archive).as_posix() for path in stored["paths"].tolist()]
        failed = np.isnan(stored["features"]).all(axis=1).tolist()
    below = sorted(path.relative_to(archive).as_posix() for path in (archive / "more").glob("*.hea"))
    assert named == ["r01", *below, "gone"]
    assert failed == [False] * (len(named) - 1) + [True]


def test_a_list_of_records_is_taken_as_it_is_and_in_its_order(to_archive: Run, embed: Run, archive: Path) -> None:
    pandas = pytest.importorskip("pandas")
    paths = [str(archive / f"{name}.hea") for name in ("r03", "r01", "more/r09", "gone", "r03")]
    Path("list.txt").write_text("\n".join(paths) + "\n\n")

    assert to_archive("--paths-from", "list.txt", "--out", "parts") == 1
    assert embed("--paths-from", "list.txt", "--out", "one.npz") == 1

    table = pandas.read_parquet("parts")
    assert table["path"].tolist() == paths
    assert table["error"].notna().tolist() == [False, False, False, True, False]
    with np.load("one.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == paths
        np.testing.assert_allclose(table.iloc[:, 4:].to_numpy(np.float32), stored["features"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected either PATHS or --paths-from FILE"),
        (["r00", "--paths-from", "empty.txt"], "Expected either PATHS or --paths-from FILE"),
        (["--paths-from", "none.txt"], "Got --paths-from 'none.txt', which is no file"),
        (["--paths-from", "empty.txt"], "Got --paths-from 'empty.txt', which names no recording"),
    ],
)
def test_what_is_no_list_of_records_is_refused(
    arguments: list[str], message: str, embed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").write_text("\n \n")

    assert embed(*arguments, "--out", "f.npz") == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_says_how_to_continue(
    to_archive: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from skecg.archives.run_folders import ArchiveFolder

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ArchiveFolder, "add", interrupt)

    assert to_archive(sound, "--out", "parts") == 130
    assert "Give the same command again to continue" in capsys.readouterr().err


def test_whoever_finishes_first_costs_another_with_the_same_part_nothing(
    to_archive: Run, sound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert to_archive(sound, "--out", "alone") == 0
    replace = Path.replace

    def after_the_other(path: Path, to: Path) -> Path:
        if path.name.startswith(".part-"):
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", replace)
                assert to_archive(sound, "--out", "both") == 0
            assert not path.exists()
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", after_the_other)

    assert to_archive(sound, "--out", "both") == 0

    alone, both = ({p.name: p.read_bytes() for p in Path(name).iterdir()} for name in ("alone", "both"))
    assert both == alone


def test_a_part_that_vanishes_while_it_is_written_is_an_error(
    to_archive: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = Path.replace

    def vanish(path: Path, to: Path) -> Path:
        if path.name.startswith(".part-"):
            path.unlink()
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", vanish)

    assert to_archive(sound, "--out", "parts") == 2
    assert "No such file or directory: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "1"], "Got --part '1', expected I/N"),
        (["--part", "0/4"], "Got part 0/4"),
        (["--part", "5/4"], "Got part 5/4"),
        (["--part", "2/4", "--force"], "which would throw away what the others do"),
        (["--part", "1/1", "--chunk-records", "0"], "--chunk-records 0"),
        (["--part", "1/1", "--retries", "-1"], "--retries -1"),
        (["--part", "1/1", "--out", "f.csv"], "expected a folder for the part files"),
        (["--part", "1/1", "--out", "file"], "expected a folder for the part files"),
        (["--part", "1/1", "--out", "nowhere/parts"], "'nowhere' is no folder"),
        (["--chunk-records", "5", "--out", "f.csv"], "Got --chunk-records, expected --scheduler or --part with it"),
        (["--retry-failed", "--out", "f.csv"], "Got --retry-failed, expected --scheduler or --part with it"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, embed: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()

    assert embed(sound, "--out", "parts", *arguments) == 2

    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert message in captured
    assert not Path("parts").exists()


def test_without_pyarrow_it_says_how_to_get_it(
    to_archive: Run, sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert to_archive(sound, "--out", "parts") == 2
    assert "pip install 'skecg[parquet]'" in capsys.readouterr().err


def test_without_dask_it_says_how_to_get_it(
    embed: Run, sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    assert embed(sound, "--scheduler", "tcp://127.0.0.1:8786", "--out", "parts") == 2
    assert "pip install 'skecg[distributed]'" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::skecg.errors.UnitsWarning")
def test_the_unit_of_an_archive_is_judged_as_that_of_one_file(
    to_archive: Run, embed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        signal = np.random.default_rng(number).normal(size=(2, 1000))
        np.savez(f"r{number}.npz", signal=signal.astype(np.float32), sampling_rate=250, leads=np.array(["I", "II"]))
    for run in (embed, to_archive):
        assert run("r*.npz", "--out", f"out-{run.__name__}.d" if run is to_archive else "f.npz", "--leads", "I,II") == 0
        assert "standard deviation of about 1 in 8 of 8 leads" in capsys.readouterr().err
