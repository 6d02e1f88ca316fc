"""Logs as files: whole, cut off, damaged, foreign; several logs of one run; what a log holds."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import export_runs
import log_files
import polars as pl
import pytest
from exports import (  # noqa: F401 - fixtures
    EXAMPLE_LOGS,
    ROW_TEXTS,
    add_log,
    demo_project,
    export_of_logs,
    exported,
    facts_of,
    metadata_of,
    out_folder,
    paths_of,
    read_alone,
    repr_of,
    rows_alone,
    two_logs,
    without_times,
)
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from log_files import BLOCK, HEADER, START, log_of, records_of, write_log

# --- bytes to records -----------------------------------------------------------------------------------------

EDGES = [0, 1, BLOCK - 7 - 7, BLOCK - 7 - 6, BLOCK - 7 - 1, BLOCK - 7, BLOCK, 2 * BLOCK, 100_000]
SIZES = st.one_of(st.integers(0, 40), st.sampled_from(EDGES), st.integers(0, 100_000))


@st.composite
def genuine_logs(draw) -> bytes:
    """A log that the SDK recorded, or one of random records; neither torn."""
    if draw(st.booleans()):
        log = draw(st.sampled_from(EXAMPLE_LOGS)).read_bytes()
        return log[: records_of(log)[-1].end]
    noise = random.Random(draw(st.integers(0, 2**32)))
    return log_of([noise.randbytes(size) for size in draw(st.lists(SIZES, max_size=8))])


def read(content: bytes) -> tuple[list[bytes], export_runs.Log]:
    log = export_runs.Log(Path("run-a.wandb"))
    return list(export_runs.log_records(io.BytesIO(content), log)), log


def is_log(records: list[bytes], log: export_runs.Log) -> bool:
    return bool(records or log.torn or log.damage)


def payloads(placed: list[log_files.Placed]) -> list[bytes]:
    return [each.payload for each in placed]


def is_subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def place(draw, log: bytes) -> int:
    """Any byte of a log, with a bent for its beginning, its end and the ends of blocks."""
    edges = [
        0,
        len(HEADER),
        len(log) - 1,
        *(each for block in range(BLOCK, len(log), BLOCK) for each in (block - 1, block)),
    ]
    near = st.sampled_from(edges).flatmap(lambda edge: st.integers(edge - 12, edge + 12))
    return min(max(draw(st.one_of(near, st.integers(0, len(log) - 1))), 0), len(log) - 1)


@given(genuine_logs())
def test_whole_log(log):
    records, found = read(log)
    assert records == payloads(records_of(log))
    assert (found.torn, found.damage) == (len(log) == len(HEADER), [])


@given(st.lists(st.one_of(SIZES, st.integers(BLOCK - 30, BLOCK + 10)), min_size=1, max_size=8))
@example([0, BLOCK - 27, 0])
def test_whole_log_of_an_old_core(sizes):
    """The Go core of SDK 0.17.0 to 0.17.5 counted the blocks from behind the header."""
    starts = itertools.accumulate((7 + size for size in sizes), initial=len(HEADER))
    assume((BLOCK, 0) not in zip(starts, sizes, strict=False))  # it may belong to either block; the SDK writes none
    written = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    records, found = read(log_of(written, counted_from=len(HEADER)))
    assert (records, found.torn, found.damage) == (written, False, [])


def test_damaged_log_of_an_old_core():
    written = [bytes([number]) * 20_000 for number in range(8)]
    log = bytearray(log_of(written, counted_from=len(HEADER)))
    log[20] ^= 1
    records, found = read(bytes(log))
    assert (records, found.torn, found.damage) == (written[1:], False, ["byte 7"])


@given(genuine_logs(), st.data())
def test_log_cut_anywhere(log, data):
    cut = place(data.draw, log)
    records, found = read(log[:cut])
    placed = records_of(log)
    assert records == payloads([each for each in placed if each.end <= cut])
    assert is_log(records, found)
    assert found.damage == []
    whole = {each.end for each in placed} | {each.end + -each.end % BLOCK for each in placed if -each.end % BLOCK < 7}
    assert found.torn == (cut not in whole)  # a log without any record counts as torn


@given(genuine_logs(), st.data())
def test_log_with_one_bit_flipped(log, data):
    flipped = place(data.draw, log)
    damaged = bytearray(log)
    damaged[flipped] ^= 1 << data.draw(st.integers(0, 7))
    placed = records_of(log)
    records, found = read(bytes(damaged))
    untouched = [each for each in placed if not each.start <= flipped < each.end]
    assert is_subsequence(records, payloads(placed))
    assert is_subsequence(payloads(untouched), records)
    if not placed:
        assert not is_log(records, found)
    elif len(records) < len(placed) and not found.damage:
        # The last record's length, made larger, looks like a record that was cut off.
        assert found.torn
        assert placed[-1].start <= flipped < placed[-1].end


@given(genuine_logs(), st.data(), st.integers(1, 3 * BLOCK))
def test_log_with_a_run_of_zeros(log, data, size):
    start = place(data.draw, log)
    damaged = (log[:start] + bytes(size))[: len(log)] + log[start + size :]
    placed = records_of(log)
    records, found = read(damaged)
    if not is_log(records, found):
        assert start < len(HEADER)  # what is left of a file whose first block is gone is not known to be a log
        return
    untouched = [each for each in placed if each.end <= start or each.start >= start + size]
    assert is_subsequence(records, payloads(placed))
    assert is_subsequence(payloads(untouched), records)
    assert len(records) == len(placed) or found.damage or found.torn


@given(genuine_logs(), st.binary(min_size=1, max_size=300))
def test_log_with_garbage_behind(log, garbage):
    records, found = read(log + garbage)
    assert records == payloads(records_of(log))
    if len(records) and any(garbage):
        assert found.damage or found.torn


@pytest.mark.parametrize("damaged", [1, 5])  # in the first block and in the second
def test_damage_is_noted_where_it_is(damaged):
    log = log_of([bytes([number]) * 9_000 for number in range(7)])
    placed = records_of(log)
    broken = bytearray(log)
    broken[placed[damaged].start + 100] ^= 1
    _, found = read(bytes(broken))
    assert found.damage == [f"byte {placed[damaged].start}"]


@given(st.binary(max_size=300))
@example(b"")
@example(HEADER[:3])
@example(bytes(40_000))
def test_foreign_file(content):
    assume(not content.startswith(HEADER))
    records, found = read(content)
    assert records == []
    assert found.damage == []
    assert found.torn == HEADER.startswith(content)
    assert is_log(records, found) == found.torn


# --- records to rows ------------------------------------------------------------------------------------------


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(EXAMPLE_LOGS), st.data())
def test_no_wrong_value_from_a_damaged_log(tmp_path, file, data):
    log = file.read_bytes()
    damaged = bytearray(log)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[place(data.draw, log)] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "run-damaged.wandb").write_bytes(damaged)
    true, found = (read_alone(each, tmp_path) for each in (file, tmp_path / "run-damaged.wandb"))
    true_rows, rows = ([repr_of(row) for row in rows_alone(log)] for log in (true, found))
    assert is_subsequence(rows, true_rows)
    assert len(rows) == len(true_rows) or found.damage or found.torn


def test_record_that_protobuf_refuses(tmp_path, export):
    """Its checksum holds, its content does not: the rows before and after it are as they were."""
    proto = export_runs.wandb_proto()

    def row(step: int, **values: int) -> bytes:
        history = proto.HistoryRecord(step=proto.HistoryStep(num=step))
        for key, value in values.items():
            history.item.add(nested_key=[key], value_json=str(value))
        return proto.Record(history=history).SerializeToString()

    broken = proto.HistoryRecord()
    for key in ("a", "b", "c"):
        broken.item.add(nested_key=[key], value_json="666")
    bad = proto.Record(history=broken).SerializeToString().replace(b"\x12\x01c", b"\x12\x01\xff")
    assert b"\xff" in bad
    (tmp_path / "run-x.wandb").write_bytes(log_of([row(0, a=1, b=1), bad, row(1, a=2), row(2, b=3)]))
    done = export("--offline", tmp_path, "-o", tmp_path / "out", "--include-history")
    assert (done.code, done.err.count("error: x: log ")) == (3, 1)
    project = exported(tmp_path / "out", "offline_uncategorized")
    assert len(project.metadata["failed"]) == 1
    assert project.rows() == [(0, {("a",): 1, ("b",): 1}), (1, {("a",): 2}), (2, {("b",): 3})]


def test_a_damaged_row_leaves_no_values(tmp_path):
    """Those before the damage are removed."""
    proto, record_class = export_runs.wandb_proto(), export_runs.record_class()
    names = [("_timestamp", "both"), ("_timestamp", "both"), ("_timestamp", "later")]
    records = [proto.Record(run=proto.RunRecord(run_id="a")).SerializeToString()]
    for step, keys in enumerate(names):
        items = [proto.HistoryItem(nested_key=[key], value_json=str(step)).SerializeToString() for key in keys]
        items += [b"\xff"] if step == 1 else []
        records.append(record_class(history={"item": items, "step": {"num": step}}).SerializeToString())
    file = tmp_path / "run-a.wandb"
    file.write_bytes(log_of(records))
    log = read_alone(file, tmp_path)
    assert [damage.partition(":")[0] for damage in log.damage] == ["record 3"]
    both, later = (export_runs.column_key((name,)) for name in ("both", "later"))
    expected = [{"order": 0, "_timestamp": 0.0, both: 0}, {"order": 2, "_timestamp": 2.0, later: 2}]
    assert rows_alone(log) == expected
    assert [part.dtypes for part in log.rows["history"].parts] == [{("both",): "Int64", ("later",): "Int64"}]


def test_a_damaged_row_of_system_metrics_leaves_no_values(tmp_path, export_logs, out):
    """Its first value was that of the next row, which has none."""
    proto, record_class = export_runs.wandb_proto(), export_runs.record_class()
    file = write_log(tmp_path / "logs", "a", entity="team", project="demo")
    payloads = [record.payload for record in records_of(file.read_bytes())]
    for number, keys in enumerate([("cpu", "disk"), ("cpu", "disk"), ("disk",)]):
        items = [proto.StatsItem(key=key, value_json=str(number)).SerializeToString() for key in keys]
        stats = {"item": items + [b"\xff"] * (number == 1), "timestamp": {"seconds": 1_767_225_600 + number}}
        payloads.append(record_class(stats=stats).SerializeToString())
    file.write_bytes(log_of(payloads))
    assert export_logs("--system-metrics").code == 3
    rows = pl.read_parquet(out / "team_demo_system.parquet", columns=["system_cpu", "system_disk"]).rows()
    assert rows == [(0, 0), (None, 2)]


def test_a_value_that_is_no_utf8_costs_only_itself(tmp_path, export_logs, out):
    rows = [{"loss": "1.5", "other": "1"}, {"loss": "2.5", "other": "2"}, {"loss": "3.5", "other": "3"}]
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=rows)
    payloads = [record.payload.replace(b"2.5", b"2\xff5") for record in records_of(file.read_bytes())]
    file.write_bytes(log_of(payloads))
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    history = pl.read_parquet(out / "team_demo_history.parquet", columns=["metric_loss", "metric_other"])
    assert history.rows() == [(1.5, 1), (None, 2), (3.5, 3)]
    assert metadata_of(out)["skipped_history_keys"] == ["loss"]


# --- damaged logs on the command line -------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    log = bytearray(file.read_bytes())
    log[at] ^= 1
    file.write_bytes(log)


def test_torn_log(logs, tmp_path, run_script):
    file = write_log(logs, "torn", rows=ROW_TEXTS, entity="team", project="demo")
    whole = records_of(file.read_bytes())
    file.write_bytes(file.read_bytes()[: whole[-5].end + 3])
    done = run_script("export_runs.py", "--offline", logs, "-o", "out", "--include-history")
    project = exported(tmp_path / "out", "team_demo")
    assert done.code == 0
    assert done.out == "out/team_demo_runs.parquet\n"
    shown = str(file.relative_to(logs))
    assert f"these logs end early, as after a crash; all rows before the end were read: {shown}\n" in done.err
    assert (project.metadata["torn"], project.metadata["status"]) == ([shown], "complete")
    assert project.runs.select("id", "state", "history_rows").rows() == [
        ("good0", "finished", 400),
        ("good1", "finished", 400),
        ("torn", "crashed", 397),
    ]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_damaged_log(logs, tmp_path, call_export, quiet):
    file = write_log(logs, "damaged", rows=ROW_TEXTS, entity="team", project="demo")
    flip(file, records_of(file.read_bytes())[200].end - 1)
    done = call_export("--offline", logs, "-o", "out", "--include-history", *quiet)
    project = exported(tmp_path / "out", "team_demo")
    shown = file.relative_to(logs)
    assert done.code == 3
    assert done.out == "out/team_demo_runs.parquet\n"
    assert re.search(
        rf"^error: damaged: log {shown} is damaged at byte \d+; the rest was read$", done.err, re.MULTILINE
    )
    assert project.metadata["status"] == "partial"
    (failure,) = project.metadata["failed"]
    assert (failure["run"], failure["what"], failure["attempts"]) == ("damaged", "log", 1)
    assert project.runs["history_rows"].to_list() == [399, 400, 400]
    dry = call_export("--offline", logs, "-o", "out2", "--dry-run", *quiet)
    assert (dry.code, "error: damaged: " in dry.err, dry.out.count("\n")) == (3, True, 1)


def test_log_that_lost_its_run_record(tmp_path, export):
    """Its rows are kept; what the record told is not known, but for the id, which the file's name tells."""
    file = write_log(tmp_path / "logs", "lost", rows=ROW_TEXTS, entity="team", project="demo")
    flip(file, len(HEADER) + 9)
    done = export(
        "--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history", "-e", "team", "-p", "demo"
    )
    assert (done.code, "error: lost: log " in done.err) == (3, True)
    project = exported(tmp_path / "out", "team_demo")
    assert (project.run["id"], project.run["name"], project.run["history_rows"]) == ("lost", "lost", 400)
    assert project.rows() == [(step, {("loss",): 1 / (step + 1)}) for step in range(400)]


def test_damage_is_named_even_if_a_filter_leaves_nothing(logs, tmp_path, export):
    file = next(logs.rglob("*.wandb"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    done = export("--offline", logs, "-o", tmp_path / "out", "--group", "no such group")
    assert done.code == 1
    assert "is damaged at" in done.err
    assert "no run left: --group" in done.err


# --- which files are logs -------------------------------------------------------------------------------------

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\n"


def test_foreign_and_unreadable_files(logs, tmp_path, export):
    (logs / "notes.wandb").write_text("not a log")
    (logs / "empty.wandb").touch()
    for kind in ("offline-run", "run", "dryrun"):
        (logs / f"{kind}-20260101_000000-nothing").mkdir()
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert done.code == 0
    passed = "1 file without the header of a log, 3 folders without a log, 1 log without a record"
    assert f"skipped: {passed}\n" in done.err
    assert exported(tmp_path / "out", "team_demo").metadata["torn"] == ["empty.wandb"]
    (logs / "gone.wandb").symlink_to(tmp_path / "nowhere")
    done = export("--offline", logs, "-o", tmp_path / "out")
    assert (done.code, "error: gone.wandb: cannot be read: No such file" in done.err) == (3, True)
    done = export("--offline", logs / "gone.wandb", "-o", tmp_path / "out2")
    assert (done.code, done.out) == (1, "")  # no file, and no folder


def test_pointers_alone_are_each_reported_once(tmp_path, export):
    for number in range(13):
        folder = tmp_path / "logs" / f"run-20260101_000000-r{number:02d}"
        (folder / "files").mkdir(parents=True)
        (folder / f"run-r{number:02d}.wandb").write_text(LFS_POINTER)
        (folder / "files" / "output.log").write_text(LFS_POINTER)
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--console")
    assert (done.code, done.out) == (1, "")
    lines = done.err.splitlines()
    assert all("a git-LFS pointer instead of the file; run `git lfs pull` there" in line for line in lines)
    assert (len(lines), "is damaged" in done.err) == (12, False)  # ten of twelve, how many more, and the last one
    assert lines[10].startswith("error: 2 more: ")
    assert lines[11].endswith("; nothing could be exported")


def test_nothing_there(tmp_path, export):
    done = export("--offline", tmp_path / "absent", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: no folder {tmp_path / 'absent'}; ")
    (tmp_path / "empty").mkdir()
    done = export("--offline", tmp_path / "empty", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: no W&B run logs (*.wandb) in")
    (tmp_path / "ignored" / "run-20260101_000000-a" / "files").mkdir(parents=True)  # as where git ignores the logs
    done = export("--offline", tmp_path / "ignored", "-o", tmp_path / "out")
    assert done.err.endswith("ignored, only 1 run folder without one; name another folder\n")
    (tmp_path / "empty" / "run-dangling.wandb").symlink_to(tmp_path / "nowhere")
    done = export("--offline", tmp_path / "empty", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "run-dangling.wandb: cannot be read: No such file or directory" in done.err
    assert len(done.err.splitlines()) == 1


def test_each_log_is_read_once(logs, tmp_path, export):
    (first, second) = sorted(logs.iterdir())
    (logs / "latest-run").symlink_to(second.name)
    (logs / "loop").symlink_to(logs)
    (logs / "debug.wandb").symlink_to(first / "run-good0.wandb")
    copy = logs / "copy" / first.name  # of the log when it was shorter
    copy.mkdir(parents=True)
    whole = (first / "run-good0.wandb").read_bytes()
    (copy / "run-good0.wandb").write_bytes(whole[: records_of(whole)[100].end])
    (second / "copy.wandb").write_bytes((second / "run-good1.wandb").read_bytes())
    done = export("--offline", logs, "-o", tmp_path / "out", "--include-history")
    assert done.code == 0
    copies = "skipped: 2 logs copied from another\n"
    assert done.err == f"{copies}team/demo: 2 runs (2 finished), 800 history rows\n"
    assert exported(tmp_path / "out", "team_demo").history.height == 800


def test_the_metadata_are_named_where_they_are_written(tmp_path, export_logs):
    add_log(tmp_path, "good")
    for number in range(12):
        add_log(tmp_path, f"bad{number}").write_text(LFS_POINTER)
    done = export_logs()
    assert done.code == 3
    assert "error: 2 more, all listed in the metadata file: a git-LFS pointer" in done.err
    done = export_logs("--dry-run")
    assert done.code == 3
    assert "error: 2 more: a git-LFS pointer" in done.err


def test_a_run_without_a_row_is_counted(tmp_path, export_logs, demo):
    add_log(tmp_path, "abc")
    add_log(tmp_path, "half")
    lost = add_log(tmp_path, "lost")
    lost.write_text(LFS_POINTER)
    add_log(tmp_path, "half", started_at=START + timedelta(hours=1)).write_text(LFS_POINTER)  # has a row all the same
    assert export_logs().code == 3
    counts = {"listed": 3, "written": 2, "failed": 1, "filtered": 0, "by_state": {"finished": 2}}
    assert demo().metadata["runs"] == counts
    assert len(demo().metadata["failed"]) == 2


# --- several logs of one run, several entities ----------------------------------------------------------------


def test_logs_of_one_run_that_share_steps_lose_no_metric(tmp_path, export_logs, demo):
    """As when a sweep's agent starts a run once for each part of a model: all begin at step 0."""
    rows = [[{"a": "1"}, {"a": "2", "b": "3"}], [{"c": "4"}, {"a": '"NaN"'}]]
    for hours, logged in enumerate(rows):
        started_at = START + timedelta(hours=hours)
        write_log(tmp_path / "logs", "abc", rows=logged, started_at=started_at, entity="team", project="demo")
    done = export_logs("--include-history")
    assert done.code == 0
    assert "steps that are in several logs of a run have the values of the last one: abc (2 steps)" in done.err
    values = demo().history.select("metric_a", "metric_b", "metric_c").fill_nan(-1).rows()
    assert values == [(1.0, None, 4), (-1.0, 3, None)]
    assert demo().history["_timestamp"].to_list() == [(started_at + timedelta(seconds=n)).timestamp() for n in (0, 1)]


def test_many_logs_of_one_run_that_share_steps(tmp_path, export_logs, demo):
    """Each log cost as much as all before it: 300 took 16 s, now 2."""
    for hours in range(100):
        add_log(tmp_path, "abc", started_at=START + timedelta(hours=hours))
    assert export_logs("--include-history").code == 0
    assert demo().history["_step"].to_list() == [0, 1]
    assert demo().history["_timestamp"][0] == (START + timedelta(hours=99)).timestamp()


def test_a_log_without_an_entity_belongs_to_the_run_whose_other_log_names_one(tmp_path, export_logs, demo):
    add_log(tmp_path, "abc", rows=3, entity="")
    add_log(tmp_path, "abc", rows=2, first_step=3, started_at=START + timedelta(hours=1))
    add_log(tmp_path, "abc", started_at=START + timedelta(hours=2), entity="", project="elsewhere")
    done = export_logs("--include-history")
    assert done.code == 0
    assert "team/demo: 1 run (1 finished), 5 history rows\n" in done.err
    assert "offline/elsewhere: 1 run" in done.err
    add_log(tmp_path, "abc", started_at=START + timedelta(hours=3), entity="other")  # now it could be of either
    done = export_logs("--include-history")
    assert done.code == 0
    assert "offline/demo: 1 run (1 finished), 3 history rows" in done.err


def test_only_projects_that_have_another_entity_are_said_to(tmp_path, export_logs):
    add_log(tmp_path, "a")
    add_log(tmp_path, "b", entity="")
    add_log(tmp_path, "c", entity="", project="")
    done = export_logs()
    advice = "to export them as one project, use -e team -p demo and a new -o"
    assert done.code == 0
    assert done.err.count("without an entity") == 1
    assert f"in project demo, 1 run without an entity, others of team; {advice}\n" in done.err
    add_log(tmp_path, "d", entity="crew")
    done = export_logs()
    assert done.code == 0
    assert "others of crew, team; to export them as one project, use -e crew" in done.err
    add_log(tmp_path, "e", entity="other", project="uncategorized")  # the advice for the one would harm the other
    done = export_logs()
    assert done.code == 0
    assert "use -e crew -p demo" in done.err
    assert "in project uncategorized, 1 run without an entity, others of other; " in done.err
    assert "use -e other -p uncategorized" in done.err


# --- what a log holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "age", "state"),
    [
        (0, 0, "finished"),
        (1, 0, "failed"),
        (255, 0, "failed"),
        (254, 0, "crashed"),
        (None, 0, "running"),
        (None, 299, "running"),
        (None, 301, "crashed"),
        (None, -299, "running"),
        (None, -301, "crashed"),
        (None, 3_600, "crashed"),
    ],
)
def test_state_of_a_log(monkeypatch, exit_code, age, state):
    monkeypatch.setattr(export_runs, "now", lambda: START)
    assert export_runs.offline_state(exit_code, START - timedelta(seconds=age)) == state
    preempted = {"running": "preempting", "finished": "finished"}.get(state, "preempted")
    assert export_runs.offline_state(exit_code, START - timedelta(seconds=age), is_preempting=True) == preempted


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "[2, 3]"]))))
def test_replaced_summary_items_leave_memory(changes):
    """Only the last change of each path is held, removals too; they are in the order of time."""
    item = export_runs.wandb_proto().SummaryItem
    items = [item(nested_key=["x", key], value_json=value).SerializeToString() for key, value in changes]
    last: dict[bytes, bytes] = {}
    for number in range(len(items)):
        export_runs.keep_last(last, items[number : number + 1])
    expected = [change for number, change in enumerate(changes) if change[0] not in dict(changes[number + 1 :])]
    found = [item.FromString(content) for content in last.values()]
    assert [(each.nested_key[1], each.value_json) for each in found] == expected


def test_a_summary_that_is_ahead_of_a_cut_history(tmp_path, export):
    write_log(tmp_path / "logs", "r", rows=[{"a": "1"}, {"a": "2"}], summary={"a": "3", "_step": "2"}, exit_code=None)
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out").code == 0
    run = exported(tmp_path / "out", "offline_uncategorized").run
    assert (json.loads(run["_summary_json"]), run["last_step"]) == ({"a": 3, "_step": 1}, 1)


def test_configs_too_deep_to_be_written_cost_only_their_run(tmp_path, export):
    proto = export_runs.wandb_proto()
    deep = proto.Record()
    depth = 400 if sys.version_info < (3, 12) else 850  # from then on comprehensions take no frames of their own
    # Half a surrogate pair, which is replaced level by level.
    deep.config.update.add(nested_key=["a"] * 199, value_json='{"a":' * depth + r'"\ud800"' + "}" * depth)
    file = write_log(tmp_path / "logs", "deep")
    payloads = [record.payload for record in records_of(file.read_bytes())]
    file.write_bytes(log_of([payloads[0], deep.SerializeToString(), *payloads[1:]]))
    write_log(tmp_path / "logs", "plain")
    done = export("--offline", tmp_path / "logs", "-o", tmp_path / "out")
    assert done.code == 3
    assert "error: deep: its config or summary is nested too deeply" in done.err
    assert exported(tmp_path / "out", "offline_uncategorized").run["id"] == "plain"


def test_numbers_inside_of_a_media_object_are_no_metrics(tmp_path, export):
    number, media = {("m", "n"): "1", "loss": "0.5"}, {("m", "n"): "2", ("m", "_type"): '"image-file"', "loss": "0.25"}
    write_log(tmp_path / "logs", "a", rows=[number, media, number])
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history").code == 0
    project = exported(tmp_path / "out", "offline_uncategorized")
    both = {("m", "n"): 1, ("loss",): 0.5}
    assert project.rows() == [(0, both), (1, {("loss",): 0.25}), (2, both)]
    assert project.metadata["skipped_history_keys"] == ["m"]


def test_a_step_metric_is_no_metric_of_its_own_pattern(tmp_path, export):
    proto = export_runs.wandb_proto()
    file = write_log(tmp_path / "logs", "r", rows=[{"epoch": "1", "loss": "2"}])
    metric = proto.MetricRecord(glob_name="*", step_metric="epoch", summary=proto.MetricSummary(min=True))
    payloads = [record.payload for record in records_of(file.read_bytes())]
    file.write_bytes(log_of([payloads[0], proto.Record(metric=metric).SerializeToString(), *payloads[1:]]))
    assert export("--offline", tmp_path / "logs", "-o", tmp_path / "out", "--include-history").code == 0
    facts = facts_of(exported(tmp_path / "out", "offline_uncategorized").history_file)
    assert facts == {"metric_loss": {"goal": "minimize", "summary": "min", "step_metric": "epoch"}}


def test_a_definition_without_values_takes_no_metric_s_name(tmp_path, export):
    """define_metric("val_loss") beside a nested val.loss, or "val_acc" beside val/acc, does not reach it."""
    proto, out = export_runs.wandb_proto(), tmp_path / "out"
    for number, name in enumerate(("val_loss", "val_acc")):
        file = write_log(tmp_path / "logs", f"r{number}", rows=[{("val", "loss"): "1", "val/acc": "2"}])
        metric = proto.MetricRecord(name=name, summary=proto.MetricSummary(min=True))
        payloads_ = [record.payload for record in records_of(file.read_bytes())]
        file.write_bytes(log_of([*payloads_, proto.Record(metric=metric).SerializeToString()]))
    assert export("--offline", tmp_path / "logs", "-o", out, "--include-history").code == 0
    history = exported(out, "offline_uncategorized").history_file
    names = {("val", "loss"): "metric_val_loss", ("val/acc",): "metric_val_acc"}
    assert paths_of(history) == names
    assert facts_of(history).keys().isdisjoint(names.values())


# --- large logs -----------------------------------------------------------------------------------------------


def test_several_processes_write_the_same(logs, tmp_path, run_script):
    for number in range(2):
        write_log(logs, f"large{number}", rows=ROW_TEXTS, project="large", filler_bytes=9_000_000)
    assert sum(file.stat().st_size for file in logs.rglob("*.wandb")) > export_runs.MANY_BYTES
    damaged = write_log(logs, "damaged", rows=ROW_TEXTS, project="large")
    flip(damaged, 10_000)
    (logs / "gone.wandb").symlink_to("nowhere")
    outcomes = []
    for workers in (1, 2):
        done = run_script(
            "export_runs.py", "--offline", logs, "-o", "out", "--include-history", "--workers", workers, "--debug"
        )
        assert done.code == 3
        found = [exported(tmp_path / "out", stem) for stem in ("offline_large", "team_demo")]
        frames = [(without_times(each.runs).to_dicts(), each.history.to_dicts()) for each in found]
        outcomes.append((done, frames, [each.metadata["failed"] for each in found]))
        shutil.rmtree(tmp_path / "out")
    assert outcomes[0] == outcomes[1]
