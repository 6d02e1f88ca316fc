"""Histories from a server: every shape, wrong counts, downloads that fail, odd files, samples, system metrics."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import export_runs
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LIMIT_S, finished_runs, wait_until
from exports import (  # noqa: F401 - fixtures
    NODE,
    QUICK,
    add_run,
    add_runs,
    asked_for,
    demo_project,
    export_from_server,
    history_of,
    ids_of,
    log,
    metadata_of,
    names_of_failed,
    out_folder,
    own_server,
    project_of_team,
    repr_of,
    rows_at,
    rows_of,
    runs_of,
    start_export,
    steps_of,
    write_parquet,
)

if TYPE_CHECKING:
    from contextlib import ExitStack

    from wandb_server import Server

# --- values ---------------------------------------------------------------------------------------------------


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
        found = [(step, repr_of(row)) for step, row in rows_of(shapes, run_id)]
        assert found == [(step, repr_of(row)) for step, row in rows], run_id
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


def test_many_live_rows_of_one_step(server, export, out):
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    live = [row for loss in range(9) for row in rows_at([2], loss=loss)]
    server.add_history("team", "demo", "one", rows=rows_at([0, 1, 2]), live=live)
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history_of(out)["metric_loss"].to_list() == [0, 1 / 3, 8]


def test_steps_that_the_server_spells_as_floats(server, export, out):
    server.add_run("team", "demo", "a", summary={"_step": 6.0})
    server.add_history("team", "demo", "a", rows=rows_at(range(4)), live=rows_at(range(4, 7)))
    place = ["data", "project", "r0", "parquetHistory", "liveData"]
    live = json.dumps([{"_step": step} for step in (4.0, 5.0, 6.0)])
    server.fault("replace", match={"operation": "Rows"}, place=place, value=live)
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert (history_of(out)["_step"].to_list(), runs_of(out)["last_step"].to_list()) == ([*range(7)], [6])


# --- counts of rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["0", "null"])
def test_a_history_that_the_server_does_not_count(server, export, out, count):
    server.add_run("team", "demo", "a", summary={"loss": 1.0, "_step": 4})
    server.add_history("team", "demo", "a", rows=rows_at(range(5)))
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE, "historyLineCount"], value=count)
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, done.err) == (0, "team/demo: 1 run (1 finished), 5 history rows\n")
    assert steps_of(out, "a") == [0, 1, 2, 3, 4]


def test_a_run_with_a_step_and_no_history(server, export):
    server.add_run("team", "demo", "a", summary={"_step": 4})
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, done.err) == (0, "team/demo: 1 run (1 finished), 0 history rows\n")


@pytest.mark.parametrize("is_exported", [True, False])
def test_a_history_without_a_count_and_a_summary(server, export, out, is_exported):
    server.add_run("team", "demo", "a", summary={})
    server.add_history("team", "demo", "a", **{"rows" if is_exported else "live": rows_at(range(5))})
    server.configure(live_data_before_export=False)
    for operation, place in (
        ("Runs", [*NODE, "historyLineCount"]),
        ("Rows", ["data", "project", "r0", "historyLineCount"]),
    ):
        server.fault("replace", match={"operation": operation}, place=place, value="null")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert history_of(out).height == 5


def test_the_last_lines_of_output_without_a_count(server, export, out):
    server.add_run("team", "demo", "a")
    server.add_console("team", "demo", "a", [f"2026-01-01T00:00:00 line {number}" for number in range(9)])
    node = {"number": 8, "timestamp": "2026-01-01T00:00:00", "level": None, "line": "line 8"}
    page = {"edges": [{"node": node}], "pageInfo": {"endCursor": None, "hasNextPage": False}}
    few = json.dumps({"logLineCount": None, "logLines": page})
    server.fault("replace", match={"operation": "Rows"}, times=1, place=["data", "project", "r0"], value=few)
    assert export("team/demo", "--console-lines", 3, *QUICK).code == 0
    assert pl.read_parquet(out / "team_demo_console.parquet")["line"].to_list() == [6, 7, 8]


@pytest.mark.parametrize("drops", [0, 1])
def test_a_count_that_was_ahead_is_no_loss(server, export, demo, drops):
    """The rows are asked for again, also if their download had failed before."""
    add_runs(server, one="g")
    server.fault("drop", match={"kind": "download"}, times=drops)
    count = ["data", "project", "r0", "historyLineCount"]
    ahead = server.fault("replace", match={"operation": "Rows"}, times=1, place=count, value="7")
    done = export("team/demo", "--include-history")
    assert (done.code, ahead.hits) == (0, 1), done.err
    assert demo().metadata["failed"] == []


def test_short_histories_do_not_stop_the_others(server, export, project):
    for number in range(12):  # more failures one after the other than a silent server may have
        server.add_run("team", "demo", f"r{number:02}", summary={"a": 1}, history_rows=7)
        server.add_history("team", "demo", f"r{number:02}", live=[{"_step": step, "a": step} for step in range(5)])
    done = export("team/demo", "--include-history", "--retries", "0", "--workers", "1")
    assert done.code == 3
    assert "no longer answers" not in done.err
    assert project("demo").history.height == 12 * 5


def test_only_runs_with_rows_in_the_file_are_counted(server, export, out):
    for run_id in "abc":
        add_run(server, "demo", run_id)
    add_run(server, "demo", "empty", rows=0)
    server.fault("status", match={"kind": "download", "run": "b"}, status=500)
    assert export("team/demo", "--include-history", *QUICK).code == 3
    assert metadata_of(out)["history"] == {"rows": 10, "runs": 2, "sampled": False, "mismatched": ["b"]}
    server.clear_faults()
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert metadata_of(out)["history"] == {"rows": 15, "runs": 3, "sampled": False, "mismatched": []}


# --- steps that repeat ----------------------------------------------------------------------------------------


def test_steps_that_repeat_are_no_loss(server, export, project, tmp_path):
    """The server counts rows; a step logged twice is two of them, and is fetched once for all."""
    columns = {"_step": [0, 1, 1, 2], "loss": [0.0, 1.0, 1.5, 2.0], "huge": [2**64 - 1, 1, 2, 3]}
    server.add_run("team", "demo", "one", summary={"loss": 1})
    file = write_parquet(tmp_path / "repeated.parquet", columns | {"huge": pa.array(columns["huge"], pa.uint64())})
    server.add_history("team", "demo", "one", files=[file])
    for asked in ({"one"}, set()):  # the second time its rows are there
        server.reset()
        done = export("-e", "team", "--include-history", "--json", *QUICK)
        assert done.code == 0, done.err
        assert asked_for(server) == asked
        [row] = json.loads(done.out)["exports"]
        assert (row["runs"], row["history_rows"], row["failed"]) == (1, 3, 0)
        rows = [(step, row[("loss",)], row[("huge",)]) for step, row in rows_of(project("demo"), "one")]
        assert rows == [(0, 0.0, 2.0**64), (1, 1.5, 2.0), (2, 2.0, 3.0)]
        assert project("demo").metadata["history"]["mismatched"] == ["one"]


def test_steps_that_repeat_in_another_of_the_servers_exports(server, export, out):
    """They are no loss; if both exports begin at one step, the rows with later times are the newer."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    for time in range(4):
        server.add_history("team", "demo", "one", rows=rows_at([0, 1, 2], _timestamp=1e9 + time, loss=time))
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history_of(out).select("_step", "metric_loss").rows() == [(0, 3), (1, 3), (2, 3)]
    assert metadata_of(out)["history"]["mismatched"] == ["one"]


def test_steps_that_repeat_are_no_loss_after_the_run_was_resumed(server, export, out):
    """The server counts a step that was logged twice as two rows; the file has it once."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    server.add_history("team", "demo", "one", rows=[*rows_at([0, 1]), *rows_at([1, 2])])
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert (steps_of(out, "one"), metadata_of(out)["history"]["mismatched"]) == ([0, 1, 2], ["one"])
    server.add_history("team", "demo", "one", rows=rows_at([3, 4]))
    server.change_run("team", "demo", "one", heartbeat_at="2026-02-01T00:00:00Z")
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert steps_of(out, "one") == [0, 1, 2, 3, 4]
    assert (metadata_of(out)["status"], metadata_of(out)["failed"]) == ("complete", [])
    assert metadata_of(out)["history"] == {"rows": 5, "runs": 1, "sampled": False, "mismatched": ["one"]}
    add_run(server, "demo", "two")  # after which the other run's repeated steps are still known
    server.reset()
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert metadata_of(out)["history"] == {"rows": 10, "runs": 2, "sampled": False, "mismatched": ["one"]}
    assert {run_id for request in server.requests(kind="download") for run_id in request["runs"]} == {"two"}


def test_steps_that_repeat_are_no_loss_after_an_interruption(server, export, start, out):
    """What an interrupted export has finished counts as finished, repeated steps and all."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    server.add_history("team", "demo", "one", rows=[*rows_at([0, 1]), *rows_at([1, 2])])
    add_run(server, "demo", "two")
    hang = server.fault("hang", match={"kind": "download", "run": "two"})
    process = start("team/demo", "--include-history", "--workers", 1)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    wait_until(lambda: finished_runs(out) == {"one"})
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    for asked in ({"two"}, set()):
        server.reset()
        done = export("team/demo", "--include-history", *QUICK)
        assert done.code == 0, done.err
        assert {run_id for request in server.requests(kind="download") for run_id in request["runs"]} == asked
        assert metadata_of(out)["history"] == {"rows": 8, "runs": 2, "sampled": False, "mismatched": ["one"]}


# --- downloads that fail --------------------------------------------------------------------------------------


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


def test_a_run_whose_second_attempt_fails_is_one_failure(server, export, project):
    server.add_run("team", "demo", "one", summary={"loss": 1}, history_rows=25)
    server.add_history("team", "demo", "one", rows=log(list(range(20)), loss=float))
    server.fault("error", match={"field": "parquetHistory", "run": "one"}, after=1)
    assert export("-e", "team", "--include-history", "--retries", "1").code == 3
    (failure,) = project("demo").metadata["failed"]
    assert failure["error"] == "only 20 of 25 rows were downloaded: simulated failure"
    assert (failure["attempts"], project("demo").metadata["history"]["rows"]) == (2, 20)


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


def test_every_third_run_cut_short_at_first_loses_nothing(server, export, out):
    n = 60
    for number in range(n):
        add_run(server, "demo", f"r{number:02d}", rows=3)
        if number % 3 == 0:
            server.fault("cut", match={"kind": "download", "run": f"r{number:02d}"}, times=1)
    done = export("team/demo", "--include-history", "--timeout", 10)
    assert done.code == 0, done.err
    assert server.counts()["fault:cut"] == n // 3
    assert server.counts()["download"] == n + n // 3
    assert metadata_of(out)["history"] == {"rows": 3 * n, "runs": n, "sampled": False, "mismatched": []}
    assert "error" not in done.err


@pytest.mark.parametrize("fault", [{"action": "cut"}, {"action": "status", "status": 500}])
def test_a_download_that_fails_waits_by_itself(server, export, out, fault):
    n = 100
    for number in range(n):
        add_run(server, "demo", f"r{number:03d}", rows=3)
    server.fault(match={"kind": "download", "run": "r000"}, times=4, **fault)
    done = export("team/demo", "--include-history", "--timeout", 10, "--retries", 5)
    assert done.code == 0, done.err
    assert history_of(out).height == 3 * n
    order = [request["runs"] for request in server.requests(kind="download")]
    last = max(number for number, run_ids in enumerate(order) if run_ids == ["r000"])
    assert last > 0.9 * n  # the others, which take a moment each, were done while it waited, for seconds in all


def test_downloads_that_are_given_up_take_no_space(tmp_path, monkeypatch):
    def cut(source: object, _run: object, _answer: object, _rows: object, at_end: ExitStack) -> None:
        assert export_runs.download(source, "whole PAR1", at_end).exists()
        export_runs.download(source, "already gone PAR1", at_end).unlink()
        export_runs.download(source, "cut", at_end)

    export_runs.import_libraries()
    monkeypatch.setattr(export_runs, "full_history", cut)
    storage = SimpleNamespace(pieces=lambda _method, url, *_: [url.encode()], timeout_s=1)
    server = SimpleNamespace(storage=storage)
    source = export_runs.RowSource(server, None, export_runs.new_table("history"), tmp_path, tmp_path)
    with pytest.raises(export_runs.RequestError, match="the download is incomplete"):
        export_runs.read_answer(source, export_runs.RowsRequest("a", 1, None, (), export_runs.TableFile()), {})
    assert [*tmp_path.iterdir()] == []


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


def test_a_busy_storage_host_is_left_alone_by_all_downloads(server, export, out):
    n, wait_s = 120, 3
    for number in range(n):
        add_run(server, "demo", f"r{number:03d}", rows=3)
    after = {"Retry-After": str(wait_s)}
    server.fault("status", match={"kind": "download"}, times=1, status=503, headers=after)
    done = export("team/demo", "--include-history", "--timeout", 10)
    assert done.code == 0, done.err
    assert history_of(out).height == 3 * n
    log = server.requests(kind="download")
    refused = min(request["received_s"] for request in log if request["fault"])
    times = [request["received_s"] - refused for request in log]
    assert not [time for time in times if wait_s / 2 < time < wait_s]  # what was on its way may come
    assert max(times) > wait_s
    assert "503" in done.err


def test_a_busy_storage_host_is_left_alone_for_as_long_as_it_asks(server, export, project):
    server.add_run("team", "demo", "one", summary={"loss": 1})
    server.add_history("team", "demo", "one", rows=log(list(range(5)), loss=float))
    server.fault("status", match={"kind": "download"}, times=1, status=429, headers={"Retry-After": "3"})
    started = monotonic()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert monotonic() - started >= 3
    assert project("demo").history.height == 5


# --- odd and damaged files ------------------------------------------------------------------------------------


def exports_of(server: Server, run_id: str) -> list[Path]:
    """The parquet files that the server has of a run's history."""
    return [export.file for export in server.store.run("team", "demo", run_id).history.exports]


@pytest.mark.parametrize(
    ("name", "columns", "lost"),
    [
        ("no step", {"loss": [1.0, 2.0, 3.0]}, True),
        ("a step that is text", {"_step": ["0", "x", "2"], "loss": [1.0, 2.0, 3.0]}, True),
        ("a time that is text", {"_step": [0, 1, 2], "_timestamp": ["a", "b", "c"], "loss": [1.0, 2.0, 3.0]}, False),
    ],
)
def test_an_odd_parquet_export_costs_its_run_alone(server, export, out, name, columns, lost):
    for run_id in "abc":
        add_run(server, "demo", run_id, rows=3)
    for file in exports_of(server, "b"):
        pl.DataFrame(columns).write_parquet(file)
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, sorted(runs_of(out)["id"])) == (3 if lost else 0, ["a", "b", "c"]), (name, done.err)
    assert steps_of(out, "a") == steps_of(out, "c") == [0, 1, 2]
    assert steps_of(out, "b") == ([] if lost else [0, 1, 2])
    assert [failure["run"] for failure in metadata_of(out)["failed"]] == (["b"] if lost else [])


def test_odd_exports_beside_the_rows(server, export, out, tmp_path):
    """An export without rows or columns, and text that is stored in a dictionary."""
    server.add_run("team", "demo", "a", summary={"_step": 1}, history_rows=4)
    server.add_history("team", "demo", "a", rows=rows_at(range(2)))
    text = pl.Series("loss", ["NaN", "NaN"], dtype=pl.Categorical)
    rows = pl.DataFrame([pl.Series("_step", [2, 3]), text])
    for name in ("text", "empty"):
        rows.write_parquet(tmp_path / name)
        server.store.run("team", "demo", "a").history.add_export(tmp_path / name)
    pl.DataFrame().write_parquet(tmp_path / "empty")
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, done.err) == (0, "team/demo: 1 run (1 finished), 4 history rows\n")
    assert [str(value) for value in history_of(out)["metric_loss"]][2:] == ["nan", "nan"]
    assert history_of(out)["_step"].to_list() == [0, 1, 2, 3]


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


def test_exports_of_the_same_rows_are_no_bomb(server, export, demo, tmp_path):
    """Each export may have some more rows than the server counts, however many exports there are."""
    file = tmp_path / "export.parquet"
    pl.select(_step=pl.int_range(60_000), loss=0.5).write_parquet(file)
    server.add_run("team", "demo", "one", history_rows=60_000)
    server.add_history("team", "demo", "one", files=[file] * 4)
    done = export("team/demo", "--include-history")
    assert done.code == 0, done.err
    assert demo().history["_step"].to_list() == list(range(60_000))


# --- samples, system metrics, tables --------------------------------------------------------------------------


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


def test_full_rows_beside_sampled_ones_are_not_sampled(server, export, out):
    add_run(server, "demo", "a", rows=50)
    assert export("team/demo", "--include-history", "--history-samples", 10, *QUICK).code == 0
    assert metadata_of(out)["history"] == {"rows": 50, "runs": 1, "sampled": False, "mismatched": []}
    for samples in (10, 50, 60):
        assert export("team/demo", "--history-samples", samples, *QUICK).code == 0
        assert metadata_of(out)["history"]["sampled"] is (samples < 50)


def test_a_failing_table_is_named_as_in_wandb(server, export, demo):
    entry = {"_type": "table-file", "path": "media/table/gone.table.json"}
    server.add_run("team", "demo", "one", summary={"eval/a b": entry})
    assert export("team/demo", "--tables", "--retries", 0).code == 3
    assert [failure["what"] for failure in demo().metadata["failed"]] == ["table_eval/a b"]


def test_names_of_files_reach_the_server_as_they_are(server, export):
    """Without escapes: in GraphQL, not every server takes two of them for one character outside of the first plane."""
    export_runs.import_libraries()
    table = export_runs.new_table("table_x", key="x")
    source = export_runs.RowSource(SimpleNamespace(options=None), None, table, None, None)
    run = export_runs.RowsRequest("a", 1, None, (), export_runs.TableFile("media/table/\N{GRINNING FACE}.table.json"))
    assert '(names: ["media/table/\N{GRINNING FACE}.table.json"])' in export_runs.row_fields(source, run)
