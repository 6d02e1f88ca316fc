#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyyaml>=6,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.2,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Export W&B runs to parquet: every config, summary and history row, nothing sampled, nothing lost.

From a server: the projects, runs or sweeps named as PLACE, or the projects of -e and -p; it evaluates the filters.
With --offline, from the run folders that the W&B SDK leaves on disk: no server, no account, no key; also runs that
crashed before a sync. Writes, for every entity and project, and prints the path of each runs file:

  <dir>/<entity>_<project>_runs.parquet      one row per run
  <dir>/<entity>_<project>_history.parquet   one row per run and step (with --include-history)
  <dir>/<entity>_<project>_history_sampled.parquet and _system.parquet, sampled (--history-samples, --system-metrics)
  <dir>/<entity>_<project>_metadata.json     what was asked, what was got, what failed

Again into the same folder, it refreshes all runs, fetches only histories that changed, and keeps runs that are not in
this export. A history is never replaced by a shorter one of a log that was cut off. Interrupted, an export goes on from
the histories that it has.

The API key comes from --api-key-file, WANDB_API_KEY, `wandb login` (netrc) or the SDK's settings file, never from an
argument. For a self-hosted server set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private.

Examples:
  uv run wandb-tools/export_runs.py my-team/my-project -o export/ --include-history
  uv run wandb-tools/export_runs.py -e my-team -p 'denoising*' --state finished,crashed --since 7d
  uv run wandb-tools/export_runs.py my-team/my-project --where '{"config.lr": {"$gt": 0.01}}' --dry-run
  uv run wandb-tools/export_runs.py https://wandb.ai/my-team/my-project/sweeps/abc123 -o sweep/
  uv run wandb-tools/export_runs.py my-team/my-project --include-history --history-keys 'val/*,epoch' --json
  uv run wandb-tools/export_runs.py --offline wandb/ -o export/ --include-history
  uv run wandb-tools/export_runs.py --verify export/   are all files as they were written? No account is needed

Exit codes:
  0    all done (a log that a crash cut off is noted and is no failure)
  1    nothing usable: no access, no run there, none left after the filters, or the output cannot be written
  2    wrong usage
  3    partial: some projects, runs or logs failed; the rest is written, the failures are named.
       --verify: the files that it names are damaged or missing
  130  interrupted: a project's files are all new or all as they were; finished histories are kept
"""

from __future__ import annotations

import argparse
import configparser
import difflib
import fnmatch
import gc
import hashlib
import importlib
import importlib.util
import io
import itertools
import json
import math
import netrc
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import types
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, Self, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from importlib.metadata import version

    import orjson
    import polars as pl
    import requests
    import urllib3

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
HISTORIES_KEY = "wandb_tools.histories"  # of a history file: in which state each run was when it was fetched
EXPORT_ID_KEY = "wandb_tools.export_id"
PART_KEY = "wandb_tools.part"  # of fetched rows in the working folder: what their file does not show
SCHEMA_VERSION = "1"
VERSION = "0.1.0"

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
NO_ENTITY, NO_PROJECT = "offline", "uncategorized"  # stand-ins; the second is the SDK's own
FRESH = timedelta(minutes=5)  # W&B's own limit: a run without a heartbeat for longer has crashed
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # stands for an unknown time
CONFIG, METRIC = "config_", "metric_"  # the prefixes of flattened columns
SYSTEM = ""  # system metrics have no prefix
NOT_CONFIG = ("_wandb", "wandb_version")  # W&B's own notes in a config
CLOCKS = (("_step",), ("_runtime",), ("_timestamp",))  # W&B's own keys of a history row
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as W&B's JSON spells them in text
SUMMARY_KINDS = ("min", "max", "mean", "best", "last", "none", "copy", "first")  # of define_metric, by their numbers
GOALS = {1: "minimize", 2: "maximize"}  # of the protobuf field MetricRecord.goal
EMPTY, MIXED = "empty", "mixed"  # kinds of a page's columns besides the dtypes
TABLES = ("history", "history_sampled", "system")  # files with many rows a run, by the end of their names
KEYS = ("id", "created_at", "heartbeat_at", "state", "last_step", "history_rows", "sweep")  # of Run, kept in memory

WORKERS = 8  # questions at once: a shared server bears that; more gain little
DOWNLOADS_A_WORKER = 4  # at once, from the storage host, which is not the API
PROJECTS_AT_ONCE = 4
PAGES_AT_ONCE = 8  # answers that are waited for or parsed: 15 MB each
TIMEOUT_S = 60  # enough for the largest page from a busy server; longer looks like a hang
RETRIES = 4
PAGE_RUNS = 1_000  # runs a question, the most that a server gives, and rows that are made together
WINDOW_RUNS = 400  # that a window should hold: small enough to parse one while others are fetched
LISTINGS = 3  # before a project that keeps changing is taken as it is
RUNS_A_QUESTION = 20  # histories or sweeps
LIVE_ROWS_A_QUESTION = 5_000
SYSTEM_SAMPLES = 1_000  # rows of system metrics a run

ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 16_000_000  # of configs and summaries, which may be long
ROW_GROUP_CELLS = 10_000_000  # where there are many metrics, row groups are shorter: 80 MB at most
PART_ITEMS = 300_000  # logged values that a reader holds before it writes them away: about 40 MB
PART_CELLS = 6_000_000  # the same bound for rows x columns, where metrics are sparse: 50 MB
BATCH_ROWS = 20_000  # of histories that are asked for and stored together
BATCH_CELLS = 1_000_000  # fetched rows x columns that are converted in memory: 8 MB a thread
TASK_BYTES, TASK_LOGS = 4_000_000, 100  # small logs that are read together
MANY_BYTES = 16_000_000  # logs of less than this in all are read sooner than a second process starts
EXACT_FLOAT = 2**53  # whole numbers up to this are exact as Float64

FAILURES_NAMED = 10  # on stderr, of those with one cause
PLAIN_LINE_S = 10  # between two lines of progress where there is no terminal
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

# --- nouns ----------------------------------------------------------------------------------------------------

KeyPath: TypeAlias = tuple[str, ...]
Scalar: TypeAlias = bool | int | float | str | None
Say: TypeAlias = Callable[[str], None]
Names: TypeAlias = Mapping[KeyPath, str]  # of columns, by their paths behind CONFIG, METRIC or SYSTEM
Parse: TypeAlias = Callable[[bytes], Any]
Subject = TypeVar("Subject")
Found = TypeVar("Found")


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Selection:
    """Which runs are wanted: the values of a field are ORed, the fields ANDed; an empty field selects all."""

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


class Place(NamedTuple):
    """What is asked for on the server: projects of an entity (by name or glob), or a run, sweep or group of one."""

    entity: str | None  # None: the key's own
    project: str
    run: str | None = None
    sweep: str | None = None
    group: str | None = None


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
    """What `define_metric` set for a metric, or for all that a pattern with a trailing `*` matches."""

    pattern: str
    goal: str | None
    summary: str | None  # one or more of SUMMARY_KINDS, with commas, as define_metric takes them
    step_metric: str | None


@dataclass(slots=True)
class Run:
    """One run, whatever it was read from: the columns of the runs file, and what makes the others."""

    id: str
    name: str
    state: str
    entity: str
    project: str
    created_at: datetime | None
    heartbeat_at: datetime | None
    runtime_s: float | None
    last_step: int | None
    history_rows: int
    tags: Sequence[str]
    group: str | None
    job_type: str | None
    sweep: str | None
    user: str | None
    notes: str | None
    commit: str | None
    url: str | None
    exported_at: datetime
    config_json: str
    summary_json: str
    leaves: Sequence[tuple[KeyPath, Scalar]]  # by path behind CONFIG or METRIC; of the summary only the numbers
    definitions: Sequence[MetricDefinition] = ()


@dataclass(frozen=True)
class Page:
    """Up to PAGE_RUNS runs as a parquet file in the working folder, whose flattened columns `column_key` names.

    `kinds` are the kinds of these columns, by prefix and path: a dtype, EMPTY (nothing but nulls; the file lacks the
    column), or MIXED (the values as JSON, since no one dtype has them all).
    """

    file: Path
    keys: pl.DataFrame  # the columns KEYS
    kinds: Mapping[KeyPath, str]
    nested: Mapping[str, frozenset[KeyPath]]  # by run id: paths of more than one key among the summary's numbers
    definitions: frozenset[MetricDefinition]
    text_bytes: int  # of the configs and summaries, the bulk of a row


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one run in a parquet file of the working folder, which other runs may share.

    The file's columns are `run_id` and, named by `column_key`, the clocks and metrics. Whole numbers of one run and
    fractions of another may share a Float64 column: `dtypes` are the run's own dtypes, `stored` those of the file.
    """

    file: Path
    rows: int
    first_step: int
    last_step: int
    ascending: bool  # strictly
    dtypes: Mapping[KeyPath, str]  # of metrics
    stored: Mapping[KeyPath, str]
    file_rows: int  # of all its runs


@dataclass(frozen=True)
class History:
    """One run's rows for one of the TABLES, in the order of their steps."""

    parts: Sequence[Part] = ()
    skipped: Collection[KeyPath] = ()  # keys of what is no number
    counted: int | None = None  # rows that the source counts; None where it does not
    repeated: int = 0  # rows that came, but whose step another one has: the server counts them
    mark: tuple[str, ...] = ()  # see RunKeys

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def is_short(self) -> bool:
        return self.counted is not None and self.rows + self.repeated < self.counted


class Failure(NamedTuple):
    """What could not be had of a run (or of a file whose run is not known), while the rest went on."""

    run: str
    what: str
    error: str
    attempts: int = 1


@dataclass(frozen=True)
class Earlier:
    """A parquet file of an earlier export of the same project."""

    file: Path
    rows: Mapping[str, int]  # by run id: its rows in the file; of the runs file: its history's rows
    columns: Mapping[KeyPath, str]  # of metrics, by their W&B paths
    dtypes: Mapping[KeyPath, str]
    facts: Mapping[str, Mapping[str, str | None]]  # by column: goal, summary and step metric
    made_of: tuple[str, ...]  # see Table
    marks: Mapping[str, tuple[str, ...]]  # by run id: see RunKeys
    export_id: str | None  # None where a file of an older version, or of a killed export, has to be written anew


@dataclass
class Project:
    """A project on its way from its source to its files: each step fills in what it found or did."""

    entity: str
    name: str
    filters: Mapping[str, object] = field(default_factory=dict)  # W&B's own: which runs the server is asked for
    stem: str = ""  # what its files' names begin with
    earlier: Mapping[str, Earlier] = field(default_factory=dict)  # by the end of their names: runs, history, ...

    # From its source:
    windows: list[Window] = field(default_factory=list)  # of creation times, by which the server is asked
    last_created: datetime | None = None
    is_changing: bool = False  # runs were added or deleted while they were listed
    page_runs: int = PAGE_RUNS  # runs that a page may hold; fewer for a while after one that failed
    selected: int = 0  # runs that pass the filters
    filtered: int = 0  # and that do not
    all_ids: Collection[str] | None = None  # of all runs in the source; None where it did not tell all
    unread: Collection[str] = ()  # ids of runs of which nothing could be read: not known to be gone
    cut: Collection[str] = ()  # ids of runs whose logs were cut off: an earlier export may have more of them
    pages: list[Page] = field(default_factory=list)
    runs: pl.DataFrame = cast("pl.DataFrame", None)  # noqa: RUF009 - KEYS of the selected runs, and their `page` and `row`
    tables: dict[str, dict[str, History]] = field(default_factory=dict)  # by the end of their names, and run id
    made_of: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the tables: see Table
    goals: Mapping[str, str] = field(default_factory=dict)  # of metrics, by sweeps
    failed: list[Failure] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    planned_rows: int | None = None  # of a dry run: history rows to fetch

    # Of its files:
    files: list[dict[str, object]] = field(default_factory=list)  # as the metadata lists them
    kept: Collection[str] = ()  # ids of runs of an earlier export that are not in this one
    gone: Collection[str] = ()  # of these, the ids that the source no longer has
    mismatched: Mapping[str, int] = field(default_factory=dict)  # rows of runs that have not as many as the server
    kept_fuller: Collection[str] = ()  # ids of runs of which the earlier export has more rows
    dropped: list[str] = field(default_factory=list)  # metrics that the earlier history had
    history_rows: int = 0
    history_runs: int = 0

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.name}"

    @property
    def place(self) -> dict[str, object]:
        """The variables that every question about the project has."""
        return {"entity": self.entity, "project": self.name}

    @property
    def status(self) -> str:
        return "partial" if self.failed else "complete"


# --- log bytes to records -------------------------------------------------------------------------------------

# The transaction log: a header, then LevelDB's log format in blocks counted from the start of the file.
LOG_HEADER = bytes.fromhex("3a572642e1be00")  # ":W&B", the magic 0xBEE1 in little-endian order, version 0
BLOCK_BYTES = 32_768
CHUNK_HEADER = struct.Struct("<IHB")  # CRC-32 of kind and payload, payload's length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds: a whole record, or a part of one
KIND = re.compile(rb"[\x01-\x04]")


@dataclass
class Integrity:
    """What a reader noticed about a log, besides the records in it."""

    is_log: bool = True
    torn: bool = False  # ends in the middle of a record: what every crash leaves
    damage: list[str] = field(default_factory=list)  # places in the middle that cannot be read


def log_records(log: BinaryIO, integrity: Integrity) -> Iterator[bytes]:  # noqa: C901, PLR0912
    """The payload of every record that can be read, in order; `integrity` holds, at the end, what cannot be.

    A record counts only if its checksums hold. After damage, reading goes on at the next valid chunk. Unreadable bytes
    that nothing valid follows are a torn end.
    """
    pieces: list[bytes] | None = None  # of a record in several chunks; None: none has begun
    gap: int | None = None  # where bytes became unreadable
    offset, at = 0, len(LOG_HEADER)  # of the block in the file, and of the next chunk in the block
    while block := log.read(BLOCK_BYTES):
        if offset == 0 and not block.startswith(LOG_HEADER):
            integrity.torn = LOG_HEADER.startswith(block)  # killed within the first seven bytes
            integrity.is_log = integrity.torn or next_chunk(block, at) is not None
            if integrity.torn or not integrity.is_log:
                return
            integrity.damage.append("the header")
        while found := next_chunk(block, at):
            start, end = found
            if start > at and gap is None:
                gap = offset + at
            if gap is not None:
                integrity.damage.append(f"byte {gap}")
                pieces = gap = None
            at = end
            kind, payload = block[start + 6], block[start + CHUNK_HEADER.size : end]
            if kind in (FULL, FIRST):
                if pieces is not None:
                    integrity.damage.append(f"byte {offset + start}: the record before it has no end")
                pieces = [payload] if kind == FIRST else None
                if kind == FULL:
                    yield payload
            elif pieces is not None:
                pieces.append(payload)
                if kind == LAST:
                    yield b"".join(pieces)
                    pieces = None
            elif not integrity.damage:  # else it is the rest of a record whose loss is noted already
                integrity.damage.append(f"byte {offset + start}: a record without its beginning")
        is_padding = len(block) == BLOCK_BYTES and len(block) - at < CHUNK_HEADER.size and not any(block[at:])
        if at < len(block) and not is_padding and gap is None:
            gap = offset + at
        offset, at = offset + len(block), 0
    # Nothing behind the header: killed before the first record.
    integrity.torn |= pieces is not None or gap is not None or offset <= len(LOG_HEADER)


def next_chunk(block: bytes, at: int) -> tuple[int, int] | None:
    """Start and end of the first valid chunk from `at` on: its checksum of 32 bits makes it no coincidence."""
    for kind in KIND.finditer(block, at + 6):  # the kind is the header's seventh byte
        start = kind.start() - 6
        crc, length, _ = CHUNK_HEADER.unpack_from(block, start)
        end = kind.end() + length
        if end <= len(block) and zlib.crc32(block[start + 6 : end]) == crc:
            return start, end
    return None


# --- records to a log -----------------------------------------------------------------------------------------


@dataclass
class Log:
    """What one `.wandb` file holds."""

    file: Path
    integrity: Integrity = field(default_factory=Integrity)
    records: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)  # the last run record's plain fields
    started_at: datetime | None = None
    newest_at: datetime | None = None
    exit_code: int | None = None
    config: dict[str, object] = field(default_factory=dict)
    summary: list[tuple[KeyPath, bool, bool, object]] = field(default_factory=list)  # see read_log
    definitions: dict[str, MetricDefinition] = field(default_factory=dict)
    history: list[Part] = field(default_factory=list)
    skipped: set[KeyPath] = field(default_factory=set)
    error: str = ""  # why it could not be read

    @property
    def run_id(self) -> str:
        """From the file's name where damage or a kill took the record that holds it."""
        return str(self.run.get("id") or self.file.stem.removeprefix("run-"))

    @property
    def is_cut(self) -> bool:
        """Whether the run may have logged more than was read."""
        return self.integrity.torn or bool(self.integrity.damage or self.error) or self.exit_code is None

    def note_time(self, time_: datetime | None) -> None:
        if time_ is not None:
            self.newest_at = max(time_, self.newest_at or time_)


def read_logs(files: Sequence[Path], folder: Path, history_keys: tuple[str, ...] | None) -> list[Log]:
    """Everything that the files hold; their histories, in the files' order, as parts in `folder`.

    `history_keys`: globs of the metrics wanted, `()` for all, None for only the steps.
    """
    rows = HistoryRows(folder, history_keys)
    for file in files:
        rows.logs.append(Log(file))
        read_log(rows.logs[-1], rows)
    rows.write_part()
    return rows.logs


def read_log(log: Log, rows: HistoryRows) -> None:  # noqa: C901
    """Fill in what the log's file holds; its history goes to `rows`."""
    from google.protobuf.message import DecodeError

    proto, glance_type = wandb_proto(), glance_class()
    # The last change of each path, in the order in which they came: earlier ones have no effect. The bytes of an item
    # before its value stand for the path, and for whether the user set the value as a whole (`key`, not `nested_key`).
    changes: dict[tuple[bytes, bool], bytes] = {}
    try:
        with log.file.open("rb", buffering=32 * BLOCK_BYTES) as opened:
            for payload in log_records(opened, log.integrity):
                log.records += 1
                try:
                    glance = glance_type.FromString(payload)
                    if glance.HasField("history"):
                        rows.add(glance.history)
                    elif glance.HasField("summary"):
                        for item in glance.summary.item:
                            change = (item.rpartition(VALUE_TAG)[0] or item, False)
                            changes.pop(change, None)
                            changes[change] = item
                        for item in glance.summary.other:
                            changes.pop((item, True), None)
                            changes[item, True] = item
                    else:
                        apply_record(log, proto.Record.FromString(payload))
                except DecodeError as error:
                    for column in rows.columns.values():  # take back what was added of the row
                        del column[len(rows.owners) :]
                    log.integrity.damage.append(f"record {log.records}: {error}")
    except OSError as error:
        log.error = f"cannot be read: {error.strerror or error}"
    for (_, removed), encoded in changes.items():
        try:
            item = proto.SummaryItem.FromString(encoded)
        except DecodeError as error:
            log.integrity.damage.append(f"the summary: {error}")
        else:
            value = None if removed else from_json(item.value_json)
            log.summary.append((path_of(item), not item.nested_key, removed, value))


def apply_record(log: Log, record: Any) -> None:
    """Take from a record, other than of history and summary, what an export needs."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        # It comes again, whole, when name, notes or tags change, but with large ints as floats in its config.
        run = record.run
        config: dict[str, object] = {}
        for item in run.config.update:
            put(config, path_of(item), from_json(item.value_json))
        log.config = config | log.config
        log.started_at = log.started_at or time_at(run.start_time.seconds, run.start_time.nanos)
        log.note_time(log.started_at)
        log.run = {
            "id": run.run_id,
            "entity": run.entity,
            "project": run.project if run.project != NO_PROJECT else "",
            "name": run.display_name,
            "notes": run.notes,
            "tags": tuple(run.tags),
            "group": run.run_group,
            "job_type": run.job_type,
            "sweep": run.sweep_id,
            "commit": run.git.commit,
            "resumed": run.resume or run.resumed,
            "offline": run.telemetry.feature.offline,
            "rewound_to": run.branch_point.value if run.branch_point.run == run.run_id != "" else None,
        }
    elif kind == "config":
        for item in record.config.update:
            put(log.config, path_of(item), from_json(item.value_json))
        for item in record.config.remove:
            remove(log.config, path_of(item))
    elif kind == "metric":
        metric = record.metric
        pattern = metric.name or metric.glob_name
        known = log.definitions.get(pattern, MetricDefinition(pattern, None, None, None))  # later ones add to it
        kinds = ",".join(kind for kind in SUMMARY_KINDS if getattr(metric.summary, kind))
        log.definitions[pattern] = MetricDefinition(
            pattern, GOALS.get(metric.goal, known.goal), kinds or known.summary, metric.step_metric or known.step_metric
        )
    elif kind == "exit":
        log.exit_code = record.exit.exit_code
        if log.started_at is not None:
            log.note_time(log.started_at + timedelta(seconds=record.exit.runtime))
    elif kind in ("stats", "output_raw"):
        timestamp = getattr(record, kind).timestamp
        log.note_time(time_at(timestamp.seconds, timestamp.nanos))


def path_of(item: Any) -> KeyPath:
    return tuple(item.nested_key) or (item.key,)


def put(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set the value at `path`; what is no dict on the way there gives way to one."""
    for key in path[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[path[-1]] = value


def remove(tree: dict[str, Any], path: KeyPath) -> None:
    """Remove what is at `path`, if anything is."""
    for key in path[:-1]:
        tree = tree.get(key, {})
        if not isinstance(tree, dict):
            return
    tree.pop(path[-1], None)


def from_json(text: str) -> object:
    """The value of W&B's JSON, which has bare NaN and Infinity; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def time_at(seconds: float | None, nanos: int = 0) -> datetime | None:
    """Time since 1970 in UTC; None where it is not set or no date."""
    try:
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None


# --- history items, the bulk of a log: kept as bytes, parsed by the column ------------------------------------

VALUE_TAG = b"\x82\x01"  # the protobuf tag of `value_json` (field 16, length-delimited), which comes last in an item
DROPPED: list[bytes | None] = []  # stands for the column of a key that is not wanted

# The same record seen with its history and summary items left as bytes: protobuf lets a `bytes` field stand for an
# embedded message. A training log is nearly all such items; as bytes they cost a third of what as many objects would.
GLANCE = """
    name: "wandb_tools/glance.proto" package: "wandb_tools"
    message_type {
      name: "Items"
      field { name: "item" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
      field { name: "other" number: 2 label: LABEL_REPEATED type: TYPE_BYTES }  # a row's step, or summary items removed
    }
    message_type {
      name: "Glance"
      field { name: "history" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".wandb_tools.Items" }
      field { name: "summary" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".wandb_tools.Items" }
    }
"""


@cache
def glance_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(GLANCE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("wandb_tools.Glance"))


@cache
def wandb_proto() -> Any:
    """The SDK's module of record classes, without the SDK's other 0.8 s of imports.

    It is no public part of wandb: the log format has none. The package's own `__init__` is passed over by an empty
    stand-in while the module loads.
    """
    if "wandb" in sys.modules:
        return importlib.import_module("wandb.proto.wandb_internal_pb2")
    spec = importlib.util.find_spec("wandb")
    sys.modules["wandb"] = types.ModuleType("wandb")
    sys.modules["wandb"].__path__ = list(spec.submodule_search_locations or ()) if spec else []
    try:
        return importlib.import_module("wandb.proto.wandb_internal_pb2")
    finally:
        del sys.modules["wandb"]


class HistoryRows:
    """Collects the history rows of logs column by column, and writes them to part files whenever enough have come.

    A column is a list of the values' JSON, each after one byte (its length), None where a row lacks the key; it may be
    shorter than there are rows, until the part is written.
    """

    def __init__(self, folder: Path, history_keys: tuple[str, ...] | None) -> None:
        self.proto = wandb_proto()
        self.folder = folder
        self.history_keys = history_keys
        self.logs: list[Log] = []  # the last is the one that is read
        self.start_part()

    def start_part(self) -> None:
        self.owners: list[int] = []  # of each row: the number of its log
        self.items = 0
        self.columns: dict[KeyPath, list[bytes | None]] = {clock: [] for clock in CLOCKS}
        self.by_keys: dict[bytes, list[bytes | None]] = {}

    def add(self, row: Any) -> None:
        """Add one row; `row` is a history record of GLANCE."""
        rows, by_keys, steps = len(self.owners), self.by_keys, self.columns[("_step",)]
        for item in row.item:
            keys, _, value = item.rpartition(VALUE_TAG)
            column = by_keys.get(keys)
            if column is None or not value or value[0] != len(value) - 1:
                column, value = self.parsed(item, keys)
            if column is DROPPED:
                continue
            missing = rows - len(column)
            if missing > 0:
                column.extend([None] * missing)
            elif missing < 0:  # the key twice in one row: the later value holds
                column.pop()
            column.append(value)
        if len(steps) == rows:
            steps.append(b"\0%d" % self.proto.HistoryStep.FromString(b"".join(row.other)).num)
        self.owners.append(len(self.logs) - 1)
        self.items += len(row.item)
        if self.items >= PART_ITEMS or len(self.owners) * len(self.columns) >= PART_CELLS:
            self.write_part()

    def parsed(self, item: bytes, keys: bytes) -> tuple[list[bytes | None], bytes]:
        """Column and value of an item whose keys are new, or whose value is not short JSON."""
        parsed = self.proto.HistoryItem.FromString(item)
        path = path_of(parsed)
        column = self.columns.setdefault(path, []) if self.is_wanted(path) else DROPPED
        # Items of one metric begin with the same bytes, so that its keys are parsed once: if these bytes are the keys.
        if self.proto.HistoryItem(key=parsed.key, nested_key=parsed.nested_key).SerializeToString() == keys:
            self.by_keys[keys] = column
        text = parsed.value_json
        if not text:  # written in typed fields, a setting of the SDK
            kind = parsed.WhichOneof("value") or "none"
            text = parsed.json if kind == "json" else json.dumps(getattr(parsed, kind) if kind != "none" else None)
        if len(text) > 100 and text[0] in '"[{':  # not a number: which text it is does not matter
            text = '"…"'
        return column, b"\0" + text.encode()

    def is_wanted(self, path: KeyPath) -> bool:
        if path in CLOCKS:
            return True
        if path[0].startswith("_"):
            self.logs[-1].skipped.add(path)
            return False
        return self.history_keys is not None and (
            not self.history_keys or path[-1] == "_type" or names_match(path, self.history_keys)
        )

    def write_part(self) -> None:
        """Write the numbers of the rows as part files, and tell each log its parts and what was left out.

        Logs share a file, but for those of a run that the file holds already, and those with whole numbers that would
        not be exact in a column that others make Float64.
        """
        if not self.owners:
            return
        owners, rows = pl.Series("log", self.owners), len(self.owners)
        paths = {column_key(path): path for path in sorted(self.columns)}
        padded = {name: self.columns[path] + [None] * (rows - len(self.columns[path])) for name, path in paths.items()}
        texts = pl.DataFrame(padded, schema=dict.fromkeys(padded, pl.Binary))
        texts = texts.select(pl.all().cast(pl.String, strict=False).str.slice(1).replace("null", None))

        # What is below a media object, which has a `_type`, is no metric.
        media = {path[:-1]: name for name, path in paths.items() if len(path) > 1 and path[-1] == "_type"}
        objects = counts_by(owners, texts.select(media.values()))
        outside = []
        for name, path in paths.items():
            above = [media[path[:depth]] for depth in range(1, len(path)) if path[:depth] in media]
            if above:
                outside.append(pl.when(pl.all_horizontal(pl.col(above).is_null())).then(pl.col(name)).alias(name))
        texts = texts.with_columns(outside)

        integers, floats = json_numbers(texts)
        logged, whole, numeric = (counts_by(owners, frame) for frame in (texts, integers, floats))
        metrics = pl.exclude("log", *map(column_key, CLOCKS))
        is_inexact = pl.any_horizontal(pl.lit(value=False), metrics.abs() > EXACT_FLOAT)
        alone = set(integers.with_columns(owners).filter(is_inexact)["log"])
        dtypes: dict[int, dict[KeyPath, str]] = {}
        run_ids: dict[int, str] = {}
        for number in logged:
            log = self.logs[number]
            if log.run_id in run_ids.values():
                alone.add(number)
            run_ids[number] = log.run_id
            log.skipped |= {paths[name] for name, count in logged[number].items() if count > numeric[number][name]}
            log.skipped |= {top for top, name in media.items() if objects[number][name] and self.is_wanted(top)}
            dtypes[number] = {
                paths[name]: "Int64" if whole[number][name] == count else "Float64"
                for name, count in numeric[number].items()
                if count and paths[name] not in CLOCKS
            }

        for members in ([number for number in dtypes if number not in alone], *([number] for number in alone)):
            stored = widest_dtypes(dtypes[number] for number in members)
            columns = {("_step",): "Int64", ("_runtime",): "Float64", ("_timestamp",): "Float64"} | stored
            series = [(integers if dtype == "Int64" else floats)[column_key(path)] for path, dtype in columns.items()]
            part = pl.DataFrame([owners, *series]).filter(pl.col("log").is_in(members))
            file = self.folder / f"{uuid.uuid4().hex}.parquet"
            run_id = pl.col("log").replace_strict(run_ids, return_dtype=pl.String).alias("run_id")
            by_id = part.select(run_id, pl.exclude("log")).sort("run_id", maintain_order=True)
            write_intermediate(by_id, file)
            newest_s = pl.col(column_key(("_timestamp",))).max().alias("newest_s")
            for facts in part.group_by("log").agg(newest_s, *step_facts()).iter_rows(named=True):
                number = facts.pop("log")
                log = self.logs[number]
                log.note_time(time_at(facts.pop("newest_s")))
                log.history.append(Part(file, **facts, dtypes=dtypes[number], stored=stored, file_rows=part.height))
        self.start_part()


def counts_by(owners: pl.Series, frame: pl.DataFrame) -> dict[int, dict[str, int]]:
    """How many values, other than null, each column has in the rows of each owner."""
    counts = pl.DataFrame([owners, *frame]).group_by("log", maintain_order=True).agg(pl.all().count())
    return {row.pop("log"): row for row in counts.iter_rows(named=True)}


def widest_dtypes(sources: Iterable[Mapping[KeyPath, str]]) -> dict[KeyPath, str]:
    """The dtype that holds each metric in all sources: whole numbers beside fractions are Float64."""
    dtypes: dict[KeyPath, str] = {}
    for path, dtype in (item for source in sources for item in source.items()):
        dtypes[path] = "Int64" if dtype == dtypes.get(path, dtype) == "Int64" else "Float64"
    return dtypes


def step_facts() -> list[pl.Expr]:
    """Rows (UInt32), first and last step (Int64), and whether the steps ascend strictly, as Part has them."""
    step = pl.col(column_key(("_step",)))
    return [
        pl.len().alias("rows"),
        step.min().fill_null(0).alias("first_step"),
        step.max().fill_null(0).alias("last_step"),
        (step.diff().drop_nulls() > 0).all().alias("ascending"),
    ]


def json_numbers(texts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The numbers in JSON texts as Int64 and as Float64; null where a text is none.

    Booleans are 0 and 1; the texts "NaN", "Infinity" and "-Infinity" are numbers.
    """
    spelt = texts.select(pl.all().replace({"true": "1", "false": "0"} | {f'"{name}"': name for name in NON_FINITE}))
    return spelt.select(pl.all().cast(pl.Int64, strict=False)), spelt.select(pl.all().cast(pl.Float64, strict=False))


def write_intermediate(frame: pl.DataFrame | pl.LazyFrame, file: Path, **metadata: str) -> None:
    """Write a file of the working folder; ScriptError if there is no place for it."""
    try:
        frame.lazy().sink_parquet(file, compression="lz4", statistics=False, metadata=metadata)
    except (OSError, pl.exceptions.ComputeError) as error:  # the disk is full, which polars may call either
        message = f"{file.parent} cannot be written to ({error}); free the place or choose another with -o"
        raise ScriptError(message, NOTHING_USABLE) from error


def column_key(path: KeyPath) -> str:
    """The name of a path's column in our own intermediate files: unique, whatever the keys hold."""
    return json.dumps(path)


def names_match(path: KeyPath, globs: Iterable[str]) -> bool:
    """Whether a metric matches one of the patterns, by its W&B name or its flattened one."""
    names = (".".join(path), column_name(path))
    return any(matches(name, glob) for glob in globs for name in names)


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- offline source -------------------------------------------------------------------------------------------


class FoundRun(NamedTuple):
    """A run, its history, and the logs that both were read from."""

    run: Run
    history: History
    logs: Sequence[Log]


def read_offline(options: Options, work: Path, say: Say) -> list[Project]:
    """The projects below the folder that are asked for: their selected runs as pages, their histories as parts."""
    folder = cast("Path", options.offline)
    files, failed = find_logs(folder, say)
    sees_all = not failed
    logs = read_side_by_side(files, options, work)
    torn: list[str] = []
    by_run: dict[tuple[str, str, str], list[Log]] = {}  # one id may occur in several projects
    any_record = {log.run_id: log.run for log in reversed(logs) if log.run}  # for logs that lost theirs to damage
    for log in logs:
        if log.records:
            record = log.run or any_record.get(log.run_id, {})
            entity_name = record.get("entity") or stand_in(options.selection.entity, NO_ENTITY)
            project_name = record.get("project") or stand_in(options.selection.project, NO_PROJECT)
            by_run.setdefault((log.run_id, entity_name, project_name), []).append(log)
            continue
        shown = relative(log.file, folder)
        if not log.integrity.is_log:
            say(f"skipped: {shown} is no W&B run log")
        elif log.integrity.torn:
            torn.append(shown)
            say(f"torn: {shown} ends in the middle of a record, as a crash leaves it; nothing was recorded before")
        failed += failures_of(log, folder, shown)
    found = [combined(*names, of_run, work, say) for names, of_run in sorted(by_run.items())]

    kept = runs_asked_for(found, failed, options, say)
    projects = []
    for entity, name in sorted({(run.entity, run.project) for run, *_ in kept}):
        mine = [each for each in kept if (each.run.entity, each.run.project) == (entity, name)]
        ids = {run.id for run, *_ in found if (run.entity, run.project) == (entity, name)}
        project = Project(entity, name, failed=[*failed], torn=[*torn])
        project.unread = {log.run_id for log in logs if not log.records}
        project.all_ids = ids if sees_all else None
        project.selected, project.filtered = len(mine), len(ids) - len(mine)
        project.cut = {
            run.id for run, _, its_logs in mine if any(log.is_cut for log in its_logs) or its_logs[0].run.get("resumed")
        }
        for run, _, its_logs in mine:
            for log in its_logs:
                project.failed += failures_of(log, folder, run.id)
                if log.integrity.torn:
                    shown, rows = relative(log.file, folder), sum(part.rows for part in log.history)
                    kept_rows = f"the {rows:,} history rows before are kept"
                    say(f"torn: {shown} ends in the middle of a record, as a crash leaves it; {kept_rows}")
                    project.torn.append(shown)
        project.torn.sort()
        if options.include_history and not options.dry_run:
            project.tables["history"] = {run.id: history for run, history, _ in mine}
            project.made_of["history"] = options.history_keys
        project.pages = [write_page([run for run, *_ in some], work) for some in chunks(mine, PAGE_RUNS)]
        project.runs = keys_of(project.pages)
        projects.append(project)
    return projects


def find_logs(folder: Path, say: Say) -> tuple[list[Path], list[Failure]]:
    """Every `.wandb` file at or below `folder`, once, though links may lead to it more than once, sorted by name;
    and the folders that cannot be read.
    """
    if folder.is_file():
        return [folder], []
    if not folder.is_dir():
        raise ScriptError(f"no folder {folder}; name the one that holds offline-run-* or run-* folders", NOTHING_USABLE)
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
        if not logs and re.match(r"(offline-)?run-\d{8}_\d{6}-", Path(parent).name):
            say(f"skipped: {relative(Path(parent), folder)} is a run's folder without a log")
    failed = [
        Failure(relative(Path(error.filename), folder), "folder", f"cannot be read: {error.strerror}")
        for error in errors
    ]
    if not found:
        why = f" ({errors[0].filename} {failed[0].error})" if failed else ""
        raise ScriptError(f"no W&B run logs (*.wandb) below {folder}{why}; name another folder", NOTHING_USABLE)
    return sorted(found.values()), failed


def relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file != folder and file.is_relative_to(folder) else file.name


def read_side_by_side(files: Sequence[Path], options: Options, work: Path) -> list[Log]:
    """The logs, in the files' order; where they are many bytes, by several processes, the largest first.

    Small logs are read together and share part files, which hold the runs in the order of their ids, as the history
    file does.
    """
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor  # which a server needs not
    from multiprocessing import active_children, get_context

    keys = options.history_keys if options.include_history and not options.dry_run else None
    tasks: list[tuple[int, list[Path]]] = []  # bytes and logs
    for file in sorted(files, key=lambda file: (file.stem, file)):
        size = 0
        with suppress(OSError):
            size = file.stat().st_size
        if tasks and tasks[-1][0] + size <= TASK_BYTES and len(tasks[-1][1]) < TASK_LOGS:
            tasks[-1] = (tasks[-1][0] + size, [*tasks[-1][1], file])
        else:
            tasks.append((size, [file]))
    tasks.sort(key=lambda task: -task[0])
    processes = min(options.workers or os.cpu_count() or 1, len(tasks))
    logs: dict[Path, Log] = {}
    with Meter(quiet=options.quiet) as meter, ExitStack() as stack:
        meter.add(runs_wanted=len(files))
        batches: Iterable[list[Log]] = (read_logs(some, work, keys) for _, some in tasks)
        if processes > 1 and sum(size for size, _ in tasks) >= MANY_BYTES:
            pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=prepare_process)
            stack.callback(pool.shutdown, cancel_futures=True)
            batches = pool.map(read_logs, [some for _, some in tasks], itertools.repeat(work), itertools.repeat(keys))
        try:
            for batch in batches:
                logs |= {log.file: log for log in batch}
                meter.add(runs=len(batch))
        except BrokenProcessPool as error:
            message = "a process that read logs died, of too little memory perhaps; try --workers 1"
            raise ScriptError(message, NOTHING_USABLE) from error
        finally:
            for process in active_children() if len(logs) < len(files) else ():  # Ctrl-C waits for none of them
                process.kill()
    return [logs[file] for file in files]


def prepare_process() -> None:
    """Of a process that reads logs: it leaves Ctrl-C to its parent, and ends with it."""
    from multiprocessing import parent_process

    import_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        cast("Any", parent_process()).join()
        os._exit(NOTHING_USABLE)

    threading.Thread(target=end_with_parent, daemon=True).start()


def failures_of(log: Log, folder: Path, run: str) -> list[Failure]:
    """Why the log, or some of it, could not be read; a torn end is no failure."""
    errors = [log.error] if log.error else []
    if places := log.integrity.damage:
        where = ", ".join(places[:3]) + (f" and {len(places) - 3} more places" if len(places) > 3 else "")
        errors.append(f"damaged log {relative(log.file, folder)}: unreadable at {where}; the rest is kept")
    return [Failure(run, "log", error) for error in errors]


def stand_in(chosen: Sequence[str], default: str) -> str:
    """What stands for an entity or project that a log does not name: the one that was asked for, if it is plain."""
    return storable(chosen[0]) if len(chosen) == 1 and not is_glob(chosen[0]) else default


def runs_asked_for(
    found: Sequence[FoundRun], failed: Sequence[Failure], options: Options, say: Say
) -> Sequence[FoundRun]:
    """The runs that are asked for. What each filter keeps is said; ScriptError if none is left."""
    selection = options.selection
    entities = [entity.lower() for entity in selection.entity]
    kept = [
        each
        for each in found
        if (not entities or each.run.entity.lower() in entities)
        and (not selection.project or any(matches(each.run.project, glob) for glob in selection.project))
    ]
    if not kept:
        places = sorted({f"{run.entity}/{run.project}" for run, *_ in found})
        there = f"there is {', '.join(places[:5])}" if places else "nothing was recorded in these logs"
        reasons = "; ".join([there, *(f"{failure.run}: {failure.error}" for failure in failed[:3])])
        raise ScriptError(f"no runs to export: {reasons}; see -e and -p", NOTHING_USABLE)
    filters: list[tuple[str, Any, Callable[[Run, Any], bool]]] = [
        ("--since", selection.since, lambda run, since: (run.created_at or EPOCH) >= since),
        ("--until", selection.until, lambda run, until: (run.created_at or EPOCH) < until),
        ("--active-since", selection.active_since, lambda run, since: (run.heartbeat_at or EPOCH) >= since),
        ("--state", selection.state, lambda run, states: run.state in states),
        ("--tag", selection.tag, lambda run, tags: not set(run.tags).isdisjoint(tags)),
        ("--group", selection.group, lambda run, groups: run.group in groups),
        ("--sweep", selection.sweep, lambda run, sweeps: run.sweep in sweeps),
    ]
    for flag, wanted, test in filters:
        if not wanted:
            continue
        before, kept = kept, [each for each in kept if test(each.run, wanted)]
        say(f"{flag} kept {len(kept):,} of {len(before):,} runs")
        if not kept:
            folder = cast("Path", options.offline)
            damage = [each for run, _, logs in before for log in logs for each in failures_of(log, folder, run.id)]
            report_failures([*failed, *damage])  # may be why none is left
            advice = "loosen it, or see what there is with --dry-run"
            raise ScriptError(f"{flag} leaves no run of {len(before):,}; {advice}", NOTHING_USABLE)
    return kept


# --- offline source: the logs of one run ----------------------------------------------------------------------


def combined(run_id: str, entity: str, project: str, logs: Sequence[Log], work: Path, say: Say) -> FoundRun:
    """One run from its logs: later ones add to or override the earlier. Of copies of a log, the longest counts."""
    by_start: dict[object, Log] = {}
    for log in sorted(logs, key=lambda log: (log.started_at or log.newest_at or EPOCH, log.file)):
        start = log.started_at or log.file
        if start not in by_start or by_start[start].records < log.records:
            by_start[start] = log
    logs = [*by_start.values()]
    record: dict[str, Any] = {}
    given: dict[str, object] = {}
    definitions: dict[str, MetricDefinition] = {}
    for log in logs:
        record |= {name: value for name, value in log.run.items() if value}
        given |= log.config
        definitions |= log.definitions
    config = cast("dict[str, object]", jsonable(without_notes(given)))
    parts = consecutive_parts(run_id, logs, work, say)
    summary = folded_summary(logs, parts)
    times = [log.newest_at for log in logs if log.newest_at is not None]
    heartbeat_at = max(times, default=None)
    run = Run(
        id=run_id,
        name=record.get("name", run_id),
        state=offline_state(logs[-1].exit_code, heartbeat_at),
        entity=entity,
        project=project,
        created_at=logs[0].started_at or min(times, default=None),  # damage may have taken the start
        heartbeat_at=heartbeat_at,
        runtime_s=runtime_s(summary),
        last_step=parts[-1].last_step if parts else None,
        history_rows=sum(part.rows for part in parts),
        tags=record.get("tags", ()),
        group=record.get("group"),
        job_type=record.get("job_type"),
        sweep=record.get("sweep"),
        user=None,
        notes=record.get("notes"),
        commit=record.get("commit"),
        url=None,
        exported_at=now(),
        config_json=valid_json(config),
        summary_json=valid_json(summary),
        leaves=[*flatten(config, (CONFIG,)), *numeric_leaves(summary, (METRIC,))],
        definitions=[definitions[pattern] for pattern in sorted(definitions)],
    )
    return FoundRun(run, History(parts, {path for log in logs for path in log.skipped}), logs)


def offline_state(exit_code: int | None, heartbeat_at: datetime | None) -> str:
    """The state by the exit code; without one, by the newest time inside the log.

    >>> offline_state(0, None), offline_state(1, None), offline_state(None, None)
    ('finished', 'failed', 'crashed')
    """
    if exit_code is None:
        is_fresh = heartbeat_at is not None and abs(now() - heartbeat_at) < FRESH  # a clock may go wrong either way
        return "running" if is_fresh else "crashed"
    return {0: "finished", 254: "crashed"}.get(exit_code, "failed")  # 254: the SDK found it dead


def without_notes(config: Mapping[str, object]) -> dict[str, object]:
    """The config without what W&B noted in it for itself."""
    return {key: value for key, value in config.items() if key not in NOT_CONFIG}


def folded_summary(logs: Sequence[Log], parts: Sequence[Part]) -> dict[str, Any]:
    """The summary that W&B would hold after these logs, keys sorted (the log's order is random)."""
    summary: dict[str, Any] = {}
    set_whole: set[KeyPath] = set()  # dicts that the user set as one value; a deeper path set later replaces them
    for path, whole, removed, value in (change for log in logs for change in log.summary):
        for above in (path[:depth] for depth in range(1, len(path))):
            if above in set_whole:
                set_whole.discard(above)
                put(summary, above, {})
        set_whole.discard(path)
        if removed:
            remove(summary, path)
        else:
            put(summary, path, value)
            set_whole |= {path} if whole else set()
    if len(logs) > 1 and parts and "_step" in summary:
        summary["_step"] = parts[-1].last_step
    return dict(sorted(summary.items()))


def runtime_s(summary: Mapping[str, Any]) -> float | None:
    """Seconds of run time by the summary's `_wandb.runtime`, else its `_runtime`."""
    wandb = summary.get("_wandb")
    for value in (wandb.get("runtime") if isinstance(wandb, dict) else None, summary.get("_runtime")):
        if isinstance(value, int | float):
            return float(value)
    return None


def consecutive_parts(run_id: str, logs: Sequence[Log], work: Path, say: Say) -> Sequence[Part]:
    """The parts of a run in the order of their steps, each step once.

    The steps of a resumed offline log follow the last one before it, as `wandb sync` would place them. A rewound run
    loses the rows after the step to which it went back. Any other step that comes again replaces the earlier row.
    """
    step = pl.col(column_key(("_step",)))

    def rewritten(parts: Sequence[Part], *, until: float = math.inf, shift: int = 0) -> Part:
        """The rows of parts up to a step, with shifted steps, as one part by step; of equal steps the last."""
        dtypes = widest_dtypes(part.dtypes for part in parts)
        frames = []
        for part in parts:
            numbers = [pl.col(column_key(path)).cast(getattr(pl, dtype)) for path, dtype in part.dtypes.items()]
            rows = pl.scan_parquet(part.file, glob=False).filter(pl.col("run_id") == run_id)
            frames.append(rows.select("run_id", *map(column_key, CLOCKS), *numbers))
        file = work / f"{uuid.uuid4().hex}.parquet"
        rows = pl.concat(frames, how="diagonal_relaxed").filter(step <= until).with_columns(step + shift)
        write_intermediate(rows.unique(step, keep="last", maintain_order=True).sort(step), file)
        facts = pl.scan_parquet(file, glob=False).select(step_facts()).collect().row(0, named=True)
        return Part(file, **facts, dtypes=dtypes, stored=dtypes, file_rows=facts["rows"])

    parts: list[Part] = []
    for log in logs:
        new = log.history
        back_to = log.run.get("rewound_to")
        # The log of an online run, resumed, goes on where the server was: only offline ones count from 0 again.
        is_offline = log.run.get("offline") or log.file.parent.name.startswith("offline-run-")
        if back_to is not None:
            parts = [part for part in parts if part.first_step <= back_to]
            parts = [part if part.last_step <= back_to else rewritten([part], until=int(back_to)) for part in parts]
        elif log.run.get("resumed") and is_offline and parts:
            last_step = max(part.last_step for part in parts)
            new = [rewritten([part], shift=last_step + 1) for part in new]
        parts += new
    ascends = all(one.last_step < other.first_step for one, other in itertools.pairwise(parts))
    if ascends and all(part.ascending for part in parts):
        return parts
    unique = rewritten(parts)
    if again := sum(part.rows for part in parts) - unique.rows:
        say(f"run {run_id}: {again:,} steps were logged again by a later log; the later rows are kept")
    return [unique]


# --- the server: its address and the key ----------------------------------------------------------------------

FORGE = "forge.coreweave.com"  # W&B's own server
CLOUD_URL = f"https://api.{FORGE}"
CLOUD_HOSTS = (f"api.{FORGE}", "api.wandb.ai")  # where it answers questions
PAGE_HOSTS = (FORGE, "wandb.ai", "www.wandb.ai", "app.wandb.ai")  # where its pages are, or were


def base_url() -> str:
    """The server's address, found as the SDK finds it, without a password, and without a slash at the end."""
    given = (os.environ.get("WANDB_BASE_URL") or sdk_setting("base_url") or CLOUD_URL).strip().rstrip("/")
    url = re.fullmatch(r"(https?://)(?:[^/]*@)?([^/@?#\s]+)([^@?#\s]*)", given)
    if url is None or (url[1] == "http://" and url[2] in CLOUD_HOSTS):
        raise ScriptError(f"WANDB_BASE_URL is unusable; write a server's URL, such as {CLOUD_URL}", NOTHING_USABLE)
    return CLOUD_URL if url[2] in PAGE_HOSTS else "".join(url.groups())


def page_url(base_url: str) -> str:
    """Where the server at `base_url` shows its pages, without a slash at the end."""
    if base_url.partition("://")[2] in CLOUD_HOSTS:
        return f"https://{FORGE}/wandb"
    return base_url.replace("://api.", "://" if "://api.wandb." in base_url else "://app.")


def sdk_setting(name: str) -> str | None:
    """A value from the SDK's settings files; the one of the working folder goes before the user's."""
    settings = configparser.ConfigParser(interpolation=None)
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for file in (f"{user}/settings", "wandb/settings", ".wandb/settings"):
        with suppress(configparser.Error, UnicodeDecodeError):  # the SDK passes over what it cannot read, too
            settings.read(os.path.expanduser(file), encoding="utf-8")  # noqa: PTH111 - there may be no home
    return settings.get("default", name, fallback=None)


def netrc_key(base_url: str) -> str | None:
    """What `wandb login` stored for the server; None if nothing, or nothing readable, is there."""
    host = base_url.partition("://")[2].partition("/")[0]
    names = (host, "api.wandb.ai") if host in CLOUD_HOSTS else (host,)
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file, name in itertools.product(files, names):
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            if entry := netrc.netrc(os.path.expanduser(file)).authenticators(name):  # noqa: PTH111
                return entry[2]
    return None


def api_key(file: Path | None, base_url: str) -> str:
    """The API key for the server: from `file`, WANDB_API_KEY, netrc or the SDK's settings, the first that has one."""
    where, how = f"for {base_url}", "run `wandb login`, set WANDB_API_KEY or name a file with --api-key-file"
    if file:
        key, where = file.read_text("utf-8", errors="replace"), f"in {file}"
    elif os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        raise ScriptError(f"WANDB_IDENTITY_TOKEN_FILE is not supported: unset it, and {how}", NOTHING_USABLE)
    else:
        key = os.environ.get("WANDB_API_KEY") or netrc_key(base_url) or sdk_setting("api_key") or ""
    key = key.strip()
    if not re.fullmatch(r"[\w-]{40,}|([\w-]+\.){2}[\w-]+", key, re.ASCII):
        what = f"unusable API key (of {len(key)} characters, not 40 or more letters and digits)"
        raise ScriptError(f"{what if key else 'no API key'} {where}; {how}", NOTHING_USABLE)
    return key


# --- the server: requests, in bounded time --------------------------------------------------------------------

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 30.0  # between two tries: each wait is four times the one before
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # of all threads, for a busy server; a longer one looks like a hang
LEAST_BYTES_S = 10_000  # a slower answer is given up once the timeout is over
SIGN_IN_LIMIT_S = 6  # for the first question: a server that cannot be reached is named within 10 s


class RequestError(Exception):
    """A request that failed, and why, without its URL, which may be signed."""

    def __init__(self, message: str, *, status: int = 0, retries: int = 100, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status  # HTTP's; 0 without an answer
        self.retries = retries  # how often trying again may help
        self.pause_s = pause_s  # how long a busy server is to be left alone
        self.attempts = 1


class Client:
    """Asks one server, from many threads, with a key or without any credentials."""

    def __init__(self, url: str, key: str | None, *, timeout_s: float, retries: int, threads: int, say: Say) -> None:
        self.base_url, self.timeout_s, self.retries, self.say = url, timeout_s, retries, say
        self.resume_at = 0.0  # by time.monotonic(): no request starts earlier
        self.failures, self.most_failures = 0, 2 * threads  # in a row, before the server is asked no more
        self.session = requests.Session()
        self.session.trust_env = False  # else it sends what netrc has for a host
        self.session.auth = ("api", key) if key else None
        self.session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true", "t", "yes", "y", "on"):
            self.session.verify = False
            urllib3.disable_warnings()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=threads))

    def ask(self, question: str, variables: Mapping[str, Any], *, limit_s: float = math.inf) -> Any:
        """The `data` of GraphQL's answer; RequestError without one."""
        return self.retry(lambda timeout_s: self.ask_once(question, variables, timeout_s), limit_s=limit_s)

    def ask_once(self, question: str, variables: Mapping[str, Any], timeout_s: float, parse: Parse = json.loads) -> Any:
        """The same without another try; an error that GraphQL states is worth one more."""
        content, url = {"query": question, "variables": variables}, f"{self.base_url}/graphql"
        body = b"".join(self.pieces("POST", url, timeout_s, json=content, allow_redirects=False))
        try:
            answer = parse(body)
        except ValueError as error:
            raise RequestError("an answer that is no JSON, or was cut short") from error
        if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
            raise RequestError(stated_error(body) or "an answer without data", status=200, retries=1)
        return answer["data"]

    def retry(self, attempt: Callable[[float], Found], *, limit_s: float = math.inf) -> Found:
        """What `attempt(timeout_s)` returns; after a RequestError it is tried again, as long as that may help.
        A thread whose request fails waits by itself; while a server is busy, all wait. `limit_s` is without the waits.
        """
        number = 0
        while self.failures < self.most_failures:
            while (wait_s := self.resume_at - time.monotonic()) > 0:
                time.sleep(wait_s)
            started = time.monotonic()
            try:
                return attempt(min(self.timeout_s, limit_s))
            except RequestError as error:
                number, limit_s = number + 1, limit_s - (time.monotonic() - started)
                error.attempts = max(error.attempts, number)
                if number > min(error.retries, self.retries) or limit_s < FIRST_WAIT_S:
                    self.failures = self.failures + 1 if error.retries > 1 else 0  # 0 and 1: the server has answered
                    error.retries = 0  # whoever catches it need not try again
                    raise
                wait_s = max(error.pause_s, min(FIRST_WAIT_S * 4.0 ** (number - 1), LONGEST_WAIT_S))
                if not error.pause_s:
                    time.sleep(wait_s)
                elif time.monotonic() + wait_s > self.resume_at + SHORTEST_PAUSE_S:  # said once, not by each thread
                    self.resume_at = time.monotonic() + wait_s
                    self.say(f"the server is busy (HTTP {error.status}): waiting {wait_s:.0f} s")
        raise RequestError("not asked, as the server no longer answers", retries=0)

    def pieces(self, method: str, url: str, timeout_s: float, **how: Any) -> Iterator[bytes]:
        """The body of a successful answer, piece by piece; how long it may take grows with how much has come."""
        started, received = time.monotonic(), 0
        how |= {"stream": True, "timeout": timeout_s, "proxies": requests.utils.get_environ_proxies(url)}
        try:
            with self.session.request(method, url, **how) as answer:
                if answer.status_code >= 300:
                    raise status_error(answer)
                while piece := answer.raw.read1(1 << 20, decode_content=True):
                    yield piece
                    received += len(piece)
                    if time.monotonic() - started > timeout_s + received / LEAST_BYTES_S:
                        raise RequestError(f"{received:,} bytes in {timeout_s:.0f} s are too slow")
                self.failures = 0
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise RequestError(f"no answer within {timeout_s:.0f} s") from error
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own are OSErrors
            cause: BaseException = error
            while deeper := cause.__cause__ or cause.__context__:
                cause = deeper
            why = getattr(cause, "strerror", None) or type(error).__name__  # more than that may hold the URL
            raise RequestError(f"the connection failed ({why})") from error


def status_error(answer: requests.Response) -> RequestError:
    """What an answer says that is no success, and whether and when to ask again."""
    status, after, pause_s = answer.status_code, answer.headers.get("Retry-After", ""), 0.0
    message = f"{stated_error(answer.raw.read1(1 << 20, decode_content=True)) or answer.reason} (HTTP {status})"
    if status not in (408, 429) and status < 500:
        return RequestError(message, status=status, retries=0)
    if after or status in (429, 503):
        pause_s = min(max(float(after) if after.isdecimal() else 0.0, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
    return RequestError(message, status=status, pause_s=pause_s)


def stated_error(body: bytes) -> str:
    """The first message among an answer's `errors`, on one line; empty without one."""
    with suppress(ValueError, LookupError, TypeError):
        return " ".join(str(json.loads(body)["errors"][0]["message"]).split())
    return ""


def sign_in(client: Client) -> tuple[str | None, list[str]]:
    """The key's own entity, and all entities that it can see. ScriptError without access."""
    question = "query Viewer { viewer { username entity teams { edges { node { name } } } } }"
    try:
        viewer = client.ask(question, {}, limit_s=SIGN_IN_LIMIT_S).get("viewer") or {}
    except RequestError as error:
        hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
        if error.status in (401, 403):
            hint = "it refuses the API key: copy it again from W&B's user settings"
        elif error.status == 429 or error.status >= 500:
            hint = "it is too busy: try again later"
        raise ScriptError(f"cannot sign in to {client.base_url}: {error}; {hint}", NOTHING_USABLE) from error
    own = viewer.get("entity") or viewer.get("username")
    teams = [edge["node"]["name"] for edge in (viewer.get("teams") or {"edges": ()})["edges"]]
    return own, [name for name in dict.fromkeys([own, *teams]) if name]  # the own one may be among the teams


# --- the server: which projects are meant ---------------------------------------------------------------------

# A question about one project: its name, its further variables, and what is asked of the project.
IN_PROJECT = """query %s($entity: String!, $project: String!%s) {
    project(name: $project, entityName: $entity) { %s } }"""
NO_ENTITIES = ("home", "links", "login", "settings", "authorize", "profile", "signup", "site", "registry", "orgs")


class Server:
    """What all questions to a server share."""

    def __init__(self, base_url: str, key: str, options: Options, meter: Meter, say: Say) -> None:
        limits: dict[str, Any] = {"timeout_s": options.timeout, "retries": options.retries, "say": say}
        self.options, self.meter = options, meter
        self.workers = options.workers or WORKERS
        self.downloads = DOWNLOADS_A_WORKER * self.workers
        self.api = Client(base_url, key, threads=self.workers, **limits)
        self.storage = Client("", None, threads=self.downloads, **limits)
        self.questions = threading.BoundedSemaphore(self.workers)
        self.conversions = threading.BoundedSemaphore(os.cpu_count() or 1)  # bounds memory; more gain nothing

    def ask(self, question: str, variables: Mapping[str, object]) -> Any:
        """The answer's data; RequestError without one."""
        with self.questions:
            return self.api.ask(question, variables)

    def ask_for_less(self, ask: Callable[[int, float], Any], size: int) -> tuple[Any, int]:
        """What `ask(size, timeout_s)` returns, and the size for which it did: asked for less after each failure."""

        def attempt(timeout_s: float) -> Any:
            nonlocal size
            try:
                return ask(size, timeout_s)
            except RequestError as error:
                size = max(size // 4, 1)
                error.retries = 100 if error.retries else 0  # a smaller answer may come where a large one never does
                raise

        with self.questions:
            return self.api.retry(attempt), size


def place_of(text: str) -> Place:
    """What a W&B URL or an `entity/project[/run]` path means; ScriptError for what names no runs.

    >>> place_of("https://wandb.ai/team/demo/runs/abc/logs?nw=1")
    Place(entity='team', project='demo', run='abc', sweep=None, group=None)
    """
    url = urlsplit(f"https://{text}" if text.partition("/")[0] in PAGE_HOSTS else text)
    text = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()  # without a password
    keys = [unquote(key) for key in url.path.split("/") if key]
    if url.scheme and url.hostname == FORGE and keys[:1] == ["wandb"]:
        keys = keys[1:]  # where the pages are on that host
    entity, project, page, name = (*keys, "", "", "", "")[:4]
    if url.scheme and entity not in ("", *NO_ENTITIES) and (project, page) in (("", ""), ("projects", "")):
        return Place(entity, "*")
    if not project or (url.scheme and (entity in NO_ENTITIES or url.hostname in CLOUD_HOSTS)):
        raise ScriptError(f"{text} is no project; write entity/project, entity/project/run or a W&B URL", WRONG_USAGE)
    if page and not name and not url.scheme:
        return Place(entity, project, run=page)
    if name and page in ("runs", "sweeps", "groups"):
        return Place(entity, project, **{page.removesuffix("s"): name})
    if page not in ("", "runs", "table", "workspace", "overview"):
        what = {"reports": "a report", "artifacts": "an artifact"}.get(page, f"a page of {page}")
        raise ScriptError(f"{text} is {what}; give {entity}/{project}, or a run's or sweep's address", WRONG_USAGE)
    return Place(entity, project)


def filters_of(place: Place, selection: Selection) -> dict[str, object]:
    """The selection as W&B's filters, which the server evaluates; empty where nothing is filtered."""
    created = {"$gte": iso(selection.since), "$lt": iso(selection.until)}
    created = {operator: time_ for operator, time_ in created.items() if time_}
    any_of_these = [
        ("state", selection.state),
        ("tags", selection.tag),
        ("group", selection.group),
        ("group", (place.group,)),
        ("sweep", selection.sweep),
        ("sweep", (place.sweep,)),
        ("name", (place.run,)),
    ]
    asked: list[Mapping[str, object]] = [{"createdAt": created}] if created else []
    asked += [{name: {"$in": [*values]}} for name, values in any_of_these if any(values)]
    asked += [selection.where] if selection.where else []
    return {"$and": asked} if asked else {}


def iso(time_: datetime | None) -> str | None:
    return time_.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if time_ else None


def find_projects(server: Server) -> tuple[list[Project], list[Failure]]:  # noqa: C901 - each place in turn
    """The projects that are asked for, each once, and the entities whose projects could not be had, unless all.

    A project that only some of several entities have is no error.
    """
    selection, (own, entities) = server.options.selection, sign_in(server.api)
    places = list(server.options.places) or [
        Place(entity, project) for entity in selection.entity or (None,) for project in selection.project or ("*",)
    ]
    if not own and any(place.entity is None for place in places):
        raise ScriptError("the key has no entity of its own; name one with -e", NOTHING_USABLE)
    places = [place._replace(entity=place.entity or own) for place in places]
    found: dict[tuple[str, str], Project] = {}
    failed: list[Failure] = []
    lacking: list[tuple[Place, list[str]]] = []
    outcomes = side_by_side(partial(projects_at, server), places, server.workers)
    for place, (projects, names, error) in zip(places, outcomes, strict=True):
        if error is not None:
            message = f"its projects cannot be had: {error}"
            failed.append(Failure(str(place.entity), "projects", message, error.attempts))
        elif not projects:
            lacking.append((place, names))
        for project in projects:
            known = found.setdefault((project.entity, project.name), project)
            if known is not project:  # several places in one project: the runs that any of them selects
                filters = {"$or": [known.filters, project.filters]} if known.filters and project.filters else {}
                found[project.entity, project.name] = Project(project.entity, project.name, filters)
    if failed and not found:
        raise ScriptError(f"{failed[0].run}: {failed[0].error}; try it again later", NOTHING_USABLE)
    for place, names in lacking:
        entity, pattern = str(place.entity), place.project
        elsewhere = pattern == "*" or any(matches(name, pattern) for _, name in found)
        if found and elsewhere and (names or entity in entities):
            continue
        if names:
            near = did_you_mean(pattern, names) or "; list_entities.py shows what it has"
            raise ScriptError(f"{entity} has no project {pattern}{near}", NOTHING_USABLE)
        others = [name for name in entities if name != entity]
        near = did_you_mean(entity, others) or f"; there is {', '.join(others[:5])}" if others else "; see -e"
        raise ScriptError(f"{entity} has no projects that this key can see{near}", NOTHING_USABLE)
    return sorted(found.values(), key=lambda project: (project.entity, project.name)), failed


def projects_at(server: Server, place: Place) -> tuple[list[Project], list[str], RequestError | None]:
    """The projects that a place means, all names that its entity has (listed only for a pattern: a team may have
    thousands), and why these cannot be had.
    """
    project = Project(str(place.entity), place.project, filters_of(place, server.options.selection))
    try:
        if not is_glob(project.name) and plan(server, project):
            return [project], [], None
    except RequestError as error:  # it fails by itself, beside the others
        project.failed.append(Failure(project.path, "project", str(error), error.attempts))
        return [project], [], None
    question = """query Projects($entity: String, $after: String) {
        models(entityName: $entity, first: 200, after: $after) {
            edges { node { name } } pageInfo { endCursor hasNextPage } } }"""
    names: list[str] = []
    after, more = None, True
    try:
        while more and (models := server.ask(question, {"entity": place.entity, "after": after})["models"]):
            names += [edge["node"]["name"] for edge in models["edges"]]
            after, more = models["pageInfo"]["endCursor"], models["pageInfo"]["hasNextPage"]
    except RequestError as error:
        return [], [], error
    exact = [name for name in names if name == place.project != "*"]
    meant = exact or [name for name in names if matches(name, place.project)]
    return [Project(project.entity, name, project.filters) for name in meant], names, None


def side_by_side(work: Callable[[Subject], Found], subjects: Sequence[Subject], at_once: int) -> list[Found]:
    """The results for all subjects, in their order. An interrupt waits for none of the threads."""
    threads = ThreadPoolExecutor(max(1, min(at_once, len(subjects))))
    try:
        return list(threads.map(work, subjects))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def is_glob(name: str) -> bool:
    return re.search(r"[*?\[]", name) is not None


def chunks(items: Sequence[Subject], size: int) -> list[Sequence[Subject]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# --- the server: pages of runs --------------------------------------------------------------------------------

PLAN = IN_PROJECT % (
    "Plan",
    ", $filters: JSONString",
    """all: runCount
        selected: runCount(filters: $filters)
        first: runs(filters: $filters, first: 1, order: "+created_at") { edges { node { createdAt } } }
        last: runs(filters: $filters, first: 1, order: "-created_at") { edges { node { createdAt } } }""",
)
RUNS = IN_PROJECT % (
    "Runs",
    ", $filters: JSONString, $first: Int, $after: String",
    """runs(filters: $filters, first: $first, after: $after, order: "+created_at") {
            pageInfo { endCursor hasNextPage }
            edges { node { %s } } }
        inWindow: runCount(filters: $filters)""",
)
RUN_FIELDS = """name displayName state createdAt heartbeatAt tags group jobType sweepName notes commit
    historyLineCount user { username }"""


class Window(NamedTuple):
    """Runs created from `start` on and before `end`; None is no bound. A run's creation time never changes."""

    start: datetime | None = None
    end: datetime | None = None
    cursor: str | None = None  # after which the server goes on
    runs: int = 0  # that it had when the cursor was given


def plan(server: Server, project: Project) -> bool:
    """Note how many runs the project has, and windows with about a page of the selected ones; False if it is gone."""
    answer = server.ask(PLAN, {**project.place, "filters": json.dumps(project.filters)})["project"]
    if answer is None:
        return False
    if None in answer.values():
        raise RequestError("an answer without runs", status=200, retries=0)
    project.selected, project.filtered = answer["selected"], answer["all"] - answer["selected"]
    first, last = ([time_of(edge["node"]["createdAt"]) for edge in answer[key]["edges"]] for key in ("first", "last"))
    project.last_created = last[0] if last else None
    project.windows = split(Window(), first[0] if first else None, project.last_created, project.selected)
    return True


def split(window: Window, first: datetime | None, last: datetime | None, runs: int) -> list[Window]:
    """The window in equal parts, each with a page of runs if these lie evenly between `first` and `last`."""
    parts = math.ceil(runs / WINDOW_RUNS)
    if parts < 2 or first is None or last is None or last - first < timedelta(seconds=parts):
        return [window]
    bounds = [first + (last - first) * number / parts for number in range(1, parts)]
    return [Window(*ends) for ends in itertools.pairwise([window.start, *bounds, window.end])]


def list_runs(server: Server, project: Project, work: Path) -> None:
    """Fill in the project's selected runs, each once. If fewer come than the server counts, they are listed again."""
    server.meter.add(runs_wanted=project.selected)
    for _ in range(LISTINGS):
        failed: list[Failure] = []
        project.is_changing = False
        inactive: set[str] = set()  # ids of runs that --active-since leaves out
        project.pages = fetch_pages(server, project, work, failed, inactive)
        project.runs = keys_of(project.pages)
        got = project.runs.height + len(inactive)
        if (got < project.selected or project.is_changing) and not any(failure.what == "runs" for failure in failed):
            plan(server, project)  # runs may have been deleted meanwhile
            if got < project.selected or project.is_changing:
                continue
        break
    else:
        if got < project.selected:
            error = f"the server counts {project.selected:,} runs, but lists {got:,}"
            failed.append(Failure(project.path, "runs", error, LISTINGS))
    project.failed += failed
    project.selected = max(project.selected, got) - len(inactive)
    project.filtered += len(inactive)
    if not (project.filters or failed or server.options.selection.active_since):
        project.all_ids = set(project.runs["id"])


def fetch_pages(server: Server, project: Project, work: Path, failed: list[Failure], inactive: set[str]) -> list[Page]:
    """All windows' runs as pages, fetched side by side; a window that cannot be had is a failure."""
    pages: list[Page] = []
    active_since = server.options.selection.active_since
    names = (quote(name, safe="") for name in (project.entity, project.name))
    url = "/".join([page_url(server.api.base_url), *names, "runs"])

    def fetch(window: Window) -> list[Window]:
        try:
            nodes, rest = fetch_page(server, project, window)
        except RequestError as error:
            failed.append(Failure(project.path, "runs", str(error), error.attempts))
            return []
        server.meter.add(runs=len(nodes))
        if active_since is not None:
            late = [node for node in nodes if (time_of(node["heartbeatAt"]) or EPOCH) >= active_since]
            inactive.update({node["name"] for node in nodes} - {node["name"] for node in late})
            nodes = late
        pages.append(write_page([run_of_node(node, project, url, failed) for node in nodes], work))
        return rest

    windows = project.windows
    while windows:
        windows = [window for rest in side_by_side(fetch, windows, PAGES_AT_ONCE) for window in rest]
    if not pages and failed:
        raise RequestError(failed[0].error, retries=0)
    return sorted(pages, key=lambda page: (page.keys["created_at"].min() or EPOCH, page.keys["id"].min() or ""))


def fetch_page(server: Server, project: Project, window: Window) -> tuple[list[Mapping[str, Any]], list[Window]]:
    """A page of the window's runs in the server's form, and windows for the rest.

    Cursors are offsets, which lead astray once a run is deleted: they are followed only among runs of one moment.
    """
    created = {operator: iso(time_) for operator, time_ in (("$gte", window.start), ("$lt", window.end)) if time_}
    filters = [each for each in (project.filters, {"createdAt": created} if created else {}) if each]
    variables = {**project.place, "filters": json.dumps({"$and": filters} if filters else {}), "after": window.cursor}
    question = RUNS % (RUN_FIELDS if server.options.dry_run else f"{RUN_FIELDS} config summaryMetrics")

    def ask(size: int, timeout_s: float) -> Any:
        return server.api.ask_once(question, {**variables, "first": size}, timeout_s, parsed_json)["project"]

    answer, size = server.ask_for_less(ask, project.page_runs)
    project.page_runs = min(size * 4, PAGE_RUNS)
    if answer is None or answer["runs"] is None:
        raise RequestError("the project is gone" if answer is None else "an answer without runs", retries=0)
    nodes = [edge["node"] for edge in answer["runs"]["edges"]]
    info, runs = answer["runs"]["pageInfo"], answer["inWindow"]
    project.is_changing |= window.cursor is not None and runs != window.runs
    if not info["hasNextPage"] or not nodes:
        return nodes, []
    first, last = time_of(nodes[0]["createdAt"]), time_of(nodes[-1]["createdAt"])
    if first is None or last is None or first == last:
        return nodes, [window._replace(cursor=info["endCursor"], runs=runs)]
    rest = Window(last, window.end)  # the runs of that very moment come again, and are dropped later
    return nodes, split(rest, last, window.end or project.last_created, runs - len(nodes))


def run_of_node(node: Mapping[str, Any], project: Project, url: str, failed: list[Failure]) -> Run:
    """One run of the server's answer; a config or summary that is no JSON object becomes empty and is noted."""
    leaves: list[tuple[KeyPath, Any]] = []
    trees: dict[str, dict[str, Any]] = {"config": {}, "summaryMetrics": {}}
    texts = dict.fromkeys(trees, "{}")
    for key in texts:
        text = node.get(key) or "{}"
        try:
            trees[key], texts[key], found = parsed_config(text) if key == "config" else parsed_summary(text)
            leaves += found
        except (ValueError, RecursionError) as error:
            texts[key] = valid_json(text)
            failed.append(Failure(node["name"], key, f"cannot be parsed ({error}); its text is kept as it is"))
    summary = trees["summaryMetrics"]
    return Run(
        id=node["name"],
        name=node["displayName"] or node["name"],
        state=node["state"] or "",
        entity=project.entity,
        project=project.name,
        created_at=time_of(node["createdAt"]),
        heartbeat_at=time_of(node["heartbeatAt"]),
        runtime_s=runtime_s(summary),
        last_step=summary["_step"] if type(summary.get("_step")) is int else None,
        history_rows=node["historyLineCount"] or 0,
        tags=node["tags"] or (),
        group=node["group"] or None,
        job_type=node["jobType"] or None,
        sweep=node["sweepName"] or None,
        user=(node["user"] or {}).get("username"),
        notes=node["notes"] or None,
        commit=node["commit"] or None,
        url=f"{url}/{quote(node['name'], safe='')}",
        exported_at=now(),
        config_json=texts["config"],
        summary_json=texts["summaryMetrics"],
        leaves=leaves,
        definitions=definitions_in(trees["config"]),
    )


def parsed_config(text: str, *, exact: bool = False) -> tuple[dict[str, Any], str, Sequence[tuple[KeyPath, Scalar]]]:
    """A config as W&B holds it, as the user gave it in JSON, and the leaves of that; ValueError if it is no object.

    W&B wraps each value as `{"value": ..., "desc": ...}`, once, but not always.
    """
    is_strict, tree = parsed_object(text, exact=exact)
    wrappers = ({"value"}, {"value", "desc"})
    config = {
        key: value["value"] if isinstance(value, dict) and value.keys() in wrappers else value
        for key, value in tree.items()
    }
    given = without_notes(config)
    leaves = flatten(given, (CONFIG,))
    if is_strict and any(map(may_be_huge, leaves)):  # the fast parser makes floats of ints past 64 bits
        return parsed_config(text, exact=True)
    if is_strict:
        with suppress(TypeError):  # deeper than the fast writer goes
            return config, orjson.dumps(given).decode(), leaves
    return config, valid_json(given), leaves


def parsed_summary(text: str) -> tuple[dict[str, Any], str, Sequence[tuple[KeyPath, Scalar]]]:
    """A summary, its text as valid JSON, and its numbers; ValueError if it is no object."""
    is_strict, tree = parsed_object(text)
    return tree, text if is_strict and tree else valid_json(tree), numeric_leaves(tree, (METRIC,))


def may_be_huge(leaf: tuple[KeyPath, Scalar]) -> bool:
    """True for a float past the range of ints, and for the JSON of a list that may hold one."""
    value = leaf[1]
    return abs(value) >= 2**63 if type(value) is float else type(value) is str and "e+" in value


def parsed_object(text: str, *, exact: bool = False) -> tuple[bool, dict[str, Any]]:
    """Whether the fast parser understands a JSON text, and the object in it; ValueError if it is none."""
    is_strict, tree = False, None
    with suppress(orjson.JSONDecodeError):
        is_strict, tree = not exact, None if exact else orjson.loads(text)
    if not is_strict:
        tree = jsonable(json.loads(text))
    if tree is not None and not isinstance(tree, dict):
        raise ValueError("it is no JSON object")
    return is_strict, tree or {}


def parsed_json(text: str | bytes) -> Any:
    """The value of a JSON text; non-finite numbers, which the fast parser refuses, become texts."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return jsonable(json.loads(text))


def definitions_in(config: Mapping[str, Any]) -> list[MetricDefinition]:
    """What `define_metric` set, from where the SDK notes it in a config: protobuf fields by their numbers."""
    notes = config.get("_wandb")
    noted = notes.get("m") if isinstance(notes, dict) else None
    records = [record for record in noted if isinstance(record, dict)] if isinstance(noted, list) else []
    names = [name if isinstance(name := record.get("1") or record.get("2"), str) else None for record in records]
    definitions = []
    for record, name in zip(records, names, strict=True):
        numbers = record["7"] if isinstance(record.get("7"), list) else ()
        kinds = ",".join(kind for number, kind in enumerate(SUMMARY_KINDS, 1) if number in numbers)
        number = record.get("5")  # the step metric's place among the records, from 1
        step_metric = names[number - 1] if isinstance(number, int) and 0 < number <= len(names) else None
        if name:
            goal = next((goal for number, goal in GOALS.items() if number == record.get("8")), None)
            definitions.append(MetricDefinition(name, goal, kinds or None, step_metric))
    return definitions


def time_of(text: str | None) -> datetime | None:
    """A time as the server writes it, UTC where it does not say; None for what is no time."""
    try:
        time_ = datetime.fromisoformat(text or "")
    except ValueError:  # one odd time is no reason to lose a run
        return None
    return time_.astimezone(UTC) if time_.tzinfo else time_.replace(tzinfo=UTC)


# --- the server: histories ------------------------------------------------------------------------------------

LIVE_ROWS = IN_PROJECT % (
    "LiveRows",
    ", $run: String!, $min: Int64, $max: Int64, $samples: Int",
    "run(name: $run) { history(minStep: $min, maxStep: $max, samples: $samples) }",
)
MOST_SAMPLES = 2**31 - 1  # GraphQL's ints are short


class Table(NamedTuple):
    """A kind of rows to fetch for runs."""

    name: str  # the end of its file's name
    fields: str  # of a run, to ask for
    keys: tuple[str, ...]  # globs of the metrics that are wanted; empty means all
    made_of: tuple[str, ...]  # what else its rows depend on: a file made of something else is fetched anew
    place: tuple[str, ...] = ()  # server, entity and project that are asked


class RunKeys(NamedTuple):
    """What a run's rows are fetched by."""

    id: str
    heartbeat_at: datetime | None
    last_step: int | None
    history_rows: int

    @property
    def mark(self) -> tuple[str, ...]:
        """Changes with the run's rows: their number, and when the run was last active."""
        return str(self.history_rows), iso(self.heartbeat_at) or ""


class Fetched(NamedTuple):
    """What was fetched of a run, to become a History."""

    frames: Sequence[pl.LazyFrame]  # clocks and numbers by `column_key`; of rows with one step the last counts
    skipped: set[KeyPath]
    counted: int | None = None
    problem: str = ""  # why there are no more rows
    files: Sequence[Path] = ()  # downloads, which the frames read


def tables_asked(options: Options) -> list[Table]:
    """The tables that are asked for besides the runs."""
    keys, samples = options.history_keys, options.history_samples
    tables = []
    if options.include_history:
        fields_ = 'historyLineCount parquetHistory(liveKeys: ["_step"]) { parquetUrls liveData }'
        tables.append(Table("history", fields_, keys, keys))
    if samples is not None:
        fields_ = f"rows: history(samples: {samples})"
        tables.append(Table("history_sampled", fields_, keys, (*keys, f"{samples} samples")))
    if options.system_metrics:
        tables.append(Table("system", f"rows: events(samples: {SYSTEM_SAMPLES})", (), ()))
    return tables


def changed_runs(project: Project, table: Table) -> list[RunKeys]:
    """The runs whose rows are not what the earlier export has."""
    earlier = project.earlier.get(table.name)
    known = earlier.marks if earlier and earlier.made_of == table.made_of else {}
    runs = map(RunKeys._make, project.runs.select(RunKeys._fields).iter_rows())
    return [run for run in runs if known.get(run.id) != run.mark]


def fetch_table(server: Server, project: Project, table: Table, folder: Path) -> None:  # noqa: C901 - in one sequence
    """Fill in the rows of the runs that changed; what is finished stays in `folder` for an export to come."""
    folder.mkdir(parents=True, exist_ok=True)
    table = table._replace(place=(server.api.base_url, project.entity, project.name))
    histories = project.tables.setdefault(table.name, {})
    project.made_of[table.name] = table.made_of
    nested = {run_id: paths for page in project.pages for run_id, paths in page.nested.items()}
    fetch_one = partial(fetch_run, server, project, table, nested, folder)
    stored = stored_histories(folder)
    missing = []
    for run in changed_runs(project, table):
        if history := stored.get(history_key(run, table)):
            histories[run.id] = replace(history, mark=run.mark)
        elif table.name == "history" and run.history_rows == 0:
            histories[run.id] = History(mark=run.mark)
        else:
            missing.append(run)
    done = [history.rows for history in histories.values() if history.rows]
    server.meter.add(histories_wanted=len(missing) + len(done), histories=len(done), rows=sum(done))

    def fetch(batch: Sequence[RunKeys]) -> None:
        answers: dict[str, Any] = {}
        with suppress(RequestError):  # one run may spoil the question: then each is asked for alone
            answers = ask_for_runs(server, project, batch, table.fields) if len(batch) > 1 else {}
        fetched = {run: found for run in batch if (found := fetch_one(run, answers.get(run.id)))}
        with server.conversions:
            made = histories_of(fetched, table, folder)
        for run, found in fetched.items():
            history, problem = made.get(run), found.problem
            if not problem and (history is None or history.is_short) and (again := fetch_one(run, None)):
                # Rows move from the live tail to exports, and a download may have been damaged.
                other = histories_of({run: again}, table, folder).get(run)
                history = max(filter(None, (history, other)), key=lambda each: each.rows, default=None)
                problem = again.problem
            if history is not None:
                histories[run.id] = history
            if history is None or history.is_short:
                had = f"{history.rows:,} of {history.counted:,} rows could be had" if history else ""
                error = ": ".join(filter(None, (had, problem))) or "an export cannot be read"
                project.failed.append(Failure(run.id, table.name, error, 1 if found.problem else 2))
        server.meter.add(histories=len(batch), rows=sum(history.rows for history in made.values()))

    missing.sort()  # so that part files hold ranges of run ids, as the history file does
    size = max(1, min(RUNS_A_QUESTION, math.ceil(len(missing) / server.downloads)))
    batches: list[list[RunKeys]] = []
    for run in missing:
        if not batches or len(batches[-1]) == size or sum(each.history_rows for each in batches[-1]) >= BATCH_ROWS:
            batches.append([])
        batches[-1].append(run)
    side_by_side(fetch, batches, server.downloads)


def ask_for_runs(server: Server, project: Project, runs: Sequence[RunKeys], fields_: str) -> dict[str, Any]:
    """The fields of each run by its id, asked for in one question; None for a run that is not there."""
    names = [f"r{number}" for number in range(len(runs))]
    head = "".join(f", ${name}: String!" for name in names)
    body = " ".join(f"{name}: run(name: ${name}) {{ {fields_} }}" for name in names)
    variables = {name: run.id for name, run in zip(names, runs, strict=True)}
    answer = server.ask(IN_PROJECT % ("Histories", head, body), {**project.place, **variables})["project"] or {}
    return {run.id: answer.get(name) for name, run in zip(names, runs, strict=True)}


def fetch_run(  # noqa: C901 - one run's tries, and what each may meet
    server: Server,
    project: Project,
    table: Table,
    nested: Mapping[str, Collection[KeyPath]],
    folder: Path,
    run: RunKeys,
    answer: Any,
) -> Fetched | None:
    """A run's rows; None, with a failure noted, if they cannot be had after all tries."""
    tries = 0

    def attempt(_timeout_s: float) -> Fetched:
        nonlocal answer, tries
        tries += 1
        answer = answer or ask_for_runs(server, project, [run], table.fields)[run.id]
        if answer is None:
            raise RequestError("the server no longer has this run", status=404, retries=0)
        skipped: set[KeyPath] = set()
        if table.name != "history":
            rows = rows_of_json(answer["rows"] or (), table.keys, skipped)
            if table.name == "system":  # which have times, no steps
                rows = rows.sort(column_key(("_timestamp",)), maintain_order=True)
                rows = rows.with_columns(pl.int_range(pl.len()).alias(column_key(("_step",))))
            return Fetched([rows.lazy()], skipped)
        try:
            files = [download(server, url, folder) for url in (answer["parquetHistory"] or {}).get("parquetUrls") or ()]
        except RequestError as error:
            if tries > 1 or error.status:  # signed URLs expire: ask for new ones
                answer = None
            raise
        rows_, problem = live_rows(server, project, run, answer, has_exports=bool(files))
        frames = [export_rows(file, nested.get(run.id, ()), table.keys, skipped) for file in files]
        if len(frames) > 1:  # where they overlap, the one that begins later is the newer
            step = pl.col(column_key(("_step",)))
            frames.sort(key=lambda frame: frame.select(step.min()).collect().item() or 0)
        frames += [rows_of_json(rows_, table.keys, skipped).lazy()] if rows_ else []
        return Fetched(frames, skipped, answer["historyLineCount"] or 0, problem, files)

    try:
        return server.storage.retry(attempt)
    except RequestError as error:
        failure = Failure(run.id, table.name, str(error), error.attempts)
    except (ScriptError, OSError):  # no place to write to: of no run alone
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - one odd run must not cost the others theirs
        failure = Failure(run.id, table.name, f"cannot be understood: {error!r}"[:300], tries)
    project.failed.append(failure)
    return None


def download(server: Server, url: str, folder: Path) -> Path:
    """A file with what a signed URL has; a RequestError, which never holds the URL, if it does not come whole."""
    file, end = folder / f"{uuid.uuid4().hex}.download", b""
    try:
        with file.open("wb") as opened:
            for piece in server.storage.pieces("GET", url, server.storage.timeout_s):
                opened.write(piece)
                end = (end + piece)[-4:]
    except RequestError as error:
        error.retries = error.retries or 1  # new URLs may do
        raise
    except OSError as error:
        message = f"{folder} cannot be written to ({error.strerror}); free the place or choose another with -o"
        raise ScriptError(message, NOTHING_USABLE) from error
    if end != b"PAR1":
        raise RequestError("an export was cut short")
    return file


def live_rows(
    server: Server, project: Project, run: RunKeys, answer: Any, *, has_exports: bool
) -> tuple[list[str], str]:
    """The rows that are in no export yet, as JSON, and why there are no more, if so.

    They are asked for by ranges of steps, some thousand rows each, and unsampled: for more samples than there are rows.
    """
    live = map(as_row, (answer["parquetHistory"] or {}).get("liveData") or ())
    steps = sorted(row["_step"] for row in live if row.get("_step") is not None)
    ranges = [(some[0], some[-1] + 1) for some in chunks(steps, LIVE_ROWS_A_QUESTION)]
    counted = answer["historyLineCount"] or 0
    rows: list[str] = []
    try:
        if counted and not has_exports and not steps:  # a server without exports: everything is live
            keys = (ask_for_runs(server, project, [run], "historyKeys")[run.id] or {}).get("historyKeys")
            end = max(as_row(keys).get("lastStep") or 0, run.last_step or 0, counted) + 1
            width = math.ceil(end / math.ceil(counted / LIVE_ROWS_A_QUESTION))
            ranges = [(first, min(first + width, end)) for first in range(0, end, width)]
        for first, end in ranges:
            start = first
            while start < end:

                def ask(size: int, timeout_s: float, start: int = start) -> Any:
                    samples = min(2 * size, MOST_SAMPLES)  # a row may be in an export and in the live tail
                    variables = {"run": run.id, "min": start, "max": start + size, "samples": samples}
                    return server.api.ask_once(LIVE_ROWS, {**project.place, **variables}, timeout_s)["project"]

                found, size = server.ask_for_less(ask, end - start)
                rows += ((found or {}).get("run") or {}).get("history") or ()
                start += size
    except RequestError as error:
        return rows, str(error)
    return rows, ""


def as_row(live: object) -> Mapping[str, Any]:
    """A live row, which comes as an object or as its JSON."""
    row = parsed_json(live) if isinstance(live, str) else live
    return row if isinstance(row, dict) else {}


# --- the server: rows of histories ----------------------------------------------------------------------------


def histories_of(  # noqa: C901 - one sequence
    fetched: Mapping[RunKeys, Fetched], table: Table, folder: Path
) -> dict[RunKeys, History]:
    """The histories of runs, each step once, written as one part file; without those that cannot be read.

    Runs whose steps repeat, or whose whole numbers would not be exact beside fractions of others, get a file each.
    """
    made = {run: History((), found.skipped, found.counted, mark=run.mark) for run, found in fetched.items()}
    frames = [
        frame.select(pl.lit(run.id).alias("run_id"), pl.lit(number).alias("frame"), pl.all())
        for run, found in fetched.items()
        for number, frame in enumerate(found.frames)
    ]
    if not frames:
        return made

    def singly() -> dict[RunKeys, History]:
        each = [{run: found} for run, found in fetched.items()] if len(fetched) > 1 else []
        return {run: history for one in each for run, history in histories_of(one, table, folder).items()}

    step = column_key(("_step",))
    unfinished = folder / f"{uuid.uuid4().hex}.part"
    file = unfinished.with_suffix(".parquet")
    try:
        rows = pl.concat(frames, how="diagonal_relaxed")
        stored = metrics_in(rows.collect_schema())
        dtypes = {run: widest_dtypes(metrics_in(f.collect_schema()) for f in fetched[run].frames) for run in fetched}
        if sum(run.history_rows for run in fetched) * len(stored) <= BATCH_CELLS:
            rows = rows.collect().lazy()
        facts = rows.group_by("run_id").agg(step_facts()).collect()
        mixed = [
            column_key(path) for path in stored if len({of_run.get(path) for of_run in dtypes.values()} - {None}) > 1
        ]
        huge = rows.select((pl.col(mixed).abs() > EXACT_FLOAT).any()).collect().row(0) if mixed else ()
        if len(fetched) > 1 and (any(huge) or not facts["ascending"].all()):
            return singly()
        repeated = 0
        if not facts["ascending"].all():
            counts = rows.group_by("frame").agg((pl.len() - pl.col(step).n_unique()).cast(pl.Int64).alias("again"))
            repeated = int(counts.collect()["again"].sum())
            rows = rows.collect().unique(step, keep="last", maintain_order=True).sort(step).lazy()
            facts = rows.group_by("run_id").agg(step_facts()).collect()
        facts_by_id = {row.pop("run_id"): row for row in facts.iter_rows(named=True)}
        for run in fetched:
            if run.id in facts_by_id:
                about = {"dtypes": dtypes[run], "stored": stored, "file_rows": facts["rows"].sum()}
                made[run] = replace(made[run], parts=[Part(file, **facts_by_id[run.id] | about)], repeated=repeated)
        finished = {history_key(run, table): to_store(history) for run, history in made.items() if not history.is_short}
        metadata = {PART_KEY: json.dumps(finished)}
        rows.drop("frame").sink_parquet(unfinished, compression="lz4", statistics=False, metadata=metadata)
        unfinished.rename(file)
    except OSError as error:
        message = f"{folder} cannot be written to ({error.strerror}); free the place or choose another with -o"
        raise ScriptError(message, NOTHING_USABLE) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):  # an odd one must not cost the others theirs
        return singly()
    finally:
        for download_ in (file for found in fetched.values() for file in found.files):
            download_.unlink(missing_ok=True)
    return made


def history_key(run: RunKeys, table: Table) -> str:
    """Changes with whatever makes a run's rows other ones."""
    return path_hash((*table.place, run.id, *run.mark, *table.made_of))


def to_store(history: History) -> dict[str, Any]:
    """What is to be known of a history besides its part file, for JSON."""
    parts = [{**vars(part), "file": "", "dtypes": [*part.dtypes.items()], "stored": ()} for part in history.parts]
    return {**vars(history), "parts": parts, "skipped": [*history.skipped]}


def stored_histories(folder: Path) -> dict[str, History]:
    """The histories that an interrupted export finished, by their `history_key`."""
    stored: dict[str, History] = {}
    for unfinished in [*folder.glob("*.download"), *folder.glob("*.part")]:
        unfinished.unlink()
    for file in folder.glob("*.parquet"):
        try:
            about = {"file": file, "stored": metrics_in(pl.scan_parquet(file, glob=False).collect_schema())}
            for key, history in json.loads(pl.read_parquet_metadata(file)[PART_KEY]).items():
                for part in history["parts"]:
                    part.update(about, dtypes={tuple(path): dtype for path, dtype in part["dtypes"]})
                parts = [Part(**part) for part in history["parts"]]
                stored[key] = History(**history | {"parts": parts, "skipped": [*map(tuple, history["skipped"])]})
        except (OSError, ValueError, LookupError, TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            file.unlink()  # damaged, or of another version: it is fetched again
    return stored


def metrics_in(schema: Mapping[str, pl.DataType]) -> dict[KeyPath, str]:
    """The metrics among the columns of rows, by their paths."""
    others = {"run_id", "frame", *map(column_key, CLOCKS)}
    return {tuple(json.loads(name)): str(dtype) for name, dtype in schema.items() if name not in others}


def export_rows(file: Path, nested: Collection[KeyPath], keys: Sequence[str], skipped: set[KeyPath]) -> pl.LazyFrame:
    """The clocks and numbers of one of W&B's parquet exports; keys of other things are added to `skipped`.

    Structs are taken apart, and a dotted name is the path that the summary nests so; beside a struct of the name before
    its first dot, it is a key of its own. RequestError if the file cannot be read.
    """
    try:
        rows = pl.scan_parquet(file, glob=False)
        schema = rows.collect_schema()
        leaves: list[tuple[KeyPath, pl.Expr, Any]] = [((name,), pl.col(name), dtype) for name, dtype in schema.items()]
        columns: dict[KeyPath, pl.Expr] = {
            ("_step",): pl.col("_step").cast(pl.Int64),
            **{path: pl.lit(None, dtype=pl.Float64) for path in CLOCKS[1:]},
        }
        by_name = {".".join(path): path for path in nested if not isinstance(schema.get(path[0]), pl.Struct)}
        media = {name.removesuffix("._type") for name in schema if name.endswith("._type")}
        for path, column, dtype in leaves:  # which grows while structs are taken apart
            path = by_name.get(path[0], path) if len(path) == 1 else path  # noqa: PLW2901
            top = path[0].partition(".")[0]
            if isinstance(dtype, pl.Struct) and not any(f.name == "_type" for f in dtype.fields):
                leaves += [((*path, f.name), column.struct.field(f.name), f.dtype) for f in dtype.fields]
            elif is_private(path):
                skipped.add(path)
            elif path in CLOCKS[1:]:
                columns[path] = column.cast(pl.Float64, strict=False)
            elif path in CLOCKS or not is_wanted(path, keys):
                continue
            elif top in media and path[0] != top:
                skipped.add((top,))
            elif dtype.is_numeric() or dtype == pl.Boolean:
                is_whole = (dtype.is_integer() or dtype == pl.Boolean) and dtype not in (pl.UInt64, pl.Int128)
                columns[path] = column.cast(pl.Int64 if is_whole else pl.Float64)
            else:  # texts may spell non-finite numbers
                is_text = dtype == pl.String
                number = (
                    column.replace_strict(NON_FINITE, default=None, return_dtype=pl.Float64)
                    if is_text
                    else pl.lit(None)
                )
                values, numbers = rows.select(column.count(), number.count().alias("numbers")).collect().row(0)
                skipped |= {path} if values > numbers else set()
                columns |= {path: number} if numbers else {}
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RequestError("an export was cut short or damaged", retries=1) from error
    return rows.select(column.alias(column_key(path)) for path, column in columns.items())


def rows_of_json(rows: Sequence[str], keys: Sequence[str], skipped: set[KeyPath]) -> pl.DataFrame:
    """The clocks and numbers of rows in JSON; keys of other things are added to `skipped`."""
    columns = Columns()
    for number, row in enumerate(map(as_row, rows)):
        numbers = numeric_leaves(row)
        clocks = [(("_step",), row.get("_step", number)), *((path, row.get(path[0])) for path in CLOCKS[1:])]
        columns.add([*clocks, *(leaf for leaf in numbers if is_wanted(leaf[0], keys))])
        numeric = {path[0] for path, _ in numbers}
        others = {(key,) for key, value in row.items() if value is not None and key not in numeric}
        skipped |= {path for path in others if is_private(path) or is_wanted(path, keys)}
    clock_dtypes: dict[KeyPath, Any] = dict(zip(CLOCKS, (pl.Int64, pl.Float64, pl.Float64), strict=True))
    series = {path: pl.Series(column_key(path), [], dtype=dtype) for path, dtype in clock_dtypes.items()}
    series |= {path: settled_series(column_key(path), values) for path, values in columns.padded()}
    return pl.DataFrame([each.cast(clock_dtypes.get(path, each.dtype)) for path, each in series.items()])


def is_private(path: KeyPath) -> bool:
    """Whether the user logged it under a name that W&B keeps for itself."""
    return path[0].startswith("_") and path not in CLOCKS and path[0] not in NOT_CONFIG


def is_wanted(path: KeyPath, keys: Sequence[str]) -> bool:
    return not path[0].startswith("_") and (not keys or names_match(path, keys))


# --- the server: its projects ---------------------------------------------------------------------------------


def fetch_project(server: Server, project: Project, folders: Folders) -> None:
    """Fill in the project's runs and what is asked for besides them."""
    if not project.windows and not plan(server, project):
        raise RequestError(f"there is no project {project.path}", retries=0)
    list_runs(server, project, folders.work)
    for table in tables_asked(server.options):
        if not server.options.dry_run:
            fetch_table(server, project, table, folders.kept / project.stem / table.name)
        elif table.name == "history":
            project.planned_rows = sum(run.history_rows for run in changed_runs(project, table))
    try:
        project.goals = {} if server.options.dry_run else sweep_goals(server, project)
    except RequestError as error:
        project.failed.append(Failure(project.path, "sweeps", f"their goals cannot be had: {error}", error.attempts))


def sweep_goals(server: Server, project: Project) -> dict[str, str]:
    """The goal of each metric that a sweep optimises; one on which sweeps differ is left out."""
    goals: dict[str, set[str]] = {}
    for names in chunks(project.runs["sweep"].drop_nulls().unique().sort().to_list(), RUNS_A_QUESTION):
        import yaml

        head = "".join(f", $s{number}: String!" for number in range(len(names)))
        body = " ".join(f"s{number}: sweep(sweepName: $s{number}) {{ config }}" for number in range(len(names)))
        variables = {**project.place, **{f"s{number}": name for number, name in enumerate(names)}}
        answer = server.ask(IN_PROJECT % ("Sweeps", head, body), variables)["project"] or {}
        for sweep in filter(None, answer.values()):
            config = None
            with suppress(yaml.YAMLError):  # a sweep that W&B itself could not read has no goal
                config = yaml.safe_load(sweep["config"] or "")
            metric = config.get("metric") if isinstance(config, dict) else None
            if isinstance(metric, dict) and isinstance(metric.get("name"), str):
                goals.setdefault(metric["name"], set()).add(str(metric.get("goal") or "minimize"))
    return {name: stated.pop() for name, stated in goals.items() if len(stated) == 1 and stated <= set(GOALS.values())}


# --- names ----------------------------------------------------------------------------------------------------


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


# --- values ---------------------------------------------------------------------------------------------------


def flatten(tree: Mapping[str, object], above: KeyPath = ()) -> list[tuple[KeyPath, Scalar]]:
    """Every leaf of a config by its path of keys; a list is a leaf, as JSON text, and so is an empty dict.

    >>> flatten({"model": {"k": 16}, "widths": [1, 2]})
    [(('model', 'k'), 16), (('widths',), '[1, 2]')]
    """
    leaves: list[tuple[KeyPath, Scalar]] = []
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            leaves += flatten(value, path)
        elif isinstance(value, dict | list):
            leaves.append((path, valid_json(value)))
        else:
            leaves.append((path, cast("Scalar", value)))
    return leaves


def numeric_leaves(summary: Mapping[str, object], above: KeyPath = ()) -> list[tuple[KeyPath, int | float]]:
    """The summary's numbers by path: Booleans as 0 and 1, non-finite ones too; not W&B's own keys, nor media.

    >>> numeric_leaves({"loss": "NaN", "val": {"acc": 1}, "_step": 9, "h": {"_type": "histogram", "n": 3}})
    [(('loss',), nan), (('val', 'acc'), 1)]
    """
    plain = {float, int}
    mine = [(key, value) for key, value in summary.items() if key[:1] != "_"]
    leaves: list[tuple[KeyPath, Any]] = [((*above, key), value) for key, value in mine if type(value) in plain]
    inner: list[tuple[KeyPath, Any]] = [((*above, key), value) for key, value in mine if type(value) not in plain]
    for path, value in inner:  # which grows by what nested dicts hold
        if isinstance(value, bool | int | float):
            leaves.append((path, int(value) if isinstance(value, bool) else value))
        elif isinstance(value, str) and value in NON_FINITE:
            leaves.append((path, NON_FINITE[value]))
        elif isinstance(value, dict) and not isinstance(value.get("_type"), str):
            inner += [((*path, key), below) for key, below in value.items()]
    return leaves


def settled_series(name: str, values: Sequence[Scalar]) -> pl.Series:
    """A column of the narrowest dtype that holds every value: Boolean, Int64, Float64 or String; None is null.

    The texts of NON_FINITE beside numbers are numbers; other mixtures are text, numbers and Booleans as JSON.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {float}:
        return pl.Series(name, values, dtype=pl.Float64)
    if kinds == {int} and all(value is None or -(2**63) <= cast("int", value) < 2**63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    texts = {value for value in values if isinstance(value, str)}
    if kinds & {int, float} and kinds <= {int, float, str} and texts <= NON_FINITE.keys():
        return pl.Series(name, [as_float(value) for value in values], dtype=pl.Float64)
    spelt = (value if value is None or isinstance(value, str) else valid_json(value) for value in values)
    return pl.Series(name, [None if text is None else storable(text) for text in spelt], dtype=pl.String)


def as_float(value: Scalar) -> float | None:
    """A number, or the text of a non-finite one, as a float; an int past all floats is infinite, as W&B has it.

    >>> as_float(2**63), as_float("-Infinity"), as_float(-(10**400))
    (9.223372036854776e+18, -inf, -inf)
    """
    try:
        return None if value is None else NON_FINITE[value] if isinstance(value, str) else float(value)
    except OverflowError:
        return math.inf if cast("int", value) > 0 else -math.inf


def valid_json(value: object) -> str:
    """The value as valid JSON that any UTF-8 file can hold; non-finite numbers are texts."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json_text(value)
    return text if is_storable(text) else json.dumps(jsonable(value), allow_nan=False)


def storable(text: str) -> str:
    """The text with halves of surrogate pairs, which no UTF-8 file can hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_storable(text: str) -> bool:
    return storable(text) == text


# --- runs: pages of columns -----------------------------------------------------------------------------------


class Columns:
    """Rows of leaves, turned into columns as they come; a path that a row lacks is None there."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_path: defaultdict[KeyPath, list[Scalar]] = defaultdict(list)

    def add(self, leaves: Iterable[tuple[KeyPath, Scalar]]) -> None:
        for path, value in leaves:
            column = self.by_path[path]
            if len(column) < self.rows:
                column.extend([None] * (self.rows - len(column)))
            column.append(value)
        self.rows += 1

    def padded(self) -> Iterator[tuple[KeyPath, list[Scalar]]]:
        """Every column with its path, with as many values as there are rows."""
        for path, values in self.by_path.items():
            yield path, values + [None] * (self.rows - len(values))


def identity_schema() -> dict[str, Any]:
    """The columns that every runs file has, in order, with their dtypes."""
    dtypes: dict[str, Any] = dict.fromkeys(("created_at", "heartbeat_at", "exported_at"), pl.Datetime("us", "UTC"))
    dtypes |= {"runtime_s": pl.Float64, "last_step": pl.Int64, "history_rows": pl.Int64, "tags": pl.List(pl.String)}
    names = [f.name for f in fields(Run)]
    return {name: dtypes.get(name, pl.String) for name in names[: names.index("config_json")]}


def write_page(runs: Iterable[Run], work: Path) -> Page:
    """Turn runs into typed columns, sorted as the runs file is. Pages of a project are made independently."""
    runs = sorted(runs, key=lambda run: (run.created_at or EPOCH, run.id))
    columns = Columns()
    for run in runs:
        columns.add(run.leaves)
    nested: dict[str, frozenset[KeyPath]] = {}
    if any(path[0] == METRIC and len(path) > 2 for path in columns.by_path):
        shared: dict[frozenset[KeyPath], frozenset[KeyPath]] = {}  # each set once, though thousands of runs have it
        for run in runs:
            paths = frozenset(path[1:] for path, _ in run.leaves if path[0] == METRIC and len(path) > 2)
            nested[run.id] = shared.setdefault(paths, paths)

    data = {name: [getattr(run, name) for run in runs] for name in identity_schema() if name != "tags"}
    data |= {f"_{name}": [getattr(run, name) for run in runs] for name in ("config_json", "summary_json")}
    data = {name: [storable(v) if isinstance(v, str) else v for v in values] for name, values in data.items()}
    data["tags"] = [[storable(tag) for tag in run.tags or ()] for run in runs]
    table = pl.DataFrame(data, schema=identity_schema() | {"_config_json": pl.String, "_summary_json": pl.String})
    kinds: dict[KeyPath, str] = {}
    flattened = []
    for path, values in columns.padded():
        types_found = set(map(type, values)) - {type(None)}
        series = settled_series(column_key(path), values)
        is_mixed = len(types_found) > 1 or (types_found == {int} and series.dtype == pl.Float64)
        if is_mixed and path[0] == CONFIG:  # other pages may decide what becomes of it
            series = pl.Series(series.name, [None if v is None else valid_json(v) for v in values], dtype=pl.String)
            kinds[path] = MIXED
        else:
            kinds[path] = str(series.dtype) if types_found else EMPTY
        if types_found:
            flattened.append(series)
    file = work / f"{uuid.uuid4().hex}.parquet"
    write_intermediate(table.hstack(flattened), file)
    definitions = frozenset(definition for run in runs for definition in run.definitions)
    text_bytes = sum(len(run.config_json) + len(run.summary_json) for run in runs)
    return Page(file, table.select(KEYS), kinds, nested, definitions, text_bytes)


def keys_of(pages: Sequence[Page]) -> pl.DataFrame:
    """The keys of all pages' runs, each run once; `page` and `row` are its place in the pages."""
    schema = {"row": pl.UInt32} | {name: identity_schema()[name] for name in KEYS} | {"page": pl.Int32}
    numbered = [
        page.keys.with_row_index("row").with_columns(pl.lit(number).alias("page")) for number, page in enumerate(pages)
    ]
    return pl.concat([pl.DataFrame(schema=schema), *numbered]).unique("id", keep="first", maintain_order=True)


def write_runs(
    at: Path, pages: Sequence[Page], runs: pl.DataFrame, names: Names, metadata: Mapping[str, str], work: Path
) -> None:
    """Write the runs file: one scan over the pages, their columns cast and renamed."""
    bytes_a_row = sum(page.text_bytes for page in pages) // max(runs.height, 1)
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(bytes_a_row, 1)))
    dtypes, settled = settled_dtypes(pages)
    flat = sorted((names[path], path) for path in dtypes)
    texts = dict.fromkeys(("_config_json", "_summary_json"), pl.String)
    schema = identity_schema() | {column_key(path): dtypes[path] for _, path in flat} | texts
    rows = scan_files(ordered_files(pages, runs, settled, group_rows, work), schema)
    columns = [pl.col(column_key(path)).alias(name) for name, path in flat]
    about = {**metadata, COLUMNS_KEY: json.dumps({name: path[1:] for name, path in flat})}
    rows.select(*identity_schema(), *columns, *texts).sink_parquet(at, row_group_size=group_rows, metadata=about)


def settled_dtypes(pages: Sequence[Page]) -> tuple[dict[KeyPath, Any], dict[KeyPath, pl.Series]]:
    """The dtype of each flattened column that holds its values in all pages.

    And the values, over all pages, of the columns whose dtypes differ in more than whole numbers and fractions.
    """
    dtypes: dict[KeyPath, Any] = {}
    settled: dict[KeyPath, pl.Series] = {}
    for path in sorted({path for page in pages for path in page.kinds}):
        kinds = {page.kinds.get(path, EMPTY) for page in pages} - {EMPTY}
        if len(kinds) < 2 and MIXED not in kinds:
            dtypes[path] = getattr(pl, kinds.pop()) if kinds else pl.String
        elif kinds == {"Int64", "Float64"}:
            dtypes[path] = pl.Float64
        else:
            values: list[Scalar] = []
            for page in pages:
                if (kind := page.kinds.get(path, EMPTY)) == EMPTY:
                    values += [None] * page.keys.height
                else:
                    column = pl.read_parquet(page.file, columns=[column_key(path)], glob=False).to_series()
                    values += [json.loads(v) if kind == MIXED and v is not None else v for v in column]
            settled[path] = settled_series(column_key(path), values)
            dtypes[path] = settled[path].dtype
    return dtypes, settled


def ordered_files(
    pages: Sequence[Page], runs: pl.DataFrame, settled: Mapping[KeyPath, pl.Series], rows_a_file: int, work: Path
) -> list[Path]:
    """Files that together hold `runs` in the order of the runs file: the pages, unless order or columns differ."""
    runs = runs.sort("created_at", "id")
    starts = [0, *itertools.accumulate(page.keys.height for page in pages)]
    order = runs["page"].rle().struct.field("value").to_list()
    if not settled and len(set(order)) == len(order) and runs.height == starts[-1]:
        return [pages[number].file for number in order]
    files = []
    for some in runs.iter_slices(rows_a_file):
        frames = []
        for (number,), rows in some.group_by("page", maintain_order=True):
            page = pages[number]
            changed = [s.slice(starts[number], page.keys.height) for path, s in settled.items() if path in page.kinds]
            frames.append(pl.read_parquet(page.file, glob=False).with_columns(changed)[rows["row"]])
        files.append(work / f"{uuid.uuid4().hex}.parquet")
        write_intermediate(pl.concat(frames, how="diagonal_relaxed").sort("created_at", "id"), files[-1])
    return files


def scan_files(files: Sequence[Path], schema: Mapping[str, Any]) -> pl.LazyFrame:
    """The rows of our own files, one after the other, in these columns; what a file lacks is null."""
    if not files:
        return pl.LazyFrame(schema=schema)
    casts = pl.ScanCastOptions(integer_cast="allow-float")
    return pl.scan_parquet(
        list(files), schema=schema, missing_columns="insert", extra_columns="ignore", cast_options=casts, glob=False
    )


def metric_facts(
    definitions: Collection[MetricDefinition],
    names: Names,
    earlier: Mapping[KeyPath, Mapping[str, str | None]],
    sweep_goals: Mapping[str, str],
) -> dict[str, dict[str, str | None]]:
    """Goal, summary and step metric by column, where a sweep or `define_metric` states it, now or `earlier`.

    A sweep's goal goes first; one on which runs differ is left out.
    """
    facts: dict[str, dict[str, str | None]] = {}
    for path, name in ((path[1:], name) for path, name in names.items() if path[0] == METRIC):
        found: list[MetricDefinition] = []
        # define_metric reaches top-level keys and the values it derives from them.
        if len(path) == 1 or (len(path) == 2 and path[1] in SUMMARY_KINDS):
            found = [d for d in definitions if d.pattern == path[0]] or [
                d for d in definitions if d.pattern.endswith("*") and path[0].startswith(d.pattern[:-1])
            ]
        stated: list[Mapping[str, str | None]] = [
            {"goal": goal_of(d), "summary": d.summary, "step_metric": d.step_metric} for d in found
        ]
        stated += [earlier[path]] if path in earlier else []
        agreement = {key: agreed(fact[key] for fact in stated) for key in ("goal", "summary", "step_metric")}
        agreement["goal"] = sweep_goals.get(".".join(path), agreement["goal"])
        if any(agreement.values()):
            facts[name] = agreement
    return facts


def goal_of(definition: MetricDefinition) -> str | None:
    """The goal that a definition states, or that its summary implies."""
    kinds = (definition.summary or "").split(",")
    implied = {"min": "minimize", "max": "maximize"}
    return definition.goal or agreed({implied[kind] for kind in kinds if kind in implied})


def agreed(values: Iterable[str | None]) -> str | None:
    """The one value that is stated; None where none is, or several are."""
    stated = {value for value in values if value}
    return stated.pop() if len(stated) == 1 else None


# --- histories: parts to a file -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowTable:
    """What becomes of a file with many rows a run: the rows of some runs are new, those of others stay."""

    name: str
    fetched: Mapping[str, History]  # by run id
    earlier: Earlier | None
    staying: frozenset[str]  # ids of runs whose rows in the earlier file stay
    dtypes: Mapping[KeyPath, str]  # of its metrics: each holds the values of all rows

    @property
    def prefix(self) -> str:
        return SYSTEM if self.name == "system" else METRIC

    def columns(self, names: Names) -> dict[KeyPath, str]:
        """The columns of its metrics."""
        return {path: names[self.prefix, *path] for path in self.dtypes}

    def is_current(self, names: Names, facts: Mapping[str, Any]) -> bool:
        """Whether the earlier file is what would be written."""
        return (
            self.earlier is not None
            and self.earlier.export_id is not None
            and not self.fetched
            and self.staying == self.earlier.rows.keys()
            and self.columns(names) == self.earlier.columns
            and self.earlier.facts == facts
        )


def row_tables(project: Project, kept: Collection[str], *, prune: bool) -> list[RowTable]:
    """The tables that are asked for, and those of an earlier export."""
    ids = {*kept, *project.runs["id"]}
    tables = []
    for name in TABLES:
        fetched, earlier = project.tables.get(name), project.earlier.get(name)
        if fetched is not None or earlier is not None:
            before = earlier.rows.keys() if earlier else set()
            staying = frozenset((before & ids if prune or fetched is not None else before) - (fetched or {}).keys())
            sources = [part.dtypes for history in (fetched or {}).values() for part in history.parts]
            sources += [earlier.dtypes] if earlier and staying else []
            tables.append(RowTable(name, fetched or {}, earlier, staying, widest_dtypes(sources)))
    return tables


def write_table(table: RowTable, at: Path, project: Project, names: Names, metadata: Mapping[str, str]) -> None:
    """Write the rows by run id: those fetched, merged with those of the earlier file that stay."""
    columns = sorted((name, path, getattr(pl, table.dtypes[path])) for path, name in table.columns(names).items())
    clocks = [clock for clock in CLOCKS if table.name != "system" or clock != ("_step",)]
    keys = ["run_id", "entity", "project", *(clock[0] for clock in clocks)]
    rows = scan_parts(table.fetched, table.dtypes).select(
        "run_id",
        pl.lit(project.entity).alias("entity"),
        pl.lit(project.name).alias("project"),
        *(pl.col(column_key(clock)).alias(clock[0]) for clock in clocks),
        *(pl.col(column_key(path)).cast(dtype).alias(name) for name, path, dtype in columns),
    )
    earlier = table.earlier
    if earlier and table.staying:
        stays = pl.scan_parquet(earlier.file, glob=False)
        if table.staying != earlier.rows.keys():
            stays = stays.filter(pl.col("run_id").is_in(list(table.staying)))
        was = {path: pl.col(name) for path, name in earlier.columns.items()}
        stays = stays.select(
            *keys, *(was.get(path, pl.lit(None)).cast(dtype).alias(name) for name, path, dtype in columns)
        )
        rows = rows.merge_sorted(stays, "run_id") if any(h.parts for h in table.fetched.values()) else stays
    made_of = project.made_of.get(table.name, earlier.made_of if earlier else ())
    marks = {run_id: h.mark for run_id, h in table.fetched.items() if h.mark and not h.is_short}
    if earlier and earlier.made_of == made_of:
        # Runs without rows have marks, too: else they would be asked for again each time.
        known = table.staying | (earlier.marks.keys() - earlier.rows.keys() - table.fetched.keys())
        marks |= {run_id: earlier.marks[run_id] for run_id in known if run_id in earlier.marks}
    about = {
        **metadata,
        COLUMNS_KEY: json.dumps({name: path for name, path, _ in columns}),
        HISTORIES_KEY: json.dumps({"keys": made_of, "runs": marks}, sort_keys=True),
    }
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_CELLS // (len(keys) + len(columns))))
    rows.sink_parquet(at, row_group_size=group_rows, metadata=about)


def scan_parts(histories: Mapping[str, History], dtypes: Mapping[KeyPath, str]) -> pl.LazyFrame:
    """The rows of all parts by run id and step; columns are `run_id` and, by `column_key`, clocks and `dtypes`."""
    wanted: dict[Path, Counter[str]] = {}  # the rows of each run, by file
    file_rows: dict[Path, int] = {}
    as_float: dict[Path, frozenset[KeyPath]] = {}  # metrics of whole numbers that a file holds as Float64
    for run_id, history in sorted(histories.items()):
        for part in history.parts:
            wanted.setdefault(part.file, Counter())[run_id] += part.rows
            file_rows[part.file] = part.file_rows
            floats = {path for path in part.dtypes if dtypes[path] == "Int64" != part.stored[path]}
            as_float[part.file] = as_float.get(part.file, frozenset()) | floats

    def rows_in(files: Sequence[Path]) -> pl.LazyFrame:
        """The rows of files with one and the same `as_float`."""
        floats = as_float[files[0]] if files else frozenset()
        clocks = {column_key(clock): pl.Int64 if clock == ("_step",) else pl.Float64 for clock in CLOCKS}
        stored = {path: "Float64" if path in floats else dtype for path, dtype in dtypes.items()}
        metrics = {column_key(path): getattr(pl, dtype) for path, dtype in stored.items()}
        rows = scan_files(files, {"run_id": pl.String, **clocks, **metrics})
        return rows.cast({column_key(path): pl.Int64 for path in floats})

    groups: list[list[Path]] = []  # files whose ranges of run ids overlap are together
    reached = ""
    for file, ids in wanted.items():
        if groups and min(ids) < reached:
            groups[-1].append(file)
        else:
            groups.append([file])
        reached = max(reached, *ids)
    scans: list[pl.LazyFrame] = []
    is_plain = {files[0]: len(files) == 1 and wanted[files[0]].total() == file_rows[files[0]] for files in groups}
    for (is_whole, _), alike in itertools.groupby(groups, lambda files: (is_plain[files[0]], as_float[files[0]])):
        if is_whole:  # one scan of many files is far cheaper than many scans
            scans.append(rows_in([files[0] for files in alike]))
            continue
        for files in alike:  # other runs share the files
            rows = pl.concat([rows_in([file]).filter(pl.col("run_id").is_in(list(wanted[file]))) for file in files])
            scans.append(rows if len(files) == 1 else rows.sort("run_id", column_key(("_step",))))
    return pl.concat(scans) if scans else rows_in([])


# --- one project: merged with an earlier export, and published ------------------------------------------------


def earlier_files(output: Path, stem: str) -> dict[str, Earlier]:
    """What an earlier export left of a project, by the end of its files' names; ScriptError for an unreadable file.

    Where the files do not belong together, an export was killed while it published: none of them counts as current.
    """
    found: dict[str, Earlier] = {}
    for name in ("runs", *TABLES):
        file = output / f"{stem}_{name}.parquet"
        if not file.exists():
            continue
        try:
            metadata = pl.read_parquet_metadata(file)
            rows = pl.scan_parquet(file, glob=False)
            schema = rows.collect_schema()
            counts = rows.select("id", "history_rows") if name == "runs" else rows.group_by("run_id").len()
            columns = {tuple(path): column for column, path in json.loads(metadata.get(COLUMNS_KEY, "{}")).items()}
            histories = json.loads(metadata.get(HISTORIES_KEY, "{}"))
            found[name] = Earlier(
                file,
                rows=dict(counts.collect().iter_rows()),
                columns=columns,
                dtypes={path: str(schema[column]) for path, column in columns.items() if column in schema},
                facts=json.loads(metadata.get(METRICS_KEY, "{}")),
                made_of=tuple(histories.get("keys", ())),
                marks={run_id: tuple(mark) for run_id, mark in histories.get("runs", {}).items()},
                export_id=metadata.get(EXPORT_ID_KEY),
            )
        except (OSError, ValueError, LookupError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise unreadable(file, error) from error
    ids = {each.export_id for each in found.values()}
    try:
        ids.add(json.loads((output / f"{stem}_metadata.json").read_text("utf-8"))["export_id"])
    except (OSError, ValueError, LookupError, TypeError):
        ids.add(None)
    return found if len(ids) == 1 else {name: replace(each, marks={}, export_id=None) for name, each in found.items()}


def unreadable(file: Path, error: BaseException) -> ScriptError:
    reason = str(error).partition("\n")[0]
    advice = "move it away or choose another -o"
    return ScriptError(f"the earlier export {file} cannot be read ({reason}); {advice}", NOTHING_USABLE)


def write_project(project: Project, options: Options, source: Mapping[str, object], work: Path) -> None:
    """Merge a project's runs with what an earlier export left, and publish its files."""
    earlier = project.earlier.get("runs")
    before = earlier.rows if earlier else {}
    fuller = drop_shorter(project, before)
    if project.all_ids is not None:
        project.gone = sorted(before.keys() - {*project.all_ids, *project.unread})
    stays = before.keys() - (set(project.runs["id"]) - fuller) - set(project.gone if options.prune else ())
    project.kept = sorted(stays - fuller)
    kept_pages = earlier_pages(earlier, stays, work) if earlier and stays else []
    pages = [*project.pages, *kept_pages]
    kept_runs = keys_of(kept_pages).with_columns(pl.col("page") + len(project.pages))
    runs = pl.concat([project.runs.filter(~pl.col("id").is_in(list(fuller))), kept_runs])

    tables = row_tables(project, stays, prune=options.prune)
    definitions = {definition for page in pages for definition in page.definitions}
    paths = {path for page in pages for path in page.kinds}
    paths |= {(METRIC, definition.pattern) for definition in definitions if not definition.pattern.endswith("*")}
    paths |= {(table.prefix, *path) for table in tables for path in table.dtypes}
    names = {  # settled once, for the runs and the histories together
        (prefix, *path): prefix + name
        for prefix in (CONFIG, METRIC, SYSTEM)
        for path, name in settled_names(path[1:] for path in paths if path[0] == prefix).items()
    }
    known = {
        path: each.facts[name]
        for each in reversed(list(project.earlier.values()))
        for path, name in each.columns.items()
        if name in each.facts
    }
    facts = metric_facts(definitions, names, known if stays else {}, project.goals)
    current = [table.name for table in tables if table.is_current(names, facts)]
    export_id = project.earlier[current[0]].export_id if current else uuid.uuid4().hex
    about = {
        **source,
        "entity": project.entity,
        "project": project.name,
        "exported_at": jsonable(now()),
        "versions": {name: version(name) for name in ("wandb", "polars")} | {"wandb-tools": VERSION},
    }
    metadata = {
        SCHEMA_KEY: SCHEMA_VERSION,
        METRICS_KEY: json.dumps(facts, sort_keys=True),
        SOURCE_KEY: json.dumps(about),
        EXPORT_ID_KEY: str(export_id),
    }
    files = []
    with publishing(options.output) as unfinished:
        for table in tables:
            file = options.output / f"{project.stem}_{table.name}.parquet"
            at = file if table.name in current else unfinished(file)
            if table.name not in current:
                write_table(table, at, project, names, metadata)
            files.append(file_facts(file, at))
            if table.name in project.tables and table.name != "system":
                note_history(project, table, at, options)
        file = options.output / f"{project.stem}_runs.parquet"
        write_runs(unfinished(file), pages, runs, names, metadata, work)
        files.append(file_facts(file, unfinished(file)))
        document = metadata_document(project, options, about) | {"files": files, "export_id": export_id}
        text = json.dumps(jsonable(document), indent=2, ensure_ascii=False) + "\n"
        unfinished(options.output / f"{project.stem}_metadata.json").write_text(storable(text), "utf-8")
    project.files = files


def drop_shorter(project: Project, before: Mapping[str, int]) -> set[str]:
    """Drop fetched rows of which the earlier export has more, if they come from a log that was cut off, or are
    incomplete; the ids of runs whose row in the runs file stays too.
    """
    rows = project.runs.select("id", "history_rows").iter_rows()
    fuller = {run_id for run_id, count in rows if run_id in project.cut and before.get(run_id, 0) > count}
    shorter = set(fuller)
    for name, histories in project.tables.items():
        had = project.earlier[name].rows if name in project.earlier else {}
        for run_id, history in list(histories.items()):
            if had.get(run_id, 0) > history.rows and (history.is_short or run_id in project.cut):
                shorter.add(run_id)
                del histories[run_id]
    project.kept_fuller = sorted(shorter)
    return fuller


def note_history(project: Project, table: RowTable, at: Path, options: Options) -> None:
    """Note what the metadata says of a history file, the full one before the sampled one."""
    rows = dict(pl.scan_parquet(at, glob=False).group_by("run_id").len().collect().iter_rows())
    if table.name == "history":
        counts = project.runs.select("id", "history_rows").iter_rows()
        project.mismatched = {run_id: rows.get(run_id, 0) for run_id, n in counts if rows.get(run_id, 0) != n}
    if table.name == "history" or not options.include_history:
        project.history_rows, project.history_runs = sum(rows.values()), len(rows)
    if table.earlier:
        project.dropped += [".".join(path) for path in table.earlier.columns if path not in table.dtypes]


def earlier_pages(earlier: Earlier, ids: Collection[str], work: Path) -> list[Page]:
    """The rows of an earlier export's runs, made anew from their configs and summaries."""
    pages: list[Page] = []
    try:
        rows = pl.scan_parquet(earlier.file, glob=False)
        identity = [name for name in identity_schema() if name in rows.collect_schema()]
        for start in range(0, len(earlier.rows), PAGE_RUNS):
            some = rows.slice(start, PAGE_RUNS).filter(pl.col("id").is_in(list(ids)))
            runs = []
            for row in some.select(*identity, "_config_json", "_summary_json").collect().iter_rows(named=True):
                texts = {name: row.pop(f"_{name}") for name in ("config_json", "summary_json")}
                config, summary = (tree if isinstance(tree, dict) else {} for tree in map(json.loads, texts.values()))
                leaves = [*flatten(config, (CONFIG,)), *numeric_leaves(summary, (METRIC,))]
                runs.append(Run(**cast("Any", dict.fromkeys(identity_schema()) | row | texts), leaves=leaves))
            pages += [write_page(runs, work)] if runs else []
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise unreadable(earlier.file, error) from error
    return pages


def metadata_document(project: Project, options: Options, source: Mapping[str, object]) -> dict[str, object]:
    """What was asked, what was got and what failed."""
    written = project.runs.height
    histories = [history for table in project.tables.values() for history in table.values()]
    return {
        "status": project.status,
        "entity": project.entity,
        "project": project.name,
        "source": {key: source[key] for key in ("kind", "base_url", "directory") if key in source},
        "filters": {name: value for name, value in asdict(options.selection).items() if value},
        "exported_at": source["exported_at"],
        "versions": source["versions"],
        "runs": {
            "listed": project.selected + project.filtered,
            "written": written,
            "failed": project.selected - written,
            "filtered": project.filtered,
            "by_state": dict(sorted(Counter(project.runs["state"]).items())),
        },
        "history": {
            "rows": project.history_rows,
            "runs": project.history_runs,
            "sampled": options.history_samples is not None and not options.include_history,
            "mismatched": sorted(project.mismatched),
        },
        "files": [],
        "failed": [failure._asdict() for failure in project.failed],
        "torn": project.torn,
        "missing_on_server": [] if options.prune else project.gone,
        "kept_fuller": project.kept_fuller,
        "skipped_history_keys": sorted({".".join(path) for history in histories for path in history.skipped}),
    }


# --- files ----------------------------------------------------------------------------------------------------

PUBLISHING = threading.Lock()  # held while files are renamed: the process ends before or after, never meanwhile


@contextmanager
def publishing(output: Path) -> Iterator[Callable[[Path], Path]]:
    """A function that gives the hidden name to which a file is to be written. At the end all are renamed, or none."""
    files: dict[Path, Path] = {}

    def unfinished(file: Path) -> Path:
        return files.setdefault(file, file.with_name(f".{file.name}.{os.getpid()}.partial"))

    try:
        yield unfinished
        for file, partial_file in files.items():
            with partial_file.open("rb+") as whole:
                os.fsync(whole.fileno())
            if file.is_dir():  # then none is renamed
                raise IsADirectoryError(None, "a folder has that name", file)
        with PUBLISHING:
            for file, partial_file in files.items():
                partial_file.replace(file)
    except (OSError, pl.exceptions.ComputeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        message = f"{next(reversed(files), output)} was not written: {reason}; free the place or choose another with -o"
        raise ScriptError(message, NOTHING_USABLE) from error
    finally:
        for partial_file in files.values():
            with suppress(OSError):
                partial_file.unlink(missing_ok=True)


def file_facts(file: Path, at: Path) -> dict[str, object]:
    """What the metadata lists of a parquet file that is, for now, at another place."""
    with at.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    rows = pl.scan_parquet(at, glob=False)
    height = rows.select(pl.len()).collect().item()
    columns = len(rows.collect_schema())
    return {"name": file.name, "bytes": at.stat().st_size, "rows": height, "columns": columns, "sha256": digest}


def settle_stems(projects: list[Project], output: Path) -> None:
    """Give each project what its files' names begin with: settled for all of them, before any is written.

    No name from W&B leaves the folder or takes another's files; a project that has files keeps their names.
    """
    longest = 200 - len("_history_sampled.parquet")
    stems: list[tuple[bool, str, str, Project]] = []  # whether it has no files yet, where they would be, and else
    for project in projects:
        suffix = f"__{path_hash((project.entity, project.name))[:8]}"
        stem = quote(f"{project.entity}_{project.name}".encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
        stem = re.sub(r"^\.", "%2E", stem)
        other = stem[: longest - len(suffix)] + suffix
        stem = other if len(stem) > longest else stem
        mine = {(project.entity, project.name)}
        has_files = [owners_of(output, each) == mine for each in (stem, other)]
        if has_files[1] or owners_of(output, stem) - mine:
            stem = other
        stems.append((not any(has_files), stem, other, project))
    taken: set[str] = set()
    for is_new, stem, other, project in sorted(stems, key=lambda each: (each[0], each[3].entity, each[3].name)):
        project.stem = other if is_new and stem.lower() in taken else stem
        taken.add(project.stem.lower())


def owners_of(output: Path, stem: str) -> set[tuple[str, str]]:
    """The entities and projects of the files whose names begin so, as these say themselves."""
    owners = set()
    for name in ("runs", *TABLES):
        with suppress(OSError, ValueError, LookupError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            about = json.loads(pl.read_parquet_metadata(output / f"{stem}_{name}.parquet")[SOURCE_KEY])
            owners.add((about["entity"], about["project"]))
    return owners


class Folders(NamedTuple):
    """Where intermediate files go: `work` is empty at first, `kept` holds what an interrupted export has finished."""

    work: Path
    kept: Path


@contextmanager
def working_folders(output: Path, say: Say, *, dry_run: bool) -> Iterator[Folders]:
    """Folders for intermediate files, and the sole right to write to `output` meanwhile."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="wandb-tools-") as folder:
            yield Folders(Path(folder), Path(folder))
        return
    own = output / ".wandb_tools"
    folders = Folders(own / "work", own / "histories")
    with ExitStack() as held:
        try:
            own.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((own / "lock").open("w"))  # until the process ends
            with suppress(ImportError, OSError):  # a file system or a system without such locks
                import fcntl

                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"another export writes to {output}: waiting until it is done")
                    fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(folders.work, ignore_errors=True)  # of an export that was killed: the lock is ours
            folders.work.mkdir()
            for file in output.glob(".*.partial"):
                if re.search(
                    r"_(runs|history|history_sampled|system|metadata)\.(parquet|json)\.\d+\.partial$", file.name
                ):
                    file.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            message = f"cannot write to {output}: {reason}; choose another folder with -o"
            raise ScriptError(message, NOTHING_USABLE) from error
        held.callback(shutil.rmtree, folders.work, ignore_errors=True)
        yield folders


# --- verifying ------------------------------------------------------------------------------------------------


def verify(folder: Path, options: Options, say: Say) -> int:
    """Compare the files of every export in `folder` with its metadata; nothing is changed. Returns the exit code."""
    exports = sorted(file for file in folder.glob("*_metadata.json") if not file.name.startswith("."))
    if not exports:
        raise ScriptError(f"{folder} holds no export; name a folder that -o had", NOTHING_USABLE)
    import_libraries()
    rows: list[dict[str, str | None]] = []
    for export in exports:
        about: dict[str, str | None] = {"entity": None, "project": None}
        try:
            document = json.loads(export.read_text("utf-8"))
            about |= {name: document[name] for name in about}
            listed = {Path(facts["name"]).name: facts for facts in document["files"]}
            problems = {name: damage_of(folder / name, facts) for name, facts in listed.items()}
        except (OSError, ValueError, LookupError, TypeError):
            problems = {}
        problems = problems or {export.name: "is damaged, so the files of its project cannot be checked"}
        rows += [about | {"file": name, "error": problem} for name, problem in problems.items()]
    damaged = [row for row in rows if row["error"]]
    for row in damaged:
        tell(f"error: {folder / str(row['file'])} {row['error']}; restore it from a copy, or export again")
    outcome = f"{len(damaged):,} damaged or missing" if damaged else "all as they were written"
    say(f"{counted(len(rows), 'file')} of {counted(len(exports), 'export')} in {folder}: {outcome}")
    if options.json:
        show(json_text({"version": 1, "verified": rows}))
    return PARTIAL if damaged else OK


def damage_of(file: Path, facts: Mapping[str, Any]) -> str | None:
    """In what a parquet file differs from the metadata's facts about it; None where it does not."""
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        size = file.stat().st_size
        if size != facts["bytes"]:
            return f"has {size:,} bytes instead of {facts['bytes']:,}"
        if digest != facts["sha256"]:
            return "holds other bytes than were written: its checksum differs"
        frame = pl.scan_parquet(file, glob=False)
        height, width = frame.select(pl.len()).collect().item(), len(frame.collect_schema())
    except (OSError, pl.exceptions.PolarsError) as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
    if (height, width) != (facts["rows"], facts["columns"]):
        return f"has {height:,} rows of {width:,} columns, not {facts['rows']:,} of {facts['columns']:,}"
    return None


# --- the report -----------------------------------------------------------------------------------------------


def report(projects: Sequence[Project], failed: Sequence[Failure], options: Options, say: Say) -> int:  # noqa: C901, PLR0912
    """The paths on stdout, or all of it as JSON; a line on each project for people. Returns the exit code."""
    written = [project for project in projects if project.files]
    planned = [project for project in projects if options.dry_run and project.selected]
    lost = [*failed, *(each for project in projects for each in project.failed if each.what == "project")]
    check_selection(projects, lost, options, say)
    if options.prune and any(project.all_ids is None for project in written):
        say("--prune dropped nothing: it needs an export without filters that lists every run")
    metrics: set[KeyPath] = set()
    for project in written:
        for name, histories in project.tables.items():
            metrics.update(*(part.dtypes for history in histories.values() for part in history.parts))
            metrics.update(project.earlier[name].columns if name in project.earlier else ())
    for glob in options.history_keys if written else ():
        if not any(names_match(path, [glob]) for path in metrics):
            say(f"--history-keys {glob} matches no metric of these runs")
    for project in written:
        kept = f"; {counted(len(project.kept), 'run')} of an earlier export kept" if project.kept else ""
        if project.gone and not options.prune:
            kept += f", {len(project.gone):,} of them no longer in the source (--prune drops those)"
        say(sentence(project, options) + kept)
        if project.kept_fuller:
            fuller = f"{counted(len(project.kept_fuller), 'run')} kept as exported earlier, with more history rows"
            say(f"{project.path}: {fuller}: {first_of(project.kept_fuller)}")
        if project.dropped:
            before = "from an earlier export, which this one was not asked for"
            say(f"the history there had {first_of(project.dropped)} {before}")
    if options.json:
        rows = [json_row(project, options) for project in (*written, *planned)]
        for failure in lost:
            entity, _, name = failure.run.partition("/")
            rows.append({"entity": entity, "project": name or None, "status": "failed", "error": failure.error})
        names = [[*(file["name"] for file in project.files), f"{project.stem}_metadata.json"] for project in written]
        files = [str(options.output / str(name)) for of_project in names for name in of_project]
        show(json_text({"version": 1, "exports": rows, "files": files}))
    else:
        for project in written:
            show(str(options.output / f"{project.stem}_runs.parquet"))
        for project in planned:
            show(printable(sentence(project, options)))
    failures = [*failed]
    for project in projects:  # ids are only unique within a project
        prefix = f"{project.path}/" if len(projects) + len(failed) > 1 else ""
        failures += [f._replace(run=f.run if f.run == project.path else prefix + f.run) for f in project.failed]
    return report_failures(failures)


def check_selection(projects: Sequence[Project], lost: Sequence[Failure], options: Options, say: Say) -> None:
    """Say what the server's filters kept; ScriptError if nothing is left, or nothing could be exported."""
    selected = sum(project.selected for project in projects)
    total = selected + sum(project.filtered for project in projects)
    given = [name for name, value in vars(options.selection).items() if value and name not in ("entity", "project")]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    if flags and total and not options.offline:  # there each filter has said it
        say(f"{flags} kept {selected:,} of {total:,} runs")
    is_exported = any(project.files for project in projects)  # without runs: then it states that all are gone
    if is_exported or (selected and (options.dry_run or not lost)):
        return
    paths = first_of([project.path for project in projects])
    message = f"no runs in {paths}; list_entities.py shows what there is"
    if lost:
        message = f"{lost[0].run}: {lost[0].error}; nothing could be exported"
    elif total and flags:
        message = f"{flags} leaves none of {total:,} runs; loosen it, or see what there is with --dry-run"
    elif total:
        message = f"{paths} has no such run; list_entities.py shows projects, W&B's pages the runs' ids"
    raise ScriptError(message, NOTHING_USABLE)


def first_of(names: Collection[str]) -> str:
    return ", ".join([*names][:5]) + (" and others" if len(names) > 5 else "")


def json_row(project: Project, options: Options) -> dict[str, Any]:
    """What `--json` holds of a project; `history_rows` of runs in their source, as far as they could be had."""
    row = {"entity": project.entity, "project": project.name, "status": "planned", "filtered": project.filtered}
    if options.dry_run and not options.offline:
        return row | {"runs": project.selected, "history_rows": project.planned_rows}
    rows: dict[str, int] = {**dict(project.runs.select("id", "history_rows").iter_rows()), **project.mismatched}
    row |= {"status": project.status, "runs": project.runs.height, "history_rows": sum(rows.values())}
    row |= {"failed": len(project.failed), "torn": len(project.torn)}
    return row if options.dry_run else row | {"kept": len(project.kept)}


def sentence(project: Project, options: Options) -> str:
    """A project's runs in one line, and how many history rows there are, if that is of interest."""
    row = json_row(project, options)
    rows = f", {counted(row['history_rows'], 'history row')}" if row["history_rows"] is not None else ""
    if row["status"] == "planned":
        some = f"{row['runs']:,} of " if row["filtered"] else ""
        return f"{project.path}: {some}{counted(row['runs'] + row['filtered'], 'run')}{rows}"
    states = ", ".join(f"{count:,} {state}" for state, count in Counter(project.runs["state"]).most_common())
    runs = counted(row["runs"], "run") + (f" ({states})" if states else "")
    failures = f", {counted(row['failed'], 'failure')}" if row["failed"] else ""
    return f"{project.path}: {runs}{rows if options.include_history or options.offline else ''}{failures}"


def report_failures(failures: Iterable[Failure]) -> int:
    """Name each failure once, also when quiet, and return the exit code that they mean."""
    by_error: dict[tuple[str, bool], list[str]] = {}
    for failure in dict.fromkeys(failures):
        in_metadata = failure.what not in ("project", "projects")
        by_error.setdefault((failure.error, in_metadata), []).append(failure.run)
    for (error, in_metadata), runs in by_error.items():
        named = runs[:FAILURES_NAMED] if in_metadata else runs
        for run in named:
            tell(f"error: {run}: {error}")
        if len(runs) > len(named):
            tell(f"error: {len(runs) - len(named):,} more, all named in the metadata: {error}")
    return PARTIAL if by_error else OK


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Meter:
    """Progress on stderr: a live line at a terminal, elsewhere a plain one now and then, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        self.status = None
        if not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console

            self.status = Console(stderr=True).status("")
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()

    def add(self, **counts: int) -> None:
        """Count what was done, and what is to be done (`runs_wanted`, `histories_wanted`)."""
        with self.lock:
            self.counts.update(counts)
            now_s = time.monotonic()
            if self.status:
                self.status.update(progress_sentence(self.counts, now_s - self.started))
            elif not self.quiet and now_s - self.last_line > PLAIN_LINE_S:
                self.last_line = now_s
                tell(progress_sentence(self.counts, now_s - self.started))


def progress_sentence(counts: Mapping[str, int], elapsed_s: float) -> str:
    """What was done, at which rate, and how long the rest will take.

    >>> progress_sentence({"runs": 10, "runs_wanted": 10, "histories": 2, "histories_wanted": 8, "rows": 500}, 10.0)
    '10 of 10 runs, 2 of 8 histories, 500 rows (50 a second), about 30 s left'
    """
    parts = []
    left_s = 0.0
    for what in ("runs", "histories"):
        done, wanted = counts.get(what, 0), counts.get(f"{what}_wanted", 0)
        if wanted:
            parts.append(f"{done:,} of {wanted:,} {what}")
            left_s = elapsed_s * (wanted - done) / done if done else 0.0  # not known yet
    if rows := counts.get("rows", 0):
        parts.append(f"{rows:,} rows ({rows / elapsed_s:,.0f} a second)")
    if left_s and elapsed_s >= PLAIN_LINE_S / 2:
        parts.append(f"about {left_s:,.0f} s left")
    return ", ".join(parts)


def show(text: str) -> None:
    """Print to stdout; nobody has to read it: a closed pipe (`| head`) does not change how the script ends."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(message: str) -> None:
    """Print one line to stderr; nobody has to read it."""
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


def parse_args(argv: Sequence[str] | None) -> Options:  # noqa: PLR0915 - a list of flags
    """The command line as Options; the only place that knows argparse."""
    parser = Parser(__doc__ or "")
    flag = parser.add_argument_group("source").add_argument
    flag("places", nargs="*", metavar="PLACE", help="entity/project[/run], or a W&B URL of a project, run or sweep")
    flag("--api-key-file", metavar="FILE", type=Path, help="a file that holds the API key")
    flag("--offline", metavar="DIR", type=Path, help="no server: the folder that holds run folders, at any depth")
    flag("--verify", metavar="DIR", type=Path, help="export nothing: compare earlier exports with their checksums")
    flag = parser.add_argument_group("which runs (values of one flag are ORed, flags are ANDed)").add_argument
    several: dict[str, Any] = {"action": "extend", "type": comma_list, "default": []}
    flag("-e", "--entity", **several, help="of this entity (default: the key's own; offline: any)")
    flag("-p", "--project", **several, metavar="GLOB", help="of these projects (default: all)")
    flag("--since", type=moment, metavar="WHEN", help="created at or after: 7d, 24h, 2w, 2026-01-15, an ISO time (UTC)")
    flag("--until", type=moment, metavar="WHEN", help="created before")
    flag("--active-since", type=moment, metavar="WHEN", help="last heartbeat at or after")
    flag("--state", **several, help=", ".join(STATES))
    flag("--tag", **several, help="with this tag")
    flag("--group", **several, help="of this group")
    flag("--sweep", **several, metavar="ID", help="of this sweep")
    flag("--where", type=mongo_filter, default={}, metavar="JSON", help="W&B's own Mongo-style filter; server only")
    flag = parser.add_argument_group("what is written").add_argument
    flag("-o", "--output", metavar="DIR", type=Path, default=Path("wandb_export"), help="default: wandb_export/")
    flag("--include-history", action="store_true", help="also every history row, unsampled")
    flag("--history-keys", **several, metavar="GLOBS", help="only these metrics, by W&B or flattened name")
    flag("--history-samples", type=positive, metavar="N", help="about N rows a run, sampled, in a file of its own")
    flag("--system-metrics", action="store_true", help="also system metrics, sampled by the server")
    flag("--prune", action="store_true", help="drop runs of an earlier export that the source no longer has")
    flag("--dry-run", action="store_true", help="say which projects, runs and rows would be fetched; write nothing")
    flag = parser.add_argument_group("how (numbers with their defaults)").add_argument
    flag("--workers", type=positive, metavar="N", help=f"questions at once ({WORKERS}); offline: processes (all cores)")
    flag("--timeout", type=positive, metavar="S", default=TIMEOUT_S, help="seconds for an answer (%(default)s)")
    flag("--retries", type=not_negative, metavar="N", default=RETRIES, help="further tries of what fails (%(default)s)")
    flag("--json", action="store_true", help="the result as one JSON object on stdout")
    flag("--quiet", action="store_true", help="nothing on stderr but errors")
    flag("--debug", action="store_true", help="show the traceback of an error")
    given = vars(parser.parse_strictly(argv))
    server_only = ("places", "where", "history_samples", "system_metrics", "api_key_file")
    for name in server_only if given["offline"] else ():
        if given[name]:
            what = "a PLACE" if name == "places" else f"--{name.replace('_', '-')}"
            raise ScriptError(f"{what} means a server, --offline none; leave one of them out", WRONG_USAGE)
    if given["places"] and (given["entity"] or given["project"]):
        raise ScriptError("name projects either as entity/project or with -e and -p, not both", WRONG_USAGE)
    if given["history_keys"] and not (given["include_history"] or given["history_samples"]):
        raise ScriptError("--history-keys chooses among the history: add --include-history", WRONG_USAGE)
    changed = [name for name, value in given.items() if value not in (parser.get_default(name), [])]
    others = [name for name in changed if name not in ("verify", "json", "quiet", "debug")]
    if given["verify"] and others:
        what = "a PLACE" if others[0] == "places" else f"--{others[0].replace('_', '-')}"
        raise ScriptError(f"--verify exports nothing; leave {what} out", WRONG_USAGE)
    if not is_storable(str(given["output"])):  # polars writes to no such path
        raise ScriptError("the path of -o is no UTF-8 text; choose another", WRONG_USAGE)
    states = [state.lower() for state in given["state"]]
    for state in states:
        if state not in (*STATES, "all"):
            known = f"{did_you_mean(state, STATES)}; there are {', '.join(STATES)}"
            raise ScriptError(f"--state {state}: no such state{known}; --help shows how it is used", WRONG_USAGE)
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
    with suppress(ValueError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise argparse.ArgumentTypeError("takes a JSON object, as in W&B's filters")


def moment(text: str) -> datetime:
    """So long ago, or a date or time; UTC where no zone is given.

    >>> moment("2026-01-15").isoformat()
    '2026-01-15T00:00:00+00:00'
    """
    try:
        if ago := re.fullmatch(r"(\d{1,6})([hdw])", text):
            return now() - int(ago[1]) * timedelta(hours={"h": 1, "d": 24, "w": 168}[ago[2]])
        given = datetime.fromisoformat(text)
        return given.replace(tzinfo=given.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"{text}: no time; write 7d, 24h, 2w, 2026-01-15 or 2026-01-15T12:00"
        raise argparse.ArgumentTypeError(message) from error


def now() -> datetime:
    return datetime.now(UTC)


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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, or nothing when none is near.

    >>> did_you_mean("--stat", ["--state", "--since"])
    '; did you mean --state?'
    """
    near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# --- the whole ------------------------------------------------------------------------------------------------


def import_libraries() -> None:
    """Import what takes time: once the command line is right, before threads use it."""
    global version, orjson, pl
    from importlib.metadata import version

    import orjson
    import polars as pl

    if hasattr(signal, "siginterrupt"):  # polars' own handler lets a wait for a lock go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)


def export(options: Options) -> int:
    """From the source to the files: the summary of this script."""
    global requests, urllib3
    gc.disable()  # runs are many small objects without cycles: looking for these took a tenth of the time
    say: Say = (lambda _: None) if options.quiet else tell
    if options.verify:
        return verify(options.verify, options, say)
    with ExitStack() as at_end:
        if options.offline:
            server, source = None, {"kind": "offline", "directory": str(options.offline.absolute())}
            import_libraries()
        else:
            address = base_url()
            key = api_key(options.api_key_file, address)
            import requests
            import urllib3

            meter = at_end.enter_context(Meter(quiet=options.quiet))
            server = Server(address, key, options, meter, say)
            source = {"kind": "server", "base_url": address}
            asking = ThreadPoolExecutor(1).submit(find_projects, server)
            import_libraries()  # meanwhile
            projects, failed = asking.result()
        folders = at_end.enter_context(working_folders(options.output, say, dry_run=options.dry_run))
        if server is None:
            projects, failed = read_offline(options, folders.work, say), []
        settle_stems(projects, options.output)
        work = partial(export_project, server, options=options, source=source, folders=folders)
        side_by_side(work, projects, PROJECTS_AT_ONCE if server else 1)
    return report(projects, failed, options, say)


def export_project(
    server: Server | None, project: Project, *, options: Options, source: Mapping[str, object], folders: Folders
) -> None:
    """Export one project; what goes wrong with it is its own failure and not the others'."""
    if any(failure.what == "project" for failure in project.failed):
        return
    try:
        project.earlier = earlier_files(options.output, project.stem)
        if server is not None:
            fetch_project(server, project, folders)
        # An export of a whole project without runs states that all runs of an earlier one are gone.
        is_news = project.runs.height or project.failed or (project.all_ids is not None and "runs" in project.earlier)
        if is_news and not options.dry_run:
            write_project(project, options, source, folders.work)
            shutil.rmtree(folders.kept / project.stem, ignore_errors=True)
    except (RequestError, ScriptError) as error:  # the second of its files
        project.failed.append(Failure(project.path, "project", str(error), getattr(error, "attempts", 1)))
    except (Exception, pl.exceptions.PanicException) as error:
        if options.debug:
            raise
        project.failed.append(Failure(project.path, "project", f"cannot be understood: {error!r}"[:300]))


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed ones are None
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names that the terminal's encoding lacks
    try:
        return export(parse_args(argv))
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
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; see to it and run again"
        tell(f"error: {message}")
        return code


def end_at_once(code: int) -> NoReturn:
    """End at once, but for files that are being renamed: threads that wait for a server would hold the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it may be closed, or None
            stream.flush()
    with PUBLISHING:
        os._exit(code)


if __name__ == "__main__":
    end_at_once(main())
