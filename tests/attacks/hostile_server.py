# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "graphql-core>=3.3.2,<3.4",
#   "numpy>=2.1,<3",
#   "orjson>=3.11,<4",
#   "polars>=2.1,<3",
#   "pyarrow>=26,<27",
#   "pyyaml>=6.0.2,<7",
#   "requests>=2.30,<3",
#   "rich>=12,<16",
#   "urllib3>=2.6.3,<3",
#   "wandb>=0.31,<0.32",
# ]
# ///
"""Lets list_entities.py and export_runs.py ask a server that means harm. Run by hand:

  uv run tests/attacks/hostile_server.py                   everything: about an hour
  uv run tests/attacks/hostile_server.py --only cases      odd names, bombs, lists without an end, lying lengths ...
  uv run tests/attacks/hostile_server.py --only values     a wrong value at each place of each answer
  uv run tests/attacks/hostile_server.py --only cases --like bomb

Each starts from an export that was made while the server was sound. No script may end with a traceback, an exit code
that is not documented, more than one line a failure, control characters on the terminal, or memory without a bound;
what an earlier export had must still be there, and --verify must find it whole.

Prints what was tried and what was found; exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "wandb-tools")]

import hostile_server as hostile  # noqa: E402
from wandb_server import Server  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cases", "values"))
    parser.add_argument("--like", default="", help="only cases, or operations, whose name holds this")
    parser.add_argument("--all-values", action="store_true", help="16 wrong values at each place, not 7: hours")
    options = parser.parse_args()
    found: list[str] = []
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "values":
            for name in hostile.CASES:
                if options.like in name:
                    tried += len(hostile.CASES[name].scripts)
                    found += hostile.try_case(name, Path(folder))
        if options.only != "cases":
            values = hostile.WRONG_VALUES + (hostile.MORE_WRONG_VALUES if options.all_values else ())
            for script in hostile.SCRIPTS:
                number, new = try_values(script, values, options.like, Path(folder) / script)
                tried, found = tried + number, found + new
    print(f"{tried:,} runs of the scripts, {len(found):,} findings", *found, sep="\n")
    return 1 if found else 0


def try_values(script: str, values: tuple[str, ...], like: str, folder: Path) -> tuple[int, list[str]]:
    """A wrong value in each place of each answer, one at a time: how many were tried, and what was found."""
    folder.mkdir()
    found, tried = [], 0
    with Server() as server:
        earlier, here = hostile.prepared(server, folder)
        for answered in hostile.answers_of(script, server, here):
            if like not in answered.operation:
                continue
            for place, value in itertools.product(answered.places, values):
                server.clear_faults()
                hostile.put_wrong_value(server, answered, place, value)
                if script == "export_runs":
                    earlier.put(here)
                ended = hostile.run(script, server, here, *hostile.arguments_of(script, here))
                new = hostile.faults_of(ended)
                if script == "export_runs":
                    new += hostile.lost(here, earlier)
                name = f"{script}: {value or 'nothing'} at {answered.operation} {answered.field} {place}"
                found += [f"{name}: {each}" for each in new]
                tried += 1
            print(f"{script}: {answered.operation} {answered.field}: {len(answered.places)} places", flush=True)
    return tried, found


if __name__ == "__main__":
    raise SystemExit(main())
