#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests>=2.30,<3", "rich>=12,<16", "urllib3>=2.2,<3"]
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

The API key comes from --api-key-file, WANDB_API_KEY or `wandb login`, never from an argument. For a self-hosted
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    import requests
    import urllib3

# --- constants and nouns --------------------------------------------------------------------------------------

OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

PROJECTS_PER_PAGE = 200  # as W&B's SDK asks for
PROJECTS_PER_QUESTION = 5  # seven numbers each: few requests, and none that keeps a database busy for long
TABLE_LINES = 44  # of 80 characters: near 4 kB with what stands around them
NAME_WIDTH = 18  # what an 80-column table leaves for a name; longer ones take several lines
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

Say: TypeAlias = Callable[[str], None]
Parse: TypeAlias = Callable[[bytes], Any]
Found = TypeVar("Found")


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Options(NamedTuple):
    """The command line, checked."""

    entity: Sequence[str]  # none: all that the key can see
    discover: bool
    project: Sequence[str]  # globs; none: all
    sort: str
    max_rows: int | None  # 0: all; None: as many as fit a screen
    json: bool
    quiet: bool
    debug: bool
    api_key_file: Path | None
    timeout: int  # seconds
    retries: int
    workers: int


@dataclass
class Project:
    """A project: a line of the table, an object of the JSON. First its name is known, then its runs are counted."""

    entity: str
    project: str
    runs: int = 0
    finished: int = 0
    running: int = 0
    failed: int = 0
    crashed: int = 0
    killed: int = 0
    created_at: datetime | None = None
    last_active: datetime | None = None
    url: str = ""


class Failure(NamedTuple):
    """An entity, project or glob that could not be listed, and why."""

    entity: str | None
    project: str | None
    error: str

    def __str__(self) -> str:
        return f"{'/'.join(filter(None, self[:2]))}: {self.error}"


# --- the server: its address and the key ----------------------------------------------------------------------

FORGE = "forge.coreweave.com"  # W&B's own server
CLOUD_HOSTS = (f"api.{FORGE}", "api.wandb.ai")  # where it answers questions
PAGE_HOSTS = (FORGE, "wandb.ai", "www.wandb.ai", "app.wandb.ai")  # where its pages are, or were
CLOUD_URL = f"https://api.{FORGE}"


def base_url() -> str:
    """The server's address, found as the SDK finds it, without a password, and without a slash at the end."""
    given = (os.environ.get("WANDB_BASE_URL") or sdk_setting("base_url") or CLOUD_URL).strip().rstrip("/")
    url = re.fullmatch(r"(https?://)(?:[^/]*@)?([^/@?#\s]+)([^@?#\s]*)", given)
    if url is None or (url[1] == "http://" and url[2] in CLOUD_HOSTS):
        raise ScriptError(f"WANDB_BASE_URL is unusable; write a server's URL, such as {CLOUD_URL}", NOTHING_USABLE)
    return CLOUD_URL if url[2] in PAGE_HOSTS else "".join(url.groups())


def page_url(base_url: str) -> str:
    """Where the server at `base_url` shows its pages, without a slash at the end."""
    if given := os.environ.get("WANDB_APP_URL"):
        return re.sub("//.*@", "//", given).rstrip("/")  # without a password
    if base_url.partition("://")[2] in CLOUD_HOSTS:
        return f"https://{FORGE}/wandb"
    return base_url.replace("://api.", "://" if "://api.wandb." in base_url else "://app.")


def sdk_setting(name: str) -> str | None:
    """A value from the SDK's settings files; the one of the working folder goes before the user's."""
    files = configparser.ConfigParser(interpolation=None)
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for file in (f"{user}/settings", "wandb/settings", ".wandb/settings"):
        with suppress(configparser.Error, UnicodeDecodeError):  # the SDK passes over what it cannot read, too
            files.read(os.path.expanduser(file), encoding="utf-8")  # noqa: PTH111 - there may be no home
    return files.get("default", name, fallback=None)


def netrc_key(base_url: str) -> str | None:
    """What `wandb login` stored for the server; None if nothing, or nothing readable, is there."""
    host = base_url.partition("://")[2].partition("/")[0]
    for file in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            entries = netrc.netrc(os.path.expanduser(file))  # noqa: PTH111 - there may be no home
            for name in (host, "api.wandb.ai") if host in CLOUD_HOSTS else (host,):
                if (entry := entries.authenticators(name)) and entry[2]:
                    return entry[2]
    return None


def api_key(file: Path | None, base_url: str) -> str:
    """The API key for the server: from `file`, WANDB_API_KEY, netrc or the SDK's settings, the first that has one."""
    if not file and os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        how = "unset it and give a key with WANDB_API_KEY or --api-key-file"
        raise ScriptError(f"WANDB_IDENTITY_TOKEN_FILE is set, which is not supported; {how}", NOTHING_USABLE)
    try:
        found = file.read_text("utf-8") if file else os.environ.get("WANDB_API_KEY", "").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "it is no text")
        raise ScriptError(f"--api-key-file {file} cannot be read: {why}", NOTHING_USABLE) from error
    key = (found or (not file and (netrc_key(base_url) or sdk_setting("api_key"))) or "").strip()
    if not re.fullmatch(r"[\w-]{40,}|([\w-]+\.){2}[\w-]+", key, re.ASCII):
        what = (
            f"unusable API key (of {len(key)} characters, not 40 or more letters and digits)" if key else "no API key"
        )
        where = f"in {file}" if file else f"for {base_url}"
        how = "run `wandb login`, set WANDB_API_KEY or name a file with --api-key-file"
        raise ScriptError(f"{what} {where}; {how}", NOTHING_USABLE)
    return key


# --- the server: requests, in bounded time --------------------------------------------------------------------

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between two tries; doubles from the first to the second
LONGEST_RETRY_AFTER_S = 300.0  # a longer wait that a server asks for looks like a hang
LEAST_BYTES_S = 10_000  # a slower answer is given up once the timeout is over
SIGN_IN_LIMIT_S = 6  # for the first question: a server that cannot be reached is named within 10 s


class RequestError(Exception):
    """A request that failed, and why, without its URL, which may be signed.

    `status` is HTTP's, 0 without an answer; `retries` is how often trying again may help; `wait_s`: so the server.
    """

    def __init__(self, message: str, *, status: int = 0, retries: int = 100, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retries, self.wait_s, self.attempts = status, retries, wait_s, 1


class Host:
    """A host that many threads ask, with a key or without any credentials; when it is busy, all of them wait."""

    def __init__(self, key: str | None, *, timeout_s: float, retries: int, connections: int, say: Say) -> None:
        self.timeout_s, self.retries, self.say = timeout_s, retries, say
        self.first_wait_s = FIRST_WAIT_S
        self.session = requests.Session()
        self.session.auth = ("api", key) if key else lambda request: request  # else it takes what netrc has for a host
        self.session.rebuild_auth = lambda *_: None  # type: ignore[method-assign]  # also after a redirect
        self.session.verify = os.environ.get("SSL_CERT_FILE") or True
        if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true", "t", "yes", "y", "on"):
            self.session.verify = False
            warnings.filterwarnings("ignore", message="Unverified HTTPS request")
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=connections))
        self.resume_at = 0.0  # by time.monotonic(): no request starts earlier
        self.failures, self.most_failures = 0, 2 * connections  # in a row, before the host is asked no more
        self.stopped = threading.Event()  # ends all waits

    def wait(self, wait_s: float) -> None:
        if self.stopped.wait(wait_s):
            raise RequestError("interrupted", retries=0)


def request(host: Host, attempt: Callable[[float], Found], *, limit_s: float = math.inf) -> Found:
    """What `attempt(timeout_s)` returns; after a RequestError it is tried again, as long as that may help.

    A thread whose request fails waits by itself; after 429, 503 or Retry-After all threads wait. `limit_s` bounds the
    attempts together, without the waits.
    """
    number = 0
    while True:
        while (wait_s := host.resume_at - time.monotonic()) > 0:
            host.wait(wait_s)
        if host.failures >= host.most_failures:
            raise RequestError("not asked, as the server no longer answers", retries=0)
        started = time.monotonic()
        try:
            found = attempt(min(host.timeout_s, limit_s))
        except RequestError as error:
            number, limit_s = number + 1, limit_s - (time.monotonic() - started)
            error.attempts = max(error.attempts, number)
            if number > min(error.retries, host.retries) or limit_s < FIRST_WAIT_S:
                host.failures = host.failures + 1 if error.retries > 1 else 0  # 0 and 1: the server has answered
                error.retries = 0  # whoever catches it need not try again
                raise
            wait_s = max(error.wait_s, min(host.first_wait_s * 2.0 ** (number - 1), LONGEST_WAIT_S))
            if not error.wait_s and error.status not in (429, 503):
                host.wait(wait_s)
            elif (resume_at := time.monotonic() + wait_s) > host.resume_at:
                if wait_s >= 1 and resume_at > host.resume_at + 1:  # said once, not by each thread
                    host.say(f"the server is busy (HTTP {error.status}): waiting {wait_s:.0f} s")
                host.resume_at = resume_at
        else:
            host.failures = 0
            return found


def answer_pieces(session: requests.Session, method: str, url: str, timeout_s: float, **how: Any) -> Iterator[bytes]:
    """The body of a successful answer, piece by piece; how long it may take grows with how much has come."""
    started, received = time.monotonic(), 0
    try:
        with session.request(method, url, stream=True, timeout=timeout_s, verify=session.verify, **how) as answer:
            if answer.status_code >= 300:
                raise status_error(answer)
            while piece := answer.raw.read1(1 << 20, decode_content=True):
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
        why = getattr(cause, "strerror", None) or type(error).__name__  # more than that may hold the URL
        raise RequestError(f"the connection failed ({why})") from error


def status_error(answer: requests.Response) -> RequestError:
    """What an answer says that is no success, and whether and when to ask again."""
    status, stated, header = answer.status_code, "", answer.headers.get("Retry-After", "")
    with suppress(ValueError, urllib3.exceptions.HTTPError):
        stated = stated_error(json.loads(answer.raw.read1(1 << 20, decode_content=True)))
    message = f"{stated or answer.reason or 'no success'} (HTTP {status})"
    if status not in (408, 429) and status < 500:
        return RequestError(message, status=status, retries=0)
    wait_s = 0.0
    with suppress(TypeError, ValueError):  # a number of seconds, or a date
        is_number = header.isdecimal()
        wait_s = float(header) if is_number else (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    return RequestError(message, status=status, wait_s=min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S))


def stated_error(answer: Any) -> str:
    """The first message among an answer's `errors`, on one line; empty without one."""
    with suppress(LookupError, TypeError):
        return " ".join(str(answer["errors"][0]["message"]).split())
    return ""


class Api:
    """W&B's GraphQL at one address."""

    def __init__(self, base_url: str, key: str, **limits: Any) -> None:
        self.base_url, self.page_url = base_url, page_url(base_url)
        self.host = Host(key, **limits)

    def ask(self, question: str, variables: Mapping[str, object], *, limit_s: float = math.inf) -> Any:
        """The `data` of the answer; RequestError without one."""
        return request(self.host, lambda timeout_s: self.ask_once(question, variables, timeout_s), limit_s=limit_s)

    def ask_once(
        self, question: str, variables: Mapping[str, object], timeout_s: float, parse: Parse = json.loads
    ) -> Any:
        """The same without another try; an error that GraphQL states is worth one more."""
        content, url = {"query": question, "variables": variables}, f"{self.base_url}/graphql"
        pieces = answer_pieces(self.host.session, "POST", url, timeout_s, json=content, allow_redirects=False)
        try:
            answer = parse(b"".join(pieces))
        except ValueError as error:
            raise RequestError("an answer that is no JSON, or was cut short") from error
        if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
            raise RequestError(stated_error(answer) or "an answer without data", status=200, retries=1)
        return answer["data"]


def sign_in(api: Api) -> Mapping[str, Any]:
    """W&B's `viewer`: the key's own user name and entity, and its teams. ScriptError without access."""
    question = "query Viewer { viewer { username entity teams { edges { node { name } } } } }"
    try:
        viewer = api.ask(question, {}, limit_s=SIGN_IN_LIMIT_S).get("viewer")
    except RequestError as error:
        what = f"cannot sign in to {api.base_url}"
        hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
        if error.status in (401, 403):
            what, hint = f"{api.base_url} refuses the API key", "copy it again from W&B's user settings"
        elif error.status == 429 or error.status >= 500:
            what, hint = f"{api.base_url} is too busy to let anyone in", "try again later"
        raise ScriptError(f"{what}: {error}; {hint}", NOTHING_USABLE) from error
    return viewer or {"username": None, "entity": None, "teams": None}


# --- projects and their runs ----------------------------------------------------------------------------------

COUNTED_STATES = ("finished", "running", "failed", "crashed", "killed")
PROJECTS = """query Projects($entity: String!, $cursor: String, $first: Int) { entity(name: $entity) { name }
    models(entityName: $entity, after: $cursor, first: $first) {
        edges { node { name createdAt } } pageInfo { endCursor hasNextPage } } }"""
COUNTS = """fragment Counts on Project { runs: runCount %s
    latest: runs(first: 1, order: "-heartbeat_at") { edges { node { createdAt heartbeatAt } } } }"""
COUNTS %= " ".join(f'{state}: runCount(filters: "{{\\"state\\": \\"{state}\\"}}")' for state in COUNTED_STATES)


def projects_of(api: Api, entity: str, visible: Sequence[str]) -> Sequence[Project | Failure]:
    """All projects of one entity, each once, or why there are none."""
    found: dict[str, Project] = {}
    variables: dict[str, object] = {"entity": entity, "first": PROJECTS_PER_PAGE}
    more = True
    while more:
        try:
            answer = api.ask(PROJECTS, variables, limit_s=api.host.timeout_s)
        except RequestError as error:
            return [Failure(entity, None, str(error))]
        page = answer["models"]
        if answer["entity"] is None or page is None:
            return [
                Failure(entity, None, f"no entity that this key can see{did_you_mean(entity, {*visible} - {entity})}")
            ]
        for node in (edge["node"] for edge in page["edges"]):
            url = f"{api.page_url}/{quote(entity, safe='')}/{quote(node['name'], safe='')}"
            found[node["name"]] = Project(entity, node["name"], created_at=moment_in(node["createdAt"]), url=url)
        variables["cursor"], more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"] and page["edges"]
    return list(found.values())


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


def with_counts(api: Api, projects: Sequence[Project]) -> Sequence[Project | Failure]:
    """A few projects with their runs counted, by one question; if that fails, they are asked for one by one."""
    variables = {f"entity{n}": project.entity for n, project in enumerate(projects)}  # names are no part of the text
    variables |= {f"project{n}": project.project for n, project in enumerate(projects)}
    parameters = ", ".join(f"${name}: String" for name in variables)
    fields = [f"p{n}: project(entityName: $entity{n}, name: $project{n}) {{ ...Counts }}" for n in range(len(projects))]
    question = f"query Counts({parameters}) {{ {' '.join(fields)} }} {COUNTS}"
    try:
        answer = api.ask(question, variables, limit_s=api.host.timeout_s)
        for n, project in enumerate(projects):
            for name in ("runs", *COUNTED_STATES):
                setattr(project, name, answer[f"p{n}"][name])
            for latest in (edge["node"] for edge in answer[f"p{n}"]["latest"]["edges"]):
                project.last_active = moment_in(latest["heartbeatAt"] or latest["createdAt"])
    except (RequestError, KeyError, TypeError) as error:
        if len(projects) > 1:
            return [each for project in projects for each in with_counts(api, [project])]
        why = str(error) if isinstance(error, RequestError) else "the server lists this project but does not find it"
        return [Failure(projects[0].entity, projects[0].project, why)]
    return projects


def moment_in(text: str | None) -> datetime | None:
    """The server's ISO text as a moment in UTC, which it is where it names no zone; None where it is no time."""
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text or "")
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return None


def sort_key(project: Project, sort: str) -> tuple[object, ...]:
    """The most runs first, the newest first, or by name; ties by name, case ignored."""
    moment = {"active": project.last_active, "created": project.created_at}.get(sort)
    first = -project.runs if sort == "runs" else -moment.timestamp() if moment else math.inf
    return first, project.entity.lower(), project.project.lower(), project.entity, project.project


# --- what is shown --------------------------------------------------------------------------------------------


def for_programs(projects: Sequence[Project], failures: Sequence[Failure], max_rows: int | None) -> str:
    """The answer as JSON: all of it, unless less is asked for; times in UTC, and nothing that a terminal obeys."""
    shown = [asdict(each) for each in projects[: max_rows or None]]
    document = {"version": 1, "projects": shown, "failed": [each._asdict() for each in failures]}
    text = json.dumps(document, ensure_ascii=False, default=lambda time_: time_.isoformat().replace("+00:00", "Z"))
    return re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", text)


def for_people(projects: Sequence[Project], max_rows: int | None) -> str:
    """A table as wide as the terminal at most, and how many projects it leaves out; names are Text, never markup."""
    from rich.box import SIMPLE_HEAD  # 0.1 s that JSON does without
    from rich.console import Console
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    lines = itertools.accumulate(1 + len(f"{each.entity}/{each.project}") // NAME_WIDTH for each in projects)
    fitting = sum(line <= TABLE_LINES for line in lines)
    shown = projects[: fitting if max_rows is None else max_rows or None]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("project", overflow="fold")
    for heading in ("runs", "fin.", "running", "failed", "crash", "kill", "created", "active"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in shown:
        name = Text(printable(f"{each.entity}/{each.project}"), style=Style(link=each.url))
        counts = [str(number) for number in (each.runs, *(getattr(each, state) for state in COUNTED_STATES))]
        days = [f"{time_:%Y-%m-%d}" if time_ else "" for time_ in (each.created_at, each.last_active)]
        table.add_row(name, *counts, *days)
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
        if left_out := len(projects) - len(shown):
            console.print(f"{counted(left_out, 'more project')}: --max-rows 0 shows all, --json too", style="dim")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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


# --- command line ---------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None) -> Options:
    """The command line as Options; the only place that knows argparse."""
    parser = Parser(__doc__ or "")
    which = parser.add_argument_group("which projects (flags repeat or take commas)")
    several: dict[str, Any] = {"action": "extend", "type": comma_list, "default": []}
    flag = which.add_mutually_exclusive_group().add_argument
    flag("-e", "--entity", **several, metavar="NAME", help="only this entity")
    flag("--discover", action="store_true", help="every entity that the key can see (the default)")
    which.add_argument("-p", "--project", **several, metavar="GLOB", help="only projects like this, in any case")
    flag = parser.add_argument_group("what is shown").add_argument
    flag("--sort", choices=("active", "created", "name", "runs"), default="active", help="default: %(default)s")
    flag("--max-rows", type=not_negative, metavar="N", help="at most N projects (0: all)")
    flag("--json", action="store_true", help="one JSON object on stdout, with all projects")
    flag("--quiet", action="store_true", help="only errors on stderr")
    flag("--debug", action="store_true", help="show the traceback of an error")
    flag = parser.add_argument_group("server (numbers with their defaults)").add_argument
    flag("--api-key-file", type=Path, metavar="FILE", help="a file that holds the API key alone")
    # Counting in a project of a million runs takes seconds; longer than 20 looks like a hang.
    flag("--timeout", type=positive, default=20, metavar="S", help="seconds for an answer (%(default)s)")
    flag("--retries", type=positive, default=2, metavar="N", help="of what fails (%(default)s)")
    flag("--workers", type=positive, default=10, metavar="N", help="questions at a time (%(default)s)")
    return Options(**vars(parser.parse_strictly(argv)))


def comma_list(text: str) -> list[str]:
    """The values of a flag that takes commas: `a, b` is a and b."""
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError("needs a value")


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


def list_projects(options: Options) -> int:
    """From the key to the table; the exit code says whether all could be read."""
    global requests, urllib3
    address = base_url()
    key = api_key(options.api_key_file, address)
    import requests  # takes time: once there is a key
    import urllib3

    say = (lambda _: None) if options.quiet else tell
    limits = {"timeout_s": options.timeout, "retries": options.retries, "connections": options.workers}
    api = Api(address, key, say=say, **limits)
    viewer = sign_in(api)
    teams = [edge["node"]["name"] for edge in (viewer["teams"] or {"edges": ()})["edges"]]
    visible = [name for name in (viewer["entity"], *teams) if name]
    entities = list(dict.fromkeys(options.entity or visible))  # W&B may list the own one among the teams
    threads = ThreadPoolExecutor(options.workers)
    try:
        found = [*itertools.chain(*threads.map(lambda entity: projects_of(api, entity, visible), entities))]
        listed = [each for each in found if isinstance(each, Project)]
        failures = [each for each in found if isinstance(each, Failure)]
        for glob in options.project:
            if not any(matches(each.project, glob) for each in listed):
                near = did_you_mean(glob, [each.project for each in listed])
                failures.append(Failure(None, glob, f"no such project here{near}"))
        globs = options.project or ("*",)
        wanted = [each for each in listed if any(matches(each.project, glob) for glob in globs)]
        if wanted:
            say(f"counting the runs of {counted(len(wanted), 'project')} in {', '.join(entities)}")
        groups = [wanted[n : n + PROJECTS_PER_QUESTION] for n in range(0, len(wanted), PROJECTS_PER_QUESTION)]
        found = [*itertools.chain(*threads.map(lambda group: with_counts(api, group), groups))]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    projects = [each for each in found if isinstance(each, Project)]
    failures += [each for each in found if isinstance(each, Failure)]
    if not projects:
        others = f" (and {counted(len(failures) - 1, 'more failure')})" if len(failures) > 1 else ""
        why = f"{failures[0]}{others}" if failures else "no projects there; name another entity with -e"
        raise ScriptError(why, NOTHING_USABLE)
    projects.sort(key=lambda project: sort_key(project, options.sort))
    show(for_programs(projects, failures, options.max_rows) if options.json else for_people(projects, options.max_rows))
    for failure in failures:
        tell(f"error: {failure}")
    return PARTIAL if failures else OK


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed ones are None
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names that the terminal's encoding lacks
    try:
        return list_projects(parse_args(argv))
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


if __name__ == "__main__":
    exit_code = main()
    if exit_code == INTERRUPTED:
        os._exit(exit_code)  # threads may still wait for the server, and nobody waits for them
    raise SystemExit(exit_code)
