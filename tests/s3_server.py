"""A real S3 server on a socket, and a proxy before it that does to requests what networks do."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "surveys"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-s3-tests",
    "AWS_REGION": "us-east-1",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def s3_server():
    """Start moto on a port of this machine, make a bucket, and give the endpoint."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def access_to(endpoint: str, seconds: float = 60):
    """Let this process and its children use a server, as users do: by the environment."""
    from cluster.remote import _client

    changes = {**ACCESS, "AWS_ENDPOINT_URL": endpoint, "OCCULTA_STORAGE_SECONDS": str(seconds)}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    _client.cache_clear()
    try:
        yield
    finally:
        _client.cache_clear()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class Faults:
    """What the proxy does, as shares of the requests; each strikes a request on its own."""

    refuse: float = 0
    """Answer 503 without asking the server."""
    reset: float = 0
    """Close the connection without an answer, before the server is asked."""
    forget: float = 0
    """Close the connection after the server has done what it was asked."""
    cut: float = 0
    """Send half of the answer's body."""
    flip: float = 0
    """Change a bit of what a GET returns."""
    absent: float = 0
    """Answer 404 to a GET or HEAD of an object."""
    deny: float = 0
    """Answer 403."""
    seed: int = 1
    struck: Counter = field(default_factory=Counter)
    """How often each did."""

    def __post_init__(self):
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def strikes(self, name: str) -> bool:
        with self._lock:
            hit = self._random.random() < getattr(self, name)
            self.struck[name] += hit
            return hit


@contextlib.contextmanager
def proxy(endpoint: str, faults: Faults):
    """Put faults between clients and a server; gives the endpoint for clients."""
    host, port = endpoint.removeprefix("http://").split(":")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            is_list = "list-type" in self.path
            if faults.strikes("reset"):
                return self.hang_up()
            if faults.strikes("refuse"):
                return self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            if faults.strikes("deny"):
                return self.answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
            if self.command in ("GET", "HEAD") and not is_list and faults.strikes("absent"):
                return self.answer(404, [], b"<Error><Code>NoSuchKey</Code></Error>")
            server = http.client.HTTPConnection(host, int(port), timeout=60)
            server.request(self.command, self.path, body, dict(self.headers))
            reply = server.getresponse()
            data = reply.read()
            server.close()
            if faults.strikes("forget"):
                return self.hang_up()
            if self.command == "GET" and not is_list and data and faults.strikes("flip"):
                place = len(data) // 2
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            return self.answer(reply.status, reply.getheaders(), data)

        def answer(self, status, headers, data):
            self.send_response_only(status)
            skipped = ("content-length", "connection", "transfer-encoding")
            for name, value in headers:
                if name.lower() not in skipped:
                    self.send_header(name, value)
            sizes = [value for name, value in headers if name.lower() == "content-length"]
            size = sizes[0] if self.command == "HEAD" and sizes else str(len(data))
            self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                if len(data) > 1 and faults.strikes("cut"):
                    self.wfile.write(data[: len(data) // 2])
                    return self.hang_up()
                self.wfile.write(data)
            return None

        def hang_up(self):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that goes away
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
