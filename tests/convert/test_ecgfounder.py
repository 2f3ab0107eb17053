"""ECGFounder: from what its authors' training writes to the features that their code computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import procedural
import pytest
import torch
from numpy.typing import NDArray

from skecg import ECGRecord, JEPAEmbedder, load_encoder, prepare
from skecg.convert import convert_ecgfounder
from skecg.encoders import build_encoder
from skecg.encoders.net1d import Net1dConfig
from skecg.errors import ForeignCheckpointError, LeadError, WeightsFormatError
from skecg.leads import CANONICAL_LEADS
from skecg.weights import read_info, verify_weights

# The recordings are synthetic, with offsets, wander and hum.
pytestmark = pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning")

WIDTHS, BLOCKS = (16, 32, 32, 64), (1, 2, 1, 2)
State = dict[str, torch.Tensor]


def names_and_shapes(n_leads: int = 12) -> dict[str, tuple[int, ...]]:
    """What the authors' module holds for a narrow network, its unused normalization too."""
    layers: dict[str, tuple[int, ...]] = {"first_conv.conv": (16, n_leads, 16), "dense": (5, 64)}
    norms, before = {"first_bn": 16}, 16
    for stage, (width, n_blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
        for number in range(n_blocks):
            block = f"stage_list.{stage}.block_list.{number}."
            layers |= {f"{block}conv1.conv": (width, before, 1), f"{block}conv2.conv": (width, 16, 16)}
            layers |= {f"{block}conv3.conv": (width, width, 1)}
            layers |= {f"{block}se_fc1": (width // 2, width), f"{block}se_fc2": (width, width // 2)}
            norms |= {f"{block}bn1": before, f"{block}bn2": width, f"{block}bn3": width}
            before = width
    shapes = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    for name, width in norms.items():
        shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def state_of(n_leads: int = 12) -> State:
    return procedural.draw(names_and_shapes(n_leads), procedural.convolutional)


def write(path: Path, state: State, **extra: Any) -> Path:
    """A file as the authors' training writes it, with scores and rates that NumPy made."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3), "step": 7}}, "param_groups": [{"lr": 1e-4}]}
    scheduler = {"best": np.float64(0.91), "num_bad_epochs": np.int64(2), "done": np.bool_(True)}
    content = {"epoch": 3, "step": 7, "state_dict": state, "optimizer": optimizer, "scheduler": scheduler}
    torch.save(content | {"val_auroc": np.float32(0.93)} | extra, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ecgfounder")
    convert_ecgfounder(write(place / "12_lead_ECGFounder.pth", state_of()), place / "weights")
    return place / "weights"


def records(rate: float = 500, seconds: float = 4, leads: tuple[str, ...] = CANONICAL_LEADS) -> list[ECGRecord]:
    time = np.arange(round(rate * seconds)) / rate
    hum = 0.1 * np.sin(2 * np.pi * 50 * time)
    beat = np.exp(-0.5 * (((time % 0.8) - 0.3) / 0.02) ** 2)
    return [ECGRecord(np.outer(np.linspace(0.4, 1.5, len(leads)), beat) + hum + k, rate, leads) for k in (0.0, 0.3)]


def authors_features(x_CT: torch.Tensor, state: State) -> NDArray[np.float32]:
    """Compute the network by its description, in torch's own layers."""
    F = torch.nn.functional

    def convolve(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight, n = state[f"{name}.conv.weight"], x.shape[-1]
        total = max(0, (-(-n // stride) - 1) * stride + weight.shape[-1] - n)
        padded = F.pad(x, (total // 2, total - total // 2))
        return F.conv1d(padded, weight, state[f"{name}.conv.bias"], stride, groups=groups)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.silu(convolve(x_CT[None], "first_conv", 2))
    for stage, (width, n_blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
        for number in range(n_blocks):
            name, stride = f"stage_list.{stage}.block_list.{number}.", 2 if number == 0 else 1
            out = convolve(x if stage + number == 0 else F.silu(x), f"{name}conv1")
            out = convolve(F.silu(out), f"{name}conv2", stride, width // 16)
            out = convolve(F.silu(out), f"{name}conv3")
            out = out * torch.sigmoid(dense(F.silu(dense(out.mean(-1), f"{name}se_fc1")), f"{name}se_fc2"))[..., None]
            if stride == 2:
                x = F.max_pool1d(F.pad(x, (0, 1)), 2, 2)
            more = width - x.shape[1]
            x = out + F.pad(x, (0, 0, more // 2, more - more // 2))
    return x.mean(-1)[0].numpy()


@pytest.mark.parametrize("n_samples", [2000, 1999, 1237, 530])
def test_features_are_those_of_the_description_at_every_length(folder: Path, n_samples: int) -> None:
    shorter = [ECGRecord(r.signal[:, :n_samples], 500, r.leads) for r in records()]
    found = JEPAEmbedder(folder, cache=None).fit_transform(shorter)
    windows = prepare(shorter, load_encoder(folder)[1])
    for row, values in zip(found, windows.values, strict=True):
        wanted = authors_features(torch.from_numpy(values[:, :n_samples]), state_of())
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_the_network_and_its_preparation_are_those_of_the_authors_code(shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "golden" / "foreign_ecgfounder.npz")
    assert names_and_shapes() == procedural.shapes_of(golden)
    convert_ecgfounder(write(tmp_path / "12.pth", state_of()), tmp_path / "weights")
    encoder, spec = load_encoder(tmp_path / "weights")
    leads = tuple(str(lead) for lead in golden["leads"])
    found = [ECGRecord(signal, 500, leads) for signal in golden["raw_mV_500hz"]]
    windows = prepare(found, spec)
    np.testing.assert_allclose(windows.values[:, :, :1250], golden["x"], atol=2e-5)
    features = JEPAEmbedder(tmp_path / "weights", cache=None).fit_transform(found)
    np.testing.assert_allclose(features, golden["features"], atol=1e-5)
    with torch.inference_mode():
        states = encoder.layers(torch.from_numpy(golden["x"]), range(4))
        odd = encoder(torch.from_numpy(golden["x"][:, :, : int(golden["x_odd_length"])])).mean(dim=1)
    for number, state in enumerate(states):
        np.testing.assert_allclose(state[0].T, golden[f"act_rec0:stage_list.{number}"], atol=1e-5)
    np.testing.assert_allclose(odd, golden["features_odd_length"], atol=1e-5)


def test_the_preparation_is_the_one_that_the_authors_order(folder: Path) -> None:
    from scipy import signal

    record = records(seconds=10)[1]
    x = signal.filtfilt(*signal.iirnotch(50, 30, 500), record.signal.astype(np.float64))
    x = signal.filtfilt(*signal.butter(4, [0.67, 40], "bandpass", fs=500), x)
    x = x - np.stack([signal.medfilt(lead, 201) for lead in x])
    wanted = (x - x.mean()) / (x.std() + 1e-8)
    np.testing.assert_allclose(prepare([record], load_encoder(folder)[1]).values[0], wanted, atol=1e-4)


def test_the_folder_says_where_it_is_from_and_what_is_ours(folder: Path) -> None:
    info = read_info(folder)
    assert verify_weights(info).passed
    assert info.provenance["licence"] == "mit"
    card = (folder / "README.md").read_text()
    assert "Ours: other rates are resampled" in card
    assert "leaves the filters out" in card
    assert "notch 50 Hz" in card


def test_one_lead_is_lead_i(tmp_path: Path) -> None:
    report = convert_ecgfounder(write(tmp_path / "1.pth", state_of(1)), tmp_path / "weights")
    assert report.spec.leads == ("I",)
    assert report.dropped == ("batch normalization that is never called (95 tensors)", "dense (2 tensors)")
    assert JEPAEmbedder(tmp_path / "weights", cache=None).fit_transform(records()).shape == (2, 64)
    with pytest.raises(LeadError, match="I"):
        JEPAEmbedder(tmp_path / "weights", cache=None).fit_transform(records(leads=("V1", "V2")))


def test_absent_leads_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(LeadError, match="V6"):
        JEPAEmbedder(folder, cache=None).fit_transform(records(leads=CANONICAL_LEADS[:-1]))


def test_any_stage_gives_features_of_its_width_and_tokens_at_their_times(folder: Path) -> None:
    embedder = JEPAEmbedder(folder, cache=None, layer=[0, -1])
    assert embedder.fit_transform(records()).shape == (2, 16 + 64)
    tokens = embedder.set_params(layer=1).fit(records()).transform_tokens(records())[0]
    assert tokens.values.shape == (250, 32)
    np.testing.assert_allclose(tokens.start_seconds, np.arange(250) * 8 / 500)


def test_tokens_of_stages_at_other_distances_do_not_stand_side_by_side(folder: Path) -> None:
    from skecg.errors import ParameterError

    with pytest.raises(ParameterError, match="4 and 32 samples apart"):
        JEPAEmbedder(folder, cache=None, layer=[0, -1]).fit(records()).transform_tokens(records())


class _Call:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


class _ObjectScalar:
    def __reduce__(self) -> Any:
        from numpy._core.multiarray import scalar

        return scalar, (np.dtype("O"), b"anything")


@pytest.mark.parametrize("hostile", [_Call(), _ObjectScalar(), np.zeros(3), np.str_("text")])
def test_numpy_scalars_are_plain_numbers_and_nothing_else_is_let_in(tmp_path: Path, capsys, hostile: Any) -> None:
    file = write(tmp_path / "a.pth", state_of(), val_auroc=hostile)
    with pytest.raises(ForeignCheckpointError, match=r"a\.pth"):
        convert_ecgfounder(file, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    assert capsys.readouterr().out == ""


def test_numbers_that_numpy_made_come_out_as_they_were(tmp_path: Path) -> None:
    from skecg.convert.checkpoint import open_checkpoint

    numbers = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.uint8(200), np.bool_(True), np.float64("nan")]
    torch.save({"numbers": numbers}, tmp_path / "a.pt")
    found = open_checkpoint(tmp_path / "a.pt").content["numbers"]
    assert [type(number) for number in found] == [float, float, int, int, bool, float]
    np.testing.assert_array_equal(found, numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("first_conv.conv.bias"), "'first_conv.conv.bias'"),
        (lambda s: s.update({"extra.weight": torch.zeros(3)}), "'extra.weight'"),
        (lambda s: s.pop("first_conv.conv.weight"), "'first_conv.conv.weight'"),
        (lambda s: s.update({"stage_list.1.block_list.1.se_fc1.weight": torch.zeros(3, 3)}), "se_fc1.weight"),
        (lambda s: s.update({"stage_list.0.block_list.0.conv3.conv.weight": torch.zeros(0, 3, 1)}), "conv3"),
        (lambda s: s["first_conv.conv.bias"].fill_(float("nan")), "not finite"),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("stage_list.1.")], "no stages"),
        (dict.clear, "no tensor|no stages"),
    ],
)
def test_what_is_not_this_network_is_refused_by_the_tensors_name(tmp_path: Path, change: Any, words: str) -> None:
    state = state_of()
    change(state)
    with pytest.raises(ForeignCheckpointError, match=words):
        convert_ecgfounder(write(tmp_path / "a.pth", state), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    published = (64, 160, 160, 400, 400, 1024, 1024)
    config = Net1dConfig(12, 5000, 64, published, (2, 2, 2, 3, 3, 4, 4))
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in build_encoder(config).parameters())
    unused = (132_797 - 61) // 2  # scales and shifts; running statistics and 61 counters are no parameters
    assert n_parameters == 30_819_014 - unused - (1024 * 150 + 150)
    assert config.fewest_parameters < n_parameters


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (16, 8)}, "widths"),
        ({"blocks": (1,)}, "blocks"),
        ({"blocks": (1, 0)}, "blocks"),
        ({"group_dim": 12}, "group_dim"),
        ({"expansion": 0}, "expansion"),
        ({"stem_dim": 17}, "widths"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_the_fields_name(change: dict[str, Any], words: str) -> None:
    values = {"n_leads": 2, "input_samples": 100, "stem_dim": 16, "widths": [16, 32], "blocks": [1, 2]} | change
    with pytest.raises(WeightsFormatError, match=words):
        Net1dConfig.from_dict(values)
