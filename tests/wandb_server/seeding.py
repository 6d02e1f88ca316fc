"""Made-up runs and histories, many and fast. The same arguments make the same runs, in any process.

Texts are written from templates: parsing and printing JSON for 20,000 runs of 180 keys would take a minute.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .store import User

START = "2026-01-01T00:00:00Z"
RUN_INTERVAL_S = 60
SAME_SECOND = 3  # so many runs in a row are created in one second, as by a sweep
RUNTIME_S = 1800
STATES = ["finished"] * 16 + ["failed", "crashed", "running", "killed"]
CONFIG_SHARE = 1 / 3  # of the keys of a run; the others are summary metrics
HISTORY_KEYS = 16  # metrics in historyKeys, which the SDK's eager listing asks for; there are no rows behind them
SECTIONS = ["model", "optimizer", "data", "trainer"]
SPLITS = ["train", "val", "test"]
MACHINES = [("NVIDIA A100-SXM4-80GB", 4), ("NVIDIA H100 80GB HBM3", 8), (None, 0)]  # GPU and how many


def time_at(seconds: float) -> str:
    return (datetime.fromisoformat(START) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- runs -----------------------------------------------------------------------------------------------------


def runs(n: int, *, keys: int, seed: int, first: int, user: User) -> Iterator[dict[str, Any]]:
    """The fields of `n` runs, numbered from `first`."""
    n_config = max(round(keys * CONFIG_SHARE), 6)
    n_summary = max(keys - n_config, 2)
    config, summary = config_template(n_config), summary_template(n_summary)
    used_keys = orjson.Fragment(history_keys(n_summary))
    for number in range(first, first + n):
        chance = random.Random(f"{seed} {number}")
        k, replica, lr = 2 ** (number % 5 + 3), number % 10, (0.1, 0.01, 0.001)[number % 3]
        created_s = number // SAME_SECOND * RUN_INTERVAL_S
        draws = [chance.random() for _ in range(n_config + n_summary)]
        yield {
            "run_id": f"run{number:06d}",
            "display_name": f"mlp_k{k}_s{replica}_lr{lr}",
            "state": STATES[chance.randrange(len(STATES))],
            "created_at": time_at(created_s),
            "heartbeat_at": time_at(created_s + RUNTIME_S),
            "user": user,
            "config": config % (lr, k, replica, *draws[: n_config - 6], orjson.dumps(machine(number)).decode()),
            "summary": summary % tuple(draws[:n_summary]),
            "tags": [f"tag{number % 4}", "baseline"] if number % 2 else [],
            "group": f"group-{number % 7}",
            "job_type": ("train", "eval")[number % 2],
            "notes": "checked by hand" if number % 50 == 0 else None,
            "commit": f"{number:040x}",
            "host": f"node{number % 8}",
            "history_rows": 0,
            "history_keys": used_keys,
        }


def machine(number: int) -> dict[str, Any]:
    """What the SDK notes of the machine under `_wandb.e`, by writer; every 25th run was resumed on another one."""
    gpu, gpus = MACHINES[number % len(MACHINES)]
    started_s = number // SAME_SECOND * RUN_INTERVAL_S
    own = {
        "os": "Linux-6.8.0-x86_64-with-glibc2.39",
        "python": "CPython 3.11.7",
        "program": "train.py",
        "args": ["--lr", f"{(0.1, 0.01, 0.001)[number % 3]:g}", "--name", "a b"],
        "host": f"node{number % 8}",
        "cpu_count": 16,
        "startedAt": time_at(started_s).replace("Z", ".500000Z"),
    }
    if gpu:
        own |= {"gpu": gpu, "gpu_count": gpus}
    writers = {f"writer-b{number}": own}
    if number % 25 == 24:
        later = {**own, "host": "elsewhere", "startedAt": time_at(started_s + 600)}
        writers = {f"writer-a{number}": later, **writers}  # the order says nothing of who was first
    return writers


def config_template(n: int) -> str:
    """W&B's config text of `n` keys: three set by number, three constant, the others drawn, a few nested."""
    entries = [
        '"lr": {"value": %g}',
        '"model": {"value": {"k": %d, "_target_": "src.models.MLP", "hidden": [64, 64]}}',
        '"seed": {"value": %d}',
        '"use_amp": {"value": true}',
        '"scheduler": {"value": null}',
        '"dataset": {"value": "synthetic-large"}',
    ]
    entries += [f'"{SECTIONS[i % 4]}/option_{i}": {{"value": %.6g}}' for i in range(n - len(entries))]
    versions = '"cli_version": "0.31.0", "python_version": "3.11.7"'
    internal = '"_wandb": {"value": {' + versions + ', "m": [], "t": {"1": [1, 5]}, "e": %s}}'
    return "{" + ", ".join([*entries, internal]) + "}"


def metric_name(index: int) -> str:
    return f"{SPLITS[index % 3]}/metric_{index // 3}"


def summary_template(n: int) -> str:
    entries = [f'"{metric_name(i)}": %.9g' for i in range(n)]
    entries += ['"_step": 999', f'"_runtime": {RUNTIME_S}', '"_timestamp": 1767225600.5']
    return "{" + ", ".join([*entries, f'"_wandb": {{"runtime": {RUNTIME_S}}}']) + "}"


def history_keys(n_metrics: int) -> bytes:
    names = [metric_name(i) for i in range(min(n_metrics, HISTORY_KEYS))] + ["_step", "_runtime", "_timestamp"]
    key = {"typeCounts": [{"type": "number", "count": 1000}], "monotonic": False, "previousValue": 0.5}
    return orjson.dumps({"step": 999, "lastStep": 999, "sets": [], "keys": dict.fromkeys(names, key)})


def odd_runs() -> dict[str, dict[str, Any]]:
    """Every oddity seen in W&B's answers, by the id of the run that has it."""
    return {
        "no-user": {"user": None},
        "no-name": {"display_name": None},
        "empty-name": {"display_name": ""},
        "no-config": {"config": None},
        "no-summary": {"summary": None},
        "empty": {"config": "{}", "summary": "{}", "heartbeat_at": None},
        "broken-config": {"config": '{"lr": {"value": 0.1'},
        "broken-summary": {"summary": '{"loss": 0.1,,}'},
        "list-config": {"config": "[1, 2]"},
        "value-in-config": {"config": '{"a": {"value": {"value": 7, "other": 8}}, "b": {"value": 7, "other": 8}}'},
        "bare-config": {"config": '{"lr": 0.1, "seed": {"desc": null, "value": 3}}'},
        "bare-nan": {"config": '{"lr": {"value": NaN}}', "summary": '{"loss": NaN, "best": -Infinity}'},
        "text-nan": {"summary": '{"loss": "NaN", "best": "Infinity"}'},
        "huge-int": {"config": '{"n": {"value": 123456789012345678901234567890}}', "summary": '{"n": 1e+30}'},
        "derived-summary": {"summary": '{"loss": {"min": 0.1, "max": 2.5}, "_wandb": {"runtime": 12}}'},
        "media": {"summary": '{"table": {"_type": "table-file", "path": "media/table/t.json", "nrows": 2}}'},
        "colliding": {"summary": '{"a/b": 1, "a.b": 2, "a_b": 3, "a": {"b": 4}}'},
        "unicode": {"display_name": "λ=0.1 \u202e\x1b[31mred", "tags": ["größe", "a,b"], "notes": "=1+1"},
        "no-history-keys": {"history_keys": None, "history_rows": 10},
        "preempted": {"state": "preempted"},
        "unheard-of-state": {"state": "hibernating"},
        "no-machine": {"config": '{"_wandb": {"value": {"e": {}}}}'},
        "machine-as-a-list": {"config": '{"_wandb": {"value": {"e": ["w"]}}}'},
        "bare-machine": {"config": '{"_wandb": {"e": {"w": {"host": "node1", "gpu_count": 1}}}}'},
        "machine-without-start": {
            "config": '{"_wandb": {"value": {"e": {"w": {"host": "node1", "args": null}, "v": null, "u": {"gpu": 7}}}}}'
        },
    }


# --- console lines, tables ------------------------------------------------------------------------------------


def plain_run(number: int) -> dict[str, Any]:
    return {
        "state": STATES[number % len(STATES)],
        "created_at": time_at(number * RUN_INTERVAL_S),
        "config": {"lr": 0.1, "seed": number, "_wandb": {"e": machine(number)}},
        "summary": {"loss": number / 1000, "_step": 99, "_runtime": RUNTIME_S, "_wandb": {"runtime": RUNTIME_S}},
    }


def console(number: int, lines: int) -> list[str]:
    """Console lines of one run as the SDK sends them, a tenth of them from stderr, one a second."""
    start = datetime.fromisoformat(time_at(number * RUN_INTERVAL_S)).replace(tzinfo=None)
    times = (f"{start + timedelta(seconds=line, microseconds=1):%Y-%m-%dT%H:%M:%S.%f}" for line in range(lines))
    return [
        f"ERROR {time} warning {line}: gradients were clipped"
        if line % 10 == 9
        else f"{time} run {number} step {line}: loss {1 / (line + 1):.6f}, accuracy {line / (line + 1):.6f}"
        for line, time in enumerate(times)
    ]


TABLE_COLUMNS = ["id", "label", "prediction", "score", "image"]


def table(kind: int, rows: int) -> bytes:
    """A table's file as the SDK writes it: integers, text, nulls, NaN as a bare word, media cells."""
    chance = random.Random(kind)
    cells = [
        [
            row,
            f"class {chance.randrange(10)}",
            None if row % 50 == 49 else f"class {chance.randrange(10)}",
            math.nan if row % 100 == 99 else chance.random(),
            {"_type": "image-file", "path": f"media/images/{kind}_{row}.png"} if row % 10 == 0 else None,
        ]
        for row in range(rows)
    ]
    return json.dumps({"columns": TABLE_COLUMNS, "data": cells}, separators=(",", ":")).encode()


def table_entry(key: str, content: bytes, rows: int) -> dict[str, Any]:
    """What the summary holds for a table that was logged under `key`."""
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "_type": "table-file",
        "path": f"media/table/{key}_99_{sha256[:20]}.table.json",
        "sha256": sha256,
        "size": len(content),
        "nrows": rows,
        "ncols": len(TABLE_COLUMNS),
        "log_mode": "IMMUTABLE",
    }


# --- histories ------------------------------------------------------------------------------------------------


def histories(
    folder: Path, n: int, *, steps: int, metrics: int, parts: int, live: int, distinct: int, seed: int
) -> Iterator[tuple[str, dict[str, Any], list[Path], list[dict[str, Any]]]]:
    """Id, fields, parquet files and live rows of `n` runs with `steps` rows each."""
    names = [metric_name(i) for i in range(metrics)]
    kinds = [_history(folder, names, steps, parts, live, seed + kind) for kind in range(min(distinct, n))]
    for number in range(n):
        files, tail, last = kinds[number % len(kinds)]
        summary = {**last, "_step": steps - 1, "_wandb": {"runtime": steps}}
        yield (
            f"hist{number:05d}",
            {
                "state": "running" if tail else "finished",
                "created_at": time_at(number * RUN_INTERVAL_S),
                "config": {"lr": 0.1, "seed": number},
                "summary": summary,
            },
            files,
            tail,
        )


def _history(
    folder: Path, names: list[str], steps: int, parts: int, live: int, seed: int
) -> tuple[list[Path], list[dict[str, Any]], dict[str, float]]:
    """Parquet files of `steps` - `live` rows, the live rows, and the last value of each metric."""
    drawn = np.random.default_rng(seed)
    step = np.arange(steps)
    columns = {"_step": step, "_runtime": step + 0.5, "_timestamp": step + datetime(2026, 1, 1, tzinfo=UTC).timestamp()}
    columns |= {name: drawn.normal(size=steps) for name in names}
    table = pa.table(columns)
    exported = steps - live
    ends = [exported * part // parts for part in range(parts + 1)]
    files = []
    for part, (start, end) in enumerate(itertools.pairwise(ends)):
        if end > start:
            files.append(folder / f"{len(names)}x{steps}-{live}-{seed}-{part}of{parts}.parquet")
            pq.write_table(table.slice(start, end - start), files[-1], use_dictionary=False)
    tail = table.slice(exported).to_pylist()
    return files, tail, {name: float(columns[name][-1]) for name in names}
