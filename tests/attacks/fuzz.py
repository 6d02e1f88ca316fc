"""Feed what the scripts read with broken bytes, guided by the code that these reach (atheris; Linux on x86-64 only).

  uv run tests/attacks/fuzz.py --minutes 60                 all targets, each for its share of the time
  uv run tests/attacks/fuzz.py --target log --runs 100000   one target, so many inputs
  uv run tests/attacks/fuzz.py --target log --input FILE    one input again, with its traceback
  uv run tests/attacks/fuzz.py --list                       the targets

A target is a function of bytes that returns nothing, and raises where a script does what it must not do: an exception
that is not documented, a wrong value. An input that takes 60 s, or 4 GB of memory, is a finding, too. A target ends at
its first finding, whose input is left in --folder, as are the inputs that reached new code: the next run starts from
them. Prints executions and findings of each target; exit code 1 on a finding.

The targets are in the modules `fuzz_targets_*.py` beside this file. Each has two dictionaries by the targets' names:
TARGETS, the functions of bytes, and SEEDS, functions that return a list of inputs to start from.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent / "wandb-tools")]
MODULES = sorted(file.stem for file in HERE.glob("fuzz_targets_*.py"))
SCRIPTS = ["list_entities", "export_runs", "aggregate_runs", "analyze_runs"]
ALL = "all"  # a target that is all of them, in one process
INSIDE = "--inside"  # how this script starts itself for one target, with libFuzzer's own arguments
INPUT_LIMIT_S, MEMORY_LIMIT_MB, LONGEST_INPUT = 60, 4_000, 50_000

# What chance finds late: words that mean something to the scripts' formats.
WORDS = ["NaN", "Infinity", "-Infinity", "null", "true", "1e400", "-0.0", "9223372036854775808", "1e-320", "\\ud800"]
WORDS += [
    "_type",
    "_step",
    "_runtime",
    "_timestamp",
    "_wandb",
    "value",
    "desc",
    "table-file",
    "path",
    "columns",
    "data",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--minutes", type=float, default=60, help="for all targets together (default: 60)")
    parser.add_argument("--runs", type=int, help="inputs for each target, however long they take")
    parser.add_argument("--seed", type=int, default=0, help="of chance; 0: another one each time")
    parser.add_argument(
        "--folder", type=Path, help="of inputs and findings; default: wandb-tools-fuzz in the temporary one"
    )
    parser.add_argument("--input", type=Path, help="a file: call the target with it, and no more")
    parser.add_argument("--list", action="store_true", help="name the targets")
    options = parser.parse_args()
    targets, seeds = load_targets()
    names = options.target or [name for name in targets if name != ALL]
    if unknown := [name for name in names if name not in targets]:
        parser.error(f"no target {unknown[0]}; there are {', '.join(targets)}")
    if options.list:
        print(*targets, sep="\n")
        return 0
    if options.input:
        targets[names[0]](options.input.read_bytes())
        return 0
    folder = options.folder or Path(tempfile.gettempdir(), "wandb-tools-fuzz")
    end, findings = time.monotonic() + 60 * options.minutes, 0
    for number, name in enumerate(names):
        corpus = folder / name
        corpus.mkdir(parents=True, exist_ok=True)
        for at, seed in enumerate(seeds[name]()):
            (corpus / f"seed-{at}").write_bytes(seed)
        share_s = max((end - time.monotonic()) / (len(names) - number), 1)
        limit = f"-runs={options.runs}" if options.runs else f"-max_total_time={share_s:.0f}"
        findings += fuzz_apart(name, folder, [limit, f"-seed={options.seed}"])
    print(f"{findings} findings in {len(names)} targets")
    return 1 if findings else 0


def load_targets() -> tuple[dict, dict]:
    """TARGETS and SEEDS of all modules; in ALL, an input's first byte chooses the target."""
    modules = [importlib.import_module(name) for name in MODULES]
    targets = {name: target for module in modules for name, target in module.TARGETS.items()}
    seeds = {name: seeds for module in modules for name, seeds in module.SEEDS.items()}
    each = [*targets.values()]
    every = [(number, seed) for number, name in enumerate(targets) for seed in seeds[name]()]
    targets[ALL] = lambda data: each[data[0] % len(each)](data[1:]) if data else None
    seeds[ALL] = lambda: [bytes([number]) + seed for number, seed in every]
    return targets, seeds


def fuzz_apart(name: str, folder: Path, limits: list[str]) -> bool:
    """Fuzz a target in a process of its own, as libFuzzer ends it; print what came of it. True for a finding."""
    words = folder / "words"
    words.write_text("".join(f'"{word.replace(chr(92), chr(92) * 2)}"\n' for word in WORDS))
    limits += [f"-timeout={INPUT_LIMIT_S}", f"-rss_limit_mb={MEMORY_LIMIT_MB}", f"-max_len={LONGEST_INPUT}"]
    limits += [f"-dict={words}", f"-artifact_prefix={folder}/{name}-", str(folder / name)]
    started, log = time.monotonic(), folder / f"{name}.log"
    with log.open("wb") as written:
        command = [sys.executable, __file__, INSIDE, name, *limits]
        code = subprocess.run(command, stdout=written, stderr=written, check=False).returncode
    said = log.read_text("utf-8", errors="replace")
    executions = max([0, *map(int, re.findall(r"^(?:#|Done )(\d+)", said, re.MULTILINE))])
    found = re.findall(r"Test unit written to (.*)", said)
    print(f"{name}: {executions:,} executions in {time.monotonic() - started:.0f} s, ", end="")
    print(f"a finding: {found[-1] if found else log}" if code else "no finding", flush=True)
    if code:
        print(said[said.find("=== ") :][:4000] if "=== " in said else said[-4000:])
    return code != 0


def fuzz_here(name: str, limits: list[str]) -> None:
    """Fuzz a target until a limit or a finding ends this process."""
    import atheris

    with atheris.instrument_imports(include=SCRIPTS):
        targets, _ = load_targets()
    atheris.Setup([sys.argv[0], *limits], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        fuzz_here(sys.argv[2], sys.argv[3:])
    raise SystemExit(main())
