"""aggregate_runs.py with object storage: moto's S3 server on loopback, and what other engines make of the result."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import boto3
import duckdb
import polars as pl
import pytest
from contract_files import Run, write_runs
from polars.testing import assert_frame_equal

if TYPE_CHECKING:
    from pathlib import Path

SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
BUCKET = "bucket"


@pytest.fixture(scope="module")
def settings():
    """The environment variables that lead every client, polars' too, to the server."""
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = next(line for line in process.stdout if line.strip().isdigit()).strip()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    process.communicate("")


@pytest.fixture
def store(settings):
    """The bucket, empty."""
    client = boto3.client(
        "s3", endpoint_url=settings["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    yield client
    for name in names_in(client):
        client.delete_object(Bucket=BUCKET, Key=name)
    client.close()


def names_in(store) -> list[str]:
    return [each["Key"] for each in store.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


@pytest.fixture
def exports(tmp_path, store) -> Path:
    """Two projects' exports with a history, on disk and under s3://bucket/exports."""
    folder = tmp_path / "exports"
    for project in ("p1", "p2"):
        runs = [Run(f"{project}-{n}", f"stage{n}a_gnn_all_k{n}", {"lr": n / 10}, {"loss": n}) for n in range(3)]
        write_runs(folder, runs, project=project)
    rows = {"run_id": ["p1-1"] * 3, "entity": ["team"] * 3, "project": ["p1"] * 3, "_step": [0, 1, 2]}
    pl.DataFrame(rows | {"metric_loss": [3.0, 1.0, 2.0]}).write_parquet(folder / "team_p1_history.parquet")
    for file in folder.iterdir():
        store.upload_file(str(file), BUCKET, f"exports/{file.name}")
    return folder


def fetched(store, name: str, folder: Path) -> Path:
    file = folder / name.replace("/", "_")
    store.download_file(BUCKET, name, str(file))
    return file


def test_from_a_folder_of_objects_to_an_object(settings, store, exports, run_script, call_script, tmp_path):
    out = f"s3://{BUCKET}/analysis/unified.parquet"
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/exports/", "-o", out, "--history", env=settings)
    assert (done.code, done.out) == (0, f"{out}\n"), done.err
    local = call_script("aggregate_runs.py", exports, "-o", tmp_path / "local.parquet", "--history")
    assert local.code == 0, local.err
    found = pl.read_parquet(fetched(store, "analysis/unified.parquet", tmp_path))
    assert_frame_equal(found.drop("source_file"), pl.read_parquet(tmp_path / "local.parquet").drop("source_file"))
    assert found["source_file"].str.starts_with(f"s3://{BUCKET}/exports/team_p").all()
    assert found.filter(id="p1-1")["history_min_loss"].to_list() == [1.0]
    again = run_script("aggregate_runs.py", out, "-o", tmp_path / "again.parquet", "--no-enrich", env=settings)
    assert again.code == 0, again.err
    assert pl.read_parquet(tmp_path / "again.parquet").height == 6


def test_partitions_in_object_storage(settings, store, exports, run_script, tmp_path):
    place = f"s3://{BUCKET}/parts"
    done = run_script("aggregate_runs.py", exports, "-o", place, "--partition-by", "project", env=settings)
    assert done.code == 0, done.err
    assert {line.rpartition("/")[0] for line in done.out.splitlines()} == {f"{place}/project=p1", f"{place}/project=p2"}
    parts = [name for name in names_in(store) if name.startswith("parts/")]
    assert sorted(f"s3://{BUCKET}/{name}" for name in parts) == sorted(done.out.splitlines())
    assert sum(pl.read_parquet(fetched(store, name, tmp_path)).height for name in parts) == 6
    mixed = run_script("aggregate_runs.py", exports, "-o", place, "--partition-by", "project", env=settings)
    assert mixed.code == 2
    assert "choose an empty place" in mixed.err


def test_damaged_foreign_and_hidden_objects_cost_themselves_only(settings, store, exports, run_script, tmp_path):
    runs = (exports / "team_p1_runs.parquet").read_bytes()
    names = ("odd =%20[x]/a_runs.parquet", ".hidden/b_runs.parquet", "deep/er/c_runs.parquet")
    for name in names:
        store.put_object(Bucket=BUCKET, Key=f"more/{name}", Body=runs)
    store.put_object(Bucket=BUCKET, Key="more/cut_runs.parquet", Body=runs[:-20])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "x.parquet")
    store.upload_file(str(tmp_path / "x.parquet"), BUCKET, "more/foreign.parquet")
    flags = ("--keep", "all", "-o", tmp_path / "y.parquet")
    done = run_script("aggregate_runs.py", f"s3://{BUCKET}/more/", *flags, env=settings)
    assert done.code == 3
    assert f"error: s3://{BUCKET}/more/cut_runs.parquet was left out: it cannot be read: " in done.err
    assert "not merged: 1 foreign file (--json lists all)" in done.err
    found = set(pl.read_parquet(tmp_path / "y.parquet")["source_file"])
    assert found == {f"s3://{BUCKET}/more/{name}" for name in names if not name.startswith(".")}


def test_patterns_of_objects_and_places_without_any(settings, store, exports, run_script, tmp_path):
    inputs = (f"s3://{BUCKET}/*/team_p2_*.parquet", f"s3://{BUCKET}/none/", f"s3://{BUCKET}/none.parquet")
    done = run_script("aggregate_runs.py", *inputs, "-o", tmp_path / "x.parquet", env=settings)
    assert done.code == 3
    assert f"error: s3://{BUCKET}/none/ was left out: there is no such file or folder\n" in done.err
    assert f"error: s3://{BUCKET}/none.parquet was left out: it cannot be read: " in done.err
    assert set(pl.read_parquet(tmp_path / "x.parquet")["project"]) == {"p2"}


@pytest.mark.parametrize(
    ("inputs", "output"), [(["s3://nowhere/exports/"], "x.parquet"), (["{exports}"], "s3://nowhere/x.parquet")]
)
def test_a_bucket_that_is_not_there_is_one_line(settings, exports, run_script, inputs, output):
    inputs = [place.format(exports=exports) for place in inputs]
    done = run_script("aggregate_runs.py", *inputs, "-o", output, "--quiet", env=settings)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "s3://nowhere" in done.err


@pytest.fixture
def partitions(call_script, exports, tmp_path) -> Path:
    done = call_script("aggregate_runs.py", exports, "-o", tmp_path / "parts", "--partition-by", "project")
    assert done.code == 0, done.err
    return tmp_path / "parts"


def test_duckdb_reads_partitions(partitions):
    query = f"SELECT project, count(*), sum(k) FROM read_parquet('{partitions}/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"{query} GROUP BY project ORDER BY project").fetchall() == [("p1", 3, 3), ("p2", 3, 3)]


def test_spark_reads_partitions(partitions):
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed: `uv run --with pyspark pytest` has it")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    try:
        rows = (
            spark.read.parquet(str(partitions)).groupBy("project").sum("k", "metric_loss").orderBy("project").collect()
        )
    finally:
        spark.stop()
    assert [tuple(row) for row in rows] == [("p1", 3, 3), ("p2", 3, 3)]
