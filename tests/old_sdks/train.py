"""The program that is recorded: `train.py <kind> <run id> <truth file>`, kind finished, failed, crashed or lost.

What it logged it writes to the truth file by plain Python. A crashed or lost run is killed together with the processes
of the SDK, as if the machine had lost its power; failed and lost ones name no entity. It works with any wandb since
0.8 and with Python 3.8 and newer.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import wandb

ROWS = 30
NAN_STEP = 7
CONFIG = {
    "lr": 0.01,
    "seed": 3,
    "layers": [16, 32],
    "model": {"name": "mlp", "depth": 2, "dropout": None},
    "amp": True,
    "text": "größe",
}
LABELS = {"name": "mlp small", "group": "depth", "job_type": "train", "notes": "first line\nsecond line"}
TAGS = ["baseline", "small"]
TABLE = {"columns": ["text", "n", "score"], "data": [["a", 1, 0.5], ["b", 2, 1.5], ["c", 3, -2.0]]}
SECONDS = 40  # long enough for two entries of system metrics in SDK 0.8 and 0.9, one each 30 s


def row(step: int) -> dict:
    spike = math.nan if step == NAN_STEP else step * 0.5
    return {"loss": 1 / (step + 1), "val/acc": step / ROWS, "spike": spike, "deep": {"x": step}}


def console(step: int) -> list[tuple[str, str]]:
    """What is printed at a step: stream and text."""
    lines = [("stdout", f"step {step}: loss {1 / (step + 1):.4f}\n")]
    if step % 10 == 9:
        lines += [("stderr", f"warning at step {step}\n"), ("stdout", "\n")]
    if step == 15:
        lines += [("stdout", f"\r{percent:3d}% done") for percent in (0, 50, 100)] + [("stdout", "\n")]
        lines += [("stdout", "\x1b[32mgreen\x1b[0m größe\n")]
    return lines


def shown(texts: list[tuple[str, str]]) -> list[list[str]]:
    """Stream and text of each line as a terminal shows it, colours left out."""
    found = []
    for stream in ("stdout", "stderr"):
        whole = "".join(text for at, text in texts if at == stream)
        whole = whole.replace("\x1b[32m", "").replace("\x1b[0m", "")
        found += [[stream, line.split("\r")[-1]] for line in whole.split("\n")[:-1]]
    return found


def main() -> None:
    kind, run_id, truth_file = sys.argv[1:]
    started = time.time()
    entity = "lab" if kind in {"finished", "crashed"} else None
    wandb.init(id=run_id, project="old-sdks", entity=entity, config=CONFIG, tags=TAGS, **LABELS)
    rows, printed, tables = [], [], {}
    truth = {
        "id": run_id,
        "kind": kind,
        "sdk": wandb.__version__,
        "entity": entity,
        "project": "old-sdks",
        "config": CONFIG,
        "tags": TAGS,
        **LABELS,
        "host": platform.node(),
        "python": platform.python_version(),
        "args": sys.argv[1:],
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip(),
        "started_at": started,
        "history": rows,
        "tables": tables,
    }
    try:
        for step in range(ROWS):
            rows.append({"_step": step, **row(step)})
            wandb.log(row(step))
            for stream, text in console(step):
                printed.append((stream, text))
                getattr(sys, stream).write(text)
                getattr(sys, stream).flush()
            time.sleep(SECONDS / ROWS if kind != "failed" else 0.05)
            if kind == "failed" and step == 12:
                raise RuntimeError("the loss went up")
        if kind == "finished":
            wandb.log({"cells": wandb.Table(**TABLE)})
            rows.append({"_step": ROWS})
            tables["cells"] = TABLE
    finally:
        truth["console"] = shown(printed)
        Path(truth_file).write_text(json.dumps(truth), encoding="utf-8")
    if kind in {"crashed", "lost"}:
        time.sleep(20)  # what the SDK holds in memory goes to disk every 15 seconds at the latest
        for process in [*descendants(os.getpid()), os.getpid()]:
            os.kill(process, signal.SIGKILL)


def descendants(process: int) -> list[int]:
    """Every process that `process`, or one of these, started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        parents[int(stat.parent.name)] = int(fields[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


if __name__ == "__main__":
    main()
