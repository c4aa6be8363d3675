"""What is measured: a subject forwards to one upstream, runs on the proxy's core, and is a tree of processes.

    with Direct(...) / Nginx(...) / Passthrough(...) / Weir(...) as subject: subject.url, subject.pids()

All subjects get the same origin as upstream, with the same CA where it speaks TLS, verify it, and keep connections to
it alive.
"""

from __future__ import annotations

import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from bench import machine, payloads
from bench.certificates import Certificates
from bench.load import single, wire
from bench.processes import NotReadyError, Process
from proxy.simulator.ports import free_port

DEVNULL = Path(os.devnull)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a run keeps its files, on which cores things run, and what the TLS upstreams show."""

    directory: Path
    cores: machine.Cores
    certificates: Certificates


@dataclass(frozen=True, slots=True)
class Origin:
    """An upstream as the subjects see it."""

    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"


class Subject(ABC):
    """One way from the load generator to the upstream."""

    name = "?"

    def __init__(self, setting: Setting, origin: Origin) -> None:
        self.setting, self.origin = setting, origin
        self.port = free_port()
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        return self.process.pids() if self.process else []

    def __enter__(self) -> Subject:
        self.process = self.start(self.setting.directory / f"{self.name}-{self.port}")
        try:
            self.process.wait_listening(self.port)
            self.settle()
        except (NotReadyError, OSError, ValueError) as error:
            self.process.stop()
            raise NotReadyError(f"{self.name} did not start: {error}") from None
        return self

    def settle(self) -> None:
        """Called once the port accepts: wait for what else belongs to being ready."""
        return

    def __exit__(self, *exc: object) -> None:
        if self.process is not None:
            self.process.stop()

    @abstractmethod
    def start(self, home: Path) -> Process:
        """Start the program; `home` is a path of its own, not made yet."""


class Direct(Subject):
    """No proxy at all: what the path to the upstream costs by itself."""

    name = "direct"

    def __init__(self, setting: Setting, origin: Origin) -> None:
        super().__init__(setting, origin)
        self.port = origin.port

    def __enter__(self) -> Subject:
        return self

    def start(self, home: Path) -> Process:
        raise NotImplementedError("the upstream is started by its owner")


class Nginx(Subject):
    """The reference: one worker, a pool of upstream connections, nothing logged, bodies kept in memory."""

    name = "nginx"

    def start(self, home: Path) -> Process:
        trust = self.setting.certificates.ca
        location = f"""
            proxy_pass {"https" if self.origin.tls else "http"}://up;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering {"off" if self.unbuffered else "on"};
            proxy_read_timeout 300s;
            proxy_ssl_session_reuse on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 2;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_trusted_certificate {trust};"""
        pool = f"upstream up {{ server 127.0.0.1:{self.origin.port}; keepalive 128; keepalive_requests 100000000; }}"
        return start_nginx(
            home, f"listen 127.0.0.1:{self.port} backlog=4096;", location, pool, self.setting.cores.proxy
        )

    def __init__(self, setting: Setting, origin: Origin, *, unbuffered: bool = False) -> None:
        super().__init__(setting, origin)
        self.unbuffered = unbuffered


class Passthrough(Subject):
    """The reference that is always available: an aiohttp application, `bench.passthrough`."""

    name = "aiohttp"

    def start(self, home: Path) -> Process:
        home.mkdir()
        trust = [str(self.setting.certificates.ca)] if self.origin.tls else []
        argv = [sys.executable, "-m", "bench.passthrough", str(self.port), self.origin.url, *trust]
        return Process(argv, core=self.setting.cores.proxy, log=home / "log")


class Weir(Subject):
    """Weir with one worker and the default chain: identity, metering, journal, metrics."""

    name = "weir"

    def start(self, home: Path) -> Process:
        home.mkdir()
        path = home / "weir.yaml"
        path.write_text(self.deployment(home))
        argv = [*weir_command(), "serve", "--config", str(path)]
        env = {"WEIR_HOME": str(home), "NO_COLOR": "1"}
        return Process(argv, core=self.setting.cores.proxy, log=home / "log", env=env)

    def settle(self) -> None:
        """The supervisor listens while rate cards are compiled and its worker starts: wait for the first answer."""
        with single.Connection(self.url) as connection:
            connection.exchange(wire.request(self.url, payloads.unary_request()))

    def deployment(self, home: Path) -> str:
        trust = f", ca: {self.setting.certificates.ca}" if self.origin.tls else ""
        return f"""
version: 1
listen: 127.0.0.1:{self.port}
ops: 127.0.0.1:{free_port()}
admin: 127.0.0.1:{free_port()}
home: {home}
workers: 1
upstreams:
  up: {{url: "{self.origin.url}/v1", provider: openai{trust}, pool: {{max_connections: 4096}}}}
models:
  "*": {{upstream: up}}
"""

    def worker_pids(self) -> list[int]:
        """The processes that serve the data port; without any by that name, all."""
        named = [pid for pid in self.pids() if b"proxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return named or self.pids()


def weir_command() -> list[str]:
    """The command of this environment, else the package's own."""
    installed = shutil.which("weir", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", "proxy"]


# --- upstreams ---


class StaticUpstream(Subject):
    """nginx that answers every request with the same 741 bytes; on the load's core."""

    name = "static-upstream"

    def start(self, home: Path) -> Process:
        certificates = self.setting.certificates
        listen = f"listen 127.0.0.1:{self.port}{' ssl' if self.origin.tls else ''} backlog=4096;"
        if self.origin.tls:
            listen += f" ssl_certificate {certificates.cert}; ssl_certificate_key {certificates.key};"
            listen += " ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:bench:1m;"
        location = f"default_type application/json; return 200 '{payloads.unary_answer().decode()}';"
        return start_nginx(home, listen, location, "", self.setting.cores.load)


class StreamUpstream(Subject):
    """`bench.upstream`: scheduled streams, and unary answers after whole bodies; on the load's core."""

    name = "stream-upstream"

    def start(self, home: Path) -> Process:
        home.mkdir()
        certificates = self.setting.certificates
        shown = [str(certificates.cert), str(certificates.key)] if self.origin.tls else []
        argv = [sys.executable, "-m", "bench.upstream", str(self.port), *shown]
        return Process(argv, core=self.setting.cores.load, log=home / "log")


def upstream(kind: type[Subject], setting: Setting, *, tls: bool) -> tuple[Subject, Origin]:
    """An upstream that isn't started yet, and the origin that its subjects are given."""
    made = kind(setting, Origin(0, tls))
    return made, Origin(made.port, tls)


def start_nginx(home: Path, listen: str, location: str, extra: str, core: int) -> Process:
    """Start nginx with one server and one location."""
    program = machine.nginx()
    assert program is not None, "callers ask for nginx only where it is installed"
    home.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"""
{"user root;" if os.getuid() == 0 else ""}
worker_processes 1;
daemon off;
pid {home}/pid;
error_log {home}/log warn;
worker_rlimit_nofile {machine.OPEN_FILES};
events {{ worker_connections 16384; }}
http {{
    access_log off;
    {temporary}
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    client_max_body_size 64m;
    client_body_buffer_size 16m;
    tcp_nodelay on;
    {extra}
    server {{
        {listen}
        location / {{
            {location}
        }}
    }}
}}
"""
    )
    return Process([program, "-p", str(home), "-c", str(home / "nginx.conf")], core=core, log=home / "log")
