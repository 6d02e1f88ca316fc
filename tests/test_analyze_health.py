"""--health: problems in histories and summaries, why runs ended, and the machines that a report tells of."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from analyze import CONSOLE, answered, document, rewrite, steps, with_machines, write_history, write_metrics
from contract_files import Run, write_rows, write_runs

if TYPE_CHECKING:
    from pathlib import Path

# --- problems -------------------------------------------------------------------------------------------------


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
    }  # fmt: skip
    out = answered(file, "--health").out
    assert out.startswith("Problems in 6 of 11 runs: ")


def test_nothing_wrong_is_one_line(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"loss": 1.0}) for n in "abc"])
    write_history(tmp_path, [row for n in "abc" for row in steps(n, [2.0, 1.0])])
    assert answered(file, "--health").out == "3 runs: no problem found\n"
    assert document(file, "--health")["health"] == []


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


def test_steps_as_large_as_integers_may_be_are_no_error(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"loss": 1.0}) for n in "abc"])
    rewrite(file, last_step=pl.lit(2**63 - 1, dtype=pl.Int64))
    assert document(file, "--health")["health"] == []


# --- diverged, spikes, past the best --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "diverged"),
    [
        ("loss", [2.0, 1.4e-5, 0.03], False),
        ("loss", [math.nan, 2.0, 1.4e-5, 19.0], False),  # a loss of about zero for once
        ("loss", [math.nan, 2.0, 1.4e-5, 21.0], True),
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


def test_a_validation_metric_may_be_written_in_one_word(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_metrics(tmp_path, {"run_id": ["a"] * 4, "_step": [0, 1, 2, 3], "valLoss": [9.0, 1.0, 5.0, 6.0]})
    assert [row["problem"] for row in document(file, "--health")["health"]] == ["past its best"]


@pytest.mark.parametrize("name", ["eval/runtime", "eval_runtime", "val/throughput"])
def test_the_speed_of_a_validation_has_no_best(tmp_path, name):
    file = write_runs(tmp_path, [Run("a", summary={name: 3.0})])
    write_metrics(tmp_path, {"run_id": ["a"] * 4, "_step": [0, 1, 2, 3], name: [2.0, 1.0, 4.0, 3.0]})
    assert problems(file) == {}


# --- consoles: why runs ended ---------------------------------------------------------------------------------


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


def test_the_last_line_of_a_failed_run_holds_a_word(tmp_path):
    """Python's marks below a traceback's lines tell nothing."""
    file = write_runs(tmp_path, [Run("a", state="failed", history_rows=1)])
    text = ["    loss.backward()", "    ^^^^^^^^^^^^^^^", "----------"]
    lines = {"line": [0, 1, 2], "time": [None] * 3, "stream": ["stderr"] * 3, "text": text}
    write_rows(tmp_path, "console", {"run_id": ["a"] * 3, **lines})
    detail = [row["detail"] for row in document(file, "--health")["health"] if row["problem"] == "failed"]
    assert detail == ["at step 0: loss.backward()"]


def console(folder, run, texts, stream="stderr"):
    """Lines of output of one run."""
    lines = {"line": [*range(len(texts))], "time": [None] * len(texts), "stream": [stream] * len(texts)}
    write_rows(folder, "console", {"run_id": [run] * len(texts), **lines, "text": texts})


TORCH_ADVICE = [
    "Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/ for more information.",
    "CUDA kernel errors might be asynchronously reported at some other API call.",
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
]


@pytest.mark.parametrize(
    ("state", "texts", "cause"),
    [
        ("failed", ["RuntimeError: nan", "  3%|█         | 99/3000  [02:49<1:22]"], "RuntimeError: nan"),
        ("failed", ["a.b.OutOfMemoryError: CUDA", "For debugging consider"], "a.b.OutOfMemoryError: CUDA"),
        ("failed", ["ValueError: first", "KeyboardInterrupt", "Aborted!"], "KeyboardInterrupt"),
        ("failed", ["[rank0]: KeyError: 'x'", "ranks stopped"], "[rank0]: KeyError: 'x'"),
        ("failed", ["an Error occurred", "Error rate: 0.5", "last   word "], "last word"),
        ("failed", ["Exception: x", "done"], "Exception: x"),
        ("failed", ["stopped: CUDA error: out of memory", *TORCH_ADVICE], "stopped: CUDA error: out of memory"),
        ("crashed", ["CUDA error", *(f"[rank0]: {line}" for line in TORCH_ADVICE)], "CUDA error"),
        ("crashed", ["RuntimeError: skipped", "epoch 7"], "epoch 7"),  # it went on after that error
        ("crashed", ["epoch 7", "warn.py:3: old", "  warnings.warn(", " 62%|██ | 1395/2234"], "warn.py:3: old"),
        ("crashed", ["x.py", "Traceback (most recent call last):", "    raise Exception(1)"], "raise Exception(1)"),
        ("crashed", ["  8%|█ | 1/12", " 16%|█ | 2/12"], "16%| | 2/12"),
        ("crashed", ["34/63 - loss: 0.5" + "\b" * 9], "34/63 - loss: 0.5"),  # Keras moves back to its bar's start
        ("crashed", ["epoch 7", "1/1 [=====] - 0s 32ms/step"], "epoch 7"),
        ("crashed", ["out of memory", "x.py:3: FutureWarning: old", "  with autocast(on):"], "out of memory"),
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


# --- machines -------------------------------------------------------------------------------------------------


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
