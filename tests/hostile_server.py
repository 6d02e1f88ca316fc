"""A server that means harm, and what the two scripts that ask one must do about it, whatever it answers.

`tests/attacks/hostile_server.py` tries all of it, `tests/test_hostile_server.py` a sample.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import polars as pl
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
SCRIPTS = ("list_entities", "export_runs")
LIMIT_S = 120  # a script that takes longer hangs
LIMIT_MB = 1_500
FLAGS = {
    "list_entities": ("--retries", 1, "--timeout", 5),
    "export_runs": (
        *("--include-history", "--console", "--tables", "--system-metrics"),
        *("--retries", 1, "--timeout", 5, "--workers", 2),
    ),
}
IDS = ("a1", "a2", "a3")

# In place of what a field of an answer should hold, as JSON; empty: the field is missing.
WRONG_VALUES = ("", "null", "[]", "{}", '""', '"\\ud800 \\u001b[31m\\n"', "7", "-1", "true", "1e400", f"{10**30}", "[null]")
WRONG_VALUES += ('{"a": [1]}', "[[1]]", "9223372036854775807", "NaN")


class Ended(NamedTuple):
    """How a script ended, and what it took."""

    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float


def fill(server: Server) -> None:
    """A project with some of everything, and another one."""
    server.add_sweep("team", "demo", "s1", config="metric: {name: loss, goal: minimize}")
    for number, run_id in enumerate(IDS):
        content = '{"columns": ["x"], "data": [[1], [2]]}'
        cells = {"_type": "table-file", "path": "media/table/cells.table.json", "nrows": 2, "ncols": 1}
        summary = {"loss": 0.5, "val": {"acc": 1}, "_step": 9, "_runtime": 3, "cells": cells}
        how = {"sweep": "s1", "created_at": f"2026-01-0{number + 1}T00:00:00Z", "tags": ["t"]}
        server.add_run("team", "demo", run_id, config={"lr": 0.1, "model": {"k": 1}}, summary=summary, **how)
        rows = [{"_step": step, "_runtime": step, "_timestamp": 1e9 + step, "loss": step / 3} for step in range(10)]
        server.add_history("team", "demo", run_id, rows=rows[:8], live=rows[8:])
        server.add_console("team", "demo", run_id, ["2026-01-01T00:00:00.5 one", "ERROR 2026-01-01T00:00:01.5 two"])
        server.add_file("team", "demo", run_id, cells["path"], content)
        server.add_events("team", "demo", run_id, [{"_runtime": 1, "_timestamp": 1e9, "system.cpu": 5}])
    server.add_run("team", "other", "b1", config={"lr": 1}, summary={"loss": 1})
    server.add_history("team", "other", "b1", live=[{"_step": 0, "loss": 1}])


def run(script: str, server: Server | str, folder: Path, *arguments: object) -> Ended:
    """The script as a process of its own. Its exit code, streams, duration and peak memory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    url = server if isinstance(server, str) else server.url
    env = kept | {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "HOME": str(folder), "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "wandb-tools" / f"{script}.py"), *map(str, arguments)]
    started = time.monotonic()
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=stdout, stderr=stderr)
        while time.monotonic() - started < LIMIT_S:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    texts = [file.read_text("utf-8", errors="surrogateescape") for file in (out, err)]
    return Ended(code, *texts, time.monotonic() - started, usage.ru_maxrss / 1000)


def arguments_of(script: str, folder: Path) -> list[object]:
    return ["-e", "team", *FLAGS[script], *(["-o", folder / "out"] if script == "export_runs" else [])]


@dataclass
class Earlier:
    """An export of the server's `team` while it was sound: what each attack starts from."""

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)

    def make(self, server: Server, folder: Path) -> None:
        ended = run("export_runs", server, folder, *arguments_of("export_runs", folder))
        assert ended.code == 0, ended
        shutil.move(folder / "out", self.folder)
        self.rows = rows_in(self.folder)

    def put(self, folder: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.copytree(self.folder, folder / "out")


def rows_in(folder: Path) -> dict[str, int]:
    """The rows of each run in each file of an export."""
    found: dict[str, int] = {}
    for file in sorted(folder.glob("*.parquet")):
        key = "id" if file.stem.endswith("_runs") else "run_id"
        counts = pl.read_parquet(file, glob=False).group_by("project", key).len()
        found |= {f"{file.stem}: {project}/{run_id}": rows for project, run_id, rows in counts.iter_rows()}
    return found


def faults_of(ended: Ended, *, limit_mb: float = LIMIT_MB) -> list[str]:
    """What a script must not do, whatever a server answers."""
    found = []
    if ended.code not in (0, 1, 2, 3):
        found.append(f"exit code {ended.code} after {ended.seconds:.0f} s")
    if "Traceback" in ended.err or "a bug in this script" in ended.err:
        found.append(f"an unforeseen error: {ended.err[-400:]}")
    lines = [line for line in ended.err.split("\n") if line]
    if (ended.code != 0) != any(line.startswith("error: ") for line in lines):
        found.append(f"exit code {ended.code}, but on stderr {ended.err[-400:]!r}")
    if any(len(line) > 1_000 for line in lines):
        found.append(f"a line of {max(map(len, lines)):,} characters on stderr: {ended.err[:300]!r}")
    if len(lines) > 40:
        found.append(f"{len(lines)} lines on stderr")
    odd = {c for c in ended.out + ended.err if not c.isprintable() and c not in "\n\u200d"}
    if odd and not ended.out.startswith('{"version"'):
        found.append(f"on the terminal: {odd}")
    if odd & {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n"}:
        found.append(f"in JSON: {odd}")
    if ended.peak_mb > limit_mb:
        found.append(f"{ended.peak_mb:,.0f} MB of memory")
    return found


def lost(folder: Path, earlier: Earlier) -> Iterator[str]:
    """What an earlier export had and this folder has not; or files that are not whole."""
    damaged = subprocess.run(
        [sys.executable, str(ROOT / "wandb-tools" / "export_runs.py"), "--verify", str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    if damaged.returncode:
        yield f"--verify: {damaged.stdout}{damaged.stderr}"
        return
    now = rows_in(folder / "out")
    for name, rows in earlier.rows.items():
        if now.get(name, 0) < rows:
            yield f"{name} had {rows} rows, and has {now.get(name, 0)}"
    outside = {file.name for file in folder.iterdir()} - {"out", "stdout", "stderr", ".cache", ".config", ".local"}
    if outside:
        yield f"written outside of the folder: {outside}"


# --- wrong values at each place of each answer ----------------------------------------------------------------


class Answered(NamedTuple):
    """A question that a script asked, and where its answer holds what."""

    operation: str
    field: str
    places: Sequence[tuple[str | int, ...]]


FIELDS = ("parquetHistory", "logLines", "events", "files", "historyKeys")  # by which questions of one name differ


def answers_of(script: str, server: Server, folder: Path) -> list[Answered]:
    """The questions that the script asks, each once, with all places of their answers."""
    found: dict[tuple[str, str], Answered] = {}
    execute = server.app.resolvers.execute

    def noting(question: Any, request: Any) -> Any:
        values, errors = execute(question, request)
        name = next((name for name in FIELDS if name in request.fields), "")
        tree = json.loads(json.dumps({"data": values}))
        places = {place: None for place in places_in(tree)}
        if known := found.get((request.operation, name)):
            places = dict.fromkeys(known.places) | places
        found[request.operation, name] = Answered(request.operation, name, [*places])
        return values, errors

    server.app.resolvers.execute = noting
    try:
        run(script, server, folder, *arguments_of(script, folder))
    finally:
        server.app.resolvers.execute = execute
    return list(found.values())


def places_in(tree: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Each place in a JSON value, but of a list the first item alone."""
    items = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places_in(value, (*above, key))


def put_wrong_value(server: Server, answered: Answered, place: Sequence[str | int], value: str) -> None:
    match = {"operation": answered.operation, "field": answered.field or None}
    server.fault("replace", match=match, place=list(place), value=value)
