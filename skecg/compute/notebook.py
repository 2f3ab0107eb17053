"""What notebooks show of records, tokens, models and estimators: tables and facts in HTML, nothing but text in them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HeldWeights", "html_facts", "html_table"]

_STYLE = 'style="text-align:left;padding:.1rem .7rem .1rem 0;vertical-align:top"'


def html_facts(title: str, facts: Mapping[str, str], below: str = "") -> str:
    """Return a title, facts by name, and what stands below them, which is HTML already."""
    rows = "".join(f"<tr>{_cell(name, 'th')}{_cell(value, 'td')}</tr>" for name, value in facts.items())
    return f"<div><strong>{html.escape(title)}</strong><table><tbody>{rows}</tbody></table>{below}</div>"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a line of names."""
    head = "".join(_cell(name, "th") for name in header)
    lines = "".join(f"<tr>{''.join(_cell(cell, 'td') for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(text: str, tag: str) -> str:
    return f"<{tag} {_STYLE}>{html.escape(text)}</{tag}>"


class HeldWeights:
    """Adds to scikit-learn's diagram of a fitted estimator which weights it holds."""

    def _held_weights(self) -> str | None:
        """Return a sentence, None before the fit."""
        raise NotImplementedError

    def _note(self) -> str:
        held = self._held_weights()
        return "" if held is None else f"<p>{html.escape(held)}</p>"

    def _repr_html_inner(self) -> str:
        shown: str = super()._repr_html_inner()  # type: ignore[misc]
        return shown + self._note()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] += self._note()
        return bundle
