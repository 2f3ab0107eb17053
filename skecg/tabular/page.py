"""A report as one page that opens anywhere: tables, curves and the worst errors, its pictures drawn in the page itself.

Nothing comes from elsewhere, so that the page can be sent, and read without a network. Its one script sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import SkecgError
from skecg.evaluation.regression import RegressionScores, regression_cells
from skecg.evaluation.report import (
    Report,
    Tested,
    calibration_table,
    fraction_table,
    geometry_table,
    label_table,
    notes_of,
    score_table,
)
from skecg.plotting.results import PALETTE
from skecg.preprocessing.resampling import resample
from skecg.preprocessing.signals import fill_gaps
from skecg.records import ECGRecord
from skecg.tabular.features import read_as_embedded

__all__ = ["ecg_picture", "page", "policy_for", "regression_page", "report_page", "thinned"]

_SIZE = 260  # of a picture of curves, in pixels
_BINS = 10
_WORST = 3  # errors of each label that are shown
_MOST_LABELS = 12  # of which curves are drawn
_ECG_WIDTH, _STRIP_HEIGHT, _ECG_SECONDS, _ECG_RATE = 900, 34, 10.0, 100.0

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin:1rem 0 .3rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}
td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}.baseline td{color:#666}
.row{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-size:.8rem;color:#444}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid #0b62c4}
th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
svg{max-width:100%;height:auto;background:#fff}text{font:11px system-ui,sans-serif;fill:#444}
.notice{border-left:4px solid #D55E00;padding:.3rem .8rem;background:#fff6f0}
"""

# By the number that a cell begins with, where all have one, the greatest first; else by letter. Empty cells come last.
_SCRIPT = """"use strict";
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentNode, column = head.cellIndex, body = head.closest("table").tBodies[0];
  const said = (row) => row.cells[column].textContent.trim(), rows = [...body.rows];
  const known = rows.map(said).filter((text) => text && text !== "-");
  const numbers = known.every((text) => !isNaN(parseFloat(text)));
  const before = head.getAttribute("aria-sort");
  const up = before ? before === "descending" : !numbers;
  head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const empty = (row) => ["", "-"].includes(said(row));
  rows.sort((a, b) => empty(a) - empty(b) || (up ? 1 : -1) * (numbers ? parseFloat(said(a)) - parseFloat(said(b))
    : said(a).localeCompare(said(b))) || 0);
  body.append(...rows);
}));
"""

_NOTICE = "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients."

# Paths, labels and notes come from files that anybody may have written.
_text: Callable[[str], str] = html.escape


def policy_for(script: str) -> str:
    """Return the policy of a page that runs this script and no other, and fetches nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def report_page(report: Report, paths: Sequence[str], **reading: Any) -> str:
    """Return an evaluation as a page.

    Parameters
    ----------
    report : Report
        With what was predicted of each record.
    paths : sequence of str
        Of all records of the data set; those of the worst errors are read again, for their pictures.
    **reading
        ``sampling_rate``, ``leads`` and ``units`` of tables and arrays, as for :class:`skecg.JEPAEmbedder`.

    Returns
    -------
    str
        HTML.
    """
    title = f"{report.dataset['name']}: {report.task['name']}"
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="notice">{_text(_NOTICE)}</p>']
    parts += [f"<p>{_text(sentence)}</p>" for sentence in report.sentences()]
    baselines = {row.name for row in report.rows if row.kind != "model"}
    best = sorted(report.rows, key=lambda row: -np.nan_to_num(row.largest.macro_auroc.estimate))
    order = [row.name for row in best]
    parts += [
        "<h2>Scores</h2>",
        _table(score_table(report), baselines, order),
        *(f"<p>{_text(n)}</p>" for n in notes_of(report)),
    ]
    if len(report.rows[0].by_fraction) > 1:
        parts += ["<h2>Label efficiency: macro AUROC by number of labels</h2>"]
        parts += [_efficiency(report), _table(fraction_table(report), baselines, order)]
    parts += ["<h2>AUROC by label</h2>", _table(label_table(report, few=False))]
    if any(map(len, few := label_table(report, few=True)[1:])):
        parts += ["<h3>Labels with few positives or negatives, not in any mean</h3>"]
        parts += [_table([label_table(report, few=True)[0], *few])]
    if report.tested is not None:
        parts += _of_records(report, report.tested, paths, reading)
    parts += ["<h2>Calibration, mean over labels</h2>", _table(calibration_table(report), baselines, order)]
    if report.geometry:
        parts += ["<h2>Without a classifier</h2>", _table(geometry_table(report), baselines, order)]
    parts += ["<h2>Rows</h2>", "<ul>", *(f"<li>{_text(r.name)}: {_text(r.note)}</li>" for r in report.rows), "</ul>"]
    if command := report.run.get("command"):
        parts += ["<h2>Command</h2>", f"<pre>{_text(command)}</pre>"]
    return page(title, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Put the parts of a page together."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy_for(_SCRIPT)}"><title>{_text(title)}</title>'
    )
    written = (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}"
        f"<script>{_SCRIPT}</script></body></html>"
    )
    # Names of files may hold bytes that are no UTF-8: written out, or an hour of scoring would end without a page.
    return written.encode("utf-8", "backslashreplace").decode()


def regression_page(
    name: str, scores: Mapping[str, RegressionScores], target: NDArray[np.float64], paths: Sequence[str], **reading: Any
) -> str:
    """Return the scores of regressions as a page, with what the last row, a model, predicted over what was to be.

    Parameters
    ----------
    name : str
        Of the column.
    scores : mapping of str to RegressionScores
    target : ndarray of shape (n_records,), float64
    paths : sequence of str of length n_records
        Those of the worst errors are read again, for their pictures.
    **reading
        As for :func:`report_page`.
    """
    lines = regression_cells(scores, "in the unit of the table")
    order = sorted(scores, key=lambda row: -np.nan_to_num(scores[row].r2.estimate, nan=-np.inf))
    last = list(scores)[-1]
    parts = [f"<h1>{_text(name)}</h1>", f'<p class="notice">{_text(_NOTICE)}</p>', _table(lines, order=order)]
    predicted = scores[last].predicted
    if predicted is not None:
        parts.append(_dots(np.stack([target, predicted], axis=1), f"{last}: predicted over {name}"))
        parts.append(f"<h2>Worst errors of {_text(last)}</h2>")
        for row in np.argsort(-np.abs(predicted - target), kind="stable")[:_WORST]:
            parts.append(f"<h3>{_text(paths[row])}: {target[row]:.4g}, predicted {predicted[row]:.4g}</h3>")
            parts.append(_picture_of(paths[row], reading))
    return page(name, parts)


def _dots(points: NDArray[np.float64], caption: str) -> str:
    """Draw points over the diagonal of their common range."""
    low, high = float(np.nanmin(points)), float(np.nanmax(points))
    placed = (points[np.isfinite(points).all(axis=1)] - low) / max(high - low, 1e-12)
    dots = "".join(f'<circle cx="{5 + 390 * x:.1f}" cy="{395 - 390 * y:.1f}" r="2"/>' for x, y in placed)
    return (
        f'<figure><svg viewBox="0 0 400 400" width="400" role="img" aria-label="{_text(caption)}" fill="{PALETTE[0]}">'
        f'<line x1="5" y1="395" x2="395" y2="5" stroke="#ccc"/>{dots}</svg>'
        f"<figcaption>{_text(caption)}, from {low:.4g} to {high:.4g}</figcaption></figure>"
    )


def _of_records(report: Report, tested: Tested, paths: Sequence[str], reading: Mapping[str, Any]) -> Iterator[str]:
    """Yield curves, confusion and the worst errors of the reference row."""
    name = report.reference.name
    probabilities, classes = tested.probabilities[name], report.task["classes"]
    shown = [k for k in np.argsort(-tested.labels.sum(axis=0), kind="stable") if 0 < tested.labels[:, k].mean() < 1]
    # The most frequent labels, in the order of the task.
    shown = sorted(shown[:_MOST_LABELS])
    yield f"<h2>ROC and calibration curves of {_text(name)}</h2><div class=row>"
    for k in shown:
        has, guess = tested.labels[:, k] == 1, probabilities[:, k]
        yield _curves(_roc(has, guess), f"{classes[k]}: sensitivity over 1 - specificity")
        yield _curves(_reliability(has, guess), f"{classes[k]}: share over probability")
    yield f"</div><h2>Confusion of {_text(name)}, at the thresholds</h2>"
    yield _table(_confusion(tested.labels, probabilities >= tested.thresholds[name], classes))
    yield f"<h2>Worst errors of {_text(name)}</h2>"
    for k in shown:
        yield from _worst(tested, probabilities[:, k], k, classes[k], paths, reading)


def _roc(has: NDArray[np.bool_], guess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points (n, 2) of a ROC curve, with ties as straight lines."""
    order = np.argsort(-guess, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(guess[order]) != 0, True])
    hits, alarms = np.cumsum(has[order])[ends] / has.sum(), np.cumsum(~has[order])[ends] / (~has).sum()
    return np.r_[[[0.0, 0.0]], np.stack([alarms, hits], axis=1)]


def _reliability(has: NDArray[np.bool_], guess: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean probability and share of the label, of equally many records each."""
    # Equally many and not equally wide: most probabilities lie near 0, and wide bins would be empty.
    parts = np.array_split(np.argsort(guess, kind="stable"), min(_BINS, len(guess)))
    return np.array([[guess[part].mean(), has[part].mean()] for part in parts])


def _curves(points: NDArray[np.float64], caption: str) -> str:
    """Draw one curve in the unit square, over its diagonal."""
    line = " ".join(f"{5 + (_SIZE - 10) * x:.1f},{5 + (_SIZE - 10) * (1 - y):.1f}" for x, y in points)
    far = _SIZE - 5
    return (
        f'<figure><svg viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" role="img" aria-label="{_text(caption)}">'
        f'<rect x="5" y="5" width="{far - 5}" height="{far - 5}" fill="none" stroke="#ccc"/>'
        f'<line x1="5" y1="{far}" x2="{far}" y2="5" stroke="#ccc"/>'
        f'<polyline points="{line}" fill="none" stroke="{PALETTE[0]}" stroke-width="2"/></svg>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _efficiency(report: Report) -> str:
    """Draw macro AUROC over the numbers of labels, side by side in their order; what is below chance is drawn there."""
    shares = [part.fraction for part in report.rows[0].by_fraction]
    xs = np.linspace(40, 500, len(shares))
    lines, ends = [], []
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        y = _height_of(tick)
        lines.append(f'<line x1="40" y1="{y:.1f}" x2="500" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="10" y="{y + 4:.1f}">{tick:.1f}</text>')
    for x, share in zip(xs, shares, strict=True):
        amount = f"{share:g}" if share > 1 else f"{share * 100:g} %"
        lines.append(f'<text x="{x:.1f}" y="228" text-anchor="middle">{amount}</text>')
    for number, row in enumerate(report.rows):
        values = np.array([part.macro_auroc.estimate for part in row.by_fraction])
        known = np.isfinite(values)
        heights = [_height_of(value) for value in values[known]]
        colour = PALETTE[number % len(PALETTE)]
        dash = "" if row.kind == "model" else ' stroke-dasharray="5 4"'
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs[known], heights, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        ends += [(heights[-1], row.name, colour)] if heights else []
    lowest = -np.inf
    for height, name, colour in sorted(ends):
        # Lines that end together have names below each other.
        lowest = max(height, lowest + 13)
        lines.append(f'<text x="508" y="{lowest + 4:.1f}" style="fill:{colour}">{_text(name)}</text>')
    # As high as the lowest name, which may be pushed below the axis.
    box = f"0 0 760 {max(240, lowest + 12):.0f}"
    return f'<svg viewBox="{box}" width="760" role="img" aria-label="label efficiency">{"".join(lines)}</svg>'


def _height_of(area: float) -> float:
    """Return where an area under the curve is drawn, in pixels from the top."""
    return 10 + 400 * (1 - max(float(area), 0.5))


def _confusion(labels: NDArray[np.int8], called: NDArray[np.bool_], classes: Sequence[str]) -> list[list[str]]:
    """Return one line a label: how many are called so and not, of those that have it and have not."""
    table = [["label", "found", "missed", "false alarms", "rightly not", "sensitivity", "specificity"]]
    for k, name in enumerate(classes):
        has, yes = labels[:, k] == 1, called[:, k]
        counts = [int((has & yes).sum()), int((has & ~yes).sum()), int((~has & yes).sum()), int((~has & ~yes).sum())]
        rates = [a / (a + b) if a + b else float("nan") for a, b in (counts[:2], counts[:1:-1])]
        table.append([name, *map(str, counts), *(f"{rate:.3f}" if np.isfinite(rate) else "-" for rate in rates)])
    return table


def _worst(
    tested: Tested,
    guess: NDArray[np.float64],
    label: int,
    name: str,
    paths: Sequence[str],
    reading: Mapping[str, Any],
) -> Iterator[str]:
    """Yield the records of which a label's probability is furthest from the truth, with their ECGs."""
    errors = np.abs(tested.labels[:, label] - guess)
    for place in np.argsort(-errors, kind="stable")[:_WORST]:
        has = "has" if tested.labels[place, label] else "has not"
        path = paths[tested.rows[place]]
        yield f"<h3>{_text(name)}: {_text(path)} {has} it, probability {guess[place]:.3f}</h3>"
        yield _picture_of(path, reading)


def _picture_of(path: str, reading: Mapping[str, Any]) -> str:
    """Draw a record of a file, or say why it cannot be read."""
    try:
        return ecg_picture(read_as_embedded(path, **reading))
    except SkecgError as error:
        return f"<p>{_text(str(error))}</p>"


def thinned(record: ECGRecord, sampling_rate: float, seconds: float) -> NDArray[np.float32]:
    """Return the beginning of a record at another rate (n_leads, n_samples), each lead about its median; NaN if empty.

    Filtered, not thinned: every fifth sample misses the tips of R waves and folds noise into the picture.
    """
    signal = fill_gaps(record.signal[:, : max(1, int(seconds * record.sampling_rate))])
    signal = resample(signal, record.sampling_rate, sampling_rate, "polyphase")
    middle = [np.median(lead) if np.isfinite(lead).all() else 0.0 for lead in signal]
    return np.asarray(signal - np.array(middle, dtype=np.float32)[:, None], dtype=np.float32)


def ecg_picture(record: ECGRecord) -> str:
    """Draw the first ten seconds of a record, lead under lead, 1 mV high for each two strips."""
    rate = min(record.sampling_rate, _ECG_RATE)
    signal = thinned(record, rate, _ECG_SECONDS)
    x = np.arange(signal.shape[1]) / rate * _ECG_WIDTH / _ECG_SECONDS
    strips = []
    for row, (lead, values) in enumerate(zip(record.leads, signal, strict=True)):
        middle = _STRIP_HEIGHT * (row + 0.5)
        known = np.isfinite(values)
        # An artefact may be drawn over a neighbour, but not over the whole page.
        centred = np.clip(values[known], -3, 3)
        points = " ".join(
            f"{a:.1f},{middle - b * _STRIP_HEIGHT / 2:.1f}" for a, b in zip(x[known], centred, strict=True)
        )
        strips.append(f'<text x="0" y="{middle - 8:.0f}">{_text(lead)}</text>')
        strips.append(f'<polyline points="{points}" fill="none" stroke="#222" stroke-width=".8"/>')
    height = _STRIP_HEIGHT * len(record.leads)
    return f'<svg viewBox="0 0 {_ECG_WIDTH} {height}" width="{_ECG_WIDTH}" role="img">{"".join(strips)}</svg>'


def _table(
    cells: Sequence[Sequence[str]],
    baselines: set[str] | frozenset[str] = frozenset(),
    order: Sequence[str] | None = None,
) -> str:
    """Return a table that is sorted where its head is clicked, the first line being the head; rows in an order."""
    head, *rows = cells
    if order is not None:
        rows = sorted(rows, key=lambda row: order.index(row[0]))
    names = "".join(f"<th><button type=button>{_text(cell)}</button></th>" for cell in head)
    lines = []
    for row in rows:
        written = "".join(f"<td>{_text(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=baseline' if row[0] in baselines else ''}>{written}</tr>")
    return f"<div class=wide><table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
