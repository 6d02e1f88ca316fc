"""What export_runs reads: logs, folders of old SDKs, W&B Tables, downloaded histories, and what is typed.

Most targets compare with a few lines of the plainest code that gives the same values.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import export_runs
import log_files
import polars as pl

SEPARATOR = b"\n=====\n"  # of the parts of an input
EVERYTHING = ("--include-history", "--console", "--system-metrics", "--tables")
MEMORY = Path("/dev/shm")  # faster than a disk, where there is one

export_runs.import_libraries()


@contextlib.contextmanager
def folder():
    place = Path(tempfile.mkdtemp(prefix="wandb-tools-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def export(runs: Path, out: Path, *, is_ours: bool = True) -> int:
    """Export run folders as the command line does: exit code. What no message foresees is a finding.

    `is_ours`: whatever `out` holds was made by export_runs.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = export_runs.main(["--offline", str(runs), "-o", str(out), *EVERYTHING])
    gc.enable()
    assert "a bug in this script" not in said.getvalue(), said.getvalue()
    assert not is_ours or "unexpected data" not in said.getvalue(), said.getvalue()
    assert code in {0, 1, 3}, code
    if code != 1:
        for file in [*out.glob("*_runs.parquet"), *out.glob("*.parquet")]:
            pl.read_parquet(file, glob=False)
        for file in out.glob("*_metadata.json"):
            json.loads(file.read_text("utf-8"), parse_constant=no_json)
    return code


def no_json(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def plain_json(text: str) -> object:
    """The value of a JSON text by the standard library alone; None where it is none."""
    try:
        return json.loads(text, strict=False)  # control characters in texts are taken, as by the SDK
    except (ValueError, RecursionError):
        return None


def same(ours: object, truth: object) -> bool:
    """Whether two numbers are one, whatever their dtype."""
    if isinstance(ours, float) and math.isnan(ours):
        return isinstance(truth, float) and math.isnan(truth)
    return ours == truth


def as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


# --- logs -----------------------------------------------------------------------------------------------------


def bytes_of_a_log(data: bytes) -> None:
    """The reader of blocks: what it gives, written anew, is read as the same."""
    log = export_runs.Log(Path("run-a.wandb"))
    payloads = [*export_runs.log_records(io.BytesIO(data), log)]
    again = export_runs.Log(Path("run-a.wandb"))
    assert [*export_runs.log_records(io.BytesIO(log_files.log_of(payloads)), again)] == payloads
    assert (again.damage, again.error, again.torn) == ([], "", not payloads)
    if data.startswith(log_files.HEADER) and not (log.damage or log.error or log.torn):
        assert payloads == [placed.payload for placed in log_files.records_of(data)]


def records_of_a_log(data: bytes) -> None:
    """A whole export of a log of these records, whose checksums are right."""
    with folder() as place:
        run = place / "offline-run-20260101_000000-a"
        run.mkdir()
        (run / "run-a.wandb").write_bytes(log_files.log_of(data.split(SEPARATOR)))
        export(place, place / "out")


def logs() -> list[bytes]:
    with folder() as place:
        rows = [{"loss": "0.5", "acc": "1", "name": '"text"', "nan": "NaN"}, {"loss": "Infinity"}]
        log = log_files.write_log(
            place,
            "a",
            rows=rows,
            config={"lr": "0.1", "model": '{"k": [16, {"a": null}]}'},
            summary={"loss": "0.25", "table": '{"_type": "table-file", "path": "media/table/a.table.json"}'},
            entity="team",
            project="demo",
            display_name="name",
            tags=["one"],
        )
        proto = export_runs.wandb_proto()
        others = [
            proto.Record(output_raw=proto.OutputRawRecord(line="50%\r100%\n", output_type=1)),
            proto.Record(stats=proto.StatsRecord(item=[proto.StatsItem(key="cpu", value_json="3.5")])),
            proto.Record(metric=proto.MetricRecord(name="loss", goal=1, step_metric="epoch")),
            proto.Record(environment=proto.EnvironmentRecord(os="Linux", writer_id="w", program="train.py")),
        ]
        others[1].stats.timestamp.FromDatetime(log_files.START)
        payloads = [placed.payload for placed in log_files.records_of(log.read_bytes())]
    payloads += [record.SerializeToString() for record in others]
    return [SEPARATOR.join(payloads), SEPARATOR.join(payloads[:1] + payloads[-3:])]


def whole_logs() -> list[bytes]:
    return [log_files.log_of(payloads.split(SEPARATOR)) for payloads in logs()] + [log_files.log_of([b"x" * 70_000])]


# --- rows of histories ----------------------------------------------------------------------------------------


def rows_of_a_history(data: bytes) -> None:
    """JSON lines as rows of a log, of an old folder and of a server's answer: all give the plain numbers."""
    rows = rows_in(data)
    for step, row in enumerate(rows):
        row |= {"_step": step, "_timestamp": 1_767_225_600 + step}
    truth = [plain_numbers(row) for row in rows]

    texts = [json.dumps(row) for row in rows]
    keys: set = set()
    answer = export_runs.rows_of_json([export_runs.as_row(text) for text in texts], (), keys)
    compare(answer, truth)

    options = export_runs.parse_args(["--offline", ".", "--include-history"])
    with folder() as place:
        old = place / "run-20200101_000000-a"
        old.mkdir()
        (old / "wandb-history.jsonl").write_text("".join(f"{text}\n" for text in texts), "utf-8")
        log = log_of_rows(place, rows)
        for file in (old / "wandb-history.jsonl", log):
            made, *_ = export_runs.read_logs([file], place, options)
            assert not made.damage, made.damage
            assert not made.error, made.error
            frames = [pl.read_parquet(part.file) for part in made.rows["history"].parts]
            compare(pl.concat(map(by_path, frames), how="diagonal_relaxed") if frames else pl.DataFrame(), truth)


def rows_in(data: bytes) -> list[dict]:
    """The objects among an input's lines, without halves of surrogate pairs, which logs hold differently."""
    rows = [plain_json(line) for line in data.decode("utf-8", "replace").splitlines()]
    whole = [plain_json(export_runs.storable(json.dumps(row, ensure_ascii=False))) for row in rows]
    return [row for row in whole if isinstance(row, dict)]


def is_media(value: dict[str, object]) -> bool:
    """Whether the value's `_type` is text; W&B's JSON spells numbers that are not finite as text."""
    kind = value.get("_type")
    return isinstance(kind, str) or (isinstance(kind, float) and not math.isfinite(kind))


def plain_numbers(tree: dict, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], float]:
    """The numbers of a row or summary by their paths, as the README says; W&B's own keys are none."""
    numbers: dict[tuple[str, ...], float] = {}
    for key, value in tree.items():
        path = (*above, key)
        if not above and key.startswith("_"):
            continue
        if isinstance(value, dict):
            numbers |= {} if is_media(value) else plain_numbers(value, path)
        elif isinstance(value, bool | int | float):
            numbers[path] = int(value) if isinstance(value, bool) else value
        elif value in ("NaN", "Infinity", "-Infinity"):
            numbers[path] = float(value)
    return numbers


def by_path(part: pl.DataFrame) -> pl.DataFrame:
    """The columns of a part file without the dtypes in their names."""
    logged = {name: dtype for name, dtype in part.schema.items() if name.startswith("[")}
    return part.rename({name: name.removesuffix(str(dtype)) for name, dtype in logged.items()})


def compare(frame: pl.DataFrame, truth: list[dict[tuple[str, ...], float]]) -> None:
    """Whether rows hold these numbers and no others; whole ones exactly where their column is whole."""
    paths = {tuple(json.loads(name)): name for name in frame.columns if name.startswith("[")}
    filled = {path for path, name in paths.items() if frame[name].null_count() < frame.height}
    assert filled == {path for row in truth for path in row}, filled
    for number, row in enumerate(truth):
        for path, value in row.items():
            ours = frame[paths[path]][number]
            wanted = value if isinstance(ours, int) else as_float(value)
            assert same(ours, wanted), (path, ours, value)
        for path in filled - row.keys():
            assert frame[paths[path]][number] is None, (path, number)


def log_of_rows(place: Path, rows: list[dict]) -> Path:
    """A log with these rows, nested metrics as the SDK writes them: an item for each leaf."""
    proto = export_runs.wandb_proto()

    def items(tree: dict, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
        found = []
        for key, value in tree.items():
            is_inner = isinstance(value, dict) and value and not is_media(value)
            found += items(value, (*above, key)) if is_inner else [((*above, key), json.dumps(value))]
        return found

    records = [proto.Record(run=proto.RunRecord(run_id="b"))]
    for row in rows:
        record = proto.Record(history=proto.HistoryRecord(step=proto.HistoryStep(num=row["_step"])))
        for path, text in items(row):
            record.history.item.add(nested_key=map(export_runs.storable, path), value_json=text)
        records.append(record)
    run = place / "offline-run-20260101_000000-b"
    run.mkdir()
    (run / "run-b.wandb").write_bytes(log_files.log_of([record.SerializeToString() for record in records]))
    return run / "run-b.wandb"


def histories() -> list[bytes]:
    rows = [
        {"loss": 0.5, "acc": 1, "flag": True, "nan": math.nan, "text": "NaN"},
        {"loss": -math.inf, "acc": 2**53 + 1, "big": 10**30, "list": [1, 2], "none": None},
        {"val": {"acc": 0.5, "deep": {"x": 1}}, "image": {"_type": "image-file", "n": 3}, "empty": {}},
    ]
    return ["\n".join(map(json.dumps, rows)).encode(), b'{"a": 1e400, "b": 0.1, "b": 2}\n{"a": -0.0}']


# --- configs and summaries ------------------------------------------------------------------------------------


def config_and_summary(data: bytes) -> None:
    """A config and a summary as a server sends them: columns hold the plain values, the texts the same JSON."""
    texts = [part.decode("utf-8", "replace") for part in [*data.split(SEPARATOR), b""][:2]]
    node = dict.fromkeys(("displayName", "state", "createdAt", "heartbeatAt", "historyLineCount", "tags", "group"))
    node |= dict.fromkeys(("job_type", "sweep", "notes", "commit", "user"))
    node |= {"name": "a", "config": texts[0], "summaryMetrics": texts[1]}
    failed: list[export_runs.Failure] = []
    run = export_runs.run_of_node(node, export_runs.Project("team", "demo"), "https://example.org", failed)
    trees = [plain_json(text or "{}") for text in texts]
    config, summary = ({} if tree is None else tree for tree in trees)
    wrong = {failure.what for failure in failed}
    if isinstance(config, dict) and "config" not in wrong:
        config = {key: value["value"] if is_wrapped(value) else value for key, value in config.items()}
        config = {key: value for key, value in config.items() if key not in ("_wandb", "wandb_version")}
        assert json.loads(run.row["_config_json"], parse_constant=no_json) == strict(config)
    if isinstance(summary, dict) and "summaryMetrics" not in wrong:
        ours = {path[1:]: value for path, value in run.leaves if path[0] == "metric_"}
        truth = plain_numbers(summary)
        assert ours.keys() == truth.keys(), ours.keys() ^ truth.keys()
        assert all(same(as_float(ours[path]), as_float(truth[path])) for path in truth), (ours, truth)
    with folder() as place:
        page = export_runs.write_page([run], place)
        frame = pl.read_parquet(page.file)
        for path, value in run.leaves:
            if value is not None and isinstance(value, int | float):
                ours = frame[export_runs.column_key(path)][0]
                assert same(ours, value) or same(ours, as_float(value)) or ours == json.dumps(value), (
                    path,
                    ours,
                    value,
                )


def is_wrapped(value: object) -> bool:
    return isinstance(value, dict) and value.keys() in ({"value"}, {"value", "desc"})


def strict(value: object) -> object:
    """A value as strict JSON has it: what is no finite number is text, halves of surrogate pairs as they are."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def configs() -> list[bytes]:
    config = {"lr": {"value": 0.1}, "k": {"value": {"a": [1, None, math.inf]}, "desc": None}, "_wandb": {"value": {}}}
    summary = {"loss": 0.5, "val": {"acc": 1, "nan": "NaN"}, "_step": 9, "_wandb": {"runtime": 3}, "big": 10**30}
    return [json.dumps(config).encode() + SEPARATOR + json.dumps(summary).encode(), b"{}" + SEPARATOR + b"null"]


# --- W&B Tables -----------------------------------------------------------------------------------------------


def table_file(data: bytes) -> None:
    """The file of a W&B Table: its values, or a ValueError where it holds no table."""
    try:
        frame = export_runs.table_rows(data)
    except (ValueError, RecursionError):
        return
    tree = json.loads(data, strict=False)
    names, rows = tree["columns"], tree["data"]
    assert frame.height == len(rows)
    assert frame.width == 1 + len(names)
    for number, name in enumerate(frame.columns[1:]):
        for row, ours in zip(rows, frame[name], strict=True):
            value = row[number]
            if isinstance(value, str) and ours != value:
                assert export_runs.storable(value) == ours or same(ours, float(value)), (ours, value)
            elif isinstance(value, bool) or value is None:
                assert ours is value or ours == json.dumps(value), (ours, value)
            elif isinstance(value, int | float):
                assert same(ours, value) or same(ours, as_float(value)) or isinstance(ours, str), (ours, value)
    with folder() as place:
        frame.write_parquet(place / "table.parquet")


def tables() -> list[bytes]:
    rows = [[1, "text", True, None, [1, {"a": 2}]], [2.5, "NaN", False, None, {"_type": "image"}]]
    plain = {"columns": ["n", "t", "b", "none", 5], "data": rows}
    numbers = {"columns": ["a", "a"], "data": [[math.nan, 10**30], [-math.inf, 2**63]]}
    return [json.dumps(table).encode() for table in (plain, numbers, {"columns": [], "data": []})]


# --- downloaded histories -------------------------------------------------------------------------------------


def downloaded_history(data: bytes) -> None:
    """A part of a history as W&B exports it, whose columns are these lists: the plain numbers."""
    tree = plain_json(data.decode("utf-8", "replace"))
    try:
        frame = pl.DataFrame({"_step": range(3)} | {key: values for key, values in tree.items() if key[:1] != "_"})
        frame = frame.with_columns(_step=pl.int_range(pl.len()))
    except Exception:  # noqa: BLE001 - polars makes no columns of this
        return
    with folder() as place:
        try:
            frame.write_parquet(place / "part.download")
        except Exception:  # noqa: BLE001
            return
        skipped: set = set()
        scan = pl.scan_parquet(place / "part.download", glob=False)
        rows = export_runs.export_rows(scan, [("val", "acc")], (), skipped)
        history = export_runs.RunRows(frame=rows)
        export_runs.write_parts({"a": history}, place)
        ours = by_path(pl.read_parquet(history.parts[0].file)) if history.parts else pl.DataFrame()
    for name, dtype in frame.schema.items():
        if (dtype.is_integer() or dtype.is_float() or dtype == pl.Boolean) and name[:1] != "_" and "." not in name:
            kept = ours[export_runs.column_key((name,))]
            logged = frame[name]
            if dtype in (pl.UInt64, pl.Int128, pl.UInt128):  # may be past Int64
                logged = logged.cast(pl.Float64)
            assert all(map(same_or_null, kept, logged)), (name, kept, logged)


def same_or_null(ours: object, truth: object) -> bool:
    return ours is truth if ours is None or truth is None else same(ours, truth)


def downloads() -> list[bytes]:
    columns = {
        "_timestamp": [1.5, 2.5, None],
        "loss": [0.5, None, math.nan],
        "n": [2**62, 1, None],
        "b": [True, False, None],
    }
    columns |= {"text": ["NaN", "a", None], "val": [{"acc": 1, "deep": {"x": 0.5}}] * 3, "image._type": ["image"] * 3}
    return [json.dumps(columns).encode(), b'{"val.acc": [1, 2, 3], "list": [[1], [2], []], "none": [null, null, null]}']


# --- old folders ----------------------------------------------------------------------------------------------

OLD_FILES = ("wandb-history.jsonl", "config.yaml", "wandb-summary.json", "wandb-metadata.json", "wandb-events.jsonl")
OLD_FILES += ("output.log", "media/table/a.table.json")


def old_folder(data: bytes) -> None:
    """A whole export of a folder of an SDK before 0.10, whose files are the input's parts."""
    with folder() as place:
        run = place / "run-20200101_000000-a"
        (run / "media" / "table").mkdir(parents=True)
        for name, part in zip(OLD_FILES, data.split(SEPARATOR), strict=False):
            (run / name).write_bytes(part)
        export(place, place / "out")


def old_folders() -> list[bytes]:
    table = {"table": {"_type": "table-file", "path": "media/table/a.table.json"}}
    parts = [
        b"\n".join(json.dumps({"loss": 0.5, "_step": step, "_runtime": 1.5}).encode() for step in range(3)) + b"\n",
        b"lr:\n  desc: null\n  value: 0.1\nwandb_version: 1\nk: {value: {a: [1, 2]}}\n",
        json.dumps({"loss": 0.25, "_step": 2, **table}).encode(),
        json.dumps({"startedAt": "2020-01-01T00:00:00", "args": ["--x"], "exitcode": 0, "state": "finished"}).encode(),
        json.dumps({"system.cpu": 3.5, "_timestamp": 1_577_836_800}).encode() + b"\n",
        b"one\n\x1b[31mtwo\x1b[0m\n50%\r100%\n",
        tables()[0],
    ]
    return [SEPARATOR.join(parts), SEPARATOR.join(parts[:3])]


# --- files of an earlier export -------------------------------------------------------------------------------


def earlier_export(data: bytes) -> None:
    """An export into a folder whose runs file says these things of itself: goes on from it, or says what to do."""
    texts = [part.decode("utf-8", "replace") for part in [*data.split(SEPARATOR), *[b""] * 6][:6]]
    with folder() as place:
        log_files.write_log(place / "runs", "a", rows=[{"loss": "0.5"}], entity="team", project="demo")
        (place / "out").mkdir()
        columns = {"id": ["b"], "history_rows": [1], "config_lr": [0.5], "metric_loss": [1]}
        columns |= {"_config_json": [texts[0]], "_summary_json": [texts[1]]}
        told = {f"wandb_tools.{name}": text for name, text in zip(TOLD, texts[2:], strict=True)}
        pl.DataFrame(columns).write_parquet(place / "out" / "team_demo_runs.parquet", metadata=told)
        export(place / "runs", place / "out", is_ours=False)


TOLD = ("columns", "source", "metrics", "histories")  # in the metadata of our parquet files


def metadata_file(data: bytes) -> None:
    """--verify with this metadata."""
    with folder() as place:
        (place / "team_demo_metadata.json").write_bytes(data)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = export_runs.main(["--verify", str(place)])
        assert code in {0, 3}, said.getvalue()


def earlier_exports() -> list[bytes]:
    parts = [
        b'{"lr": 0.5, "m": {"k": [1]}}',
        b'{"loss": 1, "_step": 3}',
        b'{"config_lr": ["lr"], "metric_loss": ["loss"]}',
        b'{"entity": "team", "project": "demo"}',
        b'{"metric_loss": {"goal": "minimize", "summary": "min", "step_metric": null}}',
        b'{"keys": [], "runs": {"b": ["1", ""]}}',
    ]
    return [SEPARATOR.join(parts), SEPARATOR.join(parts[:2])]


def metadata_files() -> list[bytes]:
    with folder() as place:
        log_files.write_log(place / "runs", "b", rows=[{"loss": "0.5"}], entity="team", project="demo")
        export(place / "runs", place / "out")
        return [(place / "out" / "team_demo_metadata.json").read_bytes()]


# --- what is typed, and what is printed -----------------------------------------------------------------------


def command_line(data: bytes) -> None:
    """A time, a filter and a place as they are typed: what they mean, or a usage error."""
    text = data.decode("utf-8", "replace").replace("\0", "")
    with contextlib.suppress(argparse.ArgumentTypeError):
        moment = export_runs.moment(text)
        assert moment.tzinfo is UTC
        assert datetime.strptime(export_runs.iso(moment), "%Y-%m-%dT%H:%M:%S.%f%z") == moment
    for argument in (["--since", text], ["--where", text], ["--history-samples", text], ["-p", text], [text]):
        try:
            options = export_runs.parse_args(argument)
            export_runs.filters_of([export_runs.Place("team", "demo")], options.selection)
        except export_runs.ScriptError as error:
            if error.exit_code != export_runs.WRONG_USAGE:
                raise
        except SystemExit:  # --help
            return


def typed() -> list[bytes]:
    return [
        b"7d",
        b"2026-01-15T12:00:00+02:00",
        b'{"config.lr": {"$gt": 0.01}}',
        b"team/demo",
        b"https://wandb.ai/a/b/runs/c",
    ]


def console_text(data: bytes) -> None:
    """Output in pieces: lines as the plainest terminal shows them."""
    text = data.decode("utf-8", "replace")
    for line in text.split("\n"):
        shown: list[str] = []
        at = 0
        for character in export_runs.ESCAPE.sub("", line):
            if character == "\r":
                at = 0
            elif character == "\b":
                at = max(at - 1, 0)
            else:
                shown[at : at + 1] = [character]
                at += 1
        if not re.search(r"\x1b\[[02]?K", line):  # erases, which is too much for this terminal
            assert export_runs.as_shown(line) == export_runs.storable("".join(shown).rstrip(" ")), line
    assert export_runs.printable(text).isprintable() or "\u200d" in text
    with folder() as place:
        options = export_runs.parse_args(["--offline", ".", "--console"])
        rows = export_runs.LogRows(place, options)
        log = export_runs.Log(place / "run-a.wandb")
        rows.start(log)
        for piece in text.split("|"):
            rows.add_output(piece, (0, 0), "stdout")
        rows.end()
        rows.write_buffer()
        frames = [pl.read_parquet(part.file) for part in log.rows["console"].parts]
        ours = frames[0]["text"].to_list() if frames else []
        whole = text.replace("|", "").rstrip("\r\n\b")  # empty lines count once something follows
        lines = whole.split("\n")
        moves = ("\x1b[A", "\x1b[B")  # of the cursor to other lines; it reaches the last ones alone
        if not any(move in whole for move in moves) and not re.search(r"(\n[\r\b]*){32}", whole):
            assert ours == [export_runs.as_shown(line) for line in lines] * (lines != [""])


def outputs() -> list[bytes]:
    return [
        b"one\ntwo\n",
        b"  0%\r 50%\r100% done\r\n",
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07",
        b"a|b|c\n|d",
        b"10%\b\b\b20%\b\b\x07\n",
        b"a\n\rb|\x1b[A\ra\n|\n\n",
    ]


TARGETS = {
    "log_bytes": bytes_of_a_log,
    "log": records_of_a_log,
    "history_rows": rows_of_a_history,
    "config": config_and_summary,
    "table": table_file,
    "history_parquet": downloaded_history,
    "old_folder": old_folder,
    "earlier_export": earlier_export,
    "metadata": metadata_file,
    "command_line": command_line,
    "console": console_text,
}
SEEDS = {
    "log_bytes": whole_logs,
    "log": logs,
    "history_rows": histories,
    "config": configs,
    "table": tables,
    "history_parquet": downloads,
    "old_folder": old_folders,
    "earlier_export": earlier_exports,
    "metadata": metadata_files,
    "command_line": typed,
    "console": outputs,
}
