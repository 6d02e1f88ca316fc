#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Export W&B runs to parquet: every config, summary and history row, nothing sampled, nothing lost.

Reads the run folders that the W&B SDK leaves on disk (offline runs, runs of a cluster without network, runs that
crashed before a sync): no server, no account, no key. Writes, for every entity and project,

  <dir>/<entity>_<project>_runs.parquet      one row per run
  <dir>/<entity>_<project>_history.parquet   one row per run and step (with --include-history)
  <dir>/<entity>_<project>_metadata.json     what was asked, what was got, what failed

and prints the paths it wrote. Runs that are already in <dir> from an earlier export stay there.

Examples:
  uv run wandb-tools/export_runs.py --offline wandb/ -o export/ --include-history
  uv run wandb-tools/export_runs.py --offline /scratch/runs --dry-run
  uv run wandb-tools/export_runs.py --offline wandb/ -p 'denoising*' --state finished,crashed --since 7d
  uv run wandb-tools/export_runs.py --offline wandb/ --include-history --history-keys 'val/*,epoch' --json

Exit codes:
  0    all done (a log that a crash cut off is noted and is no failure)
  1    nothing usable: no run there, none left after the filters, or the output cannot be written
  2    wrong usage
  3    partial: some logs are damaged or unreadable; the rest is written, the failures are named
  130  interrupted; the previous export is unchanged
"""

from __future__ import annotations

import argparse
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
import traceback
import types
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO, TypeAlias, cast

if TYPE_CHECKING:
    from importlib.metadata import version

    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

SCHEMA_KEY = "wandb_tools.schema"  # keys of the parquet files' key-value metadata
COLUMNS_KEY = "wandb_tools.columns"
METRICS_KEY = "wandb_tools.metrics"
SOURCE_KEY = "wandb_tools.source"
SCHEMA_VERSION = "1"

VERSION = "0.1.0"

STATES = ("running", "finished", "failed", "crashed", "killed", "preempting", "preempted", "pending")
NO_ENTITY, NO_PROJECT = "offline", "uncategorized"  # stand-ins; the second is the SDK's own
FRESH = timedelta(minutes=5)  # W&B's own limit: a run without a sign of life for longer has crashed
CRASHED_EXIT_CODE = 254  # what the SDK records for a run that it found dead

CLOCKS = (("_step",), ("_runtime",), ("_timestamp",))  # W&B's own keys of a history row
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as W&B's JSON spells them in text
SUMMARY_KINDS = ("min", "max", "mean", "best", "last", "first", "none", "copy")  # of define_metric(summary=...)
GOALS = {1: "minimize", 2: "maximize"}  # of the protobuf field MetricRecord.goal

ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

ROW_GROUP_ROWS = 100_000
ROW_GROUP_CELLS = 10_000_000  # where there are many metrics, row groups are shorter: 80 MB at most
PART_ITEMS = 300_000  # logged values that a reader holds before it writes them away: about 40 MB
PART_CELLS = 6_000_000  # the same bound for rows x columns, where metrics are sparse: 50 MB
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


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    offline: Path
    output: Path
    selection: Selection
    include_history: bool
    history_keys: tuple[str, ...]  # globs; empty means all
    workers: int
    prune: bool
    dry_run: bool
    json: bool
    quiet: bool


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
    config_json: str
    summary_json: str
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
        texts = {path: json_series(values, self.rows) for path, values in self.columns.items()}
        media = {path[:-1] for path in texts if len(path) > 1 and path[-1] == "_type"}
        numbers: dict[KeyPath, pl.Series] = {}
        for path in sorted(texts):
            inside = [path[:depth] for depth in range(1, len(path)) if path[:depth] in media]
            self.skipped_keys |= {top for top in inside if self.wanted(top)}
            series, all_numbers = json_numbers(outside_media(texts, path, inside))
            if series is not None:
                numbers[path] = series
            if not all_numbers:
                self.skipped_keys.add(path)
        for clock, dtype in zip(CLOCKS, (pl.Int64, pl.Float64, pl.Float64), strict=True):
            series = numbers.get(clock, pl.Series([None] * self.rows, dtype=dtype))
            numbers[clock] = series.cast(dtype, strict=False)
        self.newest_at = newest(self.newest_at, moment_at(cast("float", numbers[("_timestamp",)].max() or 0.0)))
        self.written.append(write_part(numbers, self.parts))
        self.start_part()


def outside_media(texts: Mapping[KeyPath, pl.Series], path: KeyPath, media: Iterable[KeyPath]) -> pl.Series:
    """The texts at `path`; null in rows where one of the keys above is a media object, which a `_type` betrays."""
    text = texts[path]
    for top in media:
        text = text.zip_with(texts[*top, "_type"].is_null(), pl.Series([None], dtype=pl.String))
    return text


def typed_value(item: Any) -> str:
    """The JSON of a history item that was written in typed fields (the SDK's encoding without `value_json`)."""
    kind = next((f.name for f, _ in item.ListFields() if f.name not in ("key", "nested_key", "value_json")), "none")
    if kind == "none":
        return "null"
    value = getattr(item, kind)
    return str(value) if kind == "json" else json.dumps(value)


def json_series(values: list[bytes | None], rows: int) -> pl.Series:
    """The JSON texts of a column of `rows` rows (String); null where the key is missing or null."""
    padded = values + [None] * (rows - len(values))
    texts = pl.Series(padded, dtype=pl.Binary).cast(pl.String, strict=False).str.slice(1)
    return texts.replace("null", None)


def json_numbers(texts: pl.Series) -> tuple[pl.Series | None, bool]:
    """The numbers among JSON texts as Int64, else Float64; None if there are none; and whether nothing else was there.

    Booleans are 0 and 1; the texts "NaN", "Infinity" and "-Infinity" are numbers.
    """
    present = len(texts) - texts.null_count()
    integers = texts.cast(pl.Int64, strict=False)
    if len(texts) - integers.null_count() == present:
        return (integers if present else None), True
    spelt = texts.replace({"true": "1", "false": "0"} | {f'"{name}"': name for name in NON_FINITE})
    integers = spelt.cast(pl.Int64, strict=False)
    numbers = spelt.cast(pl.Float64, strict=False)
    found = len(texts) - numbers.null_count()
    if integers.null_count() == numbers.null_count():
        numbers = integers
    return (numbers if found else None), found == present


def write_part(numbers: Mapping[KeyPath, pl.Series], parts: Path) -> Part:
    """Write columns of numbers, `CLOCKS` among them, as one part."""
    frame = pl.DataFrame([series.alias(column_key(path)) for path, series in numbers.items()])
    steps = numbers[("_step",)]
    file = parts / f"{uuid.uuid4().hex}.parquet"
    frame.write_parquet(file, compression="lz4", statistics=False)
    return Part(
        file,
        rows=len(steps),
        first_step=cast("int", steps.min() or 0),
        last_step=cast("int", steps.max() or 0),
        ascending=bool((steps.diff().drop_nulls() > 0).all()),
        metrics={path: str(series.dtype) for path, series in numbers.items() if path not in CLOCKS},
    )


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


def read_offline(options: Options, work: Path, say: Say) -> Findings:
    """Every run below the folder, its history as parts in `work`."""
    files = find_logs(options.offline, say)
    findings = Findings()
    wanted = options.history_keys if options.include_history and not options.dry_run else None
    logs: dict[str, list[Log]] = {}
    for file, log in read_logs(files, work, wanted, options.workers):
        shown = relative(file, options.offline)
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
                note_integrity(findings, log, run, relative(log.file, options.offline), say)
    return findings


def run_path(run: Run) -> RunPath:
    return run.entity, run.project, run.id


def find_logs(folder: Path, say: Say) -> list[Path]:
    """Every `.wandb` file at or below `folder`, once, though links may lead to it more than once; sorted."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ScriptError(f"no folder {folder}; name the one that holds offline-run-* or run-* folders", NOTHING_USABLE)
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
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
    if not found:
        raise ScriptError(f"no W&B run logs (*.wandb) below {folder}; name another folder", NOTHING_USABLE)
    return sorted(found.values())


def read_logs(
    files: Sequence[Path], work: Path, history_keys: tuple[str, ...] | None, workers: int
) -> Iterator[tuple[Path, Log | OSError]]:
    """Every file's log, in the files' order; many large ones by several processes."""
    read = partial(read_log_or_error, parts=work, history_keys=history_keys)
    workers = min(workers, len(files))
    if workers < 2 or sum(size_bytes(file) for file in files) < MANY_BYTES:
        yield from zip(files, map(read, files), strict=True)
        return
    largest_first = sorted(files, key=size_bytes, reverse=True)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=prepare_worker)
    try:
        logs = dict(zip(largest_first, pool.map(read, largest_first), strict=True))
    except BrokenProcessPool as error:
        raise ScriptError("a reader died, of too little memory perhaps; try --workers 1", NOTHING_USABLE) from error
    except KeyboardInterrupt:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    yield from ((file, logs[file]) for file in files)


def prepare_worker() -> None:
    import_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes at a terminal; the first one decides


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
    logs = without_copies(sorted(logs, key=lambda log: (log.started_at or datetime.min.replace(tzinfo=UTC), log.file)))
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
        tags=last_log.run.get("tags", ()),
        group=told["group"],
        job_type=told["job_type"],
        sweep=told["sweep"],
        user=None,
        notes=told["notes"],
        commit=told["commit"],
        url=None,
        exported_at=now(),
        config_json=valid_json({k: v for k, v in config.items() if k not in ("_wandb", "wandb_version")}),
        summary_json=valid_json(summary),
        definitions=tuple(definitions[pattern] for pattern in sorted(definitions)),
        history=tuple(history),
    )


TOLD_BY_LOGS = ("name", "group", "job_type", "sweep", "notes", "commit")


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
    in_order = all(part.ascending for part in parts) and all(
        before.last_step < after.first_step for before, after in pairwise(parts)
    )
    if in_order:
        return parts
    merged = unique_steps(parts, work)
    if again := sum(part.rows for part in parts) - merged.rows:
        say_rewritten(again)
    return [merged]


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


def flatten(tree: Mapping[str, object], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Scalar]]:
    """Every leaf of a config by its path of keys; a list is a leaf, as JSON text, and so is an empty dict.

    >>> dict(flatten({"model": {"k": 16}, "widths": [1, 2]}))
    {('model', 'k'): 16, ('widths',): '[1, 2]'}
    """
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            yield from flatten(value, path)
        elif isinstance(value, dict | list):
            yield path, valid_json(value)
        else:
            yield path, cast("Scalar", value)


def numeric_leaves(summary: Mapping[str, object], above: KeyPath = ()) -> Iterator[tuple[KeyPath, int | float]]:
    """The summary's numbers by path: Booleans as 0 and 1, non-finite ones too; not W&B's own keys, nor media.

    >>> dict(numeric_leaves({"loss": "NaN", "val": {"acc": 1}, "_step": 9, "h": {"_type": "histogram", "n": 3}}))
    {('loss',): nan, ('val', 'acc'): 1}
    """
    for key, value in summary.items():
        path = (*above, key)
        if len(path) == 1 and key.startswith("_"):
            continue
        if isinstance(value, dict):
            if not isinstance(value.get("_type"), str):
                yield from numeric_leaves(value, path)
        elif isinstance(value, int | float):
            yield path, int(value) if isinstance(value, bool) else value
        elif isinstance(value, str) and value in NON_FINITE:
            yield path, NON_FINITE[value]


def settled_series(name: str, values: Sequence[Scalar]) -> pl.Series:
    """A column of the narrowest dtype that holds every value: Boolean, Int64, Float64 or String; None is null.

    The texts of NON_FINITE beside numbers are numbers; other mixtures are text, numbers and Booleans as JSON.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
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


class Columns:
    """Rows of leaves, turned into columns as they come; a path that a row lacks is None there."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_path: dict[KeyPath, list[Scalar]] = {}

    def add(self, leaves: Iterable[tuple[KeyPath, Scalar]]) -> None:
        for path, value in leaves:
            column = self.by_path.setdefault(path, [])
            column.extend([None] * (self.rows - len(column)))
            column.append(value)
        self.rows += 1

    def series(self, names: Mapping[KeyPath, str]) -> list[pl.Series]:
        """The columns, sorted by name."""
        padded = {names[path]: values + [None] * (self.rows - len(values)) for path, values in self.by_path.items()}
        return [settled_series(name, padded[name]) for name in sorted(padded)]


def runs_table(runs: Sequence[Run], history_paths: Iterable[KeyPath]) -> tuple[pl.DataFrame, Names]:
    """The runs file's rows, sorted by `created_at`, then `id`, and the names of its columns."""
    epoch = datetime.min.replace(tzinfo=UTC)
    runs = sorted(runs, key=lambda run: (run.created_at or epoch, run.id))
    config, metrics = Columns(), Columns()
    for run in runs:
        config.add(flatten(json.loads(run.config_json)))
        metrics.add(numeric_leaves(json.loads(run.summary_json)))
    named = {(d.pattern,) for run in runs for d in run.definitions if not d.pattern.endswith("*")}
    names = Names(
        {path: f"config_{name}" for path, name in settled_names(config.by_path).items()},
        {path: f"metric_{name}" for path, name in settled_names({*metrics.by_path, *named, *history_paths}).items()},
    )
    identity = pl.DataFrame(
        {name: [storable_value(getattr(run, name)) for run in runs] for name in identity_schema()},
        schema=identity_schema(),
    )
    texts = [
        pl.Series("_config_json", [run.config_json for run in runs], dtype=pl.String),
        pl.Series("_summary_json", [run.summary_json for run in runs], dtype=pl.String),
    ]
    return identity.with_columns([*config.series(names.config), *metrics.series(names.metrics), *texts]), names


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
    made_otherwise = ("config_json", "summary_json", "definitions", "history")
    return {f.name: dtypes.get(f.name, pl.String) for f in fields(Run) if f.name not in made_otherwise}


def storable_value(value: object) -> object:
    if isinstance(value, tuple):
        return [storable(text) for text in value]
    return storable(value) if isinstance(value, str) else value


def metric_facts(
    runs: Iterable[Run], names: Mapping[KeyPath, str], earlier: Mapping[KeyPath, Mapping[str, str | None]]
) -> dict[str, dict[str, str | None]]:
    """Goal, summary and step metric by column, where `define_metric` told, now or in an `earlier` export of other runs;
    a goal on which runs differ is left out.
    """
    definitions = {definition for run in runs for definition in run.definitions}
    facts: dict[str, dict[str, str | None]] = {}
    for path, name in names.items():
        told = [*told_of(path, definitions), *filter(None, [earlier.get(path)])]
        agreement = {key: agreed(fact[key] for fact in told) for key in ("goal", "summary", "step_metric")}
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


def history_schema(dtypes: Iterable[tuple[KeyPath, str]], names: Mapping[KeyPath, str]) -> pa.Schema:
    """The history file's columns: a metric that any of its sources has as Float64 is Float64."""
    found: dict[str, set[str]] = {}
    for path, dtype in dtypes:
        found.setdefault(names[path], set()).add(dtype)
    metrics = {name: pa.int64() if found[name] == {"Int64"} else pa.float64() for name in sorted(found)}
    places = dict.fromkeys(("run_id", "entity", "project"), pa.string())
    clocks = {"_step": pa.int64(), "_runtime": pa.float64(), "_timestamp": pa.float64()}
    return pa.schema(places | clocks | metrics)


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
    """What an earlier export of the same project left: runs by id, and what its files say of their columns."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    facts: Mapping[KeyPath, Mapping[str, str | None]] = field(default_factory=dict)
    history_file: Path | None = None
    history_paths: Mapping[KeyPath, str] = field(default_factory=dict)  # to their columns
    history_dtypes: Mapping[KeyPath, str] = field(default_factory=dict)


def earlier_export(runs_file: Path, history_file: Path) -> Earlier:
    """What there is of an earlier export; a ScriptError if it cannot be read, so that it is not overwritten."""
    if not runs_file.exists():
        return Earlier()
    columns = [*identity_schema(), "_config_json", "_summary_json"]
    with readable(runs_file):
        rows = pl.read_parquet(runs_file, columns=columns, glob=False)
        facts = facts_of(pl.read_parquet_metadata(runs_file))
    runs = (Run(**{name.removeprefix("_"): value for name, value in row.items()}) for row in rows.iter_rows(named=True))
    earlier = Earlier({run.id: run for run in runs}, facts)
    return with_history(earlier, history_file) if history_file.exists() else earlier


def with_history(earlier: Earlier, file: Path) -> Earlier:
    with readable(file):
        schema = pl.scan_parquet(file, glob=False).collect_schema()
        metadata = pl.read_parquet_metadata(file)
        columns = json.loads(metadata.get(COLUMNS_KEY, "{}"))
        facts = {**facts_of(metadata), **earlier.facts}
    paths = {tuple(path): name for name, path in columns.items() if name in schema}
    dtypes = {path: str(schema[name]) for path, name in paths.items()}
    return replace(earlier, facts=facts, history_file=file, history_paths=paths, history_dtypes=dtypes)


def facts_of(metadata: Mapping[str, str]) -> dict[KeyPath, Mapping[str, str | None]]:
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


def file_stem(output: Path, entity: str, project: str) -> str:
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
    taken = owner is not None and (owner.get("entity"), owner.get("project")) != (entity, project)
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


def written(file: Path, rows: int, columns: int) -> Written:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Written(file.name, file.stat().st_size, rows, columns, digest)


def write_runs(file: Path, table: pl.DataFrame, metadata: Mapping[str, str]) -> Written:
    with replacing(file) as unfinished:
        table.write_parquet(
            unfinished, compression="zstd", statistics=True, row_group_size=ROW_GROUP_ROWS, metadata=dict(metadata)
        )
    return written(file, table.height, table.width)


def write_history(file: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> Written:
    """Write tables of any length as row groups of even length, never holding much more than one."""
    group_rows = max(1_000, min(ROW_GROUP_ROWS, ROW_GROUP_CELLS // len(schema)))
    rows = 0
    texts = [column.name for column in schema if column.type == pa.string()]
    with (
        replacing(file) as unfinished,
        pq.ParquetWriter(unfinished, schema, compression="zstd", use_dictionary=texts) as writer,
    ):
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= group_rows:
                writer.write_table(waiting.slice(0, group_rows), row_group_size=group_rows)
                waiting = waiting.slice(group_rows)
            rows += table.num_rows
        if waiting.num_rows:
            writer.write_table(waiting, row_group_size=group_rows)
    return written(file, rows, len(schema))


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
def working_folder(output: Path, say: Say, *, dry_run: bool) -> Iterator[Path]:
    """A folder for intermediate files, and the sole right to write to `output` meanwhile."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="wandb-tools-") as folder:
            yield Path(folder)
        return
    own = output / ".wandb_tools"
    work = own / "work"
    try:
        own.mkdir(parents=True, exist_ok=True)
        with (own / "lock").open("w") as lock:
            wait_for(lock, output, say)
            shutil.rmtree(work, ignore_errors=True)  # of an export that was killed: the lock is ours
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise ScriptError(
            f"cannot write to {output}: {reason}; choose another folder with -o", NOTHING_USABLE
        ) from error


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
    """One project's runs by what became of them: listed = written + failed + filtered."""

    entity: str
    project: str
    runs: list[Run]
    listed: frozenset[str]
    failed: list[Failure]
    torn: list[str]
    skipped_history_keys: list[str]
    unread: frozenset[str] = frozenset()  # ids of runs of which nothing could be read: not known to be gone


@dataclass(frozen=True)
class Export:
    """What was written of one project."""

    listing: Listing
    files: list[Path]
    kept: list[str]  # ids of runs of an earlier export that are not in this one
    gone: list[str]  # of these, the ids that the source no longer has
    history_rows: int


def listings(findings: Findings, selection: Selection, say: Say) -> list[Listing]:
    """The projects that are asked for, each with its selected runs; projects without any are left out."""
    wanted = [run for run in findings.runs if in_place(run, selection)]
    if not wanted:
        places = sorted({f"{run.entity}/{run.project}" for run in findings.runs})
        unread = [f"{failure.run}: {failure.error}" for failure in findings.failed.get(None, ())]
        there = f"there is {', '.join(places[:5])}" if places else "nothing was recorded in these logs"
        raise ScriptError(f"no runs to export: {'; '.join([there, *unread[:3]])}; see -e and -p", NOTHING_USABLE)
    kept: dict[tuple[str, str], list[Run]] = {}
    for run in selected(wanted, selection, say):
        kept.setdefault((run.entity, run.project), []).append(run)
    return [listing(runs, wanted, findings) for _, runs in sorted(kept.items())]


def listing(runs: list[Run], wanted: Sequence[Run], findings: Findings) -> Listing:
    """What was found, as far as it concerns these runs, or no run that is known."""
    entity, project = runs[0].entity, runs[0].project
    owners: list[RunPath | None] = [*map(run_path, runs), None]
    skipped = {".".join(path) for run in runs for path in findings.skipped_history_keys.get(run_path(run), ())}
    return Listing(
        entity,
        project,
        runs,
        listed=frozenset(run.id for run in wanted if (run.entity, run.project) == (entity, project)),
        failed=[failure for owner in owners for failure in findings.failed.get(owner, ())],
        torn=sorted(log for owner in owners for log in findings.torn.get(owner, ())),
        skipped_history_keys=sorted(skipped),
        unread=frozenset(findings.unread),
    )


def unmatched(options: Options, projects: Sequence[Listing]) -> list[str]:
    """The patterns of --history-keys that no number in the histories matches; a dry run does not look at those."""
    runs = [] if options.dry_run else [run for project in projects for run in project.runs]
    metrics = {path for run in runs for part in run.history for path in part.metrics}
    return [glob for glob in options.history_keys if runs and not any(names_match(path, [glob]) for path in metrics)]


def write_project(project: Listing, options: Options) -> Export:
    """Merge a project's runs with what an earlier export left, and write its files: the metadata last."""
    stem = file_stem(options.output, project.entity, project.project)
    runs_file, history_file, metadata_file = (
        options.output / f"{stem}_{name}" for name in ("runs.parquet", "history.parquet", "metadata.json")
    )
    earlier = earlier_export(runs_file, history_file)
    gone = sorted(earlier.runs.keys() - project.listed - project.unread)
    fresh = {run.id for run in project.runs}
    kept = {i: run for i, run in earlier.runs.items() if i not in fresh and not (options.prune and i in gone)}
    merged = [*project.runs, *kept.values()]

    parts = [(path, dtype) for run in project.runs for part in run.history for path, dtype in part.metrics.items()]
    dtypes = [*parts, *(earlier.history_dtypes.items() if kept else ())]
    table, names = runs_table(merged, {path for path, _ in dtypes})
    facts = json.dumps(metric_facts(merged, names.metrics, earlier.facts if kept else {}), sort_keys=True)
    source = json.dumps(source_of(project, options))
    common = {SCHEMA_KEY: SCHEMA_VERSION, METRICS_KEY: facts, SOURCE_KEY: source}

    files: list[Written] = []
    if options.include_history:
        schema = history_schema(dtypes, names.metrics)
        columns = json.dumps({name: path for path, name in names.metrics.items() if name in schema.names})
        tables = history_tables(project.runs, earlier, kept.keys(), names.metrics, schema)
        files += [write_history(history_file, tables, schema.with_metadata({**common, COLUMNS_KEY: columns}))]
    paths = {name: path for named in (names.config, names.metrics) for path, name in named.items()}
    columns = json.dumps({name: paths[name] for name in table.columns if name in paths})
    files.append(write_runs(runs_file, table, {**common, COLUMNS_KEY: columns}))
    export = Export(
        project,
        [options.output / file.name for file in files] + [metadata_file],
        kept=sorted(kept),
        gone=[] if options.prune else gone,
        history_rows=sum(run.history_rows for run in project.runs),
    )
    write_metadata(metadata_file, export, files, options)
    return export


def history_tables(
    runs: Sequence[Run], earlier: Earlier, kept: Collection[str], names: Mapping[KeyPath, str], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The history file's rows by run id: those of the runs, and those that an earlier export holds of kept ones."""
    merged = heapq.merge(fresh_history(runs, names), kept_history(earlier, kept, names), key=lambda of_run: of_run[0])
    return (in_schema(rows, sources, schema) for _, rows, sources in merged)


def fresh_history(
    runs: Sequence[Run], names: Mapping[KeyPath, str]
) -> Iterator[tuple[str, pl.DataFrame, Mapping[str, str]]]:
    """Id, rows, and the rows' column for each column of the history file."""
    for run in sorted(runs, key=lambda run: run.id):
        place = [
            pl.lit(run.id).alias("run_id"),
            pl.lit(run.entity).alias("entity"),
            pl.lit(run.project).alias("project"),
        ]
        for part in run.history:
            sources = {name: name for name in ("run_id", "entity", "project")}
            sources |= {path[0]: column_key(path) for path in CLOCKS}
            sources |= {names[path]: column_key(path) for path in part.metrics}
            yield run.id, read_part(part).with_columns(place), sources


def kept_history(
    earlier: Earlier, kept: Collection[str], names: Mapping[KeyPath, str]
) -> Iterator[tuple[str, pl.DataFrame, Mapping[str, str]]]:
    """As fresh_history, from the earlier file, which is sorted by run id."""
    if earlier.history_file is None or not kept:
        return
    sources = {name: name for name in ("run_id", "entity", "project", "_step", "_runtime", "_timestamp")}
    sources |= {names[path]: column for path, column in earlier.history_paths.items()}
    with pq.ParquetFile(earlier.history_file) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
            rows = cast("pl.DataFrame", pl.from_arrow(batch)).filter(pl.col("run_id").is_in(list(kept)))
            for of_run in rows.partition_by("run_id", maintain_order=True):
                yield of_run["run_id"][0], of_run, sources


def source_of(project: Listing, options: Options) -> dict[str, object]:
    """Where the files' content came from."""
    return {
        "kind": "offline",
        "entity": project.entity,
        "project": project.project,
        "directory": str(options.offline.absolute()),
        "exported_at": jsonable(now()),
        "versions": {name: version(name) for name in ("wandb", "polars", "pyarrow")} | {"wandb-tools": VERSION},
    }


def write_metadata(file: Path, export: Export, files: Sequence[Written], options: Options) -> None:
    project = export.listing
    source = source_of(project, options)
    histories = [run for run in project.runs if run.history_rows]
    document = {
        "status": "partial" if project.failed else "complete",
        "entity": project.entity,
        "project": project.project,
        "source": {key: source[key] for key in ("kind", "directory")},
        "filters": {name: value for name, value in asdict(options.selection).items() if value},
        "exported_at": source["exported_at"],
        "versions": source["versions"],
        "runs": {
            "listed": len(project.listed),
            "written": len(project.runs),
            "failed": 0,  # a log that gives a run gives a row
            "filtered": len(project.listed) - len(project.runs),
            "by_state": dict(sorted(Counter(run.state for run in project.runs).items())),
        },
        "history": {
            "rows": sum(run.history_rows for run in histories),
            "runs": len(histories),
            "sampled": False,
            "mismatched": [],
        }
        if options.include_history
        else None,
        "files": [asdict(file) for file in files],
        "failed": [asdict(failure) for failure in project.failed],
        "torn": project.torn,
        "missing_on_server": export.gone,
        "skipped_history_keys": project.skipped_history_keys,
    }
    with replacing(file) as unfinished:
        text = json.dumps(jsonable(document), indent=2, ensure_ascii=False) + "\n"
        unfinished.write_text(storable(text), "utf-8")  # names of files may be no UTF-8


# --- what is told ---------------------------------------------------------------------------------------------


def tell(exports: Sequence[Export], options: Options, say: Say) -> None:
    """The paths on stdout, or all of it as JSON; a line on each project for people."""
    for export in exports:
        say(f"{sentence(export.listing)}{kept_sentence(export, prune=options.prune)}")
    files = [str(file) for export in exports for file in export.files]
    if options.json:
        rows = [export_row(export.listing) | {"kept": len(export.kept)} for export in exports]
        print(json_text({"version": 1, "exports": rows, "files": files}))
    else:
        print("\n".join(files))


def tell_plan(projects: Sequence[Listing], options: Options) -> None:
    """What an export would write, on stdout."""
    if options.json:
        print(json_text({"version": 1, "exports": [export_row(project) for project in projects], "files": []}))
        return
    for project in projects:
        print(printable(sentence(project)))


def sentence(project: Listing) -> str:
    """A project's runs in one line.

    >>> sentence(Listing("team", "demo", [], frozenset(), [], [], []))
    'team/demo: 0 runs, 0 history rows'
    """
    states = Counter(run.state for run in project.runs)
    by_state = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    rows = sum(run.history_rows for run in project.runs)
    failures = f", {len(project.failed):,} failures" if project.failed else ""
    runs = f"{len(project.runs):,} runs" + (f" ({by_state})" if by_state else "")
    return f"{project.entity}/{project.project}: {runs}, {rows:,} history rows{failures}"


def kept_sentence(export: Export, *, prune: bool) -> str:
    kept = f"; {len(export.kept):,} runs of an earlier export are kept" if export.kept else ""
    gone = f", {len(export.gone):,} of them no longer in the source (--prune drops those)" if export.gone else ""
    return kept + ("" if prune else gone)


def export_row(project: Listing) -> dict[str, object]:
    """What `--json` tells of a project."""
    return {
        "entity": project.entity,
        "project": project.project,
        "status": "partial" if project.failed else "complete",
        "runs": len(project.runs),
        "filtered": len(project.listed) - len(project.runs),
        "failed": len(project.failed),
        "torn": len(project.torn),
        "history_rows": sum(run.history_rows for run in project.runs),
    }


def speaker(*, quiet: bool) -> Say:
    """A function that tells people one line on stderr; when quiet, one that does not."""

    def say(message: str) -> None:
        if not quiet:
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
    source = parser.add_argument_group("source")
    source.add_argument(
        "--offline",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder that holds the SDK's run folders, at any depth",
    )
    which = parser.add_argument_group("which runs (values of one flag are ORed, flags are ANDed)")
    which.add_argument("-e", "--entity", action="append", help="only this entity; also the entity of runs without one")
    which.add_argument(
        "-p",
        "--project",
        action="append",
        metavar="GLOB",
        help="only these projects; a plain name is also the project of runs without one",
    )
    which.add_argument(
        "--since", metavar="WHEN", help="created at or after: 7d, 24h, 2w, 2026-01-15, an ISO time (UTC)"
    )
    which.add_argument("--until", metavar="WHEN", help="created before")
    which.add_argument("--active-since", metavar="WHEN", help="last sign of life at or after")
    which.add_argument("--state", action="append", help=", ".join(STATES))
    which.add_argument("--tag", action="append", help="runs with this tag")
    which.add_argument("--group", action="append", help="runs of this group")
    which.add_argument("--sweep", action="append", metavar="ID", help="runs of this sweep")
    what = parser.add_argument_group("what is written")
    what.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("wandb_export"), help="default: wandb_export/"
    )
    what.add_argument("--include-history", action="store_true", help="also every history row, unsampled")
    what.add_argument(
        "--history-keys",
        action="append",
        metavar="GLOBS",
        help="only these metrics of the history, by W&B or flattened name",
    )
    what.add_argument(
        "--prune", action="store_true", help="drop runs of an earlier export that the source no longer has"
    )
    what.add_argument(
        "--dry-run", action="store_true", help="say which projects, runs and rows there are; write nothing"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that read logs (default: one per core)",
    )
    how.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    how.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    how.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parsed = parser.parse_strictly(argv)
    history_keys = comma_separated(parsed.history_keys)
    if history_keys and not parsed.include_history:
        raise ScriptError("--history-keys chooses among the history: add --include-history", WRONG_USAGE)
    if not is_storable(str(parsed.output)):  # polars writes to no such path
        raise ScriptError("the path of -o is no UTF-8 text; choose another", WRONG_USAGE)
    if parsed.workers < 1:
        raise ScriptError("--workers takes a whole number from 1 up", WRONG_USAGE)
    return Options(
        offline=parsed.offline,
        output=parsed.output,
        selection=selection_of(parsed),
        include_history=parsed.include_history,
        history_keys=history_keys,
        workers=parsed.workers,
        prune=parsed.prune,
        dry_run=parsed.dry_run,
        json=parsed.json,
        quiet=parsed.quiet,
    )


def selection_of(parsed: argparse.Namespace) -> Selection:
    for state in comma_separated(parsed.state):
        if state not in STATES:
            raise ScriptError(
                f"--state {state}: no such state{did_you_mean(state, STATES)}; there are {', '.join(STATES)}",
                WRONG_USAGE,
            )
    return Selection(
        entity=comma_separated(parsed.entity),
        project=comma_separated(parsed.project),
        since=moment("--since", parsed.since),
        until=moment("--until", parsed.until),
        active_since=moment("--active-since", parsed.active_since),
        state=comma_separated(parsed.state),
        tag=comma_separated(parsed.tag),
        group=comma_separated(parsed.group),
        sweep=comma_separated(parsed.sweep),
    )


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
    global version, pl, pa, pq
    from importlib.metadata import version

    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    if hasattr(signal, "siginterrupt"):  # polars' own handler has waits (for a lock, for workers) go on after Ctrl-C
        signal.siginterrupt(signal.SIGINT, True)


def export(options: Options) -> int:
    """From the source to the files: the summary of this script."""
    import_libraries()
    say = speaker(quiet=options.quiet)
    with working_folder(options.output, say, dry_run=options.dry_run) as work:
        findings = read_offline(options, work, say)
        projects = listings(findings, options.selection, say)
        for glob in unmatched(options, projects):
            say(f"--history-keys {glob} matches no metric of these runs")
        exports = [] if options.dry_run else [write_project(project, options) for project in projects]
    if options.dry_run:
        tell_plan(projects, options)
    else:
        tell(exports, options, say)
    return report_failures(projects)


def report_failures(projects: Sequence[Listing]) -> int:
    """Name what failed, on stderr even when quiet."""
    failures = {failure: None for project in projects for failure in project.failed}
    for failure in failures:
        print(printable(f"error: {failure.run}: {failure.error}"), file=sys.stderr)
    return PARTIAL if failures else OK


def guarded(work: Callable[[], int], *, debug: bool) -> int:
    """The exit code of `work`: the only place where exceptions become messages."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name from W&B may not fit the terminal's encoding
    try:
        code = work()
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
    except Exception as error:
        if debug:
            raise
        bug = f"a bug in this script: {error!r}"
        print(f"error: {printable(bug)}; run it again with --debug and report what it prints", file=sys.stderr)
        return NOTHING_USABLE
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    return guarded(lambda: export(parse_args(argv)), debug="--debug" in (sys.argv if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())
