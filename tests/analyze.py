"""How the tests ask analyze_runs.py, and the runs and files that several of them ask it about."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import analyze_runs
import polars as pl
import pytest
from contract_files import START, Run, write_rows, write_runs

SCRIPT = Path(analyze_runs.__file__)
MSE = "metric_test_mse"
analyze_runs.import_libraries()


# --- how it is asked ------------------------------------------------------------------------------------------


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
    assert "a bug in this script" not in answer.err, answer.err
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


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What the script writes to a terminal."""
    primary, secondary = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    subprocess.run(command, stdout=secondary, env=environment, check=True)
    os.close(secondary)
    text = os.read(primary, 100_000).decode()
    os.close(primary)
    return text


# --- runs -----------------------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module", name="runs_file")
def example_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    goals = {"metric_val_loss_min": {"goal": "minimize", "summary": "min", "step_metric": None}}
    return write_runs(tmp_path_factory.mktemp("runs"), example_runs(), metrics=goals)


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


@pytest.fixture(name="file")
def grid_file(tmp_path: Path) -> Path:
    return write_runs(tmp_path, grid_runs())


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


@pytest.fixture(name="grouped")
def grouped_file(tmp_path):
    """Two groups of two runs; the settings are called like columns of ours."""
    runs = [
        Run(f"r{n}", config={"group": f"own{n % 2}", "state": n, "seed": n}, summary={"test/mse": n + 0.5}, group="wb")
        for n in range(4)
    ]
    return write_runs(tmp_path, runs)


def with_machines(folder: Path) -> Path:
    file = write_runs(folder, [Run(f"r{n}", config={"k": n}, summary={"test/mse": float(n)}) for n in range(4)])
    return rewrite(
        file,
        runtime_s=pl.Series([3600.0, 7200.0, 1800.0, 60.0]),
        host=pl.Series(["a", "a", "b", None], dtype=pl.String),
        gpu=pl.Series(["A100", "A100", "T4", None]),
        gpu_count=pl.Series([2, 2, 1, None]),
        state=pl.Series(["finished", "crashed", "finished", "finished"]),
    )


CONSOLE = {
    "run_id": ["r0", "r0", "r0", "r0", "r1", "r1", "r1", "r2"],
    "line": [0, 1, 2, 3, 0, 1, 2, 0],
    "time": [START] * 8,
    "stream": ["stdout", "stderr", "stderr", "stdout", None, "stdout", None, "stderr"],
    "text": ["step 1", "MemoryError: [red]", "  ", "cleaning up", "epoch 1", "Killed\u202e", "", "a warning"],
}


# --- files ----------------------------------------------------------------------------------------------------


def our_metadata(file: Path) -> dict[str, str]:
    """The metadata of a parquet file that are ours."""
    return {key: text for key, text in pl.read_parquet_metadata(file).items() if key.startswith("wandb_tools")}


def rewrite(file: Path, **columns: pl.Expr | pl.Series) -> Path:
    """The runs file with other columns, its metadata kept."""
    pl.read_parquet(file).with_columns(**columns).write_parquet(file, metadata=our_metadata(file))
    return file


def with_metadata(file, **texts: str):
    """The parquet file with further metadata."""
    more = {f"wandb_tools.{key}": text for key, text in texts.items()}
    pl.read_parquet(file).write_parquet(file, metadata=our_metadata(file) | more)
    return file


def steps(run: str, values: list[float]) -> list[tuple]:
    return [(run, step, value) for step, value in enumerate(values)]


def write_history(folder: Path, rows: list[tuple], name: str = "team_demo_history", project: str = "demo") -> Path:
    """Rows of run id, step and loss."""
    schema = {"run_id": pl.String, "_step": pl.Int64, "metric_loss": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(entity=pl.lit("team"), project=pl.lit(project))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.parquet"
    paths = json.dumps({"metric_loss": ["loss"]})
    frame.sort("run_id", "_step").write_parquet(file, metadata={"wandb_tools.columns": paths})
    return file


def write_epochs(folder: Path, rows: list[tuple]) -> Path:
    """Rows of run id, step, epoch and loss, beside the runs file of `write_runs`; W&B's names are not in the file."""
    schema = {"run_id": pl.String, "_step": pl.Int64, "metric_epoch": pl.Float64, "metric_loss": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(entity=pl.lit("team"), project=pl.lit("demo"))
    target = folder / "team_demo_history.parquet"
    frame.sort("run_id", "_step").write_parquet(target)
    return target


ROW_NAMES = {"run_id", "_step", "_timestamp"}


def write_metrics(folder: Path, columns: dict, project: str = "demo", **metrics: dict) -> Path:
    """A history with metrics of any W&B names; `metrics` is what define_metric says about their columns."""
    paths = {f"metric_{re.sub('[^A-Za-z0-9_]', '_', name)}": [name] for name in columns if name not in ROW_NAMES}
    frame = pl.DataFrame(columns).rename({path[0]: column for column, path in paths.items()})
    file = folder / f"team_{project}_history.parquet"
    metadata = {"wandb_tools.columns": json.dumps(paths), "wandb_tools.metrics": json.dumps(metrics)}
    frame = frame.with_columns(entity=pl.lit("team"), project=pl.lit(project))
    frame.write_parquet(file, metadata=metadata)
    return file


def write_export(folder: Path, view: str, project: str = "demo", export_id: str | None = None) -> Path:
    """A file of an export: its one run, or rows of it."""
    rows = {
        "history": {"_step": [0], "metric_loss": [1.0]},
        "console": {"line": [0], "stream": [None], "text": ["Boom"]},
    }
    if view == "runs":
        file = write_runs(folder, [Run("a", state="failed")], project=project)
    else:
        file = write_rows(folder, view, {"run_id": ["a"], **rows[view]}, project=project)
    source = json.dumps({"entity": "team", "project": project})
    return with_metadata(file, source=source, **({"export_id": export_id} if export_id else {}))
