"""Every example runs as it stands, in a folder of its own, and shows what it promises."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from examples import demo

pytestmark = pytest.mark.usefixtures("threads_as_before")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# The benchmark of the probe on data so small that it shows the objective only, not the speed.
RUN_PROBE = """
import runpy, sys
sys.argv += "--labels 3 --records 300 --features 20".split()
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run(folder: Path, code: str, argument: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
    environment |= {"SKECG_CACHE": str(folder / "user-cache"), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def output_of(name: str, folder: Path) -> str:
    """Run an example as a script that leaves nothing behind, here: starting Python takes most of the time."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setenv("SKECG_CACHE", str(folder / "user-cache"))
        patch.setattr(sys, "argv", [f"{name}.py"])
        plt.switch_backend("Agg")
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        print("axes of figures:", [len(plt.figure(number).axes) for number in plt.get_fignums()])
        plt.close("all")
    assert list(folder.iterdir()) == []
    # The gallery shows a picture of each.
    assert re.search(r"axes of figures: \[\d", output.getvalue()), output.getvalue()
    return output.getvalue()


def number_after(text: str, output: str) -> float:
    found = re.search(re.escape(text) + r"\s*([\d.]+)", output)
    assert found, output
    return float(found[1])


def test_every_example_has_a_test() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert len(names) >= 5
    assert [name for name in names if f'"{name}"' not in tested and name != "demo"] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_begins_as_the_gallery_wants(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == '"""'
    assert lines[2] == "=" * len(lines[1])


def test_arrays_become_named_features_whatever_their_lead_order_and_unit(tmp_path: Path) -> None:
    output = output_of("embed_arrays", tmp_path)
    assert "features: (6, 1188) float32" in output
    assert "jepaembedder0  jepaembedder1" in output
    assert "same features from swapped leads in microvolts: True" in output
    assert "tokens: (100, 396)" in output


def test_a_damaged_file_keeps_its_row_and_its_reason(tmp_path: Path) -> None:
    output = output_of("embed_files", tmp_path)
    assert "SignalWarning: 1 of 5 records could not be embedded" in output
    assert "features: (5, 1188) rows of NaN: [2]" in output
    assert "row 2: DamagedRecordError" in output
    assert "truncated" in output
    assert "kept: (4, 1188)" in output


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the example of cross-validation prints."""
    return output_of("cross_validate_patients", tmp_path_factory.mktemp("validation"))


def test_a_split_that_shares_patients_warns_and_scores_too_well(validation: str) -> None:
    assert number_after("\nKFold: accuracy", validation) > 0.75
    # Forty coins: an honest score lies within two standard deviations of one half.
    assert abs(number_after("StratifiedGroupKFold: accuracy", validation) - 0.5) < 2 * 0.5 / 40**0.5
    assert "LeakageWarning: Got a KFold" in validation
    assert "StratifiedGroupKFold: 0 patients on both sides, no warning" in validation


def test_all_splits_and_a_grid_search_embed_each_record_once(validation: str) -> None:
    found = re.search(r"cache: (\d+) recordings embedded of (\d+), (\d+) times found", validation)
    assert found, validation
    # Two cross-validations and a grid of three values transform all records in each of five folds, the refit once more.
    assert found[1] == found[2] == "160"
    assert int(found[3]) == 160 * (5 + 5 + 3 * 5 + 1) - 160


def test_neighbours_are_of_the_same_kind_more_often_than_by_chance(tmp_path: Path) -> None:
    output = output_of("nearest_ecgs", tmp_path)
    assert number_after("neighbours of the same kind:", output) > number_after("by chance", output) + 0.3
    assert "axes of figures: [4]" in output


def test_the_phase_that_makes_the_difference_is_worth_the_most(tmp_path: Path) -> None:
    output = output_of("explain", tmp_path)
    assert "LBBB: QRS is worth the most" in output
    assert "ST elevation: ST is worth the most" in output


@pytest.mark.slow
def test_waves_are_found_in_hearts_that_were_not_learned_from(tmp_path: Path) -> None:
    output = output_of("segment", tmp_path)
    assert number_after("F1 of unseen hearts:", output) > 0.9
    assert "labels: (9000,)" in output
    assert 40 < number_after("heart rate:", output) < 110


@pytest.mark.slow
def test_fine_tuning_learns_what_the_frozen_encoder_hardly_shows(tmp_path: Path) -> None:
    output = output_of("fine_tune", tmp_path)
    frozen, tuned = (number_after(f"{stage}: AUROC", output) for stage in ("frozen", "fine-tuned"))
    assert frozen > 0.6
    assert tuned > max(frozen + 0.1, 0.8)
    assert re.search(r"patients held out: \d, on both sides: 0\n", output)
    assert output.count("<- kept") == 1
    assert "same answers: True" in output
    assert "features of the trained encoder: (48, 1188)" in output


@pytest.mark.slow
def test_a_short_run_of_training_lowers_the_loss_and_exports_what_it_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole minute, of which the documentation shows the output, would be too long here.
    monkeypatch.setenv("PRETRAIN_STEPS", "60")
    output = output_of("pretrain_in_a_minute", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]
    assert losses[-1] < 0.9 * losses[0]
    assert "this machine agrees with the golden features" in output
    difference = re.search(r"differ from the trained encoder by ([\d.e+-]+)", output)
    assert difference, output
    assert float(difference[1]) < 1e-6
    for name in ("untrained", "weights"):
        assert number_after(f"\nmean+std of {name}: macro AUROC", output) > 0.6


def test_a_second_demo_embeds_nothing_and_gives_the_same_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("examples.demo.N_RECORDS", 50)  # fewer than it has for people
    printed = []
    for _ in range(2):
        demo.main()
        printed.append(capsys.readouterr().out)
    first, second = printed
    assert "0 of 50 were in the cache" in first
    assert "50 of 50 were in the cache" in second
    assert "Nothing was embedded in this run" in second
    assert number_after("accuracy", first) == number_after("accuracy", second) > 0.2
    assert "untrained" not in first
    assert (tmp_path / "demo_output" / "demo.png").stat().st_size > 10_000


def test_the_benchmark_of_the_probe_compares_solvers_at_the_same_objective(tmp_path: Path) -> None:
    output = run(tmp_path, RUN_PROBE, EXAMPLES / "benchmarks" / "logistic_probe.py")
    best = float(re.search(r"LogisticProbe(?: +[\d.]+ +1\.0){2} +([\d.]+)", output)[1])
    found = re.findall(r"OneVsRest (.+?)(?: +[\d.]+){4} +([\d.]+) +\S+ +\S+\n", output)
    assert [name for name, _ in found] == ["newton-cholesky", "newton-cg", "lbfgs, to the end", "lbfgs, as it comes"]
    for _, objective in found[:3]:
        assert abs(float(objective) / best - 1) < 1e-5


def test_an_atlas_is_one_page_with_neighbours_of_the_same_kind(tmp_path: Path) -> None:
    output = output_of("atlas", tmp_path)

    assert "90 recordings in one page" in output
    assert number_after("page of", output) < 1.0
    kinds = re.findall(r"distance .*  (\w+)$", output, re.MULTILINE)
    assert len(kinds) == 8
    assert len(set(kinds)) == 1
