# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2.1,<3", "polars>=2.1,<3", "pyarrow>=26,<27"]
# ///
"""What answers cost, beside a bare polars script that computes the same numbers. Run by hand:

  uv run tests/benchmarks/bench_analyze.py                 # everything: about three minutes, 1 GB of disk
  uv run tests/benchmarks/bench_analyze.py --only a --pairs 9

  a  20,000 runs x 110 columns, --group-by stage,arch --top 10, into a pipe
  b  200,000 runs x 210 columns, the same
  c  10,000,000 history rows of 500 runs: --curves by group
  d  --help

The bare script reads the needed columns, computes n, mean, std, min, median and max by group and the ten best runs, and
prints both frames: nothing is checked, explained or fitted to a page. Each command is started by `uv run`, as users do,
and timed from its start to its end; the two sides of a ratio run in turn, and what is printed is the median of the
pairs' ratios, with the least and the greatest. Memory is what is resident at most in the largest process. Nothing is
judged: the exit code is 0 unless a command fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from bench_aggregate import Cost, apart, cost_of, print_pair, runs_frame, write_histories

SCRIPT = Path(__file__).parents[2] / "wandb-tools" / "analyze_runs.py"
METRIC = "metric_m000"
UV = ("uv", "run", "--quiet")
NAMES = ("bare polars", "analyze_runs")
BARE = """# /// script
# requires-python = ">=3.11"
# dependencies = ["polars>=2.1,<3"]
# ///
import sys
import polars as pl

runs = pl.scan_parquet(sys.argv[1]).filter(pl.col("state") == "finished")
value = pl.col("{metric}")
statistics = [value.count().alias("n"), value.mean().alias("mean"), value.std().alias("std"), value.min().alias("min")]
statistics += [value.median().alias("median"), value.max().alias("max")]
print(runs.group_by("stage", "arch").agg(statistics).sort("mean").collect())
print(runs.select("name", "{metric}", "^config_c00.$").sort("{metric}").head(10).collect())
"""


def write_unified(file: Path, runs: int, columns: int) -> None:
    """Runs as aggregate_runs writes them, stage and arch read off the names; written in row groups."""
    import polars as pl

    frames = [
        runs_frame(number, min(runs, 20_000), columns, differing=False) for number in range(max(1, runs // 20_000))
    ]
    texts = [name for name, dtype in frames[0].schema.items() if name.startswith("config_") and dtype != pl.Boolean]
    together = pl.concat(frame.with_columns(pl.col(name).cast(pl.String) for name in texts) for frame in frames)
    stage = pl.col("name").str.extract("(stage[0-9]a)").alias("stage")
    arch = pl.col("name").str.extract("(gnn_all|filter_bank|spectral|mlp)").alias("arch")
    together.with_columns(stage, arch).write_parquet(
        file, compression="zstd", compression_level=1, row_group_size=100_000, data_page_size=32 * 1024
    )


def make(what: str, place: str, *numbers: str) -> None:
    if what == "histories":
        write_histories(Path(place))
    else:
        write_unified(Path(place), *map(int, numbers))


def in_turn(theirs: tuple[object, ...], ours: tuple[object, ...], pairs: int) -> tuple[list[Cost], list[Cost]]:
    rounds = [(cost_of(*theirs, starter=UV), cost_of(*ours, starter=UV)) for _ in range(pairs + 1)][
        1:
    ]  # the first is not measured
    return [their for their, _ in rounds], [our for _, our in rounds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c,d", help="some of the figures (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--make", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(*options.make)
        return 0
    wanted = set(options.only.split(","))
    with tempfile.TemporaryDirectory(prefix="bench-analyze-") as temporary:
        folder = Path(temporary)
        bare = folder / "bare.py"
        bare.write_text(BARE.format(metric=METRIC))
        for letter, runs, columns, demanded in (("a", 20_000, 110, "at most 1.1"), ("b", 200_000, 210, "at most 1.1")):
            if letter in wanted:
                print(f"{letter}. {runs:,} runs x {columns} columns")
                file = folder / f"{letter}.parquet"
                apart(__file__, "unified", file, runs, columns)
                question = (SCRIPT, file, "--group-by", "stage,arch", "--top", 10, "-m", METRIC, "--ascending")
                print_pair("time / bare polars", demanded, NAMES, in_turn((bare, file), question, options.pairs))
        if "c" in wanted:
            print("c. 10,000,000 history rows")
            apart(__file__, "histories", folder / "c")
            runs_file = folder / "c" / "team_project000_runs.parquet"
            question = (SCRIPT, runs_file, "--curves", "h00", "--group-by", "config_c002", "--ascending")
            costs = [cost_of(*question, starter=UV) for _ in range(options.pairs)]
            seconds, memory = statistics.median(c.seconds for c in costs), max(c.memory_mb for c in costs)
            print(f"    {'time':<24} {'under 3 s':<14} {seconds:.2f} s")
            print(f"    {'memory':<24} {'under 1 GB':<14} {memory:.0f} MB")
        if "d" in wanted:
            print("d. --help")
            nothing = folder / "nothing.py"
            nothing.write_text(
                '# /// script\n# requires-python = ">=3.11"\n# dependencies = ["polars>=2.1,<3"]\n# ///\n'
            )
            theirs, ours = in_turn((nothing,), (SCRIPT, "--help"), options.pairs)
            beyond = statistics.median(our.seconds - their.seconds for our, their in zip(ours, theirs, strict=True))
            print(f"    {'beyond `uv run`':<24} {'under 0.15 s':<14} {beyond:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
