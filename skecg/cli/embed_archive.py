"""``skecg embed --scheduler`` and ``--part``: recordings in, a folder of part files out, by many machines at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.cli.console import embedding_progress, say, say_interrupted
from skecg.errors import ParameterError, SkecgError

if TYPE_CHECKING:
    from skecg.archives.cluster import Assignment, ChunkJob, ChunkPlan, LostChunk, Share
    from skecg.archives.files import ChunkResult
    from skecg.archives.run_folders import ArchiveFolder
    from skecg.embedder import JEPAEmbedder

__all__ = ["Archive", "add_archive_options", "check_archive", "embed_archive", "is_archive"]

_CHUNK_RECORDS = 1024  # a million records make 1,000 files
_RETRIES = 3  # for workers that die; what skecg refuses is not tried again
# Chunks that may be lost before the rest is not even tried: then it is not the recordings.
_MOST_LOST = 10


def add_archive_options(parser: argparse.ArgumentParser) -> None:
    """Add what makes OUT a folder of part files, and the work one of many machines."""
    group = parser.add_argument_group(
        "archives", "OUT becomes a folder of Parquet files, one a chunk; give either of the first two"
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="embed on the Dask cluster there (tcp://host:8786)")
    group.add_argument("--part", metavar="I/N", help="embed the I-th of N shares of the chunks, as one of N jobs")
    group.add_argument("--chunk-records", type=int, metavar="N", help=f"records of a file (default: {_CHUNK_RECORDS})")
    group.add_argument("--retries", type=int, metavar="N", help=f"of a chunk on the cluster (default: {_RETRIES})")
    group.add_argument("--retry-failed", action="store_true", help="embed chunks with records that failed once more")


def is_archive(arguments: argparse.Namespace) -> bool:
    """Return whether a folder of part files is wanted.

    Raises
    ------
    ParameterError
        When options are given that mean nothing otherwise.
    """
    if arguments.scheduler is not None or arguments.part is not None:
        return True
    options = {"--chunk-records": arguments.chunk_records, "--retries": arguments.retries}
    given = [name for name, value in options.items() if value is not None]
    if given or arguments.retry_failed:
        raise ParameterError(
            f"Got {(given or ['--retry-failed'])[0]}, expected --scheduler or --part with it. Pass --part 1/1 for a "
            "folder of part files made here."
        )
    return False


def check_archive(arguments: argparse.Namespace) -> None:
    """Raise for what could not be done in the end, before any work is.

    Raises
    ------
    ParameterError
        When arguments make no sense, or no scheduler answers.
    MissingDependencyError
        When Dask or pyarrow is not installed.
    """
    from skecg.archives.cluster import ChunkPlan, Share, check_scheduler
    from skecg.archives.files import check_parquet

    out: Path = arguments.out
    if out.suffix.lower() in (".csv", ".npz") or out.is_file():
        raise ParameterError(f"Got --out {str(out)!r}, expected a folder for the part files of an archive.")
    if not out.parent.is_dir():
        raise ParameterError(f"Got --out {str(out)!r}, but {str(out.parent)!r} is no folder. Make it first.")
    share = Share.parse(arguments.part or "1/1")
    if share.of > 1 and arguments.force:
        raise ParameterError(
            f"Got --force with --part {share}, which would throw away what the others do. Remove {str(out)!r} first."
        )
    ChunkPlan(1, _chunk_records(arguments))
    if arguments.retries is not None and arguments.retries < 0:
        raise ParameterError(f"Got --retries {arguments.retries}, expected 0 or more.")
    check_parquet()
    if arguments.scheduler is not None:
        check_scheduler(arguments.scheduler)


def _chunk_records(arguments: argparse.Namespace) -> int:
    return _CHUNK_RECORDS if arguments.chunk_records is None else int(arguments.chunk_records)


@dataclass(frozen=True)
class Archive:
    """What is to be embedded, and how.

    Parameters
    ----------
    paths : sequence of str
    embedder : JEPAEmbedder
        Fitted.
    manifest : dict
        What shapes the result, in the words of messages.
    provenance : dict
        How the features come about.
    """

    paths: Sequence[str]
    embedder: JEPAEmbedder
    manifest: dict[str, Any]
    provenance: dict[str, Any]


def embed_archive(arguments: argparse.Namespace, archive: Archive) -> int:
    """Embed the chunks of this process's share that are not done yet; give the exit code."""
    from skecg.archives.cluster import Assignment, ChunkPlan, Share
    from skecg.archives.run_folders import ArchiveFolder

    plan = ChunkPlan(len(archive.paths), _chunk_records(arguments))
    share = Share.parse(arguments.part or "1/1")
    names = [str(name) for name in archive.embedder.get_feature_names_out()]
    folder = ArchiveFolder(
        arguments.out, archive.paths, plan, archive.manifest, names, archive.provenance, anew=arguments.force
    )
    done = _take_up(folder, plan, share, retry_failed=arguments.retry_failed)
    todo = [chunk for chunk in plan.of(share) if chunk not in done]
    jobs = (_job(archive.paths, plan, chunk) for chunk in todo)
    results = _results(arguments, Assignment.of(archive.embedder), jobs)
    try:
        lost = _collect(results, folder, archive, plan, share, todo, quiet=arguments.quiet)
    except KeyboardInterrupt as error:
        how = f". Give the same command again to continue; what is done is in {str(folder.folder)!r}."
        return say_interrupted(error, how)
    finally:
        # Closes the connection to the cluster, also on Ctrl-C: otherwise its tasks would run on.
        results.close()
    return _give_up(lost, folder) if lost else _finish(folder, plan, share)


def _take_up(folder: ArchiveFolder, plan: ChunkPlan, share: Share, *, retry_failed: bool) -> set[int]:
    """Return what is done of this share, and take back what is to be done again."""
    whole = folder.done()
    done = whole & set(plan.of(share))
    again = {chunk for chunk in done if folder.failures(chunk)} if retry_failed else set()
    done -= again
    if again or len(whole) < len(plan):
        folder.reopen(again)
    if done:
        say(f"continuing in {str(folder.folder)!r}: {len(done)} of {len(plan.of(share))} part files are done")
    return done


def _job(paths: Sequence[str], plan: ChunkPlan, chunk: int) -> ChunkJob:
    from skecg.archives.cluster import ChunkJob

    rows = plan.rows(chunk)
    # Absolute: workers stand in other folders.
    return ChunkJob(chunk, rows.start, [os.path.abspath(path) for path in paths[rows.start : rows.stop]])  # noqa: PTH100


def _results(
    arguments: argparse.Namespace, assignment: Assignment, jobs: Iterator[ChunkJob]
) -> Generator[ChunkResult | LostChunk]:
    """Embed chunks, here or on the cluster, and give them as they come."""
    from skecg.archives.cluster import Cluster, embed_chunk

    if arguments.scheduler is None:
        for job in jobs:
            yield embed_chunk(assignment, job)
        return
    retries = _RETRIES if arguments.retries is None else arguments.retries
    with Cluster(arguments.scheduler, retries=retries) as cluster:
        if not cluster.n_threads:
            say(f"the cluster at {arguments.scheduler!r} has no workers yet; waiting for the first")
        yield from cluster.map(embed_chunk, assignment, jobs)


def _collect(
    results: Iterator[ChunkResult | LostChunk],
    folder: ArchiveFolder,
    archive: Archive,
    plan: ChunkPlan,
    share: Share,
    todo: Sequence[int],
    *,
    quiet: bool,
) -> list[LostChunk]:
    """Write a part file for every chunk that comes; return those that were lost."""
    from skecg.archives.files import ChunkResult

    lost: list[LostChunk] = []
    total, missing = (sum(len(plan.rows(chunk)) for chunk in chunks) for chunks in (plan.of(share), todo))
    spec = archive.embedder.embedding_config().info.spec
    with embedding_progress(archive.paths, spec, total=total, done=total - missing, quiet=quiet) as came:
        for result in results:
            if isinstance(result, ChunkResult):
                folder.add(result)
                came(len(result.features), result.notes, result.amplitudes)
                continue
            # What skecg refuses on purpose it refuses for every chunk.
            if isinstance(result.reason, SkecgError):
                raise result.reason
            lost.append(result)
            say(f"chunk {result.number} is lost: {type(result.reason).__name__}: {result.reason}")
            if len(lost) >= _MOST_LOST:
                break
    return lost


def _give_up(lost: Sequence[LostChunk], folder: ArchiveFolder) -> int:
    names = ", ".join(sorted(folder.path_of(chunk.number).name for chunk in lost))
    say(
        f"error: {len(lost)} chunk(s) failed each time they were tried, and {names} are missing in "
        f"{str(folder.folder)!r}. See the logs of the workers, then give the same command again for what is missing."
    )
    return 2


def _finish(folder: ArchiveFolder, plan: ChunkPlan, share: Share) -> int:
    """Return how this share went and, when all of them are done, check and close the whole."""
    done = folder.done()
    n_records = plan.n_records
    if len(done) < len(plan):
        n_records = sum(len(plan.rows(chunk)) for chunk in plan.of(share))
        n_failed = sum(len(folder.failures(chunk)) for chunk in plan.of(share))
        say(f"part {share} is done; {len(done)} of {len(plan)} part files are in {str(folder.folder)!r}")
    else:
        n_failed = folder.finish()
        say(f"{n_records} records in {len(plan)} part files: {str(folder.folder)!r}")
    if n_failed:
        say(f"{n_failed} of {n_records} records failed and have empty rows; the columns 'error' and 'message' say why")
    return 1 if n_failed else 0
