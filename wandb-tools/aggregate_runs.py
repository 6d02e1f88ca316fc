#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["polars>=2.1,<3"]
# ///
"""Merge the runs of many exports into one parquet file, in one schema, with columns derived from the names.

  uv run wandb-tools/aggregate_runs.py                            wandb_export/ into analysis/unified.parquet
  uv run wandb-tools/aggregate_runs.py exports/ old_runs.parquet -o all.parquet
  uv run wandb-tools/aggregate_runs.py 'exports/2026-*' --state finished --filter 'gnn|mlp' --project 'graph*'
  uv run wandb-tools/aggregate_runs.py --quiet --json | jq '.conflicts[]'
  uv run wandb-tools/aggregate_runs.py exports/ --where 'config_lr < 0.01 AND k = 16' --history --at val/loss
  uv run wandb-tools/aggregate_runs.py --rules rules.toml --explain gnn_all_k16_s3

INPUTS are runs files as export_runs.py writes them, earlier results of this script, directories (searched to
any depth) and globs. What a file holds is told by its columns: in directories, histories and foreign parquet
files are passed over. A file that is named but holds no runs, or a damaged file anywhere, is left out and
named (exit code 3).

ROWS. Each run gives one row, from its newest export; where it was exported both from the server and from its
offline logs, the one with more history decides. Filters look at that row, and each says how many it keeps.
--where takes an SQL predicate over the result's columns; --keep all keeps every export of a run.
Rows are sorted by entity, project, created_at and id; source_file tells which file a row comes from.

COLUMNS meet by their W&B path, not by their name. A column that is missing in a file is null there. Where
files disagree on a type, the narrowest type that holds every value wins: integers with floats become floats;
text whose every value is a number, such as 1e-3, becomes numbers; any other mixture becomes text. Nothing is
dropped, and each such column is reported.

DERIVED COLUMNS are read off the run's name, or off the config where that says more. No match, no value:
  stage        stage2c                       model_type   spectral, digress, gnn, attention, hybrid
  arch         a known name as a whole word  protocol     single_graph, distribution
  k, seed_parsed                 _k16, _s3   lr_parsed, wd_parsed, eps_parsed   _lr1e-3, _wd1e-4, _eps0.1
Another tool's column of such a name is kept as stage__own, k__own and so on.

--rules FILE adds rules of your own, tried before these (replace = true at the top: instead of these):
  [[rule]]  column, pattern (its first group is the value, or value where given), source (default name),
            dtype (string, int, float, bool)
--explain NAME prints what the rules make of a name, and by which of them; --no-enrich derives no columns.

HISTORIES. --history reads the full history files beside the exports and adds, for each metric X, history_min_X,
history_min_step_X, history_max_X, history_max_step_X, history_last_X, history_tail_X (mean of the last tenth of
its finite values, at least one), history_n_X, history_n_nonfinite_X; with --at M also history_at_X, X at the step
where M was best (M:min or M:max where neither a stored goal nor the name tells which). --history-metrics takes
globs. A run whose history is gone keeps what an earlier result says of it.

PLACES may be s3://, gs:// or az:// URLs, with the usual environment variables for credentials. --partition-by
project writes a folder of hive partitions, whose files keep that column too.

The path of the written file goes to stdout, all else to stderr. With --json, stdout carries one object
instead: files, summary, filters, derived, histories, conflicts and skipped, each but the first an array of flat rows.

Exit codes: 0 all done; 1 nothing usable, or no run left; 2 wrong usage; 3 some inputs were left out; 130
interrupted.
"""

from __future__ import annotations

import argparse
import bisect
import difflib
import fnmatch
import glob
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    import polars as pl

# --- constants ------------------------------------------------------------------------------------------------
OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
RESULT_KEY = "wandb_tools.result"  # marks an answer of analyze_runs: its rows may look like runs, but are no input
SCHEMA_VERSION = "1"

DEFAULT_INPUT = "wandb_export/"
DEFAULT_OUTPUT = "analysis/unified.parquet"
STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

CONFIG, METRIC = "config_", "metric_"  # the prefixes of columns that stand for W&B paths
HISTORY = "history_"  # and of those computed from histories
RUN_KEY = ("entity", "project", "id")  # what makes a row a run of its own
FILE_NUMBER, ROW_NUMBER, POSITION = "__file", "__row", "__position"  # of our own making, never written
OFFLINE, FILE, FOLDER, RUN, BEST, FINITE_VALUES = "__offline", "__path", "__folder", "__run", "__best", "__finite"
HAS_HISTORY, NEW = "__has_history", "__new"
OWN_NAMES = (FILE_NUMBER, ROW_NUMBER, POSITION, OFFLINE, FILE, FOLDER, RUN, BEST, HAS_HISTORY)
ROW_ORDER = ("entity", "project", "created_at", "id", "source_file", FILE_NUMBER, ROW_NUMBER)
# All that decides which rows are written, and in which order; small, so that it fits in memory for any input.
DECIDING = (*RUN_KEY, "name", "state", "created_at", "history_rows", "exported_at", "source_file")
RULE_KEYS, DTYPES = ("column", "pattern", "value", "source", "dtype"), ("string", "int", "float", "bool")
HISTORY_ENDING, SAMPLED_ENDING = "_history.parquet", "_history_sampled.parquet"
GOAL_WORDS = {"min": "minimize", "max": "maximize"}
# Words of a metric's name that tell which way is better, for --at where neither export nor user says it.
LOWER_WORDS = """
    loss mse rmse mae mape nll perplexity ppl error err wer cer fid kl bpb bpc brier ece regret
"""
HIGHER_WORDS = """
    acc accuracy f1 auc auroc precision recall map iou dice r2 score reward return psnr snr ssim
"""
FALSE = ("false", "0", "no", "off")

CLOUD = ("s3://", "gs://", "az://")  # object storage that polars reads and writes by itself
PAGE_BYTES = 32 * 1024  # a reader that wants single runs then skips most of a column
ROW_GROUP_ROWS = 100_000  # large enough to scan fast, small enough to skip most of a big file
CELLS = 10_000_000  # values held at once where rows have to be put in order: 80 MB of numbers
FIRST_ROWS = 100  # most columns of text show here already that they hold no numbers
SHOWN = 5  # examples in a line for people; --json holds all


# --- nouns ----------------------------------------------------------------------------------------------------
KeyPath: TypeAlias = tuple[str, ...]
Identity: TypeAlias = tuple[str, KeyPath]  # of a column over all files: its prefix ("" for other columns) and its path
Say: TypeAlias = Callable[[str], None]


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class RunsFile:
    """A parquet file of runs, as its footer describes it: no row is read for it."""

    file: str  # a path, or a URL of object storage
    dtypes: Mapping[str, pl.DataType]
    paths: Mapping[str, KeyPath]  # by column; empty where the file carries no metadata
    metrics: Mapping[str, Mapping[str, object]]  # by column: goal, summary, step_metric
    sources: Sequence[Mapping[str, object]]  # the exports that its rows come from; more than one in an aggregate
    aggregate: bool  # an earlier result, whose derived columns are made anew


class Skipped(NamedTuple):
    """An input that gives no runs. It is a failure unless it was merely found in a directory and is sound."""

    file: str
    kind: str  # history, system, result, foreign, damaged, unreadable or missing
    reason: str
    failure: bool


class Column(NamedTuple):
    """A column of the result; `parts` are its column and dtype in each file (by number) that has it."""

    name: str
    path: KeyPath
    dtype: pl.DataType
    parts: Mapping[int, tuple[str, pl.DataType]]


class Conflict(NamedTuple):
    """Something that files say differently about one column, and what became of it."""

    column: str
    kind: str  # dtype, name or goal
    found: str
    became: str
    files: tuple[str, ...]


class Rule(NamedTuple):
    """Where a derived column's value comes from: the pattern's first group, or `value` where one is given."""

    column: str
    pattern: str
    source: str = "name"
    value: str | None = None
    dtype: str = "string"
    origin: str = "built in"


class Selection(NamedTuple):
    """Which runs are wanted: within a field any of the values, across fields all."""

    states: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    where: str | None = None


class HistoryWish(NamedTuple):
    """What is asked of the histories: the metrics, as globs, and at whose best step to look at all others."""

    metrics: tuple[str, ...] = ()  # none for all
    at: str | None = None


class Options(NamedTuple):
    """The command line, understood."""

    inputs: tuple[str, ...]
    output: str
    selection: Selection
    keep_all: bool
    enrich: bool
    rules: str | None
    explain: str | None
    history: HistoryWish | None
    partition_by: tuple[str, ...]
    json: bool
    quiet: bool


class Outcome(NamedTuple):
    """What was merged: everything that the report needs, and nothing that grows with the number of runs."""

    outputs: Sequence[str]
    files: int
    rows_read: int
    runs_found: int
    runs: int
    columns: int
    filters: Sequence[Filtered]
    derived: Sequence[Fit]
    histories: HistoryReport | None
    conflicts: Sequence[Conflict]
    remarks: Sequence[str]


# --- inputs ---------------------------------------------------------------------------------------------------
def recognised(options: Options) -> tuple[list[RunsFile], list[Skipped]]:
    """The inputs that hold runs, in order of their paths, and those that do not."""
    files: list[RunsFile] = []
    skipped: list[Skipped] = []
    for found in find_inputs(options.inputs, output=options.output):
        header = found if isinstance(found, Skipped) else read_header(found.file, named=found.named)
        if isinstance(header, RunsFile):
            files.append(header)
        else:
            skipped.append(header)
    if skipped and not files and all(skip.kind == "missing" for skip in skipped):
        places = some([skip.file for skip in skipped])
        raise ScriptError(f"no runs in {places}: {skipped[0].reason}; export_runs.py writes runs files", NOTHING_USABLE)
    return files, skipped


class Candidate(NamedTuple):
    """A file to look into, and whether the user named this very file."""

    file: str
    named: bool


def find_inputs(inputs: Iterable[str], *, output: str) -> list[Candidate | Skipped]:
    """Every file that the inputs stand for, once each; an earlier output that is merely found is no input."""
    found: dict[str, Candidate] = {}
    lost: list[Candidate | Skipped] = []
    earlier = resolved(output)
    for place in inputs:
        candidates = files_of(place)
        if candidates is None:
            lost.append(Skipped(place, "missing", "there is no such file or directory", failure=True))
        for candidate in candidates or ():
            if isinstance(candidate, Skipped):
                lost.append(candidate)
                continue
            key = resolved(candidate.file)
            ours = key == earlier or key.startswith(f"{earlier}/")
            if candidate.named or (key not in found and not ours):
                found[key] = candidate
    return [*dict.fromkeys(lost), *sorted(found.values(), key=lambda candidate: path_order(candidate.file))]


def path_order(file: str) -> tuple[str, ...]:
    """Files in the order of their folders' names, part by part."""
    return Path(file).parts


def is_url(place: str) -> bool:
    """Whether `place` is in object storage, which polars reads and writes by itself.

    >>> is_url("s3://bucket/runs/"), is_url("runs/")
    (True, False)
    """
    return place.startswith(CLOUD)


def resolved(place: str) -> str:
    """One spelling for one place."""
    return place.rstrip("/") if is_url(place) else str(Path(place).resolve())


def files_of(place: str) -> list[Candidate | Skipped] | None:
    """The files that a file name, a directory, a glob or a URL stands for; None where there is nothing."""
    if is_url(place):
        return files_at_url(place)
    if exists(place):  # before globs: a file's name may hold brackets
        return files_at(Path(place), named=True)
    matches = glob.glob(place, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [file for match in matches for file in files_at(Path(match), named=False)] if matches else None


def files_at_url(url: str) -> list[Candidate | Skipped] | None:
    """The file at `url`, or the files with rows that polars finds by it: a folder is searched to any depth."""
    if url.endswith(".parquet") and "*" not in url:
        return [Candidate(url, named=True)]
    pattern = url if "*" in url else f"{url.rstrip('/')}/**/*.parquet"
    try:
        files = listed_at_url(pattern)
    except reading_errors() as error:
        reason = f"its files cannot be listed, name them instead: {first_line(error)}"
        return [Skipped(url, "unreadable", reason, failure=True)]
    visible = [file for file in files if not any(part.startswith(".") for part in file.split("/"))]
    return [Candidate(file, named=False) for file in visible] or None


def listed_at_url(pattern: str) -> list[str]:
    """The files with content that a pattern in object storage matches, by polars' own listing; none is read.

    Where polars tells this in public, it has read a row of each first, and one damaged file hides all others.
    """
    scanned = pl.scan_parquet(pattern, schema={"id": pl.String}, hive_partitioning=False)
    node = scanned._ldf.visit().view_current_node()  # noqa: SLF001
    return list(getattr(node, "paths", ()))  # nothing matched: it is no scan


def exists(place: str) -> bool:
    """Whether there is such a file or directory."""
    return os.path.exists(place)  # noqa: PTH110 - Path.exists raises for what cannot be a name


def files_at(path: Path, *, named: bool) -> list[Candidate | Skipped]:
    """The file at `path`, or the parquet files below it."""
    return parquet_files_below(path) if path.is_dir() else [Candidate(str(path), named=named)]


def parquet_files_below(directory: Path) -> list[Candidate | Skipped]:
    """Every parquet file at any depth but the hidden ones, among which are the unfinished; folders that are closed."""
    found: list[Candidate | Skipped] = []

    def closed(error: OSError) -> None:
        reason = f"it cannot be read: {error.strerror or error}"
        found.append(Skipped(str(error.filename), "unreadable", reason, failure=True))

    for folder, subfolders, names in os.walk(directory, onerror=closed):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = [Path(folder, name) for name in names if name.endswith(".parquet") and not name.startswith(".")]
        found += [Candidate(str(file), named=False) for file in files if file.is_file()]
    return found


def read_header(file: str, *, named: bool) -> RunsFile | Skipped:
    """What the footer says of `file`, or why it gives no runs."""
    try:
        dtypes = dict(scan(file).collect_schema())
        metadata = pl.read_parquet_metadata(file)
        kind = "result" if RESULT_KEY in metadata else kind_of(dtypes)
        if kind != "runs":
            return Skipped(file, kind, f"it holds no runs but is {kind}", failure=named)
        refuse_foreign_dtypes(dtypes)
        refuse_foreign_values(file, dtypes)
        return described(file, dtypes, metadata)
    except ValueError as error:
        return Skipped(file, "foreign", f"it cannot be used: {error}", failure=True)
    except FileNotFoundError:
        return Skipped(file, "missing", "there is no such file or directory", failure=True)
    except reading_errors() as error:
        return damaged(file, error)


def kind_of(columns: Iterable[str]) -> str:
    """What a parquet file holds, told by its columns, never by its name.

    >>> kind_of(["id", "name", "state", "config_lr"]), kind_of(["run_id", "_step"]), kind_of(["x"])
    ('runs', 'history', 'foreign')
    """
    names = set(columns)
    if {"id", "name", "state"} <= names:
        return "runs"
    if "run_id" in names:
        return "history" if "_step" in names else "system"
    return "foreign"


def refuse_foreign_dtypes(dtypes: Mapping[str, pl.DataType]) -> None:
    """Raise ValueError for the first column that the contract's dtypes cannot hold, or of a name of our own making."""
    contract = contract_dtypes()
    for column, dtype in dtypes.items():
        wanted = contract.get(column)
        if column in OWN_NAMES:
            raise ValueError(f"its column {column} has a name that this script uses itself")
        if wanted is not None and not convertible(dtype, wanted):
            raise ValueError(f"its column {column} is {spelt(dtype)} instead of {spelt(wanted)}")
        if wanted is None and (dtype.is_nested() or dtype in (pl.Binary, pl.Object, pl.Duration)):
            raise ValueError(f"its column {column} is {dtype}, neither number nor text")


def refuse_foreign_values(file: str, dtypes: Mapping[str, pl.DataType]) -> None:
    """Raise ValueError for the first column of which some value is no such thing: text that is no time, half a step."""
    doubtful = {
        column: (pl.col(column), brought(column, dtypes[column], wanted))
        for column, wanted in contract_dtypes().items()
        if column in dtypes and may_fail(dtypes[column], wanted)
    }
    if doubtful:
        lost = [
            own.filter(own.is_not_null() & new.is_null() & (own.cast(pl.String).str.strip_chars() != "")).first()
            for own, new in doubtful.values()
        ]
        for column, example in scan(file).select(lost).collect().row(0, named=True).items():
            if example is not None and example == example:  # noqa: PLR0124 - NaN is how pandas says null
                raise ValueError(
                    f"its column {column} holds {example!r}, which is no {spelt(contract_dtypes()[column])}"
                )


def described(file: str, dtypes: Mapping[str, pl.DataType], metadata: Mapping[str, str]) -> RunsFile:
    """The runs file with what its metadata tells; ValueError where that is not what the contract says."""
    paths = stored_paths(dtypes, metadata)
    metrics = {c: says for c, says in json_object(metadata, METRICS_KEY).items() if isinstance(says, dict)}
    source = json_object(metadata, SOURCE_KEY)
    several = source.get("sources")
    aggregate = isinstance(several, list)
    sources = [s for s in several if isinstance(s, dict)] if isinstance(several, list) else [source]
    return RunsFile(file, dtypes, paths, metrics, [{"file": file, **s} for s in sources], aggregate)


def stored_paths(columns: Iterable[str], metadata: Mapping[str, str]) -> dict[str, KeyPath]:
    """The W&B path of every column that has one; ValueError where two columns share one."""
    paths = {column: key_path(path) for column, path in json_object(metadata, COLUMNS_KEY).items()}
    known = set(columns)
    paths = {column: path for column, path in paths.items() if column in known and prefix_of(column)}
    if len({(prefix_of(column), path) for column, path in paths.items()}) < len(paths):
        raise ValueError(f"its {COLUMNS_KEY} gives one path to two columns")
    return paths


def json_object(metadata: Mapping[str, str], key: str) -> dict[str, object]:
    """The JSON object under `key`, empty where the file has none."""
    with suppress(json.JSONDecodeError):
        document = json.loads(metadata.get(key, "{}"))
        if isinstance(document, dict):
            return document
    raise ValueError(f"its {key} is no JSON object")


def key_path(path: object) -> KeyPath:
    """`path` as read from JSON, if it is a list of keys."""
    if not isinstance(path, list) or not path or not all(isinstance(key, str) for key in path):
        raise ValueError(f"its {COLUMNS_KEY} holds {json_text(path)}, which is no list of keys")
    return tuple(path)


def damaged(file: str, error: BaseException) -> Skipped:
    """`file`, left out because of `error`, whose first line says why."""
    return Skipped(file, "damaged", f"it cannot be read: {first_line(error)}", failure=True)


def first_line(error: BaseException) -> str:
    """What happened, short."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def sound_and_damaged(files: Iterable[RunsFile]) -> tuple[list[RunsFile], list[Skipped]]:
    """The files, parted by whether every row can be read: a full read, to find out which one is to blame."""
    sound, broken = [], []
    for runs_file in files:
        try:
            for _ in scan(runs_file.file).collect_batches():
                pass
            sound.append(runs_file)
        except reading_errors() as error:
            broken.append(damaged(runs_file.file, error))
    return sound, broken


# --- one schema: which columns are the same -------------------------------------------------------------------
def one_schema(
    files: Sequence[RunsFile], derived: Iterable[str] = (), others: Iterable[Identity] = ()
) -> tuple[list[Column], list[Conflict]]:
    """The columns of all files as columns of one, in the result's order, and what the files disagreed on.

    The names in `derived` are taken; `others` have a say in the names too: the metrics of the histories.
    """
    parts = parts_by_identity(files, set(derived))
    names = names_of({**parts, **dict.fromkeys(others)})
    texts = dtypes_of_texts(files, parts)
    contract = contract_dtypes()
    columns, conflicts = [], []
    for identity, members in parts.items():
        name = names[identity]
        meanings = {texts.get((n, own)) or plain(dtype, prefix_of(name)) for n, (own, dtype) in members.items()}
        column = Column(name, identity[1], contract.get(name) or meeting(meanings, name), members)
        columns.append(column)
        conflicts += conflicts_of(column, files)
    return in_order(columns), sorted(conflicts)


def parts_by_identity(
    files: Sequence[RunsFile], derived: set[str]
) -> dict[Identity, dict[int, tuple[str, pl.DataType]]]:
    """For every column over all files: its own name and dtype in each file that has it."""
    known = names_of((prefix_of(c), path) for file in files for c, path in file.paths.items())
    guesses = {name: identity for identity, name in known.items()}
    parts: dict[Identity, dict[int, tuple[str, pl.DataType]]] = {("", (c,)): {} for c in contract_dtypes()}
    for number, file in enumerate(files):
        taken = {(prefix_of(column), path) for column, path in file.paths.items()}
        for column, dtype in file.dtypes.items():
            stored = file.paths.get(column)
            identity = (prefix_of(column), stored) if stored else guessed_identity(column, guesses, taken)
            if column in derived and not file.aggregate:  # another tool's `stage` is not ours, and not to be lost
                identity = ("", (f"{column}__own",))
            parts.setdefault(identity, {})[number] = (column, dtype)
    return parts


def guessed_identity(column: str, guesses: Mapping[str, Identity], taken: set[Identity]) -> Identity:
    """What `column` stands for where its file does not tell: what columns of this name are in other files."""
    prefix = prefix_of(column)
    guess = guesses.get(column) or (prefix, (column.removeprefix(prefix),))
    return guess if guess not in taken else (prefix, (column,))


def prefix_of(column: str) -> str:
    """The prefix of a column that stands for a W&B path; empty for any other column."""
    return CONFIG if column.startswith(CONFIG) else METRIC if column.startswith(METRIC) else ""


def names_of(identities: Iterable[Identity]) -> dict[Identity, str]:
    """A name of its own for every column: config and metrics settled over all paths, others as they are."""
    paths: dict[str, list[KeyPath]] = {}
    for prefix, path in identities:
        paths.setdefault(prefix, []).append(path)
    plain_names = {("", path): path[0] for path in paths.pop("", [])}
    return plain_names | {
        (prefix, path): prefix + name for prefix in paths for path, name in settled_names(paths[prefix]).items()
    }


def in_order(columns: Iterable[Column]) -> list[Column]:
    """The contract's columns, others that the files brought along, config, metrics, histories', the JSON texts."""
    contract = {column: number for number, column in enumerate(contract_dtypes())}

    def place(column: Column) -> tuple[int, int, str]:
        if column.name in contract:
            return (5 if column.name.endswith("_json") else 0), contract[column.name], ""
        if column.name.startswith(HISTORY):
            return 4, 0, column.name
        return ("", CONFIG, METRIC).index(prefix_of(column.name)) + 1, 0, column.name

    return sorted(columns, key=place)


def with_new(columns: Sequence[str], derived: Sequence[str], histories: Sequence[str]) -> list[str]:
    """The columns in order: after the contract's the derived ones, last the histories'; none twice."""
    others = [column for column in columns if column not in {*derived, *histories}]
    after, last = others.index("source_file") + 1, others.index("_config_json")
    return [*others[:after], *derived, *others[after:last], *histories, *others[last:]]


def conflicts_of(column: Column, files: Sequence[RunsFile]) -> list[Conflict]:
    """Names that `column` gave up, as another path has a claim to them, and its dtypes if they differ."""
    names: dict[str, list[str]] = {}
    dtypes: dict[pl.DataType, list[str]] = {}
    for number, (own, dtype) in column.parts.items():
        names.setdefault(own, []).append(files[number].file)
        found = dtype if dtype.is_nested() or dtype.is_temporal() else plain(dtype, prefix_of(column.name))
        dtypes.setdefault(found, []).append(files[number].file)
    names.pop(column.name, None)
    dtypes.pop(pl.Null(), None)
    foreign = column.name in contract_dtypes() and column.dtype not in dtypes
    several = dtypes if len(dtypes) > 1 or foreign else {}
    return [
        *(Conflict(column.name, "name", own, column.name, tuple(where)) for own, where in names.items()),
        *(Conflict(column.name, "dtype", spelt(d), spelt(column.dtype), tuple(where)) for d, where in several.items()),
    ]


# --- one schema: names (the same in export_runs) --------------------------------------------------------------
def column_name(path: KeyPath) -> str:
    """The flattened name of a W&B key path, before clashes are settled.

    >>> column_name(("model", "k")), column_name(("test/mse",))
    ('model_k', 'test_mse')
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", "_".join(path))


def settled_names(paths: Iterable[KeyPath]) -> dict[KeyPath, str]:
    """A name of its own for every path, alike for the same paths in any order.

    Names are compared without case, as DuckDB and Spark do. Where several paths want one name, the first one-key path
    that is exactly that name keeps it; the others get a hash of their path.

    >>> settled_names([("a", "b"), ("a_b",)])
    {('a', 'b'): 'a_b__d12e2238', ('a_b',): 'a_b'}
    """
    rivals: dict[str, list[KeyPath]] = {}
    for path in sorted(set(paths)):
        rivals.setdefault(column_name(path).lower(), []).append(path)
    names: dict[KeyPath, str] = {}
    for group in rivals.values():
        keeper = group[0] if len(group) == 1 else next((p for p in group if p == (column_name(p),)), None)
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
def contract_dtypes() -> Mapping[str, pl.DataType]:
    """The columns that every result has, in their order, with their dtypes."""
    text, time, whole = pl.String(), pl.Datetime("us", "UTC"), pl.Int64()
    identity = dict.fromkeys(("id", "name", "state", "entity", "project"), text)
    times = dict.fromkeys(("created_at", "heartbeat_at"), time)
    extent = {"runtime_s": pl.Float64(), "last_step": whole, "history_rows": whole, "tags": pl.List(pl.String)}
    labels = dict.fromkeys(("group", "job_type", "sweep", "user", "notes", "commit", "url"), text)
    origin = {"exported_at": time, "source_file": text}
    return identity | times | extent | labels | origin | dict.fromkeys(("_config_json", "_summary_json"), text)


def spelt(dtype: pl.DataType) -> str:
    """A dtype as the contract spells it: `Datetime[us, UTC]`."""
    if not isinstance(dtype, pl.Datetime):
        return str(dtype)
    return f"Datetime[{dtype.time_unit}, {dtype.time_zone}]" if dtype.time_zone else f"Datetime[{dtype.time_unit}]"


def convertible(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a contract column of `dtype`, as others may write it, can be brought to the `wanted` one."""
    if dtype in (wanted, pl.Null, pl.String):  # whether the text says such a thing, its values tell
        return True
    if wanted in (pl.Float64, pl.Int64):
        return dtype.is_numeric()
    if wanted == pl.String:
        return dtype.is_numeric() or isinstance(dtype, pl.Categorical | pl.Enum)
    if isinstance(wanted, pl.List):
        return isinstance(dtype, pl.List) and not dtype.inner.is_nested()
    return isinstance(dtype, pl.Datetime | pl.Date)


def may_fail(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether some values of `dtype` could be none of the `wanted` type."""
    if wanted == pl.Int64 and dtype.is_numeric():
        return not dtype.is_signed_integer()
    return dtype == pl.String and wanted not in (pl.String, pl.List(pl.String))


@cache
def plain(dtype: pl.DataType, prefix: str) -> pl.DataType:
    """The contract's type that holds every value of `dtype`; Booleans count as 0 and 1 among metrics."""
    if dtype.is_temporal() and not prefix:  # a column that another tool has added
        return dtype
    if dtype in (pl.UInt64, pl.Int128, pl.UInt128):  # may pass 64 bits
        return pl.Float64()
    if dtype.is_integer() or (dtype == pl.Boolean and prefix == METRIC):
        return pl.Int64()
    if dtype.is_numeric():
        return pl.Float64()
    return dtype if dtype in (pl.Boolean, pl.Null) else pl.String()


def meeting(dtypes: Iterable[pl.DataType], column: str) -> pl.DataType:
    """The narrowest type that holds every value of columns of these (plain) types."""
    present = {dtype for dtype in dtypes if dtype != pl.Null}
    if not present:  # a type that every reader knows, unlike Null
        return pl.Float64() if prefix_of(column) == METRIC else pl.String()
    if len(present) == 1:
        return present.pop()
    return pl.Float64() if present == {pl.Int64(), pl.Float64()} else pl.String()


def dtypes_of_texts(
    files: Sequence[RunsFile], parts: Mapping[Identity, Mapping[int, tuple[str, pl.DataType]]]
) -> dict[tuple[int, str], pl.DataType]:
    """What the text in a file means, by file number and column, wherever other files have no text there."""
    doubtful: dict[int, list[str]] = {}
    for prefix, path in parts:
        members = parts[prefix, path]
        types = {number: plain(dtype, prefix) for number, (_, dtype) in members.items()}
        if set(types.values()) - {pl.Null(), pl.String()}:
            for number, dtype in types.items():
                if dtype == pl.String:
                    doubtful.setdefault(number, []).append(members[number][0])
    told = meanings_of_texts(files, doubtful, rows=FIRST_ROWS)
    open_yet = {n: [c for c in columns if told[n, c] != pl.String] for n, columns in doubtful.items()}
    return told | meanings_of_texts(files, open_yet)


def meanings_of_texts(
    files: Sequence[RunsFile], columns: Mapping[int, Sequence[str]], rows: int | None = None
) -> dict[tuple[int, str], pl.DataType]:
    """What the given text columns of files, by number, mean as far as the first rows tell, or all."""
    texts = [
        scan(files[number].file)
        .select(pl.col(own).cast(pl.String))
        .slice(0, rows)
        .unpivot()
        .with_columns(pl.lit(number).alias(FILE_NUMBER))
        for number, own in columns.items()
        if own
    ]
    if not texts:
        return {}
    values = pl.concat(texts).drop_nulls("value").group_by(FILE_NUMBER, "variable")
    told = values.agg(is_integer(pl.col("value")).all(), is_number(pl.col("value")).all().alias("number"))
    meanings = {
        (number, column): pl.Int64() if integer else pl.Float64() if decimal else pl.String()
        for number, column, integer, decimal in told.collect(engine="streaming").iter_rows()
    }
    return {(number, c): meanings.get((number, c), pl.Null()) for number, own in columns.items() for c in own}


def is_integer(text: pl.Expr) -> pl.Expr:
    """Whether a text is a 64-bit integer as JSON spells it: `007` is a name."""
    return text.str.contains(r"^(0|-?[1-9][0-9]*)$") & text.cast(pl.Int64, strict=False).is_not_null()


def is_number(text: pl.Expr) -> pl.Expr:
    """Whether a text is a number as JSON spells it and a float can hold, or the word for one that JSON lacks."""
    decimal = text.str.contains(r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$")
    in_range = text.cast(pl.Float64, strict=False).is_finite().fill_null(False)
    return (decimal & in_range) | text.is_in(["NaN", "Infinity", "-Infinity"])


def brought(column: str, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """The values of `column` in the `wanted` type; no value is lost, as `wanted` was chosen to hold them.

    Only of a contract column that another tool wrote a value may become null: where it is none of the `wanted` type.
    """
    values = pl.col(column)
    if dtype == wanted:
        return values
    if wanted == pl.String and dtype.is_float():
        return spelt_as_json(values.cast(pl.Float64))
    if column not in contract_dtypes():
        return values.cast(wanted)
    if isinstance(wanted, pl.Datetime):
        return (parsed_time(values) if dtype == pl.String else values).cast(wanted)
    if isinstance(wanted, pl.List):
        return tags_of(values) if dtype == pl.String else values.cast(wanted)
    if wanted == pl.Int64:  # pandas has whole numbers as floats as soon as one is missing: `7.0`
        number = values.cast(pl.Float64, strict=False)
        rounded = number.cast(wanted, strict=False)
        exact = pl.when(number == rounded).then(rounded)
        return pl.coalesce(values.cast(wanted, strict=False), exact) if dtype == pl.String else exact
    return values.cast(wanted, strict=False)


def parsed_time(text: pl.Expr) -> pl.Expr:
    """Times as ISO text has them, a day alone or with a blank for the T included; in UTC where no zone is given."""
    day = r"^\s*(\d{4}-\d{2}-\d{2})"
    clock = r"(\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?"
    zone = r"(?:Z|UTC|([+-]\d{2})(?::?(\d{2}))?)?"
    parts = text.str.extract_groups(f"{day}(?:[T ]{clock}\\s*{zone})?\\s*$").struct
    rest = {2: "00:00", 3: ":00", 4: "+00", 5: "00"}  # what may be missing, group by group
    iso = pl.concat_str(parts[0], pl.lit("T"), *(parts[n - 1].fill_null(default) for n, default in rest.items()))
    return iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)


def tags_of(text: pl.Expr) -> pl.Expr:
    """Tags as Python or JSON print a list of texts: `['a', 'b']`; else they are parted by commas."""
    quoted = r"'(?:[^'\\]|\\.)*'" + "|" + r'"(?:[^"\\]|\\.)*"'
    element = pl.element()
    listed = text.str.extract_all(quoted).list.eval(
        element.str.slice(1, element.str.len_chars() - 2).str.replace_all(r"\\(.)", "${1}")
    )
    parted = text.str.split(",").list.eval(element.str.strip_chars()).list.eval(element.filter(element != ""))
    empty = pl.lit([], dtype=pl.List(pl.String))
    is_list = text.str.contains(r"^\s*[\[(].*[\])]\s*$")
    return (
        pl.when(is_list).then(listed).when(text.str.strip_chars().is_in(["None", "nan"])).then(empty).otherwise(parted)
    )


def spelt_as_json(number: pl.Expr) -> pl.Expr:
    """Floats as Python's json, and so export_runs, spells them: `1e-05`, where polars has `0.00001`."""
    return (
        number.cast(pl.String)
        .str.replace("inf", "Infinity", literal=True)
        .str.replace(r"^(-?)0\.0000([1-9])$", "${1}${2}e-05")
        .str.replace(r"^(-?)0\.0000([1-9])([0-9]+)$", "${1}${2}.${3}e-05")
        .str.replace(r"e-([0-9])$", "e-0${1}")
    )


# --- one schema: what the metadata says of it -----------------------------------------------------------------
def merged_metadata(files: Sequence[RunsFile], columns: Iterable[Column]) -> tuple[dict[str, str], list[Conflict]]:
    """The result's key-value metadata, and the metrics whose goals the files see differently."""
    paths: dict[str, KeyPath] = {}
    metrics: dict[str, dict[str, object]] = {}
    conflicts: list[Conflict] = []
    for column in columns:
        if prefix_of(column.name):
            paths[column.name] = column.path
        agreed, disputed = statements(column, files)
        if agreed:
            metrics[column.name] = agreed
        conflicts += disputed
    sources = {json_text(source): source for file in files for source in file.sources}
    documents = {COLUMNS_KEY: paths, METRICS_KEY: metrics, SOURCE_KEY: {"sources": list(sources.values())}}
    return {SCHEMA_KEY: SCHEMA_VERSION} | {key: json_text(text) for key, text in documents.items()}, conflicts


def statements(column: Column, files: Sequence[RunsFile]) -> tuple[dict[str, object], list[Conflict]]:
    """What all files that say something of a metric agree on; a disputed goal is no goal."""
    claims: dict[str, dict[str, list[str]]] = {}
    for number, (own, _) in column.parts.items():
        for key, value in files[number].metrics.get(own, {}).items():
            if value is not None:
                claims.setdefault(key, {}).setdefault(json_text(value), []).append(files[number].file)
    agreed = {key: json.loads(next(iter(values))) for key, values in claims.items() if len(values) == 1}
    disputed = [
        Conflict(column.name, key, str(json.loads(value)), "not stored", tuple(sayers))
        for key, values in claims.items()
        if len(values) > 1
        for value, sayers in values.items()
    ]
    return agreed, disputed


# --- rows by key ----------------------------------------------------------------------------------------------
def deciding_rows(files: Sequence[RunsFile], columns: Sequence[Column], also: Iterable[str]) -> pl.DataFrame:
    """What decides whether and where each row is written, and the columns in `also`; with its file and row number."""
    wanted = {*DECIDING, *also}
    needed = [column for column in columns if column.name in wanted]
    frames = [
        unified(number, file, needed, scan(file.file).with_row_index(ROW_NUMBER), ROW_NUMBER).with_columns(
            pl.lit(number, dtype=pl.UInt32).alias(FILE_NUMBER)
        )
        for number, file in enumerate(files)
    ]
    offline = pl.col("source_file").is_in(offline_files(files))
    return pl.concat(frames).with_columns(offline.alias(OFFLINE)).collect()


def offline_files(files: Iterable[RunsFile]) -> list[str]:
    """The files whose runs were read from logs on disk; those that went into an aggregate included."""
    return sorted({str(s["file"]) for file in files for s in file.sources if s.get("kind") == "offline"})


def latest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the newest export; between an offline and a server row the one with more history.

    Ties go to the newest, then to the first file, so that the order of the inputs never matters.
    """
    newest_first = rows.sort("exported_at", FILE_NUMBER, ROW_NUMBER, descending=[True, False, False], nulls_last=True)
    newest = newest_first.unique([*RUN_KEY, OFFLINE], keep="first", maintain_order=True)
    fullest_first = newest.sort("history_rows", descending=True, nulls_last=True, maintain_order=True)
    return fullest_first.unique(RUN_KEY, keep="first", maintain_order=True)


# --- filters --------------------------------------------------------------------------------------------------
class RunFilter(NamedTuple):
    """A filter as the user writes it, what it keeps, and the column whose values to show where it keeps nothing."""

    flag: str
    keeps: pl.Expr
    column: str | None = None


class Filtered(NamedTuple):
    """What one filter did."""

    filter: str
    before: int
    kept: int


def selected(runs: pl.DataFrame, filters: Iterable[RunFilter]) -> tuple[pl.DataFrame, list[Filtered]]:
    """The runs that pass every filter, and what each filter did; ScriptError where one leaves none."""
    done = []
    for wanted in filters:
        kept = passing(runs, wanted)
        if kept.is_empty():
            there = some(runs[wanted.column].drop_nulls().unique().sort().to_list()) if wanted.column else ""
            values = f"; their {wanted.column}s: {there}" if wanted.column else ""
            message = f"no run left: {wanted.flag} kept none of {counted(len(runs), 'run')}{values}"
            raise ScriptError(message, NOTHING_USABLE)
        done.append(Filtered(wanted.flag, len(runs), len(kept)))
        runs = kept
    return runs, done


def passing(runs: pl.DataFrame, wanted: RunFilter) -> pl.DataFrame:
    """The runs that one filter keeps; ScriptError where a value shows that it cannot be evaluated, as in a cast."""
    try:
        return runs.filter(wanted.keeps)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ScriptError(f"{wanted.flag} cannot be evaluated: {first_line(error)}", WRONG_USAGE) from error


def simple_filters(selection: Selection, projects: Iterable[str]) -> list[RunFilter]:
    """The filters on what every run has."""
    wanted = []
    if selection.projects:
        hits = [p for p in projects if any(matches(p, pattern) for pattern in selection.projects)]
        wanted.append(RunFilter(f"--project {','.join(selection.projects)}", pl.col("project").is_in(hits), "project"))
    if selection.states:
        in_state = pl.col("state").str.to_lowercase().is_in(selection.states)
        wanted.append(RunFilter(f"--state {','.join(selection.states)}", in_state, "state"))
    if selection.names:
        named = pl.any_horizontal([pl.col("name").str.contains(f"(?i){regex}") for regex in selection.names])
        wanted.append(RunFilter(" ".join(f"--filter {regex}" for regex in selection.names), named, "name"))
    return wanted


def where_filter(predicate: str, dtypes: Mapping[str, pl.DataType]) -> RunFilter:
    """The filter that an SQL predicate over the result's columns means; ScriptError where it means none."""
    flag = f"--where {predicate}"
    try:
        keeps = pl.sql_expr(predicate)
    except pl.exceptions.PolarsError as error:
        hint = 'text stands in single quotes, and a column called like an SQL word in double ones: "group"'
        raise ScriptError(f"{flag} is no SQL predicate: {first_line(error)}; {hint}", WRONG_USAGE) from error
    for column in keeps.meta.root_names():
        if column not in dtypes:
            prefixed = [prefix + column for prefix in (CONFIG, METRIC) if prefix + column in dtypes]
            near = did_you_mean(column, dtypes) or "; text stands in single quotes"
            near = f"; did you mean {' or '.join(prefixed)}?" if prefixed else near
            raise ScriptError(f"{flag}: there is no column {column}{near}", WRONG_USAGE)
    try:
        kind = pl.DataFrame(schema=dict(dtypes)).select(keeps).dtypes[0]
    except pl.exceptions.PolarsError as error:
        hint = "a time is written DATE '2026-01-31'"
        raise ScriptError(f"{flag} does not fit the columns: {first_line(error)}; {hint}", WRONG_USAGE) from error
    if kind != pl.Boolean:
        raise ScriptError(f"{flag} is no predicate: it gives {kind}, not true or false", WRONG_USAGE)
    return RunFilter(flag, keeps)


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


def check_patterns(regexes: Iterable[str]) -> None:
    """Refuse a name filter that is no regular expression."""
    for regex in regexes:
        reason = flaw_of(regex)
        if reason:
            raise ScriptError(f"--filter {regex} is no regular expression: {reason}", WRONG_USAGE)


def flaw_of(regex: str) -> str | None:
    """Why `regex` is no regular expression; None where it is one."""
    try:
        pl.select(pl.lit("").str.contains(f"(?i){regex}"))
    except pl.exceptions.ComputeError as error:
        reason = re.search(r"^error: (.*)$", str(error), re.MULTILINE)
        return reason[1] if reason else "it cannot be understood"
    return None


# --- derived columns ------------------------------------------------------------------------------------------
WORD_START, WORD_END = r"(?:^|[_\-/\s])", r"(?:[_\-/\s]|$)"
NUMBER = r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)"
ARCHITECTURES = (  # the longer names first, where one holds another
    *("gnn_all", "gnn_qk", "gnn_v", "filter_bank", "linear_pe"),
    *("self_attention_mlp", "multilayer_self_attention", "self_attention"),
    *("digress_transformer", "digress_default", "asymmetric", "spectral_linear", "spectral"),
    *("mlp", "linear", "digress"),
)
RULES = (  # of one column's rules the first that matches gives the value
    Rule("stage", r"(stage[0-9]+[a-z]?)"),
    *(Rule("arch", f"{WORD_START}({name}){WORD_END}") for name in ARCHITECTURES),
    *(
        Rule("model_type", word, source, value=word)
        for source in ("config_model__target_", "config_model_target")
        for word in ("spectral", "digress", "gnn", "attention", "hybrid")
    ),
    *(Rule("model_type", word, value=word) for word in ("spectral", "digress", "gnn")),
    Rule("protocol", "^true$", "config_data_same_graph_all_splits", value="single_graph"),
    Rule("protocol", "SingleGraph", "config_data__target_", value="single_graph"),
    Rule("protocol", "", "config_data_same_graph_all_splits", value="distribution"),  # any value but null
    Rule("protocol", "", "config_data__target_", value="distribution"),
    Rule("k", f"_k([0-9]+){WORD_END}", dtype="int"),
    Rule("seed_parsed", f"_s([0-9]+){WORD_END}", dtype="int"),
    Rule("lr_parsed", f"_lr{NUMBER}{WORD_END}", dtype="float"),
    Rule("wd_parsed", f"_wd{NUMBER}{WORD_END}", dtype="float"),
    Rule("eps_parsed", f"_eps{NUMBER}{WORD_END}", dtype="float"),
)


def rules_of(file: str | None) -> tuple[Rule, ...]:
    """The rules of `file`, if there is one, before the built-in ones, or instead of them."""
    if file is None:
        return RULES
    document = toml_document(file)
    unknown = sorted(document.keys() - {"rule", "replace"})
    if unknown:
        raise ScriptError(f"--rules {file}: unknown key {unknown[0]}; there are [[rule]] and replace", WRONG_USAGE)
    tables, replace = document.get("rule", []), document.get("replace", False)
    if not isinstance(tables, list) or not isinstance(replace, bool):
        raise ScriptError(f"--rules {file}: rules are written as [[rule]], and replace is true or false", WRONG_USAGE)
    rules = tuple(read_rule(table, f"--rules {file}: rule {number}") for number, table in enumerate(tables, 1))
    known: dict[str, str] = {}
    for number, rule in enumerate(rules, 1):
        if known.setdefault(rule.column, rule.dtype) != rule.dtype:
            other = f"dtype {rule.dtype}, but an earlier rule of that column has {known[rule.column]}"
            raise ScriptError(f"--rules {file}: rule {number} ({rule.column}) has {other}", WRONG_USAGE)
    return rules if replace else rules + RULES


def toml_document(file: str) -> dict[str, object]:
    """What a TOML file holds; ScriptError where it cannot be read."""
    import tomllib

    try:
        return tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise ScriptError(f"--rules {file} cannot be read: {error.strerror}; check the name", WRONG_USAGE) from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ScriptError(f"--rules {file} is no TOML file: {first_line(error)}", WRONG_USAGE) from error


def read_rule(table: object, where: str) -> Rule:
    """One [[rule]]; ScriptError that names it where it is a bad one."""
    if not isinstance(table, dict):
        raise ScriptError(f"{where} is no table", WRONG_USAGE)
    where += f" ({printable(str(table['column']))})" if "column" in table else ""
    flaw = flaw_of_rule(table)
    if flaw:
        raise ScriptError(f"{where}: {flaw}", WRONG_USAGE)
    value, column = table.get("value"), str(table["column"])
    builtin = next((rule.dtype for rule in RULES if rule.column == column), "string")
    return Rule(
        column=column,
        pattern=str(table["pattern"]),
        source=str(table.get("source", "name")),
        value=None if value is None else value if isinstance(value, str) else json.dumps(value),
        dtype=str(table.get("dtype", builtin)),
        origin=where.removeprefix("--rules ").partition(" (")[0],
    )


def flaw_of_rule(table: Mapping[str, object]) -> str | None:
    """What is wrong with a [[rule]]; None where it is a good one."""
    for key, value in table.items():
        if key not in RULE_KEYS:
            return f"unknown key {key}{did_you_mean(key, RULE_KEYS)}; there are {', '.join(RULE_KEYS)}"
        if not isinstance(value, (str, int, float, bool) if key == "value" else str):
            return f"{key} is no text"
    for key in ("column", "pattern"):
        if key not in table:
            return f"it has no {key}"
    column, dtype = str(table["column"]), table.get("dtype", "string")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column):
        return "a column's name is made of letters, digits and _"
    if column in contract_dtypes() or column.startswith((CONFIG, METRIC, HISTORY, "__")):
        return "that column holds what W&B says; choose another name"
    if dtype not in DTYPES:
        return f"unknown dtype {dtype}; there are {', '.join(DTYPES)}"
    return flaw_of_pattern(str(table["pattern"]), needs_group="value" not in table)


def flaw_of_pattern(pattern: str, *, needs_group: bool) -> str | None:
    """What is wrong with a rule's pattern; None where it is a good one."""
    reason = flaw_of(pattern)
    if reason:
        return f"its pattern {pattern} is no regular expression: {reason}"
    if needs_group and not groups_in(pattern):
        return f"its pattern {pattern} has no group to take the value from; put one in parentheses, or give a value"
    return None


def groups_in(pattern: str) -> int:
    """How many groups a regular expression captures, as polars sees it."""
    return len(pl.select(pl.lit("").str.extract_groups(f"(?i){pattern}")).to_series().struct.fields)


def dtypes_by_rules(rules: Iterable[Rule]) -> dict[str, pl.DataType]:
    """The derived columns in order, with their dtypes: what the first rule of each says."""
    types = {"string": pl.String(), "int": pl.Int64(), "float": pl.Float64(), "bool": pl.Boolean()}
    first: dict[str, str] = {}
    for rule in rules:
        first.setdefault(rule.column, rule.dtype)
    return {column: types[dtype] for column, dtype in first.items()}


def derived_columns(rules: Sequence[Rule], dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """An expression per derived column, in the rules' order; null where no rule matches or has its source."""
    by_column: dict[str, list[Rule]] = {}
    for rule in rules:
        by_column.setdefault(rule.column, []).append(rule)
    return [
        typed(
            pl.coalesce(
                *(value_by(rule, dtypes[rule.source]) for rule in by_column[column] if rule.source in dtypes),
                pl.lit(None, dtype=pl.String),
            ),
            dtype,
        ).alias(column)
        for column, dtype in dtypes_by_rules(rules).items()
    ]


def typed(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """`text` in a derived column's type; what is none such, as a number past 64 bits, is no value."""
    if dtype == pl.Boolean:
        text = text.str.to_lowercase()
        return pl.when(text.is_in(["true", "1", "yes", "on"])).then(True).when(text.is_in(FALSE)).then(False)
    return text.cast(dtype, strict=False)


def value_by(rule: Rule, dtype: pl.DataType) -> pl.Expr:
    """What `rule` finds in its source, as text: null where the pattern does not match."""
    listed = isinstance(dtype, pl.List)  # tags: one text with commas
    text = pl.col(rule.source).list.join(",") if listed else brought(rule.source, dtype, pl.String())
    pattern = f"(?i){rule.pattern}"
    if rule.source == "name":
        text = text.str.to_lowercase()
        if rule.pattern == rule.pattern.lower():  # as good, and much faster
            pattern = rule.pattern
    if rule.value is None:
        return text.str.extract(pattern, 1)
    return pl.when(text.str.contains(pattern)).then(pl.lit(rule.value))


class Finding(NamedTuple):
    """What the rules make of a name in one derived column, and by which of them."""

    column: str
    value: object
    pattern: str | None
    origin: str | None


def findings(name: str, rules: Sequence[Rule]) -> list[Finding]:
    """Which rule gives what for a name alone, without a config."""
    run, dtypes = pl.DataFrame({"name": [name]}), {"name": pl.String()}
    values = run.with_columns(derived_columns(rules, dtypes)).row(0, named=True)
    found = []
    for column in dtypes_by_rules(rules):
        tried = [rule for rule in rules if rule.column == column and rule.source == "name"]
        hits = (rule for rule in tried if run.select(value_by(rule, pl.String())).item() is not None)
        rule = next(hits, None)
        found.append(Finding(column, values[column], rule and rule.pattern, rule and rule.origin))
    return found


def explain(name: str, rules: Sequence[Rule], *, as_json: bool) -> str:
    """The answer to --explain."""
    found = findings(name, rules)
    if as_json:
        return json_text({"version": 1, "explain": [finding._asdict() for finding in found]})
    width = max([len(finding.column) for finding in found], default=0)
    lines = [f"{finding.column:<{width}}  {explained(finding)}" for finding in found]
    sources = dict.fromkeys(rule.source for rule in rules if rule.source != "name")
    note = [f"Not asked here, as a name alone has none: the rules on {', '.join(sources)}."] if sources else []
    return "\n".join(printable(line) for line in [*lines, *note] or ["There are no rules."])


def explained(finding: Finding) -> str:
    """A value and the rule that gives it, or that there is none."""
    if finding.pattern is None:
        return "no rule matches"
    value = "no value" if finding.value is None else str(finding.value)
    return f"{value}  by {finding.pattern}  ({finding.origin})"


class Fit(NamedTuple):
    """How well the rules of one derived column fit the runs, with examples of both kinds."""

    column: str
    dtype: str
    runs: int
    missing: int
    distinct: int
    commonest: Sequence[object]
    commonest_runs: Sequence[int]
    unmatched_names: Sequence[str]


def fit_of(column: str, runs: pl.DataFrame) -> Fit:
    """How many runs got a value in a derived column, the commonest values, and names that matched nothing."""
    values = runs[column].drop_nulls()
    commonest = values.value_counts().sort("count", column, descending=[True, False])
    unmatched = runs["name"].filter(runs[column].is_null()).drop_nulls().unique().sort()
    return Fit(
        column=column,
        dtype=str(values.dtype),
        runs=len(values),
        missing=len(runs) - len(values),
        distinct=len(commonest),
        commonest=commonest[column].head(SHOWN).to_list(),
        commonest_runs=commonest["count"].head(SHOWN).to_list(),
        unmatched_names=unmatched.head(SHOWN).to_list(),
    )


# --- columns from histories -----------------------------------------------------------------------------------
class HistoryFile(NamedTuple):
    """A parquet file of histories, as its footer describes it."""

    file: str
    dtypes: Mapping[str, pl.DataType]
    metrics: Mapping[KeyPath, str]  # its numeric columns, by W&B path


class HistoryMetric(NamedTuple):
    """A metric of the histories: what its columns end in, how users may call it, and its dtype over all files."""

    path: KeyPath
    name: str
    called: tuple[str, ...]
    dtype: pl.DataType


class Best(NamedTuple):
    """The metric at whose best step all others are looked at, and why that way is better."""

    path: KeyPath
    goal: str
    reason: str


class HistoryPlan(NamedTuple):
    """What is read of which histories, and the columns that this gives."""

    files: Sequence[HistoryFile]
    metrics: Sequence[HistoryMetric]
    best: Best | None
    dtypes: Mapping[str, pl.DataType]


class HistoryReport(NamedTuple):
    """How much the histories gave, for the report."""

    files: Sequence[str]
    rows: int
    metrics: int
    runs_with: int
    runs_without: int
    sampled: Sequence[str]


def histories_beside(files: Iterable[RunsFile]) -> tuple[list[HistoryFile], list[str], list[Skipped]]:
    """The histories in the folders of the exports that `files` come from; the sampled ones, and what is damaged."""
    folders = dict.fromkeys(folder_of(str(source["file"])) for file in files for source in file.sources)
    found: list[HistoryFile] = []
    sampled: list[str] = []
    damaged_files: list[Skipped] = []
    for file in (file for folder in folders for file in parquet_files_in(folder)):
        if file.endswith(SAMPLED_ENDING):
            sampled.append(file)
            continue
        try:
            dtypes = dict(scan(file).collect_schema())
            if kind_of(dtypes) == "history":
                found.append(history_file(file, dtypes))
        except ValueError as error:  # its metadata is not what the contract says
            damaged_files.append(damaged(file, error))
        except reading_errors() as error:
            if HISTORY_ENDING in file:  # any other one was looked into before
                damaged_files.append(damaged(file, error))
    return found, sampled, damaged_files


def history_plan(
    wish: HistoryWish, files: Sequence[HistoryFile], columns: Sequence[Column], metadata: Mapping[str, str]
) -> HistoryPlan:
    """What `wish` means for these histories; ScriptError where they lack what it names."""
    if (wish.at or wish.metrics) and not files:
        message = "--history: there is none beside the inputs; export_runs.py --include-history writes them"
        raise ScriptError(message, NOTHING_USABLE)
    names = names_of({(prefix_of(column.name), column.path) for column in columns} | metrics_of(files))
    metrics = wished_metrics(files, names, wish.metrics)
    best = best_of(wish.at, all_metrics(files, names), goals(columns, metadata)) if wish.at else None
    dtypes = history_dtypes(metrics, best)
    earlier = {column.name: column.dtype for column in columns if column.name in dtypes}  # of an earlier result
    dtypes |= {column: meeting({dtypes[column], dtype}, METRIC) for column, dtype in earlier.items()}
    return HistoryPlan(files, metrics, best, dtypes)


def goals(columns: Iterable[Column], metadata: Mapping[str, str]) -> dict[KeyPath, object]:
    """The stored goal of each metric that has one, by path."""
    stored = json.loads(metadata[METRICS_KEY])
    return {c.path: stored[c.name]["goal"] for c in columns if stored.get(c.name, {}).get("goal")}


def folder_of(file: str) -> str:
    """The folder of a file; also of one behind a URL."""
    return file.rpartition("/")[0] if is_url(file) else str(Path(file).parent)


def parquet_files_in(folder: str) -> list[str]:
    """The parquet files right in a folder, by name; none where the folder is no more."""
    if is_url(folder):
        candidates = files_at_url(f"{folder}/*{HISTORY_ENDING}") or []
        return sorted(each.file for each in candidates if isinstance(each, Candidate))
    names = sorted(os.listdir(folder)) if Path(folder).is_dir() else []  # noqa: PTH208 - names are enough
    return [str(Path(folder, name)) for name in names if name.endswith(".parquet") and not name.startswith(".")]


def history_file(file: str, dtypes: Mapping[str, pl.DataType]) -> HistoryFile:
    """The history file with the W&B paths of its metrics."""
    paths = stored_paths(dtypes, pl.read_parquet_metadata(file))
    metrics = {
        paths.get(column, (column.removeprefix(METRIC),)): column
        for column, dtype in dtypes.items()
        if prefix_of(column) == METRIC and (dtype.is_numeric() or dtype == pl.Boolean)
    }
    return HistoryFile(file, dtypes, metrics)


def metrics_of(files: Iterable[HistoryFile]) -> set[Identity]:
    """The metrics of the histories, as identities of columns."""
    return {(METRIC, path) for file in files for path in file.metrics}


def wished_metrics(
    files: Sequence[HistoryFile], names: Mapping[Identity, str], globs: Sequence[str]
) -> list[HistoryMetric]:
    """The metrics that --history-metrics asks for, by name; ScriptError where a glob matches none."""
    metrics = sorted(all_metrics(files, names), key=lambda metric: metric.name)
    for pattern in globs:
        if not any(matches(called, pattern) for metric in metrics for called in metric.called):
            near = did_you_mean(pattern, [called for metric in metrics for called in metric.called])
            raise ScriptError(f"--history-metrics {pattern}: no history has such a metric{near}", WRONG_USAGE)
    if not globs:
        return metrics
    return [m for m in metrics if any(matches(called, pattern) for called in m.called for pattern in globs)]


def all_metrics(files: Sequence[HistoryFile], names: Mapping[Identity, str]) -> list[HistoryMetric]:
    """Every metric of the histories. Where `step_loss` would meet the step of `loss`, it gets a hash of its path."""
    plain_names = {path: names[METRIC, path].removeprefix(METRIC) for _, path in metrics_of(files)}
    taken = {name.lower() for name in plain_names.values()}
    metrics = []
    for path, name in plain_names.items():
        clash = any(
            name.lower().startswith(p) and name.lower().removeprefix(p) in taken for p in ("step_", "nonfinite_")
        )
        own = f"{name}__{path_hash(path)[:8]}" if clash else name
        called = dict.fromkeys((f"{METRIC}{name}", ".".join(path), name))
        kinds = {plain(file.dtypes[file.metrics[path]], METRIC) for file in files if path in file.metrics}
        metrics.append(HistoryMetric(path, own, tuple(called), meeting(kinds, METRIC)))
    return metrics


def best_of(wanted: str, metrics: Sequence[HistoryMetric], stored: Mapping[KeyPath, object]) -> Best:
    """The metric that --at names, and which way it is better: as said, as stored, else as its name tells."""
    name, _, said = wanted.rpartition(":")
    if said not in GOAL_WORDS:
        name, said = wanted, ""
    named = (m for kind in range(3) for m in metrics if m.called[kind : kind + 1] == (name,))
    metric = next(named, None) or next((m for m in metrics if name.lower() in map(str.lower, m.called)), None)
    if metric is None:
        near = did_you_mean(name, [called for metric in metrics for called in metric.called])
        raise ScriptError(f"--at {name}: no history has such a metric{near}", WRONG_USAGE)
    if said:
        return Best(metric.path, GOAL_WORDS[said], "as said")
    if stored.get(metric.path):
        return Best(metric.path, str(stored[metric.path]), "the stored goal")
    goal = goal_told_by(metric.name)
    if goal is None:
        raise ScriptError(
            f"--at {name}: which way is better cannot be read off its name; add :min or :max", WRONG_USAGE
        )
    return Best(metric.path, goal, "by its name")


def goal_told_by(name: str) -> str | None:
    """Which way a metric is better, as the last telling word of its name says; None where none does.

    >>> goal_told_by("val_loss"), goal_told_by("loss_accuracy"), goal_told_by("lr")
    ('minimize', 'maximize', None)
    """
    for word in reversed(re.split(r"[^a-z0-9]+|_", name.lower())):
        if word in LOWER_WORDS.split():
            return "minimize"
        if word in HIGHER_WORDS.split():
            return "maximize"
    return None


def history_dtypes(metrics: Iterable[HistoryMetric], best: Best | None) -> dict[str, pl.DataType]:
    """The columns that the histories give, in order, with their dtypes."""
    dtypes: dict[str, pl.DataType] = {}
    for metric in metrics:
        own = {"min": metric.dtype, "min_step": pl.Int64(), "max": metric.dtype, "max_step": pl.Int64()}
        own |= {"last": metric.dtype, "tail": pl.Float64(), "n": pl.Int64(), "n_nonfinite": pl.Int64()}
        own |= {"at": metric.dtype} if best else {}
        dtypes |= {f"{HISTORY}{statistic}_{metric.name}": dtype for statistic, dtype in own.items()}
    return dtypes


def with_histories(runs: pl.DataFrame, plan: HistoryPlan) -> tuple[pl.DataFrame, int, list[Skipped]]:
    """The runs with what their histories say; how many rows that took; files that are damaged.

    A run without a history keeps what an earlier result says of it, else the columns are null there.

    The history of a run is the one beside the file that its row comes from: rows of another export may differ.
    """
    folders = {file: folder_of(file) for file in runs["source_file"].unique()}
    runs = runs.with_columns(pl.col("source_file").replace_strict(folders, return_dtype=pl.String).alias(FOLDER))
    wanted = runs.select(pl.col("id").alias("run_id"), "entity", "project", FOLDER).unique()
    schema = pl.Schema({**wanted.schema, **plan.dtypes, HAS_HISTORY: pl.Boolean()})
    frames, rows, broken = [pl.DataFrame(schema=schema)], 0, []
    for file in plan.files:
        try:
            stretches = stretches_of_runs(file, wanted)
            parts = list(statistics_by_run(file, stretches, plan))
        except reading_errors() as error:  # a footer can be sound where the rows are not
            broken.append(damaged(file.file, error))
            continue
        rows += int(stretches["rows"].sum())
        frames += [part.select(schema.names()).cast(schema) for part in parts]
    found = pl.concat(frames).unique(wanted.columns, keep="first", maintain_order=True).rename({"run_id": "id"})
    on = ["id", "entity", "project", FOLDER]
    joined = runs.join(found, on=on, how="left", suffix=NEW, nulls_equal=True, maintain_order="left")
    earlier = [column for column in plan.dtypes if column in runs.columns]  # of runs whose histories are gone since
    chosen = [
        pl.when(HAS_HISTORY).then(column + NEW).otherwise(pl.col(column).cast(plan.dtypes[column])).alias(column)
        for column in earlier
    ]
    return joined.with_columns(chosen).drop(column + NEW for column in earlier), rows, broken


def history_report(plan: HistoryPlan, runs: pl.DataFrame, rows: int, sampled: Sequence[str]) -> HistoryReport:
    """What `plan` came to for these runs."""
    runs_with = int(runs[HAS_HISTORY].sum())
    files = [file.file for file in plan.files]
    return HistoryReport(files, rows, len(plan.metrics), runs_with, len(runs) - runs_with, sampled)


def stretches_of_runs(file: HistoryFile, wanted: pl.DataFrame) -> pl.DataFrame:
    """Where in the file the wanted runs' rows are: run_id, entity, project, folder, first row, last row, rows.

    Another tool's history may lack entity and project: there the id alone tells the run, if no two share it.
    """
    keys = [key for key in ("run_id", "entity", "project") if key in file.dtypes]
    rows = scan(file.file).select(pl.col(keys).cast(pl.String)).with_row_index(ROW_NUMBER).group_by(keys)
    place = pl.col(ROW_NUMBER)
    stretches = rows.agg(place.min().alias("first"), place.max().alias("last"), pl.len().cast(pl.Int64).alias("rows"))
    here = wanted.filter(pl.col(FOLDER) == folder_of(file.file)).unique(keys, keep="none")
    return stretches.collect(engine="streaming").join(here, on=keys, nulls_equal=True).sort("first")


def statistics_by_run(file: HistoryFile, stretches: pl.DataFrame, plan: HistoryPlan) -> Iterator[pl.DataFrame]:
    """The statistics of a file's runs, some runs at a time, so that a history need not fit in memory."""
    here = [metric for metric in plan.metrics if metric.path in file.metrics]
    best = plan.best if plan.best and plan.best.path in file.metrics else None
    in_order = (stretches["last"] - stretches["first"] + 1 == stretches["rows"]).all()
    if not in_order:  # no file of ours: for every block all rows are looked at, and as many kept as the runs have
        end = pl.col("rows").cum_sum()
        stretches = stretches.with_columns((end - pl.col("rows")).alias("first"), (end - 1).alias("last"))
    for runs in blocks(stretches, rows=max(1, CELLS // (len(here) + 2))):
        keys = runs.select("run_id", "entity", "project", FOLDER).with_row_index(RUN, offset=0)
        at_once = max(1, CELLS // (runs["last"][-1] - runs["first"][0] + 1))
        parts = [keys.with_columns(pl.lit(True).alias(HAS_HISTORY))]
        for start in range(0, len(here), at_once):
            some_metrics = here[start : start + at_once]
            block = history_rows(file, runs, keys, some_metrics, best, in_order=in_order)
            parts.append(statistics(block, some_metrics, best))
        joined = parts[0]
        for part in parts[1:]:
            joined = joined.join(part, on=RUN, how="left", maintain_order="left")
        absent = [column for column in plan.dtypes if column not in joined.columns]
        yield joined.with_columns(pl.lit(None, dtype=plan.dtypes[column]).alias(column) for column in absent)


def blocks(stretches: pl.DataFrame, *, rows: int) -> Iterator[pl.DataFrame]:
    """Successive runs that span about `rows` rows together, but at least one run."""
    ends = (stretches["last"] + 1).to_list()
    start = 0
    while start < len(stretches):
        limit = stretches["first"][start] + rows
        stop = max(start + 1, bisect.bisect_right(ends, limit, lo=start))
        yield stretches.slice(start, stop - start)
        start = stop


def history_rows(
    file: HistoryFile,
    runs: pl.DataFrame,
    keys: pl.DataFrame,
    metrics: Sequence[HistoryMetric],
    best: Best | None,
    *,
    in_order: bool,
) -> pl.DataFrame:
    """The rows of some runs: the number of the run, the step, the metrics by number; sorted by run and step."""
    rows = scan(file.file)
    if in_order:
        first = runs["first"][0]
        rows = rows.slice(first, runs["last"][-1] - first + 1)
    named = [pl.col(key).cast(pl.String) for key in ("run_id", "entity", "project") if key in file.dtypes]
    values = [
        pl.col(file.metrics[metric.path]).cast(metric.dtype).alias(f"{number}") for number, metric in enumerate(metrics)
    ]
    goal = [pl.col(file.metrics[best.path]).cast(pl.Float64).alias(BEST)] if best else []
    on = [expression.meta.output_name() for expression in named]
    rows = rows.select(*named, pl.col("_step").cast(pl.Int64), *values, *goal)
    numbered = rows.join(keys.lazy().select(RUN, *on), on=on, nulls_equal=True, maintain_order="left").drop(on)
    block = numbered.collect(engine="streaming")
    step, run = pl.col("_step"), pl.col(RUN)
    sorted_already = ((run > run.shift()) | ((run == run.shift()) & (step >= step.shift()))).fill_null(True).all()
    return block if block.select(sorted_already).item() else block.sort(RUN, "_step", maintain_order=True)


def statistics(block: pl.DataFrame, metrics: Sequence[HistoryMetric], best: Best | None) -> pl.DataFrame:
    """One row per run in `block`, with the columns of `history_dtypes`."""
    finite = [finite_part(f"{n}").alias(f"{FINITE_VALUES}{n}") for n in range(len(metrics))]
    goal = [finite_part(BEST)] if best else []
    at = None if best is None else pl.col(BEST).arg_min() if best.goal == "minimize" else pl.col(BEST).arg_max()
    told = [each for n, metric in enumerate(metrics) for each in statistics_of(n, metric, at)]
    return block.with_columns(*finite, *goal).group_by(RUN, maintain_order=True).agg(told)


def finite_part(column: str) -> pl.Expr:
    """The finite values of a column, null for others; -0.0 is 0.0, as polars may rank the one before the other."""
    value = pl.col(column)
    return pl.when(value == 0).then(0).when(value.is_finite()).then(value).alias(column)


def statistics_of(number: int, metric: HistoryMetric, at: pl.Expr | None) -> list[pl.Expr]:
    """What is said of one metric of one run, whose rows are in order; non-finite values are counted, and never best.

    The first of equal values is the best one. The last value is the last one logged, finite or not; the tail is the
    mean of the last tenth (rounded down, at least one) of the finite values.
    """
    value, finite, step = pl.col(f"{number}"), pl.col(f"{FINITE_VALUES}{number}"), pl.col("_step")
    tail = finite.drop_nulls().tail(pl.max_horizontal(finite.count() // 10, 1))
    told = {
        "min": finite.min(),
        "min_step": step.get(finite.arg_min(), null_on_oob=True),
        "max": finite.max(),
        "max_step": step.get(finite.arg_max(), null_on_oob=True),
        "last": value.drop_nulls().last(),
        "tail": tail.cast(pl.Float64).mean(),
        "n": finite.count().cast(pl.Int64),
        "n_nonfinite": value.count().cast(pl.Int64) - finite.count().cast(pl.Int64),
    }
    if at is not None:
        told["at"] = value.get(at, null_on_oob=True)
    return [expression.alias(f"{HISTORY}{statistic}_{metric.name}") for statistic, expression in told.items()]


# --- files ----------------------------------------------------------------------------------------------------
def scan(file: str) -> pl.LazyFrame:
    """The rows of `file`. Its name is taken as it is: no glob, and no columns from `key=value` directories."""
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def unified(number: int, file: RunsFile, columns: Sequence[Column], rows: pl.LazyFrame, *kept: str) -> pl.LazyFrame:
    """The given rows of file `number` in the result's columns and dtypes; columns of `rows` to keep come first."""
    return rows.select(*kept, *(value_in(number, file, column).alias(column.name) for column in columns))


def value_in(number: int, file: RunsFile, column: Column) -> pl.Expr:
    """The values of a column of the result in file `number`; null where the file does not have it."""
    absent = pl.lit(None, dtype=column.dtype)
    values = brought(*column.parts[number], column.dtype) if number in column.parts else absent
    if column.name == "source_file":  # an aggregate's rows keep their first origin
        return values.fill_null(pl.lit(file.file))
    return values.fill_null(pl.lit([], dtype=column.dtype)) if column.name == "tags" else values


def rows_in_order(
    files: Sequence[RunsFile], columns: Sequence[Column], chosen: pl.DataFrame, new: Mapping[str, pl.DataType]
) -> pl.LazyFrame:
    """The chosen rows of all files, whole, in the result's order, with the `new` columns that `chosen` holds.

    polars asks for the rows batch by batch while it writes, so they need not fit in memory together.
    """
    from polars.io.plugins import register_io_source

    placed = chosen.sort(ROW_ORDER).with_row_index(POSITION)
    own = [column for column in columns if column.name not in new]
    schema = {column.name: column.dtype for column in own} | dict(new)

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del predicate, n_rows, batch_size  # nothing of that kind is asked of what is merely written
        position = 0
        for batch in batches_in_order(files, own, placed):
            theirs = placed.slice(position, len(batch))
            if not batch["id"].equals(theirs["id"]):
                raise ScriptError("an input changed while it was read; run it again", NOTHING_USABLE)
            position += len(batch)
            yield batch.hstack(theirs.select(list(new))).select(with_columns or list(schema))
        if position < len(placed):
            raise ScriptError("an input shrank while it was read; run it again", NOTHING_USABLE)

    return register_io_source(batches, schema=schema, validate_schema=False)


def batches_in_order(
    files: Sequence[RunsFile], columns: Sequence[Column], placed: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The placed rows, in order. Files are sorted already: only where several interleave are their rows sorted."""
    at_once = max(1, min(ROW_GROUP_ROWS, CELLS // len(columns)))
    for stretch in stretches_of_files(placed):
        number = stretch[FILE_NUMBER][0]
        if (stretch[FILE_NUMBER] == number).all() and stretch[ROW_NUMBER].is_sorted():
            rows = numbered_rows(files[number].file, stretch[ROW_NUMBER]).drop(ROW_NUMBER)
            yield from unified(number, files[number], columns, rows).collect_batches(chunk_size=at_once)
        else:
            for start in range(0, len(stretch), at_once):
                yield rows_sorted(files, columns, stretch.slice(start, at_once))


def stretches_of_files(placed: pl.DataFrame) -> list[pl.DataFrame]:
    """`placed` cut wherever no file has rows on both sides."""
    place = pl.col(POSITION)
    spans = placed.group_by(FILE_NUMBER).agg(place.min().alias("start"), place.max().alias("stop")).sort("start")
    reach = pl.col("stop").cum_max().shift()
    starts = spans.filter((pl.col("start") > reach).fill_null(True))["start"].to_list()
    return [placed.slice(start, stop - start) for start, stop in itertools.pairwise([*starts, len(placed)])]


def rows_sorted(files: Sequence[RunsFile], columns: Sequence[Column], placed: pl.DataFrame) -> pl.DataFrame:
    """The placed rows of several files, put in order in memory."""
    frames, positions = [], []
    for (number,), rows in placed.sort(FILE_NUMBER, ROW_NUMBER).group_by(FILE_NUMBER, maintain_order=True):
        own = numbered_rows(files[number].file, rows[ROW_NUMBER]).drop(ROW_NUMBER)
        frames.append(unified(number, files[number], columns, own))
        positions.append(rows[POSITION])
    return pl.concat(pl.collect_all(frames)).with_columns(pl.concat(positions)).sort(POSITION).drop(POSITION)


def numbered_rows(file: str, numbers: pl.Series) -> pl.LazyFrame:
    """The rows of `file` with these ascending numbers."""
    first, last = numbers[0], numbers[-1]
    rows = scan(file).with_row_index(ROW_NUMBER).slice(first, last - first + 1)
    return rows if len(numbers) == last - first + 1 else rows.filter(pl.col(ROW_NUMBER).is_in(numbers.implode()))


def write(runs: pl.LazyFrame, place: str, metadata: Mapping[str, str], partition_by: Sequence[str] = ()) -> list[str]:
    """Stream `runs` into a file, or into hive partitions below a folder; the files that were written."""
    written: list[str] = []
    target = pl.PartitionBy(place, key=list(partition_by)) if partition_by else place
    with unfinished_unnamed(Path(place)):
        runs.sink_parquet(
            target,
            compression="zstd",
            compression_level=1,  # on columns as these no larger than 3, the default, and faster
            statistics=True,
            row_group_size=ROW_GROUP_ROWS,
            data_page_size=PAGE_BYTES,
            metadata=dict(metadata),
            mkdir=bool(partition_by) and not is_url(place),
            sinked_paths_callback=lambda sinked: written.extend(str(each.path) for each in sinked.paths),
        )
    return sorted(written) or [place]


def reading_errors() -> tuple[type[BaseException], ...]:
    """What polars raises for files that are damaged; some damage makes its decoder panic."""
    return (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


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
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write to: takes its place once it is whole, removed on failure."""
    unfinished, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if folder.exists():
            folder.rename(old)
        unfinished.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        reason = error.strerror or error
        raise ScriptError(
            f"{folder} was not written: {reason}; free the place or choose another with -o", NOTHING_USABLE
        ) from error
    finally:
        for rest in (unfinished, old):
            shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def published(output: str, *, folder: bool) -> Iterator[str]:
    """Where to write what shall appear at `output` whole or not at all; an object store sees to that by itself."""
    if not is_url(output):
        with replacing_folder(Path(output)) if folder else replacing(Path(output)) as unfinished:
            yield str(unfinished)
        return
    try:
        yield output
    except OSError as error:
        message = f"{output} was not written: {first_line(error)}; check the place and the credentials"
        raise ScriptError(message, NOTHING_USABLE) from error


@contextmanager
def unfinished_unnamed(file: Path) -> Iterator[None]:
    """Take the name of the unfinished `file` off an error of polars: the user knows the file by another."""
    try:
        yield
    except OSError as error:
        reason = str(error)  # it ends in the name, which may be cut short
        raise OSError(reason.partition(" (os error")[0] if file.suffix in reason else reason) from error


# --- report ---------------------------------------------------------------------------------------------------
def report(outcome: Outcome, skipped: Sequence[Skipped], say: Say) -> None:
    """Tell people what was done: rows, filters, conflicts, derived columns."""
    say(f"{counted(outcome.rows_read, 'row')} in {counted(outcome.files, 'file')}")
    if outcome.rows_read > outcome.runs_found:
        say(f"{counted(outcome.runs_found, 'run')}, as newer or fuller exports of a run replace others")
    tell_passed_over([skip for skip in skipped if not skip.failure], say)
    for filtered in outcome.filters:
        say(f"{filtered.filter}: {filtered.kept:,} of {counted(filtered.before, 'run')} kept")
    for line in (*history_lines(outcome.histories), *outcome.remarks):
        say(line)
    tell_conflicts(outcome.conflicts, say)
    for line in fit_lines(outcome.derived):
        say(line)
    say(f"written: {counted(outcome.runs, 'run')}, {counted(outcome.columns, 'column')}")


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def tell_passed_over(skipped: Sequence[Skipped], say: Say) -> None:
    """Name the sound files that hold no runs."""
    if skipped:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(skip.kind for skip in skipped).items()))
        say(f"passed over, as they hold no runs: {kinds} ({some([skip.file for skip in skipped])})")


def some(texts: Sequence[str]) -> str:
    """The first few of `texts`, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def tell_conflicts(conflicts: Sequence[Conflict], say: Say) -> None:
    """One line for each of the first columns on which files disagree."""
    by_column: dict[tuple[str, str], list[Conflict]] = {}
    for conflict in conflicts:
        by_column.setdefault((conflict.column, conflict.kind), []).append(conflict)
    for rivals in list(by_column.values())[:SHOWN]:
        say(conflict_line(rivals))
    if len(by_column) > SHOWN:
        say(f"files disagree on {len(by_column) - SHOWN} columns more; --json lists all")


def conflict_line(rivals: Sequence[Conflict]) -> str:
    """What the files say of one column, and what became of it."""
    column, kind, _, became, _ = rivals[0]
    found = ", ".join(f"{rival.found} in {counted(len(rival.files), 'file')}" for rival in rivals)
    if kind == "name":
        outdone = any(became.startswith(f"{rival.found}__") for rival in rivals)
        why = "another W&B path has a better claim to its name" if outdone else "its W&B path is the only one so named"
        why = why if prefix_of(column) else "its name is that of a derived column"
        return f"{found} is called {became} here: {why}"
    if len(rivals) == 1:
        return f"the {kind} of {column} is {found}; it is {became} here"
    return f"files disagree on the {kind} of {column}: {found}; it is {became} here"


def fit_lines(fits: Sequence[Fit]) -> Iterator[str]:
    """How well the rules fit: a line per derived column, then what several have in common, said once."""
    lacking: dict[str, list[str]] = {}  # names without a match, and the columns that show these
    for fit in fits:
        if fit.runs and fit.unmatched_names:
            lacking.setdefault(", ".join(fit.unmatched_names[:3]), []).append(fit.column)
    alone = {columns[0]: names for names, columns in lacking.items() if len(columns) == 1}
    for fit in fits:
        if fit.runs:
            yield fit_line(fit) + (f"; no match in {alone[fit.column]}" if fit.column in alone else "")
    for names, columns in lacking.items():
        if len(columns) > 1:
            yield f"no match for {', '.join(columns)} in {names}"
    empty = [fit.column for fit in fits if not fit.runs]
    if empty:
        yield f"no match in any run for {', '.join(empty)}"


def fit_line(fit: Fit) -> str:
    """How many runs have a value in one derived column, and the commonest values."""
    values = [f"{value} ({n})" for value, n in zip(fit.commonest, fit.commonest_runs, strict=True)]
    others = f" and {fit.distinct - len(values)} more" if fit.distinct > len(values) else ""
    return f"{fit.column}: {counted(fit.runs, 'run')}: {', '.join(values)}{others}"


def history_lines(histories: HistoryReport | None) -> Iterator[str]:
    """What the histories gave, and what they could not."""
    if histories is None:
        return
    read = f"{counted(histories.rows, 'row')} of {counted(histories.metrics, 'metric')}"
    yield f"histories: {read} in {counted(len(histories.files), 'file')}, of {counted(histories.runs_with, 'run')}"
    if histories.runs_without:
        without = counted(histories.runs_without, "run")
        yield f"no history beside the export of {without}: their history_* are null, or as in an earlier result"
    if histories.sampled:
        yield f"sampled histories are passed over, as their best may be missing: {some(histories.sampled)}"


def complain(skipped: Iterable[Skipped]) -> None:
    """Name what failed, on stderr even when quiet."""
    for skip in skipped:
        if skip.failure:
            print(printable(f"error: {skip.file} was left out: {skip.reason}"), file=sys.stderr)


def as_json(outcome: Outcome, skipped: Sequence[Skipped], output: str) -> str:
    """The report for programs."""
    summary = {
        "file": output,
        "inputs": outcome.files,
        "rows_read": outcome.rows_read,
        "runs_found": outcome.runs_found,
        "runs": outcome.runs,
        "columns": outcome.columns,
    }
    return json_text(
        {
            "version": 1,
            "files": outcome.outputs,
            "summary": [summary],
            "filters": [filtered._asdict() for filtered in outcome.filters],
            "derived": [fit._asdict() for fit in outcome.derived],
            "histories": [outcome.histories._asdict()] if outcome.histories else [],
            "conflicts": [conflict._asdict() for conflict in outcome.conflicts],
            "skipped": [skip._asdict() for skip in skipped],
        }
    )


# --- streams --------------------------------------------------------------------------------------------------
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


# --- command line ---------------------------------------------------------------------------------------------
def parse_args(argv: Sequence[str] | None) -> Options:
    """The command line as Options; the only place that knows argparse."""
    parser = Parser(__doc__ or "")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help=f"file, directory or glob (default: {DEFAULT_INPUT})"
    )
    parser.add_argument("--output", "-o", metavar="FILE", help=f"file or URL (default: {DEFAULT_OUTPUT})")
    rows = parser.add_argument_group("which runs (flags repeat; each says how many runs it kept)")
    rows.add_argument("--state", "-s", action="append", metavar="STATE", help="finished, crashed, ... (default: all)")
    rows.add_argument("--filter", "-f", action="append", metavar="REGEX", help="on the run's name, in any case")
    rows.add_argument("--project", "-p", action="append", metavar="NAME", help="name or glob, in any case")
    rows.add_argument("--where", metavar="SQL", help="a predicate over the result's columns")
    rows.add_argument("--keep", choices=("latest", "all"), default="latest", help="of each run (default: latest)")
    columns = parser.add_argument_group("which columns")
    columns.add_argument("--no-enrich", action="store_true", help="add no derived columns")
    columns.add_argument("--rules", metavar="TOML", help="more rules for derived columns, or others")
    columns.add_argument("--explain", metavar="NAME", help="print what the rules make of a name, and end")
    columns.add_argument("--history", action="store_true", help="add history_* columns from the histories beside")
    columns.add_argument("--history-metrics", action="append", metavar="GLOB", help="of these only (default: all)")
    columns.add_argument("--at", metavar="METRIC", help="also each metric at the step where this one was best")
    columns.add_argument("--partition-by", action="append", metavar="COLUMN", help="write a folder of hive partitions")
    streams = parser.add_argument_group("streams")
    streams.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    streams.add_argument("--quiet", action="store_true", help="only errors on stderr")
    streams.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_strictly(argv)
    refuse_other_urls([*args.inputs, args.output or ""])
    if args.no_enrich and (args.rules or args.explain is not None):
        flag = "--rules" if args.rules else "--explain"
        raise ScriptError(f"{flag} is about derived columns, --no-enrich leaves them out: choose one", WRONG_USAGE)
    partition_by = comma_separated(args.partition_by)
    return Options(
        inputs=tuple(args.inputs) or (DEFAULT_INPUT,),
        output=output_place(args.output, folder=bool(partition_by)),
        selection=Selection(states(args.state), tuple(args.filter or ()), comma_separated(args.project), args.where),
        keep_all=args.keep == "all",
        enrich=not args.no_enrich,
        rules=args.rules,
        explain=args.explain,
        history=history_wish(args.history_metrics, args.at, wanted=args.history),
        partition_by=partition_by,
        json=args.json,
        quiet=args.quiet,
    )


def refuse_other_urls(places: Iterable[str]) -> None:
    """Raise for a URL that is no object storage: it would be taken for a folder."""
    for place in places:
        if re.match("[a-z0-9]+://", place) and not is_url(place):
            raise ScriptError(f"{place}: URLs begin with {', '.join(CLOUD)}; download it first", WRONG_USAGE)


def history_wish(globs: Sequence[str] | None, at: str | None, *, wanted: bool) -> HistoryWish | None:
    """What is asked of the histories; ScriptError where it is, but not the histories."""
    if not wanted and (globs or at):
        raise ScriptError(f"{'--at' if at else '--history-metrics'} needs --history", WRONG_USAGE)
    return HistoryWish(comma_separated(globs), at) if wanted else None


def output_place(name: str | None, *, folder: bool) -> str:
    """The output. A file's ending must tell what it is, since directories are read by that ending."""
    if folder:
        return (name or DEFAULT_OUTPUT.removesuffix(".parquet")).rstrip("/")
    if not (name or DEFAULT_OUTPUT).endswith(".parquet"):
        raise ScriptError(f"-o {name}: the result is a parquet file, so its name must end in .parquet", WRONG_USAGE)
    return name if name and is_url(name) else str(Path(name or DEFAULT_OUTPUT))


def states(values: Sequence[str] | None) -> tuple[str, ...]:
    """The states asked for, in lower case; none for all."""
    wanted = tuple(state.lower() for state in comma_separated(values))
    for state in wanted:
        if state not in (*STATES, "all"):
            near = did_you_mean(state, STATES)
            raise ScriptError(f"--state {state}: no such state{near}; there are {', '.join(STATES)}", WRONG_USAGE)
    return () if "all" in wanted else wanted


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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, or nothing when none is near.

    >>> did_you_mean("--stat", ["--state", "--since"])
    '; did you mean --state?'
    """
    near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def comma_separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of a flag that repeats or takes commas.

    >>> comma_separated(["a,b", "c"])
    ('a', 'b', 'c')
    """
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


# --- the whole ------------------------------------------------------------------------------------------------
def import_libraries() -> None:
    """Import what takes time: once the command line is right."""
    global pl
    import polars as pl


def aggregate(options: Options) -> int:
    """From inputs to one file and its report; the exit code says whether every input went in."""
    import_libraries()
    check_patterns(options.selection.names)
    rules = rules_of(options.rules) if options.enrich else ()
    if options.explain is not None:
        print(explain(options.explain, rules, as_json=options.json))
        return OK
    refuse_to_replace_other_files(options.output, folder=bool(options.partition_by))
    files, skipped = recognised(options)
    try:
        outcome, damaged_histories = merge(files, rules, options)
    except reading_errors() as error:  # a footer can be sound where the rows are not
        files, broken = sound_and_damaged(files)
        if not broken:
            if isinstance(error, pl.exceptions.PanicException):  # which is no Exception
                raise RuntimeError(first_line(error)) from error
            raise
        skipped += broken
        outcome, damaged_histories = merge(files, rules, options)
    finally:
        complain(skipped)
    failed = {resolved(skip.file) for skip in skipped if skip.failure}
    also_failed = [skip for skip in damaged_histories if resolved(skip.file) not in failed]
    complain(also_failed)
    read = {resolved(file) for file in outcome.histories.files} if outcome.histories else set()
    skipped = [skip for skip in skipped if skip.failure or resolved(skip.file) not in read] + also_failed
    report(outcome, skipped, speaker(quiet=options.quiet))
    print(as_json(outcome, skipped, options.output) if options.json else "\n".join(outcome.outputs))
    return PARTIAL if any(skip.failure for skip in skipped) else OK


def refuse_to_replace_other_files(output: str, *, folder: bool) -> None:
    """Raise where the output holds what is no earlier aggregate; only those tell their rows' source_file."""
    there = files_of(output) or [] if folder else [Candidate(output, named=True)]
    if folder and is_url(output) and there:
        message = f"-o {output}: files of an earlier result would mix with this one; choose an empty place"
        raise ScriptError(message, WRONG_USAGE)
    if folder and not is_url(output) and not only_partitions(Path(output)):
        raise ScriptError(f"-o {output} holds other files, which would be lost; choose another name", WRONG_USAGE)
    for candidate in there:
        if isinstance(candidate, Candidate) and is_export(candidate.file):
            raise ScriptError(f"-o {output} holds an export, which would be lost; choose another name", WRONG_USAGE)


def only_partitions(folder: Path) -> bool:
    """Whether there is nothing at `folder` but hive partitions, if anything."""
    if not folder.is_dir():
        return not folder.exists()
    return all(file.suffix == ".parquet" and "=" in file.parent.name for file in folder.rglob("*") if not file.is_dir())


def is_export(file: str) -> bool:
    """Whether `file` holds runs or a history as they were exported."""
    try:
        columns = scan(file).collect_schema().names() if is_url(file) or Path(file).is_file() else []
    except reading_errors():  # no parquet file, or none at all
        columns = []
    return kind_of(columns) != "foreign" and "source_file" not in columns


def merge(files: Sequence[RunsFile], rules: Sequence[Rule], options: Options) -> tuple[Outcome, list[Skipped]]:
    """Write the runs of `files` to the output; what was done, and histories that are damaged."""
    if not files:
        raise ScriptError(f"no runs in {some(options.inputs)}; export_runs.py writes runs files", NOTHING_USABLE)
    wish = options.history
    history_files, sampled, broken = histories_beside(files) if wish else ([], [], [])
    columns, conflicts = one_schema(files, dtypes_by_rules(rules), metrics_of(history_files))
    metadata, disputes = merged_metadata(files, columns)
    plan = history_plan(wish, history_files, columns, metadata) if wish else HistoryPlan((), (), None, {})

    stored = {column.name: column.dtype for column in columns}
    new = {**dtypes_by_rules(rules), **plan.dtypes}
    order = with_new(list(stored), list(dtypes_by_rules(rules)), list(plan.dtypes))
    check_partition_columns(options.partition_by, order)
    where = [where_filter(options.selection.where, stored | new)] if options.selection.where is not None else []
    asked = {column for each in where for column in each.keeps.meta.root_names()}

    rows = deciding_rows(files, columns, {rule.source for rule in rules} | asked | plan.dtypes.keys())
    if rows.is_empty():
        raise ScriptError(f"the runs files in {some(options.inputs)} have no rows", NOTHING_USABLE)
    found = rows if options.keep_all else latest(rows)
    projects = found["project"].drop_nulls().unique().to_list()
    chosen, filtered = selected(found, simple_filters(options.selection, projects))
    chosen = chosen.with_columns(derived_columns(rules, stored))
    history_row_count = 0
    if wish:
        chosen, history_row_count, unreadable = with_histories(chosen, plan)
        broken += unreadable
    chosen, filtered_by_where = selected(chosen, where)

    with published(options.output, folder=bool(options.partition_by)) as place:
        in_order = rows_in_order(files, columns, chosen, new).select(order)
        written = write(in_order, place, metadata, options.partition_by)
    outcome = Outcome(
        outputs=[options.output + file.removeprefix(place) for file in written],
        files=len(files),
        rows_read=len(rows),
        runs_found=len(found),
        runs=len(chosen),
        columns=len(order),
        filters=filtered + filtered_by_where,
        derived=[fit_of(column, chosen) for column in dtypes_by_rules(rules)],
        histories=history_report(plan, chosen, history_row_count, sampled) if wish else None,
        conflicts=conflicts + disputes,
        remarks=remarks(rules, stored, plan.best),
    )
    return outcome, broken


def check_partition_columns(wanted: Iterable[str], columns: Sequence[str]) -> None:
    """Refuse to partition by what is no column."""
    for column in wanted:
        if column not in columns:
            near = did_you_mean(column, columns)
            raise ScriptError(f"--partition-by {column}: there is no such column{near}", WRONG_USAGE)
        if column == "tags":
            raise ScriptError("--partition-by tags: they are lists, which name no folder", WRONG_USAGE)


def remarks(rules: Iterable[Rule], dtypes: Mapping[str, pl.DataType], best: Best | None) -> list[str]:
    """What else users should know: rules of theirs that ask a column that is not there, and which way is better."""
    absent = [rule for rule in rules if rule.source not in dtypes and rule.origin != "built in"]
    said = [f"{r.origin} ({r.column}): no column {r.source}{did_you_mean(r.source, dtypes)}" for r in absent]
    if best:
        way = "lower" if best.goal == "minimize" else "higher"
        said.append(f"history_at_*: where {'.'.join(best.path)} was best; {way} is better ({best.reason})")
    return said


def tolerate_any_text() -> None:
    """Let a name from W&B that the terminal's encoding lacks be printed all the same."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    return guarded(lambda: aggregate(parse_args(argv)), debug=debug)


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


def leave(code: int) -> NoReturn:
    """End at once: all is written, and what is left, such as threads that wait for a server, would hold the process."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it may be closed, or None
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
