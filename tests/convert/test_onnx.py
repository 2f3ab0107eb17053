"""An ONNX file of anybody's encoder is weights like any other, or it is refused before it is run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import ECGRecord, JEPAEmbedder, load_encoder, prepare
from skecg.cli import main
from skecg.convert import convert_onnx
from skecg.datasets import make_ecg
from skecg.errors import ForeignCheckpointError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.spec import InputSpec
from skecg.weights import read_info, verify_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SPEC = InputSpec(("I", "II"), 100.0, 200, normalization="zscore")
KERNEL = np.random.default_rng(0).normal(size=(5, 2, 10)).astype(np.float32)
RECORDS = [ECGRecord(np.random.default_rng(i).normal(size=(2, 400 - 170 * i)), 100, ("I", "II")) for i in range(2)]
Change = Callable[["onnx.ModelProto"], object]


def model(windows: object = "B", samples: object = 200, n_leads: int = 2, tokens: bool = True) -> onnx.ModelProto:
    """A convolution that makes 20 tokens of width 5, and their mean."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["seen"], strides=[10]),
        helper.make_node("Transpose", ["seen"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["seen"], ["features"], axes=[2], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", 5])]
    if tokens:
        outputs.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["b", "n", 5]))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [windows, n_leads, samples])],
        outputs,
        [numpy_helper.from_array(KERNEL[:, :n_leads], "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(path: Path, graph: onnx.ModelProto) -> Path:
    path.write_bytes(graph.SerializeToString())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("onnx")
    convert_onnx(write(place / "a.onnx", model()), place / "weights", SPEC, output="tokens", licence="mit", data="none")
    return place / "weights"


def tokens_of(values: np.ndarray) -> np.ndarray:
    return np.einsum("wltk,dlk->wtd", values.reshape(len(values), 2, 20, 10), KERNEL)


def test_the_graphs_tokens_are_those_of_the_prepared_windows(folder: Path) -> None:
    windows = prepare(RECORDS, SPEC)
    found = JEPAEmbedder(folder, cache=None).fit(RECORDS).transform_tokens(RECORDS)
    for number, record in enumerate(found):
        wanted = tokens_of(windows.values)[windows.owner == number]
        np.testing.assert_allclose(record.values, np.concatenate(wanted), atol=1e-5)
        np.testing.assert_allclose(np.diff(record.start_seconds[:20]), 0.1)


def test_features_are_the_mean_over_tokens_and_windows(folder: Path) -> None:
    windows = prepare(RECORDS, SPEC)
    wanted = [tokens_of(windows.values)[windows.owner == number].mean(axis=(0, 1)) for number in (0, 1)]
    np.testing.assert_allclose(JEPAEmbedder(folder, cache=None).fit_transform(RECORDS), wanted, atol=1e-6)


def test_one_vector_for_each_window_is_a_token(tmp_path: Path, folder: Path) -> None:
    convert_onnx(write(tmp_path / "b.onnx", model(tokens=False)), tmp_path / "weights", SPEC)
    embedders = JEPAEmbedder(tmp_path / "weights", cache=None), JEPAEmbedder(folder, cache=None)
    one, other = (embedder.fit_transform(RECORDS) for embedder in embedders)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert "where its tokens lie" not in (tmp_path / "weights" / "README.md").read_text()


def test_a_graph_of_one_window_gives_what_a_graph_of_many_gives(tmp_path: Path, folder: Path) -> None:
    convert_onnx(write(tmp_path / "b.onnx", model(windows=1)), tmp_path / "weights", SPEC, output="tokens")
    embedders = JEPAEmbedder(tmp_path / "weights", cache=None), JEPAEmbedder(folder, cache=None)
    one, other = (embedder.fit_transform(RECORDS) for embedder in embedders)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_folder_is_one_like_any_other(folder: Path) -> None:
    info = read_info(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "golden.safetensors",
        "model.safetensors",
    ]
    assert verify_weights(info).passed
    assert info.provenance["licence"] == "mit"
    assert (folder / "model.safetensors").stat().st_size < 2 * info.encoder.graph_bytes + 500
    assert "held at its last value" in (folder / "README.md").read_text()
    assert "does not say where its tokens lie" in (folder / "README.md").read_text()


def test_copies_and_pickles_of_the_encoder_compute_the_same(folder: Path) -> None:
    encoder, _ = load_encoder(folder)
    values = torch.randn(2, 2, 200)
    wanted = encoder(values)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(values), wanted)


def test_onnx_is_a_backend_of_what_is_onnx_already(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    wanted = JEPAEmbedder(folder, cache=None).fit_transform(RECORDS)
    found = JEPAEmbedder(folder, backend="onnx", cache=None).fit_transform(RECORDS)
    np.testing.assert_array_equal(found, wanted)


def test_a_graph_computes_in_no_other_precision_than_its_own(folder: Path) -> None:
    with pytest.raises(ParameterError, match=r"precision='bf16' for weights that are an ONNX graph.*expected 'auto'"):
        JEPAEmbedder(folder, precision="bf16", cache=None).fit(RECORDS)


def test_exporting_a_graph_again_is_refused(folder: Path, tmp_path: Path) -> None:
    from skecg.backends import export_onnx

    pytest.importorskip("onnxscript")
    with pytest.raises(ParameterError, match="ONNX graph already"):
        export_onnx(folder, tmp_path / "again.onnx")


@pytest.mark.parametrize(("name", "any_leads"), [("tiny-leadwise", False), ("tiny-temporal", True)])
def test_a_graph_that_cannot_leave_tokens_of_leads_out_says_so(name: str, any_leads: bool) -> None:
    from skecg.backends.onnx import _describe, _encoding

    info = read_info(Path(__file__).parents[1] / "fixtures" / name)
    info = dataclasses.replace(info, spec=dataclasses.replace(info.spec, any_leads=True))
    graph = onnx.ModelProto()
    _describe(graph, info, _encoding(info, None, None))
    assert json.loads(graph.metadata_props[0].value)["input"]["any_leads"] is any_leads


@pytest.mark.slow
def test_our_own_export_comes_back_as_weights(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from skecg.backends import export_onnx

    tiny = Path(__file__).parents[1] / "fixtures" / "tiny-temporal"
    export_onnx(tiny, tmp_path / "tiny.onnx")
    convert_onnx(tmp_path / "tiny.onnx", tmp_path / "weights", read_info(tiny).spec, output="features")
    assert read_info(tmp_path / "weights").provenance["name"] == read_info(tiny).provenance["name"]
    records = make_ecg(2, duration_seconds=6.0, random_state=0).records
    one, other = (JEPAEmbedder(model, cache=None).fit_transform(records) for model in (tmp_path / "weights", tiny))
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_the_command_line_converts_and_embeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    file = write(tmp_path / "a.onnx", model())
    words = ["convert", "onnx", str(file), str(tmp_path / "w"), "--input", str(tmp_path / "spec.json")]
    assert main([*words, "--output", "features", "--licence", "mit", "--name", "mine"]) == 0
    assert "onnx, width 5, 1 stages" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "w")]) == 0


def said(**about: object) -> onnx.ModelProto:
    """A graph as skecg exports it, with what it says of itself."""
    graph = model(tokens=False)
    entry = graph.metadata_props.add()
    entry.key, entry.value = "skecg", json.dumps({"input": SPEC.to_dict(), "provenance": {}} | about)
    return graph


def test_what_an_exported_file_says_of_itself_is_taken_over(tmp_path: Path) -> None:
    theirs = {"name": "mine", "trained": False, "licence": "CC-BY-NC-4.0", "data": "ptbxl", "source": "elsewhere"}
    hidden = {"model": "./mine", "plugin": "code", "pooling": "max", "fine_tuned_head": "attention"}
    file = write(tmp_path / "a.onnx", said(provenance=theirs | hidden))
    report = convert_onnx(file, tmp_path / "weights", SPEC, licence="mit")
    found = read_info(tmp_path / "weights").provenance
    assert {name: found.get(name) for name in theirs} == theirs | {"licence": "mit", "source": "a.onnx"}
    assert {name: found.get(name) for name in hidden} == dict.fromkeys(hidden) | {"model": "weights"}
    assert "trained" not in str(report)
    assert "**This encoder is untrained.**" in (tmp_path / "weights" / "README.md").read_text()
    with pytest.raises(ForeignCheckpointError, match=r"got trained=True, expected .*trained=False"):
        convert_onnx(file, tmp_path / "other", SPEC, trained=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leads": ("II", "I")}, r"leads=\('II', 'I'\), expected .*: leads=\('I', 'II'\)\."),
        ({"sampling_rate": 50.0}, r"sampling_rate=50\.0, expected .*: sampling_rate=100\.0\."),
        ({"normalization": "none"}, "normalization='none', expected .*: normalization='zscore'"),
        ({"remainder": "drop", "clip": 5.0}, "clip=5.0, remainder='drop', expected .*: clip=None, remainder='cover'"),
        ({"any_leads": True}, "any_leads=True, expected .*: any_leads=False"),
    ],
)
def test_another_input_than_an_exported_file_says_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_onnx(write(tmp_path / "a.onnx", said()), tmp_path / "weights", dataclasses.replace(SPEC, **change))
    assert not (tmp_path / "weights").exists()


def test_what_serves_any_leads_may_be_told_to_want_all(tmp_path: Path) -> None:
    graph = said(input=dataclasses.replace(SPEC, any_leads=True).to_dict())
    convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)
    assert not read_info(tmp_path / "weights").spec.any_leads


@pytest.mark.parametrize("value", ["{", "[]", "4", '{"input": {}, "provenance": {}}', "[" * 10_000, None])
def test_what_a_file_says_of_itself_must_be_readable(tmp_path: Path, value: str | None) -> None:
    graph = said(provenance=[])
    graph.metadata_props[0].value = value or graph.metadata_props[0].value
    with pytest.raises(ForeignCheckpointError, match="metadata 'skecg' that cannot be read"):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)


def test_whether_an_encoder_was_trained_is_known_to_whoever_says_it(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    words = ["convert", "onnx", str(write(tmp_path / "a.onnx", model())), str(tmp_path / "w")]
    words += ["--input", str(tmp_path / "spec.json"), "--output", "features"]
    assert main(words) == 0
    assert "trained" not in read_info(tmp_path / "w").provenance
    assert "Nobody said whether it was trained" in (tmp_path / "w" / "README.md").read_text()
    assert main([*words, "--trained"]) == 0
    assert read_info(tmp_path / "w").provenance["trained"] is True
    assert "Nobody said" not in (tmp_path / "w" / "README.md").read_text()


@pytest.mark.parametrize(("std", "highpass", "refused"), [(150, 0.5, True), (2e-4, None, True), (2e-4, 10.0, False)])
def test_statistics_of_another_unit_are_refused(
    tmp_path: Path, std: float, highpass: float | None, refused: bool
) -> None:
    deviations = {"normalization": "statistics", "mean": (0.0, 0.0), "std": (std, std)}
    spec = dataclasses.replace(SPEC, highpass_hz=highpass, **deviations)
    file = write(tmp_path / "a.onnx", model(tokens=False))
    with pytest.raises(WeightsFormatError, match="microvolts") if refused else contextlib.nullcontext():
        convert_onnx(file, tmp_path / "weights", spec)


def replace_node(op_type: str, domain: str = "") -> Change:
    def change(graph: onnx.ModelProto) -> None:
        graph.graph.node[1].op_type, graph.graph.node[1].domain = op_type, domain

    return change


def add_external(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def add_branch(graph: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    graph.graph.node.append(helper.make_node("Identity", ["seen"], ["other"], body=inner))


def add_constant_elsewhere(graph: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    graph.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def make_large(graph: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**30]), "shape")
    graph.graph.initializer.append(shape)
    graph.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["large"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace_node("RandomNormalLike"), "RandomNormalLike"),
        (replace_node("Loop"), "Loop"),
        (replace_node("Transpose", "com.microsoft"), "not on the list"),
        (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), r"com\.microsoft"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "version 99"),
        (lambda m: m.functions.add(name="f"), "functions of its own"),
        (add_external, "another file"),
        (add_constant_elsewhere, "another file"),
        (add_branch, "graph within"),
        (replace_node("If"), "'If'"),
        (replace_node("Scan"), "'Scan'"),
        (lambda m: setattr(m.opset_import[0], "version", 8), "version 8"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse"),
        (lambda m: m.graph.output.append(helper.make_tensor_value_info("nowhere", 1, [1])), "not valid"),
        (make_large, "at most"),
        (lambda m: m.graph.input.append(helper.make_tensor_value_info("y", 1, [1])), "2 inputs"),
        (lambda m: m.graph.node.pop(0), "not valid"),
        (lambda m: m.ClearField("graph"), "without a single operator"),
        (lambda m: m.graph.ClearField("output"), "no outputs"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 11), "float32|not valid"),
    ],
)
def test_what_is_more_than_arithmetic_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    graph = model()
    change(graph)
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC, output="tokens")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 300}, "300"),
        ({"n_leads": 1}, "n_windows"),
        ({"windows": 4}, "number of windows open or 1"),
    ],
)
def test_a_graph_that_does_not_fit_the_specification_is_refused(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_onnx(write(tmp_path / "a.onnx", model(**options)), tmp_path / "weights", SPEC, output="tokens")


def test_which_output_is_taken_is_said_where_there_are_several(tmp_path: Path) -> None:
    file = write(tmp_path / "a.onnx", model())
    with pytest.raises(ForeignCheckpointError, match="'features', 'tokens'"):
        convert_onnx(file, tmp_path / "weights", SPEC)
    with pytest.raises(ForeignCheckpointError, match="no output 'other'"):
        convert_onnx(file, tmp_path / "weights", SPEC, output="other")


def test_features_that_depend_on_the_windows_beside_are_refused(tmp_path: Path) -> None:
    graph = model(tokens=False)
    graph.graph.node.append(helper.make_node("ReduceMean", ["features"], ["centre"], axes=[0], keepdims=1))
    graph.graph.node.append(helper.make_node("Sub", ["features", "centre"], ["less"]))
    graph.graph.output[0].name = "less"
    with pytest.raises(ForeignCheckpointError, match="depend on those beside"):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)


def test_a_graph_that_answers_at_random_is_refused(tmp_path: Path) -> None:
    graph = model(tokens=False)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "share"))
    graph.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "training"))
    graph.graph.node.append(helper.make_node("Dropout", ["features", "share", "training"], ["dropped"]))
    graph.graph.output[0].name = "dropped"
    with pytest.raises(ForeignCheckpointError, match="another output for the same window"):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)


@pytest.mark.parametrize(
    ("node", "shape", "words"),
    [
        (helper.make_node("Sub", ["features", "features"], ["other"]), ["b", 5], "same features for two windows"),
        (helper.make_node("ReduceMean", ["features"], ["other"], keepdims=0), [], r"of shape \(\)"),
    ],
)
def test_an_output_that_is_no_windows_own_is_refused(
    tmp_path: Path, node: onnx.NodeProto, shape: list[object], words: str
) -> None:
    graph = model(tokens=False)
    graph.graph.node.append(node)
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("other", TensorProto.FLOAT, shape))
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    graph = model(tokens=False)
    name = graph.graph.output[0].name
    graph.graph.node[-1].output[0] = "finite"
    graph.graph.node.append(helper.make_node("Log", ["finite"], [name]))
    with pytest.raises(ForeignCheckpointError, match="not finite"):
        convert_onnx(write(tmp_path / "a.onnx", graph), tmp_path / "weights", SPEC)


def test_a_graph_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skecg.encoders.graph._MOST_BYTES", 100)
    with pytest.raises(ForeignCheckpointError, match="expected at most 100"):
        convert_onnx(write(tmp_path / "a.onnx", model(tokens=False)), tmp_path / "weights", SPEC)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08not a model at all")
    with pytest.raises(ForeignCheckpointError, match=r"a\.onnx"):
        convert_onnx(tmp_path / "a.onnx", tmp_path / "weights", SPEC)
    with pytest.raises(WeightsNotFoundError, match=r"no\.onnx"):
        convert_onnx(tmp_path / "no.onnx", tmp_path / "weights", SPEC)
    with pytest.raises(WeightsNotFoundError, match="InputSpec"):
        convert_onnx(write(tmp_path / "b.onnx", model()), tmp_path / "weights", tmp_path / "no.json")


def test_a_folder_whose_graph_was_exchanged_is_refused_before_it_runs(tmp_path: Path, folder: Path) -> None:
    """A folder from the Hub may hold any graph, with a digest that fits."""
    import hashlib
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(folder, tmp_path / "w")
    hostile = model()
    add_external(hostile)
    content = hostile.SerializeToString()
    graph = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    save_file({"graph": graph}, tmp_path / "w" / "model.safetensors")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    config["encoder"]["graph_bytes"] = len(content)
    digest = hashlib.sha256((tmp_path / "w" / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "w" / "config.json").write_text(json.dumps(config | {"weights_sha256": digest}))
    with pytest.raises(WeightsFormatError, match="another file"):
        JEPAEmbedder(tmp_path / "w", cache=None).fit_transform(RECORDS)
