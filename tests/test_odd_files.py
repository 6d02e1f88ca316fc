"""Parquet files that no export writes: an answer, or a line that names them; and SQL values that few tools hold."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import tempfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import aggregate_runs
import analyze_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from aggregate import in_a_folder_of_its_own
from contract_files import Run, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st

__all__ = ["in_a_folder_of_its_own"]  # a fixture
RUNS = [Run(name, config={"k": k}, summary={"loss": 1.0 + k}) for k, name in enumerate("abc")]
QUESTIONS = [["--schema"], ["--top", "2", "-m", "loss"], ["--diff", "a", "b"], ["--varying"], ["--health"]]
QUESTIONS += [["--group-by", "k", "-m", "loss"], ["--where", "k < 2", "--schema"], ["--sql", "FROM runs"], []]


def rewritten(metadata: dict | None = None, **columns: pl.Series) -> str:
    file = write_runs(Path("x"), RUNS)
    frame = pl.read_parquet(file).with_columns(**columns)
    stored = {key: text for key, text in pl.read_parquet_metadata(file).items() if key.startswith("wandb_tools")}
    frame.write_parquet(file, metadata=stored | (metadata or {}))
    return str(file)


def three(values: list, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    return pl.Series(values * (3 // len(values)), dtype=dtype)


@pytest.mark.parametrize(
    "columns",
    [
        {"id": three([1, 2, 3], pl.Int64)},
        {"id": three([1.5, 2.0, None], pl.Float64)},
        {"name": three([None], pl.Null), "state": three([None], pl.Null), "created_at": three([None], pl.Null)},
        {"name": three([7], pl.Int8), "entity": three([True], pl.Boolean), "project": three([b"\xff"], pl.Binary)},
        {"source_file": three([datetime(2026, 1, 1, tzinfo=UTC)], pl.Datetime("us", "UTC"))},
        {"source_file": three(["\x00", "x" * 5000, "s3://b/x.parquet"], pl.String)},
        {"created_at": three([2**62], pl.Int64).cast(pl.Datetime("us"))},
        {"created_at": three([datetime(2026, 1, 1, tzinfo=UTC)], pl.Datetime("ns", "Asia/Kolkata"))},
        {"last_step": three([None], pl.Null), "history_rows": three([None], pl.Null)},
        {"config_k": three([0, 2**64 - 1, None], pl.UInt64)},
        {"metric_loss": three([1e308, -1e308, 1e200], pl.Float64)},
        {"odd": three([[1, None], [], None], pl.List(pl.Int64))},
        {"__index_level_0__": three([0, 1, 2], pl.Int64)},  # pandas writes one
        {"": three([0, 1, 2], pl.Int64)},
    ],
    ids=str,
)
def test_columns_of_other_dtypes_are_understood(columns, capsys):
    file = rewritten(**columns)
    for question in QUESTIONS:
        code = analyze_runs.main([file, *question, "--json"])
        out, err = capsys.readouterr()
        assert code == 0, (question, err)
        assert json.loads(out)["version"] == 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": three([["a"]], pl.List(pl.String))}, "its column id has the type List(String)"),
        ({"created_at": three(["2026-01-01"], pl.String)}, "its column created_at has the type String"),
        ({"last_step": three(["7"], pl.String)}, "its column last_step has the type String"),
        ({"odd": three([[b"\xff"]], pl.List(pl.Binary))}, "its column odd has the type List(Binary)"),
        ({"odd": three([[Decimal("1.5")]], pl.List(pl.Decimal(20, 2)))}, "its column odd has the type List(Decimal"),
        ({"odd": three([[timedelta(1)]], pl.List(pl.Duration("us")))}, "its column odd has the type List(Duration"),
        ({"*": three([1.5], pl.Float64)}, "its column * has a name that means a pattern"),
        ({"^m.*$": three([1.5], pl.Float64)}, "its column ^m.*$ has a name that means a pattern"),
    ],
    ids=str,
)
def test_columns_that_no_question_can_take_are_named(columns, said, capsys):
    file = rewritten(**columns)
    assert analyze_runs.main([file, "--schema"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{file} cannot be read: {said}" in err
    write_runs(Path("x"), RUNS, project="sound")
    assert analyze_runs.main(["x", "--schema"]) == 3  # in a folder it costs only itself
    assert f"left out: {file} cannot be read: {said}" in capsys.readouterr().err


def assert_left_out(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named in one line; a merge, which goes on without it, says in another that no runs are left."""
    assert analyze_runs.main([file, "--schema"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {file} cannot be read: ")
    assert aggregate_runs.main([file, "-o", "y.parquet"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert err.startswith(f"error: {file} was left out: it cannot be read: ")
    assert err.endswith(f"\nerror: no runs in {file}; export_runs.py writes runs files\n")
    assert not Path("y.parquet").exists()


NO_OBJECTS = ("", "[]", "1", "null", '"x"', "{", "[" * 20_000)
NO_PATHS = ('"loss"', '["loss", 1]', "null", '{"goal": ["minimize"]}')


@pytest.mark.parametrize(
    ("key", "document"),
    [
        *(("columns", document) for document in NO_OBJECTS),
        *(("metrics", document) for document in NO_OBJECTS),
        *(("columns", f'{{"metric_loss": {path}}}') for path in NO_PATHS),
    ],
    ids=lambda text: text[:30],
)
def test_a_file_whose_metadata_is_no_such_is_left_out(key, document, capsys):
    assert_left_out(rewritten({f"wandb_tools.{key}": document}), capsys)


@pytest.mark.parametrize("goal", ['["\\ud800"]', *NO_PATHS])
def test_what_is_no_goal_of_a_metric_is_none(goal, capsys):
    file = rewritten({"wandb_tools.metrics": f'{{"metric_loss": {goal}}}'})
    for main, arguments in ((analyze_runs.main, ["--schema"]), (aggregate_runs.main, ["-o", "y.parquet"])):
        assert main([file, *arguments, "--quiet"]) == 0
        assert capsys.readouterr().err == ""
    assert analyze_runs.main(["y.parquet", "--top", "1", "-m", "loss"]) == 0
    assert "lower is better (guessed by name)" in capsys.readouterr().out


def test_a_path_of_half_a_surrogate_pair_is_no_bug(capsys):
    file = rewritten({"wandb_tools.columns": '{"metric_loss": ["\\ud800"]}'})
    assert analyze_runs.main([file, "--schema", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {file} cannot be read: ")
    assert aggregate_runs.main([file, "-o", "y.parquet", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [b"\xff\xfe", b'{"metric_loss": ["\xff"]}'])
def test_a_file_whose_metadata_is_no_text_is_left_out(value, capsys):
    file = rewritten()
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"wandb_tools.columns": value}), file)
    assert_left_out(file, capsys)


@pytest.mark.parametrize("flags", [["--json"], [], ["-o", "y.svg"]])
def test_a_pivot_takes_nan_and_null_as_values(flags, capsys):
    settings_ = [(k, arch) for k in (math.nan, 1.0, math.inf, None) for arch in ("a", "b")]
    runs = [Run(f"r{n}", config={"k": k, "arch": arch}, summary={"loss": n}) for n, (k, arch) in enumerate(settings_)]
    file = str(write_runs(Path("x"), runs))
    assert analyze_runs.main([file, "--pivot", "k,arch", "-m", "loss", *flags]) == 0
    out = capsys.readouterr().out
    if flags == ["--json"]:
        means = {(row["rows"], row["columns"]): row["mean"] for row in json.loads(out)["pivot"]}
        spelt = {math.inf: "Infinity"}
        assert means == {("NaN" if k != k else spelt.get(k, k), arch): n for n, (k, arch) in enumerate(settings_)}
    elif not flags:
        assert [line.split()[0] for line in out.splitlines()[3:7]] == ["1", "inf", "nan", "null"]
    else:
        assert out == "y.svg\n"
        heads = re.findall("<text[^>]*>([^<]*)<", Path("y.svg").read_text("utf-8"))[-4:]
        assert heads == ["1", "inf", "nan", "null"]


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("SELECT 1::VARIANT AS a", {"a": "1"}),
        ("SELECT union_value(b := 1) AS a", {"a": "1"}),
        ("SELECT 'infinity'::TIMESTAMP AS a, TIMESTAMP '290000-01-01' AS b", {"a": None, "b": None}),
        ("SELECT 1 AS a, 2 AS a", {"a": 1, "a_1": 2}),
        ("SELECT 'a)'::ENUM('a)', 'it''s') AS a", {"a": "a)"}),
        ("SELECT r.id, s.id FROM runs r JOIN runs s ON r.k = s.k + 2", {"id": "c", "id_1": "a"}),
    ],
)
def test_sql_values_that_few_tools_hold(query, row, capsys):
    assert analyze_runs.main([rewritten(), "--sql", query, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sql"] == [row]


def test_sql_reads_times_of_a_day(capsys):
    file = write_runs(Path("x"), [Run("a")])
    pl.read_parquet(file).with_columns(hour=pl.time(1, 2, 3)).write_parquet(file)
    for query in ("SELECT hour FROM runs", "SELECT [hour] AS hour FROM runs"):
        assert analyze_runs.main([str(file), "--sql", query, "--json"]) == 0
        assert "01:02:03" in str(json.loads(capsys.readouterr().out)["sql"][0]["hour"])


@given(places=st.lists(st.tuples(st.integers(4, 2_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=25, derandomize=True)  # polars ends the process at one damage in some thousands
def test_damage_is_told_alike_by_every_question(places):
    with tempfile.TemporaryDirectory() as folder:
        file = write_runs(Path(folder), RUNS)
        content = bytearray(file.read_bytes())
        for place, value in places:
            content[min(place, len(content) - 5)] = value
        file.write_bytes(content)
        for question in (["--schema", "--columns", "loss"], ["--sql", "SELECT metric_loss FROM runs"]):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = analyze_runs.main([str(file), *question, "--quiet"])
            said = err.getvalue()
            assert "a bug in this script" not in said
            assert (code, said.count("\n")) in {(0, 0), (1, 1)} or "column is called" in said or "not found" in said, (
                said
            )


@settings(max_examples=60)
@given(
    one=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5),
    other=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5),
)
def test_welch_takes_all_finite_numbers(one, other):
    pairs = [pl.Series(values) for values in (one, other)]
    p = analyze_runs.welch_p(*((pair.mean(), pair.std(), len(pair)) for pair in pairs))
    assert p is None or 0 <= p <= 1 + 1e-9


@pytest.mark.parametrize("text", ["name = '\udc80'", "SELECT '\udcff'"])
@pytest.mark.parametrize("flag", ["--where", "--sql", "--explain", "-o"])
def test_bytes_that_are_no_utf8_are_one_line(flag, text, capsys):
    for main in (analyze_runs.main, aggregate_runs.main):
        assert main(["x", flag, text]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", "error: an argument is not UTF-8 text; see --help\n")


@pytest.mark.parametrize("flags", [["--max-rows", "9" * 30], ["--top", "9" * 30, "-m", "loss"], ["--points", "9" * 30]])
def test_numbers_past_64_bits_mean_all(flags, capsys):
    assert analyze_runs.main([rewritten(), *flags, "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["top"]] == ["a", "b", "c"]


@pytest.mark.parametrize("ranges", ["1000", "9" * 30, "9" * 5000])
def test_so_many_ranges_are_no_column(ranges, capsys):
    assert analyze_runs.main([rewritten(), "--group-by", f"k:{ranges}", "-m", "loss"]) == 2
    assert f"there is no column k:{ranges}" in capsys.readouterr().err


def test_a_rule_of_dates_is_named(capsys):
    Path("rules.toml").write_text("[[rule]]\ncolumn = 'x'\npattern = '(a)'\nvalue = 2026-01-31\n")
    assert aggregate_runs.main([rewritten(), "--rules", "rules.toml"]) == 2
    assert "rules.toml: rule 1: all entries must be text" in capsys.readouterr().err
