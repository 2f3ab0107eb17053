"""Every measured number of the pages, section by section, with what measured it: ``ledger.json``.

Numbers that take hours cannot be measured again for every release. They are kept here, apart from the pages: a page
whose numbers differ from those kept fails ``make figures`` and the tests. A number counts as measured where it has
decimals, stands in a table, or is followed by a unit of time, memory or share. Code is left out.

A section of a page has ``by``, from where its numbers are: a command that prints them; ``log`` for docs/log.md, which
has the measurement; ``published`` for numbers of others, whose paper the page names; ``set`` for numbers that were
chosen, counted or are arithmetic. A section of the last kind alone is named here and not compared. A new section with
numbers fails until it is here. ``python packaging/figures.py --keep`` takes over the numbers of the pages: read the
difference before you commit it.

Where a section has numbers of several kinds, ``of`` says which are not a command's: ``{"set": "10 12"}``. What neither
``figures.toml`` measures nor ``of`` explains needs ``why``: the reason that no release measures it again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

PAGES = ("README.md", "docs/*.rst", "skecg/pretrained/*/README.md")
EXEMPT = ["set"]
KINDS = ("python", "skecg", "make", "log", "published", "set")
#: What is no command, and how the account calls it.
SOURCES = {
    "published": "published by others",
    "set": "chosen, counted or arithmetic",
    "log": "of the log's history",
    "repeated": "repeated from where they are measured",
}

_CODE = re.compile(r"^```.*?^```$|``[^`]+``|`[^`]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
_RST_CODE = re.compile(r"^( *)\.\. (?:code-block|image|only)::.*\n(?:\1 +.*\n|\n)*", re.MULTILINE)
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_RST_TITLE = re.compile(r"^(\S.*)\n(?:={3,}|-{3,})$", re.MULTILINE)
_MARKDOWN_TITLE = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(r"^ +:[\w-]+:.*\n", re.MULTILINE)
_NUMBER = r"(?<![\w.-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,-]\d)"
_MEASURED = re.compile(
    r"(?<![\w.])\d+(?:,\d{3})*\.\d+(?!\w|\.\d)"
    rf"|{_NUMBER}(?= (?:%|ms|µs|microseconds|MB|MiB|GB|GiB|kB|core|seconds|minutes|hours|million|times)\b|\s%)"
)


def sections(page: Path) -> dict[str, str]:
    """Return the text under each title of a page, without code."""
    text = page.read_text(encoding="utf-8")
    is_markdown = page.suffix == ".md"
    text = _FRONT.sub("", text) if is_markdown else _OPTION.sub("", _RST_CODE.sub("", text))
    text = _CODE.sub("", text)
    titles = list((_MARKDOWN_TITLE if is_markdown else _RST_TITLE).finditer(text))
    ends = [title.start() for title in titles[1:]] + [len(text)]
    found: dict[str, str] = {}
    for title, end in zip(titles, ends, strict=False):
        found[title[1]] = found.get(title[1], "") + text[title.end() : end]
    return found


def numbers(text: str) -> list[str]:
    """Return the measured numbers of a text, sorted: what is told in another order is the same."""
    cells, prose = _tables(text)
    found = [number for cell in cells for number in re.findall(_NUMBER, cell)]
    return sorted(found + _MEASURED.findall(prose))


def _tables(text: str) -> tuple[list[str], str]:
    """Divide a text into lines of tables and the others."""
    inside, simple, cells, prose = False, False, [], []
    for line in text.splitlines():
        if re.match(r"=+  +=", line):
            simple = True
        inside = line.startswith(".. list-table::") or (inside and (not line or line.startswith(" ")))
        is_cell = line.startswith("|") or simple or (inside and not line.startswith("."))
        (cells if is_cell else prose).append(line)
        simple = simple and bool(line)
    return cells, "\n".join(prose)


def read_pages(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return the measured numbers of every page and section that has some."""
    found: dict[str, dict[str, list[str]]] = {}
    for page in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        named = {title: stated for title, text in sections(page).items() if (stated := numbers(text))}
        if named:
            found[page.relative_to(root).as_posix()] = named
    return found


def differences(root: Path, ledger: Path) -> list[str]:
    """Return what the pages state otherwise than the ledger, or without it."""
    kept = json.loads(ledger.read_text(encoding="utf-8"))
    stated = read_pages(root)
    said = []
    for page, title in sorted({(p, t) for book in (kept, stated) for p, named in book.items() for t in named}):
        entry, on_page = kept.get(page, {}).get(title, {}), Counter(stated.get(page, {}).get(title, []))
        if entry.get("by") == EXEMPT:
            continue
        if not entry.get("by"):
            said.append(
                f'{page}, "{title}": nothing says what measured {on_page.total()} numbers; write "by" into the ledger'
            )
        in_ledger = Counter(entry.get("numbers", "").split())
        if on_page != in_ledger:
            more, fewer = " ".join((on_page - in_ledger).elements()), " ".join((in_ledger - on_page).elements())
            said.append(f'{page}, "{title}": the page has {more or "nothing"} where {fewer or "nothing"} was measured')
    return said


def title_at(page: Path, place: int) -> str:
    """Return the title of the section of a page that has a place of its text."""
    text = page.read_text(encoding="utf-8")
    begins = {}
    for title in sections(page):
        found = re.search(rf"^(?:#+ )?{re.escape(title)}$", text, re.MULTILINE)
        if found and found.start() <= place:
            begins[found.start()] = title
    return begins[max(begins)] if begins else ""


def unmeasured(
    root: Path, ledger: Path, measured: dict[tuple[str, str], list[str]]
) -> tuple[Counter[str], dict[tuple[str, str], list[str]]]:
    """Return how many numbers are from where, and for each section those that nothing explains."""
    kept = json.loads(ledger.read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    left: dict[tuple[str, str], list[str]] = {}
    for page, named in read_pages(root).items():
        for title, stated in named.items():
            entry = kept.get(page, {}).get(title, {})
            again = Counter(stated) & Counter(measured.get((page, title), []))
            counts["measured"] += again.total()
            rest = Counter(stated) - again
            of = {kind: Counter(some.split()) for kind, some in entry.get("of", {}).items()}
            if len(entry.get("by", [])) == 1 and entry["by"][0] in SOURCES:
                of = {entry["by"][0]: rest}
            for kind, some in of.items():
                counts[kind] += (rest & some).total()
                rest -= some
            if rest:
                counts["unmeasured"] += rest.total()
                left[page, title] = sorted(rest.elements())
    return counts, left


def account(root: Path, ledger: Path, measured: dict[tuple[str, str], list[str]]) -> str:
    """Return in words where the numbers of the pages are from."""
    counts, left = unmeasured(root, ledger, measured)
    parts = [f"{counts[kind]:,} {words}" for kind, words in SOURCES.items()]
    lines = [
        f"{counts.total():,} numbers: {counts['measured']:,} measured by commands of figures.toml, {', '.join(parts)}, "
        f"{counts['unmeasured']:,} not measured again:"
    ]
    kept = json.loads(ledger.read_text(encoding="utf-8"))
    for (page, title), numbers_left in left.items():
        why = kept.get(page, {}).get(title, {}).get("why", "nothing says why")
        lines.append(f'{len(numbers_left):>5} {page}, "{title}": {why}')
    return "\n".join(lines)


def keep(root: Path, ledger: Path) -> None:
    """Write the numbers of the pages into the ledger; what measured them stays."""
    kept = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
    book: dict[str, dict[str, dict[str, object]]] = {}
    for page, named in read_pages(root).items():
        for title, stated in named.items():
            before = kept.get(page, {}).get(title, {})
            by = before.get("by", [])
            numbers_kept = {} if by == EXEMPT else {"numbers": " ".join(stated)}
            said = {key: before[key] for key in ("of", "why") if key in before}
            book.setdefault(page, {})[title] = {"by": by, **numbers_kept, **said}
    ledger.write_text(json.dumps(book, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
