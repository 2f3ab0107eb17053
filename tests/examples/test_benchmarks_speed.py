"""Benchmarks of how fast parts are print what they promise, and what they set side by side computes the same."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import load_encoder, prepare
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("threads_as_before"),
    # Noise and wander stand in for recordings; what is odd about them is tested elsewhere.
    pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning", "ignore::skecg.errors.UnitsWarning"),
]


def is_ratio(ratio: str, over: str, under: str) -> bool:
    """Whether one printed number is the ratio of two others, as far as their last digits tell."""
    half = [0.5 * 10.0 ** -len(number.partition(".")[2]) for number in (ratio, over, under)]
    of, a, b = float(ratio), float(over), float(under)
    return (a - half[1]) / (b + half[2]) - half[0] <= of <= (a + half[1]) / (b - half[2]) + half[0]


def test_reading_is_compared_in_every_format_as_the_time_of_wfdb_over_that_of_skecg(benchmark, capsys):
    benchmark("reading").main(["--tiny"])
    rows = re.findall(
        r"^(\S+(?: \(.mat\))?) +(\d+) +(\d+) +([\d.]+)x +(\d+) +([\d.]+)x$", capsys.readouterr().out, re.M
    )
    assert [row[0] for row in rows] == ["16", "212", "16+24 (.mat)"]
    for _, theirs, ours, ratio, threads, ratio_of_threads in rows:
        assert is_ratio(ratio, theirs, ours)
        assert is_ratio(ratio_of_threads, theirs, threads)


@pytest.mark.parametrize("storage", ["16", "212", "16+24"])
def test_both_readers_of_the_benchmark_read_the_same_millivolts(benchmark, tmp_path, storage):
    reading = benchmark("reading")
    steps = np.random.default_rng(0).integers(-2000, 2000, (2, 400, 12)).astype(np.int16)
    paths = [reading.write_record(tmp_path, f"r{number}", steps[number], storage) for number in range(2)]
    for theirs, ours, written in zip(reading.read_with_wfdb(paths), reading.read_with_skecg(paths), steps, strict=True):
        assert (ours.leads, ours.sampling_rate) == (tuple(theirs.sig_name), theirs.fs)
        np.testing.assert_allclose(ours.signal.T, theirs.p_signal, atol=1e-6)
        np.testing.assert_allclose(ours.signal.T, written / 1000, atol=1e-6)


def test_preparation_is_compared_for_every_kind_of_input_as_the_time_of_scipy_over_that_of_skecg(benchmark, capsys):
    benchmark("preparation").main(["--tiny"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +(-|[\d.]+-\d+ Hz) +(\w+) +(\d+) +(\d+) +([\d.]+)x$", printed, re.M)
    assert len({row[:3] for row in rows}) == len(rows) == 8
    assert all(is_ratio(ratio, theirs, ours) for *_, theirs, ours, ratio in rows)
    assert re.search(r"^Of skecg's time, [1-9]\d* microseconds are the checks of the record\.$", printed, re.M)


@pytest.mark.parametrize("resampling", ["polyphase", "fourier"])
@pytest.mark.parametrize(("band", "closeness"), [((None, None), 1 - 1e-7), ((0.5, 40.0), 0.9999)])
@pytest.mark.parametrize("scale", ["none", "zscore"])
def test_both_ways_of_preparation_make_the_same_windows(benchmark, resampling, band, closeness, scale):
    preparation = benchmark("preparation")
    records = preparation.make_records(2)
    spec = InputSpec(
        CANONICAL_LEADS, 250, 2500, resampling=resampling, highpass_hz=band[0], lowpass_hz=band[1], normalization=scale
    )
    theirs, ours = np.stack(preparation.with_scipy(records, spec)), prepare(records, spec).values
    assert theirs.shape == ours.shape
    for one, other in zip(theirs, ours, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > closeness
        np.testing.assert_allclose(one.std(), other.std(), rtol=0.01)


def test_feeding_is_compared_for_every_part_as_the_time_of_the_plain_loader_over_it(benchmark, capsys):
    benchmark("pretraining_data").main(["--tiny"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^ +(\d+)  (\S+(?: \S+)*) +([\d.]+) +([\d,]+) +([\d.]+)$", printed, re.M)
    names = ["gather int16", "draw_batch", "to_values", "both", "item by item"]
    assert [row[:2] for row in rows] == [(window, name) for window in ("2500", "1000") for name in names]
    for start in (0, 5):
        plain = rows[start + 4][2]
        assert all(is_ratio(ratio, plain, taken) for _, _, taken, _, ratio in rows[start : start + 5])
    assert all(is_ratio(rate.replace(",", ""), "1000000", taken) for _, _, taken, rate, _ in rows)


def test_both_ways_of_feeding_give_the_same_values_where_nothing_is_cut_or_left_out(benchmark, tmp_path):
    feeding = benchmark("pretraining_data")
    shards, config = feeding.make_shards(tmp_path / "shards", 6), feeding.configure(2500)
    ways = feeding.ways(shards, config, batch_size=4, passes=1)
    known = torch.stack([feeding.ItemByItem(shards, config)[number] for number in range(6)])
    for row in ways["item by item"](1):
        assert (row == known).all(dim=(1, 2)).any()
    found = ways["both"](1)
    assert found.shape == (4, 12, 2500)
    for row in found:
        shown = row.abs().amax(dim=1) > 0
        assert shown.any()
        assert (row[shown] - known[:, shown]).abs().amax(dim=(1, 2)).min() < 1e-3


def test_training_steps_are_compared_at_one_loss_as_the_published_time_over_that_of_skecg(benchmark, capsys):
    benchmark("pretraining_step").main(["tiny", "--batch", "2", "--rounds", "1"])
    printed = capsys.readouterr().out
    losses = re.search(r"^tiny, batch 2: losses of both on one batch ([\d.]+) and ([\d.]+)$", printed, re.M)
    assert float(losses[1]) == pytest.approx(float(losses[2]), abs=1e-5)
    taken = {row[:2]: row[2] for row in re.findall(r"^  (\w+) +(fp32|bf16) +([\d.]+) ms a record$", printed, re.M)}
    assert len(taken) == 4
    fp32, bf16, both_bf16 = re.search(r"fp32 ([\d.]+)x; bf16 ([\d.]+)x \(([\d.]+)x over", printed).groups()
    assert is_ratio(fp32, taken["published", "fp32"], taken["skecg", "fp32"])
    assert is_ratio(bf16, taken["published", "fp32"], taken["skecg", "bf16"])
    assert is_ratio(both_bf16, taken["published", "bf16"], taken["skecg", "bf16"])
    assert re.search(r"normalizing and masking: [\d.]+ ms, [\d.]+% \(fp32\), [\d.]+% \(bf16\)$", printed, re.M)
    assert re.search(r"relative \(fp32\): 1: 1\.00, 2: \d\.\d\d, 4: \d\.\d\d$", printed, re.M)


@pytest.mark.usefixtures("traced")
def test_engines_are_compared_with_torch_and_compute_the_same(benchmark, capsys):
    benchmark("backends").main(["--tiny", "--model", str(TINY)])
    printed = capsys.readouterr().out
    rows = re.findall(r"^([12]) +(\S+(?: \S+)*) +([\d.]+) +([\d.]+)x$", printed, re.M)
    there = {name: all(map(find_spec, ("onnx", "onnxscript", name))) for name in ("onnxruntime", "openvino")}
    engines = ["torch fp32", "torch bf16"]
    engines += ["onnx", "onnx int8"] * there["onnxruntime"] + ["openvino"] * there["openvino"]
    assert [row[:2] for row in rows] == [(size, name) for size in "12" for name in engines]
    plain = {size: rate for size, name, rate, _ in rows if name == "torch fp32"}
    assert all(is_ratio(ratio, rate, plain[size]) for size, _, rate, ratio in rows)
    off = dict(re.findall(r"^(.+): first window after [\d.]+ s of processor time, (\S+) off$", printed, re.M))
    assert list(off) == engines
    for name, error in off.items():
        assert float(error) < (0.05 if name in ("torch bf16", "onnx int8") else 1e-5)


def test_other_labs_encoders_are_compared_with_torchs_own_layers_and_compute_the_same(benchmark, capsys):
    script = benchmark("published_encoders")
    script.main(["--tiny", "--passes", "1"])
    rows = re.findall(r"^(\S+) +(fp32|bf16) +(.+)$", capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [(name, kind) for name in script.ENCODERS for kind in ("fp32", "bf16")]
    for _, kind, numbers in rows:
        clock, ours, ratio, processor, own, other, difference = numbers.split()
        assert is_ratio(ratio, clock, ours)
        assert is_ratio(other, processor, own)
        assert float(difference) < (1e-5 if kind == "fp32" else 0.1)


def test_the_compiled_engine_computes_the_same_and_leaves_the_encoder_as_it_was(benchmark, monkeypatch):
    backends = benchmark("backends")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # no compiler, in a second
    encoder, spec = load_encoder(TINY)
    plain, windows = encoder.layers, backends.windows_of(spec, 2)
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(force_parameter_static_shapes=True):  # set back what the benchmark sets
        compiled = backends.compiled(encoder.requires_grad_(False))
        found = [backends.encode_windows(one, windows, backends.Encoding("mean")) for one in (encoder, compiled)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert encoder.layers == plain
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


def test_the_benchmark_of_archives_projects_a_million_from_the_difference_of_two_runs(benchmark, monkeypatch, capsys):
    archive = benchmark("archive")
    seconds = {"": 0.005, ".npz": 0.01}  # of the processor, a record

    def embed(folder: Path, _: str, out: Path, *arguments: object) -> object:
        n_records = len(list(folder.rglob("*.hea")))
        if not out.suffix:
            out.mkdir()
            (out / "part-0.parquet").write_bytes(bytes(1024 * n_records))
        core = 1.5 + n_records * seconds[out.suffix]
        return archive.Cost(2 * core, core, 100 + n_records)

    monkeypatch.setattr(archive, "embed", embed)
    archive.main(["--records", "16", "--scheduler", "tcp://localhost:8786"])
    printed = capsys.readouterr().out
    assert re.search(r"^listing a folder: \d+ us a record, \S+ (h|min) for a million, once$", printed, re.M)
    for row in (
        "one file (.npz)            50.0       100.0   1.00x    1.5 s   116 MiB   2.78 core-h",
        "archive, --part           100.0       200.0   2.00x    1.5 s   116 MiB   1.39 core-h",
        "archive, --scheduler      100.0           -       -        -         -             -",
        "1 part file(s), 1.00 KiB a record, 0.95 GiB for a million",
        "a million that are listed, over N processes with a core each: 1: 1.4 h, 16: 5 min, 100: 1 min",
    ):
        assert row in printed.splitlines()


def test_the_benchmark_of_archives_embeds_in_a_process_of_its_own(benchmark, tmp_path):
    archive = benchmark("archive")
    archive.write_files(tmp_path, 3)
    assert len({path.read_bytes() for path in tmp_path.rglob("*.dat")}) == 3
    cost = archive.embed(tmp_path, "--out", tmp_path / "out.npz", "--model", TINY)
    assert cost.core_seconds > 0.1
    assert cost.seconds > 0.1
    assert 50 < cost.memory_mib < 5000
    with np.load(tmp_path / "out.npz") as found:
        assert 3 in {len(found[key]) for key in found.files if found[key].ndim == 2}
