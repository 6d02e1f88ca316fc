"""What the example runs hold, read from their logs without the scripts: W&B's protobuf records and plain Python.

The framing is read by `log_files.records_of`, which shares nothing with the scripts either. Resumed logs are placed
after each other, as `wandb sync` would.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import export_runs
from log_files import records_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FOLDER = Path(__file__).parent.parent / "examples" / "offline-runs"


@dataclass
class TrueRun:
    id: str
    name: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    job_type: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> str:
        return {None: "crashed", 0: "finished"}.get(self.exit_code, "failed")

    @property
    def stage(self) -> str:
        return self.name.partition("_")[0] if self.name.startswith("stage") else ""

    @property
    def arch(self) -> str:
        """The name's part between stage and learning rate."""
        return self.name.partition("_")[2].rpartition("_lr")[0] if self.stage else ""

    def setting(self, *keys: str) -> Any:
        tree: Any = self.config
        for key in keys:
            tree = tree.get(key) if isinstance(tree, dict) else None
        return tree

    def value(self, metric: str) -> float | None:
        """The summary's number, for a metric as `test/mse`, nan and infinities included."""
        value = self.summary.get(metric)
        return float(value) if isinstance(value, int | float) else None

    def series(self, metric: str) -> list[tuple[int, float]]:
        return [(row["_step"], float(row[metric])) for row in self.history if metric in row]


def true_runs(folder: Path = FOLDER) -> list[TrueRun]:
    proto = export_runs.wandb_proto()
    logs = sorted(folder.rglob("*.wandb"), key=lambda log: log.parent.name)
    runs: dict[str, TrueRun] = {}
    for log in logs:
        records = [proto.Record.FromString(placed.payload) for placed in records_of(log.read_bytes())]
        shift = None
        for record in records:
            kind = record.WhichOneof("record_type")
            if kind == "run":
                told = record.run
                run = runs.setdefault(told.run_id, TrueRun(told.run_id))
                if shift is None:
                    shift = run.history[-1]["_step"] + 1 if told.resume and run.history else 0
                run.name, run.project = told.display_name or run.id, told.project
                run.tags, run.job_type = list(told.tags), told.job_type
                update(run.config, told.config.update)
            elif kind == "config":
                update(run.config, record.config.update)
            elif kind == "history":
                row = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                run.history.append(row | {"_step": record.history.step.num + (shift or 0)})
            elif kind == "summary":
                update(run.summary, record.summary.update)
            elif kind == "exit":
                run.exit_code = record.exit.exit_code
    for run in runs.values():
        run.config.pop("_wandb", None)
    return list(runs.values())


def update(tree: dict[str, Any], changes: Iterable[Any]) -> None:
    for change in changes:
        *above, last = change.nested_key or [change.key]
        inner = tree
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(change.value_json)


def finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def by(key: Callable[[TrueRun], Any], runs: Iterable[TrueRun]) -> dict[Any, list[TrueRun]]:
    groups: dict[Any, list[TrueRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(groups)


def mean_of(runs: Iterable[TrueRun], metric: str) -> float:
    return statistics.fmean(finite(run.value(metric) for run in runs))
