"""The whole road of a new user, from a table of recordings to a model, predictions, a report and an atlas, twice.

Run ``python examples/benchmarks/table_to_atlas.py DATA [--records 5000] [--out FOLDER]``. DATA is a folder with packed
recordings of PTB-XL (patients known) and of the challenges of 2020 and 2021 (age and sex known). They are written as
WFDB files, with a table beside them, as an archive would hold them. The first command is interrupted once and given
again. Printed are seconds and how many embeddings each command added to the cache: none in the second round.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skecg.embedding_cache import DiskCache

ARCHIVES = ("cinc2020_2021_mix_250hz", "ptbxl_full_folds1-8_100hz")
# Superclasses of what the challenges call by SNOMED CT's numbers; records with other codes only have no label.
SUPERCLASSES = {
    "426783006": "NORM",
    "59118001": "CD",
    "164909002": "CD",
    "270492004": "CD",
    "164931005": "STTC",
    "429622005": "STTC",
}


def recordings(data: Path, name: str) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray, float, int]]:
    """Yield what is known of each recording, its leads, steps, size of a step (mV) and rate."""
    with np.load(data / f"{name}.npz", allow_pickle=False) as packed:
        held = {key: packed[key] for key in packed.files}
    step = float(held["lsb"]) * {"mV": 1.0, "uV": 1e-3}[str(held["units"])]
    for k, signals in enumerate(held["signals"]):
        if "super_class" in held:
            label = str(held["super_class"][k]).replace(",", ";")
        else:
            codes = str(held["labels"][k]).replace(";", ",").split(",")
            label = ";".join(sorted({SUPERCLASSES[code.strip()] for code in codes if code.strip() in SUPERCLASSES}))
        identity = str(held["record_ids"][k])
        part = int(held["seg_index"][k]) if "seg_index" in held else 0
        known = {
            "archive": name.split("_")[0],
            # One cell with one label is a list of labels, too, where others have several.
            "superclass": f"{label};" if label and ";" not in label else label,
            "patient": f"{name[:4]} {held['patient_ids'][k] or identity}",
            "age": str(held["age"][k]) if "age" in held else "",
            "sex": str(held["sex"][k]) if "sex" in held else "",
            "name": f"{name[:4]}_{identity}_{part}",
        }
        end = int(held["valid_len"][k]) if "valid_len" in held else signals.shape[1]
        yield known, held["leads"], signals[:, :end], step, int(held["fs"])


def write_archive(data: Path, folder: Path, n_records: int) -> Path:
    """Write recordings as WFDB files, and a table of what is known of them."""
    (folder / "recordings").mkdir(parents=True)
    rows: list[dict[str, str]] = []
    for archive in ARCHIVES:
        for known, leads, steps, size, rate in recordings(data, archive):
            if len(rows) == n_records:
                break
            name = known.pop("name")
            (folder / "recordings" / f"{name}.dat").write_bytes(np.ascontiguousarray(steps.T, dtype="<i2").tobytes())
            gain = f"{name}.dat 16 {1 / size:g}/mV 16 0"
            lines = [f"{gain} {row[0]} 0 0 {lead}" for row, lead in zip(steps, leads, strict=True)]
            header = f"{name} {len(leads)} {rate} {steps.shape[1]}"
            (folder / "recordings" / f"{name}.hea").write_text("\n".join([header, *lines]) + "\n")
            rows.append({"path": f"recordings/{name}.hea", **known})
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    known_ages = sum(bool(row["age"]) for row in rows)
    print(f"{len(rows)} recordings, {len({row['patient'] for row in rows})} patients, {known_ages} with age and sex")
    return table


def run(folder: Path, *arguments: str, stop_after: float | None = None) -> None:
    """Run a verb and print how long it took and how many embeddings it added; interrupt it when asked."""
    cache = DiskCache(folder / "cache" / "embeddings")
    before, began = cache.info().entries, time.perf_counter()
    log = folder / "log.txt"
    with log.open("a") as errors:
        command = [sys.executable, "-m", "skecg", *arguments]
        process = subprocess.Popen(command, cwd=folder, stderr=errors, stdout=errors)
        if stop_after is not None:
            time.sleep(stop_after)
            process.send_signal(signal.SIGINT)
        code = process.wait()
    seconds, added = time.perf_counter() - began, cache.info().entries - before
    said = f"{seconds:7.1f} s  {added:6d} embeddings  exit {code}  skecg {' '.join(arguments[:1])}"
    print(said + (" (interrupted)" if stop_after is not None else ""), flush=True)
    if code not in (0, 1, 130):
        sys.exit(log.read_text()[-3000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, help="where everything is left (default: a temporary folder)")
    parser.add_argument("--stop-after", type=float, default=25.0, help="seconds until the interruption")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.out or Path(temporary) / "road").resolve()
        table = write_archive(arguments.data, folder, arguments.records)
        os.environ["SKECG_CACHE"] = str(folder / "cache")
        labels = ("--label-column", "superclass", "--group-column", "patient")
        model, cache = ("--model", arguments.model), ("--cache", str(folder / "cache" / "embeddings"))
        fit = ("fit", table.name, *labels, *model, *cache)
        run(folder, *fit, "--out", "model", stop_after=arguments.stop_after)
        for number in (1, 2):
            print(f"round {number}")
            run(folder, *fit, "--out", f"model{number}")
            run(folder, "predict", f"model{number}", "--table", table.name, "--out", f"predictions{number}.csv", *cache)
            run(folder, "score", table.name, *labels, *model, *cache, "--kernels", "1", "--out", f"report{number}")
            run(folder, "embed", "recordings", *model, *cache, "--out", f"features{number}.npz")
            pages = ("--labels", table.name, "--out", f"atlas{number}.html", "--title", "Two archives")
            run(folder, "atlas", f"features{number}.npz", *pages)
        same = (folder / "predictions1.csv").read_bytes() == (folder / "predictions2.csv").read_bytes()
        written = [(folder / f"atlas{number}.html").read_bytes() for number in (1, 2)]
        print(
            f"the same predictions: {same}; the same atlas: {written[0] == written[1]}, {len(written[0]) / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
