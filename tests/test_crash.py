"""Whatever ends a script in the middle, or leaves it no place to write: nothing is lost, and the next run completes.

`tests/attacks/kill.py` and `tests/attacks/full_disk.py` try every moment and every amount of space.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import LIMIT_S, ROOT, Done
from crashes import EXPORT, Ended, change, command, content, differences, export_ids, fill, run, snapshot
from log_files import write_log
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = 6


class Prepared(NamedTuple):
    """A server that changed after an export, and what was written before and from it."""

    server: Server
    earlier: Path  # an export of what was there before
    merged: Path  # a merge of it
    later: Path  # an export of what is there now
    env: dict[str, str]

    def export(self, folder: Path) -> dict[str, Any]:
        return command("export_runs.py", *EXPORT, "-o", folder, env=self.env, cwd=folder)

    def merge(self, folder: Path) -> dict[str, Any]:
        inputs, output = (self.earlier, self.later), folder / "unified.parquet"
        return command("aggregate_runs.py", *inputs, "-o", output, "--history", env=self.env, cwd=folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, clean_environment) -> Iterator[Prepared]:
    work = tmp_path_factory.mktemp("crash")
    with Server() as server:
        folders = [work / name for name in ("earlier", "merged", "later")]
        made = Prepared(server, *folders, clean_environment | server.environment(work / "sdk"))
        for folder in folders:
            folder.mkdir()
        fill(server, RUNS)
        for folder in (made.earlier, made.later):
            assert done(made.export(folder), folder).code == 0
        assert done(made.merge(made.merged), made.merged).code == 0
        change(server, RUNS)
        assert done(made.export(made.later), made.later).code == 0
        yield made


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def done(how: dict[str, Any], folder: Path, **ending: Any) -> Ended:
    """How a script ended; a traceback or an unforeseen error fails the test."""
    ended = run(how, folder, **ending)
    assert "a bug in this script" not in ended.err
    assert "Traceback" not in ended.err
    return ended


@pytest.fixture
def undisturbed(call_script) -> Callable[[dict[str, Any]], Done]:
    """What `done` does for a script that nothing ends, without a process for it."""

    def call(how: dict[str, Any]) -> Done:
        _, script, *arguments = how["args"]
        return call_script(Path(script).name, *arguments, env=how["env"], cwd=how["cwd"])

    return call


# --- killed, interrupted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "left"),
    [
        (r"os\.remove \S*\bwork\W\w+$", "old"),  # a history was fetched
        (r"os\.rename .*_metadata", "mixed"),
        (r"os\.rmdir \S*/history$", "new"),  # all is published, and what was for an interruption goes
    ],
)
def test_an_export_killed_before_an_operation_loses_nothing(prepared, out, undisturbed, before, left):
    shutil.copytree(prepared.earlier, out, dirs_exist_ok=True)
    old = snapshot(out)
    assert done(prepared.export(out), out, before=before).code == -signal.SIGKILL
    new, ids = snapshot(out), export_ids(out)  # which opens all files
    changed = {name for name in new if new[name] != old.get(name)}
    verified = undisturbed(command("export_runs.py", "--verify", out, env=prepared.env, cwd=out))
    if left == "mixed":  # between two renames nothing can be undone: it is named
        assert 0 < len(changed) < len(old)
        assert verified.code == 3
        assert "error: " in verified.err
    else:
        assert changed == (set(old) if left == "new" else set())
        assert len(set(ids.values())) == 1
        assert verified.code == 0
    assert undisturbed(prepared.export(out)).code == 0
    assert differences(content(out), content(prepared.later)) == []


def test_a_first_export_that_was_killed_is_completed_by_the_next(prepared, out, undisturbed, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert undisturbed(prepared.export(whole)).code == 0
    assert done(prepared.export(out), out, before=r"os\.rename .*_runs").code == -signal.SIGKILL
    assert not list(out.glob("*_metadata.json"))
    assert undisturbed(prepared.export(out)).code == 0
    assert differences(content(out), content(whole)) == []


def test_after_a_kill_between_two_renames_no_history_is_fetched_again(prepared, out, undisturbed):
    shutil.copytree(prepared.earlier, out, dirs_exist_ok=True)
    assert done(prepared.export(out), out, before=r"os\.rename .*_runs").code == -signal.SIGKILL
    prepared.server.reset()
    assert undisturbed(prepared.export(out)).code == 0
    assert prepared.server.requests(kind="download") == []
    assert differences(content(out), content(prepared.later)) == []


@pytest.mark.parametrize("before", [r"os\.rename", r"os\.rmdir"])
def test_a_killed_merge_leaves_a_whole_result(prepared, out, undisturbed, tmp_path, before):
    shutil.copytree(prepared.merged, out, dirs_exist_ok=True)
    assert done(prepared.merge(out), out, before=before).code == -signal.SIGKILL
    assert (snapshot(out)["unified.parquet"] == snapshot(prepared.merged)["unified.parquet"]) == ("rmdir" not in before)
    assert undisturbed(prepared.merge(out)).code == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    assert undisturbed(prepared.merge(whole)).code == 0
    assert differences(content(out), content(whole)) == []


@pytest.mark.parametrize(
    ("by", "before"),
    [(signal.SIGINT, r"open \S*\bwork\W\S+_metadata\.json w"), (signal.SIGTERM, r"os\.rename .*_runs")],
)
def test_an_export_that_is_told_to_end_leaves_no_mixture(prepared, out, undisturbed, by, before):
    shutil.copytree(prepared.earlier, out, dirs_exist_ok=True)
    old = snapshot(out)
    ended = done(prepared.export(out), out, before=before, by=by)
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted: to continue, run the same command again")
    new = snapshot(out)
    assert len({new[name] == old[name] for name in old}) == 1
    assert len(set(export_ids(out).values())) == 1
    assert undisturbed(prepared.export(out)).code == 0
    assert differences(content(out), content(prepared.later)) == []


def test_a_merge_killed_between_its_two_renames_leaves_the_earlier_partitions(prepared, out, undisturbed):
    """A folder cannot be replaced at once: the next merge puts it back, even if it fails itself."""
    partitions = writers(prepared, out)["partitions"]
    assert undisturbed(partitions).code == 0
    old = snapshot(out)
    assert done(partitions, out, before=r"os\.rename .*\.partial/parts parts").code == -signal.SIGKILL
    assert done(partitions, out, before=r"os\.rename parts ", failing=errno.EACCES).code == 1
    assert snapshot(out) == old
    assert undisturbed(partitions).code == 0
    assert set(snapshot(out)) == set(old)


def test_a_merge_that_is_told_to_end_leaves_nothing_unfinished(prepared, out):
    shutil.copytree(prepared.merged, out, dirs_exist_ok=True)
    ended = done(prepared.merge(out), out, before=r"os\.rename", by=signal.SIGTERM)
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "interrupted")
    assert [file.name for file in out.iterdir()] == ["unified.parquet"]


# --- no place to write ----------------------------------------------------------------------------------------


def no_room() -> None:
    """As a full disk does, the system refuses to write more than a little to a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))


def without_rights() -> None:
    """Permissions bind root, too: drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what the script can get."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "prctl")


def writers(prepared: Prepared, folder: Path) -> dict[str, dict[str, Any]]:
    """All commands that write, each to a file or folder of its own in `folder`."""
    partitions = command("aggregate_runs.py", prepared.later, "-o", folder / "parts", "--partition-by", "state",
                         env=prepared.env, cwd=folder)  # fmt: skip
    logs = Path(__file__).parent.parent / "examples" / "offline-runs"
    return {
        "export": prepared.export(folder),
        "offline": command("export_runs.py", "--offline", logs, "-o", folder, env=prepared.env, cwd=folder),
        "merge": prepared.merge(folder),
        "partitions": partitions,
        "report": command(
            "analyze_runs.py",
            prepared.later / "team_demo_runs.parquet",
            "-m",
            "loss",
            "--report",
            folder / "report.html",
            env=prepared.env,
            cwd=folder,
        ),
    }


WRITERS = ("export", "offline", "merge", "partitions", "report")


def failing(how: dict[str, Any], prepare: Callable[[], None]) -> str:
    """The last line on stderr of a script that has no place to write: its exit code is 1."""
    how["env"] = how["env"] | {"PYTHONDONTWRITEBYTECODE": "1"}  # else no_room leaves cut modules behind
    ended = subprocess.run(**how, preexec_fn=prepare, capture_output=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "a bug in this script" not in ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_costs_nothing(prepared, out, writer):
    for folder in (prepared.earlier, prepared.merged):
        shutil.copytree(folder, out, dirs_exist_ok=True)
    old = snapshot(out)
    said = failing(writers(prepared, out)[writer], no_room)
    assert str(out) in said
    assert "written" in said
    assert ("choose another place" if writer == "report" else "use another -o") in said  # the report's flag is no -o
    assert snapshot(out) == old


def test_a_disk_without_a_free_page_is_named():
    """On a file system of its own, where polars calls it a transport error."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    attack = [sys.executable, ROOT / "tests" / "attacks" / "full_disk.py", "--only", "export", "--most", "1"]
    done = subprocess.run(attack, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 findings"), done.stdout + done.stderr


def test_a_full_disk_is_named_by_the_processes_that_read_logs(out, clean_environment):
    for number in range(2):
        write_log(out / "logs", f"r{number}", rows=[{"loss": "1"}] * 9, filler_bytes=9_000_000)
    flags = ("--include-history", "--workers", 2)
    export = command("export_runs.py", "--offline", out / "logs", "-o", out, *flags, env=clean_environment, cwd=out)
    assert "work was not written: " in failing(export, no_room)


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys permissions by Linux's capabilities alone")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_is_read_only_is_named(prepared, out, writer):
    for folder in (prepared.earlier, prepared.merged):
        shutil.copytree(folder, out, dirs_exist_ok=True)
    shutil.rmtree(out / ".wandb_tools")
    old = snapshot(out)
    out.chmod(0o555)
    try:
        said = failing(writers(prepared, out)[writer], without_rights)
    finally:
        out.chmod(0o755)
    assert str(out) in said
    assert "Permission denied" in said
    assert snapshot(out) == old


@pytest.mark.parametrize("before", [r"open \S*\bwork\W\w+ w", r"os\.rename .*_runs"])
def test_a_write_that_fails_names_the_place(prepared, out, before):
    ended = done(prepared.export(out), out, before=before, failing=errno.ENOSPC)
    assert ended.code == 1
    said = ended.err.splitlines()[-1]
    assert str(out) in said
    assert "No space left on device; free disk space" in said.replace(")", "")


def test_where_nothing_can_be_locked_an_export_goes_on(prepared, out):
    """As on some network file systems."""
    ended = done(prepared.export(out), out, before="fcntl.flock", failing=errno.ENOLCK)
    assert ended.code == 0
    assert "start no other export into it meanwhile" in ended.err
    assert len(set(export_ids(out).values())) == 1
