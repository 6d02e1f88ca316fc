"""export_runs.py --verify: an archive is compared with its checksums, without an account, and left as it is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest
from conftest import ROOT, Done
from export_runs import main
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from log_files import write_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT = "export_runs.py"
NO_ACCOUNT = {"WANDB_BASE_URL": "http://127.0.0.1:1", "WANDB_API_KEY": ""}  # nobody answers there
SCHEMA = json.loads((ROOT / "tests" / "schemas" / "export_runs_verify.json").read_text())
FILES = [
    "graph-lab_graph-denoising_history.parquet",
    "graph-lab_graph-denoising_runs.parquet",
    "offline_graph-denoising-ablations_history.parquet",
    "offline_graph-denoising-ablations_runs.parquet",
]
RUNS, HISTORY = FILES[1], FILES[0]
METADATA = "graph-lab_graph-denoising_metadata.json"
TEXT = (ROOT / "README.md").read_bytes()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Exports of two projects in one folder."""
    folder = tmp_path_factory.mktemp("archive") / "out"
    examples = str(ROOT / "examples" / "offline-runs")
    assert main(["--offline", examples, "-o", str(folder), "--include-history", "--quiet"]) == 0
    return folder


@pytest.fixture
def copy(archive, tmp_path) -> Path:
    return shutil.copytree(archive, tmp_path / "copy")


@pytest.fixture
def verify(call_script) -> Callable[..., Done]:
    return lambda *arguments: call_script(SCRIPT, "--verify", *arguments, env=NO_ACCOUNT)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def verified(done: Done) -> dict[str, str | None]:
    """What is wrong with each file, by the JSON."""
    document = json.loads(done.out)
    assert list(Draft202012Validator(SCHEMA).iter_errors(document)) == []
    return {row["file"]: row["error"] for row in document["verified"]}


# --- whole ----------------------------------------------------------------------------------------------------


def test_an_archive_that_is_as_it_was_written(verify, run_script, copy):
    before = contents(copy)
    done = run_script(SCRIPT, "--verify", copy, env=NO_ACCOUNT)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"4 files of 2 exports in {copy}: all unchanged\n"
    assert contents(copy) == before
    done = verify(copy, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert verified(done) == dict.fromkeys(FILES)
    projects = {(row["entity"], row["project"]) for row in json.loads(done.out)["verified"]}
    assert projects == {("graph-lab", "graph-denoising"), ("offline", "graph-denoising-ablations")}


def test_in_a_folder_that_nobody_may_write_to(verify, copy):
    copy.chmod(0o555)
    try:
        done = verify(copy)
    finally:
        copy.chmod(0o755)
    assert (done.code, done.out) == (0, "")


def test_what_else_lies_there_is_no_part_of_an_export(verify, copy):
    (copy / "notes.txt").write_text("mine")
    (copy / "mine.parquet").write_bytes(b"PAR1")
    (copy / ".team_demo_metadata.json").write_text("{")
    (copy / "below").mkdir()
    (copy / "below" / "team_demo_metadata.json").write_text("{")
    done = verify(copy)
    assert (done.code, done.err) == (0, f"4 files of 2 exports in {copy}: all unchanged\n")


def test_what_could_not_be_exported_is_said(verify, copy):
    """The files are as they were written, but do not hold all runs."""
    metadata = next(copy.glob("graph-lab*_metadata.json"))
    failed = [{"run": "r", "what": "history", "error": "HTTP 502", "attempts": 3}]
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"status": "partial", "failed": failed}))
    done = verify(copy)
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith(f": all unchanged\nnot everything was exported: see `failed` in {metadata.name}\n")


# --- damaged --------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_row(file: Path) -> None:
    pl.read_parquet(file).head(-1).write_parquet(file)


DAMAGE = {
    "a flipped byte": (flip, "its checksum differs"),
    "cut short": (truncate, " bytes instead of "),
    "empty": (lambda file: file.write_bytes(b""), "has 0 bytes instead of "),
    "other text": (lambda file: file.write_bytes(TEXT), " bytes instead of "),
    "other rows": (drop_a_row, " bytes instead of "),
    "deleted": (lambda file: file.unlink(), "is missing"),
    "a folder in its place": (lambda file: (file.unlink(), file.mkdir()), "cannot be read: "),
}


@pytest.mark.parametrize("name", [RUNS, HISTORY])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(verify, copy, name, damage):
    change, said = DAMAGE[damage]
    change(copy / name)
    before = contents(copy)
    done = verify(copy, "--json")
    assert done.code == 3
    line, outcome = done.err.splitlines()
    assert line.startswith(f"error: {copy / name} ")
    assert said in line
    assert outcome == f"4 files of 2 exports in {copy}: 1 damaged or missing"
    assert {file for file, error in verified(done).items() if error} == {name}
    assert contents(copy) == before


def test_each_damaged_file_of_each_project_is_a_line(run_script, copy):
    for name in FILES[1:]:
        flip(copy / name)
    done = run_script(SCRIPT, "--verify", copy, "--quiet", env=NO_ACCOUNT)
    assert (done.code, done.out) == (3, "")
    assert [line.split()[1] for line in done.err.splitlines()] == [str(copy / name) for name in FILES[1:]]


def test_rows_that_are_not_those_of_the_metadata(verify, copy):
    """The bytes are those that were written, but not as many rows as the metadata has."""
    document = json.loads((copy / METADATA).read_text())
    for facts in document["files"]:
        facts["rows"] += facts["name"] == RUNS
    (copy / METADATA).write_text(json.dumps(document))
    done = verify(copy, "--json")
    assert done.code == 3
    assert {file: error for file, error in verified(done).items() if error} == {
        RUNS: f"has {document['runs']['written']} rows of {pl.read_parquet(copy / RUNS).width} columns, "
        f"not {document['runs']['written'] + 1} of {pl.read_parquet(copy / RUNS).width}"
    }


# --- damaged metadata -----------------------------------------------------------------------------------------


def edited(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


FACTS = {"name": RUNS, "bytes": 1, "rows": 1, "columns": 1, "sha256": ""}
BAD_METADATA = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "no text": lambda content: b"\xff" + content,
    "a list": lambda content: b"[]",
    "no files": edited(files=[]),
    "files of another kind": edited(files=3),
    "a file without a name": edited(files=[{"bytes": 1}]),
    "a name that is none": edited(files=[FACTS | {"name": 3}]),
    "a size that is none": edited(files=[FACTS | {"bytes": "many"}]),
}


@pytest.mark.parametrize("damage", BAD_METADATA)
def test_damaged_metadata_is_named_and_the_other_projects_are_checked(verify, copy, damage):
    (copy / METADATA).write_bytes(BAD_METADATA[damage]((copy / METADATA).read_bytes()))
    flip(copy / FILES[3])
    done = verify(copy, "--json")
    assert done.code == 3
    first, second, _ = done.err.splitlines()
    assert first.startswith(f"error: {copy / METADATA} is damaged")
    assert second.startswith(f"error: {copy / FILES[3]} ")
    assert {file for file, error in verified(done).items() if error} == {METADATA, FILES[3]}


def test_a_name_in_the_metadata_leads_nowhere_else(verify, copy):
    shutil.move(copy / RUNS, copy.parent / RUNS)
    content = (copy / METADATA).read_text().replace(f'"{RUNS}"', f'"../{RUNS}"')
    (copy / METADATA).write_text(content)
    done = verify(copy)
    assert done.code == 3
    assert done.err.startswith(f"error: {copy / RUNS} is missing")


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_no_changed_byte_of_a_file_passes(archive, tmp_path_factory, place, change):
    from export_runs import damage_of, import_libraries

    import_libraries()
    facts = {each["name"]: each for each in json.loads((archive / METADATA).read_text())["files"]}
    content = bytearray((archive / RUNS).read_bytes())
    content[int(place * len(content))] ^= change
    changed = tmp_path_factory.getbasetemp() / "changed.parquet"
    changed.write_bytes(content)
    assert damage_of(archive / RUNS, facts[RUNS]) is None
    assert "checksum" in str(damage_of(changed, facts[RUNS]))


# --- nothing to verify, and wrong usage -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty", "nowhere", "file"])
def test_no_export_there(verify, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    done = verify(tmp_path / name)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {tmp_path / name} contains no export; name the folder that you gave as -o\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["team/demo"], "a PLACE"),
        (["--offline", "logs"], "--offline"),
        (["--api-key-file", "key"], "--api-key-file"),
        (["-e", "team"], "--entity"),
        (["-p", "demo"], "--project"),
        (["-o", "out"], "--output"),
        (["--state", "finished"], "--state"),
        (["--include-history"], "--include-history"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_a_source_beside_it_is_wrong_usage(verify, copy, arguments, named):
    done = verify(copy, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: --verify exports nothing: remove {named}; ")


def test_files_whose_metadata_has_gone_are_named(verify, copy):
    listed = [facts["name"] for facts in json.loads((copy / METADATA).read_text())["files"]]
    (copy / METADATA).unlink()
    done = verify(copy, "--json")
    assert done.code == 3
    assert {file for file, error in verified(done).items() if error} == set(listed)


def test_files_whose_metadata_has_gone_are_no_other_projects(tmp_path, verify, copy):
    logs = tmp_path / "logs"
    write_log(logs, "a", entity="graph-lab", project="graph-denoising_2")
    assert main(["--offline", str(logs), "-o", str(copy), "--quiet"]) == 0
    assert verify(copy).code == 0
    (copy / "graph-lab_graph-denoising_2_metadata.json").unlink()
    done = verify(copy)
    assert done.code == 3
    assert "graph-lab_graph-denoising_2_runs.parquet is not listed in any metadata file" in done.err


def test_metadata_that_is_nested_deeply(verify, copy):
    (copy / METADATA).write_text('{"files": ' + "[" * 100_000 + "]" * 100_000 + "}")
    done = verify(copy)
    assert done.code == 3
    assert f"error: {copy / METADATA} is damaged" in done.err
