"""--sql and --where read the inputs and nothing else, write nothing, and ask no network."""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING

import aggregate_runs
import analyze_runs
import polars as pl
import pytest
from contract_files import Run, write_rows, write_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "7391640285"
NO_TEMPORARY_FILE = "(FORMAT csv, USE_TMP_FILE false)"  # DuckDB then writes to the path itself, which is the input's
QUERIES = [
    *(
        f"SELECT * FROM {reader}('{{secret}}')"
        for reader in ("read_csv", "read_text", "read_blob", "read_json", "sniff_csv", "glob", "read_csv_auto")
    ),
    *(
        f"SELECT * FROM {reader}('{{here}}/other.parquet')"
        for reader in ("read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "parquet_kv_metadata")
    ),
    "SELECT * FROM parquet_metadata('{here}/x/*.parquet')",
    "SELECT * FROM '{secret}'",
    'SELECT * FROM "{secret}"',
    "FROM 'other.parquet'",
    "FROM 'x/foreign.parquet'",  # beside the input
    "FROM 'x/*.parquet'",
    "FROM '{input}/../../other.parquet'",
    "SELECT * FROM glob('{here}/*')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text('file://{secret}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table(['{secret}'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))",
    "WITH a AS MATERIALIZED (SELECT * FROM read_text('{secret}')) SELECT * FROM a",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "SELECT * FROM runs WHERE id IN (SELECT content FROM read_text('{secret}'))",
    "SELECT * FROM secret",  # a Python variable
    "SELECT * FROM '{url}/a.parquet'",
    "SELECT * FROM read_csv('{url}/a.csv')",
    "SELECT * FROM 's3://bucket/a.parquet'",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_extensions()",  # lists the user's folder of them
    "SELECT getenv('HOME')",
    "SELECT * FROM enable_logging(storage := 'file', storage_path := '{here}/logs')",
    "SELECT * FROM enable_profiling(format := 'json', save_location := '{here}/profile.json')",
    "SELECT * FROM enable_profiling(format := 'json', save_location := '{input}')",
    "SELECT 1 INTO written",
    "COPY (SELECT 1) TO '{here}/written.csv'",
    f"COPY runs TO '{{input}}' {NO_TEMPORARY_FILE}",
    "SELECT 1; COPY (SELECT 1) TO '{here}/written.csv'",
    "SELECT 1 /* ; */ ; DROP VIEW runs",
    f"WITH a AS (COPY (SELECT 1) TO '{{input}}' {NO_TEMPORARY_FILE}) SELECT 1",
    f"WITH a AS (COPY (SELECT 1) TO '{{input}}' {NO_TEMPORARY_FILE}) SELECT * FROM a",
    f"SELECT * FROM (WITH a AS (COPY (SELECT 1) TO '{{input}}' {NO_TEMPORARY_FILE}) SELECT * FROM a)",
    f"SELECT 1) UNION (WITH a AS (COPY (SELECT 1) TO '{{input}}' {NO_TEMPORARY_FILE}) SELECT 1",
    f"FROM query('WITH a AS (COPY (SELECT 1) TO ''{{input}}'' {NO_TEMPORARY_FILE}) SELECT 1')",
    "EXPORT DATABASE '{here}/database'",
    "IMPORT DATABASE '{here}/database'",
    "ATTACH '{here}/written.db'",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM '{url}'",
    "LOAD httpfs",
    "PRAGMA enable_profiling",
    "PRAGMA import_database('{here}/database')",
    "CALL enable_logging()",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "SET VARIABLE a = 1",
    "CREATE TABLE a AS SELECT 1",
    "CREATE SECRET a (TYPE s3)",
    "INSERT INTO runs SELECT * FROM runs",
    "UPDATE runs SET id = 'b'",
    "DELETE FROM runs",
    "VACUUM",
    "EXPLAIN ANALYZE SELECT 1",
    "PREPARE a AS SELECT 1",
]
PREDICATES = [
    "true) AS keep FROM runs; COPY (TABLE runs) TO '{here}/written.csv'; SELECT entity, project, id, (true",
    f"true) AS keep FROM runs; COPY runs TO '{{input}}' {NO_TEMPORARY_FILE}; TABLE runs --",
    # What hides SELECT from a search that leaves out quoted text.
    f"/* ' */ true) AS keep FROM runs; COPY (SELECT 1) TO $${{input}}$$ {NO_TEMPORARY_FILE}; FROM (SELECT 1 /* ' */",
    "name = 'a' /* ' */ OR id IN (SELECT missing FROM read_csv('{secret}')) /* ' */",
    "name = 'a' -- '\n OR id IN (SELECT missing FROM read_csv('{secret}')) -- '",
    r"id = E'\'' OR id IN (SELECT content FROM read_text('{secret}')) OR id = ''",
    "id = $$ ' $$ OR id IN (SELECT content FROM read_text($${secret}$$)) OR id = $$ ' $$",
    "id = `'` OR id IN (SELECT hidden FROM read_csv('{secret}')) OR id = `'`",
    "true) AS keep FROM '{secret}', runs --",
    "id IN (SELECT hidden FROM read_csv('{secret}'))",
    "id IN (FROM read_text('{secret}'))",
    "id IN (TABLE '{secret}')",
    "id IN (WITH a AS (FROM read_csv('{secret}')) FROM a)",
    f"id IN (WITH a AS (COPY (TABLE runs) TO '{{input}}' {NO_TEMPORARY_FILE}) TABLE a)",
    "EXISTS (SELECT 1 FROM read_csv('{secret}'))",
    "EXISTS(FROM '{url}/a.parquet')",
    "(SELECT count(*) FROM read_parquet('other.parquet')) > 0",
    "read_text('{secret}') = 'a'",
    "getenv('HOME') = 'a'",
    "id = ?",
    "id = $1",
]


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, asked):
    """Check that a script refuses an SQL text in one line, and reads, writes and asks nothing by it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write_runs(tmp_path / "x", [Run("a", config={"lr": 0.1}), Run("b", config={"lr": 0.2})])
    write_rows(tmp_path / "x", "console", {"run_id": ["a"], "line": [0], "text": ["console"]})
    for folder in (tmp_path, tmp_path / "x"):
        pl.DataFrame({"hidden": [SECRET]}).write_parquet(
            folder / ("other" if folder == tmp_path else "foreign.parquet")
        )
    (tmp_path / "other").rename(tmp_path / "other.parquet")
    secret = tmp_path / "secret.csv"
    secret.write_text(f"hidden{SECRET}\n{SECRET}\n")
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "schema.sql").write_text(f"SELECT {SECRET};")
    (tmp_path / "database" / "load.sql").touch()
    url, paths = asked

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def check(main, flag: str, sql: str, *arguments: str) -> str:
        places = {"{secret}": secret, "{input}": file, "{here}": tmp_path, "{url}": url}
        for mark, place in places.items():
            sql = sql.replace(mark, str(place))
        before = contents()
        code = main([str(file), flag, sql, "--quiet", *arguments])
        out, err = capsys.readouterr()
        answer_without_rows = (0, '{"version": 1, "sql": []}\n', 0)  # which older DuckDBs give to some functions
        assert (code, out, err.count("\n")) in {(2, "", 1), answer_without_rows}, (code, out, err)
        assert "a bug in this script" not in err
        assert SECRET not in err
        assert contents() == before
        assert paths == []
        return err

    return check


@pytest.mark.parametrize("query", QUERIES)
def test_sql_reads_the_inputs_alone_and_writes_nothing(refused, query):
    refused(analyze_runs.main, "--sql", query, "--json")


@pytest.mark.parametrize("predicate", PREDICATES)
def test_where_of_analyze_runs_reads_no_file_and_writes_nothing(refused, predicate):
    refused(analyze_runs.main, "--where", predicate, "--schema")


@pytest.mark.parametrize("predicate", [*PREDICATES, "true; DROP TABLE runs", "id IN (VALUES ('a'))", "id < 'b' FROM x"])
def test_where_of_aggregate_runs_reads_no_file_and_writes_nothing(refused, predicate):
    refused(aggregate_runs.main, "--where", predicate, "-o", "written.parquet")


@pytest.mark.parametrize("unit", ["config_lr{} > 0|+1", "name{} = 'a'|||'a'", "id = 'a'{}| OR id = 'b'"])
def test_a_predicate_too_deep_for_polars_is_refused(refused, unit):
    text, _, more = unit.partition("|")
    err = refused(aggregate_runs.main, "--where", text.format(more * 600), "-o", "written.parquet")
    assert "name IN ('a', 'b') takes a list" in err


def test_what_only_reads_the_views_is_answered(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write_runs(tmp_path / "x", [Run("a", config={"lr": 0.1}), Run("b; DROP --", config={"lr": 0.2})])
    write_rows(tmp_path / "x", "console", {"run_id": ["a"], "line": [0], "text": ["console"]})
    queries = {
        "SELECT count(*) AS n FROM runs": [{"n": 2}],
        "FROM runs SELECT id ORDER BY id DESC LIMIT 1;": [{"id": "b; DROP --"}],
        "WITH a AS (SELECT id FROM runs) SELECT count(*) AS n FROM a -- all": [{"n": 2}],
        "TABLE console": [{"run_id": "a", "entity": "team", "project": "demo", "line": 0, "text": "console"}],
        "SELECT ';' AS a, 'COPY' AS b": [{"a": ";", "b": "COPY"}],
    }
    for query, rows in queries.items():
        assert analyze_runs.main([str(file), "--sql", query, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["sql"] == rows
    for where in ("id = 'b; DROP --'", "lr > 0.1 AND name != 'select'", "config_lr >= 0.2"):
        assert analyze_runs.main([str(file), "--where", where, "--schema"]) == 0
        assert "1 of 2 runs kept" in capsys.readouterr().err
    for where in ("id = 'b; DROP --'", "config_lr > 0.1 AND name != 'select /* '", "config_lr - 0.1 > 0 -0.0"):
        assert aggregate_runs.main([str(file), "--where", where, "-o", "y.parquet"]) == 0
        assert "1 of 2 runs kept" in capsys.readouterr().err
