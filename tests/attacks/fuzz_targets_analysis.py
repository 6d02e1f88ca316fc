"""What analyze_runs and aggregate_runs read: parquet files of every kind, sound or not, and what is typed.

An input is a list of choices: which columns a file has, of which dtypes and values, its metadata, which of its bytes
are damaged, and which question is asked. So every input makes files, and few are refused at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import statistics
import tempfile
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import aggregate_runs
import analyze_runs
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

MEMORY = Path("/dev/shm")  # faster than a disk, where there is one
SECRET = "7391640285"  # stands in files that are no inputs
analyze_runs.import_libraries()
aggregate_runs.import_libraries()


class Choices:
    """Choices that bytes stand for; after their end always the first one."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, below: int) -> int:
        self.at += 1
        return self.data[self.at - 1] % below if self.at <= len(self.data) else 0

    def of(self, options: list) -> Any:
        return options[self.number(len(options))]

    def is_so(self, one_in: int) -> bool:
        return self.number(one_in) == one_in - 1

    def rest(self) -> bytes:
        return self.data[self.at :]


# --- files ----------------------------------------------------------------------------------------------------
ODD_TEXTS = [
    "a",
    "",
    "b",
    "NaN",
    "1e400",
    "1",
    "-0",
    "007",
    "true",
    "null",
    "=1+1",
    "\x1b[31m",
    "a\nb",
    "\u202ex",
    "😀" * 3,
]
ODD_TEXTS += [
    "x" * 3000,
    "\x00",
    "a'b",
    'a"b',
    "[red]",
    "{}",
    "{0}",
    "$x$",
    "2026-01-31",
    "é",
    "a" + "\u0301",
    "/",
    "..",
]
FLOATS = [0.0, 1.5, -0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1 / 3, 1e-5, 2.0**63, 123456.789]
WHOLE = [0, 1, 2, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
TIMES = [datetime(*day) for day in ((2026, 1, 1), (1, 1, 1), (9999, 12, 31, 23, 59, 59), (1969, 12, 31))]  # noqa: DTZ001
EAST = timezone(timedelta(hours=5, minutes=30))
VALUES: list[tuple[Any, list]] = [
    (pl.String, ODD_TEXTS),
    (pl.Float64, FLOATS),
    (pl.Int64, WHOLE),
    (pl.Boolean, [True, False]),
    (pl.Null, [None]),
    (pl.Float32, FLOATS[:6]),
    (pl.Int8, [0, 1, -128]),
    (pl.UInt64, [0, 1, 2**64 - 1]),
    (pl.Int128, [0, 2**100, -(2**100)]),
    (pl.Datetime("us", "UTC"), [moment.replace(tzinfo=EAST) for moment in TIMES[::3]]),
    (pl.Datetime("us"), TIMES),
    (pl.Datetime("ns"), [TIMES[0], TIMES[3]]),
    (pl.Datetime("ms", "Asia/Kolkata"), [TIMES[0].replace(tzinfo=EAST)]),
    (pl.Date, [date(2026, 1, 1), date(1, 1, 1), date(9999, 12, 31)]),
    (pl.Time, [time(1, 2, 3), time(23, 59, 59, 999999)]),
    (pl.Duration("us"), [timedelta(0), timedelta(days=-1, microseconds=1), timedelta(days=10**6)]),
    (pl.Decimal(38, 10), [Decimal(1), Decimal("-12345.678")]),
    (pl.Binary, [b"", b"\xff\x00", b"abc"]),
    (pl.Categorical, ODD_TEXTS[:6]),
    (pl.Enum(["a", "", "c"]), ["a", "", "c"]),
    (pl.List(pl.String), [[], ["a"], ["a", None, "b,c"]]),
    (pl.List(pl.Int64), [[], [1, None]]),
    (pl.List(pl.Struct({"a": pl.List(pl.Float64)})), [[], [{"a": [1.0, math.nan]}], [{"a": None}]]),
    (pl.Array(pl.Int64, 2), [[1, 2], [3, None]]),
    (pl.Struct({"a": pl.Int64, "b": pl.Struct({"c": pl.String})}), [{"a": 1, "b": {"c": "x"}}, {"a": None, "b": None}]),
    (pl.Struct({"a": pl.Binary}), [{"a": b"\xff"}]),
    (pl.List(pl.Binary), [[b"\xff"], []]),
    (pl.List(pl.Duration("us")), [[timedelta(1)]]),
    (pl.List(pl.Categorical), [["a"]]),
    (pl.List(pl.Datetime("us")), [[TIMES[0]], [TIMES[1]]]),
    (pl.List(pl.Decimal(20, 2)), [[Decimal("1.5")]]),
]
UTC_TIME = (pl.Datetime("us", "UTC"), [moment.replace(tzinfo=EAST) for moment in TIMES[::3]])
TEXT, NUMBER, FLOAT = VALUES[0], VALUES[2], VALUES[1]
NAME = (pl.String, ["a", "b", "stage2_gnn_all_k16_s3_lr1e-3", "x", "", "a/b/c", "\x1b[31m"])
STATE = (pl.String, ["finished", "crashed", "running", "FINISHED", "odd", None])
WHO = (pl.String, ["team", "team", None, "", "other/x"])
ROW_COLUMNS = {"run_id": NAME, "entity": WHO, "project": WHO}
KINDS: dict[str, dict[str, tuple[Any, list]]] = {
    "runs": {
        "id": NAME,
        "name": NAME,
        "state": STATE,
        "entity": WHO,
        "project": WHO,
        "created_at": UTC_TIME,
        "heartbeat_at": UTC_TIME,
        "runtime_s": FLOAT,
        "last_step": NUMBER,
        "history_rows": NUMBER,
        "tags": (pl.List(pl.String), [[], ["a"], ["a", "b"]]),
        "group": TEXT,
        "gpu": TEXT,
        "gpu_count": NUMBER,
        "exported_at": UTC_TIME,
        "source_file": (pl.String, ["x.parquet", "", "\x00", "/", "s3://b/x.parquet", "x" * 5000, "../..", None]),
        "config_lr": FLOAT,
        "config_k": NUMBER,
        "config_model": TEXT,
        "metric_loss": FLOAT,
        "metric_test_acc": FLOAT,
        "_config_json": (pl.String, ["{}", "[" * 5000, "no JSON"]),
        "_summary_json": (pl.String, ["{}"]),
    },
    "history": {**ROW_COLUMNS, "_step": NUMBER, "_runtime": FLOAT, "_timestamp": FLOAT, "metric_loss": FLOAT},
    "console": {**ROW_COLUMNS, "line": NUMBER, "time": UTC_TIME, "stream": (pl.String, ["stderr", None]), "text": TEXT},
    "system": {**ROW_COLUMNS, "_runtime": FLOAT, "_timestamp": FLOAT, "system_cpu": FLOAT, "system_gpu_0_gpu": FLOAT},
    "table_t": {**ROW_COLUMNS, "row": NUMBER, "label": TEXT, "score": FLOAT},
    "foreign": {"any": TEXT},
}
ODD_NAMES = [
    "config_x",
    "metric_x",
    "config_",
    "metric_",
    "*",
    "^.*$",
    "x",
    "metric",
    "value",
    "mean",
    "n",
    "k",
    "stage",
]
ODD_NAMES += [
    "finite value",
    "run number",
    "wandb_tools.file",
    "wandb_tools.row",
    "id",
    "ID",
    "Config_LR",
    'a"b',
    "a'b",
    "é",
]
ODD_NAMES += [
    "\x00",
    "a\nb",
    "x" * 300,
    "history_min_loss",
    "history_at_loss",
    "runs",
    "best_run",
    "name:4",
    "iqm",
    "group",
    " ",
]
ODD_NAMES += [
    "config_model__target_",
    "config_data_same_graph_all_splits",
    "arch",
    "lr_parsed",
    "source_file",
    "__index_level_0__",
]
ODD_DOCUMENTS: list = [
    "", "x", "[]", "1", "null", '"x"', "{", "NaN", "[" * 20_000, '{"metric_loss": []}', '{"metric_loss": ["loss", 1]}',
    '{"metric_loss": "loss"}', '{"metric_loss": null}', '{"metric_loss": ["loss"], "metric_test_acc": ["loss"]}',
    '{"config_lr": ["\\ud800"]}', '{"config_lr": [""]}', '{"x": ["x"]}', '{"metric_loss": {"goal": ["minimize"]}}',
    '{"metric_loss": {"goal": "minimize", "step_metric": ["x"], "summary": {}}}',
    '{"metric_loss": {"step_metric": "test/acc"}}',
    '{"metric_loss": {"goal": "maximize", "step_metric": 5}}', '{"metric_loss": ["a", "b"], "metric_x": ["a.b"]}',
    '{"sources": [1, {"file": 5}, {"entity": ["x"], "export_id": []}]}', '{"sources": {}}',
    '{"kind": "offline", "file": "\\u0000"}',
    '{"metric_loss": ["\\u001b[31m"]}',
    '{"config_lr": ["optim", "lr"], "config_k": ["optim", "k"], "metric_loss": ["test/loss"]}',
    b"\xff\xfe", b'{"metric_loss": ["\xff"]}',
]  # fmt: skip
KEYS = ["columns", "metrics", "source", "schema", "export_id", "table", "result", "histories"]


def write_file(choices: Choices, folder: Path, kind: str) -> Path:
    """A parquet file of a kind, with as many oddities as the choices say."""
    columns = dict(KINDS[kind])
    height = choices.of([3, 1, 0, 2, 6, 12])
    for _ in range(choices.of([0, 0, 1, 2, 4])):  # missing ones
        columns.pop(choices.of([*KINDS[kind]]), None)
    for _ in range(choices.of([0, 1, 0, 2, 3])):  # of another dtype, or further ones
        columns[choices.of([*ODD_NAMES, *KINDS[kind]])] = choices.of(VALUES)
    data = {}
    for name, (dtype, values) in columns.items():
        first, step = choices.number(len(values)), choices.of([1, 0, 2, 3])
        cells = [values[(first + row * step) % len(values)] for row in range(height)]
        if choices.is_so(4):
            cells = [None if row % 2 else cell for row, cell in enumerate(cells)]
        data[name] = pl.Series(name, cells, dtype=dtype, strict=False)
    if kind == "runs" and "id" in data and choices.is_so(2) is False and height:  # mostly, ids are different ones
        data["id"] = pl.Series("id", [f"r{row}" for row in range(height)])
    frame = pl.DataFrame(data)
    metadata: dict[str, Any] = {}
    if choices.is_so(2):
        for _ in range(choices.of([1, 2, 3])):
            metadata[f"wandb_tools.{choices.of(KEYS)}"] = choices.of(ODD_DOCUMENTS)
    file = folder / choices.of(
        [f"team_demo_{kind}.parquet", f"other_{kind}.parquet", f"a%2Fb_{kind}.parquet", f"{kind}.parquet"]
    )
    table = None
    if choices.is_so(6) or any(isinstance(text, bytes) for text in metadata.values()):  # as pyarrow alone can write it
        with contextlib.suppress(pl.exceptions.PolarsError, pa.ArrowException, pl.exceptions.PanicException):
            table = frame.to_arrow()
    if table is not None and frame.width:
        if choices.is_so(2):
            table = table.append_column(table.column_names[0], table.column(0))  # a name twice
        pq.write_table(table.replace_schema_metadata(metadata or None), file)
    else:
        texts = {key: text for key, text in metadata.items() if isinstance(text, str)}
        try:
            frame.write_parquet(file, metadata=texts, row_group_size=choices.of([100, 1, 2]) if height else None)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):  # no parquet file holds such values
            frame.select(pl.col(pl.String, pl.Int64, pl.Float64)).write_parquet(file, metadata=texts)
    if choices.is_so(8):
        content = bytearray(file.read_bytes())
        for _ in range(choices.of([1, 2, 8])):
            place = choices.number(256) * 256 + choices.number(256)
            # The footer is at the end, and where most damage is seen.
            place = place % len(content) if choices.is_so(2) else len(content) - 1 - place % min(len(content), 2000)
            content[place] = choices.number(256)
        if choices.is_so(4):
            del content[choices.number(256) * len(content) // 256 :]
        file.write_bytes(content)
    return file


# --- scripts --------------------------------------------------------------------------------------------------
QUESTIONS = [
    [],
    ["--schema"],
    ["--top", "3", "-m", "loss"],
    ["--group-by", "model", "-m", "loss"],
    ["--group-by", "k,state", "-m", "test/acc", "--stat", "iqm"],
    ["--group-by", "lr:3", "-m", "loss", "--ascending"],
    ["--group-by", "!seed"],
    ["--pivot", "model,k", "-m", "loss"],
    ["--varying"],
    ["--importance", "-m", "loss"],
    ["--health"],
    ["--curves", "loss"],
    ["--curves", "loss", "--group-by", "model", "--smooth", "0.5", "--best-so-far", "--x", "runtime"],
    ["--diff", "r0", "r1"],
    ["--best-per", "model", "--group-by", "model", "-m", "loss"],
    ["--sql", "SELECT * FROM runs"],
    ["--sql", "SELECT * FROM history"],
    ["--sql", "SELECT * FROM console"],
    ["--sql", "SELECT * FROM system JOIN runs ON id = run_id"],
    ["--sql", "SELECT * FROM table_t"],
    ["--where", "lr > 0", "--schema"],
    ["--where", "state = 'finished'", "--top", "2"],
    ["--filter", "a|r", "--schema"],
    ["--value", "min", "-m", "loss", "--top", "2"],
    ["-m", "x", "--descending", "--top", "1"],
    ["--group-by", "x", "-m", "x", "--ascending"],
    ["--report", "report.md"],
]
OUTPUTS = [
    ["--json"],
    [],
    ["--format", "csv"],
    ["--format", "markdown"],
    ["--format", "latex"],
    ["-o", "result.parquet"],
    ["-o", "result.csv"],
]
MERGES = [
    [],
    ["--history"],
    ["--history", "--at", "loss:min"],
    ["--keep", "all"],
    ["--partition-by", "state", "-o", "parts"],
    ["--partition-by", "config_lr,group", "-o", "parts"],
    ["--where", "config_lr > 0"],
    ["--where", "history_min_loss < 1", "--history"],
    ["--where", "created_at >= DATE '2026-01-01' AND name LIKE 'a%'"],
    ["--filter", "a|r"],
    ["--state", "finished", "--project", "t*"],
    ["--no-enrich"],
]


@contextlib.contextmanager
def in_a_folder():
    """Work in a new folder, which is removed again."""
    before, place = (
        Path.cwd(),
        Path(tempfile.mkdtemp(prefix="wandb-tools-fuzz-", dir=MEMORY if MEMORY.is_dir() else None)),
    )
    os.chdir(place)
    try:
        yield place
    finally:
        os.chdir(before)
        shutil.rmtree(place)


def run(main, *arguments: str) -> tuple[int, str, str]:
    """Run a script as the command line does: exit code, stdout, stderr. What no message foresees is a finding."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments])
    said = err.getvalue()
    assert code in {0, 1, 2, 3}, code
    assert "a bug in this script" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert bool(errors) == (code != 0 and not (code == 3 and main is analyze_runs.main)), (code, said)
    if code in {1, 2}:
        assert out.getvalue() == "", out.getvalue()[:200]
        assert main is aggregate_runs.main or len(errors) == 1, said
    if code in {0, 3} and "--json" in arguments:
        document = json.loads(out.getvalue(), parse_constant=no_json)
        assert document["version"] == 1
    is_for_people = not {"--json", "csv"} & {*arguments}
    for char in set(out.getvalue() * is_for_people) | set(said):
        assert char == "\n" or char.isprintable() or char == "\u200d", repr(char)
    return code, out.getvalue(), said


def no_json(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def fuzz_analyze(data: bytes) -> None:
    """A runs file and others beside it, of every oddity, and a question."""
    choices = Choices(data)
    with in_a_folder() as place:
        question = [*choices.of(QUESTIONS), *choices.of(OUTPUTS)]
        kinds = [
            "runs",
            *choices.of(
                [[], ["history"], ["console"], ["system"], ["table_t"], ["runs"], ["history", "history"], ["foreign"]]
            ),
        ]
        files = [write_file(choices, place, kind) for kind in kinds]
        run(analyze_runs.main, *(["."] if choices.is_so(2) else [str(files[0])]), *question)


def fuzz_aggregate(data: bytes) -> None:
    """Files of every oddity in one: each run once, and its numbers as they were."""
    choices = Choices(data)
    with in_a_folder() as place:
        flags = choices.of(MERGES)
        kinds = ["runs", *choices.of([["runs"], ["history"], [], ["console"], ["history", "runs"], ["foreign"]])]
        for number, kind in enumerate(kinds):
            (place / str(number % 2)).mkdir(exist_ok=True)
            write_file(choices, place / str(number % 2), kind)
        code, _, err = run(aggregate_runs.main, "0", "1", *([] if "-o" in flags else ["-o", "all.parquet"]), *flags)
        if code or flags not in ([], ["--no-enrich"], ["--history"]):
            return
        files = [*map(str, place.glob("[01]/*.parquet"))]
        sound = [file for file in files if aggregate_runs.read_header(file).kind == "runs"]
        read = [pl.read_parquet(file, glob=False, hive_partitioning=False) for file in sound]
        if any(frame.schema.get(name) != pl.String for frame in read for name in aggregate_runs.RUN_KEY):
            return  # numbers as text have more than one spelling
        keys = {key for frame in read for key in frame.select(aggregate_runs.RUN_KEY).rows()}
        result = pl.read_parquet("all.parquet", glob=False)
        assert {*result.select(aggregate_runs.RUN_KEY).rows()} == keys, err
        assert result.height == len(keys), err
        are_floats = all(frame.schema.get("metric_loss") == pl.Float64 for frame in (result, read[0]))
        if are_floats and len(read) == 1 and result.height == read[0].height:
            ours, theirs = ([*map(repr, frame["metric_loss"].to_list())] for frame in (result, read[0]))
            assert sorted(ours) == sorted(theirs), err
        duckdb.sql("SELECT count(*) FROM 'all.parquet'").fetchall()


def fuzz_groups(data: bytes) -> None:
    """Groups of some numbers: n, mean, standard deviation, minimum, median, maximum as plain Python has them."""
    choices = Choices(data)
    with in_a_folder() as place:
        height, groups = choices.number(30) + 1, choices.number(4) + 1
        values = [
            choices.of([None, *FLOATS[:6], 1.0, 2.0, 3.0, 1e-9, 1e9, choices.number(256) / 7]) for _ in range(height)
        ]
        by = [choices.of([None, "a", "b", "NaN"][:groups]) for _ in range(height)]
        columns = {
            "id": [f"r{n}" for n in range(height)],
            "name": "r",
            "state": "finished",
            "entity": "e",
            "project": "p",
        }
        frame = pl.DataFrame({**columns, "config_g": by, "metric_loss": pl.Series(values, dtype=pl.Float64)})
        frame = frame.with_columns(pl.lit(TIMES[0]).alias("created_at"), pl.col("config_g").cast(pl.String))
        frame.write_parquet(place / "runs.parquet")
        _, out, _ = run(analyze_runs.main, "runs.parquet", "--group-by", "g", "-m", "loss", "--json", "--quiet")
        rows = {row["config_g"]: row for row in json.loads(out)["groups"]}
        assert {*rows} == {*by}
        for group, row in rows.items():
            all_ = [value for value, of in zip(values, by, strict=True) if of == group and value is not None]
            finite = [value for value in all_ if math.isfinite(value)]
            assert (row["runs"], row["n"], row["n_nonfinite"]) == (
                by.count(group),
                len(finite),
                len(all_) - len(finite),
            )
            if not finite:
                assert row["mean"] is row["min"] is row["median"] is None
                continue
            assert (row["min"], row["max"]) == (min(finite), max(finite))
            near = {"rel_tol": 1e-9, "abs_tol": 1e-9 * max(map(abs, finite))}
            assert math.isclose(row["mean"], statistics.fmean(finite), **near), row
            assert math.isclose(row["median"], statistics.median(finite), **near), row
            if len(finite) > 1:
                assert math.isclose(row["std"], statistics.stdev(finite), rel_tol=1e-6, abs_tol=near["abs_tol"]), row


# --- what is typed --------------------------------------------------------------------------------------------
SQL_TEXT = """
    SELECT FROM WHERE runs history id name state "optim.lr" config_k metric_loss lr k 'a' '' " ' ( ) , * . ;
    -- /* */ $$ $1 ? AND OR NOT IS NULL IN BETWEEN LIKE = <> < > <= >= + - / % || :: 1 0 1.5 1e400 -1 true
    false DATE '2026-01-31'
    CAST AS INT VARCHAR TIMESTAMP count(*) max( abs( lower( coalesce( CASE WHEN THEN ELSE END COPY TO ATTACH read_text(
    read_csv( '{secret}' 'secret.csv' glob('*') COLUMNS( created_at tags [ ] { } EXISTS TABLE WITH x VALUES UNION ALL
    GROUP BY ORDER LIMIT -5 OVER DISTINCT JOIN ON USING range(9) [1,2] {'a':1} INTERVAL 1 DAY ARRAY[1] E'\\'' `a` ~ !~
    'infinity'::TIMESTAMP '290000-01-01'::TIMESTAMP 1::HUGEINT 1::VARIANT 'x'::BLOB 1::BIT uuid() 1.5::DECIMAL(38,2)
    MAP{'a':1} union_value(a:=1) 'a'::ENUM('a)','b') INF NAN current_date now() regexp_matches( STRPOS( ^ & | x -> y
"""


SQL_WORDS = SQL_TEXT.split()


def sql_of(choices: Choices) -> str:
    """Words of SQL, or any text."""
    if choices.is_so(4):
        return choices.rest().decode("utf-8", errors="replace").replace("\x00", "")
    words = []
    while choices.at < len(choices.data) and len(words) < 60:
        words.append(choices.of(SQL_WORDS))
    return " ".join(words)


def fuzz_sql(data: bytes) -> None:
    fuzz_typed(data, "--sql")


def fuzz_where(data: bytes) -> None:
    fuzz_typed(data, "--where")


def fuzz_typed(data: bytes, flag: str) -> None:
    """An SQL text: an answer or one line; no file but the inputs is read, and none is written."""
    choices = Choices(data)
    with in_a_folder() as place:
        sound = Choices(b"")
        runs = write_file(sound, place, "runs")
        write_file(Choices(b""), place, "history")
        (place / "secret.csv").write_text(f"hidden{SECRET}\n{SECRET}\n")
        contents = {file.name: file.read_bytes() for file in place.iterdir()}
        text = sql_of(choices)
        if flag == "--sql":
            _, out, err = run(analyze_runs.main, str(runs), f"--sql={text}", "--json", "--max-rows", "50")
        else:
            _, out, err = run(analyze_runs.main, str(runs), f"--where={text}", "--schema", "--json")
        if SECRET not in text:
            assert SECRET not in out + err, err
        if flag == "--where":
            run(aggregate_runs.main, str(runs), f"--where={text}", "-o", "all.parquet")
            (place / "all.parquet").unlink(missing_ok=True)
        assert {file.name: file.read_bytes() for file in place.iterdir()} == contents


RULE_TEXT = """
    [[rule]] [rule] column pattern source value dtype replace = "x" "k" "name" 'k(\\d+)' '(' '(?P<a>x)' "int" "float"
    "bool" "string" true false 1 1.5 -0.0 nan inf 2026-01-31 [1] {a=1} "" "config_lr" "tags" "metric_x" "id"
    '''(a?){1000}'''
    '(.*)' "created_at" "source_file" '(?i)(A)' '\\p{L}+(.)' '[' "wandb_tools.lower" "é" "\\u0000"
"""
RULE_WORDS = RULE_TEXT.split()


def fuzz_rules(data: bytes) -> None:
    """A rules file: columns or one line."""
    choices = Choices(data)
    if choices.is_so(4):
        content = choices.rest()
    else:
        lines = []
        while choices.at < len(choices.data) and len(lines) < 40:
            key = choices.of(["column", "pattern", "source", "dtype", "value", "[[rule]]", "replace", *RULE_WORDS])
            lines.append(key if key == "[[rule]]" else f"{key} = {choices.of(RULE_WORDS)}")
        content = "\n".join(lines).encode()
    with in_a_folder() as place:
        runs = write_file(Choices(b""), place, "runs")
        (place / "rules.toml").write_bytes(content)
        run(aggregate_runs.main, str(runs), "--rules", "rules.toml", "-o", "all.parquet")
        run(aggregate_runs.main, "--rules", "rules.toml", "--explain", "a_k4_lr1e-3", "--json")


def fuzz_names(data: bytes) -> None:
    """Names, patterns and numbers of flags, of both scripts."""
    choices = Choices(data)
    flags = [
        "--filter",
        "--metric",
        "--group-by",
        "--pivot",
        "--columns",
        "--curves",
        "--x",
        "--diff",
        "--smooth",
        "--points",
    ]
    flags += ["--top", "--max-rows", "--state", "--best-per", "--value", "--stat"]
    with in_a_folder() as place:
        runs = write_file(Choices(b""), place, "runs")
        write_file(Choices(b""), place, "history")
        texts = [
            *ODD_TEXTS[:2],
            "loss",
            "lr",
            "k:3",
            "model",
            "!seed",
            "!lr",
            "lr:99999",
            "k:0",
            "(?i",
            "[",
            "a{9999}",
            "**",
            "0.5",
            "nan",
            "-1",
            "1e9",
        ]
        texts += [
            "test/acc",
            "model,k",
            "step",
            "time",
            "r0",
            "all",
            "min",
            "mean",
            "99999999999999999999",
            "٣",
            "²",
            choices.rest()[8:40].decode("utf-8", "replace"),
        ]
        typed = [f"{choices.of(flags)}={choices.of(texts)}" for _ in range(choices.of([1, 2, 3]))]
        run(analyze_runs.main, str(runs), *(text.replace("\x00", "") for text in typed), "--json")
        flags = ["--filter", "--state", "--project", "--partition-by", "--at", "--history-metrics", "--explain"]
        typed = [f"{choices.of(flags)}={choices.of(texts)}" for _ in range(choices.of([1, 2]))]
        output = "parts" if any(text.startswith("--partition") for text in typed) else "all.parquet"
        run(aggregate_runs.main, str(runs), "--history", "-o", output, *(text.replace("\x00", "") for text in typed))


TARGETS = {
    "analyze": fuzz_analyze,
    "aggregate": fuzz_aggregate,
    "groups": fuzz_groups,
    "sql": fuzz_sql,
    "where": fuzz_where,
    "rules": fuzz_rules,
    "names": fuzz_names,
}
SEEDS = {name: lambda: [b"", *(bytes(n * k % 256 for n in range(200)) for k in (1, 3, 7, 31, 101))] for name in TARGETS}
