"""export_runs.py as its users run it, on what the real SDK recorded; then its parts.

`UPDATE_GOLDENS=1 pytest tests/test_export_runs.py` writes the files in `goldens/` anew; review them as a diff.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import export_runs
import log_files
import polars as pl
import pyarrow.parquet as pq
import pytest
import recordings
from conftest import LIMIT_S, ROOT, Done
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from log_files import BLOCK, HEADER, START, log_of, records_of, write_log

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = ROOT / "examples" / "offline-runs"
EXAMPLE_LOGS = sorted(EXAMPLES.rglob("*.wandb"))
GOLDENS = Path(__file__).parent / "goldens"
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
CLOCKS = ["_step", "_runtime", "_timestamp"]


@pytest.fixture(autouse=True, scope="session")
def libraries() -> None:
    export_runs.import_libraries()


# --- what an export holds -------------------------------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Equal value for value, NaN to NaN; an int is the float of the same value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def paths_of(file: Path) -> dict[tuple[str, ...], str]:
    """Columns by W&B path, as the file says; config and metrics alike."""
    columns = json.loads(pq.read_metadata(file).metadata[b"wandb_tools.columns"])
    return {tuple(path): name for name, path in columns.items()}


def facts_of(file: Path) -> dict[str, dict]:
    return json.loads(pq.read_metadata(file).metadata[b"wandb_tools.metrics"])


class Exported(NamedTuple):
    """The files of one project."""

    runs_file: Path
    history_file: Path
    metadata: dict

    @property
    def runs(self) -> pl.DataFrame:
        return pl.read_parquet(self.runs_file, glob=False)

    @property
    def history(self) -> pl.DataFrame:
        return pl.read_parquet(self.history_file, glob=False)

    @property
    def run(self) -> dict:
        """The only run."""
        return self.runs.row(0, named=True) if self.runs.height == 1 else pytest.fail(f"{self.runs.height} runs")

    def leaves(self, prefix: str) -> dict[tuple[str, ...], object]:
        """The only run's config or metrics by path, without nulls."""
        columns = {path: name for path, name in paths_of(self.runs_file).items() if name.startswith(prefix)}
        assert set(columns.values()) == {name for name in self.runs.columns if name.startswith(prefix)}
        return {path: self.run[name] for path, name in columns.items() if self.run[name] is not None}

    def rows(self) -> list[tuple[int, dict]]:
        """Step and numbers of every history row, without nulls."""
        columns = paths_of(self.history_file)
        assert set(columns.values()) == {name for name in self.history.columns if name.startswith("metric_")}
        return [
            (row["_step"], {path: row[name] for path, name in columns.items() if row[name] is not None})
            for row in self.history.iter_rows(named=True)
        ]


def exported(folder: Path, stem: str) -> Exported:
    metadata = json.loads((folder / f"{stem}_metadata.json").read_text("utf-8"))
    return Exported(folder / f"{stem}_runs.parquet", folder / f"{stem}_history.parquet", metadata)


def numbers(rows: list[tuple[int, dict]]) -> list[object]:
    """Steps and values of a run that logged nothing but `a`."""
    return [(step, row[("a",)]) for step, row in rows]


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and ".wandb_tools" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


# --- what the real SDK was told is what the files hold --------------------------------------------------------


class Recorded(NamedTuple):
    """What the SDK recorded, and its export by the script as a process."""

    logs: Path
    folder: Path
    seen: dict  # the SDK's own view of configs and summaries
    done: Done

    def project(self, name: str) -> Exported:
        return exported(self.folder, f"offline_{name}")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, clean_environment, worker_id) -> Recorded:
    """Recorded and exported once for all of pytest's processes: whoever comes first does it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    logs, folder, outcome = shared / "recorded", shared / "recorded-export", shared / "recorded-export.json"
    with (shared / "recorded.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            record(logs, clean_environment)
            script = ROOT / "wandb-tools" / "export_runs.py"
            command = [sys.executable, script, "--offline", logs, "-o", folder, "--include-history"]
            done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, check=False)
            outcome.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return Recorded(logs, folder, json.loads((logs / "seen.json").read_text()), Done(*json.loads(outcome.read_text())))


def record(logs: Path, environment: Mapping[str, str]) -> None:
    logs.mkdir()
    processes = {
        what: subprocess.Popen([sys.executable, recordings.__file__, logs, what], env=environment)
        for what in recordings.RECORDERS
    }
    codes = {what: process.wait(LIMIT_S) for what, process in processes.items()}
    assert codes == {"all": 0, "killed": -signal.SIGKILL, "killed-at-once": -signal.SIGKILL}


def test_whole_recording(recorded):
    assert recorded.done.code == 0
    written = [Path(name) for name in recorded.done.out.splitlines()]
    assert sorted(written) == sorted(recorded.folder.glob("*_runs.parquet"))
    assert 3 * len(written) == len(list(recorded.folder.glob("*_*.*")))  # history and metadata lie beside them
    assert not list(recorded.folder.rglob("*.partial"))
    assert not [line for line in recorded.done.err.splitlines() if line.startswith("error")]


def test_config_value_for_value(recorded):
    project = recorded.project("config")
    assert same(json.loads(project.run["_config_json"]), export_runs.jsonable(recordings.CONFIG))
    assert "NaN" not in project.run["_config_json"].replace('"NaN"', "")
    leaves = project.leaves("config_")
    expected = {path: value for path, value in plain_leaves(recordings.CONFIG).items() if value is not None}
    expected |= {
        ("past_64_bits",): 2.0**63,
        ("past_all_floats",): math.inf,
        ("infinite",): "Infinity",  # not beside a number
        ("minus_infinite",): "-Infinity",
        ("half a pair",): "\N{REPLACEMENT CHARACTER}",
    }
    assert same(leaves, expected)
    dtypes = {path: project.runs.schema[name] for path, name in paths_of(project.runs_file).items()}
    assert dtypes[("bool",)] == pl.Boolean
    assert dtypes[("past_doubles",)] == pl.Int64
    assert dtypes[("past_64_bits",)] == dtypes[("whole_float",)] == dtypes[("tiny",)] == pl.Float64
    assert dtypes[("text",)] == pl.String


def plain_leaves(tree: dict, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """A config's leaves by path: lists and empty dicts as JSON text."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= plain_leaves(value, (*above, key))
        else:
            leaves[*above, key] = json.dumps(value) if isinstance(value, dict | list) else value
    return leaves


def test_config_of_other_libraries_types(recorded):
    config = json.loads(recorded.project("config32").run["_config_json"])
    assert same(config, recordings.FLOAT32_CONFIG)
    assert same(config, recorded.seen["config32"]["config"])


def test_no_config(recorded):
    run = recorded.project("no-config").run
    assert (run["_config_json"], run["history_rows"], run["last_step"]) == ("{}", 0, None)
    assert recorded.project("no-config").history.height == 0


def test_config_and_labels_changed_during_the_run(recorded):
    project = recorded.project("changed")
    config = functools.reduce(dict.__or__, recordings.CHANGES, recordings.CHANGED_CONFIG) | {"after": 2**62 + 1}
    assert same(recorded.seen["changed"]["config"], config)
    assert same(json.loads(project.run["_config_json"]), config | recordings.MERGED)
    labels = {"name": project.run["name"], "notes": project.run["notes"], "tags": tuple(project.run["tags"])}
    assert labels == recordings.NEW_LABELS
    assert (project.run["group"], project.run["job_type"]) == (recordings.GROUP, recordings.JOB_TYPE)


@pytest.mark.parametrize("run_id", ["rows", "typed"])
def test_history_value_for_value(recorded, run_id):
    project = recorded.project(run_id)
    expected = [(step, values) for step, (_, values) in enumerate([*recordings.ROWS, ({}, {})])]
    assert same([list(row) for row in project.rows()], [list(row) for row in expected])
    assert project.metadata["skipped_history_keys"] == recordings.ROWS_SKIPPED
    assert project.run["history_rows"] == len(expected) == project.metadata["history"]["rows"]
    dtypes = {path: project.history.schema[name] for path, name in paths_of(project.history_file).items()}
    assert dtypes[("exact",)] == dtypes[("i",)] == dtypes[("yes",)] == pl.Int64
    assert dtypes[("f",)] == dtypes[("big",)] == dtypes[("mixed",)] == dtypes[("nan",)] == pl.Float64


def test_clocks(recorded):
    history = recorded.project("many").history
    assert history.columns[:6] == ["run_id", "entity", "project", *CLOCKS]
    assert dict(history.schema.items()) | dict.fromkeys(CLOCKS[1:], pl.Float64) == dict(history.schema.items())
    assert history["_step"].to_list() == list(range(recordings.MANY_ROWS))
    assert history["_runtime"].is_sorted()
    run = recorded.project("many").run
    start, end = run["created_at"].timestamp(), run["heartbeat_at"].timestamp()
    assert start - 1 <= history["_timestamp"].min() <= history["_timestamp"].max() <= end + 1
    assert run["last_step"] == recordings.MANY_ROWS - 1


def test_rows_that_lack_metrics(recorded):
    rows = recorded.project("many").rows()
    expected = [
        {("a",): step / 3, ("b",): step} | ({("val",): step} if step % recordings.MANY_VALIDATED == 0 else {})
        for step in range(recordings.MANY_ROWS)
    ]
    assert [row for _, row in rows] == expected


def test_steps_with_gaps(recorded):
    assert recorded.project("steps").rows() == [
        (0, {("train",): 1.0}),
        (1, {("train",): 0.5}),
        (10, {("val",): 2, ("test",): 3}),
        (10**9, {("train",): 0.25}),
    ]


WITH_HISTORY = export_runs.parse_args(["--offline", "logs", "--include-history"])


def read_alone(file: Path, folder: Path) -> export_runs.Log:
    (log,) = export_runs.read_logs([file], folder, WITH_HISTORY)
    return log


def rows_of(log: export_runs.Log) -> list[dict[str, float]]:
    """The history of a log that was read alone, without nulls."""
    frames = [pl.read_parquet(part.file, glob=False) for part in log.rows["history"].parts]
    rows = [row for frame in frames for row in frame.drop("run_id").iter_rows(named=True)]
    path = re.compile(r"(?<=\])\w+$")  # what stands behind it is a dtype
    return [{path.sub("", name): value for name, value in row.items() if value is not None} for row in rows]


def test_parts_are_one_history(recorded, tmp_path, monkeypatch):
    """What a reader holds at once is bounded; where the parts end makes no difference."""
    (file,) = recorded.logs.rglob("offline-run-*/run-many.wandb")
    whole = read_alone(file, tmp_path)
    monkeypatch.setattr(export_runs, "PART_ITEMS", 500)
    in_parts = read_alone(file, tmp_path)
    monkeypatch.setattr(export_runs, "PART_ITEMS", 10**9)
    monkeypatch.setattr(export_runs, "PART_CELLS", 90)
    in_cells = read_alone(file, tmp_path)
    assert (len(whole.rows["history"].parts), len(in_parts.rows["history"].parts)) == (1, 8)
    assert len(in_cells.rows["history"].parts) > recordings.MANY_ROWS / 20
    assert rows_of(whole) == rows_of(in_parts) == rows_of(in_cells)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "[2, 3]"]))))
def test_replaced_summary_items_leave_memory(changes):
    """Only the last change of each path is held, removals too; they are in the order of time."""
    item = export_runs.wandb_proto().SummaryItem
    items = [item(nested_key=["x", key], value_json=value).SerializeToString() for key, value in changes]
    last: dict[bytes, bytes] = {}
    for number in range(len(items)):
        export_runs.keep_last(last, items[number : number + 1])
    expected = [change for number, change in enumerate(changes) if change[0] not in dict(changes[number + 1 :])]
    found = [item.FromString(content) for content in last.values()]
    assert [(each.nested_key[1], each.value_json) for each in found] == expected


def test_a_damaged_row_leaves_no_values(tmp_path):
    """Those before the damage are removed, also where no other row has the metric."""
    proto, glance = export_runs.wandb_proto(), export_runs.glance_class()
    names = [("_timestamp", "lost", "both"), ("_timestamp", "both"), ("_timestamp", "later")]
    records = [proto.Record(run=proto.RunRecord(run_id="a")).SerializeToString()]
    for step, keys in enumerate(names):
        items = [proto.HistoryItem(nested_key=[key], value_json=str(step)).SerializeToString() for key in keys]
        number = b"\xff" if step == 0 else proto.HistoryStep(num=step).SerializeToString()
        records.append(glance(history={"item": items, "other": [number]}).SerializeToString())
    file = tmp_path / "run-a.wandb"
    file.write_bytes(log_of(records))
    log = read_alone(file, tmp_path)
    assert [damage.partition(":")[0] for damage in log.damage] == ["record 2"]
    both, later = (export_runs.column_key((name,)) for name in ("both", "later"))
    expected = [{"order": 1, "_timestamp": 1.0, both: 1}, {"order": 2, "_timestamp": 2.0, later: 2}]
    assert rows_of(log) == expected
    assert [part.dtypes for part in log.rows["history"].parts] == [{("both",): "Int64", ("later",): "Int64"}]


def test_summaries_of_define_metric(recorded):
    project = recorded.project("defined")
    summary = json.loads(project.run["_summary_json"])
    expected = {name: value for name, (_, value) in recordings.DEFINITIONS.items() if value is not None}
    expected |= {"glob/a": {"min": 1}, "epoch": 2}
    assert {name: summary.get(name) for name in expected} == expected
    assert "d/none" not in summary
    numbers_by_path = {
        (name, kind): value for name, by in expected.items() if isinstance(by, dict) for kind, value in by.items()
    }
    numbers_by_path |= {(name,): value for name, value in expected.items() if not isinstance(value, dict)}
    assert project.leaves("metric_") == numbers_by_path


def test_definitions_are_in_the_files(recorded):
    project = recorded.project("defined")
    history_facts = facts_of(project.history_file)
    columns = paths_of(project.history_file)
    told = {name: history_facts[columns[name,]] for name in recordings.DEFINED_FACTS}
    assert told == {
        name: dict(zip(("goal", "summary", "step_metric"), facts, strict=True))
        for name, facts in recordings.DEFINED_FACTS.items()
    }
    assert columns["d/plain",] not in history_facts
    runs_facts = facts_of(project.runs_file)
    assert runs_facts[paths_of(project.runs_file)["d/max", "max"]]["goal"] == "maximize"


def test_definitions_of_keys_with_dots(recorded):
    project = recorded.project("dotted")
    facts, columns = facts_of(project.history_file), paths_of(project.history_file)
    for path, is_reached in recordings.DOTTED.values():
        assert project.leaves("metric_")[(*path, "max") if is_reached else path] == (5 if is_reached else 3)
        assert facts.get(columns[path], {}).get("goal") == ("maximize" if is_reached else None)


def test_explicit_summaries(recorded):
    project = recorded.project("summary")
    summary = {key: value for key, value in json.loads(project.run["_summary_json"]).items() if key[0] != "_"}
    assert same(summary, recordings.SUMMARY)
    assert same(project.leaves("metric_"), recordings.SUMMARY_NUMBERS)
    seen = export_runs.jsonable(recorded.seen["summary"]["summary"])
    assert {key: seen[key] for key in recordings.SUMMARY if key != "deep"} == {
        key: value for key, value in recordings.SUMMARY.items() if key != "deep"
    }  # the script's own summary shows {"k1": 1, "k2": 7} there


@pytest.mark.parametrize("run_id", ["rows", "typed", "defined", "many", "in-sweep"])
def test_summary_is_the_sdks_own(recorded, run_id):
    summary = json.loads(recorded.project(run_id).run["_summary_json"])
    seen = export_runs.jsonable(recorded.seen[run_id]["summary"])
    ours, theirs = ({k: v for k, v in each.items() if k not in (*CLOCKS, "_wandb")} for each in (summary, seen))
    assert same(ours, theirs)
    assert list(summary) == sorted(summary)


@pytest.mark.parametrize(
    ("run_id", "state"),
    [
        ("failed", "failed"),
        ("found-dead", "crashed"),
        ("preempted", "preempted"),
        ("many", "finished"),
        ("killed", "running"),
    ],  # killed just now
)
def test_states(recorded, run_id, state):
    project = recorded.project(run_id)
    assert project.run["state"] == state
    assert project.metadata["runs"] == {"listed": 1, "written": 1, "failed": 0, "filtered": 0, "by_state": {state: 1}}


def test_sweep(recorded):
    assert recorded.project("in-sweep").run["sweep"] == "sweep1"
    assert recorded.project("many").run["sweep"] is None


def test_killed_in_the_middle_of_a_record(recorded):
    project = recorded.project("killed")
    logged = json.loads((recorded.logs / "killed.json").read_text())
    rows = project.rows()
    assert 0 < len(rows) <= logged
    assert rows == [
        (step, {("loss",): 1 / (step + 1), ("count",): step, ("flat", "x"): -step}) for step in range(len(rows))
    ]
    (file,) = recorded.logs.rglob("offline-run-*/run-killed.wandb")
    log = file.read_bytes()
    whole = records_of(log)
    torn = [name for name in project.metadata["torn"] if name.endswith("run-killed.wandb")]
    assert len(torn) == (whole[-1].end < len(log))  # hardly ever does a record end with its block
    assert (project.metadata["status"], project.metadata["failed"]) == ("complete", [])
    assert json.loads(project.run["_config_json"]) == {"a": 1}


def test_killed_at_once(recorded):
    (file,) = recorded.logs.rglob("offline-run-*/run-killed-at-once.wandb")
    assert file.read_bytes() == HEADER
    assert "skipped: 1 log without a record\n" in recorded.done.err
    assert not list(recorded.folder.glob("*killed-at-once*"))
    noted = recorded.project("many").metadata["torn"]  # no project is known: every one's metadata name it
    assert [Path(name).name for name in noted] == ["run-killed-at-once.wandb"]


def test_resumed_steps_go_on(recorded):
    project = recorded.project("resumed")
    values = [value for log in recordings.RESUMED for value in log]
    assert numbers(project.rows()) == list(enumerate(values))
    assert (project.run["history_rows"], project.run["last_step"]) == (5, 4)
    assert json.loads(project.run["_summary_json"])["_step"] == 4
    assert json.loads(project.run["_config_json"]) == {"shared": 2, "only0": True, "only1": True, "only2": True}


def test_a_resumed_run_that_names_its_steps(recorded):
    """Its steps stay as they are, as far as W&B leaves them; nothing that was set once is emptied."""
    project = recorded.project("continued")
    run, logged = project.run, [step for steps in recordings.CONTINUED for step in steps]
    assert numbers(project.rows()) == list(zip(recordings.CONTINUED_STEPS, logged, strict=True))
    assert json.loads(run["_config_json"]) == recordings.CONTINUED_CONFIG
    assert (run["name"], run["notes"], run["tags"]) == recordings.CONTINUED_LABELS
    summary = json.loads(run["_summary_json"])
    assert {key: value for key, value in summary.items() if key[0] != "_"} == recordings.CONTINUED_SUMMARY
    assert summary["_step"] == recordings.CONTINUED_STEPS[-1] == run["last_step"]


def test_steps_logged_again_without_resume(recorded):
    assert numbers(recorded.project("repeated").rows()) == [(0, 10), (1, 20), (2, 3), (3, 4)]
    assert (
        "steps that are in several logs of a run have the values of the last one: repeated (2 steps)"
        in recorded.done.err
    )


def test_rewound_run_loses_what_it_voided(recorded):
    before, step, after = recordings.REWOUND
    expected = [*before[: step + 1], *after]
    assert numbers(recorded.project("rewound").rows()) == list(enumerate(expected))


def test_forked_run_starts_after_its_parent(recorded):
    assert numbers(recorded.project("forked").rows()) == [(recordings.FORKED_STEP + 1, 1)]


def place_of(number: int) -> tuple[str, tuple[str, str]]:
    place, stem = recordings.PLACES[number], recordings.PLACES_STEMS[number]
    digest = hashlib.sha1(json.dumps(place, separators=(",", ":")).encode()).hexdigest()[:8]
    return (f"{stem}__{digest}" if number in recordings.PLACES_HASHED else stem), place


@pytest.mark.parametrize("number", range(len(recordings.PLACES)))
def test_names_of_places_and_files(recorded, number):
    stem, (entity, project_name) = place_of(number)
    project = exported(recorded.folder, stem)
    assert (project.run["entity"], project.run["project"]) == (entity, project_name)
    assert (project.metadata["entity"], project.metadata["project"]) == (entity, project_name)
    assert numbers(project.rows()) == [(0, number)]
    assert len(project.history_file.name) <= 200


def test_one_id_in_two_projects_is_two_runs(recorded):
    for name, key in recordings.SAME_ID_TEXTS.items():
        assert recorded.project(name).run["id"] == recordings.SAME_ID
        assert recorded.project(name).metadata["skipped_history_keys"] == [key]


def test_files_are_parquet_for_all(recorded):
    project = recorded.project("rows")
    for file, kind in ((project.runs_file, "runs"), (project.history_file, "history")):
        metadata = pq.read_metadata(file)
        column = metadata.row_group(0).column(metadata.num_columns - 1)
        assert column.compression == "ZSTD"
        assert column.is_stats_set
        texts = {key.decode(): value.decode() for key, value in metadata.metadata.items() if b"wandb" in key}
        assert sorted(texts) == [
            "wandb_tools.columns",
            "wandb_tools.export_id",
            *(["wandb_tools.histories"] if kind == "history" else []),
            "wandb_tools.metrics",
            "wandb_tools.schema",
            "wandb_tools.source",
        ]
        assert texts["wandb_tools.schema"] == "1"
        source = json.loads(texts["wandb_tools.source"])
        assert (source["entity"], source["project"], source["directory"]) == ("offline", "rows", str(recorded.logs))
        assert {"exported_at", "versions"} <= source.keys()
        frame = pl.read_parquet(file)
        assert pq.read_table(file).num_rows == frame.height
        assert duckdb.sql(f"select count(*) from '{file}'").fetchall() == [(frame.height,)]
        names = [name.lower() for name in frame.columns]
        assert len(set(names)) == len(names), kind


def test_metadata_lists_the_files(recorded):
    project = recorded.project("rows")
    for listed, file in zip(project.metadata["files"], (project.history_file, project.runs_file), strict=True):
        frame = pl.read_parquet(file)
        assert listed == {
            "name": file.name,
            "bytes": file.stat().st_size,
            "rows": frame.height,
            "columns": frame.width,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    keys = "status entity project source filters exported_at versions runs history files failed torn"
    more = "missing_on_server kept_fuller summary_restored skipped_history_keys export_id"
    assert sorted(project.metadata) == sorted([*keys.split(), *more.split()])


def test_identity_columns_and_their_order(recorded):
    schema = recorded.project("changed").runs.schema
    text, moment = pl.String(), pl.Datetime("us", "UTC")
    assert list(schema.items())[:25] == [
        *dict.fromkeys(("id", "name", "state", "entity", "project"), text).items(),
        *dict.fromkeys(("created_at", "heartbeat_at"), moment).items(),
        ("runtime_s", pl.Float64()),
        ("last_step", pl.Int64()),
        ("history_rows", pl.Int64()),
        ("tags", pl.List(pl.String)),
        *dict.fromkeys(("group", "job_type", "sweep", "user", "notes", "commit", "url"), text).items(),
        *dict.fromkeys(("host", "os", "python", "command", "gpu"), text).items(),
        ("gpu_count", pl.Int64()),
        ("exported_at", moment),
    ]
    rest = list(schema)[25:]
    config = [name for name in rest if name.startswith("config_")]
    metrics = [name for name in rest if name.startswith("metric_")]
    assert rest == [*sorted(config), *sorted(metrics), "_config_json", "_summary_json"]


# --- the example runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def examples(tmp_path_factory) -> tuple[Path, str]:
    """The example runs' export, and what was said."""
    folder = tmp_path_factory.mktemp("examples")
    command = [sys.executable, ROOT / "wandb-tools" / "export_runs.py", "--offline", EXAMPLES, "-o", folder]
    done = subprocess.run([*command, "--include-history"], capture_output=True, text=True, check=True)
    return folder, done.stderr


EXAMPLE_STEMS = ["graph-lab_graph-denoising", "offline_graph-denoising-ablations"]


def golden(project: Exported) -> str:
    """What an export holds, for eyes: columns with dtypes, and a few values of every run."""
    lines = []
    for title, frame in (("runs", project.runs), ("history", project.history)):
        lines += [f"{title}: {frame.height} rows", *(f"  {name}  {dtype}" for name, dtype in frame.schema.items())]
    lines += [
        "skipped history keys: " + ", ".join(project.metadata["skipped_history_keys"]),
        "",
        "id, state, rows, test/mse, name",
    ]
    chosen = project.runs.select("id", "state", "history_rows", "metric_test_mse", "name").sort("name", "id")
    lines += ["  ".join(map(str, row)) for row in chosen.iter_rows()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("stem", EXAMPLE_STEMS)
def test_examples_golden(examples, stem):
    text = golden(exported(examples[0], stem))
    file = GOLDENS / f"{stem}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDENS.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


def test_examples_with_their_oddities(examples):
    folder, err = examples
    project = exported(folder, EXAMPLE_STEMS[0])
    (torn,) = project.metadata["torn"]
    assert f"these logs end early, as after a crash; all rows before the end were read: {torn}\n" in err
    (crashed,) = project.runs.filter(state="crashed").iter_rows(named=True)
    assert crashed["id"] in torn
    diverged = project.runs.filter(pl.col("name") == "stage1a_spectral_lr1e0_wd1e-4_k16_s0")["id"].item()
    losses = project.history.filter(run_id=diverged)["metric_train_loss"]
    assert losses.is_nan().any()
    assert losses.is_infinite().any()
    ablations = exported(folder, EXAMPLE_STEMS[1])
    assert {"seed", "metric_train_loss"} <= {name.removeprefix("config_") for name in ablations.runs.columns}
    train = [
        name for path, name in paths_of(ablations.history_file).items() if path in {("train/loss",), ("train_loss",)}
    ]
    assert len(train) == 2


def test_examples_value_for_value(examples):
    """Against the plain loop: every record parsed whole by protobuf, every value by Python's json."""
    folder, _ = examples
    Record = export_runs.wandb_proto().Record  # noqa: N806
    steps: dict[str, int] = {}
    expected: dict[tuple[str, int], dict] = {}
    configs: dict[str, dict] = {}
    for file in EXAMPLE_LOGS:
        records = [Record.FromString(placed.payload) for placed in records_of(file.read_bytes())]
        run_id = next(record.run.run_id for record in records if record.HasField("run"))
        config = configs.setdefault(run_id, {})
        for record in records:
            updates = [*record.run.config.update, *record.config.update]
            config |= {item.key: json.loads(item.value_json) for item in updates if item.key != "_wandb"}
            if record.HasField("history"):
                row = {tuple(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                step = max(row["_step",], steps.get(run_id, 0))  # of a resumed run, those that are too low are raised
                steps[run_id] = step + 1
                expected[run_id, step] = {
                    path: value
                    for path, value in row.items()
                    if isinstance(value, int | float)
                    and path[0][0] != "_"
                    and not any((*path[:depth], "_type") in row for depth in range(1, len(path)))  # of a table
                }
    found: dict[tuple[str, int], dict] = {}
    for stem in EXAMPLE_STEMS:
        project = exported(folder, stem)
        found |= {
            (run_id, step): row for run_id, (step, row) in zip(project.history["run_id"], project.rows(), strict=True)
        }
        for run_id, text in project.runs.select("id", "_config_json").iter_rows():
            assert json.loads(text) == configs.pop(run_id)
    assert not configs
    assert same(found, expected)


# --- logs cut off, damaged, foreign ---------------------------------------------------------------------------

EDGES = [0, 1, BLOCK - 7 - 7, BLOCK - 7 - 6, BLOCK - 7 - 1, BLOCK - 7, BLOCK, 2 * BLOCK, 100_000]
SIZES = st.one_of(st.integers(0, 40), st.sampled_from(EDGES), st.integers(0, 100_000))


@st.composite
def genuine_logs(draw) -> bytes:
    """A log that the SDK recorded, or one of random records; neither torn."""
    if draw(st.booleans()):
        log = draw(st.sampled_from(EXAMPLE_LOGS)).read_bytes()
        return log[: records_of(log)[-1].end]
    noise = random.Random(draw(st.integers(0, 2**32)))
    return log_of([noise.randbytes(size) for size in draw(st.lists(SIZES, max_size=8))])


def read(content: bytes) -> tuple[list[bytes], export_runs.Log]:
    log = export_runs.Log(Path("run-a.wandb"))
    return list(export_runs.log_records(io.BytesIO(content), log)), log


def is_log(records: list[bytes], log: export_runs.Log) -> bool:
    return bool(records or log.torn or log.damage)


def payloads(placed: list[log_files.Placed]) -> list[bytes]:
    return [each.payload for each in placed]


def is_subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def place(draw, log: bytes) -> int:
    """Any byte of a log, with a bent for its beginning, its end and the ends of blocks."""
    edges = [
        0,
        len(HEADER),
        len(log) - 1,
        *(each for block in range(BLOCK, len(log), BLOCK) for each in (block - 1, block)),
    ]
    near = st.sampled_from(edges).flatmap(lambda edge: st.integers(edge - 12, edge + 12))
    return min(max(draw(st.one_of(near, st.integers(0, len(log) - 1))), 0), len(log) - 1)


@given(genuine_logs())
def test_whole_log(log):
    records, found = read(log)
    assert records == payloads(records_of(log))
    assert (found.torn, found.damage) == (len(log) == len(HEADER), [])


@given(st.lists(st.one_of(SIZES, st.integers(BLOCK - 30, BLOCK + 10)), min_size=1, max_size=8))
@example([0, BLOCK - 27, 0])
def test_whole_log_of_an_old_core(sizes):
    """The Go core of SDK 0.17.0 to 0.17.5 counted the blocks from behind the header."""
    starts = itertools.accumulate((7 + size for size in sizes), initial=len(HEADER))
    assume((BLOCK, 0) not in zip(starts, sizes, strict=False))  # it may belong to either block; the SDK writes none
    written = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    records, found = read(log_of(written, counted_from=len(HEADER)))
    assert (records, found.torn, found.damage) == (written, False, [])


def test_damaged_log_of_an_old_core():
    written = [bytes([number]) * 20_000 for number in range(8)]
    log = bytearray(log_of(written, counted_from=len(HEADER)))
    log[20] ^= 1
    records, found = read(bytes(log))
    assert (records, found.torn, found.damage) == (written[1:], False, ["byte 7"])


@given(genuine_logs(), st.data())
def test_log_cut_anywhere(log, data):
    cut = place(data.draw, log)
    records, found = read(log[:cut])
    placed = records_of(log)
    assert records == payloads([each for each in placed if each.end <= cut])
    assert is_log(records, found)
    assert found.damage == []
    whole = {each.end for each in placed} | {each.end + -each.end % BLOCK for each in placed if -each.end % BLOCK < 7}
    assert found.torn == (cut not in whole)  # a log without any record counts as torn


@given(genuine_logs(), st.data())
def test_log_with_one_bit_flipped(log, data):
    flipped = place(data.draw, log)
    damaged = bytearray(log)
    damaged[flipped] ^= 1 << data.draw(st.integers(0, 7))
    placed = records_of(log)
    records, found = read(bytes(damaged))
    untouched = [each for each in placed if not each.start <= flipped < each.end]
    assert is_subsequence(records, payloads(placed))
    assert is_subsequence(payloads(untouched), records)
    if not placed:
        assert not is_log(records, found)
    elif len(records) < len(placed) and not found.damage:
        # The last record's length, made larger, looks like a record that was cut off.
        assert found.torn
        assert placed[-1].start <= flipped < placed[-1].end


@given(genuine_logs(), st.data(), st.integers(1, 3 * BLOCK))
def test_log_with_a_run_of_zeros(log, data, size):
    start = place(data.draw, log)
    damaged = (log[:start] + bytes(size))[: len(log)] + log[start + size :]
    placed = records_of(log)
    records, found = read(damaged)
    if not is_log(records, found):
        assert start < len(HEADER)  # what is left of a file whose first block is gone is not known to be a log
        return
    untouched = [each for each in placed if each.end <= start or each.start >= start + size]
    assert is_subsequence(records, payloads(placed))
    assert is_subsequence(payloads(untouched), records)
    assert len(records) == len(placed) or found.damage or found.torn


@given(genuine_logs(), st.binary(min_size=1, max_size=300))
def test_log_with_garbage_behind(log, garbage):
    records, found = read(log + garbage)
    assert records == payloads(records_of(log))
    if len(records) and any(garbage):
        assert found.damage or found.torn


@given(st.binary(max_size=300))
@example(b"")
@example(HEADER[:3])
@example(bytes(40_000))
def test_foreign_file(content):
    assume(not content.startswith(HEADER))
    records, found = read(content)
    assert records == []
    assert found.damage == []
    assert found.torn == HEADER.startswith(content)
    assert is_log(records, found) == found.torn


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(EXAMPLE_LOGS), st.data())
def test_no_wrong_value_from_a_damaged_log(tmp_path, file, data):
    log = file.read_bytes()
    damaged = bytearray(log)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[place(data.draw, log)] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "run-damaged.wandb").write_bytes(damaged)
    true, found = (read_alone(each, tmp_path) for each in (file, tmp_path / "run-damaged.wandb"))
    true_rows, rows = ([repr_of(row) for row in rows_of(log)] for log in (true, found))
    assert is_subsequence(rows, true_rows)
    assert len(rows) == len(true_rows) or found.damage or found.torn


def repr_of(row: dict[str, float]) -> dict[str, str]:
    """Comparable where NaN stands, and where a column lost its fractions to damage."""
    return {name: repr(float(value)) for name, value in row.items()}


def test_record_that_protobuf_refuses(tmp_path, export):
    """Its checksum holds, its content does not: the rows before and after it are as they were."""
    proto = export_runs.wandb_proto()

    def row(step: int, **values: int) -> bytes:
        history = proto.HistoryRecord(step=proto.HistoryStep(num=step))
        for key, value in values.items():
            history.item.add(nested_key=[key], value_json=str(value))
        return proto.Record(history=history).SerializeToString()

    broken = proto.HistoryRecord()
    for key in ("a", "b", "c"):
        broken.item.add(nested_key=[key], value_json="666")
    bad = proto.Record(history=broken).SerializeToString().replace(b"\x12\x01c", b"\x12\x01\xff")
    assert b"\xff" in bad
    (tmp_path / "run-x.wandb").write_bytes(log_of([row(0, a=1, b=1), bad, row(1, a=2), row(2, b=3)]))
    done = export("--offline", tmp_path, "-o", tmp_path / "out", "--include-history")
    assert (done.code, done.err.count("error: x: log ")) == (3, 1)
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert len(project.metadata["failed"]) == 1
    assert project.rows() == [(0, {("a",): 1, ("b",): 1}), (1, {("a",): 2}), (2, {("b",): 3})]


# --- the same on the command line -----------------------------------------------------------------------------

ROW_TEXTS = [{"loss": str(1 / (step + 1)), "note": '"text"'} for step in range(400)]


@pytest.fixture
def logs(tmp_path) -> Path:
    """Two good logs of team/demo."""
    folder = tmp_path / "logs"
    for number in range(2):
        write_log(folder, f"good{number}", rows=ROW_TEXTS, entity="team", project="demo", summary={"loss": "0.5"})
    return folder


def flip(file: Path, at: int) -> None:
    log = bytearray(file.read_bytes())
    log[at] ^= 1
    file.write_bytes(log)


def test_torn_log(logs, tmp_path, run_script):
    file = write_log(logs, "torn", rows=ROW_TEXTS, entity="team", project="demo")
    whole = records_of(file.read_bytes())
    file.write_bytes(file.read_bytes()[: whole[-5].end + 3])
    done = run_script("export_runs.py", "--offline", logs, "-o", "out", "--include-history")
    project = exported(tmp_path / "out", "team_demo")
    assert done.code == 0
    assert done.out == "out/team_demo_runs.parquet\n"
    shown = str(file.relative_to(logs))
    assert f"these logs end early, as after a crash; all rows before the end were read: {shown}\n" in done.err
    assert (project.metadata["torn"], project.metadata["status"]) == ([shown], "complete")
    assert project.runs.select("id", "state", "history_rows").rows() == [
        ("good0", "finished", 400),
        ("good1", "finished", 400),
        ("torn", "crashed", 397),
    ]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_damaged_log(logs, tmp_path, call_export, quiet):
    file = write_log(logs, "damaged", rows=ROW_TEXTS, entity="team", project="demo")
    flip(file, records_of(file.read_bytes())[200].end - 1)
    done = call_export("--offline", logs, "-o", "out", "--include-history", *quiet)
    project = exported(tmp_path / "out", "team_demo")
    shown = file.relative_to(logs)
    assert done.code == 3
    assert done.out == "out/team_demo_runs.parquet\n"
    assert re.search(
        rf"^error: damaged: log {shown} is damaged at byte \d+; the rest was read$", done.err, re.MULTILINE
    )
    assert project.metadata["status"] == "partial"
    (failure,) = project.metadata["failed"]
    assert (failure["run"], failure["what"], failure["attempts"]) == ("damaged", "log", 1)
    assert project.runs["history_rows"].to_list() == [399, 400, 400]
    dry = call_export("--offline", logs, "-o", "out2", "--dry-run", *quiet)
    assert (dry.code, "error: damaged: " in dry.err, dry.out.count("\n")) == (3, True, 1)


def test_log_that_lost_its_run_record(tmp_path, export):
    """Its rows are kept; what the record told is not known, but for the id, which the file's name tells."""
    file = write_log(tmp_path / "logs", "lost", rows=ROW_TEXTS, entity="team", project="demo")
    flip(file, len(HEADER) + 9)
    done = export(
        "--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history", "-e", "team", "-p", "demo"
    )
    assert (done.code, "error: lost: log " in done.err) == (3, True)
    project = exported(tmp_path / "out", "team_demo")
    assert (project.run["id"], project.run["name"], project.run["history_rows"]) == ("lost", "lost", 400)
    assert project.rows() == [(step, {("loss",): 1 / (step + 1)}) for step in range(400)]


def test_foreign_and_unreadable_files(logs, tmp_path, export):
    (logs / "notes.wandb").write_text("not a log")
    (logs / "empty.wandb").touch()
    for kind in ("offline-run", "run", "dryrun"):
        (logs / f"{kind}-20260101_000000-nothing").mkdir()
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert done.code == 0
    passed = "1 file that is not a log, 3 folders without a log, 1 log without a record"
    assert f"skipped: {passed}\n" in done.err
    assert exported(tmp_path / "out", "team_demo").metadata["torn"] == ["empty.wandb"]
    (logs / "gone.wandb").symlink_to(tmp_path / "nowhere")
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert (done.code, "error: gone.wandb: cannot be read: No such file" in done.err) == (3, True)
    done = export("--offline", logs / "gone.wandb", "-o", tmp_path / "out2")
    assert (done.code, done.out) == (1, "")  # no file, and no folder


def test_nothing_there(tmp_path, export):
    done = export("--offline", tmp_path / "absent", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: no folder {tmp_path / 'absent'}; ")
    (tmp_path / "empty").mkdir()
    done = export("--offline", tmp_path / "empty", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: no W&B run logs (*.wandb) in")
    (tmp_path / "ignored" / "run-20260101_000000-a" / "files").mkdir(parents=True)  # as where git ignores the logs
    done = export("--offline", tmp_path / "ignored", "-o", tmp_path / "out")
    assert done.err.endswith("ignored, only 1 run folder without one; name another folder\n")
    (tmp_path / "empty" / "run-dangling.wandb").symlink_to(tmp_path / "nowhere")
    done = export("--offline", tmp_path / "empty", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "run-dangling.wandb: cannot be read: No such file or directory" in done.err
    assert len(done.err.splitlines()) == 1


# --- which runs -----------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path) -> Path:
    """Four runs in two projects, a day apart."""
    folder = tmp_path / "study"
    day = timedelta(days=1)
    write_log(folder, "a", entity="Team", project="demo-1", tags=["Red", "x"], run_group="g1", sweep_id="s1")
    write_log(
        folder, "b", entity="Team", project="demo-1", tags=["blue"], run_group="g2", started_at=START + day, exit_code=1
    )
    write_log(folder, "c", entity="Team", project="demo-2", started_at=START + 2 * day, runtime_s=864_000)
    write_log(folder, "d", tags=["red"], started_at=START + 3 * day, exit_code=None)
    return folder


ALL = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("flags", "kept", "said"),
    [
        ([], "abcd", []),
        (["-e", "team"], "abcd", ["-e kept 4 of 4 runs"]),  # also the entity of d, which has none
        (["-e", "Team", "-p", "DEMO-*"], "abc", ["-e kept 4 of 4 runs", "-p kept 3 of 4 runs"]),
        (["-p", "demo-2,demo-1"], "abc", ["-p kept 3 of 4 runs"]),
        (["-p", "demo-1", "-p", "demo-2"], "abc", ["-p kept 3 of 4 runs"]),
        (["-p", "demo-1"], "abd", ["-p kept 3 of 4 runs"]),  # a plain name is also the project of d, which has none
        (["-p", "uncat*"], "d", ["-p kept 1 of 4 runs"]),
        (["--since", "2026-01-02"], "bcd", ["--since kept 3 of 4 runs"]),
        (
            ["--since", "2026-01-02T01:00+01:00", "--until", "2026-01-03"],
            "b",
            ["--since kept 3 of 4", "--until kept 1 of 3"],
        ),
        (["--until", "2026-01-03"], "ab", ["--until kept 2 of 4 runs"]),
        (["--active-since", "2026-01-05"], "c", ["--active-since kept 1 of 4 runs"]),
        (["--state", "failed,crashed"], "bd", ["--state kept 2 of 4 runs"]),
        (["--tag", "Red"], "a", ["--tag kept 1 of 4 runs"]),
        (["--tag", "Red,red"], "ad", ["--tag kept 2 of 4 runs"]),
        (
            ["--tag", "red", "--tag", "blue", "--group", "g2"],
            "b",
            ["--tag kept 2 of 4 runs", "--group kept 1 of 2 runs"],
        ),
        (["--sweep", "s1"], "a", ["--sweep kept 1 of 4 runs"]),
        (["-p", "demo-*", "--state", "finished"], "ac", ["-p kept 3 of 4 runs", "--state kept 2 of 3 runs"]),
    ],
)
def test_selection(study, tmp_path, export, flags, kept, said):
    done = export("--offline", study, "-o", tmp_path / "out", *flags)
    assert done.code == 0, done.err
    files = [Path(name) for name in done.out.splitlines()]
    assert sorted("".join(pl.concat([pl.read_parquet(file, columns=["id"]) for file in files])["id"])) == list(kept)
    assert all(line in done.err for line in said)
    assert done.err.count(" kept ") == len(said)
    counts = [exported(file.parent, file.stem.removesuffix("_runs")).metadata["runs"] for file in files]
    assert all(count["listed"] == count["written"] + count["failed"] + count["filtered"] for count in counts)
    assert sum(count["written"] for count in counts) == len(kept)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tag", "red", "--group", "g2"], "error: no run left: --group kept none of 1 run in "),
        (["--since", "1h"], "error: no run left: --since kept none of 4 runs in "),
        (["--state", "killed"], "error: no run left: --state kept none of 4 runs in "),
        (
            ["-p", "nowhere*"],
            "error: no run left: -p kept none of 4 runs in Team/demo-1, Team/demo-2, offline/uncategorized; ",
        ),
        (["-e", "nobody", "-p", "demo*"], "error: no run left: -p kept none of 1 run in nobody/uncategorized; "),
    ],
)
def test_selection_that_leaves_nothing(study, tmp_path, export, flags, said):
    done = export("--offline", study, "-o", tmp_path / "out", *flags)
    assert (done.code, done.out) == (1, "")
    assert said in done.err.splitlines()[-1]
    assert snapshot(tmp_path / "out") == {}


def test_filters_are_in_the_metadata(study, tmp_path, export):
    flags = ["--since", "2026-01-01", "--state", "finished", "-p", "demo-1", "-e", "team"]
    export("--offline", study, "-o", tmp_path / "out", *flags)
    metadata = json.loads((tmp_path / "out" / "Team_demo-1_metadata.json").read_text())
    assert metadata["filters"] == {
        "entity": ["team"],
        "project": ["demo-1"],
        "since": "2026-01-01T00:00:00Z",
        "state": ["finished"],
    }
    assert metadata["runs"] == {"listed": 2, "written": 1, "failed": 0, "filtered": 1, "by_state": {"finished": 1}}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--offlin", "x"], "error: unknown argument --offlin; did you mean --offline?; --help lists all"),
        (["--stat", "finished"], "did you mean --state or --tag?"),
        (["--state", "finishd"], "error: --state finishd: no such state; did you mean finished?; there are running, "),
        (["--since", "yesterday"], "error: argument --since: yesterday is not a time; write 7d, 24h, 2w, 2026-01-15"),
        (["--since", "999999w"], "error: argument --since: 999999w is not a time"),
        (["--until", "0001-01-01T00:00+23:00"], "error: argument --until: 0001"),
        (["--history-keys", "a"], "error: --history-keys needs --include-history or --history-samples"),
        (["--workers", "0"], "0 is not a whole number of 1 or more"),
        (["--workers", "many"], "many is not a whole number of 1 or more"),
        (["somewhere"], "error: --offline cannot be used with PLACE, "),
        (["-o", "latin-\udce9"], "error: the path of -o is not valid UTF-8"),
    ],
)
def test_wrong_usage(tmp_path, export, flags, said):
    offline = [] if "--offlin" in flags else ["--offline", tmp_path]
    done = export(*offline, *flags) if offline else export("--offline", tmp_path, *flags)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_help_is_the_manual_at_once(clean_environment):
    command = [sys.executable, "-X", "importtime", ROOT / "wandb-tools" / "export_runs.py", "--help"]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    modules = {line.rsplit("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert modules & {"polars", "pyarrow", "wandb", "google", "numpy"} == set()
    assert all(flag in done.stdout for flag in ("--offline DIR", "Examples:", "Exit codes:", "--include-history"))


# --- what is written, and what is said ------------------------------------------------------------------------


def test_history_keys(tmp_path, export):
    row = {"val/acc": "0.5", "val/loss": "1", "Train": "2", "note": '"x"', "hist": '{"_type": "histogram"}'}
    write_log(tmp_path / "logs", "a", rows=[row, {"Train": "3"}, {}])
    arguments = ["--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history"]
    done = export(*arguments, "--history-keys", "val_l*,TRAIN", "--history-keys", "n?te,nothing*")
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert project.rows() == [(0, {("Train",): 2, ("val/loss",): 1}), (1, {("Train",): 3}), (2, {})]
    assert project.metadata["skipped_history_keys"] == ["note"]
    assert "--history-keys nothing* matches no metric of these runs" in done.err


def test_numbers_inside_of_a_media_object_are_no_metrics(tmp_path, export):
    number, media = {("m", "n"): "1", "loss": "0.5"}, {("m", "n"): "2", ("m", "_type"): '"image-file"', "loss": "0.25"}
    write_log(tmp_path / "logs", "a", rows=[number, media, number])
    export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history")
    project = exported(tmp_path / "out", "offline_uncategorized")
    both = {("m", "n"): 1, ("loss",): 0.5}
    assert project.rows() == [(0, both), (1, {("loss",): 0.25}), (2, both)]
    assert project.metadata["skipped_history_keys"] == ["m"]


def test_without_history(logs, tmp_path, export):
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert done.out == f"{tmp_path / 'out' / 'team_demo_runs.parquet'}\n"
    assert not (tmp_path / "out" / "team_demo_history.parquet").exists()
    runs = pl.read_parquet(tmp_path / "out" / "team_demo_runs.parquet")
    assert runs.select("history_rows", "last_step").rows() == [(400, 399)] * 2
    assert runs["heartbeat_at"].to_list() == [START + timedelta(seconds=399)] * 2


def test_dry_run_writes_nothing(logs, tmp_path, call_export):
    done = call_export("--offline", logs, "--dry-run", "--include-history", cwd=tmp_path)
    assert done == Done(0, "team/demo: 2 runs (2 finished), 800 history rows\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    done = call_export("--offline", logs, "--dry-run", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["exports"][0]["history_rows"] == 800


def test_json_and_quiet(logs, tmp_path, call_export):
    done = call_export("--offline", logs, "-o", "out", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)
    assert answer["version"] == 1
    assert answer["files"] == ["out/team_demo_runs.parquet", "out/team_demo_metadata.json"]
    row = {"entity": "team", "project": "demo", "status": "complete", "runs": 2, "filtered": 0, "failed": 0, "torn": 0}
    assert answer["exports"] == [row | {"history_rows": 800, "kept": 0}]


def test_names_are_data(tmp_path, export):
    write_log(tmp_path / "\x1b[31m", "a", entity="\x1b[2J", project="[red]x[/red]\nnext", display_name="=1+1")
    done = export("--offline", tmp_path / "\x1b[31m", "-o", tmp_path / "out")
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}next: 1 run" in done.err
    (file,) = (tmp_path / "out").glob("*_runs.parquet")
    assert pl.read_parquet(file)["name"].to_list() == ["=1+1"]


def test_paths_that_are_patterns_or_no_text(logs, tmp_path, export):
    (tmp_path / "no-text-\udce9").symlink_to(logs)
    arguments = ["--offline", tmp_path / "no-text-\udce9", "-o", tmp_path / "out[1]*", "--include-history"]
    for _ in range(2):
        assert export(*arguments).code == 0
    project = exported(tmp_path / "out[1]*", "team_demo")
    assert project.history.height == 800
    assert project.metadata["source"]["directory"].endswith("no-text-\N{REPLACEMENT CHARACTER}")


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


def test_output_that_cannot_be_written(logs, tmp_path, export):
    (tmp_path / "file").touch()
    done = export("--offline", logs, "-o", tmp_path / "file")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {tmp_path / 'file' / '.wandb_tools'}: Not a directory; fix this and run again\n"
    (tmp_path / "out" / "team_demo_metadata.json").mkdir(parents=True)
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert re.match(r"error: .*team_demo_metadata.json was not written: ", done.err.splitlines()[-1])
    left = {file.name for file in (tmp_path / "out").iterdir()}
    assert left == {"team_demo_metadata.json", ".wandb_tools"}  # none of the others either


def test_each_log_is_read_once(logs, tmp_path, export):
    (first, second) = sorted(logs.iterdir())
    (logs / "latest-run").symlink_to(second.name)
    (logs / "loop").symlink_to(logs)
    (logs / "debug.wandb").symlink_to(first / "run-good0.wandb")
    copy = logs / "copy" / first.name  # of the log when it was shorter
    copy.mkdir(parents=True)
    whole = (first / "run-good0.wandb").read_bytes()
    (copy / "run-good0.wandb").write_bytes(whole[: records_of(whole)[100].end])
    (second / "copy.wandb").write_bytes((second / "run-good1.wandb").read_bytes())
    done = export("--offline", logs, "-o", tmp_path / "out", "--include-history")
    assert done.code == 0
    copies = "skipped: 2 logs copied from another\n"
    assert done.err == f"{copies}team/demo: 2 runs (2 finished), 800 history rows\n"
    assert exported(tmp_path / "out", "team_demo").history.height == 800


# --- an earlier export ----------------------------------------------------------------------------------------


def without_times(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("exported_at", strict=False)


def test_again_is_the_same(recorded, tmp_path, export):
    (logs,) = {file.parent.parent for file in recorded.logs.rglob("run-many.wandb")}
    arguments = ["--offline", logs, "-p", "r*,d*,c*", "-e", "offline", "-o", tmp_path / "out", "--include-history"]
    done = export(*arguments)
    stems = [Path(name).name.removesuffix("_runs.parquet") for name in done.out.splitlines()]
    first = {stem: exported(tmp_path / "out", stem) for stem in stems}
    before = {
        s: (without_times(e.runs), e.history, facts_of(e.history_file), paths_of(e.runs_file)) for s, e in first.items()
    }
    assert export(*arguments).out == done.out
    assert len(before) >= 6
    for stem, (runs, history, facts, paths) in before.items():
        again = exported(tmp_path / "out", stem)
        assert runs.equals(without_times(again.runs))
        assert list(runs.schema.items()) == list(without_times(again.runs).schema.items())
        assert history.equals(again.history)
        assert (facts, paths) == (facts_of(again.history_file), paths_of(again.runs_file))


@pytest.fixture
def earlier(tmp_path, export) -> Path:
    """An export of the runs `a` and `b`; then `b` is gone and `c` is new, with names and types that clash."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    write_log(logs, "a", rows=[{"train/loss": "1"}], config={"lr": "1", "x/y": "1"}, summary={"train/loss": "1"})
    gone = write_log(
        logs, "b", rows=[{"train/loss": "7", "only b": "3"}] * 2, config={"lr": "2"}, summary={"only b": "3"}
    )
    assert export("--offline", logs, "-o", out, "--include-history").code == 0
    shutil.rmtree(gone.parent)
    write_log(
        logs, "c", rows=[{"train_loss": "0.5"}], config={"lr": '"1e-3"', "x": '{"y": 2}'}, summary={"train_loss": "0.5"}
    )
    return out


def test_runs_of_an_earlier_export_stay(earlier, tmp_path, export):
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
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


def test_prune(earlier, tmp_path, export):
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--include-history", "--prune")
    assert (done.code, "kept" in done.err) == (0, False)
    project = exported(earlier, "offline_uncategorized")
    assert project.metadata["missing_on_server"] == []
    assert project.runs["id"].to_list() == project.history["run_id"].to_list() == ["a", "c"]
    assert "metric_only_b" not in project.runs.columns


@pytest.mark.parametrize("content", [None, HEADER, bytes(100)])
def test_unreadable_is_not_gone(earlier, tmp_path, export, content):
    """--prune drops no run whose log is there, but cannot be read today."""
    file = tmp_path / "logs" / "run-b.wandb"
    file.symlink_to(tmp_path / "nowhere") if content is None else file.write_bytes(content)
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--include-history", "--prune")
    assert done.code == (3 if content is None else 0)
    assert exported(earlier, "offline_uncategorized").runs["id"].to_list() == ["a", "b", "c"]


def test_filtered_runs_are_not_gone(earlier, tmp_path, export):
    write_log(tmp_path / "logs", "f", exit_code=1)
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--state", "failed", "--prune")
    assert done.code == 0
    project = exported(earlier, "offline_uncategorized")
    assert project.runs["id"].to_list() == ["a", "f"]  # c was never exported, b is gone


def test_definitions_of_kept_runs(tmp_path, export):
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
        assert export("--offline", tmp_path / "logs", "-o", out, "--include-history").code == 0
        project = exported(out, "offline_uncategorized")
        columns = {name: path for path, name in paths_of(project.history_file).items()}
        return {columns[name][0]: fact["goal"] for name, fact in facts_of(project.history_file).items()}

    assert export_defined("one", ab="min", m="min") == {"a/b": "minimize", "m": "minimize"}
    assert export_defined("two", a_b="max", m="max") == {"a/b": "minimize", "a_b": "maximize"}


def test_a_definition_without_values_takes_no_metric_s_name(tmp_path, export):
    """define_metric("val_loss") beside a nested val.loss, or "val_acc" beside val/acc, does not reach it."""
    proto, out = export_runs.wandb_proto(), tmp_path / "out"
    for number, name in enumerate(("val_loss", "val_acc")):
        file = write_log(tmp_path / "logs", f"r{number}", rows=[{("val", "loss"): "1", "val/acc": "2"}])
        metric = proto.MetricRecord(name=name, summary=proto.MetricSummary(min=True))
        payloads_ = [record.payload for record in records_of(file.read_bytes())]
        file.write_bytes(log_of([*payloads_, proto.Record(metric=metric).SerializeToString()]))
    assert export("--offline", tmp_path / "logs", "-o", out, "--include-history").code == 0
    history = exported(out, "offline_uncategorized").history_file
    names = {("val", "loss"): "metric_val_loss", ("val/acc",): "metric_val_acc"}
    assert paths_of(history) == names
    assert facts_of(history).keys().isdisjoint(names.values())


@pytest.mark.parametrize("kind", ["runs", "history"])
@pytest.mark.parametrize("how", ["no parquet", "cut", "a bit flipped", "a folder"])
def test_earlier_file_that_cannot_be_read_is_not_overwritten(earlier, tmp_path, export, kind, how):
    file = earlier / f"offline_uncategorized_{kind}.parquet"
    content = file.read_bytes()
    if how == "a folder":
        file.unlink()
        file.mkdir()
    else:
        flipped = bytes([*content[:6], content[6] ^ 255, *content[7:]])
        file.write_bytes({"no parquet": b"text", "cut": content[:-20], "a bit flipped": flipped}[how])
    before = snapshot(earlier)
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert file.name in done.err
    assert snapshot(earlier) == before


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
            with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stderr.readline() == "another export is writing to out: waiting until it is done\n"
                process.send_signal(number)
                out, err = process.communicate(timeout=LIMIT_S)
            assert (process.returncode, out, err) == (130, "", "interrupted: to continue, run the same command again\n")
        assert snapshot(tmp_path / "out") == before
        with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stderr.readline()
            fcntl.flock(lock, fcntl.LOCK_UN)
            out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out, err) == (
            0,
            "out/team_demo_runs.parquet\n",
            "team/demo: 2 runs (2 finished), 800 history rows\n",
        )


def test_leftovers_of_a_killed_export_are_removed(logs, tmp_path, export):
    work = tmp_path / "out" / ".wandb_tools" / "work"
    work.mkdir(parents=True)
    (work / "left.parquet").touch()
    assert export("--offline", logs, "-o", tmp_path / "out").code == 0
    assert not work.exists()


# --- many and large logs --------------------------------------------------------------------------------------


def test_several_processes_write_the_same(logs, tmp_path, run_script):
    for number in range(2):
        write_log(logs, f"large{number}", rows=ROW_TEXTS, project="large", filler_bytes=9_000_000)
    assert sum(file.stat().st_size for file in logs.rglob("*.wandb")) > export_runs.MANY_BYTES
    damaged = write_log(logs, "damaged", rows=ROW_TEXTS, project="large")
    flip(damaged, 10_000)
    (logs / "gone.wandb").symlink_to("nowhere")
    outcomes = []
    for workers in (1, 2):
        done = run_script(
            "export_runs.py", "--offline", logs, "-o", "out", "--include-history", "--workers", workers, "--debug"
        )
        assert done.code == 3
        found = [exported(tmp_path / "out", stem) for stem in ("offline_large", "team_demo")]
        frames = [(without_times(each.runs).to_dicts(), each.history.to_dicts()) for each in found]
        outcomes.append((done, frames, [each.metadata["failed"] for each in found]))
        shutil.rmtree(tmp_path / "out")
    assert outcomes[0] == outcomes[1]


# --- names ----------------------------------------------------------------------------------------------------

KEYS = st.one_of(
    st.sampled_from(["a", "b", "A", "a_b", "a/b", "a.b", "", "_", "é", "🚀", "a b", "K"]), st.text(max_size=4)
)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


def flat(path: tuple[str, ...]) -> str:
    plain = {*"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789_"}
    return "".join(c if c in plain else "_" for c in "_".join(path))


def name_by_the_contract(path: tuple[str, ...], paths: set[tuple[str, ...]]) -> str:
    rivals = [other for other in paths if flat(other).lower() == flat(path).lower()]
    keepers = sorted(other for other in rivals if other == (flat(other),))
    keeper = rivals[0] if len(rivals) == 1 else next(iter(keepers), None)
    digest = hashlib.sha1(json.dumps(list(path), separators=(",", ":")).encode()).hexdigest()
    return flat(path) if path == keeper else f"{flat(path)}__{digest[:8]}"


@given(st.sets(PATHS, max_size=12), st.randoms())
def test_names_by_the_contract(paths, shuffler):
    shuffled = sorted(paths)
    shuffler.shuffle(shuffled)
    names = export_runs.settled_names(shuffled)
    assert names == {path: name_by_the_contract(path, paths) for path in paths}
    assert list(names.items()) == list(export_runs.settled_names(sorted(paths)).items())
    assert len({name.lower() for name in names.values()}) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_]*", name) for name in names.values())


def test_a_key_that_looks_like_a_settled_name_keeps_it():
    nested = ("a", "b")
    taken = export_runs.settled_names([nested, ("a_b",)])[nested]
    names = export_runs.settled_names([nested, ("a_b",), (taken,)])
    assert names[taken,] == taken
    assert names[nested].startswith(f"{taken}")
    assert len({*names.values()}) == 3


def test_the_text_inf_of_a_table_stays():
    texts = pl.DataFrame({export_runs.column_key(("a",), "String"): ["inf", "-inf", None]})
    assert texts.select(export_runs.cast_logged(("a",), "String", "String")).to_series().to_list() == [
        "inf",
        "-inf",
        None,
    ]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([*NON_FINITE])
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=3)),
        max_leaves=12,
    ),
    max_size=5,
)


@given(TREES)
def test_flatten_loses_no_value(tree):
    leaves = list(export_runs.flatten(tree))
    assert len(dict(leaves)) == len(leaves)
    rebuilt: dict = {}
    for path, value in leaves:
        inner = rebuilt
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    assert same(export_runs.jsonable(parsed(rebuilt, tree) if tree else rebuilt), export_runs.jsonable(tree))


def parsed(rebuilt: object, original: object) -> object:
    """Leaves that were lists or empty dicts are JSON text: as they were."""
    if isinstance(original, dict) and original:
        assert isinstance(rebuilt, dict)
        assert rebuilt.keys() == original.keys()
        return {key: parsed(rebuilt[key], original[key]) for key in original}
    return json.loads(rebuilt) if isinstance(original, list | dict) else rebuilt


@given(TREES)
def test_numeric_leaves(summary):
    expected = {}

    def walk(tree: dict, above: tuple[str, ...]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and not isinstance(value.get("_type"), str):
                walk(value, (*above, key))
            elif isinstance(value, int | float):
                expected[*above, key] = float(value) if isinstance(value, float) else int(value)
            elif isinstance(value, str) and value in NON_FINITE:
                expected[*above, key] = NON_FINITE[value]

    walk({key: value for key, value in summary.items() if not key.startswith("_")}, ())
    assert same(dict(export_runs.numeric_leaves(summary)), expected)


# --- values ---------------------------------------------------------------------------------------------------


def dtype_by_the_contract(values: list) -> pl.DataType:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return pl.Boolean()
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in present]
    if present and all(is_number) and all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present):
        return pl.Int64()
    spelt = [isinstance(value, str) and value in NON_FINITE for value in present]
    if any(is_number) and all(map(max, is_number, spelt)):
        return pl.Float64()
    return pl.String()


COLUMNS = st.one_of(
    st.lists(SCALARS),
    st.lists(st.one_of(st.none(), st.booleans())),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.one_of(st.integers(), st.floats(), st.sampled_from([*NON_FINITE]))),
    st.lists(st.one_of(st.none(), st.text(st.characters(codec=None)))),
)


@given(COLUMNS)
@example([10**400, -(10**400), 0.5])
@example([2**63])
@example([1, True])
@example(["NaN"])
@example(["\ud800", 1])
def test_columns_by_the_contract(values):
    series = export_runs.settled_series("x", values)
    assert series.dtype == dtype_by_the_contract(values)
    for value, found in zip(values, series.to_list(), strict=True):
        if value is None:
            assert found is None
        elif series.dtype == pl.Float64:
            assert same(found, number(value))
        elif series.dtype == pl.String and isinstance(value, str):
            assert found == re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)
        elif series.dtype == pl.String:
            assert same(json.loads(found), value if isinstance(value, float) else export_runs.jsonable(value))
        else:
            assert same(found, value)


def number(value: float | str) -> float:
    if isinstance(value, str):
        return NON_FINITE[value]
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


JSON_TEXTS = st.one_of(
    st.integers().map(json.dumps),
    st.integers(-(2**63) - 5, 2**63 + 5).map(json.dumps),
    st.floats().map(json.dumps),
    st.sampled_from(
        ["1E5", "1e+30", "-1.5E-7", "1e400", "-1e400", "-0", "-0.0", "1e-400", "0.1e1", "9" * 400, "5e-324"]
    ),
    st.sampled_from(["true", "false", "null", *NON_FINITE, *(f'"{name}"' for name in NON_FINITE)]),
    st.one_of(st.text(), st.floats().map(str), st.integers().map(str)).map(json.dumps),
    st.sampled_from(["[1]", "{}", '"1"', '"true"', '"nan"', '"inf"']),
)


@given(st.lists(JSON_TEXTS))
def test_numbers_in_json(texts):
    values = [json.loads(text) for text in texts]
    values = [NON_FINITE.get(value, value) if isinstance(value, str) else value for value in values]
    values = [int(v) if isinstance(v, bool) else v if isinstance(v, int | float) else None for v in values]
    item, row_class = export_runs.wandb_proto().HistoryItem, export_runs.glance_class()
    rows = export_runs.LogRows(Path(), WITH_HISTORY)
    rows.start(export_runs.Log(Path()))
    for text in texts:
        content = item(nested_key=["a"], value_json=text).SerializeToString()
        rows.add_history(row_class(history={"item": [content]}).history)
    frame = rows.columns["history"].frame((), set())
    assert frame.height == len(texts)
    if any(value is not None for value in values):
        numbers = frame[export_runs.column_key(("a",))]
        is_whole = all(value is None or (isinstance(value, int) and -(2**63) <= value < 2**63) for value in values)
        assert numbers.dtype == (pl.Int64 if is_whole else pl.Float64)
        expected = values if is_whole else [None if value is None else number(value) for value in values]
        assert same(numbers.to_list(), expected)
    else:
        assert frame.width == 3


@given(TREES)
def test_valid_json(tree):
    text = export_runs.valid_json(tree)
    text.encode()
    assert same(json.loads(text, parse_constant=pytest.fail), export_runs.jsonable(tree))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-15", datetime(2026, 1, 15, tzinfo=UTC)),
        ("2026-01-15T12:30", datetime(2026, 1, 15, 12, 30, tzinfo=UTC)),
        ("2026-01-15T12:30:00+02:00", datetime(2026, 1, 15, 10, 30, tzinfo=UTC)),
        ("2026-01-15T12:30:00Z", datetime(2026, 1, 15, 12, 30, tzinfo=UTC)),
        ("2w", timedelta(weeks=2)),
        ("7d", timedelta(days=7)),
        ("24h", timedelta(hours=24)),
    ],
)
def test_moments(monkeypatch, text, expected):
    monkeypatch.setattr(export_runs, "now", lambda: START)
    assert export_runs.moment(text) == (START - expected if isinstance(expected, timedelta) else expected)


@pytest.mark.parametrize(
    ("exit_code", "age", "state"),
    [
        (0, 0, "finished"),
        (1, 0, "failed"),
        (255, 0, "failed"),
        (254, 0, "crashed"),
        (None, 299, "running"),
        (None, 301, "crashed"),
        (None, -299, "running"),
        (None, -301, "crashed"),
    ],
)
def test_state_of_a_log(monkeypatch, exit_code, age, state):
    monkeypatch.setattr(export_runs, "now", lambda: START)
    assert export_runs.offline_state(exit_code, START - timedelta(seconds=age)) == state
    preempted = {"running": "preempting", "finished": "finished"}.get(state, "preempted")
    assert export_runs.offline_state(exit_code, START - timedelta(seconds=age), is_preempting=True) == preempted


def test_an_interruption_whose_tidying_up_fails_is_one_all_the_same(monkeypatch, tmp_path, capsys):
    def interrupted(_: object) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            os.close(999_999)  # as rmtree does, where it is interrupted between two steps

    monkeypatch.setattr(export_runs, "export", interrupted)
    assert export_runs.main(["--offline", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted: to continue, run the same command again\n"


def test_downloads_that_are_given_up_take_no_space(tmp_path, monkeypatch):
    def cut(_source: object, _run: object, _answer: object, _history: object, files: list[Path]) -> None:
        for name in ("whole", "cut"):
            files.append(tmp_path / name)
            files[-1].write_bytes(b"PAR1")
        files.append(tmp_path / "already gone")
        raise export_runs.RequestError("the download is incomplete")

    export_runs.import_libraries()
    monkeypatch.setattr(export_runs, "full_history", cut)
    source = export_runs.RowSource(None, None, export_runs.new_table("history"), tmp_path, tmp_path, {})
    with pytest.raises(export_runs.RequestError):
        export_runs.read_answer(source, export_runs.Wanted("a", 1, None, "", ()), {})
    assert [*tmp_path.iterdir()] == []


def test_doctests():
    import doctest

    outcome = doctest.testmod(export_runs)
    assert (outcome.failed, outcome.attempted > 10) == (0, True)


# --- what a reader of the pages found -------------------------------------------------------------------------


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


def test_no_file_appears_before_all_are_written(earlier, tmp_path, monkeypatch, export):
    sink = pl.LazyFrame.sink_parquet

    def full_for_runs(frame, at, **how):
        if "_runs.parquet" in Path(at).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sink(frame, at, **how)

    before = snapshot(earlier)
    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full_for_runs)
    done = export("--offline", tmp_path / "logs", "-o", earlier, "--include-history")
    assert (done.code, done.out) == (1, "")
    assert "No space left on device" in done.err
    assert snapshot(earlier) == before


def test_a_history_that_was_not_asked_for_stays_listed(earlier, tmp_path, export):
    assert export("--offline", tmp_path / "logs", "-o", earlier).code == 0
    project = exported(earlier, "offline_uncategorized")
    for listed in project.metadata["files"]:
        content = (earlier / listed["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == listed["sha256"]
    assert [listed["name"] for listed in project.metadata["files"]] == [
        "offline_uncategorized_history.parquet",
        "offline_uncategorized_runs.parquet",
    ]
    assert project.metadata["history"]["rows"] == 0  # of this export


def test_other_keys_drop_columns_and_say_so(logs, tmp_path, export):
    out = tmp_path / "out"
    assert export("--offline", logs, "-o", out, "--include-history").code == 0
    done = export("--offline", logs, "-o", out, "--include-history", "--history-keys", "no such metric")
    assert done.code == 0
    assert "removed from the history, because they were not asked for this time" in done.err


def test_damage_is_named_even_if_a_filter_leaves_nothing(logs, tmp_path, export):
    file = next(logs.rglob("*.wandb"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    done = export("--offline", logs, "-o", tmp_path / "out", "--group", "no such group")
    assert done.code == 1
    assert "is damaged at" in done.err
    assert "no run left: --group" in done.err


@pytest.mark.parametrize("states", ["all", "FINISHED,all"])
def test_all_states(logs, tmp_path, export, states):
    assert export("--offline", logs, "-o", tmp_path / "out", "--state", states).code == 0


# --- parts whose mistakes nothing else noticed ----------------------------------------------------------------


@pytest.mark.parametrize("damaged", [1, 5])  # in the first block and in the second
def test_damage_is_noted_where_it_is(damaged):
    log = log_of([bytes([number]) * 9_000 for number in range(7)])
    placed = records_of(log)
    broken = bytearray(log)
    broken[placed[damaged].start + 100] ^= 1
    _, found = read(bytes(broken))
    assert found.damage == [f"byte {placed[damaged].start}"]


@pytest.mark.parametrize(
    "text",
    [
        "wandb/demo",
        "wandb.ai/wandb/demo",
        "https://wandb.ai/wandb/demo",
        "https://forge.coreweave.com/wandb/wandb/demo",
    ],
)
def test_an_entity_may_be_called_wandb(text):
    assert export_runs.place_of(text)[:4] == ("wandb", "demo", "", "")


def test_times_have_microseconds():
    assert export_runs.time_at(1, 500_000_999) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert export_runs.time_at(0) is None
    assert export_runs.time_at(1e20) is None


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (2.0**63, True),
        (-(2.0**63), True),
        (1.5, False),
        ("[1e+20]", True),
        ("text", False),
        (2**70, False),
        (None, False),
    ],
)
def test_what_may_be_rounded(value, wanted):
    assert export_runs.may_be_rounded((("a",), value)) is wanted


def test_private_is_what_the_first_key_says():
    assert export_runs.is_private(("_x", "a"))
    assert not export_runs.is_private(("a", "_x"))


@pytest.mark.parametrize(("text", "hours"), [("1h", 1), ("24h", 24), ("7d", 7 * 24), ("2w", 14 * 24)])
def test_an_age_is_so_long_ago(text, hours):
    before = datetime.now(UTC)
    found = export_runs.moment(text)
    assert before <= found + timedelta(hours=hours) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("summary", "seconds"),
    [
        ({"_wandb": {"runtime": 7}, "_runtime": 9.5}, 7.0),
        ({"_wandb": {}, "_runtime": 9.5}, 9.5),
        ({"_wandb": [7], "_runtime": -1}, -1.0),
        ({"_wandb": {"runtime": "7"}, "_runtime": 2**63 - 1}, float(2**63 - 1)),
        ({"_wandb": {"runtime": 2**63}, "_runtime": "x"}, None),
        ({}, None),
    ],
)
def test_run_time_is_the_first_number_of_two_places(summary, seconds):
    assert export_runs.runtime_s(summary) == seconds


def test_definitions_name_their_step_metric_by_its_place():
    records = [{"1": "epoch"}, {"1": "loss", "5": 1, "7": [1], "8": 1}, {"2": "val/*", "5": 2}, {"1": "acc", "5": 9}]
    found = export_runs.definitions_in({"_wandb": {"m": records}})
    assert found == [
        ("epoch", None, None, None),
        ("loss", "minimize", "min", "epoch"),
        ("val/*", None, None, "loss"),
    ]  # what refers to nothing, and what comes after it, is left out


def test_configs_too_deep_to_be_written_cost_only_their_run(tmp_path, export):
    proto = export_runs.wandb_proto()
    deep = proto.Record()
    depth = 400 if sys.version_info < (3, 12) else 850  # from then on comprehensions take no frames of their own
    # Half a surrogate pair, which is replaced level by level.
    deep.config.update.add(nested_key=["a"] * 199, value_json='{"a":' * depth + r'"\ud800"' + "}" * depth)
    file = write_log(tmp_path / "logs", "deep")
    payloads = [record.payload for record in records_of(file.read_bytes())]
    file.write_bytes(log_of([payloads[0], deep.SerializeToString(), *payloads[1:]]))
    write_log(tmp_path / "logs", "plain")
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert done.code == 3
    assert "error: deep: its config or summary is nested too deeply" in done.err
    assert exported(tmp_path / "out", "offline_uncategorized").run["id"] == "plain"


def test_a_step_metric_is_no_metric_of_its_own_pattern(tmp_path, export):
    proto = export_runs.wandb_proto()
    file = write_log(tmp_path / "logs", "r", rows=[{"epoch": "1", "loss": "2"}])
    metric = proto.MetricRecord(glob_name="*", step_metric="epoch", summary=proto.MetricSummary(min=True))
    payloads = [record.payload for record in records_of(file.read_bytes())]
    file.write_bytes(log_of([payloads[0], proto.Record(metric=metric).SerializeToString(), *payloads[1:]]))
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history").code == 0
    facts = facts_of(exported(tmp_path / "out", "offline_uncategorized").history_file)
    assert facts == {"metric_loss": {"goal": "minimize", "summary": "min", "step_metric": "epoch"}}


def test_a_summary_that_is_ahead_of_a_cut_history(tmp_path, export):
    write_log(tmp_path / "logs", "r", rows=[{"a": "1"}, {"a": "2"}], summary={"a": "3", "_step": "2"}, exit_code=None)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert (json.loads(run["_summary_json"]), run["last_step"]) == ({"a": 3, "_step": 1}, 1)


def test_keys_of_a_row_that_are_no_numbers():
    """Those inside of a dict, but not those of a media object, nor of a private key."""
    export_runs.import_libraries()
    row = {
        "a": {"n": 1, "text": "x", "list": [1], "null": None},
        "h": {"_type": "histogram", "bins": []},
        "_p": {"x": 1},
    }
    skipped: set = set()
    assert export_runs.rows_of_json([row], (), skipped).columns[3:] == ['["a", "n"]']
    assert skipped == {("a", "text"), ("a", "list"), ("h",), ("_p",)}


def test_the_three_nearest_names_are_suggested():
    assert export_runs.did_you_mean("loss", ["loss1", "loss2", "loss3", "loss4"]).count("loss") == 3


def test_a_list_of_names_is_cut():
    assert export_runs.first_of(["a", "b"]) == "a, b"
    assert export_runs.first_of(list("abcdef")) == "a, b, c, d, e and 1 more"


def test_all_spellings_of_non_finite_numbers_beside_one_number():
    export_runs.import_libraries()
    series = export_runs.settled_series("x", [1, "NaN", "Infinity", "-Infinity", None])
    assert series.dtype == pl.Float64
    assert [*map(str, series)] == ["1.0", "nan", "inf", "-inf", "None"]


def test_windows_are_split_only_where_their_times_are_known():
    later = START + timedelta(days=1)
    for first, last, runs in ((None, later, 2_000), (START, None, 2_000), (START, START, 2_000), (START, later, 10)):
        window = export_runs.Window(START, None, last, "cursor", 7)
        assert export_runs.split(window, first, runs) == [window]
    parts = export_runs.split(export_runs.Window(START, None, later, "cursor", 7), START, 2_000)
    assert [part.start for part in parts] == [START + n * timedelta(days=0.2) for n in range(5)]
    assert [part.end for part in parts] == [*(part.start for part in parts[1:]), None]


@pytest.mark.parametrize("erase", ["\x1b[K", "\x1b[0K", "\x1b[2K"])
def test_what_a_terminal_erases_is_gone(erase):
    assert export_runs.as_shown(f"Downloading\r{erase}done") == "done"
    assert export_runs.as_shown(f"{'x' * 100_000}{erase * 50_000}\rdone\x1b[K") == "done"  # in linear time


@given(st.lists(st.floats() | st.floats(-1e-4, 1e-4) | st.sampled_from([1e-5, 1e-7, 1e16, -0.0, None])))
def test_numbers_become_text_as_in_json(values):
    """Alike beside text of the same run, of another run, and in other files."""
    export_runs.import_libraries()
    texts = [None if value is None else json.dumps(value) for value in values]
    found = pl.DataFrame({'["a"]Float64': pl.Series(values, dtype=pl.Float64)})
    assert found.select(export_runs.cast_logged(("a",), "Float64", "String")).to_series().to_list() == texts
    assert export_runs.settled_series("a", [*values, "x"]).to_list() == [*texts, "x"]


@pytest.mark.parametrize("glob", ["a.b/c", "a_b_c", "METRIC_a_*", "A.B/*"])
def test_a_metric_matches_by_each_of_its_names(glob):
    assert export_runs.names_match(("a", "b/c"), ["x", glob])
    assert not export_runs.names_match(("b", "c"), ["x", glob])


@pytest.mark.parametrize(
    ("exit_code", "age_s", "is_preempting", "state"),
    [
        (0, 0, True, "finished"),
        (1, 0, False, "failed"),
        (1, 0, True, "preempted"),
        (254, 0, False, "crashed"),
        (None, 0, False, "running"),
        (None, 0, True, "preempting"),
        (None, 3_600, False, "crashed"),
        (None, 3_600, True, "preempted"),
    ],
)
def test_the_state_of_a_log(exit_code, age_s, is_preempting, state):
    newest = export_runs.now() - timedelta(seconds=age_s)
    assert export_runs.offline_state(exit_code, newest, is_preempting=is_preempting) == state
