"""CSV, JSON, LaTeX and the files that -o writes; pictures, pages and reports."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import analyze_runs
import polars as pl
import pytest
import vl_convert
from analyze import (  # noqa: F401 - fixtures
    answered,
    ask,
    document,
    example_file,
    grid_file,
    grid_runs,
    grouped_file,
    many_groups,
    rewrite,
    steps,
    write_epochs,
    write_export,
    write_history,
    write_metrics,
)
from contract_files import Run, write_rows, write_runs
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

# --- CSV and JSON ---------------------------------------------------------------------------------------------


@given(st.one_of(st.text(), st.from_regex(r"[=+\-@\t\r].*"), st.floats().map(str), st.integers().map(str)))
def test_no_cell_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO("".join(analyze_runs.csv_parts(pl.DataFrame({"x": [text]}))), newline="")))
    cell = rows[1][0] if len(rows) > 1 and rows[1] else ""
    if cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        assert math.isfinite(float(cell))  # a number


def test_heads_that_look_alike_in_csv_are_no_error() -> None:
    frame = pl.DataFrame({"=a": [1], "'=a": [2], "a\x01": [3], "a\x02": [4], "b,c": [None], "": [""]})
    assert "".join(analyze_runs.csv_parts(frame)) == '\'=a,\'=a,a\ufffd,a\ufffd,"b,c",""\n1,2,3,4,,""\n'


def test_csv_is_exact_and_numbers_stay_numbers(tmp_path: Path) -> None:
    runs = [Run("a", name="-1e-3", config={"g": "-x"}, summary={"test/acc": -1 / 3}), Run("b", config={"g": "=x"})]
    rows = list(csv.DictReader(io.StringIO(answered(write_runs(tmp_path, runs), "-g", "g", "--format", "csv").out)))
    assert [row["config_g"] for row in rows] == ["'-x", "'=x"]
    assert float(rows[0]["mean"]) == -1 / 3
    assert rows[0]["best_run"] == "-1e-3"
    assert rows[1]["mean"] == ""


def test_json_spells_non_finite_numbers(tmp_path: Path) -> None:
    runs = [
        Run(f"r{n}", summary={"loss": float(n), "odd": value})
        for n, value in enumerate([math.nan, math.inf, -math.inf, 0.5])
    ]
    file = write_runs(tmp_path, runs)
    spelt = ["NaN", "Infinity", "-Infinity", 0.5]
    assert [row["metric_odd"] for row in document(file, "--top", 4, "-m", "loss", "--columns", "odd")["top"]] == spelt
    assert [row["odd"] for row in document(file, "--sql", "SELECT odd FROM runs ORDER BY id")["sql"]] == spelt
    schema = document(file, "--schema")
    assert schema["version"] == 1
    assert [row["example"] for row in schema["schema"] if row["column"] == "metric_odd"] == ["NaN"]


def test_large_tables_become_text_in_parts(monkeypatch):
    table = pl.DataFrame({"x": [0.5, math.nan, None, 2.0, 3.0], "list": [[1], [], None, [2, 3], [4]]})
    results = [analyze_runs.Result(key, "", table, []) for key in ("groups", "groups", "top")]
    results += [analyze_runs.Result("sql", "", table.clear(), [])]
    whole = "".join(analyze_runs.csv_parts(table)), "".join(analyze_runs.json_parts(results, ["a.json"]))
    rows = [{"x": x, "list": y} for x, y in zip([0.5, "NaN", None, 2.0, 3.0], table["list"].to_list(), strict=True)]
    expected = {"version": 1, "groups": rows * 2, "top": rows, "sql": [], "files": ["a.json"]}
    assert json.loads(whole[1]) == expected
    monkeypatch.setattr(analyze_runs, "CELLS_WRITTEN", 4)  # two rows
    parts = [*analyze_runs.csv_parts(table)], [*analyze_runs.json_parts(results, ["a.json"])]
    assert (len(parts[0]), "".join(parts[0]), "".join(parts[1])) == (4, *whole)


@pytest.mark.parametrize("output", [["--json"], ["--format", "csv"], ["-o", "c.parquet"], ["-o", "c.csv", "--json"]])
def test_programs_get_all_and_are_not_told_what_people_do_not_see(tmp_path, output):
    runs = [Run(f"r{n:02}", config={"x" * m: n for m in range(1, 60)}) for n in range(12)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(12) for row in steps(f"r{n:02}", [1.0, float(n)])])
    for question in (["--curves", "loss"], ["--schema"]):
        assert " more" not in answered(file, *question, *output, cwd=tmp_path).err
        assert " more" in answered(file, *question).out
    answered(file, "--curves", "loss", "-o", "c.md", cwd=tmp_path)
    assert "4 more: use " in (tmp_path / "c.md").read_text()


@pytest.mark.parametrize("output", [["--json"], ["--format", "csv"]])
def test_rows_that_max_rows_cuts_are_counted_for_programs_too(tmp_path, output):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"test/mse": 1.0}) for n in range(5)])
    assert "groups: 3 more rows: use --max-rows 0 for all" in answered(file, "-g", "k", "--max-rows", 2, *output).err


@pytest.mark.parametrize("more", [["--json"], ["--json", "-o", "x.json"], ["--format", "csv"], ["-o", "x.csv"]])
def test_findings_are_said_once(tmp_path: Path, runs_file: Path, more: list) -> None:
    err = answered(runs_file, "--top", 2, "-m", "test/mse", *more, cwd=tmp_path).err
    assert err.count("Best 2 runs by test/mse") == 1
    assert err.count("12 of 15 runs have a finite test/mse") == 1


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet", ".md"])
def test_files_hold_everything(tmp_path: Path, ending: str) -> None:
    output = tmp_path / "new" / f"results{ending}"
    arguments = [write_runs(tmp_path, many_groups()), "-g", "model.arch", "-t", "3", "-o", output, "--max-rows", "2"]
    answer = answered(*arguments)
    assert answer.out == f"{output}\n"
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    content = output.read_bytes()
    if ending == ".parquet":
        table = pl.read_parquet(output)
        assert {*analyze_runs.STATISTICS}.difference(table.columns) == {"iqm", "best_step"}
        assert table.columns == [
            *("config_model_arch", "metric"),
            *(name for name in analyze_runs.STATISTICS if name in table.columns),
        ]
        assert table.height == 30
    if ending == ".json":
        assert len(json.loads(content)["groups"]) == 30
        assert len(json.loads(content)["top"]) == 3
    if ending == ".csv":
        assert len(list(csv.DictReader(io.StringIO(content.decode())))) == 30
    if ending == ".md":
        assert content.decode().count("| an_architecture_with_a_long_name_") == 30
    assert ("left out: top" in answer.err) is (ending in {".csv", ".parquet"})


def test_json_names_the_file_it_wrote(tmp_path: Path, runs_file: Path) -> None:
    output = tmp_path / "top.csv"
    shown = document(runs_file, "--top", 2, "-o", output)
    assert shown["files"] == [str(output)]
    assert len(shown["top"]) == 2


def test_a_report_and_an_answer_in_one_call(file, tmp_path):
    table, report = tmp_path / "t.csv", tmp_path / "r.md"
    assert answered(file, "--top", 2, "-o", table, "--report", report, "-m", "test/mse").out == f"{table}\n{report}\n"
    answer = document(file, "--top", 2, "-o", table, "--report", report, "-m", "test/mse")
    assert answer["files"] == [str(table), str(report)]


def test_an_unwritable_output_is_said(tmp_path: Path, runs_file: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = ask(runs_file, "--top", 1, "--quiet", "-o", tmp_path / "file" / "x.csv")
    assert answer.code == 1
    assert "was not written" in answer.err


def test_a_write_error_names_the_users_file_only(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    with pytest.raises(analyze_runs.ScriptError, match="No such file") as told, analyze_runs.replacing(file) as hidden:
        pl.DataFrame({"x": [1]}).write_parquet(hidden / "nowhere")
    assert "partial" not in str(told.value)


def test_an_input_is_not_overwritten(runs_file: Path) -> None:
    before = runs_file.read_bytes()
    assert ask(runs_file, "-o", runs_file).code == 2
    assert runs_file.read_bytes() == before


def test_runs_are_not_overwritten_but_earlier_answers_are(runs_file: Path, tmp_path: Path) -> None:
    export = write_runs(tmp_path, [Run("a")])
    before = export.read_bytes()
    answer = ask(runs_file, "--top", 1, "-o", export)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: -o {export} is a file of runs, which would be lost; choose another name\n"
    assert export.read_bytes() == before
    (tmp_path / "noise.parquet").write_bytes(b"no parquet")
    for name in ("noise.parquet", "top.parquet", "top.parquet"):
        assert ask(runs_file, "--top", 1, "-o", tmp_path / name).code == 0


@pytest.mark.parametrize("view", ["history", "console"])
def test_rows_of_an_export_are_not_overwritten(tmp_path, view):
    write_export(tmp_path, "runs")
    file = write_export(tmp_path, view)
    before = file.read_bytes()
    answer = ask(tmp_path, "--schema", "-o", file)
    assert (answer.code, answer.out) == (2, "")
    assert f"is a file of {view}, which would be lost; choose another name" in answer.err
    assert file.read_bytes() == before


# --- every format ---------------------------------------------------------------------------------------------

bundle = functools.cache(vl_convert.javascript_bundle)


@pytest.fixture(autouse=True)
def one_bundle(monkeypatch) -> None:
    """The library that draws charts in pages is the same in all of them, and takes a second to put together."""
    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)


QUESTIONS = {
    "top": ("--top", "5", "-m", "test/mse"),
    "groups": ("--group-by", "model,k", "-m", "test/mse"),
    "pivot": ("--pivot", "model,k", "-m", "test/mse"),
    "curves": ("--curves", "loss", "--group-by", "model"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = grid_runs()
    next(run for run in runs if run.id == "b160").name = "50% 日 <b>&amp; $x_1$ \\end {[red]} ~^#" + "long " * 20
    write_runs(tmp_path, runs)
    write_epochs(
        tmp_path, [(run.id, s, s / 10, math.nan if s == 7 else 1 / (s + 1)) for run in runs for s in range(30)]
    )
    return tmp_path


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_in_every_format(folder, question, form):
    out = answered(folder, *QUESTIONS[question], "--format", form).out
    assert out.strip()
    if form == "json":
        assert json.loads(out)[question]


# --- LaTeX ----------------------------------------------------------------------------------------------------


def test_latex_escapes_and_compiles(folder):
    for question, arguments in QUESTIONS.items():
        answered(folder, *arguments, "-o", folder / f"{question}.tex")
    text = (folder / "top.tex").read_text("utf-8")
    assert r"50\% {[}U+65E5{]} \textless{}b\textgreater{}\&amp; \$x\_1\$" in text
    assert r"\toprule" in text
    assert text.count(r"\begin{tabular}") == 1
    pivot = (folder / "pivot.tex").read_text("utf-8")
    assert r"\textbf{0.2100$\pm$0.0100 (3)}" in pivot
    assert "best of its column (in LaTeX bold, underlined)" in pivot
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the tables are not compiled")
    inputs = "\n".join(f"\\input{{{question}.tex}}\n" for question in QUESTIONS)
    page = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,textcomp}\\begin{document}"
    (folder / "page.tex").write_text(f"{page}{inputs}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_dashes_and_quotes_are_those_of_the_name_in_latex(tmp_path):
    file = write_runs(tmp_path, [Run("a", "a---b--c-d ``x''", summary={"loss": -1.5})])
    assert "a-{}-{}-b-{}-c-d `{}`x'{}' & $-$1.5" in re.sub(" +", " ", answered(file, "-t", 1, "--format", "latex").out)


def test_several_metrics_give_a_latex_table_each(file, tmp_path):
    answered(file, "--group-by", "k", "-m", "test/mse", "-m", "test/acc", "-o", tmp_path / "t.tex")
    assert (tmp_path / "t.tex").read_text().count(r"\begin{tabular}") == 2


# --- pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_pictures(folder, question, ending):
    out = folder / f"picture.{ending}"
    done = answered(folder, *QUESTIONS[question], "-o", out)
    assert done.out == f"{out}\n"
    content = out.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG") and len(content) > 5_000  # noqa: PT018
    elif ending == "svg":
        ET.fromstring(content.decode())
        assert not re.findall(r"(?:href|src)\s*=\s*['\"]https?:", content.decode())
    else:
        charts = json.loads(content.decode().rpartition("<script>")[2].partition(".forEach((spec")[0])
        assert len(charts) == 1
        assert vl_convert.vegalite_to_svg(charts[0] | {"width": 700}).startswith("<svg")


def test_one_picture_of_several_answers_is_named(file, tmp_path):
    two = [file, "-g", "k", "-m", "test/mse", "-m", "test/acc", "-t", 1]
    assert (
        "svg holds one picture: groups; left out: top, test/acc by k\n" in answered(*two, "-o", tmp_path / "x.svg").err
    )
    assert "csv holds one table: groups; left out: top\n" in answered(*two, "--format", "csv").err


def test_a_single_point_is_drawn(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_epochs(tmp_path, [("a", 0, 0, 1.0), ("b", 0, 0, 2.0)])
    answered(file, "--curves", "loss", "-o", tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text("utf-8").count('aria-roledescription="point"') == 2


def test_a_line_far_outside_of_the_picture_costs_no_memory(tmp_path):
    """The renderer allocates all that is drawn, even if it is clipped."""
    file = write_runs(tmp_path, [Run(name) for name in "abc"])
    values = {"a": 0.0, "b": -1e5, "c": 3.0}
    write_epochs(tmp_path, [(run, s, s, value) for run, value in values.items() for s in range(40)])
    answered(file, "--curves", "loss", "-o", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_pivot_is_drawn_as_a_heat_map(folder):
    answered(folder, *QUESTIONS["pivot"], "-o", folder / "pivot.svg")
    text = (folder / "pivot.svg").read_text("utf-8")
    assert len(re.findall('aria-roledescription="rect mark"', text)) == 6
    assert len(re.findall(r">0\.\d+ \(3\)<", text)) == 6


def test_a_heat_map_whose_extreme_values_are_cut_off_is_drawn(tmp_path):
    values = [1e-9, *(1.0 + n for n in range(4)), 1e9]
    runs = [Run(f"r{n}", config={"a": n % 2, "b": n // 2}, summary={"loss": value}) for n, value in enumerate(values)]
    file = write_runs(tmp_path, runs)
    answered(file, "--pivot", "a,b", "-m", "loss", "-o", tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text("utf-8")
    assert "extreme values are cut off" in text
    assert len(re.findall('aria-roledescription="rect mark"', text)) == 6
    answered(file, "--pivot", "a,b", "-m", "loss", "-o", tmp_path / "p.html")
    scale = re.search(r'"clamp": (true|false)[^}]*"scheme": "blues"', (tmp_path / "p.html").read_text("utf-8"))
    assert scale[1] == "true"  # else the best cell would be white, as an empty one


def test_groups_that_are_not_drawn_are_counted(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n:02}", config={"k": n}, summary={"loss": n}) for n in range(45)])
    answered(file, "-g", "k", "-o", tmp_path / "x.svg")
    assert "the best 40 of 45 are drawn" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(("name", "which"), [("loss", "best"), ("thing", "lowest")])
def test_which_curves_are_drawn_is_told_outside_of_the_picture_too(tmp_path, name, which):
    file = write_runs(tmp_path, [Run(f"r{n:02d}", summary={name: float(n)}) for n in range(12)])
    rows = {"run_id": [f"r{n // 2:02d}" for n in range(24)], "_step": [0, 1] * 12}
    write_rows(tmp_path, "history", rows | {f"metric_{name}": [float(n) for n in range(24)]})
    answer = answered(file, "--curves", name, "-o", tmp_path / "x.svg")
    assert f"the {which} 10 of 12 by last value are drawn" in answer.err
    assert ("to draw the best ones, add --ascending or --descending" in answer.err) == (which == "lowest")
    assert f"the {which} 10 of 12 by last value are drawn" in (tmp_path / "x.svg").read_text()
    assert "only one point" not in answer.err
    write_rows(tmp_path, "history", {"run_id": ["r00", "r01"], "_step": [3, 3], f"metric_{name}": [1.0, 2.0]})
    assert "each curve has only one point" in answered(file, "--curves", name, "-o", tmp_path / "x.svg").err


def test_a_picture_of_means_over_differing_runs_says_so(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    rows = {"run_id": ["a", "a", "b"], "_step": [0, 1, 0]}
    write_rows(tmp_path, "history", rows | {"metric_loss": [1.0, 2.0, 3.0]})
    for flags, is_said in ((["-g", "state"], True), ([], False)):
        answered(file, "--curves", "loss", *flags, "--x", "step", "-o", tmp_path / "x.svg")
        assert ("line: mean of the runs that have a value there" in (tmp_path / "x.svg").read_text()) == is_said


def test_a_picture_shows_the_mean_of_a_group_while_most_of_its_runs_go_on(tmp_path):
    """The last one of five runs made its group look the best by far."""
    file = write_runs(tmp_path, [Run(f"{n}", config={"g": "xy"[n // 5]}) for n in range(10)])
    rows = [row for n in range(10) for row in steps(f"{n}", [1.0 + n // 5] * (3 if n % 5 else 9))]
    write_history(tmp_path, [row if row[0] != "5" else (*row[:2], 0.1) for row in rows])
    answer = answered(file, "--curves", "loss", "-g", "g", "--x", "step", "-o", tmp_path / "c.html")
    assert "a curve ends with its last run, in pictures where half of them have ended" in answer.err
    text = (tmp_path / "c.html").read_text("utf-8")
    (chart,) = json.loads(text.rpartition("<script>")[2].partition(".forEach((spec")[0])
    assert {point["x"] for point in chart["data"]["values"]} == {0, 1, 2}
    found = document(file, "--curves", "loss", "-g", "g", "--x", "step")["curves"]
    assert [row["n"] for row in found if row["config_g"] == "y"] == [5, 5, 5, 1, 1, 1, 1, 1, 1]
    assert found[0]["config_g"] == "x"  # by the last mean that most runs of the group have


def test_a_picture_shows_a_group_from_its_first_run_on_until_half_have_ended(tmp_path):
    file = write_runs(tmp_path, [Run(run, config={"g": run[0]}) for run in ("x1", "x2", "y1", "y2", "y3")])
    ends = {"x1": (0, 9), "x2": (0, 4), "y1": (0, 9), "y2": (5, 9), "y3": (6, 9)}
    rows = [(run, step, 1.0) for run, (first, last) in ends.items() for step in range(first, last)]
    write_history(tmp_path, rows)
    answered(file, "--curves", "loss", "-g", "g", "--x", "step", "-o", tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text("utf-8")
    (chart,) = json.loads(text.rpartition("<script>")[2].partition(".forEach((spec")[0])
    drawn = {name: [p["x"] for p in chart["data"]["values"] if p["name"] == name] for name in "xy"}
    assert drawn == {"x": [0, 1, 2, 3], "y": [*range(9)]}


@pytest.mark.parametrize("ending", ["html", "md", "tex"])
def test_a_page_has_no_empty_tables(tmp_path, ending):
    """It had the heads of a table of settings that vary, of which there were none."""
    file = write_runs(tmp_path, [Run(f"{n}", config={"k": 1}, summary={"loss": n}) for n in range(3)])
    answered(file, "--varying", "-o", tmp_path / f"x.{ending}")
    text = (tmp_path / f"x.{ending}").read_text("utf-8")
    assert "0 varying config columns of 3 runs" in text
    assert "value (runs)" not in text


# --- pictures: axes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [("--top", 5), ("-g", "g"), ("--pivot", "g,h"), ("--curves", "loss", "-g", "g")])
def test_logarithmic_pictures(tmp_path, question):
    runs = [Run(f"r{n}", config={"g": n % 2, "h": n // 4}, summary={"test/mse": 10.0 ** (n - 4)}) for n in range(8)]
    runs.append(Run("zero", config={"g": 0, "h": 0}, summary={"test/mse": 0.0}))
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(8) for row in steps(f"r{n}", [0.0, 1.0, 100.0])])
    answered(file, *question, "-m", "test/mse", "--log", "-o", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "<svg" in text
    assert "NaN" not in text


def test_values_over_ten_decades_are_drawn_on_a_logarithmic_axis(tmp_path):
    runs = [Run(f"r{n}", config={"g": n}, summary={"test/mse": 10.0 ** (2 * n - 5)}) for n in range(6)]
    answered(write_runs(tmp_path, runs), "-g", "g", "-o", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text("utf-8")
    assert "values far beyond" not in text
    assert {"0.0001", "10,000"} <= {*re.findall(">([^<>]+)</text>", text)}


def test_a_logarithmic_axis_has_no_empty_decades():
    """Curves between 0.5 and 1.5 lay in a fifth of an axis from 0.1 to 10."""
    rows = pl.DataFrame({"value": [0.5, 1.0, 1.5]})
    assert analyze_runs.scaled(rows, "curves", log=True, is_live=False)[1]["nice"] is False


def test_an_interval_that_a_logarithmic_axis_cannot_show_is_mentioned():
    rows = pl.DataFrame({"value": [1e-6, 1.0], "ci_low": [-1.0, 0.5], "ci_high": [1.0, 1.5]})
    assert analyze_runs.scaled(rows, "groups", log=False, is_live=False)[2] == [
        "intervals that reach 0 or below are not drawn"
    ]


def test_one_diverged_run_does_not_flatten_all_curves(tmp_path):
    file = write_runs(tmp_path, [Run("a"), Run("b")])
    write_epochs(
        tmp_path, [(run, s, s, 1e30 if run == "b" and s == 9 else 1 / (s + 1)) for run in "ab" for s in range(10)]
    )
    answered(file, "--curves", "loss", "-o", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text("utf-8")
    assert "extreme values are cut off" in text
    assert "e+29" not in text


@pytest.mark.parametrize(("far", "remarks"), [(1e18, ["extreme values are cut off"]), (1e10, [])])
def test_a_value_ten_usual_distances_off_is_cut_off(far: float, remarks: list[str]) -> None:
    rows = pl.DataFrame({"value": [1.0, 10.0, 100.0, 1e3, 1e4, far]})  # half lie within 1.5 decades of the median
    assert analyze_runs.scaled(rows, "top", log=True, is_live=False)[2] == remarks


def test_curves_are_clamped_to_their_picture() -> None:
    rows = pl.DataFrame({"value": [1.0, 2.0, 4.0], "ci_low": [0.5, 1.0, 2.0], "ci_high": [2.0, 4.0, 1e9]})
    for is_live in (True, False):  # in a live one the user zooms out
        _, scale, remarks = analyze_runs.scaled(rows, "curves", log=False, is_live=is_live)
        cut = {"domain": (0.625, 4.375), "nice": False, "clamp": not is_live, "padding": 8}
        assert scale == {"zero": False, **cut}
        assert remarks == ["wide intervals are cut off"]
    narrow = rows.with_columns(ci_low=pl.col("value") - 0.1, ci_high=pl.col("value") + 0.1)
    _, scale, remarks = analyze_runs.scaled(narrow, "curves", log=False, is_live=False)
    assert (scale["domain"], remarks) == ((0.9, 4.1), [])
    for groups, is_cut in ((rows, True), (narrow, False)):  # these have an axis of their own only where it is cut
        assert ("domain" in analyze_runs.scaled(groups, "groups", log=False, is_live=False)[1]) == is_cut


def test_wide_intervals_of_groups_are_cut_off_in_pictures(tmp_path):
    values = {"narrow": [1.0, 1.01, 0.99], "wide": [0.5, 2.5], "none": [math.nan]}
    runs = [
        Run(f"{g}{n}", config={"g": g}, summary={"loss": v}) for g, own in values.items() for n, v in enumerate(own)
    ]
    answer = answered(write_runs(tmp_path, runs), "-g", "g", "-m", "loss", "-o", tmp_path / "x.svg")
    assert "wide intervals are cut off\n1 without a value to draw is left out\n" in answer.err


def test_what_a_picture_leaves_out_is_counted(tmp_path):
    """Beyond the forty that are drawn, too."""
    runs = [Run(f"r{n:02}", config={"k": n}, summary={"loss": n} if n < 41 else {}) for n in range(60)]
    err = answered(write_runs(tmp_path, runs), "-g", "k", "-m", "loss", "-o", tmp_path / "x.svg").err
    assert "the best 40 of 41 are drawn\n19 without a value to draw are left out\n" in err
    runs = runs[30:]
    err = answered(write_runs(tmp_path, runs), "-g", "k", "-m", "loss", "-o", tmp_path / "x.svg").err
    assert "are drawn" not in err
    assert "19 without a value to draw are left out\n" in err


@pytest.mark.parametrize(("last", "clips"), [(0.8, False), (1e9, True)])
@pytest.mark.parametrize("question", [["--top", 9], ["-g", "k"]])
def test_points_at_the_edges_are_whole(tmp_path, question, last, clips):
    values = [0.0, 0.1, 0.2, 0.3, last]
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n}, summary={"acc": x}) for n, x in enumerate(values)])
    answered(file, *question, "-o", tmp_path / "x.html")
    assert ('"clip": true' in (tmp_path / "x.html").read_text().splitlines()[-2]) == clips


def test_the_single_value_of_a_picture_is_on_its_axis(tmp_path):
    """The only tick of an axis without extent was rounded: 0 for 0.33425."""
    file = write_runs(tmp_path, [Run("a", summary={"acc": 0.33425}), Run("b", summary={"acc": 0.33425})])
    answered(file, "-t", 2, "-m", "acc", "-o", tmp_path / "x.svg")
    assert ">0.33425<" in (tmp_path / "x.svg").read_text()


def test_huge_numbers_of_an_axis_are_short(tmp_path):
    """A tick was labelled -5.999999999999999e+99."""
    runs = [Run(f"r{n}", config={"g": "x"}, summary={"loss": 10.0**n}) for n in (98, 99, 100)]
    answered(write_runs(tmp_path, runs), "-g", "g", "-m", "loss", "-o", tmp_path / "x.svg")
    texts = re.findall(">([^<>]+)</text>", (tmp_path / "x.svg").read_text("utf-8"))
    assert any("e+" in text for text in texts)
    assert max(len(text) for text in texts if "e+" in text) < 10


@pytest.mark.parametrize(
    ("hours", "label"), [(0.01, "2026-11-24 06:06:15"), (3, "2026-11-24 08:00"), (3000, "2027-01-01")]
)
def test_the_times_of_a_picture_differ(tmp_path, hours, label):
    """All five ticks of half a minute were labelled 2026-11-24 06:06."""
    file = write_runs(tmp_path, [Run("a")])
    history = write_history(tmp_path, steps("a", [1.0, 2.0, 3.0]))
    rewrite(history, _timestamp=pl.Series([1795500360 + 3600 * hours * n for n in range(3)]))
    answered(file, "--curves", "loss", "--x", "time", "-o", tmp_path / "c.svg")
    texts = re.findall(">([^<>]+)</text>", (tmp_path / "c.svg").read_text("utf-8"))
    assert {label, "time (UTC)"} <= {*texts}
    assert len({*texts}) == len(texts)


# --- pages ----------------------------------------------------------------------------------------------------


def test_a_page_for_reading_and_one_for_looking_closer(folder):
    """A report has no script. A page by -o holds all that its charts need: it may load nothing from anywhere."""
    question = ("-m", "test/mse", "--top", "20")
    answered(folder, *question, "--curves", "loss", "-o", folder / "x.html")
    text = (folder / "x.html").read_text("utf-8")
    policy = re.search('Content-Security-Policy\' content="(.*?)"', text)[1]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "window.vegaEmbed" in text
    assert not re.search(r"(src|href)=|<link|@import", re.sub("<script>.*?</script>", "", text, flags=re.DOTALL))
    for part in ('"bind": "scales"', '"bind": "legend"', '"tooltip"', "50% 日 \\u003cb>"):
        assert part in text.rpartition("<script>")[2]
    answered(folder, *question, "--report", folder / "r.html")
    assert not re.search("<script|script-src", (folder / "r.html").read_text("utf-8"))


def test_pages_are_light_or_dark_and_pictures_white(folder):
    """A page's charts have its own colour and no ground, and nothing in them is black but a heat map's text."""
    page, svg = folder / "x.html", folder / "x.svg"
    answered(folder, "-m", "test/mse", "--group-by", "model,k", "--curves", "loss", "--report", page)
    text = page.read_text("utf-8")
    assert "color-scheme: light dark" in text
    charts = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        assert "currentColor" in chart
        assert not re.search(r'fill="(white|#fff)"', re.sub(r"<text.*?</text>", "", chart))
        black = re.findall(r'<(\w+)[^>]*(?:fill|stroke)="(?:black|#000|#222222)"', chart)
        assert {*black} <= ({"text"} if "rect mark" in chart else set())
    for arguments in QUESTIONS.values():
        answered(folder, *arguments, "-o", svg)
        assert 'fill="white"' in svg.read_text("utf-8")
        assert "currentColor" not in svg.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "charts"),
    [(("--group-by", "model,k", "--curves", "loss", "--report"), 4), (("--pivot", "model,k", "--top", "9", "-o"), 2)],
)
def test_pages_in_a_browser(folder, arguments, charts):
    """They render, show the numbers, and ask the network for nothing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: the pages are not opened in a browser")
    report = folder / "report.html"
    answered(folder, "-m", "test/mse", *arguments, report)
    log = folder / "net.json"
    quiet = (
        "--virtual-time-budget=20000",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        *quiet,
        f"--log-net-log={log}",
    ]
    command += [f"--user-data-dir={folder / 'browser'}", "--dump-dom", report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('class="marks"') == charts
    assert "0.210" in done.stdout
    asked = re.findall(r'"url":"(https?://[^"]+)"', log.read_text(errors="replace"))
    of_the_page = [url for url in asked if "google" not in url and "gstatic" not in url]  # the browser's own start
    assert of_the_page == []


def test_points_of_long_curves_stay_invisible_in_a_live_chart(tmp_path):
    """What hides a curve set the opacity of its points, too: each had a dot, of which 200 cover a curve."""
    file = write_runs(tmp_path, [Run(n, config={"g": 1}) for n in "ab"])
    write_history(tmp_path, [row for n in "ab" for row in steps(n, [float(i) for i in range(40)])])
    answered(file, "--curves", "loss", "-g", "g", "-o", tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text("utf-8")
    (chart,) = json.loads(text.rpartition("<script>")[2].partition(".forEach((spec")[0])
    band, line = chart["layer"]
    assert line["mark"]["point"] == "transparent"
    assert [tip.get("format") for tip in line["encoding"]["tooltip"]] == [None, None, ".6~g", ".6~g", ".6~g"]
    for layer in (band, line):
        assert "opacity" not in layer["encoding"]
        assert layer["encoding"]["fillOpacity"] == layer["encoding"]["strokeOpacity"]
        assert layer["encoding"]["strokeOpacity"]["condition"]["param"] == "hidden"


def test_a_page_has_no_rows_without_a_curve(tmp_path):
    """Of the curves that the page has no room for, their points were left."""
    names = [f"{n:02d}" * 12 for n in range(12)]
    file = write_runs(tmp_path, [Run(name, config={"g": name}) for name in names])
    write_rows(tmp_path, "history", {"run_id": names, "_step": [*range(12)], "metric_loss": [1.0] * 12})
    answered(file, "--curves", "loss", "-g", "g", "-o", tmp_path / "x.html")
    rows = re.findall(r"<tr>(.*?)</tr>", (tmp_path / "x.html").read_text(), re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)[1:] for row in rows]
    assert len(rows) > 2
    assert all(any(cell.strip() for cell in row) for row in cells if row)


@pytest.mark.parametrize(("number", "noted"), [(14, False), (20, True)])
def test_columns_that_a_page_leaves_out_are_named(tmp_path, number, noted):
    file = write_runs(tmp_path, [Run("a")])
    query = f"SELECT {', '.join(f'{n}::VARCHAR AS column_number_{n:02}' for n in range(number))}"
    out = answered(file, "--sql", query, "--format", "markdown").out
    assert ("would be too wide: column_number_14, column_number_15, column_number_16 and 3 more;" in out) == noted


def test_columns_that_are_left_out_are_named_as_they_are(tmp_path):
    file = write_runs(tmp_path, [Run("a")])
    query = f"""SELECT {", ".join(f"{n}::VARCHAR AS '<column>|number_{n:02}'" for n in range(20))}"""
    out = answered(file, "--sql", query, "--format", "markdown").out
    assert r"would be too wide: \<column>\|number_14" in out
    answered(file, "--sql", query, "-o", tmp_path / "x.html")
    assert "would be too wide: &lt;column&gt;|number_0" in (tmp_path / "x.html").read_text()


# --- reports --------------------------------------------------------------------------------------------------


def test_a_report_is_a_page_that_needs_nothing_else(folder):
    report = folder / "report.html"
    done = answered(folder, "--report", report, "-m", "test/mse", "--group-by", "model,k", "--curves", "loss")
    assert done.out == f"{report}\n"
    text = report.read_text("utf-8")
    for told in ("18 runs in 1 project", "Best 10 runs by test/mse", "test/mse by model, k", "loss over step", "vary"):
        assert told in text
    assert "<b>&amp;amp; $x" not in text
    assert "50% 日 &lt;b&gt;&amp;amp; $x_1$" in text
    assert "<script" not in text
    assert not re.findall(r"(?:href|src)\s*=\s*['\"]?(?:https?:)?//", text)
    assert text.count("<svg") == 4


def test_a_report_in_markdown(folder):
    answered(folder, "--report", folder / "report.md", "-m", "test/mse")
    text = (folder / "report.md").read_text("utf-8")
    assert text.startswith("**18 runs in 1 project: team/demo**")
    assert re.search(r"^\| name +\| +test/mse \|", text, re.MULTILINE)
    assert len(text) < 20_000


def test_a_report_holds_what_else_was_asked(grouped, tmp_path):
    write_history(tmp_path, steps("r0", [3.0, 2.0]))
    more = ["--sql", "SELECT 41 + 1 AS answer", "--diff", "r0", "r1", "--schema", "--importance", "--curves", "loss"]
    answered(grouped, "--report", tmp_path / "r.md", "--state", "all", *more[2:])
    answered(grouped, "--report", tmp_path / "sql.md", *more[:2])
    answered(grouped, "--report", tmp_path / "curves.md", "--state", "all", "--curves", "loss")
    assert "Settings associated with test/mse" in (tmp_path / "curves.md").read_text()
    text = (tmp_path / "r.md").read_text()
    assert "differ between r0, r1" in text
    assert "coverage is the share of runs with a value" in text
    assert text.count("Settings associated with test/mse") == 1
    assert "| answer" in (tmp_path / "sql.md").read_text()


def test_a_report_shows_curves_to_their_end_and_which_runs_it_is_about(tmp_path):
    """The table of a picture's 200 points ended after the first 30."""
    file = write_runs(tmp_path, [Run("a", summary={"loss": 1.0}), Run("b", state="crashed")])
    write_history(tmp_path, steps("a", [float(n) for n in range(1000)]))
    answered(file, "--report", tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    section = text.split("loss over step")[1].split("**")[1]
    points = [line.split()[1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert (points[0], points[-1], len(points)) == ("0", "999", 30)
    assert "settings and metrics are of the 1 finished run; --state all takes all" in text
    answered(file, "--report", tmp_path / "r.md", "--state", "all")
    assert "finished run;" not in (tmp_path / "r.md").read_text()


def test_a_report_draws_the_metric_that_it_is_about(tmp_path):
    """A report on val_loss drew final_val_loss, which was logged once."""
    file = write_runs(tmp_path, [Run("a", summary={"val_loss": 1.0})])
    history = write_history(tmp_path, steps("a", [3.0, 2.0, 1.0]))
    rewrite(history, metric_final_val_loss=pl.Series([None, None, 1.0]), metric_val_loss=pl.Series([3.0, 2.0, 1.0]))
    answered(file, "--report", tmp_path / "r.md", "-m", "val_loss")
    assert "**val_loss over step: 1 run**" in (tmp_path / "r.md").read_text()


def test_a_report_draws_a_metric_with_many_values_itself(tmp_path):
    """And not its validation, which is for a test metric that is logged once."""
    file = write_runs(tmp_path, [Run("a", summary={"test/acc": 0.8, "val/acc": 0.9})])
    for values, drawn in (([0.1, 0.5, 0.8], "test/acc"), ([None, None, 0.8], "val/acc")):
        rows = {"run_id": ["a"] * 3, "_step": [0, 1, 2], "metric_test_acc": values, "metric_val_acc": [0.2, 0.6, 0.9]}
        others = {"run_id": ["x"] * 9, "_step": [*range(9)], "metric_test_acc": [0.5] * 9, "metric_val_acc": [0.5] * 9}
        both = {name: values + others[name] for name, values in rows.items()}  # x is not among the runs
        write_rows(tmp_path, "history", both)
        answered(file, "-m", "test/acc", "--report", tmp_path / "x.md")
        assert re.findall(r"\*\*(\S+) over step", (tmp_path / "x.md").read_text()) == [drawn]


def test_a_report_draws_the_metric_whose_name_has_brackets(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", summary={"acc (top5)": 0.5, "acc": 0.5}) for n in range(3)])
    numbers = {"run_id": ["r0", "r1"], "_step": [0, 0], "acc (top5)": [0.5, 0.6], "acc": [0.1, 0.2]}
    write_metrics(tmp_path, numbers)
    answered(file, "-m", "acc (top5)", "--report", tmp_path / "x.md")
    assert "acc (top5) over step" in (tmp_path / "x.md").read_text("utf-8").replace("\\", "")


def test_a_report_draws_a_metric_of_the_histories_alone(tmp_path):
    file = write_runs(tmp_path, [Run("a", summary={"test/loss": 0.5})])
    write_rows(tmp_path, "history", {"run_id": ["a"], "_step": [0], "metric_val_loss": [0.5]})
    answered(file, "-m", "test/loss", "--report", tmp_path / "x.md")
    assert "val_loss over step" in (tmp_path / "x.md").read_text()


def test_a_report_draws_no_curves_of_few_runs(tmp_path):
    file = write_runs(
        tmp_path, [Run(f"r{n}", summary={"a/acc": 0.5} | ({"val/acc": 0.5} if n < 2 else {})) for n in range(9)]
    )
    rows = {"run_id": ["r0", "r1"], "_step": [0, 0]}
    write_rows(tmp_path, "history", rows | {"metric_val_acc": [0.5, 0.6], "metric_a_acc": [0.1, 0.2]})
    answered(file, "-m", "a/acc", "--report", tmp_path / "x.md")
    assert "a/acc over step" in (tmp_path / "x.md").read_text()


@pytest.mark.parametrize("more", [[], ["--curves", "loss"]])
def test_a_report_is_written_without_curves(tmp_path, more):
    runs = [Run("a", summary={"loss": 1.0}), Run("b", summary={"loss": 2.0}, state="crashed")]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, steps("b", [1.0]))
    answer = ask(file, "--report", tmp_path / "r.md", *more)
    assert answer.code == len(more) // 2
    assert "no history has loss of these runs; choose others" in answer.err
    assert (tmp_path / "r.md").exists() != bool(more)


def test_a_heading_of_a_report_is_not_broken_within_brackets(tmp_path):
    """`<h2>Problems in 1 of 1 run (no history files</h2>`."""
    file = write_runs(tmp_path, [Run("a", state="failed", summary={"loss": 1.0})])
    answered(file, "--report", tmp_path / "r.html", "-m", "loss")
    headings = re.findall("<h2>(.*?)</h2>", (tmp_path / "r.html").read_text("utf-8"))
    assert [each for each in headings if each.count("(") != each.count(")")] == []
    assert any(each.startswith("Problems in 1 of 1 run (no history files, so only") for each in headings)
