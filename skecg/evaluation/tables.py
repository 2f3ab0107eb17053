"""Tables of text: the first line is the head, the first column is set left, the others right."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned", "markdown"]

Cells = Sequence[Sequence[str]]


def aligned(table: Cells) -> str:
    """Write a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def markdown(table: Cells) -> str:
    """Write a table in Markdown."""
    head, *rows = [[cell.replace("|", "\\|") for cell in cells] for cells in table]
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])
