"""``skecg embed``: recordings in, one file of features out; can be killed and continued at any time."""

from __future__ import annotations

import argparse
import codecs
import hashlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg._version import __version__
from skecg.archives.files import FeatureTable, check_feature_file, write_failures, write_features
from skecg.cli.console import (
    Verbs,
    add_hub_options,
    add_signal_options,
    as_batch_size,
    as_layer,
    check_overwrites_nothing,
    embedding_progress,
    say,
    say_interrupted,
)
from skecg.cli.embed_archive import Archive, add_archive_options, check_archive, embed_archive, is_archive
from skecg.cli.embed_omop import add_omop_options, check_omop, omop_writer, read_ids
from skecg.errors import ParameterError, RecordNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from skecg.archives.run_folders import UnfinishedRun
    from skecg.embedder import JEPAEmbedder
    from skecg.inference.batches import EmbeddingConfig
    from skecg.inference.pipeline import Chunk

__all__ = [
    "add_computing_options",
    "add_model_options",
    "add_parser",
    "check_cache",
    "embed_into",
    "find_others",
    "interrupted",
    "make_embedder",
    "manifest_of",
    "run",
]

# No system opens a longer one, and each row of an .npz file is as wide as the longest path.
_LONGEST_PATH = 4096

_DESCRIPTION = """\
Embed recordings: one row of features each, in one file. PATHS are files, WFDB record names, folders (with all that
is in them) and patterns ("data/**/*.hea"); tables (.csv, .npy) have to be named or matched by a pattern. Rows have the
order in which they are named, those of a folder or pattern sorted; a recording has one row, where it comes first.

A run that was interrupted or killed continues where it stopped when the same command is given again, and gives the
same file. Until it is finished, what it has done is in the folder OUT.partial. Records that cannot be read or embedded
get an empty row (NaN) and are listed in OUT.failures.csv; the exit code is then 1.

With --scheduler or --part, OUT is a folder of Parquet files, for archives that one machine is too slow for.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "embed",
        help="embed recordings and write their features to a file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATHS", help="files, record names, folders or patterns")
    parser.add_argument(
        "--paths-from",
        type=Path,
        metavar="FILE",
        help="instead of PATHS: a text file with a record, or a folder that ends with /, a line, in its order",
    )
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="OUT", help=".csv, .npz or .parquet")
    parser.add_argument(
        "--force", action="store_true", help="replace OUT; throw away an unfinished run of another kind"
    )
    parser.add_argument("--no-recursive", action="store_true", help="do not look into the folders of folders")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    add_model_options(parser)
    add_signal_options(parser)
    add_computing_options(parser)
    add_archive_options(parser)
    add_omop_options(parser)
    parser.set_defaults(run=run)


def add_model_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add which features are computed, of one model or of several."""
    group = parser.add_argument_group("features")
    what = "name, weights folder or owner/name"
    if several:
        group.add_argument(
            "--model",
            "-m",
            action="append",
            required=True,
            metavar="M",
            help="name, weights folder, owner/name, or module:attribute of an object with transform(records); may be "
            "repeated",
        )
    else:
        group.add_argument("--model", "-m", default="default", metavar="M", help=what)
    add_hub_options(parser)
    group.add_argument(
        "--pooling", metavar="P", help="mean, max, mean+std, mean+std+max or cls (default: as the weights say)"
    )
    group.add_argument("--truncate-dim", type=int, metavar="K", help="features to keep, along the weights' directions")
    group.add_argument(
        "--layer",
        type=as_layer,
        metavar="N",
        help="block, several (2,5) or last4; write --layer=-2,-1 with an equals sign",
    )
    group.add_argument("--stride", type=float, metavar="S", help="seconds from one window of a long record to the next")
    group.add_argument("--missing-leads", default="raise", metavar="POLICY", help="raise (default), zero or subset")
    group.add_argument("--short-records", default="raise", metavar="POLICY", help="raise (default) or pad")
    group.add_argument(
        "--verify-checksums", action="store_true", help="compare WFDB signals with the checksums in their headers"
    )
    group.add_argument("--precision", default="auto", metavar="P", help="auto (default), fp32, bf16 or int8")
    group.add_argument("--backend", default="torch", metavar="B", help="torch (default), onnx or openvino")


def add_computing_options(parser: argparse.ArgumentParser, *, cache: str | None = None) -> None:
    """Add where and how is computed."""
    group = parser.add_argument_group("computing")
    group.add_argument("--batch-size", type=as_batch_size, default="auto", metavar="N", help="windows encoded together")
    group.add_argument(
        "--device",
        type=_devices,
        default="auto",
        metavar="D",
        help="auto (default), cpu, cuda, cuda:1, or cuda:0,cuda:1",
    )
    group.add_argument("--n-jobs", type=int, metavar="N", help="files read and batches encoded at once")
    group.add_argument(
        "--cache",
        default=cache,
        metavar="WHERE",
        help=f"disk, a folder, or none: where embeddings are kept for other runs (default: {cache or 'none'})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed the records and write the files."""
    out: Path = arguments.out
    check_cache(arguments.cache)
    archive = is_archive(arguments)
    check_omop(arguments, archive=archive)
    if archive:
        check_archive(arguments)
    else:
        _check_file(arguments)
    paths = _find(arguments)
    ids = read_ids(arguments.omop_ids, paths)
    # fit settles the revision: all parts of a run are of one commit, also if the branch moves meanwhile.
    embedder = make_embedder(arguments).fit(paths)
    config = embedder.embedding_config()
    if archive:
        provenance = _provenance(embedder, config, len(paths))
        return embed_archive(arguments, Archive(paths, embedder, manifest_of(paths, config, embedder), provenance))

    from skecg.archives.run_folders import UnfinishedRun
    from skecg.embedding_cache.sqlite import identity_of

    # Beside the result, not in a temporary folder: the next command has to find it, and disks there may be small.
    partial = out.with_name(out.name + ".partial")
    shape = (len(paths), config.n_features)
    with UnfinishedRun(partial, manifest_of(paths, config, embedder), shape, anew=arguments.force) as unfinished:
        before = identity_of(out)
        try:
            _check_still_absent(arguments, unfinished)
            embed_into(embedder, paths, unfinished, quiet=arguments.quiet)
            write = write_features if arguments.format is None else omop_writer(ids)
            return _finish(embedder, config, paths, unfinished, out, write)
        except KeyboardInterrupt as error:
            return interrupted(error, unfinished, len(paths), out, is_whole=identity_of(out) != before)


def interrupted(
    error: KeyboardInterrupt, unfinished: UnfinishedRun, n_records: int, out: Path, *, is_whole: bool
) -> int:
    """Report how an interrupted run stands, and clean up after one whose file is written; return the exit code."""
    if is_whole:
        # The memory map in their frames keeps the file open, which Windows will not remove.
        traceback.clear_frames(error.__traceback__)
        unfinished.remove()
        return say_interrupted(error, f" when all was done: {str(out)!r} is whole")
    return say_interrupted(
        error,
        f" after {unfinished.n_done} of {n_records} records. Give the same command again to continue; what is done is "
        f"in {str(unfinished.folder)!r}.",
    )


def _check_file(arguments: argparse.Namespace) -> None:
    """Raise for a file that could not be written in the end, or is there."""
    out: Path = arguments.out
    check_feature_file(out)
    if out.exists() and not arguments.force:
        raise ParameterError(f"{str(out)!r} exists. Name another file, or pass --force to replace it.")


def _check_still_absent(arguments: argparse.Namespace, unfinished: UnfinishedRun) -> None:
    """Raise for a file that another run wrote while this one began; nobody else is under way now."""
    try:
        _check_file(arguments)
    except ParameterError:
        unfinished.remove()
        raise


def check_cache(cache: str | None) -> None:
    """Raise for a cache that would end with this command, and would make what it gives depend on interruptions."""
    if cache == "memory":
        raise ParameterError("Got --cache memory, which would not outlive this command; expected disk or a folder.")


def _find(arguments: argparse.Namespace) -> list[str]:
    """List the records, by name or from a file."""
    if bool(arguments.paths) == (arguments.paths_from is not None):
        raise ParameterError("Expected either PATHS or --paths-from FILE. Name recordings by one of them.")
    if arguments.paths_from is not None:
        check_overwrites_nothing("--out", arguments.out, arguments.paths_from)
        return _listed(arguments.paths_from)
    return find_others(arguments.paths, arguments.out, recursive=not arguments.no_recursive)


def find_others(named: Sequence[str], out: Path, *, recursive: bool = True) -> list[str]:
    """List the records named, without the files that a run to `out` writes itself."""
    from skecg.io import find_records

    check_tables(named)
    if twice := len(named) - len(set(named)):
        say(f"{twice} of {len(named)} PATHS are named before; a recording has one row, where it comes first")
    # Results of an earlier run lie where recordings are looked for, and a .csv would pass for one.
    place = os.path.abspath(out)  # noqa: PTH100 (like the paths below: links stay links)
    own = (place, f"{place}.failures.csv", f"{place}.registry.csv")
    folders = (f"{place}.partial{os.sep}", f"{place}{os.sep}")
    found = [str(path) for path in find_records(named, recursive=recursive)]
    paths = [path for path in found if not _is_own(os.path.abspath(path), own, folders)]  # noqa: PTH100
    if not paths:
        raise RecordNotFoundError("Got no recording besides the files that this command writes. Check PATHS.")
    return paths


def check_tables(paths: Sequence[str]) -> None:
    """Raise for a table of labels or paths that was named as a recording, before anything is embedded."""
    from skecg.io.tables import TEXT_SUFFIXES
    from skecg.io.text_tables import check_about_samples

    for path in map(Path, paths):
        if path.suffix.lower() in TEXT_SUFFIXES and path.is_file():
            check_about_samples(path)


def _listed(file: Path) -> list[str]:
    """Read a list of records; nothing is looked up, which for millions of files takes longer than some encoders do."""
    if not file.is_file():
        raise ParameterError(f"Got --paths-from {str(file)!r}, which is no file; expected one with a record a line.")
    lines = [_listed_path(line) for line in _text_of(file).split("\n")]
    for number, path in enumerate(lines, start=1):
        if len(path) > _LONGEST_PATH:
            raise ParameterError(
                f"Got {len(path):,} characters in line {number} of --paths-from {str(file)!r}, expected a path, of at "
                f"most {_LONGEST_PATH:,}. Mend the line."
            )
    paths = [path for path in lines if path]
    if file.name == "RECORDS":  # PhysioNet's lists are relative to themselves
        paths = [os.path.join(file.parent, path) for path in paths]  # noqa: PTH118 (paths stay text)
    paths = [found for path in paths for found in _in_folder(path)]
    if not paths:
        raise RecordNotFoundError(f"Got --paths-from {str(file)!r}, which names no recording; expected one a line.")
    return paths


def _in_folder(path: str) -> list[str]:
    """Return the records of a folder, which ends with a slash in lists of large archives; any other path as it is."""
    if not path.endswith("/") or not os.path.isdir(path):  # noqa: PTH112
        return [path]
    from skecg.io import find_records

    return [str(found) for found in find_records(path)]


def _text_of(file: Path) -> str:
    """Read a list in UTF-8, or in UTF-16 with a mark in front, as Windows has it."""
    content = file.read_bytes()
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # Names of files that are no valid Unicode are kept as the bytes they are.
        return os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    try:
        return content.decode("utf-16")
    except UnicodeDecodeError as error:
        raise ParameterError(
            f"Got --paths-from {str(file)!r}, which begins as UTF-16 and is none ({error}). Save it as UTF-8."
        ) from error


def _listed_path(line: str) -> str:
    """Return the path that a line names, nothing for a comment; a file that is called like one is a file."""
    path, bare = line.rstrip("\r"), line.strip()
    if (path != bare or bare.startswith("#")) and os.path.lexists(path):
        return path
    return "" if bare.startswith("#") else bare


def _is_own(path: str, files: Sequence[str], folders: tuple[str, ...]) -> bool:
    return path in files or path.startswith(folders)


def _devices(text: str) -> str | list[str]:
    return [name.strip() for name in text.split(",")] if "," in text else text


def make_embedder(arguments: argparse.Namespace, **options: Any) -> JEPAEmbedder:
    """Make the embedder that the options are of."""
    from skecg.embedder import JEPAEmbedder

    names = (
        "sampling_rate leads pooling truncate_dim layer stride missing_leads short_records batch_size device precision "
        "backend cache n_jobs revision local_files_only verify_checksums"
    )
    options = {name: getattr(arguments, name) for name in names.split()} | options
    options["cache"] = None if options["cache"] == "none" else options["cache"]
    return JEPAEmbedder(arguments.model, units=arguments.units or "mV", **options)


def manifest_of(paths: Sequence[str], config: EmbeddingConfig, embedder: JEPAEmbedder) -> dict[str, Any]:
    """Return what shapes the result, in the words of messages."""
    from skecg.versions import installed_version

    digest = hashlib.sha256()
    for path in paths:
        # As it is written to the file, and where it is: the same relative name elsewhere is another record.
        digest.update(os.fsencode(path) + b"\0" + os.fsencode(os.path.abspath(path)) + b"\0")  # noqa: PTH100
    return {
        "records": digest.hexdigest(),
        "weights or options": config.fingerprint.hex(),
        "sampling rate, leads or units": [embedder.sampling_rate, embedder.leads, embedder.units],
        "version of skecg": __version__,
        # Features of two releases of torch differ in their last digits, and one file should not hold both.
        "version of torch": installed_version("torch"),
    }


def embed_into(
    embedder: JEPAEmbedder,
    paths: Sequence[str],
    unfinished: UnfinishedRun,
    *,
    quiet: bool,
    beside: Callable[[Chunk], NDArray[np.float32]] | None = None,
) -> None:
    """Embed what is not done yet, chunk by chunk; `beside` computes further columns, to the right of the features."""
    import numpy as np

    from skecg.archives.files import Failure

    first = unfinished.n_done
    if first:
        say(f"continuing in {str(unfinished.folder)!r}: {first} of {len(paths)} records are done")
    spec = embedder.embedding_config().info.spec
    with embedding_progress(paths, spec, total=len(paths), done=first, quiet=quiet) as came:
        for chunk in embedder.transform_chunks(paths, first=first):
            failures = [Failure(row, type(e).__name__, str(e)) for row, e in sorted(chunk.failures.items())]
            further = [] if beside is None else [beside(chunk)]
            # Failures with the features: a run that dies between the two would forget one of them.
            unfinished.add(np.concatenate([chunk.features, *further], axis=1), failures)
            judged = [amplitude for amplitude in chunk.amplitudes.values() if amplitude is not None]
            came(len(chunk.rows), chunk.notes, judged)


def _finish(
    embedder: JEPAEmbedder,
    config: EmbeddingConfig,
    paths: Sequence[str],
    unfinished: UnfinishedRun,
    out: Path,
    write: Callable[[FeatureTable, Path], None],
) -> int:
    """Write the file of features and the list of failures, and say how it went."""
    failures = unfinished.failures
    names = [str(name) for name in embedder.get_feature_names_out()]
    provenance = {**_provenance(embedder, config, len(paths)), "n_failed": len(failures)}
    table = FeatureTable(paths, unfinished.features(), names, provenance)
    listed = out.with_name(out.name + ".failures.csv")
    write_failures([(paths[f.row], f.error, f.message) for f in failures], listed)
    write(table, out)
    del table  # the memory map in it keeps the file open, which Windows will not remove
    unfinished.remove()
    say(f"{len(paths)} records, {len(names)} features each: {str(out)!r}")
    if failures:
        left = "empty rows" if write is write_features else "no rows"
        say(f"{len(failures)} of {len(paths)} records failed and have {left}; they are listed in {str(listed)!r}")
    return 1 if failures else 0


def _provenance(embedder: JEPAEmbedder, config: EmbeddingConfig, n_records: int) -> dict[str, Any]:
    """Describe how the features came about, without time and machine: the same features are the same file."""
    from skecg.versions import installed_version

    return {
        "skecg": __version__,
        "torch": installed_version("torch"),
        "model": str(embedder.model),
        "weights_sha256": config.info.sha256,
        "revision": config.info.revision,
        "trained": config.info.provenance.get("trained"),
        "recipe": config.fingerprint.hex(),
        "pooling": config.encoding.pooling,
        "truncate_dim": config.truncate_dim,
        "layers": list(config.encoding.layers),
        "precision": config.encoding.precision,
        "backend": config.backend,
        "stride_seconds": config.stride_seconds,
        "missing_leads": config.missing_leads,
        "short_records": config.short_records,
        "sampling_rate": embedder.sampling_rate,
        "leads": None if embedder.leads is None else list(embedder.leads),
        "units": embedder.units,
        "n_records": n_records,
        "notice": "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients.",
    }
