"""analyze_runs.py as users run it: as a process, command line, which runs, metrics, overview."""

from __future__ import annotations

import doctest
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import analyze_runs
import polars as pl
import pytest
from analyze import (  # noqa: F401 - fixtures
    MSE,
    SCRIPT,
    answered,
    ask,
    ask_process,
    document,
    example_file,
    grid_file,
    grid_runs,
    grouped_file,
    rewrite,
    steps,
    with_metadata,
    write_history,
    write_metrics,
)
from contract_files import Run, write_rows, write_runs
from hypothesis import given
from hypothesis import strategies as st

# --- as a process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, []),
        (0, ["--top", "3", "--group-by", "model.arch,model.k", "--metric", "test/mse"]),
        (0, ["--schema", "--format", "markdown", "--quiet"]),
        (0, ["--group-by", "model.arch", "--format", "csv"]),
        (0, ["--top", "20", "--json", "--state", "all"]),
        (1, ["--filter", "no such run"]),
        (2, ["--metric", "tset/mse"]),
        (2, ["--nonsense"]),
    ],
)
def test_as_a_process(runs_file: Path, code: int, arguments: list) -> None:
    answer = ask_process(runs_file, *arguments)
    assert answer == ask(runs_file, *arguments)
    assert answer.code == code
    assert (answer.out == "") is (code != 0)


def test_help_is_the_manual_and_needs_no_library() -> None:
    # -S leaves site-packages out: neither polars nor rich can be imported
    done = subprocess.run([sys.executable, "-S", SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes:" in done.stdout
    assert "95 % interval" in done.stdout


def test_slow_libraries_are_imported_only_where_they_are_needed(tmp_path):
    file, needed = write_runs(tmp_path, [Run("a", summary={"test/mse": 1.0})]), {}
    for flags in ((), ("--where", "id = 'a'"), ("-o", f"{tmp_path / 'x.svg'}")):
        code = "import analyze_runs, sys; analyze_runs.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
        command = [sys.executable, "-c", code, str(file), "--top", "1", *flags]
        environment = {**os.environ, "PYTHONPATH": str(Path(analyze_runs.__file__).parent)}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
        needed[flags[:1]] = {"duckdb", "numpy", "vl_convert", "scipy", "rich"} & {*done.stderr.split()}
    assert needed == {(): set(), ("--where",): {"duckdb"}, ("-o",): {"vl_convert"}}


def test_debug_shows_the_traceback(runs_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, runs_file, "--metric", "nothing", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_closed_pipe_ends_quietly(runs_file: Path) -> None:
    command = f"'{sys.executable}' '{SCRIPT}' '{runs_file}' --quiet --schema --max-rows 0; echo code $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | head -1"], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == "code 0\n"


def test_a_closed_pipe_does_not_hide_a_damaged_file(tmp_path: Path) -> None:
    write_runs(tmp_path, [Run("a")])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    command = f"'{sys.executable}' '{SCRIPT}' '{tmp_path}' --quiet --schema --max-rows 0; echo code $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | head -c 0"], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"left out: \S+bad\.parquet cannot be read: [^\n]+\ncode 3\n", done.stderr)  # even when quiet


@pytest.mark.parametrize(
    ("more", "code", "message"), [([], 1, "error: stdout is closed: "), (["-o", "top.csv"], 0, "")]
)
def test_a_closed_stdout_is_no_bug(runs_file: Path, tmp_path: Path, more: list, code: int, message: str) -> None:
    command = [sys.executable, str(SCRIPT), str(runs_file), "--top", "1", "--quiet", *more]
    shell = ["bash", "-c", '"$@" >&-', "bash", *command]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)
    assert (tmp_path / "top.csv").exists() is (code == 0)


def test_quiet_says_nothing(runs_file: Path) -> None:
    assert answered(runs_file, "--quiet", "--json").err == ""


def test_answers_are_the_same_every_time(runs_file: Path) -> None:
    arguments = [runs_file, "--top", "20", "-g", "model.arch,seed", "--json", "--state", "all"]
    assert len({answered(*arguments).out for _ in range(3)}) == 1


# --- command line: what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metric", "tset/mse"], 2, "test/mse"),
        (["--metric", "metric_tset_mse"], 2, "metric_test_mse"),
        (["--metric", "model.arch"], 2, "not a number"),
        (["--metric", "nonsense"], 2, "no metric nonsense; --schema lists all"),
        (["--metric", "model.q"], 2, "there is no metric model.q; "),  # model.k is none
        (["--group-by", "xyzzy"], 2, "no column xyzzy; --schema lists all"),
        (["--group-by", "model.arhc"], 2, "model.arch"),
        (["--columns", "model.arhc", "--top", "1"], 2, "model.arch"),
        (["--metric", "epoch", "--top", "1"], 2, "--ascending"),
        (["--max-row", "1"], 2, "--max-rows"),
        (["--top", "0"], 2, "--top"),
        (["--top", "many"], 2, "--top"),
        (["--max-rows", "-1"], 2, "--max-rows"),
        (["--top", "9" * 5000], 2, "is not a whole number of 1 or more"),  # int() takes no more than 4,300 digits
        (["--state", "finishd"], 2, "finished"),
        (["--filter", "(oops"], 2, "unclosed group"),
        (["-o", "results.xls"], 2, ".csv"),
        (["--ascending", "--descending"], 2, "--descending"),
        (["--filter", "no such run"], 1, "--filter no such run: 0 of 17 runs kept"),
        (["--state", "killed"], 1, "--state killed: 0 of 17 runs kept"),
        (["--filter", "boom", "--top", "1"], 2, "no metric"),
        (["--filter", "boom", "--top", "1", "--metric", "test/mse"], 1, "finite test/mse"),
    ],
)
def test_refusals_are_one_line_that_helps(runs_file: Path, arguments: list, code: int, message: str) -> None:
    answer = ask(runs_file, "--quiet", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert message in answer.err


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
def test_refusals_of_questions_are_one_line_that_helps(file, tmp_path, arguments, code, said):
    done = ask(file, *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in done.err.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--include-history", "--include-histories"])
def test_a_flag_of_another_script_is_not_suggested(tmp_path, flag):
    """The manual's examples name it."""
    done = ask(write_runs(tmp_path, [Run("a")]), flag)
    assert done.code == 2
    assert "did you mean --include-history" not in done.err


def test_an_unknown_argument_is_named_without_its_value(tmp_path):
    for arguments in (["--api-key=SECRET"], ["--api-key", "SECRET"], ["--api-key=SECRET", "--top", "many"]):
        answer = ask(*arguments, cwd=tmp_path)
        assert answer.code == 2
        assert "SECRET" not in answer.err + answer.out


def test_what_cannot_be_compared_is_said_as_it_is(tmp_path):
    runs = [Run(f"r{n}", config={"lr": 1}, summary={"loss": float(n)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    answer = ask(file, "-g", "!seed")
    assert (answer.code, answer.out) == (2, "")
    assert "error: !seed: no other setting varies; name columns" in answer.err
    out = answered(file, "--importance").out
    assert "no setting varies" in out
    assert "cannot be separated" not in out
    bare = write_runs(tmp_path / "bare", [Run("a", config={"lr": 1}, summary={"loss": float("nan")})])
    answer = ask(bare, "--top", 3)
    assert answer.code == 2
    assert "error: none of these runs has a finite metric; use --varying, or --health for how they ended" in answer.err


# --- command line: flags without effect -----------------------------------------------------------------------


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
    err = answered(grouped, *arguments, cwd=grouped.parent).err
    named = [line.split()[0].removeprefix("--") for line in err.splitlines() if "has no effect here: it is for" in line]
    assert sorted(named) == sorted(flags.split())


def test_stat_beside_curves_is_said(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    assert "--stat has no effect here: it is for groups\n" in answered(file, "--curves", "loss", "--stat", "median").err


# --- which runs -----------------------------------------------------------------------------------------------


def test_filters_say_what_they_kept_and_lost(runs_file: Path) -> None:
    err = answered(runs_file, "--metric", "test/mse", "--filter", "LINEAR").err
    assert "--filter LINEAR: 6 of 17 runs kept" in err
    err = answered(runs_file, "--metric", "test/mse", "--filter", "LINEAR", "-f", "^no such").err
    assert "--filter LINEAR --filter ^no such: 6 of 17 runs kept" in err
    assert "in other states" not in err  # none of those passes the other filter
    err = answered(runs_file, "--top", 3, "-m", "test/mse").err
    assert "--state finished (the default): 15 of 17 runs kept" in err
    assert "1 of 2 runs in other states has test/mse (the best value is among them); --state all" in err
    err = answered(runs_file, "--top", 3, "-m", "test/mse", "--descending").err
    assert "1 of 2 runs in other states has test/mse; --state all includes them" in err


def test_all_states_count_where_no_run_is_finished(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run("a", state="crashed", summary={"test/mse": 1.0})])
    answer = answered(file, "--top", 1, "--json")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["a"]
    assert "no run is finished: runs in all states are used" in answer.err
    answer = ask(file, "--state", "finished")
    assert (answer.code, answer.out) == (1, "")
    assert "no run left: --state finished: 0 of 1 run kept" in answer.err


def test_states_are_compared_without_case(tmp_path):
    file = write_runs(tmp_path, [Run("a", state="Finished", summary={"test/mse": 1.0}), Run("b", state="FAILED")])
    assert len(document(file, "--top", 5)["top"]) == 1
    assert "--state finished (the default): 1 of 2 runs kept" in answered(file, "--top", 5).err


def test_large_numbers_are_written_alike(tmp_path):
    runs = [
        Run(f"r{n}", state="finished" if n else "failed", summary={"loss": 1.0} if n > 1 else {}) for n in range(1102)
    ]
    answer = answered(write_runs(tmp_path, runs), "--top", 1, "-m", "loss")
    assert "--state finished (the default): 1,101 of 1,102 runs kept" in answer.err
    assert "1,100 of 1,101 runs have a finite loss" in answer.out


def test_the_file_is_named_when_no_run_is_left(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    answer = ask(file, "--filter", "nothing")
    assert (answer.code, answer.out) == (1, "")
    assert file.name in answer.err


# --- names of columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test/mse", "test_mse", "metric_test_mse"])
def test_a_metric_goes_by_three_names(runs_file: Path, name: str) -> None:
    assert document(runs_file, "--metric", name, "--top", 1)["top"][0][MSE] == 0.01


@pytest.mark.parametrize("name", ["model.k", "model_k", "config_model_k"])
def test_a_column_goes_by_three_names(runs_file: Path, name: str) -> None:
    assert {row["config_model_k"] for row in document(runs_file, "--group-by", name)["groups"]} == {8, 16, None}


def test_paths_of_columns_decide_which_is_meant(tmp_path: Path) -> None:
    """Of names that would be one column, each has a hash but one: its path tells what it holds, not its name."""
    config = {"lr": 1, "optim_lr": 3, "optim_lr__0a1b2c3d": 2}
    file = write_runs(tmp_path, [Run("a", config=config, summary={"test/mse": 1.0})])
    paths = {"config_lr": ["lr"], "config_optim_lr": ["optim_lr"], "config_optim_lr__0a1b2c3d": ["optim", "lr"]}
    with_metadata(file, columns=json.dumps(paths | {MSE: ["test/mse"]}))
    for name, column, value in (
        ("lr", "config_lr", 1),
        ("optim_lr", "config_optim_lr", 3),
        ("optim.lr", "config_optim_lr__0a1b2c3d", 2),
    ):
        [row] = document(file, "-g", name)["groups"]
        assert {key: row[key] for key in row if key.startswith("config_")} == {column: value}


def test_a_metric_may_be_called_like_a_column_of_text(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"state": 2.0}), Run("b", summary={"state": 1.0})])
    rows = document(file, "--top", 2, "-m", "state", "--ascending")["top"]
    assert [(row["id"], row["metric_state"]) for row in rows] == [("b", 1.0), ("a", 2.0)]


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


def test_near_names_are_found_in_any_case(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"val/loss": 1.0, "Acc": 1.0})])
    for name, near in (("VAL/LOSS", "val/loss"), ("acc", "Acc")):
        answer = ask(file, "-t", 1, "-m", name)
        assert (answer.code, answer.out) == (2, "")
        assert f"did you mean {near}?" in answer.err


def test_columns_without_a_value_and_single_letters_are_not_suggested(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"learning": 1}, summary={"train/loss": 1.0, "x": 1})])
    rewrite(file, lr_parsed=pl.lit(None, pl.Float64))
    for flag, name, near in (("-m", "loss", "; did you mean train/loss?"), ("-g", "lr", ""), ("-g", "e", "")):
        assert f" {name}{near}; --schema lists all" in ask(file, flag, name).err


def test_columns_of_our_own_are_not_suggested(runs_file: Path) -> None:
    answer = ask(runs_file, "--group-by", "config_json")
    assert (answer.code, "_config_json" in answer.err) == (2, False)


def test_a_summary_with_a_hash_is_not_only_in_the_histories(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train_loss__0a66b54c": 1.0})])
    with_metadata(file, columns=json.dumps({"metric_train_loss__0a66b54c": ["train loss"]}))
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_train_loss": [1.0]})
    answer = ask(file, "-t", 1, "-m", "train_loss")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: there is no metric train_loss; did you mean train loss")


# --- metrics and their direction ------------------------------------------------------------------------------

LOWER = """
    loss train/loss test/mse test_mse val.rmse error test/error_rate perplexity mae valLoss MSELoss nll bpb fid_score
    loss1 train_loss_epoch top5_error error_top5 val/cross_entropy losses/cross_entropy entropy_loss neg_log_likelihood
    negative_log_likelihood ece test/mse.min word_error_rate WER final/val_loss_mean kl_divergence regret
    multi_scale_loss
"""
HIGHER = """
    acc test/accuracy f1 macro_f1 test/F1 auc roc_auc AUROC r2 test/R2Score r_squared snr psnr si_sdr val_acc_top5 top1
    mAP mAP50 map@50 neg_mean_squared_error explained_variance test_loss_acc test/score episode_return reward bleu4
    ndcg@10 hits@10 log_likelihood error_reduction win_rate val/iou mean_iou recall@5 success_rate elbo fitness mIoU
    val/mIoU Mean_IoU
"""
UNREADABLE = """
    epoch k lr learning_rate loss_weight mse_std std_mse acc_variance glossary massacre lossless blossom x count
    grad_norm test/num_loss_steps time_to_acc mse_scale entropy losses/entropy losses/clipfrac
"""


@pytest.mark.parametrize(
    ("name", "goal"),
    [(name, "minimize") for name in LOWER.split()]
    + [(name, "maximize") for name in HIGHER.split()]
    + [(name, None) for name in UNREADABLE.split()],
)
def test_direction_by_name(name: str, goal: str | None) -> None:
    assert analyze_runs.goal_by_name(name) == goal


@given(st.text())
def test_direction_of_any_name_is_known_or_not(name: str) -> None:
    assert analyze_runs.goal_by_name(name) in {"minimize", "maximize", None}


def test_stored_goal_beats_the_name_and_a_flag_beats_both(tmp_path: Path) -> None:
    runs = [Run("low", summary={"x/loss": 1.0}), Run("high", summary={"x/loss": 2.0})]
    file = write_runs(tmp_path, runs, metrics={"metric_x_loss": {"goal": "maximize"}})
    for flags, best, why in (([], "high", "set by define_metric or the sweep"), (["--ascending"], "low", "as given")):
        answer = answered(file, "--top", 1, *flags)
        assert f"\n{best}" in answer.out
        assert why in answer.out


@pytest.mark.parametrize("question", [[], ["--report", "r.md"]])
def test_a_metric_without_letters_may_have_a_goal(tmp_path, question):
    file = write_runs(tmp_path, [Run("a", summary={"%": 1.0})], metrics={"metric__": {"goal": "minimize"}})
    write_metrics(tmp_path, {"run_id": ["a"], "_step": [0], "%": [1.0]})
    answer = answered(file, "-m", "%", *question, cwd=tmp_path)
    text = (tmp_path / "r.md").read_text("utf-8") if question else answer.out
    assert "by %; lower is better (set by define_metric or the sweep)" in " ".join(text.split())


@pytest.mark.parametrize("name", ["val.loss", "val_loss", "metric_val_loss"])
def test_a_summary_stands_for_its_metric(runs_file: Path, name: str) -> None:
    answer = answered(runs_file, "--metric", name, "--top", 1)
    assert f"of {name} only the minimum is stored: val.loss.min is used" in answer.err
    assert "lower is better (set by define_metric or the sweep)" in answer.out
    flipped = answered(runs_file, "--metric", name, "--top", 1, "--descending")
    assert "val.loss.last" in flipped.err  # no maximum there: the last value


def test_the_summary_of_a_metric_is_its_best_one_as_its_name_tells(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run("a", summary={"acc": {"last": 0.5, "max": 0.9, "mean": 0.4, "min": 0.1}})])
    answer = answered(file, "--metric", "acc", "--top", 1)
    assert "of acc only the maximum is stored: acc.max is used" in answer.err
    assert "0.9" in answer.out


def test_the_best_value_that_older_sdks_keep_of_a_metric(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run("a", summary={"acc": {"best": 0.9, "first": 0.1}})])
    assert "of acc only the best value is stored: acc.best is used" in answered(file, "--metric", "acc", "--top", 1).err


def test_runs_that_keep_another_value_of_a_metric_are_named(tmp_path: Path) -> None:
    """As those from the day on that define_metric was added to the program."""
    file = write_runs(tmp_path, [Run("old", summary={"acc": 0.5}), Run("new", summary={"acc": {"max": 0.9}})])
    hint = "use aggregate_runs.py --history, then --value last (or min, max)"
    assert f"1 run with acc.max instead of acc: {hint}" in answered(file, "--metric", "acc", "--top", 1).err


def test_a_named_metric_needs_no_remark(runs_file: Path) -> None:
    assert answered(runs_file, "--state", "all", "--top", 1, "-m", "test/mse").err == ""


# --- default metric -------------------------------------------------------------------------------------------


def test_default_metric(tmp_path: Path) -> None:
    def chosen(*summaries: dict) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return answered(write_runs(folder, [Run(f"r{i}", summary=s) for i, s in enumerate(summaries)])).err

    assert "metric: test/mse " in chosen({"test/mse": 1.0, "test/acc": 0.5}, {"test/acc": 0.5})
    assert "metric: test/acc " in chosen({"test/loss": 1.0, "test/acc": 0.5, "train/loss": 1.0}, {"test/acc": 0.5})
    assert "metric: val/loss " in chosen({"val/loss": 1.0, "train/loss": 1.0})
    # a metric that few runs hold is not the project's
    assert "metric: train/loss " in chosen({"val/loss": 1.0, "train/loss": 1.0}, {"train/loss": 1.0})
    assert "metric: train/loss " in chosen({"train/loss": 1.0, "epoch": 1}, {"epoch": 1})
    assert "metric:" not in chosen({"epoch": 1})


@pytest.mark.parametrize("word", ["loss", "error", "accuracy", "acc", "score", "reward"])
def test_plain_words_name_the_default_metric(tmp_path: Path, word: str) -> None:
    file = write_runs(tmp_path, [Run("a", summary={"val/auc": 1.0, f"val/{word}": 2.0})])
    answer = answered(file, "--top", 1)
    assert f"metric: val/{word} (use --metric" in answer.out + answer.err


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


def test_a_metric_that_diverged_in_some_runs_stays_the_default(tmp_path):
    """Runs hold it, if NaN; one that is never finite cannot be compared."""
    lost = float("nan")
    runs = [Run(f"r{n}", summary={"test/loss": lost if n < 4 else n, "test/error": lost, "acc": n}) for n in range(10)]
    assert "metric: test/loss (use" in answered(write_runs(tmp_path, runs), "--top", 1).err


@pytest.mark.parametrize("path", ["损失", "%"])
def test_the_default_metric_may_have_a_name_without_latin_letters(tmp_path, path):
    runs = [Run(f"r{n}", summary={path: float(n)}) for n in range(2)]
    facts = {f"metric_{'_' * len(path)}": {"goal": "minimize"}}
    assert f"metric: {path} (use --metric" in answered(write_runs(tmp_path, runs, metrics=facts)).err


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


# --- values from histories: --value ---------------------------------------------------------------------------


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


def test_a_value_of_the_history_is_headed_by_wandb_s_name(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"train/loss": 1.0})])
    unified = rewrite(file, history_min_train_loss=pl.lit(0.5))
    heads = answered(unified, "--top", 1, "-m", "train/loss", "--value", "min").out.splitlines()[2]
    assert heads.split() == ["name", "train/loss", "(min)"]


def test_a_metric_of_the_histories_alone_is_called_as_logged(runs_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pl.read_parquet(runs_file).with_columns(history_min_loss=pl.lit(1.0)).write_parquet(file)
    for name in ("loss", "metric_loss"):
        assert "metric_" not in answered(file, "--top", 1, "-m", name, "--value", "min").out


def test_a_metric_of_the_histories_alone_is_said(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    answer = ask(file, "--top", 1, "-m", "loss")
    assert answer.code == 2
    said = "aggregate_runs.py --history, then -m loss --value last (or min, max); or --curves loss\n"
    assert answer.err == f"error: loss is only in the histories: use {said}"
    said = "metrics are only in the histories: use --curves, or aggregate_runs.py --history and then --value last: loss"
    assert said in " ".join(answered(file).out.split())


def test_a_metric_that_only_summaries_have_is_not_asked_for_its_lowest_value(tmp_path):
    file = write_runs(tmp_path, [Run(each, summary={"best_loss": 1.0, "loss": 2.0}) for each in "ab"])
    answer = ask(rewrite(file, history_min_loss=pl.Series([1.0, 2.0])), "--value", "min", "-m", "best_loss", "-t", 1)
    said = "--value min: there is no column history_min_best_loss; the histories have loss"
    assert (answer.code, answer.err) == (2, f"error: {said}\n")


def test_steps_of_the_best_are_no_metrics_of_the_histories(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    pl.read_parquet(file).with_columns(history_min_loss=1.0, history_min_step_loss=3).write_parquet(file)
    answer = ask(file, "-t", 1, "-m", "nope", "--value", "min")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith("there is no column history_min_nope; the histories have loss\n")


def test_a_metric_called_like_the_step_of_another(tmp_path):
    """Beside loss, aggregate_runs gives step_loss a hash: the step of the lowest loss was shown for it."""
    runs = write_runs(tmp_path, [Run(name, summary={"loss": 1.0, "step_loss": 5.0}) for name in "ab"])
    file = rewrite(runs, history_min_loss=pl.Series([1.0, 1.0]), history_min_step_loss=pl.Series([3, 7]))
    answer = ask(file, "--top", 2, "-m", "step_loss", "--value", "min")
    assert (answer.code, answer.out) == (2, "")
    assert "there is no column history_min_step_loss" in answer.err
    rewrite(file, history_min_step_loss__ee41e4a1=pl.Series([0.5, 0.25]))
    for name in ("step_loss", "metric_step_loss"):
        rows = document(file, "--top", 2, "-m", name, "--value", "min")["top"]
        assert [(row["id"], row["history_min_step_loss__ee41e4a1"]) for row in rows] == [("b", 0.25), ("a", 0.5)]
    answer = ask(file, "--top", 2, "-m", "acc", "--value", "min")
    assert (answer.code, answer.out) == (2, "")
    assert "the histories have loss, step_loss__ee41e4a1" in answer.err


@pytest.mark.parametrize("name", ["val/score", "val_score", "metric_val_score"])
def test_the_goal_of_a_metric_without_a_column_of_its_own_counts(tmp_path, name):
    facts = {"metric_val_score": {"goal": "minimize"}}
    file = write_runs(tmp_path, [Run(each, summary={"val/score": {"min": 1.0}}) for each in "ab"], metrics=facts)
    last = rewrite(file, history_last_val_score=pl.Series([5.0, 2.0]))
    answer = answered(last, "--top", 2, "--json", "-m", name, "--value", "last")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["b", "a"]


def test_a_last_value_of_nan_is_not_said_to_be_left_out_of_itself(tmp_path):
    """`only finite values count` stood above `no run has a finite loss`."""
    runs = write_runs(tmp_path, [Run("a", summary={"loss": 1.0}), Run("b", summary={"loss": 1.0})])
    counts = {"history_n_loss": pl.Series([20, 20]), "history_n_nonfinite_loss": pl.Series([5, 5])}
    file = rewrite(runs, history_last_loss=pl.Series([float("nan"), 2.0]), **counts)
    err = answered(file, "--top", 2, "-m", "loss", "--value", "last").err
    assert "1 run reached NaN or infinity; only finite values count" in err


# --- overview -------------------------------------------------------------------------------------------------


def test_no_question_gives_an_overview(runs_file: Path) -> None:
    answer = answered(runs_file)
    assert "17 runs in 1 project" in answer.out
    assert "Best 5 runs by test/mse; lower is better (guessed by name)" in answer.out
    assert "test/mse by model.arch, model.k: 15 runs in 6 groups" in answer.out
    assert len(answer.out) < 4096
    states = document(runs_file)["overview"][0]
    assert (states["runs"], states["finished"], states["crashed"], states["failed"]) == (17, 15, 1, 1)


def test_an_overview_needs_no_metric(tmp_path: Path) -> None:
    answer = answered(write_runs(tmp_path, [Run("a", summary={"epoch": 1})]))
    assert "1 run in 1 project" in answer.out


def test_an_overview_without_a_metric_says_why(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n % 2}, summary={"epoch": n}, state="crashed") for n in range(4)]
    out = " ".join(answered(write_runs(tmp_path, runs)).out.split())
    assert "use --ascending or --descending with -m epoch" in out
    assert "lr 2 0 (2), 1 (2)" in out


def test_metrics_of_runs_in_other_states_are_not_said_to_be_in_histories_alone(tmp_path):
    """One run of a folder had finished, before it logged anything."""
    runs = [Run("done", config={"lr": 1})] + [Run(f"r{n}", summary={"loss": n}, state="crashed") for n in range(3)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("r0", [2.0, 1.0]))
    answer = answered(file)
    assert "only runs in other states have metrics: use --state all" in answer.out
    assert "use --state all or another -m" in ask(file, "--top", 1, "-m", "loss").err
    nowhere = write_runs(tmp_path / "nan", [Run("a", config={"lr": 1}, summary={"loss": math.nan})])
    assert "use another -m" in ask(nowhere, "--top", 1, "-m", "loss", "-g", "lr:3").err
    assert "histories" not in answer.out
    answer = ask(file, "--top", 1)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith("error: only runs in other states have metrics: use --state all\n")


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
                "save_strategy": ("steps", "no")[n % 2],
                "opt": "xy"[n // 4],
            },
            summary={"test/mse": float(n)},
        )
        for n in range(8)
    ]
    assert "test/mse by opt: 8 runs in 2 groups" in answered(write_runs(tmp_path, runs)).out


def test_the_suggested_grouping_is_of_runs_that_have_the_metric(tmp_path):
    """Runs of another project have other settings, and W&B groups."""
    runs = [Run(f"a{n}", config={"opt": "xy"[n // 4]}, summary={"loss": float(n)}) for n in range(8)]
    runs += [Run(f"b{n}", config={"kind": "uv"[n // 2]}, summary={"x": 1}, group=f"g{n // 2}") for n in range(4)]
    assert "loss by opt: 12 runs in 3 groups" in answered(write_runs(tmp_path, runs)).out


def test_the_suggested_grouping_compares_groups_of_several_runs(tmp_path):
    """It took the first setting by name, of which nearly all runs have one value."""
    runs = [
        Run(
            f"r{n}", config={"activation": "a" if n else "b", "optimizer": "xyz"[n % 3]}, summary={"test/mse": float(n)}
        )
        for n in range(9)
    ]
    assert "test/mse by optimizer, activation: 9 runs" in answered(write_runs(tmp_path, runs)).out
    runs += [Run(f"s{n}", config={"activation": "a", "optimizer": "x"}, summary={"test/mse": 0.5}) for n in range(6)]
    assert "test/mse by optimizer: 15 runs" in answered(write_runs(tmp_path, runs)).out  # one run of b says nothing


def test_the_suggested_grouping_is_not_of_single_runs(tmp_path):
    starts = [("a", start) for start in (0, 0, 0, 0, 0, 1, 2)] + [("b", start) for start in (0, 0, 0, 0, 1)]
    configs = [{"model": model, "start": start} for model, start in starts]
    runs = [Run(f"r{n}", config=config, summary={"loss": float(n)}) for n, config in enumerate(configs)]
    assert "loss by model: 12 runs in 2 groups" in answered(write_runs(tmp_path, runs)).out  # with start, 3 of 5 of one


def test_an_overview_names_the_tables_that_can_be_queried(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_rows(tmp_path, "table_my-data", {"run_id": ["a"], "row": [0], "x": [1]}, key="my-data")
    assert 'W&B Tables, for --sql: "table_my-data"' in answered(file).out
    assert document(file, "--sql", 'SELECT x FROM "table_my-data"')["sql"] == [{"x": 1}]


# --- doctests -------------------------------------------------------------------------------------------------


def test_doctests() -> None:
    assert doctest.testmod(analyze_runs).failed == 0
