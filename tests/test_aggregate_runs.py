"""aggregate_runs.py as its users run it, and its parts where a table of cases says more."""

from __future__ import annotations

import doctest
import errno
import json
import math
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import aggregate_runs
import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from contract_files import START, Run, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(aggregate_runs.__file__)
DERIVED = ["stage", "arch", "model_type", "protocol", "k"]
DERIVED += ["seed_parsed", "lr_parsed", "wd_parsed", "eps_parsed"]


@pytest.fixture(autouse=True, scope="session")
def libraries():
    aggregate_runs.import_libraries()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0, start=False):
    """What the script wrote to stdout and stderr, its exit code checked; `start` it as a process or call it."""
    got, out, err = (started if start else called)([*map(str, arguments)])
    assert got == code, err
    assert "a bug in this script" not in err
    assert "Traceback" not in err or "--debug" in arguments
    return out, err


def started(arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def called(arguments):
    """The same in this process, since a start costs half a second."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = aggregate_runs.main(arguments)
    return code, out.getvalue(), err.getvalue()


def aggregated(*arguments, code=0):
    """The result as a frame."""
    out, _ = run(*arguments, code=code)
    return pl.read_parquet(out.strip(), glob=False)


def report(*arguments, code=0):
    """The result of --json; nothing else is on stdout, and with --quiet nothing on stderr but errors."""
    out, err = run(*arguments, "--json", "--quiet", code=code)
    assert all(line.startswith("error: ") for line in err.splitlines())
    return json.loads(out)


def metadata(file):
    """The key-value metadata of ours, read by another library."""
    pairs = pq.read_metadata(file).metadata
    return {k.decode().removeprefix("wandb_tools."): json.loads(v) for k, v in pairs.items() if b"wandb" in k}


def rewritten(file, frame=None, **documents):
    """Write the file again with another frame, or other metadata."""
    frame = pl.read_parquet(file) if frame is None else frame
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pairs |= {f"wandb_tools.{key}": json.dumps(document) for key, document in documents.items()}
    frame.write_parquet(file, metadata=pairs)
    return file


def export(folder, runs, *, kind="server", days=0, project="demo"):
    """An export of the given kind, made some days after the start."""
    for made in runs:
        made.exported_at = START + timedelta(days=days)
    file = write_runs(Path(folder), runs, project=project)
    source = {"kind": kind, "entity": "team", "project": project, "exported_at": str(days), "versions": {}}
    return rewritten(file, source=source)


def history(file):
    keys = {"run_id": ["a"], "entity": ["team"], "project": ["demo"]}
    pl.DataFrame(keys | {"_step": [0], "metric_loss": [0.5]}).write_parquet(file)
    return file


# ---- the whole ---------------------------------------------------------------
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


def test_other_libraries_read_the_result():
    write_runs(Path("x"), [Run("a", config={"lr": 0.1}, summary={"m": math.nan}, tags=["t"])])
    run("x", "-o", "y.parquet")
    assert duckdb.sql("select id, tags, config_lr, metric_m from 'y.parquet'").fetchall()[0][:3] == ("a", ["t"], 0.1)
    group = pq.read_metadata("y.parquet").row_group(0).column(0)
    assert group.compression == "ZSTD"
    assert group.is_stats_set


def test_help_is_the_manual_and_needs_no_polars():
    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.count("stage2c") == 1
    assert done.stderr == ""


def test_help_has_the_manuals_every_flag():
    out, _ = run("--help", start=True)
    for flag in re.findall(r"--[a-z-]+", aggregate_runs.__doc__):
        assert f"  {flag}" in out


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


def test_debug_shows_where_an_error_comes_from():
    _, err = run("nowhere", "--debug", code=1)
    assert "Traceback" in err


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


def test_a_write_error_names_the_users_file_only():
    with pytest.raises(aggregate_runs.ScriptError, match=r"y.parquet was not written: No such file") as told:  # noqa: SIM117
        with aggregate_runs.published("y.parquet") as place:
            aggregate_runs.write(pl.LazyFrame({"x": [1]}), f"nowhere/{place}", {})
    assert "partial" not in str(told.value)


# ---- inputs --------------------------------------------------------------------
def test_a_directory_gives_its_runs_files_at_any_depth_and_says_what_it_passes_over():
    write_runs(Path("x/deep/er"), [Run("a")])
    write_runs(Path("x/.wandb_tools"), [Run("hidden")])
    write_runs(Path("x"), [Run("unfinished")]).rename("x/.team_demo_runs.parquet.1.partial")
    history(Path("x/looks_like_runs.parquet"))
    keys = {"run_id": ["a"], "entity": ["team"], "project": ["demo"]}
    pl.DataFrame(keys | {"_timestamp": [0.5]}).write_parquet("x/system.parquet")
    pl.DataFrame({"x": [1]}).write_parquet("x/foreign_runs.parquet")
    Path("x/metadata.json").write_text("{}")
    out, err = run("x", "-o", "y.parquet")
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    hint = "--history reads histories, --json lists all"
    assert f"not merged: 1 foreign file, 1 history file, 1 system file ({hint})\n" in err
    skipped = report("x", "-o", "y.parquet")["skipped"]
    assert {(row["file"], row["kind"], row["failure"]) for row in skipped} == {
        ("x/looks_like_runs.parquet", "history", False),
        ("x/system.parquet", "system", False),
        ("x/foreign_runs.parquet", "foreign", False),
    }


def test_a_folder_that_cannot_be_read_is_named(monkeypatch):
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("x/closed"), [Run("b")])
    write_runs(Path("x/.hidden"), [Run("c")])
    scandir = os.scandir

    def refusing(path):
        if not isinstance(path, int) and Path(path).name in {"closed", ".hidden"}:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    out, err = run("x", "x", "-o", "y.parquet", "--quiet", code=3)
    assert err == "error: x/closed was left out: it cannot be read: Permission denied\n"
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]


def test_an_answer_of_analyze_runs_is_passed_over():
    file = write_runs(Path("x"), [Run("a")])
    pl.read_parquet(file).write_parquet("x/a_top.parquet", metadata={aggregate_runs.RESULT_KEY: "1"})
    skipped = report("x", "-o", "y.parquet")["skipped"]
    assert [(row["file"], row["kind"], row["failure"]) for row in skipped] == [("x/a_top.parquet", "result", False)]


def test_files_directories_and_globs_in_any_mix_count_each_file_once():
    write_runs(Path("x1"), [Run("a")])
    write_runs(Path("x2"), [Run("b")])
    file = write_runs(Path("y"), [Run("c")])
    history(Path("y/h.parquet"))
    frame = aggregated("x*", "x1", file, "y/*.parquet", "y/../x2")
    assert sorted(frame["id"]) == ["a", "b", "c"]


def test_an_earlier_result_that_is_merely_found_is_no_input():
    write_runs(Path("x"), [Run("a")])
    first = aggregated(".", "-o", "all.parquet")
    assert aggregated(".", "-o", "all.parquet").equals(first)
    assert report(".", "-o", "all.parquet")["summary"][0]["rows_read"] == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (history, "it holds no runs: it is a history file; name a runs file of export_runs.py"),
        (
            lambda file: pl.DataFrame({"x": [1]}).write_parquet(file),
            "it holds no runs: it is a foreign file; name a runs file of export_runs.py",
        ),
        (lambda file: file.write_bytes(b""), "it cannot be read: "),
        (lambda file: file.write_text("id,name,state\n" * 9), "it cannot be read: "),
        (lambda file: None, "there is no such file or folder"),
    ],
)
def test_a_named_input_without_runs_is_named_and_left_out(make, reason):
    write_runs(Path("x"), [Run("a")])
    make(Path("odd.parquet"))
    out, err = run("x", "odd.parquet", "-o", "y.parquet", "--quiet", code=3)
    assert out == "y.parquet\n"
    assert err.startswith(f"error: odd.parquet was left out: {reason}")
    assert len(err.splitlines()) == 1
    row = report("x", "odd.parquet", "-o", "y.parquet", code=3)["skipped"][0]
    assert (row["file"], row["failure"]) == ("odd.parquet", True)


def test_a_truncated_file_in_a_directory_is_a_failure():
    write_runs(Path("x"), [Run("a")])
    file = write_runs(Path("x"), [Run("b")], project="cut")
    file.write_bytes(file.read_bytes()[:-20])
    _, err = run("x", "-o", "y.parquet", code=3)
    assert "error: x/team_cut_runs.parquet was left out: it cannot be read: " in err
    assert pl.read_parquet("y.parquet")["id"].to_list() == ["a"]


def test_damage_that_the_footer_does_not_show_costs_that_file_only():
    write_runs(Path("x"), [Run("a")])
    file = write_runs(Path("x"), [Run("b", config={"text": "some words"})], project="rotten")
    column = next(
        c for c in map(pq.read_metadata(file).row_group(0).column, range(24)) if c.path_in_schema == "config_text"
    )
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    out, err = run("x", "-o", "y.parquet", code=3)
    assert "error: x/team_rotten_runs.parquet was left out: it cannot be read: " in err
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("key", "document", "reason"),
    [
        ("columns", [], "its metadata is not made of JSON objects"),
        ("columns", {"config_a": "a"}, "not a list of keys"),
        ("columns", {"config_a": ["a"], "config_b": ["a"]}, "gives one path to two columns"),
    ],
)
def test_metadata_against_the_contract_is_named(key, document, reason):
    file = write_runs(Path("x"), [Run("a", config={"a": 1, "b": 2})])
    rewritten(file, **{key: document})
    _, err = run("x", code=1)
    assert reason in err


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("tags", [[["a"]]]),
        ("created_at", ["yesterday"]),
        ("created_at", [1_700_000_000]),
        ("last_step", [0.5]),
        ("config_l", [[1, 2]]),
        ("config_l", [timedelta(1)]),
    ],
)
def test_dtypes_that_no_contract_column_can_hold_are_named(column, values):
    file = write_runs(Path("x"), [Run("a")])
    rewritten(file, pl.read_parquet(file).with_columns(pl.Series(column, values)))
    _, err = run("x", code=1)
    assert f"x/team_demo_runs.parquet was left out: it cannot be read: its column {column} " in err


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["empty/"], ["none*.parquet"]])
def test_nothing_usable(arguments):
    Path("empty").mkdir()
    out, err = run(*arguments, code=1)
    assert out == ""
    place = arguments[0] if arguments else "wandb_export/"
    missing = "" if place == "empty/" else f"error: {place} was left out: there is no such file or folder\n"
    assert err == f"{missing}error: no runs in {place}; export_runs.py writes runs files\n"


def test_a_runs_file_without_rows_is_fine_but_alone_gives_nothing():
    empty = write_runs(Path("x"), [Run("a", config={"only": 1})])
    rewritten(empty, pl.read_parquet(empty).clear())
    _, err = run("x", code=1)
    assert "have no rows" in err
    write_runs(Path("y"), [Run("b")])
    frame = aggregated("x", "y")
    assert frame["id"].to_list() == ["b"]
    assert frame["config_only"].to_list() == [None]


def test_runs_of_other_writers_need_only_id_name_and_state():
    write_runs(Path("x"), [Run("a", config={"model": {"k": 16}})])
    other = {"id": ["b"], "name": ["b_k3"], "state": ["finished"], "config_model_k": [4], "metric_m": [True]}
    pl.DataFrame(
        other | {"created_at": [START.replace(tzinfo=None)], "step": [7]}, schema_overrides={"step": pl.Int32}
    ).write_parquet("x/other.parquet")
    frame = aggregated("x").sort("id")
    assert frame["config_model_k"].to_list() == [16, 4]  # the name tells the path, as another file knows it
    assert frame["created_at"].to_list() == [START, START]
    assert frame["tags"].to_list() == [[], []]
    assert frame["metric_m"].to_list() == [None, 1]
    assert frame["step"].to_list() == [None, 7]
    assert frame.columns.index("step") == frame.columns.index("eps_parsed") + 1


# ---- rows ------------------------------------------------------------------------
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


def test_filters_look_at_the_row_that_stands_for_the_run():
    export("x/1", [Run("a", state="finished")], days=1)
    export("x/2", [Run("a", state="crashed"), Run("b")], days=2)
    assert aggregated("x", "--state", "finished")["id"].to_list() == ["b"]


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


# ---- one schema ------------------------------------------------------------------
def test_columns_meet_by_path_and_two_paths_never_share_a_column():
    write_runs(Path("x/1"), [Run("a", config={"model": {"k": 1}}, summary={"test/mse": 0.5})])
    write_runs(Path("x/2"), [Run("b", config={"model_k": 2}, summary={"test_mse": 0.25, "Test/mse": 4})])
    frame = aggregated("x", "-o", "y.parquet")
    paths = metadata("y.parquet")["columns"]
    assert frame["config_model_k"].to_list() == [None, 2]
    assert {tuple(path): frame[column].to_list() for column, path in paths.items()} == {
        ("model", "k"): [1, None],
        ("model_k",): [None, 2],
        ("test/mse",): [0.5, None],
        ("test_mse",): [None, 0.25],
        ("Test/mse",): [None, 4],
    }
    assert len({column.lower() for column in frame.columns}) == len(frame.columns)
    _, err = run("x")
    name = "config_model_k__7bf4c82d"
    assert f"{name} is called config_model_k in 1 file" in err


def test_a_column_without_a_stored_path_keeps_its_data_beside_one_that_has_its_path():
    file = write_runs(Path("x"), [Run("a", config={"b": 1, "c": 2})])
    rewritten(file, columns={"config_c": ["b"]})
    frame = aggregated("x")
    assert sorted(frame.select("^config_.*$").row(0)) == [1, 2]


def test_a_column_that_regains_its_plain_name_is_said_so():
    file = write_runs(Path("x"), [Run("a", config={"b": 1})])
    hashed = pl.read_parquet(file).rename({"config_b": "config_b__12345678"})
    rewritten(file, hashed, columns={"config_b__12345678": ["b"]})
    _, err = run("x")
    assert "config_b is called config_b__12345678 in 1 file\n" in err


def test_columns_that_a_file_lacks_are_null_there():
    write_runs(Path("x/1"), [Run("a", config={"p": 1})])
    write_runs(Path("x/2"), [Run("b", config={"q": "t"}, summary={"m": 1.5})])
    frame = aggregated("x")
    assert frame.select("config_p", "config_q", "metric_m").rows() == [(1, None, None), (None, "t", 1.5)]


def test_goals_are_carried_on_and_a_disputed_one_is_none():
    goals = {"metric_m": {"goal": "minimize", "summary": "min"}, "metric_n": {"goal": "maximize"}}
    write_runs(Path("x/1"), [Run("a", summary={"m": 1, "n": 1})], metrics=goals)
    other = {"metric_m": {"goal": "maximize", "summary": "min"}}
    write_runs(Path("x/2"), [Run("b", summary={"m": 1, "n": 1})], metrics=other)
    conflicts = report("x", "-o", "y.parquet")["conflicts"]
    assert metadata("y.parquet")["metrics"] == {"metric_m": {"summary": "min"}, "metric_n": {"goal": "maximize"}}
    assert [(row["column"], row["kind"], row["found"], row["files"]) for row in conflicts] == [
        ("metric_m", "goal", "maximize", ["x/2/team_demo_runs.parquet"]),
        ("metric_m", "goal", "minimize", ["x/1/team_demo_runs.parquet"]),
    ]
    assert metadata("y.parquet")["schema"] == 1


DTYPES = [  # one file's values per list; the type in which they meet, and how they look there
    ([[1], [2]], pl.Int64, [1, 2]),
    ([[1], [2.5]], pl.Float64, [1.0, 2.5]),
    ([[1], [None]], pl.Int64, [1, None]),
    ([[None], [None]], pl.String, [None, None]),
    ([["1"], ["2"]], pl.String, ["1", "2"]),  # text everywhere stays text
    ([[1], ["2"]], pl.Int64, [1, 2]),
    ([[1], ["1e-3", "-2E+1"]], pl.Float64, [1.0, 0.001, -20.0]),
    ([[0.5], ["NaN", "Infinity", "-Infinity"]], pl.Float64, [0.5, math.nan, math.inf, -math.inf]),
    ([[1], [str(2**70)]], pl.Float64, [1.0, float(2**70)]),
    ([[1], ["2", None]], pl.Int64, [1, 2, None]),
    ([[1], ["2", "x"]], pl.String, ["1", "2", "x"]),
    ([[1], ["007"]], pl.String, ["1", "007"]),
    ([[1], [" 2"]], pl.String, ["1", " 2"]),
    ([[1], ["2\n"]], pl.String, ["1", "2\n"]),
    ([[1], ["inf"]], pl.String, ["1", "inf"]),
    ([[1], ["1e400"]], pl.String, ["1", "1e400"]),  # no float holds it
    ([[1], [""]], pl.String, ["1", ""]),
    ([[True], [1]], pl.String, ["true", "1"]),
    ([[False], [0.5]], pl.String, ["false", "0.5"]),
    ([[True], ["true"]], pl.String, ["true", "true"]),
    ([[True], ["2"], [3]], pl.String, ["true", "2", "3"]),
    ([[True], [None]], pl.Boolean, [True, None]),
    ([[1e-05, 1e22, 1.0, math.inf], ["x"]], pl.String, ["1e-05", "1e+22", "1.0", "Infinity", "x"]),
]


def write_column(values_by_file):
    """A file per list, with the values as `config_v` of runs in this order."""
    ids = (f"{number:04}" for number in range(9999))
    for number, values in enumerate(values_by_file):
        write_runs(Path(f"x/{number}"), [Run(next(ids), config={"v": value}) for value in values])


def same(one, other):
    """Equal, with NaN equal to itself."""
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize(("values", "dtype", "met"), DTYPES)
def test_dtypes_meet_in_the_narrowest_that_holds_every_value(values, dtype, met):
    write_column(values)
    run("x", "-o", "y.parquet")
    column = pl.read_parquet("y.parquet")["config_v"]
    assert column.dtype == dtype
    assert same(column.to_list(), met)


def test_text_without_any_value_does_not_turn_booleans_into_text():
    write_runs(Path("x/1"), [Run("a", config={"v": True})])
    write_runs(Path("x/2"), [Run("b", config={"v": None})], dtypes={"config_v": pl.String})
    assert aggregated("x")["config_v"].to_list() == [True, None]


def test_conflicts_are_said_briefly_and_listed_in_full():
    write_column([[1], ["x"], [2]])
    rows = report("x", "-o", "y.parquet")["conflicts"]
    files = [f"x/{number}/team_demo_runs.parquet" for number in range(3)]
    shared = {"column": "config_v", "kind": "dtype", "became": "String"}
    assert rows == [
        shared | {"found": "Int64", "files": [files[0], files[2]]},
        shared | {"found": "String", "files": [files[1]]},
    ]
    _, err = run("x")
    assert "the dtype of config_v is Int64 in 2 files, String in 1 file; in the result it is String" in err


def test_many_conflicts_stay_short_on_stderr():
    write_runs(Path("x/1"), [Run("a", config={f"c{n}": n for n in range(40)})])
    write_runs(Path("x/2"), [Run("b", config={f"c{n}": "x" for n in range(40)})])
    _, err = run("x")
    assert err.count("; in the result it is ") == aggregate_runs.SHOWN
    assert "35 more columns differ between files; --json lists all" in err
    assert len(report("x")["conflicts"]) == 80


scalars = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
    st.lists(st.sampled_from(["1", "-0", "1e5", "0.1", "NaN", "Infinity", "1e999", "01"]), min_size=1),
)


def holds(value, stored):
    """Whether `stored` is `value`, no more changed than the contract's rules for mixed types allow."""
    if isinstance(stored, str):
        return stored == (value if isinstance(value, str) else json.dumps(value))
    if isinstance(stored, bool) or isinstance(value, bool):
        return stored is value
    return same(float(stored), float(value))


@given(st.lists(scalars, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_no_value_is_lost_when_dtypes_meet(values_by_file):
    with TemporaryDirectory() as folder:
        ids = (f"{number:04}" for number in range(9999))
        for number, values in enumerate(values_by_file):
            write_runs(Path(folder, str(number)), [Run(next(ids), config={"v": v}) for v in values])
        output = Path(folder, "y.parquet")
        run(folder, "-o", output)
        stored = pl.read_parquet(output)["config_v"].to_list()
    values = [value for values in values_by_file for value in values]
    assert len(stored) == len(values)
    for value, kept in zip(values, stored, strict=True):
        assert holds(value, kept)


@given(st.lists(st.floats(), min_size=1, max_size=200))
def test_floats_become_text_as_json_spells_them(values):
    frame = pl.DataFrame({"x": values}).select(aggregate_runs.cast_column("x", pl.Float64(), pl.String()))
    assert frame["x"].to_list() == [json.dumps(value) for value in values]


keys = st.text(st.sampled_from("aA_/.é"), min_size=1, max_size=3)
paths = st.lists(keys, min_size=1, max_size=3).map(tuple)


@given(st.lists(paths, max_size=12), st.randoms())
def test_names_never_merge_two_paths_and_do_not_depend_on_order(some_paths, random):
    names = aggregate_runs.settled_names(some_paths)
    assert set(names) == set(some_paths)
    assert len({name.lower() for name in names.values()}) == len(names)
    random.shuffle(some_paths)
    assert aggregate_runs.settled_names(some_paths) == names


@given(st.lists(st.dictionaries(paths, st.integers(0, 99), min_size=1, max_size=5), min_size=2, max_size=3))
@settings(max_examples=30, deadline=None)
def test_every_value_is_found_by_its_path_over_any_files(configs):
    with TemporaryDirectory() as folder:
        for number, config in enumerate(configs):
            names = aggregate_runs.settled_names(config)
            file = write_runs(Path(folder, str(number)), [Run(str(number))])
            values = [pl.lit(value).alias(f"config_{names[path]}") for path, value in config.items()]
            columns = {f"config_{names[path]}": path for path in config}
            rewritten(file, pl.read_parquet(file).with_columns(values), columns=columns)
        output = Path(folder, "y.parquet")
        run(folder, "-o", output)
        frame, columns = pl.read_parquet(output).sort("id"), metadata(output)["columns"]
    found = [
        {tuple(columns[name]): row[name] for name in columns if row[name] is not None}
        for row in frame.iter_rows(named=True)
    ]
    assert found == configs


# ---- derived columns ---------------------------------------------------------------
NAMES = [  # a run's name, and every column that it gives
    ("baseline", {}),
    ("stage2c_gnn_all_k16_s3", {"stage": "stage2c", "arch": "gnn_all", "model_type": "gnn", "k": 16, "seed_parsed": 3}),
    ("STAGE1-MLP", {"stage": "stage1", "arch": "mlp"}),
    ("run stage10_x", {"stage": "stage10"}),
    ("stage_2", {}),
    ("stage", {}),
    ("myfilter_bank", {}),
    ("filter_bank", {"arch": "filter_bank"}),
    ("a-filter_bank/b", {"arch": "filter_bank"}),
    ("filter-bank", {}),
    ("filter_banks", {}),
    ("x linear_pe y", {"arch": "linear_pe"}),
    ("linear_pex", {"arch": "linear"}),
    ("multilayer_self_attention", {"arch": "multilayer_self_attention"}),
    ("multilayer_self_attention_mlp", {"arch": "self_attention_mlp"}),
    ("x_self_attention_y", {"arch": "self_attention"}),
    ("mlp_gnn_v", {"arch": "gnn_v", "model_type": "gnn"}),
    ("gnn_qk-gnn_all", {"arch": "gnn_all", "model_type": "gnn"}),
    ("spectral_linear", {"arch": "spectral_linear", "model_type": "spectral"}),
    ("linear_spectral", {"arch": "spectral", "model_type": "spectral"}),
    ("digress_transformer", {"arch": "digress_transformer", "model_type": "digress"}),
    ("digress_default_x", {"arch": "digress_default", "model_type": "digress"}),
    ("digress_asymmetric", {"arch": "asymmetric", "model_type": "digress"}),
    ("digress", {"arch": "digress", "model_type": "digress"}),
    ("MyDigressNet", {"model_type": "digress"}),
    ("gnn_spectral", {"arch": "spectral", "model_type": "spectral"}),
    ("attention", {}),  # a model type of configs only
    ("a_k16", {"k": 16}),
    ("a_K16_b", {"k": 16}),
    ("a_k16x", {}),
    ("ak16", {}),
    ("k16", {}),
    ("a_k16x_k8", {"k": 8}),
    ("a_k99999999999999999999", {}),
    ("a_s0", {"seed_parsed": 0}),
    ("a_s12_b", {"seed_parsed": 12}),
    ("a_seed3", {}),
    ("a_lr1e-3", {"lr_parsed": 1e-3}),
    ("a_LR1E-3_b", {"lr_parsed": 1e-3}),
    ("a_lr0.01_wd1e-4_eps0.1", {"lr_parsed": 0.01, "wd_parsed": 1e-4, "eps_parsed": 0.1}),
    ("a_lr5e-4-b", {"lr_parsed": 5e-4}),
    ("a_lr.5_wd2._eps3", {"lr_parsed": 0.5, "wd_parsed": 2.0, "eps_parsed": 3.0}),
    ("a_lr1e-3x", {}),
    ("a_lrx", {}),
    ("alr1e-3", {}),
    ("a_wd0", {"wd_parsed": 0.0}),
]


def test_derived_columns_from_names():
    write_runs(Path("x"), [Run(f"{n:04}", name) for n, (name, _) in enumerate(NAMES)])
    rows = aggregated("x").select("name", *DERIVED).rows(named=True)
    found = {row.pop("name"): {c: value for c, value in row.items() if value is not None} for row in rows}
    assert found == dict(NAMES)


CONFIGS = [  # a run's config and name, and what they give
    ({"model": {"_target_": "nets.SpectralDigressGNN"}}, "x", {"model_type": "spectral"}),
    ({"model": {"_target_": "nets.GnnAttention"}}, "spectral", {"model_type": "gnn"}),
    ({"model": {"_target_": "nets.HybridAttention"}}, "x", {"model_type": "attention"}),
    ({"model": {"_target_": "nets.Hybrid"}}, "x", {"model_type": "hybrid"}),
    ({"model": {"target": "nets.Digress"}}, "gnn", {"model_type": "digress"}),
    ({"model": {"_target_": "nets.Mlp"}}, "gnn_9", {"model_type": "gnn"}),
    ({"data": {"same_graph_all_splits": True}}, "x", {"protocol": "single_graph"}),
    ({"data": {"same_graph_all_splits": False}}, "x", {"protocol": "distribution"}),
    ({"data": {"_target_": "data.SingleGraphData"}}, "x", {"protocol": "single_graph"}),
    ({"data": {"_target_": "data.Graphs"}}, "x", {"protocol": "distribution"}),
    ({"data": {"_target_": "data.SingleGraph", "same_graph_all_splits": False}}, "x", {"protocol": "single_graph"}),
    ({}, "SingleGraph", {}),
]


def test_derived_columns_from_configs():
    write_runs(Path("x"), [Run(f"{n:04}", name, config=c) for n, (c, name, _) in enumerate(CONFIGS)])
    rows = aggregated("x").select("model_type", "protocol").rows(named=True)
    found = [{column: value for column, value in row.items() if value is not None} for row in rows]
    assert found == [expected for _, _, expected in CONFIGS]


def test_the_fit_of_the_rules_is_told():
    names = ["a_k1", "b_k1", "c_k2", "none", "none", "nought"]
    write_runs(Path("x"), [Run(str(n), name) for n, name in enumerate(names)])
    _, err = run("x")
    assert "k: 3 runs, most often 1 (2), 2 (1); no match in 3 runs, e.g. none, nought\n" in err
    assert "no match in any run for stage, arch, model_type, protocol, seed_parsed, lr_parsed, " in err
    fits = {row["column"]: row for row in report("x")["derived"]}
    assert list(fits) == DERIVED
    assert fits["k"] == {
        "column": "k",
        "dtype": "Int64",
        "runs": 3,
        "missing": 3,
        "commonest": [1, 2],
        "commonest_runs": [2, 1],
        "unmatched_names": ["none", "nought"],
    }


def test_names_without_a_match_are_shown():
    write_runs(Path("x"), [Run("0", "stage1_k1_s1"), Run("1", "stage2_k2"), Run("2", "odd")])
    _, err = run("x")
    assert err.splitlines()[1:-1] == [
        "stage: 2 runs, most often stage1 (1), stage2 (1); no match in 1 run, e.g. odd",
        "k: 2 runs, most often 1 (1), 2 (1); no match in 1 run, e.g. odd",
        "seed_parsed: 1 run, most often 1 (1); no match in 2 runs, e.g. odd, stage2_k2",
        "no match in any run for arch, model_type, protocol, lr_parsed, wd_parsed, eps_parsed",
    ]


def test_no_enrich_adds_no_column():
    write_runs(Path("x"), [Run("a", "gnn_k1")])
    frame = aggregated("x", "--no-enrich")
    assert not set(DERIVED) & set(frame.columns)
    assert report("x", "--no-enrich")["derived"] == []


# ---- streams ------------------------------------------------------------------------
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


def test_a_closed_pipe_ends_quietly():
    write_runs(Path("x"), [Run(str(n), config={f"c{n}": 1}) for n in range(9)])
    command = [sys.executable, SCRIPT, "x", "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


# ---- histories, predicates, rules, partitions ------------------------------------------
def write_history(folder, rows):
    """The history beside the runs file of `write_runs`."""
    keys = {"run_id": pl.String, "_step": pl.Int64, "metric_loss": pl.Float64, "metric_acc": pl.Float64}
    frame = pl.DataFrame(rows, schema=keys, orient="row")
    team = frame.with_columns(entity=pl.lit("team"), project=pl.lit("demo"))
    team.write_parquet(Path(folder, "team_demo_history.parquet"))


values = st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0])


@given(
    st.lists(st.lists(st.tuples(values, values), max_size=25), min_size=1, max_size=4),
    st.none() | st.randoms(),
    st.sampled_from([1, 40, 10_000_000]),
)
@settings(max_examples=30)
def test_history_columns_are_what_plain_python_computes(histories, random, cells):
    """In order or not, of all runs at once or of some at a time."""
    with TemporaryDirectory() as folder:
        write_runs(Path(folder), [Run(f"{n}") for n in range(len(histories))])
        rows = [(f"{n}", step, *pair) for n, pairs in enumerate(histories) for step, pair in enumerate(pairs)]
        if random:
            random.shuffle(rows)
        write_history(folder, rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aggregate_runs, "CELLS", cells)
            run(folder, "--history", "--at", "loss", "-o", Path(folder, "y.parquet"))
        frame = pl.read_parquet(Path(folder, "y.parquet")).sort("id")
    for row, pairs in zip(frame.iter_rows(named=True), histories, strict=True):
        logged = [(step, loss) for step, (loss, _) in enumerate(pairs) if loss is not None]
        finite = [(step, loss) for step, loss in logged if math.isfinite(loss)]
        assert row["history_n_loss"] == (len(finite) if pairs else None)
        assert row["history_n_nonfinite_loss"] == (len(logged) - len(finite) if pairs else None)
        assert same(row["history_last_loss"], logged[-1][1] if logged else None)
        if not finite:
            assert row["history_min_loss"] is row["history_tail_loss"] is row["history_at_acc"] is None
            continue
        step, best = min(finite, key=lambda each: each[1])
        assert (row["history_min_loss"], row["history_min_step_loss"]) == (best, step)
        step_of_max, most = max(finite, key=lambda each: each[1])
        assert (row["history_max_loss"], row["history_max_step_loss"]) == (most, step_of_max)
        tail = [loss for _, loss in finite][-max(1, len(finite) // 10) :]
        assert row["history_tail_loss"] == pytest.approx(math.fsum(tail) / len(tail))
        before = [acc for _, acc in pairs[: step + 1] if acc is not None]
        assert same(row["history_at_acc"], before[-1] if before else None)


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


def test_rules_of_a_file_come_before_the_built_in_ones_and_are_explained():
    Path("r.toml").write_text('[[rule]]\ncolumn = "opt"\npattern = "(adam|sgd)"\n')
    write_runs(Path("x"), [Run("a", "Adam_k2")])
    assert aggregated("x", "--rules", "r.toml").select("opt", "k").row(0) == ("adam", 2)
    out, _ = run("--rules", "r.toml", "--explain", "Adam_k2")
    assert out.startswith("opt          adam  by (adam|sgd)  (r.toml: rule 1)\n")


def test_rules_read_tags_and_there_may_be_none():
    Path("r.toml").write_text('[[rule]]\ncolumn = "opt"\nsource = "tags"\npattern = "(adam|sgd)"\n')
    write_runs(Path("x"), [Run("a", tags=["new", "SGD"]), Run("b")])
    assert aggregated("x", "--rules", "r.toml")["opt"].to_list() == ["SGD", None]
    Path("r.toml").write_text('[[rule]]\ncolumn = "all"\nsource = "tags"\npattern = "^(.*)$"\n')  # with commas
    assert aggregated("x", "--rules", "r.toml")["all"].to_list() == ["new,SGD", ""]
    Path("r.toml").write_text("replace = true")
    assert run("--rules", "r.toml", "--explain", "a")[0] == "no rules: --rules has replace = true and no [[rule]]\n"
    assert aggregated("x", "--rules", "r.toml").width == 37 - len(DERIVED)


def test_a_row_of_an_unknown_time_is_older_than_any_other():
    known = export("x/2", [Run("a", summary={"loss": 2})])
    unknown = export("x/1", [Run("a", summary={"loss": 1})])
    rewritten(unknown, pl.read_parquet(unknown).with_columns(exported_at=pl.lit(None, pl.Datetime("us", "UTC"))))
    assert aggregated("x").select("source_file", "metric_loss").rows() == [(str(known), 2)]


def test_keep_all_keeps_each_export_of_a_run():
    export("x/1", [Run("a")], days=1)
    export("x/2", [Run("a")], days=2)
    files = [f"x/{n}/team_demo_runs.parquet" for n in (1, 2)]
    assert aggregated("x", "--keep", "all")["source_file"].to_list() == files


def test_files_of_other_exporters_get_the_contracts_dtypes():
    rows = {"id": ["a", "b"], "name": ["a", "b"], "state": ["finished"] * 2, "tags": ["['x', \"y's\"]", "[]"]}
    rows |= {"created_at": ["2026-01-01T00:00:00Z", "2026-01-01"], "history_rows": [7.0, math.nan]}
    Path("x").mkdir()
    pl.DataFrame(rows).write_parquet("x/other.parquet")
    frame = aggregated("x").sort("id")
    assert frame["tags"].to_list() == [["x", "y's"], []]
    assert frame["created_at"].to_list() == [START, START]
    assert frame["history_rows"].to_list() == [7, None]
    found = {row["column"]: (row["found"], row["became"]) for row in report("x")["conflicts"]}
    text = {"created_at": ("String", str(pl.Datetime("us", "UTC"))), "tags": ("String", "List(String)")}
    assert found == text | {"history_rows": ("Float64", "Int64")}


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-01T10:00:00", START + timedelta(hours=10)),
        ("2026-01-01 10:00:00.25 UTC", START + timedelta(hours=10, seconds=0.25)),
        ("2026-01-01 10:00:00+02:00", START + timedelta(hours=8)),
        ("2026-01-01T10:00:00-0130", START + timedelta(hours=11, minutes=30)),
        ("2026-01-01T10:00:00.5Z", START + timedelta(hours=10, seconds=0.5)),
    ],
)
def test_times_as_other_exporters_write_them(text, time):
    foreign({"created_at": [text, None]})
    assert aggregated("x").filter(id="f1")["created_at"].to_list() == [time]


def foreign(columns):
    """A file of two runs as another tool might write it."""
    Path("x").mkdir(exist_ok=True)
    rows = {"id": ["f1", "f2"], "name": ["a_k3", "b"], "state": ["finished", "crashed"]} | columns
    pl.DataFrame(rows).write_parquet("x/foreign.parquet")


def test_a_column_that_is_called_like_a_derived_one_is_not_lost():
    foreign({"stage": ["mine", None], "k": [1.5, 2.5]})
    frame = aggregated("x")
    assert frame.select("k", "stage", "k__own", "stage__own").rows() == [
        (3, None, 1.5, "mine"),
        (None, None, 2.5, None),
    ]
    _, err = run("x", "-o", "one.parquet")
    assert "k__own is called k in 1 file\n" in err
    assert aggregated("one.parquet", "-o", "two.parquet").equals(frame)  # and in an aggregate it is a derived column
    assert aggregated("x", "--no-enrich")["k"].to_list() == [1.5, 2.5]


def test_a_name_of_our_own_making_is_refused():
    write_runs(Path("x"), [Run("a")])
    foreign({"wandb_tools.row": [1, 2]})
    _, err = run("x", code=3)
    assert "x/foreign.parquet was left out: it cannot be read: its column wandb_tools.row has a name that is " in err
    foreign({"*": [1, 2], "^odd.*$": [3, 4]})  # which polars takes for patterns
    assert "its column * has a name that is reserved" in run("x", code=3)[1]
    foreign({"__index_level_0__": [1, 2]})  # pandas'
    assert len(aggregated("x")) == 3


def test_two_partitions_of_one_name_lose_no_rows_silently():
    """polars writes null to the folder that Hive uses for it."""
    runs = [Run("a"), Run("b", group="__HIVE_DEFAULT_PARTITION__")]
    write_runs(Path("x"), runs)
    _, err = run("x", "--partition-by", "group", "-o", "parts", code=1)
    assert "rows are missing" in err or "was not written" in err
    assert not Path("parts").exists()


def test_partitions_are_written_by_project():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("x"), [Run("b")], project="other")
    out, _ = run("x", "--partition-by", "project", "-o", "parts")
    assert out.splitlines() == [f"parts/project={p}/00000000.parquet" for p in ("demo", "other")]
    rows = duckdb.sql(
        "select id, project from read_parquet('parts/**/*.parquet', hive_partitioning = true) order by id"
    )
    assert rows.fetchall() == [("a", "demo"), ("b", "other")]


def test_histories_in_any_order_count_and_sampled_or_damaged_ones_do_not():
    write_runs(Path("x"), [Run("a"), Run("b"), Run("c")])
    rows = [("b", 1, 5.0, 1.0), ("a", 2, 1.0, 3.0), ("b", 0, 4.0, 2.0), ("a", 0, 2.0, 7.0), ("a", 1, 1.0, 9.0)]
    write_history(Path("x"), rows)
    Path("x/team_demo_history.parquet").rename("x/team_demo_history_sampled.parquet")
    write_history(Path("x"), rows)
    Path("x/other_history.parquet").write_bytes(b"PAR1")
    out, err = run("x", "--history", "--at", "loss", code=3)
    frame = pl.read_parquet(out.strip()).sort("id")
    assert frame["history_min_loss"].to_list() == [1.0, 4.0, None]
    assert frame["history_min_step_loss"].to_list() == [1, 0, None]  # the first of two equal ones
    assert frame["history_at_acc"].to_list() == [9.0, 2.0, None]
    assert frame["history_last_acc"].to_list() == [3.0, 1.0, None]
    assert "not merged: 1 sampled history file (--json lists all)\n" in err
    assert err.count("error: x/other_history.parquet was left out: it cannot be read") == 1
    _, err = run("x", "x/team_demo_history.parquet", "--history", code=3)  # named, and no runs file
    assert "error: x/team_demo_history.parquet was left out: it holds no runs: it is a history file; " in err
    assert "without history: 1 run\n" in err


def test_damage_in_a_history_that_its_footer_does_not_show_costs_that_history_only():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_history(Path("x"), [("a", 0, 2.0, 3.0)])
    file = Path("x/rotten_history.parquet")
    keys = {"run_id": ["b"] * 99, "entity": ["team"] * 99, "project": ["demo"] * 99}
    pl.DataFrame(keys | {"_step": range(99), "metric_loss": [0.5] * 99}).write_parquet(file)
    content = bytearray(file.read_bytes())
    start = pq.read_metadata(file).row_group(0).column(0).dictionary_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    document = report("x", "--history", "-o", "y.parquet", code=3)
    assert [(row["file"], row["kind"], row["failure"]) for row in document["skipped"]] == [
        ("x/rotten_history.parquet", "damaged", True)
    ]
    frame = pl.read_parquet("y.parquet").sort("id")
    assert frame["history_min_loss"].to_list() == [2.0, None]


def test_what_an_earlier_result_says_of_histories_that_are_gone_is_kept():
    write_runs(Path("x"), [Run("a")])
    write_history(Path("x"), [("a", 3, 2.0, 3.0)])
    run("x", "--history", "-o", "first.parquet")
    Path("x/team_demo_history.parquet").unlink()
    write_runs(Path("y"), [Run("b")], project="other")
    later = pl.DataFrame({"run_id": ["b"], "_step": [7], "metric_loss": [4]})
    later.with_columns(entity=pl.lit("team"), project=pl.lit("other")).write_parquet("y/h.parquet")
    frame = aggregated("first.parquet", "y", "--history", "-o", "second.parquet")
    assert frame.select("id", "history_min_loss", "history_min_step_loss", "history_max_acc").rows() == [
        ("a", 2.0, 3, 3.0),
        ("b", 4.0, 7, None),
    ]
    _, err = run("y", "--history")
    assert "skipped" not in err  # it is read
    _, err = run("x", "--history", "--at", "loss", code=1)
    assert err == "error: --history: no history files; export_runs.py --include-history writes them\n"


@pytest.mark.parametrize(
    ("flags", "column", "value"),
    [(["--history-metrics", "acc"], "history_max_acc", 3.0), (["--history-metrics", "LO*"], "history_max_loss", 2.0)],
)
def test_history_metrics_are_chosen_by_glob(flags, column, value):
    write_runs(Path("x"), [Run("a")])
    write_history(Path("x"), [("a", 0, 2.0, 3.0), ("a", 1, 1.0, 2.0)])
    frame = aggregated("x", "--history", *flags)
    assert frame[column].to_list() == [value]
    chosen = {name.rpartition("_")[2] for name in frame.columns if name.startswith("history_max_")}
    assert chosen == {column.rpartition("_")[2]}
    _, err = run("x", "--history", "--history-metrics", "los", code=2)
    assert "no such metric; did you mean loss" in err


@pytest.mark.parametrize(("at", "acc"), [("loss", 2.0), ("loss:max", 3.0), ("acc", 3.0), ("metric_acc:min", 2.0)])
def test_the_best_step_of_another_metric(at, acc):
    write_runs(Path("x"), [Run("a")])
    write_history(Path("x"), [("a", 0, 2.0, 3.0), ("a", 1, 1.0, 2.0), ("a", 2, math.nan, math.inf)])
    assert aggregated("x", "--history", "--at", at)["history_at_acc"].to_list() == [acc]


def test_files_that_interleave_are_merged_in_pieces(monkeypatch):
    """Rows of several files in turn, more than are held at once."""
    for number in range(4):
        runs = [Run(f"r{n:03d}", created_at=START + timedelta(hours=n)) for n in range(number, 200, 4)]
        write_runs(Path(f"x{number}"), runs)
    monkeypatch.setattr(aggregate_runs, "CELLS", 1000)
    assert aggregated("x0", "x1", "x2", "x3")["id"].to_list() == [f"r{n:03d}" for n in range(200)]


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


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ('[[rule]]\ncolumn = "x"\n', "rule 1: it needs column and pattern"),
        ('[[rule]]\ncolumn = "x"\npattern = "("\n', "rule 1: its pattern ( is not a regular expression"),
        ('[[rule]]\ncolumn = "x"\npattern = "a"\n', "rule 1: its pattern a has no group"),
        (
            '[[rule]]\ncolumn = "config_lr"\npattern = "(a)"\n',
            "rule 1: column may have only letters, digits and _, and may not",
        ),
        ('[[rule]]\ncolumn = "Arch"\npattern = "(a)"\n', "may not be every export's, or a rule's in other case"),
        ('[[rule]]\ncolumn = "x"\npattern = "(a)"\ndtype = "number"\n', "rule 1: unknown dtype number"),
        ("rule = 1", "it may hold only [[rule]] tables"),
        ("[[", "cannot be read as TOML"),
        (None, "--rules r.toml cannot be read as TOML: No such file or directory"),
    ],
)
def test_a_bad_rule_is_named(rules, message):
    if rules is not None:
        Path("r.toml").write_text(rules)
    write_runs(Path("x"), [Run("a")])
    out, err = run("x", "--rules", "r.toml", code=2)
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


def test_rules_replace_and_read_configs():
    rules = """
        replace = true
        [[rule]]
        column = "size"
        pattern = "([0-9]+)"
        source = "config_layers"
        dtype = "int"
        [[rule]]
        column = "big"
        pattern = "large|huge"
        value = true
        dtype = "bool"
    """
    Path("r.toml").write_text(rules)
    write_runs(Path("x"), [Run("a", "Huge_k2", config={"layers": 12}), Run("b", "small")])
    frame = aggregated("x", "--rules", "r.toml").sort("id")
    assert frame["size"].to_list() == [12, None]
    assert frame["big"].to_list() == [True, None]
    assert "stage" not in frame.columns


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


# ---- parts whose mistakes nothing else noticed ---------------------------------
@pytest.mark.parametrize(
    ("dtype", "prefix", "wanted"),
    [
        (pl.Date(), "", pl.Date()),  # of another tool: neither of the contract nor of W&B
        (pl.Duration("us"), "", pl.Duration("us")),
        (pl.List(pl.Int8), "", pl.List(pl.Int8)),
        (pl.Date(), "config_", pl.String()),
        (pl.Int8(), "", pl.Int64()),
        (pl.UInt64(), "config_", pl.Float64()),
        (pl.Float32(), "", pl.Float64()),
        (pl.Boolean(), "metric_", pl.Int64()),
        (pl.Boolean(), "config_", pl.Boolean()),
    ],
)
def test_the_plain_dtype(dtype, prefix, wanted):
    assert aggregate_runs.plain(dtype, prefix) == wanted


def test_the_tail_is_the_mean_of_the_last_tenth():
    write_runs(Path("x"), [Run("a")])
    write_history("x", [("a", step, float(step), None) for step in range(20)])
    assert aggregated("x", "--history")["history_tail_loss"].to_list() == [18.5]


def test_a_rule_may_have_all_its_entries():
    rule = {"column": "x", "pattern": "a", "source": "notes", "value": 1, "dtype": "int"}
    assert aggregate_runs.flaw_of_table(rule) is None


def test_the_words_for_true_and_false():
    Path("r.toml").write_text("[[rule]]\ncolumn = 'x'\npattern = 'x=(.*)'\ndtype = 'bool'\n")
    words = {True: ["true", "1", "Yes", "on"], False: ["False", "0", "no", "off"], None: ["2", ""]}
    wanted = {f"x={word}": value for value, texts in words.items() for word in texts}
    write_runs(Path("x"), [Run(str(number), name) for number, name in enumerate(wanted)])
    frame = aggregated("x", "--rules", "r.toml")
    assert dict(frame.select("name", "x").iter_rows()) == wanted


def test_a_pattern_with_capitals_matches_names_in_any_case():
    Path("r.toml").write_text("[[rule]]\ncolumn = 'x'\npattern = '(Adam)'\n")
    write_runs(Path("x"), [Run("a", "run_ADAM"), Run("b", "Run_adam")])
    assert aggregated("x", "--rules", "r.toml")["x"].to_list() == ["adam", "adam"]


def test_far_names_are_no_suggestion():
    assert aggregate_runs.did_you_mean("zzzz", ["abc"]) == ""


def test_doctests():
    assert doctest.testmod(aggregate_runs).failed == 0
