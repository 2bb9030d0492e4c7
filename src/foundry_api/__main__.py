"""`python -m foundry_api`: the command line."""

from __future__ import annotations

import sys

from foundry_api.cli import main

if __name__ == "__main__":
    sys.exit(main())
