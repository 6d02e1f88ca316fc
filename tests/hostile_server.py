"""A server that means harm, and what the two scripts that ask one must do about it, whatever it answers.

`tests/attacks/hostile_server.py` tries all of it, `tests/test_hostile_server.py` a sample.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
WRONG_VALUES = ("", "null", "[]", '"\\ud800 \\u001b[31m\\n"', "7", f"{10**30}", '{"a": [1]}')
MORE_WRONG_VALUES = (
    "{}",
    '""',
    "-1",
    "true",
    "1e400",
    "[null]",
    "[[1]]",
    f"{2**63 - 1}",
    "NaN",
    '"0001-01-01T00:00:00+02:00"',
)


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
    for number, run_id in enumerate(IDS, 1):
        add_run(server, run_id, created_at=f"2026-01-0{number}T00:00:00Z")
    server.add_run("team", "other", "b1", config={"lr": 1}, summary={"loss": 1})
    server.add_history("team", "other", "b1", live=[{"_step": 0, "loss": 1}])


def change(server: Server) -> None:
    """What makes an export fetch something: a run that went on, and a new one."""
    server.change_run("team", "demo", IDS[0], heartbeat_at="2026-02-01T00:00:00Z")
    add_run(server, "new", created_at="2026-02-01T00:00:00Z")


def add_run(server: Server, run_id: str, **how: Any) -> None:
    """A run with some of everything."""
    cells = {"_type": "table-file", "path": "media/table/cells.table.json", "nrows": 2, "ncols": 1}
    summary = {"loss": 0.5, "val": {"acc": 1}, "_step": 9, "_runtime": 3, "cells": cells}
    config = {"lr": 0.1, "model": {"k": 1}}
    server.add_run("team", "demo", run_id, config=config, summary=summary, sweep="s1", tags=["t"], **how)
    rows = [{"_step": step, "_runtime": step, "_timestamp": 1e9 + step, "loss": step / 3} for step in range(10)]
    server.add_history("team", "demo", run_id, rows=rows[:8], live=rows[8:])
    server.add_console("team", "demo", run_id, ["2026-01-01T00:00:00.5 one", "ERROR 2026-01-01T00:00:01.5 two"])
    server.add_file("team", "demo", run_id, cells["path"], '{"columns": ["x"], "data": [[1], [2]]}')
    server.add_events("team", "demo", run_id, [{"_runtime": 1, "_timestamp": 1e9, "system.cpu": 5}])


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
        peak_mb = 0.0
        while time.monotonic() - started < LIMIT_S:
            peak_mb = max(peak_mb, peak_mb_of(process.pid))
            ended, status = os.waitpid(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            process.kill()
            _, status = os.waitpid(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    texts = [file.read_text("utf-8", errors="surrogateescape") for file in (out, err)]
    return Ended(code, *texts, time.monotonic() - started, peak_mb)


def peak_mb_of(pid: int) -> float:
    """A process's peak memory since it started its program: `ru_maxrss` has that of the process it was forked from."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1000
    return 0.0


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
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = export_runs.main(["--verify", str(folder / "out")])
    gc.enable()  # which it disables
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        yield f"--verify: {said.getvalue()}"
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
    tree: Any  # the first such answer


FIELDS = ("parquetHistory", "logLines", "events", "files", "historyKeys")  # by which questions of one name differ


def prepared(server: Server, folder: Path) -> tuple[Earlier, Path]:
    """Fill the server, export from it into a folder, and change what it holds; the earlier export, and the folder."""
    fill(server)
    earlier, here = Earlier(folder / "earlier"), folder / "here"
    here.mkdir()
    earlier.make(server, here)
    change(server)
    return earlier, here


def answers_of(script: str, server: Server, folder: Path) -> list[Answered]:
    """The questions that the script asks, each once, with all places of their answers."""
    found: dict[tuple[str, str], Answered] = {}
    execute = server.app.resolvers.execute

    def noting(question: Any, request: Any) -> Any:
        values, errors = execute(question, request)
        name = next((name for name in FIELDS if name in request.fields), "")
        tree = json.loads(json.dumps({"data": values}))
        places = dict.fromkeys(places_in(tree))
        if known := found.get((request.operation, name)):
            places = dict.fromkeys(known.places) | places
        found[request.operation, name] = Answered(request.operation, name, [*places], known.tree if known else tree)
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


# --- everything else ------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What a server is made to do, and what the scripts make of it."""

    set_up: Callable[[Server], object]
    scripts: Sequence[str] = SCRIPTS
    codes: Sequence[int] = (0,)
    said: str = ""  # on stderr
    limit_mb: float = LIMIT_MB


ODD_NAMES = ["../../up", "/tmp/x", "nul\0", "x" * 300, "\u202eright", "\x1b[31mred\x1b]0;t\x07", "[red]m[/red]"]
ODD_NAMES += ["new\nline\r", "..", ".", "~", "-o", "a\\b", "\u2028\u200f\x9b31m", "%2e%2e%2f", "*?[a]"]


def odd_names(server: Server) -> None:
    for number, name in enumerate(ODD_NAMES):
        server.add_run("team", name, "r", config={name: 1}, summary={name: 1})
        table = {"_type": "table-file", "path": f"media/table/{number}.table.json"}
        how: dict[str, Any] = {"display_name": name, "tags": [name], "group": name, "notes": name}
        server.add_run("team", "names", name, config={name: {name: name}}, summary={name: table}, **how)
        server.add_history("team", "names", name, live=[{"_step": 0, name: 1}])
        server.add_console("team", "names", name, [f"2026-01-01T00:00:00.5 {name}"])
        server.add_file("team", "names", name, table["path"], json.dumps({"columns": [name], "data": [[name]]}))


def odd_entity(server: Server) -> None:
    for name in ODD_NAMES:
        server.add_run(name, "p", "r")


def nested(levels: int) -> str:
    return '{"x": ' * levels + "1" + "}" * levels


def odd_values(server: Server) -> None:
    """Values that users can log, whatever they mean: all of them are kept, and cost no other run anything."""
    numbers = f"[1e400, {10**30}, {10**400}, NaN, -Infinity, 1e-400]"
    huge = f'{{"a": 1e400, "b": {10**30}, "c": {10**400}, "d": {numbers}, "_step": {10**30}, "_runtime": {10**400}}}'
    summaries = {"huge": huge, "list": "[1, 2]", "text": '"x"', "twice": '{"a": 1, "a": {"b": 2}, "a": 3}'}
    for run_id, text in summaries.items():
        server.add_run("team", "demo", run_id, config=f'{{"lr": {{"value": {text}}}}}', summary=text)
    notes = [{"1": {"a": 1}, "5": 1}, {"1": "loss", "5": 1, "7": [1], "8": [2]}, {"1": ["x"]}]
    server.add_run("team", "demo", "notes", config={"_wandb": {"m": notes, "e": {"w": {"args": notes}}}})
    for levels in (100, 250, 300, 900, 950, 990, 1_000, 1_024, 10_000, 100_000):
        server.add_run("team", "demo", f"config{levels}", config=f'{{"a": {{"value": {nested(levels)}}}}}')
        server.add_run("team", "demo", f"summary{levels}", summary=f'{{"a": {nested(levels)}, "loss": 1}}')
        server.add_run("team", "demo", f"list{levels}", summary=f'{{"a": {"[" * levels}{"]" * levels}, "loss": 1}}')


def yaml_references(server: Server) -> None:
    """A few hundred bytes whose text would have 10^9 characters, and a time that is none."""
    config = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, other in itertools.pairwise("abcdefghi"):
        config += f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]\n"
    server.add_sweep("team", "demo", "s2", config=config + "metric: {name: *i}\n")
    server.add_sweep("team", "demo", "s3", config="a: 2026-99-99\nmetric: {name: loss}\n")
    server.add_sweep("team", "demo", "s4", config="[" * 10_000)
    for sweep in ("s2", "s3", "s4"):
        server.add_run("team", "demo", sweep, sweep=sweep)


def many_keys(server: Server) -> None:
    for number in range(40):
        values = {f"key{number}_{each}": each for each in range(500)}
        server.add_run("team", "wide", f"r{number:02}", config=values, summary=values)


def parquet_bomb(server: Server, rows: int = 200_000_000, *, is_counted: bool = False) -> None:
    """Some kB that are `rows` rows."""
    unit = 10_000_000
    table = pa.table({name: pa.array(np.zeros(unit, int)) for name in ("_step", "loss")})
    file = Path(server.folder.name) / "bomb.parquet"
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        for _ in range(rows // unit):
            writer.write_table(table, row_group_size=unit)
    server.add_run("team", "demo", "bomb", summary={"loss": 1})
    server.add_history("team", "demo", "bomb", files=[file])
    if not is_counted:
        server.run("team", "demo", "bomb").history_rows = 10


def fault(action: str, /, match: dict[str, Any], **parameters: Any) -> Callable[[Server], object]:
    return lambda server: server.fault(action, match=match, **parameters)


def same_page(operation: str, *place: str, field: str | None = None) -> Callable[[Server], object]:
    """The same page again and again, each of which says that there is another one."""

    def set_up(server: Server) -> None:
        execute = server.app.resolvers.execute

        def with_next_page(question: Any, request: Any) -> Any:
            values, errors = execute(question, request)
            page: Any = values
            for key in place if request.operation == operation else ():
                page = (page or {}).get(key)
            if isinstance(page, dict) and request.operation == operation:
                first = server.first_pages.setdefault(
                    (operation, *request.projects, *request.runs), json.loads(json.dumps(page))
                )
                page |= first
                page["pageInfo"] |= {"hasNextPage": True}
            return values, errors

        server.first_pages = {}
        server.app.resolvers.execute = with_next_page

    return set_up


GRAPHQL, EXPORT, TABLE = (
    {"kind": "graphql"},
    {"kind": "download", "path": "^/exports"},
    {"kind": "download", "path": "table"},
)
BOMB = {"size": 3_000_000_000, "status": 200}
CASES: dict[str, Case] = {
    "names of projects, runs, keys and tables": Case(odd_names, codes=(0, 3)),  # the server has no path for some
    "names of entities": Case(odd_entity, codes=(0, 3)),
    "values that users log": Case(odd_values, ("export_runs",), (3,), "cannot be parsed"),
    "sweeps whose YAML expands": Case(yaml_references),
    "20,000 keys in one project": Case(many_keys),
    "a config of 50 MB": Case(lambda server: server.add_run("team", "demo", "big", config={"a": "x" * 50_000_000})),
    "an answer without an end": Case(fault("endless", GRAPHQL), codes=(1,), said="longer than 100 MB"),
    "an answer that expands to 3 GB": Case(fault("bomb", GRAPHQL, **BOMB), codes=(1,), said="longer than 100 MB"),
    "an error that expands to 3 GB": Case(
        fault("bomb", GRAPHQL, **BOMB | {"status": 400}), codes=(1,), said="HTTP 400"
    ),
    "a redirect that expands to 3 GB": Case(
        fault("bomb", GRAPHQL, **BOMB | {"status": 302}, headers={"Location": "/x"}), codes=(1,), said="HTTP 302"
    ),
    "runs without an end": Case(
        fault("endless", {"operation": "Runs"}), ("export_runs",), (1, 3), "longer than 100 MB"
    ),
    "an answer that is nested 100,000 deep": Case(
        fault("status", GRAPHQL, status=200, body='{"data": ' + "[" * 100_000), codes=(1,), said="not JSON"
    ),
    "an error that is nested 100,000 deep": Case(
        fault("status", GRAPHQL, status=400, body='{"errors": ' + "[" * 100_000), codes=(1,), said="HTTP 400"
    ),
    "a message of 1 MB": Case(
        fault("status", GRAPHQL, status=400, message="x" * 1_000_000), codes=(1,), said="HTTP 400"
    ),
    "a Content-Length that is too short": Case(
        fault("headers", GRAPHQL, headers={"Content-Length": "9"}), codes=(1,), said="incomplete"
    ),
    "a Content-Length that is too long": Case(
        fault("cut", GRAPHQL, headers={}, fraction=0.5), codes=(1,), said="connection failed"
    ),
    "an answer that is no gzip": Case(
        fault("headers", GRAPHQL, headers={"Content-Encoding": "gzip"}), codes=(1,), said="connection failed"
    ),
    "a table file without an end": Case(fault("endless", TABLE), ("export_runs",), (3,), "longer than 500 MB"),
    "an export that expands to 500 MB": Case(
        fault("bomb", EXPORT, **BOMB | {"size": 500_000_000}), ("export_runs",), (3,), "download is incomplete"
    ),
    "a redirect of an export that expands": Case(
        fault("bomb", EXPORT, **BOMB | {"status": 302}, headers={"Location": "/x"}), ("export_runs",), (3,), "HTTP 403"
    ),
    "an export of 200 million rows, of a run that has 10": Case(
        parquet_bomb, ("export_runs",), (3,), "an export has 200,000,000 rows"
    ),
    "an export of 200 million rows with one step": Case(
        lambda server: parquet_bomb(server, is_counted=True), ("export_runs",), (0, 3), limit_mb=6_000
    ),
    "projects without an end": Case(
        same_page("Projects", "models"), codes=(1,), said="repeats its list of projects without end"
    ),
    "runs that come again and again": Case(
        same_page("Runs", "project", "runs"), ("export_runs",), (1, 3), "repeats its list of runs without end"
    ),
    "output that comes again and again": Case(
        same_page("Rows", "project", "r0", "logLines"),
        ("export_runs",),
        (3,),
        "repeats lines of its output without end",
    ),
}
for scheme in (
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "javascript:alert(1)",
    "http://[::1",
    "",
    "//x",
    "http://\ud800/",
):
    CASES[f"a signed URL {scheme!r}"] = Case(
        fault(
            "replace",
            {"field": "parquetHistory"},
            place=["data", "project", "r0", "parquetHistory", "parquetUrls", 0],
            value=json.dumps(scheme),
        ),
        ("export_runs",),
        (3,),
    )


def try_case(name: str, folder: Path) -> list[str]:
    """What is wrong after a case of `CASES`, each script in turn; onto an earlier export."""
    case = CASES[name]
    found = []
    for script in case.scripts:
        with Server() as server:
            fill(server)
            earlier = Earlier(folder / "earlier")
            if not earlier.folder.exists():
                (folder / "sound").mkdir()
                earlier.make(server, folder / "sound")
            earlier.rows = rows_in(earlier.folder)
            here = folder / "here"
            shutil.rmtree(here, ignore_errors=True)
            here.mkdir()
            earlier.put(here)
            change(server)
            case.set_up(server)
            entity = [] if case.set_up is odd_entity and script == "list_entities" else ["-e", "team"]
            ended = run(script, server, here, *entity, *arguments_of(script, here)[2:])
            new = faults_of(ended, limit_mb=case.limit_mb)
            if ended.code not in case.codes or case.said not in ended.err:
                new.append(f"exit code {ended.code}, not {case.codes}, or no {case.said!r} in {ended.err[-500:]!r}")
            if script == "export_runs":
                new += lost(here, earlier)
            found += [f"{name}: {script}: {each}" for each in new]
            print(f"{name}: {script}: exit {ended.code}, {ended.seconds:.1f} s, {ended.peak_mb:.0f} MB", flush=True)
    return found
