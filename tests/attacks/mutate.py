# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "cosmic-ray>=8.4,<9",
#   "coverage>=7.10,<8",
# ]
# ///
"""Makes small mistakes in the pure functions of the scripts, and looks whether the tests notice. Run by hand:

  uv run tests/attacks/mutate.py                                   # up to 60 mutants of each script, in 55 minutes
  uv run tests/attacks/mutate.py --script analyze_runs --functions t_quantile,welch_p --sample 500 --seed 7

A mutant is a script with one mistake: "<" for "<=", "and" for "or", 2 for 1, another text, no result. The mistakes are
cosmic-ray's, and three of ours that it lacks. Those that change annotations or docstrings alone are left out.

For each script its tests run once under coverage. A mutant then meets the tests that reach its line, the fastest
first, until one fails; then those that start the script as a process, where coverage does not look. All happens in
copies of the repository in a temporary folder; the repository itself is only read. On a busy machine fewer tests fit
into a mutant's time, and more mutants survive.

Prints killed, survived, timed out and the score (killed and timed out of all but the explained ones), and each
survivor as a diff. EXPLAINED lists mutants that no test need kill, with the reason. Exit code 1 if any other survived.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cosmic_ray.plugins
import coverage
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from parso.python.tree import Keyword, Name, String

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
AT_ONCE = 2  # processes that run tests
BUDGET_S = 40  # a mutant meets as many of its tests, the fastest first, as take this long without a mistake
REPLACED = """
    Binary: Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr RShift_LShift
    Comparison: Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is
    Unary: USub_UAdd Delete_Not Delete_Invert
"""
OTHERS = """
    AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue
    ReplaceContinueWithBreak NumberReplacer RemoveDecorator ZeroIterationForLoop
"""

NAMES = "column_name settled_names path_hash"
WORDS = "goal_by_name words"
FUNCTIONS = {
    "list_entities": "page_url with_counts utc matches for_people counted printable comma_list "
    "whole_number did_you_mean stated_error status_error",
    "export_runs": f"{NAMES} log_records regular keep_last path_of set_path from_json time_at "
    "widest_dtypes cast_logged as_shown resize column_key names_match matches runs_asked_for "
    "offline_state runtime_s place_of filters_of iso chunks split unwrapped may_be_rounded parsed_object "
    "definitions_in time_of is_private is_wanted flatten numeric_leaves tables_in settled_series valid_json storable "
    "first_of counted printable jsonable comma_list utc_of mongo_filter moment whole_number did_you_mean",
    "aggregate_runs": f"{NAMES} {WORDS} kind_of one_schema column_parts prefix_of names_of plain common_dtype "
    "disagree dtypes_of_values cast_column merged_metadata latest filtered_runs passing where "
    "where_condition matches flaw_of_table derived_dtypes with_derived text_by statistics_by_run "
    "rows_in_order counted some folded printable did_you_mean comma_list",
    "analyze_runs": f"{WORDS} group_statistics statistics_of finite bootstrap t_quantile t_test_p welch_p "
    "incomplete_beta importance varied with_ranges comparable difference "
    "independent is_noise select_runs in_states find_column known_column labels find_metric "
    "chosen_metrics kind keys_where known_times missing_casts rows_over curve_points with_divergence scaled "
    "float_format cell_text exact_text short_names shortened counted some_of printable jsonable "
    "did_you_mean comma_list whole",
}
TESTS = {
    "list_entities": "list_entities access",
    "export_runs": "export_rows export_values export_logs export_runs export_filters export_pages export_histories "
    "export_online export_again export_publishing export_interrupted places old_sdks fuzz json",
    "aggregate_runs": "aggregate_runs aggregate_inputs aggregate_columns odd_files read_only other_engines",
    "analyze_runs": "analyze_runs analyze_inputs analyze_groups analyze_settings analyze_curves analyze_health "
    "analyze_sql analyze_tables analyze_output odd_files read_only other_engines",
}
EXPLAINED = {  # (function, a part of the line with the mistake): why no test need notice it
    ("jsonable", "if value > 1 else"): "only infinite numbers get there",
    ("filtered_runs", "{',X'.join"): "the words of a message",
    ("for_people", 'add_column("project", no_wrap=False)'): "the names are cut to the column's width before",
    ("group_statistics", "stat: str = 'meanX'"): "the default is a pivot's, which shows no interval",
    ("select_runs", "{reasons[ -1]}"): "polars gives one such line",
    ("shortened", "if width > 0 else"): "the loop below cuts all of it",
    (
        "statistics_by_run",
        "(first_row // max(1, CELLS // (len(metrics) + ",
    ): "how many rows are read at a time: memory alone",
    ("status_error", "retries= -1"): "none, as with 0",
    ("status_error", "read1(1 << 19"): "a bound on memory: no error is as long",
    ("status_error", "read1(1 << 21"): "the same",
    ("for_people", "sum(widths.values()), 0)"): "a terminal that is narrower than its numbers",
    ("for_people", "sum(widths.values()), 2)"): "the same",
    ("status_error", "b'X' if"): "this states no error either",
    ("with_counts", "projects[ -1]["): "there is one project by then",
    ("for_people", "no_wrap=False)"): "only in terminals of 20 columns",
    ("regular", "'it is not a regular fileX'"): "the words of a message",
    ("for_people", "emoji=True)"): "names are Text, which is shown as it is",
    ("flatten", "cast('ScalarX'"): "for the type checker alone",
    ("path_hash", "usedforsecurity=True"): "the same hash, where it is allowed",
    ("path_hash", "':X'"): "a path is a list, and has no colons",
    ("flaw_of_table", "pl.Series(['X'])"): "a pattern has the same groups for any text",
    ("rows_in_order", "iter_slices(max( "): "how many rows are read at a time: memory alone",
    ("runs_asked_for", "['name another folderX']"): "the words of a message",
    ("dtypes_of_values", "strict=True).is_finite()"): "the expression lets numbers through alone",
    ("dtypes_of_values", ".row( -1,"): "there is one row",
    ("statistics_by_run", "at_once = max( 2,"): "how much is read at a time: memory alone",
    ("statistics_by_run", "CELLS * (len(metrics)"): "the same",
    ("statistics_by_run", "cum_sum() + pl.col(ROWS)"): "the same",
    ("statistics_by_run", "maintain_order=False):"): "blocks are independent",
    ("rows_in_order", "names and empty.columns"): "polars drops the columns that it did not ask for",
    ("goal_by_name", "rstrip('0123456789X')"): "a word in lower case",
    ("merged_metadata", "'not storedX'"): "the words of a note",
    ("incomplete_beta", "<= 1e-15"): "no difference that matters",
    ("curve_points", "check_sortedness=True"): "polars would only warn",
    ("select_runs", "['X']}).select(matches)"): "a pattern is right or wrong for any text",
    ("incomplete_beta", "range(1, 9999)"): "the fraction has converged long before",
    ("incomplete_beta", "abs(c * d + 1) < 1e-15"): "the same value, after more rounds",
    ("incomplete_beta", "rest <= -1"): "at 0 the other side of the symmetry gives the same",
    ("incomplete_beta", "abs(c * d - 2)"): "the same value, after more rounds",
    ("difference", "'columnX'"): "a heading",
    ("parsed_object", "if not exact"): "the other parser first: slower, and blanks in the text",
    ("keys_where", "', X'.join"): "the words of a message",
    ("importance", ".row( -1)"): "there is one row",
    ("difference", "strict=False"): "both are as long as there are runs",
    ("t_quantile", "low, high = 0.0, 99.0"): "no quantile is above 13",
    ("t_quantile", "low, high = 1.0,"): "all are above 1.9: it is found from there, too",
    ("where_condition", "what = 'it holds"): "the words of a message",
}

PLUGIN = """
import json, os, subprocess, time
import coverage, pytest

durations, failed, starting = {}, set(), set()
running = ""
start = subprocess.Popen.__init__

def noted(self, args, *more, **how):
    if os.environ["SCRIPT"] in str(args):
        starting.add(running)
    start(self, args, *more, **how)

subprocess.Popen.__init__ = noted

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    global running
    running = item.nodeid
    coverage.Coverage.current().switch_context(item.nodeid)
    started = time.monotonic()
    try:
        return (yield)
    finally:
        durations[item.nodeid] = time.monotonic() - started
        coverage.Coverage.current().switch_context("")

def pytest_runtest_logreport(report):
    if report.failed:
        failed.add(report.nodeid)

def pytest_sessionfinish():
    found = {name: [taken, name in starting] for name, taken in durations.items() if name not in failed}
    with open(os.environ["FOUND"], "w") as file:
        json.dump(found, file)
"""


class Tests(NamedTuple):
    by_line: dict[int, list[str]]  # that reach a line of the script
    starting: list[str]  # that start the script as a process
    durations: dict[str, float]  # in seconds


class Mutant(NamedTuple):
    function: str
    code: str  # of the whole script
    first: int  # the lines of the statement that was changed
    last: int
    diff: str
    changed: str  # the new lines, stripped


# --- mistakes -------------------------------------------------------------------------------------------------


class OurOperator(Operator):
    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class ReplaceText(OurOperator):
    """Another text. F-strings stay as they are: most of them are messages."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if isinstance(node, String):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        text = ast.literal_eval(node.value)
        return String(repr(text + type(text)(b"X" if isinstance(text, bytes) else "X")), node.start_pos, node.prefix)


class ReturnNothing(OurOperator):
    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "return_stmt":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = Name("None", node.children[1].start_pos, " ")
        return node


class NegateIn(OurOperator):
    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "comparison":
            yield from (node.start_pos for each in node.children if each.get_code().split() in (["in"], ["not", "in"]))

    def mutate(self, node: Any, index: int) -> Any:
        places = [at for at, each in enumerate(node.children) if each.get_code().split() in (["in"], ["not", "in"])]
        old = node.children[places[index]]
        new = "in" if "not" in old.get_code().split() else "not in"
        node.children[places[index]] = Keyword(new, old.start_pos, " ")
        return node


def operators() -> list[Operator]:
    named = OTHERS.split()
    for line in REPLACED.strip().splitlines():
        kind, _, pairs = line.partition(":")
        for pair in pairs.split():
            named.append(f"Replace{kind.strip()}Operator_{pair}")
    return [cosmic_ray.plugins.get_operator(f"core/{name}")() for name in named] + [
        ReplaceText(),
        ReturnNothing(),
        NegateIn(),
    ]


class Meaning(ast.NodeTransformer):
    """Leaves out what does nothing when it runs: annotations and docstrings."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        return node


def meaning_of(code: str) -> str | None:
    try:
        return ast.dump(Meaning().visit(ast.parse(code)))
    except SyntaxError:
        return None


def mutants_of(script: str, functions: set[str]) -> list[Mutant]:
    """All the mutants that differ from the script and from each other in what they do."""
    code = (ROOT / "wandb-tools" / f"{script}.py").read_text(encoding="utf-8")
    lines = code.splitlines(keepends=True)
    found = {}
    missing = set(functions)
    for node in ast.parse(code).body:
        if not isinstance(node, ast.FunctionDef) or node.name not in functions:
            continue
        missing.discard(node.name)
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        own = "".join(lines[start : node.end_lineno])
        seen = {meaning_of(own), None}
        for operator in operators():
            occurrence = 0
            while (changed := MutationVisitor.mutate_code(own, operator, occurrence)) is not None:
                occurrence += 1
                if (meaning := meaning_of(changed)) in seen:
                    continue
                seen.add(meaning)
                mutant = "".join(lines[:start]) + changed + "".join(lines[node.end_lineno :])
                found[node.name, meaning] = described(node, start, own, changed, mutant)
    if missing:
        raise SystemExit(f"{script}.py has no function {', '.join(sorted(missing))}")
    return list(found.values())


def described(function: ast.FunctionDef, start: int, old: str, new: str, code: str) -> Mutant:
    before, after = old.splitlines(), new.splitlines()
    blocks = [each for each in difflib.SequenceMatcher(None, before, after).get_opcodes() if each[0] != "equal"]
    line = start + 1 + blocks[0][1]
    statement: Any = function
    for each in ast.walk(function):
        if isinstance(each, ast.stmt) and each.lineno <= line <= (each.end_lineno or 0) and each is not function:
            inner = statement is function or each.lineno >= statement.lineno
            statement = each if inner else statement
    last = statement.end_lineno
    if statement is not function and getattr(statement, "body", None):
        last = max(statement.lineno, statement.body[0].lineno - 1)
    diff = difflib.unified_diff(before, after, lineterm="", n=1)
    shown = "\n".join(list(diff)[3:])
    changed = " ".join(each.strip() for block in blocks for each in after[block[3] : block[4]])
    return Mutant(function.name, code, statement.lineno, last, shown, changed)


# --- tests ----------------------------------------------------------------------------------------------------


def copy_repository(folder: Path) -> None:
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(
    script: str, folder: Path, *arguments: str, limit_s: float, seed: int, options: tuple[str, ...] = ()
) -> int | None:
    """Exit code of pytest in the project's environment, at low priority; None if it took too long."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder / "plugin")}
    environment |= {"FOUND": str(folder / "found.json"), "SCRIPT": script}
    command = ["nice", "-n", "10", "uv", "run", "--quiet", "--project", str(ROOT), *options, "-m", "pytest"]
    command += ["-n", "0", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'temporary'}"]
    command += [f"--hypothesis-seed={seed}", *arguments]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what its tests have started
            process.wait()


def tests_of(script: str, folder: Path, seed: int) -> Tests:
    (folder / "plugin").mkdir(exist_ok=True)
    (folder / "plugin" / "contexts.py").write_text(PLUGIN)
    file = folder / "wandb-tools" / f"{script}.py"
    measured = folder / "coverage"
    files = [f"tests/test_{name}.py" for name in TESTS[script].split()]
    options = ("--with", f"coverage=={coverage.__version__}", "coverage", "run", f"--include={file}")
    options = (*options, f"--data-file={measured}")
    run(script, folder, "-p", "contexts", *files, limit_s=1800, seed=seed, options=options)
    if not (folder / "found.json").exists():
        raise SystemExit("the tests do not run:\n" + (folder / "output.txt").read_text()[-3000:])
    found = json.loads((folder / "found.json").read_text())
    contents = coverage.CoverageData(str(measured))
    contents.read()
    lines = contents.contexts_by_lineno(str(file))
    by_line = {line: [name for name in names if name in found] for line, names in lines.items()}
    starting = [name for name, (_, is_starting) in found.items() if is_starting]
    return Tests(by_line, starting, {name: seconds for name, (seconds, _) in found.items()})


def fastest(names: set[str], durations: dict[str, float]) -> list[str]:
    chosen, total = [], 0.0
    for name in sorted(names, key=lambda each: (durations[each], each)):
        total += durations[name]
        if total > BUDGET_S:
            break
        chosen.append(name)
    return chosen


def outcome_of(mutant: Mutant, script: str, folder: Path, tests: Tests, seed: int) -> str:
    reaching = {name for line in range(mutant.first, mutant.last + 1) for name in tests.by_line.get(line, [])}
    chosen = fastest(reaching, tests.durations)
    chosen += fastest({*tests.starting} - {*chosen}, tests.durations)
    file = folder / "wandb-tools" / f"{script}.py"
    file.write_text(mutant.code, encoding="utf-8")
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
    limit_s = 60 + 5 * sum(tests.durations[name] for name in chosen)
    code = run(script, folder, "-x", *chosen, limit_s=limit_s, seed=seed, options=("python",))
    if code not in (0, 1, 2, None):
        raise SystemExit(f"pytest ended with {code}:\n" + (folder / "output.txt").read_text()[-3000:])
    return {0: "survived", None: "timed out"}.get(code, "killed")


def is_explained(mutant: Mutant) -> bool:
    return any(mutant.function == function and part in mutant.changed for function, part in EXPLAINED)


def attack(script: str, all_mutants: list[Mutant], work: Path, minutes: float, options: argparse.Namespace) -> int:
    """Print the outcome for one script; how many survivors are not explained."""
    mutants = random.Random(options.seed).sample(all_mutants, min(options.sample, len(all_mutants)))
    folders = queue.SimpleQueue[Path]()
    for number in range(AT_ONCE):
        copy_repository(work / f"{script}{number}")
        folders.put(work / f"{script}{number}")
    started = time.monotonic()
    end = started + minutes * 60
    tests = tests_of(script, work / f"{script}0", options.seed)
    print(f"{script}: {len(tests.durations)} tests in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    def outcome(mutant: Mutant) -> str:
        if time.monotonic() > end:
            return "not tried"
        folder = folders.get()
        try:
            found = outcome_of(mutant, script, folder, tests, options.seed)
        finally:
            folders.put(folder)
        if found == "survived" and is_explained(mutant):
            return "explained"
        if options.verbose or found == "survived":
            print(f"{script}.{mutant.function}: {found}\n{mutant.diff}\n", flush=True)
        return found

    with ThreadPoolExecutor(AT_ONCE) as threads:
        outcomes = Counter(threads.map(outcome, mutants))
    noticed = outcomes["killed"] + outcomes["timed out"]
    names = "killed", "timed out", "survived", "explained", "not tried"
    print(
        f"{script}: {len(mutants)} of {len(all_mutants)} mutants: "
        + ", ".join(f"{outcomes[name]} {name}" for name in names)
        + f"; score {noticed / max(1, noticed + outcomes['survived']):.1%}"
        + f" ({(time.monotonic() - started) / 60:.0f} min)\n",
        flush=True,
    )
    return outcomes["survived"]


def main() -> int:
    manual = (__doc__ or "").replace("%", "%%")
    parser = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", choices=FUNCTIONS, action="append", help="only this script; may be repeated")
    parser.add_argument("--functions", help="only these functions, separated by commas; not only those listed here")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each script, at random (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample and of hypothesis (default: 1)")
    parser.add_argument("--minutes", type=float, default=55, help="start no mutant after these, in all (default: 55)")
    parser.add_argument("--verbose", action="store_true", help="print the killed ones too")
    options = parser.parse_args()
    scripts, survivors = options.script or [*FUNCTIONS], 0
    chosen = {script: set((options.functions or FUNCTIONS[script]).replace(",", " ").split()) for script in scripts}
    mutants = {script: mutants_of(script, functions) for script, functions in chosen.items()}
    with tempfile.TemporaryDirectory(prefix="mutate", ignore_cleanup_errors=True) as work:
        for script in scripts:
            survivors += attack(script, mutants[script], Path(work), options.minutes / len(scripts), options)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
