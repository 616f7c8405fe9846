"""`python -m torture`: hands series to workers and prints what came of them."""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from torture.plans import SHORT, VARIANTS, plan
from torture.report import Report
from torture.worker import Worker, serve

HOPELESS = 10  # problems after which no more series begin


def main() -> int:
    """Exit code 0 if nothing was lost."""
    options = _options()
    if options.worker:
        return serve(options.seed, options.short, Path(options.work))
    os.environ["OMP_NUM_THREADS"] = "1"  # the same number of threads everywhere, and none in processes that fork
    for name in list(os.environ):
        if name.startswith(("SLURM", "SUBMITIT", "WANDB")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            del os.environ[name]  # a run that is told to leave would requeue the job that this runs in
    work = Path(options.work or tempfile.mkdtemp(prefix="torture-")).resolve()
    began = time.monotonic()
    total = _run(options, work)
    print(f"\n{total}\nduration: {(time.monotonic() - began) / 60:.1f} minutes")
    if total.problems:
        print(f"\n{len(total.problems)} PROBLEMS; their files are in {work}")
        return 1
    shutil.rmtree(work)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description="Kill training until it has been killed often enough.")
    parser.add_argument("--kills", type=int, default=200, help="go on until so many kills have hit (200)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="series at once (all cores)")
    parser.add_argument("--series", type=int, nargs="+", help="these series alone, as a line of a failure says")
    parser.add_argument("--short", action="store_true", help="a few fixed points instead, for CI")
    parser.add_argument("--work", help="an empty folder; kept where something is wrong (a temporary one)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, work: Path) -> Report:
    """Make the references, then series until there were enough kills."""
    total = Report()
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for _ in range(options.jobs):
        idle.put(Worker(options.seed, options.short, work))

    def ask(question: dict[str, str | int]) -> Report:
        worker = idle.get()
        try:
            return worker.ask(question)
        finally:
            idle.put(worker if worker.alive else Worker(options.seed, options.short, work))

    numbers = _numbers(options)
    pending: dict[Future[Report], int] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            variants = {series.variant for series in SHORT} if options.short else set(VARIANTS)
            for report in pool.map(ask, [{"reference": variant} for variant in sorted(variants)]):
                total.add(report)
            print(f"{len(variants)} undisturbed runs, each twice, are equal bit for bit", flush=True)
            while True:
                enough = not (options.series or options.short) and total.killed >= options.kills
                enough = enough or len(total.problems) > HOPELESS
                while not enough and len(pending) < options.jobs:
                    number = next(numbers, None)
                    if number is None:
                        break
                    pending[pool.submit(ask, {"series": number})] = number
                if not pending:
                    break
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    number, report = pending.pop(done), done.result()
                    total.add(report)
                    _print_series(options, number, report, total)
        finally:
            while not idle.empty():
                idle.get().end()
    return total


def _numbers(options: argparse.Namespace) -> Iterator[int]:
    if options.series:
        return iter(options.series)
    return iter(range(len(SHORT))) if options.short else iter(range(10**9))


def _print_series(options: argparse.Namespace, number: int, report: Report, total: Report) -> None:
    series = SHORT[number] if options.short else plan(options.seed, number)
    print(
        f"series {number:>3}  {series.kind:<6}  {series.variant:<13}  {report.summary}  ({total.killed} kills)",
        flush=True,
    )
    for problem in report.problems:
        print(f"  PROBLEM {problem}")
    if report.problems:
        short = " --short" if options.short else ""
        again = f"python -m torture{short} --seed {options.seed} --series {number}"
        print(f"  again: cd tests && PYTHONPATH=.:.. {again}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
