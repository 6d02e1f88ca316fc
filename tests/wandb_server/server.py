"""The server that tests start, and the one that benchmarks start in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import seeding
from .faults import Match, Rule
from .store import Project, Run, RunFile, Store, Sweep, User, change_run, now
from .web import App, Service, Settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Mapping, Sequence

API_KEY = "0" * 40
REMOTE = [  # what a control call may call
    *("add_entity", "add_project", "add_run", "add_runs", "add_odd_runs", "add_sweep", "add_history"),
    *("add_histories", "add_events", "add_console", "add_consoles", "add_file", "add_tables", "change_run"),
    *("delete_run", "export", "configure"),
    *("expire_urls", "fault", "wait_for_hits", "clear_faults", "rules", "counts", "requests", "reset"),
]


class Server:
    """A W&B on loopback.

    >>> with Server() as server:
    ...     _ = server.add_runs("team", "demo", 3)
    ...     len(server.run_ids("team", "demo"))
    3
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = API_KEY,
        user: str = "tester",
        tls: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        self.api_key = api_key
        self.folder = tempfile.TemporaryDirectory(prefix="wandb-server-")
        self.store = Store(User(user, user), Path(self.folder.name))
        self.settings = Settings(**settings)
        self.app = App(self.store, self.settings, api_key, self.call)
        self.api = Service(self.app, "api", port, tls)
        self.storage = Service(self.app, "storage", tls=tls)
        self.settings.base_url, self.settings.storage_url = self.api.url, self.storage.url

    @property
    def url(self) -> str:
        return self.api.url

    @property
    def storage_url(self) -> str:
        return self.storage.url

    def start(self) -> Self:
        self.api.thread.start()
        self.storage.thread.start()
        return self

    def stop(self) -> None:
        self.clear_faults()
        self.api.stop()
        self.storage.stop()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def environment(self, folder: Path | str) -> dict[str, str]:
        """Variables that make a fresh SDK talk to this server and keep its files in `folder`."""
        return environment(self.url, self.api_key, folder)

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """A control call, by name, with arguments from JSON; what it returns can be JSON."""
        if method not in REMOTE:
            raise ValueError(f"no control call {method}")
        result = getattr(self, method)(**arguments)
        return result if isinstance(result, dict | list | int | str | None) else None

    # What is there

    def project(self, entity: str, project: str) -> Project:
        return self.store.entities[entity][project]

    def run(self, entity: str, project: str, run_id: str) -> Run:
        return self.store.run(entity, project, run_id)

    def run_ids(self, entity: str, project: str) -> list[str]:
        return list(self.project(entity, project).runs)

    # Seeding

    def add_entity(self, name: str) -> None:
        with self.store.lock:
            self.store.add_entity(name)

    def add_project(self, entity: str, project: str, **values: Any) -> Project:
        with self.store.lock:
            return self.store.add_project(entity, project, **values)

    def add_run(self, entity: str, project: str, run_id: str, **values: Any) -> Run:
        """One run; `values` are fields of Run. Dicts given as config or summary become W&B's texts."""
        values = {"state": "finished", "user": self.store.viewer, "display_name": run_id, **values}
        values |= {"created_at": values.get("created_at", seeding.START)}
        values |= {"heartbeat_at": values.get("heartbeat_at", values["created_at"])}
        if isinstance(values.get("config"), dict):
            values["config"] = json.dumps({key: {"value": value} for key, value in values["config"].items()})
        if isinstance(values.get("summary"), dict):
            values["summary"] = json.dumps(values["summary"])
        with self.store.lock:
            return self.store.add_project(entity, project).add_run(run_id, **values)

    def add_runs(self, entity: str, project: str, n: int, *, keys: int = 180, seed: int = 0) -> list[str]:
        """`n` finished, failed, crashed and running runs with `keys` config and summary values in all; their ids."""
        with self.store.lock:
            home = self.store.add_project(entity, project)
            runs = seeding.runs(n, keys=keys, seed=seed, first=home.runs_made, user=self.store.viewer)
            return [home.add_run(**values).id for values in runs]

    def add_odd_runs(self, entity: str, project: str) -> list[str]:
        """One run for each oddity that the API may hold; their ids tell which."""
        return [self.add_run(entity, project, name, **values).id for name, values in seeding.odd_runs().items()]

    def add_sweep(self, entity: str, project: str, name: str, **values: Any) -> Sweep:
        with self.store.lock:
            home = self.store.add_project(entity, project)
            sweep = home.sweeps[name] = Sweep(home, name, **values)
            return sweep

    def add_history(
        self,
        entity: str,
        project: str,
        run_id: str,
        *,
        rows: Iterable[dict[str, Any]] = (),
        files: Sequence[Path | str] = (),
        live: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Parquet `files` as they are, then `rows` exported as one more, then `live` rows not exported."""
        with self.store.lock:
            run = self.run(entity, project, run_id)
            for file in files:
                run.history.add_export(Path(file))
            run.history.add_live(rows)
            run.history.export(self.store.folder, nested=self.settings.export_nested)
            run.history.add_live(live)
            run.project.changed()

    def add_histories(
        self,
        entity: str,
        project: str,
        n: int = 50,
        *,
        steps: int = 20_000,
        metrics: int = 20,
        parts: int = 1,
        live: int = 0,
        distinct: int = 10,
        seed: int = 0,
    ) -> list[str]:
        """`n` runs with long histories, of which `distinct` differ (files are shared); their ids."""
        made = seeding.histories(
            self.store.folder, n, steps=steps, metrics=metrics, parts=parts, live=live, distinct=distinct, seed=seed
        )
        ids = []
        for run_id, values, files, tail in made:
            ids.append(self.add_run(entity, project, run_id, **values).id)
            self.add_history(entity, project, run_id, files=files, live=tail)
        return ids

    def add_events(self, entity: str, project: str, run_id: str, events: Iterable[dict[str, Any]]) -> None:
        with self.store.lock:
            self.run(entity, project, run_id).events += [json.dumps(event) for event in events]

    def add_console(self, entity: str, project: str, run_id: str, lines: Iterable[str]) -> None:
        """More console lines, each as the SDK sends it: `2026-01-01T00:00:00.5 text`, `ERROR ` before it for stderr."""
        with self.store.lock:
            self.run(entity, project, run_id).log_lines += lines

    def add_consoles(self, entity: str, project: str, n: int, *, lines: int = 200) -> list[str]:
        """`n` runs with `lines` console lines each, of which every tenth is from stderr; their ids."""
        ids = [f"console{number:05d}" for number in range(n)]
        for number, run_id in enumerate(ids):
            self.add_run(entity, project, run_id, **seeding.plain_run(number))
            self.add_console(entity, project, run_id, seeding.console(number, lines))
        return ids

    def add_file(self, entity: str, project: str, run_id: str, name: str, content: str | bytes) -> None:
        with self.store.lock:
            body = content.encode() if isinstance(content, str) else content
            self.run(entity, project, run_id).files[name] = RunFile(name, body, now())

    def add_artifact(self, entity: str, project: str, client_id: str, files: Mapping[str, str]) -> str:
        """A committed artifact with these files, by name; returns its id."""
        with self.store.lock:
            artifact = self.store.add_artifact(entity, project, client_id, "run_table", client_id, client_id, "digest")
            artifact.state = "COMMITTED"
            artifact.files = {name: RunFile(name, content.encode(), now()) for name, content in files.items()}
            return artifact.id

    def add_tables(
        self, entity: str, project: str, n: int, *, rows: int = 1000, key: str = "predictions", distinct: int = 10
    ) -> list[str]:
        """`n` runs that each logged a table of `rows` rows under `key`, as the SDK leaves it; their ids."""
        contents = [seeding.table(kind, rows) for kind in range(min(distinct, n))]
        ids = [f"table{number:05d}" for number in range(n)]
        for number, run_id in enumerate(ids):
            content = contents[number % len(contents)]
            entry = seeding.table_entry(key, content, rows)
            run = seeding.plain_run(number)
            summary = {**run["summary"], key: entry}
            self.add_run(entity, project, run_id, **{**run, "summary": summary})
            self.add_file(entity, project, run_id, entry["path"], content)
        return ids

    def change_run(self, entity: str, project: str, run_id: str, **values: Any) -> None:
        with self.store.lock:
            change_run(self.run(entity, project, run_id), values)

    def delete_run(self, entity: str, project: str, run_id: str) -> None:
        with self.store.lock:
            self.store.delete_run(self.run(entity, project, run_id))

    def export(self, entity: str, project: str, run_id: str, *, leave_live: int = 0, merge: bool = False) -> None:
        """Move rows of a run from its live tail into its exports, as W&B does from time to time."""
        with self.store.lock:
            history = self.run(entity, project, run_id).history
            nested = self.settings.export_nested
            history.export(self.store.folder, leave_live=leave_live, merge=merge, nested=nested)

    # Behaviour

    def configure(self, **settings: Any) -> None:
        """Change fields of Settings: latency_s, per_run_s, page_limit, url_lifetime_s ..."""
        for name, value in settings.items():
            if not hasattr(self.settings, name):
                raise ValueError(f"no setting {name}")
            setattr(self.settings, name, value)

    def expire_urls(self) -> None:
        """Make every URL signed so far answer 403."""
        self.app.url_generation += 1

    def fault(self, action: str, *, match: dict[str, Any] | None = None, **parameters: Any) -> Rule:
        """A rule from now on; see `faults.py`. `rule.hits` tells how often it applied."""
        rule = Rule(action, Match(**(match or {})), **parameters)
        self.app.faults.add(rule)
        return rule

    def wait_for_hits(self, hits: int = 1, *, rule: int = -1, timeout_s: float = 30) -> None:
        """Return once a rule (by its place, the newest by default) applied so often; else TimeoutError."""
        self.app.faults.wait_for_hits(self.app.faults.rules[rule], hits, timeout_s)

    def clear_faults(self) -> None:
        self.app.faults.clear()

    def rules(self) -> list[dict[str, Any]]:
        return [{"action": rule.action, "seen": rule.seen, "hits": rule.hits} for rule in self.app.faults.rules]

    # What was asked

    def counts(self) -> dict[str, int]:
        return self.app.counts()

    def requests(self, **wanted: Any) -> list[dict[str, Any]]:
        """The log since the last reset; `requests(kind="download")` for a part of it."""
        log = [request.as_json() for request in list(self.app.log)]
        return [line for line in log if all(line[name] == value for name, value in wanted.items())]

    def reset(self) -> None:
        """Forget rules and log."""
        self.clear_faults()
        self.app.log.clear()


def environment(url: str, api_key: str, folder: Path | str) -> dict[str, str]:
    return {
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": api_key,
        "WANDB_DIR": str(folder),
        "WANDB_CACHE_DIR": f"{folder}/cache",
        "WANDB_CONFIG_DIR": f"{folder}/config",
        "WANDB_DATA_DIR": f"{folder}/data",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }


# --- in another process ---------------------------------------------------------------------------------------


class Remote:
    """A server elsewhere: every method in REMOTE as a call over HTTP."""

    def __init__(self, url: str, api_key: str = API_KEY) -> None:
        self.url = url
        self.api_key = api_key

    def environment(self, folder: Path | str) -> dict[str, str]:
        return environment(self.url, self.api_key, folder)

    def __getattr__(self, method: str):
        def call(*arguments: Any, **named: Any) -> Any:
            if arguments:
                raise TypeError(f"{method}: arguments of control calls are named")
            body = json.dumps({"method": method, "arguments": named}).encode()
            with urllib.request.urlopen(f"{self.url}/control", body) as answer:
                return json.load(answer)

        if method not in REMOTE:
            raise AttributeError(method)
        return call


@contextmanager
def spawn(*arguments: str) -> Iterator[Remote]:
    """`python -m wandb_server ...` as long as the block lasts; it ends with this process too."""
    package = Path(__file__).resolve().parent
    command = [sys.executable, "-m", package.name, "--until-eof", *arguments]
    with subprocess.Popen(
        command, cwd=package.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            yield Remote(url)
        finally:
            process.stdin.close()
            process.wait()
