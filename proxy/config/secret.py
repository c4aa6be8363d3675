"""Keys of upstreams: where they come from, and a value that shows itself to nobody by accident.

Rules: a key comes from an environment variable or from a file, never from the configuration itself. Only the
supervisor reads it. It travels to the workers inside the configuration's JSON, and appears in no `repr`, no log and
no error.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from proxy.config.strict import Strict


class Secret(Strict):
    """A resolved key; `reveal()` is the only way to its value, apart from the JSON for the workers."""

    env: str | None = None
    """The variable that it came from."""
    file: Path | None = None
    """The file that it came from."""
    value: str = Field(repr=False)
    """The key itself."""

    def reveal(self) -> str:
        """The key itself, to be sent to its upstream and nowhere else."""
        return self.value

    @property
    def source(self) -> str:
        """Where it came from, to be shown."""
        return f"${{{self.env}}}" if self.env else str(self.file)

    def __str__(self) -> str:
        return f"<secret from {self.source}>"

    __repr__ = __str__


def flaw(value: str) -> str | None:
    """Why this can't be a key, or None. RFC 9110 field values: visible ASCII, nothing that could end a header line."""
    if not value:
        return "is empty"
    if not all("!" <= character <= "~" for character in value):
        return "holds a space, a line break or a character outside ASCII"
    return None
