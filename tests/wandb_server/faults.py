r"""Faults as rules: which requests, how often, what happens to them.

    server.fault("status", match={"field": "runs"}, times=2, status=429, headers={"Retry-After": "1"})
    server.fault("cut", match={"kind": "download"}, every=3)
    server.fault("error", match={"field": "logLines", "run": "a1"})                # one run's console, others go well
    server.fault("truncate", match={"kind": "download", "path": r"\.table\.json$"}, times=1)

| action | what the client meets | its parameters |
|---|---|---|
| status | another answer in place of the real one | status, headers, message or body (text) |
| hang | no answer; the connection closes after `seconds`, `clear_faults()` or the server's end | seconds |
| drop | the connection closed before an answer | |
| cut | an answer that stops short of its Content-Length, then a closed connection | fraction |
| truncate | a shorter answer that looks whole: Content-Length agrees with it | fraction |
| trickle | the real answer, a byte at a time, one every `seconds` | seconds |
| slow | the real answer, `seconds` later | seconds |
| headers | the real answer with further headers | headers |
| endless | `body` again and again, for as long as the client reads | body, headers |
| bomb | `size` zero bytes as gzip, which are a thousandth of that on the wire | size, status, headers |
| replace | the real answer's JSON with another value at a place, or without that place | place, value |
| expired | what a storage service says of an outdated signed URL (403) | |
| call | first a method of the server is called, then the real answer given | method, arguments |
| error | status 200, `errors`, and null for the field that matched (GraphQL only) | message |
| null | null for the field that matched, without an error (GraphQL only) | |
| repeat | a page of several, with its first entry once more at the end (GraphQL only) | |
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .web import Request

IN_RESOLVERS = {"error", "null", "repeat"}
IN_FRONT = {"status", "hang", "drop", "cut", "truncate", "trickle", "slow", "headers", "expired", "call"}
IN_FRONT |= {"endless", "bomb", "replace"}


@dataclass(frozen=True)
class Match:
    """Which requests a rule is for; what is None fits all."""

    kind: str | None = None  # graphql, file_stream, file, upload, download
    operation: str | None = None  # the GraphQL operation's name
    field: str | None = None  # a GraphQL field with arguments: runs, run, history, parquetHistory, logLines, files ...
    entity: str | None = None
    project: str | None = None
    run: str | None = None
    path: str | None = None  # a regular expression searched in the URL's path
    above_first: int | None = None  # asks for a page of more runs than this
    above_runs: int | None = None  # asks for more single runs than this, each `run(name:)` counted
    above_in_flight: int | None = None  # arrives while more requests than this, itself included, are under way

    def fits(self, request: Request) -> bool:
        return (
            self.kind in {None, request.kind}
            and self.operation in {None, request.operation}
            and (self.field is None or self.field in request.fields)
            and (self.entity is None or self.entity in request.entities)
            and (self.project is None or self.project in request.projects)
            and (self.run is None or self.run in request.runs)
            and (self.path is None or re.search(self.path, request.path) is not None)
            and (self.above_first is None or request.first > self.above_first)
            and (self.above_runs is None or len(request.runs) > self.above_runs)
            and (self.above_in_flight is None or request.in_flight > self.above_in_flight)
        )

    def fits_field(self, name: str, entity: str | None, project: str | None, run: str | None) -> bool:
        return (
            self.field == name
            and self.entity in {None, entity}
            and self.project in {None, project}
            and self.run in {None, run}
        )


@dataclass
class Rule:
    action: str
    match: Match
    times: int | None = None  # None: always
    after: int = 0  # let so many matching requests pass first
    every: int = 1  # of the others, meet each `every`-th
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "simulated failure"
    body: str | None = None
    seconds: float = 3600.0
    fraction: float = 0.5
    method: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    place: list[str | int] = field(default_factory=list)  # keys and indexes from the answer's top
    value: str = ""  # as JSON; empty: none
    seen: int = 0  # matching requests so far
    hits: int = 0  # those that met the action

    def __post_init__(self) -> None:
        if self.action not in IN_FRONT | IN_RESOLVERS:
            raise ValueError(f"unknown action {self.action}")
        if self.action in IN_RESOLVERS and self.match.field is None:
            raise ValueError(f"{self.action} needs a field to match")

    def hit(self) -> bool:
        """Count a matching request; whether the rule applies to it."""
        self.seen += 1
        is_due = self.seen > self.after and (self.seen - self.after) % self.every == 0
        applies = is_due and (self.times is None or self.hits < self.times)
        self.hits += applies
        return applies


class Faults:
    """The rules in force; the first that applies wins."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.lock = threading.Condition()  # told of every hit
        self.released = threading.Event()  # ends what hangs

    def add(self, rule: Rule) -> None:
        with self.lock:
            self.rules.append(rule)

    def clear(self) -> None:
        with self.lock:
            self.rules.clear()
            self.released.set()
            self.released = threading.Event()

    def for_request(self, request: Request) -> Rule | None:
        with self.lock:
            fitting = (rule for rule in self.rules if rule.action in IN_FRONT and rule.match.fits(request))
            return self._first_hit(fitting)

    @property
    def watch_fields(self) -> bool:
        return any(rule.action in IN_RESOLVERS for rule in self.rules)

    def for_field(self, name: str, entity: str | None, project: str | None, run: str | None) -> Rule | None:
        with self.lock:
            fitting = (rule for rule in self.rules if rule.action in IN_RESOLVERS)
            fitting = (rule for rule in fitting if rule.match.fits_field(name, entity, project, run))
            return self._first_hit(fitting)

    def _first_hit(self, fitting: Iterator[Rule]) -> Rule | None:
        rule = next((rule for rule in fitting if rule.hit()), None)
        self.lock.notify_all()
        return rule

    def wait_for_hits(self, rule: Rule, hits: int, timeout_s: float) -> None:
        with self.lock:
            if not self.lock.wait_for(lambda: rule.hits >= hits, timeout_s):
                raise TimeoutError(f"{rule.action} applied {rule.hits} times in {timeout_s} s, not {hits}")
