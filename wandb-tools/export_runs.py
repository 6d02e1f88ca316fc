#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyyaml>=6.0.2,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "tzdata>=2025.2,<2100",
#   "urllib3>=2.6.3,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Export W&B runs to parquet files: each config, summary and history row, nothing sampled, nothing lost.

From a server: name projects, runs, sweeps or groups as PLACE, or projects with -e and -p. The server filters the runs.
With --offline: from the run folders of the W&B SDK on disk (any version), without a server or an account; this includes
crashed runs that were never synced. Each project gives these files; the path of each runs file is printed:

  <dir>/<entity>_<project>_runs.parquet      one row per run
  <dir>/<entity>_<project>_metadata.json     filters, counts, failures, checksums

and, if asked for, these:

  ..._history.parquet           one row per run and step (--include-history)
  ..._history_sampled.parquet   about N rows per run, sampled by the server (--history-samples N)
  ..._console.parquet           one row per line of output (--console, or --console-lines N for the last N)
  ..._table_<key>.parquet       the rows of all W&B Tables with this key (--tables)
  ..._system.parquet            CPU, GPU and memory over time (--system-metrics); a server samples them

A second export into the same folder updates all runs, downloads only histories that changed, and keeps runs that are
not part of this export. A history that is cut off, by a failed download or in a log, never replaces a longer one. After
an interruption, the next export continues with what is missing.

--json prints one object instead of the paths: version, exports (entity, project, status, runs; filtered: runs left out
by the filters; history_rows, also without --include-history; failed: failures; torn: logs that end early; kept: runs of
an earlier export) and files (paths). With --verify: version and verified (entity, project, file, error).

The API key is read from --api-key-file, WANDB_API_KEY, `wandb login` (netrc) or the SDK's settings file, never from an
argument. For a self-hosted server, set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private.

Examples:
  uv run wandb-tools/export_runs.py my-team/my-project -o export/ --include-history
  uv run wandb-tools/export_runs.py -e my-team -p 'denoising*' --state finished,crashed --since 7d
  uv run wandb-tools/export_runs.py my-team/my-project --where '{"config.lr": {"$gt": 0.01}}' --dry-run
  uv run wandb-tools/export_runs.py https://wandb.ai/my-team/my-project/sweeps/abc123 -o sweep/
  uv run wandb-tools/export_runs.py my-team/my-project --include-history --history-keys 'val/*,epoch' --json
  uv run wandb-tools/export_runs.py my-team/my-project --state crashed --console-lines 50 --tables --system-metrics
  uv run wandb-tools/export_runs.py --offline wandb/ -o export/ --include-history --console
  uv run wandb-tools/export_runs.py --verify export/   checks files against their checksums, without an account

Exit codes:
  0    all done (also if a log ends early, as after a crash)
  1    nothing usable: no access, no such run, no run left after the filters, or the output cannot be written
  2    wrong usage
  3    partial: some projects, runs or logs failed and are named; the rest is written
       --verify: some files are damaged or missing
  130  interrupted: the files of each project are all new or all as before
"""

from __future__ import annotations

import argparse
import base64
import configparser
import copyreg
import difflib
import errno
import fnmatch
import gc
import hashlib
import importlib.util
import io
import itertools
import json
import math
import netrc
import os
import re
import shlex
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from glob import has_magic
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from importlib.metadata import version

    import orjson
    import polars as pl
    import polars.selectors as cs
    import requests
    import urllib3

    DAMAGED: tuple[type[pl.exceptions.PolarsError], type[pl.exceptions.PanicException]]  # raised for unreadable files

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
HISTORIES_KEY = "wandb_tools.histories"  # of a table's file: among others, the revision of each run's rows
EXPORT_ID_KEY = "wandb_tools.export_id"
TABLE_KEY = "wandb_tools.table"  # in the metadata of a W&B Table's file: the key that it was logged under
SCHEMA_VERSION = "1"
VERSION = "0.1.0"

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
NO_ENTITY, NO_PROJECT = "offline", "uncategorized"  # in place of names that logs lack; the second is the SDK's own
FRESH = timedelta(minutes=5)  # W&B's own limit: a run without a heartbeat for longer has crashed
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # in place of an unknown time
CONFIG, METRIC = "config_", "metric_"  # the prefixes of flattened columns
NOT_CONFIG = ("_wandb", "wandb_version")  # W&B's own notes in a config
CLOCKS: dict[KeyPath, str] = {("_step",): "order", ("_runtime",): "_runtime", ("_timestamp",): "_timestamp"}  # in Parts
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # by their spelling in W&B's JSON
SUMMARY_KINDS = ("min", "max", "mean", "best", "last", "none", "copy", "first")  # of define_metric, by their numbers
GOALS = {1: "minimize", 2: "maximize"}  # of the protobuf field MetricRecord.goal
LOGGED_DTYPES = ("Boolean", "Int64", "Float64", "String")  # of logged values, as polars calls them
PART_KEY = "wandb_tools.parts"  # of a part file: its whole histories, for a later export by this version
INDEX = ("id", "created_at", "heartbeat_at", "state", "last_step", "history_rows", "group", "sweep")  # see Page
TEXTS = ("_config_json", "_summary_json")  # the last columns of the runs file

WORKERS = 8  # requests at once: more gain little and burden a shared server
DOWNLOADS_PER_WORKER = 4  # at once, from the storage host, not from the API
PROJECTS_AT_ONCE = 4
PAGES_AT_ONCE = 8  # pages of runs in memory: 15 MB each
TIMEOUT_S = 60  # enough for the largest page from a busy server; longer looks like a hang
RETRIES = 4
PAGE_RUNS = 1_000  # runs per query, the most that a server returns
WINDOW_RUNS = 400  # runs per window of creation times: one is parsed while others are fetched
MOST_LOST = 10  # runs per project that the server cannot return: each takes some seconds to find
LISTINGS = 3  # attempts to list a project whose runs change during the listing
RUNS_PER_QUERY = 20  # runs or sweeps per query
LIVE_ROWS_PER_QUERY = 5_000
SYSTEM_SAMPLES = 1_000  # rows of system metrics a run

# Limits of what a server or a file may state or hold; ANSWER_BYTES and MOST_PAGES are two more.
MOST_WINDOWS = 10_000  # of creation times
MOST_LIVE_ROWS = 1_000_000_000  # of one run that are in no export yet: 200,000 queries
MOST_SAMPLES = 2**31 - 1  # GraphQL's ints have 32 bits
# W&B's exports may have twice the rows that the server counts, and these: live runs go on, steps repeat.
SPARE_ROWS = 100_000
EXPORT_BYTES, TABLE_BYTES = 10_000_000_000, 500_000_000  # of a download, uncompressed; tables are read whole
YAML_BYTES = 1_000_000  # of a YAML text's JSON, beyond ten times its own length
DEEPEST = 200  # nested levels that orjson surely writes: a summary with more brackets is checked

HISTORIES = "histories"  # the folder with the finished histories of an interrupted export
ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 16_000_000  # of configs and summaries, which may be long
ROW_GROUP_CELLS = 10_000_000  # where there are many metrics, row groups are shorter: 80 MB at most
PART_ITEMS = 300_000  # logged values of a log in memory before they are written to a part file: about 25 MB
PART_CELLS = 6_000_000  # the same bound for rows x columns, where metrics are sparse: 50 MB
LINES_HELD = 50_000  # the same bound for lines of output
PIECES_HELD = 1_000  # of one line of output, such as a progress bar
BATCH_ROWS = 20_000  # of histories that are fetched by one query and share a part file
UNWRITTEN_S = 1  # rows that are in no part file for longer are written: an interruption loses no more
BATCH_CELLS = 1_000_000  # rows x columns of several runs in memory: 8 MB a thread
SHARED_CELLS = BATCH_CELLS // RUNS_PER_QUERY  # of a run, if its rows share a part file with those of others
TASK_LOGS = 100  # logs per task of a process
FULL_DISK_BYTES = 1_000_000  # free at most: a file that was not written was too large
MANY_BYTES = 16_000_000  # of logs: less is read faster than a second process starts

MOST_NAMED = 10  # on stderr: runs with the same error, and projects without failures
PLAIN_LINE_S = 10  # between two lines of progress where there is no terminal
LONGEST_STEM = 200 - len(".parquet")  # of a file's name
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

# --- nouns ----------------------------------------------------------------------------------------------------

KeyPath: TypeAlias = tuple[str, ...]
Scalar: TypeAlias = bool | int | float | str | None
Leaves: TypeAlias = list[tuple[KeyPath, Any]]  # of a tree: its values, by their paths
Say: TypeAlias = Callable[[str], None]
AnyFrame: TypeAlias = "pl.DataFrame | pl.LazyFrame"
Names: TypeAlias = Mapping[KeyPath, str]  # of columns, by their paths
Stated: TypeAlias = Mapping[str, str | None]  # of a metric: its goal, summary and step_metric
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Selection:
    """Filters of runs: the values of a field are ORed, the fields ANDed; an empty field selects all."""

    entity: tuple[str, ...] = ()
    project: tuple[str, ...] = ()  # globs
    since: datetime | None = None  # since <= created_at < until
    until: datetime | None = None
    active_since: datetime | None = None  # <= heartbeat_at
    state: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    where: Mapping[str, object] = field(default_factory=dict)  # W&B's own filter, for the server

    @property
    def flags(self) -> list[str]:
        """The flags given that select some of the projects' runs."""
        given = [name for name, value in vars(self).items() if value and name not in ("entity", "project")]
        return [f"--{name.replace('_', '-')}" for name in given]


class Place(NamedTuple):
    """Projects of an entity on the server, by name or glob, or some runs of one project."""

    entity: str
    project: str
    key: str = ""  # run, sweep or group
    value: str = ""
    host: str = ""  # of a URL


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    offline: Path | None  # None: from the server
    verify: Path | None  # None: export
    places: tuple[Place, ...]
    output: Path
    selection: Selection
    include_history: bool
    history_keys: tuple[str, ...]  # globs; empty means all
    history_samples: int | None
    system_metrics: bool
    console: bool
    console_lines: int | None  # the last ones of each run; None: all
    tables: bool
    workers: int | None
    timeout: int  # s
    retries: int
    api_key_file: Path | None
    prune: bool
    dry_run: bool
    json: bool
    quiet: bool
    debug: bool


class MetricDefinition(NamedTuple):
    """The settings of `define_metric` for a metric, or for all that match a pattern with a trailing `*`."""

    pattern: str
    goal: str | None = None
    summary: str | None = None  # one or more of SUMMARY_KINDS, with commas, as define_metric takes them
    step_metric: str | None = None


class TableFile(NamedTuple):
    """A W&B Table as a run's summary names it. Addresses lead to files in artifacts."""

    path: str = ""  # among the run's files; empty if it is in none of them
    rows: int | None = 0
    address: str = ""  # of the same table in an artifact, without the limit of FILE_ROWS
    increments: tuple[str, ...] = ()  # addresses of the rows before those in the file


class Run(NamedTuple):
    """One run, from a server, from logs or from an earlier export."""

    row: dict[str, Any]  # the columns of `run_schema` and TEXTS
    leaves: Sequence[tuple[KeyPath, Scalar]]  # config values and the summary's numbers; paths begin with CONFIG, METRIC
    definitions: Sequence[MetricDefinition] = ()
    tables: Mapping[str, TableFile] = {}  # by the keys of its W&B Tables
    logs: Sequence[Log] = ()  # only offline
    rows: Mapping[str, RunRows] = {}  # only offline: by the table's name


@dataclass(frozen=True)
class Page:
    """Up to PAGE_RUNS runs in a parquet file of the working folder; its flattened columns are named by `column_key`."""

    file: Path
    index: pl.DataFrame  # the columns INDEX, which stay in memory
    kinds: Mapping[KeyPath, str]  # dtypes of the flattened columns; Null: not in the file
    nested: Mapping[str, frozenset[KeyPath]]  # by run id: paths of more than one key among the summary's numbers
    tables: Mapping[str, Mapping[str, TableFile]]  # by run id: see Run
    definitions: frozenset[MetricDefinition]
    text_bytes: int  # of the configs and summaries, the bulk of a row


class Part(NamedTuple):
    """One run's rows in a parquet file of the working folder. Other runs may share it; it is sorted by run and order.

    Its columns: `run_id`, `order` (Int64: the step, line or row number), those of `Table.columns`, and for the logged
    values of each path and dtype one named by `column_key`.
    """

    file: Path
    runs: int  # in the file
    dtypes: Mapping[KeyPath, str]  # of the run's logged values
    rows: int
    first: int  # lowest order
    last: int  # highest order


class RowsRequest(NamedTuple):
    """A run whose rows for one Table have to be read, as they differ from the earlier export."""

    id: str
    listed: int | None  # rows of its history, or of its W&B Table, as its page of runs has it
    last_step: int | None
    revision: tuple[str, ...]  # if it is the same as in the earlier export, the rows are the same
    file: TableFile  # of a W&B Table; else without a path

    def cache_key(self, table: Table) -> str:
        """Identifies the rows in part files of an interrupted export. It changes whenever the rows may change."""
        return path_hash((self.id, *self.revision, *table.made_of))


@dataclass
class RunRows:
    """One run's rows for one Table, in their order: first in `frame`, then in part files, last in the table's file."""

    parts: Sequence[Part] = ()
    skipped: set[KeyPath] = field(default_factory=set)  # keys whose values are no numbers
    revision: tuple[str, ...] = ()  # see RowsRequest
    # Rows that are in no part yet. Columns as there, but without `run_id`, and those of logged values without a dtype.
    frame: AnyFrame | None = None
    # Of rows from a server:
    cache_key: str = ""  # see RowsRequest
    counted: int = 0  # how many rows there are by the server's count; 0 without a count
    found: int = 0  # rows that were fetched; of these, `parts` have the last one of each step
    problem: str = ""  # why rows are missing

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def is_short(self) -> bool:
        return self.found < self.counted


class Earlier(NamedTuple):
    """A parquet file of an earlier export of the same project, or NO_EARLIER."""

    file: Path = Path()
    rows: Mapping[str, int] = {}  # by run id, in the file; of the runs file: of its history
    columns: Mapping[KeyPath, str] = {}  # of the columns with logged values
    dtypes: Mapping[KeyPath, str] = {}  # of the same
    facts: Mapping[str, Stated] = {}  # by column
    made_of: tuple[str, ...] = ()  # see Table
    revisions: Mapping[str, tuple[str, ...]] = {}  # by run id: see RunRows
    skipped: Sequence[str] = ()  # see Table
    export_id: str | None = None  # None where a file of an older version, or of a killed export, has to be written anew
    key: str = ""  # see Table


NO_EARLIER = Earlier()


@dataclass
class Table:
    """A file with many rows per run, such as the history. Each step of the export fills in more fields."""

    name: str  # the end of the file's name: history, history_sampled, system, console or table_<key>
    order: str | None  # the file's name for the column `order`; None: it is not written
    columns: Mapping[str, Any]  # dtypes of its fixed columns
    is_history: bool = False  # its logged values are metrics, whose columns have the same names as in the runs file
    is_wandb_table: bool = False  # a table that was logged with `wandb.Table`
    key: str = ""  # of such a table: the key that it was logged under
    made_of: tuple[str, ...] = ()  # the options that its rows depend on; if these differ, all are fetched again
    extent: tuple[str, ...] = ()  # which rows of a run are exported; empty: all
    is_asked: bool = False  # part of this export
    fetched: dict[str, RunRows] = field(default_factory=dict)  # by run id
    earlier: Earlier = NO_EARLIER
    staying: set[str] = field(default_factory=set)  # ids of runs whose rows in the earlier file stay
    outdated: list[str] = field(default_factory=list)  # of these, runs that have newer rows, but were asked for fewer
    dtypes: Mapping[KeyPath, str] = field(default_factory=dict)  # of the logged values of all rows
    names: Names = field(default_factory=dict)  # of these columns
    skipped: set[str] = field(default_factory=set)  # keys of the file's runs whose values are no numbers

    @property
    def rows(self) -> dict[str, int]:
        """How many rows of each run the file gets."""
        rows = {run_id: run_rows.rows for run_id, run_rows in self.fetched.items() if run_rows.rows}
        return rows | {run_id: self.earlier.rows[run_id] for run_id in self.staying}


class Failure(NamedTuple):
    """What could not be exported of a run (or of a project, or of a file whose run is unknown)."""

    run: str
    what: str
    error: str
    attempts: int = 1

    @classmethod
    def of(cls, error: BaseException, run: str, what: str) -> Self:
        """The failure that an exception means. One of another class than our own is unexpected and says so."""
        message = str(error) if isinstance(error, RequestError | ScriptError) else f"unexpected data: {error!r}"[:300]
        return cls(run, what, message, getattr(error, "attempts", 1))


@dataclass
class Project:
    """A project and all that is known of its export. Each step fills in more fields."""

    entity: str
    name: str
    filters: Mapping[str, object] = field(default_factory=dict)  # W&B's filters of its runs
    places: list[Place] = field(default_factory=list)  # by which it was named
    stem: str = ""  # the beginning of its files' names
    longer_stems: Collection[str] = ()  # stems of other projects that begin with it, in lower case
    earlier: Earlier = NO_EARLIER  # runs file
    # From its source:
    windows: list[Window] = field(default_factory=list)  # of creation times: its runs are listed by these
    is_changing: bool = False  # runs were added or deleted while they were listed
    page_runs: int = PAGE_RUNS  # runs per query; fewer for a while after one that failed
    selected: int = 0  # runs that pass the filters
    filtered: int = 0  # runs that do not
    all_ids: Collection[str] | None = None  # of all runs in the source, also of unread logs; None: not all were listed
    cut: set[str] = field(default_factory=set)  # ids of runs that may lack rows here: logs or ends, or unsynced rows
    resumed: set[str] = field(default_factory=set)  # ids of runs whose first log here continues another one
    pages: list[Page] = field(default_factory=list)
    lost: dict[str, Failure] = field(default_factory=dict)  # by run id: runs that the server cannot return
    runs: pl.DataFrame = cast("pl.DataFrame", None)  # noqa: RUF009 - of the selected ones: see `index_of`
    tables: dict[str, Table] = field(default_factory=dict)  # by their names
    goals: Mapping[str, str] = field(default_factory=dict)  # of metrics, by sweeps
    failed: list[Failure] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    summary_restored: list[dict[str, str]] = field(default_factory=list)  # as the metadata lists them
    # Of its files:
    files: list[dict[str, object]] = field(default_factory=list)  # as the metadata lists them
    kept: Collection[str] = ()  # ids of runs of an earlier export that are not in this one
    gone: Collection[str] = ()  # of these, the ids that the source no longer has
    kept_fuller: Sequence[str] = ()  # ids of runs of which the earlier export has more rows

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.name}"

    @property
    def place(self) -> dict[str, object]:
        """The project's names, as in files, the JSON and the variables of queries."""
        return {"entity": self.entity, "project": self.name}

    @property
    def status(self) -> str:
        return "partial" if self.failed else "complete"

    @property
    def counts(self) -> dict[str, int]:
        """By run id: rows of history by the source's count; 0 without one."""
        return dict(self.runs.select("id", pl.col("history_rows").fill_null(0)).iter_rows())

    @property
    def mismatched(self) -> dict[str, int]:
        """By run id: the rows of histories whose number differs from the source's count."""
        history = self.tables.get("history")
        rows = history.rows if history and history.is_asked else self.counts
        return {run_id: rows.get(run_id, 0) for run_id, n in self.counts.items() if rows.get(run_id, 0) != n}


# --- log bytes to records -------------------------------------------------------------------------------------

# The transaction log: a header, then LevelDB's log format: chunks of which none crosses the end of a block.
LOG_HEADER = bytes.fromhex("3a572642e1be00")  # ":W&B", the magic 0xBEE1 in little-endian order, version 0
BLOCK_BYTES = 32_768
CHUNK_HEADER = struct.Struct("<IHB")  # CRC-32 of kind and payload, payload's length, kind
HEADER_BYTES = CHUNK_HEADER.size
READ_BYTES = 8 * BLOCK_BYTES
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds: a whole record, or a part of one
LFS_POINTER = b"version https://git-lfs."  # what git leaves in place of a large file until it is asked for it
NOT_PULLED = "a git-LFS pointer instead of the file; run `git lfs pull` there, then export again"


def log_records(opened: IO[bytes], log: Log) -> Iterator[bytes]:  # noqa: C901 - one sequence
    """The payload of every readable record, in order; damage is noted in `log`.

    A record counts only if its checksums hold. After damage, reading goes on at the next chunk with a right checksum.
    Unreadable bytes with no such chunk after them are a torn end. For a file that is no log, nothing is noted.
    """
    pieces: list[bytes] | None = None  # of a record in several chunks; None: none has begun
    data = more = opened.read(READ_BYTES)
    start, at = 0, len(LOG_HEADER)  # of the data in the file, and of the next chunk in the data
    is_log = data.startswith(LOG_HEADER)  # else it may be one whose header is damaged
    gap = None if is_log else 0  # where bytes became unreadable
    log.torn = LOG_HEADER.startswith(data)  # killed before the first record
    log.error = NOT_PULLED if data.startswith(LFS_POINTER) else ""
    while at < len(data) and (is_log or start + at < BLOCK_BYTES):  # no chunk in the first block: it is no log
        if more and len(data) - at <= BLOCK_BYTES:  # so that no chunk ends where the data end
            more = opened.read(READ_BYTES)
            data, start, at = data[at:] + more, start + at, 0
        crc, length, kind = CHUNK_HEADER.unpack_from(data, at) if at + HEADER_BYTES <= len(data) else (0, 0, 0)
        end = at + HEADER_BYTES + length
        fits = FULL <= kind <= LAST and end <= len(data) and end - at <= BLOCK_BYTES
        if not fits or zlib.crc32(data[at + 6 : end]) != crc:
            skipped = 1
            if gap is None:
                gap = place = start + at
                # Zeros fill a block that has no room for another chunk. Blocks are counted from the start of the file;
                # the SDK's Go core before 0.17.6 counted them from behind the header.
                room = min(-place % BLOCK_BYTES, (len(LOG_HEADER) - place) % BLOCK_BYTES)
                if 0 < room < HEADER_BYTES and data[at : at + room] == bytes(room):
                    skipped, gap = room, None
            at += skipped
            continue
        if gap is not None:
            log.damage.append(f"byte {gap}")
            pieces, gap, is_log = None, None, True
        if kind in (FULL, FIRST):
            if pieces is not None:
                log.damage.append(f"byte {start + at}: the record before it has no end")
            pieces = []
        elif pieces is None and not log.damage:  # else it is the rest of a record whose loss is noted already
            log.damage.append(f"byte {start + at}: a record without its beginning")
        if pieces is not None:
            pieces.append(data[at + HEADER_BYTES : end])
            if kind in (FULL, LAST):
                yield b"".join(pieces)
                pieces = None
        at = end
    log.torn |= pieces is not None or (is_log and gap is not None)


# --- records to a log -----------------------------------------------------------------------------------------

VALUE_TAG = b"\x82\x01"  # the protobuf tag of `value_json` (field 16, length-delimited), which comes last in an item
GONE = ...  # in place of a value that was removed
RECORD_FIELDS = {"id": "run_id", "name": "display_name", "group": "run_group", "sweep": "sweep_id"}  # of a run record
RECORD_FIELDS |= {name: name for name in ("entity", "notes", "job_type")}


@cache
def record_class() -> Any:
    """The SDK's class of records, with items of history, summary and system metrics as bytes: three times as fast."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    sdk, file = wandb_proto().DESCRIPTOR, descriptor_pb2.FileDescriptorProto()
    sdk.CopyToProto(file)
    messages = [m for m in file.message_type if m.name in ("HistoryRecord", "SummaryRecord", "StatsRecord")]
    for each in itertools.chain.from_iterable(message.field for message in messages):
        if each.name in ("item", "update", "remove"):
            each.type = each.TYPE_BYTES  # protobuf encodes bytes and an inner message alike
            each.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()  # of its own: the names are the SDK's
    for dependency in sdk.dependencies:
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{sdk.package}.Record"))


@cache
def wandb_proto() -> Any:
    """The SDK's module of record classes. It is not public; there is no public module for the log format."""
    # An empty module in place of `wandb` saves 0.8 s, which the SDK's other imports would take.
    stand_in = importlib.util.module_from_spec(cast("Any", importlib.util.find_spec("wandb")))
    sys.modules.setdefault("wandb", stand_in)
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    if sys.modules["wandb"] is stand_in:
        del sys.modules["wandb"]
    return proto


@dataclass
class Log:
    """The contents of one `.wandb` file, or of a run's folder of an SDK before 0.10."""

    file: Path
    records: int = 0
    torn: bool = False  # ends in the middle of a record, as after a crash
    repeated: int = 0  # of the run's last log: steps that are in an earlier log, too
    damage: list[str] = field(default_factory=list)  # unreadable places in the middle
    error: str = ""  # why it could not be read, or not to its end
    failed: list[Failure] = field(default_factory=list)  # one each for damage and error
    run: dict[str, Any] = field(default_factory=dict)  # the last run record's plain fields
    started_at: datetime | None = None
    newest_at: datetime | None = None
    last_stamp: tuple[int, int] = (0, 0)  # of output and system metrics: seconds since 1970, and nanoseconds
    exit_code: int | None = None
    runtime_s: float = 0.0  # at its exit
    kinds: set[str] = field(default_factory=set)  # of its records, without history and summary
    config: dict[str, object] = field(default_factory=dict)
    config_at_start: Collection[str] = ()  # the keys of the config that the run began with
    summary: dict[str, Any] = field(default_factory=dict)
    summary_from: str = ""  # "log"; without a summary there, "file" or "history"
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)  # each process's notes on its machine
    definitions: dict[str, MetricDefinition] = field(default_factory=dict)
    rows: defaultdict[str, RunRows] = field(default_factory=lambda: defaultdict(RunRows))  # by the table's name
    staged: dict[str, tuple[str, str]] = field(default_factory=dict)  # by address: see `staged_file`

    @property
    def run_id(self) -> str:
        """The run's id; from the file's name if its record is lost."""
        return str(self.run.get("id") or storable(self.file.stem.removeprefix("run-")))

    @property
    def is_refused(self) -> bool:
        """True if `wandb.init` failed, as W&B was out of reach or refused to resume the run: else it logs telemetry."""
        is_known = self.exit_code is not None and "sdk" in self.run
        return is_known and "telemetry" not in self.kinds and "history" not in self.rows

    @property
    def span_s(self) -> float:
        """Seconds from its start to its newest record; its exit record may tell less, without a notebook's pauses."""
        start, end = self.started_at, self.newest_at
        span_s = max(0.0, (end - start).total_seconds()) if start and end else 0.0
        return min(span_s, self.runtime_s or span_s)

    def note_time(self, time_: datetime | None) -> None:
        if time_ is not None:
            self.newest_at = max(time_, self.newest_at or time_)

    def take_summary(self, summary: Mapping[str, object], source: str) -> None:
        """Use this summary, unless it holds nothing but the SDK's own notes, as some SDKs wrote."""
        if summary.keys() - {"_wandb"}:
            self.summary, self.summary_from = dict(summary), source
        elif self.exit_code is None and not (self.summary_from or self.run.get("resumed")):
            seconds = runtime_s(summary)  # the run went on after the log was cut off
            self.runtime_s = max(seconds, self.span_s) if seconds else 0.0


class WholeDict(dict[str, object]):
    """A dict that the user set as one summary value. A deeper path that is set later replaces all of it."""


def read_logs(files: Sequence[Path], folder: Path, options: Options) -> list[Log]:
    """The contents of the files, in their order. The rows that `options` name are written to part files in `folder`."""
    if options.dry_run:
        options = replace(options, include_history=False, system_metrics=False, console=False)
    rows = LogRows(folder, options)
    logs = [Log(file) for file in files]
    for log in logs:
        rows.start(log)
        read = read_folder if log.file.name == OLD_HISTORY else read_log
        read(log, rows)
        rows.end()
    rows.write_buffer()
    return logs


def read_log(log: Log, rows: LogRows) -> None:
    """Fill in the contents of the log's file; its history, output and system metrics go to `rows`."""
    from google.protobuf.message import DecodeError

    proto, record_type = wandb_proto(), record_class()
    changes: dict[bytes, bytes] = {}  # items of summary records: see `keep_last`
    logged: dict[bytes, bytes] = {}  # those of the history: its summary if there is no other
    try:
        with regular(log.file).open("rb") as opened:
            for payload in log_records(opened, log):
                log.records += 1
                try:
                    record = record_type.FromString(payload)
                    kind = record.WhichOneof("record_type")
                    if kind == "history":
                        rows.add_history(record.history)
                        last, is_needed = (changes, True) if log.run.get("derived") else (logged, not changes)
                        keep_last(last, record.history.item if is_needed else ())
                    elif kind == "summary":
                        keep_last(changes, [*record.summary.update, *record.summary.remove])
                    else:
                        apply_record(log, kind, record, rows)
                except (DecodeError, RecursionError) as error:
                    rows.columns["history"].drop_row()
                    rows.columns["system"].drop_row()
                    log.damage.append(f"record {log.records}: {error}")
    except OSError as error:
        log.error = f"cannot be read: {error.strerror or error}"
    log.note_time(time_at(*log.last_stamp))
    log.summary_from = "log" if changes else "history" if logged else ""
    for encoded in (changes or logged).values():
        try:
            item = proto.SummaryItem.FromString(encoded)
            value = from_json(item.value_json or "null")
            value = WholeDict(value) if isinstance(value, dict) and not item.nested_key else value
            # W&B leaves out a null, but not inside of a dict that was set whole.
            set_path(log.summary, path_of(item), GONE if value is None else value)
        except (DecodeError, RecursionError) as error:
            log.damage.append(f"the summary: {error}")
    if log.records and log.summary_from != "log":
        log.take_summary(json_object(log, log.file.parent / "files/wandb-summary.json"), "file")
    if log.records and not log.machines:
        log.machines["file"] = json_object(log, log.file.parent / "files/wandb-metadata.json")


def keep_last(last: dict[bytes, bytes], items: Iterable[bytes]) -> None:
    """Add items to `last`, which has the last item of each path, in their order."""
    for item in items:
        start = item.rpartition(VALUE_TAG)[0] or item  # the path, and whether the user set the value as a whole
        last.pop(start, None)
        last[start] = item


def apply_record(log: Log, kind: str, record: Any, rows: LogRows) -> None:  # noqa: C901 - each kind in turn
    """Store in `log` and `rows` what a record other than history and summary holds for an export."""
    log.kinds.add(kind)
    if kind in ("output_raw", "stats", "output"):  # first, as these are the most
        noted = getattr(record, kind)
        stamp = (noted.timestamp.seconds, noted.timestamp.nanos)
        log.last_stamp = max(stamp, log.last_stamp)
        if kind != "stats" and rows.options.console and noted.line:  # every other text of a progress bar is empty
            stream = "stdout" if noted.output_type == noted.STDOUT else "stderr"
            rows.add_output(noted.line, stamp, stream, is_line=kind == "output")
        elif kind == "stats" and rows.options.system_metrics and (time_ := time_at(*stamp)):
            runtime = (time_ - log.started_at).total_seconds() if log.started_at else None
            rows.add_stats(noted.item, (log.records, runtime, time_.timestamp()))
    elif kind == "run":
        # It is repeated as a whole when name, notes or tags change, but then its config has large ints as floats.
        run = record.run
        config = tree_of(run.config.update)
        log.config_at_start = log.config_at_start if log.run else [*config]
        log.config = config | log.config
        log.started_at = log.started_at or time_at(run.start_time.seconds, run.start_time.nanos)
        log.note_time(log.started_at)
        given = {name: getattr(run, theirs) for name, theirs in RECORD_FIELDS.items()}
        sdk, feature, is_resumed = run.telemetry.cli_version, run.telemetry.feature, run.resume or run.resumed
        given |= {"tags": [*run.tags], "commit": run.git.commit, "sdk": sdk, "resumed": is_resumed}
        # Before 0.30, SDKs do not tell in an offline log whether it continues a run.
        given |= {"offline": feature.offline, "continues": is_resumed or bool(re.match(r"0\.[0-2]?\d\.", sdk))}
        # With a derived summary, the log holds only those values of it that the user set; the others were logged last.
        given |= {"derived": feature.server_side_derived_summary, "shared": feature.shared_mode}
        given["project"] = run.project if run.project != NO_PROJECT else ""
        log.run |= {name: value for name, value in given.items() if value}  # W&B does not clear what is set once
        if run.branch_point.run and run.branch_point.run == run.run_id:
            log.run["rewound_to"] = run.branch_point.value
    elif kind == "config":
        merge_config(log.config, tree_of(record.config.update))
        for item in record.config.remove:
            set_path(log.config, path_of(item), GONE)
    elif kind == "metric":
        add_definition(log.definitions, record.metric)
    elif kind == "environment":  # several of one process add to each other
        from google.protobuf.json_format import MessageToDict

        log.machines.setdefault(record.environment.writer_id, {}).update(MessageToDict(record.environment))
    elif kind == "artifact":
        owner = f"wandb-client-artifact://{record.artifact.client_id}"
        tables = [entry for entry in record.artifact.manifest.contents if entry.path.endswith(".table.json")]
        log.staged |= {f"{owner}/{entry.path}": (entry.local_path, entry.digest) for entry in tables}
    elif kind == "exit":
        log.exit_code, log.runtime_s = record.exit.exit_code, record.exit.runtime
    elif kind == "output_logger" and rows.options.console:  # by `write_logs`; the record has no time
        rows.add_output(record.output_logger.line, log.last_stamp, "stdout")


def add_definition(definitions: dict[str, MetricDefinition], metric: Any) -> None:
    """Add what a call of `define_metric` sets to what earlier calls set."""
    pattern = metric.name or metric.glob_name
    known = MetricDefinition(pattern)
    if not metric._control.overwrite:  # noqa: SLF001 - a field; else later ones add to it
        known = definitions.get(pattern, known)
    given = {kind for kind in SUMMARY_KINDS if getattr(metric.summary, kind)}
    had = {*(known.summary or "").split(",")} - ({"none"} if given else set())
    kinds = ",".join(kind for kind in SUMMARY_KINDS if kind in had | given)
    goal, step_metric = GOALS.get(metric.goal, known.goal), metric.step_metric or known.step_metric
    definitions[pattern] = MetricDefinition(pattern, goal, kinds or None, step_metric)
    if step_metric:  # it is a metric of its own, to which no pattern applies
        definitions.setdefault(step_metric, MetricDefinition(step_metric))


def regular(file: Path) -> Path:
    """The path itself. OSError for a pipe or a device, which may never end."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def path_of(item: Any) -> KeyPath:
    """RecursionError for a path so deep that the tree could be written neither as JSON nor to another process."""
    if len(item.nested_key) > DEEPEST:
        raise RecursionError("nested too deeply")
    return tuple(item.nested_key) or (item.key,)


def tree_of(items: Iterable[Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in items:
        set_path(tree, path_of(item), from_json(item.value_json))
    return tree


def set_path(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set the value at `path`, or remove it if the value is GONE. On the way, a dict replaces what is no plain dict."""
    for key in path[:-1]:
        if type(tree.get(key)) is not dict:
            if value is GONE:
                return
            tree[key] = {}
        tree = tree[key]
    tree[path[-1]] = value
    if value is GONE:
        del tree[path[-1]]


def merge_config(config: dict[str, Any], changes: Mapping[str, object]) -> None:
    """Change a config as W&B does: a dict adds to a dict, at any depth; anything else replaces what was there."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge_config(config[key], value)
        else:
            config[key] = value


def from_json(text: str) -> object:
    """The value of W&B's JSON, non-finite numbers as text. Invalid or too deeply nested JSON is returned as it is."""
    try:
        return jsonable(json.loads(text))
    except (ValueError, RecursionError):
        return text


def time_at(seconds: float | None, nanos: int = 0) -> datetime | None:
    """A time in UTC from seconds since 1970; None if it is 0, missing, or outside of the calendar."""
    try:
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None


# --- folders of SDKs before 0.10 to a log ---------------------------------------------------------------------

OLD_HISTORY = "wandb-history.jsonl"  # this path identifies such a folder, even if the file is missing (no history)


def read_folder(log: Log, rows: LogRows) -> None:
    """Fill in the contents of the folder's JSON and YAML files. Any of them may be missing or empty."""
    place = log.file.parent.resolve()
    folder = place.parent if place.name == "files" else place
    *_, started, run_id = ["", *folder.name.split("-", 2)]  # run-20200328_193221-id; times are UTC
    notes = json_object(log, place / "wandb-metadata.json")
    texts = {key: value for key, value in notes.items() if isinstance(value, str)}
    settings = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, UnicodeDecodeError):
        settings.read(folder.parent / "settings", encoding="utf-8")
    log.records = 1
    log.machines = {"file": notes}
    log.run = {"id": storable(run_id), "job_type": texts.get("jobType")}
    log.run |= {name: texts.get(name) for name in ("name", "notes")}
    log.run["entity"] = settings.get("default", "entity", fallback=None)
    log.run["project"] = texts.get("project") or settings.get("default", "project", fallback=None)
    if texts.get("state") in {"finished", "failed", "killed"}:
        log.run["state"] = texts["state"]
    log.started_at = time_of(texts.get("startedAt")) or time_of(started)
    log.exit_code = notes["exitcode"] if isinstance(notes.get("exitcode"), int) else None  # None: it was not ended
    log.newest_at = time_of(texts.get("heartbeatAt")) or log.started_at
    try:
        log.config = unwrapped(yaml_object(regular(place / "config.yaml").read_bytes()))
        log.config_at_start = [*log.config]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError):
        log.damage.append("config.yaml")
    last_values: dict[str, object] = {}
    for row in json_lines(log, log.file):
        rows.columns["history"].add({storable(key): value for key, value in row.items()})
        rows.end_row("history")
        last_values |= row
        log.records += 1
    for row in json_lines(log, place / "wandb-events.jsonl") if rows.options.system_metrics else ():
        rows.columns["system"].add(row)
        rows.end_row("system")
    log.take_summary(last_values, "history")
    log.take_summary(json_object(log, place / "wandb-summary.json"), "log")


def yaml_object(content: bytes) -> dict[str, Any]:
    """The object in a YAML text, as JSON has it; ValueError if it is none, or if its aliases expand to too much."""
    import yaml

    class NoMergeKeys(yaml.SafeLoader):  # type: ignore[misc]
        def flatten_mapping(self, node: object) -> None:
            """Do nothing: merge keys can expand to more than fits into memory, and W&B writes none."""

    if not content.startswith(b"wandb_version"):  # not by the SDK's Python, for which `1e-05` is text
        exponent = re.compile(r"[-+]?[0-9]+e[-+]?[0-9]+$")
        NoMergeKeys.add_implicit_resolver("tag:yaml.org,2002:float", exponent, [*"+-0123456789"])
    text, most = io.StringIO(), YAML_BYTES + 10 * len(content)
    try:
        for piece in json.JSONEncoder(skipkeys=True, default=str).iterencode(yaml.load(content, NoMergeKeys)):  # noqa: S506
            if text.tell() > most:
                raise ValueError("its aliases expand to too much text")
            text.write(piece)
    except yaml.YAMLError as error:
        raise ValueError("it is not YAML") from error
    return parsed_object(text.getvalue(), exact=True)[1]


def json_lines(log: Log, file: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, with their steps; damaged lines are noted in `log`."""
    try:
        with suppress(FileNotFoundError), regular(file).open("rb") as opened:
            for number, line in enumerate(opened, 1):
                if line.startswith(LFS_POINTER):
                    log.error = NOT_PULLED
                    return
                try:
                    row = parsed_object(line.decode())[1]
                    row["_step"] = int(row.get("_step", number - 1))
                except (ValueError, TypeError, OverflowError, RecursionError):
                    if line.endswith(b"\n"):
                        log.damage.append(f"line {number} of {file.name}")
                    else:  # the last one
                        log.torn = True
                else:
                    yield row
    except OSError as error:
        log.error = f"cannot be read: {error.strerror or error}"


def json_object(log: Log, file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty without one."""
    with suppress(OSError, ValueError, RecursionError):
        text = regular(file).read_text("utf-8")
        if text.startswith(LFS_POINTER.decode()):
            log.damage.append(f"{file.name}: {NOT_PULLED}")
        return parsed_object(text, exact=True)[1]
    return {}


# --- rows of logs to parts ------------------------------------------------------------------------------------

SCREEN_LINES = 32  # of output that the cursor can reach, as in the SDK
CURSOR_MOVE = re.compile(r"(\n|\x1b\[[AB])")
# Of a progress bar: the number in a state, and what is the same in all states. By tqdm, by Keras, and by others.
BARS = r"(?<!\d)(\d{1,3})(%\|)", r"(?<!\d)(\d{1,9})(/\d{1,9} \[)[=>.]", r"(\d{1,3})(%)"


def is_next_state(before: str, text: str) -> bool:
    r"""True if two texts are states of one progress bar: they return to the line's start, and its number never falls.

    >>> is_next_state("\r 50%", "\r100%"), is_next_state("\r100%", "\r  0%"), is_next_state("epoch 1", "\r  0%")
    (True, False, False)
    >>> is_next_state("\rloss 9%:  8%|#", "\rloss 7%: 10%|#"), is_next_state("\r 9/20 [=", "\r10/20 [==")
    (True, True)
    """
    if not ("\r" in before and text.startswith("\r")):
        return False
    for bar in BARS:
        was, now = (re.search(bar, state) for state in (before, text))
        if was and now:
            is_over = was[2] == f"/{was[1]} [" and "ETA" not in before  # Keras' last state has no estimated time
            return was[2] == now[2] and int(was[1]) <= int(now[1]) and not is_over
        if was or now:
            return False
    return False


class OutputLine(NamedTuple):
    """A line of a program's output. It may still change while the cursor can reach it."""

    time: datetime | None
    stream: str | None
    pieces: list[str]  # of its text, in the order in which they were printed


class LogRows:
    """Collects the rows of logs, one log after the other, and writes them to part files that runs share."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options = folder, options
        # By table and run id: rows of earlier logs as frames, which wait until there are enough for a file.
        self.buffer: defaultdict[str, dict[str, RunRows]] = defaultdict(dict)
        self.buffered_rows, self.buffered_columns = 0, set[str]()

    def start(self, log: Log) -> None:
        self.log = log
        self.counted_from = 0.0  # seconds since 1970: when the run time of its rows was 0
        self.lines: list[OutputLine] = []  # of output
        self.texts_written = self.history_rows = 0  # texts: lines of output that are not blank
        # By stream, as on a terminal: the last lines, and the row of the cursor, which may be below the last line.
        self.screens: defaultdict[str | None, list[OutputLine]] = defaultdict(list)
        self.cursors: Counter[str | None] = Counter()
        self.columns = {"history": NumberColumns(), "system": NumberColumns("system.")}

    def end_row(self, table: str) -> None:
        columns = self.columns[table]
        columns.rows += 1
        if columns.values >= PART_ITEMS or columns.rows * len(columns.lists) >= PART_CELLS:
            self.flush()

    def add_history(self, row: Any) -> None:
        """Add a row; `row` is the history of a `record_class`."""
        columns = self.columns["history"]
        columns.add_items(row.item)
        steps = columns.lists[("_step",)]
        if len(steps) == columns.rows:
            # In shared mode rows have no step: the server numbers them.
            steps.append(row.step.num if row.HasField("step") else self.history_rows)
        self.history_rows += 1
        self.end_row("history")

    def add_stats(self, items: Sequence[bytes], clocks: Sequence[float | None]) -> None:
        """Add a row of system metrics; `clocks` are its values of CLOCKS."""
        self.columns["system"].add_items(items)
        for path, value in zip(CLOCKS, clocks, strict=True):
            self.columns["system"].lists[path].append(value)
        self.end_row("system")

    def add_output(self, text: str, stamp: tuple[int, int], stream: str | None, *, is_line: bool = False) -> None:
        """Add output of the program. A line has the time (see `time_at`) of its first character."""
        screen, cursor = self.screens[stream], self.cursors[stream]
        # SDKs before 0.13 log lines, one for each state of a progress bar.
        replaces = is_line and screen and cursor == len(screen) and is_next_state(screen[-1].pieces[-1], text)
        text = "\x1b[A\x1b[2K" + text if replaces else text  # first to the line before, and erase it
        for piece in CURSOR_MOVE.split(text) if "\n" in text or "\x1b" in text else (text,):
            if piece == "\x1b[A":  # up
                cursor = max(cursor - 1, 0)
            elif piece in ("\n", "\x1b[B"):  # down
                cursor += 1
                if cursor == SCREEN_LINES:
                    cursor -= 1
                    del screen[:1]
                if piece == "\n" and cursor < len(screen):
                    screen[cursor].pieces.append("\r")
            elif piece.strip("\r\b") or (piece and cursor < len(screen)):
                while len(screen) <= cursor:  # also empty lines above
                    screen.append(OutputLine(time_at(*stamp), stream, []))
                    self.lines.append(screen[-1])
                pieces = screen[cursor].pieces
                pieces.append(piece)
                if len(pieces) == PIECES_HELD:  # a progress bar, which is one line for hours
                    before, end, last = "".join(pieces).rpartition("\r")
                    pieces[:] = [as_shown(before) + end + last]
        self.cursors[stream] = cursor
        if len(self.lines) >= LINES_HELD:
            self.flush()

    def flush(self) -> None:
        self.buffer_rows()
        self.write_buffer()

    def end(self) -> None:
        if self.options.console and self.log.records:
            self.take_longer_output()
        self.screens.clear()
        self.buffer_rows()
        if self.log.started_at is not None:  # the run time of a resumed online run includes that of earlier logs
            if "history" not in self.log.rows:
                with suppress(LookupError, TypeError, OverflowError):
                    self.counted_from = float(self.log.summary["_timestamp"] - self.log.summary["_runtime"])
            start = min(self.log.started_at.timestamp(), self.counted_from or math.inf)
            self.log.note_time(time_at(start + self.log.runtime_s))

    def take_longer_output(self) -> None:
        """Replace the log's lines by those of output.log if these are more: a crash may cut off the log's end."""
        log, lines = self.log, self.log.rows.get("console", RunRows()).rows + len(self.lines)
        if log.exit_code is None:  # only lines with text count: the log may have many others
            lines = self.texts_written + sum(bool(as_shown("".join(line.pieces)).strip()) for line in self.lines)
        file = log.file.parent / ("output.log" if log.file.name == OLD_HISTORY else "files/output.log")
        with suppress(OSError), regular(file).open(encoding="utf-8", errors="replace", newline="\n") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER.decode():
                if log.exit_code is None or not lines:  # else the log has all of it
                    log.damage.append(f"{file.name}: {NOT_PULLED}")
                return
            opened.seek(0)
            if sum(bool(as_shown(line).strip()) for line in opened) > lines:
                log.rows.pop("console", None)
                self.lines, self.texts_written = [], 0
                opened.seek(0)
                for line in opened:
                    self.add_output(line, (0, 0), None)  # its time and stream are unknown

    def buffer_rows(self) -> None:
        """Move the rows so far to the buffer, except for lines of output that may still change."""
        history, system = self.columns.values()
        if history.rows:
            rows = history.frame(self.options.history_keys, self.log.rows["history"].skipped)
            stamp, begin = pl.col("_timestamp"), (self.log.started_at or EPOCH).timestamp()
            starts = (stamp - pl.col("_runtime")).filter(stamp >= begin)  # the user may log earlier times
            newest, start = rows.select(stamp.max(), start=starts.max()).row(0)
            self.log.note_time(time_at(newest))
            self.counted_from = max(self.counted_from, start or 0.0)
            self.buffer_frame("history", rows if self.options.include_history else rows[:, : len(CLOCKS)])
        if system.rows:
            rows = system.frame((), set())
            self.buffer_frame("system", rows.sort("_timestamp", maintain_order=True).with_columns(rows["order"]))
        self.buffer_lines()
        self.columns = {table: NumberColumns(columns.prefix) for table, columns in self.columns.items()}

    def buffer_lines(self) -> None:
        for stream, screen in self.screens.items():  # lines above the cursor are taken for final
            above = min(self.cursors[stream], len(screen))
            del screen[:above]
            self.cursors[stream] -= above
        on_screen = {id(line) for screen in self.screens.values() for line in screen}
        final = [line for line in self.lines if id(line) not in on_screen]
        self.lines = [line for line in self.lines if id(line) in on_screen]
        rows = [(line.time, line.stream, as_shown("".join(line.pieces))) for line in final]
        if rows:
            shown = pl.DataFrame(rows, schema=dict(new_table("console").columns), orient="row")
            order = pl.int_range(pl.len()) + self.log.rows["console"].rows
            self.buffer_frame("console", shown.with_columns(order=order))
        self.texts_written += sum(bool(text.strip()) for *_, text in rows)

    def buffer_frame(self, table: str, rows: pl.DataFrame) -> None:
        """Add rows of the log; first the buffer is written if they do not fit, or if it has others of the same log."""
        cells = (self.buffered_rows + rows.height) * len(self.buffered_columns | {*rows.columns})
        if cells > BATCH_CELLS or self.log.run_id in self.buffer[table]:
            self.write_buffer()
        self.buffer[table][self.log.run_id] = self.log.rows[table]
        self.log.rows[table].frame = rows
        self.buffered_rows += rows.height
        self.buffered_columns |= {*rows.columns}

    def write_buffer(self) -> None:
        for by_run in self.buffer.values():
            write_parts(by_run, self.folder)
        self.buffer.clear()
        self.buffered_rows, self.buffered_columns = 0, set()


class NumberColumns:
    """The clocks and numbers of rows: for each path a list of values, which ends with the last row that has it."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix  # of the names of items, whose paths are joined by dots after it
        self.lists: dict[KeyPath, list[Any]] = {clock: [] for clock in CLOCKS}
        self.by_keys: dict[bytes, list[Any]] = {}  # some of these lists by the bytes of an item before its value
        self.others: set[KeyPath] = set()  # of values that are no numbers
        self.rows = self.values = 0  # how many

    def add(self, row: Mapping[str, Any]) -> None:
        others: list[KeyPath] = [(key,) for key in row if is_private((key,))]
        leaves = [*((path, row[path[0]]) for path in CLOCKS if path[0] in row), *numeric_leaves(row, others=others)]
        for path, value in leaves:
            values = self.lists.setdefault(path, [])
            resize(values, self.rows)
            values.append(value)
        self.values += len(leaves)
        self.others.update(others)

    def add_items(self, items: Sequence[bytes]) -> None:
        """Add the items of a record's row. Short numbers of known metrics are read quickly."""
        loads, plain, by_keys, count = orjson.loads, (int, float), self.by_keys, self.rows
        others: list[bytes] = []
        for item in items:
            keys, _, value = item.rpartition(VALUE_TAG)
            numbers = by_keys.get(keys)
            try:
                number = loads(value[1:])
            except ValueError:
                number = NON_FINITE.get(value[1:].decode(errors="replace"))
            if numbers is None or type(number) not in plain or value[0] != len(value) - 1:
                others.append(item)
                continue
            if len(numbers) != count:
                resize(numbers, count)
            numbers.append(number)
        if any(b"_type" in item for item in others):  # numbers inside of a media object are no metrics
            self.drop_row()
            others = [*items]
        if others:
            self.add_other_items(others)
        self.values += len(items)

    def add_other_items(self, items: Sequence[bytes]) -> None:
        """Add items of a row: of new metrics, and values that are no short numbers."""
        from google.protobuf.message import DecodeError

        item_class = wandb_proto().HistoryItem  # one of system metrics has the same fields
        parsed, tree = [], dict[str, Any]()
        for content in items:
            try:
                item = item_class.FromString(content)
            except DecodeError:  # a value that is no UTF-8, but not one of damaged keys, costs only itself
                item = item_class.FromString(content.rpartition(VALUE_TAG)[0] or content)
                item.value_json = '""'
            parsed.append(item)
            path, kind = path_of(item), item.WhichOneof("value") or "none"  # it may have typed fields instead of JSON
            text = item.value_json or item.json
            value = from_json(text) if text else None if kind == "none" else getattr(item, kind)
            set_path(tree, path, value)
        if self.prefix:
            tree = {self.prefix + ".".join(path): value for path, value in flatten(tree)}
        self.add(tree)
        for item, content in zip(parsed, items, strict=True):
            # Items of one metric begin with the same bytes. If these are nothing but its keys, they are parsed once.
            keys = item_class(key=item.key, nested_key=item.nested_key).SerializeToString()
            path = (self.prefix + item.key,) if self.prefix else path_of(item)
            if content.startswith(keys + VALUE_TAG) and path in self.lists:
                self.by_keys[keys] = self.lists[path]

    def drop_row(self) -> None:
        for values in self.lists.values():
            del values[self.rows :]

    def frame(self, keys: Sequence[str], skipped: set[KeyPath]) -> pl.DataFrame:
        """The columns asked for, as in `RunRows.frame`; keys of other things than numbers are added to `skipped`."""
        series = []
        for path, values in self.lists.items():
            resize(values, self.rows)
            if path in CLOCKS:
                dtype = pl.Int64 if path == ("_step",) else pl.Float64
                series.append(settled_series(CLOCKS[path], values).cast(dtype, strict=False))
            elif is_wanted(path, keys) and any(value is not None for value in values):  # else of a damaged row
                series.append(settled_series(column_key(path), values))
        skipped |= {path for path in self.others if is_private(path) or is_wanted(path, keys)}
        return pl.DataFrame(series)


def resize(values: list[Any], rows: int) -> None:
    """Let a list end before row number `rows`: rows that lack a value have None."""
    missing = rows - len(values)
    if missing < 0:  # a key twice in one row: the later value replaces the earlier
        del values[rows:]
    values += [None] * missing


def write_parts(by_run: Mapping[str, RunRows], folder: Path) -> None:
    """Move the frames of rows, by run id, to a file. Of a run's rows with the same `order`, the last counts."""
    dtypes: dict[str, dict[KeyPath, str]] = {}
    frames: list[Any] = []
    for run_id in sorted(by_run):
        frame = cast("Any", by_run[run_id].frame)
        own = {name: str(dtype) for name, dtype in frame.collect_schema().items() if name.startswith("[")}
        dtypes[run_id] = {tuple(json.loads(name)): dtype for name, dtype in own.items()}
        # With the dtype in its name: a column of another dtype in other runs of the file is another column.
        frame = frame.rename({name: name + dtype for name, dtype in own.items()})
        frames.append(frame.with_columns(run_id=pl.lit(run_id)))
    rows, order = pl.concat(frames, how="diagonal").lazy(), pl.col("order")
    is_ascending = ((order > order.shift()) | (pl.col("run_id") != pl.col("run_id").shift())).all()
    if not rows.select(is_ascending).collect(engine="streaming").item():
        # One row per step is held in memory: a small file can stand for hundreds of millions of rows with one step.
        rows = rows.unique(["run_id", "order"], keep="last").sort("run_id", "order").collect(engine="streaming").lazy()
    # Of each part the numbers of rows, and of the first and last one. A W&B Table without rows has columns, too.
    numbers = {run_id: [0, 0, 0] for run_id, own in dtypes.items() if {*own.values()} == {"Null"}}
    counts = rows.group_by("run_id").agg(pl.len(), first=order.min(), last=order.max()).fill_null(0)
    numbers |= {run_id: of_run for run_id, *of_run in counts.collect(engine="streaming").iter_rows()}
    cached = []  # for `stored_parts`
    for run_id, run_rows in by_run.items():
        if run_rows.cache_key and not run_rows.is_short:
            columns = [*dtypes[run_id].items()]
            cached.append([run_rows.cache_key, [*run_rows.skipped], columns, *numbers.get(run_id, ())])
    file = write_intermediate(rows, folder, {PART_KEY: json.dumps([len(numbers), cached])})
    for run_id, run_rows in by_run.items():
        run_rows.frame = None
        if run_id in numbers:
            run_rows.parts = [*run_rows.parts, Part(file, len(numbers), dtypes[run_id], *numbers[run_id])]


def widest_dtypes(sources: Iterable[Mapping[KeyPath, str]]) -> dict[KeyPath, str]:
    """By path, a dtype that fits the values of all sources: Float64 for Int64 and Float64, else String."""
    dtypes: dict[KeyPath, str] = {}
    for path, dtype in (item for source in sources for item in source.items()):
        both = {dtype, dtypes.get(path, dtype)} - {"Null"} or {"Null"}  # Null: no values
        dtypes[path] = both.pop() if len(both) == 1 else "Float64" if both == {"Int64", "Float64"} else "String"
    return {path: "String" if dtype == "Null" else dtype for path, dtype in dtypes.items()}


def cast_logged(path: KeyPath, dtype: str, wanted: str, name: str | None = None) -> pl.Expr:
    """A column of logged values, cast from `dtype` to another one. Numbers and Booleans become text as in JSON."""
    column = pl.col(name or column_key(path, dtype)).cast(getattr(pl, wanted)).alias(column_key(path))
    if dtype == "Float64" and wanted == "String":  # as Python's json spells them: `1e-05`, where polars has `0.00001`
        text = column.str.replace("inf", "Infinity", literal=True)
        text = text.str.replace(r"^(-?)0\.0000([1-9])([0-9]*)$", "${1}${2}.${3}e-05")
        return text.str.replace(".e-05", "e-05", literal=True).str.replace(r"e-([0-9])$", "e-0${1}")
    return column


ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[ -/]*[0-Z\\^-~])|[\x07\x0e\x0f]")
CONTROL = re.compile("[\x07\b\r\x0e\x0f\x1b]")
LINE_MOVE = re.compile(r"(\r|\x08+|\x1b\[[02]?K)")  # of the cursor within a line, or what erases a line


def as_shown(text: str) -> str:
    r"""A line of output as a terminal shows it: what follows a carriage return overwrites the line's beginning.

    >>> as_shown("  0%\r 50%\r100% done\r"), as_shown("long long\rsho"), as_shown("\x1b[31mred\x1b[0m ")
    ('100% done', 'shog long', 'red')
    >>> as_shown("Downloading\x1b[2K\rdone"), as_shown("Downloading\rdone\x1b[K"), as_shown("10%\b\b\b20%\b\b\b")
    ('done', 'done', '20%')
    """
    if not CONTROL.search(text):  # as in nearly all lines
        return storable(text.rstrip(" "))
    shown, at = list[str](), 0
    for piece in LINE_MOVE.split(text):
        if piece[:1] in ("\r", "\b"):
            at = max(at - len(piece), 0) if piece[0] == "\b" else 0
        elif LINE_MOVE.fullmatch(piece):  # `\x1b[2K` erases the line, `\x1b[K` what is behind the cursor
            del shown[0 if "2" in piece else at :]
        elif plain := ESCAPE.sub("", piece):
            shown += " " * (at - len(shown))
            shown[at : at + len(plain)] = plain
            at += len(plain)
    return storable("".join(shown).rstrip(" "))


def write_intermediate(frame: AnyFrame, folder: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write a file of the working folder, and return its path; ScriptError if it cannot be written."""
    file = folder / f"{uuid.uuid4().hex}.parquet"
    partial_file = file.with_suffix(".partial")  # Ctrl-C may leave a file with this metadata and without rows
    try:
        frame.lazy().sink_parquet(partial_file, compression="lz4", statistics=False, metadata=metadata)
        partial_file.replace(file)
    except (OSError, pl.exceptions.ComputeError) as error:  # polars reports a full disk as either
        is_full = "os error" in str(error) or shutil.disk_usage(folder).free < FULL_DISK_BYTES
        if isinstance(error, pl.exceptions.ComputeError) and not is_full:
            raise  # the rows come from a damaged file
        raise not_written(folder, error) from error
    return file


def not_written(place: Path, error: Exception) -> ScriptError:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return ScriptError(f"{place} was not written: {reason}; free disk space or use another -o", NOTHING_USABLE)


def column_key(path: KeyPath, dtype: str = "") -> str:
    """The column name of a path in intermediate files, with the dtype in those that hold parts: unique for any keys."""
    return json.dumps(path) + dtype


def names_match(path: KeyPath, globs: Iterable[str]) -> bool:
    """Whether a metric matches one of the patterns, by its column, its W&B name or its flattened one."""
    names = (METRIC + column_name(path), ".".join(path), column_name(path))
    return any(matches(name, glob) for glob in globs for name in names)


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- offline source -------------------------------------------------------------------------------------------


def read_offline(folder: Path, options: Options, work: Path, say: Say) -> list[Project]:
    """The selected projects below the folder: their selected runs as pages, their rows as parts."""
    passed: Counter[tuple[str, str]] = Counter()  # what is skipped: a noun, and why
    files, failed = find_logs(folder, passed)
    top = folder.parent if folder.is_file() else folder
    sees_all = not failed
    logs = read_side_by_side(files, options, work)
    by_run: dict[tuple[str, str, str], list[Log]] = {}  # one id may occur in several projects
    any_record = {log.run_id: log.run for log in reversed(logs) if log.run}  # for logs whose run record is damaged
    entities: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)  # only some of a run's logs may know it
    for log in logs:
        if log.run.get("entity"):
            entities[log.run_id, log.run.get("project")].add(log.run["entity"])
    for log in logs:
        shown = str(log.file.relative_to(top))
        damage = f"log {shown} is damaged at {first_of(log.damage)}; the rest was read" if log.damage else ""
        run_id = log.run_id if log.records else shown
        log.failed = [Failure(run_id, "log", error) for error in (log.error, damage) if error]
        if log.records:
            record = log.run or any_record.get(log.run_id, {})
            named = entities[log.run_id, record.get("project")]
            other = min(named) if len(named) == 1 else stand_in(options.selection.entity, NO_ENTITY)
            project_name = record.get("project") or stand_in(options.selection.project, NO_PROJECT)
            by_run.setdefault((record.get("entity") or other, project_name, log.run_id), []).append(log)
    unread = [log for log in logs if not log.records]
    failed += [failure for log in unread for failure in log.failed]
    torn = [str(log.file.relative_to(top)) for log in unread if log.torn]
    passed["log", "without a record"] = len(torn)
    passed["file", "without the header of a log"] = sum(not (log.torn or log.failed) for log in unread)
    found: list[Run] = []
    for names, of_run in sorted(by_run.items()):
        begun = [log for log in of_run if not log.is_refused] or of_run
        passed["log", "of a start that failed"] += len(of_run) - len(begun)
        try:
            found.append(run_of_logs(*names, begun, options, work))
            passed["log", "copied from another"] += len(begun) - len(found[-1].logs)
        except RecursionError:
            failed.append(Failure(names[-1], "run", "its config or summary is nested too deeply"))
    if said := [f"{counted(n, noun)} {kind}" for (noun, kind), n in sorted(passed.items()) if n]:
        say(f"skipped: {', '.join(said)}")

    lost = {log.run_id for log in unread if log.failed}  # their project is unknown
    lost |= {failure.run for failure in failed if failure.what == "run"}
    kept = runs_asked_for(found, failed, options, say)
    places = sorted({(run.row["entity"], run.row["project"]) for run in kept})
    projects = [Project(*place, failed=[*failed], torn=[*torn]) for place in places]
    settle_stems(projects, options.output)
    for project in projects:
        ids = {run.row["id"] for run in found if project.place.items() <= run.row.items()}
        own = [run for run in kept if project.place.items() <= run.row.items()]
        project.all_ids = ids.union(log.run_id for log in unread) if sees_all else None
        project.selected, project.filtered = len(own) + len(lost - ids), len(ids) - len(own)
        take_runs(project, own, options, work, top)
    if cut_off := sorted({log for project in projects for log in project.torn} - {*torn}):
        say(f"these logs end early, as after a crash; all rows before the end were read: {first_of(cut_off)}")
    say_notes(projects, found, options, say)
    return projects


def say_notes(projects: Sequence[Project], found: Sequence[Run], options: Options, say: Say) -> None:
    """Print which runs logged steps twice, how many summaries were restored, and which projects may lack an entity."""
    repeated = [(run.row["id"], run.logs[-1].repeated) for run in found if run.logs[-1].repeated]
    if repeated:
        again = first_of([f"{run_id} ({counted(steps, 'step')})" for run_id, steps in repeated])
        say(f"steps that are in several logs of a run have the values of the last one: {again}")
    if restored := Counter(each["from"] for project in projects for each in project.summary_restored):
        places = {"file": "files/wandb-summary.json", "history": "the history"}
        counts = ", ".join(f"{restored[key]:,} from {place}" for key, place in places.items() if restored[key])
        say(f"summaries missing in the logs were restored: {counts}")
    for one in projects if not options.selection.entity else ():
        known = sorted({run.row["entity"] for run in found if run.row["project"] == one.name} - {NO_ENTITY})
        if one.entity == NO_ENTITY and known:
            flags = f"-e {known[0]}" + f" -p {shlex.quote(one.name)}" * (len({each.name for each in projects}) > 1)
            runs = f"in project {one.name}, {counted(one.runs.height, 'run')} without an entity, others of"
            say(f"{runs} {first_of(known)}; to export them as one project, use {flags} and a new -o")


def take_runs(project: Project, own: Sequence[Run], options: Options, work: Path, top: Path) -> None:
    """Fill in the project's runs, tables and failures; logs are named by their path below `top`."""
    for run in own:
        # A log may be missing. Only a run that was rewound, and whose logs are whole, may have fewer rows than before.
        is_whole = all(log.exit_code is not None and not log.torn and not log.failed for log in run.logs)
        is_rewound = ["rewound_to" in log.run for log in run.logs]
        if not (is_whole and any(is_rewound)) or is_rewound[0]:
            project.cut.add(run.row["id"])
        if run.logs[0].run.get("resumed") or is_rewound[0]:
            project.resumed.add(run.row["id"])
        project.failed += [failure for log in run.logs for failure in log.failed]
        project.torn += [str(log.file.relative_to(top)) for log in run.logs if log.torn]
        sources = {log.summary_from for log in run.logs} - {""}
        if sources and "log" not in sources:
            project.summary_restored.append({"run": run.row["id"], "from": min(sources)})
    project.torn.sort()
    project.pages = [write_page(some, work) for some in chunks(own, PAGE_RUNS)]
    project.runs = index_of(project.pages)
    if not options.dry_run:
        add_tables_asked(project, options)
    for table in project.tables.values():
        if table.is_wandb_table:
            logged_tables(project, table, {run.row["id"]: run.logs for run in own}, work)
        else:
            table.fetched = {run.row["id"]: run.rows[table.name] for run in own if table.name in run.rows}


def find_logs(folder: Path, passed: Counter[tuple[str, str]]) -> tuple[list[Path], list[Failure]]:
    """Every `.wandb` file at or below `folder`, and OLD_HISTORY for every run's folder of an SDK before 0.10, each once
    and sorted by name, though links may lead to it more than once; and the folders that cannot be read.
    """
    if folder.is_file():
        return [folder], []
    if not folder.is_dir():
        raise ScriptError(f"no folder {folder}; name the one with the offline-run-* or run-* folders", NOTHING_USABLE)
    errors: list[OSError] = []
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=errors.append, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))  # noqa: PTH114, PTH118
        logs = [Path(parent, name) for name in sorted(files) if name.endswith(".wandb")]
        for log in logs:
            found.setdefault(os.path.realpath(log), log)
        if not logs and re.match(r"(offline-|dry)?run-\d{8}_\d{6}-", Path(real).name):
            if {"wandb-metadata.json", OLD_HISTORY} & {*files}:
                found[real] = Path(parent, OLD_HISTORY)
                folders.clear()  # what else is there are the run's own files
            elif Path(parent, "files", OLD_HISTORY).exists():
                found[real] = Path(parent, "files", OLD_HISTORY)
            else:
                passed["folder", "without a log"] += 1
    failed = [Failure(os.path.relpath(e.filename, folder), "folder", f"cannot be read: {e.strerror}") for e in errors]
    if not found:
        why = f" ({errors[0].filename} {failed[0].error})" if failed else ""
        why += f", only {counted(passed.total(), 'run folder')} without one" * bool(passed)
        raise ScriptError(f"no W&B run logs (*.wandb) in {folder}{why}; name another folder", NOTHING_USABLE)
    return sorted(found.values()), failed


def stand_in(chosen: Sequence[str], default: str) -> str:
    """The entity or project of logs that name none: the value of -e or -p if it is a single plain name."""
    return storable(chosen[0]) if len(chosen) == 1 and not has_magic(chosen[0]) else default


def read_side_by_side(files: Sequence[Path], options: Options, work: Path) -> list[Log]:
    """The logs, in the files' order; large ones are read by several processes."""
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor  # only needed here
    from multiprocessing import active_children, get_context

    processes = min(options.workers or os.cpu_count() or 1, len(files))
    # Logs with neighbouring run ids share part files, and the history file is sorted by run id.
    in_order = sorted(files, key=lambda file: (file.stem, file))
    tasks = chunks(in_order, max(1, min(TASK_LOGS, len(files) // (4 * processes))))
    size_bytes = sum(file.stat().st_size for file in files if os.access(file, os.R_OK))
    read = partial(read_logs, folder=work, options=options)
    logs: dict[Path, Log] = {}
    with Meter(quiet=options.quiet) as meter:
        meter.add(logs_wanted=len(files))
        map_tasks: Callable[..., Iterable[list[Log]]] = map
        if processes > 1 and size_bytes >= MANY_BYTES:
            pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=prepare_process)
            meter.callback(pool.shutdown, cancel_futures=True)
            map_tasks = pool.map
        try:
            for batch in map_tasks(read, tasks):
                logs |= {log.file: log for log in batch}
                meter.add(logs=len(batch))
        except BrokenProcessPool as error:
            message = "a process that read logs was killed, maybe because memory ran out; try --workers 1"
            raise ScriptError(message, NOTHING_USABLE) from error
        finally:
            for process in active_children() if len(logs) < len(files) else ():  # after Ctrl-C or an error
                process.kill()
    return [logs[file] for file in files]


def prepare_process() -> None:
    """Set up a process that reads logs: it ignores Ctrl-C, which its parent handles, and ends with its parent."""
    from multiprocessing import parent_process

    import_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    copyreg.pickle(ScriptError, lambda error: (ScriptError, (str(error), error.exit_code)))  # for its parent

    def end_with_parent() -> None:
        cast("Any", parent_process()).join()
        os._exit(NOTHING_USABLE)

    threading.Thread(target=end_with_parent, daemon=True).start()


def runs_asked_for(found: Sequence[Run], failed: Sequence[Failure], options: Options, say: Say) -> list[Run]:
    """The runs that pass the filters. Prints how many each one keeps; ScriptError if no run is left."""
    if not found:
        if failed:
            raise nothing_exported(failed)
        why = "they end before their first record, or are no W&B logs; name another folder"
        raise ScriptError(f"no runs in these logs; {why}", NOTHING_USABLE)
    selection, kept = options.selection, [*found]
    filters: list[tuple[str, Any, Callable[[dict[str, Any], Any], bool]]] = [
        ("-e", selection.entity, lambda run, names: run["entity"].lower() in [name.lower() for name in names]),
        ("-p", selection.project, lambda run, globs: any(matches(run["project"], glob) for glob in globs)),
        ("--since", selection.since, lambda run, since: (run["created_at"] or EPOCH) >= since),
        ("--until", selection.until, lambda run, until: (run["created_at"] or EPOCH) < until),
        ("--active-since", selection.active_since, lambda run, since: (run["heartbeat_at"] or EPOCH) >= since),
        ("--state", selection.state, lambda run, states: run["state"] in states),
        ("--tag", selection.tag, lambda run, tags: not set(run["tags"] or ()).isdisjoint(tags)),
        ("--group", selection.group, lambda run, groups: run["group"] in groups),
        ("--sweep", selection.sweep, lambda run, sweeps: run["sweep"] in sweeps),
    ]
    for flag, wanted, test in filters:
        before = kept
        kept = [run for run in before if not wanted or test(run.row, wanted)]
        if wanted and kept:
            say(f"{flag} kept {len(kept):,} of {counted(len(before), 'run')}")
        if not kept:
            report_failures([*failed, *(each for run in before for log in run.logs for each in log.failed)])
            there = first_of(sorted({f"{run.row['entity']}/{run.row['project']}" for run in before}))
            message = f"no run left: {flag} kept none of {counted(len(before), 'run')} in {there}"
            raise ScriptError(f"{message}; leave this filter out or loosen it", NOTHING_USABLE)
    return kept


# --- offline source: the logs of one run ----------------------------------------------------------------------


def run_of_logs(entity: str, project: str, run_id: str, logs: Sequence[Log], options: Options, work: Path) -> Run:
    """One run from its logs: later ones extend or override the earlier. Of copies of a log, the longest is used."""
    logs = sorted(logs, key=lambda log: (log.started_at or log.newest_at or EPOCH, log.records, log.file))
    logs = [*{log.started_at or log.file: log for log in logs}.values()]
    record = {name: value for log in logs for name, value in log.run.items() if value}
    config: dict[str, Any] = {}
    is_cut = logs[0].exit_code is None and not logs[0].config.keys() - {*NOT_CONFIG}
    # The log with the config is elsewhere, or this one ends before it; but the SDK wrote all of it beside this one.
    if is_cut or logs[0].run.get("resumed"):
        with suppress(OSError, ValueError, RecursionError):
            config = unwrapped(yaml_object(regular(logs[0].file.parent / "files" / "config.yaml").read_bytes()))
    for log in logs:
        config = {key: value for key, value in config.items() if key not in (*log.config_at_start, *NOT_CONFIG)}
        merge_config(config, {key: value for key, value in log.config.items() if key not in NOT_CONFIG})
    definitions = {pattern: definition for log in logs for pattern, definition in log.definitions.items()}
    rows = {name: joined_rows(run_id, name, logs, work) for name in sorted({name for log in logs for name in log.rows})}
    history, console = rows.get("history", RunRows()), rows.get("console", RunRows())
    if options.console_lines and console.rows > options.console_lines:
        console.parts = [rewrite_parts(run_id, console.parts, work, first=console.rows - options.console_lines)]
    summary: dict[str, Any] = {}  # as after `wandb sync`, but with what only earlier logs have, which W&B forgets
    for log in [log for log in logs if log.summary_from == "log"] or logs:
        summary |= log.summary
    may_be_ahead = logs[0].summary_from != "file" and logs[0].file.name != OLD_HISTORY
    if history.parts and "_step" in summary and (len(logs) > 1 or may_be_ahead):
        summary["_step"] = history.parts[-1].last  # where a log is cut off, its summary may be ahead of its rows
    summary = dict(sorted(summary.items()))  # the log's order is random
    run_time_s = runtime_s(summary, sum(log.span_s for log in logs))
    ends_s = [log.runtime_s for log in logs if log.runtime_s]
    # In logs of these SDKs, the summary lacks it, or has that of the session before; W&B takes it from the exit record.
    if ends_s and re.match(r"0\.1[0-7]\.", record.get("sdk", "")):
        run_time_s = ends_s[-1] if logs[-1].runtime_s else max(run_time_s or 0.0, ends_s[-1])
    times = [log.newest_at for log in logs if log.newest_at is not None]
    heartbeat_at = max(times, default=None)
    # Of the processes that share a run, the primary one sets its state; it alone logs its machine.
    deciding = ([log for log in logs if not log.run.get("shared") or "environment" in log.kinds] or logs)[-1]
    row = dict(
        id=run_id,
        name=record.get("name", run_id),
        state=deciding.run.get("state")
        or offline_state(deciding.exit_code, heartbeat_at, is_preempting="preempting" in deciding.kinds),
        entity=entity,
        project=project,
        created_at=logs[0].started_at or min(times, default=None),  # damage may have taken the start
        heartbeat_at=heartbeat_at,
        runtime_s=run_time_s,
        last_step=history.parts[-1].last if history.parts else None,
        history_rows=history.rows,
        **{name: record.get(name) for name in ("tags", "group", "job_type", "sweep", "user", "notes", "url")},
        **machine([notes for log in logs for notes in log.machines.values()], record.get("commit")),
        exported_at=now(),
        _config_json=valid_json(config),
        _summary_json=valid_json(summary),
    )
    leaves = [*flatten(config, (CONFIG,)), *numeric_leaves(summary, (METRIC,))]
    return Run(row, leaves, [*definitions.values()], tables_in(summary), logs, rows)


def offline_state(exit_code: int | None, heartbeat_at: datetime | None, *, is_preempting: bool = False) -> str:
    """The state by the exit code; without one, by the newest time inside the log."""
    if exit_code == 0:
        return "finished"
    is_fresh = heartbeat_at is not None and abs(now() - heartbeat_at) < FRESH  # a clock may be wrong in both ways
    if exit_code is None and is_fresh:
        return "preempting" if is_preempting else "running"
    if is_preempting:
        return "preempted"
    return "crashed" if exit_code in (None, 254) else "failed"  # 254: the SDK found it dead


def runtime_s(summary: Mapping[str, Any], logs_span_s: float = 0.0) -> float | None:
    """Seconds of run time by the summary's `_wandb.runtime`, else its `_runtime`, else what its logs span."""
    wandb = summary.get("_wandb")
    for value in (wandb.get("runtime") if isinstance(wandb, dict) else None, summary.get("_runtime")):
        if isinstance(value, int | float) and abs(value) < 2**63:
            return float(value)
    return logs_span_s or None


def machine(writers: Iterable[object], commit: str | None = None) -> dict[str, Any]:
    """The columns about code and machine. Each process that wrote to the run has notes; the first one's are used."""
    noted = [notes for notes in writers if isinstance(notes, dict)]
    notes = min(noted, key=lambda notes: time_of(str(notes.get("startedAt"))) or now(), default={})
    git, args, gpus = notes.get("git"), notes.get("args"), notes.get("gpu_count")
    given = {**notes, "commit": commit or (git.get("commit") if isinstance(git, dict) else None)}
    texts = {key: value for key, value in given.items() if isinstance(value, str) and value}
    if "program" in texts and args and isinstance(args, list):
        texts["program"] += f" {shlex.join(map(str, args))}"
    gpu_count = int(gpus) if isinstance(gpus, int) and 0 < gpus < 2**31 else None  # 0 is unknown
    columns = {name: texts.get(name) for name in ("commit", "host", "os", "python", "gpu")}
    return {**columns, "command": texts.get("program"), "gpu_count": gpu_count}


def joined_rows(run_id: str, table: str, logs: Sequence[Log], work: Path) -> RunRows:
    """The rows of a run in their order, each step once.

    The steps of an offline log that continues another follow the last one there, as `wandb sync` places them: only a
    step that is not higher than the one before is raised. So are those of shared mode, and lines. A rewound run loses
    the rows after the step to which it went back. The values of any other step that comes again replace the earlier
    ones; a metric that only the earlier log has there stays, as when a sweep's agent starts a run several times, once
    for each part of a model.
    """
    parts: list[Part] = []
    for log in logs:
        back_to = log.run.get("rewound_to")
        # The steps of a resumed online run continue in its next log; those of an offline run may start at 0 again.
        is_offline = log.run.get("offline") or log.file.parent.name.startswith("offline-run-")
        continues = log.run.get("continues") and is_offline and back_to is None
        is_raised = table != "history" or log.run.get("shared") or continues
        if back_to is not None and table == "history":
            parts = [part for part in parts if part.first <= back_to]
            parts = [p if p.last <= back_to else rewrite_parts(run_id, [p], work, last=int(back_to)) for p in parts]
        for part in log.rows[table].parts:
            start = max((earlier.last + 1 for earlier in parts), default=part.first) if is_raised else part.first
            parts.append(part if part.first >= start else rewrite_parts(run_id, [part], work, start=start))
    run_rows = RunRows(parts, {path for log in logs for path in log.rows[table].skipped})
    if any(one.last >= other.first for one, other in itertools.pairwise(parts)):
        run_rows.parts = [rewrite_parts(run_id, parts, work)]
        logs[-1].repeated += sum(part.rows for part in parts) - run_rows.rows
    return run_rows


def rewrite_parts(
    run_id: str, parts: Sequence[Part], work: Path, *, first: float = -math.inf, last: float = math.inf, start: int = 0
) -> Part:
    """A run's rows from `first` to `last` as one part, one row per order; that of the first one is `start` or more."""
    dtypes = widest_dtypes(part.dtypes for part in parts)
    order = pl.col("order")
    raised = pl.max_horizontal(order, start + pl.int_range(pl.len())) if start else order
    frames = []
    for part in parts:
        rows = pl.scan_parquet(part.file, glob=False).filter(pl.col("run_id") == run_id, order.is_between(first, last))
        logged = [cast_logged(path, dtype, dtypes[path]) for path, dtype in part.dtypes.items()]
        frames.append(rows.select(~cs.starts_with("["), *logged).with_columns(raised.alias("order")))
    merged = pl.concat(frames, how="diagonal")
    if any(one.last >= other.first for one, other in itertools.pairwise(parts)):
        merged = merged.group_by("order").agg(pl.all().last(ignore_nulls=True)).sort("order")
    run_rows = RunRows(frame=merged)
    write_parts({run_id: run_rows}, work)
    return run_rows.parts[0]


def logged_tables(project: Project, table: Table, logs: Mapping[str, Sequence[Log]], work: Path) -> None:
    """Fill in the rows of a W&B Table from the files beside the logs of the project's runs, by id."""
    for run in changed_runs(project, table):
        files = [log.file.parent / name / run.file.path for log in reversed(logs[run.id]) for name in ("files", "")]
        try:
            file = next(filter(Path.is_file, files), files[0])
            content = regular(file).read_bytes()
            before = [staged_file(logs[run.id], address) for address in run.file.increments]
            if None in before:
                raise ValueError("its increments are in artifacts that are not on this machine")  # noqa: TRY301
            whole = staged_file(logs[run.id], run.file.address) if (run.listed or 0) > FILE_ROWS else None
            rows = table_rows(content, [*filter(None, before)], whole)
        except (OSError, ValueError, RecursionError) as error:
            why = f"its file {run.file.path[:200]} cannot be read: {getattr(error, 'strerror', None) or error}"
            why = "its file does not exist" if isinstance(error, FileNotFoundError) else why
            project.failed.append(Failure(run.id, unquote(table.name), why))
            continue
        run_rows = table.fetched[run.id] = RunRows(frame=rows, revision=run.revision)
        note_missing_rows(run_rows, run, rows.height, IN_ARTIFACT)
        if run_rows.problem:
            why = f"only {rows.height:,} of {run.listed:,} rows are there: {run_rows.problem}"
            project.failed.append(Failure(run.id, unquote(table.name), why))
        write_parts({run.id: run_rows}, work)


def staged_file(logs: Sequence[Log], address: str) -> bytes | None:
    """A file in an artifact that `wandb sync` has not uploaded yet; None without it."""
    for local_path, digest in [log.staged[address] for log in logs if address in log.staged]:
        with suppress(OSError, ValueError):
            content = regular(Path(local_path)).read_bytes()
            if base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode() == digest:
                return content  # else it is another file: a log may name any
    return None


# --- the server: its URL and the key --------------------------------------------------------------------------

FORGE = "forge.coreweave.com"  # W&B's own server
CLOUD_URL = f"https://api.{FORGE}"
CLOUD_HOSTS = (f"api.{FORGE}", "api.wandb.ai")  # of its API
PAGE_HOSTS = (FORGE, "wandb.ai", "www.wandb.ai", "app.wandb.ai")  # of its pages, now or earlier
HEADERS = {"User-Agent": "W&B Public Client 0.31.0", "Use-Admin-Privileges": "true"}  # the SDK's: else admins see less


def base_url() -> str:
    """The server's URL, found as the SDK finds it, without a password and without a slash at the end."""
    given = (os.environ.get("WANDB_BASE_URL") or sdk_setting("base_url") or CLOUD_URL).strip().rstrip("/")
    url = re.fullmatch(r"(https?://)(?:[^/]*@)?([^/@?#\s]+)([^@?#\s]*)", given)
    if url is None or (url[1] == "http://" and url[2] in CLOUD_HOSTS):
        raise ScriptError(f"WANDB_BASE_URL is not a valid URL; write for example {CLOUD_URL}", NOTHING_USABLE)
    return CLOUD_URL if url[2] in PAGE_HOSTS else "".join(url.groups())


def page_url(base_url: str) -> str:
    """The URL of the web pages of the server at `base_url`, without a slash at the end."""
    if base_url.partition("://")[2] in CLOUD_HOSTS:
        return f"https://{FORGE}/wandb"
    return base_url.replace("://api.", "://" if "://api.wandb." in base_url else "://app.")


def sdk_setting(name: str) -> str | None:
    """A value from the SDK's settings files; the working folder's overrides the user's."""
    settings = configparser.ConfigParser(interpolation=None)
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for file in (f"{user}/settings", "wandb/settings", ".wandb/settings"):
        with suppress(configparser.Error, UnicodeDecodeError):  # the SDK ignores unreadable files, too
            settings.read(os.path.expanduser(file), encoding="utf-8")  # noqa: PTH111 - there may be no home
    return settings.get("default", name, fallback=None)


def netrc_key(base_url: str) -> str | None:
    """The key that `wandb login` stored for the server; None without a readable one."""
    host = base_url.partition("://")[2].partition("/")[0]
    names = (host, "api.wandb.ai") if host in CLOUD_HOSTS else (host,)
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file, name in itertools.product(files, names):
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            if entry := netrc.netrc(os.path.expanduser(file)).authenticators(name):  # noqa: PTH111
                return entry[2]
    return None


def api_key(file: Path | None, base_url: str) -> str:
    """The API key for the server: the first found in `file`, WANDB_API_KEY, netrc and the SDK's settings."""
    where, how = f"for {base_url}", "run `wandb login`, set WANDB_API_KEY or use --api-key-file"
    if file:
        key, where = file.read_text("utf-8-sig", errors="replace"), f"in {file}"
    elif os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        raise ScriptError(f"WANDB_IDENTITY_TOKEN_FILE is not supported: unset it, and {how}", NOTHING_USABLE)
    else:
        key = os.environ.get("WANDB_API_KEY") or netrc_key(base_url) or sdk_setting("api_key") or ""
    key = key.strip()
    if not re.fullmatch(r"[\w-]{40,}|([\w-]+\.){2}[\w-]+", key, re.ASCII):
        what = f"invalid API key ({len(key)} characters, instead of 40 or more letters and digits)"
        raise ScriptError(f"{what if key else 'no API key'} {where}; {how}", NOTHING_USABLE)
    return key


# --- the server: requests, in bounded time --------------------------------------------------------------------

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 30.0  # before a request is repeated: each wait is four times the one before
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # of all threads, if the server is busy; longer looks like a hang
LEAST_BYTES_S = 10_000  # a slower answer is given up once the timeout is over
ANSWER_BYTES = 100_000_000  # of an answer at most, uncompressed; the largest pages of runs have 15 MB
MOST_PAGES = 500  # of 200 projects: a longer list is taken for endless
LIMIT_S = 1e6  # for any query: a socket takes no more than 2**31 ms
SIGN_IN_LIMIT_S = 6  # for the first query: an unreachable server is reported within 10 s


class RequestError(Exception):
    """A request failed. The message never contains the URL, which may be signed."""

    def __init__(self, message: str, *, status: int = 0, retries: int = 100, pause_s: float = 0.0) -> None:
        super().__init__(message[:300])  # it may come from the server
        self.status = status  # HTTP status; 0 without an answer
        self.retries = retries  # repeats that may help at most; 0 if the same answer would come again
        self.pause_s = pause_s  # how long all threads have to wait for a busy server
        self.attempts = 1


class Client:
    """Sends requests to one server from many threads, with an API key or without any credentials."""

    def __init__(self, url: str, key: str | None, options: Options, threads: int, say: Say) -> None:
        self.base_url, self.timeout_s, self.retries, self.say = url, min(options.timeout, LIMIT_S), options.retries, say
        self.resume_at = 0.0  # by time.monotonic(): no request starts earlier
        self.failures, self.most_failures = 0, 2 * threads  # circuit breaker: consecutive failures, and their limit
        self.queries = threading.BoundedSemaphore(threads)  # at once
        self.session = requests.Session()
        self.session.trust_env = False  # else it sends the password that netrc has for a host
        self.proxies_of = cache(requests.utils.get_environ_proxies)  # takes a tenth of a small download's time
        self.session.auth = ("api", key) if key else None
        self.session.headers.update(HEADERS if key else {})
        # Without this, requests reads the whole body of a redirect, even of one that it does not follow.
        self.session.hooks["response"].append(lambda answer, **_: answer.raw.close() if answer.is_redirect else None)
        self.session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true", "t", "yes", "y", "on"):
            self.session.verify = False
            urllib3.disable_warnings()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=threads))

    def ask(self, query: str, variables: Mapping[str, Any], *, limit_s: float = math.inf) -> Any:
        """The `data` of the answer to a GraphQL query. RequestError if all attempts fail."""
        with self.queries:
            return self.retry(lambda timeout_s: self.ask_once(query, variables, timeout_s), limit_s=limit_s)

    def ask_for_less(self, query: str, variables: Callable[[int], Mapping[str, Any]], size: int) -> tuple[Any, int]:
        """As `ask`, and the size of what was asked for: a quarter of the one before after each failure."""

        def attempt(timeout_s: float) -> Any:
            nonlocal size
            try:
                return self.ask_once(query, variables(size), timeout_s)
            except RequestError as error:
                size = max(size // 4, 1)
                error.retries = 100 if error.retries else 0  # a smaller answer may succeed
                raise

        with self.queries:
            return self.retry(attempt), size

    def ask_once(self, query: str, variables: Mapping[str, Any], timeout_s: float) -> Any:
        """The same in one attempt. An error that the server states is worth one repeat."""
        content, url = {"query": query, "variables": variables}, f"{self.base_url}/graphql"
        body = b"".join(self.pieces("POST", url, timeout_s, json=content, allow_redirects=False))
        try:
            answer = parsed(body)[1]
        except (ValueError, RecursionError) as error:
            raise RequestError("the answer is incomplete, or not JSON") from error
        if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
            raise RequestError(stated_error(body) or "the answer has no data", status=200, retries=1)
        return answer["data"]

    def retry(self, attempt: Callable[[float], Outcome], *, limit_s: float = math.inf) -> Outcome:
        """What `attempt(timeout_s)` returns; it is repeated after a RequestError, as long as a repeat may help.
        Before it this thread waits (exponential backoff), or all do if the server is busy; `limit_s` excludes waits.
        """
        attempts = 0
        while self.failures < self.most_failures:
            while (wait_s := self.resume_at - time.monotonic()) > 0:
                time.sleep(min(wait_s, 1.0))  # a Ctrl-C just before a sleep takes effect only after it
            started = time.monotonic()
            try:
                return attempt(min(self.timeout_s, limit_s))
            except RequestError as error:
                attempts += 1
                limit_s -= time.monotonic() - started
                error.attempts = max(error.attempts, attempts)
                if attempts > min(error.retries, self.retries) or limit_s < FIRST_WAIT_S:
                    self.failures = self.failures + 1 if error.retries > 1 else 0  # 0 and 1: the server has answered
                    error.retries = 0  # a caller that has its own attempts must not start over
                    raise
                wait_s = max(error.pause_s, min(FIRST_WAIT_S * 4.0 ** (attempts - 1), LONGEST_WAIT_S))
                if not error.pause_s:
                    time.sleep(wait_s)
                elif time.monotonic() + wait_s > self.resume_at + SHORTEST_PAUSE_S:  # reported once, not by each thread
                    self.resume_at = time.monotonic() + wait_s
                    self.say(f"the server is busy (HTTP {error.status}): waiting {wait_s:.0f} s")
        raise RequestError("not requested, because the server no longer answers; run this again later", retries=0)

    def pieces(self, method: str, url: str, timeout_s: float, limit: int = ANSWER_BYTES, **how: Any) -> Iterator[bytes]:
        """The body of a successful answer, piece by piece. The more bytes have come, the longer it may take."""
        started, received = time.monotonic(), 0
        host = "/".join(url.split("/", 3)[:3])
        how |= {"stream": True, "timeout": timeout_s, "proxies": self.proxies_of(host)}
        try:
            with self.session.request(method, url, **how) as answer:
                if answer.status_code >= 300:
                    raise status_error(answer)
                while piece := answer.raw.read1(1 << 20, decode_content=True):
                    yield piece
                    received += len(piece)
                    if received > limit:
                        raise RequestError(f"the answer is longer than {limit / 1e6:,.0f} MB", retries=1)
                    if time.monotonic() - started > timeout_s + received / LEAST_BYTES_S:
                        raise RequestError(f"too slow: {received:,} bytes in {timeout_s:.0f} s")
                self.failures = 0
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise RequestError(f"no answer within {timeout_s:.0f} s") from error
        except (OSError, urllib3.exceptions.HTTPError) as error:  # exceptions of requests are OSErrors
            cause: BaseException = error
            while deeper := cause.__cause__ or cause.__context__:
                cause = deeper
            why = getattr(cause, "strerror", None) or type(error).__name__  # other texts may contain the URL
            raise RequestError(f"the connection failed ({why})") from error


def status_error(answer: requests.Response) -> RequestError:
    """The error that an unsuccessful answer states, and whether and when to repeat the request."""
    status, after, pause_s = answer.status_code, answer.headers.get("Retry-After", ""), 0.0
    if status == 429:
        after = after or answer.headers.get("RateLimit-Reset", "")  # seconds, of W&B's cloud
    body = b"" if answer.is_redirect else answer.raw.read1(1 << 20, decode_content=True)  # a redirect's is closed
    message = f"{stated_error(body) or answer.reason} (HTTP {status})"
    if status not in (408, 429) and status < 500:
        return RequestError(message, status=status, retries=0)
    if after or status in (429, 503):
        with suppress(urllib3.exceptions.InvalidHeader):  # or none; it may be a date
            pause_s = urllib3.Retry().parse_retry_after(after)
        pause_s = min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
    return RequestError(message, status=status, pause_s=pause_s)


def stated_error(body: bytes) -> str:
    """The first message among an answer's `errors`, on one line; empty without one."""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        return " ".join(str(json.loads(body)["errors"][0]["message"]).split())
    return ""


@contextmanager
def reading_answer() -> Iterator[None]:
    """For code that reads an answer's values: raises a RequestError if these have an unexpected form."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise RequestError(f"the answer has an unexpected form ({error!r})", status=200, retries=0) from error


def sign_in(client: Client) -> tuple[str, list[str]]:
    """The key's own entity, empty if it has none, and all entities that it can see. ScriptError without access."""
    query = "query Viewer { viewer { username entity teams { edges { node { name } } } } }"
    try:
        with reading_answer():
            viewer = client.ask(query, {}, limit_s=SIGN_IN_LIMIT_S).get("viewer") or {}
            own = str(viewer.get("entity") or viewer.get("username") or "")
            teams = [str(each["node"]["name"]) for each in (viewer.get("teams") or {}).get("edges", ()) if each["node"]]
    except RequestError as error:
        hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
        if error.status in (401, 403):
            hint = "the API key is wrong: copy it again from your W&B settings"
        elif error.status == 429 or error.status >= 500:
            hint = "the server is busy: try again later"
        raise ScriptError(f"cannot sign in to {client.base_url}: {error}; {hint}", NOTHING_USABLE) from error
    return own, [name for name in dict.fromkeys([own, *teams]) if name]  # `own` may be among the teams


# --- the server: which projects are selected ------------------------------------------------------------------

# A query about one project: its name, its further variables, and what is asked of the project.
IN_PROJECT = """query %s($entity: String!, $project: String!%s) {
    project(name: $project, entityName: $entity) { %s } }"""
NO_ENTITIES = ("home", "links", "login", "settings", "authorize", "profile", "signup", "site", "registry", "orgs")


class Server:
    """The server's API and its storage, with the limits for requests at once."""

    def __init__(self, base_url: str, key: str, options: Options, meter: Meter, say: Say) -> None:
        self.options, self.meter = options, meter
        self.workers = min(options.workers or WORKERS, 1_000)  # memory for each connection is reserved at the start
        self.downloads = DOWNLOADS_PER_WORKER * self.workers
        self.api = Client(base_url, key, options, self.workers, say)
        self.storage = Client("", None, options, self.downloads, say)
        self.conversions = threading.BoundedSemaphore(os.cpu_count() or 1)  # at once: more need only memory
        self.forward = FORWARD  # empty for a server that does not know it


def place_of(text: str) -> Place:
    """The place that a W&B URL or an `entity/project[/run]` path names. ScriptError if it names no runs.

    >>> place_of("https://wandb.ai/team/demo/runs/abc/logs?nw=1")
    Place(entity='team', project='demo', key='run', value='abc', host='wandb.ai')
    """
    try:
        url = urlsplit(f"https://{text}" if text.partition("/")[0] in PAGE_HOSTS else text)
    except ValueError as error:
        raise ScriptError(f"{text} is not a URL: {error}", WRONG_USAGE) from error
    host = url.netloc.rpartition("@")[2].lower()  # without a password
    text = url._replace(netloc=host).geturl()
    keys = [unquote(key) for key in url.path.split("/") if key]
    if url.scheme and url.hostname == FORGE and keys[:1] == ["wandb"]:
        keys = keys[1:]  # the folder of W&B's pages on that host
    entity, project, page, name = (*keys, "", "", "", "")[:4]
    if url.scheme and entity not in ("", *NO_ENTITIES) and project in ("", "projects") and not page:
        return Place(entity, "*", host=host)
    if not project or (url.scheme and (entity in NO_ENTITIES or url.hostname in CLOUD_HOSTS)):
        raise ScriptError(f"{text} is not a project: write entity/project[/run], a URL, or --offline DIR", WRONG_USAGE)
    if page and not name and not url.scheme:
        return Place(entity, project, "run", page)
    if name and page in ("runs", "sweeps", "groups"):
        return Place(entity, project, page.removesuffix("s"), name, host)
    if page not in ("", "runs", "table", "workspace", "overview"):
        advice = f"write {entity}/{project}, or the URL of a run, sweep or group"
        raise ScriptError(f"{text} is no project, run, sweep or group; {advice}", WRONG_USAGE)
    return Place(entity, project, host=host)


def filters_of(places: Sequence[Place], selection: Selection) -> dict[str, object]:
    """The selection in a project's places as W&B's filters, which the server evaluates; empty if all are selected."""
    times = {"$gte": iso(selection.since), "$lt": iso(selection.until)}
    lists = {"state": selection.state, "tags": selection.tag, "group": selection.group, "sweep": selection.sweep}
    asked: list[Mapping[str, object]] = [{"createdAt": {operator: time_}} for operator, time_ in times.items() if time_]
    asked += [{key: {"$in": values}} for key, values in lists.items() if values]
    asked += [selection.where] if selection.where else []
    if all(place.key for place in places):
        keys = {"run": "name", "sweep": "sweep", "group": "group"}  # of W&B's filters
        asked.append({"$or": [{keys[place.key]: {"$eq": place.value}} for place in places]})
    return {"$and": asked} if asked else {}


def iso(time_: datetime | None) -> str | None:
    return time_.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if time_ else None


def find_projects(server: Server) -> tuple[list[Project], list[Failure]]:
    """The selected projects, each once, and failures. ScriptError if there is no project."""
    selection, (own, entities) = server.options.selection, sign_in(server.api)
    pairs = itertools.product(selection.entity or [own], selection.project or ["*"])
    places = server.options.places or [Place(*pair) for pair in pairs]
    if not places[0].entity:
        raise ScriptError("your API key has no default entity; name one with -e", NOTHING_USABLE)
    named: defaultdict[tuple[str, str], list[Place]] = defaultdict(list)  # the places of each project or glob
    for place in places:
        named[place.entity, place.project].append(place)
    found: dict[tuple[str, str], Project] = {}
    outcomes = side_by_side(partial(projects_at, server), [*named.values()], server.workers)
    failed = [*dict.fromkeys(failure for _, _, failures in outcomes for failure in failures)]  # one for several globs
    for project in (project for projects, _, _ in outcomes for project in projects):
        known = found.setdefault((project.entity, project.name), project)
        if known is not project:  # several globs match it: the runs that any of the places selects
            known.places += project.places
            known.filters, known.windows = filters_of(known.places, selection), []
    for (entity, pattern), (projects, names, failures) in zip(named, outcomes, strict=True):
        is_elsewhere = any(matches(name, pattern) for _, name in found)
        if projects or failures or (is_elsewhere and (names or entity in entities)):
            continue  # another entity has such a project
        near = did_you_mean(pattern, names) if names else did_you_mean(entity, {*entities} - {entity})
        what = f"no project {pattern}" if names else "no projects that your API key can see"
        error = f"{entity} has {what}{near}; list_entities.py shows what there is"
        failed.append(Failure(f"{entity}/{pattern}", "project", error))
    if not found:
        raise nothing_exported(failed)
    return [found[key] for key in sorted(found)], failed


def projects_at(server: Server, places: list[Place]) -> tuple[list[Project], list[str], list[Failure]]:
    """The projects of places with the same project or glob; all names of the entity's projects, if listed; failures."""
    query = """query Projects($entity: String, $after: String) {
        models(entityName: $entity, first: 200, after: $after) {
            edges { node { name } } pageInfo { endCursor hasNextPage } } }"""
    place = places[0]
    project = Project(place.entity, place.project, filters_of(places, server.options.selection), places)
    failing, what = project.path, ""
    names: list[str] = []
    variables = {"entity": place.entity, "after": None}
    try:
        with reading_answer():
            if not has_magic(project.name) and plan(server, project):
                return [project], [], []
            # Only now all are listed: a team may have thousands.
            failing, what = place.entity, "its projects cannot be listed: "
            for _ in range(MOST_PAGES):
                models = server.api.ask(query, variables)["models"] or {"edges": ()}
                names += [str(edge["node"]["name"]) for edge in models["edges"]]
                if not (models["edges"] and models["pageInfo"]["hasNextPage"]):
                    break
                variables["after"] = models["pageInfo"]["endCursor"]
            else:
                raise RequestError("the server repeats its list of projects without end; try again later")  # noqa: TRY301
    except RequestError as error:
        return [], names, [Failure(failing, "project", f"{what}{error}", error.attempts)]
    chosen = [name for name in names if name == place.project] or [n for n in names if matches(n, place.project)]
    return [Project(place.entity, name, project.filters, [*places]) for name in chosen], names, []


def side_by_side(work: Callable[[Item], Outcome], subjects: Sequence[Item], at_once: int) -> list[Outcome]:
    """The results for all subjects, in their order. After Ctrl-C the threads are not waited for."""
    threads = ThreadPoolExecutor(max(1, min(at_once, len(subjects))))
    try:
        return list(threads.map(work, subjects))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# --- the server: its projects, and their pages of runs --------------------------------------------------------

PLAN_FIELDS = """all: runCount
        selected: runCount(filters: $filters)
        first: runs(filters: $filters, first: 1, order: "+created_at") { edges { node { createdAt } } }
        last: runs(filters: $filters, first: 1, order: "-created_at") { edges { node { createdAt } } }"""
PLAN = IN_PROJECT % ("Plan", ", $filters: JSONString", PLAN_FIELDS)
RUNS_FIELDS = """runs(filters: $filters, first: $first, after: $after, order: "+created_at") {
            pageInfo { endCursor hasNextPage }
            edges { node { name displayName state createdAt heartbeatAt tags group job_type: jobType sweep: sweepName
                notes commit historyLineCount user { username } %s } } }
        inWindow: runCount(filters: $filters)"""
RUNS = IN_PROJECT % ("Runs", ", $filters: JSONString, $first: Int, $after: String", RUNS_FIELDS)


class Window(NamedTuple):
    """Runs with start <= createdAt < end; None is no bound. `createdAt` never changes, so a run stays in its window."""

    start: datetime | None = None
    end: datetime | None = None
    last: datetime | None = None  # when the newest of all runs was created
    cursor: str | None = None  # of the server: the next page begins after it
    runs: int = 0  # the window's runs when the server returned the cursor


def fetch_project(server: Server, project: Project, work: Path) -> None:
    """Fill in the project's runs and tables, and the goals of its sweeps."""
    options = server.options
    if not project.windows and not plan(server, project):
        raise RequestError(f"there is no project {project.path}")
    list_runs(server, project, work)
    add_tables_asked(project, options)
    for table in project.tables.values():
        if table.is_asked and not options.dry_run:
            fetch_table(server, project, table, work)
    goals: dict[str, set[str]] = {}  # of each metric that a sweep optimises
    sweeps = [] if options.dry_run else project.runs["sweep"].drop_nulls().unique().sort().to_list()
    try:
        for names in chunks(sweeps, RUNS_PER_QUERY):
            answer = ask_for_each(server, project, "Sweeps", "sweep(sweepName", dict.fromkeys(names, "config"))
            for sweep in filter(None, answer.values()):
                with suppress(ValueError, LookupError, TypeError, RecursionError):  # W&B itself could not read it
                    config = yaml_object((sweep["config"] or "").encode())
                    for metric in [config["metric"]] if config.get("metric") else config["metrics"]:
                        goals.setdefault(str(metric["name"]), set()).add(str(metric.get("goal") or "minimize").lower())
    except RequestError as error:
        why = f"the goals of its sweeps cannot be read: {error}"
        project.failed.append(Failure(project.path, "sweeps", why, error.attempts))
    project.goals = {name: each.pop() for name, each in goals.items() if len(each) == 1 and each <= {*GOALS.values()}}


def plan(server: Server, project: Project) -> bool:
    """Fill in the numbers of runs, and windows with about a page of runs each. False if there is no such project."""
    answer = server.api.ask(PLAN, {**project.place, "filters": json.dumps(project.filters)})["project"]
    if answer is None:
        return False
    if None in answer.values():
        raise RequestError("the answer has no runs")
    project.selected, project.filtered = answer["selected"], answer["all"] - answer["selected"]
    first, last = ([time_of(edge["node"]["createdAt"]) for edge in answer[key]["edges"]] for key in ("first", "last"))
    project.windows = split(Window(last=last[0] if last else None), first[0] if first else None, project.selected)
    return True


def split(window: Window, first: datetime | None, runs: int) -> list[Window]:
    """The window in equal parts: about a page of runs each if their times are spread evenly, from `first` on."""
    parts, last = min(math.ceil(runs / WINDOW_RUNS), MOST_WINDOWS), window.end or window.last
    if parts < 2 or first is None or last is None or last - first < timedelta(seconds=parts):
        return [window]
    bounds = [first + (last - first) * number / parts for number in range(1, parts)]
    return [Window(*ends, window.last) for ends in itertools.pairwise([window.start, *bounds, window.end])]


def list_runs(server: Server, project: Project, work: Path) -> None:
    """Fill in the selected runs, each once. If there are fewer than the server counts, they are listed again."""
    server.meter.add(runs_wanted=project.selected)
    for attempt in range(1, LISTINGS + 1):
        failed, inactive = list_once(server, project, work)
        listed = len({*inactive, *project.runs["id"], *project.lost})
        if any(failure.what == "runs" for failure in failed):
            break
        if listed < project.selected:
            plan(server, project)  # counts again: runs may have been deleted while they were listed
        if listed >= project.selected and not project.is_changing:
            break
        if attempt == LISTINGS and listed < project.selected:
            error = f"the server counts {counted(project.selected, 'run')}, but lists {listed:,}"
            failed.append(Failure(project.path, "runs", error, LISTINGS))
    for place in () if server.options.selection.flags else project.places:
        if place.key and place.value not in {*project.lost, *project.runs["id" if place.key == "run" else place.key]}:
            why = "there is no such run" if place.key == "run" else f"there is no run of this {place.key}"
            failed.append(Failure(place.value, "place", why))
    project.failed += dict.fromkeys([*failed, *project.lost.values()])  # two pages may share a run
    project.selected = max(project.selected, listed) - len(inactive)
    project.filtered += len(inactive)
    if not (project.filters or server.options.selection.active_since or any(each.what == "runs" for each in failed)):
        project.all_ids = {*project.runs["id"], *project.lost}


def list_once(server: Server, project: Project, work: Path) -> tuple[list[Failure], set[str]]:
    """Fill in the pages of all windows; returns failures, and the ids of runs that --active-since leaves out."""
    active_since = server.options.selection.active_since
    url = f"{page_url(server.api.base_url)}/{quote(project.entity, safe='')}/{quote(project.name, safe='')}/runs"
    failed, inactive, sizes = list[Failure](), set[str](), list[int]()  # sizes of pages, which may share runs
    project.pages, project.lost, project.is_changing = [], {}, False

    def fetch(window: Window) -> list[Window]:
        try:
            nodes, rest = fetch_page(server, project, window)
        except RequestError as error:
            failed.append(Failure.of(error, project.path, "runs"))
            return []
        server.meter.add(runs=len(nodes))
        sizes.append(len(nodes))
        if active_since is not None:
            inactive.update(node["name"] for node in nodes if (time_of(node["heartbeatAt"]) or EPOCH) < active_since)
        nodes = [node for node in nodes if node["name"] not in inactive and node["name"] not in project.lost]
        with server.conversions:
            project.pages.append(write_page([run_of_node(node, project, url, failed) for node in nodes], work))
        return rest

    windows = project.windows
    while windows:
        if sum(sizes) > 3 * project.selected + 100:
            raise RequestError("the server repeats its list of runs without end; try again later")
        windows = [window for rest in side_by_side(fetch, windows, PAGES_AT_ONCE) for window in rest]
    project.runs = index_of(project.pages)
    known = inactive.union(project.runs["id"])
    project.lost = {run_id: failure for run_id, failure in project.lost.items() if run_id not in known}
    if not known and (failures := [*project.lost.values(), *failed]):
        where = "" if failures[0] in failed else f"run {failures[0].run}: "
        raise RequestError(where + failures[0].error)
    return failed, inactive


def fetch_page(server: Server, project: Project, window: Window) -> tuple[list[Mapping[str, Any]], list[Window]]:
    """A page of the window's runs as the server returns them, and windows for the rest."""
    filters: list[Mapping[str, object]] = [project.filters] if project.filters else []
    for operator, time_ in (("$gte", window.start), ("$lt", window.end)):
        filters += [{"createdAt": {operator: iso(time_)}}] if time_ else []
    variables = {**project.place, "filters": json.dumps({"$and": filters} if filters else {}), "after": window.cursor}
    query = RUNS % ("" if server.options.dry_run else "config summaryMetrics")
    one = {**variables, "first": 1}
    try:
        answer, size = server.api.ask_for_less(query, lambda size: {**variables, "first": size}, project.page_runs)
    except RequestError as error:  # maybe because of a single run: it is left out, and the others are asked for
        most = MOST_LOST if any(page.index.height for page in project.pages) else 2  # if none came yet, all may fail
        if len(project.lost) >= most or error.pause_s or (error.status < 500 and error.status != 200):
            raise
        answer, size = server.api.ask(RUNS % "", one), 1
        try:
            answer = server.api.ask(query, one)
        except RequestError as again:
            why = f"its config or summary cannot be fetched: {again}"
            ids = [edge["node"]["name"] for edge in answer["project"]["runs"]["edges"] if edge["node"]]
            project.lost |= {run_id: Failure(run_id, "run", why, again.attempts) for run_id in ids}
    answer = answer["project"]
    project.page_runs = min(size * 4, PAGE_RUNS)
    if answer is None or answer["runs"] is None:
        raise RequestError("the project no longer exists" if answer is None else "the answer has no runs")
    nodes = [edge["node"] for edge in answer["runs"]["edges"] if edge["node"]]
    info, runs = answer["runs"]["pageInfo"], answer["inWindow"]
    project.is_changing |= window.cursor is not None and runs != window.runs
    if not info["hasNextPage"] or not nodes:
        return nodes, []
    first, last = time_of(nodes[0]["createdAt"]), time_of(nodes[-1]["createdAt"])
    if first is None or last is None or first == last:
        # A cursor is an offset, and wrong once a run is deleted: used only for runs with the same creation time.
        return nodes, [window._replace(cursor=info["endCursor"], runs=runs)]
    # Runs created at `last` are listed twice; index_of() drops one.
    return nodes, split(window._replace(start=last, cursor=None), last, runs - len(nodes))


def run_of_node(node: Mapping[str, Any], project: Project, url: str, failed: list[Failure]) -> Run:
    """One run of the server's answer. A config or summary that is no JSON object is a failure and stored as text."""
    leaves: Leaves = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    texts = {"config": "{}", "summaryMetrics": "{}"}
    for key in texts:
        text = node.get(key) or "{}"
        try:
            if key == "config":
                for exact in (False, True):  # a search for long numbers in the text would take ten times as long
                    is_strict, tree = parsed_object(text, exact=exact)
                    config = unwrapped(tree)
                    given = {k: v for k, v in config.items() if k not in NOT_CONFIG}
                    found = flatten(given, (CONFIG,))
                    if not any(map(may_be_rounded, found)):
                        break
                texts[key] = orjson.dumps(given).decode() if is_strict else valid_json(given)
                leaves += found
            else:
                is_strict, summary = parsed_object(text)
                if text.count("{") + text.count("[") > DEEPEST:
                    orjson.dumps(summary)  # raises where it is nested deeper, as for a config
                texts[key] = text if is_strict and summary else valid_json(summary)
                leaves += numeric_leaves(summary, (METRIC,))
        except (ValueError, TypeError, RecursionError) as error:
            texts[key] = valid_json(text)
            failed.append(Failure(node["name"], key, f"cannot be parsed ({error}); it is stored as text"))
    notes, step = config.get("_wandb"), summary.get("_step")
    writers = notes.get("e") if isinstance(notes, dict) else None
    row = dict(
        id=node["name"],
        name=node["displayName"] or node["name"],
        state=node["state"] or "",
        **project.place,
        created_at=time_of(node["createdAt"]),
        heartbeat_at=time_of(node["heartbeatAt"]),
        runtime_s=runtime_s(summary),
        last_step=int(step) if isinstance(step, int | float) and step % 1 == 0 and abs(step) < 2**63 else None,
        history_rows=node["historyLineCount"],
        **{name: node[name] or None for name in ("tags", "group", "job_type", "sweep", "notes")},
        user=(node["user"] or {}).get("username"),
        url=f"{url}/{quote(node['name'], safe='')}",
        **machine(writers.values() if isinstance(writers, dict) else (), node["commit"]),
        exported_at=now(),
        _config_json=texts["config"],
        _summary_json=texts["summaryMetrics"],
    )
    tables = tables_in(summary) if "table" in texts["summaryMetrics"] else {}
    return Run(row, leaves, definitions_in(config), tables)


def unwrapped(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without W&B's wrappers, `{"value": ..., "desc": ...}`, removed once. Not all values have one."""
    wrappers = ({"value"}, {"value", "desc"})
    return {k: v["value"] if isinstance(v, dict) and v.keys() in wrappers else v for k, v in config.items()}


def parsed(text: bytes | str) -> tuple[bool, Any]:
    """Whether a JSON text is strictly valid, and its value; non-finite numbers become text."""
    try:
        return True, orjson.loads(text)
    except orjson.JSONDecodeError:
        return False, jsonable(json.loads(text, strict=False))  # as the SDK, which accepts control characters


def may_be_rounded(leaf: tuple[KeyPath, Scalar]) -> bool:
    """True for a float beyond 64-bit integers, and for a list (as JSON) that may hold one."""
    value = leaf[1]
    return abs(value) >= 2**63 if type(value) is float else type(value) is str and "e+" in value


def parsed_object(text: str, *, exact: bool = False) -> tuple[bool, dict[str, Any]]:
    """Whether a JSON text is strictly valid, and its object, empty for null. ValueError if it is no object.

    `exact`: slower, but whole numbers beyond 64 bits do not become floats. Non-finite numbers become text.
    """
    is_strict, tree = (False, jsonable(json.loads(text, strict=False))) if exact else parsed(text)
    if not isinstance(tree, dict | None):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - as what the parsers raise
    return is_strict, tree or {}


def definitions_in(config: Mapping[str, Any]) -> list[MetricDefinition]:
    """The settings of `define_metric`, as the SDK stores them in a config: by numbers of protobuf fields."""
    definitions = []
    with suppress(LookupError, TypeError, AttributeError):  # a config may hold anything there
        records = config["_wandb"]["m"]
        for record in records:
            name = record.get("1") or record.get("2")
            kinds = ",".join(kind for number, kind in enumerate(SUMMARY_KINDS, 1) if number in record.get("7", ()))
            step = records[record["5"] - 1] if record.get("5") else {}  # the step metric's place among them, from 1
            step_metric = str(step.get("1") or step.get("2") or "") or None
            if name:
                definitions.append(MetricDefinition(str(name), GOALS.get(record.get("8")), kinds or None, step_metric))
    return definitions


def time_of(text: str | None) -> datetime | None:
    """A time in ISO format, in UTC if it names no zone; None for other texts.

    >>> str(time_of("2026-01-31T02:00:00+02:00")), time_of("0001-01-01T00:00:00+02:00"), time_of("soon")
    ('2026-01-31 00:00:00+00:00', None, None)
    """
    try:
        time_ = datetime.fromisoformat(text or "")
        return (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the run is exported without it
        return None


# --- tables of rows: which are exported ----------------------------------------------------------------------

CONSOLE_PAGE = 10_000  # lines of output per query, over all its runs: a server returns no more
LATER_PAGE = 5_000  # lines per query about one run with long output
# Of queries for lines: else W&B ignores `first`, and takes `after` for an offset from the end.
FORWARD = ", useImprovedPagination: true"


def new_table(name: str, key: str = "") -> Table:
    """A table by the end of its file's name; `key` is that of a W&B Table."""
    clocks = {"_runtime": pl.Float64, "_timestamp": pl.Float64}
    if name == "system":
        return Table(name, None, clocks)
    if name == "console":
        return Table(name, "line", {"time": pl.Datetime("us", "UTC"), "stream": pl.String, "text": pl.String})
    if name.startswith("table_"):
        return Table(name, "row", {}, is_wandb_table=True, key=key)
    return Table(name, "_step", clocks, is_history=True)


def add_tables_asked(project: Project, options: Options) -> None:
    """Add the tables that the options ask for to those of the earlier export."""
    flags = {"history": options.include_history, "history_sampled": options.history_samples is not None}
    flags |= {"system": options.system_metrics, "console": options.console}
    asked = {name: "" for name, is_asked in flags.items() if is_asked}  # names, with the keys of W&B Tables
    if options.tables:
        names = {table.key: table.name for table in project.tables.values() if table.key}  # of the earlier export
        files = {run_id: of_run for page in project.pages for run_id, of_run in page.tables.items()}
        for run_id, of_run in files.items():
            why = "it is not one file of the run (but unlisted increments, a join, partitions, a list or an artifact)"
            project.failed += [Failure(run_id, f"table_{key}", why) for key, file in of_run.items() if not file.path]
        for key in sorted({key for of_run in files.values() for key, file in of_run.items() if file.path} - {*names}):
            names[key] = logged_table_name(project, key, names.values(), options.output)
        asked |= {name: key for key, name in names.items()}
    for name, key in asked.items():
        table = project.tables.setdefault(name, new_table(name))
        table.is_asked, table.key = True, key
        table.made_of = options.history_keys if table.is_history else ()
        if name == "history_sampled":
            table.made_of += (f"{options.history_samples} samples",)
        if name == "console" and options.console_lines:
            table.extent = (f"last {options.console_lines}",)


def logged_table_name(project: Project, key: str, taken: Collection[str], output: Path) -> str:
    """The end of a W&B Table's file name; with a hash if it is too long, taken, or may belong to another project."""
    name = quote(f"table_{key}".encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    stem, longest = f"{project.stem}_{name}", LONGEST_STEM - len(f"{project.stem}_")
    is_taken = name.lower() in [other.lower() for other in taken]  # some file systems ignore case
    is_taken |= any(stem.lower().startswith(f"{other}_") for other in project.longer_stems)
    is_taken |= owner_of(output / f"{stem}.parquet") not in (None, (project.entity, project.name))
    suffix = f"__{path_hash((key,))[:8]}"
    return name[: max(longest - len(suffix), len("table_"))] + suffix if is_taken or len(name) > longest else name


def changed_runs(project: Project, table: Table) -> list[RowsRequest]:
    """The runs whose rows differ from the earlier export."""
    earlier = table.earlier
    known = earlier.revisions if earlier.made_of == table.made_of else {}
    tables = [item for page in project.pages for item in page.tables.items()]
    files = {run_id: of_run[table.key] for run_id, of_run in tables if table.is_wandb_table and table.key in of_run}
    changed = []
    about_runs = project.runs.select("id", "history_rows", "last_step", "heartbeat_at")
    for run_id, rows, last_step, active_at in about_runs.sort("id").iter_rows():
        file = files.get(run_id, TableFile(rows=rows))
        whole = (file.path, *file.increments[-1:]) if table.is_wandb_table else (str(rows), iso(active_at) or "")
        revision = (*whole, *table.extent)
        if known.get(run_id) not in (whole, revision) and (file.path or not table.is_wandb_table or run_id in known):
            changed.append(RowsRequest(run_id, file.rows, last_step, revision, file))
    return changed


# --- the server: rows of histories, consoles and tables -------------------------------------------------------

LIVE_FIELDS = "run(name: $run) { history(minStep: $min, maxStep: $max, samples: $samples) }"
ARTIFACT_ID = "query ArtifactId($id: ID!) { clientIDMapping(clientID: $id) { serverID } }"
ARTIFACT_FILE = """query ArtifactFile($id: ID!, $names: [String!]) {
    artifact(id: $id) { files(names: $names) { edges { node { name directUrl } } } } }"""
FILE_ROWS = 10_000  # of a W&B Table that the SDK writes to a file of the run; to an artifact, 200,000
IN_ARTIFACT = "the SDK puts the others into the Table's artifact alone"
SDK_LIMIT = "the SDK stores no more in the Table's artifact"
LIVE_ROWS = IN_PROJECT % ("LiveRows", ", $run: String!, $min: Int64, $max: Int64, $samples: Int", LIVE_FIELDS)


class RowSource(NamedTuple):
    """What the functions that fetch a table have in common."""

    server: Server
    project: Project
    table: Table
    folder: Path  # of the part files
    work: Path  # for downloads


def fetch_table(server: Server, project: Project, table: Table, work: Path) -> None:
    """Fill in the rows of the runs that changed. After an interruption the next export uses the part files."""
    folder = work.parent / HISTORIES / project.stem / table.name
    folder.mkdir(parents=True, exist_ok=True)
    source = RowSource(server, project, table, folder, work)
    stored = stored_parts(folder)
    missing = []
    for run in changed_runs(project, table):
        is_empty = (table.name, run.listed, run.last_step) == ("history", 0, None)
        if is_empty or (table.is_wandb_table and not run.file.path):
            table.fetched[run.id] = RunRows(revision=run.revision)
        elif known := stored.get(run.cache_key(table)):
            table.fetched[run.id] = replace(known, revision=run.revision)
        else:
            missing.append(run)
    server.meter.add(histories_wanted=len(missing))
    at_once = server.downloads if table.name == "history" or table.is_wandb_table else 2 * server.workers
    size = min(RUNS_PER_QUERY, math.ceil(len(missing) / at_once))
    if table.name == "console" and server.options.console_lines:
        size = max(1, min(size, CONSOLE_PAGE // server.options.console_lines))
    # Of neighbouring runs, so that part files hold ranges of run ids, as the table's file does.
    batches: list[list[RowsRequest]] = []
    for run in missing:
        if not batches or len(batches[-1]) == size or sum(each.listed or 0 for each in batches[-1]) >= BATCH_ROWS:
            batches.append([])
        batches[-1].append(run)
    side_by_side(partial(fetch_batch, source), batches, at_once)


def stored_parts(folder: Path) -> dict[str, RunRows]:
    """The whole histories in the part files of an interrupted export, by their cache keys."""
    found: dict[str, RunRows] = {}
    for file in folder.glob("*.partial"):
        file.unlink()
    for file in folder.iterdir():
        try:
            runs, noted = json.loads(pl.read_parquet_metadata(file)[PART_KEY])
            for key, skipped, dtypes, *numbers in noted:  # numbers of rows, unless there are none
                own = {tuple(path): dtype for path, dtype in dtypes}
                parts = [Part(file, runs, own, *numbers)] if numbers else []
                found[key] = RunRows(parts, {tuple(path) for path in skipped})
        except (OSError, ValueError, LookupError, TypeError, *DAMAGED):
            file.unlink()  # damaged, or of another version of this script: its runs are fetched again
    return found


def fetch_batch(source: RowSource, batch: Sequence[RowsRequest]) -> None:
    """Fetch the rows of some runs, with one query for all."""
    answers: dict[str, Any] = {}
    with suppress(RequestError):  # one run may cause the error: then there is a query for each
        answers = ask_for_runs(source, batch) if len(batch) > 1 else {}
    found, written_at = dict[str, RunRows](), time.monotonic()
    for run in batch:
        if run_rows := fetch_run(source, run, answers.get(run.id)):
            found[run.id] = run_rows
        if run is batch[-1] or time.monotonic() > written_at + UNWRITTEN_S:
            if shared := {run_id: each for run_id, each in found.items() if each.frame is not None}:
                with source.server.conversions:
                    write_parts(shared, source.folder)
            written_at = time.monotonic()
    source.table.fetched |= found
    source.server.meter.add(histories=len(batch), rows=sum(run_rows.rows for run_rows in found.values()))


def fetch_run(source: RowSource, run: RowsRequest, answer: Any) -> RunRows | None:
    """The rows of a run; None if there are none. What cannot be fetched is a failure of the project."""
    attempts = damaged = 0  # a RequestError with `retries=attempts` allows one more
    best: RunRows | None = None  # of all attempts, the one with the most rows

    def attempt(_timeout_s: float) -> None:
        nonlocal answer, best, attempts, damaged
        attempts += 1
        given = answer or ask_for_runs(source, [run])[run.id]
        answer = None  # the next attempt asks again: signed URLs expire
        if given is None:
            raise RequestError("the run no longer exists on the server", retries=0)
        try:
            run_rows = read_answer(source, run, given)
        except DAMAGED as error:
            damaged += 1
            why = "the download is incomplete or damaged; export again"
            raise RequestError(why, retries=attempts if damaged == 1 else 0) from error
        is_first = best is None
        best = max(run_rows, best or run_rows, key=lambda each: each.found)
        if best.is_short:  # the server may just have moved live rows into an export
            raise RequestError(best.problem, retries=attempts if is_first and not best.problem else 0)

    try:
        source.server.storage.retry(attempt)
    except (ScriptError, OSError):  # the folder cannot be written to: not a failure of this run alone
        raise
    except Exception as error:  # noqa: BLE001 - one run with odd data must not stop the others
        failure = Failure.of(error, run.id, unquote(source.table.name))
        had = f"only {best.found:,} of {best.counted:,} rows were downloaded" if best else ""
        why = ": ".join(filter(None, (had, failure.error)))
        source.project.failed.append(failure._replace(error=why))
    return best


def read_answer(source: RowSource, run: RowsRequest, answer: Any) -> RunRows:
    """A run's rows by the server's answer, and what it refers to: as a frame, or if they are many, in a part."""
    table = source.table
    read: Callable[..., AnyFrame] = {"history": full_history, "console": console_rows}.get(table.name, sampled_rows)
    read = logged_rows if table.is_wandb_table else read
    run_rows = RunRows(revision=run.revision, cache_key=run.cache_key(table))
    with ExitStack() as at_end:  # it deletes the downloads, which may have many GB
        rows = run_rows.frame = read(source, run, answer, run_rows, at_end)
        if isinstance(rows, pl.LazyFrame) or rows.height * rows.width > SHARED_CELLS:
            with source.server.conversions:
                write_parts({run.id: run_rows}, source.folder)
    return run_rows


def ask_for_runs(source: RowSource, runs: Sequence[RowsRequest], more: str = "") -> dict[str, Any]:
    """The answers to one query, by run id; None for a run that does not exist."""
    asked = {run.id: more or row_fields(source, run, len(runs)) for run in runs}
    try:
        return ask_for_each(source.server, source.project, "Rows", "run(name", asked)
    except RequestError as error:
        if "useImprovedPagination" not in str(error):
            raise
        source.server.forward = ""  # W&B before 0.77
        asked = {run_id: fields_.replace(FORWARD, "") for run_id, fields_ in asked.items()}
        return ask_for_each(source.server, source.project, "Rows", "run(name", asked)


def ask_for_each(server: Server, project: Project, name: str, kind: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """The answers to one query about several runs or sweeps, by id, as the fields that are asked for each."""
    ids = {f"r{number}": each for number, each in enumerate(asked)}
    head = "".join(f", ${alias}: String!" for alias in ids)
    body = " ".join(f"{alias}: {kind}: ${alias}) {{ {asked[each]} }}" for alias, each in ids.items())
    answer = server.api.ask(IN_PROJECT % (name, head, body), {**project.place, **ids})["project"] or {}
    return {each: answer.get(alias) for alias, each in ids.items()}


def row_fields(source: RowSource, run: RowsRequest, runs: int = 1, after: str | None = None) -> str:
    """The GraphQL fields of a run that hold its rows, for a query about this number of runs.

    `after` is the cursor of a page of output, empty for the first page; None: only the last lines if these suffice.
    """
    options, table = source.server.options, source.table
    if table.name == "history":
        return 'historyLineCount parquetHistory(liveKeys: ["_step"]) { parquetUrls liveData }'
    if table.name == "history_sampled":
        return f"rows: history(samples: {options.history_samples})"
    if table.name == "system":
        return f"rows: events(samples: {SYSTEM_SAMPLES})"
    if table.is_wandb_table:
        return f"files(names: [{json.dumps(run.file.path, ensure_ascii=False)}]) {{ edges {{ node {{ directUrl }} }} }}"
    where = f"first: {min(CONSOLE_PAGE // runs, LATER_PAGE)}{source.server.forward}"
    if after:
        where += f", after: {json.dumps(after)}"
    elif after is None and options.console_lines and options.console_lines <= CONSOLE_PAGE:
        where = f"last: {options.console_lines}"
    lines = "edges { node { number timestamp level line } } pageInfo { endCursor hasNextPage }"
    return f"logLineCount logLines({where}) {{ {lines} }}"


def download(source: RowSource, url: str, at_end: ExitStack) -> Path:
    """A file with what a signed URL leads to, deleted `at_end`. RequestError, without the URL, if it is not whole."""
    storage, end = source.server.storage, b""
    last, limit = (b"}", TABLE_BYTES) if source.table.is_wandb_table else (b"PAR1", EXPORT_BYTES)  # of a whole file
    file = source.work / uuid.uuid4().hex
    at_end.callback(file.unlink, missing_ok=True)
    try:
        with file.open("wb") as opened:
            for piece in storage.pieces("GET", url, storage.timeout_s, limit):
                opened.write(piece)
                end = (end + piece)[-10:]
    except RequestError as error:
        error.retries = error.retries or 1  # with new URLs
        raise
    if not end.rstrip().endswith(last):
        raise RequestError("the download is incomplete")
    return file


def full_history(source: RowSource, run: RowsRequest, answer: Any, run_rows: RunRows, at_end: ExitStack) -> AnyFrame:
    """Read W&B's parquet exports, then the rows that are in no export yet."""
    urls = (answer["parquetHistory"] or {}).get("parquetUrls") or ()
    rows = [pl.scan_parquet(download(source, url, at_end), glob=False) for url in urls]
    live, run_rows.problem = live_rows(source, run, answer, are_all=not rows)
    keys = source.server.options.history_keys
    nested = next((page.nested[run.id] for page in source.project.pages if run.id in page.nested), frozenset())
    run_rows.counted = answer["historyLineCount"] or 0
    # A small file can expand to more than fits into memory.
    most_rows = MOST_LIVE_ROWS if answer["historyLineCount"] is None else 2 * run_rows.counted + SPARE_ROWS
    heights = [frame.select(pl.len()).collect().item() for frame in rows]
    if (highest := max(heights, default=0)) > most_rows:
        raise RequestError(f"an export has {highest:,} rows, far more than the server counts", retries=1)
    filled = [frame for frame, height in zip(rows, heights, strict=True) if height]  # an empty one may lack columns
    exports = [export_rows(frame, nested, keys, run_rows.skipped) for frame in filled]
    if len(exports) > 1:  # if they overlap, the one with the newest row counts
        exports.sort(key=lambda each: each.select(pl.max("_timestamp"), pl.min("order")).collect().fill_null(0).row(0))
    last = rows_of_json(map(as_row, live), keys, run_rows.skipped)
    run_rows.found = sum(heights) + last.height
    if not exports:
        return last
    exported: AnyFrame = pl.concat(exports, how="diagonal_relaxed")
    if sum(heights) * len(exported.collect_schema()) <= BATCH_CELLS:
        with source.server.conversions:
            exported = exported.lazy().collect()
    if not live:
        return exported
    again = exported.lazy().filter(pl.col("order").is_in(last["order"].implode())).select(pl.col("order").n_unique())
    run_rows.found -= again.collect().item()
    return pl.concat([exported.lazy(), last.lazy()], how="diagonal_relaxed")


def sampled_rows(source: RowSource, _run: RowsRequest, answer: Any, run_rows: RunRows, _: ExitStack) -> AnyFrame:
    rows = list(map(as_row, answer["rows"] or ()))
    if source.table.name == "history_sampled":
        return rows_of_json(rows, source.server.options.history_keys, run_rows.skipped)
    # Some SDKs sent nested dicts, others the same with dots. The rows have no steps: they are numbered by time.
    rows = [{".".join(path): value for path, value in flatten(row)} for row in rows]
    frame = rows_of_json(rows, (), set()).sort("_timestamp", maintain_order=True)
    return frame.with_columns(order=pl.int_range(pl.len()))


def console_rows(source: RowSource, run: RowsRequest, answer: Any, run_rows: RunRows, at_end: ExitStack) -> AnyFrame:
    """Read the lines of a run's output. Each page but the last is stored in a file: there may be millions of lines."""
    limit = source.server.options.console_lines or 0  # 0: all
    lines, page = answer["logLineCount"] or 0, answer["logLines"]
    is_tail = 0 < limit <= CONSOLE_PAGE  # the answer has only the last lines
    run_rows.counted = min(lines, limit or lines)

    def page_after(cursor: str) -> Any:
        return (ask_for_runs(source, [run], row_fields(source, run, after=cursor))[run.id] or {}).get("logLines")

    if page is None and not lines:  # a run without output
        page = {"edges": (), "pageInfo": {"hasNextPage": False}}
    elif is_tail and page and page["edges"]:
        is_late = bool(page["edges"][0]["node"]["number"])
        if len(page["edges"]) < (run_rows.counted or limit * is_late):  # the server returned fewer
            is_tail, page = False, page_after("")
    frames: list[AnyFrame] = []
    after: str | None = ""  # the cursor of the next page; None: there is none
    count = start = reached = 0  # lines so far, and the numbers of the first and the next one
    while after is not None:
        if page is None:
            raise RequestError("the answer has no console output", retries=1)
        nodes, info = [edge["node"] for edge in page["edges"]], page["pageInfo"]
        numbers = [reached + at if (n := node["number"]) is None else n for at, node in enumerate(nodes)]
        # W&B may end a page early, and call it the last one.
        has_more = info["hasNextPage"] or (nodes and numbers[-1] + 1 < lines)
        before, after = after, (info["endCursor"] or None) if has_more and not is_tail else None
        if (nodes and numbers[0] < reached) or (after is not None and (after == before or not nodes)):
            why = f"the server repeats lines of its output without end; use --console-lines {CONSOLE_PAGE}"
            raise RequestError(f"{why}, or try again later", retries=0)
        columns = {
            "order": numbers,
            "time": [node["timestamp"] for node in nodes],
            "stream": ["stderr" if node["level"] == "error" else "stdout" for node in nodes],
            "text": [as_shown(node["line"] or "") for node in nodes],
        }
        schema, forms = {"order": pl.Int64, **source.table.columns}, ("%+", "%FT%T%.f", "%F %T%.f")
        time_ = pl.coalesce(pl.col("time").str.strptime(schema["time"], form, strict=False) for form in forms)
        time_ = pl.when(time_.dt.year().is_between(1, 9999)).then(time_)
        frames.append(pl.DataFrame(columns, {**schema, "time": pl.String}).with_columns(time=time_))
        start = numbers[0] if nodes and not count else start
        count, reached = count + len(nodes), numbers[-1] + 1 if nodes else reached
        if after is not None:
            file = write_intermediate(frames[-1], source.work)
            at_end.callback(file.unlink, missing_ok=True)
            frames[-1] = pl.scan_parquet(file, glob=False)
            page = page_after(after)
    run_rows.found = min(reached - start, limit or reached)  # where W&B lacks lines in between, none can be fetched
    rows = pl.concat([frame.lazy() for frame in frames]) if len(frames) > 1 else frames[0]
    return rows.tail(limit) if 0 < limit < count else rows


def logged_rows(source: RowSource, run: RowsRequest, answer: Any, run_rows: RunRows, at_end: ExitStack) -> AnyFrame:
    """Read the file of a W&B Table, and what it lacks from artifacts."""
    if answer["files"] is None:
        raise RequestError("the answer has no files", retries=1)
    url = next((edge["node"]["directUrl"] for edge in answer["files"]["edges"] if edge["node"]), None)
    if not url:
        raise RequestError("its file does not exist", retries=0)

    def in_artifact(address: str) -> Path:
        return source.server.storage.retry(lambda _: download(source, artifact_url(source.server, address), at_end))

    file = download(source, url, at_end)
    try:
        before = [in_artifact(address) for address in run.file.increments]
    except RequestError as error:
        raise RequestError(f"its increments cannot be read: {error}", retries=0) from error
    whole, why = None, IN_ARTIFACT
    if run.file.address and (run.listed or 0) > FILE_ROWS:
        try:
            whole = in_artifact(run.file.address)
        except RequestError as error:
            why = f"{IN_ARTIFACT}, which cannot be read: {error}"
    try:
        with source.server.conversions:
            in_memory = [one.read_bytes() for one in before], whole.read_bytes() if whole else None
            rows = table_rows(file.read_bytes(), *in_memory)
    except ValueError as error:
        raise RequestError(f"its file {run.file.path} cannot be read: {error}", retries=1) from error
    note_missing_rows(run_rows, run, rows.height, why)
    return rows


def artifact_url(server: Server, address: str) -> str:
    """The signed URL of a file in an artifact, by the address that the SDK stores: `wandb-client-artifact://id/file`."""
    scheme, _, path = address.partition("://")
    owner, _, name = path.partition("/")
    with reading_answer():
        if scheme == "wandb-client-artifact":
            mapping = server.api.ask(ARTIFACT_ID, {"id": owner})["clientIDMapping"] or {"serverID": ""}
            artifact_id = mapping["serverID"]
        else:
            artifact_id = base64.b64encode(bytes.fromhex(owner)).decode()
        artifact = server.api.ask(ARTIFACT_FILE, {"id": artifact_id, "names": [name]})["artifact"]
        for edge in artifact["files"]["edges"] if artifact else ():
            if edge["node"]["name"] == name:
                return str(edge["node"]["directUrl"])
    raise RequestError("it does not exist", retries=0)


def note_missing_rows(run_rows: RunRows, run: RowsRequest, rows: int, why: str) -> None:
    """Note why a W&B Table has only these rows, if it had more."""
    if rows < (run.listed or 0) and (rows >= FILE_ROWS or run.file.increments):
        run_rows.counted, run_rows.found = run.listed or 0, rows
        run_rows.problem = SDK_LIMIT if rows > FILE_ROWS else why


def table_rows(file: bytes, before: Sequence[bytes] = (), whole: bytes | None = None) -> pl.DataFrame:
    """The rows of a W&B Table's file, with their number as `order`; ValueError if it holds none.

    `before`: the files of an incremental table's earlier rows. `whole`: the file in its artifact, which may have more
    rows; there NaN is null, and arrays are in other files.
    """
    names, rows = parsed_table(file)
    if whole is not None:
        with suppress(ValueError, RecursionError):  # an artifact that is no such table costs none of the file's rows
            others, longer = parsed_table(whole)
            if others == names and len(longer) > len(rows):
                for row, same in zip(longer, rows, strict=False):
                    row[:] = [other if value is None else value for value, other in zip(row, same, strict=True)]
                rows = longer
    for content in reversed(before):
        others, earlier = parsed_table(content)
        if others != names:
            raise ValueError("its increments have different columns")
        rows = earlier + rows
    series = {"order": pl.Series("order", range(len(rows)), dtype=pl.Int64)}
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(names)
    for number, (name, values) in enumerate(zip(names, columns, strict=True)):
        key = column_key((str(name),))
        key = column_key((str(name), str(number))) if key in series else key
        column = settled_series(key, values)
        series[key] = column if column.count() else pl.Series(key, values, dtype=pl.Null)  # other runs decide its dtype
    return pl.DataFrame(list(series.values()))


def parsed_table(content: bytes) -> tuple[list[Any], list[list[Any]]]:
    """The names of the columns and the rows in a W&B Table's file; ValueError if it holds none."""
    if content.startswith(LFS_POINTER):
        raise ValueError(NOT_PULLED)
    # orjson neither accepts the NaN of the SDK nor keeps whole numbers beyond 64 bits.
    table = json.loads(content, strict=False)
    names, rows = (table.get("columns"), table.get("data")) if isinstance(table, dict) else (None, None)
    if not (isinstance(names, list) and isinstance(rows, list)):
        raise ValueError("it is not a table")  # noqa: TRY004 - of a file, as what the parser raises
    if not (set(map(type, rows)) <= {list} and set(map(len, rows)) <= {len(names)}):
        raise ValueError("its rows do not fit its columns")
    return names, rows


def live_rows(source: RowSource, run: RowsRequest, answer: Any, *, are_all: bool) -> tuple[list[str], str]:
    """The rows that are in no export yet, as JSON, and why rows are missing, if so. `are_all`: there are no exports."""
    server, project = source.server, source.project
    live = map(as_row, (answer["parquetHistory"] or {}).get("liveData") or ())
    steps = sorted(int(row["_step"]) for row in live if row.get("_step") is not None)  # the server may send floats
    ranges = [(some[0], some[-1] + 1) for some in chunks(steps, LIVE_ROWS_PER_QUERY)]
    counted = LIVE_ROWS_PER_QUERY if answer["historyLineCount"] is None else answer["historyLineCount"]
    rows: list[str] = []

    def asked(start: int, size: int) -> dict[str, Any]:
        # More samples than there are rows, so that none is left out; some are in an export, too, or share a step.
        samples = min(2 * max(size, LIVE_ROWS_PER_QUERY), MOST_SAMPLES)
        return {**project.place, "run": run.id, "min": start, "max": start + size, "samples": samples}

    try:
        if counted > MOST_LIVE_ROWS:
            return [], f"the server counts {counted:,} rows, too many to ask for"
        if counted and are_all and not steps:
            keys = (ask_for_runs(source, [run], "historyKeys")[run.id] or {}).get("historyKeys")
            end = max(as_row(keys).get("lastStep") or 0, run.last_step or 0, counted) + 1
            width = math.ceil(end / math.ceil(counted / LIVE_ROWS_PER_QUERY))
            ranges = [(first, min(first + width, end)) for first in range(0, end, width)]
        for first, end in ranges:
            start = first
            while start < end:
                found, size = server.api.ask_for_less(LIVE_ROWS, partial(asked, start), end - start)
                rows += ((found["project"] or {}).get("run") or {}).get("history") or ()
                start += size
    except RequestError as error:
        return rows, str(error)
    return rows, ""


def as_row(live: object) -> Mapping[str, Any]:
    """A live row from its JSON, or as it is if it is an object."""
    row = parsed_object(live)[1] if isinstance(live, str) else live
    return row if isinstance(row, dict) else {}


def export_rows(
    rows: pl.LazyFrame, nested: Collection[KeyPath], keys: Sequence[str], skipped: set[KeyPath]
) -> pl.LazyFrame:
    """The clocks and numbers of one of W&B's parquet exports; keys of other things are added to `skipped`."""
    schema = rows.collect_schema()
    # By selectors and numbers, as polars takes `*` and `^…$` for patterns.
    leaves: list[tuple[KeyPath, pl.Expr, Any]] = [((name,), cs.by_name(name), t) for name, t in schema.items()]
    columns: dict[KeyPath, pl.Expr] = dict.fromkeys(CLOCKS, pl.lit(None, dtype=pl.Float64))
    # A dotted name is a nested path if the summary nests it so, and if there is no struct with its first key.
    by_name = {".".join(path): path for path in nested if not isinstance(schema.get(path[0]), pl.Struct)}
    media = {name.removesuffix("._type") for name in schema if name.endswith("._type")}
    for path, column, dtype in leaves:  # which grows while structs are taken apart
        path = by_name.get(path[0], path) if len(path) == 1 else path  # noqa: PLW2901
        top = path[0].partition(".")[0]
        if isinstance(dtype, pl.Struct) and not any(f.name == "_type" for f in dtype.fields):
            fields_ = column.struct.rename_fields([str(number) for number in range(len(dtype.fields))]).struct
            leaves += [((*path, f.name), fields_.field(str(n)), f.dtype) for n, f in enumerate(dtype.fields)]
        elif is_private(path):
            skipped.add(path[:1])
        elif path in CLOCKS:
            columns[path] = column.cast(pl.Float64, strict=False)
        elif not is_wanted(path, keys):
            continue
        elif top in media and path[0] != top:
            skipped.add((top,))
        elif dtype.is_numeric() or dtype == pl.Boolean:
            is_whole = (dtype.is_integer() or dtype == pl.Boolean) and dtype not in (pl.UInt64, pl.Int128)
            columns[path] = column.cast(pl.Int64 if is_whole else pl.Float64)
        else:  # texts may spell non-finite numbers
            number = pl.lit(None)
            if dtype in (pl.String, pl.Categorical):
                number = column.cast(pl.String).replace_strict(NON_FINITE, default=None, return_dtype=pl.Float64)
            values, numbers = rows.select(column.count(), number.count().alias("numbers")).collect().row(0)
            skipped |= {path} if values > numbers else set()
            columns |= {path: number} if numbers else {}
    columns[("_step",)] = pl.col("_step").cast(pl.Int64)
    return rows.select(column.alias(CLOCKS.get(path) or column_key(path)) for path, column in columns.items())


def rows_of_json(rows: Iterable[Mapping[str, Any]], keys: Sequence[str], skipped: set[KeyPath]) -> pl.DataFrame:
    """The clocks and numbers of rows as they were logged; keys of other things are added to `skipped`."""
    columns = NumberColumns()
    for number, row in enumerate(rows):
        columns.add({"_step": number, **row})
        columns.rows += 1
    return columns.frame(keys, skipped)


def is_private(path: KeyPath) -> bool:
    """True for a metric of the user whose name is reserved for W&B."""
    return path[0].startswith("_") and path not in CLOCKS and path[0] not in NOT_CONFIG


def is_wanted(path: KeyPath, keys: Sequence[str]) -> bool:
    return not path[0].startswith("_") and (not keys or names_match(path, keys))


# --- names and values -----------------------------------------------------------------------------------------


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


def flatten(tree: Mapping[str, object], above: KeyPath = ()) -> Leaves:
    """Every leaf of a config by its path of keys; a list is a leaf, as JSON text, and so is an empty dict.

    >>> flatten({"model": {"k": 16}, "widths": [1, 2]})
    [(('model', 'k'), 16), (('widths',), '[1, 2]')]
    """
    leaves: Leaves = []
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            leaves += flatten(value, path)
        else:
            leaves.append((path, valid_json(value) if isinstance(value, dict | list) else value))
    return leaves


def numeric_leaves(summary: Mapping[str, object], above: KeyPath = (), others: list[KeyPath] | None = None) -> Leaves:
    """The summary's numbers by path: Booleans as 0 and 1, non-finite ones too; not W&B's own keys, nor media.

    The paths of texts, lists and media are added to `others`.

    >>> numeric_leaves({"loss": "NaN", "val": {"acc": 1}, "_step": 9, "h": {"_type": "histogram", "n": 3}})
    [(('loss',), nan), (('val', 'acc'), 1)]
    """
    plain, leaves, inner = {float, int}, Leaves(), Leaves()
    for key, value in summary.items():
        if key[:1] != "_":
            (leaves if type(value) in plain else inner).append(((*above, key), value))
    for path, value in inner:  # which grows by what nested dicts hold
        if isinstance(value, bool | int | float):
            leaves.append((path, int(value) if isinstance(value, bool) else value))
        elif isinstance(value, str) and value in NON_FINITE:
            leaves.append((path, NON_FINITE[value]))
        elif isinstance(value, dict) and not isinstance(value.get("_type"), str):
            inner += [((*path, key), below) for key, below in value.items()]
        elif others is not None and value is not None:
            others.append(path)
    return leaves


INCREMENTAL = "incremental-table-file"
TABLE_TYPES = ("table-file", INCREMENTAL, "joined-table", "partitioned-table")


def tables_in(summary: Mapping[str, object]) -> dict[str, TableFile]:
    """The W&B Tables that a summary names, by their keys; keys of nested dicts are joined by dots."""
    found: dict[str, TableFile] = {}
    inner: list[tuple[KeyPath, Any]] = [((key,), value) for key, value in summary.items()]
    for path, value in inner:  # which grows by what nested dicts hold
        if isinstance(value, dict) and "_type" not in value:
            inner += [((*path, key), below) for key, below in value.items()]
            continue
        first = next((each for each in value if isinstance(each, dict)), {}) if isinstance(value, list) else value
        if isinstance(first, dict) and first.get("_type") in TABLE_TYPES:
            key, file, rows = ".".join(path), first.get("path"), first.get("nrows")
            # A plain table that is logged later keeps the list of increments: summaries merge dicts.
            increments: Any = first.get("previous_increments_paths") if first["_type"] == INCREMENTAL else []
            is_one = first["_type"] in ("table-file", INCREMENTAL) and first is value and file is not None
            is_one &= isinstance(increments, list)
            is_below = isinstance(file, str) and {"", ".."}.isdisjoint(re.split(r"[/\\]", file))  # the run's folder
            if is_below or not is_one:
                key = f"{key}__{path_hash(path)[:8]}" if key in found else key
                number, address = rows if isinstance(rows, int) else 0, str(first.get("artifact_path") or "")
                found[key] = TableFile(str(file), number, address, (*map(str, increments),)) if is_one else TableFile()
    return found


def settled_series(name: str, values: Sequence[Scalar]) -> pl.Series:
    """A column of the narrowest dtype that holds every value: Boolean, Int64, Float64 or String; None is null.

    The texts of NON_FINITE beside numbers are numbers; other mixtures are text, numbers and Booleans as JSON.
    """
    kinds = set(map(type, values)) - {type(None)}
    for these, dtype in (({str}, pl.String), ({bool}, pl.Boolean), ({int}, pl.Int64), ({int, float}, pl.Float64)):
        if kinds <= these:
            with suppress(TypeError, OverflowError, UnicodeEncodeError):  # of whole numbers past 64 bits, or surrogates
                return pl.Series(name, values, dtype=dtype)
    texts = {value for value in values if isinstance(value, str)}
    if kinds & {int, float} and kinds <= {int, float, str} and texts <= NON_FINITE.keys():
        # Read from text, a whole number beyond the range of floats is infinite, as in W&B.
        numbers = [value if value is None or isinstance(value, float) else float(str(value)) for value in values]
        return pl.Series(name, numbers, dtype=pl.Float64)
    spelt = [v if v is None else storable(v) if isinstance(v, str) else valid_json(v).strip('"') for v in values]
    return pl.Series(name, spelt, dtype=pl.String)


STRICT_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # json.dumps would make one for each value


def valid_json(value: object) -> str:
    """The value as valid JSON in valid UTF-8; non-finite numbers are text."""
    try:
        text = STRICT_JSON.encode(value)
    except ValueError:
        text = json_text(value)
    return text if storable(text) == text else json.dumps(jsonable(value), allow_nan=False)


def storable(text: str) -> str:
    """The text in valid UTF-8: halves of surrogate pairs are replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- runs: pages of columns -----------------------------------------------------------------------------------


def run_schema() -> dict[str, Any]:
    """The first columns of every runs file, in order, with their dtypes."""
    names = "id name state entity project created_at heartbeat_at runtime_s last_step history_rows tags group job_type"
    names += " sweep user notes commit url host os python command gpu gpu_count exported_at"
    dtypes: dict[str, Any] = dict.fromkeys(names.split(), pl.String)
    dtypes |= dict.fromkeys(("created_at", "heartbeat_at", "exported_at"), pl.Datetime("us", "UTC"))
    dtypes |= dict.fromkeys(("last_step", "history_rows", "gpu_count"), pl.Int64)
    return dtypes | {"runtime_s": pl.Float64, "tags": pl.List(pl.String)}


def write_page(runs: Iterable[Run], work: Path) -> Page:
    """Write runs to a page with typed columns, sorted like the runs file. Pages do not depend on each other."""
    runs = sorted(runs, key=lambda run: (run.row["created_at"] or EPOCH, run.row["id"]))
    columns: defaultdict[KeyPath, list[Scalar]] = defaultdict(list)
    for number, run in enumerate(runs):
        for path, value in run.leaves:
            values = columns[path]
            if len(values) != number:  # rare: hundreds of thousands of calls would take a tenth of a second
                resize(values, number)
            values.append(value)
    nested: dict[str, frozenset[KeyPath]] = {}
    if any(path[0] == METRIC and len(path) > 2 for path in columns):
        shared: dict[frozenset[KeyPath], frozenset[KeyPath]] = {}  # each set once, though thousands of runs have it
        for run in runs:
            leaves = {path[1:] for path, _ in run.leaves if path[0] == METRIC and len(path) > 2}
            # Of a metric with `define_metric(summary="min")`, the summary holds {"min": ...}.
            leaves |= {path[:-1] for path in leaves if len(path) > 2 and path[-1] in SUMMARY_KINDS}
            paths = frozenset(leaves)
            nested[run.row["id"]] = shared.setdefault(paths, paths)

    schema = run_schema() | dict.fromkeys(TEXTS, pl.String)
    data: dict[str, list[Any]] = {name: [run.row[name] for run in runs] for name in schema}
    for name, dtype in schema.items():
        if dtype == pl.String:
            data[name] = [storable(text) if text else text for text in data[name]]
    data["tags"] = [[storable(tag) for tag in tags or ()] for tags in data["tags"]]
    table = pl.DataFrame(data, schema=schema)
    kinds: dict[KeyPath, str] = {}
    flattened = []
    for path, values in columns.items():
        resize(values, len(runs))
        series = settled_series(column_key(path), values)
        kinds[path] = str(series.dtype) if series.count() else "Null"
        if series.count():
            flattened.append(series)
    file = write_intermediate(table.hstack(flattened), work)
    definitions = frozenset(definition for run in runs for definition in run.definitions)
    text_bytes = sum(len(run.row[name]) for run in runs for name in TEXTS)
    tables = {run.row["id"]: run.tables for run in runs if run.tables}
    return Page(file, table.select(INDEX), kinds, nested, tables, definitions, text_bytes)


def index_of(pages: Sequence[Page]) -> pl.DataFrame:
    """The columns INDEX of all pages' runs, each run once, with the numbers of its `page` and of its `row` there."""
    schema = {"row": pl.UInt32} | {name: run_schema()[name] for name in INDEX} | {"page": pl.Int32}
    numbered = [page.index.with_row_index("row").with_columns(page=pl.lit(number)) for number, page in enumerate(pages)]
    index = pl.concat([pl.DataFrame(schema=schema), *numbered])
    return index.unique("id", keep="first", maintain_order=True).sort("created_at", "id")


def write_runs(at: Path, pages: Sequence[Page], runs: pl.DataFrame, names: Names, metadata: Mapping[str, str]) -> None:
    """Write the runs file: one scan over the pages, their columns cast and renamed."""
    bytes_a_row = sum(page.text_bytes for page in pages) // max(runs.height, 1)
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(bytes_a_row, 1)))
    dtypes = {path: getattr(pl, dtype) for path, dtype in widest_dtypes(page.kinds for page in pages).items()}
    # Columns that are text because their dtypes differ between pages: their values are read again from the configs.
    mixed: dict[KeyPath, list[Scalar]] = {}
    for path, dtype in dtypes.items():
        if dtype == pl.String and len({page.kinds.get(path, "Null") for page in pages} - {"Null"}) > 1:
            mixed[path] = []
    for page in pages if mixed else ():
        for text in pl.read_parquet(page.file, columns=[TEXTS[0]], glob=False).to_series():
            config = json.loads(text)  # a text if it could not be parsed
            leaves = dict(flatten(config, (CONFIG,))) if isinstance(config, dict) else {}
            for path, values in mixed.items():
                values.append(leaves.get(path))
    read_again = {path: settled_series(column_key(path), values) for path, values in mixed.items()}
    dtypes |= {path: series.dtype for path, series in read_again.items()}

    starts = [0, *itertools.accumulate(page.index.height for page in pages)]  # of the pages in these columns
    page_order = runs["page"].rle().struct.field("value").to_list()  # of the sorted runs
    files = [pages[number].file for number in page_order]
    # If pages overlap or have to be changed, their rows are sorted into other files.
    if read_again or len(set(page_order)) < len(page_order) or runs.height < starts[-1]:
        files = []
        for batch in runs.iter_slices(group_rows):
            frames = []
            for (number,), rows in batch.group_by("page", maintain_order=True):
                changed = [series[starts[number] : starts[number + 1]] for series in read_again.values()]
                frames.append(pl.read_parquet(pages[number].file, glob=False).with_columns(changed)[rows["row"]])
            merged = pl.concat(frames, how="diagonal_relaxed").sort("created_at", "id")
            files.append(write_intermediate(merged, at.parent))
    columns = sorted((names[path], path) for path in dtypes)
    texts = dict.fromkeys(TEXTS, pl.String)
    scan = scan_files(files, run_schema() | {column_key(path): dtypes[path] for _, path in columns} | texts)
    flattened = [pl.col(column_key(path)).alias(name) for name, path in columns]
    about = {**metadata, COLUMNS_KEY: json.dumps({name: path[1:] for name, path in columns})}
    scan.select(*run_schema(), *flattened, *texts).sink_parquet(at, row_group_size=group_rows, metadata=about)


def scan_files(files: Sequence[Path], schema: Mapping[str, Any]) -> pl.LazyFrame:
    """The rows of intermediate files in these columns; a column that a file lacks is null."""
    if not files:
        return pl.LazyFrame(schema=schema)
    casts = pl.ScanCastOptions(integer_cast="allow-float")
    return pl.scan_parquet(
        list(files), schema=schema, missing_columns="insert", extra_columns="ignore", cast_options=casts, glob=False
    )


def metric_facts(
    definitions: Collection[MetricDefinition], names: Names, earlier: Mapping[KeyPath, Stated], goals: Mapping[str, str]
) -> dict[str, Stated]:
    """Goal, summary and step metric by column, where a sweep, `define_metric` or the `earlier` export states it."""
    implied = {"min": "minimize", "max": "maximize"}
    facts: dict[str, Stated] = {}
    for path, name in ((path[1:], name) for path, name in names.items() if path[0] == METRIC):
        # In define_metric, dots separate nested keys; those of a key are written as `\.`.
        of = path[:-1] if len(path) > 1 and path[-1] in SUMMARY_KINDS else path
        spelt = ".".join(key.replace(".", "\\.") for key in of)
        found = [d for d in definitions if d.pattern == spelt]
        found = found or [d for d in definitions if d.pattern[-1:] == "*" and spelt.startswith(d.pattern[:-1])]
        stated = [earlier.get(path, {})]
        for definition in found:
            meant = {implied[kind] for kind in (definition.summary or "").split(",") if kind in implied}
            goal = definition.goal or (meant.pop() if len(meant) == 1 else None)
            stated.append({**definition._asdict(), "goal": goal})
        fact: dict[str, str | None] = {}
        for key in ("goal", "summary", "step_metric"):
            values = {each.get(key) for each in stated} - {None}
            fact[key] = values.pop() if len(values) == 1 else None  # runs may differ
        fact["goal"] = goals.get(".".join(path)) or goals.get(".".join(of), fact["goal"])
        if any(fact.values()):
            facts[name] = fact
    return facts


# --- tables of rows: parts to a file --------------------------------------------------------------------------


def settle_tables(project: Project, ids: Collection[str], paths: set[KeyPath], *, prune: bool) -> Names:
    """Fill in each table's columns, and which runs' rows stay from the earlier file; returns the runs file's names."""
    tables = project.tables.values()
    for table in tables:
        before = table.earlier.rows.keys()
        table.staying = (before & set(ids) if prune else before) - table.fetched.keys()
        # A W&B Table has its columns also for runs that logged it without rows.
        rowless = table.earlier.revisions.keys() - before if table.is_wandb_table else set()
        stays = [table.earlier] if table.staying or rowless - table.fetched.keys() else []
        table.skipped = {".".join(path) for run_rows in table.fetched.values() for path in run_rows.skipped}
        table.skipped.update(*(earlier.skipped for earlier in stays))
        fetched = [part.dtypes for _, run_rows in sorted(table.fetched.items()) for part in run_rows.parts]
        sources = [dtypes_of_rows(earlier, table, set().union(*fetched)) for earlier in stays] + fetched
        table.dtypes = widest_dtypes(sources)
        if table.is_history:
            paths |= {(METRIC, *path) for path in table.dtypes}
    names: dict[KeyPath, str] = {}  # settled once, for the runs and the histories together
    for prefix in (CONFIG, METRIC):
        for path, name in settled_names(path[1:] for path in paths if path[0] == prefix).items():
            names[prefix, *path] = prefix + name
    for table in tables:
        if table.is_history:
            table.names = {path: names[METRIC, *path] for path in table.dtypes}
        else:
            table.names = settled_names(table.dtypes, {"run_id", "entity", "project", table.order, *table.columns})
    return names


def dtypes_of_rows(earlier: Earlier, table: Table, others: Collection[KeyPath]) -> Mapping[KeyPath, str]:
    """The dtypes of the earlier file's columns for the rows that stay. Columns in which these have no value are Null in
    a W&B Table, so that other runs decide their dtype; a metric that is not among the `others` either is left out.
    """
    if not table.is_wandb_table and table.staying == earlier.rows.keys():
        return earlier.dtypes
    rows = pl.scan_parquet(earlier.file, glob=False).filter(pl.col("run_id").is_in(list(table.staying)))
    columns = [earlier.columns[path] for path in earlier.dtypes if table.is_wandb_table or path not in others]
    counts = rows.select("run_id", *columns).count().collect(engine="streaming").row(0, named=True)
    filled = {path: dtype for path, dtype in earlier.dtypes.items() if counts.get(earlier.columns[path], 1)}
    return dict.fromkeys(earlier.dtypes, "Null") | filled if table.is_wandb_table else filled


def write_table(table: Table, at: Path, project: Project, metadata: Mapping[str, str]) -> None:
    """Write a table's file, sorted by run id: fetched rows merged with rows that stay from the earlier file."""
    earlier = table.earlier
    columns = [(table.names[path], path) for path in table.dtypes]  # of a W&B Table in their own order
    columns = columns if table.is_wandb_table else sorted(columns)
    order = {"order": table.order} if table.order else {}
    place = {"entity": pl.lit(project.entity), "project": pl.lit(project.name)}
    logged = [pl.col(column_key(path)).alias(name) for name, path in columns]
    keys = ["run_id", "entity", "project", *order.values(), *table.columns]
    rows = scan_parts(table).with_columns(**place).rename(order).select(*keys, *logged)
    if table.staying:
        stays = pl.scan_parquet(earlier.file, glob=False)
        if table.staying != earlier.rows.keys():
            stays = stays.filter(pl.col("run_id").is_in(list(table.staying)))
        known = []
        for name, path in columns:
            column = pl.lit(None, getattr(pl, table.dtypes[path]))
            if path in earlier.columns:
                column = cast_logged(path, earlier.dtypes[path], table.dtypes[path], earlier.columns[path])
            known.append(column.alias(name))
        stays = stays.select(*keys, *known)
        rows = rows.merge_sorted(stays, "run_id") if any(one.parts for one in table.fetched.values()) else stays
    revisions = {run_id: one.revision for run_id, one in table.fetched.items() if one.revision and not one.is_short}
    made_of = table.made_of if table.is_asked else earlier.made_of
    if earlier.made_of == made_of:
        # Runs without rows have revisions, too: otherwise every export would ask for them again.
        asked = table.staying | (earlier.revisions.keys() - earlier.rows.keys() - table.fetched.keys())
        revisions |= {run_id: earlier.revisions[run_id] for run_id in asked if run_id in earlier.revisions}
    about = {TABLE_KEY: storable(table.key)} if table.is_wandb_table else {}
    histories = {"keys": made_of, "runs": revisions, "skipped": sorted(table.skipped)}
    about |= {COLUMNS_KEY: json.dumps(dict(columns)), HISTORIES_KEY: json.dumps(histories, sort_keys=True)}
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_CELLS // (len(keys) + len(columns))))
    # Level 1 of zstd makes files as small as 3, the default, in three quarters of the time.
    rows.sink_parquet(at, compression_level=1, row_group_size=group_rows, metadata={**metadata, **about})


def scan_parts(table: Table) -> pl.LazyFrame:
    """The rows of all parts, sorted by run and order. Columns as in `Part`, but with the table's dtypes."""
    parts: defaultdict[Path, dict[str, Part]] = defaultdict(dict)  # by file, the part of each run
    for run_id, run_rows in sorted(table.fetched.items()):
        for part in run_rows.parts:
            parts[part.file][run_id] = part
    stored = {column for of_runs in parts.values() for part in of_runs.values() for column in part.dtypes.items()}
    stored |= {*table.dtypes.items()}  # if no file has such a column, a scan adds it
    schema = {"run_id": pl.String, "order": pl.Int64, **table.columns}
    schema |= {column_key(path, dtype): getattr(pl, dtype) for path, dtype in stored if dtype != "Null"}
    logged = []
    for path, wanted in table.dtypes.items():
        casts = [cast_logged(path, dtype, wanted) for dtype in LOGGED_DTYPES if (path, dtype) in stored]
        logged.append(pl.coalesce(casts))

    groups: list[list[Path]] = []  # files whose ranges of rows overlap are together
    reached = ("", 0)  # run id, and order
    for file, of_runs in parts.items():
        ends = [(run_id, order) for run_id, part in of_runs.items() for order in (part.first, part.last)]
        if not groups or min(ends) >= reached:
            groups.append([])
        groups[-1].append(file)
        reached = max(reached, *ends)

    # Most groups are one file whose runs are all wanted. One scan of many such files is far cheaper than many scans.
    whole = {file for file, of_runs in parts.items() if len(of_runs) == next(iter(of_runs.values())).runs}
    scans = [scan_files([], schema)]
    for are_whole, some in itertools.groupby(groups, lambda files: len(files) == 1 and files[0] in whole):
        if are_whole:
            scans.append(scan_files([file for files in some for file in files], schema))
            continue
        for files in some:
            own = [scan_files([file], schema).filter(pl.col("run_id").is_in([*parts[file]])) for file in files]
            scans.append(pl.concat(own).sort("run_id", "order"))
    return pl.concat(scans).select("run_id", "order", *table.columns, *logged)


# --- one project: merged with an earlier export, and published ------------------------------------------------


def find_earlier(project: Project, output: Path) -> None:
    """Fill in the files of an earlier export. ScriptError if one is unreadable."""
    found, newest = dict[str, Earlier](), ""
    ours = (None, (project.entity, project.name))
    for file in sorted(output.glob(f"{project.stem}_*.parquet")):
        name = file.stem.removeprefix(f"{project.stem}_")
        try:
            if not (re.fullmatch("runs|history(_sampled)?|system|console|table_.*", name) and owner_of(file) in ours):
                continue  # maybe a file of another project, whose name begins so
            metadata = pl.read_parquet_metadata(file)
            rows = pl.scan_parquet(file, glob=False)
            schema = rows.collect_schema()
            listed = rows.select("id", pl.col("history_rows").fill_null(0)) if name == "runs" else None
            counts = rows.group_by("run_id").len() if listed is None else listed
            columns = {tuple(path): column for column, path in json.loads(metadata.get(COLUMNS_KEY, "{}")).items()}
            histories = json.loads(metadata.get(HISTORIES_KEY, "{}"))
            newest = max(newest, json.loads(metadata.get(SOURCE_KEY, "{}")).get("exported_at", ""))
            found[name] = Earlier(
                file,
                rows=dict(counts.collect().iter_rows()),
                columns=columns,
                dtypes={path: str(schema[column]) for path, column in columns.items() if column in schema},
                facts=json.loads(metadata.get(METRICS_KEY, "{}")),
                made_of=tuple(histories.get("keys", ())),
                revisions={run_id: tuple(revision) for run_id, revision in histories.get("runs", {}).items()},
                skipped=histories.get("skipped", ()),
                export_id=metadata.get(EXPORT_ID_KEY),
                key=metadata.get(TABLE_KEY, ""),
            )
        except (Exception, *DAMAGED) as error:  # damaged, or made by something else
            raise unreadable(file, error) from error
    # Files with different export ids, or newer than their metadata: an export was killed while it renamed them. All are
    # written again; what each file states about its own rows is still true.
    noted, sums = None, dict[str, str]()
    with suppress(OSError, ValueError, LookupError, TypeError):
        document = json.loads((output / f"{project.stem}_metadata.json").read_text("utf-8"))
        sums = {facts["name"]: facts["sha256"] for facts in document["files"]}
        noted = document["export_id"], document["exported_at"]
    is_whole = {(each.export_id, newest) for each in found.values()} == {noted}
    for name, earlier in found.items():
        if is_whole and sums.get(earlier.file.name) != sha256(earlier.file):  # a new checksum would hide it
            why = f"the earlier {earlier.file} was changed after its export, and its rows are used as they are now"
            project.failed.append(Failure(project.path, "file", f"{why}; restore it from a copy and export again"))
        current = earlier if is_whole else earlier._replace(export_id=None)
        if name == "runs":
            project.earlier = current
        else:
            project.tables.setdefault(name, new_table(name, key=earlier.key)).earlier = current


def unreadable(file: Path, error: BaseException) -> ScriptError:
    reason = str(error).partition("\n")[0]
    advice = "move it away or choose another folder with -o"
    return ScriptError(f"the earlier export {file} cannot be read ({reason}); {advice}", NOTHING_USABLE)


def write_project(server: Server | None, project: Project, options: Options, work: Path) -> None:
    """Merge a project's runs and tables with an earlier export, and write its files."""
    source = {"kind": "server", "base_url": server.api.base_url} if server else {"kind": "offline"}
    source |= {"directory": str(options.offline.absolute())} if options.offline else {}
    pages, runs = merge_runs(project, options, work)
    definitions = {definition for page in pages for definition in page.definitions}
    names = settle_tables(project, runs["id"], {path for page in pages for path in page.kinds}, prune=options.prune)
    taken = {name.removeprefix(METRIC).lower() for name in names.values()}  # by columns, which come first
    patterns = [definition.pattern for definition in definitions if not definition.pattern.endswith("*")]
    defined = {tuple(key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", pattern)) for pattern in patterns}
    defined -= {path[1:] for path in names if path[0] == METRIC}  # the others have a goal, but no column
    names = {**names, **{(METRIC, *path): METRIC + name for path, name in settled_names(defined, taken).items()}}
    tables = sorted(project.tables.values(), key=lambda table: table.name)
    known: dict[KeyPath, Stated] = {}
    for each in (*(table.earlier for table in tables if table.is_history), project.earlier):
        if len(pages) > len(project.pages):
            known |= {path: each.facts[name] for path, name in each.columns.items() if name in each.facts}
    facts = metric_facts(definitions, names, known, project.goals)
    current: dict[str, str] = {}  # of tables whose earlier files would not change: the files' export ids
    for table in tables:
        if (earlier := table.earlier).export_id and not table.fetched:
            is_same = (table.staying, table.names, facts) == ({*earlier.rows}, earlier.columns, earlier.facts)
            current |= {table.name: earlier.export_id} if is_same else {}
    export_id = next(iter(current.values()), uuid.uuid4().hex)
    versions = {name: version(name) for name in ("wandb", "polars")} | {"wandb-tools": VERSION}
    about: dict[str, object] = {**project.place, "exported_at": jsonable(now()), "versions": versions}
    metadata = {SCHEMA_KEY: SCHEMA_VERSION, METRICS_KEY: json.dumps(facts, sort_keys=True)}
    metadata |= {SOURCE_KEY: json.dumps({**source, **about}), EXPORT_ID_KEY: export_id}
    files = []
    with publishing(options.output, work) as unfinished:
        for name in [*(table.name for table in tables), "runs"]:
            file = options.output / f"{project.stem}_{name}.parquet"
            at = file if name in current else unfinished(file)
            if name == "runs":
                write_runs(at, pages, runs, names, metadata)
            elif at != file:
                write_table(project.tables[name], at, project, metadata)
            height, width = shape_of(at)
            listed = {"name": file.name, "bytes": at.stat().st_size, "rows": height, "columns": width}
            files.append(listed | {"sha256": sha256(at)})
        about |= {"source": source, "files": files, "export_id": export_id}
        text = json.dumps(jsonable(metadata_document(project, options, about)), indent=2, ensure_ascii=False) + "\n"
        unfinished(options.output / f"{project.stem}_metadata.json").write_text(storable(text), "utf-8")
    project.files = files


def merge_runs(project: Project, options: Options, work: Path) -> tuple[list[Page], pl.DataFrame]:
    """Pages of the project's runs and of the earlier export's runs that stay, and the index of all these runs."""
    earlier = project.earlier
    from_logs, without_start = set[str](), set[str]()
    if earlier.rows:
        rows = pl.scan_parquet(earlier.file, glob=False).filter(pl.col("url").is_null())
        logged = rows.select("id", began="created_at", ended="heartbeat_at").collect()
        from_logs = {*logged["id"]}  # these may not be on the server, or not whole
        # In runs without start, the first log that is here now continues one that only the earlier export had.
        later = project.runs.filter(pl.col("id").is_in(list(project.resumed))).join(logged, on="id")
        later = later.filter(pl.col("created_at") > pl.col("began"))
        without_start = {*later["id"]}
        for run_id in later.filter(pl.col("heartbeat_at") > pl.col("ended"))["id"]:
            why = "its first log is no longer here, so its new rows cannot be added to the earlier export"
            project.failed.append(Failure(run_id, "log", f"{why}; put that log back, or choose another folder with -o"))
    project.cut = project.cut if options.offline else from_logs
    shorter = drop_shorter(project, without_start)
    if project.all_ids is not None:
        gone = earlier.rows.keys() - {*project.all_ids}
        project.gone = sorted(gone & from_logs if options.offline else gone - from_logs)
    replaced = {*project.runs["id"]} - shorter
    staying = earlier.rows.keys() - replaced - {*(project.gone if options.prune else ())}
    project.kept = sorted(staying - shorter)
    new_pages = []
    for page in project.pages:  # without the shorter runs, whose new rows decide no names and dtypes
        ids = {*page.index["id"]}
        rest = [page] if shorter.isdisjoint(ids) else stored_pages(page.file, ids - shorter, work)
        new_pages += [replace(each, definitions=page.definitions) for each in rest]
    project.pages = new_pages
    pages = new_pages + (stored_pages(earlier.file, staying, work) if staying else [])
    runs = index_of(pages)
    project.runs = runs.filter(pl.col("id").is_in(project.runs["id"].to_list()))  # as they are written
    return pages, runs


def drop_shorter(project: Project, without_start: set[str]) -> set[str]:
    """Drop fetched rows of which the earlier export has more; returns the runs whose row of the runs file stays."""
    had, counts = project.earlier.rows, project.counts
    shorter = {run_id for run_id in counts.keys() & project.cut if had.get(run_id, 0) > counts[run_id]} | without_start
    kept_fuller = {*shorter}
    for table in project.tables.values():
        earlier = table.earlier
        for run_id, run_rows in sorted(table.fetched.items()):
            is_sample = table.name == "system" and bool(run_rows.revision)  # offline, system metrics are whole
            is_part = is_sample or bool(table.extent)
            # A sample replaces another one. A W&B Table may have fewer rows than the one logged before.
            may_be_less = is_part and not (is_sample and run_id in earlier.revisions)
            may_be_less |= run_rows.is_short or run_id in (shorter if table.is_wandb_table else project.cut)
            is_less = may_be_less and earlier.rows.get(run_id, 0) > run_rows.rows
            if is_less or (run_id in without_start and run_id in earlier.rows):
                kept_fuller |= set() if is_part else {run_id}
                rows_then = earlier.revisions.get(run_id, run_rows.revision)
                if table.extent and rows_then[:2] != run_rows.revision[:2]:  # the run went on since then
                    table.outdated.append(run_id)
                del table.fetched[run_id]
    project.kept_fuller = sorted(kept_fuller)
    return shorter


def stored_pages(file: Path, ids: Collection[str], work: Path) -> list[Page]:
    """The runs with these ids of a runs file or page, as pages made from their configs and summaries."""
    pages: list[Page] = []
    try:
        rows = pl.scan_parquet(file, glob=False)
        columns = [*(name for name in run_schema() if name in rows.collect_schema()), *TEXTS]
        for start in range(0, shape_of(file)[0], PAGE_RUNS):
            some = rows.slice(start, PAGE_RUNS).filter(pl.col("id").is_in(list(ids))).select(columns).collect()
            runs = []
            for row in some.iter_rows(named=True):
                config, summary = (tree if isinstance(tree := json.loads(row[text]), dict) else {} for text in TEXTS)
                leaves = [*flatten(config, (CONFIG,)), *numeric_leaves(summary, (METRIC,))]
                runs.append(Run(dict.fromkeys(run_schema()) | row, leaves))
            pages += [write_page(runs, work)] if runs else []
    except (*DAMAGED, ValueError, TypeError) as error:
        raise unreadable(file, error) from error
    return pages


def metadata_document(project: Project, options: Options, about: Mapping[str, object]) -> dict[str, object]:
    tables = sorted(project.tables.values(), key=lambda table: table.name)
    written = next((table.rows for table in tables if table.is_history and table.is_asked), {})
    # Not of runs that are only kept.
    rows = {run_id: (written[run_id], n) for run_id, n in project.counts.items() if run_id in written}
    filters: dict[str, Any] = {name: value for name, value in asdict(options.selection).items() if value}
    for place in project.places if project.filters else ():
        filters |= {place.key: [*filters.get(place.key, ()), place.value]} if place.key else {}
    return {
        **about,
        "status": project.status,
        "filters": filters,
        "runs": {
            "listed": project.selected + project.filtered,
            "written": project.runs.height,
            "failed": project.selected - project.runs.height,
            "filtered": project.filtered,
            "by_state": dict(sorted(Counter(project.runs["state"]).items())),
        },
        "history": {
            "rows": sum(count for count, _ in rows.values()),
            "runs": len(rows),
            "sampled": not options.include_history and any(not 0 < n <= count for count, n in rows.values()),
            "mismatched": sorted(project.mismatched),
        },
        "failed": [failure._asdict() for failure in sorted(project.failed)],
        "torn": project.torn,
        "missing_on_server": [] if options.prune else project.gone,
        "kept_fuller": project.kept_fuller,
        "summary_restored": project.summary_restored,
        "skipped_history_keys": sorted({key for table in project.tables.values() for key in table.skipped}),
    }


# --- files ----------------------------------------------------------------------------------------------------

PUBLISHING = threading.Lock()  # held while files are renamed: the process must not end between two of them


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def shape_of(file: Path) -> tuple[int, int]:
    """Rows and columns of a parquet file."""
    rows = pl.scan_parquet(file, glob=False)
    return rows.select(pl.len()).collect().item(), len(rows.collect_schema())


@contextmanager
def publishing(output: Path, work: Path) -> Iterator[Callable[[Path], Path]]:
    """Gives a function from a file to the path where it is written first. At the end all are renamed, or none."""
    files: dict[Path, Path] = {}
    try:
        yield lambda file: files.setdefault(file, work / file.name)
        for file, partial_file in files.items():
            with partial_file.open("rb+") as whole:
                os.fsync(whole.fileno())
            if file.is_dir():  # then none is renamed
                raise IsADirectoryError(None, "a folder has that name", file)
            if file.exists():
                partial_file.chmod(file.stat().st_mode)  # one that is private stays so
        with PUBLISHING:
            for file, partial_file in files.items():
                partial_file.replace(file)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise not_written(next(reversed(files), output), error) from error


def settle_stems(projects: list[Project], output: Path) -> None:
    """Fill in the beginning of each project's file names, for all projects before any file is written."""
    longest = LONGEST_STEM - len("_history_sampled")
    taken: set[str] = set()  # in lower case, as some file systems ignore it
    choices: list[tuple[bool, Project, str]] = []
    for project in projects:
        suffix = f"__{path_hash((project.entity, project.name))[:8]}"
        stem = quote(f"{project.entity}_{project.name}".encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
        stem = re.sub(r"^\.", "%2E", stem)  # no name from W&B leaves the folder, or hides its files
        other = stem[: longest - len(suffix)] + suffix
        mine = {(project.entity, project.name)}
        is_free = len(stem) <= longest and not owners_of(output, stem) - mine
        project.stem = other if owners_of(output, other) == mine or not is_free else stem
        choices.append((owners_of(output, project.stem) != mine, project, other))
    for is_new, project, other in sorted(choices, key=lambda choice: choice[0]):  # others keep the names of their files
        project.stem = other if is_new and project.stem.lower() in taken else project.stem
        taken.add(project.stem.lower())
    for project in projects:
        project.longer_stems = [stem for stem in taken if stem.startswith(f"{project.stem.lower()}_")]


def owners_of(output: Path, stem: str) -> set[tuple[str, str] | None]:
    """The entities and projects in the metadata of the files with this stem."""
    names = ("runs", "history", "history_sampled", "system", "console")
    return {owner_of(output / f"{stem}_{name}.parquet") for name in names} - {None}


def owner_of(file: Path) -> tuple[str, str] | None:
    """The entity and project in a file's metadata; None without."""
    with suppress(OSError, ValueError, LookupError, TypeError, *DAMAGED):
        about = json.loads(pl.read_parquet_metadata(file)[SOURCE_KEY])
        return str(about["entity"]), str(about["project"])
    return None


@contextmanager
def working_folder(output: Path, say: Say) -> Iterator[Path]:
    """An empty folder for intermediate files, while a lock keeps other exports from writing to `output`."""
    own = output / ".wandb_tools"  # which also has HISTORIES
    work = own / "work"
    own.mkdir(parents=True, exist_ok=True)
    with (own / "lock").open("w") as lock:
        with suppress(ImportError):  # a system without such locks
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another export is writing to {output}: waiting until it is done")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # as on some network file systems
                say(f"{output} cannot be locked ({error.strerror}): start no other export into it meanwhile")
        shutil.rmtree(work, ignore_errors=True)  # of an export that was killed: the lock is ours
        for folder in (work, own / HISTORIES):  # private: unpublished files are for this user only
            folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield work
        finally:
            with PUBLISHING:  # files are renamed out of it
                shutil.rmtree(work, ignore_errors=True)


# --- verifying ------------------------------------------------------------------------------------------------


def verify(folder: Path, options: Options, say: Say) -> int:
    """Compare the files of every export in `folder` with its metadata; nothing is changed. Returns the exit code."""
    exports = sorted(file for file in folder.glob("*_metadata.json") if not file.name.startswith("."))
    if not exports:
        raise ScriptError(f"{folder} contains no export; name the folder that you gave as -o", NOTHING_USABLE)
    import_libraries()
    rows: list[dict[str, str | None]] = []
    incomplete: list[str] = []  # metadata files that list failures
    for export in exports:
        about: dict[str, str | None] = {"entity": None, "project": None}
        problems: Mapping[str, str | None] = {export.name: "is damaged, so the files of its project cannot be checked"}
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            document = json.loads(export.read_text("utf-8"))
            about |= {name: document[name] for name in about}
            listed = {Path(facts["name"]).name: facts for facts in document["files"]}
            problems = {name: damage_of(folder / name, facts) for name, facts in listed.items()} or problems
            if document.get("failed"):
                incomplete.append(export.name)
        rows += [about | {"file": name, "error": problem} for name, problem in problems.items()]
    # Files, and the stems of damaged metadata.
    named = tuple(str(row["file"]).removesuffix("metadata.json") for row in rows)
    for file in sorted(folder.glob("*.parquet")):  # whose metadata may be gone
        with suppress(OSError, *DAMAGED):
            if not file.name.startswith(named) and EXPORT_ID_KEY in pl.read_parquet_metadata(file):
                error = "is not listed in any metadata file, so it cannot be checked"
                rows.append({"entity": None, "project": None, "file": file.name, "error": error})
    damaged = [row for row in rows if row["error"]]
    for row in damaged:
        again = "export again" if row["error"] == "is missing" else "move it away and export again"
        tell(f"error: {folder / str(row['file'])} {row['error']}; restore it from a copy, or {again}")
    outcome = f"{len(damaged):,} damaged or missing" if damaged else "all unchanged"
    say(f"{counted(len(rows), 'file')} of {counted(len(exports), 'export')} in {folder}: {outcome}")
    if incomplete:
        say(f"not everything was exported: see `failed` in {first_of(incomplete)}")
    if options.json:
        show(json_text({"version": 1, "verified": rows}))
    return PARTIAL if damaged else OK


def damage_of(file: Path, facts: Mapping[str, Any]) -> str | None:
    """How a parquet file differs from the facts in the metadata; None if it does not."""
    try:
        digest, size = sha256(file), file.stat().st_size
        if size != facts["bytes"]:
            return f"has {size:,} bytes instead of {facts['bytes']:,}"
        if digest != facts["sha256"]:
            return "was changed: its checksum differs"
        height, width = shape_of(file)
    except (OSError, *DAMAGED) as error:
        why = getattr(error, "strerror", None) or error
        return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {why}"
    if (height, width) != (facts["rows"], facts["columns"]):
        return f"has {height:,} rows of {width:,} columns, not {facts['rows']:,} of {facts['columns']:,}"
    return None


# --- the report -----------------------------------------------------------------------------------------------


def report(projects: Sequence[Project], failed: Sequence[Failure], options: Options, say: Say) -> int:  # noqa: C901
    """Print the paths or the JSON on stdout, and a line per project on stderr. Returns the exit code."""
    written = [project for project in projects if project.files]
    # Without runs: their list failed after some pages.
    planned = [project for project in projects if project.selected and project.pages and project.runs is not None]
    lost = [*failed, *(each for project in projects for each in project.failed if each.what == "project")]
    check_selection(projects, lost, options, say)
    if empty := [project.path for project in projects if not (project.failed or project.files or project.runs.height)]:
        say(f"nothing to export in {first_of(empty)}")
    say_without_effect(written, options, say)
    rows, files, uneventful = [], [], 0
    for project in planned if options.dry_run else written:
        row, line = outcome_of(project, options)
        rows.append(row)
        paths = [str(options.output / str(file["name"])) for file in project.files]
        if not options.json:
            show(printable(line) if options.dry_run else paths[-1])
        if options.dry_run:
            continue
        files += [*paths, str(options.output / f"{project.stem}_metadata.json")]
        end = changes_of(project, options)
        uneventful += not (end or project.failed)
        if end or project.failed or uneventful <= MOST_NAMED:
            say(line + end)
    if uneventful > MOST_NAMED:
        say(f"{counted(uneventful - MOST_NAMED, 'more project')} without failures; --json lists all")
    for failure in lost:
        entity, _, name = failure.run.partition("/")
        rows.append({"entity": entity, "project": name or None, "status": "failed", "error": failure.error})
    if options.json:
        show(json_text({"version": 1, "exports": rows, "files": files}))
    failures = [*failed]
    for project in projects:  # ids are only unique within a project; a log of an unknown project is a failure of all
        prefix = f"{project.path}/" if len(projects) + len(failed) > 1 else ""
        for failure in sorted(project.failed):
            is_named = failure.what in ("log", "folder") or failure.run == project.path
            failures.append(failure if is_named else failure._replace(run=prefix + failure.run))
    return report_failures(failures, "" if options.dry_run else ", all listed in the metadata file")


def outcome_of(project: Project, options: Options) -> tuple[dict[str, Any], str]:
    """What was exported of a project, or would be: its row in the JSON, and its line for people."""
    history, counts, suffix = project.tables.get("history"), project.counts | project.mismatched, ""
    if history is None or not history.is_asked:
        history = new_table("history")
    elif options.dry_run:
        counts, suffix = {run.id: run.listed or 0 for run in changed_runs(project, history)}, " to download"
    history_rows = sum(counts.values())
    row: dict[str, Any] = {**project.place, "status": "planned", "runs": project.runs.height}
    row |= {"filtered": project.filtered, "failed": len(project.failed), "history_rows": history_rows}
    if options.offline or not options.dry_run:
        row |= {"status": project.status, "torn": len(project.torn), "kept": len(project.kept)}
    line = f"{project.path}: {counted(project.runs.height, 'run')}"
    if states := Counter(project.runs["state"]).most_common():
        line += f" ({', '.join(f'{count:,} {state}' for state, count in states)})"
    if options.include_history or options.offline:
        line += f", {counted(history_rows, 'history row')}{suffix}"
    if unchanged := len(history.staying.intersection(project.runs["id"])):
        line += f" ({counted(unchanged, 'run')} unchanged)"
    line += f", {counted(len(project.failed), 'failure')}" if project.failed else ""
    return row, line


def say_without_effect(written: Sequence[Project], options: Options, say: Say) -> None:
    """Print which flags changed nothing in the files that were written."""
    unpruned = [project.path for project in written if project.all_ids is None]
    if options.prune and unpruned:
        say(f"--prune removed nothing from {first_of(unpruned)}: it needs an export of all runs, without filters")
    tables = [table for project in written for table in project.tables.values()]
    metrics = {path for table in tables if table.is_history for path in table.dtypes}
    for glob in options.history_keys if written else ():
        if not any(names_match(path, [glob]) for path in metrics):
            say(f"--history-keys {glob} matches no metric of these runs")
    there = {table.name.partition("_")[0] for table in tables if table.rows or table.is_wandb_table}
    asked = {"table": options.tables, "console": options.console, "system": options.system_metrics}
    nouns = {"table": "W&B Tables", "console": "console output", "system": "system metrics"}
    missing = [nouns[name] for name, is_asked in asked.items() if is_asked and name not in there]
    if missing and written and not any(project.failed for project in written):
        say(f"these runs have no {', no '.join(missing)}")


def changes_of(project: Project, options: Options) -> str:
    """The end of a project's line: how its files differ from the runs and metrics that were read."""
    line = f"; {counted(len(project.kept), 'run')} of an earlier export kept" if project.kept else ""
    if project.gone:
        removed = f"; {counted(len(project.gone), 'run')} removed, because no longer in the source"
        kept = f", {len(project.gone):,} of them no longer in the source (--prune removes them)"
        line += removed if options.prune else kept
    if fuller := project.kept_fuller:
        line += f"; {counted(len(fuller), 'run')} kept from the earlier export, which has more rows: {first_of(fuller)}"
    for table in project.tables.values():
        if table.outdated:
            line += f"; newer output of {first_of(table.outdated)} is left out, as more lines are there: use --console"
        earlier = table.earlier
        if not table.is_history:
            continue
        known = earlier.revisions.keys() if earlier.made_of == table.made_of else set()  # these had the same metrics
        lacking = sorted(path for path in earlier.columns if not is_wanted(path, options.history_keys))
        if lacking and (earlier.rows.keys() & table.fetched.keys()) - known:
            some = first_of([".".join(path) for path in lacking])
            line += f"; removed from the {table.name}, because they were not asked for this time: {some}"
    return line


def check_selection(projects: Sequence[Project], lost: Sequence[Failure], options: Options, say: Say) -> None:
    """Print how many runs the server's filters keep. ScriptError if no run is left or none could be exported."""
    selected = sum(project.selected for project in projects)
    total = selected + sum(project.filtered for project in projects)
    flags = ", ".join(options.selection.flags)
    if flags and any(place.value for project in projects for place in project.places):
        flags = f"PLACE, {flags}"
    if flags and selected and not options.offline:  # there each filter has said it
        say(f"{flags} kept {selected:,} of {counted(total, 'run')}")
    if any(project.files for project in projects) or (selected and (options.dry_run or not lost)):
        return  # files may be without runs: all of them are gone
    if lost := lost or [each for project in projects for each in project.failed if each.what == "place"]:
        raise nothing_exported(lost)
    message = f"no runs in {first_of([project.path for project in projects])}; check the name on W&B's page"
    if total and flags:
        message = f"no run left: {flags} kept none of {counted(total, 'run')}; leave a filter out or loosen it"
    raise ScriptError(message, NOTHING_USABLE)


def report_failures(failures: Iterable[Failure], where: str = "") -> int:
    """Print each failure once, also with --quiet, and return the exit code. `where` tells where all are listed."""
    by_error: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for failure in failures:
        by_error[failure.what, failure.error].append(failure.run)
    for (what, error), failing in by_error.items():
        runs = [*dict.fromkeys(failing)]
        named = runs if what == "project" else runs[:MOST_NAMED]  # the metadata lists all of a project's
        is_said = what in ("project", "run", "log", "file", "folder", "place", "sweeps")  # by the error itself
        why = error if is_said else f"{what.removesuffix('Metrics')}: {error}"
        for run in named:
            tell(f"error: {run}: {why}")
        if len(runs) > len(named):
            tell(f"error: {len(runs) - len(named):,} more{where}: {why}")
    return PARTIAL if by_error else OK


def nothing_exported(failures: Sequence[Failure]) -> ScriptError:
    """The error if all that was asked for failed; it states the first failure, after the others are printed."""
    report_failures(failures[1:])
    return ScriptError(f"{failures[0].run}: {failures[0].error}; nothing could be exported", NOTHING_USABLE)


def first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Meter(ExitStack):
    """Progress on stderr: a live line in a terminal, else a plain line every PLAIN_LINE_S; nothing with --quiet."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self.show_line: Say = tell
        self.pause_s = math.inf if quiet else PLAIN_LINE_S  # between two lines
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.started = self.last_line = time.monotonic()
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self.show_line, self.pause_s = self.enter_context(Console(stderr=True).status("")).update, 0.0

    def add(self, **counts: int) -> None:
        """Add to the counts of what is done, and of what is to do (such as `runs_wanted`); show them."""
        with self.lock:
            self.counts.update(counts)
            if time.monotonic() < self.last_line + self.pause_s:
                return
            self.last_line = time.monotonic()
            elapsed_s, left_s, parts = self.last_line - self.started, 0.0, []
            for what in ("runs", "logs", "histories"):
                done, wanted = self.counts[what], self.counts[f"{what}_wanted"]
                if wanted:
                    parts.append(f"{done:,} of {wanted:,} {what}")
                    left_s = elapsed_s * (wanted - done) / done if done else 0.0  # not known yet
            if rows := self.counts["rows"]:
                parts.append(f"{rows:,} rows ({rows / elapsed_s:,.0f} a second)")
            if left_s >= 1 and elapsed_s >= PLAIN_LINE_S / 2:
                parts.append(f"about {left_s:,.0f} s left")
            self.show_line(", ".join(parts))


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
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flag = parser.add_argument_group("source").add_argument
    flag("places", nargs="*", metavar="PLACE", help="entity/project[/run], or URL of a project, run, sweep or group")
    flag("--api-key-file", metavar="FILE", type=Path, help="file with the API key")
    flag("--offline", metavar="DIR", type=Path, help="read run folders below DIR; no server is used")
    flag("--verify", metavar="DIR", type=Path, help="check the files of earlier exports against their checksums")
    flag = parser.add_argument_group("which runs (values of one flag are ORed, flags are ANDed)").add_argument
    several: dict[str, Any] = {"action": "extend", "type": comma_list, "default": []}
    flag("-e", "--entity", **several, help="entity (default: your own; offline: all)")
    flag("-p", "--project", **several, metavar="GLOB", help="project or glob, case ignored (default: all)")
    flag("--since", type=moment, metavar="WHEN", help="created at or after: 7d, 24h, 2w, 2026-01-15, an ISO time (UTC)")
    flag("--until", type=moment, metavar="WHEN", help="created before")
    flag("--active-since", type=moment, metavar="WHEN", help="last heartbeat at or after")
    flag("--state", **several, help=", ".join(STATES))
    flag("--tag", **several, help="runs with one of these tags")
    flag("--group", **several, help="runs of one of these groups")
    flag("--sweep", **several, metavar="ID", help="runs of one of these sweeps")
    flag("--where", type=mongo_filter, default={}, metavar="JSON", help="filter in W&B's Mongo syntax; server only")
    flag = parser.add_argument_group("what is written").add_argument
    flag("-o", "--output", metavar="DIR", type=Path, default=Path("wandb_export"), help="default: wandb_export/")
    flag("--include-history", action="store_true", help="write all history rows, not sampled")
    flag("--history-keys", **several, metavar="GLOBS", help="only these metrics (W&B or column name)")
    flag("--history-samples", type=positive, metavar="N", help="write about N sampled history rows per run")
    flag("--system-metrics", action="store_true", help="write system metrics; a server samples them")
    flag("--console", action="store_true", help="write the console output of the runs")
    flag("--console-lines", type=positive, metavar="N", help="write only the last N lines of each run")
    flag("--tables", action="store_true", help="write the W&B Tables of the runs: one file per key")
    flag("--prune", action="store_true", help="remove runs that no longer exist in the source")
    flag("--dry-run", action="store_true", help="show what would be exported, write nothing")
    flag = parser.add_argument_group("other options (defaults in brackets)").add_argument
    flag("--workers", type=positive, metavar="N", help=f"requests at once ({WORKERS}); offline: processes (all cores)")
    flag("--timeout", type=positive, metavar="S", default=TIMEOUT_S, help="seconds to wait for an answer (%(default)s)")
    flag("--retries", type=not_negative, metavar="N", default=RETRIES, help="repeats of a failed request (%(default)s)")
    flag("--json", action="store_true", help="print the result as one JSON object")
    flag("--quiet", action="store_true", help="print only errors on stderr")
    flag("--debug", action="store_true", help="show the traceback of an error")
    return checked_options(parser, vars(parser.parse_strictly(argv)))


def checked_options(parser: Parser, given: dict[str, Any]) -> Options:
    """The values of the flags as Options; ScriptError if they do not go together."""
    given["console"] = given["console"] or given["console_lines"] is not None
    if given["offline"] and any(given[name] for name in ("places", "where", "history_samples", "api_key_file")):
        parser.error("--offline cannot be used with PLACE, --where, --history-samples or --api-key-file")
    if given["places"] and (given["entity"] or given["project"]):
        parser.error("name projects either as entity/project or with -e and -p, not both")
    if given["history_keys"] and not (given["include_history"] or given["history_samples"]):
        parser.error("--history-keys needs --include-history or --history-samples")
    changed = [name for name, value in given.items() if value not in (parser.get_default(name), [])]
    others = [name for name in changed if name not in ("verify", "json", "quiet", "debug")]
    if given["verify"] and others:
        what = "a PLACE" if others[0] == "places" else f"--{others[0].replace('_', '-')}"
        parser.error(f"--verify exports nothing: remove {what}")
    given["output"] = Path(os.path.expanduser(given["output"]))  # noqa: PTH111 - shells leave `--output=~/x` as it is
    if storable(str(given["output"])) != str(given["output"]):  # polars writes to no such path
        parser.error("the path of -o is not valid UTF-8; choose another")
    states = [state.lower() for state in given["state"]]
    for state in states:
        if state not in (*STATES, "all"):
            parser.error(f"--state {state}: no such state{did_you_mean(state, STATES)}; there are {', '.join(STATES)}")
    given["state"] = [] if "all" in states else states
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    given["selection"] = Selection(**{each.name: given.pop(each.name) for each in fields(Selection)})
    given["places"] = tuple(map(place_of, given["places"]))
    return Options(**given)


def comma_list(text: str) -> list[str]:
    """The values of a flag that takes commas: `a, b` is a and b."""
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError("needs a value")


def mongo_filter(text: str) -> dict[str, object]:
    with suppress(ValueError, RecursionError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise argparse.ArgumentTypeError("must be a JSON object, as in W&B's filters")


def moment(text: str) -> datetime:
    """A time given as an age (`7d`), a date or an ISO time; UTC if it names no zone."""
    with suppress(OverflowError):
        if ago := re.fullmatch(r"(\d{1,6})([hdw])", text):
            return now() - int(ago[1]) * timedelta(hours={"h": 1, "d": 24, "w": 168}[ago[2]])
    if given := time_of(text):
        return given
    raise argparse.ArgumentTypeError(f"{text} is not a time; write 7d, 24h, 2w, 2026-01-15 or 2026-01-15T12:00")


def now() -> datetime:
    return datetime.now(UTC)


def whole_number(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
    return int(text)


positive, not_negative = partial(whole_number, 1), partial(whole_number, 0)


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
    """Import slow libraries: after the command line is checked, before threads use them."""
    global version, orjson, pl, cs, DAMAGED
    from importlib.metadata import version

    import orjson
    import polars as pl
    import polars.selectors as cs

    DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
    if hasattr(signal, "siginterrupt"):  # polars' own handler lets a wait for a lock go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)


def export(options: Options) -> int:
    """From the source to the files: the summary of this script."""
    global orjson, requests, urllib3
    # Threads hand over Python's lock less often than every 5 ms, which took a tenth of the time.
    sys.setswitchinterval(0.05)
    gc.disable()  # there are no cycles among the many small objects, and looking for some took a tenth of the time
    say: Say = (lambda _: None) if options.quiet else tell
    if options.verify:
        return verify(options.verify, options, say)
    with ExitStack() as at_end:
        if options.offline:
            server = None
            import_libraries()
        else:
            address = base_url()
            key = api_key(options.api_key_file, address)
            import orjson  # reads the first answers, while import_libraries() imports polars
            import requests
            import urllib3

            server = Server(address, key, options, at_end.enter_context(Meter(quiet=options.quiet)), say)
            own = {urlsplit(url).netloc.lower() for url in (address, page_url(address))}
            own |= {*PAGE_HOSTS} if FORGE in own else set()
            for host in sorted({place.host for place in options.places} - own - {""}):
                say(f"URLs on {host} are looked up on {address}; for another server set WANDB_BASE_URL")
            # In a thread, while the server is asked: Ctrl-C during its import makes polars panic.
            importing = ThreadPoolExecutor(1).submit(import_libraries)
            projects, failed = find_projects(server)
            importing.result()
        temporary: Any = tempfile.TemporaryDirectory(prefix="wandb-tools-") if options.dry_run else None
        work = Path(at_end.enter_context(temporary or working_folder(options.output, say)))
        if options.offline:
            projects, failed = read_offline(options.offline, options, work, say), []
        else:
            settle_stems(projects, options.output)
        at_once = PROJECTS_AT_ONCE if server else 1
        side_by_side(lambda project: export_project(server, project, options, work), projects, at_once)
    return report(projects, failed, options, say)


def export_project(server: Server | None, project: Project, options: Options, work: Path) -> None:
    """Export one project. An exception becomes a failure of this project, so that the others go on."""
    try:
        find_earlier(project, options.output)
        if server is not None:
            fetch_project(server, project, work)
        # A whole project without runs is exported, too: all runs of the earlier export are gone.
        is_news = project.runs.height or any(failure.what != "place" for failure in project.failed)
        is_news |= project.all_ids is not None and project.earlier is not NO_EARLIER
        if is_news and not options.dry_run:
            write_project(server, project, options, work)
            stored = work.parent / HISTORIES / project.stem
            for table in project.tables.values() if server else ():  # offline, projects share part files
                for file in {part.file for run_rows in table.fetched.values() for part in run_rows.parts}:
                    file.unlink(missing_ok=True)
                if table.is_asked and project.all_ids is not None:  # else others wait for a later export
                    shutil.rmtree(stored / table.name, ignore_errors=True)
            with suppress(OSError):  # not empty
                stored.rmdir()
    except (Exception, *DAMAGED) as error:
        reason: BaseException = error
        if isinstance(error, OSError):  # those of requests are RequestErrors: this one is about a file
            reason = not_written(Path(error.filename or options.output), error)
        elif options.debug and not isinstance(error, RequestError | ScriptError):
            raise
        project.failed.append(Failure.of(reason, project.path, "project"))


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed ones are None
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # UTF-8 for programs
    try:
        return export(parse_args(argv))
    except SystemExit:  # of --help
        raise
    except BaseException as error:  # noqa: BLE001 - each becomes a message
        # Or it failed to tidy up after one, or polars panicked, as it does if it was running Python.
        if KeyboardInterrupt in (type(error), type(error.__context__)) or "KeyboardInterrupt" in str(error):
            tell("interrupted: to continue, run the same command again")
            return INTERRUPTED
        if "--debug" in (sys.argv if argv is None else argv):
            traceback.print_exc()
        code, message = NOTHING_USABLE, f"a bug in this script: {error!r}; run it again with --debug and report it"
        if isinstance(error, ScriptError):
            code, message = error.exit_code, str(error)
        elif isinstance(error, OSError):
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; fix this and run again"
        tell(f"error: {message}")
        return code


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for threads, which may wait for a server, but not while files are renamed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it may be closed, or None
            stream.flush()
    with PUBLISHING:
        os._exit(code)


if __name__ == "__main__":
    end_at_once(main())
