"""list_entities.py as users run it, against a server of our own; then the parts that need none.

What concerns keys, addresses and secrets of both scripts is in test_access.py and test_secrets.py.
"""

from __future__ import annotations

import doctest
import gzip
import itertools
import json
import os
import pty
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import list_entities
import pytest
import requests
import urllib3
from conftest import LIMIT_S, Done, running
from list_entities import COUNTED_STATES, NOTHING_USABLE, PROJECTS_PER_QUESTION, ScriptError
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = "list_entities.py"
FAST = ("--retries", "1")  # where a test waits for the end of all tries
ODD_NAMES = ("[red]markup[/red]", "esc\x1b[31mape", "émoji 🎉", "a/b?c#d")


@pytest.fixture
def server(empty_server) -> Server:
    return empty_server


@pytest.fixture
def two_projects(server) -> Server:
    """The server, with a run in each of two projects of a team."""
    for project in ("good", "bad"):
        server.add_run("team", project, "abc", state="finished")
    return server


@pytest.fixture
def as_process(run_script, tmp_path):
    """Run the script against a server, as users do."""

    def run(server, *arguments, **variables) -> Done:
        return run_script(SCRIPT, *arguments, env=server.environment(tmp_path) | variables)

    return run


@pytest.fixture
def as_call(call_script, tmp_path):
    """The same without a process of its own, which takes its time to start."""

    def run(server, *arguments, **variables) -> Done:
        return call_script(SCRIPT, *arguments, env=server.environment(tmp_path) | variables)

    return run


def add_runs(server, entity: str, project: str, states: str, **values) -> None:
    """A project whose runs are in the states that begin with these letters; each a day after the one before."""
    server.add_project(entity, project, created_at="2025-12-31T10:00:00Z")
    names = {"f": "finished", "r": "running", "x": "failed", "c": "crashed", "k": "killed", "p": "preempted"}
    for day, letter in enumerate(states, 1):
        times = {"created_at": f"2026-01-{day:02}T00:00:00Z", "heartbeat_at": f"2026-01-{day:02}T12:00:00Z"}
        server.add_run(entity, project, f"{project}-{day}", state=names[letter], **(times | values))


def projects(done) -> dict[str, dict]:
    """The JSON's projects by path."""
    document = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert document["version"] == 1
    assert set(document) == {"version", "projects", "failed"}
    return {f"{row['entity']}/{row['project']}": row for row in document["projects"]}


# --- what is listed -------------------------------------------------------------------------------------------


def test_json_holds_every_project_with_its_counts(server, as_process):
    add_runs(server, "tester", "demo", "ffffrxxckp")
    add_runs(server, "team", "demo", "rk", user=None)
    server.add_project("team", "empty project", created_at="2026-02-03T04:05:06")
    done = as_process(server, "--json")
    assert (done.code, done.err) == (0, "counting the runs of 3 projects in tester, team\n")
    listed = projects(done)  # the user's own entity is among the teams too, and is listed once
    assert list(listed) == ["tester/demo", "team/demo", "team/empty project"]
    assert listed["tester/demo"] == {
        "entity": "tester",
        "project": "demo",
        "runs": 10,
        "finished": 4,
        "running": 1,
        "failed": 2,
        "crashed": 1,
        "killed": 1,
        "created_at": "2025-12-31T10:00:00Z",
        "last_active": "2026-01-10T12:00:00Z",
        "url": f"{server.url}/tester/demo",
    }
    assert [listed["team/demo"][name] for name in ("runs", *COUNTED_STATES)] == [2, 0, 1, 0, 0, 1]
    assert listed["team/empty project"] == {
        "entity": "team",
        "project": "empty project",
        **dict.fromkeys(("runs", *COUNTED_STATES), 0),
        "created_at": "2026-02-03T04:05:06Z",
        "last_active": None,
        "url": f"{server.url}/team/empty%20project",
    }


def test_table(server, as_process):
    add_runs(server, "tester", "demo", "ffr")
    for name in ODD_NAMES:
        add_runs(server, "team", name, "fxck")
    done = as_process(server, "--sort", "runs", "--quiet")
    assert (done.code, done.err) == (0, "")
    heading, rule, *rows = done.out.splitlines()
    assert heading.split() == ["project", "runs", "fin.", "running", "failed", "crash", "kill", "created", "active"]
    assert set(rule) == {"─"}
    assert rows[-1].split() == ["tester/demo", "3", "2", "1", "0", "0", "0", "2025-12-31", "2026-01-03"]
    assert "\x1b" not in done.out
    assert all(list_entities.printable(name) in done.out.replace("\n", "") for name in ("émoji 🎉", "a/b?c#d"))
    assert "team/[red]markup[/" in done.out  # the rest of a long name is on the next line


def test_entities_and_globs(server, as_call):
    for entity in ("tester", "team", "lab"):
        for project in ("Demo", "graph-a", "graph-b", "other"):
            server.add_project(entity, project)
    done = as_call(server, "-e", "team,lab", "-e", "team", "-p", "GRAPH*", "-p", "demo", "--json", "--sort", "name")
    assert (done.code, done.err) == (0, "counting the runs of 6 projects in team, lab\n")
    assert list(projects(done)) == [f"{e}/{p}" for e in ("lab", "team") for p in ("Demo", "graph-a", "graph-b")]


def test_few_requests_and_no_runs(server, as_call):
    for number in range(450):  # more than two pages of projects
        server.add_project("team", f"project{number:03}")
    add_runs(server, "team", "project007", "f" * 30)
    server.reset()
    done = as_call(server, "--discover", "--max-rows", "3")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "447 more projects: use --max-rows 0 for all"
    counts = server.counts()
    assert counts["operation:Counts"] == 450 // PROJECTS_PER_QUESTION
    assert counts["operation:Projects"] == 1 + 3  # of two entities
    assert counts["graphql"] == counts["operation:Counts"] + 4 + 1  # and one that asks who the key is
    assert counts["runs_returned"] == 1  # the latest, of the one project that has runs


def test_a_run_without_a_heartbeat_was_active_when_it_was_created(server, as_call):
    add_runs(server, "team", "demo", "f", heartbeat_at=None)
    assert projects(as_call(server, "--json"))["team/demo"]["last_active"] == "2026-01-01T00:00:00Z"


def test_a_project_that_stands_twice_in_a_page_is_listed_once(two_projects, run_script, tmp_path):
    two_projects.fault("repeat", match={"field": "models"})
    done = run_script(SCRIPT, "-e", "team", "--json", env=two_projects.environment(tmp_path))
    assert done.code == 0, done.err
    assert sorted(row["project"] for row in json.loads(done.out)["projects"]) == ["bad", "good"]
    assert "2 projects" in done.err


def test_an_entity_of_the_key_is_not_asked_for(two_projects, call_script, tmp_path):
    """Some servers answer null; only an entity without projects that the key does not name needs it."""
    two_projects.fault("replace", place=["data", "entity"], value="null")
    for arguments in ([], ["-e", "team"]):
        done = call_script(SCRIPT, *arguments, "--json", env=two_projects.environment(tmp_path))
        assert (done.code, len(json.loads(done.out)["projects"])) == (0, 2), done.err


@pytest.mark.parametrize("script", [SCRIPT, "export_runs.py"])
def test_a_team_that_the_server_does_not_show(two_projects, call_script, tmp_path, script):
    place = ["data", "viewer", "teams", "edges", 0, "node"]
    two_projects.fault("replace", match={"operation": "Viewer"}, place=place, value="null")
    done = call_script(script, "-e", "team", env=two_projects.environment(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err


# --- no access ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (
            [],
            {"WANDB_API_KEY": "1" * 40},
            "cannot sign in to {url}: invalid API key (HTTP 401); the API key is wrong: copy ",
        ),
        (
            [],
            {"WANDB_API_KEY": "1234"},
            "invalid API key (4 characters, instead of 40 or more letters and digits) for {url}; run ",
        ),
        ([], {"WANDB_API_KEY": ""}, "no API key for {url}; run `wandb login`, set WANDB_API_KEY or use --api-key-file"),
        ([], {"WANDB_BASE_URL": "wandb"}, "WANDB_BASE_URL is not a valid URL; write for example https://api."),
        (
            FAST,
            {"WANDB_BASE_URL": "http://127.0.0.1:1"},
            "cannot sign in to http://127.0.0.1:1: the connection failed (",
        ),
        (
            [],
            {"WANDB_API_KEY": "", "WANDB_IDENTITY_TOKEN_FILE": "token"},
            "WANDB_IDENTITY_TOKEN_FILE is not supported: unset it, and run `wandb login`, set WANDB_API_KEY or ",
        ),
        (["--api-key-file", os.devnull], {}, f"no API key in {os.devnull}; run "),
        (["--api-key-file", "none.txt"], {}, "none.txt: No such file or directory; fix this and run again"),
        (["-e", "taem"], {}, "taem: your API key can see no such entity; did you mean team?"),
        (["-p", "deno"], {}, "deno: no such project; did you mean demo?"),
        (["-e", "tester"], {}, "there are no projects; name another entity with -e"),
    ],
    ids=[
        "wrong key",
        "short key",
        "no key",
        "no URL",
        "refused",
        "identity token",
        "empty key file",
        "no key file",
        "no entity",
        "no project",
        "nothing",
    ],
)
def test_no_access_is_one_line(server, as_call, arguments, variables, expected):
    server.add_project("team", "demo")
    done = as_call(server, *arguments, **variables)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: " + expected.format(url=server.url))
    assert done.err.count("\n") == 1


def test_a_server_that_never_answers_is_named_soon(server, script_command, tmp_path):
    server.fault("hang", match={"kind": "graphql"})
    command = script_command(SCRIPT, env=server.environment(tmp_path))
    with running(command) as process:
        server.wait_for_hits()
        asked_at = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - asked_at < 20  # and not the usual time for an answer, several times
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"error: cannot sign in to {server.url}: no answer within 6 s; check WANDB_BASE_URL, ")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    files = tuple(tmp_path_factory.mktemp("tls") / name for name in ("certificate", "private"))
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    what = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-out", files[0], "-keyout", files[1], *names]
    subprocess.run(what, check=True, capture_output=True)
    return files


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "the connection failed (certificate verify failed"),
        ({"SSL_CERT_FILE": "{certificate}"}, None),
        ({"WANDB_INSECURE_DISABLE_SSL": "true"}, None),
        ({"WANDB_INSECURE_DISABLE_SSL": "true", "REQUESTS_CA_BUNDLE": "{certificate}.other"}, None),
        ({"SSL_CERT_FILE": "{certificate}.other"}, "the connection failed ("),
    ],
    ids=["unknown", "known", "unchecked", "unchecked in spite of a bundle", "no such file"],
)
def test_a_private_certificate(as_process, certificate, variables, expected):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Server(tls=context) as server:
        server.add_project("tester", "demo")
        variables = {name: value.format(certificate=certificate[0]) for name, value in variables.items()}
        done = as_process(server, "--json", "--quiet", **variables)
        counts = server.counts()
    if expected is None:
        assert (done.code, done.err) == (0, "")
        assert list(projects(done)) == ["tester/demo"]
    else:
        assert (done.code, done.out, counts) == (1, "", {})
        assert done.err.startswith(f"error: cannot sign in to {server.url}: ")
        assert done.err.endswith("SSL_CERT_FILE for a private certificate\n")


def test_a_proxy_is_asked(server, as_process):
    server.add_project("tester", "demo")
    proxy = server.url.replace("://", "://user:canary@")
    names = {
        "WANDB_BASE_URL": "http://wandb.invalid",
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "NO_PROXY": "",
        "no_proxy": "",
    }
    done = as_process(server, "--json", **names)
    assert done.code == 0, done.err
    assert projects(done)["tester/demo"]["url"] == "http://wandb.invalid/tester/demo"
    assert "canary" not in done.out + done.err


def test_no_redirect_is_followed(server, as_process):
    """The key is for the server that was configured, and for no other."""
    with Server() as other:
        server.fault("status", match={"kind": "graphql"}, status=302, headers={"Location": f"{other.url}/graphql"})
        done = as_process(server)
        assert other.counts() == {}
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: cannot sign in to {server.url}: Found (HTTP 302); check WANDB_BASE_URL, ")


def test_no_prompt_at_a_terminal(server, script_command, tmp_path):
    ours, theirs = pty.openpty()
    command = script_command(SCRIPT, env=server.environment(tmp_path) | {"WANDB_API_KEY": ""})
    done = subprocess.run(**command, stdin=theirs, stdout=theirs, stderr=theirs, timeout=30, check=False)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 1
    assert shown.startswith("error: no API key for ")
    assert shown.count("\n") == 1


def test_a_key_of_an_editor_on_windows(two_projects, call_script, tmp_path):
    """It begins with a byte order mark."""
    settings = two_projects.environment(tmp_path / "sdk")
    (tmp_path / "key").write_text(f"\ufeff{settings.pop('WANDB_API_KEY')}\r\n", "utf-8")
    assert call_script("list_entities.py", "--api-key-file", "key", env=settings).code == 0


# --- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [("status", {"kind": "graphql"}, {"after": 1, "times": 3, "status": 429, "headers": {"Retry-After": "1"}})],
        [("status", {"field": "runCount"}, {"times": 2, "status": 429})],
        [
            ("status", {"field": "models"}, {"times": 1, "status": 502}),
            ("drop", {"field": "runCount"}, {"times": 1}),
            ("truncate", {"field": "runCount"}, {"times": 2}),
        ],
        [("cut", {"field": "models"}, {"times": 1}), ("status", {"field": "runCount"}, {"times": 1, "body": "<html>"})],
        [
            ("error", {"field": "models"}, {"times": 1}),
            ("status", {"operation": "Viewer"}, {"times": 1, "status": 503}),
        ],
        [("trickle", {"operation": "Viewer"}, {"times": 1, "seconds": 0.001})],
    ],
    ids=["429 with Retry-After", "429", "burst", "cut", "stated", "trickle"],
)
def test_passing_faults_lose_nothing(server, as_call, faults):
    for number in range(12):
        add_runs(server, "team", f"p{number:02}", "fx")
    rules = [server.fault(action, match=match, **parameters) for action, match, parameters in faults]
    done = as_call(server, "--json")
    assert done.code == 0, done.err
    assert Counter(row["runs"] for row in projects(done).values()) == {2: 12}
    assert [rule.hits for rule in rules] == [rule.times for rule in rules]


@pytest.mark.parametrize(
    ("action", "match", "parameters", "expected"),
    [
        ("error", {"field": "runCount"}, {"message": "too many runs"}, "too many runs"),
        ("null", {"field": "project"}, {}, "the server lists this project, but cannot find it\n"),
        ("status", {}, {"status": 500}, "simulated failure (HTTP 500)"),
        ("status", {}, {"status": 403, "message": "permission denied"}, "permission denied (HTTP 403)"),
        ("truncate", {}, {}, "the answer is incomplete, or not JSON"),
        ("cut", {}, {}, "the connection failed (ProtocolError)"),
        ("drop", {}, {}, "the connection failed (ConnectionError)"),
        ("hang", {}, {}, "no answer within 2 s"),
        ("trickle", {}, {"seconds": 0.5}, "too slow: "),
    ],
    ids=["error", "null", "500", "403", "truncated", "cut", "dropped", "hang", "trickle"],
)
def test_one_odd_project_spoils_nothing(server, as_call, action, match, parameters, expected):
    for number in range(12):
        add_runs(server, "team", f"p{number:02}", "fx")
    server.fault(action, match={"project": "p03"} | match, **parameters)
    done = as_call(server, "--json", "--quiet", "--timeout", "2", *FAST)
    assert done.code == 3
    assert done.err.startswith("error: team/p03: ")
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert sorted(projects(done)) == [f"team/p{number:02}" for number in range(12) if number != 3]
    (failed,) = json.loads(done.out)["failed"]
    assert (failed["entity"], failed["project"]) == ("team", "p03")


def test_unknown_names_beside_known_ones(server, as_call):
    add_runs(server, "team", "demo", "f")
    done = as_call(server, "-e", "team,nobody", "-p", "demo,x*", "--quiet")
    assert done.code == 3
    assert "team/demo" in done.out
    assert done.err == "error: nobody: your API key can see no such entity\nerror: x*: no such project\n"


def test_a_server_that_falls_silent_is_not_asked_for_every_project(server, as_call):
    for number in range(400):
        server.add_project("team", f"p{number:03}")
    server.fault("hang", match={"field": "runCount"})
    done = as_call(server, "--timeout", "1")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "error: team/p000: no answer within 1 s (and 399 more failures)"
    assert 20 <= server.counts()["operation:Counts"] < 40  # of 80 questions, then 400


@pytest.mark.parametrize("body", ["{}", '{"data": null}', "[]", "<html>"])
def test_an_answer_without_data(server, as_call, body):
    server.fault("status", match={"kind": "graphql"}, status=200, body=body)
    done = as_call(server)
    assert (done.code, done.out) == (1, "")
    why = "the answer is incomplete, or not JSON" if body == "<html>" else "the answer has no data"
    assert done.err.startswith(f"error: cannot sign in to {server.url}: {why}; check WANDB_BASE_URL, ")


class Failing(BaseHTTPRequestHandler):
    """Answers with the status that stands in the path, and states two errors, compressed."""

    def do_GET(self) -> None:
        body = gzip.compress(json.dumps({"errors": [{"message": "the  first"}, {"message": "the second"}]}).encode())
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def failing_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


REPEATED = {408: 0, 429: 1, 500: 0, 501: 0, 503: 1}  # how many seconds later all questions go on


@pytest.mark.parametrize("status", [*REPEATED, 400, 404, 407, 409, 428, 430, 499])
def test_a_failed_answer_says_why_and_whether_to_ask_again(failing_url, monkeypatch, status):
    monkeypatch.setattr(list_entities, "requests", requests, raising=False)  # imported late
    monkeypatch.setattr(list_entities, "urllib3", urllib3, raising=False)
    with requests.get(f"{failing_url}/{status}", stream=True, timeout=LIMIT_S) as answer:
        error = list_entities.status_error(answer)
    assert (str(error), error.status) == (f"the first (HTTP {status})", status)
    assert (error.retries > 0, error.pause_s) == (status in REPEATED, REPEATED.get(status, 0))


def test_an_answer_that_states_no_error():
    assert [list_entities.stated_error(body) for body in (b"", b"{}", b"[]", b'{"errors": []}')] == [""] * 4


def test_all_questions_wait_for_a_busy_server_and_say_so(server, as_call):
    for number in range(100):
        server.add_project("team", f"p{number:02}")
    server.fault("status", match={"field": "runCount"}, times=1, status=503, headers={"Retry-After": "2"})
    server.configure(latency_s=0.2)  # so that questions are left when the refusal arrives
    try:
        done = as_call(server, "--json", "--workers", "2")
    finally:
        server.configure(latency_s=0)
    assert done.code == 0
    assert done.err.splitlines()[1:] == ["the server is busy (HTTP 503): waiting 2 s"]
    asked = sorted(each["received_s"] for each in server.requests(operation="Counts"))
    assert len(asked) == 100 // PROJECTS_PER_QUESTION + 1
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    after = len(pauses) - pauses.index(max(pauses))
    assert max(pauses) > 1.5  # without any question
    assert after > 1  # not the refused one alone waited


def test_a_server_that_stays_busy_is_named(server, as_call):
    server.fault("status", match={"kind": "graphql"}, status=429, message="rate limit")
    done = as_call(server, *FAST)
    assert (done.code, done.out) == (1, "")
    waiting, error = done.err.splitlines()
    assert waiting == "the server is busy (HTTP 429): waiting 1 s"
    assert error == f"error: cannot sign in to {server.url}: rate limit (HTTP 429); the server is busy: try again later"


@pytest.mark.parametrize("script", ["list_entities.py", "export_runs.py"])
def test_any_timeout(two_projects, call_script, tmp_path, script):
    settings = two_projects.environment(tmp_path / "sdk")
    assert call_script(script, "-e", "team", "--timeout", 10**12, env=settings).code == 0


def test_gzip(server, as_call):
    add_runs(server, "tester", "demo", "ffr")
    server.configure(gzip=True)
    try:
        assert projects(as_call(server, "--json"))["tester/demo"]["runs"] == 3
    finally:
        server.configure(gzip=False)


# --- interrupted, closed pipes, a full disk -------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(server, script_command, tmp_path, number):
    server.add_project("team", "demo")
    server.fault("hang", match={"field": "runCount"})
    command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
    with running(command) as process:
        server.wait_for_hits()
        process.send_signal(number)
        assert process.communicate(timeout=LIMIT_S) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.parametrize(("failing", "code"), [((), 0), (("p3",), 3)])
def test_closed_pipe(server, script_command, tmp_path, failing, code):
    for name in ("demo", *failing):
        server.add_project("team", name)
        if name in failing:
            server.fault("error", match={"field": "runCount", "project": name}, message="too many runs")
    command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(**command, stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "error: team/p3: too many runs\n" if failing else "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_closed_pipe_does_not_hide_a_failure(two_projects, script_command, tmp_path, form, unbuffered):
    two_projects.fault("status", match={"project": "bad"}, status=403, message="permission denied")
    env = two_projects.environment(tmp_path) | {"PYTHONUNBUFFERED": unbuffered}
    command = script_command(SCRIPT, "-e", "team", *form, env=env)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(**command, stdout=write_end, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    os.close(write_end)
    assert done.returncode == 3, done.stderr
    assert "error: team/bad: " in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_stderr_hides_no_failure(server, script_command, tmp_path):
    server.add_project("team", "demo")
    server.fault("error", match={"field": "models", "entity": "tester"}, message="too many projects")
    command = script_command(SCRIPT, "--json", env=server.environment(tmp_path))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(**command, stderr=writing, stdout=subprocess.PIPE, timeout=30, check=False)
    os.close(writing)
    assert done.returncode == 3
    assert [row["project"] for row in json.loads(done.stdout)["projects"]] == ["demo"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="stdout cannot be written to")
def test_full_disk(server, script_command, tmp_path):
    server.add_project("team", "demo")
    with Path("/dev/full").open("w") as full:
        command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
        done = subprocess.run(**command, stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device; fix this and run again\n")


# --- manners --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "code"), [("variable", 0), ("variable", 1), ("file", 0), ("netrc", 0), ("settings", 0), ("own settings", 0)]
)
def test_the_key_is_found_and_appears_nowhere(call_script, tmp_path, way, code):
    key = secrets.token_hex(20)
    folders = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    with Server(api_key=key) as server:
        add_runs(server, "tester", "demo", "f")
        env = {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "WANDB_BASE_URL": server.url}
        env |= {"WANDB_MODE": "offline", "WANDB_SERVICE": "3-1-unix-/nowhere", "WANDB_SILENT": "false"}
        env |= {"WANDB_DIR": "", "WANDB_CONFIG_DIR": "", "NETRC": ""}
        arguments = ["--debug"]
        key_file = {
            "netrc": folders["home"] / ".netrc",
            "settings": folders["home"] / ".config/wandb/settings",
            "own settings": folders["cwd"] / "wandb/settings",
        }.get(way, tmp_path / "key.txt")
        key_file.parent.mkdir(parents=True, exist_ok=True)
        if way == "variable":
            env["WANDB_API_KEY"] = key
        elif way == "file":
            key_file.write_text(key + "\n")
            arguments += ["--api-key-file", key_file]
            env["WANDB_API_KEY"] = "0" * 40
        elif way == "netrc":
            key_file.write_text(f"machine {server.url.removeprefix('http://')} login user password {key}\n")
        else:
            key_file.write_text(f"[default]\nbase_url = {server.url}\napi_key = {key}\n")
            del env["WANDB_BASE_URL"]
        before = key_file.read_bytes() if key_file.exists() else b""
        if code == NOTHING_USABLE:
            server.fault("status", match={"field": "models"}, status=403)
        done = call_script(SCRIPT, *arguments, env=env, cwd=folders["cwd"])
    assert done.code == code, done.err
    assert ("Traceback" in done.err) is (code != 0)
    assert key not in done.out + done.err
    assert (key_file.read_bytes() if key_file.exists() else b"") == before
    left = [file for folder in folders.values() for file in folder.rglob("*") if file.is_file() and file != key_file]
    assert left == []  # nothing is left behind at all


@pytest.mark.parametrize("password", ["canary", "canary@", "8canary/x", "8#canary", "8?canary", "c%40canary"])
@pytest.mark.parametrize("key", ["0" * 40, "1" * 40, ""])
def test_a_password_in_the_address_appears_nowhere(server, as_call, password, key):
    server.add_project("tester", "demo")
    url = server.url.replace("://", f"://user:{password}@")
    for arguments in (["--json"], []):
        done = as_call(server, *arguments, WANDB_BASE_URL=url, WANDB_API_KEY=key)
        assert "canary" not in done.out + done.err
        assert done.code == (1 if key != "0" * 40 or "/" in password else 0)


@pytest.mark.parametrize("argument", ["--api-key=canary", "--json-api-key=canary", "--api-key"])
def test_an_unknown_argument_is_named_without_its_value(call_script, argument):
    done = call_script(SCRIPT, argument, "canary", "--debug")
    assert (done.code, done.out) == (2, "")
    assert f"error: unknown argument {argument.partition('=')[0]}; did you mean --" in done.err
    assert "canary" not in done.err


def test_without_a_key_nothing_slow_is_imported(run_script, tmp_path):
    env = {"PYTHONPROFILEIMPORTTIME": "1", "HOME": str(tmp_path), "NETRC": ""}
    done = run_script(SCRIPT, env=env)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: no API key for https://api.")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert "netrc" in imported
    assert not imported & {"wandb", "rich", "pydantic", "requests", "urllib3"}


def test_help_is_a_manual_and_imports_nothing_slow(run_script):
    done = run_script(SCRIPT, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.code == 0
    assert "Exit codes:" in done.out
    assert max(map(len, done.out.splitlines())) <= 120
    assert "argparse" in done.err
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert not imported & {"wandb", "rich", "pydantic", "requests", "urllib3"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--jsn"], "unknown argument --jsn; did you mean --json"),
        (["-e", "team", "--discover"], "argument --discover: not allowed with argument -e/--entity"),
        (["--sort", "size"], "argument --sort: invalid choice: 'size'"),
        (["--timeout", "0"], "argument --timeout: 0 is not a whole number of 1 or more"),
        (["--max-rows", "-1"], "argument --max-rows: "),
    ],
)
def test_wrong_usage(arguments, expected):
    with pytest.raises(ScriptError) as error:
        list_entities.parse_args(arguments)
    assert str(error.value).startswith(expected)
    assert error.value.exit_code == 2


def test_wrong_usage_as_a_process(run_script):
    done = run_script(SCRIPT, "--sorted")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: unknown argument --sorted; did you mean --sort")


@pytest.mark.parametrize("flag", ["--entity", "--project"])
def test_a_filter_without_a_value_is_no_filter(call_script, flag):
    """As of `-e "$TEAM"` where the variable is not set: everything would be listed."""
    done = call_script(SCRIPT, flag, "", env={"WANDB_BASE_URL": "http://127.0.0.1:1"})
    assert (done.code, done.out) == (2, "")
    assert flag in done.err
    assert "needs a value; see --help" in done.err
    assert done.err.count("\n") == 1


# --- the parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "expected"), [("runs", "bcad"), ("name", "acdb"), ("created", "dabc"), ("active", "acbd")]
)
def test_sorting(server, as_call, sort, expected):
    """Most or newest first, what has no time last, and by name, case ignored, where that is equal."""
    last = "z" if sort == "name" else "team"
    for name, runs, created, active, entity in [
        ("D", 0, 9, None, "team"),
        ("c", 2, 1, 3, "team"),
        ("a", 1, 4, 5, "team"),
        ("b", 7, 2, 2, last),
    ]:
        server.add_project(entity, name, created_at=f"2026-01-0{created}T00:00:00")
        for number in range(runs):
            time_ = f"2026-01-0{active}T00:00:00Z"
            server.add_run(entity, name, f"r{number}", created_at=time_, heartbeat_at=time_)
    done = as_call(server, "--json", "--sort", sort)
    assert "".join(row["project"] for row in projects(done).values()).lower() == expected


def row(name: str, runs: int = 0) -> dict:
    times = {"created_at": "2026-01-01T00:00:00Z", "last_active": None}
    counts = {"runs": runs} | dict.fromkeys(COUNTED_STATES, 0)
    return {"entity": "team", "project": name, "url": "http://127.0.0.1/team/x", **counts, **times}


@pytest.mark.parametrize("name", ["p", "project-with-a-long-name-" * 5, "プロジェクト"])
def test_the_table_is_bounded(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [row(f"{name}{number:03}", 123_456) for number in range(300)]
    text = list_entities.for_people(rows, None)
    assert len(text) < 4_200
    assert max(map(len, text.splitlines())) <= 80
    left_out = int(text.splitlines()[-1].split()[0])
    assert 300 - left_out == text.count("123456")
    whole = list_entities.for_people(rows, 0)
    assert whole.count("123456") == 300
    assert "more project" not in whole
    assert list_entities.for_people(rows, 299).splitlines()[-1].startswith("1 more project: ")


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_starts_at_the_left_and_has_a_line_a_project(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    row = {"entity": "team", "project": "a", "url": "http://127.0.0.1/x", "last_active": "2026-01-01"}
    row |= dict.fromkeys(("runs", *list_entities.COUNTED_STATES), 123_456) | {"created_at": "2026-01-01T00:00:00Z"}
    heading, rule, line = list_entities.for_people([row], None).splitlines()
    assert heading.startswith("project ")
    assert line.startswith("team/a ")
    assert len(line) <= len(rule) <= width


def test_no_two_projects_look_alike(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"pretraining-of-the-{kind}-transformer-with-learning-rate-warmup" for kind in ("large", "small")]
    text = list_entities.for_people([row(name) for name in [*names, "alone-" * 20]], None)
    assert all(f"team/{name}" in "".join(line.split()[0] for line in text.splitlines()) for name in names)
    assert "…" in text.splitlines()[-1]


def test_long_names_that_differ_near_their_start_take_one_line_each(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"vision-{place}-image-classification-experiments" for place in ("asia", "europe")]
    _, _, *lines = list_entities.for_people([row(name) for name in names], None).splitlines()
    assert [line.split("-")[1] for line in lines] == ["asia", "europe"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("fits-" * 5 + "1", "team/" + "fits-" * 5 + "1  123 "),
        ("sweep-of-the-learning-rate-" * 3 + "17", "team/sweep-o…-of-the-learning-rate-17  123 "),
        ("プロジェクト" * 9 + "7", "team/プロジ … ロジェクトプロジェクト7  123 "),
    ],
)
def test_the_middle_of_a_long_name_is_left_out(monkeypatch, name, shown):
    monkeypatch.setenv("COLUMNS", "80")
    assert shown in list_entities.for_people([row(name, 123)], None)


def test_names_in_a_table_are_data(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = list_entities.for_people([row(name) for name in (*ODD_NAMES, "[link=x]:eye:[/link]", "b\u202ea")], None)
    for name in ("[red]markup[/red]", "esc�[31mape", "émoji 🎉", "a/b?c#d", "[link=x]:eye:[/link]", "b�a"):
        assert f"team/{name} " in text


def test_json_may_be_bounded_too(server, as_call):
    for name in ("a", "b"):
        server.add_project("team", name)
    assert len(projects(as_call(server, "--json"))) == 2
    bounded = as_call(server, "--json", "--max-rows", "1")
    assert len(projects(bounded)) == 1
    assert bounded.err.endswith("\n1 more project: use --max-rows 0 for all\n")


def test_names_in_json_are_data(server, as_call):
    """Nothing that a terminal obeys, and every name as it is."""
    names = [*ODD_NAMES, "c1\x9b31m", "del\x7f"]
    for name in names:
        server.add_project("team", name)
    done = as_call(server, "--json")
    assert {each["project"] for each in projects(done).values()} == set(names)
    assert not {*"\x1b\x7f\x9b"} & set(done.out)


def test_the_three_nearest_names_are_suggested():
    assert list_entities.did_you_mean("loss", ["loss1", "loss2", "loss3", "loss4"]).count("loss") == 3


ADDRESSES = (
    "https://api.wandb.ai",
    "https://api.forge.coreweave.com/",
    "https://forge.coreweave.com/api/wandb",
    "https://api.wandb.example.org",
    "https://api.example.org/",
    "http://localhost:8080",
    "http://[::1]:8080/base/",
)


@pytest.mark.parametrize("url", ADDRESSES)
def test_addresses_and_login_are_the_sdks(url, monkeypatch, tmp_path):
    """What the SDK makes of an address, and the key that it finds for it in netrc."""
    from wandb.sdk.lib.wbauth.host_url import HostUrl
    from wandb.sdk.lib.wbauth.wbnetrc import read_netrc_auth

    monkeypatch.delenv("WANDB_APP_URL", raising=False)  # which only the SDK knows
    monkeypatch.setenv("WANDB_BASE_URL", url)
    expected = HostUrl(url)
    assert list_entities.base_url() == expected.url
    assert list_entities.page_url(expected.url) == expected.app_url
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    assert list_entities.netrc_key(expected.url) is None
    hosts = ["api.wandb.ai", "localhost", "localhost:8080", "[::1]:8080", "api.example.org"]
    for known in (hosts[:1], hosts[1:], hosts):
        lines = [f"machine {host} login user password {hosts.index(host)}{'0' * 40}\n" for host in known]
        file.write_text("".join(lines))
        assert list_entities.netrc_key(expected.url) == read_netrc_auth(host=expected)
    file.write_text("machine\n")
    assert list_entities.netrc_key(expected.url) is None


@pytest.mark.parametrize("url", ["wandb", "http://api.wandb.ai", "ftp://example.org", "https://", "http://a b", "//x"])
def test_no_address(url, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    with pytest.raises(ScriptError, match="WANDB_BASE_URL is not a valid URL"):
        list_entities.base_url()


@pytest.mark.parametrize("url", ["https://wandb.ai", "https://wandb.ai/team/demo", "https://forge.coreweave.com/wandb"])
def test_a_page_stands_for_its_server(url, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    assert list_entities.base_url() == list_entities.CLOUD_URL


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("a" * 40, True),
        ("A_9" * 20, True),
        ("local-" + "a" * 40, True),
        ("head-er.pay_load.signature", True),
        ("a" * 39, False),
        ("a.b", False),
        ("a" * 39 + "é", False),
        ("a" * 20 + " " + "a" * 20, False),
    ],
)
def test_forms_of_keys(key, is_one, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", f" {key}\n")
    if is_one:
        assert list_entities.api_key(None, "http://127.0.0.1") == key
    else:
        with pytest.raises(ScriptError, match="invalid API key") as error:
            list_entities.api_key(None, "http://127.0.0.1")
        assert key not in str(error.value)


def test_doctests():
    assert doctest.testmod(list_entities).failed == 0
