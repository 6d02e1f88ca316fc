"""The files of an export: whole or not at all, of one export, never over what is not theirs; no place to write."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import LIMIT_S, Done, running
from exports import (  # noqa: F401 - fixtures
    QUICK,
    SCRIPT,
    add_log,
    add_logged_runs,
    add_run,
    demo_project,
    earlier_export,
    ended,
    error_line,
    export_from_server,
    export_of_logs,
    history_of,
    log_rows,
    logged,
    metadata_of,
    out_folder,
    own_server,
    project_of_team,
    rows_at,
    rows_of,
    runs_of,
    snapshot,
    start_export,
    steps_of,
    two_logs,
)
from log_files import write_log

if TYPE_CHECKING:
    from collections.abc import Callable

# --- files of one export --------------------------------------------------------------------------------------


def export_ids(out: Path, stem: str = "team_demo") -> dict[str, str | None]:
    """What each file of a project says of the export that it belongs to."""
    ids = {file.name: pq.read_metadata(file).metadata for file in sorted(out.glob(f"{stem}_*.parquet"))}
    told = {name: (texts.get(b"wandb_tools.export_id") or b"").decode() or None for name, texts in ids.items()}
    return told | {f"{stem}_metadata.json": metadata_of(out, stem).get("export_id")}


def assert_belong_together(out: Path, *kinds: str) -> None:
    ids = export_ids(out)
    assert set(ids) == {"team_demo_metadata.json", *(f"team_demo_{kind}.parquet" for kind in kinds)}
    assert len(set(ids.values())) == 1, ids
    assert all(ids.values()), ids


def test_the_files_of_a_project_tell_which_export_they_are_of(server, export, out):
    for run_id in "ab":
        add_run(server, "demo", run_id)
        server.add_events("team", "demo", run_id, [{"_runtime": 1, "_timestamp": 1e9, "system.cpu": 7}])
    flags = ("--include-history", "--history-samples", 3, "--system-metrics")
    kinds = ("runs", "history", "history_sampled", "system")
    assert export("team/demo", *flags, *QUICK).code == 0
    assert_belong_together(out, *kinds)
    add_run(server, "demo", "c")
    assert export("team/demo", *flags, *QUICK).code == 0
    assert_belong_together(out, *kinds)
    add_run(server, "demo", "d")
    assert export("team/demo", *QUICK).code == 0  # which asks for none of the histories that are there
    assert_belong_together(out, *kinds)
    assert set(runs_of(out)["id"]) == set("abcd")
    assert set(history_of(out)["run_id"]) == set("abc")


def test_the_files_of_an_offline_export_tell_it_too(tmp_path, export_logs, out):
    write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(5))
    assert export_logs("--include-history").code == 0
    assert_belong_together(out, "runs", "history")


@pytest.mark.parametrize("flags", [("--include-history",), ()])
def test_an_export_killed_while_it_published_is_noticed_and_mended(server, export, out, tmp_path, flags):
    add_run(server, "demo", "a", rows=3)
    assert export("team/demo", "--include-history", *QUICK).code == 0
    older = tmp_path / "older"
    shutil.copytree(out, older)
    server.add_history("team", "demo", "a", rows=rows_at(range(3, 5)))
    server.change_run("team", "demo", "a", heartbeat_at="2026-02-01T00:00:00Z")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    for name in ("team_demo_runs.parquet", "team_demo_metadata.json"):  # the new history beside what was before
        shutil.copy(older / name, out / name)
    assert len(set(export_ids(out).values())) == 2
    done = export("team/demo", *flags, *QUICK)
    assert done.code == 0, done.err
    assert_belong_together(out, "runs", "history")
    assert steps_of(out, "a") == list(range(5))
    assert runs_of(out)["history_rows"].to_list() == [5]


def test_an_export_killed_before_its_metadata_is_no_changed_file(tmp_path, export_logs, demo):
    """The runs file was named as changed after its export, with exit code 3: the history had stayed, and so the id."""
    add_log(tmp_path, "abc")
    assert export_logs("--include-history").code == 0
    metadata = tmp_path / "out" / "team_demo_metadata.json"
    before = metadata.read_bytes()
    assert export_logs().code == 0
    metadata.write_bytes(before)  # killed before this last rename
    assert export_logs().code == 0
    assert demo().metadata["status"] == "complete"
    assert demo().metadata["export_id"] != json.loads(before)["export_id"]  # all files were written anew


def test_a_file_that_was_changed_after_its_export_is_a_failure(tmp_path, export_logs, demo):
    """Else it would get a new checksum, and --verify would find nothing."""
    add_log(tmp_path, "abc", rows=20)
    assert export_logs("--include-history").code == 0
    file = tmp_path / "out" / "team_demo_history.parquet"
    pairs = {key: text for key, text in pl.read_parquet_metadata(file).items() if key.startswith("wandb_tools")}
    pl.read_parquet(file).with_columns(pl.col("metric_loss") + 1).write_parquet(file, metadata=pairs)
    done = export_logs()  # whose history stays
    assert done.code == 3
    assert f"error: team/demo: the earlier {file} was changed after its export" in done.err
    assert demo().metadata["status"] == "partial"
    assert export_logs("--include-history").code == 0  # its rows are read again


# --- all files or none ----------------------------------------------------------------------------------------


def test_no_file_appears_before_all_are_written(earlier, tmp_path, monkeypatch, call_export):
    sink = pl.LazyFrame.sink_parquet

    def full_for_runs(frame, at, **how):
        if "_runs.parquet" in Path(at).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sink(frame, at, **how)

    before = snapshot(earlier)
    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full_for_runs)
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
    assert (done.code, done.out) == (1, "")
    assert "No space left on device" in done.err
    assert snapshot(earlier) == before


INTERRUPTING = """
import os, signal, time
renamed, number = [], int(os.environ["INTERRUPT_BEFORE"])

def interrupted(rename):
    def call(source, target, *arguments, **named):
        place, name = os.path.split(os.path.abspath(target))
        if name.startswith("team_demo_") and ".wandb_tools" not in place:
            renamed.append(target)
            if len(renamed) == number:
                os.killpg(0, signal.SIGINT)  # what Ctrl-C does: it reaches every process of the group
                time.sleep(0.5)  # for the thread or process that it ends, if that is another one
        return rename(source, target, *arguments, **named)
    return call

os.rename, os.replace = interrupted(os.rename), interrupted(os.replace)
"""


@pytest.fixture
def interrupt_before(tmp_path, script_command) -> Callable[..., Done]:
    """Run the export with Ctrl-C pressed just before the n-th rename of a file into its place."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(INTERRUPTING)

    def call(number: int, *arguments: object, env: dict[str, str] | None = None) -> Done:
        more = {"PYTHONPATH": str(tmp_path / "python"), "INTERRUPT_BEFORE": str(number)}
        command = script_command(SCRIPT, *arguments, env=(env or {}) | more)
        done = subprocess.run(
            **command, capture_output=True, start_new_session=True, timeout=LIMIT_S, check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return call


def assert_all_or_nothing(before: dict[str, bytes], out: Path) -> None:
    after = snapshot(out)
    assert set(after) == set(before)
    assert len({after[name] == before[name] for name in before}) == 1


@pytest.mark.parametrize("number", [2, 3])
def test_interrupted_while_publishing_all_files_are_new_or_none(tmp_path, export_logs, out, interrupt_before, number):
    write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(5))
    assert export_logs("--include-history").code == 0
    before = snapshot(out)
    write_log(tmp_path / "logs", "def", entity="team", project="demo", rows=log_rows(6))
    done = interrupt_before(number, "--offline", tmp_path / "logs", "-o", out, "--include-history")
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted: to continue, run the same command again")
    assert "Traceback" not in done.err
    assert_all_or_nothing(before, out)
    assert export_logs("--include-history").code == 0
    assert set(history_of(out)["run_id"]) == {"abc", "def"}


def test_interrupted_while_publishing_what_a_server_gave(server, export, tmp_path, out, interrupt_before):
    add_run(server, "demo", "a")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    before = snapshot(out)
    add_run(server, "demo", "b")
    env = server.environment(tmp_path / "sdk")
    done = interrupt_before(2, "team/demo", "-o", out, "--include-history", *QUICK, env=env)
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted: to continue, run the same command again")
    assert "Traceback" not in done.err
    assert_all_or_nothing(before, out)


# --- earlier files that cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["runs", "history"])
@pytest.mark.parametrize("how", ["no parquet", "cut", "a bit flipped", "a folder"])
def test_earlier_file_that_cannot_be_read_is_not_overwritten(earlier, tmp_path, call_export, kind, how):
    file = earlier / f"offline_uncategorized_{kind}.parquet"
    content = file.read_bytes()
    if how == "a folder":
        file.unlink()
        file.mkdir()
    else:
        flipped = bytes([*content[:6], content[6] ^ 255, *content[7:]])
        file.write_bytes({"no parquet": b"text", "cut": content[:-20], "a bit flipped": flipped}[how])
    before = snapshot(earlier)
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert file.name in done.err
    assert snapshot(earlier) == before


@pytest.mark.parametrize("kind", ["runs", "history"])
def test_an_unreadable_earlier_file_costs_its_project_alone(tmp_path, export_logs, out, kind):
    for project in ("bad", "good", "other"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    assert export_logs("--include-history", "-p", "bad").code == 0
    bad_file = out / f"team_bad_{kind}.parquet"
    bad_file.write_bytes(bad_file.read_bytes()[:-20])
    before = snapshot(out)
    done = export_logs("--include-history")
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and bad_file.name in line]
    assert snapshot(out).items() >= before.items()
    for project in ("good", "other"):
        assert str(out / f"team_{project}_runs.parquet") in done.out.splitlines()
        assert steps_of(out, project, f"team_{project}") == list(range(5))
        assert metadata_of(out, f"team_{project}")["status"] == "complete"
    done = export_logs("--include-history", "--json")
    assert done.code == 3, done.err
    told = json.loads(done.out)["exports"]
    assert {row["project"]: row["status"] for row in told} == {"bad": "failed", "good": "complete", "other": "complete"}


def test_an_unreadable_earlier_file_costs_its_project_alone_online(server, export, out):
    for project in ("bad", "good"):
        add_run(server, project, project)
    assert export("team/bad", *QUICK).code == 0
    bad_file = out / "team_bad_runs.parquet"
    bad_file.write_bytes(b"no parquet")
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and bad_file.name in line]
    assert bad_file.read_bytes() == b"no parquet"
    assert str(out / "team_good_runs.parquet") in done.out.splitlines()
    assert steps_of(out, "good", "team_good") == list(range(5))


def test_a_file_that_cannot_be_replaced_costs_its_project_alone(tmp_path, export_logs, out):
    for project in ("bad", "good"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    (out / "team_bad_metadata.json").mkdir(parents=True)
    done = export_logs("--include-history")
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and "team_bad_metadata.json" in line]
    assert str(out / "team_good_runs.parquet") in done.out.splitlines()


# --- whose file it is -----------------------------------------------------------------------------------------


def test_a_file_whose_owner_is_no_object_is_not_taken_for_ours(tmp_path, export_logs, out):
    out.mkdir()
    pl.DataFrame({"id": ["x"]}).write_parquet(out / "team_demo_runs.parquet", metadata={"wandb_tools.source": '"team"'})
    write_log(tmp_path / "logs", "abc", entity="team", project="demo")
    done = export_logs()
    assert done.code == 1
    assert f"the earlier export {out / 'team_demo_runs.parquet'} cannot be read" in done.err


@pytest.mark.parametrize("left", [("runs", "history"), ("history",)])
def test_the_owner_of_a_file_is_read_from_it(tmp_path, export_logs, out, left):
    """Killed before it wrote the metadata, an export of `a_b/c` leaves files whose names fit `a/b_c` as well."""
    write_log(tmp_path / "logs" / "one", "first", entity="a_b", project="c", rows=log_rows(3))
    assert export_logs("--include-history").code == 0
    for file in out.glob("a_b_c_*"):
        if file.name not in {f"a_b_c_{kind}.parquet" for kind in left}:
            file.unlink()
    before = snapshot(out)
    write_log(tmp_path / "logs" / "two", "second", entity="a", project="b_c", rows=log_rows(4))
    done = export_logs("--include-history", "-e", "a")
    assert done.code == 0, done.err
    assert snapshot(out).items() >= before.items()
    assert export_logs("--include-history").code == 0
    owners = {}
    for file in out.glob("*_runs.parquet"):
        frame = pl.read_parquet(file, glob=False)
        owners |= {place: frame["id"].to_list() for place in frame.select("entity", "project").unique().rows()}
    assert owners == {("a_b", "c"): ["first"], ("a", "b_c"): ["second"]}
    assert len(list(out.glob("*_runs.parquet"))) == 2


def test_a_project_keeps_the_names_of_its_files(server, export, out):
    add_run(server, "demo", "a")
    add_run(server, "Demo", "b")
    assert export("team/demo", *QUICK).code == 0
    assert export("team/demo", "team/Demo", *QUICK).code == 0
    assert runs_of(out)["id"].to_list() == ["a"]
    assert len(list(out.glob("*_runs.parquet"))) == 2
    assert export("team/Demo", *QUICK).code == 0
    assert len(list(out.glob("*_runs.parquet"))) == 2


# --- no place to write ----------------------------------------------------------------------------------------


def test_output_that_cannot_be_written(logs, tmp_path, call_export):
    (tmp_path / "file").touch()
    done = call_export("--offline", logs, "-o", tmp_path / "file")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {tmp_path / 'file' / '.wandb_tools'}: Not a directory; fix this and run again\n"
    (tmp_path / "out" / "team_demo_metadata.json").mkdir(parents=True)
    done = call_export("--offline", logs, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert re.match(r"error: .*team_demo_metadata.json was not written: ", done.err.splitlines()[-1])
    left = {file.name for file in (tmp_path / "out").iterdir()}
    assert left == {"team_demo_metadata.json", ".wandb_tools"}  # none of the others either


def test_places_that_cannot_be_written_to(server, export, run_script, tmp_path):
    (tmp_path / "file").write_text("")
    server.add_runs("team", "demo", 3, keys=8)
    done = export("-e", "team", "-o", tmp_path / "file" / "out")
    assert done.code == 1
    assert error_line(done) == f"{tmp_path}/file/out/.wandb_tools: Not a directory; fix this and run again"


LIMITED = """import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])"""


@pytest.mark.parametrize(
    ("limit", "files"),
    [(20_000, "out/.wandb_tools/work"), (100_000, "out"), (1_500_000, "out/team_demo_history.parquet")],
)
def test_a_full_disk(server, script_command, tmp_path, limit, files):
    """Told apart by size: the first to become too long is a page of runs, a download, the history file."""
    if limit < 100_000:
        server.add_runs("team", "demo", 500)
    server.add_histories("team", "demo", 2, steps=20_000, metrics=5)
    out = tmp_path / "out"
    out.mkdir()
    (out / "team_demo_runs.parquet.txt").write_text("not ours")
    command = script_command(
        "export_runs.py", "-e", "team", "-o", out, "--include-history", *QUICK, env=server.environment(tmp_path / "sdk")
    )
    command["args"] = [sys.executable, "-c", LIMITED, str(limit), *command["args"]]
    done = subprocess.run(**command, capture_output=True, timeout=LIMIT_S, check=False)
    line = error_line(Done(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 1
    assert f"{tmp_path}/{files}" in line
    assert "File too large" in line  # what a limit says in place of a full disk
    assert snapshot(out) == {"team_demo_runs.parquet.txt": b"not ours"}


# --- two exports into one folder ------------------------------------------------------------------------------


def test_two_exports_into_one_folder(logs, tmp_path, script_command):
    """The second waits for the first, and says so; interrupted, it leaves what was there."""
    command = script_command("export_runs.py", "--offline", logs, "-o", "out")
    subprocess.run(**command, capture_output=True, check=True)
    before = snapshot(tmp_path / "out")
    with (tmp_path / "out" / ".wandb_tools" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        signals = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # then children ignore it as well
            signals.append(signal.SIGINT)
        for number in signals:
            with running(command) as process:
                assert process.stderr.readline() == "another export is writing to out: waiting until it is done\n"
                process.send_signal(number)
                out, err = process.communicate(timeout=LIMIT_S)
            assert (process.returncode, out, err) == (130, "", "interrupted: to continue, run the same command again\n")
        assert snapshot(tmp_path / "out") == before
        with running(command) as process:
            process.stderr.readline()
            fcntl.flock(lock, fcntl.LOCK_UN)
            out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out, err) == (
            0,
            "out/team_demo_runs.parquet\n",
            "team/demo: 2 runs (2 finished), 800 history rows\n",
        )


def test_two_exports_from_a_server_into_one_folder(server, start, project, tmp_path):
    add_logged_runs(server, "demo", "abc")
    hang = server.fault("hang", match={"kind": "download", "run": "b"}, times=1)
    first = start("-e", "team", "--include-history", *QUICK[:2])
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    second = start("-e", "team", "--include-history", *QUICK)
    assert second.stderr is not None
    assert second.stderr.readline() == f"another export is writing to {tmp_path}/out: waiting until it is done\n"
    server.clear_faults()
    assert [ended(first).code, ended(second).code] == [0, 0]
    for run_id in "abc":
        assert rows_of(project("demo"), run_id) == logged(5, "loss", "acc")
