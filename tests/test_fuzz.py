"""Samples of tests/attacks/fuzz.py: some hundred broken inputs, the same ones each time, and values by hypothesis."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

ATTACKS = ROOT / "tests" / "attacks"
sys.path.append(str(ATTACKS))
import fuzz_targets_export as targets  # noqa: E402 - it is no test

KEYS = st.sampled_from(["a", "b", "a.b", "a/b", "A", "_type", "_step", "_runtime", "_x", "", "é"]) | st.text(max_size=3)
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 3) | st.floats() | st.booleans()
SCALARS = NUMBERS | st.none() | st.sampled_from(["NaN", "Infinity", "-Infinity", "text", "1.5", "true"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


def test_fuzz(tmp_path):
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    command = [sys.executable, ATTACKS / "fuzz.py", "--target", "all", "--runs", "150", "--seed", "1"]
    done = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    executions = re.match(r"all: (\d+) executions", done.stdout)  # libFuzzer tries some of its inputs twice
    assert executions
    assert int(executions[1]) >= 150


@given(st.lists(OBJECTS, max_size=5))
@settings(max_examples=25)
@example([{"a": {"_type": 0, "b": 1}}])  # it is no media object
def test_rows_of_logs_old_folders_and_servers_hold_the_same_numbers(rows):
    targets.rows_of_a_history("\n".join(map(json.dumps, rows)).encode())


@given(OBJECTS, OBJECTS)
def test_configs_and_summaries(config, summary):
    targets.config_and_summary(json.dumps(config).encode() + targets.SEPARATOR + json.dumps(summary).encode())


@given(st.lists(KEYS, max_size=4).flatmap(lambda names: st.tuples(st.just(names), rows_for(names))))
def test_tables(table):
    names, rows = table
    targets.table_file(json.dumps({"columns": names, "data": rows}).encode())


def rows_for(names: list[str]) -> st.SearchStrategy[list[list]]:
    return st.lists(st.lists(VALUES, min_size=len(names), max_size=len(names)), max_size=4)


@given(st.dictionaries(KEYS, st.lists(NUMBERS | st.none(), min_size=3, max_size=3), max_size=4))
@settings(max_examples=20)
def test_downloads(columns):
    targets.downloaded_history(json.dumps(columns).encode())


@given(st.text("ab \r\n\b|\x1b[31m", max_size=40))
@settings(max_examples=60)
def test_output_is_what_a_terminal_shows(text):
    targets.console_text(text.encode())


@given(st.text() | st.datetimes().map(str) | st.from_regex(r"\d{1,7}[hdw]", fullmatch=True))
@settings(max_examples=60)
def test_whatever_is_typed_is_wrong_usage_at_worst(text):
    targets.command_line(text.encode("utf-8", "replace"))


def test_the_plain_numbers_are_plain():
    """What the targets compare with."""
    row = {"a": {"b": True, "c": "x"}, "n": "NaN", "m": {"_type": "image", "w": 3}, "_x": 1, "i": 10**400, "l": [1]}
    found = targets.plain_numbers(row)
    assert math.isnan(found.pop(("n",)))
    assert found == {("a", "b"): 1, ("i",): 10**400}
