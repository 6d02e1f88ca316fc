"""Answers of analyze_runs.py that were wrong or misled: each of these tests failed before its mend."""

from __future__ import annotations

import json

import polars as pl
import pytest
from contract_files import Run, write_runs
from test_analyze_faults import rewrite, steps, write_export, write_history
from test_analyze_runs import answered, ask, document


def with_metadata(file, **texts: str):
    """The parquet file with further metadata."""
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    more = {f"wandb_tools.{key}": text for key, text in texts.items()}
    pl.read_parquet(file).write_parquet(file, metadata=pairs | more)
    return file


# --- which runs and which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [[], ["--top", 1], ["-g", "g"], ["--curves", "loss"], ["--diff", "a", "b"]])
def test_several_exports_of_a_run_do_not_count_as_several_runs(tmp_path, question):
    """A file of `aggregate_runs.py --keep all`: n would be doubled, and a p-value come from copies."""
    runs = [Run(n, config={"g": 1}, summary={"test/mse": 1.0}) for n in "ab"]
    file = write_runs(tmp_path, runs)
    pl.concat([pl.read_parquet(file)] * 2).write_parquet(file)
    answer = ask(file, *question)
    assert (answer.code, answer.out) == (2, "")
    assert "2 runs in several rows, for example team/demo/a; merge with aggregate_runs.py, without --keep" in answer.err
    assert document(file, "--sql", "SELECT count(*) AS n FROM runs")["sql"] == [{"n": 4}]


def test_runs_without_identity_in_two_inputs_are_refused(tmp_path):
    for n, entity in enumerate(("team", "other")):
        file = write_runs(tmp_path / str(n), [Run("a"), Run("b")], entity=entity)
        rewrite(file, entity=pl.Series([None, "team"], dtype=pl.String))
    answer = ask(tmp_path)
    assert answer.code == 2
    assert "2 runs in several inputs, for example null/demo/a; merge with aggregate_runs.py\n" in answer.err


def test_histories_of_other_projects_are_not_those_of_these_runs(tmp_path):
    runs = write_export(tmp_path, "runs")
    write_export(tmp_path, "history")
    write_export(tmp_path, "history", project="other")
    write_export(tmp_path, "console", project="other")
    assert document(runs, "--sql", "SELECT DISTINCT project FROM history")["sql"] == [{"project": "demo"}]
    assert "there are runs, history (" in ask(runs, "--sql", "FROM console").err
    both = write_export(tmp_path, "runs", project="other").parent
    assert len(document(both, "--sql", "SELECT DISTINCT project FROM history")["sql"]) == 2
    alone = write_export(tmp_path / "x", "runs", project="empty")
    write_export(tmp_path / "x", "history")
    assert "none of these runs has a metric" in answered(alone).out


def test_a_folder_of_source_file_that_is_not_here_is_named(tmp_path):
    """Relative, it is found from where the runs were merged: elsewhere --health would find nothing wrong."""
    file = write_runs(tmp_path / "export", [Run("a", history_rows=2)])
    write_history(tmp_path / "export", steps("a", [1.0, float("nan")]))
    unified = rewrite(file, source_file=pl.lit("export/team_demo_runs.parquet")).rename(tmp_path / "unified.parquet")
    assert "non-finite" in answered(unified, "--health", cwd=tmp_path).out
    (tmp_path / "elsewhere").mkdir()
    answer = answered(unified, "--health", cwd=tmp_path / "elsewhere")
    assert "not read from export, where source_file says that they are: no such folder here; start in" in answer.err


@pytest.mark.parametrize(("export_id", "warned"), [("one", False), ("two", True)])
def test_a_merged_file_that_is_older_than_the_histories_is_warned_of(tmp_path, export_id, warned):
    file = write_export(tmp_path / "export", "runs")
    write_export(tmp_path / "export", "history", export_id="one")
    unified = rewrite(file, source_file=pl.lit(str(file))).rename(tmp_path / "unified.parquet")
    source = {"file": str(file), "entity": "team", "project": "demo", "export_id": export_id}
    with_metadata(unified, source=json.dumps({"sources": [source, 7]}))
    err = answered(unified, "--curves", "loss").err
    assert ("come from different exports; run aggregate_runs.py again" in err) == warned


# --- questions ----------------------------------------------------------------------------------------------------


def test_ranges_of_a_group_are_no_setting(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n, "k": n % 3}, summary={"test/mse": float(n)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    found = document(file, "-g", "lr:3", "--varying", "--importance", "--state", "all")
    assert {row["column"] for row in found["varying"] + found["importance"]} == {"config_lr", "config_k"}
    assert len(found["groups"]) == 3
    assert answered(file, "-g", "lr:3", "--report", tmp_path / "r.md").code == 0
