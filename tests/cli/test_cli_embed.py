from __future__ import annotations

import codecs
import csv
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from skecg import JEPAEmbedder
from skecg.archives import run_folders
from skecg.archives.files import spreadsheet_cell
from skecg.datasets import make_ecg
from skecg.errors import HeaderRepairWarning

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")


def features_of(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as stored:
        return stored["features"]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_the_file_holds_what_the_embedder_gives(embed: Run, archive: Path, sound: str) -> None:
    assert embed(sound, "--out", "f.npz") == 0

    paths = sorted(map(str, archive.glob("r0?.hea")))
    embedder = JEPAEmbedder(TINY, cache=None)
    with np.load("f.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == paths
        assert stored["features"].dtype == np.float32
        np.testing.assert_allclose(stored["features"], embedder.fit_transform(paths), rtol=1e-5, atol=1e-6)
        assert stored["feature_names"].tolist() == embedder.get_feature_names_out().tolist()


def test_rows_have_the_order_in_which_recordings_are_named(
    embed: Run, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{archive}/{name}.hea" for name in ("r02", "r00", "r02", "r01")]

    assert embed(*names, "--out", "f.npz") == 0

    with np.load("f.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == [names[0], names[1], names[3]]
    assert "1 of 4 PATHS are named before; a recording has one row" in capsys.readouterr().err
    embed(f"{archive}/r01.hea", f"{archive}/r01.dat", "--out", "g.npz")
    assert "named before" not in capsys.readouterr().err


def test_provenance_says_which_weights_and_options(embed: Run, sound: str) -> None:
    assert embed(sound, "--out", "f.npz", "--pooling", "max", "--layer=-2,-1") == 0

    with np.load("f.npz", allow_pickle=False) as stored:
        provenance = json.loads(str(stored["provenance"]))
    assert provenance["model"] == TINY
    assert provenance["weights_sha256"] == JEPAEmbedder(TINY).fit([sound]).weights_sha256_
    assert (provenance["pooling"], provenance["layers"], provenance["n_records"]) == ("max", [-2, -1], 8)
    assert "Research use only" in provenance["notice"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_format_holds_the_same_numbers(suffix: str, embed: Run, archive: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert embed(archive, "--out", "f.npz") == 1
    assert embed(archive, "--out", f"f{suffix}") == 1

    table = pandas.read_csv("f.csv", dtype={"path": str}) if suffix == ".csv" else pandas.read_parquet("f.parquet")
    with np.load("f.npz", allow_pickle=False) as stored:
        assert table["path"].tolist() == stored["paths"].tolist()
        assert table.columns[1:].tolist() == stored["feature_names"].tolist()
        np.testing.assert_array_equal(table.iloc[:, 1:].to_numpy(np.float32), stored["features"])


def test_a_record_that_fails_keeps_its_row_and_is_listed(
    embed: Run, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(archive, "--out", "f.npz") == 1

    with np.load("f.npz", allow_pickle=False) as stored:
        bad = np.isnan(stored["features"]).all(axis=1)
        assert stored["paths"][bad].tolist() == [str(archive / "r05b.hea")]
        assert np.isfinite(stored["features"][~bad]).all()
    with Path("f.npz.failures.csv").open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["path"] == str(archive / "r05b.hea")
    assert failure["error"].endswith("Error")
    assert "r05b.dat" in failure["message"]
    assert "1 of 12 records failed" in last_line(capsys)


def test_a_failed_row_of_a_csv_file_has_empty_cells(embed: Run, archive: Path) -> None:
    embed(archive, "--out", "f.csv")

    with Path("f.csv").open(newline="") as file:
        rows = {Path(path).name: cells for path, *cells in csv.reader(file)}
    assert set(rows["r05b.hea"]) == {""}
    assert "" not in rows["r05.hea"]


def test_folders_are_searched_to_the_bottom_unless_told_otherwise(embed: Run, archive: Path) -> None:
    embed(archive, "--out", "deep.npz")
    embed(archive, "--out", "flat.npz", "--no-recursive")

    assert len(features_of(Path("deep.npz"))) == 12
    assert len(features_of(Path("flat.npz"))) == 9


def test_files_folders_and_patterns_name_each_record_once(embed: Run, archive: Path) -> None:
    assert embed(archive / "more", archive / "more" / "r08", str(archive / "more/*.hea"), "--out", "f.npz") == 0

    assert len(features_of(Path("f.npz"))) == 3


def test_tables_take_their_rate_and_leads_from_the_command(embed: Run) -> None:
    time = np.arange(1000) / 250
    signal = np.stack([0.8 * np.sin(7 * time), 0.7 * np.cos(7 * time)]).astype(np.float32)
    np.save("a.npy", signal)
    np.save("b.npy", 1000 * signal)

    assert embed("a.npy", "--sampling-rate", "250", "--leads", "I, II", "--out", "mv.npz") == 0
    assert embed("b.npy", "--sampling-rate", "250", "--leads", "I,II", "--units", "uV", "--out", "uv.npz") == 0
    assert embed("a.npy", "--leads", "I,II", "--out", "none.npz") == 1

    np.testing.assert_allclose(features_of(Path("mv.npz")), features_of(Path("uv.npz")), rtol=1e-4, atol=1e-5)
    assert "SamplingRateError" in Path("none.npz.failures.csv").read_text()


def test_its_own_files_are_no_input(embed: Run, archive: Path) -> None:
    signal = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    np.savetxt("record.csv", signal.T, delimiter=",", header="I,II", comments="")
    options = ("*.csv", "--sampling-rate", "250", "--out", "f.csv")

    assert embed(*options) == 0
    first = Path("f.csv").read_bytes()
    assert embed(*options, "--force") == 0

    assert Path("f.csv").read_bytes() == first


def test_nothing_is_left_behind(embed: Run, sound: str) -> None:
    embed(sound, "--out", "f.csv")

    assert [path.name for path in Path().iterdir()] == ["f.csv"]


def test_a_list_of_failures_does_not_outlive_them(embed: Run, archive: Path, sound: str) -> None:
    embed(archive, "--out", "f.csv")
    assert Path("f.csv.failures.csv").exists()

    assert embed(sound, "--out", "f.csv", "--force") == 0
    assert not Path("f.csv.failures.csv").exists()


def test_a_disk_cache_spares_the_encoder(embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed(sound, "--out", "a.npz", "--cache", "./store") == 0
    monkeypatch.setattr("skecg.inference.pipeline.encode_windows", lambda *_: pytest.fail("embedded twice"))
    assert embed(sound, "--out", "b.npz", "--cache", "./store") == 0

    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_an_existing_file_is_replaced_only_by_force(embed: Run, sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("f.csv").write_text("precious")
    Path("link.csv").hardlink_to("f.csv")

    assert embed(sound, "--out", "f.csv") == 2
    assert last_line(capsys).startswith("skecg: error: 'f.csv' exists.")
    assert Path("f.csv").read_text() == "precious"
    assert embed(sound, "--out", "f.csv", "--force") == 0
    assert Path("f.csv").read_text().startswith("path,")
    # The new file took the old one's place in one step; nothing was written into the old one.
    assert Path("link.csv").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "f.txt"], "expected a name that ends in .csv, .npz, .parquet"),
        (["--out", "nowhere/f.csv"], "'nowhere' is no folder"),
        (["--out", "file/f.csv"], "'file' is no folder"),
        (["--out", "f.csv", "--model", "defalt"], "Did you mean 'default'?"),
        (["--out", "f.csv", "--pooling", "medain"], "pooling='medain'"),
        (["--out", "f.csv", "--layer", "99"], "99"),
        (["--out", "f.csv", "--layer", "lats4"], "layer='lats4'"),
        (["--out", "f.csv", "--batch-size", "0"], "batch_size=0"),
        (["--out", "f.csv", "--device", "abacus"], "device='abacus'"),
        (["--out", "f.csv", "--device", "cpu, cpu"], "names a device twice"),
        (["--out", "f.csv", "--missing-leads", "guess"], "missing_leads='guess'"),
        (["--out", "f.csv", "--units", "furlong"], "units='furlong'"),
        (["--out", "f.csv", "--cache", "memory"], "--cache memory"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, embed: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()

    assert embed(sound, *arguments) == 2

    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert captured.startswith("skecg: error: ")
    assert message in captured
    assert not list(Path().glob("f.*"))


def test_a_folder_without_recordings_says_what_was_looked_for(embed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()

    assert embed("empty", "--out", "f.csv") == 2
    message = last_line(capsys)
    assert ".hea" in message
    assert ".edf" in message


def test_a_path_that_is_not_there_is_named(embed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed("no/such/record", "--out", "f.csv") == 2
    assert "no/such/record" in last_line(capsys)


def test_a_full_disk_is_said_in_one_line_and_making_room_is_enough(
    embed: Run, sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert embed(sound, "--out", "f.csv") == 2
    line = last_line(capsys)
    assert line.startswith("skecg: error: [Errno 28] No space left on device. Make room and run the same command again")

    assert embed(sound, "--out", "f.csv") == 0
    assert Path("f.csv").exists()


def test_parquet_without_pyarrow_says_how_to_get_it(
    embed: Run, sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)

    assert embed(sound, "--out", "f.parquet") == 2
    assert "pip install 'skecg[parquet]'" in last_line(capsys)


def test_progress_is_shown_on_standard_error(run: Run, sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "--model", TINY, sound, "--out", "f.csv") == 0

    captured = capsys.readouterr()
    assert "8/8" in captured.err
    assert "records/s" in captured.err
    assert captured.out == ""


@pytest.mark.filterwarnings("always::skecg.errors.SkecgWarning")
def test_what_is_odd_about_a_record_is_said_with_its_path(embed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_ecg(1, duration_seconds=4.0, sampling_rate=250, random_state=0).records[0]
    np.savez("microvolts.npz", signal=record.signal * 1000, sampling_rate=250, leads=record.leads)

    assert embed("microvolts.npz", "--out", "f.npz") == 0

    said = capsys.readouterr().err
    assert "looks like microvolts" in said
    assert "Found in 'microvolts.npz'." in said


@pytest.mark.filterwarnings("always::skecg.errors.SkecgWarning")
def test_many_warnings_of_a_kind_are_counted(
    embed: Run, sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skecg.inference import inputs

    read = inputs.RecordSource._read_file

    def warn(self: inputs.RecordSource, path: str | Path, row: int, *how: bool) -> object:
        warnings.warn(f"header {row} is odd", HeaderRepairWarning, stacklevel=2)
        return read(self, path, row, *how)

    monkeypatch.setattr(inputs.RecordSource, "_read_file", warn)

    assert embed(sound, "--out", "f.csv") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert lines == [
        "skecg: warning: header 0 is odd",
        "skecg: warning: header 1 is odd",
        "skecg: warning: header 2 is odd",
        "skecg: warning: and 5 more of the kind HeaderRepairWarning",
    ]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("out", ["f.csv", "f.npz", "f.parquet"])
def test_files_of_features_are_the_users_alone(embed: Run, sound: str, out: str) -> None:
    assert embed(sound, "--out", out) == 0
    assert Path(out).stat().st_mode & 0o077 == 0


def test_names_that_a_spreadsheet_or_a_terminal_would_run_are_written_out() -> None:
    assert [spreadsheet_cell(name) for name in ("a.hea", "=1+1.hea", "@x", "a\x1b[31mb", "é")] == [
        "a.hea",
        "'=1+1.hea",
        "'@x",
        "a\\x1b[31mb",
        "é",
    ]


def test_signs_alone_are_no_formula_and_stay_the_classes_they_are() -> None:
    assert [spreadsheet_cell(sign) for sign in ("+", "-", "++", "@", "+a", "-1")] == ["+", "-", "++", "@", "'+a", "'-1"]


def test_comments_and_marks_of_a_list_are_no_records_but_files_called_so_are(embed: Run, archive: Path) -> None:
    Path("#h.hea").write_bytes((archive / "r00.hea").read_bytes().replace(b"r00", b"#h"))
    Path("#h.dat").write_bytes((archive / "r00.dat").read_bytes())
    listed = [f"{archive}/r00.hea", "# a comment", "", f"  {archive}/r01.hea  ", "#h.hea"]
    Path("l.txt").write_bytes(codecs.BOM_UTF8 + "\r\n".join(listed).encode())
    embed("--paths-from", "l.txt", "--out", "f.npz")
    with np.load("f.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == [f"{archive}/r00.hea", f"{archive}/r01.hea", "#h.hea"]


def test_a_table_of_labels_is_no_recording_and_the_way_to_its_paths_is_said(
    embed: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.csv").write_text("path,label\nr00.hea,NORM\nr01.hea,MI\n")
    assert embed("labels.csv", "--out", "f.npz") == 2
    assert "--paths-from FILE" in capsys.readouterr().err


def test_checksums_are_compared_when_that_is_asked_for(embed: Run, archive: Path) -> None:
    text = (archive / "r00.hea").read_text()
    first = text.splitlines()[1].split()
    Path("r00.hea").write_text(text.replace(" ".join(first), " ".join([*first[:6], "12345", *first[7:]]), 1))
    Path("r00.dat").write_bytes((archive / "r00.dat").read_bytes())
    assert embed("r00.hea", "--out", "f.npz") == 0
    assert embed("r00.hea", "--out", "g.npz", "--verify-checksums") == 1


def test_a_file_that_another_run_wrote_meanwhile_is_left_alone(embed, sound, monkeypatch, tmp_path, capsys) -> None:
    began = run_folders.UnfinishedRun.__enter__

    def enter(unfinished: run_folders.UnfinishedRun) -> run_folders.UnfinishedRun:
        (tmp_path / "out.npz").write_text("of another run")
        return began(unfinished)

    monkeypatch.setattr(run_folders.UnfinishedRun, "__enter__", enter)
    assert embed(sound, "--out", "out.npz") == 2
    assert "'out.npz' exists" in capsys.readouterr().err
    assert (tmp_path / "out.npz").read_text() == "of another run"
    assert not (tmp_path / "out.npz.partial").exists()


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_may_be_in_any_encoding_that_tables_are_read_in(mark: str, embed: Run, archive: Path) -> None:
    for ending in (".hea", ".dat"):
        Path(f"é{ending}").write_bytes((archive / f"r00{ending}").read_bytes().replace(b"r00", "é".encode()))
    Path("l.txt").write_bytes(f"é.hea\r\n{archive}/r01.hea\r\n".encode(mark))
    assert embed("--paths-from", "l.txt", "--out", "f.npz") == 0
    with np.load("f.npz", allow_pickle=False) as stored:
        assert stored["paths"].tolist() == ["é.hea", f"{archive}/r01.hea"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.hea\n#" + b"x" * 5000 + b"\n" + b"x" * 5000, "Got 5,000 characters in line 3 of --paths-from 'l.txt'"),
        (codecs.BOM_UTF16_LE + b"a", "which begins as UTF-16 and is none"),
    ],
)
def test_a_list_that_is_none_is_refused_before_anything_is_embedded(
    content: bytes, message: str, embed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("l.txt").write_bytes(content)
    assert embed("--paths-from", "l.txt", "--out", "f.npz") == 2
    assert message in last_line(capsys)
    assert [path.name for path in Path().iterdir()] == ["l.txt"]
