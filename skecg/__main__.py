"""``python -m skecg``: the same as the command ``skecg``."""

from __future__ import annotations

import sys

from skecg.cli import main

if __name__ == "__main__":
    sys.exit(main())
