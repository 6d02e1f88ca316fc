"""export_runs.py as its users run it, on what the real SDK recorded and on the example runs; the command line.

`UPDATE_GOLDENS=1 pytest tests/test_export_runs.py` writes the files in `goldens/` anew; review them as a diff.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import export_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
import recordings
from conftest import LIMIT_S, ROOT, Done
from exports import (  # noqa: F401 - fixtures
    EXAMPLE_LOGS,
    EXAMPLES,
    Exported,
    add_log,
    exported,
    facts_of,
    paths_of,
    read_alone,
    rows_alone,
    same,
    two_logs,
    without_times,
)
from log_files import HEADER, START, records_of, write_log

if TYPE_CHECKING:
    from collections.abc import Mapping

# --- what the real SDK logged is what the files hold ----------------------------------------------------------


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


def numbers(rows: list[tuple[int, dict]]) -> list[object]:
    """Steps and values of a run that logged nothing but `a`."""
    return [(step, row[("a",)]) for step, row in rows]


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


CLOCKS = ["_step", "_runtime", "_timestamp"]


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
    assert rows_alone(whole) == rows_alone(in_parts) == rows_alone(in_cells)


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


# --- killed, resumed, rewound and forked runs -----------------------------------------------------------------


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
    rest = log[whole[-1].end :]  # hardly ever none, or zeros that fill the block
    assert len(torn) == any(rest)
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


# --- the files ------------------------------------------------------------------------------------------------


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


def test_again_is_the_same(recorded, tmp_path, export):
    (logs,) = {file.parent.parent for file in recorded.logs.rglob("run-many.wandb")}
    arguments = ["--offline", logs, "-p", "r*,d*,c*", "-e", "offline", "-o", tmp_path / "out", "--include-history"]
    done = export(*arguments)
    assert done.code == 0, done.err
    stems = [Path(name).name.removesuffix("_runs.parquet") for name in done.out.splitlines()]
    first = {stem: exported(tmp_path / "out", stem) for stem in stems}
    before = {
        s: (without_times(e.runs), e.history, facts_of(e.history_file), paths_of(e.runs_file)) for s, e in first.items()
    }
    again = export(*arguments)
    assert (again.code, again.out) == (0, done.out)
    assert len(before) >= 6
    for stem, (runs, history, facts, paths) in before.items():
        again = exported(tmp_path / "out", stem)
        assert runs.equals(without_times(again.runs))
        assert list(runs.schema.items()) == list(without_times(again.runs).schema.items())
        assert history.equals(again.history)
        assert (facts, paths) == (facts_of(again.history_file), paths_of(again.runs_file))


# --- the example runs -----------------------------------------------------------------------------------------

GOLDENS = Path(__file__).parent / "goldens"
EXAMPLE_STEMS = ["graph-lab_graph-denoising", "offline_graph-denoising-ablations"]


@pytest.fixture(scope="session")
def examples(tmp_path_factory) -> tuple[Path, str]:
    """The example runs' export, and what was said."""
    folder = tmp_path_factory.mktemp("examples")
    command = [sys.executable, ROOT / "wandb-tools" / "export_runs.py", "--offline", EXAMPLES, "-o", folder]
    done = subprocess.run([*command, "--include-history"], capture_output=True, text=True, check=True)
    return folder, done.stderr


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


# --- command line ---------------------------------------------------------------------------------------------


def test_help_is_the_manual_at_once(clean_environment):
    command = [sys.executable, "-X", "importtime", ROOT / "wandb-tools" / "export_runs.py", "--help"]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    modules = {line.rsplit("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert modules & {"polars", "pyarrow", "wandb", "google", "numpy"} == set()
    assert all(flag in done.stdout for flag in ("--offline DIR", "Examples:", "Exit codes:", "--include-history"))


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


def test_the_three_nearest_names_are_suggested():
    assert export_runs.did_you_mean("loss", ["loss1", "loss2", "loss3", "loss4"]).count("loss") == 3


def test_a_list_of_names_is_cut():
    assert export_runs.first_of(["a", "b"]) == "a, b"
    assert export_runs.first_of(list("abcdef")) == "a, b, c, d, e and 1 more"


def test_the_home_folder(tmp_path, call_export):
    add_log(tmp_path, "abc")
    arguments = ("--offline", tmp_path / "logs", "--output=~/out")
    done = call_export(*arguments, env={"HOME": str(tmp_path / "home")}, cwd=tmp_path)
    assert (done.code, done.out) == (0, f"{tmp_path}/home/out/team_demo_runs.parquet\n")
    assert not (tmp_path / "~").exists()


# --- what is written, and what is said ------------------------------------------------------------------------


def test_without_history(logs, tmp_path, export):
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert done.code == 0, done.err
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


@pytest.mark.parametrize("erase", ["\x1b[K", "\x1b[0K", "\x1b[2K"])
def test_what_a_terminal_erases_is_gone(erase):
    assert export_runs.as_shown(f"Downloading\r{erase}done") == "done"
    assert export_runs.as_shown(f"{'x' * 100_000}{erase * 50_000}\rdone\x1b[K") == "done"  # in linear time


# --- doctests -------------------------------------------------------------------------------------------------


def test_doctests():
    import doctest

    outcome = doctest.testmod(export_runs)
    assert (outcome.failed, outcome.attempted > 10) == (0, True)
