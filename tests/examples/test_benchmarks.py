from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from skecg import ECGRecord, read_records
from skecg.embedding_cache import record_key

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"


@pytest.fixture
def encoders(benchmark) -> ModuleType:
    """The benchmark as a module."""
    return benchmark("encoders")


pytestmark = [
    pytest.mark.usefixtures("threads_as_before"),
    # Noise and wander stand in for recordings; what is odd about them is tested elsewhere.
    pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning", "ignore::skecg.errors.UnitsWarning"),
]


def test_the_published_structure_gives_the_same_tokens(encoders):
    for config in (encoders.TINY, encoders.TINY_LEADWISE):
        encoder = encoders.frozen(config)
        published = encoders.as_published(encoder)
        x = torch.randn(3, config.n_leads, config.window_samples)
        with torch.inference_mode():
            torch.testing.assert_close(published(x), encoder(x), rtol=1e-5, atol=1e-5)
        assert type(encoder.blocks[0].attn) is not type(published.blocks[0].attn)


def test_operations_are_counted_as_torch_counts_them(encoders):
    encoder = encoders.frozen(encoders.TINY)
    x = torch.randn(1, encoder.config.n_leads, encoder.config.window_samples)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        encoders.as_published(encoder)(x)
    found = encoders.gigaflops(encoder.config, per_lead=False, n_registers=encoder.num_registers)
    assert found == pytest.approx(counted.get_total_flops() / 1e9, rel=1e-6)


def test_the_benchmark_of_encoders_prints_its_tables(encoders, capsys):
    encoders.main(["--tiny"])
    printed = capsys.readouterr().out
    assert re.search(r"^tiny +2 .* \d+%$", printed, re.M)
    assert re.search(r"^tiny leadwise +9 .*\dx +\de-0[6-9]$", printed, re.M)


@pytest.mark.parametrize("model", ["default", "vit-xs"])
def test_the_benchmark_from_file_to_feature_prints_its_ratios(benchmark, capsys, model):
    benchmark("end_to_end").main(["--tiny", "--model", model])
    printed = capsys.readouterr().out
    assert re.search(r"^skecg fp32 .*\dx$", printed, re.M)
    assert "core hours for a million records" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_the_benchmark_of_precision_shows_that_bfloat16_and_int8_change_little(benchmark, capsys):
    benchmark("precision").main(["--tiny"])
    printed = capsys.readouterr().out
    assert re.search(r"^records to features .*\dx$", printed, re.M)
    compared = re.findall(r"^fitted and tested on (\w+): macro AUROC [\d.]+ \(([+-]\d\.\d{4})", printed, re.M)
    assert [name for name, _ in compared][:2] == ["fp32", "bf16"]
    assert max(abs(float(difference)) for _, difference in compared) <= 0.002
    assert max(map(float, re.findall(r"decisions differ: (\d+\.\d+)%", printed))) < 1
    for precision, _ in compared[1:]:
        centred, plain = (
            [float(number) for number in re.search(rf"^{precision}, {name} +(.*)$", printed, re.M)[1].split()]
            for name in ("mean taken away", "as they are")
        )
        assert 0.99 < centred[1] < plain[1]
        assert centred[2] < 0.5 < plain[2]  # what two recordings share is what hides a difference


def test_closeness_tells_features_with_noise_from_those_without_where_plain_cosine_does_not(benchmark, capsys):
    draw = np.random.default_rng(0)
    features = 100 + draw.standard_normal((50, 20))
    precision = benchmark("precision")
    precision.show_closeness({"fp32": features, "bf16": features + draw.standard_normal(features.shape)})
    printed = capsys.readouterr().out
    assert float(re.search(r"mean taken away +([\d.]+)", printed)[1]) < 0.9
    assert float(re.search(r"as they are +([\d.]+)", printed)[1]) > 0.999


def test_the_benchmark_of_the_cache_names_the_hashes_in_use_and_measures_look_ups(benchmark, capsys):
    benchmark("embedding_cache").main(["--tiny"])
    printed = capsys.readouterr().out
    assert re.search(r"^sha256 \(on disk\) +256 +\d", printed, re.M)
    for row in ("memory", "disk"):
        assert re.search(rf"^{row}( +\d+\.\d){{4}}$", printed, re.M)
    assert re.search(r"^not cached +\d", printed, re.M)


def test_the_hash_on_disk_is_the_one_that_keys_are_made_with(benchmark):
    bits, digest = benchmark("embedding_cache").hashes()["sha256 (on disk)"]
    salt, record = b"salt", ECGRecord(np.zeros((1, 500)), 500, ["II"])
    about = json.dumps(["<f4", record.signal.shape, record.sampling_rate, record.leads]).encode()
    parts = b"".join(len(part).to_bytes(8, "little") + part for part in (salt, about)) + record.signal.tobytes()
    assert digest(memoryview(parts)) == record_key(record, salt)
    assert bits == 8 * len(record_key(record, salt))


def test_the_benchmark_of_searches_sets_them_against_embedding_once(benchmark, capsys):
    benchmark("grid_search").main(["--tiny"])
    printed = capsys.readouterr().out
    for row in (r"the search +\d+\.\d+ +\d+\.\d+ times embedding once and the probes", "320 names of records take.*"):
        assert len(re.findall(rf"^{row}$", printed, re.M)) == 2


@pytest.mark.slow
def test_the_benchmark_of_starting_up_starts_processes(benchmark, capsys):
    benchmark("start_up").main(["--tiny"])
    printed = capsys.readouterr().out
    for row in ("import skecg", "skecg --help", "one record embedded"):
        assert re.search(rf"^{row} +\d+\.\d+ +\d+\.\d+ ", printed, re.M)


@pytest.mark.slow
def test_the_benchmark_of_memory_gives_peaks_of_both_ways(benchmark, capsys):
    benchmark("memory").main(["--records", "3", "--model", str(TINY)])
    printed = capsys.readouterr().out
    assert re.search(r"^ +3 +\d+ +\d+$", printed, re.M)


def test_recordings_for_the_memory_benchmark_share_files_but_no_values(benchmark, tmp_path):
    paths = benchmark("memory").write_files(tmp_path, 66, n_seconds=2.5, sampling_rate=100)
    records = read_records(paths)
    assert len({record.signal.tobytes() for record in records}) == len(records)
    assert len(list(tmp_path.glob("*.dat"))) < len(records)
