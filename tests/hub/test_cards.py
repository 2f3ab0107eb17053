"""Cards on their way out: nothing that somebody wrote is lost, and CHAI's form has every field."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hub_weights import FIXTURES, TRAINED, make_weights, report_of, start

from skecg import FineTunedClassifier, JEPAEmbedder
from skecg.cli import main
from skecg.datasets import make_ecg
from skecg.errors import ParameterError, PublishError, WeightsNotFoundError
from skecg.hub import applied_model_card, publish
from skecg.hub.downloading import download
from skecg.weights import read_info

REPO = "someone/new"
DEFAULT = importlib.resources.files("skecg") / "pretrained" / "skecg-xs-5"

# The elements of mc-schema v0.2 in their order: ? may be absent, * any number, + at least one.
CHAI = {
    "AppliedModelCard": "BasicInfo ReleaseInfo ModelSummary UsesAndDirections Warnings TrustIngredients KeyMetrics "
    "Resources Bibliography",
    "BasicInfo": "ModelName ModelDeveloper DeveloperContact",
    "ReleaseInfo": "ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability EHRCompatibility? RegulatoryApproval?",
    "ModelSummary": "Summary Keywords",
    "Keywords": "Keyword*",
    "UsesAndDirections": "IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse TargetedPatientPopulation "
    "CautionedOutOfScopeSettings",
    "Warnings": "KnownRisksAndLimitations KnownBiasesOrEthicalConsiderations ClinicalRiskLevel",
    "TrustIngredients": "AISystemFacts TransparencyInformation",
    "AISystemFacts": "OutcomesAndOutputs ModelType FoundationModels? InputDataSource OutputAndInputDataTypes "
    "DevelopmentDataCharacterization BiasMitigationApproaches OngoingMaintenance Security? Transparency?",
    "TransparencyInformation": "FundingSource ThirdPartyInformation? StakeholdersConsulted",
    "KeyMetrics": "UsefulnessUsabilityEfficacy FairnessEquity SafetyReliability",
    **dict.fromkeys(
        ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"),
        "MetricGoal Results Interpretation TestType TestingDataDescription ValidationProcessAndJustification",
    ),
    "Results": "MetricResult+",
    "MetricResult": "Label ValueJson",
    "Resources": "EvaluationReferences? ClinicalTrial? PeerReviewedPublications ReimbursementStatus? "
    "PatientConsentOrDisclosure",
}


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """The default weights as a folder of the user's."""
    folder = tmp_path_factory.mktemp("default") / "mine"
    shutil.copytree(DEFAULT, folder)
    return folder


def card_of(hub, done, repository=REPO):
    return hub.repositories[repository].commits[done.commit]["README.md"].decode()


def body(card):
    return card.split("---\n", 2)[2]


def check_order(element):
    """Compare an element and all in it with the schema."""
    name = element.tag.removeprefix("{https://mc.chai.org/v0.2/schema.xsd}")
    assert element.tag != name
    found = [child.tag.split("}")[1] for child in element]
    for wanted in CHAI.get(name, "").split():
        kind = wanted.rstrip("?*+")
        n_found = 0
        while found and found[0] == kind:
            found.pop(0)
            n_found += 1
        assert n_found >= (not wanted.endswith(("?", "*"))), f"{name} lacks {kind}"
        assert n_found <= 1 or wanted.endswith(("*", "+"))
    assert not found, f"{name} holds {found}"
    for child in element:
        check_order(child)


def test_publishing_changes_nothing_of_a_card_but_how_the_weights_are_named(hub, default):
    done = publish(default, REPO)
    published, own = body(card_of(hub, done)), body((default / "README.md").read_text(encoding="utf-8"))
    pin = published[published.index("`someone/new` is whatever") : published.index("## The encoder")]
    back = published.replace(f"\n\n{pin}", "\n\n").replace(f'"{REPO}"', '"skecg-xs-5"')
    assert back.replace(f"skecg verify {REPO}", "skecg verify skecg-xs-5") == own
    assert "No scores were published" not in published
    assert hub.repositories[REPO].commits[done.commit]["curves.png"] == (default / "curves.png").read_bytes()


def test_the_scores_of_a_card_are_in_the_hubs_own_form(hub, default):
    from huggingface_hub import ModelCard

    results = ModelCard(card_of(hub, publish(default, REPO))).data.eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [
        ("roc_auc", 0.923), ("average_precision", 0.804),
    ]  # fmt: skip
    assert "95 % interval 0.916 to 0.930" in results[0].metric_name


def test_weights_loaded_by_commit_elsewhere_are_verified_and_have_the_same_card(hub, default, environment, tmp_path):
    done = publish(default, REPO, tag="v1")
    publish(make_weights(tmp_path / "other", **TRAINED), REPO)
    code = f"""
import sys
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.hub.downloading import download
embedder = JEPAEmbedder.from_pretrained({REPO!r}, revision={done.commit!r})
assert embedder.fit_transform(make_ecg(1, random_state=0)[0]).shape == (1, 1188)
assert embedder.revision_ == {done.commit!r}
assert embedder.verify().passed
download({REPO!r}, {str(tmp_path / "there")!r}, revision={done.commit!r})
"""
    process = start(environment | {"HF_HOME": str(tmp_path / "elsewhere")}, code)
    assert process.communicate()[1] == ""
    files = hub.repositories[REPO].commits[done.commit]
    there = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert there == {name: content for name, content in files.items() if name != ".gitattributes"}


def test_what_skecg_wrote_into_a_card_is_brought_up_to_date_and_the_rest_stays(hub, tmp_path):
    weights = make_weights(tmp_path / "tiny", **TRAINED)
    path = weights / "README.md"
    added = "## Not for you\n\n```\n## no heading\n```\n\nIt “lies”.\n"
    front, text = path.read_text(encoding="utf-8").split("---\n", 2)[1:]
    path.write_text(f"---\n{front}language: en\ntags: [mine]\n---\n{text}\n{added}", encoding="utf-8")
    card = card_of(hub, publish(weights, REPO, evaluations=[report_of(weights, tmp_path / "report.json")]))
    assert card.endswith(added)
    assert "[Creative Commons Attribution 4.0 International]" in card
    assert "0.912 | 95 % interval 0.900 to 0.923 | 2158 |" in card
    assert 'JEPAEmbedder("someone/new")' in card
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["language"] == "en"
    assert {"mine", "ecg"} <= set(values["tags"])
    assert values["model-index"]


def test_a_card_of_ones_own_is_kept_and_what_it_lacks_is_added(hub, tmp_path):
    weights = make_weights(tmp_path / "tiny", **TRAINED)
    (weights / "README.md").write_text("# Mine\r\n\r\nFor horses.\r\n", encoding="utf-8")
    text = body(card_of(hub, publish(weights, REPO)))
    assert text.startswith("\n# Mine\n\nFor horses.\n\n## Use\n")
    assert all(heading in text for heading in ("## Training data and licence", "## Limits", "skecg verify someone/new"))
    (weights / "README.md").unlink()
    assert "A tiny encoder." in card_of(hub, publish(weights, REPO))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "not text in UTF-8"),
        (b"---\na: [\n---\n", "are no YAML"),
        (b"---\n- a\n---\n", "expected lines like"),
        (b"| sha256 of `model.safetensors` | `" + b"0" * 64 + b"` |", "unverified: its README.md describes other"),
    ],
)
def test_a_card_that_cannot_go_with_the_weights_is_refused(hub, tmp_path, content, words):
    weights = make_weights(tmp_path / "tiny", **TRAINED)
    (weights / "README.md").write_bytes(content)
    with pytest.raises(PublishError, match=words):
        publish(weights, REPO)
    assert REPO not in hub.repositories


def test_the_first_paragraph_says_what_the_weights_are_good_for(tmp_path):
    card = (make_weights(tmp_path / "tiny", **TRAINED) / "README.md").read_text(encoding="utf-8")
    assert body(card).split("\n\n")[1].startswith("Turns an ECG recording into 16 numbers. They are good for research")


def test_saving_and_loading_go_by_the_names_of_other_libraries_too(tmp_path, tiny, ecg):
    embedder = JEPAEmbedder.from_pretrained(tiny, pooling="max")
    assert embedder.get_params()["pooling"] == "max"
    saved = embedder.fit(ecg).save_pretrained(tmp_path / "saved")
    assert {name for name, _, _ in saved.files} >= {"config.json", "model.safetensors", "README.md"}
    again = JEPAEmbedder.from_pretrained(tmp_path / "saved").fit(ecg)
    assert again.weights_sha256_ == embedder.weights_sha256_
    with pytest.raises(WeightsNotFoundError):
        JEPAEmbedder.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="is a file"):
        embedder.save_pretrained(tiny / "config.json")


def test_the_head_that_an_embedder_pools_by_goes_with_its_weights(hub, tmp_path, capsys):
    records, labels = make_ecg(8, duration_seconds=4.0, conduction=["normal", "lbbb"], random_state=0)
    tuned = FineTunedClassifier(FIXTURES / "tiny-temporal", head="attention", epochs=1, stages="head", random_state=0)
    tuned.fit(records, labels["conduction"]).save(tmp_path / "tuned")
    embedder = JEPAEmbedder(tmp_path / "tuned", pooling="attention", cache=None).fit(records)
    wanted = embedder.transform(records)

    embedder.save_pretrained(tmp_path / "saved")
    saved = JEPAEmbedder.from_pretrained(tmp_path / "saved", pooling="attention", cache=None)
    np.testing.assert_array_equal(saved.fit_transform(records), wanted)

    embedder.push_to_hub("someone/tuned", allow=["incomplete", "unverified", "licence"])
    fetched = JEPAEmbedder.from_pretrained("someone/tuned", pooling="attention", cache=None)
    np.testing.assert_array_equal(fetched.fit_transform(records), wanted)

    command = ["publish", str(tmp_path / "tuned"), "--repo", "someone/else", "--dry-run", "--allow", "incomplete"]
    command += ["--allow", "unverified", "--allow", "licence"]
    assert main([*command, "--with-head"]) == 0
    assert "head.safetensors" in capsys.readouterr().out
    assert main(command) == 0
    assert "head.safetensors" not in capsys.readouterr().out

    # Names of classes go nowhere unasked.
    JEPAEmbedder(tmp_path / "tuned", cache=None).fit(records).save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder" / "classifier.json").exists()


@pytest.mark.parametrize("model", ["default", "untrained-temporal"])
def test_the_applied_model_card_has_every_element_of_the_schema_in_its_order(model):
    root = ElementTree.fromstring(applied_model_card(model, developer="A & B", contact="a\x0b@b.example"))
    check_order(root)
    texts = {element.tag.split("}")[1]: element.text for element in root.iter()}
    assert (texts["ModelDeveloper"], texts["DeveloperContact"]) == ("A & B", "a@b.example")
    assert all(json.loads(element.text) is not ... for element in root.iter() if element.tag.endswith("ValueJson"))


def test_the_applied_model_card_says_what_the_card_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "default", "--chai", "--to", "card.xml", "--developer", "The skecg developers"]) == 0
    text = (tmp_path / "card.xml").read_text(encoding="utf-8")
    for words in ("<ValueJson>0.923</ValueJson>", "**Leakage.**", "What lies above 40 Hz", "The skecg developers"):
        assert words in text
    assert main(["export", "default", "--chai", "--to", "card.onnx"]) == 2


@pytest.mark.parametrize(("known", "is_without"), [({}, False), ({"recipe": "tiny"}, True)])
def test_only_what_a_recipe_trained_is_said_to_be_trained_without_labels(hub, tmp_path, known, is_without):
    weights = make_weights(tmp_path / "tiny", **TRAINED | known)
    tags = yaml.safe_load(card_of(hub, publish(weights, REPO, allow=["dirty", "incomplete"])).split("---")[1])["tags"]
    assert ("self-supervised" in tags) == is_without
    text = applied_model_card(weights)
    assert ("trained without labels." in text, "self-supervised learning" in text) == (is_without, is_without)
    assert is_without or "temporal, trained." in text


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"trained": False}, "None."),
        ({"trained": True, "recipe": "tiny"}, "None."),
        ({"trained": True, "recipe": "tiny", "started_from": "a (sha256 ab)"}, "a (sha256 ab)."),
        ({"trained": True, "fine_tuned_from": "a"}, "a."),
        ({"fine_tuned_from": "a", "fine_tuned_from_sha256": "ab"}, "a, sha256 of model.safetensors ab."),
        ({"trained": True}, "Not stated."),
    ],
)
def test_the_weights_that_a_training_began_with_are_named(tmp_path, known, words):
    text = applied_model_card(make_weights(tmp_path / "tiny", **known))
    assert f"<FoundationModels>{words}</FoundationModels>" in text


def test_what_is_not_known_is_said_not_to_be(tmp_path):
    weights = make_weights(tmp_path / "tiny", name="tiny")
    (weights / "golden.safetensors").unlink()
    (weights / "README.md").write_text("# Mine\n")
    text = applied_model_card(weights)
    check_order(ElementTree.fromstring(text))
    assert "not known to be trained" in text
    assert text.count("<Label>Not measured.</Label>") == 3
    assert read_info(weights).sha256 in text
    assert download(str(weights), tmp_path / "copy").files
