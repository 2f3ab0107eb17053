from __future__ import annotations

import json

import pytest
from hub_weights import FIXTURES, TRAINED, files_of, make_weights, report_of

from skecg import JEPAEmbedder
from skecg.cli import main
from skecg.hub import registry_entry
from skecg.hub.downloading import download
from skecg.weights import read_info
from skecg.weights import registry as names

REPO = "someone/new"


@pytest.fixture
def weights(tmp_path):
    return make_weights(tmp_path / "tiny", **TRAINED)


def test_publish_prints_files_commit_and_the_entry_of_the_registry(hub, weights, capsys):
    assert main(["publish", str(weights), "--repo", REPO, "--tag", "v1"]) == 0
    said = capsys.readouterr().out
    commit = hub.repositories[REPO].tags["v1"]
    assert f"{REPO}: committed {commit}, tag v1" in said
    assert read_info(weights).sha256 in said
    entry = json.loads(said.split("entry for the registry: ")[1])
    assert entry == registry_entry(weights, REPO, commit)


def test_publish_dry_run_lists_everything_and_leaves_the_files_to_look_at(hub, weights, tmp_path, capsys):
    report = report_of(weights, tmp_path / "report.json")
    options = [
        "--evaluation",
        str(report),
        "--hub-dataset",
        "ptbxl=someone/ptb-xl",
        "--data-licence",
        "ptb-xl=CC-BY-4.0",
    ]
    stage = tmp_path / "stage"
    assert main(["publish", str(weights), "--repo", REPO, "--dry-run", "--stage", str(stage), *options]) == 0
    said = capsys.readouterr().out
    staged = {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()}
    assert ".eval_results/skecg_ptbxl.yaml" in staged
    assert all(name in said for name in staged)
    assert hub.repositories == {}


def test_publish_refuses_with_the_words_that_allow_it(hub, capsys):
    tiny = str(FIXTURES / "tiny-temporal")
    assert main(["publish", tiny, "--repo", REPO]) == 2
    assert "--allow untrained" in capsys.readouterr().err
    assert main(["publish", tiny, "--repo", REPO, "--allow", "untrained", "--private"]) == 0
    assert hub.repositories[REPO].private
    with pytest.raises(SystemExit):
        main(["publish", tiny, "--repo", REPO, "--data-licence", "nonsense"])


def test_download_gives_a_folder_that_works_without_a_network(published, offline, tmp_path, capsys, ecg):
    commit = published.repositories["someone/tiny"].branches["main"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training_config.json").write_text("of former weights")
    assert main(["download", "someone/tiny", "--revision", "v1", "--to", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"at commit {commit}" in said
    assert "licence: apache-2.0" in said
    for name, content in files_of(tmp_path / "out").items():
        assert content == (FIXTURES / "tiny-temporal" / name).read_bytes()
        assert f"{len(content):,} bytes" in said
    assert read_info(tmp_path / "out").sha256 in said
    offline()
    assert JEPAEmbedder(tmp_path / "out").fit(ecg).verify().passed
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_download_knows_the_names_of_the_registry_and_the_bundled_weights(published, tmp_path, monkeypatch):
    assert download("default", tmp_path / "bundled").source == "default"
    assert JEPAEmbedder(tmp_path / "bundled").verify().passed
    commit = published.repositories["someone/tiny"].branches["main"]
    entry = {"repository": "someone/tiny", "commit": commit, "sha256": read_info(FIXTURES / "tiny-temporal").sha256}
    monkeypatch.setattr(names, "_registry", lambda: {"tiny": entry})
    found = download("tiny", tmp_path / "named")
    assert commit in str(found)
    assert {name for name, _, _ in found.files} >= {"README.md", "config.json"}


def test_download_of_damaged_weights_leaves_no_folder(published, tmp_path, capsys):
    published.altered = True
    assert main(["download", "someone/tiny", "--to", str(tmp_path / "out")]) == 2
    assert "truncated or altered" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_shows_where_published_weights_lie_and_how_they_scored(
    published, weights, tmp_path, monkeypatch, capsys
):
    report = report_of(weights, tmp_path / "report.json")
    entry = registry_entry(weights, "someone/tiny", "0" * 40, evaluations=[report])
    monkeypatch.setattr(names, "_registry", lambda: {"tiny": entry})
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert f"tiny: someone/tiny at commit {'0' * 40}, sha256 {entry['sha256']}" in said
    assert "tiny: ptbxl superdiagnostic, macro AUROC 0.912 (0.900 to 0.923)" in said
