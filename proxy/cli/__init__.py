"""The command `weir`: what people type, and what they read back.

Rules: a command parses, calls one function of the mechanism, prints. Nothing is decided here that another program could
want to decide too. Answers go to stdout, everything else to stderr. Exit status: 0 done, 1 the configuration is bad or
the operation failed, 2 the command line is wrong. An expected failure is one clear line, never a traceback. The
mechanism is imported inside the commands, so that `weir --version` and the shell's completion stay instant.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; the returned number is the exit status."""
    if sys.argv[1:] == ["--version"]:
        from proxy import __version__

        print(f"weir {__version__}")
        return 0
    from proxy.cli.app import run

    return run(sys.argv[1:])
