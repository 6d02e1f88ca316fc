"""Ends a script at a chosen moment, and compares what it leaves with what an undisturbed one gives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq
from conftest import running
from wandb_server import seeding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wandb_server import Server

SCRIPTS = Path(__file__).parent.parent / "wandb-tools"
LIMIT_S = 300  # a script that takes longer hangs
ENTITY, PROJECT = "team", "demo"
KINDS = ("console", "history", "runs", "table_predictions")  # of the files that EXPORT writes
EXPORT = (f"{ENTITY}/{PROJECT}", "--include-history", "--console", "--tables", "--workers", "2")

# As `sitecustomize.py` it runs in the script's own process before the script does. It counts what Python does to files
# in one folder (each is audited before it is done); at the chosen one it sends a signal, or makes it fail. polars
# writes without Python.
AUDIT = """
import itertools, os, re, sys

folder, at, before = os.environ["END_IN"], int(os.environ["END_AT"]), os.environ["END_BEFORE"]
by, failing = int(os.environ["END_BY"]), int(os.environ["END_FAILING"])
log = os.open(os.environ["END_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
counted = itertools.count(1)  # threads share it
events = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock")


def operation(event, arguments):
    if event not in events:
        return
    paths = [str(each) for each in arguments if isinstance(each, (str, os.PathLike))]
    is_ours = event == "fcntl.flock" or any(os.path.abspath(path).startswith(folder) for path in paths)
    # rmtree names a file by its folder's descriptor and its own name.
    is_ours |= event in ("os.remove", "os.rmdir") and arguments[-1] != -1
    if is_ours:
        line = f"{event} {' '.join(path.removeprefix(folder) for path in paths)}\\n"
        os.write(log, line.encode("utf-8", "replace"))
        if next(counted) == at or (before and re.search(before, line)):
            if failing:
                raise OSError(failing, os.strerror(failing))
            os.kill(os.getpid(), by)


sys.addaudithook(operation)
"""


class Ended(NamedTuple):
    """How a script ended; `operations` are those that `AUDIT` counted."""

    code: int
    out: str
    err: str
    operations: list[str]


def run(
    command: Mapping[str, Any],
    folder: Path,
    *,
    at: int = 0,
    before: str = "",
    after_s: float | None = None,
    by: signal.Signals = signal.SIGKILL,
    failing: int = 0,
) -> Ended:
    """Run `command` (what subprocess takes), and send it a signal.

    at: before its so-maniest operation on files in `folder` (1 is the first; 0: none).
    before: before operations that match this regular expression, such as `os.rename .*_runs`.
    after_s: so many seconds after its start.
    failing: send no signal, but let these operations fail with this `errno`.
    """
    own = Path(f"{folder}.audit")
    own.mkdir(parents=True, exist_ok=True)
    (own / "sitecustomize.py").write_text(AUDIT)
    log = own / "operations"
    log.unlink(missing_ok=True)
    more = {"PYTHONPATH": str(own), "END_IN": f"{folder}{os.sep}", "END_LOG": str(log)}
    more |= {"END_AT": str(at), "END_BEFORE": before, "END_BY": str(int(by)), "END_FAILING": str(failing)}
    with running({**command, "env": {**command["env"], **more}}, stdin=subprocess.DEVNULL) as process:
        if after_s is not None:
            time.sleep(after_s)
            process.send_signal(by)
        out, err = process.communicate(timeout=LIMIT_S)
    operations = log.read_text("utf-8").splitlines() if log.exists() else []
    return Ended(process.returncode, out, err, operations)


def command(name: str, *arguments: object, env: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """What `run` takes to start a script, for commands under `attacks`."""
    args = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return {"args": args, "env": dict(env), "cwd": cwd, "text": True, "encoding": "utf-8"}


# --- what is exported -----------------------------------------------------------------------------------------


def fill(server: Server, n: int, *, rows: int = 20, lines: int = 10) -> None:
    """`n` runs with histories (a part of them live), consoles and tables."""
    for number in range(n):
        add_run(server, number, rows=rows, lines=lines)


def add_run(server: Server, number: int, *, rows: int, lines: int) -> None:
    place = (ENTITY, PROJECT, f"run{number:05d}")
    values = seeding.plain_run(number)
    server.add_run(*place, **values)
    live = rows // 5 if values["state"] == "running" else 0
    server.add_history(*place, rows=steps(0, rows - live), live=steps(rows - live, rows))
    server.add_console(*place, seeding.console(number, lines))
    if number % 3 == 0:
        log_table(server, number, 20)


def log_table(server: Server, number: int, rows: int) -> None:
    """Log a table of `rows` rows in place of the one before."""
    place, values = (ENTITY, PROJECT, f"run{number:05d}"), seeding.plain_run(number)
    content = seeding.table(number, rows)
    entry = seeding.table_entry("predictions", content, rows)
    server.add_file(*place, entry["path"], content)
    server.change_run(*place, summary=json.dumps({**values["summary"], "predictions": entry}))


def steps(first: int, end: int) -> list[dict[str, float]]:
    return [{"_step": n, "_runtime": n + 0.5, "_timestamp": 1e9 + n, "loss": n / 3, "acc": n / 7}
            for n in range(first, end)]  # fmt: skip


def change(server: Server, n: int, *, rows: int = 20, lines: int = 10) -> None:
    """What happens between two exports: new runs, more rows and lines, other tables, states and names, deleted runs."""
    for number in range(0, n, 4):
        place = (ENTITY, PROJECT, f"run{number:05d}")
        server.add_history(*place, rows=steps(rows, rows + 5))
        server.add_console(*place, seeding.console(number, 3))
        server.change_run(*place, heartbeat_at="2026-03-01T00:00:00Z", state="finished", display_name=f"again {number}")
    for number in range(0, n, 6):
        log_table(server, number, 7)
    server.delete_run(ENTITY, PROJECT, "run00001")
    for number in range(n, n + max(n // 5, 1)):
        add_run(server, number, rows=rows, lines=lines)


# --- what is left ---------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    """What a user finds in the folder: everything but what an export keeps for itself."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".wandb_tools" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


NOT_COMPARED = {  # other in each export
    *("exported_at", "export_id", "bytes", "sha256", "directory"),
    "files",  # of metadata.json: their names are compared as names of files
}


def content(folder: Path) -> dict[str, Any]:
    """All that two exports of the same runs have in common: names of files, rows, columns, dtypes and metadata."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        is_ours = not any(part.startswith(".") for part in name.parts)  # else it may be unfinished
        if is_ours and file.suffix == ".parquet":
            frame = pl.read_parquet(file, glob=False, hive_partitioning=False)
            texts = pq.read_metadata(file).metadata
            about = {key.decode(): text.decode() for key, text in texts.items() if key.startswith(b"wandb_tools.")}
            frame = frame.drop("exported_at", "source_file", strict=False)
            found[str(name)] = frame, {key: settled(text) for key, text in about.items()}
        elif is_ours and file.suffix == ".json":
            found[str(name)] = settled(file.read_text("utf-8"))
        else:
            found[str(name)] = None
    return found


def settled(text: str) -> object:
    """A JSON text without what differs from export to export, or another text; an id is only there."""

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in NOT_COMPARED}
        return [without(each) for each in value] if isinstance(value, list) else value

    if re.fullmatch("[0-9a-f]{32}", text):
        return "an id"
    return without(json.loads(text)) if text.startswith("{") else text


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of files in which two contents differ."""

    def are_same(left: Any, right: Any) -> bool:
        if not (isinstance(left, tuple) and isinstance(right, tuple)):
            return left == right
        (rows, about), (other_rows, other_about) = left, right
        return about == other_about and rows.schema == other_rows.schema and rows.equals(other_rows)  # NaN equals NaN

    names = sorted({*one, *other})
    return [name for name in names if not (name in one and name in other and are_same(one[name], other[name]))]


def export_ids(folder: Path) -> dict[str, str | None]:
    """What each file of an export says of the export that it belongs to. Every parquet file must be readable."""
    ids: dict[str, str | None] = {}
    for file in sorted(folder.glob("*.parquet")):
        assert pl.read_parquet(file, glob=False).width
        ids[file.name] = pq.read_metadata(file).metadata[b"wandb_tools.export_id"].decode()
    for file in folder.glob("*_metadata.json"):
        ids[file.name] = json.loads(file.read_text("utf-8"))["export_id"]
    return ids
