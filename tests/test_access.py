"""How the scripts that talk to a server reach it: keys, addresses, certificates, proxies, busy servers.

Each test is of list_entities.py and of export_runs.py alike, against a server on loopback.
"""

from __future__ import annotations

import http.client
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import export_runs
import list_entities
import polars as pl
import pytest
import requests
import urllib3
from conftest import running
from wandb_server import API_KEY, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Done

SCRIPTS = ("list_entities.py", "export_runs.py")
WRONG_KEY = "1" * 40


@pytest.fixture
def server(empty_server) -> Server:
    add_run(empty_server)
    return empty_server


def add_run(server: Server) -> None:
    server.add_run("team", "demo", "abc", summary={"loss": 1.0})
    rows = [{"_step": step, "_runtime": 0.5, "_timestamp": 1e9, "loss": 0.5} for step in range(5)]
    server.add_history("team", "demo", "abc", rows=rows)


@pytest.fixture(params=SCRIPTS)
def ask(request, run_script, call_script, script_command, tmp_path) -> Callable[..., Done]:
    """Run a script with these variables and no others of W&B, in an empty home and an empty folder.

    With `start`, it is a process of its own. Where it says that all went well, it must have found the run, and its
    history if it is the one to fetch it.
    """
    home, folder, out = (tmp_path / name for name in ("home", "cwd", "out"))
    home.mkdir()
    folder.mkdir()
    about = {
        "list_entities.py": ("-e", "team", "--json"),
        "export_runs.py": ("-e", "team", "-o", out, "--include-history", "--json"),
    }[request.param]
    nowhere = {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_CONFIG_DIR": str(home / "config")}

    def call(*arguments: object, start: bool = False, **variables: str) -> Done:
        env = nowhere | {f"WANDB_{name}_DIR": str(home) for name in ("CACHE", "DATA")} | variables
        done = (run_script if start else call_script)(request.param, *about, *arguments, env=env, cwd=folder)
        if done.code == 0:
            assert '"demo"' in done.out
            assert request.param == "list_entities.py" or pl.read_parquet(out / "team_demo_history.parquet").height == 5
        return done

    def command(server: Server) -> dict[str, Any]:
        env = nowhere | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
        return script_command(request.param, *about, env=env, cwd=folder)

    call.script, call.home, call.folder, call.command = request.param, home, folder, command
    return call


def error_line(done: Done) -> str:
    """What is said where nothing could be had: one line, and nothing on stdout."""
    assert (done.code, done.out) == (1, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


def test_an_administrator_sees_what_the_sdk_shows(server, ask, clean_environment, tmp_path):
    """W&B grants these rights to clients with the headers of the SDK's Api, and no storage host gets to know."""
    env = clean_environment | server.environment(tmp_path / "sdk")
    subprocess.run([sys.executable, "-c", "import wandb; wandb.Api().viewer"], env=env, cwd=tmp_path, check=True)
    sdk = {(re.sub(r"[0-9.]+$", "", each["user_agent"]), each["admin"]) for each in server.requests()}
    server.reset()
    assert ask(**server.environment(tmp_path / "sdk")).code == 0
    asked = server.requests(kind="graphql")
    assert {(re.sub(r"[0-9.]+$", "", each["user_agent"]), each["admin"]) for each in asked} == sdk
    assert {each["admin"] for each in server.requests(kind="download")} <= {""}


# --- which key ------------------------------------------------------------------------------------------------


def write_netrc(home: Path, machine: str, key: str) -> None:
    (home / "netrc").write_text(f"machine {machine} login user password {key}\n")


def write_settings(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text("[default]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))


def test_of_several_keys_the_first_counts(server, ask):
    """A file, the variable, netrc, the settings: in this order; the key that comes after is a wrong one each time."""
    address = server.url.removeprefix("http://")
    write_settings(ask.home / "config", api_key=API_KEY)
    done = ask(WANDB_BASE_URL=server.url)
    assert done.code == 0, done.err
    write_settings(ask.home / "config", api_key=WRONG_KEY)
    write_netrc(ask.home, address, API_KEY)
    done = ask(WANDB_BASE_URL=server.url)
    assert done.code == 0, done.err
    write_netrc(ask.home, address, WRONG_KEY)
    done = ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY)
    assert done.code == 0, done.err
    (ask.home / "key").write_text(f"  {API_KEY}\n\n")
    done = ask("--api-key-file", ask.home / "key", WANDB_BASE_URL=server.url, WANDB_API_KEY=WRONG_KEY)
    assert done.code == 0, done.err


def test_netrc_is_of_a_host_and_its_port(server, ask):
    """What it says of another port of that host is not for this server."""
    port = urlsplit(server.url).port
    (ask.home / "netrc").write_text(
        f"machine 127.0.0.1 login user password {API_KEY}\nmachine 127.0.0.1:{port + 1} login user password {API_KEY}\n"
    )
    assert "no API key" in error_line(ask(WANDB_BASE_URL=server.url))
    assert server.requests() == []


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_netrc_is_looked_for_at_home(server, ask, name):
    (ask.home / name).write_text(f"machine {urlsplit(server.url).netloc} login user password {API_KEY}\n")
    done = ask(WANDB_BASE_URL=server.url, NETRC="")
    assert done.code == 0, done.err


@pytest.mark.parametrize("form", ["long", "prefix", "token"])
def test_forms_of_keys(ask, form):
    canary = secrets.token_hex(20)
    key = {"long": canary * 2, "prefix": f"local-{canary}", "token": f"{canary}.{canary[::-1]}-_.{canary[:30]}"}[form]
    with Server(api_key=key) as server:
        add_run(server)
        done = ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=key)
    assert done.code == 0, done.err
    assert canary not in done.err


@pytest.mark.parametrize("key", ["1" * 39, f"{'1' * 20} {'2' * 20}", f"{'1' * 40}!", "a.b", "1" * 40 + "\n" + "2" * 40])
def test_what_is_no_key_is_not_sent(server, ask, key):
    line = error_line(ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=key))
    assert "API key" in line
    assert "WANDB_API_KEY" in line
    assert "11111" not in line
    assert server.requests() == []


def test_a_key_and_a_token_file_exclude_each_other(server, ask):
    (ask.home / "token").write_text("token")
    identity = {"WANDB_IDENTITY_TOKEN_FILE": str(ask.home / "token")}
    line = error_line(ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY, **identity))
    assert "WANDB_API_KEY" in line
    assert "WANDB_IDENTITY_TOKEN_FILE" in line
    assert server.requests() == []


def test_a_token_file_alone_is_said_to_be_no_way_in(server, ask):
    (ask.home / "token").write_text("token")
    line = error_line(ask(WANDB_BASE_URL=server.url, WANDB_IDENTITY_TOKEN_FILE=str(ask.home / "token")))
    assert "WANDB_IDENTITY_TOKEN_FILE" in line
    assert "--api-key-file" in line
    assert server.requests() == []


# --- which server ---------------------------------------------------------------------------------------------


def test_of_several_addresses_the_first_counts(server, ask):
    """The variable, the folder's settings, the user's: in this order; the next one leads nowhere each time."""
    nowhere = "http://127.0.0.1:1"
    write_settings(ask.home / "config", base_url=server.url)
    done = ask(WANDB_API_KEY=API_KEY)
    assert done.code == 0, done.err
    write_settings(ask.home / "config", base_url=nowhere)
    write_settings(ask.folder / "wandb", base_url=server.url + "/")
    done = ask(WANDB_API_KEY=API_KEY)
    assert done.code == 0, done.err
    write_settings(ask.folder / "wandb", base_url=nowhere)
    done = ask(WANDB_API_KEY=API_KEY, WANDB_BASE_URL=server.url)
    assert done.code == 0, done.err


# --- what is not needed ---------------------------------------------------------------------------------------

WITHOUT_WANDB = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wandb":
            raise ModuleNotFoundError(f"{name} is not to be imported")

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def without_wandb(tmp_path) -> dict[str, str]:
    """Variables under which no process of Python can import wandb."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(WITHOUT_WANDB)
    return {"PYTHONPATH": str(tmp_path / "python")}


def test_no_key_is_said_without_wandb(server, ask, without_wandb):
    line = error_line(ask(start=True, WANDB_BASE_URL=server.url, **without_wandb))
    assert "no API key" in line
    assert "--api-key-file" in line
    assert server.requests() == []


def test_a_server_is_read_without_wandb(server, ask, without_wandb):
    done = ask(start=True, WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY, **without_wandb)
    assert done.code == 0, done.err


def test_a_refused_key_costs_one_question(server, ask):
    line = error_line(ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=WRONG_KEY))
    assert "the API key is wrong" in line
    assert WRONG_KEY not in line
    assert len(server.requests()) == 1


# --- redirects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 307])
def test_no_redirect_of_a_question_is_followed(server, ask, status):
    with Server() as elsewhere:
        add_run(elsewhere)
        to = {"Location": f"{elsewhere.url}/graphql"}
        server.fault("status", match={"kind": "graphql"}, status=status, headers=to, body="moved")
        line = error_line(ask("--retries", 1, WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY))
        assert elsewhere.requests() == []
    assert server.url in line


# --- certificates ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", folder / "key", "-out", folder / "certificate"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate"


@pytest.fixture(scope="module")
def safe_server(certificate) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    with Server(tls=context) as server:
        add_run(server)
        yield server


def test_a_certificate_that_nobody_has_signed(safe_server, ask, certificate):
    how = {"WANDB_BASE_URL": safe_server.url, "WANDB_API_KEY": API_KEY}
    assert "SSL_CERT_FILE" in error_line(ask("--retries", 1, **how))
    assert not [request for request in safe_server.requests() if request["authorization"]]
    done = ask(**how, SSL_CERT_FILE=str(certificate))
    assert done.code == 0, done.err
    safe_server.reset()
    done = ask(**how, WANDB_INSECURE_DISABLE_SSL="true")
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    safe_server.reset()
    error_line(ask("--retries", 1, **how, WANDB_INSECURE_DISABLE_SSL="false"))


# --- proxies --------------------------------------------------------------------------------------------------


@contextmanager
def proxy(**hosts: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy for plain HTTP that knows some host names; its URL, and the URLs that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            asked.append(self.path)
            url = urlsplit(self.path)
            target = http.client.HTTPConnection(hosts.get(str(url.hostname), "127.0.0.1:1"))
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "proxy-connection"}
            target.request(self.command, f"{url.path}?{url.query}", body, headers)
            answer = target.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            target.close()

        do_GET = do_POST = do_HEAD = forward  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing: `asked` is the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{service.server_port}", asked
        finally:
            service.shutdown()
            thread.join()


def proxied(url: str, no_proxy: str = "") -> dict[str, str]:
    names = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "ALL_PROXY": "", "NO_PROXY": no_proxy}
    return names | {name.lower(): value for name, value in names.items()}


def test_a_proxy_is_used(server, ask):
    """For the server and for its storage; both have names that only the proxy knows."""
    by_host = {"wandb.test": urlsplit(server.url).netloc, "storage.test": urlsplit(server.storage_url).netloc}
    server.configure(storage_url="http://storage.test")
    try:
        with proxy(**by_host) as (url, asked):
            done = ask(WANDB_BASE_URL="http://wandb.test", WANDB_API_KEY=API_KEY, **proxied(url))
    finally:
        server.configure(storage_url=server.storage_url)
    assert done.code == 0, done.err
    hosts = {urlsplit(path).hostname for path in asked}
    assert hosts == ({"wandb.test"} if ask.script == "list_entities.py" else set(by_host))


def test_a_host_that_needs_no_proxy(server, ask):
    how = proxied("http://127.0.0.1:1", no_proxy="elsewhere.test,127.0.0.1")
    done = ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY, **how)
    assert done.code == 0, done.err


# --- busy servers ---------------------------------------------------------------------------------------------

WAIT_S = 2.0


@pytest.mark.parametrize(("status", "header"), [(429, "Retry-After"), (503, "Retry-After"), (429, "RateLimit-Reset")])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(server, ask, status, header):
    """By every question, also those of other projects; and people are told."""
    for number in range(30):
        server.add_run("team", f"p{number:02d}", "abc", summary={"loss": 1.0})
    after = {header: f"{WAIT_S:.0f}"}
    busy = server.fault("status", match={"kind": "graphql"}, after=3, times=1, status=status, headers=after)
    done = ask(WANDB_BASE_URL=server.url, WANDB_API_KEY=API_KEY)
    assert (done.code, busy.hits) == (0, 1), done.err
    log = server.requests(kind="graphql")
    (refused,) = [request["received_s"] for request in log if request["fault"]]
    waited = [request["received_s"] - refused for request in log]
    assert not [wait for wait in waited if WAIT_S / 2 < wait < WAIT_S], waited  # what was on its way may come
    assert str(status) in done.err
    assert "wait" in done.err.lower()


@pytest.mark.parametrize("after", ["86400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_wait_without_end_is_not_waited_for(server, ask, after):
    """A server that asks for a day's patience gets some minutes at most: how long is said at once."""
    server.fault("status", match={"kind": "graphql"}, status=429, headers={"Retry-After": after})
    with running(ask.command(server)) as process:
        limit = threading.Timer(30, process.kill)  # for a wait that nobody is told of
        limit.start()
        line = next((line for line in process.stderr if "429" in line), "")
        limit.cancel()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130, line
    waits = re.findall(r"(\d+)(?:\.\d+)? (s|seconds|min|minutes)\b", line)
    assert waits, line
    assert 100 <= sum(int(number) * (1 if unit[0] == "s" else 60) for number, unit in waits) <= 900


@pytest.mark.parametrize("script", [export_runs, list_entities])
def test_a_long_wait_can_be_interrupted_at_any_moment(monkeypatch, script):
    """Python does not notice a Ctrl-C that comes just before a sleep until the sleep is over."""
    monkeypatch.setattr(script, "requests", requests, raising=False)  # imported late
    monkeypatch.setattr(script, "urllib3", urllib3, raising=False)
    options = SimpleNamespace(timeout=1, retries=0, workers=1)
    threads = {} if script is list_entities else {"threads": 1}
    client = script.Client("http://127.0.0.1:1", API_KEY, options, say=print, **threads)
    client.resume_at = time.monotonic() + 300
    waits = []
    monkeypatch.setattr(time, "sleep", lambda wait_s: (waits.append(wait_s), setattr(client, "resume_at", 0.0)))
    with pytest.raises(script.RequestError):
        client.ask("query Viewer { viewer { username } }", {})
    assert waits == [1.0]


def test_ctrl_c_cannot_meet_an_import(server, call_export, monkeypatch, tmp_path):
    """Python gives interrupts to the main thread. During its import polars panics at one, and then nothing ends."""
    threads = []
    import_libraries = export_runs.import_libraries
    monkeypatch.setattr(
        export_runs, "import_libraries", lambda: (threads.append(threading.current_thread()), import_libraries())
    )
    server.add_run("team", "demo", "abc", summary={"loss": 1.0})
    assert call_export("team/demo", env=server.environment(tmp_path / "sdk")).code == 0
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
