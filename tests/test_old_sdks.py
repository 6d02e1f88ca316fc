"""The recordings of old SDKs: nothing personal in them, and what they hold is what the recorded programs logged."""

from __future__ import annotations

import json
import math
import re
import socket
from typing import TYPE_CHECKING

import export_runs
import pytest
from log_files import HEADER, records_of
from old_sdks import record

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(file for file in record.HERE.rglob("*") if file.is_file() and file.suffix != ".py")
FILES = [file for file in FILES if "__pycache__" not in file.parts]
EXPECTED = json.loads(record.EXPECTED.read_text(encoding="utf-8"))
TRUTHS = {run_id: truth for truths in EXPECTED.values() for run_id, truth in truths.items()}
FOLDERS = sorted(folder for folder in record.RUNS.glob("*/*run-*") if folder.name.partition("-")[0] != "latest")
LOGGED = {key for truth in TRUTHS.values() for row in truth["history"] for key in row}
WHOLE_SIZE_BYTES = 1_500_000

PERSONAL = {
    "path": rb"(?<!/tmp/lab)[/\\](root|home|Users|work|mnt|opt|srv|data|workspace|builds?)(?![\w-])",
    "email": rb"[\w.+-]+@[\w-]+\.\w+",
    "address": rb"(?<![\d.])(?!127\.0\.0\.1)\d{1,3}(\.\d{1,3}){3}(?![\d.])",
    "key": rb"(?<![0-9a-zA-Z+])[0-9a-f]{40}(?![0-9a-zA-Z])",  # after a plus: the SDK's own commit, in its version
    "token": rb"(?i)(api.?key|token|secret|password)\W{1,4}\w{8,}",
    "url": rb"https?://[^\s\"']+",
    "registry": rb"(?i)pypi|artifactory|nexus|devpi|index.url|pip\.conf|proxy",
}
ALLOWED = re.compile(rb"https://git-lfs\.github\.com/spec/v1$")


def log_in(folder: Path) -> bytes:
    logs = list(folder.glob("*.wandb"))
    return logs[0].read_bytes() if logs else b""


def records(folder: Path) -> list:
    """The records of a folder's log, undamaged ones."""
    proto = export_runs.wandb_proto()
    return [proto.Record.FromString(placed.payload) for placed in records_of(log_in(folder))]


def logged_rows(folder: Path) -> list[dict]:
    """The rows in a folder's history as the program wrote them, without the SDK's own columns but `_step`."""
    if (file := folder / "wandb-history.jsonl").exists():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    else:
        rows = []
        for record_ in records(folder):
            if record_.WhichOneof("record_type") != "history":
                continue
            row: dict = {}
            for item in record_.history.item:
                *outer, last = item.nested_key or [item.key]
                at = row
                for key in outer:
                    at = at.setdefault(key, {})
                at[last] = json.loads(item.value_json)
            rows.append(row)
    return [{key: row[key] for key in row if key in LOGGED} for row in rows]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(record.HERE)))
def test_nothing_personal_is_committed(file):
    content = file.read_bytes() + str(file.relative_to(record.HERE)).encode()
    commits = {truth["commit"].encode() for truth in TRUTHS.values()}
    for what, pattern in PERSONAL.items():
        found = {match.group() for match in re.finditer(pattern, content)} - commits
        assert not [text for text in found if not ALLOWED.match(text)], what
    own = socket.gethostname().encode()
    assert own == b"node" or not re.search(rb"(?<![\w-])%s(?![\w-])" % re.escape(own), content)


@pytest.mark.parametrize(
    ("what", "planted"),
    [
        ("path", b'"executable": "/home/somebody/env/bin/python"'),
        ("path", b"\x12\x0e/Users/s/x.py"),
        ("path", b'"C:\\\\Users\\\\somebody"'),
        ("email", b"somebody@example.com"),
        ("address", b'"host": "10.0.0.17"'),
        ("key", b"\x0a" + b"0123456789abcdef0123456789abcdef01234567"),
        ("token", b"api_key=abcdefgh1234"),
        ("url", b"https://example.com/x.git"),
        ("registry", b"index_url = x"),
    ],
)
def test_the_scan_finds_what_it_looks_for(what, planted):
    assert re.search(PERSONAL[what], planted)


def test_the_recordings_are_small_and_without_what_nobody_needs():
    assert sum(file.stat().st_size for file in FILES) < WHOLE_SIZE_BYTES
    unwanted = [file for file in FILES for pattern in record.REMOVED if file.match(pattern)]
    assert unwanted == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_host_and_user_are_neutral(folder):
    files = [folder / "wandb-metadata.json", folder / "files" / "wandb-metadata.json"]
    for metadata in [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]:
        assert (metadata["host"], metadata.get("username", "researcher")) == ("node", "researcher")
        assert metadata["os"] == record.SYSTEM
        assert metadata["executable"].startswith("/tmp/lab/env-")
        assert not metadata.get("email")
    found = [(record_.WhichOneof("record_type"), record_) for record_ in records(folder)]
    hosts = {getattr(record_, kind).host for kind, record_ in found if kind in {"run", "environment"}}
    systems = {record_.environment.os for kind, record_ in found if kind == "environment"}
    assert hosts <= {"node", ""}
    assert systems <= {record.SYSTEM, ""}


@pytest.mark.parametrize("run_id", TRUTHS)
def test_folders_hold_what_was_logged(run_id):
    truth = TRUTHS[run_id]
    [folder] = [folder for folder in FOLDERS if folder.name.endswith(f"-{run_id}")]
    rows, told = logged_rows(folder), truth["history"]
    is_whole = truth["kind"] in {"finished", "failed"} and not run_id.startswith("cut")
    if run_id == "crashed0198":  # SDK 0.19 writes whole blocks of 32 kB alone before the end
        assert rows == []
        return
    assert (len(rows) == len(told)) if is_whole else (0 < len(rows) <= len(told))
    assert [str(row) for row in map(sorted_row, rows)] == [str(row) for row in map(sorted_row, told[: len(rows)])]
    assert any(math.isnan(row.get("spike", 0)) for row in rows) or run_id.startswith("cut")
    kinds = {found.WhichOneof("record_type") for found in records(folder)}
    if log_in(folder):
        assert ("exit" in kinds) == is_whole
    if truth["kind"] == "lost":
        assert "summary" not in kinds
        summary = json.loads((folder / "files" / "wandb-summary.json").read_text(encoding="utf-8"))
        assert summary["loss"] == told[summary["_step"]]["loss"]
    for key, table in truth["tables"].items():
        [file] = folder.rglob(f"media/table/{key}_*.table.json")
        assert json.loads(file.read_text(encoding="utf-8")) == table


def sorted_row(row: dict) -> dict:
    return {key: float(row[key]) if isinstance(row[key], int) else row[key] for key in sorted(row)}


def test_every_kind_of_every_sdk_is_there():
    for sdk in record.SDKS:
        kinds = sorted(truth["kind"] for truth in EXPECTED[sdk].values())
        assert kinds == sorted([*record.KINDS, *(["lost"] if sdk in record.ONLINE_SDKS else [])])


def test_damaged_folders_are_what_they_claim_to_be():
    damaged = record.RUNS / "damaged"
    logs = {folder.name.rpartition("-")[2]: log_in(folder) for folder in damaged.iterdir()}
    assert not (damaged / "latest-run").is_symlink()
    [copied] = [name for name in logs if name.startswith("copied")]
    assert logs["run"] == logs[copied]
    assert logs["pointer1"].startswith(b"version https://git-lfs")
    assert len(logs["pointer1"].splitlines()) == 3
    assert (logs["empty1"], logs["header1"]) == (b"", HEADER)
