#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["polars>=2.1,<3"]
# ///
"""Merge the runs of many exports into one parquet file, in one schema, with columns derived from the names.

  uv run wandb-tools/aggregate_runs.py                            wandb_export/ into analysis/unified.parquet
  uv run wandb-tools/aggregate_runs.py exports/ old_runs.parquet -o all.parquet
  uv run wandb-tools/aggregate_runs.py 'exports/2026-*' --state finished --filter 'gnn|mlp' --project 'graph*'
  uv run wandb-tools/aggregate_runs.py exports/ --where 'config_lr < 0.01 AND k = 16' --history --at val/loss
  uv run wandb-tools/aggregate_runs.py --rules rules.toml --explain gnn_all_k16_s3

INPUTS are runs files of export_runs.py, earlier results of this script, folders (with all their subfolders) and globs.
Runs files are recognized by their columns, whatever they are called; other parquet files in a folder are skipped.
A damaged file, or a file named as INPUT that holds no runs, is left out (exit code 3).

ROWS. The result has one row per run, from its newest export. Of an export from the server and one from offline logs,
the one with the longer history is taken. Filters apply to these rows; each reports how many it keeps. Rows are sorted
by entity, project, created_at and id; source_file is the file that a row comes from.

COLUMNS are matched by their W&B path, not by their name. A column that a file lacks is null in its rows. Where files
disagree on a type, the column gets the narrowest type that holds all values: integers and floats become floats; text
becomes numbers if each value is a number, such as 1e-3; any other mixture becomes text and is reported.

DERIVED COLUMNS are parsed from the run's name or config. They are null where nothing matches:
  stage        stage2c                       model_type   spectral, digress, gnn, attention, hybrid
  arch         a known name as a whole word  protocol     single_graph, distribution
  k, seed_parsed                 _k16, _s3   lr_parsed, wd_parsed, eps_parsed   _lr1e-3, _wd1e-4, _eps0.1
If an input has another column with such a name, it becomes stage__own, k__own and so on. If a derived column is null
in all runs, --where uses the config column of the same name (k: config_k).

--rules FILE adds your own rules, which are tried first (with replace = true at the top, only they are tried):
  [[rule]]  column, pattern (the value is its first group, or `value` if given), source (a column, default name),
            dtype (string, int, float, bool)

HISTORIES. --history reads the history files in the folders of the exports and adds, for each metric X, history_min_X,
history_min_step_X, history_max_X, history_max_step_X, history_last_X, history_tail_X (mean of the last tenth of its
finite values), history_n_X and history_n_nonfinite_X. --at M adds history_at_X: the value of X at the step where M was
best, or the last one before it. Write M:min or M:max if neither define_metric nor the name says which is better.
Runs of an earlier result keep its history_* values if their history files are gone, even if --at was another one.

INPUTS and -o may be s3://, gs:// or az:// URLs, with the usual environment variables for credentials.
--partition-by project writes a folder with subfolders project=NAME (hive partitions); their files keep the column.

The path of the written file goes to stdout, messages go to stderr; --json prints the whole report as one object.
Exit codes: 0 all done; 1 nothing usable, or no run left; 2 wrong usage; 3 some inputs were left out; 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    import polars as pl

# --- constants ------------------------------------------------------------------------------------------------
OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
EXPORT_KEY = "wandb_tools.export_id"  # files that one export wrote carry the same
RESULT_KEY = "wandb_tools.result"  # marks a result of analyze_runs: its rows may look like runs, but are no input

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
CLOUD = ("s3://", "gs://", "az://")  # object storage that polars reads and writes by itself
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

CONFIG, METRIC = "config_", "metric_"  # the prefixes of columns that stand for W&B paths
HISTORY, INTERNAL = "history_", "wandb_tools."  # of columns from histories, and of those that are never written
STATISTIC = re.compile(f"{HISTORY}((min|max)(_step)?|last|tail|n(_nonfinite)?|at)_")  # then the metric's name
RUN_KEY = ("entity", "project", "id")  # identifies a run
FILE, ROW, POSITION, OFFLINE = (INTERNAL + name for name in ("file", "row", "position", "offline"))
FOLDER, RUN, STEP, BEST, ROWS = (INTERNAL + name for name in ("folder", "run", "step", "best", "rows"))
REPORT = ("files", "summary", "filters", "derived", "histories", "notes", "conflicts", "skipped")  # keys of --json
DTYPES = {"string": "String", "int": "Int64", "float": "Float64", "bool": "Boolean"}  # of derived columns

CELLS = 10_000_000  # values held in memory where rows have to be sorted or grouped: 80 MB of numbers
FILES_AT_ONCE = 16  # polars reads each with threads of its own
MOST_OPERATORS = 300  # in --where: polars works through them by recursion, which 500 can crash
SHOWN = 5  # examples in a line, and lines of one kind; --json holds all

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
OPPOSITE: Mapping[Goal | None, Goal | None] = {"minimize": "maximize", "maximize": "minimize", None: None}
PHRASES = {"cross_entropy": "crossentropy", "explained_variance": "explainedvariance", "r_squared": "r2", "io_u": "iou"}

# --- nouns ----------------------------------------------------------------------------------------------------
KeyPath: TypeAlias = tuple[str, ...]
Identity: TypeAlias = tuple[str, KeyPath]  # of a column over all files: its prefix ("" for other columns) and its path
Goal: TypeAlias = Literal["minimize", "maximize"]
Facts: TypeAlias = dict[str, dict[str, Any]]  # of metrics, by column: goal, summary, step_metric
Report: TypeAlias = dict[str, list[Any]]  # what --json prints: rows by key, as in REPORT
Files: TypeAlias = Sequence["ParquetFile"]
Columns: TypeAlias = Sequence["Column"]


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ParquetFile(NamedTuple):
    """A parquet file as its footer describes it."""

    file: str  # a path or URL
    kind: str  # runs, history, console, system, table, result or foreign
    dtypes: Mapping[str, pl.DataType]
    identities: Mapping[str, Identity]  # of its columns for config and metrics; empty without metadata
    facts: Facts
    sources: Sequence[dict[str, Any]]  # the exports that its rows come from; several in an aggregate
    aggregate: bool  # an earlier result of this script: its derived columns are computed again


class FileColumn(NamedTuple):
    """A column as one file has it."""

    name: str
    dtype: pl.DataType
    facts: dict[str, Any]  # of a metric


class Column(NamedTuple):
    """A column of the result, or a metric of the histories."""

    name: str
    path: KeyPath
    dtype: pl.DataType
    parts: Mapping[str, FileColumn]  # by file


class Rule(NamedTuple):
    """Where a derived column's value comes from: the pattern's first group, or `value` where one is given."""

    column: str
    pattern: str
    source: str = "name"
    value: str | float | bool | None = None
    dtype: str = "string"
    origin: str = "built in"


class HistoryPlan(NamedTuple):
    """What is read of which histories, and the columns that this gives."""

    files: Files
    metrics: Mapping[str, Column]  # by the name that their statistics end in
    best: Column | None  # the metric of --at
    lower: bool  # is better
    dtypes: Mapping[str, pl.DataType]


# --- inputs ---------------------------------------------------------------------------------------------------
def read_inputs(options: argparse.Namespace, report: Report) -> Iterator[ParquetFile]:
    """The inputs that hold runs, in order of their paths; the report has the others. No row is read yet."""
    named = {Path(os.path.realpath(place)) for place in options.inputs}  # Path.resolve fails for loops of links
    found = {Path(os.path.realpath(file)): file for place in options.inputs for file in files_at(place, report)}
    output = Path(os.path.realpath(options.output))
    for key, file in sorted(found.items(), key=lambda each: Path(each[1])):
        if named.isdisjoint({key, output}) and key.is_relative_to(output):
            continue  # an earlier output is an input only if it is named
        try:
            header = read_header(file)
            if header.kind == "runs":
                check_columns(header)
                yield header
            elif key in named or not (options.history and header.kind == "history"):  # else it is read later
                reason = f"it holds no runs: it is a {header.kind} file; name a runs file of export_runs.py"
                skip(report, file, header.kind, reason, failure=key in named)
        except reading_errors(ValueError, RecursionError) as error:
            skip(report, file, "damaged", f"it cannot be read: {reason_of(error)}")


def files_at(place: str, report: Report) -> Iterator[str]:
    """The files of a name, folder (at any depth, without hidden ones), glob or URL."""
    if place.startswith(CLOUD):
        paths = [place]
        with suppress(*reading_errors()):  # what cannot be listed cannot be read either, and then is named
            paths = files_at_url(place)
    else:  # an existing path first: its name may hold brackets (Path.exists raises for what cannot be a name)
        paths = [place] if os.path.exists(place) else glob.glob(place, recursive=True)  # noqa: PTH110, PTH207
    if not paths:
        skip(report, place, "missing", "there is no such file or folder")
    for path in paths:
        if not Path(path).is_dir():
            yield path if path.startswith(CLOUD) else str(Path(path))
            continue
        errors: list[OSError] = []
        for folder, subfolders, names in os.walk(path, onerror=errors.append):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            visible = [Path(folder, name) for name in names if name.endswith(".parquet") and name[0] != "."]
            yield from (str(file) for file in visible if file.is_file())
        for error in errors:
            skip(report, str(error.filename), "unreadable", f"it cannot be read: {error.strerror or error}")


def files_at_url(url: str) -> list[str]:
    """The file at `url`, or the visible parquet files that polars finds below it or by its pattern."""
    found: list[str] = []

    class Listing(pl.io.external_reader.FileReaderBuilder, pl.io.external_reader.FileReader):
        """Notes the files that polars finds, and opens none: scan_parquet would stop at a damaged one."""

        def build_file_reader(self, source: str | bytes, *_: object) -> Listing:
            found.append(str(source))
            return self

        def schema(self) -> dict[str, Any]:
            return {"id": pl.String}

        def n_rows_in_file(self, *_: object) -> int:
            return 0

        def collect_batches(self, **_: object) -> Iterator[pl.DataFrame]:
            return iter(())

    pattern = url if "*" in url or url.endswith(".parquet") else f"{url.rstrip('/')}/**/*.parquet"
    pl.scan_external_reader(Listing(), sources=[pattern], schema={"id": pl.String}, expand_paths=True).collect()
    return [file for file in found if "/." not in file]


def folder_of(file: str) -> str:
    """The folder of a file on disk or in object storage."""
    return os.path.dirname(file) or "."  # noqa: PTH120 - a Path loses a slash of s3://


def skip(report: Report, file: str, kind: str, reason: str, *, failure: bool = True) -> None:
    """Note an input that gives no runs: a failure, unless it is sound and was merely found in a folder."""
    row = {"file": file, "kind": kind, "reason": reason, "failure": failure}
    report["skipped"] += [row] if row not in report["skipped"] else []


def read_header(file: str) -> ParquetFile:
    """The file's footer; ValueError where its metadata is not what export_runs.py writes."""
    file.encode()  # polars needs names that are UTF-8 text: this is a ValueError for others
    dtypes = dict(scan_file(file).collect_schema())
    metadata = pl.read_parquet_metadata(file)
    texts = [metadata.get(key, "{}") for key in (COLUMNS_KEY, METRICS_KEY, SOURCE_KEY)]
    documents = [json.loads(text, parse_constant=str, parse_float=str) for text in texts]  # NaN and 1e999 are text
    if not all(isinstance(document, dict) for document in documents):
        raise ValueError("its metadata is not made of JSON objects")
    columns, metrics, source = documents
    identities: dict[str, Identity] = {}
    for column, path in columns.items():
        if not isinstance(path, list) or not path or not all(isinstance(key, str) for key in path):
            raise ValueError(f"its {COLUMNS_KEY} holds {to_json(path)}, which is not a list of keys")
        if column in dtypes and prefix_of(column):
            identities[column] = (prefix_of(column), tuple(path))
    if len({*identities.values()}) < len(identities):
        raise ValueError(f"its {COLUMNS_KEY} gives one path to two columns")
    kind = "result" if RESULT_KEY in metadata else kind_of(dtypes)
    facts = {column: said for column, said in metrics.items() if isinstance(said, dict)}
    export = {"export_id": metadata[EXPORT_KEY]} if EXPORT_KEY in metadata else {}
    aggregate = isinstance(source.get("sources"), list)
    sources = source["sources"] if aggregate else [source | export]
    sources = [{"file": file, **each} for each in sources if isinstance(each, dict)]
    for each in sources:  # NUL and halves of surrogate pairs are in no path
        each["file"] = str(each["file"]).replace("\0", "").encode(errors="replace").decode()
    return ParquetFile(file, kind, dtypes, identities, facts, sources, aggregate)


def kind_of(columns: Iterable[str]) -> str:
    """What a parquet file holds, by its columns."""
    names, kinds = set(columns), {"row": "table", "line": "console", "_step": "history"}
    ours = {"run_id", "entity", "project"} <= names
    if {"id", "name", "state"} <= names and not (ours and names & {"row", "line"}):  # a table may have any column
        return "runs"
    return next((kind for column, kind in kinds.items() if column in names), "system") if ours else "foreign"


def check_columns(file: ParquetFile) -> None:
    """Raise ValueError for a column that the result cannot hold: by its dtype, or by a value of it."""
    for column, dtype in file.dtypes.items():
        wanted = fixed_dtypes().get(column)
        if column.startswith((INTERNAL, "^")) or column == "*":  # polars takes these for patterns
            raise ValueError(f"its column {column} has a name that is reserved")
        if wanted is None and (dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration)):
            raise ValueError(f"its column {column} is {dtype}, neither number nor text")
        if wanted is None or dtype in (wanted, pl.Null):
            continue
        own, new = pl.col(column), cast_column(column, dtype, wanted)
        own = own.fill_nan(None) if dtype.is_float() else own  # NaN is how pandas says null
        try:
            value = scan_file(file.file).select(own.filter(own.is_not_null() & new.is_null()).first()).collect().item()
        except pl.exceptions.PolarsError as error:  # no value can be cast
            raise ValueError(f"its column {column} is {dtype} instead of {wanted}") from error
        if value is not None:
            raise ValueError(f"its column {column} holds {value!r}, which is not of the type {wanted}")


# --- one schema: which columns are the same -------------------------------------------------------------------
def one_schema(files: Files, histories: Files, derived: set[str], report: Report) -> tuple[Columns, Columns]:
    """The columns of all files as columns of one, whose `derived` names are taken; and the metrics of the histories."""
    settled = names_of({identity for file in (*files, *histories) for identity in file.identities.values()})
    merged, beside = column_parts(files, derived, settled), column_parts(histories, set(), settled)
    names = names_of({*merged, *beside})
    found = dtypes_of_values((key[0], parts) for key, parts in merged.items() if names[key] not in fixed_dtypes())
    columns = []
    for (prefix, path), parts in merged.items():
        name = names[prefix, path]
        stored = {file: plain(part.dtype, prefix) for file, part in parts.items()}
        held = {file: found.get((file, part.name), stored[file]) for file, part in parts.items()}
        dtype = fixed_dtypes().get(name) or common_dtype(held.values(), prefix)
        columns.append(Column(name, path, dtype, parts))
        disputed = {file: str(own) for file, own in stored.items() if held[file] != pl.Null}  # others have no values
        if not {*disputed.values()} <= ({"Int64", "Float64"} if dtype == pl.Float64 else {str(dtype)}):
            disagree(report, name, "dtype", disputed, str(dtype))
        disagree(report, name, "name", {file: part.name for file, part in parts.items() if part.name != name}, name)
    metrics = []
    for (prefix, path), parts in beside.items():
        numbers = {file: part for file, part in parts.items() if part.dtype.is_numeric() or part.dtype == pl.Boolean}
        if prefix == METRIC and numbers:
            dtype = common_dtype([plain(part.dtype, METRIC) for part in numbers.values()], METRIC)
            metrics.append(Column(names[prefix, path], path, dtype, numbers))
    return sorted(columns), sorted(metrics)


def disagree(report: Report, column: str, kind: str, said: Mapping[str, str], became: str) -> None:
    """Note what each file says about a column, where this is not what the result has."""
    for found in sorted({*said.values()}):
        files = [file for file, own in said.items() if own == found]
        report["conflicts"].append({"column": column, "kind": kind, "found": found, "became": became, "files": files})


def column_parts(files: Files, derived: set[str], names: dict[Identity, str]) -> dict[Identity, dict[str, FileColumn]]:
    """Every column over all files, by file; `names` has the names of those that files with metadata have."""
    known = {name: identity for identity, name in names.items()}
    used = dict.fromkeys((name.lower() for name in (*fixed_dtypes(), *derived, *known)), "")
    parts: dict[Identity, dict[str, FileColumn]] = {("", (column,)): {} for column in fixed_dtypes()}
    for file in files:
        mine = {column.lower() for column in file.dtypes}
        for column, dtype in file.dtypes.items():
            prefix = prefix_of(column)
            if column in file.identities:
                identity = file.identities[column]
            elif prefix:  # without metadata: what columns of this name stand for in other files
                identity = known.get(column) or (prefix, (column.removeprefix(prefix),))
                identity = identity if identity not in file.identities.values() else (prefix, (column,))
            elif column in fixed_dtypes() or (file.aggregate and column in derived):
                identity = ("", (column,))
            elif (found := STATISTIC.match(column)) and (metric := file.identities.get(METRIC + column[found.end() :])):
                identity = ("", (found[0] + names[metric].removeprefix(METRIC),))  # it may have another name now
            else:  # a column of another tool: renamed if there is a column of that name, or one that differs in case
                name = column
                while used.get(name.lower(), name) != name or (name != column and name.lower() in mine):
                    name += "__own"
                used[name.lower()] = name
                identity = ("", (name,))
            parts.setdefault(identity, {})[file.file] = FileColumn(column, dtype, file.facts.get(column, {}))
    return parts


def prefix_of(column: str) -> str:
    """The prefix of a column that stands for a W&B path; empty for any other column."""
    return CONFIG if column.startswith(CONFIG) else METRIC if column.startswith(METRIC) else ""


def names_of(identities: set[Identity]) -> dict[Identity, str]:
    """A unique name for every column: config and metrics settled over all paths, others as they are."""
    names = {(prefix, path): path[0] for prefix, path in identities}
    for prefix in (CONFIG, METRIC):
        settled = settled_names(path for each, path in identities if each == prefix)
        names |= {(prefix, path): prefix + name for path, name in settled.items()}
    return names


# --- one schema: names (the same in export_runs) --------------------------------------------------------------
def column_name(path: KeyPath) -> str:
    """The flattened name of a W&B key path, before clashes are settled.

    >>> column_name(("model", "k")), column_name(("test/mse",))
    ('model_k', 'test_mse')
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path))


def settled_names(paths: Iterable[KeyPath], taken: Iterable[str | None] = ()) -> dict[KeyPath, str]:
    """A unique name for every path, none of those in `taken` (in lower case), whatever the order of the paths.

    Names are compared without case, as DuckDB and Spark do. Where several paths want one name, the first one-key path
    that is exactly that name keeps it; the others get a hash of their path.

    >>> settled_names([("a", "b"), ("a_b",)])
    {('a', 'b'): 'a_b__d12e2238', ('a_b',): 'a_b'}
    """
    rivals: dict[str, list[KeyPath]] = {}
    for path in sorted(set(paths)):
        rivals.setdefault(column_name(path).lower(), []).append(path)
    names: dict[KeyPath, str] = {}
    for name, group in rivals.items():
        keeper = next((p for p in group if name not in taken and (len(group) == 1 or p == (column_name(p),))), None)
        for path in group:
            names[path] = column_name(path) if path == keeper else f"{column_name(path)}__{path_hash(path)[:8]}"
    wanted = Counter(name.lower() for name in names.values())
    for path, name in names.items():
        if wanted[name.lower()] > 1 and name != column_name(path):  # a key that looks like our hash: take all of it
            names[path] = f"{column_name(path)}__{path_hash(path)}"
    return dict(sorted(names.items()))


def path_hash(path: KeyPath) -> str:
    """SHA-1, in hex, of the path as compact ASCII JSON."""
    return hashlib.sha1(json.dumps(path, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()


# --- one schema: dtypes ---------------------------------------------------------------------------------------
@cache
def fixed_dtypes() -> Mapping[str, pl.DataType]:
    """The columns that every result has, in their order, with their dtypes."""
    names = """
        id name state entity project created_at heartbeat_at runtime_s last_step history_rows tags group job_type sweep
        user notes commit url host os python command gpu gpu_count exported_at source_file _config_json _summary_json
    """
    times = dict.fromkeys(("created_at", "heartbeat_at", "exported_at"), pl.Datetime("us", "UTC"))
    numbers = dict.fromkeys(("last_step", "history_rows", "gpu_count"), pl.Int64()) | {"runtime_s": pl.Float64()}
    return dict.fromkeys(names.split(), pl.String()) | times | numbers | {"tags": pl.List(pl.String)}


@cache
def plain(dtype: pl.DataType, prefix: str) -> pl.DataType:
    """The dtype of our files that holds every value of `dtype`; Booleans count as 0 and 1 among metrics."""
    if (dtype.is_temporal() or dtype.is_nested()) and not prefix:  # a fixed column, or one of another tool
        return dtype
    if dtype.is_integer() or (dtype == pl.Boolean and prefix == METRIC):
        return pl.Int64() if dtype not in (pl.UInt64, pl.Int128, pl.UInt128) else pl.Float64()  # may pass 64 bits
    return dtype if dtype in (pl.Boolean, pl.Null) else pl.Float64() if dtype.is_numeric() else pl.String()


def common_dtype(dtypes: Iterable[pl.DataType], prefix: str) -> pl.DataType:
    """The narrowest dtype that holds every value of columns of these plain dtypes."""
    present = {*dtypes} - {pl.Null()}
    if not present:  # a dtype that every reader knows, unlike Null
        return pl.Float64() if prefix == METRIC else pl.String()
    if present == {pl.Int64(), pl.Float64()}:
        return pl.Float64()
    return present.pop() if len(present) == 1 else pl.String()


def dtypes_of_values(columns: Iterable[tuple[str, dict[str, FileColumn]]]) -> dict[tuple[str, str], pl.DataType]:
    """By file and column, where files disagree: Null without values, a number's dtype if all values are numbers."""
    asked: dict[str, dict[str, pl.DataType]] = {}
    for prefix, parts in columns:
        dtypes = {file: plain(part.dtype, prefix) for file, part in parts.items()}
        if common_dtype(dtypes.values(), prefix) == pl.String and {*dtypes.values()} - {pl.String(), pl.Null()}:
            for file, part in parts.items():
                asked.setdefault(file, {})[part.name] = dtypes[file]
    found: dict[tuple[str, str], pl.DataType] = {}
    for file, stored in asked.items():
        counts = {column: [pl.col(column).count().alias("all")] for column in stored}
        for column in [column for column, dtype in stored.items() if dtype == pl.String]:
            text = pl.col(column).cast(pl.String)
            json_number = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"  # `007` is none
            number = pl.when(text.str.contains(json_number)).then(text)
            numbers = number.cast(pl.Float64, strict=False).is_finite() | text.is_in(["NaN", "Infinity", "-Infinity"])
            whole = number.cast(pl.Int64, strict=False).is_not_null() & (text != "-0")
            counts[column] += [numbers.sum().alias("numbers"), whole.sum().alias("whole")]
        query = scan_file(file).select(pl.struct(each).alias(column) for column, each in counts.items())
        for column, count in query.collect().row(0, named=True).items():
            narrowest = pl.Int64() if count.get("whole") == count["all"] else pl.Float64()
            fits = narrowest if count.get("numbers") == count["all"] else stored[column]
            found[file, column] = fits if count["all"] else pl.Null()
    return found


def cast_column(column: str, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """The values of `column` in the `wanted` dtype, which holds them all: check_columns refuses other files."""
    values = pl.col(column).cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else pl.col(column)
    if dtype == wanted:
        return values
    if wanted == pl.String and dtype.is_float():  # as Python's json spells them: `1e-05`, where polars has `0.00001`
        text = values.cast(pl.Float64).cast(pl.String).str.replace("inf", "Infinity", literal=True)
        text = text.str.replace(r"^(-?)0\.0000([1-9])([0-9]*)$", "${1}${2}.${3}e-05")
        return text.str.replace(".e-05", "e-05", literal=True).str.replace(r"e-([0-9])$", "e-0${1}")
    if column not in fixed_dtypes():
        return values.cast(wanted)
    if isinstance(wanted, pl.Datetime) and not dtype.is_temporal():  # ISO text, perhaps without a clock or a zone
        text = values.cast(pl.String).str.replace(r"^([0-9-]{10})$", "${1}T00:00:00")
        iso = text.str.replace(r"^([0-9-]{10}[T ][0-9:.]+)$", "${1}Z")
        return iso.str.to_datetime("%+", time_unit="us", strict=False)
    if isinstance(wanted, pl.List) and dtype == pl.String:  # as Python prints a list, or parted by commas
        tag = pl.element().str.strip_chars(" '\"")
        return values.str.strip_chars("[]() ").str.split(",").list.eval(tag.filter(tag != ""))
    if wanted == pl.Int64 and dtype.is_float():  # pandas has whole numbers as floats as soon as one is missing: `7.0`
        return pl.when(values == values.floor()).then(values).cast(wanted, strict=False)
    return values.cast(wanted, strict=False)


# --- one schema: metadata -------------------------------------------------------------------------------------
def merged_metadata(files: Files, columns: Columns, logged: Columns, report: Report) -> tuple[dict[str, str], Facts]:
    """The result's key-value metadata, and its part on metrics; what files disagree on is left out."""
    found: dict[str, Facts] = {}  # what each file says, by the result's column
    for column in (*columns, *logged):
        found.setdefault(column.name, {}).update({file: part.facts for file, part in column.parts.items()})
    for file in files:  # also of metrics of which the summary has only the minimum or the like
        for own in (own for own in file.facts if own not in file.dtypes):
            found.setdefault(own, {})[file.file] = file.facts[own]
    metrics: Facts = {}
    for (name, by_file), key in itertools.product(found.items(), ("goal", "summary", "step_metric")):
        said = {file: str(facts[key]) for file, facts in by_file.items() if facts.get(key) is not None}
        if len({*said.values()}) == 1:
            metrics.setdefault(name, {})[key] = next(iter(said.values()))
        else:
            disagree(report, name, key, said, "not stored")
    paths = {column.name: column.path for column in columns if prefix_of(column.name)}
    sources = {to_json(source): source for file in files for source in file.sources}
    documents = {COLUMNS_KEY: paths, METRICS_KEY: metrics, SOURCE_KEY: {"sources": list(sources.values())}}
    return {SCHEMA_KEY: "1"} | {key: to_json(text) for key, text in documents.items()}, metrics


# --- rows -----------------------------------------------------------------------------------------------------
def deciding_rows(files: Files, columns: Columns, also: Iterable[str]) -> pl.DataFrame:
    """Of all rows, with file and row number: what decides which are written and in which order. It fits in memory."""
    wanted = {*RUN_KEY, "name", "state", "created_at", "history_rows", "exported_at", "source_file", *also}
    needed = [column for column in columns if column.name in wanted]
    frames = []
    for number, file in enumerate(files):  # one plan of many files would take far longer
        offline = [source["file"] for source in file.sources if source.get("kind") == "offline"]  # read from logs
        marks = [pl.lit(number, dtype=pl.UInt32).alias(FILE), pl.col("source_file").is_in(offline).alias(OFFLINE)]
        rows = scan_file(file.file).with_row_index(ROW).select(ROW, *values_in(file.file, needed))
        frames.append(rows.with_columns(marks).collect())
    return pl.concat(frames)


def values_in(file: str, columns: Columns) -> Iterator[pl.Expr]:
    """The result's columns as this file has them; null where it has no such column."""
    empty = {"source_file": pl.lit(file), "tags": pl.lit([], dtype=pl.List(pl.String))}  # in place of null
    for column in columns:
        part = column.parts.get(file)
        value = cast_column(part.name, part.dtype, column.dtype) if part else pl.lit(None, dtype=column.dtype)
        value = value.fill_null(empty[column.name]) if column.name in empty else value
        yield value.alias(column.name)


def latest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the newest export; between an offline and a server row the one with more history."""
    if rows["id"].n_unique() == len(rows) or rows.n_unique(RUN_KEY) == len(rows):  # ids alone take less
        return rows
    newest_first = rows.sort("exported_at", FILE, ROW, descending=[True, False, False], nulls_last=True)
    newest = newest_first.unique([*RUN_KEY, OFFLINE], keep="first", maintain_order=True)
    fullest_first = newest.sort("history_rows", descending=True, nulls_last=True, maintain_order=True)
    return fullest_first.unique(RUN_KEY, keep="first", maintain_order=True)


# --- filters --------------------------------------------------------------------------------------------------
def filtered_runs(runs: pl.DataFrame, options: argparse.Namespace, report: Report) -> pl.DataFrame:
    """The runs that pass --project, --state and --filter; the report has what each did."""
    if options.project:
        projects = runs["project"].drop_nulls().unique()
        hits = [name for name in projects if any(matches(name, pattern) for pattern in options.project)]
        runs = passing(runs, f"--project {','.join(options.project)}", pl.col("project").is_in(hits), report, "project")
    if options.state and "all" not in options.state:
        in_state = pl.col("state").str.to_lowercase().is_in(options.state)
        runs = passing(runs, f"--state {','.join(options.state)}", in_state, report, "state")
    if options.filter:
        named = pl.any_horizontal(pl.col("name").str.contains(f"(?i){regex}") for regex in options.filter)
        runs = passing(runs, " ".join(f"--filter {regex}" for regex in options.filter), named, report, "name")
    return runs


def passing(runs: pl.DataFrame, flag: str, keeps: pl.Expr | str, report: Report, shown: str = "") -> pl.DataFrame:
    """The runs that one filter, perhaps SQL, keeps; ScriptError with the values of column `shown` if it keeps none."""
    try:
        kept = runs.sql(f"SELECT * FROM self WHERE {keeps}") if isinstance(keeps, str) else runs.filter(keeps)  # noqa: S608
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ScriptError(f"{flag} cannot be evaluated: {reason_of(error)}", WRONG_USAGE) from error
    if kept.is_empty():
        there = f"; {shown}s of these runs: {some(runs[shown].drop_nulls().unique().sort().to_list())}" if shown else ""
        raise ScriptError(f"no run left: {flag} kept none of {counted(len(runs), 'run')}{there}", NOTHING_USABLE)
    report["filters"].append({"filter": flag, "before": len(runs), "kept": len(kept)})
    return kept


def where(runs: pl.DataFrame, flag: str, condition: str, derived: Iterable[str], report: Report) -> pl.DataFrame:
    """The runs that --where keeps. A derived column that is empty in all of them means the config's of its name."""
    replaced: dict[str, pl.Expr] = {}
    for name in pl.sql_expr(condition).meta.root_names():
        config = CONFIG + name
        if name in derived and config in runs.columns and runs[config].count():
            note = f"--where uses the derived column {name}; write {config} to use the config's value"
            if runs[name].is_null().all():
                note = f"{name} is null in all runs, so --where uses {config} instead"
                replaced[name] = pl.col(config)
            report["notes"].append({"note": note})
    kept = passing(runs.with_columns(**replaced), flag, condition, report)
    return kept.with_columns(pl.lit(None, dtype=runs.schema[name]).alias(name) for name in replaced)


def where_condition(predicate: str, dtypes: Mapping[str, pl.DataType], columns: Columns, derived: Iterable[str]) -> str:
    """An SQL predicate over the result's columns, by their own names; ScriptError where it is none."""
    paths = sorted((c for c in columns if prefix_of(c.name)), key=lambda c: c.name, reverse=True)  # config_ wins
    names = {c.name.removeprefix(prefix_of(c.name)): c.name for c in paths} | {".".join(c.path): c.name for c in paths}
    flag = f"--where {predicate}"
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "''", predicate)
    # Comments and other kinds of quotes could hide a query.
    if re.search(r"(?i)\bselect\b|\(\s*(from|with|values|table)\b|\b(read|scan)_\w+\s*\(|--|/\*|[$`]", unquoted):
        raise ScriptError(f'{flag}: no query, comment, $ or ` is allowed; quote names: "select"', WRONG_USAGE)
    if len(re.findall(r"(?i)[^\w\s,'().]+|\b(and|or|not|is|like|ilike|between|when)\b", unquoted)) > MOST_OPERATORS:
        raise ScriptError(f"--where has over {MOST_OPERATORS} operators; name IN ('a', 'b') takes a list", WRONG_USAGE)
    hint = """write 'text', a time as '2026-01-31', W&B names ("optim.lr") and SQL words in double quotes"""
    try:
        # Polars compares text with the decimal 0.01 as texts ("1e-3" would be more), and has no list_contains().
        number = r"""('[^']*'|"[^"]*")|\b(list)(?=_contains\()|(?<![\w.])\d*\.\d+(?![\w.])"""
        predicate = re.sub(number, lambda f: f[1] or ("array" if f[2] else f"{f[0]}e0"), predicate)
        # W&B's and flattened names: the columns are put in their places.
        if known := [name for name in pl.sql_expr(predicate).meta.root_names() if name in names and name not in dtypes]:
            name = "|".join(map(re.escape, known))
            places = rf"""('[^']*')|"({name})"|(?<![\w."])({name})(?![\w."])"""
            predicate = re.sub(places, lambda found: found[1] or f'"{names[found[2] or found[3]]}"', predicate)
        if unknown := [name for name in pl.sql_expr(predicate).meta.root_names() if name not in dtypes]:
            near = did_you_mean(unknown[0], [*dtypes, *names])
            raise ScriptError(f"{flag}: there is no column {unknown[0]}{near}; {hint}", WRONG_USAGE)
        schema = {**dtypes, **{name: pl.Null() for name in derived if CONFIG + name in dtypes}}  # see where()
        pl.DataFrame(schema=schema).sql(f"SELECT * FROM self WHERE {predicate}")  # noqa: S608 - one condition
    except pl.exceptions.PolarsError as error:
        raise ScriptError(f"{flag} is not an SQL condition: {reason_of(error)}; {hint}", WRONG_USAGE) from error
    return predicate


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- derived columns ------------------------------------------------------------------------------------------
WORD_START, WORD_END = r"(?:^|[_\-/\s])", r"(?:[_\-/\s]|$)"
NUMBER = r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)"
ARCHITECTURES = """
    gnn_all gnn_qk gnn_v filter_bank linear_pe self_attention_mlp multilayer_self_attention self_attention
    digress_transformer digress_default asymmetric spectral_linear spectral mlp linear digress
"""  # the longer names first, where one holds another
MODEL_TYPES = ("spectral", "digress", "gnn", "attention", "hybrid")  # the first three also in names
RULES = (  # of one column's rules the first that matches gives the value
    Rule("stage", r"(stage[0-9]+[a-z]?)"),
    *(Rule("arch", f"{WORD_START}({name}){WORD_END}") for name in ARCHITECTURES.split()),
    *(Rule("model_type", word, "config_model__target_", value=word) for word in MODEL_TYPES),
    *(Rule("model_type", word, "config_model_target", value=word) for word in MODEL_TYPES),
    *(Rule("model_type", word, value=word) for word in MODEL_TYPES[:3]),
    Rule("protocol", "^true$", "config_data_same_graph_all_splits", value="single_graph"),
    Rule("protocol", "SingleGraph", "config_data__target_", value="single_graph"),
    Rule("protocol", "", "config_data_same_graph_all_splits", value="distribution"),  # any value but null
    Rule("protocol", "", "config_data__target_", value="distribution"),
    Rule("k", f"_k([0-9]+){WORD_END}", dtype="int"),
    Rule("seed_parsed", f"_s([0-9]+){WORD_END}", dtype="int"),
    *(Rule(f"{name}_parsed", f"_{name}{NUMBER}{WORD_END}", dtype="float") for name in ("lr", "wd", "eps")),
)


def read_rules(file: str) -> tuple[Rule, ...]:
    """The rules of `file` before the built-in ones, or instead of them; ScriptError that names a bad rule."""
    import tomllib  # here, because it takes 7 ms

    try:
        document = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:  # not there, no UTF-8, or no TOML
        raise ScriptError(f"--rules {file} cannot be read as TOML: {reason_of(error)}", WRONG_USAGE) from error
    tables, replace = document.pop("rule", []), document.pop("replace", False)
    if document or not isinstance(tables, list) or not isinstance(replace, bool):
        raise ScriptError(f"--rules {file}: it may hold only [[rule]] tables, and replace = true", WRONG_USAGE)
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        origin = f"{file}: rule {number}"
        known = {rule.column: rule.dtype for rule in reversed((*rules, *RULES))}
        if flaw := flaw_of_table(table, {rule.column for rule in rules} if replace else known.keys()):
            raise ScriptError(f"--rules {origin}: {flaw}; it is {table}", WRONG_USAGE)
        rules.append(Rule(**{"dtype": known.get(table["column"], "string"), "origin": origin, **table}))
    return tuple(rules) if replace else (*rules, *RULES)


def flaw_of_table(table: Any, others: Iterable[str] = ()) -> str | None:
    """What is wrong with a [[rule]] beside those for `others`; None where it is a good one."""
    if not isinstance(table, dict) or not {"column", "pattern"} <= table.keys() <= {*Rule._fields[:-1]}:
        return "it needs column and pattern, and may have source, value and dtype"
    texts = [text for key, text in table.items() if key != "value"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(table.get("value", ""), str | float | int):
        return "all entries must be text; only value may be a number, true or false"
    column, pattern = table["column"], table["pattern"]
    taken = column.lower() in fixed_dtypes() or column.lower().startswith((CONFIG, METRIC, HISTORY))
    taken |= column not in others and column.lower() in map(str.lower, others)
    if taken or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column):
        return "column may have only letters, digits and _, and may not be every export's, or a rule's in other case"
    if table.get("dtype", "string") not in DTYPES:
        return f"unknown dtype {table['dtype']}; there are {', '.join(DTYPES)}"
    try:
        groups = pl.Series([""]).str.extract_groups(f"(?i){pattern}").struct.fields
    except pl.exceptions.ComputeError as error:
        return f"its pattern {pattern} is not a regular expression: {reason_of(error)}"
    if "value" not in table and not groups:
        return f"its pattern {pattern} has no group to take the value from; add parentheses or a value"
    return None


def derived_dtypes(rules: Iterable[Rule]) -> dict[str, pl.DataType]:
    """The derived columns in order; the first rule of each says its dtype."""
    derived: dict[str, pl.DataType] = {}
    for rule in rules:
        derived.setdefault(rule.column, getattr(pl, DTYPES[rule.dtype])())
    return derived


def with_derived(runs: pl.DataFrame, rules: Sequence[Rule], dtypes: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The runs with a column per derived one, in the rules' order; null where no rule matches or has its source."""
    derived, usable = [], [rule for rule in rules if rule.source in dtypes]
    for column, dtype in derived_dtypes(rules).items():
        texts = [text_by(rule, dtypes[rule.source]) for rule in usable if rule.column == column]
        text = pl.coalesce(*texts, pl.lit(None, dtype=pl.String))
        if dtype == pl.Boolean:
            truths = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
            value = text.str.to_lowercase().replace_strict(truths, default=None, return_dtype=dtype)
        else:  # an integer past 64 bits is no value, nor is 1e999
            value = text.cast(dtype, strict=False)
            value = pl.when(value.is_finite()).then(value) if dtype == pl.Float64 else value
        derived.append(value.alias(column))
    return runs.lazy().with_columns(derived).collect()  # lazily: what several rules read is computed once


def text_by(rule: Rule, dtype: pl.DataType) -> pl.Expr:
    """The value, as text, that one rule reads off its source of this dtype; null where it does not match."""
    pattern = f"(?i){rule.pattern}"
    if rule.source == "name":
        source = pl.col("name").str.to_lowercase()
        pattern = rule.pattern if rule.pattern == rule.pattern.lower() else pattern  # matches the same, and faster
    elif isinstance(dtype, pl.List):  # tags: one text with commas
        source = pl.col(rule.source).list.join(",")
    else:
        source = cast_column(rule.source, dtype, pl.String())
    if rule.value is None:
        return source.str.extract(pattern, 1)
    value = rule.value if isinstance(rule.value, str) else json.dumps(rule.value)
    return pl.when(source.str.contains(pattern)).then(pl.lit(value))


def explain(name: str, rules: Sequence[Rule], *, as_json: bool) -> str:
    """The answer to --explain: for each derived column the value and the first rule on names that matches."""
    run, dtype = pl.DataFrame({"name": [name]}), pl.String()
    texts = [(rule, run.select(text_by(rule, dtype)).item()) for rule in rules if rule.source == "name"]
    first = {rule.column: (rule.pattern, rule.origin) for rule, text in reversed(texts) if text is not None}
    found, lines = [], []
    for column, value in with_derived(run, rules, {"name": dtype}).drop("name").row(0, named=True).items():
        pattern, origin = first.get(column, (None, None))
        found.append({"column": column, "value": value, "pattern": pattern, "origin": origin})
        by = f"{'no value' if value is None else value}  by {pattern}  ({origin})"
        lines.append(f"{column:<12} {by if origin else 'no rule matches this name'}")
    if as_json:
        return to_json({"version": 1, "explain": found})
    return "\n".join(map(printable, lines or ["no rules: --rules has replace = true and no [[rule]]"]))


# --- which way a metric is better (the same in analyze_runs) --------------------------------------------------
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


# --- columns from histories -----------------------------------------------------------------------------------
def histories_beside(files: Files, report: Report) -> Iterator[ParquetFile]:
    """The histories of the projects of `files`, in the folders of their exports: others would only add columns."""
    homes = {(str(each.get("entity")), str(each.get("project"))) for file in files for each in file.sources}
    for folder in dict.fromkeys(folder_of(source["file"]) for file in files for source in file.sources):
        pattern = folder if folder.startswith(CLOUD) else glob.escape(folder)
        for file in sorted(files_at(f"{pattern}/*.parquet", {"skipped": []})):
            try:
                header = read_header(file)
                own = {(str(each.get("entity")), str(each.get("project"))) for each in header.sources}
                if header.kind == "history" and file.endswith("_history_sampled.parquet"):
                    skip(report, file, "sampled history", "it may lack the best value", failure=False)
                elif header.kind == "history" and (own & homes or any("None" in home for home in own | homes)):
                    yield header
            except reading_errors(ValueError, RecursionError) as error:
                if "_history.parquet" in file:  # other files are inputs, or no export's
                    skip(report, file, "damaged", f"it cannot be read: {reason_of(error)}")


def plan_for(options: argparse.Namespace, files: Files, metrics: Columns, facts: Facts, report: Report) -> HistoryPlan:
    """What --history and its flags mean for these files."""
    if (options.at is not None or options.history_metrics) and not files:
        raise ScriptError("--history: no history files; export_runs.py --include-history writes them", NOTHING_USABLE)
    # What users may call them: by column, else by W&B's name, else by the flattened name.
    known = {metric.name.removeprefix(METRIC): metric for metric in metrics}
    known |= {".".join(metric.path): metric for metric in metrics} | {metric.name: metric for metric in metrics}

    def called(flag: str, pattern: str) -> list[Column]:
        found = [metric for name, metric in known.items() if matches(name, pattern)]
        if not found:
            raise ScriptError(f"{flag} {pattern}: no such metric{did_you_mean(pattern, known)}", WRONG_USAGE)
        return [known[pattern]] if pattern in known else found

    best, lower = None, False
    if options.at is not None:
        name, _, goal = options.at.rpartition(":")
        name, goal = (name, goal) if goal in {"min", "max"} else (options.at, None)
        best = called("--at", name)[0]
        stored = facts.get(best.name, {}).get("goal")
        why = "as given" if goal else "set by define_metric" if stored else "guessed by name"
        goal = goal or stored or goal_by_name(".".join(best.path))
        if goal is None:
            raise ScriptError(f"--at {name}: add :min or :max, as its name does not say which is better", WRONG_USAGE)
        lower = goal in {"min", "minimize"}
        at_best = f"{'lowest' if lower else 'highest'} {'.'.join(best.path)} ({why})"
        report["notes"].append({"note": f"history_at_*: values at the {at_best}"})
    chosen = [metric for pattern in options.history_metrics for metric in called("--history-metrics", pattern)]
    # Beside `loss`, `step_loss` gets a hash: both would have a min_step_loss.
    clashing = {f"{mark}{name.lower()}" for mark in ("step_", "nonfinite_") for name in known}
    names, dtypes = dict[str, Column](), dict[str, pl.DataType]()
    for metric in [metric for metric in metrics if metric in chosen] or metrics:
        name = metric.name.removeprefix(METRIC)
        name = f"{name}__{path_hash(metric.path)[:8]}" if name.lower() in clashing else name
        names[name] = metric
        value, whole = metric.dtype, pl.Int64()
        new = {"min": value, "min_step": whole, "max": value, "max_step": whole, "last": value, "tail": pl.Float64()}
        new |= {"n": whole, "n_nonfinite": whole} | ({"at": value} if best else {})
        dtypes |= {f"{HISTORY}{statistic}_{name}": dtype for statistic, dtype in new.items()}
    return HistoryPlan(files, names, best, lower, dtypes)


def with_histories(runs: pl.DataFrame, plan: HistoryPlan, report: Report) -> pl.DataFrame:
    """The runs with their histories' statistics, else those of an earlier result; ROWS, null without history."""
    folders = {file: folder_of(file) for file in runs["source_file"].unique()}
    runs = runs.with_columns(pl.col("source_file").replace_strict(folders, return_dtype=pl.String).alias(FOLDER))
    key = [*RUN_KEY, FOLDER]
    wanted = runs.select(key).unique().sort("id", "entity", "project", FOLDER)
    frames = [pl.DataFrame(schema=pl.Schema({**wanted.schema, ROWS: pl.Int64(), **plan.dtypes}))]
    for file in [header.file for header in plan.files]:
        beside = wanted.filter(pl.col(FOLDER) == folder_of(file))
        try:
            frames += [] if beside.is_empty() else [*statistics_by_run(plan, file, beside)]
        except reading_errors() as error:  # a footer can be sound where the rows are not
            skip(report, file, "damaged", f"it cannot be read: {reason_of(error)}")
    found = pl.concat(frames, how="diagonal_relaxed")  # one file may have integers, another floats
    # If several files hold a run, the one with the most rows of it is used; a metric that it lacks was logged 0 times.
    found = found.sort(ROWS, descending=True, maintain_order=True).unique(key, keep="first", maintain_order=True)
    found = found.with_columns(pl.col(f"^{HISTORY}n_.*$").fill_null(0))
    others = runs.join(found, key, "anti", nulls_equal=True)  # perhaps with values of an earlier result
    read = runs.drop(plan.dtypes, strict=False).join(found, key, nulls_equal=True)
    return pl.concat([read, others], how="diagonal_relaxed")


def statistics_by_run(plan: HistoryPlan, file: str, runs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Key, ROWS and statistics of each of the sorted `runs` that the file has rows of."""
    history = scan_file(file).rename({"run_id": "id"})
    metrics = [(name, metric) for name, metric in plan.metrics.items() if file in metric.parts]
    columns, at = [*map(pl.col, RUN_KEY), pl.col("_step").cast(pl.Int64).alias(STEP)], None
    if plan.best and file in plan.best.parts:
        best = pl.col(plan.best.parts[file].name).cast(plan.best.dtype) + 0  # -0.0 is 0.0, also for arg_max
        columns.append(pl.when(best.is_finite()).then(best).alias(BEST))
        at = pl.col(BEST).arg_min() if plan.lower else pl.col(BEST).arg_max()
    lengths = history.group_by(RUN_KEY).agg(pl.len().cast(pl.Int64).alias(ROWS)).collect(engine="streaming")
    runs = runs.join(lengths, RUN_KEY, nulls_equal=True, maintain_order="left").with_row_index(RUN)
    first_row = pl.col(ROWS).cum_sum() - pl.col(ROWS)
    runs = runs.with_columns((first_row // max(1, CELLS // (len(metrics) + 2))).alias(POSITION))
    run, step = pl.col(RUN), pl.col(STEP)
    in_order = (run > run.shift()) | ((run == run.shift()) & (step > step.shift()))
    for block in runs.partition_by(POSITION, maintain_order=True):  # some runs and metrics at a time: memory is bounded
        at_once = max(1, CELLS // int(block[ROWS].sum()))
        parts = [block.drop(POSITION, RUN)]
        for start in range(0, len(metrics), at_once):
            values, finite, expressions = [], [], []
            for name, metric in metrics[start : start + at_once]:
                value, good = pl.col(METRIC + name), pl.col(f"finite {name}")
                values.append(pl.col(metric.parts[file].name).cast(metric.dtype).alias(METRIC + name))
                finite.append(pl.when(value.is_finite()).then(value + 0).alias(f"finite {name}"))
                statistics = {  # the best is finite, the first of equal ones
                    "min": good.min(),
                    "min_step": step.get(good.arg_min(), null_on_oob=True),
                    "max": good.max(),
                    "max_step": step.get(good.arg_max(), null_on_oob=True),
                    "last": value.drop_nulls().last(),
                    "tail": good.drop_nulls().tail(pl.max_horizontal(good.count() // 10, 1)).mean(),
                    "n": good.count(),
                    "n_nonfinite": value.count() - good.count(),
                }
                if at is not None:
                    statistics["at"] = value.slice(0, at.fill_null(-1) + 1).drop_nulls().last()
                expressions += [each.alias(f"{HISTORY}{statistic}_{name}") for statistic, each in statistics.items()]
            here = history.filter(pl.col("id").is_in(block["id"].implode(), nulls_equal=True))  # skips row groups
            rows = here.select(*columns, *values).collect(engine="streaming")
            keys = rows.select(RUN_KEY).join(block, RUN_KEY, "left", nulls_equal=True, maintain_order="left")
            rows = rows.drop(RUN_KEY).with_columns(keys[RUN]).drop_nulls(RUN)
            if not rows.select(in_order.fill_null(True).all()).item():  # another tool's, or of overlapping exports
                rows = rows.sort(RUN, STEP, maintain_order=True).unique(maintain_order=True)
            rows = rows.with_columns(run.set_sorted(), *finite)
            parts.append(rows.group_by(RUN, maintain_order=True).agg(expressions).drop(RUN))
        yield pl.concat(parts, how="horizontal")


# --- files ----------------------------------------------------------------------------------------------------
def scan_file(file: str) -> pl.LazyFrame:
    """The rows of `file`. Its name is taken as it is: no glob, and no columns from `key=value` directories."""
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def reading_errors(*more: type[BaseException]) -> tuple[type[BaseException], ...]:
    """What polars raises for files that are damaged, and `more`; some damage makes its decoder panic."""
    if "KeyboardInterrupt" in str(sys.exception()):  # Ctrl-C while polars runs Python makes it panic, too
        raise KeyboardInterrupt
    return (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, *more)


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, without its number; of a regular expression the line that says why."""
    flaw = re.search(r"^(?:error: |\[Errno \d+\] )(.*)$", str(error), re.MULTILINE)
    return flaw[1] if flaw else str(error).partition("\n")[0][:200] or type(error).__name__


def rows_in_order(files: Files, columns: Columns, chosen: pl.DataFrame, new: Sequence[str]) -> pl.LazyFrame:
    """The chosen rows of all files, whole, in the result's order, with the `new` columns that `chosen` holds."""
    own = [column for column in columns if column.name not in new]
    in_order = chosen.sort("entity", "project", "created_at", "id", "source_file", FILE, ROW)
    placed = in_order.with_row_index(POSITION).select(POSITION, FILE, ROW, pl.col("id").alias(RUN), *new)
    empty = pl.DataFrame(schema={c.name: c.dtype for c in own} | {POSITION: pl.UInt32(), **chosen.select(new).schema})
    if placed[FILE].n_unique() == 1 and placed[ROW].is_sorted():  # one export: it is written while it is read
        return pl.concat([empty.lazy(), placed_rows(files, own, placed)], how="diagonal")

    def batches(names: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        """Rows are put in order in blocks that fit in memory, while polars writes."""
        for block in placed.iter_slices(max(1, CELLS // 2 // empty.width)):
            plans = [placed_rows(files, own, rows) for rows in block.drop(new).partition_by(FILE, maintain_order=True)]
            parts = [pl.collect_all(plans[at : at + FILES_AT_ONCE]) for at in range(0, len(plans), FILES_AT_ONCE)]
            rows = pl.concat([empty.drop(new), *itertools.chain(*parts)], how="diagonal")
            rows = rows if rows[POSITION].is_sorted() else rows.sort(POSITION)  # as exports are: nothing to sort
            yield rows.hstack(placed.select(new)[rows[POSITION]]).select(names or empty.columns)

    return pl.io.plugins.register_io_source(batches, schema=empty.schema)


def placed_rows(files: Files, columns: Columns, placed: pl.DataFrame) -> pl.LazyFrame:
    """The rows of the one file of `placed`, in its order, beside `placed`; without those whose id is another now."""
    file = files[placed[FILE][0]].file
    first, last = placed.select(pl.col(ROW).min(), pl.col(ROW).max().alias("last")).row(0)
    held = [column for column in columns if file in column.parts or column.name in ("source_file", "tags")]
    stored = scan_file(file).slice(first, last - first + 1).select(values_in(file, held))
    every = pl.int_range(first, last + 1, dtype=pl.UInt32, eager=True).alias(ROW).to_frame()
    beside = every.join(placed, ROW, "left", maintain_order="left").drop(FILE, ROW)
    chosen = pl.col(POSITION).is_not_null() & pl.col(RUN).eq_missing(pl.col("id"))
    return pl.concat([stored, beside.lazy()], how="horizontal").filter(chosen).drop(RUN)


def write(runs: pl.LazyFrame, place: str, metadata: Mapping[str, str], partition_by: Sequence[str] = ()) -> list[str]:
    """Stream `runs` into a file, or into hive partitions below a folder; the files that were written."""
    written: list[str] = []
    runs.sink_parquet(
        pl.PartitionBy(place, key=list(partition_by)) if partition_by else place,
        compression="zstd",
        compression_level=1,  # files are as small as with the default, 3, and it is faster
        row_group_size=100_000,  # large enough to scan fast, small enough to skip most of a big file
        data_page_size=32 * 1024,  # a reader that wants single runs then skips most of a column
        metadata=dict(metadata),
        mkdir=bool(partition_by),
        sync_on_close="all",
        sinked_paths_callback=lambda sinked: written.extend(str(each.path) for each in sinked.paths),
    )
    return sorted({*written}) or [place]


@contextmanager
def published(output: str) -> Iterator[str]:
    """Where to write, in a hidden folder beside `output`; it replaces `output` once it is whole."""
    target = Path(output)
    hidden = target.with_name(f".{target.name}.{os.getpid()}.partial")
    new, old = hidden / target.name, hidden / "old"
    try:
        if output.startswith(CLOUD):  # an object appears whole or not at all
            if not output.endswith(".parquet") and files_at_url(output):
                raise ScriptError(f"-o {output} holds files already; choose an empty place", WRONG_USAGE)
            yield output
            return
        for rest in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):  # of a merge that was killed
            if rest == hidden or not is_running(rest.name.split(".")[-2]):  # containers give each merge the same id
                with suppress(OSError):  # killed between its two renames: the earlier result is put back
                    (rest / old.name).rename(target)
                shutil.rmtree(rest, ignore_errors=True)
        hidden.mkdir(mode=0o700, parents=True)  # private until the result is complete
        yield str(new)
        if target.is_file():
            new.chmod(target.stat().st_mode)  # one that is private stays so
        if target.is_dir():
            target.rename(old)
        new.replace(target)
    except OSError as error:
        reason = error.strerror or reason_of(error).partition(" (os error")[0]  # polars adds the hidden name
        hint = "free disk space, check your credentials, or use another -o"
        raise ScriptError(f"{output} was not written: {reason}; {hint}", NOTHING_USABLE) from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(hidden, ignore_errors=True)


def is_running(process: str) -> bool:
    """Whether a process has this id, or may have it."""
    if re.fullmatch("[0-9]{1,9}", process) and sys.platform != "win32":  # on Windows, os.kill would end the process
        try:
            os.kill(int(process), 0)
        except OSError as error:
            return isinstance(error, PermissionError)  # it is somebody else's
    return True


def check_output(output: str) -> None:
    """Raise where the output holds anything but an earlier result; only those tell their rows' source_file."""
    found = [file for file in Path(output).rglob("*") if file.is_file()]  # none in a file
    is_other = any(file.suffix != ".parquet" or "=" not in file.parent.name for file in found)
    with suppress(*reading_errors()):  # what is no parquet file may be overwritten
        columns = scan_file(output).collect_schema()
        is_other |= "source_file" not in columns and (bool(found) or kind_of(columns) != "foreign")
    if is_other:
        raise ScriptError(f"-o {output} holds other data, which would be lost; choose another name", WRONG_USAGE)


# --- report ---------------------------------------------------------------------------------------------------
def report_lines(report: Report) -> Iterator[str]:
    """The report for people, from the document of --json."""
    summary = report["summary"][0]
    yield f"{counted(summary['rows_read'], 'row')} in {counted(summary['inputs'], 'file')}"
    if summary["rows_read"] > summary["runs_found"]:
        yield f"{counted(summary['runs_found'], 'run')}, after duplicates of a run were dropped"
    if kinds := Counter(row["kind"] for row in report["skipped"] if not row["failure"]):
        found = ", ".join(counted(number, f"{kind} file") for kind, number in sorted(kinds.items()))
        yield f"not merged: {found} ({'--history reads histories, ' if kinds['history'] else ''}--json lists all)"
    for row in report["filters"]:
        yield f"{row['filter']}: {row['kept']:,} of {counted(row['before'], 'run')} kept"
    for row in report["histories"]:
        read = f"{counted(row['rows'], 'row')}, {counted(row['metrics'], 'metric')}"
        yield f"histories: {read} and {counted(row['runs_with'], 'run')} in {counted(len(row['files']), 'file')}"
        no_file = f" (of these {row['runs_without_file']:,} without a file: export_runs.py --include-history writes it)"
        if without := row["runs_without"]:
            yield f"without history: {counted(without, 'run')}{no_file if row['runs_without_file'] else ''}"
    yield from (row["note"] for row in report["notes"])
    lines = []
    for (column, kind), rows in itertools.groupby(report["conflicts"], lambda row: (row["column"], row["kind"])):
        rivals = list(rows)
        found = ", ".join(f"{rival['found']} in {counted(len(rival['files']), 'file')}" for rival in rivals)
        differs = f"the {kind} of {column} is {found}; in the result it is {rivals[0]['became']}"
        lines.append(f"{column} is called {found}" if kind == "name" else differs)
    yield from folded(lines, "{} more columns differ between files; --json lists all")
    lines = []
    for fit in report["derived"]:
        names = ", ".join(fit["unmatched_names"][:3])
        lacking = f"; no match in {counted(fit['missing'], 'run')}, e.g. {names}" if names else ""
        if fit["runs"]:
            values = [f"{value} ({n})" for value, n in zip(fit["commonest"], fit["commonest_runs"], strict=True)]
            lines.append(f"{fit['column']}: {counted(fit['runs'], 'run')}, most often {', '.join(values)}{lacking}")
    yield from folded(lines, "{} more derived columns; --json lists all")
    if empty := [fit["column"] for fit in report["derived"] if not fit["runs"]]:
        yield f"no match in any run for {', '.join(empty)}"
    yield f"written: {counted(summary['runs'], 'run')}, {counted(summary['columns'], 'column')}"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some(texts: Sequence[str]) -> str:
    """The first few of `texts`, and how many more there are."""
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def folded(lines: Sequence[str], more: str) -> list[str]:
    """The first few lines of one kind, then `more`, which says how many there are besides."""
    return [*lines[:SHOWN], more.format(len(lines) - SHOWN)] if len(lines) > SHOWN + 1 else [*lines]


# --- streams --------------------------------------------------------------------------------------------------
def show(text: str) -> None:
    """Print to stdout. A closed pipe (`| head`) is ignored, so that the exit code stays what it would be."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(message: str) -> None:
    """Print one line to stderr; a closed pipe is ignored."""
    with suppress(BrokenPipeError):
        print(printable(message), file=sys.stderr)


def printable(text: str) -> str:
    """`text` on one line, with control characters and direction overrides made visible: names are data.

    >>> printable(chr(27) + "[31m[red]") == chr(65533) + "[31m[red]"
    True
    """
    return "".join(c if c.isprintable() or c == ZERO_WIDTH_JOINER else "\N{REPLACEMENT CHARACTER}" for c in text)


def to_json(document: object) -> str:
    """`document` as JSON: it holds no NaN, no character that a terminal may obey, and no half of a surrogate pair."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    return re.sub("[\x7f-\x9f\ud800-\udfff]", lambda c: f"\\u{ord(c[0]):04x}", text)


# --- command line ---------------------------------------------------------------------------------------------
def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the only place that knows argparse."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    listed: dict[str, Any] = {"type": comma_list, "action": "extend", "default": []}
    add = parser.add_argument
    add("inputs", nargs="*", default=["wandb_export/"], metavar="INPUT", help="what to merge (default: wandb_export/)")
    add("--output", "-o", metavar="FILE", help="file or URL (default: analysis/unified.parquet)")
    add = parser.add_argument_group("which runs (flags may repeat)").add_argument
    lower = listed | {"type": lambda text: comma_list(text.lower())}
    add("--state", "-s", **lower, metavar="STATE", help="finished, crashed, ... (default: all)")
    add("--filter", "-f", action="append", default=[], metavar="REGEX", help="regex for the name (case ignored)")
    add("--project", "-p", **listed, metavar="GLOB", help="project or glob, case ignored (default: all)")
    add("--where", metavar="SQL", help="condition on columns, W&B names in double quotes")
    add("--keep", choices=("latest", "all"), default="latest", help="exports of a run that are kept (default: latest)")
    add = parser.add_argument_group("which columns").add_argument
    add("--no-enrich", action="store_true", help="add no derived columns")
    add("--rules", metavar="TOML", help="file with your rules for derived columns")
    add("--explain", metavar="NAME", help="show what the rules derive from NAME, and exit")
    add("--history", action="store_true", help="add history_* columns from the history files")
    add("--history-metrics", **listed, metavar="GLOB", help="only of these metrics (default: all)")
    add("--at", metavar="METRIC", help="add each metric at the step where METRIC was best")
    add("--partition-by", **listed, metavar="COLUMN", help="write a folder with subfolders COLUMN=VALUE")
    add = parser.add_argument_group("streams").add_argument
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="print only errors on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    if (typed := "".join(sys.argv[1:] if argv is None else argv)) != typed.encode(errors="replace").decode():
        parser.error("an argument is not UTF-8 text")
    args = parser.parse_strictly(argv)
    for state in args.state:
        if state not in (*STATES, "all"):
            parser.error(f"--state {state}: no such state{did_you_mean(state, STATES)}; there are {', '.join(STATES)}")
    if args.output is None:
        args.output = "analysis/unified" if args.partition_by else "analysis/unified.parquet"
    args.output = args.output.rstrip("/") if args.output.startswith(CLOUD) else str(Path(args.output))
    for place in (*args.inputs, args.output):
        if re.match("[a-z0-9]+:/", place) and not place.startswith(CLOUD):  # it would be taken for a folder
            parser.error(f"{place}: URLs must begin with {', '.join(CLOUD)}; or name a local file")
    if bool(args.partition_by) == args.output.endswith(".parquet"):  # folders are searched by this ending
        parser.error(f"-o {args.output}: a file's name must end in .parquet, a folder's (--partition-by) must not")
    if args.no_enrich and not (args.rules is None and args.explain is None):
        parser.error("--rules and --explain need derived columns, which --no-enrich turns off")
    if not args.history and (args.history_metrics or args.at is not None):
        parser.error("--at and --history-metrics need --history")
    return args


def comma_list(text: str) -> list[str]:
    """The values of a flag that takes commas: `a, b` is a and b."""
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError("needs a value")


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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, else the shortest that contain `name`; or nothing without any.

    >>> did_you_mean("--stat", ["--state", "--since"]), did_you_mean("loss", ["train/loss", "epoch"])
    ('; did you mean --state?', '; did you mean train/loss?')
    """
    known = {each.lower(): each for each in sorted(set(names), key=lambda each: (len(each), each))}
    near = difflib.get_close_matches(name.lower(), known) or [k for k in known if name[1:] and name.lower() in k][:3]
    return f"; did you mean {' or '.join(known[each] for each in near)}?" if near else ""


# --- the whole ------------------------------------------------------------------------------------------------
def import_libraries() -> None:
    """Import what takes time: once the command line is right."""
    global pl
    import polars as pl


def aggregate(options: argparse.Namespace) -> int:
    """From inputs to one file and its report; the exit code says whether every input went in."""
    import_libraries()
    rules = () if options.no_enrich else RULES if options.rules is None else read_rules(options.rules)
    if options.explain is not None:
        show(explain(options.explain, rules, as_json=options.json))
        return OK
    check_output(options.output)
    report: Report = {key: [] for key in REPORT}
    files = [*read_inputs(options, report)]
    try:
        try:
            merge(files, rules, options, report)
        except reading_errors() as cause:  # a footer can be sound where the rows are not: read them all to find out
            sound = []
            for file in files:
                try:
                    scan_file(file.file).sink_batches(lambda _: None)
                    sound.append(file)
                except reading_errors() as error:
                    skip(report, file.file, "damaged", f"it cannot be read: {reason_of(error)}")
            if len(sound) == len(files):
                what = f"{options.output} was not written, or an input changed meanwhile: {reason_of(cause)}"
                raise ScriptError(f"{what}; run it again, free disk space or use another -o", NOTHING_USABLE) from cause
            report |= {key: [] for key in REPORT if key != "skipped"}
            merge(sound, rules, options, report)
    finally:
        failed = [row for row in report["skipped"] if row["failure"]]
        lines = [f"error: {row['file']} was left out: {row['reason']}" for row in failed]
        for line in folded(lines, "error: {} more inputs were left out; --json lists all"):  # even when quiet
            tell(line)
    for line in report_lines(report) if not options.quiet else ():
        tell(line)
    show(to_json({"version": 1} | report) if options.json else "\n".join(report["files"]))
    return PARTIAL if failed else OK


def merge(files: Files, rules: Sequence[Rule], options: argparse.Namespace, report: Report) -> None:
    """Write the runs of `files` to the output; the report has what was done."""
    if not files:
        raise ScriptError(f"no runs in {some(options.inputs)}; export_runs.py writes runs files", NOTHING_USABLE)
    histories = [*histories_beside(files, report)] if options.history else []
    derived = derived_dtypes(rules)
    columns, metrics = one_schema(files, histories, set(derived), report)
    metadata, facts = merged_metadata(files, columns, metrics, report)
    report["conflicts"].sort(key=lambda row: (row["column"], row["kind"], row["found"]))
    plan = plan_for(options, histories, metrics, facts, report)
    stored = {column.name: column.dtype for column in columns}
    # Fixed columns, derived ones, those of other tools, config, metrics, those from histories, JSON.
    *fixed, config_json, summary_json = fixed_dtypes()
    rest = stored.keys() - {*fixed_dtypes(), *derived, *plan.dtypes}
    rest_in_order = sorted(rest, key=lambda name: (name.startswith(HISTORY), prefix_of(name), name))
    order = [*fixed, *derived, *rest_in_order, *plan.dtypes, config_json, summary_json]
    for name in options.partition_by:
        if name not in order or name == "tags":  # lists name no folder
            raise ScriptError(f"--partition-by {name}: no such column{did_you_mean(name, order)}", WRONG_USAGE)
    dtypes = {**stored, **derived, **plan.dtypes}
    condition = None if options.where is None else where_condition(options.where, dtypes, columns, derived)
    asked = [] if condition is None else pl.sql_expr(condition).meta.root_names()
    also = {*(rule.source for rule in rules), *asked, *(CONFIG + name for name in asked), *plan.dtypes}
    rows = deciding_rows(files, columns, also)
    if rows.is_empty():
        raise ScriptError(f"the runs files in {some(options.inputs)} have no rows", NOTHING_USABLE)
    found = rows if options.keep == "all" else latest(rows)
    chosen = with_derived(filtered_runs(found, options, report), rules, stored)
    if condition is not None and plan.dtypes.keys().isdisjoint(asked):  # before the histories: less is read
        chosen, condition = where(chosen, f"--where {options.where}", condition, derived, report), None
    if options.history:
        chosen = with_histories(chosen, plan, report)
    if condition is not None:
        chosen = where(chosen, f"--where {options.where}", condition, derived, report)

    with published(options.output) as place:
        rows_to_write = rows_in_order(files, columns, chosen, [*derived, *plan.dtypes]).select(order)
        written = write(rows_to_write, place, metadata, options.partition_by)
        there = pl.scan_parquet(written, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
        if there != len(chosen):
            raise ScriptError("an input changed while it was read: rows are missing; run it again", NOTHING_USABLE)
    summary = {"file": options.output, "inputs": len(files), "rows_read": len(rows), "runs_found": len(found)}
    report["summary"].append(summary | {"runs": len(chosen), "columns": len(order)})
    report["files"] += [options.output + file.removeprefix(place) for file in written]
    describe(chosen, rules, plan, files, report)


def describe(runs: pl.DataFrame, rules: Sequence[Rule], plan: HistoryPlan, files: Files, report: Report) -> None:
    """Report how the rules fit, what histories gave, and runs and histories that different exports wrote."""
    if absent := [f"{r.origin} ({r.source})" for r in rules if r.origin != "built in" and r.source not in runs.columns]:
        report["notes"].append({"note": f"no input has the source column of {some(absent)}"})
    for column in derived_dtypes(rules):
        unmatched = runs["name"].filter(runs[column].is_null())
        fit = {"column": column, "dtype": str(runs.schema[column]), "runs": len(runs) - len(unmatched)}
        counts = runs[column].drop_nulls().value_counts(name=ROWS).sort(ROWS, column, descending=[True, False])[:SHOWN]
        fit |= {"commonest": counts[column].to_list(), "commonest_runs": counts[ROWS].to_list()}
        names = unmatched.drop_nulls().unique().sort().head(SHOWN).to_list()
        report["derived"].append(fit | {"missing": len(unmatched), "unmatched_names": names})
    if ROWS not in runs.columns:  # no --history
        return
    at, last = f"{HISTORY}at_", f"{HISTORY}last_"
    if plan.best and (late := [name for name in plan.metrics if runs[at + name].count() < runs[last + name].count()]):
        why = f"they were logged only after the best step, or {'.'.join(plan.best.path)} was not logged or never finite"
        report["notes"].append({"note": f"{at}* is null in some runs for {some(late)}: {why}"})
    without = runs.filter(pl.col(ROWS).is_null())
    with_file = pl.col(FOLDER).is_in([folder_of(file.file) for file in plan.files])
    read = {"files": [file.file for file in plan.files], "rows": runs[ROWS].sum(), "metrics": len(plan.metrics)}
    missing = {"runs_without": len(without), "runs_without_file": len(without.filter(~with_file))}
    report["histories"].append(read | {"runs_with": len(runs) - len(without)} | missing)
    ids: dict[tuple[str, str, str], tuple[set[str], set[str]]] = {}  # of the runs, of the histories
    for which, group in enumerate((files, plan.files)):
        for source in (source for file in group for source in file.sources if "export_id" in source):
            place = (folder_of(source["file"]), str(source.get("entity")), str(source.get("project")))
            ids.setdefault(place, (set(), set()))[which].add(str(source["export_id"]))
    for (folder, entity, project), (of_runs, of_histories) in ids.items():
        if of_runs and of_histories and of_runs.isdisjoint(of_histories):  # one was killed while it published
            mixed = f"runs and history of {entity}/{project} in {folder} come from different exports"
            report["notes"].append({"note": f"{mixed}: export again, and merge that export"})


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed ones are None
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # UTF-8 for programs
    try:
        return aggregate(parse_args(argv))
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - each becomes a message
        if "--debug" in (sys.argv if argv is None else argv):
            traceback.print_exc()
        code, message = NOTHING_USABLE, f"a bug in this script: {error!r}; run it again with --debug and report it"
        if isinstance(error, ScriptError):
            code, message = error.exit_code, str(error)
        elif isinstance(error, OSError):
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; fix this and run again"
        tell(f"error: {message}")
        return code


if __name__ == "__main__":
    os._exit(main())  # all is written; Python's own end, with polars' threads, takes 30 ms more
