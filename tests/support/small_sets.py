"""Small copies of public data sets, written by hand, as files by name."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")

PTBXL_ROWS = [
    # ecg_id, patient_id, age, sex, strat_fold, scp_codes
    (1, "15709.0", "56.0", "1", "3", "{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}"),
    (2, "13243.0", "19.0", "0", "2", "{'NORM': 80.0, 'SBRAD': 0.0}"),
    (1001, "13243.0", "300.0", "0", "2", "{'IMI': 35.0, 'ABQRS': 0.0}"),
    (21837, "9.0", "", "", "10", "{}"),
]


def steps(seed: int, n_samples: int) -> np.ndarray:
    """Twelve leads of digitizer steps that obey Einthoven's law, shape (n_samples, 12)."""
    one, two, *chest = np.random.default_rng(seed).integers(-500, 500, (8, n_samples))
    two += (one + two) % 2  # so that halves are whole
    limb = [one, two, two - one, -(one + two) // 2, one - two // 2, two - one // 2]
    return np.stack([*limb, *chest], axis=1).astype("<i2")


def wfdb_files(
    name: str,
    sampling_rate: int,
    values: np.ndarray,
    *,
    suffix: str = ".dat",
    scales: list[str] | None = None,
    leads: tuple[str, ...] = LEADS,
    comments: tuple[str, ...] = (),
) -> dict[str, bytes]:
    """A header and its signal file."""
    bare = Path(name).name
    storage = "16+24" if suffix == ".mat" else "16"
    lines = [f"{bare} 12 {sampling_rate} {len(values)}"]
    for i, lead in enumerate(leads):
        scale = scales[i] if scales else "1000.0(0)/mV"
        lines.append(f"{bare}{suffix} {storage} {scale} 16 0 {values[0, i]} 0 0 {lead}")
    text = "\n".join([*lines, *(f"#{comment}" for comment in comments)]) + "\n"
    return {f"{name}.hea": text.encode(), f"{name}{suffix}": bytes(24 if suffix == ".mat" else 0) + values.tobytes()}


def ptbxl_files() -> dict[str, bytes]:
    """Four recordings of PTB-XL at both rates, and its tables."""
    table, files = io.StringIO(), {}
    writer = csv.writer(table)
    writer.writerow(
        ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
    )
    for ecg_id, patient, age, sex, fold, codes in PTBXL_ROWS:
        names = {}
        for short, rate in (("lr", 100), ("hr", 500)):
            names[short] = f"records{rate}/{ecg_id // 1000 * 1000:05d}/{ecg_id:05d}_{short}"
            files |= wfdb_files(names[short], rate, steps(ecg_id, 10 * rate))
        writer.writerow([ecg_id, patient, age, sex, "a, report", codes, fold, names["lr"], names["hr"]])
    statements = (
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\r\n"
        "NORM,normal ECG,1.0,,,NORM,NORM\r\nSR,sinus rhythm,,,1.0,,\r\n"
    )
    return {
        "ptbxl_database.csv": table.getvalue().encode(),
        "scp_statements.csv": statements.encode(),
        "LICENSE.txt": b"CC BY 4.0",
        **files,
    }


def cpsc_files() -> dict[str, bytes]:
    """Three recordings of CPSC2018 among other files of the Challenge."""
    files = {"RECORDS": b"", "training/georgia/g1/E00001.hea": b"other data"}
    known = [
        ("g1/A0001", 12, "Age: 74,Sex: Male,Dx: 59118001,Rx: Unknown"),
        ("g1/A0002", 6, "Age: NaN,Sex: Female,Dx: AF;RBBB"),
        ("g7/A6374", 10, "Age: -1,Sex: Unknown,Dx: 164889003;429622005"),
    ]
    for seed, (name, seconds, text) in enumerate(known):
        comments = tuple(field.replace(";", ",") for field in text.split(","))
        values = steps(seed, seconds * 500)
        files |= wfdb_files(f"training/cpsc_2018/{name}", 500, values, suffix=".mat", comments=comments)
    return files


def marks(annotations: list[tuple[int, str]]) -> bytes:
    """The bytes of an annotation file."""
    codes = {"(": 39, ")": 40, "p": 24, "N": 1, "t": 27}
    content, last = b"", 0
    for sample, symbol in annotations:
        step = sample - last
        if not 0 <= step < 1024:
            high, low = divmod(step & 0xFFFFFFFF, 1 << 16)
            content += (59 << 10).to_bytes(2, "little") + high.to_bytes(2, "little") + low.to_bytes(2, "little")
            step = 0
        content += (codes[symbol] << 10 | step).to_bytes(2, "little")
        last = sample
    return content + b"\0\0"


LUDB_MARKS = [(10, "p"), (12, ")"), (30, "("), (40, "N"), (55, ")"), (1500, "("), (1540, "t"), (1600, "N"), (1610, ")")]


def ludb_files() -> dict[str, bytes]:
    """Three recordings of LUDB with gains that break Einthoven's law."""
    files = {"RECORDS": b"data/1\n", "ludb.csv": b"not used"}
    leads = tuple(lead.lower() for lead in LEADS)
    for number, age in ((1, "51"), (2, ">89"), (10, "64")):
        scales = [f"{700 + 100 * i}({i - 6})/mV" for i in range(12)]
        comments = (
            f"<age>: {age}",
            "<sex>: F",
            "<diagnoses>:",
            "Rhythm: Sinus bradycardia.",
            "Scar formation: apical. ",
        )
        files |= wfdb_files(f"data/{number}", 500, steps(number, 5000), scales=scales, leads=leads, comments=comments)
        for shift, lead in enumerate(leads):
            files[f"data/{number}.{lead}"] = marks(
                [(sample + shift + number - 1, symbol) for sample, symbol in LUDB_MARKS]
            )
    return files


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Unpack files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
