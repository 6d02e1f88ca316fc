"""The best runs, groups and ranges, --best-per, pivots, and their statistics against scipy and plain Python."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING

import analyze_runs
import numpy as np
import polars as pl
import pytest
import scipy
from analyze import MSE, answered, ask, document, example_file, grid_file, grid_runs, rewrite, steps, write_history  # noqa: F401 - fixtures
from contract_files import Run, write_runs
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

# --- the best runs --------------------------------------------------------------------------------------------


def test_top_is_best_first_with_what_distinguishes(runs_file: Path) -> None:
    answer = answered(runs_file, "--top", 4, "--metric", "test/mse")
    text = " ".join(answer.out.split())
    assert text.startswith("Best 4 runs by test/mse; lower is better (guessed by name)")
    assert "12 of 15 runs have a finite test/mse; left out: 1 without a value, 2 with NaN or infinity" in text
    assert "optim.lr" not in answer.out  # the same in all of them
    rows = document(runs_file, "--top", 4, "--metric", "test/mse")["top"]
    assert [row[MSE] for row in rows] == [0.01, 0.011, 0.012, 0.03]
    columns = {*pl.read_parquet_schema(runs_file)} - {"_config_json", "_summary_json"}
    for count in (1, 4):  # the same columns for any number of rows
        assert {*document(runs_file, "--top", count, "--metric", "test/mse")["top"][0]} == columns
    assert document(runs_file, "--top", 1, "--columns", "seed")["top"][0].keys() < columns


def test_all_states_bring_the_crashed_run_back(runs_file: Path) -> None:
    assert document(runs_file, "--top", 1, "--state", "all")["top"][0]["id"] == "crash"
    assert document(runs_file, "--top", 1, "--state", "crashed,failed")["top"][0]["id"] == "crash"


def test_ties_are_said_and_ordered_by_key(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run(name, summary={"test/mse": 1.0}) for name in "dbca"])
    answer = answered(file, "--top", 3)
    assert "1 more run with the same value as the last one shown" in answer.out
    assert [row["id"] for row in document(file, "--top", 3)["top"]] == ["a", "b", "c"]


def test_the_same_id_in_two_projects_stays_two_runs(tmp_path: Path) -> None:
    one = write_runs(tmp_path, [Run("same", name="one", summary={"test/mse": 1.0})], project="one")
    two = write_runs(tmp_path, [Run("same", name="two", summary={"test/mse": 2.0})], project="two")
    rows = document(one, two, "--top", 5)["top"]
    assert [(row["name"], row["project"], row[MSE]) for row in rows] == [("one", "one", 1.0), ("two", "two", 2.0)]


def test_the_best_of_several_projects_name_theirs(tmp_path):
    write_runs(tmp_path, [Run(f"r{n}", summary={"loss": n}) for n in range(2)], project="a")
    write_runs(tmp_path, [Run("r2", summary={"loss": 2})], project="b")
    for top, title in {1: "1 run by loss, in team/a", 2: "2 runs by loss, all in team/a", 3: "3 runs by loss"}.items():
        assert answered(tmp_path, "-t", top, "-m", "loss").out.startswith(f"Best {title}; lower is better")


# --- groups ---------------------------------------------------------------------------------------------------


def test_groups_by_hand(runs_file: Path) -> None:
    rows = document(runs_file, "--group-by", "model.arch,model.k")["groups"]
    keys = [(row["config_model_arch"], row["config_model_k"]) for row in rows]
    assert keys[:2] == [("filter_bank", 16), ("filter_bank", 8)]
    assert set(keys[4:]) == {("linear", None), (None, None)}
    best, diverged = rows[0], rows[keys.index(("linear", None))]
    values = [0.01, 0.011, 0.012]
    assert best["metric"] == MSE
    assert (best["runs"], best["n"], best["n_nonfinite"]) == (3, 3, 0)
    assert best["mean"] == pytest.approx(statistics.mean(values))
    assert best["std"] == pytest.approx(statistics.stdev(values))
    assert best["sem"] == pytest.approx(scipy.stats.sem(values))
    interval = scipy.stats.t.interval(0.95, 2, statistics.mean(values), scipy.stats.sem(values))
    assert (best["ci_low"], best["ci_high"]) == pytest.approx(interval)
    assert (best["min"], best["median"], best["max"]) == (0.01, 0.011, 0.012)
    assert (best["best_run"], best["best_run_id"]) == ("stage2c_filter_bank_lr1e-3_wd1e-4_k16_s0", "r03")
    assert (diverged["runs"], diverged["n"], diverged["n_nonfinite"]) == (2, 0, 2)
    assert {diverged[name] for name in ("mean", "std", "sem", "ci_low", "min", "max", "best_run")} == {None}
    assert sum(row["runs"] for row in rows) == 15


def test_a_group_of_one_has_no_interval_and_says_so(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run(i, config={"g": i}, summary={"test/mse": 1.0}) for i in "ab"])
    row = document(file, "--group-by", "g")["groups"][0]
    assert (row["n"], row["std"], row["sem"], row["ci_low"], row["ci_high"]) == (1, None, None, None, None)
    assert "2 groups with one value only: no std and no interval" in answered(file, "--group-by", "g").out


def test_several_metrics_give_a_row_each(runs_file: Path) -> None:
    arguments = [runs_file, "--group-by", "model.k", "-m", "test/mse", "-m", "test/acc"]
    rows = document(*arguments)["groups"]
    assert [row["metric"] for row in rows] == [MSE] * 3 + ["metric_test_acc"] * 3
    assert rows[0]["config_model_k"] == rows[3]["config_model_k"] == 16
    out = answered(*arguments).out
    assert "test/mse by model.k: 15 runs in 3 groups; lower is better" in out
    assert "test/acc by model.k: 15 runs in 3 groups; higher is better" in out


def test_grouping_by_lists_times_and_booleans(runs_file: Path) -> None:
    for column in ("tags", "created_at", "state", "group"):
        rows = document(runs_file, "--group-by", column)["groups"]
        assert sum(row["runs"] for row in rows) == 15


def test_the_best_run_of_a_group_is_that_of_the_best_runs(tmp_path):
    """Also of equal ones, of which one has no entity."""
    file = write_runs(tmp_path, [Run(n, config={"k": 1}, summary={"loss": 1.0}) for n in "ab"])
    done = document(rewrite(file, entity=pl.when(pl.col("id") == "b").then("entity")), "--top", 1, "-g", "k")
    assert (done["top"][0]["id"], done["groups"][0]["best_run_id"]) == ("b", "b")


@pytest.mark.parametrize(("tags", "said"), [([], "tags is always []"), (["x", "y"], "tags is always x, y")])
def test_tags_that_all_groups_share_are_named(tmp_path, tags, said):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"loss": 1.0}, tags=tags) for n in range(2)])
    assert said in answered(file, "-g", "tags,k").out


def test_empty_lists_and_single_values_are_told_apart_from_blanks_and_runs(tmp_path):
    runs = [Run(f"r{n}", summary={"test/mse": 1.0 + n} if n else {}, tags=["x"] * (n > 1)) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "-g", "tags").out
    assert [line.split()[:3] for line in out.splitlines()[3:5]] == [["[]", "2", "1"], ["x", "2", "2"]]
    assert "1 group with one value only" in out
    assert "the best two cannot be compared: only one value in []" in out


def test_long_values_of_groups_with_far_off_values_are_told_apart(tmp_path):
    layers = ["Linear(64, 64)"] * 5
    nets = [f"Net({', '.join([*layers, f'Linear(64, {n})', *layers])})" for n in range(2)]
    values = [1.0, 1.1, 1.2, 5e6]
    runs = [Run(f"{nets.index(net)}{v}", config={"net": net}, summary={"loss": v}) for net in nets for v in values]
    out = answered(write_runs(tmp_path, runs), "-g", "net", "-m", "loss").out
    note = " ".join(out.partition("the mean says little")[2].partition("within noise")[0].split())
    assert re.findall(r" ([01])\)", note) == ["0", "1"]


def test_a_far_off_value_in_a_group_is_named(tmp_path):
    runs = [Run(f"r{n}", config={"g": n % 2}, summary={"test/mse": 1.0 + n}) for n in range(8)]
    runs += [Run("boom", config={"g": 1}, summary={"test/mse": 2e98}), Run("nan", config={"g": 0})]
    runs[-1].summary["test/mse"] = math.inf
    answer = answered(write_runs(tmp_path, runs), "-g", "g", "-m", "test/mse")
    assert "the mean says little where one value is over 1,000 times the median: 1" in answer.out
    assert re.search(r"^g +runs +n +mean +std +NaN +best run +min", answer.out, re.MULTILINE)
    assert re.search(r"^0 +5 +4 +4 +[\d.]+ +1 +r0 +1 ", answer.out, re.MULTILINE)


# --- groups by all settings but the seed ----------------------------------------------------------------------


def test_all_but_the_seed(file):
    done = answered(file, "--group-by", "!seed", "-m", "test/mse", "--json")
    rows = json.loads(done.out)["groups"]
    assert len(rows) == 6
    assert {(row["config_model"], row["config_k"], row["n"]) for row in rows} == {
        (m, k, 3) for m in "ab" for k in (4, 8, 16)
    }
    assert "or differ in every run: out_dir" in done.err


def test_what_another_column_decides_is_not_grouped_by(tmp_path):
    runs = grid_runs()
    for run in runs:
        run.config |= {"width": run.config["k"] * 2, "data_seed": 1}
    done = answered(write_runs(tmp_path, runs), "--group-by", "!seed", "-m", "test/mse", "--json")
    assert len(json.loads(done.out)["groups"]) == 6
    assert "grouped by all settings that vary, except seed: model, width" in done.err


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
    assert re.search(r"^model.name +model.width ", out, re.MULTILINE)


def test_a_missing_setting_is_a_value(tmp_path):
    configs = [{"seed": n % 2} | ({"dropout": 0.1} if n < 4 else {}) for n in range(8)]
    runs = [Run(f"r{n}", config=config, summary={"test/mse": float(n)}) for n, config in enumerate(configs)]
    rows = document(write_runs(tmp_path, runs), "-g", "!seed")["groups"]
    assert [(row["config_dropout"], row["n"]) for row in rows] == [(0.1, 4), (None, 4)]


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
    answer = ask(file, "--best-per", "opt", "--top", 1)
    assert (answer.code, answer.out) == (2, "")
    assert "no other setting varies, seeds apart" in answer.err
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


def test_a_name_that_tells_more_than_the_settings_hides_none(tmp_path):
    """Of HuggingFace's settings only `run_name` was told: it told all others apart."""
    configs = [{"lr": n % 3, "dim": n // 3 % 2, "run_name": f"try {n % 6}{'b' * (n == 7)}"} for n in range(12)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"loss": n}) for n, c in enumerate(configs)])
    assert "grouped by all settings that vary: dim, lr, run_name\n" in answered(file, "-g", "!seed", "-m", "loss").err


def test_a_setting_called_like_a_column_of_ours_goes_by_its_column_in_notes(tmp_path):
    configs = [{"name": "ab"[n % 2], "when": f"2026-01-0{1 + n % 2}", "state": "/x/" + "cd"[n % 2]} for n in range(4)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"loss": n}) for n, c in enumerate(configs)])
    err = answered(file, "-g", "!seed", "-m", "loss").err
    assert "all settings that vary: config_name\n" in err
    assert "differ in every run: config_state, when\n" in err


def test_settings_that_follow_from_others_are_found_among_many_combinations():
    many = pl.DataFrame({"a": range(10_001)}).with_columns(b=pl.col("a").cast(pl.String), c=pl.col("a") // 2)
    assert analyze_runs.independent(many, ["a", "b", "c"]) == ["b"]
    table = pl.DataFrame({"a": [0.0, -0.0, 1.0, 1.0], "b": [0, 0, 1, 1], "c": [None, None, 2, 3]})
    assert analyze_runs.independent(table, ["a", "b", "c"]) == ["c"]
    assert analyze_runs.independent(table, []) == []
    for names in (["a", "b"], ["b", "a"]):  # a name says more than a number that follows from it
        equivalent = pl.DataFrame({names[0]: ["x", "x", "y"], names[1]: [1, 1, 2]})
        assert analyze_runs.independent(equivalent, ["a", "b"]) == names[:1]
        for text in ("a very long prompt " * 9, "[1, 2, 3]"):
            long = equivalent.with_columns(pl.col(names[0]).replace("x", text))
            assert analyze_runs.independent(long, ["a", "b"]) == names[1:]


# --- ranges ---------------------------------------------------------------------------------------------------


def test_quantile_bins(tmp_path):
    runs = [Run(f"r{n}", config={"lr": 10.0**-n}, summary={"test/mse": n}) for n in range(8)]
    runs.append(Run("none", summary={"test/mse": 9}))
    rows = document(write_runs(tmp_path, runs), "--group-by", "lr:2", "-m", "test/mse")["groups"]
    bins = [("over 0.00055", 4), ("to 0.00055", 4), (None, 1)]  # the middle of 0.001 and 0.0001
    assert [(row["config_lr:2"], row["n"]) for row in rows] == bins


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


def test_ranges_of_a_group_are_no_setting(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n, "k": n % 3}, summary={"test/mse": float(n)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    found = document(file, "-g", "lr:3", "--varying", "--importance", "--state", "all")
    assert {row["column"] for row in found["varying"] + found["importance"]} == {"config_lr", "config_k"}
    assert len(found["groups"]) == 3
    assert answered(file, "-g", "lr:3", "--report", tmp_path / "r.md").code == 0


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


# --- the best setting of each: --best-per ---------------------------------------------------------------------


def test_best_per_keeps_the_best_setting_by_its_mean_over_seeds(tmp_path):
    runs = grid_runs()
    lucky = next(run for run in runs if run.id == "a40")
    lucky.summary["test/mse"] = 0.0  # one lucky seed does not make its setting the best
    done = answered(
        write_runs(tmp_path, runs), "--best-per", "model", "--group-by", "model", "-m", "test/mse", "--json"
    )
    rows = {row["config_model"]: row for row in json.loads(done.out)["groups"]}
    assert {model: row["n"] for model, row in rows.items()} == {"a": 3, "b": 3}
    assert rows["a"]["mean"] == pytest.approx(0.31)
    assert "best of a: k 16 (mean 0.31 of 3 runs)" in done.err


def test_what_best_per_advises(file):
    more = "choose with -m VALIDATION, judge by a second -m TEST\n"
    assert more in answered(file, "--best-per", "model", "-m", "test/mse", "-g", "model").err
    two = answered(file, "--best-per", "model", "-m", "test/mse", "-m", "test/acc", "-g", "model").err
    assert "its values look better than they are; judge by the others\n" in two
    assert "and the best of" not in two
    assert "and the best of 8 more\n" in answered(file, "--best-per", "out_dir", "-m", "test/mse", "-g", "k").err


def test_of_equal_means_best_per_takes_that_of_more_runs(tmp_path):
    runs = [Run(f"r{n}", config={"m": "a", "lr": 1 if n else 0}, summary={"test/mse": 0.5}) for n in range(4)]
    assert "best of a: lr 1 (mean 0.5 of 3 runs)" in answered(write_runs(tmp_path, runs), "--best-per", "m").err


def test_runs_that_only_a_path_tells_apart_are_said(tmp_path):
    """Two models in one group looked like repeats of one."""
    names = [(model, seed) for model in ("abc", "a_only") for seed in range(4)]
    runs = [
        Run(
            f"{model}{seed}",
            config={"seed": seed, "lr": 1, "model_path": f"out/{model}_s{seed}/x"},
            summary={"loss": 1.0},
        )
        for model, seed in names
    ]
    runs += [Run("c", config={"seed": 0, "lr": 2, "model_path": "out/c_s0/x"}, summary={"loss": 1.0})]
    said = "8 runs have the settings and the seed of another; to tell them apart, group also by model_path\n"
    assert said in answered(write_runs(tmp_path, runs), "-g", "!seed").err
    runs = [run for run in runs if "a_only" not in run.id]
    assert "to tell them apart" not in answered(write_runs(tmp_path, runs), "-g", "!seed").err


def test_of_equal_settings_the_one_without_nulls_stands_for_the_others(tmp_path):
    configs = [{"sharing": n % 2 == 1, **({"two": False} if n % 2 else {})} for n in range(6)]
    runs = [Run(f"r{n}", config=config, summary={"loss": 1.0}) for n, config in enumerate(configs)]
    assert "that vary: sharing\n" in answered(write_runs(tmp_path, runs), "-g", "!seed").err


def test_ranges_that_equal_values_make_fewer_are_said(tmp_path):
    runs = [Run(f"r{n}", config={"lr": 1 if n < 9 else n}, summary={"loss": float(n)}) for n in range(12)]
    err = answered(write_runs(tmp_path, runs), "-g", "lr:3").err
    assert "lr:3: only 2 ranges, because many runs have equal values; --group-by lr shows each value\n" in err
    assert "only" not in answered(tmp_path, "-g", "lr:2", "--where", "lr > 1").err


def test_best_per_says_what_its_choice_rests_on(tmp_path):
    runs = [Run(f"r{n}", config={"m": "ab"[n % 2], "lr": n}, summary={"test/mse": float(n)}) for n in range(6)]
    err = answered(write_runs(tmp_path, runs), "--best-per", "m", "-g", "m").err
    assert "only one run, so a good value may be luck" in err
    assert "chosen by test/mse, so its values look better than they are" in err


def test_best_per_says_how_many_runs_of_the_chosen_setting_diverged(tmp_path):
    values = {0.1: [0.1, float("nan"), float("inf")], 0.01: [0.5, 0.5, 0.5]}
    runs = [
        Run(f"{lr}/{seed}", config={"lr": lr, "seed": seed, "arch": "a"}, summary={"val/loss": value})
        for lr, losses in values.items()
        for seed, value in enumerate(losses)
    ]
    err = answered(write_runs(tmp_path, runs), "--best-per", "arch", "--top", 1).err
    assert "lr 0.1 (mean 0.1 of 1 run, 2 more with NaN or infinity)" in err


def test_all_settings_of_a_random_search_are_told(tmp_path):
    """Only the learning rate was: it differs in every run, and so all others follow from it."""
    configs = [{"lr": 0.001 + n / 700, "dropout": n % 3, "width": 8 << n % 4} for n in range(8)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"test/mse": n}) for n, c in enumerate(configs)])
    answer = answered(file, "-g", "!seed", "-m", "test/mse")
    assert "grouped by all settings that vary: dropout, lr, width\n" in answer.err
    assert "best of demo: dropout 0, lr 0.001, width 8 (mean 0 of 1 run)" in answered(file, "--best-per", "project").err
    configs = [{"lr": 0.001 + n / 700, "decay": 0.1 + n / 900} for n in range(8)]  # all are numbers
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"test/mse": n}) for n, c in enumerate(configs)])
    assert "settings that vary: decay, lr\n" in answered(file, "-g", "!seed", "-m", "test/mse").err


def test_a_number_that_another_setting_determines_is_not_told(tmp_path):
    """Each model has its own learning rate: they are no grid of both."""
    configs = [{"model": "abcd"[n], "lr": 0.1 / (n + 1), "seed": seed} for n in range(4) for seed in range(3)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"test/mse": n}) for n, c in enumerate(configs)])
    assert answered(file, "-g", "!seed", "-m", "test/mse").err.count(", lr") == 0
    assert "4 of 4 combinations have a run" in answered(file, "--varying").out


def test_groups_are_named_in_the_order_of_their_columns(tmp_path):
    configs = [{"a": n // 8, "b": n // 4 % 2, "c": n // 2 % 2, "d": n % 2} for n in range(16)]
    runs = [Run(f"r{n}{i}", config=c, summary={"loss": n + i}) for n, c in enumerate(configs) for i in range(2)]
    runs += [Run("other", config={"a": 7, "b": 8, "c": 9, "d": 2}, summary={"loss": -9.0})]
    question = [write_runs(tmp_path, runs), "-g", "d,c,b,a", "-m", "loss", "--ascending"]
    out = answered(*question, COLUMNS="120").out
    heads, best = out.splitlines()[1].split(), out.splitlines()[3].split()
    settings = [cell for head, cell in zip(heads, best, strict=False) if head in "abcd"]
    answered(*question, "-o", tmp_path / "x.html")
    assert f'"{"/".join(settings)}"' in (tmp_path / "x.html").read_text("utf-8")
    assert "only one value in the first row\n" in out  # a name of many values cannot be read


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0], "there is only one group"),
        ([1.0, None], "3 of 6 runs have a finite value"),
        ([None, None], None),
        ([1.0, 2.0], "the first two rows differ (p ="),
    ],
)
def test_groups_of_many_columns_with_few_values(tmp_path, values, said):
    configs = [dict.fromkeys("abcd", n) for n in range(len(values))]
    runs = [
        Run(f"r{n}{i}", config=configs[n], summary={"x": 1} | ({"loss": value + i / 1000} if value else {}))
        for n, value in enumerate(values)
        for i in range(3)
    ]
    answer = ask(write_runs(tmp_path, runs), "-g", "a,b,c,d", "-m", "loss", "--ascending")
    if said is None:
        assert answer.code in (1, 2)
    else:
        assert (answer.code, said in answer.out) == (0, True), answer


def test_many_groups_are_told_apart_by_what_fits(tmp_path):
    """Settings that all groups shown have in common left no room for those that differ."""
    settings = [f"an_option_{i}" for i in range(8)]
    configs = [dict.fromkeys(settings, 1) | {"zeta": n} for n in range(6)]
    configs += [dict.fromkeys(settings, 1) | {option: 2, "zeta": 9} for option in settings for _ in range(2)]
    runs = [Run(f"r{n}", config=config, summary={"loss": float(n)}) for n, config in enumerate(configs)]
    answer = answered(write_runs(tmp_path, runs), "-g", "!seed", "-m", "loss", "--ascending")
    assert re.search(r"^n +mean +std +zeta ", answer.out, re.MULTILINE), answer.out


def test_best_per_keeps_groups_without_a_finite_value(tmp_path):
    runs = [
        Run(f"r{arch}{lr}", config={"arch": arch, "lr": lr}, summary={"test/mse": lr if arch == "good" else math.nan})
        for arch in ("good", "diverged")
        for lr in (0.1, 0.2)
    ]
    rows = document(write_runs(tmp_path, runs), "--best-per", "arch", "-g", "arch")["groups"]
    assert [(row["config_arch"], row["runs"], row["n"]) for row in rows] == [("good", 1, 1), ("diverged", 1, 0)]


def test_a_best_setting_of_missing_values_is_said_to_be_null(tmp_path):
    """`best of null:  (mean 3 of 2 runs)`."""
    runs = [Run(f"a{n}", config={"m": "x", "lr": n}, summary={"loss": 1.0 + n}) for n in range(2)]
    runs += [Run(f"b{n}", summary={"loss": 3.0}) for n in range(2)]
    err = answered(write_runs(tmp_path, runs), "--best-per", "m", "-g", "m").err
    assert "best of x: lr 0 (mean 1 of 1 run)" in err
    assert "best of null: null (mean 3 of 2 runs)" in err


# --- pivots ---------------------------------------------------------------------------------------------------


def test_a_pivot_has_mean_spread_and_n_and_marks_the_best(tmp_path):
    runs = [run for run in grid_runs() if not (run.config["model"] == "a" and run.config["k"] == 16)]
    file = write_runs(tmp_path, runs)
    rows = document(file, "--pivot", "model,k", "-m", "test/mse")["pivot"]
    cells = defaultdict(list)
    for run in runs:
        cells[run.config["model"], run.config["k"]].append(run.summary["test/mse"])
    assert {(row["rows"], row["columns"]) for row in rows} == set(cells)
    for row in rows:
        values = cells[row["rows"], row["columns"]]
        assert (row["n"], row["metric"]) == (3, MSE)
        assert row["mean"] == pytest.approx(statistics.fmean(values))
        assert row["std"] == pytest.approx(statistics.stdev(values))
        assert row["best_in_row"] == (row["columns"] == max(k for m, k in cells if m == row["rows"]))
    out = answered(file, "--pivot", "model,k", "-m", "test/mse").out.splitlines()
    assert out[0] == "test/mse by model and k: 2 rows x 3 columns; lower is better (guessed by name)"
    assert out[3].split() == ["a", "0.5100±0.0100", "(3)", "0.4100±0.0100", "(3)*"]
    assert out[4].split() == ["b", "0.4100±0.0100", "(3)°", "0.3100±0.0100", "(3)°", "0.2100±0.0100", "(3)*°"]
    assert "1 cell without a value" in " ".join(out[5:])


def test_a_pivot_of_round_means_has_short_deviations(tmp_path):
    runs = [Run(f"r{n}", config={"a": n // 2, "b": 1}, summary={"test/mse": float(n * n)}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "--pivot", "a,b").out
    assert [line.split()[1] for line in out.splitlines()[3:5]] == ["0.5±0.707107", "6.5±3.53553"]


def test_runs_that_diverged_are_counted_beside_pivots_and_importance(tmp_path):
    runs = [Run(f"r{n}", config={"a": n % 2, "b": n % 3}, summary={"test/mse": float(n)}) for n in range(12)]
    runs += [Run("nan", config={"a": 1, "b": 1}, summary={"test/mse": float("nan")}), Run("none")]
    text = "12 of 14 runs have a finite {}; left out: 1 without a value, 1 with NaN or infinity"
    file = write_runs(tmp_path, runs)
    assert text.format("value") in " ".join(answered(file, "--pivot", "a,b").out.split())
    assert text.format("test/mse") in " ".join(answered(file, "--importance").out.split())


# --- the best two groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "noisy"), [(0.5, True), (50.0, False)])
def test_within_noise_is_said(tmp_path: Path, shift: float, *, noisy: bool) -> None:
    runs = [Run(f"{g}{i}", config={"g": g}, summary={"x_loss": i + shift * (g == "b")}) for g in "ab" for i in range(4)]
    assert ("within noise" in answered(write_runs(tmp_path, runs), "--group-by", "g").out) is noisy


def test_noise_is_said_of_the_best_two_as_ranked(tmp_path: Path) -> None:
    values = {"best": [1.0], "second": [2.0, 2.1, 1.9], "third": [2.0, 2.2, 2.1]}
    runs = [Run(f"{g}{x}", config={"g": g}, summary={"x_loss": x}) for g, xs in values.items() for x in xs]
    out = answered(write_runs(tmp_path, runs), "--group-by", "g").out
    assert "the best two cannot be compared: only one value in best\n" in out
    assert "within noise: the best two," not in out


def test_the_p_value_of_the_best_two_is_told(tmp_path):
    values = {"a": [1.0, 1.2, 1.4, 1.1], "b": [1.9, 2.0, 2.4, 2.2], "c": [9.0, 9.5, 9.1, 9.2]}
    runs = [Run(f"{g}{x}", config={"g": g}, summary={"test/mse": x}) for g, xs in values.items() for x in xs]
    p = scipy.stats.ttest_ind(values["a"], values["b"], equal_var=False).pvalue
    file = write_runs(tmp_path, runs)
    assert f"(p = {p:.2g}, Welch's t-test)" in " ".join(answered(file, "-g", "g").out.split())
    out = answered(file, "-g", "g", "-m", "runtime_s", "--ascending").out
    assert "Welch" not in out
    assert "noise" not in out


def test_a_p_value_just_below_the_limit_is_not_shown_as_the_limit(tmp_path):
    """`differ (p = 0.05)`, where p of 0.05 means noise."""
    values = {"a": (0.0, 1.0, 2.0), "b": (2.271, 3.271, 4.271)}
    runs = [Run(f"{g}{v}", config={"g": g}, summary={"test/mse": v}) for g, those in values.items() for v in those]
    p = scipy.stats.ttest_ind(*values.values(), equal_var=False).pvalue
    out = " ".join(answered(write_runs(tmp_path, runs), "-g", "g").out.split())
    assert f"the best two, a and b, differ (p = {p:.4g}, Welch's t-test)" in out
    assert f"{p:.2g}" == "0.05"


def test_groups_that_do_not_vary_are_not_compared(tmp_path):
    """Four logs of one run looked like four seeds, and nothing was said."""
    runs = [Run(f"{g}{n}", config={"g": g}, summary={"test/mse": float(g == "a")}) for g in "ab" for n in range(4)]
    out = " ".join(answered(write_runs(tmp_path, runs), "-g", "g").out.split())
    assert "the best two were not tested: in each, all values are equal; check that no runs are copies" in out
    for run in runs:
        run.summary = {"test/mse": 1.0}
    assert "copies" not in answered(write_runs(tmp_path, runs), "-g", "g").out  # perhaps all are perfect


def test_one_group_is_no_comparison(tmp_path):
    file = write_runs(tmp_path, [Run(n, config={"g": 1}, summary={"test/mse": 1.0}) for n in "ab"])
    assert "only one group" in answered(file, "-g", "g").out


def test_a_note_on_the_best_two_shortens_long_values(tmp_path):
    nets = [f"Net({', '.join(['Linear(64, 64)'] * 9)}, out={n})" for n in range(2)]
    runs = [Run(f"r{n}", config={"net": nets[n]}, summary={"test/mse": 1.0 + n}) for n in range(2)]
    out = answered(write_runs(tmp_path, runs), "-g", "net").out
    assert (
        "the best two cannot be compared: only one value in Net(Linear(64, 64), Li…, Linear(64, 64), out=0) and"
        in out.replace("\n", " ")
    )


@pytest.mark.parametrize("column", ["history_rows", "runtime_s"])
def test_numbers_of_rows_and_run_times_are_not_compared_by_a_test(tmp_path, column):
    runs = [Run(f"r{n}", config={"k": n % 2}, history_rows=n) for n in range(6)]
    file = rewrite(write_runs(tmp_path, runs), runtime_s=pl.Series([60.0 * n for n in range(6)]))
    out = answered(file, "-m", column, "--ascending", "-g", "k").out
    assert "2 groups" in out
    assert "Welch" not in out


# --- statistics -----------------------------------------------------------------------------------------------

ODD_FLOATS = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]), st.none())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", None]), ODD_FLOATS), min_size=1, max_size=40),
    goal=st.sampled_from(["minimize", "maximize"]),
)
@example([("a", 524289.0), ("a", -524288.9999999999)], "minimize")
@example([("a", 0.0), ("a", -5e-324)], "minimize")
def test_statistics_equal_plain_python(rows: list[tuple[str | None, float | None]], goal: str) -> None:
    frame = pl.DataFrame(
        {
            "entity": ["e"] * len(rows),
            "project": ["p"] * len(rows),
            "id": [f"{i:03}" for i in range(len(rows))],
            "name": [f"run {i:03}" for i in range(len(rows))],
            "g": [group for group, _ in rows],
            "m": [value for _, value in rows],
        },
        schema_overrides={"g": pl.String, "m": pl.Float64},
    )
    runs = analyze_runs.Runs(frame.lazy(), frame.schema)
    metric = analyze_runs.Metric("m", "m", "m", goal, "as given")
    study = analyze_runs.Study(analyze_runs.parse_args([]), runs, runs, runs, [metric], ["g"], ["g"])
    table = analyze_runs.groups(study, metric).table
    assert table["runs"].sum() == len(rows)
    for row in table.to_dicts():
        values = [value for group, value in rows if group == row["g"]]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        assert row["runs"] == len(values)
        assert row["n"] == len(finite)
        assert row["n_nonfinite"] == len([value for value in values if value is not None]) - len(finite)
        if not finite:
            assert row["mean"] is None
            assert row["best_run"] is None
            continue
        assert (row["min"], row["max"]) == (min(finite), max(finite))
        # Of the two middle values, which may cancel each other; half of the smallest number is 0 or that number.
        rounding = 1e-15 * max(map(abs, finite)) + 5e-324
        assert row["median"] == pytest.approx(statistics.median(finite), abs=rounding)
        assert row["mean"] == pytest.approx(statistics.fmean(finite), rel=1e-9, abs=1e-6)
        best = min(finite) if goal == "minimize" else max(finite)
        ids = [f"{i:03}" for i, (group, value) in enumerate(rows) if group == row["g"] and value == best]
        assert (row["best_run_id"], row["best_run"]) == (ids[0], f"run {ids[0]}")
        if len(finite) == 1:
            assert row["std"] is row["sem"] is row["ci_low"] is None
        else:
            assert row["std"] == pytest.approx(statistics.stdev(finite), rel=1e-7, abs=1e-6)
            reach = scipy.stats.t.ppf(0.975, len(finite) - 1) * row["std"] / math.sqrt(len(finite))
            assert row["ci_high"] - row["mean"] == pytest.approx(reach, rel=1e-6, abs=1e-6)
    means = [mean for mean in table["mean"] if mean is not None]
    assert means == sorted(means, reverse=goal == "maximize")
    assert table["mean"].to_list()[: len(means)] == means


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


@pytest.mark.parametrize("freedom", [*range(1, 121), 500, 999, 1000, 1001, 5000, 10**6])
def test_t_quantile_equals_scipy(freedom: int) -> None:
    assert analyze_runs.t_quantile(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-9)


def test_the_incomplete_beta_function_at_its_ends_and_with_any_exponents_equals_scipys() -> None:
    for a, b, x in [(1.0, 0.5, 0.0), (1.0, 0.5, 1.0), (0.5, 0.5, 0.3), (40.0, 0.5, 0.999), (2.0, 9.0, 1e-9)]:
        assert analyze_runs.incomplete_beta(a, b, x, 1 - x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 10, 99.5, 1000])
@pytest.mark.parametrize("t", [1e-6, 0.1, 1, 2.5, 10, 60])
def test_p_values_are_exact_up_to_a_thousand_degrees(freedom, t):
    p = analyze_runs.incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t))
    assert p == pytest.approx(2 * scipy.stats.t.sf(t, freedom), rel=1e-9)


def test_welchs_p_of_equal_groups_without_spread_or_far_apart_equals_scipys() -> None:
    constant = (1.2, 0.0, 5)
    groups = [(1.0, 0.5, 3), constant, (-4.0, 2.5, 12), (1.0, 0.1, 40), (1e9, 0.1, 2)]
    for one, other in itertools.product(groups, groups):
        if one == other == constant:
            assert analyze_runs.welch_p(one, other) is None
        else:
            wanted = scipy.stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue
            assert analyze_runs.welch_p(one, other) == pytest.approx(wanted, rel=1e-9)


@given(
    st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=40),
    st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=500),
)
def test_welchs_p_of_any_values_equals_scipys(one, other):
    assume(min(np.std(one), np.std(other)) >= 1e-3)
    theirs = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    ours = analyze_runs.welch_p(*((np.mean(x), np.std(x, ddof=1), len(x)) for x in (one, other)))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-290)


@pytest.mark.parametrize(
    ("stat", "scipys"), [("median", np.median), ("iqm", lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis))]
)
def test_bootstrap_intervals_equal_scipys(tmp_path, stat, scipys):
    values = np.random.default_rng(1).lognormal(size=40)
    runs = [Run(f"r{n}", config={"g": "x"}, summary={"test/mse": float(value)}) for n, value in enumerate(values)]
    (row,) = document(write_runs(tmp_path, runs), "--group-by", "g", "-m", "test/mse", "--stat", stat)["groups"]
    theirs = scipy.stats.bootstrap(
        (values,), scipys, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert row[stat] == pytest.approx(scipys(values, axis=0))
    spread = theirs.high - theirs.low
    assert abs(row["ci_low"] - theirs.low) < 0.06 * spread
    assert abs(row["ci_high"] - theirs.high) < 0.06 * spread


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
@settings(max_examples=30)
def test_the_iqm_is_the_mean_of_the_middle_half(values):
    found, low, high = analyze_runs.bootstrap(values, "iqm")
    assert found == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-6)
    assert (low is None) == (high is None) == (len(values) < 8)
    assert len(values) < 8 or min(values) - 1e-6 <= low <= high <= max(values) + 1e-6


@pytest.mark.parametrize(("n", "bounded", "rough"), [(7, False, True), (8, True, True), (20, True, False)])
def test_few_values_have_no_bootstrap_interval(tmp_path, n, bounded, rough):
    runs = [Run(f"r{i:02}", config={"g": 1}, summary={"test/mse": float(i)}) for i in range(n)]
    file = write_runs(tmp_path, runs)
    (row,) = document(file, "-g", "g", "--stat", "median")["groups"]
    assert (row["ci_low"] is not None) is bounded
    assert ("approximate below 20" in " ".join(answered(file, "-g", "g", "--stat", "median").out.split())) is rough
