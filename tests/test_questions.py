"""Thirty questions that a newcomer with nothing but SKILL.md and the example runs asks, and whether the scripts answer.

Each has at most three commands, whose outputs together hold at most 6 kB, stderr included. The answers are computed by
plain Python from the logs (`example_truth`); no model is needed to check: an output answers if each fact of the answer
stands in it, in one line or one JSON object where a fact has several parts. Numbers count as equal to four digits.
"""

# ruff: noqa: E501 - a question stands beside its commands and its answer
from __future__ import annotations

import math
import re
import shlex
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import LIMIT_S, ROOT
from example_truth import TrueRun, by, finite, mean_of, true_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MOST_COMMANDS, MOST_CHARACTERS = 3, 6_000
LOGS = "examples/offline-runs"
A = "analyze_runs.py analysis/unified.parquet"
MSE, SNR, VAL = "test/mse", "test/snr_db", "val/mse"

Fact = tuple[Any, ...]  # its parts stand in one line


class Question(NamedTuple):
    text: str
    commands: Sequence[str]
    answer: Callable[[Sequence[TrueRun]], Sequence[Fact]]


# --- what plain Python makes of the runs ----------------------------------------------------------------------


def done(runs: Sequence[TrueRun]) -> list[TrueRun]:
    return [run for run in runs if run.state == "finished"]


def best(runs: Sequence[TrueRun], metric: str, count: int = 1, *, higher: bool = False) -> list[TrueRun]:
    usable = [run for run in done(runs) if (v := run.value(metric)) is not None and math.isfinite(v)]
    return sorted(usable, key=lambda run: run.value(metric) * (-1 if higher else 1))[:count]


def of(runs: Sequence[TrueRun], stage: str = "", arch: str = "") -> list[TrueRun]:
    return [run for run in done(runs) if run.stage.startswith(stage) and (not arch or run.arch == arch)]


def lowest(run: TrueRun, metric: str = VAL) -> tuple[float, int]:
    return min((value, step) for step, value in run.series(metric) if math.isfinite(value))


def setting_means(runs: Sequence[TrueRun], metric: str, *keys: tuple[str, ...]) -> list[tuple[Any, ...]]:
    groups = by(lambda run: tuple(run.setting(*key) for key in keys), runs)
    return [(*values, mean_of(members, metric), len(members)) for values, members in groups.items()]


def curve(runs: Sequence[TrueRun], step: int) -> float:
    values = [dict(run.series(VAL))[step] for run in runs]
    return statistics.fmean(finite(values))


def spread(runs: Sequence[TrueRun], metric: str) -> float:
    return statistics.stdev(finite(run.value(metric) for run in runs))


def states(runs: Sequence[TrueRun], *wanted: str) -> list[TrueRun]:
    return [run for run in runs if run.state in wanted]


# --- the questions --------------------------------------------------------------------------------------------

QUESTIONS = [
    Question(
        "How many runs are in each project?",
        [f"export_runs.py --offline {LOGS} --dry-run"],
        lambda runs: [(project, f"{len(members)} runs") for project, members in by(lambda r: r.project, runs).items()],
    ),
    Question(
        "How many history rows were logged in all?",
        [f"export_runs.py --offline {LOGS} -o fresh/ --include-history --quiet", "aggregate_runs.py fresh/ -o fresh.parquet --history"],
        lambda runs: [(f"{sum(len(run.history) for run in runs):,} rows",)],
    ),
    Question("Which run has the lowest test error?", [f"{A} --top 1 -m test/mse"],
             lambda runs: [(best(runs, MSE)[0].name, best(runs, MSE)[0].value(MSE))]),
    Question("Which five runs have the best signal-to-noise ratio?", [f"{A} --top 5 -m test/snr_db"],
             lambda runs: [(run.name, run.value(SNR)) for run in best(runs, SNR, 5, higher=True)]),
    Question("How do the two best runs differ in their settings?",
             [f"{A} --top 2 -m test/mse", f"{A} --diff stage3b_filter_bank_lr1e-3_wd1e-4_k16_s0 stage3b_filter_bank_lr1e-3_wd1e-4_k16_s2"],
             lambda runs: [("seed", *(run.setting("seed") for run in best(runs, MSE, 2)))]),
    Question("Which model is best on average in stage 2c, over how many runs?", [f"{A} --filter stage2c --group-by arch -m test/mse"],
             lambda runs: [min(((mean_of(m, MSE), a, len(m)) for a, m in by(lambda r: r.arch, of(runs, "stage2c")).items() if a))]),
    Question("Is that difference between the best two models of stage 2c more than noise?",
             [f"{A} --filter stage2c --group-by arch -m test/mse"], lambda runs: [("within noise",)]),
    Question("What are mean and standard deviation of the GNN's test error?", [f"{A} --group-by arch -m test/mse"],
             lambda runs: [("gnn_all", mean_of(of(runs, arch="gnn_all"), MSE), spread(of(runs, arch="gnn_all"), MSE))]),
    Question("Which learning rate is better in stage 3b with k = 16?",
             [f"{A} --where \"stage = 'stage3b' AND config_model_k = 16\" --group-by optim.lr -m test/mse"],
             lambda runs: setting_means([r for r in of(runs, "stage3b") if r.setting("model", "k") == 16], MSE, ("optim", "lr"))),
    Question("Which runs diverged?", [f'{A} --where "metric_test_mse > 1e300" --group-by name -m test/mse --json'],
             lambda runs: [(run.name,) for run in runs if not math.isfinite(run.value(MSE) or 0)]),
    Question("Which runs failed or crashed, and at which step?",
             [f"{A} --state failed,crashed --top 20 -m train/loss --columns name,state,last_step"],
             lambda runs: [(run.name, run.state, run.history[-1]["_step"]) for run in states(runs, "failed", "crashed")]),
    Question("How does each model do in each stage?", [f"{A} --pivot stage,arch -m test/mse --json"],
             lambda runs: [(s, a, mean_of(m, MSE)) for (s, a), m in by(lambda r: (r.stage, r.arch), of(runs, "stage")).items()]),
    Question("Which values of k were tried, how often?", [f"{A} --varying --state all"],
             lambda runs: [("model.k", *(f"{k} ({len(m)})" for k, m in by(lambda r: r.setting("model", "k"), runs).items() if k))]),
    Question("Which seeds are missing in stage 3b?", [f"{A} --filter stage3b --varying"],
             lambda runs: [(8, 0.001, "lacks seed 1, 2")]),
    Question("Does k or the learning rate matter more in stage 3b?", [f"{A} --filter stage3b --importance -m test/mse"],
             lambda runs: [("optim.lr", len(of(runs, "stage3b")))]),
    Question("What is the filter bank's validation error in stage 1a at step 100?",
             [f"{A} --filter stage1a --curves val/mse --group-by arch --x step"],
             lambda runs: [(100, curve(of(runs, "stage1a", "filter_bank"), 100))]),
    Question("And the spectral model's after 60 steps in stage 2c?", [f"{A} --filter stage2c --curves val/mse --group-by arch --x step"],
             lambda runs: [(60, curve(of(runs, "stage2c", "spectral"), 60))]),
    Question("Which run reached the lowest validation error at any step, and when?",
             [f"{A} --top 1 -m val/mse --value min --columns name,history_min_val_mse,history_min_step_val_mse"],
             lambda runs: [min((*lowest(run), run.name) for run in done(runs))]),
    Question("What is the lowest validation error per model, averaged over its runs in stage 1a?",
             [f"{A} --filter stage1a --group-by arch -m val/mse --value min"],
             lambda runs: [(a, statistics.fmean(lowest(r)[0] for r in m)) for a, m in by(lambda r: r.arch, of(runs, "stage1a")).items()]),
    Question("Which metrics are there?", [f"{A} --schema"],
             lambda runs: [(f"metric_{name}",) for name in ("test_mse", "test_snr_db", "val_mse_min")]),
    Question("Which learning rates were used, from lowest to highest?", [f"{A} --schema --state all"],
             lambda runs: [("config_optim_lr", min(lr(r) for r in runs if lr(r)), max(lr(r) for r in runs if lr(r)))]),
    Question("How good are the baseline runs, by stage?",
             [f"{A} --where \"ARRAY_CONTAINS(tags, 'baseline')\" --group-by stage -m test/mse"],
             lambda runs: [(s, len(m), mean_of(m, MSE)) for s, m in by(lambda r: r.stage, [r for r in done(runs) if "baseline" in r.tags]).items()]),
    Question("How many parameters has the best run's model?", [f"{A} --top 1 -m test/mse --columns name,model/parameters"],
             lambda runs: [(best(runs, MSE)[0].name, best(runs, MSE)[0].value("model/parameters"))]),
    Question("Which setting is best, its seeds averaged?", [f"{A} --group-by '!seed' -m test/mse --max-rows 3"],
             lambda runs: [(16, 0.001, mean_of([r for r in of(runs, "stage3b") if r.setting("model", "k") == 16 and lr(r) == 0.001], MSE))]),
    Question("Each model at its best setting: which is best?", [f"{A} --best-per arch --group-by arch -m test/mse --quiet"],
             lambda runs: [("filter_bank", 4, mean_of([r for r in of(runs, "stage3b") if r.setting("model", "k") == 16 and lr(r) == 0.001], MSE))]),
    Question("What is the median test error by k in stage 3b?", [f"{A} --filter stage3b --group-by model.k -m test/mse --stat median"],
             lambda runs: [(k, statistics.median(r.value(MSE) for r in m)) for k, m in by(lambda r: r.setting("model", "k"), of(runs, "stage3b")).items() if len(m) != 1 and k]),
    Question("Can I have the groups as a CSV file?", [f"{A} --group-by arch -m test/mse -o groups.csv --quiet"],
             lambda runs: [("groups.csv",)]),
    Question("Can I have stage by model as LaTeX?", [f"{A} --pivot stage,arch -m test/mse --format latex"],
             lambda runs: [(r"\toprule",), ("stage3b", mean_of(of(runs, "stage3b", "filter_bank"), MSE))]),
    Question("How many debug runs are there, and how do they compare?", [f"{A} --group-by job_type -m test/mse"],
             lambda runs: [("debug", len([r for r in done(runs) if r.job_type == "debug"]))]),
    Question("What do the names' rules make of `stage4a_gnn_qk_lr3e-4_k32_s7`?", ["aggregate_runs.py --explain stage4a_gnn_qk_lr3e-4_k32_s7"],
             lambda runs: [("stage", "stage4a"), ("arch", "gnn_qk"), ("k", 32), ("lr_parsed", 0.0003), ("seed_parsed", 7)]),
]  # fmt: skip


def lr(run: TrueRun) -> float | None:
    return run.setting("optim", "lr")


# --- how they are asked ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the four-step workflow of SKILL.md has been followed."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "examples").symlink_to(ROOT / "examples")
    started(f"export_runs.py --offline {LOGS} -o export/ --include-history --quiet", folder)
    started("aggregate_runs.py export/ -o analysis/unified.parquet --history --at val/mse --quiet", folder)
    return folder


@pytest.fixture(scope="module")
def runs() -> list[TrueRun]:
    return true_runs()


def started(command: str, folder: Path) -> str:
    """All that a command prints, as a process."""
    name, *arguments = shlex.split(command)
    script = ROOT / "wandb-tools" / name
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def printed(folder, call_script) -> Callable[[str], str]:
    """The same, in this process."""

    def call(command: str) -> str:
        done = call_script(*shlex.split(command), cwd=folder)
        assert done.code == 0, done.err
        return done.out + done.err

    return call


def holds(output: str, fact: Fact) -> bool:
    """Whether all parts of a fact stand in one line, or one object of JSON."""
    return any(all(stands_in(line, part) for part in fact) for line in re.split(r"\n|\}, \{", output))


def stands_in(line: str, part: Any) -> bool:
    if isinstance(part, str):
        return part in line
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", line.replace(",", ""))]
    return any(math.isclose(number, float(part), rel_tol=6e-4) for number in numbers)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_the_question_is_answered(question: Question, printed: Callable[[str], str], runs: list[TrueRun]) -> None:
    output = "".join(map(printed, question.commands))
    answer = question.answer(runs)
    assert answer
    missing = [fact for fact in answer if not holds(output, fact)]
    assert not missing, f"{missing}\n{output}"
    assert len(question.commands) <= MOST_COMMANDS
    assert len(output) <= MOST_CHARACTERS


def test_a_process_prints_the_same(folder: Path, printed: Callable[[str], str]) -> None:
    command = f"{A} --group-by arch -m test/mse"
    assert started(command, folder) == printed(command)


STANDS_FOR = {"RUN RUN": "smoke-test quick-look", "RUN": "quick-look", "'X', 'Y'": "'filter_bank', 'spectral'"}


def commands_of_the_skill() -> list[str]:
    """What the table of SKILL.md says to ask, with runs of the examples in place of its stand-ins."""
    found = re.findall(r"`A( [^`]+)`", (ROOT / "SKILL.md").read_text("utf-8"))
    for name, run in STANDS_FOR.items():
        found = [command.replace(name, run) for command in found]
    return [command for command in found if "…" not in command and "console" not in command]  # the logs have none


@pytest.mark.parametrize("command", commands_of_the_skill())
def test_a_command_of_the_skills_table_answers_in_short(command: str, printed: Callable[[str], str]) -> None:
    assert 0 < len(printed(A + command)) <= MOST_CHARACTERS


def test_there_are_thirty() -> None:
    assert len({question.text for question in QUESTIONS}) == 30
