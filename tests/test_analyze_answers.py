"""Answers of analyze_runs.py that were wrong or misled: each of these tests failed before its mend."""

from __future__ import annotations

import json
import math
import re

import analyze_runs
import polars as pl
import pytest
from contract_files import Run, write_rows, write_runs
from test_analyze_faults import rewrite, steps, write_export, write_history
from test_analyze_runs import answered, ask, document


def with_metadata(file, **texts: str):
    """The parquet file with further metadata."""
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    more = {f"wandb_tools.{key}": text for key, text in texts.items()}
    pl.read_parquet(file).write_parquet(file, metadata=pairs | more)
    return file


# --- which runs and which files ---------------------------------------------------------------------------------


def test_large_numbers_are_written_alike(tmp_path):
    runs = [
        Run(f"r{n}", state="finished" if n else "failed", summary={"loss": 1.0} if n > 1 else {}) for n in range(1102)
    ]
    answer = answered(write_runs(tmp_path, runs), "--top", 1, "-m", "loss")
    assert "--state finished (the default): 1,101 of 1,102 runs kept" in answer.err
    assert "1,100 of 1,101 runs have a finite loss" in answer.out


@pytest.mark.parametrize("question", [[], ["--top", 1], ["-g", "g"], ["--curves", "loss"], ["--diff", "a", "b"]])
def test_several_exports_of_a_run_do_not_count_as_several_runs(tmp_path, question):
    """A file of `aggregate_runs.py --keep all`: n would be doubled, and a p-value come from copies."""
    runs = [Run(n, config={"g": 1}, summary={"test/mse": 1.0}) for n in "ab"]
    file = write_runs(tmp_path, runs)
    pl.concat([pl.read_parquet(file)] * 2).write_parquet(file)
    answer = ask(file, *question)
    assert (answer.code, answer.out) == (2, "")
    assert (
        "2 runs in several rows or inputs, for example team/demo/a; merge with aggregate_runs.py, without" in answer.err
    )
    assert document(file, "--sql", "SELECT count(*) AS n FROM runs")["sql"] == [{"n": 4}]


def test_runs_without_identity_in_two_inputs_are_refused(tmp_path):
    for n, entity in enumerate(("team", "other")):
        file = write_runs(tmp_path / str(n), [Run("a"), Run("b")], entity=entity)
        rewrite(file, entity=pl.Series([None, "team"], dtype=pl.String))
    answer = ask(tmp_path)
    assert answer.code == 2
    assert "2 runs in several rows or inputs, for example null/demo/a; name one input alone, or merge" in answer.err


def test_histories_of_other_projects_are_not_those_of_these_runs(tmp_path):
    runs = write_export(tmp_path, "runs")
    write_export(tmp_path, "history")
    write_export(tmp_path, "history", project="other")
    write_export(tmp_path, "console", project="other")
    assert document(runs, "--sql", "SELECT DISTINCT project FROM history")["sql"] == [{"project": "demo"}]
    assert "the views are runs, history (" in ask(runs, "--sql", "FROM console").err
    both = write_export(tmp_path, "runs", project="other").parent
    assert len(document(both, "--sql", "SELECT DISTINCT project FROM history")["sql"]) == 2
    alone = write_export(tmp_path / "x", "runs", project="empty")
    write_export(tmp_path / "x", "history")
    assert "none of these runs has a finite metric" in answered(alone).out


def test_a_folder_of_source_file_that_is_not_here_is_named(tmp_path):
    """Relative, it is found from where the runs were merged: elsewhere --health would find nothing wrong."""
    file = write_runs(tmp_path / "export", [Run("a", history_rows=2)])
    write_history(tmp_path / "export", steps("a", [1.0, float("nan")]))
    unified = rewrite(file, source_file=pl.lit("export/team_demo_runs.parquet")).rename(tmp_path / "unified.parquet")
    assert "non-finite" in answered(unified, "--health", cwd=tmp_path).out
    (tmp_path / "elsewhere").mkdir()
    answer = answered(unified, "--health", cwd=tmp_path / "elsewhere")
    assert "not read from export, where source_file says that they are: no such folder here; start where" in answer.err
    rewrite(unified, source_file=pl.lit("a\0b/team_demo_runs.parquet"))
    for name in ("one", "two"):  # in two files, so that the one beside the source counts
        write_rows(tmp_path, name, {"run_id": ["a"], "line": [0], "stream": ["stderr"], "text": ["x"]})
    assert "not read from a�b, where" in answered(unified, "--health", cwd=tmp_path).err
    rewrite(unified, source_file=pl.lit("s3://bucket/export/team_demo_runs.parquet"))
    assert "not read from s3://bucket/export, where" in answered(unified, "--health", cwd=tmp_path).err


@pytest.mark.parametrize(("export_id", "warned"), [("one", False), ("two", True)])
def test_a_merged_file_that_is_older_than_the_histories_is_warned_of(tmp_path, export_id, warned):
    file = write_export(tmp_path / "export", "runs")
    write_export(tmp_path / "export", "history", export_id="one")
    unified = rewrite(file, source_file=pl.lit(str(file))).rename(tmp_path / "unified.parquet")
    source = {"file": str(file), "entity": "team", "project": "demo", "export_id": export_id}
    odd = [7, {**source, "file": 1, "export_id": ["x"]}, {**source, "file": "a\0b/c", "export_id": {}}]
    with_metadata(unified, source=json.dumps({"sources": [source, *odd]}))
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


@pytest.fixture
def grouped(tmp_path):
    """Two groups of two runs; the settings are called like columns of ours."""
    runs = [
        Run(f"r{n}", config={"group": f"own{n % 2}", "state": n, "seed": n}, summary={"test/mse": n + 0.5}, group="wb")
        for n in range(4)
    ]
    return write_runs(tmp_path, runs)


def test_a_setting_called_like_a_column_of_ours_is_not_headed_like_it(grouped):
    assert "config_group" in answered(grouped, "--top", 2).out.splitlines()[1].split()
    assert answered(grouped, "-g", "config_group").out.startswith("test/mse by config_group: ")
    assert answered(grouped, "--pivot", "config_group,seed").out.startswith("test/mse by config_group and seed: ")
    firsts = [line.split()[0] for line in answered(grouped, "--diff", "r0", "r1").out.splitlines()]
    assert {"config_group", "config_state", "seed"} <= {*firsts}


def test_a_setting_called_like_a_statistic_or_nothing_has_a_head_of_its_own(tmp_path):
    config = {"n": 1, "mean": 2, "": 3}
    file = write_runs(tmp_path, [Run(name, config=config, summary={"test/mse": 1.0}) for name in "ab"])
    assert {row["column"]: row["path"] for row in document(file, "--schema")["schema"]}["config_"] == ""
    heads = answered(file, "-g", "n,mean,config_").out.splitlines()[0]
    assert "config_n is always 1" in heads or heads.startswith("test/mse by config_n, config_mean, config_: ")


def test_a_report_holds_what_else_was_asked(grouped, tmp_path):
    write_history(tmp_path, steps("r0", [3.0, 2.0]))
    more = ["--sql", "SELECT 41 + 1 AS answer", "--diff", "r0", "r1", "--schema", "--importance", "--curves", "loss"]
    answered(grouped, "--report", tmp_path / "r.md", "--state", "all", *more[2:])
    answered(grouped, "--report", tmp_path / "sql.md", *more[:2])
    answered(grouped, "--report", tmp_path / "curves.md", "--state", "all", "--curves", "loss")
    assert "Settings associated with test/mse" in (tmp_path / "curves.md").read_text()
    text = (tmp_path / "r.md").read_text()
    assert "differ between r0, r1" in text
    assert "coverage is the share of runs with a value" in text
    assert text.count("Settings associated with test/mse") == 1
    assert "| answer" in (tmp_path / "sql.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["--top", 1, "--x", "time", "--best-so-far", "--smooth", 0.5, "--points", 2], "x best-so-far smooth points"),
        (["--top", 1, "--stat", "iqm", "--log"], "stat log"),
        (["--pivot", "seed,state", "--stat", "median", "--columns", "seed"], "stat columns"),
        (["--varying", "-m", "test/mse", "--descending"], "metric ascending"),
        (["--schema", "--best-per", "config_group"], "best-per"),
        (["--top", 1, "-o", "x.csv", "--max-rows", 1, "--format", "latex"], "format max-rows"),
        (["-g", "seed", "--stat", "iqm", "--columns", "n", "--max-rows", 1, "-m", "test/mse", "--ascending"], ""),
        (["--top", 1, "--log", "-o", "x.svg"], ""),
        (["--report", "x.md", "--smooth", 0.5, "--stat", "iqm", "--max-rows", 2, "--columns", "seed"], ""),
        (["--columns", "seed", "-m", "test/mse", "--format", "markdown"], ""),
        (["--best-per", "config_group", "-m", "test/mse", "--varying", "--state", "all"], ""),
    ],
)
def test_a_flag_without_effect_is_named(grouped, arguments, flags):
    err = ask(grouped, *arguments, cwd=grouped.parent).err
    named = [line.split()[0].removeprefix("--") for line in err.splitlines() if "has no effect here: it is for" in line]
    assert sorted(named) == sorted(flags.split())


def test_columns_of_groups_may_be_all_that_they_have(grouped):
    out = answered(grouped, "-g", "config_group", "--stat", "iqm", "--columns", "config_group,iqm").out
    assert out.splitlines()[1].split() == ["config_group", "iqm"]
    assert "--columns seed: a table of groups has only config_group, runs" in (
        answered(grouped, "-g", "config_group", "--columns", "seed").err
    )
    assert ask(grouped, "--top", 1, "--columns", "mean").code == 2  # no run has a mean


def test_advice_names_columns_only_where_they_have_an_effect(grouped):
    names = ", ".join(f"1 AS a_long_name_of_a_column_{n}" for n in range(9))
    assert "wide: a_long" in (out := answered(grouped, "--sql", f"SELECT {names}").out.replace("\n", " "))
    assert out.rstrip().endswith("more; use --json or -o")


def test_empty_lists_and_single_values_are_told_apart_from_blanks_and_runs(tmp_path):
    runs = [Run(f"r{n}", summary={"test/mse": 1.0 + n} if n else {}, tags=["x"] * (n > 1)) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "-g", "tags").out
    assert [line.split()[:3] for line in out.splitlines()[3:5]] == [["[]", "2", "1"], ["x", "2", "2"]]
    assert "1 group with one value only" in out
    assert "the best two cannot be compared: only one value in []" in out


def test_a_note_on_the_best_two_shortens_long_values(tmp_path):
    nets = [f"Net({', '.join(['Linear(64, 64)'] * 9)}, out={n})" for n in range(2)]
    runs = [Run(f"r{n}", config={"net": nets[n]}, summary={"test/mse": 1.0 + n}) for n in range(2)]
    out = answered(write_runs(tmp_path, runs), "-g", "net").out
    assert (
        "the best two cannot be compared: only one value in Net(Linear(64, 64), Li…, Linear(64, 64), out=0) and"
        in out.replace("\n", " ")
    )


def test_a_metric_that_diverged_in_some_runs_stays_the_default(tmp_path):
    """Runs hold it, if NaN; one that is never finite cannot be compared."""
    lost = float("nan")
    runs = [Run(f"r{n}", summary={"test/loss": lost if n < 4 else n, "test/error": lost, "acc": n}) for n in range(10)]
    assert "metric: test/loss (use" in answered(write_runs(tmp_path, runs), "--top", 1).err


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


def test_runs_that_diverged_are_counted_beside_pivots_and_importance(tmp_path):
    runs = [Run(f"r{n}", config={"a": n % 2, "b": n % 3}, summary={"test/mse": float(n)}) for n in range(12)]
    runs += [Run("nan", config={"a": 1, "b": 1}, summary={"test/mse": float("nan")}), Run("none")]
    text = "12 of 14 runs have a finite {}; left out: 1 without a value, 1 with NaN or infinity"
    file = write_runs(tmp_path, runs)
    assert text.format("value") in " ".join(answered(file, "--pivot", "a,b").out.split())
    assert text.format("test/mse") in " ".join(answered(file, "--importance").out.split())


def test_a_spike_in_a_loss_that_is_constant_or_rounded_is_found(tmp_path):
    levels = {"constant": [1.0] * 200, "rounded": [round(1 / (n + 1), 2) for n in range(200)], "zero": [0.0] * 200}
    file = write_runs(tmp_path, [Run(n) for n in levels])
    spiky = {n: [50.0 if step == 120 and n != "zero" else x for step, x in enumerate(xs)] for n, xs in levels.items()}
    spiky["zero"][120] = 1e-9
    write_history(tmp_path, [row for n, xs in spiky.items() for row in steps(n, xs)])
    rows = document(file, "--health")["health"]
    assert [(r["run"], r["problem"], r["detail"]) for r in rows] == [
        ("constant", "spikes", "loss, 1 value, the largest 50 at step 120"),
        ("rounded", "spikes", "loss, 1 value, the largest 50 at step 120"),
    ]


def test_a_diff_tells_of_tags_and_code(tmp_path):
    file = write_runs(tmp_path, [Run("a", tags=["x"]), Run("b")])
    rewrite(file, commit=pl.Series(["1f", "2e"]), command=pl.Series(["a.py", "a.py --fast"]))
    rows = {row["column"]: row for row in document(file, "--diff", "a", "b")["diff"]}
    assert rows["tags"] == {"column": "tags", "kind": "identity", "a": ["x"], "b": []}
    assert {"commit", "command"} <= rows.keys()


def test_a_value_of_the_history_is_headed_by_wandb_s_name(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train/loss": 1.0})])
    unified = rewrite(file, history_min_train_loss=pl.lit(0.5))
    heads = answered(unified, "--top", 1, "-m", "train/loss", "--value", "min").out.splitlines()[2]
    assert heads.split() == ["name", "train/loss", "(min)"]


def test_many_damaged_files_are_not_a_line_each(tmp_path):
    write_runs(tmp_path, [Run("a")])
    for n in range(14):
        (tmp_path / f"bad{n:02}.parquet").write_bytes(b"PAR1")
    answer = ask(tmp_path, "--schema", "--quiet")
    assert answer.code == 3
    assert answer.err.count("cannot be read: parquet") == 10
    assert answer.err.endswith("left out: 4 more files that cannot be read\n")


def test_views_hold_the_runs_of_a_filtered_aggregate_alone(tmp_path):
    file = write_runs(tmp_path / "export", [Run("a"), Run("b")])
    write_history(tmp_path / "export", steps("a", [1.0, 2.0]) + steps("b", [9.0]))
    unified = rewrite(file, source_file=pl.lit(str(file))).rename(tmp_path / "unified.parquet")
    query = 'SELECT sum("loss") AS total FROM history'
    assert document(unified, "--sql", query)["sql"] == [{"total": 12.0}]
    pl.read_parquet(unified).filter(pl.col("id") == "a").write_parquet(unified)
    assert document(unified, "--sql", query)["sql"] == [{"total": 3.0}]


def test_best_per_says_how_many_runs_of_the_chosen_setting_diverged(tmp_path):
    values = {0.1: [0.1, float("nan"), float("inf")], 0.01: [0.5, 0.5, 0.5]}
    runs = [
        Run(f"{lr}/{seed}", config={"lr": lr, "seed": seed, "arch": "a"}, summary={"val/loss": value})
        for lr, losses in values.items()
        for seed, value in enumerate(losses)
    ]
    err = answered(write_runs(tmp_path, runs), "--best-per", "arch", "--top", 1).err
    assert "lr 0.1 (mean 0.1 of 1 run, 2 more with NaN or infinity)" in err


def test_steps_as_large_as_integers_may_be_are_no_error(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"loss": 1.0}) for n in "abc"])
    rewrite(file, last_step=pl.lit(2**63 - 1, dtype=pl.Int64))
    assert document(file, "--health")["health"] == []


# --- projects that nobody here designed ---------------------------------------------------------------------------


@pytest.fixture
def wide(tmp_path):
    """Pairs of runs that differ in their seeds; each pair but the first has another of twelve settings switched on."""
    settings = [{f"setting_{i}": int(i == pair) for i in range(1, 13)} for pair in range(13)]
    runs = [Run(f"r{n}", config=settings[n // 2] | {"seed": n}, summary={"loss": n + 0.5}) for n in range(26)]
    return write_runs(tmp_path, runs)


def test_a_group_of_many_settings_shows_its_numbers(wide):
    """They came after the settings, of which twelve fill the width."""
    head = answered(wide, "-g", "!seed").out.splitlines()
    assert next(line for line in head if "setting_1 " in line).split()[:4] == ["n", "mean", "std", "setting_1"]
    few = answered(wide, "-g", "setting_1,setting_2").out
    assert "setting_1  setting_2   n   mean" in few


def test_values_of_a_setting_are_not_cut_within_a_number(tmp_path):
    """What all cells shared was dropped, and their middles: `256…`, `1e-0…875 (2)`."""
    config = [
        {"size": 10**n, "labels": [f"label {i} of {n}" for i in range(n * 20)], "lr": 1 / (n + 3)} for n in range(9)
    ]
    runs = [Run(f"r{n}", config=each, summary={"loss": 1.0}) for n, each in enumerate(config)]
    out = answered(write_runs(tmp_path, runs), "--varying").out
    words = " ".join(out.split())
    assert (
        "size 9 1 (1), 10 (1), 100 (1), 1000 (1), 10000 (1), 100000 (1), 1000000 (1), 10000000 (1) and 1 more" in words
    )
    assert f"lr 9 {1 / 11} (1), 0.1 (1), " in words
    assert max(map(len, out.splitlines())) <= 80


def test_a_heading_is_broken_between_its_words(tmp_path):
    runs = [Run(f"r{n}", config={"batch_size-of-the-one": n + 1}, summary={"validation_accuracy": 1}) for n in range(2)]
    text = answered(write_runs(tmp_path, runs), "--top", 2, COLUMNS="40").out
    heads = text[: text.index("────")].splitlines()[-2:]
    assert [head.split() for head in heads] == [["name", "validation_", "batch_size-of-"], ["accuracy", "the-one"]]


def test_numbers_below_ten_million_are_no_powers_of_ten(tmp_path):
    """A return was 42006 in the list of the best runs, but 4.201e+04 in its curve."""
    write_history(tmp_path, [("a", 0, 42006.25), ("a", 1, 0.01)])
    file = write_runs(tmp_path, [Run(x, summary={"loss": v}) for x, v in (("a", 42006.25), ("b", 0.012345))])
    assert answered(file, "--curves", "loss").out.splitlines()[-2].split() == ["0", "42006"]
    assert [line.split()[1] for line in answered(file, "--top", 2).out.splitlines()[-2:]] == ["0.01235", "42006"]
    at = pl.Series([1_700_000_000.25, 1_700_000_030.5])
    out = answered(rewrite(file, runtime_s=at), "--sql", "SELECT runtime_s FROM runs ORDER BY 1").out
    assert out.split()[-2:] == ["1700000000", "1700000030"]


def test_the_points_of_curves_are_those_of_the_curves_that_are_shown(tmp_path):
    """The best runs were short, and showed their first and last step only."""
    short = [row for n in range(10) for row in steps(f"r{n}", [5.0, 3.0, 2.0, 1.0])]
    write_history(tmp_path, short + steps("long", [9.0] * 1000))
    file = write_runs(tmp_path, [*(Run(f"r{n}") for n in range(10)), Run("long")])
    lines = answered(file, "--curves", "loss").out.splitlines()
    assert [line.split()[:2] for line in lines[3:7]] == [["0", "5"], ["1", "3"], ["2", "2"], ["3", "1"]]


def test_a_metric_that_only_summaries_have_is_not_asked_for_its_lowest_value(tmp_path):
    file = write_runs(tmp_path, [Run(each, summary={"best_loss": 1.0, "loss": 2.0}) for each in "ab"])
    answer = ask(rewrite(file, history_min_loss=pl.Series([1.0, 2.0])), "--value", "min", "-m", "best_loss", "-t", 1)
    said = "--value min: there is no column history_min_best_loss; the histories have loss"
    assert (answer.code, answer.err) == (2, f"error: {said}\n")


def test_a_run_named_by_its_id_is_labelled_by_its_path_where_ids_repeat(tmp_path):
    file = write_runs(tmp_path, [Run(each, summary={"loss": ord(each)}) for each in "ab"])
    rewrite(file, id=pl.lit("x"), name=pl.lit("x"), project=pl.Series(["p0", "p1"]))
    lines = answered(file, "--top", 2).out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["team/p0/x", "team/p1/x"]


def test_a_setting_with_a_blank_name_is_called_by_its_column(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"": n % 2}, summary={"loss": n}) for n in range(4)])
    assert answered(file, "--varying").out.splitlines()[3].split()[0] == "config_"


def test_a_long_name_leaves_room_for_what_a_schema_tells(tmp_path):
    """All columns but the names were dropped, as names are not cut."""
    runs = [Run(f"r{n}", summary={"loss": 7 + n, f"{'logger object at ' * 6}/loss": 0.5}) for n in range(2)]
    lines = answered(write_runs(tmp_path, runs), "--schema").out.splitlines()
    assert lines[1].split()[:5] == ["column", "cover", "values", "min", "max"]
    assert max(map(len, lines)) <= 80


def test_numbers_of_a_schema_are_spelt_each_for_itself(tmp_path):
    """Whole numbers stood as 2.000 beside 0.707 of another column."""
    file = write_runs(tmp_path, [Run("a", config={"epochs": 2}, summary={"loss": 0.70712})])
    rows = [line.split() for line in answered(file, "--schema").out.splitlines()]
    assert ["config_epochs", "1", "1", "2", "2", "Int64"] in [row[:6] for row in rows]
    assert ["metric_loss", "1", "1", "0.7071", "0.7071", "Float64"] in [row[:6] for row in rows]


def test_runs_of_a_random_search_do_not_repeat_each_other(tmp_path):
    """They differ in a setting of many values, which is no axis of the grid."""
    runs = [Run(f"{n}", config={"opt": "ab"[n % 2], "bs": n // 20, "lr": n / 7}) for n in range(40)]
    runs += [Run(f"again {n}", config={"opt": "b", "bs": 3, "lr": 9.0}) for n in range(2)]
    grid = document(write_runs(tmp_path, runs), "--varying")["grid"]
    assert [row for row in grid if row["problem"] != "no run"] == [
        {"config_bs": 3, "config_opt": "b", "problem": "2 runs"}
    ]


def test_a_setting_that_few_runs_have_is_no_axis_of_the_grid(tmp_path):
    runs = [Run(f"{n}", config={"opt": "ab"[n % 2], "bs": n // 2 % 3}) for n in range(12)]
    runs += [Run(f"x{n}", config={"opt": "a", "bs": 0, "experts": n}) for n in range(2)]
    out = answered(write_runs(tmp_path, runs), "--varying").out
    assert "grid of bs (3), opt (2): 6 of 6 combinations have a run" in out


def test_runs_that_lack_a_setting_that_is_no_axis_are_in_the_grid(tmp_path):
    """Runs made before `dropout` was a setting were called missing, with their seeds."""
    grid = [(lr, opt, seed) for lr in (0.1, 0.2) for opt in ("adam", "sgd") for seed in (0, 1)]
    configs = [{"lr": lr, "opt": opt, "seed": seed} for lr, opt, seed in grid]
    runs = [Run(f"r{n}", config=c if n in (2, 3) else c | {"dropout": c["lr"]}) for n, c in enumerate(configs)]
    answer = answered(write_runs(tmp_path, runs), "--varying")
    assert answer.out.rstrip().endswith("grid of lr (2), opt (2): 4 of 4 combinations have a run")


def test_a_run_without_a_seed_is_no_hole_of_the_grid(tmp_path):
    """It was said to be in another state."""
    configs = [{"lr": lr, "opt": opt, "seed": seed} for lr in (1, 2) for opt in "ab" for seed in (0, 1)]
    runs = [Run(f"r{n}", config=config) for n, config in enumerate(configs[:6])]
    runs.append(Run("x", config={"lr": 2, "opt": "b"}))
    grid = document(write_runs(tmp_path, runs), "--varying")["grid"]
    assert grid == [{"problem": "lacks seed 0, 1", "config_lr": 2, "config_opt": "b"}]


def test_a_seed_that_does_not_vary_is_not_named_in_the_grid(tmp_path):
    """As the `data_seed` of HuggingFace's Trainer, which is `None`, where some runs have no such setting."""
    runs = [Run(f"{n}", config={"opt": "ab"[n // 2], "bs": 1, "data_seed": "None"}) for n in range(4)]
    runs += [Run("x", config={"opt": "a", "bs": 2}), Run("y", config={"opt": "b", "bs": 2})]
    out = answered(write_runs(tmp_path, runs), "--varying").out
    assert out.count("2 runs ") == 2
    assert "with seed" not in out


def test_health_says_of_what_there_are_more(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary=dict.fromkeys(("loss", "mse", "mae"), float("nan")))])
    assert "loss in the summary (and 2 more metrics)" in " ".join(answered(file, "--health").out.split())


def test_health_tells_of_a_summary_beside_a_history(tmp_path):
    """A score that a script sets once at its end is in no history; what a history tells of is named once."""
    nan = float("nan")
    file = write_runs(tmp_path, [Run("a", summary={"score": nan, "loss": {"min": nan}, "acc": 1.0}, history_rows=2)])
    write_history(tmp_path, steps("a", [1.0, nan]))
    details = [row["detail"] for row in document(file, "--health")["health"]]
    assert details == ["loss, 1 value (of 2), the first at step 1", "score in the summary"]


def test_a_report_shows_curves_to_their_end_and_which_runs_it_is_about(tmp_path):
    """The table of a picture's 200 points ended after the first 30."""
    file = write_runs(tmp_path, [Run("a", summary={"loss": 1.0}), Run("b", state="crashed")])
    write_history(tmp_path, steps("a", [float(n) for n in range(1000)]))
    answered(file, "--report", tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    section = text.split("loss over step")[1].split("**")[1]
    points = [line.split()[1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert (points[0], points[-1], len(points)) == ("0", "999", 30)
    assert "settings and metrics are of the 1 finished run; --state all takes all" in text
    answered(file, "--report", tmp_path / "r.md", "--state", "all")
    assert "finished run;" not in (tmp_path / "r.md").read_text()


def test_a_report_draws_the_metric_that_it_is_about(tmp_path):
    """A report on val_loss drew final_val_loss, which was logged once."""
    file = write_runs(tmp_path, [Run("a", summary={"val_loss": 1.0})])
    history = write_history(tmp_path, steps("a", [3.0, 2.0, 1.0]))
    rewrite(history, metric_final_val_loss=pl.Series([None, None, 1.0]), metric_val_loss=pl.Series([3.0, 2.0, 1.0]))
    answered(file, "--report", tmp_path / "r.md", "-m", "val_loss")
    assert "**val_loss over step: 1 run**" in (tmp_path / "r.md").read_text()


def test_what_cannot_be_compared_is_said_as_it_is(tmp_path):
    runs = [Run(f"r{n}", config={"lr": 1}, summary={"loss": float(n)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    assert "error: !seed: no other setting varies; name columns" in ask(file, "-g", "!seed").err
    out = answered(file, "--importance").out
    assert "no setting varies" in out
    assert "cannot be separated" not in out
    bare = write_runs(tmp_path / "bare", [Run("a", config={"lr": 1}, summary={"loss": float("nan")})])
    answer = ask(bare, "--top", 3)
    assert answer.code == 2
    assert "error: none of these runs has a finite metric; name another input, or use --varying" in answer.err


def test_metrics_of_runs_in_other_states_are_not_said_to_be_in_histories_alone(tmp_path):
    """One run of a folder had finished, before it logged anything."""
    runs = [Run("done", config={"lr": 1})] + [Run(f"r{n}", summary={"loss": n}, state="crashed") for n in range(3)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("r0", [2.0, 1.0]))
    answer = answered(file)
    assert "only runs in other states have metrics: use --state all" in answer.out
    assert "histories" not in answer.out
    assert ask(file, "--top", 1).err.endswith("error: only runs in other states have metrics: use --state all\n")


def test_the_last_line_of_a_failed_run_holds_a_word(tmp_path):
    """Python's marks below a traceback's lines tell nothing."""
    file = write_runs(tmp_path, [Run("a", state="failed", history_rows=1)])
    text = ["    loss.backward()", "    ^^^^^^^^^^^^^^^", "----------"]
    lines = {"line": [0, 1, 2], "time": [None] * 3, "stream": ["stderr"] * 3, "text": text}
    write_rows(tmp_path, "console", {"run_id": ["a"] * 3, **lines})
    detail = [row["detail"] for row in document(file, "--health")["health"] if row["problem"] == "failed"]
    assert detail == ["at step 0: loss.backward()"]


def test_an_overview_names_the_tables_that_can_be_queried(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_rows(tmp_path, "table_my-data", {"run_id": ["a"], "row": [0], "x": [1]}, key="my-data")
    assert 'W&B Tables, for --sql: "table_my-data"' in answered(file).out
    assert document(file, "--sql", 'SELECT x FROM "table_my-data"')["sql"] == [{"x": 1}]


def test_the_suggested_grouping_is_of_runs_that_have_the_metric(tmp_path):
    """Runs of another project have other settings, and W&B groups."""
    runs = [Run(f"a{n}", config={"opt": "xy"[n // 4]}, summary={"loss": float(n)}) for n in range(8)]
    runs += [Run(f"b{n}", config={"kind": "uv"[n // 2]}, summary={"x": 1}, group=f"g{n // 2}") for n in range(4)]
    assert "loss by opt: 12 runs in 3 groups" in answered(write_runs(tmp_path, runs)).out


@pytest.mark.parametrize("flag", ["--include-history", "--include-histories"])
def test_a_flag_of_another_script_is_not_suggested(tmp_path, flag):
    """The manual's examples name it."""
    done = ask(write_runs(tmp_path, [Run("a")]), flag)
    assert done.code == 2
    assert "did you mean --include-history" not in done.err


# --- found in projects of strangers -----------------------------------------------------------------------------


def test_names_that_differ_in_their_middle_are_not_cut_to_one(tmp_path):
    """Beside other names, three runs had the label `conv_3_bands_0_…_9_10_11_full`."""
    bands = [f"conv_3_bands_0_1_2_3_{middle}_8_9_10_11_full" for middle in ("4_5", "6", "7_4_2")]
    names = [*bands, "linear_with_all_of_the_colours_there_are"]
    found = [*map(str, analyze_runs.short_names(names, 24))]
    assert found[:3] == ["conv_3_b…_0_1_2_3_4_5…", "conv_3_b…_0_1_2_3_6…", "conv_3_b…_0_1_2_3_7_4_2…"]
    assert max(map(len, found)) <= 24
    assert analyze_runs.short_names(names * 2, 24) == found * 2  # equal names stay equal
    wide = [f"模型模型模型模型_{middle}_的一個很長的名字" for middle in ("ab", "cd", "ef")]
    found = analyze_runs.short_names([*wide, "something else of some length"], 15)
    assert len({*found}) == 4
    assert max(map(analyze_runs.cell_count, found)) <= 15
    runs = [Run(f"r{n}", name, state="failed") for n, name in enumerate(names)]
    lines = answered(write_runs(tmp_path, runs), "--health").out.splitlines()
    assert len({line.split()[0] for line in lines if " failed  " in line}) == 4


def test_shortened_names_use_the_room_that_there_is():
    """Ten groups were called …0… to …9…, and a group called null kept the others from losing what they share."""
    names = [f"a_model_with_a_very_long_name_variant_{n}_of_the_ablation" for n in range(10)]
    found = analyze_runs.short_names(names, 32)
    assert found[:2] == ["a_model_with_a…g_name_variant_0…", "a_model_with_a…g_name_variant_1…"]
    names = ["denoising.models.SelfAttention", "denoising.models.GNN", "null"]
    assert analyze_runs.short_names(names, 16) == ["…SelfAttention", "…GNN", "null"]


@pytest.mark.parametrize(
    ("hours", "label"), [(0.01, "2026-11-24 06:06:15"), (3, "2026-11-24 08:00"), (3000, "2027-01-01")]
)
def test_the_times_of_a_picture_differ(tmp_path, hours, label):
    """All five ticks of half a minute were labelled 2026-11-24 06:06."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, steps("a", [1.0, 2.0, 3.0]))
    rewrite(history, _timestamp=pl.Series([1795500360 + 3600 * hours * n for n in range(3)]))
    answered(file, "--curves", "loss", "--x", "time", "-o", tmp_path / "c.svg")
    texts = re.findall(">([^<>]+)</text>", (tmp_path / "c.svg").read_text("utf-8"))
    assert {label, "time (UTC)"} <= {*texts}
    assert len({*texts}) == len(texts)


def test_an_interval_that_a_logarithmic_axis_cannot_show_is_mentioned():
    rows = pl.DataFrame({"value": [1e-6, 1.0], "ci_low": [-1.0, 0.5], "ci_high": [1.0, 1.5]})
    assert analyze_runs.scaled(rows, "groups", log=False, is_live=False)[2] == [
        "intervals that reach 0 or below are not drawn"
    ]


def test_huge_numbers_of_an_axis_are_short(tmp_path):
    """A tick was labelled -5.999999999999999e+99."""
    runs = [Run(f"r{n}", config={"g": "x"}, summary={"loss": 10.0**n}) for n in (98, 99, 100)]
    answered(write_runs(tmp_path, runs), "-g", "g", "-m", "loss", "-o", tmp_path / "x.svg")
    texts = re.findall(">([^<>]+)</text>", (tmp_path / "x.svg").read_text("utf-8"))
    assert any("e+" in text for text in texts)
    assert max(len(text) for text in texts if "e+" in text) < 10


def test_an_id_beside_a_name_is_not_cut(tmp_path):
    """It is what --diff and --where take: `small-m…z7yhc9j)` was of no use."""
    assert analyze_runs.shortened("small-model-of-mine (6z7yhc9j)", 16) == "small…(6z7yhc9j)"
    assert analyze_runs.shortened("small-model-of-mine (6z7yhc9j)", 9) == "s…7yhc9j)"


def test_the_best_runs_show_their_settings_before_their_project(tmp_path):
    """At 80 columns entity and project had the room, and the settings were not shown; then those that few runs have."""
    for n, project in enumerate(("a-project-of-some-length", "another-project-of-mine")):
        config = {"a_setting_of_few": 1} if n else {}
        run = Run(f"r{n}", f"name of run {n}", {**config, "dropout": n / 2, "batch_size": n}, {"test/mse": float(n)})
        write_runs(tmp_path, [run], entity=f"the-entity-of-team-{n}", project=project)
    head = answered(tmp_path, "--top", 2).out.splitlines()[1].split()
    assert head[:5] == ["name", "test/mse", "batch_size", "dropout", "a_setting_of_few"]
    wide = answered(tmp_path, "--top", 2, COLUMNS="160").out.splitlines()[1].split()
    assert wide[5:] == ["project", "entity"]  # of one entity are many projects


def test_heads_of_curves_and_pivots_are_as_short_as_the_numbers_of_a_table(tmp_path):
    """A random search has rates of 17 digits, which were broken into three lines each."""
    rates = [0.0001107484700770214, 8.786782930184295e-05, 0.0001823476851513542]
    runs = [Run(f"r{n}", config={"lr": lr, "k": n % 2}, summary={"loss": 1.0 + n}) for n, lr in enumerate(rates)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(3) for row in steps(f"r{n}", [2.0, 1.0 + n])])
    texts = ["0.0001107", "8.787e-05", "0.0001823"]
    assert answered(file, "--curves", "loss", "-g", "lr").out.splitlines()[1].split() == ["step", *texts]
    assert answered(file, "--pivot", "k,lr").out.splitlines()[1].split() == ["k", texts[1], texts[0], texts[2]]
    assert "only one value in 0.0001107 and 8.787e-05" in " ".join(answered(file, "-g", "lr").out.split())


def console(folder, run, texts, stream="stderr"):
    """Lines of output of one run."""
    lines = {"line": [*range(len(texts))], "time": [None] * len(texts), "stream": [stream] * len(texts)}
    write_rows(folder, "console", {"run_id": [run] * len(texts), **lines, "text": texts})


@pytest.mark.parametrize(
    ("state", "texts", "cause"),
    [
        ("failed", ["RuntimeError: nan", "  3%|█         | 99/3000  [02:49<1:22]"], "RuntimeError: nan"),
        ("failed", ["a.b.OutOfMemoryError: CUDA", "For debugging consider"], "a.b.OutOfMemoryError: CUDA"),
        ("failed", ["ValueError: first", "KeyboardInterrupt", "Aborted!"], "KeyboardInterrupt"),
        ("failed", ["[rank0]: KeyError: 'x'", "ranks stopped"], "[rank0]: KeyError: 'x'"),
        ("failed", ["an Error occurred", "Error rate: 0.5", "last   word "], "last word"),
        ("failed", ["Exception: x", "done"], "Exception: x"),
        ("crashed", ["RuntimeError: skipped", "epoch 7"], "epoch 7"),  # it went on after that error
        ("crashed", ["epoch 7", "warn.py:3: old", "  warnings.warn(", " 62%|██ | 1395/2234"], "warn.py:3: old"),
        ("crashed", ["x.py", "Traceback (most recent call last):", "    raise Exception(1)"], "raise Exception(1)"),
        ("crashed", ["  8%|█ | 1/12", " 16%|█ | 2/12"], "16%| | 2/12"),
        ("crashed", ["34/63 - loss: 0.5" + "\b" * 9], "34/63 - loss: 0.5"),  # Keras moves back to its bar's start
    ],
)
def test_health_names_the_error_of_a_failed_run(tmp_path, state, texts, cause):
    """Where more lines followed, such as a progress bar that closes, it named these."""
    file = write_runs(tmp_path, [Run("a", state=state, history_rows=1)])
    console(tmp_path, "a", texts)
    detail = [row["detail"] for row in document(file, "--health")["health"] if row["problem"] == state]
    assert detail == [f"at step 0: {cause}"]


def test_an_error_counts_though_it_is_not_on_stderr(tmp_path):
    file = write_runs(tmp_path, [Run("a", state="failed", history_rows=1)])
    streams = {"stream": ["stdout", "stderr"], "text": ["IndexError: 3", "100%"]}
    write_rows(tmp_path, "console", {"run_id": ["a"] * 2, "line": [0, 1], "time": [None] * 2, **streams})
    assert "IndexError: 3" in answered(file, "--health").out


def test_a_logarithmic_axis_has_no_empty_decades():
    """Curves between 0.5 and 1.5 lay in a fifth of an axis from 0.1 to 10."""
    rows = pl.DataFrame({"value": [0.5, 1.0, 1.5]})
    assert analyze_runs.scaled(rows, "curves", log=True, is_live=False)[1]["nice"] is False


def test_points_of_long_curves_stay_invisible_in_a_live_chart(tmp_path):
    """What hides a curve set the opacity of its points, too: each had a dot, of which 200 cover a curve."""
    file = write_runs(tmp_path, [Run(n, config={"g": 1}) for n in "ab"])
    write_history(tmp_path, [row for n in "ab" for row in steps(n, [float(i) for i in range(40)])])
    answered(file, "--curves", "loss", "-g", "g", "-o", tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text("utf-8")
    (chart,) = json.loads(text.rpartition("<script>")[2].partition(".forEach((spec")[0])
    band, line = chart["layer"]
    assert line["mark"]["point"] == "transparent"
    assert [tip.get("format") for tip in line["encoding"]["tooltip"]] == [None, None, ".6~g", ".6~g", ".6~g"]
    for layer in (band, line):
        assert "opacity" not in layer["encoding"]
        assert layer["encoding"]["fillOpacity"] == layer["encoding"]["strokeOpacity"]
        assert layer["encoding"]["strokeOpacity"]["condition"]["param"] == "hidden"


def test_a_last_value_of_nan_is_not_said_to_be_left_out_of_itself(tmp_path):
    """`only finite values count` stood above `no run has a finite loss`."""
    runs = write_runs(tmp_path, [Run("a", summary={"loss": 1.0}), Run("b", summary={"loss": 1.0})])
    counts = {"history_n_loss": pl.Series([20, 20]), "history_n_nonfinite_loss": pl.Series([5, 5])}
    file = rewrite(runs, history_last_loss=pl.Series([float("nan"), 2.0]), **counts)
    err = ask(file, "--top", 2, "-m", "loss", "--value", "last").err
    assert "1 run reached NaN or infinity; only finite values count" in err


def test_runs_between_two_points_of_a_curve_are_counted(tmp_path):
    """A title told of 17 of 23 runs, and nothing of the others."""
    file = write_runs(tmp_path, [Run(n, config={"g": 1}) for n in "abc"])
    write_history(tmp_path, [("b", 1, 1.0), *((run, step, 2.0) for run in "ac" for step in range(0, 200, 2))])
    err = ask(file, "--curves", "loss", "-g", "g").err
    assert "not shown, because they have no value at these points: 1 run\n" in err
    assert "not shown" not in ask(file, "--curves", "loss", "-g", "g", "--points", 101).err


def test_an_axis_of_fractions_has_the_digits_of_a_table(tmp_path):
    """Run times had ten digits; whole numbers keep all of theirs."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, [("a", 1_234_567 + n, float(n)) for n in range(3)])
    rewrite(history, _runtime=pl.Series([2.204588413, 20.07492947, 38.9276561]))
    for axis, texts in {"runtime": ["2.20", "20.07", "38.93"], "step": ["1234567", "1234568", "1234569"]}.items():
        lines = answered(file, "--curves", "loss", "--x", axis).out.splitlines()
        assert [line.split()[0] for line in lines[-3:]] == texts


def test_a_best_setting_of_missing_values_is_said_to_be_null(tmp_path):
    """`best of null:  (mean 3 of 2 runs)`."""
    runs = [Run(f"a{n}", config={"m": "x", "lr": n}, summary={"loss": 1.0 + n}) for n in range(2)]
    runs += [Run(f"b{n}", summary={"loss": 3.0}) for n in range(2)]
    err = ask(write_runs(tmp_path, runs), "--best-per", "m", "-g", "m").err
    assert "best of x: lr 0 (mean 1 of 1 run)" in err
    assert "best of null: null (mean 3 of 2 runs)" in err


def test_a_heading_of_a_report_is_not_broken_within_brackets(tmp_path):
    """`<h2>Problems in 1 of 1 run (no history files</h2>`."""
    file = write_runs(tmp_path, [Run("a", state="failed", summary={"loss": 1.0})])
    answered(file, "--report", tmp_path / "r.html", "-m", "loss")
    headings = re.findall("<h2>(.*?)</h2>", (tmp_path / "r.html").read_text("utf-8"))
    assert [each for each in headings if each.count("(") != each.count(")")] == []
    assert any(each.startswith("Problems in 1 of 1 run (no history files, so only") for each in headings)


def test_runs_of_one_name_are_named_so_that_they_can_be_copied(tmp_path):
    """`an-institute-of-s…p_project/0h28gopz` is no run."""
    entity, project = "an-institute-of-some-length", "a-project-of-some-length"
    runs = [Run(f"id{n}", "same") for n in range(6)]
    err = ask(write_runs(tmp_path, runs, entity=entity, project=project), "--diff", "same", "id1").err
    paths = [f"{entity}/{project}/id{n}" for n in range(5)]
    assert err == f"error: 6 runs are called same; choose one: {', '.join(paths)} …\n"


def test_crashed_runs_without_console_output_are_counted(tmp_path):
    runs = write_runs(tmp_path, [Run("a", state="failed"), Run("b", state="crashed"), Run("c")])
    said = "no console output of 2 crashed or failed runs: export_runs.py --console exports it"
    assert said in " ".join(answered(runs, "--health").out.split())
    lines = {
        "run_id": ["a", "b"],
        "line": [0, 0],
        "stream": ["stderr"] * 2,
        "text": ["ValueError: x", " 12%|█▏   | 1/8"],
    }
    write_rows(tmp_path, "console", lines)
    out = answered(runs, "--health").out
    assert ("no console output" in out, "12%| | 1/8" in out) == (False, True)
    write_rows(tmp_path, "console", {name: values[:1] for name, values in lines.items()})
    assert "no console output of 1 crashed or failed run\n" in answered(runs, "--health").out  # it was exported


def test_a_table_of_groups_names_them_whatever_its_columns(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n // 2, "opt": f"o{n % 2}"}, summary={"acc": n / 10}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "--group-by", "lr,opt", "-m", "acc", "--columns", "n,mean").out
    assert out.splitlines()[1].split() == ["lr", "opt", "n", "mean"]
    out = answered(write_runs(tmp_path, runs), "--group-by", "lr,opt", "-m", "acc", "--columns", "opt,mean").out
    assert out.splitlines()[1].split() == ["opt", "mean"]


def test_the_definition_of_a_sweep_is_no_setting(tmp_path):
    """It was passed to wandb.init() as the config, and differs from sweep to sweep."""
    runs = []
    for n in range(12):
        sweep = {"parameters": {"lr": {"values": [n % 3, 4]}, "wd": {"min": n % 4}, "values": n % 2}}
        runs.append(Run(f"r{n}", config={"lr": n % 3, **sweep}, summary={"acc": n / 10}))
    out = answered(write_runs(tmp_path, runs), "--importance", "-m", "acc").out
    assert {line.split()[0] for line in out.splitlines() if " number " in line} == {"lr", "parameters.values"}
    assert "or differ in every run: parameters.lr.values, parameters.wd.min" in " ".join(out.split())


@pytest.mark.parametrize(("name", "which"), [("loss", "best"), ("thing", "lowest")])
def test_which_curves_are_drawn_is_told_outside_of_the_picture_too(tmp_path, name, which):
    file = write_runs(tmp_path, [Run(f"r{n:02d}", summary={name: float(n)}) for n in range(12)])
    rows = {"run_id": [f"r{n // 2:02d}" for n in range(24)], "_step": [0, 1] * 12}
    write_rows(tmp_path, "history", rows | {f"metric_{name}": [float(n) for n in range(24)]})
    answer = answered(file, "--curves", name, "-o", tmp_path / "x.svg")
    assert f"the {which} 10 of 12 by last value are drawn" in answer.err
    assert ("to draw the best ones, add --ascending or --descending" in answer.err) == (which == "lowest")
    assert f"the {which} 10 of 12 by last value are drawn" in (tmp_path / "x.svg").read_text()
    assert "only one point" not in answer.err
    write_rows(tmp_path, "history", {"run_id": ["r00", "r01"], "_step": [3, 3], f"metric_{name}": [1.0, 2.0]})
    assert "each curve has only one point" in answered(file, "--curves", name, "-o", tmp_path / "x.svg").err


def test_a_picture_of_means_over_differing_runs_says_so(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    rows = {"run_id": ["a", "a", "b"], "_step": [0, 1, 0]}
    write_rows(tmp_path, "history", rows | {"metric_loss": [1.0, 2.0, 3.0]})
    for flags, is_said in ((["-g", "state"], True), ([], False)):
        answered(file, "--curves", "loss", *flags, "--x", "step", "-o", tmp_path / "x.svg")
        assert ("line: mean of the runs that have a value there" in (tmp_path / "x.svg").read_text()) == is_said


def test_a_summary_with_a_hash_is_not_only_in_the_histories(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train_loss__0a66b54c": 1.0})])
    with_metadata(file, columns=json.dumps({"metric_train_loss__0a66b54c": ["train loss"]}))
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_train_loss": [1.0]})
    assert ask(file, "-t", 1, "-m", "train_loss").err.startswith(
        "error: there is no metric train_loss; did you mean train loss"
    )


def test_schema_has_no_flag_for_the_columns_that_do_not_fit(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"k" * 40 + str(n): "v" * 60 for n in range(3)})])
    out = answered(file, "--schema").out
    assert "too wide" in out
    assert "--columns" not in out


def test_the_single_value_of_a_picture_is_on_its_axis(tmp_path):
    """The only tick of an axis without extent was rounded: 0 for 0.33425."""
    file = write_runs(tmp_path, [Run("a", summary={"acc": 0.33425}), Run("b", summary={"acc": 0.33425})])
    answered(file, "-t", 2, "-m", "acc", "-o", tmp_path / "x.svg")
    assert ">0.33425<" in (tmp_path / "x.svg").read_text()


def test_curves_are_in_the_order_of_what_most_of_their_runs_reach(tmp_path):
    """One long run put its group first, whatever the others did."""
    runs = {"long": "x", "x1": "x", "x2": "x", "y1": "y", "y2": "y", "nan": "diverged"}
    file = write_runs(tmp_path, [Run(name, config={"g": g}) for name, g in runs.items()])
    rows = [(name, step, 1.0 if g == "y" else 2.0) for name, g in runs.items() for step in (0, 1)] + [("long", 2, 0.0)]
    rows += [("nan", 0, 0.5), ("nan", 1, math.nan)]
    columns = zip(*rows, strict=True)
    write_rows(tmp_path, "history", dict(zip(("run_id", "_step", "metric_loss"), map(list, columns), strict=True)))
    assert answered(file, "--curves", "loss", "-g", "g").out.splitlines()[1].split() == ["step", "y", "x", "diverged"]


def test_the_ends_of_many_groups_are_no_points_of_all(tmp_path):
    names = [f"r{n:02d}" for n in range(30)]
    file = write_runs(tmp_path, [Run(name, config={"g": name}) for name in names])
    steps = {"run_id": [name for name in names for _ in (0, 1)], "_step": [s for n in range(30) for s in (0, n + 100)]}
    write_rows(tmp_path, "history", steps | {"metric_loss": [1.0] * 60})
    assert len(document(file, "--curves", "loss", "-g", "g", "--points", 2)["curves"]) == 60


def test_a_report_draws_a_metric_of_the_histories_alone(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"test/loss": 0.5})])
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_val_loss": [0.5]})
    answered(file, "-m", "test/loss", "--report", tmp_path / "x.md")
    assert "val_loss over step" in (tmp_path / "x.md").read_text()


def test_a_report_draws_no_curves_of_few_runs(tmp_path):
    file = write_runs(
        tmp_path, [Run(f"r{n}", summary={"a/acc": 0.5} | ({"val/acc": 0.5} if n < 2 else {})) for n in range(9)]
    )
    rows = {"run_id": ["r0", "r1"], "_step": [0, 0]}
    write_rows(tmp_path, "history", rows | {"metric_val_acc": [0.5, 0.6], "metric_a_acc": [0.1, 0.2]})
    answered(file, "-m", "a/acc", "--report", tmp_path / "x.md")
    assert "a/acc over step" in (tmp_path / "x.md").read_text()


def test_wide_intervals_of_groups_are_cut_off_in_pictures(tmp_path):
    values = {"narrow": [1.0, 1.01, 0.99], "wide": [0.5, 2.5], "none": [math.nan]}
    runs = [
        Run(f"{g}{n}", config={"g": g}, summary={"loss": v}) for g, own in values.items() for n, v in enumerate(own)
    ]
    answer = answered(write_runs(tmp_path, runs), "-g", "g", "-m", "loss", "-o", tmp_path / "x.svg")
    assert "wide intervals are cut off\n1 without a value to draw is left out\n" in answer.err


def test_a_page_has_no_rows_without_a_curve(tmp_path):
    """Of the curves that the page has no room for, their points were left."""
    names = [f"{n:02d}" * 12 for n in range(12)]
    file = write_runs(tmp_path, [Run(name, config={"g": name}) for name in names])
    write_rows(tmp_path, "history", {"run_id": names, "_step": [*range(12)], "metric_loss": [1.0] * 12})
    answered(file, "--curves", "loss", "-g", "g", "-o", tmp_path / "x.html")
    rows = re.findall(r"<tr>(.*?)</tr>", (tmp_path / "x.html").read_text(), re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)[1:] for row in rows]
    assert len(rows) > 2
    assert all(any(cell.strip() for cell in row) for row in cells if row)


def test_a_name_of_two_columns_is_said(tmp_path):
    """A sweep sets the key "train.lr", a script the key lr inside of train."""
    configs = [{"a": 1}, {"b": 2}, {"b": 3}]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"acc": n / 9}) for n, c in enumerate(configs)])
    paths = {"config_a": ["train.lr"], "config_b": ["train", "lr"], "metric_acc": ["acc"]}
    with_metadata(file, columns=json.dumps(paths))
    said = "train.lr means config_a; the same name in W&B has config_b\n"
    for asked in (["--group-by", "train.lr"], ["--group-by", "train.lr:2"], ["--where", '"train.lr" < 2', "-t", 1]):
        assert said in answered(file, *asked, "-m", "acc").err
    assert "the same name in W&B" not in answered(file, "--group-by", "config_b", "-m", "acc").err
