"""What a notebook shows is text, however it was named, and needs no magic command."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn

from skecg import JEPAEmbedder, list_models
from skecg.compute.notebook import html_facts, html_table
from skecg.datasets import make_ecg
from skecg.weights.registry import Models

EVIL = "<script>alert(1)</script>"


def test_no_text_becomes_markup() -> None:
    for shown in (html_facts(EVIL, {EVIL: EVIL}), html_table([EVIL], [[EVIL]])):
        assert "<script" not in shown
        assert shown.count("&lt;script&gt;") >= 2


def test_the_models_are_a_table_with_a_line_each() -> None:
    models = list_models()

    shown = models._repr_html_()

    assert shown.count("<tr>") == len(models) + 1
    assert all(name in shown for name in models)


def test_a_fitted_embedder_says_which_weights_it_holds_and_an_unfitted_one_nothing() -> None:

    embedder = JEPAEmbedder("untrained-temporal")

    assert "Weights:" not in embedder._repr_html_()
    embedder.fit(make_ecg(1, random_state=0).records)

    for shown in (embedder._repr_html_(), embedder._repr_mimebundle_()["text/html"]):
        assert "Weights: untrained-temporal" in shown
        assert embedder.weights_sha256_[:16] in shown


def test_tokens_and_windows_say_what_they_are_of() -> None:
    from skecg import load_encoder, prepare

    records = make_ecg(2, duration_seconds=10.0, random_state=0).records
    tokens = JEPAEmbedder("untrained-temporal").fit(records).transform_tokens(records)[0]
    windows = prepare(records, load_encoder("untrained-temporal")[1])

    assert repr(tokens) == f"RecordTokens({len(tokens)} of dimension {tokens.values.shape[1]}: leads all, " + (
        f"from 0 to {tokens.stop_seconds.max():g} s, each {np.median(tokens.stop_seconds - tokens.start_seconds):g} s)"
    )
    assert f"{len(tokens)} tokens" in tokens._repr_html_()
    assert f"{len(windows)} windows" in windows._repr_html_()
    assert "V6" in windows._repr_html_()


def test_pictures_show_themselves_as_the_last_value_of_a_cell() -> None:
    pytest.importorskip("matplotlib")
    from skecg.plotting import plot_ecg, plot_ecgs, plot_embedding_map

    record = make_ecg(1, random_state=0).records[0]

    for drawn in (plot_ecg(record), plot_ecgs([record]), plot_embedding_map(np.eye(3))):
        assert drawn._repr_png_().startswith(b"\x89PNG")


def test_what_the_registry_does_not_say_of_a_model_is_a_question_mark() -> None:
    header, row = Models({"mine": {"trained": True}}).table()

    assert row[:3] == ["mine", "yes", "?"]
    assert dict(zip(header, row, strict=True))["leads"] == "?"
    assert Models().table() == [[]]


def test_an_estimator_that_is_shown_as_text_stays_text() -> None:
    with sklearn.config_context(display="text"):
        assert set(JEPAEmbedder()._repr_mimebundle_()) == {"text/plain"}
