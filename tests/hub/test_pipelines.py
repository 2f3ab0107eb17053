from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from hub_weights import FIXTURES, files_of
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC

from skecg import JEPAEmbedder, NoveltyScore, RidgeProbe
from skecg.datasets import make_ecg
from skecg.errors import (
    DamagedWeightsError,
    ForeignRepositoryError,
    MissingDependencyError,
    ParameterError,
    PublishError,
    WeightsFormatError,
)
from skecg.hub import load_pipeline, push_pipeline
from skecg.hub.pipelines import check_kept_records
from skecg.linear_model.logistic import LogisticProbe

pytest.importorskip("skops")

REPO = "someone/rhythms"
ECGS = make_ecg(12, duration_seconds=3.0, sampling_rate=100, random_state=0).records
LABELS = np.array(["a", "b"] * 6)


def fitted(model="someone/tiny", *steps, **choices):
    steps = steps or (StandardScaler(), LogisticRegression())
    return make_pipeline(JEPAEmbedder(model, **choices), *steps).fit(ECGS, LABELS)


@pytest.mark.parametrize("last", [LogisticRegression, LogisticProbe])
def test_a_pipeline_predicts_the_same_after_its_journey(published, last, monkeypatch):
    pipeline = fitted("someone/tiny", StandardScaler(), last())
    done = push_pipeline(pipeline, REPO, description="Tells a from b.", licence="Apache-2.0", tag="v1")
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    again = load_pipeline(REPO, revision="v1")
    assert np.allclose(again.predict_proba(ECGS), pipeline.predict_proba(ECGS), atol=1e-6)
    assert again.steps[0][1].revision_ == pipeline.steps[0][1].revision_
    files = published.repositories[REPO].commits[done.commit]
    assert set(files) == {".gitattributes", "README.md", "config.json", "pipeline.skops"}
    assert len(files["pipeline.skops"]) < 30_000


def test_a_pipeline_stays_on_its_commit_when_the_weights_move_on(published):
    pipeline = fitted()
    commit = pipeline.steps[0][1].revision_
    push_pipeline(pipeline, REPO)
    published.repositories["someone/tiny"].commit(files_of(FIXTURES / "tiny-leadwise"))
    again = load_pipeline(REPO)
    assert np.array_equal(again.predict(ECGS), pipeline.predict(ECGS))
    assert again.fit(ECGS, LABELS).steps[0][1].revision_ == commit


def test_bundled_weights_go_by_their_name(published):
    pipeline = fitted("default", LogisticRegression(max_iter=1000))
    push_pipeline(pipeline, REPO)
    config = json.loads(published.repositories[REPO].commits[load_commit(published)]["config.json"])
    assert (config["model"], config["revision"]) == ("default", None)
    assert np.array_equal(load_pipeline(REPO).predict(ECGS), pipeline.predict(ECGS))


def load_commit(hub):
    return hub.repositories[REPO].branches["main"]


def test_what_belongs_to_this_machine_and_to_patients_stays_here(published, tmp_path):
    pipeline = fitted(cache=str(tmp_path / "cache"), n_jobs=2, on_bad_record="nan")
    pipeline.steps[0][1].bad_records_ = {0: "/data/jane_doe.hea: truncated"}
    push_pipeline(pipeline, REPO)
    content = published.repositories[REPO].commits[load_commit(published)]["pipeline.skops"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert b"jane_doe" not in everything
    assert str(tmp_path).encode() not in everything
    embedder = load_pipeline(REPO).steps[0][1]
    assert (embedder.cache, embedder.n_jobs, embedder.bad_records_) == ("memory", None, {})
    assert pipeline.steps[0][1].n_jobs == 2


def test_publishing_a_pipeline_again_commits_nothing(published):
    pipeline = fitted()
    push_pipeline(pipeline, REPO)
    before = load_commit(published)
    push_pipeline(pipeline, REPO)
    assert load_commit(published) == before


def test_a_dry_run_of_a_pipeline_sends_nothing(published):
    done = push_pipeline(fitted(), REPO, dry_run=True)
    assert [file.name for file in done.files] == ["config.json", "pipeline.skops", "README.md"]
    assert REPO not in published.repositories


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (lambda: LogisticRegression(), "Got a LogisticRegression, expected a fitted scikit-learn Pipeline"),
        (lambda: make_pipeline(StandardScaler()), "begins with a StandardScaler"),
        (lambda: make_pipeline(JEPAEmbedder(), LogisticRegression()), "not fitted"),
        (lambda: fitted(FIXTURES / "tiny-temporal"), "which others do not have. Publish them"),
        (lambda: fitted("someone/tiny", KNeighborsClassifier()), r"keeps records .*\(_fit_X\).*allow=\['records'\]"),
        (lambda: fitted("someone/tiny", FunctionTransformer(print_shape), LogisticRegression()), "print_shape"),
    ],
)
def test_a_pipeline_that_others_cannot_use_or_should_not_have_is_refused(published, pipeline, words):
    made = pipeline()
    published.forget()
    with pytest.raises(PublishError, match=words):
        push_pipeline(made, REPO)
    assert published.requests == []


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), "_fit_X"),
        (OneVsRestClassifier(SVC()), "support_vectors_"),
        (BaggingClassifier(KNeighborsClassifier(), n_estimators=2, random_state=0), "_fit_X"),
        (MultiOutputClassifier(KNeighborsClassifier()), "_fit_X"),
        (GaussianProcessClassifier(), "X_train_"),
        (LabelSpreading(kernel="knn", n_neighbors=3), "X_"),
        (make_pipeline(Nystroem(n_components=4), LogisticRegression()), "components_"),
    ],
)
def test_records_that_lie_deep_in_a_step_are_found_too(published, last, name):
    y = np.stack([LABELS, LABELS], axis=1) if isinstance(last, MultiOutputClassifier) else LABELS
    with pytest.raises(PublishError, match=rf"keeps records .*{name}.*allow=\['records'\]"):
        push_pipeline(make_pipeline(JEPAEmbedder("someone/tiny"), last).fit(ECGS, y), REPO)
    spread = make_pipeline(PCA(3), BaggingClassifier(LogisticRegression(), n_estimators=2, random_state=0))
    check_kept_records(fitted("someone/tiny", spread))


@pytest.mark.parametrize("last", [RidgeProbe(), NoveltyScore()])
def test_every_probe_of_ours_makes_the_journey(published, last):
    pipeline = make_pipeline(JEPAEmbedder("someone/tiny"), last).fit(ECGS, np.arange(12.0))
    push_pipeline(pipeline, REPO)
    assert np.allclose(load_pipeline(REPO).predict(ECGS), pipeline.predict(ECGS), atol=1e-5)


def print_shape(X):
    return X


def test_kept_records_and_strange_types_go_when_allowed_by_name(published):
    push_pipeline(fitted("someone/tiny", KNeighborsClassifier()), REPO, allow="records")
    load_pipeline(REPO).predict(ECGS)
    with pytest.raises(ParameterError, match="Got 'everything' to allow"):
        push_pipeline(fitted(), REPO, allow=["everything"])
    push_pipeline(fitted("someone/tiny", FunctionTransformer(print_shape), LogisticRegression()), REPO, allow=["types"])
    with pytest.raises(WeightsFormatError, match=r"print_shape.*could run code.*trusted=\[") as refusal:
        load_pipeline(REPO)
    name = str(refusal.value).split("holds ")[1].split(",")[0]
    load_pipeline(REPO, trusted=[name]).predict(ECGS)


def changed(hub, **files):
    now = dict(hub.repositories[REPO].commits[load_commit(hub)])
    hub.repositories[REPO].commit(now | files)


def test_a_pipeline_is_loaded_from_a_folder_and_offline(published, offline, tmp_path):
    pipeline = fitted()
    push_pipeline(pipeline, REPO)
    for name in ("config.json", "pipeline.skops"):
        (tmp_path / name).write_bytes(published.repositories[REPO].commits[load_commit(published)][name])
    load_pipeline(REPO)
    offline()
    published.forget()
    for source in (tmp_path, REPO):
        assert np.array_equal(load_pipeline(source).predict(ECGS), pipeline.predict(ECGS))
    assert published.requests == []


def test_a_damaged_foreign_or_newer_pipeline_is_refused(published, tmp_path):
    push_pipeline(fitted(), REPO)
    files = published.repositories[REPO].commits[load_commit(published)]
    config = json.loads(files["config.json"])
    changed(published, **{"pipeline.skops": files["pipeline.skops"][:-1]})
    with pytest.raises(DamagedWeightsError, match="truncated or altered"):
        load_pipeline(REPO)
    changed(published, **{"config.json": json.dumps(config | {"skecg_pipeline": 2}).encode()})
    with pytest.raises(WeightsFormatError, match="pip install --upgrade skecg"):
        load_pipeline(REPO)
    with pytest.raises(ForeignRepositoryError, match=r"holds no pipeline.*JEPAEmbedder\('someone/tiny'\)"):
        load_pipeline("someone/tiny")
    with pytest.raises(ForeignRepositoryError, match=r"fitted pipeline, which skecg\.hub\.load_pipeline loads"):
        JEPAEmbedder(REPO).fit(ECGS)
    with pytest.raises(ForeignRepositoryError, match="holds no pipeline"):
        load_pipeline(tmp_path)


def test_a_pickle_in_place_of_a_pipeline_is_not_opened(published):
    import hashlib
    import pickle

    push_pipeline(fitted(), REPO)
    files = published.repositories[REPO].commits[load_commit(published)]
    content = pickle.dumps(LogisticRegression())
    config = json.loads(files["config.json"]) | {"pipeline_sha256": hashlib.sha256(content).hexdigest()}
    changed(published, **{"pipeline.skops": content, "config.json": json.dumps(config).encode()})
    with pytest.raises(DamagedWeightsError, match="cannot be read"):
        load_pipeline(REPO)


def test_a_pipeline_on_other_weights_than_it_says_is_refused(published):
    push_pipeline(fitted(), REPO)
    config = json.loads(published.repositories[REPO].commits[load_commit(published)]["config.json"])
    changed(published, **{"config.json": json.dumps(config | {"model": "mallory/tiny"}).encode()})
    with pytest.raises(DamagedWeightsError, match=r"not the one that its config\.json describes"):
        load_pipeline(REPO)


def test_without_skops_the_extra_is_named(published, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(MissingDependencyError, match=r"pip install skecg\[hub\]"):
        load_pipeline(REPO)
