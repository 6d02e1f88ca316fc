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

INPUTS are runs files as export_runs.py writes them, earlier results of this script, directories (searched to
any depth) and globs. What a file holds is told by its columns: in directories, histories and foreign parquet
files are passed over. A file that is named but holds no runs, or a damaged file anywhere, is left out and
named (exit code 3).

ROWS. Each run gives one row, from its newest export; where it was exported both from the server and from its
offline logs, the one with more history decides. Filters look at that row, and each says how many it keeps.
Rows are sorted by entity, project, created_at and id; source_file tells which file a row comes from.

COLUMNS meet by their W&B path, not by their name. A column that is missing in a file is null there. Where
files disagree on a type, the narrowest type that holds every value wins: integers with floats become floats;
text whose every value is a number, such as 1e-3, becomes numbers; any other mixture becomes text. Nothing is
dropped, and each such column is reported.

DERIVED COLUMNS are read off the run's name, or off the config where that says more. No match, no value:
  stage        stage2c                       model_type   spectral, digress, gnn, attention, hybrid
  arch         a known name as a whole word  protocol     single_graph, distribution
  k, seed_parsed                 _k16, _s3   lr_parsed, wd_parsed, eps_parsed   _lr1e-3, _wd1e-4, _eps0.1

The path of the written file goes to stdout, all else to stderr. With --json, stdout carries one object
instead: files, summary, filters, derived, conflicts and skipped, each but the first an array of flat rows.

Exit codes: 0 all done; 1 nothing usable, or no run left; 2 wrong usage; 3 some inputs were left out; 130
interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import glob
import hashlib
import io
import json
import math
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    import polars as pl

# ---- constants -------------------------------------------------------------
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
RUN_KEY = ("entity", "project", "id")  # what makes a row a run of its own
ROW_ORDER = ("entity", "project", "created_at", "id", "source_file")
# All that decides which rows are written, and in which order; small, so that it fits in memory for any input.
DECIDING = (*RUN_KEY, "name", "state", "created_at", "history_rows", "exported_at", "source_file")
FILE_NUMBER, ROW_NUMBER, POSITION = "__file", "__row", "__position"  # of our own making, never written

ROW_GROUP_ROWS = 100_000  # large enough to scan fast, small enough to skip most of a big file
SHOWN = 5  # examples in a line for people; --json holds all


# ---- nouns -----------------------------------------------------------------
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

    file: Path
    dtypes: Mapping[str, pl.DataType]
    paths: Mapping[str, KeyPath]  # by column; empty where the file carries no metadata
    metrics: Mapping[str, Mapping[str, object]]  # by column: goal, summary, step_metric
    sources: Sequence[Mapping[str, object]]  # the exports that its rows come from; more than one in an aggregate


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


class Selection(NamedTuple):
    """Which runs are wanted: within a field any of the values, across fields all."""

    states: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()


class Options(NamedTuple):
    """The command line, understood."""

    inputs: tuple[str, ...]
    output: Path
    selection: Selection
    enrich: bool
    json: bool
    quiet: bool


class Outcome(NamedTuple):
    """What was merged: everything that the report needs, and nothing that grows with the number of runs."""

    files: int
    rows_read: int
    runs_found: int
    runs: int
    columns: int
    filters: Sequence[Filtered]
    derived: Sequence[Fit]
    conflicts: Sequence[Conflict]


# ---- inputs ------------------------------------------------------------------
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

    file: Path
    named: bool


def find_inputs(inputs: Iterable[str], *, output: Path) -> list[Candidate | Skipped]:
    """Every file that the inputs stand for, once each; an earlier output that is merely found is no input."""
    found: dict[Path, Candidate] = {}
    lost: list[Candidate | Skipped] = []
    for place in inputs:
        candidates = files_of(place)
        if candidates is None:
            lost.append(Skipped(place, "missing", "there is no such file or directory", failure=True))
        for candidate in candidates or ():
            if isinstance(candidate, Skipped):
                lost.append(candidate)
                continue
            key = candidate.file.resolve()
            if candidate.named or (key not in found and key != output.resolve()):
                found[key] = candidate
    return [*dict.fromkeys(lost), *sorted(found.values())]


def files_of(place: str) -> list[Candidate | Skipped] | None:
    """The files that a file name, a directory or a glob stands for; None where there is nothing."""
    if exists(place):  # before globs: a file's name may hold brackets
        return files_at(Path(place), named=True)
    matches = glob.glob(place, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [file for match in matches for file in files_at(Path(match), named=False)] if matches else None


def exists(place: str) -> bool:
    """Whether there is such a file or directory."""
    return os.path.exists(place)  # noqa: PTH110 - Path.exists raises for what cannot be a name


def files_at(path: Path, *, named: bool) -> list[Candidate | Skipped]:
    """The file at `path`, or the parquet files below it."""
    return parquet_files_below(path) if path.is_dir() else [Candidate(path, named=named)]


def parquet_files_below(directory: Path) -> list[Candidate | Skipped]:
    """Every parquet file at any depth but the hidden ones, among which are the unfinished; folders that are closed."""
    found: list[Candidate | Skipped] = []

    def closed(error: OSError) -> None:
        reason = f"it cannot be read: {error.strerror or error}"
        found.append(Skipped(str(error.filename), "unreadable", reason, failure=True))

    for folder, subfolders, names in os.walk(directory, onerror=closed):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = [Path(folder, name) for name in names if name.endswith(".parquet") and not name.startswith(".")]
        found += [Candidate(file, named=False) for file in files if file.is_file()]
    return found


def read_header(file: Path, *, named: bool) -> RunsFile | Skipped:
    """What the footer says of `file`, or why it gives no runs."""
    try:
        dtypes = dict(scan(file).collect_schema())
        metadata = pl.read_parquet_metadata(file)
        kind = "result" if RESULT_KEY in metadata else kind_of(dtypes)
        if kind != "runs":
            return Skipped(str(file), kind, f"it holds no runs but is {kind}", failure=named)
        refuse_foreign_dtypes(dtypes)
        return described(file, dtypes, metadata)
    except ValueError as error:
        return Skipped(str(file), "foreign", f"it cannot be used: {error}", failure=True)
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
    """Raise ValueError for the first column that the contract's dtypes cannot hold."""
    contract = contract_dtypes()
    for column, dtype in dtypes.items():
        wanted = contract.get(column)
        if wanted is not None and not convertible(dtype, wanted):
            raise ValueError(f"its column {column} is {dtype} instead of {wanted}")
        if wanted is None and (dtype.is_nested() or dtype in (pl.Binary, pl.Object)):
            raise ValueError(f"its column {column} is {dtype}, neither number nor text")


def described(file: Path, dtypes: Mapping[str, pl.DataType], metadata: Mapping[str, str]) -> RunsFile:
    """The runs file with what its metadata tells; ValueError where that is not what the contract says."""
    paths = {column: key_path(path) for column, path in json_object(metadata, COLUMNS_KEY).items()}
    paths = {column: path for column, path in paths.items() if column in dtypes and prefix_of(column)}
    if len({(prefix_of(column), path) for column, path in paths.items()}) < len(paths):
        raise ValueError(f"its {COLUMNS_KEY} gives one path to two columns")
    metrics = {c: says for c, says in json_object(metadata, METRICS_KEY).items() if isinstance(says, dict)}
    source = json_object(metadata, SOURCE_KEY)
    several = source.get("sources")
    sources = [s for s in several if isinstance(s, dict)] if isinstance(several, list) else [source]
    return RunsFile(file, dtypes, paths, metrics, [{"file": str(file), **s} for s in sources])


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


def damaged(file: Path, error: BaseException) -> Skipped:
    """`file`, left out because of `error`, whose first line says why."""
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    return Skipped(str(file), "damaged", f"it cannot be read: {reason}", failure=True)


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


# ---- one schema: which columns are the same ------------------------------------
def one_schema(files: Sequence[RunsFile]) -> tuple[list[Column], list[Conflict]]:
    """The columns of all files as columns of one, in the result's order, and what the files disagreed on."""
    parts = parts_by_identity(files)
    names = names_of(parts)
    texts = dtypes_of_texts(files, parts)
    contract = contract_dtypes()
    columns, conflicts = [], []
    for identity, members in parts.items():
        name = names[identity]
        meanings = {texts.get((n, own), plain(dtype, name)) for n, (own, dtype) in members.items()}
        column = Column(name, identity[1], contract.get(name) or meeting(meanings, name), members)
        columns.append(column)
        conflicts += conflicts_of(column, files)
    return in_order(columns), sorted(conflicts)


def parts_by_identity(files: Sequence[RunsFile]) -> dict[Identity, dict[int, tuple[str, pl.DataType]]]:
    """For every column over all files: its own name and dtype in each file that has it."""
    known = names_of((prefix_of(c), path) for file in files for c, path in file.paths.items())
    guesses = {name: identity for identity, name in known.items()}
    parts: dict[Identity, dict[int, tuple[str, pl.DataType]]] = {("", (c,)): {} for c in contract_dtypes()}
    for number, file in enumerate(files):
        for column, dtype in file.dtypes.items():
            parts.setdefault(identity_of(column, file, guesses), {})[number] = (column, dtype)
    return parts


def identity_of(column: str, file: RunsFile, guesses: Mapping[str, Identity]) -> Identity:
    """What `column` stands for. Where its file tells no path, other files' columns of this name do."""
    prefix = prefix_of(column)
    if column in file.paths:
        return prefix, file.paths[column]
    guess = guesses.get(column) or (prefix, (column.removeprefix(prefix),))
    taken = {(prefix_of(known), path) for known, path in file.paths.items()}
    return guess if guess not in taken else (prefix, (column,))


def prefix_of(column: str) -> str:
    """The prefix of a column that stands for a W&B path; empty for any other column."""
    return next((prefix for prefix in (CONFIG, METRIC) if column.startswith(prefix)), "")


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
    """The contract's columns, others that the files brought along, config, metrics, the JSON texts."""
    contract = list(contract_dtypes())

    def place(column: Column) -> tuple[int, int, str]:
        if column.name in contract:
            return (4 if column.name.endswith("_json") else 0), contract.index(column.name), ""
        return ("", CONFIG, METRIC).index(prefix_of(column.name)) + 1, 0, column.name

    return sorted(columns, key=place)


def with_derived(columns: Sequence[str], derived: Sequence[str]) -> list[str]:
    """The columns in order: after the contract's the derived ones, instead of older ones of their name."""
    others = [column for column in columns if column not in derived]
    after = others.index("source_file") + 1
    return [*others[:after], *derived, *others[after:]]


def conflicts_of(column: Column, files: Sequence[RunsFile]) -> list[Conflict]:
    """Names that `column` gave up, as another path has a claim to them, and its dtypes if they differ."""
    names: dict[str, list[str]] = {}
    dtypes: dict[str, list[str]] = {}
    for number, (own, dtype) in column.parts.items():
        names.setdefault(own, []).append(str(files[number].file))
        dtypes.setdefault(str(plain(dtype, column.name)), []).append(str(files[number].file))
    names.pop(column.name, None)
    dtypes.pop("Null", None)
    several = dtypes if len(dtypes) > 1 and column.name not in contract_dtypes() else {}
    return [
        *(Conflict(column.name, "name", own, column.name, tuple(where)) for own, where in names.items()),
        *(Conflict(column.name, "dtype", d, str(column.dtype), tuple(where)) for d, where in several.items()),
    ]


# ---- one schema: names (the same in export_runs) --------------------------------
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


# ---- one schema: dtypes ----------------------------------------------------------
def contract_dtypes() -> dict[str, pl.DataType]:
    """The columns that every result has, in their order, with their dtypes."""
    text, time, whole = pl.String(), pl.Datetime("us", "UTC"), pl.Int64()
    identity = dict.fromkeys(("id", "name", "state", "entity", "project"), text)
    times = dict.fromkeys(("created_at", "heartbeat_at"), time)
    extent = {"runtime_s": pl.Float64(), "last_step": whole, "history_rows": whole, "tags": pl.List(pl.String)}
    labels = dict.fromkeys(("group", "job_type", "sweep", "user", "notes", "commit", "url"), text)
    origin = {"exported_at": time, "source_file": text}
    return identity | times | extent | labels | origin | dict.fromkeys(("_config_json", "_summary_json"), text)


def convertible(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a contract column of `dtype`, as others may write it, can be brought to the `wanted` one."""
    if dtype in (wanted, pl.Null):
        return True
    if wanted == pl.Float64:
        return dtype.is_numeric()
    if wanted == pl.Int64:
        return dtype.is_integer()
    if wanted == pl.String:
        return isinstance(dtype, pl.Categorical | pl.Enum)
    return isinstance(wanted, pl.Datetime) and isinstance(dtype, pl.Datetime)


def plain(dtype: pl.DataType, column: str) -> pl.DataType:
    """The contract's type that holds every value of `dtype`; Booleans count as 0 and 1 among metrics."""
    if dtype.is_temporal() and not prefix_of(column):  # a column that another tool has added
        return dtype
    if dtype in (pl.UInt64, pl.Int128, pl.UInt128):  # may pass 64 bits
        return pl.Float64()
    if dtype.is_integer() or (dtype == pl.Boolean and prefix_of(column) == METRIC):
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
    return {
        (number, column): dtype
        for number, columns in doubtful.items()
        for column, dtype in meanings_of_texts(scan(files[number].file), columns).items()
    }


def meanings_of_texts(runs: pl.LazyFrame, columns: Sequence[str]) -> dict[str, pl.DataType]:
    """For each text column: the type of number that all its values spell, Null if it has none, or String."""
    found = runs.select(meaning_of_text(pl.col(column).cast(pl.String)) for column in columns).collect()
    types = {"Null": pl.Null(), "Int64": pl.Int64(), "Float64": pl.Float64(), "String": pl.String()}
    return {column: types[found[column][0]] for column in columns}


def meaning_of_text(text: pl.Expr) -> pl.Expr:
    """The narrowest type for all values of `text`, as text. Only JSON's spelling counts: `007` is a name."""
    values = text.drop_nulls()
    whole = values.str.contains(r"^-?(0|[1-9][0-9]*)$") & values.cast(pl.Int64, strict=False).is_not_null()
    decimal = values.str.contains(r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$")
    in_range = values.cast(pl.Float64, strict=False).is_finite().fill_null(False)
    number = (decimal & in_range) | values.is_in(["NaN", "Infinity", "-Infinity"])
    return (
        pl.when(values.len() == 0)
        .then(pl.lit("Null"))
        .when(whole.all())
        .then(pl.lit("Int64"))
        .when(number.all())
        .then(pl.lit("Float64"))
        .otherwise(pl.lit("String"))
        .alias(text.meta.output_name())
    )


def brought(column: str, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """The values of `column` in the `wanted` type; no value is lost, as `wanted` was chosen to hold them."""
    values = pl.col(column)
    if dtype == wanted:
        return values
    if wanted == pl.String and dtype.is_float():
        return spelt_as_json(values.cast(pl.Float64))
    return values.cast(wanted)


def spelt_as_json(number: pl.Expr) -> pl.Expr:
    """Floats as Python's json, and so export_runs, spells them: `1e-05`, where polars has `0.00001`."""
    return (
        number.cast(pl.String)
        .str.replace("inf", "Infinity", literal=True)
        .str.replace(r"^(-?)0\.0000([1-9])$", "${1}${2}e-05")
        .str.replace(r"^(-?)0\.0000([1-9])([0-9]+)$", "${1}${2}.${3}e-05")
        .str.replace(r"e-([0-9])$", "e-0${1}")
    )


# ---- one schema: what the metadata says of it --------------------------------------
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
                claims.setdefault(key, {}).setdefault(json_text(value), []).append(str(files[number].file))
    agreed = {key: json.loads(next(iter(values))) for key, values in claims.items() if len(values) == 1}
    disputed = [
        Conflict(column.name, key, str(json.loads(value)), "not stored", tuple(sayers))
        for key, values in claims.items()
        if len(values) > 1
        for value, sayers in values.items()
    ]
    return agreed, disputed


# ---- rows by key -----------------------------------------------------------------------
def deciding_rows(files: Sequence[RunsFile], columns: Sequence[Column]) -> pl.DataFrame:
    """What decides whether and where each row is written, with its file and row number."""
    needed = [column for column in columns if column.name in DECIDING]
    frames = [
        unified(number, file, needed).with_columns(pl.lit(number, dtype=pl.UInt32).alias(FILE_NUMBER))
        for number, file in enumerate(files)
    ]
    offline = pl.col("source_file").is_in(offline_files(files))
    return pl.concat(frames).with_columns(offline=offline).collect()


def offline_files(files: Iterable[RunsFile]) -> list[str]:
    """The files whose runs were read from logs on disk; those that went into an aggregate included."""
    return sorted({str(s["file"]) for file in files for s in file.sources if s.get("kind") == "offline"})


def latest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per run: the newest export; between an offline and a server row the one with more history.

    Ties go to the newest, then to the first file, so that the order of the inputs never matters.
    """
    newest_first = rows.sort("exported_at", FILE_NUMBER, ROW_NUMBER, descending=[True, False, False], nulls_last=True)
    newest = newest_first.unique([*RUN_KEY, "offline"], keep="first", maintain_order=True)
    fullest_first = newest.sort("history_rows", descending=True, nulls_last=True, maintain_order=True)
    return fullest_first.unique(RUN_KEY, keep="first", maintain_order=True)


# ---- filters ---------------------------------------------------------------------------
class Filtered(NamedTuple):
    """What one filter did."""

    filter: str
    before: int
    kept: int


def selected(runs: pl.DataFrame, selection: Selection) -> tuple[pl.DataFrame, list[Filtered]]:
    """The runs that pass every filter, and what each filter did; ScriptError where one leaves none."""
    done = []
    for flag, column, predicate in filters(selection, runs["project"].drop_nulls().unique().to_list()):
        kept = runs.filter(predicate)
        if kept.is_empty():
            there = some(runs[column].drop_nulls().unique().sort().to_list())
            message = f"no run left: {flag} kept none of {counted(len(runs), 'run')}; their {column}s: {there}"
            raise ScriptError(message, NOTHING_USABLE)
        done.append(Filtered(flag, len(runs), len(kept)))
        runs = kept
    return runs, done


def filters(selection: Selection, projects: Iterable[str]) -> list[tuple[str, str, pl.Expr]]:
    """The filters that were asked for: as the user writes them, the column they look at, the predicate."""
    wanted = []
    if selection.projects:
        hits = [p for p in projects if any(matches(p, pattern) for pattern in selection.projects)]
        wanted.append((f"--project {','.join(selection.projects)}", "project", pl.col("project").is_in(hits)))
    if selection.states:
        in_state = pl.col("state").str.to_lowercase().is_in(selection.states)
        wanted.append((f"--state {','.join(selection.states)}", "state", in_state))
    if selection.names:
        named = pl.any_horizontal([pl.col("name").str.contains(f"(?i){regex}") for regex in selection.names])
        wanted.append((" ".join(f"--filter {regex}" for regex in selection.names), "name", named))
    return wanted


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


def check_patterns(regexes: Iterable[str]) -> None:
    """Refuse a name filter that is no regular expression."""
    for regex in regexes:
        try:
            pl.select(pl.lit("").str.contains(f"(?i){regex}"))
        except pl.exceptions.ComputeError as error:
            reason = re.search(r"^error: (.*)$", str(error), re.MULTILINE)
            why = reason[1] if reason else "it cannot be understood"
            raise ScriptError(f"--filter {regex} is no regular expression: {why}", WRONG_USAGE) from error


# ---- derived columns -------------------------------------------------------------------
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


def derived_columns(rules: Sequence[Rule], dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """An expression per derived column, in the rules' order; null where no rule matches or has its source."""
    types = {"string": pl.String(), "int": pl.Int64(), "float": pl.Float64(), "bool": pl.Boolean()}
    by_column: dict[str, list[Rule]] = {}
    for rule in rules:
        by_column.setdefault(rule.column, []).append(rule)
    return [
        pl.coalesce(
            *(value_by(rule, dtypes[rule.source]) for rule in tried if rule.source in dtypes),
            pl.lit(None, dtype=pl.String),
        )
        .cast(types[tried[0].dtype], strict=False)  # a number past 64 bits is no value
        .alias(column)
        for column, tried in by_column.items()
    ]


def value_by(rule: Rule, dtype: pl.DataType) -> pl.Expr:
    """What `rule` finds in its source, as text: null where the pattern does not match."""
    text = brought(rule.source, dtype, pl.String())
    if rule.source == "name":
        text = text.str.to_lowercase()
    pattern = f"(?i){rule.pattern}"
    if rule.value is None:
        return text.str.extract(pattern, 1)
    return pl.when(text.str.contains(pattern)).then(pl.lit(rule.value))


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


def fit_of(column: str, runs: pl.LazyFrame) -> Fit:
    """How many runs got a value in a derived column, the commonest values, and names that matched nothing."""
    frame = runs.select("name", column).collect()
    values = frame[column].drop_nulls()
    commonest = values.value_counts().sort("count", column, descending=[True, False]).head(SHOWN)
    unmatched = frame.filter(pl.col(column).is_null())["name"].drop_nulls().unique().sort()
    return Fit(
        column=column,
        dtype=str(values.dtype),
        runs=len(values),
        missing=len(frame) - len(values),
        distinct=len(values.unique()),
        commonest=commonest[column].to_list(),
        commonest_runs=commonest["count"].to_list(),
        unmatched_names=unmatched.head(SHOWN).to_list(),
    )


# ---- files -------------------------------------------------------------------------------
def scan(file: Path) -> pl.LazyFrame:
    """The rows of `file`. Its name is taken as it is: no glob, and no columns from `key=value` directories."""
    return pl.scan_parquet(file, glob=False, hive_partitioning=False)


def unified(number: int, file: RunsFile, columns: Sequence[Column]) -> pl.LazyFrame:
    """The rows of file `number` in the result's columns and dtypes, each with its row number."""
    values = [value_in(number, file, column).alias(column.name) for column in columns]
    return scan(file.file).with_row_index(ROW_NUMBER).select(ROW_NUMBER, *values)


def value_in(number: int, file: RunsFile, column: Column) -> pl.Expr:
    """The values of a column of the result in file `number`; null where the file does not have it."""
    absent = pl.lit(None, dtype=column.dtype)
    values = brought(*column.parts[number], column.dtype) if number in column.parts else absent
    if column.name == "source_file":  # an aggregate's rows keep their first origin
        return values.fill_null(pl.lit(str(file.file)))
    return values.fill_null(pl.lit([], dtype=column.dtype)) if column.name == "tags" else values


def rows_in_order(files: Sequence[RunsFile], columns: Sequence[Column], chosen: pl.DataFrame) -> pl.LazyFrame:
    """The chosen rows of all files, whole, in the result's order."""
    placed = chosen.sort(ROW_ORDER).with_row_index(POSITION)
    frames = []
    for number, file in enumerate(files):
        rows = placed.filter(pl.col(FILE_NUMBER) == number).select(ROW_NUMBER, POSITION)
        if not rows.is_empty():
            frames.append(unified(number, file, columns).join(rows.lazy(), on=ROW_NUMBER))
    return pl.concat(frames).sort(POSITION)


def write(runs: pl.LazyFrame, file: Path, metadata: Mapping[str, str]) -> None:
    """Stream `runs` into `file`."""
    with unfinished_unnamed(file):
        runs.sink_parquet(
            file, compression="zstd", statistics=True, row_group_size=ROW_GROUP_ROWS, metadata=dict(metadata)
        )


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
def unfinished_unnamed(file: Path) -> Iterator[None]:
    """Take the name of the unfinished `file` off an error of polars: the user knows the file by another."""
    try:
        yield
    except OSError as error:
        reason = str(error)  # it ends in the name, which may be cut short
        raise OSError(reason.partition(" (os error")[0] if file.suffix in reason else reason) from error


# ---- report --------------------------------------------------------------------------------
def report(outcome: Outcome, skipped: Sequence[Skipped], say: Say) -> None:
    """Tell people what was done: rows, filters, conflicts, derived columns."""
    say(f"{counted(outcome.rows_read, 'row')} in {counted(outcome.files, 'file')}")
    if outcome.rows_read > outcome.runs_found:
        say(f"{counted(outcome.runs_found, 'run')}, as newer or fuller exports of a run replace others")
    tell_passed_over([skip for skip in skipped if not skip.failure], say)
    for filtered in outcome.filters:
        say(f"{filtered.filter}: {filtered.kept} of {counted(filtered.before, 'run')} kept")
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
        return f"{found} is called {became} here: {why}"
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


def complain(skipped: Iterable[Skipped]) -> None:
    """Name what failed, on stderr even when quiet."""
    for skip in skipped:
        if skip.failure:
            print(printable(f"error: {skip.file} was left out: {skip.reason}"), file=sys.stderr)


def as_json(outcome: Outcome, skipped: Sequence[Skipped], output: Path) -> str:
    """The report for programs."""
    summary = {
        "file": str(output),
        "inputs": outcome.files,
        "rows_read": outcome.rows_read,
        "runs_found": outcome.runs_found,
        "runs": outcome.runs,
        "columns": outcome.columns,
    }
    return json_text(
        {
            "version": 1,
            "files": [str(output)],
            "summary": [summary],
            "filters": [filtered._asdict() for filtered in outcome.filters],
            "derived": [fit._asdict() for fit in outcome.derived],
            "conflicts": [conflict._asdict() for conflict in outcome.conflicts],
            "skipped": [skip._asdict() for skip in skipped],
        }
    )


# ---- streams -----------------------------------------------------------------------------------
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


# ---- command line ------------------------------------------------------------------------------
def parse_args(argv: Sequence[str] | None) -> Options:
    """The command line as Options; the only place that knows argparse."""
    parser = Parser(__doc__ or "")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help=f"file, directory or glob (default: {DEFAULT_INPUT})"
    )
    parser.add_argument("--output", "-o", metavar="FILE", default=DEFAULT_OUTPUT, help="default: %(default)s")
    rows = parser.add_argument_group("which runs (flags repeat; each says how many runs it kept)")
    rows.add_argument("--state", "-s", action="append", metavar="STATE", help="finished, crashed, ... (default: all)")
    rows.add_argument("--filter", "-f", action="append", metavar="REGEX", help="on the run's name, in any case")
    rows.add_argument("--project", "-p", action="append", metavar="NAME", help="name or glob, in any case")
    columns = parser.add_argument_group("which columns")
    columns.add_argument("--no-enrich", action="store_true", help="add no derived columns")
    streams = parser.add_argument_group("streams")
    streams.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    streams.add_argument("--quiet", action="store_true", help="only errors on stderr")
    streams.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_strictly(argv)
    return Options(
        inputs=tuple(args.inputs) or (DEFAULT_INPUT,),
        output=parquet_file(args.output),
        selection=Selection(states(args.state), tuple(args.filter or ()), comma_separated(args.project)),
        enrich=not args.no_enrich,
        json=args.json,
        quiet=args.quiet,
    )


def parquet_file(name: str) -> Path:
    """The output file, whose ending must tell what it is: directories are read by that ending."""
    if not name.endswith(".parquet"):
        raise ScriptError(f"-o {name}: the result is a parquet file, so its name must end in .parquet", WRONG_USAGE)
    return Path(name)


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


# ---- the whole ---------------------------------------------------------------------------------
def import_libraries() -> None:
    """Import what takes time: once the command line is right."""
    global pl
    import polars as pl


def aggregate(options: Options) -> int:
    """From inputs to one file and its report; the exit code says whether every input went in."""
    import_libraries()
    check_patterns(options.selection.names)
    refuse_to_replace_an_export(options.output)
    files, skipped = recognised(options)
    try:
        outcome = merge(files, options)
    except reading_errors():  # a footer can be sound where the rows are not
        files, broken = sound_and_damaged(files)
        if not broken:
            raise
        skipped += broken
        outcome = merge(files, options)
    finally:
        complain(skipped)
    report(outcome, skipped, speaker(quiet=options.quiet))
    print(as_json(outcome, skipped, options.output) if options.json else options.output)
    return PARTIAL if any(skip.failure for skip in skipped) else OK


def refuse_to_replace_an_export(output: Path) -> None:
    """Raise where the output is a file of an export: only an earlier aggregate tells its rows' source_file."""
    try:
        columns = scan(output).collect_schema().names() if output.is_file() else []
    except reading_errors():  # no parquet file, so no export
        columns = []
    if kind_of(columns) != "foreign" and "source_file" not in columns:
        raise ScriptError(f"-o {output} holds an export, which would be lost; choose another name", WRONG_USAGE)


def merge(files: Sequence[RunsFile], options: Options) -> Outcome:
    """Write the runs of `files` to the output."""
    if not files:
        raise ScriptError(f"no runs in {some(options.inputs)}; export_runs.py writes runs files", NOTHING_USABLE)
    columns, conflicts = one_schema(files)
    metadata, disputes = merged_metadata(files, columns)
    rows = deciding_rows(files, columns)
    if rows.is_empty():
        raise ScriptError(f"the runs files in {some(options.inputs)} have no rows", NOTHING_USABLE)
    found = latest(rows)
    chosen, filtered = selected(found, options.selection)
    derived = derived_columns(RULES if options.enrich else (), {c.name: c.dtype for c in columns})
    derived_names = [values.meta.output_name() for values in derived]
    order = with_derived([column.name for column in columns], derived_names)
    with replacing(options.output) as partial:
        write(rows_in_order(files, columns, chosen).with_columns(derived).select(order), partial, metadata)
        fits = [fit_of(column, scan(partial)) for column in derived_names]
    return Outcome(
        files=len(files),
        rows_read=len(rows),
        runs_found=len(found),
        runs=len(chosen),
        columns=len(order),
        filters=filtered,
        derived=fits,
        conflicts=conflicts + disputes,
    )


def tolerate_any_text() -> None:
    """Let a name from W&B that the terminal's encoding lacks be printed all the same."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out."""
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


if __name__ == "__main__":
    raise SystemExit(main())
