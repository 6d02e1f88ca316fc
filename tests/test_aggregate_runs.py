"""aggregate_runs.py as its users run it: command line, one row per run and their order, filters, output, partitions."""

from __future__ import annotations

import doctest
import math
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import aggregate_runs
import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from aggregate import (  # noqa: F401 - fixtures
    DERIVED,
    SCRIPT,
    aggregated,
    export,
    history,
    in_a_folder_of_its_own,
    metadata,
    report,
    rewritten,
    run,
)
from contract_files import START, Run, write_runs

# --- as a process ---------------------------------------------------------------------------------------------


def test_default_input_and_output():
    write_runs(Path("wandb_export"), [Run("b"), Run("a", "gnn_all_k16")])
    out, err = run(start=True)
    assert out == "analysis/unified.parquet\n"
    frame = pl.read_parquet("analysis/unified.parquet")
    assert frame["id"].to_list() == ["a", "b"]
    assert frame["source_file"].to_list() == ["wandb_export/team_demo_runs.parquet"] * 2
    assert "2 rows in 1 file" in err
    assert "written: 2 runs, 37 columns" in err
    assert list(Path("analysis").iterdir()) == [Path("analysis/unified.parquet")]


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["x", "--quiet"], 0, "analysis/unified.parquet\n", ""),
        (["x", "--quiet", "-s", "failed"], 1, "", "error: no run left: --state failed kept none of 1 run"),
        (["--such"], 2, "", "error: unknown argument --such"),
        (["x", "nowhere", "--quiet"], 3, "analysis/unified.parquet\n", "error: nowhere was left out: "),
    ],
)
def test_streams_and_exit_codes_of_the_process(arguments, code, out, err):
    write_runs(Path("x"), [Run("a")])
    written, said = run(*arguments, code=code, start=True)
    assert written == out
    assert said.startswith(err)
    assert len(said.splitlines()) == bool(err)


def test_help_is_the_manual_and_needs_no_polars():
    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.count("stage2c") == 1
    assert done.stderr == ""


def test_help_has_the_manuals_every_flag():
    out, _ = run("--help", start=True)
    for flag in re.findall(r"--[a-z-]+", aggregate_runs.__doc__):
        assert f"  {flag}" in out


def test_json_tells_what_was_written():
    write_runs(Path("x"), [Run("a"), Run("b", state="failed")])
    document = report("x", "-o", "y.parquet", "-s", "failed")
    keys = ["version", "files", "summary", "filters", "derived", "histories", "notes", "conflicts", "skipped"]
    assert list(document) == keys
    assert document["version"] == 1
    assert document["files"] == ["y.parquet"]
    assert document["summary"] == [
        {"file": "y.parquet", "inputs": 1, "rows_read": 2, "runs_found": 2, "runs": 1, "columns": 37}
    ]
    assert document["filters"] == [{"filter": "--state failed", "before": 2, "kept": 1}]


def test_debug_shows_where_an_error_comes_from():
    _, err = run("nowhere", "--debug", code=1)
    assert "Traceback" in err


def test_a_closed_pipe_ends_quietly():
    write_runs(Path("x"), [Run(str(n), config={f"c{n}": 1}) for n in range(9)])
    command = [sys.executable, SCRIPT, "x", "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_names_are_never_interpreted():
    name = "[red]\x1b[31m\u202eboom\n\N{PARTY POPPER}"
    folder = Path("a=b/[x]*%20")
    write_runs(folder, [Run("a", name), Run("b", "b_k1")])
    out, err = run(folder, "-o", folder / "[y]?.parquet")
    frame = pl.read_parquet(out.strip(), glob=False, hive_partitioning=False)
    assert frame["name"].to_list() == [name, "b_k1"]
    assert set(frame["source_file"]) == {str(folder / "team_demo_runs.parquet")}
    assert "[red]\ufffd[31m\ufffdboom\ufffd\N{PARTY POPPER}" in err
    assert "\x1b" not in err


# --- wrong usage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stats", "x"], "did you mean --state or --at?"),
        (["--state", "finishd"], "did you mean finished?"),
        (["--filter", "("], "--filter ( cannot be evaluated: unclosed group"),
        (["--filter", "ok", "--filter", "a(?=b)"], "look-ahead"),
        (["--output", "x.csv"], "a file's name must end in .parquet"),
        (["--output"], "expected one argument"),
        (
            ["--project", ""],
            "argument --project/-p: needs a value; see --help",
        ),  # of a variable that is not set: no filter
        (["--output", ""], "a file's name must end in .parquet"),
        (["--rules", ""], "--rules  cannot be read"),
        (["--at", ""], "--at and --history-metrics need --history"),
        (["--output", "https://host/x.parquet"], "URLs must begin with s3://, gs://, az://; or name a local file"),
    ],
)
def test_wrong_usage(arguments, message):
    write_runs(Path("wandb_export"), [Run("a")])
    out, err = run(*arguments, code=2)
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("analysis").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "config_l > 1"], "there is no column config_l; did you mean config_lr or _config_json?"),
        (
            ["--where", "config_lr"],
            "is not an SQL condition: filter predicate must be of type `Boolean`, got `Float64`",
        ),
        (["--where", "name = = 1"], "is not an SQL condition"),
        (["--where", ""], "is not an SQL condition"),
        (["--where", "lrr > 1"], "there is no column lrr; did you mean lr?"),
        (["--where", "CAST(name AS INT) > 1"], "cannot be evaluated: conversion from `str` to `i32` failed"),
        (["--where", "tags = 'a'"], "cannot be evaluated: "),
        (["--where", "name > 0.005"], "cannot compare string with numeric type"),  # '1e-3' was more than 0.005
        (["--where", "created_at > '2026'"], "a time as '2026-01-31'"),
        (["--partition-by", "tags"], "no such column"),
        (["--no-enrich", "--explain", "x"], "--rules and --explain need derived columns"),
        (["--at", "loss"], "--at and --history-metrics need --history"),
        (["--rules", "none.toml"], "--rules none.toml cannot be read"),
    ],
)
def test_wrong_predicates_and_rules(arguments, message):
    write_runs(Path("x"), [Run("a", config={"lr": 0.1})])
    out, err = run("x", *arguments, code=2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--api-key=SECRET"], "--api-key"),
        (["--api-key", "SECRET"], "--api-key"),
        (["x", "--stat=SECRET"], "--stat; did you mean --state"),
    ],
)
def test_an_unknown_argument_is_named_without_its_value(arguments, named):
    out, err = run(*arguments, code=2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert "SECRET" not in err
    assert err.startswith(f"error: unknown argument {named}")


def test_far_names_are_no_suggestion():
    assert aggregate_runs.did_you_mean("zzzz", ["abc"]) == ""


# --- one row per run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exports", "winner"),
    [
        ([("server", 1, 5), ("server", 2, 3)], 1),  # kind, day of the export, rows of history
        ([("server", 2, 5), ("server", 1, 9)], 0),
        ([("offline", 1, 9), ("server", 2, 5)], 0),
        ([("offline", 2, 5), ("server", 1, 9)], 1),
        ([("offline", 1, 5), ("server", 2, 5)], 1),
        ([("offline", 2, 5), ("server", 1, 5)], 0),
        ([("offline", 1, 9), ("offline", 3, 6), ("server", 2, 7)], 2),  # the newest of each kind meet
        ([("offline", 1, 9), ("server", 3, 8), ("server", 2, 99)], 0),
    ],
)
def test_one_row_per_run(exports, winner):
    for number, (kind, days, rows) in enumerate(exports):
        export(f"x/{number}", [Run("a", history_rows=rows)], kind=kind, days=days)
    frame = aggregated("x", "-o", "one.parquet")
    assert frame["source_file"].to_list() == [f"x/{winner}/team_demo_runs.parquet"]
    summary = report("x", "-o", "one.parquet")["summary"]
    assert (summary[0]["rows_read"], summary[0]["runs_found"]) == (len(exports), 1)


def test_the_same_id_in_another_project_or_entity_is_another_run():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("x"), [Run("a")], project="other")
    write_runs(Path("x"), [Run("a")], entity="them")
    assert len(aggregated("x")) == 3


def test_a_row_of_an_unknown_time_is_older_than_any_other():
    known = export("x/2", [Run("a", summary={"loss": 2})])
    unknown = export("x/1", [Run("a", summary={"loss": 1})])
    rewritten(unknown, pl.read_parquet(unknown).with_columns(exported_at=pl.lit(None, pl.Datetime("us", "UTC"))))
    assert aggregated("x").select("source_file", "metric_loss").rows() == [(str(known), 2)]


def test_where_a_row_comes_from_is_told_by_its_own_file(monkeypatch):
    """Results of two machines name their exports alike."""
    for machine, kind, rows, days in (("a", "offline", 9, 1), ("b", "server", 5, 2)):
        Path(machine).mkdir()
        monkeypatch.chdir(machine)
        export("wandb_export", [Run("r", history_rows=rows)], kind=kind, days=days)
        run()
        monkeypatch.chdir("..")
    assert aggregated("a/analysis", "b/analysis")["history_rows"].to_list() == [9]


def test_an_aggregate_is_an_input_like_any_other():
    export("off", [Run("a", history_rows=9), Run("b")], kind="offline", days=1)
    export("srv", [Run("c")], days=1)
    run("off", "srv", "-o", "first.parquet")
    export("new", [Run("a", history_rows=5), Run("c", config={"n": 1})], days=2)
    frame = aggregated("first.parquet", "new", "-o", "second.parquet").sort("id")
    origins = [file.split("/")[0] for file in frame["source_file"]]
    assert dict(zip(frame["id"], origins, strict=True)) == {"a": "off", "b": "off", "c": "new"}
    sources = metadata("second.parquet")["source"]["sources"]
    assert [(s["file"].split("/")[0], s["kind"]) for s in sources] == [
        ("off", "offline"),
        ("srv", "server"),
        ("new", "server"),
    ]
    assert frame.columns.count("stage") == 1


def test_keep_all_keeps_each_export_of_a_run():
    export("x/1", [Run("a")], days=1)
    export("x/2", [Run("a")], days=2)
    files = [f"x/{n}/team_demo_runs.parquet" for n in (1, 2)]
    assert aggregated("x", "--keep", "all")["source_file"].to_list() == files


# --- the order of rows ----------------------------------------------------------------------------------------


def test_rows_are_sorted_over_all_files_whatever_the_order_of_the_inputs():
    later = START + timedelta(days=1)
    files = [
        write_runs(Path("x"), [Run("c"), Run("b", created_at=later), Run("a", created_at=later)]),
        write_runs(Path("y"), [Run("d"), Run("e", created_at=later)]),
        write_runs(Path("z"), [Run("f")], entity="a team"),
        write_runs(Path("z"), [Run("g")], project="another"),
    ]
    frame = aggregated(*files, "-o", "one.parquet")
    assert frame["id"].to_list() == ["f", "g", "c", "d", "a", "b", "e"]
    assert aggregated(*reversed(files), "-o", "two.parquet").equals(frame)
    assert metadata("one.parquet") == metadata("two.parquet")


def test_files_that_interleave_are_merged_in_pieces(monkeypatch):
    """Rows of several files in turn, more than are held at once."""
    for number in range(4):
        runs = [Run(f"r{n:03d}", created_at=START + timedelta(hours=n)) for n in range(number, 200, 4)]
        write_runs(Path(f"x{number}"), runs)
    monkeypatch.setattr(aggregate_runs, "CELLS", 1000)
    assert aggregated("x0", "x1", "x2", "x3")["id"].to_list() == [f"r{n:03d}" for n in range(200)]


def test_many_files_that_interleave_filtered_and_unsorted():
    """Against a plain sort of all rows."""
    for number in range(5):
        runs = [
            Run(f"r{n:03d}", f"n_k{n % 7}", created_at=START + timedelta(hours=n // 3)) for n in range(number, 150, 5)
        ]
        file = write_runs(Path(f"x/{number}"), runs, project=f"p{number % 2}")
        if number == 3:
            rewritten(file, pl.read_parquet(file).reverse())
    export("x/again", [Run("r001"), Run("r150")], days=1, project="p1")
    frame = aggregated("x", "--where", "k < 5")
    order = ["entity", "project", "created_at", "id"]
    assert frame.select(order).rows() == frame.select(order).sort(order).rows()
    expected = {f"r{n:03d}" for n in range(150) if n % 7 < 5 and n != 1}
    assert set(frame["id"]) == expected
    assert all(re.fullmatch(r"n_k\d", name) and int(name[-1]) == k for name, k in frame.select("name", "k").rows())


def test_files_of_many_columns_are_written_in_blocks_with_the_same_result(monkeypatch):
    for n in range(4):
        runs = [Run(f"r{n}{i}", config={f"c{n}": i}, summary={f"m{n}": i / 3, "loss": i}) for i in range(5)]
        write_runs(Path(f"x/{n}"), runs, project=f"p{n}")
    whole = aggregated("x")
    monkeypatch.setattr(aggregate_runs, "FILES_AT_ONCE", 2)
    monkeypatch.setattr(aggregate_runs, "CELLS", 600)
    assert aggregated("x").equals(whole)
    assert (whole.height, whole["metric_m3"].null_count()) == (20, 15)


@pytest.mark.parametrize("ids", ["ba", "ax", "a", "abc"])
def test_an_input_that_changes_while_it_is_read_is_noticed(monkeypatch, ids):
    write_runs(Path("x"), [Run("a", "m_k1"), Run("b", "n_k2")])
    write = aggregate_runs.write

    def write_after_a_change(*arguments):
        later = [Run(each, created_at=START + timedelta(hours=n)) for n, each in enumerate(ids)]
        write_runs(Path("x"), later)
        return write(*arguments)

    monkeypatch.setattr(aggregate_runs, "write", write_after_a_change)
    if ids == "abc":  # a row more is for the next time
        assert aggregated("x")["k"].to_list() == [1, 2]
    else:
        _, err = run("x", code=1)
        assert re.fullmatch(r"error: .*an input changed (while it was read|meanwhile): .*run it again.*\n", err)
        assert list(Path("analysis").iterdir()) == []


# --- filters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ids", "said"),
    [
        ([], "abcd", ""),
        (["-s", "all"], "abcd", ""),
        (["-s", "Finished"], "acd", "--state finished: 3 of 4 runs kept"),
        (["-s", "crashed,failed"], "b", "--state crashed,failed: 1 of 4 runs kept"),
        (["-s", "crashed", "-s", "finished"], "abcd", "--state crashed,finished: 4 of 4 runs kept"),
        (["-f", "^GNN"], "a", "--filter ^GNN: 1 of 4 runs kept"),
        (["-f", "gnn|mlp"], "ac", "--filter gnn|mlp: 2 of 4 runs kept"),
        (["-f", "gnn", "-f", "x{1,2}"], "ab", "--filter gnn --filter x{1,2}: 2 of 4 runs kept"),
        (["-p", "OTHER*"], "d", "--project OTHER*: 1 of 4 runs kept"),
        (["-p", "other[1]"], "d", "--project other[1]: 1 of 4 runs kept"),
        (["-p", "demo", "-s", "finished"], "ac", "--state finished: 2 of 3 runs kept"),
    ],
)
def test_filters(arguments, ids, said):
    write_runs(Path("x"), [Run("a", "GNN_1"), Run("b", "XX", state="crashed"), Run("c", "my_MLP")])
    write_runs(Path("x"), [Run("d", "other")], project="other[1]")
    out, err = run("x", *arguments)
    assert "".join(sorted(pl.read_parquet(out.strip())["id"])) == ids
    assert said in err


def test_filters_look_at_the_row_that_stands_for_the_run():
    export("x/1", [Run("a", state="finished")], days=1)
    export("x/2", [Run("a", state="crashed"), Run("b")], days=2)
    assert aggregated("x", "--state", "finished")["id"].to_list() == ["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "crashed"], "no run left: --state crashed kept none of 2 runs; states of these runs: finished"),
        (["-f", "zzz"], "no run left: --filter zzz kept none of 2 runs; names of these runs: a, b"),
        (["-p", "nope"], "no run left: --project nope kept none of 2 runs; projects of these runs: demo"),
    ],
)
def test_the_filter_that_leaves_nothing_is_named(arguments, message):
    write_runs(Path("x"), [Run("a"), Run("b")])
    out, err = run("x", *arguments, code=1)
    assert out == ""
    assert err == f"error: {message}\n"


# --- conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("config_lr > 0.1 AND name <> 'v0.5'", "b"),
        ("k = 16 OR name = 'x'", "ac"),
        ('tags IS NOT NULL AND "group" IS NULL', "abc"),
    ],
)
def test_where(where, ids):
    write_runs(Path("x"), [Run("a", "r_k16", config={"lr": 0.1}), Run("b", config={"lr": 0.5}), Run("c", "x")])
    out, err = run("x", "--where", where)
    assert "".join(pl.read_parquet(out.strip())["id"].sort()) == ids
    assert f"--where {where}: {len(ids)} of 3 runs kept" in err


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ('"test/mse" < 1', "a"),
        ("test_mse < 1 AND name <> 'test_mse'", "a"),
        ("metric_test_mse >= 1", "b"),
        ('"optim.lr" = 1', "a"),
        ("lr = 2 AND optim_lr = 2", "b"),
        ("loss = 5", "b"),  # the config before the metric
        ('"loss" = 5 AND "loss" <> 6', "b"),
    ],
)
def test_where_takes_the_names_of_wandb(condition, kept):
    runs = [
        Run(name, config={"optim": {"lr": n}, "lr": n, "loss": n + 3}, summary={"test/mse": n - 0.5, "loss": 7.0})
        for n, name in ((1, "a"), (2, "b"))
    ]
    write_runs(Path("x"), runs)
    assert aggregated("x", "--where", condition)["id"].to_list() == [kept]


def test_where_says_how_a_name_with_dots_is_written():
    write_runs(Path("x"), [Run("a", config={"optim": {"lr": 1}})])
    _, err = run("x", "--where", "optim.lr = 1", code=2)
    assert 'names ("optim.lr")' in err


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("created_at >= '2026-01-02'", "cd"),
        ("created_at < '2026-01-01 12:00'", "a"),
        ("created_at BETWEEN '2026-01-01T12:00:00Z' AND '2026-01-03'", "bc"),
        ("name <> '2026-01-02' AND created_at > DATE '2026-01-01'", "bd"),
    ],
)
def test_a_time_compares_with_a_text(where, ids):
    """As in analyze_runs.py."""
    times = {"a": 0, "b": 12, "c": 24, "d": 72}
    runs = [Run(run, created_at=START + timedelta(hours=hours)) for run, hours in times.items()]
    runs[2].name = "2026-01-02"
    write_runs(Path("x"), runs)
    assert aggregated("x", "--where", where)["id"].sort().to_list() == [*ids]


def test_an_empty_derived_column_does_not_hide_the_config_of_its_name():
    write_runs(Path("x"), [Run("a", config={"k": 16}), Run("b", config={"k": 8})])
    out, err = run("x", "--where", "k = 16")
    frame = pl.read_parquet(out.strip())
    assert (frame["id"].to_list(), frame["k"].to_list()) == (["a"], [None])
    assert "k is null in all runs, so --where uses config_k instead" in err
    write_runs(Path("x"), [Run("a", "n_k4", config={"k": 16}), Run("b", config={"k": 8})])
    out, err = run("x", "--where", "k = 4")
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert "--where uses the derived column k; write config_k to use the config's value" in err


def test_an_empty_derived_column_gives_way_to_text_too():
    write_runs(Path("x"), [Run("a", config={"k": "large"}), Run("b", config={"k": "small"})])
    assert aggregated("x", "--where", "k = 'large'")["id"].to_list() == ["a"]
    write_runs(Path("x"), [Run("a", "n_k4", config={"k": "large"})])
    assert "--where k = 'large' cannot be evaluated: " in run("x", "--where", "k = 'large'", code=2)[1]


def test_a_predicate_that_keeps_nothing_is_named_alone():
    write_runs(Path("x"), [Run("a"), Run("b")])
    _, err = run("x", "--where", "name = 'c'", code=1)
    assert err == "error: no run left: --where name = 'c' kept none of 2 runs\n"


@pytest.mark.parametrize(
    "where",
    [
        "id IN (SELECT id FROM read_csv('secret.csv'))",
        "EXISTS (FROM read_csv('secret.csv'))",
        "id IN (with x AS (SELECT 1) select * FROM x)",
        "name = 'x' OR (SELECT count(*) FROM read_parquet('x/team_demo_runs.parquet')) > 0",
    ],
)
def test_a_predicate_reads_no_file(where):
    write_runs(Path("x"), [Run("a")])
    Path("secret.csv").write_text("id\na\n")
    out, err = run("x", "--where", where, code=2)
    assert out == ""
    assert "no query, comment, $ or ` is allowed" in err
    assert run("x", "--where", "name != 'select' AND EXTRACT(YEAR FROM created_at) = 2026")[0]


# --- the result -----------------------------------------------------------------------------------------------


def test_columns_stand_in_the_contracts_order_and_have_its_dtypes():
    write_runs(Path("x"), [Run("a", config={"z": 1, "a": 2}, summary={"z": 1.0, "b": 2})])
    frame = aggregated("x")
    assert frame.columns == [
        *("id", "name", "state", "entity", "project", "created_at", "heartbeat_at", "runtime_s", "last_step"),
        *("history_rows", "tags", "group", "job_type", "sweep", "user", "notes", "commit", "url"),
        *("host", "os", "python", "command", "gpu", "gpu_count", "exported_at", "source_file"),
        *DERIVED,
        *("config_a", "config_z", "metric_b", "metric_z", "_config_json", "_summary_json"),
    ]
    time = pl.Datetime("us", "UTC")
    wanted = {"created_at": time, "exported_at": time, "runtime_s": pl.Float64, "tags": pl.List(pl.String)}
    wanted |= {"stage": pl.String, "k": pl.Int64, "lr_parsed": pl.Float64, "metric_b": pl.Int64}
    assert {name: frame.schema[name] for name in wanted} == wanted


MACHINE = ["host", "os", "python", "command", "gpu", "gpu_count"]


def test_the_machines_columns_stand_in_the_contracts_order_and_may_be_absent():
    write_runs(Path("x"), [Run("a")])
    file = write_runs(Path("y"), [Run("b")], project="other")
    machine = {"host": "h", "os": "Linux", "python": "3.11", "command": "t.py", "gpu": "T4", "gpu_count": 2}
    frame = pl.read_parquet(file).with_columns(pl.lit(value).alias(name) for name, value in machine.items())
    rewritten(file, frame)
    found = aggregated("x", "y")
    start = found.columns.index("url") + 1
    assert found.columns[start : start + 8] == [*MACHINE, "exported_at", "source_file"]
    assert found.select(MACHINE).rows() == [(None,) * 6, tuple(machine.values())]
    assert found.schema["gpu_count"] == pl.Int64
    alone = aggregated("x")
    assert alone.select(MACHINE).dtypes == [*[pl.String] * 5, pl.Int64]


def test_other_libraries_read_the_result():
    write_runs(Path("x"), [Run("a", config={"lr": 0.1}, summary={"m": math.nan}, tags=["t"])])
    run("x", "-o", "y.parquet")
    assert duckdb.sql("select id, tags, config_lr, metric_m from 'y.parquet'").fetchall()[0][:3] == ("a", ["t"], 0.1)
    group = pq.read_metadata("y.parquet").row_group(0).column(0)
    assert group.compression == "ZSTD"
    assert group.is_stats_set


def test_duckdb_sees_the_same_in_the_result_as_in_the_exports():
    for number in range(4):
        runs = [
            Run(
                f"{number}-{n:03d}",
                f"stage{n % 3}_k{n % 7}",
                config={"a": {"b": (1, 2.5, None)[(n + number) % 3]}, f"only{number}": n},
                summary={"m/x": math.inf if n == 7 else n / 8},
                created_at=START + timedelta(hours=n),
            )
            for n in range(50)
        ]
        write_runs(Path(f"x/{number}"), runs, project=f"p{number % 2}")
    run("x", "-o", "one.parquet")
    run("x", "-o", "two.parquet")
    assert Path("one.parquet").read_bytes() == Path("two.parquet").read_bytes()
    query = """
        select project, id, sum(metric_m_x), sum(config_a_b), count(config_only1), sum({k}) from {files}
        group by all order by all
    """
    k = "regexp_extract(name, '_k([0-9]+)', 1)::int"
    exported = query.format(k=k, files="read_parquet('x/*/*_runs.parquet', union_by_name = true)")
    assert duckdb.sql(query.format(k="k", files="'one.parquet'")).fetchall() == duckdb.sql(exported).fetchall()
    order = "select entity, project, epoch_us(created_at), id from 'one.parquet'"
    assert duckdb.sql(order).fetchall() == duckdb.sql(f"{order} order by all").fetchall()


# --- files that are not replaced ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda file: write_runs(file.parent, [Run("b")], project="old"), history])
def test_an_export_is_not_overwritten(make):
    write_runs(Path("x"), [Run("a")])
    file = make(Path("x/team_old_runs.parquet"))
    before = file.read_bytes()
    out, err = run("x", "-o", file, code=2)
    assert (out, err) == ("", f"error: -o {file} holds other data, which would be lost; choose another name\n")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no parquet"])
def test_what_is_no_export_may_be_overwritten(content):
    write_runs(Path("x"), [Run("a")])
    Path("y.parquet").write_bytes(content)
    for _ in range(2):
        assert aggregated("x", "-o", "y.parquet")["id"].to_list() == ["a"]


def test_a_folder_that_is_called_like_a_parquet_file_is_not_replaced():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("data.parquet"), [Run("b")])
    _, err = run("x", "-o", "data.parquet", code=2)
    assert "-o data.parquet holds other data, which would be lost" in err
    assert len(list(Path("data.parquet").iterdir())) == 1


def test_a_failed_run_leaves_the_old_result_as_it_is():
    write_runs(Path("x"), [Run("a")])
    run("x")
    before = Path("analysis/unified.parquet").read_bytes()
    run("x", "--filter", "nothing", code=1)
    assert Path("analysis/unified.parquet").read_bytes() == before
    assert len(list(Path("analysis").iterdir())) == 1


def test_an_output_that_cannot_be_written_is_one_line():
    write_runs(Path("x"), [Run("a")])
    Path("file").touch()
    out, err = run("x", "--quiet", "-o", "file/y.parquet", code=1)
    assert out == ""
    assert err.startswith("error: file/y.parquet was not written: ")
    assert len(err.splitlines()) == 1


def test_a_write_error_names_the_users_file_only():
    with pytest.raises(aggregate_runs.ScriptError, match=r"y.parquet was not written: No such file") as told:  # noqa: SIM117
        with aggregate_runs.published("y.parquet") as place:
            aggregate_runs.write(pl.LazyFrame({"x": [1]}), f"nowhere/{place}", {})
    assert "partial" not in str(told.value)


# --- partitions -----------------------------------------------------------------------------------------------


def test_partitions_are_written_by_project():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("x"), [Run("b")], project="other")
    out, _ = run("x", "--partition-by", "project", "-o", "parts")
    assert out.splitlines() == [f"parts/project={p}/00000000.parquet" for p in ("demo", "other")]
    rows = duckdb.sql(
        "select id, project from read_parquet('parts/**/*.parquet', hive_partitioning = true) order by id"
    )
    assert rows.fetchall() == [("a", "demo"), ("b", "other")]


def test_partitions_replace_an_earlier_result_alone():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("x"), [Run("b")], project="other")
    run("x", "--partition-by", "project", "-o", "parts")
    run("x", "--partition-by", "project", "-o", "parts", "-p", "demo")
    assert [path.name for path in Path("parts").iterdir()] == ["project=demo"]
    Path("parts/notes.txt").write_text("mine")
    _, err = run("x", "--partition-by", "project", "-o", "parts", code=2)
    assert "holds other data, which would be lost" in err
    _, err = run("x", "--partition-by", "projct", "-o", "more", code=2)
    assert "no such column; did you mean project" in err


@pytest.mark.parametrize("columns", [["id", "name", "state"], ["x"]])
def test_a_partitioned_folder_that_is_no_earlier_result_is_not_replaced(columns):
    write_runs(Path("x"), [Run("a")])
    file = Path("data/year=2026/part.parquet")
    file.parent.mkdir(parents=True)
    pl.DataFrame({column: ["b"] for column in columns}).write_parquet(file)
    _, err = run("x", "--partition-by", "project", "-o", "data", code=2)
    assert err == "error: -o data holds other data, which would be lost; choose another name\n"
    assert file.exists()


def test_two_partitions_of_one_name_lose_no_rows_silently():
    """polars writes null to the folder that Hive uses for it: two write one file at once, which is damaged or short."""
    runs = [Run("a"), Run("b", group="__HIVE_DEFAULT_PARTITION__")]
    write_runs(Path("x"), runs)
    out, err = run("x", "--partition-by", "group", "-o", "parts", "--quiet", code=1)
    assert out == ""
    assert re.fullmatch("error: .*(rows are missing|parts was not written).*\n", err)
    assert [path.name for path in Path().iterdir()] == ["x"]


# --- interrupted and killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_it_leaves_the_earlier_result(name):
    write_runs(Path("x"), [Run("a")])
    out, _ = run("x")
    before = Path(out.strip()).read_bytes()
    slow = "import signal, sys, os; sys.argv[0] = 'x'\nimport aggregate_runs as a\n"
    slow += f"kill = lambda *_: os.kill(os.getpid(), signal.{name})\na.rows_in_order = kill\n"
    slow += "raise SystemExit(a.main(['x']))"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", slow], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert Path(out.strip()).read_bytes() == before
    assert [path.name for path in Path("analysis").iterdir()] == ["unified.parquet"]


def test_what_a_killed_merge_left_behind_is_removed_by_the_next():
    write_runs(Path("x"), [Run("a")])
    code = "import sys, time, aggregate_runs as a\n"
    code += "write = a.write\n"
    code += "a.write = lambda *w, **k: (write(*w, **k), print('written', flush=True), time.sleep(99))\n"
    code += "a.main(sys.argv[1:])"
    for flags in ([], ["--partition-by", "project", "-o", "parts"]):
        environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
        command = [sys.executable, "-c", code, "x", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
            assert process.stdout.readline() == b"written\n"
            process.send_signal(signal.SIGKILL)
        folder = Path("parts" if flags else "analysis/unified.parquet").parent
        assert list(folder.glob(".*.partial"))
        run("x", *flags)
        assert not list(folder.glob(".*.partial"))


def test_what_a_killed_merge_of_the_same_process_id_left_behind_does_not_stop_the_next():
    """Containers give each merge the same process id."""
    write_runs(Path("x"), [Run("a")])
    Path(f"analysis/.unified.parquet.{os.getpid()}.partial").mkdir(parents=True)
    run("x")
    assert [path.name for path in Path("analysis").iterdir()] == ["unified.parquet"]


def test_what_a_running_merge_writes_and_files_of_others_stay():
    write_runs(Path("x"), [Run("a")])
    Path("analysis").mkdir()
    names = [
        f".unified.parquet.{os.getppid()}.partial",
        ".other.parquet.999999999.partial",
        ".unified.parquet.x.partial",
    ]
    for name in names:
        Path("analysis", name).touch()
    run("x", start=True)
    assert sorted(path.name for path in Path("analysis").iterdir()) == sorted([*names, "unified.parquet"])


# --- doctests -------------------------------------------------------------------------------------------------


def test_doctests():
    assert doctest.testmod(aggregate_runs).failed == 0
