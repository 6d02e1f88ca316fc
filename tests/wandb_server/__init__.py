"""A W&B-compatible server for tests and benchmarks: loopback only, in memory, made to fail on demand.

    from wandb_server import Server

    with Server() as server:                                    # in this process, on two free ports of 127.0.0.1
        server.add_runs("team", "demo", 50)                     # made up, deterministic
        server.add_run("team", "demo", "a1", config={"lr": 0.1}, summary={"loss": 0.5}, user=None)
        server.add_history("team", "demo", "a1", rows=[{"_step": 0, "loss": 1.0}], live=[{"_step": 1, "loss": 0.5}])
        server.fault("status", match={"field": "runs"}, times=2, status=429, headers={"Retry-After": "1"})
        subprocess.run([...], env={**os.environ, **server.environment(tmp_path)})
        assert server.counts()["operation:Runs"] == 3
        assert not [r for r in server.requests(service="storage") if r["authorization"]]

    with spawn("--scenario", "runs", "--runs", "2345", "--latency", "0.05", "--per-run", "0.0003") as server:
        server.reset()                                          # in another process; the same calls, named arguments

The unmodified SDK records runs here (init, log, finish, resume, sync) and reads them back. Modules, in the order in
which a request meets them: `web` (HTTP, counting, delay), `faults`, `schema` (GraphQL), `filters`, `store`, `history`;
`seeding` makes runs up, `server` holds it all together, `python -m wandb_server --help` serves from a command line.
"""

from .history import History
from .server import API_KEY, Remote, Server, spawn
from .store import Project, Run, User

__all__ = ["API_KEY", "History", "Project", "Remote", "Run", "Server", "User", "spawn"]
