# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2.1,<3",
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6.0.2,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.6.3,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Compares an offline export with an export of the same runs from a server, after `wandb sync`. Run by hand:

  uv run tests/attacks/synced.py                     200 random programs of the real SDK: two to five minutes
  uv run tests/attacks/synced.py --first 1000 --runs 50
  uv run tests/attacks/synced.py --show 1007         what program 1007 does

Each program is made from its number: a config, logged rows, summary, definitions, tables, output and so on. Prints each
column and row that differs; exit code 1 if there are any. What differs by design is left out, see `as_sent`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "wandb-tools")]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import polars as pl

ENTITY = "team"  # each run has a project of its own, so that columns and metadata are comparable, too
A_PROCESS = 25  # programs
CLOCKS = ("_runtime", "_timestamp")  # the same to 10 us
KEYS = ("a", "b", "c", "a.b", "a/b", "loss", "val/acc", "x-y", "é", "_p", "A", "value", "desc", "", "-c", "a b", "1")
# Of each run; `state` and the last two only where no column is wrong.
COLUMNS = (
    "name state runtime_s last_step history_rows tags group job_type sweep notes commit host os python command gpu"
)


# --- programs -------------------------------------------------------------------------------------------------


class Program:
    """A list of calls, made from a number: (name, arguments)."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.id = f"run{number}"
        self.logs = [self.log(part) for part in range(self.random.choice((1, 1, 1, 2, 3)))]

        self.cut_at = self.random.random() if self.random.random() < 0.15 else None  # of the last log's length

    def log(self, part: int) -> list[tuple[str, Any]]:
        some = self.random
        init: dict[str, Any] = {}
        if some.random() < 0.8:
            init["config"] = self.tree(4)
        for name in ("name", "notes", "group", "job_type"):
            if some.random() < 0.3:
                init[name] = f"{name} {some.choice('xyz')}{part}"
        if some.random() < 0.3:
            init["tags"] = some.sample(("one", "two", "drei, vier"), some.randint(1, 3))
        flags = {name: some.random() < 0.25 for name in ("console", "stats", "meta", "typed")}
        kinds = ["log"] * 4 + ["config", "summary"] * 2 + ["define", "label", "table", "media"]
        kinds += ["print", "print"] if flags["console"] else []
        kinds += ["sleep"] if flags["stats"] else []
        calls = [getattr(self, f"call_{some.choice(kinds)}")() for _ in range(some.randint(0, 14))]
        if some.random() < 0.1:
            calls.append(("mark_preempting", ()))
        code = some.choice((0, 0, 0, 0, 1, 3, 254, 255))
        return [("init", (init, flags)), *calls, ("finish", (code,))]

    def tree(self, size: int, *, depth: int = 0) -> dict[str, Any]:
        keys = self.random.sample(KEYS, self.random.randint(0 if depth else 1, size))
        return {key: self.value(depth) for key in keys}

    def value(self, depth: int = 0) -> Any:
        import numpy as np

        some = self.random
        if depth < 3 and some.random() < 0.3:
            return self.tree(3, depth=depth + 1)
        return some.choice(
            (
                *(some.randint(-5, 5), some.randint(-5, 5), some.random(), round(some.random(), 2), 1.0, -0.0, 3.0),
                *(True, False, None, "", "text", "NaN", "1e5", [], [1, 2.5, None, "x"], [{"a": 1}, {}], (1, 2)),
                *(2**53 + 1, 2**62 + 1, 2**63, 10**400, 1e300, 1e-320, math.nan, math.inf, -math.inf),
                *(
                    np.float32(0.1),
                    np.int64(7),
                    np.bool_(True),
                    np.float64("nan"),
                    np.arange(3),
                    np.arange(40),
                    "🚀",
                    "\ud800",
                ),
                *(
                    datetime(2026, 1, 2, tzinfo=UTC),
                    Decimal("1.5"),
                    b"bytes",
                    {1: 2, None: 3},
                    "long " * 50,
                    ["long"] * 50,
                ),
                *(np.float16(0.1), np.array([[1.0, math.nan]]), {1, 2}, 1e16, 2**64, -(2**63), "Infinity"),
            )
        )

    def call_log(self) -> tuple[str, Any]:
        how: dict[str, Any] = {}
        if self.random.random() < 0.25:
            how["step"] = self.random.choice((0, 1, 3, 5, 10, 100, 10**9))
        if self.random.random() < 0.25:
            how["commit"] = self.random.random() < 0.3
        return "log", (self.tree(4), how)

    def call_config(self) -> tuple[str, Any]:
        which = self.random.choice(
            ("update", "update", "update_allowed", "update_allowed", "set", "nested", "defaults")
        )
        return f"config_{which}", (self.tree(3),)

    def call_summary(self) -> tuple[str, Any]:
        which = self.random.choice(("set", "set", "update", "nested", "delete", "delete_nested"))
        return f"summary_{which}", (self.tree(2), self.random.choice(KEYS), self.random.choice(KEYS))

    def call_define(self) -> tuple[str, Any]:
        some = self.random
        name = some.choice((*KEYS, "*", "a*", "a.*", "val/*", "a.x"))
        how: dict[str, Any] = {}
        if some.random() < 0.8:
            how["summary"] = some.choice(("min", "max", "mean", "last", "none", "copy", "first", "min,max", "best"))
        if some.random() < 0.3:
            how["goal"] = some.choice(("minimize", "maximize"))
        if some.random() < 0.3:
            how["step_metric"] = some.choice(("epoch", "a", "c"))
        for flag in ("hidden", "step_sync", "overwrite"):
            if some.random() < 0.15:
                how[flag] = some.random() < 0.5
        return "define", (name, how)

    def call_label(self) -> tuple[str, Any]:
        name = self.random.choice(("name", "notes", "tags", "tags", "group"))
        value: Any = self.random.choice(("new", "newer", "ein é", ""))
        return "label", (name, [value, "one"] if name == "tags" and value else [] if name == "tags" else value)

    def call_table(self) -> tuple[str, Any]:
        some = self.random
        rows = [
            [some.choice((1, 2.5, None, True, "text", math.nan, [1, 2], {"a": 1}, 2**60 + 1)), some.random()]
            for _ in range(some.randint(0, 3))
        ]
        return "table", (some.choice(("t", "a", "tables/x")), rows, some.choice((None, None, "MUTABLE", "INCREMENTAL")))

    def call_media(self) -> tuple[str, Any]:
        return "media", (self.random.choice(KEYS), self.random.choice(("histogram", "html", "htmls", "nested", "plot")))

    def call_print(self) -> tuple[str, Any]:
        some = self.random
        pieces = ["line", "50%", "100% done", " ", "é🚀", "\t", "\n", "\n", "\n", "\n\n", "\r", "\x1b[A\r", "\x1b[B\r"]
        text = "".join(some.choice(pieces) for _ in range(some.randint(1, 8)))
        return "print", (text, some.choice(("stdout", "stdout", "stderr")))

    def call_sleep(self) -> tuple[str, Any]:
        return "sleep", (0.25,)

    def depends_on_time(self, path: str) -> bool:
        """Whether a summary key becomes nested after it was something else, or deleted.

        The SDK joins changes that are made in some seconds, and then loses what was between two nested values.
        """
        key = next((key for key in KEYS if path == key or path.startswith(f"metric_['{key}', ")), path)
        was_other = False
        for name, arguments in self.logs[-1]:
            tree = {arguments[0]: {}} if name in ("table", "media") else arguments[0] if arguments else None
            if name == "summary_delete" and arguments[1] == key:
                was_other = True
            elif (name == "summary_nested" and arguments[1] == key) or (
                name in ("log", "table", "media") and isinstance(tree.get(key), dict)
            ):
                if was_other:
                    return True
            elif name in ("log", "summary_set", "summary_update") and key in tree:
                was_other = True
        return False


class Player:
    """Makes the calls of programs with the real SDK, offline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = 0  # calls that the SDK refused

    def play(self, program: Program) -> None:
        for number, calls in enumerate(program.logs):
            self.tables: dict[str, Any] = {}
            for name, arguments in calls:
                try:
                    if name == "init":
                        self.init(program.id, *arguments, resume="allow" if len(program.logs) > 1 else None)
                    else:
                        getattr(self, name)(*arguments)
                except Exception as error:  # noqa: BLE001 - the SDK refuses much, in many ways
                    self.refused += 1
                    with (self.folder / "refused.txt").open("a", encoding="utf-8", errors="replace") as opened:
                        opened.write(f"{program.id} {number} {name}: {error!r}\n"[:300])

        if program.cut_at is not None:
            log = max(self.folder.glob(f"wandb/*/run-{program.id}.wandb"), key=lambda log: log.stat().st_mtime_ns)
            size = log.stat().st_size  # the run's record, without which nothing is synced, is in the first 3,000 bytes
            os.truncate(log, min(size, max(3_000, int(size * program.cut_at))))

    def init(self, run_id: str, given: dict[str, Any], flags: dict[str, bool], resume: str | None) -> None:
        import wandb

        settings = wandb.Settings(
            mode="offline",
            console="wrap" if flags["console"] else "off",
            silent=True,
            x_disable_meta=not flags["meta"],
            x_disable_machine_info=not flags["meta"],
            x_disable_stats=not flags["stats"],
            x_stats_sampling_interval=0.1,
            x_save_requirements=False,
            disable_git=True,
            **({"x_history_value_encoding": "json,typed"} if flags["typed"] else {}),
        )
        self.run = wandb.init(
            dir=self.folder, id=run_id, entity=ENTITY, project=run_id, resume=resume, settings=settings, **given
        )

    def finish(self, code: int) -> None:
        self.run.finish(exit_code=code)

    def log(self, row: dict[str, Any], how: dict[str, Any]) -> None:
        self.run.log(row, **how)

    def mark_preempting(self) -> None:
        self.run.mark_preempting()

    def config_update(self, tree: dict[str, Any]) -> None:
        self.run.config.update(tree)

    def config_update_allowed(self, tree: dict[str, Any]) -> None:
        self.run.config.update(tree, allow_val_change=True)

    def config_set(self, tree: dict[str, Any]) -> None:
        for key, value in tree.items():
            self.run.config[key] = value

    def config_nested(self, tree: dict[str, Any]) -> None:
        for key in tree:
            self.run.config[key].update(tree)

    def config_defaults(self, tree: dict[str, Any]) -> None:
        self.run.config.setdefaults(tree)

    def summary_set(self, tree: dict[str, Any], *_: str) -> None:
        for key, value in tree.items():
            self.run.summary[key] = value

    def summary_update(self, tree: dict[str, Any], *_: str) -> None:
        self.run.summary.update(tree)

    def summary_nested(self, tree: dict[str, Any], key: str, _: str) -> None:
        for inner, value in tree.items():
            self.run.summary[key][inner] = value

    def summary_delete(self, _: Any, key: str, __: str) -> None:
        del self.run.summary[key]

    def summary_delete_nested(self, _: Any, key: str, inner: str) -> None:
        del self.run.summary[key][inner]

    def define(self, name: str, how: dict[str, Any]) -> None:
        self.run.define_metric(name, **how)

    def label(self, name: str, value: Any) -> None:
        setattr(self.run, name, value)

    def table(self, key: str, rows: list[list[Any]], mode: str | None) -> None:
        import wandb

        how = {"log_mode": mode} if mode else {}
        table = self.tables.setdefault(key, wandb.Table(columns=["m", "n"], allow_mixed_types=True, **how))
        if mode is None:
            table = wandb.Table(columns=["m", "n"], allow_mixed_types=True)
        for row in rows:
            table.add_data(*row)
        self.run.log({key: table, "beside": len(rows)})

    def media(self, key: str, kind: str) -> None:
        import wandb

        made: dict[str, Callable[[], Any]] = {
            "histogram": lambda: wandb.Histogram([1, 2, 3]),
            "html": lambda: wandb.Html("<p>x</p>"),
            "nested": lambda: {"in": {"html": wandb.Html("<p>z</p>"), "n": 2}, "text": "t"},
            "htmls": lambda: [wandb.Html("<p>x</p>"), wandb.Html("<p>y</p>")],
            "plot": lambda: wandb.plot.line(wandb.Table(columns=["x", "y"], data=[[1, 2]]), "x", "y"),
        }
        self.run.log({key: made[kind](), "n": 1})

    def print(self, text: str, stream: str) -> None:
        getattr(sys, stream).write(text)

    def sleep(self, duration_s: float) -> None:
        import time

        time.sleep(duration_s)


# --- comparing ------------------------------------------------------------------------------------------------


def as_sent(tree: Any) -> Any:
    """A config or summary as the SDK sends it: no empty dicts, numbers beyond 64 bits as doubles."""
    if isinstance(tree, dict):
        inner = {key: as_sent(value) for key, value in tree.items()}
        return {key: value for key, value in inner.items() if value != {}}
    if isinstance(tree, list):
        return [as_sent(each) for each in tree]
    if isinstance(tree, int) and not isinstance(tree, bool):
        return float(tree) if abs(tree) < 10**308 else "Infinity"
    if tree == 0 and isinstance(tree, float):
        return 0.0  # not -0.0
    return "\ufffd" if tree == "\ud800" else tree


def drop_where_empty(ours: Any, theirs: Any) -> None:
    """Drop what the server holds where the user set an empty dict, of which W&B takes no note."""
    for key in ours.keys() & theirs.keys() if isinstance(ours, dict) and isinstance(theirs, dict) else ():
        if as_sent(ours[key]) == {}:
            del theirs[key]
        else:
            drop_where_empty(ours[key], theirs[key])


def differences(run_id: str, here: Path, there: Path) -> Iterator[str]:
    """What the two exports hold that differs of a run."""
    import polars as pl

    stem = f"{ENTITY}_{run_id}_"

    def rows(folder: Path, name: str) -> pl.DataFrame | None:
        """The rows of a file; its columns are named by their paths."""
        file = folder / name
        if not file.exists():
            return None
        return pl.read_parquet(file, glob=False).rename({c: path for c, (_, path, _) in facts_of(file).items()})

    program = Program(int(run_id.removeprefix("run")))
    runs = [rows(folder, f"{stem}runs.parquet") for folder in (here, there)]
    if program.cut_at is not None and None in [frame if frame is None else True for frame in runs]:
        return  # not enough is left
    runs = [frame.filter(id=run_id) for frame in runs]
    if [frame.height for frame in runs] != [1, 1]:
        yield f"runs: {[frame.height for frame in runs]}"
        return
    ours, theirs = (frame.row(0, named=True) for frame in runs)
    # Of a resumed run W&B forgets what the last log's summary and notes on the machine do not have.
    is_resumed = len(program.logs) > 1
    for column in COLUMNS.split():
        if (column, ours[column]) == ("name", run_id) or (
            is_resumed and theirs[column] is None
        ):  # or the server's name
            continue
        if ours[column] != theirs[column] and (column != "state" or program.cut_at is None):
            yield f"{column}: offline {ours[column]!r}, online {theirs[column]!r}"
    for column in ("_config_json", "_summary_json"):
        pair = [as_sent(json.loads(row[column])) for row in (ours, theirs)]
        if (is_resumed or program.cut_at) and column == "_summary_json":
            pair[0] = {key: value for key, value in pair[0].items() if key in pair[1]}
        if column == "_summary_json":
            pair = [{key: value for key, value in tree.items() if not program.depends_on_time(key)} for tree in pair]
        drop_where_empty(json.loads(ours[column]), pair[1])
        for key in sorted((pair[0].keys() | pair[1].keys()) - {""}):  # the SDK sends no change of the key ""
            values = [json.dumps(tree.get(key, "<none>"), sort_keys=True) for tree in pair]
            if values[0] != values[1]:
                yield f"{column} {key}: offline {values[0]}, online {values[1]}"
    metadata = [json.loads((folder / f"{stem}metadata.json").read_text("utf-8")) for folder in (here, there)]
    for each in metadata:
        each["runs"] = each["runs"]["listed"]
        if is_resumed:  # W&B forgets the tables of earlier logs
            each["failed"] = [failure for failure in each["failed"] if not failure["what"].startswith("table_")]
            each["status"] = "partial" if each["failed"] else "complete"
        each["skipped_history_keys"] = [key for key in each["skipped_history_keys"] if key != "_p"]  # may be null
    for key in ("runs", "history", "skipped_history_keys", "failed", "status"):
        if metadata[0][key] != metadata[1][key]:
            yield f"metadata {key}: offline {short(metadata[0][key])}, online {short(metadata[1][key])}"
    for file in sorted({path.name for folder in (here, there) for path in folder.glob(f"{stem}*.parquet")}):
        name = unquote(file.removeprefix(stem).removesuffix(".parquet"))
        if name.startswith("table_") and program.depends_on_time(name.removeprefix("table_")):
            continue
        pair = [
            {path: about for about in facts_of(folder / file).values() for path in about[1:2]}
            for folder in (here, there)
        ]
        for path in sorted({*pair[0], *pair[1]}):
            if path.startswith("config") or is_resumed or program.depends_on_time(path):
                continue
            if pair[0].get(path) != pair[1].get(path):
                yield f"{name} {path}: offline {pair[0].get(path)}, online {pair[1].get(path)}"
        if name == "runs":
            continue
        frames = [rows(folder, file) for folder in (here, there)]
        pair = [[] if frame is None else rows_of(frame.filter(run_id=run_id), name) for frame in frames]
        if (is_resumed and name.startswith("table_") and not pair[1]) or (name == "console" and program.cut_at):
            continue  # of a log that was cut off, output.log has more
        if len(pair[0]) != len(pair[1]):
            yield f"{name}: {len(pair[0])} rows offline, {len(pair[1])} online: {short(pair[0])} | {short(pair[1])}"
            continue
        for one, other in zip(*pair, strict=True):
            keys = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
            for key in keys:
                if key in CLOCKS and math.isclose(float(one[key]), float(other[key]), rel_tol=0, abs_tol=2e-5):
                    continue
                yield f"{name} {key}: offline {one.get(key)!r}, online {other.get(key)!r} in {short(one)}"


def facts_of(file: Path) -> dict[str, tuple[str, str, Any]]:
    """Of each column its dtype, with ints as floats, its path and its definition."""
    import polars as pl

    if not file.exists():
        return {}
    told = pl.read_parquet_metadata(file)
    paths, metrics = (json.loads(told.get(f"wandb_tools.{key}", "{}")) for key in ("columns", "metrics"))
    dtypes = {column: str(dtype).replace("Int", "Float") for column, dtype in pl.read_parquet_schema(file).items()}
    prefixes = {column: column[: len("config_")] for column in paths if "_runs." in file.name}
    return {
        column: (dtype, f"{prefixes.get(column, '')}{paths.get(column, column)}", definition(metrics.get(column)))
        for column, dtype in dtypes.items()
    }


def definition(stated: dict[str, Any] | None) -> dict[str, Any] | None:
    """The settings of `define_metric`, but for `copy`, which the SDK does not send."""
    stated = {key: value for key, value in (stated or {}).items() if value not in (None, "copy")}
    return stated or None


def rows_of(frame: pl.DataFrame, name: str) -> list[dict[str, str]]:
    """The rows without nulls, their values as text; without times of output, which are those of the sync."""
    rows = frame.drop({"run_id", "entity", "project"} | ({"time"} if name == "console" else set())).to_dicts()
    return [{key: spelt(value) for key, value in row.items() if value is not None} for row in rows]


def spelt(value: Any) -> str:
    """The value as text, the same for an int, a float, a Boolean and a text of the same meaning."""
    if value in ("true", "false", True, False):
        return "1.0" if value in ("true", True) else "0.0"
    try:
        return f"{float(value) + 0.0:.15g}"
    except (ValueError, TypeError):
        return str(value)


def short(value: object) -> str:
    return repr(value)[:400]


# --- the whole ------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--show", type=int, help="print a program")
    parser.add_argument("--keep", type=Path, help="a folder for logs and exports")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.runs)
    if options.show is not None:
        for calls in Program(options.show).logs:
            print(*calls, sep="\n", end="\n\n")
        return 0
    if options.play:
        player = Player(options.play)
        for number in numbers:
            player.play(Program(number))
        print(player.refused, file=sys.__stdout__)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        found = compare(numbers, options.keep or Path(temporary))
    print(f"{len(numbers):,} programs, {len({line.split(':')[0] for line in found})} differ, {len(found)} differences")
    return 1 if found else 0


def compare(numbers: range, folder: Path) -> list[str]:
    from wandb_server import Server

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    with Server(export_on_finish=False) as server:  # exports would hold all numbers of a key as doubles, or as text
        server.add_entity(ENTITY)
        env = kept | server.environment(folder / "sdk") | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

        def run(*command: object) -> str:
            done = subprocess.run([sys.executable, *map(str, command)], env=env, capture_output=True, check=False)
            text = done.stderr.decode(errors="replace")
            if done.returncode not in (0, 3):
                print(f"{command[:6]} ended with {done.returncode}: {text[-3000:]}")
            with (folder / "stderr.txt").open("a", encoding="utf-8") as opened:
                opened.write(text)
            return done.stdout.decode(errors="replace")

        def sync(some: Iterable[int]) -> None:
            run("-m", "wandb", "sync", *(log.parent for n in some for log in logs.glob(f"wandb/*/run-run{n}.wandb")))

        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        for start in numbers[::A_PROCESS]:
            count = min(A_PROCESS, numbers.stop - start)
            run(__file__, "--play", logs, "--first", start, "--runs", count)
        # All logs of a run at once: they are synced in their order. One that is cut off may fail, and all with it.
        for start in numbers[::A_PROCESS]:
            some = range(start, min(start + A_PROCESS, numbers.stop))
            sync(some)
            for number in some:
                if not server.store.entities[ENTITY].get(f"run{number}"):
                    sync([number])
        script, what = (
            ROOT / "wandb-tools/export_runs.py",
            ("--include-history", "--console", "--tables", "--system-metrics"),
        )
        run(script, "--offline", logs, "-o", folder / "offline", *what)
        run(script, "-e", ENTITY, "-o", folder / "online", *what)
    found = []
    for number in numbers:
        for line in differences(f"run{number}", folder / "offline", folder / "online"):
            found.append(f"{number}: {line}")
            print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
