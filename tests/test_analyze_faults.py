"""Faults of analyze_runs.py that were found once, by kind: each of these tests failed before its mend."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import struct
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import analyze_runs
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import scipy
from contract_files import START, Run, write_rows, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_analyze_runs import answered, ask, document

MSE = "metric_test_mse"
ROW_NAMES = {"run_id", "_step", "_timestamp"}
analyze_runs.import_libraries()


def rewrite(file: Path, **columns: pl.Expr | pl.Series) -> Path:
    """The runs file with other columns, its metadata kept."""
    metadata = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pl.read_parquet(file).with_columns(**columns).write_parquet(file, metadata=metadata)
    return file


def write_history(folder: Path, rows: list[tuple], name: str = "team_demo_history", project: str = "demo") -> Path:
    """Rows of run id, step and loss."""
    schema = {"run_id": pl.String, "_step": pl.Int64, "metric_loss": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(entity=pl.lit("team"), project=pl.lit(project))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.parquet"
    paths = json.dumps({"metric_loss": ["loss"]})
    frame.sort("run_id", "_step").write_parquet(file, metadata={"wandb_tools.columns": paths})
    return file


def steps(run: str, values: list[float]) -> list[tuple]:
    return [(run, step, value) for step, value in enumerate(values)]


# --- rows that are mixed up -----------------------------------------------------------------------------------


def test_runs_of_one_name_are_two_curves(tmp_path):
    file = write_runs(tmp_path, [Run("a", "same"), Run("b", "same")])
    write_history(tmp_path, steps("a", [3.0, 2.0]) + steps("b", [9.0, 8.0]))
    rows = document(file, "--curves", "loss")["curves"]
    assert {(r["id"], r["x"]): r["value"] for r in rows} == {("a", 0): 3, ("a", 1): 2, ("b", 0): 9, ("b", 1): 8}
    out = answered(file, "--curves", "loss").out.splitlines()
    assert re.split(r"  +", out[1].strip()) == ["step", "same (a)", "same (b)"]
    assert [line.split() for line in out[3:5]] == [["0", "3", "9"], ["1", "2", "8"]]
    answered(file, "--curves", "loss", "-o", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "same (a)" in text
    assert "same (b)" in text


def test_names_that_repeat_or_lack_go_with_their_ids(tmp_path):
    runs = [Run(f"r{n}", "same", {"g": n % 2}, {"test/mse": float(n)}) for n in range(4)]
    file = write_runs(tmp_path, runs)
    assert "same (r0)" in answered(file, "--top", 2).out
    assert "same (r1)" in answered(file, "-g", "g").out
    name = pl.when(pl.col("id") != "r0").then("name")
    out = answered(rewrite(file, name=name), "--top", 2).out
    assert [line.split()[0] for line in out.splitlines()[3:4]] == ["r0"]


def test_a_history_in_two_exports_counts_once(tmp_path):
    runs = [Run("a", config={"g": 1}), Run("b", config={"g": 1})]
    file = write_runs(tmp_path / "new", runs)
    write_history(tmp_path / "new", steps("a", [4.0, 3.0, 2.0]) + steps("b", [6.0, 5.0, 4.0]))
    write_history(tmp_path / "old", steps("a", [4.0, 3.0]), "team_demo_history")
    source = pl.Series(["new/team_demo_runs.parquet", "old/team_demo_runs.parquet"])
    unified = rewrite(file, source_file=source).rename(tmp_path / "unified.parquet")
    rows = json.loads(answered(unified, "--curves", "loss", "-g", "g", "--json", cwd=tmp_path).out)["curves"]
    assert [(row["x"], row["n"], row["mean"]) for row in rows] == [(0, 2, 5.0), (1, 2, 4.0), (2, 2, 3.0)]
    query = "SELECT count(*) AS n FROM history"
    assert json.loads(answered(unified, "--sql", query, "--json", cwd=tmp_path).out)["sql"] == [{"n": 6}]


def test_a_run_without_an_entity_is_found_again(tmp_path):
    file = write_runs(tmp_path, [Run(n, config={"k": n}, summary={"test/mse": 1.0}) for n in "ab"])
    rows = document(rewrite(file, entity=pl.lit(None, pl.String)), "--top", 2)["top"]
    assert [(row["name"], row["config_k"], row["entity"]) for row in rows] == [("a", "a", None), ("b", "b", None)]


def test_the_best_run_of_a_group_is_that_of_the_best_runs(tmp_path):
    """Also of equal ones, of which one has no entity."""
    file = write_runs(tmp_path, [Run(n, config={"k": 1}, summary={"loss": 1.0}) for n in "ab"])
    done = document(rewrite(file, entity=pl.when(pl.col("id") == "b").then("entity")), "--top", 1, "-g", "k")
    assert (done["top"][0]["id"], done["groups"][0]["best_run_id"]) == ("b", "b")


def test_the_history_of_a_run_without_an_entity_is_found(tmp_path):
    file = rewrite(write_runs(tmp_path, [Run("a")]), entity=pl.lit(None, pl.String))
    history = rewrite(write_history(tmp_path, steps("a", [2.0, 1.0])), entity=pl.lit(None, pl.String))
    for each in (file, history):
        source = {"wandb_tools.source": json.dumps({"entity": None, "project": "demo"})}
        metadata = {key: text for key, text in pl.read_parquet_metadata(each).items() if key.startswith("wandb_tools")}
        pl.read_parquet(each).write_parquet(each, metadata=metadata | source)
    assert [row["value"] for row in document(file, "--curves", "loss")["curves"]] == [2.0, 1.0]


@pytest.mark.parametrize("name", ["val/score", "val_score", "metric_val_score"])
def test_the_goal_of_a_metric_without_a_column_of_its_own_counts(tmp_path, name):
    facts = {"metric_val_score": {"goal": "minimize"}}
    file = write_runs(tmp_path, [Run(each, summary={"val/score": {"min": 1.0}}) for each in "ab"], metrics=facts)
    last = rewrite(file, history_last_val_score=pl.Series([5.0, 2.0]))
    answer = answered(last, "--top", 2, "--json", "-m", name, "--value", "last")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["b", "a"]


def test_a_metric_called_like_the_step_of_another(tmp_path):
    """Beside loss, aggregate_runs gives step_loss a hash: the step of the lowest loss was shown for it."""
    runs = write_runs(tmp_path, [Run(name, summary={"loss": 1.0, "step_loss": 5.0}) for name in "ab"])
    file = rewrite(runs, history_min_loss=pl.Series([1.0, 1.0]), history_min_step_loss=pl.Series([3, 7]))
    said = ask(file, "--top", 2, "-m", "step_loss", "--value", "min").err
    assert "there is no column history_min_step_loss" in said
    rewrite(file, history_min_step_loss__ee41e4a1=pl.Series([0.5, 0.25]))
    for name in ("step_loss", "metric_step_loss"):
        rows = document(file, "--top", 2, "-m", name, "--value", "min")["top"]
        assert [(row["id"], row["history_min_step_loss__ee41e4a1"]) for row in rows] == [("b", 0.25), ("a", 0.5)]
    said = ask(file, "--top", 2, "-m", "acc", "--value", "min").err
    assert "the histories have loss, step_loss__ee41e4a1" in said


SLASH, FLAT = {"metric_train_loss": ["train/loss"]}, {"metric_train_loss": ["train_loss"]}
BOTH = FLAT | {"metric_train_loss__d5308e80": ["train/loss"]}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("train/loss", {"slash": 1.0, "both": 1.0}),
        ("metric_train_loss__d5308e80", {"slash": 1.0, "both": 1.0}),
        ("train_loss", {"both": 7.0}),
        ("metric_train_loss", {"both": 7.0}),
    ],
)
def test_curves_are_of_one_metric_whatever_its_column_in_each_file(tmp_path, name, values):
    """A column of a merged file was looked for in histories where another metric has its name, or it another one."""
    for project, paths in (("slash", SLASH), ("both", BOTH)):
        columns = {"run_id": [project], "_step": [0]}
        columns |= {column: [1.0 if path == ["train/loss"] else 7.0] for column, path in paths.items()}
        history = write_rows(tmp_path, "history", columns, project=project)
        pl.read_parquet(history).write_parquet(history, metadata={"wandb_tools.columns": json.dumps(paths)})
    parts = [pl.read_parquet(write_runs(tmp_path, [Run(project)], project=project)) for project in ("slash", "both")]
    merged = pl.concat(parts).with_columns(pl.lit(1.0).alias(column) for column in BOTH)
    merged.write_parquet(tmp_path / "unified.parquet", metadata={"wandb_tools.columns": json.dumps(BOTH)})
    rows = document(tmp_path / "unified.parquet", "--curves", name)["curves"]
    assert {row["id"]: row["value"] for row in rows} == values
    assert {row["metric"] for row in rows} == {next(column for column, path in BOTH.items() if name in (column, *path))}


def test_the_axis_of_curves_is_one_metric_whatever_its_column_in_each_file(tmp_path):
    for project, paths in (("slash", SLASH), ("both", BOTH)):
        write_runs(tmp_path, [Run(project)], project=project)
        columns = {"run_id": [project], "_step": [0], "metric_acc": [0.5]}
        columns |= {column: [1.0 if path == ["train/loss"] else 7.0] for column, path in paths.items()}
        history = write_rows(tmp_path, "history", columns, project=project)
        metadata = {"wandb_tools.columns": json.dumps(paths | {"metric_acc": ["acc"]})}
        file = tmp_path / f"team_{'zz' if project == 'both' else 'aa'}_history.parquet"
        pl.read_parquet(history).write_parquet(file, metadata=metadata)
        history.unlink()
    for name in ("train/loss", "metric_train_loss"):
        rows = document(tmp_path, "--curves", "acc", "--x", name)["curves"]
        assert {row["id"]: row["x"] for row in rows} == {"slash": 1.0, "both": 1.0}


def test_a_metric_may_be_called_like_a_column_of_text(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"state": 2.0}), Run("b", summary={"state": 1.0})])
    rows = document(file, "--top", 2, "-m", "state", "--ascending")["top"]
    assert [(row["id"], row["metric_state"]) for row in rows] == [("b", 1.0), ("a", 2.0)]


def test_the_text_null_is_not_a_missing_value(tmp_path):
    runs = [Run(f"r{n}", config={"arch": [None, "null"][n % 2]}, summary={"loss": n}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "-g", "arch", "-m", "loss").out
    assert [line.split()[0] for line in out.splitlines()[3:5]] == ["null", '"null"']


def test_a_missing_value_is_not_the_text_null(tmp_path):
    """Cells that are texts already were taken for values: --diff and --pivot showed "null" for what is missing."""
    values = [0.3, 0.1 + 0.2, None]
    configs = [{"lr": lr, "arch": arch} for lr, arch in zip(values, [None, "null", "x"], strict=True)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"loss": n}) for n, c in enumerate(configs)])
    lines = [line.split() for line in answered(file, "--diff", "r0", "r1", "r2").out.splitlines()]
    assert ["arch", "null", '"null"', "x"] in lines
    assert ["lr", "0.3", "0.30000000000000004", "null"] in lines
    for flags in (["-g", "lr"], ["--pivot", "lr,state"], ["--pivot", "arch,state"]):
        firsts = [line.split()[0] for line in answered(file, *flags, "-m", "loss").out.splitlines()[3:6]]
        assert firsts.count("null") == 1, flags


def test_a_history_in_two_exports_counts_once_in_sql_without_an_entity(tmp_path):
    for folder, values in (("a", [3.0, 2.0]), ("b", [3.0])):
        write_runs(tmp_path / folder, [Run("r")])
        write_history(tmp_path / folder, steps("r", values))
        for file in (tmp_path / folder).iterdir():
            rewrite(file, entity=pl.lit(None, pl.String))
    files = tmp_path / "a", tmp_path / "b" / "team_demo_history.parquet"
    assert document(*files, "--sql", "SELECT count(*) AS n FROM history")["sql"] == [{"n": 2}]


def test_one_metric_with_two_columns_is_refused(tmp_path):
    """The runs of the file in which a clash of names was settled had no value of it."""
    for project, columns in (("plain", {"metric_loss": ["loss"]}), ("clash", {"metric_loss__5a258448": ["loss"]})):
        file = write_runs(tmp_path, [Run(project)], project=project)
        frame = pl.read_parquet(file).with_columns(pl.lit(1.0).alias(column) for column in columns)
        frame.write_parquet(file, metadata={"wandb_tools.columns": json.dumps(columns)})
    answer = ask(tmp_path, "--top", 2, "-m", "loss")
    assert answer.code == 2
    assert "loss is metric_loss__5a258448 in one file and metric_loss in another; merge these files" in answer.err


def test_where_tells_settings_apart_that_differ_only_in_case(tmp_path):
    for project, name, value in (("p", "lr", 1), ("q", "LR", 2)):
        summary = {"loss": 1.0, name: 0.5}
        write_runs(tmp_path, [Run(project, config={name: value}, summary=summary)], project=project)
    for condition, runs in {
        "config_lr > 0": ["p"],
        "config_LR > 0": ["q"],
        '"lr" > 0': ["p"],
        "\"LR\" > 0 AND name = 'q'": ["q"],
    }.items():
        rows = document(tmp_path, "--top", 2, "-m", "loss", "--where", condition)["top"]
        assert [row["id"] for row in rows] == runs, condition


# --- less than everything -------------------------------------------------------------------------------------


def write_metrics(folder: Path, columns: dict, project: str = "demo", **metrics: dict) -> Path:
    """A history with metrics of any W&B names; `metrics` is what define_metric says about their columns."""
    paths = {f"metric_{re.sub('[^A-Za-z0-9_]', '_', name)}": [name] for name in columns if name not in ROW_NAMES}
    frame = pl.DataFrame(columns).rename({path[0]: column for column, path in paths.items()})
    file = folder / f"team_{project}_history.parquet"
    metadata = {"wandb_tools.columns": json.dumps(paths), "wandb_tools.metrics": json.dumps(metrics)}
    frame = frame.with_columns(entity=pl.lit("team"), project=pl.lit(project))
    frame.write_parquet(file, metadata=metadata)
    return file


def test_a_report_draws_the_metric_whose_name_has_brackets(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"acc (top5)": 0.5, "acc": 0.5}) for n in range(3)])
    numbers = {"run_id": ["r0", "r1"], "_step": [0, 0], "acc (top5)": [0.5, 0.6], "acc": [0.1, 0.2]}
    write_metrics(tmp_path, numbers)
    answered(file, "-m", "acc (top5)", "--report", tmp_path / "x.md")
    assert "acc (top5) over step" in (tmp_path / "x.md").read_text("utf-8").replace("\\", "")


def test_json_holds_the_curves_of_all_runs_and_says_whose(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n:02}") for n in range(12)])
    history = write_history(tmp_path, [row for n in range(12) for row in steps(f"r{n:02}", [1.0, float(n)])])
    pl.read_parquet(history).with_columns(metric_acc=-pl.col("metric_loss")).write_parquet(history)
    rows = document(file, "--curves", "loss", "--curves", "acc")["curves"]
    assert len({row["id"] for row in rows}) == 12
    assert {row["metric"] for row in rows} == {"metric_loss", "metric_acc"}
    answered(file, "--curves", "loss", "-o", tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 24


def test_importance_says_for_which_metric(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n % 5}, summary={"a_loss": n % 5, "b_loss": n % 3}) for n in range(20)]
    rows = document(write_runs(tmp_path, runs), "--importance", "-m", "a_loss,b_loss")["importance"]
    assert {row["metric"] for row in rows} == {"metric_a_loss", "metric_b_loss"}


def test_different_values_never_look_equal(tmp_path):
    values = [0.123456781, 0.123456782]
    runs = [Run(f"r{n}", config={"lr": lr}, summary={"test/mse": 1.0 + n * 1e-7}) for n, lr in enumerate(values)]
    file = write_runs(tmp_path, runs)
    for question in (("--diff", "r0", "r1"), ("--varying",), ("-g", "lr")):
        out = answered(file, *question).out
        assert all(str(value) in out for value in values), question
    rows = list(csv.DictReader(io.StringIO(answered(file, "--diff", "r0", "r1", "--format", "csv").out)))
    assert [rows[0]["r0"], rows[0]["r1"]] == ["r0", "r1"]
    assert [float(row["r1"]) for row in rows if row["column"] == "config_lr"] == values[1:]
    out = answered(file, "--top", 2).out
    assert "1.0000000" in out  # digits enough to tell neighbours apart
    assert "1.0000001" in out


# --- two rules for one thing; non-finite values ---------------------------------------------------------------


def test_states_are_compared_without_case(tmp_path):
    file = write_runs(tmp_path, [Run("a", state="Finished", summary={"test/mse": 1.0}), Run("b", state="FAILED")])
    assert len(document(file, "--top", 5)["top"]) == 1
    assert "--state finished (the default): 1 of 2 runs kept" in answered(file, "--top", 5).err


def test_infinity_is_never_the_best_so_far(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [3.0, -math.inf, 2.0, math.nan, 5.0]))
    rows = document(file, "--curves", "loss", "--best-so-far")["curves"]
    assert [row["value"] for row in rows] == [3, 3, 2, 2, 2]


def test_infinity_on_the_axis_or_in_a_setting_is_left_out(tmp_path):
    runs = [
        Run(f"r{n}", config={"lr": lr}, summary={"test/mse": 1.0}) for n, lr in enumerate([1.0, 2.0, math.inf, 3.0])
    ]
    file = write_runs(tmp_path, runs)
    rows = document(file, "-g", "lr:2")["groups"]
    assert {(row["config_lr:2"], row["runs"]) for row in rows} == {("to 2", 2), ("over 2", 1), (None, 1)}
    history = write_history(tmp_path, steps("r0", [1.0, 2.0, 3.0]))
    x = pl.Series("metric_epoch", [0.0, math.inf, 2.0])
    pl.read_parquet(history).with_columns(x).write_parquet(history)
    assert [row["x"] for row in document(file, "--curves", "loss", "--x", "epoch")["curves"]] == [0, 2]


# --- ranges, names of ours and of others ----------------------------------------------------------------------


def test_ranges_are_in_order_and_independent(tmp_path):
    runs = [
        Run(f"r{n}", config={"lr": float(n), "lr_bin": n % 2, "g": n % 2}, summary={"test/mse": 1}) for n in range(16)
    ]
    file = write_runs(tmp_path, runs)
    rows = document(file, "--pivot", "lr:4,g")["pivot"]
    names = list(dict.fromkeys(row["rows"] for row in rows))
    assert names == ["to 3.75", "3.75 to 7.5", "7.5 to 11.25", "over 11.25"]
    groups = document(file, "-g", "lr:2,lr:4,lr_bin")["groups"]
    assert {"config_lr:2", "config_lr:4", "config_lr_bin"} <= groups[0].keys()
    assert len(groups) == 8


def test_a_derived_column_without_values_hides_no_setting(tmp_path):
    runs = [Run(f"r{n}", config={"k": n % 2, "arch": "x"}, summary={"test/mse": float(n)}) for n in range(6)]
    nothing = {"k": pl.lit(None, pl.Int64), "stage": pl.lit(None, pl.String)}
    file = rewrite(write_runs(tmp_path, runs), **nothing, seed_parsed=pl.lit(1))
    assert {row["config_k"] for row in document(file, "-g", "k")["groups"]} == {0, 1}
    assert "3 of 6 runs kept" in answered(file, "--where", "k = 1", "--top", 1).err
    assert document(file, "--sql", "SELECT sum(k) AS k FROM runs")["sql"] == [{"k": 3}]
    assert "stage" not in {row["column"] for row in document(file, "--schema")["schema"]}
    assert "stage" in answered(file, "--schema").out  # said in a line
    assert "1 derived" in answered(file).out


def test_of_two_columns_with_values_the_exact_name_wins_and_the_other_is_named(tmp_path):
    runs = [Run(f"r{n}", config={"k": n % 2}, summary={"test/mse": 1.0}) for n in range(4)]
    file = rewrite(write_runs(tmp_path, runs), k=pl.lit(7))
    answer = answered(file, "-g", "k", "--json")
    assert [row["k"] for row in json.loads(answer.out)["groups"]] == [7]
    assert "config_k" in answer.err


def test_a_missing_setting_is_a_value(tmp_path):
    configs = [{"seed": n % 2} | ({"dropout": 0.1} if n < 4 else {}) for n in range(8)]
    runs = [Run(f"r{n}", config=config, summary={"test/mse": float(n)}) for n, config in enumerate(configs)]
    rows = document(write_runs(tmp_path, runs), "-g", "!seed")["groups"]
    assert [(row["config_dropout"], row["n"]) for row in rows] == [(0.1, 4), (None, 4)]


# --- text taken for code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["lr < 4e-3", "lr < .004", "config_lr<4E-3", "e = 1 AND lr < 4e-3 OR lr > 1e300"])
def test_a_number_is_no_name(tmp_path, where):
    runs = [Run(f"r{n}", config={"e": 1, "lr": 10.0**-n}, summary={"test/mse": 1.0}) for n in range(5)]
    assert "2 of 5 runs kept" in answered(write_runs(tmp_path, runs), "--top", 1, "--where", where).err


def test_words_of_sql_are_no_names(tmp_path):
    config = {"lower": "X", "in": 1, "null": 2, "and": 3}
    file = write_runs(tmp_path, [Run("a", config=config, summary={"test/mse": 1.0})])
    where = 'LOWER("lower") = \'x\' AND "in" IN (1, 2) AND name IS NOT NULL'
    assert "1 of 1 run kept" in answered(file, "--top", 1, "--where", where).err


def test_names_are_not_styled(tmp_path):
    names = ["a (3)*", "b (4)°", "*bold*", "_i_", "$x$ &amp;"]
    runs = [Run(f"r{n}", name, summary={"test/mse": float(n)}) for n, name in enumerate(names)]
    file = write_runs(tmp_path, runs)
    out = answered(file, "--top", 5, "--format", "latex").out
    assert r"\textbf" not in out
    assert r"\underline" not in out
    assert "a (3)*" in out
    out = answered(file, "--top", 5, "--format", "markdown").out
    assert r"\*bold\*" in out
    assert r"\_i\_" in out
    assert r"\$x\$ \&amp;" in out


def test_lists_are_values_like_others(tmp_path):
    runs = [Run(f"r{n}", tags=["x", "y"] if n % 2 else [], summary={"test/mse": float(n)}) for n in range(4)]
    file = write_runs(tmp_path, runs)
    assert "x, y" in answered(file, "--pivot", "tags,state").out
    tags = pl.col("tags")
    file = rewrite(file, config_layers=pl.when(pl.col("id") == "r0").then(tags).otherwise(pl.lit(["z"])))
    rows = {row["column"]: row for row in document(file, "--diff", "r0", "r1")["diff"]}
    assert rows["config_layers"] == {"column": "config_layers", "kind": "config", "r0": [], "r1": ["z"]}
    for form in ("csv", "latex", "markdown", "table"):
        answered(file, "-g", "tags", "--top", 1, "--format", form)
    answered(file, "-g", "tags", "-o", tmp_path / "x.svg")


@pytest.mark.parametrize(("tags", "said"), [([], "tags is always []"), (["x", "y"], "tags is always x, y")])
def test_tags_that_all_groups_share_are_named(tmp_path, tags, said):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"loss": 1.0}, tags=tags) for n in range(2)])
    assert said in answered(file, "-g", "tags,k").out


@pytest.mark.parametrize("form", ["json", "csv", "markdown", "latex", "table"])
def test_values_of_any_dtype_are_shown(tmp_path, form):
    runs = [Run(f"r{n:02}", config={"k": n % 2}, summary={"test/mse": float(n)}) for n in range(12)]
    bits = [n % 2 for n in range(12)]
    odd = {
        "config_day": pl.Series([date(2026, 1, 1 + bit) for bit in bits]),
        "config_naive": pl.Series([datetime(2026, 1, 1 + bit) for bit in bits]),  # noqa: DTZ001
        "config_span": pl.Series([timedelta(seconds=bit) for bit in bits]),
        "config_tree": pl.Series([{"a": bit} for bit in bits]),
        "config_bytes": pl.Series([b"\xff" * bit for bit in bits]),
        "config_kind": pl.Series([str(bit) for bit in bits]).cast(pl.Categorical),
        "config_exact": pl.Series([f"{bit}.5" for bit in bits]).cast(pl.Decimal(10, 2)),
        "config_list": pl.Series([[bit, 1] for bit in bits]),
        "config_pair": pl.Series([[bit, 1] for bit in bits], dtype=pl.Array(pl.Int64, 2)),
    }
    file = rewrite(write_runs(tmp_path, runs), **odd)
    for column in odd:
        for question in (("-g", column), ("--pivot", f"{column},k"), ("--top", 2, "--columns", column)):
            assert answered(file, *question, "--format", form).out
    for question in (("--varying",), ("--diff", "r00", "r01"), ("--importance",), ("--schema",), ("-g", "!seed")):
        assert answered(file, *question, "--format", form).out


def test_ids_like_our_columns_stay_apart(tmp_path):
    file = write_runs(tmp_path, [Run("column", config={"k": 1}), Run("kind", config={"k": 2})])
    (row,) = [r for r in document(file, "--diff", "column", "kind")["diff"] if r["column"] == "config_k"]
    assert row == {"column": "config_k", "kind": "config", "team/demo/column": 1, "team/demo/kind": 2}


def test_an_unknown_argument_is_named_without_its_value(tmp_path):
    for arguments in (["--api-key=SECRET"], ["--api-key", "SECRET"], ["--api-key=SECRET", "--top", "many"]):
        answer = ask(*arguments, cwd=tmp_path)
        assert answer.code == 2
        assert "SECRET" not in answer.err + answer.out


# --- work for nothing, silence --------------------------------------------------------------------------------


def test_histories_of_runs_that_were_dropped_are_neither_read_nor_reported(tmp_path):
    runs = [Run(n, config={"g": n == "c"}) for n in "abc"]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("a", [1.0, 2.0]) + steps("b", [math.nan] * 2) + steps("c", [3.0, 4.0]))
    answer = answered(file, "--curves", "loss", "-g", "g", "--where", "id <> 'b'")
    assert "NaN" not in answer.out
    assert "2 runs in 2 groups" in answer.out
    error = ask(file, "--curves", "loss", "--where", "id = 'a'", "--best-so-far", "--x", "nothing").err
    assert "no history has it" in error


def test_a_history_without_these_runs_is_not_called_absent(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("other", [1.0]))
    answer = ask(file, "--curves", "loss")
    assert answer.code == 1
    assert "no history has loss of these runs" in answer.err


def test_a_history_elsewhere_is_an_input(tmp_path):
    file = write_runs(tmp_path / "runs", [Run("a")])
    history = write_history(tmp_path / "histories", steps("a", [1.0, 2.0]))
    assert ask(file, "--curves", "loss").code == 1
    for place in (history, history.parent):
        assert len(document(file, place, "--curves", "loss")["curves"]) == 2


def test_stat_beside_curves_is_said(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    assert "--stat has no effect here: it is for groups\n" in answered(file, "--curves", "loss", "--stat", "median").err


def test_the_file_is_named_when_no_run_is_left(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    assert file.name in ask(file, "--filter", "nothing").err


def test_a_metric_of_the_histories_alone_is_said(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    answer = ask(file, "--top", 1, "-m", "loss")
    assert answer.code == 2
    assert "aggregate_runs.py --history" in answer.err
    assert "--curves loss" in answered(file).out or "--curves" in answered(file).out


# --- what values rest on --------------------------------------------------------------------------------------


def with_history_columns(folder: Path) -> Path:
    runs = [Run(f"r{n}", f"run{n}", {"g": n // 2}, {"test/mse": float(n)}) for n in range(4)]
    return rewrite(
        write_runs(folder, runs),
        history_min_test_mse=pl.Series([4.0, 3.0, 2.0, 1.0]),
        history_min_step_test_mse=pl.Series([40, 30, 20, 10]),
        history_at_test_mse=pl.Series([None, 3.0, 2.0, 1.0]),
        history_n_test_mse=pl.Series([100, 100, 100, 1]),
        history_n_nonfinite_test_mse=pl.Series([0, 0, 0, 0]),
    )


def test_a_value_shows_its_step_and_what_it_rests_on(tmp_path):
    file = with_history_columns(tmp_path)
    answer = answered(file, "--top", 2, "-m", "test/mse", "--value", "min", "--columns", "name")
    head, rule, first = [line for line in answer.out.splitlines() if line.strip()][-4:-1]  # titles may be broken
    assert re.split("  +", head)[-2:] == ["at step", "of values"]
    assert set(rule) == {"─"}
    assert first.split() == ["run3", "1", "10", "1"]
    assert "1 run logged fewer than 10 values" in answer.err
    rows = document(file, "-g", "g", "-m", "test/mse", "--value", "min")["groups"]
    assert [(row["best_run"], row["best_step"]) for row in rows] == [("run3", 10), ("run1", 30)]
    answer = answered(file, "--top", 2, "-m", "test/mse", "--value", "at")
    assert "1 run without a value: logged only after the best step, or no step is best" in answer.err


def test_the_named_metric_is_shown_whatever_the_columns(tmp_path):
    out = answered(with_history_columns(tmp_path), "--top", 1, "-m", "test/mse", "--columns", "g").out
    assert out.splitlines()[1].split() == ["test/mse", "g"]


# --- statistics -----------------------------------------------------------------------------------------------


def test_importance_finds_an_effect_with_its_best_in_the_middle(tmp_path):
    random = np.random.default_rng(5)
    x, noise = random.uniform(-1, 1, 80), random.normal(size=80)
    runs = [
        Run(f"r{n}", config={"u": x[n], "straight": noise[n] + 0.1 * x[n]}, summary={"test/mse": x[n] ** 2})
        for n in range(80)
    ]
    rows = document(write_runs(tmp_path, runs), "--importance")["importance"]
    assert rows[0]["column"] == "config_u"
    assert rows[0]["effect"] > 0.7
    assert abs(rows[0]["spearman"]) < 0.4
    assert rows[0]["p"] < 0.01


def test_the_effect_of_a_number_is_that_of_its_groups(tmp_path):
    values = [(n % 4, (n % 4) * 2.0 + math.sin(n)) for n in range(40)]
    runs = [Run(f"r{n}", config={"k": k}, summary={"test/mse": v}) for n, (k, v) in enumerate(values)]
    (row,) = document(write_runs(tmp_path, runs), "--importance")["importance"]
    h = scipy.stats.kruskal(*([v for k, v in values if k == level] for level in range(4))).statistic
    assert row["effect"] == pytest.approx((h - 3) / 36)


@pytest.mark.parametrize(("n", "bounded", "rough"), [(7, False, True), (8, True, True), (20, True, False)])
def test_few_values_have_no_bootstrap_interval(tmp_path, n, bounded, rough):
    runs = [Run(f"r{i:02}", config={"g": 1}, summary={"test/mse": float(i)}) for i in range(n)]
    file = write_runs(tmp_path, runs)
    (row,) = document(file, "-g", "g", "--stat", "median")["groups"]
    assert (row["ci_low"] is not None) is bounded
    assert ("approximate below 20" in " ".join(answered(file, "-g", "g", "--stat", "median").out.split())) is rough


@given(
    st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=40),
    st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=500),
)
def test_welchs_p_equals_scipys(one, other):
    if min(np.std(one), np.std(other)) < 1e-3:
        return
    theirs = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    ours = analyze_runs.welch_p(*((np.mean(x), np.std(x, ddof=1), len(x)) for x in (one, other)))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-290)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 10, 99.5, 1000])
@pytest.mark.parametrize("t", [1e-6, 0.1, 1, 2.5, 10, 60])
def test_p_values_are_exact_up_to_a_thousand_degrees(freedom, t):
    p = analyze_runs.incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t))
    assert p == pytest.approx(2 * scipy.stats.t.sf(t, freedom), rel=1e-9)


def test_the_p_value_of_the_best_two_is_told(tmp_path):
    values = {"a": [1.0, 1.2, 1.4, 1.1], "b": [1.9, 2.0, 2.4, 2.2], "c": [9.0, 9.5, 9.1, 9.2]}
    runs = [Run(f"{g}{x}", config={"g": g}, summary={"test/mse": x}) for g, xs in values.items() for x in xs]
    p = scipy.stats.ttest_ind(values["a"], values["b"], equal_var=False).pvalue
    file = write_runs(tmp_path, runs)
    assert f"(p = {p:.2g}, Welch's t-test)" in " ".join(answered(file, "-g", "g").out.split())
    out = answered(file, "-g", "g", "-m", "runtime_s", "--ascending").out
    assert "Welch" not in out
    assert "noise" not in out


def test_one_group_is_no_comparison(tmp_path):
    file = write_runs(tmp_path, [Run(n, config={"g": 1}, summary={"test/mse": 1.0}) for n in "ab"])
    assert "only one group" in answered(file, "-g", "g").out


def test_best_per_says_what_its_choice_rests_on(tmp_path):
    runs = [Run(f"r{n}", config={"m": "ab"[n % 2], "lr": n}, summary={"test/mse": float(n)}) for n in range(6)]
    err = answered(write_runs(tmp_path, runs), "--best-per", "m", "-g", "m").err
    assert "only one run, so a good value may be luck" in err
    assert "chosen by test/mse, so its values look better than they are" in err


def test_diff_counts_and_puts_the_config_first(tmp_path):
    one = Run("a", "same", {"lr": 1, "k": 1}, {"loss": 1.0, "acc": 1.0})
    two = Run("b", "same", {"lr": 2, "k": 1}, {"loss": 2.0, "acc": 1.0})
    out = answered(write_runs(tmp_path, [one, two]), "--diff", "a", "b").out
    assert "1 of 2 config columns and 1 of 2 metric columns differ between same (a), same (b)" in " ".join(out.split())
    assert out.index("lr") < out.index("loss")


def test_a_folder_called_like_a_run_of_a_diff_is_no_input_beside_another(tmp_path):
    write_runs(tmp_path / "in", [Run("a", "baseline", {"lr": 1}), Run("b", "big", {"lr": 2})])
    (tmp_path / "baseline").mkdir()
    assert ask("in", "--diff", "baseline", "big", cwd=tmp_path).code == 0
    assert ask("--diff", "a", "b", "in", cwd=tmp_path).code == 0
    more = write_runs(tmp_path / "more", [Run("c", "third", {"lr": 3})], project="other")
    assert ask("in", "--diff", "a", "c", more, cwd=tmp_path).code == 0


def test_a_diff_shows_of_long_values_what_differs(tmp_path):
    """They were shortened to the same `experiment-…xed_tokens_10b`."""
    tries = "attention-gates", "untied-embeddings"
    names = [f"experiment-20260424-{each}-fixed_tokens_10b" for each in tries]
    runs = [Run("ab"[n], name, {"run_name": name, "note": "a"}, {"loss": 1.0}) for n, name in enumerate(names)]
    lines = answered(write_runs(tmp_path, runs), "--diff", "a", "b").out.splitlines()
    assert [line.split() for line in lines if line.startswith(("name ", "run_name "))] == [
        [column, "experim…0260424-attention-gates…", "experim…0260424-untied-embeddings…"]
        for column in ("name", "run_name")
    ]


# --- inputs ---------------------------------------------------------------------------------------------------


def test_a_damaged_file_of_a_folder_costs_only_itself(tmp_path):
    write_runs(tmp_path, [Run("a", summary={"test/mse": 1.0})])
    write_history(tmp_path, steps("a", [1.0]))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    answer = ask(tmp_path, "--top", 1, "--json")
    assert (answer.code, len(json.loads(answer.out)["top"])) == (3, 1)
    assert "bad.parquet cannot be read" in answer.err
    assert "passed over" not in answer.err  # a history is no foreign file


def test_a_folder_called_like_a_file_is_no_damaged_file(tmp_path):
    file = write_runs(tmp_path / "x_history.parquet", [Run("a", summary={"loss": 1.0})])
    assert len(document(tmp_path, "--top", 1)["top"]) == 1
    answered(file.rename(tmp_path / "runs.parquet"), "--health")


def overwrite_rows(file: Path) -> None:
    """Damage the pages of a parquet file; its footer stays as it is."""
    content, (size,) = file.read_bytes(), struct.unpack("<i", file.read_bytes()[-8:-4])
    pages = len(content) - size - 8
    file.write_bytes(b"PAR1" + b"\xff" * (pages - 4) + content[pages:])


@pytest.mark.parametrize(
    ("question", "view"),
    [(["--top", 1], "runs"), (["--schema"], "runs"), (["--where", "loss > 0", "--top", 1], "runs"),
     (["--sql", "SELECT loss FROM runs"], "runs"), (["--sql", "SELECT count(loss) FROM history"], "history"),
     (["--curves", "loss"], "history"), (["--health"], "history"), (["--top", 1, "--report", "r.html"], "history")],
)  # fmt: skip
def test_damaged_rows_cost_only_their_file(tmp_path, question, view):
    for project in ("sound", "torn"):
        write_runs(tmp_path / "in", [Run(project, summary={"loss": 1.0})], project=project)
        write_history(tmp_path / "in", steps(project, [2.0, 1.0]), f"team_{project}_history", project)
    torn = tmp_path / f"in/team_torn_{view}.parquet"
    overwrite_rows(torn)
    answer = ask("in", *question, "--json", cwd=tmp_path)
    lines = answer.err.splitlines()
    assert answer.code == 3
    assert sum(line.startswith(f"left out: in/{torn.name} cannot be read: ") for line in lines) == 1
    assert len({*lines}) == len(lines)  # though it was tried twice
    torn.unlink()
    assert answer.out == ask("in", *question, "--json", cwd=tmp_path).out


def test_damaged_rows_of_a_file_that_was_named_are_an_error_that_names_it(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"loss": 1.0})])
    overwrite_rows(file)
    for question in ("--schema", "--health"):
        answer = ask(file, question, "--quiet")
        assert (answer.code, answer.out) == (1, "")
        assert re.fullmatch(rf"error: {re.escape(str(file))} cannot be read: [^\n]+; make it again\n", answer.err)


def test_a_damaged_history_beside_the_sources_of_an_aggregate_is_named(tmp_path):
    runs = write_runs(tmp_path / "export", [Run("a", summary={"loss": 1.0})])
    (tmp_path / "export/team_demo_history.parquet").write_bytes(b"PAR1")
    file = rewrite(write_runs(tmp_path, [Run("a", summary={"loss": 1.0})]), source_file=pl.lit(str(runs)))
    for question in (["--health"], ["--schema"]):
        answer = ask(file, *question, "--quiet")
        assert (answer.code, answer.err.count("team_demo_history.parquet cannot be read")) == (3, 1)
    assert ask(file, "--top", 1).code == 0  # asks for no history


def test_integers_floats_and_empty_columns_fit_together(tmp_path):
    one = write_runs(tmp_path, [Run("a", config={"lr": 1, "x": "t"}, summary={"test/mse": 1})], project="one")
    two = write_runs(tmp_path, [Run("b", config={"lr": 0.5}, summary={"test/mse": 0.5})], project="two")
    rewrite(two, config_x=pl.lit(None, pl.Float64))
    rows = document(one, two, "--top", 2)["top"]
    assert [(row["config_lr"], row["config_x"]) for row in rows] == [(0.5, None), (1.0, "t")]


# --- conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("created_at >= '2026-01-03'", 2),
        ("created_at BETWEEN '2026-01-02' AND '2026-01-03 12:00'", 2),
        ("'2026-01-03T00:00:00Z' < created_at", 1),
        ("created_at < '2026-01-02T01:00:00+01:00'", 1),
        ("created_at >= DATE('2026-01-03') AND name = '2026-01-03'", 1),
    ],
)
def test_a_text_compares_with_a_time(tmp_path, where, kept):
    runs = [
        Run(f"r{n}", f"2026-01-{n + 1:02}", summary={"test/mse": 1.0}, created_at=START + timedelta(days=n))
        for n in range(4)
    ]
    assert f"{kept} of 4 runs kept" in answered(write_runs(tmp_path, runs), "--where", where, "--top", 1).err


@pytest.mark.parametrize(
    "where", ["model.k > 1", "model_k > 1", "config_model_k > 1", '"model.k" > 1', "greatest(model.k, 0) > 1 AND true"]
)
def test_a_column_goes_by_three_names_in_a_condition(tmp_path, where):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"model": {"k": n}}, summary={"x_loss": 1.0}) for n in range(4)])
    assert "2 of 4 runs kept" in answered(file, "--where", where, "--top", 1).err


def test_nan_exceeds_every_number_in_a_condition(tmp_path):
    values = [0.1, math.nan, 0.3, None]
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"test/mse": value}) for n, value in enumerate(values)])
    rows = document(file, "--where", '"test/mse" > 1e300', "-g", "name", "-m", "test/mse")["groups"]
    assert [row["name"] for row in rows] == ["r1"]


def test_predicates_of_duckdb_are_understood(tmp_path):
    runs = [Run(f"r{n}", config={"opt": "adam" if n else None}, tags=["new"] * n, group=f"g{n}") for n in range(3)]
    file = write_runs(tmp_path, runs)
    for where, kept in {
        "ARRAY_CONTAINS(tags, 'new')": 2,
        "opt IS DISTINCT FROM 'adam'": 1,
        "extract(year FROM created_at) = 2026": 3,
        "name <> 'SELECT' AND \"group\" = 'g1'": 1,
    }.items():
        assert f"--where {where}: {kept} of 3 runs kept" in answered(file, "--where", where, "--varying").err


def test_slow_libraries_are_imported_only_where_they_are_needed(tmp_path):
    file, needed = write_runs(tmp_path, [Run("a", summary={"test/mse": 1.0})]), {}
    for flags in ((), ("--where", "id = 'a'"), ("-o", f"{tmp_path / 'x.svg'}")):
        code = "import analyze_runs, sys; analyze_runs.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
        command = [sys.executable, "-c", code, str(file), "--top", "1", *flags]
        environment = {**os.environ, "PYTHONPATH": str(Path(analyze_runs.__file__).parent)}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
        needed[flags[:1]] = {"duckdb", "numpy", "vl_convert", "scipy", "rich"} & {*done.stderr.split()}
    assert needed == {(): set(), ("--where",): {"duckdb"}, ("-o",): {"vl_convert"}}


def test_a_select_in_where_is_refused(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    for where in ("id IN (SELECT id FROM read_parquet('x'))", "(select 1) = 1", "id IN ( FROM runs)"):
        answer = ask(file, "--where", where)
        assert answer.code == 2
        assert "not a query" in answer.err
    assert ask(file, "--where", "name = 'select'", "--json").code == 1  # a text


# --- default metric -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "chosen"),
    [
        ({"latest/loss": 1, "test/f1": 1}, "test/f1"),
        ({"contest/loss": 1, "eval/loss": 1}, "eval/loss"),
        ({"eval/a/loss": 1, "eval/accuracy": 1}, "eval/accuracy"),
        ({"eval/runtime": 1, "eval/loss": 1}, "eval/loss"),
        ({"val/bleu": 1, "val/loss": 1}, "val/loss"),
        ({"train/loss": 1, "train/acc": 1}, "train/acc"),
        ({"test/mse": 1, "test/loss": 1}, "test/mse"),
        ({"test_loss": 1, "val_loss": 1}, "test_loss"),
        ({"rollout/ep_rew_mean": 1}, "rollout/ep_rew_mean"),
        ({"val/loss": 1, "train/reward": 1}, "val/loss"),
        ({"train/loss": 1, "losses/entropy": 1, "rollout/ep_rew_mean": 1}, "rollout/ep_rew_mean"),
        ({"loss": 1, "reward_loss": 1, "charts/episodic_return": 1}, "charts/episodic_return"),
        ({"episode_reward_max": 1, "episode_reward_mean": 1, "episode_reward_min": 1}, "episode_reward_mean"),
        ({"loss": 1, "reward_loss": 1, "return_std": 1}, "loss"),
        ({"loss_max": 1, "loss_mean": 1}, "loss_max"),
        ({"eval/loss": 1, "train/return": 1}, "eval/loss"),
    ],
)
def test_the_default_metric_is_what_people_mean(tmp_path, summary, chosen):
    err = answered(write_runs(tmp_path, [Run("a", summary=summary)])).err
    assert f"metric: {chosen} (" in err


def test_an_overview_without_a_metric_says_why(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n % 2}, summary={"epoch": n}, state="crashed") for n in range(4)]
    out = " ".join(answered(write_runs(tmp_path, runs)).out.split())
    assert "use --ascending or --descending with -m epoch" in out
    assert "lr 2 0 (2), 1 (2)" in out


def test_the_suggested_grouping_leaves_noise_out(tmp_path):
    runs = [
        Run(
            f"r{n}",
            config={
                "accelerator_config": {"split_batches": n % 2},
                "id2label": {"0": "ab"[n % 2]},
                "when": f"2026-01-0{1 + n % 2}",
                "root": f"/data/{n % 2}",
                "wandb_mode": ("online", "offline")[n % 2],
                "device": f"cuda:{n % 2}",
                "gpu_id": n % 2,
                "opt": "xy"[n // 4],
            },
            summary={"test/mse": float(n)},
        )
        for n in range(8)
    ]
    assert "test/mse by opt: 8 runs in 2 groups" in answered(write_runs(tmp_path, runs)).out


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model_name_or_path", ("bert-base", "roberta-base")),
        ("model_name_or_path", ("/models/bert", "/models/roberta")),
        ("drop_path", (0.1, 0.2)),
        ("device", ("default.qubit", "ibmq_manila")),
        ("batch_per_device", (8, 16)),
    ],
)
def test_a_setting_may_be_called_like_a_place(tmp_path, name, values):
    configs = [{name: values[n % 2], "output_dir": f"./out/{n}", "seed": n // 2} for n in range(8)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"test/mse": 1.0 + n}) for n, c in enumerate(configs)])
    rows = document(file, "--group-by", "!seed")["groups"]
    assert {(row[f"config_{name}"], row["n"]) for row in rows} == {(value, 4) for value in values}
    assert answered(file, "--top", "5").out.splitlines()[1].split()[2] == name


def test_copies_of_the_seed_are_seeds(tmp_path):
    """As for --best-per."""
    configs = [{"lr": n % 2, "seed": n // 2, "env": {"seed": n // 2}} for n in range(6)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"reward": 1.0 + n}) for n, c in enumerate(configs)])
    answer = answered(file, "--group-by", "!seed")
    assert "reward by lr: 6 runs in 2 groups" in answer.out
    assert "except env.seed, seed: lr" in answer.err


def test_a_text_that_names_the_seed_is_no_setting(tmp_path):
    """It made a group of each run."""
    seeds = [{"seed": n, "task": f"train{n}", "out": f"runs/s{n:02}"} for n in range(4)]
    configs = [{"opt": opt, **seed} for opt in "ab" for seed in seeds]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"reward": 1.0 + n}) for n, c in enumerate(configs)])
    answer = answered(file, "--group-by", "!seed")
    assert "reward by opt: 8 runs in 2 groups" in answer.out
    assert "name the seed, or differ in every run: out, task" in answer.err
    assert "reward by opt: 8 runs in 2 groups" in answered(file).out
    assert "no other setting varies, seeds apart" in ask(file, "--best-per", "opt", "--top", 1).err
    assert "grid of opt (2): 2 of 2 combinations have a run" in answered(file, "--varying").out


@pytest.mark.parametrize(
    ("texts", "others", "is_name"),
    [
        (["s0", "s01"], [0, 1], True),
        (["lr0.1", "lr0.25"], [0.1, 0.25], True),
        (["no decay", "decay", None], ["no", "decay", None], True),
        (["resnet50", "vit10"], [0, 1], False),
        (["s0", "s1", "s1b"], [0, 1, 1], False),
    ],
)
def test_what_names_another_column_contains_its_values(texts, others, is_name):
    assert analyze_runs.is_name_of(pl.Series(texts), pl.Series(others)) == is_name


def test_settings_are_shown_rather_than_what_names_them(tmp_path):
    configs = [{"algo": "ab"[n % 2], "exp_name": f"try-{n % 2}", "seed": n // 2} for n in range(6)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"reward": 1.0 + n}) for n, c in enumerate(configs)])
    assert "reward by algo: 6 runs in 2 groups" in answered(file, "--group-by", "!seed").out


# --- wide files -----------------------------------------------------------------------------------------------


def test_a_wide_schema_is_folded(tmp_path):
    summary = {f"diagnostics/layer_{i}/act_{j}/bin_{k}": 1.0 for i in range(6) for j in range(5) for k in range(10)}
    summary |= {f"diagnostics/{a}{b}/grad/bin_{k}": 1.0 for a in "abcdef" for b in "abcdef" for k in range(10)}
    runs = [Run(f"r{n}", config={"lr": n}, summary=summary | {"test/mse": 1.0}) for n in range(3)]
    file = write_runs(tmp_path, runs)
    answer = answered(file, "--schema")
    assert len(answer.out.encode()) < 4096
    assert len(answer.err) < 500
    assert "diagnostics/…/bin_0…9" in answer.out
    assert answer.out.index("config_lr") < answer.out.index("metric_test_mse")
    assert len(document(file, "--schema")["schema"]) == len(pl.read_parquet_schema(file)) - 2


def test_the_schema_of_some_runs_names_only_their_histories(tmp_path):
    columns = {"history_min_step_loss": pl.Series([1, None]), "history_min_step_acc": pl.Series([None, 1])}
    file = rewrite(write_runs(tmp_path, [Run("a"), Run("b")]), **columns)
    assert "tail and at: loss\n" in answered(file, "--schema", "--where", "id = 'a'").out


def test_a_name_with_the_sign_for_numbers_is_no_number(tmp_path):
    names = [f"a/x/loss{end}" for end in ("#", "1", "2", "3")] + [f"z{n}" for n in range(60)]
    file = write_runs(tmp_path, [Run("a", summary=dict.fromkeys(names, 1.0))])
    out = answered(file, "--schema").out
    assert "a/…/loss1…3" in out
    assert "metric_a_x_loss_ " in out


@pytest.mark.parametrize("question", [[], ["--report", "r.md"]])
def test_a_metric_without_letters_may_have_a_goal(tmp_path, question):
    file = write_runs(tmp_path, [Run("a", summary={"%": 1.0})], metrics={"metric__": {"goal": "minimize"}})
    write_metrics(tmp_path, {"run_id": ["a"], "_step": [0], "%": [1.0]})
    answered(file, "-m", "%", *question, cwd=tmp_path)


def test_long_names_are_told_apart(tmp_path):
    long = "a_very_long_prefix_that_all_of_the_runs_have_in_common_without_any_use_to_the_reader"
    runs = [Run(f"r{n}", f"{long}_{v}_suffix_of_all", summary={"test/mse": n}) for n, v in enumerate(["left", "right"])]
    out = answered(write_runs(tmp_path, runs), "--top", 2).out
    assert "left" in out
    assert "right" in out


# --- smoothing, logarithmic axes ------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.sampled_from([0.0, 0.3, 0.9, 0.999]))
@settings(max_examples=30)
def test_smoothing_is_wandbs(tmp_path_factory, values, weight):
    folder = tmp_path_factory.mktemp("smooth")
    file = write_runs(folder, [Run("a")])
    write_history(folder, steps("a", values))
    rows = document(file, "--curves", "loss", "--smooth", weight, "--points", 50)["curves"]
    last, expected = 0.0, []
    for count, value in enumerate(values, start=1):
        last = last * weight + (1 - weight) * value
        expected.append(last / (1 - weight**count))
    assert [row["value"] for row in rows] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_nan_does_not_spread_by_smoothing(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0, math.nan, 4.0]))
    rows = document(file, "--curves", "loss", "--smooth", 0.5)["curves"]
    assert [row["value"] for row in rows] == [1, "NaN", 3]  # (0.5 * 1 + 4) / 1.5: a gap has no weight
    assert ask(file, "--curves", "loss", "--smooth", 1).code == 2


@pytest.mark.parametrize("question", [("--top", 5), ("-g", "g"), ("--pivot", "g,h"), ("--curves", "loss", "-g", "g")])
def test_logarithmic_pictures(tmp_path, question):
    runs = [Run(f"r{n}", config={"g": n % 2, "h": n // 4}, summary={"test/mse": 10.0 ** (n - 4)}) for n in range(8)]
    runs.append(Run("zero", config={"g": 0, "h": 0}, summary={"test/mse": 0.0}))
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(8) for row in steps(f"r{n}", [0.0, 1.0, 100.0])])
    answered(file, *question, "-m", "test/mse", "--log", "-o", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "<svg" in text
    assert "NaN" not in text


# --- health ---------------------------------------------------------------------------------------------------


def problems(file: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in document(file, "--health")["health"]:
        assert row.keys() == {"entity", "project", "run", "name", "problem", "detail"}
        found.setdefault(row["run"], set()).add(row["problem"])
    return found


def test_health_names_each_kind_of_problem(tmp_path):
    smooth = [1.0 + 0.01 * math.sin(n) for n in range(300)]
    spiky = [value + (5 if n in {120, 200} else 0) for n, value in enumerate(smooth)]
    values = {
        "fine": smooth,
        "nan": [1.0, 1.0, math.nan, math.inf],
        "boom": [1.0, 0.5, 600.0],
        "spiky": spiky,
        "negative": [-1.0, 5000.0],
    }
    runs = [Run(name, summary={"loss": 1.0}, history_rows=300) for name in values]
    runs += [Run("empty"), Run("broken", state="crashed", summary={"loss": 1.0}, history_rows=300)]
    runs += [Run(f"peer{n}", group="g", summary={"loss": 1}, history_rows=100) for n in range(3)]
    runs += [Run("short", group="g", summary={"loss": 1}, history_rows=40)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for name, logged in values.items() for row in steps(name, logged)])
    rows = document(file, "--health")["health"]
    details = {(row["run"], row["problem"]): row["detail"] for row in rows}
    assert details["nan", "non-finite"] == "loss, 2 values (of 4), the first at step 2"
    assert details["spiky", "spikes"] == f"loss, 2 values, the largest {spiky[120]:.4g} at step 120"
    assert [*dict.fromkeys(row["run"] for row in rows)] == ["boom", "nan", "spiky", "broken", "short", "empty"]
    assert details["short", "stopped early"].startswith("at step 39; the median of its group or project is 99")
    found = problems(file)
    assert found == {
        "nan": {"non-finite"}, "boom": {"diverged"}, "spiky": {"spikes"}, "empty": {"no metric", "stopped early"},
        "broken": {"crashed"}, "short": {"stopped early"},
    } or found == {
        "nan": {"non-finite"}, "boom": {"diverged"}, "spiky": {"spikes"}, "empty": {"no metric"},
        "broken": {"crashed"}, "short": {"stopped early"},
    }  # fmt: skip
    out = answered(file, "--health").out
    assert out.startswith(f"Problems in {len(found)} of 11 runs: ")


@pytest.mark.parametrize(
    ("name", "values", "diverged"),
    [
        ("loss", [2.0, 1.4e-5, 0.03], False),
        ("loss", [math.nan, 2.0, 1.4e-5, 3.0], True),
        ("train/kl", [1e-5, 0.3], False),
        ("KLDivergence", [1e-5, 0.3], False),
        ("cumulative_regret", [0.01, 50.0], False),
        ("constraint_violations", [0.001, 5.0], False),
    ],
)
def test_what_grows_from_about_zero_has_not_diverged(tmp_path, name, values, diverged):
    """In --health and in --curves alike."""
    file = write_runs(tmp_path, [Run("a", config={"k": 1})])
    rows = pl.DataFrame({"run_id": "a", "_step": range(len(values)), "entity": "team", "project": "demo", name: values})
    paths = json.dumps({f"metric_{name}": [name]})
    rows = rows.rename({name: f"metric_{name}"})
    rows.write_parquet(tmp_path / "team_demo_history.parquet", metadata={"wandb_tools.columns": paths})
    assert ("diverged" in answered(file, "--health").out) == diverged
    assert ("1 diverged" in answered(file, "--curves", name, "-g", "k").out) == diverged


def test_health_of_several_projects_names_them(tmp_path):
    for project in ("one", "two"):
        write_runs(tmp_path, [Run(f"in {project}", state="failed", history_rows=9)], project=project)
    lines = [line.split()[:4] for line in answered(tmp_path, "--health").out.splitlines()]
    assert [line[1:] for line in lines if line[:1] == ["in"]] == [["one", "one", "failed"], ["two", "two", "failed"]]
    assert "project" not in answered(tmp_path, "--health", "--where", "project = 'one'").out


def test_filters_change_no_peers(tmp_path):
    """Runs that failed alone would be each other's peers, and stop as early as these."""
    runs = [Run(f"ok{n}", summary={"loss": 1}, history_rows=100) for n in range(4)]
    runs += [Run(f"bad{n}", state="failed", summary={"loss": 1}, history_rows=10 + n) for n in range(3)]
    rows = document(write_runs(tmp_path, runs), "--health", "--where", "state = 'failed'")["health"]
    early = {row["run"]: row["detail"] for row in rows if row["problem"] == "stopped early"}
    assert early == {f"bad{n}": f"at step {9 + n}; the median of its group or project is 99" for n in range(3)}


def test_the_best_of_several_projects_name_theirs(tmp_path):
    write_runs(tmp_path, [Run(f"r{n}", summary={"loss": n}) for n in range(2)], project="a")
    write_runs(tmp_path, [Run("r2", summary={"loss": 2})], project="b")
    for top, title in {1: "1 run by loss, in team/a", 2: "2 runs by loss, all in team/a", 3: "3 runs by loss"}.items():
        assert answered(tmp_path, "-t", top, "-m", "loss").out.startswith(f"Best {title}; lower is better")


def test_a_run_that_logged_only_text_has_no_metric(tmp_path):
    file = write_runs(tmp_path, [Run(name, history_rows=2) for name in ("text", "number", "other")])
    assert problems(file) == {}
    write_history(tmp_path, [("text", 0, None), ("text", 1, None), ("number", 0, None), ("number", 1, 1.0)])
    assert problems(file) == {"text": {"no metric"}}  # the history of the third one is not there


def test_metrics_may_be_called_like_columns_of_ours(tmp_path):
    names = ["id", "entity", "project", "_step", "run number", "a value", "*", "^x$", "[]"]
    file = write_runs(tmp_path, [Run("a", history_rows=1)])
    history = write_metrics(tmp_path, {"run_id": ["a"], "_step": [0]})
    paths = {f"metric_{n}": [name] for n, name in enumerate(names)} | {"metric_nested": ["x", "y"], "metric_y": ["x.y"]}
    values = {column: pl.lit(math.nan) for column in paths}
    metadata = {"wandb_tools.columns": json.dumps(paths)}
    pl.read_parquet(history).with_columns(**values).write_parquet(history, metadata=metadata)
    details = sorted(row["detail"] for row in document(file, "--health")["health"])
    assert details == sorted(f"{name}, 1 value (the only one), the first at step 0" for name in [*names, "x.y", "x.y"])
    for name in ("id", "entity", "_step"):
        assert document(file, "--curves", name)["curves"][0]["metric"] == f"metric_{names.index(name)}"


def test_a_validation_metric_may_be_written_in_one_word(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_metrics(tmp_path, {"run_id": ["a"] * 4, "_step": [0, 1, 2, 3], "valLoss": [9.0, 1.0, 5.0, 6.0]})
    assert [row["problem"] for row in document(file, "--health")["health"]] == ["past its best"]


@pytest.mark.parametrize("question", [["--health"], ["--report", "r.md"], ["--curves", "loss"]])
def test_files_with_other_columns_than_ours_are_no_bug(tmp_path, question):
    file = write_runs(tmp_path, [Run("a", state="crashed", summary={"loss": 1.0})])
    write_metrics(tmp_path, {"run_id": ["a"], "_step": [0], "loss": ["text"]})
    write_rows(tmp_path, "console", {"run_id": ["a"], "line": [0], "text": ["Killed"]})
    write_rows(tmp_path, "system", {"run_id": ["a"], "_timestamp": [0.0], "system_cpu": ["text"]})
    rewrite(file, gpu=pl.lit("A100"), gpu_count=1, runtime_s=math.nan)
    answer = ask(file, *question, cwd=tmp_path)
    assert answer.code == (2 if "--curves" in question else 0)
    assert "NaN" not in answer.out
    assert "there are none" in answer.err or "--curves" not in question


@pytest.mark.parametrize("more", [[], ["--curves", "loss"]])
def test_a_report_is_written_without_curves(tmp_path, more):
    runs = [Run("a", summary={"loss": 1.0}), Run("b", summary={"loss": 2.0}, state="crashed")]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("b", [1.0]))
    answer = ask(file, "--report", tmp_path / "r.md", *more)
    assert answer.code == len(more) // 2
    assert "no history has loss of these runs; choose others" in answer.err
    assert (tmp_path / "r.md").exists() != bool(more)


def test_spikes_are_found_at_both_ends_and_in_short_runs(tmp_path):
    random = np.random.default_rng(0)
    runs = {f"{n}_{at}": (n, at) for n in (51, 99, 300) for at in (1, 20, n // 2, n - 21, n - 2)}
    rows = []
    for name, (n, at) in runs.items():
        noise = 1 + 0.1 * random.random(n)
        rows += steps(name, [9.0 if step == at else value for step, value in enumerate(noise)])
    for n in (60, 300):  # steep, but without a spike
        fall = np.exp(-np.arange(n) / 10)
        rows += steps(f"falls_{n}", [*fall]) + steps(f"rises_{n}", [*fall[::-1]])
    rows += steps("short", [1.0 + step % 7 / 70 if step != 20 else 9.0 for step in range(50)])
    file = write_runs(tmp_path, [Run(name, summary={"loss": 1.0}) for name in {row[0] for row in rows}])
    write_history(tmp_path, rows)
    found = {row["run"]: row["detail"] for row in document(file, "--health")["health"] if row["problem"] == "spikes"}
    assert found == {name: f"loss, 1 value, the largest 9 at step {at}" for name, (_, at) in runs.items()}


def test_a_validation_metric_past_its_best(tmp_path):
    file = write_runs(tmp_path, [Run(name, summary={"val/loss": 1.0}) for name in ("over", "late", "near")])
    curves = {
        "over": [5.0, 1.0, 2.0, 3.0, 4.0, 4.5],
        "late": [5.0, 4.0, 3.0, 2.0, 1.0, 2.0],
        "near": [5.0, 1.0, 1.1, 1.1, 1.2, 1.2],
    }
    history = write_history(tmp_path, [row for name, logged in curves.items() for row in steps(name, logged)])
    paths = {"wandb_tools.columns": json.dumps({"metric_val_loss": ["val/loss"]})}
    pl.read_parquet(history).rename({"metric_loss": "metric_val_loss"}).write_parquet(history, metadata=paths)
    assert problems(file) == {"over": {"past its best"}}


@pytest.mark.parametrize("name", ["eval/runtime", "eval_runtime", "val/throughput"])
def test_the_speed_of_a_validation_has_no_best(tmp_path, name):
    file = write_runs(tmp_path, [Run("a", summary={name: 3.0})])
    write_metrics(tmp_path, {"run_id": ["a"] * 4, "_step": [0, 1, 2, 3], name: [2.0, 1.0, 4.0, 3.0]})
    assert problems(file) == {}


def test_nothing_wrong_is_one_line(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"loss": 1.0}) for n in "abc"])
    write_history(tmp_path, [row for n in "abc" for row in steps(n, [2.0, 1.0])])
    assert answered(file, "--health").out == "3 runs: no problem found\n"
    assert document(file, "--health")["health"] == []


# --- SQL ------------------------------------------------------------------------------------------------------


def test_an_answer_is_no_further_view(asked, tmp_path):
    for name, query in {"history": "FROM history", "t_table_x": "SELECT *, 1 AS row FROM history"}.items():
        answered(asked, "--sql", query, "-o", tmp_path / f"{name}.parquet")
    out = answered(asked, "--schema").out
    assert "further views of --sql: history\n" in out
    query = "SELECT count(DISTINCT filename) AS files, count(*) AS n FROM (SELECT 1 AS filename FROM history)"
    assert document(asked, "--sql", query)["sql"] == [{"files": 1, "n": 15}]


@pytest.fixture
def asked(tmp_path):
    runs = [
        Run(
            f"r{n}",
            f"run {n}",
            {"optim": {"lr": 0.1 * n}, "k": n % 2},
            {"test/mse": float(n * n), "acc": -n},
            tags=["t"],
        )
        for n in range(5)
    ]
    write_history(tmp_path, [row for n in range(5) for row in steps(f"r{n}", [float(n), n + 1.0, n + 2.0])])
    return write_runs(tmp_path, runs)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT count(*) AS n FROM runs", [{"n": 5}]),
        ('SELECT round(corr("test/mse", metric_acc), 3) AS r FROM runs', [{"r": -0.959}]),
        ("SELECT k, sum(runtime_s) AS s FROM runs GROUP BY k ORDER BY k", [{"k": 0, "s": 180.0}, {"k": 1, "s": 120.0}]),
        ("SELECT median(loss) AS m FROM history WHERE run_id = 'r2'", [{"m": 3.0}]),
        ('SELECT arg_min(name, "test/mse") AS best FROM runs', [{"best": "run 0"}]),
        (
            "SELECT name, max(h.loss) AS m FROM runs JOIN history h ON run_id = id GROUP BY 1 ORDER BY m DESC LIMIT 1",
            [{"name": "run 4", "m": 6.0}],
        ),
        ("SELECT quantile_cont(\"optim.lr\", 0.5) AS q FROM runs WHERE created_at >= '2026-01-01'", [{"q": 0.2}]),
        (
            "SELECT count(v) AS n FROM (UNPIVOT runs ON COLUMNS('^metric_') INTO NAME m VALUE v) WHERE id = 'r1'",
            [{"n": 2}],
        ),
        ("SELECT tags, created_at AS t, 1.5::DECIMAL(4,2) AS d, NULL AS x, 'NaN'::DOUBLE AS nan FROM runs LIMIT 1",
         [{"tags": ["t"], "t": "2026-01-01T00:00:00Z", "d": 1.5, "x": None, "nan": "NaN"}]),
        ("WITH a AS (SELECT row_number() OVER (ORDER BY id) AS i FROM runs) SELECT max(i) AS i FROM a;", [{"i": 5}]),
    ],
)  # fmt: skip
def test_sql(asked, query, rows):
    assert document(asked, "--sql", query)["sql"] == rows


def test_select_all_gives_every_column_once(asked):
    (row, *_) = document(asked, "--sql", "SELECT * FROM runs")["sql"]
    assert {*row} == {*pl.read_parquet_schema(asked)}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DROP VIEW runs", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("", "one SELECT"),
        ("COPY (SELECT 1) TO 'x.csv'", "one SELECT"),
        ("SELECT * FROM read_csv('{secret}')", "file"),
        ("SELECT * FROM '{secret}'", ""),
        ("SELECT * FROM read_text('{secret}')", "file"),
        ("SELECT * FROM glob('/*')", "file"),
        ("SELECT options FROM runs", "options"),
        ("SELECT * FROM options", "options"),
        ('SELECT "test/msee" FROM runs', "test/mse"),
        ("SELECT metric_tset_mse FROM runs", "metric_test_mse"),
        ("SELEC", "syntax error"),
        ("SELECT * FROM console", "console"),
        ("SELECT current_setting('nothing')", ""),
        ("SELECT getenv('HOME')", ""),
    ],
)
def test_what_is_no_select_or_reads_elsewhere_is_refused(asked, tmp_path, query, said):
    secret = tmp_path / "secret.csv"
    secret.write_text("hidden\n7391640285\n")
    answer = ask(asked, "--sql", query.replace("{secret}", str(secret)), "--quiet", cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert said in answer.err
    assert "7391640285" not in answer.err
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        (("--where", "CAST(config_k AS INT) > 0"), 2, "Could not convert string 'auto' to INT32"),
        (("--sql", "SELECT CAST(config_k AS INT) FROM runs"), 2, "--sql: Conversion Error: Could not convert"),
        (("--where", "config_torn <> ''"), 1, "demo_runs.parquet cannot be read: "),
        (("--sql", "SELECT config_torn FROM runs"), 1, "demo_runs.parquet cannot be read: "),
        (("--sql", "SELECT id FROM runs UNION ALL SELECT list(repeat(a.id, 999))::VARCHAR FROM runs AS a, runs"), 1,
         "--sql: Out of Memory Error: "),
    ],
)  # fmt: skip
def test_what_fails_after_the_first_rows_is_no_bug(tmp_path, question, code, said):
    """From the 2,049th row on, an error of DuckDB reaches Python as one of polars."""
    runs = [Run(f"r{n:04}", config={"k": "1" if n < 2999 else "auto", "torn": f"a text {n}"}) for n in range(3000)]
    file = write_runs(tmp_path, runs)
    rewritten = pl.read_parquet(file)
    rewritten.write_parquet(file, row_group_size=2500, use_pyarrow=True)
    torn = pq.read_metadata(file).row_group(1).column(rewritten.columns.index("config_torn"))
    content = bytearray(file.read_bytes())
    start = torn.dictionary_page_offset or torn.data_page_offset
    content[start + 100 : start + torn.total_compressed_size] = b"\xff" * (torn.total_compressed_size - 100)
    file.write_bytes(content)
    answer = ask(file, *question, "--json")
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_sql_is_bounded_for_people_and_whole_for_programs(asked, tmp_path):
    query = "SELECT range AS i FROM range(1000)"
    out = answered(asked, "--sql", query).out
    assert len(out.splitlines()) < 30
    assert "--max-rows 0" in out
    assert len(document(asked, "--sql", query)["sql"]) == 1000
    answered(asked, "--sql", query, "-o", tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["i"].sum() == 499_500


@pytest.mark.parametrize("folder", ["entity=other", "config_k=9", "new=1", "a[1]"])
def test_a_folder_is_no_column(tmp_path, folder):
    file = write_runs(tmp_path / folder, [Run("a", config={"k": 1}), Run("b", config={"k": 2})])
    rows = document(file, "--sql", "SELECT * FROM runs")["sql"]
    assert [(row["entity"], row["config_k"]) for row in rows] == [("team", 1), ("team", 2)]
    assert "new" not in rows[0]
    assert "--where k = 1: 1 of 2 runs kept" in answered(file, "--where", "k = 1", "--schema").err


def test_the_columns_of_a_query_always_have_one_order(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"o": dict.fromkeys("abcdefgh", 1)})])
    command = [sys.executable, analyze_runs.__file__, str(file), "--sql", "SELECT COLUMNS('o[.]') FROM runs", "--json"]
    seeds = [os.environ | {"PYTHONHASHSEED": str(seed)} for seed in (0, 1)]
    texts = {subprocess.run(command, env=seed, capture_output=True, text=True, check=True).stdout for seed in seeds}
    assert len(texts) == 1


def test_what_a_query_names_is_never_left_out(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"lr": 0.01})])
    query = "SELECT config_lr, log10(config_lr) AS lr FROM runs"
    assert document(file, "--sql", query)["sql"] == [{"config_lr": 0.01, "lr": -2.0}]
    assert document(file, "--sql", "SELECT LR AS Lr, config_lr FROM runs")["sql"] == [{"Lr": 0.01, "config_lr": 0.01}]
    assert "lr" not in document(file, "--sql", "SELECT * FROM runs")["sql"][0]


def test_a_query_may_end_with_a_line_break(asked):
    assert document(asked, "--sql", "SELECT 1 AS one;\r\n;\n")["sql"] == [{"one": 1}]


def test_a_missing_list_is_empty_in_csv(asked):
    assert answered(asked, "--sql", "SELECT NULL::INTEGER[] AS a, 1 AS b", "--format", "csv").out == "a,b\n,1\n"


def test_a_file_holds_all_rows_whatever_a_table_shows(asked, tmp_path):
    answered(asked, "--sql", "FROM range(50)", "--max-rows", 2, "-o", tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 51


@pytest.mark.parametrize("view", ["history", "console"])
def test_rows_of_an_export_are_not_overwritten(tmp_path, view):
    write_export(tmp_path, "runs")
    file = write_export(tmp_path, view)
    before = file.read_bytes()
    answer = ask(tmp_path, "--schema", "-o", file)
    assert (answer.code, answer.out) == (2, "")
    assert f"is a file of {view}, which would be lost; choose another name" in answer.err
    assert file.read_bytes() == before


def test_sql_takes_its_conditions_in_the_query(asked):
    assert ask(asked, "--sql", "SELECT 1", "--state", "failed").code == 2
    runs = pl.read_parquet(asked)
    crashed = rewrite(asked, state=pl.Series(["crashed"] * runs.height))
    assert document(crashed, "--sql", "SELECT count(*) AS n FROM runs")["sql"] == [{"n": 5}]


CONSOLE = {
    "run_id": ["r0", "r0", "r0", "r0", "r1", "r1", "r1", "r2"],
    "line": [0, 1, 2, 3, 0, 1, 2, 0],
    "time": [START] * 8,
    "stream": ["stdout", "stderr", "stderr", "stdout", None, "stdout", None, "stderr"],
    "text": ["step 1", "MemoryError: [red]", "  ", "cleaning up", "epoch 1", "Killed\u202e", "", "a warning"],
}


def test_further_files_are_views(asked, tmp_path):
    write_rows(tmp_path, "console", CONSOLE)
    write_rows(tmp_path, "system", {"run_id": ["r0"], "_runtime": [1.0], "_timestamp": [2.0], "system_cpu": [50.0]})
    write_rows(tmp_path, "table_val%2Fsamples", {"run_id": ["r0"], "row": [0], "guess": ["cat"]})
    write_rows(tmp_path, "table_val%3Fsamples", {"run_id": ["r0"], "row": [0], "other": ["dog"]})
    query = (
        "SELECT text, guess, system_cpu FROM console JOIN {} USING (run_id) JOIN system USING (run_id) WHERE line = 0"
    )
    for view in ('"table_val/samples"', "table_val_samples"):
        rows = document(asked, "--sql", query.format(view))["sql"]
        assert rows == [{"text": "step 1", "guess": "cat", "system_cpu": 50.0}]
    said = " ".join(answered(asked, "--schema").out.split())
    assert 'further views of --sql: console, history, system, "table_val/samples", "table_val?samples"' in said
    assert {"console", "history", "runs"} <= {row["name"] for row in document(asked, "--sql", "SHOW TABLES")["sql"]}


def test_further_files_beside_the_sources_of_an_aggregate_are_views(tmp_path):
    one = write_runs(tmp_path / "a", [Run("r0")])
    write_runs(tmp_path / "b", [Run("r1")], project="my_table_x")
    write_rows(tmp_path / "a", "console", CONSOLE)
    write_rows(tmp_path / "b", "console", CONSOLE, project="my_table_x")
    write_rows(tmp_path / "b", "table_y", one_row("r1", guess="cat"), project="my_table_x", key="of_table_y")
    both = pl.concat([pl.read_parquet(one), pl.read_parquet(tmp_path / "b" / "team_my_table_x_runs.parquet")])
    sources = pl.Series("source_file", ["a/team_demo_runs.parquet", "b/team_my_table_x_runs.parquet"])
    (tmp_path / "merged").mkdir()
    both.with_columns(sources).write_parquet(tmp_path / "merged" / "unified.parquet")
    for query, rows in (
        ("SELECT count(*) AS n FROM console", [{"n": CONSOLE["run_id"].count("r0") + CONSOLE["run_id"].count("r1")}]),
        ("SELECT project, guess FROM table_of_table_y", [{"project": "my_table_x", "guess": "cat"}]),
    ):
        answer = answered("merged/unified.parquet", "--sql", query, "--json", cwd=tmp_path)
        assert json.loads(answer.out)["sql"] == rows


def one_row(run: str = "r0", **columns: object) -> dict:
    return {"run_id": [run], "row": [0], **{name: [value] for name, value in columns.items()}}


def test_table_keys_that_are_alike_are_views_of_their_own(asked, tmp_path):
    for n, key in enumerate(["val/preds", "val_preds", "Preds", "preds", ""]):
        write_rows(tmp_path, f"table_{n}", one_row(guess=key), key=key)
    write_rows(tmp_path, "table_p", one_row("r1", guess="of another project"), project="other", key="Preds")
    for view, guesses in {
        '"table_val/preds"': ["val/preds"],
        "table_val_preds": ["val_preds"],  # an exact name comes before a flattened one
        "table_preds": ["Preds", "of another project"],
        "table_preds__0d4a06f7": ["preds"],
        "table_": [""],
    }.items():
        rows = document(asked, "--sql", f"SELECT guess FROM {view} ORDER BY guess")["sql"]
        assert [row["guess"] for row in rows] == guesses, view
    said = answered(asked, "--sql", "SELECT count(*) FROM table_preds").err
    assert "table_3.parquet is the view table_preds__0d4a06f7, because the key of another table differs only" in said


def test_the_key_of_a_table_is_read_from_its_metadata_else_from_its_name(asked, tmp_path):
    write_rows(tmp_path, "table_val%2Fpre__0123abcd", one_row(guess="cat"), key="val/predictions")
    write_rows(tmp_path, "table_val%2Fold_table_x", one_row(guess="dog"))
    for view, guess in {
        '"table_val/predictions"': "cat",
        "table_val_predictions": "cat",
        '"table_val/old_table_x"': "dog",
        "table_val_old_table_x": "dog",
    }.items():
        assert document(asked, "--sql", f"SELECT guess FROM {view}")["sql"] == [{"guess": guess}]


def test_a_table_with_the_columns_of_runs_is_a_table(tmp_path):
    write_runs(tmp_path, [Run("r0")])
    write_rows(tmp_path, "table_t", one_row(id="x", name="x", state="finished", created_at=START), key="t")
    query = "SELECT (SELECT count(*) FROM runs) AS runs, t.id FROM table_t AS t"
    assert document(tmp_path, "--sql", query)["sql"] == [{"runs": 1, "id": "x"}]


def test_rows_of_a_run_in_two_exports_come_from_the_one_beside_its_source(tmp_path):
    file = with_machines(tmp_path / "new")
    for folder, rows, text in (("new", 1, "new words"), ("old", 3, "old words")):
        of_run = {"run_id": ["r1"] * rows}
        lines = {"line": [*range(rows)], "time": [START] * rows, "stream": ["stderr"] * rows, "text": [text] * rows}
        write_rows(tmp_path / folder, "console", of_run | lines)
        write_rows(tmp_path / folder, "table_t", of_run | {"row": [*range(rows)], "text": [text] * rows}, key="t")
        clocks = {"_runtime": [1.0] * rows, "_timestamp": [2.0] * rows}
        write_rows(tmp_path / folder, "system", of_run | clocks | {"system_cpu": [10.0 * rows] * rows})
    sources = pl.Series([f"{folder}/team_demo_runs.parquet" for folder in ("old", "new", "old", "old")])
    write_rows(tmp_path / "old", "table_u", {"run_id": ["r1"], "row": [0], "text": ["only here"]}, key="u")
    unified = rewrite(file, source_file=sources).rename(tmp_path / "unified.parquet")
    for view, text in (("console", "new words"), ("table_t", "new words"), ("table_u", "only here")):
        answer = answered(unified, "--sql", f"SELECT text FROM {view}", "--json", cwd=tmp_path)
        assert json.loads(answer.out)["sql"] == [{"text": text}]
    answer = answered(unified, "--sql", "SELECT system_cpu AS cpu FROM system", "--json", cwd=tmp_path)
    assert json.loads(answer.out)["sql"] == [{"cpu": 10.0}]
    health = json.loads(answered(unified, "--health", "--json", cwd=tmp_path).out)["health"]
    assert [row["detail"] for row in health if row["problem"] == "crashed"] == ["at step -1: new words"]
    answered(unified, "--report", "r.md", cwd=tmp_path)
    machines = (tmp_path / "r.md").read_text().partition("Machine use")[2].partition("##")[0]
    assert re.search(r"\| *10 *\|", machines)


@pytest.mark.parametrize("view", ["history", "Console", "system", "table_x", '"table_val/x"'])
def test_sql_over_rows_that_are_not_there_names_those_that_are(tmp_path, view):
    file = write_runs(tmp_path, [Run("r0")])
    write_rows(tmp_path, "table_y", one_row(guess="cat"), key="y")
    answer = ask(file, "--sql", f"SELECT * FROM {view}")
    said = f"Table with name {view.strip(chr(34))} does not exist; the views are runs, table_y (export_runs.py"
    assert (answer.code, said in answer.err, "id you mean" in answer.err) == (2, True, False), answer.err


# --- why runs ended, machines ---------------------------------------------------------------------------------


def test_health_shows_the_last_words_of_crashed_and_failed_runs(tmp_path):
    states = ["crashed", "failed", "finished", "Failed"]
    runs = [Run(f"r{n}", state=state, summary={"loss": 1.0}, history_rows=9) for n, state in enumerate(states)]
    file = write_runs(tmp_path, runs)
    write_rows(tmp_path, "console", CONSOLE)
    write_rows(tmp_path, "console", CONSOLE, project="other")  # another project's runs of the same ids
    details = {row["run"]: row["detail"] for row in document(file, "--health")["health"]}
    assert details == {
        "r0": "at step 8: MemoryError: [red]",  # stderr before the rest
        "r1": "at step 8: Killed\u202e",
        "r3": "at step 8",
    }
    out = answered(file, "--health").out
    assert "MemoryError: [red]" in out
    assert "\u202e" not in out


def test_the_last_words_are_not_those_of_the_sdk(tmp_path):
    file = write_runs(tmp_path, [Run(run, state="crashed", summary={"loss": 1.0}) for run in "ab"])
    chatter = ["wandb: WARNING Saving files without folders.", "wandb: Adding directory to artifact (x)... Done. 0.1s"]
    lines = {"a": ["Epoch 3", *chatter], "b": ["Epoch 3", "wandb: ERROR Error while calling W&B API: 409"]}
    rows = [(run, line, None, text) for run, texts in lines.items() for line, text in enumerate(texts)]
    schema = {"run_id": pl.String, "line": pl.Int64, "stream": pl.String, "text": pl.String}
    write_rows(tmp_path, "console", pl.DataFrame(rows, schema, orient="row").to_dict())
    details = [row["detail"].partition(": ")[2] for row in document(file, "--health")["health"]]
    assert details == ["Epoch 3", lines["b"][1]]


def test_a_long_last_line_is_cut_for_people_alone(tmp_path):
    file = write_runs(tmp_path, [Run("r0", "a name", state="crashed", summary={"loss": 1.0}, history_rows=9)])
    line = "ValueError: " + "x" * 5000 + " end"
    write_rows(
        tmp_path, "console", {"run_id": ["r0"], "line": [7], "time": [None], "stream": ["stderr"], "text": [line]}
    )
    out = answered(file, "--health").out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out) < 500
    assert "at step 8: Va" in out
    assert document(file, "--health")["health"][0]["detail"].endswith(line)


def with_machines(folder: Path) -> Path:
    file = write_runs(folder, [Run(f"r{n}", config={"k": n}, summary={"test/mse": float(n)}) for n in range(4)])
    return rewrite(
        file,
        runtime_s=pl.Series([3600.0, 7200.0, 1800.0, 60.0]),
        host=pl.Series(["a", "a", "b", None], dtype=pl.String),
        gpu=pl.Series(["A100", "A100", "T4", None]),
        gpu_count=pl.Series([2, 2, 1, None]),
        state=pl.Series(["finished", "crashed", "finished", "finished"]),
    )


def test_machines_are_facts_of_a_run_like_its_name(tmp_path):
    file = with_machines(tmp_path)
    rows = {row["column"]: row["kind"] for row in document(file, "--schema")["schema"]}
    assert {rows[column] for column in ("host", "gpu", "gpu_count")} == {"identity"}
    groups = {row["gpu"]: row["n"] for row in document(file, "-g", "gpu", "--state", "all")["groups"]}
    assert groups == {"A100": 2, "T4": 1, None: 1}
    assert document(file, "--top", 1, "--columns", "gpu,gpu_count")["top"][0]["gpu_count"] == 2
    query = "SELECT gpu, SUM(runtime_s * gpu_count) / 3600 AS hours FROM runs GROUP BY gpu ORDER BY hours DESC LIMIT 1"
    assert document(file, "--sql", query)["sql"] == [{"gpu": "A100", "hours": 6.0}]
    assert {row["column"] for row in document(file, "--varying", "--state", "all")["varying"]} == {"config_k"}


def test_the_report_tells_of_machine_use_and_problems(tmp_path):
    file = with_machines(tmp_path)
    system = {
        "run_id": ["r0", "r0", "r1", "r1", "r2"],
        "_runtime": [1.0, 2.0, 1.0, 2.0, 1.0],
        "_timestamp": [1.0, 2.0, 1.0, 2.0, 1.0],
        "system_cpu": [10.0, 20.0, 30.0, None, 50.0],
        "system_gpu_0_gpu": [80.0, 100.0, 30.0, 30.0, None],
        "system_gpu_1_gpu": [40.0, 60.0, 30.0, 30.0, None],
        "system_gpu_0_temp": [1.0] * 5,
    }
    write_rows(tmp_path, "system", system)
    rows = document(file, "--report", tmp_path / "r.html")["machine"]
    assert [(row["gpu"], row["gpu_count"], row["runs"], row["hours"], row["gpu_hours"]) for row in rows] == [
        ("A100", 2, 2, 3.0, 6.0),
        ("T4", 1, 1, 0.5, 0.5),
        (None, None, 1, pytest.approx(1 / 60), None),  # unknown, which is not none
    ]
    assert rows[0]["gpu_percent"] == pytest.approx((70 * 1 + 30 * 2) / 3)  # weighted by run time
    assert rows[0]["cpu_percent"] == pytest.approx((15 * 1 + 30 * 2) / 3)
    assert (rows[1]["gpu_percent"], rows[1]["cpu_percent"], rows[2]["gpu_percent"]) == (None, 50.0, None)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<h2>Machine use</h2>\n<p class='about'>3.517 hours of run time of 4 runs in all states</p>" in page
    assert "Problems in 1 of 4 runs" in page


def test_a_report_without_system_metrics_says_how_to_get_them(tmp_path):
    """And has no columns that are empty."""
    answered(with_machines(tmp_path), "--report", tmp_path / "r.md")
    section = (tmp_path / "r.md").read_text("utf-8").partition("Machine use")[2].partition("##")[0]
    assert "| gpu" in section
    assert "%" not in section
    assert "export_runs.py --system-metrics exports how busy GPUs and CPUs were" in section


def test_a_report_of_runs_without_machines_has_no_such_section(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"test/mse": 1.0})])  # as earlier versions exported them
    answered(file, "--report", tmp_path / "r.md")
    assert "Machine use" not in (tmp_path / "r.md").read_text("utf-8")


# --- terminals ------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: object) -> str:
    primary, secondary = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
    command = [sys.executable, analyze_runs.__file__, *map(str, arguments)]
    subprocess.run(command, stdout=secondary, env=environment, check=True)
    os.close(secondary)
    text = os.read(primary, 100_000).decode()
    os.close(primary)
    return text


def test_a_terminal_has_links_and_the_shapes_of_curves(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"test/mse": 1.0}) for n in "abc"])
    urls = ["https://wandb.ai/team/demo/runs/a", "javascript:alert(1)", "https://x/\x1b[31m"]
    rewrite(file, url=pl.Series(urls))
    write_history(tmp_path, steps("a", [1.0, 8.0, math.nan, 3.0]))
    out = on_a_terminal(file, "--top", 3, "--quiet")
    assert "\x1b]8;;https://wandb.ai/team/demo/runs/a\x1b\\" in out
    assert "javascript" not in out
    assert "\x1b[31m" not in out
    assert "▁█x▃" in on_a_terminal(file, "--curves", "loss", "--quiet")
    answered(file, "--report", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<a href='https://wandb.ai/team/demo/runs/a'>" in page
    assert "javascript" not in page


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_heads_and_details_are_whole_at_any_width(tmp_path, width):
    """Heads that would look alike when shortened, and sentences, are broken into lines."""
    archs = ["stage1a/filter_bank", "stage2c/filter_bank", "stage3b/filter_bank"]
    runs = [Run(f"run_with_quite_a_long_name_{n}", config={"arch": arch}) for n, arch in enumerate(archs)]
    runs.append(Run("crashed_after_a_while", state="crashed", history_rows=123_457))
    file = write_runs(tmp_path, runs)
    rows = [row for run in runs[:3] for row in steps(run.id, [1.0, 0.5, 1001.0])]
    write_history(tmp_path, rows)
    out = answered(file, "--curves", "loss", "-g", "arch", "--health", "-s", "all", COLUMNS=str(width)).out
    assert max(map(len, out.splitlines())) <= width
    details = [" ".join(part.split()) for part in re.findall(r"diverged +(.*\n?.*)\n", out)]
    assert "loss 0.5 at step 1, ends at 1001" in details[0].replace("\n", " ")
    table = out[out.index("loss over step") :]
    heads = table[: table.index("────")].splitlines()
    assert "stage1a/" in " ".join(heads)
    shown = sum(f"{arch.partition('/')[0]}/" in " ".join(heads) for arch in archs)
    assert shown == 3 or "the table would be too wide" in table


def test_runs_that_do_not_log_the_axis_are_counted(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    history = write_history(tmp_path, steps("a", [1.0, 2.0]) + steps("b", [1.0]))
    epoch = pl.when(pl.col("run_id") == "a").then(pl.col("_step") / 2).alias("metric_epoch")
    pl.read_parquet(history).with_columns(epoch).write_parquet(history)
    answer = answered(file, "--curves", "loss", "--x", "epoch")
    assert "left out, because they did not log epoch with it: 1 run; use --x step to see them" in answer.err


def test_runs_of_an_export_without_the_axis_are_counted(tmp_path):
    for project in ("one", "two"):
        write_runs(tmp_path, [Run(project)], project=project)
        rows = {"run_id": [project], "_step": [0], "loss": [1.0]}
        write_metrics(tmp_path, rows | ({"epoch": [0.5]} if project == "one" else {}), project)
    answer = answered(tmp_path, "--curves", "loss", "--x", "epoch")
    assert "left out, because they did not log epoch with it: 1 run; use --x step to see them" in answer.err


def test_times_that_are_none_are_left_out(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    times = [1.7e9, 1.7e12, 1e300, -1e300, 1.7e12]
    write_metrics(tmp_path, {"run_id": [*"aaaab"], "_step": [*range(5)], "loss": [1.0] * 5, "_timestamp": times})
    rows = document(file, "--curves", "loss", "--x", "time")["curves"]
    assert [(row["id"], row["x"]) for row in rows] == [("a", "2023-11-14T22:13:20Z")]
    assert "did not log time with it: 1 run" in answered(file, "--curves", "loss", "--x", "time").err
    assert (
        "no history has time of these runs" in ask(file, "--curves", "loss", "--x", "time", "--where", "id = 'b'").err
    )


@pytest.mark.parametrize("name", ["step", "time", "runtime", "epoch"])
def test_a_step_metric_may_be_called_like_a_clock(tmp_path, name):
    file = write_runs(tmp_path, [Run("a")])
    rows = {"run_id": ["a", "a"], "_step": [0, 1], "loss": [2.0, 1.0], "_timestamp": [5.0, 6.0]}
    write_metrics(tmp_path, rows | {name: [10.0, 20.0]}, metric_loss={"step_metric": name})
    assert [row["x"] for row in document(file, "--curves", "loss")["curves"]] == [10.0, 20.0]
    assert answered(file, "--curves", "loss").out.startswith(f"loss over {name}: 1 run\n")
    write_metrics(tmp_path, rows, metric_loss={"step_metric": name})  # --history-keys left it out
    assert [row["x"] for row in document(file, "--curves", "loss")["curves"]] == [0.0, 1.0]


def test_groups_of_curves_by_a_column_called_value(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    rewrite(file, value=pl.Series([7, 8]))
    write_history(tmp_path, steps("a", [1.0, 0.5]) + steps("b", [3.0, 2.5]))
    rows = document(file, "--curves", "loss", "-g", "value")["curves"]
    assert [(row["value"], row["x"], row["mean"]) for row in rows] == [(7, 0, 1), (7, 1, 0.5), (8, 0, 3), (8, 1, 2.5)]
    assert answered(file, "--curves", "loss", "-g", "value").out.splitlines()[1].split() == ["step", "7", "8"]


def test_the_history_of_a_run_without_an_id_is_read(tmp_path):
    file = rewrite(write_runs(tmp_path, [Run("a")]), id=pl.lit(None, pl.String))
    rewrite(write_history(tmp_path, steps("a", [1.0, 2.0])), run_id=pl.lit(None, pl.String))
    assert [row["value"] for row in document(file, "--curves", "loss")["curves"]] == [1.0, 2.0]


def test_curves_end_with_their_last_value_whatever_the_points(tmp_path):
    """Short runs were compared by their value at the last common point, often the first step, or left out."""
    file = write_runs(tmp_path, [Run(name, config={"k": name[0]}) for name in ("long", "short", "late", "small")])
    late = [("late", step, 3.0) for step in (30, 31, 32)]
    short = [("short", step, 9.0 - step) for step in range(9)] + [("small", 0, 0.5), ("small", 1, 4.0)]
    write_history(tmp_path, steps("long", [2.0] * 100) + short + late)
    answer = answered(file, "--curves", "loss", "--points", 3)
    rows = [line.split() for line in answer.out.splitlines()[1:]]
    assert rows[0] == ["step", "short", "long", "late", "small"]
    ends = [["1", "8", "2", "4"], ["8", "1", "2"], ["32", "2", "3"]]  # with the values of the others there
    assert [row for row in rows if row[0] in {"1", "8", "32"}] == ends
    rows = document(file, "--curves", "loss", "--points", 3, "-g", "k")["curves"]
    assert [(row["x"], row["n"], row["mean"]) for row in rows if row["config_k"] == "s"] == [(0, 2, 4.75), (1, 2, 6)]


def test_histories_are_joined_by_path_not_by_column(tmp_path):
    """Two exports of which one settled a clash of names: train/loss has another column there."""
    for project, paths in {
        "plain": {"metric_train_loss": ["train/loss"]},
        "clash": {"metric_train_loss": ["train_loss"], "metric_train_loss__d5308e80": ["train/loss"]},
    }.items():
        write_runs(tmp_path, [Run(project)], project=project)
        rows = {"run_id": [project] * 3, "_step": [0, 1, 2]}
        values = {
            column: [1.0, math.inf, math.nan] if path == ["train/loss"] else [7.0] * 3 for column, path in paths.items()
        }
        frame = pl.DataFrame(rows | values).with_columns(entity=pl.lit("team"), project=pl.lit(project))
        metadata = {"wandb_tools.columns": json.dumps(paths)}
        frame.lazy().sink_parquet(tmp_path / f"team_{project}_history.parquet", metadata=metadata)
    query = (
        'SELECT project, count("train/loss") AS slash, sum(train_loss) AS flat FROM history GROUP BY ALL ORDER BY ALL'
    )
    rows = json.loads(ask(tmp_path, "--sql", query, "--json").out)["sql"]
    assert rows == [{"project": "clash", "slash": 3, "flat": 21}, {"project": "plain", "slash": 3, "flat": None}]
    problems = json.loads(ask(tmp_path, "--health", "--json").out)["health"]
    assert {row["detail"] for row in problems if row["problem"] == "non-finite"} == {
        "train/loss, 2 values (of 3), the first at step 1"
    }


LOW, HIGH, HASHED = {"metric_loss": ["loss"]}, {"metric_LOSS": ["LOSS"]}, {"metric_loss__5a258448": ["loss"]}


@pytest.mark.parametrize(
    ("named", "columns"),
    [
        ([LOW, HIGH], ("loss__5a258448", "LOSS__c7f60358")),
        ([LOW, HIGH, HIGH | HASHED], ("loss__5a258448", "LOSS__c7f60358")),
        ([HIGH | HASHED], ("metric_loss__5a258448", "metric_LOSS")),
    ],
)
def test_names_that_differ_only_in_case_stay_apart_in_sql(tmp_path, named, columns):
    """SQL takes them for one: the values of both were one column, or one's name gave the other's values."""
    for number, paths in enumerate(named):
        project = f"p{number}"
        write_runs(tmp_path, [Run("a")], project=project)
        rows = {"run_id": ["a"], "_step": [0], "entity": ["team"], "project": [project]}
        frame = pl.DataFrame(rows | {column: [1.0 if path == ["loss"] else 10.0] for column, path in paths.items()})
        metadata = {"wandb_tools.columns": json.dumps(paths)}
        frame.lazy().sink_parquet(tmp_path / f"team_{project}_history.parquet", metadata=metadata)
    [row] = document(tmp_path, "--sql", f"SELECT sum({columns[0]}) AS low, sum({columns[1]}) AS high FROM history")[
        "sql"
    ]
    assert row == {
        "low": sum(1 for paths in named if paths != HIGH),
        "high": sum(10 for paths in named if paths != LOW),
    }
    for name in ("loss", "LOSS"):
        assert f'no column "{name}"' in ask(tmp_path, "--sql", f"SELECT {name} FROM history").err


def test_names_of_runs_work_in_sql_if_another_file_has_another_metric_without_values(tmp_path):
    """The column of both stood only under a name with a hash, and --where may have read the empty one."""
    for order in (("p", "q"), ("q", "p")):
        folder = tmp_path / order[0]
        empty = Run("empty", summary={"a": {"b": None}, "loss": 1.0})
        write_runs(folder, [empty], project=order[0], dtypes={"metric_a_b": pl.Float64})
        write_runs(folder, [Run("full", summary={"a_b": 2.5, "loss": 2.0})], project=order[1])
        query = 'SELECT "a_b" AS flat, "a.b" AS nested FROM runs WHERE "a_b" IS NOT NULL'
        assert document(folder, "--sql", query)["sql"] == [{"flat": 2.5, "nested": None}]
        rows = document(folder, "--top", 2, "-m", "loss", "--where", "a_b > 1")["top"]
        assert [row["id"] for row in rows] == ["full"]


def test_curves_of_a_history_without_paths_go_by_the_names_of_the_runs(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train/loss": 1.0})])
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_train_loss": [1.0]})
    for name in ("train/loss", "train_loss", "metric_train_loss"):
        assert len(document(file, "--curves", name)["curves"]) == 1, name


def test_names_without_paths_stay_apart_in_sql(tmp_path):
    """A history that another tool rewrote: a bug was reported, or loss and LOSS were one column."""
    files = {}
    for project, column in (("p", "metric_loss"), ("q", "metric_LOSS"), ("r", "metric_loss")):
        write_runs(tmp_path, [Run("a")], project=project)
        files[project] = write_rows(
            tmp_path, "history", {"run_id": ["a"], "_step": [0], column: [1.0]}, project=project
        )
    query = "SELECT project, loss__5a258448 AS low, LOSS__c7f60358 AS high FROM history ORDER BY project"
    expected = [("p", 1.0, None), ("q", None, 1.0), ("r", 1.0, None)]
    assert [(*row.values(),) for row in document(tmp_path, "--sql", query)["sql"]] == expected
    for project, path in (("p", "loss"), ("q", "LOSS")):
        metadata = {"wandb_tools.columns": json.dumps({f"metric_{path}": [path]})}
        pl.read_parquet(files[project]).write_parquet(files[project], metadata=metadata)
    assert [(*row.values(),) for row in document(tmp_path, "--sql", query)["sql"]] == expected


# --- what an outside tester found -----------------------------------------------------------------------------


def test_an_empty_key_of_the_config_does_no_harm_to_sql(tmp_path):
    runs = [Run("a", config={"": 1, "k": 2}, summary={"": 3.0}), Run("b", config={"": 2, "k": 3})]
    file = write_runs(tmp_path, runs)
    assert document(file, "--sql", "SELECT id, config_, k FROM runs ORDER BY id LIMIT 1")["sql"] == [
        {"id": "a", "config_": 1, "k": 2}
    ]
    assert document(file, "--where", "k = 3", "--schema", "--columns", "config_")["schema"][0]["max"] == 2


@pytest.mark.parametrize(("flag", "text"), [("--where", "group = 'g'"), ("--sql", "SELECT group FROM runs")])
def test_an_error_says_that_sql_words_are_quoted(tmp_path, flag, text):
    answer = ask(write_runs(tmp_path, [Run("a", group="g")]), flag, text, "--schema")
    assert answer.code == 2
    assert 'SQL words ("group") in double quotes' in answer.err


def write_export(folder: Path, view: str, project: str = "demo", export_id: str | None = None) -> Path:
    """A file of an export: its one run, or rows of it."""
    rows = {
        "history": {"_step": [0], "metric_loss": [1.0]},
        "console": {"line": [0], "stream": [None], "text": ["Boom"]},
    }
    if view == "runs":
        file = write_runs(folder, [Run("a", state="failed")], project=project)
    else:
        file = write_rows(folder, view, {"run_id": ["a"], **rows[view]}, project=project)
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pairs["wandb_tools.source"] = json.dumps({"entity": "team", "project": project})
    pairs |= {"wandb_tools.export_id": export_id} if export_id else {}
    pl.read_parquet(file).write_parquet(file, metadata=pairs)
    return file


@pytest.mark.parametrize(("ids", "warned"), [(("one", "one"), 0), (("one", "two"), 1), (("one", None), 0)])
def test_files_of_different_exports_are_warned_of(tmp_path, ids, warned):
    runs = write_export(tmp_path, "runs", export_id=ids[0])
    write_export(tmp_path, "history", export_id=ids[1])
    write_export(tmp_path, "console", export_id=ids[1])
    write_export(tmp_path, "history", project="other", export_id="three")  # not of these runs
    text = f"of team/demo in {tmp_path} come from different exports, because one was killed: export again\n"
    said = answered(runs, "--curves", "loss", "--health").err
    assert (said.count(f"runs and history {text}"), said.count(f"runs and console {text}")) == (warned, warned)
    assert answered(runs, "--sql", "FROM history").err.count(f"runs and history {text}") == warned
    assert text not in answered(runs, "--schema").err


def test_histories_alone_are_read_with_the_runs_beside_them(tmp_path):
    history = write_export(tmp_path, "history")
    write_export(tmp_path, "runs", project="other").rename(tmp_path / "team_demo_runs.parquet")  # names tell nothing
    answer = ask(history, "--curves", "loss")
    assert answer.code == 1
    assert "the runs file of team/demo is missing there" in answer.err
    runs = write_export(tmp_path / "x", "runs").rename(tmp_path / "any.parquet")
    answer = answered(history, "--curves", "loss", "--json")
    assert [(row["id"], row["value"]) for row in json.loads(answer.out)["curves"]] == [("a", 1.0)]
    assert f"reading {runs}, the runs of team/demo\n" in answer.err


def test_rows_of_groups_hold_every_setting_that_varies(tmp_path):
    settings = {"small": {"name": "s", "width": 8}, "large": {"name": "l", "width": 16}}
    runs = [Run(f"{n}{s}", config={"model": m, "seed": s}) for n, m in settings.items() for s in range(2)]
    for run in runs:
        run.summary = {"test/mse": run.config["model"]["width"] + run.config["seed"]}
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for run in runs for row in steps(run.id, [2.0, 1.0])])
    found = [("s", 8, 8.5), ("l", 16, 16.5)]
    rows = document(file, "-g", "!seed")["groups"]
    assert [(row["config_model_name"], row["config_model_width"], row["mean"]) for row in rows] == found
    assert "config_seed" not in rows[0]
    answered(file, "-g", "!seed", "-o", tmp_path / "g.parquet")
    names = ["config_model_name", "config_model_width", "mean"]
    assert pl.read_parquet(tmp_path / "g.parquet").select(names).rows() == found
    for row in document(file, "--curves", "loss", "-g", "!seed")["curves"]:
        assert row.keys() >= {"config_model_name", "config_model_width"}
    out = answered(file, "-g", "!seed").out
    assert ("model.name" in out) != ("model.width" in out)  # the one follows from the other
    out = answered(file, "-g", "!seed,model.name,model.width").out
    assert re.search(r"^model.width +model.name ", out, re.MULTILINE)


def test_two_names_of_one_column_give_it_once(tmp_path):
    file = write_runs(tmp_path, [Run(each, config={"lr": n}, summary={"loss": 1.0}) for n, each in enumerate("ab")])
    write_history(tmp_path, steps("a", [1.0]))
    assert [row["column"] for row in document(file, "--schema", "--columns", "lr,config_lr")["schema"]] == ["config_lr"]
    found = document(file, "-g", "lr", "-m", "loss", "-m", "metric_loss", "--curves", "loss,metric_loss")
    assert len(found["curves"]) == 1
    assert len(document(file, "-g", "lr", "-m", "loss", "-m", "metric_loss")["groups"]) == 2
    for question in (["--top", 1, "--columns", "lr,config_lr"], ["-g", "lr", "--columns", "lr,mean,config_lr,mean"]):
        heads = next(line.split() for line in answered(file, *question).out.splitlines() if line.split()[0] == "lr")
        assert len({*heads}) == len(heads)


@pytest.mark.parametrize(
    ("condition", "named"), [("k = 8", True), ("\"k\"=8 AND id = 'k'", True), ("model.k = 8", False)]
)
def test_a_condition_says_which_of_two_columns_it_means(tmp_path, condition, named):
    runs = [Run(each, config={"k": n, "model": {"k": 8 * n}}) for n, each in enumerate("ak", 1)]
    file = write_runs(tmp_path, runs)
    said = ask(rewrite(file, k=pl.Series([8, 8])), "--where", condition, "--schema").err
    assert ("k means the column with this name; write config_k for the setting" in said) == named


def test_a_condition_says_how_to_name_columns_called_as_words_of_sql_or_of_ours(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"select": 1, "from": 1}, summary={"id": 1.0})])
    for condition, word in (("select = 1", "select"), ("id = 'a' AND ( from = 1)", "from")):
        quoted = f'the column {word} goes in double quotes, "{word}"'
        assert quoted in ask(file, "--where", condition, "--schema").err
        assert answered(file, "--where", condition.replace(word, f'"{word}"'), "--schema")
    assert "use --sql for queries" in ask(file, "--where", "(FROM runs)", "--schema").err
    assert "write metric_id for the metric\n" in answered(file, "--where", "id = 'a'", "--schema").err


def test_an_unknown_view_is_answered_with_those_that_are_there(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    write_rows(tmp_path, "table_t", {"run_id": ["a"], "row": [0]}, key="t")
    answer = ask(file, "--sql", "FROM nope")
    assert answer.code == 2
    assert "Table with name nope does not exist; the views are runs, history, table_t " in answer.err


def test_near_names_are_found_in_any_case(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"val/loss": 1.0, "Acc": 1.0})])
    assert "did you mean val/loss?" in ask(file, "-t", 1, "-m", "VAL/LOSS").err
    assert "did you mean Acc?" in ask(file, "-t", 1, "-m", "acc").err


def test_a_sampled_history_is_named_where_there_is_no_other(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]), "team_demo_history_sampled")
    answer = ask(file, "--curves", "loss")
    assert answer.code == 1
    said = "these runs have only a sampled history, which is not used; export_runs.py --include-history writes all rows"
    assert said in answer.err


def test_the_schema_for_programs_is_exact(tmp_path):
    large = 2**63 - 1
    runs = [Run(f"r{n}", config={"big": large - n, "x": n / 2} if n else {}) for n in range(3)]
    file = write_runs(tmp_path, runs)
    big, x = document(file, "--schema", "--columns", "big,x")["schema"]
    assert (big["min"], big["max"], big["coverage"]) == (large - 2, large - 1, 2 / 3)
    assert (x["min"], x["max"]) == (0.5, 1.0)
    for ending in ("csv", "parquet"):
        answered(file, "--schema", "--columns", "big", "-o", tmp_path / f"s.{ending}")
    assert f",{2 / 3},2,{large - 2},{large - 1}," in (tmp_path / "s.csv").read_text()
    assert pl.read_parquet(tmp_path / "s.parquet").row(0)[4:8] == (2 / 3, 2, str(large - 2), str(large - 1))


@pytest.mark.parametrize("output", [["--json"], ["--format", "csv"], ["-o", "c.parquet"], ["-o", "c.csv", "--json"]])
def test_programs_get_all_and_are_not_told_what_people_do_not_see(tmp_path, output):
    runs = [Run(f"r{n:02}", config={"x" * m: n for m in range(1, 60)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(12) for row in steps(f"r{n:02}", [1.0, float(n)])])
    for question in (["--curves", "loss"], ["--schema"]):
        assert " more" not in answered(file, *question, *output, cwd=tmp_path).err
        assert " more" in answered(file, *question).out
    answered(file, "--curves", "loss", "-o", "c.md", cwd=tmp_path)
    assert "4 more: use " in (tmp_path / "c.md").read_text()


@pytest.mark.parametrize("output", [["--json"], ["--format", "csv"]])
def test_rows_that_max_rows_cuts_are_counted_for_programs_too(tmp_path, output):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"test/mse": 1.0}) for n in range(5)])
    assert "groups: 3 more rows: use --max-rows 0 for all" in answered(file, "-g", "k", "--max-rows", 2, *output).err


def test_varying_lists_the_most_frequent_value_first(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": 8 if n else 2}, summary={"loss": n}) for n in range(3)])
    answer = answered(file, "--varying")
    assert answer.out.startswith("1 varying config column of 3 runs\n")
    assert "8 (2), 2 (1)" in answer.out
    assert [(row["value"], row["runs"]) for row in document(file, "--varying")["varying"]] == [(8, 2), (2, 1)]


# --- what a reading line by line found ------------------------------------------------------------------------


def two_projects(folder: Path, one: pl.Series, other: pl.Series, **paths: list[str]) -> Path:
    """Two exports with two runs each, and `config_x` as given; `paths` are W&B's names of it by project."""
    for project, values in (("p1", one), ("p2", other)):
        runs = [Run(f"{project}{n}", config={"x": n}, summary={"test/mse": 1.0}) for n in range(2)]
        file = write_runs(folder, runs, project=project)
        columns = {"wandb_tools.columns": json.dumps({"config_x": paths.get(project, ["x"])})}
        metadata = {**pl.read_parquet_metadata(file), **columns}
        metadata = {key: value for key, value in metadata.items() if key.startswith("wandb_tools")}
        pl.read_parquet(file).with_columns(config_x=values).write_parquet(file, metadata=metadata)
    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.Series([1, 2], dtype=pl.Int8), pl.Series([1000, 3])),
        (pl.Series([1, 2]), pl.Series([2**63 + 2048, 3], dtype=pl.UInt64)),
        (pl.Series([1, 2], dtype=pl.Float32), pl.Series([2**24 + 1, 3])),
    ],
)
def test_numbers_of_several_files_fit_one_dtype(tmp_path, one, other):
    rows = document(two_projects(tmp_path, one, other), "--varying")["varying"]
    assert {row["value"] for row in rows} == {*one, *other}


@pytest.mark.parametrize("empty", ["p1", "p2"])
def test_a_column_without_values_does_not_rename_that_of_another_file(tmp_path, empty):
    values, nothing = pl.Series([1, 2]), pl.Series([None, None], dtype=pl.String)
    paths = {empty: ["wrong"], "p1" if empty == "p2" else "p2": ["a/b"]}
    series = [nothing, values] if empty == "p1" else [values, nothing]
    folder = two_projects(tmp_path, *series, **paths)
    assert "a/b          3  null (2), 1 (1), 2 (1)" in answered(folder, "--varying").out


@pytest.mark.parametrize("path", ["损失", "%"])
def test_the_default_metric_may_have_a_name_without_latin_letters(tmp_path, path):
    runs = [Run(f"r{n}", summary={path: float(n)}) for n in range(2)]
    facts = {f"metric_{'_' * len(path)}": {"goal": "minimize"}}
    assert f"metric: {path} (use --metric" in answered(write_runs(tmp_path, runs, metrics=facts)).err


def test_columns_of_every_table_of_groups_may_be_named_beside_top(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n % 2}, summary={"test/mse": n}) for n in range(6)])
    answer = answered(file, "--top", 1, "-g", "k", "--stat", "iqm", "--columns", "k,iqm")
    heads = [line.split() for line in answer.out.splitlines() if line.startswith("k")]
    assert heads == [["k"], ["k", "iqm"]]
    err = answered(file, "-g", "k", "--columns", "best_step").err  # only --value min and max have one
    assert "--columns best_step: a table of groups has only config_k, runs" in err


def test_a_pivot_of_round_means_has_short_deviations(tmp_path):
    runs = [Run(f"r{n}", config={"a": n // 2, "b": 1}, summary={"test/mse": float(n * n)}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "--pivot", "a,b").out
    assert [line.split()[1] for line in out.splitlines()[3:5]] == ["0.5±0.707107", "6.5±3.53553"]


def test_missing_seeds_are_in_the_order_of_numbers(tmp_path):
    runs = [
        Run(f"r{k}{seed}", config={"k": k, "seed": seed}, summary={"test/mse": 1.0})
        for k in range(3)
        for seed in (2, 10, 1)
        if k < 2 or seed == 1
    ]
    assert [row["problem"] for row in document(write_runs(tmp_path, runs), "--varying")["grid"]] == ["lacks seed 2, 10"]


def test_a_diff_takes_no_text_for_a_number_that_json_would_not(tmp_path):
    texts = {"underlined": ("1_0", "10"), "blank": (" 1", "1"), "name": ("nan", "NaN"), "number": ("1e-3", "0.001")}
    texts["long"] = ("12345678901234567890", "12345678901234567891")
    runs = [Run("ab"[n], config={key: pair[n] for key, pair in texts.items()}) for n in range(2)]
    rows = document(write_runs(tmp_path, runs), "--diff", "a", "b")["diff"]
    assert {row["column"] for row in rows} - {"name"} == {f"config_{key}" for key in texts if key != "number"}


def test_a_diff_takes_the_name_that_it_suggests_for_a_run_without_an_entity(tmp_path):
    file = write_runs(tmp_path, [Run("a", "same"), Run("b", "same")])
    file = rewrite(file, entity=pl.lit(None, pl.String))
    assert "null/demo/a" in ask(file, "--diff", "same", "b").err
    assert answered(file, "--diff", "null/demo/a", "null/demo/b").code == 0


def test_best_per_keeps_groups_without_a_finite_value(tmp_path):
    runs = [
        Run(f"r{arch}{lr}", config={"arch": arch, "lr": lr}, summary={"test/mse": lr if arch == "good" else math.nan})
        for arch in ("good", "diverged")
        for lr in (0.1, 0.2)
    ]
    rows = document(write_runs(tmp_path, runs), "--best-per", "arch", "-g", "arch")["groups"]
    assert [(row["config_arch"], row["runs"], row["n"]) for row in rows] == [("good", 1, 1), ("diverged", 1, 0)]


def test_settings_that_follow_from_others_are_found_among_many_combinations():
    many = pl.DataFrame({"a": range(10_001)}).with_columns(b=pl.col("a").cast(pl.String), c=pl.col("a") // 2)
    assert analyze_runs.independent(many, ["a", "b", "c"]) == ["b"]
    table = pl.DataFrame({"a": [0.0, -0.0, 1.0, 1.0], "b": [0, 0, 1, 1], "c": [None, None, 2, 3]})
    assert analyze_runs.independent(table, ["a", "b", "c"]) == ["c"]
    assert analyze_runs.independent(table, []) == []


@pytest.mark.parametrize("column", ["history_rows", "runtime_s"])
def test_numbers_of_rows_and_run_times_are_not_compared_by_a_test(tmp_path, column):
    runs = [Run(f"r{n}", config={"k": n % 2}, history_rows=n) for n in range(6)]
    file = rewrite(write_runs(tmp_path, runs), runtime_s=pl.Series([60.0 * n for n in range(6)]))
    out = answered(file, "-m", column, "--ascending", "-g", "k").out
    assert "2 groups" in out
    assert "Welch" not in out


def test_the_default_metric_may_be_in_the_histories_only(tmp_path):
    file = write_runs(tmp_path, [Run(each) for each in "ab"])
    metrics = {"history_last_val_loss": pl.Series([2.0, 1.0]), "history_last_train_loss": pl.Series([1.0, 2.0])}
    answer = answered(rewrite(file, **metrics), "--value", "last", "--top", 1, "--json")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["b"]
    assert "val_loss (last of its history) (use --metric to choose another)" in answer.err


def test_a_default_metric_without_columns_of_its_history_says_how_to_get_them(tmp_path):
    file = write_runs(tmp_path, [Run(each, summary={"test/mse": 1.0}) for each in "ab"])
    answer = ask(file, "--value", "last", "--top", 1)
    assert (answer.code, "aggregate_runs.py --history adds such columns" in answer.err) == (2, True)


# --- numbers that look or count as others ---------------------------------------------------------------------

NEIGHBOURS = {"a": 0.3, "b": 0.1 + 0.2}


def test_groups_and_differences_of_neighbouring_numbers_do_not_look_alike(tmp_path):
    """Two rows were called 0.3000, and a setting that differs was 0.3000 in both runs; then each value was exact."""
    values = NEIGHBOURS | {"c": 0.1 * 6}
    runs = [Run(run, config={"lr": lr, "g": 1}, summary={"test/mse": 1.0}) for run, lr in values.items()]
    file = write_runs(tmp_path, runs)
    for flags in (["-g", "lr"], ["--pivot", "lr,g"]):
        firsts = [line.split()[0] for line in answered(file, *flags).out.splitlines() if line.strip()[:2] == "0."]
        assert firsts == ["0.3", "0.30000000000000004", "0.6000"]
    lines = answered(file, "--diff", "a", "b").out.splitlines()
    assert ["lr", "0.3", "0.30000000000000004"] in [line.split() for line in lines]


def test_neighbours_do_not_cost_the_digits_of_other_numbers():
    values = pl.Series([0.12341, 0.12342, *NEIGHBOURS.values()])
    assert analyze_runs.cells_of(values) == ["0.12341", "0.12342", "0.30000", "0.30000"]


def test_versions_that_are_equal_as_numbers_differ(tmp_path):
    texts = {"torch": ("2.1", "2.10"), "part": ("7", "007"), "lr": ("1e-3", "0.001"), "n": ("1.0", "1")}
    file = write_runs(
        tmp_path, [Run(each, config={k: pair[n] for k, pair in texts.items()}) for n, each in enumerate("ab")]
    )
    rows = document(file, "--diff", "a", "b")["diff"]
    assert {row["column"]: (row["a"], row["b"]) for row in rows if row["kind"] == "config"} == {
        f"config_{name}": texts[name] for name in ("part", "torch")
    }


def test_the_mean_of_equal_values_is_that_value(tmp_path):
    """By a rounded sum it was 0.10000000000000002 of three runs, and they came after the same value of one run."""
    runs = [Run(f"r{n}", config={"g": min(n, 3)}, summary={"test/mse": 0.1}) for n in range(6)]
    runs += [Run(f"z{n}", summary={"test/mse": zero}) for n, zero in enumerate((0.0, -0.0))]
    *rows, zero = document(write_runs(tmp_path, runs), "-g", "g", "--descending")["groups"]
    assert str(zero["mean"]) == "0.0"
    assert [(row["config_g"], row["n"], row["mean"]) for row in rows] == [
        (0, 1, 0.1),
        (1, 1, 0.1),
        (2, 1, 0.1),
        (3, 3, 0.1),
    ]


def test_steps_of_many_digits_are_shown_as_they_are(tmp_path):
    """Counts of tokens were 1.23456789e+10 in every row."""
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, [("a", 12_345_678_901 + n, float(n)) for n in range(3)])
    lines = answered(file, "--curves", "loss").out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["12345678901", "12345678902", "12345678903"]


def test_the_ranks_of_whole_numbers_beyond_the_exact_floats(tmp_path):
    """Beside a setting of floats they became floats first, all the same: the setting had no sign."""
    runs = [Run(f"r{n}", config={"lr": n / 10}, summary={"tokens": 2**60 + n}) for n in range(12)]
    (row,) = document(write_runs(tmp_path, runs), "--importance", "-m", "tokens", "--descending")["importance"]
    assert row["spearman"] == pytest.approx(1)


def test_a_sum_may_pass_64_bits(tmp_path):
    """It was refused: INT128 cannot be cast to INT64."""
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"flos": 2**62 + 1, "n": 2**53 + n}) for n in range(3)])
    query = "SELECT sum(flos) AS flos, sum(n) AS n, list(sum(n)) OVER () AS list FROM runs"
    assert document(file, "--sql", query)["sql"] == [{"flos": 3.0 * 2**62, "n": 3 * 2**53 + 3, "list": [3 * 2**53 + 3]}]


def test_a_p_value_just_below_the_limit_is_not_shown_as_the_limit(tmp_path):
    """`differ (p = 0.05)`, where p of 0.05 means noise."""
    values = {"a": (0.0, 1.0, 2.0), "b": (2.271, 3.271, 4.271)}
    runs = [Run(f"{g}{v}", config={"g": g}, summary={"test/mse": v}) for g, those in values.items() for v in those]
    p = scipy.stats.ttest_ind(*values.values(), equal_var=False).pvalue
    out = " ".join(answered(write_runs(tmp_path, runs), "-g", "g").out.split())
    assert f"the best two, a and b, differ (p = {p:.4g}, Welch's t-test)" in out
    assert f"{p:.2g}" == "0.05"
