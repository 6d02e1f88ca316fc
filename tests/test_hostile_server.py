"""A sample of `tests/attacks/hostile_server.py`: servers that mean harm, and what the two scripts make of them."""

from __future__ import annotations

import itertools
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import hostile_server as hostile
import pytest
from wandb_server import API_KEY, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLE = (
    "names of projects, runs, keys and tables",
    "names of entities",
    "values that users log",
    "sweeps whose YAML expands",
    "an answer without an end",
    "a redirect that expands to 3 GB",
    "an answer that is nested 100,000 deep",
    "a message of 1 MB",
    "runs that come again and again",
    "output that comes again and again",
    "a signed URL 'file:///etc/passwd'",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all cases find the same earlier export."""
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", SAMPLE)
def test_cases(folder, name):
    assert hostile.try_case(name, folder) == []


def test_a_dry_run_of_runs_that_come_again_and_again(tmp_path, call_export):
    with Server() as server:
        hostile.fill(server)
        hostile.same_page("Runs", "project", "runs")(server)
        done = call_export("team/demo", "--dry-run", env=server.environment(tmp_path))
    said = "error: team/demo: the server repeats its list of runs without end; try again later\n"
    assert done == (3, "", said)


@pytest.mark.parametrize("script", hostile.SCRIPTS)
def test_wrong_values_in_answers(tmp_path, call_script, script):
    """Some of all places of all answers, and at each another value, in this process, whose memory is not measured."""
    with Server() as server:
        earlier, here = hostile.prepared(server, tmp_path)
        answers = hostile.answers_of(script, server, here)
        places = [(answered, place) for answered in answers for place in answered.places]
        found = []
        for (answered, place), value in zip(places[:: len(places) // 8], itertools.cycle(hostile.WRONG_VALUES)):
            server.clear_faults()
            hostile.put_wrong_value(server, answered, place, value)
            if script == "export_runs":
                earlier.put(here)
            env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "HOME": str(here), "COLUMNS": "120"}
            done = call_script(f"{script}.py", *hostile.arguments_of(script, here), env=env, cwd=here)
            new = hostile.faults_of(hostile.Ended(*done, seconds=0, peak_mb=0))
            new += hostile.lost(here, earlier) if script == "export_runs" else []
            found += [f"{value or 'nothing'} at {answered.operation} {place}: {each}" for each in new]
        assert found == []


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Another host, and the headers of all requests to it."""
    asked: list[dict[str, Any]] = []

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as other:
        Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://localhost:{other.server_port}", asked
        other.shutdown()


@pytest.mark.parametrize("script", hostile.SCRIPTS)
def test_no_question_is_sent_to_where_a_server_points(elsewhere, tmp_path, script):
    url, asked = elsewhere
    with Server() as server:
        hostile.fill(server)
        for status in (301, 308):  # as of 302 and 307 in test_access
            server.clear_faults()
            server.fault("status", match={"kind": "graphql"}, status=status, headers={"Location": f"{url}/graphql"})
            ended = hostile.run(script, server, tmp_path, *hostile.arguments_of(script, tmp_path))
            assert (ended.code, asked) == (1, [])
            assert f"(HTTP {status})" in ended.err
            assert ended.err.count("\n") == 1


@pytest.mark.parametrize("how", ["redirect", "signed URL"])
def test_downloads_come_from_private_hosts_without_credentials(elsewhere, tmp_path, how):
    """Self-hosted storage is often at a private address: it is asked, but with no key, nor what netrc has for it."""
    url, asked = elsewhere
    (tmp_path / ".netrc").write_text("machine localhost login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with Server() as server:
        hostile.fill(server)
        if how == "redirect":
            server.fault("status", match={"kind": "download"}, status=302, headers={"Location": url})
        else:
            server.settings.storage_url = url
        ended = hostile.run("export_runs", server, tmp_path, *hostile.arguments_of("export_runs", tmp_path))
    assert ended.code == 3
    assert "Not Found (HTTP 404)" in ended.err
    assert asked
    assert not any({"authorization", "cookie"} & {name.lower() for name in headers} for headers in asked)
