from __future__ import annotations

import os
import subprocess
import sys

import pytest

import skecg
from skecg.cli import main

VERBS = [
    "embed",
    "fit",
    "predict",
    "explain",
    "score",
    "sign",
    "evaluate",
    "models",
    "verify",
    "convert",
    "export",
    "download",
    "publish",
    "cache",
    "atlas",
    "plot",
    "info",
]


HEAVY = ["numpy", "torch", "sklearn", "wfdb", "scipy", "pandas", "tqdm", "matplotlib", "huggingface_hub"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["models"], ["models", "--json"], *([verb, "--help"] for verb in VERBS)],
    ids=" ".join,
)
def test_questions_that_need_no_numbers_are_answered_without_what_computes_them(arguments: list[str]) -> None:
    code = f"""
import sys
from skecg.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_the_verbs_tested_here_are_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    lines = capsys.readouterr().out.partition("verbs:")[2].splitlines()
    assert {line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "} == set(VERBS)


def test_the_version_says_research_use_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])

    assert done.value.code == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"skecg {skecg.__version__}"
    assert second.startswith("Research use only.")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])

    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: skecg {verb}")


@pytest.mark.parametrize("arguments", [[], ["embbed"], ["embed"], ["cache", "clear"], ["plot", "--out", "x.png"]])
def test_arguments_that_make_no_sense_exit_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)

    assert done.value.code == 2
    assert "usage: skecg" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error() -> None:
    code = "from skecg.cli import main; exit(main(['info']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 0
    assert done.stderr == ""
