"""What is exported: filters over logs and on the server, places, times, and which metrics."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import export_runs
import polars as pl
import pytest
from exports import (  # noqa: F401 - fixtures
    QUICK,
    add_logged_runs,
    add_runs,
    asked_for,
    demo_project,
    error_line,
    export_from_server,
    export_of_logs,
    exported,
    facts_of,
    history_of,
    ids_of,
    metadata_of,
    out_folder,
    own_server,
    project_of_team,
    rows_at,
    runs_of,
    snapshot,
    two_logs,
)
from log_files import START, write_log

# --- logs -----------------------------------------------------------------------------------------------------


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
def test_selection(study, tmp_path, call_export, flags, kept, said):
    done = call_export("--offline", study, "-o", tmp_path / "out", *flags)
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
def test_selection_that_leaves_nothing(study, tmp_path, call_export, flags, said):
    done = call_export("--offline", study, "-o", tmp_path / "out", *flags)
    assert (done.code, done.out) == (1, "")
    assert said in done.err.splitlines()[-1]
    assert snapshot(tmp_path / "out") == {}


def test_filters_are_in_the_metadata(study, tmp_path, call_export):
    flags = ["--since", "2026-01-01", "--state", "finished", "-p", "demo-1", "-e", "team"]
    assert call_export("--offline", study, "-o", tmp_path / "out", *flags).code == 0
    metadata = json.loads((tmp_path / "out" / "Team_demo-1_metadata.json").read_text())
    assert metadata["filters"] == {
        "entity": ["team"],
        "project": ["demo-1"],
        "since": "2026-01-01T00:00:00Z",
        "state": ["finished"],
    }
    assert metadata["runs"] == {"listed": 2, "written": 1, "failed": 0, "filtered": 1, "by_state": {"finished": 1}}


@pytest.mark.parametrize("states", ["all", "FINISHED,all"])
def test_all_states(logs, tmp_path, call_export, states):
    assert call_export("--offline", logs, "-o", tmp_path / "out", "--state", states).code == 0


# --- tags, groups, sweeps, states -----------------------------------------------------------------------------

LABELLED = {
    "small": {"tags": ["base"], "group": "seeds", "sweep": "s1", "state": "finished"},
    "large": {"tags": ["Base"], "group": "Seeds", "sweep": "S1", "state": "failed"},
    "none": {"tags": [], "group": None, "sweep": None, "state": "crashed"},
}
LABEL_FLAGS_OFFLINE = [
    (("--tag", "Base"), {"large"}),
    (("--tag", "base,BASE"), {"small"}),
    (("--group", "seeds"), {"small"}),
    (("--group", "SEEDS,Seeds"), {"large"}),
    (("--sweep", "S1"), {"large"}),
    (("--state", "Finished,CRASHED"), {"small", "none"}),
]


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--tag", "base,BASE", "--state", "Finished,CRASHED"), "small"),
        (("--group", "SEEDS,Seeds", "--sweep", "S1", "--state", "FAILED"), "large"),
    ],
)
def test_labels_are_exact_and_states_are_not(server, export, out, flags, kept):
    for run_id, values in LABELLED.items():
        server.add_run("team", "demo", run_id, **values)
    done = export("team/demo", *flags, *QUICK)
    assert done.code == 0, done.err
    assert runs_of(out)["id"].to_list() == [kept]


@pytest.mark.parametrize(("flags", "kept"), LABEL_FLAGS_OFFLINE)
def test_labels_are_exact_and_states_are_not_offline(tmp_path, export_logs, out, flags, kept):
    exit_codes = {"finished": 0, "failed": 1, "crashed": 254}
    for run_id, values in LABELLED.items():
        write_log(
            tmp_path / "logs", run_id, entity="team", project="demo", exit_code=exit_codes[values["state"]],
            tags=values["tags"], run_group=values["group"] or "", sweep_id=values["sweep"] or "",
        )  # fmt: skip
    done = export_logs(*flags)
    assert done.code == 0, done.err
    assert set(runs_of(out)["id"]) == kept


# --- on the server --------------------------------------------------------------------------------------------


def test_filters_are_the_servers(server, export, project):
    """Each run but one misses by one filter."""
    wanted = {
        "created_at": "2026-01-10T12:00:00Z", "state": "crashed", "tags": ["a", "b,c"], "group": "g", "sweep": "s1",
        "config": {"lr": 0.5, "model": {"k": 16}}, "summary": {"loss": 1},
    }  # fmt: skip
    misses = {
        "too-old": {"created_at": "2026-01-10T11:59:59Z"},
        "too-new": {"created_at": "2026-01-11T00:00:00Z"},
        "state": {"state": "finished"},
        "tag": {"tags": ["c"]},
        "group": {"group": None},
        "sweep": {"sweep": "s2"},
        "where": {"config": {"lr": 0.5, "model": {"k": 8}}},
    }
    server.add_sweep("team", "demo", "s1", config="metric: {name: loss, goal: maximize}\n")
    for run_id, values in {"wanted": {}, **misses}.items():
        server.add_run("team", "demo", run_id, **(wanted | values))
    done = export(
        *("-e", "team", "--since", "2026-01-10T13:00:00+01:00", "--until", "2026-01-11", "--state", "crashed,failed"),
        *("--tag", "x,a", "--group", "g", "--group", "h", "--sweep", "s1", "--where", '{"config.model.k": {"$gt": 8}}'),
        *QUICK,
    )
    assert done.code == 0, done.err
    assert ids_of(project("demo")) == ["wanted"]
    assert "--since, --until, --state, --tag, --group, --sweep, --where kept 1 of 8 runs" in done.err
    counts = project("demo").metadata["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (8, 1, 0, 7)
    told = project("demo").metadata["filters"]
    assert told["where"] == {"config.model.k": {"$gt": 8}}
    assert told["since"] == "2026-01-10T12:00:00Z"
    assert facts_of(project("demo").runs_file)["metric_loss"]["goal"] == "maximize"  # the sweep's


@pytest.mark.parametrize(
    "where", ['{"config.seed": 0}', '{"config.amp": false}', '{"config.note": ""}', '{"group": null}']
)
def test_a_value_that_python_takes_for_false_filters_too(server, export, where):
    server.add_run("team", "demo", "zero", config={"seed": 0, "amp": False, "note": ""}, group="g")
    server.add_run("team", "demo", "one", config={"seed": 1, "amp": True, "note": "x"})
    done = export("team/demo", "--where", where, "--dry-run", "--json", *QUICK)
    assert "kept 1 of 2 runs" in done.err
    assert done.code == 0
    assert [row["runs"] for row in json.loads(done.out)["exports"]] == [1]


def test_such_a_value_beside_a_place_and_a_flag(server, export, out):
    for seed in (0, 1):
        for tag in ("a", "b"):
            server.add_run("team", "demo", f"{seed}{tag}", config={"seed": seed}, tags=[tag], sweep="s1")
    server.add_run("team", "demo", "elsewhere", config={"seed": 0}, tags=["a"])
    done = export("team/demo/sweeps/s1", "--where", '{"config.seed": 0}', "--tag", "a", *QUICK)
    assert done.code == 0, done.err
    assert runs_of(out)["id"].to_list() == ["0a"]
    assert metadata_of(out)["filters"]["where"] == {"config.seed": 0}


@pytest.mark.parametrize("flags", [("--state", "killed"), ("--active-since", "2100-01-01")])
def test_a_filter_that_leaves_nothing(server, export, tmp_path, flags):
    add_logged_runs(server, "demo", "ab")
    done = export("-e", "team", "--include-history", *flags, *QUICK)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: no run left: {flags[0]} kept none of 2 runs; leave a filter out or loosen it\n"
    assert not snapshot(tmp_path / "out")
    assert asked_for(server) == set()


def test_a_place_among_the_filters_that_leave_nothing(server, export):
    add_runs(server, one="g", two="h")
    done = export("team/demo/nope", "--state", "finished")
    assert (done.code, done.out) == (1, "")
    assert "error: no run left: PLACE, --state kept none of 2 runs; " in done.err


@pytest.mark.parametrize("flag", ["--entity", "--project", "--tag", "--group", "--sweep", "--state", "--where"])
def test_a_filter_without_a_value_is_no_filter(tmp_path, call_export, flag):
    """As of `--tag "$TAG"` where the variable is not set: everything would be exported."""
    done = call_export(flag, "", "-o", tmp_path / "out", env={"WANDB_BASE_URL": "http://127.0.0.1:1"})
    assert (done.code, done.out) == (2, "")
    assert flag in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("where", ["{", "[1]", "lr > 1"])
def test_a_filter_that_is_none(export, where):
    done = export("-e", "team", "--where", where)
    assert done.code == 2
    assert error_line(done).startswith("argument --where: ")


def test_a_filter_that_the_server_does_not_know_fails_soon(server, export):
    server.add_runs("team", "demo", 3, keys=8)
    done = export("team/demo", "--where", '{"$foo": 1}', "--retries", 4)
    assert done.code == 1
    assert server.counts()["operation:Plan"] <= 4


# --- times ----------------------------------------------------------------------------------------------------


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
        ("1h", timedelta(hours=1)),
    ],
)
def test_moments(monkeypatch, text, expected):
    monkeypatch.setattr(export_runs, "now", lambda: START)
    assert export_runs.moment(text) == (START - expected if isinstance(expected, timedelta) else expected)


def test_an_age_counts_from_now():
    before = datetime.now(UTC)
    assert before <= export_runs.moment("7d") + timedelta(days=7) <= datetime.now(UTC)


# --- entities, projects and places ----------------------------------------------------------------------------


def test_entities_and_projects_by_name_and_glob(server, export, tmp_path):
    server.add_runs("a_b", "c", 2, keys=8)
    server.add_runs("a", "b_c", 3, keys=8)  # whose files would have the same names
    server.add_runs("a", "B_D", 1, keys=8)
    server.add_runs("a", "[odd]*", 1, keys=8)
    server.add_runs("a", "other", 1, keys=8)
    server.add_project("a_b", "b_empty")
    done = export("-e", "a_b,a", "-p", "b_*,C", "-p", "[odd]*", "--json", *QUICK)
    assert done.code == 0, done.err
    rows = {(row["entity"], row["project"]): row["runs"] for row in json.loads(done.out)["exports"]}
    assert rows == {("a_b", "c"): 2, ("a", "b_c"): 3, ("a", "B_D"): 1, ("a", "[odd]*"): 1}
    found = {}
    for file in (tmp_path / "out").glob("*_metadata.json"):
        document = json.loads(file.read_text())
        runs = pl.read_parquet(tmp_path / "out" / document["files"][-1]["name"], glob=False)
        found |= dict.fromkeys(runs.select("entity", "project").rows(), runs.height)
        assert runs["entity"].n_unique() == runs["project"].n_unique() == 1
    assert found == rows


def test_places(server, export, tmp_path):
    server.add_runs("tester", "mine", 2, keys=8)
    for run_id in ("one", "two", "three"):
        server.add_run("team", "a b", run_id, sweep="s1" if run_id != "three" else None)
        server.add_run("team", "swept", run_id, sweep="s1" if run_id == "two" else None)
        server.add_run("team", "whole", run_id)
    places = [
        f"{server.url}/team/a%20b/runs/one/overview?nw=nwuser",
        "team/a b/three",
        "https://wandb.ai/team/swept/sweeps/s1?workspace=user-x",
        "https://wandb.ai/team/whole/table",
        "team/whole/one",
    ]
    done = export(*places, "--json", *QUICK)
    assert done.code == 0, done.err
    found = {}
    for file in (tmp_path / "out").glob("*_runs.parquet"):
        runs = pl.read_parquet(file, glob=False)
        found[runs["project"][0]] = set(runs["id"])
    assert found == {"a b": {"one", "three"}, "swept": {"two"}, "whole": {"one", "two", "three"}}


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


def test_a_place_and_a_flag_are_both_meant(server, export, project):
    for sweep in ("s1", "s2", "s3"):
        server.add_run("team", "swept", f"of-{sweep}", sweep=sweep)
    done = export("https://wandb.ai/team/swept/sweeps/s1", "--sweep", "s1,s2", *QUICK)
    assert done.code == 0, done.err
    assert ids_of(project("swept")) == ["of-s1"]
    done = export("https://wandb.ai/team/swept/sweeps/s1", "--sweep", "s2,s3", *QUICK)
    assert done.code == 1
    assert "--sweep kept none of 3 runs" in done.err


def test_without_a_place_the_keys_own_entity(server, export, tmp_path):
    server.add_runs("tester", "mine", 2, keys=8)
    server.add_runs("team", "theirs", 2, keys=8)
    (tmp_path / "temporary").mkdir()
    done = export("--json", *QUICK, env={"TMPDIR": str(tmp_path / "temporary")})
    assert (done.code, [row["project"] for row in json.loads(done.out)["exports"]]) == (0, ["mine"])
    assert not list((tmp_path / "temporary").iterdir())  # nor does the SDK leave anything


def test_runs_and_globs_of_one_project(server, export, demo):
    add_runs(server, one="g", two="h", three="i")
    assert export("team/d*/one", "team/demo/groups/h").code == 0
    assert sorted(demo().runs["id"]) == ["one", "two"]
    assert demo().metadata["filters"] == {"run": ["one"], "group": ["h"]}
    assert export("team/demo/one", "team/d*", "team/de*").code == 0
    assert sorted(demo().runs["id"]) == ["one", "three", "two"]
    assert demo().metadata["filters"] == {}


def test_a_thousand_runs_of_a_project_may_be_named(server, export, demo):
    add_runs(server, **{f"r{number}": "g" for number in range(9)})
    done = export(*(f"team/demo/r{number}" for number in range(1_000)), "team/demo/r1")
    assert done.code == 3
    assert demo().runs.height == 9
    assert len(demo().metadata["failed"]) == 991  # there are no such runs
    assert len([request for request in server.requests(kind="graphql") if "runCount" in request["fields"]]) < 9


def test_the_metadata_name_the_runs_and_sweeps_that_were_asked_for(server, export, tmp_path):
    for run_id, sweep in (("one", "s1"), ("two", "s2"), ("three", "")):
        server.add_run("team", "demo", run_id, sweep=sweep)
    done = export("team/demo/one", "https://wandb.ai/team/demo/sweeps/s2", *QUICK)
    assert done.code == 0, done.err
    about = json.loads((tmp_path / "out" / "team_demo_metadata.json").read_text())
    assert about["filters"] == {"run": ["one"], "sweep": ["s2"]}
    assert about["runs"]["filtered"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-e", "team", "-p", "dmeo"), "team has no project dmeo; did you mean demo?"),
        (("teem/demo",), "teem has no projects that your API key can see; did you mean team"),
        (("team/demo/nosuchrun",), "error: nosuchrun: there is no such run; nothing could be exported"),
        (("team/empty",), "error: no runs in team/empty; check the name on W&B's page"),
    ],
)
def test_unknown_places_are_one_line(server, export, tmp_path, arguments, said):
    server.add_runs("team", "demo", 2, keys=8)
    server.add_project("team", "empty")
    done = export(*arguments, *QUICK)
    assert done.code == 1
    assert said in done.err.splitlines()[-1]
    assert len(done.err.splitlines()) == 1
    assert not snapshot(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-e", "team,teem"), "error: teem/*: teem has no projects that your API key can see; did you mean team"),
        (("-e", "team", "-p", "de*", "-p", "zzz*"), "error: team/zzz*: team has no project zzz*"),
        (("team/demo", "team/dmeo"), "error: team/dmeo: team has no project dmeo; did you mean demo?"),
        (("team/demo/one", "team/demo/zzz"), "error: zzz: there is no such run"),
        (("team/demo/one", "https://wandb.ai/team/demo/sweeps/s9"), "error: s9: there is no run of this sweep"),
        (("team/demo/one", "https://wandb.ai/team/demo/groups/g9"), "error: g9: there is no run of this group"),
    ],
)
def test_unknown_places_beside_known_ones_are_named_and_cost_nothing_else(server, export, project, arguments, said):
    server.add_run("team", "demo", "one")
    done = export(*arguments, *QUICK)
    assert done.code == 3
    assert said in done.err
    assert ids_of(project("demo")) == ["one"]


def test_a_project_without_runs_beside_others_is_named(server, export):
    server.add_run("team", "demo", "one")
    server.add_project("team", "empty")
    done = export("team/demo", "team/empty", *QUICK)
    assert (done.code, done.err) == (0, "nothing to export in team/empty\nteam/demo: 1 run (1 finished)\n")


# --- which metrics --------------------------------------------------------------------------------------------


def test_history_keys(tmp_path, call_export):
    row = {"val/acc": "0.5", "val/loss": "1", "Train": "2", "note": '"x"', "hist": '{"_type": "histogram"}'}
    write_log(tmp_path / "logs", "a", rows=[row, {"Train": "3"}, {}])
    arguments = ["--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history"]
    done = call_export(*arguments, "--history-keys", "val_l*,TRAIN", "--history-keys", "n?te,nothing*")
    assert done.code == 0, done.err
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert project.rows() == [(0, {("Train",): 2, ("val/loss",): 1}), (1, {("Train",): 3}), (2, {})]
    assert project.metadata["skipped_history_keys"] == ["note"]
    assert "--history-keys nothing* matches no metric of these runs" in done.err


@pytest.mark.parametrize("glob", ["a.b/c", "a_b_c", "METRIC_a_*", "A.B/*"])
def test_a_metric_matches_by_each_of_its_names(glob):
    assert export_runs.names_match(("a", "b/c"), ["x", glob])
    assert not export_runs.names_match(("b", "c"), ["x", glob])


@pytest.mark.parametrize("key", ["metric_a_x", "METRIC_A_*", "a/x", "a_x", "A*"])
def test_a_metric_is_named_by_its_column_too(server, export, demo, key):
    add_runs(server, one="g")
    done = export("team/demo", "--include-history", "--history-keys", key)
    assert (done.code, "matches no metric" in done.err) == (0, False)
    assert [column for column in demo().history.columns if column.startswith("metric_")] == ["metric_a_x"]


def test_history_keys_leave_system_metrics_alone(server, export, out):
    server.add_run("team", "demo", "a", summary={"val/acc": 1, "loss": 1})
    server.add_history("team", "demo", "a", rows=[row | {"val/acc": 0.5} for row in rows_at(range(4))])
    events = [{"_runtime": t, "_timestamp": 1e9 + t, "system.cpu": t, "system.gpu.0.gpu": 50} for t in range(3)]
    server.add_events("team", "demo", "a", events)
    done = export("team/demo", "--include-history", "--history-keys", "val/*", "--system-metrics", *QUICK)
    assert done.code == 0, done.err
    system = history_of(out, kind="system")
    assert {"system_cpu", "system_gpu_0_gpu"} <= set(system.columns)
    assert (system["system_cpu"].to_list(), system["system_gpu_0_gpu"].to_list()) == ([0, 1, 2], [50, 50, 50])
    assert [name for name in history_of(out).columns if name.startswith("metric_")] == ["metric_val_acc"]
    assert "matches no metric" not in done.err


def test_texts_among_system_metrics_are_no_keys_of_a_history(server, export, demo):
    add_runs(server, one="g")
    server.add_events("team", "demo", "one", [{"_timestamp": 1, "system.cpu": 2.5, "system.name": "text"}])
    assert export("team/demo", "--system-metrics").code == 0
    assert demo().metadata["skipped_history_keys"] == []
