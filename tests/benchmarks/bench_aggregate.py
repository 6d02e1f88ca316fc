# /// script
# requires-python = ">=3.11"
# dependencies = ["duckdb>=1.4,<3", "numpy>=2.1,<3", "polars>=2.1,<3", "pyarrow>=26,<27"]
# ///
"""What merging exports costs, beside DuckDB doing the least that could be called the same. Run by hand:

  uv run tests/benchmarks/bench_aggregate.py                 # everything: about six minutes, 7 GB of disk
  uv run tests/benchmarks/bench_aggregate.py --only a --pairs 5

  a  20,000 runs x 110 columns in 10 files
  b  200,000 runs x 210 columns in 100 files of differing schemas, 1 kB of JSON a row; and 20,000 of them in 10
  c  10,000,000 history rows x 20 metrics of 500 runs, with --history
  d  600,000 history rows x 220 metrics of 2,371 runs in 19 files, with --history

DuckDB reads the files by `read_parquet(union_by_name = true)` and writes one by COPY, zstd too: it derives no columns,
keeps doubles, sorts nothing and reports nothing. In d the peer is polars: a group_by of the same statistics for each
file, written to one file, without runs, order or a look at which rows count. Each command is a process of its own,
timed from its start to its end, imports included; the two sides of a ratio run in turn, and what is printed is the
median of the pairs' ratios, with the least and the greatest. Memory is what the process has resident at most. Nothing
is judged: the exit code is 0 unless a command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

SCRIPT = Path(__file__).parents[2] / "wandb-tools" / "aggregate_runs.py"
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("DuckDB", "aggregate_runs")
IDENTITY = 19  # columns of a runs file besides config, metrics and the two JSON texts
HISTORY_RUNS, HISTORY_STEPS, HISTORY_METRICS = 500, 20_000, 20
WIDE_RUNS, WIDE_ROWS, WIDE_METRICS, WIDE_FILES = 2_371, 600_000, 220, 19


class Cost(NamedTuple):
    seconds: float
    memory_mb: float


# --- what is merged -------------------------------------------------------------------------------------------


def write_exports(folder: Path, runs: int, columns: int, files: int, *, differing: bool) -> None:
    """Files of runs as export_runs writes them: `columns` in all, half of them configs; 1 kB of JSON a row."""
    folder.mkdir(parents=True)
    for number in range(files):
        frame = runs_frame(number, runs // files, columns, differing=differing)
        paths = {name: name.split("_", 1)[1:] for name in frame.columns if name.startswith(("config_", "metric_"))}
        metadata = {"wandb_tools.schema": "1", "wandb_tools.columns": json.dumps(paths)}
        frame.write_parquet(folder / f"team_project{number:03d}_runs.parquet", compression="zstd", metadata=metadata)


def runs_frame(number: int, runs: int, columns: int, *, differing: bool) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    random = np.random.default_rng(number)
    flat = columns - IDENTITY - 2
    configs, metrics = flat // 2, flat - flat // 2
    shift = number % 7 if differing else 0  # columns that other files do not have, and fewer of the common ones
    archs = ("gnn_all", "filter_bank", "spectral", "mlp", "other")
    ids = [f"r{number:03d}_{run:06d}" for run in range(runs)]
    names = [
        f"stage{run % 3}a_{archs[run % 5]}_lr{('1e-3', '1e-4')[run % 2]}_wd1e-4_k{4 * (run % 5)}_s{run % 10}"
        for run in range(runs)
    ]
    time_dtype = pl.Datetime("us", "UTC")
    created = pl.Series([START + timedelta(days=number, seconds=run) for run in range(runs)], dtype=time_dtype)
    text = "x" * 450
    identity = {
        "id": ids, "name": names, "state": ["finished", "crashed"] * (runs // 2), "entity": ["team"] * runs,
        "project": [f"project{number:03d}"] * runs, "created_at": created, "heartbeat_at": created,
        "runtime_s": random.random(runs), "last_step": random.integers(0, 1000, runs),
        "history_rows": random.integers(0, 1000, runs), "tags": [["a", "b"]] * runs,
    }  # fmt: skip
    frame = pl.DataFrame(identity)
    labels = ("group", "job_type", "sweep", "user", "notes", "commit", "url")
    frame = frame.with_columns(*(pl.lit(None, dtype=pl.String).alias(name) for name in labels))
    frame = frame.with_columns(created.alias("exported_at"))
    values = {f"config_c{column + shift:03d}": config_values(column, number, runs, random) for column in range(configs)}
    values |= {f"metric_m{column + shift:03d}": random.random(runs) for column in range(metrics)}
    texts = {
        name: [f'{{"note": "{text}", "id": "{id_}"}}' for id_ in ids] for name in ("_config_json", "_summary_json")
    }
    return pl.concat([frame, pl.DataFrame(values), pl.DataFrame(texts)], how="horizontal")


def config_values(column: int, number: int, runs: int, random):
    """Ints in one file and floats in another, texts, Booleans: what configs hold."""
    if column % 4 == 0:
        return random.integers(0, 100, runs) if number % 2 else random.random(runs)
    if column % 4 == 1:
        return random.random(runs)
    if column % 4 == 2:
        return [f"value{value}" for value in random.integers(0, 20, runs)]
    return random.integers(0, 2, runs).astype(bool)


def write_histories(folder: Path) -> None:
    """One export of 500 runs, and their histories in one file: 10,000,000 rows."""
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    runs_frame(0, HISTORY_RUNS, 110, differing=False).write_parquet(folder / "team_project000_runs.parquet")
    random = np.random.default_rng(0)
    steps = np.arange(HISTORY_STEPS)
    writer = None
    for run in range(HISTORY_RUNS):
        values = {f"metric_h{metric:02d}": random.random(HISTORY_STEPS) for metric in range(HISTORY_METRICS)}
        keys = {"run_id": [f"r000_{run:06d}"] * HISTORY_STEPS, "entity": ["team"] * HISTORY_STEPS}
        rows = pl.DataFrame(keys | {"project": ["project000"] * HISTORY_STEPS, "_step": steps} | values).to_arrow()
        writer = writer or pq.ParquetWriter(folder / "team_project000_history.parquet", rows.schema, compression="zstd")
        writer.write_table(rows)
    writer.close()


def write_wide_histories(folder: Path) -> None:
    """Exports of 19 projects with 220 metrics, of which a quarter is logged at every tenth step only."""
    import numpy as np
    import polars as pl

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(WIDE_FILES):
        ids = [f"r{number:03d}_{run:06d}" for run in range(number, WIDE_RUNS, WIDE_FILES)]
        project = f"project{number:03d}"
        runs = {"id": ids, "name": ids, "state": "finished", "entity": "team", "project": project, "created_at": START}
        pl.DataFrame(runs | {"exported_at": START}).write_parquet(folder / f"team_{project}_runs.parquet")
        lengths = [WIDE_ROWS // WIDE_RUNS + (int(id_[5:]) < WIDE_ROWS % WIDE_RUNS) for id_ in ids]
        rows = sum(lengths)
        columns = {"run_id": np.repeat(ids, lengths), "entity": "team", "project": project}
        columns |= {"_step": np.concatenate([np.arange(length) for length in lengths])}
        for metric in range(WIDE_METRICS):
            values = pl.Series(random.random(rows))
            sparse = pl.Series(np.arange(rows) % 10 != 0)
            columns[f"metric_m{metric:03d}"] = values.set(sparse, None) if metric % 4 == 3 else values
        pl.DataFrame(columns).write_parquet(folder / f"team_{project}_history.parquet", row_group_size=100_000)


# --- what is measured -----------------------------------------------------------------------------------------


def duckdb_copy(folder: str, output: str) -> None:
    import duckdb

    files = f"read_parquet('{folder}/*_runs.parquet', union_by_name = true)"
    duckdb.execute(f"COPY (SELECT * FROM {files}) TO '{output}' (FORMAT parquet, COMPRESSION zstd)")


def polars_group_by(folder: str, output: str) -> None:
    import polars as pl

    step, frames = pl.col("_step"), []
    for file in sorted(Path(folder).glob("*_history.parquet")):
        rows, statistics_ = pl.scan_parquet(file), []
        for name in [name for name in rows.collect_schema() if name.startswith("metric_")]:
            value = pl.col(name)
            finite = pl.when(value.is_finite()).then(value)
            statistics_ += [
                finite.min().alias(f"min_{name}"),
                step.get(finite.arg_min(), null_on_oob=True).alias(f"min_step_{name}"),
                finite.max().alias(f"max_{name}"),
                step.get(finite.arg_max(), null_on_oob=True).alias(f"max_step_{name}"),
                value.drop_nulls().last().alias(f"last_{name}"),
                finite.drop_nulls().tail(pl.max_horizontal(finite.count() // 10, 1)).mean().alias(f"tail_{name}"),
                finite.count().alias(f"n_{name}"),
                (value.count() - finite.count()).alias(f"n_nonfinite_{name}"),
            ]
        frames.append(rows.group_by("run_id", "entity", "project").agg(statistics_))
    pl.concat(frames).collect().write_parquet(output)


def cost_of(*command: object, starter: Sequence[str] = (sys.executable,)) -> Cost:
    """Seconds and memory of a command, its output read and dropped."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [*starter, *map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / (1_000_000 if sys.platform == "darwin" else 1_000))


def in_turn(exports: Path, pairs: int, peer: str = "--duckdb", *flags: str) -> tuple[list[Cost], list[Cost]]:
    """Costs of the peer and of the script, in turn, after a round that is not measured."""
    theirs, ours = exports.parent / "theirs.parquet", exports.parent / "ours.parquet"
    rounds = [
        (cost_of(__file__, peer, exports, theirs), cost_of(SCRIPT, exports, "-o", ours, "--quiet", *flags))
        for _ in range(pairs + 1)
    ][1:]
    return [theirs for theirs, _ in rounds], [ours for _, ours in rounds]


def print_pair(figure: str, demanded: str, names: Sequence[str], costs: Sequence[Sequence[Cost]]) -> None:
    """The costs of two commands, and the ratio of the second to the first."""
    for name, measured in zip(names, costs, strict=True):
        seconds, memory = statistics.median(c.seconds for c in measured), max(c.memory_mb for c in measured)
        print(f"  {name:<16} {seconds:7.2f} s  {memory:6.0f} MB")
    ratios = [our.seconds / their.seconds for their, our in zip(*costs, strict=True)]
    spread = f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"    {figure:<32} {demanded:<16} {spread}", flush=True)


def apart(script: str, *arguments: object) -> None:
    """Make data in a process of its own: a child's memory counts its parent's until it becomes another program."""
    subprocess.run([sys.executable, script, "--make", *map(str, arguments)], check=True)


def make(what: str, place: str, *numbers: str) -> None:
    if what in {"histories", "wide"}:
        (write_histories if what == "histories" else write_wide_histories)(Path(place))
    else:
        write_exports(Path(place), *map(int, numbers), differing=what == "differing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d", help="some of the figures (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--duckdb", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--polars", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(*options.make)
        return 0
    if options.duckdb:
        duckdb_copy(*options.duckdb)
        return 0
    if options.polars:
        polars_group_by(*options.polars)
        return 0
    wanted = set(options.only.split(","))
    with tempfile.TemporaryDirectory(prefix="bench-aggregate-") as temporary:
        folder = Path(temporary)
        if "a" in wanted:
            print("a. 20,000 runs x 110 columns in 10 files")
            apart(__file__, "alike", folder / "a" / "x", 20_000, 110, 10)
            print_pair("time / DuckDB", "at most 1.2", NAMES, in_turn(folder / "a" / "x", options.pairs))
        if "b" in wanted:
            few_files, many_files = folder / "b1" / "x", folder / "b2" / "x"
            print("b. 20,000 runs x 210 columns in 10 files, differing")
            apart(__file__, "differing", few_files, 20_000, 210, 10)
            few = in_turn(few_files, options.pairs)
            print_pair("time / DuckDB", "at most 1.2", NAMES, few)
            print("b. 200,000 runs x 210 columns in 100 files, differing")
            apart(__file__, "differing", many_files, 200_000, 210, 100)
            many = in_turn(many_files, options.pairs)
            print_pair("time / DuckDB", "at most 1.2", NAMES, many)
            growth = statistics.median(c.seconds for c in many[1]) / statistics.median(c.seconds for c in few[1])
            print(f"    {'time / that of a tenth':<32} {'at most 12':<16} {growth:.1f}")
        if "c" in wanted:
            print(f"c. {HISTORY_RUNS * HISTORY_STEPS:,} history rows x {HISTORY_METRICS} metrics")
            exports = folder / "c" / "x"
            apart(__file__, "histories", exports)
            output = folder / "c" / "ours.parquet"
            seconds, memory = cost_of(SCRIPT, exports, "-o", output, "--history", "--at", "h00:min", "--quiet")
            print(f"  aggregate_runs   {seconds:7.2f} s\n    {'memory':<32} {'under 2 GB':<16} {memory:.0f} MB")
        if "d" in wanted:
            print(f"d. {WIDE_ROWS:,} history rows x {WIDE_METRICS} metrics of {WIDE_RUNS:,} runs in {WIDE_FILES} files")
            apart(__file__, "wide", folder / "d" / "x")
            costs = in_turn(folder / "d" / "x", options.pairs, "--polars", "--history")
            print_pair("time / polars", "at most 1.3", ("polars", "aggregate_runs"), costs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
