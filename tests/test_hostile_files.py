"""Run folders and downloads made to do harm: each costs at most its own run, in bounded time and memory."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import export_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from log_files import START, log_of, records_of, write_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done

SCRIPT = "export_runs.py"
EVERYTHING = ("--include-history", "--console", "--system-metrics", "--tables")
PLACE = {"entity": "team", "project": "demo"}
MEMORY_BYTES = 6_000_000_000  # of addresses, of which an export of nothing takes a third
NAMES = [
    "../../../up",
    "/root",
    "a\0b",
    "n" * 300,
    "\u202egnp.exe\u202c",
    "\x1b[31mred\x1b]0;title\x07",
    "[red]x[/red][link=http://x]y[/link]",
    "a\nb\r\nc",
    "--help",
    "~root",
    " ",
    "CON",
    'a:b*?"<>|',
]


@pytest.fixture
def export(script_command, tmp_path) -> Callable[..., Done]:
    """Export the folder `logs` with everything into `out`, in bounded time and memory: exit code and stderr."""

    def call(*flags: object) -> tuple[int, str]:
        command = script_command(SCRIPT, "--offline", tmp_path / "logs", "-o", tmp_path / "out", *EVERYTHING, *flags)
        bound = lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # noqa: E731
        done = subprocess.run(**command, capture_output=True, timeout=100, check=False, preexec_fn=bound)
        for line in (done.stdout + done.stderr).splitlines():
            assert line.isprintable(), line
        assert "a bug in this script" not in done.stderr
        assert "unexpected data" not in done.stderr
        return done.returncode, done.stderr

    return call


@pytest.fixture
def export_here(call_script, tmp_path) -> Callable[..., Done]:
    """The same in this process: for what is small, and costs neither time nor memory."""

    def call(*flags: object) -> tuple[int, str]:
        done = call_script(SCRIPT, "--offline", tmp_path / "logs", "-o", tmp_path / "out", *EVERYTHING, *flags)
        for line in (done.out + done.err).splitlines():
            assert line.isprintable(), line
        assert "unexpected data" not in done.err
        return done.code, done.err

    return call


def table(tmp_path: Path, name: str = "runs", stem: str = "team_demo") -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "out" / f"{stem}_{name}.parquet", glob=False)


def add_records(log: Path, *records: object) -> None:
    known = [placed.payload for placed in records_of(log.read_bytes())]
    log.write_bytes(log_of(known + [record.SerializeToString() for record in records]))


def old_folder(logs: Path, **files: str) -> Path:
    """A run's folder of an SDK before 0.10; underscores of the names stand for dots."""
    place = logs / "run-20200101_000000-old"
    place.mkdir(parents=True)
    (place / "wandb-history.jsonl").write_text('{"loss": 1}\n', "utf-8")
    for name, text in files.items():
        (place / name.replace("_", ".")).write_text(text, "utf-8")
    return place


# --- names ----------------------------------------------------------------------------------------------------


def test_names_are_data(tmp_path, export):
    """Names of entities, projects, runs, keys and W&B Tables stay what they are, and lead nowhere."""
    for number, name in enumerate(NAMES):
        entry = {"_type": "table-file", "path": "media/table/t.table.json"}
        texts = {name: "1", "text": json.dumps(name)}
        summary = {name: "2", f"t/{name}": json.dumps(entry)}
        labels = {"entity": name, "project": name, "display_name": name, "run_group": name, "notes": name}
        log = write_log(tmp_path / "logs", f"r{number}", rows=[{name: "1.5"}], config=texts, summary=summary, **labels)
        (log.parent / "files" / "media" / "table").mkdir(parents=True)
        content = json.dumps({"columns": [name], "data": [[name]]})
        (log.parent / "files" / "media" / "table" / "t.table.json").write_text(content, "utf-8")
    before = sorted(tmp_path.iterdir())
    assert export()[0] == 0
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])
    assert {file.name for file in (tmp_path / "out").iterdir() if file.is_dir()} == {".wandb_tools"}
    found = [pl.read_parquet(file, glob=False) for file in (tmp_path / "out").glob("*_runs.parquet")]
    labels = ["entity", "project", "name", "group", "notes", "config_text"]
    assert sorted(rows.select(labels).row(0) for rows in found) == sorted((name,) * 6 for name in NAMES)
    found = [pl.read_parquet(file, glob=False) for file in (tmp_path / "out").glob("*_table_*.parquet")]
    assert sorted((rows.columns[-1], rows[rows.columns[-1]][0]) for rows in found) == sorted(
        (export_runs.column_name((name,)), name) for name in NAMES
    )


def test_ids_of_runs_are_data(tmp_path, export_here):
    for number, name in enumerate(NAMES):
        log = write_log(tmp_path / "logs", f"r{number}", rows=[{"loss": "1.5"}], **PLACE)
        first, *rest = [placed.payload for placed in records_of(log.read_bytes())]
        record = export_runs.wandb_proto().Record.FromString(first)
        record.run.run_id = name
        log.write_bytes(log_of([record.SerializeToString(), *rest]))
    assert export_here()[0] == 0
    assert sorted(table(tmp_path)["id"]) == sorted(table(tmp_path, "history")["run_id"]) == sorted(NAMES)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_names_of_files_are_data(tmp_path, export_here):
    """A log whose name is all that tells its run's id."""
    names = [name for name in NAMES if not {"/", "\0"} & {*name} and len(name) < 200] + ["\udcff"]
    for number, name in enumerate(names):
        log = write_log(tmp_path / "logs", f"r{number}", rows=[{"loss": "1.5"}], **PLACE)
        payloads = [placed.payload for placed in records_of(log.read_bytes())]
        log.write_bytes(log_of(payloads[1:])[:-5])
        log.rename(log.parent / f"run-{name}.wandb")
    assert export_here("-p", "demo", "-e", "team")[0] == 0
    assert sorted(table(tmp_path)["id"]) == sorted([*names[:-1], "\ufffd"])


# --- values ---------------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def as_text(value: object) -> str:
    """The value, or its JSON: from 3.13 on, Python reads what is nested thousands of levels deep."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def test_json_nested_ten_thousand_deep(tmp_path, export):
    """A value stays text; a line of an old history and a record with a path cost themselves, and are named."""
    logs, deep = tmp_path / "logs", nested(10_000)
    write_log(logs, "config", rows=[{"loss": "1"}], config={"lr": "1", "deep": deep}, **PLACE)
    write_log(logs, "half", config={"lr": "1", "deep": nested(600)}, **PLACE)  # which some parsers read
    write_log(logs, "summary", summary={"loss": "2", "deep": deep}, **PLACE)
    write_log(logs, "row", rows=[{"loss": "1", "deep": deep, "list": "[" * 10_000 + "]" * 10_000}], **PLACE)
    log = write_log(logs, "path", rows=[{"loss": "1"}], filler_bytes=export_runs.MANY_BYTES, **PLACE)  # processes read
    record = export_runs.wandb_proto().Record(config=export_runs.wandb_proto().ConfigRecord())
    record.config.update.add(nested_key=["a"] * 10_000, value_json="1")
    add_records(log, record)
    old_folder(logs, config_yaml=f"lr: {{value: 1}}\ndeep: {deep}").joinpath("wandb-history.jsonl").write_text(
        f'{{"loss": 1}}\n{deep}\n{{"loss": 2}}\n', "utf-8"
    )
    code, said = export("-e", "team", "-p", "demo")
    assert code == 3
    assert re.search(r"run-path.wandb is damaged at record \d+: nested too deeply; the rest was read", said)
    assert "copy" not in said
    assert "is damaged at config.yaml, line 2 of wandb-history.jsonl" in said
    rows = {row["id"]: row for row in table(tmp_path).iter_rows(named=True)}
    assert rows.keys() == {"config", "half", "summary", "row", "old", "path"}
    assert as_text(json.loads(rows["config"]["_config_json"])["deep"]) == deep
    assert as_text(json.loads(rows["half"]["_config_json"])["deep"]) == nested(600)
    assert as_text(json.loads(rows["summary"]["_summary_json"])["deep"]) == deep
    assert table(tmp_path, "history").filter(run_id="row").height == 1
    assert table(tmp_path, "history").filter(run_id="old")["metric_loss"].to_list() == [1, 2]


def test_many_keys_and_a_long_config(tmp_path, export):
    for number in range(4):
        keys = {f"key {500 * number + at}": str(at) for at in range(500)}
        write_log(tmp_path / "logs", f"r{number}", rows=[keys], config=keys, summary=keys, **PLACE)
    write_log(tmp_path / "logs", "long", config={"text": json.dumps("x" * 2_000_000)}, **PLACE)
    assert export()[0] == 0
    rows = table(tmp_path)
    assert sum(name.startswith("config_key") for name in rows.columns) == 2_000
    assert rows["config_text"].str.len_chars().max() == 2_000_000
    assert table(tmp_path, "history").select(pl.col("^metric_key.*$").count()).sum_horizontal().item() == 2_000


def test_numbers_past_all_limits_and_keys_that_repeat(tmp_path, export_here):
    values = {"huge": "1e400", "minus": "-1e400", "big": str(10**30), "twice": '{"a": 1, "a": 2}'}
    write_log(tmp_path / "logs", "a", rows=[values], config=values, summary=values, **PLACE)
    assert export_here()[0] == 0
    metrics = {"metric_huge": float("inf"), "metric_minus": -float("inf"), "metric_big": 1e30, "metric_twice_a": 2}
    (row,) = table(tmp_path).iter_rows(named=True)
    assert {name: row[name] for name in metrics} == metrics
    assert (row["config_big"], row["config_huge"], row["config_twice_a"]) == (1e30, "Infinity", 2)
    assert json.loads(row["_config_json"])["big"] == 10**30
    (row,) = table(tmp_path, "history").iter_rows(named=True)
    assert {name: row[name] for name in metrics} == metrics


def test_a_run_at_the_end_of_the_calendar(tmp_path, export_here):
    started_at = datetime(9999, 12, 31, tzinfo=UTC)
    write_log(tmp_path / "logs", "a", started_at=started_at, runtime_s=2**31 - 1, **PLACE)
    assert export_here()[0] == 0
    assert table(tmp_path)["heartbeat_at"].to_list() == [started_at]


def test_lists_where_objects_belong(tmp_path, export_here):
    """A summary or notes of a machine that are no objects are none; a config or a line is named."""
    place = old_folder(tmp_path / "logs", config_yaml="[1, 2]")
    for name in ("wandb-summary.json", "wandb-metadata.json"):
        (place / name).write_text("[1, 2]", "utf-8")
    (place / "wandb-history.jsonl").write_text('{"loss": 1}\n[1]\n"x"\nnull\n{"loss": 2}\n', "utf-8")
    code, said = export_here()
    assert code == 3
    assert "config.yaml, line 2 of wandb-history.jsonl, line 3 of wandb-history.jsonl" in said
    assert table(tmp_path, stem="offline_uncategorized")["metric_loss"].to_list() == [2]


@pytest.mark.parametrize(
    "text",
    [
        "b0: &b0 [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "b0: &b0 {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
        "a: &a [*a]\n",
    ],
    ids=["aliases", "merge keys", "a circle"],
)
def test_yaml_that_refers_to_itself(tmp_path, export, text):
    """A few lines that stand for 10**11 values: the config is named as unreadable, the rest is there."""
    old_folder(tmp_path / "logs", config_yaml=text)
    code, said = export()
    assert (code, "is damaged at config.yaml; the rest was read" in said) == (3, True)
    assert table(tmp_path, "history", "offline_uncategorized")["metric_loss"].to_list() == [1]


def test_yaml_that_repeats_a_little(tmp_path, export_here):
    """The SDK writes a list that stands in two places once, and refers to it."""
    old_folder(tmp_path / "logs", config_yaml="a: &id001\n- 1\n- 2\nb: *id001\n")
    assert export_here()[0] == 0
    assert table(tmp_path, stem="offline_uncategorized").select("config_a", "config_b").row(0) == ("[1, 2]", "[1, 2]")


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_not_read(tmp_path, export):
    """They would never end: they are named where they stand for a log, and passed over beside one."""
    logs = tmp_path / "logs"
    files = write_log(logs, "good", rows=[{"loss": "1"}], **PLACE).parent / "files"
    files.mkdir()
    os.mkfifo(files / "output.log")
    os.mkfifo(files / "wandb-summary.json")
    (files / "wandb-metadata.json").symlink_to("/dev/zero")
    (logs / "pipe").mkdir()
    os.mkfifo(logs / "pipe" / "run-pipe.wandb")
    place = old_folder(logs)
    for name in ("wandb-history.jsonl", "wandb-metadata.json", "wandb-summary.json", "config.yaml"):
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to("/dev/zero")
    code, said = export("-e", "team", "-p", "demo")
    assert code == 3
    assert "pipe/run-pipe.wandb: cannot be read: it is not a regular file" in said
    assert "old: cannot be read: it is not a regular file" in said
    assert table(tmp_path, "history")["run_id"].to_list() == ["good"]


def test_tables_whose_names_lead_elsewhere(tmp_path, export_here):
    """A name that leaves the run's folder is no table; links are followed, but what is no table tells nothing."""
    logs = tmp_path / "logs"
    (tmp_path / "secret").write_text("a secret", "utf-8")
    (tmp_path / "secret.json").write_text('{"columns": ["n"], "data": [["a secret"]]}', "utf-8")
    paths = [
        "../../../secret.json",
        str(tmp_path / "secret.json"),
        "..\\secret.json",
        "a\0b",
        "n" * 300,
        "",
        ".",
        "pipe",
    ]
    for number, path in enumerate([*paths, "circle", "link", "\x1b[31m\u202e"]):
        entry = json.dumps({"_type": "table-file", "path": path})
        files = write_log(logs, f"r{number}", summary={"t": entry}, **PLACE).parent / "files"
        files.mkdir()
    if hasattr(os, "mkfifo"):
        for place in logs.glob("*/files"):
            os.mkfifo(place / "pipe")
            (place / "circle").symlink_to("circle")
            (place / "link").symlink_to(tmp_path / "secret")
    code, said = export_here()
    assert code == 3
    assert "secret" not in said
    assert len(table(tmp_path)) == len(paths) + 3
    for file in (tmp_path / "out").iterdir():
        assert file.is_dir() or b"a secret" not in file.read_bytes()


def test_output_in_many_pieces(tmp_path, export):
    """Dots without an end of their line, and a long line that is overwritten again and again."""
    log = write_log(tmp_path / "logs", "a", **PLACE)
    proto = export_runs.wandb_proto()
    dot = proto.Record(output_raw=proto.OutputRawRecord(line="."))
    overwritten = proto.OutputRawRecord(line="\n" + "x" * 200_000 + "\rab" * 200_000 + "\n")
    bar = [proto.Record(output_raw=proto.OutputRawRecord(line=f"\r{at}")) for at in range(3_000)]
    add_records(log, *[dot] * 50_000, proto.Record(output_raw=overwritten), *bar)
    assert export()[0] == 0
    assert table(tmp_path, "console")["text"].to_list() == ["." * 50_000, "ab" + "x" * 199_998, "2999"]


# --- downloads ------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(empty_server, call_export, tmp_path):
    for run_id in ("a", "bad", "c"):
        empty_server.add_run("team", "demo", run_id, summary={"loss": 1.0})
        empty_server.add_history("team", "demo", run_id, rows=[{"_step": n, "loss": n / 2} for n in range(3)])

    def call(*flags: object) -> Done:
        place = ("team/demo", "-o", tmp_path / "out", "--include-history", "--timeout", 10, "--retries", 1)
        return call_export(*place, *flags, env=empty_server.environment(tmp_path / "sdk"))

    return call


def download_of(server: object, run_id: str) -> Path:
    return server.store.run("team", "demo", run_id).history.exports[0].file


def test_a_small_download_that_stands_for_much(empty_server, ask, tmp_path):
    """A history of far more rows than the server counts is refused before they are read."""
    file = download_of(empty_server, "bad")
    pl.LazyFrame().select(pl.repeat(0, 20_000_000).alias("_step"), loss=pl.lit(0.5)).sink_parquet(file)
    assert file.stat().st_size < 200_000
    done = ask()
    assert done.code == 3
    assert "bad: history: an export has 20,000,000 rows, far more than the server counts" in done.err
    assert table(tmp_path, "history")["run_id"].unique().sort().to_list() == ["a", "c"]


def test_a_damaged_download_of_a_long_history(empty_server, ask, tmp_path):
    """Its rows are written as they are read: what breaks then is the file, not the disk."""
    count = 600_000
    empty_server.store.run("team", "demo", "bad").history.exports.clear()
    long = tmp_path / "long.parquet"
    columns = {"_step": pl.int_range(count), "loss": pl.int_range(count) / 7, "acc": pl.int_range(count) / 3}
    pl.select(**columns).write_parquet(long, compression="uncompressed", row_group_size=50_000)
    empty_server.store.run("team", "demo", "bad").history.add_export(long)
    content = bytearray(long.read_bytes())
    at = pq.read_metadata(long).row_group(5).column(1).data_page_offset  # of the loss: the steps are whole
    content[at : at + 30] = b"\xff" * 30
    download_of(empty_server, "bad").write_bytes(content)
    done = ask()
    assert done.code == 3, done.err
    assert "bad: history: the download is incomplete or damaged" in done.err
    assert table(tmp_path, "history")["run_id"].unique().sort().to_list() == ["a", "c"]


# --- what is typed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://["], "http://[ is not a URL"),
        (["--where", nested(200_000)], "must be a JSON object"),
        (["--since", "9999-12-31T23:59-12:00"], "is not a time"),
        (["--state", "\x1b[31m\u202ered"], "no such state"),
    ],
)
def test_odd_arguments_are_wrong_usage(call_export, arguments, said):
    done = call_export(*arguments)
    assert (done.code, said in done.err) == (2, True), done.err
    assert done.err.removesuffix("\n").isprintable()


def test_times_long_ago():
    assert export_runs.iso(export_runs.moment("0001-01-01")) == "0001-01-01T00:00:00.000000Z"
    assert export_runs.iso(START) == "2026-01-01T00:00:00.000000Z"


def test_an_odd_owner_of_an_earlier_file_is_another_one(call_export, tmp_path):
    write_log(tmp_path / "runs", "a", entity="team", project="demo")
    (tmp_path / "out").mkdir()
    odd = {"wandb_tools.source": '{"entity": "team", "project": ["demo"]}'}
    pl.DataFrame({"id": ["b"]}).write_parquet(tmp_path / "out/team_demo_runs.parquet", metadata=odd)
    done = call_export("--offline", tmp_path / "runs", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "out/team_demo__" in done.out
