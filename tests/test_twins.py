"""The scripts share no code. What several repeat is the same, word for word; what differs, differs on purpose."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "wandb-tools").glob("*.py"))

# Names that several scripts define, each in its own way.
DIFFERENT = {"Client", "Options", "import_libraries", "main", "parse_args"}  # export_runs' Client downloads, too
# One rule in both readers: which way a metric is better.
DIRECTION = {"LOWER_IS_BETTER", "HIGHER_IS_BETTER", "NO_DIRECTION", "NO_METRIC", "WEAK", "NEGATING", "OPPOSITE"}
DIRECTION |= {"PHRASES", "GOAL_WORDS", "goal_by_name", "words"}
LONGEST_TWIN = 40  # lines of a function or method; a longer one is a question of design


@functools.cache
def definitions(script: Path) -> dict[str, str]:
    """The source of every top-level name: functions, classes, constants."""
    text = script.read_text("utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = source
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            source = ast.unparse(node)  # the reason in its comment may be another one
            found |= {name.id: source for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def longest_function(source: str) -> int:
    """Lines of the longest function or method in what one name stands for."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return max((node.end_lineno - node.lineno + 1 for node in functions), default=0)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SCRIPTS, 2)), ids=lambda script: script.stem)
def test_names_in_two_scripts_are_twins(one: Path, other: Path) -> None:
    first, second = definitions(one), definitions(other)
    shared = first.keys() & second.keys() - DIFFERENT
    assert shared  # at least the exit codes
    assert {name for name in shared if first[name] != second[name]} == set()
    assert {name for name in shared if longest_function(first[name]) > LONGEST_TWIN} == set()


def test_the_direction_of_a_metric_is_one_rule() -> None:
    for script in ("aggregate_runs", "analyze_runs"):
        assert definitions(ROOT / "wandb-tools" / f"{script}.py").keys() >= DIRECTION


def test_different_names_are_still_needed() -> None:
    counted = [name for script in SCRIPTS for name in definitions(script)]
    assert {name for name in DIFFERENT if counted.count(name) < 2} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_import_none_of_each_other(script: Path) -> None:
    modules = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(script.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert modules & {other.stem for other in SCRIPTS} == set()
    assert "pandas" not in modules


def inline_metadata(script: Path) -> dict:
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", script.read_text("utf-8"), re.MULTILINE)
    return tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "examples" / "record_runs.py"], ids=lambda script: script.stem)
def test_inline_metadata_agrees_with_the_project(script: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    metadata = inline_metadata(script)
    assert metadata["requires-python"] == project["project"]["requires-python"]
    assert set(metadata["dependencies"]) <= set(project["dependency-groups"]["dev"])
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+,<[\d.]+", each) for each in metadata["dependencies"])


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "examples" / "record_runs.py"], ids=lambda script: script.stem)
def test_scripts_start_by_themselves(script: Path) -> None:
    assert script.read_text("utf-8").startswith("#!/usr/bin/env -S uv run --script\n")
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("script", ["export_runs", "analyze_runs"])
def test_scripts_that_take_times_from_polars_bring_time_zones(script: str) -> None:
    """Polars asks Python for UTC, which Windows and small containers lack. aggregate_runs leaves times in polars."""
    dependencies = inline_metadata(ROOT / "wandb-tools" / f"{script}.py")["dependencies"]
    assert [each for each in dependencies if each.startswith("tzdata>")]
