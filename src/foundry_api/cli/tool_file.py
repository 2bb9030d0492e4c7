"""`--tool FILE.py:function`: functions of a Python file that a model may call."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from typing import TYPE_CHECKING

from foundry_api.tools.definition import Tool, tool
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

__all__ = ["load_tools"]

FIELD = "tools"
USAGE = "Give the file and the function, such as --tool clock.py:time_in."


def load_tools(arguments: Iterable[str]) -> tuple[Tool, ...]:
    """Load functions and describe them as tools. Runs the files, as `python FILE.py` would.

    Raises InvalidRequest and ToolDefinitionError, which name the file.
    """
    modules: dict[Path, ModuleType] = {}
    tools: dict[str, Tool] = {}
    for argument in arguments:
        file, colon, name = argument.rpartition(":")
        if not colon or not name.isidentifier():
            raise InvalidRequest(f"--tool {argument} names no function", field=FIELD, hint=USAGE)
        try:
            path = absolute_path(file)
        except ValueError as error:
            raise InvalidRequest(f"--tool is {argument!r}: {error}", field=FIELD) from error
        if path not in modules:
            modules[path] = _import_file(path, file)
        function = getattr(modules[path], name, None)
        if not callable(function):
            names = _list_functions(modules[path])
            raise InvalidRequest(
                f"{file} has no function {name}",
                field=FIELD,
                hint=f"It has {', '.join(names)}." if names else USAGE,
            )
        loaded = function if isinstance(function, Tool) else tool(function)
        if loaded.name in tools:
            raise InvalidRequest(f"two tools are named {loaded.name}", field=FIELD)
        tools[loaded.name] = loaded
    return tuple(tools.values())


def _import_file(path: Path, shown: str) -> ModuleType:
    if path.suffix != ".py":
        raise InvalidRequest(f"{shown} is no Python file", field=FIELD, hint=USAGE)
    if not path.is_file():
        raise InvalidRequest(f"there is no file {shown}", field=FIELD, hint=USAGE)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise InvalidRequest(f"{shown} cannot be imported", field=FIELD)
    module = importlib.util.module_from_spec(specification)
    # A dataclass in the file looks its module up, and the file may import its neighbours.
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidRequest(
            f"{shown} cannot be imported: {type(error).__name__}: {error}", field=FIELD
        ) from error
    return module


def _list_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, Tool)
            or (inspect.isfunction(value) and value.__module__ == module.__name__)
        )
    ]
