"""JEPAEmbedder keeps scikit-learn's contract and its own promises."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.embedding_cache import DiskCache, MemoryCache
from skecg.encoders import Encoder
from skecg.errors import (
    BadSignalError,
    DamagedWeightsError,
    LeadError,
    ParameterError,
    SamplingRateError,
    ShapeError,
    ShortRecordError,
    SignalWarning,
    WeightsNotFoundError,
)
from skecg.inference import batches
from skecg.inference import pipeline as embedding
from skecg.inference.batches import EmbeddingConfig, PreparedBatch
from skecg.io.files import sha256_of
from skecg.leads import CANONICAL_LEADS
from skecg.weights import write_directions
from skecg.weights.folder import load_tensors, save_tensors

TINY = Path(__file__).parent / "fixtures" / "tiny-temporal"
RECORDS = make_ecg(8, noise=0.02, random_state=1).records
X = np.stack([record.signal for record in RECORDS])
SCIKIT_LEARN = tuple(int(number) for number in sklearn.__version__.split(".")[:2])
# What rounding may change between batches of other sizes, relative to the features' size.
ROUNDING = 1e-5


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@parametrize_with_checks(
    [
        JEPAEmbedder(leads=["II"], sampling_rate=250, short_records="pad"),
        JEPAEmbedder(leads=["II"], sampling_rate=250, short_records="pad", truncate_dim=3),
    ]
)
def test_scikit_learns_whole_check_passes(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
def test_all_of_scikit_learns_checks_run_with_the_array_api_one() -> None:
    code = (
        "from collections import Counter\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from skecg import JEPAEmbedder\n"
        "embedder = JEPAEmbedder(leads=['II'], sampling_rate=250, short_records='pad')\n"
        "print(dict(Counter(r['status'] for r in check_estimator(embedder, on_fail=None))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    found = eval(run.stdout.strip().splitlines()[-1])

    assert set(found) == {"passed"}
    if SCIKIT_LEARN >= (1, 9):
        assert found["passed"] >= 46


class CountingEncoder:
    """Counts the windows that reach any encoder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = 0
        layers = Encoder.layers

        def counted(encoder, values, *args, **kwargs):
            self.windows += len(values)
            return layers(encoder, values, *args, **kwargs)

        monkeypatch.setattr(Encoder, "layers", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingEncoder:
    return CountingEncoder(monkeypatch)


def embed(records, **parameters) -> np.ndarray:
    return JEPAEmbedder(cache=None, **parameters).fit_transform(records)


def assert_same_features(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= ROUNDING * np.sqrt(np.mean(a**2))


# --- laws on records and 3-D arrays -------------------------------------------------------------------------------


def test_arrays_records_and_lists_of_arrays_are_the_same_to_it() -> None:
    from_array = embed(X, sampling_rate=500)

    np.testing.assert_array_equal(from_array, embed(RECORDS))
    np.testing.assert_array_equal(from_array, embed(list(X), sampling_rate=500))
    np.testing.assert_array_equal(from_array, embed(pd.Series(list(RECORDS))))
    np.testing.assert_array_equal(from_array, embed(torch.from_numpy(X), sampling_rate=500))
    objects = np.empty(len(X), dtype=object)
    objects[:] = RECORDS
    np.testing.assert_array_equal(from_array, embed(objects))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_does_not_matter(batch_size: int) -> None:
    assert_same_features(embed(RECORDS), embed(RECORDS, batch_size=batch_size))


def test_the_order_of_the_records_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(RECORDS))

    assert_same_features(embed(RECORDS)[order], embed([RECORDS[i] for i in order]))


def test_a_record_does_not_see_its_neighbours() -> None:
    assert_same_features(embed(RECORDS)[:1], embed(RECORDS[:1]))


def test_lead_order_in_the_record_does_not_matter() -> None:
    order = [7, 3, 0, 11, 5, 1, 9, 2, 10, 4, 8, 6]
    shuffled = [ECGRecord(r.signal[order], 500, [CANONICAL_LEADS[i] for i in order]) for r in RECORDS]

    np.testing.assert_array_equal(embed(RECORDS), embed(shuffled))


def test_derivable_leads_may_be_left_out() -> None:
    keep = [0, 1, *range(6, 12)]
    fewer = [ECGRecord(r.signal[keep], 500, [CANONICAL_LEADS[i] for i in keep]) for r in RECORDS]

    assert_same_features(embed(RECORDS), embed(fewer))


def test_units_only_change_the_numbers_written_down() -> None:
    assert_same_features(embed(X, sampling_rate=500), embed(X * 1000, sampling_rate=500, units="uV"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_features_are_float32_whatever_comes_in(dtype: type) -> None:
    features = embed(X.astype(dtype), sampling_rate=500)

    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_the_input_is_left_as_it_was() -> None:
    before = X.copy()
    embed(X, sampling_rate=500)

    np.testing.assert_array_equal(before, X)


def test_a_read_only_memory_map_is_embedded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)

    np.testing.assert_array_equal(embed(np.load(tmp_path / "x.npy", mmap_mode="r"), sampling_rate=500), embed(RECORDS))


def test_what_a_mask_hides_is_a_gap_however_it_comes() -> None:
    masked = np.ma.masked_array(X[:2].copy(), mask=False)
    masked[0, 6, 100:200] = 30.0
    masked[0, 6, 100:200] = np.ma.masked
    with pytest.warns(SignalWarning, match="gaps"):
        expected = embed(masked.filled(np.nan), sampling_rate=500)

    for data in (masked, [masked[0], masked[1]]):
        with pytest.warns(SignalWarning, match="gaps"):
            assert_same_features(embed(data, sampling_rate=500), expected)


def test_tensors_that_numpy_cannot_see_are_embedded() -> None:
    half = torch.tensor(X[:2]).bfloat16()
    expected = embed(half.float().numpy(), sampling_rate=500)

    for data in (half, list(half), half.clone().requires_grad_(), torch._neg_view(-half)):
        assert_same_features(embed(data, sampling_rate=500), expected)


def test_nested_lists_of_records_of_different_lengths_are_records() -> None:
    arrays = [X[0][:, :4000], X[1]]

    nested = embed([array.tolist() for array in arrays], sampling_rate=500)

    assert_same_features(nested, embed(arrays, sampling_rate=500))


def test_a_column_of_paths_or_records_of_a_table_is_taken() -> None:
    column = np.empty((2, 1), dtype=object)
    column[:, 0] = RECORDS[:2]

    assert_same_features(embed(column), embed(RECORDS[:2]))


def test_a_long_record_is_the_mean_of_its_windows() -> None:
    long = ECGRecord(np.concatenate([RECORDS[0].signal, RECORDS[0].signal], axis=1), 250, CANONICAL_LEADS)
    halves = [ECGRecord(long.signal[:, s : s + 2500], 250, CANONICAL_LEADS) for s in (0, 2500, 5000, 7500)]

    # Weights without a filter, which would see the whole of the long record and the ends of the halves.
    assert_same_features(embed(halves, model="skecg-xs").mean(axis=0, keepdims=True), embed([long], model="skecg-xs"))


@pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning")
def test_a_short_records_padding_changes_nothing() -> None:
    short = ECGRecord(RECORDS[0].signal[:, :1000], 250, CANONICAL_LEADS)
    held = np.concatenate([short.signal, np.repeat(short.signal[:, -1:], 1500, axis=1)], axis=1)
    padded = ECGRecord(held, 250, CANONICAL_LEADS)

    assert_same_features(embed([short]), embed([ECGRecord(held[:, :1000], 250, CANONICAL_LEADS)]))
    assert np.abs(embed([short]) - embed([padded])).max() > 0.01


def test_fit_transform_is_fit_then_transform() -> None:
    embedder = JEPAEmbedder(cache=None)

    np.testing.assert_array_equal(embedder.fit_transform(RECORDS), embedder.fit(RECORDS).transform(RECORDS))


def test_n_features_of_3d_input_are_its_leads() -> None:
    embedder = JEPAEmbedder(sampling_rate=500).fit(X)

    assert embedder.n_features_in_ == 12
    with pytest.raises(ValueError, match="11"):
        embedder.transform(X[:, :11])


def test_clones_and_set_params_behave() -> None:
    embedder = JEPAEmbedder(sampling_rate=500, leads=["I"], pooling="max", layer=[0, 3])
    copy = clone(embedder).set_params(pooling="mean")

    assert embedder.get_params() | {"pooling": "mean"} == copy.get_params()
    assert not hasattr(clone(embedder.fit(X[:, 0])), "weights_sha256_")


# --- fewer features, and tensors ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with principal directions of the features of eight records: seven, for the mean takes one."""
    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("weights") / "directed"))
    write_directions(folder, embed(RECORDS, model=TINY))
    return folder


def test_a_number_of_features_is_the_first_coordinates_along_the_weights_directions(directed: Path) -> None:
    whole = embed(RECORDS, model=TINY)
    embedder = JEPAEmbedder(directed, cache=None, truncate_dim=3)
    found = embedder.fit_transform(RECORDS)

    standardized = StandardScaler().fit_transform(whole.astype(np.float64))
    expected = PCA(3, svd_solver="full").fit_transform(standardized)
    assert found.dtype == np.float32
    # Directions are kept in half precision.
    assert np.abs(np.abs(found) - np.abs(expected)).max() < 2e-3 * np.abs(expected).max()
    assert embedder.embedding_dim_ == len(embedder.get_feature_names_out()) == 3
    assert np.array_equal(np.concatenate([c.features for c in embedder.transform_chunks(RECORDS)]), found)
    # The products of other numbers of directions are rounded otherwise.
    assert_same_features(embed(RECORDS, model=directed, truncate_dim=2), found[:, :2])


def test_every_number_of_features_is_served_by_one_embedding(
    directed: Path, counted: CountingEncoder, tmp_path: Path
) -> None:
    pipeline = make_pipeline(JEPAEmbedder(directed, cache=tmp_path / "cache"), LogisticRegression())
    grid = GridSearchCV(pipeline, {"jepaembedder__truncate_dim": [1, 2, 5, None]}, cv=2, error_score="raise")
    grid.fit(RECORDS, np.arange(8) % 2)

    assert counted.windows == 4 * len(RECORDS)  # of 2.5 s


def test_runs_that_keep_fewer_features_are_other_runs(directed: Path) -> None:
    prints = {
        k: JEPAEmbedder(directed, truncate_dim=k).fit(RECORDS).embedding_config().fingerprint for k in (None, 2, 3)
    }

    assert len(set(prints.values())) == 3
    assert prints[None] == JEPAEmbedder(TINY).fit(RECORDS).embedding_config().fingerprint


def test_a_bad_record_keeps_its_row_of_nan_when_features_are_fewer(directed: Path) -> None:
    records = [RECORDS[0], ECGRecord(np.full((12, 5000), np.nan), 500, CANONICAL_LEADS), RECORDS[1]]
    found = embed(records, model=directed, truncate_dim=2, on_bad_record="nan")

    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"truncate_dim": 0}, "truncate_dim=0, expected an integer of at least 1"),
        ({"truncate_dim": 2.0}, r"truncate_dim=2\.0, expected an integer"),
        ({"truncate_dim": True}, "truncate_dim=True, expected an integer"),
        ({"truncate_dim": 8}, r"truncate_dim=8, but the weights bring 7 directions\. Choose 1 to 7"),  # of 8 records
        ({"truncate_dim": 2, "pooling": "max"}, r"pooling='max'.*the weights' directions are of pooling='mean'"),
        ({"truncate_dim": 2, "layer": 0}, r"layers \(0,\), but the weights' directions are of .* the last layer"),
        ({"truncate_dim": 2, "model": "untrained-temporal"}, "'untrained-temporal' bring no principal directions"),
    ],
)
def test_fewer_features_than_the_directions_give_are_refused(directed, parameters: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        JEPAEmbedder(**{"model": directed} | parameters).fit(RECORDS)


def test_the_weights_own_pooling_and_last_layer_may_be_named_beside_a_number_of_features(directed: Path) -> None:
    named = embed(RECORDS[:2], model=directed, truncate_dim=2, pooling="mean", layer=1)

    assert np.array_equal(named, embed(RECORDS[:2], model=directed, truncate_dim=2))


def test_directions_changed_after_fitting_are_refused(directed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(directed, tmp_path / "weights"))
    whole, cut = (JEPAEmbedder(folder, truncate_dim=k).fit(RECORDS) for k in (None, 2))
    write_directions(folder, embed(RECORDS[:5], model=TINY))

    assert whole.transform(RECORDS[:1]).shape[1] > 2
    with pytest.raises(DamagedWeightsError, match="not the one this embedder was fitted with"):
        cut.transform(RECORDS[:1])


def test_tensors_are_the_same_numbers_as_arrays() -> None:
    embedder = JEPAEmbedder(TINY, cache=MemoryCache(10**6), output="torch")
    found = embedder.fit_transform(RECORDS[:2])

    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)
    assert np.array_equal(found.numpy(), embed(RECORDS[:2], model=TINY))
    kept = found.clone()
    found += 1
    assert torch.equal(embedder.transform(RECORDS[:2]), kept)  # the cache has not been written into


def test_a_frame_of_tensors_is_refused_before_anything_is_embedded(counted: CountingEncoder) -> None:
    embedder = JEPAEmbedder(TINY, cache=None, output="torch").fit(RECORDS[:1])
    embedder.set_output(transform="pandas")
    with pytest.raises(ParameterError, match=r"output='torch' and set_output\(transform='pandas'\)"):
        embedder.transform(RECORDS[:1])
    with (
        sklearn.config_context(transform_output="pandas"),
        pytest.raises(ParameterError, match="Pass output='numpy' for a frame"),
    ):
        JEPAEmbedder(TINY, cache=None, output="torch").fit_transform(RECORDS[:1])
    assert counted.windows == 0
    embedder.set_output(transform="default")
    assert isinstance(embedder.transform(RECORDS[:1]), torch.Tensor)


# --- attention, where weights bring it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FineTunedClassifier]:
    """A fine-tuned classifier with an attention head, and the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("attentive") / "weights"
    classifier = FineTunedClassifier(TINY, head="attention", stages="head", epochs=1, random_state=0)
    classifier.fit(RECORDS, np.arange(8) % 2).save(folder)
    return folder, classifier


def test_attention_that_was_trained_pools_as_its_own_head_does(attentive: tuple[Path, FineTunedClassifier]) -> None:
    folder, classifier = attentive
    short = ECGRecord(RECORDS[0].signal[:, :2200], 500, CANONICAL_LEADS)  # its second window is mostly padding
    records = [*RECORDS[1:3], short]
    embedder = JEPAEmbedder(folder, cache=None, pooling="attention")
    found = embedder.fit_transform(records)

    assert found.shape == (3, 16)
    assert len(embedder.get_feature_names_out()) == 16
    linear = classifier.network_.head.linear
    odds = found @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(odds.ravel(), classifier.decision_function(records).ravel(), atol=1e-4)


def test_attention_of_another_head_misses_the_cache_and_is_refused_once_fitted(attentive, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(attentive[0], tmp_path / "weights"))
    embedder = JEPAEmbedder(folder, pooling="attention").fit(RECORDS)
    first = embedder.embedding_config().fingerprint
    tensors = load_tensors(folder / "head.safetensors")
    save_tensors(folder / "head.safetensors", tensors | {"query": tensors["query"] + 1}, {"format": "pt"})
    text = (folder / "classifier.json").read_text()
    digest = sha256_of(attentive[0] / "head.safetensors")
    (folder / "classifier.json").write_text(text.replace(digest, sha256_of(folder / "head.safetensors")))

    with pytest.raises(DamagedWeightsError, match="not the one this embedder was fitted with"):
        embedder.transform(RECORDS[:1])
    assert embedder.fit(RECORDS).embedding_config().fingerprint != first


def test_weights_without_attention_name_the_poolings_that_they_have(attentive) -> None:
    with pytest.raises(ParameterError, match=r"do not bring; they have 'mean', 'max', .*FineTunedClassifier"):
        JEPAEmbedder(TINY, pooling="attention").fit(RECORDS)
    with pytest.raises(ParameterError, match=r"layers \(0,\) with pooling='attention', which was trained on the last"):
        JEPAEmbedder(attentive[0], pooling="attention", layer=0).fit(RECORDS)


# --- layers and pooling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "n_features"),
    [
        ({"pooling": "mean"}, 396),
        ({"pooling": "max"}, 396),
        ({"pooling": "mean+std"}, 792),
        ({"pooling": "cls"}, 396),
        ({"pooling": "mean", "layer": "last2"}, 588),
        ({"pooling": "mean", "layer": [0]}, 192),
    ],
)
def test_pooling_and_layers_decide_the_features(parameters: dict, n_features: int) -> None:
    embedder = JEPAEmbedder(cache=None, **parameters)
    features = embedder.fit_transform(RECORDS[:2])

    assert features.shape == (2, n_features)
    assert len(embedder.get_feature_names_out()) == embedder.embedding_dim_ == n_features


def test_several_layers_are_their_features_side_by_side() -> None:
    both = embed(RECORDS[:2], pooling="mean", layer=[0, 3])

    assert_same_features(both[:, :192], embed(RECORDS[:2], pooling="mean", layer=0))
    assert_same_features(both[:, 192:], embed(RECORDS[:2], pooling="mean", layer=-1))


def test_tokens_average_to_the_features() -> None:
    tokens = JEPAEmbedder(cache=None).fit(RECORDS).transform_tokens(RECORDS[:2])

    assert_same_features(np.stack([t.values.mean(axis=0) for t in tokens]), embed(RECORDS[:2], pooling="mean"))


def test_tokens_say_when_and_where_they_look() -> None:
    tokens = JEPAEmbedder(cache=None).fit(RECORDS).transform_tokens(RECORDS[:1])[0]

    assert len(tokens) == 100
    np.testing.assert_allclose(tokens.start_seconds, np.arange(100) / 10)
    np.testing.assert_allclose(tokens.stop_seconds - tokens.start_seconds, 0.1)
    assert set(tokens.leads) == {"all"}


def test_tokens_of_an_odd_rate_do_not_drift_in_time() -> None:
    """A rate of 499.98 Hz is resampled as 500 is, so that the same samples give the same tokens a little later."""
    signal = make_ecg(1, duration_seconds=60, random_state=0).records[0].signal
    found = [
        JEPAEmbedder(TINY, cache=None).fit([record]).transform_tokens([record])[0]
        for record in (ECGRecord(signal, rate, CANONICAL_LEADS) for rate in (500, 499.98))
    ]
    np.testing.assert_array_equal(found[0].values, found[1].values)
    for name in ("start_seconds", "stop_seconds"):
        np.testing.assert_allclose(getattr(found[1], name), getattr(found[0], name) * 500 / 499.98, rtol=1e-9)


def test_tokens_of_a_leadwise_encoder_name_their_lead() -> None:
    fixture = Path(__file__).parent / "fixtures" / "tiny-leadwise"
    tokens = JEPAEmbedder(fixture, cache=None).fit(RECORDS).transform_tokens(RECORDS[:1])[0]

    assert list(dict.fromkeys(tokens.leads)) == ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_grid_search_embeds_each_record_once_and_a_second_one_none(counted: CountingEncoder) -> None:
    cache = MemoryCache()
    records, y = make_ecg(20, random_state=3).records, np.tile([0, 1], 10)
    pipeline = make_pipeline(JEPAEmbedder(cache=cache), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.01, 0.1, 1]}, cv=5)

    search.fit(records, y)
    first, counted.windows = counted.windows, 0
    search.fit(records, y[::-1])

    assert (first, counted.windows) == (20, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"pooling": "mean"},
        {"layer": 0},
        {"leads": ["I", "II", "V1"]},
        {"sampling_rate": 400},
        {"precision": "bf16"},
        {"model": Path(__file__).parent / "fixtures" / "tiny-temporal"},
    ],
    ids=lambda p: next(iter(p)),
)
def test_whatever_shapes_the_result_misses_the_cache(counted: CountingEncoder, other: dict) -> None:
    cache = MemoryCache()
    three = X[:3, [0, 1, 6]]
    JEPAEmbedder(cache=cache, sampling_rate=500, leads=["II", "I", "V1"]).fit_transform(three)
    counted.windows = 0

    JEPAEmbedder(cache=cache, **{"sampling_rate": 500, "leads": ["II", "I", "V1"]} | other).fit_transform(three)

    assert counted.windows >= 3


def test_a_cached_answer_is_the_computed_one(tmp_path: Path) -> None:
    embedder = JEPAEmbedder(cache=tmp_path / "cache")
    cold = embedder.fit_transform(RECORDS)

    np.testing.assert_array_equal(cold, embedder.transform(RECORDS))
    np.testing.assert_array_equal(cold, embed(RECORDS))


def test_equal_records_are_embedded_once(counted: CountingEncoder) -> None:
    features = JEPAEmbedder(cache=MemoryCache()).fit_transform([RECORDS[0]] * 5)

    assert counted.windows == 1
    assert (features == features[0]).all()


def test_without_a_cache_no_record_is_named_and_each_is_embedded(
    counted: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skecg.inference.batches.key_function", lambda *_: pytest.fail("named for nothing"))

    features = JEPAEmbedder(cache=None).fit_transform([RECORDS[0]] * 5)

    assert counted.windows == 5
    assert_same_features(features, np.tile(features[0], (5, 1)))


# What another process has, offline: a fitted pickle, and a store on disk, when nothing can be embedded any more.
ELSEWHERE = """
import pickle, sys
from pathlib import Path
import numpy as np
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.encoders import Encoder

folder = Path(sys.argv[1])
records = make_ecg(8, noise=0.02, random_state=1).records[:2]
np.save(folder / "unpickled.npy", pickle.loads((folder / "embedder.pkl").read_bytes()).transform(records))

def refuse(*args, **kwargs):
    raise SystemExit("embedded again")

Encoder.layers = refuse
np.save(folder / "stored.npy", JEPAEmbedder(cache=folder / "store").fit_transform(records))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which another process left its features, beside those of this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    np.save(folder / "here.npy", JEPAEmbedder(cache=folder / "store").fit_transform(RECORDS[:2]))
    (folder / "embedder.pkl").write_bytes(pickle.dumps(JEPAEmbedder(cache=None).fit(RECORDS[:2])))
    subprocess.run([sys.executable, "-c", ELSEWHERE, folder], env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)
    return folder


def test_a_store_on_disk_serves_another_process(elsewhere: Path) -> None:
    np.testing.assert_array_equal(np.load(elsewhere / "stored.npy"), np.load(elsewhere / "here.npy"))


# --- pickles, processes, threads ----------------------------------------------------------------------------------


def test_a_fitted_pickle_is_small_and_works_in_another_process_offline(elsewhere: Path) -> None:
    assert (elsewhere / "embedder.pkl").stat().st_size < 5000
    assert_same_features(np.load(elsewhere / "here.npy"), np.load(elsewhere / "unpickled.npy"))


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_parallel_cross_validation_gives_the_same_scores_and_leaves_the_threads_alone(backend: str) -> None:
    from joblib import parallel_config

    y = np.tile([0, 1], 4)
    pipeline = make_pipeline(JEPAEmbedder(cache=None), LogisticRegression())
    alone = cross_val_score(pipeline, RECORDS, y, cv=2)
    threads = torch.get_num_threads()

    with parallel_config(backend=backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loky's own notes on its workers
        together = cross_val_score(pipeline, RECORDS, y, cv=2)

    np.testing.assert_array_equal(alone, together)
    assert torch.get_num_threads() == threads


def test_the_process_keeps_one_encoder_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from skecg.weights import folder as loaded

    loaded.forget_encoders()
    reads = []
    read_state = loaded.read_state
    monkeypatch.setattr(loaded, "read_state", lambda info: reads.append(info) or read_state(info))
    y = np.tile([0, 1], 4)

    cross_val_score(make_pipeline(JEPAEmbedder(cache=None), LogisticRegression()), RECORDS, y, cv=4)

    assert len(reads) == 1


def test_batches_of_a_chunk_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = ECGRecord(np.zeros((12, 5000)), 500, CANONICAL_LEADS)
    records = [*RECORDS, flat, *(ECGRecord(record.signal[:, 500:], 500, CANONICAL_LEADS) for record in RECORDS)]
    expected = embed(records, on_bad_record="nan")
    held: list[int] = []
    encode_fresh = embedding._encode_fresh

    def counted_fresh(batch: PreparedBatch, config: EmbeddingConfig) -> object:
        held.append(len(batch.keys))
        return encode_fresh(batch, config)

    monkeypatch.setattr(embedding, "_encode_fresh", counted_fresh)
    monkeypatch.setattr(batches, "_HELD_BYTES", 1)
    embedder = JEPAEmbedder(cache=None, on_bad_record="nan")

    assert np.allclose(embedder.fit_transform(records), expected, rtol=0, atol=ROUNDING, equal_nan=True)
    assert held == [8, 8, 1]
    assert list(embedder.bad_records_) == [8]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_n_jobs_does_not_matter(n_jobs: int) -> None:
    np.testing.assert_array_equal(embed(RECORDS, n_jobs=n_jobs), embed(RECORDS))


# --- scikit-learn around it ---------------------------------------------------------------------------------------


@pytest.mark.skipif(SCIKIT_LEARN < (1, 7), reason="scikit-learn 1.6 keeps the index of data frames only")
def test_pandas_output_keeps_the_index_of_a_series() -> None:
    series = pd.Series(list(RECORDS), index=[f"patient{i}" for i in range(len(RECORDS))])
    table = JEPAEmbedder(cache=None).set_output(transform="pandas").fit_transform(series)

    assert list(table.index) == list(series.index)
    assert table.columns[0] == "jepaembedder0"


def test_each_record_may_have_a_rate_of_its_own() -> None:
    slow = ECGRecord(RECORDS[1].signal[:, ::2], 250, CANONICAL_LEADS)

    found = JEPAEmbedder(cache=None).fit_transform([RECORDS[0].signal, slow.signal], sampling_rate=[500, 250])

    np.testing.assert_array_equal(found, embed([RECORDS[0], slow]))


def test_feature_names_need_neither_weights_nor_network(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = JEPAEmbedder().fit(RECORDS)
    monkeypatch.setattr("skecg.embedder.find_weights", lambda *a, **k: pytest.fail("asked for the weights"))

    assert len(embedder.get_feature_names_out()) == 1188
    assert "JEPAEmbedder" in embedder._repr_html_()


@pytest.mark.skipif(SCIKIT_LEARN < (1, 8), reason="before, scikit-learn's scorers did not route to transform")
def test_a_sampling_rate_for_each_record_is_routed_through_cross_validate() -> None:
    # Both rates in every fold.
    records = [ECGRecord(r.signal[:, :: 1 + i % 2], 500 / (1 + i % 2), r.leads) for i, r in enumerate(RECORDS)]
    objects = np.empty(8, dtype=object)
    objects[:] = [record.signal for record in records]
    rates = np.array([record.sampling_rate for record in records])
    y = np.arange(8.0)
    # A regression's score changes when any feature does; the accuracy over a few records would not.
    truth = cross_validate(make_pipeline(JEPAEmbedder(cache=None), Ridge()), records, y, cv=2)["test_score"]

    with sklearn.config_context(enable_metadata_routing=True):
        embedder = JEPAEmbedder(cache=None)
        embedder.set_fit_request(sampling_rate=True).set_transform_request(sampling_rate=True)
        pipeline = make_pipeline(embedder, Ridge())
        routed = cross_validate(pipeline, objects, y, cv=2, params={"sampling_rate": rates}, error_score="raise")

    np.testing.assert_allclose(routed["test_score"], truth, rtol=1e-3)


@pytest.mark.skipif(SCIKIT_LEARN < (1, 9), reason="scikit-learn has callbacks from 1.9 on")
def test_batches_show_in_the_pipelines_own_callbacks() -> None:
    seen = []

    class Recorder:
        max_propagation_depth = None

        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context, **kwargs):
            seen.append((type(estimator).__name__, context.task_name))

        def on_fit_task_end(self, estimator, context, **kwargs):
            pass

    pipeline = make_pipeline(JEPAEmbedder(cache=None), LogisticRegression())
    pipeline.set_callbacks(Recorder())
    pipeline.fit(RECORDS, np.tile([0, 1], 4))

    assert ("JEPAEmbedder", "batch") in seen


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    JEPAEmbedder(cache=None, verbose=1).fit_transform(RECORDS[:2])
    assert "2/2" in capfd.readouterr().err

    JEPAEmbedder(cache=None).fit_transform(RECORDS[:2])
    assert capfd.readouterr() == ("", "")


def test_a_list_of_devices_is_kept_as_it_is_and_one_in_it_is_that_device() -> None:
    embedder = JEPAEmbedder(sampling_rate=500, device=["cpu"], cache=None)
    assert clone(embedder).get_params()["device"] == ["cpu"]
    np.testing.assert_array_equal(embedder.fit_transform(X), embed(X, sampling_rate=500, device="cpu"))


# --- what it refuses, and how -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"pooling": "avg"}, ParameterError, r"pooling='avg', expected one of 'mean'"),
        ({"layer": 7}, ParameterError, r"layer=7, expected -4 to 3"),
        ({"batch_size": 0}, ParameterError, r"batch_size=0, expected a positive integer or 'auto'"),
        ({"device": "gpu"}, ParameterError, r"device='gpu'.*Use 'auto' or 'cpu'"),
        ({"device": ["cpu", "cpu"]}, ParameterError, r"names a device twice"),
        ({"device": []}, ParameterError, r"device=\[\], expected"),
        ({"device": ["cpu", "meta"], "backend": "onnx"}, ParameterError, r"computes on the CPU"),
        ({"precision": "fp16"}, ParameterError, r"precision='fp16', expected one of"),
        ({"missing_leads": "drop"}, ParameterError, r"missing_leads='drop', expected one of"),
        ({"on_bad_record": "skip"}, ParameterError, r"on_bad_record='skip'"),
        ({"model": "untraind-temporal"}, WeightsNotFoundError, r"Did you mean 'untrained-temporal'"),
        ({"units": "mmHg"}, ValueError, r"units='mmHg', expected one of"),
        ({"stride": 0}, ParameterError, r"stride=0"),
        ({"output": "tensor"}, ParameterError, r"output='tensor', expected one of 'numpy', 'torch'"),
        ({"n_jobs": 0}, ParameterError, r"n_jobs=0, expected None"),
        ({"n_jobs": "2"}, ParameterError, r"n_jobs='2', expected None"),
        ({"leads": set(CANONICAL_LEADS)}, LeadError, r"of type set, expected a list of names in the order"),
        ({"leads": 5}, LeadError, r"leads=5 of type int"),
        ({"units": None}, ValueError, r"units=None, expected one of"),
        ({"units": ["uV", "mV"]}, ValueError, r"2 units for a signal of shape \(12, 5000\)"),
        ({"sampling_rate": [True] * 8}, SamplingRateError, r"expected a positive number"),
    ],
)
def test_wrong_parameters_are_named_with_what_is_allowed(parameters: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        embed(X, **{"sampling_rate": 500} | parameters)


@pytest.mark.parametrize(
    ("data", "parameters", "error", "message"),
    [
        (X, {}, SamplingRateError, r"without a sampling rate.*Pass sampling_rate="),
        (X[:, :8], {"sampling_rate": 500}, LeadError, r"arrays of 8 lead\(s\).*Pass leads="),
        (X[:, 0], {"sampling_rate": 500}, LeadError, r"one lead per record.*Pass leads=\['II'\]"),
        (X.swapaxes(1, 2), {"sampling_rate": 500}, ShapeError, r"looks transposed.*swapaxes"),
        (X, {"sampling_rate": 500, "leads": ["I", "II"]}, LeadError, r"12 lead\(s\).*expected 2"),
        (X[:, :, :200], {"sampling_rate": 500}, ShortRecordError, r"0\.4 s.*short_records=.pad"),
        (X[:, :, :, None], {"sampling_rate": 500}, ParameterError, r"Expected 2D array .* or 3D array"),
        (RECORDS[0], {}, ShapeError, r"a single record; expected a sequence. Pass \[X\]"),
        ("record.hea", {}, ShapeError, r"Pass \[X\]"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), {}, ShapeError, r"expected one column of paths"),
        ([object()], {"sampling_rate": 500, "leads": ["I"]}, ShapeError, r"an array \(n_leads, n_samples\) or a path"),
        (X, {"sampling_rate": [500, 250]}, SamplingRateError, r"shape \(2,\) for 8 records"),
        ((x for x in X), {"sampling_rate": 500}, ShapeError, r"X of type generator; expected an array"),
        ({"a": X}, {"sampling_rate": 500}, ShapeError, r"X of type dict; expected an array"),
        ({"a.hea", "b.hea"}, {}, ShapeError, r"X of type set; expected an array"),
        (None, {}, ShapeError, r"X of type NoneType; expected an array"),
        ([], {}, ShapeError, r"0 sample"),
        (X.astype(complex), {"sampling_rate": 500}, ShapeError, r"Complex data not supported$"),
        ([X[0], None], {"sampling_rate": 500}, ShapeError, r"element of type NoneType in X\[1\]"),
        (torch.tensor(X[0]).to_sparse(), {"sampling_rate": 500}, ShapeError, r"tensor\.to_dense\(\)"),
        (
            scipy.sparse.csr_matrix(X[:, 0]),
            {"sampling_rate": 500, "leads": ["II"]},
            ShapeError,
            "Sparse data was passed",
        ),
    ],
    ids=[
        "no rate",
        "no names",
        "one lead unnamed",
        "transposed",
        "too many leads",
        "too short",
        "4-D",
        "one record",
        "one path",
        "two columns",
        "an object",
        "too few rates",
        "a generator",
        "a dict",
        "a set",
        "nothing",
        "an empty list",
        "complex numbers",
        "None in a list",
        "a sparse tensor",
        "a sparse matrix",
    ],
)
def test_wrong_input_is_named_with_the_way_out(data, parameters: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        embed(data, **parameters)


def test_swapped_limb_leads_are_found_by_einthovens_law() -> None:
    swapped = X[:, [0, 1, 2, 3, 5, 4, *range(6, 12)]]

    with pytest.raises(LeadError, match="aVF, aVL"):
        embed(swapped, sampling_rate=500)


def test_transforming_before_fitting_is_refused() -> None:
    with pytest.raises(NotFittedError):
        JEPAEmbedder().transform(RECORDS)


def bad_records() -> list[ECGRecord]:
    flat = ECGRecord(np.zeros((12, 5000)), 500, CANONICAL_LEADS, "flatline")
    return [RECORDS[0], flat, RECORDS[1]]


def test_a_bad_record_is_named_and_its_place_given() -> None:
    with pytest.raises(BadSignalError, match="flatline") as caught:
        embed(bad_records())

    assert "record 1 of X" in caught.value.__notes__[0]


def test_fold_alignment_survives_bad_records() -> None:
    embedder = JEPAEmbedder(cache=None, on_bad_record="nan")
    features = embedder.fit_transform(bad_records())

    assert np.isnan(features[1]).all()
    assert_same_features(features[[0, 2]], embed(RECORDS[:2]))
    assert list(embedder.bad_records_) == [1]
    assert "flat" in embedder.bad_records_[1]


def test_what_is_odd_is_warned_of_once_however_many_chunks_there_are() -> None:
    one_flat = X[0].copy()
    one_flat[7] = 0.0
    records = [ECGRecord(one_flat + np.float32(1e-4 * i), 500, CANONICAL_LEADS) for i in range(70)]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embed(records)

    assert [str(w.message).split(" with")[0] for w in caught] == ["Got 70 of 70 records"]


def test_what_was_said_of_earlier_records_is_not_taken_back() -> None:
    embedder = JEPAEmbedder(cache=None, on_bad_record="nan").fit(RECORDS)
    embedder.transform(bad_records())
    earlier = embedder.bad_records_
    embedder.transform(RECORDS[:1])

    assert list(earlier) == [1]
    assert embedder.bad_records_ == {}


def test_gaps_in_short_records_cost_these_alone_when_rows_of_nan_are_wanted() -> None:
    short = X[:3, 1, :400].copy()
    short[1, 7] = np.nan
    parameters = {"sampling_rate": 500, "leads": ["II"], "short_records": "pad"}
    with pytest.raises(BadSignalError, match="first: row 1"):
        embed(short, **parameters)

    features = embed(short, on_bad_record="nan", **parameters)

    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]


def test_gaps_are_no_error_in_records_that_their_own_rate_makes_long() -> None:
    signals = X[:2, 1, :400].copy()
    signals[1, 7] = np.nan
    with pytest.warns(SignalWarning, match="gaps"):
        features = embed(signals, sampling_rate=[500, 100], leads=["II"], short_records="pad")

    assert np.isfinite(features).all()


def test_kilohertz_passed_as_hertz_are_warned_of() -> None:
    with pytest.warns(SignalWarning, match=r"at less than 25 Hz, too slow for an ECG"):
        embed(X[:1, :, :1000], sampling_rate=0.5)


def test_warnings_point_at_the_users_line() -> None:
    flat = [ECGRecord(np.where(np.arange(12)[:, None] == 7, 0, RECORDS[0].signal), 500, CANONICAL_LEADS)]
    embedder = JEPAEmbedder(cache=None).fit(flat)
    calls = [
        lambda: embedder.transform(flat),
        lambda: embedder.fit_transform(flat),
        lambda: make_pipeline(embedder).fit_transform(flat),
        lambda: embedder.transform_tokens(flat),
    ]
    for call in calls:
        with pytest.warns(SignalWarning, match="flat") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_bad_records_are_warned_of_when_asked() -> None:
    with pytest.warns(SignalWarning, match="1 of 3 records could not be embedded"):
        embed(bad_records(), on_bad_record="warn")


def test_a_missing_file_is_a_bad_record_too(tmp_path: Path) -> None:
    embedder = JEPAEmbedder(cache=None, on_bad_record="nan")
    features = embedder.fit_transform([str(tmp_path / "nothing_here")])

    assert np.isnan(features).all()
    assert "RecordNotFoundError" in embedder.bad_records_[0]


def test_other_weights_than_those_fitted_are_refused(tmp_path: Path) -> None:
    import shutil

    fixtures = Path(__file__).parent / "fixtures"
    shutil.copytree(fixtures / "tiny-temporal", tmp_path / "weights")
    embedder = JEPAEmbedder(tmp_path / "weights", cache=None).fit(RECORDS)
    shutil.rmtree(tmp_path / "weights")
    shutil.copytree(fixtures / "tiny-leadwise", tmp_path / "weights")

    with pytest.raises(DamagedWeightsError, match="not those this embedder was fitted with"):
        embedder.transform(RECORDS)


@pytest.mark.parametrize("change", ["input", "pooling"])
def test_a_configuration_changed_after_fitting_is_refused(tmp_path: Path, change: str) -> None:
    import json
    import shutil

    shutil.copytree(Path(__file__).parent / "fixtures" / "tiny-temporal", tmp_path / "weights")
    embedder = JEPAEmbedder(tmp_path / "weights", cache=None).fit(RECORDS)
    config = tmp_path / "weights" / "config.json"
    values = json.loads(config.read_text())
    values |= {"pooling": "max"} if change == "pooling" else {"input": values["input"] | {"clip": 0.5}}
    config.write_text(json.dumps(values))

    with pytest.raises(DamagedWeightsError, match=r"config\.json in .* was changed"):
        embedder.transform(RECORDS)


def test_verify_passes_here() -> None:
    report = JEPAEmbedder().verify()

    assert report.passed
    assert "agrees with" in str(report)


def test_bf16_is_close_once_the_common_vector_is_taken_away() -> None:
    exact, rough = embed(RECORDS), embed(RECORDS, precision="bf16")
    centred = exact - exact.mean(axis=0)

    assert 0 < np.linalg.norm(rough - exact) < 0.1 * np.linalg.norm(centred)


def test_the_disk_store_is_private(tmp_path: Path) -> None:
    JEPAEmbedder(cache=tmp_path / "cache").fit_transform(RECORDS[:1])

    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert DiskCache(tmp_path / "cache").info().entries == 1


def test_a_whole_frame_can_be_passed_with_the_name_of_its_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, signal=RECORDS[0].signal, sampling_rate=RECORDS[0].sampling_rate, leads=np.array(RECORDS[0].leads))
    frame = pd.DataFrame({"age": [50], "file": [str(path)], "sex": ["F"]})

    features = JEPAEmbedder(path_column="file").fit_transform(frame)

    np.testing.assert_array_equal(features, JEPAEmbedder().fit_transform([str(path)]))
    with pytest.raises(ParameterError, match=r"path_column='fil'.*Did you mean 'file'"):
        JEPAEmbedder(path_column="fil").fit(frame)
    with pytest.raises(ParameterError, match="type ndarray and path_column='file'"):
        JEPAEmbedder(path_column="file").fit(X)
    of_frame = JEPAEmbedder(path_column="file").fit(frame)
    for items in ([str(path)], (path,), [RECORDS[0]]):
        np.testing.assert_array_equal(of_frame.transform(items), features)


@pytest.mark.parametrize(
    "parameters", [{"batch_size": -1}, {"on_bad_record": "Raise"}, {"output": "Torch"}, {"n_jobs": 0}]
)
def test_parameters_set_after_fit_are_checked_too(parameters: dict) -> None:
    embedder = JEPAEmbedder(TINY, cache=None, sampling_rate=500).fit(X).set_params(**parameters)
    for use in (embedder.transform, embedder.transform_tokens):
        with pytest.raises(ParameterError, match=f"Got {next(iter(parameters))}="):
            use(X)


def test_parameters_that_change_the_number_of_features_need_another_fit() -> None:
    records = make_ecg(2, random_state=0).records
    embedder = JEPAEmbedder(TINY, cache=None).fit(records).set_params(layer=[0, 1])
    with pytest.raises(ParameterError, match="give 32 features, expected the 16 that fit settled"):
        embedder.transform(records)
    assert embedder.fit(records).transform(records).shape == (2, 32)
