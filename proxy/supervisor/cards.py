"""The rate cards, compiled once into a file that workers only read.

Rules: compiling imports the whole price database (half a second and some 50 MB), so a process of its own does it and
ends. The file's name is a hash of everything that its content depends on; if it exists, it is right. Run as `python
-m proxy.supervisor.cards FILE` with the deployment file's `{"prices": …}` on stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

COMPILE_S = 60.0


class CardsError(Exception):
    """The rate cards can't be compiled."""


def file_of(home: Path, prices: str) -> Path:
    """Where the cards for these overrides are or will be: the name changes with prices, code and price database."""
    package = find_spec("proxy.pricing")
    folders = package.submodule_search_locations if package is not None else None
    code = [path.read_bytes() for folder in folders or () for path in sorted(Path(folder).glob("*.py"))]
    content = b"\0".join([*code, version("genai-prices").encode(), prices.encode()])
    return home / f"cards-{sha256(content).hexdigest()[:16]}.bin"


def prune(home: Path, used: Path) -> None:
    """Removes the files of other prices: workers read theirs once, when they are told of it."""
    for path in home.glob("cards-*.bin"):
        if path != used:
            path.unlink(missing_ok=True)


async def compiled(home: Path, prices: str) -> Path:
    """The file of compiled cards, made if it isn't there. Raises `CardsError`."""
    path = file_of(home, prices)
    if path.exists():
        return path
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.supervisor.cards", str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, complaint = await asyncio.wait_for(process.communicate(prices.encode()), COMPILE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CardsError(f"compiling the rate cards took longer than {COMPILE_S:g} s") from None
    if process.returncode or not path.exists():
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise CardsError(f"the rate cards can't be compiled: {last or f'status {process.returncode}'}")
    return path


def main() -> None:
    """Compile the cards for the overrides on stdin into the file named on the command line."""
    from pydantic import TypeAdapter

    from proxy.clients.keys import write_private
    from proxy.config.upstreams import Price
    from proxy.pricing import RateCards

    form = TypeAdapter(dict[str, tuple[Price, ...]])
    overrides = form.validate_python(json.load(sys.stdin)["prices"])
    write_private(Path(sys.argv[1]), RateCards.compile(overrides=overrides).to_bytes())


if __name__ == "__main__":
    main()
