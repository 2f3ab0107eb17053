"""What vendors' files say of their leads is obeyed, or the files refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_vendors import aecg, counts, muse

from skecg.errors import UnsupportedFormatError
from skecg.io.formats import read_format

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("write", [aecg, muse])
@pytest.mark.parametrize(
    ("names", "leads"),
    [(("I", "V_1", "V_2"), ("I", "V1", "V2")), (("I", "CH_1", "CH_2"), ("I", "CH_1", "CH_2"))],
    ids=["chest leads", "numbered channels"],
)
def test_a_number_that_belongs_to_a_lead_s_name_stays(
    tmp_path: Path, write: Callable[..., bytes], names: tuple[str, ...], leads: tuple[str, ...]
) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(write(counts(3), names))
    assert read_format(path).leads == leads


@pytest.mark.parametrize("write", [aecg, muse])
def test_a_lead_twice_is_known_for_one(tmp_path: Path, write: Callable[..., bytes]) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(write(np.repeat(counts(1), 2, axis=0), ("II", "II")))
    assert read_format(path).leads == ("II",)
    path.write_bytes(write(counts(3), ("I", "V", "V")))
    with pytest.raises(UnsupportedFormatError, match="Got leads V and V_2"):
        read_format(path)
