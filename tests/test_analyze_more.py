"""The other questions of analyze_runs.py: pivots, curves, what varied, what differs; pictures and pages."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import statistics
import subprocess
import xml.etree.ElementTree as ET
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import analyze_runs
import numpy as np
import polars as pl
import pytest
import scipy
import vl_convert
from contract_files import Run, write_rows, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_analyze_runs import answered, ask, document

MSE = "metric_test_mse"
analyze_runs.import_libraries()
bundle = functools.cache(vl_convert.javascript_bundle)


@pytest.fixture(autouse=True)
def one_bundle(monkeypatch) -> None:
    """The library that draws charts in pages is the same in all of them, and takes a second to put together."""
    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)


def grid_runs() -> list[Run]:
    """Two models x three k x three seeds: 0.1 better with each doubling of k, 0.01 of noise by seed."""
    runs = []
    for model, base in (("a", 0.5), ("b", 0.4)):
        for k in (4, 8, 16):
            for seed in range(3):
                value = base - 0.1 * math.log2(k / 4) + 0.01 * seed
                config = {"model": model, "k": k, "seed": seed, "out_dir": f"/tmp/{model}{k}{seed}", "fixed": 1}
                runs.append(
                    Run(f"{model}{k}{seed}", f"{model}_{k}_{seed}", config, {"test/mse": value, "test/acc": 1 - value})
                )
    return runs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_runs(tmp_path, grid_runs())


def write_history(folder: Path, rows: list[tuple]) -> Path:
    """Rows of run id, step, epoch and loss, beside the runs file of `write_runs`."""
    schema = {"run_id": pl.String, "_step": pl.Int64, "metric_epoch": pl.Float64, "metric_loss": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(entity=pl.lit("team"), project=pl.lit("demo"))
    target = folder / "team_demo_history.parquet"
    frame.sort("run_id", "_step").write_parquet(target)
    return target


# --- which runs, which values ---------------------------------------------------------------------------------


def test_where(file):
    done = answered(file, "--where", "config_k > 4 AND config_model = 'b'", "--group-by", "k", "-m", "test/mse")
    assert "--where config_k > 4 AND config_model = 'b': 6 of 18 runs kept" in done.err


@pytest.mark.parametrize(
    "where",
    ["k > 4 AND model = 'b'", "\"k\" > 4 AND config_model = 'b'", "\"test/mse\" < 0.33 AND k > 4 AND model = 'b'"],
)
def test_where_takes_wandbs_names(file, where):
    assert sum(row["n"] for row in document(file, "--where", where, "--group-by", "k", "-m", "test/mse")["groups"]) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--where", "config_q > 1"], 2, 'there is no column "config_q"; similar ones: "config_k"'),
        (["--where", "config_k >"], 2, "syntax error"),
        (["--where", "group = 'x'"], 2, 'W&B names and SQL words ("group") in double quotes'),
        (["--where", "tags = 'x'"], 2, "; write list_contains(tags, 'NAME')"),
        (["--where", "config_k"], 2, "is not a condition"),
        (["--where", "true) AS keep, (2"], 2, 'syntax error at or near ")"'),
        (["--where", "config_k > 99"], 1, "--where config_k > 99: 0 of 18 runs kept"),
        (["--pivot", "k"], 2, "write two columns"),
        (["--diff", "a_4_0"], 2, 'needs at least two different runs; --sql "SELECT _config_json'),
        (["--project", "demo", "-t", "1"], 2, "there is no --project here; write --where \"project = 'NAME'\""),
        (["-t", "1", "--since=7d"], 2, "there is no --since here; write --where \"created_at >= '2026-01-31'\""),
        (["-e", "team"], 2, "there is no -e here; write --where \"entity = 'NAME'\""),
        (["--pivot", "!k,model,out_dir"], 2, "write two columns"),
        (["--best-per", "k,model"], 2, "no other setting varies, seeds apart: there is nothing to choose"),
        (["--", "-p"], 1, "-p does not exist"),
        (["--sql", "SELECT nope FROM runs"], 2, "--sql 'DESCRIBE history' those of another view"),
        (["--sql", "SELECT r.nope FROM runs r"], 2, "--sql 'DESCRIBE history' those of another view"),
        (["--sql", 'SELECT "r.test/ms" FROM runs r JOIN runs s ON r.id = s.id'], 2, 'similar ones: r."test/mse"'),
        (["--where", "model > 3"], 2, ", and a column of text as numbers: TRY_CAST(NAME AS DOUBLE)"),
        (["--diff", "a_4_0", "a_4_9"], 2, "no run is called a_4_9; did you mean a_4_"),
        (["--value", "min", "--top", "3", "-m", "test/mse"], 2, "aggregate_runs.py --history adds such columns"),
        (
            ["--value", "at", "--top", "3", "-m", "test/mse"],
            2,
            "aggregate_runs.py --history --at METRIC adds such columns",
        ),
        (["--curves", "loss"], 1, "these runs have no history file"),
        (["--group-by", "model:3"], 2, "error: model:3: ranges need a column of numbers"),
        (["--pivot", "model:3,k"], 2, "error: model:3: ranges need a column of numbers"),
        (["--report", "x.pdf"], 2, "must end in one of .html, .md"),
        (["--schema", "-o", "x.png"], 2, "there is nothing to draw"),
    ],
)
def test_refusals_are_one_line_that_helps(file, tmp_path, arguments, code, said):
    done = ask(file, *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in done.err.splitlines()[-1]


def test_one_picture_of_several_answers_is_named(file, tmp_path):
    two = [file, "-g", "k", "-m", "test/mse", "-m", "test/acc", "-t", 1]
    assert (
        "svg holds one picture: groups; left out: top, test/acc by k\n" in answered(*two, "-o", tmp_path / "x.svg").err
    )
    assert "csv holds one table: groups; left out: top\n" in answered(*two, "--format", "csv").err


def test_which_curves_are_shown_is_said_as_it_is(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}") for n in range(9)])
    write_history(tmp_path, [(f"r{n}", 0, float(n), float(n)) for n in range(9)])
    assert "the 8 with the lowest last value are shown; 1 more: " in answered(file, "--curves", "epoch").out
    assert "the 8 with the best last value are shown; 1 more: " in answered(file, "--curves", "loss").out


def test_a_single_row_of_an_answer(file):
    assert answered(file, "--sql", "FROM runs SELECT id", "--max-rows", 1).out.startswith("the first 1 row\n")


def test_what_best_per_advises(file):
    more = "choose with -m VALIDATION, judge by a second -m TEST\n"
    assert more in answered(file, "--best-per", "model", "-m", "test/mse", "-g", "model").err
    two = answered(file, "--best-per", "model", "-m", "test/mse", "-m", "test/acc", "-g", "model").err
    assert "its values look better than they are; judge by the others\n" in two
    assert "and the best of" not in two
    assert "and the best of 8 more\n" in answered(file, "--best-per", "out_dir", "-m", "test/mse", "-g", "k").err


def test_steps_of_the_best_are_no_metrics_of_the_histories(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    pl.read_parquet(file).with_columns(history_min_loss=1.0, history_min_step_loss=3).write_parquet(file)
    said = ask(file, "-t", 1, "-m", "nope", "--value", "min").err
    assert said.endswith("there is no column history_min_nope; the histories have loss\n")


def test_values_from_histories(tmp_path):
    file = write_runs(tmp_path, grid_runs()[:3])
    frame = pl.read_parquet(file).with_columns(
        pl.Series("history_min_test_mse", [3.0, 1.0, 2.0]), pl.Series("history_at_test_mse", [1.0, 2.0, 3.0])
    )
    frame.write_parquet(
        file, metadata={k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb")}
    )
    rows = document(file, "--top", 3, "-m", "test/mse", "--value", "min")["top"]
    assert [row["history_min_test_mse"] for row in rows] == [1.0, 2.0, 3.0]
    done = answered(file, "--top", 1, "-m", "test/mse", "--value", "at")
    assert "Best 1 run by test/mse (at the best step); lower is better (guessed by name)" in done.out


# --- groups ---------------------------------------------------------------------------------------------------


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


def test_quantile_bins(tmp_path):
    runs = [Run(f"r{n}", config={"lr": 10.0**-n}, summary={"test/mse": n}) for n in range(8)]
    runs.append(Run("none", summary={"test/mse": 9}))
    rows = document(write_runs(tmp_path, runs), "--group-by", "lr:2", "-m", "test/mse")["groups"]
    bins = [("over 0.00055", 4), ("to 0.00055", 4), (None, 1)]  # the middle of 0.001 and 0.0001
    assert [(row["config_lr:2"], row["n"]) for row in rows] == bins


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


# --- what varied, what differs, what matters -------------------------------------------------------------------


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


def test_a_run_that_several_are_called_is_refused(tmp_path):
    file = write_runs(tmp_path, [Run("a", "same"), Run("b", "same")])
    done = ask(file, "--diff", "same", "a")
    assert done.code == 2
    assert "2 runs are called same; choose one: team/demo/a, team/demo/b" in done.err


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


# --- curves ---------------------------------------------------------------------------------------------------


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
        write_history(place, rows)
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


def test_runs_without_a_curve_are_counted(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_history(tmp_path, [("a", 0, 0.0, 1.0)])
    assert "left out, because no history has loss of them: 1 run\n" in answered(file, "--curves", "loss").err
    assert "left out" not in answered(file, "--curves", "loss", "--filter", "a").err


def test_curves_of_unequal_length_are_not_extrapolated(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"g": "x"}), Run("b", config={"g": "x"})])
    write_history(tmp_path, [("a", s, s, 1.0) for s in range(10)] + [("b", s, s, 3.0) for s in range(5)])
    rows = {row["x"]: row for row in document(file, "--curves", "loss", "--group-by", "g")["curves"]}
    assert (rows[4]["n"], rows[4]["mean"], rows[5]["n"], rows[5]["mean"]) == (2, 2.0, 1, 1.0)
    out = " ".join(answered(file, "--curves", "loss", "--group-by", "g").out.split())
    assert "the mean of the runs that have one there, their number in brackets; a curve ends with its last run" in out


def test_curves_per_run_on_another_axis(tmp_path):
    file = write_runs(tmp_path, [Run("a", "first"), Run("b", "second")])
    write_history(tmp_path, [("a", s, s // 2, s / 10) for s in range(6)] + [("b", s, s, -s) for s in range(3)])
    rows = document(file, "--curves", "loss", "--x", "epoch")["curves"]
    curve = {row["x"]: row["value"] for row in rows if row["id"] == "a"}
    assert curve == {0: 0.1, 1: 0.3, 2: 0.5}  # of rows with one x the last one written
    assert [row["name"] for row in rows[:1]] == ["second"]  # the lower last value first
    for none in ("nothing", ""):  # a variable that is not set does not mean the default
        done = ask(file, "--curves", "loss", "--x", none)
        assert (done.code, "no history has it" in done.err) == (2, True)
    done = ask(file, "--curves", "los")
    assert (done.code, "did you mean loss" in done.err) == (2, True)


def test_curves_that_do_not_fit_leave_no_empty_rows(tmp_path):
    names = [f"{letter * 30}" for letter in "abcdefgh"]
    file = write_runs(tmp_path, [Run(name) for name in names])
    rows = [(name, step, 1.0 + n, 0.0) for n, name in enumerate(names) for step in range(10 * n, 10 * n + 2)]
    write_history(tmp_path, rows)
    lines = answered(file, "--curves", "loss").out.splitlines()
    body = lines[next(n for n, line in enumerate(lines) if line.startswith("──")) + 1 :]
    points = [line.split() for line in body if line.strip()[:1].isdigit()]
    assert 0 < len(points) < 16
    assert min(map(len, points)) == 2


def test_curves_follow_an_axis_that_goes_back(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, [("a", 0, 2.0, 5.0), ("a", 1, 1.0, 7.0), ("a", 2, 3.0, 4.0), ("a", 3, 1.0, 6.0)])
    rows = document(file, "--curves", "loss", "--x", "epoch")["curves"]
    assert [(row["x"], row["value"]) for row in rows] == [(1.0, 6.0), (2.0, 5.0), (3.0, 4.0)]


def test_the_step_metric_of_define_metric_is_the_axis(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, [("a", s, s / 2, s / 10) for s in range(6)])
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


def test_the_axis_depends_on_the_runs_that_count_alone(tmp_path):
    file = write_runs(tmp_path, [Run("a"), *(Run(f"old{n}", state="crashed") for n in range(3))])
    without = [(f"old{n}", step, None, 1.0) for n in range(3) for step in range(4)]
    history = write_history(tmp_path, [("a", step, step / 2, step / 10) for step in range(4)] + without)
    facts = json.dumps({"metric_loss": {"goal": None, "summary": None, "step_metric": "epoch"}})
    paths = json.dumps({"metric_loss": ["loss"], "metric_epoch": ["epoch"]})
    metadata = {"wandb_tools.metrics": facts, "wandb_tools.columns": paths}
    pl.read_parquet(history).write_parquet(history, metadata=metadata)
    assert "loss over epoch" in answered(file, "--curves", "loss").out
    answer = answered(file, "--curves", "loss", "--state", "all")
    assert "loss over step" in answer.out
    assert "most runs logged loss without its step metric" in answer.err


def test_a_report_and_an_answer_in_one_call(file, tmp_path):
    table, report = tmp_path / "t.csv", tmp_path / "r.md"
    assert answered(file, "--top", 2, "-o", table, "--report", report, "-m", "test/mse").out == f"{table}\n{report}\n"
    answer = document(file, "--top", 2, "-o", table, "--report", report, "-m", "test/mse")
    assert answer["files"] == [str(table), str(report)]


def test_several_metrics_give_a_latex_table_each(file, tmp_path):
    answered(file, "--group-by", "k", "-m", "test/mse", "-m", "test/acc", "-o", tmp_path / "t.tex")
    assert (tmp_path / "t.tex").read_text().count(r"\begin{tabular}") == 2


def test_many_points_are_thinned_to_steps_that_were_logged(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, [("a", 3 * s, s, float(s)) for s in range(1000)])
    rows = document(file, "--curves", "loss", "--points", 7)["curves"]
    assert len(rows) == 7
    assert all(row["x"] == 3 * row["value"] for row in rows)


def test_histories_are_found_beside_the_exports_of_an_aggregate(tmp_path):
    file = write_runs(tmp_path / "export", [Run("a")])
    write_history(tmp_path / "export", [("a", 0, 0, 1.0)])
    unified = pl.read_parquet(file).with_columns(source_file=pl.lit("export/team_demo_runs.parquet"))
    unified.write_parquet(tmp_path / "unified.parquet")
    done = answered("unified.parquet", "--curves", "loss", cwd=tmp_path)
    assert "loss over step: 1 run" in done.out


# --- formats --------------------------------------------------------------------------------------------------

QUESTIONS = {
    "top": ("--top", "5", "-m", "test/mse"),
    "groups": ("--group-by", "model,k", "-m", "test/mse"),
    "pivot": ("--pivot", "model,k", "-m", "test/mse"),
    "curves": ("--curves", "loss", "--group-by", "model"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = grid_runs()
    next(run for run in runs if run.id == "b160").name = "50% 日 <b>&amp; $x_1$ \\end {[red]} ~^#" + "long " * 20
    write_runs(tmp_path, runs)
    write_history(
        tmp_path, [(run.id, s, s / 10, math.nan if s == 7 else 1 / (s + 1)) for run in runs for s in range(30)]
    )
    return tmp_path


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_pictures(folder, question, ending):
    out = folder / f"picture.{ending}"
    done = answered(folder, *QUESTIONS[question], "-o", out)
    assert done.out == f"{out}\n"
    content = out.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG") and len(content) > 5_000  # noqa: PT018
    elif ending == "svg":
        ET.fromstring(content.decode())
        assert not re.findall(r"(?:href|src)\s*=\s*['\"]https?:", content.decode())
    else:
        charts = json.loads(content.decode().rpartition("<script>")[2].partition(".forEach((spec")[0])
        assert len(charts) == 1
        assert vl_convert.vegalite_to_svg(charts[0] | {"width": 700}).startswith("<svg")


def test_a_pivot_is_drawn_as_a_heat_map(folder):
    answered(folder, *QUESTIONS["pivot"], "-o", folder / "pivot.svg")
    text = (folder / "pivot.svg").read_text("utf-8")
    assert len(re.findall('aria-roledescription="rect mark"', text)) == 6
    assert len(re.findall(r">0\.\d+ \(3\)<", text)) == 6


def test_a_heat_map_whose_extreme_values_are_cut_off_is_drawn(tmp_path):
    values = [1e-9, *(1.0 + n for n in range(4)), 1e9]
    runs = [Run(f"r{n}", config={"a": n % 2, "b": n // 2}, summary={"loss": value}) for n, value in enumerate(values)]
    file = write_runs(tmp_path, runs)
    answered(file, "--pivot", "a,b", "-m", "loss", "-o", tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text("utf-8")
    assert "extreme values are cut off" in text
    assert len(re.findall('aria-roledescription="rect mark"', text)) == 6
    answered(file, "--pivot", "a,b", "-m", "loss", "-o", tmp_path / "p.html")
    scale = re.search(r'"clamp": (true|false)[^}]*"scheme": "blues"', (tmp_path / "p.html").read_text("utf-8"))
    assert scale[1] == "true"  # else the best cell would be white, as an empty one


def test_one_diverged_run_does_not_flatten_all_curves(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_history(
        tmp_path, [(run, s, s, 1e30 if run == "b" and s == 9 else 1 / (s + 1)) for run in "ab" for s in range(10)]
    )
    answered(file, "--curves", "loss", "-o", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text("utf-8")
    assert "extreme values are cut off" in text
    assert "e+29" not in text


@pytest.mark.parametrize("boom", [1e98, 1001.0, math.inf, math.nan])
def test_a_diverged_run_does_not_rule_the_mean_of_its_group(tmp_path, boom):
    """It is left out from where it diverges, and counted; one that comes back has not diverged."""
    file = write_runs(tmp_path, [Run(run, config={"g": "x" if run in "abc" else "y"}) for run in "abcd"])
    rows = [("a", s, s, 1.0 + s) for s in range(10)] + [("b", s, s, 1.0 if s < 5 else boom) for s in range(10)]
    rows += [("c", s, s, math.nan if s == 2 else 3.0) for s in range(10)] + [("d", s, s, 1.0) for s in range(10)]
    write_history(tmp_path, rows)
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


def test_a_far_off_value_in_a_group_is_named(tmp_path):
    runs = [Run(f"r{n}", config={"g": n % 2}, summary={"test/mse": 1.0 + n}) for n in range(8)]
    runs += [Run("boom", config={"g": 1}, summary={"test/mse": 2e98}), Run("nan", config={"g": 0})]
    runs[-1].summary["test/mse"] = math.inf
    answer = answered(write_runs(tmp_path, runs), "-g", "g", "-m", "test/mse")
    assert "the mean says little where one value is over 1,000 times the median: 1" in answer.out
    assert re.search(r"^g +runs +n +mean +std +NaN +best run +min", answer.out, re.MULTILINE)
    assert re.search(r"^0 +5 +4 +4 +[\d.]+ +1 +r0 +1 ", answer.out, re.MULTILINE)


def test_values_over_ten_decades_are_drawn_on_a_logarithmic_axis(tmp_path):
    runs = [Run(f"r{n}", config={"g": n}, summary={"test/mse": 10.0 ** (2 * n - 5)}) for n in range(6)]
    answered(write_runs(tmp_path, runs), "-g", "g", "-o", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text("utf-8")
    assert "values far beyond" not in text
    assert {"0.0001", "10,000"} <= {*re.findall(">([^<>]+)</text>", text)}


def test_a_line_far_outside_of_the_picture_costs_no_memory(tmp_path):
    """The renderer allocates all that is drawn, even if it is clipped."""
    file = write_runs(tmp_path, [Run(name) for name in "abc"])
    values = {"a": 0.0, "b": -1e5, "c": 3.0}
    write_history(tmp_path, [(run, s, s, value) for run, value in values.items() for s in range(40)])
    answered(file, "--curves", "loss", "-o", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("last", "clips"), [(0.8, False), (1e9, True)])
@pytest.mark.parametrize("question", [["--top", 9], ["-g", "k"]])
def test_points_at_the_edges_are_whole(tmp_path, question, last, clips):
    values = [0.0, 0.1, 0.2, 0.3, last]
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"acc": x}) for n, x in enumerate(values)])
    answered(file, *question, "-o", tmp_path / "x.html")
    assert ('"clip": true' in (tmp_path / "x.html").read_text().splitlines()[-2]) == clips


def test_groups_that_are_not_drawn_are_counted(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n:02}", config={"k": n}, summary={"loss": n}) for n in range(45)])
    answered(file, "-g", "k", "-o", tmp_path / "x.svg")
    assert "the best 40 of 45 are drawn" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(("number", "noted"), [(14, False), (20, True)])
def test_columns_that_a_page_leaves_out_are_named(tmp_path, number, noted):
    file = write_runs(tmp_path, [Run("a")])
    query = f"SELECT {', '.join(f'{n}::VARCHAR AS column_number_{n:02}' for n in range(number))}"
    out = answered(file, "--sql", query, "--format", "markdown").out
    assert ("would be too wide: column_number_14, column_number_15, column_number_16 and 3 more;" in out) == noted


def test_columns_that_are_left_out_are_named_as_they_are(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    query = f"""SELECT {", ".join(f"{n}::VARCHAR AS '<column>|number_{n:02}'" for n in range(20))}"""
    out = answered(file, "--sql", query, "--format", "markdown").out
    assert r"would be too wide: \<column>\|number_14" in out
    answered(file, "--sql", query, "-o", tmp_path / "x.html")
    assert "would be too wide: &lt;column&gt;|number_0" in (tmp_path / "x.html").read_text()


def test_dashes_and_quotes_are_those_of_the_name_in_latex(tmp_path):
    file = write_runs(tmp_path, [Run("a", "a---b--c-d ``x''", summary={"loss": -1.5})])
    assert "a-{}-{}-b-{}-c-d `{}`x'{}' & $-$1.5" in re.sub(" +", " ", answered(file, "-t", 1, "--format", "latex").out)


def test_a_single_point_is_drawn(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_history(tmp_path, [("a", 0, 0, 1.0), ("b", 0, 0, 2.0)])
    answered(file, "--curves", "loss", "-o", tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text("utf-8").count('aria-roledescription="point"') == 2


def test_times_are_times(tmp_path):
    """In tables, in JSON and on the axis of a picture, in UTC."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, [("a", s, s, float(s)) for s in range(4)])
    seconds = datetime(2026, 11, 24, 6, 6, tzinfo=UTC).timestamp()
    pl.read_parquet(history).with_columns(_timestamp=seconds + 3600.0 * pl.col("_step")).write_parquet(history)
    question = (file, "--curves", "loss", "--x", "time")
    assert "2026-11-24 06:06  " in answered(*question).out
    assert document(*question)["curves"][1]["x"] == "2026-11-24T07:06:00Z"
    answered(*question, "-o", tmp_path / "x.svg")
    assert ">2026-11-24 07:00</text>" in (tmp_path / "x.svg").read_text("utf-8")


def test_a_page_for_reading_and_one_for_looking_closer(folder):
    """A report has no script. A page by -o holds all that its charts need: it may load nothing from anywhere."""
    question = ("-m", "test/mse", "--top", "20")
    answered(folder, *question, "--curves", "loss", "-o", folder / "x.html")
    text = (folder / "x.html").read_text("utf-8")
    policy = re.search('Content-Security-Policy\' content="(.*?)"', text)[1]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "window.vegaEmbed" in text
    assert not re.search(r"(src|href)=|<link|@import", re.sub("<script>.*?</script>", "", text, flags=re.DOTALL))
    for part in ('"bind": "scales"', '"bind": "legend"', '"tooltip"', "50% 日 \\u003cb>"):
        assert part in text.rpartition("<script>")[2]
    answered(folder, *question, "--report", folder / "r.html")
    assert not re.search("<script|script-src", (folder / "r.html").read_text("utf-8"))


def test_pages_are_light_or_dark_and_pictures_white(folder):
    """A page's charts have its own colour and no ground, and nothing in them is black but a heat map's text."""
    page, svg = folder / "x.html", folder / "x.svg"
    answered(folder, "-m", "test/mse", "--group-by", "model,k", "--curves", "loss", "--report", page)
    text = page.read_text("utf-8")
    assert "color-scheme: light dark" in text
    charts = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        assert "currentColor" in chart
        assert not re.search(r'fill="(white|#fff)"', re.sub(r"<text.*?</text>", "", chart))
        black = re.findall(r'<(\w+)[^>]*(?:fill|stroke)="(?:black|#000|#222222)"', chart)
        assert {*black} <= ({"text"} if "rect mark" in chart else set())
    for arguments in QUESTIONS.values():
        answered(folder, *arguments, "-o", svg)
        assert 'fill="white"' in svg.read_text("utf-8")
        assert "currentColor" not in svg.read_text("utf-8")


def test_latex_escapes_and_compiles(folder):
    for question, arguments in QUESTIONS.items():
        answered(folder, *arguments, "-o", folder / f"{question}.tex")
    text = (folder / "top.tex").read_text("utf-8")
    assert r"50\% {[}U+65E5{]} \textless{}b\textgreater{}\&amp; \$x\_1\$" in text
    assert r"\toprule" in text
    assert text.count(r"\begin{tabular}") == 1
    pivot = (folder / "pivot.tex").read_text("utf-8")
    assert r"\textbf{0.2100$\pm$0.0100 (3)}" in pivot
    assert "best of its column (in LaTeX bold, underlined)" in pivot
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the tables are not compiled")
    inputs = "\n".join(f"\\input{{{question}.tex}}\n" for question in QUESTIONS)
    page = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,textcomp}\\begin{document}"
    (folder / "page.tex").write_text(f"{page}{inputs}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_in_every_format(folder, question, form):
    out = answered(folder, *QUESTIONS[question], "--format", form).out
    assert out.strip()
    if form == "json":
        assert json.loads(out)[question]


# --- reports --------------------------------------------------------------------------------------------------


def test_a_report_is_a_page_that_needs_nothing_else(folder):
    report = folder / "report.html"
    done = answered(folder, "--report", report, "-m", "test/mse", "--group-by", "model,k", "--curves", "loss")
    assert done.out == f"{report}\n"
    text = report.read_text("utf-8")
    for told in ("18 runs in 1 project", "Best 10 runs by test/mse", "test/mse by model, k", "loss over step", "vary"):
        assert told in text
    assert "<b>&amp;amp; $x" not in text
    assert "50% 日 &lt;b&gt;&amp;amp; $x_1$" in text
    assert "<script" not in text
    assert not re.findall(r"(?:href|src)\s*=\s*['\"]?(?:https?:)?//", text)
    assert text.count("<svg") == 4


def test_a_report_in_markdown(folder):
    answered(folder, "--report", folder / "report.md", "-m", "test/mse")
    text = (folder / "report.md").read_text("utf-8")
    assert text.startswith("**18 runs in 1 project: team/demo**")
    assert re.search(r"^\| name +\| +test/mse \|", text, re.MULTILINE)
    assert len(text) < 20_000


@pytest.mark.parametrize(
    ("arguments", "charts"),
    [(("--group-by", "model,k", "--curves", "loss", "--report"), 4), (("--pivot", "model,k", "--top", "9", "-o"), 2)],
)
def test_pages_in_a_browser(folder, arguments, charts):
    """They render, show the numbers, and ask the network for nothing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: the pages are not opened in a browser")
    report = folder / "report.html"
    answered(folder, "-m", "test/mse", *arguments, report)
    log = folder / "net.json"
    quiet = (
        "--virtual-time-budget=20000",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        *quiet,
        f"--log-net-log={log}",
    ]
    command += [f"--user-data-dir={folder / 'browser'}", "--dump-dom", report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('class="marks"') == charts
    assert "0.2100" in done.stdout or "0.210" in done.stdout
    asked = re.findall(r'"url":"(https?://[^"]+)"', log.read_text(errors="replace"))
    of_the_page = [url for url in asked if "google" not in url and "gstatic" not in url]  # the browser's own start
    assert of_the_page == []
