"""How the tests call export_runs.py, what it exported, and the logs and runs that several of them have."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Done
from log_files import write_log
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SCRIPT = "export_runs.py"
QUICK = ("--timeout", 10, "--retries", 2)  # faults end soon
EXAMPLES = ROOT / "examples" / "offline-runs"
EXAMPLE_LOGS = sorted(EXAMPLES.rglob("*.wandb"))
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
export_runs.import_libraries()


# --- what an export holds -------------------------------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Equal value for value, NaN to NaN; an int is the float of the same value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def paths_of(file: Path) -> dict[tuple[str, ...], str]:
    """Columns by W&B path, as the file says; config and metrics alike."""
    columns = json.loads(pq.read_metadata(file).metadata[b"wandb_tools.columns"])
    return {tuple(path): name for name, path in columns.items()}


def facts_of(file: Path) -> dict[str, dict]:
    return json.loads(pq.read_metadata(file).metadata[b"wandb_tools.metrics"])


class Exported(NamedTuple):
    """The files of one project."""

    runs_file: Path
    history_file: Path
    metadata: dict

    @property
    def runs(self) -> pl.DataFrame:
        return pl.read_parquet(self.runs_file, glob=False)

    @property
    def history(self) -> pl.DataFrame:
        return pl.read_parquet(self.history_file, glob=False)

    @property
    def run(self) -> dict:
        """The only run."""
        return self.runs.row(0, named=True) if self.runs.height == 1 else pytest.fail(f"{self.runs.height} runs")

    def leaves(self, prefix: str) -> dict[tuple[str, ...], object]:
        """The only run's config or metrics by path, without nulls."""
        columns = {path: name for path, name in paths_of(self.runs_file).items() if name.startswith(prefix)}
        assert set(columns.values()) == {name for name in self.runs.columns if name.startswith(prefix)}
        return {path: self.run[name] for path, name in columns.items() if self.run[name] is not None}

    def rows(self) -> list[tuple[int, dict]]:
        """Step and numbers of every history row, without nulls."""
        columns = paths_of(self.history_file)
        assert set(columns.values()) == {name for name in self.history.columns if name.startswith("metric_")}
        return [
            (row["_step"], {path: row[name] for path, name in columns.items() if row[name] is not None})
            for row in self.history.iter_rows(named=True)
        ]


def exported(folder: Path, stem: str) -> Exported:
    metadata = json.loads((folder / f"{stem}_metadata.json").read_text("utf-8"))
    return Exported(folder / f"{stem}_runs.parquet", folder / f"{stem}_history.parquet", metadata)


def snapshot(folder: Path) -> dict[str, bytes]:
    """What a user finds in the folder: everything but what an export keeps for itself."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".wandb_tools" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def without_times(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("exported_at", strict=False)


# --- how it is called -----------------------------------------------------------------------------------------


@pytest.fixture(name="server")
def own_server() -> Iterator[Server]:
    """A server of the test's own, which no other test has asked; `empty_server` starts sooner."""
    with Server() as server:
        yield server


@pytest.fixture(name="out")
def out_folder(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture(name="export")
def export_from_server(call_export, server, tmp_path) -> Callable[..., Done]:
    """Export from the server into `out`."""

    def call(*arguments: object, env: dict[str, str] | None = None) -> Done:
        settings = server.environment(tmp_path / "sdk") | (env or {})
        return call_export("-o", tmp_path / "out", *arguments, env=settings)

    return call


@pytest.fixture(name="export_logs")
def export_of_logs(call_export, tmp_path) -> Callable[..., Done]:
    """Export the logs below `logs` into `out`."""
    return lambda *arguments: call_export("--offline", tmp_path / "logs", "-o", tmp_path / "out", *arguments)


@pytest.fixture(name="start")
def start_export(server, script_command, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start an export and leave it to the test; it is ended with it."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> subprocess.Popen[str]:
        command = script_command(SCRIPT, "-o", tmp_path / "out", *arguments, env=server.environment(tmp_path / "sdk"))
        started.append(subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


# --- files in the output folder -------------------------------------------------------------------------------


@pytest.fixture(name="project")
def project_of_team(tmp_path) -> Callable[[str], Exported]:
    """The files of a project of `team` in `out`."""
    return lambda name: exported(tmp_path / "out", f"team_{name}")


@pytest.fixture(name="demo")
def demo_project(tmp_path) -> Callable[[], Exported]:
    """The files of team/demo in `out`."""
    return lambda: exported(tmp_path / "out", "team_demo")


def metadata_of(out: Path, stem: str = "team_demo") -> dict[str, Any]:
    return json.loads((out / f"{stem}_metadata.json").read_text("utf-8"))


def runs_of(out: Path, stem: str = "team_demo") -> pl.DataFrame:
    return pl.read_parquet(out / f"{stem}_runs.parquet", glob=False)


def history_of(out: Path, stem: str = "team_demo", kind: str = "history") -> pl.DataFrame:
    return pl.read_parquet(out / f"{stem}_{kind}.parquet", glob=False)


def steps_of(out: Path, run_id: str, stem: str = "team_demo") -> list[int]:
    return history_of(out, stem).filter(run_id=run_id)["_step"].to_list()


def rows_of(project: Exported, run_id: str) -> list[tuple[int, dict[Any, Any]]]:
    """Step and numbers of a run's history rows, by path, without nulls."""
    columns = paths_of(project.history_file)
    return [
        (row["_step"], {path: row[name] for path, name in columns.items() if row[name] is not None})
        for row in project.history.filter(pl.col("run_id") == run_id).iter_rows(named=True)
    ]


def ids_of(project: Exported) -> list[str]:
    return project.runs["id"].to_list()


def names_of_failed(project: Exported) -> list[tuple[str, str]]:
    return [(failure["run"], failure["what"]) for failure in project.metadata["failed"]]


def repr_of(row: dict[Any, float]) -> dict[Any, str]:
    """Numbers comparable where NaN stands: as text; an int is the float of its value."""
    return {name: repr(float(value)) for name, value in row.items()}


# --- runs on a server -----------------------------------------------------------------------------------------


def rows_at(numbers: Iterable[int], **more: float) -> list[dict[str, float]]:
    """Rows of these steps; the loss is a third of the step."""
    return [{"_step": step, "_runtime": step + 0.5, "_timestamp": 1e9 + step, "loss": step / 3, **more}
            for step in numbers]  # fmt: skip


def add_run(server: Server, project: str, run_id: str, rows: int = 5, **values: Any) -> None:
    server.add_run("team", project, run_id, summary={"loss": 1.0}, **values)
    server.add_history("team", project, run_id, rows=rows_at(range(rows)))


def add_runs(server: Server, **groups: str) -> None:
    """A run of five history rows for each name, in its group."""
    for run_id, group in groups.items():
        server.add_run("team", "demo", run_id, group=group, summary={"a/x": 4.5})
        rows = [{"_step": step, "a/x": step + 0.5, "b/y": step, "note": "text"} for step in range(5)]
        server.add_history("team", "demo", run_id, rows=rows)


def log(steps: list[int], **values: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Rows of these steps; each value is made of its step."""
    rows = [{"_step": step, "_runtime": step + 0.5, "_timestamp": 1.0e9 + step} for step in steps]
    return [row | {name: value(row["_step"]) for name, value in values.items()} for row in rows]


def add_logged_runs(server: Server, project: str, ids: Iterable[str], rows: int = 5) -> None:
    for run_id in ids:
        server.add_run("team", project, run_id, tags=["old"], config={"id": run_id}, summary={"loss": 1})
        server.add_history("team", project, run_id, rows=log(list(range(rows)), loss=float, acc=lambda s: s / 10))


def logged(steps: int, *metrics: str) -> list[tuple[int, dict]]:
    values: dict[str, Callable[[int], float]] = {"loss": float, "acc": lambda step: step / 10}
    return [(step, {(name,): values[name](step) for name in metrics}) for step in range(steps)]


def asked_for(server: Server) -> set[str]:
    """Ids of the runs whose histories were asked for or downloaded since the last reset."""
    asked = [r for r in server.requests() if r["kind"] == "download" or "parquetHistory" in r["fields"]]
    return {run_id for request in asked for run_id in request["runs"]}


def write_parquet(file: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


NODE = ("data", "project", "runs", "edges", 0, "node")


# --- logs -----------------------------------------------------------------------------------------------------

ROW_TEXTS = [{"loss": str(1 / (step + 1)), "note": '"text"'} for step in range(400)]


@pytest.fixture(name="logs")
def two_logs(tmp_path) -> Path:
    """Two good logs of team/demo."""
    folder = tmp_path / "logs"
    for number in range(2):
        write_log(folder, f"good{number}", rows=ROW_TEXTS, entity="team", project="demo", summary={"loss": "0.5"})
    return folder


def log_rows(count: int) -> list[dict[str, str]]:
    return [{"loss": str(step / 3)} for step in range(count)]


def add_log(folder: Path, run_id: str, rows: int = 2, **values: object) -> Path:
    place = {"entity": "team", "project": "demo"}
    return write_log(folder / "logs", run_id, rows=[{"loss": "1"}] * rows, **place | values)


@pytest.fixture(name="earlier")
def earlier_export(tmp_path, call_export) -> Path:
    """An export of the runs `a` and `b`; then `b` is gone and `c` is new, with names and types that clash."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    write_log(logs, "a", rows=[{"train/loss": "1"}], config={"lr": "1", "x/y": "1"}, summary={"train/loss": "1"})
    gone = write_log(
        logs, "b", rows=[{"train/loss": "7", "only b": "3"}] * 2, config={"lr": "2"}, summary={"only b": "3"}
    )
    assert call_export("--offline", logs, "-o", out, "--include-history").code == 0
    shutil.rmtree(gone.parent)
    write_log(
        logs, "c", rows=[{"train_loss": "0.5"}], config={"lr": '"1e-3"', "x": '{"y": 2}'}, summary={"train_loss": "0.5"}
    )
    return out


WITH_HISTORY = export_runs.parse_args(["--offline", "logs", "--include-history"])


def read_alone(file: Path, folder: Path) -> export_runs.Log:
    (log,) = export_runs.read_logs([file], folder, WITH_HISTORY)
    return log


def rows_alone(log: export_runs.Log) -> list[dict[str, float]]:
    """The history of a log that was read alone, without nulls."""
    frames = [pl.read_parquet(part.file, glob=False) for part in log.rows["history"].parts]
    rows = [row for frame in frames for row in frame.drop("run_id").iter_rows(named=True)]
    path = re.compile(r"(?<=\])\w+$")  # what stands behind it is a dtype
    return [{path.sub("", name): value for name, value in row.items() if value is not None} for row in rows]


# --- processes ------------------------------------------------------------------------------------------------


def command_line(process: int) -> bytes:
    with suppress(OSError):  # it may have ended
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def children_of(process: int) -> list[int]:
    children: list[str] = []
    for each in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the thread may have ended
            children += each.read_text().split()
    return list(map(int, children))


def error_line(done: Done) -> str:
    """The only line that a failed call prints, without its beginning."""
    lines = done.err.splitlines()
    assert (len(lines), done.out) == (1, ""), done
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=30)  # a default wait for the server would be longer
    return Done(process.returncode, out, err)
