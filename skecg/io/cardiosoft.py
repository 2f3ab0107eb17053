"""GE CardioSoft's XML (root element ``CardiologyXML``), the form of UK Biobank's ECGs, by Python's own parser.

A file holds a rhythm, either ``StripData`` (each lead by itself) or, of exercise tests, ``FullDisclosure`` (the samples
of all leads in turn), beside averaged beats, which are not read. Samples are whole numbers of a step in microvolts.

References
----------
.. [1] UK Biobank, data fields 20205 (at rest) and 6025 (exercise).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from skecg.errors import DamagedRecordError, UnsupportedFormatError
from skecg.io.channels import Channel, strict_number

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["is_cardiosoft", "read_cardiosoft_channels"]

_ROOT = re.compile(rb"<(?:[\w.-]+:)?CardiologyXML[\s>]")
_STRIP, _DISCLOSED = "StripData", "FullDisclosure"

# Whole numbers between commas; one may follow the last. Nothing is tried twice: an exercise test has millions.
_SAMPLES = re.compile(r"\s*+[-+]?\d++\s*+(?:,\s*+[-+]?\d++\s*+)*+,?\s*+", re.ASCII)


def is_cardiosoft(head: bytes) -> bool:
    """Report a file of CardioSoft's by its first bytes."""
    # Without its zeros UTF-16 reads as the letters it stands for.
    return _ROOT.search(head.replace(b"\0", b"")) is not None


def read_cardiosoft_channels(path: Path) -> list[Channel]:
    """List the leads of a file's rhythm.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Channel

    Raises
    ------
    UnsupportedFormatError
        When the file holds no rhythm, or two.
    DamagedRecordError
        When rate, step or samples are not what they have to be, or are fewer or more than stated.
    """
    root = ElementTree.parse(path).getroot()
    # Of exercise tests both may be there, one of them empty.
    strips = [strip for strip in root.findall("{*}" + _STRIP) if strip.find("{*}WaveformData") is not None]
    disclosed = [block for block in root.findall("{*}" + _DISCLOSED) if _text(block, "FullDisclosureData")]
    if len(strips) + len(disclosed) != 1:
        raise UnsupportedFormatError(
            f"Got {len(strips)} {_STRIP} and {len(disclosed)} {_DISCLOSED} with samples in {path}, expected one of "
            "either. Export the recording again with one rhythm, or pass its samples as an ECGRecord."
        )
    block = (strips + disclosed)[0]
    rate, step = _number(block, "SampleRate", "Hz", path), _number(block, "Resolution", "uVperLsb", path)
    leads = _strip_leads(block, path) if strips else _disclosed_leads(block, path)
    return [Channel(label, "uV", rate, partial(np.multiply, samples, step)) for label, samples in leads]


def _strip_leads(strip: ElementTree.Element, path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """Return names and samples of leads that stand one by one."""
    waves = strip.findall("{*}WaveformData")
    _check_count("leads", len(waves), _text(strip, "NumberOfLeads"), path)
    leads = [(wave.get("lead", ""), _samples(wave.text or "", path)) for wave in waves]
    for _, samples in leads:
        _check_count("samples of a lead", len(samples), _text(strip, "ChannelSampleCountTotal"), path)
    return leads


def _disclosed_leads(block: ElementTree.Element, path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """Return names and samples of leads whose samples stand in turn: the first of each, the second of each."""
    names = [name.strip() for name in _text(block, "LeadOrder").split(",")]
    _check_count("leads", len(names), _text(block, "NumberOfChannels"), path)
    samples = _samples(_text(block, "FullDisclosureData"), path)
    if len(samples) % len(names):
        raise DamagedRecordError(
            f"Got {len(samples)} samples of {len(names)} leads in {path}, expected as many of each: it may be "
            "truncated. Copy or export it again."
        )
    return list(zip(names, samples.reshape(-1, len(names)).T, strict=True))


def _samples(text: str, path: Path) -> NDArray[np.float64]:
    """Read whole numbers between commas, shape (n_samples,)."""
    if _SAMPLES.fullmatch(text) is None:
        raise DamagedRecordError(
            f"Got samples in {path} that are not whole numbers between commas, or one that is missing. Export it again."
        )
    return np.fromstring(text.strip().rstrip(","), dtype=np.float64, sep=",")


def _text(element: ElementTree.Element, name: str) -> str:
    """Return what stands in a child of an element, an empty text where there is none."""
    return (element.findtext("{*}" + name) or "").strip()


def _number(block: ElementTree.Element, name: str, unit: str, path: Path) -> float:
    """Read a number above 0, which states its unit."""
    stated, found = _text(block, name), block.find("{*}" + name)
    number, stated_unit = strict_number(stated), "" if found is None else found.get("units", "")
    if number is None or number <= 0 or stated_unit != unit:
        raise DamagedRecordError(
            f"Got {name}={stated!r} with units={stated_unit!r} in {path}, expected a number above 0 with units="
            f"{unit!r}. Export it again."
        )
    return number


def _check_count(what: str, found: int, stated: str, path: Path) -> None:
    """Raise for another number of leads or samples than the file states, if it does."""
    if stated and strict_number(stated) != found:
        raise DamagedRecordError(
            f"Got {found} {what} in {path}, expected {stated} as it states: it is truncated, or not whole. Copy or "
            "export it again."
        )
