"""What a DICOM object says of its channels and samples is obeyed, or the object refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_formats import counts, multiplex_group, write_dicom

from skecg.errors import UnsupportedFormatError
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


@pytest.mark.parametrize(("interpretation", "law"), [("MB", "µ-law"), ("AB", "A-law")])
def test_dicom_samples_that_are_companded_are_refused(tmp_path: Path, interpretation: str, law: str) -> None:
    group = multiplex_group(counts(1, 100), [("2:1", "")])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, interpretation
    group.WaveformData = counts(1, 100).astype(np.uint8).tobytes()
    with pytest.raises(UnsupportedFormatError, match=law):
        read_format(write_dicom(tmp_path / "a.dcm", [group]))
