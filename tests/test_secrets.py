"""What must appear nowhere: the API key and a password in the server's address, looked for wherever scripts write."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aggregate_runs
import analyze_runs
import polars as pl
import pytest
from conftest import Done, running, wait_until
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_SCRIPTS = ("list_entities.py", "export_runs.py", "aggregate_runs.py", "analyze_runs.py")
SERVER_SCRIPTS = ALL_SCRIPTS[:2]
NO_SERVER = "127.0.0.1:1"


# --- in arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize(
    "form", [("--api-key={}",), ("--api-key", "{}"), ("--quiet", "--api_key={}", "--debug"), ("--wandb-api-key={}",)]
)
def test_a_key_given_as_an_argument_is_not_repeated(call_script, script, form):
    canary = secrets.token_hex(20)
    arguments = [part.format(canary) for part in form]
    done = call_script(script, *arguments, env={"WANDB_BASE_URL": f"http://{NO_SERVER}"})
    assert (done.code, done.out) == (2, "")
    assert canary not in done.err
    assert next(part for part in form if "key" in part).removesuffix("={}") in done.err
    *traceback, line = done.err.splitlines()
    assert line.startswith("error: unknown argument ")
    assert bool(traceback) == ("--debug" in form)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("https://user:{}@wandb.ai/team", 1),  # whose server does not answer
        ("https://user:{}@wandb.ai", 2),
        ("https://user:{}@wandb.ai/team/demo/reports/a", 2),
    ],
)
def test_a_password_in_a_pasted_address_is_not_repeated(call_export, place, code):
    canary = secrets.token_hex(20)
    env = {"WANDB_BASE_URL": f"http://{NO_SERVER}", "WANDB_API_KEY": "0" * 40}
    done = call_export(place.format(canary), "--retries", 0, env=env)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert canary not in done.err + done.out


# --- in all that is written -----------------------------------------------------------------------------------


class Canaries(NamedTuple):
    """A server that knows a key, at an address with a password; both are looked for afterwards."""

    server: Server
    key: str
    password: str

    @property
    def url(self) -> str:
        return self.server.url.replace("http://", f"http://user:{self.password}@")

    def environment(self, folder: Path) -> dict[str, str]:
        own = {name: str(folder / name.lower()) for name in ("HOME", "TMPDIR")}
        for path in own.values():
            Path(path).mkdir(exist_ok=True)
        return self.server.environment(folder / "sdk") | own | {"WANDB_BASE_URL": self.url}

    def assert_not_in(self, *texts: str | bytes) -> None:
        for text in texts:
            for secret in (self.key, self.password, f"user:{self.password[:8]}"):
                found = secret in text if isinstance(text, str) else secret.encode() in text
                assert not found, text

    def assert_not_below(self, folder: Path) -> None:
        """In no file, and, as columns are compressed, in no column, no parquet metadata and no file's name."""
        for file in folder.rglob("*"):
            self.assert_not_in(file.name)
            if file.is_file():
                self.assert_not_in(file.read_bytes())
            if file.suffix == ".parquet":
                self.assert_not_in(str(pl.read_parquet_metadata(file)), pl.read_parquet(file, glob=False).write_json())


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    key, password = secrets.token_hex(20), secrets.token_hex(20)
    with Server(api_key=key) as server:
        for number in range(3):
            server.add_run("team", "demo", f"r{number}", config={"lr": 0.1}, summary={"loss": 1.0})
            server.add_history("team", "demo", f"r{number}", rows=[{"_step": 0, "loss": 1.0}])
        server.add_run("team", "refused", "r0")
        server.fault("status", match={"project": "refused"}, status=403, message="permission denied")
        server.fault("status", match={"kind": "download", "run": "r1"}, status=500)
        yield Canaries(server, key, password)


def arguments_for(script: str, tmp_path: Path) -> list[Any]:
    export = ["-o", tmp_path / "out", "--include-history", "--retries", 1, "--timeout", 10]
    return ["-e", "team", "--debug", *(export if script == "export_runs.py" else ["--retries", 1])]


@pytest.mark.parametrize("script", SERVER_SCRIPTS)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_nothing_that_is_written_holds_a_secret(canaries, run_script, tmp_path, script, form):
    """Of an export that succeeds in part: in files, columns, names, streams and tracebacks."""
    arguments = arguments_for(script, tmp_path)
    done = run_script(script, *arguments, *form, env=canaries.environment(tmp_path))
    assert done.code == 3, done.err
    canaries.assert_not_in(done.out, done.err)
    canaries.assert_not_below(tmp_path)
    if script == "export_runs.py":
        urls = pl.read_parquet(tmp_path / "out" / "team_demo_runs.parquet")["url"]
        assert urls.str.ends_with("/team/demo/runs/" + pl.Series(["r0", "r1", "r2"])).all()
    else:
        assert form == () or f'"{canaries.server.url}/team/demo"' in done.out


FAULTS = [
    {"action": "status", "status": 401, "message": "invalid API key"},
    {"action": "status", "status": 500},
    {"action": "drop"},
    {"action": "status", "status": 200, "body": "<html>"},
    {"action": "status", "status": 302, "headers": {"Location": "/elsewhere"}},
]


@pytest.mark.parametrize("script", SERVER_SCRIPTS)
def test_no_message_holds_a_secret(canaries, call_script, tmp_path, script):
    for fault in FAULTS:
        canaries.server.clear_faults()
        canaries.server.fault(match={"kind": "graphql"}, **fault)
        done = call_script(script, *arguments_for(script, tmp_path), env=canaries.environment(tmp_path))
        assert done.code == 1, done
        canaries.assert_not_in(done.out, done.err)
    gone = canaries.environment(tmp_path) | {"WANDB_BASE_URL": f"http://user:{canaries.password}@{NO_SERVER}"}
    done = call_script(script, *arguments_for(script, tmp_path), env=gone)
    assert done.code == 1
    assert NO_SERVER in done.err
    canaries.assert_not_in(done.out, done.err)
    canaries.assert_not_below(tmp_path)


def command_lines(process: int) -> Iterator[bytes]:
    """The arguments of a process and of all that it started."""
    with suppress(OSError):  # it may have ended meanwhile
        yield Path(f"/proc/{process}/cmdline").read_bytes()
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from command_lines(int(child))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads arguments of processes there")
@pytest.mark.parametrize("script", SERVER_SCRIPTS)
def test_no_argument_of_a_process_holds_a_secret(canaries, script_command, tmp_path, script):
    canaries.server.clear_faults()
    field = "runs" if script == "export_runs.py" else "runCount"
    canaries.server.fault("hang", match={"field": field}, times=1)
    arguments = arguments_for(script, tmp_path)
    command = script_command(script, *arguments, env=canaries.environment(tmp_path))
    with running(command) as process:
        canaries.server.wait_for_hits()
        canaries.assert_not_in(*command_lines(process.pid))
        canaries.server.clear_faults()
        done = Done(process.wait(60), *process.communicate())
    canaries.assert_not_in(done.out, done.err)


# --- in files that others can read ----------------------------------------------------------------------------


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Others may read what a process writes, unless it says otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> set[str]:
    """The files below a folder that other users can reach and read."""
    found = set()
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders[:] = [name for name in folders if (here / name).stat().st_mode & 0o005 == 0o005]
        found |= {name for name in files if (here / name).stat().st_mode & 0o004}
    return found


@pytest.mark.usefixtures("usual_umask")
def test_others_read_an_export_when_it_is_done(canaries, script_command, tmp_path):
    """While it is made, the rows that were fetched are in files of the user alone."""
    canaries.server.clear_faults()
    canaries.server.fault("hang", match={"kind": "download", "run": "r1"})
    out = tmp_path / "out"
    arguments = ["-e", "team", "-p", "demo", "-o", out, "--include-history", "--workers", 1]
    command = script_command("export_runs.py", *arguments, env=canaries.environment(tmp_path))
    with running(command) as process:
        canaries.server.wait_for_hits()
        wait_until(lambda: len([*out.rglob("*.parquet")]) > 1)  # a page of runs, and the history of another run
        assert readable_by_others(out) <= {"lock"}
        canaries.server.clear_faults()
        done = Done(process.wait(60), *process.communicate())
    assert done.code == 0, done.err
    assert {"team_demo_runs.parquet", "team_demo_history.parquet"} <= readable_by_others(out)
    private = out / "team_demo_runs.parquet"
    private.chmod(0o600)
    canaries.server.change_run("team", "demo", "r0", display_name="other")
    with running(command) as process:
        assert process.wait(60) == 0
    assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.parametrize("place", [aggregate_runs.published, analyze_runs.replacing])
def test_others_read_a_result_when_it_is_done(tmp_path, place):
    """Until then it is in a folder of the user alone; one that replaces a private file is private, too."""
    for mode in (0o644, 0o600):
        target = tmp_path / "result.parquet"
        with place(str(target) if place is aggregate_runs.published else target) as unfinished:
            Path(unfinished).write_text("x")
            assert not Path(unfinished).parent.stat().st_mode & 0o077
            assert readable_by_others(tmp_path) <= {target.name if target.exists() else ""}
        assert target.stat().st_mode & 0o777 == mode
        assert [*tmp_path.iterdir()] == [target]
        target.chmod(0o600)
