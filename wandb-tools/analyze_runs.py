#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "polars>=2.1,<3",
#   "rich>=15,<16",
# ]
# ///
"""Answer questions about W&B runs: which are best, and which settings are better than others.

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

Names: a column or metric goes by its column (metric_test_mse), its W&B name (test/mse) or its flattened name
(test_mse). A metric of which define_metric keeps only the minimum, maximum, mean or last value is found too.

Best: lower or higher, as --ascending or --descending say, else as the stored goal says (define_metric, a
sweep), else as the metric's name suggests; the reason is printed. NaN and infinities are counted, never
averaged, never best.

Groups: runs counts a group's runs, n those with a finite value; std has n - 1 in its denominator; sem is the
standard error of the mean; ci_low and ci_high bound the mean's 95 percent interval by Student's t. Runs without
a value of a column are a group of their own, null. A table shows what fits; json, csv and parquet hold all.

Exit codes:
  0    answered
  1    nothing usable: no input, unreadable input, no run left (the filter that left none is named)
  2    wrong usage: an unknown flag, column or metric, or inputs that do not fit together
  130  interrupted
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

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

CONFIDENCE = 0.95
EXACT_T_UP_TO = 1000  # degrees of freedom; past it the expansion is right to 11 digits, the series slow
STATISTICS = (
    *("runs", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high", "min", "median", "max"),
    *("best_run", "best_run_id"),
)
FINITE = "_finite"  # a column of our own; those of the contract have other names
SHOWN_STATISTICS = ("n", "mean", "std", "min", "median", "max", "best_run")  # what fits 80 columns

OVERVIEW_TOP = 5
SUGGESTED_GROUPS = 12  # more are no overview
SUGGESTED_NAMES = 5  # where no name is near; --schema lists all
MOST_GROUPS, MOST_PROJECTS, MOST_COLUMNS = 20, 8, 48  # rows that people see by default: about 4 kB in all
FILE_FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown"}
LINE_WIDTH = 80  # where no terminal says otherwise
NARROW, WIDE = 12, 24  # what a shortened text keeps at least: any column, the first one
MARKDOWN_COLUMNS = 14  # a page scrolls sideways, but not for ever
ELLIPSIS = "…"
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
    top: int | None
    schema: bool
    metrics: tuple[str, ...]
    goal: Goal | None
    name_pattern: str | None
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
    return Runs(frame, dtypes, {column: tuple(path) for column, path in paths.items()}, goals)


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


def collected(frame: pl.LazyFrame) -> pl.DataFrame:
    """The rows of `frame`: where the files are really read."""
    try:
        return frame.collect(engine="streaming")
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
    if options.schema and options.top is None and not options.group_by:
        return []
    if options.metrics:
        return [find_metric(name, runs, options.goal) for name in options.metrics]
    column = default_metric(runs)
    if column is None:
        return []
    metric = with_direction(column, runs, options.goal)
    return [metric._replace(remarks=(f"metric: {metric.label} (--metric chooses another)",))]


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


def chosen_filters(options: Options) -> list[Filter]:
    """The filters that the user asked for, in the order in which they apply."""
    filters = []
    if options.states:
        keeps = pl.col("state").is_in(options.states)
        filters.append(Filter(f"--state {','.join(options.states)}", keeps, by_default=not options.states_given))
    if options.name_pattern is not None:
        filters.append(Filter(f"--filter {options.name_pattern}", name_matches(options.name_pattern)))
    return filters


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


# --- questions: runs in, a result out -------------------------------------------------------------------------


def answers(options: Options, everything: Runs, runs: Runs, metrics: Sequence[Metric]) -> list[Result]:
    """The results of the questions that were asked; `runs` are those of `everything` that passed the filters."""
    of_runs, of_groups = chosen_columns(options.columns, runs)
    by = list(dict.fromkeys(find_column(name, runs) for name in options.group_by))
    results = []
    if options.schema:
        results.append(schema(runs, of_runs))
    if options.top is not None:
        results.append(top(runs, required(metrics), options.top, of_runs))
    if by:
        results += [groups(runs, by, metric, of_groups) for metric in required(metrics)]
    return results or introduction(everything, runs, metrics, of_runs)


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


def top(runs: Runs, metrics: Sequence[Metric], count: int, columns: Sequence[str]) -> Result:
    """The best runs by the first metric, with `columns` or else all but the JSON texts; shown is what varies.

    Runs without a finite value are no candidates. Equal values stand in the order of the runs' keys.
    """
    metric = metrics[0]
    best = best_runs(runs, metric, count)
    fixed = list(dict.fromkeys(["name", *(each.column for each in metrics), *KEY, "state"]))
    others = columns or [column for column in runs.dtypes if not column.startswith("_")]
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


def groups(runs: Runs, by: Sequence[str], metric: Metric, columns: Sequence[str]) -> Result:
    """Statistics of a metric per combination of the values of `by`, the best mean first."""
    refuse_ambiguous(by)
    table = group_statistics(runs, by, metric).sort(
        "mean", *by, descending=[metric.goal == "maximize", *(False for _ in by)], nulls_last=True
    )
    complete = (table["runs"] == table["n"]).all()
    shown = [*by, *(() if complete else ("runs",)), *SHOWN_STATISTICS]
    sizes = f"{counted(table.height, 'group')} of {counted(int(table['runs'].sum()), 'run')}"
    return Result(
        key="groups",
        title=f"{metric.label} by {', '.join(map(runs.label, by))}: {sizes}; {metric.direction}",
        table=table.select(*by, pl.lit(metric.column).alias("metric"), *STATISTICS),
        shown=[column for column in columns if column in {*by, *STATISTICS}] or shown,
        labels={**labels(by, runs), "best_run": "best run", "best_run_id": "best run's id"},
        notes=tuple(cautions(table, by)),
        null="null",
        most_rows=MOST_GROUPS,
    )


def refuse_ambiguous(by: Sequence[str]) -> None:
    """Raise where a column to group by is called like a column of the answer."""
    clash = next((column for column in by if column in {*STATISTICS, "metric"}), None)
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
        shown=("column", "dtype", "coverage", "distinct", "min", "max", "example"),
        whole="column",
        most_rows=MOST_COLUMNS,
        share_rows_by="kind",
    )


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


# --- statistics -----------------------------------------------------------------------------------------------


def group_statistics(runs: Runs, by: Sequence[str], metric: Metric) -> pl.DataFrame:
    """A row of statistics per group; null where nothing can be said.

    The best run comes first in its group, as runs are sorted by value, then key. No filter stands inside the
    aggregations: there polars 2.1 can return values of other groups (its issues 27759 and 29322).
    """
    value = pl.col(FINITE)
    ranked = runs.frame.with_columns(finite(metric.column).alias(FINITE)).sort(
        FINITE, *KEY, descending=[metric.goal == "maximize", *(False for _ in KEY)], nulls_last=True
    )
    table = ranked.group_by(by, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("runs"),
        value.count().cast(pl.Int64).alias("n"),
        (pl.col(metric.column).count() - value.count()).cast(pl.Int64).alias("n_nonfinite"),
        value.mean().alias("mean"),
        value.std(ddof=1).alias("std"),
        value.min().alias("min"),
        value.median().alias("median"),
        value.max().alias("max"),
        pl.col("name").first().alias("best_run"),
        pl.col("id").first().alias("best_run_id"),
    )
    return with_intervals(collected(table)).with_columns(
        pl.when(pl.col("n") > 0).then(pl.col("best_run", "best_run_id")).name.keep()
    )


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


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, for Student's t with `freedom` degrees.

    Few degrees: the exact series below, inverted by halving the interval in which the angle lies. Many: the
    expansion around the normal quantile, Abramowitz & Stegun 26.7.5.

    >>> round(t_quantile(4), 6), round(t_quantile(10_000), 6)
    (2.776445, 1.960201)
    """
    if freedom > EXACT_T_UP_TO:
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
    """Tables for a terminal, each with its title and notes, no wider than the page."""
    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        width=page.width,
        force_terminal=page.colours,
        no_color=not page.colours,
        legacy_windows=False,
    )
    with console.capture() as captured:
        for i, result in enumerate(results):
            columns, dropped = fitted(shown_columns(result), page.width)
            console.print(Text("\n" * bool(i) + printable(result.title), style="bold"))
            console.print(rich_table(columns, page.width))
            for note in (*result.notes, *left_off(dropped)):
                console.print(Text(printable(note), style="dim"))
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def rich_table(columns: Sequence[ShownColumn], width: int) -> Table:
    """Columns that fit `width` as a table of rich: names are plain Text, never markup."""
    from rich.box import SIMPLE_HEAD  # draws one blank between columns
    from rich.table import Table
    from rich.text import Text

    airy = sum(column.width for column in columns) + 2 * (len(columns) - 1) <= width
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1 if airy else 0, 0, 0))
    for column in columns:
        table.add_column(Text(column.label), justify="left" if column.is_text else "right", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table


def shown_columns(result: Result) -> list[ShownColumn]:
    """The columns that people see, as text."""
    return [
        ShownColumn(
            label=printable(result.labels.get(name, name)),
            cells=cell_texts(result.table[name], result.null),
            is_text=not result.table[name].dtype.is_numeric(),
            is_whole=name == result.whole,
        )
        for name in result.shown
        if name in result.table.columns
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


def cut(result: Result, most: int | None) -> Result:
    """`result` with at most `most` rows (0: all), and a note on those left out."""
    table = result.table
    if not most or table.height <= most:
        return result
    share = pl.int_range(pl.len()).over(result.share_rows_by) if result.share_rows_by else pl.int_range(pl.len())
    kept = table.with_row_index("position").sort(share, "position").head(most).sort("position").drop("position")
    note = f"{counted(table.height - most, 'more row')}: --max-rows 0 shows all"
    return replace(result, table=kept, notes=(*result.notes, note))


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


def json_document(results: Sequence[Result]) -> dict[str, object]:
    """All results as one object: the rows of each question under its key, at full precision."""
    rows: dict[str, list[dict[str, object]]] = {}
    for result in results:
        rows.setdefault(result.key, []).extend(result.table.to_dicts())
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
    bounded = [cut(result, result.most_rows if options.max_rows is None else options.max_rows) for result in results]
    if options.format == "markdown":
        return markdown_text(bounded)
    return table_text(bounded, Page(shutil.get_terminal_size((LINE_WIDTH, 24)).columns, has_colours()))


def write_results(results: Sequence[Result], file: Path, say: Say) -> None:
    """Write every row of the results to `file`, in the format that its name ends in."""
    with replacing(file) as partial:
        match FILE_FORMATS[file.suffix.lower()]:
            case "json":
                partial.write_text(json_text(json_document(results)) + "\n", encoding="utf-8")
            case "markdown":
                partial.write_text(markdown_text(results), encoding="utf-8")
            case "csv":
                partial.write_text(csv_text(one_table(results, say)), encoding="utf-8")
            case _:
                write_parquet(one_table(results, say), partial)


def write_parquet(table: pl.DataFrame, file: Path) -> None:
    """Write `table`, marked as an answer, into `file`."""
    with unfinished_unnamed(file):
        table.write_parquet(file, compression="zstd", statistics=True, metadata={RESULT_KEY: str(JSON_VERSION)})


def one_table(results: Sequence[Result], say: Say) -> pl.DataFrame:
    """The table for formats that hold one: the groups if there are any, else the best runs; the rest is named."""
    keys = list(dict.fromkeys(result.key for result in results))
    key = next(key for key in ("groups", "top", *keys) if key in keys)
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
    questions.add_argument("--schema", action="store_true", help="the columns, what they hold and how completely")

    metric = parser.add_argument_group("metric")
    metric.add_argument(
        "-m", "--metric", action="append", metavar="NAME", help="what is compared (repeatable; --top takes the first)"
    )
    goal = metric.add_mutually_exclusive_group()
    goal.add_argument("--ascending", dest="goal", action="store_const", const="minimize", help="lower is better")
    goal.add_argument("--descending", dest="goal", action="store_const", const="maximize", help="higher is better")

    selection = parser.add_argument_group("which runs")
    selection.add_argument("-f", "--filter", metavar="REGEX", help="runs whose name matches, in any case")
    selection.add_argument(
        "-s",
        "--state",
        action="append",
        metavar="STATE",
        help="runs in this state (default: finished; all; repeatable)",
    )

    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE.csv, .json, .parquet or .md")
    output.add_argument(
        "--columns", action="append", metavar="A,B", help="show these columns, of the runs or of the statistics"
    )
    output.add_argument("--max-rows", type=not_negative, metavar="N", help="show at most N rows of each table (0: all)")
    output.add_argument(
        "--format", choices=("table", "json", "csv", "markdown"), default="table", help="of stdout (default: table)"
    )
    output.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    output.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")

    args = parser.parse_strictly(argv)
    return Options(
        inputs=tuple(args.inputs),
        group_by=comma_separated(args.group_by),
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
    """Import what takes time, once the command line is right; rich follows where a table is made."""
    global pl
    import polars as pl


def analyze(options: Options) -> int:
    """Answer what was asked."""
    import_libraries()
    say = speaker(quiet=options.quiet)
    files, remarks = choose_inputs(options.inputs)
    refuse_overwriting(files, options.output)
    everything = open_inputs(files)
    filters = chosen_filters(options)
    runs = kept_runs(everything, filters)
    for line in (*remarks, *accounted(everything, filters)):
        say(line)
    metrics = chosen_metrics(options, runs)
    for metric in metrics:
        for line in (*metric.remarks, *dropped_results(everything, options.states, metric)):
            say(line)
    deliver(answers(options, everything, runs, metrics), options, say)
    return OK


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


if __name__ == "__main__":
    raise SystemExit(main())
