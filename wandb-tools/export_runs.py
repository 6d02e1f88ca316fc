#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6,<7",
#   "requests>=2.32,<3",
#   "rich>=15,<16",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Export W&B runs to parquet: every config, summary and history row, nothing sampled, nothing lost.

From a server: the projects, runs or sweeps named as PLACE, or the projects of -e and -p. The server evaluates the
filters. With --offline, from the run folders that the W&B SDK leaves on disk: no server, no account, no key; also runs
that crashed before a sync. Writes, for every entity and project,

  <dir>/<entity>_<project>_runs.parquet      one row per run
  <dir>/<entity>_<project>_history.parquet   one row per run and step (with --include-history)
  <dir>/<entity>_<project>_metadata.json     what was asked, what was got, what failed

and prints the paths it wrote. With --history-samples and --system-metrics come <...>_history_sampled.parquet and
<...>_system.parquet, both sampled by the server.

Again into the same folder, it refreshes all runs, fetches only histories that changed, and keeps runs that are not in
this export. Interrupted, it goes on from the histories that it has.

The API key comes from WANDB_API_KEY, `wandb login` or --api-key-file, never from an argument. For a self-hosted server
set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private.

Examples:
  uv run wandb-tools/export_runs.py my-team/my-project -o export/ --include-history
  uv run wandb-tools/export_runs.py -e my-team -p 'denoising*' --state finished,crashed --since 7d
  uv run wandb-tools/export_runs.py https://wandb.ai/my-team/my-project/sweeps/abc123 --dry-run
  uv run wandb-tools/export_runs.py my-team/my-project --include-history --history-keys 'val/*,epoch' --json
  uv run wandb-tools/export_runs.py --offline wandb/ -o export/ --include-history

Exit codes:
  0    all done (a log that a crash cut off is noted and is no failure)
  1    nothing usable: no access, no run there, none left after the filters, or the output cannot be written
  2    wrong usage
  3    partial: some projects, runs or logs failed; the rest is written, the failures are named
  130  interrupted: a project's files are all new or all as they were; finished histories are kept
"""

from __future__ import annotations

import argparse
import copyreg
import difflib
import fnmatch
import hashlib
import heapq
import importlib
import importlib.util
import io
import json
import math
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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, partial
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, Self, TextIO, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from importlib.metadata import version

    import orjson
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq
    import requests
    import wandb
    from pydantic import ValidationError
    from rich.progress import Progress, TaskID
    from urllib3.exceptions import HTTPError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
HISTORIES_KEY = "wandb_tools.histories"  # of a history file: what each run's history was when it was fetched
SCHEMA_VERSION = "1"

VERSION = "0.1.0"

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
NO_ENTITY, NO_PROJECT = "offline", "uncategorized"  # stand-ins; the second is the SDK's own
FRESH = timedelta(minutes=5)  # W&B's own limit: a run without a sign of life for longer has crashed
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # stands for a time that nobody knows
CRASHED_EXIT_CODE = 254  # what the SDK records for a run that it found dead

CONFIG, METRIC = "config_", "metric_"  # the prefixes of flattened columns
NOT_CONFIG = ("_wandb", "wandb_version")  # W&B's own notes in a config
EMPTY, MIXED = "empty", "mixed"  # kinds of a page's columns besides the dtypes

CLOCKS = (("_step",), ("_runtime",), ("_timestamp",))  # W&B's own keys of a history row
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as W&B's JSON spells them in text
SUMMARY_KINDS = (
    "min",
    "max",
    "mean",
    "best",
    "last",
    "none",
    "copy",
    "first",
)  # of define_metric(summary=...), as protobuf numbers them
GOALS = {1: "minimize", 2: "maximize"}  # of the protobuf field MetricRecord.goal

ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

CONNECT_LIMIT_S = 6  # with `import wandb` before it, a server that cannot be reached is named within 10 s
DISCONNECT_LIMIT_S = 1  # a hundred times what it takes
RETRY_WAIT_MIN_S, RETRY_WAIT_MAX_S = 1, 2  # the SDK takes whole seconds; doubles from the first to the second
REFUSED = (401, 403)  # HTTP statuses that mean the key
BUSY = re.compile(r"HTTP (429|5\d\d)")  # in the SDK's words, of a server that lives
SIGN_IN_WAITS_S = (1, 2)  # before further tries
MOST_WORKERS = 10  # the SDK lets no more questions be under way
WORKERS = 8  # a shared server bears that; more gain little
TIMEOUT_S = 60  # enough for the largest page from a busy server; longer looks like a hang
RETRIES = 4
LONGEST_WAIT_S = 30.0  # between two tries
LONGEST_RETRY_AFTER_S = 300.0  # a longer wait that a server asks for looks like a hang
LEAST_BYTES_S = 10_000  # a slower download is given up once the timeout is over
PLACES = {"runs": "run", "sweeps": "sweep", "groups": "group"}  # parts of a W&B URL, and what the next one names
WORKER_DIED = "a worker died, of too little memory perhaps; try --workers 1"
PARSERS = min(4, os.cpu_count() or 1)  # processes: one keeps up with about 3,000 runs a second
PROJECTS_AT_ONCE = 4
WINDOW_RUNS = 600  # that a window should hold: a page holds some more, and smaller ones are parsed earlier
COUNT_TRIES = 2  # for a history that came whole, but shorter than the server counts
LISTINGS = 3  # before a project that keeps changing is taken as it is
RUNS_A_QUESTION = 20  # histories or sweeps
TABLES = ("history", "history_sampled", "system")  # files with many rows a run, by the end of their names
LIVE_ROWS_A_QUESTION = 5_000
SYSTEM_SAMPLES = 1_000  # rows of system metrics a run
DOWNLOAD_BYTES = 1 << 20
FAILURES_NAMED = 10  # on stderr, of those with one cause
NO_FILES = ("project", "projects")  # failures that no metadata tells of
PLAIN_LINE_S = 10  # between two lines of progress where there is no terminal

PAGE_RUNS = 1_000  # runs a question, the most that a server gives, and rows that are made together
ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 16_000_000  # of configs and summaries, which may be long
ROW_GROUP_CELLS = 10_000_000  # where there are many metrics, row groups are shorter: 80 MB at most
KEPT_CELLS = 1_000_000  # of an earlier history, copied at a time
PART_ITEMS = 300_000  # logged values that a reader holds before it writes them away: about 40 MB
PART_CELLS = 6_000_000  # the same bound for rows x columns, where metrics are sparse: 50 MB
MANY_LOGS = 200  # as many logs as are worth a second process whatever their size
MANY_BYTES = 16_000_000  # logs of less than this in all are read sooner than a second process starts

# The transaction log: a header, then LevelDB's log format in blocks counted from the start of the file.
LOG_HEADER = bytes.fromhex("3a572642e1be00")  # ":W&B", the magic 0xBEE1 in little-endian order, version 0
BLOCK_BYTES = 32_768
CHUNK_HEADER = struct.Struct("<IHB")  # CRC-32 of kind and payload, payload's length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
UNREADABLE, CUT_OFF = -1, -2  # our own kinds, for a stretch of bytes that is no valid chunk

# --- nouns ----------------------------------------------------------------------------------------------------

KeyPath: TypeAlias = tuple[str, ...]
RunPath: TypeAlias = tuple[str, str, str]  # entity, project, id: one id may occur in several projects
Scalar: TypeAlias = bool | int | float | str | None
Say: TypeAlias = Callable[[str], None]


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class QueryError(Exception):
    """A question that the server did not answer, and why; `status` is the HTTP status, 0 where there is none.

    With a status from 400 to 499 the same question will fail again; otherwise it may be worth a second try.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class GivenUpError(QueryError):
    """The same, asked often enough or not asked any more."""


class DownloadError(Exception):
    """A file that did not come whole, and why, without its URL: that one is signed."""


class NoFileError(DownloadError):
    """The same, from a service that lives and gives a plain answer: no access, or no such file."""


class NoDownloadError(DownloadError):
    """A file that nobody asks for any more."""


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


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    offline: Path | None  # None: from the server
    places: tuple[Target, ...]
    output: Path
    selection: Selection
    include_history: bool
    history_keys: tuple[str, ...]  # globs; empty means all
    history_samples: int | None
    system_metrics: bool
    workers: int
    timeout_s: int
    retries: int
    key_file: Path | None
    prune: bool
    dry_run: bool
    json: bool
    quiet: bool
    debug: bool


@dataclass(frozen=True)
class MetricDefinition:
    """What `define_metric` said of a metric, or of all that a pattern with a trailing `*` matches."""

    pattern: str
    goal: str | None
    summary: str | None  # one or more of SUMMARY_KINDS, with commas, as define_metric takes them
    step_metric: str | None


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one run's history in a parquet file of ours; its columns are named by `column_key`."""

    file: Path
    rows: int
    first_step: int
    last_step: int
    ascending: bool  # strictly
    metrics: Mapping[KeyPath, str]  # to the name of their dtype
    repeated: int = 0  # rows whose step another one has


@dataclass(frozen=True)
class Run:
    """One run, whatever it was read from. Its fields are the columns of the runs file, and what makes the others."""

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
    tags: tuple[str, ...]
    group: str | None
    job_type: str | None
    sweep: str | None
    user: str | None
    notes: str | None
    commit: str | None
    url: str | None
    exported_at: datetime
    config: Mapping[str, object]
    summary: Mapping[str, object]
    config_json: str | None = None  # instead of the config's own JSON: a text that could not be parsed
    summary_json: str | None = None  # the same, or the server's text where that is valid JSON
    definitions: tuple[MetricDefinition, ...] = ()
    history: tuple[Part, ...] = ()  # in the order of their steps


@dataclass(frozen=True)
class Failure:
    """What could not be had of a run (or of a file whose run is not known), while the rest went on."""

    run: str
    what: str
    error: str
    attempts: int = 1


@dataclass
class Findings:
    """What a source found: the runs, and what is to be said of them."""

    runs: list[Run] = field(default_factory=list)
    failed: dict[RunPath | None, list[Failure]] = field(default_factory=dict)  # None: belongs to no known run
    torn: dict[RunPath | None, list[str]] = field(default_factory=dict)
    skipped_history_keys: dict[RunPath, set[KeyPath]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)  # ids, by the files' names, of runs of which nothing could be read
    sees_all: bool = True  # False: there are places that could not be looked into


# --- the log file: bytes to records ---------------------------------------------------------------------------


@dataclass
class Integrity:
    """What a reader noticed about a log, besides the records in it."""

    is_log: bool = True
    torn: bool = False  # ends in the middle of a record: what every crash leaves
    damage: list[str] = field(default_factory=list)  # places in the middle that cannot be read


def log_records(log: BinaryIO, integrity: Integrity) -> Iterator[bytes]:
    """The payload of every record that can be read, in order; `integrity` holds, at the end, what cannot be.

    A record counts only if its checksums hold. After damage, reading goes on at the next valid chunk.
    """
    pieces: list[bytes] | None = None  # of a record in several chunks; None: none has begun
    for offset, kind, payload in certain_chunks(log, integrity):
        if kind == UNREADABLE:
            pieces = None
        elif kind in (FULL, FIRST):
            if pieces is not None:
                integrity.damage.append(f"byte {offset}: the record before it has no end")
            pieces = [payload] if kind == FIRST else None
            if kind == FULL:
                yield payload
        elif pieces is not None:
            pieces.append(payload)
            if kind == LAST:
                yield b"".join(pieces)
                pieces = None
        elif not integrity.damage:  # else it is the rest of a record whose loss is noted already
            integrity.damage.append(f"byte {offset}: a record without its beginning")
    integrity.torn |= pieces is not None


def certain_chunks(log: BinaryIO, integrity: Integrity) -> Iterator[tuple[int, int, bytes]]:
    """As log_chunks, but without CUT_OFF: that is UNREADABLE where something valid follows, else the log's torn end."""
    cut_off_at: int | None = None
    for offset, kind, payload in log_chunks(log, integrity):
        if kind == CUT_OFF:
            cut_off_at = offset if cut_off_at is None else cut_off_at
            continue
        if cut_off_at is not None:
            integrity.damage.append(f"byte {cut_off_at}")
            yield cut_off_at, UNREADABLE, b""
            cut_off_at = None
        if kind == UNREADABLE:
            integrity.damage.append(f"byte {offset}")
        yield offset, kind, payload
    integrity.torn |= cut_off_at is not None


def log_chunks(log: BinaryIO, integrity: Integrity) -> Iterator[tuple[int, int, bytes]]:
    """Offset, kind and payload of every chunk; UNREADABLE or CUT_OFF, without payload, for bytes that are none."""
    offset = 0
    start = len(LOG_HEADER)
    while block := log.read(BLOCK_BYTES):
        if offset == 0 and not block.startswith(LOG_HEADER):
            if LOG_HEADER.startswith(block):  # killed within the first seven bytes
                integrity.torn = True
                return
            if next_chunk(block, start) is None:
                integrity.is_log = False
                return
            integrity.damage.append("the header")
        yield from block_chunks(block, start, offset)
        offset += len(block)
        start = 0
    if offset <= len(LOG_HEADER):  # killed before the first record
        integrity.torn = True


def block_chunks(block: bytes, start: int, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """The chunks of one block (32,768 bytes, or what there is of the file's last one), from `start` on."""
    at, size = start, len(block)
    while size - at >= CHUNK_HEADER.size:
        end = chunk_end(block, at)
        if end is not None:
            yield offset + at, block[at + 6], block[at + CHUNK_HEADER.size : end]
            at = end
            continue
        following = next_chunk(block, at + 1)
        cut_off = following is None and looks_cut_off(block, at)
        yield offset + at, CUT_OFF if cut_off else UNREADABLE, b""
        if following is None:
            return
        at = following
    if at < size and (size < BLOCK_BYTES or any(block[at:])):  # a whole block ends in fewer than 7 zeros
        yield offset + at, CUT_OFF if size < BLOCK_BYTES else UNREADABLE, b""


def chunk_end(block: bytes, at: int) -> int | None:
    """Where the valid chunk that begins at `at` ends; None where none begins."""
    crc, length, kind = CHUNK_HEADER.unpack_from(block, at)
    end = at + CHUNK_HEADER.size + length
    if FULL <= kind <= LAST and end <= len(block) and zlib.crc32(block[at + 6 : end]) == crc:
        return int(end)
    return None


def next_chunk(block: bytes, at: int) -> int | None:
    """The first place from `at` on where a valid chunk begins: its checksum of 32 bits makes it no coincidence."""
    kinds = re.finditer(rb"[\x01-\x04]", block[at + 6 :])  # the kind is the header's seventh byte
    return next((at + kind.start() for kind in kinds if chunk_end(block, at + kind.start()) is not None), None)


def looks_cut_off(block: bytes, at: int) -> bool:
    """Whether the bytes from `at` on are how a kill or a power loss leaves a file: too few, or zeros."""
    _crc, length, kind = CHUNK_HEADER.unpack_from(block, at)
    end = at + CHUNK_HEADER.size + length
    return not any(block[at:]) or (FULL <= kind <= LAST and len(block) < end <= BLOCK_BYTES)


# --- one log: records to a log --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SummaryChange:
    """One step of a summary's making: the value at `path` becomes `value`, or goes."""

    path: KeyPath
    whole: bool  # set by the user as one value; a deeper path set later does not add to it but replaces it
    value: object
    removed: bool = False


@dataclass
class Log:
    """What one `.wandb` file tells."""

    file: Path
    integrity: Integrity = field(default_factory=Integrity)
    records: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)  # the last run record's plain fields
    started_at: datetime | None = None
    newest_at: datetime | None = None
    exit_code: int | None = None
    config: dict[str, object] = field(default_factory=dict)
    summary: list[SummaryChange] = field(default_factory=list)
    definitions: dict[str, MetricDefinition] = field(default_factory=dict)
    history: list[Part] = field(default_factory=list)
    skipped_keys: set[KeyPath] = field(default_factory=set)


def read_log(file: Path, parts: Path, history_keys: tuple[str, ...] | None) -> Log:
    """Everything that `file` holds, its history as files in the folder `parts`.

    `history_keys`: globs of the metrics wanted, `()` for all, None for only the steps. OSError if unreadable.
    """
    types_ = record_types()
    log = Log(file)
    rows = HistoryRows(types_, parts, history_keys)
    changes: dict[tuple[bool, KeyPath, bool], bytes] = {}
    item_path = ItemPaths(types_.SummaryItem)
    with file.open("rb", buffering=32 * BLOCK_BYTES) as opened:
        for payload in log_records(opened, log.integrity):
            log.records += 1
            try:
                glance = types_.Glance.FromString(payload)
                if glance.HasField("history"):
                    rows.add(glance.history)
                elif glance.HasField("summary"):
                    note_summary(changes, glance.summary, item_path)
                else:
                    apply_record(log, types_.Record.FromString(payload))
            except types_.DecodeError as error:
                rows.drop_unfinished()
                log.integrity.damage.append(f"record {log.records}: {error}")
    log.history = rows.finish()
    log.skipped_keys = rows.skipped_keys
    log.summary = [summary_change(types_, key, item) for key, item in changes.items()]
    log.newest_at = newest(log.newest_at, rows.newest_at)
    return log


def apply_record(log: Log, record: Any) -> None:
    """Take from a record, other than of history and summary, what an export needs."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        apply_run(log, record.run)
    elif kind == "config":
        for item in record.config.update:
            put(log.config, config_path(item), from_json(item.value_json))
        for item in record.config.remove:
            remove(log.config, config_path(item))
    elif kind == "metric":
        apply_metric(log, record.metric)
    elif kind == "exit":
        log.exit_code = record.exit.exit_code
        if log.started_at is not None:
            log.newest_at = newest(log.newest_at, log.started_at + timedelta(seconds=record.exit.runtime))
    elif kind in ("stats", "output_raw"):
        log.newest_at = newest(log.newest_at, moment_of(getattr(record, kind).timestamp))


def apply_run(log: Log, run: Any) -> None:
    """A run record comes again, whole, when name, notes or tags change, but with large ints as floats in its config."""
    config: dict[str, object] = {}
    for item in run.config.update:
        put(config, config_path(item), from_json(item.value_json))
    log.config = config | log.config
    log.started_at = log.started_at or moment_of(run.start_time)
    log.newest_at = newest(log.newest_at, log.started_at)
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


def apply_metric(log: Log, metric: Any) -> None:
    """Later definitions of a metric add to the earlier ones."""
    pattern = metric.name or metric.glob_name
    known = log.definitions.get(pattern, MetricDefinition(pattern, None, None, None))
    kinds = [kind for kind in SUMMARY_KINDS if getattr(metric.summary, kind)]
    log.definitions[pattern] = MetricDefinition(
        pattern,
        GOALS.get(metric.goal, known.goal),
        ",".join(kinds) or known.summary,
        metric.step_metric or known.step_metric,
    )


def note_summary(changes: dict[tuple[bool, KeyPath, bool], bytes], summary: Any, item_path: ItemPaths) -> None:
    """Keep each path's last change, in the order in which they came: of earlier ones nothing remains."""
    for items, removed in ((summary.item, False), (summary.other, True)):
        for item in items:
            whole, path = item_path(item)
            changes.pop((whole, path, removed), None)
            changes[whole, path, removed] = item


def summary_change(types_: RecordTypes, key: tuple[bool, KeyPath, bool], item: bytes) -> SummaryChange:
    whole, path, removed = key
    return SummaryChange(
        path, whole, None if removed else from_json(types_.SummaryItem.FromString(item).value_json), removed
    )


def config_path(item: Any) -> KeyPath:
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


def moment_of(timestamp: Any) -> datetime | None:
    """A protobuf timestamp in UTC; None where it is not set."""
    moment = moment_at(timestamp.seconds) if timestamp.seconds else None
    return moment and moment + timedelta(microseconds=timestamp.nanos // 1000)


def moment_at(seconds: float) -> datetime | None:
    """Seconds since 1970 as a moment; None where they are no date."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def newest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


# --- history items, the bulk of a log: kept as bytes, parsed by the column ------------------------------------

VALUE_TAG = b"\x82\x01"  # the protobuf tag of `value_json` (field 16, length-delimited), which comes last in an item
DROPPED: list[bytes | None] = []  # stands for the column of a key that is not wanted


@dataclass(frozen=True)
class RecordTypes:
    """The protobuf classes that a reader needs."""

    Record: Any
    HistoryItem: Any
    HistoryStep: Any
    SummaryItem: Any
    Glance: Any
    DecodeError: type[Exception]


@cache
def record_types() -> RecordTypes:
    """W&B's own record classes, and Glance: the same record seen with its history and summary items left as bytes.

    protobuf lets a `bytes` field stand for an embedded message. A training log is nearly all such items; as bytes
    they cost a third of what as many message objects would.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    proto = wandb_proto()
    file = descriptor_pb2.FileDescriptorProto(name="wandb_tools/glance.proto", package="wandb_tools")
    kinds = descriptor_pb2.FieldDescriptorProto
    items = file.message_type.add(name="Items")
    for name, number in (("item", 1), ("other", 2)):  # other: HistoryRecord.step, SummaryRecord.remove
        items.field.add(name=name, number=number, label=kinds.LABEL_REPEATED, type=kinds.TYPE_BYTES)
    glance = file.message_type.add(name="Glance")
    for name in ("history", "summary"):
        number = proto.Record.DESCRIPTOR.fields_by_name[name].number
        glance.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=".wandb_tools.Items",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return RecordTypes(
        proto.Record,
        proto.HistoryItem,
        proto.HistoryStep,
        proto.SummaryItem,
        message_factory.GetMessageClass(pool.FindMessageTypeByName("wandb_tools.Glance")),
        DecodeError,
    )


def wandb_proto() -> Any:
    """The SDK's module of record classes, without the SDK's other 0.8 s of imports.

    It is no public part of wandb: the log format has none. The package's own `__init__` is passed over by an empty
    stand-in while the module loads.
    """
    if "wandb" not in sys.modules:
        spec = importlib.util.find_spec("wandb")
        stand_in = types.ModuleType("wandb")
        stand_in.__path__ = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules["wandb"] = stand_in
        try:
            return importlib.import_module("wandb.proto.wandb_internal_pb2")
        finally:
            del sys.modules["wandb"]
    return importlib.import_module("wandb.proto.wandb_internal_pb2")


class ItemPaths:
    """The key path of a history or summary item in bytes, and whether it is `key` (a whole value) or `nested_key`.

    An item is its keys, then its value. Items of one metric begin with the same bytes, so that each metric's keys are
    parsed once. A beginning is trusted only if it is, byte for byte, what its keys serialise to.
    """

    def __init__(self, item_type: Any) -> None:
        self.item_type = item_type
        self.known: dict[bytes, tuple[bool, KeyPath]] = {}

    def __call__(self, item: bytes) -> tuple[bool, KeyPath]:
        keys = item.partition(VALUE_TAG)[0]
        found = self.known.get(keys)
        if found is None:
            parsed = self.item_type.FromString(item)
            found = (not parsed.nested_key, tuple(parsed.nested_key) or (parsed.key,))
            if self.item_type(key=parsed.key, nested_key=parsed.nested_key).SerializeToString() == keys:
                self.known[keys] = found
        return found


class HistoryRows:
    """Collects a log's history rows column by column, and writes them to parts whenever enough have come.

    A column is a list of the values' JSON, each after one byte (its length), None where a row lacks the key; it may be
    shorter than there are rows, until the part is written.
    """

    def __init__(self, types_: RecordTypes, parts: Path, history_keys: tuple[str, ...] | None) -> None:
        self.types = types_
        self.item_path = ItemPaths(types_.HistoryItem)
        self.parts = parts
        self.history_keys = history_keys
        self.written: list[Part] = []
        self.skipped_keys: set[KeyPath] = set()
        self.newest_at: datetime | None = None
        self.start_part()

    def start_part(self) -> None:
        self.rows = 0
        self.items = 0
        self.columns: dict[KeyPath, list[bytes | None]] = {("_step",): []}
        self.by_keys: dict[bytes, list[bytes | None]] = {}

    def add(self, row: Any) -> None:
        """Add one row; `row` is a history record of Glance."""
        rows, by_keys, steps = self.rows, self.by_keys, self.columns[("_step",)]
        for item in row.item:
            keys, _, value = item.partition(VALUE_TAG)
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
            steps.append(b"\0%d" % self.types.HistoryStep.FromString(b"".join(row.other)).num)
        self.rows += 1
        self.items += len(row.item)
        if self.items >= PART_ITEMS or self.rows * len(self.columns) >= PART_CELLS:
            self.write_part()

    def drop_unfinished(self) -> None:
        """Take back what was added of a row of which an item cannot be decoded."""
        for column in self.columns.values():
            del column[self.rows :]

    def parsed(self, item: bytes, keys: bytes) -> tuple[list[bytes | None], bytes]:
        """Column and value of an item whose keys are new, or whose value is not short JSON."""
        path = self.item_path(item)[1]
        column = self.columns.setdefault(path, []) if self.wanted(path) else DROPPED
        if keys in self.item_path.known:
            self.by_keys[keys] = column
        parsed = self.types.HistoryItem.FromString(item)
        text = parsed.value_json or typed_value(parsed)
        if len(text) > 100 and text[0] in '"[{':  # not a number: which text it is does not matter
            text = '"…"'
        return column, b"\0" + text.encode()

    def wanted(self, path: KeyPath) -> bool:
        if path in CLOCKS:
            return True
        if path[0].startswith("_"):
            self.skipped_keys.add(path)
            return False
        return self.history_keys is not None and (
            not self.history_keys or path[-1] == "_type" or names_match(path, self.history_keys)
        )

    def finish(self) -> list[Part]:
        """All parts, in the order of the log."""
        if self.rows:
            self.write_part()
        return self.written

    def write_part(self) -> None:
        """Parse the columns' values, leave out what is no number, and write the rest to a file."""
        paths = {column_key(path): path for path in sorted(self.columns)}
        media = {path[:-1] for path in self.columns if len(path) > 1 and path[-1] == "_type"}
        inside = {
            path: [path[:depth] for depth in range(1, len(path)) if path[:depth] in media] for path in self.columns
        }
        texts = outside_media(json_texts(self.columns, self.rows), inside)
        found, others = json_numbers(texts)
        numbers = {paths[name]: found[name] for name in paths if name in found}
        self.skipped_keys |= {paths[name] for name in others}
        self.skipped_keys |= {top for tops in inside.values() for top in tops if self.wanted(top)}
        for clock, dtype in zip(CLOCKS, (pl.Int64, pl.Float64, pl.Float64), strict=True):
            series = numbers.get(clock, pl.Series([None] * self.rows, dtype=dtype))
            numbers[clock] = series.cast(dtype, strict=False)
        self.newest_at = newest(self.newest_at, moment_at(cast("float", numbers[("_timestamp",)].max() or 0.0)))
        self.written.append(write_part(numbers, self.parts))
        self.start_part()


def outside_media(texts: pl.DataFrame, media: Mapping[KeyPath, Sequence[KeyPath]]) -> pl.DataFrame:
    """The texts; null where one of the keys above, told by `media`, is a media object: its `_type` betrays it."""
    outside = [
        pl.when(pl.all_horizontal(pl.col(column_key((*top, "_type"))).is_null() for top in tops))
        .then(pl.col(column_key(path)))
        .alias(column_key(path))
        for path, tops in media.items()
        if tops
    ]
    return texts.with_columns(outside)


def typed_value(item: Any) -> str:
    """The JSON of a history item that was written in typed fields (the SDK's encoding without `value_json`)."""
    kind = next((f.name for f, _ in item.ListFields() if f.name not in ("key", "nested_key", "value_json")), "none")
    if kind == "none":
        return "null"
    value = getattr(item, kind)
    return str(value) if kind == "json" else json.dumps(value)


def json_texts(columns: Mapping[KeyPath, list[bytes | None]], rows: int) -> pl.DataFrame:
    """The JSON texts of columns (String), named by `column_key`; null where the key is missing or null."""
    padded = {column_key(path): values + [None] * (rows - len(values)) for path, values in columns.items()}
    frame = pl.DataFrame(padded, schema=dict.fromkeys(padded, pl.Binary))
    return frame.select(pl.all().cast(pl.String, strict=False).str.slice(1).replace("null", None))


def json_numbers(texts: pl.DataFrame) -> tuple[dict[str, pl.Series], set[str]]:
    """The columns' numbers as Int64, else Float64, where there are any; and the columns that hold something else too.

    Booleans are 0 and 1; the texts "NaN", "Infinity" and "-Infinity" are numbers.
    """
    spelt = texts.select(pl.all().replace({"true": "1", "false": "0"} | {f'"{name}"': name for name in NON_FINITE}))
    integers = spelt.select(pl.all().cast(pl.Int64, strict=False))
    floats = spelt.select(pl.all().cast(pl.Float64, strict=False))
    nulls = (frame.null_count().row(0) for frame in (texts, integers, floats))
    numbers: dict[str, pl.Series] = {}
    others: set[str] = set()
    for name, absent, no_integer, no_number in zip(texts.columns, *nulls, strict=True):
        if no_number < texts.height:
            numbers[name] = (integers if no_integer == no_number else floats)[name]
        if no_number > absent:
            others.add(name)
    return numbers, others


def write_part(numbers: Mapping[KeyPath, pl.Series], parts: Path) -> Part:
    """Write columns of numbers, `_step` among them, as one part; the other clocks are null where they are missing."""
    rows = len(numbers[("_step",)])
    unknown = pl.Series([None] * rows, dtype=pl.Float64)
    numbers = {**dict.fromkeys(CLOCKS[1:], unknown), **numbers}
    frame = pl.DataFrame([series.alias(column_key(path)) for path, series in numbers.items()])
    steps = numbers[("_step",)]
    file = parts / f"{uuid.uuid4().hex}.parquet"
    write_intermediate(frame, file)
    return Part(
        file,
        rows=len(steps),
        first_step=cast("int", steps.min() or 0),
        last_step=cast("int", steps.max() or 0),
        ascending=(ascending := bool((steps.diff().drop_nulls() > 0).all())),
        metrics={path: str(series.dtype) for path, series in numbers.items() if path not in CLOCKS},
        repeated=0 if ascending else len(steps) - steps.n_unique(),
    )


def write_intermediate(frame: pl.DataFrame, file: Path) -> None:
    try:
        frame.write_parquet(file, compression="lz4", statistics=False)
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


# --- offline source: folders to runs --------------------------------------------------------------------------


def read_offline(folder: Path, options: Options, work: Path, say: Say) -> Findings:
    """Every run below the folder, its history as parts in `work`."""
    findings = Findings()

    def note_unreadable(error: OSError) -> None:
        findings.sees_all = False
        where = relative(Path(error.filename), folder)
        note_failure(findings, None, Failure(where, "folder", f"cannot be read: {error.strerror}"))

    files = find_logs(folder, say, note_unreadable)
    wanted = options.history_keys if options.include_history and not options.dry_run else None
    logs: dict[str, list[Log]] = {}
    with Meter(quiet=options.quiet) as meter:
        meter.add(runs_wanted=len(files))
        read = list(read_logs(files, work, wanted, options.workers, meter))
    for file, log in read:
        shown = relative(file, folder)
        if isinstance(log, Log) and log.records:
            logs.setdefault(run_id_of(log, file), []).append(log)
            continue
        findings.unread.add(run_id_of(Log(file), file))
        if isinstance(log, OSError):
            note_failure(findings, None, Failure(shown, "log", f"cannot be read: {log.strerror or log}"))
        elif log.integrity.is_log:
            note_integrity(findings, log, None, shown, say)
        else:
            say(f"skipped: {shown} is no W&B run log")
    for run_id, of_run in sorted(logs.items()):
        for same in by_project(of_run, options.selection):
            run = combined(run_id, same, work, say)
            findings.runs.append(run)
            findings.skipped_history_keys[run_path(run)] = set().union(*(log.skipped_keys for log in same))
            for log in same:
                note_integrity(findings, log, run, relative(log.file, folder), say)
    return findings


def run_path(run: Run) -> RunPath:
    return run.entity, run.project, run.id


def find_logs(folder: Path, say: Say, on_error: Callable[[OSError], None]) -> list[Path]:
    """Every `.wandb` file at or below `folder`, once, though links may lead to it more than once; sorted."""
    errors: list[OSError] = []
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ScriptError(f"no folder {folder}; name the one that holds offline-run-* or run-* folders", NOTHING_USABLE)
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=errors.append, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))  # noqa: PTH114, PTH118
        logs = [name for name in sorted(files) if name.endswith(".wandb")]
        for name in logs:
            found.setdefault(os.path.realpath(Path(parent, name)), Path(parent, name))
        if not logs and re.match(r"(offline-)?run-\d{8}_\d{6}-", Path(parent).name):
            say(f"skipped: {relative(Path(parent), folder)} is a run's folder without a log")
    for error in errors:
        on_error(error)
    if not found:
        why = f" ({errors[0].filename} cannot be read: {errors[0].strerror})" if errors else ""
        raise ScriptError(f"no W&B run logs (*.wandb) below {folder}{why}; name another folder", NOTHING_USABLE)
    return sorted(found.values())


def read_logs(
    files: Sequence[Path], work: Path, history_keys: tuple[str, ...] | None, workers: int, meter: Meter
) -> Iterator[tuple[Path, Log | OSError]]:
    """Every file's log, in the files' order; many large ones by several processes."""
    read = partial(read_log_or_error, parts=work, history_keys=history_keys)
    workers = min(workers, len(files))
    if workers < 2 or (len(files) < MANY_LOGS and sum(size_bytes(file) for file in files) < MANY_BYTES):
        for file in files:
            yield file, read(file)
            meter.add(runs=1)
        return
    largest_first = sorted(files, key=size_bytes, reverse=True)
    with Workers(workers) as processes:
        started = [processes.submit(read, file) for file in largest_first]
        for log in started:
            log.add_done_callback(lambda _: meter.add(runs=1))
        logs = {file: processes.result(log) for file, log in zip(largest_first, started, strict=True)}
    yield from ((file, logs[file]) for file in files)


def prepare_worker() -> None:
    import_libraries()
    copyreg.pickle(ScriptError, lambda error: (ScriptError, (str(error), error.exit_code)))  # by itself it is not
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes at a terminal; the first one decides
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """A killed parent leaves no workers behind."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(NOTHING_USABLE)


def read_log_or_error(file: Path, parts: Path, history_keys: tuple[str, ...] | None) -> Log | OSError:
    try:
        return read_log(file, parts, history_keys)
    except OSError as error:
        return error


def size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def run_id_of(log: Log, file: Path) -> str:
    """The run's id; from the file's name where damage or a kill took the record that holds it."""
    return str(log.run.get("id") or file.stem.removeprefix("run-"))


def relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file != folder and file.is_relative_to(folder) else file.name


def note_failure(findings: Findings, owner: RunPath | None, failure: Failure) -> None:
    findings.failed.setdefault(owner, []).append(failure)


def note_integrity(findings: Findings, log: Log, run: Run | None, shown: str, say: Say) -> None:
    """Record and say what is wrong with a log: damage is a failure, a torn end is none."""
    owner = run_path(run) if run else None
    rows = sum(part.rows for part in log.history)
    if log.integrity.torn:
        findings.torn.setdefault(owner, []).append(shown)
        kept = f"the {rows:,} history rows before are kept" if log.records else "nothing was recorded before"
        say(f"torn: {shown} ends in the middle of a record, as a crash leaves it; {kept}")
    if log.integrity.damage:
        places = log.integrity.damage
        where = ", ".join(places[:3]) + (f" and {len(places) - 3} more places" if len(places) > 3 else "")
        error = f"damaged log {shown}: unreadable at {where}; the rest is kept"
        note_failure(findings, owner, Failure(run.id if run else shown, "log", error))


def by_project(logs: Sequence[Log], selection: Selection) -> Iterator[list[Log]]:
    """Logs of one run id, apart where they belong to different entities or projects."""
    groups: dict[tuple[str, str], list[Log]] = {}
    telling = next((log.run for log in logs if log.run), {})  # for logs that lost their run record to damage
    for log in logs:
        told = log.run or telling
        place = (
            told.get("entity") or stand_in(selection.entity, NO_ENTITY),
            told.get("project") or stand_in(selection.project, NO_PROJECT),
        )
        log.run = {**log.run, "entity": place[0], "project": place[1]}
        groups.setdefault(place, []).append(log)
    yield from (groups[place] for place in sorted(groups))


def stand_in(chosen: Sequence[str], default: str) -> str:
    """What stands for an entity or project that a log does not name: the one that was asked for, if it is plain."""
    plain = len(chosen) == 1 and not re.search(r"[*?\[]", chosen[0])
    return storable(chosen[0]) if plain else default


def combined(run_id: str, logs: Sequence[Log], work: Path, say: Say) -> Run:
    """One run from its logs: later ones add to or override the earlier."""
    logs = without_copies(sorted(logs, key=lambda log: (log.started_at or log.newest_at or EPOCH, log.file)))
    config: dict[str, object] = {}
    definitions: dict[str, MetricDefinition] = {}
    for log in logs:
        config |= log.config
        definitions |= log.definitions
    history = consecutive_parts(logs, work, partial(say_rewritten, run_id, say))
    summary = folded_summary(logs, history)
    told = {name: next((log.run[name] for log in reversed(logs) if log.run.get(name)), None) for name in TOLD_BY_LOGS}
    last_log = logs[-1]
    heartbeat_at = newest(*(log.newest_at for log in logs))
    return Run(
        id=run_id,
        name=told["name"] or run_id,
        state=offline_state(last_log.exit_code, heartbeat_at),
        entity=last_log.run["entity"],
        project=last_log.run["project"],
        created_at=logs[0].started_at or first_moment(logs),
        heartbeat_at=heartbeat_at,
        runtime_s=runtime_s(summary),
        last_step=history[-1].last_step if history else None,
        history_rows=sum(part.rows for part in history),
        tags=told["tags"] or (),
        group=told["group"],
        job_type=told["job_type"],
        sweep=told["sweep"],
        user=None,
        notes=told["notes"],
        commit=told["commit"],
        url=None,
        exported_at=now(),
        config=cast("dict[str, object]", jsonable(without_notes(config))),
        summary=summary,
        definitions=tuple(definitions[pattern] for pattern in sorted(definitions)),
        history=tuple(history),
    )


TOLD_BY_LOGS = ("name", "tags", "group", "job_type", "sweep", "notes", "commit")


def without_copies(logs: Sequence[Log]) -> list[Log]:
    """Of logs with the same start, copies of one at different times, the one with the most records."""
    longest: dict[object, Log] = {}
    for log in logs:
        key = log.started_at or log.file
        if key not in longest or longest[key].records < log.records:
            longest[key] = log
    return list(longest.values())


def offline_state(exit_code: int | None, heartbeat_at: datetime | None) -> str:
    """The state by the exit code; without one, by the newest time inside the log.

    >>> offline_state(0, None), offline_state(1, None), offline_state(None, None)
    ('finished', 'failed', 'crashed')
    """
    if exit_code is None:
        fresh = heartbeat_at is not None and abs(now() - heartbeat_at) < FRESH  # a clock may go wrong either way
        return "running" if fresh else "crashed"
    return {0: "finished", CRASHED_EXIT_CODE: "crashed"}.get(exit_code, "failed")


def without_notes(config: Mapping[str, object]) -> dict[str, object]:
    """The config without what W&B noted in it for itself."""
    return {key: value for key, value in config.items() if key not in NOT_CONFIG}


def folded_summary(logs: Sequence[Log], history: Sequence[Part]) -> dict[str, Any]:
    """The summary that W&B would hold after these logs, keys sorted (the log's order is random)."""
    summary: dict[str, Any] = {}
    whole: set[KeyPath] = set()  # dicts that the user set as one value
    for change in (change for log in logs for change in log.summary):
        for depth in range(1, len(change.path)):
            if change.path[:depth] in whole:
                whole.discard(change.path[:depth])
                put(summary, change.path[:depth], {})
        whole.discard(change.path)
        if change.removed:
            remove(summary, change.path)
        else:
            put(summary, change.path, change.value)
            if change.whole:
                whole.add(change.path)
    if len(logs) > 1 and history and "_step" in summary:
        summary["_step"] = history[-1].last_step
    return dict(sorted(summary.items()))


def runtime_s(summary: Mapping[str, Any]) -> float | None:
    """Seconds of run time by the summary's `_wandb.runtime`, else its `_runtime`."""
    wandb = summary.get("_wandb")
    for value in (wandb.get("runtime") if isinstance(wandb, dict) else None, summary.get("_runtime")):
        if isinstance(value, int | float):
            return float(value)
    return None


def first_moment(logs: Sequence[Log]) -> datetime | None:
    """What stands for the start of a run where damage took it: the earliest of its logs' ends."""
    return min((log.newest_at for log in logs if log.newest_at is not None), default=None)


def export_offline(folder: Path, options: Options, work: Path, say: Say) -> Conclusion:
    """Export what the logs below a folder hold."""
    import_libraries()
    findings = read_offline(folder, options, work, say)
    try:
        projects = listings(findings, options, work, say)
    except ScriptError:  # of a filter that leaves none: what is damaged may be why
        if findings.runs:
            report_failures([failure for failures in findings.failed.values() for failure in failures])
        raise
    for glob in unmatched(options, projects):
        say(f"--history-keys {glob} matches no metric of these runs")
    failures = [failure for project in projects for failure in project.failed]
    if options.dry_run:
        return Conclusion([], projects, failures)
    source = {"kind": "offline", "directory": str(folder.absolute())}
    return Conclusion([write_project(project, options, source, work) for project in projects], [], failures)


# --- steps of a run's logs ------------------------------------------------------------------------------------


def consecutive_parts(logs: Sequence[Log], work: Path, say_rewritten: Callable[[int], None]) -> list[Part]:
    """The parts of a run in the order of their steps, each step once.

    The steps of a resumed offline log follow the last one before it, as `wandb sync` would place them. A rewound run
    loses the rows after the step to which it went back. Any other step that comes again replaces the earlier row.
    """
    parts: list[Part] = []
    last_step = -1
    for log in logs:
        kept_until, shift = log.run.get("rewound_to"), 0
        if kept_until is not None:
            parts = [moved(part, 0, int(kept_until)) for part in parts]
            parts = [part for part in parts if part.rows]
        elif log.run.get("resumed") and is_offline(log):
            shift = last_step + 1
        parts += [moved(part, shift) for part in log.history]
        last_step = max((part.last_step for part in parts), default=-1)
    unique = each_step_once(parts, work)
    if again := sum(part.rows for part in parts) - sum(part.rows for part in unique):
        say_rewritten(again)
    return unique


def each_step_once(parts: Sequence[Part], work: Path) -> list[Part]:
    """The parts in the order of their steps; those whose steps mingle become one, in which the later rows hold."""
    together = overlapping([part for part in parts if part.rows])
    return [each[0] if len(each) == 1 and each[0].ascending else unique_steps(each, work) for each in together]


def overlapping(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts by ranges of steps that have none in common; those of one range in the order in which they came."""
    ranges: list[list[tuple[int, Part]]] = []
    reached = -math.inf
    for number, part in sorted(enumerate(parts), key=lambda numbered: numbered[1].first_step):
        if part.first_step > reached:
            ranges.append([])
        ranges[-1].append((number, part))
        reached = max(reached, part.last_step)
    return [[part for _, part in sorted(each, key=lambda numbered: numbered[0])] for each in ranges]


def is_offline(log: Log) -> bool:
    """Whether a log counts its steps from 0: that of an online run, resumed, goes on where the server was."""
    return bool(log.run.get("offline")) or log.file.parent.name.startswith("offline-run-")


def moved(part: Part, shift: int, last_step: int | None = None) -> Part:
    """The part with its steps shifted, and without rows after `last_step`."""
    if not shift and (last_step is None or part.last_step <= last_step):
        return part
    rows = read_part(part).with_columns(pl.col(column_key(("_step",))) + shift)
    if last_step is not None:
        rows = rows.filter(pl.col(column_key(("_step",))) <= last_step)
    return rewritten(rows, part.file.parent)


def unique_steps(parts: Sequence[Part], work: Path) -> Part:
    """The parts as one, sorted by step; of rows with one step the last."""
    step = column_key(("_step",))
    rows = pl.concat([read_part(part) for part in parts], how="diagonal_relaxed")
    return rewritten(rows.unique(step, keep="last", maintain_order=True).sort(step), work)


def rewritten(rows: pl.DataFrame, work: Path) -> Part:
    return write_part({tuple(json.loads(name)): rows[name] for name in sorted(rows.columns)}, work)


def read_part(part: Part) -> pl.DataFrame:
    return pl.read_parquet(part.file, glob=False)


def say_rewritten(run_id: str, say: Say, rows: int) -> None:
    say(f"run {run_id}: {rows:,} steps were logged again by a later log; the later rows are kept")


# --- the server: a connection -------------------------------------------------------------------------------------


@contextmanager
def connected(key_file: Path | None, *, timeout_s: int, retries: int) -> Iterator[wandb.Api]:
    """The SDK's connection for as long as the block lasts. Its end also ends what other threads still ask."""
    key = key_in(key_file)
    with tempfile.TemporaryDirectory(prefix="wandb-tools-", ignore_cleanup_errors=True) as scratch:
        prepare_sdk(scratch, timeout_s=timeout_s, retries=retries)
        import_sdk(scratch)
        start_service()
        try:
            yield signed_in(key, limit_s=min(timeout_s, CONNECT_LIMIT_S))
        finally:
            disconnect()


def disconnect() -> None:
    """Tell the SDK's service process to end. It may miss that while it gives up a question, and `teardown` would wait.

    It then ends as soon as this process does: so this one waits for it in a thread, which nobody waits for.
    """
    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(DISCONNECT_LIMIT_S)


def prepare_sdk(scratch: str, *, timeout_s: int, retries: int) -> None:
    """Settings that the SDK reads when it is imported and starts: silent, bounded, and its log files in `scratch`."""
    os.environ |= {
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_MODE": "online",  # a cluster's `offline` is meant for training
        "WANDB_CACHE_DIR": scratch,
        "WANDB_HTTP_TIMEOUT": str(timeout_s),  # of each attempt; `query` bounds them all together
        "WANDB__GRAPHQL_TIMEOUT_SECONDS": str(timeout_s),  # its other name
        "WANDB__GRAPHQL_RETRY_MAX": str(max(retries, 1)),  # 0 would mean 20
        "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": str(RETRY_WAIT_MIN_S),
        "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": str(RETRY_WAIT_MAX_S),
    }
    os.environ.pop("WANDB_SERVICE", None)  # the connection of a training process, which is not ours to end


def import_sdk(scratch: str) -> None:
    """Import wandb, which takes a second: once its settings are made, before any thread starts.

    It makes temporary folders, which are to go when `scratch` does.
    """
    global wandb, ValidationError, WandbApiFailedError
    usual, tempfile.tempdir = tempfile.tempdir, scratch
    import wandb
    from pydantic import ValidationError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    tempfile.tempdir = usual


def start_service() -> None:
    """Have the SDK start its service process, in a thread, while modules are imported that `Api` needs as well."""

    def start() -> None:
        with suppress(Exception):  # `Api` tries it again, and tells
            wandb.setup()

    threading.Thread(target=start, daemon=True).start()
    importlib.import_module("wandb.apis.public")


def key_in(file: Path | None) -> str | None:
    """The API key that `file` holds; None without a file."""
    if file is None:
        return None
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ScriptError(f"--api-key-file {file} cannot be read: {why}", NOTHING_USABLE) from error
    if not key:
        raise ScriptError(f"--api-key-file {file} is empty; it should hold the API key alone", NOTHING_USABLE)
    return key


def signed_in(key: str | None, *, limit_s: int) -> wandb.Api:
    """A connection that the server has let in; without a `key`, with the one that the SDK finds. It never asks."""
    try:
        if key is None and not wandb.login(prompt=False, verify=False):
            how = "run `wandb login`, set WANDB_API_KEY or name a file with --api-key-file"
            raise ScriptError(f"no API key for {base_url()}; {how}", NOTHING_USABLE)
        return busy_server_permitting(key, limit_s)
    except wandb.errors.AuthenticationError as error:
        raise ScriptError(not_let_in(error, limit_s), NOTHING_USABLE) from error
    except ValidationError as error:  # of a setting; pydantic tells which
        wrong = error.errors()[0]
        setting = "_".join(map(str, wrong["loc"])).upper()
        message = f"WANDB_{setting} is unusable: {wrong['msg']}; correct it, or unset it for W&B's own server"
        raise ScriptError(message, NOTHING_USABLE) from error


def busy_server_permitting(key: str | None, limit_s: int) -> wandb.Api:
    """A connection, after further tries if the server lives and is merely too busy to let anyone in."""
    for wait_s in SIGN_IN_WAITS_S:
        try:
            return wandb.Api(api_key=key, timeout=limit_s)
        except wandb.errors.AuthenticationError as error:
            if not BUSY.search(str(error.__cause__)):
                raise
            time.sleep(wait_s)
    return wandb.Api(api_key=key, timeout=limit_s)


def not_let_in(error: wandb.errors.AuthenticationError, limit_s: int) -> str:
    """Why there is no connection: an odd key, a wrong one, or no server that answers."""
    cause = error.__cause__
    where = "copy it again from W&B's user settings (WANDB_API_KEY, `wandb login` or --api-key-file)"
    if cause is None:  # the SDK has looked at the key's form alone
        return f"unusable API key: {str(error).rstrip('.')}; {where}"
    if isinstance(cause, WandbApiFailedError) and status_of(cause) in REFUSED:
        return f"{base_url()} refuses the API key: {reason(cause, limit_s)}; {where}"
    if BUSY.search(str(cause)):
        return f"{base_url()} is too busy to let anyone in: {reason(cause, limit_s)}; try again later"
    hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
    return f"cannot sign in to {base_url()}: {reason(cause, limit_s)}; {hint}"


def base_url() -> str:
    """The server's address, from wherever the SDK has it, fit to be shown."""
    return re.sub(r"//[^/@]*@", "//", str(wandb.sdk.wandb_setup.singleton().settings.base_url))  # without a password


def app_url() -> str:
    """Where the server shows its pages, without a slash at the end."""
    return str(wandb.sdk.wandb_setup.singleton().settings.app_url).rstrip("/")


def query(api: wandb.Api, question: str, variables: Mapping[str, object], *, timeout_s: float) -> str:
    """The server's answer to a GraphQL question: the JSON text of its data, as it came.

    QueryError if none comes within `timeout_s`, the SDK's own retries included, or if it is an error. May be called
    from several threads; the SDK lets ten questions be under way. `_service_api` is private: since 0.31 the SDK has
    no public way to send a question of one's own, and sends its own in this one.
    """
    try:
        answer = api._service_api.execute_graphql(question, variables, timeout=timeout_s, parse=str)  # noqa: SLF001
    except WandbApiFailedError as error:
        raise QueryError(reason(error, timeout_s), status_of(error)) from error
    if answer in ("", "null"):
        raise QueryError("an answer without data")
    return answer


def status_of(error: WandbApiFailedError) -> int:
    """The HTTP status that ended the SDK's tries; 0 where it has none to tell."""
    return error.response.http_status if error.response else 0


def reason(error: BaseException, limit_s: float) -> str:
    """What went wrong, in one line."""
    if isinstance(error.__context__, TimeoutError):  # the SDK blames "the service process", which is its own
        return f"no answer within {limit_s:g} s"
    last_try = str(error).rpartition("while retrying: ")[2].strip()
    return last_try.partition("\n")[0] or type(error).__name__


# --- the server: what to ask for ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What is asked for on the server: projects of an entity (by name or glob), or a run, sweep or group of one."""

    entity: str | None  # None: the key's own
    project: str
    run: str | None = None
    sweep: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Project:
    """A project that is there, with what narrows its runs down as one of W&B's filters."""

    entity: str
    name: str
    filters: Mapping[str, object]
    stem: str = ""  # what its files' names begin with

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.name}"

    @property
    def place(self) -> dict[str, object]:
        """The variables that every question about the project has."""
        return {"entity": self.entity, "project": self.name}


def target_of(place: str) -> Target:
    """The target of a W&B URL or an `entity/project[/run]` path; ScriptError where it is neither.

    >>> target_of("https://wandb.ai/team/demo/runs/abc?nw=1")
    Target(entity='team', project='demo', run='abc', sweep=None, group=None)
    >>> target_of("team/demo/sweeps/xyz").sweep
    'xyz'
    """
    url = urlsplit(place)
    keys = [unquote(key) for key in url.path.split("/") if key]
    if url.scheme and keys[:1] == ["wandb"] and url.netloc.startswith("forge."):
        keys = keys[1:]  # where the app lives on that host
    if len(keys) < 2:
        raise ScriptError(f"{place} is no project; write entity/project, entity/project/run or a W&B URL", WRONG_USAGE)
    entity, project, *rest = keys
    if len(rest) >= 2:
        return Target(entity, project, **{PLACES[rest[0]]: rest[1]} if rest[0] in PLACES else {})
    is_run = len(rest) == 1 and not url.scheme
    return Target(entity, project, rest[0] if is_run else None)


def targets_of(options: Options) -> list[Target]:
    """The places named, else every combination of the entities and projects."""
    if options.places:
        return list(options.places)
    entities = options.selection.entity or (None,)
    return [Target(entity, project) for entity in entities for project in options.selection.project or ("*",)]


def filters_of(target: Target, selection: Selection) -> dict[str, object]:
    """The selection as W&B's filters, which the server evaluates; empty where nothing is filtered."""
    created = {"$gte": iso(selection.since), "$lt": iso(selection.until)}
    any_of_these = [
        ("state", selection.state),
        ("tags", selection.tag),
        ("group", selection.group),
        ("group", tuple(filter(None, [target.group]))),
        ("sweep", selection.sweep),
        ("sweep", tuple(filter(None, [target.sweep]))),
        ("name", tuple(filter(None, [target.run]))),
    ]
    asked: list[Mapping[str, object]] = [
        {"createdAt": {operator: time_ for operator, time_ in created.items() if time_}},
        *({name: {"$in": list(values)} if values else {}} for name, values in any_of_these),
        selection.where,
    ]
    asked = [each for each in asked if any(each.values())]
    return {"$and": asked} if asked else {}


def iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def found_projects(server: Server, options: Options) -> tuple[list[Project], list[Failure]]:
    """The projects that the targets mean, and entities that do not tell theirs, unless none does.

    A project that only some of several entities have is no error.
    """
    own = own_entity(server) if any(target.entity is None for target in targets_of(options)) else None
    targets = [replace(target, entity=target.entity or own) for target in targets_of(options)]
    names_of = side_by_side(partial(names_meant, server), targets, server.options.workers)
    found: dict[tuple[str, str], Project] = {}
    for target, names in zip(targets, names_of, strict=True):
        for name in names if not isinstance(names, QueryError) else ():
            project = Project(str(target.entity), name, filters_of(target, options.selection))
            earlier = found.get((project.entity, name))
            found[project.entity, name] = project if earlier is None else either(earlier, project)
    failed = [
        Failure(str(target.entity), "projects", f"its projects cannot be had: {names}", server.retries + 1)
        for target, names in zip(targets, names_of, strict=True)
        if isinstance(names, QueryError)
    ]
    for names in names_of if failed and not found else ():
        if isinstance(names, QueryError):
            raise names
    check_lacking(server, [target for target, names in zip(targets, names_of, strict=True) if names == []], found)
    return list(found.values()), failed


def names_meant(server: Server, target: Target) -> list[str] | QueryError:
    """The projects of the target's entity that it means; a team may have thousands, listed only for a pattern."""
    entity, pattern = str(target.entity), target.project
    is_name = not re.search(r"[*?\[]", pattern)
    try:
        project = Project(entity, pattern, filters_of(target, server.options.selection))
        if is_name and (answer := plan_answer(server, project)):
            server.plan_answers[project.path, json.dumps(project.filters)] = answer
            return [pattern]
    except QueryError as error:
        if is_final(error):
            return error
        return [pattern]  # a project that fails does so by itself, beside the others
    try:
        names = project_names(server, entity)
    except QueryError as error:
        return error
    return [pattern] if pattern in names else [name for name in names if matches(name, pattern)]


def check_lacking(server: Server, lacking: Sequence[Target], found: Collection[tuple[str, str]]) -> None:
    """A ScriptError for a target that means no project, unless another entity has one that it would mean."""
    for target in lacking:
        names = project_names(server, str(target.entity))
        entities = [] if names else entity_names(server)
        elsewhere = target.project == "*" or any(matches(name, target.project) for _, name in found)
        if found and elsewhere and (names or target.entity in entities):
            continue
        if names:
            near = did_you_mean(target.project, names) or "; list_entities.py shows what it has"
            raise ScriptError(f"{target.entity} has no project {target.project}{near}", NOTHING_USABLE)
        others = [entity for entity in entities if entity != target.entity]
        near = did_you_mean(str(target.entity), others) or (f"; there is {', '.join(others[:5])}" if others else "")
        raise ScriptError(
            f"{target.entity} has no projects that this key can see{near}; name one with -e", NOTHING_USABLE
        )


def either(one: Project, other: Project) -> Project:
    """The runs that either selects: several places may lie in one project."""
    filters = {"$or": [one.filters, other.filters]} if one.filters and other.filters else {}
    return replace(one, filters=filters)


def own_entity(server: Server) -> str:
    viewer = server.ask("query Own { viewer { entity username } }", {})["viewer"] or {}
    entity = viewer.get("entity") or viewer.get("username")
    if not entity:
        raise ScriptError("the key has no entity of its own; name one with -e", NOTHING_USABLE)
    return str(entity)


def entity_names(server: Server) -> list[str]:
    """The key's own entity and its teams."""
    viewer = server.ask("query Entities { viewer { entity teams { edges { node { name } } } } }", {})["viewer"] or {}
    teams = [edge["node"]["name"] for edge in (viewer.get("teams") or {}).get("edges", ())]
    return [*filter(None, [viewer.get("entity")]), *teams]


PROJECT_PAGE = """query Projects($entity: String, $after: String) {
    models(entityName: $entity, first: 200, after: $after) {
        edges { node { name } } pageInfo { endCursor hasNextPage } } }"""


def project_names(server: Server, entity: str) -> list[str]:
    """The names of an entity's projects; none if there is no such entity, as far as the key can see."""
    names: list[str] = []
    after = None
    while True:
        models = server.ask(PROJECT_PAGE, {"entity": entity, "after": after})["models"]
        if models is None:
            return names
        names += [edge["node"]["name"] for edge in models["edges"]]
        after = models["pageInfo"]["endCursor"]
        if not models["pageInfo"]["hasNextPage"] or not after:
            return names


# A question about one project: its further variables, and what is asked of it.
IN_PROJECT = """query InProject($entity: String!, $project: String!%s) {
    project(name: $project, entityName: $entity) { %s } }"""

# --- the server: asking, in bounded time ----------------------------------------------------------------------


class Patience:
    """How often in a row a service may fail, whoever asks, before nobody asks it any more."""

    def __init__(self, most_failures: int) -> None:
        self.most_failures = most_failures
        self.failures = 0

    @property
    def is_over(self) -> bool:
        return self.failures >= self.most_failures

    def note(self, *, answered: bool) -> None:
        self.failures = 0 if answered else self.failures + 1


class Server:
    """A connection that many threads share: so many questions at once, and all of them slower after a failure."""

    def __init__(self, api: wandb.Api, options: Options, workers: Workers, meter: Meter) -> None:
        self.api = api
        self.options = options
        self.retries = options.retries
        self.workers = workers
        self.meter = meter
        self.debug = options.debug
        self.app_url = app_url()
        self.source = {"kind": "server", "base_url": base_url()}
        self.under_way = threading.BoundedSemaphore(options.workers)
        self.downloading = threading.BoundedSemaphore(options.workers)
        self.parsing = threading.BoundedSemaphore(PARSERS + 2)  # answers held until they are parsed: 10 MB each
        self.stopped = threading.Event()
        self.quiet_until = 0.0  # by time.monotonic(): before it nobody asks
        self.plan_answers: dict[tuple[str, str], Any] = {}  # by project and filters, until they are used
        self.smaller_pages: dict[str, list[int]] = {}  # sizes of pages that came only once they were smaller
        tries_under_way = options.workers * (options.retries + 1)
        self.questions = Patience(2 * tries_under_way)
        self.downloads = Patience(2 * tries_under_way)
        self.storage = storage_session() if fetches_of(options) else None

    def ask(self, question: str, variables: Mapping[str, object]) -> Any:
        """The answer, after as many tries as the options allow; else the last try's QueryError."""
        told = ""
        for attempt in range(self.retries):
            try:
                return self.ask_once(question, variables)
            except QueryError as error:
                if is_final(error) or (is_of_the_question(error) and str(error) == told):
                    raise
                told = str(error)
                self.slow_down(attempt)
        return self.ask_once(question, variables)

    def ask_once(self, question: str, variables: Mapping[str, object]) -> Any:
        return json.loads(self.answer(question, variables))

    def answer(self, question: str, variables: Mapping[str, object]) -> str:
        """The answer's JSON text to one try."""
        self.wait_for_quiet()
        if self.questions.is_over:
            message = f"not asked: the server failed {self.questions.most_failures} times in a row; export again later"
            raise GivenUpError(message)
        try:
            with self.under_way:
                text = query(self.api, question, variables, timeout_s=self.options.timeout_s)
        except QueryError as error:
            self.questions.note(answered=is_final(error))
            raise
        self.questions.note(answered=True)
        return text

    def slow_down(self, attempt: int) -> None:
        """After a failed attempt everybody waits, longer each time: a busy server is asked less."""
        self.be_quiet(min(LONGEST_WAIT_S, 0.5 * 2.0**attempt))

    def be_quiet(self, wait_s: float) -> None:
        """Nobody asks for so long from now on, if not for longer already."""
        self.quiet_until = max(self.quiet_until, time.monotonic() + wait_s)

    def page_runs(self, project: Project) -> int:
        """What a page may hold: less once larger ones of the project have failed twice, which chance may do once."""
        smaller = self.smaller_pages.get(project.path, ())
        return min(smaller) if len(smaller) > 1 else PAGE_RUNS

    def wait_for_quiet(self) -> None:
        while (wait_s := self.quiet_until - time.monotonic()) > 0 and not self.stopped.is_set():
            self.stopped.wait(wait_s)
        if self.stopped.is_set():
            raise QueryError("interrupted")

    def download(self, url: str, folder: Path) -> Path:
        """The file behind a signed URL; DownloadError, which never tells the URL, if it does not come whole."""
        file = folder / f"{uuid.uuid4().hex}.download"
        self.wait_for_quiet()
        if self.downloads.is_over:
            message = f"not fetched: downloads failed {self.downloads.most_failures} times in a row; export again later"
            raise NoDownloadError(message)
        try:
            with self.downloading, file.open("wb") as opened:
                self.copy(url, opened)
        except DownloadError as error:
            self.downloads.note(answered=isinstance(error, NoFileError))
            raise
        except OSError as error:
            message = f"{folder} cannot be written to ({error.strerror}); free the place or choose another with -o"
            raise ScriptError(message, NOTHING_USABLE) from error
        self.downloads.note(answered=True)
        return file

    def copy(self, url: str, file: BinaryIO) -> None:
        """Write what the URL has to a file. How long that may take grows with how much has come."""
        assert self.storage is not None
        limit_s = self.options.timeout_s
        started = time.monotonic()
        received = 0
        try:
            with self.storage.get(url, stream=True, timeout=limit_s) as answer:
                answer.raise_for_status()
                while piece := answer.raw.read1(DOWNLOAD_BYTES, decode_content=True):
                    file.write(piece)
                    received += len(piece)
                    if self.stopped.is_set():
                        raise DownloadError("interrupted")
                    if time.monotonic() - started > limit_s + received / LEAST_BYTES_S:
                        raise DownloadError(f"a download brought {received:,} bytes in {limit_s} s, which is too slow")
        except requests.HTTPError as error:
            answer = cast("requests.Response", error.response)
            self.be_quiet(min(retry_after_s(answer.headers.get("Retry-After")), LONGEST_RETRY_AFTER_S))
            kind = NoFileError if 400 <= answer.status_code < 500 and answer.status_code != 429 else DownloadError
            raise kind(f"a download was refused with status {answer.status_code}") from error
        except (requests.RequestException, HTTPError) as error:
            raise DownloadError(f"a download broke off ({type(error).__name__})") from error


def is_of_the_question(error: QueryError) -> bool:
    """Whether the server answered, and found something wrong; asked twice it may come to another answer."""
    return str(error).startswith("input:")


def retry_after_s(header: str | None) -> float:
    """The seconds that a Retry-After header asks to wait, given as such or as a date; 0 for none.

    >>> retry_after_s("7"), retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after_s(None)
    (7.0, 0.0, 0.0)
    """
    with suppress(TypeError, ValueError):
        return max(float(header or 0), 0.0)
    with suppress(TypeError, ValueError):
        return max((parsedate_to_datetime(str(header)) - now()).total_seconds(), 0.0)
    return 0.0


def is_final(error: QueryError | DownloadError) -> bool:
    """Whether the same question would fail again."""
    if isinstance(error, QueryError) and 400 <= error.status < 500:
        return error.status not in (408, 429)
    return isinstance(error, GivenUpError | NoDownloadError)


def storage_session() -> requests.Session:
    """A client for signed URLs, which must not get the key: requests would send what netrc has for their host."""
    global requests, HTTPError
    import requests
    from urllib3.exceptions import HTTPError

    session = requests.Session()
    session.auth = lambda request: request
    session.rebuild_auth = lambda *_: None  # type: ignore[method-assign]  # the same after a redirect
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=MOST_WORKERS))
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=MOST_WORKERS))
    return session


Subject = TypeVar("Subject")
Found = TypeVar("Found")


def side_by_side(work: Callable[[Subject], Found], subjects: Sequence[Subject], at_once: int) -> list[Found]:
    """The results for all subjects, in their order. An interrupt waits for none of the threads."""
    threads = ThreadPoolExecutor(max(1, min(at_once, len(subjects))))
    try:
        return list(threads.map(work, subjects))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class Workers:
    """Processes that parse, flatten and write, while this one waits for the network."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> Self:
        self.pool = ProcessPoolExecutor(self.count, get_context("spawn"), initializer=prepare_worker)
        with uninterrupted():
            self.pool.submit(os.getpid)  # the first process starts while this one imports and connects
        return self

    def start_all(self) -> None:
        """Start the other processes too, which would slow the first ones down while these still import."""
        with uninterrupted():
            for _ in range(self.count):
                self.pool.submit(os.getpid)

    def __exit__(self, *_: object) -> None:
        for process in active_children():  # they hold nothing that is still to be written
            process.terminate()
        self.pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., Found], *arguments: object) -> Future[Found]:
        try:
            return self.pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            raise ScriptError(WORKER_DIED, NOTHING_USABLE) from error

    def run(self, work: Callable[..., Found], *arguments: object) -> Found:
        return self.result(self.submit(work, *arguments))

    def result(self, future: Future[Found]) -> Found:
        """What the work came to; a ScriptError if its process died."""
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise ScriptError(WORKER_DIED, NOTHING_USABLE) from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, which reaches all at a terminal: the first one decides."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


# --- the server: the runs of a project ------------------------------------------------------------------------

PLAN = """query Plan($entity: String!, $project: String!, $filters: JSONString) {
    project(name: $project, entityName: $entity) {
        all: runCount
        selected: runCount(filters: $filters)
        first: runs(filters: $filters, first: 1, order: "+created_at") { edges { node { createdAt } } }
        last: runs(filters: $filters, first: 1, order: "-created_at") { edges { node { createdAt } } } } }"""

# `pageInfo` first: it is read off the answer's beginning, so that the long rest is parsed by another process.
RUNS = """query Runs($entity: String!, $project: String!, $filters: JSONString, $first: Int, $after: String) {
    project(name: $project, entityName: $entity) {
        runs(filters: $filters, first: $first, after: $after, order: "+created_at") {
            pageInfo { endCursor hasNextPage }
            edges { node { %s } } }
        inWindow: runCount(filters: $filters) } }"""
ROW_FIELDS = """name displayName state createdAt heartbeatAt tags group jobType sweepName notes commit
    historyLineCount user { username } config summaryMetrics"""
LIGHT_FIELDS = "name createdAt heartbeatAt historyLineCount"


@dataclass(frozen=True)
class Window:
    """Runs created from `start` on and before `end`; a missing bound is none, `last` is then the last known time.

    Creation times never change: windows hold what they hold, whatever is added or deleted meanwhile.
    """

    start: datetime | None
    end: datetime | None
    last: datetime | None
    tries: int = 1


@dataclass(frozen=True)
class Plan:
    """How many runs a project has and how many are selected, and the windows that together hold these."""

    project: Project
    all: int
    selected: int
    windows: Sequence[Window]
    history_rows: int | None = None  # of the selected runs; None where nobody asked


def plan_of(server: Server, project: Project) -> Plan:
    """How many runs there are, and windows with about a page of them each; QueryError if the project is gone."""
    answer = server.plan_answers.pop((project.path, json.dumps(project.filters)), None) or plan_answer(server, project)
    if answer is None:
        raise QueryError(f"there is no project {project.path}", 404)
    ends = [time_of(edge["node"]["createdAt"]) for key in ("first", "last") for edge in answer[key]["edges"]]
    first, last = ends if len(ends) == 2 else (None, None)
    windows = windows_between(Window(None, None, last), first, answer["selected"])
    return Plan(project, answer["all"], answer["selected"], windows)


def plan_answer(server: Server, project: Project) -> Any:
    """What the server tells of the project; None if there is none."""
    return server.ask(PLAN, {**project.place, "filters": json.dumps(project.filters)})["project"]


def windows_between(window: Window, first: datetime | None, runs: int) -> list[Window]:
    """The window in stretches of equal length, so many that, if runs are spread evenly, a page holds each one's."""
    last = window.end or window.last
    stretches = math.ceil(runs / WINDOW_RUNS)
    if stretches < 2 or first is None or last is None or last - first < timedelta(seconds=stretches):
        return [window]
    bounds = [first + (last - first) * number / stretches for number in range(1, stretches)]
    starts, ends = [window.start, *bounds], [*bounds, window.end]
    return [Window(start, end, end or window.last) for start, end in zip(starts, ends, strict=True)]


def created_in(project: Project, window: Window) -> Mapping[str, object]:
    """The project's filters, narrowed down to a window."""
    times = {operator: iso(time_) for operator, time_ in (("$gte", window.start), ("$lt", window.end)) if time_}
    asked = [each for each in (project.filters, {"createdAt": times} if times else {}) if each]
    return {"$and": asked} if asked else {}


def run_pages(server: Server, project: Project, window: Window, fields_: str) -> Iterator[str | list[Window]]:
    """The answers, in JSON, that hold a window's runs, and, where one page holds too few, windows for the rest.

    A page that fails is asked for again, smaller each time.
    """
    size, cursor, failures = server.page_runs(project), None, 0
    filters = json.dumps(created_in(project, window))
    counts: set[int] = set()
    while True:
        try:
            text = server.answer(RUNS % fields_, {**project.place, "filters": filters, "first": size, "after": cursor})
            page = page_info(text)
        except QueryError as error:
            if failures == server.retries or is_final(error):
                raise
            server.slow_down(failures)
            size, failures = max(size // 4, 1), failures + 1
            continue
        if failures:
            server.smaller_pages.setdefault(project.path, []).append(size)
        yield text
        counts.add(count_in(text) if cursor or page["hasNextPage"] else 0)
        if not page["hasNextPage"]:
            break
        if rest := rest_of(window, text):
            yield rest
            return
        cursor, failures = page["endCursor"], 0
    if len(counts) > 1 and window.tries < LISTINGS:  # cursors are offsets: they lead astray once a run has gone
        yield [replace(window, tries=window.tries + 1)]


def count_in(text: str) -> int:
    """How many runs the window had when the page was made: the answer's last field.

    >>> count_in('{"project":{"runs":{"edges":[]},"inWindow":7}}')
    7
    """
    found = re.search(r'"inWindow"\s*:\s*(\d+)[\s}]*$', text[-200:])
    return int(found[1]) if found else int(json.loads(text)["project"]["inWindow"])


def rest_of(window: Window, text: str) -> list[Window]:
    """Windows for the runs after a page; none if its last run was created when the window begins: no time to split."""
    project = json.loads(text)["project"]
    edges = project["runs"]["edges"]
    reached = time_of(edges[-1]["node"]["createdAt"]) if edges else None
    if reached is None or (window.start is not None and reached <= window.start):
        return []
    if reached == time_of(edges[0]["node"]["createdAt"]):
        return []
    rest = replace(window, start=reached)  # runs of that very moment come again, and are left out later
    return windows_between(rest, reached, project["inWindow"] - len(edges))


def page_info(text: str) -> dict[str, Any]:
    """The page's place among the others; QueryError where the project is gone.

    >>> page_info('{"project":{"runs":{"pageInfo":{"endCursor":"x","hasNextPage":true},"edges":[')
    {'endCursor': 'x', 'hasNextPage': True}
    """
    found = re.match(r'\s*\{\s*"project"\s*:\s*\{\s*"runs"\s*:\s*\{\s*"pageInfo"\s*:\s*', text)
    if found:
        return cast("dict[str, Any]", json.JSONDecoder().raw_decode(text, found.end())[0])
    project = json.loads(text)["project"]
    if project is None:
        raise QueryError("the project is gone", 404)
    return cast("dict[str, Any]", project["runs"]["pageInfo"])


# --- the server: a page of runs, parsed by a worker -----------------------------------------------------------


def page_of_answer(text: str, place: tuple[str, str], app_url: str, work: Path) -> tuple[RunPage, list[Failure]]:
    """The runs of an answer as a page, and what of them could not be parsed: their rows stay, without it."""
    nodes = [edge["node"] for edge in parsed_json(text)[0]["project"]["runs"]["edges"]]
    found = [run_of_node(node, place, app_url) for node in nodes]
    runs = [run for run, _ in found]
    failures = [failure for _, wrong in found for failure in wrong]
    try:
        return write_page(runs, work), failures
    except (ScriptError, OSError):  # no place to write to: of no run alone
        raise
    except Exception as error:
        odd = {run.id for run in runs if not is_writable(run, work)}
        if not odd:
            raise
        runs = [bare(run, node) if run.id in odd else run for run, node in zip(runs, nodes, strict=True)]
        told = f"config and summary cannot be taken apart ({error!r})"[:300]
        failures += [Failure(run_id, "config", f"{told}; their text is kept as it is") for run_id in sorted(odd)]
        return write_page(runs, work), failures


def is_writable(run: Run, work: Path) -> bool:
    """Whether the run makes a page: one that does not shall not spoil the others'."""
    try:
        write_page([run], work).file.unlink()
    except (ScriptError, OSError):
        raise
    except Exception:  # noqa: BLE001 - whatever it is: there is no more to ask than whether
        return False
    return True


def bare(run: Run, node: Mapping[str, Any]) -> Run:
    """The run with its config and summary as texts alone."""
    config_json, summary_json = valid_json(node["config"]), valid_json(node["summaryMetrics"])
    return replace(run, config={}, summary={}, config_json=config_json, summary_json=summary_json)


def run_of_node(node: Mapping[str, Any], place: tuple[str, str], app_url: str) -> tuple[Run, list[Failure]]:
    """One run of the server's answer; a config or summary that is no JSON object becomes empty and is named."""
    failures: list[Failure] = []
    trees: dict[str, dict[str, Any]] = {}
    texts: dict[str, str | None] = {}
    for key in ("config", "summaryMetrics"):
        try:
            tree, texts[key] = tree_of(node[key])
            trees[key] = with_exact_ints(tree, node[key]) if key == "config" else tree
        except (ValueError, RecursionError) as error:
            trees[key], texts[key] = {}, valid_json(node[key])
            failures.append(Failure(node["name"], key, f"cannot be parsed ({error}); its text is kept as it is"))
    config, summary = unwrapped(trees["config"]), trees["summaryMetrics"]
    entity, project = place
    run = Run(
        id=node["name"],
        name=node["displayName"] or node["name"],
        state=node["state"] or "",
        entity=entity,
        project=project,
        created_at=time_of(node["createdAt"]),
        heartbeat_at=time_of(node["heartbeatAt"]),
        runtime_s=runtime_s(summary),
        last_step=summary["_step"] if type(summary.get("_step")) is int else None,
        history_rows=node["historyLineCount"] or 0,
        tags=tuple(node["tags"] or ()),
        group=node["group"] or None,
        job_type=node["jobType"] or None,
        sweep=node["sweepName"] or None,
        user=(node["user"] or {}).get("username"),
        notes=node["notes"] or None,
        commit=node["commit"] or None,
        url="/".join([app_url, *(quote(key, safe="") for key in (entity, project, "runs", node["name"]))]),
        exported_at=now(),
        config=without_notes(config),
        summary=summary,
        config_json=texts["config"] if failures and not config else None,
        summary_json=texts["summaryMetrics"],
        definitions=definitions_in(config),
    )
    return run, failures


def tree_of(text: str | None) -> tuple[dict[str, Any], str | None]:
    """The JSON object in a config or summary text, empty for none, and the text if others can read it too.

    ValueError for anything else.
    """
    if not text:
        return {}, None
    tree, strict = parsed_json(text)
    if tree is not None and not isinstance(tree, dict):
        raise ValueError("it is no JSON object")
    return tree or {}, text if strict and tree else None


def parsed_json(text: str) -> tuple[Any, bool]:
    """The value of a JSON text, and whether that is strict JSON, which the fast parser insists on."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text), True
    return jsonable(json.loads(text)), False


def with_exact_ints(config: dict[str, Any], text: str | None) -> dict[str, Any]:
    """The config as Python's own parser has it if its text holds ints past 64 bits, which the fast one rounds."""
    return cast("dict[str, Any]", jsonable(json.loads(text))) if text and holds_huge(config) else config


def holds_huge(value: object) -> bool:
    """Whether a value is, or holds, a float past the range of ints."""
    if isinstance(value, float):
        return abs(value) >= 2**63
    if isinstance(value, dict):
        return any(map(holds_huge, value.values()))
    return isinstance(value, list) and any(map(holds_huge, value))


def unwrapped(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as the user gave it: W&B wraps each value as `{"value": ..., "desc": ...}`, once, but not always.

    >>> unwrapped({"lr": {"value": 0.1, "desc": None}, "k": 16, "odd": {"value": {"value": 7}}})
    {'lr': 0.1, 'k': 16, 'odd': {'value': 7}}
    """
    return {
        key: value["value"]
        if isinstance(value, dict) and "value" in value and value.keys() <= {"value", "desc"}
        else value
        for key, value in config.items()
    }


def definitions_in(config: Mapping[str, Any]) -> tuple[MetricDefinition, ...]:
    """What `define_metric` said, from where the SDK notes it in a config: protobuf fields by their numbers."""
    notes = config.get("_wandb")
    noted = notes.get("m") if isinstance(notes, dict) else None
    records = [record for record in noted if isinstance(record, dict)] if isinstance(noted, list) else []
    told = [record.get("1") or record.get("2") for record in records]
    names = [name if isinstance(name, str) else None for name in told]
    definitions = []
    for record, name in zip(records, names, strict=True):
        numbers = record.get("7")
        kinds = [kind for n, kind in enumerate(SUMMARY_KINDS, 1) if isinstance(numbers, list) and n in numbers]
        number = record.get("5")
        step_metric = names[number - 1] if isinstance(number, int) and 0 < number <= len(names) else None
        if name:
            goal = next((goal for n, goal in GOALS.items() if n == record.get("8")), None)
            definitions.append(MetricDefinition(name, goal, ",".join(kinds) or None, step_metric))
    return tuple(definitions)


def time_of(text: str | None) -> datetime | None:
    """A time as the server writes it, UTC where it does not say."""
    if not text:
        return None
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:  # one odd time is no reason to lose a run
        return None
    return time_.astimezone(UTC) if time_.tzinfo else time_.replace(tzinfo=UTC)


# --- the server: histories ------------------------------------------------------------------------------------

FULL_FIELDS = 'historyLineCount parquetHistory(liveKeys: ["_step"]) { parquetUrls liveData }'
LIVE_ROWS = IN_PROJECT % (
    ", $run: String!, $min: Int64, $max: Int64, $samples: Int",
    "run(name: $run) { history(minStep: $min, maxStep: $max, samples: $samples) }",
)


@dataclass(frozen=True)
class RunHistory:
    """Rows of one run: its parts, the metrics that are no numbers, and how many rows the server counts, if it does."""

    parts: Sequence[Part]
    skipped: frozenset[KeyPath]
    counted: int | None
    repeated: int = 0  # rows that came, but whose step another one has: the server counts them
    problem: str = ""  # why there are no more

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def lacking(self) -> str:
        """What is missing, in words; empty if nothing is."""
        complete = self.counted is None or self.rows + self.repeated >= self.counted
        reason = f": {self.problem}" if self.problem else ""
        return "" if complete else f"{self.rows:,} of {self.counted:,} rows could be had{reason}"


@dataclass
class Histories:
    """What was fetched of a project's runs in one kind of table, by run id, and what could not be."""

    runs: dict[str, RunHistory] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Fetch:
    """One kind of table to fetch for runs: which fields to ask for, and what makes a history of the answer."""

    table: str  # the end of its file's name
    made_of: tuple[str, ...]  # what else its rows depend on: a file made of something else is fetched anew
    fields: str
    collect: Callable[[Server, Project, Facts, Mapping[str, Any], Path], RunHistory]


def fetches_of(options: Options) -> list[Fetch]:
    """The tables that are asked for besides the runs."""
    keys = options.history_keys
    samples = f"{options.history_samples} samples"
    sampled = Fetch(
        "history_sampled", (*keys, samples), f"rows: history(samples: {options.history_samples})", collect_rows
    )
    full = Fetch("history", keys, FULL_FIELDS, collect_history)
    system = Fetch("system", keys, f"rows: events(samples: {SYSTEM_SAMPLES})", collect_rows)
    wanted = (options.include_history, options.history_samples is not None, options.system_metrics)
    return [fetch for fetch, asked_for in zip((full, sampled, system), wanted, strict=True) if asked_for]


def fetch_histories(server: Server, project: Project, fetch: Fetch, wanted: Sequence[Facts], kept: Path) -> Histories:
    """Fetch side by side, several runs a question; each history that is finished is `kept` for an export to come."""
    kept.mkdir(parents=True, exist_ok=True)
    for unfinished in kept.glob("*.download"):
        unfinished.unlink()
    stored = {facts.id: stored_history(kept, facts, fetch) for facts in wanted}
    found = Histories({run_id: history for run_id, history in stored.items() if history is not None})
    for finished in found.runs.values():
        server.meter.add(histories=1, rows=finished.rows)
    missing = [facts for facts in wanted if facts.id not in found.runs]
    size = max(1, min(RUNS_A_QUESTION, math.ceil(len(missing) / (2 * server.options.workers))))
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    fetched = side_by_side(partial(fetch_batch, server, project, fetch, kept=kept), batches, server.options.workers)
    for run_id, history, problem in (outcome for outcomes in fetched for outcome in outcomes):
        if history is not None:
            found.runs[run_id] = history
        if problem is not None:
            found.failed.append(problem)
    return found


def fetch_batch(
    server: Server, project: Project, fetch: Fetch, batch: Sequence[Facts], kept: Path
) -> list[tuple[str, RunHistory | None, Failure | None]]:
    """The histories of a few runs, asked for in one question, and what is wrong with them."""
    answers: list[dict[str, Any] | None] = [None] * len(batch)
    if len(batch) > 1:
        try:
            answers = ask_for_runs(server, project, batch, fetch.fields)
        except QueryError:  # one run may spoil the question: then each is asked for alone
            server.slow_down(0)
    outcomes = []
    for facts, answer in zip(batch, answers, strict=True):
        history, problem = fetch_run(server, project, fetch, facts, answer, kept)
        server.meter.add(histories=1, rows=history.rows if history else 0)
        outcomes.append((facts.id, history, problem))
    return outcomes


def ask_for_runs(server: Server, project: Project, runs: Sequence[Facts], fields_: str) -> list[dict[str, Any] | None]:
    """The fields of each run, asked for in one question; None for a run that is not there."""
    names = [f"r{number}" for number in range(len(runs))]
    head = ", ".join(f"${name}: String!" for name in names)
    body = " ".join(f"{name}: run(name: ${name}) {{ {fields_} }}" for name in names)
    variables = dict(zip(names, (facts.id for facts in runs), strict=True))
    answer = server.ask_once(IN_PROJECT % (f", {head}", body), {**project.place, **variables})["project"] or {}
    return [answer.get(name) for name in names]


def fetch_run(
    server: Server, project: Project, fetch: Fetch, facts: Facts, answer: dict[str, Any] | None, kept: Path
) -> tuple[RunHistory | None, Failure | None]:
    """One run's history, the fullest of so many tries, and a failure unless it is whole."""
    best: RunHistory | None = None
    problem = ""
    for attempt in range(1, server.retries + 2):
        try:
            answer = answer or ask_for_runs(server, project, [facts], fetch.fields)[0]
            if answer is None:
                return best, Failure(facts.id, fetch.table, "the server no longer has this run", attempt)
            history = fetch.collect(server, project, facts, answer, kept)
            best = history if best is None or history.rows > best.rows else best
            if not history.lacking:
                store_history(kept, facts, fetch, history)
                return history, None
            problem = history.lacking
            if attempt == COUNT_TRIES or history.problem:
                return best, Failure(facts.id, fetch.table, problem, attempt)
        except (QueryError, DownloadError) as error:
            problem = str(error)
            if server.stopped.is_set() or is_final(error):
                return best, Failure(facts.id, fetch.table, problem, attempt)
        except (ScriptError, OSError):  # no place to write to: of no run alone
            raise
        except Exception as error:  # noqa: BLE001 - whatever is odd about one run's rows, the others are not to suffer
            return best, Failure(facts.id, fetch.table, f"cannot be understood: {error!r}"[:300], attempt)
        answer = None  # ask anew: signed URLs expire, and rows move from the live tail to exports
        if attempt <= server.retries:
            server.slow_down(attempt - 1)
    return best, Failure(facts.id, fetch.table, problem, server.retries + 1)


def collect_history(
    server: Server, project: Project, facts: Facts, answer: Mapping[str, Any], kept: Path
) -> RunHistory:
    """Every row: W&B's parquet exports, and the rows that are in none yet."""
    exports = answer["parquetHistory"] or {}
    files = [server.download(url, kept) for url in exports.get("parquetUrls") or ()]
    counted = answer["historyLineCount"] or 0
    history_keys = server.options.history_keys
    parts, skipped = (
        server.workers.run(parts_of_exports, files, facts.nested, history_keys, kept) if files else ([], set())
    )
    steps = sorted(row["_step"] for row in map(as_row, exports.get("liveData") or ()) if row.get("_step") is not None)
    ranges = step_ranges(steps)
    if counted and not files and not steps:  # a server without exports: everything is live
        ranges = even_ranges(last_step(server, project, facts) + 1, counted)
    problem = ""
    try:
        for rows in live_rows(server, project, facts, ranges):
            part, odd = server.workers.run(part_of_rows, rows, history_keys, kept)
            parts.append(part)
            skipped |= odd
    except GivenUpError as error:  # what came stays
        problem = str(error)
    repeated = sum(part.repeated for part in parts)
    if len(parts) > 1 or not all(part.ascending for part in parts):
        parts = server.workers.run(each_step_once, parts, kept)
    return RunHistory(parts, frozenset(skipped), counted, repeated, problem)


def last_step(server: Server, project: Project, facts: Facts) -> int:
    """The last step that was logged; the summary may not tell it."""
    keys = (ask_for_runs(server, project, [facts], "historyKeys")[0] or {}).get("historyKeys")
    told = as_row(keys).get("lastStep") if keys else None
    return max(told if isinstance(told, int) else -1, facts.last_step or 0, facts.history_rows)


def step_ranges(steps: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges (from, before) that hold the steps, some thousand each, however far these lie apart.

    >>> step_ranges([3, 4, 50_000_000])
    [(3, 50000001)]
    """
    chunks = (steps[start : start + LIVE_ROWS_A_QUESTION] for start in range(0, len(steps), LIVE_ROWS_A_QUESTION))
    return [(chunk[0], chunk[-1] + 1) for chunk in chunks]


def even_ranges(end: int, rows: int) -> list[tuple[int, int]]:
    """Ranges (from, before) up to a step, with some thousand of the rows each, if these are spread evenly.

    >>> even_ranges(30_000, 10_000)
    [(0, 15000), (15000, 30000)]
    """
    width = math.ceil(end / math.ceil(rows / LIVE_ROWS_A_QUESTION))
    return [(first, min(first + width, end)) for first in range(0, end, width)]


def live_rows(
    server: Server, project: Project, facts: Facts, ranges: Sequence[tuple[int, int]]
) -> Iterator[Sequence[str]]:
    """The rows of ranges of steps as JSON, range by range; one that fails is asked for again in halves."""
    waiting, failures = list(reversed(ranges)), 0
    while waiting:
        first, end = waiting.pop()
        try:
            rows = rows_between(server, project, facts, first, end)
        except QueryError as error:
            if is_final(error) or failures == server.retries:
                raise GivenUpError(str(error), error.status) from error
            server.slow_down(failures)
            failures += 1
            middle = (first + end) // 2
            waiting += [(middle, end), (first, middle)] if first < middle else [(first, end)]
            continue
        failures = 0
        if rows:
            yield rows


def rows_between(server: Server, project: Project, facts: Facts, first: int, end: int) -> Sequence[str]:
    """The rows with first <= _step < end as JSON, unsampled: more samples are asked for than there can be rows."""
    most = 2**31 - 1  # GraphQL's ints are short
    samples = min(2 * (end - first), most)  # a row may be in an export and in the live tail
    variables = {"run": facts.id, "min": first, "max": end, "samples": samples}
    run = (server.ask_once(LIVE_ROWS, {**project.place, **variables})["project"] or {}).get("run") or {}
    return list(run.get("history") or ())


def as_row(live: object) -> Mapping[str, Any]:
    """A live row, which comes as an object or as its JSON."""
    row = json.loads(live) if isinstance(live, str) else live
    return row if isinstance(row, dict) else {}


def collect_rows(server: Server, _project: Project, _facts: Facts, answer: Mapping[str, Any], kept: Path) -> RunHistory:
    """Rows that the server sampled: of the history, or of the system metrics."""
    rows = list(answer["rows"] or ())
    if not rows:
        return RunHistory([], frozenset(), None)
    part, skipped = server.workers.run(part_of_rows, rows, server.options.history_keys, kept)
    return RunHistory(server.workers.run(each_step_once, [part], kept), frozenset(skipped), None)


def stored_history(kept: Path, facts: Facts, fetch: Fetch) -> RunHistory | None:
    """A history that an interrupted export has finished, if it is still the run's."""
    document = metadata_of(kept / f"{history_key(facts, fetch)}.json")
    if document is None:
        return None
    parts = [
        Part(kept / part["file"], **{key: part[key] for key in ("rows", "first_step", "last_step", "ascending")},
             metrics={tuple(path): dtype for path, dtype in part["metrics"]})
        for part in document["parts"]
    ]  # fmt: skip
    if not all(part.file.exists() for part in parts):
        return None
    return RunHistory(parts, frozenset(map(tuple, document["skipped"])), document["counted"])


def store_history(kept: Path, facts: Facts, fetch: Fetch, history: RunHistory) -> None:
    told = ("rows", "first_step", "last_step", "ascending")
    parts = [
        {name: getattr(part, name) for name in told} | {"file": part.file.name, "metrics": list(part.metrics.items())}
        for part in history.parts
    ]
    document = {"parts": parts, "skipped": sorted(history.skipped), "counted": history.counted}
    with replacing(kept / f"{history_key(facts, fetch)}.json") as unfinished:
        unfinished.write_text(json.dumps(document), "utf-8")


def history_key(facts: Facts, fetch: Fetch) -> str:
    """A file name that changes with whatever makes a history another one."""
    return path_hash((facts.id, *history_mark(facts), *fetch.made_of))


def history_mark(facts: Facts) -> tuple[str, str]:
    """What tells whether a run's history has changed: its length, and when the run was last heard of."""
    return str(facts.history_rows), iso(facts.heartbeat_at) or ""


def mark_of_node(node: Mapping[str, Any]) -> tuple[str, str]:
    """The `history_mark` of a run in the server's answer."""
    return str(node["historyLineCount"] or 0), iso(time_of(node["heartbeatAt"])) or ""


# --- the server: histories, parsed by a worker ----------------------------------------------------------------


def parts_of_exports(
    files: Sequence[Path], nested: Sequence[KeyPath], history_keys: Sequence[str], work: Path
) -> tuple[list[Part], set[KeyPath]]:
    """The parts that W&B's parquet exports of a run make, and keys that are no numbers; the exports are removed.

    Exports come in any order: where they overlap, the one that begins later is the newer.
    """
    skipped: set[KeyPath] = set()
    parts: list[Part] = []
    for file in files:
        parts += export_parts(file, nested, history_keys, work, skipped)
        file.unlink()
    return sorted(parts, key=lambda part: part.first_step), skipped


def export_parts(
    file: Path, nested: Sequence[KeyPath], history_keys: Sequence[str], work: Path, skipped: set[KeyPath]
) -> Iterator[Part]:
    """The numbers of one export, some rows a part; DownloadError if the file is not whole."""
    try:
        with pq.ParquetFile(file) as export:
            empty = cast("pl.DataFrame", pl.from_arrow(export.schema_arrow.empty_table()))
            leaves = export_leaves(empty.schema, nested)
            chosen = {p: leaf for p, leaf in leaves.items() if p in CLOCKS or is_wanted(p, history_keys)}
            skipped |= set(filter(is_private, leaves))
            rows = max(1, PART_CELLS // max(len(chosen), 1))
            for batch in export.iter_batches(batch_size=rows):
                yield write_part(
                    dict(export_numbers(cast("pl.DataFrame", pl.from_arrow(batch)), chosen, skipped)), work
                )
    except (OSError, pa.ArrowException) as error:
        raise DownloadError("an export was cut short or damaged") from error


def export_leaves(schema: Mapping[str, pl.DataType], nested: Sequence[KeyPath]) -> dict[KeyPath, pl.Expr]:
    """The columns of an export by their paths: structs taken apart, and dotted names where the summary nests so.

    Beside a struct of the name before its first dot, a dotted name is a key of its own.
    """
    by_name = {".".join(path): path for path in nested if not isinstance(schema.get(path[0]), pl.Struct)}
    leaves: dict[KeyPath, pl.Expr] = {}

    def add(path: KeyPath, column: pl.Expr, dtype: pl.DataType) -> None:
        if isinstance(dtype, pl.Struct) and not any(f.name == "_type" for f in dtype.fields):
            for f in dtype.fields:
                add((*path, f.name), column.struct.field(f.name), cast("pl.DataType", f.dtype))
        else:
            leaves[path] = column

    for name, dtype in schema.items():
        add(by_name.get(name, (name,)), pl.col(name), dtype)
    return leaves


def export_numbers(
    rows: pl.DataFrame, leaves: Mapping[KeyPath, pl.Expr], skipped: set[KeyPath]
) -> Iterator[tuple[KeyPath, pl.Series]]:
    """The columns of numbers, Booleans as 0 and 1; others are noted where they hold anything."""
    media = {path[0].removesuffix("._type") for path in leaves if path[0].endswith("._type")}
    for path, expr in leaves.items():
        column = rows.select(expr.alias("x"))["x"]
        if any(path[0].startswith(f"{top}.") for top in media):
            skipped.add((path[0].partition(".")[0],))
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean:
            whole = column.dtype.is_integer() or column.dtype == pl.Boolean
            huge = column.dtype in (pl.UInt64, pl.Int128, pl.UInt128)  # may pass 64 bits
            yield path, column.cast(pl.Int64 if path == ("_step",) or (whole and not huge) else pl.Float64)
        elif column.dtype == pl.String and column.null_count() < len(column):
            numbers = column.replace_strict(NON_FINITE, default=None, return_dtype=pl.Float64)
            if numbers.null_count() > column.null_count():
                skipped.add(path)
            if numbers.null_count() < len(numbers):
                yield path, numbers
        elif column.null_count() < len(column):
            skipped.add(path)


def part_of_rows(rows: Sequence[str], history_keys: Sequence[str], work: Path) -> tuple[Part, set[KeyPath]]:
    """Rows in JSON as a part, and keys that are no numbers; rows without a step, as of system metrics, are counted."""
    columns = Columns()
    skipped: set[KeyPath] = set()
    for number, text in enumerate(rows):
        row = parsed_json(text)[0]
        leaves = [leaf for leaf in numeric_leaves(row) if is_wanted(leaf[0], history_keys)]
        clocks = {
            "_step": row.get("_step", number),
            "_runtime": row.get("_runtime"),
            "_timestamp": row.get("_timestamp"),
        }
        columns.add([*(((name,), value) for name, value in clocks.items()), *leaves])
        told = {path[0] for path, _ in numeric_leaves(row)}
        others = {(key,) for key, value in row.items() if value is not None and key not in told}
        skipped |= {path for path in others if is_private(path) or is_wanted(path, history_keys)}
    dtypes: dict[KeyPath, Any] = dict(zip(CLOCKS, (pl.Int64, pl.Float64, pl.Float64), strict=True))
    numbers = {path: settled_series("", values) for path, values in columns.padded()}
    return write_part({path: s.cast(dtypes.get(path, s.dtype)) for path, s in numbers.items()}, work), skipped


def is_private(path: KeyPath) -> bool:
    """Whether the user logged it under a name that W&B keeps for itself."""
    return path[0].startswith("_") and path not in CLOCKS and path[0] not in NOT_CONFIG


def is_wanted(path: KeyPath, history_keys: Sequence[str]) -> bool:
    return not path[0].startswith("_") and (not history_keys or names_match(path, history_keys))


# --- the server: one project, from its runs to its files ------------------------------------------------------


def export_project(server: Server, project: Project, folders: Folders) -> Export | Plan:
    """Fetch and write one project; its plan alone if no run of it is selected."""
    plan, pages, failed = listed_runs(server, project, folders.work)
    options = server.options
    facts = [each for page in pages for each in page.facts]
    is_whole = not (project.filters or options.selection.active_since or any(map(is_of_listing, failed)))
    had_some = is_whole and (options.output / f"{project.stem}_runs.parquet").exists()
    if not (facts or failed or had_some):
        return replace(plan, selected=0)
    left_out = sum(page.left_out for page in pages)
    lost = max(plan.selected - len(facts) - left_out, 0)
    filtered = plan.all - plan.selected + left_out
    stem = project.stem
    tables: dict[str, dict[str, Sequence[Part]]] = {}
    made_of: dict[str, Sequence[str]] = {}
    skipped: set[KeyPath] = set()
    short: list[str] = []
    repeating: list[str] = []
    lost_histories: list[str] = []
    for fetch in fetches_of(options):
        file = options.output / f"{stem}_{fetch.table}.parquet"
        known = server.workers.run(histories_in, file, fetch.made_of)
        changed = changed_histories(facts, known)
        server.meter.add(histories_wanted=len(changed))
        histories = fetch_histories(server, project, fetch, changed, folders.kept / stem / fetch.table)
        lacking = {run_id: history.rows for run_id, history in histories.runs.items() if history.lacking}
        fuller = server.workers.run(fuller_in, file, lacking) if lacking and known else ()
        tables[fetch.table] = {id_: history.parts for id_, history in histories.runs.items() if id_ not in fuller}
        made_of[fetch.table] = fetch.made_of
        skipped |= {path for history in histories.runs.values() for path in history.skipped}
        short += lacking
        repeating += [
            run_id for run_id, history in histories.runs.items() if history.counted not in (None, history.rows)
        ]
        lost_histories += [failure.run for failure in histories.failed if fetch.table == "history"]
        failed += histories.failed
    goals: dict[str, str] = {}
    try:
        goals = sweep_goals(server, project, facts)
    except QueryError as error:
        failed.append(Failure(project.path, "sweeps", f"their goals cannot be had: {error}", server.retries + 1))
    listing = Listing(
        project.entity,
        project.name,
        pages,
        total=len(facts) + lost + filtered,  # runs may have been added since they were counted
        filtered=filtered,
        listed=frozenset(each.id for each in facts) if is_whole else None,
        tables=tables,
        made_of=made_of,
        failed=failed,
        short=sorted(short),
        mismatched=sorted({*short, *repeating, *lost_histories}),
        skipped_history_keys=sorted(".".join(path) for path in skipped),
        goals=goals,
        stem=stem,
    )
    export = server.workers.run(write_project, listing, options, server.source, folders.work)
    shutil.rmtree(folders.kept / stem, ignore_errors=True)
    return export


def listed_runs(server: Server, project: Project, work: Path) -> tuple[Plan, list[RunPage], list[Failure]]:
    """The project's selected runs, each once. If fewer came than the server counts then, they are listed again."""
    plan = plan_of(server, project)
    server.meter.add(runs_wanted=plan.selected)
    for _ in range(LISTINGS):
        if not plan.selected:
            return plan, [], []
        pages, failed = window_pages(server, project, plan, work)
        pages = server.workers.run(each_run_once, pages, server.options.selection.active_since, work)
        got = sum(len(page.facts) + page.left_out for page in pages)
        if got >= plan.selected or any(map(is_of_listing, failed)):
            return plan, pages, failed
        plan = plan_of(server, project)  # runs may have been deleted meanwhile
        if got >= plan.selected:
            return plan, pages, failed
    problem = f"the server counts {plan.selected:,} runs, but lists {got:,}"
    return plan, pages, [*failed, Failure(project.path, "runs", problem, LISTINGS)]


def is_of_listing(failure: Failure) -> bool:
    """Whether it means that runs may be missing, rather than something of a run."""
    return failure.what == "runs"


def window_pages(server: Server, project: Project, plan: Plan, work: Path) -> tuple[list[RunPage], list[Failure]]:
    """All windows' runs, fetched side by side while workers parse; a window that cannot be had is a failure."""
    place = (project.entity, project.name)
    parsed: list[Future[tuple[RunPage, list[Failure]]]] = []

    def parse(text: str) -> Future[tuple[RunPage, list[Failure]]]:
        server.parsing.acquire()
        future = server.workers.submit(page_of_answer, text, place, server.app_url, work)
        future.add_done_callback(lambda _: server.parsing.release())
        future.add_done_callback(lambda done: server.meter.add(runs=runs_in(done)))
        return future

    def fetch(window: Window) -> list[Window] | QueryError:
        pages: list[Future[tuple[RunPage, list[Failure]]]] = []
        outcome: list[Window] | QueryError = []
        try:
            for answer in run_pages(server, project, window, ROW_FIELDS):
                if isinstance(answer, str):
                    pages.append(parse(answer))
                else:
                    outcome = answer
        except QueryError as error:
            outcome = error
        is_repeated = isinstance(outcome, list) and any(rest.tries > window.tries for rest in outcome)
        parsed.extend(() if is_repeated else pages)
        return outcome

    errors: list[QueryError] = []
    windows = plan.windows
    while windows:
        outcomes = side_by_side(fetch, windows, server.options.workers)
        errors += [outcome for outcome in outcomes if isinstance(outcome, QueryError)]
        windows = [window for outcome in outcomes if isinstance(outcome, list) for window in outcome]
    if errors and not parsed:
        raise errors[0]
    pages = [server.workers.result(future) for future in parsed]
    failed = [Failure(project.path, "runs", str(error), server.retries + 1) for error in errors]
    return [page for page, _ in pages], failed + [failure for _, wrong in pages for failure in wrong]


def runs_in(parsed: Future[tuple[RunPage, list[Failure]]]) -> int:
    return 0 if parsed.exception() else len(parsed.result()[0].facts)


def each_run_once(pages: Sequence[RunPage], active_since: datetime | None, work: Path) -> list[RunPage]:
    """Pages without the runs that an earlier page has, and without those last heard of before `active_since`."""
    seen: set[str] = set()
    rest = []
    for page in pages:
        fresh = [each for each in page.facts if each.id not in seen]
        seen |= {each.id for each in fresh}
        kept = [each for each in fresh if active_since is None or at_or_after(each.heartbeat_at, active_since)]
        rest.append(page if len(kept) == len(page.facts) else narrowed(page, kept, len(fresh) - len(kept), work))
    return [page for page in rest if page.facts or page.left_out]


def narrowed(page: RunPage, kept: Sequence[Facts], left_out: int, work: Path) -> RunPage:
    ids = [each.id for each in kept]
    rows = (
        pl.read_parquet(page.file, glob=False)
        .filter(pl.col("id").is_in(ids))
        .unique("id", keep="first", maintain_order=True)
    )
    file = work / f"{uuid.uuid4().hex}.parquet"
    write_intermediate(rows, file)
    return replace(page, file=file, facts=list(kept), left_out=left_out)


def changed_histories(facts: Iterable[Facts], known: Mapping[str, Sequence[str]]) -> list[Facts]:
    """The runs whose histories are not the known ones any more."""
    return [each for each in facts if known.get(each.id) != list(history_mark(each))]


def histories_in(file: Path, made_of: Sequence[str]) -> dict[str, list[str]]:
    """The `history_mark` of every run in an earlier file; none if that was made of other keys."""
    known = marks_in(file)
    return dict(known.get("runs", {})) if known.get("keys") == list(made_of) else {}


def marks_in(file: Path) -> dict[str, Any]:
    """What an earlier file says of the histories in it."""
    if not file.exists():
        return {}
    with readable(file):
        return cast("dict[str, Any]", json.loads(pl.read_parquet_metadata(file).get(HISTORIES_KEY, "{}")))


def fuller_in(file: Path, rows: Mapping[str, int]) -> set[str]:
    """The ids of runs of which an earlier file has more than so many rows: it is not to lose them."""
    with readable(file):
        runs = pl.scan_parquet(file, glob=False).filter(pl.col("run_id").is_in(list(rows))).group_by("run_id").len()
        return {run_id for run_id, count in runs.collect().iter_rows() if count > rows[run_id]}


def sweep_goals(server: Server, project: Project, facts: Sequence[Facts]) -> dict[str, str]:
    """The goal of each metric that a sweep optimises; one on which sweeps differ is left out."""
    sweeps = sorted({each.sweep for each in facts if each.sweep})
    if not sweeps:
        return {}
    import yaml

    goals: dict[str, set[str]] = {}
    for start in range(0, len(sweeps), RUNS_A_QUESTION):
        names = dict(enumerate(sweeps[start : start + RUNS_A_QUESTION]))
        head = "".join(f", $s{number}: String!" for number in names)
        body = " ".join(f"s{number}: sweep(sweepName: $s{number}) {{ config }}" for number in names)
        variables = {f"s{number}": name for number, name in names.items()}
        answer = server.ask(IN_PROJECT % (head, body), {**project.place, **variables})["project"] or {}
        for sweep in filter(None, answer.values()):
            config = None
            with suppress(yaml.YAMLError):  # a sweep that W&B itself could not read has no goal
                config = yaml.safe_load(sweep["config"] or "")
            metric = config.get("metric") if isinstance(config, dict) else None
            if isinstance(metric, dict) and isinstance(metric.get("name"), str):
                goals.setdefault(metric["name"], set()).add(str(metric.get("goal") or "minimize"))
    return {name: told.pop() for name, told in goals.items() if len(told) == 1 and told <= set(GOALS.values())}


# --- the server: all projects ---------------------------------------------------------------------------------


def export_online(options: Options, folders: Folders, say: Say) -> Conclusion:
    """Export from the server what is asked for: projects side by side, a failing one apart from the rest."""
    with (
        Workers(PARSERS) as workers,
        connected(options.key_file, timeout_s=options.timeout_s, retries=1) as api,
        Meter(quiet=options.quiet) as meter,
    ):
        workers.start_all()
        server = Server(api, options, workers, meter)
        try:
            projects, failed = found_projects(server, options)
            projects = with_stems(projects, options.output)
            outcomes = side_by_side(partial(one_project, server, folders=folders), projects, PROJECTS_AT_ONCE)
        except QueryError as error:
            message = f"{base_url()} does not tell its projects: {error}; try it again later"
            raise ScriptError(message, NOTHING_USABLE) from error
        except BaseException:
            server.stopped.set()
            raise
    return concluded([*failed, *outcomes], options, say)


def with_stems(projects: Sequence[Project], output: Path) -> list[Project]:
    """The projects with what their files' names begin with: settled for all of them, before any is written."""
    settled: list[Project] = []
    taken: set[str] = set()
    for project in sorted(projects, key=lambda project: (project.entity, project.name)):
        stem = file_stem(output, project.entity, project.name)
        if stem in taken:
            stem = file_stem(output, project.entity, project.name, taken=True)
        taken.add(stem)
        settled.append(replace(project, stem=stem))
    return settled


def concluded(outcomes: Sequence[Export | Plan | Failure], options: Options, say: Say) -> Conclusion:
    """What became of all projects together; a ScriptError if nothing did."""
    exports = [outcome for outcome in outcomes if isinstance(outcome, Export)]
    plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    selected = sum(plan.selected for plan in plans) + sum(export.listing.selected for export in exports)
    total = sum(plan.all for plan in plans) + sum(export.listing.total for export in exports)
    flags = filter_flags(options)
    if flags and total:
        say(f"{flags} kept {selected:,} of {total:,} runs")
    if not (selected or exports) and failed:
        raise ScriptError(f"{failed[0].run}: {failed[0].error}; nothing could be exported", NOTHING_USABLE)
    if not (selected or exports):  # an export without runs tells that all that it had are gone
        place = first_paths(plans)
        empty = f"{flags} leaves none of {total:,} runs; loosen it, or see what there is with --dry-run"
        empty = (
            empty if flags else f"{place} has no such run; list_entities.py shows projects, W&B's pages the runs' ids"
        )
        raise ScriptError(
            empty if total else f"no runs in {place}; list_entities.py shows what there is", NOTHING_USABLE
        )
    if options.prune and any(listing.listed is None for listing in (export.listing for export in exports)):
        say("--prune dropped nothing: it needs an export without filters that lists every run")
    metrics = {path for export in exports for path in export.metrics}
    for glob in options.history_keys if exports else ():
        if not any(names_match(path, [glob]) for path in metrics):
            say(f"--history-keys {glob} matches no metric of these runs")
    several = len(exports) + len(failed) > 1
    failures = [
        *failed,
        *(of_project(failure, export.listing, several) for export in exports for failure in export.listing.failed),
    ]
    return Conclusion(exports, plans if options.dry_run else [], failures)


def of_project(failure: Failure, listing: Listing, several: bool) -> Failure:  # noqa: FBT001
    """A run's failure with the run's project, where there are several; ids are only unique within one."""
    path = f"{listing.entity}/{listing.project}"
    return failure if not several or failure.run == path else replace(failure, run=f"{path}/{failure.run}")


def first_paths(plans: Sequence[Plan]) -> str:
    return ", ".join(plan.project.path for plan in plans[:3]) + (" and others" if len(plans) > 3 else "")


def filter_flags(options: Options) -> str:
    """The filters given, as the user wrote them."""
    selection = options.selection
    given = [
        name
        for name in ("since", "until", "active_since", "state", "tag", "group", "sweep", "where")
        if getattr(selection, name)
    ]
    return ", ".join(f"--{name.replace('_', '-')}" for name in given)


def one_project(server: Server, project: Project, *, folders: Folders) -> Export | Plan | Failure:
    """A project exported, or planned if that is all that is wanted; a failure is its own and not the others'."""
    try:
        if server.options.dry_run:
            return rehearsed(server, project)
        return export_project(server, project, folders)
    except QueryError as error:
        return Failure(project.path, "project", str(error), server.retries + 1)
    except ScriptError as error:  # its files
        return Failure(project.path, "project", str(error))
    except Exception as error:
        if server.stopped.is_set() or server.debug:
            raise
        return Failure(project.path, "project", f"cannot be understood: {error!r}"[:300])


def rehearsed(server: Server, project: Project) -> Plan:
    """The plan with the number of history rows to fetch, for which the runs' counts are listed and nothing else."""
    plan = plan_of(server, project)
    options = server.options
    active_since, include_history = options.selection.active_since, options.include_history
    if not ((include_history or active_since) and plan.selected):
        return plan
    file = options.output / f"{project.stem}_history.parquet"
    known = server.workers.run(histories_in, file, options.history_keys) if include_history else {}
    rows: dict[str, int] = {}
    windows = plan.windows
    while windows:
        pages_of = lambda window: list(run_pages(server, project, window, LIGHT_FIELDS))  # noqa: E731
        lists = side_by_side(pages_of, windows, options.workers)
        answers = [answer for answers in lists for answer in answers]
        for text in (answer for answer in answers if isinstance(answer, str)):
            nodes = [edge["node"] for edge in json.loads(text)["project"]["runs"]["edges"]]
            if active_since:
                nodes = [node for node in nodes if at_or_after(time_of(node["heartbeatAt"]), active_since)]
            unchanged = {node["name"] for node in nodes if known.get(node["name"]) == list(mark_of_node(node))}
            rows |= {n["name"]: 0 if n["name"] in unchanged else n["historyLineCount"] or 0 for n in nodes}
        windows = [window for answer in answers if isinstance(answer, list) for window in answer]
    return replace(plan, selected=len(rows), history_rows=sum(rows.values()) if include_history else None)


# --- selection ------------------------------------------------------------------------------------------------


def in_place(run: Run, selection: Selection) -> bool:
    """Whether the run belongs to a project that is asked for."""
    entity = not selection.entity or run.entity.lower() in map(str.lower, selection.entity)
    return entity and (not selection.project or any(matches(run.project, glob) for glob in selection.project))


def selected(runs: Sequence[Run], selection: Selection, say: Say) -> list[Run]:
    """The runs that pass every filter; what each one keeps is said, and if none remains, which one emptied the list."""
    tests: list[tuple[str, bool, Callable[[Run], bool]]] = [
        ("--since", selection.since is not None, lambda run: at_or_after(run.created_at, selection.since)),
        ("--until", selection.until is not None, lambda run: not at_or_after(run.created_at, selection.until)),
        (
            "--active-since",
            selection.active_since is not None,
            lambda run: at_or_after(run.heartbeat_at, selection.active_since),
        ),
        ("--state", bool(selection.state), lambda run: run.state in selection.state),
        ("--tag", bool(selection.tag), lambda run: any_of(run.tags, selection.tag)),
        ("--group", bool(selection.group), lambda run: any_of((run.group,), selection.group)),
        ("--sweep", bool(selection.sweep), lambda run: any_of((run.sweep,), selection.sweep)),
    ]
    kept = list(runs)
    for flag, given, test in tests:
        if not given:
            continue
        before, kept = len(kept), [run for run in kept if test(run)]
        say(f"{flag} kept {len(kept):,} of {before:,} runs")
        if before and not kept:
            raise ScriptError(
                f"{flag} leaves no run of {before:,}; loosen it, or see what there is with --dry-run", NOTHING_USABLE
            )
    return kept


def at_or_after(moment: datetime | None, limit: datetime | None) -> bool:
    return moment is not None and limit is not None and moment >= limit


def any_of(names: Iterable[str | None], wanted: Sequence[str]) -> bool:
    """Whether one of the names is among those wanted, case ignored."""
    return any(name is not None and name.lower() in map(str.lower, wanted) for name in names)


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
    leaves: list[tuple[KeyPath, int | float]] = []
    for key, value in summary.items():
        if key.startswith("_"):
            continue
        if type(value) is float or type(value) is int:  # nearly all are
            leaves.append(((*above, key), value))
        else:
            leaves += numbers_at((*above, key), value)
    return leaves


def numbers_at(path: KeyPath, value: object) -> list[tuple[KeyPath, int | float]]:
    if isinstance(value, bool):
        return [(path, int(value))]
    if isinstance(value, int | float):
        return [(path, value)]
    if isinstance(value, str):
        return [(path, NON_FINITE[value])] if value in NON_FINITE else []
    if isinstance(value, dict) and not isinstance(value.get("_type"), str):
        return [leaf for key, below in value.items() for leaf in numbers_at((*path, key), below)]
    return []


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
    return pl.Series(name, [as_text(value) for value in values], dtype=pl.String)


def as_float(value: Scalar) -> float | None:
    """A number, or the text of a non-finite one, as a float; an int past all floats is infinite, as W&B has it.

    >>> as_float(2**63), as_float("-Infinity"), as_float(-(10**400))
    (9.223372036854776e+18, -inf, -inf)
    """
    if isinstance(value, str):
        return NON_FINITE[value]
    try:
        return None if value is None else float(value)
    except OverflowError:
        return math.inf if cast("int", value) > 0 else -math.inf


def as_text(value: Scalar) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else storable(value)
    return valid_json(value)


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


# --- tables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """The columns of one export by their W&B paths: settled once, for the runs and the history file together."""

    config: Mapping[KeyPath, str]
    metrics: Mapping[KeyPath, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is to be known of a run besides its row."""

    id: str
    state: str
    heartbeat_at: datetime | None
    last_step: int | None
    history_rows: int
    sweep: str | None
    nested: tuple[KeyPath, ...]  # of the summary's numbers, the paths of more than one key


@dataclass(frozen=True)
class RunPage:
    """Some runs of a project as a file of ours, sorted like the runs file; `column_key` names its columns.

    `kinds` are the kinds of the flattened columns, by prefix and path: a dtype, EMPTY (nothing but nulls), or MIXED
    (the values as JSON, since no one dtype has them all).
    """

    file: Path
    facts: Sequence[Facts]
    kinds: Mapping[KeyPath, str]
    definitions: frozenset[MetricDefinition]
    text_bytes: int  # of the configs and summaries, the bulk of a row
    left_out: int = 0  # runs that were not wanted after all


def write_page(runs: Iterable[Run], work: Path) -> RunPage:
    """Turn runs into rows. A project's pages are made independently of each other, by several processes even."""
    runs = sorted(runs, key=lambda run: (run.created_at or EPOCH, run.id))
    columns = Columns()
    facts = []
    shared: dict[KeyPath, KeyPath] = {}  # each path once, though thousands of runs have it
    for run in runs:
        numbers = numeric_leaves(run.summary, (METRIC,))
        columns.add([*flatten(run.config, (CONFIG,)), *numbers])
        nested = tuple(shared.setdefault(path[1:], path[1:]) for path, _ in numbers if len(path) > 2)
        facts.append(Facts(run.id, run.state, run.heartbeat_at, run.last_step, run.history_rows, run.sweep, nested))
    typed = {path: typed_series(path, values) for path, values in columns.padded()}
    identity = {name: [storable_value(getattr(run, name)) for run in runs] for name in identity_schema()}
    texts = {
        "_config_json": [run.config_json or valid_json(run.config) for run in runs],
        "_summary_json": [run.summary_json or valid_json(run.summary) for run in runs],
    }
    table = pl.DataFrame(identity | texts, schema=identity_schema() | dict.fromkeys(texts, pl.String))
    file = work / f"{uuid.uuid4().hex}.parquet"
    write_intermediate(table.hstack([series for series, _ in typed.values()]), file)
    return RunPage(
        file,
        facts,
        {path: kind for path, (_, kind) in typed.items()},
        frozenset(definition for run in runs for definition in run.definitions),
        sum(len(text) for column in texts.values() for text in column),
    )


class Columns:
    """Rows of leaves, turned into columns as they come; a path that a row lacks is None there."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_path: dict[KeyPath, list[Scalar]] = {}

    def add(self, leaves: Iterable[tuple[KeyPath, Scalar]]) -> None:
        for path, value in leaves:
            column = self.by_path.get(path)
            if column is None:
                column = self.by_path[path] = []
            if len(column) < self.rows:
                column.extend([None] * (self.rows - len(column)))
            column.append(value)
        self.rows += 1

    def padded(self) -> Iterator[tuple[KeyPath, list[Scalar]]]:
        """Every column with its path, with as many values as there are rows."""
        for path, values in self.by_path.items():
            yield path, values + [None] * (self.rows - len(values))


def typed_series(path: KeyPath, values: Sequence[Scalar]) -> tuple[pl.Series, str]:
    """A page's column and its kind. What has no one dtype stays JSON: other pages decide what becomes of it."""
    name = column_key(path)
    types_found = set(map(type, values)) - {type(None)}
    if not types_found:
        return pl.Series(name, values, dtype=pl.String), EMPTY
    if len(types_found) == 1 or path[0] == METRIC:  # whose numbers are no text, whatever other pages hold
        series = settled_series(name, values)
        if series.dtype != pl.Float64 or types_found != {int}:
            return series, str(series.dtype)
        if path[0] == METRIC:
            return series, "Float64"
    return pl.Series(name, [None if value is None else valid_json(value) for value in values], dtype=pl.String), MIXED


def column_of_pages(path: KeyPath, pages: Sequence[RunPage]) -> tuple[Any, pl.Series | None]:
    """The dtype that holds a column's values in all pages, and the column itself where casts do not make it."""
    kinds = {page.kinds[path] for page in pages if path in page.kinds} - {EMPTY}
    if kinds <= {"Int64", "Float64"} and kinds:
        return (pl.Int64 if kinds == {"Int64"} else pl.Float64), None
    if len(kinds) < 2 and MIXED not in kinds:
        return (pl.Boolean if kinds == {"Boolean"} else pl.String), None
    series = settled_series("", [value for page in pages for value in values_of(path, page)])
    return series.dtype, series


def values_of(path: KeyPath, page: RunPage) -> list[Scalar]:
    """A column of a page as Python values."""
    if path not in page.kinds:
        return [None] * len(page.facts)
    values = pl.read_parquet(page.file, columns=[column_key(path)], glob=False).to_series().to_list()
    return [None if v is None else json.loads(v) for v in values] if page.kinds[path] == MIXED else values


def settled_paths(pages: Sequence[RunPage], history_paths: Iterable[KeyPath]) -> Names:
    """The names of all columns: over configs, and over summaries, histories and what `define_metric` names."""
    paths = {path for page in pages for path in page.kinds}
    defined = {(d.pattern,) for page in pages for d in page.definitions if not d.pattern.endswith("*")}
    config = settled_names(path[1:] for path in paths if path[0] == CONFIG)
    metrics = settled_names({*(path[1:] for path in paths if path[0] == METRIC), *defined, *history_paths})
    return Names(
        {path: CONFIG + name for path, name in config.items()}, {path: METRIC + name for path, name in metrics.items()}
    )


def identity_schema() -> dict[str, Any]:
    """The columns that every runs file has, in order, with their dtypes."""
    time_dtype = pl.Datetime("us", "UTC")
    dtypes: dict[str, Any] = {
        "created_at": time_dtype,
        "heartbeat_at": time_dtype,
        "exported_at": time_dtype,
        "runtime_s": pl.Float64,
        "last_step": pl.Int64,
        "history_rows": pl.Int64,
        "tags": pl.List(pl.String),
    }
    made_otherwise = ("config", "summary", "config_json", "summary_json", "definitions", "history")
    return {f.name: dtypes.get(f.name, pl.String) for f in fields(Run) if f.name not in made_otherwise}


def storable_value(value: object) -> object:
    if isinstance(value, tuple):
        return [storable(text) for text in value]
    return storable(value) if isinstance(value, str) else value


def metric_facts(
    definitions: Collection[MetricDefinition],
    names: Mapping[KeyPath, str],
    earlier: Mapping[KeyPath, Mapping[str, str | None]],
    sweep_goals: Mapping[str, str],
) -> dict[str, dict[str, str | None]]:
    """Goal, summary and step metric by column, where a sweep or `define_metric` told, now or in an `earlier` export.

    A sweep's goal goes first; one on which runs differ is left out.
    """
    facts: dict[str, dict[str, str | None]] = {}
    for path, name in names.items():
        told = [*told_of(path, definitions), *filter(None, [earlier.get(path)])]
        agreement = {key: agreed(fact[key] for fact in told) for key in ("goal", "summary", "step_metric")}
        agreement["goal"] = sweep_goals.get(".".join(path), agreement["goal"])
        if any(agreement.values()):
            facts[name] = agreement
    return facts


def told_of(path: KeyPath, definitions: Iterable[MetricDefinition]) -> list[Mapping[str, str | None]]:
    """What definitions tell of a metric: those of its name, else those of a pattern that it matches."""
    if len(path) > 2 or (len(path) == 2 and path[1] not in SUMMARY_KINDS):
        return []  # define_metric reaches top-level keys and the values it derives from them
    found = [d for d in definitions if d.pattern == path[0]] or [
        d for d in definitions if d.pattern.endswith("*") and path[0].startswith(d.pattern[:-1])
    ]
    return [{"goal": goal_of(d), "summary": d.summary, "step_metric": d.step_metric} for d in found]


def goal_of(definition: MetricDefinition) -> str | None:
    """The goal that a definition states, or that its summary implies."""
    kinds = (definition.summary or "").split(",")
    implied = {"min": "minimize", "max": "maximize"}
    return definition.goal or agreed({implied[kind] for kind in kinds if kind in implied})


def agreed(values: Iterable[str | None]) -> str | None:
    """The one value that is told; None where none is, or several are."""
    told = {value for value in values if value}
    return told.pop() if len(told) == 1 else None


def history_schema(
    dtypes: Iterable[tuple[KeyPath, str]], names: Mapping[KeyPath, str], *, with_steps: bool = True
) -> pa.Schema:
    """The columns of a file with rows of runs: a metric that any of its sources has as Float64 is Float64."""
    found: dict[str, set[str]] = {}
    for path, dtype in dtypes:
        found.setdefault(names[path], set()).add(dtype)
    metrics = {name: pa.int64() if found[name] == {"Int64"} else pa.float64() for name in sorted(found)}
    places = dict.fromkeys(("run_id", "entity", "project"), pa.string())
    steps = {"_step": pa.int64()} if with_steps else {}
    clocks = {"_runtime": pa.float64(), "_timestamp": pa.float64()}
    return pa.schema(places | steps | clocks | metrics)


def in_schema(rows: pl.DataFrame, sources: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """The rows in the history file's columns, each taken from the one that `sources` names; null if there is none."""
    dtypes = {pa.string(): pl.String, pa.int64(): pl.Int64, pa.float64(): pl.Float64}
    columns = [
        (pl.col(sources[column.name]) if column.name in sources else pl.lit(None))
        .cast(dtypes[column.type])
        .alias(column.name)
        for column in schema
    ]
    return rows.select(columns).to_arrow().cast(schema)


# --- the earlier export ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """What an earlier export of the same project left: ids of its runs, and what it says of their metrics."""

    file: Path
    ids: frozenset[str] = frozenset()
    facts: Mapping[KeyPath, Mapping[str, str | None]] = field(default_factory=dict)


def earlier_export(runs_file: Path) -> Earlier:
    """What there is of an earlier export; a ScriptError if it cannot be read, so that it is not overwritten."""
    if not runs_file.exists():
        return Earlier(runs_file)
    with readable(runs_file):
        ids = pl.read_parquet(runs_file, columns=["id"], glob=False)["id"].to_list()
        return Earlier(runs_file, frozenset(ids), metric_facts_in(pl.read_parquet_metadata(runs_file)))


def earlier_pages(earlier: Earlier, ids: Collection[str], work: Path) -> list[RunPage]:
    """The rows of an earlier export's runs, made anew from their configs and summaries."""
    if not ids:
        return []
    columns = [*identity_schema(), "_config_json", "_summary_json"]
    with readable(earlier.file):
        rows = pl.read_parquet(earlier.file, columns=columns, glob=False).filter(pl.col("id").is_in(list(ids)))
    return [write_page(map(earlier_run, page.iter_rows(named=True)), work) for page in rows.iter_slices(PAGE_RUNS)]


def earlier_run(row: Mapping[str, Any]) -> Run:
    identity = {name: row[name] for name in identity_schema()}
    texts = {"config_json": row["_config_json"], "summary_json": row["_summary_json"]}
    config, summary = (tree if isinstance(tree, dict) else {} for tree in map(json.loads, texts.values()))
    return Run(**identity, config=config, summary=summary, **texts)


def metric_facts_in(metadata: Mapping[str, str]) -> dict[KeyPath, Mapping[str, str | None]]:
    """What a file says of its metrics, by their paths: their columns may be called otherwise this time."""
    columns, facts = (json.loads(metadata.get(key, "{}")) for key in (COLUMNS_KEY, METRICS_KEY))
    return {tuple(path): facts[name] for name, path in columns.items() if name in facts}


@contextmanager
def readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0]
        raise ScriptError(
            f"the earlier export {file} cannot be read ({reason}); move it away or choose another -o", NOTHING_USABLE
        ) from error


# --- files ----------------------------------------------------------------------------------------------------


def file_stem(output: Path, entity: str, project: str, *, taken: bool = False) -> str:
    """What the names of a project's files begin with: no name from W&B leaves the folder or takes another's files."""
    name = f"{entity}_{project}".encode("utf-8", "surrogatepass")
    stem = "".join(chr(byte) if re.match(rb"[A-Za-z0-9._-]", bytes([byte])) else f"%{byte:02X}" for byte in name)
    if stem.startswith("."):
        stem = f"%2E{stem[1:]}"
    suffix = f"__{path_hash((entity, project))[:8]}"
    longest = 200 - len("_history_sampled.parquet")
    if len(stem) > longest:
        return stem[: longest - len(suffix)] + suffix
    owner = metadata_of(output / f"{stem}_metadata.json")
    taken |= owner is not None and (owner.get("entity"), owner.get("project")) != (entity, project)
    return stem + suffix if taken else stem


def metadata_of(file: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


@dataclass(frozen=True)
class Written:
    """A file that was written, as the metadata lists it."""

    name: str
    bytes: int
    rows: int
    columns: int
    sha256: str


def file_facts(file: Path, at: Path) -> Written:
    """What the metadata tells of a parquet file that is, for now, at another place."""
    with at.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    footer = pq.read_metadata(at)
    return Written(file.name, at.stat().st_size, footer.num_rows, len(footer.schema.to_arrow_schema()), digest)


def write_runs(file: Path, at: Path, pages: Sequence[RunPage], names: Names, metadata: Mapping[str, str]) -> Written:
    """Write the pages' rows as one file, sorted by `created_at`, then `id`; never holds much more than a row group."""
    group_rows = rows_per_group(pages)
    columns = flat_columns(pages, names)
    schema = runs_schema(columns).with_metadata({**metadata, COLUMNS_KEY: json.dumps(paths_of(columns))})
    texts = [f.name for f in schema if f.type == pa.string() and not f.name.endswith("_json")]
    keys = pl.concat(page_keys(number, page) for number, page in enumerate(pages)).sort("created_at", "id")
    with pq.ParquetWriter(at, schema, compression="zstd", use_dictionary=texts) as writer:
        for group in keys.iter_slices(group_rows):
            ranges = group.group_by("page").agg(pl.col("row").min().alias("first"), pl.col("row").max().alias("last"))
            rows = [rows_of_page(page, pages, columns, first, last) for page, first, last in ranges.iter_rows()]
            table = pl.concat(rows).sort("created_at", "id").to_arrow().cast(schema)
            writer.write_table(table, row_group_size=group_rows)
    return file_facts(file, at)


def rows_per_group(pages: Sequence[RunPage]) -> int:
    rows = sum(len(page.facts) for page in pages)
    bytes_per_row = sum(page.text_bytes for page in pages) // max(rows, 1)
    return max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(bytes_per_row, 1)))


@dataclass(frozen=True)
class FlatColumn:
    """A `config_*` or `metric_*` column of the runs file; `values` are all pages' where a cast does not make them."""

    name: str
    path: KeyPath  # with its prefix, as pages have it
    dtype: Any
    values: pl.Series | None


def flat_columns(pages: Sequence[RunPage], names: Names) -> list[FlatColumn]:
    """All flattened columns of the pages in the runs file's order."""
    paths = {path for page in pages for path in page.kinds}
    named = {path: (names.config if path[0] == CONFIG else names.metrics)[path[1:]] for path in paths}
    by_name = sorted((name, path) for path, name in named.items())
    return [FlatColumn(name, path, *column_of_pages(path, pages)) for name, path in by_name]


def paths_of(columns: Iterable[FlatColumn]) -> dict[str, KeyPath]:
    return {column.name: column.path[1:] for column in columns}


def runs_schema(columns: Iterable[FlatColumn]) -> pa.Schema:
    """The runs file's columns, with plain Arrow types that every reader knows."""
    texts = {"_config_json": pl.String, "_summary_json": pl.String}
    dtypes = identity_schema() | {column.name: column.dtype for column in columns} | texts
    arrow = pl.DataFrame(schema=dtypes).to_arrow().schema
    plain = {pa.large_string(): pa.string(), pa.large_list(pa.large_string()): pa.list_(pa.string())}
    return pa.schema([(column.name, plain.get(column.type, column.type)) for column in arrow])


def page_keys(number: int, page: RunPage) -> pl.DataFrame:
    keys = pl.read_parquet(page.file, columns=["created_at", "id"], glob=False).with_row_index("row")
    return keys.with_columns(pl.lit(number).alias("page"))


def rows_of_page(
    number: int, pages: Sequence[RunPage], columns: Sequence[FlatColumn], first: int, last: int
) -> pl.DataFrame:
    """Rows of one page, both ends included, in the runs file's columns."""
    page, count = pages[number], last - first + 1
    before = sum(len(earlier.facts) for earlier in pages[:number])
    flat = [
        column.values.slice(before + first, count).alias(column.name)
        if column.values is not None
        else pl.col(column_key(column.path)).cast(column.dtype).alias(column.name)
        if column.path in page.kinds and page.kinds[column.path] != EMPTY
        else pl.lit(None, dtype=column.dtype).alias(column.name)
        for column in columns
    ]
    rows = pl.read_parquet(page.file, glob=False).slice(first, count)
    return rows.select(*identity_schema(), *flat, "_config_json", "_summary_json")


def write_history(file: Path, at: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> Written:
    """Write tables of any length as row groups of even length, never holding much more than one."""
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_CELLS // len(schema)))
    texts = [column.name for column in schema if column.type == pa.string()]
    with pq.ParquetWriter(at, schema, compression="zstd", use_dictionary=texts) as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(each.num_rows for each in waiting) >= group_rows:
                together = pa.concat_tables(waiting)
                whole = together.num_rows // group_rows * group_rows
                writer.write_table(together.slice(0, whole), row_group_size=group_rows)
                waiting = [together.slice(whole)]
        if any(each.num_rows for each in waiting):
            writer.write_table(pa.concat_tables(waiting), row_group_size=group_rows)
    return file_facts(file, at)


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
            wait_for(held.enter_context((own / "lock").open("w")), output, say)
            shutil.rmtree(folders.work, ignore_errors=True)  # of an export that was killed: the lock is ours
            folders.work.mkdir()
            for unfinished in filter(is_unfinished, output.glob(".*.partial")):
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            message = f"cannot write to {output}: {reason}; choose another folder with -o"
            raise ScriptError(message, NOTHING_USABLE) from error
        held.callback(shutil.rmtree, folders.work, ignore_errors=True)
        yield folders


def is_unfinished(file: Path) -> bool:
    """Whether a file is what an export was writing when it was ended.

    >>> is_unfinished(Path(".team_demo_runs.parquet.123.partial")), is_unfinished(Path(".mine.parquet.1.partial"))
    (True, False)
    """
    ours = r"_(runs\.parquet|metadata\.json|history\.parquet|history_sampled\.parquet|system\.parquet)"
    return re.search(rf"{ours}\.\d+\.partial$", file.name) is not None


def wait_for(lock: TextIO, output: Path, say: Say) -> None:
    """Hold the lock until the process ends; a file system or a system without such locks goes without."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another export writes to {output}: waiting until it is done")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return


# --- one project: runs to files -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """One project's runs by what became of them: total = those in pages + failed + filtered."""

    entity: str
    project: str
    pages: Sequence[RunPage]
    total: int
    filtered: int
    listed: frozenset[str] | None  # ids of all runs that the source has; None where it did not tell all
    tables: Mapping[str, Mapping[str, Sequence[Part]]] = field(default_factory=dict)  # by file name's end and run id
    made_of: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by file name's end: see Fetch
    failed: Sequence[Failure] = ()
    torn: Sequence[str] = ()
    short: Sequence[str] = ()  # ids of runs whose rows came in part: they are fetched again next time
    mismatched: Sequence[str] = ()  # ids of runs whose rows differ in number from the server's
    skipped_history_keys: Sequence[str] = ()
    unread: frozenset[str] = frozenset()  # ids of runs of which nothing could be read: not known to be gone
    goals: Mapping[str, str] = field(default_factory=dict)  # of metrics, by sweeps
    stem: str = ""  # what its files' names begin with; empty where the folder alone decides

    @property
    def facts(self) -> list[Facts]:
        return [facts for page in self.pages for facts in page.facts]

    @property
    def selected(self) -> int:
        return self.total - self.filtered

    @property
    def status(self) -> str:
        return "partial" if self.failed else "complete"


@dataclass(frozen=True)
class Export:
    """What was written of one project."""

    listing: Listing
    files: list[Path]
    kept: list[str]  # ids of runs of an earlier export that are not in this one
    gone: list[str]  # of these, the ids that the source no longer has
    dropped: list[str]  # metrics that the earlier history had
    history_rows: int  # in the file
    metrics: frozenset[KeyPath] = frozenset()  # in the histories


def listings(findings: Findings, options: Options, work: Path, say: Say) -> list[Listing]:
    """The projects that are asked for, each with its selected runs; projects without any are left out."""
    wanted = [run for run in findings.runs if in_place(run, options.selection)]
    if not wanted:
        places = sorted({f"{run.entity}/{run.project}" for run in findings.runs})
        unread = [f"{failure.run}: {failure.error}" for failure in findings.failed.get(None, ())]
        there = f"there is {', '.join(places[:5])}" if places else "nothing was recorded in these logs"
        raise ScriptError(f"no runs to export: {'; '.join([there, *unread[:3]])}; see -e and -p", NOTHING_USABLE)
    kept: dict[tuple[str, str], list[Run]] = {}
    for run in selected(wanted, options.selection, say):
        kept.setdefault((run.entity, run.project), []).append(run)
    return [listing(runs, wanted, findings, work) for _, runs in sorted(kept.items())]


def listing(runs: list[Run], wanted: Sequence[Run], findings: Findings, work: Path) -> Listing:
    """What was found, as far as it concerns these runs, or no run that is known."""
    entity, project = runs[0].entity, runs[0].project
    owners: list[RunPath | None] = [*map(run_path, runs), None]
    skipped = {".".join(path) for run in runs for path in findings.skipped_history_keys.get(run_path(run), ())}
    listed = frozenset(run.id for run in wanted if (run.entity, run.project) == (entity, project))
    return Listing(
        entity,
        project,
        [write_page(runs[start : start + PAGE_RUNS], work) for start in range(0, len(runs), PAGE_RUNS)],
        total=len(listed),
        filtered=len(listed) - len(runs),
        listed=listed if findings.sees_all else None,
        tables={"history": {run.id: run.history for run in runs}},
        failed=[failure for owner in owners for failure in findings.failed.get(owner, ())],
        torn=sorted(log for owner in owners for log in findings.torn.get(owner, ())),
        skipped_history_keys=sorted(skipped),
        unread=frozenset(findings.unread),
    )


def unmatched(options: Options, projects: Sequence[Listing]) -> list[str]:
    """The patterns of --history-keys that no number in the histories matches; a dry run does not look at those."""
    histories = (
        [] if options.dry_run else [parts for project in projects for parts in project.tables["history"].values()]
    )
    metrics = {path for parts in histories for part in parts for path in part.metrics}
    return [
        glob for glob in options.history_keys if histories and not any(names_match(path, [glob]) for path in metrics)
    ]


def write_project(project: Listing, options: Options, source: Mapping[str, object], work: Path) -> Export:
    """Merge a project's runs with what an earlier export left, and write its files: the metadata last."""
    stem = project.stem or file_stem(options.output, project.entity, project.project)
    runs_file, metadata_file = (options.output / f"{stem}_{name}" for name in ("runs.parquet", "metadata.json"))
    earlier = earlier_export(runs_file)
    gone = sorted(earlier.ids - project.listed - project.unread) if project.listed is not None else []
    fresh = {facts.id for facts in project.facts}
    kept = sorted(earlier.ids - fresh - (set(gone) if options.prune else set()))
    pages = [*project.pages, *earlier_pages(earlier, kept, work)] or [write_page([], work)]

    tables = tables_of(project, options, stem, kept, fresh)
    names = settled_paths(pages, {path for table in tables if table.of_history for path, _ in table.dtypes()})
    definitions = {definition for page in pages for definition in page.definitions}
    told = [table.facts for table in tables] + [earlier.facts]
    known = {path: fact for facts in told for path, fact in facts.items()} if kept else {}
    facts = metric_facts(definitions, names.metrics, known, project.goals)
    common = {
        SCHEMA_KEY: SCHEMA_VERSION,
        METRICS_KEY: json.dumps(facts, sort_keys=True),
        SOURCE_KEY: json.dumps(source_of(project, source)),
    }
    current = [table for table in tables if is_current(table, names, common)]
    fresh_tables = [table for table in tables if table not in current]
    with ExitStack() as publish:  # what is entered last is published first: histories, runs, metadata
        files = [metadata_file, runs_file, *(table.file for table in reversed(fresh_tables))]
        unfinished = {file: publish.enter_context(replacing(file)) for file in files}
        done = [file_facts(table.file, table.file) for table in current]
        done += [write_table(table, unfinished[table.file], project, options, names, common) for table in fresh_tables]
        done.append(write_runs(runs_file, unfinished[runs_file], pages, names, common))
        export = Export(
            project,
            [*(options.output / file.name for file in done), metadata_file],
            kept=kept,
            gone=[] if options.prune else gone,
            dropped=sorted({name for table in tables for name in dropped_metrics(table, names)}),
            history_rows=history_rows_of(options, done),
            metrics=frozenset(path for table in tables if table.of_history for path, _ in table.dtypes()),
        )
        document = metadata_document(export, [*done, *still_there(metadata_file, done)], options, source)
        text = json.dumps(jsonable(document), indent=2, ensure_ascii=False) + "\n"
        unfinished[metadata_file].write_text(storable(text), "utf-8")  # names of files may be no UTF-8
    return export


def history_rows_of(options: Options, files: Iterable[Written]) -> int:
    """The rows of the full history among the files, else of the sampled one."""
    ending = "_history.parquet" if options.include_history else "_history_sampled.parquet"
    return sum(file.rows for file in files if file.name.endswith(ending))


def still_there(metadata_file: Path, done: Sequence[Written]) -> list[Written]:
    """What earlier metadata tells of files that are not written now, such as a history that was not asked for."""
    earlier = metadata_of(metadata_file) or {}
    names = {file.name for file in done}
    others = [file for file in earlier.get("files", ()) if file["name"] not in names]
    return [Written(**file) for file in others if (metadata_file.parent / file["name"]).exists()]


def dropped_metrics(table: RowTable, names: Names) -> list[str]:
    """The metrics that an earlier file has and the new one lacks, as after other --history-keys."""
    if not table.of_history or not table.file.exists():
        return []
    with readable(table.file):
        earlier = json.loads(pl.read_parquet_metadata(table.file).get(COLUMNS_KEY, "{}"))
    present = {names.metrics[path] for path, _ in table.dtypes()}
    return [".".join(path) for path in map(tuple, earlier.values()) if names.metrics.get(path) not in present]


@dataclass(frozen=True)
class RowTable:
    """A file with many rows a run: a history, or system metrics. What is fetched replaces what an earlier file has."""

    file: Path
    name: str
    fetched: Mapping[str, Sequence[Part]]  # by run id
    kept: frozenset[str]  # ids of runs whose earlier rows stay
    earlier: Path | None
    paths: Mapping[KeyPath, str]  # of the earlier file, to their columns
    earlier_dtypes: Mapping[KeyPath, str]
    facts: Mapping[KeyPath, Mapping[str, str | None]]
    made_of: Sequence[str]
    marks: Mapping[str, list[str]]  # of the earlier file, if it was made of the same: see history_mark

    @property
    def of_history(self) -> bool:
        return self.name != "system"

    def dtypes(self) -> Iterator[tuple[KeyPath, str]]:
        """Every metric with a dtype that it has somewhere."""
        for parts in self.fetched.values():
            yield from (metric for part in parts for metric in part.metrics.items())
        yield from self.earlier_dtypes.items() if self.kept else ()


def tables_of(
    project: Listing, options: Options, stem: str, kept: Collection[str], fresh: Collection[str]
) -> list[RowTable]:
    """The tables that are asked for, with what earlier files hold of runs that were not fetched again.

    With `--prune` also those that are there and not asked for: they may hold runs that are to go.
    """
    files = {name: options.output / f"{stem}_{name}.parquet" for name in TABLES}
    asked = {} if options.offline is not None and not options.include_history else project.tables
    others: dict[str, dict[str, Sequence[Part]]] = {
        name: {} for name, file in files.items() if options.prune and name not in asked and file.exists()
    }
    tables = []
    for name, fetched in {**asked, **others}.items():
        file = files[name]
        stay = frozenset({*kept, *fresh} - fetched.keys())
        made_of = marks_in(file).get("keys", ()) if name in others else project.made_of.get(name, options.history_keys)
        earlier = earlier_table(file if stay and file.exists() else None, made_of)
        tables.append(RowTable(file, name, fetched, stay, *earlier[:-1], made_of, earlier[-1]))
    return tables


def earlier_table(
    file: Path | None, made_of: Sequence[str]
) -> tuple[
    Path | None, dict[KeyPath, str], dict[KeyPath, str], dict[KeyPath, Mapping[str, str | None]], dict[str, list[str]]
]:
    """What an earlier file says of its columns and runs."""
    if file is None:
        return None, {}, {}, {}, {}
    with readable(file):
        schema = pl.scan_parquet(file, glob=False).collect_schema()
        metadata = pl.read_parquet_metadata(file)
        columns = json.loads(metadata.get(COLUMNS_KEY, "{}"))
        facts = metric_facts_in(metadata)
    paths = {tuple(path): name for name, path in columns.items() if name in schema}
    dtypes = {path: str(schema[name]) for path, name in paths.items()}
    return file, paths, dtypes, facts, histories_in(file, made_of)


def write_table(
    table: RowTable, at: Path, project: Listing, options: Options, names: Names, metadata: Mapping[str, str]
) -> Written:
    """Write a table's rows by run id: those fetched, and those that the earlier file has of other runs."""
    metrics = metric_names(table, names)
    schema = history_schema(table.dtypes(), metrics, with_steps=table.of_history)
    columns = {name: path for path, name in metrics.items() if name in schema.names}
    about = {
        **metadata,
        COLUMNS_KEY: json.dumps(columns),
        **(marks_of(table, project) if options.offline is None else {}),
    }
    merged = heapq.merge(fetched_rows(table, project, metrics), kept_rows(table, metrics), key=lambda of_run: of_run[0])
    tables = (in_schema(rows, sources, schema) for _, rows, sources in merged)
    return write_history(table.file, at, tables, schema.with_metadata(about))


def metric_names(table: RowTable, names: Names) -> Mapping[KeyPath, str]:
    """The names of a table's columns: those of system metrics are settled apart."""
    return names.metrics if table.of_history else settled_names(path for path, _ in table.dtypes())


def is_current(table: RowTable, names: Names, metadata: Mapping[str, str]) -> bool:
    """Whether the earlier file is what would be written: no run of it fetched or dropped, no column renamed."""
    if table.earlier is None or table.fetched:
        return False
    known = pl.read_parquet_metadata(table.earlier)
    earlier = {tuple(path): name for name, path in json.loads(known.get(COLUMNS_KEY, "{}")).items()}
    metrics = metric_names(table, names)
    ids = pl.scan_parquet(table.earlier, glob=False).select(pl.col("run_id").unique()).collect()["run_id"]
    return (
        set(ids) <= table.kept
        and all(metrics.get(path) == name for path, name in earlier.items())
        and known.get(METRICS_KEY) == metadata[METRICS_KEY]
    )


def marks_of(table: RowTable, project: Listing) -> dict[str, str]:
    """What a later export compares to see whose histories have changed; logs are always read anew."""
    whole = table.fetched.keys() - set(project.short)  # the others are fetched again next time
    marks = {run_id: mark for run_id, mark in table.marks.items() if run_id in table.kept}
    marks |= {facts.id: list(history_mark(facts)) for facts in project.facts if facts.id in whole}
    return {HISTORIES_KEY: json.dumps({"keys": list(table.made_of), "runs": marks})}


def fetched_rows(
    table: RowTable, project: Listing, names: Mapping[KeyPath, str]
) -> Iterator[tuple[str, pl.DataFrame, Mapping[str, str]]]:
    """Id, rows, and the rows' column for each column of the file."""
    place = [pl.lit(project.entity).alias("entity"), pl.lit(project.project).alias("project")]
    for run_id, parts in sorted(table.fetched.items()):
        for part in parts:
            sources = {name: name for name in ("run_id", "entity", "project")}
            sources |= {path[0]: column_key(path) for path in CLOCKS}
            sources |= {names[path]: column_key(path) for path in part.metrics}
            yield run_id, read_part(part).with_columns(pl.lit(run_id).alias("run_id"), *place), sources


def kept_rows(table: RowTable, names: Mapping[KeyPath, str]) -> Iterator[tuple[str, pl.DataFrame, Mapping[str, str]]]:
    """As fetched_rows, from the earlier file, which is sorted by run id."""
    if table.earlier is None:
        return
    sources = {name: name for name in ("run_id", "entity", "project", "_step", "_runtime", "_timestamp")}
    sources |= {names[path]: column for path, column in table.paths.items()}
    with pq.ParquetFile(table.earlier) as file:
        for batch in file.iter_batches(batch_size=max(1, KEPT_CELLS // len(file.schema_arrow))):
            rows = cast("pl.DataFrame", pl.from_arrow(batch)).filter(pl.col("run_id").is_in(list(table.kept)))
            for of_run in rows.partition_by("run_id", maintain_order=True):
                yield of_run["run_id"][0], of_run, sources


def source_of(project: Listing, source: Mapping[str, object]) -> dict[str, object]:
    """Where the files' content came from."""
    versions = {name: version(name) for name in ("wandb", "polars", "pyarrow")} | {"wandb-tools": VERSION}
    place = {"entity": project.entity, "project": project.project}
    return {**source, **place, "exported_at": jsonable(now()), "versions": versions}


def metadata_document(
    export: Export, files: Sequence[Written], options: Options, source: Mapping[str, object]
) -> dict[str, object]:
    """What was asked, what was got and what failed."""
    project = export.listing
    told = source_of(project, source)
    written_runs = len(project.facts)
    asked_for_history = options.include_history or options.history_samples is not None
    history = {
        "rows": export.history_rows,
        "runs": sum(facts.history_rows > 0 for facts in project.facts) if asked_for_history else 0,
        "sampled": options.history_samples is not None,
        "mismatched": list(project.mismatched),
    }
    return {
        "status": project.status,
        "entity": project.entity,
        "project": project.project,
        "source": dict(source),
        "filters": {name: value for name, value in asdict(options.selection).items() if value},
        "exported_at": told["exported_at"],
        "versions": told["versions"],
        "runs": {
            "listed": project.total,
            "written": written_runs,
            "failed": project.selected - written_runs,
            "filtered": project.filtered,
            "by_state": dict(sorted(Counter(facts.state for facts in project.facts).items())),
        },
        "history": history,
        "files": [asdict(file) for file in files],
        "failed": [asdict(failure) for failure in project.failed],
        "torn": list(project.torn),
        "missing_on_server": export.gone,
        "skipped_history_keys": list(project.skipped_history_keys),
    }


# --- what is told ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conclusion:
    """What became of everything: exports, or what they would be, and what failed."""

    exports: Sequence[Export]
    planned: Sequence[Listing | Plan]
    failures: Sequence[Failure]


def tell(outcome: Conclusion, options: Options, say: Say) -> int:
    """The paths on stdout, or all of it as JSON; a line on each project for people. Returns the exit code."""
    for export in outcome.exports:
        rows = had_rows(export.listing) if options.include_history or options.offline else None
        say(f"{sentence(export.listing, rows)}{kept_sentence(export, prune=options.prune)}")
        if export.dropped:
            some = ", ".join(export.dropped[:3]) + (" and others" if len(export.dropped) > 3 else "")
            say(f"the history there had {some} from an earlier export, which this one was not asked for")
    files = [str(file) for export in outcome.exports for file in export.files]
    if options.json:
        told = [
            export_row(export.listing, had_rows(export.listing)) | {"kept": len(export.kept)}
            for export in outcome.exports
        ]
        told += [
            plan_row(plan) if isinstance(plan, Plan) else export_row(plan, logged_rows(plan))
            for plan in outcome.planned
        ]
        told += [failed_row(failure) for failure in outcome.failures if failure.what in NO_FILES]
        print(json_text({"version": 1, "exports": told, "files": files}))
    else:
        plans = (
            plan_sentence(plan) if isinstance(plan, Plan) else sentence(plan, logged_rows(plan))
            for plan in outcome.planned
        )
        for line in (*files, *map(printable, plans)):
            print(line)
    return report_failures(outcome.failures)


def sentence(project: Listing, rows: int | None) -> str:
    """A project's runs in one line, and how many history rows there are, if that is of interest.

    >>> sentence(Listing("team", "demo", [], 0, 0, None), 0)
    'team/demo: 0 runs, 0 history rows'
    """
    states = Counter(run.state for run in project.facts)
    by_state = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    told = "" if rows is None else f", {counted(rows, 'history row')}"
    failures = f", {counted(len(project.failed), 'failure')}" if project.failed else ""
    runs = counted(len(project.facts), "run") + (f" ({by_state})" if by_state else "")
    return f"{project.entity}/{project.project}: {runs}{told}{failures}"


def logged_rows(project: Listing) -> int:
    """The history rows that the runs have in their source, whether they were asked for or not."""
    return sum(run.history_rows for run in project.facts)


def had_rows(project: Listing) -> int:
    """Of these, without those that could not be had."""
    fetched = project.tables.get("history", {})
    got = {run_id: sum(part.rows for part in fetched.get(run_id, ())) for run_id in project.mismatched}
    return sum(got.get(run.id, run.history_rows) for run in project.facts)


def plan_sentence(plan: Plan) -> str:
    of_all = f" of {plan.all:,}" if plan.selected < plan.all else ""
    rows = f", {counted(plan.history_rows, 'history row')}" if plan.history_rows is not None else ""
    return f"{plan.project.path}: {plan.selected:,}{of_all} {'run' if plan.all == 1 else 'runs'}{rows}"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def kept_sentence(export: Export, *, prune: bool) -> str:
    kept = f"; {counted(len(export.kept), 'run')} of an earlier export kept" if export.kept else ""
    gone = f", {len(export.gone):,} of them no longer in the source (--prune drops those)" if export.gone else ""
    return kept + ("" if prune else gone)


def export_row(project: Listing, history_rows: int) -> dict[str, object]:
    """What `--json` tells of a project."""
    return {
        "entity": project.entity,
        "project": project.project,
        "status": project.status,
        "runs": len(project.facts),
        "filtered": project.filtered,
        "failed": len(project.failed),
        "torn": len(project.torn),
        "history_rows": history_rows,
    }


def plan_row(plan: Plan) -> dict[str, object]:
    place = {"entity": plan.project.entity, "project": plan.project.name, "status": "planned"}
    return place | {"runs": plan.selected, "filtered": plan.all - plan.selected, "history_rows": plan.history_rows}


def failed_row(failure: Failure) -> dict[str, object]:
    entity, _, project = failure.run.partition("/")
    return {"entity": entity, "project": project or None, "status": "failed", "error": failure.error}


class Meter:
    """Progress on stderr: a live line at a terminal, elsewhere a plain one now and then, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.quiet = quiet
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Self:
        self.bars = None if self.quiet or not is_terminal(sys.stderr) else progress_bars()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars[0].stop()

    def add(self, **counts: int) -> None:
        """Count what was done, and what is to be done (`runs_wanted`, `histories_wanted`)."""
        with self.lock:
            self.counts.update(counts)
            if self.bars:
                bars, runs, histories = self.bars
                bars.update(runs, completed=self.counts["runs"], total=self.counts["runs_wanted"] or None)
                bars.update(
                    histories,
                    completed=self.counts["histories"],
                    total=self.counts["histories_wanted"] or None,
                    visible=self.counts["histories_wanted"] > 0,
                    rows=f"{self.counts['rows']:,} rows",
                )
            elif not self.quiet and time.monotonic() - self.told > PLAIN_LINE_S:
                self.told = time.monotonic()
                print(progress_sentence(self.counts, self.told - self.started), file=sys.stderr)


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
            left_s = elapsed_s * (wanted - done) / done if done else math.inf
    if rows := counts.get("rows", 0):
        parts.append(f"{rows:,} rows ({rows / elapsed_s:,.0f} a second)")
    if parts and 0 < left_s < math.inf and elapsed_s >= PLAIN_LINE_S / 2:
        parts.append(f"about {left_s:,.0f} s left")
    return ", ".join(parts)


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def progress_bars() -> tuple[Progress, TaskID, TaskID]:
    """Bars of rich's, for runs and for histories."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, TextColumn("{task.fields[rows]}"), console=Console(stderr=True), transient=True)
    tasks = [bars.add_task(name, total=None, visible=name == "runs", rows="") for name in ("runs", "histories")]
    bars.start()
    return bars, tasks[0], tasks[1]


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
    parser = Parser(__doc__)
    flag = parser.add_argument_group("source").add_argument
    flag("places", nargs="*", metavar="PLACE", help="entity/project[/run], or a W&B URL of a project, run or sweep")
    flag("--api-key-file", metavar="FILE", type=Path, help="a file that holds the API key")
    flag(
        "--offline",
        metavar="DIR",
        type=Path,
        help="no server: the folder that holds the SDK's run folders, at any depth",
    )
    flag = parser.add_argument_group("which runs (values of one flag are ORed, flags are ANDed)").add_argument
    flag("-e", "--entity", action="append", help="of this entity (default: the key's own; offline: any)")
    flag("-p", "--project", action="append", metavar="GLOB", help="of these projects (default: all)")
    flag("--since", metavar="WHEN", help="created at or after: 7d, 24h, 2w, 2026-01-15, an ISO time (UTC)")
    flag("--until", metavar="WHEN", help="created before")
    flag("--active-since", metavar="WHEN", help="last sign of life at or after")
    flag("--state", action="append", help=", ".join(STATES))
    flag("--tag", action="append", help="with this tag")
    flag("--group", action="append", help="of this group")
    flag("--sweep", action="append", metavar="ID", help="of this sweep")
    flag("--where", metavar="JSON", help='W&B\'s own filter, such as {"config.lr": {"$gt": 0.01}}; server only')
    flag = parser.add_argument_group("what is written").add_argument
    flag("-o", "--output", metavar="DIR", type=Path, default=Path("wandb_export"), help="default: wandb_export/")
    flag("--include-history", action="store_true", help="also every history row, unsampled")
    flag("--history-keys", action="append", metavar="GLOBS", help="only these metrics, by W&B or flattened name")
    flag(
        "--history-samples",
        type=positive,
        metavar="N",
        help="about N rows a run, sampled by the server, in a file apart",
    )
    flag("--system-metrics", action="store_true", help="also system metrics, sampled by the server")
    flag("--prune", action="store_true", help="drop runs of an earlier export that the source no longer has")
    flag("--dry-run", action="store_true", help="say which projects, runs and rows would be fetched; write nothing")
    flag = parser.add_argument_group("how").add_argument
    flag(
        "--workers",
        type=positive,
        metavar="N",
        help=f"questions at once (default: {WORKERS}); offline: processes (one per core)",
    )
    flag(
        "--timeout", type=positive, metavar="S", default=TIMEOUT_S, help=f"seconds for an answer (default: {TIMEOUT_S})"
    )
    flag(
        "--retries",
        type=not_negative,
        metavar="N",
        default=RETRIES,
        help=f"further tries of what failed (default: {RETRIES})",
    )
    flag("--json", action="store_true", help="the result as one JSON object on stdout")
    flag("--quiet", action="store_true", help="nothing on stderr but errors")
    flag("--debug", action="store_true", help="show the traceback of an error")
    return options_of(parser.parse_strictly(argv))


def options_of(parsed: argparse.Namespace) -> Options:
    check_combinations(parsed)
    default_workers = WORKERS if parsed.offline is None else os.cpu_count() or 1
    return Options(
        offline=parsed.offline,
        places=tuple(map(target_of, parsed.places)),
        output=parsed.output,
        selection=selection_of(parsed),
        include_history=parsed.include_history,
        history_keys=comma_separated(parsed.history_keys),
        history_samples=parsed.history_samples,
        system_metrics=parsed.system_metrics,
        workers=min(parsed.workers or default_workers, MOST_WORKERS)
        if parsed.offline is None
        else parsed.workers or default_workers,
        timeout_s=parsed.timeout,
        retries=parsed.retries,
        key_file=parsed.api_key_file,
        prune=parsed.prune,
        dry_run=parsed.dry_run,
        json=parsed.json,
        quiet=parsed.quiet,
        debug=parsed.debug,
    )


def check_combinations(parsed: argparse.Namespace) -> None:
    server_only = {
        "a PLACE": parsed.places,
        "--where": parsed.where,
        "--history-samples": parsed.history_samples,
        "--system-metrics": parsed.system_metrics,
        "--api-key-file": parsed.api_key_file,
    }
    if parsed.offline is not None and (given := next((flag for flag, value in server_only.items() if value), None)):
        raise ScriptError(f"{given} means a server, --offline none; leave one of them out", WRONG_USAGE)
    if parsed.places and (parsed.entity or parsed.project):
        raise ScriptError("name projects either as entity/project or with -e and -p, not both", WRONG_USAGE)
    if parsed.history_keys and not (parsed.include_history or parsed.history_samples):
        raise ScriptError("--history-keys chooses among the history: add --include-history", WRONG_USAGE)
    if not is_storable(str(parsed.output)):  # polars writes to no such path
        raise ScriptError("the path of -o is no UTF-8 text; choose another", WRONG_USAGE)


def selection_of(parsed: argparse.Namespace) -> Selection:
    states = tuple(map(str.lower, comma_separated(parsed.state)))
    for state in states:
        if state not in (*STATES, "all"):
            near = did_you_mean(state, STATES)
            raise ScriptError(f"--state {state}: no such state{near}; there are {', '.join(STATES)}", WRONG_USAGE)
    return Selection(
        entity=comma_separated(parsed.entity),
        project=comma_separated(parsed.project),
        since=moment("--since", parsed.since),
        until=moment("--until", parsed.until),
        active_since=moment("--active-since", parsed.active_since),
        state=() if "all" in states else states,
        tag=comma_separated(parsed.tag),
        group=comma_separated(parsed.group),
        sweep=comma_separated(parsed.sweep),
        where=filter_in(parsed.where),
    )


def filter_in(text: str | None) -> dict[str, object]:
    """The filter that --where holds."""
    try:
        where = json.loads(text) if text else {}
    except ValueError as error:
        raise ScriptError(f"--where is no JSON: {error}", WRONG_USAGE) from error
    if not isinstance(where, dict):
        raise ScriptError("--where takes a JSON object, as in W&B's filters", WRONG_USAGE)
    return where


def moment(flag: str, text: str | None) -> datetime | None:
    """The moment that a flag means: so long ago, or a date or time; UTC where no zone is given.

    >>> moment("--since", "2026-01-15").isoformat()
    '2026-01-15T00:00:00+00:00'
    """
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,6})([hdw])", text):
            unit = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}[ago[2]]
            return now() - int(ago[1]) * unit
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ScriptError(
            f"{flag} {text}: no time; write 7d, 24h, 2w, 2026-01-15 or 2026-01-15T12:00", WRONG_USAGE
        ) from error


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


def now() -> datetime:
    return datetime.now(UTC)


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


def import_libraries() -> None:
    """Import what takes time: once the command line is right, before any thread starts."""
    global version, orjson, pl, pa, pq
    from importlib.metadata import version

    import orjson
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    if hasattr(signal, "siginterrupt"):  # polars' own handler has waits (for a lock, for workers) go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)


def export(options: Options) -> int:
    """From the source to the files: the summary of this script."""
    say = speaker(quiet=options.quiet)
    with working_folders(options.output, say, dry_run=options.dry_run) as folders:
        if options.offline is None:
            outcome = export_online(options, folders, say)
        else:
            outcome = export_offline(options.offline, options, folders.work, say)
    return tell(outcome, options, say)


def report_failures(failures: Iterable[Failure]) -> int:
    """Name each failure once, also when quiet, and return the exit code that they mean."""
    by_error: dict[tuple[str, bool], list[str]] = {}
    for failure in dict.fromkeys(failures):
        has_files = failure.what not in NO_FILES
        by_error.setdefault((failure.error, has_files), []).append(failure.run)
    for (error, has_files), runs in by_error.items():
        named = runs[:FAILURES_NAMED] if has_files else runs
        for run in named:
            print(printable(f"error: {run}: {error}"), file=sys.stderr)
        if more := len(runs) - len(named):
            print(printable(f"error: {more:,} more, all named in the metadata: {error}"), file=sys.stderr)
    return PARTIAL if by_error else OK


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


def tolerate_any_text() -> None:
    """Let a name from W&B that the terminal's encoding lacks be printed all the same."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    return guarded(lambda: export(parse_args(argv)), debug="--debug" in (sys.argv if argv is None else argv))


def leave(code: int) -> NoReturn:
    """End at once: all is written, and what is left, such as threads that wait for a server, would hold the process."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it may be closed, or None
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
