"""GraphQL: queries checked and executed against `schema.graphql`, resolved from the store."""

from __future__ import annotations

import base64
import json
import re
import secrets
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphql import (
    DocumentNode,
    Executor,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLObjectType,
    OperationDefinitionNode,
    build_schema,
    execute_sync,
    parse,
    validate,
)
from graphql.utilities import value_from_ast_untyped

from .history import evenly
from .store import Project, Run, change_run, global_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .faults import Faults
    from .store import Artifact, RunFile, Store, Sweep
    from .web import Request, Settings

DEFAULT_PAGE = 50
DEFAULT_SAMPLES = 500
DOCUMENTS_KEPT = 512
MANIFEST = "wandb_manifest.json"  # of an artifact, among its files in the storage, but not in their list
FEATURES = ["SWEEPS_QUERY_FILTERING", "MARK_RUN_FILES_UPLOADED"]


# --- schema ---------------------------------------------------------------------------------------------------


@cache
def snake(name: str) -> str:
    """
    >>> snake("historyLineCount"), snake("runID")
    ('history_line_count', 'run_id')
    """
    return re.sub(r"(?<=[a-z0-9])([A-Z]+)", r"_\1", name).lower()


def int64(value: Any) -> int:
    if type(value) is not int:
        raise GraphQLError(f"Int64 cannot represent non-integer value: {value!r}")
    return value


def load_schema():
    schema = build_schema(Path(__file__).with_name("schema.graphql").read_text(encoding="utf-8"))
    for kind in schema.type_map.values():  # resolvers receive their arguments with Python's names
        if kind.name.startswith("__"):
            continue
        if isinstance(kind, GraphQLObjectType):
            for field in kind.fields.values():
                for name, argument in field.args.items():
                    argument.out_name = snake(name)
        elif isinstance(kind, GraphQLInputObjectType):
            for name, field in kind.fields.items():
                field.out_name = snake(name)
    schema.type_map["Int64"].coerce_input_value = int64
    return schema


SCHEMA = load_schema()


# --- questions ------------------------------------------------------------------------------------------------


class BadQueryError(Exception):
    """A query that cannot be executed; `errors` as GraphQL formats them."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = [error.formatted for error in errors]


@dataclass(frozen=True)
class Question:
    """A valid request: its document, and what it is about, for fault rules and counters."""

    document: DocumentNode
    operation: OperationDefinitionNode
    variables: Mapping[str, Any]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Question:
        """The question in a request's JSON body; BadQueryError if the schema refuses it."""
        document = checked(body.get("query") or "")
        wanted = body.get("operationName") or None  # Python clients send "" and mean the only one
        operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
        named = [o for o in operations if wanted is None or (o.name and o.name.value == wanted)]
        if len(named) != 1:
            raise BadQueryError([GraphQLError(f"No single operation named {wanted!r}")])
        variables = dict(body.get("variables") or {})
        for definition in named[0].variable_definitions or ():
            if definition.default_value is not None:
                default = value_from_ast_untyped(definition.default_value)
                variables.setdefault(definition.variable.name.value, default)
        return cls(document, named[0], variables)

    @property
    def name(self) -> str:
        return self.operation.name.value if self.operation.name else ""

    def fields(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every field that has arguments, by its name, with their values."""
        fragments = {d.name.value: d for d in self.document.definitions if isinstance(d, FragmentDefinitionNode)}
        waiting = list(self.operation.selection_set.selections)
        while waiting:
            node = waiting.pop()
            if isinstance(node, FragmentSpreadNode):
                waiting += fragments[node.name.value].selection_set.selections
                continue
            if isinstance(node, FieldNode) and node.arguments:
                values = {a.name.value: value_from_ast_untyped(a.value, self.variables) for a in node.arguments}
                yield node.name.value, values
            if node.selection_set:
                waiting += node.selection_set.selections


@lru_cache(DOCUMENTS_KEPT)
def checked(query: str) -> DocumentNode:
    try:
        document = parse(query)
    except GraphQLError as error:
        raise BadQueryError([error]) from error
    if errors := validate(SCHEMA, document):
        raise BadQueryError(errors)
    return document


# --- execution ------------------------------------------------------------------------------------------------


class RunExecutor(Executor):
    """graphql-core's executor with a shorter way for runs and console lines, of which a page holds a thousand.

    Where all that is asked of a run are plain fields, a dict of them replaces two dozen calls per run.
    """

    def collect_and_execute_subfields(self, return_type, field_details_list, path, result, position_context):
        request = self.context_value
        request.runs_returned += return_type.name == "Run"
        if return_type.name in {"Run", "LogLineConnection"}:
            key = id(field_details_list)
            if key not in request.plans:
                request.plans[key] = field_details_list, self.plan(return_type, field_details_list)
            _, plan = request.plans[key]  # the list is kept with its plan, so that no other can get its id
            if plan is not None:
                return {name: read(result) for name, read in plan}
        return super().collect_and_execute_subfields(return_type, field_details_list, path, result, position_context)

    def plan(self, kind, field_details_list) -> list[tuple[str, Callable[[Any], Any]]] | None:
        """Response name and reader of each field of `kind`; None where the long way is needed."""
        steps = []
        for name, details in self.collect_subfields(kind, field_details_list).grouped_field_set.items():
            field = details[0].node.name.value
            read = PLAIN.get(kind.name, {}).get(field)
            if inner_kind := NESTED.get((kind.name, field)):
                inner = self.plan(SCHEMA.type_map[inner_kind], details)
                read = inner and nested_reader(read, inner)
            if read is None or self.context_value.watch_fields:
                return None
            steps.append((name, read))
        return steps


def nested_reader(
    read: Callable[[Any], Any], plan: list[tuple[str, Callable[[Any], Any]]]
) -> Callable[[Any], list[dict[str, Any]] | dict[str, Any] | None]:
    """A reader of the object, or list of objects, that `read` finds: a dict of the planned fields for each."""

    def nested(source: Any) -> list[dict[str, Any]] | dict[str, Any] | None:
        found = read(source)
        if isinstance(found, list):
            return [{name: inner(item) for name, inner in plan} for item in found]
        return None if found is None else {name: inner(found) for name, inner in plan}

    return nested


PLAIN: dict[str, dict[str, Callable[[Any], Any]]] = {
    "Run": {
        "id": attrgetter("storage_id"),
        "projectId": attrgetter("project.number"),
        "name": attrgetter("id"),
        "displayName": attrgetter("display_name"),
        "state": attrgetter("state"),
        "createdAt": attrgetter("created_at"),
        "heartbeatAt": attrgetter("heartbeat_at"),
        "tags": attrgetter("tags"),
        "group": attrgetter("group"),
        "jobType": attrgetter("job_type"),
        "sweepName": attrgetter("sweep"),
        "user": attrgetter("user"),
        "notes": attrgetter("notes"),
        "description": attrgetter("description"),
        "commit": attrgetter("commit"),
        "host": attrgetter("host"),
        "readOnly": lambda run: False,
        "config": attrgetter("config"),
        "summaryMetrics": attrgetter("summary"),
        "systemMetrics": attrgetter("system_metrics"),
        "historyLineCount": attrgetter("history_line_count"),
        "historyKeys": lambda run: run.history.keys() if run.history_keys is ... else run.history_keys,
    },
    "User": {name: attrgetter(name) for name in ("id", "name", "username", "email", "admin", "entity")},
    "LogLineConnection": {name: itemgetter(name) for name in ("edges", "pageInfo")},
    "LogLineEdge": {name: itemgetter(name) for name in ("node", "cursor")},
    "PageInfo": {name: itemgetter(name) for name in ("startCursor", "endCursor", "hasNextPage")},
    "LogLine": {name: itemgetter(name) for name in ("number", "timestamp", "level", "label", "line")},
}

NESTED = {  # fields of PLAIN that are objects, with their types
    ("Run", "user"): "User",
    ("LogLineConnection", "edges"): "LogLineEdge",
    ("LogLineConnection", "pageInfo"): "PageInfo",
    ("LogLineEdge", "node"): "LogLine",
}


class Resolvers:
    """A method per field that is more than an attribute: `project_run_count` for Project.runCount."""

    def __init__(self, store: Store, faults: Faults, settings: Settings, signed: Callable[[str], str]) -> None:
        self.store = store
        self.faults = faults
        self.settings = settings
        self.signed = signed  # a path of the storage service → its signed URL

    def execute(self, question: Question, request: Request) -> tuple[Any, list[dict[str, Any]]]:
        """The answer's data and errors."""
        with self.store.lock:
            result = execute_sync(
                SCHEMA,
                question.document,
                context_value=request,
                variable_values=dict(question.variables),
                operation_name=question.name or None,
                field_resolver=self.resolve,
                executor_class=RunExecutor,
            )
        return result.data, [error.formatted for error in result.errors or ()]

    def resolve(self, source: Any, info, **arguments: Any) -> Any:
        kind, field = info.parent_type.name, info.field_name
        if info.context.watch_fields and (rule := self.rule_for(source, field, arguments)):
            if rule.action == "null":
                return None
            if rule.action == "error":
                raise GraphQLError(rule.message)
            page = getattr(self, snake(f"{kind}_{field}"))(source, **arguments)
            return page | {"edges": [*page["edges"], *page["edges"][: len(page["edges"]) > 1]]}
        if method := getattr(self, snake(f"{kind}_{field}"), None):
            return method(source, **arguments)
        if read := PLAIN.get(kind, {}).get(field):
            return read(source)
        return source.get(field) if isinstance(source, dict) else getattr(source, snake(field), None)

    def rule_for(self, source: Any, field: str, arguments: Mapping[str, Any]):
        """The fault for a field of a project or a run, or for the project or run that it looks up."""
        run = source if isinstance(source, Run) else None
        project = run.project if run else source if isinstance(source, Project) else None
        if field in {"project", "model", "models"} and project is None:
            entity = arguments.get("entity_name") or self.store.viewer.entity
            return self.faults.for_field(field, entity, arguments.get("name"), None)
        if project is None:
            return None
        run_id = run.id if run else arguments.get("name")
        return self.faults.for_field(field, project.entity, project.name, run_id)

    # Query

    def query_viewer(self, _):
        return self.store.viewer

    def query_server_info(self, _):
        return {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}

    def query_entity(self, _, name: str):
        return {"id": global_id("Entity", name), "name": name, "isTeam": True} if name in self.store.entities else None

    def query_models(self, _, entity_name=None, after=None, first=None):
        projects = list(self.store.entities.get(entity_name or self.store.viewer.entity, {}).values())
        return self.connection(projects, after, first)

    def query_project(self, _, name=None, entity_name=None):
        return self.store.project(entity_name, name)

    query_model = query_project

    def query_client_idmapping(self, _, client_id: str):
        found = [artifact for artifact in self.store.artifacts.values() if artifact.client_id == client_id]
        return {"serverID": found[0].id} if found else None

    def query_artifact(self, _, id: str):  # noqa: A002
        return self.store.artifacts.get(id)

    # User, Project

    def user_flags(self, user):
        return "{}"

    def user_teams(self, user):
        return {"edges": [{"node": {"id": global_id("Entity", name), "name": name}} for name in self.store.teams]}

    def user_api_keys(self, user):
        return {"edges": []}

    def project_internal_id(self, project: Project):
        return global_id("ProjectInternalId", project.number)

    def project_entity_name(self, project: Project):
        return project.entity

    def project_entity(self, project: Project):
        return {"id": global_id("Entity", project.entity), "name": project.entity}

    def project_is_benchmark(self, project: Project):
        return False

    project_read_only = project_is_benchmark

    def project_run_count(self, project: Project, filters=None):
        return len(project.select(filters, None))

    def project_runs(self, project: Project, filters=None, after=None, first=None, order=None):
        return self.connection(project.select(filters, order), after, first)

    def project_run(self, project: Project, name: str):
        return project.runs.get(name)

    def project_bucket(self, project: Project, name: str, *, missing_ok=False):
        if name not in project.runs and not missing_ok:
            raise GraphQLError(f"could not find run {name}")
        return project.runs.get(name)

    def project_total_sweeps(self, project: Project):
        return len(project.sweeps)

    def project_sweeps(self, project: Project, filters=None, after=None, first=None):
        return self.connection(list(project.sweeps.values()), after, first)

    def project_sweep(self, project: Project, sweep_name: str):
        return project.sweeps.get(sweep_name)

    def connection(
        self, nodes: Sequence[Any], after: str | None, first: int | None, limit: int | None = None
    ) -> dict[str, Any]:
        """A page of `nodes`; cursors are offsets, as W&B's were, so they shift when nodes come or go."""
        start = offset_of(after) + 1 if after else 0
        limit = self.settings.page_limit if limit is None else limit
        end = start + min(DEFAULT_PAGE if first is None else first, limit)
        edges = [{"node": node, "cursor": cursor_at(n)} for n, node in enumerate(nodes[start:end], start)]
        page_info = {
            "startCursor": edges[0]["cursor"] if edges else None,
            "endCursor": edges[-1]["cursor"] if edges else None,
            "hasNextPage": end < len(nodes),
        }
        return {"edges": edges, "pageInfo": page_info}

    # Run

    def run_wandb_config(self, run: Run, keys=None):
        inner = json.loads(run.config or "{}").get("_wandb", {}).get("value", {})
        return json.dumps({key: inner[key] for key in keys or inner if key in inner})

    def run_history(self, run: Run, min_step=None, max_step=None, samples=None):
        rows = run.history.rows(min_step or 0, max_step)
        return [json.dumps(row) for row in evenly(rows, DEFAULT_SAMPLES if samples is None else samples)]

    def run_sampled_history(self, run: Run, specs: list[str]):
        return [self.sampled(run, json.loads(spec)) for spec in specs]

    def sampled(self, run: Run, spec: Mapping[str, Any]):
        samples = spec.get("samples", DEFAULT_SAMPLES)
        return run.history.sampled(spec["keys"], spec.get("minStep", 0), spec.get("maxStep"), samples)

    def run_parquet_history(self, run: Run, live_keys: list[str]):
        urls = [self.signed(export_path(run, part)) for part in range(len(run.history.exports))]
        is_told = urls or self.settings.live_data_before_export
        return {"parquetUrls": urls[::-1], "liveData": run.history.live_data(live_keys) if is_told else []}

    def run_history_tail(self, run: Run):
        last = run.history.last_step
        return json.dumps([json.dumps(row) for row in run.history.rows(last)][-1:])

    def run_events(self, run: Run, samples=None):
        return evenly(run.events, DEFAULT_SAMPLES if samples is None else samples)

    def run_events_line_count(self, run: Run):
        return len(run.events)

    def run_events_tail(self, run: Run):
        return json.dumps(run.events[-1:])

    def run_log_line_count(self, run: Run):
        return len(run.log_lines)

    def run_log_lines(self, run: Run, first=None, last=None, after=None, *, use_improved_pagination=False):
        """Lines in pages from the start, or with `last` the newest ones; `line_limit` bounds both. Null without output.

        Without `useImprovedPagination` W&B ignores `first`, and takes `after` for an offset from the end.
        """
        settings, number = self.settings, len(run.log_lines)
        limit = settings.line_limit
        if use_improved_pagination and not settings.improved_pagination:
            raise GraphQLError('Unknown argument "useImprovedPagination" on field "logLines" of type "Run".')
        if not number:
            return None
        if last is None and use_improved_pagination:
            page = self.connection(range(number), after, first, min(limit, settings.line_budget or limit))
            page["pageInfo"]["hasNextPage"] &= not settings.line_budget
        else:
            skipped = offset_of(after) + 1 if after and last is None else 0
            end = max(number - skipped, 0)
            numbers = range(max(end - min(last or limit, limit), 0), end)
            page = self.connection(numbers, None, len(numbers), len(numbers))
            if last is None:
                end_cursor = cursor_at(skipped + len(numbers) - 1)
                page["pageInfo"] |= {"endCursor": end_cursor, "hasNextPage": numbers.start > 0}
        for edge in page["edges"]:
            edge["node"] = log_line(edge["node"], run.log_lines[edge["node"]])
        return page

    def run_file_count(self, run: Run):
        return len(run.files)

    def run_files(self, run: Run, names=None, pattern=None, after=None, first=None):
        found = [run.files[name] for name in sorted(run.files)]
        if names:
            found = [file for file in found if file.name in names]
        if pattern:
            like = re.escape(pattern).replace("%", ".*").replace("_", ".")
            found = [file for file in found if re.fullmatch(like, file.name, re.DOTALL)]
        return self.connection([self.file(run, file) for file in found], after, first)

    def file(self, run: Run, file: RunFile) -> dict[str, Any]:
        owner = f"{run.project.entity}/{run.project.name}/{run.id}"
        url = f"{self.settings.base_url}/files/{owner}/{file.name}"
        return self.stored(f"/storage/{owner}", file) | {"url": url}

    def stored(self, owner: str, file: RunFile) -> dict[str, Any]:
        """A file by the storage path of the run or artifact that it belongs to."""
        return {
            "id": global_id("File", owner, file.name),
            "name": file.name,
            "directUrl": self.signed(f"{owner}/{file.name}"),
            "sizeBytes": len(file.content),
            "mimetype": file.mimetype,
            "updatedAt": file.updated_at,
            "md5": file.md5,
        }

    # Artifact

    def project_artifact(self, project: Project, name: str):
        """The newest version of the artifact; `name` may end in an alias, all of which mean this one here."""
        asked = (project.entity, project.name, name.partition(":")[0])
        found = [each for each in self.store.artifacts.values() if (each.entity, each.project, each.name) == asked]
        return next((artifact for artifact in reversed(found) if artifact.state == "COMMITTED"), None)

    def artifact_artifact_type(self, artifact: Artifact):
        return {"name": artifact.kind}

    def artifact_artifact_sequence(self, artifact: Artifact):
        project = self.store.project(artifact.entity, artifact.project)
        return {"latestArtifact": self.project_artifact(project, artifact.name)}

    def artifact_current_manifest(self, artifact: Artifact):
        url = self.signed(f"/artifacts/{artifact.entity}/{artifact.project}/{artifact.number}/{MANIFEST}")
        file = {"id": global_id("File", artifact.id, MANIFEST), "directUrl": url, "uploadUrl": url, "uploadHeaders": []}
        return {"id": artifact.id, "file": file}

    def artifact_files(self, artifact: Artifact, names=None, after=None, first=None):
        found = [
            artifact.files[name] for name in sorted(artifact.files.keys() - {MANIFEST}) if name in (names or [name])
        ]
        owner = f"{artifact.entity}/{artifact.project}/{artifact.number}"
        return self.connection([self.stored(f"/artifacts/{owner}", file) for file in found], after, first)

    # Sweep

    def sweep_run_count(self, sweep: Sweep):
        return len(sweep.runs)

    def sweep_runs(self, sweep: Sweep, after=None, first=None):
        return self.connection(sweep.runs, after, first)

    # Mutation

    def mutation_upsert_model(self, _, input: Mapping[str, Any]):  # noqa: A002
        entity, name = input.get("entity_name") or self.store.viewer.entity, input["name"]
        inserted = self.store.project(entity, name) is None
        project = self.store.add_project(entity, name)
        return {"model": project, "project": project, "inserted": inserted}

    def mutation_upsert_bucket(self, _, input: Mapping[str, Any]):  # noqa: A002
        changes = {name: input.get(key) for key, name in RUN_CHANGES.items()}
        if input.get("id"):
            run = self.run_of_id(input["id"])
            change_run(run, changes)
            return {"bucket": run, "inserted": False}
        run_id = input.get("name") or secrets.token_hex(4)
        run, is_new = self.store.upsert_run(input.get("entity_name"), input.get("model_name"), run_id, changes)
        return {"bucket": run, "inserted": is_new}

    def mutation_delete_run(self, _, input: Mapping[str, Any]):  # noqa: A002
        self.store.delete_run(self.run_of_id(input["id"]))
        return {"clientMutationId": input.get("client_mutation_id")}

    def mutation_update_run_state(self, _, input: Mapping[str, Any]):  # noqa: A002
        change_run(self.run_of_id(input["id"]), {"state": input["state"]})
        return {"success": True}

    def run_of_id(self, storage_id: str) -> Run:
        if run := self.store.run_of_storage_id(storage_id):
            return run
        raise GraphQLError(f"could not find run {storage_id}")

    def mutation_create_run_files(self, _, input: Mapping[str, Any]):  # noqa: A002
        home = self.store.project(input["entity_name"], input["project_name"])
        run = home and home.runs.get(input["run_name"])
        if not run:
            raise GraphQLError(f"could not find run {input['run_name']}")
        prefix = f"/storage/{run.project.entity}/{run.project.name}/{run.id}"
        files = [{"name": name, "uploadUrl": self.signed(f"{prefix}/{name}")} for name in input["files"]]
        return {"runID": run.storage_id, "uploadHeaders": [], "files": files}

    def mutation_mark_run_files_uploaded(self, _, input: Mapping[str, Any]):  # noqa: A002
        return {"success": True}

    def mutation_create_artifact(self, _, input: Mapping[str, Any]):  # noqa: A002
        names = (
            "entity_name project_name artifact_collection_name artifact_type_name client_id sequence_client_id digest"
        )
        return {"artifact": self.store.add_artifact(*(input[name] for name in names.split()))}

    def mutation_create_artifact_manifest(self, _, input: Mapping[str, Any]):  # noqa: A002
        return {"artifactManifest": self.artifact_current_manifest(self.store.artifacts[input["artifact_id"]])}

    def mutation_update_artifact_manifest(self, _, input: Mapping[str, Any]):  # noqa: A002
        return {"artifactManifest": self.artifact_current_manifest(self.store.artifacts[input["artifact_manifest_id"]])}

    def mutation_create_artifact_files(self, _, input: Mapping[str, Any]):  # noqa: A002
        edges = []
        for file in input["artifact_files"]:
            artifact = self.store.artifacts[file["artifact_id"]]
            path = f"/artifacts/{artifact.entity}/{artifact.project}/{artifact.number}/{file['name']}"
            node = {"storagePath": path, "uploadUrl": self.signed(path), "uploadHeaders": [], "artifact": artifact}
            edges.append({"node": node})
        return {"files": {"edges": edges}}

    def mutation_commit_artifact(self, _, input: Mapping[str, Any]):  # noqa: A002
        artifact = self.store.artifacts[input["artifact_id"]]
        artifact.state = "COMMITTED"
        return {"artifact": artifact}


RUN_CHANGES = {  # the input of upsertBucket → the field of Run
    "group_name": "group",
    "display_name": "display_name",
    "description": "description",
    "notes": "notes",
    "commit": "commit",
    "config": "config",
    "host": "host",
    "job_type": "job_type",
    "state": "state",
    "sweep": "sweep",
    "tags": "tags",
    "summary_metrics": "summary",
}


def cursor_at(offset: int) -> str:
    return base64.b64encode(b"arrayconnection:%d" % offset).decode()


def offset_of(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor).removeprefix(b"arrayconnection:"))
    except ValueError as error:
        raise GraphQLError(f"invalid cursor {cursor!r}") from error


def export_path(run: Run, part: int) -> str:
    return f"/exports/{run.project.entity}/{run.project.name}/{run.id}/{part}.parquet"


def log_line(number: int, text: str) -> dict[str, Any]:
    """
    >>> log_line(0, "ERROR 2026-01-01T00:00:00.5 no such file")["line"]
    'no such file'
    """
    level, timestamp, line = LOG_LINE.fullmatch(text).groups()
    return {"number": number, "timestamp": timestamp, "level": level and "error", "label": None, "line": line}


# What the SDK sends for a line: stderr is marked, the time is UTC. Lines that hold neither came from older SDKs.
LOG_LINE = re.compile(r"(ERROR )?(?:(\d{4}-\d\d-\d\dT\S+) )?(.*)", re.DOTALL)
