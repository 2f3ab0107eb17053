from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg.encoders import build_encoder
from skecg.encoders.encode import Encoding, encode_tokens, encode_windows, token_grid
from skecg.errors import ParameterError, SkecgWarning
from skecg.preprocessing.windows import Windows, prepare
from skecg.records import ECGRecord
from skecg.spec import LeadwiseConfig, TemporalConfig
from skecg.weights import load_encoder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MEAN = Encoding("mean")


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise"])
def model(request):
    return load_encoder(FIXTURES / request.param)


def make_windows(spec, n_windows: int = 5, seed: int = 0) -> Windows:
    """Whole windows of all leads, one a record."""
    values = np.random.default_rng(seed).normal(size=(n_windows, spec.n_leads, spec.window_samples)).astype(np.float32)
    return Windows(
        values=values,
        owner=np.arange(n_windows),
        start_samples=np.zeros(n_windows, dtype=np.int64),
        valid_samples=np.full(n_windows, spec.window_samples),
        lead_mask=np.ones((n_windows, spec.n_leads), dtype=bool),
        spec=spec,
    )


def some_windows(spec, n_windows: int) -> Windows:
    """Windows of several lengths, with several leads absent."""
    windows = make_windows(spec, n_windows)
    rng = np.random.default_rng(n_windows)
    valid = rng.choice([spec.window_samples, 100, 60, 10], size=n_windows)
    mask = rng.random((n_windows, spec.n_leads)) < rng.choice([0.6, 1.0], size=(n_windows, 1))
    mask[:, 0] = True
    return replace(windows, valid_samples=valid, lead_mask=mask)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for rounding, which in a matrix product depends on where the operands lie in memory."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 2e-6


def pick(windows: Windows, rows: list[int]) -> Windows:
    picked = {name: getattr(windows, name)[rows] for name in ("values", "start_samples", "valid_samples", "lead_mask")}
    return replace(windows, owner=np.arange(len(rows)), **picked)


def test_whole_windows_are_what_the_encoder_gives_pooled(model):
    encoder, spec = model
    windows = make_windows(spec)
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(windows.values))[:, encoder.num_registers :]
    assert np.abs(encode_windows(encoder, windows, MEAN) - tokens.mean(1).numpy()).max() < 1e-6


def test_a_short_window_with_absent_leads_is_encoded_as_if_nothing_else_were_there(model):
    encoder, spec = model
    windows = some_windows(spec, 20)
    found = encode_windows(encoder, windows, MEAN)
    for row in range(20):
        n_samples = -(-int(windows.valid_samples[row]) // 25) * 25
        leads = np.flatnonzero(windows.lead_mask[row]).tolist()
        with torch.inference_mode():
            alone = encoder(torch.from_numpy(windows.values[row : row + 1, :, :n_samples]), leads=leads)
        wanted = alone[0, encoder.num_registers :].mean(0).numpy()
        assert np.abs(found[row] - wanted).max() < 1e-5


def test_what_lies_in_padding_and_in_absent_leads_does_not_matter(model):
    encoder, spec = model
    windows = some_windows(spec, 20)
    loud = windows.values.copy()
    for row in range(20):
        loud[row, ~windows.lead_mask[row]] = 1e4
        loud[row, :, -(-int(windows.valid_samples[row]) // 25) * 25 :] = -1e4
    assert_close(encode_windows(encoder, replace(windows, values=loud), MEAN), encode_windows(encoder, windows, MEAN))


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+std"])
def test_batch_size_and_company_do_not_matter(model, pooling):
    encoder, spec = model
    windows = some_windows(spec, 70)
    found = [encode_windows(encoder, windows, Encoding(pooling, batch_size=size)) for size in (1, 3, 64, None)]
    for other in found[1:]:
        assert np.abs(found[0] - other).max() < 1e-5
    alone = encode_windows(encoder, pick(windows, [17]), Encoding(pooling))
    assert np.abs(alone - found[0][17]).max() < 1e-5


def test_the_order_of_the_windows_does_not_matter(model):
    encoder, spec = model
    windows = some_windows(spec, 30)
    order = np.random.default_rng(0).permutation(30).tolist()
    shuffled = encode_windows(encoder, pick(windows, order), MEAN)
    assert np.abs(shuffled - encode_windows(encoder, windows, MEAN)[order]).max() < 1e-5


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_the_number_of_workers_does_not_matter(model, n_jobs):
    encoder, spec = model
    windows = some_windows(spec, 40)
    found = encode_windows(encoder, windows, Encoding("mean", batch_size=4, n_jobs=n_jobs))
    assert_close(found, encode_windows(encoder, windows, Encoding("mean", batch_size=4)))


def test_layers_lie_one_after_the_other(model):
    encoder, spec = model
    windows = make_windows(spec)
    both = encode_windows(encoder, windows, Encoding("mean", layers=(0, -1)))
    assert_close(both[:, :16], encode_windows(encoder, windows, Encoding("mean", layers=(0,))))
    assert_close(both[:, 16:], encode_windows(encoder, windows, MEAN))


def test_no_windows_give_no_features(model):
    encoder, spec = model
    assert encode_windows(encoder, pick(make_windows(spec), []), MEAN).shape == (0, 16)
    assert encode_tokens(encoder, pick(make_windows(spec), []), MEAN) == []


def test_reduced_precision_stays_near_full_precision(model):
    encoder, spec = model
    windows = make_windows(spec)
    full = encode_windows(encoder, windows, MEAN)
    reduced = encode_windows(encoder, windows, Encoding("mean", precision="bf16"))
    assert reduced.dtype == np.float32
    assert 0 < np.abs(full - reduced).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_threads_of_torch_are_as_before_even_after_an_error(model, n_jobs, monkeypatch):
    encoder, spec = model
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        how = Encoding("mean", batch_size=4, n_jobs=n_jobs)
        encode_windows(encoder, make_windows(spec, 20), how)
        assert torch.get_num_threads() == 2

        with pytest.raises(ParameterError):
            encode_windows(encoder, make_windows(spec, 20), replace(how, layers=(99,)))
        assert torch.get_num_threads() == 2

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("skecg.encoders.encode.pool_tokens", stop)
        with pytest.raises(KeyboardInterrupt):
            encode_windows(encoder, make_windows(spec, 20), how)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_tokens_pool_to_the_features(model):
    encoder, spec = model
    windows = some_windows(spec, 12)
    tokens = encode_tokens(encoder, windows, MEAN)
    features = encode_windows(encoder, windows, MEAN)
    for row, array in enumerate(tokens):
        assert np.abs(array.mean(axis=0) - features[row]).max() < 1e-5


def test_every_token_knows_its_lead_and_its_slice(model):
    encoder, spec = model
    windows = some_windows(spec, 12)
    tokens = encode_tokens(encoder, windows, Encoding("mean", layers=(0, 1)))
    for row, array in enumerate(tokens):
        leads, slices = token_grid(encoder, windows, row)
        n_slices = -(-int(windows.valid_samples[row]) // 25)
        assert array.shape == (len(leads), 32)
        assert len(slices) == len(leads)
        assert slices.max() == n_slices - 1
        if encoder.token_per_lead:
            present = [lead for lead, there in zip(spec.leads, windows.lead_mask[row], strict=True) if there]
            assert leads == [lead for lead in present for _ in range(n_slices)]
        else:
            assert set(leads) == {"all"}


def test_changing_one_slice_of_one_lead_moves_its_own_token_most(model):
    encoder, spec = model
    windows = make_windows(spec, 1)
    changed = windows.values.copy()
    changed[0, 3, 100:125] += 3.0
    before, after = (
        encode_tokens(encoder, replace(windows, values=values), Encoding("mean", layers=(0,)))[0]
        for values in (windows.values, changed)
    )
    leads, slices = token_grid(encoder, windows, 0)
    moved = int(np.abs(after - before).sum(axis=1).argmax())
    assert slices[moved] == 4
    assert leads[moved] in (spec.leads[3], "all")


def test_the_row_of_records_of_different_lengths_is_that_of_each_alone():
    encoder, spec = load_encoder(FIXTURES / "tiny-temporal")
    rng = np.random.default_rng(3)
    records = [ECGRecord(rng.normal(size=(12, n)) / 5, 100, spec.leads) for n in (250, 130, 600, 249, 110)]
    windows = prepare(records, spec)
    together = encode_windows(encoder, windows, MEAN)
    for position, record in enumerate(records):
        alone = encode_windows(encoder, prepare([record], spec), MEAN)
        assert np.abs(together[windows.owner == position] - alone).max() < 1e-5


def cramped(encoder, monkeypatch, most: int) -> list[int]:
    """Let an encoder run out of memory above some number of windows, and note how many come at once."""
    original, sizes = encoder.layers, []

    def layers(values, *rest):
        sizes.append(len(values))
        if len(values) > most:
            raise torch.OutOfMemoryError("out of memory")
        return original(values, *rest)

    monkeypatch.setattr(encoder, "layers", layers)
    return sizes


@pytest.mark.parametrize("most", [1, 3, 5])
def test_running_out_of_memory_halves_the_batch_and_says_so_once(model, monkeypatch, most):
    encoder, spec = model
    windows = make_windows(spec, 23)
    how = Encoding("mean", batch_size=16, n_jobs=1)
    wanted, tokens = encode_windows(encoder, windows, how), encode_tokens(encoder, windows, how)
    sizes = cramped(encoder, monkeypatch, most)
    fits = {1: 1, 3: 2, 5: 4}[most]
    message = rf"memory of cpu.*{fits} windows are encoded at once.*batch_size={fits}"
    with pytest.warns(SkecgWarning, match=message) as said:
        assert_close(encode_windows(encoder, windows, how), wanted)
    assert len(said) == 1
    sizes.clear()
    for found, array in zip(encode_tokens(encoder, windows, how), tokens, strict=True):  # no warning: an error here
        assert_close(found, array)
    assert max(sizes) == fits, "what fits is remembered"


def test_a_window_that_does_not_fit_alone_is_an_error(model, monkeypatch):
    encoder, spec = model
    sizes = cramped(encoder, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        encode_windows(encoder, make_windows(spec, 4), Encoding("mean", n_jobs=1))
    assert sizes == [4, 2, 1]


@pytest.mark.parametrize(
    ("config", "at_once"),
    [
        (TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=32, depth=1, num_heads=2), 8),
        (LeadwiseConfig(n_leads=8, patch_samples=10, n_patches=50, dim=768, depth=1, num_heads=16), 6),
    ],
)
def test_arrays_stay_below_what_the_allocator_keeps(config, at_once, monkeypatch):
    encoder = build_encoder(config).eval()
    spec = replace(
        load_encoder(FIXTURES / "tiny-temporal")[1],
        leads=tuple(f"X{n}" for n in range(config.n_leads)),
        window_samples=config.window_samples,
    )
    sizes = cramped(encoder, monkeypatch, 99)
    encode_windows(encoder, make_windows(spec, 9), Encoding("mean", n_jobs=1))
    assert max(sizes) == at_once


# --- the same encoder on several devices --------------------------------------------------------------------------


def test_replicas_give_what_one_gives_and_each_is_used(model):
    encoder, spec = model
    replicas = [encoder, copy.deepcopy(encoder)]
    windows, how = some_windows(spec, 23), Encoding("mean", batch_size=2)
    both_at_work, used = threading.Barrier(2), set()

    def note(module, *_):
        if module not in used:  # each waits for the other at its first batch, so that neither can do all
            used.add(module)
            both_at_work.wait(timeout=30)

    hooks = [replica.blocks[0].register_forward_hook(lambda *_, r=replica: note(r)) for replica in replicas]
    found = encode_windows(replicas, windows, how)
    for hook in hooks:
        hook.remove()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads()
    assert used == set(replicas)
    assert_close(found, encode_windows(encoder, windows, how))
    for several, one in zip(encode_tokens(replicas, windows, how), encode_tokens(encoder, windows, how), strict=True):
        assert_close(several, one)


def test_a_batch_is_divided_so_that_no_replica_idles(model, monkeypatch):
    encoder, spec = model
    sizes = []
    layers = type(encoder).layers
    monkeypatch.setattr(type(encoder), "layers", lambda e, x, *rest: (sizes.append(len(x)), layers(e, x, *rest))[1])
    encode_windows([encoder, copy.deepcopy(encoder)], make_windows(spec, 6), MEAN)
    assert sizes == [3, 3]


def test_what_a_replica_raises_is_raised_and_the_others_do_not_wait_for_ever(model):
    encoder, spec = model
    broken = copy.deepcopy(encoder)
    broken.blocks[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken device")))
    with pytest.raises(RuntimeError, match="broken device"):
        encode_windows([broken, encoder], make_windows(spec, 12), Encoding("mean", batch_size=1))
