"""Conditions by --where and queries by --sql: names of columns, views, errors."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from datetime import timedelta

import analyze_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from analyze import (  # noqa: F401 - fixtures
    CONSOLE,
    answered,
    ask,
    document,
    grid_file,
    rewrite,
    steps,
    with_machines,
    with_metadata,
    write_history,
)
from contract_files import START, Run, write_rows, write_runs

# --- conditions -----------------------------------------------------------------------------------------------


def test_where(file):
    done = answered(file, "--where", "config_k > 4 AND config_model = 'b'", "--group-by", "k", "-m", "test/mse")
    assert "--where config_k > 4 AND config_model = 'b': 6 of 18 runs kept" in done.err


@pytest.mark.parametrize(
    "where",
    ["k > 4 AND model = 'b'", "\"k\" > 4 AND config_model = 'b'", "\"test/mse\" < 0.33 AND k > 4 AND model = 'b'"],
)
def test_where_takes_wandbs_names(file, where):
    assert sum(row["n"] for row in document(file, "--where", where, "--group-by", "k", "-m", "test/mse")["groups"]) == 6


@pytest.mark.parametrize(
    "where", ["model.k > 1", "model_k > 1", "config_model_k > 1", '"model.k" > 1', "greatest(model.k, 0) > 1 AND true"]
)
def test_a_column_goes_by_three_names_in_a_condition(tmp_path, where):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"model": {"k": n}}, summary={"x_loss": 1.0}) for n in range(4)])
    assert "2 of 4 runs kept" in answered(file, "--where", where, "--top", 1).err


def test_predicates_of_duckdb_are_understood(tmp_path):
    runs = [Run(f"r{n}", config={"opt": "adam" if n else None}, tags=["new"] * n, group=f"g{n}") for n in range(3)]
    file = write_runs(tmp_path, runs)
    for where, kept in {
        "ARRAY_CONTAINS(tags, 'new')": 2,
        "opt IS DISTINCT FROM 'adam'": 1,
        "extract(year FROM created_at) = 2026": 3,
        "name <> 'SELECT' AND \"group\" = 'g1'": 1,
    }.items():
        assert f"--where {where}: {kept} of 3 runs kept" in answered(file, "--where", where, "--varying").err


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("created_at >= '2026-01-03'", 2),
        ("created_at BETWEEN '2026-01-02' AND '2026-01-03 12:00'", 2),
        ("'2026-01-03T00:00:00Z' < created_at", 1),
        ("created_at < '2026-01-02T01:00:00+01:00'", 1),
        ("created_at >= DATE('2026-01-03') AND name = '2026-01-03'", 1),
    ],
)
def test_a_text_compares_with_a_time(tmp_path, where, kept):
    runs = [
        Run(f"r{n}", f"2026-01-{n + 1:02}", summary={"test/mse": 1.0}, created_at=START + timedelta(days=n))
        for n in range(4)
    ]
    assert f"{kept} of 4 runs kept" in answered(write_runs(tmp_path, runs), "--where", where, "--top", 1).err


def test_nan_exceeds_every_number_in_a_condition(tmp_path):
    values = [0.1, math.nan, 0.3, None]
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"test/mse": value}) for n, value in enumerate(values)])
    rows = document(file, "--where", '"test/mse" > 1e300', "-g", "name", "-m", "test/mse")["groups"]
    assert [row["name"] for row in rows] == ["r1"]


@pytest.mark.parametrize("where", ["lr < 4e-3", "lr < .004", "config_lr<4E-3", "e = 1 AND lr < 4e-3 OR lr > 1e300"])
def test_a_number_is_no_name(tmp_path, where):
    runs = [Run(f"r{n}", config={"e": 1, "lr": 10.0**-n}, summary={"test/mse": 1.0}) for n in range(5)]
    assert "2 of 5 runs kept" in answered(write_runs(tmp_path, runs), "--top", 1, "--where", where).err


def test_words_of_sql_are_no_names(tmp_path):
    config = {"lower": "X", "in": 1, "null": 2, "and": 3}
    file = write_runs(tmp_path, [Run("a", config=config, summary={"test/mse": 1.0})])
    where = 'LOWER("lower") = \'x\' AND "in" IN (1, 2) AND name IS NOT NULL'
    assert "1 of 1 run kept" in answered(file, "--top", 1, "--where", where).err


def test_a_select_in_where_is_refused(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    for where in ("id IN (SELECT id FROM read_parquet('x'))", "(select 1) = 1", "id IN ( FROM runs)"):
        answer = ask(file, "--where", where)
        assert answer.code == 2
        assert "not a query" in answer.err
    assert ask(file, "--where", "name = 'select'", "--json").code == 1  # a text


# --- conditions: names that mean several columns --------------------------------------------------------------


def test_where_tells_settings_apart_that_differ_only_in_case(tmp_path):
    for project, name, value in (("p", "lr", 1), ("q", "LR", 2)):
        summary = {"loss": 1.0, name: 0.5}
        write_runs(tmp_path, [Run(project, config={name: value}, summary=summary)], project=project)
    for condition, runs in {
        "config_lr > 0": ["p"],
        "config_LR > 0": ["q"],
        '"lr" > 0': ["p"],
        "\"LR\" > 0 AND name = 'q'": ["q"],
    }.items():
        rows = document(tmp_path, "--top", 2, "-m", "loss", "--where", condition)["top"]
        assert [row["id"] for row in rows] == runs, condition


@pytest.mark.parametrize(
    ("condition", "named"), [("k = 8", True), ("\"k\"=8 AND id = 'k'", True), ("model.k = 8", False)]
)
def test_a_condition_says_which_of_two_columns_it_means(tmp_path, condition, named):
    runs = [Run(each, config={"k": n, "model": {"k": 8 * n}}) for n, each in enumerate("ak", 1)]
    file = write_runs(tmp_path, runs)
    said = answered(rewrite(file, k=pl.Series([8, 8])), "--where", condition, "--schema").err
    assert ("k means the column with this name; write config_k for the setting" in said) == named


def test_a_condition_says_how_to_name_columns_called_as_words_of_sql_or_of_ours(tmp_path):
    runs = [Run(each, config={"select": n, "from": n}, summary={"id": 1.0}) for n, each in enumerate("ab", 1)]
    file = write_runs(tmp_path, runs)
    for condition, word in (("select = 1", "select"), ("id = 'a' AND ( from = 1)", "from")):
        quoted = f'the column {word} goes in double quotes, "{word}"'
        answer = ask(file, "--where", condition, "--schema")
        assert (answer.code, answer.out) == (2, "")
        assert quoted in answer.err
        as_advised = condition.replace(word, f'"{word}"')
        assert f"--where {as_advised}: 1 of 2 runs kept\n" in answered(file, "--where", as_advised, "--schema").err
    answer = ask(file, "--where", "(FROM runs)", "--schema")
    assert (answer.code, answer.out) == (2, "")
    assert "use --sql for queries" in answer.err
    assert "write metric_id for the metric\n" in answered(file, "--where", "id = 'a'", "--schema").err


@pytest.mark.parametrize(("flag", "text"), [("--where", "group = 'g'"), ("--sql", "SELECT group FROM runs")])
def test_an_error_says_that_sql_words_are_quoted(tmp_path, flag, text):
    answer = ask(write_runs(tmp_path, [Run("a", group="g")]), flag, text, "--schema")
    assert answer.code == 2
    assert 'SQL words ("group") in double quotes' in answer.err


# --- queries --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path):
    runs = [
        Run(
            f"r{n}",
            f"run {n}",
            {"optim": {"lr": 0.1 * n}, "k": n % 2},
            {"test/mse": float(n * n), "acc": -n},
            tags=["t"],
        )
        for n in range(5)
    ]
    write_history(tmp_path, [row for n in range(5) for row in steps(f"r{n}", [float(n), n + 1.0, n + 2.0])])
    return write_runs(tmp_path, runs)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT count(*) AS n FROM runs", [{"n": 5}]),
        ('SELECT round(corr("test/mse", metric_acc), 3) AS r FROM runs', [{"r": -0.959}]),
        ("SELECT k, sum(runtime_s) AS s FROM runs GROUP BY k ORDER BY k", [{"k": 0, "s": 180.0}, {"k": 1, "s": 120.0}]),
        ("SELECT median(loss) AS m FROM history WHERE run_id = 'r2'", [{"m": 3.0}]),
        ('SELECT arg_min(name, "test/mse") AS best FROM runs', [{"best": "run 0"}]),
        (
            "SELECT name, max(h.loss) AS m FROM runs JOIN history h ON run_id = id GROUP BY 1 ORDER BY m DESC LIMIT 1",
            [{"name": "run 4", "m": 6.0}],
        ),
        ("SELECT quantile_cont(\"optim.lr\", 0.5) AS q FROM runs WHERE created_at >= '2026-01-01'", [{"q": 0.2}]),
        (
            "SELECT count(v) AS n FROM (UNPIVOT runs ON COLUMNS('^metric_') INTO NAME m VALUE v) WHERE id = 'r1'",
            [{"n": 2}],
        ),
        ("SELECT tags, created_at AS t, 1.5::DECIMAL(4,2) AS d, NULL AS x, 'NaN'::DOUBLE AS nan FROM runs LIMIT 1",
         [{"tags": ["t"], "t": "2026-01-01T00:00:00Z", "d": 1.5, "x": None, "nan": "NaN"}]),
        ("WITH a AS (SELECT row_number() OVER (ORDER BY id) AS i FROM runs) SELECT max(i) AS i FROM a;", [{"i": 5}]),
    ],
)  # fmt: skip
def test_sql(asked, query, rows):
    assert document(asked, "--sql", query)["sql"] == rows


def test_select_all_gives_every_column_once(asked):
    (row, *_) = document(asked, "--sql", "SELECT * FROM runs")["sql"]
    assert {*row} == {*pl.read_parquet_schema(asked)}


def test_what_a_query_names_is_never_left_out(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"lr": 0.01})])
    query = "SELECT config_lr, log10(config_lr) AS lr FROM runs"
    assert document(file, "--sql", query)["sql"] == [{"config_lr": 0.01, "lr": -2.0}]
    assert document(file, "--sql", "SELECT LR AS Lr, config_lr FROM runs")["sql"] == [{"Lr": 0.01, "config_lr": 0.01}]
    assert "lr" not in document(file, "--sql", "SELECT * FROM runs")["sql"][0]


def test_the_columns_of_a_query_always_have_one_order(tmp_path):
    file = write_runs(tmp_path, [Run("a", config={"o": dict.fromkeys("abcdefgh", 1)})])
    command = [sys.executable, analyze_runs.__file__, str(file), "--sql", "SELECT COLUMNS('o[.]') FROM runs", "--json"]
    seeds = [os.environ | {"PYTHONHASHSEED": str(seed)} for seed in (0, 1)]
    texts = {subprocess.run(command, env=seed, capture_output=True, text=True, check=True).stdout for seed in seeds}
    assert len(texts) == 1


def test_a_query_may_end_with_a_line_break(asked):
    assert document(asked, "--sql", "SELECT 1 AS one;\r\n;\n")["sql"] == [{"one": 1}]


def test_sql_takes_its_conditions_in_the_query(asked):
    assert ask(asked, "--sql", "SELECT 1", "--state", "failed").code == 2
    runs = pl.read_parquet(asked)
    crashed = rewrite(asked, state=pl.Series(["crashed"] * runs.height))
    assert document(crashed, "--sql", "SELECT count(*) AS n FROM runs")["sql"] == [{"n": 5}]


def test_a_sum_may_pass_64_bits(tmp_path):
    """It was refused: INT128 cannot be cast to INT64."""
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"flos": 2**62 + 1, "n": 2**53 + n}) for n in range(3)])
    query = "SELECT sum(flos) AS flos, sum(n) AS n, list(sum(n)) OVER () AS list FROM runs"
    assert document(file, "--sql", query)["sql"] == [{"flos": 3.0 * 2**62, "n": 3 * 2**53 + 3, "list": [3 * 2**53 + 3]}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DROP VIEW runs", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("", "one SELECT"),
        ("COPY (SELECT 1) TO 'x.csv'", "one SELECT"),
        ("SELECT * FROM read_csv('{secret}')", "file"),
        ("SELECT * FROM '{secret}'", ""),
        ("SELECT * FROM read_text('{secret}')", "file"),
        ("SELECT * FROM glob('/*')", "file"),
        ("SELECT options FROM runs", "options"),
        ("SELECT * FROM options", "options"),
        ('SELECT "test/msee" FROM runs', "test/mse"),
        ("SELECT metric_tset_mse FROM runs", "metric_test_mse"),
        ("SELEC", "syntax error"),
        ("SELECT * FROM console", "console"),
        ("SELECT current_setting('nothing')", ""),
        ("SELECT getenv('HOME')", ""),
    ],
)
def test_what_is_no_select_or_reads_elsewhere_is_refused(asked, tmp_path, query, said):
    secret = tmp_path / "secret.csv"
    secret.write_text("hidden\n7391640285\n")
    answer = ask(asked, "--sql", query.replace("{secret}", str(secret)), "--quiet", cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert said in answer.err
    assert "7391640285" not in answer.err
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        (("--where", "CAST(config_k AS INT) > 0"), 2, "Could not convert string 'auto' to INT32"),
        (("--sql", "SELECT CAST(config_k AS INT) FROM runs"), 2, "--sql: Conversion Error: Could not convert"),
        (("--where", "config_torn <> ''"), 1, "demo_runs.parquet cannot be read: "),
        (("--sql", "SELECT config_torn FROM runs"), 1, "demo_runs.parquet cannot be read: "),
        (("--sql", "SELECT id FROM runs UNION ALL SELECT list(repeat(a.id, 999))::VARCHAR FROM runs AS a, runs"), 1,
         "--sql: Out of Memory Error: "),
    ],
)  # fmt: skip
def test_what_fails_after_the_first_rows_is_no_bug(tmp_path, question, code, said):
    """From the 2,049th row on, an error of DuckDB reaches Python as one of polars."""
    runs = [Run(f"r{n:04}", config={"k": "1" if n < 2999 else "auto", "torn": f"a text {n}"}) for n in range(3000)]
    file = write_runs(tmp_path, runs)
    rewritten = pl.read_parquet(file)
    rewritten.write_parquet(file, row_group_size=2500, use_pyarrow=True)
    torn = pq.read_metadata(file).row_group(1).column(rewritten.columns.index("config_torn"))
    content = bytearray(file.read_bytes())
    start = torn.dictionary_page_offset or torn.data_page_offset
    content[start + 100 : start + torn.total_compressed_size] = b"\xff" * (torn.total_compressed_size - 100)
    file.write_bytes(content)
    answer = ask(file, *question, "--json")
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


# --- answers --------------------------------------------------------------------------------------------------


def test_sql_is_bounded_for_people_and_whole_for_programs(asked, tmp_path):
    query = "SELECT range AS i FROM range(1000)"
    out = answered(asked, "--sql", query).out
    assert len(out.splitlines()) < 30
    assert "--max-rows 0" in out
    assert len(document(asked, "--sql", query)["sql"]) == 1000
    answered(asked, "--sql", query, "-o", tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["i"].sum() == 499_500


def test_a_single_row_of_an_answer(file):
    assert answered(file, "--sql", "FROM runs SELECT id", "--max-rows", 1).out.startswith("the first 1 row\n")


def test_a_file_holds_all_rows_whatever_a_table_shows(asked, tmp_path):
    answered(asked, "--sql", "FROM range(50)", "--max-rows", 2, "-o", tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 51


def test_a_missing_list_is_empty_in_csv(asked):
    assert answered(asked, "--sql", "SELECT NULL::INTEGER[] AS a, 1 AS b", "--format", "csv").out == "a,b\n,1\n"


# --- names of columns -----------------------------------------------------------------------------------------


def test_histories_are_joined_by_path_not_by_column(tmp_path):
    """Two exports of which one settled a clash of names: train/loss has another column there."""
    for project, paths in {
        "plain": {"metric_train_loss": ["train/loss"]},
        "clash": {"metric_train_loss": ["train_loss"], "metric_train_loss__d5308e80": ["train/loss"]},
    }.items():
        write_runs(tmp_path, [Run(project)], project=project)
        rows = {"run_id": [project] * 3, "_step": [0, 1, 2]}
        values = {
            column: [1.0, math.inf, math.nan] if path == ["train/loss"] else [7.0] * 3 for column, path in paths.items()
        }
        frame = pl.DataFrame(rows | values).with_columns(entity=pl.lit("team"), project=pl.lit(project))
        metadata = {"wandb_tools.columns": json.dumps(paths)}
        frame.lazy().sink_parquet(tmp_path / f"team_{project}_history.parquet", metadata=metadata)
    query = (
        'SELECT project, count("train/loss") AS slash, sum(train_loss) AS flat FROM history GROUP BY ALL ORDER BY ALL'
    )
    rows = document(tmp_path, "--sql", query)["sql"]
    assert rows == [{"project": "clash", "slash": 3, "flat": 21}, {"project": "plain", "slash": 3, "flat": None}]
    problems = document(tmp_path, "--health")["health"]
    assert {row["detail"] for row in problems if row["problem"] == "non-finite"} == {
        "train/loss, 2 values (of 3), the first at step 1"
    }


LOW, HIGH, HASHED = {"metric_loss": ["loss"]}, {"metric_LOSS": ["LOSS"]}, {"metric_loss__5a258448": ["loss"]}


@pytest.mark.parametrize(
    ("named", "columns"),
    [
        ([LOW, HIGH], ("loss__5a258448", "LOSS__c7f60358")),
        ([LOW, HIGH, HIGH | HASHED], ("loss__5a258448", "LOSS__c7f60358")),
        ([HIGH | HASHED], ("metric_loss__5a258448", "metric_LOSS")),
    ],
)
def test_names_that_differ_only_in_case_stay_apart_in_sql(tmp_path, named, columns):
    """SQL takes them for one: the values of both were one column, or one's name gave the other's values."""
    for number, paths in enumerate(named):
        project = f"p{number}"
        write_runs(tmp_path, [Run("a")], project=project)
        rows = {"run_id": ["a"], "_step": [0], "entity": ["team"], "project": [project]}
        frame = pl.DataFrame(rows | {column: [1.0 if path == ["loss"] else 10.0] for column, path in paths.items()})
        metadata = {"wandb_tools.columns": json.dumps(paths)}
        frame.lazy().sink_parquet(tmp_path / f"team_{project}_history.parquet", metadata=metadata)
    [row] = document(tmp_path, "--sql", f"SELECT sum({columns[0]}) AS low, sum({columns[1]}) AS high FROM history")[
        "sql"
    ]
    assert row == {
        "low": sum(1 for paths in named if paths != HIGH),
        "high": sum(10 for paths in named if paths != LOW),
    }
    for name in ("loss", "LOSS"):
        answer = ask(tmp_path, "--sql", f"SELECT {name} FROM history")
        assert (answer.code, answer.out) == (2, "")
        assert f'no column "{name}"' in answer.err


def test_names_that_differ_only_in_case_are_named_by_their_columns(tmp_path):
    """The error said that there is no such column, and that others are similar."""
    file = write_runs(tmp_path, [Run(run, summary={"Best loss": 1.0}) for run in "ab"])
    rewrite(file, metric_best_loss__d6beb5b0=pl.Series([2.0, 3.0]))
    paths = {"metric_Best_loss": ["Best loss"], "metric_best_loss__d6beb5b0": ["best loss"]}
    done = ask(with_metadata(file, columns=json.dumps(paths)), "--sql", 'SELECT "best loss" FROM runs')
    assert done.code == 2
    columns = "metric_Best_loss and metric_best_loss__d6beb5b0"
    assert f"Best loss and best loss differ only in case, which SQL ignores; in runs, they are {columns}" in done.err
    query = f"SELECT max({columns.replace(' and ', ') AS a, max(')}) AS b FROM runs"
    assert document(file, "--sql", query)["sql"] == [{"a": 1.0, "b": 3.0}]


def test_names_of_runs_work_in_sql_if_another_file_has_another_metric_without_values(tmp_path):
    """The column of both stood only under a name with a hash, and --where may have read the empty one."""
    for order in (("p", "q"), ("q", "p")):
        folder = tmp_path / order[0]
        empty = Run("empty", summary={"a": {"b": None}, "loss": 1.0})
        write_runs(folder, [empty], project=order[0], dtypes={"metric_a_b": pl.Float64})
        write_runs(folder, [Run("full", summary={"a_b": 2.5, "loss": 2.0})], project=order[1])
        query = 'SELECT "a_b" AS flat, "a.b" AS nested FROM runs WHERE "a_b" IS NOT NULL'
        assert document(folder, "--sql", query)["sql"] == [{"flat": 2.5, "nested": None}]
        rows = document(folder, "--top", 2, "-m", "loss", "--where", "a_b > 1")["top"]
        assert [row["id"] for row in rows] == ["full"]


def test_names_without_paths_stay_apart_in_sql(tmp_path):
    """A history that another tool rewrote: a bug was reported, or loss and LOSS were one column."""
    files = {}
    for project, column in (("p", "metric_loss"), ("q", "metric_LOSS"), ("r", "metric_loss")):
        write_runs(tmp_path, [Run("a")], project=project)
        files[project] = write_rows(
            tmp_path, "history", {"run_id": ["a"], "_step": [0], column: [1.0]}, project=project
        )
    query = "SELECT project, loss__5a258448 AS low, LOSS__c7f60358 AS high FROM history ORDER BY project"
    expected = [("p", 1.0, None), ("q", None, 1.0), ("r", 1.0, None)]
    assert [(*row.values(),) for row in document(tmp_path, "--sql", query)["sql"]] == expected
    for project, path in (("p", "loss"), ("q", "LOSS")):
        metadata = {"wandb_tools.columns": json.dumps({f"metric_{path}": [path]})}
        pl.read_parquet(files[project]).write_parquet(files[project], metadata=metadata)
    assert [(*row.values(),) for row in document(tmp_path, "--sql", query)["sql"]] == expected


def test_an_empty_key_of_the_config_does_no_harm_to_sql(tmp_path):
    runs = [Run("a", config={"": 1, "k": 2}, summary={"": 3.0}), Run("b", config={"": 2, "k": 3})]
    file = write_runs(tmp_path, runs)
    assert document(file, "--sql", "SELECT id, config_, k FROM runs ORDER BY id LIMIT 1")["sql"] == [
        {"id": "a", "config_": 1, "k": 2}
    ]
    assert document(file, "--where", "k = 3", "--schema", "--columns", "config_")["schema"][0]["max"] == 2


@pytest.mark.parametrize("folder", ["entity=other", "config_k=9", "new=1", "a[1]"])
def test_a_folder_is_no_column(tmp_path, folder):
    file = write_runs(tmp_path / folder, [Run("a", config={"k": 1}), Run("b", config={"k": 2})])
    rows = document(file, "--sql", "SELECT * FROM runs")["sql"]
    assert [(row["entity"], row["config_k"]) for row in rows] == [("team", 1), ("team", 2)]
    assert "new" not in rows[0]
    assert "--where k = 1: 1 of 2 runs kept" in answered(file, "--where", "k = 1", "--schema").err


# --- views ----------------------------------------------------------------------------------------------------


def test_further_files_are_views(asked, tmp_path):
    write_rows(tmp_path, "console", CONSOLE)
    write_rows(tmp_path, "system", {"run_id": ["r0"], "_runtime": [1.0], "_timestamp": [2.0], "system_cpu": [50.0]})
    write_rows(tmp_path, "table_val%2Fsamples", {"run_id": ["r0"], "row": [0], "guess": ["cat"]})
    write_rows(tmp_path, "table_val%3Fsamples", {"run_id": ["r0"], "row": [0], "other": ["dog"]})
    query = (
        "SELECT text, guess, system_cpu FROM console JOIN {} USING (run_id) JOIN system USING (run_id) WHERE line = 0"
    )
    for view in ('"table_val/samples"', "table_val_samples"):
        rows = document(asked, "--sql", query.format(view))["sql"]
        assert rows == [{"text": "step 1", "guess": "cat", "system_cpu": 50.0}]
    said = " ".join(answered(asked, "--schema").out.split())
    assert 'further views of --sql: console, history, system, "table_val/samples", "table_val?samples"' in said
    assert {"console", "history", "runs"} <= {row["name"] for row in document(asked, "--sql", "SHOW TABLES")["sql"]}


def one_row(run: str = "r0", **columns: object) -> dict:
    return {"run_id": [run], "row": [0], **{name: [value] for name, value in columns.items()}}


def test_further_files_beside_the_sources_of_an_aggregate_are_views(tmp_path):
    one = write_runs(tmp_path / "a", [Run("r0")])
    write_runs(tmp_path / "b", [Run("r1")], project="my_table_x")
    write_rows(tmp_path / "a", "console", CONSOLE)
    write_rows(tmp_path / "b", "console", CONSOLE, project="my_table_x")
    write_rows(tmp_path / "b", "table_y", one_row("r1", guess="cat"), project="my_table_x", key="of_table_y")
    both = pl.concat([pl.read_parquet(one), pl.read_parquet(tmp_path / "b" / "team_my_table_x_runs.parquet")])
    sources = pl.Series("source_file", ["a/team_demo_runs.parquet", "b/team_my_table_x_runs.parquet"])
    (tmp_path / "merged").mkdir()
    both.with_columns(sources).write_parquet(tmp_path / "merged" / "unified.parquet")
    for query, rows in (
        ("SELECT count(*) AS n FROM console", [{"n": CONSOLE["run_id"].count("r0") + CONSOLE["run_id"].count("r1")}]),
        ("SELECT project, guess FROM table_of_table_y", [{"project": "my_table_x", "guess": "cat"}]),
    ):
        answer = answered("merged/unified.parquet", "--sql", query, "--json", cwd=tmp_path)
        assert json.loads(answer.out)["sql"] == rows


def test_views_hold_the_runs_of_a_filtered_aggregate_alone(tmp_path):
    file = write_runs(tmp_path / "export", [Run("a"), Run("b")])
    write_history(tmp_path / "export", steps("a", [1.0, 2.0]) + steps("b", [9.0]))
    unified = rewrite(file, source_file=pl.lit(str(file))).rename(tmp_path / "unified.parquet")
    query = 'SELECT sum("loss") AS total FROM history'
    assert document(unified, "--sql", query)["sql"] == [{"total": 12.0}]
    pl.read_parquet(unified).filter(pl.col("id") == "a").write_parquet(unified)
    assert document(unified, "--sql", query)["sql"] == [{"total": 3.0}]


def test_rows_of_a_run_in_two_exports_come_from_the_one_beside_its_source(tmp_path):
    file = with_machines(tmp_path / "new")
    for folder, rows, text in (("new", 1, "new words"), ("old", 3, "old words")):
        of_run = {"run_id": ["r1"] * rows}
        lines = {"line": [*range(rows)], "time": [START] * rows, "stream": ["stderr"] * rows, "text": [text] * rows}
        write_rows(tmp_path / folder, "console", of_run | lines)
        write_rows(tmp_path / folder, "table_t", of_run | {"row": [*range(rows)], "text": [text] * rows}, key="t")
        clocks = {"_runtime": [1.0] * rows, "_timestamp": [2.0] * rows}
        write_rows(tmp_path / folder, "system", of_run | clocks | {"system_cpu": [10.0 * rows] * rows})
    sources = pl.Series([f"{folder}/team_demo_runs.parquet" for folder in ("old", "new", "old", "old")])
    write_rows(tmp_path / "old", "table_u", {"run_id": ["r1"], "row": [0], "text": ["only here"]}, key="u")
    unified = rewrite(file, source_file=sources).rename(tmp_path / "unified.parquet")
    for view, text in (("console", "new words"), ("table_t", "new words"), ("table_u", "only here")):
        answer = answered(unified, "--sql", f"SELECT text FROM {view}", "--json", cwd=tmp_path)
        assert json.loads(answer.out)["sql"] == [{"text": text}]
    answer = answered(unified, "--sql", "SELECT system_cpu AS cpu FROM system", "--json", cwd=tmp_path)
    assert json.loads(answer.out)["sql"] == [{"cpu": 10.0}]
    health = json.loads(answered(unified, "--health", "--json", cwd=tmp_path).out)["health"]
    assert [row["detail"] for row in health if row["problem"] == "crashed"] == ["at step -1: new words"]
    answered(unified, "--report", "r.md", cwd=tmp_path)
    machines = (tmp_path / "r.md").read_text().partition("Machine use")[2].partition("##")[0]
    assert re.search(r"\| *10 *\|", machines)


def test_table_keys_that_are_alike_are_views_of_their_own(asked, tmp_path):
    for n, key in enumerate(["val/preds", "val_preds", "Preds", "preds", ""]):
        write_rows(tmp_path, f"table_{n}", one_row(guess=key), key=key)
    write_rows(tmp_path, "table_p", one_row("r1", guess="of another project"), project="other", key="Preds")
    for view, guesses in {
        '"table_val/preds"': ["val/preds"],
        "table_val_preds": ["val_preds"],  # an exact name comes before a flattened one
        "table_preds": ["Preds", "of another project"],
        "table_preds__0d4a06f7": ["preds"],
        "table_": [""],
    }.items():
        rows = document(asked, "--sql", f"SELECT guess FROM {view} ORDER BY guess")["sql"]
        assert [row["guess"] for row in rows] == guesses, view
    said = answered(asked, "--sql", "SELECT count(*) FROM table_preds").err
    assert "table_3.parquet is the view table_preds__0d4a06f7, because the key of another table differs only" in said


def test_the_key_of_a_table_is_read_from_its_metadata_else_from_its_name(asked, tmp_path):
    write_rows(tmp_path, "table_val%2Fpre__0123abcd", one_row(guess="cat"), key="val/predictions")
    write_rows(tmp_path, "table_val%2Fold_table_x", one_row(guess="dog"))
    for view, guess in {
        '"table_val/predictions"': "cat",
        "table_val_predictions": "cat",
        '"table_val/old_table_x"': "dog",
        "table_val_old_table_x": "dog",
    }.items():
        assert document(asked, "--sql", f"SELECT guess FROM {view}")["sql"] == [{"guess": guess}]


def test_a_table_with_the_columns_of_runs_is_a_table(tmp_path):
    write_runs(tmp_path, [Run("r0")])
    write_rows(tmp_path, "table_t", one_row(id="x", name="x", state="finished", created_at=START), key="t")
    query = "SELECT (SELECT count(*) FROM runs) AS runs, t.id FROM table_t AS t"
    assert document(tmp_path, "--sql", query)["sql"] == [{"runs": 1, "id": "x"}]


def test_an_answer_is_no_further_view(asked, tmp_path):
    for name, query in {"history": "FROM history", "t_table_x": "SELECT *, 1 AS row FROM history"}.items():
        answered(asked, "--sql", query, "-o", tmp_path / f"{name}.parquet")
    out = answered(asked, "--schema").out
    assert "further views of --sql: history\n" in out
    query = "SELECT count(DISTINCT filename) AS files, count(*) AS n FROM (SELECT 1 AS filename FROM history)"
    assert document(asked, "--sql", query)["sql"] == [{"files": 1, "n": 15}]


def test_an_unknown_view_is_answered_with_those_that_are_there(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]))
    write_rows(tmp_path, "table_t", {"run_id": ["a"], "row": [0]}, key="t")
    answer = ask(file, "--sql", "FROM nope")
    assert answer.code == 2
    assert "Table with name nope does not exist; the views are runs, history, table_t " in answer.err


@pytest.mark.parametrize("view", ["history", "Console", "system", "table_x", '"table_val/x"'])
def test_sql_over_rows_that_are_not_there_names_those_that_are(tmp_path, view):
    file = write_runs(tmp_path, [Run("r0")])
    write_rows(tmp_path, "table_y", one_row(guess="cat"), key="y")
    answer = ask(file, "--sql", f"SELECT * FROM {view}")
    said = f"Table with name {view.strip(chr(34))} does not exist; the views are runs, table_y (export_runs.py"
    assert (answer.code, said in answer.err, "id you mean" in answer.err) == (2, True, False), answer.err
