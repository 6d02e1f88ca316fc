"""analyze_runs.py as users run it, then its parts against scipy and plain Python."""

from __future__ import annotations

import csv
import doctest
import io
import json
import math
import os
import re
import statistics
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import analyze_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
import scipy
from contract_files import START, Run, write_runs
from hypothesis import example, given, settings
from hypothesis import strategies as st

SCRIPT = Path(analyze_runs.__file__)
MSE = "metric_test_mse"
analyze_runs.import_libraries()


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def ask(*arguments: object, cwd: Path | str = ".", **environment: str) -> Answer:
    """What the script answers, without the half second that a process takes to start; see test_as_a_process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"COLUMNS": "80", **environment}.items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        code = analyze_runs.main([*map(str, arguments)])
    answer = Answer(code, out.getvalue(), err.getvalue())
    assert "a bug in this script" not in answer.err
    return answer


def ask_process(*arguments: object) -> Answer:
    """What the script answers as users run it, without a terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def answered(*arguments: object, **more: object) -> Answer:
    answer = ask(*arguments, **more)
    assert answer.code == 0, answer.err
    return answer


def document(*arguments: object) -> dict:
    out = answered(*arguments, "--json").out
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def example_runs() -> list[Run]:
    """Two archs x two k x three seeds, and what real projects have besides."""
    runs = []
    for arch, base in (("filter_bank", 0.01), ("linear", 0.05)):
        for k in (8, 16):
            for seed in range(3):
                value = base + 0.001 * seed + (0.0 if k == 16 else 0.02)
                config = {"model": {"arch": arch, "k": k}, "optim": {"lr": 1e-3}, "seed": seed}
                name = f"stage2c_{arch}_lr1e-3_wd1e-4_k{k}_s{seed}"
                summary = {"test/mse": value, "test/acc": 1 - value, "val": {"loss": {"min": value, "last": 9.0}}}
                made = START + timedelta(hours=len(runs))
                runs.append(Run(id=f"r{len(runs):02}", name=name, config=config, summary=summary, created_at=made))
    odd = [
        Run(id="nan", name="diverged", config={"model": {"arch": "linear"}}, summary={"test/mse": math.nan}),
        Run(id="inf", name="exploded", config={"model": {"arch": "linear"}}, summary={"test/mse": -math.inf}),
        Run(id="none", name="[red]boom[/red]", summary={"epoch": 3}),
        Run(id="crash", name="crashed late", summary={"test/mse": 0.001}, state="crashed"),
        Run(id="fail", name="failed early", state="failed"),
    ]
    return runs + odd


@pytest.fixture(scope="module")
def runs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    goals = {"metric_val_loss_min": {"goal": "minimize", "summary": "min", "step_metric": None}}
    return write_runs(tmp_path_factory.mktemp("runs"), example_runs(), metrics=goals)


# --- manners --------------------------------------------------------------------------------------------------


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


def test_quiet_says_nothing(runs_file: Path) -> None:
    assert answered(runs_file, "--quiet", "--json").err == ""


def test_filters_say_what_they_kept_and_lost(runs_file: Path) -> None:
    err = answered(runs_file, "--metric", "test/mse", "--filter", "LINEAR").err
    assert "--filter LINEAR: 6 of 17 runs kept" in err
    err = answered(runs_file, "--metric", "test/mse", "--filter", "LINEAR", "-f", "^no such").err
    assert "--filter LINEAR --filter ^no such: 6 of 17 runs kept" in err
    assert "in other states" not in err  # none of those passes the other filter
    err = answered(runs_file, "--top", 3, "-m", "test/mse").err
    assert "--state finished (the default): 15 of 17 runs kept" in err
    assert "1 of 2 runs in other states has test/mse" in err


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


def test_all_states_count_where_no_run_is_finished(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [Run("a", state="crashed", summary={"test/mse": 1.0})])
    answer = answered(file, "--top", 1, "--json")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["a"]
    assert "no run is finished: runs in all states are used" in answer.err
    assert "no run left: --state finished: 0 of 1 run kept" in ask(file, "--state", "finished").err


# --- inputs ---------------------------------------------------------------------------------------------------


def test_default_input_is_the_newest(tmp_path: Path) -> None:
    assert ask(cwd=tmp_path).code == 1
    old = write_runs(tmp_path / "wandb_export", [Run("a", summary={"test/mse": 1.0})], project="old")
    assert "reading wandb_export/team_old_runs.parquet\n" in answered(cwd=tmp_path).err
    new = write_runs(tmp_path / "wandb_export", [Run("b", summary={"test/mse": 2.0})], project="new")
    os.utime(old, (1, 1))
    err = answered(cwd=tmp_path).err
    assert "reading wandb_export/team_new_runs.parquet, the newest of 2 exports" in err
    unified = write_runs(tmp_path / "analysis", [Run("c", summary={"test/mse": 3.0})])
    unified = unified.rename(tmp_path / "analysis" / "unified.parquet")
    assert "reading analysis/unified.parquet\n" in answered(cwd=tmp_path).err
    os.utime(unified, (2, 2))
    err = answered(cwd=tmp_path).err
    assert "reading wandb_export/team_new_runs.parquet" in err
    assert "analysis/unified.parquet is older" in err
    assert new.exists()


def test_folders_are_searched_and_foreign_files_passed_over(tmp_path: Path) -> None:
    write_runs(tmp_path / "a[1]", [Run("a", summary={"test/mse": 1.0})], project="one")
    write_runs(tmp_path / "deep" / "er", [Run("b", summary={"test/mse": 2.0, "other": 1.0})], project="two")
    write_runs(tmp_path / ".wandb_tools", [Run("hidden")])
    pl.DataFrame({"run_id": ["a"], "_step": [1]}).write_parquet(tmp_path / "team_one_history.parquet")
    answer = answered(tmp_path, "--top", "9", "--json")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["a", "b"]
    assert "skipped 1 parquet file without runs" in answer.err


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_damaged_input_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    for place in (tmp_path, tmp_path / "bad.parquet"):
        answer = ask(place)
        assert answer.code == 1
        assert "bad.parquet cannot be read" in answer.err


def test_a_file_cut_short_inside_is_named(tmp_path: Path, runs_file: Path) -> None:
    content = bytearray(runs_file.read_bytes())
    content[8 : len(content) // 2] = bytes(len(content) // 2 - 8)
    (tmp_path / "torn.parquet").write_bytes(content)
    answer = ask(tmp_path / "torn.parquet", "--quiet")
    assert answer.code == 1
    assert answer.err.startswith("error: ")


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    assert "does not exist" in ask(tmp_path / "nothing.parquet").err
    assert ask(tmp_path).code == 1
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "foreign.parquet")
    assert "no runs in" in ask(tmp_path / "foreign.parquet").err
    answer = ask(write_runs(tmp_path, []))
    assert (answer.code, answer.out) == (1, "")
    assert "has no runs" in answer.err


def test_inputs_that_clash_name_aggregate_runs(tmp_path: Path) -> None:
    number = write_runs(tmp_path, [Run("a", config={"lr": 0.1})], project="one")
    text = write_runs(tmp_path, [Run("b", config={"lr": "high"})], project="two")
    nested = write_runs(tmp_path, [Run("c", config={"a": {"b": 1}})], project="three")
    flat = write_runs(tmp_path, [Run("d", config={"a_b": 1})], project="four")
    again = write_runs(tmp_path / "again", [Run("a", config={"lr": 0.2})], project="one")
    for inputs in ((number, text), (nested, flat), (number, again)):
        answer = ask(*inputs)
        assert answer.code == 2
        assert "aggregate_runs.py" in answer.err
    assert answered(number, nested, number).code == 0  # named twice is read once


def test_an_input_is_not_overwritten(runs_file: Path) -> None:
    before = runs_file.read_bytes()
    assert ask(runs_file, "-o", runs_file).code == 2
    assert runs_file.read_bytes() == before


def test_runs_are_not_overwritten_but_earlier_answers_are(runs_file: Path, tmp_path: Path) -> None:
    export = write_runs(tmp_path, [Run("a")])
    before = export.read_bytes()
    answer = ask(runs_file, "--top", 1, "-o", export)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: -o {export} is a file of runs, which would be lost; choose another name\n"
    assert export.read_bytes() == before
    (tmp_path / "noise.parquet").write_bytes(b"no parquet")
    for name in ("noise.parquet", "top.parquet", "top.parquet"):
        assert ask(runs_file, "--top", 1, "-o", tmp_path / name).code == 0


def test_an_answer_is_no_input(runs_file: Path) -> None:
    output = runs_file.parent / "top.parquet"
    for _ in range(2):
        assert answered(runs_file.parent, "--top", 3, "-o", output).out == f"{output}\n"
    assert pl.read_parquet(output).height == 3
    assert "no runs in" in ask(output).err
    output.unlink()


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


@pytest.mark.parametrize("name", ["test/mse", "test_mse", "metric_test_mse"])
def test_a_metric_goes_by_three_names(runs_file: Path, name: str) -> None:
    assert document(runs_file, "--metric", name, "--top", 1)["top"][0][MSE] == 0.01


@pytest.mark.parametrize("name", ["model.k", "model_k", "config_model_k"])
def test_a_column_goes_by_three_names(runs_file: Path, name: str) -> None:
    assert {row["config_model_k"] for row in document(runs_file, "--group-by", name)["groups"]} == {8, 16, None}


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


def test_a_damaged_column_is_named_where_the_values_of_a_metric_are_counted(tmp_path: Path) -> None:
    summaries = [{"acc": 0.5}, {"acc": {"max": 0.9}}]
    file = write_runs(tmp_path, [Run(f"r{n}", summary=summaries[n % 2]) for n in range(50)])
    chunks = [pq.read_metadata(file).row_group(0).column(n) for n in range(len(pq.read_schema(file).names))]
    damaged = bytearray(file.read_bytes())
    for chunk in chunks:
        if chunk.path_in_schema == "metric_acc_max":
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            damaged[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(damaged)
    assert ask(file, "--metric", "acc", "--top", 1, "--state", "all").code == 1


def test_stored_goal_beats_the_name_and_a_flag_beats_both(tmp_path: Path) -> None:
    runs = [Run("low", summary={"x/loss": 1.0}), Run("high", summary={"x/loss": 2.0})]
    file = write_runs(tmp_path, runs, metrics={"metric_x_loss": {"goal": "maximize"}})
    for flags, best, why in (([], "high", "set by define_metric or the sweep"), (["--ascending"], "low", "as given")):
        answer = answered(file, "--top", 1, *flags)
        assert f"\n{best}" in answer.out
        assert why in answer.out


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


# --- top ------------------------------------------------------------------------------------------------------


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


def test_columns_choose(runs_file: Path) -> None:
    out = answered(runs_file, "--top", 1, "--columns", "name,optim.lr,created_at,tags").out
    assert out.splitlines()[1].split() == ["name", "optim.lr", "created_at", "tags"]
    out = answered(runs_file, "--group-by", "model.k", "--columns", "model.k,sem").out
    assert out.splitlines()[1].split() == ["model.k", "sem"]
    assert document(runs_file, "--top", 1, "--columns", "optim.lr")["top"][0]["config_optim_lr"] == 1e-3


def test_the_same_id_in_two_projects_stays_two_runs(tmp_path: Path) -> None:
    one = write_runs(tmp_path, [Run("same", name="one", summary={"test/mse": 1.0})], project="one")
    two = write_runs(tmp_path, [Run("same", name="two", summary={"test/mse": 2.0})], project="two")
    rows = document(one, two, "--top", 5)["top"]
    assert [(row["name"], row["project"], row[MSE]) for row in rows] == [("one", "one", 1.0), ("two", "two", 2.0)]


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


@pytest.mark.parametrize("freedom", [*range(1, 121), 500, 999, 1000, 1001, 5000, 10**6])
def test_t_quantile_equals_scipy(freedom: int) -> None:
    assert analyze_runs.t_quantile(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-9)


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


def test_a_long_schema_keeps_some_of_every_kind(tmp_path: Path) -> None:
    config = {f"option_{chr(97 + i // 26)}{chr(97 + i % 26)}": i for i in range(200)}
    out = answered(write_runs(tmp_path, [Run("a", config=config, summary={"test/mse": 1.0})]), "--schema").out
    assert "metric_test_mse" in out
    assert "created_at" in out
    assert "config_option_aa" in out
    assert len(out.encode()) < 4096
    assert "more rows: use --max-rows 0 for all" in out


# --- what people see ------------------------------------------------------------------------------------------


def many_groups() -> list[Run]:
    names = [f"an_architecture_with_a_long_name_{i:02}" for i in range(30)]
    return [
        Run(
            id=f"{i:02}-{seed}",
            name=f"stage2c_{name}_lr1e-3_wd1e-4_k16_s{seed}",
            config={"model": {"arch": name}, "seed": seed} | {f"long_option_{j}": i * j for j in range(50)},
            summary={"test/mse": 0.01234567 * (i + 1) + 0.0001 * seed},
        )
        for i, name in enumerate(names)
        for seed in range(3)
    ]


@pytest.mark.parametrize("arguments", [[], ["--group-by", "model.arch", "--top", "10"], ["--schema"]])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_page(tmp_path: Path, arguments: list, width: int) -> None:
    file = write_runs(tmp_path, many_groups())
    out = answered(file, *arguments, COLUMNS=str(width)).out
    assert max(map(len, out.splitlines())) <= width
    assert "\x1b" not in out
    assert len(out.encode()) < 6500


def test_a_group_table_shows_the_contracts_columns(tmp_path: Path) -> None:
    out = answered(write_runs(tmp_path, many_groups()), "--group-by", "model.arch").out
    assert " ".join(out.splitlines()[1].split()) == "model.arch n mean std best run min median max"
    assert "10 more rows: use --max-rows 0 for all" in out
    assert "0.0124 " in out  # the mean of the best group
    everything = answered(write_runs(tmp_path, many_groups()), "--group-by", "model.arch", "--max-rows", 0).out
    assert len(everything.splitlines()) == len(out.splitlines()) + 9


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
def test_names_are_data(tmp_path: Path, form: str) -> None:
    hostile = ["[red]boom[/red]", "\x1b[31mred\x1b[0m", "a|b\nc", "=1+1", "@SUM(A1)", "🎉/x", "\u202etxt", "'; --"]
    runs = [Run(f"r{i}", name=name, summary={"test/mse": float(i)}) for i, name in enumerate(hostile)]
    out = answered(write_runs(tmp_path, runs), "--top", 20, "--format", form).out
    assert "\x1b" not in out
    if form == "table":
        assert "[red]boom[/red]" in out
        assert "\u202e" not in out
        assert "🎉/x" in out
    if form == "markdown":
        assert "\\[red]boom\\[/red]" in out
        assert "a\\|b" in out
    if form == "csv":
        names = [row["name"] for row in csv.DictReader(io.StringIO(out))]
        assert names[3:5] == ["'=1+1", "'@SUM(A1)"]
    if form == "json":
        assert [row["name"] for row in json.loads(out)["top"]] == hostile


def test_colours_only_where_wanted(runs_file: Path) -> None:
    def on_terminal(**environment: str) -> str:
        primary, secondary = os.openpty()
        command = [sys.executable, SCRIPT, runs_file, "--quiet", "--top", "1"]
        subprocess.run(command, stdout=secondary, env={**os.environ, "TERM": "xterm", **environment}, check=True)
        os.close(secondary)
        text = os.read(primary, 100_000).decode()
        os.close(primary)
        return text

    assert "\x1b[1m" in on_terminal(NO_COLOR="")
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in on_terminal(NO_COLOR="", TERM="dumb")


@given(st.text(), st.integers(1, 60))
def test_shortened_fits_and_keeps_what_is_short(text: str, width: int) -> None:
    short = analyze_runs.shortened(text, width)
    if analyze_runs.cell_count(text) <= width:
        assert short == text
    else:
        assert analyze_runs.cell_count(short) <= width
        assert "…" in short


def test_the_middle_of_a_text_goes() -> None:
    assert analyze_runs.shortened("0123456789abc", 10) == "0123…89abc"
    assert analyze_runs.shortened("0123456789abc", 9) == "0123…9abc"
    assert analyze_runs.words("val/2/topK_10") == ["val", "2", "top", "k", "10"]


@given(st.lists(st.floats(), min_size=1))
def test_any_column_of_floats_can_be_spelt(values: list[float]) -> None:
    texts = analyze_runs.cells_of(pl.Series(values, dtype=pl.Float64))
    for text, value in zip(texts, values, strict=True):
        if math.isfinite(value) and 1e-4 < abs(value) < 1e300:
            assert float(text) == pytest.approx(value, rel=0.06)


# --- formats --------------------------------------------------------------------------------------------------


@given(st.one_of(st.text(), st.from_regex(r"[=+\-@\t\r].*"), st.floats().map(str), st.integers().map(str)))
def test_no_cell_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO("".join(analyze_runs.csv_parts(pl.DataFrame({"x": [text]}))), newline="")))
    cell = rows[1][0] if len(rows) > 1 and rows[1] else ""
    if cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        assert math.isfinite(float(cell))  # a number


def test_heads_that_look_alike_in_csv_are_no_error() -> None:
    frame = pl.DataFrame({"=a": [1], "'=a": [2], "a\x01": [3], "a\x02": [4], "b,c": [None], "": [""]})
    assert "".join(analyze_runs.csv_parts(frame)) == '\'=a,\'=a,a\ufffd,a\ufffd,"b,c",""\n1,2,3,4,,""\n'


def test_large_tables_become_text_in_parts(monkeypatch):
    table = pl.DataFrame({"x": [0.5, math.nan, None, 2.0, 3.0], "list": [[1], [], None, [2, 3], [4]]})
    results = [analyze_runs.Result(key, "", table, []) for key in ("groups", "groups", "top")]
    results += [analyze_runs.Result("sql", "", table.clear(), [])]
    whole = "".join(analyze_runs.csv_parts(table)), "".join(analyze_runs.json_parts(results, ["a.json"]))
    rows = [{"x": x, "list": y} for x, y in zip([0.5, "NaN", None, 2.0, 3.0], table["list"].to_list(), strict=True)]
    expected = {"version": 1, "groups": rows * 2, "top": rows, "sql": [], "files": ["a.json"]}
    assert json.loads(whole[1]) == expected
    monkeypatch.setattr(analyze_runs, "CELLS_WRITTEN", 4)  # two rows
    parts = [*analyze_runs.csv_parts(table)], [*analyze_runs.json_parts(results, ["a.json"])]
    assert (len(parts[0]), "".join(parts[0]), "".join(parts[1])) == (4, *whole)


def test_csv_is_exact_and_numbers_stay_numbers(tmp_path: Path) -> None:
    runs = [Run("a", name="-1e-3", config={"g": "-x"}, summary={"test/acc": -1 / 3}), Run("b", config={"g": "=x"})]
    rows = list(csv.DictReader(io.StringIO(answered(write_runs(tmp_path, runs), "-g", "g", "--format", "csv").out)))
    assert [row["config_g"] for row in rows] == ["'-x", "'=x"]
    assert float(rows[0]["mean"]) == -1 / 3
    assert rows[0]["best_run"] == "-1e-3"
    assert rows[1]["mean"] == ""


def test_json_spells_non_finite_numbers(runs_file: Path) -> None:
    rows = document(runs_file, "--top", 20, "--metric", "val.loss.min", "--columns", "test/mse", "--state", "all")[
        "top"
    ]
    assert all(isinstance(row[MSE], float) for row in rows)
    out = answered(runs_file, "--schema", "--json").out
    assert json.loads(out)["version"] == 1


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet", ".md"])
def test_files_hold_everything(tmp_path: Path, ending: str) -> None:
    output = tmp_path / "new" / f"results{ending}"
    arguments = [write_runs(tmp_path, many_groups()), "-g", "model.arch", "-t", "3", "-o", output, "--max-rows", "2"]
    answer = answered(*arguments)
    assert answer.out == f"{output}\n"
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    content = output.read_bytes()
    if ending == ".parquet":
        table = pl.read_parquet(output)
        assert {*analyze_runs.STATISTICS}.difference(table.columns) == {"iqm", "best_step"}
        assert table.columns == [
            *("config_model_arch", "metric"),
            *(name for name in analyze_runs.STATISTICS if name in table.columns),
        ]
        assert table.height == 30
    if ending == ".json":
        assert len(json.loads(content)["groups"]) == 30
        assert len(json.loads(content)["top"]) == 3
    if ending == ".csv":
        assert len(list(csv.DictReader(io.StringIO(content.decode())))) == 30
    if ending == ".md":
        assert content.decode().count("| an_architecture_with_a_long_name_") == 30
    assert ("left out: top" in answer.err) is (ending in {".csv", ".parquet"})


def test_json_names_the_file_it_wrote(tmp_path: Path, runs_file: Path) -> None:
    output = tmp_path / "top.csv"
    shown = document(runs_file, "--top", 2, "-o", output)
    assert shown["files"] == [str(output)]
    assert len(shown["top"]) == 2


@pytest.mark.parametrize("more", [["--json"], ["--json", "-o", "x.json"], ["--format", "csv"], ["-o", "x.csv"]])
def test_findings_are_said_once(tmp_path: Path, runs_file: Path, more: list) -> None:
    err = answered(runs_file, "--top", 2, "-m", "test/mse", *more, cwd=tmp_path).err
    assert err.count("Best 2 runs by test/mse") == 1
    assert err.count("12 of 15 runs have a finite test/mse") == 1


def test_a_write_error_names_the_users_file_only(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    with pytest.raises(analyze_runs.ScriptError, match="No such file") as told, analyze_runs.replacing(file) as hidden:
        pl.DataFrame({"x": [1]}).write_parquet(hidden / "nowhere")
    assert "partial" not in str(told.value)


def test_an_unwritable_output_is_said(tmp_path: Path, runs_file: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = ask(runs_file, "--top", 1, "--quiet", "-o", tmp_path / "file" / "x.csv")
    assert answer.code == 1
    assert "was not written" in answer.err


def test_answers_are_the_same_every_time(runs_file: Path) -> None:
    arguments = [runs_file, "--top", "20", "-g", "model.arch,seed", "--json", "--state", "all"]
    assert len({answered(*arguments).out for _ in range(3)}) == 1


def test_derived_columns_come_first_and_repeats_are_left_out(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [run for run in example_runs() if run.id.startswith("r")])
    metadata = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    unified = pl.read_parquet(file).with_columns(k=pl.col("config_model_k"), source_file=pl.col("name"))
    unified.write_parquet(file, metadata=metadata)
    header = answered(file, "--top", 4).out.splitlines()[1].split()
    assert header == ["name", "test/mse", "k", "seed"]


def test_columns_that_most_rows_lack_are_not_shown(tmp_path: Path) -> None:
    configs = [{"half": 1, "rare": 1}, {"half": 2, "rare": 2}, {}, {}, {"half": 3}]
    runs = [Run(f"r{i}", config=config, summary={"test/mse": i}) for i, config in enumerate(configs)]
    file = write_runs(tmp_path, runs)
    assert answered(file, "--top", 5).out.splitlines()[1].split() == ["name", "test/mse", "half"]
    assert document(file, "--top", 5)["top"][0]["config_rare"] == 1


@pytest.mark.parametrize("width", [20, 30, 40])
def test_the_metric_stays_on_a_narrow_page(runs_file: Path, width: int) -> None:
    lines = answered(runs_file, "--top", 2, "-m", "test/mse", COLUMNS=str(width)).out.splitlines()
    assert any(line.split()[:2] == ["name", "test/mse"] for line in lines)
    assert max(map(len, lines)) <= width


def test_settings_of_twelve_letters_stay_whole(tmp_path: Path) -> None:
    runs = [Run(f"{i}{'long' * 9}", config={"arch": f"filter_bank{i}"}, summary={"test/mse": i}) for i in range(3)]
    assert "filter_bank0" in answered(write_runs(tmp_path, runs), "--top", 3, COLUMNS="46").out


def test_columns_of_statistics_and_of_runs_go_to_their_tables(runs_file: Path) -> None:
    out = answered(runs_file, "-t", 1, "-g", "model.k", "-m", "test/mse", "--columns", "model.k,sem").out
    heads = [line.split() for line in out.splitlines() if "model.k" in line and " by " not in line]
    assert heads == [["test/mse", "model.k"], ["model.k", "sem"]]  # the metric stays
    assert "best run" in answered(runs_file, "-g", "model.k", "-m", "test/mse", "--columns", "name").out


def test_what_is_named_is_shown_at_any_width(tmp_path: Path) -> None:
    """Columns by --columns, and the runs of --diff: the table is wider than the page instead."""
    names = [f"option_{n:02}" for n in range(9)]
    config = [{name: f"a long text of {n} and {run}" for n, name in enumerate(names)} for run in range(9)]
    runs = [Run(f"run_{n}_" + "x" * 20, config=values, summary={"test/mse": n}) for n, values in enumerate(config)]
    file = write_runs(tmp_path, runs)
    top = answered(file, "--top", 3, "-m", "test/mse", "--columns", ",".join(names)).out
    assert top.splitlines()[1].split() == ["test/mse", *names]
    assert "no room" not in top
    chosen = ["model.k", *(name for name in analyze_runs.STATISTICS if name not in {"iqm", "best_step"})]
    config_k = [Run(f"r{n}", config={"model": {"k": n % 2}}, summary={"test/mse": n}) for n in range(4)]
    groups = answered(write_runs(tmp_path / "k", config_k), "-g", "model.k", "--columns", ",".join(chosen)).out
    assert "no room" not in groups
    assert len(groups.splitlines()[1].split()) >= len(chosen)
    out = answered(file, "--diff", *(run.id for run in runs)).out
    assert "no room" not in out
    assert all(f"run_{n}_" in out for n in range(9))


def test_paths_of_columns_decide_which_is_meant(tmp_path: Path) -> None:
    config = {"lr": 1, "optim": {"lr": 2}, "optim.lr": 3}
    file = write_runs(tmp_path, [Run("a", config=config | {"x": i}, summary={"test/mse": 1.0}) for i in range(1)])
    for name, column in (("lr", "config_lr"), ("optim.lr", "config_optim_lr")):
        assert column in document(file, "-g", name)["groups"][0]


def test_doctests() -> None:
    assert doctest.testmod(analyze_runs).failed == 0


# --- parts whose mistakes nothing else noticed ----------------------------------------------------------------


def test_words_that_all_names_share_go_first() -> None:
    names = ["stage2_gnn_k16_seed_long_run", "stage2_mlp_k16_seed_long_run"]
    assert analyze_runs.short_names(names, 10) == ["…gnn…", "…mlp…"]
    assert analyze_runs.short_names(["same_" * 4] * 2, 7) == ["sam…me_"] * 2


@pytest.mark.parametrize("word", ["loss", "error", "accuracy", "acc", "score", "reward"])
def test_plain_words_name_the_default_metric(tmp_path: Path, word: str) -> None:
    file = write_runs(tmp_path, [Run("a", summary={"val/auc": 1.0, f"val/{word}": 2.0})])
    answer = answered(file, "--top", 1)
    assert f"metric: val/{word} (use --metric" in answer.out + answer.err


def test_a_setting_of_one_finite_value_is_not_ranked(tmp_path: Path) -> None:
    runs = [Run(f"r{n}", config={"x": 1.0 if n else math.nan, "y": n}, summary={"loss": n}) for n in range(12)]
    rows = json.loads(answered(write_runs(tmp_path, runs), "--importance", "--json").out)["importance"]
    assert [row["column"] for row in rows] == ["config_y"]


def test_incomplete_beta_equals_scipy() -> None:
    for a, b, x in [(1.0, 0.5, 0.0), (1.0, 0.5, 1.0), (0.5, 0.5, 0.3), (40.0, 0.5, 0.999), (2.0, 9.0, 1e-9)]:
        assert analyze_runs.incomplete_beta(a, b, x, 1 - x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9)


def test_welch_p_equals_scipy() -> None:
    groups = [(1.0, 0.5, 3), (1.2, 0.0, 5), (-4.0, 2.5, 12), (1.0, 0.1, 40), (1e9, 0.1, 2)]
    for one in groups:
        for other in groups:
            wanted = scipy.stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue
            found = analyze_runs.welch_p(one, other)
            assert found is None if one[1] == other[1] == 0 else found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("far", "remarks"), [(1e18, ["extreme values are cut off"]), (1e10, [])])
def test_a_value_ten_usual_distances_off_is_cut_off(far: float, remarks: list[str]) -> None:
    rows = pl.DataFrame({"value": [1.0, 10.0, 100.0, 1e3, 1e4, far]})  # half lie within 1.5 decades of the median
    assert analyze_runs.scaled(rows, "top", log=True, is_live=False)[2] == remarks


def test_a_metric_of_the_histories_alone_is_called_as_logged(runs_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pl.read_parquet(runs_file).with_columns(history_min_loss=pl.lit(1.0)).write_parquet(file)
    for name in ("loss", "metric_loss"):
        assert "metric_" not in answered(file, "--top", 1, "-m", name, "--value", "min").out


def test_the_sign_of_an_association(tmp_path: Path) -> None:
    runs = [Run(f"{n}", config={"up": n, "down": -n}, summary={"test/mse": float(n)}) for n in range(12)]
    lines = answered(write_runs(tmp_path, runs), "--importance", "-m", "test/mse").out.splitlines()
    signs = {words[0]: sign for line in lines if (words := line.split()) for sign in "+-" if sign in words}
    assert (signs["up"], signs["down"]) == ("+", "-")


def test_a_named_metric_needs_no_remark(runs_file: Path) -> None:
    assert ask(runs_file, "--state", "all", "--top", 1, "-m", "test/mse").err == ""


def test_columns_of_our_own_are_not_suggested(runs_file: Path) -> None:
    answer = ask(runs_file, "--group-by", "config_json")
    assert (answer.code, "_config_json" in answer.err) == (2, False)


def test_curves_are_clamped_to_their_picture() -> None:
    rows = pl.DataFrame({"value": [1.0, 2.0, 4.0], "ci_low": [0.5, 1.0, 2.0], "ci_high": [2.0, 4.0, 1e9]})
    for is_live in (True, False):  # in a live one the user zooms out
        _, scale, remarks = analyze_runs.scaled(rows, "curves", log=False, is_live=is_live)
        cut = {"domain": (0.625, 4.375), "nice": True, "clamp": not is_live, "padding": 8}
        assert scale == {"zero": False, **cut}
        assert remarks == ["wide intervals are cut off"]
    narrow = rows.with_columns(ci_low=pl.col("value") - 0.1, ci_high=pl.col("value") + 0.1)
    _, scale, remarks = analyze_runs.scaled(narrow, "curves", log=False, is_live=False)
    assert (scale["domain"], remarks) == ((0.9, 4.1), [])
    for groups, is_cut in ((rows, True), (narrow, False)):  # these have an axis of their own only where it is cut
        assert ("domain" in analyze_runs.scaled(groups, "groups", log=False, is_live=False)[1]) == is_cut
