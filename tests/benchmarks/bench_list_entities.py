# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2,<3",
#   "orjson>=3.11,<4",
#   "pyarrow>=26,<27",
#   "rich>=15,<16",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""How long a listing of 100 projects takes, and the usual loop over the SDK for the same numbers.

  uv run tests/benchmarks/bench_list_entities.py

The server answers on loopback, 50 ms late. Each line is a process of its own, its start and `import wandb` included;
the fastest of three, as other work on the machine only adds to it.
"""

from __future__ import annotations

import os
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
ROUNDS = 3
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
CASES = {
    "list_entities.py": SCRIPT,
    "list_entities.py --json": [*SCRIPT, "--json"],
    "list_entities.py --workers 1": [*SCRIPT, "--workers", "1"],
    "SDK loop, run count only": [sys.executable, "-c", LOOP.replace("FILTERS", "[{}]")],
    "SDK loop, by state": [
        sys.executable,
        "-c",
        LOOP.replace("FILTERS", f"[{{}}, *({{'state': s}} for s in {STATES})]"),
    ],
    "import wandb; wandb.Api()": [sys.executable, "-c", "import wandb; wandb.Api()"],
}


def main() -> int:
    arguments = ("--scenario", "projects", "--runs", str(RUNS), "--latency", str(LATENCY_S))
    with spawn(*arguments) as server, tempfile.TemporaryDirectory() as folder:
        environment = os.environ | server.environment(folder)
        print(f"100 projects, {RUNS:,} runs, {LATENCY_S * 1000:g} ms per request\n\n{'':30} seconds  requests  kB out")
        for name, command in CASES.items():
            took_s = []
            for _ in range(ROUNDS):
                server.reset()
                started = time.perf_counter()
                done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=True)
                took_s.append(time.perf_counter() - started)
            print(
                f"{name:30} {min(took_s):7.2f}  {server.counts()['graphql']:8}  {len(done.stdout) / 1000:6.1f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
