"""What analyze_runs.py reads: runs files and folders, damaged files, files that disagree, histories beside the runs."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from analyze import (  # noqa: F401 - fixtures
    answered,
    ask,
    document,
    example_file,
    rewrite,
    steps,
    with_metadata,
    write_epochs,
    write_export,
    write_history,
    write_metrics,
)
from contract_files import Run, write_rows, write_runs

if TYPE_CHECKING:
    from pathlib import Path

# --- which files ----------------------------------------------------------------------------------------------


def test_ctrl_c_while_polars_runs_python_is_no_damage(tmp_path, monkeypatch):
    """Sound files were left out of the answer."""

    def interrupt() -> dict:
        raise KeyboardInterrupt

    write_runs(tmp_path, [Run("a")])
    source = pl.io.plugins.register_io_source(lambda *_: iter(()), schema=interrupt)
    monkeypatch.setattr(pl, "scan_parquet", lambda *_, **__: source)
    answer = ask(tmp_path)
    assert (answer.code, answer.err) == (130, "interrupted\n")


def test_default_input_is_the_newest(tmp_path: Path) -> None:
    assert ask(cwd=tmp_path).code == 1
    old = write_runs(tmp_path / "wandb_export", [Run("a", summary={"test/mse": 1.0})], project="old")
    assert "reading wandb_export/team_old_runs.parquet\n" in answered(cwd=tmp_path).err
    new = write_runs(tmp_path / "wandb_export", [Run("b", summary={"test/mse": 2.0})], project="new")
    os.utime(old, (1, 1))
    err = answered(cwd=tmp_path).err
    assert "reading wandb_export/team_new_runs.parquet, the newest of 2 exports" in err
    unified = write_runs(tmp_path / "analysis", [Run("c", summary={"test/mse": 3.0})])
    unified = unified.rename(tmp_path / "analysis" / "unified.parquet")
    assert "reading analysis/unified.parquet\n" in answered(cwd=tmp_path).err
    os.utime(unified, (2, 2))
    err = answered(cwd=tmp_path).err
    assert "reading wandb_export/team_new_runs.parquet" in err
    assert "analysis/unified.parquet is older" in err
    assert new.exists()


def test_folders_are_searched_and_foreign_files_passed_over(tmp_path: Path) -> None:
    write_runs(tmp_path / "a[1]", [Run("a", summary={"test/mse": 1.0})], project="one")
    write_runs(tmp_path / "deep" / "er", [Run("b", summary={"test/mse": 2.0, "other": 1.0})], project="two")
    write_runs(tmp_path / ".wandb_tools", [Run("hidden")])
    pl.DataFrame({"run_id": ["a"], "_step": [1]}).write_parquet(tmp_path / "team_one_history.parquet")
    answer = answered(tmp_path, "--top", "9", "--json")
    assert [row["id"] for row in json.loads(answer.out)["top"]] == ["a", "b"]
    assert "skipped 1 parquet file without runs" in answer.err


def test_a_folder_called_like_a_file_is_no_damaged_file(tmp_path):
    file = write_runs(tmp_path / "x_history.parquet", [Run("a", summary={"loss": 1.0})])
    assert len(document(tmp_path, "--top", 1)["top"]) == 1
    assert "cannot be read" not in answered(file.rename(tmp_path / "runs.parquet"), "--health").err


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "foreign.parquet")
    (tmp_path / "nothing").mkdir()
    for file, said in (
        (tmp_path / "nothing.parquet", "does not exist"),
        (tmp_path / "nothing", "no runs in"),
        (tmp_path / "foreign.parquet", "no runs in"),
        (write_runs(tmp_path, []), "has no runs"),
    ):
        answer = ask(file)
        assert (answer.code, answer.out) == (1, "")
        assert said in answer.err


def test_an_answer_is_no_input(runs_file: Path) -> None:
    output = runs_file.parent / "top.parquet"
    for _ in range(2):
        assert answered(runs_file.parent, "--top", 3, "-o", output).out == f"{output}\n"
    assert pl.read_parquet(output).height == 3
    answer = ask(output)
    output.unlink()
    assert (answer.code, answer.out) == (1, "")
    assert "no runs in" in answer.err


# --- damaged files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_damaged_input_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    for place in (tmp_path, tmp_path / "bad.parquet"):
        answer = ask(place)
        assert answer.code == 1
        assert "bad.parquet cannot be read" in answer.err


def test_a_file_cut_short_inside_is_named(tmp_path: Path, runs_file: Path) -> None:
    content = bytearray(runs_file.read_bytes())
    content[8 : len(content) // 2] = bytes(len(content) // 2 - 8)
    (tmp_path / "torn.parquet").write_bytes(content)
    answer = ask(tmp_path / "torn.parquet", "--quiet")
    assert answer.code == 1
    assert answer.err.startswith("error: ")


def test_a_damaged_file_of_a_folder_costs_only_itself(tmp_path):
    write_runs(tmp_path, [Run("a", summary={"test/mse": 1.0})])
    write_history(tmp_path, steps("a", [1.0]))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    answer = ask(tmp_path, "--top", 1, "--json")
    assert (answer.code, len(json.loads(answer.out)["top"])) == (3, 1)
    assert "bad.parquet cannot be read" in answer.err
    assert "passed over" not in answer.err  # a history is no foreign file


def test_many_damaged_files_are_not_a_line_each(tmp_path):
    write_runs(tmp_path, [Run("a")])
    for n in range(14):
        (tmp_path / f"bad{n:02}.parquet").write_bytes(b"PAR1")
    answer = ask(tmp_path, "--schema", "--quiet")
    assert answer.code == 3
    assert answer.err.count("cannot be read: parquet") == 10
    assert answer.err.endswith("left out: 4 more files that cannot be read\n")


def overwrite_rows(file: Path) -> None:
    """Damage the pages of a parquet file; its footer stays as it is."""
    content, (size,) = file.read_bytes(), struct.unpack("<i", file.read_bytes()[-8:-4])
    pages = len(content) - size - 8
    file.write_bytes(b"PAR1" + b"\xff" * (pages - 4) + content[pages:])


@pytest.mark.parametrize(
    ("question", "view"),
    [(["--top", 1], "runs"), (["--schema"], "runs"), (["--where", "loss > 0", "--top", 1], "runs"),
     (["--sql", "SELECT loss FROM runs"], "runs"), (["--sql", "SELECT count(loss) FROM history"], "history"),
     (["--curves", "loss"], "history"), (["--health"], "history"), (["--top", 1, "--report", "r.html"], "history")],
)  # fmt: skip
def test_damaged_rows_cost_only_their_file(tmp_path, question, view):
    for project in ("sound", "torn"):
        write_runs(tmp_path / "in", [Run(project, summary={"loss": 1.0})], project=project)
        write_history(tmp_path / "in", steps(project, [2.0, 1.0]), f"team_{project}_history", project)
    torn = tmp_path / f"in/team_torn_{view}.parquet"
    overwrite_rows(torn)
    answer = ask("in", *question, "--json", cwd=tmp_path)
    lines = answer.err.splitlines()
    assert answer.code == 3
    assert sum(line.startswith(f"left out: in/{torn.name} cannot be read: ") for line in lines) == 1
    assert len({*lines}) == len(lines)  # though it was tried twice
    torn.unlink()
    assert answer.out == answered("in", *question, "--json", cwd=tmp_path).out


def test_damaged_rows_of_a_file_that_was_named_are_an_error_that_names_it(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"loss": 1.0})])
    overwrite_rows(file)
    for question in ("--schema", "--health"):
        answer = ask(file, question, "--quiet")
        assert (answer.code, answer.out) == (1, "")
        assert re.fullmatch(rf"error: {re.escape(str(file))} cannot be read: [^\n]+; make it again\n", answer.err)


def test_a_damaged_column_is_named_where_the_values_of_a_metric_are_counted(tmp_path: Path) -> None:
    summaries = [{"acc": 0.5}, {"acc": {"max": 0.9}}]
    file = write_runs(tmp_path, [Run(f"r{n}", summary=summaries[n % 2]) for n in range(50)])
    chunks = [pq.read_metadata(file).row_group(0).column(n) for n in range(len(pq.read_schema(file).names))]
    damaged = bytearray(file.read_bytes())
    for chunk in chunks:
        if chunk.path_in_schema == "metric_acc_max":
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            damaged[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(damaged)
    assert ask(file, "--metric", "acc", "--top", 1, "--state", "all").code == 1


def test_a_damaged_history_beside_the_sources_of_an_aggregate_is_named(tmp_path):
    runs = write_runs(tmp_path / "export", [Run("a", summary={"loss": 1.0})])
    (tmp_path / "export/team_demo_history.parquet").write_bytes(b"PAR1")
    file = rewrite(write_runs(tmp_path, [Run("a", summary={"loss": 1.0})]), source_file=pl.lit(str(runs)))
    for question in (["--health"], ["--schema"]):
        answer = ask(file, *question, "--quiet")
        assert (answer.code, answer.err.count("team_demo_history.parquet cannot be read")) == (3, 1)
    assert ask(file, "--top", 1).code == 0  # asks for no history


# --- files that disagree --------------------------------------------------------------------------------------


def test_inputs_that_clash_name_aggregate_runs(tmp_path: Path) -> None:
    number = write_runs(tmp_path, [Run("a", config={"lr": 0.1})], project="one")
    text = write_runs(tmp_path, [Run("b", config={"lr": "high"})], project="two")
    nested = write_runs(tmp_path, [Run("c", config={"a": {"b": 1}})], project="three")
    flat = write_runs(tmp_path, [Run("d", config={"a_b": 1})], project="four")
    again = write_runs(tmp_path / "again", [Run("a", config={"lr": 0.2})], project="one")
    for inputs in ((number, text), (nested, flat), (number, again)):
        answer = ask(*inputs)
        assert answer.code == 2
        assert "aggregate_runs.py" in answer.err
    assert answered(number, nested, number).code == 0  # named twice is read once


def test_one_metric_with_two_columns_is_refused(tmp_path):
    """The runs of the file in which a clash of names was settled had no value of it."""
    for project, columns in (("plain", {"metric_loss": ["loss"]}), ("clash", {"metric_loss__5a258448": ["loss"]})):
        file = write_runs(tmp_path, [Run(project)], project=project)
        frame = pl.read_parquet(file).with_columns(pl.lit(1.0).alias(column) for column in columns)
        frame.write_parquet(file, metadata={"wandb_tools.columns": json.dumps(columns)})
    answer = ask(tmp_path, "--top", 2, "-m", "loss")
    assert answer.code == 2
    assert "loss is metric_loss__5a258448 in one file and metric_loss in another; merge these files" in answer.err


def test_integers_floats_and_empty_columns_fit_together(tmp_path):
    one = write_runs(tmp_path, [Run("a", config={"lr": 1, "x": "t"}, summary={"test/mse": 1})], project="one")
    two = write_runs(tmp_path, [Run("b", config={"lr": 0.5}, summary={"test/mse": 0.5})], project="two")
    rewrite(two, config_x=pl.lit(None, pl.Float64))
    rows = document(one, two, "--top", 2)["top"]
    assert [(row["config_lr"], row["config_x"]) for row in rows] == [(0.5, None), (1.0, "t")]


def two_projects(folder: Path, one: pl.Series, other: pl.Series, **paths: list[str]) -> Path:
    """Two exports with two runs each, and `config_x` as given; `paths` are W&B's names of it by project."""
    for project, values in (("p1", one), ("p2", other)):
        runs = [Run(f"{project}{n}", config={"x": n}, summary={"test/mse": 1.0}) for n in range(2)]
        file = write_runs(folder, runs, project=project)
        with_metadata(rewrite(file, config_x=values), columns=json.dumps({"config_x": paths.get(project, ["x"])}))
    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.Series([1, 2], dtype=pl.Int8), pl.Series([1000, 3])),
        (pl.Series([1, 2]), pl.Series([2**63 + 2048, 3], dtype=pl.UInt64)),
        (pl.Series([1, 2], dtype=pl.Float32), pl.Series([2**24 + 1, 3])),
    ],
)
def test_numbers_of_several_files_fit_one_dtype(tmp_path, one, other):
    rows = document(two_projects(tmp_path, one, other), "--varying")["varying"]
    assert {row["value"] for row in rows} == {*one, *other}


@pytest.mark.parametrize("empty", ["p1", "p2"])
def test_a_column_without_values_does_not_rename_that_of_another_file(tmp_path, empty):
    values, nothing = pl.Series([1, 2]), pl.Series([None, None], dtype=pl.String)
    paths = {empty: ["wrong"], "p1" if empty == "p2" else "p2": ["a/b"]}
    series = [nothing, values] if empty == "p1" else [values, nothing]
    folder = two_projects(tmp_path, *series, **paths)
    assert "a/b          3  null (2), 1 (1), 2 (1)" in answered(folder, "--varying").out


@pytest.mark.parametrize("question", [["--health"], ["--report", "r.md"], ["--curves", "loss"]])
def test_files_with_other_columns_than_ours_are_no_bug(tmp_path, question):
    file = write_runs(tmp_path, [Run("a", state="crashed", summary={"loss": 1.0})])
    write_metrics(tmp_path, {"run_id": ["a"], "_step": [0], "loss": ["text"]})
    write_rows(tmp_path, "console", {"run_id": ["a"], "line": [0], "text": ["Killed"]})
    write_rows(tmp_path, "system", {"run_id": ["a"], "_timestamp": [0.0], "system_cpu": ["text"]})
    rewrite(file, gpu=pl.lit("A100"), gpu_count=1, runtime_s=math.nan)
    answer = ask(file, *question, cwd=tmp_path)
    assert answer.code == (2 if "--curves" in question else 0)
    assert "NaN" not in answer.out
    assert ("there are none" in answer.err) == ("--curves" in question)


# --- runs in several inputs, and without identity -------------------------------------------------------------


@pytest.mark.parametrize("question", [[], ["--top", 1], ["-g", "g"], ["--curves", "loss"], ["--diff", "a", "b"]])
def test_several_exports_of_a_run_do_not_count_as_several_runs(tmp_path, question):
    """A file of `aggregate_runs.py --keep all`: n would be doubled, and a p-value come from copies."""
    runs = [Run(n, config={"g": 1}, summary={"test/mse": 1.0}) for n in "ab"]
    file = write_runs(tmp_path, runs)
    pl.concat([pl.read_parquet(file)] * 2).write_parquet(file)
    answer = ask(file, *question)
    assert (answer.code, answer.out) == (2, "")
    assert (
        "2 runs in several rows or inputs, for example team/demo/a; merge with aggregate_runs.py, without" in answer.err
    )
    assert document(file, "--sql", "SELECT count(*) AS n FROM runs")["sql"] == [{"n": 4}]


def test_runs_without_identity_in_two_inputs_are_refused(tmp_path):
    for n, entity in enumerate(("team", "other")):
        file = write_runs(tmp_path / str(n), [Run("a"), Run("b")], entity=entity)
        rewrite(file, entity=pl.Series([None, "team"], dtype=pl.String))
    answer = ask(tmp_path)
    assert answer.code == 2
    assert "2 runs in several rows or inputs, for example null/demo/a; name one input alone, or merge" in answer.err


def test_a_run_without_an_entity_is_found_again(tmp_path):
    file = write_runs(tmp_path, [Run(n, config={"k": n}, summary={"test/mse": 1.0}) for n in "ab"])
    rows = document(rewrite(file, entity=pl.lit(None, pl.String)), "--top", 2)["top"]
    assert [(row["name"], row["config_k"], row["entity"]) for row in rows] == [("a", "a", None), ("b", "b", None)]


def test_the_history_of_a_run_without_an_entity_is_found(tmp_path):
    file = rewrite(write_runs(tmp_path, [Run("a")]), entity=pl.lit(None, pl.String))
    history = rewrite(write_history(tmp_path, steps("a", [2.0, 1.0])), entity=pl.lit(None, pl.String))
    for each in (file, history):
        source = {"wandb_tools.source": json.dumps({"entity": None, "project": "demo"})}
        metadata = {key: text for key, text in pl.read_parquet_metadata(each).items() if key.startswith("wandb_tools")}
        pl.read_parquet(each).write_parquet(each, metadata=metadata | source)
    assert [row["value"] for row in document(file, "--curves", "loss")["curves"]] == [2.0, 1.0]


def test_the_history_of_a_run_without_an_id_is_read(tmp_path):
    file = rewrite(write_runs(tmp_path, [Run("a")]), id=pl.lit(None, pl.String))
    rewrite(write_history(tmp_path, steps("a", [1.0, 2.0])), run_id=pl.lit(None, pl.String))
    assert [row["value"] for row in document(file, "--curves", "loss")["curves"]] == [1.0, 2.0]


# --- histories beside the runs --------------------------------------------------------------------------------


def test_histories_are_found_beside_the_exports_of_an_aggregate(tmp_path):
    file = write_runs(tmp_path / "export", [Run("a")])
    write_epochs(tmp_path / "export", [("a", 0, 0, 1.0)])
    unified = pl.read_parquet(file).with_columns(source_file=pl.lit("export/team_demo_runs.parquet"))
    unified.write_parquet(tmp_path / "unified.parquet")
    done = answered("unified.parquet", "--curves", "loss", cwd=tmp_path)
    assert "loss over step: 1 run" in done.out


def test_histories_alone_are_read_with_the_runs_beside_them(tmp_path):
    history = write_export(tmp_path, "history")
    write_export(tmp_path, "runs", project="other").rename(tmp_path / "team_demo_runs.parquet")  # names tell nothing
    answer = ask(history, "--curves", "loss")
    assert answer.code == 1
    assert "the runs file of team/demo is missing there" in answer.err
    runs = write_export(tmp_path / "x", "runs").rename(tmp_path / "any.parquet")
    answer = answered(history, "--curves", "loss", "--json")
    assert [(row["id"], row["value"]) for row in json.loads(answer.out)["curves"]] == [("a", 1.0)]
    assert f"reading {runs}, the runs of team/demo\n" in answer.err


def test_a_history_elsewhere_is_an_input(tmp_path):
    file = write_runs(tmp_path / "runs", [Run("a")])
    history = write_history(tmp_path / "histories", steps("a", [1.0, 2.0]))
    assert ask(file, "--curves", "loss").code == 1
    for place in (history, history.parent):
        assert len(document(file, place, "--curves", "loss")["curves"]) == 2


def test_histories_of_other_projects_are_not_those_of_these_runs(tmp_path):
    runs = write_export(tmp_path, "runs")
    write_export(tmp_path, "history")
    write_export(tmp_path, "history", project="other")
    write_export(tmp_path, "console", project="other")
    assert document(runs, "--sql", "SELECT DISTINCT project FROM history")["sql"] == [{"project": "demo"}]
    answer = ask(runs, "--sql", "FROM console")
    assert (answer.code, answer.out) == (2, "")
    assert "the views are runs, history (" in answer.err
    both = write_export(tmp_path, "runs", project="other").parent
    assert len(document(both, "--sql", "SELECT DISTINCT project FROM history")["sql"]) == 2
    alone = write_export(tmp_path / "x", "runs", project="empty")
    write_export(tmp_path / "x", "history")
    assert "none of these runs has a finite metric" in answered(alone).out


def test_a_folder_of_source_file_that_is_not_here_is_named(tmp_path):
    """Relative, it is found from where the runs were merged: elsewhere --health would find nothing wrong."""
    file = write_runs(tmp_path / "export", [Run("a", history_rows=2)])
    write_history(tmp_path / "export", steps("a", [1.0, float("nan")]))
    unified = rewrite(file, source_file=pl.lit("export/team_demo_runs.parquet")).rename(tmp_path / "unified.parquet")
    assert "non-finite" in answered(unified, "--health", cwd=tmp_path).out
    (tmp_path / "elsewhere").mkdir()
    answer = answered(unified, "--health", cwd=tmp_path / "elsewhere")
    assert "not read from export, where source_file says that they are: no such folder here; start where" in answer.err
    rewrite(unified, source_file=pl.lit("a\0b/team_demo_runs.parquet"))
    for name in ("one", "two"):  # in two files, so that the one beside the source counts
        write_rows(tmp_path, name, {"run_id": ["a"], "line": [0], "stream": ["stderr"], "text": ["x"]})
    assert "not read from a�b, where" in answered(unified, "--health", cwd=tmp_path).err
    rewrite(unified, source_file=pl.lit("s3://bucket/export/team_demo_runs.parquet"))
    assert "not read from s3://bucket/export, where" in answered(unified, "--health", cwd=tmp_path).err


def test_a_history_in_two_exports_counts_once(tmp_path):
    runs = [Run("a", config={"g": 1}), Run("b", config={"g": 1})]
    file = write_runs(tmp_path / "new", runs)
    write_history(tmp_path / "new", steps("a", [4.0, 3.0, 2.0]) + steps("b", [6.0, 5.0, 4.0]))
    write_history(tmp_path / "old", steps("a", [4.0, 3.0]), "team_demo_history")
    source = pl.Series(["new/team_demo_runs.parquet", "old/team_demo_runs.parquet"])
    unified = rewrite(file, source_file=source).rename(tmp_path / "unified.parquet")
    rows = json.loads(answered(unified, "--curves", "loss", "-g", "g", "--json", cwd=tmp_path).out)["curves"]
    assert [(row["x"], row["n"], row["mean"]) for row in rows] == [(0, 2, 5.0), (1, 2, 4.0), (2, 2, 3.0)]
    query = "SELECT count(*) AS n FROM history"
    assert json.loads(answered(unified, "--sql", query, "--json", cwd=tmp_path).out)["sql"] == [{"n": 6}]


def test_a_history_in_two_exports_counts_once_in_sql_without_an_entity(tmp_path):
    for folder, values in (("a", [3.0, 2.0]), ("b", [3.0])):
        write_runs(tmp_path / folder, [Run("r")])
        write_history(tmp_path / folder, steps("r", values))
        for file in (tmp_path / folder).iterdir():
            rewrite(file, entity=pl.lit(None, pl.String))
    files = tmp_path / "a", tmp_path / "b" / "team_demo_history.parquet"
    assert document(*files, "--sql", "SELECT count(*) AS n FROM history")["sql"] == [{"n": 2}]


@pytest.mark.parametrize(("ids", "warned"), [(("one", "one"), 0), (("one", "two"), 1), (("one", None), 0)])
def test_files_of_different_exports_are_warned_of(tmp_path, ids, warned):
    runs = write_export(tmp_path, "runs", export_id=ids[0])
    write_export(tmp_path, "history", export_id=ids[1])
    write_export(tmp_path, "console", export_id=ids[1])
    write_export(tmp_path, "history", project="other", export_id="three")  # not of these runs
    text = f"of team/demo in {tmp_path} come from different exports, because one was killed: export again\n"
    said = answered(runs, "--curves", "loss", "--health").err
    assert (said.count(f"runs and history {text}"), said.count(f"runs and console {text}")) == (warned, warned)
    assert answered(runs, "--sql", "FROM history").err.count(f"runs and history {text}") == warned
    assert text not in answered(runs, "--schema").err


@pytest.mark.parametrize(("export_id", "warned"), [("one", False), ("two", True)])
def test_a_merged_file_that_is_older_than_the_histories_is_warned_of(tmp_path, export_id, warned):
    file = write_export(tmp_path / "export", "runs")
    write_export(tmp_path / "export", "history", export_id="one")
    unified = rewrite(file, source_file=pl.lit(str(file))).rename(tmp_path / "unified.parquet")
    source = {"file": str(file), "entity": "team", "project": "demo", "export_id": export_id}
    odd = [7, {**source, "file": 1, "export_id": ["x"]}, {**source, "file": "a\0b/c", "export_id": {}}]
    with_metadata(unified, source=json.dumps({"sources": [source, *odd]}))
    err = answered(unified, "--curves", "loss").err
    assert ("come from different exports; run aggregate_runs.py again" in err) == warned


def test_histories_of_runs_that_were_dropped_are_neither_read_nor_reported(tmp_path):
    runs = [Run(n, config={"g": n == "c"}) for n in "abc"]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("a", [1.0, 2.0]) + steps("b", [math.nan] * 2) + steps("c", [3.0, 4.0]))
    answer = answered(file, "--curves", "loss", "-g", "g", "--where", "id <> 'b'")
    assert "NaN" not in answer.out
    assert "2 runs in 2 groups" in answer.out
    answer = ask(file, "--curves", "loss", "--where", "id = 'a'", "--best-so-far", "--x", "nothing")
    assert (answer.code, answer.out) == (2, "")
    assert "no history has it" in answer.err


def test_a_history_without_these_runs_is_not_called_absent(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("other", [1.0]))
    answer = ask(file, "--curves", "loss")
    assert answer.code == 1
    assert "no history has loss of these runs" in answer.err


def test_a_sampled_history_is_named_where_there_is_no_other(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    write_history(tmp_path, steps("a", [1.0]), "team_demo_history_sampled")
    answer = ask(file, "--curves", "loss")
    assert answer.code == 1
    said = "these runs have only a sampled history, which is not used; export_runs.py --include-history writes all rows"
    assert said in answer.err
