"""Tables as people see them: which columns, heads, names, numbers, widths, terminals."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import analyze_runs
import polars as pl
import pytest
from analyze import (  # noqa: F401 - fixtures
    answered,
    ask,
    document,
    example_file,
    example_runs,
    grouped_file,
    many_groups,
    on_a_terminal,
    rewrite,
    steps,
    write_history,
)
from contract_files import Run, write_runs
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

# --- which columns are shown ----------------------------------------------------------------------------------


def test_columns_choose(runs_file: Path) -> None:
    out = answered(runs_file, "--top", 1, "--columns", "name,optim.lr,created_at,tags").out
    assert out.splitlines()[1].split() == ["name", "optim.lr", "created_at", "tags"]
    out = answered(runs_file, "--group-by", "model.k", "--columns", "model.k,sem").out
    assert out.splitlines()[1].split() == ["model.k", "sem"]
    assert document(runs_file, "--top", 1, "--columns", "optim.lr")["top"][0]["config_optim_lr"] == 1e-3


def test_columns_of_statistics_and_of_runs_go_to_their_tables(runs_file: Path) -> None:
    out = answered(runs_file, "-t", 1, "-g", "model.k", "-m", "test/mse", "--columns", "model.k,sem").out
    heads = [line.split() for line in out.splitlines() if "model.k" in line and " by " not in line]
    assert heads == [["test/mse", "model.k"], ["model.k", "sem"]]  # the metric stays
    assert "best run" in answered(runs_file, "-g", "model.k", "-m", "test/mse", "--columns", "name").out


def test_columns_of_groups_may_be_all_that_they_have(grouped):
    out = answered(grouped, "-g", "config_group", "--stat", "iqm", "--columns", "config_group,iqm").out
    assert out.splitlines()[1].split() == ["config_group", "iqm"]
    assert "--columns seed: a table of groups has only config_group, runs" in (
        answered(grouped, "-g", "config_group", "--columns", "seed").err
    )
    assert ask(grouped, "--top", 1, "--columns", "mean").code == 2  # no run has a mean


def test_columns_of_every_table_of_groups_may_be_named_beside_top(tmp_path):
    file = write_runs(tmp_path, [Run(f"r{n}", config={"k": n % 2}, summary={"test/mse": n}) for n in range(6)])
    answer = answered(file, "--top", 1, "-g", "k", "--stat", "iqm", "--columns", "k,iqm")
    heads = [line.split() for line in answer.out.splitlines() if line.startswith("k")]
    assert heads == [["k"], ["k", "iqm"]]
    err = answered(file, "-g", "k", "--columns", "best_step").err  # only --value min and max have one
    assert "--columns best_step: a table of groups has only config_k, runs" in err


def test_a_table_of_groups_names_them_whatever_its_columns(tmp_path):
    runs = [Run(f"r{n}", config={"lr": n // 2, "opt": f"o{n % 2}"}, summary={"acc": n / 10}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "--group-by", "lr,opt", "-m", "acc", "--columns", "n,mean").out
    assert out.splitlines()[1].split() == ["lr", "opt", "n", "mean"]
    out = answered(write_runs(tmp_path, runs), "--group-by", "lr,opt", "-m", "acc", "--columns", "opt,mean").out
    assert out.splitlines()[1].split() == ["opt", "mean"]


def test_what_is_named_is_shown_at_any_width(tmp_path: Path) -> None:
    """Columns by --columns, and the runs of --diff: the table is wider than the page instead."""
    names = [f"option_{n:02}" for n in range(9)]
    config = [{name: f"a long text of {n} and {run}" for n, name in enumerate(names)} for run in range(9)]
    runs = [Run(f"run_{n}_" + "x" * 20, config=values, summary={"test/mse": n}) for n, values in enumerate(config)]
    file = write_runs(tmp_path, runs)
    top = answered(file, "--top", 3, "-m", "test/mse", "--columns", ",".join(names)).out
    assert top.splitlines()[1].split() == ["test/mse", *names]
    assert "no room" not in top
    chosen = ["model.k", *(name for name in analyze_runs.STATISTICS if name not in {"iqm", "best_step"})]
    config_k = [Run(f"r{n}", config={"model": {"k": n % 2}}, summary={"test/mse": n}) for n in range(4)]
    groups = answered(write_runs(tmp_path / "k", config_k), "-g", "model.k", "--columns", ",".join(chosen)).out
    assert "no room" not in groups
    assert len(groups.splitlines()[1].split()) >= len(chosen)
    out = answered(file, "--diff", *(run.id for run in runs)).out
    assert "no room" not in out
    assert all(f"run_{n}_" in out for n in range(9))


def test_advice_names_columns_only_where_they_have_an_effect(grouped):
    names = ", ".join(f"1 AS a_long_name_of_a_column_{n}" for n in range(9))
    assert "wide: a_long" in (out := answered(grouped, "--sql", f"SELECT {names}").out.replace("\n", " "))
    assert out.rstrip().endswith("more; use --json or -o")


def test_a_group_table_shows_the_contracts_columns(tmp_path: Path) -> None:
    out = answered(write_runs(tmp_path, many_groups()), "--group-by", "model.arch").out
    assert " ".join(out.splitlines()[1].split()) == "model.arch n mean std best run min median max"
    assert "10 more rows: use --max-rows 0 for all" in out
    assert "0.0124 " in out  # the mean of the best group
    everything = answered(write_runs(tmp_path, many_groups()), "--group-by", "model.arch", "--max-rows", 0).out
    assert len(everything.splitlines()) == len(out.splitlines()) + 9


@pytest.fixture
def wide(tmp_path):
    """Pairs of runs that differ in their seeds; each pair but the first has another of twelve settings switched on."""
    settings = [{f"setting_{i}": int(i == pair) for i in range(1, 13)} for pair in range(13)]
    runs = [Run(f"r{n}", config=settings[n // 2] | {"seed": n}, summary={"loss": n + 0.5}) for n in range(26)]
    return write_runs(tmp_path, runs)


def test_a_group_of_many_settings_shows_its_numbers(wide):
    """They came after the settings, of which twelve fill the width."""
    head = answered(wide, "-g", "!seed").out.splitlines()
    assert next(line for line in head if "setting_1 " in line).split()[:4] == ["n", "mean", "std", "setting_1"]
    few = answered(wide, "-g", "setting_1,setting_2").out
    assert "setting_1  setting_2   n   mean" in few


def test_the_best_runs_show_their_settings_before_their_project(tmp_path):
    """At 80 columns entity and project had the room, and the settings were not shown; then those that few runs have."""
    for n, project in enumerate(("a-project-of-some-length", "another-project-of-mine")):
        config = {"a_setting_of_few": 1} if n else {}
        run = Run(f"r{n}", f"name of run {n}", {**config, "dropout": n / 2, "batch_size": n}, {"test/mse": float(n)})
        write_runs(tmp_path, [run], entity=f"the-entity-of-team-{n}", project=project)
    head = answered(tmp_path, "--top", 2).out.splitlines()[1].split()
    assert head[:5] == ["name", "test/mse", "batch_size", "dropout", "a_setting_of_few"]
    wide = answered(tmp_path, "--top", 2, COLUMNS="160").out.splitlines()[1].split()
    assert wide[5:] == ["project", "entity"]  # of one entity are many projects


def test_derived_columns_come_first_and_repeats_are_left_out(tmp_path: Path) -> None:
    file = write_runs(tmp_path, [run for run in example_runs() if run.id.startswith("r")])
    metadata = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    unified = pl.read_parquet(file).with_columns(k=pl.col("config_model_k"), source_file=pl.col("name"))
    unified.write_parquet(file, metadata=metadata)
    header = answered(file, "--top", 4).out.splitlines()[1].split()
    assert header == ["name", "test/mse", "k", "seed"]


def test_columns_that_most_rows_lack_are_not_shown(tmp_path: Path) -> None:
    configs = [{"half": 1, "rare": 1}, {"half": 2, "rare": 2}, {}, {}, {"half": 3}]
    runs = [Run(f"r{i}", config=config, summary={"test/mse": i}) for i, config in enumerate(configs)]
    file = write_runs(tmp_path, runs)
    assert answered(file, "--top", 5).out.splitlines()[1].split() == ["name", "test/mse", "half"]
    assert document(file, "--top", 5)["top"][0]["config_rare"] == 1


# --- widths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--group-by", "model.arch", "--top", "10"], ["--schema"]])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_page(tmp_path: Path, arguments: list, width: int) -> None:
    file = write_runs(tmp_path, many_groups())
    out = answered(file, *arguments, COLUMNS=str(width)).out
    assert max(map(len, out.splitlines())) <= width
    assert "\x1b" not in out
    assert len(out.encode()) < 6500


@pytest.mark.parametrize("width", [20, 30, 40])
def test_the_metric_stays_on_a_narrow_page(runs_file: Path, width: int) -> None:
    lines = answered(runs_file, "--top", 2, "-m", "test/mse", COLUMNS=str(width)).out.splitlines()
    assert any(line.split()[:2] == ["name", "test/mse"] for line in lines)
    assert max(map(len, lines)) <= width


def test_settings_of_twelve_letters_stay_whole(tmp_path: Path) -> None:
    runs = [Run(f"{i}{'long' * 9}", config={"arch": f"filter_bank{i}"}, summary={"test/mse": i}) for i in range(3)]
    assert "filter_bank0" in answered(write_runs(tmp_path, runs), "--top", 3, COLUMNS="46").out


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_heads_and_details_are_whole_at_any_width(tmp_path, width):
    """Heads that would look alike when shortened, and sentences, are broken into lines."""
    archs = ["stage1a/filter_bank", "stage2c/filter_bank", "stage3b/filter_bank"]
    runs = [Run(f"run_with_quite_a_long_name_{n}", config={"arch": arch}) for n, arch in enumerate(archs)]
    runs.append(Run("crashed_after_a_while", state="crashed", history_rows=123_457))
    file = write_runs(tmp_path, runs)
    rows = [row for run in runs[:3] for row in steps(run.id, [1.0, 0.5, 1001.0])]
    write_history(tmp_path, rows)
    out = answered(file, "--curves", "loss", "-g", "arch", "--health", "-s", "all", COLUMNS=str(width)).out
    assert max(map(len, out.splitlines())) <= width
    details = [" ".join(part.split()) for part in re.findall(r"diverged +(.*\n?.*)\n", out)]
    assert "loss 0.5 at step 1, ends at 1001" in details[0].replace("\n", " ")
    table = out[out.index("loss over step") :]
    heads = table[: table.index("────")].splitlines()
    assert all(f"{arch.partition('/')[0]}/" in " ".join(heads) for arch in archs)


# --- heads ----------------------------------------------------------------------------------------------------


def test_a_heading_is_broken_between_its_words(tmp_path):
    runs = [Run(f"r{n}", config={"batch_size-of-the-one": n + 1}, summary={"validation_accuracy": 1}) for n in range(2)]
    text = answered(write_runs(tmp_path, runs), "--top", 2, COLUMNS="40").out
    heads = text[: text.index("────")].splitlines()[-2:]
    assert [head.split() for head in heads] == [["name", "validation_", "batch_size-of-"], ["accuracy", "the-one"]]


def test_heads_of_curves_and_pivots_are_as_short_as_the_numbers_of_a_table(tmp_path):
    """A random search has rates of 17 digits, which were broken into three lines each."""
    rates = [0.0001107484700770214, 8.786782930184295e-05, 0.0001823476851513542]
    runs = [Run(f"r{n}", config={"lr": lr, "k": n % 2}, summary={"loss": 1.0 + n}) for n, lr in enumerate(rates)]
    file = write_runs(tmp_path, runs)
    write_history(tmp_path, [row for n in range(3) for row in steps(f"r{n}", [2.0, 1.0 + n])])
    texts = ["0.0001107", "8.787e-05", "0.0001823"]
    assert answered(file, "--curves", "loss", "-g", "lr").out.splitlines()[1].split() == ["step", *texts]
    assert answered(file, "--pivot", "k,lr").out.splitlines()[1].split() == ["k", texts[1], texts[0], texts[2]]
    assert "only one value in 0.0001107 and 8.787e-05" in " ".join(answered(file, "-g", "lr").out.split())


def test_a_setting_called_like_a_column_of_ours_is_not_headed_like_it(grouped):
    assert "config_group" in answered(grouped, "--top", 2).out.splitlines()[1].split()
    assert answered(grouped, "-g", "config_group").out.startswith("test/mse by config_group: ")
    assert answered(grouped, "--pivot", "config_group,seed").out.startswith("test/mse by config_group and seed: ")
    firsts = [line.split()[0] for line in answered(grouped, "--diff", "r0", "r1").out.splitlines()]
    assert {"config_group", "config_state", "seed"} <= {*firsts}


def test_a_setting_called_like_a_statistic_or_nothing_has_a_head_of_its_own(tmp_path):
    config = {"n": 1, "mean": 2, "": 3}
    file = write_runs(tmp_path, [Run(name, config=config, summary={"test/mse": 1.0}) for name in "ab"])
    assert {row["column"]: row["path"] for row in document(file, "--schema")["schema"]}["config_"] == ""
    lines = answered(file, "-g", "n,mean,config_").out.splitlines()
    assert lines[0].startswith("test/mse by config_n, config_mean, config_: 2 runs in 1 group; ")
    assert [line.split() for line in lines if line.startswith("config_n ")] == [
        ["config_n", "config_mean", "config_", "n", "mean", "std", "best", "run", "min", "median", "max"]
    ]


# --- names of runs --------------------------------------------------------------------------------------------


def test_names_that_repeat_or_lack_go_with_their_ids(tmp_path):
    runs = [Run(f"r{n}", "same", {"g": n % 2}, {"test/mse": float(n)}) for n in range(4)]
    file = write_runs(tmp_path, runs)
    assert "same (r0)" in answered(file, "--top", 2).out
    assert "same (r1)" in answered(file, "-g", "g").out
    name = pl.when(pl.col("id") != "r0").then("name")
    out = answered(rewrite(file, name=name), "--top", 2).out
    assert [line.split()[0] for line in out.splitlines()[3:4]] == ["r0"]


def test_a_run_named_by_its_id_is_labelled_by_its_path_where_ids_repeat(tmp_path):
    file = write_runs(tmp_path, [Run(each, summary={"loss": ord(each)}) for each in "ab"])
    rewrite(file, id=pl.lit("x"), name=pl.lit("x"), project=pl.Series(["p0", "p1"]))
    lines = answered(file, "--top", 2).out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["team/p0/x", "team/p1/x"]


def test_long_names_are_told_apart(tmp_path):
    long = "a_very_long_prefix_that_all_of_the_runs_have_in_common_without_any_use_to_the_reader"
    runs = [Run(f"r{n}", f"{long}_{v}_suffix_of_all", summary={"test/mse": n}) for n, v in enumerate(["left", "right"])]
    out = answered(write_runs(tmp_path, runs), "--top", 2).out
    assert "left" in out
    assert "right" in out


@given(st.text(), st.integers(1, 60))
def test_shortened_fits_and_keeps_what_is_short(text: str, width: int) -> None:
    short = analyze_runs.shortened(text, width)
    if analyze_runs.cell_count(text) <= width:
        assert short == text
    else:
        assert analyze_runs.cell_count(short) <= width
        assert "…" in short


def test_the_middle_of_a_text_goes() -> None:
    assert analyze_runs.shortened("0123456789abc", 10) == "0123…89abc"
    assert analyze_runs.shortened("0123456789abc", 9) == "0123…9abc"
    assert analyze_runs.words("val/2/topK_10") == ["val", "2", "top", "k", "10"]


def test_an_id_beside_a_name_is_not_cut(tmp_path):
    """It is what --diff and --where take: `small-m…z7yhc9j)` was of no use."""
    assert analyze_runs.shortened("small-model-of-mine (6z7yhc9j)", 16) == "small…(6z7yhc9j)"
    assert analyze_runs.shortened("small-model-of-mine (6z7yhc9j)", 9) == "s…7yhc9j)"


def test_words_that_all_names_share_go_first() -> None:
    names = ["stage2_gnn_k16_seed_long_run", "stage2_mlp_k16_seed_long_run"]
    assert analyze_runs.short_names(names, 10) == ["…gnn…", "…mlp…"]
    assert analyze_runs.short_names(["same_" * 4] * 2, 7) == ["sam…me_"] * 2


def test_names_that_differ_in_their_middle_are_not_cut_to_one(tmp_path):
    """Beside other names, three runs had the label `conv_3_bands_0_…_9_10_11_full`."""
    bands = [f"conv_3_bands_0_1_2_3_{middle}_8_9_10_11_full" for middle in ("4_5", "6", "7_4_2")]
    names = [*bands, "linear_with_all_of_the_colours_there_are"]
    found = [*map(str, analyze_runs.short_names(names, 24))]
    assert found[:3] == ["conv_3_b…_0_1_2_3_4_5…", "conv_3_b…_0_1_2_3_6…", "conv_3_b…_0_1_2_3_7_4_2…"]
    assert max(map(len, found)) <= 24
    assert analyze_runs.short_names(names * 2, 24) == found * 2  # equal names stay equal
    wide = [f"模型模型模型模型_{middle}_的一個很長的名字" for middle in ("ab", "cd", "ef")]
    found = analyze_runs.short_names([*wide, "something else of some length"], 15)
    assert len({*found}) == 4
    assert max(map(analyze_runs.cell_count, found)) <= 15
    runs = [Run(f"r{n}", name, state="failed") for n, name in enumerate(names)]
    lines = answered(write_runs(tmp_path, runs), "--health").out.splitlines()
    assert len({line.split()[0] for line in lines if " failed  " in line}) == 4


def test_shortened_names_use_the_room_that_there_is():
    """Ten groups were called …0… to …9…, and a group called null kept the others from losing what they share."""
    names = [f"a_model_with_a_very_long_name_variant_{n}_of_the_ablation" for n in range(10)]
    found = analyze_runs.short_names(names, 32)
    assert found[:2] == ["a_model_with_a…g_name_variant_0…", "a_model_with_a…g_name_variant_1…"]
    names = ["denoising.models.SelfAttention", "denoising.models.GNN", "null"]
    assert analyze_runs.short_names(names, 16) == ["…SelfAttention", "…GNN", "null"]


def test_what_names_share_at_their_end_uses_the_room_that_there_is():
    """Lists became `[8…` and `[3…`, where sixteen characters had room."""
    found = analyze_runs.short_names(["[8, 64, 128, 256, 512]", "[3, 64, 128, 256, 512]"], 16)
    assert found == ["[8, 64, …6, 512]", "[3, 64, …6, 512]"]


def test_ranges_are_never_shortened(tmp_path):
    """`0.00079…00233729` reads as one number."""
    configs = [{"lr": 0.0007891234567 * (n + 1), "m": "ab"[n % 2]} for n in range(16)]
    runs = [Run(f"run-of-{n}", config=config, summary={"loss": n / 7}) for n, config in enumerate(configs)]
    out = answered(write_runs(tmp_path, runs), "-g", "lr:4,m", "-m", "loss", COLUMNS="60").out
    cells = [line.split()[0] for line in out.splitlines() if line.startswith("0.00")]
    assert cells
    assert not [cell for cell in cells if "…" in cell]


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
def test_names_are_data(tmp_path: Path, form: str) -> None:
    hostile = ["[red]boom[/red]", "\x1b[31mred\x1b[0m", "a|b\nc", "=1+1", "@SUM(A1)", "🎉/x", "\u202etxt", "'; --"]
    runs = [Run(f"r{i}", name=name, summary={"test/mse": float(i)}) for i, name in enumerate(hostile)]
    out = answered(write_runs(tmp_path, runs), "--top", 20, "--format", form).out
    assert "\x1b" not in out
    if form == "table":
        assert "[red]boom[/red]" in out
        assert "\u202e" not in out
        assert "🎉/x" in out
    if form == "markdown":
        assert "\\[red]boom\\[/red]" in out
        assert "a\\|b" in out
    if form == "csv":
        names = [row["name"] for row in csv.DictReader(io.StringIO(out))]
        assert names[3:5] == ["'=1+1", "'@SUM(A1)"]
    if form == "json":
        assert [row["name"] for row in json.loads(out)["top"]] == hostile


def test_names_are_not_styled(tmp_path):
    names = ["a (3)*", "b (4)°", "*bold*", "_i_", "$x$ &amp;"]
    runs = [Run(f"r{n}", name, summary={"test/mse": float(n)}) for n, name in enumerate(names)]
    file = write_runs(tmp_path, runs)
    out = answered(file, "--top", 5, "--format", "latex").out
    assert r"\textbf" not in out
    assert r"\underline" not in out
    assert "a (3)*" in out
    out = answered(file, "--top", 5, "--format", "markdown").out
    assert r"\*bold\*" in out
    assert r"\_i\_" in out
    assert r"\$x\$ \&amp;" in out


# --- numbers --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(), min_size=1))
def test_any_column_of_floats_can_be_spelt(values: list[float]) -> None:
    texts = analyze_runs.cells_of(pl.Series(values, dtype=pl.Float64))
    for text, value in zip(texts, values, strict=True):
        if math.isfinite(value) and 1e-4 < abs(value) < 1e300:
            assert float(text) == pytest.approx(value, rel=0.06)


def test_different_values_never_look_equal(tmp_path):
    values = [0.123456781, 0.123456782]
    runs = [Run(f"r{n}", config={"lr": lr}, summary={"test/mse": 1.0 + n * 1e-7}) for n, lr in enumerate(values)]
    file = write_runs(tmp_path, runs)
    for question in (("--diff", "r0", "r1"), ("--varying",), ("-g", "lr")):
        out = answered(file, *question).out
        assert all(str(value) in out for value in values), question
    rows = list(csv.DictReader(io.StringIO(answered(file, "--diff", "r0", "r1", "--format", "csv").out)))
    assert [rows[0]["r0"], rows[0]["r1"]] == ["r0", "r1"]
    assert [float(row["r1"]) for row in rows if row["column"] == "config_lr"] == values[1:]
    out = answered(file, "--top", 2).out
    assert "1.0000000" in out  # digits enough to tell neighbours apart
    assert "1.0000001" in out


NEIGHBOURS = {"a": 0.3, "b": 0.1 + 0.2}


def test_groups_and_differences_of_neighbouring_numbers_do_not_look_alike(tmp_path):
    """Two rows were called 0.3000, and a setting that differs was 0.3000 in both runs; then each value was exact."""
    values = NEIGHBOURS | {"c": 0.1 * 6}
    runs = [Run(run, config={"lr": lr, "g": 1}, summary={"test/mse": 1.0}) for run, lr in values.items()]
    file = write_runs(tmp_path, runs)
    for flags in (["-g", "lr"], ["--pivot", "lr,g"]):
        firsts = [line.split()[0] for line in answered(file, *flags).out.splitlines() if line.strip()[:2] == "0."]
        assert firsts == ["0.3", "0.30000000000000004", "0.6000"]
    lines = answered(file, "--diff", "a", "b").out.splitlines()
    assert ["lr", "0.3", "0.30000000000000004"] in [line.split() for line in lines]


def test_neighbours_do_not_cost_the_digits_of_other_numbers():
    values = pl.Series([0.12341, 0.12342, *NEIGHBOURS.values()])
    assert analyze_runs.cells_of(values) == ["0.12341", "0.12342", "0.30000", "0.30000"]


def test_values_of_a_setting_are_not_cut_within_a_number(tmp_path):
    """What all cells shared was dropped, and their middles: `256…`, `1e-0…875 (2)`."""
    config = [
        {"size": 10**n, "labels": [f"label {i} of {n}" for i in range(n * 20)], "lr": 1 / (n + 3)} for n in range(9)
    ]
    runs = [Run(f"r{n}", config=each, summary={"loss": 1.0}) for n, each in enumerate(config)]
    out = answered(write_runs(tmp_path, runs), "--varying").out
    words = " ".join(out.split())
    assert (
        "size 9 1 (1), 10 (1), 100 (1), 1000 (1), 10000 (1), 100000 (1), 1000000 (1), 10000000 (1) and 1 more" in words
    )
    assert f"lr 9 {1 / 11} (1), 0.1 (1), " in words
    assert max(map(len, out.splitlines())) <= 80


def test_numbers_below_ten_million_are_no_powers_of_ten(tmp_path):
    """A return was 42006 in the list of the best runs, but 4.201e+04 in its curve."""
    write_history(tmp_path, [("a", 0, 42006.25), ("a", 1, 0.01)])
    file = write_runs(tmp_path, [Run(x, summary={"loss": v}) for x, v in (("a", 42006.25), ("b", 0.012345))])
    assert answered(file, "--curves", "loss").out.splitlines()[-2].split() == ["0", "42006"]
    assert [line.split()[1] for line in answered(file, "--top", 2).out.splitlines()[-2:]] == ["0.01235", "42006"]
    at = pl.Series([1_700_000_000.25, 1_700_000_030.5])
    out = answered(rewrite(file, runtime_s=at), "--sql", "SELECT runtime_s FROM runs ORDER BY 1").out
    assert out.split()[-2:] == ["1700000000", "1700000030"]


# --- other values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "csv", "markdown", "latex", "table"])
def test_values_of_any_dtype_are_shown(tmp_path, form):
    runs = [Run(f"r{n:02}", config={"k": n % 2}, summary={"test/mse": float(n)}) for n in range(12)]
    bits = [n % 2 for n in range(12)]
    odd = {
        "config_day": pl.Series([date(2026, 1, 1 + bit) for bit in bits]),
        "config_naive": pl.Series([datetime(2026, 1, 1 + bit) for bit in bits]),  # noqa: DTZ001
        "config_span": pl.Series([timedelta(seconds=bit) for bit in bits]),
        "config_tree": pl.Series([{"a": bit} for bit in bits]),
        "config_bytes": pl.Series([b"\xff" * bit for bit in bits]),
        "config_kind": pl.Series([str(bit) for bit in bits]).cast(pl.Categorical),
        "config_exact": pl.Series([f"{bit}.5" for bit in bits]).cast(pl.Decimal(10, 2)),
        "config_list": pl.Series([[bit, 1] for bit in bits]),
        "config_pair": pl.Series([[bit, 1] for bit in bits], dtype=pl.Array(pl.Int64, 2)),
    }
    file = rewrite(write_runs(tmp_path, runs), **odd)
    for column in odd:
        for question in (("-g", column), ("--pivot", f"{column},k"), ("--top", 2, "--columns", column)):
            assert answered(file, *question, "--format", form).out
    for question in (("--varying",), ("--diff", "r00", "r01"), ("--importance",), ("--schema",), ("-g", "!seed")):
        assert answered(file, *question, "--format", form).out


def test_lists_are_values_like_others(tmp_path):
    runs = [Run(f"r{n}", tags=["x", "y"] if n % 2 else [], summary={"test/mse": float(n)}) for n in range(4)]
    file = write_runs(tmp_path, runs)
    assert "x, y" in answered(file, "--pivot", "tags,state").out
    tags = pl.col("tags")
    file = rewrite(file, config_layers=pl.when(pl.col("id") == "r0").then(tags).otherwise(pl.lit(["z"])))
    rows = {row["column"]: row for row in document(file, "--diff", "r0", "r1")["diff"]}
    assert rows["config_layers"] == {"column": "config_layers", "kind": "config", "r0": [], "r1": ["z"]}
    for form in ("csv", "latex", "markdown", "table"):
        answered(file, "-g", "tags", "--top", 1, "--format", form)
    answered(file, "-g", "tags", "-o", tmp_path / "x.svg")


def test_the_text_null_is_not_a_missing_value(tmp_path):
    runs = [Run(f"r{n}", config={"arch": [None, "null"][n % 2]}, summary={"loss": n}) for n in range(4)]
    out = answered(write_runs(tmp_path, runs), "-g", "arch", "-m", "loss").out
    assert [line.split()[0] for line in out.splitlines()[3:5]] == ["null", '"null"']


def test_a_missing_value_is_not_the_text_null(tmp_path):
    """Cells that are texts already were taken for values: --diff and --pivot showed "null" for what is missing."""
    values = [0.3, 0.1 + 0.2, None]
    configs = [{"lr": lr, "arch": arch} for lr, arch in zip(values, [None, "null", "x"], strict=True)]
    file = write_runs(tmp_path, [Run(f"r{n}", config=c, summary={"loss": n}) for n, c in enumerate(configs)])
    lines = [line.split() for line in answered(file, "--diff", "r0", "r1", "r2").out.splitlines()]
    assert ["arch", "null", '"null"', "x"] in lines
    assert ["lr", "0.3", "0.30000000000000004", "null"] in lines
    for flags in (["-g", "lr"], ["--pivot", "lr,state"], ["--pivot", "arch,state"]):
        firsts = [line.split()[0] for line in answered(file, *flags, "-m", "loss").out.splitlines()[3:6]]
        assert firsts.count("null") == 1, flags


# --- terminals ------------------------------------------------------------------------------------------------


def test_colours_only_where_wanted(runs_file: Path) -> None:
    def on_terminal(**environment: str) -> str:
        return on_a_terminal(runs_file, "--quiet", "--top", "1", **environment)

    assert "\x1b[1m" in on_terminal(NO_COLOR="")
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in on_terminal(NO_COLOR="", TERM="dumb")


def test_a_terminal_has_links_and_the_shapes_of_curves(tmp_path):
    file = write_runs(tmp_path, [Run(n, summary={"test/mse": 1.0}) for n in "abc"])
    urls = ["https://wandb.ai/team/demo/runs/a", "javascript:alert(1)", "https://x/\x1b[31m"]
    rewrite(file, url=pl.Series(urls))
    write_history(tmp_path, steps("a", [1.0, 8.0, math.nan, 3.0]))
    out = on_a_terminal(file, "--top", 3, "--quiet")
    assert "\x1b]8;;https://wandb.ai/team/demo/runs/a\x1b\\" in out
    assert "javascript" not in out
    assert "\x1b[31m" not in out
    assert "▁█x▃" in on_a_terminal(file, "--curves", "loss", "--quiet")
    answered(file, "--report", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<a href='https://wandb.ai/team/demo/runs/a'>" in page
    assert "javascript" not in page
