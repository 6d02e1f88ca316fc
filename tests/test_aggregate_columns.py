"""The columns that aggregate_runs.py adds: from names by rules, and from histories."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import aggregate_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from aggregate import DERIVED, aggregated, in_a_folder_of_its_own, metadata, report, rewritten, run, same, write_history  # noqa: F401 - fixtures
from contract_files import Run, write_runs
from hypothesis import given, settings
from hypothesis import strategies as st

# --- derived columns ------------------------------------------------------------------------------------------

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


def test_no_enrich_adds_no_column():
    write_runs(Path("x"), [Run("a", "gnn_k1")])
    frame = aggregated("x", "--no-enrich")
    assert not set(DERIVED) & set(frame.columns)
    assert report("x", "--no-enrich")["derived"] == []


@pytest.mark.parametrize(("name", "value"), [("a_lr1e999", None), ("a_lr1e-3", 1e-3), ("a_wd1_lr9e400", None)])
def test_a_number_that_no_float_holds_is_no_value(name, value):
    write_runs(Path("x"), [Run("a", name)])
    assert aggregated("x")["lr_parsed"].to_list() == [value]


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


# --- rules ----------------------------------------------------------------------------------------------------


def test_rules_of_a_file_come_before_the_built_in_ones_and_are_explained():
    Path("r.toml").write_text('[[rule]]\ncolumn = "opt"\npattern = "(adam|sgd)"\n')
    write_runs(Path("x"), [Run("a", "Adam_k2")])
    assert aggregated("x", "--rules", "r.toml").select("opt", "k").row(0) == ("adam", 2)
    out, _ = run("--rules", "r.toml", "--explain", "Adam_k2")
    assert out.startswith("opt          adam  by (adam|sgd)  (r.toml: rule 1)\n")


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


def test_rules_read_tags_and_there_may_be_none():
    Path("r.toml").write_text('[[rule]]\ncolumn = "opt"\nsource = "tags"\npattern = "(adam|sgd)"\n')
    write_runs(Path("x"), [Run("a", tags=["new", "SGD"]), Run("b")])
    assert aggregated("x", "--rules", "r.toml")["opt"].to_list() == ["SGD", None]
    Path("r.toml").write_text('[[rule]]\ncolumn = "all"\nsource = "tags"\npattern = "^(.*)$"\n')  # with commas
    assert aggregated("x", "--rules", "r.toml")["all"].to_list() == ["new,SGD", ""]
    Path("r.toml").write_text("replace = true")
    assert run("--rules", "r.toml", "--explain", "a")[0] == "no rules: --rules has replace = true and no [[rule]]\n"
    assert aggregated("x", "--rules", "r.toml").width == 37 - len(DERIVED)


def test_a_rule_may_have_all_its_entries():
    rule = {"column": "x", "pattern": "a", "source": "notes", "value": 1, "dtype": "int"}
    assert aggregate_runs.flaw_of_table(rule) is None


def test_a_derived_column_may_be_called_count():
    Path("r.toml").write_text('[[rule]]\ncolumn = "count"\npattern = "_c([0-9])"\n')
    write_runs(Path("x"), [Run("a", "run_c3")])
    fit = next(fit for fit in report("x", "--rules", "r.toml")["derived"] if fit["column"] == "count")
    assert (fit["commonest"], fit["commonest_runs"]) == (["3"], [1])


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


def test_many_derived_columns_and_rules_without_a_source_are_folded():
    write_runs(Path("x"), [Run("a", "one"), Run("b", "two")])
    rules = "replace = true\n"
    rules += "".join(f'[[rule]]\ncolumn = "c{n}"\npattern = "(o)"\n' for n in range(9))
    rules += "".join(f'[[rule]]\ncolumn = "d{n}"\npattern = "(o)"\nsource = "none{n}"\n' for n in range(9))
    Path("r.toml").write_text(rules)
    _, err = run("x", "--rules", "r.toml")
    assert sum(line.startswith("c") for line in err.splitlines()) == 5
    assert "4 more derived columns; --json lists all" in err
    assert "no input has the source column of r.toml: rule 10 (none0), r.toml: rule 11 (none1), " in err
    assert "r.toml: rule 14 (none4) and 4 more\n" in err
    assert "no match in any run for d0, d1, d2, d3, d4, d5, d6, d7, d8\n" in err


# --- statistics of histories ----------------------------------------------------------------------------------


def write_losses(folder, rows):
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
        write_losses(folder, rows)
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


def test_the_tail_is_the_mean_of_the_last_tenth():
    write_runs(Path("x"), [Run("a")])
    write_losses("x", [("a", step, float(step), None) for step in range(20)])
    assert aggregated("x", "--history")["history_tail_loss"].to_list() == [18.5]


def test_not_a_number_never_stands_for_the_best():
    write_runs(Path("x"), [Run("a")])
    values = [math.nan, -math.inf, 2.0, math.inf, 1.0, math.nan]
    write_history(Path("x/team_demo_history.parquet"), [("a", s, {"loss": v, "n": s}) for s, v in enumerate(values)])
    frame = aggregated("x", "--history", "--at", "loss")
    columns = ["min_loss", "min_step_loss", "max_loss", "max_step_loss", "n_loss", "n_nonfinite_loss", "at_n"]
    assert frame.select(f"history_{name}" for name in columns).row(0) == (1.0, 4, 2.0, 2, 2, 4, 4)


def test_a_metric_that_a_file_of_histories_lacks_was_logged_no_times():
    """As if another run of the same file had it: a count does not depend on the neighbors."""
    for project, values in (("demo", {"loss": 1.0, "acc": 1.0}), ("other", {"loss": 1.0})):
        write_runs(Path("x"), [Run("a"), Run("b"), Run("c")], project=project)
        rows = [("a", 0, values), ("b", 0, {"loss": 2.0})]
        write_history(Path(f"x/team_{project}_history.parquet"), rows, project=project)
    frame = aggregated("x", "--history")
    assert frame["history_n_acc"].to_list() == [1, 0, None, 0, 0, None]  # c has no history
    assert frame["history_n_nonfinite_acc"].to_list() == [0, 0, None, 0, 0, None]
    assert frame["history_last_acc"].to_list() == [1.0, *[None] * 5]


@pytest.mark.parametrize(
    ("flags", "column", "value"),
    [(["--history-metrics", "acc"], "history_max_acc", 3.0), (["--history-metrics", "LO*"], "history_max_loss", 2.0)],
)
def test_history_metrics_are_chosen_by_glob(flags, column, value):
    write_runs(Path("x"), [Run("a")])
    write_losses(Path("x"), [("a", 0, 2.0, 3.0), ("a", 1, 1.0, 2.0)])
    frame = aggregated("x", "--history", *flags)
    assert frame[column].to_list() == [value]
    chosen = {name.rpartition("_")[2] for name in frame.columns if name.startswith("history_max_")}
    assert chosen == {column.rpartition("_")[2]}
    _, err = run("x", "--history", "--history-metrics", "los", code=2)
    assert "no such metric; did you mean loss" in err


def test_a_metric_may_be_called_like_a_column_of_the_history():
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, dict.fromkeys(("id", "run_id", "entity", "step", "n"), step)) for step in range(3)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history", "--at", "id:max")
    assert frame.select("history_at_entity", "history_max_id", "history_last_run_id", "history_n_n").row(0) == (
        2,
        2,
        2,
        3,
    )


def test_a_history_without_metadata_has_the_names_of_the_runs():
    """As another tool writes it."""
    write_runs(Path("x"), [Run("a", summary={"train/loss": 1.0})])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"train_loss": 2.0})])
    frame = aggregated("x", "--history", "--at", "train/loss")
    assert frame.select("metric_train_loss", "history_at_train_loss").row(0) == (1.0, 2.0)


# --- the best step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "acc"), [("loss", 2.0), ("loss:max", 3.0), ("acc", 3.0), ("metric_acc:min", 2.0)])
def test_the_best_step_of_another_metric(at, acc):
    write_runs(Path("x"), [Run("a")])
    write_losses(Path("x"), [("a", 0, 2.0, 3.0), ("a", 1, 1.0, 2.0), ("a", 2, math.nan, math.inf)])
    assert aggregated("x", "--history", "--at", at)["history_at_acc"].to_list() == [acc]


def test_what_was_logged_at_other_steps_counts_with_its_last_value_before():
    write_runs(Path("x"), [Run("a"), Run("b"), Run("c")])
    rows = [("a", 0, {"acc": 0.1}), ("a", 1, {"loss": 2.0}), ("a", 2, {"acc": 0.2}), ("a", 3, {"loss": 1.0})]
    rows += [("a", 4, {"acc": 0.9, "late": 7}), ("a", 5, {"loss": 5.0}), ("b", 0, {"acc": 0.5})]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history", "--at", "loss")
    assert frame["history_at_acc"].to_list() == [0.2, None, None]
    assert frame["history_at_late"].to_list() == [None, None, None]
    _, err = run("x", "--history", "--at", "loss")
    assert "they were logged only after the best step, or loss was not logged or never finite" in err


def test_a_tag_is_asked_for_as_in_analyze_runs():
    write_runs(Path("x"), [Run("a", tags=["new"]), Run("b", name="list_contains(tags")])
    assert aggregated("x", "--where", "list_contains(tags, 'new')")["id"].to_list() == ["a"]
    assert aggregated("x", "--where", "name = 'list_contains(tags'")["id"].to_list() == ["b"]


@pytest.mark.parametrize(
    ("metric", "step"),
    [("fid_score", 1), ("error_top5", 1), ("val/R2Score", 0), ("neg_mean_squared_error", 0), ("test_nll", 1)],
)
def test_the_direction_is_read_off_the_name_as_analyze_runs_does(metric, step):
    write_runs(Path("x"), [Run("a")])
    column = re.sub(r"\W", "_", metric)
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", 0, {column: 2.0, "acc": 10.0}), ("a", 1, {column: 1.0, "acc": 11.0})])
    rewritten(file, columns={f"metric_{column}": [metric], "metric_acc": ["acc"]})
    assert aggregated("x", "--history", "--at", metric)["history_at_acc"].to_list() == [10.0 + step]


@pytest.mark.parametrize("of_runs", [True, False])
def test_the_goal_of_a_metric_without_a_column_of_its_own_is_carried_on(of_runs):
    facts = {"metric_val_score": {"goal": "minimize", "summary": "min", "step_metric": None}}
    write_runs(Path("x"), [Run("a", summary={"val/score": {"min": 1.0}})], metrics=facts if of_runs else None)
    rows = [("a", 0, {"val_score": 5.0, "acc": 10}), ("a", 1, {"val_score": 1.0, "acc": 11})]
    more = {} if of_runs else {"metrics": json.dumps(facts)}
    paths = {"metric_val_score": ["val/score"], "metric_acc": ["acc"]}
    write_history(Path("x/team_demo_history.parquet"), rows, columns=json.dumps(paths), **more)
    out, err = run("x", "--history", "--at", "val/score")
    assert "(set by define_metric)" in err
    assert pl.read_parquet(out.strip())["history_at_acc"].to_list() == [11]
    stored = {"metric_val_score": {"goal": "minimize", "summary": "min"}}
    assert metadata(out.strip())["metrics"] == stored
    if of_runs:
        out, _ = run(out.strip(), "-o", "second.parquet")
        assert metadata("second.parquet")["metrics"] == stored


@pytest.mark.parametrize("values", [(0.0, -0.0), (-0.0, 0.0), (-0.0, math.nan, 0.0)])
def test_of_zeros_of_either_sign_the_first_is_the_best(values):
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"loss": value, "n": step}) for step, value in enumerate(values)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    for goal in ("min", "max"):
        frame = aggregated("x", "--history", "--at", f"loss:{goal}")
        assert frame.select("history_min_step_loss", "history_max_step_loss", "history_at_n").row(0) == (0, 0, 0)


def test_whole_numbers_that_one_float_stands_for_are_compared_as_they_are():
    """The best of times in nanoseconds was the first of the same 256 ns."""
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"ns": 1_700_000_000_000_000_000 + step, "n": step}) for step in range(3)]
    write_history(Path("x/team_demo_history.parquet"), rows)
    assert aggregated("x", "--history", "--at", "ns:max")["history_at_n"].to_list() == [2]


def test_the_best_value_may_be_a_decimal():
    write_runs(Path("x"), [Run("a")])
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", 0, {"loss": 1, "n": 0}), ("a", 1, {"loss": 2, "n": 1})])
    pl.read_parquet(file).with_columns(pl.col("metric_loss").cast(pl.Decimal(9, 2))).write_parquet(file)
    assert aggregated("x", "--history", "--at", "loss:max")["history_at_n"].to_list() == [1]


# --- which histories ------------------------------------------------------------------------------------------


def test_histories_in_any_order_count_and_sampled_or_damaged_ones_do_not():
    write_runs(Path("x"), [Run("a"), Run("b"), Run("c")])
    rows = [("b", 1, 5.0, 1.0), ("a", 2, 1.0, 3.0), ("b", 0, 4.0, 2.0), ("a", 0, 2.0, 7.0), ("a", 1, 1.0, 9.0)]
    write_losses(Path("x"), rows)
    Path("x/team_demo_history.parquet").rename("x/team_demo_history_sampled.parquet")
    write_losses(Path("x"), rows)
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


def test_histories_belong_to_runs_whose_entity_is_null():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"acc": 1.0}), ("b", 0, {"acc": 2.0})])
    for file in Path("x").glob("*.parquet"):
        frame = pl.read_parquet(file).with_columns(entity=pl.lit(None, pl.String))
        frame.write_parquet(file, metadata=pl.read_parquet_metadata(file))
    assert aggregated("x", "--history").select("entity", "history_last_acc").rows() == [(None, 1.0), (None, 2.0)]


def test_histories_belong_to_runs_whose_id_is_null():
    file = write_runs(Path("x"), [Run("a"), Run("b")])
    rewritten(file, pl.read_parquet(file).with_columns(id=pl.Series([None, "b"])))
    rows = [(None, 0, {"loss": 2.0}), ("b", 0, {"loss": 3.0})]
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history")
    assert frame.select("id", "history_min_loss").rows() == [(None, 2.0), ("b", 3.0)]


def test_a_run_id_is_text_in_every_place():
    """Not a column's name, not a pattern."""
    ids = ["_step", "metric_loss", "^.*$", "*", "run_id"]
    write_runs(Path("x"), [Run(each) for each in ids])
    rows = sorted((each, step, {"loss": step + n}) for n, each in enumerate(ids) for step in range(3))
    write_history(Path("x/team_demo_history.parquet"), rows)
    frame = aggregated("x", "--history")
    found = dict(frame.select("id", "history_max_loss").rows())
    assert found == {each: 2 + n for n, each in enumerate(ids)}


def test_histories_of_dropped_runs_are_neither_read_nor_reported():
    write_runs(Path("x"), [Run("a", config={"lr": 1}), Run("b", config={"lr": 2})])
    write_history(Path("x/team_demo_history.parquet"), [(r, s, {"loss": s}) for r in "ab" for s in range(5)])
    for where in ("config_lr > 1", "config_lr > 1 AND history_n_loss = 5"):
        read = report("x", "--history", "--where", where)["histories"][0]
        assert (read["rows"], read["runs_with"], read["runs_without"]) == (5, 1, 0)
    _, err = run("x", "--history", "--where", "config_lr > 1")
    assert "histories: 5 rows, 1 metric and 1 run in 1 file" in err


def test_histories_of_other_projects_rename_and_add_nothing():
    for project, metric in (("demo", "val/loss"), ("other", "val_loss")):
        source = json.dumps({"kind": "offline", "entity": "team", "project": project})
        file = write_runs(Path("x"), [Run(project, summary={metric: 1.0})], project=project)
        metadata = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
        pl.read_parquet(file).write_parquet(file, metadata=metadata | {"wandb_tools.source": source})
        rows = [(project, 0, {metric: 2.0, f"only_{project}": 1.0})]
        write_history(Path(f"x/team_{project}_history.parquet"), rows, project=project, source=source)
    frame = aggregated("x/team_demo_runs.parquet", "--history")
    assert frame.select("metric_val_loss", "history_last_val_loss").rows() == [(1.0, 2.0)]
    assert "history_last_only_demo" in frame.columns
    assert "history_last_only_other" not in frame.columns


def test_runs_without_history_are_told_from_exports_without_one():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_runs(Path("y"), [Run("c")], project="other")
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    _, err = run("x", "y", "--history")
    assert "without history: 2 runs (of these 1 without a file: export_runs.py --include-" in err


def test_overlapping_histories_count_each_run_once_by_the_fuller_one():
    write_runs(Path("x"), [Run("a")])
    rows = [("a", step, {"loss": 9.0 - step}) for step in range(6)]
    write_history(Path("x/a_history.parquet"), rows[:3])
    write_history(Path("x/b_history.parquet"), rows)
    frame = aggregated("x", "--history")
    assert frame.select("history_n_loss", "history_last_loss").row(0) == (6, 4.0)
    assert report("x", "--history")["histories"][0]["rows"] == 6


def test_rows_that_two_exports_put_into_one_history_file_count_once():
    write_runs(Path("x"), [Run("a"), Run("b")])
    rows = [("a", step, {"loss": 9.0 - step}) for step in range(4)]
    write_history(Path("x/team_demo_history.parquet"), [*rows[:2], *rows, ("b", 0, {"loss": 1.0})])
    frame = aggregated("x", "--history")
    assert frame["history_n_loss"].to_list() == [4, 1]
    assert frame["history_tail_loss"].to_list() == [6.0, 1.0]


# --- damaged histories ----------------------------------------------------------------------------------------


def test_damage_in_a_history_that_its_footer_does_not_show_costs_that_history_only():
    write_runs(Path("x"), [Run("a"), Run("b")])
    write_losses(Path("x"), [("a", 0, 2.0, 3.0)])
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


def test_of_a_damaged_history_no_run_is_taken(monkeypatch):
    """Also where the runs before the damage could be read: it is said that the file was left out."""
    write_runs(Path("x"), [Run("a"), Run("b")])
    file = Path("x/team_demo_history.parquet")
    write_history(file, [("a", "0", {"loss": 2.0}), ("b", "none", {"loss": 3.0})])
    monkeypatch.setattr(aggregate_runs, "CELLS", 1)  # one run at a time
    out, err = run("x", "--history", code=3)
    assert f"error: {file} was left out: " in err
    assert pl.read_parquet(out.strip())["history_min_loss"].to_list() == [None, None]


def test_a_damaged_history_of_dropped_runs_costs_nothing():
    write_runs(Path("x"), [Run("a")])
    write_runs(Path("y"), [Run("b")], project="other")
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    write_history(Path("y/team_other_history.parquet"), [("b", 0, {"loss": 1.0})], project="other")
    content = bytearray(Path("y/team_other_history.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # the first page; the footer is sound
    Path("y/team_other_history.parquet").write_bytes(content)
    assert report("x", "y", "--history", "--where", "project = 'demo'")["histories"][0]["rows"] == 1


# --- histories of earlier results and exports -----------------------------------------------------------------


def test_what_an_earlier_result_says_of_histories_that_are_gone_is_kept():
    write_runs(Path("x"), [Run("a")])
    write_losses(Path("x"), [("a", 3, 2.0, 3.0)])
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


@pytest.mark.parametrize("histories", [[], ["--history"]])
def test_statistics_of_an_earlier_result_go_with_their_metric(histories):
    """Its histories are gone, and metric_train_loss now means train_loss: that had the statistics of train/loss."""
    for folder, name in (("old", "train/loss"), ("new", "train_loss")):
        write_runs(Path(folder), [Run(folder, summary={name: 1.0})], project=folder)
        file = Path(f"{folder}/team_{folder}_history.parquet")
        write_history(file, [(folder, 0, {"train_loss": 3.0}), (folder, 1, {"train_loss": 2.0})], project=folder)
        rewritten(file, columns={"metric_train_loss": [name]})
    aggregated("old", "--history", "-o", "earlier.parquet")
    Path("old/team_old_history.parquet").unlink()
    frame = aggregated("earlier.parquet", "new", *histories).sort("id", descending=True)
    assert frame.select("history_min_train_loss__d5308e80", "history_min_step_train_loss__d5308e80").rows() == [
        (2.0, 1),
        (None, None),
    ]
    of_new = [[None, 2.0]] if histories else []
    assert [column.to_list() for column in frame if column.name == "history_min_train_loss"] == of_new


@pytest.mark.parametrize(("ids", "warned"), [(("one", "one"), False), (("one", "two"), True), (("one", None), False)])
def test_runs_and_histories_of_different_exports_are_warned_of(ids, warned):
    source = {"kind": "server", "entity": "team", "project": "demo"}
    file = write_runs(Path("x"), [Run("a")])
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pairs["wandb_tools.source"] = json.dumps(source)
    pl.read_parquet(file).write_parquet(file, metadata=pairs | {"wandb_tools.export_id": ids[0]})
    more = {"export_id": ids[1]} if ids[1] else {}
    write_history(Path("x/h.parquet"), [("a", 0, {"loss": 1.0})], source=json.dumps(source), **more)
    _, err = run("x", "--history", "-o", "first.parquet")
    assert ("runs and history of team/demo in x come from different exports" in err) == warned
    _, err = run("first.parquet", "--history", "-o", "second.parquet")
    assert ("runs and history of team/demo in x come from different exports" in err) == warned
    assert "killed" not in err  # the export may simply be newer than the merge


def test_odd_facts_about_the_exports_of_an_earlier_result_are_no_error():
    file = write_runs(Path("x"), [Run("a")])
    write_history(Path("x/team_demo_history.parquet"), [("a", 0, {"loss": 1.0})])
    pairs = {f"wandb_tools.{key}": json.dumps(value) for key, value in metadata(file).items()}
    sources = [{"file": 1, "export_id": ["x"]}, {"file": "a\0b/c", "export_id": {}, "entity": "\ud800"}, 7]
    sources += [{"file": "\ud800/c", "kind": "offline"}, {"file": "x", "n": 0.5}]
    text = json.dumps({"sources": sources}).replace("0.5", "1e999")  # JSON for an infinity
    pl.read_parquet(file).write_parquet(file, metadata=pairs | {"wandb_tools.source": text})
    assert aggregated("x", "--history")["id"].to_list() == ["a"]
