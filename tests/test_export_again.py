"""Later exports into the same folder, with other flags or from another source, each as a fault that they had."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import polars as pl
import pytest
from log_files import START, write_log
from test_export_runs import Exported, exported

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done
    from wandb_server import Server

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\n"


@pytest.fixture
def export(call_export, empty_server, tmp_path) -> Callable[..., Done]:
    """Export from the server into `out`."""
    settings = empty_server.environment(tmp_path / "sdk")
    return lambda *arguments: call_export("-o", tmp_path / "out", *arguments, env=settings)


@pytest.fixture
def export_logs(call_export, tmp_path) -> Callable[..., Done]:
    """Export the logs below `logs` into `out`."""
    return lambda *arguments: call_export("--offline", tmp_path / "logs", "-o", tmp_path / "out", *arguments)


@pytest.fixture
def demo(tmp_path) -> Callable[[], Exported]:
    """The files of team/demo in `out`."""
    return lambda: exported(tmp_path / "out", "team_demo")


def add_runs(server: Server, **groups: str) -> None:
    """A run of five history rows for each name, in its group."""
    for run_id, group in groups.items():
        server.add_run("team", "demo", run_id, group=group, summary={"a/x": 4.5})
        rows = [{"_step": step, "a/x": step + 0.5, "b/y": step, "note": "text"} for step in range(5)]
        server.add_history("team", "demo", run_id, rows=rows)


def add_log(folder: Path, run_id: str, rows: int = 2, **values: object) -> Path:
    place = {"entity": "team", "project": "demo"}
    return write_log(folder / "logs", run_id, rows=[{"loss": "1"}] * rows, **place | values)


@pytest.mark.parametrize("key", ["metric_a_x", "METRIC_A_*", "a/x", "a_x", "A*"])
def test_a_metric_is_named_by_its_column_too(empty_server, export, demo, key):
    add_runs(empty_server, one="g")
    done = export("team/demo", "--include-history", "--history-keys", key)
    assert (done.code, "matches no metric" in done.err) == (0, False)
    assert [column for column in demo().history.columns if column.startswith("metric_")] == ["metric_a_x"]


def test_values_that_only_some_runs_lose_are_named(empty_server, export, demo):
    add_runs(empty_server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    done = export("team/demo", "--include-history", "--group", "g", "--history-keys", "a/x")
    removed = "removed from the history, because they were not asked for this time: "
    assert f"{removed}b/y\n" in done.err
    assert demo().history.filter(run_id="one")["metric_b_y"].count() == 0
    again = export("team/demo", "--include-history", "--group", "g", "--history-keys", "a/x")
    assert removed not in again.err  # only once
    assert removed in export("team/demo", "--include-history", "--group", "h", "--history-keys", "a/x").err
    add_runs(empty_server, three="i")
    assert removed not in export("team/demo", "--include-history", "--group", "i", "--history-keys", "b/y").err
    all_ = export("team/demo", "--include-history")
    assert removed not in all_.err
    assert demo().history["metric_b_y"].count() == 15


def test_runs_that_are_removed_are_counted(empty_server, export, demo):
    add_runs(empty_server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    empty_server.delete_run("team", "demo", "two")
    done = export("team/demo", "--include-history", "--prune")
    said = "5 history rows (1 run unchanged); 1 run removed, because no longer in the source\n"
    assert f"team/demo: 1 run (1 finished), {said}" in done.err
    empty_server.delete_run("team", "demo", "one")
    done = export("team/demo", "--include-history", "--prune")
    assert "not asked for" not in done.err


def test_projects_from_which_nothing_is_removed_are_named(empty_server, export):
    for name in ("demo", "half"):
        empty_server.add_run("team", name, "one")
    done = export("team/demo", "team/half/one", "--prune")
    assert done.code == 0
    assert "--prune removed nothing from team/half: it needs an export of all runs, without filters\n" in done.err


@pytest.mark.parametrize("flags", [[], ["--include-history", "--group", "g"]])
def test_an_export_of_less_leaves_histories_of_an_interrupted_one(flags, empty_server, export, tmp_path, demo):
    add_runs(empty_server, one="g", two="h")
    in_the_way = tmp_path / "out" / "team_demo_metadata.json"
    in_the_way.mkdir(parents=True)
    assert export("team/demo", "--include-history").code == 1
    in_the_way.rmdir()
    assert export("team/demo", *flags).code == 0
    empty_server.reset()
    assert export("team/demo", "--include-history").code == 0
    assert empty_server.requests(kind="download") == []
    assert demo().history.height == 10
    assert [*(tmp_path / "out" / ".wandb_tools" / "histories").iterdir()] == []


def test_without_the_runs_file_the_rows_of_other_runs_stay(empty_server, export, demo, tmp_path):
    """Somebody deleted it, or the first export was killed before it was there."""
    add_runs(empty_server, one="g", two="h")
    assert export("team/demo", "--include-history").code == 0
    (tmp_path / "out" / "team_demo_runs.parquet").unlink()
    assert export("team/demo", "--include-history", "--group", "g").code == 0
    assert (demo().runs.height, demo().history.height) == (1, 10)
    assert export("team/demo", "--include-history").code == 0
    assert (demo().runs.height, demo().history.height) == (2, 10)


def test_a_run_whose_config_is_odd_does_not_keep_others_from_being_removed(empty_server, export, demo):
    add_runs(empty_server, one="g", gone="g")
    empty_server.add_run("team", "demo", "odd", config="no JSON")
    assert export("team/demo").code == 3
    empty_server.delete_run("team", "demo", "gone")
    assert export("team/demo", "--prune").code == 3
    assert set(demo().runs["id"]) == {"one", "odd"}


def test_keys_that_were_left_out_stay_listed(empty_server, export, demo):
    add_runs(empty_server, one="g", two="h")
    for flags in (["--include-history"], ["--include-history"], [], ["--include-history", "--group", "g"]):
        assert export("team/demo", *flags).code == 0
        assert demo().metadata["skipped_history_keys"] == ["note"], flags
    empty_server.delete_run("team", "demo", "one")
    empty_server.delete_run("team", "demo", "two")
    assert export("team/demo", "--include-history", "--prune").code == 0
    assert demo().metadata["skipped_history_keys"] == []


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


def test_a_rewound_run_may_have_fewer_rows(tmp_path, export_logs, demo):
    import export_runs

    add_log(tmp_path, "abc", rows=20)
    assert export_logs("--include-history").code == 0
    branch = export_runs.wandb_proto().BranchPoint(run="abc", metric="_step", value=4)
    add_log(tmp_path, "abc", rows=0, started_at=START + timedelta(hours=1), branch_point=branch)
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == list(range(5))
    assert demo().metadata["kept_fuller"] == []


def test_a_rewound_run_needs_the_log_before(tmp_path, export_logs, demo):
    import export_runs

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


def test_a_rewound_log_alone_leaves_the_rows_from_the_server(empty_server, export, tmp_path, export_logs, demo):
    import export_runs

    add_runs(empty_server, one="g")
    assert export("team/demo", "--include-history").code == 0
    branch = export_runs.wandb_proto().BranchPoint(run="one", metric="_step", value=1)
    add_log(tmp_path, "one", rows=1, first_step=2, branch_point=branch)
    assert export_logs("--include-history").code == 0
    assert (demo().history.height, demo().metadata["kept_fuller"]) == (5, ["one"])


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


def test_a_run_that_was_made_anew_replaces_the_earlier_one(tmp_path, export_logs, demo):
    """The script has a fixed id, and the folder of the first attempt was deleted."""
    first = add_log(tmp_path, "abc", rows=5)
    assert export_logs("--include-history").code == 0
    shutil.rmtree(first.parent)
    add_log(tmp_path, "abc", rows=9, started_at=START + timedelta(hours=1))
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == list(range(9))
    assert (demo().runs["created_at"].to_list(), demo().metadata["kept_fuller"]) == ([START + timedelta(hours=1)], [])


@pytest.mark.parametrize("flags", [[], ["--prune"]])
def test_an_offline_export_knows_nothing_of_what_the_server_lacks(
    empty_server, tmp_path, export, export_logs, demo, flags
):
    add_runs(empty_server, one="g", two="h")
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


def test_the_advice_of_verify_gives_the_lost_values_back(empty_server, export, call_export, tmp_path, demo):
    """A second export alone would keep the damaged rows: what did not change is not downloaded again."""
    empty_server.add_run("team", "demo", "one")
    rows = [{"_step": step, "loss": step * 7919 % 1000 / 7} for step in range(2000)]
    empty_server.add_history("team", "demo", "one", rows=rows)
    export("team/demo", "--include-history")
    before, file = demo().history, demo().history_file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert (
        "; restore it from a copy, or move it away and export again\n" in call_export("--verify", tmp_path / "out").err
    )
    file.rename(tmp_path / "away.parquet")
    assert " is missing; restore it from a copy, or export again\n" in call_export("--verify", tmp_path / "out").err
    export("team/demo", "--include-history")
    assert call_export("--verify", tmp_path / "out").code == 0
    assert demo().history.equals(before)


def test_the_metadata_are_named_where_they_are_written(tmp_path, export_logs):
    add_log(tmp_path, "good")
    for number in range(12):
        add_log(tmp_path, f"bad{number}").write_text(LFS_POINTER)
    assert "error: 2 more, all listed in the metadata file: a git-LFS pointer" in export_logs().err
    assert "error: 2 more: a git-LFS pointer" in export_logs("--dry-run").err


def test_a_run_without_a_row_is_counted(tmp_path, export_logs, demo):
    add_log(tmp_path, "abc")
    add_log(tmp_path, "half")
    lost = add_log(tmp_path, "lost")
    lost.write_text(LFS_POINTER)
    add_log(tmp_path, "half", started_at=START + timedelta(hours=1)).write_text(LFS_POINTER)  # has a row all the same
    assert export_logs().code == 3
    counts = {"listed": 3, "written": 2, "failed": 1, "filtered": 0, "by_state": {"finished": 2}}
    assert demo().metadata["runs"] == counts
    assert len(demo().metadata["failed"]) == 2


def test_only_projects_that_have_another_entity_are_said_to(tmp_path, export_logs):
    add_log(tmp_path, "a")
    add_log(tmp_path, "b", entity="")
    add_log(tmp_path, "c", entity="", project="")
    done = export_logs()
    advice = "to export them as one project, use -e team -p demo and a new -o"
    assert f"in project demo, 1 run without an entity, others of team; {advice}\n" in done.err
    add_log(tmp_path, "d", entity="crew")
    assert "others of crew, team; to export them as one project, use -e crew" in export_logs().err
    add_log(tmp_path, "e", entity="other", project="uncategorized")  # the advice for the one would harm the other
    err = export_logs().err
    assert "use -e crew -p demo" in err
    assert "in project uncategorized, 1 run without an entity, others of other; " in err
    assert "use -e other -p uncategorized" in err


def test_a_log_without_an_entity_belongs_to_the_run_whose_other_log_names_one(tmp_path, export_logs, demo):
    add_log(tmp_path, "abc", rows=3, entity="")
    add_log(tmp_path, "abc", rows=2, first_step=3, started_at=START + timedelta(hours=1))
    add_log(tmp_path, "abc", started_at=START + timedelta(hours=2), entity="", project="elsewhere")
    done = export_logs("--include-history")
    assert "team/demo: 1 run (1 finished), 5 history rows\n" in done.err
    assert "offline/elsewhere: 1 run" in done.err
    add_log(tmp_path, "abc", started_at=START + timedelta(hours=3), entity="other")  # now it could be of either
    assert "offline/demo: 1 run (1 finished), 3 history rows" in export_logs("--include-history").err


def lines(number: int) -> list[str]:
    return [f"2026-01-01T00:00:00.{number:03} line {number}" for number in range(number)]


def test_newer_output_that_a_tail_leaves_out_is_named(empty_server, export):
    add_runs(empty_server, one="g", two="h")
    for run_id in ("one", "two"):
        empty_server.add_console("team", "demo", run_id, lines(9))
    assert export("team/demo", "--console").code == 0
    assert "newer output" not in export("team/demo", "--console-lines", 3).err
    empty_server.add_console("team", "demo", "one", lines(2))
    empty_server.change_run("team", "demo", "one", heartbeat_at="2026-02-01T00:00:00Z")
    said = "; newer output of one is left out, as more lines are there: use --console\n"
    assert said in export("team/demo", "--console-lines", 3).err
    assert "newer output" not in export("team/demo", "--console").err


def test_a_failing_table_is_named_as_in_wandb(empty_server, export, demo):
    entry = {"_type": "table-file", "path": "media/table/gone.table.json"}
    empty_server.add_run("team", "demo", "one", summary={"eval/a b": entry})
    assert export("team/demo", "--tables", "--retries", 0).code == 3
    assert [failure["what"] for failure in demo().metadata["failed"]] == ["table_eval/a b"]


def test_a_place_among_the_filters_that_leave_nothing(empty_server, export):
    add_runs(empty_server, one="g", two="h")
    done = export("team/demo/nope", "--state", "finished")
    assert (done.code, done.out) == (1, "")
    assert "error: no run left: PLACE, --state kept none of 2 runs; " in done.err


def test_a_thousand_runs_of_a_project_may_be_named(empty_server, export, demo):
    add_runs(empty_server, **{f"r{number}": "g" for number in range(9)})
    done = export(*(f"team/demo/r{number}" for number in range(1_000)), "team/demo/r1")
    assert done.code == 3
    assert demo().runs.height == 9
    assert len(demo().metadata["failed"]) == 991  # there are no such runs
    assert len([request for request in empty_server.requests(kind="graphql") if "runCount" in request["fields"]]) < 9


def test_runs_and_globs_of_one_project(empty_server, export, demo):
    add_runs(empty_server, one="g", two="h", three="i")
    assert export("team/d*/one", "team/demo/groups/h").code == 0
    assert sorted(demo().runs["id"]) == ["one", "two"]
    assert demo().metadata["filters"] == {"run": ["one"], "group": ["h"]}
    assert export("team/demo/one", "team/d*", "team/de*").code == 0
    assert sorted(demo().runs["id"]) == ["one", "three", "two"]
    assert demo().metadata["filters"] == {}


def test_the_home_folder(tmp_path, call_export):
    add_log(tmp_path, "abc")
    arguments = ("--offline", tmp_path / "logs", "--output=~/out")
    done = call_export(*arguments, env={"HOME": str(tmp_path / "home")}, cwd=tmp_path)
    assert (done.code, done.out) == (0, f"{tmp_path}/home/out/team_demo_runs.parquet\n")
    assert not (tmp_path / "~").exists()


def test_any_number_of_workers(empty_server, run_script, tmp_path):
    add_runs(empty_server, one="g")
    arguments = ("team/demo", "-o", tmp_path / "out", "--include-history", "--workers", 10**12)
    done = run_script("export_runs.py", *arguments, env=empty_server.environment(tmp_path / "sdk"))
    assert done.code == 0, done.err


def test_a_failure_of_a_run_in_two_pages_is_listed_once(empty_server, export, demo):
    empty_server.add_runs("team", "demo", 700, keys=8)
    for number, run in enumerate(empty_server.project("team", "demo").runs.values()):
        empty_server.change_run("team", "demo", run.id, created_at=f"2026-01-01T00:00:{number // 100:02}Z", config="[]")
    empty_server.configure(page_limit=150)
    done = export("team/demo")
    empty_server.configure(page_limit=1_000)
    assert done.code == 3
    assert [failure["run"] for failure in demo().metadata["failed"]] == sorted(demo().runs["id"])


@pytest.mark.parametrize("drops", [0, 1])
def test_a_count_that_was_ahead_is_no_loss(empty_server, export, demo, drops):
    """The rows are asked for again, also if their download had failed before."""
    add_runs(empty_server, one="g")
    empty_server.fault("drop", match={"kind": "download"}, times=drops)
    count = ["data", "project", "r0", "historyLineCount"]
    ahead = empty_server.fault("replace", match={"operation": "Rows"}, times=1, place=count, value="7")
    done = export("team/demo", "--include-history")
    assert (done.code, ahead.hits) == (0, 1), done.err
    assert demo().metadata["failed"] == []


def test_exports_of_the_same_rows_are_no_bomb(empty_server, export, demo, tmp_path):
    """Each export may have some more rows than the server counts, however many exports there are."""
    file = tmp_path / "export.parquet"
    pl.select(_step=pl.int_range(60_000), loss=0.5).write_parquet(file)
    empty_server.add_run("team", "demo", "one", history_rows=60_000)
    empty_server.add_history("team", "demo", "one", files=[file] * 4)
    done = export("team/demo", "--include-history")
    assert done.code == 0, done.err
    assert demo().history["_step"].to_list() == list(range(60_000))


def test_a_sample_of_system_metrics_replaces_a_longer_one(empty_server, export, tmp_path):
    run = empty_server.add_run("team", "demo", "one")
    for rows in (5, 3):
        run.events[:] = [json.dumps({"_timestamp": time, "system.cpu": rows}) for time in range(rows)]
        empty_server.change_run("team", "demo", "one", heartbeat_at=f"2026-02-0{rows}T00:00:00Z")
        assert export("team/demo", "--system-metrics").code == 0
        metrics = pl.read_parquet(tmp_path / "out" / "team_demo_system.parquet")
        assert metrics["system_cpu"].to_list() == [rows] * rows


def test_texts_among_system_metrics_are_no_keys_of_a_history(empty_server, export, demo):
    add_runs(empty_server, one="g")
    empty_server.add_events("team", "demo", "one", [{"_timestamp": 1, "system.cpu": 2.5, "system.name": "text"}])
    assert export("team/demo", "--system-metrics").code == 0
    assert demo().metadata["skipped_history_keys"] == []


def test_all_failures_are_named_if_nothing_is_exported(empty_server, export):
    for name in ("one", "two"):
        empty_server.add_run("team", name, "abc")
        empty_server.fault("status", match={"operation": "Runs", "project": name}, status=400, message=f"bad {name}")
    done = export("-e", "team")
    assert (done.code, done.out) == (1, "")
    assert "error: team/two: bad two (HTTP 400)\n" in done.err
    assert done.err.endswith("error: team/one: bad one (HTTP 400); nothing could be exported\n")
    done = export("-e", "team", "-p", "x,y")
    assert (done.code, done.out) == (1, "")
    assert [f"team has no project {name}" in done.err for name in "xy"] == [True, True]


def test_names_of_files_reach_the_server_as_they_are(empty_server, export):
    """Without escapes: in GraphQL, not every server takes two of them for one character outside of the first plane."""
    import export_runs

    export_runs.import_libraries()
    table = export_runs.new_table("table_x", key="x")
    source = export_runs.RowSource(SimpleNamespace(options=None), None, table, None, None, {})
    run = export_runs.Wanted("a", 1, None, "media/table/\N{GRINNING FACE}.table.json", ())
    assert '(names: ["media/table/\N{GRINNING FACE}.table.json"])' in export_runs.question_of(source, run)


def test_a_metric_that_no_run_has_any_more_leaves_no_column(empty_server, export, demo):
    """Neither its name: a metric with the same name gets it back."""
    add_runs(empty_server, one="g")
    empty_server.add_run("team", "demo", "gone")
    empty_server.add_history("team", "demo", "gone", rows=[{"_step": 0, "a_x": 1, "typo": 2}])
    assert export("team/demo", "--include-history").code == 0
    empty_server.delete_run("team", "demo", "gone")
    assert export("team/demo", "--include-history", "--prune").code == 0
    metrics = [
        [column for column in each.columns if column.startswith("metric_")] for each in (demo().history, demo().runs)
    ]
    assert metrics == [["metric_a_x", "metric_b_y"], ["metric_a_x"]]


def test_a_run_that_was_synced_only_in_part(empty_server, tmp_path, export, export_logs, demo):
    add_log(tmp_path, "one", rows=9)
    assert export_logs("--include-history").code == 0
    add_runs(empty_server, one="g")  # five rows
    done = export("team/demo", "--include-history")
    assert "1 run kept from the earlier export, which has more rows: one\n" in done.err
    assert (demo().history.height, demo().metadata["kept_fuller"]) == (9, ["one"])
    empty_server.add_history("team", "demo", "one", rows=[{"_step": step, "a/x": 1} for step in range(5, 10)])
    assert export("team/demo", "--include-history").code == 0
    assert (demo().history["metric_a_x"].count(), demo().metadata["kept_fuller"]) == (10, [])


def test_runs_that_were_never_synced_are_not_gone(empty_server, tmp_path, export, export_logs, demo):
    add_log(tmp_path, "log")
    add_runs(empty_server, one="g", two="h")
    assert export_logs("--include-history").code == export("team/demo").code == 0
    empty_server.delete_run("team", "demo", "two")
    assert export("team/demo").code == 0
    assert demo().metadata["missing_on_server"] == ["two"]
    assert export("team/demo", "--prune").code == 0
    assert sorted(demo().runs["id"]) == ["log", "one"]
    assert demo().history["run_id"].unique().to_list() == ["log"]


def test_a_row_that_is_not_written_decides_no_columns(tmp_path, export_logs, demo):
    add_log(tmp_path, "one", rows=9, config={"seed": "1"})
    assert export_logs().code == 0
    add_log(tmp_path, "one", rows=2, config={"seed": '"text"', "more": "3"})
    add_log(tmp_path, "two", config={"seed": "2"})
    assert export_logs().code == 0
    assert demo().metadata["kept_fuller"] == ["one"]
    configs = demo().runs.select(column for column in demo().runs.columns if column.startswith("config_"))
    assert configs.to_dict(as_series=False) == {"config_seed": [1, 2]}


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


def test_logs_of_one_run_that_share_steps_lose_no_metric(tmp_path, export_logs, demo):
    """As when a sweep's agent starts a run once for each part of a model: all begin at step 0."""
    rows = [[{"a": "1"}, {"a": "2", "b": "3"}], [{"c": "4"}, {"a": '"NaN"'}]]
    for hours, logged in enumerate(rows):
        started_at = START + timedelta(hours=hours)
        write_log(tmp_path / "logs", "abc", rows=logged, started_at=started_at, entity="team", project="demo")
    done = export_logs("--include-history")
    assert "steps that are in several logs of a run have the values of the last one: abc (2 steps)" in done.err
    values = demo().history.select("metric_a", "metric_b", "metric_c").fill_nan(-1).rows()
    assert values == [(1.0, None, 4), (-1.0, 3, None)]
    assert demo().history["_timestamp"].to_list() == [(started_at + timedelta(seconds=n)).timestamp() for n in (0, 1)]


def test_many_logs_of_one_run_that_share_steps(tmp_path, export_logs, demo):
    """Each log cost as much as all before it: 300 took 16 s, now 2."""
    for hours in range(100):
        add_log(tmp_path, "abc", started_at=START + timedelta(hours=hours))
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == [0, 1]
    assert demo().history["_timestamp"][0] == (START + timedelta(hours=99)).timestamp()


def test_runs_whose_history_is_as_before_are_counted(empty_server, export):
    add_runs(empty_server, one="g", two="g")
    assert "unchanged" not in export("team/demo", "--include-history").err
    add_runs(empty_server, three="g")
    done = export("team/demo", "--include-history")
    assert "team/demo: 3 runs (3 finished), 15 history rows (2 runs unchanged)\n" in done.err


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
