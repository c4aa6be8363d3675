"""Nothing of the semantic tier works without its packages."""

from __future__ import annotations

import importlib.util

import pytest

MISSING = [name for name in ("numpy", "tokenizers", "usearch", "wordllama") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"the semantic extra isn't installed: {', '.join(MISSING)}", allow_module_level=True)
