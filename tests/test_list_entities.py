"""list_entities.py as users run it, against a server of our own; then the parts that need none."""

from __future__ import annotations

import doctest
import http.server
import inspect
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
from datetime import UTC, datetime
from pathlib import Path

import list_entities
import pytest
from conftest import Done
from list_entities import COUNTED_STATES, NOTHING_USABLE, PROJECTS_PER_QUESTION, Row, ScriptError
from wandb_server import Server

SCRIPT = "list_entities.py"
FAST = ("--retries", "1")  # where a test waits for the end of all tries
ODD_NAMES = ("[red]markup[/red]", "esc\x1b[31mape", "émoji 🎉", "a/b?c#d")


@pytest.fixture(scope="module")
def shared_server():
    with Server() as server:
        yield server


@pytest.fixture
def server(shared_server):
    """One server for all tests of a process; each starts with nothing in it."""
    shared_server.reset()
    shared_server.configure(latency_s=0.0)
    shared_server.store.entities.clear()
    shared_server.add_entity("tester")
    return shared_server


@pytest.fixture
def as_process(run_script, tmp_path):
    """Run the script against a server, as users do."""

    def run(server, *arguments, **variables) -> Done:
        return run_script(SCRIPT, *arguments, env=server.environment(tmp_path) | variables)

    return run


@pytest.fixture
def as_call(capsys, monkeypatch, tmp_path):
    """The same without a process of its own, of which a second goes into `import wandb`."""

    def run(server, *arguments, **variables) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", os.environ.copy() | server.environment(tmp_path) | variables)
            patch.chdir(tmp_path)
            handler = signal.getsignal(signal.SIGTERM)
            code = list_entities.main([*map(str, arguments)])
            signal.signal(signal.SIGTERM, handler)
        done = Done(code, *capsys.readouterr())
        assert "a bug in this script" not in done.err
        return done

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
    assert done.out.splitlines()[-1] == "447 more projects: --max-rows 0 shows all, --json too"
    counts = server.counts()
    assert counts["operation:Counts"] == 450 // PROJECTS_PER_QUESTION
    assert counts["operation:Projects"] == 1 + 3  # of two entities
    assert counts["graphql"] == counts["operation:Counts"] + 4 + 2  # and two that ask who the key is
    assert counts["runs_returned"] == 1  # the latest, of the one project that has runs


# --- no access ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ([], {"WANDB_API_KEY": "1" * 40}, "{url} refuses the API key: invalid API key; copy it again from "),
        ([], {"WANDB_API_KEY": "1234"}, "unusable API key: WANDB_API_KEY invalid: API key must have 40+ characters, "),
        ([], {"WANDB_API_KEY": ""}, "no API key for {url}; run `wandb login`, set WANDB_API_KEY or name a file "),
        ([], {"WANDB_BASE_URL": "wandb"}, "WANDB_BASE_URL is unusable: Input should be a valid URL, "),
        (FAST, {"WANDB_BASE_URL": "http://127.0.0.1:1"}, "cannot sign in to http://127.0.0.1:1: "),
        (["--api-key-file", "none.txt"], {}, "--api-key-file none.txt cannot be read: No such file or directory"),
        (["-e", "taem"], {}, "taem: no entity that this key can see; did you mean team?"),
        (["-p", "deno"], {}, "deno: no such project here; did you mean demo?"),
        (["-e", "tester"], {}, "no projects there; name another entity with -e"),
    ],
    ids=["wrong key", "short key", "no key", "no URL", "refused", "no key file", "no entity", "no project", "nothing"],
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
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.wait_for_hits()
        asked_at = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - asked_at < 9  # with the start of Python and SDK, 10 s
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"error: cannot sign in to {server.url}: no answer within 6 s; check WANDB_BASE_URL, ")


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes the certificate")
def test_a_private_certificate(run_script, tmp_path):
    certificate, private = tmp_path / "certificate", tmp_path / "private"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        private,
        "-out",
        certificate,
        *name,
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"https://127.0.0.1:{server.server_port}"
        done = run_script(SCRIPT, env={"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40})
        server.shutdown()
        thread.join()
    assert (done.code, done.out) == (1, "")
    assert f"cannot sign in to {url}: " in done.err
    assert "SSL_CERT_FILE for a private certificate" in done.err


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
    ],
    ids=["429 with Retry-After", "429", "burst", "cut"],
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
        ("error", {"field": "runCount"}, {"message": "too many runs"}, "p0.runs too many runs"),
        ("null", {"field": "project"}, {}, "the server lists this project but does not find it"),
        ("status", {}, {"status": 500}, "HTTP 500: simulated failure"),
        ("status", {}, {"status": 403, "message": "permission denied"}, "permission denied"),
        ("truncate", {}, {}, "unexpected EOF"),
        ("hang", {}, {}, "no answer within 2 s"),
    ],
    ids=["error", "null", "500", "403", "truncated", "hang"],
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
    assert done.err == "error: nobody: no entity that this key can see\nerror: x*: no such project here\n"


def test_a_server_that_falls_silent_is_not_asked_for_every_project(server, as_call):
    for number in range(400):
        server.add_project("team", f"p{number:03}")
    server.fault("hang", match={"field": "runCount"})
    done = as_call(server, "--timeout", "1")
    assert (done.code, done.out) == (1, "")
    assert (
        done.err.splitlines()[-1]
        == "error: team/p000: not asked, as the server no longer answers (and 399 more failures)"
    )
    assert 20 <= server.counts()["operation:Counts"] < 40  # of 80 questions, then 400


@pytest.mark.parametrize("body", ["{}", '{"data": null}'])
def test_an_answer_without_data(server, as_call, body):
    server.fault("status", match={"kind": "graphql"}, after=1, status=200, body=body)
    done = as_call(server)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: the server does not say what the key can see: an answer without data; ")


def test_interrupted(server, script_command, tmp_path):
    server.add_project("team", "demo")
    server.fault("hang", match={"field": "runCount"})
    command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.wait_for_hits()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the SDK's process there")
def test_a_deaf_service_process_holds_nothing_up(server, script_command, tmp_path):
    """The SDK waits for its service process to end, which misses the request for it once in a hundred timeouts."""
    server.add_project("team", "demo")
    server.fault("hang", match={"field": "runCount"})
    command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.wait_for_hits()
        (service,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        os.kill(service, signal.SIGSTOP)
        while Path(f"/proc/{service}/stat").read_text().split()[2] != "T":
            pass  # its threads stop one by one
        try:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 130
        finally:
            os.kill(service, signal.SIGCONT)
        assert process.communicate() == ("", "interrupted\n")


def test_closed_pipe(server, script_command, tmp_path):
    server.add_project("team", "demo")
    command = script_command(SCRIPT, "--quiet", env=server.environment(tmp_path))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(**command, stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# --- manners --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "code"), [("variable", 0), ("variable", 1), ("file", 0), ("netrc", 0)])
def test_the_key_is_found_and_appears_nowhere(run_script, tmp_path, way, code):
    key = secrets.token_hex(20)
    folders = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    with Server(api_key=key) as server:
        add_runs(server, "tester", "demo", "f")
        env = {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "WANDB_BASE_URL": server.url}
        env |= {"WANDB_MODE": "offline", "WANDB_SERVICE": "3-1-unix-/nowhere", "WANDB_SILENT": "false"}
        arguments = ["--debug"]
        key_file = tmp_path / "key.txt"
        if way == "variable":
            env["WANDB_API_KEY"] = key
        elif way == "file":
            key_file.write_text(key + "\n")
            arguments += ["--api-key-file", key_file]
        else:
            key_file.write_text(f"machine {server.url.removeprefix('http://')} login user password {key}\n")
            env["NETRC"] = str(key_file)
        before = key_file.read_bytes() if key_file.exists() else b""
        if code == NOTHING_USABLE:
            server.fault("status", match={"field": "models"}, status=403)
        done = run_script(SCRIPT, *arguments, env=env, cwd=folders["cwd"])
    assert done.code == code, done.err
    assert ("Traceback" in done.err) is (code != 0)
    assert key not in done.out + done.err
    assert (key_file.read_bytes() if key_file.exists() else b"") == before
    assert [file for folder in folders.values() for file in folder.rglob("*")] == []  # nothing is left behind at all


def test_help_is_a_manual_and_imports_nothing_slow(run_script):
    done = run_script(SCRIPT, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.code == 0
    assert "Exit codes:" in done.out
    assert max(map(len, done.out.splitlines())) <= 120
    assert "argparse" in done.err
    assert not [line for line in done.err.splitlines() if "wandb" in line or "rich" in line or "pydantic" in line]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--jsn"], "unknown argument --jsn; did you mean --json"),
        (["-e", "team", "--discover"], "argument --discover: not allowed with argument -e/--entity"),
        (["--sort", "size"], "argument --sort: invalid choice: 'size'"),
        (["--timeout", "0"], "argument --timeout: 0 is no number from 1 on"),
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


def test_the_private_call_is_still_there():
    """`query` sends questions through a private attribute: a new SDK must still have it."""
    from wandb.apis.public import Api
    from wandb.apis.public.service_api import ServiceApi

    parameters = inspect.signature(ServiceApi.execute_graphql).parameters
    assert {"query", "variables", "timeout", "parse"} <= set(parameters)
    assert "self._service_api" in inspect.getsource(Api.__init__)


# --- the parts ------------------------------------------------------------------------------------------------


def row(
    project: str, runs: int = 0, created: int | None = None, active: int | None = None, entity: str = "team"
) -> Row:
    days = [None if day is None else datetime(2026, 1, day, tzinfo=UTC) for day in (created, active)]
    return Row(entity, project, runs, 0, 0, 0, 0, 0, *days, "http://127.0.0.1/team/x")


@pytest.mark.parametrize(
    ("sort", "expected"), [("runs", "bcad"), ("name", "abcd"), ("created", "dabc"), ("active", "acbd")]
)
def test_sorted_rows(sort, expected):
    rows = [row("d", 1, 9), row("c", 2, None, 3), row("a", 1, 4, 5), row("b", 7, 2, 3, entity="z")]
    if sort != "name":
        rows = [each._replace(entity="team") for each in rows]
    order = [each.project for each in list_entities.sorted_rows(rows, sort)]
    assert order == list("acdb" if sort == "name" else {"active": "abcd"}.get(sort, expected))


@pytest.mark.parametrize("name", ["p", "project-with-a-long-name-" * 5, "プロジェクト"])
def test_the_table_is_bounded(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [row(f"{name}{number:03}", 123_456, 1, 2) for number in range(300)]
    text = list_entities.for_people(rows, None)
    assert len(text) < 4_200
    assert max(map(len, text.splitlines())) <= 80
    left_out = int(text.splitlines()[-1].split()[0])
    assert 300 - left_out == text.count("123456")
    assert list_entities.for_people(rows, 0).count("123456") == 300
    assert "more project" not in list_entities.for_people(rows, 0)
    assert list_entities.for_people(rows, 299).splitlines()[-1].startswith("1 more project: ")


def test_names_in_a_table_are_data(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = list_entities.for_people([row(name) for name in (*ODD_NAMES, ":smile: [link=x]y[/link]", "b\u202ea")], None)
    for name in ("[red]markup[/red]", "esc�[31mape", "émoji 🎉", "a/b?c#d", ":smile: [link=x]y[/link]", "b�a"):
        assert f"team/{name} " in text


def test_json_may_be_bounded_too():
    rows = [row("a"), row("b")]
    assert len(json.loads(list_entities.for_programs(rows, [], None))["projects"]) == 2
    assert len(json.loads(list_entities.for_programs(rows, [], 1))["projects"]) == 1


@pytest.mark.parametrize("text", [None, "", "yesterday"])
def test_no_time(text):
    assert list_entities.moment_in(text) is None


def test_doctests():
    assert doctest.testmod(list_entities).failed == 0
