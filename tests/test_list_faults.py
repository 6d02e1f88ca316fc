"""Faults that list_entities.py had, or shares with export_runs.py, each as a test of the script as a process.

What concerns keys, addresses and secrets is in test_access.py and test_secrets.py, for both scripts.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import LIMIT_S

if TYPE_CHECKING:
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
    assert done.err.count("\n") == 1


def test_a_project_that_stands_twice_in_a_page_is_listed_once(server, run_script, tmp_path):
    server.fault("repeat", match={"field": "models"})
    done = run_script(SCRIPT, "-e", "team", "--json", env=server.environment(tmp_path))
    assert done.code == 0, done.err
    assert sorted(row["project"] for row in json.loads(done.out)["projects"]) == ["bad", "good"]
    assert "2 projects" in done.err
