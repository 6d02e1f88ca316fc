"""Runs from a server, page by page: each run once, odd runs, answers that cannot be understood."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import export_runs
import polars as pl
import pytest
from exports import (  # noqa: F401 - fixtures
    NODE,
    QUICK,
    add_run,
    demo_project,
    export_from_server,
    history_of,
    ids_of,
    metadata_of,
    names_of_failed,
    out_folder,
    own_server,
    paths_of,
    project_of_team,
    repr_of,
    runs_of,
)
from log_files import START

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_server import Server

# --- each run once --------------------------------------------------------------------------------------------

SECOND = "2026-01-05T00:00:00Z"


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


@pytest.mark.parametrize("created", ["at once", "evenly"])
def test_pages_are_large_again_after_two_outages(server, export, out, created):
    n = 6000
    server.add_runs("team", "demo", n, keys=8)
    if created == "at once":  # no time to divide them by: page after page
        for run in server.project("team", "demo").runs.values():
            run.created_at = "2026-01-05T00:00:00Z"
        server.project("team", "demo").changed()
    assert export("team/demo", "-o", out.with_name("undisturbed"), "--workers", 1, *QUICK).code == 0
    undisturbed = sum(request["first"] > 1 for request in server.requests(kind="graphql"))
    server.reset()
    pages = {"field": "runs", "above_first": 1}
    server.fault("status", match=pages, status=502, times=2, after=1)
    server.fault("status", match=pages, status=502, times=2, after=3)  # of the requests that the first let pass
    done = export("team/demo", "--workers", 1, *QUICK)
    assert done.code == 0, done.err
    assert runs_of(out)["id"].n_unique() == runs_of(out).height == n
    asked = [request["first"] for request in server.requests(kind="graphql") if request["first"] > 1]
    failed = [number for number, request in enumerate(server.requests(kind="graphql")) if request["fault"]]
    assert len(failed) == 4
    assert max(asked) in asked[-3:]
    assert len(asked) <= undisturbed + 12  # at most a few smaller ones after each outage


def test_windows_are_split_only_where_their_times_are_known():
    later = START + timedelta(days=1)
    for first, last, runs in ((None, later, 2_000), (START, None, 2_000), (START, START, 2_000), (START, later, 10)):
        window = export_runs.Window(START, None, last, "cursor", 7)
        assert export_runs.split(window, first, runs) == [window]
    parts = export_runs.split(export_runs.Window(START, None, later, "cursor", 7), START, 2_000)
    assert [part.start for part in parts] == [START + n * timedelta(days=0.2) for n in range(5)]
    assert [part.end for part in parts] == [*(part.start for part in parts[1:]), None]


def test_a_run_that_stands_twice_in_a_page_is_one_row(server, export, out):
    for run_id in "abc":
        add_run(server, "demo", run_id)
    server.fault("repeat", match={"field": "runs"})
    done = export("team/demo", *QUICK)
    assert done.code == 0, done.err
    assert sorted(runs_of(out)["id"]) == ["a", "b", "c"]
    counts = metadata_of(out)["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (3, 3, 0, 0)
    assert sum(counts["by_state"].values()) == 3
    assert metadata_of(out)["status"] == "complete"
    assert "3 runs" in done.err
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history_of(out).height == 15


@pytest.mark.parametrize(
    ("runs", "page_limit", "created_at"),
    [
        (5, 3, lambda number: f"2026-01-0{number + 1}T00:00:00Z"),
        (700, 150, lambda number: f"2026-01-01T00:00:{number // 100:02}Z"),
    ],
    ids=["a run a day", "a hundred runs a second"],
)
def test_a_failure_of_a_run_on_two_pages_is_listed_once(server, export, demo, runs, page_limit, created_at):
    server.add_runs("team", "demo", runs, keys=8)
    for number, run in enumerate(server.project("team", "demo").runs.values()):
        server.change_run("team", "demo", run.id, created_at=created_at(number), config="[]")
    server.configure(page_limit=page_limit)
    assert export("team/demo", *QUICK).code == 3
    assert names_of_failed(demo()) == [(f"run{number:06d}", "config") for number in range(runs)]
    assert sorted(demo().runs["id"]) == [f"run{number:06d}" for number in range(runs)]


# --- runs that the server cannot return -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 7, 11])
def test_a_run_that_the_server_cannot_return_costs_itself_alone(server, export, out, bad):
    for number in range(12):
        created = f"2026-01-01T00:00:{number:02d}"
        server.add_run("team", "demo", f"r{number:02d}", created_at=created, summary={"loss": number})
    server.fault("error", match={"field": "summaryMetrics", "run": f"r{bad:02d}"})
    done = export("team/demo", *QUICK)
    assert (done.code, done.err.count(f"error: r{bad:02d}: its config or summary cannot be fetched: ")) == (3, 1)
    assert sorted(runs_of(out)["metric_loss"]) == [number for number in range(12) if number != bad]
    counts = metadata_of(out)["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (12, 11, 1, 0)
    server.clear_faults()
    assert export("team/demo", *QUICK).code == 0
    server.fault("error", match={"field": "summaryMetrics", "run": f"r{bad:02d}"})
    assert export("team/demo", "--prune", *QUICK).code == 3
    assert sorted(runs_of(out)["metric_loss"]) == [*range(12)]  # the row of the export before


def test_a_run_that_the_server_cannot_return_and_nothing_else(server, export):
    server.add_run("team", "demo", "a")
    server.fault("error", match={"field": "summaryMetrics"})
    done = export("team/demo/a", *QUICK)
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert "error: team/demo: run a: its config or summary cannot be fetched: " in done.err


def test_a_server_that_cannot_return_many_runs_is_not_asked_for_each(server, export, out):
    server.add_runs("team", "demo", 60, keys=2)
    server.fault("error", match={"field": "summaryMetrics"})
    done = export("team/demo", "--retries", 0)
    assert (done.code, len(server.requests(operation="Runs"))) == (1, 7)
    assert "config or summary cannot be fetched: simulated failure" in done.err


def test_inactive_runs_that_the_server_cannot_return_are_left_out(server, export, out):
    server.add_run("team", "demo", "old", created_at="2025-01-01T00:00:00", heartbeat_at="2025-01-02T00:00:00")
    server.add_run("team", "demo", "new", created_at="2026-01-01T00:00:00", heartbeat_at="2026-01-02T00:00:00")
    server.fault("error", match={"field": "summaryMetrics", "run": "old"})
    done = export("team/demo", "--active-since", "2026-01-01", *QUICK)
    assert done.code == 0, done.err
    assert (runs_of(out)["id"].to_list(), metadata_of(out)["runs"]["filtered"]) == (["new"], 1)


# --- answers that cannot be understood ------------------------------------------------------------------------


def test_an_answer_that_cannot_be_understood_costs_its_project_alone(server, export, project):
    for name in ("good", "bad"):
        server.add_runs("team", name, 3, keys=8)
    server.fault("null", match={"field": "runs", "project": "bad"})
    done = export("-e", "team", *QUICK)
    assert done.code == 3
    assert "error: team/bad: the answer has no runs" in done.err
    assert len(ids_of(project("good"))) == 3


def test_null_in_place_of_runs_costs_the_project_alone(server, export, out):
    add_run(server, "demo", "a")
    add_run(server, "odd", "b")
    server.fault("null", match={"project": "odd", "field": "runs"})
    done = export("team/demo", "team/odd", *QUICK)
    assert (done.code, runs_of(out)["id"].to_list()) == (3, ["a"])
    assert "team/odd" in done.err


def test_null_in_place_of_a_run(server, export, out):
    for run_id in "ab":
        add_run(server, "demo", run_id)
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE], value="null")
    done = export("team/demo", *QUICK)
    assert (done.code, runs_of(out).height) == (3, 1)
    assert "the server counts 2 runs, but lists 1" in done.err


def test_a_page_without_a_run_that_calls_itself_not_the_last(server, export, out):
    add_run(server, "demo", "a")
    page = {"edges": [{"node": None}], "pageInfo": {"endCursor": "x", "hasNextPage": True}}
    body = json.dumps({"data": {"project": {"runs": page, "inWindow": 1}}})
    server.fault("status", match={"operation": "Runs"}, times=1, status=200, body=body)
    assert export("team/demo", *QUICK).code == 0
    assert runs_of(out)["id"].to_list() == ["a"]


def test_many_pages_that_cannot_be_understood_end_the_export(server, export, out):
    """None of them may keep what the next one waits for."""
    server.add_runs("team", "demo", 10_000, keys=8)
    server.add_runs("team", "good", 3, keys=8)
    body = '{"data": {"project": {"runs": {"pageInfo": {"endCursor": null, "hasNextPage": false}, "edges": 7}}}}'
    server.fault("status", match={"field": "runs", "above_first": 1, "project": "demo"}, status=200, body=body)
    done = export("-e", "team", "--timeout", 10, "--retries", 0)
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: team/demo: ")]
    assert runs_of(out, "team_good").height == 3


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
        assert repr_of(found) == repr_of(numbers), run_id
    assert (rows["no-user"]["user"], rows["no-name"]["user"]) == (None, "tester")
    assert (rows["no-name"]["name"], rows["empty-name"]["name"]) == ("no-name", "empty-name")
    assert rows["unheard-of-state"]["state"] == "hibernating"
    assert rows["no-history-keys"]["history_rows"] == 10
    assert (rows["empty"]["heartbeat_at"], rows["derived-summary"]["runtime_s"]) == (None, 12)
    assert (rows["unicode"]["name"], rows["unicode"]["tags"]) == ("λ=0.1 \u202e\x1b[31mred", ["größe", "a,b"])
    assert rows["a/b ?#%[red]\n"]["url"].endswith("/team/odd/runs/a%2Fb%20%3F%23%25%5Bred%5D%0A")
    assert not set(done.err + done.out) & {"\x1b", "\u202e"}


def test_one_odd_time_costs_nothing(server, export, project):
    server.add_run("team", "demo", "odd", heartbeat_at="yesterday", summary={"loss": 1.0})
    server.add_run("team", "demo", "even", summary={"loss": 2.0})
    done = export("team/demo")
    assert done.code == 0, done.err
    assert project("demo").runs.sort("id")["heartbeat_at"].is_null().to_list() == [False, True]


def test_control_characters_in_a_config_are_read_as_the_sdk_reads_them(server, export, out):
    server.add_run("team", "demo", "a")
    text = json.dumps('{"note": {"value": "a\tb"}, "_wandb": {"value": {}}}')
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE, "config"], value=text)
    assert export("team/demo", *QUICK).code == 0
    assert runs_of(out)["config_note"].to_list() == ["a\tb"]


def test_runs_that_are_left_out_decide_no_dtype(server, export, out):
    add_run(server, "demo", "new", config={"x": 1}, heartbeat_at="2026-03-01T00:00:00Z")
    add_run(server, "demo", "old", config={"x": "abc", "y": 2}, heartbeat_at="2026-01-01T00:00:00Z")
    assert export("team/demo", "--active-since", "2026-02-01", *QUICK).code == 0
    assert runs_of(out).select(pl.col("^config_.*$")).to_dict(as_series=False) == {"config_x": [1]}
