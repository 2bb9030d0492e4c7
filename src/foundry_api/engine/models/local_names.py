"""Names of the models of this machine, from files: no engine is started or asked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from foundry_api.engine.models.download_cache import RELATIVE_PATH, list_downloaded
from foundry_api.engine.models.registry_file import read_registered

if TYPE_CHECKING:
    from foundry_api.storage.paths import Paths

__all__ = ["DEMO", "list_local_names"]

DEMO = "demo"


def list_local_names(paths: Paths) -> list[str]:
    """Return the built-in model, registered aliases, and downloaded ids without their versions.

    Raises OSError, or ValueError if the file of registrations is damaged.
    """
    names = [DEMO]
    names += [entry.model_info.alias or entry.model_info.id for entry in read_registered(paths)]
    with contextlib.suppress(FileNotFoundError):  # no engine has run yet
        names += [name.rpartition(":")[0] for name in list_downloaded(paths.data / RELATIVE_PATH)]
    return list(dict.fromkeys(names))
