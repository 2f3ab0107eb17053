from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from fake_hub import error
from hub_weights import FIXTURES, TRAINED, files_of, make_weights, report_of

import skecg
from skecg import JEPAEmbedder
from skecg.convert import convert_onnx
from skecg.errors import HubAccessError, HubUnreachableError, ParameterError, PublishError, WeightsError
from skecg.hub import publish, registry_entry
from skecg.hub.downloading import download
from skecg.hub.licences import data_licences, read_licence
from skecg.weights import (
    check_signature,
    find_weights,
    list_models,
    read_info,
    sign_weights,
    verify_weights,
    write_directions,
)

REPO = "someone/new"


@pytest.fixture
def weights(tmp_path):
    return make_weights(tmp_path / "tiny", **TRAINED)


def writes(hub):
    return [request for request in hub.requests if request.split()[0] in ("POST", "PUT") and "validate" not in request]


def commits(hub, repository=REPO):
    return len(hub.repositories[repository].commits) - 1


def test_an_encoder_from_an_onnx_file_is_published_like_any_other(hub, tmp_path, ecg):
    helper = pytest.importorskip("onnx").helper
    pytest.importorskip("onnxruntime")
    kind, shape = helper.make_tensor_value_info, ["n", 12, 500]
    pool = helper.make_node("ReduceMax", ["x"], ["features"], axes=[2], keepdims=0)
    graph = helper.make_graph([pool], "g", [kind("x", 1, shape)], [kind("features", 1, ["n", 12])])
    opset = helper.make_opsetid("", 13)
    (tmp_path / "theirs.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    )
    spec = skecg.spec.InputSpec(skecg.leads.CANONICAL_LEADS, 100, 500)
    about = {"licence": "mit", "description": "The largest value of each lead.", "data": "none"}
    convert_onnx(tmp_path / "theirs.onnx", tmp_path / "weights", spec, **about)
    with pytest.raises(PublishError, match=r"untrained: .* do not say that they were trained"):
        publish(tmp_path / "weights", REPO)
    convert_onnx(tmp_path / "theirs.onnx", tmp_path / "weights", spec, **about, trained=True)
    publish(tmp_path / "weights", REPO)
    assert verify_weights(find_weights(REPO)).passed
    here, there = (JEPAEmbedder(model, cache=None).fit_transform(ecg) for model in (tmp_path / "weights", REPO))
    assert (here == there).all()


def test_a_signature_goes_along_and_holds_for_what_others_fetch(hub, weights, tmp_path):
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    written = private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    (tmp_path / "key.pem").write_bytes(written)
    public = private.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    sign_weights(weights, tmp_path / "key.pem")
    publish(weights, REPO)
    check_signature(find_weights(REPO).folder, tmp_path / "key.pub")


def test_what_is_published_is_what_is_loaded(hub, weights, ecg):
    done = publish(weights, REPO, tag="v1")
    assert commits(hub) == 1
    info = find_weights(REPO, revision="v1")
    assert info.revision == done.commit == hub.repositories[REPO].branches["main"]
    assert info.sha256 == read_info(weights).sha256
    assert verify_weights(info).passed
    here, there = (JEPAEmbedder(model, cache=None).fit_transform(ecg) for model in (weights, REPO))
    assert (here == there).all()
    names = set(hub.repositories[REPO].commits[done.commit])
    assert names == {
        ".gitattributes", "LICENSE", "README.md", "config.json", "golden.safetensors", "model.safetensors",
    }  # fmt: skip


def test_principal_directions_travel_with_the_weights(hub, weights, ecg, tmp_path):
    write_directions(weights, np.random.default_rng(0).normal(size=(20, 16)))
    publish(weights, REPO)

    here, there = (JEPAEmbedder(m, truncate_dim=3, cache=None).fit_transform(ecg) for m in (weights, REPO))
    assert here.shape[1] == 3
    assert (here == there).all()
    download(REPO, tmp_path / "out")
    assert verify_weights(read_info(tmp_path / "out")).passed


def test_publishing_the_same_again_commits_nothing_and_keeps_the_tag(hub, weights):
    first = publish(weights, REPO, tag="v1")
    hub.forget()
    again = publish(weights, REPO, tag="v1")
    assert again.commit == first.commit
    assert not again.changed
    assert "nothing has changed" in str(again)
    assert commits(hub) == 1
    assert not [request for request in writes(hub) if "/commit/" in request or "/tag/" in request]


def test_a_tag_that_failed_is_made_when_publishing_again(hub, weights):
    first = publish(weights, REPO)
    publish(weights, REPO, tag="v1")
    assert hub.repositories[REPO].tags == {"v1": first.commit}
    assert commits(hub) == 1


def test_a_tag_never_moves_and_nothing_is_committed_under_a_taken_one(hub, weights):
    first = publish(weights, REPO, tag="v1")
    make_weights(weights, **TRAINED | {"name": "other"})
    with pytest.raises(PublishError, match="tags stay what they are"):
        publish(weights, REPO, tag="v1")
    assert commits(hub) == 1
    second = publish(weights, REPO, tag="v2")
    assert hub.repositories[REPO].tags == {"v1": first.commit, "v2": second.commit}
    assert find_weights(REPO, revision="v1").provenance["name"] == "tiny"


def test_somebody_elses_commit_in_between_is_not_written_over(hub, weights):
    publish(weights, REPO)
    make_weights(weights, **TRAINED | {"name": "other"})
    hub.before_commit = lambda repository: repository.commit({"config.json": b"theirs"})
    with pytest.raises(PublishError, match="Somebody else changed someone/new"):
        publish(weights, REPO)
    repository = hub.repositories[REPO]
    assert repository.commits[repository.branches["main"]] == {"config.json": b"theirs"}


@pytest.mark.parametrize("status", [403, 409, 503])
def test_a_tag_that_the_hub_does_not_make_is_said_of_files_that_are_published(hub, weights, monkeypatch, status):
    with monkeypatch.context() as patch:
        patch.setattr(hub, "tag", lambda *_, **__: error(status, message="no"))
        with pytest.raises(PublishError, match=r"holds the files, as commit \w{40}, but the tag") as caught:
            publish(weights, REPO, tag="v1")
    assert "othing was" not in str(caught.value)
    assert f"{status} " in str(caught.value)
    again = publish(weights, REPO, tag="v1")
    assert again.commit in str(caught.value)
    assert hub.repositories[REPO].tags == {"v1": again.commit}
    assert commits(hub) == 1


@pytest.mark.parametrize("status", [412, 504])
def test_a_commit_whose_answer_is_lost_is_published_all_the_same(hub, weights, monkeypatch, status):
    commit = hub.commit

    def lost(*given, **named):
        commit(*given, **named)
        return error(status, message="no")

    monkeypatch.setattr(hub, "commit", lost)
    done = publish(weights, REPO, tag="v1")
    assert hub.repositories[REPO].tags == {"v1": done.commit}
    assert find_weights(REPO).revision == done.commit
    assert commits(hub) == 1


def test_a_commit_that_got_no_answer_and_is_not_there_may_still_come(hub, weights, monkeypatch):
    monkeypatch.setattr(hub, "commit", lambda *_, **__: error(504, message="no"))
    with pytest.raises(HubUnreachableError, match=r"no answer to what was sent .*504 .* is not known"):
        publish(weights, REPO)


def test_a_dry_run_says_everything_and_sends_nothing(hub, weights, tmp_path):
    done = publish(weights, REPO, dry_run=True, stage=tmp_path / "stage")
    assert done.commit is None
    assert {file.state for file in done.files} == {"new"}
    assert writes(hub) == []
    assert REPO not in hub.repositories
    assert {file.name for file in done.files} == {path.name for path in (tmp_path / "stage").iterdir()}
    real = publish(weights, REPO)
    files = hub.repositories[REPO].commits[real.commit]
    assert all(files[file.name] == (tmp_path / "stage" / file.name).read_bytes() for file in done.files)
    assert {file.state for file in publish(weights, REPO, dry_run=True).files} == {"unchanged"}
    assert "dry run: nothing was sent" in str(done)


def test_a_dry_run_needs_neither_token_nor_network(hub, weights, offline, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    offline()
    assert len(publish(weights, REPO, dry_run=True).files) == 5
    assert hub.requests == []


def test_publishing_leaves_the_folder_as_it_is(hub, weights):
    before = files_of(weights)
    publish(weights, REPO)
    assert files_of(weights) == before


def test_a_private_repository_is_private(hub, weights, monkeypatch):
    publish(weights, REPO, private=True)
    assert hub.repositories[REPO].private
    find_weights(REPO)
    publish(weights, "someone/open")
    with pytest.raises(PublishError, match="is public and was to be private"):
        publish(weights, "someone/open", private=True)


@pytest.mark.parametrize(
    ("provenance", "reason", "words"),
    [
        ({"trained": False}, "untrained", "random numbers"),
        ({"trained": None}, "untrained", "do not say that they were trained"),
        ({"code": {"commit": "ab" * 20, "dirty": True}}, "dirty", "changed and not committed"),
        ({"licence": None}, "licence", "name no licence"),
        ({"licence_note": "Nobody knows."}, "licence", "not certain: Nobody knows"),
        ({"data": "our clinic (9 records)"}, "licence", "our clinic, .* no licence that is known here"),
        (
            {"data": "x (9)", "data_licences": {"x": "CC-BY-NC-4.0"}},
            "licence",
            "non-commercial use only, and Apache-2.0",
        ),
        ({"data": "x", "data_licences": {"x": "CC-BY-SA-4.0"}}, "licence", "wants the same licence"),
        ({"data": "x", "data_licences": {"x": "CC-BY-ND-4.0"}}, "licence", "does not let what is made of it"),
        ({"data": "x", "data_licences": {"x": "PhysioNet-Credentialed-1.5.0"}}, "licence", "does not let what is made"),
        ({"data": "x", "data_licences": {"x": "secret"}}, "licence", "'secret', which is not known here"),
    ],
)
def test_what_should_not_be_published_is_refused_unless_allowed_by_name(hub, tmp_path, provenance, reason, words):
    folder = make_weights(tmp_path / "w", **TRAINED | provenance)
    with pytest.raises(PublishError, match=words) as refusal:
        publish(folder, REPO)
    assert f"--allow {reason}" in str(refusal.value)
    assert hub.requests == []
    others = [name for name in ("untrained", "unverified", "incomplete", "dirty", "licence") if name != reason]
    with pytest.raises(PublishError, match=words):
        publish(folder, REPO, allow=others)
    done = publish(folder, REPO, allow=[reason])
    assert done.commit is not None
    assert [text.split(":")[0] for text in done.waived] == [reason]


@pytest.mark.parametrize(
    ("licence", "data"),
    [
        ("Apache-2.0", {"x": "CC-BY-4.0"}),
        ("apache-2.0", {"x": "ODbL-1.0"}),
        ("CC-BY-NC-4.0", {"x": "CC-BY-NC-4.0"}),
        ("cc-by-nc-sa-4.0", {"x": "cc-by-nc-4.0"}),
        ("CC-BY-SA-4.0", {"x": "CC-BY-SA-4.0"}),
        ("MIT", {"x": "CC0-1.0"}),
    ],
)
def test_licences_that_go_together_do(hub, tmp_path, licence, data):
    folder = make_weights(tmp_path / "w", **TRAINED | {"licence": licence, "data": "x", "data_licences": data})
    assert publish(folder, REPO).waived == ()


def test_the_user_may_say_what_licence_the_data_have(hub, tmp_path):
    folder = make_weights(tmp_path / "w", **TRAINED | {"data": "ours (9 records), ptb-xl (4 records)"})
    publish(folder, REPO, data_licence={"ours": "CC-BY-4.0"})
    with pytest.raises(PublishError, match="ptb-xl is under CC-BY-ND"):
        publish(folder, REPO, data_licence={"ours": "CC-BY-4.0", "PTB-XL": "CC-BY-ND-4.0"})


def test_names_in_any_script_are_told_apart():
    told = {"北京": "CC-BY-4.0", "Ω 2": "CC-BY-ND-4.0"}
    assert data_licences({"data": "北京, 上海, Ω-2"}, told) == {
        "北京": "CC-BY-4.0",
        "上海": None,
        "Ω-2": "CC-BY-ND-4.0",
    }


@pytest.mark.parametrize(
    ("data", "option", "words"),
    [
        ("ptb-xl (4 records), ludb", {"data_licence": {"ludbb": "MIT"}}, "'ptb-xl', 'ludb'. Did you mean 'ludb'"),
        ("none", {"data_licence": {"ludb": "MIT"}}, "a licence of 'ludb', expected .* none, for they name none"),
        ("none", {"hub_datasets": {"ptb-xl": "a/b"}}, "no report was passed"),
        ("none", {"hub_datasets": {"ptb-xl": "a/b"}, "evaluations": True}, "of: 'ptbxl'. Did you mean 'ptbxl'"),
        ("none", {"with_head": True}, r"with_head=True \(--with-head\), but .* holds no head\.safetensors"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(hub, tmp_path, data, option, words):
    folder = make_weights(tmp_path / "w", **TRAINED | {"data": data})
    more = {"evaluations": [report_of(folder, tmp_path / "report.json")]} if "evaluations" in option else {}
    with pytest.raises(ParameterError, match=words):
        publish(folder, REPO, **option | more, dry_run=True)


def test_titles_after_a_colon_hide_no_archive(hub, tmp_path):
    data = {"data": "ours: a title; closed: another (4 records)", "data_licences": {"ours": "CC0-1.0"}}
    folder = make_weights(tmp_path / "w", **TRAINED | data)
    with pytest.raises(PublishError, match="closed, which they were trained on, has no licence"):
        publish(folder, REPO)
    assert data_licences({"data": ["PTB-XL", "mine and yours"]}) == {"PTB-XL": "CC-BY-4.0", "mine": None, "yours": None}


def test_a_trained_run_without_its_configuration_or_golden_vectors_is_incomplete(hub, tmp_path):
    folder = make_weights(tmp_path / "w", **TRAINED | {"recipe": "tiny", "skecg": "1.0"})
    (folder / "golden.safetensors").unlink()
    with pytest.raises(PublishError, match=r"incomplete: the folder lacks golden\.safetensors, training_config\.json"):
        publish(folder, REPO)
    (folder / "training_config.json").write_text("{}")
    done = publish(folder, REPO, allow="incomplete")
    assert "training_config.json" in [file.name for file in done.files]


def test_a_development_version_without_its_commit_is_dirty(hub, tmp_path):
    folder = make_weights(tmp_path / "w", **TRAINED | {"recipe": "tiny", "skecg": "0.1.0.dev0"})
    (folder / "training_config.json").write_text("{}")
    with pytest.raises(PublishError, match=r"dirty: .*its commit was not written down"):
        publish(folder, REPO)


def test_golden_vectors_that_do_not_agree_are_unverified(hub, weights):
    encoder, spec = skecg.load_encoder(weights)
    golden = (weights / "golden.safetensors").read_bytes()
    encoder.norm.weight.mul_(1.01)
    skecg.save_encoder(weights, encoder, spec, **TRAINED)
    (weights / "golden.safetensors").write_bytes(golden)
    with pytest.raises(PublishError, match=r"unverified: .*DIFFERS"):
        publish(weights, REPO)
    (weights / "golden.safetensors").write_bytes(b"nothing")
    with pytest.raises(PublishError, match=r"unverified: .*no readable safetensors"):
        publish(weights, REPO)


def test_damaged_weights_cannot_be_published_by_any_name(hub, weights):
    content = bytearray((weights / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (weights / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="altered"):
        publish(weights, REPO, allow=["untrained", "unverified", "incomplete", "dirty", "licence"])


def test_wrong_arguments_are_refused_before_anything_is_sent(hub, weights):
    with pytest.raises(ParameterError, match="expected 'owner/name'"):
        publish(weights, "just-a-name")
    with pytest.raises(ParameterError, match="Got 'licenses' to allow"):
        publish(weights, REPO, allow=["licenses"])
    assert hub.requests == []


def test_publishing_without_a_token_or_with_one_that_may_not_says_so(hub, weights, monkeypatch):
    hub.read_only = True
    with pytest.raises(HubAccessError, match="forbids this user"):
        publish(weights, REPO)
    hub.read_only, hub.expired = False, True
    with pytest.raises(HubAccessError, match="expired"):
        publish(weights, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubAccessError, match="this machine has none"):
        publish(weights, REPO)
    assert REPO not in hub.repositories


def test_publishing_offline_says_so(hub, weights, offline):
    offline()
    with pytest.raises(HubUnreachableError, match="the network may not be used"):
        publish(weights, REPO)


def test_scores_go_into_card_and_results_in_the_hubs_form(hub, weights, tmp_path):
    from huggingface_hub import ModelCard, parse_eval_result_entries

    report = report_of(weights, tmp_path / "report.json")
    done = publish(weights, REPO, evaluations=[report], hub_datasets={"ptbxl": "someone/ptb-xl"})
    files = hub.repositories[REPO].commits[done.commit]
    card = ModelCard(files["README.md"].decode())
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["roc_auc"].metric_value == 0.9123
    assert found["roc_auc"].metric_name == "macro AUROC (95 % interval 0.900 to 0.923)"
    assert found["roc_auc"].dataset_name == "ptbxl"
    assert "0.912 | 95 % interval 0.900 to 0.923 | 2158 |" in files["README.md"].decode()
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/skecg_ptbxl.yaml"]))
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("someone/ptb-xl", "superdiagnostic_roc_auc", 0.9123),
        ("someone/ptb-xl", "superdiagnostic_average_precision", 0.7),
    ]


def test_scores_of_other_weights_are_never_left_beside_these(hub, weights, tmp_path):
    report = report_of(weights, tmp_path / "report.json")
    datasets = {"ptbxl": "someone/ptb-xl"}
    publish(weights, REPO, evaluations=[report], hub_datasets=datasets)
    done = publish(weights, REPO)
    assert not [name for name in hub.repositories[REPO].commits[done.commit] if name.startswith(".eval")]
    assert "removed" in str(done)
    other = report_of(weights, tmp_path / "other.json", note="other, weights 0123456789ab, fp32")
    with pytest.raises(ParameterError, match="has no scores of the weights"):
        publish(weights, REPO, evaluations=[other])
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ParameterError, match=r"expected a report\.json of `skecg evaluate`"):
        publish(weights, REPO, evaluations=[tmp_path / "none.json"])


def test_the_card_tells_a_stranger_what_they_need(hub, weights):
    done = publish(weights, REPO)
    card = hub.repositories[REPO].commits[done.commit]["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "skecg"
    assert front["pipeline_tag"] == "feature-extraction"
    for words in (
        'JEPAEmbedder("someone/new")',
        "Research use only",
        "not a medical device",
        "| ptb-xl | [Creative Commons Attribution 4.0 International](https://creativecommons.org/licenses/by/4.0",
        "skecg verify someone/new",
        "Intended use",
        "## Limits",
        read_info(weights).sha256,
    ):
        assert words in card
    assert "Trained on code-15: Creative Commons" in hub.repositories[REPO].commits[done.commit]["LICENSE"].decode()


def test_a_licence_that_the_hub_does_not_know_is_named_beside_other(hub, tmp_path):
    folder = make_weights(tmp_path / "w", **TRAINED | {"licence": "Our own 1.0"})
    done = publish(folder, REPO)
    front = yaml.safe_load(hub.repositories[REPO].commits[done.commit]["README.md"].decode().split("---")[1])
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "Our own 1.0", "LICENSE")


def test_where_nothing_can_be_sent_the_message_is_not_that_of_a_download(hub, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match=f"Nothing was sent to {REPO}: the network may not be used") as caught:
        publish(weights, REPO)
    assert "skecg download" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "create", lambda *_, **__: error(503))
    with pytest.raises(HubUnreachableError, match=r"Nothing was sent .* is busy .*HTTP 503\). Publish again later"):
        publish(weights, REPO)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ParameterError, match="which is a file"):
        publish(weights, REPO, stage=tmp_path / "file")
    with pytest.raises(ParameterError, match=r"nowhere\.json"):
        publish(weights, REPO, evaluations=str(tmp_path / "nowhere.json"))


def test_other_is_the_name_of_no_licence():
    assert read_licence("other") is None
    assert read_licence("CC BY 4.0").hub_id == "cc-by-4.0"


def test_a_licence_of_the_folder_is_kept(hub, weights):
    (weights / "LICENSE").write_text("Mine.")
    done = publish(weights, REPO)
    assert hub.repositories[REPO].commits[done.commit]["LICENSE"] == b"Mine."


def test_an_embedder_publishes_its_weights(hub, weights, ecg):
    done = JEPAEmbedder(weights).fit(ecg).push_to_hub(REPO, tag="v1")
    assert find_weights(REPO, revision="v1").revision == done.commit
    with pytest.raises(PublishError, match="untrained"):
        JEPAEmbedder("untrained-temporal").push_to_hub("someone/random")


def test_weights_from_the_hub_can_be_published_elsewhere(hub, weights):
    publish(weights, REPO)
    done = JEPAEmbedder(REPO).push_to_hub("someone/fork")
    assert find_weights("someone/fork").sha256 == read_info(weights).sha256
    assert done.changed


def test_the_entry_for_the_registry_has_the_fields_of_the_registry(hub, weights, tmp_path, monkeypatch):
    done = publish(weights, REPO)
    entry = registry_entry(weights, REPO, done.commit, evaluations=[report_of(weights, tmp_path / "report.json")])
    bundled = list_models()["untrained-temporal"]
    assert set(bundled) - {"default", "bundled"} <= set(entry)
    assert entry["scores"]["ptbxl superdiagnostic, macro AUROC"] == [0.91234, 0.9, 0.923]
    monkeypatch.setattr("skecg.weights.registry._registry", lambda: {"tiny": json.loads(json.dumps(entry))})
    assert find_weights("tiny").sha256 == entry["sha256"]
    assert list_models()["tiny"]["n_features"] == 16


def test_an_unreadable_folder_is_refused(hub, tmp_path):
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        publish(tmp_path, REPO)
    shutil.copytree(FIXTURES / "tiny-leadwise", tmp_path / "w")
    with pytest.raises(PublishError, match="untrained"):
        publish(tmp_path / "w", REPO)
