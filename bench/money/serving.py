"""`weir`, for runs that kill on purpose: without the back-off before a worker that died young is replaced, and with
workers that are forked from a process which has imported what they need. A death costs a tenth of the processor's time
so; from their first line on they are workers like any other.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from proxy.cli import main
from proxy.supervisor import fleet, kept, process

_PR_SET_CHILD_SUBREAPER: Final = 36
_MOST: Final = 64  # listeners
_NEEDED: Final = ("proxy.worker", "policies.budget", "bench.money.rungs")


class Forked(subprocess.Popen[bytes]):
    """A child that `Nursery` made, to be waited for and killed like any other."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args, self.returncode = pid, list(args), None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


class Nursery:
    """The process that forks. Made before there are threads; it ends with the one that made it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        if os.fork() == 0:
            self._line.close()
            _bear(theirs)
            os._exit(0)
        theirs.close()
        # Who is born has an ancestor in between that ends at once: it becomes this process's own child.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def spawned(self, command: Sequence[str], fds: Sequence[int] = ()) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """What `proxy.supervisor.process.spawned` does."""
        ours, theirs = socket.socketpair()
        with theirs:
            index = command[command.index("--index") + 1]
            socket.send_fds(self._line, [json.dumps(index).encode()], [theirs.fileno(), *fds])
            return Forked(int(self._line.recv(64)), command), ours


def _bear(line: socket.socket) -> None:
    """For each message a worker, with the descriptors that came with it."""
    for name in _NEEDED:
        importlib.import_module(name)
    while True:
        message, fds, _, _ = socket.recv_fds(line, 64, _MOST)
        if not message:
            return
        told, tell = os.pipe()
        if (between := os.fork()) == 0:
            if (born := os.fork()) == 0:
                for fd in (told, tell, line.fileno()):
                    os.close(fd)
                _work(json.loads(message), fds)
            os.write(tell, b"%d" % born)
            os._exit(0)
        os.waitpid(between, 0)
        line.send(os.read(told, 64))
        for fd in (told, tell, *fds):
            os.close(fd)


def _work(index: str, fds: Sequence[int]) -> None:
    """A worker's life, as its command line would have begun it."""
    from proxy import exchange, worker

    os.setpgid(0, 0)
    exchange._PREFIX = secrets.token_hex(6)  # drawn at its import: ids would be the same in all
    os.dup2(2, 1)
    control, *listeners = map(str, fds)
    sys.argv = ["proxy.worker", "--control", control, "--listen", ",".join(listeners), "--index", index]
    worker.main()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    fleet.SETTLED_S = 0.0
    kept.SETTLED_S = 0.0
    process.spawned = Nursery().spawned
    sys.exit(main())
