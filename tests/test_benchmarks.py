from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture
def encoders() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_encoders", BENCHMARKS / "encoders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_the_benchmark_from_file_to_feature_prints_its_ratios(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_end_to_end", BENCHMARKS / "end_to_end.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--tiny"])
    printed = capsys.readouterr().out
    assert re.search(r"^skecg fp32 .*\dx$", printed, re.M)
    assert "core hours for a million records" in printed
