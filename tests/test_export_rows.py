"""Console lines, W&B Tables and system metrics: from a server, from logs of every age, and the same from both."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import LIMIT_S, Done, finished_runs, running, wait_until
from exports import export_of_logs, out_folder  # noqa: F401 - fixtures
from log_files import START, log_of, records_of, write_log
from old_sdks import record
from test_old_sdks import FOLDERS, TRUTHS, records

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_server import Server

QUICK = ("--timeout", 10, "--retries", 1)  # faults end soon
TIME = "2026-01-01T00:00:01.5"
AT = datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
LATER = "2026-02-01T00:00:00Z"
CONSOLE = {"run_id": pl.String, "entity": pl.String, "project": pl.String, "line": pl.Int64,
           "time": pl.Datetime("us", "UTC"), "stream": pl.String, "text": pl.String}  # fmt: skip


@pytest.fixture
def server(empty_server) -> Server:
    empty_server.configure(line_limit=10_000)
    return empty_server


@pytest.fixture
def export(call_export, server, tmp_path, out) -> Callable[..., Done]:
    """Export from the server into `out`."""

    def call(*arguments: object) -> Done:
        how = ("-e", "team", "-o", out, *QUICK)
        return call_export(*how, *arguments, env=server.environment(tmp_path / "sdk"))

    return call


def table_of(out: Path, kind: str, stem: str = "team_demo") -> pl.DataFrame:
    return pl.read_parquet(out / f"{stem}_{kind}.parquet", glob=False)


def failed(out: Path, stem: str = "team_demo") -> list[tuple[str, str]]:
    document = json.loads((out / f"{stem}_metadata.json").read_text("utf-8"))
    assert document["status"] == ("partial" if document["failed"] else "complete")
    return sorted((failure["run"], failure["what"]) for failure in document["failed"])


def lines_of(out: Path, run_id: str, *columns: str, stem: str = "team_demo") -> list[Any]:
    rows = table_of(out, "console", stem).filter(pl.col("run_id") == run_id).select(columns or ("line", "text"))
    return rows.to_series().to_list() if len(columns) == 1 else rows.rows()


def of_run(frame: pl.DataFrame, run_id: str) -> pl.DataFrame:
    return frame.filter(pl.col("run_id") == run_id)


def filled_rows(frame: pl.DataFrame, run_id: str) -> list[dict[str, Any]]:
    """A run's rows without nulls."""
    rows = of_run(frame, run_id).drop("run_id", "entity", "project").iter_rows(named=True)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def asked(server: Server, field: str) -> list[list[str]]:
    """The ids of the runs in each question with that field."""
    return [request["runs"] for request in server.requests(kind="graphql") if field in request["fields"]]


def plain(number: int, count: int) -> list[str]:
    return [f"{TIME} run {number} line {line}" for line in range(count)]


def add_console(server: Server, run_id: str, lines: list[str], **values: Any) -> None:
    server.add_run("team", "demo", run_id, **values)
    server.add_console("team", "demo", run_id, lines)


# --- consoles from a server -----------------------------------------------------------------------------------

ODD_LINES = [  # as the server has them, and what is exported: time, stream, text
    (f"{TIME} hello", AT, "stdout", "hello"),
    (f"ERROR {TIME} no such file", AT, "stderr", "no such file"),
    (f"{TIME} ERROR in the text", AT, "stdout", "ERROR in the text"),
    ("a line of an old SDK", None, "stdout", "a line of an old SDK"),
    (f"{TIME}   indented, and blanks behind   ", AT, "stdout", "  indented, and blanks behind"),
    (f"{TIME} \x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[1Aup", AT, "stdout", "red up"),
    (f"{TIME} \x1b7\x1b[>4;1m\x1b(Bplain\x0f \x1b[38:2:255:0:0mred\x1b[m", AT, "stdout", "plain red"),
    (f"{TIME} 10%\b\b\b20%\b\b\b\b\b30", AT, "stdout", "30%"),
    (f"{TIME}   0%\r 50%\r100% done", AT, "stdout", "100% done"),
    (f"{TIME} long long\rsho", AT, "stdout", "shog long"),
    (f"{TIME} ends\r", AT, "stdout", "ends"),
    (f"{TIME} ", AT, "stdout", ""),
    (f"{TIME}Z in UTC", AT, "stdout", "in UTC"),
    ("2026-01-01T02:00:01.500000123+02:00 in another zone", AT, "stdout", "in another zone"),
    ("2026-01-01T00:00:01 whole", AT.replace(microsecond=0), "stdout", "whole"),
    ("2026-01-01T25:00:01 no time", None, "stdout", "no time"),
    ("0001-01-01T00:00:00+02:00 before year 1", None, "stdout", "before year 1"),
    ("9999-12-31T23:59:59-05:00 after year 9999", None, "stdout", "after year 9999"),
    (f"{TIME} tab\there, größe 🚀, =1+1", AT, "stdout", "tab\there, größe 🚀, =1+1"),
]


def test_consoles_value_for_value(server, export, out):
    """25 runs need two questions, and pages of 7 lines some more; what has not changed is asked for no more."""
    expected = {"odd": [(number, *line[1:]) for number, line in enumerate(ODD_LINES)], "empty": []}
    add_console(server, "odd", [line[0] for line in ODD_LINES])
    add_console(server, "empty", [])
    for number in range(23):
        run_id, count = f"r{number:02d}", number % 9
        add_console(server, run_id, plain(number, count))
        expected[run_id] = [(line, AT, "stdout", f"run {number} line {line}") for line in range(count)]
    server.configure(line_limit=7)
    done = export("--console", "--json")
    assert done.code == 0, done.err
    console = table_of(out, "console")
    assert dict(console.schema) == CONSOLE
    assert console.equals(console.sort("run_id", "line"))
    assert console.select("entity", "project").unique().rows() == [("team", "demo")]
    for run_id, lines in expected.items():
        assert lines_of(out, run_id, "line", "time", "stream", "text") == lines, run_id
    assert str(out / "team_demo_console.parquet") in json.loads(done.out)["files"]

    server.reset()
    assert export("--console").code == 0
    assert asked(server, "logLines") == []
    assert table_of(out, "console").equals(console)
    server.add_console("team", "demo", "empty", plain(0, 2))
    server.change_run("team", "demo", "empty", heartbeat_at=LATER)
    assert export("--console").code == 0
    assert asked(server, "logLines") == [["empty"]]
    assert lines_of(out, "empty", "text") == ["run 0 line 0", "run 0 line 1"]
    assert table_of(out, "console").filter(pl.col("run_id") != "empty").equals(console)


def test_tails_never_undo_what_is_there(server, export, out):
    for number in range(45):
        add_console(server, f"r{number:02d}", plain(number, 30))
    assert export("--console-lines", 5).code == 0
    assert len(asked(server, "logLines")) <= 45 / 2
    assert table_of(out, "console").height == 45 * 5
    assert lines_of(out, "r07") == [(line, f"run 7 line {line}") for line in range(25, 30)]
    server.reset()
    assert export("--console-lines", 5).code == 0
    assert asked(server, "logLines") == []

    assert export("--console").code == 0
    assert lines_of(out, "r07") == [(line, f"run 7 line {line}") for line in range(30)]
    full = table_of(out, "console")
    server.reset()
    for run_id in ("r07", "r08"):
        server.add_console("team", "demo", run_id, [f"{TIME} late"])
    server.change_run("team", "demo", "r07", heartbeat_at=LATER)
    server.change_run("team", "demo", "r08", heartbeat_at=LATER)
    add_console(server, "new", plain(0, 30))
    assert export("--console-lines", 5).code == 0
    assert sorted(run_id for runs in asked(server, "logLines") for run_id in runs) == ["new", "r07", "r08"]
    assert table_of(out, "console").filter(pl.col("run_id") != "new").equals(full)
    assert lines_of(out, "new", "line") == [25, 26, 27, 28, 29]
    server.reset()
    assert export("--console").code == 0
    assert sorted(run_id for runs in asked(server, "logLines") for run_id in runs) == ["new", "r07", "r08"]
    assert lines_of(out, "r08", "text")[-1] == "late"
    assert lines_of(out, "new", "line") == [*range(30)]


def test_a_tail_that_the_server_cuts_is_completed(server, export, out):
    add_console(server, "long", plain(0, 30))
    add_console(server, "short", plain(1, 4))
    server.configure(line_limit=3)
    assert export("--console-lines", 5).code == 0
    assert lines_of(out, "long", "line") == [25, 26, 27, 28, 29]
    assert lines_of(out, "short", "line") == [0, 1, 2, 3]


def test_a_page_of_lines_that_ends_early_is_not_the_last_one(server, export, out):
    """W&B says so where a page is cut short, in the middle of a log; the number of its lines tells better."""
    add_console(server, "a", plain(0, 7))
    server.configure(line_budget=3)
    assert export("--console").code == 0
    assert lines_of(out, "a", "line") == [*range(7)]


def test_a_line_that_the_server_leaves_out_is_noticed(server, export, out):
    add_console(server, "a", plain(0, 5))
    place = ["data", "project", "r0", "logLines", "edges"]
    edges = [
        {"node": {"number": n, "timestamp": None, "level": None, "line": str(n)}, "cursor": "x"} for n in range(1, 5)
    ]
    server.fault("replace", match={"field": "logLines"}, place=place, value=json.dumps(edges))
    assert export("--console").code == 3
    assert failed(out) == [("a", "console")]
    assert lines_of(out, "a", "line") == [1, 2, 3, 4]


@pytest.mark.parametrize(("lines", "flags", "code"), [(5, [], 0), (9, ["--console-lines", 5], 0), (9, [], 3)])
def test_a_server_that_reads_lines_from_the_end_alone(server, export, out, lines, flags, code):
    """W&B before 0.77."""
    add_console(server, "a", plain(0, lines))
    server.configure(improved_pagination=False, line_limit=5)
    done = export(*(flags or ["--console"]))
    assert done.code == code, done.err
    assert lines_of(out, "a", "line") == ([] if code else [*range(lines)][-5:])
    assert ("use --console-lines" in done.err) == bool(code)


def test_a_line_without_text_is_an_empty_one(server, export, out):
    add_console(server, "a", plain(0, 3))
    place = ["data", "project", "r0", "logLines", "edges", 1, "node", "line"]
    server.fault("replace", match={"field": "logLines"}, place=place, value="null")
    assert export("--console").code == 0
    assert [text == "" for text in lines_of(out, "a", "text")] == [False, True, False]


def test_what_no_run_has_is_said(server, export):
    server.add_run("team", "demo", "a")
    done = export("--console", "--system-metrics")
    assert done.code == 0
    assert done.err.startswith("these runs have no console output, no system metrics\n")
    add_console(server, "b", plain(0, 10))
    for _ in range(2):  # the second time from the earlier export
        done = export("--console")
        assert done.code == 0
        assert "no console output" not in done.err


def test_a_console_that_fails_costs_itself_alone(server, export, out):
    for number, run_id in enumerate(("good", "error", "middle", "null")):
        add_console(server, run_id, plain(number, 10))
    server.configure(line_limit=4)
    server.fault("error", match={"field": "logLines", "run": "error"}, message="no console today")
    server.fault("null", match={"field": "logLines", "run": "null"})
    server.fault("null", match={"field": "logLines", "run": "middle"}, after=1)
    done = export("--console")
    assert done.code == 3, done.err
    assert failed(out) == [(run_id, "console") for run_id in ("error", "middle", "null")]
    assert "error: error: console: no console today" in done.err
    assert set(table_of(out, "console")["run_id"]) == {"good"}
    assert table_of(out, "runs").height == 4
    server.reset()
    assert export("--console").code == 0
    assert {run_id for runs in asked(server, "logLines") for run_id in runs} == {"error", "middle", "null"}
    assert failed(out) == []
    for run_id in ("good", "error", "middle", "null"):
        assert len(lines_of(out, run_id)) == 10

    # Later the same failures take nothing away.
    full = table_of(out, "console")
    for run_id in ("error", "middle", "null"):
        server.change_run("team", "demo", run_id, heartbeat_at=LATER)
    server.fault("error", match={"field": "logLines", "run": "error"})
    server.fault("null", match={"field": "logLines", "run": "null"})
    server.fault("null", match={"field": "logLines", "run": "middle"}, after=1)
    assert export("--console").code == 3
    assert table_of(out, "console").equals(full)


def test_consoles_of_runs_that_have_gone(server, export, out):
    for number, run_id in enumerate("ab"):
        add_console(server, run_id, plain(number, 3))
    assert export("--console").code == 0
    server.delete_run("team", "demo", "a")
    assert export().code == 0
    assert set(table_of(out, "console")["run_id"]) == {"a", "b"}
    assert export("--prune").code == 0
    assert set(table_of(out, "console")["run_id"]) == {"b"}


def test_an_interrupted_export_goes_on_with_the_consoles_that_are_left(server, script_command, export, tmp_path, out):
    for number in range(80):
        add_console(server, f"r{number:02d}", plain(number, 3))
    hang = server.fault("hang", match={"field": "logLines", "run": "r45"})
    how = ("export_runs.py", "-e", "team", "-o", out, "--console", "--workers", 1)
    command = script_command(*how, env=server.environment(tmp_path / "sdk"))
    with running(command) as process:
        server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
        wait_until(lambda: len(finished_runs(out)) >= 40)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT_S) == ("", "interrupted: to continue, run the same command again\n")
    assert process.returncode == 130
    left = {f"r{number:02d}" for number in range(80)} - finished_runs(out)
    assert "r45" in left
    server.reset()
    assert export("--console").code == 0
    assert {run_id for runs in asked(server, "logLines") for run_id in runs} == left
    assert table_of(out, "console").group_by("run_id").len()["len"].to_list() == [3] * 80


# --- tables from a server -------------------------------------------------------------------------------------


def entry_of(key: str, number: int = 0) -> dict[str, Any]:
    name = re.sub(r"\W", "_", key)[:50]
    return {"_type": "table-file", "path": f"media/table/{name}_{number}_x.table.json", "nrows": 1, "ncols": 1}


def add_table(server: Server, run_id: str, key: str, columns: list, rows: list, project: str = "demo") -> None:
    """A run whose summary names a table, and the table's file."""
    entry = entry_of(key)
    server.add_run("team", project, run_id, summary={key: entry, "loss": 1})
    server.add_file("team", project, run_id, entry["path"], json.dumps({"columns": columns, "data": rows}))


def rows_as_text(frame: pl.DataFrame) -> list[str]:
    """Rows that compare equal where NaN stands."""
    return [repr(row) for row in frame.rows()]


@pytest.mark.parametrize("others", [(), ("full",)])
def test_a_table_without_rows_has_its_columns(server, export, out, others):
    add_table(server, "none", "cells", ["epoch", "err"], [])
    for run_id in others:
        add_table(server, run_id, "cells", ["epoch", "more"], [[1, "x"]])
    for _ in range(2):  # the second time from the earlier file
        assert export("--tables").code == 0
        table = table_of(out, "table_cells")
        assert table.height == len(others)
        assert {*table.columns[4:]} == {"epoch", "err", *(["more"] * len(others))}
        assert table.schema["err"] == pl.String


def test_numbers_in_a_column_of_text_are_spelt_as_they_were_logged(server, export, out):
    """Also whole numbers that shared an intermediate file with fractions."""
    values = [1, 0.5, 2, True, "x", None, 3, 1e-7, 4]
    for number, value in enumerate(values):
        add_table(server, f"r{number}", "cells", ["cell"], [[value]])
    assert export("--tables", "--workers", 1).code == 0
    assert table_of(out, "table_cells")["cell"].to_list() == ["1", "0.5", "2", "true", "x", None, "3", "1e-07", "4"]


def test_a_table_that_every_run_logged_anew_has_no_columns_of_before(server, export, out):
    add_table(server, "one", "cells", ["old", "n"], [[1, 2]])
    assert export("--tables").code == 0
    entry = entry_of("cells", 1)
    server.add_file("team", "demo", "one", entry["path"], '{"columns": ["n"], "data": [[3]]}')
    server.change_run("team", "demo", "one", summary=json.dumps({"cells": entry}))
    assert export("--tables").code == 0
    assert table_of(out, "table_cells").columns[4:] == ["n"]


def test_tables_value_for_value(server, export, out):
    image = {"_type": "image-file", "path": "media/images/1.png"}
    columns = ["text", "n", "score", "image", "ok", "nothing", "z", "a"]
    rows = [
        ["a", 1, 0.5, image, True, None, 1, 2],
        [None, None, math.nan, None, None, None, 3, 4],
        ["c", 3, math.inf, [1, 2], False, None, 5, 6],
    ]
    add_table(server, "one", "cells", columns, rows)
    add_table(server, "two", "cells", ["n", "score", "more"], [[4, 1, "x"]])
    server.add_run("team", "demo", "none", summary={"loss": 1})
    done = export("--tables", "--json")
    assert done.code == 0, done.err
    table = table_of(out, "table_cells")
    assert table.columns == ["run_id", "entity", "project", "row", *columns, "more"]
    dtypes = [pl.String, pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.String, pl.Int64, pl.Int64, pl.String]
    assert table.dtypes[3:] == [pl.Int64, *dtypes]
    picture = json.dumps(image)
    assert rows_as_text(table.drop("entity", "project")) == [
        repr(row)
        for row in [
            ("one", 0, "a", 1, 0.5, picture, True, None, 1, 2, None),
            ("one", 1, None, None, math.nan, None, None, None, 3, 4, None),
            ("one", 2, "c", 3, math.inf, "[1, 2]", False, None, 5, 6, None),
            ("two", 0, None, 4, 1.0, None, None, None, None, None, "x"),
        ]
    ]
    assert str(out / "team_demo_table_cells.parquet") in json.loads(done.out)["files"]
    assert not [r for r in server.requests(service="storage") if r["authorization"]]

    # Again: only a run whose summary names another file is asked for.
    server.reset()
    assert export("--tables").code == 0
    assert (asked(server, "files"), server.counts().get("download", 0)) == ([], 0)
    assert rows_as_text(table_of(out, "table_cells")) == rows_as_text(table)
    entry = entry_of("cells", 1)
    server.add_file("team", "demo", "two", entry["path"], '{"columns": ["n"], "data": [[5], [6]]}')
    server.change_run("team", "demo", "two", summary=json.dumps({"cells": entry}))
    assert export("--tables").code == 0
    assert asked(server, "files") == [["two"]]
    table = table_of(out, "table_cells").filter(pl.col("run_id") == "two")
    assert table["n"].to_list() == [5, 6]
    assert table_of(out, "table_cells").columns[4:] == [*columns, "more"]  # of what the file had


def test_dtypes_settle_over_runs(server, export, out):
    """Each column differs from run to run, whatever the order in which they came."""
    columns = ["int_float", "int_text", "flag_text", "float_text", "empty_int", "flag_int"]
    add_table(server, "a", "t", columns, [[1, 1, True, 0.5, None, True]])
    add_table(server, "b", "t", columns, [[2.5, "x", "x", "x", None, 2]])
    assert export("--tables").code == 0
    add_table(server, "c", "t", columns, [[math.nan, None, None, math.nan, 7, None], [None, 2**60, False, 1, 8, False]])
    assert export("--tables").code == 0
    table = table_of(out, "table_t")
    assert dict(zip(columns, table.dtypes[4:], strict=True)) == {
        "int_float": pl.Float64, "int_text": pl.String, "flag_text": pl.String, "float_text": pl.String,
        "empty_int": pl.Int64, "flag_int": pl.String,
    }  # fmt: skip
    assert repr(table["int_float"].to_list()) == "[1.0, 2.5, nan, None]"
    assert table["int_text"].to_list() == ["1", "x", None, str(2**60)]
    assert table["flag_text"].to_list() == ["true", "x", None, "false"]
    assert table["float_text"].to_list() == ["0.5", "x", "NaN", "1.0"]
    assert table["empty_int"].to_list() == [None, None, 7, 8]
    assert table["flag_int"].to_list() == ["true", "2", None, "false"]


def test_nan_beside_text_of_one_run(server, export, out):
    """Spelt as if the text came from another run."""
    add_table(server, "a", "t", ["cell"], [[math.nan], ["x"], [-math.inf], [1.5]])
    assert export("--tables").code == 0
    assert table_of(out, "table_t")["cell"].to_list() == ["NaN", "x", "-Infinity", "1.5"]


def test_columns_and_keys_with_any_name(server, export, out):
    columns = ["run_id", "row", "Entity", "a/b", "a b", "n", "n", 5]
    add_table(server, "a", "cells", columns, [["x", 7, "y", 1, 2, 3, 4, 6]])
    keys = ["eval/cells", "~größe: *?", "../../up", "." * 20, "x" * 300, "x" * 299 + "y", "../../UP"]
    summary = {key: entry_of(key, number) for number, key in enumerate(keys)}
    summary |= {"nested": {"cells": entry_of("nested", 9)}}
    server.add_run("team", "demo", "b", summary=summary)
    for number, entry in enumerate([*summary.values()][:-1]):
        server.add_file("team", "demo", "b", entry["path"], json.dumps({"columns": ["key"], "data": [[number]]}))
    server.add_file("team", "demo", "b", entry_of("nested", 9)["path"], '{"columns": ["key"], "data": [[9]]}')
    done = export("--tables")
    assert done.code == 0, done.err
    table = table_of(out, "table_cells")
    paths = json.loads(pq.read_metadata(out / "team_demo_table_cells.parquet").metadata[b"wandb_tools.columns"])
    assert table.columns[:4] == ["run_id", "entity", "project", "row"]
    assert [paths[name] for name in table.columns[4:]] == [
        ["run_id"], ["row"], ["Entity"], ["a/b"], ["a b"], ["n"], ["n", "6"], ["5"]
    ]  # fmt: skip
    assert [re.sub("__[0-9a-f]{8}$", "#", name) for name in table.columns[4:]] == [
        "run_id#", "row#", "Entity#", "a_b#", "a_b#", "n", "n_6", "5",
    ]  # fmt: skip
    assert table.row(0)[4:] == ("x", 7, "y", 1, 2, 3, 4, 6)

    files = sorted(out.parent.rglob("*.parquet"))
    assert {file.parent for file in files} == {out}
    assert all(re.fullmatch(r"[A-Za-z0-9._%-]{1,200}", file.name) for file in files)
    assert table_of(out, "table_eval%2Fcells")["key"].to_list() == [0]
    assert table_of(out, "table_nested.cells")["key"].to_list() == [9]
    values = [pl.read_parquet(file, glob=False).to_dicts() for file in files if "_table_" in file.name]
    assert sorted(rows[0]["key"] for rows in values if "key" in rows[0]) == [0, 1, 2, 3, 4, 5, 6, 9]
    assert len({file.name.lower() for file in files}) == len(files)
    server.reset()
    assert export("--tables").code == 0
    assert asked(server, "files") == []


def test_a_tables_file_is_never_another_projects(server, export, out):
    """The file of `demo`'s table `runs` would be called like the runs file of `demo_table`, and so on."""

    def found() -> dict[tuple[str, str], set[str]]:
        owners: dict[tuple[str, str], set[str]] = {}
        for file in out.glob("*.parquet"):
            frame = pl.read_parquet(file, glob=False)
            kind = "runs" if "id" in frame.columns else "table"
            owners.setdefault((frame["project"][0], kind), set()).add(file.name)
        return owners

    for key in ("runs", "x_table_k"):
        add_table(server, f"of-{key}", key, ["n"], [[1]])
    for project in ("demo_table", "demo_table_x"):
        add_table(server, "r", "k", ["n"], [[2]], project)
    assert export("--tables").code == 0  # all at once
    first = found()
    assert {place: len(files) for place, files in first.items()} == {
        ("demo", "runs"): 1, ("demo", "table"): 2, ("demo_table", "runs"): 1, ("demo_table", "table"): 1,
        ("demo_table_x", "runs"): 1, ("demo_table_x", "table"): 1,
    }  # fmt: skip
    assert export("--tables").code == 0
    assert found() == first
    shutil.rmtree(out)
    for project in ("demo", "demo_table", "demo_table_x", "demo"):  # one after the other
        assert export("-p", project, "--tables").code == 0
    later = found()
    assert {place: len(files) for place, files in later.items()} == {
        place: len(files) for place, files in first.items()
    }
    for project in ("demo_table_x", "demo_table", "demo"):
        assert export("-p", project, "--tables").code == 0
    assert found() == later


def test_a_table_that_cannot_be_had_costs_itself_alone(server, export, out):
    for run_id in ("good", "once", "cut", "missing", "damaged", "ragged", "no-rows", "text", "null", "gone"):
        add_table(server, run_id, "cells", ["n"], [[1], [2]])
    path = entry_of("cells")["path"]
    for run_id, content in (
        ("damaged", '{"columns": ["n"], "data": [[1], }'),
        ("ragged", '{"columns": ["n"], "data": [[1], 2]}'),
        ("no-rows", '{"columns": ["n"]}'),
        ("text", "no json}"),
    ):
        server.add_file("team", "demo", run_id, path, content)
    del server.run("team", "demo", "missing").files[path]
    server.fault("truncate", match={"kind": "download", "run": "once"}, times=1)
    server.fault("truncate", match={"kind": "download", "run": "cut"})
    server.fault("status", match={"kind": "download", "run": "gone"}, status=404)
    server.fault("null", match={"field": "files", "run": "null"})
    done = export("--tables")
    assert done.code == 3, done.err
    bad = ["cut", "damaged", "gone", "missing", "no-rows", "null", "ragged", "text"]
    assert failed(out) == [(run_id, "table_cells") for run_id in bad]
    assert "error: missing: table_cells: its file does not exist" in done.err
    assert f"error: ragged: table_cells: its file {path} cannot be read: its rows do not fit its columns" in done.err
    assert "signature=" not in done.err + (out / "team_demo_metadata.json").read_text()
    assert table_of(out, "table_cells").select("run_id", "n").rows() == [
        ("good", 1), ("good", 2), ("once", 1), ("once", 2),
    ]  # fmt: skip
    server.reset()
    for run_id in bad:
        server.add_file("team", "demo", run_id, path, '{"columns": ["n"], "data": [[3]]}')
    assert export("--tables").code == 0
    assert sorted(run_id for runs in asked(server, "files") for run_id in runs) == bad
    assert table_of(out, "table_cells").height == 4 + len(bad)


@pytest.mark.parametrize("kind", ["joined-table", "partitioned-table"])
def test_a_table_of_several_files_is_named(server, export, out, kind):
    entry = {**entry_of("cells"), "_type": kind} if kind != "partitioned-table" else {"_type": kind, "parts_path": "x"}
    server.add_run("team", "demo", "parts", summary={"cells": entry})
    add_table(server, "whole", "cells", ["n"], [[1]])
    done = export("--tables")
    assert (done.code, failed(out)) == (3, [("parts", "table_cells")])
    assert "error: parts: table_cells: it is not one file of the run" in done.err
    assert table_of(out, "table_cells").select("run_id", "n").rows() == [("whole", 1)]


CELLS = [[[0], [1]], [[2]], [[3], [math.nan]]]  # of three increments


def incremental(rows: int = 5) -> dict[str, Any]:
    """What a summary says of an incremental table: its last rows are in a file, those before in artifacts."""
    paths = [f"wandb-client-artifact://part{number}/{number}-17.cells.table.json" for number in range(2)]
    entry = {**entry_of("cells", 100), "_type": "incremental-table-file", "nrows": rows, "increment_num": 2}
    return entry | {"artifact_path": "wandb-client-artifact://part2/x", "previous_increments_paths": paths}


def add_increments(server: Server, numbers: list[int], columns: tuple[str, ...] = ("n",), **changes: Any) -> None:
    """The file of the last increment, and these artifacts. Another table logged files under the same key."""
    server.add_run("team", "demo", "a", summary={"cells": incremental() | changes})
    for step in (99, 100, 101):
        cells = CELLS[2] if step == 100 else [["of another table"]]
        server.add_file(
            "team", "demo", "a", entry_of("cells", step)["path"], json.dumps({"columns": ["n"], "data": cells})
        )
    for number in numbers:
        content = json.dumps({"columns": columns, "data": CELLS[number]})
        server.add_artifact("team", "demo", f"part{number}", {f"{number}-17.cells.table.json": content})


def test_an_incremental_table_is_read_from_all_its_files(server, export, out):
    add_increments(server, [1, 0])
    done = export("--tables")
    assert done.code == 0, done.err
    assert repr(table_of(out, "table_cells")["n"].to_list()) == "[0.0, 1.0, 2.0, 3.0, nan]"
    assert table_of(out, "table_cells")["row"].to_list() == [*range(5)]


def test_increments_are_downloaded_again_where_that_fails(server, export, out):
    """Each by itself."""
    add_increments(server, [0, 1])
    server.fault("truncate", match={"kind": "download", "path": "/artifacts/"}, times=1)
    assert export("--tables").code == 0
    assert (server.counts()["download"], table_of(out, "table_cells").height) == (4, 5)


@pytest.mark.parametrize(
    ("numbers", "columns", "error"),
    [
        ([0], ("n",), "table_cells: its increments cannot be read: it does not exist"),
        ([0, 1], ("m",), "its increments have different columns"),
    ],
)
def test_an_incremental_table_that_cannot_be_read_whole_is_named(server, export, out, numbers, columns, error):
    add_increments(server, numbers, columns)
    add_table(server, "whole", "cells", ["n"], [[1]])
    done = export("--tables")
    assert (done.code, failed(out)) == (3, [("a", "table_cells")])
    assert error in done.err
    assert table_of(out, "table_cells").height == 1


def test_an_incremental_table_with_fewer_rows_than_it_says_is_named(server, export, out):
    add_increments(server, [0, 1], nrows=9)
    done = export("--tables")
    assert (done.code, failed(out)) == (3, [("a", "table_cells")])
    assert "only 5 of 9 rows were downloaded" in done.err


def test_one_more_increment_is_read_though_the_last_file_is_the_same(server, export, out):
    """Its name is made of the step and the content."""
    add_increments(server, [0, 1], previous_increments_paths=incremental()["previous_increments_paths"][:1], nrows=4)
    assert export("--tables").code == 0
    assert table_of(out, "table_cells").height == 4
    add_increments(server, [])
    assert export("--tables").code == 0
    assert table_of(out, "table_cells").height == 5


def test_a_plain_table_after_an_incremental_one_stands_alone(server, export, out):
    """Its entry in the summary keeps the list of increments."""
    add_increments(server, [0, 1], _type="table-file", nrows=2)
    assert export("--tables").code == 0
    assert repr(table_of(out, "table_cells")["n"].to_list()) == "[3.0, nan]"


@pytest.mark.parametrize("value", [None, "x", 5, {}])
def test_an_incremental_table_without_a_list_of_its_increments_is_named(server, export, out, value):
    add_increments(server, [0, 1], previous_increments_paths=value)
    assert (export("--tables").code, failed(out)) == (3, [("a", "table_cells")])


def test_a_list_of_tables_is_named(server, export, out):
    server.add_run("team", "demo", "a", summary={"cells": [entry_of("cells")]})
    assert export("--tables").code == 3
    assert failed(out) == [("a", "table_cells")]


LONG = [[n, math.nan if n % 2 else n / 2, f"t{n}", "Image", [n]] for n in range(12_000)]
LONG_COLUMNS = ["n", "score", "text", "picture", "array"]


def add_long_table(server: Server, rows: int, address: str, columns=LONG_COLUMNS) -> str:
    """A run with a table of 12,000 rows, as the SDK leaves it: its first rows in a file, `rows` in an artifact.

    There, NaN and arrays are null, and media cells are objects. Returns the artifact's id.
    """
    entry = {**entry_of("cells"), "nrows": len(LONG), "artifact_path": address}
    server.add_run("team", "demo", "a", summary={"cells": entry})
    file = json.dumps({"columns": LONG_COLUMNS, "data": LONG[:10_000]})
    server.add_file("team", "demo", "a", entry["path"], file)
    cells = [[n, None if math.isnan(x) else x, text, {"_type": "image-file"}, None] for n, x, text, *_ in LONG[:rows]]
    files = {"x y/cells.table.json": json.dumps({"columns": columns, "data": cells}), "media/1.png": ""}
    return server.add_artifact("team", "demo", "client", files)


@pytest.mark.parametrize("scheme", ["wandb-client-artifact", "wandb-artifact"])
def test_a_long_table_is_completed_from_its_artifact(server, export, out, scheme):
    """The SDK writes 10,000 rows at most to the run's file. What the artifact lacks of these is taken from there."""
    artifact_id = add_long_table(server, len(LONG), "")
    owner = "client" if "client" in scheme else base64.b64decode(artifact_id).hex()
    add_long_table(server, len(LONG), f"{scheme}://{owner}/x y/cells.table.json")
    assert export("--tables").code == 0
    table = table_of(out, "table_cells")
    assert table["n"].to_list() == [*range(12_000)]
    scores = [score if n < 10_000 or n % 2 == 0 else None for n, score, *_ in LONG]
    assert repr(table["score"].to_list()) == repr(scores)
    assert set(table["picture"]) == {'{"_type": "image-file"}'}
    assert table["array"].to_list() == [f"[{n}]" if n < 10_000 else None for n in range(12_000)]
    server.reset()
    assert export("--tables").code == 0
    assert "download" not in server.counts()


@pytest.mark.parametrize(
    ("rows", "address", "columns", "got", "error"),
    [
        (0, "", LONG_COLUMNS, 10_000, "the SDK puts the others into the Table's artifact alone"),
        (0, "wandb-client-artifact://gone/x", LONG_COLUMNS, 10_000, "alone, which cannot be read: it does not exist"),
        (0, "wandb-client-artifact://client/x", LONG_COLUMNS, 10_000, "alone, which cannot be read: it does not exist"),
        (0, "elsewhere://no hex/x", LONG_COLUMNS, 10_000, "alone, which cannot be read: the answer has an unexpected"),
        (11_000, "wandb-client-artifact://client/x y/cells.table.json", LONG_COLUMNS, 11_000, "the SDK stores no more"),
        (
            11_000,
            "wandb-client-artifact://client/x y/cells.table.json",
            [*"abcde"],
            10_000,
            "the Table's artifact alone",
        ),
    ],
)
def test_a_table_that_cannot_be_read_whole_is_named(server, export, out, rows, address, columns, got, error):
    add_long_table(server, rows, address, columns)
    add_table(server, "b", "cells", ["n"], [[1]])
    for _ in range(2):
        done = export("--tables")
        assert (done.code, failed(out)) == (3, [("a", "table_cells")])
        assert error in done.err
        assert ("rows were downloaded: " in done.err) == (got > 0)
        assert (f"only {got:,} of 12,000 rows were downloaded: " in done.err) == (got > 0)
        assert table_of(out, "table_cells").height == got + 1


NO_SUCH_TABLES = [
    '{"columns": ["n"], "data": [}',
    "{}",
    '{"columns": ["n"], "data": [[1]]}',
    '{"x": ' + "[" * 99_999 + "}",
]


@pytest.mark.parametrize("content", NO_SUCH_TABLES, ids=["broken", "empty", "columns", "deep"])
def test_an_artifact_that_is_no_such_table_costs_no_rows(server, export, out, content):
    add_long_table(server, 0, "wandb-client-artifact://odd/x")
    server.add_artifact("team", "demo", "odd", {"x": content})
    assert (export("--tables").code, failed(out)) == (3, [("a", "table_cells")])
    assert table_of(out, "table_cells").height == 10_000


def test_an_artifact_is_downloaded_again_where_that_fails(server, export, out):
    add_long_table(server, len(LONG), "wandb-client-artifact://client/x y/cells.table.json")
    server.fault("truncate", match={"kind": "download", "path": "/artifacts/"}, times=1)
    assert export("--tables").code == 0
    assert server.counts()["fault:truncate"] == 1
    assert table_of(out, "table_cells").height == len(LONG)


def test_what_is_no_table_and_no_table_at_all(server, export, out):
    summary = {
        "up": {**entry_of("up"), "path": "../../x"},
        "root": {**entry_of("root"), "path": "/etc/passwd"},
        "windows": {**entry_of("windows"), "path": "..\\..\\x"},
        "number": {**entry_of("number"), "path": 5},
        "image": {"_type": "image-file", "path": "media/images/1.png"},
    }
    server.add_run("team", "demo", "a", summary=summary)
    done = export("--tables")
    assert (done.code, asked(server, "files")) == (0, [])
    assert "these runs have no W&B Tables" in done.err
    assert not list(out.glob("*_table_*"))


def test_a_dry_run_asks_for_no_rows(server, export, out):
    add_console(server, "a", plain(0, 3))
    add_table(server, "b", "cells", ["n"], [[1]])
    server.add_events("team", "demo", "a", [{"system.cpu": 1, "_timestamp": 1.0}])
    done = export("--dry-run", "--console", "--console-lines", 5, "--tables", "--system-metrics")
    assert (done.code, done.out) == (0, "team/demo: 2 runs (2 finished)\n")
    assert not {"field:logLines", "field:files", "field:events", "download"} & server.counts().keys()
    assert not out.exists()


# --- what the SDK itself logged: to a server, offline, and synced ---------------------------------------------

PROGRAM = """
import os, sys, time, wandb
number, mode, run_id = sys.argv[1:]
settings = wandb.Settings(x_stats_sampling_interval=0.1, x_disable_meta=True, x_save_requirements=False)
with wandb.init(entity="team", project="demo", id=run_id, mode=mode, dir=".", settings=settings) as run:
    print("first line")
    print("a warning", file=sys.stderr)
    for percent in range(0, 101, 25):
        print(f"\\r{percent} %", end="")
    print("\\n\\x1b[31mred\\x1b[0m größe")
    print("ERROR in the text alone")
    table = wandb.Table(columns=["text", "n", "score", "Entity"], data=[["a", 1, 0.5, 1], ["b", None, float("nan"), 2]])
    run.log({"eval/cells": wandb.Table(columns=["old"], data=[[1]])})
    run.log({"eval/cells": table})
    run.log({"eval/long": wandb.Table(columns=["n", "text"], data=[[n, f"t{n}"] for n in range(12_345)])})
    parts = wandb.Table(columns=["n", "score"], log_mode="INCREMENTAL")
    for n in range(0, 12, 2):
        parts.add_data(n, float("nan"))
        parts.add_data(n + 1, 0.5)
        run.log({"eval/parts": parts})
    time.sleep(0.5)
    run.write_logs("written to the log alone")
    time.sleep(0.5)
    print("the end, without a newline", end="")
"""
PRINTED = [
    ("stdout", "first line"),
    ("stderr", "a warning"),
    ("stdout", "100 %"),
    ("stdout", "red größe"),
    ("stdout", "ERROR in the text alone"),
    ("stdout", "written to the log alone"),
    ("stdout", "the end, without a newline"),
]
LOGGED_TABLE = [("a", 1, 0.5, 1), ("b", None, math.nan, 2)]


def test_what_the_sdk_logged_is_the_same_from_everywhere(server, export, export_logs, clean_environment, tmp_path, out):
    server.add_entity("team")
    env = clean_environment | server.environment(tmp_path / "sdk") | {"PYTHONIOENCODING": "utf-8"}
    logs = tmp_path / "logs"
    for folder in (logs, tmp_path / "sdk", tmp_path / "online"):
        folder.mkdir()
    programs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, "0", mode, run_id], env=env, cwd=folder, **SILENT)
        for mode, run_id, folder in (("online", "online", tmp_path / "online"), ("offline", "synced", logs))
    ]
    assert [program.wait(LIMIT_S) for program in programs] == [0, 0]
    done = export_logs("--console", "--tables", "--system-metrics")
    assert done.code == 0, done.err
    [log] = [file for file in logs.rglob("*.wandb") if not file.parent.is_symlink()]
    command = [sys.executable, "-m", "wandb", "sync", "-e", "team", "-p", "demo", log.parent]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, **SILENT)
    offline, out_server = {kind: table_of(out, kind) for kind in KINDS}, tmp_path / "server"
    done = export("--console", "--tables", "--system-metrics", "-o", out_server)
    assert done.code == 0, done.err
    for kind in KINDS:
        both = table_of(out_server, kind)
        assert set(both["run_id"]) == {"online", "synced"}
        frames = [offline[kind], *(both.filter(pl.col("run_id") == run_id) for run_id in ("synced", "online"))]
        if kind == "console":
            for frame in frames:
                assert frame.select("stream", "text").rows() == PRINTED
                assert frame["line"].to_list() == [*range(len(PRINTED))]
                assert frame["time"].null_count() == 0
        elif kind == "system":
            rows, synced = (filled_rows(frame, "synced") for frame in frames[:2])
            assert len(rows) > 1
            assert rows == [pytest.approx(row, rel=1e-9, abs=2e-6) for row in synced]
        else:
            for frame in frames:
                assert [name.partition("__")[0] for name in frame.columns[4:]] == ["text", "n", "score", "Entity"]
                assert [repr(row[4:]) for row in frame.rows()] == [repr(row) for row in LOGGED_TABLE]
    rows = [(n, n, f"t{n}") for n in range(12_345)]
    assert [row[3:] for row in table_of(out, "table_eval%2Flong").rows()] == rows
    assert [row[3:] for row in table_of(out_server, "table_eval%2Flong").rows()] == rows * 2
    # In artifacts NaN is null; the last increment is in a file of the run, too.
    rows = [repr((n, n, 0.5 if n % 2 else math.nan if n == 10 else None)) for n in range(12)]
    assert [repr(row[3:]) for row in table_of(out, "table_eval%2Fparts").rows()] == rows
    assert [repr(row[3:]) for row in table_of(out_server, "table_eval%2Fparts").rows()] == rows * 2
    # Without the artifacts the log's tables are not whole. What was exported stays.
    shutil.rmtree(tmp_path / "sdk" / "data" / "artifacts")
    done = export_logs("--tables")
    assert (done.code, failed(out)) == (3, [("synced", "table_eval/long"), ("synced", "table_eval/parts")])
    assert "error: synced: table_eval/long: only 10,000 of 12,345 rows are there: the SDK puts" in done.err
    assert (table_of(out, "table_eval%2Flong").height, table_of(out, "table_eval%2Fparts").height) == (12_345, 12)


SHARED = """
import sys, wandb
writer, *values = sys.argv[1:]
how = {"mode": "shared", "x_label": writer, "x_primary": writer == "a"} if writer != "alone" else {"resume": "allow"}
settings = wandb.Settings(console="off", x_disable_stats=True, **how)
with wandb.init(entity="team", project="demo", id="shared", dir=".", settings=settings) as run:
    for value in values:
        run.log({"loss": int(value)})
    run.finish(exit_code=3 if writer == "a" else 0)
"""


def test_rows_that_several_processes_wrote(server, export_logs, clean_environment, tmp_path, out):
    """In shared mode the server numbers the rows: in a log they have no step."""
    server.add_entity("team")
    env, logs = clean_environment | server.environment(tmp_path / "sdk"), tmp_path / "logs"
    logs.mkdir()

    def record(*arguments: str) -> None:
        command = [sys.executable, "-c", SHARED, *arguments]
        subprocess.run(command, env=env, cwd=logs, check=True, timeout=LIMIT_S, **SILENT)

    record("a", "5", "4", "3")
    record("b", "2", "1")
    assert export_logs("--include-history").code == 0
    history = table_of(out, "history").select("_step", "metric_loss")
    assert history.rows() == [(0, 5), (1, 4), (2, 3), (3, 2), (4, 1)]
    assert table_of(out, "runs")["state"].to_list() == ["failed"]  # as the primary process says, which begins first
    record("alone", "0")
    assert export_logs("--include-history").code == 0
    assert table_of(out, "runs")["state"].to_list() == ["finished"]


DERIVED = """
import wandb
settings = wandb.Settings(mode="offline", console="off", x_disable_stats=True, x_server_side_derived_summary=True)
for losses in ([5, 4], [3, 2]):
    with wandb.init(entity="team", project="demo", id="a", dir=".", settings=settings) as run:
        if losses[0] == 5:
            run.summary.update({"best": 7, "loss": 9})
        for loss in losses:
            run.log({"loss": loss})
"""


def test_a_summary_that_the_server_would_derive(export_logs, clean_environment, tmp_path, out):
    """The log holds only what the user set; a server adds what was logged last."""
    logs = tmp_path / "logs"
    logs.mkdir()
    command = [sys.executable, "-c", DERIVED]
    subprocess.run(command, env=clean_environment, cwd=logs, check=True, timeout=LIMIT_S, **SILENT)
    done = export_logs()
    assert done.code == 0, done.err
    assert table_of(out, "runs").select("metric_best", "metric_loss").rows() == [(7, 2)]
    assert "restored" not in done.err


SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
KINDS = ("console", "table_eval%2Fcells", "system")


# --- offline --------------------------------------------------------------------------------------------------


def raw_output(*texts: tuple[str, str]) -> list[Any]:
    """Records of what a program wrote, one second apart: stream and text."""
    proto = export_runs.wandb_proto()
    found = []
    for second, (stream, text) in enumerate(texts):
        output = proto.OutputRawRecord(output_type=getattr(proto.OutputRawRecord, stream.upper()), line=text)
        output.timestamp.FromSeconds(int(START.timestamp()) + second)
        found.append(proto.Record(output_raw=output))
    return found


def add_records(file: Path, more: list[Any]) -> None:
    """Put records before the last one of a log, which is its exit."""
    payloads = [placed.payload for placed in records_of(file.read_bytes())]
    file.write_bytes(log_of([*payloads[:-1], *(each.SerializeToString() for each in more), payloads[-1]]))


def second(number: int) -> datetime:
    return START + timedelta(seconds=number)


def test_writes_become_lines(export_logs, tmp_path, out):
    """A line has the place and time of its first character, whatever came between; the last needs no end."""
    file = write_log(tmp_path / "logs", "r", entity="team", project="demo")
    writes = [
        ("stdout", "a"), ("stderr", "b1\nb2"), ("stdout", ""), ("stdout", "a\n\nc\r\n"), ("stderr", "\n"),
        ("stderr", "  0%"), ("stdout", "d\n"), ("stderr", "\r 50%"), ("stderr", "\r100% done\n"), ("stdout", "e  "),
    ]  # fmt: skip
    add_records(file, raw_output(*writes))
    assert export_logs("--console").code == 0
    expected = [
        (0, second(0), "stdout", "aa"), (1, second(1), "stderr", "b1"), (2, second(1), "stderr", "b2"),
        (3, second(3), "stdout", ""), (4, second(3), "stdout", "c"), (5, second(5), "stderr", "100% done"),
        (6, second(6), "stdout", "d"), (7, second(9), "stdout", "e"),
    ]  # fmt: skip
    assert dict(table_of(out, "console").schema) == CONSOLE
    assert lines_of(out, "r", "line", "time", "stream", "text") == expected
    assert export_logs("--console-lines", 3).code == 0
    assert lines_of(out, "r", "line") == [*range(8)]  # a tail replaces nothing
    shutil.rmtree(out)
    assert export_logs("--console-lines", 3).code == 0
    assert lines_of(out, "r", "line", "time", "stream", "text") == expected[-3:]


def test_bars_of_several_lines_move_the_cursor(export_logs, tmp_path, out):
    """As nested bars of tqdm: they are as many lines as on a terminal. Empty lines count once something follows."""
    file = write_log(tmp_path / "logs", "r", entity="team", project="demo")
    writes = [("stdout", "before\n\n\n"), ("stderr", "epochs   0%")]
    for percent in range(10, 101, 10):
        writes += [("stderr", f"\n\rbatches {percent:3}%"), ("stderr", f"\x1b[A\repochs {percent:3}%")]
    writes += [
        ("stderr", "\n"),
        ("stderr", "gone\x1b[B\r\n\n"),
        ("stderr", "\x1b[A" * 50 + "\rEpochs"),
        ("stdout", "after\n\n"),
    ]
    add_records(file, raw_output(*writes))
    assert export_logs("--console").code == 0
    assert lines_of(out, "r", "line", "stream", "text") == [
        (0, "stdout", "before"), (1, "stderr", "Epochs 100%"), (2, "stderr", "gonehes 100%"), (3, "stdout", ""),
        (4, "stdout", ""), (5, "stdout", "after"),
    ]  # fmt: skip


def test_a_bar_of_an_old_sdk_is_one_line(export_logs, tmp_path, out):
    r"""SDKs before 0.13 log its states as lines that begin with \r; each replaces the one before, but nothing else."""
    file = write_log(tmp_path / "logs", "r", entity="team", project="demo")
    lines = [("stderr", "epoch 1\n"), ("stderr", "\r  0% of 1000\n"), ("stdout", "saved\n"), ("stderr", "\r 50%\n")]
    lines += [("stderr", "\r100%\n"), ("stderr", "\r  0% of 10\n"), ("stderr", "\r100%\nepoch 2\n")]
    lines += [("stderr", "\r1it\n"), ("stderr", "\r2it\n"), ("stderr", "open"), ("stderr", "\rdone\n")]
    lines += [("stdout", f"\r{n}/312 [=>...] - loss: {9 - n}\n") for n in (1, 5, 9)]  # Keras
    lines += [("stdout", f"\rError {9 - n}.9%:  {n}%|#  | {n}/312 [00:01\n") for n in (1, 5, 9)]  # tqdm
    lines += [("stdout", f"\r{n}/30 [=====] - {rest}\n") for n, rest in ((29, "ETA: 1s"), (30, "ETA: 0s"), (30, "9s"))]
    lines += [("stdout", f"\r1/1 [==] - {what}\n") for what in ("G", "D")]  # each of these is over
    lines += [("stdout", f"\r{n}/{n} [==] - other\n") for n in (5, 8)]
    lines += [("stdout", f"\rsaved {n}/9 [model {n}]\n") for n in (1, 2)]
    lines += [("stdout", "\rAcc: 42% 178it\n"), ("stdout", "\r99%|##|\n"), ("stdout", "\r" + "1" * 5_000 + "%|\n")]
    proto = export_runs.wandb_proto()
    records = [each.output_raw.SerializeToString() for each in raw_output(*lines)]  # the same fields
    add_records(file, [proto.Record(output=proto.OutputRecord.FromString(record)) for record in records])
    assert export_logs("--console").code == 0
    assert lines_of(out, "r", "stream", "text") == [
        ("stderr", "epoch 1"), ("stderr", "100%"), ("stdout", "saved"), ("stderr", "100%"), ("stderr", "epoch 2"),
        ("stderr", "1it"), ("stderr", "2it"), ("stderr", "done"),
        ("stdout", "9/312 [=>...] - loss: 0"), ("stdout", "Error 0.9%:  9%|#  | 9/312 [00:01"),
        ("stdout", "30/30 [=====] - 9s"), ("stdout", "1/1 [==] - G"), ("stdout", "1/1 [==] - D"),
        ("stdout", "5/5 [==] - other"), ("stdout", "8/8 [==] - other"),
        ("stdout", "saved 1/9 [model 1]"), ("stdout", "saved 2/9 [model 2]"),
        ("stdout", "Acc: 42% 178it"), ("stdout", "99%|##|"), ("stdout", "1" * 5_000 + "%|"),
    ]  # fmt: skip


def test_logs_of_one_run_are_one_console(export_logs, tmp_path, out):
    for number in range(3):
        started_at = START + timedelta(days=number)
        resumed = {"resumed": number > 0}
        file = write_log(tmp_path / "logs", "r", started_at=started_at, entity="team", project="demo", **resumed)
        add_records(file, raw_output(("stdout", f"log {number}\n"), ("stderr", "more\n" * number)))
    assert export_logs("--console").code == 0
    assert lines_of(out, "r", "text") == ["log 0", "log 1", "more", "log 2", "more", "more"]
    assert lines_of(out, "r", "line") == [*range(6)]


def test_a_bar_that_stays_open_holds_nothing_back(tmp_path, monkeypatch):
    """Lines are written while a progress bar goes on; the bar comes after the lines that were written before it."""
    monkeypatch.setattr(export_runs, "LINES_HELD", 10)
    export_runs.import_libraries()
    writes = [("stderr", "  0%")]
    for number in range(35):
        writes += [("stdout", f"line {number}\n"), ("stderr", f"\r{number}%")]
    file = write_log(tmp_path / "logs", "r")
    add_records(file, [*raw_output(*writes), *raw_output(("stderr", "\rdone\n"), ("stdout", "last\n"))])
    options = export_runs.parse_args(["--offline", str(tmp_path), "--console"])
    [log] = export_runs.read_logs([file], tmp_path, options)
    frames = [pl.read_parquet(part.file).sort("order") for part in log.rows["console"].parts]
    assert all(frame.height <= 12 for frame in frames)
    lines = pl.concat(frames)
    assert lines["order"].to_list() == [*range(37)]
    assert [text for text in lines["text"] if text.startswith("line")] == [f"line {number}" for number in range(35)]
    assert lines.filter(pl.col("stream") == "stderr")["text"].to_list() == ["done"]


def test_a_file_with_more_lines_than_the_log(export_logs, tmp_path, out):
    """A crash cuts the log off; output.log may have gone on, or lag behind."""
    for run_id, text in (("more", "a\nb\n\x1b[31mc\x1b[0m\n\r1%\r2%\nend"), ("fewer", "a\n"), ("blank", "a\nb\n\n\n")):
        file = write_log(tmp_path / "logs", run_id, entity="team", project="demo")
        add_records(file, raw_output(("stdout", "a\n"), ("stdout", "b\n")))
        (file.parent / "files").mkdir()
        (file.parent / "files" / "output.log").write_bytes(text.encode())
    assert export_logs("--console").code == 0
    assert lines_of(out, "more", "line", "stream", "time", "text") == [
        (number, None, None, text) for number, text in enumerate(["a", "b", "c", "2%", "end"])
    ]
    for run_id in ("fewer", "blank"):
        assert lines_of(out, run_id, "stream", "text") == [("stdout", "a"), ("stdout", "b")]


def test_the_end_of_a_file_is_not_lost_to_blank_lines_of_a_log(export_logs, tmp_path, out):
    """A crashed run's traceback was only in output.log, and the log had more lines: blank ones."""
    file = write_log(tmp_path / "logs", "r", entity="team", project="demo", exit_code=None)
    add_records(file, raw_output(("stdout", "a\n"), *[("stdout", "\n")] * 9, ("stdout", "b\n")))
    (file.parent / "files").mkdir()
    (file.parent / "files" / "output.log").write_text("a\nb\nTraceback:\nMemoryError\n")
    assert export_logs("--console").code == 0
    assert lines_of(out, "r", "text") == ["a", "b", "Traceback:", "MemoryError"]


@pytest.mark.parametrize(("exit_code", "code"), [(0, 0), (None, 3)])
def test_an_output_file_that_is_not_pulled_is_missed_only_by_a_crashed_run(export_logs, tmp_path, out, exit_code, code):
    file = write_log(tmp_path / "logs", "r", entity="team", project="demo", exit_code=exit_code)
    add_records(file, raw_output(("stdout", "a\n")))
    (file.parent / "files").mkdir()
    (file.parent / "files" / "output.log").write_text("version https://git-lfs.github.com/spec/v1\n")
    done = export_logs("--console")
    assert (done.code, "git lfs pull" in done.err) == (code, code == 3)
    assert lines_of(out, "r", "text") == ["a"]


def test_dtypes_of_system_metrics_are_those_of_the_project(export_logs, tmp_path, out):
    """Logs of other projects, read at the same time, have no part in them."""
    proto = export_runs.wandb_proto()
    for run_id, project, value in [(f"r{n}", *(("demo", "1"), ("other", "0.5"))[n % 2]) for n in range(10)]:
        stats = proto.StatsRecord(item=[proto.StatsItem(key="cpu", value_json=value)])
        stats.timestamp.FromDatetime(START)
        file = write_log(tmp_path / "logs", run_id, entity="team", project=project)
        add_records(file, [proto.Record(stats=stats)])
    assert export_logs("--system-metrics", "--workers", 1).code == 0
    dtypes = [table_of(out, "system", stem).schema["system_cpu"] for stem in ("team_demo", "team_other")]
    assert dtypes == [pl.Int64, pl.Float64]


def add_logged_table(folder: Path, run_id: str, content: str | None, entry: dict[str, Any] | None = None) -> Path:
    """Write a log whose summary names a table, and the table's file beside it; returns the log."""
    entry = entry or entry_of("cells")
    summary = {"cells": json.dumps(entry)}
    file = write_log(folder, run_id, summary=summary, entity="team", project="demo")
    if content is not None:
        place = file.parent / "files" / entry["path"]
        place.parent.mkdir(parents=True)
        place.write_text(content, encoding="utf-8")
    return file


def test_whole_numbers_of_any_length_in_a_table_keep_their_digits():
    export_runs.import_libraries()
    rows = [[10**20, [2**64 + 1]], ["x", 0.1]]
    table = export_runs.table_rows(json.dumps({"columns": ["id", "list"], "data": rows}).encode())
    assert table.drop("order").rows() == [(str(10**20), str([2**64 + 1])), ("x", "0.1")]


def test_tables_of_logs(export_logs, tmp_path, out):
    logs = tmp_path / "logs"
    add_logged_table(logs, "good", '{"columns": ["n", "score"], "data": [[1, NaN], [2, 0.5]]}')
    add_logged_table(logs, "other", '{"columns": ["score", "n"], "data": [[1, 2.5]]}')
    add_logged_table(logs, "missing", None)
    add_logged_table(logs, "damaged", '{"columns": ["n"], "da')
    add_logged_table(logs, "ragged", '{"columns": ["n"], "data": [1]}')
    add_logged_table(logs, "up", None, entry_of("cells") | {"path": "../../x"})
    (logs / "x").write_text('{"columns": ["secret"], "data": [[1]]}', encoding="utf-8")
    done = export_logs("--tables")
    assert done.code == 3, done.err
    assert failed(out) == [(run_id, "table_cells") for run_id in ("damaged", "missing", "ragged")]
    assert "error: missing: table_cells: its file does not exist" in done.err
    table = table_of(out, "table_cells")
    assert table.columns == ["run_id", "entity", "project", "row", "n", "score"]
    rows = [("good", 0, 1.0, math.nan), ("good", 1, 2.0, 0.5), ("other", 0, 2.5, 1.0)]
    assert rows_as_text(table.drop("entity", "project")) == [repr(row) for row in rows]
    before = rows_as_text(table)
    assert export_logs("--tables").code == 3
    assert rows_as_text(table_of(out, "table_cells")) == before


def test_tables_whose_files_are_missing_fill_no_screen(export_logs, tmp_path, out):
    for number in range(12):
        path = f"media/table/cells_0_{number}.table.json"
        add_logged_table(tmp_path / "logs", f"r{number:02d}", None, entry_of("cells") | {"path": path})
    done = export_logs("--tables")
    assert done.code == 3
    assert done.err.count("error: r") == 10
    assert "error: 2 more, all listed in the metadata file: " in done.err
    assert len(failed(out)) == 12


def add_staged(log: Path, client_id: str, name: str, cells: list, digest: str | None = None) -> None:
    """An artifact in a log, whose file waits for `wandb sync` beside it."""
    staged = log.parent / f"staged {client_id}"
    staged.write_text(json.dumps({"columns": ["n"], "data": cells}), encoding="utf-8")
    record = export_runs.wandb_proto().Record()
    record.artifact.client_id = client_id
    digest = digest or base64.b64encode(hashlib.md5(staged.read_bytes()).digest()).decode()
    record.artifact.manifest.contents.add(path=name, digest=digest, local_path=str(staged))
    payloads = [placed.payload for placed in records_of(log.read_bytes())]
    log.write_bytes(log_of([*payloads, record.SerializeToString()]))


@pytest.mark.parametrize("is_same", [True, False])
def test_a_long_table_in_a_log(export_logs, tmp_path, out, is_same):
    """Its artifact waits for `wandb sync`, in a file that the log names; a file with another checksum is not read."""
    cells = [[n] for n in range(12_000)]
    content = json.dumps({"columns": ["n"], "data": cells[:10_000]})
    entry = {**entry_of("cells"), "nrows": 12_000, "artifact_path": "wandb-client-artifact://mine/cells.table.json"}
    log = add_logged_table(tmp_path / "logs", "r", content, entry)
    add_staged(log, "mine", "cells.table.json", cells, None if is_same else "another")
    done = export_logs("--tables")
    assert (done.code, failed(out)) == ((0, []) if is_same else (3, [("r", "table_cells")]))
    assert table_of(out, "table_cells").height == (12_000 if is_same else 10_000)


@pytest.mark.parametrize("parts", [2, 1])
def test_an_incremental_table_in_a_log(export_logs, tmp_path, out, parts):
    log = add_logged_table(tmp_path / "logs", "a", json.dumps({"columns": ["n"], "data": CELLS[2]}), incremental())
    for number in range(parts):
        add_staged(log, f"part{number}", f"{number}-17.cells.table.json", CELLS[number])
    done = export_logs("--tables")
    if parts == 2:
        assert done.code == 0, done.err
        assert repr(table_of(out, "table_cells")["n"].to_list()) == "[0.0, 1.0, 2.0, 3.0, nan]"
    else:
        assert (done.code, failed(out)) == (3, [("a", "table_cells")])
        assert "its increments are in artifacts that are not on this machine" in done.err


@pytest.mark.parametrize("path", ["media/ta\0ble/x.table.json", "media/ta\ud800ble/x.table.json"])
def test_the_path_of_a_table_may_be_no_file_name(export_logs, tmp_path, out, path):
    add_logged_table(tmp_path / "logs", "odd", None, entry_of("cells") | {"path": path})
    add_logged_table(tmp_path / "logs", "good", '{"columns": ["n"], "data": [[1]]}')
    assert (export_logs("--tables").code, failed(out)) == (3, [("odd", "table_cells")])
    assert table_of(out, "table_cells").height == 1


def test_a_table_that_was_exported_and_logged_again(export_logs, tmp_path, out):
    """Two columns had one name, and nothing of the project was exported."""
    columns = ["run_id", "row", f"row__{export_runs.path_hash(('row',))[:8]}"]
    add_logged_table(tmp_path / "logs", "r", json.dumps({"columns": columns, "data": [["old", 1, 2]]}))
    assert export_logs("--tables").code == 0
    table = table_of(out, "table_cells")
    assert table.row(0)[4:] == ("old", 1, 2)
    assert table.columns[6] == columns[2]
    assert table.columns[5].startswith(columns[2])


def test_the_latest_table_of_a_run_that_goes_on(export_logs, tmp_path, out):
    """Its log has no end yet; the table that it logged last has fewer rows than the one before."""
    for number, rows in enumerate(["[1], [2], [3]", "[4]"]):
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        entry, history = entry_of("cells", number), [{"loss": "1"}] * (number + 1)
        summary = {"cells": json.dumps(entry)}
        file = write_log(
            tmp_path / "logs", "r", summary=summary, entity="team", project="demo", rows=history, exit_code=None
        )
        place = file.parent / "files" / entry["path"]
        place.parent.mkdir(parents=True)
        place.write_text(f'{{"columns": ["n"], "data": [{rows}]}}', encoding="utf-8")
        assert export_logs("--tables").code == 0
    assert table_of(out, "table_cells")["n"].to_list() == [4]


def test_keys_that_join_to_one_name(export_logs, tmp_path, out):
    nested, dotted = entry_of("nested"), entry_of("dotted")
    summary = {"a": json.dumps({"b": nested}), "a.b": json.dumps(dotted)}
    file = write_log(tmp_path / "logs", "r", summary=summary, entity="team", project="demo")
    for number, entry in enumerate((nested, dotted)):
        place = file.parent / "files" / entry["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'{{"columns": ["n"], "data": [[{number}]]}}', encoding="utf-8")
    assert export_logs("--tables").code == 0
    files = sorted(out.glob("*_table_*.parquet"))
    assert sorted(pl.read_parquet(file)["n"].item() for file in files) == [0, 1]
    assert {pl.read_parquet_metadata(file)["wandb_tools.table"].partition("__")[0] for file in files} == {"a.b"}


def tables_by_key(out: Path) -> dict[str, list[tuple[str, int]]]:
    """Run and value of each row, by the key in the file's metadata."""
    return {
        pl.read_parquet_metadata(file)["wandb_tools.table"]: pl.read_parquet(file)["run_id", "n"].rows()
        for file in out.glob("*_table_*.parquet")
    }


def test_one_column_of_many_types(server, export, out):
    """Each run's rows have a file of their own, with another dtype, until they meet in one column of text."""
    values = {"a": True, "b": 1, "c": 0.5, "d": "text", "e": 2, "f": False, "g": None}
    for run_id, value in values.items():
        add_table(server, run_id, "cells", ["c"], [[value]])
    assert export("--tables").code == 0
    assert table_of(out, "table_cells")["c"].to_list() == ["true", "1", "0.5", "text", "2", "false", None]


@pytest.mark.parametrize("others", [[], ["other"]])
def test_a_run_that_was_created_anew_without_its_table(server, export, out, others):
    for run_id in ("again", *others):
        add_table(server, run_id, "cells", ["n"], [[1]])
    assert export("--tables").code == 0
    server.delete_run("team", "demo", "again")
    server.add_run("team", "demo", "again", summary={"cells": 3})
    assert export("--tables").code == 0
    assert table_of(out, "table_cells")["run_id"].to_list() == others
    before = (out / "team_demo_table_cells.parquet").read_bytes()
    assert export("--tables").code == 0
    assert (out / "team_demo_table_cells.parquet").read_bytes() == before


def test_a_key_that_differs_by_case_takes_no_files_name(server, export, out):
    add_table(server, "a", "cells", ["n"], [[1]])
    assert export("--tables").code == 0
    add_table(server, "b", "Cells", ["n"], [[2]])
    add_table(server, "c", "cells", ["n"], [[3]])
    for _ in range(2):
        assert export("--tables").code == 0
        assert tables_by_key(out) == {"cells": [("a", 1), ("c", 3)], "Cells": [("b", 2)]}
        assert len([*out.glob("*_table_*.parquet")]) == 2
    server.delete_run("team", "demo", "a")
    assert export("--prune").code == 0  # which does not ask for tables
    assert tables_by_key(out) == {"cells": [("c", 3)], "Cells": [("b", 2)]}


def test_a_later_sample_of_system_metrics_replaces_an_earlier(server, export, out):
    server.add_run("team", "demo", "r", state="running")
    for count, beat in ((5, "2026-01-01T01:00:00Z"), (3, "2026-01-01T02:00:00Z")):
        server.change_run("team", "demo", "r", heartbeat_at=beat)
        project = server.run("team", "demo", "r")
        project.events[:] = [
            json.dumps({"_timestamp": count * 10 + n, "_runtime": n, "system.cpu": n}) for n in range(count)
        ]
        assert export("--system-metrics").code == 0
        assert table_of(out, "system")["_timestamp"].to_list() == [count * 10.0 + n for n in range(count)]


def test_a_dry_run_of_logs(export_logs, tmp_path, out):
    add_logged_table(tmp_path / "logs", "r", '{"columns": ["n"], "data": [[1]]}')
    done = export_logs("--dry-run", "--console", "--tables", "--system-metrics")
    assert (done.code, done.out) == (0, "team/demo: 1 run (1 finished), 0 history rows\n")
    assert not out.exists()


# --- logs of every age, and the same runs once synced ---------------------------------------------------------

AGES = [sdk for sdk in record.SDKS if not sdk.startswith(("0.8.", "0.9."))]  # these have no logs
EMPTY = "crashed0198"  # SDK 0.19 writes whole blocks of 32 kB alone before the end
OLD_RUNS = [run_id for run_id, truth in TRUTHS.items() if truth["sdk"] in AGES and run_id != EMPTY]


class Old(NamedTuple):
    """Exports of the recordings, and of what a server got of them when today's SDK synced them: frames by kind.

    System metrics go by W&B's names: two of an age may be called alike once they are columns.
    """

    offline: dict[str, pl.DataFrame]
    synced: dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def old(tmp_path_factory, clean_environment, shared_server) -> Old:
    folder = tmp_path_factory.mktemp("old")
    (folder / "sdk").mkdir()
    shared_server.add_entity("lab")
    env = clean_environment | shared_server.environment(folder / "sdk")
    for sdk in (*AGES, "damaged"):
        for run in (record.RUNS / sdk).glob("*run-*"):
            if run.name.rpartition("-")[2] in OLD_RUNS:
                shutil.copytree(run, folder / "logs" / run.name)
    flags = ("--console", "--system-metrics", "-e", "lab", "-p", "old-sdks", "--json", "--quiet")
    script = [sys.executable, Path(export_runs.__file__), *flags]
    folders = sorted((folder / "logs").glob("offline-run-*"))
    sync = [sys.executable, "-m", "wandb", "sync", "-e", "lab", "-p", "old-sdks", *folders]
    # -e gives the runs without an entity one, as for the sync.
    for command in (
        [*script, "--offline", folder / "logs", "-o", folder / "off"],
        sync,
        [*script, "-o", folder / "on"],
    ):
        subprocess.run(command, env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Old(*({kind: by_path(folder / place, kind) for kind in ("console", "system")} for place in ("off", "on")))


def by_path(folder: Path, kind: str) -> pl.DataFrame:
    about = pq.read_metadata(folder / f"lab_old-sdks_{kind}.parquet").metadata[b"wandb_tools.columns"]
    return table_of(folder, kind, "lab_old-sdks").rename({name: path for name, (path,) in json.loads(about).items()})


NEVER_RECORDED = ("0.10.33", "0.11.2", "0.12.21")  # offline, these write their output to the log at the end only


@pytest.mark.parametrize("run_id", OLD_RUNS)
def test_old_consoles(old, run_id):
    """Every line that was printed, of each stream in its order; of a run that was killed, a beginning."""
    truth, found = TRUTHS[run_id], of_run(old.offline["console"], run_id)
    assert found["line"].to_list() == [*range(found.height)]
    is_file = found.height > 0 and found["stream"].null_count() == found.height
    assert is_file == (run_id.startswith(("cut", "lost")))  # there output.log has more
    if is_file:
        said = [text for _, text in truth["console"] if text]
        shown = [text for text in found["text"] if text in said]
        assert len(shown) == len(set(shown)) >= len(said) - 1
        return
    assert found["time"].null_count() == 0
    for stream in ("stdout", "stderr"):
        said = [text for at, text in truth["console"] if at == stream and text]
        shown = [text for text in found.filter(pl.col("stream") == stream)["text"] if text]
        if truth["kind"] == "finished":
            assert shown == said
        elif truth["kind"] == "failed":  # and the traceback, which the program did not print itself
            assert shown[: len(said)] == said
            assert stream == "stderr" or shown == said
        elif truth["sdk"] in NEVER_RECORDED:
            assert shown == []
        else:
            assert shown == said[: len(shown)]
            assert len(shown) >= 2
    if truth["kind"] == "failed" and truth["sdk"] not in ("0.10.33", "0.11.2"):
        assert found.filter(pl.col("stream") == "stderr")["text"].to_list()[-1] == "RuntimeError: the loss went up"


@pytest.mark.parametrize("run_id", [run_id for run_id in OLD_RUNS if not run_id.startswith(("cut", "copied"))])
def test_old_system_metrics(old, run_id):
    """Read from the log's records by other means: names, values and both clocks."""
    [folder] = [folder for folder in FOLDERS if folder.name.endswith(f"-{run_id}")]
    found = records(folder)
    started_at = next(each.run.start_time for each in found if each.WhichOneof("record_type") == "run").ToNanoseconds()
    expected = []
    for each in found:
        if each.WhichOneof("record_type") != "stats":
            continue
        at = each.stats.timestamp.ToNanoseconds()
        row = {"_timestamp": at / 1e9, "_runtime": (at - started_at) / 1e9}
        for item in each.stats.item:
            value = json.loads(item.value_json)
            inner = value if isinstance(value, dict) else {None: value}
            row |= {f"system.{item.key}" + (f".{key}" if key else ""): float(n) for key, n in inner.items()}
        expected.append(row)
    rows = filled_rows(old.offline["system"], run_id)
    assert rows == [pytest.approx(row, rel=1e-9, abs=2e-6) for row in expected]
    if TRUTHS[run_id]["kind"] == "finished" and not run_id.endswith(("0198",)):
        assert rows


def test_old_runs_are_the_same_once_synced(old):
    """Today's SDK sends neither the output that SDKs before 0.13 noted, nor their last system metrics."""
    synced = [run_id for run_id in OLD_RUNS if run_id in set(old.synced["console"]["run_id"])]
    assert {TRUTHS[run_id]["sdk"] for run_id in synced} == set(AGES) - set(NEVER_RECORDED)
    for run_id in synced:
        for stream in ("stdout", "stderr"):
            here, there = (
                of_run(source["console"], run_id).filter(pl.col("stream") == stream, pl.col("text") != "")["text"]
                for source in (old.offline, old.synced)
            )
            assert here.to_list() == there.to_list(), run_id
    synced = set(old.synced["system"]["run_id"])
    assert len(synced) >= 6
    for run_id in synced:
        rows = {round(row["_timestamp"], 5): row for row in filled_rows(old.offline["system"], run_id)}
        for row in filled_rows(old.synced["system"], run_id):
            assert rows[round(row["_timestamp"], 5)] == pytest.approx(row, rel=1e-9, abs=2e-6), run_id
