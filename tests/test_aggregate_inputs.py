"""What aggregate_runs.py reads: which files, damaged ones, those of other tools; and one schema for all of them."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import aggregate_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from aggregate import (  # noqa: F401 - fixtures
    aggregated,
    foreign,
    history,
    in_a_folder_of_its_own,
    metadata,
    report,
    rewritten,
    run,
    same,
    write_history,
)
from contract_files import START, Run, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st

# --- which files ----------------------------------------------------------------------------------------------


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


def test_the_tools_own_files_are_no_foreign_ones():
    write_runs(Path("x"), [Run("a")])
    keys = {"run_id": ["a"], "entity": ["team"], "project": ["demo"]}
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    pl.DataFrame(keys | {"_runtime": [1.0], "_timestamp": [1.0]}).write_parquet("x/team_demo_system.parquet")
    console = {"line": [0], "time": [START], "stream": ["stdout"], "text": ["hi"]}
    pl.DataFrame(keys | console).write_parquet("x/team_demo_console.parquet")
    table = {"row": [0], "id": ["t"], "name": ["n"], "state": ["s"], "_step": [1]}  # its columns look like runs'
    pl.DataFrame(keys | table).write_parquet("x/team_demo_table_eval.parquet")
    out, err = run("x")
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert "foreign" not in err
    assert "not merged: 1 console file, 1 history file, 1 system file, 1 table file (--history" in err
    kinds = {row["file"]: row["kind"] for row in report("x")["skipped"]}
    assert kinds["x/team_demo_console.parquet"] == "console"
    assert kinds["x/team_demo_table_eval.parquet"] == "table"
    _, err = run("x", "x/team_demo_table_eval.parquet", "--quiet", code=3)
    assert "error: x/team_demo_table_eval.parquet was left out: it holds no runs: it is a table file; " in err


def test_files_directories_and_globs_in_any_mix_count_each_file_once():
    write_runs(Path("x1"), [Run("a")])
    write_runs(Path("x2"), [Run("b")])
    file = write_runs(Path("y"), [Run("c")])
    history(Path("y/h.parquet"))
    frame = aggregated("x*", "x1", file, "y/*.parquet", "y/../x2")
    assert sorted(frame["id"]) == ["a", "b", "c"]


def test_an_answer_of_analyze_runs_is_passed_over():
    file = write_runs(Path("x"), [Run("a")])
    pl.read_parquet(file).write_parquet("x/a_top.parquet", metadata={aggregate_runs.RESULT_KEY: "1"})
    skipped = report("x", "-o", "y.parquet")["skipped"]
    assert [(row["file"], row["kind"], row["failure"]) for row in skipped] == [("x/a_top.parquet", "result", False)]


def test_an_earlier_result_that_is_merely_found_is_no_input():
    write_runs(Path("x"), [Run("a")])
    first = aggregated(".", "-o", "all.parquet")
    assert aggregated(".", "-o", "all.parquet").equals(first)
    assert report(".", "-o", "all.parquet")["summary"][0]["rows_read"] == 1


def test_an_earlier_result_in_partitions_is_an_input_if_it_is_named():
    to_parts = ["--partition-by", "project", "-o", "parts"]
    run(write_runs(Path("x"), [Run("a")]), *to_parts)
    run("parts", write_runs(Path("x"), [Run("b")], project="other"), *to_parts)
    assert pl.read_parquet("parts/**/*.parquet")["id"].sort().to_list() == ["a", "b"]


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


# --- what cannot be read --------------------------------------------------------------------------------------


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


def test_links_that_form_a_loop_are_named():
    Path("loop.parquet").symlink_to("loop.parquet")
    _, err = run("loop.parquet", "-o", "loop.parquet", code=1)
    assert err.startswith("error: loop.parquet was left out: it cannot be read: ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_file_name_that_is_not_utf_8_costs_that_file_only():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("y"), [Run("b")]).rename(os.fsdecode(b"x/\xff_runs.parquet"))
    out, err = run("x", code=3)
    assert pl.read_parquet(out.strip())["id"].to_list() == ["a"]
    assert err.startswith("error: x/\ufffd_runs.parquet was left out: it cannot be read: ")


def test_ctrl_c_while_polars_runs_python_is_no_damage(monkeypatch):
    """Polars panics then: sound files were left out, and the earlier result was replaced by one without them."""

    def interrupt(_: object) -> pl.LazyFrame:
        raise KeyboardInterrupt

    write_runs(Path("x"), [Run("a")])
    aggregated("x")
    before = Path("analysis/unified.parquet").read_bytes()
    schema = {"id": pl.String}
    source = pl.io.plugins.register_io_source(interrupt, schema=lambda: interrupt(schema))
    monkeypatch.setattr(aggregate_runs, "scan_file", lambda _: source)
    with pytest.raises((pl.exceptions.PolarsError, pl.exceptions.PanicException)):
        source.collect_schema()
    assert run("x", code=130)[1] == "interrupted\n"
    assert Path("analysis/unified.parquet").read_bytes() == before


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


def test_not_a_number_does_not_hide_a_value_that_the_column_cannot_hold():
    file = write_runs(Path("x"), [Run("a"), Run("b")])
    rewritten(file, pl.read_parquet(file).with_columns(last_step=pl.Series([math.nan, 7.5])))
    _, err = run("x", code=1)
    assert "its column last_step holds 7.5, which is not of the type Int64" in err
    rewritten(file, pl.read_parquet(file).with_columns(last_step=pl.Series([math.nan, 7.0])))
    assert aggregated("x")["last_step"].to_list() == [None, 7]


def test_many_notes_of_one_kind_are_folded():
    write_runs(Path("x"), [Run("a")])
    for number in range(9):
        Path(f"x/cut{number}.parquet").write_bytes(b"PAR1")
    _, err = run("x", "--quiet", code=3)
    lines = err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("error: x/cut") for line in lines[:5])
    assert lines[5] == "error: 4 more inputs were left out; --json lists all"
    assert len(report("x", code=3)["skipped"]) == 9
    for number in range(6, 9):
        Path(f"x/cut{number}.parquet").unlink()
    assert run("x", "--quiet", code=3)[1].count("error: x/cut") == 6  # a line for one more would take as much room


# --- files of other tools -------------------------------------------------------------------------------------


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


def test_columns_of_other_tools_that_differ_only_in_case_stay_apart():
    for number, column in enumerate(["Team", "team", "Stage", "stage", "team", "Config_lr"]):
        file = write_runs(Path(f"x/{number}"), [Run(str(number), config={"lr": number})])
        rewritten(file, pl.read_parquet(file).with_columns(pl.lit(number).alias(column)))
    frame = aggregated("x").sort("id")
    assert len({name.lower() for name in frame.columns}) == len(frame.columns)
    rows = {"Team": [0], "team__own": [1, 4], "Stage__own": [2], "stage__own__own": [3], "Config_lr__own": [5]}
    assert {column: frame[column].drop_nulls().to_list() for column in rows} == rows
    assert frame["config_lr"].to_list() == [*range(6)]


def test_names_of_ours_may_be_names_of_users():
    columns = {name: [1, 2] for name in ("__row", "__file", "__position", "__new", "__has_history", "__best")}
    columns |= {"stage": ["s1", "s2"], "stage__own": ["o1", "o2"], "Stage": ["S1", "S2"], "ID": [8, 9]}
    columns |= {"k": [5, 6], "config_k": [7, 8], "source_file": ["f", "g"]}
    foreign(columns)
    frame = aggregated("x", "--keep", "all").sort("id")
    assert len(frame) == 2
    held = {
        tuple(values) for values in frame.to_dict(as_series=False).values() if None not in values and values != [[], []]
    }
    for values in columns.values():
        assert tuple(values) in held
    assert len({name.lower() for name in frame.columns}) == len(frame.columns)
    assert frame["k"].to_list() == [3, None]


def test_a_name_of_our_own_making_is_refused():
    write_runs(Path("x"), [Run("a")])
    foreign({"wandb_tools.row": [1, 2]})
    _, err = run("x", code=3)
    assert "x/foreign.parquet was left out: it cannot be read: its column wandb_tools.row has a name that is " in err
    foreign({"*": [1, 2], "^odd.*$": [3, 4]})  # which polars takes for patterns
    assert "its column * has a name that is reserved" in run("x", code=3)[1]
    foreign({"__index_level_0__": [1, 2]})  # pandas'
    assert len(aggregated("x")) == 3


# --- one schema: names ----------------------------------------------------------------------------------------


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


# --- one schema: dtypes ---------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("values", "dtype", "met"), DTYPES)
def test_dtypes_meet_in_the_narrowest_that_holds_every_value(values, dtype, met):
    write_column(values)
    run("x", "-o", "y.parquet")
    column = pl.read_parquet("y.parquet")["config_v"]
    assert column.dtype == dtype
    assert same(column.to_list(), met)


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


@pytest.mark.parametrize(
    ("dtypes", "value", "met"),
    [
        ((pl.String, pl.Int64), 1, pl.Int64),
        ((pl.Float64, pl.String), "a", pl.String),
        ((pl.Boolean, pl.Int64), 1, pl.Int64),
        ((pl.Int64, pl.Boolean), True, pl.Boolean),
    ],
)
def test_a_column_without_values_disagrees_with_nothing(dtypes, value, met):
    write_runs(Path("x/1"), [Run("a", config={"v": None})], dtypes={"config_v": dtypes[0]})
    write_runs(Path("x/2"), [Run("b", config={"v": value})], dtypes={"config_v": dtypes[1]})
    frame = aggregated("x")
    assert (frame["config_v"].dtype, frame["config_v"].to_list()) == (met, [None, value])
    assert report("x")["conflicts"] == []


def test_text_without_any_value_does_not_turn_booleans_into_text():
    write_runs(Path("x/1"), [Run("a", config={"v": True})])
    write_runs(Path("x/2"), [Run("b", config={"v": None})], dtypes={"config_v": pl.String})
    assert aggregated("x")["config_v"].to_list() == [True, None]


def test_texts_of_numbers_beside_booleans_are_a_metric():
    for folder, value in (("x/1", "0.5"), ("x/2", True)):
        file = write_runs(Path(folder), [Run(folder[-1])])
        pl.read_parquet(file).with_columns(metric_x=pl.lit(value)).write_parquet(file)
    frame = aggregated("x")
    assert (frame["metric_x"].dtype, frame["metric_x"].to_list()) == (pl.Float64, [0.5, 1.0])


@pytest.mark.parametrize(("dtype", "text"), [(pl.Date, "2026-01-01"), (pl.Categorical, "big"), (pl.Time, "10:00:00")])
def test_text_of_other_dtypes_beside_numbers_is_text(dtype, text):
    write_runs(Path("x/1"), [Run("a", config={"v": 7})])
    file = write_runs(Path("x/2"), [Run("b", config={"v": text})])
    value = pl.Series([text]).str.strptime(dtype) if dtype.is_temporal() else pl.Series([text], dtype=dtype)
    rewritten(file, pl.read_parquet(file).with_columns(config_v=value))
    assert aggregated("x")["config_v"].to_list() == ["7", text]


@pytest.mark.parametrize(("text", "met"), [("2", 2), (None, None)])
def test_categories_beside_numbers_are_numbers_if_each_is_one(text, met):
    write_runs(Path("x/1"), [Run("a", config={"v": 7})])
    file = write_runs(Path("x/2"), [Run("b", config={"v": text})])
    rewritten(file, pl.read_parquet(file).with_columns(pl.col("config_v").cast(pl.String).cast(pl.Categorical)))
    assert aggregated("x")["config_v"].to_list() == [7, met]


@given(st.lists(st.floats(), min_size=1, max_size=200))
def test_floats_become_text_as_json_spells_them(values):
    frame = pl.DataFrame({"x": values}).select(aggregate_runs.cast_column("x", pl.Float64(), pl.String()))
    assert frame["x"].to_list() == [json.dumps(value) for value in values]


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


# --- one schema: conflicts ------------------------------------------------------------------------------------


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


def test_integers_beside_floats_are_no_conflict():
    write_runs(Path("x/1"), [Run("a", config={"lr": 1}, summary={"m": 2.5})])
    write_runs(Path("x/2"), [Run("b", config={"lr": 0.5}, summary={"m": 2})])
    assert aggregated("x")["config_lr"].to_list() == [1.0, 0.5]
    assert report("x")["conflicts"] == []
    _, err = run("x")
    assert "in the result it is" not in err


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
