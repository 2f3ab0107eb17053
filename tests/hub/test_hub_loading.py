from __future__ import annotations

import json
import pickle
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from fake_hub import error
from hub_weights import FIXTURES, files_of, start

import skecg
from skecg import JEPAEmbedder
from skecg.errors import (
    DamagedWeightsError,
    ForeignRepositoryError,
    HubAccessError,
    HubUnreachableError,
    ParameterError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from skecg.weights import find_weights, forget_encoders, read_info, verify_weights
from skecg.weights import registry as names

REPO = "someone/tiny"


def cache_of(tmp_path):
    return tmp_path / "hf" / "hub" / "models--someone--tiny"


def test_a_branch_a_tag_and_a_commit_are_the_same_weights(published, tiny):
    commit = published.repositories[REPO].branches["main"]
    infos = [find_weights(REPO, revision=revision) for revision in (None, "main", "v1", commit)]
    assert {info.revision for info in infos} == {commit}
    assert {info.sha256 for info in infos} == {read_info(tiny).sha256}
    assert verify_weights(infos[0]).passed


def test_a_first_load_resolves_the_revision_once_and_takes_everything_from_that_commit(published):
    commit = published.repositories[REPO].branches["main"]
    find_weights(REPO)
    asked = [path.split("/resolve/")[1] for path in published.requests if "/resolve/" in path]
    assert sum(path == f"GET /api/models/{REPO}" for path in published.requests) == 1
    names = ("config.json", "model.safetensors", "golden.safetensors", "model.sig")
    assert set(asked) == {f"{commit}/{name}" for name in names}


def test_weights_that_change_between_two_files_are_not_mixed(published, monkeypatch):
    """Somebody pushes other weights just after the revision was resolved, and again after each file."""
    first = published.repositories[REPO].branches["main"]
    download = published.download

    def push_meanwhile(repository, **asked):
        repository.commit(files_of(FIXTURES / "tiny-leadwise"))
        return download(repository, **asked)

    monkeypatch.setattr(published, "download", push_meanwhile)
    encoder, _ = skecg.load_encoder(REPO)
    assert encoder.config.architecture == "temporal"
    assert find_weights(REPO, revision=first).revision == first


def test_a_warm_load_by_commit_sends_no_request(published):
    commit = find_weights(REPO).revision
    published.forget()
    embedder = JEPAEmbedder(REPO, revision=commit, sampling_rate=100).fit(np.zeros((1, 12, 300)))
    assert embedder.revision_ == commit
    assert embedder.verify().passed
    assert published.requests == []


def test_weights_without_golden_vectors_are_asked_for_them_once(published, tiny):
    files = files_of(tiny)
    del files["golden.safetensors"]
    published.add(REPO, files)
    commit = find_weights(REPO).revision
    published.forget()
    find_weights(REPO, revision=commit)
    assert published.requests == []


def test_a_warm_load_by_branch_asks_once_and_downloads_nothing(published):
    find_weights(REPO)
    published.forget()
    find_weights(REPO)
    assert published.requests == [f"GET /api/models/{REPO}"]


def test_a_fitted_estimator_remembers_its_commit(published, ecg):
    embedder = JEPAEmbedder(REPO, cache=None).fit(ecg)
    before = embedder.transform(ecg)
    published.repositories[REPO].commit(files_of(FIXTURES / "tiny-leadwise"))
    published.forget()
    again = pickle.loads(pickle.dumps(embedder))
    assert np.array_equal(again.transform(ecg), before)
    assert again.revision_ == embedder.revision_
    assert published.requests == []
    assert JEPAEmbedder(REPO).fit(ecg).revision_ != embedder.revision_


def test_what_was_fetched_is_there_offline(published, offline, ecg):
    expected = JEPAEmbedder(REPO, cache=None).fit_transform(ecg)
    offline()
    forget_encoders()
    published.forget()
    for choices in ({}, {"revision": "main"}, {"local_files_only": True}):
        assert np.array_equal(JEPAEmbedder(REPO, cache=None, **choices).fit_transform(ecg), expected)
    assert published.requests == []


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "local_files_only"])
def test_what_was_not_fetched_is_refused_offline_with_the_place_and_the_command(published, offline, tmp_path, how):
    if how == "HF_HUB_OFFLINE":
        offline()
    with pytest.raises(HubUnreachableError) as refusal:
        find_weights(REPO, revision="v1", local_files_only=how == "local_files_only")
    message = str(refusal.value)
    assert str(cache_of(tmp_path)) in message
    assert f"`skecg download {REPO} --revision v1 --to FOLDER`" in message
    assert "the network may not be used" in message
    assert published.requests == []


def test_half_a_download_is_a_miss_offline(published, offline, tmp_path):
    find_weights(REPO)
    for blob in (cache_of(tmp_path) / "snapshots").rglob("model.safetensors"):
        blob.unlink()
    offline()
    with pytest.raises(HubUnreachableError, match="not in the local cache"):
        find_weights(REPO)


def test_an_interrupted_download_is_resumed(published, tiny, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # less than half of the tensors
    published.broken = 1
    info = find_weights(REPO)
    size = (tiny / "model.safetensors").stat().st_size
    assert len(published.ranges) == 1
    assert 0 < int(published.ranges[0].removeprefix("bytes=").rstrip("-")) < size
    assert verify_weights(info).passed


def test_wrong_bytes_are_refused_and_the_message_heals_the_cache(published):
    published.altered = True
    with pytest.raises(DamagedWeightsError, match="truncated or altered") as refusal:
        skecg.load_encoder(REPO)
    published.altered = False
    blob = str(refusal.value).split("Delete ")[1].split(", and it is fetched again")[0]
    with pytest.raises(DamagedWeightsError):
        skecg.load_encoder(REPO)
    assert "blobs" in blob
    __import__("pathlib").Path(blob).unlink()
    skecg.load_encoder(REPO)


def test_a_file_truncated_in_the_cache_is_refused(published):
    path = find_weights(REPO).folder / "model.safetensors"
    path.resolve().write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        skecg.load_encoder(REPO)


@pytest.mark.parametrize(
    ("repository", "revision", "kind", "words"),
    [
        ("someone/nothing", None, WeightsNotFoundError, "no repository 'someone/nothing', or it is private"),
        (REPO, "v2", WeightsNotFoundError, "no someone/tiny at revision v2"),
        (REPO, "0" * 40, WeightsNotFoundError, "no someone/tiny at revision 0000"),
        ("someone/private", None, WeightsNotFoundError, "hf auth login"),
        ("someone/gated", None, HubAccessError, "gated: .* Ask for access at http"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(published, tiny, monkeypatch, repository, revision, kind, words):
    published.add("someone/private", files_of(tiny), private=True)
    published.add("someone/gated", files_of(tiny), gated=True)
    if repository == "someone/private":
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(kind, match=words):
        find_weights(repository, revision=revision)


def test_an_expired_token_is_said_to_be_one(published):
    published.expired = True
    with pytest.raises(HubAccessError, match=r"refused the token.*expired"):
        find_weights(REPO)


def test_a_name_that_the_hub_does_not_allow_is_a_wrong_parameter(published):
    with pytest.raises(ParameterError, match="expected 'owner/name'"):
        find_weights("some--one/ti..ny")


def test_a_folder_that_lacks_the_tensors_says_so(published, tiny):
    files = files_of(tiny)
    del files["model.safetensors"]
    published.add(REPO, files)
    with pytest.raises(WeightsNotFoundError, match=r"holds no model\.safetensors"):
        find_weights(REPO)


FOREIGN = {"model_type": "wav2vec2", "transformers_version": "4.40.0"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"", "weights.bin": b"x"}, r"found weights\.bin, README\.md\. Expected config\.json"),
        ({"config.json": json.dumps(FOREIGN).encode(), "m.pt": b""}, r"found m\.pt.* transformers .*'wav2vec2'"),
        ({"config.json": b"{"}, "no object of named fields"),
        ({"config.json": b"[1, 2]"}, "no object of named fields"),
        ({"multiblock_epoch100.pth": b"x"}, "looks like a checkpoint of Kim's.*skecg convert kim"),
        ({"runs/chkpt_100000.pt": b"x", "config.json": b"{}"}, "Weimann and Conrad's.*skecg convert weimann"),
        ({"12_lead_ECGFounder.pth": b"x"}, "checkpoint of ECGFounder.*skecg convert ecgfounder FILE"),
        ({"mimic_iv_ecg_physionet_pretrained.pt": b"x"}, "checkpoint of ECG-FM.*skecg convert ecg-fm FILE"),
        ({"resnet18_best_encoder.pth": b"x"}, "checkpoint of MERL.*skecg convert merl FILE"),
        ({"clef_medium.ckpt": b"x"}, "checkpoint of CLEF.*skecg convert clef FILE"),
        ({"encoder.onnx": b"x"}, "converts ONNX files and the checkpoints of several labs: see `skecg convert --help`"),
        ({f"part-{n}.bin": b"" for n in range(9)}, "and 4 more"),
    ],
)
def test_a_foreign_repository_is_said_what_it_is(hub, files, words):
    hub.add("other/model", files)
    with pytest.raises(ForeignRepositoryError, match=words):
        find_weights("other/model")
    assert not [request for request in hub.requests if "model.safetensors" in request]


def test_a_foreign_repository_whose_files_cannot_be_listed_is_said_to_be_foreign(hub, monkeypatch):
    hub.add("other/model", {"config.json": json.dumps(FOREIGN).encode()})
    monkeypatch.setattr(hub, "tree", lambda *_, **__: error(403, message="Forbidden"))
    commit = hub.repositories["other/model"].branches["main"]
    with pytest.raises(ForeignRepositoryError, match=r"its files could not be listed.* transformers "):
        find_weights("other/model", revision=commit)


def test_a_hub_that_does_not_answer_is_said_with_the_reason_and_the_way_round(hub, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(HubUnreachableError, match=r"could not be fetched \(\w+.*skecg download .* --to FOLDER"):
            find_weights(REPO)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error(429, **{"Retry-After": "7"}), r"HTTP 429, to be asked again in 7 s\)\. Try again later"),
        (error(500), r"HTTP 500\)\. Try again later"),
        (error(503), r"HTTP 503\)\. Try again later"),
    ],
)
def test_a_hub_that_is_busy_is_to_be_asked_again_and_no_other_machine_helps(published, monkeypatch, answer, words):
    monkeypatch.setattr(published, "info", lambda *_, **__: answer)
    with pytest.raises(HubUnreachableError, match=words) as caught:
        find_weights("someone/tiny", revision="v1")
    assert "skecg download" not in str(caught.value)


def test_a_newer_format_asks_for_a_newer_skecg_and_is_not_foreign(published, tiny):
    config = json.loads((tiny / "config.json").read_text()) | {"skecg_format": 99, "something": "new"}
    published.add(REPO, files_of(tiny) | {"config.json": json.dumps(config).encode()})
    with pytest.raises(WeightsFormatError, match="pip install --upgrade skecg"):
        find_weights(REPO)
    assert not [request for request in published.requests if "model.safetensors" in request]


@pytest.fixture
def registered(published, tiny, monkeypatch):
    """The tiny weights under a name of the registry."""
    commit = published.repositories[REPO].branches["main"]
    entry = {"repository": REPO, "commit": commit, "sha256": read_info(tiny).sha256, "trained": False}
    monkeypatch.setattr(names, "_registry", lambda: {"tiny": entry})
    return entry


def test_a_registered_name_stands_for_one_commit(published, registered, ecg):
    published.repositories[REPO].commit(files_of(FIXTURES / "tiny-leadwise"))
    embedder = JEPAEmbedder("tiny").fit(ecg)
    assert embedder.revision_ == registered["commit"]
    published.forget()
    assert embedder.transform(ecg).shape == (2, 16)
    assert published.requests == []


def test_a_registered_name_refuses_other_bytes_and_other_revisions(published, registered):
    with pytest.raises(ParameterError, match="name the repository: 'someone/tiny'"):
        find_weights("tiny", revision="main")
    registered["sha256"] = "0" * 64
    with pytest.raises(DamagedWeightsError, match="Do not use it"):
        find_weights("tiny")


def test_an_estimator_fitted_with_an_older_release_finds_its_commit_by_name(published, registered, ecg):
    embedder = JEPAEmbedder("tiny", cache=None).fit(ecg)
    expected = embedder.transform(ecg)
    files = files_of(FIXTURES / "tiny-leadwise")
    registered["commit"] = published.repositories[REPO].commit(files)
    registered["sha256"] = read_info(FIXTURES / "tiny-leadwise").sha256
    assert np.array_equal(pickle.loads(pickle.dumps(embedder)).transform(ecg), expected)


def test_a_revision_of_a_folder_or_of_bundled_weights_is_refused(tmp_path, tiny):
    shutil.copytree(tiny, tmp_path / "mine")
    for model in (tmp_path / "mine", "default"):
        with pytest.raises(ParameterError, match="which is not on the Hub"):
            find_weights(model, revision="v1")


@pytest.mark.slow
def test_two_processes_may_download_at_once(published, environment, tmp_path, tiny):
    code = "from skecg.weights import find_weights\nprint(find_weights('someone/tiny').sha256)"
    processes = [start(environment, code) for _ in range(2)]
    for process in processes:
        said, complaint = process.communicate(timeout=120)
        assert said.strip() == read_info(tiny).sha256, complaint
    assert verify_weights(find_weights(REPO)).passed
    assert not list(cache_of(tmp_path).rglob("*.incomplete"))


def test_a_process_that_is_offline_uses_the_cache_of_one_that_was_not(published, environment, tmp_path):
    find_weights(REPO)
    published.forget()
    code = (
        "from skecg import JEPAEmbedder, errors\n"
        "print(JEPAEmbedder('someone/tiny').verify().passed)\n"
        "try:\n    JEPAEmbedder('someone/tiny', revision='v1').verify()\n"
        "except errors.HubUnreachableError as error:\n    print(error)\n"
    )
    said, complaint = start(environment | {"HF_HUB_OFFLINE": "1"}, code).communicate(timeout=120)
    assert said.startswith("True\n"), complaint
    assert str(cache_of(tmp_path)) in said
    assert published.requests == []


class _LoginPage(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.body)

    do_HEAD = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"sha": "a"}', b"[]", b"null", b"[" * 100_000])
def test_what_answers_in_the_hub_s_place_is_said_not_to_be_it(hub, monkeypatch, body):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (_LoginPage,), {"body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(HubUnreachableError, match="someone/tiny"):
        find_weights(REPO)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://huggingface.co/a/b", "Did you mean 'a/b'"),
        ("https://huggingface.co/a/b/tree/v1", "'a/b' with revision='v1'"),
        ("huggingface.co/a/b", "'a/b'"),
        ("https://huggingface.co/datasets/a/b", "model's page"),
    ],
)
def test_the_address_of_a_page_is_answered_with_the_name_on_it(address, words):
    with pytest.raises(WeightsNotFoundError, match=words):
        find_weights(address)
