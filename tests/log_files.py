"""Transaction logs as bytes: a writer and a reader of the format that share nothing with the script.

LevelDB's log format: blocks of 32,768 bytes hold chunks of a CRC-32, a length, a kind (1 whole, 2 first, 3 middle,
4 last) and a payload; fewer than 7 bytes at a block's end are zeros.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import export_runs

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b":W&B" + b"\xe1\xbe" + b"\0"
BLOCK = 32_768
START = datetime(2026, 1, 1, tzinfo=UTC)


class Placed(NamedTuple):
    """A record, and which bytes of the log are it."""

    payload: bytes
    start: int
    end: int


def log_of(payloads: list[bytes], *, counted_from: int = 0) -> bytes:
    """A log whose first block begins at the byte `counted_from`."""
    log = bytearray(HEADER)
    for payload in payloads:
        rest, first = payload, True
        while first or rest:
            room = BLOCK - (len(log) - counted_from) % BLOCK
            if room < 7:
                log += bytes(room)
                room = BLOCK
            piece, rest = rest[: room - 7], rest[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not rest]
            body = bytes([kind]) + piece
            log += zlib.crc32(body).to_bytes(4, "little") + len(piece).to_bytes(2, "little") + body
            first = False
    return bytes(log)


def records_of(log: bytes) -> list[Placed]:
    """The whole records of an undamaged log."""
    records: list[Placed] = []
    at, start, payload = len(HEADER), len(HEADER), b""
    while True:
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6 : at + 7]
        if not kind or at + 7 + length > len(log):
            return records
        if kind in (b"\1", b"\2"):
            start, payload = at, b""
        payload += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (b"\1", b"\4"):
            records.append(Placed(payload, start, at))


def write_log(
    folder: Path,
    run_id: str,
    *,
    rows: list[dict] = (),
    first_step: int = 0,
    started_at: datetime = START,
    exit_code: int | None = 0,
    runtime_s: int = 60,
    config: dict[str, str] | None = None,
    summary: dict[str, str] | None = None,
    filler_bytes: int = 0,
    **run: object,
) -> Path:
    """Write a run's log and return its path; `run` are fields of the run record, values are in JSON."""
    proto = export_runs.wandb_proto()
    first = proto.Record(run=proto.RunRecord(run_id=run_id, **run))
    first.run.start_time.FromDatetime(started_at)
    for key, value in (config or {}).items():
        first.run.config.update.add(key=key, value_json=value)
    records = [first]
    for step, row in enumerate(rows, first_step):
        history = proto.HistoryRecord(step=proto.HistoryStep(num=step))
        clocks = {"_step": str(step), "_timestamp": str((started_at + timedelta(seconds=step)).timestamp())}
        for key, value in {**row, **clocks}.items():
            history.item.add(nested_key=key if isinstance(key, tuple) else [key], value_json=value)
        records.append(proto.Record(history=history))
    for key, value in (summary or {}).items():
        records.append(proto.Record(summary=proto.SummaryRecord()))
        records[-1].summary.update.add(nested_key=[key], value_json=value)
    fillers = [proto.Record(output_raw=proto.OutputRawRecord(line="." * 30_000))] * (filler_bytes // 30_000)
    if exit_code is not None:
        fillers.append(proto.Record(exit=proto.RunExitRecord(exit_code=exit_code, runtime=runtime_s)))
    place = folder / f"offline-run-{started_at:%Y%m%d_%H%M%S}-{run_id}"
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"run-{run_id}.wandb"
    file.write_bytes(log_of([record.SerializeToString() for record in records + fillers]))
    return file
