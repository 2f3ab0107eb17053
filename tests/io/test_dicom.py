"""What a DICOM object says of its channels and samples is obeyed, or the object refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_formats import counts, multiplex_group, write_dicom

from skecg.io.formats import read_format

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("code", "scheme", "lead"),
    [
        ("2:2", "MDC", "II"),
        ("5.6.3-9-2", "SCPECG", "II"),
        ("2:2", "", "II"),
        ("CH-2", "99ACME", "CH2"),
        ("2:2", "99ACME", "CH2"),
        ("1:2", "MDC", "CH2"),
        ("CH-2", "", "CH2"),
    ],
)
def test_a_code_is_a_lead_s_by_its_scheme_alone(tmp_path: Path, code: str, scheme: str, lead: str) -> None:
    group = multiplex_group(counts(1, 100), [(code, "Recorder channel 2")])
    (channel,) = group.ChannelDefinitionSequence
    channel.ChannelLabel = "CH2"
    channel.ChannelSourceSequence[0].CodingSchemeDesignator = scheme
    assert read_format(write_dicom(tmp_path / "a.dcm", [group])).leads == (lead,)
