"""``python -m fishermask_fast``: the command line."""

from __future__ import annotations

import sys

from fishermask_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
