"""A life of the whole program with secrets in every place that can hold one: requests of all kinds, faults, errors,
broken files, reloads, commands, crashes. What it wrote and showed is gathered in `Sinks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.cli.app import run
from proxy.simulator import Simulator
from proxy.simulator.ports import free_port
from proxy.simulator.scenario import Known, Scenario
from tests.children import at_our_end
from tests.ledger.postgres import Postgres
from tests.patience import PATIENCE_S
from tests.security.canaries import CANARIES, Sinks
from tests.state.servers import Server
from tests.wire.raw import Answer, Raw, get, post

COMMAND = (sys.executable, "-m", "proxy.cli")
PASSWORDS = {"CANARY_STATE": CANARIES["state-password"], "CANARY_LEDGER": CANARIES["ledger-password"]}
QUESTION = "What is the word of the day?"
C = CANARIES


@dataclass
class Life:
    """One `weir serve` in a directory, and everything that was seen of it."""

    directory: Path
    simulator: Simulator
    sinks: Sinks = field(default_factory=Sinks)
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    ops: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    key: str = ""
    exchanges: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    passwords: Mapping[str, str] = field(default_factory=dict)  # of servers that the files name

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def config(self) -> Path:
        return self.directory / "weir.yaml"

    # --- files

    def write(self, **changes: Any) -> None:
        """The deployment file and those that it names."""
        (self.directory / "up.key").write_text(C["upstream-key-file"])
        sha = hashlib.sha256(C["declared-key"].encode()).hexdigest()
        teams = {"version": 1, "teams": {"search": {}}, "keys": [{"id": "k-declared", "sha256": sha, "team": "search"}]}
        (self.directory / "teams.yaml").write_text(json.dumps(teams))
        (self.directory / "policies.yaml").write_text(json.dumps({"version": 1, "policies": self.policies()}))
        file = {
            "version": 1,
            "listen": f"127.0.0.1:{self.port}",
            "ops": f"127.0.0.1:{self.ops}",
            "admin": f"127.0.0.1:{self.admin}",
            "home": str(self.home),
            "workers": 2,
            "keys": "required",
            "teams": "teams.yaml",
            "policies": "policies.yaml",
            "timeouts": {"total_s": 3, "stream_idle_s": 1},
            "limits": {"body_bytes": "1 MiB", "upload_bytes": "1 MiB"},
            "log": {"level": "debug"},
            "upstreams": {
                "up": {
                    "url": self.simulator.url,
                    "key": "${CANARY_UPSTREAM}",
                    "provider": "openai",
                    "headers": {"x-upstream-secret": "${CANARY_HEADER}"},
                },
                "filed": {"url": self.simulator.url, "key": {"file": "up.key"}, "provider": "openai"},
                "gone": {"url": "http://127.0.0.1:9/v1", "key": "${CANARY_UPSTREAM}"},
            },
            "models": {
                "filed-model": {"upstream": "filed", "model": "gpt-4o-mini"},
                "gone-model": {"upstream": "gone"},
                "*": {"upstream": "up"},
            },
            **changes,
        }
        self.config.write_text(json.dumps(file))

    def policies(self) -> list[dict[str, Any]]:
        """A chain that sees everything."""
        cache = {"use": "cache", "exact": {"ttl": "1h", "sampled": True}, "store_timeout": "10s"}
        hook = {"url": f"http://127.0.0.1:{self.simulator.port}/hook", "secret": "${CANARY_WEBHOOK}"}
        return [
            {"use": "budget", "limit": "1000 USD/month", "ladder": {"0.0001%": "warn"}, "webhook": hook},
            {"use": "ratelimit", "requests": "100000/minute"},
            *([cache] if self.passwords else []),
            {"use": "retry"},
        ]

    # --- the program

    async def start(self) -> None:
        """`weir serve`, until it is ready."""
        self.env = {
            **{k: v for k, v in os.environ.items() if k.upper() not in _UNWANTED},
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "CANARY_UPSTREAM": C["upstream-key-env"],
            "CANARY_HEADER": C["upstream-header"],
            "CANARY_WEBHOOK": C["webhook-secret"],
            **self.passwords,
        }
        with (self.directory / "out").open("ab") as out, (self.directory / "err").open("ab") as err:
            self.process = await asyncio.create_subprocess_exec(
                *(*COMMAND, "serve", "--config", str(self.config)),
                stdout=out,
                stderr=err,
                env=self.env,
                preexec_fn=at_our_end(signal.SIGTERM),
            )
        await self.until_ready()

    async def until_ready(self) -> None:
        """Until the ops listener says so."""

        async def is_ready() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, (self.directory / "err").read_text()[-3000:]
            with contextlib.suppress(OSError):
                return (await self.http(self.ops, get("/readyz"))).status == 200
            return False

        await until(is_ready)

    async def stop(self) -> None:
        """A drain, to its end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await self.process.wait()

    async def finish(self) -> None:
        """A drain; then what it said and what it left behind are sinks."""
        await self.stop()
        self.sinks.add("stdout", (self.directory / "out").read_bytes())
        self.sinks.add("stderr", (self.directory / "err").read_bytes())
        self.sinks.tree("home", self.home)

    async def try_to_start(self) -> None:
        """`weir serve` where something is missing: it ends by itself, or is ended."""
        made = await asyncio.create_subprocess_exec(
            *(*COMMAND, "serve", "--config", str(self.config)),
            stdout=PIPE,
            stderr=STDOUT,
            env={**self.env, **PASSWORDS},
            preexec_fn=at_our_end(signal.SIGTERM),
        )
        assert made.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            said = await made.stdout.readline()
            await asyncio.sleep(1)
            with contextlib.suppress(ProcessLookupError):
                made.terminate()
            self.sinks.add("a start in vain", said + (await made.communicate())[0])

    async def http(self, port: int, request: bytes, method: str = "GET") -> Answer:
        async with await Raw.connect(port) as client:
            return await client.ask(request, method)

    async def weir(self, *words: str) -> tuple[int, str]:
        """A command, as an operator would give it, within this process, which is quick; its output is a sink."""
        env = {**self.env, **PASSWORDS, "WEIR_HOME": str(self.home)}
        status, said = await asyncio.to_thread(_command, words, env, self.directory)
        named = words[:2] if len(words) > 1 and words[1].isalpha() else words[:1]
        self.sinks.add(f"command weir {' '.join(named)}", said)
        return status, said

    # --- asking

    async def ask(self, path: str, body: bytes, *lines: str, key: str | None = None) -> Answer | None:
        """A request to the data port. Answers that aren't successes are sinks, as are all headers."""
        bearer = f"authorization: Bearer {key or self.key}"
        more = (bearer, f"x-note: {C['header-value']}", f"idempotency-key: {C['idempotency-key']}{next(self.numbers)}")
        try:
            answer = await self.http(self.port, post(path, body, *more, *lines), "POST")
        except (OSError, TimeoutError):
            return None
        self.note(answer)
        return answer

    def note(self, answer: Answer) -> None:
        """What a client was told, other than the answer it asked for."""
        self.sinks.add("headers of answers", repr(answer.headers))
        if answer.status >= 400:
            self.sinks.add("error bodies", answer.body)
        elif b'{"error"' in answer.body:
            self.sinks.add("error events", answer.body[answer.body.rindex(b'{"error"') :])
        if (exchange := answer.header(b"x-weir-exchange")) is not None:
            self.exchanges.append(exchange.decode())

    def look_at_processes(self) -> None:
        """Arguments and environments of the children, as anybody on the machine with the right may see them."""
        assert self.process is not None
        for pid in _tree(self.process.pid):
            with contextlib.suppress(OSError):
                self.sinks.add("arguments of processes", Path(f"/proc/{pid}/cmdline").read_bytes())
                if pid != self.process.pid:
                    self.sinks.add("environments of children", Path(f"/proc/{pid}/environ").read_bytes())

    async def look_at_listeners(self) -> None:
        """Metrics, health and everything that the admin API answers."""
        for path in ("/metrics", "/healthz", "/readyz", "/"):
            self.sinks.add("ops", (await self.http(self.ops, get(path))).body)
        token = (self.home / "admin.token").read_text().strip()
        self.sinks.extra["admin-token"] = token
        right = (f"authorization: Bearer {token}", f"host: 127.0.0.1:{self.admin}")
        wrong = (f"authorization: Bearer {C['admin-token-wrong']}", f"host: 127.0.0.1:{self.admin}")
        paths = ["/admin/status", "/admin/keys", "/admin/nothing", *(f"/admin/exchanges/{id}" for id in self.exchanges)]
        for path in paths:
            for lines in (right, wrong):
                answer = await self.http(self.admin, _get(path, *lines))
                self.sinks.add("admin answers", answer.body + repr(answer.headers).encode())
        await self.reload()

    async def reload(self) -> None:
        """The files again, by the admin API."""
        token = (self.home / "admin.token").read_text().strip()
        lines = (f"authorization: Bearer {token}", f"host: 127.0.0.1:{self.admin}")
        self.sinks.add("admin answers", (await self.http(self.admin, _post("/admin/reload", b"", *lines), "POST")).body)

    async def status(self) -> dict[str, Any]:
        """How it stands."""
        found: dict[str, Any] = json.loads((await self.weir("status", "--json"))[1])
        return found

    async def kill_worker(self, number: int) -> None:
        """A crash of one worker; another takes its place."""
        before = await self.status()
        os.kill(before["workers"][0]["pid"], number)

        async def replaced() -> bool:
            now = await self.status()
            ready = [worker["ready"] for worker in now["workers"]]
            return now["restarts"] > before["restarts"] and ready == [True] * len(before["workers"])

        await until(replaced)

    async def make_key(self) -> None:
        """A virtual key; each worker knows it a moment later."""
        _, made = await self.weir("keys", "create", "--team", "search")
        self.key = self.sinks.extra["virtual-key"] = made.strip()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it is so; it must become so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.05)


def _command(words: Sequence[str], env: Mapping[str, str], directory: Path) -> tuple[int, str]:
    """One command line; status, and all that it said."""
    before, said = dict(os.environ), io.StringIO()
    try:
        os.environ.clear()
        os.environ.update(env)
        with contextlib.chdir(directory), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return run(words), said.getvalue()
    finally:
        os.environ.clear()
        os.environ.update(before)


_UNWANTED = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "UPSTREAM", "OPENAI_API_KEY", "FORCE_COLOR", "WEIR_HOME"}


def _get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


def _post(path: str, body: bytes, *lines: str) -> bytes:
    length = f"content-length: {len(body)}"
    return "\r\n".join([f"POST {path} HTTP/1.1", length, *lines, "", ""]).encode() + body


def _tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, level = [pid], [pid]
    while level:
        below: list[int] = []
        for one in level:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{one}/task").iterdir():
                    below += [int(child) for child in (task / "children").read_text().split()]
        found += below
        level = below
    return found


@asynccontextmanager
async def life(directory: Path, passwords: Mapping[str, str] | None = None, **changes: Any) -> AsyncIterator[Life]:
    """A provider with a secret answer, and the program before it."""
    answer = f"The word is {C['answer']} today."
    scenario = Scenario(answers=(Known(question=QUESTION, right=answer, wrong=answer),))
    async with Simulator(seed=3, scenario=scenario) as simulator:
        one = Life(directory, simulator, passwords=passwords or {})
        one.write(**changes)
        try:
            yield one
        finally:
            if one.process is not None and one.process.returncode is None:
                for pid in _tree(one.process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await one.process.wait()


def chat(stream: bool = False, **fields: Any) -> bytes:
    """A question with a secret in it."""
    messages = [{"role": "user", "content": f"{C['prompt']} {QUESTION}"}]
    return json.dumps({"model": "gpt-4o-mini", "messages": messages, "stream": stream, **fields}).encode()


def form(**fields: str) -> tuple[bytes, str]:
    """An upload with secrets in its fields, its file's name and its file."""
    mark = "weir-canary-form"
    parts = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items())
    file = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{C["file-name"]}.wav"\r\n\r\n'
    body = parts + file + C["file-content"] + f"\r\n--{mark}--\r\n"
    return body.encode(), f"content-type: multipart/form-data; boundary={mark}"


FAULTS = (
    "rate-limit:3600",
    "quota",
    "unauthorized",
    "bad-request",
    "context-length",
    "error-500",
    "error-503",
    "no-headers",
    "reset-after-request",
    "first-event-error",
    "mid-error",
    "eof-no-done",
    "rst",
    "stall",
    "malformed-event",
    "no-last-blank",
    "html-200",
    "truncated-json",
    "gzip-bomb:64",
    "unknown-encoding",
    "no-usage",
    "huge-usage",
    "redirect",
    "header-crlf:bare-lf",
)


async def requests(one: Life) -> None:
    """What clients send when all is well, and when nothing is."""
    for stream in (False, True):

        async def answered(stream: bool = stream) -> bool:
            told = await one.ask("/v1/chat/completions", chat(stream))
            if told is None or told.status == 401:  # of a worker that doesn't know the key yet
                return False
            assert told.status == 200, told.body
            assert C["answer"].encode() in told.body, "the canary must be there to be found"
            return True

        await until(answered)
        await one.ask("/v1/responses", _json(model="gpt-4o-mini", input=f"{C['prompt']} {QUESTION}", stream=stream))
        words = [{"role": "user", "content": f"{C['prompt']} {QUESTION}"}]
        await one.ask("/v1/messages", _json(model="claude-sonnet-4-5", max_tokens=99, messages=words, stream=stream))
    await one.ask("/v1/embeddings", _json(model="text-embedding-3-small", input=C["prompt"]))
    await one.ask("/v1/completions", _json(model="gpt-3.5-turbo-instruct", prompt=C["prompt"]))
    body, kind = form(model="gpt-4o-transcribe", prompt=C["form-prompt"])
    await one.ask("/v1/audio/transcriptions", body, kind)
    await one.ask("/v1/audio/transcriptions", body[:-20], kind)
    await one.ask(f"/v1/chat/completions?q={C['query-value']}", chat())
    await one.ask("/v1/chat/completions", chat(model="filed-model"))
    await one.ask("/v1/chat/completions", chat(model="gone-model"))
    asked = [(fault, stream) for fault in FAULTS for stream in (False, True)]
    await few([one.ask("/v1/chat/completions", chat(s, n=1), f"x-sim-fault: {f}") for f, s in asked], 12)


async def few(works: Sequence[Coroutine[Any, Any, object]], at_once: int) -> None:
    """A few at a time."""
    for at in range(0, len(works), at_once):
        await asyncio.gather(*works[at : at + at_once])


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def abuse(one: Life) -> None:
    """Keys that aren't, and bodies that can't be read."""
    broken = C["broken-body"]
    for body in (
        f'{{"model":"gpt-4o-mini","messages":"{broken}'.encode(),
        f'{{"model":5,"x":"{broken}"}}'.encode(),
        f'{{"model":"m","model":"n","x":"{broken}"}}'.encode(),
        f'{{"model":"m","temperature":NaN,"x":"{broken}"}}'.encode(),
        f'{{"model":"m","n":"{broken}"}}'.encode(),
        f'{{"model":"m","stream":"{broken}"}}'.encode(),
        f'["{broken}"]'.encode(),
        b"\xff" + broken.encode(),
        broken.encode() * 200_000,
    ):
        await one.ask("/v1/chat/completions", body)
    await one.ask("/v1/chat/completions", broken.encode(), "content-encoding: gzip")
    await one.ask("/v1/chat/completions", chat(), "content-type: text/plain")
    await one.ask("/v1/chat/completions", chat(), f"x-weir-tags: {broken}")
    await one.ask("/v1/chat/completions", chat(), key=C["client-key-unknown"])
    await one.ask("/v1/chat/completions", chat(), key=C["declared-key"])
    for lines in (
        (f"x-api-key: {C['client-key-api']}",),
        (f"authorization: Bearer {C['client-key-control']}\x01",),
        (f"authorization: Basic {C['client-key-unknown']}",),
        (f"authorization: Bearer {one.key}", f"x-api-key: {C['client-key-api']}"),
    ):
        with contextlib.suppress(OSError):
            one.note(await one.http(one.port, post("/v1/chat/completions", chat(), *lines), "POST"))
    for head in (
        f"GET /v1/models HTTP/1.1\r\nhost: x/#{broken}\r\n\r\n",
        f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{broken} bad: x\r\n\r\n",
        f"{broken} /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        f"GET /v1/models HTTP/9.9\r\nx-note: {broken}\r\n\r\n",
    ):
        with contextlib.suppress(OSError):
            one.note(await one.http(one.port, head.encode()))
    async with await Raw.connect(one.port) as client:  # gone in mid-stream
        lines = (f"authorization: Bearer {one.key}", "x-sim-fault: stall:2")
        await client.send(post("/v1/chat/completions", chat(True), *lines))
        await client.read_until(b"\n\n")


async def commands(one: Life) -> None:
    """Every command that shows something of a running proxy or of its files."""
    config = str(one.config)
    words = [
        ("check", config),
        ("check", config, "--json"),
        ("explain", "--config", config, "--model", "gpt-4o-mini"),
        ("status",),
        ("status", "--json"),
        ("keys", "list", "--all"),
        ("keys", "list", "--json", "--all"),
        ("keys", "revoke", f"wk-{C['client-key-unknown']}"),
        ("journal", "tail", "-n", "1000"),
        ("journal", "tail", "-n", "1000", "--json"),
        ("report",),
        ("report", "--format", "json", "--config", config),
        ("ledger", "status", "--config", config),
        ("ledger", "verify", "--config", config),
        ("prices", "show", "gpt-4o-mini"),
        ("bypass", "on"),
        ("bypass", "off"),
        ("reload",),
        *(("why", exchange) for exchange in one.exchanges[:3] + one.exchanges[-3:]),
        *(("why", exchange, "--json") for exchange in one.exchanges[:2]),
    ]
    for each in words:
        await one.weir(*each)


def broken_files() -> list[Mapping[str, Any] | str]:
    """What people write into the deployment file by mistake, with their secrets in it."""
    inline, up = C["inline-key"], {"url": "http://127.0.0.1:9/v1"}
    return [
        {"upstreams": {"up": {**up, "key": inline}}},
        {"upstreams": {"up": {**up, "key": {"value": inline}}}},
        {"upstreams": {"up": {**up, "key": [inline]}}},
        {"upstreams": {"up": {**up, "keys": [inline]}}},
        {"upstreams": {"up": {**up, "kee": "${CANARY_UPSTREAM}"}}},
        {"upstreams": {"up": {"url": f"http://user:{inline}@127.0.0.1/v1"}}},
        {"upstreams": {"up": {"url": "http://user:${CANARY_UPSTREAM}@127.0.0.1/v1"}}},
        {"upstreams": {"up": {"url": "${CANARY_UPSTREAM}"}}},
        {"workers": "${CANARY_UPSTREAM}"},
        {"listen": "${CANARY_UPSTREAM}"},
        {"timeouts": {"total_s": "${CANARY_UPSTREAM}"}},
        {"state": f"redis://:{inline}@127.0.0.1:1/0"},
        {"state": "nonsense://:${CANARY_STATE}@127.0.0.1:1/0"},
        {"state": "redis://:${CANARY_STATE}@127.0.0.1:notaport/0"},
        {"ledger": f"postgresql://u:{inline}@127.0.0.1:1/x"},
        {"ledger": "nonsense://u:${CANARY_LEDGER}@127.0.0.1:1/x"},
        {"models": {"m": {"upstream": "${CANARY_UPSTREAM}"}}},
        '{"version": 1, "upstreams": {"up": {"url": "x", "key": "' + inline + "\n",
        'version: 1\nupstreams: {up: {key: "${CANARY_UPSTREAM", url: [\n',
        "version: 1\nkey: &a " + inline + "\n  bad: *b\n",
    ]


def broken_policies() -> list[Mapping[str, Any]]:
    """The same for policies."""
    step = {"use": "budget", "limit": "1 USD/month", "ladder": {"80%": "warn"}}
    return [
        {"use": "budget", "limit": "${CANARY_WEBHOOK}"},
        {**step, "webhook": {"secret": C["inline-key"]}},
        {**step, "webhook": {"url": "${CANARY_WEBHOOK}", "secret": "${CANARY_WEBHOOK}"}},
        {**step, "webhook": {"url": "http://127.0.0.1:9/", "secret": "${CANARY_WEBHOOK}", "sicret": "x"}},
    ]


async def mistakes(one: Life) -> None:
    """Files that are wrong, reloaded and checked; the old ones go on."""
    good, policies = json.loads(one.config.read_text()), json.loads((one.directory / "policies.yaml").read_text())
    wrong = [text if isinstance(text, str) else json.dumps({**good, **text}) for text in broken_files()]
    for number, entry in enumerate(broken_policies()):
        path = one.directory / f"policies-{number}.yaml"
        path.write_text(json.dumps({**policies, "policies": [entry]}))
        wrong.append(json.dumps({**good, "policies": path.name}))
    for number, text in enumerate(wrong):
        one.config.write_text(text)
        await one.reload()
        path = one.directory / f"wrong-{number}.yaml"
        path.write_text(text)
        await one.weir("check", str(path))
    await one.weir("reload")
    one.config.write_text(json.dumps(good))
    (one.directory / "up.key").write_text(C["upstream-key-file"] + "\nsecond line")
    await one.reload()
    (one.directory / "up.key").write_text(C["upstream-key-file"])
    (one.home / "keys.json").rename(one.home / "keys.kept")
    (one.home / "keys.json").write_text('{"keys": [{"id": "' + C["inline-key"])
    await one.weir("keys", "list")

    async def told() -> bool:
        return b"keys are damaged" in (one.directory / "err").read_bytes()

    await until(told)
    (one.home / "keys.kept").rename(one.home / "keys.json")
    status, said = await one.weir("reload")
    assert status == 0, said


async def whole(directory: Path, **changes: Any) -> Sinks:
    """All of it, from the start to the end."""
    async with life(directory, **changes) as one:
        await one.start()
        await one.make_key()
        await requests(one)
        await abuse(one)
        one.look_at_processes()
        await one.look_at_listeners()
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            await one.kill_worker(number)
        await one.ask("/v1/chat/completions", chat())
        await mistakes(one)
        await commands(one)
        await one.look_at_listeners()
        one.look_at_processes()
        await one.finish()
        return one.sinks


async def fleet(directory: Path, redis: Server, postgres: Postgres) -> Sinks:
    """With a cache, and with servers of others that want passwords, and that go away while it runs."""
    redis.say("CONFIG", "SET", "requirepass", C["state-password"])
    ledger = postgres.database("canaries").replace("weir@", "weir:${CANARY_LEDGER}@")
    state = f"redis://:${{CANARY_STATE}}@127.0.0.1:{redis.port}/0"
    async with life(directory, PASSWORDS, state=state, ledger=ledger) as one:
        await one.start()
        await one.make_key()

        async def hit() -> bool:
            answer = await one.ask("/v1/chat/completions", chat())
            return answer is not None and answer.header(b"x-weir-cache") == b"hit"

        await until(hit)
        await one.ask("/v1/chat/completions", chat(True))
        await requests(one)
        one.look_at_processes()
        for change in (redis.kill, redis.start, postgres.stop):  # the new Redis knows no password: AUTH is an error
            await asyncio.to_thread(change)
            await one.ask("/v1/chat/completions", chat(user=str(change)))
            await asyncio.sleep(1)
        await commands(one)
        await one.look_at_listeners()
        await asyncio.to_thread(postgres.start)
        await one.finish()
    nowhere = {
        "state": "redis://:${CANARY_STATE}@127.0.0.1:1/0",
        "ledger": "postgresql://u:${CANARY_LEDGER}@127.0.0.1:1/x",
    }
    for name, url in nowhere.items():
        one.write(**{name: url})
        await one.try_to_start()
    return one.sinks
