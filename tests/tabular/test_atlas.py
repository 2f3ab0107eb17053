"""An atlas holds what it shows, says what it leaves out, and runs nothing that stands in tables and paths."""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser

from skecg.datasets import make_ecg
from skecg.errors import MissingDependencyError, ParameterError, ShapeError, SkecgWarning
from skecg.records import ECGRecord
from skecg.tabular import atlas as atlases
from skecg.tabular.atlas import Atlas, make_atlas
from skecg.tabular.table import columns_of

EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">{data}{title}"
N = 40


@pytest.fixture(scope="module")
def features() -> np.ndarray[Any, Any]:
    table = np.random.default_rng(0).normal(size=(N, 8))
    table[: N // 2, 0] += 6.0
    return table


@pytest.fixture(scope="module")
def records() -> list[ECGRecord]:
    made = make_ecg(6, duration_seconds=10.0, sampling_rate=250, random_state=0).records
    return [ECGRecord(made[k % 6].signal, 250, made[k % 6].leads, name=f"record {k}") for k in range(N)]


@pytest.fixture(scope="module")
def atlas(features: np.ndarray[Any, Any], records: list[ECGRecord]) -> Atlas:
    columns = {
        "diagnosis": ["normal" if k < N // 2 else "other" for k in range(N)],
        "age": [str(30.5 + k) for k in range(N)],
        "site": [f"site {k % 14:02d}" for k in range(N)],
        "note": [EVIL] * N,
        "empty": [None] * N,
    }
    return make_atlas(features, records, columns, projections=["pca", "tsne"])


def held_by(page: str) -> dict[str, Any]:
    found = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert isinstance(found, dict)
    return found


def unpacked(trace: list[Any], n_leads: int) -> np.ndarray[Any, Any]:
    steps = np.frombuffer(zlib.decompress(base64.b64decode(trace[2])), np.int8).reshape(n_leads, -1)
    return np.cumsum(steps, axis=1, dtype=np.int8) * trace[1]


def test_traces_are_the_records_to_within_half_a_step(records: list[ECGRecord], atlas: Atlas) -> None:
    from skecg.tabular.page import thinned

    held = held_by(atlas.page())
    leads = held["leads"][held["traces"][3][0]]

    drawn = unpacked(held["traces"][3], len(leads))

    truth = thinned(records[3], 50.0, 10.0)
    assert drawn.shape == (12, 500)
    assert np.abs(drawn - truth).max() <= 0.5 * held["traces"][3][1] + 1e-3
    assert np.abs(np.median(truth, axis=1)).max() < 1e-6


def test_a_page_of_2000_records_is_at_most_10_megabytes_however_noisy_they_are() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 5000)).astype(np.float32) * 5
    noisy = ECGRecord(
        noise, 500, ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"], name="x" * 60
    )
    columns = {f"column {k}": [str(k + 0.25), "1", "2"] for k in range(8)}

    sizes = [
        len(make_atlas(np.eye(n), [noisy] * n, {c: (v * n)[:n] for c, v in columns.items()}).page()) for n in (3, 13)
    ]

    assert sizes[0] + (sizes[1] - sizes[0]) / 10 * 2000 < 10e6


def test_leads_come_in_their_usual_order_and_those_without_samples_are_left_out() -> None:
    signal = np.vstack([np.zeros(500), np.full(500, np.nan), np.ones(500)]).astype(np.float32)
    odd = ECGRecord(signal, 50, ["V1", "aVF", "II"])
    gone = ECGRecord(signal[1:2], 50, ["II"])

    with pytest.warns(SkecgWarning, match="no ECG for 1 of 3 recordings, .* no lead has any samples"):
        held = held_by(make_atlas(np.eye(3), [odd, odd, gone]).page())

    assert held["leads"] == [["II", "V1"]]
    assert held["traces"][2] == "no lead has any samples"


def test_a_record_that_cannot_be_read_says_why_in_its_place(tmp_path: Path) -> None:
    with pytest.warns(SkecgWarning, match="no ECG for 3 of 3 recordings, expected their files .*nothing"):
        held = held_by(make_atlas(np.eye(3), [str(tmp_path / "nothing")] * 3).page())

    assert "nothing" in held["traces"][0]


def test_records_without_features_are_left_out_and_counted(features: np.ndarray[Any, Any]) -> None:
    table = features.copy()
    table[2] = np.nan

    made = make_atlas(table, [f"r{k}" for k in range(N)], {"k": [str(k) for k in range(N)]})

    assert made.n_left_out == 1
    assert "r2" not in made.paths
    assert [f"r{k}" for k in made.columns["k"]] == made.paths
    assert "no features: 1" in held_by(made.page(ecgs=False))["about"]


def test_without_standardizing_maps_and_neighbours_keep_the_proportions_of_features(
    features: np.ndarray[Any, Any],
) -> None:
    scaled = (features - features.mean(axis=0)) * 10.0 ** -np.arange(features.shape[1])

    kept = make_atlas(scaled, [str(k) for k in range(N)], n_neighbours=1, standardize=False)
    levelled = make_atlas(scaled, [str(k) for k in range(N)], n_neighbours=1)

    # The first feature is nearly all there is.
    assert abs(np.corrcoef(kept.maps["pca"][:, 0], scaled[:, 0])[0, 1]) > 0.99
    gaps = np.abs(scaled[:, None, 0] - scaled[None, :, 0]) + np.diag(np.full(N, np.inf))
    near = gaps[np.arange(N), kept.neighbours.rows[:, 0]]
    assert near.mean() < gaps[np.arange(N), levelled.neighbours.rows[:, 0]].mean() / 2


def test_nobody_is_their_own_neighbour_even_among_equals() -> None:
    same = np.vstack([np.zeros((6, 3)), np.ones((2, 3))])

    rows = make_atlas(same, [str(k) for k in range(8)], n_neighbours=4).neighbours.rows

    assert rows.shape == (8, 4)
    assert all(k not in row for k, row in enumerate(rows.tolist()))
    assert set(rows[6]) >= {7}


def test_few_records_have_as_many_neighbours_as_there_are() -> None:
    assert make_atlas(np.eye(3), ["a", "b", "c"]).neighbours.rows.shape == (3, 2)


def test_a_map_tells_groups_apart(atlas: Atlas) -> None:
    assert list(atlas.maps) == ["pca", "tsne"]
    taken = make_atlas(np.eye(4), list("abcd"), {"neighbors": list("efgh")})
    with pytest.raises(ParameterError, match="Got the column 'neighbors', a name that Embedding Atlas needs"):
        taken.embedding_atlas()
    # Copies of one recording lie at one place.
    alike = make_atlas(np.ones((5, 6)), list("abcde"), projections=["tsne"])
    assert not alike.maps["tsne"].any()
    for points in atlas.maps.values():
        centres = points[: N // 2].mean(axis=0), points[N // 2 :].mean(axis=0)
        assert points.shape == (N, 2)
        assert np.linalg.norm(centres[0] - centres[1]) > np.linalg.norm(points[: N // 2].std(axis=0))


def test_columns_are_numbers_or_classes_and_empty_ones_are_left_out(atlas: Atlas) -> None:
    columns = {column["name"]: column for column in held_by(atlas.page(ecgs=False))["columns"]}

    assert {name: column["kind"] for name, column in columns.items()} == {
        "diagnosis": "class",
        "age": "number",
        "site": "class",
        "note": "class",
    }
    assert (columns["age"]["low"], columns["age"]["high"]) == (30.5, 69.5)
    # The most frequent first: those that the page groups are the rare ones.
    counts = [columns["site"]["values"].count(code) for code in range(14)]
    assert counts == sorted(counts, reverse=True)


def test_identifiers_of_digits_stay_what_they_are() -> None:
    texts = {
        "case": [str(90071992547409931 + k) for k in range(N)],
        "ward": [f"{k}E2" for k in range(N)],
        "code": [f"{k:06d}" for k in range(N)],
        "Patient ID": [str(k + 1) for k in range(N)],
    }
    numbers = {"small": [repr(1e-7 * k + 1e-9) for k in range(N)], "whole": [str(k) for k in range(N)]}
    numbers["long"] = [f"{k / 7:.18f}" for k in range(N)]
    made = make_atlas(np.random.default_rng(0).normal(size=(N, 3)), ["r"] * N, texts | numbers)

    columns = {column["name"]: column for column in held_by(made.page(ecgs=False))["columns"]}
    table = made.embedding_atlas()

    assert all(table[name] == cells and set(columns[name]["classes"]) == set(cells) for name, cells in texts.items())
    assert all(table[name] == columns[name]["values"] == list(map(float, cells)) for name, cells in numbers.items())


def test_the_same_atlas_is_the_same_page(atlas: Atlas) -> None:
    assert atlas.page("t") == atlas.page("t")


def test_nothing_of_a_page_comes_from_elsewhere_and_no_text_becomes_markup(atlas: Atlas) -> None:
    page = atlas.page(EVIL)

    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<script") == 2
    assert "<img" not in page


def test_embedding_atlas_reads_points_neighbours_and_columns(atlas: Atlas) -> None:
    table = atlas.embedding_atlas()

    assert {"projection_x", "projection_y", "neighbors", "path", "diagnosis", "age"} <= set(table)
    assert table["age"][:2] == [30.5, 31.5]
    assert table["neighbors"][0]["ids"] == atlas.neighbours.rows[0].tolist()
    assert table["neighbors"][0]["distances"] == sorted(table["neighbors"][0]["distances"])
    assert {len(cells) for cells in table.values()} == {N}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.eye(2), ["a", "b"]), ShapeError, "2 records with features"),
        ((np.zeros(3), ["a"] * 3), ShapeError, r"shape \(3,\)"),
        ((np.eye(3), ["a"]), ShapeError, "for 1 records or cells"),
        ((np.eye(3), ["a"] * 3, {"x": ["1"]}), ShapeError, "for 1, 3 records or cells"),
    ],
)
def test_what_is_no_atlas_says_so(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_atlas(*arguments)


def test_unknown_projections_and_those_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="projection"):
        make_atlas(np.eye(3), ["a"] * 3, projections=["mds"])
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(MissingDependencyError, match="pip install umap-learn"):
        make_atlas(np.eye(3), ["a"] * 3, projections=["umap"])
    assert set(atlases.PROJECTIONS) == {"pca", "tsne", "umap"}


def test_a_table_finds_its_recordings_by_name_by_file_and_without_suffix(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file,x\na.hea,1\nsub/b,2\nelsewhere,3\n")

    columns, known = columns_of([str(tmp_path / "a"), str(tmp_path / "sub" / "b.hea"), "c"], table, "file")

    assert columns == {"x": ["1", "2", None]}
    assert known.tolist() == [True, True, False]
    with pytest.raises(ParameterError, match="names none of the 1 recordings"):
        columns_of(["c"], table, "file")
    with pytest.raises(ParameterError, match="Got --path-column 'path'"):
        columns_of(["c"], table)


def test_recordings_of_two_hospitals_that_number_alike_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hospital in "ab":
        (tmp_path / hospital).mkdir()
        (tmp_path / hospital / "r1.hea").touch()
    table = tmp_path / "a" / "t.csv"
    table.write_text("path,x\nr1,of a\nr2,moved since\n")
    monkeypatch.chdir(tmp_path / "b")

    columns, known = columns_of(["r1.hea", "../a/r1.hea", "r2"], table)

    assert columns["x"] == [None, "of a", "moved since"]
    assert known.tolist() == [False, True, True]
    with pytest.raises(ParameterError, match=r"names none .* where no other file of that name lies beside it"):
        columns_of(["r1.hea"], table)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_table_behind_a_link_is_of_the_recordings_it_links_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("r1.hea", "r1.dat", "r2.hea"):
        (tmp_path / "data" / name).touch()
    (tmp_path / "data" / "t.csv").write_text("path,x\nr1.dat,1\nr2.hea,2\n")
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    (tmp_path / "files").mkdir()
    os.link(tmp_path / "data" / "r2.hea", tmp_path / "files" / "r2.hea")

    monkeypatch.chdir(tmp_path / "data")
    assert columns_of(["r1.hea", "r2.hea"], tmp_path / "folder" / "t.csv")[0]["x"] == ["1", "2"]
    monkeypatch.chdir(tmp_path / "files")
    assert columns_of(["r2.hea"], tmp_path / "folder" / "t.csv")[0]["x"] == ["2"]


# In a browser


@pytest.fixture
def opened(browser: Browser, atlas: Atlas, tmp_path: Path) -> Browser:
    page = tmp_path / "atlas.html"
    page.write_text(atlas.page(f"Atlas {EVIL}"))
    browser.size(1280, 800)
    browser.open(page)
    browser.complaints()
    browser.run("return new Promise(requestAnimationFrame)")
    return browser


def spot(browser: Browser, row: int) -> tuple[float, float]:
    x, y = browser.run(
        "const box = document.getElementById('map').getBoundingClientRect(), p = place(arguments[0]);"
        "return [box.left + p[0], box.top + p[1]];",
        row,
    )
    return x, y


def text(browser: Browser, element: str) -> str:
    return str(browser.run("return document.getElementById(arguments[0]).textContent", element))


def colours(browser: Browser) -> int:
    """Count the colours on the map, which is how many classes can be told apart."""
    drawn = (
        "const m = document.getElementById('map'), d = m.getContext('2d').getImageData(0, 0, m.width, m.height).data;"
    )
    count = (
        "const s = {}; for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 209) s[[d[i], d[i + 1], d[i + 2]]] = 1;"
    )
    return int(browser.run(f"draw(); {drawn} {count} return Object.keys(s).length"))


def test_a_page_opens_from_the_disk_without_a_word_in_the_console(opened: Browser) -> None:
    assert opened.complaints() == []
    assert opened.run("return document.title").startswith("Atlas </script>")
    assert opened.run("return performance.getEntriesByType('resource').length") == 0


def test_the_record_under_the_cursor_shows_its_ecg_its_columns_and_its_neighbours(
    opened: Browser, atlas: Atlas
) -> None:
    opened.hover(spot(opened, 5))

    opened.until("return !document.getElementById('ecg').hidden")
    assert text(opened, "path") == "record 5"
    assert "35.5" in text(opened, "facts")
    assert EVIL in text(opened, "facts")
    near = opened.run("return [...document.querySelectorAll('#neighbours button')].map((b) => b.textContent)")
    assert [name.split("  ")[1] for name in near] == [f"record {row}" for row in atlas.neighbours.rows[5]]
    opened.until("return document.querySelectorAll('#neighbours canvas').length === 8")
    ink = (
        "const c = document.getElementById('ecg'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    )
    assert opened.run(f"{ink}.filter((v, i) => i % 4 === 0 && v < 60).length") > 1000
    assert opened.complaints() == []


def test_limb_leads_that_were_not_recorded_are_derived_from_i_and_ii(opened: Browser) -> None:
    names = ["I", "II", "III", "aVR", "aVL", "aVF"]
    whole = opened.run(f"return ecgOf(0).then((t) => {names}.map((lead) => [...t[lead]]))")
    drop = "data.leads[0] = data.leads[0].map((lead) => ({III: 'a', aVR: 'b', aVL: 'c', aVF: 'd'})[lead] ?? lead);"

    derived = opened.run(f"{drop} unpacked.clear(); return ecgOf(0).then((t) => {names}.map((lead) => [...t[lead]]))")

    step = opened.run("return data.traces[0][1]")
    assert np.abs(np.array(derived) - np.array(whole)).max() < 2 * step


def test_search_chooses_the_records_that_have_all_the_words(opened: Browser) -> None:
    ask = "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"

    opened.run(ask, "SITE 01  normal")

    assert text(opened, "chosen") == "2 of 40 records chosen"
    assert opened.run("return exported()") == "record 1\nrecord 15\n"
    opened.run(ask, "nowhere")
    assert text(opened, "chosen") == "Nothing found"
    opened.run("document.getElementById('clear').click()")
    assert text(opened, "chosen") == "No records chosen"


def test_a_lasso_chooses_what_lies_inside_and_saves_its_paths(opened: Browser) -> None:
    points = [spot(opened, row) for row in range(N)]
    middle = (min(x for x, _ in points) + max(x for x, _ in points)) / 2
    inside = [row for row, (x, _) in enumerate(points) if x > middle]
    top, low = min(y for _, y in points) - 15, max(y for _, y in points) + 15
    right = max(x for x, _ in points) + 15
    opened.run("document.getElementById('lasso').click()")

    opened.drag([(middle, top), (right, top), (right, low), (middle, low)])

    assert 10 < len(inside) < 30
    assert opened.run("return state.chosen") == inside
    listed = opened.run("return [...document.querySelectorAll('#list button')].map((b) => b.textContent)")
    assert listed == [f"record {row}" for row in inside]
    opened.run("URL.createObjectURL = (blob) => { window.saved = blob; return '#' }; save()")
    assert opened.run("return window.saved.text()") == "".join(f"record {row}\n" for row in inside)


def test_any_column_colours_the_map_and_more_than_ten_classes_are_grouped(opened: Browser) -> None:
    assert opened.run("return data.columns[state.column].name") == "diagnosis"
    choose = "const c = document.getElementById('colour'); c.value = arguments[0]; c.dispatchEvent(new Event('change'))"
    assert colours(opened) == 2
    opened.run(choose, 1)
    assert colours(opened) > 20
    assert "30.5" in text(opened, "legend")
    opened.run(choose, 2)
    assert colours(opened) == 11
    assert "4 others (10)" in text(opened, "legend")


def test_all_of_it_fits_a_phone_in_the_light_and_in_the_dark(opened: Browser) -> None:
    opened.size(390, 844)
    grounds = []
    for scheme in ("light", "dark"):
        opened.scheme(scheme)
        grounds.append(opened.run("return getComputedStyle(document.body).backgroundColor"))

    assert opened.run("return document.documentElement.scrollWidth") <= 390
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_keys_and_zoom_reach_every_record(opened: Browser) -> None:
    opened.run("document.getElementById('map').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    assert text(opened, "path") == "record 0"
    before = spot(opened, 0)
    opened.run("zoom(4, ...place(0))")
    assert spot(opened, 0) == pytest.approx(before, abs=0.01)
    opened.run("document.getElementById('reset').click()")
    assert opened.run("return view.zoom") == 1
