# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2.1,<3",
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6.0.2,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.6.3,<3",
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

  a  2,345 runs of 180 keys      b  20,000 of 100 keys      c  50 histories of 20,000 steps and 20 metrics, and 500
  d  b and c again, when nothing has changed                e  2,345 histories of 40 steps and 10 metrics
  f  2,600 such histories, every third run's first download cut short               g  200,000 runs of 100 keys, once
  h  the consoles of 2,000 runs, 200 lines each      i  500 W&B Tables of 1,000 rows
  k  no key, a key that is refused, and --help

  the best plain loop   api.runs(lazy=False, per_page=1000), a list of dicts, one parquet file by polars
  the naive HTTP loop   requests and orjson, serial pages, values put into columns, one parquet file by polars
  the naive histories   list, ask for URLs 20 runs a question, download with 8 threads, concatenate, one file
  the usual loop        api.runs(), and of each run its config and summary: measured on some runs and scaled, or --full
  the bare download     every parquet export, with 8 threads, in memory: nothing parsed, nothing written
  the bare questions    list, ask for all lines, 20 runs a question, with 8 threads: nothing parsed, nothing written
  the bare tables       list, ask for URLs so too, download with 32 threads: nothing parsed, nothing written
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wandb_server import Remote

TESTS = Path(__file__).parent.parent
SCRIPT = TESTS.parent / "wandb-tools" / "export_runs.py"
LATENCY_S, PER_RUN_S = 0.05, 0.0003
FEW_RUNS, FEW_RUNS_KEYS, MANY_RUNS, MOST_RUNS, KEYS = 2_345, 180, 20_000, 200_000, 100
SHORT_HISTORIES, CUT_HISTORIES, SHORT_STEPS, FEW_METRICS = 2_345, 2_600, 40, 10
HISTORIES, MANY_HISTORIES, STEPS, METRICS = 50, 500, 20_000, 20
RUNS_PATH, HISTORIES_PATH = "team/demo", "team/histories"
USUAL_RUNS = 200  # of which the usual loop is measured
SCANNED_RUNS = 2
CONSOLES, LINES, TABLES, TABLE_ROWS = 2_000, 200, 500, 1_000
CONSOLES_PATH, TABLES_PATH = "team/consoles", "team/tables"
RUNS_PER_QUERY = 20
DOWNLOADS_AT_ONCE = 8
TABLES_AT_ONCE = 32  # as many as export_runs downloads at once
SAMPLE_S = 0.03  # between two looks at the memory of all processes


# --- the peers: each is what a process of its own does, and returns the seconds spent on single runs ----------


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


RUN_FIELDS = """name displayName state createdAt heartbeatAt tags group jobType sweepName notes commit
    historyLineCount user { username } config summaryMetrics"""


def ask(session, question: str, variables: dict) -> dict:
    import orjson

    answer = session.post(os.environ["WANDB_BASE_URL"] + "/graphql", json={"query": question, "variables": variables})
    answer.raise_for_status()
    return orjson.loads(answer.content)["data"]["project"]


def pages(session, path: str, fields: str) -> Iterator[list[dict]]:
    question = """query Runs($entity: String!, $project: String!, $after: String) {
        project(name: $project, entityName: $entity) { runs(first: 1000, after: $after, order: "+created_at") {
            edges { node { %s } } pageInfo { endCursor hasNextPage } } } }"""
    entity, project = path.split("/")
    after, more = None, True
    while more:
        runs = ask(session, question % fields, {"entity": entity, "project": project, "after": after})["runs"]
        yield [edge["node"] for edge in runs["edges"]]
        after, more = runs["pageInfo"]["endCursor"], runs["pageInfo"]["hasNextPage"]


def naive_runs(path: str, _runs: int | None) -> float:
    """A page is fetched while the one before it is taken apart; no care for odd data."""
    import queue

    import orjson
    import requests

    columns: dict[tuple, tuple[list, list]] = {}
    texts: list[tuple] = []

    def flatten(tree: dict, above: tuple) -> None:
        for key, value in tree.items():
            if type(value) is dict and value:
                flatten(value, (*above, key))
            else:
                rows, values = columns.setdefault((*above, key), ([], []))
                rows.append(len(texts))
                values.append(value)

    session = requests.Session()
    session.auth = ("api", os.environ["WANDB_API_KEY"])
    fetched: queue.Queue[list[dict] | None] = queue.Queue(2)
    threading.Thread(target=lambda: [fetched.put(page) for page in (*pages(session, path, RUN_FIELDS), None)]).start()
    importing = threading.Thread(target=lambda: __import__("polars"))
    importing.start()
    while (page := fetched.get()) is not None:
        for run in page:
            config = orjson.loads(run["config"] or "{}")
            config = {key: value.get("value", value) for key, value in config.items() if key != "_wandb"}
            flatten(config, ("config",))
            flatten(orjson.loads(run["summaryMetrics"] or "{}"), ("summary",))
            texts.append((run["name"], orjson.dumps(config).decode(), run["summaryMetrics"]))
    importing.join()
    import polars as pl

    series = []
    for number, (rows, values) in enumerate(columns.values()):
        kinds = set(map(type, values)) - {type(None)}
        dtype = pl.Int64 if kinds <= {int} else pl.Float64 if kinds <= {int, float} else pl.Boolean
        column = values
        if not kinds <= {int, float} and kinds != {bool}:
            dtype = pl.String
            column = [each if isinstance(each, str | None) else orjson.dumps(each).decode() for each in values]
        if len(rows) < len(texts):
            found = dict(zip(rows, column, strict=True))
            column = [found.get(row) for row in range(len(texts))]
        series.append(pl.Series(str(number), column, dtype=dtype, strict=False))
    series += [pl.Series(name, text) for name, text in zip(("id", "_c", "_s"), zip(*texts, strict=True), strict=True)]
    pl.DataFrame(series).write_parquet("runs.parquet")
    return 0


def naive_histories(path: str, _runs: int | None) -> float:
    import io

    import requests

    session, storage = requests.Session(), requests.Session()
    session.auth = ("api", os.environ["WANDB_API_KEY"])
    for each in (session, storage):
        each.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
    ids = [run["name"] for page in pages(session, path, "name historyLineCount") for run in page]
    import polars as pl

    entity, project = path.split("/")

    def urls(batch: Sequence[str]) -> list[tuple[str, str]]:
        head = "".join(f", $r{n}: String!" for n in range(len(batch)))
        fields = 'parquetHistory(liveKeys: ["_timestamp"]) { parquetUrls liveData }'
        body = " ".join(f"r{n}: run(name: $r{n}) {{ {fields} }}" for n in range(len(batch)))
        question = f"query H($entity: String!, $project: String!{head}) {{"
        question += f"project(name: $project, entityName: $entity) {{ {body} }} }}"
        variables = {"entity": entity, "project": project} | {f"r{n}": run for n, run in enumerate(batch)}
        answer = ask(session, question, variables)
        return [(run, url) for n, run in enumerate(batch) for url in answer[f"r{n}"]["parquetHistory"]["parquetUrls"]]

    def rows(job: tuple[str, str]) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(storage.get(job[1], timeout=60).content)).with_columns(
            pl.lit(job[0]).alias("run_id")
        )

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        jobs = [job for found in threads.map(urls, [ids[n : n + 20] for n in range(0, len(ids), 20)]) for job in found]
        frames = list(threads.map(rows, jobs))
    pl.concat(frames, how="diagonal_relaxed").sort("run_id", "_step").write_parquet("history.parquet")
    return 0


def ask_for_runs(session, path: str, names: Sequence[str], fields: Sequence[str]) -> bytes:
    """The answer to one question about several runs, with these fields each."""
    entity, project = path.split("/")
    head = "".join(f", $r{n}: String!" for n in range(len(names)))
    body = " ".join(f"r{n}: run(name: $r{n}) {{ {asked} }}" for n, asked in enumerate(fields))
    question = f"query Q($entity: String!, $project: String!{head}) {{"
    question += f"project(name: $project, entityName: $entity) {{ {body} }} }}"
    variables = {"entity": entity, "project": project} | {f"r{n}": name for n, name in enumerate(names)}
    content = {"query": question, "variables": variables}
    answer = session.post(os.environ["WANDB_BASE_URL"] + "/graphql", json=content)
    answer.raise_for_status()
    return answer.content


def bare_questions(path: str, _runs: int | None) -> float:
    import requests

    session = requests.Session()
    session.auth = ("api", os.environ["WANDB_API_KEY"])
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=DOWNLOADS_AT_ONCE))
    ids = [run["name"] for page in pages(session, path, "name") for run in page]
    lines = "edges { node { number timestamp level line } } pageInfo { endCursor hasNextPage }"
    batches = [ids[n : n + RUNS_PER_QUERY] for n in range(0, len(ids), RUNS_PER_QUERY)]
    fields = f"logLines(first: {2 * LINES}, useImprovedPagination: true) {{ {lines} }}"
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        assert sum(threads.map(lambda some: len(ask_for_runs(session, path, some, [fields] * len(some))), batches))
    return 0


def bare_tables(path: str, _runs: int | None) -> float:
    import json

    import requests

    session, storage = requests.Session(), requests.Session()
    session.auth = ("api", os.environ["WANDB_API_KEY"])
    for each in (session, storage):
        each.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=TABLES_AT_ONCE))
    runs = [run for page in pages(session, path, "name summaryMetrics") for run in page]
    runs = [run for run in runs if "table-file" in run["summaryMetrics"]]
    batches = [runs[n : n + RUNS_PER_QUERY] for n in range(0, len(runs), RUNS_PER_QUERY)]

    def urls(batch: Sequence[dict]) -> list[str]:
        names = [json.loads(run["summaryMetrics"])["predictions"]["path"] for run in batch]
        fields = [f"files(names: [{json.dumps(name)}]) {{ edges {{ node {{ directUrl }} }} }}" for name in names]
        answer = json.loads(ask_for_runs(session, path, [run["name"] for run in batch], fields))["data"]["project"]
        return [run["files"]["edges"][0]["node"]["directUrl"] for run in answer.values()]

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        found = [url for some in threads.map(urls, batches) for url in some]
    with ThreadPoolExecutor(TABLES_AT_ONCE) as threads:
        assert all(threads.map(lambda url: storage.get(url, timeout=60).content, found))
    return 0


def requests_alone(_path: str, _runs: int | None) -> float:
    import requests  # noqa: F401

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
    peer.__name__: peer
    for peer in (
        *(start, plain_loop, naive_runs, naive_histories, requests_alone),
        *(usual_loop, bare_download, scan_history, bare_questions, bare_tables),
    )
}


def end_at_once() -> None:
    """After scans the SDK's service process now and then never ends, and the SDK waits for it without limit."""
    for service in family(os.getpid())[1:]:
        with suppress(OSError):
            os.kill(service, signal.SIGKILL)
    os._exit(0)


# --- what a command costs -------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of one command; the requests are those that it made."""

    seconds: float
    cpu_s: float
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
    faults: list[dict] = field(default_factory=list)  # that each command meets

    def cost_of(self, command: Sequence[object], *, codes: Sequence[int] = (0,), **env: str) -> Cost:
        """Run a command with nothing cached from earlier ones."""
        self.server.reset()
        for fault in self.faults:
            self.server.fault(**fault)
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=own,
                env=self.environment() | self.server.environment(own) | env,
                stderr=subprocess.DEVNULL if codes != (0,) else None,
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
        if process.returncode not in codes:
            raise SystemExit(f"{command} ended with {process.returncode}")
        of_one_mb = usage.ru_maxrss / (1_000_000 if sys.platform == "darwin" else 1_000)  # bytes there, kB elsewhere
        counts = self.server.counts()
        return Cost(
            seconds,
            usage.ru_utime + usage.ru_stime,
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


# --- the figures ----------------------------------------------------------------------------------------------


def few_runs(options: argparse.Namespace) -> None:
    print_head(f"a. {FEW_RUNS:,} runs of {FEW_RUNS_KEYS} keys")
    with serving(options.compiled, "--scenario", "runs", "--runs", FEW_RUNS, "--keys", FEW_RUNS_KEYS) as bench:
        loops, naive, ours = in_turn(
            options.pairs,
            lambda: bench.peer("plain_loop", RUNS_PATH),
            lambda: bench.peer("naive_runs", RUNS_PATH),
            lambda: bench.export(RUNS_PATH),
        )
        assert bench.rows(RUNS_PATH, "runs") == FEW_RUNS
        usual = bench.peer("usual_loop", RUNS_PATH, None if options.full else USUAL_RUNS)
    print_costs({"best plain loop": loops, "naive HTTP loop": naive, "export_runs": ours})
    scaled_s = scaled(usual, 1 if options.full else FEW_RUNS / USUAL_RUNS)
    print(f"  usual loop           {scaled_s:8.2f} s{'' if options.full else f'   scaled from {USUAL_RUNS} runs'}")
    print_figure("questions", f"at most {int(7 + FEW_RUNS / 500)}", str(max(cost.graphql for cost in ours)))
    print_figure("time / best plain loop", "at most 0.4", ratios(ours, loops))
    print_figure("time / naive HTTP loop", "at most 1", ratios(ours, naive))
    fraction = scaled_s / statistics.median(cost.seconds for cost in ours)
    print_figure("time / usual loop", "less than 1/40", f"1/{fraction:.1f}")


def many_runs(options: argparse.Namespace) -> None:
    print_head(f"b, d. {MANY_RUNS:,} runs of {KEYS} keys")
    with serving(options.compiled, "--scenario", "runs", "--runs", MANY_RUNS, "--keys", KEYS) as bench:
        loops, naive, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("plain_loop", RUNS_PATH),
            lambda: bench.peer("naive_runs", RUNS_PATH),
            lambda: bench.export(RUNS_PATH),
            lambda: bench.export(RUNS_PATH, again=True),
            wanted=("b" in options.only, "b" in options.only, True, "d" in options.only),
        )
        assert bench.rows(RUNS_PATH, "runs") == MANY_RUNS
    print_costs(
        {"best plain loop": loops, "naive HTTP loop": naive, "export_runs": ours, "export_runs again": repeated}
    )
    if loops:
        print_figure("time / best plain loop", "at most 0.4", ratios(ours, loops))
        print_figure("time / naive HTTP loop", "at most 0.85", ratios(ours, naive))
        print_figure("memory", "at most 400 MB", memory_of(ours))
    if repeated:
        print_figure("repeated / first", "at most 1", ratios(repeated, ours))


def most_runs(options: argparse.Namespace) -> None:
    print_head(f"g. {MOST_RUNS:,} runs of {KEYS} keys, once")
    costs = []
    for runs in (MANY_RUNS, MOST_RUNS):
        with serving(options.compiled, "--scenario", "runs", "--runs", runs, "--keys", KEYS) as bench:
            costs.append(bench.export(RUNS_PATH))
            assert bench.rows(RUNS_PATH, "runs") == runs
    print_costs({f"{MANY_RUNS:,} runs": costs[:1], f"{MOST_RUNS:,} runs": costs[1:]})
    print_figure("memory", "less than 1,000 MB", memory_of(costs[1:]))
    print_figure("time / that of a tenth", "at most 11", ratios(costs[1:], costs[:1]))


def short_histories(options: argparse.Namespace) -> None:
    print_head(f"e. {SHORT_HISTORIES:,} histories of {SHORT_STEPS} steps and {FEW_METRICS} metrics")
    shape = ("--scenario", "histories", "--steps", SHORT_STEPS, "--metrics", FEW_METRICS, "--runs", SHORT_HISTORIES)
    with serving(options.compiled, *shape) as bench:
        naive, without, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("naive_histories", HISTORIES_PATH),
            lambda: bench.export(HISTORIES_PATH),
            lambda: bench.export(HISTORIES_PATH, "--include-history"),
            lambda: bench.export(HISTORIES_PATH, "--include-history", again=True),
        )
        assert bench.rows(HISTORIES_PATH, "history") == SHORT_HISTORIES * SHORT_STEPS
    print_costs({"naive histories": naive, "without histories": without, "export_runs": ours, "again": repeated})
    print_figure("time / naive histories", "at most 0.75", ratios(ours, naive))
    print_figure("CPU", "at most 12 s", spread([cost.cpu_s for cost in ours], " s"))
    print_figure("repeated / without histories", "at most 1.2", ratios(repeated, without))
    print_figure("downloads, repeated", "0", str(max(cost.downloads for cost in repeated)))


def cut_histories(options: argparse.Namespace) -> None:
    print_head(f"f. {CUT_HISTORIES:,} histories, every third run's first download cut short")
    shape = ("--scenario", "histories", "--steps", SHORT_STEPS, "--metrics", FEW_METRICS, "--runs", CUT_HISTORIES)
    costs = []
    with serving(options.compiled, *shape) as bench:
        for is_cut in (False, True):
            for number in range(0, CUT_HISTORIES if is_cut else 0, 3):
                match = {"kind": "download", "run": f"hist{number:05d}"}
                bench.faults.append({"action": "cut", "match": match, "times": 1})
            costs.append(bench.export(HISTORIES_PATH, "--include-history"))
            assert bench.rows(HISTORIES_PATH, "history") == CUT_HISTORIES * SHORT_STEPS
    print_costs({"without faults": costs[:1], "with faults": costs[1:]})
    print_figure("downloads, with faults", "", str(costs[1].downloads))
    print_figure("time / without faults", "at most 3", ratios(costs[1:], costs[:1]))


def consoles(options: argparse.Namespace) -> None:
    print_head(f"h. consoles of {CONSOLES:,} runs, {LINES} lines each")
    with serving(options.compiled, "--scenario", "consoles", "--runs", CONSOLES, "--lines", LINES) as bench:
        bare, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("bare_questions", CONSOLES_PATH),
            lambda: bench.export(CONSOLES_PATH, "--console"),
            lambda: bench.export(CONSOLES_PATH, "--console", again=True),
        )
        assert bench.rows(CONSOLES_PATH, "console") == CONSOLES * LINES
    print_costs({"bare questions": bare, "export_runs": ours, "export_runs again": repeated})
    print_figure("time / bare questions", "at most 1.3", ratios(ours, bare))
    print_figure("memory", "at most 400 MB", memory_of(ours))


def tables(options: argparse.Namespace) -> None:
    print_head(f"i. {TABLES} W&B Tables of {TABLE_ROWS:,} rows")
    shape = ("--scenario", "tables", "--runs", TABLES, "--rows", TABLE_ROWS, "--distinct", TABLES)
    with serving(options.compiled, *shape) as bench:
        bare, ours, repeated = in_turn(
            options.pairs,
            lambda: bench.peer("bare_tables", TABLES_PATH),
            lambda: bench.export(TABLES_PATH, "--tables"),
            lambda: bench.export(TABLES_PATH, "--tables", again=True),
        )
        assert bench.rows(TABLES_PATH, "table_predictions") == TABLES * TABLE_ROWS
    print_costs({"bare tables": bare, "export_runs": ours, "export_runs again": repeated})
    print_figure("time / bare tables", "at most 1.5", ratios(ours, bare))
    print_figure("memory", "at most 400 MB", memory_of(ours))
    print_figure("downloads, repeated", "0", str(max(cost.downloads for cost in repeated)))


def no_access(options: argparse.Namespace) -> None:
    print_head("k. no key, a key that is refused, --help")
    with serving(options.compiled, "--scenario", "empty") as bench:
        alone, without, refused, manual = in_turn(
            options.pairs,
            lambda: bench.peer("requests_alone", RUNS_PATH),
            lambda: bench.cost_of([SCRIPT, RUNS_PATH], codes=(1,), WANDB_API_KEY=""),
            lambda: bench.cost_of([SCRIPT, RUNS_PATH], codes=(1,), WANDB_API_KEY="1" * 40),
            lambda: bench.cost_of([SCRIPT, "--help"]),
        )
    print_costs({"import requests": alone, "no key": without, "refused key": refused, "--help": manual})
    more = [cost.seconds - other.seconds for cost, other in zip(without, alone, strict=True)]
    print_figure("no key, beyond import requests", "at most 0.3 s", spread(more, " s"))
    print_figure("questions with a refused key", "1", str(max(cost.graphql for cost in refused)))


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
        print_figure("time / bare download", "at most 1.5", ratios(ours, downloads))
        faster = scaled_s / statistics.median(cost.seconds for cost in ours)
        print_figure("scan_history() / time", "at least 15", f"{faster:.1f}")
        print_figure("memory", "less than 300 MB", memory_of(ours))
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


def in_turn(pairs: int, *commands: Callable[[], Cost], wanted: Sequence[bool] = (True,) * 4) -> list[list[Cost]]:
    """The costs of each command, A B A B; none of what is not wanted."""
    chosen = [command if is_wanted else None for command, is_wanted in zip(commands, wanted, strict=False)]
    rounds = [[command and command() for command in chosen] for _ in range(pairs)]
    return [[cost for cost in costs if cost] for costs in zip(*rounds, strict=True)]


def scaled(cost: Cost, factor: float) -> float:
    """The seconds, had there been so many times as many runs."""
    return cost.seconds + cost.single_s * (factor - 1)


# --- what is printed ------------------------------------------------------------------------------------------


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
            cpu_s = statistics.median(cost.cpu_s for cost in measured)
            print(f"  {name:<20} {seconds:8.2f} s   CPU {cpu_s:6.2f} s   {memory_of(measured)}")


def print_figure(name: str, demanded: str, measured: str) -> None:
    print(f"    {name:<32} {demanded:<18} {measured}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d,e,f,h,i,k", help="some of the figures (default: %(default)s)")
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
    measures = {"a": few_runs, "bd": many_runs, "cd": histories, "e": short_histories, "f": cut_histories}
    measures |= {"g": most_runs, "h": consoles, "i": tables, "k": no_access}
    if unknown := options.only - set("abcdefghik"):
        parser.error(f"--only takes some of a,b,c,d,e,f,g,h,i,k, not {','.join(sorted(unknown))}")
    print(f"medians of {options.pairs} (least to greatest); below each: figure, demanded, measured")
    with tempfile.TemporaryDirectory(prefix="bench-online-") as compiled:
        options.compiled = Path(compiled)
        compile_modules(options.compiled)
        for figures, measure in measures.items():
            if options.only & set(figures):
                measure(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
