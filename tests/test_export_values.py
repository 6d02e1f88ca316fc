"""The parts of export_runs.py that name columns, settle dtypes and read values, against plain Python."""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import export_runs
import polars as pl
import pytest
from exports import NON_FINITE, WITH_HISTORY, same
from hypothesis import example, given
from hypothesis import strategies as st

# --- names ----------------------------------------------------------------------------------------------------

KEYS = st.one_of(
    st.sampled_from(["a", "b", "A", "a_b", "a/b", "a.b", "", "_", "é", "🚀", "a b", "K"]), st.text(max_size=4)
)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)


def flat(path: tuple[str, ...]) -> str:
    plain = {*"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789_"}
    return "".join(c if c in plain else "_" for c in "_".join(path))


def name_by_the_contract(path: tuple[str, ...], paths: set[tuple[str, ...]]) -> str:
    rivals = [other for other in paths if flat(other).lower() == flat(path).lower()]
    keepers = sorted(other for other in rivals if other == (flat(other),))
    keeper = rivals[0] if len(rivals) == 1 else next(iter(keepers), None)
    digest = hashlib.sha1(json.dumps(list(path), separators=(",", ":")).encode()).hexdigest()
    return flat(path) if path == keeper else f"{flat(path)}__{digest[:8]}"


@given(st.sets(PATHS, max_size=12), st.randoms())
def test_names_by_the_contract(paths, shuffler):
    shuffled = sorted(paths)
    shuffler.shuffle(shuffled)
    names = export_runs.settled_names(shuffled)
    assert names == {path: name_by_the_contract(path, paths) for path in paths}
    assert list(names.items()) == list(export_runs.settled_names(sorted(paths)).items())
    assert len({name.lower() for name in names.values()}) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_]*", name) for name in names.values())


def test_a_key_that_looks_like_a_settled_name_keeps_it():
    nested = ("a", "b")
    taken = export_runs.settled_names([nested, ("a_b",)])[nested]
    names = export_runs.settled_names([nested, ("a_b",), (taken,)])
    assert names[taken,] == taken
    assert names[nested].startswith(f"{taken}")
    assert len({*names.values()}) == 3


def test_private_is_what_the_first_key_says():
    assert export_runs.is_private(("_x", "a"))
    assert not export_runs.is_private(("a", "_x"))


# --- configs and summaries to values --------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([*NON_FINITE])
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=3)),
        max_leaves=12,
    ),
    max_size=5,
)


@given(TREES)
def test_flatten_loses_no_value(tree):
    leaves = list(export_runs.flatten(tree))
    assert len(dict(leaves)) == len(leaves)
    rebuilt: dict = {}
    for path, value in leaves:
        inner = rebuilt
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    assert same(export_runs.jsonable(parsed(rebuilt, tree) if tree else rebuilt), export_runs.jsonable(tree))


def parsed(rebuilt: object, original: object) -> object:
    """Leaves that were lists or empty dicts are JSON text: as they were."""
    if isinstance(original, dict) and original:
        assert isinstance(rebuilt, dict)
        assert rebuilt.keys() == original.keys()
        return {key: parsed(rebuilt[key], original[key]) for key in original}
    return json.loads(rebuilt) if isinstance(original, list | dict) else rebuilt


@given(TREES)
def test_numeric_leaves(summary):
    expected = {}

    def walk(tree: dict, above: tuple[str, ...]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict) and not isinstance(value.get("_type"), str):
                walk(value, (*above, key))
            elif isinstance(value, int | float):
                expected[*above, key] = float(value) if isinstance(value, float) else int(value)
            elif isinstance(value, str) and value in NON_FINITE:
                expected[*above, key] = NON_FINITE[value]

    walk({key: value for key, value in summary.items() if not key.startswith("_")}, ())
    assert same(dict(export_runs.numeric_leaves(summary)), expected)


def test_the_text_inf_of_a_table_stays():
    texts = pl.DataFrame({export_runs.column_key(("a",), "String"): ["inf", "-inf", None]})
    assert texts.select(export_runs.cast_logged(("a",), "String", "String")).to_series().to_list() == [
        "inf",
        "-inf",
        None,
    ]


@given(TREES)
def test_valid_json(tree):
    text = export_runs.valid_json(tree)
    text.encode()
    assert same(json.loads(text, parse_constant=pytest.fail), export_runs.jsonable(tree))


# --- dtypes ---------------------------------------------------------------------------------------------------


def dtype_by_the_contract(values: list) -> pl.DataType:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return pl.Boolean()
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in present]
    if present and all(is_number) and all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present):
        return pl.Int64()
    spelt = [isinstance(value, str) and value in NON_FINITE for value in present]
    if any(is_number) and all(map(max, is_number, spelt)):
        return pl.Float64()
    return pl.String()


COLUMNS = st.one_of(
    st.lists(SCALARS),
    st.lists(st.one_of(st.none(), st.booleans())),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.one_of(st.integers(), st.floats(), st.sampled_from([*NON_FINITE]))),
    st.lists(st.one_of(st.none(), st.text(st.characters(codec=None)))),
)


@given(COLUMNS)
@example([10**400, -(10**400), 0.5])
@example([2**63])
@example([1, True])
@example(["NaN"])
@example(["\ud800", 1])
def test_columns_by_the_contract(values):
    series = export_runs.settled_series("x", values)
    assert series.dtype == dtype_by_the_contract(values)
    for value, found in zip(values, series.to_list(), strict=True):
        if value is None:
            assert found is None
        elif series.dtype == pl.Float64:
            assert same(found, number(value))
        elif series.dtype == pl.String and isinstance(value, str):
            assert found == re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)
        elif series.dtype == pl.String:
            assert same(json.loads(found), value if isinstance(value, float) else export_runs.jsonable(value))
        else:
            assert same(found, value)


def number(value: float | str) -> float:
    if isinstance(value, str):
        return NON_FINITE[value]
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def test_all_spellings_of_non_finite_numbers_beside_one_number():
    export_runs.import_libraries()
    series = export_runs.settled_series("x", [1, "NaN", "Infinity", "-Infinity", None])
    assert series.dtype == pl.Float64
    assert [*map(str, series)] == ["1.0", "nan", "inf", "-inf", "None"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (2.0**63, True),
        (-(2.0**63), True),
        (1.5, False),
        ("[1e+20]", True),
        ("text", False),
        (2**70, False),
        (None, False),
    ],
)
def test_what_may_be_rounded(value, wanted):
    assert export_runs.may_be_rounded((("a",), value)) is wanted


@given(st.lists(st.floats() | st.floats(-1e-4, 1e-4) | st.sampled_from([1e-5, 1e-7, 1e16, -0.0, None])))
def test_numbers_become_text_as_in_json(values):
    """Alike beside text of the same run, of another run, and in other files."""
    export_runs.import_libraries()
    texts = [None if value is None else json.dumps(value) for value in values]
    found = pl.DataFrame({'["a"]Float64': pl.Series(values, dtype=pl.Float64)})
    assert found.select(export_runs.cast_logged(("a",), "Float64", "String")).to_series().to_list() == texts
    assert export_runs.settled_series("a", [*values, "x"]).to_list() == [*texts, "x"]


# --- rows -----------------------------------------------------------------------------------------------------

JSON_TEXTS = st.one_of(
    st.integers().map(json.dumps),
    st.integers(-(2**63) - 5, 2**63 + 5).map(json.dumps),
    st.floats().map(json.dumps),
    st.sampled_from(
        ["1E5", "1e+30", "-1.5E-7", "1e400", "-1e400", "-0", "-0.0", "1e-400", "0.1e1", "9" * 400, "5e-324"]
    ),
    st.sampled_from(["true", "false", "null", *NON_FINITE, *(f'"{name}"' for name in NON_FINITE)]),
    st.one_of(st.text(), st.floats().map(str), st.integers().map(str)).map(json.dumps),
    st.sampled_from(["[1]", "{}", '"1"', '"true"', '"nan"', '"inf"']),
)


@given(st.lists(JSON_TEXTS))
def test_numbers_in_json(texts):
    values = [json.loads(text) for text in texts]
    values = [NON_FINITE.get(value, value) if isinstance(value, str) else value for value in values]
    values = [int(v) if isinstance(v, bool) else v if isinstance(v, int | float) else None for v in values]
    item, row_class = export_runs.wandb_proto().HistoryItem, export_runs.record_class()
    rows = export_runs.LogRows(Path(), WITH_HISTORY)
    rows.start(export_runs.Log(Path()))
    for text in texts:
        content = item(nested_key=["a"], value_json=text).SerializeToString()
        rows.add_history(row_class(history={"item": [content]}).history)
    frame = rows.columns["history"].frame((), set())
    assert frame.height == len(texts)
    if any(value is not None for value in values):
        numbers = frame[export_runs.column_key(("a",))]
        is_whole = all(value is None or (isinstance(value, int) and -(2**63) <= value < 2**63) for value in values)
        assert numbers.dtype == (pl.Int64 if is_whole else pl.Float64)
        expected = values if is_whole else [None if value is None else number(value) for value in values]
        assert same(numbers.to_list(), expected)
    else:
        assert frame.width == 3


def test_keys_of_a_row_that_are_no_numbers():
    """Those inside of a dict, but not those of a media object, nor of a private key."""
    export_runs.import_libraries()
    row = {
        "a": {"n": 1, "text": "x", "list": [1], "null": None},
        "h": {"_type": "histogram", "bins": []},
        "_p": {"x": 1},
    }
    skipped: set = set()
    assert export_runs.rows_of_json([row], (), skipped).columns[3:] == ['["a", "n"]']
    assert skipped == {("a", "text"), ("a", "list"), ("h",), ("_p",)}


# --- times, and definitions of metrics ------------------------------------------------------------------------


def test_times_have_microseconds():
    assert export_runs.time_at(1, 500_000_999) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert export_runs.time_at(0) is None
    assert export_runs.time_at(1e20) is None


@pytest.mark.parametrize(
    ("summary", "seconds"),
    [
        ({"_wandb": {"runtime": 7}, "_runtime": 9.5}, 7.0),
        ({"_wandb": {}, "_runtime": 9.5}, 9.5),
        ({"_wandb": [7], "_runtime": -1}, -1.0),
        ({"_wandb": {"runtime": "7"}, "_runtime": 2**63 - 1}, float(2**63 - 1)),
        ({"_wandb": {"runtime": 2**63}, "_runtime": "x"}, None),
        ({}, None),
    ],
)
def test_run_time_is_the_first_number_of_two_places(summary, seconds):
    assert export_runs.runtime_s(summary) == seconds


def test_definitions_name_their_step_metric_by_its_place():
    records = [{"1": "epoch"}, {"1": "loss", "5": 1, "7": [1], "8": 1}, {"2": "val/*", "5": 2}, {"1": "acc", "5": 9}]
    found = export_runs.definitions_in({"_wandb": {"m": records}})
    assert found == [
        ("epoch", None, None, None),
        ("loss", "minimize", "min", "epoch"),
        ("val/*", None, None, "loss"),
    ]  # what refers to nothing, and what comes after it, is left out
