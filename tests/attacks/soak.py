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
#   "urllib3>=2.2,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Exports of many runs again and again, while the server changes and fails at random. Run by hand, on Linux:

  uv run tests/attacks/soak.py                                 # 50,000 runs, 20 exports: up to 40 minutes
  uv run tests/attacks/soak.py --runs 2000 --exports 10 --seed 7

Between two exports runs are added, log more rows, change their summaries, states and names, and are deleted. Every
export meets other faults: busy servers (429, 503), errors (500 and GraphQL's), dropped and hanging connections, answers
and downloads cut short. It may end partial; its files must belong together whatever happens. The last export meets no
fault, and --prune drops what was deleted: its files must hold what the server was given, run by run and row by row.

Reported for each export: its exit code, seconds, and resident memory at most, which must not grow from export to
export. At last some exports run one after another in one process: open files and threads must not become more.

Prints what was found at the end; exit code 1 if there was anything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import polars as pl
from crashes import ENTITY, PROJECT, command, export_ids
from polars.testing import assert_frame_equal
from wandb_server import Server, seeding

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS, KINDS = 5, 200  # rows of a history at first, and histories that differ
EXPORT = (f"{ENTITY}/{PROJECT}", "--include-history", "--quiet")
MOST_GROWTH = 1.2  # of memory, beyond that of the runs: against the first incremental export
STATES = ("finished", "failed", "crashed", "killed", "running")

# One process: exports one after another; a line of JSON after each. Files and threads of the first are there to stay.
LOOP = """
import gc, json, os, sys, threading
sys.path[:0] = json.loads(sys.argv[1])
import export_runs
from wandb_server.server import Remote
for number in range(int(sys.argv[2])):
    Remote(os.environ["WANDB_BASE_URL"]).add_run(entity=sys.argv[3], project=sys.argv[4], run_id=f"more{number}")
    code = export_runs.main(sys.argv[5:])
    gc.enable()
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    facts = {"code": code, "files": files, "threads": threading.active_count()}
    print(json.dumps(facts | {"tasks": len(os.listdir("/proc/self/task"))}), flush=True)
"""


@dataclass
class Truth:
    """What the server was given, by run id."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)  # of its first rows
    later: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # rows that were logged later
    made: int = 0


@dataclass
class Soak:
    server: Server
    folder: Path
    env: Mapping[str, str]
    chance: random.Random
    timeout_s: int = 20
    truth: Truth = field(default_factory=Truth)
    files: list[Path] = field(default_factory=list)  # a history of each kind
    findings: list[str] = field(default_factory=list)

    def add_runs(self, n: int) -> None:
        if not self.files:
            made = seeding.histories(
                self.server.store.folder, KINDS, steps=STEPS, metrics=3, parts=1, live=0, distinct=KINDS, seed=0
            )
            self.files = [files[0] for _, _, files, _ in made]
        for _ in range(n):
            number = self.truth.made
            self.truth.made += 1
            run_id, kind = f"run{number:06d}", self.chance.randrange(KINDS)
            values = {"state": self.chance.choice(STATES), "display_name": f"name {number}"}
            summary = {"loss": self.chance.random(), "_wandb": {"runtime": 5}}
            created_at = seeding.time_at(number * 60)
            config = {"seed": number, "lr": 0.1}
            self.server.add_run(
                ENTITY, PROJECT, run_id, created_at=created_at, config=config, summary=summary, **values
            )
            self.server.add_history(ENTITY, PROJECT, run_id, files=[self.files[kind]])
            self.truth.runs[run_id] = {**values, "loss": summary["loss"], "seed": number}
            self.truth.kinds[run_id] = kind

    def change(self, export: int) -> None:
        """What happens between two exports."""
        ids = list(self.truth.runs)
        heartbeat_at = seeding.time_at(1e8 + export * 3600)
        for run_id in self.chance.sample(ids, len(ids) // 50):  # more rows, some of them live
            first = STEPS + len(self.truth.later.get(run_id, ()))
            rows = [{"_step": step, "_runtime": step + 0.5, "_timestamp": 1e9 + step, "loss": self.chance.random()}
                    for step in range(first, first + self.chance.randint(1, 6))]  # fmt: skip
            live = len(rows) if self.chance.random() < 0.3 else 0
            self.server.add_history(
                ENTITY, PROJECT, run_id, rows=rows[: len(rows) - live], live=rows[len(rows) - live :]
            )
            self.server.change_run(ENTITY, PROJECT, run_id, heartbeat_at=heartbeat_at)
            self.truth.later.setdefault(run_id, []).extend(rows)
        for run_id in self.chance.sample(ids, len(ids) // 50):
            loss, state = self.chance.random(), self.chance.choice(STATES)
            name = f"again {self.chance.random()}"
            summary = json.dumps({"loss": loss, "_wandb": {"runtime": 5}})
            self.server.change_run(ENTITY, PROJECT, run_id, summary=summary, state=state, display_name=name)
            self.truth.runs[run_id] |= {"loss": loss, "state": state, "display_name": name}
        for run_id in self.chance.sample(ids, len(ids) // 200):
            self.server.delete_run(ENTITY, PROJECT, run_id)
            for each in (self.truth.runs, self.truth.kinds, self.truth.later):
                each.pop(run_id, None)
        self.add_runs(len(ids) // 100)

    def set_faults(self) -> str:
        """Some faults at random, in place of those before; what they are."""
        self.server.reset()
        choices: list[tuple[str, dict[str, Any]]] = [
            ("status", {"match": {"kind": "graphql"}, "status": 429, "headers": {"Retry-After": "1"}, "times": 3}),
            ("status", {"match": {"kind": "graphql"}, "status": 503}),
            ("status", {"match": {"kind": "graphql"}, "status": 500}),
            ("status", {"match": {"kind": "download"}, "status": 503, "times": 3}),
            ("status", {"match": {"kind": "download"}, "status": 500}),
            ("cut", {"match": {"kind": "download"}, "fraction": self.chance.random()}),
            ("truncate", {"match": {"kind": "download"}, "fraction": self.chance.random()}),
            ("cut", {"match": {"field": "runs"}, "fraction": self.chance.random()}),
            ("drop", {"match": {"kind": "graphql"}}),
            ("hang", {"match": {"kind": "download"}, "seconds": 60, "times": 2}),
            ("hang", {"match": {"field": "parquetHistory"}, "seconds": 60, "times": 2}),
            ("expired", {"match": {"kind": "download"}}),
            ("error", {"match": {"field": "parquetHistory"}}),
            ("repeat", {"match": {"field": "runs"}}),
        ]
        chosen = self.chance.sample(choices, 4)
        for action, how in chosen:
            every, after = self.chance.choice((7, 31, 101)), self.chance.randrange(20)
            self.server.fault(action, **{"every": every, "after": after, **how})
        return ", ".join(f"{action} {how.get('status', '')}".strip() for action, how in chosen)

    def export(self, *flags: str) -> tuple[int, float, int, str]:
        """Exit code, seconds, resident memory at most in kB, and stderr of an export; its files are looked at."""
        how = command(
            "export_runs.py",
            *EXPORT,
            "--timeout",
            self.timeout_s,
            "-o",
            self.folder,
            *flags,
            env=self.env,
            cwd=self.folder.parent,
        )
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(**how, stdout=subprocess.DEVNULL, stderr=err)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            err.seek(0)
            said = err.read()
        ids = export_ids(self.folder)
        names = {f"{ENTITY}_{PROJECT}_{kind}" for kind in ("runs.parquet", "history.parquet", "metadata.json")}
        if set(ids) != names or len(set(ids.values())) != 1:
            self.findings.append(f"files that do not belong together: {ids}")
        own = sorted(str(each.relative_to(self.folder)) for each in (self.folder / ".wandb_tools").rglob("*"))
        if own != [".wandb_tools/histories", ".wandb_tools/lock"]:
            self.findings.append(f"left over: {own[:5]}")
        if process.returncode not in (0, 3):
            self.findings.append(f"ended with {process.returncode}: {said}")
        return process.returncode, time.monotonic() - started, usage.ru_maxrss, said

    def compare(self) -> None:
        """Find every difference between the files and what the server was given."""
        stem = self.folder / f"{ENTITY}_{PROJECT}"
        truth = self.truth
        ids = sorted(truth.runs)
        expected = pl.DataFrame({"id": ids, "kind": [truth.kinds[each] for each in ids]}).hstack(
            pl.DataFrame([truth.runs[each] for each in ids])
        )
        first = [pl.read_parquet(file).with_columns(kind=pl.lit(kind)) for kind, file in enumerate(self.files)]
        rows = expected.select("id", "kind").join(pl.concat(first), "kind").drop("kind")
        metrics = {name: f"metric_{name.replace('/', '_')}" for name in rows.columns if "/" in name}
        later = [{"id": each, **row} for each, more in truth.later.items() for row in more]
        schema = {"id": pl.String, "_step": pl.Int64, **dict.fromkeys(("_runtime", "_timestamp", "loss"), pl.Float64)}
        rows = pl.concat([rows, pl.DataFrame(later, schema=schema)], how="diagonal")
        rows = rows.rename(metrics | {"id": "run_id", "loss": "metric_loss"}).sort("run_id", "_step")
        counts = rows.group_by(id="run_id").agg(history_rows=pl.len().cast(pl.Int64))
        runs = expected.drop("kind").rename({"display_name": "name", "loss": "metric_loss", "seed": "config_seed"})
        runs = runs.join(counts, "id").sort("id")
        found = pl.read_parquet(f"{stem}_runs.parquet").select(runs.columns).sort("id")
        history = pl.read_parquet(f"{stem}_history.parquet")
        for name, mine, theirs in (("runs", found, runs), ("history", history.select(rows.columns), rows)):
            try:
                assert_frame_equal(mine, theirs, check_exact=True)
            except AssertionError as error:
                self.findings.append(f"{name} differ from what the server was given: {error}")


def carry_out(soak: Soak, runs: int, exports: int) -> list[tuple[int, float, int, str]]:
    """Export again and again; the figures of each export."""
    started = time.monotonic()
    soak.add_runs(runs)
    print(f"{runs:,} runs were made in {time.monotonic() - started:.0f} s", flush=True)
    figures = []
    for number in range(exports):
        is_last = number == exports - 1
        if number:
            soak.change(number)
        faults = "none" if is_last else soak.set_faults()
        if is_last:
            soak.server.reset()
        code, seconds, memory_kb, said = soak.export(*(("--prune", "--timeout", "60") if is_last else ()))
        figures.append((code, seconds, memory_kb, said))
        failed = len(json.loads((soak.folder / f"{ENTITY}_{PROJECT}_metadata.json").read_text())["failed"])
        print(f"export {number + 1}: {len(soak.truth.runs):,} runs, exit code {code}, {failed:,} failures, "
              f"{seconds:.1f} s, {memory_kb / 1024:.0f} MiB; faults: {faults}", flush=True)  # fmt: skip
        if is_last and code:
            soak.findings.append(f"the last export ended with {code}: {said}")
    soak.compare()
    memory = [memory_kb for _, _, memory_kb, _ in figures]
    if len(memory) >= 10 and max(memory[len(memory) // 2 :]) > MOST_GROWTH * max(memory[: len(memory) // 2]):
        soak.findings.append(f"memory grows: {memory} kB")
    return figures


def loop(soak: Soak, exports: int) -> list[dict[str, int]]:
    """Open files and threads after each of some exports in one process, of a project that grows by a run each time."""
    soak.server.reset()
    paths = json.dumps([str(Path(__file__).parent.parent.parent / name) for name in ("wandb-tools", "tests")])
    for number in range(20):
        soak.server.add_run(ENTITY, "loop", f"run{number}", summary={"loss": number})
        soak.server.add_history(ENTITY, "loop", f"run{number}", files=[soak.files[0]])
    arguments = [f"{ENTITY}/loop", "--include-history", "--quiet", "-o", str(soak.folder.with_name("loop"))]
    done = subprocess.run(
        [sys.executable, "-c", LOOP, paths, str(exports), ENTITY, "loop", *arguments],
        env=dict(soak.env), capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(figures) != exports or any(each["code"] for each in figures):
        soak.findings.append(f"in one process: {figures}, {done.stderr}")
    for what in ("files", "threads", "tasks"):
        counts = [each[what] for each in figures]
        if max(counts[1:], default=0) > counts[0]:
            soak.findings.append(f"{what} in one process become more: {counts}")
    return figures


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--exports", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wandb-tools-soak-") as name, Server() as server:
        work = Path(name)
        (work / "out").mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        env = kept | server.environment(work / "sdk")
        state = Soak(server, work / "out", env, random.Random(options.seed))
        figures = carry_out(state, options.runs, options.exports)
        in_one_process = loop(state, 10)
    memory = [memory_kb / 1024 for _, _, memory_kb, _ in figures]
    print(f"memory: {min(memory):.0f} to {max(memory):.0f} MiB")
    print(f"ten exports in one process: {in_one_process[0]} after the first, {in_one_process[-1]} after the last")
    for finding in state.findings:
        print(f"  {finding}")
    print(f"{len(state.findings)} findings; {time.monotonic() - started:.0f} s, seed {options.seed}")
    return 1 if state.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
