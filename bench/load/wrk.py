"""wrk with 16 connections: closed loop, for CPU per request and for capacity."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.load import wire
from bench.payloads import PATH

CONNECTIONS = 16

_SCRIPT = """
wrk.method = "POST"
{headers}
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('JSON {{"requests":%d,"failed":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Seen:
    requests: int
    failed: int
    duration_us: int
    p50_us: int
    p99_us: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6


def script(body: bytes, directory: Path) -> Path:
    """Write the Lua script that posts `body`."""
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in wire.HEADERS)
    path = directory / "post.lua"
    path.write_text(_SCRIPT.format(headers=headers, body=body.decode()))
    return path


def run(
    program: str, script_path: Path, url: str, *, seconds: float, core: int, connections: int = CONNECTIONS
) -> Seen:
    """Load `url` (an origin) for some seconds; raises RuntimeError when wrk can't say what it saw."""
    argv = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script_path), url + PATH]
    ran = subprocess.run(
        argv, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    for line in ran.stdout.splitlines():
        if line.startswith("JSON "):
            return Seen(**json.loads(line[5:]))
    raise RuntimeError(f"wrk failed: {ran.stdout}{ran.stderr}")
