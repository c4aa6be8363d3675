"""What child processes inherit of the environment: all but what the files took from it.

Pure but for the mapping that is changed. Keys and passwords travel to the workers inside the configuration, over their
channel; a copy of them in each child's environment would show in /proc, in crash dumps and to whatever a policy starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration

_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_NEEDED: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LC_.*|LD_.*|PYTHON.*|SSL_.*|WEIR_.*|XDG_.*|(HTTPS?|ALL|NO)_PROXY",
    re.I,
)


def hide(configuration: Configuration, environ: MutableMapping[str, str]) -> None:
    """Takes the variables away that the files refer to, except those that any program needs."""
    for name in set(_named(configuration)):
        if not _NEEDED.fullmatch(name):
            environ.pop(name, None)


def _named(configuration: Configuration) -> Iterator[str]:
    for upstream in configuration.deployment.upstreams.values():
        yield from (key.env for key in upstream.secrets if key.env is not None)
    for text in configuration.references.values():
        yield from _REFERENCE.findall(text)
