#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests>=2.30,<3", "rich>=12,<16", "urllib3>=2.6.3,<3"]
# ///
"""List the W&B entities and projects that you can see, and count the runs of each project by state.

  uv run wandb-tools/list_entities.py                               your own entity and your teams
  uv run wandb-tools/list_entities.py -e my-team -p 'graph*,denoising' --sort runs
  uv run wandb-tools/list_entities.py --json | jq -r '.projects[] | select(.running > 0) | .entity + "/" + .project'

One row per project: how many runs it has, how many of them are finished, running, failed, crashed or killed, when it
was created, and when a run was last active (UTC). The server counts the runs; none is downloaded. The table shows about
40 projects and says how many it leaves out; --max-rows 0 shows all. In a terminal, a project's name links to its page.
--json prints one object instead: version, projects (entity, project, runs, finished, running, failed, crashed, killed,
created_at, last_active, url) and failed (entity, project, error).

The API key is read from --api-key-file, WANDB_API_KEY, `wandb login` (netrc) or the SDK's settings file, never from an
argument. For a self-hosted server, set WANDB_BASE_URL, and SSL_CERT_FILE if its certificate is private. A failed
request is repeated up to --retries times; if the server is busy, all requests wait for as long as it asks.

Exit codes: 0 all done; 1 nothing usable (no access, no such entity or project); 2 wrong usage; 3 some entities or
projects could not be read and are named; the others are listed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import configparser
import difflib
import fnmatch
import io
import itertools
import json
import netrc
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias
from urllib.parse import quote

if TYPE_CHECKING:
    import requests
    import urllib3

# --- constants and nouns --------------------------------------------------------------------------------------
OK, NOTHING_USABLE, WRONG_USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes, the same in all scripts

PROJECTS_PER_QUESTION = 5  # seven numbers each: few requests, and none that keeps a database busy for long
COUNTED_STATES = ("finished", "running", "failed", "crashed", "killed")
TABLE_LINES = 44  # of 80 characters: near 4 kB with heading and notes
NAME_WIDTH = 30  # columns are left out, from LEAST_NEEDED, until names have this width (if they are as long)
COLUMNS = {"runs": "runs", "fin.": "finished", "running": "running", "failed": "failed", "crash": "crashed"}
COLUMNS |= {"kill": "killed", "created": "created_at", "active": "last_active"}  # of the table, by their headings
LEAST_NEEDED = ("created", "kill", "crash", "fin.", "failed", "running")  # the first is left out first
ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless, though Python calls it unprintable

Row: TypeAlias = dict[str, Any]  # of the table and of the JSON: a project or a failure
Say: TypeAlias = Callable[[str], None]


class ScriptError(Exception):
    """What happened, to what, and what to do next, in one line; with the exit code that it means."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- the server: its URL and the key --------------------------------------------------------------------------
FORGE = "forge.coreweave.com"  # W&B's own server
CLOUD_URL = f"https://api.{FORGE}"
CLOUD_HOSTS = (f"api.{FORGE}", "api.wandb.ai")  # of its API
PAGE_HOSTS = (FORGE, "wandb.ai", "www.wandb.ai", "app.wandb.ai")  # of its pages, now or earlier
HEADERS = {"User-Agent": "W&B Public Client 0.31.0", "Use-Admin-Privileges": "true"}  # the SDK's: else admins see less


def base_url() -> str:
    """The server's URL, found as the SDK finds it, without a password and without a slash at the end."""
    given = (os.environ.get("WANDB_BASE_URL") or sdk_setting("base_url") or CLOUD_URL).strip().rstrip("/")
    url = re.fullmatch(r"(https?://)(?:[^/]*@)?([^/@?#\s]+)([^@?#\s]*)", given)
    if url is None or (url[1] == "http://" and url[2] in CLOUD_HOSTS):
        raise ScriptError(f"WANDB_BASE_URL is not a valid URL; write for example {CLOUD_URL}", NOTHING_USABLE)
    return CLOUD_URL if url[2] in PAGE_HOSTS else "".join(url.groups())


def page_url(base_url: str) -> str:
    """The URL of the web pages of the server at `base_url`, without a slash at the end."""
    if base_url.partition("://")[2] in CLOUD_HOSTS:
        return f"https://{FORGE}/wandb"
    return base_url.replace("://api.", "://" if "://api.wandb." in base_url else "://app.")


def sdk_setting(name: str) -> str | None:
    """A value from the SDK's settings files; the working folder's overrides the user's."""
    settings = configparser.ConfigParser(interpolation=None)
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for file in (f"{user}/settings", "wandb/settings", ".wandb/settings"):
        with suppress(configparser.Error, UnicodeDecodeError):  # the SDK ignores unreadable files, too
            settings.read(os.path.expanduser(file), encoding="utf-8")  # noqa: PTH111 - there may be no home
    return settings.get("default", name, fallback=None)


def netrc_key(base_url: str) -> str | None:
    """The key that `wandb login` stored for the server; None without a readable one."""
    host = base_url.partition("://")[2].partition("/")[0]
    names = (host, "api.wandb.ai") if host in CLOUD_HOSTS else (host,)
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file, name in itertools.product(files, names):
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            if entry := netrc.netrc(os.path.expanduser(file)).authenticators(name):  # noqa: PTH111
                return entry[2]
    return None


def api_key(file: Path | None, base_url: str) -> str:
    """The API key for the server: the first found in `file`, WANDB_API_KEY, netrc and the SDK's settings."""
    where, how = f"for {base_url}", "run `wandb login`, set WANDB_API_KEY or use --api-key-file"
    if file:
        key, where = file.read_text("utf-8-sig", errors="replace"), f"in {file}"
    elif os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        raise ScriptError(f"WANDB_IDENTITY_TOKEN_FILE is not supported: unset it, and {how}", NOTHING_USABLE)
    else:
        key = os.environ.get("WANDB_API_KEY") or netrc_key(base_url) or sdk_setting("api_key") or ""
    key = key.strip()
    if not re.fullmatch(r"[\w-]{40,}|([\w-]+\.){2}[\w-]+", key, re.ASCII):
        what = f"invalid API key ({len(key)} characters, instead of 40 or more letters and digits)"
        raise ScriptError(f"{what if key else 'no API key'} {where}; {how}", NOTHING_USABLE)
    return key


# --- the server: requests, in bounded time --------------------------------------------------------------------
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 30.0  # before a request is repeated: each wait is four times the one before
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # of all threads, if the server is busy; longer looks like a hang
LEAST_BYTES_S = 10_000  # a slower answer is given up once the timeout is over
ANSWER_BYTES = 100_000_000  # of an answer at most, uncompressed; the largest pages of runs have 15 MB
MOST_PAGES = 500  # of 200 projects: a longer list is taken for endless
LIMIT_S = 1e6  # for any query: a socket takes no more than 2**31 ms
SIGN_IN_LIMIT_S = 6  # for the first query: an unreachable server is reported within 10 s


class RequestError(Exception):
    """A request failed. The message never contains the URL, which may be signed."""

    def __init__(self, message: str, *, status: int = 0, retries: int = 100, pause_s: float = 0.0) -> None:
        super().__init__(message[:300])  # it may come from the server
        self.status = status  # HTTP status; 0 without an answer
        self.retries = retries  # repeats that may help at most; 0 if the same answer would come again
        self.pause_s = pause_s  # how long all threads have to wait for a busy server
        self.attempts = 1


class Client:
    """Asks one server, from many threads."""

    def __init__(self, url: str, key: str, options: argparse.Namespace, say: Say) -> None:
        self.base_url, self.timeout_s, self.retries, self.say = url, options.timeout, options.retries, say
        self.resume_at = 0.0  # by time.monotonic(): no request starts earlier
        self.failures, self.most_failures = 0, 2 * options.workers  # circuit breaker: consecutive failures, and limit
        self.session = requests.Session()
        self.session.trust_env = False  # else it sends the password that netrc has for a host
        self.session.auth = ("api", key)
        self.session.headers.update(HEADERS)
        # Without this, requests reads the whole body of a redirect, even of one that it does not follow.
        self.session.hooks["response"].append(lambda answer, **_: answer.raw.close() if answer.is_redirect else None)
        self.session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true", "t", "yes", "y", "on"):
            self.session.verify = False
            urllib3.disable_warnings()

    def ask(self, query: str, variables: Mapping[str, Any], *, limit_s: float = LIMIT_S) -> Any:
        """The answer's `data`; RequestError if all attempts fail. If the server is busy, all threads wait."""
        number, limit_s = 0, min(limit_s, self.timeout_s)  # for all attempts together, without the waits
        while self.failures < self.most_failures:
            while (wait_s := self.resume_at - time.monotonic()) > 0:
                time.sleep(min(wait_s, 1.0))  # a Ctrl-C just before a sleep takes effect only after it
            started = time.monotonic()
            try:
                return self.ask_once(query, variables, limit_s)
            except RequestError as error:
                number, limit_s = number + 1, limit_s - (time.monotonic() - started)
                if number > min(error.retries, self.retries) or limit_s < FIRST_WAIT_S:
                    self.failures = self.failures + 1 if error.retries > 1 else 0  # 0 and 1: the server has answered
                    raise
                wait_s = max(error.pause_s, min(FIRST_WAIT_S * 4.0 ** (number - 1), LONGEST_WAIT_S))
                if not error.pause_s:
                    time.sleep(wait_s)
                elif time.monotonic() + wait_s > self.resume_at + SHORTEST_PAUSE_S:  # reported once, not by each thread
                    self.resume_at = time.monotonic() + wait_s
                    self.say(f"the server is busy (HTTP {error.status}): waiting {wait_s:.0f} s")
        raise RequestError("not requested, because the server no longer answers; run this again later", retries=0)

    def ask_once(self, query: str, variables: Mapping[str, Any], timeout_s: float) -> Any:
        """The same in one attempt. The more bytes have come, the longer it may take."""
        started, body, url = time.monotonic(), bytearray(), f"{self.base_url}/graphql"
        how: dict[str, Any] = {"stream": True, "timeout": timeout_s, "proxies": requests.utils.get_environ_proxies(url)}
        how |= {"json": {"query": query, "variables": variables}, "allow_redirects": False}
        try:
            with self.session.post(url, **how) as response:
                if response.status_code >= 300:
                    raise status_error(response)
                while piece := response.raw.read1(1 << 20, decode_content=True):
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise RequestError(f"the answer is longer than {ANSWER_BYTES / 1e6:,.0f} MB", retries=1)
                    if time.monotonic() - started > timeout_s + len(body) / LEAST_BYTES_S:
                        raise RequestError(f"too slow: {len(body):,} bytes in {timeout_s:.0f} s")
            self.failures = 0
            answer = json.loads(body)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise RequestError(f"no answer within {timeout_s:.0f} s") from error
        except (OSError, urllib3.exceptions.HTTPError) as error:  # exceptions of requests are OSErrors
            cause: BaseException = error
            while deeper := cause.__cause__ or cause.__context__:
                cause = deeper
            why = getattr(cause, "strerror", None) or type(error).__name__  # other texts may contain the URL
            raise RequestError(f"the connection failed ({why})") from error
        except (ValueError, RecursionError) as error:
            raise RequestError("the answer is incomplete, or not JSON") from error
        if not isinstance(answer, dict) or answer.get("errors") or not answer.get("data"):
            raise RequestError(stated_error(bytes(body)) or "the answer has no data", status=200, retries=1)
        return answer["data"]


def status_error(answer: requests.Response) -> RequestError:
    """The error that an unsuccessful answer states, and whether and when to repeat the request."""
    status, after, pause_s = answer.status_code, answer.headers.get("Retry-After", ""), 0.0
    if status == 429:
        after = after or answer.headers.get("RateLimit-Reset", "")  # seconds, of W&B's cloud
    body = b"" if answer.is_redirect else answer.raw.read1(1 << 20, decode_content=True)  # a redirect's is closed
    message = f"{stated_error(body) or answer.reason} (HTTP {status})"
    if status not in (408, 429) and status < 500:
        return RequestError(message, status=status, retries=0)
    if after or status in (429, 503):
        with suppress(urllib3.exceptions.InvalidHeader):  # or none; it may be a date
            pause_s = urllib3.Retry().parse_retry_after(after)
        pause_s = min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
    return RequestError(message, status=status, pause_s=pause_s)


def stated_error(body: bytes) -> str:
    """The first message among an answer's `errors`, on one line; empty without one."""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        return " ".join(str(json.loads(body)["errors"][0]["message"]).split())
    return ""


@contextmanager
def reading_answer() -> Iterator[None]:
    """For code that reads an answer's values: raises a RequestError if these have an unexpected form."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise RequestError(f"the answer has an unexpected form ({error!r})", status=200, retries=0) from error


def sign_in(client: Client) -> tuple[str, list[str]]:
    """The key's own entity, empty if it has none, and all entities that it can see. ScriptError without access."""
    query = "query Viewer { viewer { username entity teams { edges { node { name } } } } }"
    try:
        with reading_answer():
            viewer = client.ask(query, {}, limit_s=SIGN_IN_LIMIT_S).get("viewer") or {}
            own = str(viewer.get("entity") or viewer.get("username") or "")
            teams = [str(each["node"]["name"]) for each in (viewer.get("teams") or {}).get("edges", ()) if each["node"]]
    except RequestError as error:
        hint = "check WANDB_BASE_URL, the network and its proxy, and SSL_CERT_FILE for a private certificate"
        if error.status in (401, 403):
            hint = "the API key is wrong: copy it again from your W&B settings"
        elif error.status == 429 or error.status >= 500:
            hint = "the server is busy: try again later"
        raise ScriptError(f"cannot sign in to {client.base_url}: {error}; {hint}", NOTHING_USABLE) from error
    return own, [name for name in dict.fromkeys([own, *teams]) if name]  # `own` may be among the teams


# --- projects and their runs ----------------------------------------------------------------------------------
PROJECTS = """query Projects($entity: String!, $cursor: String) {
    models(entityName: $entity, after: $cursor, first: 200) {
        edges { node { name createdAt } } pageInfo { endCursor hasNextPage } } }"""
ENTITY = "query Entity($entity: String!) { entity(name: $entity) { name } }"
COUNTS = """fragment Counts on Project { runs: runCount %s
    latest: runs(first: 1, order: "-heartbeat_at") { edges { node { createdAt heartbeatAt } } } }"""
COUNTS %= " ".join(f'{state}: runCount(filters: "{{\\"state\\": \\"{state}\\"}}")' for state in COUNTED_STATES)


def projects_of(client: Client, entity: str, visible: Sequence[str], failed: list[Row]) -> list[Row]:
    """All projects of one entity, each once and not yet counted; a failure is added to `failed`."""
    found: dict[str, Row] = {}
    url = f"{page_url(client.base_url)}/{quote(entity, safe='', errors='replace')}"
    variables: Row = {"entity": entity}
    why = "the server repeats its list of projects without end; try again later"
    try:
        with reading_answer():
            for _ in range(MOST_PAGES):
                page = client.ask(PROJECTS, variables)["models"]
                if not (page and (entity in visible or page["edges"] or client.ask(ENTITY, variables)["entity"])):
                    why = f"your API key can see no such entity{did_you_mean(entity, {*visible} - {entity})}"
                    break
                for node in (edge["node"] for edge in page["edges"]):
                    name = node["name"]
                    row = {"entity": entity, "project": name, "created_at": utc(node["createdAt"]), "last_active": None}
                    found[name] = row | {"url": f"{url}/{quote(name, safe='', errors='replace')}"}
                variables["cursor"] = page["pageInfo"]["endCursor"]
                if not (page["pageInfo"]["hasNextPage"] and page["edges"]):
                    return list(found.values())
    except RequestError as error:
        why = str(error)
    failed.append({"entity": entity, "project": None, "error": why})
    return []


def with_counts(client: Client, projects: list[Row], failed: list[Row]) -> list[Row]:
    """A few projects with their runs counted, by one query; if that fails, by a query each."""
    variables = {f"{key}{n}": project[key] for n, project in enumerate(projects) for key in ("entity", "project")}
    fields = [f"p{n}: project(entityName: $entity{n}, name: $project{n}) {{ ...Counts }}" for n in range(len(projects))]
    query = f"query Counts({', '.join(f'${name}: String' for name in variables)}) {{ {' '.join(fields)} }} {COUNTS}"
    answer: Row = {}
    try:
        with reading_answer():
            answer = client.ask(query, variables)
            for n, project in enumerate(projects):
                counts = answer[f"p{n}"]
                project |= {name: int(counts[name]) for name in ("runs", *COUNTED_STATES)}
                for latest in (edge["node"] for edge in counts["latest"]["edges"]):
                    project["last_active"] = utc(latest["heartbeatAt"] or latest["createdAt"])
    except RequestError as error:
        if len(projects) > 1:
            return [row for project in projects for row in with_counts(client, [project], failed)]
        why = str(error) if answer.get("p0", True) else "the server lists this project, but cannot find it"
        failed.append({"entity": projects[0]["entity"], "project": projects[0]["project"], "error": why})
        return []
    return projects


def utc(text: str | None) -> str | None:
    """The server's time, which is in UTC, with the sign for that."""
    return f"{text.removesuffix('Z')}Z" if text else None


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is the name or a glob that matches it, case ignored.

    >>> matches("Graph-Denoising", "graph-*"), matches("[red]", "[red]")
    (True, True)
    """
    return name == pattern or fnmatch.fnmatchcase(name.lower(), pattern.lower())


# --- what is shown --------------------------------------------------------------------------------------------
def for_people(projects: Sequence[Row], max_rows: int | None) -> str:
    """A table with a line per project, at most as wide as the terminal; its last line counts the rows left out."""
    from rich import box, cells, console, style, table, text  # takes 0.1 s, and JSON needs none of it

    shown = projects[: TABLE_LINES if max_rows is None else max_rows or None]
    out = console.Console(highlight=False, markup=False, emoji=False)  # names are data
    names = [printable(f"{row['entity']}/{row['project']}") for row in shown]
    values = {heading: ["" if row[key] is None else row[key] for row in shown] for heading, key in COLUMNS.items()}
    columns = {heading: [printable(str(v)[:10]) for v in column] for heading, column in values.items()}  # a time's day
    widths = {heading: 1 + max(map(len, (heading, *column))) for heading, column in columns.items()}
    longest = max(map(cells.cell_len, ("project", *names)))
    for heading in LEAST_NEEDED:
        if out.width - sum(widths.values()) < min(longest, NAME_WIDTH):
            del columns[heading], widths[heading]
    room = max(out.width - sum(widths.values()), 1)
    cut, long = cells.set_cell_size, [name for name in names if cells.cell_len(name) > room]
    short = {name: name for name in names}
    for start in (2 * room // 3, room // 3):  # without their middle: most names of one kind differ in their ends
        cuts = {name: f"{cut(name, start)}…{cut(name[::-1], room - 1 - start)[::-1]}" for name in long}
        short |= {name: part for name, part in cuts.items() if [*cuts.values()].count(part) == 1}
    headings = [table.Column(heading, justify="right", no_wrap=True) for heading in columns]
    first = table.Column("project", overflow="fold")
    grid = table.Table(first, *headings, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for row, name, *cells_ in zip(shown, names, *columns.values(), strict=True):
        grid.add_row(text.Text(short[name], style=style.Style(link=row["url"])), *cells_)
    with out.capture() as captured:
        out.print(grid)
        if left_out := len(projects) - len(shown):
            out.print(f"{counted(left_out, 'more project')}: use --max-rows 0 for all", style="dim")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(2_000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def show(text: str) -> None:
    """Print to stdout. A closed pipe (`| head`) is ignored, so that the exit code stays what it would be."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(message: str) -> None:
    """Print one line to stderr; a closed pipe is ignored."""
    with suppress(BrokenPipeError):
        print(printable(message), file=sys.stderr)


def printable(text: str) -> str:
    """`text` on one line, with control characters and direction overrides made visible: names are data.

    >>> printable(chr(27) + "[31m[red]") == chr(65533) + "[31m[red]"
    True
    """
    return "".join(c if c.isprintable() or c == ZERO_WIDTH_JOINER else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- command line ---------------------------------------------------------------------------------------------
def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    part = parser.add_argument_group("which projects (flags may repeat or take commas)")
    several: dict[str, Any] = {"action": "extend", "type": comma_list, "default": []}
    flag = part.add_mutually_exclusive_group().add_argument
    flag("-e", "--entity", **several, metavar="NAME", help="entity (default: all that you can see)")
    flag("--discover", action="store_true", help="all entities that you can see (the default)")
    part.add_argument("-p", "--project", **several, metavar="GLOB", help="project or glob, case ignored (default: all)")
    flag = parser.add_argument_group("what is shown").add_argument
    flag("--sort", choices=("active", "created", "name", "runs"), default="active", help="default: %(default)s")
    flag("--max-rows", type=not_negative, metavar="N", help="show at most N projects (0: all)")
    flag("--json", action="store_true", help="print the projects as one JSON object")
    flag("--quiet", action="store_true", help="print only errors on stderr")
    flag("--debug", action="store_true", help="show the traceback of an error")
    flag = parser.add_argument_group("server (defaults in brackets)").add_argument
    flag("--api-key-file", type=Path, metavar="FILE", help="file with the API key")
    # Counting in a project of a million runs takes seconds; longer than 20 looks like a hang.
    flag("--timeout", type=positive, default=20, metavar="S", help="seconds to wait for an answer (%(default)s)")
    flag("--retries", type=not_negative, default=2, metavar="N", help="repeats of a failed request (%(default)s)")
    flag("--workers", type=positive, default=10, metavar="N", help="requests at once (%(default)s)")
    return parser.parse_strictly(argv)


def comma_list(text: str) -> list[str]:
    """The values of a flag that takes commas: `a, b` is a and b."""
    if parts := [part.strip() for part in text.split(",") if part.strip()]:
        return parts
    raise argparse.ArgumentTypeError("needs a value")


def whole_number(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
    return int(text)


positive, not_negative = partial(whole_number, 1), partial(whole_number, 0)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that names the nearest flag."""

    def parse_strictly(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The parsed command line; an unknown argument is a ScriptError."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].partition("=")[0]  # what follows may be a key
            near = did_you_mean(name, (flag for flag in self._option_string_actions if flag.startswith("--")))
            raise ScriptError(f"unknown argument {name}{near}; --help lists all", WRONG_USAGE)
        return parsed

    def error(self, message: str) -> NoReturn:
        raise ScriptError(f"{message}; see --help", WRONG_USAGE)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause that suggests the nearest of `names`, else the shortest that contain `name`; or nothing without any.

    >>> did_you_mean("--stat", ["--state", "--since"]), did_you_mean("loss", ["train/loss", "epoch"])
    ('; did you mean --state?', '; did you mean train/loss?')
    """
    known = {each.lower(): each for each in sorted(set(names), key=lambda each: (len(each), each))}
    near = difflib.get_close_matches(name.lower(), known) or [k for k in known if name[1:] and name.lower() in k][:3]
    return f"; did you mean {' or '.join(known[each] for each in near)}?" if near else ""


def list_projects(options: argparse.Namespace) -> int:
    """From the key to the table; returns the exit code."""
    global requests, urllib3
    address = base_url()
    key = api_key(options.api_key_file, address)
    import requests  # takes time: only once there is a key
    import urllib3

    say = (lambda _: None) if options.quiet else tell
    client = Client(address, key, options, say)
    _, visible = sign_in(client)
    entities = list(dict.fromkeys(options.entity)) or visible
    failed: list[Row] = []
    threads = ThreadPoolExecutor(options.workers)
    answers = threads.map(lambda entity: projects_of(client, entity, visible, failed), entities)
    projects = list(itertools.chain.from_iterable(answers))
    names = [project["project"] for project in projects]
    projects = [row for row in projects if any(matches(row["project"], glob) for glob in options.project or ["*"])]
    unknown = [glob for glob in options.project if not any(matches(name, glob) for name in names)]
    failed += [{"entity": None, "project": g, "error": f"no such project{did_you_mean(g, names)}"} for g in unknown]
    if projects:
        say(f"counting the runs of {counted(len(projects), 'project')} in {', '.join(entities)}")
    groups = [projects[n : n + PROJECTS_PER_QUESTION] for n in range(0, len(projects), PROJECTS_PER_QUESTION)]
    answers = threads.map(lambda group: with_counts(client, group, failed), groups)
    projects = list(itertools.chain.from_iterable(answers))
    failed.sort(key=lambda row: (row["entity"] or "~", row["project"] or ""))  # threads end in any order
    errors = ["/".join(filter(None, (row["entity"], row["project"]))) + f": {row['error']}" for row in failed]
    if not projects:
        errors = errors or ["there are no projects; name another entity with -e"]
        others = f" (and {counted(len(errors) - 1, 'more failure')})" if errors[1:] else ""
        raise ScriptError(errors[0] + others, NOTHING_USABLE)
    projects.sort(key=lambda row: (row["entity"].lower(), row["project"].lower()))
    if column := {"runs": "runs", "created": "created_at", "active": "last_active"}.get(options.sort):
        projects.sort(key=lambda row: (row[column] is not None, row[column]), reverse=True)  # most or newest first
    shown = projects[: options.max_rows or None]
    text = json.dumps({"version": 1, "projects": shown, "failed": failed}, ensure_ascii=False)
    text = re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", text)  # terminals may obey these
    if options.json and len(shown) < len(projects):
        say(f"{counted(len(projects) - len(shown), 'more project')}: use --max-rows 0 for all")
    show(text if options.json else for_people(projects, options.max_rows))
    for error in errors:
        tell(f"error: {error}")
    return PARTIAL if failed else OK


def main(argv: Sequence[str] | None = None) -> int:
    """Options in, exit code out: the only place where exceptions become messages."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's SIGTERM ends it as Ctrl-C does
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - closed ones are None
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # UTF-8 for programs
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
            message = f"{error.filename or 'stdout'}: {error.strerror or error}; fix this and run again"
        tell(f"error: {message}")
        return code


if __name__ == "__main__":
    os._exit(main())  # exits at once, although threads may still wait for the server
