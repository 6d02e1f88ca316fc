#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests>=2.32,<3", "rich>=15,<16", "urllib3>=2.3,<3"]
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
server set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private. A question that fails is asked again, up
to --retries times, until --timeout is over; when the server is busy, all questions wait as long as it asks for.

Exit codes: 0 all done; 1 nothing usable (no access, no such entity or project); 2 wrong usage; 3 some entities or
projects could not be read: the others are listed, these are named; 130 interrupted.
"""

from __future__ import annotations

import argparse
import configparser
import difflib
import fnmatch
import io
import itertools
import json
import math
import netrc
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    import requests
    import urllib3
    from rich.table import Table

# --- constants ------------------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

COUNTED_STATES = ("finished", "running", "failed", "crashed", "killed")
PROJECTS_PER_PAGE = 200  # as W&B's SDK asks for
PROJECTS_PER_QUESTION = 5  # seven numbers each: few requests, and none that keeps a database busy for long
WORKERS = 10  # as many requests as the SDK lets be under way
TIMEOUT_S = 20  # counting in a project of a million runs takes seconds; longer looks like a hang
RETRIES = 2

TABLE_LINES = 44  # of 80 characters: near 4 kB with what stands around them
NAME_WIDTH = 18  # what an 80-column table leaves for a name; longer ones take several lines

ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

# --- nouns ----------------------------------------------------------------------------------------------------

Say: TypeAlias = Callable[[str], None]
Parse: TypeAlias = Callable[[bytes], Any]
Subject = TypeVar("Subject")  # what a question is about
Found = TypeVar("Found")


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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


class Failure(NamedTuple):
    """What could not be listed, and why."""

    entity: str | None
    project: str | None
    error: str

    def __str__(self) -> str:
        return f"{'/'.join(filter(None, (self.entity, self.project)))}: {self.error}"


# --- the server: its address and the key ----------------------------------------------------------------------

CLOUD = "https://api.forge.coreweave.com"  # W&B's own server, unless something else is configured
FORGE = "forge.coreweave.com"  # where its pages are; the same server as api.wandb.ai
CLOUD_HOSTS = (FORGE, f"api.{FORGE}", "api.wandb.ai")
PAGE_HOSTS = (FORGE, "wandb.ai", "www.wandb.ai", "app.wandb.ai")
KEY_ADVICE = "copy it again from W&B's user settings (WANDB_API_KEY, `wandb login` or --api-key-file)"


def base_url() -> str:
    """The server's address, found as the SDK finds it, without a password, and without a slash at the end."""
    given = (os.environ.get("WANDB_BASE_URL") or sdk_setting("base_url") or CLOUD).strip().rstrip("/")
    try:
        url = urlsplit(given)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of a port or an IPv6 address
        is_url = False
    if is_url:
        url = url._replace(netloc=url.netloc.rpartition("@")[2])
    if not is_url or "@" in url.geturl():  # a part of a password that was not encoded
        raise ScriptError(f"WANDB_BASE_URL is unusable: it is no http or https URL, such as {CLOUD}", NOTHING_USABLE)
    if url.hostname == FORGE and (url.scheme, url.port, url.path) == ("https", None, "/api/wandb"):
        return CLOUD
    if url.hostname in PAGE_HOSTS:
        raise ScriptError(f"WANDB_BASE_URL is unusable: that is where the pages are; use {CLOUD}", NOTHING_USABLE)
    if url.hostname in CLOUD_HOSTS and url.scheme == "http":
        raise ScriptError(f"WANDB_BASE_URL is unusable: it would send the key unencrypted; use {CLOUD}", NOTHING_USABLE)
    return url.geturl()


def page_url(base_url: str) -> str:
    """Where the server at `base_url` shows its pages, without a slash at the end."""
    if given := os.environ.get("WANDB_APP_URL"):
        return re.sub("//.*@", "//", given).rstrip("/")  # without a password
    if urlsplit(base_url).hostname in CLOUD_HOSTS:
        return f"https://{FORGE}/wandb"
    return base_url.replace("://api.", "://" if "://api.wandb." in base_url else "://app.")


def sdk_setting(name: str) -> str | None:
    """A value from the SDK's settings files; the one of the working folder goes before the user's."""
    files = configparser.ConfigParser(interpolation=None)
    user, here = expanded(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"), os.environ.get("WANDB_DIR") or "."
    for folder in (user, expanded(here) / "wandb", expanded(here) / ".wandb"):
        with suppress(configparser.Error, UnicodeDecodeError):  # the SDK passes over what it cannot read, too
            files.read(folder / "settings", encoding="utf-8")
    return files.get("default", name, fallback=None)


def expanded(path: str) -> Path:
    """`path` with the home folder in place of `~`, where there is one: a container's user may have none."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser fails without a home)


def api_key(file: Path | None, base_url: str) -> str:
    """The API key for the server: from `file`, WANDB_API_KEY, netrc or the SDK's settings, the first that has one."""
    if file is not None:
        try:
            source, key = f"--api-key-file {file}", file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ScriptError(f"--api-key-file {file} cannot be read: {why}", NOTHING_USABLE) from error
        if not key:
            raise ScriptError(f"--api-key-file {file} is empty; it should hold the API key alone", NOTHING_USABLE)
    elif os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        raise ScriptError("identity tokens are not supported; unset WANDB_IDENTITY_TOKEN_FILE", NOTHING_USABLE)
    elif key := os.environ.get("WANDB_API_KEY", "").strip():
        source = "WANDB_API_KEY"
    elif key := netrc_key(base_url) or "":
        source = "the netrc file"
    elif key := sdk_setting("api_key") or "":
        source = "the SDK's settings file"
    else:
        how = "run `wandb login`, set WANDB_API_KEY or name a file with --api-key-file"
        raise ScriptError(f"no API key for {base_url}; {how}", NOTHING_USABLE)
    secret = key.partition("-")[2] or key  # keys of some servers have a prefix
    is_token = re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key)
    if not key.isascii() or not (is_token or re.fullmatch(r"[\w-]{40,}", secret)):
        wrong = f"{source} holds {len(key)} characters, a key has 40 or more letters and digits"
        raise ScriptError(f"unusable API key: {wrong}; {KEY_ADVICE}", NOTHING_USABLE)
    return key


def netrc_key(base_url: str) -> str | None:
    """What `wandb login` stored for the server; None if nothing, or nothing readable, is there."""
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    file = next((file for name in names if (file := expanded(name)).is_file()), None)
    hosts = [urlsplit(base_url).netloc]
    if hosts[0] in CLOUD_HOSTS:
        hosts.append("api.wandb.ai")
    with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        entries = netrc.netrc(file) if file else None
        found = [entries.authenticators(host) for host in hosts] if entries else []
        return next((entry[2] for entry in found if entry and entry[2]), None)
    return None


# --- the server: requests, in bounded time --------------------------------------------------------------------

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between two tries; doubles from the first to the second
LONGEST_RETRY_AFTER_S = 300.0  # a longer wait that a server asks for looks like a hang
LEAST_BYTES_S = 10_000  # a slower answer is given up once the timeout is over
PIECE_BYTES = 1 << 20
SIGN_IN_LIMIT_S = 6  # for the first question: a server that cannot be reached is named within 10 s


class RequestError(Exception):
    """A request that failed, and why, without its URL, which may be signed.

    `status` is the HTTP status, 0 without an answer; `retries` is how often trying again may help, 0 for never;
    `wait_s` is how long the server asks to wait.
    """

    def __init__(self, message: str, *, status: int = 0, retries: int = 100, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retries, self.wait_s = status, retries, wait_s
        self.attempts = 1


class Host:
    """A host that many threads ask over HTTP, with a key or without any credentials; when it is busy, all wait."""

    def __init__(self, key: str | None, *, timeout_s: float, retries: int, connections: int, say: Say) -> None:
        self.timeout_s, self.retries, self.say = timeout_s, retries, say
        self.session = http_session(key, connections)
        self.resume_at = 0.0  # by time.monotonic(): before it nobody asks
        self.failures = 0  # requests in a row that were given up without an answer
        self.most_failures = 2 * connections  # then the host counts as dead, and is asked no more
        self.stopped = threading.Event()  # ends all waits

    def pause_all(self, wait_s: float) -> None:
        resume_at = time.monotonic() + wait_s
        if wait_s >= 1 and resume_at > self.resume_at + 1:  # said once, not by each thread
            self.say(f"the server is busy: waiting {wait_s:.0f} s")
        self.resume_at = max(self.resume_at, resume_at)

    def wait(self, wait_s: float) -> None:
        if self.stopped.wait(wait_s):
            raise RequestError("interrupted", retries=0)

    def wait_while_paused(self) -> float:
        """Return once anybody may ask; how many seconds that took."""
        started = time.monotonic()
        while (wait_s := self.resume_at - time.monotonic()) > 0:
            self.wait(wait_s)
        return time.monotonic() - started


def request(host: Host, attempt: Callable[[float], Found], *, limit_s: float = math.inf, retries: int = 0) -> Found:
    """What `attempt(timeout_s)` returns: tried again after a RequestError, as long as that may help.

    A thread whose request fails waits by itself; after 429, 503 or Retry-After all threads wait, and that is not part
    of `limit_s`.
    """
    end = time.monotonic() + limit_s
    for number in itertools.count():
        end += host.wait_while_paused()
        if host.failures >= host.most_failures:
            raise RequestError("not asked, as the server no longer answers", retries=0)
        try:
            found = attempt(min(host.timeout_s, max(end - time.monotonic(), 0.1)))
        except RequestError as error:
            error.attempts = number + 1
            wait_s = max(error.wait_s, min(FIRST_WAIT_S * 2.0**number, LONGEST_WAIT_S))
            is_busy = error.wait_s > 0 or error.status in (429, 503)
            if is_busy:
                host.pause_all(wait_s)
            is_late = not is_busy and time.monotonic() + wait_s > end
            if is_late or number >= min(error.retries, max(host.retries, retries)):
                has_answered = 0 < error.status < 500 and error.status != 429
                host.failures = 0 if has_answered else host.failures + 1
                error.retries = 0  # whoever catches it need not try again
                raise
            if not is_busy:
                host.wait(wait_s)
        else:
            host.failures = 0
            return found
    raise AssertionError  # the loop has no other end


def http_session(key: str | None, connections: int) -> requests.Session:
    """A session with the key, or with no credentials at all: requests would add those that netrc has for a host."""
    session = requests.Session()
    session.headers["User-Agent"] = "wandb-tools"
    session.auth = ("api", key) if key else lambda request: request
    session.rebuild_auth = lambda *_: None  # type: ignore[method-assign]  # the same after a redirect
    session.verify = os.environ.get("SSL_CERT_FILE") or True  # then REQUESTS_CA_BUNDLE counts, if it is set
    if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        session.verify = False
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=connections))
    return session


def answer_pieces(session: requests.Session, method: str, url: str, timeout_s: float, **how: Any) -> Iterator[bytes]:
    """The body of a successful answer, piece by piece; how long it may take grows with how much has come."""
    started, received = time.monotonic(), 0
    try:
        with session.request(method, url, stream=True, timeout=timeout_s, verify=session.verify, **how) as answer:
            if answer.status_code >= 300:
                raise status_error(answer, answer.raw.read1(PIECE_BYTES, decode_content=True))
            while piece := answer.raw.read1(PIECE_BYTES, decode_content=True):
                yield piece
                received += len(piece)
                if time.monotonic() - started > timeout_s + received / LEAST_BYTES_S:
                    raise RequestError(f"{received:,} bytes in {round(timeout_s, 1):g} s are too slow")
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise RequestError(f"no answer within {round(timeout_s, 1):g} s") from error
    except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own are OSErrors
        cause: BaseException = error
        while deeper := cause.__cause__ or cause.__context__:
            cause = deeper
        why = getattr(cause, "strerror", None) or type(error).__name__  # more than that may hold a URL
        raise RequestError(f"the connection failed ({why})") from error


def status_error(answer: requests.Response, body: bytes) -> RequestError:
    """What an answer means that is no success, and whether to ask again."""
    status, stated = answer.status_code, ""
    with suppress(ValueError):  # W&B says more in JSON
        stated = stated_error(json.loads(body))
    message = f"{stated or answer.reason or 'an error'} (HTTP {status})"
    if status in (408, 429) or status >= 500:
        wait_s = min(retry_after_s(answer.headers.get("Retry-After")), LONGEST_RETRY_AFTER_S)
        return RequestError(message, status=status, wait_s=wait_s)
    return RequestError(message, status=status, retries=0)


def stated_error(answer: Any) -> str:
    """The first message among an answer's `errors`, on one line; empty without one."""
    with suppress(LookupError, TypeError):
        return " ".join(str(answer["errors"][0]["message"]).split())
    return ""


def retry_after_s(header: str | None) -> float:
    """The seconds that a Retry-After header asks to wait, given as such or as a date; 0 for none.

    >>> retry_after_s("7"), retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after_s(None)
    (7.0, 0.0, 0.0)
    """
    wait_s = 0.0
    try:
        wait_s = float(header or 0)
    except ValueError:
        with suppress(TypeError, ValueError):
            wait_s = (parsedate_to_datetime(str(header)) - datetime.now(UTC)).total_seconds()
    return wait_s if wait_s > 0 else 0.0  # not max(): the header may say NaN


class Api:
    """W&B's GraphQL at one address."""

    def __init__(self, base_url: str, key: str, *, timeout_s: float, retries: int, connections: int, say: Say) -> None:
        self.base_url, self.page_url = base_url, page_url(base_url)
        self.host = Host(key, timeout_s=timeout_s, retries=retries, connections=connections, say=say)

    def ask(self, question: str, variables: Mapping[str, object], parse: Parse = json.loads, **limits: Any) -> Any:
        """The `data` of the answer; RequestError without one. An error that GraphQL states is tried once more."""

        def attempt(timeout_s: float) -> Any:
            content = {"query": question, "variables": variables}
            url = f"{self.base_url}/graphql"
            pieces = answer_pieces(self.host.session, "POST", url, timeout_s, json=content, allow_redirects=False)
            try:
                answer = parse(b"".join(pieces))
            except ValueError as error:
                raise RequestError("an answer that is no JSON, or was cut short") from error
            if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
                raise RequestError(stated_error(answer) or "an answer without data", status=200, retries=1)
            return answer["data"]

        return request(self.host, attempt, **limits)


def sign_in(api: Api) -> Mapping[str, Any]:
    """W&B's `viewer`: the key's own user name and entity, and its teams. ScriptError without access."""
    question = "query Viewer { viewer { username entity teams { edges { node { name } } } } }"
    try:
        viewer = api.ask(question, {}, limit_s=min(api.host.timeout_s, SIGN_IN_LIMIT_S), retries=3).get("viewer")
    except RequestError as error:
        hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
        message = f"cannot sign in to {api.base_url}: {error}; {hint}"
        if error.status in (401, 403):
            message = f"{api.base_url} refuses the API key: {error}; {KEY_ADVICE}"
        elif error.status == 429 or error.status >= 500:
            message = f"{api.base_url} is too busy to let anyone in: {error}; try again later"
        elif 300 <= error.status < 400:
            message = f"{api.base_url} sends questions elsewhere: {error}; set WANDB_BASE_URL to the address meant"
        raise ScriptError(message, NOTHING_USABLE) from error
    return viewer or {"username": None, "entity": None, "teams": None}


# --- questions side by side ------------------------------------------------------------------------------------


def side_by_side(
    threads: ThreadPoolExecutor, ask: Callable[[Subject], list[Found]], subjects: Sequence[Subject]
) -> Iterator[tuple[Subject, list[Found] | RequestError]]:
    """Each of `subjects`, in their order, with what `ask` finds for it, or the error instead."""

    def attempt(subject: Subject) -> list[Found] | RequestError:
        try:
            return ask(subject)
        except RequestError as error:
            return error

    return zip(subjects, threads.map(attempt, subjects), strict=True)


# --- entities and their projects ------------------------------------------------------------------------------

PROJECTS = """
query Projects($entity: String!, $cursor: String, $first: Int) {
  entity(name: $entity) { name }
  models(entityName: $entity, after: $cursor, first: $first) {
    edges { node { name createdAt } }
    pageInfo { endCursor hasNextPage }
  }
}
"""


def visible_entities(viewer: Mapping[str, Any]) -> tuple[str, ...]:
    """The key's own entity, then its teams, each once: W&B may list the own one among the teams."""
    teams = [edge["node"]["name"] for edge in (viewer["teams"] or {"edges": ()})["edges"]]
    return tuple(dict.fromkeys(name for name in (viewer["entity"], *teams) if name))


def projects_of(api: Api, entity: str, visible: Sequence[str]) -> list[Project]:
    """All projects of one entity, each once; RequestError if the key cannot see the entity."""
    found: dict[str, Project] = {}
    cursor, more = None, True
    while more:
        variables = {"entity": entity, "cursor": cursor, "first": PROJECTS_PER_PAGE}
        answer = api.ask(PROJECTS, variables, limit_s=api.host.timeout_s)
        page = answer["models"]
        if answer["entity"] is None or page is None:
            raise RequestError(f"no entity that this key can see{did_you_mean(entity, visible)}", retries=0)
        for edge in page["edges"]:
            node = edge["node"]
            found[node["name"]] = Project(entity, node["name"], moment_in(node["createdAt"]))
        cursor, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"] and page["edges"]
    return list(found.values())


def chosen(projects: Sequence[Project], globs: Sequence[str]) -> tuple[list[Project], list[Failure]]:
    """The projects that match one of `globs` (none: all), and the globs that match none."""
    names = {project.name for project in projects}
    kept = [project for project in projects if not globs or any(matches(project.name, glob) for glob in globs)]
    idle = [glob for glob in globs if not any(matches(name, glob) for name in names)]
    return kept, [Failure(None, glob, f"no such project here{did_you_mean(glob, names)}") for glob in idle]


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- projects and their runs ----------------------------------------------------------------------------------


def counted_runs(api: Api, threads: ThreadPoolExecutor, projects: Sequence[Project]) -> tuple[list[Row], list[Failure]]:
    """A row for each project, and the projects whose runs could not be counted.

    Several projects share a question. One odd project spoils its question, so those are asked for again, one by one.
    """
    rows: list[Row] = []
    again: list[Project] = []
    failures = []
    groups = [projects[n : n + PROJECTS_PER_QUESTION] for n in range(0, len(projects), PROJECTS_PER_QUESTION)]
    for group, found in side_by_side(threads, lambda group: rows_for(api, group), groups):
        if isinstance(found, RequestError):
            again += group
        else:
            rows += found
    for project, found in side_by_side(threads, lambda project: rows_for(api, [project]), again):
        if isinstance(found, RequestError):
            failures.append(Failure(project.entity, project.name, str(found)))
        else:
            rows += found
    return rows, failures


def rows_for(api: Api, projects: Sequence[Project]) -> list[Row]:
    """The rows of a few projects, from one question; RequestError if the server fails for any of them."""
    variables: dict[str, object] = {}
    for n, project in enumerate(projects):
        variables |= {f"entity{n}": project.entity, f"project{n}": project.name}
    counts = api.ask(counting_question(len(projects)), variables, limit_s=api.host.timeout_s)
    if None in counts.values():
        raise RequestError("the server lists this project but does not find it")
    try:
        return [row_of(project, counts[f"p{n}"], api.page_url) for n, project in enumerate(projects)]
    except (KeyError, TypeError) as error:
        raise RequestError(f"an answer that cannot be understood: {error!r}") from error


def counting_question(projects: int) -> str:
    """GraphQL that counts the runs of so many projects; names are variables, never part of the text."""
    numbers = range(projects)
    filters = {state: json.dumps(json.dumps({"state": state})) for state in COUNTED_STATES}  # JSON in a string
    by_state = [f"{state}: runCount(filters: {text})" for state, text in filters.items()]
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


def row_of(project: Project, counts: Mapping[str, Any], page_url: str) -> Row:
    """A project with the server's answer about it."""
    latest = [edge["node"] for edge in counts["latest"]["edges"]]
    return Row(
        entity=project.entity,
        project=project.name,
        runs=counts["runs"],
        **{state: counts[state] for state in COUNTED_STATES},
        created_at=project.created_at,
        last_active=moment_in(latest[0]["heartbeatAt"] or latest[0]["createdAt"]) if latest else None,
        url=f"{page_url}/{quote(project.entity, safe='')}/{quote(project.name, safe='')}",
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


def for_programs(rows: Sequence[Row], failures: Sequence[Failure], max_rows: int | None) -> str:
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
    lines = itertools.accumulate(1 + len(row.entity + "/" + row.project) // NAME_WIDTH for row in rows)
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
        "--workers", type=positive, default=WORKERS, metavar="N", help="questions at a time (default: %(default)s)"
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
        workers=args.workers,
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


def comma_separated(values: Sequence[str] | None) -> tuple[str, ...]:
    """The values of a flag that repeats or takes commas.

    >>> comma_separated(["a,b", "c"])
    ('a', 'b', 'c')
    """
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


# --- the whole ------------------------------------------------------------------------------------------------


def import_libraries() -> None:
    """Import what takes time: once there is a key, before any thread starts."""
    global requests, urllib3
    import requests
    import urllib3


def list_projects(options: Options) -> int:
    """From the key to the table; the exit code says whether all could be read."""
    say = speaker(quiet=options.quiet)
    address = base_url()
    key = api_key(options.api_key_file, address)
    import_libraries()
    api = Api(address, key, timeout_s=options.timeout_s, retries=options.retries, connections=options.workers, say=say)
    threads = ThreadPoolExecutor(options.workers)
    try:
        rows, failures = listed(api, threads, options, say)
    finally:
        api.host.stopped.set()
        threads.shutdown(wait=False, cancel_futures=True)
    show(for_programs(rows, failures, options.max_rows) if options.json else for_people(rows, options.max_rows))
    for failure in failures:
        print(printable(f"error: {failure}"), file=sys.stderr)
    return PARTIAL if failures else OK


def listed(api: Api, threads: ThreadPoolExecutor, options: Options, say: Say) -> tuple[list[Row], list[Failure]]:
    """The rows asked for, in order, and what failed; ScriptError if there is no row."""
    visible = visible_entities(sign_in(api))
    entities = tuple(dict.fromkeys(options.entities)) or visible
    projects: list[Project] = []
    failures: list[Failure] = []
    for entity, found in side_by_side(threads, lambda entity: projects_of(api, entity, visible), entities):
        if isinstance(found, RequestError):
            failures.append(Failure(entity, None, str(found)))
        else:
            projects += found
    wanted, unmatched = chosen(projects, options.projects)
    if wanted:
        say(f"counting the runs of {counted(len(wanted), 'project')} in {', '.join(entities)}")
    rows, uncounted = counted_runs(api, threads, wanted)
    failures += [*unmatched, *uncounted]
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


def show(text: str) -> None:
    """Print to stdout; nobody has to read it: a closed pipe (`| head`) does not change how the script ends."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    exit_code = main()
    if exit_code == INTERRUPTED:
        os._exit(exit_code)  # threads may still wait for the server, and nobody waits for them
    raise SystemExit(exit_code)
