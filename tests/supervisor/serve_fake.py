"""A supervisor over fake workers in a process of its own: `python -m tests.supervisor.serve_fake HOME`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from proxy.logs import Log
from proxy.supervisor.service import Supervisor
from tests.supervisor.conftest import FAKE_WORKER, no_cards, plan


async def main() -> int:
    first = plan(Path(sys.argv[1]), workers=2)
    log = Log("json", "debug", stream=sys.stdout)
    return await Supervisor(first, lambda: first, log=log, command=FAKE_WORKER, compile=no_cards).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
