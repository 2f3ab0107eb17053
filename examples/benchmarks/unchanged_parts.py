"""What ``unchanged.py`` records and compares: one function for each part of what skecg computes or names.

Only public names and the two command lines are used. All records are synthetic and all draws are seeded.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import wfdb
from numpy.typing import NDArray

import skecg
from skecg import ECGRecord, FineTunedClassifier, JEPAEmbedder, LogisticProbe, Segmenter, save_encoder
from skecg.datasets import make_ecg, make_waves
from skecg.encoders import build_encoder
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.spec import EncoderConfig, InputSpec, LeadwiseConfig, MultiscaleConfig

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}

#: What a part finds: arrays of numbers, and lists of names.
Found = dict[str, Any]


class Place(NamedTuple):
    """Where a part may write: the folder that lasts, one that does not; and how many records it embeds."""

    out: Path
    scratch: Path
    n_records: int


RATES = (100, 250, 360, 500, 1000, 128)
SECONDS = (10.0, 4.0, 1.2, 25.0, 10.0, 2.5, 12.3)
LEADS = (CANONICAL_LEADS, EIGHT_LEADS, CANONICAL_LEADS[::-1], ("I", "II"), ("II",), ("V5", "I", "aVF", "V1"))


def mixed_records(n_records: int) -> list[ECGRecord]:
    """Make records of which neighbours differ in rate, length and leads; one in nine has a gap."""
    return [mixed_record(number) for number in range(n_records)]


def mixed_record(number: int) -> ECGRecord:
    # The three lists of choices are walked at different speeds, so that combinations do not repeat soon.
    rate, seconds = RATES[number % len(RATES)], SECONDS[number % len(SECONDS)]
    leads = LEADS[number // 2 % len(LEADS)]
    made = make_ecg(
        duration_seconds=seconds, sampling_rate=rate, leads=leads, noise=0.05, mains_hz=20.0, random_state=number
    )
    signal = made.records[0].signal.copy()
    if number % 9 == 4:
        signal[0, rate // 5 : rate // 4] = np.nan
    return ECGRecord(signal, rate, leads, name=f"r{number:02}")


def write_wfdb(folder: Path, records: Iterable[ECGRecord]) -> list[Path]:
    """Write WFDB files, in turn of the formats 16 and 212."""
    folder.mkdir()
    for number, record in enumerate(records):
        storage = ["16", "212"][number % 2]
        wfdb.wrsamp(
            record.name,
            fs=record.sampling_rate,
            units=["mV"] * record.n_leads,
            sig_name=list(record.leads),
            p_signal=record.signal.T.astype(np.float64),
            fmt=[storage] * record.n_leads,
            write_dir=str(folder),
        )
    return sorted(folder.glob("*.hea"))


def write_packed(path: Path, n_records: int, seconds: float = 10.0, rate: int = 250) -> Path:
    """Write a packed file with classes, patients and the folds 7, 8 and 9."""
    made = make_ecg(
        n_records,
        duration_seconds=seconds,
        sampling_rate=rate,
        conduction=["normal", "lbbb"],
        noise=0.05,
        random_state=0,
    )
    numbers = np.arange(n_records)
    np.savez(
        path,
        signals=np.stack([np.rint(record.signal * 1000) for record in made.records]).astype(np.int16),
        lsb=0.001,
        units="mV",
        fs=rate,
        leads=np.array(CANONICAL_LEADS),
        record_ids=numbers.astype(str),
        patient_ids=(numbers // 2).astype(str),
        super_class=np.where(made.labels["conduction"] == "lbbb", "CD", "NORM"),
        strat_fold=numbers // 2 % 3 + 7,
    )
    return path


def find_features(place: Place) -> Found:
    """Compute features of every bundled model, from arrays and from files, and tokens of the first records."""
    records = mixed_records(place.n_records)
    paths = write_wfdb(place.scratch / "wfdb", records)
    found: Found = {}
    for model in skecg.list_models():
        found |= embeddings(model, records, paths, missing_leads="raise")
    return found


def find_other_encoders(place: Place) -> Found:
    """Compute features and tokens of architectures that no bundled model has."""
    records = mixed_records(max(1, place.n_records // 2))
    paths = write_wfdb(place.scratch / "wfdb", records)
    found: Found = {}
    for name, folder in write_encoders(place.scratch).items():
        found |= {f"{name} {key}": found for key, found in embeddings(folder, records, paths, "zero").items()}
    return found


def write_encoders(folder: Path) -> dict[str, str]:
    """Write weights folders of seeded encoders of two architectures, the one of leads in Kim's shape but smaller."""
    configs: dict[str, tuple[EncoderConfig, InputSpec]] = {
        "leadwise": (
            LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=192, depth=3, num_heads=4),
            InputSpec(EIGHT_LEADS, 250.0, 2500, resampling="fourier"),
        ),
        "multiscale": (
            MultiscaleConfig(n_leads=12, patch_samples=25, n_patches=100, dim=96, depth=3, num_heads=4),
            InputSpec(CANONICAL_LEADS, 250.0, 2500, highpass_hz=0.5, lowpass_hz=40.0, normalization="zscore"),
        ),
    }
    for name, (config, spec) in configs.items():
        torch.manual_seed(0)
        save_encoder(folder / name, build_encoder(config), spec)
    return {name: str(folder / name) for name in configs}


def embeddings(model: str, records: list[ECGRecord], paths: list[Path], missing_leads: str) -> Found:
    """Embed records as the weights say, and a few in the other ways that users may choose."""
    label = Path(model).name
    few, twelve = records[:8], np.stack([record.signal for record in make_ecg(4, random_state=0).records])
    plain = JEPAEmbedder(model, missing_leads=missing_leads, cache=None)
    found: Found = {
        f"{label} records": plain.fit(records).transform(records),
        f"{label} files": plain.fit_transform(paths),
        f"{label} array": plain.set_params(sampling_rate=500, leads=CANONICAL_LEADS).fit_transform(twelve),
    }
    ways: dict[str, dict[str, Any]] = {
        "memory": {"cache": "memory"},
        "max": {"pooling": "max"},
        "mean+std": {"pooling": "mean+std"},
        "last2": {"layer": "last2"},
        "stride": {"stride": 5.0},
        "bf16": {"precision": "bf16"},
        "two jobs": {"n_jobs": 2},
        "by three": {"batch_size": 3},
    }
    for way, parameters in ways.items():
        embedder = JEPAEmbedder(model, missing_leads=missing_leads, **({"cache": None} | parameters))
        found[f"{label} {way}"] = embedder.fit_transform(few)
    tokens = JEPAEmbedder(model, missing_leads=missing_leads, cache=None).fit(few).transform_tokens(few)
    for row, of_record in enumerate(tokens):
        for name in ("values", "start_seconds", "stop_seconds", "leads"):
            found[f"{label} tokens {row} {name}"] = getattr(of_record, name)
    return found


SHORT = ["run.steps=20", "optim.warmup_steps=4", "watch.log_every=1", "watch.gauge_every=10", "watch.probe_every=0"]
SHORT += ["watch.checkpoint_every=20", "watch.keep_every=0", "run.precision=fp32"]

#: The overrides of each recipe: few records in a step; Kim's encoder narrow and shallow, its form as it is.
RECIPES = {
    "tiny": ["run.batch_size=8"],
    "weimann_vit_xs": ["run.batch_size=2"],
    "kim_leadwise_b_random": [
        "run.batch_size=4",
        "encoder.dim=96",
        "encoder.depth=3",
        "encoder.num_heads=4",
        "predictor.dim=48",
        "predictor.depth=2",
        "predictor.num_heads=4",
    ],
    "mae_time": ["run.batch_size=4"],
    "beat_ssl_soft_1_soft_1_1": ["run.batch_size=4"],
}

#: Of the lines of a journal, what depends on the clock or on the machine.
_MEASURED = re.compile(r"second|speed|_per_|memory|megabytes|flops|elapsed|time")

#: Of a report, sentences that may be worded anew, and where its data lay.
_PROSE = re.compile(r"note$|rule$|description$|method$|licence$|citation$|folder$|protocol\.(?!.*Cs$)")


def run_module(*arguments: object) -> str:
    """Run ``python -m`` in one thread on the code of this checkout, and return what it printed."""
    environment = {**os.environ, **ONE_THREAD, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr}")
    return done.stdout


def find_losses(recipe: str, place: Place) -> Found:
    """Pack recordings as a recipe says and train the first steps."""
    shards, run = place.scratch / "shards", place.scratch / "run"
    # Folds are absent: two of them would be kept out.
    packed = write_packed(place.scratch / "made.npz", 24, rate=500)
    run_module("pretraining", "pack", "--corpus", f"made={packed}", "--out", shards, "--recipe", recipe, "--quiet")
    train(recipe, shards, run)
    return journal_of(run) | {"files": names_of_files(shards, "shards") + names_of_files(run, "run")}


def train(recipe: str, shards: Path, run: Path, *more: str) -> None:
    words = ["--recipe", recipe, "--data", shards, "--out", run, "--device", "cpu", *SHORT, *RECIPES[recipe], *more]
    run_module("pretraining", "train", *words)


def journal_of(run: Path) -> Found:
    """Read whatever a run wrote down of its steps, but for what depends on the clock."""
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    names = sorted({name for line in lines for name, value in line.items() if isinstance(value, float)})
    return {
        name: np.array([[line["step"], line[name]] for line in lines if line.get(name) is not None])
        for name in names
        if not _MEASURED.search(name)
    }


def names_of_files(folder: Path, label: str) -> list[str]:
    """Name the files of a folder and the keys of those in JSON."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "tensorboard" not in path.parts:
            name = f"{label}/{path.relative_to(folder).as_posix()}"
            found.append(name)
            if path.suffix == ".json":
                found += [f"{name}: {key}" for key in keys_of(json.loads(path.read_text(encoding="utf-8")))]
    return found


def keys_of(value: Any, before: str = "") -> Iterator[str]:
    """Walk the keys of nested JSON; list items have none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{before}{key}"
            yield from keys_of(inner, f"{before}{key}.")


def find_evaluation(place: Place) -> Found:
    """Evaluate the bundled models on a packed file, with both protocols."""
    packed = write_packed(place.scratch / "made.npz", 90, seconds=4.0)
    found: Found = {}
    for protocol, models in {"pooled": list(skecg.list_models()), "attention": ["untrained-temporal"]}.items():
        out = place.scratch / protocol
        chosen = [word for model in models for word in ("--model", model)]
        options = ["--protocol", protocol, "--fractions", "0.3,1", "--draws", 2, "--resamples", 50, "--no-figure"]
        words = [*chosen, "--task", "superdiagnostic", "--data", packed, "--out", out, "--cache", "none", "--quiet"]
        run_module("skecg", "evaluate", *words, *options)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        found |= {f"{protocol} {key}": value for key, value in leaves_of(report) if not _of_this_run(key)}
        found[f"{protocol} keys"] = [key for key in keys_of(report) if not key.startswith("run.")]
    return found


def _of_this_run(key: str) -> bool:
    """Whether an entry of a report says when, where and how fast it was made, or says it in sentences."""
    return key.startswith("run.") or bool(_MEASURED.search(key) or _PROSE.search(key))


def leaves_of(value: Any, before: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Walk nested JSON down to numbers, words and lists of these."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves_of(inner, f"{before}{key}.")
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value):
            yield from leaves_of(inner, f"{before}{number}.")
    else:
        # None stands for "there is none" in JSON, which NaN says among numbers.
        plain = [np.nan if inner is None else inner for inner in (value if isinstance(value, list) else [value])]
        yield before.rstrip("."), np.array(plain)


def find_fitted(place: Place) -> Found:
    """Fit everything that can be fitted, for an epoch, and predict."""
    found = find_probes(place)
    records, labels = make_ecg(24, conduction=["normal", "lbbb", "rbbb"], noise=0.05, random_state=0)
    for head in ("linear", "attention"):
        classifier = fit_classifier(head=head)
        found[f"classifier {head}"] = classifier.decision_function(records)
        found[f"classifier {head} losses"] = np.array(classifier.history_.losses)
        found[f"classifier {head} held out"] = classifier.validation_rows_
        found[f"classifier {head} classes"] = classifier.predict(records)
    indicator = np.stack([labels["conduction"] == name for name in ("lbbb", "rbbb")], axis=1)
    several = FineTunedClassifier("untrained-temporal", epochs=1, batch_size=8).fit(records, indicator)
    found["classifier indicator"] = several.predict_proba(records)
    return found | segmented(fit_segmenter())


def find_probes(place: Place) -> Found:
    """Fit the probe for several labels, for classes, and along a path."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((120, 16))
    indicator, classes = X[:, :3] + draw.standard_normal((120, 3)) > 0, draw.integers(0, 3, 120)
    several, joint = LogisticProbe().fit(X, indicator), LogisticProbe(class_weight="balanced").fit(X, classes)
    found = {"probe path": np.stack([probe.coef_ for probe in LogisticProbe().path(X, indicator, [0.01, 1.0, 10.0])])}
    for name, probe in {"several": several, "joint": joint}.items():
        found |= {f"probe {name}": probe.coef_, f"probe {name} constants": probe.intercept_}
    return found


def fit_classifier(head: str = "linear") -> FineTunedClassifier:
    records, labels = make_ecg(24, conduction=["normal", "lbbb", "rbbb"], noise=0.05, random_state=0)
    classifier = FineTunedClassifier("untrained-temporal", head=head, epochs=1, batch_size=8, random_state=0)
    return classifier.fit(records, labels["conduction"])


def fit_segmenter() -> Segmenter:
    records, waves = make_waves(8, random_state=0)
    segmenter = Segmenter("untrained-temporal", epochs=1, head_epochs=1, batch_size=4, random_state=0)
    return segmenter.fit(records, waves)


def segmented(segmenter: Segmenter) -> Found:
    """Segment records of other lengths than those that were trained on."""
    records = [make_waves(1, duration_seconds=seconds, random_state=9).records[0] for seconds in (4.0, 10.0, 17.0)]
    found = {f"segmenter {row} samples": labels for row, labels in enumerate(segmenter.predict(records))}
    waves = segmenter.annotate(records)
    return found | {f"segmenter {row} waves": annotated.table for row, annotated in enumerate(waves)}


FORMATS = "formats"


def find_formats(place: Place) -> Found:
    """Read files that were written when the numbers were recorded, and go on from them."""
    folder = place.out / FORMATS
    if not folder.exists():
        write_formats(folder)
    records = make_ecg(4, random_state=3).records
    found: Found = {"classifier": FineTunedClassifier.load(folder / "classifier").predict_proba(records)}
    found |= segmented(Segmenter.load(folder / "segmenter"))
    for weights in ("classifier", "leadwise", "multiscale"):
        found[f"{weights} features"] = JEPAEmbedder(str(folder / weights), cache=None).fit_transform(records)
    resumed, out = place.scratch / "run", place.scratch / "weights"
    shutil.copytree(folder / "run", resumed)
    # The schedules of a run follow from its length, so it is resumed where it was cut.
    run_module("pretraining", "train", "--data", folder / "shards", "--out", resumed, "--resume", "--device", "cpu")
    run_module("pretraining", "export", "--run", resumed, "--out", out, "--name", "mine")
    found["exported features"] = JEPAEmbedder(str(out), cache=None).fit_transform(records)
    found |= {f"resumed {name}": values for name, values in journal_of(resumed).items()}
    found["files"] = [name for part in sorted(folder.iterdir()) for name in names_of_files(part, part.name)]
    return found


def write_formats(folder: Path) -> None:
    """Write one of everything that is read again: estimators, weights, shards, and a run that was cut at half."""
    folder.mkdir(parents=True)
    fit_classifier().save(folder / "classifier")
    fit_segmenter().save(folder / "segmenter")
    write_encoders(folder)
    packed = write_packed(folder / "made.npz", 24)
    shards, run = folder / "shards", folder / "run"
    run_module("pretraining", "pack", "--corpus", f"made={packed}", "--out", shards, "--recipe", "tiny", "--quiet")
    packed.unlink()
    train("tiny", shards, run, "watch.checkpoint_every=10", "watch.keep_last=2")
    (newest := max((run / "checkpoints").glob("step-*.pt"))).unlink()
    print(f"  {newest.name} taken away, so that the run goes on from step 10")


MODULES = (
    "datasets",
    "io",
    "evaluation",
    "hub",
    "convert",
    "plotting",
    "embedding_cache",
    "backends",
    "errors",
    "spec",
    "leads",
    "encoders",
)
SINGLE = ("skecg.splits.warn_of_shared_patients", "skecg.segmenting.WaveAnnotations")


def find_names(place: Place) -> Found:
    """List public names with their parameters, verbs with their options, and recipes."""
    found: Found = {}
    for module in ("skecg", *(f"skecg.{name}" for name in MODULES)):
        home = importlib.import_module(module)
        found[module] = [line for name in home.__all__ for line in signatures(f"{module}.{name}", getattr(home, name))]
    for path in SINGLE:
        module, _, name = path.rpartition(".")
        found[path] = signatures(path, getattr(importlib.import_module(module), name))
    for program in ("skecg", "pretraining"):
        verbs = re.findall(r"^ {4}([a-z]+) ", help_of(program).partition("verbs:")[2], re.M)
        found[f"{program} verbs"] = verbs
        for verb in verbs:
            options = re.findall(r"--[a-z][a-z-]*", help_of(program, verb))
            found[f"{program} {verb}"] = sorted(set(options))
    listed = run_module("pretraining", "train", "--list").splitlines()
    return found | {"recipes": [line.split()[0] for line in listed]}


def help_of(program: str, *words: str) -> str:
    """Return the help that ``python -m`` would print; some eighty processes for a line each would take longer."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of a program that was imported before
        with patch.object(sys, "argv", [program, *words, "--help"]), patch.dict(os.environ, {"COLUMNS": "100"}):
            runpy.run_module(program, run_name="__main__")
    return printed.getvalue()


def signatures(name: str, value: object) -> list[str]:
    """Name what is public and each of its parameters; of a class, those of its public methods, too."""
    found = [name, *(f"{name}({parameter})" for parameter in parameters_of(value))]
    if inspect.isclass(value):
        # A method may move to a base class of ours; what other packages' bases bring is theirs.
        bases = [base for base in value.__mro__ if base.__module__.partition(".")[0] == "skecg"]
        own = sorted({method for base in bases for method in vars(base) if not method.startswith("_")})
        found += [line for method in own for line in signatures(f"{name}.{method}", getattr(value, method))]
    return found


def parameters_of(value: object) -> list[str]:
    if not callable(value):
        return []
    try:
        return list(inspect.signature(value).parameters)
    except (TypeError, ValueError):  # of what is not written in Python
        return []


PARTS: dict[str, Callable[[Place], Found]] = {
    "names": find_names,
    "probes": find_probes,
    "features": find_features,
    "encoders": find_other_encoders,
    **{f"losses-{name}": partial(find_losses, name) for name in RECIPES},
    "evaluate": find_evaluation,
    "fitted": find_fitted,
    FORMATS: find_formats,
}
