"""What all tests share: the scripts as processes, in an environment without anybody's W&B settings."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import polars as pl
import pytest
from wandb_server import Server
from wandb_server.web import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

hypothesis.settings.register_profile("no clock", deadline=None)  # how fast the machine is proves nothing
hypothesis.settings.load_profile("no clock")

# Hundreds of processes import wandb and polars: they find these compiled, as everybody does from the second start on.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What the helpers of several test files assert is explained as in these files.
pytest.register_assert_rewrite("aggregate", "analyze", "exports")

ROOT = Path(__file__).parent.parent
LIMIT_S = 120  # a script that takes longer hangs


class Done(NamedTuple):
    """How a script ended."""

    code: int
    out: str
    err: str


@contextmanager
def running(command: Mapping[str, Any], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """The process of a command. A test that fails ends it; otherwise `Popen` would wait for it without end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    with subprocess.Popen(**command, **pipes) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once something is so; it may take as long as a script may."""
    end = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def finished_runs(out: Path) -> set[str]:
    """The runs whose rows the next export need not ask for: they are in whole files."""
    ids: set[str] = set()
    for file in (out / ".wandb_tools" / "histories").rglob("*.parquet"):
        with suppress(pl.exceptions.ComputeError):  # not written to its end
            ids |= set(pl.read_parquet(file, columns=["run_id"])["run_id"])
    return ids


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory) -> dict[str, str]:
    """The environment without WANDB_*; what the SDK leaves goes to a folder of its own, and so does its login."""
    own = tmp_path_factory.mktemp("wandb")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    folders = {f"WANDB_{name}": str(own) for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR")}
    return kept | folders | {"NETRC": str(own / "netrc"), "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


@pytest.fixture
def script_command(clean_environment, tmp_path):
    """What subprocess needs to start a script: for tests that talk to it while it runs."""

    def command(name: str, *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> dict:
        return {
            "args": [sys.executable, str(ROOT / "wandb-tools" / name), *map(str, arguments)],
            "env": clean_environment | (env or {}),
            "cwd": cwd or tmp_path,
            "text": True,
            "encoding": "utf-8",
        }

    return command


@pytest.fixture
def run_script(script_command):
    """Run a script to its end: exit code, stdout and stderr. A traceback or an unforeseen error fails the test."""

    def run(name: str, *arguments: object, stdin: str = "", **how) -> Done:
        done = subprocess.run(
            **script_command(name, *arguments, **how), input=stdin, capture_output=True, timeout=LIMIT_S, check=False
        )
        assert "a bug in this script" not in done.stderr
        assert "Traceback" not in done.stderr or "--debug" in arguments
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call_script(clean_environment, tmp_path, monkeypatch, capsys):
    """As `run_script`, but main() in this process, since a start costs half a second of a core.

    For tests of what a script does with a command line, its variables, and files. What depends on the process, such as
    signals, exit, pipes, memory, or what is imported, is for `run_script`, and so are a few cases of everything else.
    """

    def call(name: str, *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
        script = importlib.import_module(name.removesuffix(".py"))
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with monkeypatch.context() as patch:
                patch.chdir(cwd or tmp_path)
                patch.setattr(tempfile, "tempdir", None)  # TMPDIR is read anew
                for variable in [variable for variable in os.environ if variable.startswith("WANDB_")]:
                    patch.delenv(variable)
                for variable, value in (clean_environment | (env or {})).items():
                    patch.setenv(variable, value)
                code = script.main([*map(str, arguments)])
        finally:
            signal.signal(signal.SIGTERM, handler)
            gc.enable()
        done = Done(code, *capsys.readouterr())
        assert "a bug in this script" not in done.err
        assert "Traceback" not in done.err or "--debug" in arguments
        return done

    return call


@pytest.fixture
def call_export(call_script):
    return functools.partial(call_script, "export_runs.py")


@pytest.fixture
def export(call_export):
    """The same; modules that test a server have an `export` of their own, which asks that server."""
    return call_export


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def empty_server(shared_server) -> Server:
    """One server for all tests of a module; each starts with nothing in it but the user's own entity."""
    shared_server.reset()
    defaults = asdict(Settings())
    shared_server.configure(**{name: defaults[name] for name in defaults.keys() - {"base_url", "storage_url"}})
    shared_server.store.entities.clear()
    shared_server.store.artifacts.clear()
    shared_server.add_entity("tester")
    return shared_server


def pytest_xdist_auto_num_workers(config) -> int:
    """Twice as many processes as there are cores, as many tests wait; a container may have fewer cores than it sees."""
    return min(2 * (os.cpu_count() or 1), 8)
