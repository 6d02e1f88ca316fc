"""How the tests call aggregate_runs.py, and the files that several of them give it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path

import aggregate_runs
import polars as pl
import pyarrow.parquet as pq
import pytest
from contract_files import START, write_runs

SCRIPT = Path(aggregate_runs.__file__)
DERIVED = ["stage", "arch", "model_type", "protocol", "k"]
DERIVED += ["seed_parsed", "lr_parsed", "wd_parsed", "eps_parsed"]
aggregate_runs.import_libraries()


# --- how it is called -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, code=0, start=False):
    """What the script wrote to stdout and stderr, its exit code checked; `start` it as a process or call it."""
    got, out, err = (started if start else called)([*map(str, arguments)])
    assert got == code, err
    assert "a bug in this script" not in err
    assert "Traceback" not in err or "--debug" in arguments
    return out, err


def started(arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def called(arguments):
    """The same in this process, since a start costs half a second."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = aggregate_runs.main(arguments)
    return code, out.getvalue(), err.getvalue()


def aggregated(*arguments, code=0):
    """The result as a frame."""
    out, _ = run(*arguments, code=code)
    return pl.read_parquet(out.strip(), glob=False)


def report(*arguments, code=0):
    """The result of --json; nothing else is on stdout, and with --quiet nothing on stderr but errors."""
    out, err = run(*arguments, "--json", "--quiet", code=code)
    assert all(line.startswith("error: ") for line in err.splitlines())
    return json.loads(out)


# --- files ----------------------------------------------------------------------------------------------------


def metadata(file):
    """The key-value metadata of ours, read by another library."""
    pairs = pq.read_metadata(file).metadata
    return {k.decode().removeprefix("wandb_tools."): json.loads(v) for k, v in pairs.items() if b"wandb" in k}


def rewritten(file, frame=None, **documents):
    """Write the file again with another frame, or other metadata."""
    frame = pl.read_parquet(file) if frame is None else frame
    pairs = {k: v for k, v in pl.read_parquet_metadata(file).items() if k.startswith("wandb_tools")}
    pairs |= {f"wandb_tools.{key}": json.dumps(document) for key, document in documents.items()}
    frame.write_parquet(file, metadata=pairs)
    return file


def export(folder, runs, *, kind="server", days=0, project="demo"):
    """An export of the given kind, made some days after the start."""
    for made in runs:
        made.exported_at = START + timedelta(days=days)
    file = write_runs(Path(folder), runs, project=project)
    source = {"kind": kind, "entity": "team", "project": project, "exported_at": str(days), "versions": {}}
    return rewritten(file, source=source)


def history(file):
    keys = {"run_id": ["a"], "entity": ["team"], "project": ["demo"]}
    pl.DataFrame(keys | {"_step": [0], "metric_loss": [0.5]}).write_parquet(file)
    return file


def write_history(file, rows, *, entity="team", project="demo", **metadata):
    """A history file of rows (run, step, {metric: value})."""
    names = sorted({name for _, _, values in rows for name in values})
    frame = {"run_id": [run_id for run_id, _, _ in rows], "entity": entity, "project": project}
    frame |= {"_step": [step for _, step, _ in rows]}
    frame |= {f"metric_{name}": [values.get(name) for _, _, values in rows] for name in names}
    pairs = {f"wandb_tools.{key}": text for key, text in metadata.items()}
    pl.DataFrame(frame, strict=False).write_parquet(file, metadata=pairs)


def foreign(columns):
    """A file of two runs as another tool might write it."""
    Path("x").mkdir(exist_ok=True)
    rows = {"id": ["f1", "f2"], "name": ["a_k3", "b"], "state": ["finished", "crashed"]} | columns
    pl.DataFrame(rows).write_parquet("x/foreign.parquet")


# --- values ---------------------------------------------------------------------------------------------------


def same(one, other):
    """Equal, with NaN equal to itself."""
    return json.dumps(one) == json.dumps(other)
