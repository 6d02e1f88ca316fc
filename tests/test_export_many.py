"""Many logs, many runs, many exports: what shares a task, a page or a file comes out as if it were alone."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import export_runs
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Done, running, wait_until
from exports import QUICK, SCRIPT, children_of, command_line, exported, own_server, paths_of  # noqa: F401 - fixtures
from log_files import START, write_log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wandb_server import Server

PAST_FLOATS = 2**53 + 1  # no Float64 holds it
BIG_LOG_BYTES = 9_000_000  # two of these are worth a second process

Row = dict[str, Any]  # by metric, the values of one step
Truth = dict[str, list[tuple[int, Row]]]  # by run id, what its history holds


# --- small logs -----------------------------------------------------------------------------------------------


def values_of(number: int, step: int) -> Row:
    """What a run logs at a step: other metrics and other types from run to run, a text and something mixed in all."""
    row: Row = {"loss": (number + 1) / (step + 3), "text": "word", "mixed": step if step % 2 else "none"}
    row["count"] = number * step if number % 6 else PAST_FLOATS + number
    if number % 10 == 3:
        row["count"] = step + 0.5  # of a run that fails: without it, all are whole numbers
    if number % 3 == 0:
        row["exact"] = PAST_FLOATS + 2 * step if number % 2 else -number
    if number % 4 == 1:
        row["flag"] = step % 2 == 0
    if number % 7 == 2:
        row["odd"] = (math.nan, math.inf, 7)[step % 3]
    row[f"own/{number % 20}"] = step
    return row


def state_of(number: int) -> str:
    return "failed" if number % 10 == 3 else "finished"


def numbers_in(row: Row) -> Row:
    return {name: value for name, value in row.items() if not isinstance(value, str)}


def write_small_logs(folder: Path, runs: int) -> Truth:
    """Logs of some rows each; a few runs have three of them: one that was resumed, and one that logs steps again."""
    truth: Truth = {}
    for number in range(runs):
        run_id = f"r{(number * 37) % runs:03d}"  # in no order of time
        logged = [values_of(number, step) for step in range(2 + number % 5)]
        write(folder, run_id, number, logged, minute=number)
        rows = dict(enumerate(logged))
        if number % 15 == 4:
            write(folder, run_id, number, logged[:2], minute=1_000 + number, resumed=True)
            rows |= {len(logged) + step: row for step, row in enumerate(logged[:2])}
            again = values_of(number + 6, 0)
            write(folder, run_id, number, [again], minute=2_000 + number)
            rows[0] = rows[0] | again  # what only the first log has at that step stays
        truth[run_id] = [(step, numbers_in(row)) for step, row in sorted(rows.items())]
    return truth


def write(folder: Path, run_id: str, number: int, rows: list[Row], *, minute: int, **run: Any) -> None:
    texts = [{name: json.dumps(value) for name, value in row.items()} for row in rows]
    write_log(
        folder, run_id, rows=texts, started_at=START + timedelta(minutes=minute), entity="team", project="demo",
        exit_code=int(state_of(number) == "failed"), config={"number": str(number)}, **run,
    )  # fmt: skip


def failed_runs(runs: int) -> set[str]:
    return {f"r{(number * 37) % runs:03d}" for number in range(runs) if state_of(number) == "failed"}


def assert_history(out: Path, truth: Truth, stem: str = "team_demo") -> None:
    """Row for row and value for value, in columns as narrow as the values allow."""
    project = exported(out, stem)
    columns, history = {path[0]: name for path, name in paths_of(project.history_file).items()}, project.history
    assert history.select("run_id", "_step").rows() == [(r, step) for r in sorted(truth) for step, _ in truth[r]]
    rows = [row for run_id in sorted(truth) for _, row in truth[run_id]]
    assert columns.keys() == {name for row in rows for name in row}
    for name, column in columns.items():
        values = [row.get(name) for row in rows]
        is_whole = all(isinstance(value, int) for value in values if value is not None)
        assert history.schema[column] == (pl.Int64 if is_whole else pl.Float64), name
        kind = int if is_whole else float
        expected = [None if value is None else kind(value) for value in values]
        assert list(map(repr, history[column].to_list())) == list(map(repr, expected)), name


def frames(out: Path, stem: str = "team_demo") -> tuple[pl.DataFrame, pl.DataFrame]:
    project = exported(out, stem)
    return project.runs.drop("exported_at"), project.history


def assert_same_frames(one: tuple[pl.DataFrame, ...], other: tuple[pl.DataFrame, ...]) -> None:
    for first, second in zip(one, other, strict=True):
        assert list(first.schema.items()) == list(second.schema.items())
        assert first.equals(second)


@pytest.mark.parametrize("flags", [(), ("--state", "finished")])
def test_small_logs_share_files_and_nothing_else(tmp_path, run_script, call_script, export, monkeypatch, flags):
    """Exported by one process, by two, and each log by itself: the same, and what was logged."""
    n, logs = 60, tmp_path / "logs"
    truth = write_small_logs(logs, n)
    kept = {run_id: rows for run_id, rows in truth.items() if not flags or run_id not in failed_runs(n)}
    for number in range(2):
        write_log(logs, f"big{number}", project="big", filler_bytes=BIG_LOG_BYTES)
    outs = {workers: tmp_path / f"by-{workers}" for workers in ((1,) if flags else (1, 2))}
    for workers, out in outs.items():
        how = ("-o", out, "--include-history", "--workers", workers)
        run = call_script if workers == 1 else run_script
        done = run(SCRIPT, "--offline", logs, *how, *flags)
        assert done.code == 0, done.err
        assert_history(out, kept)
        assert exported(out, "team_demo").metadata["skipped_history_keys"] == ["mixed", "text"]
    monkeypatch.setattr(export_runs, "TASK_LOGS", 1)
    alone = tmp_path / "alone"
    assert export("--offline", logs, "-p", "demo", "-o", alone, "--include-history", *flags).code == 0
    for out in outs.values():
        assert_same_frames(frames(alone), frames(out))


@pytest.mark.parametrize("value", ["0.5", '"NaN"', "1e300"])
def test_a_metric_of_another_project_in_a_shared_file_is_no_obstacle(tmp_path, export, monkeypatch, value):
    """Its numbers are no integers there; this project's runs in the file lack it, and have integers in another file."""
    logged = [("demo", "y", "1"), ("other", "x", value), *[("demo", "x", "2")] * 6]
    for run_id, (project, key, text) in zip("abcdefgh", logged, strict=True):
        write_log(tmp_path / "logs", run_id, rows=[{key: text}], entity="team", project=project)
    monkeypatch.setattr(export_runs, "TASK_LOGS", 2)
    out = tmp_path / "out"
    done = export("--offline", tmp_path / "logs", "-o", out, "--include-history", "--workers", 1)
    assert (done.code, "error" in done.err) == (0, False)
    assert exported(out, "team_demo").history["metric_x"].to_list() == [None, *[2] * 6]
    assert repr(exported(out, "team_other").history["metric_x"][0]) == repr(float(value.strip('"')))


def test_small_logs_do_share_files(tmp_path):
    write_small_logs(tmp_path / "logs", 40)
    files = sorted((tmp_path / "logs").rglob("*.wandb"))
    export_runs.import_libraries()
    read = export_runs.read_logs(files, tmp_path, export_runs.parse_args(["--offline", "x", "--include-history"]))
    parts = [part.file for log in read for part in log.rows["history"].parts]
    assert len(parts) == len(files)
    assert len(set(parts)) < len(files) / 2


def test_the_later_log_of_a_run_may_be_read_first(tmp_path, export):
    """Of a resumed online run, from two machines: the later log shares a file with other runs, the earlier does not."""
    rows = [{"loss": "1"}] * 5
    for number in range(9):
        write_log(tmp_path / "logs/1", f"a{number}", rows=rows)
    write_log(tmp_path / "logs/1", "b", rows=rows, first_step=5, started_at=START + timedelta(hours=1))
    write_log(tmp_path / "logs/2", "b", rows=rows)
    assert export("--offline", "logs", "-o", "out", "--include-history", "--workers", 1).code == 0
    history = pl.read_parquet(tmp_path / "out/offline_uncategorized_history.parquet")
    assert history.filter(run_id="b")["_step"].to_list() == list(range(10))
    assert history.equals(history.sort("run_id", "_step"))


def test_projects_of_small_logs(tmp_path, export):
    """A run shares a file with one of another project: the dtypes of that one's metrics do not count."""
    logged = [("q", {"a": "1"}), ("p", {"loss": '"NaN"', "a": "0.5"}), *[("q", {"loss": str(n)}) for n in range(8)]]
    for number, (project, row) in enumerate(logged):
        write_log(tmp_path / "logs", f"r{number}", rows=[row], entity="team", project=project)
    assert export("--offline", "logs", "-o", "out", "--include-history", "--workers", 1).code == 0
    history = pl.read_parquet(tmp_path / "out/team_q_history.parquet")
    assert history["metric_loss"].to_list() == [None, *range(8)]
    assert history.schema["metric_loss"] == history.schema["metric_a"] == pl.Int64


def test_private_keys_of_small_logs(tmp_path, export):
    """Each project lists those of its own runs, though other logs with the same keys were read before."""
    for number in range(9):
        write_log(tmp_path / "logs", f"r{number}", rows=[{"_own": "1"}], entity="team", project=f"p{int(number == 7)}")
    assert export("--offline", "logs", "-o", "out", "--include-history", "--workers", 1).code == 0
    found = [exported(tmp_path / "out", f"team_p{number}").metadata["skipped_history_keys"] for number in range(2)]
    assert found == [["_own"], ["_own"]]


def test_some_keys_of_small_logs(tmp_path, run_script):
    """What is not wanted of a shared file is in none of the runs."""
    truth = write_small_logs(tmp_path / "logs", 40)
    how = ("-o", tmp_path / "out", "--include-history", "--history-keys", "count,own/1*,nothing")
    done = run_script(SCRIPT, "--offline", tmp_path / "logs", *how)
    assert done.code == 0, done.err
    wanted = lambda name: name == "count" or name.startswith("own/1")  # noqa: E731
    assert_history(
        tmp_path / "out",
        {run_id: [(step, {name: row[name] for name in row if wanted(name)}) for step, row in rows]
         for run_id, rows in truth.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def long_logs(tmp_path_factory) -> Path:
    """Two logs that take long enough to read for something to happen meanwhile."""
    logs = tmp_path_factory.mktemp("logs")
    for number in range(2):
        write_log(logs, f"big{number}", rows=[{"loss": "1"}] * 60_000, filler_bytes=BIG_LOG_BYTES)
    return logs


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the script's own processes there")
@pytest.mark.parametrize("what", ["killed", "interrupted"])
def test_processes_that_read_logs_may_end(tmp_path, script_command, long_logs, what):
    """While they read their logs: killed, as where memory is short, or interrupted with the script."""
    command = script_command(SCRIPT, "--offline", long_logs, "-o", "out", "--workers", 2, "--quiet")
    with running(command) as process:
        readers: list[int] = []

        def both_read() -> bool:
            spawned = [child for child in children_of(process.pid) if b"spawn_main" in command_line(child)]
            for child in spawned:
                if child not in readers and ignores_ctrl_c(child):  # the last step before it reads
                    os.kill(child, signal.SIGSTOP)
                    readers.append(child)
            return len(readers) == 2

        wait_until(both_read)
        for reader in readers if what == "killed" else ():
            os.kill(reader, signal.SIGKILL)
        if what == "interrupted":
            process.send_signal(signal.SIGTERM)  # as Ctrl-C, which may be ignored where no terminal is
        out, err = process.communicate(timeout=60)
    said = {
        "killed": (
            1,
            "",
            "error: a process that read logs was killed, maybe because memory ran out; try --workers 1\n",
        ),
        "interrupted": (130, "", "interrupted: to continue, run the same command again\n"),
    }
    assert (process.returncode, out, err) == said[what]
    wait_until(lambda: not any(b"spawn_main" in command_line(reader) for reader in readers))
    assert not list((tmp_path / "out").glob("*.parquet"))


def ignores_ctrl_c(process: int) -> bool:
    with suppress(OSError):  # it may have ended
        status = Path(f"/proc/{process}/status").read_text("utf-8")
        ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)$", status, re.MULTILINE)
        return bool(ignored and int(ignored[1], 16) & 1 << (signal.SIGINT - 1))
    return False


# --- exports into one folder ----------------------------------------------------------------------------------


def moments_of(out: Path, stem: str = "team_demo") -> pl.DataFrame:
    """The rows of a runs file in its order, which is that of time, then id; each with the config of its own."""
    runs = exported(out, stem).runs
    assert runs.equals(runs.sort("created_at", "id"))
    assert runs["id"].is_unique().all()
    numbers = runs["config_number"].to_list()
    assert numbers == [json.loads(text)["number"] for text in runs["_config_json"]]
    return runs.select("id", "created_at", "config_number")


@pytest.fixture
def ask(server, export, tmp_path) -> Callable[..., Done]:
    return lambda *how: export(
        "team/demo", "-o", tmp_path / "out", *how, *QUICK, env=server.environment(tmp_path / "sdk")
    )


def test_kept_runs_between_fresh_ones_in_time(server, ask, tmp_path):
    """Pages of both overlap, and so do those of one export whose runs were created at once."""
    n = 3_000
    for number in range(n):
        minute = number // 2 if number % 100 else 50  # two at a time, and some at one moment
        moment = START + timedelta(minutes=minute)
        server.add_run(
            "team", "demo", f"r{(number * 7919) % n:04d}", config={"number": number}, tags=[f"t{number % 2}"],
            created_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )  # fmt: skip
    expected = sorted(
        (START + timedelta(minutes=k // 2 if k % 100 else 50), f"r{(k * 7919) % n:04d}", k) for k in range(n)
    )
    expected = [(run_id, moment, number) for moment, run_id, number in expected]
    for tags in (("t1",), ("t0", "t1")):  # the odd ones, then the even ones among them
        done = ask("--tag", tags[0])
        assert done.code == 0, done.err
        assert moments_of(tmp_path / "out").rows() == [row for row in expected if f"t{row[2] % 2}" in tags]
    assert exported(tmp_path / "out", "team_demo").metadata["runs"]["written"] == n // 2


def test_pages_of_logs_are_in_the_order_of_time(tmp_path, export, monkeypatch):
    """Logs are found in the order of ids: their pages, and those of an earlier export, overlap in time."""
    monkeypatch.setattr(export_runs, "PAGE_RUNS", 10)
    out = tmp_path / "out"
    expected = []
    for half in (0, 1):
        for number in range(half, 60, 2):
            run_id, moment = f"r{(number * 7) % 60:02d}", START + timedelta(minutes=number // 4)
            logs = tmp_path / f"logs{half}"
            write_log(logs, run_id, started_at=moment, entity="team", project="demo", config={"number": str(number)})
            expected.append((moment, run_id, number))
        assert export("--offline", tmp_path / f"logs{half}", "-o", out).code == 0
        assert moments_of(out).rows() == [(run_id, moment, number) for moment, run_id, number in sorted(expected)]


def test_histories_of_several_exports_in_the_order_of_runs(tmp_path, export):
    """Kept rows between fresh ones, whole numbers beside fractions, and logs that are not called like their runs."""
    out = tmp_path / "out"

    def log(folder: str, run_id: str, *rows: Row, name: str = "") -> list[tuple[int, Row]]:
        texts = [{key: json.dumps(value) for key, value in row.items()} for row in rows]
        file = write_log(tmp_path / folder, run_id, rows=texts, entity="team", project="demo")
        file.rename(file.with_name(f"{name or file.stem}.wandb"))
        return list(enumerate(rows))

    truth: Truth = {}
    for number, run_id in enumerate("aceg"):
        rows = [{"loss": number + step, "old": PAST_FLOATS + step} for step in range(3)]
        truth[run_id] = log("first", run_id, *rows, name=f"run-{9 - number}")
    assert export("--offline", tmp_path / "first", "-o", out, "--include-history").code == 0
    assert_history(out, truth)
    for number, run_id in enumerate("fdb0"):
        truth[run_id] = log("second", run_id, {"loss": number + 0.5, "new": number}, {"new": -1}, name=f"run-{number}")
    truth["c"] = log("second", "c", *({"loss": -1, "old": step} for step in range(5)))
    assert export("--offline", tmp_path / "second", "-o", out, "--include-history").code == 0
    assert_history(out, truth)
    both = frames(out)
    assert export("--offline", tmp_path / "second", "-o", out, "--include-history").code == 0
    assert_same_frames(both, frames(out))


# --- histories from a server ----------------------------------------------------------------------------------


def add_history(server: Server, file: Path, run_id: str, columns: Mapping[str, Any], **how: Any) -> None:
    pq.write_table(pa.table(dict(columns)), file)
    server.add_run("team", "demo", run_id, **how)
    server.add_history("team", "demo", run_id, files=[file])


def test_runs_that_are_fetched_together_have_dtypes_of_their_own(server, ask, tmp_path):
    """Whole numbers past 2**53 of one run beside fractions of another: exact, once the other is not asked for."""
    truth: Truth = {}
    for number in range(60):
        row: Row = {"count": PAST_FLOATS + number if number % 3 else number + 0.5, "exact": -PAST_FLOATS - number}
        rows = [row | ({"odd": math.nan} if number % 4 == 0 else {}) for _ in range(1 + number % 3)]
        truth[f"r{number:02d}"] = list(enumerate(rows))
        columns = {"_step": list(range(len(rows)))} | {name: [value] * len(rows) for name, value in rows[0].items()}
        columns["text"] = ["word"] * len(rows)
        how = {"tags": ["whole"] if number % 3 else []}
        add_history(server, tmp_path / f"{number}.parquet", f"r{number:02d}", columns, **how)
    whole = {run_id: rows for run_id, rows in truth.items() if isinstance(rows[0][1]["count"], int)}
    for flags, kept in ((("--tag", "whole"), whole), ((), truth)):
        done = ask("--include-history", *flags)
        assert done.code == 0, done.err
        assert_history(tmp_path / "out", kept)


def group_sizes(file: Path) -> list[int]:
    metadata = pq.read_metadata(file)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_row_groups_of_histories_are_bounded(server, ask, tmp_path):
    """About 100,000 rows, also where an earlier export's rows are merged in."""
    file, steps = tmp_path / "out" / "team_demo_history.parquet", {}
    for run_ids, rows in (("bdf", 130_000), ("ace", 70_000)):
        for run_id in run_ids:
            steps[run_id] = rows
            add_history(server, tmp_path / run_id, run_id, dict.fromkeys(("_step", "loss"), pa.array(range(rows))))
        done = ask("--include-history")
        assert done.code == 0, done.err
        sizes = group_sizes(file)
        assert sum(sizes) == sum(steps.values())
        assert max(sizes) <= 100_000
        assert len(sizes) <= 2 * math.ceil(sum(sizes) / 100_000)


def test_row_groups_of_wide_histories_are_bounded(server, ask, tmp_path, monkeypatch):
    """To a number of values, however few rows that are."""
    monkeypatch.setattr(export_runs, "ROW_GROUP_CELLS", 1_000_000)
    columns = dict.fromkeys(("_step", *(f"m{number:03d}" for number in range(500))), pa.array(range(3_000)))
    add_history(server, tmp_path / "wide", "wide", columns)
    done = ask("--include-history")
    assert done.code == 0, done.err
    assert max(group_sizes(tmp_path / "out" / "team_demo_history.parquet")) <= 2_000


def test_row_groups_of_long_configs_are_bounded(server, ask, tmp_path):
    for number in range(1_500):
        server.add_run("team", "demo", f"r{number:04d}", config={"number": number, "text": f"{number}" * 5_000})
    done = ask()
    assert done.code == 0, done.err
    assert moments_of(tmp_path / "out").height == 1_500
    assert max(group_sizes(tmp_path / "out" / "team_demo_runs.parquet")) <= 1_000


def test_many_projects_are_folded_on_stderr(tmp_path, call_export):
    for number in range(13):
        write_log(tmp_path / "logs", f"r{number:02}", project=f"p{number:02}", exit_code=0)
    done = call_export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert (done.code, done.out.count("\n")) == (0, 13)
    assert [line.partition(":")[0] for line in done.err.splitlines() if line.startswith("offline/")] == [
        f"offline/p{number:02}" for number in range(10)
    ]
    assert done.err.endswith("3 more projects without failures; --json lists all\n")


# --- progress -------------------------------------------------------------------------------------------------


def test_progress_names_what_it_counts(capsys, monkeypatch):
    """Logs were called runs, of which there are fewer; at the end stood `about 0 s left`."""
    monkeypatch.setattr(export_runs, "PLAIN_LINE_S", 0)
    with export_runs.Meter(quiet=False) as meter:
        meter.add(logs_wanted=1_200)
        meter.add(logs=1_199)
    assert capsys.readouterr().err.splitlines() == ["0 of 1,200 logs", "1,199 of 1,200 logs"]
