"""Runs that the real SDK records, and what it was told: the truth that exports are compared with.

Imported, it holds that truth as plain Python values. Started as `recordings.py <folder> <what>`, it records; every
run is filed under a project of its own that is called like its id. Offline, unless RECORDINGS_MODE is `online`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAN, INF = math.nan, math.inf
TENTH = 0.10000000149011612  # what numpy.float32(0.1) is

# --- one process, many runs -----------------------------------------------------------------------------------

CONFIG = {
    "bool": True,
    "int": 5,
    "past_doubles": 2**53 + 1,
    "past_64_bits": 2**63,
    "past_all_floats": 10**400,
    "float": 0.1,
    "whole_float": 1.0,
    "tiny": 1e-320,
    "minus_zero": -0.0,
    "text": "16",
    "no_text": "",
    "none": None,
    "list": [1, "a", None, [2.5, False]],
    "no_list": [],
    "no_dict": {},
    "deep": {"er": {"est": 1, "none": None, "no_dict": {}}},
    "infinite": INF,
    "minus_infinite": -INF,
    "rocket": "🚀 [red]über[/red]",
    "control": "\x1b[31m\n\t\"'\\",
    "half a pair": "\ud800",
    "a.b": 1,
    "a/b": 2,
    "a_b": 3,
    "a": {"b": 4},
    "A_B": 5,
}
FLOAT32_CONFIG = {"tenth": TENTH, "in a tuple": [TENTH, None]}  # recorded as numpy.float32 and nan

CHANGED_CONFIG = {"lr": 0.1, "seed": 3, "model": {"k": 16, "arch": "mlp"}, "steps": 10}
CHANGES = [{"lr": "1e-3", "seed": "three"}, {"model": {"k": 8}}, {"late": {"er": [1]}}, {"seed": None}]
# What W&B makes of it: a dict adds to a dict. The SDK shows its script the newer dict alone.
MERGED = {"model": {"k": 8, "arch": "mlp"}}
LABELS = {"name": "first name", "notes": "first\nnotes", "tags": ("one", "two")}
NEW_LABELS = {"name": "[red]name[/red] 🚀 a/b", "notes": "new notes", "tags": ("two", "drei, vier")}
GROUP, JOB_TYPE = "group é", "evaluation"

# What was logged, and the numbers that it means by their paths.
ROWS: list[tuple[dict, dict]] = [
    (
        {"i": 1, "f": 0.1, "nan": NAN, "inf": INF, "ninf": -INF, "mixed": 1},
        {("i",): 1, ("f",): 0.1, ("nan",): NAN, ("inf",): INF, ("ninf",): -INF, ("mixed",): 1},
    ),
    ({"exact": 2**62 + 1, "big": 2**70, "huge": 10**400}, {("exact",): 2**62 + 1, ("big",): 2.0**70, ("huge",): INF}),
    ({"exact": -(2**63), "yes": True, "no": False}, {("exact",): -(2**63), ("yes",): 1, ("no",): 0}),
    (
        {"tiny": 1e-320, "mz": -0.0, "max": 1.7976931348623157e308},
        {("tiny",): 1e-320, ("mz",): 0, ("max",): sys.float_info.max},
    ),
    (
        {"d": {"x": 1, "y": {"z": 2.5}}, "d.x": 3, "d/x": 4},
        {("d", "x"): 1, ("d", "y", "z"): 2.5, ("d.x",): 3, ("d/x",): 4},
    ),
    ({"text": "text", "none": None, "list": [1, 2], "_private": 1, "i": 2}, {("i",): 2}),
    ({"text": "NaN", "mixed": "Infinity", "é/ñ 🚀": 3}, {("text",): NAN, ("mixed",): INF, ("é/ñ 🚀",): 3}),
    ({"mixed": "no number", "half": "\ud800", "long": "x" * 200, "longer": "1" * 20_000}, {}),
    ({"mixed": {"inner": 1}, "i": -1}, {("mixed", "inner"): 1, ("i",): -1}),
    ({}, {}),
    ({"empty": {}, "f": 3.0}, {("f",): 3.0}),
]
ROWS_SKIPPED = ["_private", "half", "histogram", "list", "long", "longer", "mixed", "table", "text"]  # not numbers

STEPPED = [(0, {"train": 1.0}), (1, {"train": 0.5}), (10, {"val": 2}), (10, {"test": 3}), (10**9, {"train": 0.25})]

MANY_ROWS = 700
MANY_VALIDATED = 7  # every so many rows

DEFINED = [5.0, 1.0, 3.0]  # logged to each of the metrics
DEFINITIONS = {  # what define_metric says: its arguments, and the value that the summary holds then
    "d/min": ({"summary": "min"}, {"min": 1}),
    "d/max": ({"summary": "max", "step_metric": "epoch"}, {"max": 5}),
    "d/mean": ({"summary": "mean"}, {"mean": 3}),
    "d/last": ({"summary": "last"}, {"last": 3}),
    "d/first": ({"summary": "first"}, {"first": 5}),
    "d/both": ({"summary": "min,max"}, {"min": 1, "max": 5}),
    "d/copy": ({"summary": "copy"}, 3),
    "d/none": ({"summary": "none"}, None),
    "d/plain": ({}, 3),
    "d/added": ({"summary": "max"}, {"min": 1, "max": 5}),  # to what DEFINED_BEFORE says
    "d/anew": ({"summary": "max", "overwrite": True}, {"max": 5}),
    "d/again": ({"summary": "max"}, {"max": 5}),  # a kind removes the `none` before it
}
DEFINED_BEFORE = {name: {"summary": "min", "step_metric": "epoch"} for name in ("d/added", "d/anew")}
DEFINED_BEFORE["d/again"] = {"summary": "none"}
DEFINED_FACTS = {  # what the files' metadata say of the columns
    "d/min": ("minimize", "min", None),
    "d/max": ("maximize", "max", "epoch"),
    "d/mean": (None, "mean", None),
    "d/last": (None, "last", None),
    "d/first": (None, "first", None),
    "d/both": (None, "min,max", None),
    "d/copy": (None, "copy", None),
    "d/none": (None, "none", None),
    "d/added": (None, "min,max", "epoch"),
    "d/anew": ("maximize", "max", None),
    "d/again": ("maximize", "max", None),
    "glob/a": ("minimize", "min", "epoch"),
}
# In a definition, a dot separates nested keys, and a backslash precedes the dots of a key: each with the metric that
# it may mean, and whether it reaches it.
DOTTED = {
    "deep.x": (("deep", "x"), True),
    "all.*": (("all", "of", "it"), True),
    r"with\.dot": (("with.dot",), True),
    "other.dot": (("other.dot",), False),
}

SUMMARY = {
    "set": 0.5,
    "nested": {"acc": 0.25, "at": {"step": 3}},
    "mixed": {"text": "x", "none": None, "list": [1], "yes": True},
    "deep": {"k2": 7},  # first {"k1": 1} whole, then ["k2"] = 7: W&B shows the second alone
    "logged": {"x": 1},  # a dict that was logged
    "replaced": 2,  # a dict first
    "inf": "-Infinity",
    "text": "fin",
    "list": [1, 2],
}
SUMMARY_NUMBERS = {
    ("set",): 0.5,
    ("nested", "acc"): 0.25,
    ("nested", "at", "step"): 3,
    ("mixed", "yes"): 1,
    ("deep", "k2"): 7,
    ("logged", "x"): 1,
    ("replaced",): 2,
    ("inf",): -INF,
}

RESUMED = [[1, 2, 3], [], [4, 5]]  # values of "a" by log; the steps go on: 0 to 4
# Steps by log, where the program names them, and what W&B makes of these: only those that are too low are raised.
CONTINUED = [[0, 10], [5, 11, 30], [2, 100]]
CONTINUED_STEPS = [0, 10, 11, 12, 30, 31, 100]
CONTINUED_CONFIG = {"at_start": {"log2": True}, "later": {"log0": True, "log1": True, "log2": True}}
CONTINUED_LABELS = ("log 2", "some notes", ["log 1"])
CONTINUED_SUMMARY = {"a": 100, "nested": {"log2": 1}}
REPEATED = [[1, 2, 3, 4], [10, 20]]  # without resume: the steps come again
REWOUND = ([0, 1, 2, 3, 4, 5], 2, [30, 40])  # back to step 2, then on
FORKED_STEP = 3

# Entities and projects whose names are no names for files.
PLACES = [("a_b", "c"), ("a", "b_c"), (".hidden", "x"), ("team", ".."), ("🚀", "[red] x"), ("e" * 100, "p" * 100)]
PLACES_STEMS = ["a_b_c", "a_b_c", "%2Ehidden_x", "team_..", "%F0%9F%9A%80_%5Bred%5D%20x", "e" * 100 + "_" + "p" * 65]
PLACES_HASHED = [0, 5]  # these names are taken, or too long

SAME_ID = "baseline"  # one id in two projects: two runs
SAME_ID_TEXTS = {"same-id-1": "text", "same-id-2": "words"}


def start(folder: Path, run_id: str | None, *, settings: dict | None = None, **how):
    import wandb

    quiet = wandb.Settings(
        mode=os.environ.get("RECORDINGS_MODE", "offline"),
        console="off",
        silent=True,
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        **(settings or {}),
    )
    return wandb.init(dir=folder, id=run_id, settings=quiet, **({"project": run_id} | how))


def plain(value):
    """The SDK's summary as dicts all the way down."""
    return {key: plain(value[key]) for key in value.keys()} if hasattr(value, "keys") else value  # noqa: SIM118


class Recorder:
    """Runs of one process; `seen` is what the SDK itself showed of a run's config and summary at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, dict] = {}

    def start(self, run_id: str, **how):
        return start(self.folder, run_id, **how)

    def finish(self, run, exit_code: int = 0) -> None:
        self.seen[run.id] = {"config": dict(run.config), "summary": plain(run.summary)}
        run.finish(exit_code=exit_code)

    def config(self) -> None:
        import numpy as np

        self.finish(self.start("config", config=CONFIG))
        self.finish(self.start("config32", config={"tenth": np.float32(0.1), "in a tuple": (np.float32(0.1), NAN)}))
        self.finish(self.start("no-config"))

    def changed(self) -> None:
        run = self.start("changed", config=CHANGED_CONFIG, group=GROUP, job_type=JOB_TYPE, **LABELS)
        for change in CHANGES:
            run.config.update(change, allow_val_change=True)
            run.log({"a": 1})
        run.name, run.notes, run.tags = NEW_LABELS.values()
        run.config["after"] = 2**62 + 1
        self.finish(run)

    def rows(self) -> None:
        import wandb

        for run_id, settings in (("rows", {}), ("typed", {"x_history_value_encoding": "json,typed"})):
            run = self.start(run_id, settings=settings)
            for row, _ in ROWS:
                run.log(row)
            table = wandb.Table(columns=["a"], data=[[1]])
            table.bind_to_run(run, "table", len(ROWS))
            run.log({"histogram": wandb.Histogram([1, 2, 3]), "table": table})
            self.finish(run)

    def steps(self) -> None:
        run = self.start("steps")
        for step, row in STEPPED:
            run.log(row, step=step)
        self.finish(run)
        run = self.start("many")
        for step in range(MANY_ROWS):
            run.log({"a": step / 3, "b": step} | ({"val": step} if step % MANY_VALIDATED == 0 else {}))
        self.finish(run)

    def defined(self) -> None:
        run = self.start("defined")
        for name, arguments in [*DEFINED_BEFORE.items(), *((name, given) for name, (given, _) in DEFINITIONS.items())]:
            run.define_metric(name, **arguments)
        run.define_metric("glob/*", summary="min", step_metric="epoch")
        run.define_metric("never logged", summary="max")
        for epoch, value in enumerate(DEFINED):
            run.log({"epoch": epoch, "glob/a": value} | dict.fromkeys(DEFINITIONS, value))
        self.finish(run)

    def dotted(self) -> None:
        run = self.start("dotted")
        for name in DOTTED:
            run.define_metric(name, summary="max")
        for value in DEFINED:
            run.log({"deep": {"x": value}, "all": {"of": {"it": value}}, "with.dot": value, "other.dot": value})
        self.finish(run)

    def summaries(self) -> None:
        run = self.start("summary")
        run.log({"logged": {"x": 1}, "set": 9})
        run.summary["set"] = 0.5
        run.summary["nested"] = {"acc": 0.25, "at": {"step": 3}}
        run.summary.update({"mixed": {"text": "x", "none": None, "list": [1], "yes": True}})
        run.summary["deep"] = {"k1": 1}
        run.summary["deep"]["k2"] = 7
        run.summary["replaced"] = {"x": 1}
        run.summary["replaced"] = 2
        run.summary.update({"inf": -INF, "text": "fin", "list": [1, 2], "gone": 1})
        del run.summary["gone"]
        self.finish(run)

    def ends(self) -> None:
        self.finish(self.start("failed"), exit_code=3)
        self.finish(self.start("found-dead"), exit_code=254)
        run = self.start("preempted")
        run.mark_preempting()
        self.finish(run, exit_code=1)
        run = self.start("in-sweep", settings={"sweep_id": "sweep1"})
        run.log({"a": 1})
        self.finish(run)

    def several_logs(self) -> None:
        self.resumed()
        self.continued()
        for values in REPEATED:
            run = self.start("repeated")
            for value in values:
                run.log({"a": value})
            self.finish(run)

    def resumed(self) -> None:
        for number, values in enumerate(RESUMED):
            run = self.start("resumed", resume="allow", config={"shared": number, f"only{number}": True})
            for value in values:
                run.log({"a": value})
            self.finish(run)

    def continued(self) -> None:
        """Config, labels, steps and summary of each log, some of which are emptied."""
        for number, steps in enumerate(CONTINUED):
            log = f"log{number}"
            labels = {"name": f"log {number}", "notes": "" if number else "some notes"}
            tags = [f"log {number}"] if number < 2 else None
            run = self.start("continued", resume="allow", config={"at_start": {log: True}}, tags=tags, **labels)
            run.config.update({"later": {log: True}}, allow_val_change=True)
            for step in steps:
                run.log({"a": step, "nested": {log: 1}}, step=step)
            run.summary["null"] = None
            run.name, run.notes, run.tags = "", "", ()
            self.finish(run)

    def places(self) -> None:
        for number, (entity, project) in enumerate(PLACES):
            run = self.start(f"place{number}", entity=entity, project=project)
            run.log({"a": number})
            self.finish(run)
        for project, key in SAME_ID_TEXTS.items():
            run = self.start(SAME_ID, project=project)
            run.log({key: "no number"})
            self.finish(run)

    def rewound(self) -> None:
        before, step, after = REWOUND
        run = self.start("rewound")
        for value in before:
            run.log({"a": value})
        self.finish(run)
        run = start(self.folder, None, project="rewound", resume_from=f"rewound?_step={step}")
        for value in after:
            run.log({"a": value})
        self.finish(run)
        run = self.start("forked", fork_from=f"rewound?_step={FORKED_STEP}")
        run.log({"a": 1})
        self.finish(run)


def record_all(folder: Path) -> None:
    recorder = Recorder(folder)
    recorder.config()
    recorder.changed()
    recorder.rows()
    recorder.steps()
    recorder.defined()
    recorder.dotted()
    recorder.summaries()
    recorder.ends()
    recorder.several_logs()
    recorder.places()
    recorder.rewound()
    (folder / "seen.json").write_text(json.dumps(recorder.seen))


def record_for_server(folder: Path) -> None:
    """What a server takes in the same way from runs online and from a sync."""
    recorder = Recorder(folder)
    recorder.config()
    recorder.changed()
    recorder.rows()
    recorder.steps()
    recorder.defined()
    recorder.dotted()
    recorder.summaries()
    recorder.ends()
    recorder.resumed()
    recorder.continued()
    (folder / "seen.json").write_text(json.dumps(recorder.seen))


# --- runs that are killed: a process each ---------------------------------------------------------------------

KILLED_BYTES = 2 * 32_768


def killed_row(step: int) -> dict:
    return {"loss": 1 / (step + 1), "count": step, "flat": {"x": -step}}


def record_killed(folder: Path) -> None:
    """Log until the log's first blocks are on disk, then die: no exit record, and where a block ends, the log does."""
    die = death()
    run = start(folder, "killed", config={"a": 1}, settings={"x_transaction_log_flush_interval": 0})
    log = Path(run.dir).parent / "run-killed.wandb"
    step = 0
    while log.stat().st_size < KILLED_BYTES:
        run.log(killed_row(step))
        step += 1
    (folder / "killed.json").write_text(json.dumps(step))  # how many rows may be there at most
    die()


def record_killed_at_once(folder: Path) -> None:
    die = death()
    start(folder, "killed-at-once", config={"a": 1}, settings={"x_transaction_log_flush_interval": 0})
    die()


def death() -> Callable[[], None]:
    """What kills this process and all that it starts from now on: the SDK writes its log in a process of its own."""
    started: list[subprocess.Popen] = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **how) -> None:
            super().__init__(*arguments, **how)
            started.append(self)

    def die() -> None:
        for process in started:
            process.kill()
            process.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    subprocess.Popen = Noted
    return die


RECORDERS = {"all": record_all, "killed": record_killed, "killed-at-once": record_killed_at_once}
FOR_SERVER = {"for-server": record_for_server}

if __name__ == "__main__":
    (RECORDERS | FOR_SERVER)[sys.argv[2]](Path(sys.argv[1]))
