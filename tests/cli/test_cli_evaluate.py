"""``skecg evaluate``: the tables, the files, and what it refuses before it computes anything."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from skecg.cli import _parser
from skecg.datasets import make_ecg

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")
N_RECORDS = 54


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file of short recordings with PTB-XL's columns, in nine folds."""
    made = make_ecg(
        N_RECORDS, duration_seconds=4.0, sampling_rate=250, conduction=["normal", "lbbb"], noise=0.05, random_state=0
    )
    signals = np.stack([record.signal for record in made.records])
    classes = np.where(made.labels["conduction"] == "lbbb", "CD", "NORM")
    path = tmp_path_factory.mktemp("packed") / "made.npz"
    np.savez(
        path,
        signals=np.round(signals * 1000).astype(np.int16),
        lsb=0.001,
        units="mV",
        fs=250,
        leads=np.array(made.records[0].leads),
        record_ids=np.arange(N_RECORDS).astype(str),
        patient_ids=np.arange(N_RECORDS).astype(str),
        super_class=classes,
        strat_fold=np.arange(N_RECORDS) % 3 + 7,
    )
    return path


@pytest.fixture
def evaluate(run: Run, packed: Path) -> Run:
    """Run the command on the packed file with few resamples."""

    def call(*arguments: str) -> int:
        data = [] if "--data" in arguments else ["--data", str(packed)]
        common = ["--quiet", *data, "--resamples", "50", "--task", "superdiagnostic"]
        return run("evaluate", *common, *arguments)

    return call


def test_the_table_has_the_model_and_all_it_has_to_beat(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--model", TINY, "--fractions", "0.2,1,8", "--draws", "2") == 0

    out = capsys.readouterr().out
    for name in ("majority", "hand-crafted", "random convolutions", "untrained, shape of tiny-temporal"):
        assert f"\n{name} " in out
    assert "training folds 7-8, test fold 9" in out
    assert "8 records" in out
    assert "20 % (7 patients)" in out
    assert "Protocol: (a) pooled vector + logistic regression." in out
    assert "tiny-temporal minus this" in out


def test_the_report_says_how_to_do_it_again(evaluate: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert evaluate("--model", TINY, "--fractions", "1", "--out", str(tmp_path / "out"), "--layer=-2,-1") == 0

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    program, *words = shlex.split(report["run"]["command"])
    again = vars(_parser().parse_args(words))
    assert program == "skecg"
    assert again["model"] == [TINY]
    assert (again["task"], again["fractions"], again["resamples"]) == ("superdiagnostic", [1.0], 50)
    assert again["layer"] == [-2, -1]
    assert set(report["run"]["versions"]) == {"skecg", "torch", "numpy", "scikit-learn"}
    assert (tmp_path / "out" / "report.png").stat().st_size > 5000
    assert "layer [-2, -1]" in (tmp_path / "out" / "report.md").read_text()


def test_a_second_run_embeds_nothing_and_gives_the_same_scores(
    evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for name in ("first", "second"):
        where = str(tmp_path / name)
        assert evaluate("--model", TINY, "--fractions", "1", "--out", where, "--no-figure", "--cache", "./kept") == 0
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))

    assert [row["costs"]["n_from_cache"] for row in reports[0]["rows"]] == [0] * 5
    assert [row["costs"]["n_from_cache"] for row in reports[1]["rows"]] == [0] + [N_RECORDS] * 4
    for one, other in zip(*(report["rows"] for report in reports), strict=True):
        assert one["by_fraction"] == other["by_fraction"]
    assert not (tmp_path / "first" / "report.png").exists()


def test_a_data_set_in_two_files_is_one(
    evaluate: Run, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(packed) as file:
        arrays = {key: file[key] for key in file.files}
    files = []
    for name, chosen in (("train", arrays["strat_fold"] < 9), ("test", arrays["strat_fold"] == 9)):
        files.append(tmp_path / f"{name}.npz")
        np.savez(files[-1], **{k: v[chosen] if np.shape(v)[:1] == (N_RECORDS,) else v for k, v in arrays.items()})
    both = [word for file in files for word in ("--data", str(file))]

    tables = []
    for data in ([], both):
        assert evaluate("--model", TINY, "--fractions", "1", *data) == 0
        tables.append(capsys.readouterr().out)

    areas = [
        next(line.split()[:3] for line in table.splitlines() if line.startswith(TINY.split("/")[-1]))
        for table in tables
    ]
    assert areas[0] == areas[1]
    assert "train + test" in tables[1]


def test_several_models_are_rows_of_one_table(evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--model", TINY, "--model", "untrained-temporal", "--fractions", "1") == 0

    assert "\nuntrained-temporal " in capsys.readouterr().out


def test_the_attention_head_is_another_protocol(
    evaluate: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skecg.evaluation.attention_protocol import AttendedProtocol

    monkeypatch.setattr("skecg.evaluation.attention_protocol.AttendedProtocol", lambda: AttendedProtocol(n_steps=20))
    assert evaluate("--model", TINY, "--fractions", "1", "--protocol", "attention") == 0

    assert "Protocol: (b) frozen encoder + attention-pooling head" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "superdiagnostics"], "Did you mean 'superdiagnostic'?"),
        (["--task", "all"], "Choose a task of these data: superdiagnostic, superclass-single"),
        (["--data", "."], "which holds nothing; expected the folder of PTB-XL"),
        (["--data", "nowhere"], "which does not exist"),
        (["--model", "./nothing"], "nothing"),
        (["--test-fold", "3"], "test fold 3, which holds no record of this task; expected one of 7, 8, 9"),
        (["--protocol", "finetune"], "expected pooled or attention"),
        (["--cache", "memory"], "would not outlive"),
        (["--draws", "0"], "0 draws"),
        (["--resamples", "0"], "0 resamples, expected 10 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(
    arguments: list[str], message: str, evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--model", TINY, "--fractions", "0.5", *arguments) == 2

    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("wrong", ["0", "2.5", "some", "0.1,-1"])
def test_shares_that_are_none_exit_with_two(wrong: str, evaluate: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        evaluate("--model", TINY, "--fractions", wrong)

    assert done.value.code == 2
    assert "expected shares above 0" in capsys.readouterr().err
