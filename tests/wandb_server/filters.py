"""Mongo-style filters and orders over runs, as `api.runs(filters=, order=)` sends them.

    {"$and": [{"state": "finished"}, {"config.lr": {"$gte": 0.1}}, {"created_at": {"$lt": "2026-01-15T00:00:00Z"}}]}

A field that no run has matches like a missing one; an unknown operator is an error.
"""

from __future__ import annotations

import json
import operator
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .store import Run

MISSING = object()


def compile_filter(filters: Mapping[str, Any]) -> Callable[[Run], bool]:
    """The predicate that `filters` describe; ValueError for what is no filter."""
    terms = [_term(key, value) for key, value in filters.items()]
    return lambda run: all(term(run) for term in terms)


def in_order(runs: list[Run], order: str) -> list[Run]:
    """`runs` by `order`, such as "-summary_metrics.loss"; numbers before texts, runs without a value last."""
    read = field_reader(order.lstrip("+- ").removesuffix(".value"))
    known: list[tuple[bool, Any, Run]] = []
    unknown = []
    for run in runs:
        value = read(run)
        if value is MISSING or value is None:
            unknown.append(run)
        else:
            is_number = isinstance(value, int | float)
            known.append((not is_number, value if is_number else str(value), run))
    known.sort(key=operator.itemgetter(0, 1), reverse=order.startswith("-"))
    return [run for _, _, run in known] + unknown


# --- terms ----------------------------------------------------------------------------------------------------


def _term(key: str, value: Any) -> Callable[[Run], bool]:
    if key in {"$and", "$or", "$nor"}:
        if not isinstance(value, list):
            raise ValueError(f"{key} needs a list")
        parts = [compile_filter(part) for part in value]
        match key:
            case "$and":
                return lambda run: all(part(run) for part in parts)
            case "$or":
                return lambda run: any(part(run) for part in parts)
            case _:
                return lambda run: not any(part(run) for part in parts)
    if key == "$not":
        part = compile_filter(value)
        return lambda run: not part(run)
    if key.startswith("$"):
        raise ValueError(f"unknown operator {key}")
    read = field_reader(key)
    is_time = key in TIMES
    test = _condition(value, is_time=is_time)
    return lambda run: test(read(run))


def _condition(value: Any, *, is_time: bool) -> Callable[[Any], bool]:
    """The test of one field's value."""
    if not (isinstance(value, dict) and any(name.startswith("$") for name in value)):
        return _operator("$eq", value, is_time=is_time)
    tests = [_operator(name, operand, is_time=is_time) for name, operand in value.items()]
    return lambda actual: all(test(actual) for test in tests)


def _operator(name: str, operand: Any, *, is_time: bool) -> Callable[[Any], bool]:
    if is_time:
        operand = [seconds(item) for item in operand] if isinstance(operand, list) else seconds(operand)
    match name:
        case "$eq":
            return lambda actual: _equals(actual, operand)
        case "$ne":
            return lambda actual: not _equals(actual, operand)
        case "$in":
            return lambda actual: any(_equals(actual, item) for item in operand)
        case "$nin":
            return lambda actual: not any(_equals(actual, item) for item in operand)
        case "$exists":
            return lambda actual: (actual is not MISSING) == bool(operand)
        case "$regex":
            pattern = re.compile(operand)
            return lambda actual: any(isinstance(item, str) and pattern.search(item) for item in _members(actual))
        case "$not":
            test = _condition(operand, is_time=is_time)
            return lambda actual: not test(actual)
        case "$gt" | "$gte" | "$lt" | "$lte":
            compare = getattr(operator, {"$gt": "gt", "$gte": "ge", "$lt": "lt", "$lte": "le"}[name])
            return lambda actual: any(
                _comparable(item, operand) and compare(item, operand) for item in _members(actual)
            )
        case _:
            raise ValueError(f"unknown operator {name}")


def _members(actual: Any) -> list[Any]:
    return actual if isinstance(actual, list) else [actual]


def _equals(actual: Any, operand: Any) -> bool:
    """Mongo's equality: null also matches a missing field, a value also matches a list that holds it."""
    if operand is None:
        return actual is MISSING or actual is None
    return any(item == operand and _comparable(item, operand) for item in [actual, *_members(actual)])


def _comparable(left: Any, right: Any) -> bool:
    return _kind(left) is _kind(right)


def _kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


# --- fields ---------------------------------------------------------------------------------------------------


def field_reader(name: str) -> Callable[[Run], Any]:
    """How the field called `name` is read from a run; MISSING where it has none."""
    if name in FIELDS:
        return FIELDS[name]
    head, _, path = name.partition(".")
    if head == "config":
        return lambda run: _config_value(parsed(run.config), path.split("."))
    if head in {"summary_metrics", "summaryMetrics"}:
        return lambda run: _at(parsed(run.summary), path.split("."))
    return lambda run: MISSING


def _config_value(config: Any, path: list[str]) -> Any:
    """The value at `path`, unwrapped from W&B's outer {"value": ...}; `lr` and `lr.value` are the same."""
    for end in range(len(path), 0, -1):
        key, rest = ".".join(path[:end]), path[end:]
        if isinstance(config, dict) and key in config:
            entry = config[key]
            if isinstance(entry, dict) and "value" in entry:
                return _at(entry["value"], rest[1:] if rest[:1] == ["value"] else rest)
            return _at(entry, rest)
    return MISSING


def _at(tree: Any, path: list[str]) -> Any:
    """The value at `path`; keys may hold dots themselves, the longest that fits is taken."""
    if not path:
        return tree
    if isinstance(tree, dict):
        for end in range(len(path), 0, -1):
            key = ".".join(path[:end])
            if key in tree:
                return _at(tree[key], path[end:])
    return MISSING


def parsed(text: str | None) -> Any:
    """The JSON in `text`; null for what cannot be parsed."""
    try:
        return orjson.loads(text or "null")
    except orjson.JSONDecodeError:  # bare NaN, or no JSON at all
        try:
            return json.loads(text or "null")
        except ValueError:
            return None


@lru_cache(maxsize=1 << 17)
def seconds(text: str | None) -> float | None:
    """An ISO time as seconds since 1970, UTC where no zone is given."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _duration(run: Run) -> Any:
    summary = parsed(run.summary)
    runtime = _at(summary, ["_wandb", "runtime"])
    return runtime if runtime is not MISSING else _at(summary, ["_runtime"])


def _present(value: Any) -> Any:
    return MISSING if value is None else value


FIELDS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.id,
    "display_name": lambda run: run.display_name,
    "displayName": lambda run: run.display_name,
    "state": lambda run: run.state,
    "created_at": lambda run: seconds(run.created_at),
    "createdAt": lambda run: seconds(run.created_at),
    "heartbeat_at": lambda run: seconds(run.heartbeat_at),
    "heartbeatAt": lambda run: seconds(run.heartbeat_at),
    "group": lambda run: _present(run.group),
    "job_type": lambda run: _present(run.job_type),
    "jobType": lambda run: _present(run.job_type),
    "sweep": lambda run: _present(run.sweep),
    "host": lambda run: _present(run.host),
    "tags": lambda run: run.tags,
    "username": lambda run: run.user.username if run.user else MISSING,
    "duration": _duration,
}
TIMES = {"created_at", "createdAt", "heartbeat_at", "heartbeatAt"}
