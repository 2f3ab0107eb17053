"""Spoilt inputs by the million: each is refused by an error of skecg's own, or read, and then as wfdb reads it.

    python tests/attacks/fuzz.py --minutes 60 --jobs 2          # as long as you like; the seed is printed
    python tests/attacks/fuzz.py --seed 7 --replay header:1234  # one input again

An input is a function of the seed, its target and its number. One that fails is written to --out with what it raised;
so is one on which a worker dies, and one that takes longer than --slow seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import SpawnProcess

    from fuzz_targets import Target

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests" / "io", ROOT / "tests" / "support", ROOT / "tests" / "attacks", ROOT):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

_BLOCK = 64
_GIB = 2**30


def numbers(targets: dict[str, Target], seed: int, first: int) -> Iterator[tuple[str, int]]:
    """Yield which target comes next and with which number, blocks of one target at a time, without an end."""
    names, shares = list(targets), [target.share for target in targets.values()]
    block = first
    while True:
        name = Random(f"{seed} {block}").choices(names, shares)[0]
        yield from ((name, block * _BLOCK + i) for i in range(_BLOCK))
        block += 1


def make(target: Target, seed: int, number: int, random: Random) -> Any:
    """Make an input."""
    random.seed(seed << 48 | number)
    return target.make(random)


def work(seed: int, first: int, seconds: float, slow: float, out: Path, state: Any, results: Any) -> None:
    """Try inputs until the time is over, and put what became of them into a queue."""
    from fuzz_targets import targets as all_targets

    faulthandler.enable()
    _limit_memory()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        targets = all_targets(Path(folder))
        counts: Counter[str] = Counter()
        deadline = reported = time.monotonic()
        deadline += seconds
        random = Random()
        order = list(targets)
        for name, number in numbers(targets, seed, first):
            state[0], state[1] = number, order.index(name)
            began = time.monotonic()
            try:
                content = make(targets[name], seed, number, random)
                counts[f"{name} {targets[name].check(content)}"] += 1
            except Exception as error:  # whatever it is, it is what this is for
                counts[f"{name} failed"] += 1
                record(out, name, seed, number, content, "".join(traceback.format_exception(error)))
            now = time.monotonic()
            if now - began > slow:
                counts[f"{name} slow"] += 1
                record(out, name, seed, number, content, f"took {now - began:.1f} s")
            if now - reported > 1 or now > deadline:
                results.put(dict(counts))
                counts.clear()
                reported = now
                if now > deadline:
                    return


def record(out: Path, name: str, seed: int, number: int, content: Any, reason: str) -> None:
    """Write an input that failed, and why."""
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace(' ', '-')}-{seed}-{number}"
    parts = content if isinstance(content, tuple) else (content,)
    for i, part in enumerate(parts):
        (out / f"{stem}.{i}").write_bytes(part if isinstance(part, bytes) else repr(part).encode())
    (out / f"{stem}.txt").write_text(f"--seed {seed} --replay '{name}:{number}'\n{reason}", encoding="utf-8")


def _memory_folder() -> str | None:
    """Return a folder that lies in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _limit_memory() -> None:
    """Let a bomb fail here and not fill the machine."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * _GIB,) * 2)
    except (ImportError, OSError, ValueError):  # no such limit on this system
        return


def fuzz(*, minutes: float, jobs: int, seed: int, slow: float, out: Path, first: int = 0) -> Counter[str]:
    """Run workers side by side, print how far they are, and return how often each thing happened."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    states = [context.Array(ctypes.c_int64, 2, lock=False) for _ in range(jobs)]
    workers: list[SpawnProcess] = []
    for job, state in enumerate(states):
        arguments = (seed, first + job * 2**32, minutes * 60, slow, out, state, results)
        workers.append(context.Process(target=work, args=arguments, daemon=True))
        workers[-1].start()
    total: Counter[str] = Counter()
    began = printed = time.monotonic()
    while any(worker.is_alive() for worker in workers) or not results.empty():
        if not results.empty():
            total.update(results.get())
            continue
        time.sleep(0.2)
        if time.monotonic() - printed > 30:
            printed = time.monotonic()
            failed = sum(n for what, n in total.items() if what.endswith(("failed", "slow")))
            print(f"{printed - began:6.0f} s  {total.total():12,} inputs  {failed} failed", flush=True)
    for worker, state in zip(workers, states, strict=True):
        if worker.exitcode:
            total["died"] += 1
            print(f"A worker died (exit code {worker.exitcode}) on input {state[0]} of target number {state[1]}")
    return total


def replay(seed: int, what: str) -> None:
    """Try one input again, and let whatever it raises through."""
    from fuzz_targets import targets as all_targets

    name, number = what.rsplit(":", 1)
    with tempfile.TemporaryDirectory() as folder:
        target = all_targets(Path(folder))[name]
        content = make(target, seed, int(number), Random())
        print(content)
        print(target.check(content))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first block, to go on where a run ended")
    parser.add_argument("--slow", type=float, default=10.0, help="seconds from which an input counts as a hang")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", metavar="TARGET:NUMBER")
    options = parser.parse_args()
    if options.replay:
        replay(options.seed, options.replay)
        return 0
    total = fuzz(
        minutes=options.minutes, jobs=options.jobs, seed=options.seed, slow=options.slow, out=options.out,
        first=options.first,
    )  # fmt: skip
    for what in sorted(total):
        print(f"{total[what]:12,}  {what}")
    print(f"{total.total():12,}  inputs, seed {options.seed}")
    return 1 if any(what.endswith(("failed", "slow", "died")) for what in total) else 0


if __name__ == "__main__":
    sys.exit(main())
