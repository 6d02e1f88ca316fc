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
#   "tabulate[widechars]>=0.10,<0.11",
#   "urllib3>=2.2,<3",
#   "vl-convert-python>=1.8,<2",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Exports, merges and analyses on a disk that becomes full, for every amount of free space. Run by hand, on Linux:

  uv run tests/attacks/full_disk.py                       # about ten minutes
  uv run tests/attacks/full_disk.py --only merge --step 1

Each writes to a small file system in memory (a tmpfs in a mount namespace of its own, by `unshare -rm`: neither root
nor a free disk is needed) that holds an earlier result and so many free pages: none, --step, twice --step, … until the
command succeeds twice. With too few it must end with exit code 1 and one line that names the place and says to free
it; the earlier files must be there unchanged, and nothing unfinished beside them but histories that the next export
takes up. With enough pages the result must be the one of an empty disk.

Prints what was found at the end; exit code 1 if there was anything.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from crashes import EXPORT, change, command, content, differences, fill, run, snapshot
from wandb_server import Server

PAGE_BYTES = 4096
RUNS = 12
ATTACKS = ("export", "merge", "partitions", "csv", "parquet", "report")


def commands(folder: Path, inputs: Path, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    merge = ("aggregate_runs.py", inputs)
    analyze = ("analyze_runs.py", inputs / "team_demo_runs.parquet", "-m", "loss")
    scripts: dict[str, tuple[object, ...]] = {
        "export": ("export_runs.py", *EXPORT, "-o", folder),
        "merge": (*merge, "-o", folder / "unified.parquet", "--history"),
        "partitions": (*merge, "-o", folder / "parts", "--partition-by", "state"),
        "csv": (*analyze, "--top", 10, "-o", folder / "results.csv"),
        "parquet": (*analyze, "--top", 10, "-o", folder / "results.parquet"),
        "report": (*analyze, "--report", folder / "report.html"),
    }
    return {name: command(*map(str, each), env=env, cwd=inputs) for name, each in scripts.items()}


def mount(folder: Path, pages: int) -> None:
    """An empty file system of so many pages at `folder`, in place of the one that was there."""
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
    options = f"size={pages * PAGE_BYTES},huge=never"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


def used_pages(folder: Path) -> int:
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize // PAGE_BYTES


def carry_out(name: str, how: dict[str, Any], folder: Path, earlier: Path, step: int, most: int) -> list[str]:
    """Run the command with ever more free pages, at most so often; what is wrong."""
    mount(folder, 100_000)
    shutil.copytree(earlier, folder, dirs_exist_ok=True)
    used, old = used_pages(folder), snapshot(folder)
    undisturbed = run(how, folder)
    assert undisturbed.code == 0, undisturbed.err
    truth, findings, successes, free, said = content(folder), [], 0, 0, set()
    while successes < 2 and free < most * step:
        mount(folder, used + free)
        shutil.copytree(earlier, folder, dirs_exist_ok=True)
        ended = run(how, folder)
        problems = []
        if ended.code == 0:
            successes += 1
            problems += [f"{each} is not as undisturbed" for each in differences(content(folder), truth)]
        else:
            last = ended.err.splitlines()[-1]
            said.add(last)
            if ended.code != 1 or "written" not in last or "free disk space" not in last:
                problems.append(f"ended with {ended.code}: {ended.err}")
            if snapshot(folder) != old:
                problems.append(f"files are not as they were: {sorted(snapshot(folder))}")
        for problem in problems:
            print(f"  {name}, {free} free pages: {problem}", flush=True)
        findings += problems
        free += step
    print(
        f"{name}: full for {free // step - successes} amounts of space; {len(findings)} findings; it said:", flush=True
    )
    for line in sorted(said):
        print(f"  {line}")
    return findings


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--only", default=",".join(ATTACKS), help="some of the attacks, with commas")
    parser.add_argument("--step", type=int, default=3, help="pages of 4 KiB")
    parser.add_argument("--most", type=int, default=1_000_000, help="amounts of space to try of each")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # of the mount namespace
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(ATTACKS):
        parser.error(f"no attack {', '.join(sorted(unknown))}")
    if not options.inside:
        os.execvp("unshare", ["unshare", "-rm", sys.executable, __file__, "--inside", *sys.argv[1:]])
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wandb-tools-disk-") as name, Server() as server:
        work, folder = Path(name), Path(name) / "disk"
        earlier, inputs = work / "earlier", work / "inputs"
        for each in (folder, earlier, inputs):
            each.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        env = kept | server.environment(work / "sdk")
        fill(server, RUNS)
        for written in (inputs, earlier):
            assert run(commands(written, inputs, env)["export"], written).code == 0
        for each in {*options.only.split(",")} - {"export"}:
            assert run(commands(earlier, inputs, env)[each], earlier).code == 0
        change(server, RUNS)
        for each in options.only.split(","):
            findings += carry_out(
                each, commands(folder, inputs, env)[each], folder, earlier, options.step, options.most
            )
        subprocess.run(["umount", folder], check=True)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
