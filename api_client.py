"""`from api_client import FoundryAPIClient` for programs beside this checkout; not in the wheel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from foundry_api import *  # noqa: F403 - the path comes first
from foundry_api import __all__  # noqa: F401
