"""Runs files as the contract describes them, from plain Python values: what the readers' tests feed on.

Deliberately naive and independent of the scripts, so that it can serve as a second opinion.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Run:
    """One run as a test tells it; everything else has a default."""

    id: str
    name: str | None = None
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    state: str = "finished"
    created_at: datetime = START
    exported_at: datetime = START
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    history_rows: int = 0


def leaves(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, (*path, key))
        else:
            found[(*path, key)] = value
    return found


def column_of(prefix: str, path: tuple[str, ...]) -> str:
    return prefix + "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in "_".join(path))


def write_runs(
    folder: Path,
    runs: list[Run],
    *,
    entity: str = "team",
    project: str = "demo",
    metrics: dict | None = None,
    dtypes: dict | None = None,
) -> Path:
    """Write `<folder>/<entity>_<project>_runs.parquet`; `dtypes` overrides columns, `metrics` is the stored goals."""
    runs = sorted(runs, key=lambda run: (run.created_at, run.id))
    frame: dict[str, list] = {
        "id": [r.id for r in runs],
        "name": [r.name or r.id for r in runs],
        "state": [r.state for r in runs],
        "entity": [entity for _ in runs],
        "project": [project for _ in runs],
        "created_at": [r.created_at for r in runs],
        "heartbeat_at": [r.created_at for r in runs],
        "runtime_s": [60.0 for _ in runs],
        "last_step": [r.history_rows - 1 for r in runs],
        "history_rows": [r.history_rows for r in runs],
        "tags": [r.tags for r in runs],
        "group": [r.group for r in runs],
        "job_type": [r.job_type for r in runs],
        "sweep": [r.sweep for r in runs],
        "user": [None for _ in runs],
        "notes": [None for _ in runs],
        "commit": [None for _ in runs],
        "url": [None for _ in runs],
        "exported_at": [r.exported_at for r in runs],
    }
    texts = ("id", "name", "state", "entity", "project", "group", "job_type", "sweep", "user", "notes", "commit", "url")
    schema: dict = dict.fromkeys(texts, pl.String)
    schema |= dict.fromkeys(("created_at", "heartbeat_at", "exported_at"), pl.Datetime("us", "UTC"))
    schema |= {"tags": pl.List(pl.String), "last_step": pl.Int64, "history_rows": pl.Int64}
    paths: dict[str, list[str]] = {}
    for prefix, attribute in (("config_", "config"), ("metric_", "summary")):
        trees = [leaves(getattr(run, attribute)) for run in runs]
        for path in sorted({path for tree in trees for path in tree}):
            values = [tree.get(path) for tree in trees]
            if prefix == "metric_" and (path[0].startswith("_") or any(isinstance(v, str) for v in values)):
                continue
            column = column_of(prefix, path)
            frame[column] = [json.dumps(v) if isinstance(v, list | dict) else v for v in values]
            paths[column] = list(path)
    frame["_config_json"] = [json.dumps(r.config) for r in runs]
    frame["_summary_json"] = [json.dumps(r.summary).replace("NaN", '"NaN"') for r in runs]
    order = [*list(frame)[:19], *sorted(paths), "_config_json", "_summary_json"]
    file = folder / f"{entity}_{project}_runs.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: frame[name] for name in order}
    pl.DataFrame(columns, schema_overrides=schema | (dtypes or {}), strict=False).write_parquet(
        file,
        compression="zstd",
        metadata={
            "wandb_tools.schema": "1",
            "wandb_tools.columns": json.dumps(paths),
            "wandb_tools.metrics": json.dumps(metrics or {}),
            "wandb_tools.source": json.dumps({"entity": entity, "project": project, "exported_at": START.isoformat()}),
        },
    )
    return file


def write_rows(
    folder: Path, name: str, columns: dict, *, entity: str = "team", project: str = "demo", key: str | None = None
) -> Path:
    """Write `<folder>/<entity>_<project>_<name>.parquet`: rows of console output, system metrics or a W&B Table.

    `key` is the one that a W&B Table was logged under; older files do not tell it.
    """
    frame = pl.DataFrame(columns).with_columns(entity=pl.lit(entity), project=pl.lit(project))
    order = ["run_id", "entity", "project"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{entity}_{project}_{name}.parquet"
    metadata = {} if key is None else {"wandb_tools.table": key}
    frame.lazy().select(*order, pl.exclude(order)).sink_parquet(file, compression="zstd", metadata=metadata)
    return file
