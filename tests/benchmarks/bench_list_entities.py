# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2.1,<3",
#   "orjson>=3.11,<4",
#   "pyarrow>=26,<27",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.6.3,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""How long a listing of 100 projects takes, and the usual loop over the SDK for the same numbers.

  uv run tests/benchmarks/bench_list_entities.py

The server answers on loopback, 50 ms late. Each line is a process of its own, its start and imports included, with the
CPU time of that process and its children. The processes take turns, and of five rounds the fastest counts, as other
work on the machine only adds to it. "before" is the script as it was when it asked through the SDK, from git.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from wandb_server import spawn  # noqa: E402

LATENCY_S = 0.05
RUNS = 5_000
ROUNDS = 5
BEFORE = "87672d1:wandb-tools/list_entities.py"
SCRIPT = [sys.executable, str(ROOT / "wandb-tools" / "list_entities.py")]
LOOP = """
import wandb
api = wandb.Api(timeout=60)
for entity in dict.fromkeys([api.default_entity, *api.viewer.teams]):
    for project in api.projects(entity):
        path = f"{entity}/{project.name}"
        counts = [len(api.runs(path, filters=filters, per_page=1)) for filters in FILTERS]
        newest = next(iter(api.runs(path, order="-heartbeat_at", per_page=1)), None)
"""
STATES = ["finished", "running", "failed", "crashed", "killed"]
BY_STATE = LOOP.replace("FILTERS", f"[{{}}, *({{'state': s}} for s in {STATES})]")
CASES = {
    "list_entities.py": SCRIPT,
    "list_entities.py --json": [*SCRIPT, "--json"],
    "list_entities.py --workers 1": [*SCRIPT, "--workers", "1"],
    "before": [sys.executable, "before.py"],
    "before, --json": [sys.executable, "before.py", "--json"],
    "SDK loop, run count only": [sys.executable, "-c", LOOP.replace("FILTERS", "[{}]")],
    "SDK loop, by state": [sys.executable, "-c", BY_STATE],
    "list_entities.py without a key": SCRIPT,
    "list_entities.py, wrong key": SCRIPT,
    "list_entities.py --help": [*SCRIPT, "--help"],
    "import requests": [sys.executable, "-c", "import requests"],
    "import wandb; wandb.Api()": [sys.executable, "-c", "import wandb; wandb.Api()"],
}
KEYS = {"list_entities.py without a key": "", "list_entities.py, wrong key": "1" * 40}
ONCE = ("SDK loop, by state", "SDK loop, run count only")  # they take long enough


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    arguments = ("--scenario", "projects", "--runs", str(RUNS), "--latency", str(LATENCY_S))
    with spawn(*arguments) as server, tempfile.TemporaryDirectory() as folder:
        before = subprocess.run(["git", "show", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
        Path(folder, "before.py").write_bytes(before)
        environment = os.environ | server.environment(folder) | {"NETRC": f"{folder}/netrc"}
        costs: dict[str, list[tuple[float, float, int, float]]] = {name: [] for name in CASES}
        for number in range(ROUNDS):
            for name, command in CASES.items():
                if number and name in ONCE:
                    continue
                server.reset()
                env = environment | ({"WANDB_API_KEY": KEYS[name]} if name in KEYS else {})
                started, used = time.perf_counter(), cpu_s()
                done = subprocess.run(command, env=env, cwd=folder, capture_output=True, check=name not in KEYS)
                took_s, used_s = time.perf_counter() - started, cpu_s() - used
                costs[name].append((took_s, used_s, server.counts().get("graphql", 0), len(done.stdout) / 1000))
        print(f"100 projects, {RUNS:,} runs, {LATENCY_S * 1000:g} ms per request\n")
        print(f"{'':30} seconds  CPU s  requests  kB out")
        for name, each in costs.items():
            took_s, used_s, requests, size_kb = min(each)
            print(f"{name:30} {took_s:7.2f} {used_s:6.2f}  {requests:8}  {size_kb:6.1f}")
        for name in ("list_entities.py", "list_entities.py --json"):
            then = "before, --json" if "json" in name else "before"
            print(f"{name}: {min(costs[name])[0] / min(costs[then])[0]:.2f} of the time before")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
