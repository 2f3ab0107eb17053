"""onnxruntime and OpenVINO give torch's features, for everything that torch embeds, or say what to do instead."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from skecg import ECGRecord, JEPAEmbedder, backends
from skecg.backends import BACKENDS, encoder_on
from skecg.backends import onnx as graphs
from skecg.datasets import make_ecg
from skecg.embedding_cache import MemoryCache
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.encode import Encoding, encode_windows
from skecg.errors import MissingDependencyError, ParameterError
from skecg.preprocessing.windows import prepare
from skecg.spec import LeadwiseConfig, TemporalConfig
from skecg.weights import find_weights, loaded_encoder, read_info

FIXTURES = Path(__file__).parents[1] / "fixtures"
# An export takes seconds for each.
MODELS = ["tiny-temporal", pytest.param("tiny-leadwise", marks=pytest.mark.slow)]
CPU = torch.device("cpu")

# How far features may be from torch's, as a share of their root mean square: float32's rounding, not more.
TOLERANCE = 1e-5


def needs(backend: str) -> pytest.MarkDecorator:
    package = {"onnx": "onnxruntime"}.get(backend, backend)
    there = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", package))
    return pytest.mark.skipif(not there, reason=f"the extra {backend} is not installed")


OTHERS = [pytest.param(name, marks=needs(name)) for name in BACKENDS if name != "torch"]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / request.param


@pytest.fixture(params=OTHERS)
def backend(request: pytest.FixtureRequest, traced: object) -> str:
    return request.param


def some_records() -> list[ECGRecord]:
    """Several lengths, from less than a slice of time to several windows, and several sets of leads."""
    whole = make_ecg(6, duration_seconds=8.0, noise=0.05, random_state=3).records
    records = [replace(r, signal=r.signal[:, : 500 * n]) for r, n in zip(whole, (8, 1, 2, 3, 5, 1), strict=True)]
    for number, keep in ((2, [1]), (3, [0, 1, 8]), (5, [6, 7, 8, 9, 10, 11])):
        record = records[number]
        records[number] = replace(record, signal=record.signal[keep], leads=[record.leads[i] for i in keep])
    records[4] = replace(records[4], signal=records[4].signal[:, :90])
    return records


def embedder(model: Path, backend: str, **parameters) -> JEPAEmbedder:
    parameters = {"missing_leads": "subset", "short_records": "pad", "layer": [0, -1], "cache": None} | parameters
    return JEPAEmbedder(model, backend=backend, **parameters)


def assert_as_torch(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= TOLERANCE * np.sqrt(np.mean(np.square(wanted)))


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@pytest.mark.parametrize("pooling", ["mean", "max", "mean+std", "cls"])
def test_features_are_those_of_torch_for_short_records_and_absent_leads_too(model, backend, pooling) -> None:
    if pooling == "cls" and model.name == "tiny-leadwise":
        pytest.skip("it has no registers")
    records = some_records()
    found, wanted = (embedder(model, b, pooling=pooling).fit_transform(records) for b in (backend, "torch"))
    assert_as_torch(found, wanted)


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
def test_tokens_are_those_of_torch_with_their_places(model, backend) -> None:
    records = some_records()
    found, wanted = (embedder(model, b).fit(records).transform_tokens(records) for b in (backend, "torch"))
    for ours, theirs in zip(found, wanted, strict=True):
        assert_as_torch(ours.values, theirs.values)
        assert ours.leads.tolist() == theirs.leads.tolist()
        assert ours.start_seconds.tolist() == theirs.start_seconds.tolist()


def test_layers_come_in_the_order_asked_for_however_often(model, backend) -> None:
    records = make_ecg(2, random_state=0).records
    once = embedder(model, backend).fit_transform(records)
    turned = embedder(model, backend, layer=[1, 0, 1]).fit_transform(records)
    np.testing.assert_array_equal(turned, np.hstack([once[:, 16:], once[:, :16], once[:, 16:]]))


def test_what_lies_in_absent_leads_and_padding_does_not_matter(model, backend) -> None:
    info = read_info(model)
    records = make_ecg(3, duration_seconds=1.3, random_state=0).records
    windows = prepare(records, info.spec)
    mask = windows.lead_mask.copy()
    mask[1, [0, 2, 5]] = mask[2, 1:] = False
    quiet = replace(windows, values=windows.values * mask[:, :, None], lead_mask=mask)
    loud = quiet.values + 1e4 * ~mask[:, :, None]
    loud[:, :, -(-int(windows.valid_samples[0]) // 25) * 25 :] = -1e4
    encoder, how = encoder_on(backend, info, CPU), Encoding("mean", (0, -1))
    np.testing.assert_array_equal(
        encode_windows(encoder, replace(quiet, values=loud.astype(np.float32)), how),
        encode_windows(encoder, quiet, how),
    )


def test_threads_do_not_get_each_others_numbers(model, backend) -> None:
    info = read_info(model)
    windows = prepare(make_ecg(60, random_state=0).records, info.spec)
    encoder = encoder_on(backend, info, CPU)
    alone, together = (encode_windows(encoder, windows, Encoding("mean", (0, -1), 2, n_jobs=n)) for n in (1, 4))
    np.testing.assert_array_equal(together, alone)


def test_a_graph_is_exported_once_for_clones_batches_and_lengths(backend, traced) -> None:
    backends._exported.clear()
    before = len(traced)
    first = embedder(FIXTURES / "tiny-temporal", backend)
    for n_records, seconds in ((2, 10.0), (9, 10.0), (1, 1.5)):
        clone(first).fit_transform(make_ecg(n_records, duration_seconds=seconds, random_state=1).records)
    assert len(traced) == before + 1


def test_embeddings_of_one_engine_are_not_taken_for_those_of_another(backend) -> None:
    records, store = make_ecg(3, random_state=0).records, MemoryCache()
    by_torch = embedder(FIXTURES / "tiny-temporal", "torch", cache=store).fit(records)
    by_other = embedder(FIXTURES / "tiny-temporal", backend, cache=store).fit(records)
    by_torch.transform(records)
    assert by_torch.embedding_config().fingerprint != by_other.embedding_config().fingerprint
    by_other.transform(records)
    assert (store.info().entries, store.info().hits) == (6, 0)


def test_an_embedder_that_has_embedded_pickles_small(backend) -> None:
    records = make_ecg(2, random_state=0).records
    used = embedder(FIXTURES / "tiny-temporal", backend).fit(records)
    wanted = used.transform(records)
    stored = pickle.dumps(used)
    assert len(stored) < 4000
    np.testing.assert_array_equal(pickle.loads(stored).transform(records), wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_makes_sessions_of_its_own_and_does_not_wait_for_its_parents(backend) -> None:
    records = make_ecg(2, random_state=0).records
    used = embedder(FIXTURES / "tiny-temporal", backend).fit(records)
    wanted, info = used.transform(records), read_info(FIXTURES / "tiny-temporal")
    parents = encoder_on(backend, info, CPU)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        same = np.array_equal(used.transform(records), wanted)
        os._exit(0 if same and encoder_on(backend, info, CPU) is not parents else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert encoder_on(backend, info, CPU) is parents


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_whole_check_passes_with_it(backend) -> None:
    check_estimator(
        JEPAEmbedder(FIXTURES / "tiny-temporal", leads=["II"], sampling_rate=250, short_records="pad",
                     missing_leads="zero", layer=[0, -1], backend=backend)
    )  # fmt: skip


UNUSUAL = [
    TemporalConfig(n_leads=1, patch_samples=10, n_patches=1, dim=8, depth=1, num_heads=2, num_registers=0),
    TemporalConfig(2, 10, 3, 8, 1, 2, num_registers=3, bias=True, norm_bias=True),
    LeadwiseConfig(n_leads=1, patch_samples=10, n_patches=2, dim=8, depth=1, num_heads=2),
]


@cache
def unusual(number: int) -> Encoder:
    torch.manual_seed(number)
    return build_encoder(UNUSUAL[number]).eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3), ids=["one token", "registers and biases", "one lead"])
def test_encoders_of_unusual_shapes_are_those_of_torch(backend, number) -> None:
    source, config = unusual(number), UNUSUAL[number]
    encoder = backends.ExportedEncoder(source, backends._ENGINES[backend, "fp32"])
    for n_windows in (1, 3):
        values = torch.randn(n_windows, config.n_leads, config.window_samples)
        with torch.inference_mode():
            found, wanted = (e(values).numpy() for e in (encoder, source))
        assert_as_torch(found, wanted)


def test_what_only_training_needs_is_refused(backend) -> None:
    encoder = encoder_on(backend, read_info(FIXTURES / "tiny-temporal"), CPU)
    with pytest.raises(ParameterError, match="backend='torch'"):
        encoder(torch.zeros(1, 12, 250), visible_BK=torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [{"precision": "bf16"}, {"device": "meta"}])
def test_what_an_engine_does_not_offer_is_refused_with_the_way_out(backend, wrong) -> None:
    with pytest.raises(ParameterError, match=f"backend='{backend}'.*backend='torch'"):
        embedder(FIXTURES / "tiny-temporal", backend, **wrong).fit(make_ecg(1).records)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_is_given_layers_packed_for_its_precision_on_the_cpu_and_as_they_are_elsewhere(precision) -> None:
    info = find_weights("untrained-temporal")
    assert encoder_on("torch", info, CPU, precision) is loaded_encoder(info, CPU, packed_for=precision)
    other = torch.device("meta")
    assert encoder_on("torch", info, other, precision) is loaded_encoder(info, other)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ParameterError, match="backend='onx', expected one of 'torch', 'onnx', 'openvino'"):
        JEPAEmbedder(FIXTURES / "tiny-temporal", backend="onx").fit(make_ecg(1).records)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=rf"skecg\[{name}\]"):
        JEPAEmbedder(FIXTURES / "tiny-temporal", backend=name).fit(make_ecg(1).records)


def test_a_torch_that_cannot_export_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(MissingDependencyError, match=r"2\.6 or newer"):
        graphs.states_graph(build_encoder(TemporalConfig(1, 10, 2, 8, 1, 2)), [0], some_leads=False)
