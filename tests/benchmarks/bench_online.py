# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2,<3",
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6,<7",
#   "requests>=2.32,<3",
#   "rich>=15,<16",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""What an export from a server costs, beside other ways to get the same from the same server. Run by hand:

  uv run tests/benchmarks/bench_online.py                      # everything: about ten minutes
  uv run tests/benchmarks/bench_online.py --only a,c --pairs 5

The server is the tests' own, in a process of its own, with 50 ms per request and 0.3 ms per run in an answer. It runs
on the same cores as what is measured, and so does whatever else the machine does: ratios say more than seconds. Every
command is a process of its own, timed from its start to its end, imports included; the two sides of a ratio run in
turn, and what is printed is the median of the pairs' ratios, with the least and the greatest.

  a  2,345 runs of 180 keys      b  20,000 of them      c  50 histories of 20,000 steps and 20 metrics, and 500
  d  b and c again, when nothing has changed

  the best plain loop   api.runs(lazy=False, per_page=1000), a list of dicts, one parquet file by polars
  the usual loop        api.runs(), and of each run its config and summary: measured on some runs and scaled, or --full
  the bare download     every parquet export, with 8 threads, in memory: nothing parsed, nothing written
  scan_history()        run by run, rows counted and dropped: measured on some runs and scaled, or --full

All commands find their modules compiled, by a first round that is not measured, as they do from the second start on.
Memory is what is resident at most in the largest process, and (on Linux) in all together, pages that they share
counted once for each. Nothing is judged: the exit code is 0 unless a command fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wandb_server import Remote

TESTS = Path(__file__).parent.parent
SCRIPT = TESTS.parent / "wandb-tools" / "export_runs.py"
LATENCY_S, PER_RUN_S = 0.05, 0.0003
FEW_RUNS, MANY_RUNS, KEYS = 2_345, 20_000, 180
HISTORIES, MANY_HISTORIES, STEPS, METRICS = 50, 500, 20_000, 20
RUNS_PATH, HISTORIES_PATH = "team/demo", "team/histories"
USUAL_RUNS = 200  # of which the usual loop is measured
SCANNED_RUNS = 2
DOWNLOADS_AT_ONCE = 8
SAMPLE_S = 0.03  # between two looks at the memory of all processes


# --- the peers: each is what a process of its own does, and returns the seconds spent on single runs ---------------


def start(_path: str, _runs: int | None) -> float:
    """What every peer needs first."""
    import wandb

    wandb.Api()
    return 0


def plain_loop(path: str, _runs: int | None) -> float:
    import wandb

    rows = []
    for run in wandb.Api().runs(path, lazy=False, per_page=1000):
        place = {"id": run.id, "name": run.name, "state": run.state, "created_at": run.created_at, "url": run.url}
        rows.append({**run.config, **run.summary_metrics, **place, "tags": run.tags, "group": run.group})
    import polars as pl

    pl.from_dicts(rows, infer_schema_length=None).write_parquet("runs.parquet")
    return 0


def usual_loop(path: str, runs: int | None) -> float:
    import wandb

    api = wandb.Api()
    started = time.perf_counter()
    rows = [{**run.config, **dict(run.summary), "name": run.name} for run in itertools.islice(api.runs(path), runs)]
    assert rows
    return time.perf_counter() - started


def bare_download(path: str, _runs: int | None) -> float:
    import requests
    import wandb

    entity, project = path.split("/")
    question = """query Exports($entity: String!, $project: String!) {
        project(name: $project, entityName: $entity) {
            runs(first: 1000) { edges { node { parquetHistory(liveKeys: ["_step"]) { parquetUrls } } } } } }"""
    answer = wandb.Api()._service_api.execute_graphql(question, {"entity": entity, "project": project})
    edges = answer["project"]["runs"]["edges"]
    urls = [url for edge in edges for url in edge["node"]["parquetHistory"]["parquetUrls"]]
    with requests.Session() as session, ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        assert sum(threads.map(lambda url: len(session.get(url, timeout=60).content), urls))
    return 0


def scan_history(path: str, runs: int | None) -> float:
    import wandb

    listed = list(wandb.Api().runs(path, lazy=False, per_page=1000))
    started = time.perf_counter()
    for run in listed[:runs]:
        assert sum(1 for _ in run.scan_history()) == STEPS
    return time.perf_counter() - started


PEERS: dict[str, Callable[[str, int | None], float]] = {
    peer.__name__: peer for peer in (start, plain_loop, usual_loop, bare_download, scan_history)
}


def end_at_once() -> None:
    """After scans the SDK's service process now and then never ends, and the SDK waits for it without limit."""
    for service in family(os.getpid())[1:]:
        with suppress(OSError):
            os.kill(service, signal.SIGKILL)
    os._exit(0)


# --- what a command costs ----------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of one command; the requests are those that it made."""

    seconds: float
    largest_mb: float
    together_mb: float
    graphql: int
    downloads: int
    single_s: float  # of the seconds, those that grow with the number of runs


class Memory:
    """What a process and its descendants have resident, looked at from time to time (where there is a /proc)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.largest_mb = self.together_mb = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            resident, peaks = zip(*map(memory_mb, family(self.pid)), strict=True)
            self.largest_mb = max(self.largest_mb, *peaks)
            self.together_mb = max(self.together_mb, sum(resident))

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    members = [pid]
    for member in members:
        with suppress(OSError):
            for thread in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (thread / "children").read_text().split())
    return members


def memory_mb(pid: int) -> tuple[float, float]:
    """What a process has resident, and had at most; zeros once it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    kilobytes = {name: text.split()[0] for name, _, text in (line.partition(":") for line in lines) if text.split()}
    return int(kilobytes.get("VmRSS", 0)) / 1_000, int(kilobytes.get("VmHWM", 0)) / 1_000


@dataclass(frozen=True)
class Bench:
    """A server with a scenario, and a folder for what commands write."""

    server: Remote
    folder: Path
    compiled: Path  # where Python keeps modules, whatever the machine's settings

    def cost_of(self, command: Sequence[object]) -> Cost:
        """Run a command with nothing cached from earlier ones."""
        self.server.reset()
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=own,
                env=self.environment() | self.server.environment(own),
                stdout=subprocess.PIPE,
                text=True,
            )
            memory = Memory(process.pid)
            told = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            memory.stop()
        process.stdout.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        of_one_mb = usage.ru_maxrss / (1_000_000 if sys.platform == "darwin" else 1_000)  # bytes there, kB elsewhere
        counts = self.server.counts()
        return Cost(
            seconds,
            max(of_one_mb, memory.largest_mb),
            memory.together_mb,
            counts.get("graphql", 0),
            counts.get("download", 0),
            float(told) if "--peer" in command else 0,
        )

    def environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        plain.pop("PYTHONDONTWRITEBYTECODE", None)
        return plain | {"PYTHONPYCACHEPREFIX": str(self.compiled)}

    def peer(self, name: str, path: str, runs: int | None = None) -> Cost:
        return self.cost_of([__file__, "--peer", name, path, *([] if runs is None else [runs])])

    def export(self, path: str, *flags: str, again: bool = False) -> Cost:
        output = self.folder / "out"
        if not again:
            shutil.rmtree(output, ignore_errors=True)
        return self.cost_of([SCRIPT, path, "-o", output, "--quiet", *flags])

    def rows(self, path: str, table: str) -> int:
        """Of a file that the last export wrote."""
        import pyarrow.parquet as pq

        return pq.read_metadata(self.folder / "out" / f"{path.replace('/', '_')}_{table}.parquet").num_rows


@contextmanager
def serving(compiled: Path, *arguments: object) -> Iterator[Bench]:
    sys.path.append(str(TESTS))
    from wandb_server import spawn

    with (
        tempfile.TemporaryDirectory(prefix="bench-online-") as folder,
        spawn("--latency", str(LATENCY_S), "--per-run", str(PER_RUN_S), *map(str, arguments)) as server,
    ):
        yield Bench(server, Path(folder), compiled)


def compile_modules(compiled: Path) -> None:
    """Everything once, so that what is measured later finds its modules compiled."""
    with serving(compiled, "--scenario", "histories", "--runs", 1, "--steps", STEPS) as bench:
        for name in PEERS:
            bench.peer(name, HISTORIES_PATH)
        bench.export(HISTORIES_PATH, "--include-history")


# --- the figures -------------------------------------------------------------------------------------------------


def few_runs(options: argparse.Namespace) -> None:
    print_head(f"a. {FEW_RUNS:,} runs of {KEYS} keys")
    with serving(options.compiled, "--scenario", "runs", "--runs", FEW_RUNS, "--keys", KEYS) as bench:
        beginning = bench.peer("start", RUNS_PATH)
        loops, ours = in_turn(
            options.pairs, lambda: bench.peer("plain_loop", RUNS_PATH), lambda: bench.export(RUNS_PATH)
        )
        assert bench.rows(RUNS_PATH, "runs") == FEW_RUNS
        usual = bench.peer("usual_loop", RUNS_PATH, None if options.full else USUAL_RUNS)
    asked = max(cost.graphql for cost in ours) - beginning.graphql
    print_costs({"import wandb, Api()": [beginning], "best plain loop": loops, "export_runs": ours})
    scaled_s = scaled(usual, 1 if options.full else FEW_RUNS / USUAL_RUNS)
    print(f"  usual loop           {scaled_s:8.2f} s{'' if options.full else f'   scaled from {USUAL_RUNS} runs'}")
    print_figure("questions beyond the start-up's", f"at most {int(3 + 2 * FEW_RUNS / 1000)}", str(asked))
    print_figure("time / best plain loop", "at most 0.75", ratios(ours, loops))
    fraction = scaled_s / statistics.median(cost.seconds for cost in ours)
    print_figure("time / usual loop", "less than 1/40", f"1/{fraction:.1f}")


def many_runs(options: argparse.Namespace) -> None:
    print_head(f"b, d. {MANY_RUNS:,} runs of {KEYS} keys")
    with serving(options.compiled, "--scenario", "runs", "--runs", MANY_RUNS, "--keys", KEYS) as bench:
        loops, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("plain_loop", RUNS_PATH),
            lambda: bench.export(RUNS_PATH),
            lambda: bench.export(RUNS_PATH, again=True),
            wanted=("b" in options.only, True, "d" in options.only),
        )
        assert bench.rows(RUNS_PATH, "runs") == MANY_RUNS
    print_costs({"best plain loop": loops, "export_runs": ours, "export_runs again": repeated})
    if loops:
        print_figure("time / best plain loop", "at most 0.45", ratios(ours, loops))
        print_figure("memory", "less than 600 MB", memory_of(ours))
    if repeated:
        print_figure("repeated / first", "at most 1", ratios(repeated, ours))


def histories(options: argparse.Namespace) -> None:
    print_head(f"c, d. {HISTORIES} histories of {STEPS:,} steps and {METRICS} metrics")
    shape = ("--scenario", "histories", "--steps", STEPS, "--metrics", METRICS)
    with serving(options.compiled, *shape, "--runs", HISTORIES, "--distinct", HISTORIES) as bench:
        downloads, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("bare_download", HISTORIES_PATH),
            lambda: bench.export(HISTORIES_PATH, "--include-history"),
            lambda: bench.export(HISTORIES_PATH, "--include-history", again=True),
            wanted=("c" in options.only, True, "d" in options.only),
        )
        assert bench.rows(HISTORIES_PATH, "history") == HISTORIES * STEPS
        if "c" in options.only:
            scan = bench.peer("scan_history", HISTORIES_PATH, None if options.full else SCANNED_RUNS)
    print_costs({"bare download": downloads, "export_runs": ours, "export_runs again": repeated})
    if downloads:
        scaled_s = scaled(scan, 1 if options.full else HISTORIES / SCANNED_RUNS)
        told = "" if options.full else f"scaled from {SCANNED_RUNS} runs; memory as of these"
        print(f"  scan_history()       {scaled_s:8.2f} s   {memory_of([scan])}   {told}")
        print_figure("time / bare download", "at most 2.5", ratios(ours, downloads))
        faster = scaled_s / statistics.median(cost.seconds for cost in ours)
        print_figure("scan_history() / time", "at least 15", f"{faster:.1f}")
        print_figure("memory", "less than 500 MB", memory_of(ours))
    if repeated:
        seconds = [cost.seconds for cost in repeated]
        print_figure("repeated", "less than 3 s", spread(seconds, " s"))
        print_figure("downloads, repeated", "0", str(max(cost.downloads for cost in repeated)))
    if downloads:
        many_histories(options, shape)


def many_histories(options: argparse.Namespace, shape: Sequence[object]) -> None:
    """Once: nothing but memory is asked."""
    with serving(options.compiled, *shape, "--runs", MANY_HISTORIES) as bench:
        cost = bench.export(HISTORIES_PATH, "--include-history")
        assert bench.rows(HISTORIES_PATH, "history") == MANY_HISTORIES * STEPS
    print_costs({f"{MANY_HISTORIES} histories": [cost]})
    print_figure(f"memory, {MANY_HISTORIES} histories", "no more", memory_of([cost]))


def in_turn(pairs: int, *commands: Callable[[], Cost], wanted: Sequence[bool] = (True, True, True)) -> list[list[Cost]]:
    """The costs of each command, A B A B; none of what is not wanted."""
    chosen = [command if is_wanted else None for command, is_wanted in zip(commands, wanted, strict=False)]
    rounds = [[command and command() for command in chosen] for _ in range(pairs)]
    return [[cost for cost in costs if cost] for costs in zip(*rounds, strict=True)]


def scaled(cost: Cost, factor: float) -> float:
    """The seconds, had there been so many times as many runs."""
    return cost.seconds + cost.single_s * (factor - 1)


# --- what is printed ---------------------------------------------------------------------------------------------


def ratios(costs: Sequence[Cost], others: Sequence[Cost]) -> str:
    return spread([cost.seconds / other.seconds for cost, other in zip(costs, others, strict=True)])


def spread(values: Sequence[float], unit: str = "") -> str:
    return f"{statistics.median(values):.2f}{unit}  ({min(values):.2f} to {max(values):.2f})"


def memory_of(costs: Sequence[Cost]) -> str:
    largest, together = (max(values) for values in zip(*((c.largest_mb, c.together_mb) for c in costs), strict=True))
    return f"{largest:.0f} MB  (all processes {together:.0f})"


def print_head(title: str) -> None:
    print(f"\n{title}", flush=True)


def print_costs(costs: dict[str, list[Cost]]) -> None:
    for name, measured in costs.items():
        if measured:
            seconds = statistics.median(cost.seconds for cost in measured)
            print(f"  {name:<20} {seconds:8.2f} s   {memory_of(measured)}")


def print_figure(name: str, demanded: str, measured: str) -> None:
    print(f"    {name:<32} {demanded:<18} {measured}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d", help="some of the figures (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="scale nothing: some minutes more, and much memory")
    parser.add_argument("--peer", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        name, path, *runs = options.peer
        print(PEERS[name](path, int(runs[0]) if runs else None), flush=True)
        if name == "scan_history":
            end_at_once()
        return 0
    options.only = set(options.only.split(","))
    if unknown := options.only - set("abcd"):
        parser.error(f"--only takes some of a,b,c,d, not {','.join(sorted(unknown))}")
    print(f"medians of {options.pairs} (least to greatest); below each: figure, demanded, measured")
    with tempfile.TemporaryDirectory(prefix="bench-online-") as compiled:
        options.compiled = Path(compiled)
        compile_modules(options.compiled)
        for figures, measure in (("a", few_runs), ("bd", many_runs), ("cd", histories)):
            if options.only & set(figures):
                measure(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
