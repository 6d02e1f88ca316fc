# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "duckdb>=1.4,<3",
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2.1,<3",
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6.0.2,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.2,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Ends exports and merges at every moment, and looks at what is left. Run by hand:

  uv run tests/attacks/kill.py                                  # everything: about an hour
  uv run tests/attacks/kill.py --only merge --moments 20 --seed 7

  export        kill -9 of a first export from a server, with histories, consoles and tables
  incremental   kill -9 of an export onto an earlier one, after runs were added, changed and deleted on the server
  merge         kill -9 of aggregate_runs.py with --history, onto an earlier result
  partitions    the same with --partition-by, which replaces a folder
  signals       SIGINT and SIGTERM, in turn, of an incremental export
  mergesignals  the same of a merge

Each is ended at --moments random moments of its duration, and before each operation on a file that Python does for it.
After each, the files that are there must open, and be all the earlier ones or all the new ones; --verify must agree.
Between the renames of one project, or of a folder of partitions, no kill -9 can be undone: then --verify has to name
the files, and the next run has to mend it (these moments are counted as "between renames"). After a signal it must
never be so. Then the same command must complete, and leave the same names, rows, columns and metadata as if it had
never been disturbed.

Prints what was found at the end; exit code 1 if there was anything.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "wandb-tools")]

import aggregate_runs  # noqa: E402
import export_runs  # noqa: E402
from crashes import EXPORT, Ended, change, command, content, differences, export_ids, fill, run, snapshot  # noqa: E402
from wandb_server import Server  # noqa: E402

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

RUNS, ROWS, LINES = 12, 20, 10
ATTACKS = ("export", "incremental", "merge", "partitions", "signals", "mergesignals")


@dataclass
class Attack:
    name: str
    before: Path | None  # what the folder holds at first
    command: Callable[[Path], dict[str, Any]]  # that writes to a folder
    signals: tuple[signal.Signals, ...] = (signal.SIGKILL,)
    is_export: bool = True
    moments: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def carry_out(attack: Attack, work: Path, moments: int, chance: random.Random) -> None:
    """End the command at all moments, and note what is wrong."""
    folder = work / "out"
    durations = []
    for _ in range(3):
        start_anew(attack, folder)
        started = time.monotonic()
        undisturbed = run(attack.command(folder), folder)
        durations.append(time.monotonic() - started)
        assert undisturbed.code == 0, undisturbed.err
    truth, operations = content(folder), len(undisturbed.operations)
    duration_s = statistics.median(durations)
    print(f"{attack.name}: {duration_s:.2f} s and {operations} operations undisturbed", flush=True)
    timed: list[dict[str, Any]] = [{"after_s": chance.uniform(0, duration_s)} for _ in range(moments)]
    for number, moment in enumerate([*timed, *({"at": at} for at in range(1, operations + 1))]):
        start_anew(attack, folder)
        old = snapshot(folder)
        by = attack.signals[number % len(attack.signals)]
        ended = run(attack.command(folder), folder, by=by, **moment)
        where = f"{attack.name}, {by.name} {moment} ({ended.operations[-1] if ended.operations else 'at once'})"
        attack.moments["ended by itself" if ended.code == 0 else "ended before its end"] += 1
        problems = list(problems_left(attack, ended, old, folder, by))
        code, err = here(export_runs if attack.is_export else aggregate_runs, *attack.command(folder)["args"][2:])
        if code != 0:
            problems.append(f"the next run ended with {code}: {err}")
        problems += [
            f"after the next run, {name} is not as undisturbed" for name in differences(content(folder), truth)
        ]
        for problem in problems:
            print(f"  {where}: {problem}", flush=True)
        attack.findings += problems
        if number % 20 == 19:
            print(f"  {number + 1} of {len(timed) + operations}, {len(attack.findings)} findings", flush=True)


def here(script: types.ModuleType, *arguments: object) -> tuple[int, str]:
    """Run a script in this process, which is sooner; its exit code and stderr."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        code = script.main([str(each) for each in arguments])
    return code, err.getvalue()


def start_anew(attack: Attack, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if attack.before:
        shutil.copytree(attack.before, folder)
    else:
        folder.mkdir()


def problems_left(
    attack: Attack, ended: Ended, old: dict[str, bytes], folder: Path, by: signal.Signals
) -> Iterator[str]:
    """What is wrong with what is there after the end."""
    is_graceful = by != signal.SIGKILL
    new = snapshot(folder)
    if is_graceful:
        # Before main() Python itself says what it likes.
        began = "in main" in ended.err or "\nerror: " in f"\n{ended.err}"
        early = "init_import_site" in ended.err or (not ended.operations and not began)
        if ended.code not in (0, 130) and not early:
            yield f"ended with {ended.code}: {ended.err}"
        if "Traceback" in ended.err and not early:
            yield f"a traceback: {ended.err}"
        if any(".partial" in name for name in new):
            yield "unfinished files are left"
    elif ended.code not in (0, -by):
        yield f"ended with {ended.code}: {ended.err}"
    new = {name: bytes_ for name, bytes_ in new.items() if ".partial/" not in name}
    if not attack.is_export:
        if set(new) != set(old):
            if is_graceful or new or not ended.operations[-1].startswith("os.rename"):
                yield f"other files: {sorted(new)}"
            attack.moments["between renames"] += 1
        content(folder)  # which reads them
        return
    ids = export_ids(folder)
    changed = {name for name in ids if new[name] != old.get(name)}
    code, err = here(export_runs, "--verify", folder, "--quiet")
    if changed and (set(ids) != changed or len(set(ids.values())) > 1 or f"{EXPORT_STEM}_metadata.json" not in ids):
        attack.moments["between renames"] += 1
        if is_graceful or not ended.operations[-1].startswith("os.rename"):
            yield f"mixed: {sorted(changed)} of {sorted(ids)} are new"
        if code != (3 if old else 1):
            yield f"--verify ends with {code} though files are mixed: {err}"
    elif code != (0 if ids else 1):
        yield f"--verify ends with {code}: {err}"


EXPORT_STEM = "_".join(EXPORT[0].split("/"))


def attacks_on(server: Server, work: Path, env: dict[str, str]) -> dict[str, Attack]:
    """All attacks; the server has both states, one after the other, while this is prepared."""

    def export(folder: Path) -> dict[str, Any]:
        return command("export_runs.py", *EXPORT, "-o", folder, env=env, cwd=work)

    def merge(folder: Path) -> dict[str, Any]:
        inputs, output = work / "inputs", folder / "unified.parquet"
        return command("aggregate_runs.py", inputs, "-o", output, "--history", env=env, cwd=work)

    def partitions(folder: Path) -> dict[str, Any]:
        inputs, output = work / "inputs", folder / "parts"
        return command("aggregate_runs.py", inputs, "-o", output, "--partition-by", "state", env=env, cwd=work)

    fill(server, RUNS, rows=ROWS, lines=LINES)
    earlier, merged, parted = work / "earlier", work / "merged", work / "parted"
    for folder in (earlier, merged, parted):
        folder.mkdir()
    assert run(export(earlier), earlier).code == 0
    shutil.copytree(earlier, work / "inputs" / "first")
    assert run(merge(merged), merged).code == 0
    assert run(partitions(parted), parted).code == 0
    change(server, RUNS, rows=ROWS, lines=LINES)
    assert run(export(work / "inputs" / "second"), work / "inputs" / "second").code == 0
    gentle = (signal.SIGINT, signal.SIGTERM)
    return {
        "export": Attack("export", None, export),
        "incremental": Attack("incremental", earlier, export),
        "merge": Attack("merge", merged, merge, is_export=False),
        "partitions": Attack("partitions", parted, partitions, is_export=False),
        "signals": Attack("signals", earlier, export, gentle),
        "mergesignals": Attack("mergesignals", merged, merge, gentle, is_export=False),
    }


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--only", default=",".join(ATTACKS), help="some of the attacks, with commas")
    parser.add_argument("--moments", type=int, default=200, help="random moments of each attack")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(ATTACKS):
        parser.error(f"no attack {', '.join(sorted(unknown))}")
    started = time.monotonic()
    done = []
    with tempfile.TemporaryDirectory(prefix="wandb-tools-kill-") as name, Server() as server:
        work = Path(name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        env = kept | server.environment(work / "sdk")
        os.environ.update(env)
        attacks = attacks_on(server, work, env)
        for each in chosen:
            carry_out(attacks[each], work, options.moments, random.Random(f"{options.seed} {each}"))
            done.append(attacks[each])
    for each in done:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(each.moments.items()))
        print(f"{each.name}: {counts}; {len(each.findings)} findings")
    print(f"{time.monotonic() - started:.0f} s, seed {options.seed}")
    return 1 if any(each.findings for each in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
