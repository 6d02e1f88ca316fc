"""What `--json` prints is what `tests/schemas/` says: programs depend on it, so that a change there is a decision."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, Done
from contract_files import Run, write_runs
from jsonschema import Draft202012Validator
from wandb_server import Server

SCHEMAS = Path(__file__).parent / "schemas"


def checked(script: str, done: Done) -> dict:
    """The JSON that a script printed, which its schema allows."""
    document = json.loads(done.out)
    schema = json.loads((SCHEMAS / f"{script}.json").read_text())
    Draft202012Validator.check_schema(schema)
    problems = [error.message for error in Draft202012Validator(schema).iter_errors(document)]
    assert not problems, problems[:3]
    return document


@pytest.fixture
def server(tmp_path):
    with Server() as server:
        server.add_runs("team", "demo", 4, keys=8)
        server.add_runs("team", "other", 2, keys=8)
        yield server


def test_list_entities(server, run_script, call_script, tmp_path):
    settings = server.environment(tmp_path / "sdk")
    document = checked("list_entities", run_script("list_entities.py", "--json", env=settings))
    assert [row["project"] for row in document["projects"]] == ["demo", "other"]
    server.fault("status", match={"project": "other"}, status=500)
    document = checked("list_entities", call_script("list_entities.py", "--json", "--retries", 1, env=settings))
    assert document["failed"]


def test_export_runs_from_a_server(server, call_export, tmp_path):
    def export(*arguments: object) -> dict:
        common = ("-e", "team", "-o", tmp_path / "out", "--json", "--retries", 0, "--timeout", 5)
        done = call_export(*common, *arguments, env=server.environment(tmp_path / "sdk"))
        return checked("export_runs", done)

    assert {row["status"] for row in export("--dry-run", "--include-history")["exports"]} == {"planned"}
    assert {row["status"] for row in export("--include-history")["exports"]} == {"complete"}
    server.fault("status", match={"project": "other"}, status=500)
    assert {row["status"] for row in export()["exports"]} == {"complete", "failed"}


@pytest.mark.parametrize("how", [(), ("--dry-run",)])
def test_export_runs_offline(run_script, tmp_path, how):
    runs = ROOT / "examples" / "offline-runs"
    done = run_script("export_runs.py", "--offline", runs, "-o", tmp_path, "--include-history", "--json", *how)
    assert len(checked("export_runs", done)["exports"]) == 2


def test_aggregate_runs(run_script, call_script, tmp_path):
    write_runs(tmp_path / "x", [Run("a", "gnn_all_k16", {"lr": 0.1, "k": 8}), Run("b", state="crashed")])
    write_runs(tmp_path / "x", [Run("c", config={"lr": "high"})], project="other")
    (tmp_path / "x" / "cut.parquet").write_bytes(b"PAR1")
    rows = pl.DataFrame({"run_id": ["a"], "entity": ["team"], "project": ["demo"], "_step": [0]})
    rows.write_parquet(tmp_path / "x" / "team_demo_history_sampled.parquet")
    # k of the name, while config_k has values
    flags = ("--history", "--state", "finished", "--where", "k = 16", "--json")
    done = run_script("aggregate_runs.py", "x", "nowhere", *flags)
    assert done.code == 3
    document = checked("aggregate_runs", done)
    assert all(document[key] for key in document)  # so that every kind of row was looked at
    done = call_script("aggregate_runs.py", "--explain", "gnn_all_k16", "--json")
    assert {row["column"]: row["value"] for row in checked("aggregate_runs_explain", done)["explain"]}["k"] == 16


@pytest.mark.parametrize(
    "question",
    [
        (),
        ("--top", 3),
        ("--group-by", "arch", "--stat", "iqm"),
        ("--pivot", "stage,arch"),
        ("--schema",),
        ("--varying",),
        ("--diff", "smoke-test", "quick-look"),
        ("--importance",),
        ("--curves", "val/mse", "--group-by", "arch"),
        ("--curves", "val/mse"),
        ("--health",),
        ("--sql", "SELECT name, tags, created_at, runtime_s FROM runs"),
        ("--top", 3, "--value", "min"),
        ("--report", "report.html"),
    ],
    ids=lambda question: " ".join(map(str, question)) or "nothing",
)
def test_analyze_runs(run_script, call_script, tmp_path_factory, question):
    folder = tmp_path_factory.getbasetemp() / "analyzed"
    file = folder / "unified.parquet"
    if not file.exists():
        exported = ("export_runs.py", "--offline", ROOT / "examples" / "offline-runs", "-o", folder / "export")
        assert call_script(*exported, "--include-history").code == 0
        assert call_script("aggregate_runs.py", folder / "export", "-o", file, "--history").code == 0
    flags = (
        ("-m", "test/mse")
        if question and question[0] not in {"--schema", "--varying", "--diff", "--health", "--sql"}
        else ()
    )
    call = call_script if question else run_script  # one of them as a process
    checked("analyze_runs", call("analyze_runs.py", file, *question, *flags, "--json"))


def test_json_is_utf8_whatever_the_system_prefers(server, run_script, tmp_path):
    """As on Windows, where the encoding of pipes lacks most characters."""
    env = server.environment(tmp_path / "sdk") | {"PYTHONIOENCODING": "cp1252"}
    server.add_run("team", "größe 日本", "a", display_name="größe 日本", config={"größe": "日本"})
    listed = json.loads(run_script("list_entities.py", "--json", env=env).out)
    assert "größe 日本" in [row["project"] for row in listed["projects"]]
    exported = run_script("export_runs.py", "-e", "team", "-p", "gr*", "-o", "日本", "--json", env=env)
    (folder,) = {Path(file).parent for file in json.loads(exported.out)["files"]}
    merged = run_script("aggregate_runs.py", folder, "-o", "größe 日本.parquet", "--json", env=env)
    (file,) = json.loads(merged.out)["files"]
    shown = run_script("analyze_runs.py", file, "--sql", "SELECT name FROM runs", "--json", env=env)
    assert json.loads(shown.out)["sql"] == [{"name": "größe 日本"}]
