"""The reference pages, written from the code: `python -m proxy.reference` writes them into `docs/reference`.

Rules: pure text, from what the program itself goes by (models, the command line, metric families, the errors that it
raises); whatever is said of a thing stands beside it in the code. A test compares the files, so none is out of date.
"""

from __future__ import annotations

from proxy.config.reference import reference as configuration
from proxy.reference import commands, errors, headers, metrics, policies


def pages() -> dict[str, str]:
    """Each page by the name of its file."""
    return {
        "configuration.md": configuration(),
        "policy-options.md": policies.page(),
        "commands.md": commands.page(),
        "metric-names.md": metrics.page(),
        "headers.md": headers.page(),
        "errors.md": errors.page(),
    }
