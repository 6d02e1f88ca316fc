# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Run the tests on each supported Python, with the lowest and the highest allowed versions of all dependencies.

  uv run tests/attacks/versions.py                                     # all six combinations: about half an hour
  uv run tests/attacks/versions.py --python 3.13 --resolution highest
  uv run tests/attacks/versions.py --python 3.12 -- tests/test_twins.py -x   # after --: arguments of pytest

Works on a copy of the repository, so its own environment and lock file stay as they are. uv must find or be able to
download the Pythons. Prints a line for each combination; exit code 1 if any test failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
RESOLUTIONS = ("lowest-direct", "highest")
SHOWN = (
    "wandb",
    "polars",
    "pyarrow",
    "duckdb",
    "orjson",
    "requests",
    "urllib3",
    "rich",
    "tabulate",
    "vl_convert_python",
)


def run(command: list[str], folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | settings
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", choices=PYTHONS, help="only this one")
    parser.add_argument("--resolution", choices=RESOLUTIONS, help="only this one")
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="of pytest, after --")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="wandb-tools-versions-") as place:
        copy = Path(place, "wandb-tools")
        listed = run(["git", "ls-files", "-co", "--exclude-standard"], ROOT, {}).stdout.splitlines()
        for file in listed:
            if (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, copy / file)
        for python, resolution in itertools.product(PYTHONS, RESOLUTIONS):
            if options.python not in (None, python) or options.resolution not in (None, resolution):
                continue
            (copy / "uv.lock").unlink(missing_ok=True)
            # The environment variables reach the `uv run` of the documentation's commands, too.
            settings = {
                "UV_PYTHON": python,
                "UV_RESOLUTION": resolution,
                "UV_PROJECT_ENVIRONMENT": f"{place}/{python}-{resolution}",
            }
            started = time.monotonic()
            tested = run(["uv", "run", "--quiet", "pytest", "--quiet", *options.pytest], copy, settings)
            seconds = time.monotonic() - started
            said = tested.stdout.strip().splitlines() or tested.stderr.strip().splitlines() or ["nothing was printed"]
            print(f"Python {python}, {resolution}: {said[-1]} ({seconds:.0f} s)", flush=True)
            versions = run(
                ["uv", "pip", "list", "--format", "freeze", "--python", settings["UV_PROJECT_ENVIRONMENT"]], copy, {}
            )
            print(
                "  "
                + " ".join(
                    sorted(v for v in versions.stdout.split() if v.partition("==")[0].replace("-", "_") in SHOWN)
                )
            )
            if tested.returncode:
                failed += 1
                print(
                    "\n".join(f"  {line}" for line in said if line.startswith(("FAILED", "ERROR", "error"))), flush=True
                )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
