"""What README and documentation show is true: their code runs, their commands and files exist."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import re
import shlex
import sys
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import sklearn

import skecg
from pretraining.__main__ import _parse as parse_pretraining
from pretraining.recipes import RECIPES, load_recipe
from skecg import errors, list_models
from skecg.cli import _parser, main
from skecg.errors import ParameterError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.rst")), *sorted((ROOT / "docs" / "api").glob("*.rst"))]

RST_BLOCK = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
MARKDOWN_BLOCK = re.compile(r"^()```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE_COMMAND = re.compile(r"`{1,2}((?:skecg|make) [a-z][^`]*)`")


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    pattern = MARKDOWN_BLOCK if page.suffix == ".md" else RST_BLOCK
    return [
        Block(match[2], textwrap.dedent(match[3]).strip() + "\n", text[: match.start()].count("\n") + 1)
        for match in pattern.finditer(text)
    ]


def extension(name: str) -> ModuleType:
    """Import a module of the documentation, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "extensions" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


bench = extension("bench")
troubles = extension("troubles")


PAGES_WITH_CODE = [page for page in PAGES if {block.language for block in blocks_of(page)} & {"python", "pycon"}]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.stem == "inputs" and tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        pytest.skip("before 1.8, scikit-learn's scorers do not route metadata to transform")
    blocks = blocks_of(page)
    names = bench.lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKECG_CACHE", str(tmp_path / "user-cache"))
    printed = ""
    for block in blocks:
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(code, names)
            printed = said.getvalue()
        elif block.language == "pycon":
            check_dialogue(block, names, page)
        elif block.language == "text":
            assert block.text == printed, f"{page.name}:{block.line} shows what the code above it does not print"


def check_dialogue(block: Block, names: dict[str, object], page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, names, page.stem, str(page), block.line)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=said.append, clear_globs=False
    )
    assert not said, "".join(said)
    names.update(test.globs)


def commands_of(page: Path) -> list[list[str]]:
    texts = [block.text.replace("\\\n", " ") for block in blocks_of(page) if block.language == "bash"]
    lines = [line for text in texts for line in text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_ones_that_exist(page: Path) -> None:
    inline = [words.split() for words in INLINE_COMMAND.findall(page.read_text(encoding="utf-8"))]
    for command, *arguments in commands_of(page):
        if command == "skecg":
            accept(arguments)
        elif "pretraining" in arguments:
            accept_pretraining(arguments)
        else:
            assert command in ("make", "pip", "git", "python", "openssl", "ecgbench"), command
            inline.append([command, *arguments])
    for command, *arguments in inline:
        if command == "skecg":
            look_up(arguments)
        elif command == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), arguments


def accept(arguments: list[str]) -> None:
    """Parse a whole command as the command line does."""
    if arguments == ["--version"]:
        return
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            _parser().parse_args(arguments)
        except SystemExit as end:
            raise AssertionError(f"{arguments}: {said.getvalue()}") from end


def accept_pretraining(arguments: list[str]) -> None:
    """Parse what stands behind ``-m pretraining`` as the trainer does, its changes to the recipe too."""
    place = arguments.index("pretraining")
    assert arguments[place - 1] == "-m"
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            read = parse_pretraining(arguments[place + 1 :])
        except SystemExit as end:
            raise AssertionError(f"{arguments}: {said.getvalue()}") from end
    load_recipe(getattr(read, "recipe", None) or "tiny").override(getattr(read, "overrides", []))


def look_up(arguments: list[str]) -> None:
    """Ask for the help of a command mentioned in a sentence, and find its options there."""
    verbs = [word for word in arguments if re.fullmatch("[a-z]+", word)]
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        main([*verbs, "--help"])
    assert end.value.code == 0, arguments
    for option in (word for word in arguments if word.startswith("--")):
        assert option in said.getvalue(), arguments


def test_code_and_commands_are_found_on_the_pages() -> None:
    assert len(PAGES_WITH_CODE) >= 8
    assert ["skecg", "cache", "clear", "--yes"] in commands_of(ROOT / "docs" / "command_line.rst")
    assert ["make", "demo"] in commands_of(README)


@pytest.mark.parametrize("arguments", [["embed", "x"], ["convert", "nobody", "a", "b"], ["cache", "info", "--fast"]])
def test_a_command_that_does_not_exist_would_be_noticed(arguments: list[str]) -> None:
    with pytest.raises(AssertionError):
        accept(arguments)


@pytest.mark.parametrize("wrong", ["train --fast", "trian --recipe tiny", "train optim.lrr=1", "export --out w"])
def test_a_command_of_the_trainer_that_does_not_exist_would_be_noticed(wrong: str) -> None:
    with pytest.raises((AssertionError, ParameterError)):
        accept_pretraining(["-m", "pretraining", *wrong.split()])


def test_fields_that_the_guide_names_are_those_of_the_configuration() -> None:
    text = (ROOT / "docs" / "pretraining.rst").read_text(encoding="utf-8")
    recipes = [load_recipe(name).to_dict() for name in RECIPES]
    named = re.findall(r"``(masks|objective|optim|ema|data|run|watch)\.(\w+)", text)
    assert len(named) > 10
    assert [f"{part}.{field}" for part, field in named if not any(field in (r[part] or {}) for r in recipes)] == []


def test_every_error_and_warning_is_met_and_gives_its_message() -> None:
    for message in troubles.messages(troubles.TROUBLES):
        assert len(message) > 30
        assert tempfile.gettempdir() not in message


def test_every_kind_of_error_and_warning_has_a_cure() -> None:
    parents = {"SkecgError", "SkecgWarning", "WeightsError"}  # never raised themselves
    assert {trouble.kind for trouble in troubles.TROUBLES} == set(errors.__all__) - parents


def test_readme_points_to_files_and_pages_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"`python ((?:examples|docs)/[\w./]+\.py)`", text))
    named |= set(re.findall(r"github\.com/skecg/skecg/blob/main/([^)\s]+)", text))
    named |= set(re.findall(r"raw\.githubusercontent\.com/skecg/skecg/main/([^)\s]+)", text))
    named |= {f"docs/{page}.rst" for page in re.findall(r"skecg\.github\.io/skecg/([\w/]+)\.html", text)}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_readme_has_no_link_that_breaks_on_an_index_page() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_readme_shows_the_score_of_the_default() -> None:
    name, entry = next((name, entry) for name, entry in list_models().items() if entry.get("default"))
    (value, low, high), *_ = entry["scores"].values()
    assert f"| **{name}**, which comes with skecg | **{value:.3f}** ({low:.3f} to {high:.3f}) |" in README.read_text()


@pytest.mark.parametrize("package", ["skecg", "pretraining"])
def test_contributing_names_every_room(package: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {word.removeprefix("pretraining/").rstrip("/") for word in re.findall(r"`([\w/]+)`", text)}
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    rooms |= {path.stem for path in (ROOT / package).glob("[!_]*.py")}
    assert rooms - named == set()


def test_readme_opens_with_a_sentence_and_the_two_commands() -> None:
    title, sentence, *_ = README.read_text(encoding="utf-8").split("\n\n")
    assert title == "# skecg"
    assert sentence.count(".") == 1
    assert blocks_of(README)[0].text.split()[:2] == ["make", "demo"]


def test_the_default_is_trained_and_its_card_says_on_what_and_how_well() -> None:
    name, entry = next((name, entry) for name, entry in list_models().items() if entry.get("default"))
    card = (ROOT / "skecg" / entry["bundled"] / "README.md").read_text(encoding="utf-8")
    assert entry["trained"]
    for archive, licence in entry["data_licences"].items():
        assert f"| {archive} | {licence} |" in card
    (value, low, high), *_ = entry["scores"].values()
    assert f"| {value:.3f} | 95 % interval {low:.3f} to {high:.3f} |" in card
    for words in ("Research use only", "Leakage", "Where it is weak", f"skecg verify {name}", entry["sha256"]):
        assert words in card


def test_the_default_is_small() -> None:
    entry = next(entry for entry in list_models().values() if entry.get("default"))
    encoder, spec = skecg.load_encoder("default")
    folder = ROOT / "skecg" / entry["bundled"]
    assert (folder / "model.safetensors").stat().st_size < 12e6
    assert sum(file.stat().st_size for file in folder.iterdir()) < 15e6
    assert encoder.config.flops(spec.window_samples // encoder.config.patch_samples) < 1e9


def test_untrained_weights_are_called_so() -> None:
    for name, entry in list_models().items():
        card = (ROOT / "skecg" / entry["bundled"] / "README.md").read_text(encoding="utf-8")
        assert ("This encoder is untrained" in card) is not entry["trained"] is ("untrained" not in name)


def test_readme_and_every_page_of_the_documentation_say_research_use_only() -> None:
    footer = (ROOT / "docs" / "_templates" / "research-use.html").read_text(encoding="utf-8")
    for text in (footer, README.read_text(encoding="utf-8")):
        assert "Research use only." in text
        assert "not a medical device" in text
    assert '"research-use"' in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
