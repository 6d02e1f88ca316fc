"""export_runs.py against a W&B-compatible server: what the SDK sent it, goals of sweeps, access, a server in trouble.

A start costs two seconds of a core, so that one call exports many projects, each with a case of its own.
"""

from __future__ import annotations

import fcntl
import functools
import json
import math
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import export_runs
import pytest
import recordings
from conftest import LIMIT_S, ROOT, Done
from exports import (  # noqa: F401 - fixtures
    QUICK,
    Exported,
    add_logged_runs,
    add_runs,
    asked_for,
    error_line,
    export_from_server,
    exported,
    facts_of,
    ids_of,
    names_of_failed,
    own_server,
    paths_of,
    project_of_team,
    rows_of,
    same,
    snapshot,
)
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

# --- what the real SDK logged is what the files hold ----------------------------------------------------------

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


# --- goals of sweeps ------------------------------------------------------------------------------------------


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


def test_the_goals_of_a_sweep_over_several_metrics(server, export, project):
    config = "metrics: [{name: acc, goal: Maximize}, {name: time}]\n"
    server.add_sweep("team", "demo", "s1", config=config)
    server.add_run("team", "demo", "r", sweep="s1", summary={"acc": 1, "time": 2})
    assert export("-e", "team", *QUICK).code == 0
    goals = {name: facts["goal"] for name, facts in facts_of(project("demo").runs_file).items()}
    assert goals == {"metric_acc": "maximize", "metric_time": "minimize"}


def test_a_goal_that_has_changed(server, export, project):
    """Runs that stay from the earlier export count with their goals, too: here none does."""
    for number, goal in enumerate(["minimize", "maximize"], 1):
        config = {"_wandb": {"value": {"m": [{"1": "loss", "8": number}]}}}
        server.add_run("team", "demo", "r", config=json.dumps(config), summary={"loss": 1})
        assert export("-e", "team", *QUICK).code == 0
        assert facts_of(project("demo").runs_file)["metric_loss"]["goal"] == goal


# --- access ---------------------------------------------------------------------------------------------------


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


# --- a server in trouble --------------------------------------------------------------------------------------


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


def test_all_failures_are_named_if_nothing_is_exported(server, export):
    for name in ("one", "two"):
        server.add_run("team", name, "abc")
        server.fault("status", match={"operation": "Runs", "project": name}, status=400, message=f"bad {name}")
    done = export("-e", "team")
    assert (done.code, done.out) == (1, "")
    assert "error: team/two: bad two (HTTP 400)\n" in done.err
    assert done.err.endswith("error: team/one: bad one (HTTP 400); nothing could be exported\n")
    done = export("-e", "team", "-p", "x,y")
    assert (done.code, done.out) == (1, "")
    assert [f"team has no project {name}" in done.err for name in "xy"] == [True, True]


# --- dry runs, workers ----------------------------------------------------------------------------------------


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


def test_any_number_of_workers(server, run_script, tmp_path):
    add_runs(server, one="g")
    arguments = ("team/demo", "-o", tmp_path / "out", "--include-history", "--workers", 10**12)
    done = run_script("export_runs.py", *arguments, env=server.environment(tmp_path / "sdk"))
    assert done.code == 0, done.err
