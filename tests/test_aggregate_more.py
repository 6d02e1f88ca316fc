"""aggregate_runs.py on projects that nobody here designed: odd names, overlapping exports, files of every kind."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import aggregate_runs
import polars as pl
import pytest
from contract_files import START, Run, write_runs
from test_aggregate_runs import (
    SCRIPT,
    aggregated,
    export,
    foreign,
    in_a_folder_of_its_own,
    libraries,
    metadata,
    report,
    rewritten,
    run,
)

__all__ = ["in_a_folder_of_its_own", "libraries"]  # fixtures
MACHINE = ["host", "os", "python", "command", "gpu", "gpu_count"]


def write_history(file, rows, *, entity="team", project="demo", **metadata):
    """A history file of rows (run, step, {metric: value})."""
    names = sorted({name for _, _, values in rows for name in values})
    frame = {"run_id": [run_id for run_id, _, _ in rows], "entity": entity, "project": project}
    frame |= {"_step": [step for _, step, _ in rows]}
    frame |= {f"metric_{name}": [values.get(name) for _, _, values in rows] for name in names}
    pairs = {f"wandb_tools.{key}": text for key, text in metadata.items()}
    pl.DataFrame(frame, strict=False).write_parquet(file, metadata=pairs)


# ---- histories ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("metric", "step"),
    [("fid_score", 1), ("error_top5", 1), ("val/R2Score", 0), ("neg_mean_squared_error", 0), ("test_nll", 1)],
)
def test_the_direction_is_read_off_the_name_as_analyze_runs_does(metric, step):
    write_runs(Path("x"), [Run("a")])
    column = re.sub(r"\W", "_", metric)
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", 0, {column: 2.0, "acc": 10.0}), ("a", 1, {column: 1.0, "acc": 11.0})])
    rewritten(file, columns={f"metric_{column}": [metric], "metric_acc": ["acc"]})
    assert aggregated("x", "--history", "--at", metric)["history_at_acc"].to_list() == [10.0 + step]


def test_a_metric_that_a_file_of_histories_lacks_was_logged_no_times():
    """As if another run of the same file had it: a count does not depend on the neighbors."""
    for project, values in (("demo", {"loss": 1.0, "acc": 1.0}), ("other", {"loss": 1.0})):
        write_runs(Path("x"), [Run("a"), Run("b"), Run("c")], project=project)
        rows = [("a", 0, values), ("b", 0, {"loss": 2.0})]
        write_history(Path(f"x/team_{project}_history.parquet"), rows, project=project)
    frame = aggregated("x", "--history")
    assert frame["history_n_acc"].to_list() == [1, 0, None, 0, 0, None]  # c has no history
    assert frame["history_n_nonfinite_acc"].to_list() == [0, 0, None, 0, 0, None]
    assert frame["history_last_acc"].to_list() == [1.0, *[None] * 5]


def test_histories_belong_to_runs_whose_entity_is_null():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"acc": 1.0}), ("b", 0, {"acc": 2.0})])
    for file in Path("x").glob("*.parquet"):
        frame = pl.read_parquet(file).with_columns(entity=pl.lit(None, pl.String))
        frame.write_parquet(file, metadata=pl.read_parquet_metadata(file))
    assert aggregated("x", "--history").select("entity", "history_last_acc").rows() == [(None, 1.0), (None, 2.0)]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ('"test/mse" < 1', "a"),
        ("test_mse < 1 AND name <> 'test_mse'", "a"),
        ("metric_test_mse >= 1", "b"),
        ('"optim.lr" = 1', "a"),
        ("lr = 2 AND optim_lr = 2", "b"),
        ("loss = 5", "b"),  # the config before the metric
        ('"loss" = 5 AND "loss" <> 6', "b"),
    ],
)
def test_where_takes_the_names_of_wandb(condition, kept):
    runs = [
        Run(name, config={"optim": {"lr": n}, "lr": n, "loss": n + 3}, summary={"test/mse": n - 0.5, "loss": 7.0})
        for n, name in ((1, "a"), (2, "b"))
    ]
    write_runs(Path("x"), runs)
    assert aggregated("x", "--where", condition)["id"].to_list() == [kept]


def test_a_predicate_that_keeps_nothing_is_named_alone():
    write_runs(Path("x"), [Run("a"), Run("b")])
    _, err = run("x", "--where", "name = 'c'", code=1)
    assert err == "error: no run left: --where name = 'c' kept none of 2 runs\n"


def test_where_says_how_a_name_with_dots_is_written():
    write_runs(Path("x"), [Run("a", config={"optim": {"lr": 1}})])
    _, err = run("x", "--where", "optim.lr = 1", code=2)
    assert 'names ("optim.lr")' in err


def test_what_was_logged_at_other_steps_counts_with_its_last_value_before():
    write_runs(Path("x"), [Run("a"), Run("b"), Run("c")])
    rows = [("a", 0, {"acc": 0.1}), ("a", 1, {"loss": 2.0}), ("a", 2, {"acc": 0.2}), ("a", 3, {"loss": 1.0})]
    rows += [("a", 4, {"acc": 0.9, "late": 7}), ("a", 5, {"loss": 5.0}), ("b", 0, {"acc": 0.5})]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history", "--at", "loss")
    assert frame["history_at_acc"].to_list() == [0.2, None, None]
    assert frame["history_at_late"].to_list() == [None, None, None]
    _, err = run("x", "--history", "--at", "loss")
    assert "they were logged only after the best step, or loss was not logged" in err


@pytest.mark.parametrize("of_runs", [True, False])
def test_the_goal_of_a_metric_without_a_column_of_its_own_is_carried_on(of_runs):
    facts = {"metric_val_score": {"goal": "minimize", "summary": "min", "step_metric": None}}
    write_runs(Path("x"), [Run("a", summary={"val/score": {"min": 1.0}})], metrics=facts if of_runs else None)
    rows = [("a", 0, {"val_score": 5.0, "acc": 10}), ("a", 1, {"val_score": 1.0, "acc": 11})]
    more = {} if of_runs else {"metrics": json.dumps(facts)}
    paths = {"metric_val_score": ["val/score"], "metric_acc": ["acc"]}
    write_history(Path("x/team_demo_history.parquet"), rows, columns=json.dumps(paths), **more)
    out, err = run("x", "--history", "--at", "val/score")
    assert "(set by define_metric)" in err
    assert pl.read_parquet(out.strip())["history_at_acc"].to_list() == [11]
    stored = {"metric_val_score": {"goal": "minimize", "summary": "min"}}
    assert metadata(out.strip())["metrics"] == stored
    if of_runs:
        out, _ = run(out.strip(), "-o", "second.parquet")
        assert metadata("second.parquet")["metrics"] == stored


def test_histories_of_dropped_runs_are_neither_read_nor_reported():
    write_runs(Path("x"), [Run("a", config={"lr": 1}), Run("b", config={"lr": 2})])
    write_history(Path("x/team_demo_history.parquet"), [(r, s, {"loss": s}) for r in "ab" for s in range(5)])
    for where in ("config_lr > 1", "config_lr > 1 AND history_n_loss = 5"):
        read = report("x", "--history", "--where", where)["histories"][0]
        assert (read["rows"], read["runs_with"], read["runs_without"]) == (5, 1, 0)
    _, err = run("x", "--history", "--where", "config_lr > 1")
    assert "histories: 5 rows, 1 metric and 1 run in 1 file" in err


def test_histories_of_other_projects_rename_and_add_nothing():
    for project, metric in (("demo", "val/loss"), ("other", "val_loss")):
        source = json.dumps({"kind": "offline", "entity": "team", "project": project})
        file = write_runs(Path("x"), [Run(project, summary={metric: 1.0})], project=project)
        metadata = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
        pl.read_parquet(file).write_parquet(file, metadata=metadata | {"wandb_tools.source": source})
        rows = [(project, 0, {metric: 2.0, f"only_{project}": 1.0})]
        write_history(Path(f"x/team_{project}_history.parquet"), rows, project=project, source=source)
    frame = aggregated("x/team_demo_runs.parquet", "--history")
    assert frame.select("metric_val_loss", "history_last_val_loss").rows() == [(1.0, 2.0)]
    assert "history_last_only_demo" in frame.columns
    assert "history_last_only_other" not in frame.columns


def test_a_damaged_history_of_dropped_runs_costs_nothing():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("y"), [Run("b")], project="other")
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    write_history(Path("y/team_other_history.parquet"), [("b", 0, {"loss": 1.0})], project="other")
    content = bytearray(Path("y/team_other_history.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # the first page; the footer is sound
    Path("y/team_other_history.parquet").write_bytes(content)
    assert report("x", "y", "--history", "--where", "project = 'demo'")["histories"][0]["rows"] == 1


def test_overlapping_histories_count_each_run_once_by_the_fuller_one():
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"loss": 9.0 - step}) for step in range(6)]
    write_history(Path("x/a_history.parquet"), rows[:3])
    write_history(Path("x/b_history.parquet"), rows)
    frame = aggregated("x", "--history")
    assert frame.select("history_n_loss", "history_last_loss").row(0) == (6, 4.0)
    assert report("x", "--history")["histories"][0]["rows"] == 6


def test_rows_that_two_exports_put_into_one_history_file_count_once():
    write_runs(Path("x"), [Run("a"), Run("b")])
    rows = [("a", step, {"loss": 9.0 - step}) for step in range(4)]
    write_history(Path("x/team_demo_history.parquet"), [*rows[:2], *rows, ("b", 0, {"loss": 1.0})])
    frame = aggregated("x", "--history")
    assert frame["history_n_loss"].to_list() == [4, 1]
    assert frame["history_tail_loss"].to_list() == [6.0, 1.0]


def test_runs_without_history_are_told_from_exports_without_one():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_runs(Path("y"), [Run("c")], project="other")
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    _, err = run("x", "y", "--history")
    assert "without history: 2 runs (of these 1 without a file: export_runs.py --include-" in err


def test_a_run_id_is_text_in_every_place():
    """Not a column's name, not a pattern."""
    ids = ["_step", "metric_loss", "^.*$", "*", "run_id"]
    write_runs(Path("x"), [Run(each) for each in ids])
    rows = sorted((each, step, {"loss": step + n}) for n, each in enumerate(ids) for step in range(3))
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history")
    found = dict(frame.select("id", "history_max_loss").rows())
    assert found == {each: 2 + n for n, each in enumerate(ids)}


@pytest.mark.parametrize(("ids", "warned"), [(("one", "one"), False), (("one", "two"), True), (("one", None), False)])
def test_runs_and_histories_of_different_exports_are_warned_of(ids, warned):
    source = {"kind": "server", "entity": "team", "project": "demo"}
    file = write_runs(Path("x"), [Run("a")])
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pairs["wandb_tools.source"] = json.dumps(source)
    pl.read_parquet(file).write_parquet(file, metadata=pairs | {"wandb_tools.export_id": ids[0]})
    more = {"export_id": ids[1]} if ids[1] else {}
    write_history(Path("x/h.parquet"), [("a", 0, {"loss": 1.0})], source=json.dumps(source), **more)
    _, err = run("x", "--history", "-o", "first.parquet")
    assert ("runs and history of team/demo in x come from different exports" in err) == warned
    _, err = run("first.parquet", "--history", "-o", "second.parquet")
    assert ("runs and history of team/demo in x come from different exports" in err) == warned
    assert "killed" not in err  # the export may simply be newer than the merge


def test_a_metric_may_be_called_like_a_column_of_the_history():
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, dict.fromkeys(("id", "run_id", "entity", "step", "n"), step)) for step in range(3)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history", "--at", "id:max")
    assert frame.select("history_at_entity", "history_max_id", "history_last_run_id", "history_n_n").row(0) == (
        2,
        2,
        2,
        3,
    )


def test_histories_belong_to_runs_whose_id_is_null():
    file = write_runs(Path("x"), [Run("a"), Run("b")])
    rewritten(file, pl.read_parquet(file).with_columns(id=pl.Series([None, "b"])))
    rows = [(None, 0, {"loss": 2.0}), ("b", 0, {"loss": 3.0})]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history")
    assert frame.select("id", "history_min_loss").rows() == [(None, 2.0), ("b", 3.0)]


def test_the_best_value_may_be_a_decimal():
    write_runs(Path("x"), [Run("a")])
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", 0, {"loss": 1, "n": 0}), ("a", 1, {"loss": 2, "n": 1})])
    pl.read_parquet(file).with_columns(pl.col("metric_loss").cast(pl.Decimal(9, 2))).write_parquet(file)
    assert aggregated("x", "--history", "--at", "loss:max")["history_at_n"].to_list() == [1]


def test_of_a_damaged_history_no_run_is_taken(monkeypatch):
    """Also where the runs before the damage could be read: it is said that the file was left out."""
    write_runs(Path("x"), [Run("a"), Run("b")])
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", "0", {"loss": 2.0}), ("b", "none", {"loss": 3.0})])
    monkeypatch.setattr(aggregate_runs, "CELLS", 1)  # one run at a time
    out, err = run("x", "--history", code=3)
    assert f"error: {file} was left out: " in err
    assert pl.read_parquet(out.strip())["history_min_loss"].to_list() == [None, None]


def test_a_history_without_metadata_has_the_names_of_the_runs():
    """As another tool writes it."""
    write_runs(Path("x"), [Run("a", summary={"train/loss": 1.0})])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"train_loss": 2.0})])
    frame = aggregated("x", "--history", "--at", "train/loss")
    assert frame.select("metric_train_loss", "history_at_train_loss").row(0) == (1.0, 2.0)


# ---- inputs -----------------------------------------------------------------------
def test_links_that_form_a_loop_are_named():
    Path("loop.parquet").symlink_to("loop.parquet")
    _, err = run("loop.parquet", "-o", "loop.parquet", code=1)
    assert err.startswith("error: loop.parquet was left out: it cannot be read: ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_file_name_that_is_not_utf_8_costs_that_file_only():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("y"), [Run("b")]).rename(os.fsdecode(b"x/\xff_runs.parquet"))
    out, err = run("x", code=3)
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert err.startswith("error: x/\ufffd_runs.parquet was left out: it cannot be read: ")


def test_an_earlier_result_in_partitions_is_an_input_if_it_is_named():
    to_parts = ["--partition-by", "project", "-o", "parts"]
    run(write_runs(Path("x"), [Run("a")]), *to_parts)
    run("parts", write_runs(Path("x"), [Run("b")], project="other"), *to_parts)
    assert pl.read_parquet("parts/**/*.parquet")["id"].sort().to_list() == ["a", "b"]


def test_not_a_number_does_not_hide_a_value_that_the_column_cannot_hold():
    file = write_runs(Path("x"), [Run("a"), Run("b")])
    rewritten(file, pl.read_parquet(file).with_columns(last_step=pl.Series([math.nan, 7.5])))
    _, err = run("x", code=1)
    assert "its column last_step holds 7.5, which is not of the type Int64" in err
    rewritten(file, pl.read_parquet(file).with_columns(last_step=pl.Series([math.nan, 7.0])))
    assert aggregated("x")["last_step"].to_list() == [None, 7]


def test_the_tools_own_files_are_no_foreign_ones():
    write_runs(Path("x"), [Run("a")])
    keys = {"run_id": ["a"], "entity": ["team"], "project": ["demo"]}
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    pl.DataFrame(keys | {"_runtime": [1.0], "_timestamp": [1.0]}).write_parquet("x/team_demo_system.parquet")
    console = {"line": [0], "time": [START], "stream": ["stdout"], "text": ["hi"]}
    pl.DataFrame(keys | console).write_parquet("x/team_demo_console.parquet")
    table = {"row": [0], "id": ["t"], "name": ["n"], "state": ["s"], "_step": [1]}  # its columns look like runs'
    pl.DataFrame(keys | table).write_parquet("x/team_demo_table_eval.parquet")
    out, err = run("x")
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert "foreign" not in err
    assert "not merged: 1 console file, 1 history file, 1 system file, 1 table file (--history" in err
    kinds = {row["file"]: row["kind"] for row in report("x")["skipped"]}
    assert kinds["x/team_demo_console.parquet"] == "console"
    assert kinds["x/team_demo_table_eval.parquet"] == "table"
    _, err = run("x", "x/team_demo_table_eval.parquet", "--quiet", code=3)
    assert "error: x/team_demo_table_eval.parquet was left out: it holds no runs: it is a table file; " in err


def test_the_machines_columns_stand_in_the_contracts_order_and_may_be_absent():
    write_runs(Path("x"), [Run("a")])
    file = write_runs(Path("y"), [Run("b")], project="other")
    machine = {"host": "h", "os": "Linux", "python": "3.11", "command": "t.py", "gpu": "T4", "gpu_count": 2}
    frame = pl.read_parquet(file).with_columns(pl.lit(value).alias(name) for name, value in machine.items())
    rewritten(file, frame)
    found = aggregated("x", "y")
    start = found.columns.index("url") + 1
    assert found.columns[start : start + 8] == [*MACHINE, "exported_at", "source_file"]
    assert found.select(MACHINE).rows() == [(None,) * 6, tuple(machine.values())]
    assert found.schema["gpu_count"] == pl.Int64
    alone = aggregated("x")
    assert alone.select(MACHINE).dtypes == [*[pl.String] * 5, pl.Int64]


def test_many_notes_of_one_kind_are_folded():
    write_runs(Path("x"), [Run("a")])
    for number in range(9):
        Path(f"x/cut{number}.parquet").write_bytes(b"PAR1")
    _, err = run("x", "--quiet", code=3)
    lines = err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("error: x/cut") for line in lines[:5])
    assert lines[5] == "error: 4 more inputs were left out; --json lists all"
    assert len(report("x", code=3)["skipped"]) == 9
    for number in range(6, 9):
        Path(f"x/cut{number}.parquet").unlink()
    assert run("x", "--quiet", code=3)[1].count("error: x/cut") == 6  # a line for one more would take as much room


def test_many_derived_columns_and_rules_without_a_source_are_folded():
    write_runs(Path("x"), [Run("a", "one"), Run("b", "two")])
    rules = "replace = true\n"
    rules += "".join(f'[[rule]]\ncolumn = "c{n}"\npattern = "(o)"\n' for n in range(9))
    rules += "".join(f'[[rule]]\ncolumn = "d{n}"\npattern = "(o)"\nsource = "none{n}"\n' for n in range(9))
    Path("r.toml").write_text(rules)
    _, err = run("x", "--rules", "r.toml")
    assert sum(line.startswith("c") for line in err.splitlines()) == 5
    assert "4 more derived columns; --json lists all" in err
    assert "no input has the source column of r.toml: rule 10 (none0), r.toml: rule 11 (none1), " in err
    assert "r.toml: rule 14 (none4) and 4 more\n" in err
    assert "no match in any run for d0, d1, d2, d3, d4, d5, d6, d7, d8\n" in err


# ---- one schema ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtypes", "value", "met"),
    [
        ((pl.String, pl.Int64), 1, pl.Int64),
        ((pl.Float64, pl.String), "a", pl.String),
        ((pl.Boolean, pl.Int64), 1, pl.Int64),
        ((pl.Int64, pl.Boolean), True, pl.Boolean),
    ],
)
def test_a_column_without_values_disagrees_with_nothing(dtypes, value, met):
    write_runs(Path("x/1"), [Run("a", config={"v": None})], dtypes={"config_v": dtypes[0]})
    write_runs(Path("x/2"), [Run("b", config={"v": value})], dtypes={"config_v": dtypes[1]})
    frame = aggregated("x")
    assert (frame["config_v"].dtype, frame["config_v"].to_list()) == (met, [None, value])
    assert report("x")["conflicts"] == []


def test_texts_of_numbers_beside_booleans_are_a_metric():
    for folder, value in (("x/1", "0.5"), ("x/2", True)):
        file = write_runs(Path(folder), [Run(folder[-1])])
        pl.read_parquet(file).with_columns(metric_x=pl.lit(value)).write_parquet(file)
    frame = aggregated("x")
    assert (frame["metric_x"].dtype, frame["metric_x"].to_list()) == (pl.Float64, [0.5, 1.0])


def test_integers_beside_floats_are_no_conflict():
    write_runs(Path("x/1"), [Run("a", config={"lr": 1}, summary={"m": 2.5})])
    write_runs(Path("x/2"), [Run("b", config={"lr": 0.5}, summary={"m": 2})])
    assert aggregated("x")["config_lr"].to_list() == [1.0, 0.5]
    assert report("x")["conflicts"] == []
    _, err = run("x")
    assert "in the result it is" not in err


def test_names_of_ours_may_be_names_of_users():
    columns = {name: [1, 2] for name in ("__row", "__file", "__position", "__new", "__has_history", "__best")}
    columns |= {"stage": ["s1", "s2"], "stage__own": ["o1", "o2"], "Stage": ["S1", "S2"], "ID": [8, 9]}
    columns |= {"k": [5, 6], "config_k": [7, 8], "source_file": ["f", "g"]}
    foreign(columns)
    frame = aggregated("x", "--keep", "all").sort("id")
    assert len(frame) == 2
    held = {
        tuple(values) for values in frame.to_dict(as_series=False).values() if None not in values and values != [[], []]
    }
    for values in columns.values():
        assert tuple(values) in held
    assert len({name.lower() for name in frame.columns}) == len(frame.columns)
    assert frame["k"].to_list() == [3, None]


def test_columns_of_other_tools_that_differ_only_in_case_stay_apart():
    for number, column in enumerate(["Team", "team", "Stage", "stage", "team", "Config_lr"]):
        file = write_runs(Path(f"x/{number}"), [Run(str(number), config={"lr": number})])
        rewritten(file, pl.read_parquet(file).with_columns(pl.lit(number).alias(column)))
    frame = aggregated("x").sort("id")
    assert len({name.lower() for name in frame.columns}) == len(frame.columns)
    rows = {"Team": [0], "team__own": [1, 4], "Stage__own": [2], "stage__own__own": [3], "Config_lr__own": [5]}
    assert {column: frame[column].drop_nulls().to_list() for column in rows} == rows
    assert frame["config_lr"].to_list() == [*range(6)]


@pytest.mark.parametrize("histories", [[], ["--history"]])
def test_statistics_of_an_earlier_result_go_with_their_metric(histories):
    """Its histories are gone, and metric_train_loss now means train_loss: that had the statistics of train/loss."""
    for folder, name in (("old", "train/loss"), ("new", "train_loss")):
        write_runs(Path(folder), [Run(folder, summary={name: 1.0})], project=folder)
        file = Path(f"{folder}/team_{folder}_history.parquet")
        write_history(file, [(folder, 0, {"train_loss": 3.0}), (folder, 1, {"train_loss": 2.0})], project=folder)
        rewritten(file, columns={"metric_train_loss": [name]})
    aggregated("old", "--history", "-o", "earlier.parquet")
    Path("old/team_old_history.parquet").unlink()
    frame = aggregated("earlier.parquet", "new", *histories).sort("id", descending=True)
    assert frame.select("history_min_train_loss__d5308e80", "history_min_step_train_loss__d5308e80").rows() == [
        (2.0, 1),
        (None, None),
    ]
    of_new = [[None, 2.0]] if histories else []
    assert [column.to_list() for column in frame if column.name == "history_min_train_loss"] == of_new


def test_a_derived_column_may_be_called_count():
    Path("r.toml").write_text('[[rule]]\ncolumn = "count"\npattern = "_c([0-9])"\n')
    write_runs(Path("x"), [Run("a", "run_c3")])
    fit = next(fit for fit in report("x", "--rules", "r.toml")["derived"] if fit["column"] == "count")
    assert (fit["commonest"], fit["commonest_runs"]) == (["3"], [1])


@pytest.mark.parametrize(("name", "value"), [("a_lr1e999", None), ("a_lr1e-3", 1e-3), ("a_wd1_lr9e400", None)])
def test_a_number_that_no_float_holds_is_no_value(name, value):
    write_runs(Path("x"), [Run("a", name)])
    assert aggregated("x")["lr_parsed"].to_list() == [value]


@pytest.mark.parametrize(("dtype", "text"), [(pl.Date, "2026-01-01"), (pl.Categorical, "big"), (pl.Time, "10:00:00")])
def test_text_of_other_dtypes_beside_numbers_is_text(dtype, text):
    write_runs(Path("x/1"), [Run("a", config={"v": 7})])
    file = write_runs(Path("x/2"), [Run("b", config={"v": text})])
    value = pl.Series([text]).str.strptime(dtype) if dtype.is_temporal() else pl.Series([text], dtype=dtype)
    rewritten(file, pl.read_parquet(file).with_columns(config_v=value))
    assert aggregated("x")["config_v"].to_list() == ["7", text]


# ---- filters ------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "met"), [("2", 2), (None, None)])
def test_categories_beside_numbers_are_numbers_if_each_is_one(text, met):
    write_runs(Path("x/1"), [Run("a", config={"v": 7})])
    file = write_runs(Path("x/2"), [Run("b", config={"v": text})])
    rewritten(file, pl.read_parquet(file).with_columns(pl.col("config_v").cast(pl.String).cast(pl.Categorical)))
    assert aggregated("x")["config_v"].to_list() == [7, met]


def test_an_empty_derived_column_gives_way_to_text_too():
    write_runs(Path("x"), [Run("a", config={"k": "large"}), Run("b", config={"k": "small"})])
    assert aggregated("x", "--where", "k = 'large'")["id"].to_list() == ["a"]
    write_runs(Path("x"), [Run("a", "n_k4", config={"k": "large"})])
    assert "--where k = 'large' cannot be evaluated: " in run("x", "--where", "k = 'large'", code=2)[1]


def test_an_empty_derived_column_does_not_hide_the_config_of_its_name():
    write_runs(Path("x"), [Run("a", config={"k": 16}), Run("b", config={"k": 8})])
    out, err = run("x", "--where", "k = 16")
    frame = pl.read_parquet(out.strip())
    assert (frame["id"].to_list(), frame["k"].to_list()) == (["a"], [None])
    assert "k is null in all runs, so --where uses config_k instead" in err
    write_runs(Path("x"), [Run("a", "n_k4", config={"k": 16}), Run("b", config={"k": 8})])
    out, err = run("x", "--where", "k = 4")
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert "--where uses the derived column k; write config_k to use the config's value" in err


@pytest.mark.parametrize(
    "where",
    [
        "id IN (SELECT id FROM read_csv('secret.csv'))",
        "EXISTS (FROM read_csv('secret.csv'))",
        "id IN (with x AS (SELECT 1) select * FROM x)",
        "name = 'x' OR (SELECT count(*) FROM read_parquet('x/team_demo_runs.parquet')) > 0",
    ],
)
def test_a_predicate_reads_no_file(where):
    write_runs(Path("x"), [Run("a")])
    Path("secret.csv").write_text("id\na\n")
    out, err = run("x", "--where", where, code=2)
    assert out == ""
    assert "no query, comment, $ or ` is allowed" in err
    assert run("x", "--where", "name != 'select' AND EXTRACT(YEAR FROM created_at) = 2026")[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--api-key=SECRET"], "--api-key"),
        (["--api-key", "SECRET"], "--api-key"),
        (["x", "--stat=SECRET"], "--stat; did you mean --state"),
    ],
)
def test_an_unknown_argument_is_named_without_its_value(arguments, named):
    out, err = run(*arguments, code=2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert "SECRET" not in err
    assert err.startswith(f"error: unknown argument {named}")


# ---- files ----------------------------------------------------------------------------
def test_what_a_killed_merge_left_behind_is_removed_by_the_next():
    write_runs(Path("x"), [Run("a")])
    code = "import sys, time, aggregate_runs as a\n"
    code += "write = a.write\n"
    code += "a.write = lambda *w, **k: (write(*w, **k), print('written', flush=True), time.sleep(99))\n"
    code += "a.main(sys.argv[1:])"
    for flags in ([], ["--partition-by", "project", "-o", "parts"]):
        environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
        command = [sys.executable, "-c", code, "x", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
            assert process.stdout.readline() == b"written\n"
            process.send_signal(signal.SIGKILL)
        folder = Path("parts" if flags else "analysis/unified.parquet").parent
        assert list(folder.glob(".*.partial"))
        run("x", *flags)
        assert not list(folder.glob(".*.partial"))


def test_what_a_killed_merge_of_the_same_process_id_left_behind_does_not_stop_the_next():
    """Containers give each merge the same process id."""
    write_runs(Path("x"), [Run("a")])
    Path(f"analysis/.unified.parquet.{os.getpid()}.partial").mkdir(parents=True)
    run("x")
    assert [path.name for path in Path("analysis").iterdir()] == ["unified.parquet"]


def test_what_a_running_merge_writes_and_files_of_others_stay():
    write_runs(Path("x"), [Run("a")])
    Path("analysis").mkdir()
    names = [
        f".unified.parquet.{os.getppid()}.partial",
        ".other.parquet.999999999.partial",
        ".unified.parquet.x.partial",
    ]
    for name in names:
        Path("analysis", name).touch()
    run("x", start=True)
    assert sorted(path.name for path in Path("analysis").iterdir()) == sorted([*names, "unified.parquet"])


def test_a_folder_that_is_called_like_a_parquet_file_is_not_replaced():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("data.parquet"), [Run("b")])
    _, err = run("x", "-o", "data.parquet", code=2)
    assert "-o data.parquet holds other data, which would be lost" in err
    assert len(list(Path("data.parquet").iterdir())) == 1


@pytest.mark.parametrize("columns", [["id", "name", "state"], ["x"]])
def test_a_partitioned_folder_that_is_no_earlier_result_is_not_replaced(columns):
    write_runs(Path("x"), [Run("a")])
    file = Path("data/year=2026/part.parquet")
    file.parent.mkdir(parents=True)
    pl.DataFrame({column: ["b"] for column in columns}).write_parquet(file)
    _, err = run("x", "--partition-by", "project", "-o", "data", code=2)
    assert err == "error: -o data holds other data, which would be lost; choose another name\n"
    assert file.exists()


# ---- rows -----------------------------------------------------------------------------
def test_many_files_that_interleave_filtered_and_unsorted():
    """Against a plain sort of all rows."""
    for number in range(5):
        runs = [
            Run(f"r{n:03d}", f"n_k{n % 7}", created_at=START + timedelta(hours=n // 3)) for n in range(number, 150, 5)
        ]
        file = write_runs(Path(f"x/{number}"), runs, project=f"p{number % 2}")
        if number == 3:
            rewritten(file, pl.read_parquet(file).reverse())
    export("x/again", [Run("r001"), Run("r150")], days=1, project="p1")
    frame = aggregated("x", "--where", "k < 5")
    order = ["entity", "project", "created_at", "id"]
    assert frame.select(order).rows() == frame.select(order).sort(order).rows()
    expected = {f"r{n:03d}" for n in range(150) if n % 7 < 5 and n != 1}
    assert set(frame["id"]) == expected
    assert all(re.fullmatch(r"n_k\d", name) and int(name[-1]) == k for name, k in frame.select("name", "k").rows())


def test_files_of_many_columns_are_written_in_blocks_with_the_same_result(monkeypatch):
    for n in range(4):
        runs = [Run(f"r{n}{i}", config={f"c{n}": i}, summary={f"m{n}": i / 3, "loss": i}) for i in range(5)]
        write_runs(Path(f"x/{n}"), runs, project=f"p{n}")
    whole = aggregated("x")
    monkeypatch.setattr(aggregate_runs, "FILES_AT_ONCE", 2)
    monkeypatch.setattr(aggregate_runs, "CELLS", 600)
    assert aggregated("x").equals(whole)
    assert (whole.height, whole["metric_m3"].null_count()) == (20, 15)


def test_not_a_number_never_stands_for_the_best():
    write_runs(Path("x"), [Run("a")])
    values = [math.nan, -math.inf, 2.0, math.inf, 1.0, math.nan]
    write_history(Path("x/team_demo_history.parquet"), [("a", s, {"loss": v, "n": s}) for s, v in enumerate(values)])
    frame = aggregated("x", "--history", "--at", "loss")
    columns = ["min_loss", "min_step_loss", "max_loss", "max_step_loss", "n_loss", "n_nonfinite_loss", "at_n"]
    assert frame.select(f"history_{name}" for name in columns).row(0) == (1.0, 4, 2.0, 2, 2, 4, 4)


@pytest.mark.parametrize("values", [(0.0, -0.0), (-0.0, 0.0), (-0.0, math.nan, 0.0)])
def test_of_zeros_of_either_sign_the_first_is_the_best(values):
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"loss": value, "n": step}) for step, value in enumerate(values)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    for goal in ("min", "max"):
        frame = aggregated("x", "--history", "--at", f"loss:{goal}")
        assert frame.select("history_min_step_loss", "history_max_step_loss", "history_at_n").row(0) == (0, 0, 0)


def test_whole_numbers_that_one_float_stands_for_are_compared_as_they_are():
    """The best of times in nanoseconds was the first of the same 256 ns."""
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"ns": 1_700_000_000_000_000_000 + step, "n": step}) for step in range(3)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    assert aggregated("x", "--history", "--at", "ns:max")["history_at_n"].to_list() == [2]


def test_odd_facts_about_the_exports_of_an_earlier_result_are_no_error():
    file = write_runs(Path("x"), [Run("a")])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    pairs = {f"wandb_tools.{key}": json.dumps(value) for key, value in metadata(file).items()}
    sources = [{"file": 1, "export_id": ["x"]}, {"file": "a\0b/c", "export_id": {}, "entity": "\ud800"}, 7]
    sources += [{"file": "\ud800/c", "kind": "offline"}, {"file": "x", "n": 0.5}]
    text = json.dumps({"sources": sources}).replace("0.5", "1e999")  # JSON for an infinity
    pl.read_parquet(file).write_parquet(file, metadata=pairs | {"wandb_tools.source": text})
    assert aggregated("x", "--history")["id"].to_list() == ["a"]
