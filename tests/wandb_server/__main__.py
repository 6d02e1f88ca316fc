"""Serve a scenario until the process is ended; the first line on stdout is the API's URL."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import TYPE_CHECKING

from .server import API_KEY, Server

if TYPE_CHECKING:
    from collections.abc import Callable


def empty(server: Server, options: argparse.Namespace) -> None:
    """Nothing but the user's own entity."""


def runs(server: Server, options: argparse.Namespace) -> None:
    """team/demo with --runs runs of --keys keys."""
    server.add_runs("team", "demo", options.runs, keys=options.keys)


def histories(server: Server, options: argparse.Namespace) -> None:
    """team/histories with --runs runs of --steps rows and --metrics metrics, exported in --parts files each."""
    server.add_histories(
        "team",
        "histories",
        options.runs,
        steps=options.steps,
        metrics=options.metrics,
        parts=options.parts,
        live=options.live,
        distinct=options.distinct,
    )


def consoles(server: Server, options: argparse.Namespace) -> None:
    """team/consoles with --runs runs of --lines console lines."""
    server.add_consoles("team", "consoles", options.runs, lines=options.lines)


def tables(server: Server, options: argparse.Namespace) -> None:
    """team/tables with --runs runs that each logged a table of --rows rows."""
    server.add_tables("team", "tables", options.runs, rows=options.rows, distinct=options.distinct)


def projects(server: Server, options: argparse.Namespace) -> None:
    """100 projects in four teams, --runs runs in all."""
    for number in range(100):
        server.add_runs(f"team{number % 4}", f"project{number:03d}", max(options.runs // 100, 1), keys=20, seed=number)


def odd(server: Server, options: argparse.Namespace) -> None:
    """team/odd with a run for each oddity, and team/demo."""
    server.add_odd_runs("team", "odd")
    runs(server, options)


SCENARIOS: dict[str, Callable[[Server, argparse.Namespace], None]] = {
    function.__name__: function for function in (empty, runs, histories, consoles, tables, projects, odd)
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="wandb_server",
        description=__doc__,
        epilog="scenarios: " + " ".join(f"{name}: {function.__doc__}" for name, function in SCENARIOS.items()),
        allow_abbrev=False,
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="empty")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--per-run", type=float, default=0.0, help="seconds per run in an answer")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--keys", type=int, default=180)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--metrics", type=int, default=20)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--live", type=int, default=0, help="rows of each history that are not exported")
    parser.add_argument("--distinct", type=int, default=10, help="histories or tables that differ; the rest share them")
    parser.add_argument("--lines", type=int, default=200, help="console lines of each run")
    parser.add_argument("--rows", type=int, default=1000, help="rows of each table")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin ends, too")
    return parser.parse_args()


def main() -> int:
    options = parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = Server(port=options.port, api_key=options.api_key, latency_s=options.latency, per_run_s=options.per_run)
    with server:
        SCENARIOS[options.scenario](server, options)
        print(server.url, flush=True)
        if options.until_eof:
            threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
