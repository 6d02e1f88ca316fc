#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["rich>=15,<16", "wandb>=0.31,<0.32"]
# ///
"""List what a W&B key can see: entities, their projects, and each project's runs by state.

  uv run wandb-tools/list_entities.py                               all entities of the key: the user's own and teams
  uv run wandb-tools/list_entities.py -e my-team -p 'graph*,denoising' --sort runs
  uv run wandb-tools/list_entities.py --json | jq -r '.projects[] | select(.running > 0) | .entity + "/" + .project'

One row per project: its runs, how many of them are finished, running, failed, crashed or killed, when it was
created and when a run of it last showed activity (UTC). The server counts; no run is downloaded. Runs in other
states, such as preempted, count among the runs alone. In a terminal, a project's name links to its page.

With --json, stdout carries one object instead of the table: version, projects (entity, project, runs, finished,
running, failed, crashed, killed, created_at, last_active, url) and failed (entity, project, error). The table stays
near 4 kB and says how many projects it leaves out; --max-rows 0 shows all.

The API key comes from WANDB_API_KEY, `wandb login` or --api-key-file, never from an argument. For a self-hosted
server set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private. An answer that takes longer than
--timeout is given up; a busy server is asked again within that time, up to --retries times.

Exit codes: 0 all done; 1 nothing usable (no access, no such entity or project); 2 wrong usage; 3 some entities or
projects could not be read: the others are listed, these are named; 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import importlib
import io
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    import wandb
    from pydantic import ValidationError
    from rich.table import Table
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

CONNECT_LIMIT_S = 6  # with `import wandb` before it, a server that cannot be reached is named within 10 s
DISCONNECT_LIMIT_S = 1  # a hundred times what it takes
RETRY_WAIT_MIN_S, RETRY_WAIT_MAX_S = 1, 2  # the SDK takes whole seconds; doubles from the first to the second
REFUSED = (401, 403)  # HTTP statuses that mean the key
BUSY = re.compile(r"HTTP (429|5\d\d)")  # in the SDK's words, of a server that lives
SIGN_IN_WAITS_S = (1, 2)  # before further tries

COUNTED_STATES = ("finished", "running", "failed", "crashed", "killed")
PROJECTS_PER_PAGE = 200  # as the SDK asks for
PROJECTS_PER_QUESTION = 5  # seven numbers each: few requests, and none that keeps a database busy for long
MOST_WORKERS = 10  # the SDK lets no more requests be under way
TIMEOUT_S = 20  # counting in a project of a million runs takes seconds; longer looks like a hang
RETRIES = 2  # after 1 and 2 s
SLOW_FAILURE_S = 1  # what takes longer to fail was retried, or got no answer
MOST_SLOW_FAILURES = 20  # in a row, before the server counts as gone: else 1,000 projects would take half an hour

TABLE_LINES = 44  # of 80 characters: near 4 kB with what stands around them
NAME_WIDTH = 18  # what an 80-column table leaves for a name; longer ones take several lines

ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

# --- nouns ----------------------------------------------------------------------------------------------------

Say: TypeAlias = Callable[[str], None]
Subject = TypeVar("Subject")  # what a question is about
Found = TypeVar("Found")


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


class Options(NamedTuple):
    """The command line, checked."""

    entities: tuple[str, ...]  # none: all that the key can see
    projects: tuple[str, ...]  # globs; none: all
    sort: str
    max_rows: int | None  # 0: all
    api_key_file: Path | None
    timeout_s: int
    retries: int
    workers: int
    json: bool
    quiet: bool


class Project(NamedTuple):
    """A project by its name, before anything is counted."""

    entity: str
    name: str
    created_at: datetime | None


class Row(NamedTuple):
    """A project with its runs: a line of the table, an object of the JSON."""

    entity: str
    project: str
    runs: int
    finished: int
    running: int
    failed: int
    crashed: int
    killed: int
    created_at: datetime | None
    last_active: datetime | None
    url: str


class Unlisted(NamedTuple):
    """What could not be listed, and why."""

    entity: str | None
    project: str | None
    error: str

    def __str__(self) -> str:
        return f"{'/'.join(filter(None, (self.entity, self.project)))}: {self.error}"


# --- the server -----------------------------------------------------------------------------------------------


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


# --- questions side by side ------------------------------------------------------------------------------------


class Questions:
    """Questions to one server, several at a time; they end at once when the server has long stopped answering."""

    def __init__(self, api: wandb.Api, pool: ThreadPoolExecutor, timeout_s: int) -> None:
        self.api = api
        self.pool = pool
        self.timeout_s = timeout_s
        self.slow_failures = 0  # in a row

    def ask(self, question: str, variables: Mapping[str, object]) -> Any:
        """The answer as JSON; QueryError if there is none."""
        if self.slow_failures >= MOST_SLOW_FAILURES:
            raise QueryError("not asked, as the server no longer answers")
        asked_at = time.monotonic()
        try:
            answer = query(self.api, question, variables, timeout_s=self.timeout_s)
        except QueryError:
            self.slow_failures += time.monotonic() - asked_at > SLOW_FAILURE_S
            raise
        self.slow_failures = 0
        return json.loads(answer)

    def ask_twice(self, question: str, variables: Mapping[str, object]) -> Any:
        """As `ask`, but a failure counts only if it comes again: the SDK tries no second time after a torn answer."""
        try:
            return self.ask(question, variables)
        except QueryError:
            return self.ask(question, variables)

    def side_by_side(
        self, ask: Callable[[Subject], list[Found]], subjects: Sequence[Subject]
    ) -> Iterator[tuple[Subject, list[Found] | QueryError]]:
        """Each of `subjects`, in their order, with what `ask` finds for it, or the error instead."""

        def attempt(subject: Subject) -> list[Found] | QueryError:
            try:
                return ask(subject)
            except QueryError as error:
                return error

        return zip(subjects, self.pool.map(attempt, subjects), strict=True)


@contextmanager
def worker_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that nobody waits for when the block ends early: what they still ask ends with the connection."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# --- entities and their projects ------------------------------------------------------------------------------

ENTITIES = "query Entities { viewer { entity teams { edges { node { name } } } } }"
PROJECTS = """
query Projects($entity: String!, $cursor: String, $first: Int) {
  entity(name: $entity) { name }
  models(entityName: $entity, after: $cursor, first: $first) {
    edges { node { name createdAt } }
    pageInfo { endCursor hasNextPage }
  }
}
"""


def visible_entities(questions: Questions) -> tuple[str, ...]:
    """The key's own entity, then its teams, each once: W&B may list the own one among the teams."""
    viewer = questions.ask_twice(ENTITIES, {})["viewer"] or {"entity": None, "teams": None}
    teams = [edge["node"]["name"] for edge in (viewer["teams"] or {"edges": ()})["edges"]]
    return tuple(dict.fromkeys(name for name in (viewer["entity"], *teams) if name))


def projects_of(questions: Questions, entity: str) -> list[Project]:
    """All projects of one entity, each once; QueryError if the key cannot see the entity."""
    found: dict[str, Project] = {}
    cursor, more = None, True
    while more:
        variables = {"entity": entity, "cursor": cursor, "first": PROJECTS_PER_PAGE}
        answer = questions.ask_twice(PROJECTS, variables)
        page = answer["models"]
        if answer["entity"] is None or page is None:
            near = did_you_mean(entity, visible_entities(questions))
            raise QueryError(f"no entity that this key can see{near}")
        for edge in page["edges"]:
            node = edge["node"]
            found[node["name"]] = Project(entity, node["name"], moment_in(node["createdAt"]))
        cursor, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"] and page["edges"]
    return list(found.values())


def all_projects(questions: Questions, entities: Sequence[str]) -> tuple[list[Project], list[Unlisted]]:
    """The projects of all `entities`, and the entities that could not be read."""
    projects: list[Project] = []
    failures = []
    for entity, found in questions.side_by_side(lambda entity: projects_of(questions, entity), entities):
        if isinstance(found, QueryError):
            failures.append(Unlisted(entity, None, str(found)))
        else:
            projects += found
    return projects, failures


def chosen(projects: Sequence[Project], globs: Sequence[str]) -> tuple[list[Project], list[Unlisted]]:
    """The projects that match one of `globs` (none: all), and the globs that match none."""
    names = {project.name for project in projects}
    kept = [project for project in projects if not globs or any(matches(project.name, glob) for glob in globs)]
    idle = [glob for glob in globs if not any(matches(name, glob) for name in names)]
    return kept, [Unlisted(None, glob, f"no such project here{did_you_mean(glob, names)}") for glob in idle]


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- projects and their runs ----------------------------------------------------------------------------------


def counted_runs(questions: Questions, projects: Sequence[Project]) -> tuple[list[Row], list[Unlisted]]:
    """A row for each project, and the projects whose runs could not be counted.

    Several projects share a question. One odd project spoils its question, so those are asked for again, one by one.
    """
    rows: list[Row] = []
    again: list[Project] = []
    failures = []
    groups = [projects[n : n + PROJECTS_PER_QUESTION] for n in range(0, len(projects), PROJECTS_PER_QUESTION)]
    for group, found in questions.side_by_side(lambda group: rows_for(questions, group), groups):
        if isinstance(found, QueryError):
            again += group
        else:
            rows += found
    for project, found in questions.side_by_side(lambda project: rows_for(questions, [project]), again):
        if isinstance(found, QueryError):
            failures.append(Unlisted(project.entity, project.name, str(found)))
        else:
            rows += found
    return rows, failures


def rows_for(questions: Questions, projects: Sequence[Project]) -> list[Row]:
    """The rows of a few projects, from one question; QueryError if the server fails for any of them."""
    variables: dict[str, object] = {}
    for n, project in enumerate(projects):
        variables |= {f"entity{n}": project.entity, f"project{n}": project.name}
    counts = questions.ask(counting_question(len(projects)), variables)
    if None in counts.values():
        raise QueryError("the server lists this project but does not find it")
    try:
        return [row_of(project, counts[f"p{n}"]) for n, project in enumerate(projects)]
    except (KeyError, TypeError) as error:
        raise QueryError(f"an answer that cannot be understood: {error!r}") from error


def counting_question(projects: int) -> str:
    """GraphQL that counts the runs of so many projects; names are variables, never part of the text."""
    numbers = range(projects)
    by_state = [f"{state}: runCount(filters: {in_quotes({'state': state})})" for state in COUNTED_STATES]
    return f"""
query Counts({", ".join(f"$entity{n}: String, $project{n}: String" for n in numbers)}) {{
  {" ".join(f"p{n}: project(entityName: $entity{n}, name: $project{n}) {{ ...Counts }}" for n in numbers)}
}}
fragment Counts on Project {{
  runs: runCount
  {" ".join(by_state)}
  latest: runs(first: 1, order: "-heartbeat_at") {{ edges {{ node {{ createdAt heartbeatAt }} }} }}
}}
"""


def in_quotes(filters: Mapping[str, str]) -> str:
    """A filter as GraphQL takes it: JSON in a string."""
    return json.dumps(json.dumps(filters))


def row_of(project: Project, counts: Mapping[str, Any]) -> Row:
    """A project with the server's answer about it."""
    latest = [edge["node"] for edge in counts["latest"]["edges"]]
    return Row(
        entity=project.entity,
        project=project.name,
        runs=counts["runs"],
        **{state: counts[state] for state in COUNTED_STATES},
        created_at=project.created_at,
        last_active=moment_in(latest[0]["heartbeatAt"] or latest[0]["createdAt"]) if latest else None,
        url=f"{app_url()}/{quote(project.entity, safe='')}/{quote(project.name, safe='')}",
    )


def moment_in(text: str | None) -> datetime | None:
    """The server's ISO text as a moment, UTC where it names no zone; None where it is no time.

    >>> moment_in("2026-01-15T12:00:00").isoformat()
    '2026-01-15T12:00:00+00:00'
    """
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def sorted_rows(rows: Iterable[Row], sort: str) -> list[Row]:
    """`rows` with the most runs first, the newest first, or by name; ties by name, case ignored."""
    keys: dict[str, Callable[[Row], float]] = {
        "active": lambda row: newest_first(row.last_active),
        "created": lambda row: newest_first(row.created_at),
        "name": lambda _: 0,
        "runs": lambda row: -row.runs,
    }
    first = keys[sort]
    return sorted(rows, key=lambda row: (first(row), row.entity.lower(), row.project.lower(), row.entity, row.project))


def newest_first(moment: datetime | None) -> float:
    """A sort key: what has no time comes last."""
    return -moment.timestamp() if moment else math.inf


# --- what is shown --------------------------------------------------------------------------------------------


def for_programs(rows: Sequence[Row], failures: Sequence[Unlisted], max_rows: int | None) -> str:
    """The answer for programs: all of it, unless they ask for less."""
    projects = [row._asdict() for row in rows[: max_rows or None]]
    return json_text({"version": 1, "projects": projects, "failed": [failure._asdict() for failure in failures]})


def for_people(rows: Sequence[Row], max_rows: int | None) -> str:
    """The answer for people: a table, as wide as the terminal at most, and what it leaves out."""
    from rich.console import Console  # 0.1 s that JSON does without
    from rich.text import Text

    shown = rows_that_fit(rows) if max_rows is None else rows[: max_rows or None]
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table_of(shown))
        if left_out := len(rows) - len(shown):
            console.print(Text(f"{counted(left_out, 'more project')}: --max-rows 0 shows all, --json too", style="dim"))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def rows_that_fit(rows: Sequence[Row]) -> Sequence[Row]:
    """As many of the first rows as a screen or a context window welcomes."""
    lines = accumulate(1 + len(row.entity + "/" + row.project) // NAME_WIDTH for row in rows)
    return rows[: sum(line <= TABLE_LINES for line in lines)]


def table_of(rows: Sequence[Row]) -> Table:
    """A table of rich; names are Text, never markup."""
    from rich.box import SIMPLE_HEAD  # draws one blank between columns
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("project", overflow="fold")
    for heading in ("runs", "fin.", "running", "failed", "crash", "kill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("created", "active"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        name = Text(printable(f"{row.entity}/{row.project}"), style=Style(link=row.url))
        numbers = [str(count) for count in (row.runs, *(getattr(row, state) for state in COUNTED_STATES))]
        table.add_row(name, *numbers, day(row.created_at), day(row.last_active))
    return table


def day(moment: datetime | None) -> str:
    return moment.astimezone(UTC).date().isoformat() if moment else ""


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# --- streams --------------------------------------------------------------------------------------------------


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
    """The command line as Options; the only place that knows argparse."""
    parser = Parser(__doc__ or "")
    which = parser.add_argument_group("which projects (flags repeat or take commas)")
    entities = which.add_mutually_exclusive_group()
    entities.add_argument("-e", "--entity", action="append", metavar="NAME", help="only this entity")
    entities.add_argument("--discover", action="store_true", help="every entity that the key can see (the default)")
    which.add_argument("-p", "--project", action="append", metavar="GLOB", help="only projects like this, in any case")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--sort", choices=("active", "created", "name", "runs"), default="active", help="default: %(default)s"
    )
    shown.add_argument("--max-rows", type=not_negative, metavar="N", help="at most N projects (0: all)")
    shown.add_argument("--json", action="store_true", help="one JSON object on stdout, with all projects")
    shown.add_argument("--quiet", action="store_true", help="only errors on stderr")
    shown.add_argument("--debug", action="store_true", help="show the traceback of an error")
    server = parser.add_argument_group("server")
    server.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds the API key alone")
    server.add_argument(
        "--timeout", type=positive, default=TIMEOUT_S, metavar="S", help="seconds for an answer (default: %(default)s)"
    )
    server.add_argument(
        "--retries", type=positive, default=RETRIES, metavar="N", help="of a busy server (default: %(default)s)"
    )
    server.add_argument(
        "--workers",
        type=positive,
        default=MOST_WORKERS,
        metavar="N",
        help="questions at a time (default, and at most: %(default)s)",
    )
    args = parser.parse_strictly(argv)
    return Options(
        entities=comma_separated(args.entity),
        projects=comma_separated(args.project),
        sort=args.sort,
        max_rows=args.max_rows,
        api_key_file=args.api_key_file,
        timeout_s=args.timeout,
        retries=args.retries,
        workers=min(args.workers, MOST_WORKERS),
        json=args.json,
        quiet=args.quiet,
    )


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


# --- the whole ------------------------------------------------------------------------------------------------


def list_projects(options: Options) -> int:
    """From the key to the table; the exit code says whether all could be read."""
    say = speaker(quiet=options.quiet)
    with (
        connected(options.api_key_file, timeout_s=options.timeout_s, retries=options.retries) as api,
        worker_threads(options.workers) as pool,
    ):
        rows, failures = listed(Questions(api, pool, options.timeout_s), options, say)
    print(for_programs(rows, failures, options.max_rows) if options.json else for_people(rows, options.max_rows))
    for failure in failures:
        print(printable(f"error: {failure}"), file=sys.stderr)
    return PARTIAL if failures else OK


def listed(questions: Questions, options: Options, say: Say) -> tuple[list[Row], list[Unlisted]]:
    """The rows asked for, in order, and what failed; ScriptError if there is no row."""
    try:
        entities = tuple(dict.fromkeys(options.entities)) or visible_entities(questions)
    except QueryError as error:
        raise ScriptError(
            f"the server does not say what the key can see: {error}; try again, or name entities with -e",
            NOTHING_USABLE,
        ) from error
    projects, unread = all_projects(questions, entities)
    wanted, unmatched = chosen(projects, options.projects)
    if wanted:
        say(f"counting the runs of {counted(len(wanted), 'project')} in {', '.join(entities)}")
    rows, uncounted = counted_runs(questions, wanted)
    failures = [*unread, *unmatched, *uncounted]
    if not rows:
        others = f" (and {counted(len(failures) - 1, 'more failure')})" if len(failures) > 1 else ""
        why = f"{failures[0]}{others}" if failures else "no projects there; name another entity with -e"
        raise ScriptError(why, NOTHING_USABLE)
    return sorted_rows(rows, options.sort), failures


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
    return guarded(lambda: list_projects(parse_args(argv)), debug="--debug" in (sys.argv if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())
