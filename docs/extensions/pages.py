"""Directives that write parts of pages at build time, so that the documentation says what the code says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.autosummary import autosummary_table
from sphinx.util.docutils import SphinxDirective
from troubles import TROUBLES, Trouble, messages

import skecg
from pretraining.config import PretrainConfig
from pretraining.config.objectives import MaeConfig, ObjectiveConfig
from pretraining.objectives import objective_class
from pretraining.recipes import RECIPES, load_recipe
from skecg.convert import STATISTICS
from skecg.encoders import build_encoder
from skecg.leads import CANONICAL_LEADS


class _Written(SphinxDirective):
    """A directive that stands for reStructuredText."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.write())

    def write(self) -> str:
        raise NotImplementedError


class Troubles(_Written):
    """Errors and warnings of one kind after the other, with the messages that their code gives."""

    def write(self) -> str:
        said = messages(TROUBLES)
        return "\n\n".join(_trouble(*one) for one in _with_titles(zip(TROUBLES, said, strict=True)))


def _with_titles(pairs: Iterable[tuple[Trouble, str]]) -> Iterable[tuple[Trouble, str, bool]]:
    """Mark the first of each kind."""
    before = None
    for trouble, message in pairs:
        yield trouble, message, trouble.kind != before
        before = trouble.kind


def _trouble(trouble: Trouble, message: str, is_first: bool) -> str:
    what = (getattr(skecg.errors, trouble.kind).__doc__ or "").splitlines()[0]
    title = f".. rubric:: {trouble.kind}\n\n{what} (:class:`skecg.errors.{trouble.kind}`)\n\n" if is_first else ""
    # More than 100 columns would have to be scrolled.
    wrapped = "\n".join(textwrap.wrap(message, 100, break_long_words=False, break_on_hyphens=False))
    return f"{title}{_block('python', trouble.code)}\n\n{_block('text', wrapped)}\n\n{trouble.cure}"


def _block(language: str, text: str) -> str:
    return f".. code-block:: {language}\n\n{textwrap.indent(text, '   ')}"


class Models(_Written):
    """Every model of the registry, with what its folder says and how this machine reproduces it."""

    def write(self) -> str:
        return "\n\n".join(_model(name, entry) for name, entry in skecg.list_models().items())


def _model(name: str, entry: dict[str, Any]) -> str:
    trained = "yes" if entry["trained"] else "**no: the weights are random numbers**"
    default = ", the default" if entry.get("default") else ""
    rows = {
        "Trained": trained,
        "Architecture": entry["architecture"],
        "Features of a record": entry["n_features"],
        "Leads": ", ".join(entry["leads"]) + ("; any subset of them" if entry["any_leads"] else ""),
        "Sampling rate": f"{entry['sampling_rate']:g} Hz",
        "Window": f"{entry['window_seconds']:g} s",
        "Trained on": entry["data"],
        "Licence": entry["licence"],
        "Where": "comes with skecg" if "bundled" in entry else entry.get("repository", "the Hub"),
        "Size": f"{entry['megabytes']} MB",
        "SHA-256": f"``{entry['sha256']}``",
        "``skecg verify``": str(skecg.JEPAEmbedder(name).verify()) if "bundled" in entry else "not run here",
    }
    return f".. rubric:: {name}{default}\n\n{_table(rows.items(), 'stub-columns: 1')}"


class Statistics(_Written):
    """Mean and standard deviation of each lead in each corpus, a row for each of the two."""

    def write(self) -> str:
        rows = [("", "", *CANONICAL_LEADS)]
        for name, leads in STATISTICS.items():
            for which, kind in enumerate(("mean", "std")):
                cells = (f"{leads[lead][which]:.3f}" for lead in CANONICAL_LEADS)
                rows.append((f"``{name}``" if which == 0 else "", kind, *cells))
        return _table(rows, "header-rows: 1", "class: statistics")


class Recipes(_Written):
    """Every recipe of the trainer, as its configuration says."""

    def write(self) -> str:
        head = ("recipe", "encoder", "input", "hides", "loss", "batch × steps", "learning rate", "momentum", "exports")
        return _table([head, *map(_recipe, RECIPES)], "header-rows: 1", "class: statistics")


def _recipe(name: str) -> tuple[str, ...]:
    config = load_recipe(name)
    encoder, optim, ema = config.encoder, config.optim, config.ema
    hides, loss = _objective(config)
    return (
        f"``{name}``",
        f"{encoder.architecture}, {encoder.dim} wide, {encoder.depth} blocks, {_n_millions(config)} million",
        f"{config.input.n_leads} leads, {config.input.sampling_rate:g} Hz, {encoder.n_patches} slices",
        hides,
        loss,
        f"{config.run.batch_size} × {config.run.steps:,}",
        f"{optim.lr:g}",
        f"{ema.start:g} to {ema.end:g}" if config.masks is not None else "",
        config.export_encoder,
    )


def _objective(config: PretrainConfig) -> tuple[str, str]:
    """Say what is hidden, and what is compared."""
    objective, masks = config.objective, config.masks
    if isinstance(objective, MaeConfig):
        over = {"time": "slices", "leads": "leads", "both": "patches"}[objective.masks]
        return f"{objective.ratio:g} of the {over}", "squared, of normalized samples"
    if not isinstance(objective, ObjectiveConfig) or masks is None:
        return "", objective_class(config).summary(config)
    kept = masks.kind in ("blocks", "crop")
    low, high = (1 - masks.high, 1 - masks.low) if kept else (masks.low, masks.high)
    times = f"{masks.n_blocks} × " if masks.kind == "multiblock" else ""
    norm = {"none": "", "layer": ", layer norm", "centre": ", centred"}[objective.target_norm]
    terms = {
        objective.loss + norm: objective.predict_weight,
        "descriptions": objective.describe_weight,
        "contrast": objective.contrast_weight,
    }
    compared = ", ".join(term for term, weight in terms.items() if weight)
    return f"{times}{low:.3g} to {high:.3g}, {masks.kind}", compared


def _n_millions(config: PretrainConfig) -> str:
    """Count the encoder's parameters."""
    n_parameters = sum(parameter.numel() for parameter in build_encoder(config.encoder).parameters())
    return f"{n_parameters / 1e6:.3g}"


def _table(rows: Iterable[Iterable[object]], *options: str) -> str:
    lines = [".. list-table::", *(f"   :{option}" for option in options), ""]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines)


def write_cards(app: Sphinx) -> None:
    """Copy the card of every bundled model into a page of its own."""
    folder = Path(app.srcdir) / "cards"
    folder.mkdir(exist_ok=True)
    package = Path(skecg.__file__).parent
    for name, entry in skecg.list_models().items():
        if "bundled" in entry:
            card = (package / entry["bundled"] / "README.md").read_text(encoding="utf-8")
            target = folder / f"{name}.md"
            # Written only when it changed: Sphinx reads again whatever is newer than its last build.
            if not target.exists() or target.read_text(encoding="utf-8") != card:
                target.write_text(card, encoding="utf-8")


def state_version(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Add the first release to what does not say since when it has been there."""
    if what not in ("class", "function") or any("versionadded::" in line for line in lines):
        return
    start = next((place for place, line in enumerate(lines) if line.strip()), len(lines))
    end = next((place for place in range(start, len(lines)) if not lines[place].strip()), len(lines))
    lines[end:end] = ["", ".. versionadded:: 0.1.0", ""]


def drop_citations(app: Sphinx, doctree: nodes.document) -> None:
    """Remove references to literature from the one-line summaries of the API: their list is on another page."""
    for table in doctree.findall(autosummary_table):
        for reference in list(table.findall(addnodes.pending_xref)):
            if reference.get("refdomain") == "citation":
                reference.parent.remove(reference)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("skecg-troubles", Troubles)
    app.add_directive("skecg-models", Models)
    app.add_directive("skecg-statistics", Statistics)
    app.add_directive("skecg-recipes", Recipes)
    app.connect("builder-inited", write_cards)
    # numpydoc makes sections of docstrings first.
    app.connect("autodoc-process-docstring", state_version, priority=900)
    app.connect("doctree-read", drop_citations)
    return {"parallel_read_safe": True, "version": skecg.__version__}
