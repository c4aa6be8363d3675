"""`python -m proxy.reference [DIRECTORY]`: writes all pages."""

import sys
from pathlib import Path

from proxy.reference import pages

directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/reference")
for name, text in pages().items():
    (directory / name).write_text(text, encoding="utf-8")
