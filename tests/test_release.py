"""What a release says of itself is said once, or the same everywhere; what its workflows call is there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

import skecg
from skecg import JEPAEmbedder

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")


def text_of(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def script_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_of(workflow: Path) -> str:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])


def test_the_version_is_written_in_one_place_and_its_copies_agree():
    (written,) = re.findall(r'__version__ = "(.+)"', text_of("skecg", "_version.py"))
    assert skecg.__version__ == written
    assert not re.search(r'__version__ = "', text_of("skecg", "__init__.py"))
    release = written.partition(".dev")[0]
    assert yaml.safe_load(text_of("packaging", "conda", "recipe.yaml"))["context"]["version"] == release
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == release
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(citation["date-released"]))


def test_workflows_call_what_is_there():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    called = "\n".join([text_of(".ci", "run"), *map(commands_of, WORKFLOWS)])
    made = set(re.findall(r"\bmake ([a-z-]+)", called))
    assert {"coverage", "test-oldest", "test-newest", "dist", "look"} <= made <= targets
    for script in re.findall(r"(\.ci/\w+)", called):
        assert os.access(ROOT / script, os.X_OK)
    phony = text_of("Makefile").split(".PHONY: ")[1].splitlines()[0].split()
    assert set(phony) == {target for target in targets if not target.startswith("$")}


def test_the_classifiers_name_the_pythons_that_the_workflows_run():
    jobs = yaml.safe_load(text_of(".github", "workflows", "ci.yml"))["jobs"].values()
    run = {step["with"]["python-version"] for job in jobs for step in job["steps"] if "with" in step}
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    said = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert said == run
    assert project["requires-python"] == f">={min(run)}"


def test_the_oldest_releases_that_are_tested_are_the_floors():
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text_of("constraints-oldest.txt"), flags=re.MULTILINE))
    floors = dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups()
        for line in tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"]
    )
    for name, floor in floors.items():
        assert pins[name].split(".")[:2] == floor.split(".")[:2] or name == "torch"


def test_the_recipe_for_conda_asks_for_what_the_package_asks_for():
    recipe = yaml.safe_load(text_of("packaging", "conda", "recipe.yaml"))
    pyproject = tomllib.loads(text_of("pyproject.toml"))
    names = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}

    def as_conda_has_it(line: str) -> str:
        name, floor = line.split(">=")
        return f"{names.get(name, name)} >={floor}"

    wanted = [as_conda_has_it(line) for line in pyproject["project"]["dependencies"]]
    assert recipe["requirements"]["run"][1:] == wanted
    assert set(map(as_conda_has_it, pyproject["build-system"]["requires"])) <= set(recipe["requirements"]["host"])
    (script,) = pyproject["project"]["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(script)]
    assert recipe["about"]["license"] == pyproject["project"]["license"]


def test_a_released_documentation_keeps_those_before_it_and_lists_them(tmp_path):
    documentation = script_of("documentation")
    built, site = tmp_path / "html", tmp_path / "site"
    (built / "_static").mkdir(parents=True)
    (site / ".git").mkdir(parents=True)
    for version in ("0.9.0", "0.10.0", "0.10.0", "0.9.1"):  # the last mends an older release
        (built / "index.html").write_text(version)
        if version == "0.10.0":
            (site / "gone.html").write_text("a page that is no more")
        documentation.lay(site, built, version)
    folders = {"0.9.0", "0.9.1", "0.10.0"}
    assert {path.name for path in site.iterdir()} == {".git", ".nojekyll", "_static", "index.html", *folders}
    assert (site / "index.html").read_text() == "0.10.0"
    assert {folder: (site / folder / "index.html").read_text() for folder in folders} == {f: f for f in folders}
    newest, *before = json.loads((site / "_static" / "switcher.json").read_text())
    assert (newest["version"], newest["url"], newest["preferred"]) == ("0.10.0", documentation.ADDRESS, True)
    assert before == [{"version": v, "url": f"{documentation.ADDRESS}{v}/"} for v in ("0.9.1", "0.9.0")]
    assert f'html_baseurl = "{documentation.ADDRESS}"' in text_of("docs", "conf.py")
    with pytest.raises(SystemExit, match="expected one such as"):
        documentation.lay(site, built, "v1")


def test_issues_ask_for_what_skecg_info_prints():
    asked = yaml.safe_load(text_of(".github", "ISSUE_TEMPLATE", "bug.yml"))["body"]
    (info,) = [field for field in asked if "skecg info" in field["attributes"].get("label", "")]
    assert info["validations"] == {"required": True}


def test_a_release_brings_its_bill_of_materials():
    workflow = text_of(".github", "workflows", "release.yml")
    assert "build/*.cdx.json" in workflow
    assert "*.cdx.json" in workflow.split("gh release create")[1]
    assert "packaging/sbom.py" in text_of(".ci", "dist")


def test_a_bill_of_materials_without_a_dependency_is_refused():
    sbom = script_of("sbom")
    local = {"type": "distribution", "url": "file:///home/me/x.whl"}
    bom = {
        "metadata": {"component": {"name": "skecg"}},
        "components": [{"name": "Scikit_Learn", "version": "1.9", "externalReferences": [local]}],
    }
    sbom.complete(bom, "0.1.0")
    assert bom["metadata"]["component"]["version"] == "0.1.0"
    assert "home" not in str(bom)
    sbom.check(bom, ["scikit-learn>=1.6"])
    with pytest.raises(SystemExit, match="lacks torch"):
        sbom.check(bom, ["torch>=2.4", "scikit-learn>=1.6"])


def test_no_two_files_have_names_that_other_systems_take_for_one():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = listed.splitlines()
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(folded)
    for name in names:
        assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ](/|$)', name), f"Windows has no file {name}"
        assert not re.search(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", name.casefold())


SPAWNED = """
import multiprocessing, sys
from pathlib import Path

def embed(folder):
    from skecg import JEPAEmbedder
    files = sorted(Path(folder, "Aufnahmen von Müller").glob("*.csv"))
    return JEPAEmbedder(sys.argv[1], sampling_rate=100, cache=Path(folder, "cache ü")).fit_transform(files).tolist()

if __name__ == "__main__":
    folder = Path(sys.argv[2], "Daten – 1")
    (folder / "Aufnahmen von Müller").mkdir(parents=True)
    from skecg.datasets import make_ecg
    for number, record in enumerate(make_ecg(2, duration_seconds=2.5, sampling_rate=100, random_state=0).records):
        rows = [",".join(record.leads), *(",".join(map(str, row)) for row in record.signal.T)]
        Path(folder, "Aufnahmen von Müller", f"{number} ä.csv").write_text("\\n".join(rows), encoding="utf-8")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(embed, [folder])[0])
"""


def test_processes_that_are_spawned_embed_files_whose_paths_have_spaces_and_umlauts(tmp_path):
    script = tmp_path / "späwned script.py"
    script.write_text(SPAWNED, encoding="utf-8")
    tiny = ROOT / "tests" / "fixtures" / "tiny-temporal"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tiny, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "Daten – 1"
    files = sorted((folder / "Aufnahmen von Müller").glob("*.csv"))
    here = JEPAEmbedder(tiny, sampling_rate=100, cache=folder / "cache ü").fit_transform(files)
    np.testing.assert_array_equal(np.array(json.loads(done.stdout), np.float32), here)


FIGURES = r"""
[[figure]]
name = "speed"
page = "page.md"
pattern = 'takes {n} s for {n} records'
command = "{python} -c 'print(\"seconds 2.004, records 12,001\")'"
found = ['^seconds {n}, records {n}']
tolerance = 0.1

[[figure]]
name = "score"
page = "page.md"
pattern = 'scores ([\d.]+)'
command = '{python} score.py {out} {data}'
json = "report.json"
found = ["rows[name=mine].score"]
slow = true

[[figure]]
name = "study"
page = "page.md"
pattern = 'This study says (\d+)'
command = "{python} -c 'raise SystemExit(1)'"
found = ['(\d+)']
hours = true
"""
SCORE = """
import json, pathlib, sys
pathlib.Path(sys.argv[1], "report.json").write_text(json.dumps({"rows": [{"name": "mine", "score": 0.9213}]}))
"""


@pytest.mark.parametrize(
    ("page", "only", "state", "written"),
    [
        ("takes 1.9 s for 12,000 records, scores 0.921", [], 0, "takes 1.9 s for 12,000 records, scores 0.921"),
        ("takes 1.5 s for 12,000 records, scores 0.9", [], 1, "takes 2.0 s for 12,001 records, scores 0.9"),
        ("takes 1.5 s for 12,000 records, scores 0.922", ["slow"], 1, "takes 1.5 s for 12,000 records, scores 0.921"),
        ("takes 1.9 s for 12,000 records, scores 0.922", ["speed"], 0, "takes 1.9 s for 12,000 records, scores 0.922"),
        ("takes 1.9 s, scores 0.921", [], 1, "takes 1.9 s, scores 0.921"),
    ],
)
def test_figures_that_differ_are_found_and_written(tmp_path, page, only, state, written):
    figures = script_of("figures")
    (tmp_path / "page.md").write_text(page)
    (tmp_path / "score.py").write_text(SCORE)
    (tmp_path / "figures.toml").write_text(FIGURES)
    (tmp_path / "ledger.json").write_text("{}")
    places = {"root": tmp_path, "registry": tmp_path / "figures.toml", "kept": tmp_path / "ledger.json"}
    options = ["--data", str(tmp_path), *(["--only", *only] if only else ["--full"])]
    assert figures.main(options, **places) == state
    assert (tmp_path / "page.md").read_text() == page
    figures.main([*options, "--write"], **places)
    assert (tmp_path / "page.md").read_text() == written


@pytest.mark.parametrize(
    ("page", "written"),
    [("by -3 and -2", "by 0 and 1"), ("by -3 and +2", "by +0 and +1"), ("by 1 and 3", "by 0 and 1")],
)
def test_signs_are_those_of_the_figure_and_zero_has_no_minus(tmp_path, page, written):
    figures = script_of("figures")
    (tmp_path / "page.md").write_text(page)
    figure = figures.Figure("signs", "page.md", r"by ([+-]?\d) and ([+-]?\d)", "", ())
    figures.write(figure, tmp_path / "page.md", [-0.4, 1.2])
    assert (tmp_path / "page.md").read_text() == written


def test_figures_that_cannot_be_measured_fail(tmp_path, capsys):
    figures = script_of("figures")
    (tmp_path / "page.md").write_text("takes 1.9 s for 12,000 records, scores 0.921")
    (tmp_path / "figures.toml").write_text(
        FIGURES.replace("records {n}'", "rows {n}'").replace("records {n}']", "rows {n}']")
    )
    (tmp_path / "ledger.json").write_text("{}")
    places = {"root": tmp_path, "registry": tmp_path / "figures.toml", "kept": tmp_path / "ledger.json"}
    assert figures.main([], **places) == 1
    assert figures.main(["--full"], **places) == 2
    said = capsys.readouterr().out
    assert "occurs 0 times" in said
    assert "it needs data" in said
    assert figures.main(["--only", "hours"], **places) == 1
    assert "study" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Got --only nothing"):
        figures.main(["--only", "nothing"], **places)


def test_every_figure_of_the_registry_stands_on_its_page_once():
    figures = script_of("figures")
    registry = figures.read_registry(figures.REGISTRY)
    for figure in registry:
        figures.find_stated(figure, text_of(figure.page))
    assert len({figure.name for figure in registry}) == len(registry)


def test_no_page_has_a_measured_number_that_the_ledger_does_not_have():
    figures = script_of("figures")
    assert figures.ledger.differences(ROOT, figures.LEDGER) == [], "see packaging/ledger.py"


def test_what_the_ledger_names_as_its_measurement_is_there():
    figures = script_of("figures")
    named = {
        by for page in json.loads(figures.LEDGER.read_text()).values() for entry in page.values() for by in entry["by"]
    }
    verbs = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    for by in named:
        kind, _, what = by.partition(" ")
        assert kind in figures.ledger.KINDS, by
        assert kind != "python" or (ROOT / what.split()[0]).exists(), by
        assert kind != "make" or what in verbs, by


def test_every_number_of_the_pages_is_measured_again_or_the_ledger_says_why_not():
    figures = script_of("figures")
    measured = figures.read_measured(figures.read_registry(figures.REGISTRY), ROOT)
    counts, left = figures.ledger.unmeasured(ROOT, figures.LEDGER, measured)
    book = json.loads(figures.LEDGER.read_text())
    reasons = {(page, title) for page, named in book.items() for title, entry in named.items() if "why" in entry}
    assert set(left) == reasons, 'write "of" or "why" into the ledger, or take away a "why" that nothing needs'
    assert counts["measured"] > counts["unmeasured"]
    again = {number for numbers in measured.values() for number in numbers}
    pages = figures.ledger.read_pages(ROOT)
    for page, named in book.items():
        for title, entry in named.items():
            explained = Counter(number for some in entry.get("of", {}).values() for number in some.split())
            rest = Counter(pages[page][title]) - Counter(measured.get((page, title), []))
            assert explained <= rest, f'{page}, "{title}": "of" explains what is measured, or not there'
            assert set(entry.get("of", {})) <= set(figures.ledger.SOURCES)
            assert set(entry.get("of", {}).get("repeated", "").split()) <= again, f'{page}, "{title}"'


PAGE = """Speed
=====

It takes 3.4 ms (`about 9.9`), for 12 leads. Version 0.1.0 of 2.

.. code-block:: python

   slow = 7.5

.. list-table::
   :header-rows: 1

   * - records
     - 1,024 of ``4096``
"""


def test_a_number_that_moves_on_its_page_alone_is_found(tmp_path):
    ledger = script_of("figures").ledger
    page, kept = tmp_path / "docs" / "speed.rst", tmp_path / "ledger.json"
    page.parent.mkdir()
    page.write_text(PAGE)
    ledger.keep(tmp_path, kept)
    assert "nothing says what measured" in ledger.differences(tmp_path, kept)[0]
    kept.write_text(kept.read_text().replace('"by": []', '"by": ["log"]'))
    assert json.loads(kept.read_text()) == {"docs/speed.rst": {"Speed": {"by": ["log"], "numbers": "1,024 3.4"}}}
    assert ledger.differences(tmp_path, kept) == []
    page.write_text(PAGE.replace("3.4", "3.1"))
    assert ledger.differences(tmp_path, kept) == ['docs/speed.rst, "Speed": the page has 3.1 where 3.4 was measured']
    page.write_text(PAGE.replace("12 leads", "12 leads in 8 minutes"))
    assert "the page has 8 where nothing" in ledger.differences(tmp_path, kept)[0]
    page.write_text(PAGE.replace("Speed\n", "Time\n"))
    assert ["Speed" in said for said in ledger.differences(tmp_path, kept)] == [True, False, False]
    page.write_text(PAGE.replace("3.4", "3.1"))
    kept.write_text(kept.read_text().replace("log", "set"))
    assert ledger.differences(tmp_path, kept) == []


def test_the_account_counts_what_measures_a_number_and_names_what_nothing_does(tmp_path):
    ledger = script_of("figures").ledger
    page, kept = tmp_path / "docs" / "speed.rst", tmp_path / "ledger.json"
    page.parent.mkdir()
    page.write_text(PAGE + "\nThey have 0.9, we 0.8, and 0.8 again, in 7 minutes.\n")
    assert ledger.title_at(page, page.read_text().index("0.9,")) == "Speed"
    entry = {
        "by": ["log", "published"],
        "numbers": "0.8 0.8 0.9 1,024 3.4 7",
        "of": {"published": "0.9", "set": "1,024"},
    }
    kept.write_text(json.dumps({"docs/speed.rst": {"Speed": entry | {"why": "nobody waits for it"}}}))
    counts, left = ledger.unmeasured(tmp_path, kept, {("docs/speed.rst", "Speed"): ["3.4", "0.8", "5"]})
    assert counts == {"measured": 2, "published": 1, "set": 1, "unmeasured": 2}
    assert left == {("docs/speed.rst", "Speed"): ["0.8", "7"]}
    said = ledger.account(tmp_path, kept, {("docs/speed.rst", "Speed"): ["3.4", "0.8"]})
    assert said.splitlines()[1].split() == ["2", "docs/speed.rst,", '"Speed":', "nobody", "waits", "for", "it"]
    ledger.keep(tmp_path, kept)
    assert json.loads(kept.read_text())["docs/speed.rst"]["Speed"]["of"] == entry["of"]


def test_systems_without_links_or_locks_read_and_write_all_the_same(tmp_path, monkeypatch):
    from skecg.io import wfdb
    from skecg.io.files import alone_in

    def refuse(*_, **__):
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.dat").write_bytes(b"signal")
    wfdb._make_visible(tmp_path / "a.dat", tmp_path / "b.dat")
    assert (tmp_path / "b.dat").read_bytes() == b"signal"

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
