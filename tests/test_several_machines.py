"""One team exported from several machines at once, and merged: the same file as one export gives.

A machine is a process with a folder of its own, which goes to a prefix of its own in object storage: moto's S3 server
on loopback.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_aggregate_cloud import BUCKET, settings, store  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wandb_server import Server

MONTHS = ("2026-01", "2026-02", "2026-03")
WINDOWS = (("--until", "2026-02-10"), ("--since", "2026-02-10"))
PROJECTS = (("team/one",), ("team/two",))


@pytest.fixture
def server(empty_server) -> Server:
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
                empty_server.add_run(*place, created_at=created_at, config=config, summary=summary)
                empty_server.add_history(*place, rows=[{"_step": step, "loss": step / day} for step in range(day % 7)])
    return empty_server


@pytest.fixture
def export_at_once(server, script_command, tmp_path) -> Callable[..., list[Path]]:
    """Exports side by side, each with arguments and a folder of its own; the folders."""

    def call(*machines: tuple[str, ...]) -> list[Path]:
        folders = [tmp_path / f"machine{number}" for number in range(len(machines))]
        env = server.environment(tmp_path / "sdk")
        processes = [
            subprocess.Popen(
                **script_command("export_runs.py", *machine, "-o", folder, "--include-history", env=env),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for machine, folder in zip(machines, folders, strict=True)
        ]  # fmt: skip
        for process in processes:
            _, err = process.communicate()
            assert process.returncode == 0, err
        return folders

    return call


@pytest.fixture
def expected(server, call_script, tmp_path) -> pl.DataFrame:
    """One export of all, merged."""
    env = server.environment(tmp_path / "sdk")
    done = call_script("export_runs.py", "-e", "team", "-o", tmp_path / "one", "--include-history", env=env)
    assert done.code == 0, done.err
    done = call_script("aggregate_runs.py", tmp_path / "one", "-o", tmp_path / "one.parquet", "--history")
    assert done.code == 0, done.err
    return pl.read_parquet(tmp_path / "one.parquet")


def assert_same_runs(found: pl.DataFrame, expected: pl.DataFrame, *, ordered: bool = True) -> None:
    own = ("exported_at", "source_file")  # each export's
    assert found.height == 36
    assert_frame_equal(found.drop(own), expected.drop(own), check_exact=True, check_column_order=ordered)


@pytest.mark.parametrize(
    "machines", [[("-e", "team", *window) for window in WINDOWS], PROJECTS], ids=["windows", "projects"]
)
def test_folders_of_several_machines_are_merged(export_at_once, expected, call_script, tmp_path, machines):
    folders = export_at_once(*machines)
    merged = tmp_path / "merged.parquet"
    done = call_script("aggregate_runs.py", *folders, "-o", merged, "--history")
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), expected)


def test_machines_share_a_bucket_alone(export_at_once, expected, settings, store, run_script, tmp_path):  # noqa: F811
    """Each machine copies its folder to a prefix of its own, as `aws s3 cp --recursive` does; one merges them."""
    for number, folder in enumerate(export_at_once(*(("-e", "team", *window) for window in WINDOWS))):
        for file in folder.glob("*.*"):
            if file.is_file():
                store.upload_file(str(file), BUCKET, f"exports/machine{number}/{file.name}")
    merged = tmp_path / "merged.parquet"
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/exports/", "-o", merged, "--history", env=settings)
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), expected)


def test_machines_merge_their_own_share_first(export_at_once, expected, settings, store, run_script, tmp_path):  # noqa: F811
    """Without any other tool: each machine's merge writes to the bucket, and one more merges these."""
    for number, folder in enumerate(export_at_once(*(("-e", "team", *window) for window in WINDOWS))):
        share = f"s3://{BUCKET}/shares/machine{number}.parquet"
        done = run_script("aggregate_runs.py", folder, "-o", share, "--history", env=settings)
        assert done.code == 0, done.err
    merged = tmp_path / "merged.parquet"
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/shares/", "-o", merged, env=settings)
    assert done.code == 0, done.err
    assert_same_runs(pl.read_parquet(merged), expected, ordered=False)  # those of histories go by name then
