from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

import skecg
from skecg.embedding_cache import DiskCache

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
Capture = pytest.CaptureFixture[str]


# what no verb knows


@pytest.mark.parametrize(
    ("arguments", "usage", "said"),
    [
        (["atlas", "a.npz", "--quite"], "usage: skecg atlas ", "skecg atlas: error: unrecognized arguments: --quite\n"),
        (["atlas", "a.npz", "--labls=t.csv"], "usage: skecg atlas ", "(did you mean --labels?)"),
        (["cache", "info", "--foldr", "f"], "usage: skecg cache info ", "--foldr f (did you mean --folder?)"),
        (["convert", "kim", "a", "b", "c"], "usage: skecg convert kim ", "unrecognized arguments: c\n"),
    ],
)
def test_options_that_a_verb_does_not_know_are_refused_with_its_usage(arguments, usage, said, run, capsys) -> None:
    with pytest.raises(SystemExit) as refused:
        run(*arguments)

    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(usage)
    assert said in error


# models


def test_models_are_listed_with_what_they_are(run: Run, capsys: Capture) -> None:
    assert run("models") == 0

    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "name",
        "trained",
        "architecture",
        "features",
        "leads",
        "rate",
        "window",
        "licence",
        "size",
    ]
    names = [row.split()[0] for row in rows if not row.split()[0].endswith(":")]  # scores follow the table
    assert names == list(skecg.list_models())
    untrained = next(row for row in rows if row.startswith("untrained-temporal"))
    assert "NO, random weights" in untrained
    assert "temporal" in untrained
    assert "250 Hz" in untrained


def test_models_as_json_are_the_registry(run: Run, capsys: Capture) -> None:
    assert run("models", "--json") == 0

    assert json.loads(capsys.readouterr().out) == skecg.list_models()


# verify


def test_bundled_and_named_weights_verify(run: Run, capsys: Capture) -> None:
    assert run("verify", "--all") == 0
    assert run("verify") == 0
    assert run("verify", TINY) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(skecg.list_models()) + 2
    assert all("agrees with" in line for line in lines)


def test_features_that_differ_exit_with_one(run: Run, capsys: Capture) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(TINY, "weights")
    golden = load_file("weights/golden.safetensors")
    golden["features"] = golden["features"] + 0.01
    save_file(golden, "weights/golden.safetensors")

    assert run("verify", "weights") == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_weights_that_are_not_there_do_not_keep_others_from_verification(run: Run, capsys: Capture) -> None:
    assert run("verify", "defaullt", TINY) == 2

    captured = capsys.readouterr()
    assert "agrees with" in captured.out
    assert "Did you mean 'default'?" in captured.err


# convert


def test_a_foreign_checkpoint_is_refused_in_one_line(run: Run, capsys: Capture) -> None:
    Path("foreign.pth").write_bytes(b"no checkpoint at all")

    for origin in (["kim"], ["weimann", "--statistics", "mimic"]):
        assert run("convert", *origin, "foreign.pth", "out") == 2
        captured = capsys.readouterr().err
        assert captured.startswith("skecg: error: ")
        assert captured.count("\n") == 1
        assert "foreign.pth" in captured
    assert not Path("out").exists()


def test_conversion_options_reach_the_converters(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    import skecg.convert

    def report(file: str, folder: str, **options: object) -> str:
        return f"{file} {folder} {options}"

    monkeypatch.setattr(skecg.convert, "convert_kim", report)
    monkeypatch.setattr(skecg.convert, "convert_weimann", report)
    assert run("convert", "kim", "a.pth", "out", "--num-heads", "16") == 0
    assert run("convert", "weimann", "b.pt", "out", "--statistics", "ptb-xl", "--sha256", "ab12") == 0

    assert capsys.readouterr().out.splitlines() == [
        "a.pth out {'num_heads': 16, 'sha256': None}",
        "b.pt out {'statistics': 'ptb-xl', 'sha256': 'ab12'}",
    ]


# cache


@pytest.fixture
def filled() -> DiskCache:
    cache = DiskCache("store")
    cache.put({bytes([number]) * 32: np.full(256, number, dtype=np.float32) for number in range(10)})
    return cache


def test_the_cache_says_what_it_holds(run: Run, filled: DiskCache, capsys: Capture) -> None:
    assert run("cache", "info", "--folder", "store") == 0

    assert capsys.readouterr().out == f"{Path('store').absolute()}: 10 embeddings, 0.0 MiB\n"


@pytest.mark.parametrize("action", [["info"], ["clear", "--yes"], ["prune", "--max-mb", "1"]])
def test_asking_for_a_cache_does_not_make_one(action: list[str], run: Run, tmp_path: Path, capsys: Capture) -> None:
    assert run("cache", *action) == 0

    assert capsys.readouterr().out.startswith(f"{tmp_path / 'default-cache'}: no cache")
    assert not (tmp_path / "default-cache").exists()


@pytest.mark.parametrize("action", [["info"], ["clear", "--yes"], ["prune", "--max-mb", "1"]])
def test_a_folder_without_a_cache_is_left_as_it_is(action: list[str], run: Run, capsys: Capture) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    assert run("cache", *action, "--folder", "mine") == 0
    assert ": no cache" in capsys.readouterr().out
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]

    Path("mine/embeddings-v1.sqlite.damaged-1").touch()
    assert run("cache", "clear", "--yes", "--folder", "mine") == 0
    assert not Path("mine/embeddings-v1.sqlite.damaged-1").exists()


def test_clearing_forgets_everything_once_confirmed(run: Run, filled: DiskCache, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as refused:
        run("cache", "clear", "--folder", "store")
    assert refused.value.code == 2
    assert filled.info().entries == 10

    assert run("cache", "clear", "--yes", "--folder", "store") == 0
    assert filled.info().entries == 0
    assert "10 embeddings forgotten" in capsys.readouterr().out


def test_pruning_keeps_what_fits(run: Run, filled: DiskCache, capsys: Capture) -> None:
    assert run("cache", "prune", "--folder", "store", "--older-than-days", "1") == 0
    assert filled.info().entries == 10
    assert run("cache", "prune", "--folder", "store", "--max-mb", str(5.1 * 1056 / 2**20)) == 0

    assert filled.info().entries == 5
    assert "5 embeddings forgotten, 5 left" in capsys.readouterr().out


@pytest.mark.parametrize("limit", ["--max-mb", "--older-than-days"])
def test_a_limit_beyond_all_numbers_keeps_everything(limit: str, run: Run, filled: DiskCache, capsys: Capture) -> None:
    for number in ("1e20", "1e308"):
        assert run("cache", "prune", "--folder", "store", limit, number) == 0
        assert "0 embeddings forgotten, 10 left" in capsys.readouterr().out


@pytest.mark.parametrize("limits", [[], ["--max-mb=-1"], ["--older-than-days=nan"], ["--max-mb=inf"]])
def test_pruning_needs_a_limit(limits: list[str], run: Run, filled: DiskCache, capsys: Capture) -> None:
    assert run("cache", "prune", "--folder", "store", *limits) == 2
    assert "--max-mb or --older-than-days" in capsys.readouterr().err
    assert filled.info().entries == 10


# what is written in the end


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that takes no files from anybody")
@pytest.mark.parametrize("verb", ["fit", "score", "evaluate"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "which is a file"),
        ("round", "leads back to itself"),
        ("/proc/self/fd/new/model", "no file can be made there"),
        ("file/model", "no file can be made there"),
        ("dangling/model", "no file can be made there"),
    ],
)
def test_a_folder_that_could_not_be_written_is_refused_before_anything_is_read(
    verb: str, out: str, message: str, run: Run, capsys: Capture
) -> None:
    Path("file").write_text("mine")
    Path("round").symlink_to("round")
    Path("dangling").symlink_to("nowhere")
    data = ["--task", "rhythm", "--data", "absent"] if verb == "evaluate" else ["absent.csv", "--label-column", "label"]
    assert run(verb, "--model", TINY, *data, "--out", out) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "absent" not in said


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("round.png", "leads back to itself"),
        ("dangling.png", "/nowhere' is no folder"),
        ("pipe.png", "or a pipe"),
        (f"{'心' * 80}.png", "a name of 244 bytes, expected 240 at most"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_before_anything_is_read(
    out: str, message: str, run: Run, capsys: Capture
) -> None:
    Path("round.png").symlink_to("round.png")
    Path("dangling.png").symlink_to("nowhere/ecg.png")
    os.mkfifo("pipe.png")
    assert run("plot", "absent", "--out", out) == 2
    assert message in capsys.readouterr().err


# plot


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_recording_is_drawn(suffix: str, magic: bytes, run: Run, archive: Path) -> None:
    pytest.importorskip("matplotlib")

    assert run("plot", archive / "r00", "--out", f"ecg{suffix}", "--layout", "stacked") == 0
    assert Path(f"ecg{suffix}").read_bytes().startswith(magic)


def test_a_map_is_drawn_with_labels(run: Run, embed: Run, sound: str) -> None:
    pytest.importorskip("matplotlib")
    embed(sound, "--out", "f.npz")
    paths = np.load("f.npz")["paths"].tolist()
    Path("labels.csv").write_text("path,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(paths)))

    assert run("plot", "--map", "f.npz", "--labels", "labels.csv", "--out", "map.svg") == 0
    assert run("plot", "--map", "f.npz", "--out", "map.png") == 0
    assert "a (4)" in Path("map.svg").read_text()
    assert run("plot", "--map", "f.npz", "--keep-scales", "--out", "kept.png") == 0
    assert Path("kept.png").read_bytes() != Path("map.png").read_bytes()


def test_labels_that_are_missing_are_counted(run: Run, embed: Run, sound: str, capsys: Capture) -> None:
    embed(sound, "--out", "f.npz")
    Path("labels.csv").write_text("path,label\nelsewhere,a\n")

    assert run("plot", "--map", "f.npz", "--labels", "labels.csv", "--out", "map.svg") == 2
    assert "names none of the 8 recordings" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    paths = np.load("f.npz")["paths"].tolist()
    Path("labels.csv").write_text(f"path,label\n{paths[0]},a\n")
    assert run("plot", "--map", "f.npz", "--labels", "labels.csv", "--out", "map.svg") == 0
    assert "7 of 8 recordings are not in the table 'labels.csv'" in capsys.readouterr().err
    assert "(empty) (7)" in Path("map.svg").read_text()


def test_labels_of_a_map_are_found_by_the_name_of_their_column(
    run: Run, embed: Run, sound: str, capsys: Capture
) -> None:
    pytest.importorskip("matplotlib")
    embed(sound, "--out", "f.npz")
    paths = np.load("f.npz")["paths"].tolist()
    rows = [f"{k},{'xy'[k % 2]},{'ab'[k % 2] if k else ''},{path}" for k, path in enumerate(paths)]
    Path("t.csv").write_text("\n".join(["number,other,diagnosis,file", *rows]) + "\n")
    draw = ("plot", "--map", "f.npz", "--labels", "t.csv", "--out", "map.svg")

    assert run(*draw) == 2
    assert "Got --path-column 'path', expected one of 'number', 'other', 'diagnosis', 'file'" in capsys.readouterr().err
    assert run(*draw, "--path-column", "file") == 2
    assert "Got --label-column 'label', expected one of" in capsys.readouterr().err
    assert run(*draw, "--path-column", "file", "--label-column", "diagnosis") == 0
    drawn = Path("map.svg").read_text()
    assert "b (4)" in drawn
    assert "(empty) (1)" in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--out", "x.png"], "nothing"),
        (["nothing", "--out", "x.txt"], ".png, .svg, .pdf"),
        (["--map", "nothing.npz", "--out", "x.png"], "no file of features"),
        (["--map", "garbage.npz", "--out", "x.png"], "no file of features"),
        (["--map", "pickle.npz", "--out", "x.png"], "no file of features"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    arguments: list[str], message: str, run: Run, capsys: Capture
) -> None:
    Path("garbage.npz").write_bytes(b"garbage")
    np.savez("pickle.npz", features=np.array([{}], dtype=object), paths=np.array(["a"]))

    assert run("plot", *arguments) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["predict", "no-model", "no-record", "--force"], "x.csv"),
        (["plot", "no-record"], "x.png"),
        (["explain", "no-model", "no-record"], "x.pdf"),
        (["atlas", "no-features.npz"], "x.html"),
        (["export", "no-weights", "--chai", "--force"], "x.xml"),
    ],
)
def test_where_a_result_cannot_go_is_said_before_anything_else(
    command: list[str], name: str, run: Run, capsys: Capture
) -> None:
    option = "--to" if command[0] == "export" else "--out"
    Path(name).mkdir()
    assert run(*command, option, name) == 2
    assert f"Got {option} {name!r}, which is a folder; expected the name of a file." in capsys.readouterr().err
    assert run(*command, option, f"nowhere/{name}") == 2
    assert f"{name}', but 'nowhere' is no folder. Make it first." in capsys.readouterr().err


def test_what_finds_no_room_is_not_written_by_half(
    run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("matplotlib")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for command in (["plot", archive / "r00", "--out", "x.png"], ["export", TINY, "--chai", "--to", "x.xml"]):
        assert run(*command) == 2
        assert "Make room and run the same command again" in capsys.readouterr().err
    assert not list(Path().glob("*"))


# info


def test_info_names_every_dependency_and_imports_none() -> None:
    code = "import sys, skecg; skecg.show_versions(); print('torch' in sys.modules or 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    *lines, imported = done.stdout.splitlines()
    assert imported == "False"
    names = [line[:16].strip() for line in lines]
    assert {"skecg", "Python", "torch", "scikit-learn", "wfdb", "pyarrow", "embedding cache"} <= set(names)
    assert lines[0] == f"skecg            {skecg.__version__}"


def test_versions_print_where_they_are_told(run: Run, capsys: Capture) -> None:
    import io

    text = io.StringIO()
    skecg.show_versions(text)
    assert run("info") == 0

    assert text.getvalue() == capsys.readouterr().out


def test_the_speed_of_this_machine_is_measured_and_adds_up(
    run: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skecg.cli import info

    monkeypatch.setattr(info, "_N_RECORDS", 4)
    monkeypatch.setattr(info, "_SECONDS", 0.05)
    assert run("info", "--speed") == 0

    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["processor", "torch", "measured", "preparing", "fp32", "bf16"]
    preparing = float(lines["preparing"].split()[0])
    for precision in ("fp32", "bf16"):
        windows, each, hourly = (
            float(number.replace(",", "")) for number in re.findall(r"[\d,.]*\d", lines[precision])
        )
        assert each == pytest.approx(preparing + 1e3 / windows, rel=0.02, abs=0.02), "one window a record"
        assert hourly == pytest.approx(3.6e6 / each, rel=0.02)


def test_the_processor_is_named_where_the_system_describes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from skecg import versions

    monkeypatch.setattr(versions, "Path", lambda _: Path("no such file"))
    monkeypatch.setattr(versions.platform, "processor", lambda: "")
    assert versions.processor() == versions.platform.machine()


def test_a_package_that_is_not_installed_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from importlib import metadata

    def absent(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", absent)
    skecg.show_versions()

    assert "torch            MISSING" in capsys.readouterr().out


def test_an_interrupted_verb_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupt() -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("skecg.weights.list_models", interrupt)

    assert run("models") == 130
    assert capsys.readouterr().err == "skecg: interrupted\n"


@pytest.fixture
def terminable() -> Iterator[None]:
    """SIGTERM as a process has it that nobody has told otherwise."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_verb_that_sigterm_stops_says_so_and_exits_with_143(
    terminable: None, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def stop() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one does not interrupt the cleaning up
            Path("cleaned").touch()

    monkeypatch.setattr("skecg.weights.list_models", stop)

    assert run("models") == 143
    assert capsys.readouterr().err == "skecg: stopped\n"
    assert Path("cleaned").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_handles_sigterm_goes_on_to_and_threads_leave_it_alone(
    terminable: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []

    def hear(number: int, frame: object) -> None:
        heard.append(number)

    def raise_and_list() -> object:
        signal.raise_signal(signal.SIGTERM)
        return list_models()

    list_models = skecg.list_models
    with monkeypatch.context() as patch:
        patch.setattr("skecg.weights.list_models", raise_and_list)
        signal.signal(signal.SIGTERM, hear)
        assert run("models") == 0
    assert (heard, signal.getsignal(signal.SIGTERM)) == ([signal.SIGTERM], hear)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(run, "models").result() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
def test_a_worker_that_was_forked_ends_at_sigterm_as_it_would_have() -> None:
    code = """
import os, signal
from skecg.cli.console import ends_when_asked
with ends_when_asked():
    if (child := os.fork()) == 0:
        signal.raise_signal(signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_that_was_swallowed_is_heard_when_it_comes_again() -> None:
    code = """
import signal, time
from skecg.cli import console
console._MOMENT_SECONDS = 0.05
with console.ends_when_asked():
    try:
        signal.raise_signal(signal.SIGTERM)
    except console.Terminated:
        pass
    signal.raise_signal(signal.SIGTERM)
    print("still here", flush=True)
    time.sleep(0.1)
    signal.raise_signal(signal.SIGTERM)
    print("never")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "still here\n")


def test_a_message_of_several_lines_comes_as_one(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def fail() -> dict[str, object]:
        raise skecg.errors.WeightsError("No.\n  Not at all.")

    monkeypatch.setattr("skecg.weights.list_models", fail)

    assert run("models") == 2
    assert capsys.readouterr().err == "skecg: error: No. Not at all.\n"
