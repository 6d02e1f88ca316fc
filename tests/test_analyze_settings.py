"""Questions about settings and columns: --varying and its grid, --diff, --importance, --schema."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import scipy
from analyze import MSE, answered, ask, document, example_file, grid_runs, rewrite, with_metadata  # noqa: F401 - fixtures
from contract_files import Run, write_runs

if TYPE_CHECKING:
    from pathlib import Path

# --- what varies ----------------------------------------------------------------------------------------------


def test_varying_names_values_holes_missing_seeds_and_doubles(tmp_path):
    runs = [run for run in grid_runs() if run.id not in {"a160", "a161", "a162", "b82"}]
    runs.append(Run("again", "again", dict(runs[0].config) | {"out_dir": "elsewhere"}, {"test/mse": 1}))
    done = answered(write_runs(tmp_path, runs), "--varying", "--json")
    rows = json.loads(done.out)["varying"]
    assert {(row["column"], row["value"]): row["runs"] for row in rows if row["column"] == "config_k"} == {
        ("config_k", 4): 7, ("config_k", 8): 5, ("config_k", 16): 3,
    }  # fmt: skip
    assert {row["column"] for row in rows} == {"config_model", "config_k", "config_seed"}
    grid = {(row["config_model"], row["config_k"], row["problem"]) for row in json.loads(done.out)["grid"]}
    assert grid == {("a", 16, "no run"), ("b", 8, "lacks seed 2"), ("a", 4, "2 runs with seed 0")}
    assert "grid of k (3), model (2): 5 of 6 combinations have a run" in done.err


def test_varying_marks_what_only_failed(tmp_path):
    runs = [run for run in grid_runs() if run.id not in {"b40", "b41", "b42"}]
    for run in runs:
        run.state = "crashed" if run.id.startswith("a16") else "finished"
    grid = document(write_runs(tmp_path, runs), "--varying")["grid"]
    problems = {(row["config_model"], row["config_k"]): row["problem"] for row in grid}
    assert problems == {("a", 16): "only runs in other states", ("b", 4): "no run"}


def test_varying_lists_the_most_frequent_value_first(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": 8 if n else 2}, summary={"loss": n}) for n in range(3)])
    answer = answered(file, "--varying")
    assert answer.out.startswith("1 varying config column of 3 runs\n")
    assert "8 (2), 2 (1)" in answer.out
    assert [(row["value"], row["runs"]) for row in document(file, "--varying")["varying"]] == [(8, 2), (2, 1)]


def test_values_that_differ_in_their_middle_do_not_look_alike(tmp_path):
    layers = ["Linear(64, 64)"] * 5
    nets = [f"Net({', '.join([*layers, f'Linear(64, {n})', *layers])})" for n in range(2)]
    file = write_runs(tmp_path, [Run(f"r{n}", config={"net": nets[n % 2]}, summary={"loss": n}) for n in range(6)])
    assert {*re.findall(r"64, (\d)\)", answered(file, "--varying").out)} == {*"01"}


def test_a_setting_with_a_blank_name_is_called_by_its_column(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"": n % 2}, summary={"loss": n}) for n in range(4)])
    assert answered(file, "--varying").out.splitlines()[3].split()[0] == "config_"


def test_a_run_that_ended_before_it_had_a_config_varies_nothing(tmp_path):
    """All settings of the others varied: each of them, or null."""
    runs = [Run(f"r{n}", config={"lr": n % 2, "k": 8, "opt": "a"}, summary={"loss": n}) for n in range(4)]
    file = write_runs(tmp_path, [*runs, Run("early", summary={"loss": 9.0})])
    found = document(file, "--varying")["varying"]
    assert [(row["column"], row["value"], row["runs"]) for row in found] == [
        ("config_lr", 0, 2),
        ("config_lr", 1, 2),
        ("config_lr", None, 1),
    ]
    rows = document(file, "-g", "!seed", "-m", "loss")["groups"]
    assert [(row["config_lr"], row["n"]) for row in rows] == [(0, 2), (1, 2), (None, 1)]


# --- the grid of what varies ----------------------------------------------------------------------------------


def test_runs_of_a_random_search_do_not_repeat_each_other(tmp_path):
    """They differ in a setting of many values, which is no axis of the grid."""
    runs = [Run(f"{n}", config={"opt": "ab"[n % 2], "bs": n // 20, "lr": n / 7}) for n in range(40)]
    runs += [Run(f"again {n}", config={"opt": "b", "bs": 3, "lr": 9.0}) for n in range(2)]
    grid = document(write_runs(tmp_path, runs), "--varying")["grid"]
    assert [row for row in grid if row["problem"] != "no run"] == [
        {"config_bs": 3, "config_opt": "b", "problem": "2 runs"}
    ]


def test_rows_of_the_grid_can_be_told_apart(tmp_path):
    """Six settings that were the same in all rows left no room for the one that differs."""
    few = [
        {f"a_setting_with_a_long_name_{i}": (0 if n < 4 else n % 2) for i in range(4)} | {"z": n // 2} for n in range(4)
    ]
    others = [{f"a_setting_with_a_long_name_{i}": n >> i & 1 for i in range(4)} | {"z": 9} for n in range(1, 16)]
    runs = [Run(f"r{n}", config=config, summary={"loss": n}) for n, config in enumerate([*few, *others])]
    lines = answered(write_runs(tmp_path, runs), "--varying").out.partition("\ngrid of ")[2].splitlines()
    head = next(line for line in lines if line.startswith("repeats and gaps"))
    assert head.split("  ")[1].strip() == "z"


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


def test_missing_seeds_are_in_the_order_of_numbers(tmp_path):
    runs = [
        Run(f"r{k}{seed}", config={"k": k, "seed": seed}, summary={"test/mse": 1.0})
        for k in range(3)
        for seed in (2, 10, 1)
        if k < 2 or seed == 1
    ]
    assert [row["problem"] for row in document(write_runs(tmp_path, runs), "--varying")["grid"]] == ["lacks seed 2, 10"]


# --- what differs ---------------------------------------------------------------------------------------------


def test_diff_shows_only_what_differs(tmp_path):
    one = Run("a", "first", {"lr": "1e-3", "k": 4, "same": 1, "nan": math.nan}, {"loss": 1.0})
    two = Run(
        "b", "second", {"lr": "0.001", "k": 8, "same": 1, "nan": math.nan}, {"loss": 2.0, "acc": 3}, state="failed"
    )
    file = write_runs(tmp_path, [one, two])
    rows = {row["column"]: row for row in document(file, "--diff", "first", "b")["diff"]}
    assert rows["config_k"] == {"column": "config_k", "kind": "config", "a": 4, "b": 8}
    assert rows["metric_acc"] == {"column": "metric_acc", "kind": "metric", "a": None, "b": 3}
    assert rows["state"] == {"column": "state", "kind": "identity", "a": "finished", "b": "failed"}
    assert not {"config_lr", "config_same", "config_nan"} & rows.keys()
    assert [line.split() for line in answered(file, "--diff", "a", "b").out.splitlines()[-1:]] == [["loss", "1", "2"]]


def test_diff_counts_and_puts_the_config_first(tmp_path):
    one = Run("a", "same", {"lr": 1, "k": 1}, {"loss": 1.0, "acc": 1.0})
    two = Run("b", "same", {"lr": 2, "k": 1}, {"loss": 2.0, "acc": 1.0})
    out = answered(write_runs(tmp_path, [one, two]), "--diff", "a", "b").out
    assert "1 of 2 config columns and 1 of 2 metric columns differ between same (a), same (b)" in " ".join(out.split())
    assert out.index("lr") < out.index("loss")


def test_a_diff_tells_of_tags_and_code(tmp_path):
    file = write_runs(tmp_path, [Run("a", tags=["x"]), Run("b")])
    rewrite(file, commit=pl.Series(["1f", "2e"]), command=pl.Series(["a.py", "a.py --fast"]))
    rows = {row["column"]: row for row in document(file, "--diff", "a", "b")["diff"]}
    assert rows["tags"] == {"column": "tags", "kind": "identity", "a": ["x"], "b": []}
    assert {"commit", "command"} <= rows.keys()


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


def test_a_diff_takes_no_text_for_a_number_that_json_would_not(tmp_path):
    texts = {"underlined": ("1_0", "10"), "blank": (" 1", "1"), "name": ("nan", "NaN"), "number": ("1e-3", "0.001")}
    texts["long"] = ("12345678901234567890", "12345678901234567891")
    runs = [Run("ab"[n], config={key: pair[n] for key, pair in texts.items()}) for n in range(2)]
    rows = document(write_runs(tmp_path, runs), "--diff", "a", "b")["diff"]
    assert {row["column"] for row in rows} - {"name"} == {f"config_{key}" for key in texts if key != "number"}


def test_versions_that_are_equal_as_numbers_differ(tmp_path):
    texts = {"torch": ("2.1", "2.10"), "part": ("7", "007"), "lr": ("1e-3", "0.001"), "n": ("1.0", "1")}
    file = write_runs(
        tmp_path, [Run(each, config={k: pair[n] for k, pair in texts.items()}) for n, each in enumerate("ab")]
    )
    rows = document(file, "--diff", "a", "b")["diff"]
    assert {row["column"]: (row["a"], row["b"]) for row in rows if row["kind"] == "config"} == {
        f"config_{name}": texts[name] for name in ("part", "torch")
    }


def test_ids_like_our_columns_stay_apart(tmp_path):
    file = write_runs(tmp_path, [Run("column", config={"k": 1}), Run("kind", config={"k": 2})])
    (row,) = [r for r in document(file, "--diff", "column", "kind")["diff"] if r["column"] == "config_k"]
    assert row == {"column": "config_k", "kind": "config", "team/demo/column": 1, "team/demo/kind": 2}


# --- what differs: which runs ---------------------------------------------------------------------------------


def test_a_run_that_several_are_called_is_refused(tmp_path):
    file = write_runs(tmp_path, [Run("a", "same"), Run("b", "same")])
    done = ask(file, "--diff", "same", "a")
    assert done.code == 2
    assert "2 runs are called same; choose one: team/demo/a, team/demo/b" in done.err


def test_runs_of_one_name_are_named_so_that_they_can_be_copied(tmp_path):
    """`an-institute-of-s…p_project/0h28gopz` is no run."""
    entity, project = "an-institute-of-some-length", "a-project-of-some-length"
    runs = [Run(f"id{n}", "same") for n in range(6)]
    answer = ask(write_runs(tmp_path, runs, entity=entity, project=project), "--diff", "same", "id1")
    paths = [f"{entity}/{project}/id{n}" for n in range(5)]
    assert answer == (2, "", f"error: 6 runs are called same; choose one: {', '.join(paths)} …\n")


def test_a_diff_takes_the_name_that_it_suggests_for_a_run_without_an_entity(tmp_path):
    file = write_runs(tmp_path, [Run(each, "same", {"k": n}) for n, each in enumerate("ab")])
    file = rewrite(file, entity=pl.lit(None, pl.String))
    answer = ask(file, "--diff", "same", "b")
    assert (answer.code, answer.out) == (2, "")
    assert "null/demo/a" in answer.err
    rows = document(file, "--diff", "null/demo/a", "null/demo/b")["diff"]
    assert [row["column"] for row in rows] == ["config_k"]


def test_a_folder_called_like_a_run_of_a_diff_is_no_input_beside_another(tmp_path):
    write_runs(tmp_path / "in", [Run("a", "baseline", {"lr": 1}), Run("b", "big", {"lr": 2})])
    (tmp_path / "baseline").mkdir()
    assert ask("in", "--diff", "baseline", "big", cwd=tmp_path).code == 0
    assert ask("--diff", "a", "b", "in", cwd=tmp_path).code == 0
    more = write_runs(tmp_path / "more", [Run("c", "third", {"lr": 3})], project="other")
    assert ask("in", "--diff", "a", "c", more, cwd=tmp_path).code == 0


# --- importance -----------------------------------------------------------------------------------------------


def test_a_planted_effect_comes_first(tmp_path):
    random = np.random.default_rng(3)
    runs = []
    for n in range(120):
        lr, opt, noise = 10 ** random.uniform(-4, -1), ("adam", "sgd")[n % 2], random.normal()
        value = math.log10(lr) + 0.3 * noise + (0.8 if opt == "sgd" else 0)
        config = {"lr": lr, "opt": opt, "junk": random.normal(), "color": "rgb"[n % 3]}
        runs.append(Run(f"r{n}", config=config, summary={"test/mse": value}))
    file = write_runs(tmp_path, runs)
    rows = document(file, "--importance", "-m", "test/mse")["importance"]
    assert [row["column"] for row in rows][:2] == ["config_lr", "config_opt"]
    values = [run.summary["test/mse"] for run in runs]
    rho = scipy.stats.spearmanr([run.config["lr"] for run in runs], values).statistic
    assert rows[0]["spearman"] == pytest.approx(rho)
    h = scipy.stats.kruskal(
        *([v for v, run in zip(values, runs, strict=True) if run.config["opt"] == o] for o in ("adam", "sgd"))
    ).statistic
    assert rows[1]["effect"] == pytest.approx((h - 1) / (120 - 2))
    assert rows[0]["p"] < 0.001
    assert all(row["effect"] < 0.1 and row["p"] > 0.01 for row in rows[2:])
    out = answered(file, "--importance", "-m", "test/mse").out
    assert "association is not cause" in out
    assert 0 < float(out.splitlines()[3].split()[-1]) < 1e-9  # not rounded to 0


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
    (line,) = [line for line in answered(tmp_path, "--importance").out.splitlines() if line.startswith("u ")]
    assert line.split()[3] == "~"  # it said `-`: the more, the better


def test_what_may_be_chance_has_a_sign_but_no_curve(tmp_path):
    noise = np.random.default_rng(14).normal(size=40)  # effect 0.11, p 0.15, spearman -0.13
    runs = [Run(f"r{n}", config={"k": n % 10}, summary={"test/mse": noise[n]}) for n in range(40)]
    out = answered(write_runs(tmp_path, runs), "--importance").out
    assert "~" not in out


def test_the_sign_of_an_association(tmp_path: Path) -> None:
    runs = [Run(f"{n}", config={"up": n, "down": -n}, summary={"test/mse": float(n)}) for n in range(12)]
    lines = answered(write_runs(tmp_path, runs), "--importance", "-m", "test/mse").out.splitlines()
    signs = {words[0]: sign for line in lines if (words := line.split()) for sign in "+-" if sign in words}
    assert (signs["up"], signs["down"]) == ("+", "-")


def test_the_effect_of_a_number_is_that_of_its_groups(tmp_path):
    values = [(n % 4, (n % 4) * 2.0 + math.sin(n)) for n in range(40)]
    runs = [Run(f"r{n}", config={"k": k}, summary={"test/mse": v}) for n, (k, v) in enumerate(values)]
    (row,) = document(write_runs(tmp_path, runs), "--importance")["importance"]
    h = scipy.stats.kruskal(*([v for k, v in values if k == level] for level in range(4))).statistic
    assert row["effect"] == pytest.approx((h - 3) / 36)


def test_the_p_value_of_an_importance_is_that_of_the_f_test_of_ranks(tmp_path):
    random = np.random.default_rng(5)
    values = random.normal(size=60).round(1)  # with ties
    groups = {
        "chance": random.integers(0, 4, 60).tolist(),
        "some": [int(value > 0.3) if n % 3 else n % 2 for n, value in enumerate(values)],
        "rare": [n if n < 3 else None for n in random.integers(0, 5, 60).tolist()],
    }
    columns = {name: [*map(str, column)] if name == "some" else column for name, column in groups.items()}
    runs = [
        Run(f"r{n}", config={k: c[n] for k, c in columns.items()}, summary={"test/mse": v})
        for n, v in enumerate(values.tolist())
    ]
    file = write_runs(tmp_path, runs)
    rows = {row["column"]: row for row in document(file, "--importance", "-m", "test/mse")["importance"]}
    for name, column in groups.items():
        samples = [[v for v, g in zip(values, column, strict=True) if g == group] for group in {*column} - {None}]
        expected = scipy.stats.kruskal(*samples)
        ranks = iter(scipy.stats.rankdata(np.concatenate(samples)))
        row, n, k = rows[f"config_{name}"], sum(map(len, samples)), len(samples)
        assert row["effect"] == pytest.approx(max(0, (expected.statistic - k + 1) / (n - k)))
        of_ranks = scipy.stats.f_oneway(*([next(ranks) for _ in sample] for sample in samples))
        assert row["p"] == pytest.approx(of_ranks.pvalue, rel=1e-9)


def test_the_ranks_of_whole_numbers_beyond_the_exact_floats(tmp_path):
    """Beside a setting of floats they became floats first, all the same: the setting had no sign."""
    runs = [Run(f"r{n}", config={"lr": n / 10}, summary={"tokens": 2**60 + n}) for n in range(12)]
    (row,) = document(write_runs(tmp_path, runs), "--importance", "-m", "tokens", "--descending")["importance"]
    assert row["spearman"] == pytest.approx(1)


def test_a_single_run_is_no_proof(tmp_path):
    """A setting of one run, the worst one, has a p above 2 / n, whatever a run without the setting reached."""
    configs = [{"steps": 3}, {}] + [{"steps": 240} for _ in range(40)]
    runs = [Run(f"r{n}", config=config, summary={"test/mse": n + 1.0}) for n, config in enumerate(configs)]
    row = document(write_runs(tmp_path, runs), "--importance", "-m", "test/mse")["importance"][0]
    assert row["p"] == pytest.approx(scipy.stats.f_oneway([41], range(1, 41)).pvalue)
    assert row["p"] > 2 / 41


def test_too_few_runs_are_not_ranked(tmp_path):
    done = answered(write_runs(tmp_path, grid_runs()[:6]), "--importance", "-m", "test/mse", "--json")
    assert json.loads(done.out)["importance"] == []
    assert "too few to rank settings: 6 runs with a finite value; 10 are needed" in done.err


def test_a_setting_of_one_finite_value_is_not_ranked(tmp_path: Path) -> None:
    runs = [Run(f"r{n}", config={"x": 1.0 if n else math.nan, "y": n}, summary={"loss": n}) for n in range(12)]
    rows = json.loads(answered(write_runs(tmp_path, runs), "--importance", "--json").out)["importance"]
    assert [row["column"] for row in rows] == ["config_y"]


def test_the_definition_of_a_sweep_is_no_setting(tmp_path):
    """It was passed to wandb.init() as the config, and differs from sweep to sweep."""
    runs = []
    for n in range(12):
        sweep = {"parameters": {"lr": {"values": [n % 3, 4]}, "wd": {"min": n % 4}, "values": n % 2}}
        runs.append(Run(f"r{n}", config={"lr": n % 3, **sweep}, summary={"acc": n / 10}))
    out = answered(write_runs(tmp_path, runs), "--importance", "-m", "acc").out
    assert {line.split()[0] for line in out.splitlines() if " number " in line} == {"lr", "parameters.values"}
    assert "or differ in every run: parameters.lr.values, parameters.wd.min" in " ".join(out.split())


def test_importance_says_for_which_metric(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n % 5}, summary={"a_loss": n % 5, "b_loss": n % 3}) for n in range(20)]
    rows = document(write_runs(tmp_path, runs), "--importance", "-m", "a_loss,b_loss")["importance"]
    assert {row["metric"] for row in rows} == {"metric_a_loss", "metric_b_loss"}


# --- schema ---------------------------------------------------------------------------------------------------


def test_schema_describes_every_column(runs_file: Path) -> None:
    rows = {row["column"]: row for row in document(runs_file, "--schema")["schema"]}
    assert rows["config_model_k"] == {
        "column": "config_model_k",
        "kind": "config",
        "dtype": "Int64",
        "path": "model.k",
        "coverage": 12 / 17,  # of all runs, whatever their state
        "distinct": 2,
        "min": 8.0,
        "max": 16.0,
        "example": "8",
    }
    assert (rows[MSE]["min"], rows[MSE]["max"]) == (0.001, pytest.approx(0.072))  # of the finite values
    assert rows["created_at"]["dtype"] == "Datetime[us, UTC]"
    assert rows["tags"]["dtype"] == "List[String]"
    assert rows["config_model_arch"]["kind"] == "config"
    assert {row["kind"] for row in rows.values()} == {"metric", "config", "identity"}
    assert len(rows) == len(pl.read_parquet_schema(runs_file)) - 2  # but for the two of JSON text
    assert [row["column"] for row in document(runs_file, "--schema", "--columns", "model.k")["schema"]] == [
        "config_model_k"
    ]


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


def test_numbers_of_a_schema_are_spelt_each_for_itself(tmp_path):
    """Whole numbers stood as 2.000 beside 0.707 of another column."""
    file = write_runs(tmp_path, [Run("a", config={"epochs": 2}, summary={"loss": 0.70712})])
    rows = [line.split() for line in answered(file, "--schema").out.splitlines()]
    assert ["config_epochs", "1", "1", "2", "2", "2", "Int64"] in [row[:7] for row in rows]
    assert ["metric_loss", "1", "1", "0.7071", "0.7071", "0.70712", "Float64"] in [row[:7] for row in rows]


def test_a_schema_shows_the_name_of_a_metric_whose_column_has_a_hash(tmp_path):
    """The metric that the scripts choose by default, `train/loss`, stood nowhere."""
    file = write_runs(tmp_path, [Run(run, summary={"train_loss": 1.0}) for run in "ab"])
    rewrite(file, metric_train_loss__d5308e80=pl.Series([2.0, 3.0]))
    paths = {"metric_train_loss": ["train_loss"], "metric_train_loss__d5308e80": ["train/loss"]}
    answer = answered(with_metadata(file, columns=json.dumps(paths)), "--schema")
    names = {line.split()[0] for line in answer.out.splitlines() if line}
    assert {"metric_train_loss", "train/loss"} <= names
    assert not [name for name in names if "__" in name]


def test_the_schema_of_some_runs_names_only_their_histories(tmp_path):
    columns = {"history_min_step_loss": pl.Series([1, None]), "history_min_step_acc": pl.Series([None, 1])}
    file = rewrite(write_runs(tmp_path, [Run("a"), Run("b")]), **columns)
    assert "tail and at: loss\n" in answered(file, "--schema", "--where", "id = 'a'").out


# --- schema: wide files ---------------------------------------------------------------------------------------


def test_a_long_schema_keeps_some_of_every_kind(tmp_path: Path) -> None:
    config = {f"option_{chr(97 + i // 26)}{chr(97 + i % 26)}": i for i in range(200)}
    out = answered(write_runs(tmp_path, [Run("a", config=config, summary={"test/mse": 1.0})]), "--schema").out
    assert "metric_test_mse" in out
    assert "created_at" in out
    assert "config_option_aa" in out
    assert len(out.encode()) < 4096
    assert "more rows: use --max-rows 0 for all" in out


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


def test_a_name_with_the_sign_for_numbers_is_no_number(tmp_path):
    names = [f"a/x/loss{end}" for end in ("#", "1", "2", "3")] + [f"z{n}" for n in range(60)]
    file = write_runs(tmp_path, [Run("a", summary=dict.fromkeys(names, 1.0))])
    out = answered(file, "--schema").out
    assert "a/…/loss1…3" in out
    assert "metric_a_x_loss_ " in out


def test_a_long_name_leaves_room_for_what_a_schema_tells(tmp_path):
    """All columns but the names were dropped, as names are not cut."""
    runs = [Run(f"r{n}", summary={"loss": 7 + n, f"{'logger object at ' * 6}/loss": 0.5}) for n in range(2)]
    lines = answered(write_runs(tmp_path, runs), "--schema").out.splitlines()
    assert lines[1].split()[:5] == ["column", "cover", "values", "min", "max"]
    assert max(map(len, lines)) <= 80


def test_schema_has_no_flag_for_the_columns_that_do_not_fit(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"k" * 40 + str(n): "v" * 60 for n in range(3)})])
    out = answered(file, "--schema").out
    assert "too wide" in out
    assert "--columns" not in out
