#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "duckdb>=1.4,<3",
#   "polars>=2.1,<3",
#   "tabulate[widechars]>=0.10,<0.11",
#   "tzdata>=2025.2,<2100",
#   "vl-convert-python>=1.8,<2",
# ]
# ///
"""Answer questions about W&B runs: which are best, which settings are better, what was tried, how training went.

Reads the runs files of export_runs.py, or the merged file of aggregate_runs.py. Without an input, it reads
analysis/unified.parquet if that is newer than all exports in wandb_export/, else the newest export there. Without a
question, it shows an overview, the best runs and a first comparison.

Examples:
  uv run wandb-tools/analyze_runs.py --schema
  uv run wandb-tools/analyze_runs.py --top 10 --metric test/mse --state all
  uv run wandb-tools/analyze_runs.py --group-by '!seed' --where "optim.lr < 0.1" --json | jq '.groups[0]'
  uv run wandb-tools/analyze_runs.py --best-per arch --group-by arch --stat iqm --filter 'stage2.*gnn'
  uv run wandb-tools/analyze_runs.py --pivot stage,arch -o table.tex
  uv run wandb-tools/analyze_runs.py --curves val/mse --group-by arch --smooth 0.6 --log -o curves.svg
  uv run wandb-tools/analyze_runs.py --sql 'SELECT arch, corr("optim.lr", "test/mse") FROM runs GROUP BY arch'
  uv run wandb-tools/analyze_runs.py --varying --importance --health --report report.html

Names. Write a metric or setting as its column (metric_test_mse), as in W&B (test/mse), or flattened (test_mse). A name
that a metric and a setting share means the setting, except in --metric, --curves and --x. Runs are identified by
entity, project and id; where names of shown runs repeat, the id stands beside them.

Values. A run is compared by the value in its summary, usually the last one. --value takes another, which
aggregate_runs.py --history must have added: the min, max, last or tail (mean of the last tenth) of its history, or at
(the value at the step where the metric of aggregate_runs.py --at was best).

Runs. Only finished runs are used, or all runs if none is finished; --state changes this. --schema, --sql and --health
use runs in all states.

Direction. Whether lower or higher is better is taken from --ascending or --descending, else from define_metric or the
sweep, else from the metric's name. The output says which. NaN and infinity are counted, but never averaged or best.

Groups. `runs` is the number of runs of a group, `n` the number with a finite value; std is computed with n - 1; sem is
the standard error of the mean; ci_low and ci_high are the 95 % interval of the mean by Student's t. A missing value
forms a group called null. --group-by takes columns; '!seed' stands for all settings that vary, except the seed; lr:4
makes up to four ranges with about equally many runs. The best two groups are compared by Welch's t-test; "within noise"
means p of 0.05 or more. --best-per arch uses only the best setting of each arch, by the mean over its seeds. --stat
median or iqm (mean of the middle half) compares groups by these, with bootstrap intervals for 8 values or more.

Curves need history files (export_runs.py --include-history) in the folders of the exports. At each point, a run has
its last value up to that point, from its first step to its last; a group has the mean of its runs, and n is their
number. Points are added where a run ends, and where half of a group's runs have ended. A run has diverged where all its
values to the end are NaN, infinite or, if lower is better, over ten times its first and a thousand times its lowest
(positive) value before: from there on, its group's mean leaves it out. Values of kl, kld, divergence, regret and
violations grow from about zero, and are not compared so. --smooth is W&B's exponential moving average.

Pictures. The value axis is logarithmic with --log, or if all values are positive and the largest is over 10,000 times
the smallest. Extreme values and wide intervals are cut off, and the picture says so. The mean of a group is drawn while
more than half of its runs go on. -o FILE.html is interactive: zoom, values under the pointer, a click in the legend
hides a curve. --report has no script. Both load nothing from elsewhere.

SQL. --sql takes one SELECT, and --where a condition, in DuckDB's dialect. The views are runs and, if exported, history,
console, system and table_<key>; --schema names them. Write columns by their names, or by their W&B names in double
quotes; times are in UTC. Other files cannot be read, and nothing can be written.

Health shows each problem of each run; first the runs with the worst, in this order, and last those without a metric:
  diverged       a metric that should be low ends at more than ten times its first and a thousand times its best
                 (positive) value; kl, kld, divergence, regret and violations grow from about zero, and are not checked
  non-finite     NaN or infinity in a metric, and its first step
  past its best  a validation metric is best in its first two thirds, and ends worse by more than 10 % of its range;
                 runtime, latency, throughput and fps are not checked
  spikes         loss values far above the medians of the fifty values before and of the fifty after: by more than ten
                 median absolute deviations (or, where most values are equal, more than twice as high). The first and
                 the last value and runs of fewer than 51 values are not checked
  failed, crashed: the state of the run; with the error in its console, or else its last line but for progress bars, if
                 the console was exported
  stopped early  the last step is below half the median of the W&B group (of three runs or more), else of the project,
                 with the runs that the filters leave out
  no metric      no number is in the summary or in the history

Importance is association, not cause: effect is eta squared of the Kruskal-Wallis test over the values of a setting (or
over ranges, for numbers with many values); sign is + if the metric grows with the setting, ~ if it grows and falls; p
is by the F-test of ranks.

Exit codes: 0 answered; 1 nothing usable: no input, an unreadable input, or no run left (the filter is named); 2 wrong
usage: an unknown flag, column or metric, an SQL statement other than SELECT, or inputs that do not fit together; 3 some
damaged files in a folder were left out and are named; 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import html
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias
from urllib.parse import unquote

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import polars.selectors as cs

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

RESULT_KEY = "wandb_tools.result"  # in the metadata of a parquet file that this script wrote: it is no input
EXPORT_KEY = "wandb_tools.export_id"  # files that one export wrote carry the same
TABLE_KEY = "wandb_tools.table"  # in the metadata of a W&B Table's file: the key that it was logged under
UNIFIED_FILE, EXPORT_FOLDER = Path("analysis/unified.parquet"), Path("wandb_export")  # the default inputs

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
KEY = ("entity", "project", "id")  # what makes a run unique
BY_RUN: dict[str, Any] = {"on": KEY, "how": "left", "nulls_equal": True, "maintain_order": "left"}  # for a join
RUN_COLUMNS = {*KEY, "name", "state", "created_at"}  # what makes a file a runs file
ROW_COLUMNS = {"run_id", "entity", "project"}  # what all other files of an export have
# The views of --sql, and the columns of their files. The first view that fits is a file's; other files have none.
VIEWS = {"table": {*ROW_COLUMNS, "row"}, "runs": RUN_COLUMNS, "console": {*ROW_COLUMNS, "line", "text"}}
VIEWS |= {"history": {*ROW_COLUMNS, "_step"}, "system": {*ROW_COLUMNS, "_timestamp"}}
IDENTITY = {*RUN_COLUMNS, "heartbeat_at", "runtime_s", "last_step", "history_rows", "tags", "group", "job_type"}
IDENTITY |= {"sweep", "user", "notes", "commit", "url", "host", "os", "python", "command", "gpu", "gpu_count"}
IDENTITY |= {"exported_at", "source_file", "_config_json", "_summary_json"}
TIMES = {"created_at", "heartbeat_at", "exported_at"}  # of these; tags are lists, the rest is text
NUMBERS = {"runtime_s", "last_step", "history_rows", "gpu_count", "_step", "_runtime", "_timestamp", "line"}
KINDS = ("derived", "config", "metric", "history", "identity")  # of columns, in the order of --schema
DERIVED = ("stage", "arch", "model_type", "protocol", "k", "lr_parsed", "wd_parsed", "eps_parsed")  # in this order
NAMED_PREFIXES = ("config_", "metric_")  # the columns that W&B's names stand for, in this order
SUMMARIES = {"min": "minimum", "max": "maximum", "best": "best value", "last": "last value", "mean": "mean"}
SUMMARIES |= {"first": "first value"}  # of define_metric
GOAL_HINT = "add --ascending or --descending"
VALIDATION = {"val", "valid", "validation", "eval"}
# Which value stands for a run: the summary's, or one that aggregate_runs --history computed.
VALUES = {"summary": "summary", "min": "lowest of its history", "max": "highest of its history"}
VALUES |= {"last": "last of its history", "tail": "mean of its history's last tenth", "at": "at the best step"}

SIGNIFICANT = 0.05  # p-values from here on are noise; intervals hold the rest, 95 %
RESAMPLES, SEED = 10_000, 0  # of the bootstrap
LEAST_RESAMPLED, ROUGH_BELOW = 8, 20  # at n = 3 these intervals cover 77 %: none below 8, rough below 20
CELLS_READ = 20_000_000  # values of columns held at once: 160 MB
CELLS_WRITTEN = 500_000  # values that become text at once
FEWEST_RUNS = 10  # of --importance: fewer are refused
MOST_LEVELS, RUNS_A_LEVEL = 8, 5  # of --importance: numbers with more values form ranges with at least so many runs
STATISTICS: tuple[str, ...] = ("runs", "n", "n_nonfinite", "iqm", "mean", "std", "sem", "ci_low", "ci_high")
STATISTICS += ("min", "median", "max", "best_run", "best_run_id", "best_step")  # iqm: of --stat; best_step: of --value
# Columns that this script adds while it computes: with a blank, which no name in an exported file has.
FINITE, VALUE, RUN_NUMBER, FILE_NUMBER, RANK = "finite value", "a value", "run number", "file number", "its rank"
DIVERGED_AT = "x from which a run has diverged"
BEST_RUN = {"entity": "best entity", "project": "best project", "id": "best_run_id", "name": "best_run"}
CURVE_POINTS, PICTURE_POINTS = 13, 200  # of each curve in a table, in a picture
MOST_CURVES, MOST_CURVE_ROWS = 8, 200_000  # in a table; in JSON, csv and parquet
# Of --health: the worst first, but runs without a metric last, whatever else they have.
PROBLEMS = ["diverged", "non-finite", "past its best", "spikes", "failed", "crashed", "stopped early", "no metric"]
DIVERGED = 1000  # a value this many times the lowest before it, where lower is better
GROW_FROM_ZERO = {"kl", "kld", "divergence", "regret", "violation", "violations"}  # words of metrics that may grow so
SPIKE_WINDOW = 51  # a value and the fifty before or after it; --health's other limits stand in the manual and there
# Types of DuckDB's that JSON or polars lack, and what they become.
DUCKDB_TYPES = {r"ENUM\(('([^']|'')*'(, )?)*\)": "VARCHAR", r"DECIMAL\([\d, ]+\)|BIGNUM|UHUGEINT": "DOUBLE"}
DUCKDB_TYPES |= {r"TIMESTAMP\w*( WITH TIME ZONE)?": "TIMESTAMPTZ", r".*\b(UNION\(|VARIANT|GEOMETRY).*": "VARCHAR"}
DUCKDB_TYPES |= {r"\b(INTERVAL|UUID|BLOB|BIT|DATE|TIME(_NS| WITH TIME ZONE)?)\b": "VARCHAR", r"HUGEINT(?=\W)": "BIGINT"}

FILE_FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown", ".tex": "latex"}
FILE_FORMATS |= {".png": "png", ".svg": "svg", ".html": "html"}
PICTURES_OF = ("curves", "pivot", "groups", "top")  # the questions that have a picture, the first ones first
LABEL_WIDTH, LEGEND_WIDTH = 48, 32  # characters of a name in a line or beside a point; in a legend
MOST_DRAWN, MOST_LINES = 40, 10  # points or groups in a picture, curves in a picture
CHART_WIDTH = 720  # pixels: a page's text is as wide
CHART_FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"  # of one width everywhere, so that labels fit
STYLE = """
:root { color-scheme: light dark; background: Canvas; color: CanvasText } a { color: inherit }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 720px; margin: 2.5rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.25; margin: 0 } h1 { font-size: 1.7rem } h2 { font-size: 1.25rem }
section { margin-bottom: 3rem } .about { margin: .2rem 0 0 } h1, h2, .about { break-after: avoid }
svg, .chart { width: 100%; height: auto; overflow: visible; margin-top: 1rem } svg, tr { break-inside: avoid }
.wide { overflow-x: auto; margin: 1rem 0 } .note { font-size: .85rem; margin: .3rem 0; color: GrayText }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #8884 }
td:not(:last-child) { white-space: nowrap } td { overflow-wrap: break-word; max-width: 28rem }
@page { size: A4; margin: 18mm }
@media print { :root { color-scheme: light; font-size: 12px } body { margin: 0; padding: 0 }
  td:not(:last-child) { white-space: normal } }
"""
# Words in the names of settings that say where or when a run ran, and not what was tried.
NOISE = {"timestamp", "datetime", "date", "pid", "uuid", "logdir", "wandb"}
PLACES = {"path", "paths", "dir", "dirs", "directory", "folder", "filename", "url", "host", "hostname", "cwd"}
# Of HuggingFace: its version and what varies with it, and when a model is evaluated and saved.
NOISE_TREES = {"accelerator_config", "id2label", "label2id"}
NOISE_TREES |= {"do_eval", "do_train", "eval_strategy", "evaluation_strategy", "save_strategy", "logging_steps"}
NOISE_TREES |= {"eval_steps", "save_steps", "save_total_limit", "eval_do_concat_batches", "transformers_version"}
NOISE_TREES |= {"device_id", "gpu", "gpu_id", "gpu_ids", "local_rank"}  # of seeds that ran side by side
# Of a sweep's definition that was passed to wandb.init() as a config.
SWEEP_DEFINITION = re.compile(r"\bparameters\.[^.]+\.(values?|min|max|mu|sigma|q|distribution|probabilities)$")
NAMING = {"exp", "expname", "experiment", "run"}  # words in settings that only name the others
MOST_LISTED, SUGGESTED_NAMES = 10, 5  # of a list in a line; of near names
# Flags of the other scripts, and the condition that does the same here.
OTHER_FILTERS = dict.fromkeys(("-p", "--project"), "project = 'NAME'") | {"--sweep": "sweep = 'ID'"}
OTHER_FILTERS |= dict.fromkeys(("-e", "--entity"), "entity = 'NAME'") | {"--tag": "list_contains(tags, 'NAME')"}
OTHER_FILTERS |= {"--since": "created_at >= '2026-01-31'", "--until": "created_at < '2026-01-31'"}
ROW_BEST, COLUMN_BEST = "*", "°"  # marks in a pivot
# Rows that people see of each answer, unless they ask for another number: about 4 kB in all.
MOST_ROWS = {"overview": 8, "groups": 20, "pivot": 20, "sql": 20, "health": 20, "curves": 30, "grid": 10, "machine": 10}
MOST_ROWS |= {"varying": 38, "diff": 38, "importance": 38, "schema": 38}
PAGE_CELLS = 96  # characters across a page's text
WIDE_HEADS = {"column", "problem"}  # heads of columns that take up to half the width, so that names can be copied
WRAPPED_HEADS = {"detail", "value (runs)"}  # heads of columns whose cells are not shortened, but broken into lines
LEAST_WIDTH = 16  # characters that a shortened text keeps at least: as many as a time has
# Characters that mean something to LaTeX, and what prints them.
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "[": "{[}", "]": "{]}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {"|": r"\textbar{}", "…": r"\ldots{}", "°": r"\textdegree{}", '"': r"\textquotedbl{}"}
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

is_quiet, said = False, set[str]()  # --quiet, and the messages so far: see say()
reads_all_rows = False  # whether open_file() looks for damage in the rows, too
damaged_files: dict[Path, str] = {}  # damaged files, and what was said of them

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
    spice psnr snr sisnr sdr sisdr ssim msssim pesq stoi mos rew reward rewards return returns win wins winrate
    success elbo likelihood loglikelihood correlation corr pearson spearman kendall pcc ccc purity nmi ari ami
    silhouette hit hits throughput fps improvement gain reduction em pass top similarity concordance cindex elo
    modularity explainedvariance fitness
"""
NO_DIRECTION = "weight weights scale scaling coef coeff coefficient lambda threshold count num entropy clipfrac"
GOAL_WORDS: dict[str, Goal | None] = dict.fromkeys(NO_DIRECTION.split())
GOAL_WORDS |= dict.fromkeys(LOWER_IS_BETTER.split(), "minimize")
GOAL_WORDS |= dict.fromkeys(HIGHER_IS_BETTER.split(), "maximize")
NO_METRIC = {"std", "stdev", "stddev", "var", "variance", "sem", "stderr", "time", "steps", "epochs"}  # std_loss
WEAK = {"score", "scores", "top"}  # tell only where no other word does: fid_score, error_top5
NEGATING = {"neg", "negative"}  # neg_mean_squared_error
COSTS = {"runtime", "latency", "throughput", "fps"}  # have a direction, but are not what a project is about
REWARDS = {"rew", "reward", "rewards", "return", "returns"}  # what an agent is trained for
OPPOSITE: Mapping[Goal | None, Goal | None] = {"minimize": "maximize", "maximize": "minimize", None: None}
PHRASES = {"cross_entropy": "crossentropy", "explained_variance": "explainedvariance", "r_squared": "r2", "io_u": "iou"}

# --- nouns ----------------------------------------------------------------------------------------------------

KeyPath: TypeAlias = tuple[str, ...]
Goal: TypeAlias = Literal["minimize", "maximize"]
Problem: TypeAlias = tuple[int, str, str]  # of --health: the run's number, the kind of problem, a detail


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DamagedRowsError(ScriptError):
    """Rows of some file cannot be read, although its footer can."""


class Options(NamedTuple):
    """The command line, checked."""

    inputs: Sequence[Path]
    top: int | None
    group_by: Sequence[str]
    pivot: Sequence[str]
    curves: Sequence[str]
    varying: bool
    diff: Sequence[str]
    importance: bool
    health: bool
    schema: bool
    sql: str | None
    report: Path | None
    stat: str  # mean, median or iqm: what groups are compared by
    best_per: Sequence[str]
    x: str | None
    best_so_far: bool
    smooth: float | None
    points: int | None
    log: bool
    metrics: Sequence[str]
    value: str  # which value stands for a run: see VALUES
    goal: Goal | None
    name_patterns: Sequence[str]
    where: str | None
    states: Sequence[str]  # in lower case; empty: the default
    output: Path | None
    columns: Sequence[str]
    max_rows: int | None  # 0: all
    format: str
    quiet: bool
    debug: bool


class Runs(NamedTuple):
    """A lazy frame with one row per run, and what its files say about the columns; also a history, a row per step."""

    frame: pl.LazyFrame
    dtypes: Mapping[str, pl.DataType]
    paths: Mapping[str, KeyPath] = {}
    goals: Mapping[str, Goal] = {}
    axes: Mapping[str, str] = {}  # metrics to the step metrics that define_metric gave them
    empty: frozenset[str] = frozenset()  # derived columns without any value
    view: str = "runs"  # of --sql: see VIEWS; empty for a file that is in no view
    file: Path = Path()  # if the rows are those of one file
    source: Mapping[str, Any] = {}  # of that file: entity, project, export_id and the like of its export
    project: tuple[str, str] = ("", "")  # of that file: entity and project of its export
    parts: tuple[Runs, ...] = ()  # if the rows are those of several files: each file's
    others: tuple[Path, ...] = ()  # files of other views among the inputs

    def label(self, column: str) -> str:
        """A column's W&B name; the column's own name if the file stores no W&B name, or a blank one."""
        own = column if self.view == "runs" else column.removeprefix("metric_")
        name = ".".join(self.paths.get(column, (own,)))
        return name if name.strip() else column

    def of_kind(self, *kinds: str) -> list[str]:
        return [column for column in self.dtypes if kind(column) in kinds]


class Metric(NamedTuple):
    """A column of numbers and which of them are better."""

    column: str
    name: str  # in W&B
    label: str  # with what --value takes of its history
    goal: Goal
    direction: str  # the goal in words, and who says so

    def history_column(self, what: str) -> str:
        """The column that aggregate_runs --history made of the same metric for `what`, such as min_step."""
        return f"history_{what}_" + re.sub("^history_(min|max|last|tail|at)_", "", self.column)


class Study(NamedTuple):
    """What questions are asked about."""

    options: Options
    everything: Runs  # all runs of the inputs
    any_state: Runs  # those that pass the filters
    runs: Runs  # those of them in the states asked for
    metrics: Sequence[Metric]
    by: Sequence[str] = ()  # the columns to group by
    label_by: Sequence[str] = ()  # those of them that label a group: the values of the others follow from these


class Result(NamedTuple):
    """The answer to a question."""

    key: str  # in JSON
    title: str
    table: pl.DataFrame  # everything, at full precision; values of several types in a column are objects
    view: Sequence[tuple[str, pl.Series]]  # for people: headings and values; what does not fit is dropped from the end
    notes: Sequence[str] = ()
    chart: tuple[str, str, pl.DataFrame] | None = None  # titles of the values and of x, and what is drawn: chart_json
    min_columns: int = 0  # columns of the view that are shown even if they do not fit, as they were asked for by name
    view_notes: Sequence[str] = ()  # on what the view leaves out of the table
    first: str = "best"  # which lines of the chart come first: the best or, without a goal, the lowest


class TableColumn(NamedTuple):
    """A column of a table as text."""

    label: str
    cells: Sequence[str]
    is_number: bool  # to the right, and never shortened
    room: int | None = None  # characters; longer headings and details are wrapped


# --- inputs ---------------------------------------------------------------------------------------------------


def open_inputs(inputs: Sequence[Path]) -> Runs:  # noqa: C901, PLR0912 - a list of cases
    """The runs of the inputs as one; without inputs, those of the unified file or of a newer export."""
    files: dict[Path, Path] = {}  # by their paths without symbolic links: a file named twice is read once
    for path in inputs or [path for path in (UNIFIED_FILE, EXPORT_FOLDER) if path.exists()]:
        if not path.exists():
            raise ScriptError(f"{path} does not exist; name a parquet file or a folder of them", NOTHING_USABLE)
        for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
            is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if not is_hidden and not file.is_dir():
                files.setdefault(file.resolve(), file)
    parts = []
    for resolved, file in files.items():
        try:
            parts.append(open_file(file))
        except ScriptError as error:
            if file in inputs:
                raise
            damaged_files[resolved] = f"left out: {error}"
    say(*[*damaged_files.values()][:MOST_LISTED], even_if_quiet=True)
    if (more := len(damaged_files) - MOST_LISTED) > 0:
        say(f"left out: {counted(more, 'more file')} that cannot be read", even_if_quiet=True)
    runs, others = [p for p in parts if p.view == "runs"], [p for p in parts if p.view not in {"runs", ""}]
    projects = {other.project for other in others if "project" in other.source}
    # Histories and the like alone: the runs files of their projects are in their folders.
    folders = set() if runs else {other.file.parent for other in others}
    for file in sorted(file for folder in folders for file in folder.glob("[!.]*.parquet")):
        with suppress(ScriptError):
            part = open_file(file)
            if part.view == "runs" and part.project in projects:
                runs.append(part)
                say(f"reading {file}, the runs of {path_text(part.project)}")
    if not runs:
        looked_at = ", ".join(map(str, inputs or (UNIFIED_FILE, EXPORT_FOLDER)))
        which = some_of([*map(path_text, sorted(projects))])
        missing = f"; the runs file of {which} is missing there" if projects else ""
        hint = "name a file of export_runs.py or aggregate_runs.py"
        raise ScriptError(f"no runs in {looked_at}{missing}; {hint}", NOTHING_USABLE)
    if inputs and (without_runs := [str(part.file) for part in parts if not part.view]):
        say(f"skipped {counted(len(without_runs), 'parquet file')} without runs: {some_of(without_runs)}")
    if not inputs:
        newest = max(runs, key=lambda part: part.file.stat().st_mtime)
        exports = [] if newest.file == UNIFIED_FILE else [part for part in runs if part.file != UNIFIED_FILE]
        which = f", the newest of {len(exports):,} exports" if len(exports) > 1 else ""
        say(f"reading {newest.file}{which}")
        if 0 < len(exports) < len(runs):
            say(f"{UNIFIED_FILE} is older and was not used: run aggregate_runs.py again")
        runs, others = [newest], []
    return join_inputs(runs)._replace(others=tuple(other.file for other in others))


def open_file(file: Path) -> Runs:
    """What one parquet file holds, by its footer. Dtypes that we do not write are cast to similar ones that we do."""
    try:
        metadata = pl.read_parquet_metadata(file)
        frame = pl.scan_parquet(file, glob=False)  # a file's name is no pattern
        paths, goals, axes, source = documents_of(metadata)
        frame = frame.with_columns(
            known_times((cs.date() | cs.datetime()).cast(pl.Datetime("us", "UTC"))),
            cs.duration().dt.total_microseconds() / 1e6,
            cs.decimal().cast(pl.Float64),
            cs.binary().bin.encode("hex"),
            cs.struct().struct.json_encode(),
            cs.array().arr.to_list(),
            pl.col(pl.Time, pl.Categorical, pl.Enum).cast(pl.String),
        )
        columns = {*frame.collect_schema()}
        view = next((view for view, needed in VIEWS.items() if needed <= columns and RESULT_KEY not in metadata), "")
        if TABLE_KEY in metadata or view == "table":
            view = f"table_{metadata.get(TABLE_KEY, unquote(file.stem.partition('_table_')[2]))}"
        frame = frame.with_columns(pl.col(c).cast(to) for c, to in missing_casts(frame.collect_schema(), view).items())
        dtypes = frame.collect_schema()
        if reads_all_rows and view:
            pl.scan_parquet(file, glob=False).sink_batches(lambda _: None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, RecursionError) as error:
        raise ScriptError(f"{file} cannot be read: {reason_for(error)}; make it again", NOTHING_USABLE) from error
    project = str(source.get("entity")), str(source.get("project"))
    return Runs(frame, dtypes, paths, goals, axes, file=file, source=source, project=project, view=view)


def documents_of(metadata: Mapping[str, str]) -> tuple[dict[str, KeyPath], dict[str, Goal], dict[str, str], Any]:
    """W&B's paths of columns, their goals and axes by define_metric, and the export; ValueError if they are damaged."""
    documents = [json.loads(metadata.get(f"wandb_tools.{key}", "{}")) for key in ("columns", "metrics", "source")]
    paths, metrics, source = documents
    is_ours = all(isinstance(each, dict) for each in documents)
    is_ours = is_ours and all(isinstance(path, list) for path in paths.values())
    if not (is_ours and all(isinstance(key, str) for path in paths.values() for key in path)):
        raise ValueError("its metadata is not what export_runs.py writes")
    json.dumps(paths, ensure_ascii=False).encode()  # a lone surrogate is a ValueError
    facts = {column: defined for column, defined in metrics.items() if isinstance(defined, dict)}
    goals = {c: defined["goal"] for c, defined in facts.items() if defined.get("goal") in ("minimize", "maximize")}
    axes = {c: defined["step_metric"] for c, defined in facts.items() if isinstance(defined.get("step_metric"), str)}
    source["export_id"] = metadata.get(EXPORT_KEY)
    return {column: tuple(path) for column, path in paths.items()}, goals, axes, source


def known_times(times: pl.Expr) -> pl.Expr:
    """The times, with null for those outside of the years 1 to 9999, which Python does not support."""
    return pl.when(times.dt.year().is_between(1, 9999)).then(times)


def missing_casts(dtypes: Mapping[str, pl.DataType], view: str) -> dict[str, pl.DataType]:
    """The casts that give the fixed columns their dtypes; ValueError for a column that no question can take."""
    texts, numbers, times = ROW_COLUMNS | {"text", "stream"}, NUMBERS, set[str]()
    if view == "runs":
        texts, times = IDENTITY - TIMES - NUMBERS - {"tags"}, TIMES
    elif view.startswith("table_"):  # a W&B Table may have any other column
        texts, numbers = ROW_COLUMNS, set()
    fixed: dict[str, pl.DataType] = dict.fromkeys(texts, pl.String()) | dict.fromkeys(numbers, pl.Float64())
    fixed |= dict.fromkeys(times, pl.Datetime("us", "UTC"))
    casts: dict[str, pl.DataType] = {}
    for column, dtype in dtypes.items():
        if column == "*" or column.startswith("^"):
            raise ValueError(f"its column {column} has a name that means a pattern (* or ^…); rename it")
        to = fixed.get(column, dtype)
        if to == dtype or (to.is_numeric() and dtype.is_numeric()):
            inner = dtype.inner if isinstance(dtype, pl.List) else dtype
            fits = inner.is_integer() or inner.is_float() or inner in (pl.String, pl.Boolean, pl.Null)
            fits |= isinstance(dtype, pl.Datetime)
        else:
            casts[column] = to
            fits = dtype == pl.Null or (to == pl.String and not dtype.is_nested())
        if not fits:
            raise ValueError(f"its column {column} has the type {dtype}, which cannot be used")
    return casts


def join_inputs(parts: Sequence[Runs]) -> Runs:
    """The runs of several files as one: integers beside floats are floats, columns without a value fit all."""

    def clash(column: str, parts: Iterable[Runs]) -> dict[str, Runs]:
        """The dtypes of a column, else its paths, if files differ in these; each with a file. Numbers are one dtype."""
        dtypes = {"a number" if p.dtypes[column].is_numeric() else str(p.dtypes[column]): p for p in parts}
        paths = {f"the W&B key {json.dumps(p.paths[column])}": p for p in parts if column in p.paths}
        return next((found for found in (dtypes, paths) if len(found) > 1), {})

    frames, paths = [part.frame for part in parts], dict[str, KeyPath]()
    for column in dict.fromkeys(column for part in parts for column in part.dtypes):
        holders = {n: part for n, part in enumerate(parts) if column in part.dtypes}
        if clash(column, holders.values()):
            for n in [n for n, part in holders.items() if not coverage([column], part)[column]]:
                frames[n] = frames[n].with_columns(pl.lit(None).alias(column))
                del holders[n]
        if clashing := clash(column, holders.values()):
            facts = ", ".join(f"{what} in {part.file}" for what, part in clashing.items())
            raise ScriptError(f"{column} is {facts}; merge these files with aggregate_runs.py", WRONG_USAGE)
        paths |= [(column, part.paths[column]) for part in holders.values() if column in part.paths]
    columns: dict[tuple[str, KeyPath], str] = {}
    for column, path in paths.items():
        if (other := columns.setdefault((kind(column), path), column)) != column:
            what = f"{'.'.join(path)} is {other} in one file and {column} in another"
            raise ScriptError(f"{what}; merge these files with aggregate_runs.py", WRONG_USAGE)
    frame = pl.concat(frames, how="diagonal_relaxed")
    goals = {(column, goal) for part in parts for column, goal in part.goals.items()}
    times = Counter(column for column, _ in goals)
    agreed = {column: goal for column, goal in goals if times[column] == 1}  # where files disagree, none counts
    runs = Runs(frame, frame.collect_schema(), paths, agreed, parts=tuple(parts))
    counts = coverage(runs.of_kind("derived"), runs)
    return runs._replace(empty=frozenset(column for column, count in counts.items() if not count))


def collected(frame: pl.LazyFrame, engine: Literal["streaming", "in-memory"] = "streaming") -> pl.DataFrame:
    """The rows of `frame`: where the files are really read."""
    try:
        return frame.collect(engine=engine)
    except (pl.exceptions.ComputeError, pl.exceptions.PanicException, OSError) as error:
        raise DamagedRowsError(f"the input is damaged: {reason_for(error)}; make it again", NOTHING_USABLE) from error


def reason_for(error: BaseException) -> str:
    """The first line of an error's text. KeyboardInterrupt after Ctrl-C: polars panics if it was running Python."""
    if "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
    return str(error).partition("\n")[0]


def files_beside(runs: Runs) -> list[Runs]:
    """The files of further views, of projects with runs here, beside the inputs or the exports of an aggregate."""
    source = columns_or_null(runs, {"source_file": pl.String})
    rows = collected(runs.frame.select("entity", "project", *source).unique())
    sources = {os.path.dirname(source) for source in rows["source_file"].drop_nulls()}  # noqa: PTH120 - see below
    existing = {source for source in sources if Path(source).is_dir()}
    folders = {part.file.parent for part in runs.parts} | {*map(Path, existing)}
    if gone := sorted(sources - existing):  # a Path loses a slash of s3://
        which = f"histories and the like are not read from {some_of(gone)}, where source_file says that they are"
        say(f"{which}: no such folder here; start where aggregate_runs.py ran, or copy its inputs to this disk")
    beside = [file for folder in folders for file in folder.glob("[!.]*.parquet") if not file.is_dir()]
    found, projects = [], {tuple(map(str, row)) for row in rows.select("entity", "project").iter_rows()}
    for file in sorted({file.resolve(): file for file in (*runs.others, *beside)}.values()):
        try:
            part = open_file(file)
        except ScriptError as error:
            if re.search("_(history|console|system|table_.+)$", file.stem) and file.resolve() not in damaged_files:
                damaged_files[file.resolve()] = f"left out: {error}"
                say(damaged_files[file.resolve()], even_if_quiet=True)
        else:
            is_foreign = "project" in part.source and part.project not in projects
            if part.view not in {"runs", ""} and not is_foreign and not file.stem.endswith("_history_sampled"):
                found.append(part)
    return found


def views_beside(runs: Runs) -> list[str]:
    """The views of --sql that these files are, as they are written there."""
    views = dict.fromkeys(part.view for part in files_beside(runs))
    return [view if view.isidentifier() else sql_name(view) for view in views]


def warn_of_other_exports(parts: Iterable[Runs], runs: Runs) -> None:
    """Warn of files that another export wrote than the runs of their project in their folder."""
    exports: dict[tuple[Path, tuple[str, str]], list[tuple[object, str]]] = {}  # ids and advice, by folder and project
    for own in runs.parts:
        sources, how = own.source.get("sources"), "; run aggregate_runs.py again"
        if not isinstance(sources, list):  # the file of one export
            sources, how = [{**own.source, "file": own.file}], ", because one was killed: export again"
        for export in (each for each in sources if isinstance(each, dict)):
            folder = Path(str(export.get("file")).replace("\0", "")).parent.resolve()
            whose = str(export.get("entity")), str(export.get("project"))
            exports.setdefault((folder, whose), []).append((export.get("export_id"), how))
    for part in parts:
        folder = part.file.parent
        for export_id, how in exports.get((folder.resolve(), part.project), ()):
            ids = export_id, part.source["export_id"]
            if None not in ids and ids[0] != ids[1]:
                say(f"runs and {part.view} of {path_text(part.project)} in {folder} come from different exports{how}")


def rows_beside(runs: Runs, view: str) -> Runs:
    """The rows of all files of a view beside the runs, each run's from one file, as one; the parts are the files.

    A metric becomes one column, whatever the files call it. Where a file has lost W&B's names, those of the runs count.
    """
    parts = [part for part in files_beside(runs) if part.view == view]
    warn_of_other_exports(parts, runs)
    frames = [pl.LazyFrame(schema={c: pl.Int64() if c in NUMBERS else pl.String() for c in VIEWS[view]})]
    columns, paths = dict[KeyPath | str, str](), dict[str, KeyPath]()  # columns by their paths and by their W&B names
    goals, axes = dict[str, Goal](), dict[str, str]()
    for part, others in zip(parts, repeated_runs(parts, view, runs), strict=True):
        named, own = part._replace(paths={**runs.paths, **part.paths}), dict[str, str]()
        for column in sorted(metric_columns(part), key=lambda c: named.paths.get(c) not in columns):
            path = named.paths.get(column, (named.label(column),))
            new = columns.get(path) or columns.get(".".join(path))
            if new is None or new in own:  # a further metric: one of another file may have its column
                new = f"{column}__{path_hash(path)[:8]}" if column in paths else column
            own[new] = column
            columns.setdefault(path, new)
            columns.setdefault(".".join(path), new)
            paths.setdefault(new, path)
        goals = {new: part.goals[c] for new, c in own.items() if c in part.goals} | goals
        axes = {new: part.axes[c] for new, c in own.items() if c in part.axes} | axes
        frame = part.frame
        if others.height:
            frame = frame.join(others.lazy(), on=others.columns, how="anti", nulls_equal=True, maintain_order="left")
        rest = (cs.numeric() | cs.string()) - cs.starts_with("metric_")
        frames.append(frame.select(rest, **{new: pl.col(column) for new, column in own.items()}))
    frame = pl.concat(frames, how="diagonal_relaxed")
    return Runs(frame, frame.collect_schema(), paths, goals, axes, parts=tuple(parts), view=view)


def repeated_runs(parts: Sequence[Runs], view: str, runs: Runs) -> list[pl.DataFrame]:
    """For each file of a view the runs (entity, project, run_id) whose rows come from another file, which has more."""
    names = ["entity", "project", "run_id"]
    if len(parts) < 2 or view == "runs":
        return [pl.DataFrame(schema=dict.fromkeys(names, pl.String)) for _ in parts]
    sizes = []
    for number, part in enumerate(parts):
        of_file = {FILE_NUMBER: pl.lit(number), "folder": pl.lit(str(part.file.parent.resolve()))}
        sizes.append(collected(part.frame.group_by(names).len()).with_columns(**of_file))
    # For consoles, system metrics and tables the newer export counts: first the file beside the run's source_file.
    table, is_beside_source = pl.concat(sizes), pl.col("len") < 0  # none, if there is no source_file
    if view != "history" and "source_file" in runs.dtypes:
        sources = collected(runs.frame.select("entity", "project", "source_file", run_id="id")).unique(names)
        files = sources["source_file"].drop_nulls().unique()
        folders = {file: str(Path(file.replace("\0", "")).parent.resolve()) for file in files}
        table = table.join(sources, on=names, how="left", nulls_equal=True)
        is_beside_source = (pl.col("source_file").replace(folders) == pl.col("folder")).fill_null(value=False)
    ranked = table.sort(*names, is_beside_source, "len", FILE_NUMBER, descending=[*[False] * 3, True, True, False])
    others = ranked.filter(~pl.struct(names).is_first_distinct())
    return [others.filter(pl.col(FILE_NUMBER) == number).select(names) for number in range(len(parts))]


def columns_or_null(runs: Runs, dtypes: Mapping[str, Any]) -> list[pl.Expr]:
    return [pl.col(c) if c in runs.dtypes else pl.lit(None, dtype).alias(c) for c, dtype in dtypes.items()]


# --- columns and metrics --------------------------------------------------------------------------------------


def known_column(name: str, runs: Runs, prefixes: Sequence[str] = NAMED_PREFIXES) -> str | None:
    """The column called `name`: by its column, its W&B name or its flattened name, in this order."""
    if name in runs.dtypes and name not in runs.empty:  # a derived column without values gives way to a setting
        return name
    called = [column for column in runs.paths if column in runs.dtypes and runs.label(column) == name]
    called.sort(key=lambda column: len(runs.paths[column]))  # ["a.b"] before ["a", "b"]
    names = [column for prefix in prefixes for column in called if column.startswith(prefix)]
    names += [*(prefix + name for prefix in prefixes), name]
    return next((column for column in names if column in runs.dtypes), None)


def find_column(name: str, runs: Runs, what: str = "column", among: Sequence[str] = ()) -> str:
    """The column that a user names; ScriptError with the nearest names where there is none."""
    if found := known_column(name, runs):
        return found
    columns = among or [column for column in runs.dtypes if column[:1] != "_" and column not in runs.empty]
    hint = did_you_mean(name, columns if name.startswith(NAMED_PREFIXES) else map(runs.label, columns))
    raise ScriptError(f"there is no {what} {name or repr(name)}{hint}; --schema lists all", WRONG_USAGE)


def path_hash(path: KeyPath) -> str:
    """SHA-1, in hex, of the path as compact ASCII JSON."""
    return hashlib.sha1(json.dumps(path, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()


def kind(column: str) -> str:
    prefix = column.split("_", 1)[0]
    if column in IDENTITY or column[:1] == "_":
        return "identity"
    return prefix if prefix in KINDS and ":" not in column else "derived"  # ranges such as `config_lr:3` are no setting


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, else the shortest that contain `name`; or nothing without any.

    >>> did_you_mean("--stat", ["--state", "--since"]), did_you_mean("loss", ["train/loss", "epoch"])
    ('; did you mean --state?', '; did you mean train/loss?')
    """
    known = {each.lower(): each for each in sorted(set(names), key=lambda each: (len(each), each))}
    near = difflib.get_close_matches(name.lower(), known) or [k for k in known if name[1:] and name.lower() in k][:3]
    return f"; did you mean {' or '.join(known[each] for each in near)}?" if near else ""


def coverage(columns: Sequence[str], runs: Runs) -> dict[str, int]:
    """How many runs have a value of each column, those with the most first; 0 for numbers of which none is finite."""
    usable = {c: finite(c) if runs.dtypes[c].is_numeric() else pl.col(c) for c in columns}
    counts = [pl.when(values.count() > 0).then(pl.col(c).count()).otherwise(0) for c, values in usable.items()]
    found = collected(runs.frame.select(counts), "in-memory")
    return {count.name: count.item() for count in sorted(found, key=lambda count: -count.item())}


def labels(columns: Iterable[str], runs: Runs) -> dict[str, str]:
    """The W&B names of columns; their own names where another column, shown or not, has the same one."""
    names = {column: runs.label(column) for column in columns}
    uses = Counter([*names.values(), *(runs.dtypes.keys() - names.keys() - runs.empty)])
    return {column: name if uses[name] == 1 else column for column, name in names.items()}


def run_labels(runs: pl.DataFrame) -> pl.Series:
    """A `name` for each run: its name, with the id where names repeat, or with the path where ids repeat too."""
    path = pl.when(pl.col("id").is_unique()).then("id").otherwise(pl.concat_str(KEY, separator="/"))
    with_id = pl.when(pl.col("name") == pl.col("id")).then(path).otherwise(pl.format("{} ({})", "name", path))
    label = pl.when(pl.col("name").is_unique()).then("name").otherwise(with_id)
    return runs.with_columns(pl.col(KEY).fill_null("null")).select(pl.coalesce(label, path).alias("name")).to_series()


def chosen_metrics(options: Options, runs: Runs) -> list[Metric]:
    """The metrics that a user names, else a default: a test metric of most runs, else of validation, else a reward."""
    if options.metrics:
        return [*dict.fromkeys(find_metric(name, runs, options) for name in options.metrics)]
    prefix = "metric_" if options.value == "summary" else f"history_{options.value}_"
    columns = metric_columns(runs, prefix) or metric_columns(runs)  # find_metric tells what the histories lack
    names = {column: re.sub(f"^{prefix}", "metric_", column) for column in columns}
    first = [column for column in names if names[column] == "metric_test_mse"]
    covered = coverage(first if any(coverage(first, runs).values()) else [*names], runs)
    readable = [c for c in covered if names[c] in runs.goals or goal_by_name(runs.label(names[c]))]
    least = 0.8 * max((covered[column] for column in readable), default=0)

    def rank(column: str) -> tuple[bool | int | str, ...]:
        label = runs.label(names[column])
        segments = re.findall(r"[^\W_]+", label.lower())  # none in a name such as "%"
        is_other = {"test", *VALIDATION}.isdisjoint(segments)
        is_plain = not {"loss", "error", "accuracy", "acc", "score", "reward"}.isdisjoint(segments[-1:])
        # In reinforcement learning, the result is the mean reward, not a loss and not the reward of one episode.
        is_reward = is_other and goal_by_name(label) == "maximize" and not REWARDS.isdisjoint(words(label))
        is_extreme = is_reward and not {"max", "min"}.isdisjoint(segments)
        kinds = not COSTS.isdisjoint(segments), "test" not in segments, is_other, not is_reward
        return *kinds, len(segments), not is_plain, is_extreme, label

    found = sorted((column for column in readable if covered[column] >= max(least, 1)), key=rank)[:1]
    metrics = [find_metric(names[column], runs, options) for column in found]
    say(*(f"metric: {metric.label} (use --metric to choose another)" for metric in metrics))
    return metrics


def find_metric(name: str, runs: Runs, options: Options) -> Metric:
    """The metric called `name`: its column of the summaries, or with --value its column of the histories."""
    column = known_column(name, runs, ["metric_"])
    if column and not runs.dtypes[column].is_numeric():  # such as stage: a metric may be called so, too
        column = metric_called(name, runs) or column
    if options.value == "summary":
        column = shown = summary_column(name, column or known_column(name, runs, ["config_"]), runs, options.goal)
        label, what = runs.label(column), ""
    else:
        label = runs.label(column) if column else name.removeprefix("metric_")
        prefix, what = f"history_{options.value}_", f" ({VALUES[options.value]})"
        known = [c.removeprefix(prefix) for c in metric_columns(runs, prefix)]
        plain_name = flattened(column or name)
        hashed = f"{plain_name}__{path_hash(runs.paths.get(column or '', (name,)))[:8]}"  # another has the plain name
        plain_name = hashed if hashed in known else plain_name
        shown = prefix + plain_name
        if plain_name not in known:
            flag = " --at METRIC" if options.value == "at" else ""
            how = did_you_mean(plain_name, () if column else known) or f"; the histories have {some_of(known)}"
            how = how if known else f"; aggregate_runs.py --history{flag} adds such columns"
            raise ScriptError(f"--value {options.value}: there is no column {shown}{how}", WRONG_USAGE)
        column = column or f"metric_{plain_name}"  # some metrics are only in the histories
    if not runs.dtypes[shown].is_numeric():
        raise ScriptError(f"{label} is {runs.dtypes[shown]}, not a number; use it with --group-by", WRONG_USAGE)
    stored_goal = runs.goals.get(column)
    goal = options.goal or stored_goal or goal_by_name(label)
    if goal is None:
        raise ScriptError(f"the name {label} does not say whether lower or higher is better; {GOAL_HINT}", WRONG_USAGE)
    why = "as given" if options.goal else "set by define_metric or the sweep" if stored_goal else "guessed by name"
    return Metric(shown, label, label + what, goal, f"{'lower' if goal == 'minimize' else 'higher'} is better ({why})")


def flattened(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name.removeprefix("metric_"))


def summary_column(name: str, column: str | None, runs: Runs, goal: Goal | None) -> str:
    """The `column` of a metric, else that of a summary that define_metric stores instead, such as its minimum."""
    names = {f"{name}{mark}{child}": child for mark in "_." for child in SUMMARIES}
    others = {child: found for n, child in names.items() if (found := known_column(n, runs, ["metric_"]))}
    if column is not None:
        is_lacking = pl.col(column).is_null() & pl.any_horizontal(pl.col(others.values()).is_not_null())
        if others and (lacking := collected(runs.frame.select(is_lacking.sum())).item()):
            what_else = some_of([*map(runs.label, others.values())])
            hint = "use aggregate_runs.py --history, then --value last (or min, max)"
            say(f"{counted(lacking, 'run')} with {what_else} instead of {runs.label(column)}: {hint}")
        return column
    if not others:
        # Where names clash, the summary's has a hash.
        is_stored = any(re.fullmatch(f"(?i)metric_{flattened(name)}__[0-9a-f]{{8}}", c) for c in runs.dtypes)
        if not is_stored and metric_called(name, rows_beside(runs, "history")):
            how = f"aggregate_runs.py --history, then -m {name} --value last (or min, max); or --curves {name}"
            raise ScriptError(f"{name} is only in the histories: use {how}", WRONG_USAGE)
        find_column(name, runs, "metric", metric_columns(runs))  # there is none: an error with the nearest names
    stored = [runs.goals[other] for other in others.values() if other in runs.goals]
    goal = goal or next(iter(stored), None) or goal_by_name(name)
    best = {"minimize": "min", "maximize": "max", None: "last"}[goal]
    child = next(child for child in (best, "best", "last", *SUMMARIES) if child in others)
    say(f"of {name} only the {SUMMARIES[child]} is stored: {runs.label(others[child])} is used")
    return others[child]


def metric_columns(runs: Runs, prefix: str = "metric_") -> list[str]:
    """The metrics that the runs have, or the columns of their histories with another prefix."""
    numbers = [column for column, dtype in runs.dtypes.items() if column.startswith(prefix) and dtype.is_numeric()]
    # Beside history_min_loss, history_min_step_loss is the step of that minimum, and not of a metric step_loss.
    steps = {column.replace(prefix, f"{prefix}step_", 1) for column in numbers if prefix != "metric_"}
    return [column for column in numbers if column not in steps]


def goal_by_name(name: str) -> Goal | None:
    """The goal that a metric's name suggests; None where it says nothing, or no one thing.

    >>> goal_by_name("test/mse"), goal_by_name("val_acc_top5"), goal_by_name("loss_weight"), goal_by_name("k")
    ('minimize', 'maximize', None, None)
    """
    text = "_".join(words(name))
    for phrase, word in PHRASES.items():
        text = text.replace(phrase, word)
    hints = [word if word in GOAL_WORDS else word.rstrip("0123456789") for word in reversed(text.split("_"))]
    if not NO_METRIC.isdisjoint(hints):
        return None
    negated = not NEGATING.isdisjoint(hints)
    for word in sorted(hints, key=lambda word: word in WEAK):  # weak words decide only where no other does
        if word in GOAL_WORDS:
            return OPPOSITE[GOAL_WORDS[word]] if negated else GOAL_WORDS[word]
    return None


def words(name: str) -> list[str]:
    """The words of a name, in lower case.

    >>> words("test/R2Score"), words("valLoss_k16")
    (['test', 'r2', 'score'], ['val', 'loss', 'k16'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", name)]


# --- which runs -----------------------------------------------------------------------------------------------


def select_runs(options: Options, everything: Runs, asked: Collection[str]) -> tuple[Runs, Runs]:
    """The runs that pass the filters, and those of them in the states asked for; prints how many each filter keeps."""
    frame, number = everything.frame, count_runs(everything, asked)

    def checked(flag: str, filtered: pl.LazyFrame) -> pl.LazyFrame:
        nonlocal number
        before, number = number, collected(filtered.select(pl.len())).item()
        line = f"{flag}: {number:,} of {counted(before, 'run')} kept"
        if not number:
            files = some_of([str(part.file) for part in everything.parts], 2)
            raise ScriptError(f"no run left: {line} (of {files}); change or remove this filter", NOTHING_USABLE)
        say(line)
        return filtered

    if options.name_patterns:
        flag = " ".join(f"--filter {pattern}" for pattern in options.name_patterns)
        matches = pl.any_horizontal(pl.col("name").str.contains(f"(?i){each}") for each in options.name_patterns)
        try:
            pl.DataFrame({"name": [""]}).select(matches)
        except pl.exceptions.ComputeError as error:
            reasons = re.findall("^error: (.*)", str(error), re.MULTILINE) or ["it cannot be read"]
            raise ScriptError(f"{flag} is not a regular expression: {reasons[0]}", WRONG_USAGE) from error
        frame = checked(flag, frame.filter(matches))
    if options.where is not None:
        keys = keys_where(options.where, everything).lazy()
        frame = frame.join(keys, on=KEY, how="semi", nulls_equal=True, maintain_order="left")
        frame = checked(f"--where {options.where}", frame)
    if options.states and "all" not in options.states:
        frame = checked(f"--state {','.join(options.states)}", frame.filter(in_states(options.states)))
    any_state = everything._replace(frame=frame)
    takes_all_states = asked and {*asked} <= {"schema", "sql", "health", "diff"} and not options.report
    if not options.states and not takes_all_states:
        finished = collected(frame.select(in_states(["finished"]).sum())).item()
        if not finished:
            say("no run is finished: runs in all states are used")
        elif finished < number:
            frame = checked("--state finished (the default)", frame.filter(in_states(["finished"])))
    return any_state, everything._replace(frame=frame)


def count_runs(runs: Runs, asked: Collection[str]) -> int:
    """How many runs there are; ScriptError if there is none, or if one has several rows and would count twice."""
    if (keys := collected(runs.frame.select(KEY))).is_empty():
        raise ScriptError("the input has no runs; export some, or name another file", NOTHING_USABLE)
    counts_rows = len(runs.parts) == 1 and asked and {*asked} <= {"schema", "sql"}
    # Nearly always the ids alone are unique, which takes a fifth of the time to see.
    if not counts_rows and keys["id"].n_unique() < keys.height and keys.n_unique() < keys.height:
        repeated = keys.filter(keys.is_duplicated()).unique().sort(KEY)
        what = f"{counted(repeated.height, 'run')} in several rows or inputs, for example {path_text(repeated.row(0))}"
        alone = "name one input alone, or " if len(runs.parts) > 1 else ""  # such as a merged file beside its sources
        raise ScriptError(f"{what}; {alone}merge with aggregate_runs.py, without --keep all", WRONG_USAGE)
    return keys.height


def in_states(states: Sequence[str]) -> pl.Expr:
    return pl.col("state").str.to_lowercase().is_in(states)


def say_about_metric(metric: Metric, study: Study) -> None:
    """Print what the user should know about a metric: runs in other states that have it, what its values rest on."""
    column, runs, value = pl.col(metric.column), study.runs, study.options.value
    if study.any_state.frame is not runs.frame:  # a crashed run often has its final value
        unfinished = study.any_state.frame.filter(~in_states(["finished"]).fill_null(value=False))
        height, n = collected(unfinished.select(pl.len(), column.is_finite().sum())).row(0)
        if n:
            best = finite(metric.column).min() if metric.goal == "minimize" else finite(metric.column).max()
            best_used, best_of_all = (collected(each.frame.select(best)).item() for each in (runs, study.any_state))
            which = f"{n:,} of {counted(height, 'run')} in other states {'has' if n == 1 else 'have'} {metric.name}"
            is_better = " (the best value is among them)" if best_used != best_of_all else ""
            say(f"{which}{is_better}; --state all includes them")
    number, nonfinite = metric.history_column("n"), metric.history_column("n_nonfinite")
    if value != "summary" and {number, nonfinite} <= runs.dtypes.keys():
        late = "without a value: logged only after the best step, or no step is best; --value last takes the last one"
        conditions = {
            f"logged fewer than 10 values of {metric.name}": column.is_not_null() & (pl.col(number) < 10),
            late: column.is_null() & (pl.col(number) > 0),
            "reached NaN or infinity; only finite values count": column.is_finite() & (pl.col(nonfinite) > 0),
        }
        counts = collected(runs.frame.select(condition.sum().alias(text) for text, condition in conditions.items()))
        say(*(f"{counted(count, 'run')} {text}" for text, count in counts.row(0, named=True).items() if count))


# --- questions: the best runs, groups, pivots -----------------------------------------------------------------


def top(study: Study) -> list[Result]:
    """The best runs by the first metric, with --columns, or else the settings that vary; ties by the runs' keys."""
    runs, options, metric = study.runs, study.options, study.metrics[0]
    value = pl.col(metric.column)
    candidates = runs.frame.select(*KEY, metric.column).filter(value.is_finite())
    descending = [metric.goal == "maximize", *[False] * len(KEY)]
    ranked = candidates.sort(metric.column, *KEY, descending=descending, nulls_last=True)
    best = collected(ranked.head(options.top or (10 if options.report else 5)))
    if best.is_empty():
        has_others = collected(study.any_state.frame.select(value.is_finite().any())).item()
        how = f"{'--state all or ' if has_others else ''}another -m (--schema lists all)"
        raise ScriptError(f"no run has a finite {metric.label}; use {how}", NOTHING_USABLE)
    heads: dict[str, str] = {}
    if options.value != "summary":
        heads = {metric.history_column(f"{options.value}_step"): "at step", metric.history_column("n"): "of values"}
    value_columns = [c for c in dict.fromkeys([*(each.column for each in study.metrics), *heads]) if c in runs.dtypes]
    with_groups = options.group_by or not options.top  # names of statistics are columns of their table
    asked = [*dict.fromkeys(find_column(c, runs) for c in options.columns if not with_groups or c not in STATISTICS)]
    settings, is_for_programs = runs.of_kind("derived", "config"), options.output or options.format in {"json", "csv"}
    more = asked or [c for c in (runs.dtypes if is_for_programs else settings) if c[:1] != "_"]
    columns = [c for c in dict.fromkeys(["name", *value_columns, *KEY, "state", "url", *more]) if c in runs.dtypes]
    rows = collected(runs.frame.filter(pl.col("id").is_in(best["id"].to_list(), nulls_equal=True)).select(columns))
    table = best.select(KEY).join(rows, **BY_RUN)
    if asked:
        compared = [column for column in value_columns if column not in asked and options.metrics]
        shown = [*asked[:1], *compared, *asked[1:]] if asked[0] == "name" else [*compared, *asked]
    else:
        # Settings that most of these runs have and that differ, of equal ones the first; paths and the like come last.
        distinct = {c: table[c].n_unique() for c in (*settings, "entity", "project")}
        common = [c for c in settings if distinct[c] > 1 and 2 * table[c].null_count() <= table.height]
        noise = {c: is_noise(table[c], runs.label(c)) for c in common}
        common.sort(key=lambda c: (noise[c], kind(c) == "config", distinct[c] == table.height, table[c].null_count()))
        unequal: dict[tuple[str, ...], str] = {}
        for column in common:
            unequal.setdefault(tuple(cells_of(table[column])), column)
        shown = ["name", *value_columns, *unequal.values(), *(c for c in ("project", "entity") if distinct[c] > 1)]
    last = best[metric.column][-1]
    counts = {"n": value.is_finite().sum(), "nonfinite": (~value.is_finite()).sum(), "ties": (value == last).sum()}
    counts["projects"] = pl.struct("entity", "project").n_unique()
    total, n, nonfinite, ties, project_count = collected(runs.frame.select(pl.len(), **counts)).row(0)
    notes = without_value(metric.label, total, n, nonfinite)
    if more_ties := ties - int((best[metric.column] == last).sum()):
        notes.append(f"{counted(more_ties, 'more run')} with the same value as the last one shown")
    heads = labels(shown, runs) | heads
    for each in study.metrics if options.value != "summary" else ():
        heads[each.column] = f"{each.name} ({options.value})"
    run_names = run_labels(table)
    view = [(heads[column], run_names if column == "name" else table[column]) for column in shown]
    where, paths = "", table.select("entity", "project").unique()
    if project_count > 1 and paths.height == 1 and not asked:  # of several projects, the best are in this
        where = f", {'all ' if best.height > 1 else ''}in {path_text(paths.row(0))}"
    title = f"Best {counted(best.height, 'run')} by {metric.label}{where}; {metric.direction}"
    chart = metric.label, "", table.select(run_names, value=metric.column)
    return [Result("top", title, table.select(columns), view, notes, chart, min_columns=len(view) if asked else 0)]


def without_value(what: str, total: int, n: int, nonfinite: int) -> list[str]:
    """A note that counts the runs that are neither averaged nor best, if there are any."""
    counts = {"without a value": total - n - nonfinite, "with NaN or infinity": nonfinite}
    parts = [f"{count} {flaw}" for flaw, count in counts.items() if count > 0]
    finite_ones = f"{n:,} of {counted(total, 'run')} {'has' if n == 1 else 'have'} a finite {what}"
    return [f"{finite_ones}; left out: {', '.join(parts)}"] if parts else []


def groups(study: Study, metric: Metric) -> Result:
    """Statistics of a metric per combination of the values of --group-by, the best first."""
    runs, by, label_by, options, stat = study.runs, study.by, study.label_by, study.options, study.options.stat
    table = group_statistics(runs, by, metric, stat, metric.history_column(f"{options.value}_step"))
    constant = [column for column in label_by if table.height > 1 and table[column].n_unique() == 1]
    varying = [column for column in label_by if column not in constant]
    if len(varying) > 3:  # perhaps more than fit
        varying = independent_first(table.head(MOST_ROWS["groups"]), varying)
        label_by = [*varying, *constant]
    statistics = [name for name in STATISTICS if name in table.columns]
    asked = [*dict.fromkeys(name if name in STATISTICS else find_column(name, runs) for name in options.columns)]
    shown = [column for column in asked if column in {*by, *statistics}]
    if len(shown) < len(asked) and options.group_by and not (options.top or options.schema):
        say(f"--columns {','.join(options.columns)}: a table of groups has only {', '.join([*by, *statistics])}")
    if shown and {*by}.isdisjoint(shown):  # rows need a name
        shown = [*label_by, *shown]
    min_columns = len(shown)
    if not shown:
        sizes = ["n"] if (table["runs"] == table["n"]).all() else ["runs", "n"]
        numbers = [*sizes, *(["mean", "std"] if stat == "mean" else [stat, "ci_low", "ci_high"])]
        first = [*numbers, *varying] if len(varying) > 3 else [*varying, *numbers]  # numbers always fit
        lost = ["n_nonfinite"] if table["n_nonfinite"].sum() else []
        rest = [name for name in ("best_run", "best_step", "min", "median", "max") if name in statistics]
        shown = [*dict.fromkeys([*first, *lost, *rest])]
    heads = labels([*by, *statistics], runs)
    heads |= {"best_run": "best run", "best_run_id": "best run's id", "best_step": "at step"}
    heads |= {"ci_low": "95 % from", "ci_high": "to", "n_nonfinite": "NaN"}  # or infinity, as the note says
    size = f"{counted(int(table['runs'].sum()), 'run')} in {counted(table.height, 'group')}"
    facts = [size, *(f"{heads[column]} is always {cell_text(table[column].to_list()[0])}" for column in constant)]
    title = f"{metric.label} by {', '.join(heads[c] for c in varying)}: {'; '.join(facts)}; {metric.direction}"
    seen = table.with_columns(best_run=pl.when(pl.col("n") > 0).then(run_labels(table.select(**BEST_RUN))))
    bars = table.select("ci_low", "ci_high", "n", pl.Series("name", row_names(table, label_by)), value=stat)
    view = [(heads.get(c, c), unambiguous(seen[c]) if c in by else seen[c]) for c in shown]
    notes = notes_on_groups(table, label_by, metric, stat)
    chart = f"{metric.label}: {stat} and 95 % interval", "", bars
    table = table.select(*by, pl.lit(metric.column).alias("metric"), *statistics)
    return Result("groups", title, table, view, notes, chart=chart, min_columns=min_columns)


def row_names(table: pl.DataFrame, by: Sequence[str], width: int = sys.maxsize) -> list[str]:
    """The values of some columns in a line each, long ones shortened."""
    cells = (short_names(cells_of(unambiguous(table[column])), width) for column in by)
    return ["/".join(row) for row in zip(*cells, strict=True)]


def notes_on_groups(table: pl.DataFrame, by: Sequence[str], metric: Metric, stat: str) -> list[str]:
    """Notes on missing values, groups of one run and extreme values, and the test of the best two groups."""
    notes = without_value("value", *table.select("runs", "n", "n_nonfinite").sum().row(0))
    if single_count := int((table["n"] == 1).sum()):
        notes.append(f"{counted(single_count, 'group')} with one value only: no std and no interval")
    extreme = table.filter((pl.col("median") > 0) & (pl.col("max") > DIVERGED * pl.col("median")))
    if extreme.height and stat == "mean" and metric.goal == "minimize":
        which = some_of(row_names(extreme, by, LABEL_WIDTH), SUGGESTED_NAMES)
        notes.append(f"the mean says little where one value is over {DIVERGED:,} times the median: {which}")
    if stat != "mean":
        what = "median" if stat == "median" else "iqm, the mean of the middle half"
        rough = f", approximate below {ROUGH_BELOW}" if (table["n"] < ROUGH_BELOW).any() else ""
        how = f"by bootstrap ({RESAMPLES:,} resamples, seed {SEED}), for {LEAST_RESAMPLED} values or more"
        notes.append(f"sorted by {what}; 95 % interval {how}{rough}")
    best = table.filter(pl.col("n") > 0).head(2)
    names = row_names(best, by, LABEL_WIDTH)
    best_two = f"the best two, {' and '.join(names)},"
    if len(by) > 3:  # too many values for a name
        names, best_two = ["the first row", "the second row"][: best.height], "the first two rows"
    if table.height == 1:
        return [*notes, "there is only one group: nothing to compare"]
    if best.height < 2 or kind(metric.column) not in {"metric", "history"}:
        return notes
    if singles := [name for name, n in zip(names, best["n"], strict=True) if n == 1]:
        notes.append(f"the best two cannot be compared: only one value in {' and '.join(singles)}")
    elif (p := welch_p(*best.select("mean", "std", "n").rows())) is not None:
        verdict = f"{best_two} differ" if p < SIGNIFICANT else f"within noise: {best_two} may differ only by chance"
        digits = 2 if abs(p - SIGNIFICANT) > 0.001 else 4  # 0.0497 would be shown as 0.05
        notes.append(f"{verdict} (p = {p:.{digits}g}, Welch's t-test{'' if stat == 'mean' else ' of the means'})")
    elif best["mean"].n_unique() > 1 and (best["min"] == best["max"]).all():
        notes.append("the best two were not tested: in each, all values are equal; check that no runs are copies")
    return notes


def pivot(study: Study, metric: Metric) -> Result:
    """A metric's mean, standard deviation and n per combination of two columns' values; the best are marked."""
    names = study.options.pivot or study.label_by
    runs, by, _ = grouping(names, study.runs)
    if len(by) != 2:
        raise ScriptError(f"--pivot {','.join(names)}: write two columns, ROWS,COLUMNS", WRONG_USAGE)
    row_label, column_label = labels(by, runs).values()
    best = pl.col("mean").min() if metric.goal == "minimize" else pl.col("mean").max()
    cells = group_statistics(runs, by, metric).sort(by, nulls_last=True)
    missing = without_value("value", *cells.select("runs", "n", "n_nonfinite").sum().row(0))
    in_row, in_column = ((pl.col("mean") == best.over(column)).fill_null(value=False) for column in by)
    named = pl.col(by[0]).alias("rows"), pl.col(by[1]).alias("columns"), pl.lit(metric.column).alias("metric")
    cells = cells.select(*named, "n", "mean", "std", best_in_row=in_row, best_in_column=in_column)
    levels = [cells[name].unique().sort(nulls_last=True) for name in ("rows", "columns")]
    row_heads, column_heads = (cells_of(unambiguous(values)) for values in levels)
    numbered = cells.with_columns(row=pl.col("rows").rle_id()).sort("columns", nulls_last=True)
    filled = numbered.with_columns(column=pl.col("columns").rle_id()).filter(pl.col("n") > 0)
    to_text, texts = float_format(filled["mean"].to_list()), dict[tuple[int, int], str]()
    for cell in filled.iter_rows(named=True):
        spread = "" if cell["std"] is None else f"±{to_text(cell['std'])}"
        marks = ROW_BEST * cell["best_in_row"] + COLUMN_BEST * cell["best_in_column"]
        texts[cell["row"], cell["column"]] = f"{to_text(cell['mean'])}{spread} ({cell['n']}){marks}"
    note = f"mean±std (n); {ROW_BEST} best of its row, {COLUMN_BEST} best of its column (in LaTeX bold, underlined)"
    if empty := len(row_heads) * len(column_heads) - filled.height:
        note += f"; {counted(empty, 'cell')} without a value"
    view = [(row_label, pl.Series(row_heads, dtype=pl.String).replace("null", None))]
    for column, head in enumerate(column_heads):
        view.append((head, pl.Series([texts.get((row, column), "") for row in range(len(row_heads))])))
    size = f"{counted(len(row_heads), 'row')} x {counted(len(column_heads), 'column')}"
    title = f"{metric.label} by {row_label} and {column_label}: {size}; {metric.direction}"
    shown = {"row name": [row_heads[n] for n in filled["row"]]}
    shown["column name"] = [column_heads[n] for n in filled["column"]]
    shown["name"] = [f"{to_text(mean)} ({n})" for mean, n in filled.select("mean", "n").iter_rows()]
    drawn = filled.select("row", "column", value="mean").hstack(pl.DataFrame(shown, dict.fromkeys(shown, pl.String)))
    return Result("pivot", title, cells, view, [note, *missing], chart=("mean", "", drawn))


# --- questions: settings --------------------------------------------------------------------------------------


def grouping(names: Sequence[str], runs: Runs) -> tuple[Runs, list[str], list[str]]:
    """The runs, with ranges such as `lr:4`; the columns to group by; and those of them that label a group."""
    excluded, by, label_by = [], [], []
    wanted = [name for name in names if name[0] != "!"]
    for name in (name[1:] for name in names if name[0] == "!"):
        excluded += seeds_of(runs) if name == "seed" else [find_column(name, runs)]
    if len(wanted) < len(names):
        table, settings, notes = varying_settings(runs, omit=excluded)
        by = [column for column in settings if column not in excluded]
        label_by = independent_settings(table, by)
        left_out = [column for column in settings if column in excluded]
        exceptions = f", except {some_of([*map(runs.label, left_out)])}" if left_out else ""
        if not by:
            raise ScriptError(f"{','.join(names)}: no other setting varies; name columns", WRONG_USAGE)
        say(f"grouped by all settings that vary{exceptions}: {some_of([*labels(label_by, runs).values()])}")
        say(*notes)
        hint_at_names(table.select(cs.string().exclude(settings), *by, *left_out), by, left_out, runs)
    for name in wanted:
        known, plain = known_column(name, runs), name
        if known is None and (ranges := re.fullmatch(r"(.+):([1-9]\d{0,2})", name)):
            plain = ranges[1]
            runs, known = with_ranges(find_column(plain, runs), int(ranges[2]), runs)
        by.append(known or find_column(name, runs))
        label_by.append(by[-1])
        say_rival(plain, runs)
    if clashing := {*by} & {*STATISTICS, "metric", "x"}:
        raise ScriptError(f"{min(clashing)}: the result has another column with this name", WRONG_USAGE)
    return runs, list(dict.fromkeys(by)), list(dict.fromkeys(label_by))


def hint_at_names(table: pl.DataFrame, by: Sequence[str], seeds: Sequence[str], runs: Runs) -> None:
    """Print which texts tell runs apart whose settings and seeds are equal, such as the folder of a trained model."""
    alike = table.filter(table.select(*by, *seeds).is_duplicated()).drop(*by, *seeds)
    names = alike.with_columns(pl.all().str.replace_all("[0-9]+", ""))  # without seeds, dates and the like
    texts = [runs.label(c.name) for c in names if seeds and 1 < c.n_unique() <= alike.height / 2]
    if texts:
        equal = f"have the settings and the {some_of([*map(runs.label, seeds)])} of another"
        say(f"{counted(alike.height, 'run')} {equal}; to tell them apart, group also by {some_of(texts)}")


def say_rival(name: str, runs: Runs) -> None:
    """Print a note if `name` is a column and also another's W&B name, or if two columns have this W&B name."""
    known, rival = known_column(name, runs), known_column(name, runs._replace(empty=frozenset([name])))
    if known == name and rival and rival != name:
        what = "metric" if kind(rival) == "metric" else "setting"
        say(f"{name} means the column with this name; write {rival} for the {what}")
    same = [c for c in runs.paths if c in runs.dtypes and runs.label(c) == name and kind(c) == kind(known or "")]
    if known != name and len(same) > 1:  # such as "a.b" in some runs, and b inside of a in others
        say(f"{name} means {known}; the same name in W&B has {some_of([c for c in same if c != known])}")


def seeds_of(runs: Runs) -> list[str]:
    """The config columns of seeds: the seed may have copies."""
    return [column for column in runs.of_kind("config") if "seed" in words(runs.label(column))]


def varying_settings(runs: Runs, *more: pl.Expr, omit: Sequence[str] = ()) -> tuple[pl.DataFrame, list[str], list[str]]:
    """The config columns of several values, null included, and `more`; which are settings; a note on the others."""
    config = pl.col(runs.of_kind("config"))
    configured = runs.frame.filter(pl.any_horizontal(config.is_not_null()))  # others ended before they had a config
    varies = collected(configured.select(config.n_unique() > 1), "in-memory")
    columns = [column.name for column in varies if column[0]]
    table = collected(runs.frame.select(*columns, *more))
    # Text that names the seed, or another column that is left out, would make a group of each run.
    named = [column for column in columns if column in {*omit, *seeds_of(runs)}]
    noise = [c for c in columns if is_noise(table[c], runs.label(c), () if c in named else table.select(named))]
    what = "not used, because they are paths, devices, times or the like, name the seed, or differ in every run"
    notes = [f"{what}: {some_of([*labels(noise, runs).values()])}"] if noise else []
    return table, [column for column in columns if column not in noise], notes


def is_noise(values: pl.Series, path: str, others: Iterable[pl.Series] = ()) -> bool:
    """Whether a column only tells where or when runs ran (paths, devices, times, text of each) or names `others`."""
    is_model = path.endswith("name_or_path")  # HuggingFace's name of the model or of its folder
    is_place = not (is_model or values.dtype.is_numeric() or PLACES.isdisjoint(words(path)))  # drop_path is none
    segments, present = re.split(r"[./]", path), values.drop_nulls()
    is_noisy = not NOISE.isdisjoint(words(path)) or not NOISE_TREES.isdisjoint(segments)
    if is_place or is_noisy or SWEEP_DEFINITION.search(path):
        return True
    if segments[-1] == "device" and not values.dtype.is_nested():  # another one may be what was tried
        return bool(present.cast(pl.String).str.contains(r"^(auto|cpu|cuda|gpu|mps|tpu|xpu)?[:,\d]*$").all())
    one_each = present.n_unique() == len(present) > 3  # fewer may differ in everything
    if values.dtype == pl.String:
        date_or_path = r"^(\d{4}-\d\d-\d\d|\d{8}[-_T]\d{4}|[~.]{0,2}/|[A-Za-z]:\\)"
        names_other = any(is_name_of(values, other) for other in others)
        return one_each or names_other or bool(not is_model and present.str.contains(date_or_path).all())
    return bool(one_each and values.dtype.is_integer() and (present > 1e9).all())  # seconds since 1970, or finer


def is_name_of(text: pl.Series, other: pl.Series) -> bool:
    """Whether each text belongs to one value of another column and contains it, such as `runs/s0` that of a seed."""
    pairs = pl.DataFrame([text.alias("text"), other.alias("other")]).unique().rows()
    is_one_to_one = len(pairs) == text.n_unique() == other.n_unique()
    return is_one_to_one and all(re.search(rf"(?<!\d)0*{re.escape(str(b))}(?!\d)", str(a)) for a, b in pairs)


def independent_first(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns in the order in which they are shown as far as they fit: first the independent ones."""
    first = sorted(independent(table, columns), key=lambda column: -table[column].n_unique())
    return [*dict.fromkeys([*first, *columns])]


def independent_settings(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """The independent columns, and all numbers drawn at random: any of these would stand for all other settings."""
    combinations = table.select(columns).unique()
    drawn = [column for column in columns if combinations[column].n_unique() == combinations.height > 3]
    if not drawn or not all(combinations[column].dtype.is_float() for column in drawn):
        return independent(table, columns)  # such as names of models, each with its own learning rate
    others = [column for column in columns if column not in drawn]
    chosen = {*drawn, *(independent(table, others) if others else ())}
    return [column for column in columns if column in chosen]


def independent(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Few of the columns that still distinguish all combinations: without `data.nodes` if `data.name` determines it."""
    names = [column for column in columns if not NAMING.isdisjoint(words(column))]
    if 0 < len(names) < len(columns):  # names of experiments only if needed: what they stand for says more
        settings = independent(table, [column for column in columns if column not in names])
        is_enough = table.select(settings).n_unique() == table.select(columns).n_unique()
        return settings if is_enough else [*settings, *independent(table, names)]
    combinations, chosen = table.select(columns).unique(), list(columns)
    # A row's hash is the sum of its cells' hashes, so a column can be subtracted: for 2,000 settings 0.8 s, not 17 s.
    cells = combinations.select(pl.col(column).hash(seed) for seed, column in enumerate(columns))
    hashes: Any = sum(cells.iter_columns())
    # What says most is tried last, so that it stays: more values, fewer nulls, short names.
    keys = [(c.n_unique(), -c.null_count(), name_rank(c), c.name) for c in combinations.iter_columns()]
    for *_, column in sorted(keys):
        rest = hashes - cells[column]
        if len(chosen) > 1 and rest.n_unique() == combinations.height:
            hashes = rest
            chosen.remove(column)
    return chosen


def name_rank(values: pl.Series) -> int:
    """2 for short names, 1 for numbers, 0 for long texts, lists and objects, which say least in a table."""
    if values.dtype != pl.String:
        return int(not values.dtype.is_nested())
    return 2 * (not (values.str.contains(r"^[\[{]") | (values.str.len_chars() > LABEL_WIDTH)).any())


def with_ranges(column: str, ranges: int, runs: Runs) -> tuple[Runs, str]:
    """The runs with a further column: in which of `ranges` ranges of about equal size a number lies."""
    name, label = f"{column}:{ranges}", f"{runs.label(column)}:{ranges}"  # which no column of a file is called
    if not runs.dtypes[column].is_numeric():
        raise ScriptError(f"{label}: ranges need a column of numbers", WRONG_USAGE)
    shares = [i / ranges for i in range(1, ranges)]
    edges = sorted({*collected(runs.frame.select(finite(column).quantile(shares, "linear"))).item()} - {None})
    texts = [f"{edge:.6g}" for edge in edges]
    if len({*texts}) < len(texts):
        texts = [*map(repr, edges)]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    names = [f"to {texts[0]}", *between, f"over {texts[-1]}"] if texts else ["all"]
    if len(names) < ranges:
        how = f"--group-by {runs.label(column)} shows each value"
        say(f"{label}: only {counted(len(names), 'range')}, because many runs have equal values; {how}")
    number = pl.sum_horizontal(pl.lit(0), *((pl.col(column) > edge).cast(pl.Int64) for edge in edges))
    text = number.replace_strict(dict(enumerate(names)), return_dtype=pl.Enum(names))
    frame = runs.frame.with_columns(pl.when(pl.col(column).is_finite()).then(text).alias(name))
    paths = {**runs.paths, name: (label,)}
    return runs._replace(frame=frame, dtypes={**runs.dtypes, name: pl.Enum(names)}, paths=paths), name


def best_settings(study: Study) -> Runs:
    """The runs of each group's best setting: the one with the best mean over its runs, which differ in their seeds."""
    metric = study.metrics[0]
    runs, per, _ = grouping(study.options.best_per, study.runs)
    table, settings, _ = varying_settings(runs)
    settings = independent_settings(table, [c for c in settings if c not in {*per, *seeds_of(runs)}])
    if not settings:
        raise ScriptError("--best-per: no other setting varies, seeds apart: there is nothing to choose", WRONG_USAGE)
    keys = [*per, *settings]
    means = group_statistics(runs, keys, metric)
    order: dict[str, Any] = {"descending": [metric.goal == "maximize", True], "nulls_last": True}
    best = means.sort("mean", "n", **order, maintain_order=True).unique(per, keep="first", maintain_order=True)
    for row in best.drop_nulls("mean").head(MOST_LISTED).iter_rows(named=True):
        chosen = some_of([f"{runs.label(c)} {cell_text(row[c])}" for c in settings if row[c] is not None]) or "null"
        group = "/".join(cell_text(row[column]) for column in per)
        lost = f", {row['n_nonfinite']} more with NaN or infinity" if row["n_nonfinite"] else ""
        say(f"best of {group}: {chosen} (mean {row['mean']:.4g} of {counted(row['n'], 'run')}{lost})")
    if best.height > MOST_LISTED:
        say(f"and the best of {best.height - MOST_LISTED} more")
    if singles := int((best["n"] == 1).sum()):
        say(f"{singles:,} of {counted(best.height, 'chosen setting')}: only one run, so a good value may be luck")
    advice = "judge by the others" if study.metrics[1:] else "choose with -m VALIDATION, judge by a second -m TEST"
    say(f"settings were chosen by {metric.label}, so its values look better than they are; {advice}")
    return runs._replace(frame=runs.frame.join(best.lazy().select(keys), on=keys, how="semi", nulls_equal=True))


def varied(study: Study) -> list[Result]:
    """The config columns with more than one value, how many runs have each, and what the grid of them lacks."""
    table, settings, notes = varying_settings(study.runs, pl.col("id"))  # without a column it would have no rows
    rows, texts = [], []
    for column in settings:
        counts = table[column].value_counts(name="runs").sort("runs", column, descending=[True, False]).rows()
        rows += [{"column": column, "value": value, "runs": number} for value, number in counts]
        names = short_names([cell_text(value) for value, _ in counts], LEAST_WIDTH * 2)
        each = [f"{name} ({number})" for name, (_, number) in zip(names, counts, strict=True)]
        most = sum(end <= PAGE_CELLS for end in itertools.accumulate(len(text) + 2 for text in each))
        texts.append((len(counts), some_of(each, most)))
    seen = pl.DataFrame(texts, {"values": pl.Int64, "value (runs)": pl.String}, orient="row")
    view = [("config", pl.Series(labels(settings, study.runs).values(), dtype=pl.String)), *((c.name, c) for c in seen)]
    title = f"{counted(len(settings), 'varying config column')} of {counted(table.height, 'run')}"
    found = pl.DataFrame(rows, {"column": pl.String, "value": pl.Object, "runs": pl.Int64})
    return [Result("varying", title, found, view, notes), *grid(table, settings, study)]


def grid(table: pl.DataFrame, settings: Sequence[str], study: Study) -> list[Result]:
    """Combinations of the settings that were run twice, that lack seeds which most have, or that no run has."""
    distinct = {column: table[column].drop_nulls().n_unique() for column in settings}
    seeds = [c for c in seeds_of(study.runs) if distinct.get(c, 0) > 1 and not table[c].dtype.is_nested()][:1]
    candidates = [c for c in settings if c not in seeds and 1 < distinct[c] <= 12]  # more values: drawn at random
    candidates = [c for c in candidates if 2 * table[c].null_count() <= table.height]
    complete = table.select(settings).drop_nulls([*candidates, *seeds])
    axes = independent(complete, candidates)
    if len(axes) + len(seeds) < 2 or complete.is_empty():
        return []
    complete = table.select(settings).drop_nulls([*axes, *seeds])  # a run may lack settings that are no axes
    present = table.select(axes).drop_nulls().unique()  # also of runs without a seed: they lack it, and are no hole
    sizes = [present[column].n_unique() for column in axes]
    is_same = pl.struct(settings).n_unique() == 1  # also in the settings that are no axes
    counts = complete.group_by(*axes, *seeds).agg(pl.len(), is_same=is_same).sort(*axes, *seeds)
    with_seed = [pl.format(" with seed {}", seed) for seed in seeds]
    problem = pl.concat_str(pl.format("{} runs", "len"), *with_seed).alias("problem")
    tables = [counts.filter(pl.col("len") > 1, "is_same").select(*axes, problem)]
    for seed in seeds:
        common_seeds = counts[seed].value_counts().filter(pl.col("count") * 2 >= present.height).select(seed)
        lacking = present.join(common_seeds, how="cross").join(counts, on=[*axes, seed], how="anti")
        lists = lacking.group_by(axes).agg(pl.col(seed).sort().cast(pl.String).str.join(", "))
        tables.append(lists.select(*axes, pl.format("lacks seed {}", seed).alias("problem")).sort(axes))
    if math.prod(sizes) <= 2 * present.height:  # else it was no grid, and what it lacks is not worth a list
        product = itertools.product(*(present[column].unique() for column in axes))
        missing = pl.DataFrame([*product], present.schema, orient="row").join(present, on=axes, how="anti")
        other = study.any_state.frame.select(axes).unique().with_columns(problem=pl.lit("only runs in other states"))
        missing = missing.join(collected(other), on=axes, how="left")
        tables.append(missing.with_columns(pl.col("problem").fill_null("no run")).sort(axes))
    rows, heads = pl.concat(tables), labels(axes, study.runs) | {"problem": "repeats and gaps"}
    names = some_of([f"{heads[c]} ({size})" for c, size in zip(axes, sizes, strict=True)])
    title = f"grid of {names}: {present.height:,} of {counted(math.prod(sizes), 'combination')} have a run"
    shown = ["problem", *independent_first(rows, axes)]
    return [Result("grid", title, rows, [(heads[name], rows[name]) for name in shown])]


def difference(study: Study) -> list[Result]:
    """What differs between some runs: the config, then the metrics; numbers are equal however they were written."""
    runs, keys = study.any_state, []
    every = collected(runs.frame.select(*KEY, "name"))
    ways = pl.concat_str(pl.col(KEY).fill_null("null"), separator="/"), pl.col("id"), pl.col("name")
    for name in study.options.diff:
        hits = next((hits for way in ways if (hits := every.filter(way == name).select(KEY).sort(KEY).rows())), [])
        if len(hits) > 1:
            some = ", ".join(map(path_text, hits[:SUGGESTED_NAMES])) + " …" * (len(hits) > SUGGESTED_NAMES)  # to copy
            raise ScriptError(f"{len(hits)} runs are called {name}; choose one: {some}", WRONG_USAGE)
        if not hits:
            near = did_you_mean(name, [*every["name"].drop_nulls(), *every["id"].drop_nulls()])
            near = near or "; --sql 'SELECT name, id FROM runs' lists them"
            raise ScriptError(f"no run is called {name}{near}", WRONG_USAGE)
        keys += [key for key in hits if key not in keys]
    if len(keys) < 2:
        one_run = "--sql \"SELECT _config_json, _summary_json FROM runs WHERE id = 'ID'\" --json shows one"
        raise ScriptError(f"--diff needs at least two different runs; {one_run}", WRONG_USAGE)
    facts = ("name", "state", "tags", "group", "job_type", "sweep", "notes", "commit", "command", "gpu")
    columns = [*(c for c in facts if c in runs.dtypes), *runs.of_kind("config"), *runs.of_kind("metric")]
    ids = pl.col("id").is_in([key[2] for key in keys], nulls_equal=True)
    rows = collected(runs.frame.filter(ids).select(*KEY, *columns))
    chosen = pl.DataFrame(keys, dict.fromkeys(KEY, pl.String), orient="row").join(rows, **BY_RUN)
    taken = Counter([*chosen["id"], "column", "kind"])
    heads = [str(key[2]) if taken[key[2]] == 1 else path_text(key) for key in keys]
    differing = [column for column in columns if len({*map(comparable, chosen[column].to_list())}) > 1]
    cells, counts = [cells_of(unambiguous(chosen[column])) for column in differing], Counter(map(kind, differing))
    found = [{"column": c, "kind": kind(c), **dict(zip(heads, chosen[c].to_list(), strict=True))} for c in differing]
    sizes = [f"{counts[k]:,} of {counted(len(runs.of_kind(k)), f'{k} column')}" for k in ("config", "metric")]
    view = [("column", pl.Series(labels(differing, runs).values(), dtype=pl.String))]
    shown = [pl.Series([row[n] for row in cells], dtype=pl.String).replace("null", None) for n in range(len(heads))]
    view += zip(heads, shown, strict=True)
    title = f"{' and '.join(sizes)} differ between {some_of([*run_labels(chosen)])}"
    table = pl.DataFrame(found, {"column": pl.String, "kind": pl.String, **dict.fromkeys(heads, pl.Object)})
    return [Result("diff", title, table, view, min_columns=len(view))]


def comparable(value: object) -> object:
    """A form of a value in which equal meanings are equal: "1e-3" equals 0.001, NaN equals NaN, "1.10" is text."""
    if isinstance(value, str) and re.fullmatch(r"-?(0|[1-9][0-9]{,99})(\.(0|[0-9]*[1-9]))?([eE][-+]?[0-9]+)?", value):
        value = json.loads(value)
    is_nan = isinstance(value, float) and math.isnan(value)
    return repr(value) if is_nan or isinstance(value, list) else value


def importance(study: Study, metric: Metric) -> Result:
    """The settings that vary, by how closely each goes with a metric's rank, the closest first: see the manual."""
    runs, value, rows = study.runs, pl.col(metric.column), []
    usable = runs._replace(frame=runs.frame.filter(value.is_finite()))
    table, varying, unused = varying_settings(usable, value.alias(VALUE))
    number = counted(table.height, "run")
    total, n = collected(runs.frame.select(pl.len(), value.count())).row(0)
    notes = without_value(metric.label, total, table.height, n - table.height)
    if table.height < FEWEST_RUNS:
        notes.append(f"too few to rank settings: {number} with a finite value; {FEWEST_RUNS} are needed")
    else:
        advice = "settings that vary together cannot be separated; p is not corrected for many settings"
        notes += [advice if varying else "no setting varies", *unused]
    for column in varying:
        is_number = table[column].dtype.is_numeric()
        pairs = table.select(x=finite(column) if is_number else column, y=VALUE).drop_nulls()
        x, n, distinct = pairs["x"], pairs.height, pairs["x"].n_unique()
        if n < FEWEST_RUNS or distinct < 2 or (distinct == n and not is_number):
            continue
        level = x
        if is_number and distinct > MOST_LEVELS:
            ranges = max(3, min(MOST_LEVELS, n // RUNS_A_LEVEL))
            level = ((x.rank("average") - 0.5) * ranges / n).cast(pl.Int64)
        ranks = pl.DataFrame({"level": level, "x": x.rank() if is_number else x, "rank": pairs["y"].rank()})
        # Share of the ranks' variance between levels; Kruskal-Wallis H = (n - 1) * share; eta² = (H - between) / within
        share = ranks.select(pl.col("rank").mean().over("level").var() / pl.col("rank").var()).fill_nan(0.0).item()
        between = level.n_unique() - 1  # degrees of freedom
        within = n - 1 - between
        effect = max(0.0, ((n - 1) * share - between) / within)
        p = incomplete_beta(within / 2, between / 2, 1 - share, share)  # the F-test of the ranks
        spearman = ranks.select(pl.corr("x", "rank").fill_nan(None)).item() if is_number else None
        rows.append((metric.column, column, "number" if is_number else "category", effect, spearman, n, distinct, p))
    dtypes: dict[str, Any] = dict.fromkeys(("metric", "column", "kind"), pl.String)
    dtypes |= {"effect": pl.Float64, "spearman": pl.Float64, "n": pl.Int64, "distinct": pl.Int64, "p": pl.Float64}
    answer = pl.DataFrame(rows, dtypes, orient="row").sort("effect", "column", descending=[True, False])
    spearman, is_sure = pl.col("spearman"), pl.col("p") < SIGNIFICANT
    sign = spearman.sign().replace_strict({1.0: "+", -1.0: "-"}, default="", return_dtype=pl.String)
    sign = pl.when(is_sure & (4 * spearman**2 < pl.col("effect"))).then(pl.lit("~")).otherwise(sign)
    named = pl.Series("column", labels(answer["column"], runs).values(), dtype=pl.String)
    rounded = pl.col("effect").round(3), sign.alias("sign"), "n", "distinct", pl.col("p").round_sig_figs(2)
    view = [(column.name, column) for column in answer.select(named, "kind", *rounded)]
    title = f"Settings associated with {metric.label}, {number}; association is not cause"
    return Result("importance", title, answer, view, notes)


# --- questions: what there is, SQL ----------------------------------------------------------------------------


def schema(study: Study) -> list[Result]:
    """Every column, or --columns, with dtype, coverage, range and an example; in each kind, what varies first."""
    runs, options, rows = study.any_state, study.options, list[dict[str, Any]]()
    dtypes: dict[str, Any] = dict.fromkeys(("column", "kind", "dtype", "path"), pl.String)
    dtypes |= {"coverage": pl.Float64, "distinct": pl.Int64, "min": pl.Float64, "max": pl.Float64, "example": pl.String}
    listed = [*dict.fromkeys(find_column(name, runs) for name in options.columns)]
    listed = listed or [column for column in runs.dtypes if column[:1] != "_" and column not in runs.empty]
    height = max(1, collected(runs.frame.select(pl.len())).item())
    at_once = max(1, CELLS_READ // height)  # columns: memory stays bounded whatever the width
    for start in range(0, len(listed), at_once):
        for column in collected(runs.frame.select(listed[start : start + at_once]), "in-memory"):
            values = column.drop_nulls()
            numbers = values.filter(values.is_finite()) if column.dtype.is_numeric() else pl.Series(dtype=pl.Float64)
            dtype = re.sub(r"\w+='?(\w+)'?", r"\1", str(column.dtype)).replace("(", "[").replace(")", "]")
            path = ".".join(runs.paths[column.name]) if column.name in runs.paths else None
            example = next(map(exact_text, values.head(1).to_list()), None)
            facts = column.name, kind(column.name), dtype, path, len(values) / height, values.n_unique()
            rows.append(dict(zip(dtypes, (*facts, numbers.min(), numbers.max(), example), strict=True)))
    rows.sort(key=lambda row: (KINDS.index(row["kind"]), row["distinct"] < 2))
    seen = pl.DataFrame(rows, dtypes)
    most = 0 if options.output else MOST_ROWS["schema"] if options.max_rows is None else options.max_rows
    notes, view_notes = [], []
    if not options.columns:
        from_histories, has_any, step = pl.col("kind") == "history", pl.col("coverage") > 0, "history_min_step_"
        names = [c.removeprefix(step) for c in sorted(seen.filter(has_any)["column"]) if c.startswith(step)]
        logged = [".".join(runs.paths.get(f"metric_{name}", (name,))) for name in names]
        lists = {
            "without any value": seen.filter(~has_any & ~from_histories)["column"].to_list() + sorted(runs.empty),
            "from histories, for --value min, max, last, tail and at": logged,
            "further views of --sql": views_beside(runs),
        }
        notes = [f"{what}: {some_of(names)}" for what, names in lists.items() if names]
        seen = seen.filter(has_any & ~from_histories)
        seen = folded_schema(seen) if 0 < most < seen.height else seen
    if 0 < most < seen.height:
        view_notes = [f"{counted(seen.height - most, 'more row')}: use --max-rows 0 for all"]
        rank_in_kind = pl.int_range(pl.len()).over("kind")  # each kind keeps its share
        seen = seen.with_row_index(RANK).sort(rank_in_kind, RANK).head(most).sort(RANK)
    is_hashed = pl.col("column").str.contains("__[0-9a-f]{8,}$") & pl.col("path").is_not_null()
    named = pl.when(is_hashed).then("path").otherwise("column").alias("column")
    sizes = pl.col("coverage").round(4).alias("cover"), pl.col("distinct").alias("values")
    short = pl.col("dtype").str.replace(r"^Datetime.*", "Datetime")
    view = [(column.name, column) for column in seen.select(named, *sizes, "min", "max", "example", short)]
    title = f"{counted(len(rows), 'column')}; coverage is the share of runs with a value"
    table = pl.DataFrame(rows, dtypes | {"min": pl.Object, "max": pl.Object})  # integers stay exact
    return [Result("schema", title, table, view, notes, view_notes=view_notes)]


def folded_schema(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of a schema, each family in one: names that differ in numbers, and of metrics in their middle."""
    is_deep = (pl.col("kind") == "metric") & (pl.col("path").str.count_matches("[/.]") > 1)
    short = pl.when(is_deep).then(pl.col("path").str.replace("([/.]).*([/.])", "${1}…${2}")).otherwise("column")
    named = table.with_columns(short.alias("name"), short.str.replace_all("[0-9]+", "0").alias("family"))
    found = []
    for members in named.partition_by("kind", "family", maintain_order=True):
        found.append(members)
        if members.height > 2:
            ranges = zip(*(map(int, re.findall("[0-9]+", name)) for name in members["name"]), strict=True)
            texts = [f"{min(each)}…{max(each)}" if len({*each}) > 1 else str(each[0]) for each in ranges]
            parts = members["family"][0].split("0")
            name = "".join(itertools.chain(*itertools.zip_longest(parts, texts, fillvalue="")))
            facts = [pl.lit(name).alias("column"), pl.lit(f"{members.height:,} columns").alias("example")]
            facts += [pl.col("min").min(), pl.col("coverage", "distinct", "max").max()]
            found[-1] = members.with_columns(facts).head(1)
    return pl.concat(found).drop("name", "family")


def overview(study: Study) -> Result:
    """What the input holds: its projects, their runs by state, the days between which they were made."""
    runs, options, state = study.any_state, study.options, pl.col("state").str.to_lowercase()
    days = pl.col("created_at").dt.strftime("%Y-%m-%d")
    counts = {"runs": pl.len(), **{name: (state == name).sum() for name in STATES}}
    counts |= {"first_created": days.min(), "last_created": days.max()}
    table = collected(runs.frame.group_by("entity", "project").agg(**counts).sort("entity", "project"))
    kinds = Counter(kind(column) for column in runs.dtypes if column not in runs.empty)
    notes = [f"columns: {', '.join(f'{kinds[k]} {k}' for k in KINDS if kinds[k])}; --schema lists them"]
    finished = int(table["finished"].sum())
    if options.report and not options.states and 0 < finished < table["runs"].sum():
        notes.append(f"settings and metrics are of the {counted(finished, 'finished run')}; --state all takes all")
    if not study.metrics:
        tables = [view for view in views_beside(runs) if view.strip('"').startswith("table_")]
        notes += [why_no_metric(study), *([f"W&B Tables, for --sql: {some_of(tables)}"] if tables else [])]
    shown = [name for name in counts if name not in STATES or table[name].sum()]
    shown = ["entity", "project", *shown] if table.height > 1 else shown
    whose = f": {path_text(table.row(0)[:2])}" if table.height == 1 else ""
    title = f"{counted(int(table['runs'].sum()), 'run')} in {counted(table.height, 'project')}{whose}"
    return Result("overview", title, table, [(name.removesuffix("_created"), table[name]) for name in shown], notes)


def machine_use(study: Study) -> list[Result]:
    """Run time by GPU, of runs in all states, and how busy the machines were where system metrics tell it."""
    busy = {"gpu_percent": cs.matches(r"^system_gpu_\d+_gpu$"), "cpu_percent": cs.matches("^system_cpu$")}
    runs, null = study.any_state, pl.lit(None, pl.Float64)
    means = {name: pl.mean_horizontal(null, columns & cs.numeric()).mean() for name, columns in busy.items()}
    of_runs = collected(rows_beside(runs, "system").frame.group_by("entity", "project", id="run_id").agg(**means))
    facts = columns_or_null(runs, {"gpu": pl.String, "gpu_count": pl.Int64, "runtime_s": pl.Float64})
    rows = collected(runs.frame.select(*KEY, *facts)).join(of_runs, **BY_RUN)
    if of_runs.is_empty() and rows["gpu"].null_count() == rows.height:
        return []
    time = finite("runtime_s")
    known = {name: pl.when(pl.col(name).is_finite()).then(time) for name in busy}  # run time with samples
    weighted = {name: ((pl.col(name) * t).sum() / t.sum()).fill_nan(None) for name, t in known.items()}
    hours = {"hours": time.sum() / 3600, "gpu_hours": time.sum() / 3600 * pl.col("gpu_count").first()}
    table = rows.group_by("gpu", "gpu_count").agg(runs=pl.len().cast(pl.Int64), **hours, **weighted)
    table = table.sort("hours", "gpu", "gpu_count", descending=[True, False, False], nulls_last=True)
    columns = zip(("gpu", "GPUs", "runs", "hours", "GPU hours", "GPU %", "CPU %"), table, strict=True)
    view = [(head, column) for head, column in columns if head[-1] != "%" or column.count()]
    size = f"{short_number(sum(table['hours']))} hours of run time of {counted(rows.height, 'run')}"
    note = "percentages are means over the runs, weighted by run time"
    note = note if "%" in view[-1][0] else "export_runs.py --system-metrics exports how busy GPUs and CPUs were"
    notes = ["GPU hours count all GPUs of a machine", note]
    return [Result("machine", f"Machine use: {size} in all states", table, view, notes)]


def why_no_metric(study: Study) -> str:
    """Why these runs cannot be compared without more flags, and what to do."""
    in_runs, in_any_state = (coverage(metric_columns(runs), runs) for runs in (study.runs, study.any_state))
    if names := [study.runs.label(column) for column, count in in_runs.items() if count]:
        how = "use --ascending or --descending with -m"
        return f"no metric's name says whether lower or higher is better: {how} {some_of(names, SUGGESTED_NAMES)}"
    if any(in_any_state.values()):
        return "only runs in other states have metrics: use --state all"
    history = rows_beside(study.any_state, "history")
    if names := sorted(map(history.label, metric_columns(history))):
        how = "use --curves, or aggregate_runs.py --history and then --value last"
        return f"metrics are only in the histories: {how}: {some_of(names, SUGGESTED_NAMES)}"
    return "none of these runs has a finite metric; use --varying, or --health for how they ended"


def suggested_grouping(runs: Runs) -> list[str]:
    """One or two columns that split the runs into a few groups of more than one run: first those of the name."""
    named = [column for column in (*DERIVED, "group", "job_type") if column in runs.dtypes]
    seeds = seeds_of(runs)
    columns = [*named, *(c for c in runs.of_kind("config") if not runs.dtypes[c].is_float() and c not in seeds)]
    total, *counts = collected(runs.frame.select(pl.len(), pl.col(columns).n_unique()), "in-memory").row(0)
    most = min(12, total // 2)
    few = [column for column, count in zip(columns, counts, strict=True) if 1 < count <= most]
    table = collected(runs.frame.select(*few, *seeds))
    settings = [c for c in few if table[c].drop_nulls().n_unique() > 1]
    settings = [c for c in settings if not is_noise(table[c], runs.label(c), table.select(seeds))]
    largest: dict[str, Any] = {c: table[c].value_counts()["count"].max() for c in settings}
    settings = [c for c in settings if largest[c] < 0.9 * table.height]  # groups of similar size say most
    chosen: list[str] = []
    for column in sorted(settings, key=lambda c: (c not in named, table[c].dtype != pl.String, largest[c])):
        size = table.select(chosen).n_unique() if chosen else 1
        rows = table.select(*chosen, column)
        of_one_run = rows.is_unique().sum()
        if len(chosen) < 2 and size < rows.n_unique() <= most and 2 * of_one_run <= rows.n_unique():
            chosen.append(column)
    return chosen


def introduction(study: Study) -> list[Result]:
    """What to show to someone who asks nothing: the input, the best runs, a first comparison; in a report all."""
    options = study.options
    if not study.by:
        is_measured = pl.col(study.metrics[0].column).is_finite() if study.metrics else pl.lit(value=True)
        by = suggested_grouping(study.runs._replace(frame=study.runs.frame.filter(is_measured)))
        study = study._replace(by=by, label_by=by)
    metrics = study.metrics if options.report else study.metrics[:1]
    results = [overview(study), *(top(study) if metrics else [])]
    results += [groups(study, metric) for metric in metrics if study.by]
    if not options.report:
        return results if metrics else [*results, *varied(study)]
    names = options.curves
    if metrics:
        results += [pivot(study, metrics[0])] if options.pivot or len(study.label_by) == 2 else []
        names = names or curve_beside(metrics[0], study.runs)
    try:
        results += curves(study, names) if names else []
    except ScriptError as error:
        if options.curves or isinstance(error, DamagedRowsError):
            raise
        say(f"no curves in the report: {error}")
    results += [*machine_use(study), *health(study), *varied(study)]
    return results + [importance(study, metric) for metric in metrics[:1]]


def curve_beside(metric: Metric, runs: Runs) -> list[str]:
    """The name of a metric with several values per run, else of its validation, else of its training; or no name."""
    history = rows_beside(runs, "history")
    columns = {history.label(column): column for column in metric_columns(history)}
    if metric.name in columns:
        counts = history.frame.drop_nulls(columns[metric.name]).group_by("entity", "project", id="run_id").len()
        is_long = counts.join(runs.frame, on=KEY, how="semi", nulls_equal=True).select(pl.median("len") > 2)
        if collected(is_long).item():
            return [metric.name]
    runs_with = {runs.label(column): count for column, count in coverage(metric_columns(runs), runs).items()}
    names = [name for name in columns if 2 * runs_with.get(name, math.inf) >= runs_with.get(metric.name, 0)]
    names.sort(key=lambda name: (name != metric.name, -runs_with.get(name, 0)))
    kinds = words(metric.name)  # none in a name such as "%"
    related = [name for name in names if kinds and kinds[-1] in words(name)]  # other losses of a loss
    tiers = VALIDATION, {"train", "training"}, {*kinds}
    return [name for tier in tiers for name in related if not tier.isdisjoint(words(name))][:1]


def sql(study: Study) -> list[Result]:
    """The rows of a SELECT in DuckDB's dialect over views of the parquet files."""
    options, query = study.options, (study.options.sql or "").rstrip("; \t\r\n")
    usual = 0 if options.format in {"json", "csv"} else MOST_ROWS["sql"]
    most = 0 if options.output else usual if options.max_rows is None else options.max_rows
    with database(study.any_state, "--sql", query) as (connection, aliases):
        statements = connection.extract_statements(query)  # duckdb's own connection would read files for IMPORT
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise ScriptError("--sql takes one SELECT; others are refused, because they could write", WRONG_USAGE)
        # As a subquery: elsewhere DuckDB takes WITH x AS (COPY ...), which could write over the input.
        found = connection.sql(f"FROM (\n{statements[0].query}\n)")
        columns = []
        for name, dtype in zip(found.columns, map(str, found.types), strict=True):
            for pattern, plain in DUCKDB_TYPES.items():
                dtype = re.sub(pattern, plain, dtype)  # noqa: PLW2901
            # SELECT * gives both names of a column: one is enough, unless the query writes the other.
            is_written = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query, re.IGNORECASE)
            if is_written or aliases.get(name) not in found.columns:
                cell = sql_name(name) if dtype == '"NULL"' else f"CAST({sql_name(name)} AS {dtype})"
                columns.append(f"{cell} AS {sql_name(name)}")
        table = pl.DataFrame(found.project(", ".join(columns)).limit(most + 1 if most else sys.maxsize))
        wide = table.select(cs.decimal())  # sums of whole numbers, which may pass 64 bits
        sums = [c.cast(pl.Int64 if c.is_between(-(2**63), 2**63 - 1).all() else pl.Float64) for c in wide]
        table = table.with_columns(known_times(cs.datetime()), *sums)
    more = ["more rows: use --max-rows 0, --json or -o for all"] if 0 < most < table.height else []
    table = table.head(most or table.height)
    title = ("the first " if more else "") + counted(table.height, "row")
    return [Result("sql", title, table, [(column.name, column) for column in table], more)]


def keys_where(predicate: str, runs: Runs) -> pl.DataFrame:
    """The keys of the runs for which an SQL predicate over the columns is true."""
    flag, quoted = f"--where {predicate}", r"""'(?:[^']|'')*'|"[^"]*\""""
    if query := re.search(r"\bselect\b|(?:^|(?<=\())\s*from\b", re.sub(quoted, "", predicate), re.IGNORECASE):
        word, hint = query[0].strip(), "use --sql for queries"
        if known_column(word, runs):
            hint = f'the column {word} goes in double quotes, "{word}"'
        raise ScriptError(f"{flag}: it takes a condition, not a query; {hint}", WRONG_USAGE)

    def named(found: re.Match[str]) -> str:
        """W&B's names with dots, such as `model.k`, need no quotes here; `model_k` is understood, too."""
        name = found[0].strip('"')
        known = None if found[0][0] == "'" else known_column(name, runs)
        is_name = known or ("." in name and not found[1])
        say_rival(name if is_name else "", runs)
        return sql_name(in_view.get(known or "", known or name)) if is_name else found[0]

    for name in dict.fromkeys(re.findall(r"(?<![\w.])\w+(?![\w.])", re.sub("'[^']*'", "", predicate))):
        say_rival(name, runs)
    names = rf"({quoted})|\b[A-Za-z]\w*(?:[._]\w+)+\b(?!\s*\()"
    with database(runs, flag, "") as (connection, aliases):
        in_view = {column: name for name, column in aliases.items()}
        keep = duckdb.SQLExpression(re.sub(names, named, predicate))  # a single one, and nothing after it
        found = connection.view("runs").select("entity", "project", "id", keep.alias("keep"))
        if (dtype := ", ".join(map(str, found.types[3:]))) != "BOOLEAN":
            raise ScriptError(f"{flag} is not a condition: it gives {dtype}, not true or false", WRONG_USAGE)
        # Filtered here: DuckDB would skip blocks of rows by their greatest value, which leaves out NaN.
        keys = pl.DataFrame(found).filter("keep").select(KEY)
        return keys.with_columns(pl.col(pl.Binary).bin.encode("hex")).cast(pl.String)  # as open_file has them


@contextmanager
def database(runs: Runs, flag: str, query: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """A DuckDB connection with the views that a query names, which can read nothing else; W&B's names of columns."""
    global duckdb  # also for sql(), keys_where() and sql_error()
    import duckdb

    views = {"runs": [*runs.parts]}
    beside = files_beside(runs) if re.search("history|console|system|table", query, re.IGNORECASE) else []
    warn_of_other_exports(beside, runs)
    for part in beside:
        view = part.view
        if view not in views and view.lower() in map(str.lower, views):  # names in SQL are alike in any case
            view = f"{view}__{path_hash((view.removeprefix('table_'),))[:8]}"
            say(f"{part.file} is the view {view}, because the key of another table differs only in case")
        views.setdefault(view, []).append(part)
    with tempfile.TemporaryDirectory(prefix="wandb-tools-") as spill, duckdb.connect() as connection:
        try:
            files = [sql_text(str(part.file.absolute())) for parts in views.values() for part in parts]
            connection.execute(f"SET memory_limit = '1GB'; SET temp_directory = {sql_text(spill)}")
            # By the statistics of a file's blocks no value exceeds the greatest number: NaN does.
            connection.execute("SET disabled_optimizers = 'statistics_propagation'; SET TimeZone = 'UTC'")
            connection.execute(f"SET python_enable_replacements = false; SET allowed_paths = [{', '.join(files)}]")
            connection.execute("SET enable_external_access = false; SET lock_configuration = true")
            aliases: dict[str, str] = {}
            for view, parts in views.items():
                aliases |= create_view(connection, view, parts, runs)
            for view in views:
                plain = re.sub(r"\W", "_", view, flags=re.ASCII)  # a name that needs no quotes
                connection.execute(f"CREATE VIEW IF NOT EXISTS {plain} AS FROM {sql_name(view)}")
            yield connection, aliases
        except (duckdb.Error, pl.exceptions.ComputeError) as error:  # after the first rows polars wraps DuckDB's text
            raise sql_error(error, flag, query, runs, views) from error


def sql_error(error: Exception, flag: str, query: str, runs: Runs, views: Iterable[str]) -> ScriptError:
    """What an error of DuckDB's means to the user, who asked `query` with some views of the runs and files beside."""
    reason = " ".join(str(error).partition("\n\nLINE ")[0].split()).removeprefix("got external error: ")
    if re.match("(IO|Out of Memory) Error: ", reason):
        return ScriptError(f"{flag}: {reason}", NOTHING_USABLE)
    if type(error) is duckdb.Error or re.search("^Invalid Error: |Failed to read file|in Parquet file", reason):
        return DamagedRowsError(f"the input is damaged: {reason}; make it again", NOTHING_USABLE)
    if missing := re.match("Catalog Error: Table with name .* does not exist", reason):
        known = [*dict.fromkeys([*views, *(part.view for part in files_beside(runs))])]
        how = "export_runs.py --include-history, --console, --tables and --system-metrics make others"
        return ScriptError(f"{flag}: {missing[0]}; the views are {some_of(known)} ({how})", WRONG_USAGE)
    hint = '; write text in single quotes, W&B names and SQL words ("group") in double quotes'
    hint = "; write list_contains(tags, 'NAME')" if "VARCHAR[]" in reason else hint
    if "Cannot compare values of type VARCHAR and" in reason:
        hint += ", and a column of text as numbers: TRY_CAST(NAME AS DOUBLE)"
    if re.match("Binder Error: (Referenced|.* does not have a) column", reason):
        hint += "; --schema lists the columns of runs, --sql 'DESCRIBE history' those of another view"
    if unknown := re.match('.* Referenced column "(.*)" not found.*bindings:(.*)', reason):
        near = unknown[2]
        for table in {*re.findall(r'(?<!["\w.])(\w+)\.', query)}:  # DuckDB spells h."loss" as "h.loss"
            near = near.replace(f'"{table}.', f'{table}."')
        reason = f'there is no column "{unknown[1]}"; similar ones:{near}'
        alike = {c: runs.label(c) for c in runs.dtypes if runs.label(c).lower() == unknown[1].lower()}
        if len({*alike.values()}) > 1:
            names = " and ".join(sorted({*alike.values()}))
            reason = f"{names} differ only in case, which SQL ignores; in runs, they are {' and '.join(alike)}"
    return ScriptError(f"{flag}: {reason}{hint}", WRONG_USAGE)


def create_view(connection: Any, view: str, parts: Sequence[Runs], runs: Runs) -> dict[str, str]:
    """Create a view of files with both names of each column; W&B's names and the columns that they stand for."""
    # A file that another tool rewrote has lost the W&B names of its columns: those of the other files are used.
    known = {column: path for part in parts for column, path in part.paths.items()}
    paths: list[dict[str, KeyPath]] = []  # of the columns of each part
    for part in parts:
        columns = [c for c in part.dtypes if c in known or c.startswith(NAMED_PREFIXES)]
        paths.append({c: part.paths.get(c, known.get(c, (part.label(c),))) for c in columns})
    stored = dict.fromkeys(pair for own_paths in paths for pair in own_paths.items() if any(pair[1]))  # none is blank
    # Each export chooses its own names. Where a column has several W&B names in these files, or a W&B name several
    # columns, the column is renamed to its W&B name, with a hash where another name may be the same. SQL ignores case.
    path_counts = Counter(column.lower() for column, _ in stored)
    column_counts = Counter((kind(column), path) for column, path in stored)
    spellings = Counter((each, label.lower()) for each, label in {(kind(c), ".".join(path)) for c, path in stored})
    renames: dict[tuple[str, KeyPath], str] = {}
    for column, path in stored:
        if path_counts[column.lower()] > 1 or column_counts[kind(column), path] > 1:
            label, hashed = ".".join(path), f"{'.'.join(path)}__{path_hash(path)[:8]}"
            new = label if spellings[kind(column), label.lower()] == 1 else hashed
            renames[column, path] = f"{kind(column)}_{hashed}" if view == "runs" else new
    renamed = {column for (column, _), new in renames.items() if new != column}
    used = {column.lower() for part in parts for column in part.dtypes if column not in renamed}
    used |= {new.lower() for new in renames.values()}
    # The W&B names that nothing else is called are further names of the columns.
    aliases: dict[str, str] = {}
    for column, path in sorted(stored, key=lambda pair: (pair[0].startswith("metric_"), len(pair[1]), len(pair[0]))):
        label = ".".join(path)
        if label.lower() not in used and spellings[kind(column), label.lower()] == 1:
            aliases[label] = renames.get((column, path), column)
            used.add(label.lower())
    empty = runs.empty if view == "runs" else ()  # each of these columns gives way to the setting of its name
    settings = {column: known_column(column, runs, ["config_"]) for column in empty}
    replaced = [f"{sql_name(setting)} AS {sql_name(c)}" for c, setting in settings.items() if setting and setting != c]
    sources = []
    for part, own_paths, others in zip(parts, paths, repeated_runs(parts, view, runs), strict=True):
        names = [f"{sql_name(pair[0])} AS {sql_name(renames[pair])}" for pair in own_paths.items() if pair in renames]
        every = f"* RENAME ({', '.join(names)})" if names else "*"
        file = sql_text(str(part.file.absolute()))
        # By default DuckDB takes a folder called `lr=0.1` for a column, even in place of the file's.
        source = f"SELECT {every} FROM read_parquet({file}, hive_partitioning = false)"  # noqa: S608 - quoted
        if others.height:
            rows = ", ".join(f"({', '.join(map(sql_text, row))})" for row in others.iter_rows())
            source += f" AS part ANTI JOIN (VALUES {rows}) AS other({', '.join(others.columns)}) ON "
            source += " AND ".join(f"part.{c} IS NOT DISTINCT FROM other.{c}" for c in others.columns)
        sources.append(source)
    star = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
    extra = "".join(f", {sql_name(column)} AS {sql_name(label)}" for label, column in aliases.items())
    source = f"({' UNION ALL BY NAME '.join(sources)}) AS part"
    if view != "runs" and "source_file" in runs.dtypes:  # the files hold runs that a filter left out of an aggregate
        same = [f"part.{c} IS NOT DISTINCT FROM runs.{c}" for c in ("entity", "project")]
        source += f" SEMI JOIN runs ON part.run_id = runs.id AND {' AND '.join(same)}"
    connection.execute(f"CREATE VIEW {sql_name(view)} AS SELECT {star}{extra} FROM {source}")  # noqa: S608 - quoted
    return aliases | {new: c for (c, path), new in renames.items() if c in renamed and runs.paths.get(c, path) == path}


def sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str | None) -> str:
    return "NULL::VARCHAR" if text is None else "'" + text.replace("'", "''") + "'"


# --- questions: curves and health, from histories -------------------------------------------------------------


def rows_of_history(history: Runs, columns: Mapping[str, str], keys: pl.DataFrame) -> pl.DataFrame:
    """The rows of the runs in `keys`, in each run's order: RUN_NUMBER, `_step`, and `columns` by their new names."""
    is_near = pl.col("run_id").is_in(keys["id"].unique().to_list(), nulls_equal=True)  # skips row groups of others
    values = {new: pl.col(old).cast(pl.Float64) for new, old in columns.items()}
    rows = history.frame.filter(is_near).select("entity", "project", "_step", id="run_id", **values)
    rows = rows.filter(pl.any_horizontal(pl.col(list(columns)).is_not_null()))
    numbers = keys.lazy().select(RUN_NUMBER, *KEY)
    return collected(rows.join(numbers, on=KEY, how="inner", nulls_equal=True, maintain_order="left").drop(KEY))


def curves(study: Study, names: Sequence[str] = ()) -> list[Result]:
    """Metrics over the steps, or another axis: per group the mean over its runs with its interval, else per run."""
    options, history = study.options, rows_beside(study.runs, "history")
    if not history.parts:
        sampled = [file for part in study.runs.parts for file in part.file.parent.glob("*_history_sampled.parquet")]
        what = "only a sampled history, which is not used" if sampled else "no history file"
        raise ScriptError(f"these runs have {what}; export_runs.py --include-history writes all rows", NOTHING_USABLE)
    keys = collected(study.runs.frame.select(dict.fromkeys((*KEY, "name", *study.by)).keys())).sort(KEY)
    keys, results = keys.with_row_index(RUN_NUMBER), dict[str, Result]()  # by label: two names may mean one metric
    for name in names or options.curves:
        known = metric_called(name, study.runs)
        column = metric_called(study.runs.label(known) if known else name, history)
        if column is None:
            logged = {*map(history.label, metric_columns(history))}
            hint = did_you_mean(name, logged) or f"; there are {some_of(sorted(logged), SUGGESTED_NAMES) or 'none'}"
            raise ScriptError(f"no history has a metric {name}{hint}", WRONG_USAGE)
        label = history.label(column)
        goal = options.goal or history.goals.get(column) or goal_by_name(label)
        if options.best_so_far and goal is None:
            what = f"--best-so-far: the name {label} does not say whether lower or higher is better"
            raise ScriptError(f"{what}; {GOAL_HINT}", WRONG_USAGE)
        clock, axis, rows = rows_over(options.x, column, history, keys)
        points = curve_points(with_divergence(rows, label, goal, options), axis, goal, keys, study)
        if clock == "_timestamp":
            points = points.with_columns((pl.col("x", DIVERGED_AT) * 1e6).cast(pl.Int64).cast(pl.Datetime("us", "UTC")))
        value = label + ", best so far" * options.best_so_far
        value += f", smoothed by {options.smooth}" if options.smooth else ""
        results[label] = curve_result(points, value, axis, known or column, goal, study)
    return [*results.values()]


def metric_called(name: str, history: Runs) -> str | None:
    """The metric of a history that is called `name`, even if another column of it is called so, too."""
    metrics = {column: history.dtypes[column] for column in metric_columns(history)}
    return known_column(name, history._replace(dtypes=metrics), ["metric_"])


def rows_over(x: str | None, column: str, history: Runs, keys: pl.DataFrame) -> tuple[str, str, pl.DataFrame]:
    """The column and the name of an axis, and a metric's rows that have it: RUN_NUMBER, VALUE and x, in this order."""
    defined = known_column(history.axes[column], history, ["metric_"]) if column in history.axes else None
    axis = (defined or "step") if x is None else x
    clock = {"step": "_step", "runtime": "_runtime", "time": "_timestamp"}.get(axis, axis)
    x_column = clock if clock.startswith("_") and clock in history.dtypes else metric_called(axis, history)
    if x_column is None:
        raise ScriptError(f"--x {axis}: no history has it; choose step, runtime, time or a metric", WRONG_USAGE)
    label = history.label(column)
    logged = rows_of_history(history, {VALUE: column, "x": x_column}, keys).drop_nulls(VALUE)
    has_axis = logged.group_by(RUN_NUMBER).agg((2 * pl.col("x").count() >= pl.len()).alias("x"))["x"]
    if x is None and 2 * has_axis.sum() < len(has_axis):
        say(f"most runs logged {label} without its step metric: over step; or use --x {history.label(x_column)}")
        clock, axis, logged = "_step", "step", logged.with_columns(x=pl.col("_step").cast(pl.Float64))
    axis, point = history.label(axis).removeprefix("_"), pl.col("x")
    if without_metric := len(has_axis) and keys.height - len(has_axis):
        say(f"left out, because no history has {label} of them: {counted(without_metric, 'run')}")
    rows = logged.filter(point.is_between(0, 2e11) if clock == "_timestamp" else point.is_finite())  # to the year 8307
    if no_axis := len(has_axis) - rows[RUN_NUMBER].n_unique():
        say(f"left out, because they did not log {axis} with it: {counted(no_axis, 'run')}; use --x step to see them")
    if rows.is_empty():
        raise ScriptError(f"no history has {axis if no_axis else label} of these runs; choose others", NOTHING_USABLE)
    return clock, axis, rows.sort(RUN_NUMBER, "x", "_step")


def curve_points(rows: pl.DataFrame, axis: str, goal: Goal | None, keys: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Each run's value at the points of its curve: RUN_NUMBER, x, VALUE, DIVERGED_AT and the columns of `keys`."""
    options, x = study.options, pl.col("x")
    form = FILE_FORMATS[options.output.suffix.lower()] if options.output else options.format
    is_picture = options.report or form in {"png", "svg", "html"}
    has_all_runs = "json" in {form, options.format} or form in {"csv", "parquet"}
    last_values = rows.group_by(RUN_NUMBER).agg(finite(VALUE).last())
    best = last_values.sort(VALUE, RUN_NUMBER, descending=[goal == "maximize", False], nulls_last=True).head(MOST_LINES)
    shown = rows if study.by or has_all_runs else rows.join(best, on=RUN_NUMBER, how="semi")
    counts = shown.group_by("x").len().sort("x")
    points = counts.select("x")
    most = PICTURE_POINTS if is_picture else max(CURVE_POINTS, MOST_CURVE_ROWS // keys.height if has_all_runs else 0)
    most = options.points or most
    if points.height > most:
        say(f"{most} of {points.height:,} points of {axis}: use --points for more")
        points = points[spread(counts["len"], most)]
    bounds = {"first x": x.first(), "last x": x.last()}
    spans = rows.group_by(RUN_NUMBER).agg(pl.col(DIVERGED_AT).min(), **bounds).join(keys, on=RUN_NUMBER, how="left")
    # The end of each curve is a point, too: a run's last x, or the one that half of the runs of its group reach.
    ends = spans.with_columns(x=pl.col("last x").quantile(0.5, "lower").over(study.by or RUN_NUMBER))
    if study.by or not has_all_runs:  # a table has a row per point: no cell is empty where the curve has a value
        shown_ends = (ends if study.by else ends.join(best, on=RUN_NUMBER, how="semi")).select("x").unique()
        points = pl.concat([points, shown_ends]).unique() if shown_ends.height <= MOST_LINES else points
    at_points = pl.concat([spans.join(points, how="cross").select(ends.columns), ends])
    at_points = at_points.filter(x.is_between("first x", "last x")).unique([RUN_NUMBER, "x"]).sort(RUN_NUMBER, "x")
    values = rows.select(RUN_NUMBER, "x", VALUE)
    found = at_points.join_asof(values, on="x", by=RUN_NUMBER, check_sortedness=False).drop_nulls(VALUE)
    if without_points := spans.height - found[RUN_NUMBER].n_unique():
        say(f"not shown, because they have no value at these points: {counted(without_points, 'run')}")
    return found


def spread(counts: pl.Series, most: int) -> pl.Series:
    """The positions of `most` of the points, each with `counts` rows: evenly over all rows, not over one long run."""
    positions, middles = pl.int_range(len(counts), eager=True), counts.cum_sum() - counts / 2
    borders = (middles + middles.shift(-1)).head(-1) / 2
    step = (middles[-1] - middles[0]) / max(1, most - 1)
    wanted = pl.Series([middles[0] + i * step for i in range(most)])
    nearest = borders.search_sorted(wanted).cast(pl.Int64).unique()
    others = positions.filter(~positions.is_in(nearest.implode()))
    free = most - len(nearest)  # a point of many rows can be the nearest more than once
    further = [(i + 1) * len(others) // (free + 1) for i in range(free)]
    return pl.concat([nearest, others.gather(further)]).sort()


def with_divergence(rows: pl.DataFrame, label: str, goal: Goal | None, options: Options) -> pl.DataFrame:
    """VALUE smoothed, or the best so far, and DIVERGED_AT: x where all values from there to the run's end are bad."""
    is_bad, lowest = ~pl.col(VALUE).is_finite(), finite(VALUE).cum_min().forward_fill()
    if can_diverge(label, goal):
        bound = pl.max_horizontal(DIVERGED * lowest, 10 * finite(VALUE).backward_fill().first())
        is_bad |= ((lowest > 0) & (pl.col(VALUE) > bound)).fill_null(value=False)
    to_its_end = is_bad.cast(pl.Int8).cum_min(reverse=True).over(RUN_NUMBER) == 1
    rows = rows.with_columns(pl.when(to_its_end).then("x").alias(DIVERGED_AT))
    if options.smooth:
        smooth = finite(VALUE).ewm_mean(alpha=1 - options.smooth, adjust=True, ignore_nulls=True).over(RUN_NUMBER)
        rows = rows.with_columns(pl.when(pl.col(VALUE).is_finite()).then(smooth).otherwise(VALUE).alias(VALUE))
    if options.best_so_far:
        so_far = finite(VALUE).cum_min() if goal == "minimize" else finite(VALUE).cum_max()
        never = pl.lit(None, pl.Float64).alias(DIVERGED_AT)  # the best stays the best
        rows = rows.with_columns(so_far.forward_fill().over(RUN_NUMBER).alias(VALUE), never)
    return rows


def can_diverge(label: str, goal: Goal | None) -> bool:
    """Whether a metric's values tell that a run diverged, and not only NaN and infinity."""
    return goal == "minimize" and GROW_FROM_ZERO.isdisjoint(words(label))


def curve_result(points: pl.DataFrame, value: str, axis: str, column: str, goal: Goal | None, study: Study) -> Result:
    """Curves as a result: statistics over the runs of each group; without groups a curve per run."""
    if study.by:
        by, y = [*study.by], "mean"
        columns = [*by, "x", "n", "n_nonfinite", "mean", "std", "sem", "ci_low", "ci_high"]
        usable = pl.when((pl.col("x") < pl.col(DIVERGED_AT)).fill_null(value=True)).then(finite(VALUE))
        table = statistics_of(points.with_columns(usable.alias(FINITE)), [*by, "x"])
    else:
        by, y, columns = [RUN_NUMBER], "value", [*KEY, "name", "x", "value"]
        table = points.with_columns(n=pl.lit(1), value=VALUE)
    # By the last mean of more than half of a group's runs: the very last one may be a single run's, and far off.
    logged = pl.sum_horizontal("^(n|n_nonfinite)$")  # also those without a finite value: who diverges is last
    is_most = 2 * logged > logged.max()
    last = table.sort("x").group_by(by).agg(finite(y).filter(is_most).last().alias(RANK))
    last = last.sort(RANK, *by, descending=[goal == "maximize", *[False] * len(by)], nulls_last=True)
    table = table.join(last.drop(RANK).with_row_index(RANK), on=by, how="left", nulls_equal=True).sort(RANK, "x")
    first_rows = table.unique(RANK, keep="first", maintain_order=True)
    names = row_names(first_rows, study.label_by) if study.by else [*run_labels(first_rows)]
    name = pl.col(RANK).replace_strict(dict(enumerate(names)), return_dtype=pl.String)
    last_x = pl.col("x").filter(is_most).max().over(RANK)  # later on, the mean of a few could jump
    drawn = table.select("x", "n", "^ci_(low|high)$", value=y, name=name, rank=RANK)
    size, notes, view_notes = counted(len(names), "run"), [], []
    n_varies = table["n"].n_unique() > 1
    if study.by:
        size = f"{counted(points[RUN_NUMBER].n_unique(), 'run')} in {counted(len(names), 'group')}"
        means = f"the mean of the runs that have one there{', their number in brackets' if n_varies else ''}"
        end = f"ends with its last run{', in pictures where half of them have ended' if n_varies else ''}"
        notes.append(f"each value is {means}; a curve {end}")
        diverged = points.unique(RUN_NUMBER).filter(pl.col(DIVERGED_AT).is_not_null())
        if diverged.height:
            size += f", {diverged.height} diverged"
            counts = sorted(Counter(row_names(diverged, study.label_by)).items())
            of_groups = some_of([f"{count} of {name}" for name, count in counts])
            bad = f"NaN, infinite, or over 10 times the first value and {DIVERGED:,} times the lowest before"
            notes.append(f"diverged, and left out from where all values to the end are {bad}: {of_groups}")
    first = "best" if goal else "lowest"  # the last values by which the curves are sorted
    if len(names) > MOST_CURVES:
        more = f"{len(names) - MOST_CURVES} more: use --group-by, --where or --json{'' if goal else f'; {GOAL_HINT}'}"
        view_notes.append(f"the {MOST_CURVES} with the {first} last value are shown; {more}")
    notes += ["each curve has only one point"] if table.height == len(names) else []
    view, sparklines = curve_columns(axis, names, drawn, with_n=n_varies)
    grouped = f", mean by {', '.join(labels(study.label_by, study.runs).values())}" if study.by else ""
    title = f"{value} over {axis}{grouped}: {size}"
    chart = value, axis, drawn.filter(table.select(pl.col("x") <= last_x).to_series())
    table = table.select(pl.lit(column).alias("metric"), *columns)
    return Result("curves", title, table, view, [*notes, *sparklines], chart, view_notes=view_notes, first=first)


def curve_columns(
    axis: str, names: Sequence[str], drawn: pl.DataFrame, *, with_n: bool
) -> tuple[list[tuple[str, pl.Series]], list[str]]:
    """The first curves as columns, a row per x, empty where a curve has no value; at a terminal also as sparklines."""
    shown, sparklines = drawn.filter(pl.col("rank") < MOST_CURVES), list[str]()
    xs = shown.select(pl.col("x").unique().sort())
    if xs["x"].dtype.is_float():
        to_text = "{:.16g}".format if (xs["x"] % 1 == 0).all() else float_format(xs["x"].to_list())
        view = [(axis, pl.Series([*map(to_text, xs["x"])]))]
    else:
        minutes = xs["x"].dt.to_string("%Y-%m-%d %H:%M")
        view = [(axis, minutes if minutes.is_unique().all() else xs["x"].dt.to_string("%Y-%m-%d %H:%M:%S"))]
    for name, line in zip(names, shown.partition_by("rank", maintain_order=True), strict=False):
        at_x = xs.join(line, on="x", how="left", maintain_order="left")
        cells = at_x.select("value", "n").iter_rows()
        view.append((name, pl.Series("" if v is None else short_number(v) + f" ({n})" * with_n for v, n in cells)))
        if is_terminal():  # the curve as blocks of eight heights: x where it has no finite value
            height, blocks = finite("value"), dict(enumerate("▁▂▃▄▅▆▇█"))
            level = ((height - height.min()) / (height.max() - height.min()) * 7).fill_nan(0.0)  # all are equal
            block = level.round().cast(pl.Int64).replace_strict(blocks, default="x", return_dtype=pl.String)
            block = pl.when(pl.col("n").is_null()).then(pl.lit(" ")).otherwise(block)
            sparklines.append(f"{at_x.select(block.str.join()).item()}  {printable(name)}")
    return view, sparklines


def health(study: Study) -> list[Result]:
    """A row for each problem of each run, of the kinds that the manual defines; the runs with the worst first."""
    runs, history = study.any_state, rows_beside(study.any_state, "history")
    keys = collected(runs.frame.select(*KEY, "name")).sort(KEY).with_row_index(RUN_NUMBER)
    found, logged, non_finite = list[Problem](), set[int](), dict[str, list[int]]()  # the last two: numbers of runs
    metrics = sorted(metric_columns(history), key=lambda column: json.dumps(history.paths[column]))
    sizes = collected(history.frame.group_by("entity", "project", id="run_id").len())
    read = keys.join(sizes, on=KEY, nulls_equal=True)[RUN_NUMBER]
    at_once = max(1, CELLS_READ // max(1, int(sizes["len"].sum())))
    for start in range(0, len(metrics), at_once):
        block = metrics[start : start + at_once]
        rows = rows_of_history(history, dict(zip(block, block, strict=True)), keys)
        for column in block:
            values = rows.select(RUN_NUMBER, "_step", pl.col(column).alias(VALUE)).drop_nulls(VALUE)
            label = history.label(column)
            logged |= {*values[RUN_NUMBER].unique()}
            non_finite[label] = values.filter(~pl.col(VALUE).is_finite())[RUN_NUMBER].unique().to_list()
            if non_finite[label] or values.height > values[RUN_NUMBER].n_unique():  # else one value a run: no curve
                found += metric_problems(values, label, history.goals.get(column) or goal_by_name(label))
    run = pl.col(RUN_NUMBER)
    in_histories = keys.with_columns(has_rows=run.is_in([*read]), has_values=run.is_in([*logged]))
    found += problems_of_runs(study, in_histories, non_finite)
    problems = pl.DataFrame(found, {RUN_NUMBER: pl.UInt32, "problem": pl.String, "detail": pl.String}, orient="row")
    rank, most_first = pl.col("problem").replace_strict(PROBLEMS, range(len(PROBLEMS))), -pl.len().cast(pl.Int64)
    worst = pl.when(rank.max() == len(PROBLEMS) - 1).then(rank.max()).otherwise(rank.min())
    problems = problems.sort(worst.over(run), most_first.over(run), run, rank, maintain_order=True)
    table = problems.join(keys, on=RUN_NUMBER, how="left", maintain_order="left")
    table = table.select("entity", "project", pl.col("id").alias("run"), "name", "problem", "detail")
    where = "" if history.parts else " (no history files, so only summaries and states were checked)"
    if not found:
        return [Result("health", f"{counted(keys.height, 'run')}: no problem found{where}", table, [])]
    folded = problems.group_by(RUN_NUMBER, "problem", maintain_order=True).agg(pl.first("detail"), more=pl.len() - 1)
    counts = ", ".join(f"{count} {problem}" for problem, count in Counter(folded["problem"]).most_common())
    labelled = run_labels(keys).gather(folded[RUN_NUMBER])
    details = [first + f" (and {counted(more, 'more metric')})" * bool(more) for _, _, first, more in folded.rows()]
    details = [shortened(text, 2 * PAGE_CELLS) for text in details]  # a line of a console may be long
    silent = sum(problem in {"crashed", "failed"} and ": " not in detail for _, problem, detail in found)
    why = f"no console output of {counted(silent, 'crashed or failed run')}"
    if silent and not rows_beside(runs, "console").parts:
        why += ": export_runs.py --console exports it"
    title = f"Problems in {problems[RUN_NUMBER].n_unique():,} of {counted(keys.height, 'run')}{where}: {counts}"
    view = [("run", labelled), ("problem", folded["problem"]), ("detail", pl.Series(details))]
    if (projects := keys["project"].gather(folded[RUN_NUMBER])).n_unique() > 1:
        view.insert(1, ("project", projects))
    return [Result("health", title, table, view, [why] if silent else [])]


def metric_problems(values: pl.DataFrame, label: str, goal: Goal | None) -> Iterator[Problem]:
    """The problems of one metric: `values` are RUN_NUMBER, `_step` and VALUE, without nulls, by step."""
    is_finite, value, step = pl.col(VALUE).is_finite(), pl.col(VALUE), pl.col("_step")
    facts = {"first": step.filter(~is_finite).first(), "bad": (~is_finite).sum(), "all": pl.len()}
    counts = values.group_by(RUN_NUMBER, maintain_order=True).agg(**facts)
    for number, first, count, total in counts.filter(pl.col("bad") > 0).iter_rows():
        share = "the only one" if total == 1 else "all of them" if count == total else f"of {total:,}"
        yield number, "non-finite", f"{label}, {counted(count, 'value')} ({share}), the first at step {first}"
    finite_values = values.filter(is_finite)
    if "loss" in words(label):
        # Above both sides, as the steep start of a curve is far above its rest. Near the ends the windows are shorter.
        before = value.rolling_median(SPIKE_WINDOW, min_samples=1)
        after = value.reverse().rolling_median(SPIKE_WINDOW, min_samples=1).reverse()
        typical, around = pl.max_horizontal(before, after), 2 * SPIKE_WINDOW - 1
        usual = (value - typical).abs().rolling_median(around, min_samples=SPIKE_WINDOW, center=True)
        usual = pl.when(usual == 0).then(typical.abs() / 10).otherwise(usual)  # most values are equal
        spikes = ((usual > 0) & (value - typical > 10 * usual)).over(RUN_NUMBER)
        largest = value.max(), step.get(value.arg_max())
        found = finite_values.filter(spikes).group_by(RUN_NUMBER, maintain_order=True).agg(pl.len(), *largest)
        for number, count, peak, at in found.iter_rows():
            yield number, "spikes", f"{label}, {counted(count, 'value')}, the largest {short_number(peak)} at step {at}"
    if goal is None:
        return
    where = value.arg_min() if goal == "minimize" else value.arg_max()
    facts = {"best": value.get(where), "at": step.get(where), "first": value.first(), "last": value.last()}
    facts |= {"share": (where + 1) / pl.len(), "span": value.max() - value.min()}
    is_validation = not VALIDATION.isdisjoint(words(label)) and COSTS.isdisjoint(words(label))
    found = finite_values.group_by(RUN_NUMBER, maintain_order=True).agg(**facts)
    for number, best, at, first, last, share, span in found.iter_rows():
        detail = f"{label} {short_number(best)} at step {at}, ends at {short_number(last)}"
        if can_diverge(label, goal) and best > 0 and last > max(10 * first, DIVERGED * best):
            yield number, "diverged", detail
        if is_validation and abs(last - best) > 0.1 * span and share <= 2 / 3:
            yield number, "past its best", detail


def last_lines(runs: Runs) -> pl.DataFrame:
    """The last error of a failed run's console, else the last line with a word, of stderr if possible: KEY, `line`."""
    broken = runs.frame.filter(in_states(["crashed", "failed"])).select(*KEY, is_failed=in_states(["failed"]))
    # More lines may follow an error, such as a progress bar that closes. A run that crashed was not ended by one.
    is_error = pl.col("text").str.contains(r"^(\[\w+\]: )?[\w.]*(Error|Exception|Interrupt)(:|$)")
    is_warning = pl.col("text").str.contains("Warning: ")  # Python prints the line of code below it
    is_minor = is_warning | (is_warning.shift() & pl.col("text").str.contains(r"^\s"))
    bar_or_head = r"\d%\||\d+/\d+ \[[=>.]+\]|\($|^(Traceback|Exception ignored)"
    advice = "CUDA kernel errors might|For debugging consider passing CUDA|Compile with .TORCH_USE|Search for .cuda"
    is_minor |= pl.col("text").str.contains(rf"{bar_or_head}|^(\[\w+\]: )?({advice})")  # advice of PyTorch
    is_sdk = pl.col("text").str.contains("^wandb: (WARNING|[A-Z][a-z])")  # not its errors
    # The line with the greatest number wins: first errors, then what is not minor, then stderr, then later lines.
    order = pl.col("line").fill_null(0) + pl.when(pl.col("stream") == "stderr").then(2**60).otherwise(0)
    order += pl.when("is_minor").then(0).otherwise(2**61)
    order += pl.when(is_error & pl.col("is_failed")).then(2**62).otherwise(0)
    console = rows_beside(runs, "console")
    stream = columns_or_null(console, {"stream": pl.String})
    lines = console.frame.select("entity", "project", "text", "line", *stream, id="run_id")
    lines = lines.with_columns(is_minor=is_minor).filter(pl.col("text").str.contains(r"\w") & ~is_sdk)
    lines = lines.join(broken, on=KEY, nulls_equal=True)
    last = pl.col("text").max_by(order).str.replace_all(r"[\s\p{Cc}█-▏]+", " ").str.strip_chars()
    return collected(lines.group_by(KEY).agg(line=last))


def problems_of_runs(study: Study, keys: pl.DataFrame, non_finite: dict[str, list[int]]) -> Iterator[Problem]:
    """Runs without a metric, crashed, failed, ended early, or with NaN or infinity in the summary but in no history."""
    runs, step, state = study.any_state, pl.col("last_step"), pl.col("state").str.to_lowercase()
    metrics, facts = metric_columns(runs), columns_or_null(runs, {"last_step": pl.Int64, "history_rows": pl.Int64})
    rows = collected(runs.frame.select(*KEY, "state", *facts, *metrics), "in-memory")
    rows = keys.join(rows, **BY_RUN).join(last_lines(runs), **BY_RUN)
    # The median is over all runs of the inputs: after a filter for failed runs, it would be as early as they are.
    facts = columns_or_null(study.everything, {"group": pl.String, "last_step": pl.Int64})
    peers = collected(study.everything.frame.select(*KEY, *facts), "in-memory")
    medians = [pl.when(step.count() >= 3).then(step.median()).over("entity", "project", *of) for of in ([], ["group"])]
    of_group = pl.when(pl.col("group").is_not_null()).then(medians[1])
    rows = rows.join(peers.select(*KEY, usual=pl.coalesce(of_group, medians[0])), **BY_RUN)
    usual = pl.col("usual")
    unread = (pl.col("history_rows").fill_null(0) > 0) & ~pl.col("has_rows")  # it may hold numbers
    logs_any = pl.any_horizontal("has_values", unread, *(pl.col(c).is_not_null() for c in metrics))
    is_broken, is_over = state.is_in(["crashed", "failed"]), ~state.is_in(["running", "pending", "preempting"])
    where = pl.coalesce(pl.format("at step {}", step), pl.lit("before the first step"))
    where += pl.coalesce(pl.format(": {}", "line"), pl.lit(""))
    early = pl.format("at step {}; the median of its group or project is {}", step, usual.cast(pl.Int64, strict=False))
    found = [(~logs_any, pl.lit("no metric"), pl.lit("in summary and history"))]
    infinite = rows.select((~pl.col(column).is_finite()).any().alias(column) for column in metrics)
    for column in (each.name for each in infinite if each[0]):
        label, path = runs.label(column), runs.paths.get(column, ())
        own = label, ".".join(path[:-1])  # loss.min is a summary of loss
        known = [number for each in own for number in non_finite.get(each, [])]
        detail = pl.lit(f"{label} in the summary")
        found.append((~pl.col(column).is_finite() & ~pl.col(RUN_NUMBER).is_in(known), pl.lit("non-finite"), detail))
    found.append((is_broken, state, where))
    found.append((is_over & (usual > 0) & (step < 0.5 * usual), pl.lit("stopped early"), early))
    for condition, problem, detail in found:
        yield from rows.filter(condition).select(RUN_NUMBER, problem=problem, detail=detail).iter_rows()


# --- statistics -----------------------------------------------------------------------------------------------


def group_statistics(runs: Runs, by: Sequence[str], metric: Metric, stat: str = "mean", step: str = "") -> pl.DataFrame:
    """Statistics per group and its best run, the best group first; in memory, where sums come out alike every time."""
    best_run = {new: pl.col(old) for old, new in {**BEST_RUN, step: "best_step"}.items() if old in runs.dtypes}
    numbers = {VALUE: pl.col(metric.column), FINITE: finite(metric.column)}
    rows = collected(runs.frame.select(*by, **numbers, **best_run), "in-memory")
    table = statistics_of(rows, by).sort(by)
    if stat != "mean":
        lists = rows.group_by(by).agg(pl.col(FINITE).drop_nulls().sort()).sort(by)[FINITE].to_list()
        columns = dict.fromkeys((stat, "ci_low", "ci_high"), pl.Float64)
        bounds = pl.DataFrame([bootstrap(each, stat) for each in lists], schema=columns, orient="row")
        table = table.with_columns(bounds.get_columns())
    best = table.select(*by, pl.col("min" if metric.goal == "minimize" else "max").alias(FINITE)).drop_nulls(FINITE)
    # Only these rows are sorted by their keys: to sort all takes 0.2 s more for 200,000 runs.
    first = rows.join(best, on=[*by, FINITE], how="semi", nulls_equal=True).sort(*BEST_RUN.values(), nulls_last=True)
    first = first.unique(by, keep="first").drop(VALUE, FINITE)
    table = table.join(first, on=by, how="left", nulls_equal=True)
    return table.sort(stat, *by, descending=[metric.goal == "maximize", *[False] * len(by)], nulls_last=True)


def statistics_of(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """A row per group with the statistics of FINITE; the mean's interval is null where n is below 2."""
    # No filter stands inside the aggregations: there polars 2.1 can return values of other groups.
    value, n = pl.col(FINITE), pl.col(FINITE).count().cast(pl.Int64)
    counts = {"runs": pl.len().cast(pl.Int64), "n": n, "n_nonfinite": pl.col(VALUE).count().cast(pl.Int64) - n}
    moments = {"mean": value.mean(), "std": value.std(ddof=1), "min": value.min(), "median": value.median()}
    table = rows.group_by(by).agg(**counts, **moments, max=value.max())
    quantiles = {count: t_quantile(count - 1) for count in table["n"].unique() if count > 1}
    is_one = pl.col("min") == pl.col("max"), pl.col("max") != 0  # sums of equal values are rounded; of -0.0 it is 0.0
    mean = pl.when(*is_one).then("max").otherwise("mean")
    table = table.with_columns(mean=mean, sem=pl.col("std") / pl.col("n").sqrt())
    margin = pl.col("sem") * pl.col("n").replace_strict(quantiles, default=None, return_dtype=pl.Float64)
    return table.with_columns(ci_low=pl.col("mean") - margin, ci_high=pl.col("mean") + margin)


def finite(column: str) -> pl.Expr:
    """A column's values with null for NaN and infinities, so that they neither count nor rank."""
    return pl.when(pl.col(column).is_finite()).then(pl.col(column))


def bootstrap(values: Sequence[float], stat: str) -> tuple[float | None, float | None, float | None]:
    """The median or iqm (mean of the middle half) of some values, and its 95 % interval by the percentile bootstrap."""
    sample, n = pl.Series(values, dtype=pl.Float64), len(values)

    def statistics(samples: pl.Series) -> pl.Series:
        rows = samples.reshape((-1, n))
        if stat == "median":
            return rows.arr.median()
        return rows.arr.sort().arr.to_list().list.slice(n // 4, n - 2 * (n // 4)).list.mean()

    estimate: float | None = statistics(sample).item() if n else None
    if n < LEAST_RESAMPLED:
        return estimate, None, None
    at_once = max(1, 4_000_000 // n)  # numbers in memory: 32 MB
    sizes = {start: min(at_once, RESAMPLES - start) * n for start in range(0, RESAMPLES, at_once)}
    samples = (sample.sample(size, with_replacement=True, seed=SEED + start) for start, size in sizes.items())
    found = pl.concat(map(statistics, samples))
    low, high = (found.quantile(share, "linear") for share in (SIGNIFICANT / 2, 1 - SIGNIFICANT / 2))
    return estimate, low, high


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, for Student's t with `freedom` degrees."""
    low, high = 0.0, 100.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_test_p(middle**2, freedom) > SIGNIFICANT else (low, middle)
    return low


def t_test_p(t_squared: float, freedom: float) -> float:
    """P(|T| > t) for Student's t: the incomplete beta function I_x(f / 2, 1 / 2) at x = f / (f + t²)."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t_squared), t_squared / (freedom + t_squared))


def welch_p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The p-value of Welch's t-test from mean, standard deviation and n of two groups; None if neither varies."""
    (mean_a, std_a, n_a), (mean_b, std_b, n_b) = one, other
    a, b = std_a * std_a / n_a, std_b * std_b / n_b
    if not 0 < a + b < math.inf:
        return None
    share, difference = a / (a + b), mean_a - mean_b
    freedom = 1 / (share * share / (n_a - 1) + (1 - share) ** 2 / (n_b - 1))  # by Welch and Satterthwaite
    return t_test_p(difference * difference / (a + b), freedom)


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


# --- tables and pictures: results in, text out ----------------------------------------------------------------


def table_text(results: Sequence[Result], most: int | None) -> str:
    """Tables for a terminal, each with its title and notes, no wider than the terminal."""
    width = shutil.get_terminal_size((80, 24)).columns
    styles = "\x1b[1m{}\x1b[0m", "\x1b[2m{}\x1b[0m", "\x1b]8;;{url}\x1b\\{name}\x1b]8;;\x1b\\"
    bold, dim, link = styles if is_terminal() else ("{}", "{}", "{name}")
    lines: list[str] = []
    for result in results:
        columns, notes = fitted(result, most, printable, width)
        for n, column in enumerate(columns):
            best = [i for i, cell in enumerate(column.cells) if result.key == "pivot" and ROW_BEST in cell[-2:]]
            best = [0] if result.key in {"top", "groups"} else best
            cells = [bold.format(cell) if i in best and cell else cell for i, cell in enumerate(column.cells)]
            columns[n] = column._replace(cells=cells)
        lines += [""] if lines else []
        lines += map(bold.format, textwrap.wrap(printable(result.title), width, break_on_hyphens=False))
        if columns and columns[0].cells:
            table = made_table(result, columns, "simple", link)
            rule = next(n for n, line in enumerate(table) if not line.strip(" -"))
            lines += [*map(bold.format, table[:rule]), "─" * len(table[rule]), *table[rule + 1 :]]
        for note in notes:
            lines += map(dim.format, textwrap.wrap(printable(note), width, break_on_hyphens=False))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def page_text(results: Sequence[Result], form: str, most: int | None) -> str:
    """Tables in full length for Markdown, or for LaTeX with booktabs."""
    lines = ["% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"] if form == "latex" else []
    for result in results:
        if form == "markdown":
            columns, notes = fitted(result, most, markdown, 14 * (LEAST_WIDTH + 2))  # a page scrolls, but not for ever
            table = made_table(result, columns, "pipe")
            lines += [f"**{markdown(result.title)}**", "", *table, "", *(f"- {markdown(note)}" for note in notes), ""]
        else:
            columns, notes = fitted(result, most, latex)
            rules = iter((r"\toprule", r"\midrule", r"\bottomrule"))
            plain = made_table(result, columns, "latex_raw")
            table = [next(rules) if line == r"\hline" else line for line in plain]
            lines += [f"% {printable(result.title)}", *table, *(f"% {printable(note)}" for note in notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def html_page(results: Sequence[Result], form: str, most: int | None, *, log: bool) -> str:
    """A page that loads nothing: a `report` without scripts, whose charts are pictures, or `html` with live charts."""
    import vl_convert

    lines, charts = list[str](), list[str]()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is loaded from anywhere
    for result in results:
        columns, notes = fitted(result, most, html_text, PAGE_CELLS, 36)  # longer cells are broken into lines
        name, _, about = re.sub("[:;] ", "\n", result.title, count=1).partition("\n")
        heading = "h1" if result is results[0] else "h2"
        lines += [f"<section><{heading}>{html_text(name)}</{heading}>", f"<p class='about'>{html_text(about)}</p>"]
        if result.chart and result.table.height:
            chart = chart_json(result, form, log=log)
            div = f"<div class='chart' id='chart{len(charts)}'></div>"
            lines.append(div if form == "html" else vl_convert.vegalite_to_svg(chart))
            charts.append(chart)
        table = made_table(result, columns, "unsafehtml", "<a href='{url}'>{name}</a>")
        lines += ["<div class='wide'>", *table, "</div>"]
        lines += [*(f"<p class='note'>{html_text(note)}</p>" for note in notes), "</section>"]
    if form == "html" and charts:
        policy += "; script-src 'unsafe-inline' 'unsafe-eval'"  # Vega makes functions of a chart's expressions
        specs = ", ".join(charts).replace("<", "\\u003c")  # no name can end the script
        start = f"[{specs}].forEach((spec, i) => vegaEmbed(`#chart${{i}}`, spec, {{actions: false, renderer: 'svg'}}))"
        library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed")
        lines += [f"<script>{library}</script>", f"<script>{start}</script>"]
    head = f"<meta charset='utf-8'><meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
    head += f"<meta name='viewport' content='width=device-width'><title>{html_text(results[0].title)}</title>"
    lines = [f"<!doctype html>\n<html lang='en'><head>{head}<style>{STYLE}</style></head><body>", *lines]
    return "\n".join(lines) + "\n</body></html>\n"


def fitted(
    result: Result, most: int | None, escape: Callable[[str], str], width: int = sys.maxsize, least: int = LEAST_WIDTH
) -> tuple[list[TableColumn], list[str]]:
    """What people see of a result as text, and its notes: as many rows as they want, as many columns as fit `width`.

    Columns that were asked for by name are shown in any case. On a terminal headings of numbers are broken into lines
    first, then texts are cut to one limit that is at least `least`. On a page nothing is cut.
    """
    most = MOST_ROWS.get(result.key) if most is None else most
    height, notes = len(result.view[0][1]) if result.view else 0, [*result.view_notes, *result.notes]
    if most and height > most:
        notes.append(f"{counted(height - most, 'more row')}: use --max-rows 0 for all")
    columns = columns_as_text(result, min(most or height, height), escape)
    sizes = [(max(map(cell_count, c.cells), default=0), cell_count(c.label)) for c in columns]
    if sum(max(size) + 2 for size in sizes) - 2 <= width:
        least = width  # all fits as it is

    def room(n: int, limit: int) -> int:
        cells, head = sizes[n]
        if columns[n].is_number:
            return max(cells, min(head, least))
        return min(max(cells, head), max(limit, width // 2) if columns[n].label in WIDE_HEADS else limit)

    def fit_count(limit: int) -> int:
        """How many columns fit if texts are cut to `limit`."""
        return sum(end - 2 <= width for end in itertools.accumulate(room(n, limit) + 2 for n in range(len(columns))))

    count = max(1, result.min_columns, fit_count(least), min(2, fit_count(1)))
    if dropped := [label for label, _ in result.view[count:]]:
        choice = "--columns, " if result.key in FLAGS_FOR["columns"] and result.key != "schema" else ""
        notes.append(f"not shown, because the table would be too wide: {some_of(dropped, 3)}; use {choice}--json or -o")
    columns = columns[:count]
    if result.key == "curves" and count > 1:  # without the rows of curves that do not fit
        has_any = [any(cells) for cells in zip(*(column.cells for column in columns[1:]), strict=True)]
        columns = [column._replace(cells=[*itertools.compress(column.cells, has_any)]) for column in columns]
    if escape is not printable:  # a page
        return columns, notes
    limits = range(width, least if result.min_columns else 0, -1)
    limit = next((limit for limit in limits if fit_count(limit) == len(columns)), least)
    rows = [*zip(*(column.cells for column in columns[1:]), strict=True)] if result.key == "diff" else []
    for n, column in enumerate(columns):
        own, is_whole = max(1, room(n, limit)), column.is_number or column.label in WRAPPED_HEADS
        texts = column.cells if is_whole else short_names(column.cells, own)
        texts = [short_names(row, limit)[n - 1] for row in rows] if rows and n else texts  # what differs in a row
        parts = re.findall(rf".{{1,{own}}}(?:(?<=[/_. ,=-])|$)|.{{1,{own}}}", column.label)  # ends of words first
        label = column.label if cell_count(column.label) <= own else "\n".join(parts)
        columns[n] = TableColumn(label, texts, column.is_number, own)
    return columns, notes


def columns_as_text(result: Result, height: int, escape: Callable[[str], str]) -> list[TableColumn]:
    """`height` rows of what people see of a result: the first ones, or of curves from their start to their end."""
    null, rows = "-" if result.key in {"top", "schema"} else "null", [*range(height)]
    if result.key == "curves" and height > 1:
        rows = [round(i * (len(result.view[0][1]) - 1) / (height - 1)) for i in rows]
    numbers = result.table.select(cs.numeric()).columns  # in the view some of their values may be text: unambiguous()
    columns = []
    for n, (label, values) in enumerate(result.view):
        is_mean = n > 0 and result.key == "pivot"
        is_number = values.dtype.is_numeric() or values.dtype == pl.Enum  # ranges, which are not shortened either
        is_number |= values.name in numbers or result.key == "curves" or is_mean
        cells = cells_of(values.gather(rows), null, alike=result.key != "schema")
        cells = [*map(latex_cell if is_mean and escape is latex else escape, cells)]
        columns.append(TableColumn(escape(label), cells, is_number))
    return columns


def made_table(result: Result, columns: Sequence[TableColumn], form: Any, link: str = "{name}") -> list[str]:
    """The lines of a result's table by tabulate; `link` makes links to W&B of a URL and the first cell of its row."""
    import tabulate

    tabulate.MIN_PADDING = 0  # heads take no more room than they need
    cells = [column.cells for column in columns]
    if result.key == "top" and "url" in result.table.columns:
        is_safe = re.compile(r"https?://[\w./?=%:+@~#-]+").fullmatch  # a URL is data, too
        linked = zip(result.table["url"], cells[0], strict=False)
        cells[0] = [link.format(url=url, name=name) if is_safe(url or "") else name for url, name in linked]
    rows = [*zip(*cells, strict=True)]
    if not rows and result.key != "sql":
        return []
    align = ["right" if column.is_number else "left" for column in columns]
    heads = [column.label for column in columns]
    rooms = [column.room if column.label in WRAPPED_HEADS else None for column in columns]
    broken: dict[str, Any] = {"maxheadercolwidths": [column.room for column in columns], "maxcolwidths": rooms}
    return str(tabulate.tabulate(rows, heads, form, colalign=align, disable_numparse=True, **broken)).splitlines()


def cells_of(values: pl.Series, null: str = "null", *, alike: bool = True) -> list[str]:
    """Values as people read them; numbers that are not `alike` are of different quantities, and do not line up."""
    to_text: Callable[[Any], str] = cell_text
    if values.dtype.is_float():
        to_text = float_format(values.drop_nulls().to_list()) if alike else short_number
    return [null if value is None else to_text(value) for value in values.to_list()]


def unambiguous(values: pl.Series) -> pl.Series:
    """The values as texts, if people would see different numbers as the same: these are exact."""
    cells, uses = cells_of(values), Counter(cells_of(values.unique()))
    if not values.dtype.is_float() or uses.total() == len(uses):
        return values
    exact = [cell_text(value) if uses[cell] > 1 else cell for value, cell in zip(values, cells, strict=True)]
    return pl.Series(values.name, exact, pl.String).replace("null", None)


def short_number(value: float, digits: int = 4) -> str:
    """A number with so many digits, or without its fraction: 12346, not 1.235e+04."""
    return f"{value:.0f}" if 10**digits - 0.5 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def float_format(values: Sequence[float]) -> Callable[[float], str]:
    """How to write the numbers of a column, aligned at the point: four significant digits of the largest.

    More where fewer would make different numbers look alike; numbers of up to four digits stay as they are.
    """
    usable = {value for value in values if math.isfinite(value)}
    sizes = [math.floor(math.log10(abs(value))) for value in usable if value]
    if not sizes or all(float(f"{value:.4g}") == value for value in usable):
        return "{:g}".format
    is_close = max(sizes) - min(sizes) <= 2 and min(sizes) > -5
    forms: list[Callable[[float], str]] = []
    for digits in range(4, 10):
        places = max(0, digits - 1 - max(sizes), digits - 2 - min(sizes))  # the smallest has three digits at least
        lines_up = is_close and (min(sizes) < 7 or digits > 6)  # else too far apart, too small or too large
        forms.append(f"{{:.{places}f}}".format if lines_up else partial(short_number, digits=digits))
    return max(forms, key=lambda form: len({*map(form, usable)}))


def cell_text(value: object) -> str:
    """A single value as people read it; of numbers nothing is lost."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value or not math.isfinite(value) else repr(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, list):
        return ", ".join(map(cell_text, value)) or "[]"
    return '"null"' if value == "null" else printable(str(value))  # a text, beside values that are missing


def exact_text(value: object) -> str | None:
    """A value as text that loses nothing, for tables whose cells are of several types."""
    return value if value is None or isinstance(value, str) else json_text(value).strip('"')


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Names within `width` terminal cells, so that what differs stays visible: words that all share are cut first."""
    known = {*names} - {"null", "-"}  # missing values share no words
    if len(known) > 1 and max(map(cell_count, known)) > width:
        common_prefix = os.path.commonprefix  # by characters; of it only whole words are cut
        prefix = re.sub("[^_/. ,=-]*$", "", common_prefix([*known]))
        reversed_rests = [name.removeprefix(prefix)[::-1] for name in known]
        suffix = re.sub("^[^_/. ,=-]*", "", common_prefix(reversed_rests)[::-1])
        middles = {name: name.removeprefix(prefix).removesuffix(suffix) for name in known}
        room = width - max(map(cell_count, middles.values()))
        prefix = shortened(prefix, room - 1) if prefix and room > LEAST_WIDTH // 2 else prefix and "…"
        room -= cell_count(prefix)
        suffix = shortened(suffix, room) if suffix and room > LEAST_WIDTH // 2 else suffix and "…"
        names = [f"{prefix}{middles[name]}{suffix}" if name in middles else name for name in names]
    by_text, short = dict[str, list[str]](), dict[str, str]()
    for name in dict.fromkeys(names):
        by_text.setdefault(shortened(name, width), []).append(name)
    for text, group in by_text.items():
        short |= dict.fromkeys(group, text)
        if len(group) > 1 and len(by_text) > 1:  # these look alike and share more words: their start, then what differs
            start = text.partition("…")[0]
            for name, end in zip(group, short_names(group, width), strict=True):
                cut = start[: width - cell_count(end)] + end if end.startswith("…") else end
                short[name] = shortened(cut, width)
    return [short[name] for name in names]


def shortened(text: str, width: int) -> str:
    """`text` within `width` terminal cells: its middle goes, as names differ at their ends. An id stays whole."""
    if cell_count(text) <= width:
        return text
    back = max(width // 2, min(width - 2, len("".join(re.findall(r"\(\w+\)$", text)))))
    head, tail = text[: width - 1 - back], text[-back:] if width > 1 else ""
    while cell_count(f"{head}…{tail}") > max(width, 1):  # wide characters take two cells
        head, tail = (head[:-1], tail) if len(head) > len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def cell_count(text: str) -> int:
    """How many terminal cells `text` takes: an ideogram or emoji takes two."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    width = wcswidth(text)
    return width if width >= 0 else len(text)


def markdown(text: str) -> str:
    """`text` as Markdown that shows it literally; underlines within words are harmless."""
    return re.sub(r"([\\`*|<\[~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))


def latex(text: str) -> str:
    """`text` as LaTeX that prints it literally."""
    # Up to U+017F LaTeX prints UTF-8 with T1 fonts.
    cells = (LATEX.get(c, c if ord(c) <= 0x17F else f"{{[}}U+{ord(c):04X}{{]}}") for c in printable(text))
    plain = re.sub(r"([-'`])(?=\1)", r"\1{}", "".join(cells))  # two of these would print as one other
    return re.sub(r"(?<![\w.}-])-(?=\.?\d)", "$-$", plain)  # of a number: a hyphen is too short


def latex_cell(text: str) -> str:
    """A cell of a pivot: the best of its row is bold, of its column underlined."""
    plain = text.rstrip(ROW_BEST + COLUMN_BEST)
    marks, cell = text.removeprefix(plain), latex(plain)
    cell = rf"\textbf{{{cell}}}" if ROW_BEST in marks else cell
    return rf"\underline{{{cell}}}" if COLUMN_BEST in marks else cell


def html_text(text: str) -> str:
    return html.escape(printable(text))


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


def json_parts(results: Sequence[Result], files: Sequence[str] = ()) -> Iterator[str]:
    """One object with the rows of each question, whose results stand together, and the `files` written, if any."""
    yield '{"version": 1'
    for key, same in itertools.groupby(results, lambda result: result.key):
        yield f', "{key}": ['
        separator = ""
        for rows in itertools.chain(*(blocks(result.table) for result in same)):
            yield separator + json_text(rows.to_dicts())[1:-1]
            separator = ", "
        yield "]"
    yield f', "files": {json_text(files)}}}\n' if files else "}\n"


def csv_parts(table: pl.DataFrame) -> Iterator[str]:
    """A table as CSV at full precision. An apostrophe precedes text that a spreadsheet would take for a formula."""
    clean = pl.col(pl.String).str.replace_all(r"[\p{Cc}--\t\r\n]", "\N{REPLACEMENT CHARACTER}")
    formula = clean.str.contains(r"^[=+\-@\t\r]") & ~clean.str.contains(r"^-\d+(\.\d+)?([eE][+-]?\d+)?$")
    safe = pl.when(formula).then("'" + clean).otherwise(clean).name.keep()
    heads = pl.DataFrame([table.columns], orient="row")  # as a row: what is replaced may make two heads equal
    for rows in (heads, *blocks(table)):
        flat = rows.with_columns(pl.Series(c.name, map(exact_text, c.to_list())) for c in rows if c.dtype.is_nested())
        yield flat.with_columns(safe).write_csv(include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.fZ")


def blocks(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows of a table in parts, so that little of a large one is in memory as text."""
    return table.iter_slices(1 + CELLS_WRITTEN // (1 + table.width))


def chart_json(result: Result, form: str, *, log: bool) -> str:
    """A Vega-Lite chart of a result: lines, a pivot's heat map, or a point per run or group, with their intervals."""
    value_title, x_title, table = result.chart or ("", "", pl.DataFrame())
    is_curve, is_picture = result.key == "curves", form in {"png", "svg"}
    table = table if is_curve else table.with_row_index("rank")
    ranks, number = table["rank"].n_unique(), table.filter(pl.col("value").is_finite())["rank"].n_unique()
    most = {"curves": MOST_LINES, "pivot": ranks}.get(result.key, MOST_DRAWN)
    rows, scale, notes = scaled(table.filter(pl.col("rank") < most), result.key, log=log, is_live=form == "html")
    by = " by last value" * is_curve
    notes += [f"the {result.first} {most} of {number}{by} are drawn"] if number > most else []
    if result.key != "pivot" and (empty := ranks - number):
        notes.append(f"{empty} without a value to draw {'is' if empty == 1 else 'are'} left out")
    say(*(notes if form != "report" else ()))
    if number > most and result.first == "lowest":
        say(f"to draw the best ones, {GOAL_HINT}")
    if is_curve and "ci_low" in table.columns:
        notes.append("line: mean of the runs that have a value there, until half have ended; band: its 95 % interval")
    value = {"field": "value", "type": "quantitative", "title": value_title, "scale": scale}
    is_plain, distinct = pl.col("value").abs().max().is_between(1e-4, 1e7), pl.col("value").drop_nulls().n_unique()
    if result.key != "pivot" and rows.select(~is_plain | (distinct == 1)).item():
        value["axis"] = {"format": ".6~g"}  # 6e+99, not 5.999999999999999e+99; and 0.334 instead of 0
    chart: dict[str, Any] = {"width": CHART_WIDTH, "height": 320 if is_curve else {"step": 22}}
    if result.key == "pivot":
        chart |= {"layer": heat_map(rows, value), "height": {"step": 30}}
        chart["width"] = max(CHART_WIDTH, 80 * rows["column"].n_unique())
    else:
        chart["layer"] = marks(rows, result.key, value, x_title, is_live=form == "html")
    if form == "html":
        chart["width"] = "container"
    # In a page the text has the page's colour, light or dark, and the heading is the title.
    ink, ground = ("#222222", "white") if is_picture else ("currentColor", "transparent")
    text = {"labelColor": ink, "titleColor": ink, "labelLimit": 400, "titleLimit": 400}
    lines = {"domainColor": ink, "tickColor": ink, "gridColor": ink, "gridOpacity": 0.12}
    config: dict[str, Any] = {"axis": {**text, **lines}, "axisQuantitative": {"labelFlush": False, "tickCount": 6}}
    config |= {"legend": {**text, "symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1}}
    config |= {"view": {"stroke": None}, "font": CHART_FONT, "background": ground}
    about = {"text": textwrap.wrap(printable(result.title), 105), "subtitle": notes or ""}
    about = about if is_picture else {"text": notes or "", "fontWeight": "normal"}
    chart |= {"title": {**about, "anchor": "start", "color": ink, "subtitleColor": ink}, "config": config}
    chart |= {"autosize": {"type": "fit-x", "contains": "padding"}, "data": {"values": rows.to_dicts()}}
    return json_text(chart)


def scaled(rows: pl.DataFrame, key: str, *, log: bool, is_live: bool) -> tuple[pl.DataFrame, dict[str, Any], list[str]]:
    """The values and bounds with those that cannot be drawn as null, the axis's scale, and notes on what is cut off."""
    numbers, notes = [name for name in ("value", "ci_low", "ci_high") if name in rows.columns], []
    rows = rows.with_columns(map(finite, numbers))
    values = rows["value"].drop_nulls()
    drawn = values.filter(values > 0) if log else values
    if lost := len(values) - len(drawn):
        notes.append(f"{counted(lost, 'value')} not above 0 cannot be drawn on a logarithmic axis")
    is_positive = bool((drawn > 0).all())
    places = drawn.log10() if is_positive else drawn
    distances: Any = (places - places.median()).abs() if len(drawn) else drawn
    usual = distances.median() or 0.0
    # Values a million times the median, a millionth of it, or 1000 usual distances away would flatten all other lines.
    near = drawn.filter(distances <= (max(6.0, 10 * usual) if is_positive else 1000 * usual or math.inf))
    domain: Any = (near.min(), near.max()) if len(near) else (0.0, 0.0)
    low, high = domain
    log |= is_positive and high > 10_000 * low
    if log:
        if "ci_low" in numbers and (rows["ci_low"] <= 0).any():
            notes.append("intervals that reach 0 or below are not drawn")
        rows = rows.with_columns(pl.when(pl.col(name) > 0).then(pl.col(name)) for name in numbers)
    scale: dict[str, Any] = {"type": "log"} if log else {"zero": False}
    cut = ["extreme values are cut off"] if len(near) < len(drawn) else []
    if "ci_low" in numbers and low < high:
        # Bands of a few runs can be very wide: they add at most an eighth of the values' range at each end.
        margin = (high / low) ** 0.125 if log else (high - low) / 8
        least, most = (low / margin, high * margin) if log else (low - margin, high + margin)
        ends = [*domain, *rows["ci_low"].drop_nulls(), *rows["ci_high"].drop_nulls()]
        domain = max(least, min(ends)), min(most, max(ends))
        cut += ["wide intervals are cut off"] if domain != (min(ends), max(ends)) else []
    if low < high and (key == "curves" or cut):
        # Clamped, as the renderer stores also what lies far outside; zooming needs the true values.
        scale |= {"domain": domain, "nice": False, "clamp": not is_live, "padding": 8}  # 8: points at edges are whole
    return rows, scale, [*notes, *cut]


def marks(rows: pl.DataFrame, key: str, value: dict[str, Any], x_title: str, *, is_live: bool) -> list[dict[str, Any]]:
    """Layers of a chart: curves with bands for their intervals, or a point with a bar per run or group."""
    firsts = rows.unique("rank", maintain_order=True)
    names = short_names([*map(printable, firsts["name"])], LEGEND_WIDTH if key == "curves" else LABEL_WIDTH)
    if key == "groups":
        names = [f"{name}  (n={n})" for name, n in zip(names, firsts["n"], strict=True)]
    named = {"title": None, "labelExpr": f"{json.dumps(names)}[datum.value]"}  # names may repeat
    heads = {"name": "name", "x": x_title, "value": value["title"], "ci_low": "95 % from", "ci_high": "to"}
    form: dict[str, Any] = {"type": "quantitative", "format": ".6~g"}
    tips = [{"field": c, "title": heads[c]} | ({} if c in {"name", "x"} else form) for c in heads if c in rows.columns]
    if key == "curves":
        title = {"time": "time (UTC)", "runtime": "runtime (s)"}.get(x_title, x_title)
        x: dict[str, Any] = {"field": "x", "title": title, "type": "quantitative"}
        x["scale"] = {"nice": False, "zero": False, "padding": 6}
        if rows["x"].dtype.is_temporal():
            seconds = rows.select((pl.col("x").max() - pl.col("x").min()).dt.total_seconds()).item()
            times = "%Y-%m-%d %H:%M:%S" if seconds < 600 else "%Y-%m-%d %H:%M" if seconds < 3e6 else "%Y-%m-%d"
            x |= {"type": "temporal", "scale": {"type": "utc", "padding": 6}}
            x["axis"] = {"format": times, "tickCount": 5, "labelFlush": False}
            tips[1] |= {"timeUnit": "utcyearmonthdatehoursminutesseconds", "format": "%Y-%m-%d %H:%M:%S"}
        axis, other = "y", {"x": x, "color": {"field": "rank", "type": "nominal", "legend": named}}
        point = rows["x"].n_unique() <= 30 or "transparent"  # where the pointer finds values
        mark = {"type": "line", "strokeWidth": 1.8, "strokeCap": "round", "point": point}
        span: dict[str, Any] = {"type": "area", "opacity": 0.15 if len(names) <= 5 else 0.06}
    else:
        axis, other = "x", {"y": {"field": "rank", "type": "ordinal", "axis": named}}
        mark = {"type": "point", "filled": True, "size": 70, "opacity": 1}
        span = {"type": "rule", "strokeWidth": 2, "color": "#4c78a8"}  # the points' blue
    clip = {"clip": "domain" in value["scale"]}  # else all lies inside, and points at the edges are whole
    layers: list[dict[str, Any]] = [{"mark": mark | clip, "encoding": {**other, axis: value, "tooltip": tips}}]
    if "ci_low" in rows.columns:  # first, so that it lies below the values
        ends = {axis: {**value, "field": "ci_low"}, f"{axis}2": {"field": "ci_high"}}
        layers.insert(0, {"mark": span | clip, "encoding": {**other, **ends}})
    if is_live and key == "curves":  # the pointer zooms, and a click in the legend hides the curve
        click = {"type": "point", "fields": ["rank"], "toggle": "true"}
        zoom = {"name": "zoom", "bind": "scales", "select": "interval"}
        layers[-1]["params"] = [zoom, {"name": "hidden", "bind": "legend", "select": click}]
        opacity = {"condition": {"param": "hidden", "empty": False, "value": 0}, "value": 1}
        for layer in layers:  # not `opacity`, which is that of points and bands
            layer["encoding"] |= {"fillOpacity": opacity, "strokeOpacity": opacity}
    return layers


def heat_map(rows: pl.DataFrame, value: dict[str, Any]) -> list[dict[str, Any]]:
    """A field per cell of a pivot, coloured by its value, with its text in it: white where the field is dark."""
    position: dict[str, Any] = {}
    on_top = {"labelAngle": 0, "orient": "top"}
    for axis, number, width, more in (("x", "column", 12, on_top), ("y", "row", LEGEND_WIDTH, {})):
        names = dict(zip(rows[number], short_names([*rows[f"{number} name"]], width), strict=True))
        labels = {"labelExpr": f"({json.dumps(names)})[datum.value]", "domain": False, "ticks": False, **more}
        position[axis] = {"field": number, "type": "ordinal", "title": None, "axis": labels}  # names may look alike
    colour = {**value, "legend": None, "scale": {**value["scale"], "scheme": "blues", "clamp": True, "padding": 0}}
    ink = {"condition": {"test": "luminance(scale('color', datum.value)) < 0.2", "value": "white"}, "value": "black"}
    texts = {"mark": "text", "encoding": {**position, "text": {"field": "name"}, "color": ink}}
    return [{"mark": "rect", "encoding": {**position, "color": colour}}, texts]


# --- output ---------------------------------------------------------------------------------------------------


def deliver(results: list[Result], file: Path | None, options: Options) -> None:
    """Write results to a file, if one is named, and print them, or their titles and notes on stderr, as asked."""
    if sys.stdout is None and file is None:
        raise ScriptError("stdout is closed: write to a file with -o", NOTHING_USABLE)
    is_report, is_json = file is not None and file == options.report, options.format == "json"
    prints = sys.stdout is not None and (file is None or is_json or sys.stdout.isatty())
    if is_report:  # printed only as JSON, and not after the answer of -o
        prints = prints and is_json and not options.output
    is_for_programs = options.format in {"json", "csv"}
    if not is_report and (is_for_programs or not prints):  # else the table has titles and notes
        say(*(line for result in results for line in (result.title, *result.notes)))
    if file:
        most = options.max_rows if is_report else 0
        form = FILE_FORMATS[file.suffix.lower()]
        parts = content(results, "report" if is_report and form == "html" else form, most, options)
        with replacing(file) as partial, partial.open("wb") as opened:
            opened.writelines(part if isinstance(part, bytes) else part.encode() for part in parts)
    if prints:
        if is_for_programs and (rows := options.max_rows):
            for cut in (result for result in results if result.table.height > rows):
                say(f"{cut.key}: {counted(cut.table.height - rows, 'more row')}: use --max-rows 0 for all")
            results = [r._replace(table=r.table.head(rows)) for r in results]
        files = [str(path) for path in (options.output, options.report) if path]
        parts = json_parts(results, files) if is_json else content(results, options.format, options.max_rows, options)
        show_parts(parts)
    if file and not is_json:
        show_parts([f"{file}\n"])


def show_parts(parts: Iterable[str | bytes]) -> None:
    """Print text to stdout. A closed pipe (`| head`) is ignored, so that the exit code stays what it would be."""
    try:
        for part in parts:
            print(part, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def content(results: list[Result], form: str, most: int | None, options: Options) -> Iterable[str | bytes]:
    """The results in any of the formats, in parts; those of one question where it holds no more."""
    if form == "table":
        return [table_text(results, most)]
    if form == "json":
        return json_parts(results)
    if form in {"html", "report"}:
        return [html_page(results, form, most, log=options.log)]
    if form == "markdown":
        return [page_text(results, form, most)]
    is_picture = form in {"png", "svg"}
    candidates = [result for result in results if not is_picture or (result.chart and result.table.height)]
    if not candidates:
        raise ScriptError(f"there is nothing to draw; pictures can show {', '.join(PICTURES_OF)}", WRONG_USAGE)
    order = [*(PICTURES_OF if is_picture else ("groups", "top")), *(result.key for result in candidates)]
    key = min((result.key for result in candidates), key=order.index)
    chosen = [result for result in candidates if result.key == key][: 1 if is_picture else None]
    others = [result for result in results if not any(result is each for each in chosen)]
    if left_out := dict.fromkeys(each.title.partition(": ")[0] if each.key == key else each.key for each in others):
        say(f"{form} holds one {'picture' if is_picture else 'table'}: {key}; left out: {', '.join(left_out)}")
    if form == "latex":
        return [page_text(chosen, form, most)]
    if is_picture:
        import vl_convert

        chart = chart_json(chosen[0], form, log=options.log)
        return [vl_convert.vegalite_to_svg(chart) if form == "svg" else vl_convert.vegalite_to_png(chart, scale=2)]
    table = pl.concat([result.table for result in chosen], how="vertical_relaxed")
    objects = [c for c in table if c.dtype == pl.Object]
    table = table.with_columns(pl.Series(c.name, map(exact_text, c.to_list()), pl.String) for c in objects)
    if form == "csv":
        return csv_parts(table)
    file = io.BytesIO()
    table.with_columns(pl.col(pl.Enum).cast(pl.String)).write_parquet(file, metadata={RESULT_KEY: "1"})
    return [file.getvalue()]


def say(*messages: str, even_if_quiet: bool = False) -> None:
    """Print messages on stderr, a line each and each once, unless --quiet."""
    for message in messages if even_if_quiet or not is_quiet else ():
        if message not in said:
            said.add(message)
            with suppress(BrokenPipeError):  # stderr was closed: the result still goes to stdout
                print(printable(message), file=sys.stderr)


def is_terminal() -> bool:
    """Whether colours, links and shapes are welcome on stdout."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout is not None and sys.stdout.isatty() and not is_plain


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file in a hidden folder beside `file` to write to: renamed over `file` once it is whole, removed on failure."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # No other user can read this folder.
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=file.parent) as folder:
            unfinished = Path(folder, file.name)
            yield unfinished
            with unfinished.open("rb+") as whole:
                os.fsync(whole.fileno())
            if file.is_file():
                unfinished.chmod(file.stat().st_mode)  # one that is private stays so
            unfinished.replace(file)
    except OSError as error:
        reason = error.strerror or str(error).partition(" (os error")[0]  # polars would name the unfinished file
        hint = "free disk space or choose another place"
        raise ScriptError(f"{file} was not written: {reason}; {hint}", NOTHING_USABLE) from error


def printable(text: str) -> str:
    """`text` on one line, with control characters and direction overrides made visible: names are data.

    >>> printable(chr(27) + "[31m[red]") == chr(65533) + "[31m[red]"
    True
    """
    return "".join(c if c.isprintable() or c == ZERO_WIDTH_JOINER else "\N{REPLACEMENT CHARACTER}" for c in text)


def path_text(key: Sequence[str | None]) -> str:
    return "/".join("null" if part is None else part for part in key)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some_of(names: Sequence[str], most: int = MOST_LISTED) -> str:
    """A list in a line, cut where it is long."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shortened(printable(name), LABEL_WIDTH) for name in names[:most]) + more


# --- command line ---------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str]) -> Options:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add_flags(parser)
    if "".join(argv) != "".join(argv).encode(errors="replace").decode():  # bytes of another encoding
        parser.error("an argument is not UTF-8 text")
    for flag, condition in OTHER_FILTERS.items():
        if any(word.partition("=")[0] == flag for word in itertools.takewhile(lambda word: word != "--", argv)):
            raise ScriptError(f'there is no {flag} here; write --where "{condition}"', WRONG_USAGE)
    args = parser.parse_strictly(argv)
    # --diff takes all words that follow, inputs too: files and, if no input stands before it, folders.
    inputs = [name for name in args.diff if name.endswith(".parquet") or (not args.inputs and Path(name).is_dir())]
    args.inputs += map(Path, inputs)
    args.diff = [name for name in args.diff if name not in inputs]
    if args.sql is not None and (args.name_patterns or args.where or args.states):
        raise ScriptError("--sql uses all runs: write the condition into its WHERE", WRONG_USAGE)
    for state in args.states:
        if state not in {*STATES, "all"}:
            near = did_you_mean(state, [*STATES, "all"]) or f"; there are all, {', '.join(STATES)}"
            raise ScriptError(f"--state {state}: no such state{near}", WRONG_USAGE)
    for flag, file, endings in (("output", args.output, [*FILE_FORMATS]), ("report", args.report, [".html", ".md"])):
        if file and file.suffix.lower() not in endings:
            raise ScriptError(f"--{flag} {file}: the name must end in one of {', '.join(endings)}", WRONG_USAGE)
    if not 0 <= (args.smooth or 0) < 1:
        raise ScriptError(f"--smooth {args.smooth:g} must be 0 or more, and below 1", WRONG_USAGE)
    return Options(**vars(args))


def add_flags(parser: Parser) -> None:
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="runs files, or folders with runs files")
    add = parser.add_argument_group("questions (one or more; without one: an overview)").add_argument
    many: dict[str, Any] = {"action": "extend", "default": [], "type": comma_list}
    flag: dict[str, Any] = {"action": "store_true"}
    add("-t", "--top", type=partial(whole, 1), metavar="N", help="the N best runs and how they differ")
    add("-g", "--group-by", **many, metavar="A,B", help="statistics for each value of these columns")
    add("--pivot", **many, metavar="ROWS,COLUMNS", help="mean ± std (n) for each combination of values")
    add("--curves", **many, metavar="METRIC", help="values over the steps, per run or by --group-by")
    add("--varying", **flag, help="settings that vary, their values, missing combinations")
    add("--diff", nargs="+", default=[], metavar="RUN", help="differences between runs (ids or names)")
    add("--importance", **flag, help="settings that are associated with the metric")
    add("--health", **flag, help="runs with NaN, divergence, spikes, crashes, early stops")
    add("--schema", **flag, help="all columns, their values, and how many runs have them")
    add("--sql", metavar="QUERY", help="a SELECT on the views runs and history (DuckDB)")
    add("--report", type=Path, metavar="FILE", help="write a page with most of these: FILE.html or FILE.md")
    add = parser.add_argument_group("groups").add_argument
    add("--stat", choices=("mean", "median", "iqm"), default="mean", help="compare groups by this (default: mean)")
    add("--best-per", **many, metavar="A,B", help="use only the best setting for each value")
    add = parser.add_argument_group("curves and pictures").add_argument
    axis = "step, runtime, time or a metric (default: the step metric if most runs have it, else step)"
    add("--x", metavar="AXIS", help=axis)
    add("--best-so-far", **flag, help="the best value so far, instead of the current one")
    add("--smooth", type=float, metavar="W", help="W&B's exponential moving average, 0 <= W < 1")
    points = f"points of a curve (default: {CURVE_POINTS}; pictures {PICTURE_POINTS}; JSON, csv and parquet all)"
    add("--points", type=partial(whole, 1), metavar="N", help=points)
    add("--log", **flag, help="logarithmic value axis in pictures")
    group = parser.add_argument_group("metric")
    what = "metric to compare (may repeat; --top uses the first)"
    group.add_argument("-m", "--metric", **many, dest="metrics", metavar="NAME", help=what)
    of_run = "value of each run (default: its summary; others need aggregate_runs.py --history)"
    group.add_argument("--value", choices=tuple(VALUES), default="summary", help=of_run)
    goal = group.add_mutually_exclusive_group()
    goal.add_argument("--ascending", dest="goal", action="store_const", const="minimize", help="lower is better")
    goal.add_argument("--descending", dest="goal", action="store_const", const="maximize", help="higher is better")
    add = parser.add_argument_group("which runs").add_argument
    names: dict[str, Any] = {"action": "append", "default": [], "dest": "name_patterns", "metavar": "REGEX"}
    add("-f", "--filter", **names, help="runs whose name matches, case ignored (may repeat)")
    add("--where", metavar="SQL", help="condition: \"config_lr < 0.01 AND created_at >= '2026-01-31'\"")
    lower = {**many, "type": lambda text: comma_list(text.lower()), "dest": "states", "metavar": "STATE"}
    add("-s", "--state", **lower, help="state of the runs, or all (default: finished, or all if none is)")
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output", type=Path, metavar="FILE", help=f"write to FILE{', '.join(FILE_FORMATS)}")
    add("--columns", **many, metavar="A,B", help="show these columns")
    add("--max-rows", type=partial(whole, 0), metavar="N", help="show at most N rows of each table (0: all)")
    add("--format", choices=("table", "json", "csv", "markdown", "latex"), default="table", help="format of stdout")
    add("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    add("--quiet", **flag, help="print only errors on stderr")
    add("--debug", **flag, help="show the traceback of an error")


def comma_list(text: str) -> list[str]:
    """The values of a flag that takes commas: `a, b` is a and b."""
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError("needs a value")


def whole(least: int, text: str) -> int:
    if not text.isdecimal() or len(text) > 4000 or int(text) < least:  # int() takes no more digits
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
    return min(int(text), 10**9)  # more rows or points mean all


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that names the nearest flag."""

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The parsed command line; an unknown argument is a ScriptError."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].partition("=")[0]  # what follows may be a key
            near = did_you_mean(name, (flag for flag in self._option_string_actions if flag.startswith("--")))
            raise ScriptError(f"unknown argument {name}{near}; --help lists all", WRONG_USAGE)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise ScriptError(f"{message}; see --help", WRONG_USAGE)


def import_libraries() -> None:
    """Import what takes time, once the command line is right."""
    global pl, cs
    import polars as pl
    import polars.selectors as cs


def analyze(options: Options) -> int:
    """Answer what was asked; if rows of a file are damaged, once more without the files that cannot be read whole."""
    global is_quiet, reads_all_rows
    is_quiet, reads_all_rows = options.quiet, False
    said.clear()
    damaged_files.clear()
    import_libraries()
    try:
        found = [*all_results(options)]
    except DamagedRowsError:
        reads_all_rows = True
        found = [*all_results(options)]
    for results, file in found:
        deliver(results, file, options)
    return PARTIAL if damaged_files else OK


def all_results(options: Options) -> Iterator[tuple[list[Result], Path | None]]:
    """The results for stdout or -o, and those for --report, with their file."""
    everything = open_inputs(options.inputs)
    flags = {"groups": options.group_by and not options.curves, "sql": options.sql is not None}
    asked = [name for name in QUESTIONS if flags.get(name, getattr(options, name, False))]
    output, view = options.output, ""
    with suppress(ScriptError):  # raised if it is no parquet file
        view = open_file(output).view if output and output.is_file() else ""
    if view:
        raise ScriptError(f"-o {output} is a file of {view}, which would be lost; choose another name", WRONG_USAGE)
    any_state, runs = select_runs(options, everything, asked)
    say(*unused_flags(options, asked))
    needs_metric = options.best_per or not NEED_METRIC.isdisjoint(asked)
    metrics = chosen_metrics(options, runs) if needs_metric or options.report or not asked else []
    study = Study(options, everything, any_state, runs, metrics)
    if needs_metric and not metrics:
        raise ScriptError(why_no_metric(study), WRONG_USAGE)
    for metric in metrics:
        say_about_metric(metric, study)
    if options.best_per:
        runs = best_settings(study)
    runs, by, label_by = grouping(options.group_by, runs)
    study = study._replace(runs=runs, by=by, label_by=label_by)
    if options.output or not options.report:
        yield [result for name in asked for result in QUESTIONS[name](study)] or introduction(study), options.output
    if options.report:
        results = introduction(study)
        missing = [name for name in asked if name not in {result.key for result in results}]
        yield results + [result for name in missing for result in QUESTIONS[name](study)], options.report


QUESTIONS: dict[str, Callable[[Study], list[Result]]] = {"schema": schema, "sql": sql, "health": health}
QUESTIONS |= {"varying": varied, "diff": difference, "top": top}
QUESTIONS |= {"groups": lambda study: [groups(study, metric) for metric in study.metrics]}
QUESTIONS |= {"pivot": lambda study: [pivot(study, metric) for metric in study.metrics]}
QUESTIONS |= {"importance": lambda study: [importance(study, metric) for metric in study.metrics], "curves": curves}
NEED_METRIC = {"top", "groups", "pivot", "importance"}
# The questions and outputs on which a flag has an effect: if none of these is asked for, a message says so.
OF_CURVES, COMPARED = {"curves"}, {"best-per", *NEED_METRIC}
FLAGS_FOR = {"x": OF_CURVES, "best_so_far": OF_CURVES, "smooth": OF_CURVES, "points": OF_CURVES, "stat": {"groups"}}
FLAGS_FOR |= {"metrics": COMPARED, "value": COMPARED, "goal": {"curves", *COMPARED}, "log": {"pictures"}}
FLAGS_FOR |= {"columns": {"groups", "schema", "top"}, "best_per": {"curves", "varying", *NEED_METRIC}}
FLAGS_FOR |= {"format": {"tables on stdout"}, "max_rows": {"tables on stdout"}}


def unused_flags(options: Options, asked: Sequence[str]) -> Iterator[str]:
    present = {*(asked or ["groups", "top"])} | ({"best-per"} if options.best_per else set())
    if options.report:
        present |= {"groups", "curves", "varying", *NEED_METRIC, "tables on stdout"}
    if options.output is None or (sys.stdout and sys.stdout.isatty()):
        present.add("tables on stdout")
    endings = {file.suffix.lower() for file in (options.output, options.report) if file}
    present |= {"pictures"} if endings & {".png", ".svg", ".html"} else set()
    for name, uses in FLAGS_FOR.items():
        value = getattr(options, name)
        if value and value not in ("mean", "summary", "table", "json") and present.isdisjoint(uses):
            flag = {"metrics": "metric", "goal": "ascending or --descending"}.get(name, name.replace("_", "-"))
            yield f"--{flag} has no effect here: it is for {', '.join(sorted(uses))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # UTF-8 for programs
    try:
        code = analyze(parse_args(arguments))
    except KeyboardInterrupt:
        try:  # noqa: SIM105 - a call of suppress() would raise it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:  # polars has raised one, and Python raises another
            pass
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit:  # of --help
        raise
    except BaseException as error:  # noqa: BLE001 - each becomes a message, polars' panics too
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = NOTHING_USABLE, f"a bug in this script: {error!r}; run it again with --debug and report it"
        if isinstance(error, ScriptError):
            code, message = error.exit_code, str(error)
        elif isinstance(error, OSError):
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; fix this and run again"
        print(f"error: {printable(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    os._exit(main())  # all is written; Python's own end, with polars' threads, takes 30 ms more
