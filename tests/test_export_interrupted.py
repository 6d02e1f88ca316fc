"""Exports that are interrupted or killed, or whose output nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import export_runs
import polars as pl
import pytest
from conftest import LIMIT_S, Done, finished_runs, wait_until
from exports import (  # noqa: F401 - fixtures
    QUICK,
    SCRIPT,
    add_logged_runs,
    add_run,
    add_runs,
    asked_for,
    children_of,
    command_line,
    demo_project,
    ended,
    export_from_server,
    log_rows,
    logged,
    out_folder,
    own_server,
    project_of_team,
    rows_of,
    runs_of,
    snapshot,
    start_export,
    steps_of,
    two_logs,
)
from log_files import write_log

# --- interrupted ----------------------------------------------------------------------------------------------


def test_an_interrupted_export_goes_on_where_it_was(server, export, start, project, tmp_path):
    """What is fetched together with the run that never comes is asked for again, what was finished is not."""
    add_logged_runs(server, "demo", "a")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    before = snapshot(tmp_path / "out")
    n = 80
    for number in range(n):
        add_logged_runs(server, "demo", [f"r{number:02d}"])
    hang = server.fault("hang", match={"kind": "download", "run": "r40"})
    process = start("-e", "team", "--include-history", "--workers", 1)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)

    out = tmp_path / "out"
    wait_until(lambda: len(finished_runs(out)) >= n / 2)
    process.send_signal(signal.SIGINT)
    assert ended(process) == Done(130, "", "interrupted: to continue, run the same command again\n")
    assert snapshot(tmp_path / "out") == before
    left = {f"r{number:02d}" for number in range(n)} - finished_runs(out)
    server.reset()
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == left
    assert "r40" in left
    for run_id in ["a", *(f"r{number:02d}" for number in range(n))]:
        assert rows_of(project("demo"), run_id) == logged(5, "loss", "acc")
    assert project("demo").metadata["history"]["rows"] == 5 * (n + 1)
    assert not list((tmp_path / "out" / ".wandb_tools").rglob("*.parquet"))


def test_what_an_interrupted_export_had_for_a_second_is_kept(server, export, start, tmp_path):
    """Each of four threads fetches two runs by one question: the first takes a second, and the other never comes."""
    ids = [f"r{number}" for number in range(8)]
    add_logged_runs(server, "demo", ids)
    for run_id in ids[::2]:
        server.fault("slow", match={"kind": "download", "run": run_id}, seconds=1.1)
    hangs = [server.fault("hang", match={"kind": "download", "run": run_id}) for run_id in ids[1::2]]
    process = start("-e", "team", "--include-history", "--workers", 1)
    for hang in hangs:
        server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    wait_until(lambda: finished_runs(tmp_path / "out") == {*ids[::2]})
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    server.reset()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert asked_for(server) == {*ids[1::2]}


def test_interrupted_among_many_pages_says_so_and_no_more(server, start, out):
    server.add_runs("team", "demo", 12_000, keys=40)
    hang = server.fault("hang", match={"field": "runs", "above_first": 1}, times=1, after=9)
    process = start("team/demo", "--workers", 4, "--timeout", 60)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    process.send_signal(signal.SIGINT)
    out_text, err = process.communicate(timeout=60)
    assert (process.returncode, out_text, err.splitlines()[-1]) == (
        130,
        "",
        "interrupted: to continue, run the same command again",
    )
    assert "Traceback" not in err
    assert "exception" not in err
    assert not snapshot(out)


@pytest.mark.parametrize("match", [{"operation": "Viewer"}, {"operation": "Runs"}])
def test_terminated_while_the_server_hangs(server, start, tmp_path, match):
    server.add_runs("team", "demo", 3, keys=8)
    hang = server.fault("hang", match=match)
    process = start("-e", "team")
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == Done(130, "", "interrupted: to continue, run the same command again\n")
    assert not snapshot(tmp_path / "out")


def test_an_interruption_whose_tidying_up_fails_is_one_all_the_same(monkeypatch, tmp_path, capsys):
    def interrupted(_: object) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            os.close(999_999)  # as rmtree does, where it is interrupted between two steps

    monkeypatch.setattr(export_runs, "export", interrupted)
    assert export_runs.main(["--offline", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted: to continue, run the same command again\n"


# --- killed ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the script's own processes there")
@pytest.mark.parametrize("n", [3, 5_000])  # one page, or several at once
def test_whatever_becomes_of_its_processes_the_export_ends(server, start, out, n):
    """Processes that it starts, if any, may be killed, as where memory is short: no hang, and no useless advice."""
    server.add_runs("team", "demo", n, keys=8)
    hang = server.fault("hang", match={"field": "runs", "above_first": 1}, times=1)
    process = start("team/demo", "--workers", 4, *QUICK)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    for child in children_of(process.pid):
        if b"spawn_main" in command_line(child):
            os.kill(child, signal.SIGKILL)
    server.clear_faults()
    done = Done(process.wait(60), *process.communicate())
    is_written = (out / "team_demo_runs.parquet").exists() and runs_of(out).height == n
    assert done.code == (0 if is_written else 1), done.err
    assert "Traceback" not in done.err
    assert "--workers 1" not in done.err  # which limits questions at once, and no memory


# --- leftovers ------------------------------------------------------------------------------------------------


def test_leftovers_of_a_killed_export_are_removed_by_one_of_logs(logs, tmp_path, call_export):
    work = tmp_path / "out" / ".wandb_tools" / "work"
    work.mkdir(parents=True)
    (work / "left.parquet").touch()
    assert call_export("--offline", logs, "-o", tmp_path / "out").code == 0
    assert not work.exists()
    assert not (tmp_path / "out" / "left.parquet").exists()


def test_leftovers_of_a_killed_export_are_removed_by_one_from_a_server(server, export, tmp_path):
    server.add_runs("team", "demo", 3, keys=8)
    work = tmp_path / "out" / ".wandb_tools" / "work"
    work.mkdir(parents=True)
    (work / "team_demo_history.parquet").write_bytes(b"PAR1")
    assert export("-e", "team", *QUICK).code == 0
    assert not work.exists()
    assert not (tmp_path / "out" / "team_demo_history.parquet").exists()


def test_a_damaged_leftover_of_an_interrupted_export_is_fetched_again(server, export, out):
    add_run(server, "demo", "a")
    folder = out / ".wandb_tools" / "histories" / "team_demo" / "history"
    folder.mkdir(parents=True)
    (folder / "empty.parquet").write_bytes(b"")
    pl.DataFrame({"x": [1]}).write_parquet(folder / "foreign.parquet")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert steps_of(out, "a") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("flags", [[], ["--include-history", "--group", "g"]])
def test_an_export_of_less_leaves_histories_of_an_interrupted_one(flags, server, export, tmp_path, demo):
    add_runs(server, one="g", two="h")
    in_the_way = tmp_path / "out" / "team_demo_metadata.json"
    in_the_way.mkdir(parents=True)
    assert export("team/demo", "--include-history").code == 1
    in_the_way.rmdir()
    assert export("team/demo", *flags).code == 0
    server.reset()
    assert export("team/demo", "--include-history").code == 0
    assert server.requests(kind="download") == []
    assert demo().history.height == 10
    assert [*(tmp_path / "out" / ".wandb_tools" / "histories").iterdir()] == []


# --- closed pipes and streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe(logs, script_command, unbuffered):
    """`| head -0`: nobody reads, and that is no error."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = script_command("export_runs.py", "--offline", logs, "-o", "out", env={"PYTHONUNBUFFERED": unbuffered})
    done = subprocess.run(**command, stdout=write_end, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "team/demo: 2 runs (2 finished), 800 history rows\n")
    assert (command["cwd"] / "out" / "team_demo_metadata.json").exists()


def into_a_closed_pipe(command: dict[str, Any]) -> Done:
    """How a script ends whose reader has gone (`| head -0`)."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(**command, stdout=write_end, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    finally:
        os.close(write_end)
    return Done(done.returncode, "", done.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_closed_pipe_does_not_hide_a_failure(tmp_path, script_command, out, flags, unbuffered):
    for project in ("bad", "good"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    file = next((tmp_path / "logs").rglob("run-bad.wandb"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255  # damage, which is no crash
    file.write_bytes(content)
    arguments = ("--offline", tmp_path / "logs", "-o", out, "--include-history", *flags)
    done = into_a_closed_pipe(script_command(SCRIPT, *arguments, env={"PYTHONUNBUFFERED": unbuffered}))
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and "bad" in line]
    assert runs_of(out, "team_good").height == 1


def test_a_closed_pipe_does_not_hide_a_failing_project(server, script_command, tmp_path, out):
    for project in ("bad", "good"):
        add_run(server, project, project)
    server.fault("status", match={"project": "bad"}, status=403, message="permission denied")
    environment = server.environment(tmp_path / "sdk")
    done = into_a_closed_pipe(script_command(SCRIPT, "-e", "team", "-o", out, *QUICK, env=environment))
    assert done.code == 3, done.err
    assert "error: team/bad: " in done.err


def test_closed_standard_streams(script_command, tmp_path, out):
    write_log(tmp_path / "logs", "a", rows=log_rows(3), entity="team", project="demo")
    command = script_command(SCRIPT, "--offline", tmp_path / "logs", "-o", out)
    shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command.pop("args")]
    assert subprocess.run(shell, **command, timeout=LIMIT_S, check=False).returncode == 0
    assert runs_of(out)["id"].to_list() == ["a"]


def test_a_part_file_is_used_only_if_it_was_written_to_its_end(tmp_path, monkeypatch):
    """After Ctrl-C, polars may leave a file with the metadata of all rows, but without rows."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    frame = pl.DataFrame({"order": [0], "_runtime": [0.5], "_timestamp": [1e9]})
    rows = {"r": export_runs.RunRows(cache_key="k", frame=frame)}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupt)  # when all is written
        with pytest.raises(KeyboardInterrupt):
            export_runs.write_parts(rows, tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".partial"]
    assert export_runs.stored_parts(tmp_path) == {}
    assert [*tmp_path.iterdir()] == []
    export_runs.write_parts(rows, tmp_path)
    assert [*export_runs.stored_parts(tmp_path)] == ["k"]
