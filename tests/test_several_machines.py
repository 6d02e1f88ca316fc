"""One team exported from several machines at once, and merged: the same file as one export gives.

A machine is a process with a folder of its own, which goes to a prefix of its own in object storage: moto's S3 server
on loopback.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import pytest
from conftest import ROOT
from polars.testing import assert_frame_equal
from test_aggregate_cloud import BUCKET, settings, store  # noqa: F401 - fixtures
from wandb_server import Server

if TYPE_CHECKING:
    from pathlib import Path

MONTHS = ("2026-01", "2026-02", "2026-03")
WINDOWS = (("--until", "2026-02-10"), ("--since", "2026-02-10"))
PROJECTS = (("team/one",), ("team/two",))


class Exports(NamedTuple):
    """Exports of the same team: of each way to share it among machines, their folders; and a merge of one export."""

    windows: list[Path]
    projects: list[Path]
    merged: pl.DataFrame


@pytest.fixture(scope="module")
def exports(tmp_path_factory, clean_environment) -> Exports:
    """All exported at once."""
    folder = tmp_path_factory.mktemp("machines")
    shares = {f"window{number}": ("-e", "team", *window) for number, window in enumerate(WINDOWS)}
    shares |= {f"project{number}": places for number, places in enumerate(PROJECTS)} | {"one": ("-e", "team")}
    with Server() as server:
        fill(server)
        env = clean_environment | server.environment(folder / "sdk")
        processes = [
            started("export_runs.py", *share, "-o", folder / name, "--include-history", env=env)
            for name, share in shares.items()
        ]
        for process in processes:
            _, err = process.communicate()
            assert process.returncode == 0, err
    merging = started("aggregate_runs.py", folder / "one", "-o", folder / "one.parquet", "--history", env=env)
    _, err = merging.communicate()
    assert merging.returncode == 0, err
    windows, projects = (sorted(folder.glob(f"{share}?")) for share in ("window", "project"))
    assert (len(windows), len(projects)) == (2, 2)
    return Exports(windows, projects, pl.read_parquet(folder / "one.parquet"))


def fill(server: Server) -> None:
    """Two projects with runs over three months; each project has keys and dtypes of its own."""
    for number, project in enumerate(("one", "two")):
        for day in range(1, 28, 5):
            for month in MONTHS:
                place = ("team", project, f"{project}-{month}-{day:02d}")
                config = {"lr": day / 10, "layers": day, f"only_{project}": day}
                if month == "2026-03":  # what is a number for the other machine is text here
                    config["layers"] = f"auto {day}"
                summary = {"loss": 1 / day, "n": day + (0.5 if month == "2026-02" else 0)}
                created_at = f"{month}-{day:02d}T0{number}:00:00Z"
                server.add_run(*place, created_at=created_at, config=config, summary=summary)
                server.add_history(*place, rows=[{"_step": step, "loss": step / day} for step in range(day % 7)])


def started(script: str, *arguments: object, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "wandb-tools" / script), *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_runs(found: pl.DataFrame, expected: pl.DataFrame, *, ordered: bool = True) -> None:
    own = ("exported_at", "source_file")  # each export's
    assert found.height == 36
    assert_frame_equal(found.drop(own), expected.drop(own), check_exact=True, check_column_order=ordered)


@pytest.mark.parametrize("shares", ["windows", "projects"])
def test_folders_of_several_machines_are_merged(exports, call_script, tmp_path, shares):
    folders = getattr(exports, shares)
    merged = tmp_path / "merged.parquet"
    done = call_script("aggregate_runs.py", *folders, "-o", merged, "--history")
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), exports.merged)


def test_machines_share_a_bucket_alone(exports, settings, store, run_script, tmp_path):  # noqa: F811
    """Each machine copies its folder to a prefix of its own, as `aws s3 cp --recursive` does; one merges them."""
    for number, folder in enumerate(exports.windows):
        for file in folder.glob("*.*"):
            if file.is_file():
                store.upload_file(str(file), BUCKET, f"exports/machine{number}/{file.name}")
    merged = tmp_path / "merged.parquet"
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/exports/", "-o", merged, "--history", env=settings)
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), exports.merged)


def test_machines_merge_their_own_share_first(exports, settings, store, run_script, tmp_path):  # noqa: F811
    """Without any other tool: each machine's merge writes to the bucket, and one more merges these."""
    for number, folder in enumerate(exports.windows):
        share = f"s3://{BUCKET}/shares/machine{number}.parquet"
        done = run_script("aggregate_runs.py", folder, "-o", share, "--history", env=settings)
        assert done.code == 0, done.err
    merged = tmp_path / "merged.parquet"
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/shares/", "-o", merged, env=settings)
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), exports.merged, ordered=False)  # those of histories go by name then
