#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "altair>=6,<7",
#   "numpy>=2,<3",
#   "polars>=2.1,<3",
#   "rich>=15,<16",
#   "vl-convert-python>=1.8,<2",
# ]
# ///
"""Answer questions about W&B runs: which are best, which settings are better, what was tried, how it went.

Reads the runs files that export_runs.py writes, or the one file that aggregate_runs.py makes of many. Where no
input is named: analysis/unified.parquet if it is newer than every export in wandb_export/, else the newest
export there. Where no question is asked: an overview, the best runs and a first comparison.

Examples:
  uv run wandb-tools/analyze_runs.py
  uv run wandb-tools/analyze_runs.py wandb_export/ --schema
  uv run wandb-tools/analyze_runs.py --top 10 --metric test/mse
  uv run wandb-tools/analyze_runs.py --group-by stage,arch --metric test/mse --state all
  uv run wandb-tools/analyze_runs.py --group-by model.k --filter 'stage2.*gnn' --json | jq '.groups[0]'
  uv run wandb-tools/analyze_runs.py --group-by arch -o results.csv
  uv run wandb-tools/analyze_runs.py --group-by '!seed' --where "config_optim_lr < 0.1"
  uv run wandb-tools/analyze_runs.py --best-per arch --group-by arch --stat iqm
  uv run wandb-tools/analyze_runs.py --pivot stage,arch -o table.tex
  uv run wandb-tools/analyze_runs.py --curves val/mse --group-by arch -o curves.svg
  uv run wandb-tools/analyze_runs.py --varying --importance
  uv run wandb-tools/analyze_runs.py --diff RUN RUN
  uv run wandb-tools/analyze_runs.py --report report.html

Names: a column or metric goes by its column (metric_test_mse), its W&B name (test/mse) or its flattened name
(test_mse). A metric of which define_metric keeps only the minimum, maximum, mean or last value is found too.

Best: lower or higher, as --ascending or --descending say, else as the stored goal says (define_metric, a
sweep), else as the metric's name suggests; the reason is printed. NaN and infinities are counted, never
averaged, never best.

Groups: runs counts a group's runs, n those with a finite value; std has n - 1 in its denominator; sem is the
standard error of the mean; ci_low and ci_high bound the mean's 95 percent interval by Student's t. Runs without
a value of a column are a group of their own, null. A table shows what fits; json, csv and parquet hold all.
--group-by takes columns, '!seed' for all settings that vary but the seed, and lr:4 for four ranges of about equal
size. --best-per arch first keeps each arch's best setting, by its mean over seeds. --stat median or iqm compares by
these, with percentile bootstrap intervals (10,000 resamples, seeded).

Curves need the histories (export_runs --include-history), which are found beside the inputs. At each point a run
stands with its last value up to there, from its first to its last step: nothing is extrapolated, and n is told.
--value min, max, last, tail or at compares runs by what aggregate_runs --history computed instead of the summary.

Importance is association, not cause: for numbers the square of Spearman's rho, for categories the eta squared of
Kruskal and Wallis' test, with a permutation p-value; too few runs give no ranking.

Exit codes:
  0    answered
  1    nothing usable: no input, unreadable input, no run left (the filter that left none is named)
  2    wrong usage: an unknown flag, column or metric, or inputs that do not fit together
  130  interrupted
"""

from __future__ import annotations

import argparse
import difflib
import html
import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias, cast

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

COLUMNS_KEY = "wandb_tools.columns"  # keys of the parquet files' key-value metadata
METRICS_KEY = "wandb_tools.metrics"
RESULT_KEY = "wandb_tools.result"  # marks an answer of analyze_runs: its rows may look like runs, but are no input
JSON_VERSION = 1

UNIFIED_FILE = Path("analysis/unified.parquet")  # where the default input is looked for
EXPORT_FOLDER = Path("wandb_export")

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
KEY = ("entity", "project", "id")  # what makes a run unique
RUN_COLUMNS = {*KEY, "name", "state", "created_at"}  # what makes a file a runs file
IDENTITY = (
    *("id", "name", "state", "entity", "project", "created_at", "heartbeat_at", "runtime_s", "last_step"),
    *("history_rows", "tags", "group", "job_type", "sweep", "user", "notes", "commit", "url", "exported_at"),
    *("source_file", "_config_json", "_summary_json"),
)
KINDS = ("metric", "derived", "config", "history", "identity")  # of columns, what most want to know first
DERIVED = ("stage", "arch", "model_type", "protocol", "k", "lr_parsed", "wd_parsed", "eps_parsed")  # in this order
SUMMARIES = {"min": "minimum", "max": "maximum", "last": "last value", "mean": "mean"}  # of define_metric
DEFAULT_METRIC = "metric_test_mse"
DEFAULT_METRIC_WORDS = ({"test", "testing"}, {"val", "valid", "validation", "eval"})  # then any other

VALUES = {  # which value stands for a run: the summary's, or one that aggregate_runs --history computed
    "summary": "summary",
    "min": "lowest of its history",
    "max": "highest of its history",
    "last": "last of its history",
    "tail": "mean of its history's last tenth",
    "at": "at the best step",
}

CONFIDENCE = 0.95
RESAMPLES, PERMUTATIONS, SEED = 10_000, 2_000, 0  # of the bootstrap and of the permutation test
CELLS_AT_ONCE = 4_000_000  # numbers held at once while resampling: 32 MB
FEWEST_RUNS = 10  # below, an association is chance
MOST_RUNS = 20_000  # that the permutation test looks at
TRIMMED = 0.25  # of the values at either end, which an interquartile mean leaves out
EXACT_T_UP_TO = 1000  # degrees of freedom; past it the expansion is right to 11 digits, the series slow
STATISTICS = (
    *("runs", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high", "min", "median", "max"),
    *("best_run", "best_run_id"),
)
# Columns of our own; those of the contract have other names.
FINITE, VALUES_OF, MEAN, RUN_NUMBER, BIN, NAME = "_finite", "_values", "_mean", "_run", "_bin", "_name"
HISTORY_COLUMNS = {"run_id", "entity", "project", "_step"}  # what makes a file a history
CURVE_POINTS, PICTURE_POINTS = 13, 200
MOST_CURVES, MOST_ROWS_OF_CURVES = 8, 30
PICTURES = (".png", ".svg", ".html")
PICTURE_WIDTH, LABEL_WIDTH, MOST_DRAWN, MOST_LINES = 420, 48, 40, 10
INK, BLUE = "#222222", "#4c78a8"
REPORT_TOP = 10
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: Canvas; color: CanvasText }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem }
figure { margin: .5rem 0 } svg { max-width: 100%; height: auto; overflow: visible }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .87rem }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; white-space: nowrap }
th { font-weight: 600 } .number { text-align: right; font-variant-numeric: tabular-nums }
.note { color: GrayText; font-size: .87rem; margin: .3rem 0 }
"""
SHOWN_BOOTSTRAP = ("ci_low", "ci_high", "min", "max", "best_run")
SHOWN_STATISTICS = ("n", "mean", "std", "min", "median", "max", "best_run")  # what fits 80 columns

FEW = 3  # runs: fewer may differ in everything
# Words of a setting's name that tell where or when a run ran, and not what was tried.
NOISE = {"path", "paths", "dir", "dirs", "directory", "folder", "filename", "url", "host", "hostname", "cwd"}
NOISE |= {"timestamp", "datetime", "date", "pid", "uuid", "logdir"}
MOST_SAID = 10  # of a list on stderr
MOST_ABREAST = 3  # cells of a pivot that 80 columns have room for
MOST_VALUES = 8  # of a setting, in a line
MOST_ON_AN_AXIS, MOST_COMBINATIONS = 12, 10_000  # of a grid: settings with more values were drawn at random
ROW_BEST, COLUMN_BEST = "*", "°"  # marks in a pivot
OVERVIEW_TOP = 5
SUGGESTED_GROUPS = 12  # more are no overview
SUGGESTED_NAMES = 5  # where no name is near; --schema lists all
MOST_GROUPS, MOST_PROJECTS, MOST_COLUMNS = 20, 8, 48  # rows that people see by default: about 4 kB in all
FILE_FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".md": "markdown",
    ".tex": "latex",
    ".png": "picture",
    ".svg": "picture",
    ".html": "picture",
}
LINE_WIDTH = 80  # where no terminal says otherwise
ONE_TABLE, ONE_PICTURE = ("groups", "top"), ("curves", "pivot", "groups", "top")  # what a format that holds one takes
NARROW, WIDE = 12, 24  # what a shortened text keeps at least: any column, the first one
MARKDOWN_COLUMNS = 14  # a page scrolls sideways, but not for ever
BOLD, DIM = "1", "2"  # styles of a terminal
ELLIPSIS = "…"
LATIN = 0x24F  # the last character that LaTeX prints from UTF-8 without a further package
LATEX = {  # characters that mean something to LaTeX
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "…": r"\ldots{}",
    "°": r"\textdegree{}",
    "[": "{[}",
    "]": "{]}",
    '"': r"\textquotedbl{}",
}
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
    varying: bool
    diff: tuple[str, ...]
    importance: bool
    curves: tuple[str, ...]
    x: str | None
    best_so_far: bool
    points: int | None
    report: Path | None
    metrics: tuple[str, ...]
    value: str  # which value stands for a run: see VALUES
    goal: Goal | None
    name_pattern: str | None
    where: str | None
    states: tuple[str, ...]  # empty: all
    states_given: bool  # not merely the default
    columns: tuple[str, ...]
    max_rows: int | None  # 0: all
    format: str
    output: Path | None
    quiet: bool


@dataclass(frozen=True)
class Runs:
    """A lazy frame with one row per run, and what its files say about the columns."""

    frame: pl.LazyFrame
    dtypes: Mapping[str, pl.DataType]
    paths: Mapping[str, KeyPath]
    goals: Mapping[str, Goal]
    axes: Mapping[str, str] = field(default_factory=dict)  # metrics to the step metrics that define_metric gave them

    def label(self, column: str) -> str:
        """How people know a column: its W&B name, or the column's own."""
        return ".".join(self.paths[column]) if column in self.paths else column


class Metric(NamedTuple):
    """A column of numbers and which of them are better."""

    column: str
    label: str
    goal: Goal
    why: str  # who says so
    remarks: tuple[str, ...] = ()  # what the user should know about the choice of the column

    @property
    def direction(self) -> str:
        """What a reader wants to know about the goal."""
        return f"{'lower' if self.goal == 'minimize' else 'higher'} is better ({self.why})"


class Filter(NamedTuple):
    """Which runs stay, and how the user asked for it."""

    flag: str
    keeps: pl.Expr
    by_default: bool = False  # nobody asked for it


@dataclass(frozen=True)
class Result:
    """The answer to a question: a table of everything, and how to show it to people."""

    key: str  # in JSON
    title: str
    table: pl.DataFrame
    shown: Sequence[str]  # the columns for people, in order; those at the end are the first to go
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    null: str = "-"  # how people see a missing value
    whole: str = ""  # the column that is not shortened, so that it can be copied
    for_people: pl.DataFrame | None = None  # instead of the table, where another shape reads better
    rows: Sequence[Mapping[str, object]] | None = None  # for JSON, where the table's columns hold texts of all types
    numbers: bool = False  # whether what people see after the first column are numbers, which are not shortened
    most_rows: int | None = None  # for people, unless they ask for another number
    share_rows_by: str | None = None  # where rows are left out, each value of this column keeps its share


class Page(NamedTuple):
    """What tables are shown on."""

    width: int
    colours: bool


class ShownColumn(NamedTuple):
    """A column of a result as people see it."""

    label: str
    cells: Sequence[str]
    is_text: bool
    is_whole: bool

    @property
    def cell_width(self) -> int:
        """The terminal cells that the longest value takes."""
        return max(map(cell_count, self.cells), default=1)

    @property
    def width(self) -> int:
        """The terminal cells that the column takes in full."""
        return max(cell_count(self.label), self.cell_width)

    def least_width(self, enough: int) -> int:
        """The terminal cells below which the column says too little; numbers are never shortened."""
        if self.is_whole:
            return self.width
        return min(self.width, enough) if self.is_text else max(self.cell_width, min(self.width, enough))

    def shortened(self, width: int) -> ShownColumn:
        """The column within `width` terminal cells."""
        return self._replace(label=shortened(self.label, width), cells=[shortened(cell, width) for cell in self.cells])


# --- inputs ---------------------------------------------------------------------------------------------------


def choose_inputs(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The runs files to read, and what to say about the choice."""
    if not places:
        return default_input()
    found = {file.resolve(): file for place in places for file in parquet_files(place)}
    chosen = [file for file in found.values() if holds_runs(file)]
    if not chosen:
        raise ScriptError(
            f"no runs in {', '.join(map(str, places))}: name a runs file of export_runs.py or aggregate_runs.py, "
            "or a folder that holds one",
            NOTHING_USABLE,
        )
    others = len(found) - len(chosen)
    return chosen, [f"{counted(others, 'parquet file')} without runs passed over"] if others else []


def default_input() -> tuple[list[Path], list[str]]:
    """The file to read where none is named: the unified one, unless an export is newer."""
    present = parquet_files(EXPORT_FOLDER) if EXPORT_FOLDER.is_dir() else []
    exports = [file for file in present if holds_runs(file)]
    newest = max(exports, key=modified, default=None)
    if UNIFIED_FILE.is_file() and (newest is None or modified(UNIFIED_FILE) >= modified(newest)):
        return [UNIFIED_FILE], [f"reading {UNIFIED_FILE}"]
    if newest is None:
        raise ScriptError(
            f"no input: here is neither {UNIFIED_FILE} nor an export in {EXPORT_FOLDER}{os.sep}; "
            "name a file, or run export_runs.py first",
            NOTHING_USABLE,
        )
    rank = f"the newest of {len(exports)} exports there" if len(exports) > 1 else "the export there"
    hint = "; aggregate_runs.py makes one file of all" if len(exports) > 1 else ""
    stale = f"{UNIFIED_FILE} is older and was passed over: run aggregate_runs.py again"
    return [newest], [f"reading {newest}, {rank}{hint}", *([stale] if UNIFIED_FILE.is_file() else [])]


def parquet_files(place: Path) -> list[Path]:
    """`place` itself, or the parquet files below it; hidden ones are unfinished or not for readers."""
    if place.is_dir():
        found = sorted(place.rglob("*.parquet"))
        return [file for file in found if not any(part[0] == "." for part in file.relative_to(place).parts)]
    if not place.exists():
        raise ScriptError(f"{place} does not exist; name a parquet file or a folder of them", NOTHING_USABLE)
    return [place]


def modified(file: Path) -> float:
    """When a file was last written, in seconds since 1970."""
    return file.stat().st_mtime


def holds_runs(file: Path) -> bool:
    """Whether a parquet file holds runs, by its columns: a file's name says nothing for sure."""
    with reading(file):
        columns = pl.scan_parquet(file, glob=False).collect_schema().keys()
        return columns >= RUN_COLUMNS and RESULT_KEY not in pl.read_parquet_metadata(file)


def open_inputs(files: Sequence[Path]) -> Runs:
    """The runs of several files as one; they have to fit together as they are."""
    parts = {file: open_file(file) for file in files}
    if len(parts) == 1:
        return next(iter(parts.values()))
    refuse_clashes(parts)
    frame = pl.concat([part.frame for part in parts.values()], how="diagonal_relaxed")
    refuse_duplicates(frame)
    return Runs(
        frame=frame,
        dtypes=frame.collect_schema(),
        paths={column: path for part in parts.values() for column, path in part.paths.items()},
        goals=agreed_goals(list(parts.values())),
    )


def open_file(file: Path) -> Runs:
    """The runs of one file; nothing but its footer is read yet."""
    with reading(file):
        metadata = pl.read_parquet_metadata(file)
        frame = pl.scan_parquet(file, glob=False)  # a file's name is no pattern
        dtypes = frame.collect_schema()
        paths = json.loads(metadata.get(COLUMNS_KEY, "{}"))
        metrics = json.loads(metadata.get(METRICS_KEY, "{}"))
    goals = {
        column: facts["goal"] for column, facts in metrics.items() if facts.get("goal") in {"minimize", "maximize"}
    }
    axes = {column: facts["step_metric"] for column, facts in metrics.items() if facts.get("step_metric")}
    return Runs(frame, dtypes, {column: tuple(path) for column, path in paths.items()}, goals, axes)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Translate what goes wrong with a file into one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ScriptError(
            f"{file} cannot be read as parquet: {reason}; export it again or leave it out", NOTHING_USABLE
        ) from error


def refuse_clashes(parts: Mapping[Path, Runs]) -> None:
    """Raise where a column means one thing in one file and another in the next."""
    first: dict[str, tuple[Path, pl.DataType, KeyPath | None]] = {}
    for file, part in parts.items():
        for column, dtype in part.dtypes.items():
            if dtype == pl.Null:  # no value: fits everything
                continue
            path = part.paths.get(column)
            earlier, known_dtype, known_path = first.setdefault(column, (file, dtype, path))
            if dtype != known_dtype:
                clash = f"is {known_dtype} in {earlier}, {dtype} in {file}"
            elif path and known_path and path != known_path:
                clash = f"is {json.dumps(known_path)} in {earlier}, {json.dumps(path)} in {file}"
            else:
                continue
            raise ScriptError(f"{column} {clash}; make one file of them with aggregate_runs.py", WRONG_USAGE)


def refuse_duplicates(frame: pl.LazyFrame) -> None:
    """Raise where a run is in more than one file: it would count twice."""
    twice = collected(frame.group_by(KEY).len().filter(pl.col("len") > 1).sort(KEY))
    if twice.height:
        path = "/".join(twice.row(0)[: len(KEY)])
        raise ScriptError(
            f"{twice.height} runs are in several inputs, {path} among them; "
            "make one file of them with aggregate_runs.py",
            WRONG_USAGE,
        )


def agreed_goals(parts: Sequence[Runs]) -> dict[str, Goal]:
    """The stored goals on which all files agree that have one."""
    told: dict[str, set[Goal]] = {}
    for part in parts:
        for column, goal in part.goals.items():
            told.setdefault(column, set()).add(goal)
    return {column: goals.pop() for column, goals in told.items() if len(goals) == 1}


def collected(frame: pl.LazyFrame, engine: Literal["streaming", "in-memory"] = "streaming") -> pl.DataFrame:
    """The rows of `frame`: where the files are really read."""
    try:
        return frame.collect(engine=engine)
    except (pl.exceptions.ComputeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ScriptError(f"the input is damaged: {reason}; export it again", NOTHING_USABLE) from error


# --- columns by name ------------------------------------------------------------------------------------------


def find_column(name: str, runs: Runs) -> str:
    """The column that a user names; a config before a metric of that name."""
    return known_column(name, runs, ("config_", "metric_")) or unknown("column", name, runs, list(runs.dtypes))


def known_column(name: str, runs: Runs, prefixes: Sequence[str]) -> str | None:
    """The column called `name`: by its column, its W&B name or its flattened name, in this order."""
    if name in runs.dtypes:
        return name
    by_length = sorted(runs.paths, key=lambda column: len(runs.paths[column]))  # ["a.b"] before ["a", "b"]
    for prefix in prefixes:
        for column in by_length:
            if column.startswith(prefix) and column in runs.dtypes and runs.label(column) == name:
                return column
    return next((prefix + name for prefix in prefixes if prefix + name in runs.dtypes), None)


def unknown(what: str, name: str, runs: Runs, columns: Sequence[str]) -> NoReturn:
    """Raise with the nearest names, else the best-covered ones, in the form in which the user wrote."""
    as_column = name.startswith(("config_", "metric_"))
    names = {column: column if as_column else runs.label(column) for column in columns}
    hint = did_you_mean(name, names.values())
    if not hint:
        settings = [column for column in columns if kind(column) in {"derived", "config"}]
        there = [names[column] for column in by_coverage(settings or columns, runs)[:SUGGESTED_NAMES]]
        hint = f"; there are {', '.join(there)}" if there else ""
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


# --- metrics and their direction ------------------------------------------------------------------------------


def chosen_metrics(options: Options, runs: Runs) -> list[Metric]:
    """The metrics that the user names, else the default one; none where there is none, or no use for one."""
    if not needs_metric(options):
        return []
    if options.metrics and options.value != "summary":
        return [find_history_value(name, runs, options) for name in options.metrics]
    if options.metrics:
        return [find_metric(name, runs, options.goal) for name in options.metrics]
    column = default_metric(runs)
    if column is not None and options.value != "summary":
        return [find_history_value(column, runs, options)]
    if column is None:
        return []
    metric = with_direction(column, runs, options.goal)
    return [metric._replace(remarks=(f"metric: {metric.label} (--metric chooses another)",))]


def needs_metric(options: Options) -> bool:
    """Whether some question is about a metric; where there is no question at all, the overview is."""
    grouped = options.group_by and not options.curves
    asked = options.top is not None or grouped or options.pivot or options.best_per or options.importance
    others = options.schema or options.varying or options.diff or options.curves
    return bool(asked or options.report or not others)


def find_history_value(name: str, runs: Runs, options: Options) -> Metric:
    """The column that aggregate_runs computed from the histories of the metric called `name`."""
    column = known_column(name, runs, ("metric_",)) or name
    plain = re.sub(r"[^A-Za-z0-9_]", "_", column.removeprefix("metric_"))
    ending = "" if column in runs.dtypes else f"; {name} is no metric of the histories"
    found = f"history_{options.value}_{plain}"
    if found not in runs.dtypes:
        there = any(kind(known) == "history" for known in runs.dtypes)
        near = did_you_mean(
            plain, [c.removeprefix(f"history_{options.value}_") for c in runs.dtypes if kind(c) == "history"]
        )
        flag = " and --at METRIC" if options.value == "at" else ""
        how = near or ending if there else f"; aggregate_runs --history{flag} adds such columns"
        raise ScriptError(f"--value {options.value}: there is no column {found}{how}", WRONG_USAGE)
    label = runs.label(column) if column in runs.paths else name
    goal = options.goal or runs.goals.get(column) or goal_by_name(label)
    if goal is None:
        return with_direction(found, runs, options.goal)  # which refuses, and says what to do
    why = "as asked" if options.goal else "its stored goal" if column in runs.goals else "by its name"
    return Metric(found, f"{label} ({VALUES[options.value]})", goal, why)


def find_metric(name: str, runs: Runs, flag: Goal | None) -> Metric:
    """The metric called `name`, or the one of its summaries that fits its goal."""
    column = known_column(name, runs, ("metric_", "config_"))
    if column is None:
        return find_summary(name, runs, flag)
    if not runs.dtypes[column].is_numeric():
        raise ScriptError(
            f"{runs.label(column)} holds {runs.dtypes[column]}, no numbers; --group-by takes it, --metric does not",
            WRONG_USAGE,
        )
    return with_direction(column, runs, flag)


def find_summary(name: str, runs: Runs, flag: Goal | None) -> Metric:
    """A metric's minimum or maximum, as its goal wants; else its last value, its mean, or what there is."""
    found = [(child, known_column(f"{name}{mark}{child}", runs, ("metric_",))) for mark in "_." for child in SUMMARIES]
    columns = {child: column for child, column in found if column}
    if not columns:
        unknown("metric", name, runs, metric_columns(runs))
    stored = [runs.goals[column] for column in columns.values() if column in runs.goals]
    goal = flag or next(iter(stored), None) or goal_by_name(name)
    best = {"minimize": "min", "maximize": "max", None: "last"}[goal]
    child = next(child for child in (best, "last", "mean", *SUMMARIES) if child in columns)
    metric = with_direction(columns[child], runs, flag)
    remark = f"{name} has no value of its own: {metric.label}, its {SUMMARIES[child]}, is used"
    return metric._replace(remarks=(remark,))


def with_direction(column: str, runs: Runs, flag: Goal | None) -> Metric:
    """A metric with its goal: the user's, else the stored one, else the one that its name suggests."""
    label = runs.label(column)
    by_name = goal_by_name(label)
    if flag:
        return Metric(column, label, flag, "as asked")
    if column in runs.goals:
        return Metric(column, label, runs.goals[column], "its stored goal")
    if by_name:
        return Metric(column, label, by_name, "by its name")
    raise ScriptError(
        f"whether lower or higher is better cannot be read off the name {label}; say --ascending where lower is, "
        "--descending where higher is",
        WRONG_USAGE,
    )


def default_metric(runs: Runs) -> str | None:
    """The metric to use where none is named: of the test set if there is one, the best covered of those."""
    named = {column: runs.label(column) for column in metric_columns(runs)}
    readable = {
        column: set(words(label)) for column, label in named.items() if column in runs.goals or goal_by_name(label)
    }
    tiers = [[column for column in readable if column == DEFAULT_METRIC]]
    tiers += [[column for column, told in readable.items() if wanted & told] for wanted in DEFAULT_METRIC_WORDS]
    tiers += [list(readable)]
    return next((column for tier in tiers for column in by_coverage(tier, runs)), None)


def by_coverage(columns: Sequence[str], runs: Runs) -> list[str]:
    """The columns that have values, those with the most first; of numbers the finite ones count."""
    if not columns:
        return []
    values = [finite(column) if runs.dtypes[column].is_numeric() else pl.col(column) for column in columns]
    counts = dict(zip(columns, collected(runs.frame.select(each.count() for each in values)).row(0), strict=True))
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


def chosen_filters(options: Options, runs: Runs) -> list[Filter]:
    """The filters that the user asked for, in the order in which they apply."""
    filters = []
    if options.states:
        keeps = pl.col("state").is_in(options.states)
        filters.append(Filter(f"--state {','.join(options.states)}", keeps, by_default=not options.states_given))
    if options.name_pattern is not None:
        filters.append(Filter(f"--filter {options.name_pattern}", name_matches(options.name_pattern)))
    if options.where is not None:
        filters.append(Filter(f"--where {options.where}", sql_predicate(options.where, runs)))
    return filters


def sql_predicate(predicate: str, runs: Runs) -> pl.Expr:
    """The condition that an SQL predicate over the columns means; ScriptError where it means none."""
    flag = f"--where {predicate}"
    try:
        keeps = pl.sql_expr(with_columns_named(predicate, runs))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        hint = 'text stands in single quotes, and a column called like an SQL word in double ones: "group"'
        raise ScriptError(f"{flag} is no SQL predicate: {reason}; {hint}", WRONG_USAGE) from error
    for column in keeps.meta.root_names():
        if column not in runs.dtypes:
            near = did_you_mean(column, runs.dtypes) or "; text stands in single quotes"
            raise ScriptError(f"{flag}: there is no column {column}{near}", WRONG_USAGE)
    try:
        dtype = pl.DataFrame(schema=dict(runs.dtypes)).select(keeps).dtypes[0]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        hint = "a time is compared with DATE('2026-01-31')"
        raise ScriptError(f"{flag} does not fit the columns: {reason}; {hint}", WRONG_USAGE) from error
    if dtype != pl.Boolean:
        raise ScriptError(f"{flag} is no predicate: it gives {dtype}, not true or false", WRONG_USAGE)
    return keeps


def with_columns_named(predicate: str, runs: Runs) -> str:
    """The predicate with W&B's names, such as `model.k` or `"test/mse"`, replaced by their columns; texts stay."""

    def column(found: re.Match[str]) -> str:
        name = found[0].strip('"')
        known = None if found[0].startswith("'") else known_column(name, runs, ("config_", "metric_"))
        return found[0] if known is None or known == name else f'"{known}"'

    return re.sub(r"""'(?:[^']|'')*'|"[^"]*"|[A-Za-z_][\w.]*""", column, predicate)


def name_matches(pattern: str) -> pl.Expr:
    """Whether a run's name holds what the pattern describes, without case."""
    expression = pl.col("name").str.contains(f"(?i){pattern}")
    try:
        pl.DataFrame({"name": [""]}).select(expression)
    except pl.exceptions.ComputeError as error:
        told = [line.removeprefix("error: ") for line in str(error).splitlines() if line.startswith("error: ")]
        reason = told[0] if told else "it cannot be read"
        raise ScriptError(f"--filter {pattern} is no regular expression: {reason}", WRONG_USAGE) from error
    return expression


def kept_runs(runs: Runs, filters: Sequence[Filter]) -> Runs:
    """The runs that pass every filter."""
    return replace(runs, frame=runs.frame.filter(*(chosen.keeps for chosen in filters)))


def accounted(runs: Runs, filters: Sequence[Filter]) -> list[str]:
    """How many runs each filter kept, a line each; an error where none is left, naming the filter."""
    passed = [pl.all_horizontal(f.keeps for f in filters[: i + 1]).sum().alias(str(i)) for i in range(len(filters))]
    counts = collected(runs.frame.select(pl.len(), *passed)).row(0)
    if not counts[0]:
        raise ScriptError("the input holds no runs; export some, or name another file", NOTHING_USABLE)
    lines = []
    for chosen, before, after in zip(filters, counts, counts[1:], strict=False):
        lines.append(f"{chosen.flag}: {after} of {counted(before, 'run')} kept")
        if not after:
            default = f"the default {chosen.flag} left none of {counted(before, 'run')}; --state all takes all"
            raise ScriptError(f"no run left: {default if chosen.by_default else lines[-1]}", NOTHING_USABLE)
    return lines


def dropped_results(runs: Runs, states: Sequence[str], metric: Metric) -> list[str]:
    """How many runs in other states hold the metric: a crashed run often has its final value."""
    if not states:
        return []
    other = ~pl.col("state").is_in(states)
    held = other & pl.col(metric.column).is_finite()
    dropped, with_metric = collected(runs.frame.select(other.sum().alias("dropped"), held.sum().alias("held"))).row(0)
    if not with_metric:
        return []
    return [f"{with_metric} of {counted(dropped, 'run')} in other states hold {metric.label} (--state all keeps them)"]


def diverged_histories(runs: Runs, metric: Metric) -> list[str]:
    """How many runs have NaN or infinity in their history: their lowest value may well be from before."""
    value, _, plain = metric.column.removeprefix("history_").partition("_")
    counts = f"history_n_nonfinite_{plain}"
    if value not in VALUES or counts not in runs.dtypes or not metric.column.startswith("history_"):
        return []
    number = collected(runs.frame.select((pl.col(counts) > 0).sum())).item()
    return [f"{counted(number, 'run')} reached NaN or infinity, and count by their finite values"] if number else []


# --- questions: runs in, a result out -------------------------------------------------------------------------


def answers(options: Options, everything: Runs, runs: Runs, metrics: Sequence[Metric], say: Say) -> list[Result]:
    """The results of the questions that were asked; `runs` are those of `everything` that passed the filters."""
    of_runs, of_groups = chosen_columns(options.columns, runs)
    if options.best_per:
        runs = best_settings(runs, options, required(metrics)[0], say)
    runs, by = grouping(options.group_by, runs, say)
    results = []
    if options.schema:
        results.append(schema(runs, of_runs))
    if options.varying:
        results += varied(runs)
    if options.diff:
        results.append(difference(everything, options.diff))
    if options.top is not None:
        results.append(top(runs, required(metrics), options.top, of_runs, whole=holds_all(options)))
    if by and not options.curves:
        results += [groups(runs, by, metric, of_groups, options.stat) for metric in required(metrics)]
    if options.pivot:
        results += [pivot(*grouping(options.pivot, runs, say), metric) for metric in required(metrics)]
    if options.importance:
        results += [importance(runs, metric) for metric in required(metrics)]
    results += [curves(runs, name, by, options) for name in options.curves]
    return results or introduction(everything, runs, metrics, of_runs)


def grouping(names: Sequence[str], runs: Runs, say: Say) -> tuple[Runs, list[str]]:
    """The columns to group by, `lr:4` and `!seed` understood; the runs with the bins that they need."""
    by: list[str] = []
    excluded = [find_column(name[1:], runs) for name in names if name.startswith("!")]
    for name in names:
        if name.startswith("!"):
            by += all_settings_but(excluded, runs, say) if name == next(n for n in names if n.startswith("!")) else []
            continue
        column, _, bins = name.rpartition(":")
        if bins.isdecimal() and int(bins) > 0 and known_column(name, runs, ("config_", "metric_")) is None:
            runs, binned = with_bins(find_column(column, runs), int(bins), runs)
            by.append(binned)
        else:
            by.append(find_column(name, runs))
    return runs, list(dict.fromkeys(by))


def all_settings_but(excluded: Sequence[str], runs: Runs, say: Say) -> list[str]:
    """The config columns that vary, but for `excluded` ones and those that merely tell runs apart, which is said."""
    table = collected_settings(runs)
    settings, noise = varying_settings(table, runs)
    candidates = [column for column in settings if column not in excluded]
    chosen = independent(table, candidates) if candidates else []
    left = ", ".join(map(runs.label, excluded))
    if not chosen:
        raise ScriptError(f"--group-by: no config column varies but {left}; name the columns to group by", WRONG_USAGE)
    say(f"grouped by all that varies but {left}: {', '.join(map(runs.label, chosen))}")
    if decided := [runs.label(column) for column in candidates if column not in chosen]:
        say(f"decided by these, and not shown: {', '.join(decided)}")
    if noise:
        say(f"left out, as they only tell runs apart: {', '.join(map(runs.label, noise))}")
    return chosen


def collected_settings(runs: Runs) -> pl.DataFrame:
    """The config columns of all runs that have more than one value; a missing one is none."""
    columns = [column for column in runs.dtypes if kind(column) == "config"]
    if not columns:
        return pl.DataFrame()
    distinct = [pl.col(column).n_unique() - pl.col(column).has_nulls().cast(pl.UInt32) for column in columns]
    counts = collected(runs.frame.select(distinct)).row(0, named=True)
    return collected(runs.frame.select(column for column in columns if counts[column] > 1))


def varying_settings(table: pl.DataFrame, runs: Runs) -> tuple[list[str], list[str]]:
    """The columns of `table` that are settings, and those that are noise: paths, hosts, times, text of one run each."""
    noise = [
        column
        for column in table.columns
        if not NOISE.isdisjoint(words(runs.label(column)))
        or (table[column].dtype == pl.String and table[column].n_unique() == table.height > FEW)
    ]
    return [column for column in table.columns if column not in noise], noise


def independent(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """As few of the columns as tell all their combinations apart: `data.nodes` goes where `data.name` decides it."""
    combinations = table.select(columns).unique()
    chosen = sorted(columns, key=lambda column: combinations[column].n_unique())
    if combinations.height <= MOST_COMBINATIONS:
        for column in list(chosen):  # those with the fewest values are the first to go
            rest = [other for other in chosen if other != column]
            if rest and combinations.select(rest).n_unique() == combinations.height:
                chosen = rest
    return [column for column in columns if column in chosen]


def with_bins(column: str, bins: int, runs: Runs) -> tuple[Runs, str]:
    """The runs with a further column: in which of `bins` ranges of about equal size a number lies."""
    if not runs.dtypes[column].is_numeric():
        raise ScriptError(f"--group-by {runs.label(column)}:{bins}: it holds no numbers to cut in ranges", WRONG_USAGE)
    quantiles = [finite(column).quantile(number / bins, "linear").alias(f"{number}") for number in range(1, bins)]
    edges = (
        sorted({edge for edge in collected(runs.frame.select(quantiles)).row(0) if edge is not None})
        if bins > 1
        else []
    )
    texts = [f"{edge:g}" for edge in edges]
    names = [f"to {text}" for text in texts[:1]] + [f"{low} to {high}" for low, high in pairwise(texts)]
    names += [f"over {text}" for text in texts[-1:]]
    name = f"{column}_bin"
    place = pl.sum_horizontal(pl.lit(0), *((pl.col(column) > edge).cast(pl.Int64) for edge in edges))
    texts_ = place.replace_strict(dict(enumerate(names or ["all"])), return_dtype=pl.String)
    binned = pl.when(pl.col(column).is_finite()).then(texts_).alias(name)
    paths = {**runs.paths, name: (f"{runs.label(column)} in {bins} ranges",)}
    return replace(
        runs, frame=runs.frame.with_columns(binned), dtypes={**runs.dtypes, name: pl.String()}, paths=paths
    ), name


def best_settings(runs: Runs, options: Options, metric: Metric, say: Say) -> Runs:
    """The runs of each group's best setting: the one with the best mean over its runs, which differ in their seeds."""
    runs, per = grouping(options.best_per, runs, say)
    table = collected_settings(runs)
    settings, _ = varying_settings(table, runs)
    settings = [c for c in settings if c not in per and "seed" not in words(runs.label(c))]
    settings = independent(table, settings) if settings else []
    if not settings:
        raise ScriptError(
            "--best-per: no config column but the seed varies, so there is nothing to choose", WRONG_USAGE
        )
    means = runs.frame.group_by(*per, *settings).agg(finite(metric.column).mean().alias(MEAN), pl.len().alias("runs"))
    keys = [*per, *settings]
    ranked = collected(means.filter(pl.col(MEAN).is_not_null())).sort(
        MEAN, *keys, descending=[metric.goal == "maximize", *(False for _ in keys)]
    )
    best = ranked.unique(per, keep="first", maintain_order=True)
    for row in best.head(MOST_SAID).iter_rows(named=True):
        chosen = ", ".join(f"{runs.label(c)} {cell_text(row[c])}" for c in settings if row[c] is not None)
        group = "/".join("null" if row[column] is None else cell_text(row[column]) for column in per)
        say(f"best of {group}: {chosen} (mean {row[MEAN]:.4g} of {counted(row['runs'], 'run')})")
    if differing := [runs.label(column) for column in settings if best[column].n_unique() > 1]:
        told = f"the best settings differ in {', '.join(differing)}"
        say(f"{told}; what is the task and no choice belongs into --best-per")
    kept = runs.frame.join(best.lazy().select(keys), on=keys, how="semi", nulls_equal=True)
    return replace(runs, frame=kept)


def required(metrics: Sequence[Metric]) -> Sequence[Metric]:
    """`metrics`, or an error where there is none."""
    if not metrics:
        raise ScriptError(
            "no metric has values and a name that tells which way is better; name one with -m", WRONG_USAGE
        )
    return metrics


def chosen_columns(names: Sequence[str], runs: Runs) -> tuple[list[str], list[str]]:
    """The columns of --columns: those of the runs, and those for a table of groups, which may name statistics."""
    columns = [name if name in STATISTICS else find_column(name, runs) for name in names]
    return [column for column in columns if column in runs.dtypes], columns


def introduction(everything: Runs, runs: Runs, metrics: Sequence[Metric], columns: Sequence[str]) -> list[Result]:
    """What to show to someone who asks nothing: the input, the best runs, a first comparison."""
    results = [overview(everything)]
    if metrics:
        by = suggested_grouping(runs)
        results.append(top(runs, metrics, OVERVIEW_TOP, columns))
        results += [groups(runs, by, metrics[0], ())] if by else []
    return results


# --- questions: the best runs ---------------------------------------------------------------------------------


def holds_all(options: Options) -> bool:
    """Whether the answer holds columns that people do not see: to read these takes its time."""
    return options.format in {"json", "csv"} or options.output is not None


def top(runs: Runs, metrics: Sequence[Metric], count: int, columns: Sequence[str], *, whole: bool = False) -> Result:
    """The best runs by the first metric, with `columns`, or else their settings; shown are those that vary.

    `whole` are all columns but the JSON texts. Runs without a finite value are no candidates. Equal values stand in the
    order of the runs' keys.
    """
    metric = metrics[0]
    best = best_runs(runs, metric, count)
    fixed = list(dict.fromkeys(["name", *(each.column for each in metrics), *KEY, "state"]))
    kinds = KINDS if whole else ("derived", "config")
    others = columns or [column for column in runs.dtypes if kind(column) in kinds and not column.startswith("_")]
    table = rows_of(best, runs, [*fixed, *(column for column in others if column not in fixed)])
    shown = columns or telling_columns(table, metrics)
    return Result(
        key="top",
        title=f"Best {counted(best.height, 'run')} by {metric.label}; {metric.direction}",
        table=table,
        shown=shown,
        labels=labels(shown, runs),
        notes=tuple(left_out(runs, metric, best)),
    )


def best_runs(runs: Runs, metric: Metric, count: int) -> pl.DataFrame:
    """Keys and values of the `count` best runs, the best first."""
    descending = [metric.goal == "maximize", *(False for _ in KEY)]
    candidates = runs.frame.select(*KEY, metric.column).filter(pl.col(metric.column).is_finite())
    best = collected(candidates.sort(metric.column, *KEY, descending=descending).head(count))
    if best.is_empty():
        raise ScriptError(
            f"no run has a finite {metric.label}; choose another metric with -m, or other runs with --state, --filter",
            NOTHING_USABLE,
        )
    return best


def rows_of(best: pl.DataFrame, runs: Runs, columns: Sequence[str]) -> pl.DataFrame:
    """`columns` of the runs in `best`, in its order."""
    rows = collected(runs.frame.filter(pl.col("id").is_in(best["id"].to_list())).select(columns))
    return best.select(KEY).join(rows, on=KEY, how="left", maintain_order="left").select(columns)


def telling_columns(table: pl.DataFrame, metrics: Sequence[Metric]) -> list[str]:
    """What people see of the best runs: name, metrics and the settings that tell them apart, each once.

    Columns that most of these runs lack are no settings of theirs.
    """
    settings = [column for column in table.columns if kind(column) in {"derived", "config"}]
    common = [column for column in settings if 2 * table[column].null_count() <= table.height]
    distinctive = without_repeats(table, varying(table, common))
    projects = varying(table, ("entity", "project"))
    return list(dict.fromkeys(["name", *(each.column for each in metrics), *projects, *distinctive]))


def varying(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns with more than one value, the most telling first.

    Last come columns of one value that some rows lack, and columns that differ from row to row, such as paths.
    """
    distinct = {column: table[column].n_unique() for column in columns}

    def telling(column: str) -> tuple[bool, bool, bool]:
        one_value = distinct[column] == 2 and table[column].null_count() > 0
        return one_value, kind(column) == "config", distinct[column] == table.height

    return sorted((column for column in columns if distinct[column] > 1), key=telling)


def without_repeats(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """`columns` but those whose every value an earlier one has: config_model_k beside the name's k.

    Where a few values differ, the config is right and what is read off the name gives way: seed_parsed beside seed.
    """
    texts = {column: tuple(map(str, table[column].to_list())) for column in columns}
    firsts: dict[tuple[str, ...], str] = {}
    for column in columns:
        firsts.setdefault(texts[column], column)
    configs = [column for column in firsts.values() if kind(column) == "config"]
    spoken = list(texts.values())

    def corrected(column: str) -> bool:
        if spoken.count(texts[column]) > 1:  # it stands for a config that was left out
            return False
        stem = column.removesuffix("_parsed")
        rivals = [texts[other] for other in configs if other.removeprefix("config_").split("_")[-1] == stem]
        differing = [sum(a != b for a, b in zip(texts[column], rival, strict=True)) for rival in rivals]
        return any(4 * few <= table.height for few in differing)

    return [column for column in firsts.values() if kind(column) != "derived" or not corrected(column)]


def left_out(runs: Runs, metric: Metric, best: pl.DataFrame) -> Iterator[str]:
    """What a list of the best runs does not show: runs without a value, and ties with its last."""
    value, last = pl.col(metric.column), best[metric.column].last()
    total, finite_count, nulls, ties = collected(
        runs.frame.select(
            pl.len().alias("runs"),
            finite(metric.column).count().alias("finite"),
            value.is_null().sum().alias("nulls"),
            (value == last).sum().alias("ties"),
        )
    ).row(0)
    lacking = without(nulls, total - finite_count - nulls)
    if finite_count < total:
        yield f"{finite_count} of {counted(total, 'run')} have a finite {metric.label}{lacking}"
    hidden = ties - (best[metric.column] == last).sum()
    if hidden:
        yield f"{counted(hidden, 'more run')} tie with the last one shown"


def without(nulls: int, nonfinite: int) -> str:
    """A clause that counts the runs that are neither averaged nor best."""
    parts = [f"{nulls} without a value"] * bool(nulls) + [f"{nonfinite} with NaN or infinity"] * bool(nonfinite)
    return f"; left out: {', '.join(parts)}" if parts else ""


# --- questions: groups and pivots -----------------------------------------------------------------------------


def groups(runs: Runs, by: Sequence[str], metric: Metric, columns: Sequence[str], stat: str = "mean") -> Result:
    """Statistics of a metric per combination of the values of `by`, the best `stat` first."""
    refuse_ambiguous(by)
    table = group_statistics(runs, by, metric, stat).sort(
        stat, *by, descending=[metric.goal == "maximize", *(False for _ in by)], nulls_last=True
    )
    complete = (table["runs"] == table["n"]).all()
    shown = [
        *by,
        *(() if complete else ("runs",)),
        *(SHOWN_STATISTICS if stat == "mean" else ("n", stat, *SHOWN_BOOTSTRAP)),
    ]
    held = [*STATISTICS[:3], *((stat,) if stat == "iqm" else ()), *STATISTICS[3:]]
    sizes = f"{counted(table.height, 'group')} of {counted(int(table['runs'].sum()), 'run')}"
    return Result(
        key="groups",
        title=f"{metric.label} by {', '.join(map(runs.label, by))}: {sizes}; {metric.direction}",
        table=table.select(*by, pl.lit(metric.column).alias("metric"), *held),
        shown=[column for column in columns if column in {*by, *held}] or shown,
        labels={
            **labels(by, runs),
            "best_run": "best run",
            "best_run_id": "best run's id",
            "ci_low": "95 % from",
            "ci_high": "to",
        },
        notes=tuple(cautions(table, by)) + ((resampling(stat),) if stat != "mean" else ()),
        null="null",
        most_rows=MOST_GROUPS,
    )


def resampling(stat: str) -> str:
    """What stands behind a bootstrap interval."""
    what = "median" if stat == "median" else "iqm, the mean of the middle half"
    return f"sorted by {what}; its 95 % interval is the percentile bootstrap's, {RESAMPLES:,} resamples, seed {SEED}"


def refuse_ambiguous(by: Sequence[str]) -> None:
    """Raise where a column to group by is called like a column of the answer."""
    clash = next((column for column in by if column in {*STATISTICS, "iqm", "metric"}), None)
    if clash:
        raise ScriptError(f"--group-by {clash}: a statistic has this name; rename the column", WRONG_USAGE)


def cautions(table: pl.DataFrame, by: Sequence[str]) -> Iterator[str]:
    """What keeps a reader from taking chance for an effect."""
    runs, n, nonfinite = (int(table[column].sum()) for column in ("runs", "n", "n_nonfinite"))
    if n < runs:
        yield f"{n} of {counted(runs, 'run')} have a finite value" + without(runs - n - nonfinite, nonfinite)
    singles = int((table["n"] == 1).sum())
    if singles:
        yield f"{counted(singles, 'group')} of one run: no spread, no interval"
    yield from noise_warnings(table.filter(pl.col("n") > 0).head(2), by)


def noise_warnings(best: pl.DataFrame, by: Sequence[str]) -> Iterator[str]:
    """A warning where the intervals of the best two groups overlap, or where one of them has none."""
    if best.height < 2:
        return
    names = ["/".join(cell_text(row[column]) for column in by) for row in best.iter_rows(named=True)]
    singles = [name for name, n in zip(names, best["n"], strict=True) if n == 1]
    if singles:
        yield f"no comparison of the best two is possible: one run only in {' and '.join(singles)}"
    elif best["ci_low"][0] <= best["ci_high"][1] and best["ci_low"][1] <= best["ci_high"][0]:
        spans = [f"{low:#.4g} to {high:#.4g}" for low, high in best.select("ci_low", "ci_high").iter_rows()]
        yield f"within noise: the best two's intervals overlap, {names[0]} ({spans[0]}), {names[1]} ({spans[1]})"


def pivot(runs: Runs, by: Sequence[str], metric: Metric) -> Result:
    """A metric's mean, standard deviation and n per cell of a table of two columns' values; the best ones marked."""
    if len(by) != 2:
        raise ScriptError("--pivot takes two columns: ROWS,COLUMNS", WRONG_USAGE)
    rows, columns = by
    cells = group_statistics(runs, by, metric).rename({rows: "rows", columns: "columns"})
    cells = cells.sort("rows", "columns", nulls_last=True)
    better = pl.col("mean").min if metric.goal == "minimize" else pl.col("mean").max
    cells = cells.with_columns(
        (pl.col("mean") == better().over("rows")).fill_null(False).alias("best_in_row"),
        (pl.col("mean") == better().over("columns")).fill_null(False).alias("best_in_column"),
    )
    across, down = (cells[name].unique().sort(nulls_last=True) for name in ("columns", "rows"))
    holes = len(across) * len(down) - int((cells["n"] > 0).sum())
    counts = f"{counted(len(down), 'row')} x {counted(len(across), 'column')}"
    narrower = len(across) > max(len(down), MOST_ABREAST)
    return Result(
        key="pivot",
        title=f"{metric.label}: {runs.label(rows)} by {runs.label(columns)}, {counts}; {metric.direction}",
        table=cells.select(
            "rows",
            "columns",
            pl.lit(metric.column).alias("metric"),
            "n",
            "mean",
            "std",
            "best_in_row",
            "best_in_column",
        ),
        for_people=wide(cells, runs.label(rows), down, across),
        shown=(),
        notes=(
            f"mean±std (n); {ROW_BEST} best of its row, {COLUMN_BEST} best of its column"
            + (f"; {counted(holes, 'cell')} without a value" if holes else ""),
            *([f"narrower the other way round: --pivot {runs.label(columns)},{runs.label(rows)}"] if narrower else []),
        ),
        null="",
        numbers=True,
        most_rows=MOST_GROUPS,
    )


def wide(cells: pl.DataFrame, corner: str, down: pl.Series, across: pl.Series) -> pl.DataFrame:
    """The cells of a pivot as people read them: a row per value in `down`, a column per value in `across`."""
    means = float_format(cells["mean"].drop_nulls().to_list())
    texts = {
        (row["rows"], row["columns"]): f"{means(row['mean'])}"
        + (f"±{means(row['std'])}" if row["std"] is not None else "")
        + f" ({row['n']})"
        + ROW_BEST * row["best_in_row"]
        + COLUMN_BEST * row["best_in_column"]
        for row in cells.iter_rows(named=True)
        if row["n"]
    }
    names = ["null" if value is None else cell_text(value) for value in across]
    table: dict[str, list[str]] = {corner: ["null" if value is None else cell_text(value) for value in down]}
    for name, value in zip(names, across, strict=True):
        table[name if name not in table else f"{name} "] = [texts.get((row, value), "") for row in down]
    return pl.DataFrame(table)


# --- questions: what was varied, what differs -----------------------------------------------------------------


def varied(runs: Runs) -> list[Result]:
    """The config columns with more than one value, how many runs have each, and what the grid of them lacks."""
    table = collected_settings(runs)
    settings, noise = varying_settings(table, runs)
    counts = {
        column: table[column].value_counts(sort=True, name="runs").sort("runs", column, descending=[True, False])
        for column in settings
    }
    rows = [
        {"column": column, "value": value, "runs": number}
        for column, values in counts.items()
        for value, number in values.iter_rows()
    ]
    people = {
        "config": list(labels(settings, runs).values()),
        "values": [len(values) for values in counts.values()],
        "value (runs)": [some_values(values) for values in counts.values()],
    }
    notes = [f"left out, as they only tell runs apart: {', '.join(map(runs.label, noise))}"] if noise else []
    number = collected(runs.frame.select(pl.len())).item()
    told = Result(
        key="varying",
        title=f"{counted(len(settings), 'config column')} of {counted(number, 'run')} vary",
        table=pl.DataFrame(
            [{**row, "value": None if row["value"] is None else cell_text(row["value"])} for row in rows],
            schema={"column": pl.String, "value": pl.String, "runs": pl.Int64},
        ),
        rows=rows,
        for_people=pl.DataFrame(people, schema={"config": pl.String, "values": pl.Int64, "value (runs)": pl.String}),
        shown=(),
        notes=tuple(notes),
        most_rows=MOST_COLUMNS,
    )
    return [told, *grid(table, settings, runs)]


def some_values(values: pl.DataFrame) -> str:
    """The commonest values of a column with their runs, in a line."""
    shown = [
        f"{'null' if value is None else cell_text(value)} ({runs})"
        for value, runs in values.head(MOST_VALUES).iter_rows()
    ]
    more = f" and {values.height - MOST_VALUES} more" if values.height > MOST_VALUES else ""
    return ", ".join(shown) + more


def grid(table: pl.DataFrame, settings: Sequence[str], runs: Runs) -> Iterator[Result]:
    """Combinations of the settings that no run has, that lack seeds which most have, or that were run twice."""
    seeds = [c for c in settings if "seed" in words(runs.label(c))]
    free = [c for c in settings if c not in seeds and table[c].drop_nulls().n_unique() <= MOST_ON_AN_AXIS]
    axes = independent(table, free) if free else []
    complete = table.select(*axes, *seeds).drop_nulls()
    if not axes or complete.is_empty():
        return
    present = complete.select(axes).unique()
    sizes = [complete[column].n_unique() for column in axes]
    names = ", ".join(f"{runs.label(c)} ({size})" for c, size in zip(axes, sizes, strict=True))
    odd = [
        *twice(complete, axes, seeds),
        *missing_seeds(complete, axes, seeds),
        *missing_cells(complete, present, axes),
    ]
    rows = pl.concat(odd) if odd else present.clear().with_columns(pl.lit("").alias("problem"))
    order = {"no": 2, "lacks": 1}  # what is to be done first: doubles, seeds, holes
    rank = pl.col("problem").str.split(" ").list.first().replace_strict(order, default=0)
    yield Result(
        key="grid",
        title=f"grid of {names}: {present.height} of {counted(math.prod(sizes), 'combination')} have a run",
        table=rows.sort(rank, *axes),
        shown=(*axes, "problem"),
        labels=labels(axes, runs),
        whole="problem",
        most_rows=MOST_SAID,
    )


def missing_cells(complete: pl.DataFrame, present: pl.DataFrame, axes: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The combinations of the axes' values that no run has, if there are not too many to tell."""
    if math.prod(complete[column].n_unique() for column in axes) > MOST_COMBINATIONS:
        return
    whole = complete.select(axes[0]).unique()
    for column in axes[1:]:
        whole = whole.join(complete.select(column).unique(), how="cross")
    yield whole.join(present, on=axes, how="anti").with_columns(pl.lit("no run").alias("problem"))


def missing_seeds(complete: pl.DataFrame, axes: Sequence[str], seeds: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The combinations that lack a seed which at least half of all have."""
    for seed in seeds[:1]:
        of_each = complete.group_by(axes).agg(pl.col(seed).cast(pl.String).unique())
        counts = of_each.select(pl.col(seed).explode()).to_series().value_counts()
        usual = counts.filter(pl.col("count") * 2 >= of_each.height)[seed].sort().to_list()
        lacking = (
            pl.lit(pl.Series([usual], dtype=pl.List(pl.String))).first().list.set_difference(pl.col(seed)).list.sort()
        )
        told = of_each.with_columns(lacking.alias(seed)).filter(pl.col(seed).list.len() > 0)
        problem = pl.lit("lacks seed ") + pl.col(seed).list.join(", ")
        yield told.select(*axes, problem.alias("problem"))


def twice(complete: pl.DataFrame, axes: Sequence[str], seeds: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The combinations that more than one run has, with the same seed where there are seeds."""
    found = complete.group_by(*axes, *seeds).len().filter(pl.col("len") > 1)
    with_seed = [pl.lit(" with seed ") + pl.col(seeds[0]).cast(pl.String)] if seeds else []
    problem = pl.concat_str(pl.col("len").cast(pl.String), pl.lit(" runs"), *with_seed)
    yield found.select(*axes, problem.alias("problem"))


def difference(runs: Runs, names: Sequence[str]) -> Result:
    """What differs between some runs: the config, then the metrics; numbers are equal however they were written."""
    ids = [find_run(name, runs) for name in names]
    if len(set(ids)) < 2:
        raise ScriptError("--diff needs two runs or more", WRONG_USAGE)
    columns = [
        c
        for c in runs.dtypes
        if kind(c) in {"config", "metric"} or c in {"name", "state", "group", "job_type", "sweep", "notes"}
    ]
    columns.sort(key=lambda column: ("identity", "config", "metric").index(kind(column)))
    chosen = collected(
        runs.frame.filter(pl.col("id").is_in([key[2] for key in ids])).select(
            *KEY, *(c for c in columns if c not in KEY)
        )
    )
    by_key = {tuple(row[name] for name in KEY): row for row in chosen.iter_rows(named=True)}
    heads = [key[2] if [each[2] for each in ids].count(key[2]) == 1 else "/".join(key) for key in ids]
    rows = [
        {"column": column, **{head: by_key[key][column] for head, key in zip(heads, ids, strict=True)}}
        for column in columns
        if len({comparable(by_key[key][column]) for key in ids}) > 1
    ]
    schema_ = {"column": pl.String(), **dict.fromkeys(heads, pl.String())}
    texts = [
        {name: value if value is None or name == "column" else cell_text(value) for name, value in row.items()}
        for row in rows
    ]
    told = pl.DataFrame(texts, schema=schema_)
    called = ", ".join(cell_text(by_key[key]["name"]) for key in ids)
    return Result(
        key="diff",
        title=f"{counted(len(rows), 'column')} of {len(columns)} differ between {called}",
        table=told,
        rows=rows,
        for_people=told.with_columns(pl.Series("column", [runs.label(row["column"]) for row in rows], dtype=pl.String)),
        shown=(),
        null="null",
        whole="column",
        most_rows=MOST_COLUMNS,
    )


def find_run(name: str, runs: Runs) -> tuple[str, str, str]:
    """The key of the run that is called so: by `entity/project/id`, by its id or by its name."""
    keys = collected(runs.frame.select(*KEY, "name"))
    path = pl.concat_str(KEY, separator="/")
    for told in (path == name, pl.col("id") == name, pl.col("name") == name):
        hits = keys.filter(told).sort(KEY)
        if hits.height > 1:
            some = ", ".join("/".join(row) for row in hits.select(KEY).head(FEW).iter_rows())
            raise ScriptError(f"{hits.height} runs are called {name}; say which: {some}", WRONG_USAGE)
        if hits.height:
            return cast("tuple[str, str, str]", hits.select(KEY).row(0))
    near = did_you_mean(name, [*keys["name"].drop_nulls(), *keys["id"]])
    raise ScriptError(f"no run is called {name}{near}", WRONG_USAGE)


def comparable(value: object) -> object:
    """A value that equals what means the same: text that is a number equals the number, NaN itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


# --- questions: which settings matter -------------------------------------------------------------------------


def importance(runs: Runs, metric: Metric) -> Result:
    """How closely each setting that varies goes with the metric's rank; the closest first.

    `effect` is the share of the ranks' variance that goes with the setting: for numbers the square of Spearman's rho,
    for categories the eta squared of Kruskal and Wallis' H, (H - k + 1) / (n - k). `p` is the share of random
    permutations with as large an effect.
    """
    columns = [column for column in runs.dtypes if kind(column) == "config"]
    usable = runs.frame.filter(pl.col(metric.column).is_finite()).select(*columns, pl.col(metric.column).alias(MEAN))
    table = collected(usable)
    title = f"What goes with {metric.label}, of {counted(table.height, 'run')}: association, not cause"
    facts = {"column": pl.String, "kind": pl.String, "effect": pl.Float64, "spearman": pl.Float64}
    facts |= {"n": pl.Int64, "distinct": pl.Int64, "p": pl.Float64}
    if table.height < FEWEST_RUNS:
        few = counted(table.height, "run")
        note = f"{few} with a finite value are too few to rank settings by: {FEWEST_RUNS} are needed"
        return Result("importance", title, pl.DataFrame(schema=facts), (), notes=(note,))
    notes = ["settings that were varied together cannot be told apart; p is not corrected for their number"]
    if table.height > MOST_RUNS:
        table = table.sample(MOST_RUNS, seed=SEED)
        notes.append(f"computed on {MOST_RUNS:,} runs, chosen at random with seed {SEED}")
    settings, noise = varying_settings(table.select(c for c in columns if table[c].drop_nulls().n_unique() > 1), runs)
    rows = [association(column, table) for column in settings]
    if noise:
        notes.append(f"left out, as they only tell runs apart: {', '.join(map(runs.label, noise))}")
    found = pl.DataFrame(rows, schema=facts).filter(pl.col("effect").is_not_null())
    found = found.sort("effect", "column", descending=[True, False])
    return Result(
        key="importance",
        title=title,
        table=found,
        shown=tuple(facts),
        labels={},
        for_people=found.with_columns(
            column=pl.Series([runs.label(c) for c in found["column"]], dtype=pl.String),
            effect=pl.col("effect").round(3),
            spearman=pl.col("spearman").round(3),
            p=pl.col("p").round(4),
        ),
        notes=tuple(notes),
        whole="column",
        most_rows=MOST_COLUMNS,
    )


def association(column: str, table: pl.DataFrame) -> dict[str, object]:
    """A row of the answer to --importance: how a setting and the metric go together over the runs that have both."""
    import numpy as np

    pairs = table.select(pl.col(column).alias("x"), MEAN).drop_nulls()
    is_number = pairs["x"].dtype.is_numeric()
    told: dict[str, object] = {"column": column, "kind": "number" if is_number else "category", "n": pairs.height}
    told["distinct"] = groups_ = pairs["x"].n_unique()
    if pairs.height < FEWEST_RUNS or groups_ < 2 or (groups_ == pairs.height and not is_number):
        return told | {"effect": None, "spearman": None, "p": None}
    ranks = pairs[MEAN].rank().to_numpy()
    ranks = (ranks - ranks.mean()) / (ranks.std() or 1.0)
    random = np.random.default_rng(SEED)
    if is_number:
        x = pairs["x"].rank().to_numpy()
        x = (x - x.mean()) / (x.std() or 1.0) / len(x)
        weights = x[:, None]
    else:
        codes = pairs["x"].cast(pl.String).rank("dense").to_numpy() - 1
        weights = np.eye(groups_)[codes.astype(int)]
        weights = weights / np.sqrt(weights.sum(axis=0) * len(ranks))
    effect = float(((ranks @ weights) ** 2).sum())
    larger, at_once = 0, max(1, CELLS_AT_ONCE // len(ranks))
    for start in range(0, PERMUTATIONS, at_once):
        count = min(at_once, PERMUTATIONS - start)
        shuffled = random.permuted(np.broadcast_to(ranks, (count, len(ranks))), axis=1)
        larger += int((((shuffled @ weights) ** 2).sum(axis=1) >= effect - 1e-12).sum())
    told["p"] = (larger + 1) / (PERMUTATIONS + 1)
    if is_number:
        return told | {"effect": effect, "spearman": float(ranks @ weights[:, 0])}
    h = effect * (len(ranks) - 1)  # Kruskal and Wallis' H, ties corrected
    return told | {"effect": max(0.0, (h - groups_ + 1) / (len(ranks) - groups_)), "spearman": None}


# --- questions: what there is ---------------------------------------------------------------------------------


def schema(runs: Runs, columns: Sequence[str]) -> Result:
    """Every column, or `columns`, with dtype, coverage, range and an example; in each kind, what varies first.

    Config and summary as JSON text are left out: they are long, and the other columns hold their values.
    """
    listed = columns or [column for column in runs.dtypes if not column.startswith("_")]
    facts = collected(runs.frame.select(column_facts(column, dtype=runs.dtypes[column]) for column in listed))
    names = pl.DataFrame(
        {
            "column": listed,
            "kind": [kind(column) for column in listed],
            "dtype": [dtype_name(runs.dtypes[column]) for column in listed],
            "path": [runs.label(column) if column in runs.paths else None for column in listed],
        },
        schema_overrides={"path": pl.String},
    )
    table = pl.concat([names, pl.DataFrame(list(facts.row(0)))], how="horizontal")
    order = [pl.col("kind").replace_strict({name: i for i, name in enumerate(KINDS)}), pl.col("distinct") < 2]
    return Result(
        key="schema",
        title=f"{counted(table.height, 'column')}; coverage is the share of runs with a value",
        table=table.sort(order, maintain_order=True),
        for_people=with_short_dtypes(table if columns else table.filter(pl.col("kind") != "history")).sort(
            order, maintain_order=True
        ),
        notes=tuple(columns_of_histories(listed) if not columns else ()),
        shown=("column", "dtype", "coverage", "distinct", "min", "max", "example"),
        labels={"coverage": "cover", "distinct": "values"},
        whole="column",
        most_rows=MOST_COLUMNS,
        share_rows_by="kind",
    )


def columns_of_histories(columns: Iterable[str]) -> Iterator[str]:
    """A line in place of the eight columns and more that each metric of the histories has."""
    first = "history_min_step_"
    metrics = [column.removeprefix(first) for column in columns if column.startswith(first)]
    if metrics:
        yield f"from histories (history_min_X, _max_X, _last_X, _tail_X, ..., or --value) of X: {', '.join(metrics)}"


def with_short_dtypes(table: pl.DataFrame) -> pl.DataFrame:
    """What people see of a schema: types without parameters, shares with two digits."""
    return table.with_columns(pl.col("dtype").str.replace(r"^Datetime.*", "Datetime"), pl.col("coverage").round(2))


def dtype_name(dtype: pl.DataType) -> str:
    """A column's type without the names of its parameters."""
    return re.sub(r"\w+='?(\w+)'?", r"\1", str(dtype)).replace("(", "[").replace(")", "]")


def column_facts(column: str, *, dtype: pl.DataType) -> pl.Expr:
    """A struct of what --schema tells about a column's values; the range is that of finite numbers."""
    values = pl.col(column).drop_nulls()
    numbers = finite(column).cast(pl.Float64) if dtype.is_numeric() else pl.lit(None, pl.Float64)
    text = values.list.join(", ") if dtype == pl.List(pl.String) else values.cast(pl.String)
    return pl.struct(
        coverage=(values.len() / pl.len()).round(4),
        distinct=values.n_unique().cast(pl.Int64),
        min=numbers.min(),
        max=numbers.max(),
        example=text.first(),
    ).alias(column)


def overview(runs: Runs) -> Result:
    """What the input holds: its projects, their runs by state, the days between which they were made."""
    days = pl.col("created_at").dt.strftime("%Y-%m-%d")
    table = collected(
        runs.frame.group_by("entity", "project")
        .agg(
            pl.len().alias("runs"),
            *((pl.col("state") == state).sum().alias(state) for state in STATES),
            days.min().alias("first_created"),
            days.max().alias("last_created"),
        )
        .sort("entity", "project")
    )
    kinds = [kind(column) for column in runs.dtypes]
    counts = ", ".join(f"{kinds.count(name)} {name}" for name in KINDS if kinds.count(name))
    return Result(
        key="overview",
        title=f"{counted(int(table['runs'].sum()), 'run')} in {counted(table.height, 'project')}",
        table=table,
        shown=(
            "entity",
            "project",
            "runs",
            *(state for state in STATES if table[state].sum()),
            "first_created",
            "last_created",
        ),
        labels={"first_created": "first", "last_created": "last"},
        notes=(f"columns: {counts}; --schema lists them",),
        most_rows=MOST_PROJECTS,
    )


def suggested_grouping(runs: Runs) -> list[str]:
    """One or two columns that split the runs into a few groups of more than one run: first those of the name."""
    named = [column for column in (*DERIVED, "group", "job_type") if column in runs.dtypes]
    configs = [column for column, dtype in runs.dtypes.items() if kind(column) == "config" and not dtype.is_float()]
    candidates = [column for column in (*named, *configs) if "seed" not in words(column)]
    chosen: list[str] = []
    count = 1
    while len(chosen) < 2 and candidates:
        splits = [pl.struct(*chosen, column).n_unique().alias(column) for column in candidates]
        total, *counts = collected(runs.frame.select(pl.len().alias("runs"), *splits)).row(0)
        groups_of = dict(zip(candidates, counts, strict=True))
        candidates = [c for c in candidates if count < groups_of[c] <= min(SUGGESTED_GROUPS, total // 2)]
        if candidates:
            chosen.append(candidates.pop(0))
            count = groups_of[chosen[-1]]
    return chosen


def labels(columns: Iterable[str], runs: Runs) -> dict[str, str]:
    """How people know columns, where that tells them apart."""
    names = {column: runs.label(column) for column in columns}
    spoken = list(names.values())
    return {column: name if spoken.count(name) == 1 else column for column, name in names.items()}


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# --- questions: curves ----------------------------------------------------------------------------------------


def curves(runs: Runs, name: str, by: Sequence[str], options: Options) -> Result:
    """A metric over the steps, or another axis: per group the mean over its runs with its interval, else per run.

    At each point a run stands with the last value that it logged up to there, or with its best so far; before its
    first and after its last value it does not: nothing is extrapolated.
    """
    files = history_files(options.inputs, runs)
    column, label = curve_metric(name, files)
    goal = options.goal or next((part.goals[c] for part, c in column if c in part.goals), None) or goal_by_name(label)
    if options.best_so_far and goal is None:
        raise ScriptError(
            f"--best-so-far: which way {label} is better is not known; say --ascending or --descending", WRONG_USAGE
        )
    keys = collected(runs.frame.select(*KEY, "name", *by)).sort(KEY).with_row_index(RUN_NUMBER)
    axis = options.x or next((part.axes[c] for part, c in column if c in part.axes), "step")
    rows = curve_rows(column, keys, axis)
    if rows.is_empty():
        raise ScriptError(f"no history of these runs holds {label}; choose other runs, or see --schema", NOTHING_USABLE)
    best = {"minimize": pl.Expr.min, "maximize": pl.Expr.max, None: pl.Expr.last}[goal if options.best_so_far else None]
    grid = curve_grid(rows["x"], options.points or (PICTURE_POINTS if draws(options) else CURVE_POINTS))
    points = on_grid(rows, grid, best, goal if options.best_so_far else None)
    what = f"{label}{', best so far,' if options.best_so_far else ''} over {axis.removeprefix('_')}"
    if by:
        return group_curves(points.join(keys, on=RUN_NUMBER, how="left"), what, by, runs, goal)
    return run_curves(points.join(keys, on=RUN_NUMBER, how="left"), what, goal)


def draws(options: Options) -> bool:
    """Whether a picture is asked for, which takes more points than a table."""
    return bool(options.report or (options.output and options.output.suffix.lower() in PICTURES))


def history_files(inputs: Sequence[Path], runs: Runs) -> list[Runs]:
    """The full histories among the inputs, beside them, or beside the exports that an aggregate was made of."""
    folders = [place if place.is_dir() else place.parent for place in inputs] or [EXPORT_FOLDER]
    if "source_file" in runs.dtypes:
        sources = collected(runs.frame.select(pl.col("source_file").drop_nulls().unique()))["source_file"].to_list()
        folders += sorted({Path(source).parent for source in sources})
    found = {file.resolve(): file for folder in folders if folder.is_dir() for file in parquet_files(folder)}
    parts = [open_file(file) for file in sorted(found.values()) if not file.name.endswith("_history_sampled.parquet")]
    return [part for part in parts if part.dtypes.keys() >= HISTORY_COLUMNS]


def curve_metric(name: str, files: Sequence[Runs]) -> tuple[list[tuple[Runs, str]], str]:
    """The histories that have the metric called `name`, its column in each, and how people know it."""
    if not files:
        raise ScriptError("no history beside these runs; export_runs --include-history writes them", NOTHING_USABLE)
    found = [(part, known_column(name, part, ("metric_",))) for part in files]
    having = [(part, column) for part, column in found if column is not None and column.startswith("metric_")]
    if not having:
        names = [metric_label(part, column) for part in files for column in part.dtypes if column.startswith("metric_")]
        hint = did_you_mean(name, names) or f"; there are {', '.join(sorted(set(names))[:SUGGESTED_NAMES])}"
        raise ScriptError(f"no history has a metric called {name}{hint}", WRONG_USAGE)
    return having, metric_label(*having[0])


def metric_label(history: Runs, column: str) -> str:
    """How people know a metric of a history, which may be no file of ours."""
    return history.label(column).removeprefix("metric_")


def curve_rows(columns: Sequence[tuple[Runs, str]], keys: pl.DataFrame, axis: str) -> pl.DataFrame:
    """The number of the run, x and value of every row that holds both; in each run by x, then step."""
    frames = []
    for part, column in columns:
        x = axis_column(axis, part)
        if x is None:
            continue
        numbers = [
            pl.col(x).cast(pl.Float64).alias("x"),
            pl.col("_step").alias("step"),
            pl.col(column).cast(pl.Float64).alias("value"),
        ]
        history = part.frame.select(pl.col("run_id").alias("id"), "entity", "project", *numbers).drop_nulls(
            ["x", "value"]
        )
        wanted = keys.lazy().select(RUN_NUMBER, *KEY)
        frames.append(
            history.join(wanted, on=KEY, how="inner", maintain_order="left").select(RUN_NUMBER, "x", "step", "value")
        )
    if not frames:
        raise ScriptError(
            f"--x {axis}: no history has such a column; there are step, runtime, time and the metrics", WRONG_USAGE
        )
    rows = pl.concat([collected(frame) for frame in frames])
    in_order = rows.select(
        ((pl.col("x") >= pl.col("x").shift()) | (pl.col(RUN_NUMBER) != pl.col(RUN_NUMBER).shift()))
        .fill_null(value=True)
        .all()
    )
    return rows if in_order.item() else rows.sort(RUN_NUMBER, "x", "step")


def axis_column(axis: str, part: Runs) -> str | None:
    """The column of a history that --x names."""
    clocks = {"step": "_step", "runtime": "_runtime", "time": "_timestamp"}
    column = clocks.get(axis, axis)
    return column if column in clocks.values() else known_column(axis, part, ("metric_",))


def curve_grid(x: pl.Series, points: int) -> pl.Series:
    """Where the curves are looked at: at every x if these are few, else at those nearest to evenly spaced ones."""
    distinct = x.unique().sort()
    if len(distinct) <= points:
        return distinct
    low, high = float(distinct[0]), float(distinct[-1])
    even = pl.Series([low + (high - low) * number / (points - 1) for number in range(points)])
    after = distinct.search_sorted(even, side="left").clip(1, len(distinct) - 1)
    nearest = [
        left if target - left <= right - target else right
        for target, left, right in zip(even, distinct.gather(after - 1), distinct.gather(after), strict=True)
    ]
    return pl.Series("x", nearest).unique().sort()


def on_grid(rows: pl.DataFrame, grid: pl.Series, best: Callable[[pl.Expr], pl.Expr], goal: Goal | None) -> pl.DataFrame:
    """Each run's value at each point of the grid that lies between its first and last x: run, bin, x, value."""
    places = grid.search_sorted(rows["x"], side="left").cast(pl.UInt32).alias(BIN)
    binned = rows.with_columns(places).group_by(RUN_NUMBER, BIN).agg(best(pl.col("value")).alias("value"))
    spans = rows.group_by(RUN_NUMBER).agg(pl.col("x").first().alias("first"), pl.col("x").last().alias("last"))
    whole = spans.join(pl.DataFrame({"x": grid}).with_row_index(BIN), how="cross")
    whole = whole.filter((pl.col("x") >= pl.col("first")) & (pl.col("x") <= pl.col("last"))).select(
        RUN_NUMBER, BIN, "x"
    )
    value = pl.col("value").forward_fill()
    if goal:
        best_yet = pl.col("value").fill_nan(None)
        value = (best_yet.cum_min() if goal == "minimize" else best_yet.cum_max()).forward_fill()
    joined = whole.join(binned, on=[RUN_NUMBER, BIN], how="left").sort(RUN_NUMBER, BIN)
    return joined.with_columns(value.over(RUN_NUMBER)).filter(pl.col("value").is_not_null())


def group_curves(points: pl.DataFrame, what: str, by: Sequence[str], runs: Runs, goal: Goal | None) -> Result:
    """Mean, spread and interval over the runs of each group at each point."""
    value = finite("value")
    table = points.group_by(*by, BIN, "x").agg(
        value.count().cast(pl.Int64).alias("n"),
        (pl.len() - value.count()).cast(pl.Int64).alias("n_nonfinite"),
        value.mean().alias("mean"),
        value.std(ddof=1).alias("std"),
    )
    last = table.sort(BIN).group_by(by, maintain_order=True).agg(pl.col("mean").last().alias(MEAN))
    table = with_intervals(table).join(last, on=by, how="left", nulls_equal=True)
    table = table.sort(MEAN, *by, BIN, descending=[goal == "maximize", *(False for _ in by), False], nulls_last=True)
    table = table.with_columns(
        pl.concat_str([value_text(column, table.schema[column]) for column in by], separator="/").alias(NAME)
    )
    spread = table["n"].n_unique() > 1
    diverged = points.filter(~pl.col("value").is_finite())[RUN_NUMBER].n_unique()
    lost = (f"NaN or infinity is reached by {counted(diverged, 'run')}, averaged up to there",) if diverged else ()
    sizes = f"{counted(last.height, 'group')} of {counted(points[RUN_NUMBER].n_unique(), 'run')}"
    whose = "the mean over the runs that reach it" + (" (their number)" if spread else "")
    return Result(
        key="curves",
        title=f"{what}, mean by {', '.join(map(runs.label, by))}: {sizes}",
        table=table.select(*by, "x", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high"),
        for_people=curves_abreast(table.with_columns(value="mean"), with_n=spread),
        shown=(),
        notes=(f"at each point {whose}; ends are not extrapolated", *lost),
        null="",
        numbers=True,
        most_rows=MOST_ROWS_OF_CURVES,
    )


def run_curves(points: pl.DataFrame, what: str, goal: Goal | None) -> Result:
    """The value of each run at each point, for the runs with the best last value."""
    last = (
        points.sort(RUN_NUMBER, BIN).group_by(RUN_NUMBER, maintain_order=True).agg(pl.col("value").last().alias(MEAN))
    )
    ranked = last.with_columns(finite(MEAN)).sort(
        MEAN, RUN_NUMBER, descending=[goal == "maximize", False], nulls_last=True
    )
    shown = ranked.head(MOST_CURVES).with_row_index("rank")
    table = (
        points.join(shown.select(RUN_NUMBER, "rank"), on=RUN_NUMBER)
        .sort("rank", BIN)
        .with_columns(pl.col("name").alias(NAME))
    )
    others = ranked.height - shown.height
    more = (
        (f"the {shown.height} runs with the best last value; {counted(others, 'more run')}: --group-by or --filter",)
        if others
        else ()
    )
    return Result(
        key="curves",
        title=f"{what}: {counted(shown.height, 'run')}",
        table=table.select("id", "entity", "project", "name", "x", "value"),
        for_people=curves_abreast(table, with_n=False),
        shown=(),
        notes=more,
        null="",
        numbers=True,
        most_rows=MOST_ROWS_OF_CURVES,
    )


def value_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column's values as text, null included."""
    text = pl.col(column).list.join(", ") if isinstance(dtype, pl.List) else pl.col(column).cast(pl.String)
    return text.fill_null("null")


def curves_abreast(table: pl.DataFrame, *, with_n: bool) -> pl.DataFrame:
    """Curves as people read them: a row per x, a column per curve; empty where a curve has no value."""
    cells: dict[str, dict[float, str]] = {}
    for row in table.iter_rows(named=True):
        n = f" ({row['n']})" if with_n else ""
        text = "" if row["value"] is None else f"{row['value']:.4g}{n}"
        cells.setdefault(str(row[NAME]), {})[row["x"]] = text
    xs = sorted(table["x"].unique().to_list())
    columns = {"x": [f"{x:.10g}" for x in xs]}
    columns |= {name if name != "x" else "x ": [values.get(x, "") for x in xs] for name, values in cells.items()}
    return pl.DataFrame(columns)


# --- statistics -----------------------------------------------------------------------------------------------


def group_statistics(runs: Runs, by: Sequence[str], metric: Metric, stat: str = "mean") -> pl.DataFrame:
    """A row of statistics per group; null where nothing can be said. The interval is that of `stat`.

    Computed in memory, where sums come out alike every time. No filter stands inside the aggregations: there polars 2.1
    can return values of other groups.
    """
    value = pl.col(FINITE)
    grouped = runs.frame.with_columns(finite(metric.column).alias(FINITE)).group_by(by)
    table = grouped.agg(
        pl.len().cast(pl.Int64).alias("runs"),
        value.count().cast(pl.Int64).alias("n"),
        (pl.col(metric.column).count() - value.count()).cast(pl.Int64).alias("n_nonfinite"),
        value.mean().alias("mean"),
        value.std(ddof=1).alias("std"),
        value.min().alias("min"),
        value.median().alias("median"),
        value.max().alias("max"),
        *([value.alias(VALUES_OF)] if stat != "mean" else []),
    )
    found = collected(table, engine="in-memory").sort(by)
    bounded = with_intervals(found) if stat == "mean" else with_bootstrap(found, stat)
    return bounded.join(best_of_groups(runs, by, metric, found), on=by, how="left", nulls_equal=True)


def best_of_groups(runs: Runs, by: Sequence[str], metric: Metric, table: pl.DataFrame) -> pl.DataFrame:
    """The best run of each group; of equal ones the first by key. Only runs with some group's best value are read."""
    best = table.select(*by, pl.col("min" if metric.goal == "minimize" else "max").alias(FINITE))
    values = best[FINITE].drop_nulls().unique().to_list()
    candidates = runs.frame.filter(pl.col(metric.column).is_in(values))
    keys = [column for column in (*KEY, "name") if column not in by]
    rows = collected(candidates.select(*by, *keys, pl.col(metric.column).alias(FINITE)))
    first = rows.join(best, on=[*by, FINITE], how="semi", nulls_equal=True).sort(KEY).unique(by, keep="first")
    return first.select(*by, pl.col("name").alias("best_run"), pl.col("id").alias("best_run_id"))


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


def with_bootstrap(table: pl.DataFrame, stat: str) -> pl.DataFrame:
    """`table` with the median or iqm, and the percentile bootstrap's interval of it; null where n is below 2."""
    bounds = [bootstrap(values.drop_nulls().sort().to_list(), stat) for values in table[VALUES_OF]]
    told = pl.DataFrame(
        bounds,
        schema=[stat, "ci_low", "ci_high"],
        orient="row",
        schema_overrides=dict.fromkeys((stat, "ci_low", "ci_high"), pl.Float64),
    )
    sem = (pl.col("std") / pl.col("n").sqrt()).alias("sem")
    return table.drop(VALUES_OF, *([stat] if stat in table.columns else [])).hstack(told).with_columns(sem)


def bootstrap(values: Sequence[float], stat: str) -> tuple[float | None, float | None, float | None]:
    """A statistic of some values and its 95 % interval by the percentile bootstrap, some resamples at a time."""
    import numpy as np

    if not values:
        return None, None, None
    sample = np.asarray(values, dtype=float)
    estimate = float(statistic(sample[None, :], stat)[0])
    if len(sample) < 2:
        return estimate, None, None
    random = np.random.default_rng(SEED)
    at_once = max(1, CELLS_AT_ONCE // len(sample))
    found = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        found.append(statistic(sample[random.integers(0, len(sample), (count, len(sample)))], stat))
    low, high = np.quantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return estimate, float(low), float(high)


def statistic(samples: NDArray[Any], stat: str) -> NDArray[Any]:
    """The median by row, or the mean of the middle half: a quarter of the values, rounded down, cut off at each end."""
    import numpy as np

    if stat == "median":
        return cast("NDArray[Any]", np.median(samples, axis=1))
    cut_off = int(TRIMMED * samples.shape[1])
    middle = np.sort(samples, axis=1)[:, cut_off : samples.shape[1] - cut_off]
    return cast("NDArray[Any]", middle.mean(axis=1))


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, for Student's t with `freedom` degrees.

    Few degrees: the exact series below, inverted by halving the interval in which the angle lies. Many: the
    expansion around the normal quantile, Abramowitz & Stegun 26.7.5.

    >>> round(t_quantile(4), 6), round(t_quantile(10_000), 6)
    (2.776445, 1.960201)
    """
    if freedom > EXACT_T_UP_TO:
        from statistics import NormalDist  # which takes four modules more

        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        first = (z**3 + z) / 4
        second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / freedom + second / freedom**2 + third / freedom**3
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_probability(middle, freedom) < CONFIDENCE else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def t_probability(angle: float, freedom: int) -> float:
    """P(|t| < tan(angle) √freedom) for Student's t: Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (i - 1) / i
        total += term
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total


# --- renderers: results in, text out --------------------------------------------------------------------------


def table_text(results: Sequence[Result], page: Page) -> str:
    """Tables for a terminal, each with its title and notes, no wider than the page.

    Plain lines of our own: importing a library for tables takes as long as most answers.
    """
    lines: list[str] = []
    for result in results:
        columns, dropped = fitted(shown_columns(result), page.width)
        lines += [""] if lines else []
        lines += [styled(line, BOLD, page) for line in wrapped(printable(result.title), page.width)]
        lines += table_lines(columns, page)
        notes = (*result.notes, *left_off(dropped))
        lines += [styled(line, DIM, page) for note in notes for line in wrapped(printable(note), page.width)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def table_lines(columns: Sequence[ShownColumn], page: Page) -> list[str]:
    """Columns that fit the page as lines: labels, a rule, the rows; two blanks apart where there is room."""
    gap = 2 if sum(column.width for column in columns) + 2 * (len(columns) - 1) <= page.width else 1
    padded = [[aligned(cell, column) for cell in (column.label, *column.cells)] for column in columns]
    head, *rows = ((" " * gap).join(cells) for cells in zip(*padded, strict=True))
    rule = "─" * (sum(column.width for column in columns) + gap * (len(columns) - 1))
    return [styled(head.rstrip(), BOLD, page), rule, *rows]


def aligned(cell: str, column: ShownColumn) -> str:
    """A cell in the width of its column: text to the left, numbers to the right."""
    blanks = " " * (column.width - cell_count(cell))
    return cell + blanks if column.is_text else blanks + cell


def styled(line: str, style: str, page: Page) -> str:
    """A line in a terminal's style, where that is wanted."""
    return f"\x1b[{style}m{line}\x1b[0m" if page.colours and line else line


def wrapped(text: str, width: int) -> list[str]:
    """A sentence in lines of at most `width` terminal cells, broken between words where that is possible."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_count(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = lines[-1] or word
        while cell_count(lines[-1]) > width:
            fits = next(n for n in range(len(lines[-1]), 0, -1) if cell_count(lines[-1][:n]) <= width or n == 1)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def shown_columns(result: Result) -> list[ShownColumn]:
    """The columns that people see, as text."""
    table = result.table if result.for_people is None else result.for_people
    return [
        ShownColumn(
            label=printable(result.labels.get(name, name)),
            cells=cell_texts(table[name], result.null),
            is_text=not (table[name].dtype.is_numeric() or (result.numbers and i > 0)),
            is_whole=name == result.whole,
        )
        for i, name in enumerate(result.shown or table.columns)
        if name in table.columns
    ]


def cell_texts(values: pl.Series, null: str) -> list[str]:
    """Values as people read them; floats with as many decimals as their column needs."""
    spell = float_format(values.drop_nulls().to_list()) if values.dtype.is_float() else cell_text
    return [null if value is None else spell(value) for value in values.to_list()]


def float_format(values: Sequence[float]) -> Callable[[float], str]:
    """How to spell the numbers of a column, their points below each other: four significant digits of the largest.

    The smallest has three at least. Where four digits say all, as for most settings, each number stands as it is.

    >>> [float_format([0.01234567, 0.1])(x) for x in (0.01234567, 0.1)], float_format([0.001, 1e-4])(1e-4)
    (['0.0123', '0.1000'], '0.0001')
    """
    sizes = [math.floor(math.log10(abs(value))) for value in values if value and math.isfinite(value)]
    if all(float(f"{value:.4g}") == value for value in values if math.isfinite(value)) or not sizes:
        return cell_text
    if max(sizes) - min(sizes) > 2 or not -5 < min(sizes) < 7:  # too far apart, or too small or large, to line up
        return "{:.4g}".format
    return f"{{:.{max(0, 3 - max(sizes), 2 - min(sizes))}f}}".format


def cell_text(value: object) -> str:
    """A single value as people read it.

    >>> cell_text(0.001), cell_text(True), cell_text(["a", "b"])
    ('0.001', 'true', 'a, b')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, list):
        return ", ".join(map(cell_text, value))
    return printable(str(value))


def bounded(result: Result, most: int | None) -> Result:
    """`result` with as many rows as people want, or take by default."""
    return cut(result, result.most_rows if most is None else most)


def cut(result: Result, most: int | None) -> Result:
    """`result` with at most `most` rows (0: all), and a note on those left out."""
    people = result.table if result.for_people is None else result.for_people
    if not most or max(people.height, result.table.height) <= most:
        return result
    note = (f"{counted(people.height - most, 'more row')}: --max-rows 0 shows all",) if people.height > most else ()
    return replace(
        result,
        table=first_rows(result.table, most, result.share_rows_by),
        for_people=None if result.for_people is None else first_rows(people, most, result.share_rows_by),
        rows=None if result.rows is None else result.rows[:most],
        notes=(*result.notes, *note),
    )


def first_rows(table: pl.DataFrame, most: int, share_by: str | None) -> pl.DataFrame:
    """At most so many rows, from the top; where `share_by` is given, as many of each of its values as of the others."""
    share = pl.int_range(pl.len()).over(share_by) if share_by else pl.int_range(pl.len())
    return table.with_row_index("position").sort(share, "position").head(most).sort("position").drop("position")


def fitted(columns: Sequence[ShownColumn], width: int) -> tuple[list[ShownColumn], list[str]]:
    """Columns shortened to fit `width` together, and the labels of those for which there is no room."""
    widths: dict[int, int] = {}
    second = columns[1].least_width(NARROW) + 1 if len(columns) > 1 else 0  # a metric, where the first is a name
    for i, column in enumerate(columns):
        least = column.least_width(NARROW if widths else min(WIDE, max(width - second, 1)))
        if not widths or sum(widths.values()) + len(widths) + least <= width:  # with a blank between columns
            widths[i] = least
    spare = width - sum(widths.values()) - len(widths) + 1
    for i in sorted(widths, key=lambda i: (i > 0, columns[i].width)):  # what is left makes columns whole: the first,
        more = min(spare, columns[i].width - widths[i])  # then as many as it can
        widths[i] += more
        spare -= more
    fitting = [columns[i].shortened(cells) for i, cells in widths.items()]
    return fitting, [column.label for i, column in enumerate(columns) if i not in widths]


def left_off(labels: Sequence[str]) -> Iterator[str]:
    """A note on columns for which the page is too narrow."""
    if labels:
        some = ", ".join(shortened(label, WIDE) for label in labels[:3])
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        yield f"no room for {some}{more}: --columns chooses, --json and -o hold all"


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
    from rich.cells import cell_len

    return cell_len(text)


def markdown_text(results: Sequence[Result]) -> str:
    """Tables for pull requests and notes: the columns that a terminal shows, in full length."""
    return "\n".join(one_markdown_table(result) for result in results)


def one_markdown_table(result: Result) -> str:
    """A title, a table and its notes in GitHub's Markdown."""
    columns = shown_columns(result)
    rest = left_off([column.label for column in columns[MARKDOWN_COLUMNS:]])
    columns = columns[:MARKDOWN_COLUMNS]
    head = [markdown_cell(column.label) for column in columns]
    rule = ["---" if column.is_text else "---:" for column in columns]
    rows = zip(*(map(markdown_cell, column.cells) for column in columns), strict=True)
    table = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    notes = [f"- {markdown_cell(printable(note))}" for note in (*result.notes, *rest)]
    parts = [f"**{markdown_cell(printable(result.title))}**", "", *table, *([""] if notes else []), *notes]
    return "\n".join(parts) + "\n"


def markdown_cell(text: str) -> str:
    r"""`text` as Markdown that shows it literally.

    >>> print(markdown_cell("[red]a|b"))
    \[red]a\|b
    """
    return re.sub(r"([\\`*|<\[~])", r"\\\1", text)


def latex_text(results: Sequence[Result]) -> str:
    """Tables for a paper, with booktabs: the columns that a terminal shows, in full length; the best cells bold."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(one_latex_table(result) for result in results)


def one_latex_table(result: Result) -> str:
    """A title as a comment, a tabular, and the notes as comments."""
    columns = shown_columns(result)
    layout = "".join("l" if column.is_text else "r" for column in columns)
    head = [latex_cell(column.label) for column in columns]
    rows = list(zip(*(map(latex_cell, column.cells) for column in columns), strict=True))
    lines = [f"% {printable(result.title)}", f"\\begin{{tabular}}{{{layout}}}", "\\toprule"]
    lines += [f"{' & '.join(cells)} \\\\" + ("\n\\midrule" if i == 0 else "") for i, cells in enumerate((head, *rows))]
    return (
        "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {printable(note)}" for note in result.notes)]) + "\n"
    )


def latex_cell(text: str) -> str:
    r"""`text` as LaTeX that prints it literally; a pivot's best cell of a row is bold, of a column underlined.

    >>> print(latex_cell("50% of a_b"), latex_cell("0.5 ± 0.1 (3)*"))
    50\% of a\_b \textbf{0.5 $\pm$ 0.1 (3)}
    """
    bold, underlined = (bool(re.search(rf"\(\d+\).?{re.escape(mark)}", text)) for mark in (ROW_BEST, COLUMN_BEST))
    text = text.rstrip(ROW_BEST + COLUMN_BEST) if bold or underlined else text
    cell = "".join(
        LATEX.get(c, c if c.isascii() else f"{{[}}U+{ord(c):04X}{{]}}" if ord(c) > LATIN else c) for c in text
    )
    cell = f"\\textbf{{{cell}}}" if bold else cell
    return f"\\underline{{{cell}}}" if underlined else cell


def json_document(results: Sequence[Result]) -> dict[str, object]:
    """All results as one object: the rows of each question under its key, at full precision."""
    rows: dict[str, list[dict[str, object]]] = {}
    for result in results:
        rows.setdefault(result.key, []).extend(
            map(dict, result.rows) if result.rows is not None else result.table.to_dicts()
        )
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
    """A table as CSV at full precision, safe to open in a spreadsheet."""
    lists = [column for column, dtype in table.schema.items() if dtype == pl.List]
    flat = table.with_columns(pl.Series(name, map(json_text, table[name].to_list())) for name in lists)
    return flat.with_columns(harmless(pl.col(pl.String))).write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.fZ")


def harmless(text: pl.Expr) -> pl.Expr:
    """`text` without control characters, and with an apostrophe before what a spreadsheet would run as a formula.

    Text that is a number, such as -1e-3 in a column of mixed values, stays as it is.
    """
    clean = text.str.replace_all(r"[\p{Cc}--\t\r\n]", "\N{REPLACEMENT CHARACTER}")
    formula = clean.str.contains(r"^[=+\-@\t\r]") & ~clean.str.contains(r"^-\d+(\.\d+)?([eE][+-]?\d+)?$")
    return pl.when(formula).then("'" + clean).otherwise(clean).name.keep()


# --- renderers: pictures --------------------------------------------------------------------------------------


def write_picture(results: Sequence[Result], at: Path, ending: str, say: Say) -> None:
    """Draw one result: as PNG, SVG, or a page with the SVG in it that needs no network."""
    drawable = [result for result in results if result.key in ONE_PICTURE and result.table.height]
    if not drawable:
        raise ScriptError(f"there is nothing to draw; pictures show {', '.join(ONE_PICTURE)}", WRONG_USAGE)
    result = one_result(drawable, ONE_PICTURE, say)
    if ending == ".png":
        import vl_convert

        at.write_bytes(vl_convert.vegalite_to_png(chart_json(result, INK), scale=2))
    elif ending == ".svg":
        at.write_text(svg_text(result, INK), encoding="utf-8")
    else:
        at.write_text(html_page(result.title, [html_section(result)]), encoding="utf-8")


def svg_text(result: Result, ink: str) -> str:
    """The picture of a result; `ink` is the colour of its text and lines."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart_json(result, ink)))


def chart_json(result: Result, ink: str) -> str:
    """A Vega-Lite chart of a result: with its title on white, or in a page's ink and without either."""
    draw = {"curves": curves_chart, "pivot": pivot_chart, "groups": groups_chart, "top": top_chart}[result.key]
    lines = dict.fromkeys(("domainColor", "tickColor"), ink) | {"gridColor": ink, "gridOpacity": 0.15}
    axis = {"labelColor": ink, "titleColor": ink, "labelLimit": 400, "titleLimit": 400, "titleFontWeight": "normal"}
    alone = {"title": title_lines(result.title + left_undrawn(result)), "background": "white"}
    chart = (
        draw(result)
        .properties(**(alone if ink == INK else {"background": "transparent"}))
        .configure_axis(**axis, **lines)
        .configure_title(color=ink, anchor="start", fontSize=13)
        .configure_legend(labelColor=ink, titleColor=ink, labelLimit=400, symbolLimit=40)
        .configure_view(stroke=None)
    )
    return str(chart.to_json())


def left_undrawn(result: Result) -> str:
    """A clause on groups or runs that a picture has no room for; the best come first in every result."""
    if result.key == "curves":
        by = result.table.columns[: result.table.columns.index("x")]
        number, most = result.table.select(by).unique().height, MOST_LINES
    else:
        number, most = result.table.height, MOST_DRAWN
    return f"; the first {most} of {number} are drawn" if number > most and result.key != "pivot" else ""


def title_lines(title: str) -> list[str]:
    """A title in lines that a picture has room for."""
    return textwrap.wrap(printable(title), 80)


def named_rows(result: Result, names: Sequence[str]) -> pl.DataFrame:
    """The result's table with a column of its rows' names: what is compared, as people read it."""
    texts = [pl.Series(cell_texts(result.table[name], "null")) for name in names]
    joined = pl.select(pl.concat_str(texts, separator=" / ")).to_series() if texts else pl.Series([], dtype=pl.String)
    numbers = [name for name, dtype in result.table.schema.items() if dtype.is_float()]
    return result.table.with_columns(joined.alias(NAME), *(finite(name).alias(name) for name in numbers))


def top_chart(result: Result) -> Any:
    """A point per run, the best on top."""
    import altair as alt

    metric = next(name for name in result.table.columns if name not in {"name", *KEY, "state"})
    rows = (
        named_rows(result, ["name"])
        .head(MOST_DRAWN)
        .with_row_index("rank")
        .select("rank", NAME, pl.col(metric).alias("value"))
    )
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("value:Q", title=result.labels.get(metric, metric), scale=alt.Scale(zero=False)),
            y=alt.Y("rank:O", title=None, axis=alt.Axis(labelExpr=label_by_rank(rows[NAME].to_list()))),
        )
        .properties(width=PICTURE_WIDTH, height=alt.Step(18))
    )


def label_by_rank(names: Sequence[str]) -> str:
    """A Vega expression that gives a row's name by its number: two runs may have one name."""
    return f"{json.dumps([shortened(printable(name), LABEL_WIDTH) for name in names])}[datum.value]"


def groups_chart(result: Result) -> Any:
    """A point per group with its interval, the best on top."""
    import altair as alt

    by_median = any(note.startswith("sorted by median") for note in result.notes)
    stat = "median" if by_median else next(name for name in ("iqm", "mean") if name in result.table.columns)
    by = result.table.columns[: result.table.columns.index("metric")]
    rows = named_rows(result, by).with_row_index("rank").head(MOST_DRAWN)
    rows = rows.select("rank", NAME, pl.col(stat).alias("value"), "ci_low", "ci_high", "n")
    labels_ = [f"{name}  (n={n})" for name, n in rows.select(NAME, "n").iter_rows()]
    y = alt.Y("rank:O", title=None, axis=alt.Axis(labelExpr=label_by_rank(labels_)))
    base = alt.Chart(rows).encode(y=y)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("value:Q", title=f"{stat} and 95 % interval", scale=alt.Scale(zero=False))
    )
    spans = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q", color=alt.value(BLUE))
    return alt.layer(spans, points).properties(width=PICTURE_WIDTH, height=alt.Step(20))


def pivot_chart(result: Result) -> Any:
    """A field per cell, coloured by its mean, with mean and n in it."""
    import altair as alt

    table = result.table.filter(pl.col("n") > 0)
    spell = float_format(table["mean"].to_list())
    texts = [f"{spell(mean)} ({n})" for mean, n in table.select("mean", "n").iter_rows()]
    down, across = (cell_texts(table[name], "null") for name in ("rows", "columns"))
    rows = pl.DataFrame({"down": down, "across": across, "mean": table["mean"], "text": texts})
    x, y = (
        alt.X("across:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, orient="top")),
        alt.Y("down:N", title=None, sort=None),
    )
    fields = (
        alt.Chart(rows)
        .mark_rect()
        .encode(x=x, y=y, color=alt.Color("mean:Q", title="mean", scale=alt.Scale(scheme="blues")))
    )
    middle = (float(table["mean"].min() or 0) + float(table["mean"].max() or 0)) / 2  # type: ignore[arg-type]
    written = (
        alt.Chart(rows)
        .mark_text()
        .encode(
            x=x,
            y=y,
            text="text:N",
            color=alt.condition(f"datum.mean > {middle}", alt.value("white"), alt.value("black")),
        )
    )
    return alt.layer(fields, written).properties(width=alt.Step(110), height=alt.Step(30))


def curves_chart(result: Result) -> Any:
    """A line per group with the band of its interval, or a line per run. Values far beyond all others are cut off."""
    import altair as alt

    grouped = "mean" in result.table.columns
    by = result.table.columns[: result.table.columns.index("x")] if grouped else ["name"]
    value = "mean" if grouped else "value"
    rows = named_rows(result, by).filter(pl.col(value).is_finite())
    bounds = [finite(name) if grouped else pl.lit(None, dtype=pl.Float64).alias(name) for name in ("ci_low", "ci_high")]
    rows = rows.select(pl.col(NAME), "x", pl.col(value).alias("value"), *bounds)
    names = rows[NAME].unique(maintain_order=True).to_list()[:MOST_LINES]
    rows = rows.filter(pl.col(NAME).is_in(names))
    rows = rows.with_columns(pl.Series(NAME, [shortened(name, LABEL_WIDTH) for name in rows[NAME]], dtype=pl.String))
    colour = alt.Color(
        f"{NAME}:N", title=None, sort=None, legend=alt.Legend(orient="bottom", columns=2, symbolOpacity=1)
    )
    what, _, over = result.title.partition(" over ")
    scale = alt.Scale(zero=False, domain=readable_domain(rows["value"]) or alt.Undefined)
    base = alt.Chart(rows).encode(x=alt.X("x:Q", title=re.split(r"[,:]", over)[0]), color=colour)
    lines = base.mark_line(strokeWidth=1.8, clip=True).encode(y=alt.Y("value:Q", title=what.split(",")[0], scale=scale))
    bands = base.mark_area(opacity=0.15, clip=True).encode(y="ci_low:Q", y2="ci_high:Q")
    return alt.layer(lines, bands).properties(width=PICTURE_WIDTH, height=300)


def readable_domain(values: pl.Series) -> list[float]:
    """Where an axis is to begin and end, if single values would make all others a flat line; else empty."""
    low, middle, high = (float(values.quantile(share) or 0) for share in (0.02, 0.5, 0.9))
    least, most = float(values.min() or 0), float(values.max() or 0)  # type: ignore[arg-type]
    width = max(high - low, abs(middle) * 1e-3, 1e-300)
    cut_off = most > high + 20 * width or least < low - 20 * width
    return [max(least, low - width), min(most, high + width)] if cut_off else []


# --- renderers: pages -----------------------------------------------------------------------------------------


def html_page(title: str, sections: Sequence[str]) -> str:
    """A page that stands alone: no script, nothing from the network, light or dark as the reader has it."""
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    head += f"<title>{html.escape(printable(title))}</title><style>{STYLE}</style>"
    body = "".join(sections)
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body><main>{body}</main></body></html>\n"


def html_section(result: Result, most: int | None = None) -> str:
    """A result as a heading, its picture where it has one, its table with at most `most` rows, and its notes."""
    picture = ""
    if result.key in ONE_PICTURE and result.table.height:
        picture = f"<figure>{svg_text(result, 'currentColor')}</figure>"
    result = bounded(result, most)
    notes = "".join(f"<p class='note'>{html.escape(printable(note))}</p>" for note in result.notes)
    return f"<section><h2>{html.escape(printable(result.title))}</h2>{picture}{html_table(result)}{notes}</section>\n"


def html_table(result: Result) -> str:
    """The columns that people see as a table that scrolls sideways where it has to."""
    columns = shown_columns(result)
    kinds = ["" if column.is_text else " class='number'" for column in columns]
    head = "".join(f"<th{k}>{html.escape(c.label)}</th>" for k, c in zip(kinds, columns, strict=True))
    rows = zip(*(column.cells for column in columns), strict=True)
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{html.escape(cell)}</td>' for k, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def report_results(options: Options, everything: Runs, runs: Runs, metrics: Sequence[Metric], say: Say) -> list[Result]:
    """What a report shows, as asked or as suggests itself: the best runs, groups, a pivot, curves, what was varied."""
    runs, asked = grouping(options.group_by, runs, say)
    by = asked or suggested_grouping(runs)
    of_runs, of_groups = chosen_columns(options.columns, runs)
    results = [overview(everything)]
    if metrics:
        results.append(top(runs, metrics, options.top or REPORT_TOP, of_runs))
        results += [groups(runs, by, metric, of_groups, options.stat) for metric in metrics if by]
        pivots = options.pivot or (by if len(by) == 2 else ())
        results += [pivot(*grouping(pivots, runs, say), metrics[0])] if pivots else []
    for name in options.curves or curves_for(metrics, options, runs):
        results.append(curves(runs, name, by, options))
    results += varied(runs)
    if metrics and not options.curves:
        results.append(importance(runs, metrics[0]))
    return results


def curves_for(metrics: Sequence[Metric], options: Options, runs: Runs) -> list[str]:
    """The metric to draw curves of where none is named: the first metric's own, else its validation's or training's."""
    files = history_files(options.inputs, runs)
    names = [metric_label(part, column) for part in files for column in part.dtypes if column.startswith("metric_")]
    for metric in metrics[:1]:
        wanted = words(metric.label)[-1]
        for tier in ({"val", "valid", "validation", "eval"}, {"train", "training"}, set(words(metric.label))):
            for name in names:
                if wanted in words(name) and tier & set(words(name)):
                    return [name]
    return []


def write_report(results: Sequence[Result], file: Path, title: str, most: int | None) -> None:
    """The report as a page, or as Markdown, with at most `most` rows of each table."""
    with replacing(file) as partial:
        if file.suffix.lower() == ".md":
            text = markdown_text([bounded(result, most) for result in results])
            partial.write_text(f"# {markdown_cell(title)}\n\n{text}", encoding="utf-8")
        else:
            heading = f"<h1>{html.escape(printable(title))}</h1>"
            sections = [html_section(result, most) for result in results]
            partial.write_text(html_page(title, [heading, *sections]), encoding="utf-8")


# --- output ---------------------------------------------------------------------------------------------------


def deliver(results: Sequence[Result], options: Options, say: Say) -> None:
    """Write the file that was asked for, and show what is to be shown."""
    if sys.stdout is None and options.output is None:
        raise ScriptError(
            "stdout is closed: the answer has no place to go; open it, or name a file with -o", NOTHING_USABLE
        )
    shows = sys.stdout is not None and (options.output is None or options.format == "json" or sys.stdout.isatty())
    if not shows or options.format in {"json", "csv"}:  # no table for people, which would say them
        tell_findings(results, say)
    if options.output:
        write_results(results, options.output, say)
    if shows:
        sys.stdout.write(page_text(results, options, say))
    if options.output and options.format != "json":
        print(options.output)


def page_text(results: Sequence[Result], options: Options, say: Say) -> str:
    """What stdout shows of the results, in the format that was asked for."""
    if options.format == "json":
        files = {"files": [str(options.output)]} if options.output else {}
        return json_text({**json_document([cut(result, options.max_rows) for result in results]), **files}) + "\n"
    if options.format == "csv":
        return csv_text(one_table([cut(result, options.max_rows) for result in results], say))
    shown = [bounded(result, options.max_rows) for result in results]
    if options.format in {"markdown", "latex"}:
        return markdown_text(shown) if options.format == "markdown" else latex_text(shown)
    return table_text(shown, Page(shutil.get_terminal_size((LINE_WIDTH, 24)).columns, has_colours()))


def write_results(results: Sequence[Result], file: Path, say: Say) -> None:
    """Write every row of the results to `file`, in the format that its name ends in."""
    with replacing(file) as partial:
        match FILE_FORMATS[file.suffix.lower()]:
            case "json":
                partial.write_text(json_text(json_document(results)) + "\n", encoding="utf-8")
            case "markdown":
                partial.write_text(markdown_text(results), encoding="utf-8")
            case "latex":
                partial.write_text(
                    latex_text([each for each in results if each.key == one_result(results, ONE_TABLE, say).key]),
                    encoding="utf-8",
                )
            case "picture":
                write_picture(results, partial, file.suffix.lower(), say)
            case "csv":
                partial.write_text(csv_text(one_table(results, say)), encoding="utf-8")
            case _:
                write_parquet(one_table(results, say), partial)


def write_parquet(table: pl.DataFrame, file: Path) -> None:
    """Write `table`, marked as an answer, into `file`."""
    with unfinished_unnamed(file):
        table.write_parquet(file, compression="zstd", statistics=True, metadata={RESULT_KEY: str(JSON_VERSION)})


def one_result(results: Sequence[Result], keys: Sequence[str], say: Say) -> Result:
    """The result for formats that hold one, of the first of `keys` that there is; the rest is named."""
    chosen = next(
        result for key in (*keys, *(result.key for result in results)) for result in results if key == result.key
    )
    others = [result.title if result.key == chosen.key else result.key for result in results if result is not chosen]
    if others:
        say(f"one table fits: {chosen.key}; left out: {', '.join(dict.fromkeys(others))}")
    return chosen


def one_table(results: Sequence[Result], say: Say) -> pl.DataFrame:
    """The table for formats that hold one: the groups if there are any, else the best runs; the rest is named."""
    keys = list(dict.fromkeys(result.key for result in results))
    key = next(key for key in (*ONE_TABLE, *keys) if key in keys)
    if len(keys) > 1:
        say(f"one table fits: {key}; left out: {', '.join(other for other in keys if other != key)}")
    return pl.concat([result.table for result in results if result.key == key], how="vertical_relaxed")


def tell_findings(results: Sequence[Result], say: Say) -> None:
    """Say what a table would say around its rows."""
    for result in results:
        for line in (result.title, *result.notes):
            say(line)


def has_colours() -> bool:
    """Whether stdout is a terminal whose user takes colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
        reason = error.strerror or error
        raise ScriptError(
            f"{file} was not written: {reason}; free the place or choose another with -o", NOTHING_USABLE
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def unfinished_unnamed(file: Path) -> Iterator[None]:
    """Take the name of the unfinished `file` off an error of polars: the user knows the file by another."""
    try:
        yield
    except OSError as error:
        reason = str(error)  # it ends in the name, which may be cut short
        raise OSError(reason.partition(" (os error")[0] if file.suffix in reason else reason) from error


def speaker(*, quiet: bool) -> Say:
    """A function that tells people one line on stderr; when quiet, one that does not."""

    def say(message: str) -> None:
        if not quiet:
            with suppress(BrokenPipeError):  # nobody reads it; the work goes on
                print(printable(message), file=sys.stderr)

    return say


def printable(text: str) -> str:
    """`text` on one line, with control characters and direction overrides made visible: names are data.

    >>> printable(chr(27) + "[31m[red]") == chr(65533) + "[31m[red]"
    True
    """
    return "".join(c if c.isprintable() or c == ZERO_WIDTH_JOINER else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- command line ---------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> Options:
    """The command line as options."""
    parser = Parser(__doc__ or "")
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="runs files, or folders that hold some")

    questions = parser.add_argument_group("questions (several at once are welcome; none: an overview)")
    questions.add_argument("-t", "--top", type=positive, metavar="N", help="the N best runs and how they differ")
    questions.add_argument(
        "-g", "--group-by", action="append", metavar="A,B", help="statistics per value of these columns"
    )
    questions.add_argument(
        "--pivot", metavar="ROWS,COLUMNS", help="mean ± std (n) per combination of two columns' values"
    )
    questions.add_argument(
        "--curves", action="append", metavar="METRIC", help="over the steps, per run or by --group-by"
    )
    questions.add_argument(
        "--varying", action="store_true", help="which config columns vary, their values, the grid's holes"
    )
    questions.add_argument("--diff", nargs="+", metavar="RUN", help="what differs between runs, by id or name")
    questions.add_argument("--importance", action="store_true", help="which settings go with the metric")
    questions.add_argument("--schema", action="store_true", help="the columns, what they hold and how completely")
    questions.add_argument("--report", type=Path, metavar="FILE", help="all of it as one page: FILE.html or FILE.md")

    groups_ = parser.add_argument_group("groups")
    groups_.add_argument(
        "--stat", choices=("mean", "median", "iqm"), default="mean", help="what groups are compared by (default: mean)"
    )
    groups_.add_argument(
        "--best-per", action="append", metavar="A,B", help="first keep each one's best setting, by its mean over seeds"
    )

    curve = parser.add_argument_group("curves")
    curve.add_argument(
        "--x",
        metavar="AXIS",
        help="step, runtime, time or a metric such as epoch (default: its step metric, else step)",
    )
    curve.add_argument("--best-so-far", action="store_true", help="each run's best value up to there")
    curve.add_argument(
        "--points",
        type=positive,
        metavar="N",
        help=f"at most N of a curve (default: {CURVE_POINTS}, in pictures {PICTURE_POINTS})",
    )

    metric = parser.add_argument_group("metric")
    metric.add_argument(
        "-m", "--metric", action="append", metavar="NAME", help="what is compared (repeatable; --top takes the first)"
    )
    metric.add_argument(
        "--value",
        choices=tuple(VALUES),
        default="summary",
        help="of each run (default: the summary's; others: aggregate_runs --history)",
    )
    goal = metric.add_mutually_exclusive_group()
    goal.add_argument("--ascending", dest="goal", action="store_const", const="minimize", help="lower is better")
    goal.add_argument("--descending", dest="goal", action="store_const", const="maximize", help="higher is better")

    selection = parser.add_argument_group("which runs")
    selection.add_argument("-f", "--filter", metavar="REGEX", help="runs whose name matches, in any case")
    selection.add_argument(
        "--where", metavar="SQL", help='a predicate over the columns, such as "config_lr < 0.01 AND k = 16"'
    )
    selection.add_argument(
        "-s",
        "--state",
        action="append",
        metavar="STATE",
        help="runs in this state (default: finished; all; repeatable)",
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write to FILE.csv, .json, .parquet, .md, .tex, .png, .svg or .html",
    )
    output.add_argument(
        "--columns", action="append", metavar="A,B", help="show these columns, of the runs or of the statistics"
    )
    output.add_argument("--max-rows", type=not_negative, metavar="N", help="show at most N rows of each table (0: all)")
    output.add_argument(
        "--format",
        choices=("table", "json", "csv", "markdown", "latex"),
        default="table",
        help="of stdout (default: table)",
    )
    output.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    output.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")

    args = parser.parse_strictly(argv)
    files, diff = files_and_runs(args.diff or ())
    if diff and len(diff) < 2:
        raise ScriptError("--diff needs two runs or more, by id or name", WRONG_USAGE)
    return Options(
        inputs=(*args.inputs, *files),
        group_by=comma_separated(args.group_by),
        stat=args.stat,
        best_per=comma_separated(args.best_per),
        pivot=two_columns(args.pivot),
        varying=args.varying,
        diff=diff,
        importance=args.importance,
        curves=comma_separated(args.curves),
        x=args.x,
        best_so_far=args.best_so_far,
        points=args.points,
        report=known_report(args.report),
        value=args.value,
        where=args.where,
        top=args.top,
        schema=args.schema,
        metrics=comma_separated(args.metric),
        goal=args.goal,
        name_pattern=args.filter,
        states=known_states(comma_separated(args.state) or ("finished",)),
        states_given=bool(comma_separated(args.state)),
        columns=comma_separated(args.columns),
        max_rows=args.max_rows,
        format=args.format,
        output=known_ending(args.output),
        quiet=args.quiet,
    )


def files_and_runs(names: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """What follows --diff, parted: an input that was named last is no run."""
    files = [name for name in names if name.endswith(".parquet") or Path(name).is_dir()]
    return [Path(name) for name in files], tuple(name for name in names if name not in files)


def two_columns(text: str | None) -> tuple[str, ...]:
    """The columns of --pivot."""
    columns = comma_separated([text]) if text else ()
    if text and len(columns) != 2:
        raise ScriptError(f"--pivot {text}: write two columns, ROWS,COLUMNS", WRONG_USAGE)
    return columns


def known_report(file: Path | None) -> Path | None:
    """`file`, if a report can be written so."""
    if file and file.suffix.lower() not in {".html", ".md"}:
        raise ScriptError(f"--report {file}: the name must end in .html or .md", WRONG_USAGE)
    return file


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


def known_states(states: tuple[str, ...]) -> tuple[str, ...]:
    """The states to keep, in lower case; none for all."""
    chosen = tuple(state.lower() for state in states)
    for state in chosen:
        if state not in {*STATES, "all"}:
            near = did_you_mean(state, [*STATES, "all"]) or f"; there are all, {', '.join(STATES)}"
            raise ScriptError(f"--state {state}: no such state{near}", WRONG_USAGE)
    return () if "all" in chosen else chosen


def known_ending(file: Path | None) -> Path | None:
    """`file`, if its ending names a format."""
    if file and file.suffix.lower() not in FILE_FORMATS:
        raise ScriptError(f"-o {file}: the name must end in {', '.join(FILE_FORMATS)}", WRONG_USAGE)
    return file


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help is the manual, and whose errors are one line that names the nearest flag."""

    def __init__(self, manual: str) -> None:
        super().__init__(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The parsed command line; an unknown argument is a ScriptError."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            flags = re.findall(r"--[a-z][a-z-]+", self.format_help())
            near = did_you_mean(unknown[0], flags)
            raise ScriptError(f"unknown argument {unknown[0]}{near}; --help lists all", WRONG_USAGE)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise ScriptError(f"{message}; --help shows how it is used", WRONG_USAGE)


def comma_separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of a flag that repeats or takes commas.

    >>> comma_separated(["a,b", "c"])
    ('a', 'b', 'c')
    """
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def guarded(work: Callable[[], int], *, debug: bool) -> int:
    """The exit code of `work`: the only place where exceptions become messages."""
    tolerate_any_text()
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except ScriptError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if debug:
            raise
        print(
            f"error: {error.filename or 'stdout'}: {error.strerror or error}; see to it and run again", file=sys.stderr
        )
        return NOTHING_USABLE
    except Exception as error:
        if debug:
            raise
        bug = f"a bug in this script: {error!r}"
        print(f"error: {printable(bug)}; run it again with --debug and report what it prints", file=sys.stderr)
        return NOTHING_USABLE
    return code


def import_libraries() -> None:
    """Import what takes time, once the command line is right."""
    global pl
    import polars as pl


def analyze(options: Options) -> int:
    """Answer what was asked."""
    import_libraries()
    say = speaker(quiet=options.quiet)
    files, remarks = choose_inputs(options.inputs)
    refuse_overwriting(files, options.output or options.report)
    everything = open_inputs(files)
    filters = chosen_filters(options, everything)
    runs = kept_runs(everything, filters)
    for line in (*remarks, *accounted(everything, filters)):
        say(line)
    metrics = chosen_metrics(options, runs)
    for metric in metrics:
        others = kept_runs(everything, [chosen for chosen in filters if not chosen.flag.startswith("--state")])
        for line in (
            *metric.remarks,
            *diverged_histories(runs, metric),
            *dropped_results(others, options.states, metric),
        ):
            say(line)
    if asks(options):
        deliver(answers(options, everything, runs, metrics, say), options, say)
    if options.report:
        results = report_results(options, everything, runs, metrics, say)
        title = f"Runs of {', '.join(map(str, files[:FEW]))}"
        write_report(results, options.report, title, options.max_rows)
        if options.format != "json":
            print(options.report)
        elif not asks(options):
            print(json_text({**json_document(results), "files": [str(options.report)]}))
    return OK


def asks(options: Options) -> bool:
    """Whether a question is asked whose answer is to be shown beside the report."""
    return options.report is None or bool(options.output)


def refuse_overwriting(files: Sequence[Path], output: Path | None) -> None:
    """Raise where the answer would replace what it is computed from, or other runs."""
    if output is None:
        return
    if output.resolve() in {file.resolve() for file in files}:
        raise ScriptError(f"-o {output} is an input; choose another name", WRONG_USAGE)
    try:
        lost = output.is_file() and holds_runs(output)
    except ScriptError:  # no parquet file
        lost = False
    if lost:
        raise ScriptError(f"-o {output} holds runs, which would be lost; choose another name", WRONG_USAGE)


def tolerate_any_text() -> None:
    """Let a name from W&B that the terminal's encoding lacks be printed all the same."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out."""
    arguments = sys.argv[1:] if argv is None else argv
    return guarded(lambda: analyze(parse_args(arguments)), debug="--debug" in arguments)


def leave(code: int) -> NoReturn:
    """End at once: all is written, and what is left, such as threads that wait for a server, would hold the process."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it may be closed, or None
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
