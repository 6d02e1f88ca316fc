#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "duckdb>=1.4,<3",
#   "numpy>=2,<3",
#   "polars>=2.1,<3",
#   "tabulate[widechars]>=0.10,<0.11",
#   "vl-convert-python>=1.8,<2",
# ]
# ///
"""Answer questions about W&B runs: which are best, which settings are better, what was tried, how it went.

Reads the runs files that export_runs.py writes, or the one file that aggregate_runs.py makes of many. Where no
input is named: analysis/unified.parquet if it is newer than every export in wandb_export/, else the newest
export there. Where no question is asked: an overview, the best runs and a first comparison.

Examples:
  uv run wandb-tools/analyze_runs.py wandb_export/ --schema
  uv run wandb-tools/analyze_runs.py --top 10 --metric test/mse --state all
  uv run wandb-tools/analyze_runs.py --group-by '!seed' --where "config_optim_lr < 0.1" --json | jq '.groups[0]'
  uv run wandb-tools/analyze_runs.py --best-per arch --group-by arch --stat iqm --filter 'stage2.*gnn'
  uv run wandb-tools/analyze_runs.py --pivot stage,arch -o table.tex
  uv run wandb-tools/analyze_runs.py --curves val/mse --group-by arch --smooth 0.6 --log -o curves.svg
  uv run wandb-tools/analyze_runs.py --sql 'SELECT arch, corr("optim.lr", "test/mse") FROM runs GROUP BY arch'
  uv run wandb-tools/analyze_runs.py --varying --importance --health --report report.html

Names: a column or metric goes by its column (metric_test_mse), its W&B name (test/mse) or its flattened name
(test_mse). A metric of which define_metric keeps only the minimum, maximum, mean or last value is found too. A run
is its entity, project and id; names are labels, and where they repeat the id stands beside them.

Runs: finished ones, or all where none is finished; --state chooses. --schema, --sql and --health take all states.

Best: lower or higher, as --ascending or --descending say, else as the stored goal (define_metric, a sweep), else as
the metric's name suggests; the reason is printed. NaN and infinities are counted, never averaged, never best.

Groups: runs counts a group's runs, n those with a finite value; std has n - 1 in its denominator; sem is the
standard error of the mean; ci_low and ci_high bound the mean's 95 percent interval by Student's t. A missing value
is a group, null. --group-by takes columns, '!seed' for all settings that vary but the seed, and lr:4 for four ranges
of about equal size. The best two groups are compared by Welch's t-test; "within noise" stands for p of 0.05 and
above. --best-per arch first keeps each arch's best setting, by its mean over seeds. --stat median or iqm compares by
these, with percentile bootstrap intervals (10,000 resamples, seeded) from 8 values on, approximate below 20.

Curves need the histories (export_runs --include-history), which are found beside the inputs. At each point a run
stands with its last value up to there, from its first to its last step: nothing is extrapolated, and n is told.
--smooth is W&B's exponential moving average, corrected for its start. --value min, max, last, tail or at compares
runs by what aggregate_runs --history computed instead of the summary.

SQL: --sql takes one SELECT in DuckDB's dialect over the views runs and history, and console, system and table_<key>
where such files lie beside the input. Columns go by their names and by W&B's in double quotes; times are in UTC.
It can read nothing else and write nothing; put conditions into its WHERE.

Health has a row for each problem of a run:
  non-finite     NaN or infinity in a metric, and from which step
  diverged       a metric whose lower values are better, with a positive best, ends above a thousand times its best
  past its best  a validation metric ends worse than its best by over 10 percent of its range, the best in the first
                 two thirds of its values
  spikes         values of a loss that exceed the median of the hundred around them by ten median absolute
                 deviations; counted
  stopped early  its last step is under half the median of its W&B group of at least three runs, else of its project
  no metric      it logged none
  crashed        or failed: its state says so

Importance is association, not cause: the eta squared of Kruskal and Wallis' test over a setting's values, or over
ranges of them where a number has many, with a permutation p-value; too few runs give no ranking.

Exit codes: 0 answered; 1 nothing usable: no input, unreadable input, no run left (the filter that left none is named);
2 wrong usage: an unknown flag, column or metric, a query that is no SELECT, or inputs that do not fit together;
3 answered without the damaged files of a folder, which are named; 130 interrupted
"""

from __future__ import annotations

import argparse
import difflib
import html
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias, cast

if TYPE_CHECKING:
    import polars as pl
    import tabulate
    from numpy.typing import NDArray

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

RESULT_KEY = "wandb_tools.result"  # in the metadata of a parquet file that this script wrote: it is no input
JSON_VERSION = 1

UNIFIED_FILE = Path("analysis/unified.parquet")  # where the default input is looked for
EXPORT_FOLDER = Path("wandb_export")

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
KEY = ("entity", "project", "id")  # what makes a run unique
RUN_COLUMNS = {*KEY, "name", "state", "created_at"}  # what makes a file a runs file
ROW_COLUMNS = {"run_id", "entity", "project"}  # what all other files of an export have
IDENTITY = {*RUN_COLUMNS, "heartbeat_at", "runtime_s", "last_step", "history_rows", "tags", "group", "job_type"}
IDENTITY |= {"sweep", "user", "notes", "commit", "url", "host", "os", "python", "command", "gpu", "gpu_count"}
IDENTITY |= {"exported_at", "source_file", "_config_json", "_summary_json"}
KINDS = ("derived", "config", "metric", "history", "identity")  # of columns, in the order of --schema
DERIVED = ("stage", "arch", "model_type", "protocol", "k", "lr_parsed", "wd_parsed", "eps_parsed")  # in this order
SUMMARIES = {"min": "minimum", "max": "maximum", "last": "last value", "mean": "mean"}  # of define_metric
VALIDATION = {"val", "valid", "validation", "eval"}
# Which value stands for a run: the summary's, or one that aggregate_runs --history computed.
VALUES = {"summary": "summary", "min": "lowest of its history", "max": "highest of its history"}
VALUES |= {"last": "last of its history", "tail": "mean of its history's last tenth", "at": "at the best step"}

CONFIDENCE, SIGNIFICANT = 0.95, 0.05
RESAMPLES, PERMUTATIONS, SEED = 10_000, 2_000, 0  # of the bootstrap and of the permutation test
FEWEST_RESAMPLED, ROUGHLY_RESAMPLED = 8, 20  # percentile intervals cover 77 % at n = 3: none below, rough below
CELLS_AT_ONCE = 4_000_000  # numbers held at once while resampling: 32 MB
CELLS_READ = 20_000_000  # values of columns held at once: 160 MB
FEWEST_RUNS, MOST_RUNS = 10, 20_000  # below, an association is chance; above, a random sample is looked at
MOST_LEVELS, RUNS_A_LEVEL = 8, 5  # a number with more values is cut in ranges of at least so many runs
STATISTICS = (
    *("runs", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high", "min", "median", "max"),
    *("best_run", "best_run_id"),
)
# Columns of our own have a blank in their names, which no column of the contract's files has.
FINITE, VALUE, RUN_NUMBER, BIN, RANK = "finite value", "a value", "run number", "bin number", "its rank"
HISTORY_NUMBER = "file number"
KEY_OF_BEST = ("best entity", "best project", "best id")
CURVE_POINTS, PICTURE_POINTS, MOST_CURVES, MOST_ROWS_OF_CURVES = 13, 200, 8, 30
MOST_RANGES = 64  # of run ids in one filter
SPARKS = "▁▂▃▄▅▆▇█"
DIVERGED = 1000  # times its best
PAST_BEST, EARLY_SHARE = 0.1, 2 / 3  # of a metric's range; of its values
SPIKE_WINDOW, SPIKE_DEVIATIONS = 101, 10  # a value and the hundred around it
FEWEST_PEERS, STOPPED_SHARE = 3, 0.5  # runs of a group; of their median last step
SQL_MEMORY = "1GB"  # past it, DuckDB writes to a temporary folder

PICTURES = (".png", ".svg", ".html")
PICTURE_WIDTH, LABEL_WIDTH, MOST_DRAWN, MOST_LINES = 420, 48, 40, 10
INK, BLUE = "#222222", "#4c78a8"
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: Canvas; color: CanvasText }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem } a { color: inherit }
figure { margin: .5rem 0 } svg { max-width: 100%; height: auto; overflow: visible }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; white-space: nowrap }
th { font-weight: 600 } .note { color: GrayText; font-size: .87rem; margin: .3rem 0 }
"""
FEW = 3  # runs: fewer may differ in everything
# Words of a setting's name that tell where or when a run ran, and not what was tried.
NOISE = {"path", "paths", "dir", "dirs", "directory", "folder", "filename", "url", "host", "hostname", "cwd"}
NOISE |= {"timestamp", "datetime", "date", "pid", "uuid", "logdir"}
NOISE_TREES = {"accelerator_config", "id2label", "label2id"}  # of HuggingFace: they vary with its version
DATE_OR_PATH = r"^(\d{4}-\d\d-\d\d|\d{8}[-_T]\d{4}|[~.]{0,2}/|[A-Za-z]:\\)"
MOST_SAID, SUGGESTED_NAMES = 10, 5  # of a list in a line; of near names
MOST_ON_AN_AXIS, MOST_COMBINATIONS = 12, 10_000  # of a grid: settings with more values were drawn at random
ROW_BEST, COLUMN_BEST = "*", "°"  # marks in a pivot
OVERVIEW_TOP, REPORT_TOP, SUGGESTED_GROUPS, MOST_CANDIDATES = 5, 10, 12, 40
MOST_GROUPS, MOST_PROJECTS, MOST_COLUMNS = 20, 8, 38  # rows that people see by default: about 4 kB in all
FEWEST_IN_A_FAMILY = 3  # columns whose names differ in numbers only
FILE_FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown", ".tex": "latex"}
FILE_FORMATS |= dict.fromkeys(PICTURES, "picture")
LINE_WIDTH = 80  # where no terminal says otherwise
ONE_TABLE, ONE_PICTURE = ("groups", "top"), ("curves", "pivot", "groups", "top")  # what a format that holds one takes
NARROW, WIDE = 12, 24  # what a shortened text keeps at least: any column, the first one
MOST_DIGITS = 9  # of a number in a table, where its neighbours are that close
MARKDOWN_COLUMNS = 14  # a page scrolls sideways, but not for ever
BOLD, DIM = "1", "2"  # styles of a terminal
ELLIPSIS = "…"
LATIN = 0x24F  # the last character that LaTeX prints from UTF-8 without a further package
# Characters that mean something to LaTeX, and what prints them.
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "[": "{[}", "]": "{]}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {"|": r"\textbar{}", "…": r"\ldots{}", "°": r"\textdegree{}", '"': r"\textquotedbl{}"}
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

# Words of a metric's name that tell which way is better. The last one decides: `loss_recall` is a recall.
LOWER_IS_BETTER = """
    loss losses mse rmse nmse nrmse mae mape smape wape mase msle rmsle error errors err perplexity ppl nll bpb
    bpc bpd fid kid fvd lpips wer cer ter der eer kl kld divergence mmd wasserstein emd hausdorff chamfer brier
    ece regret distance dist rmsd mpjpe epe ade fde residual violation violations fpr fnr fdr deviance
    crossentropy xent ce bce latency runtime
"""
HIGHER_IS_BETTER = """
    acc accuracy accuracies f1 fbeta auc auroc auprc aucpr prauc rocauc ap map ndcg mrr r2 score scores precision
    recall sensitivity specificity tpr tnr dice iou miou jaccard mcc kappa bleu rouge rougel meteor chrf cider
    spice psnr snr sisnr sdr sisdr ssim msssim pesq stoi mos reward rewards return returns win wins winrate
    success elbo likelihood loglikelihood correlation corr pearson spearman kendall pcc ccc purity nmi ari ami
    silhouette hit hits throughput fps improvement gain reduction em pass top similarity concordance cindex elo
    modularity explainedvariance
"""
NO_DIRECTION = "weight weights scale scaling coef coeff coefficient lambda threshold count num"  # loss_weight
NO_METRIC = {"std", "stdev", "stddev", "var", "variance", "sem", "stderr", "time", "steps", "epochs"}  # std_loss
WEAK = {"score", "scores", "top"}  # tell only where no other word does: fid_score, error_top5
NEGATING = {"neg", "negative"}  # neg_mean_squared_error
OPPOSITE: Mapping[Goal | None, Goal | None] = {"minimize": "maximize", "maximize": "minimize", None: None}
PHRASES = {"cross_entropy": "crossentropy", "explained_variance": "explainedvariance", "r_squared": "r2"}

# --- nouns ----------------------------------------------------------------------------------------------------

KeyPath: TypeAlias = tuple[str, ...]
Goal: TypeAlias = Literal["minimize", "maximize"]
Say: TypeAlias = Callable[[str], None]


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Options:
    """The command line."""

    inputs: tuple[Path, ...]
    group_by: tuple[str, ...]
    stat: str  # mean, median or iqm: what groups are compared by
    best_per: tuple[str, ...]
    pivot: tuple[str, ...]
    top: int | None
    schema: bool
    sql: str | None
    health: bool
    varying: bool
    diff: tuple[str, ...]
    importance: bool
    curves: tuple[str, ...]
    x: str | None
    best_so_far: bool
    points: int | None
    smooth: float | None
    log: bool
    report: Path | None
    metrics: tuple[str, ...]
    value: str  # which value stands for a run: see VALUES
    goal: Goal | None
    name_pattern: str | None
    where: str | None
    states: tuple[str, ...]  # in lower case; empty: the default
    columns: tuple[str, ...]
    max_rows: int | None  # 0: all
    format: str
    output: Path | None
    quiet: bool


@dataclass(frozen=True)
class Runs:
    """A lazy frame with one row per run, and what its files say about the columns; also a history, a row per step."""

    frame: pl.LazyFrame
    dtypes: Mapping[str, pl.DataType]
    paths: Mapping[str, KeyPath] = field(default_factory=dict)
    goals: Mapping[str, Goal] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)  # metrics to the step metrics that define_metric gave them
    empty: frozenset[str] = frozenset()  # derived columns without any value
    files: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()  # histories and the like among the inputs
    is_result: bool = False  # an answer of this script

    @property
    def holds_runs(self) -> bool:
        return self.dtypes.keys() >= RUN_COLUMNS and not self.is_result

    def label(self, column: str) -> str:
        """A column's W&B name, or the column's own."""
        return ".".join(self.paths.get(column, (column,)))


class Metric(NamedTuple):
    """A column of numbers and which of them are better."""

    column: str
    label: str
    goal: Goal
    direction: str  # the goal in words, and who says so
    remark: str = ""  # what the user should know about the choice of the column

    def beside(self, what: str) -> str:
        """The column that aggregate_runs --history made of the same metric for `what`, such as min_step."""
        return f"history_{what}_" + re.sub("^history_(min|max|last|tail|at)_", "", self.column)

    def descending(self, by: Sequence[str]) -> list[bool]:
        """How to sort by the metric, the best first, then by other columns."""
        return [self.goal == "maximize", *(False for _ in by)]


class Study(NamedTuple):
    """What questions are asked about."""

    everything: Runs
    any_state: Runs  # those that pass the filters
    runs: Runs  # those in the states that count
    by: Sequence[str]  # the columns to group by
    metrics: Sequence[Metric]
    say: Say


class TableColumn(NamedTuple):
    """A column of a table as people see it."""

    label: str
    cells: Sequence[str]
    is_text: bool = True
    is_whole: bool = False  # not shortened, so that it can be copied

    @property
    def width(self) -> int:
        return max(map(cell_count, (self.label, *self.cells)))

    def least_width(self, enough: int) -> int:
        """The terminal cells below which the column says too little; numbers are never shortened."""
        if self.is_whole:
            return self.width
        least = min(self.width, enough)
        return least if self.is_text else max(least, *map(cell_count, self.cells), 1)


@dataclass(frozen=True)
class Result:
    """The answer to a question."""

    key: str  # in JSON
    title: str
    table: pl.DataFrame  # everything, at full precision
    view: Callable[[], Sequence[TableColumn]]  # what people see; the last columns are the first to go
    notes: Sequence[str] = ()
    most_rows: int | None = None  # for people, unless they ask for another number
    rows: Sequence[Mapping[str, object]] | None = None  # for JSON, where the table holds values of all types as text
    chart: Callable[[], tuple[dict[str, Any], str]] | None = None  # in Vega-Lite, and what it leaves out
    links: Sequence[str | None] = ()  # to W&B's page of each row's run
    sparks: Sequence[tuple[str, str]] = ()  # names and shapes of curves, for terminals


# --- inputs ---------------------------------------------------------------------------------------------------


def choose_inputs(places: Sequence[Path]) -> tuple[list[Runs], list[str], int]:  # noqa: C901, PLR0912
    """The runs files to read, what to say about the choice, and how many files of folders are damaged.

    Where no place is named: the unified file, unless an export is newer.
    """
    parts, others, foreign, errors, seen = [], [], [], [], set()
    for place in places or [place for place in (UNIFIED_FILE, EXPORT_FOLDER) if place.exists()]:
        if not place.exists():
            raise ScriptError(f"{place} does not exist; name a parquet file or a folder of them", NOTHING_USABLE)
        for file in sorted(place.rglob("*.parquet")) if place.is_dir() else [place]:
            is_hidden = any(part[0] == "." for part in file.relative_to(place).parts)  # unfinished, or not for readers
            if is_hidden or file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                part = open_file(file)
            except ScriptError as error:
                if file == place:
                    raise
                errors.append(error)
                continue
            if part.holds_runs:
                parts.append(part)
            elif part.dtypes.keys() >= ROW_COLUMNS:
                others.append(file)
            elif not part.is_result:
                foreign.append(str(file))
    remarks = [f"left out: {error}" for error in errors]
    if parts and not places:
        newest = max(parts, key=lambda part: part.files[0].stat().st_mtime)
        if newest.files[0] == UNIFIED_FILE:
            return [newest], [f"reading {UNIFIED_FILE}"], 0
        exports = [part for part in parts if part.files[0] != UNIFIED_FILE]
        rank = f"newest of {len(exports)} exports there; aggregate_runs.py makes one file of all"
        remarks.insert(0, f"reading {newest.files[0]}, the {rank if len(exports) > 1 else 'export there'}")
        if len(exports) < len(parts):
            remarks.append(f"{UNIFIED_FILE} is older and was passed over: run aggregate_runs.py again")
        return [newest], remarks, len(errors)
    if not parts:
        here = f"here is neither {UNIFIED_FILE} nor an export in {EXPORT_FOLDER}{os.sep}"
        problem = f"no runs in {', '.join(map(str, places))}" if places else f"no input: {here}"
        advice = "name a runs file of export_runs.py or aggregate_runs.py, or a folder that holds one"
        raise errors[0] if errors else ScriptError(f"{problem}; {advice}", NOTHING_USABLE)
    if foreign:
        remarks.append(f"{counted(len(foreign), 'parquet file')} without runs passed over: {some_of(foreign)}")
    return [replace(part, others=tuple(others)) for part in parts], remarks, len(errors)


def open_file(file: Path) -> Runs:
    """What one parquet file holds; nothing but its footer is read yet.

    Dtypes that the contract's files do not have, but those of others may, become similar ones that they have.
    """
    import polars.selectors as cs

    try:
        metadata = pl.read_parquet_metadata(file)
        frame = pl.scan_parquet(file, glob=False).with_columns(  # a file's name is no pattern
            (cs.date() | cs.datetime(time_zone=None)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            cs.duration().dt.total_microseconds() / 1e6,
            cs.decimal().cast(pl.Float64),
            cs.binary().bin.encode("hex"),
            cs.struct().struct.json_encode(),
            cs.array().arr.to_list(),
            pl.col(pl.Time, pl.Categorical, pl.Enum).cast(pl.String),
        )
        dtypes = frame.collect_schema()
        paths = json.loads(metadata.get("wandb_tools.columns", "{}"))
        metrics = json.loads(metadata.get("wandb_tools.metrics", "{}"))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        problem = f"{file} cannot be read as parquet: {str(error).splitlines()[0]}"
        raise ScriptError(f"{problem}; export it again or leave it out", NOTHING_USABLE) from error
    return Runs(
        frame=frame,
        dtypes=dtypes,
        paths={column: tuple(path) for column, path in paths.items()},
        goals={c: facts["goal"] for c, facts in metrics.items() if facts.get("goal") in {"minimize", "maximize"}},
        axes={c: facts["step_metric"] for c, facts in metrics.items() if facts.get("step_metric")},
        files=(file,),
        is_result=RESULT_KEY in metadata,
    )


def join_inputs(parts: Sequence[Runs]) -> Runs:
    """The runs of several files as one."""
    dtypes = common_dtypes(parts)
    frames = []
    for part in parts:
        casts = [pl.col(c).cast(dtypes[c]) for c, dtype in part.dtypes.items() if dtype != dtypes[c]]
        frames.append(part.frame.with_columns(casts))
    frame = pl.concat(frames, how="diagonal")
    if len(frames) > 1:
        repeated = collected(frame.group_by(KEY).len().filter(pl.col("len") > 1).sort(KEY))
        if repeated.height:
            several = f"{repeated.height} runs are in several inputs, {path_text(repeated.row(0)[:3])} among them"
            raise ScriptError(f"{several}; make one file of them with aggregate_runs.py", WRONG_USAGE)
    goals = {(column, goal) for part in parts for column, goal in part.goals.items()}
    times = Counter(column for column, _ in goals)
    derived = [column for column in dtypes if kind(column) == "derived"]
    lacking = collected(frame.select(pl.col(derived).count() == 0))
    return Runs(
        frame=frame,
        dtypes=dtypes,
        paths={column: path for part in parts for column, path in part.paths.items()},
        goals={column: goal for column, goal in goals if times[column] == 1},  # where files disagree, none counts
        empty=frozenset(column.name for column in lacking if column[0]),
        files=tuple(file for part in parts for file in part.files),
        others=parts[0].others,
    )


def common_dtypes(parts: Sequence[Runs]) -> dict[str, pl.DataType]:
    """Each column's dtype in all inputs together: floats where some hold integers; columns without a value fit all."""
    dtypes: dict[str, pl.DataType] = {}
    for column in dict.fromkeys(column for part in parts for column in part.dtypes):
        holders = [part for part in parts if column in part.dtypes]
        if clash(column, holders):
            holders = [part for part in holders if coverage([column], part)[column]] or holders[:1]
        if clashing := clash(column, holders):
            facts = ", ".join(f"{what} in {part.files[0]}" for what, part in clashing.items())
            raise ScriptError(f"{column} is {facts}; make one file of them with aggregate_runs.py", WRONG_USAGE)
        found = [part.dtypes[column] for part in holders]
        dtypes[column] = next((dtype for dtype in found if dtype.is_float()), found[0])
    return dtypes


def clash(column: str, parts: Sequence[Runs]) -> dict[str, Runs]:
    """What a column is in files that differ, each with a file: its dtype, all numbers being one, or its W&B name."""
    dtypes = {"a number" if part.dtypes[column].is_numeric() else str(part.dtypes[column]): part for part in parts}
    paths = {json.dumps(part.paths[column]): part for part in parts if column in part.paths}
    return next((found for found in (dtypes, paths) if len(found) > 1), {})


def collected(frame: pl.LazyFrame, engine: Literal["streaming", "in-memory"] = "streaming") -> pl.DataFrame:
    """The rows of `frame`: where the files are really read."""
    try:
        return frame.collect(engine=engine)
    except (pl.exceptions.ComputeError, OSError) as error:
        problem = f"the input is damaged: {str(error).splitlines()[0]}"
        raise ScriptError(f"{problem}; export it again", NOTHING_USABLE) from error


# --- columns by name ------------------------------------------------------------------------------------------


def find_column(name: str, runs: Runs) -> str:
    """The column that a user names; a config before a metric of that name."""
    found = known_column(name, runs, ("config_", "metric_"))
    return found or unknown("column", name, runs, [column for column in runs.dtypes if column[0] != "_"])


def known_column(name: str, runs: Runs, prefixes: Sequence[str]) -> str | None:
    """The column called `name`: by its column, its W&B name or its flattened name, in this order.

    A derived column without any value gives way to a config key or column of its name.
    """
    if name in runs.dtypes and name not in runs.empty:
        return name
    called = [column for column in runs.paths if column in runs.dtypes and runs.label(column) == name]
    called.sort(key=lambda column: len(runs.paths[column]))  # ["a.b"] before ["a", "b"]
    names = [column for prefix in prefixes for column in called if column.startswith(prefix)]
    names += [*(prefix + name for prefix in prefixes), name]
    return next((column for column in names if column in runs.dtypes), None)


def unknown(what: str, name: str, runs: Runs, columns: Sequence[str]) -> NoReturn:
    """Raise with the nearest names, else the best-covered ones, in the form in which the user wrote."""
    spell = str if name.startswith(("config_", "metric_")) else runs.label
    hint = did_you_mean(name, map(spell, columns))
    if not hint:
        settings = [column for column in columns if kind(column) in {"derived", "config"}]
        there = by_coverage(settings or columns, runs)[:SUGGESTED_NAMES]
        hint = f"; there are {', '.join(map(spell, there))}" if there else ""
    raise ScriptError(f"no {what} is called {name}{hint}; --schema lists all", WRONG_USAGE)


def kind(column: str) -> str:
    """Which part of the contract a column belongs to.

    >>> kind("config_lr"), kind("metric_test_mse"), kind("stage"), kind("state")
    ('config', 'metric', 'derived', 'identity')
    """
    if column in IDENTITY:
        return "identity"
    prefix = column.split("_", 1)[0]
    return prefix if prefix in {"config", "metric", "history"} else "derived"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, or nothing when none is near.

    >>> did_you_mean("--stat", ["--state", "--since"])
    '; did you mean --state?'
    """
    near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def labels(columns: Iterable[str], runs: Runs) -> dict[str, str]:
    """How people know columns, where that tells them apart."""
    names = {column: runs.label(column) for column in columns}
    spoken = Counter(names.values())
    return {column: name if spoken[name] == 1 else column for column, name in names.items()}


def run_labels(runs: pl.DataFrame) -> list[str]:
    """How people know each of some runs: its name, with the id where names repeat, or the path where ids do too."""
    ids, names = Counter(runs["id"]), Counter(runs["name"])
    texts = []
    for *key, name in runs.select(*KEY, "name").iter_rows():
        path = str(key[2]) if ids[key[2]] == 1 else path_text(key)
        text = path if name is None else printable(name)
        texts.append(text if names[name] == 1 or name is None else f"{text} ({path})")
    return texts


def path_text(key: Sequence[str | None]) -> str:
    return "/".join("null" if part is None else part for part in key)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some_of(names: Sequence[str], most: int = MOST_SAID) -> str:
    """A list in a line, cut where it is long.

    >>> some_of(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shortened(printable(name), LABEL_WIDTH) for name in names[:most]) + more


# --- metrics and their direction ------------------------------------------------------------------------------


def chosen_metrics(options: Options, runs: Runs) -> list[Metric]:
    """The metrics that the user names, else the default one; none where there is none, or no use for one."""
    asked = {*asked_questions(options)}
    if asked and not options.report and not options.best_per and not NEED_METRIC & asked:
        return []
    if options.metrics:
        return [find_metric(name, runs, options) for name in options.metrics]
    metrics = [find_metric(column, runs, options) for column in [default_metric(runs)] if column]
    return [each._replace(remark=f"metric: {each.label} (--metric chooses another)") for each in metrics]


def default_metric(runs: Runs) -> str | None:
    """The metric to use where none is named: of those that enough runs hold, a test metric, else one of validation."""
    covered = coverage(metric_columns(runs), runs)
    if covered.get("metric_test_mse"):
        return "metric_test_mse"
    readable = [column for column in covered if column in runs.goals or goal_by_name(runs.label(column))]
    least = 0.8 * max((covered[column] for column in readable), default=0)

    def rank(column: str) -> tuple[bool, bool, bool, int, bool, str]:
        segments = [part for part in re.split(r"[^a-z0-9]+", runs.label(column).lower()) if part]
        is_cost = not {"runtime", "latency", "throughput", "fps"}.isdisjoint(segments)  # not what a project is about
        is_test = "test" in segments
        is_other = not is_test and VALIDATION.isdisjoint(segments)
        is_plain = segments[-1] in {"loss", "error", "accuracy", "acc", "score", "reward"}
        return is_cost, not is_test, is_other, len(segments), not is_plain, runs.label(column)

    return min((column for column in readable if covered[column] >= max(least, 1)), key=rank, default=None)


def find_metric(name: str, runs: Runs, options: Options) -> Metric:
    """The metric called `name`, or the column of its histories for --value, or the summary that fits its goal."""
    column, remark = known_column(name, runs, ("metric_",)), ""
    if options.value != "summary":
        prefix = f"history_{options.value}_"
        plain_name = re.sub(r"[^A-Za-z0-9_]", "_", (column or name).removeprefix("metric_"))
        shown = prefix + plain_name
        if shown not in runs.dtypes:
            there = [c.removeprefix(prefix) for c in runs.dtypes if c.startswith(prefix)]
            how = did_you_mean(plain_name, there) or f"; {name} is no metric of the histories"
            if not there:
                flag = " and --at METRIC" if options.value == "at" else ""
                how = f"; aggregate_runs --history{flag} adds such columns"
            raise ScriptError(f"--value {options.value}: there is no column {shown}{how}", WRONG_USAGE)
        label = runs.label(column) if column else name.removeprefix("metric_")
        what = f" ({VALUES[options.value]})"
    else:
        column = column or known_column(name, runs, ("config_",))
        if column is None:
            column = summary_of(name, runs, options)
            child = re.split(r"[_.]", runs.label(column))[-1]
            remark = f"{name} has no value of its own: {runs.label(column)}, its {SUMMARIES[child]}, is used"
        shown, label, what = column, runs.label(column), ""
        if not runs.dtypes[column].is_numeric():
            hint = "no numbers; --group-by takes it, --metric does not"
            raise ScriptError(f"{label} holds {runs.dtypes[column]}, {hint}", WRONG_USAGE)
    stored = runs.goals.get(column or name)
    why = "as asked" if options.goal else "its stored goal" if stored else "by its name"
    if goal := options.goal or stored or goal_by_name(label):
        direction = f"{'lower' if goal == 'minimize' else 'higher'} is better ({why})"
        return Metric(shown, label + what, goal, direction, remark)
    how = "say --ascending where lower is, --descending where higher is"
    raise ScriptError(f"whether lower or higher is better cannot be read off the name {label}; {how}", WRONG_USAGE)


def summary_of(name: str, runs: Runs, options: Options) -> str:
    """The column of a metric's minimum or maximum, as its goal wants; else of its last value or its mean."""
    found = [(child, known_column(f"{name}{mark}{child}", runs, ("metric_",))) for mark in "_." for child in SUMMARIES]
    columns = {child: column for child, column in found if column}
    if not columns:
        if any(known_column(name, part, ("metric_",)) for part in history_files(runs)):
            how = f"aggregate_runs.py --history, then -m {name} --value last (or min, max); or --curves {name}"
            raise ScriptError(f"{name} is in the histories alone: {how}", WRONG_USAGE)
        unknown("metric", name, runs, metric_columns(runs))
    stored = [runs.goals[column] for column in columns.values() if column in runs.goals]
    goal = options.goal or next(iter(stored), None) or goal_by_name(name)
    best = {"minimize": "min", "maximize": "max", None: "last"}[goal]
    return next(columns[child] for child in (best, "last", "mean", *SUMMARIES) if child in columns)


def coverage(columns: Sequence[str], runs: Runs) -> dict[str, int]:
    """How many runs have a value of each column; of numbers the finite ones count."""
    values = [finite(column) if runs.dtypes[column].is_numeric() else pl.col(column) for column in columns]
    if not columns:
        return {}
    return collected(runs.frame.select(each.count() for each in values), engine="in-memory").row(0, named=True)


def by_coverage(columns: Sequence[str], runs: Runs) -> list[str]:
    """The columns that have values, those with the most first."""
    counts = coverage(columns, runs)
    return sorted((column for column in columns if counts[column]), key=lambda column: -counts[column])


def metric_columns(runs: Runs) -> list[str]:
    """The metrics that the runs have."""
    return [column for column, dtype in runs.dtypes.items() if kind(column) == "metric" and dtype.is_numeric()]


def goal_by_name(name: str) -> Goal | None:
    """The goal that a metric's name suggests; None where it says nothing, or no one thing.

    >>> goal_by_name("test/mse"), goal_by_name("val_acc_top5"), goal_by_name("loss_weight"), goal_by_name("k")
    ('minimize', 'maximize', None, None)
    """
    told = telling_words(name)
    if not NO_METRIC.isdisjoint(told):
        return None
    negated = not NEGATING.isdisjoint(told)
    goals = goal_words()
    for word in sorted(told, key=WEAK.__contains__):  # stable: weak words last
        if word in goals:
            return goals[word] if not negated else OPPOSITE[goals[word]]
    return None


def telling_words(name: str) -> list[str]:
    """The words of a name, the last first, as the lists of telling words spell them.

    >>> telling_words("val_cross_entropy"), telling_words("test/ap50")
    (['crossentropy', 'val'], ['ap', 'test'])
    """
    text = "_".join(words(name))
    for phrase, word in PHRASES.items():
        text = text.replace(phrase, word)
    return [word if word in goal_words() else word.rstrip("0123456789") for word in reversed(text.split("_"))]


@cache
def goal_words() -> dict[str, Goal | None]:
    """What each telling word of a metric's name says."""
    lists: dict[Goal | None, str] = {"minimize": LOWER_IS_BETTER, "maximize": HIGHER_IS_BETTER, None: NO_DIRECTION}
    return {word: goal for goal, text in lists.items() for word in text.split()}


def words(name: str) -> list[str]:
    """The words of a name, in lower case.

    >>> words("test/R2Score"), words("valLoss_k16")
    (['test', 'r2', 'score'], ['val', 'loss', 'k16'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", name)]


# --- filters --------------------------------------------------------------------------------------------------


def select_runs(options: Options, everything: Runs, say: Say) -> tuple[Runs, Runs]:
    """The runs that pass the filters, and of these the ones in the states that count; said how many each kept."""
    filters = []  # flags and which runs they keep
    if options.name_pattern is not None:
        flag, matches = f"--filter {options.name_pattern}", pl.col("name").str.contains(f"(?i){options.name_pattern}")
        try:
            pl.DataFrame({"name": [""]}).select(matches)
        except pl.exceptions.ComputeError as error:
            reasons = re.findall("^error: (.*)", str(error), re.MULTILINE) or ["it cannot be read"]
            raise ScriptError(f"{flag} is no regular expression: {reasons[0]}", WRONG_USAGE) from error
        filters.append((flag, matches))
    if options.where is not None:
        filters.append((f"--where {options.where}", sql_predicate(options.where, everything)))
    passing = everything.frame.filter(pl.lit(value=True), *(keeps for _, keeps in filters))
    counts = pl.len(), in_states(["finished"]).sum().alias("finished")
    total, finished = collected(everything.frame.select(counts)).row(0)
    left, finished_left = collected(passing.select(counts)).row(0)
    if not total:
        raise ScriptError("the input holds no runs; export some, or name another file", NOTHING_USABLE)
    states, asked, by_default = options.states, {*asked_questions(options)}, False
    if not states and (options.report or not asked or asked - {"schema", "sql", "health", "diff"}):
        by_default = 0 < finished < total and (finished_left > 0 or not left)
        states = ("finished",) if by_default else ()
        if left and not finished_left:
            say("no run is finished: runs in all states are taken")
    if states and "all" not in states:
        filters.insert(0, (f"--state {','.join(states)}", in_states(states)))
    kept, before = everything.frame, total
    for flag, keeps in filters:
        kept = kept.filter(keeps)
        after = collected(kept.select(pl.len())).item()
        line = f"{flag}: {after} of {counted(before, 'run')} kept"
        if not after:
            raise ScriptError(f"no run left: {line} (of {some_of([*map(str, everything.files)], 2)})", NOTHING_USABLE)
        say(line)
        before = after
    runs = replace(everything, frame=kept)
    return replace(everything, frame=passing) if by_default else runs, runs


def in_states(states: Sequence[str]) -> pl.Expr:
    """Whether a run is in one of the states, in any case."""
    return pl.col("state").str.to_lowercase().is_in(states)


def sql_predicate(predicate: str, runs: Runs) -> pl.Expr:
    """The condition that an SQL predicate over the columns means; ScriptError where it means none."""
    flag = f"--where {predicate}"
    try:
        keeps = pl.sql_expr(with_columns_named(predicate, runs))
        for column in keeps.meta.root_names():
            if column not in runs.dtypes:
                near = did_you_mean(column, runs.dtypes) or "; text stands in single quotes"
                raise ScriptError(f"{flag}: there is no column {column}{near}", WRONG_USAGE)
        dtype = pl.DataFrame(schema=dict(runs.dtypes)).select(keeps).dtypes[0]
    except pl.exceptions.PolarsError as error:
        hint = 'text stands in single quotes, and a column called like an SQL word in double ones: "group"'
        problem = f"{flag} is no SQL predicate of these columns: {str(error).splitlines()[0]}"
        raise ScriptError(f"{problem}; {hint}", WRONG_USAGE) from error
    if dtype != pl.Boolean:
        raise ScriptError(f"{flag} is no predicate: it gives {dtype}, not true or false", WRONG_USAGE)
    return keeps


# Texts, quoted names, numbers, names, comparisons, and whatever else.
SQL_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"[^"]*"|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[A-Za-z_][\w.]*|[<>=!]+|\s+|.""", re.DOTALL
)
SQL_WORDS = {"and", "or", "not", "in", "is", "null", "like", "ilike", "rlike", "regexp", "between", "true", "false"}
SQL_WORDS |= {"case", "when", "then", "else", "end", "cast", "as"}


def with_columns_named(predicate: str, runs: Runs) -> str:
    """The predicate with W&B's names, such as `model.k` or `"test/mse"`, replaced by their columns; texts stay.

    A text that is compared with a time becomes a time: polars compares no others.
    """
    tokens = SQL_TOKEN.findall(predicate)
    times = {column for column, dtype in runs.dtypes.items() if dtype.is_temporal()}
    is_time = False  # whether the last column was a time
    for i, token in enumerate(tokens):
        after = [later for later in tokens[i + 1 : i + 6] if not later.isspace()][:2]
        is_word = token[0].isalpha() or token[0] == "_"
        if token.lower() in {"select", "from"}:
            raise ScriptError(f"--where {predicate}: a predicate alone, no SELECT; --sql takes queries", WRONG_USAGE)
        if token[0] == '"' or (is_word and token.lower() not in SQL_WORDS):
            is_function = is_word and after[:1] == ["("]
            known = None if is_function else known_column(token.strip('"'), runs, ("config_", "metric_"))
            tokens[i] = f'"{known}"' if known and known != token else token
            is_time = known in times
        is_before_time = len(after) == 2 and after[0][0] in "<>=!" and after[1].strip('"') in times
        if token[0] == "'" and (is_time or is_before_time):
            with suppress(ValueError):
                time = datetime.fromisoformat(token.strip("'"))
                time = time.replace(tzinfo=time.tzinfo or UTC)
                tokens[i] = f"strptime('{time:%Y-%m-%dT%H:%M:%S.%f%z}', '%Y-%m-%dT%H:%M:%S%.6f%z')"
    return "".join(tokens)


def remarks_on_metric(metric: Metric, study: Study, options: Options) -> Iterator[str]:
    """What the user should know about a metric and these runs: runs in other states, and what its values rest on."""
    if metric.remark:
        yield metric.remark
    column, runs = pl.col(metric.column), study.runs
    if study.any_state is not runs:  # a crashed run often has its final value
        other = study.any_state.frame.filter(~in_states(["finished"]).fill_null(value=False))
        dropped, held = collected(other.select(pl.len(), column.is_finite().sum())).row(0)
        if held:
            yield f"{held} of {counted(dropped, 'run')} in other states hold {metric.label} (--state all keeps them)"
    number, nonfinite = metric.beside("n"), metric.beside("n_nonfinite")
    if options.value == "summary" or not {number, nonfinite} <= runs.dtypes.keys():
        return
    few = (column.is_not_null() & (pl.col(number) < 10)).sum().alias("few")
    missed = (column.is_null() & (pl.col(number) > 0)).sum().alias("missed")
    n_few, n_missed, n_bad = collected(runs.frame.select(few, missed, (pl.col(nonfinite) > 0).sum())).row(0)
    if n_few:
        yield f"{counted(n_few, 'run')} logged fewer than 10 values of {metric.label}: theirs say little"
    if n_missed and options.value == "at":
        yield f"{counted(n_missed, 'run')} logged it, but not up to the best step: they have no value there"
    if n_bad:
        yield f"{counted(n_bad, 'run')} reached NaN or infinity, and count by their finite values"


# --- questions: the best runs, groups, pivots -----------------------------------------------------------------


def top(study: Study, options: Options, count: int | None = None) -> list[Result]:
    """The best runs by the first metric, with --columns, or else their settings; shown are those that vary.

    Runs without a finite value are no candidates. Equal values stand in the order of the runs' keys.
    """
    runs, metric = study.runs, required(study.metrics)[0]
    candidates = runs.frame.select(*KEY, metric.column).filter(pl.col(metric.column).is_finite())
    ranked = candidates.sort(metric.column, *KEY, descending=metric.descending(KEY), nulls_last=True)
    best = collected(ranked.head(count or options.top or OVERVIEW_TOP))
    if best.is_empty():
        hint = "-m names another metric, --schema lists all"
        raise ScriptError(f"no run has a finite {metric.label}; {hint}", NOTHING_USABLE)
    beside = [metric.beside(f"{options.value}_step"), metric.beside("n")] if options.value != "summary" else []
    named = [c for c in dict.fromkeys([*(each.column for each in study.metrics), *beside]) if c in runs.dtypes]
    asked = [find_column(name, runs) for name in options.columns if name not in STATISTICS]
    for_programs = options.format in {"json", "csv"} or options.output is not None
    kinds = KINDS if for_programs else ("derived", "config")
    others = asked or [column for column in runs.dtypes if kind(column) in kinds and column[0] != "_"]
    held = list(dict.fromkeys(["name", *named, *KEY, "state", *others]))
    links = ["url"] if "url" in runs.dtypes else []
    ids = pl.col("id").is_in(best["id"].to_list(), nulls_equal=True)
    rows = collected(runs.frame.filter(ids).select(dict.fromkeys([*held, *links]).keys()))
    table = best.select(KEY).join(rows, on=KEY, how="left", nulls_equal=True, maintain_order="left")
    shown = ["name", *named, *telling_columns(table)]
    if asked:
        more = [column for column in named if column not in asked and options.metrics]
        shown = [*asked[:1], *more, *asked[1:]] if asked[0] == "name" else [*more, *asked]
    value, last = pl.col(metric.column), best[metric.column][-1]
    counts = [pl.len(), value.is_finite().sum().alias("finite"), value.count().alias("n")]
    total, usable, n, ties = collected(runs.frame.select(*counts, (value == last).sum().alias("ties"))).row(0)
    notes = without_value(metric.label, total, usable, n - usable)
    if hidden := ties - int((best[metric.column] == last).sum()):
        notes.append(f"{counted(hidden, 'more run')} tie with the last one shown")
    heads, names = labels(shown, runs), run_labels(table)
    view = [TableColumn("name", names) if c == "name" else view_column(table[c], heads[c]) for c in shown]
    result = Result(
        "top",
        f"Best {counted(best.height, 'run')} by {metric.label}; {metric.direction}",
        table.select(held),
        lambda: view,
        notes,
        chart=lambda: points_chart(names, table.select(value=metric.column), metric.label, options),
        links=table["url"].to_list() if links else (),
    )
    return [result]


def telling_columns(table: pl.DataFrame) -> list[str]:
    """The settings, of those that most of the best runs have, that tell these apart, the weakest last.

    Of columns with the same values the first is shown; where a few differ, the config is right and what is read off
    the name gives way: seed_parsed beside seed.
    """
    settings = [column for column in table.columns if kind(column) in {"derived", "config"}]
    common = [column for column in settings if 2 * table[column].null_count() <= table.height]
    distinct = {column: table[column].n_unique() for column in [*common, "entity", "project"]}

    def telling(column: str) -> tuple[bool, bool, bool]:
        is_weak = not NOISE.isdisjoint(words(column)) or (distinct[column] == 2 and table[column].null_count() > 0)
        return is_weak, kind(column) == "config", distinct[column] == table.height

    equal: dict[tuple[str, ...], list[str]] = {}
    for column in sorted((column for column in common if distinct[column] > 1), key=telling):
        equal.setdefault(tuple(map(cell_text, table[column].to_list())), []).append(column)
    shown = [column for column in ("entity", "project") if distinct[column] > 1]
    for texts, (column, *same) in equal.items():
        if kind(column) == "derived" and not same:  # else it stands for a config, too
            config = re.compile(rf"config_(.*_)?{re.escape(column.removesuffix('_parsed'))}")
            rivals = [others for others, columns in equal.items() if config.fullmatch(columns[0])]
            if any(4 * sum(map(str.__ne__, texts, rival)) <= table.height for rival in rivals):
                continue
        shown.append(column)
    return shown


def without_value(what: str, total: int, n: int, nonfinite: int) -> list[str]:
    """A note that counts the runs that are neither averaged nor best, if there are any."""
    missing = total - n - nonfinite
    parts = [f"{missing} without a value"] * (missing > 0) + [f"{nonfinite} with NaN or infinity"] * (nonfinite > 0)
    return [f"{n} of {counted(total, 'run')} have a finite {what}; left out: {', '.join(parts)}"] if parts else []


def required(metrics: Sequence[Metric]) -> Sequence[Metric]:
    if metrics:
        return metrics
    problem = "no metric has values and a name that tells which way is better"
    raise ScriptError(f"{problem}; name one with -m", WRONG_USAGE)


def groups(study: Study, options: Options) -> list[Result]:
    """Statistics of each metric per combination of the values of --group-by, the best first."""
    return [grouped(study.runs, study.by, metric, options) for metric in required(study.metrics)]


def grouped(runs: Runs, by: Sequence[str], metric: Metric, options: Options) -> Result:
    """Statistics of a metric per combination of the values of `by`, the best `stat` first."""
    refuse_ambiguous(by)
    stat, step = options.stat, metric.beside(f"{options.value}_step")
    table = group_statistics(runs, by, metric, stat, step if step in runs.dtypes else None)
    table = table.sort(stat, *by, descending=metric.descending(by), nulls_last=True)
    steps = [column for column in ("best_step",) if column in table.columns]
    constant = [column for column in by if table.height > 1 and table[column].n_unique() == 1]
    asked = [name if name in STATISTICS else find_column(name, runs) for name in options.columns]
    shown = [column for column in asked if column in {*by, *STATISTICS}]
    if not shown:
        sizes = ["n"] if (table["runs"] == table["n"]).all() else ["runs", "n"]
        numbers = ["mean", "std", "min", "median", "max"]
        if stat != "mean":
            numbers = [stat, "ci_low", "ci_high", "min", "max"]
        shown = [*(c for c in by if c not in constant), *sizes, *numbers, "best_run", *steps]
    heads = labels(by, runs) | {"best_run": "best run", "best_run_id": "best run's id", "best_step": "at step"}
    heads |= {"ci_low": "95 % from", "ci_high": "to"}
    title = f"{metric.label} by {', '.join(heads[c] for c in by if c not in constant)}: "
    title += f"{counted(table.height, 'group')} of {counted(int(table['runs'].sum()), 'run')}"
    title += "".join(f"; {heads[column]} is {cell_text(table[column][0])} in all" for column in constant)
    held = [*STATISTICS[:3], *(["iqm"] if stat == "iqm" else []), *STATISTICS[3:], *steps]
    best = table.select(*KEY_OF_BEST, "best_run")
    best.columns = [*KEY, "name"]
    names = [label if n else None for label, n in zip(run_labels(best), table["n"], strict=True)]
    seen = table.with_columns(pl.Series("best_run", names, dtype=pl.String))
    return Result(
        "groups",
        f"{title}; {metric.direction}",
        ranges_as_text(table.select(*by, pl.lit(metric.column).alias("metric"), *held)),
        lambda: [view_column(seen[column], heads.get(column, column), null="null") for column in shown],
        tuple(cautions(table, by, metric, stat)),
        MOST_GROUPS,
        chart=lambda: points_chart(row_names(table, by, "n"), table, f"{stat} and 95 % interval", options, stat),
    )


def ranges_as_text(table: pl.DataFrame) -> pl.DataFrame:
    """A table with ranges, which polars knows in their order, as text."""
    return table.with_columns(pl.col(pl.Enum).cast(pl.String))


def row_names(table: pl.DataFrame, by: Sequence[str], n: str = "") -> list[str]:
    """The values of some columns in a line each, with n where it is wanted."""
    names = ["/".join(map(cell_text, row)) for row in table.select(by).iter_rows()]
    return [f"{name}  (n={count})" for name, count in zip(names, table[n], strict=True)] if n else names


def refuse_ambiguous(by: Sequence[str]) -> None:
    """Raise where a column to group by is called like a column of the answer."""
    if clashing := {*by} & {*STATISTICS, "iqm", "best_step", "metric", "x"}:
        problem = f"--group-by {min(clashing)}: a column of the answer has this name"
        raise ScriptError(f"{problem}; rename yours", WRONG_USAGE)


def cautions(table: pl.DataFrame, by: Sequence[str], metric: Metric, stat: str) -> Iterator[str]:
    """What keeps a reader from taking chance for an effect."""
    yield from without_value("value", *table.select("runs", "n", "n_nonfinite").sum().row(0))
    if singles := int((table["n"] == 1).sum()):
        yield f"{counted(singles, 'group')} of one run: no spread, no interval"
    if stat != "mean":
        what = "median" if stat == "median" else "iqm, the mean of the middle half"
        is_rough = (table["n"] < ROUGHLY_RESAMPLED).any()
        how = f"the percentile bootstrap's, {RESAMPLES:,} resamples, seed {SEED}: none below {FEWEST_RESAMPLED} values"
        rough = f", approximate below {ROUGHLY_RESAMPLED}" if is_rough else ""
        yield f"sorted by {what}; its 95 % interval is {how}{rough}"
    best = table.filter(pl.col("n") > 0).head(2)
    names = row_names(best, by)
    if table.height == 1:
        yield "one group only: nothing to compare it with"
    elif best.height < 2 or not metric.column.startswith(("metric_", "history_")):
        return
    elif alone := [name for name, n in zip(names, best["n"], strict=True) if n == 1]:
        yield f"no comparison of the best two is possible: one run only in {' and '.join(alone)}"
    elif (p := welch_p(*best.select("mean", "std", "n").rows())) is not None:
        verdict = "within noise: " if p >= SIGNIFICANT else ""
        means = " (of the means)" if stat != "mean" else ""
        yield f"{verdict}the best two, {names[0]} and {names[1]}, differ with p = {p:.2g} by Welch's t-test{means}"


def pivot(study: Study, options: Options) -> list[Result]:
    """Each metric's mean, standard deviation and n per combination of two columns' values; the best are marked."""
    runs, by = grouping(options.pivot, study.runs, study.say)
    if len(by) != 2:
        raise ScriptError(f"--pivot {','.join(options.pivot)}: write two columns, ROWS,COLUMNS", WRONG_USAGE)
    return [pivoted(runs, by, metric, options) for metric in required(study.metrics)]


def pivoted(runs: Runs, by: Sequence[str], metric: Metric, options: Options) -> Result:
    """A metric per cell of a table of two columns' values."""
    mean = pl.col("mean")
    best = mean.min() if metric.goal == "minimize" else mean.max()
    cells = group_statistics(runs, by, metric).sort(by, nulls_last=True)
    cells = cells.select(
        pl.col(by[0]).alias("rows"),
        pl.col(by[1]).alias("columns"),
        pl.lit(metric.column).alias("metric"),
        *("n", "mean", "std"),
        (mean == best.over(by[0])).fill_null(value=False).alias("best_in_row"),
        (mean == best.over(by[1])).fill_null(value=False).alias("best_in_column"),
    )
    spell = float_format(cells["mean"].drop_nulls().to_list())
    texts: dict[tuple[str, str], str] = {}
    for row in cells.filter(pl.col("n") > 0).iter_rows(named=True):
        spread = "" if row["std"] is None else f"±{spell(row['std'])}"
        marks = ROW_BEST * row["best_in_row"] + COLUMN_BEST * row["best_in_column"]
        texts[cell_text(row["rows"]), cell_text(row["columns"])] = f"{spell(row['mean'])}{spread} ({row['n']}){marks}"
    down, across = ([*map(cell_text, cells[c].unique().sort(nulls_last=True).to_list())] for c in ("rows", "columns"))
    rows, columns = map(runs.label, by)
    note = f"mean±std (n); {ROW_BEST} best of its row, {COLUMN_BEST} best of its column"
    if holes := len(across) * len(down) - len(texts):
        note += f"; {counted(holes, 'cell')} without a value"
    size = f"{counted(len(down), 'row')} x {counted(len(across), 'column')}"
    view = [TableColumn(rows, down)]
    view += [TableColumn(head, [texts.get((name, head), "") for name in down], is_text=False) for head in across]
    return Result(
        "pivot",
        f"{metric.label}: {rows} by {columns}, {size}; {metric.direction}",
        ranges_as_text(cells),
        lambda: view,
        [note],
        MOST_GROUPS,
        chart=lambda: pivot_chart(cells.filter(pl.col("n") > 0), options),
    )


# --- questions: what was varied, what differs -----------------------------------------------------------------


def grouping(names: Sequence[str], runs: Runs, say: Say) -> tuple[Runs, list[str]]:
    """The columns to group by, `lr:4` and `!seed` understood; the runs with the ranges that they need."""
    excluded = [name[1:] for name in names if name.startswith("!")]
    by = all_settings_but(excluded, runs, say) if excluded else []
    for name in names:
        if name.startswith("!"):
            continue
        known = known_column(name, runs, ("config_", "metric_"))
        column, _, ranges = name.rpartition(":")
        if known is None and ranges.isdecimal() and int(ranges) > 0:
            runs, known = with_ranges(find_column(column, runs), int(ranges), runs)
        by.append(known or find_column(name, runs))
        rival = known_column(name, replace(runs, empty=frozenset([name])), ("config_", "metric_"))
        if known == name and rival not in {None, name}:
            say(f"{name} is the column of that name; the setting goes by {rival}")
    return runs, list(dict.fromkeys(by))


def all_settings_but(names: Sequence[str], runs: Runs, say: Say) -> list[str]:
    """The config columns that vary, but those called so and those that merely tell runs apart, which is said."""

    def said(columns: Iterable[str]) -> str:
        return some_of([*map(runs.label, columns)]) or "nothing"

    excluded = []
    for name in names:
        if name == "seed" and known_column(name, runs, ("config_",)) is None:  # !seed is what everybody tries first
            of_seed = [c for c in runs.dtypes if kind(c) == "config" and "seed" in words(runs.label(c))]
            say(f"no column is called seed; left out: {said(of_seed)}")
            excluded += of_seed
        else:
            excluded.append(find_column(name, runs))
    table, settings, noise = varying_settings(runs)
    candidates = [column for column in settings if column not in excluded]
    chosen = independent(table, candidates)
    if not chosen:
        problem = f"--group-by: no config column varies but {said(excluded)}"
        raise ScriptError(f"{problem}; name the columns to group by", WRONG_USAGE)
    say(f"grouped by all that varies but {said(excluded)}: {said(chosen)}")
    if decided := [column for column in candidates if column not in chosen]:
        say(f"decided by these, and not shown: {said(decided)}")
    if noise:
        say(f"left out, as they only tell runs apart: {said(noise)}")
    return chosen


def varying_settings(runs: Runs) -> tuple[pl.DataFrame, list[str], list[str]]:
    """The config columns of more than one value, a missing one included; which are settings, and which are noise."""
    columns = [column for column in runs.dtypes if kind(column) == "config"]
    varies = collected(runs.frame.select(pl.col(columns).n_unique() > 1), "in-memory")
    table = collected(runs.frame.select(column.name for column in varies if column[0]))
    noise = [column for column in table.columns if is_noise(table[column], runs.label(column))]
    return table, [column for column in table.columns if column not in noise], noise


def is_noise(values: pl.Series, path: str) -> bool:
    """Whether a config column merely tells where or when runs ran: paths, hosts, times, text of one run each."""
    if not NOISE.isdisjoint(words(path)) or not NOISE_TREES.isdisjoint(re.split(r"[./]", path)):
        return True
    there = values.drop_nulls()
    one_each = there.n_unique() == len(there) > FEW
    if values.dtype == pl.String:
        return one_each or bool(there.str.contains(DATE_OR_PATH).all())
    return bool(one_each and values.dtype.is_integer() and (there > 1e9).all())  # seconds since 1970, or finer


def independent(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """As few of the columns as tell all their combinations apart: `data.nodes` goes where `data.name` decides it."""
    combinations = table.select(columns).unique()
    chosen = list(columns)
    if combinations.height <= MOST_COMBINATIONS:
        for column in sorted(columns, key=lambda column: combinations[column].n_unique()):
            rest = [other for other in chosen if other != column]
            if rest and combinations.select(rest).n_unique() == combinations.height:
                chosen = rest
    return chosen


def with_ranges(column: str, ranges: int, runs: Runs) -> tuple[Runs, str]:
    """The runs with a further column: in which of `ranges` ranges of about equal size a number lies."""
    name, label = f"{column}:{ranges}", f"{runs.label(column)}:{ranges}"  # which no column of a file is called
    if not runs.dtypes[column].is_numeric():
        raise ScriptError(f"--group-by {label}: it holds no numbers to cut", WRONG_USAGE)
    shares = [i / ranges for i in range(1, ranges)]
    edges = sorted({*collected(runs.frame.select(finite(column).quantile(shares, "linear"))).item()} - {None})
    texts = [f"{edge:.6g}" for edge in edges]
    if len({*texts}) < len(texts):
        texts = [*map(repr, edges)]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    names = [f"to {texts[0]}", *between, f"over {texts[-1]}"] if texts else ["all"]
    place = pl.sum_horizontal(pl.lit(0), *((pl.col(column) > edge).cast(pl.Int64) for edge in edges))
    text = place.replace_strict(dict(enumerate(names)), return_dtype=pl.Enum(names))
    return replace(
        runs,
        frame=runs.frame.with_columns(pl.when(pl.col(column).is_finite()).then(text).alias(name)),
        dtypes={**runs.dtypes, name: pl.Enum(names)},
        paths={**runs.paths, name: (label,)},
    ), name


def best_settings(runs: Runs, options: Options, metric: Metric, say: Say) -> Runs:
    """The runs of each group's best setting: the one with the best mean over its runs, which differ in their seeds."""
    runs, per = grouping(options.best_per, runs, say)
    table, settings, _ = varying_settings(runs)
    settings = independent(table, [c for c in settings if c not in per and "seed" not in words(runs.label(c))])
    if not settings:
        problem = "--best-per: no config column but the seed varies, so there is nothing to choose"
        raise ScriptError(problem, WRONG_USAGE)
    keys = [*per, *settings]
    values = runs.frame.select(*keys, finite(metric.column).alias(VALUE)).drop_nulls(VALUE)
    means = values.group_by(keys).agg(pl.col(VALUE).mean(), pl.len().alias(RUN_NUMBER))
    ranked = collected(means, "in-memory").sort(VALUE, *keys, descending=metric.descending(keys))
    best = ranked.unique(per, keep="first", maintain_order=True)
    for row in best.head(MOST_SAID).iter_rows(named=True):
        chosen = some_of([f"{runs.label(c)} {cell_text(row[c])}" for c in settings if row[c] is not None])
        group = "/".join(cell_text(row[column]) for column in per)
        say(f"best of {group}: {chosen} (mean {row[VALUE]:.4g} of {counted(row[RUN_NUMBER], 'run')})")
    if singles := int((best[RUN_NUMBER] == 1).sum()):
        say(f"{singles} of {counted(best.height, 'chosen setting')} have one run only: a lucky one may have won")
    say(f"settings were chosen by {metric.label} itself, so that its values below are too good; see a test metric too")
    kept = runs.frame.join(best.lazy().select(keys), on=keys, how="semi", nulls_equal=True)
    return replace(runs, frame=kept)


def varied(study: Study, _: Options) -> list[Result]:
    """The config columns with more than one value, how many runs have each, and what the grid of them lacks."""
    runs = study.runs
    table, settings, noise = varying_settings(runs)
    several = [column for column in settings if table[column].drop_nulls().n_unique() > 1]
    single = [runs.label(column) for column in settings if column not in several]
    notes = [f"left out, as they only tell runs apart: {some_of([*map(runs.label, noise)])}"] if noise else []
    notes += [f"with one value where they have any: {some_of(single)}"] if single else []
    rows, texts, sizes = [], [], []
    for column in settings:
        counts = table[column].value_counts(name="runs").sort("runs", column, descending=[True, False])
        rows += [{"column": column, "value": value, "runs": number} for value, number in counts.iter_rows()]
        if column in several:
            sizes.append(str(counts.height))
            texts.append(some_of([f"{cell_text(value)} ({number})" for value, number in counts.iter_rows()], 8))
    number = table.height or collected(runs.frame.select(pl.len())).item()
    view = [TableColumn("config", [*labels(several, runs).values()])]
    view += [TableColumn("values", sizes, is_text=False), TableColumn("value (runs)", texts)]
    title = f"{counted(len(settings), 'config column')} of {counted(number, 'run')} vary"
    dtypes = {"column": pl.String, "value": pl.String, "runs": pl.Int64}
    found = pl.DataFrame([row | {"value": exact_text(row["value"])} for row in rows], dtypes)
    result = Result("varying", title, found, lambda: view, notes, MOST_COLUMNS, rows)
    return [result, *grid(table, several, runs)]


def grid(table: pl.DataFrame, settings: Sequence[str], runs: Runs) -> list[Result]:
    """Combinations of the settings that were run twice, that lack seeds which most have, or that no run has."""
    seeds = [c for c in settings if "seed" in words(runs.label(c))][:1]
    few = [c for c in settings if c not in seeds and table[c].drop_nulls().n_unique() <= MOST_ON_AN_AXIS]
    axes = independent(table, few)
    complete = table.select(*axes, *seeds).drop_nulls()
    if not axes or len(axes) + len(seeds) < 2 or complete.is_empty():
        return []
    present, sizes = complete.select(axes).unique(), [complete[column].n_unique() for column in axes]
    counts = complete.group_by(*axes, *seeds).len().sort(*axes, *seeds)
    with_seed = [pl.format(" with seed {}", seed) for seed in seeds]
    problem = pl.concat_str(pl.format("{} runs", "len"), *with_seed).alias("problem")
    odd = [counts.filter(pl.col("len") > 1).select(*axes, problem)]
    for seed in seeds:
        usual = counts[seed].value_counts().filter(pl.col("count") * 2 >= present.height).select(seed)
        lacking = present.join(usual, how="cross").join(counts, on=[*axes, seed], how="anti")
        lists = lacking.group_by(axes).agg(pl.col(seed).cast(pl.String).sort().str.join(", "))
        odd.append(lists.select(*axes, pl.format("lacks seed {}", seed).alias("problem")).sort(axes))
    if math.prod(sizes) <= 2 * present.height:  # else it was no grid, and the holes are not worth a list
        whole = complete.select(axes[0]).unique()
        for column in axes[1:]:
            whole = whole.join(complete.select(column).unique(), how="cross")
        odd.append(whole.join(present, on=axes, how="anti").with_columns(problem=pl.lit("no run")).sort(axes))
    rows, heads = pl.concat(odd), labels(axes, runs)
    names = some_of([f"{heads[c]} ({size})" for c, size in zip(axes, sizes, strict=True)])
    title = f"grid of {names}: {present.height} of {counted(math.prod(sizes), 'combination')} have a run"
    view = [view_column(rows[column], heads[column]) for column in axes]
    view.append(TableColumn("problem", rows["problem"].to_list(), is_whole=True))
    return [Result("grid", title, rows, lambda: view, most_rows=MOST_SAID)]


def difference(study: Study, options: Options) -> list[Result]:
    """What differs between some runs: the config, then the metrics; numbers are equal however they were written."""
    runs = study.everything
    every = collected(runs.frame.select(*KEY, "name"))
    keys = list(dict.fromkeys(find_run(name, every) for name in options.diff))
    if len(keys) < 2:
        raise ScriptError("--diff needs two different runs or more", WRONG_USAGE)
    of_kind = {which: [c for c in runs.dtypes if kind(c) == which] for which in ("config", "metric")}
    facts = [c for c in ("state", "group", "job_type", "sweep", "notes") if c in runs.dtypes]
    columns = ["name", *facts, *of_kind["config"], *of_kind["metric"]]
    ids = pl.col("id").is_in([key[2] for key in keys], nulls_equal=True)
    rows = collected(runs.frame.filter(ids).select(*KEY, *columns))
    chosen = pl.DataFrame(keys, dict.fromkeys(KEY, pl.String), orient="row")
    chosen = chosen.join(rows, on=KEY, how="left", nulls_equal=True, maintain_order="left")
    taken = Counter([*chosen["id"], "column", "kind"])
    heads = [str(key[2]) if taken[key[2]] == 1 else path_text(key) for key in keys]
    found = []
    for column in columns:
        values = chosen[column].to_list()
        if len({*map(comparable, values)}) > 1:
            found.append({"column": column, "kind": kind(column), **dict(zip(heads, values, strict=True))})
    counts = Counter(row["kind"] for row in found)
    sizes = [f"{counts[which]} of {counted(len(of_kind[which]), f'{which} column')}" for which in of_kind]
    texts = [{name: value if name == "column" else exact_text(value) for name, value in row.items()} for row in found]
    view = [TableColumn("column", [runs.label(row["column"]) for row in found], is_whole=True)]
    view += [TableColumn(head, [cell_text(row[head]) for row in found]) for head in heads]
    title = f"{' and '.join(sizes)} differ between {some_of(run_labels(chosen))}"
    table = pl.DataFrame(texts, dict.fromkeys(["column", "kind", *heads], pl.String))
    return [Result("diff", title, table, lambda: view, most_rows=MOST_COLUMNS, rows=found)]


def find_run(name: str, runs: pl.DataFrame) -> tuple[str, ...]:
    """The key of the run that `name` names: by `entity/project/id`, by its id or by its name."""
    path = pl.concat_str(KEY, separator="/")
    for called in (path == name, pl.col("id") == name, pl.col("name") == name):
        hits = runs.filter(called).select(KEY).sort(KEY).rows()
        if len(hits) > 1:
            some = ", ".join(map(path_text, hits[:FEW]))
            raise ScriptError(f"{len(hits)} runs are called {name}; say which: {some}", WRONG_USAGE)
        if hits:
            return hits[0]
    near = did_you_mean(name, [*runs["name"].drop_nulls(), *runs["id"].drop_nulls()])
    raise ScriptError(f"no run is called {name}{near}", WRONG_USAGE)


def comparable(value: object) -> object:
    """A value that equals what means the same: text that is a number equals the number, NaN itself.

    >>> comparable("1e-3") == comparable(0.001), comparable(2**53) == comparable(str(2**53 + 1))
    (True, False)
    """
    if isinstance(value, list):
        return repr(value)
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                value = number(value)
                break
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


# --- questions: which settings matter -------------------------------------------------------------------------


def importance(study: Study, _: Options) -> list[Result]:
    """How closely each setting that varies goes with each metric's rank; the closest first."""
    return [associations(study.runs, metric) for metric in required(study.metrics)]


def associations(runs: Runs, metric: Metric) -> Result:
    """The settings that vary, by the share of the variance of the metric's ranks that goes with them.

    That share is the eta squared of Kruskal and Wallis' H, (H - k + 1) / (n - k), over k values, or k ranges of a
    number that has many; `p` is the share of random permutations with as large an effect, `spearman` tells the sign.
    """
    columns = [column for column in runs.dtypes if kind(column) == "config"]
    usable = runs.frame.filter(pl.col(metric.column).is_finite())
    table = collected(usable.select(*columns, pl.col(metric.column).alias(VALUE)))
    number, rows = counted(table.height, "run"), []
    notes = [f"{number} with a finite value are too few to rank settings by: {FEWEST_RUNS} are needed"]
    if table.height >= FEWEST_RUNS:
        notes = ["settings that were varied together cannot be told apart; p is not corrected for their number"]
        if table.height > MOST_RUNS:
            table = table.sample(MOST_RUNS, seed=SEED)
            notes.append(f"computed on {MOST_RUNS:,} runs, chosen at random with seed {SEED}")
        varying = [column for column in columns if table[column].drop_nulls().n_unique() > 1]
        noise = [column for column in varying if is_noise(table[column], runs.label(column))]
        rows = [{"metric": metric.column, **association(c, table)} for c in varying if c not in noise]
        if noise:
            notes.append(f"left out, as they only tell runs apart: {some_of([*map(runs.label, noise)])}")
    dtypes: dict[str, Any] = {"metric": pl.String, "column": pl.String, "kind": pl.String, "effect": pl.Float64}
    dtypes |= {"spearman": pl.Float64, "n": pl.Int64, "distinct": pl.Int64, "p": pl.Float64}
    found = pl.DataFrame(rows, schema=dtypes).drop_nulls("effect").sort("effect", "column", descending=[True, False])
    shown = found.unique(["effect", "spearman", "n", "distinct", "p"], keep="first", maintain_order=True)
    if shown.height < found.height:
        notes.append(f"{counted(found.height - shown.height, 'column')} that vary together with these are not listed")
    sign = pl.col("spearman").sign().replace_strict({1.0: "+", -1.0: "-"}, default=None, return_dtype=pl.String)
    shown = shown.with_columns(pl.col("effect").round(3), pl.col("p").round(4), sign=sign)
    view = [TableColumn("column", [*map(runs.label, shown["column"])], is_whole=True)]
    view += [view_column(shown[name], name) for name in ("kind", "effect", "sign", "n", "distinct", "p")]
    title = f"What goes with {metric.label}, of {number}: association, not cause"
    return Result("importance", title, found, lambda: view, notes, MOST_COLUMNS)


def association(column: str, table: pl.DataFrame) -> dict[str, object]:
    """A row of the answer to --importance: how a setting and the metric go together over the runs that have both."""
    import numpy as np

    is_number = table[column].dtype.is_numeric()
    pairs = table.select((finite(column) if is_number else pl.col(column)).alias(RUN_NUMBER), VALUE).drop_nulls()
    setting, distinct = pairs[RUN_NUMBER], pairs[RUN_NUMBER].n_unique()
    facts: dict[str, object] = {"column": column, "kind": "number" if is_number else "category"}
    facts |= {"n": pairs.height, "distinct": distinct, "effect": None, "spearman": None, "p": None}
    if pairs.height < FEWEST_RUNS or distinct < 2 or (distinct == pairs.height and not is_number):
        return facts
    if setting.dtype.is_nested():  # lists have no ranks
        setting = pl.Series(map(cell_text, setting.to_list()))
    ranks = pairs[VALUE].rank().to_numpy()
    ranks = (ranks - ranks.mean()) / (ranks.std() or 1.0)
    codes = setting.cast(pl.String).rank("dense").to_numpy() - 1
    if is_number and distinct > MOST_LEVELS:
        levels = max(3, min(MOST_LEVELS, pairs.height // RUNS_A_LEVEL))
        codes = ((setting.rank("average").to_numpy() - 0.5) * levels / pairs.height).astype(int)
        codes = np.unique(codes, return_inverse=True)[1]
    levels = int(codes.max()) + 1
    weights = np.eye(levels)[codes.astype(int)]
    weights = weights / np.sqrt(weights.sum(axis=0) * len(ranks))
    share = float(((ranks @ weights) ** 2).sum())
    random = np.random.default_rng(SEED)
    larger, at_once = 0, max(1, CELLS_AT_ONCE // len(ranks))
    for start in range(0, PERMUTATIONS, at_once):
        count = min(at_once, PERMUTATIONS - start)
        shuffled = random.permuted(np.broadcast_to(ranks, (count, len(ranks))), axis=1)
        larger += int((((shuffled @ weights) ** 2).sum(axis=1) >= share - 1e-12).sum())
    h = share * (len(ranks) - 1)  # Kruskal and Wallis' H, ties corrected
    facts["effect"] = max(0.0, (h - levels + 1) / (len(ranks) - levels))
    facts["p"] = (larger + 1) / (PERMUTATIONS + 1)
    if is_number:
        x = setting.rank().to_numpy()
        facts["spearman"] = float((x - x.mean()) @ ranks / ((x.std() or 1.0) * len(x)))
    return facts


# --- questions: what there is ---------------------------------------------------------------------------------


def schema(study: Study, options: Options) -> list[Result]:
    """Every column, or --columns, with dtype, coverage, range and an example; in each kind, what varies first."""
    runs = study.any_state
    listed = [find_column(name, runs) for name in options.columns]
    listed = listed or [column for column in runs.dtypes if column[0] != "_" and column not in runs.empty]
    of_kind, is_constant = pl.col("kind").cast(pl.Enum(KINDS)), pl.col("distinct") < 2
    table = column_facts(listed, runs).sort(of_kind, is_constant, maintain_order=True)
    most = 0 if options.output else MOST_COLUMNS if options.max_rows is None else options.max_rows
    rows, notes = table.to_dicts(), []
    if not options.columns:
        from_histories = "from histories (history_min_X, _max_X, _last_X, _tail_X, …, or --value) of X"
        lists = {
            "without any value": [r["column"] for r in rows if not r["coverage"] and r["kind"] != "history"],
            from_histories: [c.removeprefix("history_min_step_") for c in listed if c.startswith("history_min_step_")],
            "derived, but without any value": sorted(runs.empty),
        }
        notes = [f"{what}: {some_of(names)}" for what, names in lists.items() if names]
        rows = [row for row in rows if row["coverage"] and row["kind"] != "history"]
        rows = folded_schema(rows) if 0 < most < len(rows) else rows
    if 0 < most < len(rows):
        notes = [f"{counted(len(rows) - most, 'more row')}: --max-rows 0 shows all", *notes]
        kinds = [[row for row in rows if row["kind"] == name] for name in KINDS]
        in_turns = [row for turn in itertools.zip_longest(*kinds) for row in turn if row]  # each kind keeps its share
        shown = {row["column"] for row in in_turns[:most]}
        rows = [row for row in rows if row["column"] in shown]
    names = [row["column"] for row in rows]
    heads = {"cover": "coverage", "values": "distinct", "min": "min", "max": "max"}
    numbers = {head: ["-" if row[of] is None else f"{row[of]:.5g}" for row in rows] for head, of in heads.items()}
    view = [
        TableColumn("column", names, is_whole=max(map(len, names), default=0) < 45),
        *(TableColumn(head, texts, is_text=False) for head, texts in numbers.items()),
        TableColumn("dtype", [re.sub(r"^Datetime.*", "Datetime", row["dtype"]) for row in rows]),
        TableColumn("example", [cell_text(row["example"]) for row in rows]),
    ]
    title = f"{counted(table.height, 'column')}; coverage is the share of runs with a value"
    return [Result("schema", title, table, lambda: view, notes)]


def column_facts(columns: Sequence[str], runs: Runs) -> pl.DataFrame:
    """A row per column, read in blocks of columns, so that memory stays bounded whatever the width."""
    dtypes: dict[str, Any] = dict.fromkeys(("column", "kind", "dtype", "path"), pl.String)
    dtypes |= {"coverage": pl.Float64, "distinct": pl.Int64, "min": pl.Float64, "max": pl.Float64, "example": pl.String}
    height = max(1, collected(runs.frame.select(pl.len())).item())
    at_once = max(1, CELLS_READ // height)
    rows = []
    for start in range(0, len(columns), at_once):
        for column in collected(runs.frame.select(columns[start : start + at_once]), "in-memory"):
            values = column.drop_nulls()
            numbers = (values if column.dtype.is_numeric() else values.clear()).cast(pl.Float64)
            numbers = numbers.filter(numbers.is_finite())
            dtype = re.sub(r"\w+='?(\w+)'?", r"\1", str(column.dtype)).replace("(", "[").replace(")", "]")
            path = runs.label(column.name) if column.name in runs.paths else None
            facts = round(len(values) / height, 4), values.n_unique(), numbers.min(), numbers.max()
            example = [*map(exact_text, values.head(1).to_list()), None][0]
            rows.append((column.name, kind(column.name), dtype, path, *facts, example))
    return pl.DataFrame(rows, dtypes, orient="row")


def folded_schema(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a schema, each family in one: names that differ in numbers, and of metrics in their middle."""
    families: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for row in rows:
        name, path = row["column"], row["path"] or ""
        if row["kind"] == "metric" and len(re.split("[/.]", path)) > 2:
            name = re.sub("([/.]).*([/.])", rf"\1{ELLIPSIS}\2", path)
        families.setdefault((row["kind"], re.sub(r"\d+", "#", name)), []).append((name, row))
    found: list[dict[str, Any]] = []
    for family in families.values():
        names, members = zip(*family, strict=True)
        if len(members) < FEWEST_IN_A_FAMILY:
            found += members
            continue
        if len({re.sub(r"\d+", "#", row["column"]) for row in members}) == 1:  # these say more than a path's ends
            names = tuple(row["column"] for row in members)
        ranges = zip(*(map(int, re.findall(r"\d+", name)) for name in names), strict=True)
        texts = iter([f"{min(each)}{ELLIPSIS}{max(each)}" if len({*each}) > 1 else str(each[0]) for each in ranges])
        folded: dict[str, Any] = {"example": f"{len(members):,} columns"}
        folded["column"] = re.sub(r"\d+", lambda _: next(texts), names[0])  # noqa: B023 - called at once
        for fact, best in {"min": min, "max": max, "coverage": max, "distinct": max}.items():
            folded[fact] = best((row[fact] for row in members if row[fact] is not None), default=None)
        found.append(members[0] | folded)
    return found


def overview(study: Study) -> Result:
    """What the input holds: its projects, their runs by state, the days between which they were made."""
    runs, state = study.everything, pl.col("state").str.to_lowercase()
    days = pl.col("created_at").dt.strftime("%Y-%m-%d")
    counts = [pl.len().alias("runs"), *((state == name).sum().alias(name) for name in STATES)]
    first_last = days.min().alias("first_created"), days.max().alias("last_created")
    table = collected(runs.frame.group_by("entity", "project").agg(*counts, *first_last).sort("entity", "project"))
    entities, states = table["entity"].unique().to_list(), [name for name in STATES if table[name].sum()]
    whose = f" of {cell_text(entities[0])}" if len(entities) == 1 else ""
    whose = f": {path_text(table.row(0)[:2])}" if table.height == 1 else whose
    kinds = Counter(kind(column) for column in runs.dtypes if column not in runs.empty)
    notes = [f"columns: {', '.join(f'{kinds[k]} {k}' for k in KINDS if kinds[k])}; --schema lists them"]
    if not study.metrics:
        logged = {metric_label(p, c) for p in history_files(runs) for c in p.dtypes if c.startswith("metric_")}
        if there := [study.runs.label(column) for column in by_coverage(metric_columns(study.runs), study.runs)]:
            how = "-m with --ascending or --descending compares"
            notes.append(f"no metric's name tells which way is better: {how} {some_of(there, SUGGESTED_NAMES)}")
        elif logged:
            names = some_of(sorted(logged), SUGGESTED_NAMES)
            how = "--curves; or aggregate_runs --history, then --value last"
            notes.append(f"metrics are in the histories alone ({names}): {how}")
        else:
            notes.append("no run of these has a metric")
    shown = [*(["entity"] if len(entities) > 1 else []), *(["project"] if table.height > 1 else []), "runs", *states]
    heads = {**dict(zip(shown, shown, strict=True)), "first_created": "first", "last_created": "last"}
    title = f"{counted(int(table['runs'].sum()), 'run')} in {counted(table.height, 'project')}{whose}"
    view = [view_column(table[name], head, null="null") for name, head in heads.items()]
    return Result("overview", title, table, lambda: view, notes, MOST_PROJECTS)


def introduction(study: Study, options: Options) -> list[Result]:
    """What to show to someone who asks nothing: the input, the best runs, a first comparison."""
    if not study.metrics:
        return [overview(study), *varied(study, options)]
    by = [*study.by] or suggested_grouping(study.runs)
    first = [grouped(study.runs, by, study.metrics[0], replace(options, columns=()))] if by else []
    return [overview(study), *top(study, options, OVERVIEW_TOP), *first]


def suggested_grouping(runs: Runs) -> list[str]:
    """One or two columns that split the runs into a few groups of more than one run.

    First those of the name, then texts before numbers, then those that split the runs most evenly.
    """
    named = [column for column in (*DERIVED, "group", "job_type") if column in runs.dtypes]
    configs = [column for column, dtype in runs.dtypes.items() if kind(column) == "config" and not dtype.is_float()]
    columns = [column for column in (*named, *configs) if "seed" not in words(column)]
    numbers = runs.frame.select(pl.len().alias(RUN_NUMBER), pl.col(columns).n_unique())
    counts = collected(numbers, "in-memory").row(0, named=True)
    most = min(SUGGESTED_GROUPS, counts[RUN_NUMBER] // 2)
    few = [column for column in columns if 1 < counts[column] <= most]
    table = collected(runs.frame.select(few)) if few else pl.DataFrame()
    settings = [c for c in few if table[c].drop_nulls().n_unique() > 1 and not is_noise(table[c], runs.label(c))]

    def rank(column: str) -> tuple[int, bool, float]:
        evenness = cast("float", table[column].value_counts()["count"].entropy())
        place = named.index(column) if column in named else len(named)
        return place, table[column].dtype != pl.String, -round(evenness, 9)

    chosen: list[str] = []
    for column in sorted(settings, key=rank)[:MOST_CANDIDATES]:
        # Where both have a value, a second column has to split what the first does not.
        both = table.select(*chosen, column).drop_nulls()
        is_new = not chosen or both.n_unique() > both.select(chosen).n_unique()
        size = table.select(chosen).n_unique() if chosen else 1
        if len(chosen) < 2 and is_new and size < table.select(*chosen, column).n_unique() <= most:
            chosen.append(column)
    return chosen


# --- questions: SQL -------------------------------------------------------------------------------------------


def sql(study: Study, options: Options) -> list[Result]:
    """The rows of a SELECT in DuckDB's dialect over views of the parquet files; nothing else can be read."""
    import duckdb

    runs, query = study.everything, options.sql or ""
    views = {"runs": [open_file(file) for file in runs.files]}
    names_others = re.search(r"history|console|system|table_", query, re.IGNORECASE)
    for part in files_beside(runs) if names_others else []:
        if view_name := view_of(part):
            views.setdefault(view_name, []).append(part)
    for_programs = options.format in {"json", "csv"} or options.output is not None
    most = options.max_rows if options.max_rows is not None else 0 if for_programs else MOST_GROUPS
    with tempfile.TemporaryDirectory(prefix="wandb-tools-") as spill, duckdb.connect() as connection:
        try:
            statements = duckdb.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise ScriptError("--sql takes one SELECT, and nothing that writes or changes", WRONG_USAGE)
            files = [sql_text(str(part.files[0].absolute())) for parts in views.values() for part in parts]
            connection.execute(f"SET memory_limit = '{SQL_MEMORY}'; SET temp_directory = {sql_text(spill)}")
            connection.execute(f"SET TimeZone = 'UTC'; SET allowed_paths = [{', '.join(files)}]")
            connection.execute("SET python_enable_replacements = false; SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            aliases: dict[str, str] = {}
            for view_name, parts in views.items():
                aliases |= create_view(connection, view_name, parts, runs)
            found = connection.sql(statements[0].query)
            # SELECT * gives both names of a column: one is enough, unless the query writes the other.
            names = [c for c in found.columns if aliases.get(c) not in found.columns or f'"{c}"' in query]
            cells = found.project(", ".join(map(sql_name, names))).limit(most + 1 if most else sys.maxsize).fetchall()
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise ScriptError(f"--sql: {' '.join(str(error).split())}", NOTHING_USABLE) from error
        except duckdb.Error as error:
            reason = " ".join(str(error).partition("\n\nLINE ")[0].split())
            hint = "" if "history" in views or "history" not in query else "; no history lies beside these runs"
            raise ScriptError(f"--sql: {reason}{hint}", WRONG_USAGE) from error
    rows = [[duckdb_value(value) for value in row] for row in (cells[:most] if most else cells)]
    table = pl.DataFrame([pl.Series(name, [row[i] for row in rows], strict=False) for i, name in enumerate(names)])
    more = ["more rows: --max-rows 0 shows all, --json and -o hold all"] if len(cells) > len(rows) else []
    title = f"the first {len(rows)} rows" if more else counted(len(rows), "row")
    view = [view_column(table[name], name, null="null") for name in names]
    return [Result("sql", title, table, lambda: view, more, rows=[dict(zip(names, row, strict=True)) for row in rows])]


def view_of(part: Runs) -> str | None:
    """The view that a file beside the runs belongs to: history, console, system or table_<key>."""
    columns, name = part.dtypes.keys(), part.files[0].stem
    if part.holds_runs or not columns >= ROW_COLUMNS or name.endswith("_history_sampled"):
        return None
    if "_table_" in name and "row" in columns:
        return f"table_{name.split('_table_', 1)[1]}"
    kinds = {"console": {"line", "text"}, "history": {"_step"}, "system": {"_timestamp"}}
    return next((view for view, needed in kinds.items() if columns >= needed), None)


def create_view(connection: Any, name: str, parts: Sequence[Runs], runs: Runs) -> dict[str, str]:
    """Create a view of files with both names of each column; W&B's names and the columns that they stand for."""
    dtypes = {column: dtype for part in parts for column, dtype in part.dtypes.items()}
    paths = {column: path for part in parts for column, path in part.paths.items() if column in dtypes}
    aliases: dict[str, str] = {}
    taken = {column.lower() for column in dtypes}
    for column in sorted(paths, key=lambda column: (column.startswith("metric_"), len(paths[column]))):
        label = ".".join(paths[column])
        if label.lower() not in taken:
            aliases[label] = column
            taken.add(label.lower())
    times = [sql_name(column) for column, dtype in dtypes.items() if dtype == pl.Datetime("us", "UTC")]
    replaced = [f"{column} AT TIME ZONE 'UTC' AS {column}" for column in times]
    for column in runs.empty if name == "runs" else ():  # it gives way to the setting of its name
        rival = known_column(column, runs, ("config_",))
        replaced += [f"{sql_name(rival)} AS {sql_name(column)}"] if rival and rival != column else []
    sources = [f"SELECT * FROM read_parquet({sql_text(str(part.files[0].absolute()))})" for part in parts]  # noqa: S608 - quoted
    for i, others in enumerate(repeated_runs(parts) if name != "runs" else ()):
        if others.height:
            rows = ", ".join(f"({', '.join(map(sql_text, row))})" for row in others.iter_rows())
            key = "(entity, project, run_id)"
            sources[i] += f" ANTI JOIN (VALUES {rows}) AS other{key} USING {key}"
    star = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
    extra = "".join(f", {sql_name(column)} AS {sql_name(label)}" for label, column in aliases.items())
    source = " UNION ALL BY NAME ".join(sources)
    connection.execute(f"CREATE VIEW {sql_name(name)} AS SELECT {star}{extra} FROM ({source})")  # noqa: S608 - quoted
    return aliases


def sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def duckdb_value(value: object) -> object:
    """A value of DuckDB's as JSON and polars know it; times are in UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [duckdb_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): duckdb_value(item) for name, item in value.items()}
    return float(value) if isinstance(value, Decimal) else str(value)


# --- questions: curves and health, from histories -------------------------------------------------------------


def files_beside(runs: Runs) -> list[Runs]:
    """The sound parquet files beside the inputs, or beside the exports that an aggregate was made of."""
    folders = {file.parent for file in runs.files}
    if "source_file" in runs.dtypes:
        sources = collected(runs.frame.select(pl.col("source_file").drop_nulls().unique()))["source_file"]
        folders |= {Path(source).parent for source in sources}
    beside = [file for folder in folders for file in folder.glob("*.parquet") if file.name[0] != "."]
    found = {file.resolve(): file for file in (*runs.others, *beside)}
    parts = []
    for file in sorted(found.values()):
        with suppress(ScriptError):
            parts.append(open_file(file))
    return parts


def history_files(runs: Runs) -> list[Runs]:
    """The full histories beside the runs; sampled ones are never mixed with them."""
    return [part for part in files_beside(runs) if view_of(part) == "history"]


def repeated_runs(parts: Sequence[Runs]) -> list[pl.DataFrame]:
    """For each file the runs of which another one holds more rows, or as many and comes first."""
    names = ["entity", "project", "run_id"]
    if len(parts) < 2:
        return [pl.DataFrame(schema=dict.fromkeys(names, pl.String)) for _ in parts]
    files = [collected(part.frame.group_by(names).len()) for part in parts]
    table = pl.concat(rows.with_columns(pl.lit(number).alias(HISTORY_NUMBER)) for number, rows in enumerate(files))
    ranked = table.sort(*names, pl.col("len"), HISTORY_NUMBER, descending=[*[False] * 3, True, False])
    others = ranked.filter(~pl.struct(names).is_first_distinct())
    return [others.filter(pl.col(HISTORY_NUMBER) == number).select(names) for number in range(len(parts))]


def rows_of_histories(
    parts: Sequence[tuple[Runs, list[pl.Expr]]], keys: pl.DataFrame, everything: Runs, needs: Sequence[str] = ()
) -> pl.DataFrame:
    """The rows of the runs in `keys`: RUN_NUMBER, `_step` and each part's columns; a run's in the order of one file."""
    # The files are sorted by run: ranges of ids let whole row groups be skipped.
    every_id = collected(everything.frame.select(pl.col("id").drop_nulls().unique().sort()))["id"].to_list()
    by_wanted = itertools.groupby(every_id, {*keys["id"]}.__contains__)
    stretches = [(ids[0], ids[-1]) for is_wanted, group in by_wanted if is_wanted for ids in [list(group)]]
    if len(stretches) > MOST_RANGES:
        stretches = [(stretches[0][0], stretches[-1][1])]
    run_id = pl.col("run_id")
    near = pl.any_horizontal(pl.lit(value=False), *(run_id.is_between(pl.lit(a), pl.lit(b)) for a, b in stretches))
    numbers = keys.lazy().select(RUN_NUMBER, *KEY)
    frames = []
    for (part, columns), others in zip(parts, repeated_runs([part for part, _ in parts]), strict=True):
        if columns:
            rows = part.frame.filter(near)
            if others.height:
                rows = rows.join(others.lazy(), on=others.columns, how="anti", nulls_equal=True, maintain_order="left")
            rows = rows.select(run_id.alias("id"), "entity", "project", "_step", *columns)
            rows = rows.filter(*(pl.col(column).is_not_null() for column in needs))
            joined = rows.join(numbers, on=KEY, how="inner", nulls_equal=True, maintain_order="left")
            frames.append(collected(joined.drop(KEY)))
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def metric_label(history: Runs, column: str) -> str:
    """How people know a metric of a history, which may be no file of ours."""
    return history.label(column).removeprefix("metric_")


def curves(study: Study, options: Options) -> list[Result]:
    """Metrics over the steps, or another axis: per group the mean over its runs with its interval, else per run."""
    histories = history_files(study.runs)
    if not histories:
        raise ScriptError("no history beside these runs; export_runs --include-history writes them", NOTHING_USABLE)
    if options.stat != "mean":
        study.say(f"--stat {options.stat} is for groups: curves show means")
    refuse_ambiguous(study.by)
    columns = dict.fromkeys((*KEY, "name", *study.by))
    keys = collected(study.runs.frame.select(*columns)).sort(KEY).with_row_index(RUN_NUMBER)
    return [curve(name, histories, keys, study, options) for name in options.curves]


def curve(name: str, histories: Sequence[Runs], keys: pl.DataFrame, study: Study, options: Options) -> Result:
    """The curves of one metric: a line per group, or per run, the best last value first."""
    found = [(part, known_column(name, part, ("metric_",)) or "") for part in histories]
    logging = [(part, column) for part, column in found if column.startswith("metric_")]
    if not logging:
        names = {metric_label(part, c) for part in histories for c in part.dtypes if c.startswith("metric_")}
        hint = did_you_mean(name, names) or f"; there are {some_of(sorted(names), SUGGESTED_NAMES)}"
        raise ScriptError(f"no history has a metric called {name}{hint}", WRONG_USAGE)
    label = metric_label(*logging[0])
    stored = [part.goals[column] for part, column in logging if column in part.goals]
    goal = options.goal or next(iter(stored), None) or goal_by_name(label)
    if options.best_so_far and goal is None:
        how = "say --ascending or --descending"
        raise ScriptError(f"--best-so-far: which way {label} is better is not known; {how}", WRONG_USAGE)
    axis = options.x or next((part.axes[column] for part, column in logging if column in part.axes), "step")
    clock = {"step": "_step", "runtime": "_runtime", "time": "_timestamp"}.get(axis, axis)
    selected: list[tuple[Runs, list[pl.Expr]]] = []
    for part, column in logging:
        x = clock if clock.startswith("_") and clock in part.dtypes else known_column(axis, part, ("metric_",))
        both = {"x": x, VALUE: column} if x else {}
        selected.append((part, [pl.col(old).cast(pl.Float64).alias(new) for new, old in both.items()]))
    if not any(columns for _, columns in selected):
        hint = "there are step, runtime, time and the metrics"
        raise ScriptError(f"--x {axis}: no history has such a column; {hint}", WRONG_USAGE)
    logged = rows_of_histories(selected, keys, study.everything, needs=[VALUE])
    rows = logged.filter(pl.col("x").is_finite())
    if unplaced := logged[RUN_NUMBER].n_unique() - rows[RUN_NUMBER].n_unique():
        study.say(f"left out, as they log {label} without {axis}: {counted(unplaced, 'run')}; --x step shows them")
    if rows.is_empty():
        hint = "choose other runs, or see --schema"
        raise ScriptError(f"the histories hold no {label} of these runs; {hint}", NOTHING_USABLE)
    in_order = (pl.col("x") >= pl.col("x").shift()) | (pl.col(RUN_NUMBER) != pl.col(RUN_NUMBER).shift())
    if not rows.select(in_order.fill_null(value=True).all()).item():
        rows = rows.sort(RUN_NUMBER, "x", "_step")
    what = label + ", best so far" * options.best_so_far
    if options.smooth:
        smooth = finite(VALUE).ewm_mean(alpha=1 - options.smooth, adjust=True, ignore_nulls=True).over(RUN_NUMBER)
        rows = rows.with_columns(pl.when(pl.col(VALUE).is_finite()).then(smooth).otherwise(VALUE).alias(VALUE))
        what += f", smoothed by {options.smooth}"
    draws = options.report or (options.output and options.output.suffix.lower() in PICTURES)
    most = options.points or (PICTURE_POINTS if draws else CURVE_POINTS)
    points = on_grid(rows, most, goal if options.best_so_far else None)
    if unseen := rows[RUN_NUMBER].n_unique() - points[RUN_NUMBER].n_unique():
        between = f"not shown, as they lie between two of the {points[BIN].n_unique()} points"
        study.say(f"{between}: {counted(unseen, 'run')}; --points")
    points = points.join(keys, on=RUN_NUMBER, how="left", maintain_order="left")
    return lines_of(points, f"{what} over {axis.removeprefix('_')}", logging[0][1], goal, study, options)


def on_grid(rows: pl.DataFrame, most: int, best: Goal | None) -> pl.DataFrame:
    """Each run's value at up to `most` points that lie between its first and last x: run, bin, x, value.

    The points are every x if these are few, else those nearest to evenly spaced ones. Of the values between two points
    the last one counts, or the best finite one.
    """
    points = rows["x"].unique().sort()
    if len(points) > most:
        low, high = float(points[0]), float(points[-1])
        even = pl.Series("even", [low + (high - low) * number / max(1, most - 1) for number in range(most)])
        after = points.search_sorted(even, side="left").clip(1, len(points) - 1)
        near = pl.DataFrame([even, points.gather(after - 1).alias("left"), points.gather(after).alias("right")])
        is_left = pl.col("even") - pl.col("left") <= pl.col("right") - pl.col("even")
        points = near.select(pl.when(is_left).then("left").otherwise("right"))["left"].unique().sort()
    value = pl.col(VALUE)
    if best:
        rows = rows.with_columns(finite(VALUE).alias(VALUE))
    of_bin = {"minimize": value.min(), "maximize": value.max(), None: value.last()}[best]
    so_far = {"minimize": value.cum_min(), "maximize": value.cum_max(), None: value}[best]
    places = points.search_sorted(rows["x"], side="left").cast(pl.UInt32).alias(BIN)
    binned = rows.with_columns(places).group_by(RUN_NUMBER, BIN).agg(of_bin)
    spans = rows.group_by(RUN_NUMBER).agg(pl.col("x").first().alias("first"), pl.col("x").last().alias("last"))
    whole = spans.join(pl.DataFrame({"x": points}).with_row_index(BIN), how="cross")
    whole = whole.filter(pl.col("x").is_between("first", "last")).select(RUN_NUMBER, BIN, "x")
    joined = whole.join(binned, on=[RUN_NUMBER, BIN], how="left").sort(RUN_NUMBER, BIN)
    return joined.with_columns(so_far.forward_fill().over(RUN_NUMBER)).drop_nulls(VALUE)


def lines_of(points: pl.DataFrame, what: str, column: str, goal: Goal | None, study: Study, options: Options) -> Result:
    """Curves as a result: statistics over the runs of each group; without groups each run is a line of its own."""
    by: list[str] = [RUN_NUMBER]
    held: list[Any] = [*KEY, "name", "x", pl.col(VALUE).alias("value")]
    table, notes, noun, whose = points.with_columns(pl.lit(1).alias("n")), [], "run", ""
    if study.by:
        by, value = [*study.by], pl.col(FINITE)
        held = [*by, "x", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high"]
        of_point = points.with_columns(finite(VALUE).alias(FINITE)).group_by(*by, BIN, "x")
        n, std = value.count().cast(pl.Int64).alias("n"), value.std(ddof=1).alias("std")
        nonfinite = (pl.len() - value.count()).cast(pl.Int64).alias("n_nonfinite")
        table = with_intervals(of_point.agg(n, nonfinite, value.mean().alias("mean"), std))
        table = table.with_columns(pl.col("mean").alias(VALUE))
        noun, whose = "group", f" of {counted(points[RUN_NUMBER].n_unique(), 'run')}"
        what += f", mean by {', '.join(map(study.runs.label, by))}"
    last = table.sort(BIN).group_by(by).agg(finite(VALUE).last().alias(RANK))
    last = last.sort(RANK, *by, descending=[goal == "maximize", *(False for _ in by)], nulls_last=True)
    table = table.join(last.drop(RANK).with_row_index(RANK), on=by, how="left", nulls_equal=True).sort(RANK, BIN)
    lines = table.partition_by(RANK, maintain_order=True)
    firsts = table.unique(RANK, keep="first", maintain_order=True)
    names = row_names(firsts, by) if study.by else run_labels(firsts)
    spread = table["n"].n_unique() > 1
    if study.by:
        reach = "the mean over the runs that reach it" + " (their number)" * spread
        notes.append(f"at each point {reach}; ends are not extrapolated")
        if diverged := points.filter(~pl.col(VALUE).is_finite())[RUN_NUMBER].n_unique():
            notes.append(f"NaN or infinity is reached by {counted(diverged, 'run')}, averaged up to there")
    if len(names) > MOST_CURVES:
        more = f"{len(names) - MOST_CURVES} more: --group-by, --filter or --json"
        notes.append(f"the {MOST_CURVES} {noun}s with the best last value; {more}")
    # A row per x, a column per curve; empty where a curve has no value.
    shown = [*zip(names, lines[:MOST_CURVES], strict=False)]
    xs = sorted({x for _, line in shown for x in line["x"]})
    view = [TableColumn("x", [f"{x:.10g}" for x in xs])]
    for name, line in shown:
        cells = line.select("x", VALUE, "n").iter_rows()
        texts = {x: "" if value is None else f"{value:.4g}" + f" ({n})" * spread for x, value, n in cells}
        view.append(TableColumn(name, [texts.get(x, "") for x in xs], is_text=False))
    return Result(
        "curves",
        f"{what}: {counted(len(names), noun)}{whose}",
        ranges_as_text(table.select(pl.lit(column).alias("metric"), *held)),
        lambda: view,
        notes,
        MOST_ROWS_OF_CURVES,
        chart=lambda: curves_chart(lines, names, what, options),
        sparks=[(name, sparkline(line[VALUE])) for name, line in shown],
    )


def sparkline(values: pl.Series) -> str:
    """The shape of a curve in block characters; an x where it has no finite value."""
    numbers = [value if value is not None and math.isfinite(value) else None for value in values]
    there = [value for value in numbers if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    scale = (len(SPARKS) - 1) / ((high - low) or 1.0)
    return "".join("x" if value is None else SPARKS[round((value - low) * scale)] for value in numbers)


def health(study: Study, _: Options) -> list[Result]:
    """A row for each problem of each run, of the kinds that the manual defines; the runs with most problems first."""
    runs, histories = study.any_state, history_files(study.any_state)
    keys = collected(runs.frame.select(*KEY, "name")).sort(KEY).with_row_index(RUN_NUMBER)
    found: list[tuple[int, str, str]] = []  # run number, problem, detail
    logged: set[int] = set()
    columns = {column: part for part in histories for column in metric_columns(part)}
    at_once = max(1, CELLS_READ // max(1, sum(collected(part.frame.select(pl.len())).item() for part in histories)))
    for start in range(0, len(columns), at_once):
        block = sorted(columns)[start : start + at_once]
        parts = [(part, [pl.col(column) for column in block if column in part.dtypes]) for part in histories]
        rows = rows_of_histories(parts, keys, runs)
        for column in block:
            label = metric_label(columns[column], column)
            values = rows.select(RUN_NUMBER, "_step", pl.col(column).cast(pl.Float64).alias(VALUE)).drop_nulls(VALUE)
            logged |= {*values[RUN_NUMBER].unique()}
            found += metric_problems(values, label, columns[column].goals.get(column) or goal_by_name(label))
    found += problems_of_runs(runs, keys, logged)
    names = dict(zip(keys[RUN_NUMBER], run_labels(keys), strict=True))
    where = "" if histories else " (no histories lie beside them: by summaries and states alone)"
    problems = pl.DataFrame(found, {RUN_NUMBER: pl.UInt32, "problem": pl.String, "detail": pl.String}, orient="row")
    most = pl.len().over(RUN_NUMBER)
    problems = problems.sort(most, RUN_NUMBER, descending=[True, False], maintain_order=True)
    table = problems.join(keys, on=RUN_NUMBER, how="left", maintain_order="left")
    table = table.select("entity", "project", pl.col("id").alias("run"), "name", "problem", "detail")
    folded = problems.group_by(RUN_NUMBER, "problem", maintain_order=True).agg("detail")
    counts = ", ".join(f"{count} {problem}" for problem, count in Counter(folded["problem"]).most_common())
    title = f"{counted(keys.height, 'run')}: no problem found{where}"
    view: list[TableColumn] = []
    if found:
        title = f"{problems[RUN_NUMBER].n_unique()} of {counted(keys.height, 'run')} have problems{where}: {counts}"
        view = [
            TableColumn("run", [names[number] for number in folded[RUN_NUMBER]]),
            TableColumn("problem", folded["problem"].to_list(), is_whole=True),
            TableColumn("detail", [some_of(details, 1) for details in folded["detail"].to_list()], is_whole=True),
        ]
    return [Result("health", title, table, lambda: view, most_rows=MOST_GROUPS)]


def metric_problems(values: pl.DataFrame, label: str, goal: Goal | None) -> Iterator[tuple[int, str, str]]:
    """The problems of one metric: `values` are RUN_NUMBER, `_step` and VALUE, without nulls, by step."""
    is_finite, value, step = pl.col(VALUE).is_finite(), pl.col(VALUE), pl.col("_step")
    bad = values.filter(~is_finite).group_by(RUN_NUMBER, maintain_order=True).agg(step.first(), pl.len())
    for number, first, count in bad.iter_rows():
        yield number, "non-finite", f"{label} from step {first} on, {counted(count, 'value')}"
    of_runs = values.filter(is_finite).group_by(RUN_NUMBER, maintain_order=True)
    if "loss" in words(label):
        for numbers, of_run in of_runs:
            if count := spike_count(of_run[VALUE].to_numpy()):
                yield cast("int", numbers[0]), "spikes", f"{label}, {count}"
    if goal is None:
        return
    where = value.arg_min() if goal == "minimize" else value.arg_max()
    best, last = value.get(where).alias("best"), value.last().alias("last")
    share, span = ((where + 1) / pl.len()).alias("share"), (value.max() - value.min()).alias("span")
    is_validation = not VALIDATION.isdisjoint(re.split(r"[^a-z0-9]+", label.lower()))
    facts = of_runs.agg(best, step.get(where), last, share, span)
    for number, top_, at, end, early, width in facts.iter_rows():
        detail = f"{label} {top_:.4g} at step {at}, ends at {end:.4g}"
        if goal == "minimize" and top_ > 0 and end > DIVERGED * top_:
            yield number, "diverged", detail
        if is_validation and abs(end - top_) > PAST_BEST * width and early <= EARLY_SHARE:
            yield number, "past its best", detail


def spike_count(values: NDArray[Any]) -> int:
    """How many values exceed the median of the hundred around them by ten median absolute deviations."""
    import numpy as np

    if len(values) < SPIKE_WINDOW:
        return 0
    count, middle = 0, SPIKE_WINDOW // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, SPIKE_WINDOW)
    at_once = CELLS_AT_ONCE // SPIKE_WINDOW
    for start in range(0, len(windows), at_once):
        block = windows[start : start + at_once]
        medians = np.median(block, axis=1)
        deviations = np.median(np.abs(block - medians[:, None]), axis=1)
        count += int(((block[:, middle] - medians > SPIKE_DEVIATIONS * deviations) & (deviations > 0)).sum())
    return count


def problems_of_runs(runs: Runs, keys: pl.DataFrame, logged: set[int]) -> Iterator[tuple[int, str, str]]:
    """Runs without a metric, with NaN or infinity in a summary without history, crashed, failed, or ended early."""
    metrics = metric_columns(runs)
    needed = {"state": pl.String, "group": pl.String, "last_step": pl.Int64, "history_rows": pl.Int64}
    facts = [pl.col(c) if c in runs.dtypes else pl.lit(None, dtype).alias(c) for c, dtype in needed.items()]
    rows = collected(runs.frame.select(*KEY, *facts, *metrics), "in-memory")
    rows = keys.join(rows, on=KEY, how="left", nulls_equal=True, maintain_order="left")
    unlogged, step = rows.filter(~pl.col(RUN_NUMBER).is_in([*logged])), pl.col("last_step")
    has_any = pl.any_horizontal(pl.col("history_rows").fill_null(0) > 0, *(pl.col(c).is_not_null() for c in metrics))
    for number in unlogged.filter(~has_any)[RUN_NUMBER]:
        yield number, "no metric", "neither in summary nor history"
    for column in metrics:
        for number in unlogged.filter(~pl.col(column).is_finite())[RUN_NUMBER]:
            yield number, "non-finite", f"{runs.label(column)} in the summary"
    broken = rows.filter(in_states(["crashed", "failed"]))
    for number, state, last in broken.select(RUN_NUMBER, "state", step).iter_rows():
        yield number, state.lower(), "before a step was logged" if last is None else f"at step {last}"
    of_group, of_project = ["entity", "project", "group"], ["entity", "project"]
    has_peers = pl.col("group").is_not_null() & (step.count().over(of_group) >= FEWEST_PEERS)
    enough = step.count().over(of_project) >= FEWEST_PEERS
    median = pl.when(has_peers).then(step.median().over(of_group)).when(enough).then(step.median().over(of_project))
    ended = rows.with_columns(median.alias(VALUE)).filter(~in_states(["running", "pending", "preempting"]))
    early = ended.filter((step < STOPPED_SHARE * pl.col(VALUE)) & (pl.col(VALUE) > 0))
    for number, last, usual in early.select(RUN_NUMBER, step, VALUE).iter_rows():
        yield number, "stopped early", f"at step {last} of {usual:g} (its peers' median)"


# --- statistics -----------------------------------------------------------------------------------------------


def group_statistics(
    runs: Runs, by: Sequence[str], metric: Metric, stat: str = "mean", step: str | None = None
) -> pl.DataFrame:
    """A row of statistics per group, and its best run; null where nothing can be said. The interval is that of `stat`.

    Computed in memory, where sums come out alike every time. No filter stands inside the aggregations: there polars 2.1
    can return values of other groups.
    """
    value, n = pl.col(FINITE), pl.col(FINITE).count().cast(pl.Int64)
    best_run = dict(zip((*KEY_OF_BEST, "best_run"), map(pl.col, (*KEY, "name")), strict=True))
    best_run |= {"best_step": pl.col(step)} if step else {}
    numbers = {VALUE: pl.col(metric.column), FINITE: finite(metric.column)}
    rows = collected(runs.frame.select(*by, **numbers, **best_run), "in-memory")
    counts = {"runs": pl.len().cast(pl.Int64), "n": n, "n_nonfinite": pl.col(VALUE).count().cast(pl.Int64) - n}
    statistics = {"mean": value.mean(), "std": value.std(ddof=1)}
    statistics |= {"min": value.min(), "median": value.median(), "max": value.max()}
    statistics |= {} if stat == "mean" else {VALUE: value}
    table = with_intervals(rows.group_by(by).agg(**counts, **statistics).sort(by))
    if stat != "mean":
        bounds = [bootstrap(values.drop_nulls().sort().to_list(), stat) for values in table[VALUE]]
        columns = dict.fromkeys((stat, "ci_low", "ci_high"), pl.Float64)
        table = table.drop(VALUE).with_columns(pl.DataFrame(bounds, schema=columns, orient="row").get_columns())
    best = table.select(*by, pl.col("min" if metric.goal == "minimize" else "max").alias(FINITE)).drop_nulls(FINITE)
    first = rows.join(best, on=[*by, FINITE], how="semi", nulls_equal=True).sort(KEY_OF_BEST).unique(by, keep="first")
    table = table.join(first.drop(VALUE, FINITE), on=by, how="left", nulls_equal=True)
    return table.with_columns(pl.col(KEY_OF_BEST[2]).alias("best_run_id"))


def finite(column: str) -> pl.Expr:
    """A column's values with null for NaN and infinities, so that they neither count nor rank."""
    return pl.when(pl.col(column).is_finite()).then(pl.col(column))


def with_intervals(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with the standard error of the mean and the mean's interval; null where n is below 2."""
    quantiles = {n: t_quantile(n - 1) for n in table["n"].unique() if n > 1}
    margin = pl.col("sem") * pl.col("n").replace_strict(quantiles, default=None, return_dtype=pl.Float64)
    return table.with_columns((pl.col("std") / pl.col("n").sqrt()).alias("sem")).with_columns(
        (pl.col("mean") - margin).alias("ci_low"), (pl.col("mean") + margin).alias("ci_high")
    )


def bootstrap(values: Sequence[float], stat: str) -> tuple[float | None, float | None, float | None]:
    """The median or iqm of some values and its 95 % interval by the percentile bootstrap.

    The iqm is the mean of the middle half: a quarter of the values, rounded down, is cut off at each end.
    """
    import numpy as np

    if not values:
        return None, None, None
    cut_off = len(values) // 4

    def statistic(samples: NDArray[Any]) -> NDArray[Any]:
        if stat == "median":
            return cast("NDArray[Any]", np.median(samples, axis=1))
        middle = np.sort(samples, axis=1)[:, cut_off : len(values) - cut_off]
        return cast("NDArray[Any]", middle.mean(axis=1))

    sample = np.asarray(values, dtype=float)
    estimate = float(statistic(sample[None, :])[0])
    if len(sample) < FEWEST_RESAMPLED:
        return estimate, None, None
    random = np.random.default_rng(SEED)
    at_once = max(1, CELLS_AT_ONCE // len(sample))
    sizes = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    found = [statistic(sample[random.integers(0, len(sample), (size, len(sample)))]) for size in sizes]
    low, high = np.quantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return estimate, float(low), float(high)


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, for Student's t with `freedom` degrees.

    >>> round(t_quantile(4), 6), round(t_quantile(10_000), 6)
    (2.776445, 1.960201)
    """
    low, high = 0.0, 100.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_test_p(middle**2, freedom) > 1 - CONFIDENCE else (low, middle)
    return low


def t_test_p(t_squared: float, freedom: float) -> float:
    """P(|T| > t) for Student's t: the incomplete beta function I_x(f / 2, 1 / 2) at x = f / (f + t²)."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t_squared), t_squared / (freedom + t_squared))


def welch_p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The p-value of Welch's t-test from mean, standard deviation and n of two groups; None if neither varies."""
    (mean_a, std_a, n_a), (mean_b, std_b, n_b) = one, other
    a, b = std_a**2 / n_a, std_b**2 / n_b
    if a + b == 0:
        return None
    freedom = (a + b) ** 2 / (a**2 / (n_a - 1) + b**2 / (n_b - 1))  # by Welch and Satterthwaite
    return t_test_p((mean_a - mean_b) ** 2 / (a + b), freedom)


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularized incomplete beta function I_x(a, b), where rest is 1 - x, without its rounding error.

    The continued fraction of Abramowitz & Stegun 26.5.8, by Lentz' method; beyond it I_x(a, b) = 1 - I_rest(b, a).
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, rest, x)
    smallest = 1e-300  # in place of a denominator of 0
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or smallest)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or smallest)
            c = (1 + term / c) or smallest
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    front = a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) * fraction / a


# --- renderers: results in, text out --------------------------------------------------------------------------


def table_text(results: Sequence[Result], *, width: int, colours: bool) -> str:
    """Tables for a terminal, each with its title and notes, no wider than `width`."""

    def styled(line: str, style: str) -> str:
        return f"\x1b[{style}m{line}\x1b[0m" if colours and line else line

    lines: list[str] = []
    for result in results:
        columns, dropped = fitted(result.view(), width)
        gap = " " * (2 if sum(column.width + 2 for column in columns) - 2 <= width else 1)
        if colours:
            columns = linked(columns, result.links, "\x1b]8;;{url}\x1b\\{name}\x1b]8;;\x1b\\")
            for n, column in enumerate(columns):
                best = [i for i, cell in enumerate(column.cells) if result.key == "pivot" and ROW_BEST in cell[-2:]]
                best = [0] if result.key in ONE_TABLE else best
                cells = [styled(cell, BOLD) if i in best else cell for i, cell in enumerate(column.cells)]
                columns[n] = column._replace(cells=cells)
        lines += [""] if lines else []
        lines += [styled(line, BOLD) for line in wrapped(result.title, width)]
        if columns and columns[0].cells:
            row, rule = tabulate.DataRow("", gap, ""), tabulate.Line("", "─", "─" * len(gap), "")
            head, *rest = made_table(columns, tabulate.TableFormat(None, rule, None, None, row, row, 0, None))
            lines += [styled(head.rstrip(), BOLD), *rest]
        if colours and result.sparks:
            names = short_names([printable(name) for name, _ in result.sparks], WIDE)
            lines += [f"{name:<{WIDE}}  {shape}" for name, (_, shape) in zip(names, result.sparks, strict=True)]
        lines += [styled(line, DIM) for note in (*result.notes, *left_off(dropped)) for line in wrapped(note, width)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def made_table(columns: Sequence[TableColumn], form: Any) -> list[str]:
    """The lines of a table of cells that are text already, by tabulate."""
    rows = [*zip(*(column.cells for column in columns), strict=True)]
    align = ["left" if column.is_text else "right" for column in columns] if rows else None
    heads = [column.label for column in columns]
    made = tabulate.tabulate(rows, heads, tablefmt=form, colalign=align, disable_numparse=True)
    return str(made).splitlines() if columns else []


def escaped(columns: Iterable[TableColumn], escape: Callable[[str], str]) -> list[TableColumn]:
    return [c._replace(label=escape(c.label), cells=[*map(escape, c.cells)]) for c in columns]


def linked(columns: Sequence[TableColumn], links: Sequence[str | None], form: str) -> list[TableColumn]:
    """`columns`, the first one's cells with links, if these can be followed without harm: a URL is data, too."""
    if not links or not columns:
        return [*columns]
    pairs = zip(columns[0].cells, links, strict=False)
    safe = r"https?://[\w./?=&%:+@~#-]+"
    cells = [form.format(url=url, name=name) if re.fullmatch(safe, url or "") else name for name, url in pairs]
    return [columns[0]._replace(cells=cells), *columns[1:]]


def wrapped(text: str, width: int) -> list[str]:
    """A sentence in lines of at most `width` characters, broken between words where that is possible."""
    return textwrap.wrap(printable(text), width, break_on_hyphens=False)


def view_column(values: pl.Series, label: str, null: str = "-") -> TableColumn:
    """Values as people read them."""
    spell = float_format(values.drop_nulls().to_list()) if values.dtype.is_float() else cell_text
    cells = [null if value is None else spell(value) for value in values.to_list()]
    return TableColumn(printable(label), cells, is_text=not values.dtype.is_numeric())


def float_format(values: Sequence[float]) -> Callable[[float], str]:
    """How to spell the numbers of a column, their points below each other: four significant digits of the largest.

    The smallest has three at least; more where fewer would make different numbers look alike. Where four digits say
    all, as for most settings, each number stands as it is.

    >>> [float_format([0.01234567, 0.1])(x) for x in (0.01234567, 0.1)], float_format([0.001, 1e-4])(1e-4)
    (['0.0123', '0.1000'], '0.0001')
    >>> float_format([0.123451, 0.123452])(0.123451)
    '0.123451'
    """
    usable = {value for value in values if math.isfinite(value)}
    sizes = [math.floor(math.log10(abs(value))) for value in usable if value]
    if not sizes or all(float(f"{value:.4g}") == value for value in usable):
        return cell_text
    least, most = min(sizes), max(sizes)
    lines_up = most - least <= 2 and -5 < least < 7  # else too far apart, too small or too large
    spells: list[Callable[[float], str]] = []
    for digits in range(4, MOST_DIGITS + 1):
        form = f".{max(0, digits - 1 - most, digits - 2 - least)}f" if lines_up else f".{digits}g"
        spells.append(f"{{:{form}}}".format)
        if len({spells[-1](value) for value in usable}) == len(usable):
            return spells[-1]
    return spells[0]


def cell_text(value: object) -> str:
    """A single value as people read it; of numbers nothing is lost.

    >>> cell_text(0.001), cell_text(True), cell_text(["a", "b"]), cell_text(None), cell_text(0.12345678)
    ('0.001', 'true', 'a, b', 'null', '0.12345678')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value or not math.isfinite(value) else repr(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    return ", ".join(map(cell_text, value)) if isinstance(value, list) else printable(str(value))


def exact_text(value: object) -> str | None:
    """A value as text that loses nothing, for tables whose cells are of several types."""
    return value if value is None or isinstance(value, str) else json_text(value).strip('"')


def bounded(result: Result, most: int | None) -> Result:
    """`result` with as many rows as people want to see, or take by default, and a note on those left out."""
    most = result.most_rows if most is None else most
    columns = result.view()
    height = len(columns[0].cells) if columns else 0
    if not most or height <= most:
        return result
    shown = [column._replace(cells=column.cells[:most]) for column in columns]
    note = f"{counted(height - most, 'more row')}: --max-rows 0 shows all"
    return replace(result, view=lambda: shown, notes=(*result.notes, note))


def fitted(columns: Sequence[TableColumn], width: int) -> tuple[list[TableColumn], list[str]]:
    """Columns shortened to fit `width` together, and the labels of those for which there is no room."""
    widths: dict[int, int] = {}
    second = columns[1].least_width(NARROW) + 1 if len(columns) > 1 else 0  # a metric, where the first is a name
    for i, column in enumerate(columns):
        least = column.least_width(NARROW if widths else min(WIDE, max(width - second, 1)))
        if not widths or sum(widths.values()) + len(widths) + least <= width:  # with a blank between columns
            widths[i] = min(least, width)
    spare = width - sum(widths.values()) - len(widths) + 1
    for i in sorted(widths, key=lambda i: (i > 0, columns[i].width)):  # what is left makes columns whole: the first,
        more = max(0, min(spare, columns[i].width - widths[i]))  # then as many as it can
        widths[i] += more
        spare -= more
    short = {i: (shortened(columns[i].label, n), short_names(columns[i].cells, n)) for i, n in widths.items()}
    fitting = [columns[i]._replace(label=label, cells=cells) for i, (label, cells) in short.items()]
    return fitting, [column.label for i, column in enumerate(columns) if i not in widths]


def left_off(names: Sequence[str]) -> list[str]:
    """A note on columns for which the page is too narrow."""
    return [f"no room for {some_of(names, 3)}: --columns chooses, --json and -o hold all"] if names else []


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Names within `width` terminal cells, so that what differs stays visible: words that all share go first.

    >>> short_names(["stage2_gnn_all_s0", "stage2_gnn_all_s1"], 8)
    ['…s0', '…s1']
    """
    if len({*names}) > 1 and max(map(cell_count, names)) > width:
        words_ = [re.findall(r"[^_/. ,=-]*[_/. ,=-]|[^_/. ,=-]+$", name) for name in names]
        shared = [len({*place}) == 1 for place in zip(*words_, strict=False)]
        if len({*map(len, words_)}) > 1:  # words stand at the same place from the start only
            shared = [*itertools.takewhile(bool, shared)]
        kept = [["\0" if i < len(shared) and shared[i] else word for i, word in enumerate(of)] for of in words_]
        names = [re.sub("\0+", ELLIPSIS, "".join(of)) for of in kept]
    return [shortened(name, width) for name in names]


def shortened(text: str, width: int) -> str:
    """`text` within `width` terminal cells: its middle goes, as names differ at their ends.

    >>> shortened("stage2c_filter_bank_s3", 12)
    'stage…ank_s3'
    """
    if cell_count(text) <= width:
        return text
    head, tail = text[: (width - 1) // 2], text[-(width // 2) :] if width > 1 else ""
    while cell_count(head + ELLIPSIS + tail) > max(width, 1):  # wide characters take two cells
        head, tail = (head[:-1], tail) if len(head) > len(tail) else (head, tail[1:])
    return head + ELLIPSIS + tail


def cell_count(text: str) -> int:
    """How many terminal cells `text` takes: an ideogram or emoji takes two."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    width = wcswidth(text)
    return width if width >= 0 else len(text)


def markdown_text(results: Sequence[Result]) -> str:
    """Tables for pull requests and notes: the columns that a terminal shows, in full length."""
    lines: list[str] = []
    for result in results:
        columns = result.view()
        notes = [*result.notes, *left_off([column.label for column in columns[MARKDOWN_COLUMNS:]])]
        table = made_table(escaped(columns[:MARKDOWN_COLUMNS], markdown), "pipe")
        lines += [f"**{markdown(result.title)}**", "", *table, *([""] if notes else [])]
        lines += [*(f"- {markdown(note)}" for note in notes), ""]
    return "\n".join(lines)


def markdown(text: str) -> str:
    r"""`text` as Markdown that shows it literally; underlines within words are harmless.

    >>> print(markdown("[red]a|b *c* snake_case _d_"))
    \[red]a\|b \*c\* snake_case \_d\_
    """
    return re.sub(r"([\\`*|<\[~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))


def latex_text(results: Sequence[Result]) -> str:
    """Tables for a paper, with booktabs: the columns that a terminal shows, in full length; the best cells bold."""
    lines = ["% needs \\usepackage{booktabs}"]
    for result in results:
        first, rest = result.view()[:1], result.view()[1:]
        marked = [c._replace(label=latex(c.label), cells=[latex(cell, marked=True) for cell in c.cells]) for c in rest]
        columns = escaped(first, latex) + (marked if result.key == "pivot" else escaped(rest, latex))
        rules = iter((r"\toprule", r"\midrule", r"\bottomrule"))
        table = [next(rules) if line == r"\hline" else line for line in made_table(columns, "latex_raw")]
        lines += [f"% {printable(result.title)}", *table, *(f"% {printable(note)}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def latex(text: str, *, marked: bool = False) -> str:
    r"""`text` as LaTeX that prints it literally; a pivot's best cell of a row is bold, of a column underlined.

    >>> print(latex("50% of a_b"), latex("0.5 ± 0.1 (3)*", marked=True))
    50\% of a\_b \textbf{0.5 $\pm$ 0.1 (3)}
    """
    marks = text[len(text.rstrip(ROW_BEST + COLUMN_BEST)) :] if marked else ""
    plain = printable(text.removesuffix(marks))
    cell = "".join(LATEX.get(c, c if ord(c) <= LATIN else f"{{[}}U+{ord(c):04X}{{]}}") for c in plain)
    cell = f"\\textbf{{{cell}}}" if ROW_BEST in marks else cell
    return f"\\underline{{{cell}}}" if COLUMN_BEST in marks else cell


def json_document(results: Sequence[Result]) -> dict[str, object]:
    """All results as one object: the rows of each question under its key, at full precision."""
    rows: dict[str, list[Mapping[str, object]]] = {}
    for result in results:
        rows.setdefault(result.key, []).extend(result.table.to_dicts() if result.rows is None else result.rows)
    return {"version": JSON_VERSION, **rows}


def json_text(document: object) -> str:
    """`document` as valid JSON: NaN and infinities as strings, times as ISO text in UTC.

    >>> json_text({"loss": float("nan"), "at": datetime(2026, 1, 2, tzinfo=UTC)})
    '{"loss": "NaN", "at": "2026-01-02T00:00:00Z"}'
    """
    text = json.dumps(jsonable(document), ensure_ascii=False, allow_nan=False)
    return re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", text)  # terminals may obey these


def jsonable(value: object) -> object:
    """`value` with what JSON lacks replaced, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def csv_text(table: pl.DataFrame) -> str:
    """A table as CSV at full precision, safe to open in a spreadsheet.

    Control characters are replaced, and text that would be a formula begins with an apostrophe: -1e-3 is a number.
    """
    nested = [column for column, dtype in table.schema.items() if dtype.is_nested()]
    flat = table.with_columns(pl.Series(name, map(json_text, table[name].to_list())) for name in nested)
    clean = pl.col(pl.String).str.replace_all(r"[\p{Cc}--\t\r\n]", "\N{REPLACEMENT CHARACTER}")
    formula = clean.str.contains(r"^[=+\-@\t\r]") & ~clean.str.contains(r"^-\d+(\.\d+)?([eE][+-]?\d+)?$")
    safe = pl.when(formula).then("'" + clean).otherwise(clean).name.keep()
    heads = pl.DataFrame({"head": table.columns}, {"head": pl.String}).select(safe)["head"]
    harmless = flat.with_columns(safe).rename(dict(zip(table.columns, heads, strict=True)))
    return harmless.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.fZ")


# --- renderers: pictures and pages ----------------------------------------------------------------------------


def write_picture(results: Sequence[Result], at: Path, ending: str, say: Say) -> None:
    """Draw one result: as PNG, SVG, or a page with the SVG in it that needs no network."""
    import vl_convert

    drawable = [result for result in results if result.chart and result.table.height]
    if not drawable:
        raise ScriptError(f"there is nothing to draw; pictures show {', '.join(ONE_PICTURE)}", WRONG_USAGE)
    result, *others = chosen_result(drawable, ONE_PICTURE, say)
    if others:
        say(f"one picture fits; left out: {some_of([other.title for other in others])}")
    if ending == ".png":
        at.write_bytes(vl_convert.vegalite_to_png(chart_json(result, INK), scale=2))
    elif ending == ".svg":
        at.write_text(vl_convert.vegalite_to_svg(chart_json(result, INK)), encoding="utf-8")
    else:
        at.write_text(html_page(result.title, html_section(result)), encoding="utf-8")


def chart_json(result: Result, ink: str) -> str:
    """A Vega-Lite chart of a result: with its title on white, or in a page's ink and without either."""
    spec, beyond = result.chart() if result.chart else ({}, "")
    text = {"labelColor": ink, "titleColor": ink, "labelLimit": 400}
    axis = {**text, "titleLimit": 400, "titleFontWeight": "normal", "domainColor": ink, "tickColor": ink}
    axis |= {"gridColor": ink, "gridOpacity": 0.15}
    title = {"color": ink, "anchor": "start", "fontSize": 13}
    config = {"axis": axis, "title": title, "legend": {**text, "symbolLimit": 40}, "view": {"stroke": None}}
    alone: dict[str, Any] = {"background": "transparent"}
    if ink == INK:
        alone = {"background": "white", "title": wrapped(result.title + beyond, 80)}
    schema_ = "https://vega.github.io/schema/vega-lite/v5.json"
    return json_text({"$schema": schema_, **spec, **alone, "config": config})


def channel(name: str, measure: str = "quantitative", **more: object) -> dict[str, Any]:
    """How a column of the drawn rows is shown."""
    return {"field": name, "type": measure, "title": None, **more}


def drawn_rows(rows: pl.DataFrame, options: Options, most: int | None = None) -> tuple[list[dict[str, Any]], str]:
    """The rows with a finite `value` that a picture can show, ranked; what it leaves out, as a clause."""
    usable, beyond = rows.filter(pl.col("value").is_finite()), ""
    if options.log:
        positive_ = usable.filter(pl.col("value") > 0)
        if positive_.height < usable.height:
            beyond = f"; {usable.height - positive_.height} not above 0 cannot be drawn"
        bounds = [name for name in ("ci_low", "ci_high") if name in rows.columns]
        usable = positive_.with_columns(pl.when(pl.col(name) > 0).then(pl.col(name)) for name in bounds)
    if most and usable.height > most:
        beyond = f"; the first {most} of {usable.height} are drawn{beyond}"
    return usable.head(most or usable.height).with_row_index("rank").to_dicts(), beyond


def layers_of(
    axis: Literal["x", "y"], value: Mapping[str, Any], mark: object, span: object, rest: Mapping[str, Any], columns: Any
) -> list[dict[str, Any]]:
    """The marks of the values along an axis, and where `columns` have intervals, the marks of these."""
    layers: list[dict[str, Any]] = [{"mark": mark, "encoding": {axis: channel("value", **value), **rest}}]
    if "ci_low" in columns:
        ends = {axis: channel("ci_low", **value), f"{axis}2": {"field": "ci_high"}, **rest}
        layers.append({"transform": [{"filter": "isValid(datum.ci_low)"}], "mark": span, "encoding": ends})
    return layers


def points_chart(
    names: Sequence[str], table: pl.DataFrame, title: str, options: Options, stat: str = "value"
) -> tuple[dict[str, Any], str]:
    """A point per run or group, with its interval where it has one; the best on top."""
    bounds = [name for name in ("ci_low", "ci_high") if name in table.columns]
    shown = table.select(pl.Series("name", names, dtype=pl.String), pl.col(stat).alias("value"), *bounds)
    rows, beyond = drawn_rows(shown, options, MOST_DRAWN)
    texts = json.dumps([shortened(printable(row["name"]), LABEL_WIDTH) for row in rows])
    y = channel("rank", "ordinal", axis={"labelExpr": f"{texts}[datum.value]"})  # two rows may have one name
    value = {"title": title, "scale": {"type": "log"} if options.log else {"zero": False}}
    point = {"type": "point", "filled": True, "size": 70, "opacity": 1}
    layers = layers_of("x", value, point, {"type": "rule", "strokeWidth": 2, "color": BLUE}, {"y": y}, bounds)
    return {"data": {"values": rows}, "layer": layers, "width": PICTURE_WIDTH, "height": {"step": 20}}, beyond


def pivot_chart(cells: pl.DataFrame, options: Options) -> tuple[dict[str, Any], str]:
    """A field per cell, coloured by its mean, with mean and n in it."""
    spell = float_format(cells["mean"].to_list())
    texts = [f"{spell(mean)} ({n})" for mean, n in cells.select("mean", "n").iter_rows()]
    names = {new: [*map(cell_text, cells[old].to_list())] for old, new in (("rows", "down"), ("columns", "across"))}
    rows, beyond = drawn_rows(pl.DataFrame({**names, "value": cells["mean"], "text": texts}), options)
    values = [row["value"] for row in rows] or [1.0]
    middle = math.sqrt(min(values) * max(values)) if options.log else (min(values) + max(values)) / 2
    ink = {"condition": {"test": f"datum.value > {middle}", "value": "white"}, "value": "black"}
    x = channel("across", "nominal", sort=None, axis={"labelAngle": 0, "orient": "top"})
    place = {"x": x, "y": channel("down", "nominal", sort=None)}
    colour = channel("value", title="mean", scale={"scheme": "blues"} | ({"type": "log"} if options.log else {}))
    layers = [
        {"mark": "rect", "encoding": {**place, "color": colour}},
        {"mark": "text", "encoding": {**place, "text": {"field": "text"}, "color": ink}},
    ]
    return {"data": {"values": rows}, "layer": layers, "width": {"step": 110}, "height": {"step": 30}}, beyond


def curves_chart(
    lines: Sequence[pl.DataFrame], names: Sequence[str], what: str, options: Options
) -> tuple[dict[str, Any], str]:
    """A line per group with the band of its interval, or a line per run. Values far beyond all others are cut off."""
    texts = short_names([printable(name) for name in names[:MOST_LINES]], LABEL_WIDTH)
    bounds = [name for name in ("ci_low", "ci_high") if name in lines[0].columns]
    columns = "x", pl.col(VALUE).alias("value"), *bounds
    shown = [line.select(pl.lit(name).alias("name"), *columns) for name, line in zip(texts, lines, strict=False)]
    rows, beyond = drawn_rows(pl.concat(shown), options)
    label, _, over = what.partition(" over ")
    scale: dict[str, Any] = {"type": "log"} if options.log else {"zero": False}
    if rows and not options.log:
        numbers = pl.Series([row["value"] for row in rows])
        low, middle, high = (cast("float", numbers.quantile(share)) for share in (0.02, 0.5, 0.9))
        least, most, width = min(numbers), max(numbers), max(high - low, abs(middle) * 1e-3, 1e-300)
        if most > high + 20 * width or least < low - 20 * width:  # all other values would be a flat line
            scale["domain"] = [max(least, low - width), min(most, high + width)]
    legend = {"orient": "bottom", "columns": 2, "symbolOpacity": 1}
    rest = {"x": channel("x", title=over), "color": channel("name", "nominal", sort=None, legend=legend)}
    line, band = {"type": "line", "strokeWidth": 1.8, "clip": True}, {"type": "area", "opacity": 0.15, "clip": True}
    layers = layers_of("y", {"title": label, "scale": scale}, line, band, rest, bounds)
    if len(names) > MOST_LINES:
        beyond = f"; the first {MOST_LINES} of {len(names)} are drawn{beyond}"
    return {"data": {"values": rows}, "layer": layers, "width": PICTURE_WIDTH, "height": 300}, beyond


def html_page(title: str, body: str) -> str:
    """A page that stands alone: no script, nothing from the network, light or dark as the reader has it."""
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    head += f"<title>{html.escape(printable(title))}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body><main>{body}</main></body></html>\n"


def html_section(result: Result, most: int | None = None) -> str:
    """A result as a heading, its picture where it has one, its table with at most `most` rows, and its notes."""
    import vl_convert

    picture = ""
    if result.chart and result.table.height:
        picture = f"<figure>{vl_convert.vegalite_to_svg(chart_json(result, 'currentColor'))}</figure>"
    result = bounded(result, most)
    links = [html.escape(url) if url else None for url in result.links]
    columns = linked(escaped(result.view(), html.escape), links, "<a href='{url}'>{name}</a>")
    table = "\n".join(made_table(columns, "unsafehtml"))
    notes = "".join(f"<p class='note'>{html.escape(printable(note))}</p>" for note in result.notes)
    heading = html.escape(printable(result.title))
    return f"<section><h2>{heading}</h2>{picture}<div class='wide'>{table}</div>{notes}</section>\n"


def write_report(file: Path, study: Study, options: Options) -> None:
    """Write a page, or Markdown: the best runs, groups, a pivot, curves, what was varied, as asked or as suggested."""
    by = [*study.by] or suggested_grouping(study.runs)
    study, names = study._replace(by=by), options.curves
    results = [overview(study)]
    if study.metrics:
        results += top(study, options, options.top or REPORT_TOP)
        results += groups(study, options) if by else []
        pair = options.pivot or (tuple(by) if len(by) == 2 else ())
        results += pivot(study._replace(metrics=study.metrics[:1]), replace(options, pivot=pair)) if pair else []
        names = names or curves_like(study.metrics[0], study.runs)
    results += curves(study, replace(options, curves=names)) if names else []
    results += [*health(study, options), *varied(study, options)]
    results += [associations(study.runs, study.metrics[0])] if study.metrics and not options.curves else []
    title = printable(f"Runs of {some_of([*map(str, study.everything.files)], FEW)}")
    if file.suffix.lower() == ".md":
        text = markdown_text([bounded(result, options.max_rows) for result in results])
        page = f"# {markdown(title)}\n\n{text}"
    else:
        sections = [html_section(result, options.max_rows) for result in results]
        page = html_page(title, "".join([f"<h1>{html.escape(title)}</h1>", *sections]))
    with replacing(file) as partial:
        partial.write_text(page, encoding="utf-8")
    if options.format != "json":
        print(file)
    elif not options.output:
        print(json_text({**json_document(results), "files": [str(file)]}))


def curves_like(metric: Metric, runs: Runs) -> tuple[str, ...]:
    """The metric to draw curves of where none is named: this metric's validation, else its training, else itself."""
    there = [metric_label(part, c) for part in history_files(runs) for c in part.dtypes if c.startswith("metric_")]
    own = words(re.sub(r" \(.*", "", metric.label))
    tiers = VALIDATION, {"train", "training"}, {*own}
    found = (name for tier in tiers for name in there if own[-1] in words(name) and tier & {*words(name)})
    return tuple(itertools.islice(found, 1))


# --- output ---------------------------------------------------------------------------------------------------


def deliver(results: Sequence[Result], options: Options, say: Say) -> None:
    """Write the file that was asked for, and show what is to be shown."""
    output, for_programs = options.output, options.format in {"json", "csv"}
    if sys.stdout is None and output is None:
        hint = "the answer has no place to go; open it, or name a file with -o"
        raise ScriptError(f"stdout is closed: {hint}", NOTHING_USABLE)
    shows = sys.stdout is not None and (output is None or options.format == "json" or sys.stdout.isatty())
    if not shows or for_programs:  # no table for people, which would say them
        for line in (line for result in results for line in (result.title, *result.notes)):
            say(line)
    if output:
        ending = output.suffix.lower()
        form = FILE_FORMATS[ending]
        with replacing(output) as partial:
            if form == "parquet":
                mark = {RESULT_KEY: str(JSON_VERSION)}
                one_table(results, say).write_parquet(partial, compression="zstd", statistics=True, metadata=mark)
            elif form == "picture":
                write_picture(results, partial, ending, say)
            else:
                whole = chosen_result(results, ONE_TABLE, say) if form == "latex" else results
                partial.write_text(text_of(whole, form, say), encoding="utf-8")
    if shows:
        most, files = options.max_rows, {"files": [str(output)]} if output else {}
        if for_programs and most:
            shown = [replace(r, table=r.table.head(most), rows=r.rows and r.rows[:most]) for r in results]
        else:
            shown = [*results] if for_programs else [bounded(result, most) for result in results]
        sys.stdout.write(text_of(shown, options.format, say, **files))
    if output and options.format != "json":
        print(output)


def text_of(results: Sequence[Result], form: str, say: Say, **more: object) -> str:
    """The results as text, in any of the formats of --format; `more` goes into the JSON."""
    match form:
        case "json":
            return json_text({**json_document(results), **more}) + "\n"
        case "csv":
            return csv_text(one_table(results, say))
        case "markdown":
            return markdown_text(results)
        case "latex":
            return latex_text(results)
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return table_text(results, width=shutil.get_terminal_size((LINE_WIDTH, 24)).columns, colours=colours)


def chosen_result(results: Sequence[Result], keys: Sequence[str], say: Say) -> list[Result]:
    """The results for a format that holds one question, of the first of `keys` that there is; the rest is named."""
    there = list(dict.fromkeys(result.key for result in results))
    key = next(key for key in (*keys, *there) if key in there)
    if others := [other for other in there if other != key]:
        say(f"one table fits: {key}; left out: {', '.join(others)}")
    return [result for result in results if result.key == key]


def one_table(results: Sequence[Result], say: Say) -> pl.DataFrame:
    """The table for formats that hold one: the groups if there are any, else the best runs; the rest is named."""
    return pl.concat([result.table for result in chosen_result(results, ONE_TABLE, say)], how="vertical_relaxed")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A hidden name beside `file` to write to: renamed over `file` once it is whole, removed on failure."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb+") as whole:
            os.fsync(whole.fileno())
        unfinished.replace(file)
    except OSError as error:
        reason = error.strerror or str(error).partition(" (os error")[0]  # polars would name the unfinished file
        hint = "free the place or choose another with -o"
        raise ScriptError(f"{file} was not written: {reason}; {hint}", NOTHING_USABLE) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def printable(text: str) -> str:
    """`text` on one line, with control characters and direction overrides made visible: names are data.

    >>> printable(chr(27) + "[31m[red]") == chr(65533) + "[31m[red]"
    True
    """
    return "".join(c if c.isprintable() or c == ZERO_WIDTH_JOINER else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- command line ---------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str]) -> Options:  # noqa: PLR0915 - a list of flags
    """The command line as options: the flags, in the manual's order."""
    parser = Parser(__doc__ or "")
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="runs files, or folders that hold some")

    add = parser.add_argument_group("questions (several at once are welcome; none: an overview)").add_argument
    many: dict[str, Any] = {"action": "extend", "default": [], "type": lambda text: comma_separated([text])}
    flag: dict[str, Any] = {"action": "store_true"}
    add("-t", "--top", type=positive, metavar="N", help="the N best runs and how they differ")
    add("-g", "--group-by", **many, metavar="A,B", help="statistics per value of these columns")
    add("--pivot", **many, metavar="ROWS,COLUMNS", help="mean ± std (n) per combination of values")
    add("--curves", **many, metavar="METRIC", help="over the steps, per run or by --group-by")
    add("--varying", **flag, help="which config columns vary, their values, the grid's holes")
    add("--diff", nargs="+", default=[], metavar="RUN", help="what differs between runs, by id or name")
    add("--importance", **flag, help="which settings go with the metric")
    add("--health", **flag, help="NaN, divergence, spikes, runs that crashed or stopped early")
    add("--schema", **flag, help="the columns, what they hold and how completely")
    add("--sql", metavar="QUERY", help="a SELECT over the views runs and history, in DuckDB's SQL")
    add("--report", type=Path, metavar="FILE", help="all of it as one page: FILE.html or FILE.md")

    add = parser.add_argument_group("groups").add_argument
    add("--stat", choices=("mean", "median", "iqm"), default="mean", help="what groups are compared by (default: mean)")
    add("--best-per", **many, metavar="A,B", help="first keep each one's best setting, by its mean over seeds")

    add = parser.add_argument_group("curves and pictures").add_argument
    add("--x", metavar="AXIS", help="step, runtime, time or a metric (default: its step metric, else step)")
    add("--best-so-far", **flag, help="each run's best value up to there")
    add("--smooth", type=float, metavar="W", help="W&B's exponential moving average, 0 <= W < 1")
    add("--points", type=positive, metavar="N", help=f"of a curve (default: {CURVE_POINTS}; pictures {PICTURE_POINTS})")
    add("--log", **flag, help="pictures with a logarithmic value axis")

    group = parser.add_argument_group("metric")
    what = "what is compared (repeatable; --top takes the first)"
    group.add_argument("-m", "--metric", **many, dest="metrics", metavar="NAME", help=what)
    of_run = "of each run (default: the summary's; others: aggregate_runs --history)"
    group.add_argument("--value", choices=tuple(VALUES), default="summary", help=of_run)
    goal = group.add_mutually_exclusive_group()
    goal.add_argument("--ascending", dest="goal", action="store_const", const="minimize", help="lower is better")
    goal.add_argument("--descending", dest="goal", action="store_const", const="maximize", help="higher is better")

    add = parser.add_argument_group("which runs").add_argument
    add("-f", "--filter", dest="name_pattern", metavar="REGEX", help="runs whose name matches, in any case")
    add("--where", metavar="SQL", help="a predicate: \"config_lr < 0.01 AND created_at >= '2026-01-31'\"")
    lower = {**many, "type": lambda text: comma_separated([text.lower()]), "dest": "states", "metavar": "STATE"}
    add("-s", "--state", **lower, help="runs in this state, or all (default: finished, or all where none is)")

    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", type=Path, metavar="FILE", help=f"write to FILE{', '.join(FILE_FORMATS)}")
    add("--columns", **many, metavar="A,B", help="show these columns, of the runs or of the statistics")
    add("--max-rows", type=not_negative, metavar="N", help="show at most N rows of each table (0: all)")
    formats = ("table", "json", "csv", "markdown", "latex")
    add("--format", choices=formats, default="table", help="of stdout (default: table)")
    add("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    add("--quiet", **flag, help="nothing on stderr but errors")
    add("--debug", **flag, help="show the traceback of an error")

    args = vars(parser.parse_strictly(argv))
    del args["debug"]
    # An input that was named after --diff's runs is no run.
    files = [name for name in args["diff"] if name.endswith(".parquet") or Path(name).is_dir()]
    args["inputs"] += [Path(name) for name in files]
    args["diff"] = [name for name in args["diff"] if name not in files]
    if (args["diff"] or files) and len(args["diff"]) < 2:
        raise ScriptError("--diff needs two runs or more, by id or name", WRONG_USAGE)
    if args["sql"] is not None and (args["name_pattern"] or args["where"] or args["states"]):
        raise ScriptError("--sql asks all runs: put the condition into its WHERE", WRONG_USAGE)
    for state in args["states"]:
        if state not in {*STATES, "all"}:
            near = did_you_mean(state, [*STATES, "all"]) or f"; there are all, {', '.join(STATES)}"
            raise ScriptError(f"--state {state}: no such state{near}", WRONG_USAGE)
    for flag_, endings in (("output", [*FILE_FORMATS]), ("report", [".html", ".md"])):
        if args[flag_] and args[flag_].suffix.lower() not in endings:
            raise ScriptError(f"--{flag_} {args[flag_]}: the name must end in {' or '.join(endings)}", WRONG_USAGE)
    if not 0 <= (args["smooth"] or 0) < 1:
        raise ScriptError(f"--smooth {args['smooth']:g} is no number from 0 on, below 1", WRONG_USAGE)
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in args.items()}
    return Options(**fields)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help is the manual, and whose errors are one line that names the nearest flag."""

    def __init__(self, manual: str) -> None:
        super().__init__(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The parsed command line; an unknown argument is a ScriptError."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            flags = re.findall(r"--[a-z][a-z-]+", self.format_help())
            name = unknown[0].partition("=")[0]  # what follows may be a key
            raise ScriptError(f"unknown argument {name}{did_you_mean(name, flags)}; --help lists all", WRONG_USAGE)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise ScriptError(f"{message}; --help shows how it is used", WRONG_USAGE)


def comma_separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of a flag that repeats or takes commas.

    >>> comma_separated(["a,b", "c"])
    ('a', 'b', 'c')
    """
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def import_libraries() -> None:
    """Import what takes time, once the command line is right."""
    global pl, tabulate
    import polars as pl
    import tabulate

    tabulate.MIN_PADDING = 0  # heads take no more room than they need


def analyze(options: Options) -> int:
    """Answer what was asked."""

    def say(message: str) -> None:
        if not options.quiet:
            with suppress(BrokenPipeError):  # nobody reads it; the work goes on
                print(printable(message), file=sys.stderr)

    import_libraries()
    parts, remarks, damaged = choose_inputs(options.inputs)
    everything = join_inputs(parts)
    output = options.output or options.report
    if output and is_runs_file(output):
        raise ScriptError(f"-o {output} holds runs, which would be lost; choose another name", WRONG_USAGE)
    for line in remarks:
        say(line)
    any_state, runs = select_runs(options, everything, say)
    metrics = chosen_metrics(options, runs)
    study = Study(everything, any_state, runs, (), metrics, say)
    for line in (line for metric in metrics for line in remarks_on_metric(metric, study, options)):
        say(line)
    if options.best_per:
        runs = best_settings(runs, options, required(metrics)[0], say)
    runs, by = grouping(options.group_by, runs, say)
    study = study._replace(runs=runs, by=by)
    if options.report is None or options.output:
        results = [result for name in asked_questions(options) for result in QUESTIONS[name](study, options)]
        deliver(results or introduction(study, options), options, say)
    if options.report:
        write_report(options.report, study, options)
    return PARTIAL if damaged else OK


QUESTIONS: dict[str, Callable[[Study, Options], list[Result]]] = {"schema": schema, "sql": sql, "health": health}
QUESTIONS |= {"varying": varied, "diff": difference, "top": top, "groups": groups, "pivot": pivot}
QUESTIONS |= {"importance": importance, "curves": curves}
NEED_METRIC = {"top", "groups", "pivot", "importance"}


def asked_questions(options: Options) -> list[str]:
    """The questions of the command line, in the order in which they are answered."""
    asked = {"groups": options.group_by and not options.curves, "sql": options.sql is not None}
    return [name for name in QUESTIONS if asked.get(name, getattr(options, name, False))]


def is_runs_file(file: Path) -> bool:
    """Whether `file` exists and holds runs."""
    try:
        return file.is_file() and open_file(file).holds_runs
    except ScriptError:  # no parquet file
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names that the terminal's encoding lacks
    try:
        code = analyze(parse_args(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - each becomes a message
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = NOTHING_USABLE, f"a bug in this script: {error!r}; run it again with --debug and report it"
        if isinstance(error, ScriptError):
            code, message = error.exit_code, str(error)
        elif isinstance(error, OSError):
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; see to it and run again"
        print(f"error: {printable(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
