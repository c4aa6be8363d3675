"""`python -m proxy.cli`: the command `weir` where it is not on the PATH."""

import sys

from proxy.cli import main

sys.exit(main())
