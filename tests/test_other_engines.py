"""The group statistics of analyze_runs computed elsewhere, from partitions that aggregate_runs wrote: DuckDB, Spark."""

from __future__ import annotations

import json
import math
import random
import shutil
from typing import TYPE_CHECKING

import duckdb
import pytest
import scipy
from contract_files import Run, write_runs

if TYPE_CHECKING:
    from pathlib import Path

# NaN and infinities less themselves are not 0.
STATISTICS = """
    SELECT config_arch, config_k, count(*) AS runs, count(value) AS n, count(metric_loss) - count(value) AS n_nonfinite,
        avg(value) AS mean, stddev_samp(value) AS std, stddev_samp(value) / sqrt(count(value)) AS sem,
        min(value) AS min, median(value) AS median, max(value) AS max
    FROM (
        SELECT *, CASE WHEN metric_loss - metric_loss = 0 THEN metric_loss END AS value
        FROM runs WHERE state = 'finished'
    ) AS finished
    GROUP BY config_arch, config_k
"""
NAMES = ("config_arch", "config_k", "runs", "n", "n_nonfinite", "mean", "std", "sem", "min", "median", "max")


@pytest.fixture
def partitions(run_script, tmp_path) -> Path:
    """600 runs of three projects, a folder for each: missing settings and values, NaN and infinity, groups of one."""
    chance = random.Random(7)
    for file, project in enumerate(("gnn", "a b/c", "p=1")):
        runs = []
        for number in range(200):
            config = {"arch": chance.choice(["gnn", "mlp", "x/y", "NaN"]), "k": chance.choice([4, 8, 16])}
            config = {key: value for key, value in config.items() if chance.random() < 0.9}
            loss = chance.choice([chance.gauss(0, 1), chance.lognormvariate(0, 5), chance.uniform(1e8, 1e8 + 1)])
            loss = chance.choice([*[loss] * 20, math.nan, math.inf, -math.inf])
            summary = {"loss": loss} if chance.random() < 0.95 else {}
            state = chance.choice(["finished", "finished", "crashed"])
            runs.append(Run(f"{project}{number}", config=config, summary=summary, state=state))
        runs.append(Run(f"{project} alone", config={"arch": project, "k": 1}, summary={"loss": 0.5}))
        (tmp_path / "exports" / str(file) / "team_a b").mkdir(parents=True)  # the file's name has the project's
        write_runs(tmp_path / "exports" / str(file), runs, project=project)
    done = run_script("aggregate_runs.py", "exports", "-o", "parts", "--partition-by", "project")
    assert done.code == 0, done.err
    return tmp_path / "parts"


@pytest.fixture
def groups(run_script, partitions) -> dict[tuple, dict]:
    """What analyze_runs says of the same folder, by arch and k."""
    done = run_script("analyze_runs.py", partitions, "--group-by", "config_arch,config_k", "-m", "loss", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["groups"]
    assert len(rows) > 15
    return {(row["config_arch"], row["config_k"]): row for row in rows}


def check(rows: list[tuple], groups: dict[tuple, dict]) -> None:
    """Rows of NAMES say the same as the groups; the interval is Student's, by scipy."""
    assert len(rows) == len(groups)
    for row in (dict(zip(NAMES, row, strict=True)) for row in rows):
        ours = groups[row["config_arch"], row["config_k"]]
        for name in NAMES[:5]:
            assert ours[name] == row[name], (name, row)
        for name in NAMES[5:]:
            assert ours[name] == (None if row[name] is None else pytest.approx(row[name], rel=1e-9)), (name, row)
        if row["n"] > 1:
            margin = scipy.stats.t.ppf(0.975, row["n"] - 1) * row["sem"]
            assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((row["mean"] - margin, row["mean"] + margin))


def test_duckdb_computes_the_same_statistics(partitions, groups):
    with duckdb.connect() as connection:
        source = f"read_parquet('{partitions}/**/*.parquet', hive_partitioning = true)"
        connection.execute(f"CREATE VIEW runs AS SELECT * FROM {source}")
        check(connection.execute(STATISTICS).fetchall(), groups)
        projects = connection.execute("SELECT DISTINCT project FROM runs ORDER BY 1").fetchall()
    assert projects == [("a b/c",), ("gnn",), ("p=1",)]


def test_spark_computes_the_same_statistics(partitions, groups):
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed: `uv run --with pyspark pytest` has it")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.shuffle.partitions", "1").config("spark.driver.host", "127.0.0.1")
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    try:
        spark.read.parquet(str(partitions)).createOrReplaceTempView("runs")
        check([tuple(row) for row in spark.sql(STATISTICS).collect()], groups)
        projects = [row[0] for row in spark.sql("SELECT DISTINCT project FROM runs ORDER BY 1").collect()]
    finally:
        spark.stop()
    assert projects == ["a b/c", "gnn", "p=1"]
