from __future__ import annotations

import ast
import json
import tracemalloc
from pathlib import Path

import pytest
from hub_weights import files_of

import skecg
from skecg.errors import WeightsError, WeightsFormatError
from skecg.weights import find_weights

REPO = "mallory/ecg"
SOUND = json.loads((Path(__file__).parents[1] / "fixtures" / "tiny-temporal" / "config.json").read_text())


def changed(part=None, **fields):
    values = json.loads(json.dumps(SOUND))
    (values if part is None else values[part]).update(fields)
    return json.dumps(values).encode()


def nested(depth):
    return json.dumps(SOUND | {"provenance": {}})[:-2].encode() + b'"a":' + b"[" * depth + b"]" * depth + b"}}"


HOSTILE = {
    "a path to the weights": changed(weights_file="../../../../etc/passwd"),
    "a path for a digest": changed(weights_sha256="../../../../etc/passwd"),
    "a digest that is a list": changed(weights_sha256=["a"]),
    "a path for an architecture": changed(architecture="../../os"),
    "a module for an architecture": changed(architecture="os.system"),
    "an unknown architecture": changed(architecture="temporal2"),
    "an architecture that is a list": changed(architecture=["temporal"]),
    "a vast width": changed("encoder", dim=2**40),
    "a width that fits no float": changed("encoder", dim=10**400),
    "a vast depth": changed("encoder", depth=10**9),
    "vast positions": changed("encoder", n_patches=10**9),
    "many heads": changed("encoder", num_heads=10**9, dim=10**9),
    "a vast slice": changed("encoder", patch_samples=2**31),
    "a vast hidden layer": changed("encoder", mlp_ratio=1e300),
    "an infinite hidden layer": changed("encoder", mlp_ratio=float("inf")),
    "many registers": changed("encoder", num_registers=2**33),
    "a vast window": changed("input", window_samples=2**40),
    "a vast rate": changed("input", sampling_rate=1e12),
    "a rate that fits no float": changed("input", sampling_rate=10**400),
    "an order that takes forever": changed("input", filter_order=10**6),
    "a million leads": changed("input", leads=["I"] * 100_000),
    "allowed alone, too large together": changed("encoder", dim=2**14, num_heads=1, depth=256),
    "positions that are too many together": changed("encoder", dim=2**13, n_patches=2**16, patch_samples=1),
    "nested a hundred times": nested(100),
    "nested a hundred thousand times": nested(100_000),
    "a number of many digits": changed("encoder", dim=0).replace(b'"dim": 0', b'"dim": ' + b"9" * 5000),
    "a large file": changed(provenance={"story": "x" * 2_000_000}),
    "control characters": changed(provenance={"name": "\x1b[2J\x1b]0;owned\x07"}),
    "letters in another order than they seem": changed(provenance={"name": "\u202egnp.exe"}),
    "control characters in a key": changed(provenance={"\x1b[2J": 1}),
    "bytes that are no text": b"\xff\xfe\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_configuration_is_refused_before_it_costs_anything(hub, tiny, content):
    hub.add(REPO, files_of(tiny) | {"config.json": content})
    skecg.load_encoder(tiny)
    tracemalloc.start()
    with pytest.raises(WeightsError):
        skecg.load_encoder(REPO)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("name", [name for name in HOSTILE if "together" not in name])
def test_the_tensors_of_a_hostile_configuration_are_not_even_fetched(hub, tiny, name):
    hub.add(REPO, files_of(tiny) | {"config.json": HOSTILE[name]})
    with pytest.raises(WeightsError):
        find_weights(REPO)
    assert not [request for request in hub.requests if "model.safetensors" in request]


def test_an_encoder_too_large_for_its_file_is_not_built(tmp_path, tiny, monkeypatch):
    """Within the limits, yet of three thousand million parameters, over a file of a few thousand."""
    folder = tmp_path / "w"
    folder.mkdir()
    for name, content in files_of(tiny).items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_bytes(changed("encoder", dim=4096, depth=16))
    monkeypatch.setattr("skecg.weights.folder.build_encoder", lambda _: pytest.fail("built it"))
    with pytest.raises(WeightsError, match=r"holds .* values; the encoder .* has more than 3,221"):
        skecg.load_encoder(folder)


def test_a_configuration_of_many_values_is_refused_before_they_are_looked_at(tmp_path, tiny):
    (tmp_path / "config.json").write_bytes(HOSTILE["a million leads"])
    with pytest.raises(WeightsFormatError, match="holds more than 10,000 values"):
        skecg.load_encoder(tmp_path)


def test_the_limits_leave_room_for_every_encoder_anybody_has_published():
    from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig
    from skecg.weights.folder import check_limits

    leads = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    huge = TemporalConfig(n_leads=8, patch_samples=25, n_patches=1000, dim=1664, depth=48, num_heads=16)
    check_limits(huge, InputSpec(leads, 1000.0, 25_000))
    kim = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=768, depth=12, num_heads=16)
    check_limits(kim, InputSpec(leads, 250.0, 2500))


def test_a_configuration_of_the_wrong_size_is_named():
    from skecg.spec import InputSpec, TemporalConfig
    from skecg.weights.folder import check_limits

    config = TemporalConfig(n_leads=1, patch_samples=5, n_patches=2, dim=8, depth=257, num_heads=1)
    with pytest.raises(WeightsFormatError, match="depth=257 in the encoder configuration, expected at most 256"):
        check_limits(config, InputSpec(("I",), 50.0, 10))


UNPICKLERS = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib.load", "shelve", "marshal", "torch.load",
    "torch.hub", "torch.jit.load", "eval", "exec",
}  # fmt: skip


def test_nothing_but_convert_can_unpickle_or_run_what_it_reads():
    root = Path(skecg.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] in ("convert", "convert.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not {called, called.split(".")[0]} & UNPICKLERS, f"{path}: {called}"
                assert called.split(".")[-1] != "read_pickle", path
                allowed = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
                assert not allowed, f"{path}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & UNPICKLERS, f"{path}: {names}"
