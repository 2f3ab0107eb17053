"""Measure the numbers of the pages again, and write them there or fail where they differ.

``python packaging/figures.py [--full] [--write] [--only NAME|fast|slow ...] [--data FOLDER] [--list]`` measures what
takes up to a minute or two; all with ``--full``. First it compares every measured number of the pages with those kept
in ``ledger.json``, which has what nobody measures again for each release (see ledger.py; ``--keep`` writes it).
``figures.toml`` says where each number stands, what measures it and how far it may move:

- ``page`` and ``pattern``: a regular expression with a group for each number, which occurs once on the page; ``{n}``
  stands for a group of a number, ``{_}`` for a number that is not asked for;
- ``command``: run in the repository's root; ``{data}`` is --data, ``{out}`` an empty folder, ``{python}`` this Python;
- ``found``: regular expressions on what the command prints, with as many groups together, or for each number a path of
  keys in ``json``, a file of the command: ``rows[name=skecg-xs-5&fraction=0.1].score``, ``rows."random
  convolutions".score``;
- ``tolerance``: the least difference, relative to the page's number, that is one. Besides, what rounds to the page's
  number is no difference;
- ``slow = true``: takes more than a minute; ``hours = true``: hours, and is measured where it is named alone.

At the end it counts where the numbers of the pages are from, and names the sections of those that nothing measures.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import ledger

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = Path(__file__).with_name("figures.toml")
LEDGER = Path(__file__).with_name("ledger.json")


@dataclass(frozen=True)
class Figure:
    """Numbers of a page, and what measures them."""

    name: str
    page: str
    pattern: str
    command: str
    found: list[str]
    json: str | None = None
    tolerance: float = 0.0
    slow: bool = False
    hours: bool = False

    @property
    def speed(self) -> str:
        """Return how long it takes: fast, slow or hours."""
        return "hours" if self.hours else "slow" if self.slow else "fast"


class FigureError(Exception):
    """A figure that cannot be compared: its page or its command says no such number."""


def main(
    arguments: list[str] | None = None, *, root: Path = ROOT, registry: Path = REGISTRY, kept: Path = LEDGER
) -> int:
    """Compare the figures asked for; return how many differ, or cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what was measured into the pages")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="names, fast, slow or hours")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="packed data sets, for figures that need them")
    parser.add_argument("--list", action="store_true", help="name the figures, measure nothing")
    parser.add_argument("--full", action="store_true", help="measure the slow ones, too")
    parser.add_argument("--keep", action="store_true", help="take the numbers of the pages over into the ledger")
    given = parser.parse_args(arguments)
    if given.keep:
        ledger.keep(root, kept)
    unkept = ledger.differences(root, kept)
    for difference in unkept:
        print(f"DIFFERS  {difference}", flush=True)
    n_bad = len(unkept)
    outputs: dict[str, Output] = {}
    only = given.only or (
        ["fast", "slow", *(["hours"] if given.list else [])] if given.full or given.list else ["fast"]
    )
    for figure in [] if given.keep else chosen(read_registry(registry), only):
        if given.list:
            print(f"{figure.name:<28} {figure.page:<40} {figure.speed}")
            continue
        try:
            page = root / figure.page
            stated = find_stated(figure, page.read_text(encoding="utf-8"))
            if figure.command not in outputs:
                outputs[figure.command] = run(figure.command, given.data, root)
            measured = [n for where in figure.found for n in outputs[figure.command].numbers(figure, where)]
            if len(measured) != len(stated):
                raise FigureError(f"it finds {len(measured)} numbers, its pattern {len(stated)}")
        except FigureError as error:
            n_bad += 1
            print(f"FAILS    {figure.name}: {error}", flush=True)
            continue
        moved = [differs(old, new, figure.tolerance) for old, new in zip(stated, measured, strict=True)]
        pairs = ", ".join(f"{old} -> {new:g}" for old, new in zip(stated, measured, strict=True))
        if any(moved) and given.write:
            write(figure, page, measured)
        n_bad += any(moved) and not given.write
        state = ("written" if given.write else "DIFFERS") if any(moved) else "holds"
        print(f"{state:<8} {figure.name} ({figure.page}): {pairs}", flush=True)
    if given.write and not unkept:
        ledger.keep(root, kept)
    if not given.list:
        print(ledger.account(root, kept, read_measured(read_registry(registry), root)))
    return n_bad


def read_registry(path: Path) -> list[Figure]:
    """Read what is measured."""
    figures = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["figure"]:
        found = entry["found"] if "json" in entry else [_expand(where) for where in entry["found"]]
        figures.append(Figure(**entry | {"pattern": _expand(entry["pattern"]), "found": found}))
    for figure in figures:
        n_found = len(figure.found) if figure.json else sum(re.compile(where).groups for where in figure.found)
        if re.compile(figure.pattern).groups != n_found:
            raise FigureError(f"{figure.name} has {n_found} numbers to find and another number of groups.")
    return figures


def _expand(pattern: str) -> str:
    """Return a pattern with its numbers written out."""
    number = r"[-+]?\d[\d,]*(?:\.\d+)?"
    return pattern.replace("{n}", f"({number})").replace("{_}", number)


def read_measured(figures: list[Figure], root: Path) -> dict[tuple[str, str], list[str]]:
    """Return for each page and section the numbers that some figure measures."""
    spans = {
        (figure.page, found.span(group))
        for figure in figures
        for found in re.finditer(figure.pattern, (root / figure.page).read_text(encoding="utf-8"))
        for group in range(1, len(found.groups()) + 1)
    }
    measured: dict[tuple[str, str], list[str]] = {}
    for page, (begin, end) in sorted(spans):
        text = (root / page).read_text(encoding="utf-8")
        measured.setdefault((page, ledger.title_at(root / page, begin)), []).append(text[begin:end].lstrip("+-"))
    return measured


def chosen(figures: list[Figure], only: list[str]) -> list[Figure]:
    """Return the figures of these names or speeds."""
    known = {figure.name for figure in figures} | {"fast", "slow", "hours"}
    if unknown := set(only) - known:
        raise SystemExit(f"Got --only {' '.join(sorted(unknown))}, expected some of {', '.join(sorted(known))}.")
    return [f for f in figures if f.name in only or f.speed in only]


def find_stated(figure: Figure, text: str) -> tuple[str, ...]:
    """Return the numbers as the page has them."""
    found = list(re.finditer(figure.pattern, text))
    if len(found) != 1:
        raise FigureError(f"its pattern occurs {len(found)} times on {figure.page}, expected once")
    return found[0].groups()


@dataclass(frozen=True)
class Output:
    """What a command printed, and the files it left."""

    text: str
    files: dict[str, Any]

    def numbers(self, figure: Figure, where: str) -> list[float]:
        """Return the numbers of a figure that are at a place."""
        if figure.json is not None:
            return [float(self._at(figure.json, where))]
        found = list(re.finditer(where, self.text, flags=re.MULTILINE))
        if len(found) != 1:
            raise FigureError(f"{where!r} occurs {len(found)} times in what `{figure.command}` printed, expected once")
        return [float(number.replace(",", "")) for number in found[0].groups()]

    def _at(self, file: str, where: str) -> Any:
        try:
            value = self.files[file]
            for key, name, chosen_by in re.findall(r'([\w-]+)|"([^"]+)"|\[([^\]]+)\]', where):
                if chosen_by:
                    wanted = [pair.split("=") for pair in chosen_by.split("&")]
                    value = next(row for row in value if all(str(row[field]) == text for field, text in wanted))
                else:
                    value = value[int(key)] if isinstance(value, list) else value[key or name]
        except (KeyError, IndexError, StopIteration, ValueError, TypeError) as error:
            raise FigureError(f"{file} has no {where} ({error!r})") from error
        return value


def run(command: str, data: Path | None, root: Path) -> Output:
    """Run a command and keep what it printed and its JSON files."""
    if "{data}" in command and data is None:
        raise FigureError("it needs data: pass --data FOLDER")
    with tempfile.TemporaryDirectory() as out:
        words = [word.format(data=data, out=out, python=sys.executable) for word in shlex.split(command)]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FigureError(f"`{command}` failed: {done.stderr.strip()[-300:]}")
        files = {str(path.relative_to(out)): json.loads(path.read_text()) for path in Path(out).rglob("*.json")}
    return Output(done.stdout, files)


def n_decimals(number: str) -> int:
    """Return how many digits a number has behind its point."""
    return len(number.partition(".")[2])


def differs(stated: str, measured: float, tolerance: float) -> bool:
    """Tell whether a measured number is another one than the page's."""
    old = float(stated.replace(",", ""))
    rounding = 0.5 * 10.0 ** -n_decimals(stated)
    return abs(measured - old) > max(rounding * (1 + 1e-9), tolerance * abs(old))


def write(figure: Figure, page: Path, measured: list[float]) -> None:
    """Put the numbers in the places of the old ones, with as many decimals, their commas and signs."""
    text = page.read_text(encoding="utf-8")
    found = re.search(figure.pattern, text)
    assert found is not None
    groups = range(len(measured), 0, -1)
    # Where any number of a figure has a plus, a negative one that is positive now gets one, too.
    signed = any(found[group][0] == "+" for group in groups)
    for group in groups:
        old, (begin, end) = found[group], found.span(group)
        # z: what rounds to zero has no minus.
        style = ("+" if old[0] == "+" or (signed and old[0] == "-") else "") + "z" + ("," if "," in old else "")
        text = f"{text[:begin]}{measured[group - 1]:{style}.{n_decimals(old)}f}{text[end:]}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main() != 0)
