"""Later exports into the same folder: what changed, what is gone, with other flags or from another source."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import export_runs
import polars as pl
import pytest
from exports import (  # noqa: F401 - fixtures
    QUICK,
    add_log,
    add_logged_runs,
    add_run,
    add_runs,
    asked_for,
    demo_project,
    earlier_export,
    export_from_server,
    export_of_logs,
    exported,
    facts_of,
    ids_of,
    log,
    log_rows,
    logged,
    metadata_of,
    names_of_failed,
    out_folder,
    own_server,
    paths_of,
    project_of_team,
    rows_of,
    runs_of,
    steps_of,
    two_logs,
)
from log_files import HEADER, START, log_of, records_of, write_log

if TYPE_CHECKING:
    from pathlib import Path

# --- logs that are gone ---------------------------------------------------------------------------------------


def test_runs_of_an_earlier_export_stay(earlier, tmp_path, call_export):
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
    assert done.code == 0
    assert "2 runs (2 finished), 2 history rows; 1 run of an earlier export kept, 1 of them no longer in" in done.err
    project = exported(earlier, "offline_uncategorized")
    assert project.metadata["missing_on_server"] == ["b"]
    assert project.runs["id"].to_list() == ["a", "b", "c"]
    assert project.runs["config_lr"].to_list() == ["1", "2", "1e-3"]
    by_run = dict.fromkeys("abc", ())
    for run_id, row in zip(project.history["run_id"], project.rows(), strict=True):
        by_run[run_id] += (row,)
    assert by_run == {
        "a": ((0, {("train/loss",): 1}),),
        "b": ((0, {("train/loss",): 7, ("only b",): 3}), (1, {("train/loss",): 7, ("only b",): 3})),
        "c": ((0, {("train_loss",): 0.5}),),
    }


def test_prune(earlier, tmp_path, call_export):
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--include-history", "--prune")
    assert (done.code, "kept" in done.err) == (0, False)
    project = exported(earlier, "offline_uncategorized")
    assert project.metadata["missing_on_server"] == []
    assert project.runs["id"].to_list() == project.history["run_id"].to_list() == ["a", "c"]
    assert "metric_only_b" not in project.runs.columns


@pytest.mark.parametrize("content", [None, HEADER, bytes(100)])
def test_unreadable_is_not_gone(earlier, tmp_path, call_export, content):
    """--prune drops no run whose log is there, but cannot be read today."""
    file = tmp_path / "logs" / "run-b.wandb"
    file.symlink_to(tmp_path / "nowhere") if content is None else file.write_bytes(content)
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--include-history", "--prune")
    assert done.code == (3 if content is None else 0)
    assert exported(earlier, "offline_uncategorized").runs["id"].to_list() == ["a", "b", "c"]


def test_filtered_runs_are_not_gone(earlier, tmp_path, call_export):
    write_log(tmp_path / "logs", "f", exit_code=1)
    done = call_export("--offline", tmp_path / "logs", "-o", earlier, "--state", "failed", "--prune")
    assert done.code == 0
    project = exported(earlier, "offline_uncategorized")
    assert project.runs["id"].to_list() == ["a", "f"]  # c was never exported, b is gone


def test_a_closed_folder_is_named_and_nothing_counts_as_gone(earlier, tmp_path, monkeypatch, capsys):
    closed = tmp_path / "logs" / "closed"
    closed.mkdir()
    scan = os.scandir

    def refusing(path):
        if path == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    (tmp_path / "logs" / "run-b.wandb").unlink(missing_ok=True)
    monkeypatch.setattr(os, "scandir", refusing)  # permissions do not stop root
    code = export_runs.main(["--offline", str(tmp_path / "logs"), "-o", str(earlier), "--include-history", "--prune"])
    assert code == 3
    assert "error: closed: cannot be read: Permission denied" in capsys.readouterr().err
    project = exported(earlier, "offline_uncategorized")
    assert "b" in project.runs["id"].to_list()
    assert project.metadata["missing_on_server"] == []


# --- runs that are gone from the server -----------------------------------------------------------------------


def test_when_all_runs_have_gone(server, export, project):
    add_logged_runs(server, "demo", "abc")
    add_logged_runs(server, "other", "x")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.delete_run("team", "demo", "b")
    done = export("-e", "team", "--prune", *QUICK)  # and not --include-history
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), set(project("demo").history["run_id"])) == (["a", "c"], {"a", "c"})
    for run_id in "ac":
        server.delete_run("team", "demo", run_id)
    done = export("team/demo", *QUICK)
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), project("demo").metadata["missing_on_server"]) == (["a", "c"], ["a", "c"])
    done = export("team/demo", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert (ids_of(project("demo")), project("demo").metadata["missing_on_server"]) == ([], [])
    assert project("demo").history.is_empty()
    assert rows_of(project("other"), "x") == logged(5, "loss", "acc")


def test_runs_that_are_removed_are_counted(server, export, demo):
    add_runs(server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    server.delete_run("team", "demo", "two")
    done = export("team/demo", "--include-history", "--prune")
    said = "5 history rows (1 run unchanged); 1 run removed, because no longer in the source\n"
    assert done.code == 0
    assert f"team/demo: 1 run (1 finished), {said}" in done.err
    server.delete_run("team", "demo", "one")
    done = export("team/demo", "--include-history", "--prune")
    assert done.code == 0
    assert "; 1 run removed, because no longer in the source\n" in done.err
    assert "not asked for" not in done.err


def test_projects_from_which_nothing_is_removed_are_named(server, export):
    for name in ("demo", "half"):
        server.add_run("team", name, "one")
    done = export("team/demo", "team/half/one", "--prune")
    assert done.code == 0
    assert "--prune removed nothing from team/half: it needs an export of all runs, without filters\n" in done.err


def test_a_run_whose_config_is_odd_does_not_keep_others_from_being_removed(server, export, demo):
    add_runs(server, one="g", gone="g")
    server.add_run("team", "demo", "odd", config="no JSON")
    assert export("team/demo").code == 3
    server.delete_run("team", "demo", "gone")
    assert export("team/demo", "--prune").code == 3
    assert set(demo().runs["id"]) == {"one", "odd"}


# --- what is fetched again ------------------------------------------------------------------------------------


def test_only_what_has_changed_is_fetched_again(server, export, project, tmp_path):
    add_logged_runs(server, "demo", "abcde")
    server.add_run("team", "demo", "empty", history_rows=0)
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    demo = project("demo")
    before = demo.runs.drop("exported_at"), demo.history
    server.reset()
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == set()
    assert not {"download", "field:history", "field:parquetHistory"} & server.counts().keys()
    assert demo.runs.drop("exported_at").equals(before[0])
    assert demo.history.equals(before[1])
    assert project("demo").metadata["history"]["rows"] == 25

    server.reset()
    more = log(list(range(5, 8)), loss=float, acc=lambda step: step / 10)
    for run_id in "ad":  # resumed
        server.add_history("team", "demo", run_id, rows=more[:2], live=more[2:])
        server.change_run("team", "demo", run_id, state="running", heartbeat_at="2026-02-01T00:00:00Z")
    server.change_run("team", "demo", "b", display_name="renamed", tags=["new"])
    server.change_run("team", "demo", "e", state="failed", heartbeat_at="2026-01-02T00:00:00Z")
    server.delete_run("team", "demo", "c")
    add_logged_runs(server, "demo", "f")
    server.fault("status", match={"kind": "download", "run": "d"}, status=500)
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3, done.err
    assert {"a", "d", "f"} <= asked_for(server) <= set("adef")
    assert names_of_failed(project("demo")) == [("d", "history")]
    rows = {row["id"]: row for row in demo.runs.iter_rows(named=True)}
    assert set(rows) == {*"abcdef", "empty"}
    assert (rows["b"]["name"], rows["b"]["tags"], rows["a"]["state"]) == ("renamed", ["new"], "running")
    assert (rows["a"]["history_rows"], rows["d"]["history_rows"]) == (8, 8)
    assert rows["c"]["exported_at"] < rows["a"]["exported_at"]
    assert project("demo").metadata["missing_on_server"] == ["c"]
    assert "1 of them no longer in the source" in done.err
    for run_id, steps in {"a": 8, "b": 5, "c": 5, "d": 5, "e": 5, "f": 5}.items():
        assert rows_of(demo, run_id) == logged(steps, "loss", "acc"), run_id

    server.reset()
    done = export("-e", "team", "--include-history", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == {"d"}  # what failed is tried again
    assert ids_of(demo) == sorted([*"abdef", "empty"])
    assert (rows_of(demo, "d"), rows_of(demo, "c")) == (logged(8, "loss", "acc"), [])
    assert project("demo").metadata["missing_on_server"] == []

    server.add_run("team", "demo", "emptier", history_rows=0)
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.reset()
    done = export("-e", "team", "--include-history", "--dry-run", *QUICK)
    assert done.out == "team/demo: 7 runs (4 finished, 2 running, 1 failed), 0 history rows to download\n"
    assert asked_for(server) == set()
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    assert asked_for(server) == set()


def test_filters_remove_nothing_and_other_keys_fetch_anew(server, export, project, tmp_path):
    add_logged_runs(server, "demo", "abc")
    server.change_run("team", "demo", "b", tags=["new"], heartbeat_at="2026-02-01T00:00:00Z")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    demo = project("demo")
    server.delete_run("team", "demo", "c")
    server.reset()
    done = export("-e", "team", "--include-history", "--history-keys", "LOSS", "--tag", "new", "--prune", *QUICK)
    assert done.code == 0, done.err
    assert "--tag kept 1 of 2 runs" in done.err
    assert "matches no metric" not in done.err
    assert (asked_for(server), ids_of(demo)) == ({"b"}, ["a", "b", "c"])
    assert rows_of(demo, "a") == rows_of(demo, "c") == logged(5, "loss", "acc")
    assert rows_of(demo, "b") == logged(5, "loss")
    assert project("demo").metadata["filters"] == {"entity": ["team"], "tag": ["new"]}
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (2, 1, 0, 1)

    server.reset()
    fetch = ("--include-history", "--history-keys", "LOSS", "--active-since", "2026-01-15", "--prune")
    done = export("-e", "team", *fetch, *QUICK)
    assert done.code == 0, done.err
    assert "--active-since kept 1 of 2 runs" in done.err
    assert (asked_for(server), ids_of(demo)) == (set(), ["a", "b", "c"])
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (2, 1, 0, 1)

    done = export("-e", "team", "--include-history", "--history-keys", "LOSS", *QUICK)
    assert done.code == 0, done.err
    assert asked_for(server) == {"a"}  # its earlier history was of all keys
    assert rows_of(demo, "a") == rows_of(demo, "b") == logged(5, "loss")
    assert rows_of(demo, "c") == logged(5, "loss", "acc")


def test_runs_whose_history_is_as_before_are_counted(server, export):
    add_runs(server, one="g", two="g")
    done = export("team/demo", "--include-history")
    assert (done.code, done.err) == (0, "team/demo: 2 runs (2 finished), 10 history rows\n")
    add_runs(server, three="g")
    done = export("team/demo", "--include-history")
    assert (done.code, done.err) == (0, "team/demo: 3 runs (3 finished), 15 history rows (2 runs unchanged)\n")


def test_runs_without_rows_are_not_asked_for_each_time(server, export, out):
    for number in range(6):
        add_run(server, "demo", f"r{number}")
    server.add_events("team", "demo", "r0", [{"_runtime": 1.0, "_timestamp": 2.0, "system.cpu": 3.0}])
    flags = ("team/demo", "--include-history", "--system-metrics", *QUICK)
    assert export(*flags).code == 0
    server.change_run("team", "demo", "r0", heartbeat_at="2026-06-01T00:00:00Z")
    assert export(*flags).code == 0
    server.reset()
    before = (out / "team_demo_history.parquet").stat().st_ino
    assert export(*flags).code == 0
    assert server.counts().get("operation:Histories", 0) == 0
    assert (out / "team_demo_history.parquet").stat().st_ino == before


def test_without_the_runs_file_the_rows_of_other_runs_stay(server, export, demo, tmp_path):
    """Somebody deleted it, or the first export was killed before it was there."""
    add_runs(server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    (tmp_path / "out" / "team_demo_runs.parquet").unlink()
    assert export("team/demo", "--include-history", "--group", "g").code == 0
    assert (demo().runs.height, demo().history.height) == (1, 10)
    assert export("team/demo", "--include-history").code == 0
    assert (demo().runs.height, demo().history.height) == (2, 10)


def test_the_advice_of_verify_gives_the_lost_values_back(server, export, call_export, tmp_path, demo):
    """A second export alone would keep the damaged rows: what did not change is not downloaded again."""
    server.add_run("team", "demo", "one")
    rows = [{"_step": step, "loss": step * 7919 % 1000 / 7} for step in range(2000)]
    server.add_history("team", "demo", "one", rows=rows)
    assert export("team/demo", "--include-history").code == 0
    before, file = demo().history, demo().history_file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = call_export("--verify", tmp_path / "out")
    assert done.code == 3
    assert "; restore it from a copy, or move it away and export again\n" in done.err
    file.rename(tmp_path / "away.parquet")
    done = call_export("--verify", tmp_path / "out")
    assert done.code == 3
    assert " is missing; restore it from a copy, or export again\n" in done.err
    assert export("team/demo", "--include-history").code == 0
    assert call_export("--verify", tmp_path / "out").code == 0
    assert demo().history.equals(before)


# --- metrics --------------------------------------------------------------------------------------------------


def test_other_keys_drop_columns_and_say_so(logs, tmp_path, call_export):
    out = tmp_path / "out"
    assert call_export("--offline", logs, "-o", out, "--include-history").code == 0
    done = call_export("--offline", logs, "-o", out, "--include-history", "--history-keys", "no such metric")
    assert done.code == 0
    assert "removed from the history, because they were not asked for this time" in done.err


def test_values_that_only_some_runs_lose_are_named(server, export, demo):
    add_runs(server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    done = export("team/demo", "--include-history", "--group", "g", "--history-keys", "a/x")
    removed = "removed from the history, because they were not asked for this time: "
    assert done.code == 0
    assert f"{removed}b/y\n" in done.err
    assert demo().history.filter(run_id="one")["metric_b_y"].count() == 0
    again = export("team/demo", "--include-history", "--group", "g", "--history-keys", "a/x")
    assert again.code == 0
    assert removed not in again.err  # only once
    other = export("team/demo", "--include-history", "--group", "h", "--history-keys", "a/x")
    assert other.code == 0
    assert f"{removed}b/y\n" in other.err
    add_runs(server, three="i")
    new = export("team/demo", "--include-history", "--group", "i", "--history-keys", "b/y")
    assert new.code == 0
    assert removed not in new.err
    all_ = export("team/demo", "--include-history")
    assert all_.code == 0
    assert removed not in all_.err
    assert demo().history["metric_b_y"].count() == 15


def test_keys_that_were_left_out_stay_listed(server, export, demo):
    add_runs(server, one="g", two="h")
    for flags in (["--include-history"], ["--include-history"], [], ["--include-history", "--group", "g"]):
        assert export("team/demo", *flags).code == 0
        assert demo().metadata["skipped_history_keys"] == ["note"], flags
    server.delete_run("team", "demo", "one")
    server.delete_run("team", "demo", "two")
    assert export("team/demo", "--include-history", "--prune").code == 0
    assert demo().metadata["skipped_history_keys"] == []


def test_a_metric_that_no_run_has_any_more_leaves_no_column(server, export, demo):
    """Neither its name: a metric with the same name gets it back."""
    add_runs(server, one="g")
    server.add_run("team", "demo", "gone")
    server.add_history("team", "demo", "gone", rows=[{"_step": 0, "a_x": 1, "typo": 2}])
    assert export("team/demo", "--include-history").code == 0
    server.delete_run("team", "demo", "gone")
    assert export("team/demo", "--include-history", "--prune").code == 0
    metrics = [
        [column for column in each.columns if column.startswith("metric_")] for each in (demo().history, demo().runs)
    ]
    assert metrics == [["metric_a_x", "metric_b_y"], ["metric_a_x"]]


def test_definitions_of_kept_runs(tmp_path, call_export):
    """They go with their path, though its column is called otherwise now; where runs differ, no goal is told."""
    proto = export_runs.wandb_proto()
    out = tmp_path / "out"

    def export_defined(run_id: str, **goals: str) -> dict[str, str | None]:
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        file = write_log(tmp_path / "logs", run_id, rows=[dict.fromkeys(("a/b", "m", *goals), "1")])
        metrics = [
            proto.MetricRecord(
                name={"a_b": "a_b", "ab": "a/b"}.get(name, name), summary=proto.MetricSummary(**{kind: True})
            )
            for name, kind in goals.items()
        ]
        payloads_ = [record.payload for record in records_of(file.read_bytes())]
        payloads_ += [proto.Record(metric=metric).SerializeToString() for metric in metrics]
        file.write_bytes(log_of(payloads_))
        assert call_export("--offline", tmp_path / "logs", "-o", out, "--include-history").code == 0
        project = exported(out, "offline_uncategorized")
        columns = {name: path for path, name in paths_of(project.history_file).items()}
        return {columns[name][0]: fact["goal"] for name, fact in facts_of(project.history_file).items()}

    assert export_defined("one", ab="min", m="min") == {"a/b": "minimize", "m": "minimize"}
    assert export_defined("two", a_b="max", m="max") == {"a/b": "minimize", "a_b": "maximize"}


def test_a_history_that_was_not_asked_for_stays_listed(earlier, tmp_path, call_export):
    assert call_export("--offline", tmp_path / "logs", "-o", earlier).code == 0
    project = exported(earlier, "offline_uncategorized")
    for listed in project.metadata["files"]:
        content = (earlier / listed["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == listed["sha256"]
    assert [listed["name"] for listed in project.metadata["files"]] == [
        "offline_uncategorized_history.parquet",
        "offline_uncategorized_runs.parquet",
    ]
    assert project.metadata["history"]["rows"] == 0  # of this export


# --- less data never replaces more ----------------------------------------------------------------------------


def log_cut_to(file: Path, rows: int, *, in_a_record: bool) -> None:
    """Cut a log where a crash might: after some rows, between two records or in the middle of one."""
    content = file.read_bytes()
    record = records_of(content)[1 + rows]  # the first one is the run's
    file.write_bytes(content[: (record.start + record.end) // 2 if in_a_record else record.start])


@pytest.mark.parametrize("in_a_record", [True, False])
def test_a_truncated_log_leaves_the_fuller_history(tmp_path, export_logs, out, in_a_record):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(300))
    write_log(tmp_path / "logs", "other", entity="team", project="demo", rows=log_rows(7))
    whole = file.read_bytes()
    assert export_logs("--include-history").code == 0
    log_cut_to(file, 100, in_a_record=in_a_record)
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    assert steps_of(out, "abc") == list(range(300))
    assert steps_of(out, "other") == list(range(7))
    assert metadata_of(out)["kept_fuller"] == ["abc"]
    assert "abc" in done.err
    assert metadata_of(out)["history"] == {"rows": 307, "runs": 2, "sampled": False, "mismatched": []}
    assert metadata_of(out)["runs"]["by_state"] == Counter(runs_of(out)["state"])  # of the rows that are written
    file.write_bytes(whole)
    assert export_logs("--include-history").code == 0
    assert metadata_of(out)["kept_fuller"] == []
    assert steps_of(out, "abc") == list(range(300))


def test_a_cut_log_that_has_more_than_before_does_replace(tmp_path, export_logs, out):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(60))
    whole = file.read_bytes()
    for rows, kept in ((20, []), (40, []), (30, ["abc"])):
        file.write_bytes(whole)
        log_cut_to(file, rows, in_a_record=True)
        assert export_logs("--include-history").code == 0
        assert steps_of(out, "abc") == list(range(max(rows, 40) if kept else rows))
        assert metadata_of(out)["kept_fuller"] == kept


def test_a_log_cut_to_nothing_costs_the_run_nothing(tmp_path, export_logs, out):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(30))
    write_log(tmp_path / "logs", "other", entity="team", project="demo", rows=log_rows(7))
    assert export_logs("--include-history").code == 0
    file.write_bytes(HEADER + b"\0" * 3)
    done = export_logs("--include-history", "--prune")
    assert done.code == 0, done.err
    assert "skipped: 1 log without a record\n" in done.err
    assert "1 run of an earlier export kept\n" in done.err
    assert set(runs_of(out)["id"]) == {"abc", "other"}
    assert steps_of(out, "abc") == list(range(30))


@pytest.mark.parametrize("moved", [0, 1])
def test_a_log_that_was_moved_away_costs_its_run_nothing(tmp_path, export_logs, demo, moved):
    logs = [add_log(tmp_path, "abc", rows=20)]
    logs.append(add_log(tmp_path, "abc", rows=9, started_at=START + timedelta(hours=1), resumed=True))
    assert export_logs("--include-history").code == 0
    shutil.rmtree(logs[moved].parent)
    done = export_logs("--include-history")
    assert done.code == 0
    assert demo().history["_step"].to_list() == list(range(29))
    assert demo().runs["history_rows"].to_list() == [29]
    assert demo().metadata["kept_fuller"] == ["abc"]
    assert "1 run kept from the earlier export, which has more rows: abc" in done.err


def test_new_rows_without_the_log_before_them_are_a_failure(tmp_path, export_logs, demo):
    first = add_log(tmp_path, "abc", rows=20)
    assert export_logs("--include-history").code == 0
    shutil.rmtree(first.parent)
    add_log(tmp_path, "abc", rows=30, started_at=START + timedelta(hours=1), resumed=True)
    done = export_logs("--include-history", "--console")
    assert done.code == 3
    assert demo().history["_step"].to_list() == list(range(20))
    assert (demo().runs["history_rows"].to_list(), demo().metadata["kept_fuller"]) == ([20], ["abc"])
    assert "error: abc: its first log is no longer here, so its new rows cannot be added" in done.err


def test_a_resumed_log_without_the_one_before_replaces_nothing(export_logs, tmp_path, out):
    places = {"entity": "team", "project": "demo"}
    first = write_log(tmp_path / "logs", "a", rows=log_rows(5), **places)
    later = START + timedelta(hours=1)
    write_log(tmp_path / "logs", "a", rows=log_rows(4), started_at=later, resumed=True, **places)
    assert export_logs("--include-history").code == 0
    assert steps_of(out, "a") == list(range(9))
    shutil.rmtree(first.parent)
    assert export_logs("--include-history").code == 0
    assert steps_of(out, "a") == list(range(9))
    assert metadata_of(out)["kept_fuller"] == ["a"]


def test_a_row_that_is_not_written_decides_no_columns(tmp_path, export_logs, demo):
    add_log(tmp_path, "one", rows=9, config={"seed": "1"})
    assert export_logs().code == 0
    add_log(tmp_path, "one", rows=2, config={"seed": '"text"', "more": "3"})
    add_log(tmp_path, "two", config={"seed": "2"})
    assert export_logs().code == 0
    assert demo().metadata["kept_fuller"] == ["one"]
    configs = demo().runs.select(column for column in demo().runs.columns if column.startswith("config_"))
    assert configs.to_dict(as_series=False) == {"config_seed": [1, 2]}


def test_a_shorter_answer_does_not_replace_a_fuller_history(server, export, project):
    add_logged_runs(server, "demo", "ab")
    assert export("-e", "team", "--include-history", *QUICK).code == 0
    server.delete_run("team", "demo", "a")
    server.add_run("team", "demo", "a", summary={"loss": 1}, history_rows=9)
    server.add_history("team", "demo", "a", rows=log(list(range(3)), loss=float, acc=lambda s: s / 10))
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3
    assert rows_of(project("demo"), "a") == rows_of(project("demo"), "b") == logged(5, "loss", "acc")
    assert project("demo").metadata["history"]["mismatched"] == ["a"]


# --- runs that were rewound or made anew ----------------------------------------------------------------------


def test_a_rewound_run_may_have_fewer_rows(tmp_path, export_logs, demo):
    add_log(tmp_path, "abc", rows=20)
    assert export_logs("--include-history").code == 0
    branch = export_runs.wandb_proto().BranchPoint(run="abc", metric="_step", value=4)
    add_log(tmp_path, "abc", rows=0, started_at=START + timedelta(hours=1), branch_point=branch)
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == list(range(5))
    assert demo().metadata["kept_fuller"] == []


def test_a_rewound_run_needs_the_log_before(tmp_path, export_logs, demo):
    first = add_log(tmp_path, "abc", rows=20)
    assert export_logs("--include-history").code == 0
    shutil.rmtree(first.parent)
    for hours in (1, 2):
        branch = export_runs.wandb_proto().BranchPoint(run="abc", metric="_step", value=4)
        later = START + timedelta(hours=hours)
        add_log(tmp_path, "abc", rows=3, first_step=5, started_at=later, branch_point=branch)
        assert export_logs("--include-history").code == 3
        assert demo().history["_step"].to_list() == list(range(20))
        assert (demo().runs["history_rows"].to_list(), demo().metadata["kept_fuller"]) == ([20], ["abc"])


def test_a_run_that_was_made_anew_replaces_the_earlier_one(tmp_path, export_logs, demo):
    """The script has a fixed id, and the folder of the first attempt was deleted."""
    first = add_log(tmp_path, "abc", rows=5)
    assert export_logs("--include-history").code == 0
    shutil.rmtree(first.parent)
    add_log(tmp_path, "abc", rows=9, started_at=START + timedelta(hours=1))
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == list(range(9))
    assert (demo().runs["created_at"].to_list(), demo().metadata["kept_fuller"]) == ([START + timedelta(hours=1)], [])


# --- logs and a server ----------------------------------------------------------------------------------------


def test_a_torn_log_leaves_the_history_that_the_server_gave(server, export, export_logs, tmp_path, out):
    add_run(server, "demo", "abc", rows=40)
    assert export("team/demo", "--include-history", *QUICK).code == 0
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(40))
    log_cut_to(file, 10, in_a_record=True)
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    assert steps_of(out, "abc") == list(range(40))
    assert metadata_of(out)["kept_fuller"] == ["abc"]


def test_a_rewound_log_alone_leaves_the_rows_from_the_server(server, export, tmp_path, export_logs, demo):
    add_runs(server, one="g")
    assert export("team/demo", "--include-history").code == 0
    branch = export_runs.wandb_proto().BranchPoint(run="one", metric="_step", value=1)
    add_log(tmp_path, "one", rows=1, first_step=2, branch_point=branch)
    assert export_logs("--include-history").code == 0
    assert (demo().history.height, demo().metadata["kept_fuller"]) == (5, ["one"])


@pytest.mark.parametrize("flags", [[], ["--prune"]])
def test_an_offline_export_knows_nothing_of_what_the_server_lacks(server, tmp_path, export, export_logs, demo, flags):
    add_runs(server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    gone = add_log(tmp_path, "gone")
    assert export_logs().code == 0
    shutil.rmtree(gone.parent)
    add_log(tmp_path, "one", rows=5)
    done = export_logs("--include-history", *flags)
    assert done.code == 0
    assert set(demo().runs["id"]) == {"one", "two"} | ({"gone"} if not flags else set())
    assert demo().metadata["missing_on_server"] == (["gone"] if not flags else [])
    assert demo().history["run_id"].unique().sort().to_list() == ["one", "two"]


def test_a_run_that_was_synced_only_in_part(server, tmp_path, export, export_logs, demo):
    add_log(tmp_path, "one", rows=9)
    assert export_logs("--include-history").code == 0
    add_runs(server, one="g")  # five rows
    done = export("team/demo", "--include-history")
    assert done.code == 0
    assert "1 run kept from the earlier export, which has more rows: one\n" in done.err
    assert (demo().history.height, demo().metadata["kept_fuller"]) == (9, ["one"])
    server.add_history("team", "demo", "one", rows=[{"_step": step, "a/x": 1} for step in range(5, 10)])
    assert export("team/demo", "--include-history").code == 0
    assert (demo().history["metric_a_x"].count(), demo().metadata["kept_fuller"]) == (10, [])


def test_runs_that_were_never_synced_are_not_gone(server, tmp_path, export, export_logs, demo):
    add_log(tmp_path, "log")
    add_runs(server, one="g", two="h")
    assert export_logs("--include-history").code == export("team/demo").code == 0
    server.delete_run("team", "demo", "two")
    assert export("team/demo").code == 0
    assert demo().metadata["missing_on_server"] == ["two"]
    assert export("team/demo", "--prune").code == 0
    assert sorted(demo().runs["id"]) == ["log", "one"]
    assert demo().history["run_id"].unique().to_list() == ["log"]


# --- consoles, system metrics ---------------------------------------------------------------------------------


def lines(number: int) -> list[str]:
    return [f"2026-01-01T00:00:00.{number:03} line {number}" for number in range(number)]


def test_newer_output_that_a_tail_leaves_out_is_named(server, export):
    add_runs(server, one="g", two="h")
    for run_id in ("one", "two"):
        server.add_console("team", "demo", run_id, lines(9))
    assert export("team/demo", "--console").code == 0
    done = export("team/demo", "--console-lines", 3)
    assert done.code == 0
    assert "newer output" not in done.err
    server.add_console("team", "demo", "one", lines(2))
    server.change_run("team", "demo", "one", heartbeat_at="2026-02-01T00:00:00Z")
    said = "; newer output of one is left out, as more lines are there: use --console\n"
    done = export("team/demo", "--console-lines", 3)
    assert done.code == 0
    assert said in done.err
    done = export("team/demo", "--console")
    assert done.code == 0
    assert "newer output" not in done.err


def test_a_sample_of_system_metrics_replaces_a_longer_one(server, export, tmp_path):
    run = server.add_run("team", "demo", "one")
    for rows in (5, 3):
        run.events[:] = [json.dumps({"_timestamp": time, "system.cpu": rows}) for time in range(rows)]
        server.change_run("team", "demo", "one", heartbeat_at=f"2026-02-0{rows}T00:00:00Z")
        assert export("team/demo", "--system-metrics").code == 0
        metrics = pl.read_parquet(tmp_path / "out" / "team_demo_system.parquet")
        assert metrics["system_cpu"].to_list() == [rows] * rows
