"""The history of a run: rows as the SDK logged them, the parquet exports of the older ones, a live tail of newer ones.

Rows in exports are typed as W&B types them (`_step` int64, every other number double, nan as nan). Rows that the
API gives as JSON spell numbers that are not finite as text: "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import json
import math
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Row = dict[str, Any]

EXACT_INTEGERS = 2**53  # a double below this that is whole is written as an integer, as the SDK does


@dataclass(frozen=True)
class Export:
    """One parquet file; several runs may share it, since it does not say whose rows it holds."""

    file: Path
    rows: int
    first_step: int
    last_step: int

    @classmethod
    def of_file(cls, file: Path) -> Export:
        steps = pq.read_table(file, columns=["_step"])["_step"]
        return cls(file, len(steps), steps[0].as_py(), steps[-1].as_py())


@dataclass(slots=True)
class KeyUse:
    """What historyKeys tells about one metric."""

    counts: dict[str, int] = field(default_factory=dict)
    previous_value: object = None


@dataclass(slots=True)
class History:
    exports: list[Export] = field(default_factory=list)
    live: list[Row] = field(default_factory=list)
    key_uses: dict[str, KeyUse] = field(default_factory=dict)

    # What comes in

    def write(self, offset: int, lines: Sequence[str]) -> None:
        """Put JSON `lines` at line `offset`; what is there is replaced, what was exported stays."""
        for number, line in enumerate(lines, offset - self.exported_rows):
            row = json.loads(line)
            if number >= len(self.live):
                self.add_live([row])
            elif number >= 0:
                self.live[number] = row

    def add_live(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.live.append(row)
            for key, value in flat(row).items():
                self._note(key, kind_of(value), 1, value)

    def add_export(self, file: Path) -> None:
        """Take a parquet file as the next part of the export."""
        self.exports.append(Export.of_file(file))
        parquet = pq.ParquetFile(file)
        columns = parquet.metadata.num_columns
        for index in range(columns):
            path = parquet.schema.column(index).path
            groups = [parquet.metadata.row_group(g) for g in range(parquet.metadata.num_row_groups)]
            nulls = sum(g.column(index).statistics.null_count for g in groups if g.column(index).statistics)
            kind = "string" if parquet.schema.column(index).physical_type == "BYTE_ARRAY" else "number"
            self._note(path, kind, parquet.metadata.num_rows - nulls, None)
        parquet.close()

    def export(self, folder: Path, *, leave_live: int = 0, merge: bool = False, nested: str = "struct") -> None:
        """Move live rows, but the last `leave_live`, into a new part, or into one file with all parts before it."""
        end = max(len(self.live) - leave_live, 0)
        rows, self.live = self.live[:end], self.live[end:]
        if not rows:
            return
        table = table_of(rows, nested=nested)
        if merge:
            with suppress(pa.ArrowInvalid, pa.ArrowTypeError):  # types that clash stay in parts
                parts = [pq.read_table(export.file) for export in self.exports]
                table = pa.concat_tables([*parts, table], promote_options="permissive")
                self.exports = []
        file = folder / f"{uuid.uuid4().hex}.parquet"
        pq.write_table(table, file)
        self.exports.append(Export.of_file(file))

    def _note(self, key: str, kind: str, count: int, value: object) -> None:
        use = self.key_uses.setdefault(key, KeyUse())
        use.counts[kind] = use.counts.get(kind, 0) + count
        use.previous_value = value

    # What is read

    @property
    def exported_rows(self) -> int:
        return sum(export.rows for export in self.exports)

    @property
    def line_count(self) -> int:
        return self.exported_rows + len(self.live)

    @property
    def last_step(self) -> int:
        """The highest step, -1 without rows."""
        steps = [export.last_step for export in self.exports] + [row["_step"] for row in self.live[-1:]]
        return max(steps, default=-1)

    def keys(self) -> dict[str, Any] | None:
        """The JSON of `historyKeys`; null before the first row."""
        if not self.line_count:
            return None
        keys = {
            key: {
                "typeCounts": [{"type": kind, "count": count} for kind, count in use.counts.items()],
                "monotonic": key == "_step",
                "previousValue": spelled(use.previous_value),
            }
            for key, use in self.key_uses.items()
        }
        return {"step": self.last_step, "lastStep": self.last_step, "sets": [], "keys": keys}

    def rows(self, first: int, end: int | None = None) -> list[Row]:
        """Rows with first <= _step < end, oldest first, from exports and live tail, as the API spells them."""
        end = self.last_step + 1 if end is None else end
        found = []
        for export in self.exports:
            if export.first_step < end and export.last_step >= first:
                table = pq.read_table(export.file, filters=[("_step", ">=", first), ("_step", "<", end)])
                found += table.to_pylist()
        found += [row for row in self.live if first <= row["_step"] < end]
        return [spelled({key: value for key, value in row.items() if value is not None}) for row in found]

    def sampled(self, keys: Sequence[str], first: int, last: int | None, samples: int) -> list[Row]:
        """Of the rows that have all `keys`, evenly spread `samples`, reduced to the keys."""
        rows = self.rows(first, None if last is None else last + 1)
        picked = [{key: lookup(row, key) for key in keys} for row in rows]
        return evenly([row for row in picked if None not in row.values()], samples)

    def live_data(self, keys: Sequence[str]) -> list[Row]:
        rows = [{key: lookup(row, key) for key in keys} for row in self.live]
        return [spelled({key: value for key, value in row.items() if value is not None}) for row in rows]


def evenly(rows: list[Row], samples: int) -> list[Row]:
    if len(rows) <= samples:
        return rows
    return [rows[index * len(rows) // samples] for index in range(samples)]


def lookup(row: Row, key: str) -> object:
    """The value of `key`, which may be a dotted path into nested dicts."""
    if key in row:
        return row[key]
    head, _, tail = key.partition(".")
    inner = row.get(head)
    return lookup(inner, tail) if tail and isinstance(inner, dict) else None


def flat(row: Row, prefix: str = "") -> Row:
    """Leaves by dotted name; media objects, which carry `_type`, are leaves.

    >>> flat({"a": {"b": 1}, "c": {"_type": "image-file"}})
    {'a.b': 1, 'c': {'_type': 'image-file'}}
    """
    leaves: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and value and "_type" not in value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def kind_of(value: object) -> str:
    match value:
        case None:
            return "nil"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case dict():
            return value.get("_type", "map")
        case _:
            return "list"


# --- JSON as W&B spells it ------------------------------------------------------------------------------------


def spelled(value: Any) -> Any:
    """`value` with numbers that are not finite as text, and whole doubles as integers.

    >>> spelled({"loss": float("nan"), "acc": 1.0})
    {'loss': 'NaN', 'acc': 1}
    """
    match value:
        case float():
            if math.isnan(value):
                return "NaN"
            if math.isinf(value):
                return "Infinity" if value > 0 else "-Infinity"
            return int(value) if value.is_integer() and abs(value) < EXACT_INTEGERS else value
        case dict():
            return {key: spelled(item) for key, item in value.items()}
        case list():
            return [spelled(item) for item in value]
        case _:
            return value


def spelled_text(text: str | None) -> str | None:
    """JSON text with bare NaN and Infinity made text; other texts stay as they came."""
    if text is None or ("NaN" not in text and "Infinity" not in text):
        return text
    return json.dumps(json.loads(text, parse_constant=str))


# --- parquet --------------------------------------------------------------------------------------------------


def table_of(rows: Sequence[Row], *, nested: str = "struct") -> pa.Table:
    """`rows` as a W&B export types them; nested dicts as structs or, with nested="dotted", as columns `a.b`."""
    if nested == "dotted":
        rows = [flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: column_of(name, [without_empty(row.get(name)) for row in rows]) for name in names})


def column_of(name: str, values: list[Any]) -> pa.Array:
    present = [value for value in values if value is not None]
    if name == "_step":
        return pa.array(values, pa.int64())
    if present and all(isinstance(value, bool) for value in present):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, int | float) for value in present):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # types that change from row to row: JSON text
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def without_empty(value: Any) -> Any:
    """Null for an empty dict, which parquet cannot hold."""
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items()} or None
    return value
