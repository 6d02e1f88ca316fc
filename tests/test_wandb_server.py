"""The test server: what it answers to the real SDK, to plain requests, and under each fault."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from wandb_server import API_KEY, Remote, Server, spawn
from wandb_server.history import History, table_of

HERE = Path(__file__).resolve().parent
QUICK_RETRIES = {
    "WANDB__GRAPHQL_RETRY_MAX": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1",
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "1",
}


@pytest.fixture
def server():
    with Server() as server:
        yield server


# --- helpers --------------------------------------------------------------------------------------------------


def sdk(server, folder, code, *arguments, **variables):
    """Run `code` with the real SDK, in a process of its own; `report(value)` there is the result here."""
    prelude = "import json, os, sys\ndef report(value): print('REPORT ' + json.dumps(value))\n"
    command = [sys.executable, "-c", prelude + code, *arguments]
    environment = {**os.environ, **server.environment(folder), "PYTHONPATH": str(HERE), **QUICK_RETRIES, **variables}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    reports = [line.removeprefix("REPORT ") for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert reports, done.stderr
    return json.loads(reports[-1])


def request(url, method, path, body=None, headers=None):
    """Status, body and headers of one plain request on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def credentials(key=API_KEY):
    return {"Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode()}


def post(server, query, key=API_KEY, **variables):
    body = json.dumps({"query": query, "variables": variables, "operationName": ""})
    return request(server.url, "POST", "/graphql", body, credentials(key))


def ask(server, query, **variables):
    """The `data` of a query that must succeed."""
    status, body, _ = post(server, query, **variables)
    answer = json.loads(body)
    assert (status, answer.get("errors")) == (200, None)
    return answer["data"]


def get(url):
    parts = urlsplit(url)
    return request(url, "GET", f"{parts.path}?{parts.query}")


RUNS = """
query Runs($filters: JSONString, $order: String, $after: String, $first: Int = 50) {
  project(name: "demo", entityName: "team") {
    runCount(filters: $filters)
    runs(filters: $filters, order: $order, after: $after, first: $first) {
      edges { node { name } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
PARQUET = """
query ($run: String!) { project(name: "demo", entityName: "team") { run(name: $run) {
  historyLineCount historyKeys parquetHistory(liveKeys: ["_step", "loss"]) { parquetUrls liveData }
} } }
"""


def listed(server, filters=None, order=None, **variables):
    """Ids of a page; the count must agree where the page holds all."""
    text = json.dumps(filters or {})
    project = ask(server, RUNS, filters=text, order=order, **variables)["project"]
    names = [edge["node"]["name"] for edge in project["runs"]["edges"]]
    assert project["runs"]["pageInfo"]["hasNextPage"] or variables or project["runCount"] == len(names)
    return names


def page(server, after=None, first=2):
    runs = ask(server, RUNS, after=after, first=first)["project"]["runs"]
    return [edge["node"]["name"] for edge in runs["edges"]], runs["pageInfo"]


def parquet_history(server, run):
    return ask(server, PARQUET, run=run)["project"]["run"]


# --- the SDK records ------------------------------------------------------------------------------------------


def test_the_sdk_records_a_run_and_reads_it_back(server, tmp_path):
    server.add_entity("team")
    server.configure(live_tail=3)
    code = """
import wandb
with wandb.init(entity="team", project="demo", id="r1", name="first", group="g", job_type="j", notes="n", tags=["a"],
                config={"lr": 0.1, "gone": float("nan"), "model": {"k": 16}}) as run:
    for step in range(10):
        run.log({"loss": float("nan") if step in (1, 8) else step / 4, "acc": 1.0, "text": "t", "deep": {"x": step}})
    run.summary["best"] = float("inf")
    print("hello")
api = wandb.Api()
run = api.run("team/demo/r1")
exports = run.download_history_exports("exports", require_complete_history=False)
query = '''query Parquet { project(name: "demo", entityName: "team") { run(name: "r1") {
    parquetHistory(liveKeys: ["loss"]) { liveData } } } }'''
report({
    "attributes": [run.state, run.name, run.group, run.job_type, run.notes, run.tags, run.user.username],
    "config": run.config,
    "python_version": run.rawconfig["_wandb"]["python_version"],
    "summary": {key: run.summary_metrics[key] for key in ("loss", "best", "text", "_step", "deep")},
    "lines": run.historyLineCount,
    "last_step": run.lastHistoryStep,
    "scan": sorted({row["_step"]: repr(row["loss"]) for row in run.scan_history()}.items()),
    "scan_of_keys": sorted({row["_step"]: row["acc"] for row in run.scan_history(keys=["acc"])}.items()),
    "history": len(run.history(pandas=False)),
    "sampled": run.history(samples=2, keys=["acc"], pandas=False),
    "system": len(run.history(stream="system", pandas=False)) > 0,
    "exports": [len(exports.paths), exports.contains_live_data, exports.errors],
    "live": api._service_api.execute_graphql(query)["project"]["run"]["parquetHistory"]["liveData"],
    "files": [file.name for file in run.files(pattern="%.json")],
    "metadata": run.metadata["python"],
    "console": [line.content for line in run.console_logs()],
    "viewer": [api.viewer.username, api.viewer.teams, api.default_entity],
    "projects": [project.name for project in api.projects("team")],
})
"""
    found = sdk(server, tmp_path, code)
    assert found.pop("python_version")
    assert found.pop("metadata").startswith("CPython")
    assert found == {
        "attributes": ["finished", "first", "g", "j", "n", ["a"], "tester"],
        "config": {"lr": 0.1, "gone": None, "model": {"k": 16}},
        "summary": {"loss": 2.25, "best": "Infinity", "text": "t", "_step": 9, "deep": {"x": 9}},
        "lines": 10,
        "last_step": 9,
        "scan": [[0, "0"], [1, "nan"], [2, "0.5"], [3, "0.75"], [4, "1"], [5, "1.25"], [6, "1.5"], [7, "1.75"],
                 [8, "'NaN'"], [9, "2.25"]],
        "scan_of_keys": [[step, 1] for step in range(10)],
        "history": 10,
        "sampled": [{"_step": 0, "acc": 1}, {"_step": 5, "acc": 1}],
        "system": True,
        "exports": [1, True, {}],
        "live": [{"loss": 1.75}, {"loss": "NaN"}, {"loss": 2.25}],
        "files": ["wandb-metadata.json", "wandb-summary.json"],
        "console": ["hello"],
        "viewer": ["tester", ["tester", "team"], "tester"],
        "projects": ["demo"],
    }  # fmt: skip
    assert {r["authorization"] for r in server.requests(service="storage")} == {False}
    assert {r["authorization"] for r in server.requests(service="api")} == {True}


def test_the_sdk_reads_its_console_files_and_tables_back(server, tmp_path):
    server.add_entity("team")
    code = """
import wandb
columns, data = ["text", "n", "score"], [["a", 1, 0.5], ["b", None, float("nan")], ["c", 3, 2.0]]
with wandb.init(entity="team", project="demo", id="r1") as run:
    print("first line")
    print("a warning", file=sys.stderr)
    for percent in range(0, 101, 25):
        print(f"\\r{percent} %", end="")
    print("\\nERROR in the text alone")
    run.log({"cells": wandb.Table(columns=columns, data=data[:1])})
    run.log({"cells": wandb.Table(columns=columns, data=data)})
run = wandb.Api().run("team/demo/r1")
entry = run.summary_metrics["cells"]
[file] = run.files(names=[entry["path"]])
tables = run.files(pattern="media/table/%.table.json")
report({
    "console": [[line.number, line.level, line.content, line.timestamp.year > 2000] for line in run.console_logs()],
    "last": [line.content for line in run.console_logs(last=2)],
    "pages": [line.content for line in run.console_logs(per_page=1)],
    "entry": [entry[key] for key in ("_type", "nrows", "ncols")],
    "tables": len(list(tables)),
    "size": file.size == entry["size"],
    "table": file.download(root="downloads").read(),
    "machine": [list(writer) for writer in run.rawconfig["_wandb"]["e"].values()],
})
"""
    found = sdk(server, tmp_path, code)
    assert found["console"] == [
        [0, "", "first line", True],
        [1, "error", "a warning", True],
        [2, "", "100 %", True],
        [3, "", "ERROR in the text alone", True],
    ]
    assert found["last"] == ["100 %", "ERROR in the text alone"]
    assert found["pages"] == [line[2] for line in found["console"]]
    assert found["entry"] == ["table-file", 3, 3]
    assert (found["tables"], found["size"]) == (2, True)
    table = json.loads(found["table"])
    assert table["columns"] == ["text", "n", "score"]
    assert repr(table["data"]) == "[['a', 1, 0.5], ['b', None, nan], ['c', 3, 2.0]]"
    assert {"host", "os", "python", "program", "startedAt"} <= set(found["machine"][0])
    downloads = server.requests(kind="download")
    assert [request["authorization"] for request in downloads] == [False]


def test_resumed_failed_and_changed_runs(server, tmp_path):
    code = """
import wandb
with wandb.init(project="demo", id="r1", resume="allow", config={"lr": 0.1}) as run:
    run.log({"loss": 1})
with wandb.init(project="demo", id="r1", resume="allow") as run:
    resumed = [run.resumed, run.starting_step]
    run.log({"loss": 2})
run = wandb.init(project="demo", id="r2")
run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
run.finish(exit_code=3)
wandb.init(project="demo", id="r3").finish(exit_code=254)
api = wandb.Api()
run = api.run("tester/demo/r1")
steps = sorted({row["_step"]: row["loss"] for row in run.scan_history()}.items())
run.tags.append("new")
run.config["lr"] = 0.5
run.update()
open("notes.txt", "w").write("text")
run.upload_file("notes.txt").download(root="back", replace=True)
api.run("tester/demo/r3").delete()
report({"resumed": resumed, "steps": steps, "back": open("back/notes.txt").read()})
"""
    found = sdk(server, tmp_path, code)
    assert found == {"resumed": [True, 1], "steps": [[0, 1], [1, 2]], "back": "text"}
    run = server.run("tester", "demo", "r1")
    assert (run.state, run.tags, json.loads(run.config)["lr"]["value"]) == ("finished", ["new"], 0.5)
    assert len(run.history.exports) == 2
    assert server.run("tester", "demo", "r2").state == "failed"
    assert [name for name in server.run("tester", "demo", "r2").files if name.endswith(".table.json")]
    assert server.run_ids("tester", "demo") == ["r1", "r2"]


def test_an_offline_run_is_synced(server, tmp_path):
    code = """
import subprocess, wandb
with wandb.init(project="demo", id="r1", mode="offline", config={"lr": 0.1}) as run:
    for step in range(5):
        run.log({"loss": step})
subprocess.run([sys.executable, "-m", "wandb", "sync", "-e", "team", os.path.dirname(run.dir)], check=True)
report("done")
"""
    server.add_entity("team")
    assert sdk(server, tmp_path, code) == "done"
    run = server.run("team", "demo", "r1")
    assert (run.state, json.loads(run.config)["lr"]) == ("finished", {"value": 0.1})
    assert [(row["_step"], row["loss"]) for row in run.history.rows(0)] == [(step, step) for step in range(5)]


# --- the SDK lists --------------------------------------------------------------------------------------------


def test_the_sdk_lists_runs(server, tmp_path):
    server.add_runs("team", "demo", 25, keys=12)
    server.add_odd_runs("team", "odd")
    server.add_sweep("team", "demo", "s1")
    server.change_run("team", "demo", "run000001", sweep="s1")
    code = """
import wandb
api = wandb.Api()
runs = api.runs("team/demo", order="-created_at", per_page=10, lazy=False)
readable = {"name": {"$nin": ["no-user", "broken-config", "broken-summary"]}}
odd = api.runs("team/odd", filters=readable, lazy=False)
def failure(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
sweep = api.sweep("team/demo/s1")
report({
    "ids": [run.id for run in runs],
    "count": len(runs),
    "lr": [run.config["lr"] for run in runs][-3:],
    "lazy": [run.summary["train/metric_0"] for run in api.runs("team/demo", filters={"name": "run000003"})],
    "odd": {run.id: run.config for run in odd if "value" in run.id or "nan" in run.id},
    "all_odd": failure(lambda: len(list(api.runs("team/odd", lazy=False)))),
    "no_project": failure(lambda: len(api.runs("team/none"))),
    "no_run": failure(lambda: api.run("team/demo/none")),
    "sweep": [sweep.config["metric"], [run.id for run in sweep.runs], len(list(api.project("demo", "team").sweeps()))],
})
"""
    found = sdk(server, tmp_path, code)
    summary = json.loads(server.run("team", "demo", "run000003").summary)
    assert found == {
        "ids": listed(server, order="-created_at"),
        "count": 25,
        "lr": [0.1, 0.01, 0.001],
        "lazy": [summary["train/metric_0"]],
        "odd": {  # the SDK unwraps twice where it lists eagerly
            "value-in-config": {"a": 7, "b": 7},
            "bare-nan": {"lr": found["odd"]["bare-nan"]["lr"]},
            "text-nan": {},
        },
        "all_odd": 0,  # a run without a user spoils the page, and the SDK is silent about it
        "no_project": "ValueError: Could not find project none",
        "no_run": "CommError: Could not find run <Run team/demo/none (not found)>",
        "sweep": [{"name": "loss", "goal": "minimize"}, ["run000001"], 1],
    }


# --- filters, order, pages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def five_runs():
    with Server() as server:
        for number, run_id in enumerate("abcde"):
            server.add_run(
                "team",
                "demo",
                run_id,
                display_name=f"name-{run_id}",
                created_at=f"2026-01-0{number + 1}T00:00:00Z",
                state="running" if run_id == "e" else "finished",
                tags=["x", run_id],
                group=None if run_id == "a" else "g",
                job_type="train",
                config={"lr": number / 10, "model": {"k": number, "a.b": number}, "flag": number > 2},
                summary={"loss": 5 - number, "text": run_id, "_wandb": {"runtime": 60 * number}},
            )
        server.change_run("team", "demo", "b", config='{"lr": {"value": "high"}}', summary='{"loss": "NaN"}')
        yield server


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "abcde"),
        ({"name": "c"}, "c"),
        ({"display_name": "name-c"}, "c"),
        ({"displayName": {"$regex": "^name-[ab]$"}}, "ab"),
        ({"state": {"$eq": "running"}}, "e"),
        ({"state": {"$ne": "running"}}, "abcd"),
        ({"name": {"$in": ["a", "e"]}}, "ae"),
        ({"name": {"$nin": ["a", "e"]}}, "bcd"),
        ({"tags": "d"}, "d"),
        ({"tags": {"$in": ["a", "b"]}}, "ab"),
        ({"tags": {"$ne": "d"}}, "abce"),
        ({"group": None}, "a"),
        ({"group": {"$exists": True}}, "bcde"),
        ({"jobType": "train", "username": "tester"}, "abcde"),
        ({"created_at": {"$gt": "2026-01-02"}}, "cde"),
        ({"createdAt": {"$gte": "2026-01-02T00:00:00Z", "$lt": "2026-01-04T01:00:00+02:00"}}, "bc"),
        ({"heartbeat_at": {"$lte": "2026-01-01T00:00:00.500"}}, "a"),
        ({"duration": {"$gte": 120}}, "cde"),
        ({"config.lr": {"$lt": 0.3}}, "ac"),
        ({"config.lr.value": 0.3}, "d"),
        ({"config.lr": {"$not": {"$lt": 0.3}}}, "bde"),
        ({"config.model.k": {"$gt": 2}}, "de"),
        ({"config.model.a.b": 4}, "e"),
        ({"config.flag": True}, "de"),
        ({"config.flag": 1}, ""),
        ({"config.none": {"$exists": False}}, "abcde"),
        ({"summary_metrics.loss": {"$lte": 2}}, "de"),
        ({"summary_metrics.loss": "NaN"}, "b"),
        ({"summary_metrics._wandb.runtime": 60}, ""),
        ({"$and": [{"tags": "x"}, {"$or": [{"name": "a"}, {"name": "b"}]}]}, "ab"),
        ({"$nor": [{"name": "a"}, {"state": "running"}]}, "bcd"),
        ({"$not": {"name": "a"}}, "bcde"),
        ({"unknown": "x"}, ""),
    ],
)
def test_filters(five_runs, filters, expected):
    assert "".join(listed(five_runs, filters)) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("+created_at", "abcde"),
        ("created_at", "abcde"),
        ("-created_at", "edcba"),
        ("-heartbeat_at", "edcba"),
        ("+config.model.k.value", "acdeb"),
        ("-config.model.k.value", "edcab"),
        ("+summary_metrics.text", "acdeb"),
    ],
)
def test_orders(five_runs, order, expected):
    assert "".join(listed(five_runs, order=order)) == expected


@pytest.mark.parametrize("filters", ['{"state": {"$gtt": 1}}', '{"$xor": []}', "{", '{"$and": {}}'])
def test_a_bad_filter_is_an_error(five_runs, filters):
    status, body, _ = post(five_runs, RUNS, filters=filters)
    assert status == 200
    assert json.loads(body)["errors"]


def test_pages_and_their_limit(server):
    ids = server.add_runs("team", "demo", 7, keys=9)
    server.configure(page_limit=3)
    found, cursor = [], None
    for size in (3, 3, 1):
        names, info = page(server, cursor, first=1000)
        assert len(names) == size
        found, cursor = found + names, info["endCursor"]
    assert found == ids
    assert info["hasNextPage"] is False
    assert base64.b64decode(cursor) == b"arrayconnection:6"


def test_projects_by_pages(server):
    for name in "abcde":
        server.add_project("team", name)
    query = """query ($entity: String, $after: String) { models(entityName: $entity, after: $after, first: 3) {
        edges { node { name entityName createdAt } } pageInfo { endCursor hasNextPage }
    } }"""
    first = ask(server, query, entity="team")["models"]
    second = ask(server, query, entity="team", after=first["pageInfo"]["endCursor"])["models"]
    assert [edge["node"]["name"] for edge in first["edges"] + second["edges"]] == list("abcde")
    assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)
    assert ask(server, query, entity="nobody")["models"]["edges"] == []
    assert ask(server, '{ project(name: "a", entityName: "nobody") { name } }') == {"project": None}


def test_many_questions_in_one_request(server):
    server.add_run("team", "demo", "a", state="running")
    server.add_run("team", "demo", "b", state="failed")
    query = """{
      demo: project(name: "demo", entityName: "team") {
        all: runCount
        running: runCount(filters: "{\\"state\\": \\"running\\"}")
        a: run(name: "a") { ...Facts }
        b: run(name: "b") { ...Facts }
        c: run(name: "c") { ...Facts }
      }
      other: project(name: "other", entityName: "team") { name }
      __typename
    }
    fragment Facts on Run { name state user { username } parquetHistory(liveKeys: ["_step"]) { parquetUrls } }"""
    none = {"user": {"username": "tester"}, "parquetHistory": {"parquetUrls": []}}
    assert ask(server, query) == {
        "demo": {
            "all": 2,
            "running": 1,
            "a": {"name": "a", "state": "running"} | none,
            "b": {"name": "b", "state": "failed"} | none,
            "c": None,
        },
        "other": None,
        "__typename": "Query",
    }


def test_the_short_way_for_runs_agrees_with_the_long_one(server):
    server.add_runs("team", "demo", 5, keys=9)
    server.add_odd_runs("team", "demo")
    fields = """id projectId name displayName state createdAt heartbeatAt tags group jobType sweepName notes commit host
        config summaryMetrics systemMetrics historyLineCount historyKeys user { username alias: name }"""
    query = 'query { project(name: "demo", entityName: "team") { runs(first: 100) { edges { node { %s } } } } }'
    short = ask(server, query % fields)
    assert ask(server, query % (fields + " eventsLineCount")) != short  # a field of the long way
    server.fault("null", match={"field": "host", "run": "none"})  # a watched field: the long way for all
    assert ask(server, query % fields) == short


@pytest.mark.parametrize(
    "query",
    [
        "",
        "{ viewer { id",
        "{ projekt { name } }",
        "{ project(name: 1) { name } }",
        '{ project(name: "demo") { runs(limit: 5) { edges { cursor } } } }',
        "query A { viewer { id } } query B { viewer { id } }",
    ],
)
def test_an_invalid_query_is_refused(server, query):
    status, body, _ = post(server, query)
    assert status == 400
    assert json.loads(body)["errors"][0]["message"]


@pytest.mark.parametrize("headers", [{}, credentials("1" * 40), {"Authorization": "Bearer x"}])
def test_a_wrong_key_is_refused(server, headers):
    status, body, _ = request(server.url, "POST", "/graphql", json.dumps({"query": "{ viewer { id } }"}), headers)
    assert status == 401
    assert json.loads(body)["errors"][0]["message"]
    assert server.requests()[0]["authorization"] == bool(headers)


# --- histories ------------------------------------------------------------------------------------------------


def test_exports_live_tail_and_counts(server):
    server.add_run("team", "demo", "r")
    rows = [{"_step": step, "loss": float(step), "n": 2**60, "text": "t", "deep": {"x": 1}} for step in range(6)]
    rows[1]["loss"] = float("nan")
    server.add_history("team", "demo", "r", rows=rows[:2])
    server.add_history("team", "demo", "r", rows=rows[2:4], live=[rows[4], {"_step": 5, "loss": float("-inf")}])
    found = parquet_history(server, "r")
    tables = [pq.read_table(BytesIO(get(url)[1])) for url in found["parquetHistory"]["parquetUrls"]]
    assert sorted(step for table in tables for step in table["_step"].to_pylist()) == [0, 1, 2, 3]
    assert [str(kind) for kind in tables[0].schema.types[:4]] == ["int64", "double", "double", "string"]
    assert found["parquetHistory"]["liveData"] == [{"_step": 4, "loss": 4}, {"_step": 5, "loss": "-Infinity"}]
    assert (found["historyLineCount"], found["historyKeys"]["lastStep"]) == (6, 5)
    assert found["historyKeys"]["keys"]["loss"]["typeCounts"] == [{"type": "number", "count": 6}]
    assert "deep.x" in found["historyKeys"]["keys"]

    query = """query ($spec: JSONString!) { project(name: "demo", entityName: "team") { run(name: "r") {
      page: history(minStep: 3, maxStep: 5) tail: historyTail sampled: sampledHistory(specs: [$spec])
    } } }"""
    spec = {"keys": ["_step", "loss"], "minStep": 1, "maxStep": 5, "samples": 2}
    run = ask(server, query, spec=json.dumps(spec))["project"]["run"]
    assert [json.loads(row)["_step"] for row in run["page"]] == [3, 4]
    assert json.loads(json.loads(run["tail"])[0]) == {"_step": 5, "loss": "-Infinity"}
    assert run["sampled"] == [[{"_step": 1, "loss": "NaN"}, {"_step": 3, "loss": 3}]]

    server.export("team", "demo", "r", leave_live=1, merge=True)
    found = parquet_history(server, "r")["parquetHistory"]
    assert (len(found["parquetUrls"]), len(found["liveData"])) == (1, 1)
    assert pq.read_table(BytesIO(get(found["parquetUrls"][0])[1]))["_step"].to_pylist() == [0, 1, 2, 3, 4]


def test_a_run_without_exports_may_keep_silent_about_its_rows(server):
    server.add_run("team", "demo", "r")
    server.add_history("team", "demo", "r", live=[{"_step": 0, "loss": 1}])
    assert parquet_history(server, "r")["parquetHistory"]["liveData"]
    server.configure(live_data_before_export=False)
    assert parquet_history(server, "r")["parquetHistory"] == {"parquetUrls": [], "liveData": []}


def test_system_metrics(server):
    server.add_run("team", "demo", "r")
    events = [{"system.cpu": step, "_timestamp": 100.0 + step} for step in range(10)]
    server.add_events("team", "demo", "r", events)
    query = """{ project(name: "demo", entityName: "team") { run(name: "r") {
        eventsLineCount systemMetrics events(samples: 5)
    } } }"""
    run = ask(server, query)["project"]["run"]
    assert [json.loads(line) for line in run["events"]] == events[::2]
    assert (run["eventsLineCount"], json.loads(run["systemMetrics"])) == (10, {"system.cpu": 9})


FORWARD = "useImprovedPagination: true"


def console(server, *questions):
    """The lines of a run for each alias: its number, stream, time and text, and the end of the page."""
    fields = "edges { node { number level timestamp line } cursor } pageInfo { endCursor hasNextPage }"
    aliases = " ".join(
        f'a{number}: run(name: "{run}") {{ logLineCount logLines({arguments}) {{ {fields} }} }}'
        for number, (run, arguments) in enumerate(questions)
    )
    project = ask(server, f'{{ project(name: "demo", entityName: "team") {{ {aliases} }} }}')["project"]
    return [project[f"a{number}"] for number in range(len(questions))]


def line_numbers(answer):
    return [edge["node"]["number"] for edge in answer["logLines"]["edges"]]


def test_console_lines_of_many_runs_in_one_question(server):
    for run, lines in (("a", 7), ("b", 2), ("empty", 0)):
        server.add_run("team", "demo", run)
        server.add_console("team", "demo", run, [f"2026-01-01T00:00:0{n}.5 {run}{n}" for n in range(lines)])
    server.add_console("team", "demo", "b", ["ERROR 2026-01-01T00:00:09.25 it broke", "a line of an old SDK"])
    head, tail, other, empty = console(
        server, ("a", f"first: 3, {FORWARD}"), ("a", "last: 3"), ("b", "last: 50"), ("empty", "last: 5")
    )
    assert (line_numbers(head), head["logLines"]["pageInfo"]["hasNextPage"], head["logLineCount"]) == (
        [0, 1, 2],
        True,
        7,
    )
    assert (line_numbers(tail), tail["logLines"]["pageInfo"]["hasNextPage"]) == ([4, 5, 6], False)
    [after] = console(server, ("a", f'first: 3, {FORWARD}, after: "{head["logLines"]["pageInfo"]["endCursor"]}"'))
    assert line_numbers(after) == [3, 4, 5]
    assert [edge["node"] for edge in other["logLines"]["edges"]][1:] == [
        {"number": 1, "level": None, "timestamp": "2026-01-01T00:00:01.5", "line": "b1"},
        {"number": 2, "level": "error", "timestamp": "2026-01-01T00:00:09.25", "line": "it broke"},
        {"number": 3, "level": None, "timestamp": None, "line": "a line of an old SDK"},
    ]
    assert empty == {"logLineCount": 0, "logLines": None}

    server.configure(line_limit=2)  # of a tail that is too long the newest lines are answered
    head, tail, old = console(server, ("a", f"first: 100, {FORWARD}"), ("a", "last: 100"), ("a", "first: 1"))
    assert (line_numbers(head), head["logLines"]["pageInfo"]["hasNextPage"]) == ([0, 1], True)
    assert line_numbers(tail) == [5, 6]
    [older] = console(server, ("a", f'first: 1, after: "{old["logLines"]["pageInfo"]["endCursor"]}"'))
    assert (line_numbers(old), line_numbers(older)) == ([5, 6], [3, 4])  # from the end, whatever `first` says
    server.configure(line_budget=1)
    [cut] = console(server, ("a", f"first: 100, {FORWARD}"))
    assert (line_numbers(cut), cut["logLines"]["pageInfo"]["hasNextPage"]) == ([0], False)


def test_files_by_name_and_pattern_in_pages(server):
    server.add_run("team", "demo", "r")
    for name in ("media/table/a_1_x.table.json", "media/table/b_1_x.table.json", "output.log", "a_b", "aXb"):
        server.add_file("team", "demo", "r", name, name)

    def names(arguments):
        query = f"""{{ project(name: "demo", entityName: "team") {{ run(name: "r") {{
            files({arguments}) {{ edges {{ node {{ name }} }} pageInfo {{ endCursor hasNextPage }} }}
        }} }} }}"""
        files = ask(server, query)["project"]["run"]["files"]
        return [edge["node"]["name"] for edge in files["edges"]], files["pageInfo"]

    assert names('names: ["output.log", "no such file"]')[0] == ["output.log"]
    assert names('pattern: "media/table/%.json"')[0] == ["media/table/a_1_x.table.json", "media/table/b_1_x.table.json"]
    assert names('pattern: "a_b"')[0] == ["aXb", "a_b"]
    found, info = names("first: 3")
    assert info["hasNextPage"]
    assert names(f'first: 3, after: "{info["endCursor"]}"')[0] == ["media/table/b_1_x.table.json", "output.log"]
    assert found == ["aXb", "a_b", "media/table/a_1_x.table.json"]


def test_exports_hold_what_rows_hold():
    rows = [
        {"_step": 0, "flag": True, "mixed": 1, "list": [1, 2], "deep": {"x": 1, "none": {}}, "big": 10**30},
        {"_step": 1, "mixed": "text", "deep": {"x": 2}, "empty": {}},
    ]
    assert table_of(rows).to_pydict() == {
        "_step": [0, 1],
        "flag": [True, None],
        "mixed": ["1", '"text"'],
        "list": [[1, 2], None],
        "deep": [{"x": 1, "none": None}, {"x": 2, "none": None}],
        "big": [1e30, None],
        "empty": [None, None],
    }
    assert "deep.x" in table_of(rows, nested="dotted").column_names


def test_lines_are_written_at_their_offset():
    history = History()
    history.write(0, ['{"_step": 0, "a": 1}', '{"_step": 1, "a": NaN}'])
    history.write(1, ['{"_step": 1, "a": 2}', '{"_step": 2, "a": 3}'])  # sent again, with one more
    assert [row["a"] for row in history.live] == [1, 2, 3]


def test_ranges_and_signatures(server):
    server.add_run("team", "demo", "r")
    server.add_file("team", "demo", "r", "media/a b.txt", "0123456789")
    query = """{ project(name: "demo", entityName: "team") { run(name: "r") {
        files { edges { node { url directUrl } } }
    } } }"""
    file = ask(server, query)["project"]["run"]["files"]["edges"][0]["node"]
    url = urlsplit(file["directUrl"])
    path = f"{url.path}?{url.query}"
    assert request(file["directUrl"], "GET", path)[1] == b"0123456789"
    assert request(file["directUrl"], "GET", path, headers={"Range": "bytes=2-4"})[:2] == (206, b"234")
    assert request(file["directUrl"], "GET", path, headers={"Range": "bytes=8-99"})[:2] == (206, b"89")
    assert request(file["directUrl"], "GET", path, headers={"Range": "bytes=-2"})[:2] == (206, b"89")
    assert request(file["directUrl"], "GET", path, headers={"Range": "bytes=10-"})[0] == 416
    status, body, headers = request(file["directUrl"], "HEAD", path)
    assert (status, body, headers["Content-Length"]) == (200, b"", "10")
    assert request(file["directUrl"], "GET", url.path)[0] == 403
    assert get(file["directUrl"].replace("signature=", "signature=0"))[0] == 403

    status, _, headers = request(server.url, "GET", "/files/team/demo/r/media/a%20b.txt", headers=credentials())
    assert status == 302
    assert get(headers["Location"])[1] == b"0123456789"


# --- faults ---------------------------------------------------------------------------------------------------

VIEWER = "query Who { viewer { username } }"


def test_refused_and_then_answered(server):
    rule = server.fault("status", match={"operation": "Who"}, times=2, status=429, headers={"Retry-After": "7"})
    answers = [post(server, VIEWER) for _ in range(3)]
    assert [status for status, _, _ in answers] == [429, 429, 200]
    assert answers[0][2]["Retry-After"] == "7"
    assert rule.hits == 2
    assert server.counts()["fault:status"] == 2


def test_every_third_request_fails(server):
    rule = server.fault("status", every=3, after=1)
    assert [post(server, VIEWER)[0] for _ in range(8)] == [200, 200, 200, 500, 200, 200, 500, 200]
    assert rule.hits == 2


def test_when_requests_came(server):
    post(server, VIEWER)
    after_first = time.monotonic()
    post(server, VIEWER)
    first, second = (line["received_s"] for line in server.requests())
    assert first <= after_first <= second


def test_a_run_twice_in_one_page(server):
    ids = server.add_runs("team", "demo", 2, keys=9)
    server.fault("repeat", match={"field": "runs"})
    assert page(server)[0] == [*ids, ids[0]]


def test_headers_on_a_good_answer(server):
    server.fault("headers", headers={"RateLimit-Remaining": "3", "RateLimit-Reset": "1"})
    status, _, headers = post(server, VIEWER)
    assert (status, headers["RateLimit-Remaining"]) == (200, "3")


def test_gzip_for_who_accepts_it(server):
    server.configure(gzip=True)
    body, accepts = json.dumps({"query": VIEWER}), {"Accept-Encoding": "gzip"}
    _, plain, _ = request(server.url, "POST", "/graphql", body, credentials())
    _, packed, headers = request(server.url, "POST", "/graphql", body, credentials() | accepts)
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain


def test_dropped_cut_and_truncated(server):
    server.fault("drop", times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        post(server, VIEWER)
    server.fault("cut", times=1)
    with pytest.raises(http.client.IncompleteRead):
        post(server, VIEWER)
    server.fault("truncate", times=1)
    status, body, _ = post(server, VIEWER)
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_a_hanging_answer_ends_with_its_rule(server):
    server.fault("hang")
    ended = []

    def wait():
        with pytest.raises(http.client.RemoteDisconnected):
            post(server, VIEWER)
        ended.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    server.wait_for_hits()
    assert not ended
    server.clear_faults()
    waiting.join(10)
    assert ended


def test_large_pages_fail_and_small_ones_succeed(server):
    server.add_runs("team", "demo", 3, keys=9)
    server.fault("status", match={"above_first": 100}, status=504)
    assert post(server, RUNS, first=1000)[0] == 504
    assert post(server, RUNS, first=100)[0] == 200


def test_too_many_at_once(server):
    server.fault("status", match={"above_in_flight": 2}, status=429)
    server.fault("hang", times=2)
    connections = [http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10) for _ in range(2)]
    for connection in connections:
        connection.request("POST", "/graphql", json.dumps({"query": VIEWER}), credentials())
    server.wait_for_hits(2)
    assert post(server, VIEWER)[0] == 429
    server.clear_faults()
    for connection in connections:
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        connection.close()
    assert post(server, VIEWER)[0] == 200


def test_one_run_and_one_project_fail(server):
    server.add_run("team", "demo", "a")
    server.add_run("team", "demo", "b")
    server.add_run("team", "bad", "a")
    query = 'query ($run: String!) { project(name: "demo", entityName: "team") { run(name: $run) { history } } }'
    server.fault("error", match={"field": "history", "run": "a"}, message="no history today")
    server.fault("status", match={"project": "bad"}, status=500)
    status, body, _ = post(server, query, run="a")
    assert (status, json.loads(body)["errors"][0]["message"]) == (200, "no history today")
    assert post(server, query, run="b")[0] == 200
    assert post(server, '{ project(name: "bad", entityName: "team") { runCount } }')[0] == 500
    server.fault("null", match={"field": "models"})
    assert ask(server, '{ models(entityName: "team") { edges { cursor } } }') == {"models": None}


def test_expired_and_broken_downloads(server):
    server.add_run("team", "demo", "r")
    server.add_history("team", "demo", "r", rows=[{"_step": 0, "loss": 1.0}])
    url = parquet_history(server, "r")["parquetHistory"]["parquetUrls"][0]
    whole = get(url)[1]
    server.expire_urls()
    status, body, _ = get(url)
    assert status == 403
    assert b"expired" in body
    url = parquet_history(server, "r")["parquetHistory"]["parquetUrls"][0]
    assert get(url)[:2] == (200, whole)
    server.fault("truncate", match={"kind": "download", "run": "r"}, times=1)
    server.fault("expired", match={"path": r"\.parquet$"}, times=1)
    assert get(url)[:2] == (200, whole[: len(whole) // 2])
    assert get(url)[0] == 403
    assert get(url)[:2] == (200, whole)
    server.configure(url_lifetime_s=-1)
    assert get(parquet_history(server, "r")["parquetHistory"]["parquetUrls"][0])[0] == 403


def test_console_and_files_fail_on_demand(server):
    for run in ("a", "b"):
        server.add_run("team", "demo", run)
        server.add_console("team", "demo", run, ["2026-01-01T00:00:00.5 hello"] * 4)
        server.add_file("team", "demo", run, "media/table/t_1_x.table.json", '{"columns": ["a"], "data": [[1]]}')
    query = """{ project(name: "demo", entityName: "team") {
        a: run(name: "a") { logLines(last: 2) { edges { node { line } } } files { edges { node { directUrl } } } }
        b: run(name: "b") { logLines(last: 2) { edges { node { line } } } files { edges { node { directUrl } } } }
    } }"""
    lines = {"edges": [{"node": {"line": "hello"}}] * 2}
    server.fault("error", match={"field": "logLines", "run": "a"}, times=1, message="no console today")
    server.fault("null", match={"field": "files", "run": "b"}, times=1)
    status, body, _ = post(server, query)
    answer = json.loads(body)
    assert (status, answer["errors"][0]["message"], answer["errors"][0]["path"]) == (
        200,
        "no console today",
        ["project", "a", "logLines"],
    )
    a, b = answer["data"]["project"]["a"], answer["data"]["project"]["b"]
    assert (a["logLines"], b["logLines"], b["files"]) == (None, lines, None)
    url = a["files"]["edges"][0]["node"]["directUrl"]

    server.fault("status", match={"field": "logLines", "above_runs": 1}, status=500)
    assert post(server, query)[0] == 500
    assert len(console(server, ("a", "first: 9"))) == 1

    whole = get(url)[1]
    server.fault("truncate", match={"kind": "download", "run": "a", "path": r"\.table\.json$"}, times=1)
    server.fault("status", match={"kind": "download"}, times=1, status=503)
    assert [get(url)[:2] for _ in range(3)] == [(200, whole[: len(whole) // 2]), (503, server_error()), (200, whole)]
    server.expire_urls()
    assert get(url)[0] == 403

    more = {"entity": "team", "project": "demo", "run_id": "a", "lines": ["2026-01-01T00:00:01 late"]}
    server.clear_faults()
    server.fault("call", match={"field": "logLines"}, times=1, method="add_console", arguments=more)
    assert console(server, ("a", "last: 9"))[0]["logLineCount"] == 5  # the run went on


def server_error():
    return b'{"errors":[{"message":"simulated failure"}]}'


def test_runs_come_and_go_between_pages(server):
    ids = server.add_runs("team", "demo", 5, keys=9)
    first_run = {"entity": "team", "project": "demo", "run_id": ids[0]}
    server.fault("call", match={"field": "runs"}, after=1, times=1, method="delete_run", arguments=first_run)
    first, info = page(server)
    second, info = page(server, info["endCursor"])
    assert first + second == [ids[0], ids[1], ids[3], ids[4]]  # the offset moved: ids[2] was passed over
    server.add_run("team", "demo", "early", created_at="2025-01-01T00:00:00Z")
    first, info = page(server)
    server.add_run("team", "demo", "earlier", created_at="2024-01-01T00:00:00Z")
    assert first == ["early", ids[1]]
    assert page(server, info["endCursor"])[0] == [ids[1], ids[2]]  # and ids[1] comes twice


def test_latency_is_a_floor(server):
    server.add_runs("team", "demo", 10, keys=9)
    server.configure(latency_s=0.03, per_run_s=0.01)
    started = time.perf_counter()
    post(server, RUNS)
    assert time.perf_counter() - started >= 0.13


def test_the_sdk_meets_each_fault(server, tmp_path):
    """All at once, each in an operation of its own: waits of the SDK's retries add up to seconds."""
    code = """
import wandb
from concurrent.futures import ThreadPoolExecutor
from wandb_server import Remote
server, faults = Remote(os.environ["WANDB_BASE_URL"]), json.loads(sys.argv[1])
api = wandb.Api()
for name, (action, rule) in faults.items():
    server.fault(action=action, match={"operation": name}, **rule)
def outcome(name):
    try:
        return api._service_api.execute_graphql("query %s { viewer { username } }" % name)["viewer"]["username"]
    except Exception as error:
        return f"{type(error).__name__} {getattr(error.response, 'http_status', None)}: {error}"
with ThreadPoolExecutor(len(faults)) as pool:
    report(dict(zip(faults, pool.map(outcome, faults))))
"""
    faults = {
        "Limited": ("status", {"times": 1, "status": 429, "headers": {"Retry-After": "1"}}),
        "LimitedSilently": ("status", {"times": 1, "status": 429}),
        "Bad": ("status", {"times": 1, "status": 502}),
        "Down": ("status", {"status": 500}),
        "Dropped": ("drop", {"times": 1}),
        "Cut": ("cut", {}),
        "Truncated": ("truncate", {}),
        "Hanging": ("hang", {"times": 1}),
        "Forbidden": ("status", {"status": 403, "message": "no access"}),
        "Erroneous": ("status", {"status": 200, "body": '{"data": null, "errors": [{"message": "odd"}]}'}),
        "Plain": ("slow", {"seconds": 0.1}),
    }
    found = sdk(server, tmp_path, code, json.dumps(faults))
    recovered = {name for name, outcome in found.items() if outcome == "tester"}
    assert recovered == {"Limited", "LimitedSilently", "Bad", "Dropped", "Hanging", "Plain"}
    failed = {name: found[name] for name in faults if name not in recovered}
    assert "giving up after 2 attempt(s)" in failed["Down"]
    assert "unexpected EOF" in failed["Cut"]
    assert "unexpected" in failed["Truncated"]
    assert failed["Forbidden"] == "WandbApiFailedError 403: no access"
    assert "odd" in failed["Erroneous"]
    counts = server.counts()
    assert {name: counts[f"operation:{name}"] for name in ("Limited", "Down", "Cut", "Hanging", "Plain")} == {
        "Limited": 2,
        "Down": 2,
        "Cut": 1,
        "Hanging": 2,
        "Plain": 1,
    }


def test_the_sdk_is_told_of_a_wrong_key(server, tmp_path):
    code = """
import wandb
try:
    wandb.Api()
except Exception as error:
    report(type(error).__name__)
"""
    assert sdk(server, tmp_path, code, WANDB_API_KEY="1" * 40) == "AuthenticationError"


# --- seeding, log, process ------------------------------------------------------------------------------------


def test_made_up_runs_are_the_same_each_time():
    with Server() as one, Server() as other:
        for server in (one, other):
            server.add_runs("team", "demo", 20)
        query = """{ project(name: "demo", entityName: "team") { runs { edges { node {
            name state createdAt config summaryMetrics tags
        } } } } }"""
        assert ask(one, query) == ask(other, query)
        run = one.run("team", "demo", "run000003")
    config, summary = json.loads(run.config), json.loads(run.summary)
    leaves = len(config) - 1 + len([key for key in summary if not key.startswith("_")])
    assert leaves == 180


def test_made_up_consoles_and_tables(server):
    ids = server.add_consoles("team", "demo", 3, lines=20)
    [whole] = console(server, (ids[2], "first: 50"))
    lines = [edge["node"] for edge in whole["logLines"]["edges"]]
    assert [line["number"] for line in lines] == list(range(20))
    assert [line["number"] for line in lines if line["level"] == "error"] == [9, 19]
    assert lines[1]["line"] == "run 2 step 1: loss 0.500000, accuracy 0.500000"
    assert lines[1]["timestamp"] == "2026-01-01T00:02:01.000001"

    ids = server.add_tables("team", "demo", 3, rows=100, key="predictions", distinct=2)
    runs = [server.run("team", "demo", run_id) for run_id in ids]
    entries = [json.loads(run.summary)["predictions"] for run in runs]
    tables = [json.loads(run.files[entry["path"]].content) for run, entry in zip(runs, entries, strict=True)]
    assert [(entry["_type"], entry["nrows"]) for entry in entries] == [("table-file", 100)] * 3
    assert [len(table["data"]) for table in tables] == [100] * 3
    assert repr(tables[0]) == repr(tables[2]) != repr(tables[1])
    assert tables[0]["data"][49][2] is None


def test_made_up_machines(server):
    ids = server.add_runs("team", "demo", 50, keys=9)
    configs = [json.loads(server.run("team", "demo", run_id).config) for run_id in ids]
    machines = [config["_wandb"]["value"]["e"] for config in configs]
    assert {len(writers) for writers in machines} == {1, 2}
    first = [min(writers.values(), key=lambda writer: writer["startedAt"]) for writers in machines]
    assert [writer["host"] for writer in first] == [server.run("team", "demo", run_id).host for run_id in ids]
    assert {writer.get("gpu_count") for writer in first} == {4, 8, None}


def test_made_up_histories(server):
    first, second = server.add_histories("team", "demo", 2, steps=100, metrics=3, parts=2, live=10, distinct=1)
    run = server.run("team", "demo", first)
    assert (run.state, run.history.line_count) == ("running", 100)
    assert (len(run.history.exports), len(run.history.live)) == (2, 10)
    assert [row["_step"] for row in run.history.rows(0)] == list(range(100))
    assert run.history.exports[0].file == server.run("team", "demo", second).history.exports[0].file
    assert json.loads(run.summary)["train/metric_0"] == run.history.live[-1]["train/metric_0"]


def test_the_log_tells_what_was_asked(server):
    server.add_runs("team", "demo", 3, keys=9)
    post(server, RUNS, first=2)
    post(server, VIEWER, key="1" * 40)
    request(server.storage_url, "GET", "/storage/team/demo/r/x", headers=credentials())
    listing, who, leak = server.requests()
    assert (listing["operation"], listing["first"], listing["runs_returned"]) == ("Runs", 2, 2)
    assert (who["status"], who["authorization"]) == (401, True)
    assert (leak["service"], leak["path"], leak["authorization"]) == ("storage", "/storage/team/demo/r/x", True)
    assert server.counts() == {
        "graphql": 2,
        "download": 1,
        "operation:Runs": 1,
        "operation:Who": 1,
        "field:project": 1,
        "field:runs": 1,
        "field:runCount": 1,
        "runs_returned": 2,
        "bytes_sent": listing["bytes_sent"] + who["bytes_sent"] + leak["bytes_sent"],
    }
    server.reset()
    assert server.requests() == []


def test_in_a_process_of_its_own():
    with spawn("--scenario", "runs", "--runs", "30", "--keys", "9") as server:
        assert len(listed(server)) == 30
        server.add_run(entity="team", project="demo", run_id="late", user=None)
        server.fault(action="status", times=1, status=503)
        assert post(server, VIEWER)[0] == 503
        assert listed(server, {"name": "late"}) == ["late"]
        assert server.counts()["graphql"] == 3
        url = server.url
    with pytest.raises(ConnectionRefusedError):
        post(Remote(url), VIEWER)


def test_no_thread_stays_behind():
    before = threading.active_count()
    with Server() as server:
        connections = [http.client.HTTPConnection(urlsplit(server.url).netloc) for _ in range(3)]
        for connection in connections:  # kept alive, idle
            connection.request("POST", "/graphql", json.dumps({"query": VIEWER}), credentials())
            assert connection.getresponse().read()
        connections[0].request("POST", "/graphql", json.dumps({"query": VIEWER}), credentials())
        assert connections[0].getresponse().read()
    for connection in connections:
        connection.close()
    for thread in threading.enumerate():
        if thread.name.startswith("Thread-") and "process_request" in thread.name:
            thread.join(5)
    assert threading.active_count() == before
