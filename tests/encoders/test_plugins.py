"""Encoders from outside: registered once, written and read like skecg's own, and named when they are missing."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.encoders import build_encoder, code_of, plugins, register_encoder
from skecg.errors import ParameterError, SkecgError, WeightsFormatError
from skecg.spec import InputSpec, TemporalConfig
from skecg.weights import read_info, save_encoder

# The plainest plug-in there is: the temporal encoder by another name.
SOURCE = '''
"""An encoder from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from skecg.encoders import TemporalEncoder, register_encoder
from skecg.spec import TemporalConfig


@dataclass(frozen=True)
class OutsideConfig(TemporalConfig):
    architecture: ClassVar[str] = "outside"


class OutsideEncoder(TemporalEncoder):
    pass


register_encoder(OutsideConfig, OutsideEncoder)
'''
SPEC = InputSpec(("I", "II", "V1"), 100.0, 200)
SHAPE = (3, 10, 20, 16, 2, 2)
EMBED = """
import sys
import types
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
records, _ = make_ecg(2, duration_seconds=2.0, sampling_rate=100.0, leads=("I", "II", "V1"), random_state=0)
print(JEPAEmbedder(sys.argv[1]).fit_transform(records).shape)
"""


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    """A folder of weights of the plug-in ``outside_encoder``, which is loaded."""
    file = tmp_path / "outside_encoder.py"
    file.write_text(SOURCE)
    module = plugins.load_plugin(str(file))
    torch.manual_seed(0)
    save_encoder(tmp_path / "weights", build_encoder(module.OutsideConfig(*SHAPE)).eval(), SPEC, name="outside")
    yield tmp_path / "weights"
    sys.modules.pop("outside_encoder")


def embed_elsewhere(weights: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Embed in a process that has imported no plug-in."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({path!r}); {EMBED}", str(weights)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_features_of_changed_code_are_not_those_in_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "outside_encoder.py"
    records, _ = make_ecg(2, duration_seconds=2.0, sampling_rate=100.0, leads=("I", "II", "V1"), random_state=0)
    found, codes = [], []
    doubled = "    def read_out(self, tokens):\n        return 2 * super().read_out(tokens)"
    for body in ("    pass", doubled, "    pass"):
        file.write_text(SOURCE.replace("    pass", body))
        module = plugins.load_plugin(str(file))
        torch.manual_seed(0)
        save_encoder(tmp_path / "weights", build_encoder(module.OutsideConfig(*SHAPE)).eval(), SPEC, name="outside")
        found.append(JEPAEmbedder(tmp_path / "weights", cache=str(tmp_path / "cache")).fit_transform(records))
        codes.append(code_of(module.OutsideConfig(*SHAPE)))
        del sys.modules["outside_encoder"]
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5)
    np.testing.assert_array_equal(found[2], found[0])
    assert codes[0] == codes[2] != codes[1]
    assert code_of(TemporalConfig(*SHAPE)) is None


def test_code_that_is_written_nowhere_is_known_to_nobody_else() -> None:
    codes = []
    for _ in range(2):
        module = sys.modules["nowhere"] = types.ModuleType("nowhere")
        exec(SOURCE.replace('"outside"', '"nowhere"'), module.__dict__)
        codes.append(code_of(module.OutsideConfig(*SHAPE)))
        del sys.modules["nowhere"]
    assert len(codes[0]) == 64
    assert codes[0] != codes[1]


def test_weights_of_an_architecture_from_outside_embed_like_any_other(weights: Path) -> None:
    records, _ = make_ecg(2, duration_seconds=2.0, sampling_rate=100.0, random_state=0)

    assert JEPAEmbedder(str(weights)).fit_transform(records).shape == (2, 16)
    assert read_info(weights).provenance["plugin"] == "outside_encoder"


def test_where_the_plugin_is_missing_the_error_names_it(weights: Path) -> None:
    found = embed_elsewhere(weights)

    assert found.returncode != 0
    assert "architecture 'outside'" in found.stderr
    assert "the plug-in 'outside_encoder'" in found.stderr


def test_an_installed_plugin_is_found_by_its_entry_point(weights: Path, tmp_path: Path) -> None:
    about = tmp_path / "outside-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[skecg.plugins]\nbroken = not_there\noutside = outside_encoder\n")

    found = embed_elsewhere(weights, str(tmp_path))

    assert found.stdout.strip() == "(2, 16)", found.stderr


def test_a_folder_that_names_a_module_does_not_have_it_imported(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    values = json.loads((weights / "config.json").read_text())
    values["architecture"], values["provenance"]["plugin"] = "trap", "trap"
    (weights / "config.json").write_text(json.dumps(values))

    with pytest.raises(WeightsFormatError, match="the plug-in 'trap'"):
        JEPAEmbedder(str(weights)).fit([make_ecg(1).records[0]])


def test_a_name_belongs_to_who_registered_it_first() -> None:
    class Thief(TemporalConfig):
        pass

    with pytest.raises(ParameterError, match="'temporal'"):
        register_encoder(Thief, lambda config: build_encoder(config))


@pytest.mark.parametrize(
    ("name", "message"),
    [("no_such_module_at_all", "expected a module"), ("nothing.py", "no file"), ("json.py", "no file")],
)
def test_what_is_no_plugin_is_said(name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plugins.load_plugin(name)


def test_a_plugin_that_breaks_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "breaks_when_imported.py"
    file.write_text("import no_such_module_at_all")

    with pytest.raises(ParameterError, match="needs 'no_such_module_at_all'"):
        plugins.load_plugin(str(file))
    assert "breaks_when_imported" not in sys.modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def (", "SyntaxError"),
        ("raise OSError('no disk')", "OSError: no disk"),
        ("from skecg.errors import LeadError\nraise LeadError('as it is')", "^as it is$"),
    ],
)
def test_what_a_plugin_raises_is_told(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "raises_when_imported.py").write_text(code)
    with pytest.raises(SkecgError, match=message):
        plugins.load_plugin(str(tmp_path / "raises_when_imported.py"))


def test_an_unregistered_configuration_builds_nothing() -> None:
    class Unknown(TemporalConfig):
        architecture = "unknown"

    with pytest.raises(WeightsFormatError, match="Unknown"):
        build_encoder(Unknown(*SHAPE))
