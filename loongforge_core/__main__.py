"""`python -m loongforge_core` is `loongforge`."""

from __future__ import annotations

import sys

from loongforge_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
