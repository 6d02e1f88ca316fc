"""What the server knows: users, projects, runs, sweeps, files. Plain dataclasses, one lock for all of them."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import threading
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .filters import compile_filter, in_order, seconds
from .history import History, spelled_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SELECTIONS_KEPT = 64  # answers to (filters, order) remembered per project, so that paging does not sort again
STATE_OF_EXIT_CODE = {0: "finished", 254: "crashed"}  # any other: failed


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def global_id(*parts: object) -> str:
    """An opaque id as W&B makes them: base64 of a readable text."""
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()


# --- nouns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    username: str
    entity: str
    name: str = "Test User"
    admin: bool = False

    @property
    def id(self) -> str:
        return global_id("User", self.username)

    @property
    def email(self) -> str:
        return f"{self.username}@example.com"


@dataclass(frozen=True)
class RunFile:
    name: str
    content: bytes
    updated_at: str

    @property
    def mimetype(self) -> str:
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"

    @cached_property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.content).digest()).decode()


@dataclass(eq=False)
class Artifact:
    entity: str
    project: str
    number: int  # of all artifacts
    name: str  # of all versions
    kind: str
    client_id: str
    sequence: str  # the client's id of all versions
    digest: str
    state: str = "PENDING"
    files: dict[str, RunFile] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return global_id("Artifact", self.number)


@dataclass(eq=False)
class Sweep:
    project: Project
    name: str
    config: str = "method: random\nmetric: {name: loss, goal: minimize}\n"  # YAML text
    display_name: str | None = None
    method: str = "random"
    state: str = "RUNNING"
    description: str | None = None
    best_loss: float | None = None
    created_at: str = "2026-01-01T00:00:00Z"
    updated_at: str | None = None
    run_count_expected: int | None = None

    @property
    def id(self) -> str:
        return global_id("Sweep", self.name)

    @property
    def runs(self) -> list[Run]:
        return self.project.select(json.dumps({"sweep": self.name}), None)


@dataclass(eq=False, slots=True)
class Run:
    """One run; config and summary are JSON texts exactly as they are answered.

    `history_rows` and `history_keys`, if given, are answered in place of what the history holds.
    """

    project: Project
    id: str
    number: int
    display_name: str | None = None
    state: str = "running"
    created_at: str = field(default_factory=now)
    heartbeat_at: str | None = field(default_factory=now)
    user: User | None = None
    config: str | None = "{}"
    summary: str | None = "{}"
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    notes: str | None = None
    description: str | None = None
    commit: str | None = None
    host: str | None = None
    history: History = field(default_factory=History)
    history_rows: int | None = None
    history_keys: Any = ...
    events: list[str] = field(default_factory=list)
    log_lines: list[str] = field(default_factory=list)
    files: dict[str, RunFile] = field(default_factory=dict)

    @property
    def storage_id(self) -> str:
        return global_id("Run", "v1", self.id, self.project.name, self.project.entity)

    @property
    def history_line_count(self) -> int:
        return self.history.line_count if self.history_rows is None else self.history_rows

    @property
    def system_metrics(self) -> str | None:
        """The latest system metrics as JSON text."""
        if not self.events:
            return None
        return json.dumps({k: v for k, v in json.loads(self.events[-1]).items() if not k.startswith("_")})


@dataclass(eq=False)
class Project:
    entity: str
    name: str
    number: int
    created_at: str = field(default_factory=now)
    user: User | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    runs_made: int = 0  # so that numbers are not given twice
    selections: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    by_creation: list[Run] | None = None  # all runs; None after a change

    @property
    def id(self) -> str:
        return global_id("Project", "v1", self.name, self.entity)

    def changed(self) -> None:
        self.selections.clear()
        self.by_creation = None

    def add_run(self, run_id: str, **values: Any) -> Run:
        self.runs_made += 1
        run = self.runs[run_id] = Run(self, run_id, self.runs_made, **values)
        self.changed()
        return run

    def select(self, filters: str | None, order: str | None) -> list[Run]:
        """The runs that match `filters` (JSON text), in `order`; ties in the order they were made."""
        question = (filters or "{}", order or "+created_at")
        if question not in self.selections:
            if len(self.selections) >= SELECTIONS_KEPT:
                self.selections.clear()
            self.selections[question] = self._select(*question)
        return self.selections[question]

    def _select(self, filters: str, order: str) -> list[Run]:
        conditions = json.loads(filters)
        matches = compile_filter(conditions)
        runs = self.created_within(conditions) if order == "+created_at" else self.runs.values()
        return in_order([run for run in runs if matches(run)], order)

    def created_within(self, conditions: Mapping[str, Any]) -> list[Run]:
        """The runs that the bounds of `createdAt` leave, by creation: found like in an index, as a real server does."""
        if self.by_creation is None:
            self.by_creation = sorted(self.runs.values(), key=creation)
        start, end = 0, len(self.by_creation)
        for condition in conditions.get("$and", ()):
            bounds = condition.get("createdAt")
            if isinstance(bounds, dict) and bounds.keys() <= {"$gte", "$lt"}:
                if "$gte" in bounds:
                    start = max(start, bisect_left(self.by_creation, seconds(bounds["$gte"]), key=creation))
                if "$lt" in bounds:
                    end = min(end, bisect_left(self.by_creation, seconds(bounds["$lt"]), key=creation))
        return self.by_creation[start:end]


def creation(run: Run) -> float:
    return seconds(run.created_at) or 0.0


# --- store ----------------------------------------------------------------------------------------------------


@dataclass
class Store:
    viewer: User
    folder: Path  # where exports are kept
    entities: dict[str, dict[str, Project]] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # by id
    lock: threading.RLock = field(default_factory=threading.RLock)
    projects_made: int = 0

    def __post_init__(self) -> None:
        self.add_entity(self.viewer.entity)

    @property
    def teams(self) -> list[str]:
        """Every entity, the user's own included, as W&B lists them."""
        return list(self.entities)

    def add_entity(self, name: str) -> dict[str, Project]:
        return self.entities.setdefault(name, {})

    def add_project(self, entity: str, name: str, **values: Any) -> Project:
        projects = self.add_entity(entity)
        if name not in projects:
            self.projects_made += 1
            values.setdefault("user", self.viewer)
            projects[name] = Project(entity, name, self.projects_made, **values)
        return projects[name]

    def project(self, entity: str | None, name: str | None) -> Project | None:
        return self.entities.get(entity or self.viewer.entity, {}).get(name or "")

    def run(self, entity: str, project: str, run_id: str) -> Run:
        """That run; KeyError where there is none."""
        return self.entities[entity][project].runs[run_id]

    def add_artifact(self, entity: str, project: str, *values: str) -> Artifact:
        artifact = Artifact(entity, project, len(self.artifacts), *values)
        return self.artifacts.setdefault(artifact.id, artifact)

    def files_at(self, service: str, entity: str, project: str, owner: str) -> dict[str, RunFile]:
        """The files of a run or of an artifact; KeyError where there is none."""
        if service == "artifacts":
            return self.artifacts[global_id("Artifact", owner)].files
        return self.run(entity, project, owner).files

    def run_of_storage_id(self, storage_id: str) -> Run | None:
        with suppress(ValueError, KeyError):
            _, _, run_id, project, entity = base64.b64decode(storage_id).decode().split(":")
            return self.run(entity, project, run_id)
        return None

    def delete_run(self, run: Run) -> None:
        run.project.runs.pop(run.id, None)
        run.project.changed()

    # What the SDK writes

    def upsert_run(
        self, entity: str | None, project: str | None, run_id: str, changes: Mapping[str, Any]
    ) -> tuple[Run, bool]:
        """Create or change a run; a change to None leaves what is there. The run, and whether it is new."""
        entity = entity or self.viewer.entity
        if entity not in self.entities:
            raise ValueError(f"entity {entity} not found during upsertBucket")
        home = self.add_project(entity, project or "uncategorized")
        run = home.runs.get(run_id)
        is_new = run is None
        if run is None:
            run = home.add_run(run_id, user=self.viewer, display_name=f"calm-meadow-{home.runs_made + 1}")
        change_run(run, changes)
        return run, is_new

    def stream(self, run: Run, body: Mapping[str, Any], *, live_tail: int, nested: str, export: bool) -> None:
        """Take one file_stream request: rows, events, summary, console lines, the end of the run."""
        for name, chunk in (body.get("files") or {}).items():
            offset, lines = chunk.get("offset") or 0, chunk.get("content") or []
            match name:
                case "wandb-history.jsonl":
                    run.history.write(offset, lines)
                case "wandb-events.jsonl":
                    run.events[offset : offset + len(lines)] = lines
                case "wandb-summary.json" if lines:
                    run.summary = spelled_text(lines[-1])
                case "output.log":
                    run.log_lines[offset : offset + len(lines)] = lines
        run.heartbeat_at = now()
        is_preempting = run.state == "preempting" or body.get("preempting")
        if body.get("complete"):
            was_preempting = is_preempting and body.get("exitcode") != 0
            run.state = "preempted" if was_preempting else STATE_OF_EXIT_CODE.get(body.get("exitcode") or 0, "failed")
            if export:
                run.history.export(self.folder, leave_live=live_tail, nested=nested)
        else:
            run.state = "preempting" if is_preempting else "running"
        run.project.changed()


def change_run(run: Run, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if value is not None:
            setattr(run, name, spelled_text(value) if name in {"config", "summary"} else value)
    run.project.changed()
