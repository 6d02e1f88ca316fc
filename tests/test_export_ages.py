"""Runs of every SDK's age, read from disk: what the recorded programs logged is what the files hold."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import export_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from exports import Exported, exported, rows_of, same
from log_files import START, log_of, write_log
from old_sdks import record
from wandb_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done

EXPECTED = json.loads(record.EXPECTED.read_text(encoding="utf-8"))
TRUTHS: dict[str, dict] = {run_id: truth for truths in EXPECTED.values() for run_id, truth in truths.items()}
SEEN = sorted(TRUTHS.keys() - {"crashed0198"})  # of which SDK 0.19 had written nothing yet
BEFORE_LOGS = ("0.8", "0.9")
RESTORED = {
    **dict.fromkeys(["crashed01033", "crashed0112", "crashed01221", "crashed01512", "crashed0166"], "history"),
    **dict.fromkeys(["cut097", "cut01221"], "history"),
    **dict.fromkeys(["lost01033", "lost0112", "lost01221"], "file"),
}
MACHINE = ["host", "os", "python", "command", "gpu", "gpu_count"]
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows_with_steps(project: Exported, run_id: str) -> list[dict[tuple, object]]:
    """A run's history rows as `logged` gives them: the step is one of the numbers."""
    return [{("_step",): step, **row} for step, row in rows_of(project, run_id)]


def logged(row: dict) -> dict[tuple, object]:
    """The numbers of a row as the program logged them, by path."""
    deep = {("deep", key): value for key, value in row.get("deep", {}).items()}
    return {(key,): value for key, value in row.items() if key != "deep"} | deep


# --- the recordings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ages(tmp_path_factory) -> dict[str, Exported]:
    """The export of all recordings, by entity."""
    folder = tmp_path_factory.mktemp("ages")
    code = export_runs.main(["--offline", str(record.RUNS), "-o", str(folder), "--include-history", "--quiet"])
    assert code == export_runs.PARTIAL  # for the git-LFS pointer
    return {entity: exported(folder, f"{entity}_old-sdks") for entity in ("lab", "offline")}


@pytest.fixture
def found(ages) -> Callable[[str], tuple[Exported, dict[str, Any]]]:
    """A run's project and its row."""

    def find(run_id: str) -> tuple[Exported, dict[str, Any]]:
        rows = {row["id"]: (each, row) for each in ages.values() for row in each.runs.iter_rows(named=True)}
        return rows[run_id]

    return find


def test_each_run_is_there_once(ages):
    ids = [run_id for each in ages.values() for run_id in each.runs["id"]]
    assert sorted(ids) == SEEN


@pytest.mark.parametrize("run_id", SEEN)
def test_what_a_program_said_of_itself(found, run_id):
    truth, (_, row) = TRUTHS[run_id], found(run_id)
    has_log = not truth["sdk"].startswith(BEFORE_LOGS)
    kind = "crashed" if run_id == "cut01221" else truth["kind"].replace("lost", "crashed")
    assert row["state"] == kind
    assert row["entity"] == (truth["entity"] if has_log and truth["entity"] else "offline")
    for name in ("project", "name", "notes", "job_type", "commit", "host"):
        assert row[name] == truth[name], name
    assert (row["group"], row["tags"]) == ((truth["group"], truth["tags"]) if has_log else (None, []))
    assert row["python"].removeprefix("CPython ") == truth["python"]
    assert row["command"].endswith("train.py " + " ".join(truth["args"]))
    assert (row["os"], row["gpu"], row["gpu_count"]) == (record.SYSTEM, None, None)
    assert json.loads(row["_config_json"]) == truth["config"]
    assert (row["config_lr"], row["config_model_name"], row["config_text"]) == (0.01, "mlp", "größe")
    assert abs((row["created_at"] - datetime.fromtimestamp(truth["started_at"], UTC)).total_seconds()) < 3
    assert 0 < row["runtime_s"] <= (row["heartbeat_at"] - row["created_at"]).total_seconds() + 20


@pytest.mark.parametrize("run_id", SEEN)
def test_histories_and_summaries(found, run_id):
    truth, (project, row) = TRUTHS[run_id], found(run_id)
    rows = rows_with_steps(project, run_id)
    told = [logged(each) for each in truth["history"]]
    assert repr([dict(sorted(each.items())) for each in rows]) == repr(
        [dict(sorted(each.items())) for each in told[: len(rows)]]
    )
    assert (row["history_rows"], row["last_step"]) == (len(rows), rows[-1]["_step",])
    is_cut = truth["kind"] in ("crashed", "lost") or run_id.startswith("cut")
    assert len(rows) > 0 if is_cut else len(rows) == len(told)
    summary = json.loads(row["_summary_json"])
    last: dict = {}
    for each in truth["history"]:
        if each["_step"] <= summary["_step"]:  # the file of a lost run is ahead of its log
            last |= each
    assert {key: summary[key] for key in ("_step", "loss", "val/acc", "spike", "deep")} == last | {
        "_step": summary["_step"]
    }
    assert row["metric_deep_x"] == last["deep"]["x"]
    ahead = summary["_step"] - rows[-1]["_step",]
    assert ahead >= 0 if RESTORED.get(run_id) == "file" else ahead == 0
    if run_id in RESTORED:
        assert row["runtime_s"] == summary["_runtime"]
    if truth["kind"] == "finished":
        assert summary["cells"]["_type"] == "table-file"
    clocks = project.history.filter(pl.col("run_id") == run_id).select("_runtime", "_timestamp")
    assert clocks.null_count().row(0) == (0, 0)


def test_which_summaries_were_restored(ages):
    restored = [each for project in ages.values() for each in project.metadata["summary_restored"]]
    assert {each["run"]: each["from"] for each in restored} == RESTORED


def test_what_is_said(tmp_path, export):
    done = export("--offline", record.RUNS, "-o", tmp_path / "out")
    assert done.code == 3
    shown = "damaged/offline-run-20220101_000000-pointer1/run-pointer1.wandb"
    assert "skipped: 1 log copied from another, 3 logs without a record\n" in done.err
    restored = "summaries missing in the logs were restored: "
    assert f"{restored}3 from files/wandb-summary.json, 7 from the history\n" in done.err
    assert done.err.count("without an entity") == 1
    advice = "to export them as one project, use -e lab and a new -o"
    assert f"in project old-sdks, 19 runs without an entity, others of lab; {advice}\n" in done.err
    error = f"error: {shown}: a git-LFS pointer instead of the file; run `git lfs pull` there"
    assert done.err.count(error) == done.err.count("pointer instead") == 1  # though no project can be told from it
    together = export("--offline", record.RUNS, "-o", tmp_path / "together", "-e", "lab")
    assert together.code == 3
    assert "without an entity" not in together.err
    project = exported(tmp_path / "together", "lab_old-sdks")
    assert sorted(project.runs["id"]) == SEEN
    torn = [name for name in project.metadata["torn"] if "damaged" in name]
    assert [name.rpartition("-")[2] for name in torn] == [
        "history.jsonl",
        "empty1.wandb",
        "header1.wandb",
        "cut01221.wandb",
    ]
    assert [failure["run"] for failure in project.metadata["failed"]] == [shown]


def test_a_dry_run_and_chosen_metrics(tmp_path, export):
    logs = record.RUNS / "0.9.7"
    done = export("--offline", logs, "--dry-run")
    assert done.code == 0, done.err
    assert "3 runs (1 crashed, 1 failed, 1 finished), 74 history rows" in done.out
    assert export("--offline", logs, "-o", tmp_path, "--include-history", "--history-keys", "deep.*").code == 0
    project = exported(tmp_path, "offline_old-sdks")
    assert [name for name in project.history.columns if name.startswith("metric_")] == ["metric_deep_x"]
    assert project.runs["metric_loss"].null_count() == 0


# --- folders of SDKs before 0.10 ------------------------------------------------------------------------------


@pytest.fixture
def old_folder(tmp_path) -> Path:
    """A run of SDK 0.9.7 that may be changed."""
    folder = tmp_path / "wandb" / "run-20200102_030405-an-id"
    shutil.copytree(next(record.RUNS.glob("0.9.7/*-finished097")), folder)
    return folder


def changed(file: Path, **values: object) -> None:
    notes = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({key: value for key, value in {**notes, **values}.items() if value is not None}))


@pytest.fixture
def export_old(old_folder, tmp_path, export) -> Callable[..., tuple[Done, Exported]]:
    def call(*arguments: object, stem: str = "offline_old-sdks") -> tuple[Done, Exported]:
        done = export("--offline", old_folder.parent, "-o", tmp_path / "out", "--include-history", *arguments)
        return done, exported(tmp_path / "out", stem)

    return call


def test_files_may_lie_one_folder_deeper(old_folder, export_old):
    (old_folder / "files").mkdir()
    for file in [*old_folder.iterdir()]:
        if file.is_file():
            file.rename(old_folder / "files" / file.name)
    done, project = export_old()
    assert (done.code, project.run["id"], project.run["history_rows"]) == (0, "an-id", 31)


def test_runs_inside_of_an_old_run_are_its_own_files(old_folder, export_old):
    shutil.copytree(next(record.RUNS.glob("0.8.36/*-failed0836")), old_folder / "home" / "run-20200101_000000-inner")
    assert export_old()[1].runs["id"].to_list() == ["an-id"]


def test_entity_and_project_of_the_settings(old_folder, export_old):
    (old_folder.parent / "settings").write_text("[default]\nentity = a-team\nproject = of-settings\n")
    assert export_old(stem="a-team_old-sdks")[1].run["entity"] == "a-team"
    changed(old_folder / "wandb-metadata.json", project=None)
    assert export_old(stem="a-team_of-settings")[1].run["project"] == "of-settings"


@pytest.mark.parametrize(
    ("given", "state"), [("killed", "killed"), ("finished", "finished"), ("running", "crashed"), ("odd", "crashed")]
)
def test_states(old_folder, export_old, given, state):
    changed(old_folder / "wandb-metadata.json", state=given, exitcode=None)
    assert export_old()[1].run["state"] == state


def test_a_folder_with_nothing_but_its_metadata(old_folder, export_old):
    for file in old_folder.iterdir():
        if file.is_file() and file.name != "wandb-metadata.json":
            file.unlink()
    changed(old_folder / "wandb-metadata.json", startedAt=None, heartbeatAt=None, name=None, gpu="T4", gpu_count=2)
    done, project = export_old()
    run = project.run
    assert (done.code, run["history_rows"], run["runtime_s"], run["last_step"]) == (0, 0, None, None)
    assert run["created_at"] == run["heartbeat_at"] == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (run["name"], run["_config_json"], run["_summary_json"]) == ("an-id", "{}", "{}")
    assert (run["gpu"], run["gpu_count"], project.metadata["summary_restored"]) == ("T4", 2, [])


def test_a_damaged_line_costs_itself(old_folder, export_old):
    file = old_folder / "wandb-history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b'{"loss": 0.\n', b"[1]\n", *lines[3:], b'{"loss": \0\0']))
    (old_folder / "config.yaml").write_text("a: [1, 2\n")
    done, project = export_old()
    assert (done.code, project.run["history_rows"], project.run["_config_json"]) == (3, 31, "{}")
    assert "is damaged at config.yaml, line 4 of wandb-history.jsonl, line 5 of wandb-history.jsonl" in done.err
    assert len(project.metadata["torn"]) == 1


def test_system_metrics_and_output(old_folder, export_old, tmp_path):
    events = [json.loads(line) for line in (old_folder / "wandb-events.jsonl").read_text("utf-8").splitlines()]
    with (old_folder / "wandb-events.jsonl").open("a") as opened:
        opened.write('{"system.cpu": 5')  # a torn end
    done, _ = export_old("--system-metrics", "--console", "--tables")
    assert done.code == 0, done.err
    system = pl.read_parquet(tmp_path / "out" / "offline_old-sdks_system.parquet")
    assert system["_timestamp"].to_list() == [event["_timestamp"] for event in events]
    assert system["system_cpu"].to_list() == [event["system.cpu"] for event in events]
    console = pl.read_parquet(tmp_path / "out" / "offline_old-sdks_console.parquet")["text"].to_list()
    told = [text for _, text in TRUTHS["finished097"]["console"]]
    assert sorted(filter(None, console)) == sorted(filter(None, told))
    cells = pl.read_parquet(tmp_path / "out" / "offline_old-sdks_table_cells.parquet")
    table = TRUTHS["finished097"]["tables"]["cells"]
    assert cells.select(table["columns"]).rows() == [tuple(row) for row in table["data"]]


def test_a_summary_that_is_behind_its_rows_stays_as_it_was_written(old_folder, export_old):
    """Its step was that of the last row, although its other values are older."""
    (old_folder / "wandb-history.jsonl").write_text('{"loss": 1, "_step": 0}\n{"loss": 2, "_step": 1}\n')
    (old_folder / "wandb-summary.json").write_text('{"loss": 1, "_step": 0}')
    run = export_old()[1].run
    assert (json.loads(run["_summary_json"]), run["last_step"]) == ({"_step": 0, "loss": 1}, 1)


def test_a_row_of_an_odd_step_costs_itself(old_folder, export_old):
    rows = ['{"loss": 1, "_step": "first"}', '{"loss": 2, "_step": 4.0}', '{"loss": 3, "\\ud800": 1}']
    (old_folder / "wandb-history.jsonl").write_text("\n".join(rows) + "\n")
    done, project = export_old()
    assert (done.code, project.run["history_rows"], project.run["metric_loss"] > 0) == (3, 2, True)
    assert "is damaged at line 1 of wandb-history.jsonl; the rest was read" in done.err
    assert project.rows() == [(2, {("loss",): 3, ("\N{REPLACEMENT CHARACTER}",): 1}), (4, {("loss",): 2})]


def test_the_file_itself_may_be_named(old_folder, tmp_path, export):
    file = old_folder.rename(tmp_path / "odd") / "wandb-history.jsonl"
    assert export("--offline", file, "-o", tmp_path / "out").code == 0
    assert exported(tmp_path / "out", "offline_old-sdks").run["id"] == "odd"


def test_a_history_in_many_pieces(old_folder, export_old, monkeypatch):
    whole = rows_with_steps(export_old()[1], "an-id")
    monkeypatch.setattr(export_runs, "PART_ITEMS", 50)
    shutil.rmtree(old_folder.parent.parent / "out")
    assert repr(rows_with_steps(export_old()[1], "an-id")) == repr(whole)


def test_a_pointer_in_place_of_a_history(old_folder, export_old):
    (old_folder / "wandb-history.jsonl").write_text(LFS_POINTER)
    done, project = export_old()
    assert (done.code, project.run["history_rows"], project.run["metric_loss"] > 0) == (3, 0, True)
    assert "run `git lfs pull` there" in done.err


@pytest.mark.parametrize("text", ["", "{}", '{"_wandb": {"runtime": 41}}', "no json", None])
def test_no_summary_is_the_historys_last_values(old_folder, export_old, text):
    file = old_folder / "wandb-summary.json"
    file.unlink() if text is None else file.write_text(text)
    _, project = export_old()
    last = rows_with_steps(project, "an-id")[-2]
    assert (project.run["metric_loss"], project.run["metric_deep_x"]) == (last["loss",], last["deep", "x"])
    assert project.metadata["summary_restored"] == [{"run": "an-id", "from": "history"}]
    assert project.run["runtime_s"] == project.history["_runtime"][-1]


# --- logs -----------------------------------------------------------------------------------------------------

ROWS = [{"loss": "0.5", "deep": '{"x": 1}'}, {"loss": "NaN", "deep": '{"x": 2, "name": "n"}'}, {"acc": "1"}]


def test_nested_metrics_as_one_value(tmp_path, export):
    media = {"image": '{"_type": "image-file", "width": 3}', "deep": '{"y": {"z": -Infinity, "t": "text"}, "big": 1e3}'}
    rows = [{"deep": '{"x": 1}', "deep2": "{}"}, media, {"deep": "7"}, {"deep": '{"x": true}'}]
    write_log(tmp_path / "logs", "nested", rows=rows)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history").code == 0
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert [row for _, row in project.rows()] == [
        {("deep", "x"): 1},
        {("deep", "y", "z"): -math.inf, ("deep", "big"): 1000},
        {("deep",): 7},
        {("deep", "x"): 1},
    ]
    assert project.metadata["skipped_history_keys"] == ["deep.y.t", "image"]  # as of rows from a server


@pytest.mark.parametrize(
    ("file", "source", "loss"),
    [
        ('{"loss": 0.25, "_runtime": 9, "_wandb": {}}', "file", 0.25),
        ('{"_wandb": {"runtime": 41}}', "history", math.nan),
        ("{", "history", math.nan),
    ],
)
def test_a_summary_that_the_log_lacks(tmp_path, export, file, source, loss):
    log = write_log(tmp_path / "logs", "lost", rows=ROWS, exit_code=None)
    (log.parent / "files").mkdir()
    (log.parent / "files" / "wandb-summary.json").write_text(file)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert project.metadata["summary_restored"] == [{"run": "lost", "from": source}]
    assert same(project.run["metric_loss"], loss)
    assert project.run["runtime_s"] == (9 if source == "file" else 2)  # the log's rows are two seconds apart
    if source == "history":
        assert json.loads(project.run["_summary_json"])["deep"] == {"x": 2, "name": "n"}


def test_the_run_time_of_a_log_without_rows_may_stand_in_its_summary_file_alone(tmp_path, export):
    """The log's records spanned no time, as it was cut off; so `--active-since` left the run out, too."""
    logs = {"cut": {"exit_code": None}, "ended": {"runtime_s": 60}, "resumed": {"exit_code": None, "resumed": True}}
    for run_id, fields in logs.items():
        log = write_log(tmp_path / "logs", run_id, **fields)
        (log.parent / "files").mkdir()
        (log.parent / "files" / "wandb-summary.json").write_text('{"_wandb": {"runtime": 41}}')
    proto = export_runs.wandb_proto()
    first, stats = proto.Record(run=proto.RunRecord(run_id="longer")), proto.Record(stats=proto.StatsRecord())
    first.run.start_time.FromDatetime(START)
    stats.stats.timestamp.FromDatetime(START + timedelta(seconds=99))
    log.parent.joinpath("longer.wandb").write_bytes(log_of([first.SerializeToString(), stats.SerializeToString()]))
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    runs = exported(tmp_path / "out", "offline_uncategorized").runs.select(
        "id", "runtime_s", since=pl.col("heartbeat_at") - pl.col("created_at")
    )
    (cut, ended, longer, resumed) = runs.sort("id").rows()
    assert (cut, ended[1], longer[1]) == (("cut", 41, timedelta(seconds=41)), 60, 99)
    assert resumed[1:] == (None, timedelta(0))  # the file has the sum of all sessions
    assert "restored" not in done.err


def test_restored_summaries_are_counted_only_where_they_come_from(tmp_path, export):
    write_log(tmp_path / "logs", "r", rows=ROWS, exit_code=None)
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert "summaries missing in the logs were restored: 1 from the history\n" in done.err


def test_a_summary_of_one_log_is_that_of_the_run(tmp_path, export):
    write_log(tmp_path / "logs", "a", rows=ROWS, summary={"loss": "0.5"})
    later = START.replace(month=2)
    write_log(tmp_path / "logs", "a", rows=ROWS, started_at=later, exit_code=None, resumed=True)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert (project.run["metric_loss"], project.metadata["summary_restored"]) == (0.5, [])


@pytest.mark.parametrize("others", [1, 0])
def test_a_start_that_wandb_refused_changes_no_run(tmp_path, export, others):
    """As of `resume="never"` for a run that is there: the log has name and tags of this start, and no telemetry."""
    sdk = {"telemetry": {"cli_version": "0.31.0"}}
    for _ in range(others):
        write_log(tmp_path / "logs", "a", rows=ROWS, display_name="good", exit_code=None, **sdk)
    later = START.replace(month=2)
    write_log(tmp_path / "logs", "a", started_at=later, display_name="refused", tags=["x"], exit_code=1, **sdk)
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    run = exported(tmp_path / "out", "offline_uncategorized").run
    expected = ("good", "crashed", []) if others else ("refused", "failed", ["x"])  # alone, it is all that is known
    assert (run["name"], run["state"], run["tags"]) == expected
    assert ("skipped: 1 log of a start that failed\n" in done.err) == bool(others)


@pytest.mark.parametrize(("version", "values"), [("0.29.0", [1, 2, 3]), ("0.30.0", [3, 2]), ("", [3, 2])])
def test_the_steps_of_a_log_that_may_continue_another(tmp_path, export, version, values):
    """Before 0.30, SDKs did not tell in an offline log that it was resumed."""
    telemetry = {"cli_version": version}
    write_log(tmp_path / "logs", "a", rows=[{"x": "1"}, {"x": "2"}], telemetry=telemetry)
    write_log(tmp_path / "logs", "a", rows=[{"x": "3"}], started_at=START.replace(month=2), telemetry=telemetry)
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history")
    assert done.code == 0, done.err
    history = exported(tmp_path / "out", "offline_uncategorized").history
    assert history.select("_step", "metric_x").rows() == list(enumerate(values))
    assert ("steps that are in several logs" in done.err) == (len(values) == 2)


def test_the_end_of_a_run_that_was_resumed_online(tmp_path, export):
    """Its run time includes that of the logs before; the rows tell from when it counts."""
    later = START.replace(month=2)
    write_log(tmp_path / "logs", "a", rows=[{"_runtime": "0.5"}], runtime_s=3_600)
    write_log(tmp_path / "logs", "a", rows=[{"_runtime": "3601.5"}], started_at=later, first_step=1, runtime_s=3_700)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert (run["created_at"], run["heartbeat_at"]) == (START, later + timedelta(seconds=99.5))
    assert run["runtime_s"] == 3_601.5


def test_the_end_of_a_run_that_was_resumed_online_without_rows(tmp_path, export):
    """The run time of all its logs was added to the start of the last one."""
    later = START.replace(month=2)
    write_log(tmp_path / "logs", "a", rows=[{"_runtime": "0.5"}], runtime_s=3_600)
    clocks = {"_timestamp": str(START.timestamp() + 3_600), "_runtime": "3600"}
    write_log(tmp_path / "logs", "a", started_at=later, runtime_s=31 * 86_400 + 9, summary=clocks)
    export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert run["heartbeat_at"] == later + timedelta(seconds=9)


@pytest.mark.parametrize("stamp", ["1" + "0" * 400, '"NaN"', '"soon"', "null", "1e308", "[]", "-1e999"])
def test_an_odd_time_in_a_summary_costs_nothing_else(tmp_path, export, stamp):
    write_log(tmp_path / "logs", "a", summary={"_timestamp": stamp, "_runtime": "1"})
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert exported(tmp_path / "out", "offline_uncategorized").run["state"] == "finished"


@pytest.mark.parametrize(
    ("sdk", "last", "seconds"),
    [
        ("0.12.17", {"runtime_s": 90}, 90),
        ("0.12.17", {"exit_code": None}, 60),  # crashed: not less than before
        ("0.10.33", {"runtime_s": 0}, 60),
        ("0.18.0", {"runtime_s": 90}, 5),
    ],
)
def test_the_run_time_of_a_resumed_run_is_not_that_of_the_session_before(tmp_path, export, sdk, last, seconds):
    """Until 0.17, SDKs put the new one into the record of the exit alone."""
    own = {"telemetry": {"cli_version": sdk}, "summary": {"_wandb": '{"runtime": 5}'}}
    write_log(tmp_path / "logs", "a", rows=[{"x": "1"}], runtime_s=60, **own)
    write_log(tmp_path / "logs", "a", rows=[{"x": "1"}], started_at=START.replace(day=2), first_step=1, **own, **last)
    export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert exported(tmp_path / "out", "offline_uncategorized").run["runtime_s"] == seconds


def test_the_config_of_a_log_that_ends_before_it(tmp_path, export):
    """A crash cut it off; the SDK had written it to a file, too. A log with an exit has all of it."""
    for run_id, more in (("cut", {"exit_code": None}), ("own", {"exit_code": None, "config": {"k": "2"}}), ("all", {})):
        file = write_log(tmp_path / "logs", run_id, **more)
        (file.parent / "files").mkdir()
        (file.parent / "files" / "config.yaml").write_text("wandb_version: 1\n\nk:\n  desc: null\n  value: 1\n")
    export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    runs = exported(tmp_path / "out", "offline_uncategorized").runs
    assert dict(runs.select("id", "config_k").rows()) == {"cut": 1, "own": 2, "all": None}


@pytest.mark.parametrize(
    ("log", "seconds"),
    [
        ({"rows": [{}], "runtime_s": 3_600, "first_step": 10}, 3_600),
        ({"rows": [{}] * 100, "exit_code": None}, 99),  # crashed
        ({"rows": [{"_runtime": "10"}], "exit_code": None}, 10),
        ({"runtime_s": 5, "summary": {"_wandb": '{"runtime": 4}'}}, 4),
        ({"exit_code": None}, None),
    ],
)
def test_the_run_time_of_logs_whose_summary_lacks_it(tmp_path, export, log, seconds):
    write_log(tmp_path / "logs", "a", **log)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    assert exported(tmp_path / "out", "offline_uncategorized").run["runtime_s"] == seconds


def test_the_end_of_a_run_that_logged_times_before_its_start(tmp_path, export):
    write_log(tmp_path / "logs", "a", rows=[{"_runtime": "0.5"}], first_step=-9, runtime_s=60)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert run["heartbeat_at"] == START + timedelta(seconds=60)


SDKS_CONFIG = """_wandb:
    value:
        cli_version: 0.24.0
"n":
    value: 3
opt:
    value:
        lr: 1e-05
        name: "1e-5"
"""  # as the SDK's Go part writes it
PYTHONS_CONFIG = "wandb_version: 1\n\nn:\n  desc: null\n  value: 3\nname:\n  desc: null\n  value: 1e-5\n"


@pytest.mark.parametrize(
    ("file", "others", "config"),
    [
        (SDKS_CONFIG, {}, {"opt": {"lr": 1e-5, "name": "1e-5"}, "n": 4}),
        (PYTHONS_CONFIG, {}, {"name": "1e-5", "n": 4}),
        ("n: [", {}, {"n": 4}),
        ("n: " + 10_000 * "[", {}, {"n": 4}),
        (SDKS_CONFIG, {"a": "1"}, {"a": 1, "n": 4}),
    ],
    ids=["by Go", "by Python", "no YAML", "nested too deeply", "its log is there"],
)
def test_the_config_of_a_resumed_run_whose_first_log_is_elsewhere(tmp_path, export, file, others, config):
    """The log of a resumed run has only what was set since."""
    later = START.replace(month=2)
    log = write_log(tmp_path / "logs", "a", rows=ROWS, started_at=later, config={"n": "4"}, resumed=True)
    (log.parent / "files").mkdir()
    (log.parent / "files" / "config.yaml").write_text(file)
    if others:
        write_log(tmp_path / "logs" / "first", "a", rows=ROWS, config=others)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    assert json.loads(exported(tmp_path / "out", "offline_uncategorized").run["_config_json"]) == config


def test_many_torn_logs_are_not_all_listed(tmp_path, export):
    for number in range(12):
        log = write_log(tmp_path / "logs", f"r{number:02}", rows=ROWS)
        log.write_bytes(log.read_bytes()[:-3])
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert done.code == 0
    (torn,) = [line for line in done.err.splitlines() if line.startswith("these logs end early")]
    assert torn.count(".wandb") == 5
    assert torn.endswith(" and 7 more")
    assert len(exported(tmp_path / "out", "offline_uncategorized").metadata["torn"]) == 12


# --- the machine ----------------------------------------------------------------------------------------------


def environment(writer_id: str, started: str | None = None, **values: Any) -> bytes:
    proto = export_runs.wandb_proto()
    found = proto.EnvironmentRecord(writer_id=writer_id, **values)
    if started:
        found.started_at.FromDatetime(moment(started))
    return proto.Record(environment=found).SerializeToString()


def test_the_process_that_started_first_counts(tmp_path, export):
    """Each process notes its machine in several records that add to each other."""
    proto = export_runs.wandb_proto()
    folder = tmp_path / "logs" / "run-20260101_000000-a"
    folder.mkdir(parents=True)
    run = proto.Record(run=proto.RunRecord(run_id="a"))
    records = [
        environment("late", "2026-01-02", host="late", program="late.py", gpu_type="H100", gpu_count=8),
        environment("early", "2026-01-01", host="early", os="Linux", program="train.py", args=["--name", "a b"]),
        environment("early", gpu_type="T4", gpu_count=2, git=proto.GitRepoRecord(commit="abc")),
    ]
    (folder / "run-a.wandb").write_bytes(log_of([run.SerializeToString(), *records]))
    (folder / "files").mkdir()
    (folder / "files" / "wandb-metadata.json").write_text('{"host": "of-file", "python": "3"}')  # the log knows better
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert [run[name] for name in MACHINE] == ["early", "Linux", None, "train.py --name 'a b'", "T4", 2]
    assert run["commit"] == "abc"


def test_odd_notes_of_a_machine():
    nothing = dict.fromkeys(["commit", *MACHINE])
    assert export_runs.machine([]) == export_runs.machine([None, ["host"]]) == nothing
    odd = {"host": 7, "os": "", "args": ["x"], "gpu_count": 2**80, "git": "abc", "startedAt": 5}
    assert export_runs.machine([odd]) == nothing
    assert export_runs.machine([{"git": {"commit": 5}, "gpu_count": 0}], "abc") == nothing | {"commit": "abc"}
    assert export_runs.machine([{"program": "t.py", "args": "x"}])["command"] == "t.py"


def test_the_machine_on_a_server(tmp_path, call_script):
    """Offline and online: the same columns, so that GPU hours by GPU are one question."""
    with Server() as server:
        ids = server.add_runs("team", "demo", 50, keys=9)
        done = call_script("export_runs.py", "team/demo", "-o", "out", env=server.environment(tmp_path / "sdk"))
        assert done.code == 0, done.err
        rows = {row["id"]: row for row in exported(tmp_path / "out", "team_demo").runs.iter_rows(named=True)}
        for run_id in ids:
            run, row = server.run("team", "demo", run_id), rows[run_id]
            writers = json.loads(run.config)["_wandb"]["value"]["e"].values()
            first = min(writers, key=lambda writer: writer["startedAt"])
            assert (row["host"], row["commit"]) == (run.host, run.commit)
            assert row["command"].startswith("train.py --lr 0")
            assert row["command"].endswith(" --name 'a b'")
            for name in ("os", "python", "gpu", "gpu_count"):
                assert row[name] == first.get(name)


def test_earlier_exports_without_these_columns(tmp_path, export, call_script):
    """They are read and merged: null until the run is exported again. aggregate_runs.py carries the columns."""
    machine = environment("w", host="node", gpu_type="T4", gpu_count=2)
    for name in ("old", "new"):
        log = write_log(tmp_path / name, name, entity="team", project="demo", summary={"loss": "1"})
        log.write_bytes(log.read_bytes() + log_of([machine])[7:])
    assert export("--offline", tmp_path / "old", "-o", tmp_path / "out").code == 0
    file = tmp_path / "out" / "team_demo_runs.parquet"
    about = {key.decode(): value.decode() for key, value in pq.read_metadata(file).metadata.items()}
    pl.read_parquet(file).drop(MACHINE).write_parquet(file, metadata=about)
    listing = tmp_path / "out" / "team_demo_metadata.json"
    document = json.loads(listing.read_text("utf-8"))
    [listed] = [listed for listed in document["files"] if listed["name"] == file.name]
    content = file.read_bytes()
    listed |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    listed["columns"] -= len(MACHINE)
    listing.write_text(json.dumps(document), "utf-8")
    shutil.copytree(tmp_path / "out", tmp_path / "both" / "earlier")
    assert export("--offline", tmp_path / "new", "-o", tmp_path / "out").code == 0
    runs = pl.read_parquet(file)
    assert {row[0]: row[1:] for row in runs.select("id", "host", "gpu", "gpu_count").iter_rows()} == {
        "new": ("node", "T4", 2),
        "old": (None, None, None),
    }
    assert export("--offline", tmp_path / "new", "-o", tmp_path / "both" / "later").code == 0
    done = call_script("aggregate_runs.py", "both", "-o", "unified.parquet")
    assert done.code == 0, done.err
    unified = pl.read_parquet(tmp_path / "unified.parquet")
    assert unified.select("id", *MACHINE).sort("id").rows() == [
        ("new", "node", None, None, None, "T4", 2),
        ("old", *[None] * 6),
    ]
    assert unified.schema["gpu_count"] == pl.Int64
    query = "SELECT gpu, SUM(runtime_s * gpu_count) / 3600 AS hours FROM runs GROUP BY gpu ORDER BY gpu"
    done = call_script("analyze_runs.py", "unified.parquet", "--sql", query, "--json")
    assert done.code == 0, done.err
    assert [row["gpu"] for row in json.loads(done.out)["sql"]] == ["T4", None]


def write_old_folder(folder: Path, **files: str | bytes) -> None:
    """A run's folder of SDK 0.9; keyword arguments replace its files, with `_` for `-` and without endings."""
    run = folder / "run-20200328_193221-odd"
    run.mkdir(parents=True)
    names = {"metadata": "wandb-metadata.json", "config": "config.yaml", "events": "wandb-events.jsonl"}
    names |= {"history": "wandb-history.jsonl", "summary": "wandb-summary.json", "output": "output.log"}
    plain = {
        "metadata": '{"project": "demo", "state": "finished", "exitcode": 0}',
        "history": '{"loss": 1, "_step": 0}\n',
    }
    for name, content in (plain | files).items():
        (run / names[name]).write_bytes(content if isinstance(content, bytes) else content.encode())


DEEP = 100_000
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"metadata": '{"project": "demo", "exitcode": [1]}'}, 0),
        ({"events": '{"system.cpu": 1, "_timestamp": "soon", "_runtime": 1}\n'}, 0),
        ({"config": "a: " + "[" * DEEP + "]" * DEEP}, 3),
        ({"config": LFS}, 3),
        ({"summary": LFS}, 3),
        ({"output": LFS}, 3),
        ({"summary": '{"a": ' * 500 + "1" + "}" * 500}, 0),
    ],
)
def test_one_odd_file_costs_itself_alone(tmp_path, export, files, code):
    write_old_folder(tmp_path / "logs", **files)
    write_log(tmp_path / "logs", "good", entity="offline", project="demo", rows=ROWS)
    flags = ("--include-history", "--console", "--system-metrics", "--tables")
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out", *flags)
    assert done.code == code, done.err
    assert "good" in set(exported(tmp_path / "out", "offline_demo").runs["id"])
    assert ("git lfs pull" in done.err) == (LFS in files.values() and "config" not in files)
