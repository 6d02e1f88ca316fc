"""Faults that exports had, each as a test of the script as a process: what is written must be whole, and right.

Offline where the server makes no difference: the logs are written by `log_files`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import LIMIT_S, Done, finished_runs, wait_until
from log_files import HEADER, START, log_of, records_of, write_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wandb_server import Server

SCRIPT = "export_runs.py"
QUICK = ("--timeout", 10, "--retries", 2)  # faults end soon


@pytest.fixture
def server(empty_server) -> Server:
    return empty_server


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def export(call_export, server, tmp_path, out) -> Callable[..., Done]:
    """Export from the server into `out`."""

    def call(*arguments: object) -> Done:
        return call_export("-o", out, *arguments, env=server.environment(tmp_path / "sdk"))

    return call


@pytest.fixture
def export_logs(call_export, tmp_path, out) -> Callable[..., Done]:
    """Export the logs below `logs` into `out`."""
    return lambda *arguments: call_export("--offline", tmp_path / "logs", "-o", out, *arguments)


@pytest.fixture
def start(server, script_command, tmp_path, out) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start an export and leave it to the test; it is ended with it."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> subprocess.Popen[str]:
        command = script_command(SCRIPT, "-o", out, *arguments, env=server.environment(tmp_path / "sdk"))
        started.append(subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def steps(numbers: Iterable[int], **more: float) -> list[dict[str, float]]:
    return [{"_step": step, "_runtime": step + 0.5, "_timestamp": 1e9 + step, "loss": step / 3, **more}
            for step in numbers]  # fmt: skip


def add_run(server: Server, project: str, run_id: str, rows: int = 5, **values: Any) -> None:
    server.add_run("team", project, run_id, summary={"loss": 1.0}, **values)
    server.add_history("team", project, run_id, rows=steps(range(rows)))


def log_rows(count: int) -> list[dict[str, str]]:
    return [{"loss": str(step / 3)} for step in range(count)]


def metadata(out: Path, stem: str = "team_demo") -> dict[str, Any]:
    return json.loads((out / f"{stem}_metadata.json").read_text("utf-8"))


def runs(out: Path, stem: str = "team_demo") -> pl.DataFrame:
    return pl.read_parquet(out / f"{stem}_runs.parquet", glob=False)


def history(out: Path, stem: str = "team_demo", kind: str = "history") -> pl.DataFrame:
    return pl.read_parquet(out / f"{stem}_{kind}.parquet", glob=False)


def steps_of(out: Path, run_id: str, stem: str = "team_demo") -> list[int]:
    return history(out, stem).filter(run_id=run_id)["_step"].to_list()


def snapshot(folder: Path) -> dict[str, bytes]:
    """What a user finds in the folder: everything but what an export keeps for itself."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".wandb_tools" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def export_ids(out: Path, stem: str = "team_demo") -> dict[str, str | None]:
    """What each file of a project says of the export that it belongs to."""
    ids = {file.name: pq.read_metadata(file).metadata for file in sorted(out.glob(f"{stem}_*.parquet"))}
    told = {name: (texts.get(b"wandb_tools.export_id") or b"").decode() or None for name, texts in ids.items()}
    return told | {f"{stem}_metadata.json": metadata(out, stem).get("export_id")}


def assert_belong_together(out: Path, *kinds: str) -> None:
    ids = export_ids(out)
    assert set(ids) == {"team_demo_metadata.json", *(f"team_demo_{kind}.parquet" for kind in kinds)}
    assert len(set(ids.values())) == 1, ids
    assert all(ids.values()), ids


# --- filters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ['{"config.seed": 0}', '{"config.amp": false}', '{"config.note": ""}', '{"group": null}']
)
def test_a_value_that_python_takes_for_false_filters_too(server, export, where):
    server.add_run("team", "demo", "zero", config={"seed": 0, "amp": False, "note": ""}, group="g")
    server.add_run("team", "demo", "one", config={"seed": 1, "amp": True, "note": "x"})
    done = export("team/demo", "--where", where, "--dry-run", "--json", *QUICK)
    assert "kept 1 of 2 runs" in done.err
    assert done.code == 0
    assert [row["runs"] for row in json.loads(done.out)["exports"]] == [1]


def test_such_a_value_beside_a_place_and_a_flag(server, export, out):
    for seed in (0, 1):
        for tag in ("a", "b"):
            server.add_run("team", "demo", f"{seed}{tag}", config={"seed": seed}, tags=[tag], sweep="s1")
    server.add_run("team", "demo", "elsewhere", config={"seed": 0}, tags=["a"])
    done = export("team/demo/sweeps/s1", "--where", '{"config.seed": 0}', "--tag", "a", *QUICK)
    assert done.code == 0, done.err
    assert runs(out)["id"].to_list() == ["0a"]
    assert metadata(out)["filters"]["where"] == {"config.seed": 0}


@pytest.mark.parametrize("flag", ["--entity", "--project", "--tag", "--group", "--sweep", "--state", "--where"])
def test_a_filter_without_a_value_is_no_filter(tmp_path, call_export, flag):
    """As of `--tag "$TAG"` where the variable is not set: everything would be exported."""
    done = call_export(flag, "", "-o", tmp_path / "out", env={"WANDB_BASE_URL": "http://127.0.0.1:1"})
    assert (done.code, done.out) == (2, "")
    assert flag in done.err
    assert done.err.count("\n") == 1


# --- one rule for one word ------------------------------------------------------------------------------------

LABELLED = {
    "small": {"tags": ["base"], "group": "seeds", "sweep": "s1", "state": "finished"},
    "large": {"tags": ["Base"], "group": "Seeds", "sweep": "S1", "state": "failed"},
    "none": {"tags": [], "group": None, "sweep": None, "state": "crashed"},
}
LABEL_FLAGS_OFFLINE = [
    (("--tag", "Base"), {"large"}),
    (("--tag", "base,BASE"), {"small"}),
    (("--group", "seeds"), {"small"}),
    (("--group", "SEEDS,Seeds"), {"large"}),
    (("--sweep", "S1"), {"large"}),
    (("--state", "Finished,CRASHED"), {"small", "none"}),
]


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--tag", "base,BASE", "--state", "Finished,CRASHED"), "small"),
        (("--group", "SEEDS,Seeds", "--sweep", "S1", "--state", "FAILED"), "large"),
    ],
)
def test_labels_are_exact_and_states_are_not(server, export, out, flags, kept):
    for run_id, values in LABELLED.items():
        server.add_run("team", "demo", run_id, **values)
    done = export("team/demo", *flags, *QUICK)
    assert done.code == 0, done.err
    assert runs(out)["id"].to_list() == [kept]


@pytest.mark.parametrize(("flags", "kept"), LABEL_FLAGS_OFFLINE)
def test_labels_are_exact_and_states_are_not_offline(tmp_path, export_logs, out, flags, kept):
    exit_codes = {"finished": 0, "failed": 1, "crashed": 254}
    for run_id, values in LABELLED.items():
        write_log(
            tmp_path / "logs", run_id, entity="team", project="demo", exit_code=exit_codes[values["state"]],
            tags=values["tags"], run_group=values["group"] or "", sweep_id=values["sweep"] or "",
        )  # fmt: skip
    done = export_logs(*flags)
    assert done.code == 0, done.err
    assert set(runs(out)["id"]) == kept


# --- less data never replaces more ----------------------------------------------------------------------------


def log_cut_to(file: Path, rows: int, *, in_a_record: bool) -> None:
    """Cut a log where a crash might: after some rows, between two records or in the middle of one."""
    content = file.read_bytes()
    record = records_of(content)[1 + rows]  # the first one is the run's
    file.write_bytes(content[: (record.start + record.end) // 2 if in_a_record else record.start])


@pytest.mark.parametrize("in_a_record", [True, False])
def test_a_truncated_log_leaves_the_fuller_history(tmp_path, export_logs, out, in_a_record):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(300))
    write_log(tmp_path / "logs", "other", entity="team", project="demo", rows=log_rows(7))
    whole = file.read_bytes()
    assert export_logs("--include-history").code == 0
    log_cut_to(file, 100, in_a_record=in_a_record)
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    assert steps_of(out, "abc") == list(range(300))
    assert steps_of(out, "other") == list(range(7))
    assert metadata(out)["kept_fuller"] == ["abc"]
    assert "abc" in done.err
    assert metadata(out)["history"] == {"rows": 307, "runs": 2, "sampled": False, "mismatched": []}
    assert metadata(out)["runs"]["by_state"] == Counter(runs(out)["state"])  # of the rows that are written
    file.write_bytes(whole)
    assert export_logs("--include-history").code == 0
    assert metadata(out)["kept_fuller"] == []
    assert steps_of(out, "abc") == list(range(300))


def test_a_value_that_is_no_utf8_costs_only_itself(tmp_path, export_logs, out):
    rows = [{"loss": "1.5", "other": "1"}, {"loss": "2.5", "other": "2"}, {"loss": "3.5", "other": "3"}]
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=rows)
    payloads = [record.payload.replace(b"2.5", b"2\xff5") for record in records_of(file.read_bytes())]
    file.write_bytes(log_of(payloads))
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    history = pl.read_parquet(out / "team_demo_history.parquet", columns=["metric_loss", "metric_other"])
    assert history.rows() == [(1.5, 1), (None, 2), (3.5, 3)]
    assert metadata(out)["skipped_history_keys"] == ["loss"]


def test_a_cut_log_that_has_more_than_before_does_replace(tmp_path, export_logs, out):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(60))
    whole = file.read_bytes()
    for rows, kept in ((20, []), (40, []), (30, ["abc"])):
        file.write_bytes(whole)
        log_cut_to(file, rows, in_a_record=True)
        assert export_logs("--include-history").code == 0
        assert steps_of(out, "abc") == list(range(max(rows, 40) if kept else rows))
        assert metadata(out)["kept_fuller"] == kept


def test_a_torn_log_leaves_the_history_that_the_server_gave(server, export, export_logs, tmp_path, out):
    add_run(server, "demo", "abc", rows=40)
    assert export("team/demo", "--include-history", *QUICK).code == 0
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(40))
    log_cut_to(file, 10, in_a_record=True)
    done = export_logs("--include-history")
    assert done.code == 0, done.err
    assert steps_of(out, "abc") == list(range(40))
    assert metadata(out)["kept_fuller"] == ["abc"]


def test_a_log_cut_to_nothing_costs_the_run_nothing(tmp_path, export_logs, out):
    file = write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(30))
    write_log(tmp_path / "logs", "other", entity="team", project="demo", rows=log_rows(7))
    assert export_logs("--include-history").code == 0
    file.write_bytes(HEADER + b"\0" * 3)
    done = export_logs("--include-history", "--prune")
    assert done.code in (0, 3), done.err
    assert set(runs(out)["id"]) == {"abc", "other"}
    assert steps_of(out, "abc") == list(range(30))


# --- files that belong together -------------------------------------------------------------------------------


def test_the_files_of_a_project_tell_which_export_they_are_of(server, export, out):
    for run_id in "ab":
        add_run(server, "demo", run_id)
        server.add_events("team", "demo", run_id, [{"_runtime": 1, "_timestamp": 1e9, "system.cpu": 7}])
    flags = ("--include-history", "--history-samples", 3, "--system-metrics")
    kinds = ("runs", "history", "history_sampled", "system")
    assert export("team/demo", *flags, *QUICK).code == 0
    assert_belong_together(out, *kinds)
    add_run(server, "demo", "c")
    assert export("team/demo", *flags, *QUICK).code == 0
    assert_belong_together(out, *kinds)
    add_run(server, "demo", "d")
    assert export("team/demo", *QUICK).code == 0  # which asks for none of the histories that are there
    assert_belong_together(out, *kinds)
    assert set(runs(out)["id"]) == set("abcd")
    assert set(history(out)["run_id"]) == set("abc")


def test_the_files_of_an_offline_export_tell_it_too(tmp_path, export_logs, out):
    write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(5))
    assert export_logs("--include-history").code == 0
    assert_belong_together(out, "runs", "history")


@pytest.mark.parametrize("flags", [("--include-history",), ()])
def test_an_export_killed_while_it_published_is_noticed_and_mended(server, export, out, tmp_path, flags):
    add_run(server, "demo", "a", rows=3)
    assert export("team/demo", "--include-history", *QUICK).code == 0
    older = tmp_path / "older"
    shutil.copytree(out, older)
    server.add_history("team", "demo", "a", rows=steps(range(3, 5)))
    server.change_run("team", "demo", "a", heartbeat_at="2026-02-01T00:00:00Z")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    for name in ("team_demo_runs.parquet", "team_demo_metadata.json"):  # the new history beside what was before
        shutil.copy(older / name, out / name)
    assert len(set(export_ids(out).values())) == 2
    done = export("team/demo", *flags, *QUICK)
    assert done.code == 0, done.err
    assert_belong_together(out, "runs", "history")
    assert steps_of(out, "a") == list(range(5))
    assert runs(out)["history_rows"].to_list() == [5]


INTERRUPTING = """
import os, signal, time
renamed, number = [], int(os.environ["INTERRUPT_BEFORE"])

def interrupted(rename):
    def call(source, target, *arguments, **named):
        place, name = os.path.split(os.path.abspath(target))
        if name.startswith("team_demo_") and ".wandb_tools" not in place:
            renamed.append(target)
            if len(renamed) == number:
                os.killpg(0, signal.SIGINT)  # what Ctrl-C does: it reaches every process of the group
                time.sleep(0.5)  # for the thread or process that it ends, if that is another one
        return rename(source, target, *arguments, **named)
    return call

os.rename, os.replace = interrupted(os.rename), interrupted(os.replace)
"""


@pytest.fixture
def interrupt_before(tmp_path, script_command) -> Callable[..., Done]:
    """Run the export with Ctrl-C pressed just before the n-th rename of a file into its place."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(INTERRUPTING)

    def call(number: int, *arguments: object, env: dict[str, str] | None = None) -> Done:
        more = {"PYTHONPATH": str(tmp_path / "python"), "INTERRUPT_BEFORE": str(number)}
        command = script_command(SCRIPT, *arguments, env=(env or {}) | more)
        done = subprocess.run(
            **command, capture_output=True, start_new_session=True, timeout=LIMIT_S, check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return call


def assert_all_or_nothing(before: dict[str, bytes], out: Path) -> None:
    after = snapshot(out)
    assert set(after) == set(before)
    assert len({after[name] == before[name] for name in before}) == 1


@pytest.mark.parametrize("number", [2, 3])
def test_interrupted_while_publishing_all_files_are_new_or_none(tmp_path, export_logs, out, interrupt_before, number):
    write_log(tmp_path / "logs", "abc", entity="team", project="demo", rows=log_rows(5))
    assert export_logs("--include-history").code == 0
    before = snapshot(out)
    write_log(tmp_path / "logs", "def", entity="team", project="demo", rows=log_rows(6))
    done = interrupt_before(number, "--offline", tmp_path / "logs", "-o", out, "--include-history")
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted: to continue, run the same command again")
    assert "Traceback" not in done.err
    assert_all_or_nothing(before, out)
    assert export_logs("--include-history").code == 0
    assert set(history(out)["run_id"]) == {"abc", "def"}


def test_interrupted_while_publishing_what_a_server_gave(server, export, tmp_path, out, interrupt_before):
    add_run(server, "demo", "a")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    before = snapshot(out)
    add_run(server, "demo", "b")
    env = server.environment(tmp_path / "sdk")
    done = interrupt_before(2, "team/demo", "-o", out, "--include-history", *QUICK, env=env)
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted: to continue, run the same command again")
    assert "Traceback" not in done.err
    assert_all_or_nothing(before, out)


# --- one flag, one meaning ------------------------------------------------------------------------------------


def test_history_keys_leave_system_metrics_alone(server, export, out):
    server.add_run("team", "demo", "a", summary={"val/acc": 1, "loss": 1})
    server.add_history("team", "demo", "a", rows=[row | {"val/acc": 0.5} for row in steps(range(4))])
    events = [{"_runtime": t, "_timestamp": 1e9 + t, "system.cpu": t, "system.gpu.0.gpu": 50} for t in range(3)]
    server.add_events("team", "demo", "a", events)
    done = export("team/demo", "--include-history", "--history-keys", "val/*", "--system-metrics", *QUICK)
    assert done.code == 0, done.err
    system = history(out, kind="system")
    assert {"system_cpu", "system_gpu_0_gpu"} <= set(system.columns)
    assert (system["system_cpu"].to_list(), system["system_gpu_0_gpu"].to_list()) == ([0, 1, 2], [50, 50, 50])
    assert [name for name in history(out).columns if name.startswith("metric_")] == ["metric_val_acc"]
    assert "matches no metric" not in done.err


# --- whose file it is -----------------------------------------------------------------------------------------


def test_a_file_whose_owner_is_no_object_is_not_taken_for_ours(tmp_path, export_logs, out):
    out.mkdir()
    pl.DataFrame({"id": ["x"]}).write_parquet(out / "team_demo_runs.parquet", metadata={"wandb_tools.source": '"team"'})
    write_log(tmp_path / "logs", "abc", entity="team", project="demo")
    done = export_logs()
    assert done.code == 1
    assert f"the earlier export {out / 'team_demo_runs.parquet'} cannot be read" in done.err


@pytest.mark.parametrize("left", [("runs", "history"), ("history",)])
def test_the_owner_of_a_file_is_read_from_it(tmp_path, export_logs, out, left):
    """Killed before it wrote the metadata, an export of `a_b/c` leaves files whose names fit `a/b_c` as well."""
    write_log(tmp_path / "logs" / "one", "first", entity="a_b", project="c", rows=log_rows(3))
    assert export_logs("--include-history").code == 0
    for file in out.glob("a_b_c_*"):
        if file.name not in {f"a_b_c_{kind}.parquet" for kind in left}:
            file.unlink()
    before = snapshot(out)
    write_log(tmp_path / "logs" / "two", "second", entity="a", project="b_c", rows=log_rows(4))
    done = export_logs("--include-history", "-e", "a")
    assert done.code == 0, done.err
    assert snapshot(out).items() >= before.items()
    assert export_logs("--include-history").code == 0
    owners = {}
    for file in out.glob("*_runs.parquet"):
        frame = pl.read_parquet(file, glob=False)
        owners |= {place: frame["id"].to_list() for place in frame.select("entity", "project").unique().rows()}
    assert owners == {("a_b", "c"): ["first"], ("a", "b_c"): ["second"]}
    assert len(list(out.glob("*_runs.parquet"))) == 2


# --- one bad thing costs itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["runs", "history"])
def test_an_unreadable_earlier_file_costs_its_project_alone(tmp_path, export_logs, out, kind):
    for project in ("bad", "good", "other"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    assert export_logs("--include-history", "-p", "bad").code == 0
    bad_file = out / f"team_bad_{kind}.parquet"
    bad_file.write_bytes(bad_file.read_bytes()[:-20])
    before = snapshot(out)
    done = export_logs("--include-history")
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and bad_file.name in line]
    assert snapshot(out).items() >= before.items()
    for project in ("good", "other"):
        assert str(out / f"team_{project}_runs.parquet") in done.out.splitlines()
        assert steps_of(out, project, f"team_{project}") == list(range(5))
        assert metadata(out, f"team_{project}")["status"] == "complete"
    told = json.loads(export_logs("--include-history", "--json").out)["exports"]
    assert {row["project"]: row["status"] for row in told} == {"bad": "failed", "good": "complete", "other": "complete"}


def test_an_unreadable_earlier_file_costs_its_project_alone_online(server, export, out):
    for project in ("bad", "good"):
        add_run(server, project, project)
    assert export("team/bad", *QUICK).code == 0
    bad_file = out / "team_bad_runs.parquet"
    bad_file.write_bytes(b"no parquet")
    done = export("-e", "team", "--include-history", *QUICK)
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and bad_file.name in line]
    assert bad_file.read_bytes() == b"no parquet"
    assert str(out / "team_good_runs.parquet") in done.out.splitlines()
    assert steps_of(out, "good", "team_good") == list(range(5))


def test_a_file_that_cannot_be_replaced_costs_its_project_alone(tmp_path, export_logs, out):
    for project in ("bad", "good"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    (out / "team_bad_metadata.json").mkdir(parents=True)
    done = export_logs("--include-history")
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and "team_bad_metadata.json" in line]
    assert str(out / "team_good_runs.parquet") in done.out.splitlines()


# --- counts in the metadata -----------------------------------------------------------------------------------


def test_only_runs_with_rows_in_the_file_are_counted(server, export, out):
    for run_id in "abc":
        add_run(server, "demo", run_id)
    add_run(server, "demo", "empty", rows=0)
    server.fault("status", match={"kind": "download", "run": "b"}, status=500)
    assert export("team/demo", "--include-history", *QUICK).code == 3
    assert metadata(out)["history"] == {"rows": 10, "runs": 2, "sampled": False, "mismatched": ["b"]}
    server.clear_faults()
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert metadata(out)["history"] == {"rows": 15, "runs": 3, "sampled": False, "mismatched": []}


def test_full_rows_beside_sampled_ones_are_not_sampled(server, export, out):
    add_run(server, "demo", "a", rows=50)
    assert export("team/demo", "--include-history", "--history-samples", 10, *QUICK).code == 0
    assert metadata(out)["history"] == {"rows": 50, "runs": 1, "sampled": False, "mismatched": []}
    for samples in (10, 50, 60):
        assert export("team/demo", "--history-samples", samples, *QUICK).code == 0
        assert metadata(out)["history"]["sampled"] is (samples < 50)


def test_steps_that_repeat_are_no_loss_after_the_run_was_resumed(server, export, out):
    """The server counts a step that was logged twice as two rows; the file has it once."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    server.add_history("team", "demo", "one", rows=[*steps([0, 1]), *steps([1, 2])])
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert (steps_of(out, "one"), metadata(out)["history"]["mismatched"]) == ([0, 1, 2], ["one"])
    server.add_history("team", "demo", "one", rows=steps([3, 4]))
    server.change_run("team", "demo", "one", heartbeat_at="2026-02-01T00:00:00Z")
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert steps_of(out, "one") == [0, 1, 2, 3, 4]
    assert (metadata(out)["status"], metadata(out)["failed"]) == ("complete", [])
    assert metadata(out)["history"] == {"rows": 5, "runs": 1, "sampled": False, "mismatched": ["one"]}
    add_run(server, "demo", "two")  # after which the other run's repeated steps are still known
    server.reset()
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert metadata(out)["history"] == {"rows": 10, "runs": 2, "sampled": False, "mismatched": ["one"]}
    assert {run_id for request in server.requests(kind="download") for run_id in request["runs"]} == {"two"}


def test_steps_that_repeat_in_another_of_the_servers_exports(server, export, out):
    """They are no loss; if both exports begin at one step, the rows with later times are the newer."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    for time in range(4):
        server.add_history("team", "demo", "one", rows=steps([0, 1, 2], _timestamp=1e9 + time, loss=time))
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history(out).select("_step", "metric_loss").rows() == [(0, 3), (1, 3), (2, 3)]
    assert metadata(out)["history"]["mismatched"] == ["one"]


def test_many_live_rows_of_one_step(server, export, out):
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    live = [row for loss in range(9) for row in steps([2], loss=loss)]
    server.add_history("team", "demo", "one", rows=steps([0, 1, 2]), live=live)
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history(out)["metric_loss"].to_list() == [0, 1 / 3, 8]


def test_steps_that_repeat_are_no_loss_after_an_interruption(server, export, start, out):
    """What an interrupted export has finished counts as finished, repeated steps and all."""
    server.add_run("team", "demo", "one", summary={"loss": 1.0})
    server.add_history("team", "demo", "one", rows=[*steps([0, 1]), *steps([1, 2])])
    add_run(server, "demo", "two")
    hang = server.fault("hang", match={"kind": "download", "run": "two"})
    process = start("team/demo", "--include-history", "--workers", 1)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    wait_until(lambda: finished_runs(out) == {"one"})
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    for asked in ({"two"}, set()):
        server.reset()
        done = export("team/demo", "--include-history", *QUICK)
        assert done.code == 0, done.err
        assert {run_id for request in server.requests(kind="download") for run_id in request["runs"]} == asked
        assert metadata(out)["history"] == {"rows": 8, "runs": 2, "sampled": False, "mismatched": ["one"]}


# --- pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("created", ["at once", "evenly"])
def test_pages_are_large_again_after_two_outages(server, export, out, created):
    n = 6000
    server.add_runs("team", "demo", n, keys=8)
    if created == "at once":  # no time to divide them by: page after page
        for run in server.project("team", "demo").runs.values():
            run.created_at = "2026-01-05T00:00:00Z"
        server.project("team", "demo").changed()
    assert export("team/demo", "-o", out.with_name("undisturbed"), "--workers", 1, *QUICK).code == 0
    undisturbed = sum(request["first"] > 1 for request in server.requests(kind="graphql"))
    server.reset()
    pages = {"field": "runs", "above_first": 1}
    server.fault("status", match=pages, status=502, times=2, after=1)
    server.fault("status", match=pages, status=502, times=2, after=3)  # of the requests that the first let pass
    done = export("team/demo", "--workers", 1, *QUICK)
    assert done.code == 0, done.err
    assert runs(out)["id"].n_unique() == runs(out).height == n
    asked = [request["first"] for request in server.requests(kind="graphql") if request["first"] > 1]
    failed = [number for number, request in enumerate(server.requests(kind="graphql")) if request["fault"]]
    assert len(failed) == 4
    assert max(asked) in asked[-3:]
    assert len(asked) <= undisturbed + 12  # at most a few smaller ones after each outage


def test_a_run_that_stands_twice_in_a_page_is_one_row(server, export, out):
    for run_id in "abc":
        add_run(server, "demo", run_id)
    server.fault("repeat", match={"field": "runs"})
    done = export("team/demo", *QUICK)
    assert done.code == 0, done.err
    assert sorted(runs(out)["id"]) == ["a", "b", "c"]
    counts = metadata(out)["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (3, 3, 0, 0)
    assert sum(counts["by_state"].values()) == 3
    assert metadata(out)["status"] == "complete"
    assert "3 runs" in done.err
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert history(out).height == 15


@pytest.mark.parametrize("bad", [0, 7, 11])
def test_a_run_that_the_server_cannot_return_costs_itself_alone(server, export, out, bad):
    for number in range(12):
        created = f"2026-01-01T00:00:{number:02d}"
        server.add_run("team", "demo", f"r{number:02d}", created_at=created, summary={"loss": number})
    server.fault("error", match={"field": "summaryMetrics", "run": f"r{bad:02d}"})
    done = export("team/demo", *QUICK)
    assert (done.code, done.err.count(f"error: r{bad:02d}: its config or summary cannot be fetched: ")) == (3, 1)
    assert sorted(runs(out)["metric_loss"]) == [number for number in range(12) if number != bad]
    counts = metadata(out)["runs"]
    assert (counts["listed"], counts["written"], counts["failed"], counts["filtered"]) == (12, 11, 1, 0)
    server.clear_faults()
    assert export("team/demo", *QUICK).code == 0
    server.fault("error", match={"field": "summaryMetrics", "run": f"r{bad:02d}"})
    assert export("team/demo", "--prune", *QUICK).code == 3
    assert sorted(runs(out)["metric_loss"]) == [*range(12)]  # the row of the export before


def test_a_server_that_cannot_return_many_runs_is_not_asked_for_each(server, export, out):
    server.add_runs("team", "demo", 60, keys=2)
    server.fault("error", match={"field": "summaryMetrics"})
    done = export("team/demo", "--retries", 0)
    assert (done.code, len(server.requests(operation="Runs"))) == (1, 7)
    assert "config or summary cannot be fetched: simulated failure" in done.err


def test_inactive_runs_that_the_server_cannot_return_are_left_out(server, export, out):
    server.add_run("team", "demo", "old", created_at="2025-01-01T00:00:00", heartbeat_at="2025-01-02T00:00:00")
    server.add_run("team", "demo", "new", created_at="2026-01-01T00:00:00", heartbeat_at="2026-01-02T00:00:00")
    server.fault("error", match={"field": "summaryMetrics", "run": "old"})
    done = export("team/demo", "--active-since", "2026-01-01", *QUICK)
    assert done.code == 0, done.err
    assert (runs(out)["id"].to_list(), metadata(out)["runs"]["filtered"]) == (["new"], 1)


def test_a_run_that_the_server_cannot_return_and_nothing_else(server, export):
    server.add_run("team", "demo", "a")
    server.fault("error", match={"field": "summaryMetrics"})
    done = export("team/demo/a", *QUICK)
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert "error: team/demo: run a: its config or summary cannot be fetched: " in done.err


NODE = ("data", "project", "runs", "edges", 0, "node")


@pytest.mark.parametrize("count", ["0", "null"])
def test_a_history_that_the_server_does_not_count(server, export, out, count):
    server.add_run("team", "demo", "a", summary={"loss": 1.0, "_step": 4})
    server.add_history("team", "demo", "a", rows=steps(range(5)))
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE, "historyLineCount"], value=count)
    export("team/demo", "--include-history", *QUICK)
    assert history(out).height == 5


def test_a_run_with_a_step_and_no_history(server, export):
    server.add_run("team", "demo", "a", summary={"_step": 4})
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, done.err) == (0, "team/demo: 1 run (1 finished), 0 history rows\n")


def test_the_last_lines_of_output_without_a_count(server, export, out):
    server.add_run("team", "demo", "a")
    server.add_console("team", "demo", "a", [f"2026-01-01T00:00:00 line {number}" for number in range(9)])
    node = {"number": 8, "timestamp": "2026-01-01T00:00:00", "level": None, "line": "line 8"}
    page = {"edges": [{"node": node}], "pageInfo": {"endCursor": None, "hasNextPage": False}}
    few = json.dumps({"logLineCount": None, "logLines": page})
    server.fault("replace", match={"operation": "Rows"}, times=1, place=["data", "project", "r0"], value=few)
    assert export("team/demo", "--console-lines", 3, *QUICK).code == 0
    assert pl.read_parquet(out / "team_demo_console.parquet")["line"].to_list() == [6, 7, 8]


@pytest.mark.parametrize("is_exported", [True, False])
def test_a_history_without_a_count_and_a_summary(server, export, out, is_exported):
    server.add_run("team", "demo", "a", summary={})
    server.add_history("team", "demo", "a", **{"rows" if is_exported else "live": steps(range(5))})
    server.configure(live_data_before_export=False)
    for operation, place in (
        ("Runs", [*NODE, "historyLineCount"]),
        ("Rows", ["data", "project", "r0", "historyLineCount"]),
    ):
        server.fault("replace", match={"operation": operation}, place=place, value="null")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert history(out).height == 5


def test_steps_that_the_server_spells_as_floats(server, export, out):
    server.add_run("team", "demo", "a", summary={"_step": 6.0})
    server.add_history("team", "demo", "a", rows=steps(range(4)), live=steps(range(4, 7)))
    place = ["data", "project", "r0", "parquetHistory", "liveData"]
    live = json.dumps([{"_step": step} for step in (4.0, 5.0, 6.0)])
    server.fault("replace", match={"operation": "Rows"}, place=place, value=live)
    done = export("team/demo", "--include-history", *QUICK)
    assert done.code == 0, done.err
    assert (history(out)["_step"].to_list(), runs(out)["last_step"].to_list()) == ([*range(7)], [6])


def test_odd_exports_beside_the_rows(server, export, out, tmp_path):
    """An export without rows or columns, and text that is stored in a dictionary."""
    server.add_run("team", "demo", "a", summary={"_step": 1})
    server.add_history("team", "demo", "a", rows=steps(range(2)))
    text = pl.Series("loss", ["NaN", "NaN"], dtype=pl.Categorical)
    rows = pl.DataFrame([pl.Series("_step", [2, 3]), text])
    for name in ("text", "empty"):
        rows.write_parquet(tmp_path / name)
        server.store.run("team", "demo", "a").history.add_export(tmp_path / name)
    pl.DataFrame().write_parquet(tmp_path / "empty")
    export("team/demo", "--include-history", *QUICK)
    assert [str(value) for value in history(out)["metric_loss"]][2:] == ["nan", "nan"]
    assert history(out)["_step"].to_list() == [0, 1, 2, 3]


def test_control_characters_in_a_config_are_read_as_the_sdk_reads_them(server, export, out):
    server.add_run("team", "demo", "a")
    text = json.dumps('{"note": {"value": "a\tb"}, "_wandb": {"value": {}}}')
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE, "config"], value=text)
    assert export("team/demo", *QUICK).code == 0
    assert runs(out)["config_note"].to_list() == ["a\tb"]


def test_null_in_place_of_a_run(server, export, out):
    for run_id in "ab":
        add_run(server, "demo", run_id)
    server.fault("replace", match={"operation": "Runs"}, place=[*NODE], value="null")
    done = export("team/demo", *QUICK)
    assert (done.code, runs(out).height) == (3, 1)
    assert "the server counts 2 runs, but lists 1" in done.err


def test_a_page_without_a_run_that_calls_itself_not_the_last(server, export, out):
    add_run(server, "demo", "a")
    page = {"edges": [{"node": None}], "pageInfo": {"endCursor": "x", "hasNextPage": True}}
    body = json.dumps({"data": {"project": {"runs": page, "inWindow": 1}}})
    server.fault("status", match={"operation": "Runs"}, times=1, status=200, body=body)
    assert export("team/demo", *QUICK).code == 0
    assert runs(out)["id"].to_list() == ["a"]


def test_many_pages_that_cannot_be_understood_end_the_export(server, export, out):
    """None of them may keep what the next one waits for."""
    server.add_runs("team", "demo", 10_000, keys=8)
    server.add_runs("team", "good", 3, keys=8)
    body = '{"data": {"project": {"runs": {"pageInfo": {"endCursor": null, "hasNextPage": false}, "edges": 7}}}}'
    server.fault("status", match={"field": "runs", "above_first": 1, "project": "demo"}, status=200, body=body)
    done = export("-e", "team", "--timeout", 10, "--retries", 0)
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: team/demo: ")]
    assert runs(out, "team_good").height == 3


# --- interrupted, killed, unread ------------------------------------------------------------------------------


def children_of(process: subprocess.Popen[str]) -> list[int]:
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the script's own processes there")
@pytest.mark.parametrize("n", [3, 5_000])  # one page, or several at once
def test_whatever_becomes_of_its_processes_the_export_ends(server, start, out, n):
    """Processes that it starts, if any, may be killed, as where memory is short: no hang, and no useless advice."""
    server.add_runs("team", "demo", n, keys=8)
    hang = server.fault("hang", match={"field": "runs", "above_first": 1}, times=1)
    process = start("team/demo", "--workers", 4, *QUICK)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    for child in children_of(process):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    server.clear_faults()
    done = Done(process.wait(60), *process.communicate())
    is_written = (out / "team_demo_runs.parquet").exists() and runs(out).height == n
    assert done.code == (0 if is_written else 1), done.err
    assert "Traceback" not in done.err
    assert "--workers 1" not in done.err  # which limits questions at once, and no memory


def test_interrupted_among_many_pages_says_so_and_no_more(server, start, out):
    server.add_runs("team", "demo", 12_000, keys=40)
    hang = server.fault("hang", match={"field": "runs", "above_first": 1}, times=1, after=9)
    process = start("team/demo", "--workers", 4, "--timeout", 60)
    server.app.faults.wait_for_hits(hang, 1, LIMIT_S)
    process.send_signal(signal.SIGINT)
    out_text, err = process.communicate(timeout=60)
    assert (process.returncode, out_text, err.splitlines()[-1]) == (
        130,
        "",
        "interrupted: to continue, run the same command again",
    )
    assert "Traceback" not in err
    assert "exception" not in err
    assert not snapshot(out)


def into_a_closed_pipe(command: dict[str, Any]) -> Done:
    """How a script ends whose reader has gone (`| head -0`)."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(**command, stdout=write_end, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    finally:
        os.close(write_end)
    return Done(done.returncode, "", done.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_closed_pipe_does_not_hide_a_failure(tmp_path, script_command, out, flags, unbuffered):
    for project in ("bad", "good"):
        write_log(tmp_path / "logs", project, entity="team", project=project, rows=log_rows(5))
    file = next((tmp_path / "logs").rglob("run-bad.wandb"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255  # damage, which is no crash
    file.write_bytes(content)
    arguments = ("--offline", tmp_path / "logs", "-o", out, "--include-history", *flags)
    done = into_a_closed_pipe(script_command(SCRIPT, *arguments, env={"PYTHONUNBUFFERED": unbuffered}))
    assert done.code == 3, done.err
    assert [line for line in done.err.splitlines() if line.startswith("error: ") and "bad" in line]
    assert runs(out, "team_good").height == 1


def test_a_closed_pipe_does_not_hide_a_failing_project(server, script_command, tmp_path, out):
    for project in ("bad", "good"):
        add_run(server, project, project)
    server.fault("status", match={"project": "bad"}, status=403, message="permission denied")
    environment = server.environment(tmp_path / "sdk")
    done = into_a_closed_pipe(script_command(SCRIPT, "-e", "team", "-o", out, *QUICK, env=environment))
    assert done.code == 3, done.err
    assert "error: team/bad: " in done.err


# --- downloads ------------------------------------------------------------------------------------------------


def test_every_third_run_cut_short_at_first_loses_nothing(server, export, out):
    n = 60
    for number in range(n):
        add_run(server, "demo", f"r{number:02d}", rows=3)
        if number % 3 == 0:
            server.fault("cut", match={"kind": "download", "run": f"r{number:02d}"}, times=1)
    done = export("team/demo", "--include-history", "--timeout", 10)
    assert done.code == 0, done.err
    assert server.counts()["fault:cut"] == n // 3
    assert server.counts()["download"] == n + n // 3
    assert metadata(out)["history"] == {"rows": 3 * n, "runs": n, "sampled": False, "mismatched": []}
    assert "error" not in done.err


@pytest.mark.parametrize("fault", [{"action": "cut"}, {"action": "status", "status": 500}])
def test_a_download_that_fails_waits_by_itself(server, export, out, fault):
    n = 100
    for number in range(n):
        add_run(server, "demo", f"r{number:03d}", rows=3)
    server.fault(match={"kind": "download", "run": "r000"}, times=4, **fault)
    done = export("team/demo", "--include-history", "--timeout", 10, "--retries", 5)
    assert done.code == 0, done.err
    assert history(out).height == 3 * n
    order = [request["runs"] for request in server.requests(kind="download")]
    last = max(number for number, run_ids in enumerate(order) if run_ids == ["r000"])
    assert last > 0.9 * n  # the others, which take a moment each, were done while it waited, for seconds in all


def test_a_busy_storage_host_is_left_alone_by_all_downloads(server, export, out):
    n, wait_s = 120, 3
    for number in range(n):
        add_run(server, "demo", f"r{number:03d}", rows=3)
    after = {"Retry-After": str(wait_s)}
    server.fault("status", match={"kind": "download"}, times=1, status=503, headers=after)
    done = export("team/demo", "--include-history", "--timeout", 10)
    assert done.code == 0, done.err
    assert history(out).height == 3 * n
    log = server.requests(kind="download")
    refused = min(request["received_s"] for request in log if request["fault"])
    times = [request["received_s"] - refused for request in log]
    assert not [time for time in times if wait_s / 2 < time < wait_s]  # what was on its way may come
    assert max(times) > wait_s
    assert "503" in done.err


# --- odd things in one run, and leftovers -------------------------------------------------------------------------


def exports_of(server: Server, run_id: str) -> list[Path]:
    """The parquet files that the server has of a run's history."""
    return [export.file for export in server.store.run("team", "demo", run_id).history.exports]


@pytest.mark.parametrize(
    ("name", "columns", "lost"),
    [
        ("no step", {"loss": [1.0, 2.0, 3.0]}, True),
        ("a step that is text", {"_step": ["0", "x", "2"], "loss": [1.0, 2.0, 3.0]}, True),
        ("a time that is text", {"_step": [0, 1, 2], "_timestamp": ["a", "b", "c"], "loss": [1.0, 2.0, 3.0]}, False),
    ],
)
def test_an_odd_parquet_export_costs_its_run_alone(server, export, out, name, columns, lost):
    for run_id in "abc":
        add_run(server, "demo", run_id, rows=3)
    for file in exports_of(server, "b"):
        pl.DataFrame(columns).write_parquet(file)
    done = export("team/demo", "--include-history", *QUICK)
    assert (done.code, sorted(runs(out)["id"])) == (3 if lost else 0, ["a", "b", "c"]), (name, done.err)
    assert steps_of(out, "a") == steps_of(out, "c") == [0, 1, 2]
    assert steps_of(out, "b") == ([] if lost else [0, 1, 2])
    assert [failure["run"] for failure in metadata(out)["failed"]] == (["b"] if lost else [])


def test_a_damaged_leftover_of_an_interrupted_export_is_fetched_again(server, export, out):
    add_run(server, "demo", "a")
    folder = out / ".wandb_tools" / "histories" / "team_demo" / "history"
    folder.mkdir(parents=True)
    (folder / "empty.parquet").write_bytes(b"")
    pl.DataFrame({"x": [1]}).write_parquet(folder / "foreign.parquet")
    assert export("team/demo", "--include-history", *QUICK).code == 0
    assert steps_of(out, "a") == [0, 1, 2, 3, 4]


def test_runs_that_are_left_out_decide_no_dtype(server, export, out):
    add_run(server, "demo", "new", config={"x": 1}, heartbeat_at="2026-03-01T00:00:00Z")
    add_run(server, "demo", "old", config={"x": "abc", "y": 2}, heartbeat_at="2026-01-01T00:00:00Z")
    assert export("team/demo", "--active-since", "2026-02-01", *QUICK).code == 0
    assert runs(out).select(pl.col("^config_.*$")).to_dict(as_series=False) == {"config_x": [1]}


def test_runs_without_rows_are_not_asked_for_each_time(server, export, out):
    for number in range(6):
        add_run(server, "demo", f"r{number}")
    server.add_events("team", "demo", "r0", [{"_runtime": 1.0, "_timestamp": 2.0, "system.cpu": 3.0}])
    flags = ("team/demo", "--include-history", "--system-metrics", *QUICK)
    assert export(*flags).code == 0
    server.change_run("team", "demo", "r0", heartbeat_at="2026-06-01T00:00:00Z")
    assert export(*flags).code == 0
    server.reset()
    before = (out / "team_demo_history.parquet").stat().st_ino
    assert export(*flags).code == 0
    assert server.counts().get("operation:Histories", 0) == 0
    assert (out / "team_demo_history.parquet").stat().st_ino == before


def test_rows_that_repeat_are_counted_right_the_second_time(server, export, out):
    server.add_run("team", "demo", "a", summary={"loss": 1.0})
    server.add_history("team", "demo", "a", rows=[*steps([0, 1]), *steps([1, 2])])
    counts = []
    for _ in range(2):
        done = export("team/demo", "--include-history", "--json", *QUICK)
        counts.append(json.loads(done.out)["exports"][0]["history_rows"])
    assert counts == [3, 3]
    assert metadata(out)["history"]["mismatched"] == ["a"]


def test_closed_standard_streams(script_command, tmp_path, out):
    write_log(tmp_path / "logs", "a", rows=log_rows(3), entity="team", project="demo")
    command = script_command(SCRIPT, "--offline", tmp_path / "logs", "-o", out)
    shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command.pop("args")]
    assert subprocess.run(shell, **command, timeout=LIMIT_S, check=False).returncode == 0
    assert runs(out)["id"].to_list() == ["a"]


def test_a_project_keeps_the_names_of_its_files(server, export, out):
    add_run(server, "demo", "a")
    add_run(server, "Demo", "b")
    assert export("team/demo", *QUICK).code == 0
    assert export("team/demo", "team/Demo", *QUICK).code == 0
    assert runs(out)["id"].to_list() == ["a"]
    assert len(list(out.glob("*_runs.parquet"))) == 2
    assert export("team/Demo", *QUICK).code == 0
    assert len(list(out.glob("*_runs.parquet"))) == 2


def test_a_resumed_log_without_the_one_before_replaces_nothing(export_logs, tmp_path, out):
    places = {"entity": "team", "project": "demo"}
    first = write_log(tmp_path / "logs", "a", rows=log_rows(5), **places)
    later = START + timedelta(hours=1)
    write_log(tmp_path / "logs", "a", rows=log_rows(4), started_at=later, resumed=True, **places)
    assert export_logs("--include-history").code == 0
    assert steps_of(out, "a") == list(range(9))
    shutil.rmtree(first.parent)
    assert export_logs("--include-history").code == 0
    assert steps_of(out, "a") == list(range(9))
    assert metadata(out)["kept_fuller"] == ["a"]


def test_null_in_place_of_runs_costs_the_project_alone(server, export, out):
    add_run(server, "demo", "a")
    add_run(server, "odd", "b")
    server.fault("null", match={"project": "odd", "field": "runs"})
    done = export("team/demo", "team/odd", *QUICK)
    assert (done.code, runs(out)["id"].to_list()) == (3, ["a"])
    assert "team/odd" in done.err
