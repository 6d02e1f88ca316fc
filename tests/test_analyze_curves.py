"""--curves: which metric and axis, points and ends, groups, smoothing, the best so far."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import analyze_runs
import polars as pl
import pytest
from analyze import answered, ask, document, rewrite, steps, write_epochs, write_history, write_metrics
from contract_files import Run, write_rows, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st

# --- values ---------------------------------------------------------------------------------------------------


def diverged_at(rows: list[tuple[int, float]]) -> float:
    """The x from which all values are NaN, infinite, or above the first and over a thousand times the lowest before."""
    found, lowest, good = math.inf, math.inf, []
    first = next((value for _, value in rows if math.isfinite(value)), math.inf)
    for _, value in rows:
        lowest = min(lowest, value) if math.isfinite(value) else lowest
        good.append(math.isfinite(value) and not (lowest > 0 and value > max(first, 1000 * lowest)))
    for (x, _), is_good in zip(reversed(rows), reversed(good), strict=True):
        if is_good:
            break
        found = x
    return found


def plain_curve(rows: list[tuple[int, float]], grid: list[float], better=None) -> dict[float, float]:
    """The last value, or the best so far, at each point between a run's first and last x; NaN where it has diverged."""
    found = {}
    for x in grid:
        if rows and rows[0][0] <= x <= rows[-1][0]:
            values = [value for step, value in rows if step <= x]
            usable = [value for value in values if not math.isnan(value)]
            if better is None:
                found[x] = values[-1] if x < diverged_at(rows) else math.nan
            elif usable:
                found[x] = better(usable)
    return found


loss = st.floats(-100, 100, width=32) | st.just(math.nan)
logs = st.dictionaries(st.integers(0, 40), loss, min_size=1, max_size=12)


@given(st.lists(logs, min_size=1, max_size=4), st.booleans())
@settings(max_examples=40)
def test_curves_are_what_plain_python_computes(histories, best_so_far):
    with TemporaryDirectory() as folder:
        place = Path(folder)
        file = write_runs(place, [Run(f"r{n}", config={"g": "x"}) for n in range(len(histories))])
        rows = [(f"r{n}", step, step / 2, value) for n, log in enumerate(histories) for step, value in log.items()]
        write_epochs(place, rows)
        flags = ("--best-so-far", "--ascending") if best_so_far else ()
        done = document(file, "--curves", "loss", "--group-by", "g", "--points", 100, *flags)
    grid = sorted({step for log in histories for step in log})
    expected = [plain_curve(sorted(log.items()), grid, min if best_so_far else None) for log in histories]
    found = {row["x"]: row for row in done["curves"]}
    for x in grid:
        values = [curve[x] for curve in expected if x in curve]
        usable = [value for value in values if math.isfinite(value)]
        if not values:
            assert x not in found
            continue
        assert (found[x]["n"], found[x]["n_nonfinite"]) == (len(usable), len(values) - len(usable))
        if usable:
            assert found[x]["mean"] == pytest.approx(statistics.fmean(usable), abs=1e-4)
        assert found[x]["std"] == (pytest.approx(statistics.stdev(usable), abs=1e-3) if len(usable) > 1 else None)


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


def test_curves_of_unequal_length_are_not_extrapolated(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"g": "x"}), Run("b", config={"g": "x"})])
    write_epochs(tmp_path, [("a", s, s, 1.0) for s in range(10)] + [("b", s, s, 3.0) for s in range(5)])
    rows = {row["x"]: row for row in document(file, "--curves", "loss", "--group-by", "g")["curves"]}
    assert (rows[4]["n"], rows[4]["mean"], rows[5]["n"], rows[5]["mean"]) == (2, 2.0, 1, 1.0)
    out = " ".join(answered(file, "--curves", "loss", "--group-by", "g").out.split())
    assert "the mean of the runs that have one there, their number in brackets; a curve ends with its last run" in out


def test_runs_without_a_curve_are_counted(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_epochs(tmp_path, [("a", 0, 0.0, 1.0)])
    assert "left out, because no history has loss of them: 1 run\n" in answered(file, "--curves", "loss").err
    assert "left out" not in answered(file, "--curves", "loss", "--filter", "a").err


def test_infinity_is_never_the_best_so_far(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [3.0, -math.inf, 2.0, math.nan, 5.0]))
    rows = document(file, "--curves", "loss", "--best-so-far")["curves"]
    assert [row["value"] for row in rows] == [3, 3, 2, 2, 2]


# --- which metric ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test.mse", "metric_test_mse", "test_mse"])
def test_curves_have_the_runs_of_every_file_that_has_the_metric(tmp_path, name):
    """Where a run's summary does not nest a metric, its path in the history is the dotted name."""
    for project, path in {"a": ["test", "mse"], "b": ["test.mse"]}.items():
        write_runs(tmp_path, [Run(project)], project=project)
        columns = {"run_id": [project] * 3, "_step": [0, 1, 2], "metric_test_mse": [3.0, 2.0, 1.0]}
        history = write_rows(tmp_path, "history", columns, project=project)
        metadata = {"wandb_tools.columns": json.dumps({"metric_test_mse": path})}
        pl.read_parquet(history).write_parquet(history, metadata=metadata)
    assert {row["id"] for row in document(tmp_path, "--curves", name)["curves"]} == {"a", "b"}


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


def test_a_column_means_the_metric_of_the_first_file_in_all_files(tmp_path):
    """Runs that have it in another column were left out, and said to lack it."""
    for project, paths in (("aa", SLASH), ("zz", BOTH)):
        write_runs(tmp_path, [Run(project)], project=project)
        columns = {"run_id": [project], "_step": [0]}
        columns |= {column: [1.0 if path == ["train/loss"] else 7.0] for column, path in paths.items()}
        history = write_rows(tmp_path, "history", columns, project=project)
        pl.read_parquet(history).write_parquet(history, metadata={"wandb_tools.columns": json.dumps(paths)})
    rows = document(tmp_path, "--curves", "metric_train_loss")["curves"]
    assert {row["id"]: row["value"] for row in rows} == {"aa": 1.0, "zz": 1.0}


def test_curves_of_a_history_without_paths_go_by_the_names_of_the_runs(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train/loss": 1.0})])
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_train_loss": [1.0]})
    for name in ("train/loss", "train_loss", "metric_train_loss"):
        assert len(document(file, "--curves", name)["curves"]) == 1, name


# --- the axis -------------------------------------------------------------------------------------------------


def test_curves_per_run_on_another_axis(tmp_path):
    file = write_runs(tmp_path, [Run("a", "first"), Run("b", "second")])
    write_epochs(tmp_path, [("a", s, s // 2, s / 10) for s in range(6)] + [("b", s, s, -s) for s in range(3)])
    rows = document(file, "--curves", "loss", "--x", "epoch")["curves"]
    curve = {row["x"]: row["value"] for row in rows if row["id"] == "a"}
    assert curve == {0: 0.1, 1: 0.3, 2: 0.5}  # of rows with one x the last one written
    assert [row["name"] for row in rows[:1]] == ["second"]  # the lower last value first
    for none in ("nothing", ""):  # a variable that is not set does not mean the default
        done = ask(file, "--curves", "loss", "--x", none)
        assert (done.code, "no history has it" in done.err) == (2, True)
    done = ask(file, "--curves", "los")
    assert (done.code, "did you mean loss" in done.err) == (2, True)


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


def test_curves_follow_an_axis_that_goes_back(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_epochs(tmp_path, [("a", 0, 2.0, 5.0), ("a", 1, 1.0, 7.0), ("a", 2, 3.0, 4.0), ("a", 3, 1.0, 6.0)])
    rows = document(file, "--curves", "loss", "--x", "epoch")["curves"]
    assert [(row["x"], row["value"]) for row in rows] == [(1.0, 6.0), (2.0, 5.0), (3.0, 4.0)]


def test_the_step_metric_of_define_metric_is_the_axis(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    history = write_epochs(tmp_path, [("a", s, s / 2, s / 10) for s in range(6)])
    facts = json.dumps({"metric_loss": {"goal": None, "summary": None, "step_metric": "epoch"}})
    paths = json.dumps({"metric_loss": ["loss"], "metric_epoch": ["epoch"]})
    metadata = {"wandb_tools.metrics": facts, "wandb_tools.columns": paths}
    pl.read_parquet(history).write_parquet(history, metadata=metadata)
    rows = document(file, "--curves", "loss", "--descending")["curves"]
    assert [(row["x"], row["value"]) for row in rows][:3] == [(0.0, 0.0), (0.5, 0.1), (1.0, 0.2)]
    assert "loss over epoch" in answered(file, "--curves", "loss").out
    assert "loss over step" in answered(file, "--curves", "loss", "--x", "step").out
    rows = pl.read_parquet(history)  # as of a loop of one's own beside HuggingFace's Trainer, which defines it for all
    epoch = pl.when(pl.col("_step") % 3 == 0).then("metric_epoch").alias("metric_epoch")
    rows.with_columns(epoch).write_parquet(history, metadata=metadata)
    answer = answered(file, "--curves", "loss")
    assert answer.err == "most runs logged loss without its step metric: over step; or use --x epoch\n"
    assert "loss over step" in answer.out
    assert len(document(file, "--curves", "loss", "--json")["curves"]) == 6
    assert len(document(file, "--curves", "loss", "--x", "epoch", "--json")["curves"]) == 2


@pytest.mark.parametrize("name", ["step", "time", "runtime", "epoch"])
def test_a_step_metric_may_be_called_like_a_clock(tmp_path, name):
    file = write_runs(tmp_path, [Run("a")])
    rows = {"run_id": ["a", "a"], "_step": [0, 1], "loss": [2.0, 1.0], "_timestamp": [5.0, 6.0]}
    write_metrics(tmp_path, rows | {name: [10.0, 20.0]}, metric_loss={"step_metric": name})
    assert [row["x"] for row in document(file, "--curves", "loss")["curves"]] == [10.0, 20.0]
    assert answered(file, "--curves", "loss").out.startswith(f"loss over {name}: 1 run\n")
    write_metrics(tmp_path, rows, metric_loss={"step_metric": name})  # --history-keys left it out
    assert [row["x"] for row in document(file, "--curves", "loss")["curves"]] == [0.0, 1.0]


def test_the_axis_is_a_metric_of_one_name_in_all_files(tmp_path):
    """One file calls another metric metric_epoch: the step metric is the one of W&B's name, which most runs lack."""
    for project, path in {"a": ["epoch"], "b": ["other"], "c": ["other"]}.items():
        write_runs(tmp_path, [Run(project)], project=project)
        columns = {"run_id": [project] * 2, "_step": [0, 1], "metric_loss": [3.0, 2.0], "metric_epoch": [10, 20]}
        history = write_rows(tmp_path, "history", columns, project=project)
        paths = json.dumps({"metric_loss": ["loss"], "metric_epoch": path})
        facts = json.dumps({"metric_loss": {"step_metric": "epoch"}} if project == "a" else {})
        metadata = {"wandb_tools.metrics": facts, "wandb_tools.columns": paths}
        pl.read_parquet(history).write_parquet(history, metadata=metadata)
    answer = answered(tmp_path, "--curves", "loss")
    assert "most runs logged loss without its step metric: over step; or use --x epoch\n" in answer.err
    assert {row["id"] for row in document(tmp_path, "--curves", "loss")["curves"]} == {"a", "b", "c"}
    assert {row["id"] for row in document(tmp_path, "--curves", "loss", "--x", "epoch")["curves"]} == {"a"}


def test_the_axis_depends_on_the_runs_that_count_alone(tmp_path):
    file = write_runs(tmp_path, [Run("a"), *(Run(f"old{n}", state="crashed") for n in range(3))])
    without = [(f"old{n}", step, None, 1.0) for n in range(3) for step in range(4)]
    history = write_epochs(tmp_path, [("a", step, step / 2, step / 10) for step in range(4)] + without)
    facts = json.dumps({"metric_loss": {"goal": None, "summary": None, "step_metric": "epoch"}})
    paths = json.dumps({"metric_loss": ["loss"], "metric_epoch": ["epoch"]})
    metadata = {"wandb_tools.metrics": facts, "wandb_tools.columns": paths}
    pl.read_parquet(history).write_parquet(history, metadata=metadata)
    assert "loss over epoch" in answered(file, "--curves", "loss").out
    answer = answered(file, "--curves", "loss", "--state", "all")
    assert "loss over step" in answer.out
    assert "most runs logged loss without its step metric" in answer.err


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


def test_times_are_times(tmp_path):
    """In tables, in JSON and on the axis of a picture, in UTC."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_epochs(tmp_path, [("a", s, s, float(s)) for s in range(4)])
    seconds = datetime(2026, 11, 24, 6, 6, tzinfo=UTC).timestamp()
    pl.read_parquet(history).with_columns(_timestamp=seconds + 3600.0 * pl.col("_step")).write_parquet(history)
    question = (file, "--curves", "loss", "--x", "time")
    assert "2026-11-24 06:06  " in answered(*question).out
    assert document(*question)["curves"][1]["x"] == "2026-11-24T07:06:00Z"
    answered(*question, "-o", tmp_path / "x.svg")
    assert ">2026-11-24 07:00</text>" in (tmp_path / "x.svg").read_text("utf-8")


def test_times_that_are_none_are_left_out(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    times = [1.7e9, 1.7e12, 1e300, -1e300, 1.7e12]
    write_metrics(tmp_path, {"run_id": [*"aaaab"], "_step": [*range(5)], "loss": [1.0] * 5, "_timestamp": times})
    rows = document(file, "--curves", "loss", "--x", "time")["curves"]
    assert [(row["id"], row["x"]) for row in rows] == [("a", "2023-11-14T22:13:20Z")]
    assert "did not log time with it: 1 run" in answered(file, "--curves", "loss", "--x", "time").err
    answer = ask(file, "--curves", "loss", "--x", "time", "--where", "id = 'b'")
    assert (answer.code, answer.out) == (1, "")
    assert "no history has time of these runs" in answer.err


def test_steps_of_many_digits_are_shown_as_they_are(tmp_path):
    """Counts of tokens were 1.23456789e+10 in every row."""
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, [("a", 12_345_678_901 + n, float(n)) for n in range(3)])
    lines = answered(file, "--curves", "loss").out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["12345678901", "12345678902", "12345678903"]


def test_an_axis_of_fractions_has_the_digits_of_a_table(tmp_path):
    """Run times had ten digits; whole numbers keep all of theirs."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, [("a", 1_234_567 + n, float(n)) for n in range(3)])
    rewrite(history, _runtime=pl.Series([2.204588413, 20.07492947, 38.9276561]))
    for axis, texts in {"runtime": ["2.20", "20.07", "38.93"], "step": ["1234567", "1234568", "1234569"]}.items():
        lines = answered(file, "--curves", "loss", "--x", axis).out.splitlines()
        assert [line.split()[0] for line in lines[-3:]] == texts


# --- which curves and points are shown ------------------------------------------------------------------------


def test_which_curves_are_shown_is_said_as_it_is(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}") for n in range(9)])
    write_epochs(tmp_path, [(f"r{n}", 0, float(n), float(n)) for n in range(9)])
    assert "the 8 with the lowest last value are shown; 1 more: " in answered(file, "--curves", "epoch").out
    assert "the 8 with the best last value are shown; 1 more: " in answered(file, "--curves", "loss").out


def test_curves_that_do_not_fit_leave_no_empty_rows(tmp_path):
    names = [f"{letter * 30}" for letter in "abcdefgh"]
    file = write_runs(tmp_path, [Run(name) for name in names])
    rows = [(name, step, 1.0 + n, 0.0) for n, name in enumerate(names) for step in range(10 * n, 10 * n + 2)]
    write_epochs(tmp_path, rows)
    lines = answered(file, "--curves", "loss").out.splitlines()
    body = lines[next(n for n, line in enumerate(lines) if line.startswith("──")) + 1 :]
    points = [line.split() for line in body if line.strip()[:1].isdigit()]
    assert 0 < len(points) < 16
    assert min(map(len, points)) == 2


def test_curves_are_in_the_order_of_what_most_of_their_runs_reach(tmp_path):
    """One long run put its group first, whatever the others did."""
    runs = {"long": "x", "x1": "x", "x2": "x", "y1": "y", "y2": "y", "nan": "diverged"}
    file = write_runs(tmp_path, [Run(name, config={"g": g}) for name, g in runs.items()])
    rows = [(name, step, 1.0 if g == "y" else 2.0) for name, g in runs.items() for step in (0, 1)] + [("long", 2, 0.0)]
    rows += [("nan", 0, 0.5), ("nan", 1, math.nan)]
    columns = zip(*rows, strict=True)
    write_rows(tmp_path, "history", dict(zip(("run_id", "_step", "metric_loss"), map(list, columns), strict=True)))
    assert answered(file, "--curves", "loss", "-g", "g").out.splitlines()[1].split() == ["step", "y", "x", "diverged"]


def test_many_points_are_thinned_to_steps_that_were_logged(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_epochs(tmp_path, [("a", 3 * s, s, float(s)) for s in range(1000)])
    rows = document(file, "--curves", "loss", "--points", 7)["curves"]
    assert len(rows) == 7
    assert all(row["x"] == 3 * row["value"] for row in rows)


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


def test_the_ends_of_many_groups_are_no_points_of_all(tmp_path):
    names = [f"r{n:02d}" for n in range(30)]
    file = write_runs(tmp_path, [Run(name, config={"g": name}) for name in names])
    steps = {"run_id": [name for name in names for _ in (0, 1)], "_step": [s for n in range(30) for s in (0, n + 100)]}
    write_rows(tmp_path, "history", steps | {"metric_loss": [1.0] * 60})
    assert len(document(file, "--curves", "loss", "-g", "g", "--points", 2)["curves"]) == 60


def test_the_points_of_curves_are_those_of_the_curves_that_are_shown(tmp_path):
    """The best runs were short, and showed their first and last step only."""
    short = [row for n in range(10) for row in steps(f"r{n}", [5.0, 3.0, 2.0, 1.0])]
    write_history(tmp_path, short + steps("long", [9.0] * 1000))
    file = write_runs(tmp_path, [*(Run(f"r{n}") for n in range(10)), Run("long")])
    lines = answered(file, "--curves", "loss").out.splitlines()
    assert [line.split()[:2] for line in lines[3:7]] == [["0", "5"], ["1", "3"], ["2", "2"], ["3", "1"]]


def test_runs_between_two_points_of_a_curve_are_counted(tmp_path):
    """A title told of 17 of 23 runs, and nothing of the others."""
    file = write_runs(tmp_path, [Run(n, config={"g": 1}) for n in "abc"])
    write_history(tmp_path, [("b", 1, 1.0), *((run, step, 2.0) for run in "ac" for step in range(0, 200, 2))])
    err = answered(file, "--curves", "loss", "-g", "g").err
    assert "not shown, because they have no value at these points: 1 run\n" in err
    assert "not shown" not in answered(file, "--curves", "loss", "-g", "g", "--points", 101).err


def test_json_holds_the_curves_of_all_runs_and_says_whose(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n:02}") for n in range(12)])
    history = write_history(tmp_path, [row for n in range(12) for row in steps(f"r{n:02}", [1.0, float(n)])])
    pl.read_parquet(history).with_columns(metric_acc=-pl.col("metric_loss")).write_parquet(history)
    rows = document(file, "--curves", "loss", "--curves", "acc")["curves"]
    assert len({row["id"] for row in rows}) == 12
    assert {row["metric"] for row in rows} == {"metric_loss", "metric_acc"}
    answered(file, "--curves", "loss", "-o", tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 24


@pytest.mark.parametrize(
    ("more", "points"),
    [([], 13), (["-o", "x.md"], 13), (["--format", "csv"], 60), (["--json"], 60), (["-o", "x.parquet"], 60)],
)
def test_curves_for_programs_hold_all_points_and_others_say_how_many(tmp_path, more, points):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [float(n) for n in range(60)]))
    answer = answered(file, "--curves", "loss", *more, cwd=tmp_path)
    assert ("13 of 60 points of step: use --points for more\n" in answer.err) == (points == 13)
    texts = {"--json": answer.out.count('"x": '), "csv": answer.out.count("team,demo,a,a")}
    found = pl.read_parquet(tmp_path / "x.parquet").height if "x.parquet" in more else texts.get((more or [""])[-1], 13)
    assert found == points
    assert "--points" not in answered(file, "--curves", "loss", "-o", tmp_path / "x.svg").err
    assert "7 of 60 points of step" in answered(file, "--curves", "loss", "--points", 7, *more, cwd=tmp_path).err


def test_one_long_run_does_not_take_the_points_of_many_short_ones(tmp_path):
    """Points were spread evenly over the steps: two of 13 were left for the short runs."""
    file = write_runs(tmp_path, [Run(f"r{n}") for n in range(9)])
    rows = [row for n in range(8) for row in steps(f"r{n}", [1.0] * 90)] + steps("r8", [1.0] * 900)
    write_history(tmp_path, rows)
    answer = answered(file, "--curves", "loss", "-g", "project")
    assert "13 of 900 points of step" in answer.err
    xs = [int(line.split()[0]) for line in answer.out.splitlines() if line.strip()[:1].isdigit()]
    assert (xs[0], xs[-1]) == (0, 899)
    assert sum(x < 90 for x in xs) >= 6
    assert len(xs) in {13, 14}  # and where half of the runs have ended


def test_runs_that_end_at_once_leave_points_for_the_rest():
    """Their few steps took as many points as they have rows, and the rest of these went to the steps just behind."""
    places = analyze_runs.spread(pl.Series([200] * 5 + [1] * 995), 13).to_list()
    assert (len({*places}), places[:5], places[-1]) == (13, [0, 1, 2, 3, 4], 999)
    assert all(b - a > 20 for a, b in itertools.pairwise(places[4:]))


# --- groups ---------------------------------------------------------------------------------------------------


def test_groups_of_curves_by_a_column_called_value(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    rewrite(file, value=pl.Series([7, 8]))
    write_history(tmp_path, steps("a", [1.0, 0.5]) + steps("b", [3.0, 2.5]))
    rows = document(file, "--curves", "loss", "-g", "value")["curves"]
    assert [(row["value"], row["x"], row["mean"]) for row in rows] == [(7, 0, 1), (7, 1, 0.5), (8, 0, 3), (8, 1, 2.5)]
    assert answered(file, "--curves", "loss", "-g", "value").out.splitlines()[1].split() == ["step", "7", "8"]


@pytest.mark.parametrize("boom", [1e98, 1001.0, math.inf, math.nan])
def test_a_diverged_run_does_not_rule_the_mean_of_its_group(tmp_path, boom):
    """It is left out from where it diverges, and counted; one that comes back has not diverged."""
    file = write_runs(tmp_path, [Run(run, config={"g": "x" if run in "abc" else "y"}) for run in "abcd"])
    rows = [("a", s, s, 1.0 + s) for s in range(10)] + [("b", s, s, 1.0 if s < 5 else boom) for s in range(10)]
    rows += [("c", s, s, math.nan if s == 2 else 3.0) for s in range(10)] + [("d", s, s, 1.0) for s in range(10)]
    write_epochs(tmp_path, rows)
    answer = answered(file, "--curves", "loss", "-g", "g")
    assert "4 runs in 2 groups, 1 diverged" in answer.out
    assert "diverged, and left out from where all values to the end are NaN" in answer.out
    assert ": 1 of x\n" in answer.out
    found = {row["x"]: row for row in document(file, "--curves", "loss", "-g", "g")["curves"] if row["config_g"] == "x"}
    assert [found[x]["n"] for x in (0, 2, 4, 5, 9)] == [3, 2, 3, 2, 2]
    assert [found[x]["mean"] for x in (4, 5, 9)] == pytest.approx([3.0, 4.5, 6.5])
    runs = document(file, "--curves", "loss")["curves"]  # of runs themselves nothing is left out
    assert len(runs) == 40
    best = document(file, "--curves", "loss", "-g", "g", "--best-so-far")["curves"]
    assert [row["n"] for row in best if row["config_g"] == "x"] == [3] * 10


# --- smoothing ------------------------------------------------------------------------------------------------


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
