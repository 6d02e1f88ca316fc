"""HTTP: requests classified, counted, delayed, failed on demand, answered.

Two services on two ports of 127.0.0.1, as with W&B: the API, which wants the key, and the storage for exports and
files, which knows signed URLs alone and must never see a key.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import hmac
import itertools
import json
import operator
import re
import socket
import ssl
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import orjson

from .faults import Faults, Rule
from .schema import BadQueryError, Question, Resolvers
from .store import RunFile, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .store import Run, Store

CLOSE_TIMEOUT_S = 5  # for connections to end after the server's end


@dataclass
class Settings:
    latency_s: float = 0.0  # a floor for every answer, our own work included
    per_run_s: float = 0.0  # further, for every run in the answer
    page_limit: int = 1000  # `first` above this is cut
    line_limit: int = 10_000  # the same for console lines, and for `last`: then the newest are answered
    line_budget: int = 0  # lines after which a page of them ends, as if it were the last one; 0: never
    improved_pagination: bool = True  # False: as before W&B's 0.77, which does not know `useImprovedPagination`
    url_lifetime_s: float = 3600.0
    export_on_finish: bool = True  # a finished run's rows become parquet ...
    live_tail: int = 0  # ... but the last of them
    export_nested: str = "struct"  # or "dotted": how exports hold nested dicts
    live_data_before_export: bool = True  # False: parquetHistory tells nothing of a run without exports
    gzip: bool = False  # answer in gzip who accepts it
    base_url: str = ""
    storage_url: str = ""


@dataclass
class Request:
    """A line of the log, and while it is under way what the executor counts."""

    kind: str  # graphql, file_stream, file, upload, download, control, unknown
    service: str  # api, storage
    method: str
    path: str
    authorization: bool  # whether the header was there
    user_agent: str
    admin: str  # the header Use-Admin-Privileges
    received_s: float = field(default_factory=time.monotonic)
    bytes_received: int = 0
    bytes_sent: int = 0
    status: int = 0  # 0: no answer
    error: str = ""
    operation: str = ""
    fields: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    projects: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    first: int = 0
    in_flight: int = 0
    fault: str = ""
    runs_returned: int = 0
    watch_fields: bool = False
    plans: dict[int, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in {"watch_fields", "plans"}}


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    sent_bytes: int | None = None  # fewer than the body has: the connection is closed there
    byte_s: float = 0.0  # between two bytes of the body
    pieces: Iterator[bytes] | None = None  # in place of the body, of a length that is not said


class NoAnswer(Exception):  # noqa: N818
    """The connection is to be closed without one."""


def json_answer(status: int, content: Any) -> Answer:
    return Answer(status, orjson.dumps(content))


def failure(status: int, message: str) -> Answer:
    return json_answer(status, {"errors": [{"message": message}]})


def denied(message: str) -> Answer:
    """What a storage service says of a URL that is outdated or wrongly signed."""
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code><Message>{message}</Message></Error>"
    return Answer(403, text.encode(), "application/xml")


# --- the services ---------------------------------------------------------------------------------------------


class App:
    """What is behind both ports."""

    def __init__(self, store: Store, settings: Settings, api_key: str, control: Callable[[str, dict], Any]) -> None:
        self.store = store
        self.settings = settings
        self.credentials = "Basic " + base64.b64encode(f"api:{api_key}".encode()).decode()
        self.control = control
        self.faults = Faults()
        self.resolvers = Resolvers(store, self.faults, settings, self.signed)
        self.log: list[Request] = []
        self.under_way = 0
        self.counting = threading.Lock()
        self.url_generation = 0  # a higher one makes the URLs signed so far invalid

    # From request to answer

    def answer(self, request: Request, body: bytes, headers: Any, query: str) -> Answer:
        """The answer after faults and delay; NoAnswer if there is none."""
        if request.kind == "control":
            return self.controlled(json.loads(body))
        started = time.perf_counter()
        with self.counting:
            self.under_way += 1
            request.in_flight = self.under_way
        try:
            question = self.understand(request, body)
            request.watch_fields = self.faults.watch_fields
            rule = self.faults.for_request(request)
            answer = self.with_fault(rule, request, lambda: self.real_answer(request, question, body, headers, query))
            delay = self.settings.latency_s + self.settings.per_run_s * request.runs_returned
            self.pause(started + delay - time.perf_counter())
            return answer
        finally:
            request.plans.clear()
            with self.counting:
                self.under_way -= 1

    def understand(self, request: Request, body: bytes) -> Question | BadQueryError | None:
        """Note in `request` what a GraphQL question is about."""
        if request.kind != "graphql":
            return None
        try:
            question = Question.read(json.loads(body))
        except BadQueryError as error:
            return error
        request.operation = question.name
        for name, arguments in question.fields():
            request.fields.append(name)
            values = {**arguments, **(arguments.get("input") or {})}
            request.entities += texts(values.get("entityName"))
            if name in {"project", "model"}:
                request.projects += texts(values.get("name"))
            elif name in {"run", "bucket", "upsertBucket"}:
                request.runs += texts(values.get("name"))
            elif name == "runs":
                request.first = max(request.first, values.get("first") or 0)
            request.projects += texts(values.get("modelName") or values.get("projectName"))
            request.runs += texts(values.get("runName"))
        return question

    def with_fault(self, rule: Rule | None, request: Request, make: Callable[[], Answer]) -> Answer:
        if rule is None:
            return make()
        request.fault = rule.action
        match rule.action:
            case "status":
                text = rule.body and Answer(rule.status, rule.body.encode(), "text/plain")
                answer = text or failure(rule.status, rule.message)
                answer.headers |= rule.headers
            case "hang":
                self.pause(rule.seconds)
                raise NoAnswer
            case "drop":
                raise NoAnswer
            case "cut":
                answer = make()
                answer.sent_bytes = int(len(answer.body) * rule.fraction)
            case "truncate":
                answer = make()
                answer.body = answer.body[: int(len(answer.body) * rule.fraction)]
            case "trickle":
                answer = make()
                answer.byte_s = rule.seconds
            case "slow":
                self.pause(rule.seconds)
                answer = make()
            case "headers":
                answer = make()
                answer.headers |= rule.headers
            case "endless":
                answer = Answer(headers=rule.headers, pieces=itertools.repeat((rule.body or "x").encode() * 10_000))
            case "bomb":
                headers = {"Content-Encoding": "gzip", **rule.headers}
                answer = Answer(rule.status, headers=headers, pieces=zeros_as_gzip(rule.size))
            case "replace":
                answer = make()
                answer.body = with_value(answer.body, rule.place, rule.value)
            case "expired":
                answer = denied("Request has expired")
            case _:  # call
                self.control(rule.method, rule.arguments)
                answer = make()
        return answer

    def pause(self, duration_s: float) -> None:
        if duration_s > 0:
            self.faults.released.wait(duration_s)

    def real_answer(self, request: Request, question: Any, body: bytes, headers: Any, query: str) -> Answer:
        if request.service == "api" and headers["Authorization"] != self.credentials:
            return failure(401, "user is not logged in" if headers["Authorization"] is None else "invalid API key")
        if request.service == "storage" and not self.is_signed(request.path, query):
            return denied("Request has expired")
        match request.kind:
            case "graphql":
                return self.graphql(request, question)
            case "file_stream":
                return self.file_stream(request, json.loads(body))
            case "file":
                return self.redirect_to_storage(request)
            case "upload":
                return self.upload(request, body)
            case "download":
                return self.download(request, headers["Range"])
            case _:
                return failure(404, f"nothing at {request.path}")

    def controlled(self, call: dict[str, Any]) -> Answer:
        try:
            return json_answer(200, self.control(call["method"], call.get("arguments") or {}))
        except (LookupError, TypeError, ValueError, TimeoutError) as error:
            return failure(400, repr(error))

    # GraphQL and file_stream

    def graphql(self, request: Request, question: Question | BadQueryError) -> Answer:
        if isinstance(question, BadQueryError):
            request.error = str(question)
            return json_answer(400, {"errors": question.errors})
        values, errors = self.resolvers.execute(question, request)
        if errors:
            request.error = errors[0]["message"]
            return json_answer(200, {"data": values, "errors": errors})
        return json_answer(200, {"data": values})

    def file_stream(self, request: Request, body: dict[str, Any]) -> Answer:
        try:
            with self.store.lock:
                self.store.stream(
                    self.run_at(request),
                    body,
                    live_tail=self.settings.live_tail,
                    nested=self.settings.export_nested,
                    export=self.settings.export_on_finish,
                )
        except KeyError:
            return failure(404, "run not found")
        return json_answer(200, {"exitcode": None, "limits": {}, "stopped": False})

    def run_at(self, request: Request) -> Run:
        return self.store.run(request.entities[0], request.projects[0], request.runs[0])

    # Files

    def redirect_to_storage(self, request: Request) -> Answer:
        location = self.signed("/storage" + request.path.removeprefix("/files"))
        return Answer(302, headers={"Location": location})

    def upload(self, request: Request, body: bytes) -> Answer:
        *place, name = request.path.split("/", 5)[1:]
        try:
            with self.store.lock:
                self.store.files_at(*place)[name] = RunFile(name, body, now())
        except KeyError:
            return denied("no such run")
        return Answer()

    def download(self, request: Request, wanted: str | None) -> Answer:
        *place, name = request.path.split("/", 5)[1:]
        try:
            with self.store.lock:
                if place[0] == "exports":
                    file = self.run_at(request).history.exports[int(name.removesuffix(".parquet"))].file
                else:
                    file = self.store.files_at(*place)[name]
        except (KeyError, IndexError, ValueError):
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
        content = file.content if isinstance(file, RunFile) else file.read_bytes()
        return part_of(content, wanted)

    # Signed URLs

    def signed(self, path: str) -> str:
        expires = f"{time.time() + self.settings.url_lifetime_s:.3f}"
        signature = self.signature(path, expires)
        return f"{self.settings.storage_url}{quote(path)}?expires={expires}&signature={signature}"

    def signature(self, path: str, expires: str) -> str:
        text = f"{path} {expires} {self.url_generation}"
        return hmac.new(b"wandb_server", text.encode(), hashlib.sha256).hexdigest()

    def is_signed(self, path: str, query: str) -> bool:
        values = parse_qs(query)
        expires = values.get("expires", ["0"])[0]
        is_right = values.get("signature") == [self.signature(path, expires)]
        return is_right and float(expires) > time.time()

    # What was asked so far

    def note(self, request: Request) -> None:
        if request.kind != "control":
            with self.counting:
                self.log.append(request)

    def counts(self) -> dict[str, int]:
        """How many requests of each kind, operation, field and fault; runs and bytes."""
        with self.counting:
            log = list(self.log)
        counts: Counter[str] = Counter()
        for request in log:
            counts[request.kind] += 1
            counts["bytes_sent"] += request.bytes_sent
            counts["runs_returned"] += request.runs_returned
            if request.kind == "graphql":
                counts[f"operation:{request.operation}"] += 1
            counts.update(f"field:{name}" for name in request.fields)
            if request.fault:
                counts[f"fault:{request.fault}"] += 1
        return dict(counts)


def texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else []


def part_of(content: bytes, wanted: str | None) -> Answer:
    """The whole, or the bytes that a Range header asks for."""
    kind = "application/octet-stream"
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not span or span.groups() == ("", ""):
        return Answer(200, content, kind, {"Accept-Ranges": "bytes"})
    first, last = span.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= len(content):
        return Answer(416, b"", kind, {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start:end], kind, {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})


def with_value(body: bytes, place: Sequence[str | int], value: str) -> bytes:
    """A JSON text with another value at a place, if it has that; the value may be one that is not JSON, such as NaN."""
    answer = orjson.loads(body)
    try:
        above = functools.reduce(operator.getitem, place[:-1], answer)
        above[place[-1]]
    except (LookupError, TypeError):
        return body
    if not value:
        del above[place[-1]]
        return orjson.dumps(answer)
    mark = "the value is put here"
    above[place[-1]] = mark
    return orjson.dumps(answer).replace(orjson.dumps(mark), value.encode("utf-8", "surrogatepass"))


def zeros_as_gzip(size: int) -> Iterator[bytes]:
    """`size` zero bytes, in units of 10 MB, compressed."""
    packer, unit = zlib.compressobj(9, wbits=31), bytes(10_000_000)
    yield packer.compress(unit[:0]) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    yield from itertools.repeat(packed, size // len(unit))


# --- sockets --------------------------------------------------------------------------------------------------


class Service(ThreadingHTTPServer):
    """One port. Connections are kept in a list, so that the end of the server is the end of its threads."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, app: App, name: str, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.scheme = "https" if tls else "http"
        if tls:  # the handshake is left to the connection's own thread
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.app = app
        self.name = name
        self.connections: set[socket.socket] = set()
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.changed:
            self.connections.discard(request)
            self.changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game; anything else is our bug and is printed."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        with self.changed:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.changed.wait_for(lambda: not self.connections, CLOSE_TIMEOUT_S)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def handle_method(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers["Content-Length"] or 0)
        if len(body := self.rfile.read(length)) < length:
            raise ConnectionAbortedError("the client was killed while it asked")
        request = self.classified(unquote(url.path), len(body))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.app.note(request)
        try:
            answer = self.server.app.answer(request, body, self.headers, url.query)
        except NoAnswer:
            self.close_connection = True
            return
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            answer = failure(500, f"a bug in the test server: {error!r}")
        self.send(request, answer)

    do_GET = do_HEAD = do_POST = do_PUT = handle_method  # noqa: N815

    def classified(self, path: str, size: int) -> Request:
        kind, parts = "unknown", path.split("/", 5)
        match self.server.name, self.command, parts[1:]:
            case "api", "POST", ["graphql"]:
                kind = "graphql"
            case "api", "POST", ["control"]:
                kind = "control"
            case "api", "POST", ["files", _, _, _, "file_stream"]:
                kind = "file_stream"
            case "api", "GET" | "HEAD", ["files", _, _, _, _]:
                kind = "file"
            case "storage", "PUT", ["storage" | "artifacts", _, _, _, _]:
                kind = "upload"
            case "storage", "GET" | "HEAD", ["storage" | "artifacts" | "exports", _, _, _, _]:
                kind = "download"
        about = kind in {"file_stream", "file", "upload", "download"}
        return Request(
            kind,
            self.server.name,
            self.command,
            path,
            authorization="Authorization" in self.headers,
            user_agent=self.headers["User-Agent"] or "",
            admin=self.headers["Use-Admin-Privileges"] or "",
            bytes_received=size,
            entities=parts[2:3] if about else [],
            projects=parts[3:4] if about else [],
            runs=parts[4:5] if about else [],
        )

    def send(self, request: Request, answer: Answer) -> None:
        body, headers = answer.body, answer.headers
        if self.server.app.settings.gzip and "gzip" in (self.headers["Accept-Encoding"] or "") and body:
            body, headers = gzip.compress(body, 1), {**headers, "Content-Encoding": "gzip"}
        self.send_response_only(answer.status)
        self.close_connection |= answer.pieces is not None
        length = {"Connection": "close"} if answer.pieces else {"Content-Length": str(len(body))}
        for name, value in {"Content-Type": answer.content_type, **length, **headers}.items():
            self.send_header(name, value)
        sent = b"" if self.command == "HEAD" else body[: answer.sent_bytes]
        request.status, request.bytes_sent = answer.status, len(sent)  # before the client can ask for it
        self._headers_buffer.append(b"\r\n")
        head, self._headers_buffer = b"".join(self._headers_buffer), []
        self.wfile.write(head if answer.byte_s else head + sent)  # one packet for small answers
        for number in range(len(sent) if answer.byte_s else 0):
            self.server.app.pause(answer.byte_s)
            self.wfile.write(sent[number : number + 1])
        for piece in answer.pieces or ():
            self.wfile.write(piece)
        if answer.sent_bytes is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing: the log is kept in memory."""
