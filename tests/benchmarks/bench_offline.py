"""What an offline export costs, beside the least that any reader of a log must do. Run by hand:

  python tests/benchmarks/bench_offline.py               # records a log of about 200 MB first, with the real SDK
  python tests/benchmarks/bench_offline.py --log FILE    # or takes one
  python tests/benchmarks/bench_offline.py --many DIR    # and this folder of logs with one process and with all

The third figure is the same log exported with --console and --system-metrics besides; it holds a line of output for
every fifth row, a progress bar, and system metrics every tenth of a second.

The least: frame the records, let protobuf parse each, touch the key and `float(value_json)` of each history item. Both
run as processes of their own, in turn, several times. Demanded: at most 1.3 times that time, and under 250 MB resident
(of the process that uses most; workers count one by one); console and system metrics add at most 30 %.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "wandb-tools" / "export_runs.py"
LOG_BYTES = 200_000_000
BYTES_PER_ROW = 1_850  # at 20 metrics: the row, and the summary that follows it
METRICS = 20
MANY_LOGS = 8
ROWS_PER_LINE = 5
DEMANDED_RATIO, DEMANDED_MB = 1.3, 250
DEMANDED_MORE = 1.3  # with console and system metrics


class Cost(NamedTuple):
    """Of one process, its children included."""

    seconds: float
    peak_mb: float


def cost_of(command: list[object]) -> Cost:
    """Run a command; its wall time, and the resident memory of the largest process in it."""
    started = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, env=plain_environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    unit = 1_000_000 if sys.platform == "darwin" else 1_000  # bytes there, kB elsewhere
    return Cost(seconds, usage.ru_maxrss / unit)


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}


def plain_loop(file: Path) -> None:
    """The yardstick: no error handling, no columns, no result."""
    import types
    import zlib
    from importlib.util import find_spec

    package = types.ModuleType("wandb")  # the record classes alone, without the SDK's other imports
    package.__path__ = list(find_spec("wandb").submodule_search_locations)
    sys.modules["wandb"] = package
    from wandb.proto.wandb_internal_pb2 import Record

    touched = 0.0
    pieces: list[bytes] = []
    with file.open("rb") as log:
        start = 7
        while block := log.read(32_768):
            at, start = start, 0
            while len(block) - at >= 7:
                end = at + 7 + int.from_bytes(block[at + 4 : at + 6], "little")
                if zlib.crc32(block[at + 6 : end]) != int.from_bytes(block[at : at + 4], "little"):
                    break
                kind = block[at + 6]
                pieces.append(block[at + 7 : end])
                at = end
                if kind in (1, 4):
                    record = Record.FromString(b"".join(pieces))
                    pieces.clear()
                    for item in record.history.item:
                        path = tuple(item.nested_key) or (item.key,)
                        touched += float(item.value_json) + len(path)
    print(touched)


def record(folder: Path, size_bytes: int) -> None:
    """A run of as many rows as that takes, by the real SDK."""
    import wandb

    settings = wandb.Settings(mode="offline", silent=True, disable_git=True, x_stats_sampling_interval=0.1)
    run = wandb.init(dir=folder, project="bench", config={"lr": 1e-3}, settings=settings)
    for step in range(size_bytes // BYTES_PER_ROW):
        run.log({f"train/metric_{number}": (step + number) / 7 for number in range(METRICS)})
        print(f"\r{step % 100} %", end="", file=sys.stderr)
        if step % ROWS_PER_LINE == 0:
            print(f"step {step}: loss {1 / (step + 1):.6f}, accuracy {step / (step + 1):.6f}")
    run.finish()


def recorded(folder: Path, size_bytes: int) -> Path:
    """Record in a process of its own, so that this one stays small; the log's path."""
    command = [sys.executable, __file__, "--record", folder, str(size_bytes)]
    output = subprocess.DEVNULL
    subprocess.run(command, env=plain_environment(), check=True, stdout=output, stderr=output)
    return next(file for file in folder.rglob("*.wandb") if not file.parent.is_symlink())


def many_logs(size_bytes: int, folder: Path) -> Path:
    """As much in several logs, each of a run of its own."""
    for number in range(MANY_LOGS):
        recorded(folder / str(number), size_bytes // MANY_LOGS)
    return folder


def export(logs: Path, output: Path, *flags: object) -> list[object]:
    shutil.rmtree(output, ignore_errors=True)
    return [sys.executable, SCRIPT, "--offline", logs, "-o", output, "--include-history", "--quiet", *flags]


def compare_with_plain_loop(log: Path, output: Path, pairs: int) -> bool:
    """Print medians; whether what is demanded holds."""
    print(f"{log.name}: {log.stat().st_size / 1e6:.0f} MB")
    loops, exports = [], []
    for _ in range(pairs):
        loops.append(cost_of([sys.executable, __file__, "--loop", log]))
        exports.append(cost_of(export(log, output)))
    ratio = statistics.median(ours.seconds / loop.seconds for ours, loop in zip(exports, loops, strict=True))
    for name, costs in (("plain loop", loops), ("export_runs", exports)):
        seconds = statistics.median(cost.seconds for cost in costs)
        print(f"  {name:<12} {seconds:6.2f} s   {max(cost.peak_mb for cost in costs):4.0f} MB resident at most")
    print(f"  ratio        {ratio:6.2f}     median of {pairs} pairs; demanded: at most {DEMANDED_RATIO:g}")
    return ratio <= DEMANDED_RATIO and max(cost.peak_mb for cost in exports) < DEMANDED_MB


def compare_with_output(log: Path, output: Path, pairs: int) -> bool:
    """Print medians; whether console and system metrics add no more than is demanded."""
    import polars as pl

    without, with_ = [], []
    for _ in range(pairs):
        without.append(cost_of(export(log, output)))
        with_.append(cost_of(export(log, output, "--console", "--system-metrics")))
    counts = {
        kind: pl.scan_parquet(next(output.glob(f"*_{kind}.parquet")), glob=False).select(pl.len()).collect().item()
        for kind in ("history", "console", "system")
    }
    print("with output: " + ", ".join(f"{count:,} rows of {kind}" for kind, count in counts.items()))
    ratio = statistics.median(more.seconds / less.seconds for more, less in zip(with_, without, strict=True))
    for name, costs in (("without", without), ("with", with_)):
        seconds = statistics.median(cost.seconds for cost in costs)
        print(f"  {name:<12} {seconds:6.2f} s   {max(cost.peak_mb for cost in costs):4.0f} MB resident at most")
    print(f"  ratio        {ratio:6.2f}     median of {pairs} pairs; demanded: at most {DEMANDED_MORE:g}")
    return ratio <= DEMANDED_MORE and max(cost.peak_mb for cost in with_) < DEMANDED_MB


def compare_workers(logs: Path, output: Path, pairs: int) -> bool:
    """Print medians; whether memory stays within what is demanded."""
    size = sum(file.stat().st_size for file in logs.rglob("*.wandb") if not file.parent.is_symlink())
    print(f"many logs: {size / 1e6:.0f} MB")
    costs: dict[int, list[Cost]] = {1: [], os.cpu_count() or 1: []}
    for _ in range(pairs):
        for workers, measured in costs.items():
            measured.append(cost_of(export(logs, output, "--workers", workers)))
    for workers, measured in costs.items():
        seconds = statistics.median(cost.seconds for cost in measured)
        peak_mb = max(cost.peak_mb for cost in measured)
        print(f"  --workers {workers:<2} {seconds:6.2f} s   {peak_mb:4.0f} MB resident at most, in one process")
    return all(cost.peak_mb < DEMANDED_MB for measured in costs.values() for cost in measured)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="a log to measure with, instead of a recorded one")
    parser.add_argument("--many", type=Path, help="a folder of logs, instead of recorded ones")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=LOG_BYTES // 1_000_000, help="size of what is recorded")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        plain_loop(options.loop)
        return 0
    if options.record:
        record(Path(options.record[0]), int(options.record[1]))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-offline-") as scratch:
        folder = Path(scratch)
        log = options.log or recorded(folder / "one", options.megabytes * 1_000_000)
        many = options.many or many_logs(options.megabytes * 1_000_000, folder / "many")
        held = [compare_with_plain_loop(log, folder / "out", options.pairs)]
        held.append(compare_with_output(log, folder / "out", options.pairs))
        held.append(compare_workers(many, folder / "out", options.pairs))
    return 0 if all(held) else 1


if __name__ == "__main__":
    raise SystemExit(main())
