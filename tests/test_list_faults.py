"""Faults that list_entities.py had, or shares with export_runs.py, each as a test of the script as a process.

What concerns keys, addresses and secrets is in test_access.py and test_secrets.py, for both scripts.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import list_entities
import pytest
import requests
import urllib3
from conftest import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wandb_server import Server

SCRIPT = "list_entities.py"


@pytest.fixture
def server(empty_server) -> Server:
    for project in ("good", "bad"):
        empty_server.add_run("team", project, "abc", state="finished")
    return empty_server


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_closed_pipe_does_not_hide_a_failure(server, script_command, tmp_path, form, unbuffered):
    server.fault("status", match={"project": "bad"}, status=403, message="permission denied")
    env = server.environment(tmp_path) | {"PYTHONUNBUFFERED": unbuffered}
    command = script_command(SCRIPT, "-e", "team", *form, env=env)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(**command, stdout=write_end, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    os.close(write_end)
    assert done.returncode == 3, done.stderr
    assert "error: team/bad: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--entity", "--project"])
def test_a_filter_without_a_value_is_no_filter(call_script, flag):
    """As of `-e "$TEAM"` where the variable is not set: everything would be listed."""
    done = call_script(SCRIPT, flag, "", env={"WANDB_BASE_URL": "http://127.0.0.1:1"})
    assert (done.code, done.out) == (2, "")
    assert flag in done.err
    assert "needs a value; see --help" in done.err
    assert done.err.count("\n") == 1


def test_an_entity_of_the_key_is_not_asked_for(server, call_script, tmp_path):
    """Some servers answer null; only an entity without projects that the key does not name needs it."""
    server.fault("replace", place=["data", "entity"], value="null")
    for arguments in ([], ["-e", "team"]):
        done = call_script(SCRIPT, *arguments, "--json", env=server.environment(tmp_path))
        assert (done.code, len(json.loads(done.out)["projects"])) == (0, 2), done.err


@pytest.mark.parametrize("script", [SCRIPT, "export_runs.py"])
def test_a_team_that_the_server_does_not_show(server, call_script, tmp_path, script):
    place = ["data", "viewer", "teams", "edges", 0, "node"]
    server.fault("replace", match={"operation": "Viewer"}, place=place, value="null")
    done = call_script(script, "-e", "team", env=server.environment(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err


def test_a_project_that_stands_twice_in_a_page_is_listed_once(server, run_script, tmp_path):
    server.fault("repeat", match={"field": "models"})
    done = run_script(SCRIPT, "-e", "team", "--json", env=server.environment(tmp_path))
    assert done.code == 0, done.err
    assert sorted(row["project"] for row in json.loads(done.out)["projects"]) == ["bad", "good"]
    assert "2 projects" in done.err


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
def failing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


REPEATED = {408: 0, 429: 1, 500: 0, 501: 0, 503: 1}  # how many seconds later all questions go on


@pytest.mark.parametrize("status", [*REPEATED, 400, 404, 407, 409, 428, 430, 499])
def test_a_failed_answer_says_why_and_whether_to_ask_again(failing, monkeypatch, status):
    monkeypatch.setattr(list_entities, "requests", requests, raising=False)  # imported late
    monkeypatch.setattr(list_entities, "urllib3", urllib3, raising=False)
    with requests.get(f"{failing}/{status}", stream=True, timeout=LIMIT_S) as answer:
        error = list_entities.status_error(answer)
    assert (str(error), error.status) == (f"the first (HTTP {status})", status)
    assert (error.retries > 0, error.pause_s) == (status in REPEATED, REPEATED.get(status, 0))


def test_an_answer_that_states_no_error():
    assert [list_entities.stated_error(body) for body in (b"", b"{}", b"[]", b'{"errors": []}')] == [""] * 4


def test_the_three_nearest_names_are_suggested():
    assert list_entities.did_you_mean("loss", ["loss1", "loss2", "loss3", "loss4"]).count("loss") == 3


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_starts_at_the_left_and_has_a_line_a_project(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    row = {"entity": "team", "project": "a", "url": "http://127.0.0.1/x", "last_active": "2026-01-01"}
    row |= dict.fromkeys(("runs", *list_entities.COUNTED_STATES), 123_456) | {"created_at": "2026-01-01T00:00:00Z"}
    heading, rule, line = list_entities.for_people([row], None).splitlines()
    assert heading.startswith("project ")
    assert line.startswith("team/a ")
    assert len(line) <= len(rule) <= width


def test_a_key_of_an_editor_on_windows(server, call_script, tmp_path):
    """It begins with a byte order mark."""
    settings = server.environment(tmp_path / "sdk")
    (tmp_path / "key").write_text(f"\ufeff{settings.pop('WANDB_API_KEY')}\r\n", "utf-8")
    assert call_script("list_entities.py", "--api-key-file", "key", env=settings).code == 0


@pytest.mark.parametrize("script", ["list_entities.py", "export_runs.py"])
def test_any_timeout(server, call_script, tmp_path, script):
    settings = server.environment(tmp_path / "sdk")
    assert call_script(script, "-e", "team", "--timeout", 10**12, env=settings).code == 0
