"""export_runs.py against a W&B-compatible server: the script as a process, unmodified SDK, everything over loopback.

A start costs two seconds of a core, so that one call exports many projects, each with a case of its own.
"""

from __future__ import annotations

import fcntl
import functools
import json
import math
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recordings
from conftest import LIMIT_S, ROOT, Done, finished_runs, wait_until
from test_export_runs import Exported, exported, facts_of, paths_of, same
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECOND = "2026-01-05T00:00:00Z"
QUICK = ("--timeout", 10, "--retries", 2)  # faults end soon


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def export(call_export, server, tmp_path) -> Callable[..., Done]:
    """Run the script against the server; its files go to `out`."""

    def call(*arguments: object, env: dict[str, str] | None = None) -> Done:
        settings = server.environment(tmp_path / "sdk") | (env or {})
        return call_export("-o", tmp_path / "out", *arguments, env=settings)

    return call


@pytest.fixture
def project(tmp_path) -> Callable[[str], Exported]:
    """The files of a project of `team`."""
    return lambda name: exported(tmp_path / "out", f"team_{name}")


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


# --- pages ----------------------------------------------------------------------------------------------------


def create_at(server: Server, project: str, times: Callable[[int], str]) -> None:
    """Set the creation times of a project's runs by their number."""
    for number, run in enumerate(server.project("team", project).runs.values()):
        run.created_at = times(number)
    server.project("team", project).changed()


def test_every_run_once_however_they_were_created_and_whatever_happens_meanwhile(server, export, project):
    n = 2345
    server.add_runs("team", "spread", n, keys=12)
    server.add_runs("team", "one-second", 1100, keys=8)
    create_at(server, "one-second", lambda _: SECOND)
    server.add_runs("team", "clustered", 1500, keys=8)
    create_at(server, "clustered", lambda number: f"202{5 + (number > 1100)}-01-01T00:00:{number % 40:02d}Z")
    server.add_runs("team", "growing", 1100, keys=8)
    server.fault(
        "call", match={"project": "growing", "operation": "Runs"}, times=1, method="add_runs",
        arguments={"entity": "team", "project": "growing", "n": 30, "keys": 8},
    )  # fmt: skip
    server.add_runs("team", "shrinking", 1100, keys=8)
    create_at(server, "shrinking", lambda _: SECOND)  # so that pages follow cursors, which are offsets
    server.fault(
        "call", match={"project": "shrinking", "operation": "Runs"}, times=1, after=1, method="delete_run",
        arguments={"entity": "team", "project": "shrinking", "run_id": "run000000"},
    )  # fmt: skip
    server.add_runs("team", "losing", n, keys=8)
    server.fault(
        "call", match={"project": "losing", "operation": "Runs"}, times=1, method="delete_run",
        arguments={"entity": "team", "project": "losing", "run_id": f"run{n - 1:06d}"},
    )  # fmt: skip
    server.add_runs("team", "choosy", 700, keys=8)
    server.fault("status", match={"project": "choosy", "above_first": 300}, status=504)
    done = export("-e", "team", *QUICK)
    assert (done.code, len(done.out.splitlines())) == (0, 7), done.err
    for name in ("spread", "one-second", "clustered", "growing", "shrinking", "losing", "choosy"):
        there, exported_ids = server.run_ids("team", name), ids_of(project(name))
        if name == "growing":  # what came after its page was made may be left for the next export
            there = [run_id for run_id in there if run_id < "run001100" or run_id in exported_ids]
        assert sorted(exported_ids) == sorted(there), name
        counts = project(name).metadata["runs"]
        told = {key: counts[key] for key in ("listed", "written", "failed", "filtered")}
        assert told == {"listed": len(there), "written": len(there), "failed": 0, "filtered": 0}, name
        assert project(name).runs.equals(project(name).runs.sort("created_at", "id"))
    asked = [r for r in server.requests(kind="graphql") if r["projects"] == ["spread"]]
    assert len(asked) <= 3 + 2 * n / 1000
    asked = [r for r in server.requests(kind="graphql") if r["projects"] == ["losing"]]
    assert len(asked) <= 3 + 2 * n / 1000 + 1  # runs are counted again, not listed
    assert not server.counts().get("field:history", 0) + server.counts().get("download", 0)


def test_a_failure_of_a_run_on_two_pages_is_one(server, export, project):
    for number in range(1, 6):
        server.add_run("team", "demo", f"r{number}", config="[]", created_at=f"2026-01-0{number}T00:00:00Z")
    server.configure(page_limit=3)
    assert export("team/demo", *QUICK).code == 3
    assert names_of_failed(project("demo")) == [(f"r{number}", "config") for number in range(1, 6)]


# --- histories ------------------------------------------------------------------------------------------------


def write_parquet(file: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def log(steps: list[int], **values: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Rows of these steps; each value is made of its step."""
    rows = [{"_step": step, "_runtime": step + 0.5, "_timestamp": 1.0e9 + step} for step in steps]
    return [row | {name: value(row["_step"]) for name, value in values.items()} for row in rows]


def test_histories_of_every_shape(server, export, project, tmp_path):
    def add(run_id: str, *, summary: dict | None = None, **how: Any) -> None:
        server.add_run("team", "shapes", run_id, summary=summary or {}, **how.pop("values", {}))
        server.add_history("team", "shapes", run_id, **how)

    expected: dict[str, list[tuple[int, dict]]] = {}
    loss = {"loss": lambda step: step / 3}
    add("tail", rows=log(list(range(40)), **loss), live=log(list(range(40, 50)), **loss))
    expected["tail"] = [(step, {("loss",): step / 3}) for step in range(50)]
    add("only-live", live=log(list(range(12)), **loss), values={"state": "running"})
    expected["only-live"] = expected["tail"][:12]
    add("sparse", rows=log([0, 7, 1_000_000], **loss), live=log([2_000_000, 30_000_000, 50_000_000], **loss))
    expected["sparse"] = [(s, {("loss",): s / 3}) for s in (0, 7, 1_000_000, 2_000_000, 30_000_000, 50_000_000)]

    late = write_parquet(tmp_path / "late.parquet", {"_step": [10, 11], "a": [10, 11], "late": ["NaN", "-Infinity"]})
    early = write_parquet(tmp_path / "early.parquet", {"_step": [0, 1], "a": [0.5, math.nan], "early": [True, None]})
    again = write_parquet(tmp_path / "again.parquet", {"_step": [1, 10], "a": [1.5, 10.5]})
    add("parts", files=[late, early])
    expected["parts"] = [
        (0, {("a",): 0.5, ("early",): 1}),
        (1, {("a",): math.nan}),
        (10, {("a",): 10, ("late",): math.nan}),
        (11, {("a",): 11, ("late",): -math.inf}),
    ]
    add("overlap", files=[early, again], live=[{"_step": 10, "a": 20}], values={"history_rows": 3})
    expected["overlap"] = [(0, {("a",): 0.5, ("early",): 1}), (1, {("a",): 1.5}), (10, {("a",): 20})]

    before = write_parquet(tmp_path / "before.parquet", {"_step": [2, 3], "_timestamp": [1.0, 2.0], "a": [1, 2]})
    after = write_parquet(tmp_path / "after.parquet", {"_step": [1, 2], "_timestamp": [8.0, 9.0], "a": [3, 4]})
    add("rewound", files=[before, after], values={"history_rows": 3})
    expected["rewound"] = [(1, {("a",): 3}), (2, {("a",): 4}), (3, {("a",): 2})]

    nested = {"val": {"acc": 0.25, "at": {"x": 3}}}
    add("struct", rows=[{"_step": 0, **nested, "val.acc": 9}], live=[{"_step": 1, **nested}], summary=nested)
    server.configure(export_nested="dotted")
    add("dotted", rows=[{"_step": 0, **nested}], live=[{"_step": 1, **nested}], summary=nested)
    best = {"val": {"acc": {"max": 0.25}, "at": {"x": {"min": 3}}}}  # by define_metric
    add("dotted-best", rows=[{"_step": 0, **nested}], live=[{"_step": 1, **nested}], summary=best)
    server.configure(export_nested="struct")
    values = {("val", "acc"): 0.25, ("val", "at", "x"): 3}
    expected["struct"] = [(0, values | {("val.acc",): 9}), (1, values)]
    expected["dotted"] = expected["dotted-best"] = [(0, values), (1, values)]

    patterns = {"*": 1.5, "^.*$": {"*": 2.5, "^a$": 3.5}, "loss": 0.5}  # for polars
    add("patterns", rows=[{"_step": 0, **patterns}], live=[{"_step": 1, **patterns}], summary=patterns)
    values = {("*",): 1.5, ("^.*$", "*"): 2.5, ("^.*$", "^a$"): 3.5, ("loss",): 0.5}
    expected["patterns"] = [(0, values), (1, values)]

    odd = {
        "yes": True, "text": "word", "mixed": 1, "nan": math.nan, "inf": -math.inf, "list": [1, 2],
        "image": {"_type": "image-file", "width": 3}, "none": None, "_private": 1, "exact": 2**53 - 1,
    }  # fmt: skip
    add("types", rows=[{"_step": 0, **odd}], live=[{"_step": 1, **odd}, {"_step": 2, "mixed": "text"}])
    typed = {("yes",): 1, ("mixed",): 1, ("nan",): math.nan, ("inf",): -math.inf, ("exact",): 2**53 - 1}
    expected["types"] = [(0, typed), (1, typed), (2, {})]
    add("rowless")
    expected["rowless"] = []
    add("stale", rows=log([0, 1, 2], **loss))
    expected["stale"] = expected["tail"][:3]
    planted = tmp_path / "sdk" / "cache" / "team_shapes_stale_0.runhistory.parquet"
    planted.parent.mkdir(parents=True)
    write_parquet(planted, {"_step": [0], "loss": [99.0]})

    server.configure(live_data_before_export=False)  # such servers tell nothing of a run without exports
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    shapes = project("shapes")
    for run_id, rows in expected.items():
        assert repr_of(rows_of(shapes, run_id)) == repr_of(rows), run_id
    assert shapes.history.select("run_id", "_step").is_unique().all()
    assert shapes.history.equals(shapes.history.sort("run_id", "_step"))
    assert shapes.metadata["history"] == {
        "rows": sum(map(len, expected.values())), "runs": len(expected) - 1, "sampled": False, "mismatched": [],
    }  # fmt: skip
    assert shapes.metadata["skipped_history_keys"] == ["_private", "image", "list", "mixed", "text"]
    tail = shapes.history.filter(pl.col("run_id") == "tail")
    assert tail["_runtime"].to_list() == [step + 0.5 for step in range(50)]
    assert tail["_timestamp"].to_list() == [1.0e9 + step for step in range(50)]
    sparse = [r for r in server.requests(kind="graphql") if r["runs"] == ["sparse"]]
    assert len(sparse) <= 2
    assert not [r for r in server.requests(service="storage") if r["authorization"]]


def repr_of(rows: list[tuple[int, dict]]) -> list[tuple[int, dict]]:
    """Comparable where NaN stands: floats as text; an int is the float of its value."""
    return [(step, {path: repr(float(value)) for path, value in row.items()}) for step, row in rows]


def test_histories_that_fail_for_a_while_or_for_good(server, export, project):
    def add(run_id: str, action: str, **how: Any) -> None:
        server.add_run("team", "faulty", run_id, summary={"loss": 1}, **how.pop("values", {}))
        rows = log(list(range(200)), loss=lambda step: step / 7)
        server.add_history("team", "faulty", run_id, rows=rows[:150], live=rows[150:])
        if action:
            server.fault(action, match={"run": run_id, "kind": "download"} | how.pop("match", {}), **how)

    add("good", "")
    for action in ("truncate", "cut", "drop", "expired"):
        add(f"once-{action}", action, times=1)
    add("once-429", "status", times=1, status=429, headers={"Retry-After": "1"})
    add("twice-500", "status", times=2, status=500)
    add("trickles-once", "trickle", times=1, seconds=0.2)
    add("ever-500", "status", status=500)
    add("ever-cut", "cut")
    add("ever-truncated", "truncate")
    add("no-answer", "error", match={"kind": None, "field": "parquetHistory"})
    add("short", "", values={"history_rows": 250})
    done = export("-e", "team", "--include-history", "--json", *QUICK)
    assert done.code == 3, done.err
    faulty = project("faulty")
    bad = ["ever-500", "ever-cut", "ever-truncated", "no-answer"]
    assert sorted(names_of_failed(faulty)) == [(run_id, "history") for run_id in sorted([*bad, "short"])]
    for failure in faulty.metadata["failed"]:
        assert failure["error"] in done.err
        assert f"error: {failure['run']}: " in done.err
        assert failure["attempts"] == (2 if failure["run"] in ("short", "no-answer") else 3)
    assert "only 200 of 250 rows were downloaded" in done.err
    expected = [(step, {("loss",): step / 7}) for step in range(200)]
    for run_id in server.run_ids("team", "faulty"):
        assert rows_of(faulty, run_id) == ([] if run_id in bad else expected), run_id
    counts = faulty.metadata["runs"]
    assert (counts["written"], counts["failed"], counts["filtered"]) == (13, 0, 0)
    assert faulty.metadata["status"] == "partial"
    assert faulty.metadata["history"]["mismatched"] == sorted([*bad, "short"])
    (row,) = json.loads(done.out)["exports"]
    assert (row["status"], row["runs"], row["failed"]) == ("partial", 13, 5)
    assert "signature=" not in done.err + done.out


def test_a_dead_storage_host_is_not_asked_for_every_run(server, export, project):
    """With 2 workers 8 downloads are under way at once; twice as many given up in a row end it."""
    n, at_once, tries = 60, 2 * 4, 1 + 1
    for number in range(n):
        server.add_run("team", "demo", f"r{number:02d}", summary={"loss": 1})
        server.add_history("team", "demo", f"r{number:02d}", rows=log(list(range(5)), loss=float))
    server.fault("status", match={"kind": "download"}, status=503, headers={"Retry-After": "0"})
    done = export("-e", "team", "--include-history", "--workers", 2, "--retries", tries - 1, "--timeout", 10)
    assert done.code == 3
    assert 2 * at_once * tries <= server.counts()["download"] < 3 * at_once * tries
    assert len(names_of_failed(project("demo"))) == len(ids_of(project("demo"))) == n
    told = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert told[-2].startswith("error: r")
    assert told[-2].endswith("because the server no longer answers; run this again later")
    assert (
        "more, all listed in the metadata file: history: not requested, because the server no longer answers"
        in told[-1]
    )


def test_short_histories_do_not_stop_the_others(server, export, project):
    for number in range(12):  # more failures one after the other than a silent server may have
        server.add_run("team", "demo", f"r{number:02}", summary={"a": 1}, history_rows=7)
        server.add_history("team", "demo", f"r{number:02}", live=[{"_step": step, "a": step} for step in range(5)])
    done = export("team/demo", "--include-history", "--retries", "0", "--workers", "1")
    assert done.code == 3
    assert "no longer answers" not in done.err
    assert project("demo").history.height == 12 * 5


def test_runs_whose_files_are_gone_cost_the_others_nothing(server, export, project):
    """A storage that says 403 or 404 lives: it is asked on, however many of these there are."""
    for number in range(60):
        server.add_run("team", "demo", f"r{number:02d}", summary={"loss": 1})
        server.add_history("team", "demo", f"r{number:02d}", rows=log(list(range(5)), loss=float))
        if number < 50:
            status = 403 if number % 2 else 404
            server.fault("status", match={"kind": "download", "run": f"r{number:02d}"}, status=status)
    done = export("-e", "team", "--include-history", "--workers", 2, "--retries", 0, "--timeout", 10)
    assert done.code == 3
    assert set(project("demo").history["run_id"]) == {f"r{number}" for number in range(50, 60)}
    assert "not fetched" not in done.err


def test_a_run_whose_second_attempt_fails_is_one_failure(server, export, project):
    server.add_run("team", "demo", "one", summary={"loss": 1}, history_rows=25)
    server.add_history("team", "demo", "one", rows=log(list(range(20)), loss=float))
    server.fault("error", match={"field": "parquetHistory", "run": "one"}, after=1)
    assert export("-e", "team", "--include-history", "--retries", "1").code == 3
    (failure,) = project("demo").metadata["failed"]
    assert failure["error"] == "only 20 of 25 rows were downloaded: simulated failure"
    assert (failure["attempts"], project("demo").metadata["history"]["rows"]) == (2, 20)


def test_steps_that_repeat_are_no_loss(server, export, project, tmp_path):
    """The server counts rows; a step logged twice is two of them, and is fetched once for all."""
    columns = {"_step": [0, 1, 1, 2], "loss": [0.0, 1.0, 1.5, 2.0], "huge": [2**64 - 1, 1, 2, 3]}
    server.add_run("team", "demo", "one", summary={"loss": 1})
    file = write_parquet(tmp_path / "repeated.parquet", columns | {"huge": pa.array(columns["huge"], pa.uint64())})
    server.add_history("team", "demo", "one", files=[file])
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    rows = [(step, row[("loss",)], row[("huge",)]) for step, row in rows_of(project("demo"), "one")]
    assert rows == [(0, 0.0, 2.0**64), (1, 1.5, 2.0), (2, 2.0, 3.0)]
    assert project("demo").metadata["history"]["mismatched"] == ["one"]
    server.reset()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert asked_for(server) == set()


def test_damage_inside_of_one_of_several_exports_is_named(server, export, project, tmp_path):
    server.add_run("team", "demo", "one", summary={"a": 1}, history_rows=2)
    whole = write_parquet(tmp_path / "whole.parquet", {"_step": [0], "_timestamp": [0.5], "a": [1]})
    damaged = write_parquet(tmp_path / "damaged.parquet", {"_step": [1], "_timestamp": [1.5], "a": [2]})
    page = pq.read_metadata(damaged).row_group(0).column(1).dictionary_page_offset
    content = damaged.read_bytes()
    damaged.write_bytes(content[:page] + b"damage" + content[page + len(b"damage") :])
    server.add_history("team", "demo", "one", files=[whole, damaged])
    assert export("-e", "team", "--include-history", *QUICK).code == 3
    (failure,) = project("demo").metadata["failed"]
    assert (failure["error"], failure["attempts"]) == ("the download is incomplete or damaged; export again", 2)


def test_a_tail_that_fails_leaves_what_was_exported(server, export, project):
    server.add_run("team", "demo", "one", summary={"loss": 1})
    server.add_history("team", "demo", "one", rows=log(list(range(20)), loss=float), live=log([20, 21], loss=float))
    server.fault("error", match={"field": "history"})
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3
    assert "error: one: history: only 20 of 22 rows were downloaded: " in done.err
    assert "team/demo: 1 run (1 finished), 20 history rows, 1 failure" in done.err
    assert project("demo").history["_step"].to_list() == list(range(20))
    assert project("demo").metadata["history"]["mismatched"] == ["one"]


def test_an_answer_that_cannot_be_understood_costs_its_project_alone(server, export, project):
    for name in ("good", "bad"):
        server.add_runs("team", name, 3, keys=8)
    server.fault("null", match={"field": "runs", "project": "bad"})
    done = export("-e", "team", *QUICK)
    assert done.code == 3
    assert "error: team/bad: the answer has no runs" in done.err
    assert len(ids_of(project("good"))) == 3


def test_what_a_killed_export_was_writing_is_removed(server, export, tmp_path):
    server.add_runs("team", "demo", 3, keys=8)
    work = tmp_path / "out" / ".wandb_tools" / "work"
    work.mkdir(parents=True)
    (work / "team_demo_history.parquet").write_bytes(b"PAR1")
    assert export("-e", "team", *QUICK).code == 0
    assert not work.exists()
    assert not (tmp_path / "out" / "team_demo_history.parquet").exists()


def test_a_busy_storage_host_is_left_alone_for_as_long_as_it_asks(server, export, project):
    server.add_run("team", "demo", "one", summary={"loss": 1})
    server.add_history("team", "demo", "one", rows=log(list(range(5)), loss=float))
    server.fault("status", match={"kind": "download"}, times=1, status=429, headers={"Retry-After": "3"})
    started = time.monotonic()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert time.monotonic() - started >= 3
    assert project("demo").history.height == 5


def test_a_long_live_tail_comes_in_pieces(server, export, project):
    """Runs without exports on a server that tells nothing of their rows but how many there are, and the last step."""
    server.configure(live_data_before_export=False)
    steps = {"even": range(12_000), "sparse": range(0, 60_000_000, 5_000), "dense-end": [0, *range(90_000, 101_000)]}
    for run_id, logged_at in steps.items():
        server.add_run("team", "live", run_id, summary={"loss": 1})
        server.add_history("team", "live", run_id, live=log(list(logged_at), loss=float))
    server.fault("error", match={"field": "history", "run": "even"}, times=2)
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    for run_id, logged_at in steps.items():
        rows = project("live").history.filter(pl.col("run_id") == run_id)
        assert rows["_step"].to_list() == list(logged_at), run_id
        assert rows["metric_loss"].to_list() == [float(step) for step in logged_at]
    asked = [r["runs"] for r in server.requests(kind="graphql") if "history" in r["fields"]]
    counts = {run_id: asked.count([run_id]) for run_id in steps}
    assert (counts["sparse"], counts["dense-end"]) == (3, 3)
    assert 3 + 2 < counts["even"] <= 3 + 2 + 2  # a range that fails is halved


def test_a_shorter_answer_does_not_replace_a_fuller_history(server, export, project):
    add_logged_runs(server, "demo", "ab")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.delete_run("team", "demo", "a")
    server.add_run("team", "demo", "a", summary={"loss": 1}, history_rows=9)
    server.add_history("team", "demo", "a", rows=log(list(range(3)), loss=float, acc=lambda s: s / 10))
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3
    assert rows_of(project("demo"), "a") == rows_of(project("demo"), "b") == logged(5, "loss", "acc")
    assert project("demo").metadata["history"]["mismatched"] == ["a"]


# --- what the real SDK was told is what the files hold --------------------------------------------------------

SYNCED = "team_synced"  # all runs that were recorded offline, in one project
DOUBLES = {2**62 + 1: 2.0**62, 2**70: 2.0**70}  # ints in W&B's own exports of histories


class Recorded(NamedTuple):
    """What the SDK recorded online and offline, and the exports of that from the server and from the disk."""

    folder: Path
    done: Done

    def online(self, run_id: str) -> tuple[Exported, str]:
        return exported(self.folder / "online", f"tester_{run_id}"), run_id

    def synced(self, run_id: str) -> tuple[Exported, str]:
        return exported(self.folder / "online", SYNCED), run_id

    def offline(self, run_id: str) -> tuple[Exported, str]:
        return exported(self.folder / "offline", f"offline_{run_id}"), run_id


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, clean_environment, worker_id) -> Recorded:
    """Recorded and exported once for all of pytest's processes: whoever comes first does it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "recorded-online"
    folder.mkdir(exist_ok=True)
    outcome = folder / "outcome.json"
    with (folder / "lock").open("w") as lock, Server() as server:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            server.add_entity("team")
            done = record_and_export(folder, clean_environment | server.environment(folder / "sdk"))
            outcome.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return Recorded(folder, Done(*json.loads(outcome.read_text())))


def record_and_export(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False,
            timeout=LIMIT_S,
        )  # fmt: skip

    recorders = []
    for mode in ("online", "offline"):
        logs = folder / f"logs-{mode}"
        logs.mkdir()
        how = environment | {"RECORDINGS_MODE": mode, "WANDB_DIR": str(logs)}
        recorders.append(subprocess.Popen([sys.executable, recordings.__file__, logs, "for-server"], env=how))
    assert [recorder.wait(LIMIT_S) for recorder in recorders] == [0, 0]
    sync = ("-m", "wandb", "sync", "-e", "team", "-p", "synced")
    synced = run(*sync, *sorted((folder / "logs-offline").glob("wandb/offline-run-*")))
    assert synced.returncode == 0, synced.stderr
    script = ROOT / "wandb-tools" / "export_runs.py"
    local = run(script, "--offline", folder / "logs-offline", "-o", folder / "offline", "--include-history")
    assert local.returncode == 0, local.stderr
    return run(script, "-e", "tester,team", "-o", folder / "online", "--include-history", *QUICK)


def row_of(project: Exported, run_id: str) -> dict[str, Any]:
    return project.runs.filter(id=run_id).row(0, named=True)


def as_sent(tree: Any) -> Any:
    """A config as the SDK sends it: without empty dicts; ints past 64 bits are doubles."""
    if isinstance(tree, dict):
        return {key: as_sent(value) for key, value in tree.items() if value != {}}
    return as_float(tree) if type(tree) is int and abs(tree) >= 2**63 else tree


def as_float(number: int) -> float:
    return float(number) if abs(number) < 10**308 else math.inf


def as_exported(rows: Iterable[tuple[int, dict[Any, Any]]]) -> list[list[Any]]:
    """Rows as the server's exports hold them: ints as doubles, and no key whose type changes from row to row."""
    return [
        [step, {path: DOUBLES.get(value, value) for path, value in values.items() if path[0] != "mixed"}]
        for step, values in rows
    ]


ONLINE = pytest.mark.parametrize("how", ["online", "synced"])


def test_whole_recording(recorded):
    assert recorded.done.code == 0, recorded.done.err
    written = [Path(name) for name in recorded.done.out.splitlines()]
    assert sorted(written) == sorted((recorded.folder / "online").glob("*_runs.parquet"))
    assert not list(recorded.folder.rglob("*.partial"))


@ONLINE
def test_configs_value_for_value(recorded, how):
    project, run_id = getattr(recorded, how)("config")
    config = json.loads(row_of(project, run_id)["_config_json"])
    expected = as_sent(recordings.CONFIG) | {"half a pair": "\N{REPLACEMENT CHARACTER}"}
    assert same(config, export_runs.jsonable(expected))
    project, run_id = getattr(recorded, how)("config32")
    config = json.loads(row_of(project, run_id)["_config_json"])
    assert same(config, recordings.FLOAT32_CONFIG)
    project, run_id = getattr(recorded, how)("changed")
    config = functools.reduce(dict.__or__, recordings.CHANGES, recordings.CHANGED_CONFIG) | {"after": 2**62 + 1}
    row = row_of(project, run_id)
    assert same(json.loads(row["_config_json"]), config | recordings.MERGED)
    assert {"name": row["name"], "notes": row["notes"], "tags": tuple(row["tags"])} == recordings.NEW_LABELS
    assert (row["group"], row["job_type"]) == (recordings.GROUP, recordings.JOB_TYPE)


@ONLINE
@pytest.mark.parametrize("name", ["rows", "typed"])
def test_histories_value_for_value(recorded, how, name):
    project, run_id = getattr(recorded, how)(name)
    expected = as_exported(enumerate([*(values for _, values in recordings.ROWS), {}]))
    assert same([list(row) for row in rows_of(project, run_id)], expected)
    assert set(project.metadata["skipped_history_keys"]) == set(recordings.ROWS_SKIPPED)
    assert row_of(project, run_id)["history_rows"] == len(expected)


@ONLINE
def test_summaries_and_definitions(recorded, how):
    project, run_id = getattr(recorded, how)("summary")
    summary = json.loads(row_of(project, run_id)["_summary_json"])
    assert same({key: value for key, value in summary.items() if key[0] != "_"}, recordings.SUMMARY)
    project, run_id = getattr(recorded, how)("defined")
    summary = json.loads(row_of(project, run_id)["_summary_json"])
    told = {name: value for name, (_, value) in recordings.DEFINITIONS.items() if value is not None}
    assert {name: summary.get(name) for name in told} == told
    facts, columns = facts_of(project.history_file), paths_of(project.history_file)
    expected = {name: fact for name, fact in recordings.DEFINED_FACTS.items() if fact[1] != "copy"}  # is not sent
    assert {name: facts[columns[name,]] for name in expected} == {
        name: dict(zip(("goal", "summary", "step_metric"), fact, strict=True)) for name, fact in expected.items()
    }
    project, run_id = getattr(recorded, how)("dotted")
    facts, columns = facts_of(project.history_file), paths_of(project.history_file)
    assert all((columns[path] in facts) == is_reached for path, is_reached in recordings.DOTTED.values())


ALIKE = "state runtime_s last_step history_rows tags group job_type sweep notes"
RUNS = "config config32 no-config changed rows typed steps many defined summary failed found-dead in-sweep resumed"
RUNS += " continued preempted"


@pytest.mark.parametrize("name", RUNS.split())
def test_a_synced_run_is_the_offline_one(recorded, name):
    there, here = recorded.synced(name), recorded.offline(name)
    ours, theirs = row_of(*there), row_of(*here)
    assert {key: ours[key] for key in ALIKE.split()} == {key: theirs[key] for key in ALIKE.split()}
    assert theirs["name"] in {ours["name"], name}  # to those without one the server gave one
    wanted = as_sent(json.loads(theirs["_config_json"]))
    wanted |= {"half a pair": "\ufffd"} if name == "config" else {}
    assert same(json.loads(ours["_config_json"]), export_runs.jsonable(wanted))
    assert same(json.loads(ours["_summary_json"]), json.loads(theirs["_summary_json"]))
    assert same([list(row) for row in rows_of(*there)], as_exported(rows_of(*here)))
    clocks = [of.history.filter(run_id=name).select("_step", "_runtime", "_timestamp") for of, _ in (there, here)]
    assert clocks[0].equals(clocks[1])


def test_columns_that_only_a_server_fills(recorded):
    project, run_id = recorded.online("changed")
    row = row_of(project, run_id)
    assert (row["entity"], row["project"], row["user"]) == ("tester", "changed", "tester")
    assert row["url"].endswith("/tester/changed/runs/changed")
    assert row["created_at"] <= row["heartbeat_at"] <= row["exported_at"]
    assert project.metadata["source"]["base_url"].startswith("http://127.0.0.1:")


# --- odd runs -------------------------------------------------------------------------------------------------

ODD_CONFIGS = {
    "no-config": "{}",
    "empty": "{}",
    "broken-config": json.dumps('{"lr": {"value": 0.1'),  # as it came
    "list-config": json.dumps("[1, 2]"),
    "value-in-config": '{"a": {"value": 7, "other": 8}, "b": {"value": 7, "other": 8}}',
    "bare-config": '{"lr": 0.1, "seed": 3}',
    "bare-nan": '{"lr": "NaN"}',
    "huge-int": '{"n": 123456789012345678901234567890}',
    "only-desc": '{"a": {"desc": "of a"}, "b": 1}',
    "deep-nan": '{"a": {"b": ["Infinity", 1]}}',
    "half-pair": '{"a": "\\ud800"}',
    "null-config": "{}",
    "notes": '{"lr": 1}',
}
ODD_SUMMARIES = {
    "no-summary": "{}",
    "empty": "{}",
    "broken-summary": json.dumps('{"loss": 0.1,,}'),
    "bare-nan": '{"loss": "NaN", "best": "-Infinity"}',
    "text-nan": '{"loss": "NaN", "best": "Infinity"}',
    "huge-int": '{"n": 1e+30}',
    "big-int": '{"n": 9007199254740993, "m": 123456789012345678901234567890}',
    "spelt": '{ "b" : 1.0,\n "a": -0.0 }',  # what is valid JSON stays, to the letter
    "colliding": '{"a/b": 1, "a.b": 2, "a_b": 3, "a": {"b": 4}}',
}
ODD_NOTES = '[{"1": [7]}, {"1": "a", "5": 1, "7": 3, "8": []}, 3]'  # of define_metric
ODD_NUMBERS = {
    "bare-nan": {("loss",): math.nan, ("best",): -math.inf},
    "text-nan": {("loss",): math.nan, ("best",): math.inf},
    "huge-int": {("n",): 1e30},
    "big-int": {("n",): 9007199254740993.0, ("m",): 123456789012345678901234567890.0},
    "colliding": {("a/b",): 1, ("a.b",): 2, ("a_b",): 3, ("a", "b"): 4},
    "derived-summary": {("loss", "min"): 0.1, ("loss", "max"): 2.5},
    "media": {},
    "broken-summary": {},
    "flags": {("yes",): 1, ("deep", "no"): 0},
}


def strict_json(text: str) -> Any:
    """The value of a JSON text without NaN and the like, which JSON lacks."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_odd_runs_spoil_nothing(server, export, project):
    server.add_odd_runs("team", "odd")
    more = {
        "only-desc": {"config": '{"a": {"desc": "of a"}, "b": {"value": 1, "desc": "of b"}}'},
        "deep-nan": {"config": '{"a": {"value": {"b": [Infinity, 1]}}}'},
        "half-pair": {"config": '{"a": {"value": "\\ud800"}}'},
        "null-config": {"config": "null", "summary": "null", "heartbeat_at": None},
        "notes": {
            "config": f'{{"_wandb": {{"value": {{"m": {ODD_NOTES}}}}}, "wandb_version": 1, "lr": {{"value": 1}}}}'
        },
        "big-int": {"summary": ODD_SUMMARIES["big-int"]},
        "spelt": {"summary": ODD_SUMMARIES["spelt"]},
        "flags": {"summary": '{"yes": true, "deep": {"no": false}, "text": "x", "none": null, "list": [1]}'},
        "a/b ?#%[red]\n": {},
        "deep": {"config": '{"a": {"value": ' + '{"x": ' * 990 + "1" + "}" * 992, "summary": '{"loss": 1}'},
    }
    for run_id, values in more.items():
        server.add_run("team", "odd", run_id, **values)
    server.add_run("team", "good", "one", config={"lr": 1})
    done = export("-e", "team", *QUICK)
    assert done.code == 3, done.err
    odd = project("odd")
    assert set(ids_of(odd)) == set(server.run_ids("team", "odd"))
    counts = odd.metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"]) == (len(odd.runs), len(odd.runs), 0)
    bad = [
        ("broken-config", "config"),
        ("broken-summary", "summaryMetrics"),
        ("deep", "config"),
        ("list-config", "config"),
    ]
    assert sorted(names_of_failed(odd)) == bad
    assert [line.split(":")[1].strip() for line in done.err.splitlines() if line.startswith("error")] == [
        f"team/odd/{run_id}" for run_id in ("broken-config", "broken-summary", "deep", "list-config")
    ]
    assert project("good").metadata["status"] == "complete"
    rows = {row["id"]: row for row in odd.runs.iter_rows(named=True)}
    for column, texts in (("_config_json", ODD_CONFIGS), ("_summary_json", ODD_SUMMARIES)):
        for run_id, text in texts.items():  # which blanks there are is of no meaning
            assert repr(strict_json(rows[run_id][column])) == repr(strict_json(text)), run_id
    columns = {path: name for path, name in paths_of(odd.runs_file).items() if name.startswith("metric_")}
    for run_id, numbers in ODD_NUMBERS.items():
        found = {path: rows[run_id][name] for path, name in columns.items() if rows[run_id][name] is not None}
        assert repr_of([(0, found)]) == repr_of([(0, numbers)]), run_id
    assert (rows["no-user"]["user"], rows["no-name"]["user"]) == (None, "tester")
    assert (rows["no-name"]["name"], rows["empty-name"]["name"]) == ("no-name", "empty-name")
    assert rows["unheard-of-state"]["state"] == "hibernating"
    assert rows["no-history-keys"]["history_rows"] == 10
    assert (rows["empty"]["heartbeat_at"], rows["derived-summary"]["runtime_s"]) == (None, 12)
    assert (rows["unicode"]["name"], rows["unicode"]["tags"]) == ("λ=0.1 \u202e\x1b[31mred", ["größe", "a,b"])
    assert rows["a/b ?#%[red]\n"]["url"].endswith("/team/odd/runs/a%2Fb%20%3F%23%25%5Bred%5D%0A")
    assert not set(done.err + done.out) & {"\x1b", "\u202e"}


# --- faults ---------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    """What a user finds in the folder: everything but what an interrupted export keeps for itself."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".wandb_tools" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def error_line(done: Done) -> str:
    """The only line that a failed call prints, without its beginning."""
    lines = done.err.splitlines()
    assert (len(lines), done.out) == (1, ""), done
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_a_server_in_trouble(server, export, project):
    """Faults that pass are got over; a project that always fails costs bounded time, and the others nothing."""
    passing: dict[str, dict[str, Any]] = {
        "busy": {"action": "status", "status": 429, "headers": {"Retry-After": "1"}, "times": 2},
        "busier": {"action": "status", "status": 429, "times": 3},
        "errors": {"action": "status", "status": 500, "times": 2},
        "gateway": {"action": "status", "status": 502, "times": 2, "after": 1},
        "dropped": {"action": "drop", "times": 2},
        "cut": {"action": "cut", "times": 1},
        "truncated": {"action": "truncate", "times": 1, "after": 1},
        "null": {"action": "error", "times": 1, "match": {"field": "runs"}},
        "hangs-once": {"action": "hang", "times": 1},
    }
    lasting: dict[str, dict[str, Any]] = {
        "refused": {"action": "status", "status": 403, "message": "permission denied"},
        "broken": {"action": "status", "status": 500},
        "hangs": {"action": "hang"},
    }
    for number, config in enumerate(("metric: [", "- a", "metric: loss", "", "metric: {name: loss, goal: maximize}")):
        server.add_sweep("team", "swept", f"s{number}", config=config)
        server.add_run("team", "swept", f"run{number}", sweep=f"s{number}", summary={"loss": 1})
    server.add_run("team", "no-sweeps", "one", sweep="s1", summary={"loss": 1})
    server.fault("error", match={"project": "no-sweeps", "field": "sweep"})
    for name, fault in (passing | lasting).items():
        server.add_runs("team", name, 20, keys=8)
        server.fault(match={"project": name} | fault.pop("match", {}), **fault)
    done = export("-e", "team", "--json", "--timeout", 3, "--retries", 3, "--workers", 10)
    assert done.code == 3, done.err
    for name in passing:
        assert sorted(ids_of(project(name))) == server.run_ids("team", name), name
        assert (project(name).metadata["status"], project(name).metadata["runs"]["failed"]) == ("complete", 0)
    assert facts_of(project("swept").runs_file)["metric_loss"]["goal"] == "maximize"
    assert (names_of_failed(project("no-sweeps")), ids_of(project("no-sweeps"))) == (
        [("team/no-sweeps", "sweeps")],
        ["one"],
    )
    rows = {row["project"]: row for row in json.loads(done.out)["exports"]}
    expected = dict.fromkeys([*passing, "swept"], "complete") | dict.fromkeys(lasting, "failed")
    assert {name: row["status"] for name, row in rows.items()} == expected | {"no-sweeps": "partial"}
    for name in lasting:
        assert rows[name]["entity"] == "team"
        assert f"error: team/{name}: {rows[name]['error']}" in done.err.splitlines()
    assert "permission denied" in rows["refused"]["error"]
    assert "no answer within 3 s" in rows["hangs"]["error"]
    assert server.rules()[-3]["hits"] == 1  # the refused one: asked once
    assert len([line for line in done.err.splitlines() if line.startswith("error")]) == len(lasting) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WANDB_API_KEY": ""}, "no API key for http://127.0.0.1"),
        ({"WANDB_API_KEY": "1" * 39}, "invalid API key"),
        ({"WANDB_API_KEY": "1" * 40}, "the API key is wrong"),
        ({"WANDB_BASE_URL": "nowhere"}, "WANDB_BASE_URL is not a valid URL"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:1"}, "cannot sign in to http://127.0.0.1:1"),
    ],
)
def test_no_access_is_one_line(export, tmp_path, settings, said):
    done = export("-e", "team", *QUICK, env=settings)
    assert done.code == 1
    assert said in error_line(done)
    assert ";" in error_line(done)  # what to do
    assert "1" * 39 not in done.err
    assert not snapshot(tmp_path / "out")


@pytest.mark.parametrize("globs", ["*", "d*,e*"])
def test_a_server_that_tells_no_projects(server, export, globs):
    server.add_runs("team", "demo", 3, keys=8)
    server.fault("status", match={"field": "models"}, status=503)
    done = export("-e", "team", "-p", globs, "--timeout", 5, "--retries", 0)
    assert done.code == 1
    assert "team: its projects cannot be listed: simulated failure (HTTP 503)" in error_line(done)


def test_an_entity_that_tells_no_projects_costs_the_others_nothing(server, export, project):
    for entity in ("team", "silent"):
        server.add_runs(entity, "demo", 3, keys=8)
    server.fault("status", match={"field": "models", "entity": "silent"}, status=503)
    done = export("-e", "silent,team", "--timeout", 5, "--retries", 0)
    assert done.code == 3
    assert "error: silent: its projects cannot be listed: " in done.err
    assert len(ids_of(project("demo"))) == 3


def test_a_named_project_that_always_fails_costs_the_others_nothing(server, export, project):
    for name in ("good", "bad"):
        server.add_runs("team", name, 3, keys=8)
    server.fault("status", match={"project": "bad"}, status=500)
    done = export("team/good", "team/bad", "--timeout", 5, "--retries", 0)
    assert done.code == 3
    assert "error: team/bad: " in done.err
    assert len(ids_of(project("good"))) == 3


def test_one_odd_time_costs_nothing(server, export, project):
    server.add_run("team", "demo", "odd", heartbeat_at="yesterday", summary={"loss": 1.0})
    server.add_run("team", "demo", "even", summary={"loss": 2.0})
    done = export("team/demo")
    assert done.code == 0, done.err
    assert project("demo").runs.sort("id")["heartbeat_at"].is_null().to_list() == [False, True]


def test_places_that_cannot_be_written_to(server, export, run_script, tmp_path):
    (tmp_path / "file").write_text("")
    server.add_runs("team", "demo", 3, keys=8)
    done = export("-e", "team", "-o", tmp_path / "file" / "out")
    assert done.code == 1
    assert error_line(done) == f"{tmp_path}/file/out/.wandb_tools: Not a directory; fix this and run again"


LIMITED = """import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])"""


@pytest.mark.parametrize(
    ("limit", "files"),
    [(20_000, "out/.wandb_tools/work"), (100_000, "out"), (1_500_000, "out/team_demo_history.parquet")],
)
def test_a_full_disk(server, script_command, tmp_path, limit, files):
    """Told apart by size: the first to become too long is a page of runs, a download, the history file."""
    if limit < 100_000:
        server.add_runs("team", "demo", 500)
    server.add_histories("team", "demo", 2, steps=20_000, metrics=5)
    out = tmp_path / "out"
    out.mkdir()
    (out / "team_demo_runs.parquet.txt").write_text("not ours")
    command = script_command(
        "export_runs.py", "-e", "team", "-o", out, "--include-history", *QUICK, env=server.environment(tmp_path / "sdk")
    )
    command["args"] = [sys.executable, "-c", LIMITED, str(limit), *command["args"]]
    done = subprocess.run(**command, capture_output=True, timeout=LIMIT_S, check=False)
    line = error_line(Done(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 1
    assert f"{tmp_path}/{files}" in line
    assert "File too large" in line  # what a limit says in place of a full disk
    assert snapshot(out) == {"team_demo_runs.parquet.txt": b"not ours"}


@pytest.mark.parametrize("place", ["file", "netrc"])
def test_the_key_goes_to_the_server_alone(run_script, call_script, tmp_path, place):
    canary = secrets.token_hex(20)
    key_file = tmp_path / "key"
    with Server(api_key=canary) as server:
        server.add_histories("team", "demo", 3, steps=10, metrics=2, live=2)
        (tmp_path / "netrc").write_text(
            f"machine 127.0.0.1:{server.api.server_port} login user password {canary}\n"
            f"machine 127.0.0.1 login user password {canary}\n"
        )
        settings = server.environment(tmp_path / "sdk") | {"NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
        arguments: list[object] = ["-o", tmp_path / "out", "--include-history", "--debug", *QUICK]
        if place == "file":
            key_file.write_text(canary + "\n")
            arguments += ["--api-key-file", key_file]
        elsewhere = ask_for_url(server, "hist00001")
        server.fault(
            "status", match={"kind": "download", "run": "hist00000"}, times=1, status=302,
            headers={"Location": elsewhere},
        )  # fmt: skip
        server.fault("status", match={"kind": "download", "run": "hist00002"}, status=500)
        first = run_script("export_runs.py", "-e", "team", *arguments, env=settings)
        assert first.code == 3, first.err
        downloads = server.requests(service="storage")
        assert len(downloads) >= 5
        assert not [request for request in downloads if request["authorization"]]
        assert [request["authorization"] for request in server.requests(service="api")].count(False) == 0
        shown = first.out + first.err
        if place == "file":
            server.fault("status", match={"kind": "graphql"}, status=401, message="invalid API key")
            refused = call_script("export_runs.py", "-e", "team", *arguments, env=settings)
            assert refused.code == 1
            shown += refused.out + refused.err
    assert canary not in shown
    assert "signature=" not in shown
    for file in tmp_path.rglob("*"):
        if file.is_file() and file not in (key_file, tmp_path / "netrc"):
            assert canary.encode() not in file.read_bytes(), file


def ask_for_url(server: Server, run_id: str) -> str:
    """A signed URL of a run's first export."""
    return server.app.signed(f"/exports/team/demo/{run_id}/0.parquet")


# --- again ----------------------------------------------------------------------------------------------------


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


def test_only_what_has_changed_is_fetched_again(server, export, project, tmp_path):
    add_logged_runs(server, "demo", "abcde")
    server.add_run("team", "demo", "empty", history_rows=0)
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    demo = project("demo")
    before = demo.runs.drop("exported_at"), demo.history
    server.reset()
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == set()
    assert not {"download", "field:history", "field:parquetHistory"} & server.counts().keys()
    assert demo.runs.drop("exported_at").equals(before[0])
    assert demo.history.equals(before[1])
    assert project("demo").metadata["history"]["rows"] == 25

    server.reset()
    more = log(list(range(5, 8)), loss=float, acc=lambda step: step / 10)
    for run_id in "ad":  # resumed
        server.add_history("team", "demo", run_id, rows=more[:2], live=more[2:])
        server.change_run("team", "demo", run_id, state="running", heartbeat_at="2026-02-01T00:00:00Z")
    server.change_run("team", "demo", "b", display_name="renamed", tags=["new"])
    server.change_run("team", "demo", "e", state="failed", heartbeat_at="2026-01-02T00:00:00Z")
    server.delete_run("team", "demo", "c")
    add_logged_runs(server, "demo", "f")
    server.fault("status", match={"kind": "download", "run": "d"}, status=500)
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3, done.err
    assert {"a", "d", "f"} <= asked_for(server) <= set("adef")
    assert names_of_failed(project("demo")) == [("d", "history")]
    rows = {row["id"]: row for row in demo.runs.iter_rows(named=True)}
    assert set(rows) == {*"abcdef", "empty"}
    assert (rows["b"]["name"], rows["b"]["tags"], rows["a"]["state"]) == ("renamed", ["new"], "running")
    assert (rows["a"]["history_rows"], rows["d"]["history_rows"]) == (8, 8)
    assert rows["c"]["exported_at"] < rows["a"]["exported_at"]
    assert project("demo").metadata["missing_on_server"] == ["c"]
    assert "1 of them no longer in the source" in done.err
    for run_id, steps in {"a": 8, "b": 5, "c": 5, "d": 5, "e": 5, "f": 5}.items():
        assert rows_of(demo, run_id) == logged(steps, "loss", "acc"), run_id

    server.reset()
    done = export("-e", "team", "--include-history", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == {"d"}  # what failed is tried again
    assert ids_of(demo) == sorted([*"abdef", "empty"])
    assert (rows_of(demo, "d"), rows_of(demo, "c")) == (logged(8, "loss", "acc"), [])
    assert project("demo").metadata["missing_on_server"] == []

    server.add_run("team", "demo", "emptier", history_rows=0)
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.reset()
    done = export("-e", "team", "--include-history", "--dry-run", *QUICK)
    assert done.out == "team/demo: 7 runs (4 finished, 2 running, 1 failed), 0 history rows to download\n"
    assert asked_for(server) == set()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert asked_for(server) == set()


def test_when_all_runs_have_gone(server, export, project):
    add_logged_runs(server, "demo", "abc")
    add_logged_runs(server, "other", "x")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.delete_run("team", "demo", "b")
    done = export("-e", "team", "--prune", *QUICK)  # and not --include-history
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), set(project("demo").history["run_id"])) == (["a", "c"], {"a", "c"})
    for run_id in "ac":
        server.delete_run("team", "demo", run_id)
    done = export("team/demo", *QUICK)
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), project("demo").metadata["missing_on_server"]) == (["a", "c"], ["a", "c"])
    done = export("team/demo", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), project("demo").metadata["missing_on_server"]) == ([], [])
    assert project("demo").history.is_empty()
    assert rows_of(project("other"), "x") == logged(5, "loss", "acc")


def test_filters_remove_nothing_and_other_keys_fetch_anew(server, export, project, tmp_path):
    add_logged_runs(server, "demo", "abc")
    server.change_run("team", "demo", "b", tags=["new"], heartbeat_at="2026-02-01T00:00:00Z")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    demo = project("demo")
    server.delete_run("team", "demo", "c")
    server.reset()
    done = export("-e", "team", "--include-history", "--history-keys", "LOSS", "--tag", "new", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert "--tag kept 1 of 2 runs" in done.err
    assert "matches no metric" not in done.err
    assert (asked_for(server), ids_of(demo)) == ({"b"}, ["a", "b", "c"])
    assert rows_of(demo, "a") == rows_of(demo, "c") == logged(5, "loss", "acc")
    assert rows_of(demo, "b") == logged(5, "loss")
    assert project("demo").metadata["filters"] == {"entity": ["team"], "tag": ["new"]}
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (2, 1, 0, 1)

    server.reset()
    fetch = ("--include-history", "--history-keys", "LOSS", "--active-since", "2026-01-15", "--prune")
    done = export("-e", "team", *fetch, *QUICK)
    assert done.code == 0, done.err
    assert "--active-since kept 1 of 2 runs" in done.err
    assert (asked_for(server), ids_of(demo)) == (set(), ["a", "b", "c"])
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (2, 1, 0, 1)

    done = export("-e", "team", "--include-history", "--history-keys", "LOSS", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == {"a"}  # its earlier history was of all keys
    assert rows_of(demo, "a") == rows_of(demo, "b") == logged(5, "loss")
    assert rows_of(demo, "c") == logged(5, "loss", "acc")


# --- interrupted ----------------------------------------------------------------------------------------------


@pytest.fixture
def start(server, script_command, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the script and talk to it while it runs."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> subprocess.Popen[str]:
        env = server.environment(tmp_path / "sdk")
        command = script_command("export_runs.py", "-e", "team", "-o", tmp_path / "out", *arguments, env=env)
        started.append(subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=30)  # a default wait for the server would be longer
    return Done(process.returncode, out, err)


def test_an_interrupted_export_goes_on_where_it_was(server, export, start, project, tmp_path):
    """What is fetched together with the run that never comes is asked for again, what was finished is not."""
    add_logged_runs(server, "demo", "a")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    before = snapshot(tmp_path / "out")
    n = 80
    for number in range(n):
        add_logged_runs(server, "demo", [f"r{number:02d}"])
    hang = server.fault("hang", match={"kind": "download", "run": "r40"})
    process = start("--include-history", "--workers", 1)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)

    out = tmp_path / "out"
    wait_until(lambda: len(finished_runs(out)) >= n / 2)
    process.send_signal(signal.SIGINT)
    assert ended(process) == Done(130, "", "interrupted: to continue, run the same command again\n")
    assert snapshot(tmp_path / "out") == before
    left = {f"r{number:02d}" for number in range(n)} - finished_runs(out)
    server.reset()
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == left
    assert "r40" in left
    for run_id in ["a", *(f"r{number:02d}" for number in range(n))]:
        assert rows_of(project("demo"), run_id) == logged(5, "loss", "acc")
    assert project("demo").metadata["history"]["rows"] == 5 * (n + 1)
    assert not list((tmp_path / "out" / ".wandb_tools").rglob("*.parquet"))


def test_what_an_interrupted_export_had_for_a_second_is_kept(server, export, start, tmp_path):
    """Each of four threads fetches two runs by one question: the first takes a second, and the other never comes."""
    ids = [f"r{number}" for number in range(8)]
    add_logged_runs(server, "demo", ids)
    for run_id in ids[::2]:
        server.fault("slow", match={"kind": "download", "run": run_id}, seconds=1.1)
    hangs = [server.fault("hang", match={"kind": "download", "run": run_id}) for run_id in ids[1::2]]
    process = start("--include-history", "--workers", 1)
    for hang in hangs:
        server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    wait_until(lambda: finished_runs(tmp_path / "out") == {*ids[::2]})
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    server.reset()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert asked_for(server) == {*ids[1::2]}


@pytest.mark.parametrize("match", [{"operation": "Viewer"}, {"operation": "Runs"}])
def test_terminated_while_the_server_hangs(server, start, tmp_path, match):
    server.add_runs("team", "demo", 3, keys=8)
    hang = server.fault("hang", match=match)
    process = start()
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == Done(130, "", "interrupted: to continue, run the same command again\n")
    assert not snapshot(tmp_path / "out")


def test_two_exports_into_one_folder(server, start, project, tmp_path):
    add_logged_runs(server, "demo", "abc")
    hang = server.fault("hang", match={"kind": "download", "run": "b"}, times=1)
    first = start("--include-history", *QUICK[:2])
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    second = start("--include-history", *QUICK)
    assert second.stderr is not None
    assert second.stderr.readline() == f"another export is writing to {tmp_path}/out: waiting until it is done\n"
    server.clear_faults()
    assert [ended(first).code, ended(second).code] == [0, 0]
    for run_id in "abc":
        assert rows_of(project("demo"), run_id) == logged(5, "loss", "acc")


# --- filters, and other tables --------------------------------------------------------------------------------


def test_filters_are_the_servers(server, export, project):
    """Each run but one misses by one filter."""
    wanted = {
        "created_at": "2026-01-10T12:00:00Z", "state": "crashed", "tags": ["a", "b,c"], "group": "g", "sweep": "s1",
        "config": {"lr": 0.5, "model": {"k": 16}}, "summary": {"loss": 1},
    }  # fmt: skip
    misses = {
        "too-old": {"created_at": "2026-01-10T11:59:59Z"},
        "too-new": {"created_at": "2026-01-11T00:00:00Z"},
        "state": {"state": "finished"},
        "tag": {"tags": ["c"]},
        "group": {"group": None},
        "sweep": {"sweep": "s2"},
        "where": {"config": {"lr": 0.5, "model": {"k": 8}}},
    }
    server.add_sweep("team", "demo", "s1", config="metric: {name: loss, goal: maximize}\n")
    for run_id, values in {"wanted": {}, **misses}.items():
        server.add_run("team", "demo", run_id, **(wanted | values))
    done = export(
        *("-e", "team", "--since", "2026-01-10T13:00:00+01:00", "--until", "2026-01-11", "--state", "crashed,failed"),
        *("--tag", "x,a", "--group", "g", "--group", "h", "--sweep", "s1", "--where", '{"config.model.k": {"$gt": 8}}'),
        *QUICK,
    )
    assert done.code == 0, done.err
    assert ids_of(project("demo")) == ["wanted"]
    assert "--since, --until, --state, --tag, --group, --sweep, --where kept 1 of 8 runs" in done.err
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (8, 1, 0, 7)
    told = project("demo").metadata["filters"]
    assert told["where"] == {"config.model.k": {"$gt": 8}}
    assert told["since"] == "2026-01-10T12:00:00Z"
    assert facts_of(project("demo").runs_file)["metric_loss"]["goal"] == "maximize"  # the sweep's


def test_the_goal_of_a_sweep_is_that_of_its_metrics_summaries(server, export, project):
    """Where define_metric keeps only these, no other column has the goal; the sweep's counts before that of `max`."""
    server.add_sweep("team", "demo", "s1", config="metric: {name: loss, goal: minimize}\n")
    defined = {"1": "loss", "7": [2, 4]}  # max and last, by their numbers in the SDK's records
    config = {"_wandb": {"m": [defined]}}
    server.add_run("team", "demo", "r", sweep="s1", config=config, summary={"loss": {"max": 3, "last": 1}})
    assert export("-e", "team", *QUICK).code == 0
    facts = facts_of(project("demo").runs_file)
    assert {name: facts[name]["goal"] for name in ("metric_loss_max", "metric_loss_last")} == {
        "metric_loss_max": "minimize",
        "metric_loss_last": "minimize",
    }


def test_a_goal_that_has_changed(server, export, project):
    """Runs that stay from the earlier export count with their goals, too: here none does."""
    for number, goal in enumerate(["minimize", "maximize"], 1):
        config = {"_wandb": {"value": {"m": [{"1": "loss", "8": number}]}}}
        server.add_run("team", "demo", "r", config=json.dumps(config), summary={"loss": 1})
        assert export("-e", "team", *QUICK).code == 0
        assert facts_of(project("demo").runs_file)["metric_loss"]["goal"] == goal


def test_the_goals_of_a_sweep_over_several_metrics(server, export, project):
    config = "metrics: [{name: acc, goal: Maximize}, {name: time}]\n"
    server.add_sweep("team", "demo", "s1", config=config)
    server.add_run("team", "demo", "r", sweep="s1", summary={"acc": 1, "time": 2})
    assert export("-e", "team", *QUICK).code == 0
    goals = {name: facts["goal"] for name, facts in facts_of(project("demo").runs_file).items()}
    assert goals == {"metric_acc": "maximize", "metric_time": "minimize"}


@pytest.mark.parametrize("flags", [("--state", "killed"), ("--active-since", "2100-01-01")])
def test_a_filter_that_leaves_nothing(server, export, tmp_path, flags):
    add_logged_runs(server, "demo", "ab")
    done = export("-e", "team", "--include-history", *flags, *QUICK)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: no run left: {flags[0]} kept none of 2 runs; leave a filter out or loosen it\n"
    assert not snapshot(tmp_path / "out")
    assert asked_for(server) == set()


def test_a_filter_that_the_server_does_not_know_fails_soon(server, export):
    server.add_runs("team", "demo", 3, keys=8)
    done = export("team/demo", "--where", '{"$foo": 1}', "--retries", 4)
    assert done.code == 1
    assert server.counts()["operation:Plan"] <= 4


@pytest.mark.parametrize("status", [429, 502])
def test_a_busy_server_lets_us_in_later(server, export, status):
    server.add_runs("team", "demo", 3, keys=8)
    server.fault("status", match={"operation": "Viewer"}, times=3, status=status)
    assert export("-e", "team", *QUICK, "--retries", 3).code == 0
    server.fault("status", match={"operation": "Viewer"}, status=status)
    done = export("-e", "team", *QUICK)
    assert (done.code, done.out) == (1, "")
    *waits, line = done.err.splitlines()
    assert line.startswith(f"error: cannot sign in to {server.url}: ")
    assert line.endswith("the server is busy: try again later")
    assert f"HTTP {status}" in line
    assert all("waiting" in wait for wait in waits)


@pytest.mark.parametrize("where", ["{", "[1]", "lr > 1"])
def test_a_filter_that_is_none(export, where):
    done = export("-e", "team", "--where", where)
    assert done.code == 2
    assert error_line(done).startswith("argument --where: ")


def test_a_dry_run_fetches_no_configs_and_no_histories(server, export, tmp_path):
    add_logged_runs(server, "demo", "abc")
    server.change_run("team", "demo", "c", heartbeat_at="2026-02-01T00:00:00Z")
    add_logged_runs(server, "other", "xy")
    arguments = ("-e", "team", "--dry-run", "--include-history")
    done = export(*arguments, "--tag", "old")
    assert (done.code, sorted(done.out.splitlines())) == (
        0,
        [
            "team/demo: 3 runs (3 finished), 15 history rows to download",
            "team/other: 2 runs (2 finished), 10 history rows to download",
        ],
    )
    assert asked_for(server) == set()
    assert server.counts()["bytes_sent"] < 3_000  # texts of configs and summaries alone are more
    done = export(*arguments, "--active-since", "2026-01-15", "--json")
    assert done.code == 0, done.err
    rows = {row["project"]: row for row in json.loads(done.out)["exports"]}
    assert (rows["demo"]["runs"], rows["demo"]["history_rows"], rows["demo"]["status"]) == (1, 5, "planned")
    assert "--active-since kept 1 of 5 runs" in done.err
    assert not (tmp_path / "out").exists()


def test_sampled_histories_and_system_metrics(server, export, project, tmp_path):
    server.add_run("team", "demo", "a", summary={"loss": 1})
    server.add_history("team", "demo", "a", rows=log(list(range(100)), loss=float, text=str))
    events = [{"_runtime": t, "_timestamp": 1e9 + t, "system.cpu": t / 10, "system.gpu.0.gpu": 50} for t in range(30)]
    server.add_events("team", "demo", "a", events)
    server.add_run("team", "demo", "b")
    flags = ("--history-samples", 10, "--system-metrics", "--history-keys", "loss,nothing*")
    done = export("-e", "team", *flags, "--json", *QUICK)
    assert done.code == 0, done.err
    out = tmp_path / "out"
    names = [f"team_demo_{name}" for name in ("history_sampled.parquet", "system.parquet", "runs.parquet")]
    assert [Path(name).name for name in json.loads(done.out)["files"]] == [*names, "team_demo_metadata.json"]
    sampled = pl.read_parquet(out / names[0])
    assert (sampled.height, sampled["metric_loss"].to_list()) == (10, sampled["_step"].cast(pl.Float64).to_list())
    assert project("demo").metadata["history"]["sampled"] is True
    system = pl.read_parquet(out / names[1])
    assert system.columns == ["run_id", "entity", "project", "_runtime", "_timestamp",
                              "system_cpu", "system_gpu_0_gpu"]  # fmt: skip
    assert system["system_cpu"].to_list() == [t / 10 for t in range(30)]
    assert system["_runtime"].to_list() == list(range(30))
    assert "--history-keys nothing* matches no metric" in done.err
    assert "loss matches" not in done.err
    server.reset()
    assert export("-e", "team", *flags, *QUICK).code == 0
    assert not {"field:history", "field:events"} & server.counts().keys()  # nothing has changed
    assert pl.read_parquet(out / names[1]).equals(system)
    assert export("-e", "team", *flags, "--history-samples", 20, *QUICK).code == 0
    assert pl.read_parquet(out / names[0]).height == 20
    assert "field:events" not in server.counts()


# --- targets --------------------------------------------------------------------------------------------------


def test_entities_and_projects_by_name_and_glob(server, export, tmp_path):
    server.add_runs("a_b", "c", 2, keys=8)
    server.add_runs("a", "b_c", 3, keys=8)  # whose files would have the same names
    server.add_runs("a", "B_D", 1, keys=8)
    server.add_runs("a", "[odd]*", 1, keys=8)
    server.add_runs("a", "other", 1, keys=8)
    server.add_project("a_b", "b_empty")
    done = export("-e", "a_b,a", "-p", "b_*,C", "-p", "[odd]*", "--json", *QUICK)
    assert done.code == 0, done.err
    rows = {(row["entity"], row["project"]): row["runs"] for row in json.loads(done.out)["exports"]}
    assert rows == {("a_b", "c"): 2, ("a", "b_c"): 3, ("a", "B_D"): 1, ("a", "[odd]*"): 1}
    found = {}
    for file in (tmp_path / "out").glob("*_metadata.json"):
        document = json.loads(file.read_text())
        runs = pl.read_parquet(tmp_path / "out" / document["files"][-1]["name"], glob=False)
        found |= dict.fromkeys(runs.select("entity", "project").rows(), runs.height)
        assert runs["entity"].n_unique() == runs["project"].n_unique() == 1
    assert found == rows


def test_places(server, export, tmp_path):
    server.add_runs("tester", "mine", 2, keys=8)
    for run_id in ("one", "two", "three"):
        server.add_run("team", "a b", run_id, sweep="s1" if run_id != "three" else None)
        server.add_run("team", "swept", run_id, sweep="s1" if run_id == "two" else None)
        server.add_run("team", "whole", run_id)
    places = [
        f"{server.url}/team/a%20b/runs/one/overview?nw=nwuser",
        "team/a b/three",
        "https://wandb.ai/team/swept/sweeps/s1?workspace=user-x",
        "https://wandb.ai/team/whole/table",
        "team/whole/one",
    ]
    done = export(*places, "--json", *QUICK)
    assert done.code == 0, done.err
    found = {}
    for file in (tmp_path / "out").glob("*_runs.parquet"):
        runs = pl.read_parquet(file, glob=False)
        found[runs["project"][0]] = set(runs["id"])
    assert found == {"a b": {"one", "three"}, "swept": {"two"}, "whole": {"one", "two", "three"}}


def test_a_place_and_a_flag_are_both_meant(server, export, project):
    for sweep in ("s1", "s2", "s3"):
        server.add_run("team", "swept", f"of-{sweep}", sweep=sweep)
    done = export("https://wandb.ai/team/swept/sweeps/s1", "--sweep", "s1,s2", *QUICK)
    assert done.code == 0, done.err
    assert ids_of(project("swept")) == ["of-s1"]
    done = export("https://wandb.ai/team/swept/sweeps/s1", "--sweep", "s2,s3", *QUICK)
    assert done.code == 1
    assert "--sweep kept none of 3 runs" in done.err


def test_without_a_place_the_keys_own_entity(server, export, tmp_path):
    server.add_runs("tester", "mine", 2, keys=8)
    server.add_runs("team", "theirs", 2, keys=8)
    (tmp_path / "temporary").mkdir()
    done = export("--json", *QUICK, env={"TMPDIR": str(tmp_path / "temporary")})
    assert (done.code, [row["project"] for row in json.loads(done.out)["exports"]]) == (0, ["mine"])
    assert not list((tmp_path / "temporary").iterdir())  # nor does the SDK leave anything


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-e", "team", "-p", "dmeo"), "team has no project dmeo; did you mean demo?"),
        (("teem/demo",), "teem has no projects that your API key can see; did you mean team"),
        (("team/demo/nosuchrun",), "error: nosuchrun: there is no such run; nothing could be exported"),
        (("team/empty",), "error: no runs in team/empty; check the name on W&B's page"),
    ],
)
def test_unknown_places_are_one_line(server, export, tmp_path, arguments, said):
    server.add_runs("team", "demo", 2, keys=8)
    server.add_project("team", "empty")
    done = export(*arguments, *QUICK)
    assert done.code == 1
    assert said in done.err.splitlines()[-1]
    assert len(done.err.splitlines()) == 1
    assert not snapshot(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-e", "team,teem"), "error: teem/*: teem has no projects that your API key can see; did you mean team"),
        (("-e", "team", "-p", "de*", "-p", "zzz*"), "error: team/zzz*: team has no project zzz*"),
        (("team/demo", "team/dmeo"), "error: team/dmeo: team has no project dmeo; did you mean demo?"),
        (("team/demo/one", "team/demo/zzz"), "error: zzz: there is no such run"),
        (("team/demo/one", "https://wandb.ai/team/demo/sweeps/s9"), "error: s9: there is no run of this sweep"),
        (("team/demo/one", "https://wandb.ai/team/demo/groups/g9"), "error: g9: there is no run of this group"),
    ],
)
def test_unknown_places_beside_known_ones_are_named_and_cost_nothing_else(server, export, project, arguments, said):
    server.add_run("team", "demo", "one")
    done = export(*arguments, *QUICK)
    assert done.code == 3
    assert said in done.err
    assert ids_of(project("demo")) == ["one"]


def test_a_project_without_runs_beside_others_is_named(server, export):
    server.add_run("team", "demo", "one")
    server.add_project("team", "empty")
    done = export("team/demo", "team/empty", *QUICK)
    assert (done.code, done.err) == (0, "nothing to export in team/empty\nteam/demo: 1 run (1 finished)\n")


def test_the_metadata_name_the_runs_and_sweeps_that_were_asked_for(server, export, tmp_path):
    for run_id, sweep in (("one", "s1"), ("two", "s2"), ("three", "")):
        server.add_run("team", "demo", run_id, sweep=sweep)
    done = export("team/demo/one", "https://wandb.ai/team/demo/sweeps/s2", *QUICK)
    assert done.code == 0, done.err
    about = json.loads((tmp_path / "out" / "team_demo_metadata.json").read_text())
    assert about["filters"] == {"run": ["one"], "sweep": ["s2"]}
    assert about["runs"]["filtered"] == 1
