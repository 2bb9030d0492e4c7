#!/usr/bin/env python3
"""Generate the blocking classes of the client: `src/foundry_api/client/sync/generated.py`.

python3 dev.py generate            write the file, after changing a public method
python3 dev.py generate --check    only check that the file is up to date

Signatures, overloads and docstrings are copied from the async classes. The body of each method is
one call that is passed to the background loop, so nothing here depends on a particular method.
"""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "foundry_api"
GENERATED = PACKAGE / "client" / "sync" / "generated.py"
STREAMS = {"AsyncGenerator": "Generator", "AsyncIterator": "Iterator"}
LIFECYCLE_METHODS = {"close", "__repr__", "__aenter__", "__aexit__"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class ClassPair:
    """An async class and its blocking twin.

    Attributes:
        module: The module of the async class, relative to foundry_api.
        name: The async class.
        twin: The blocking class.
        attribute: The client's attribute with an instance; None for a class that calls return.
        calls: The public methods; None for all.
        about: The prose of the docstring; empty to copy that of the async class.
        derived: For a base class, the name of the class that inherits from it.
    """

    module: str
    name: str
    twin: str
    attribute: str | None = None
    calls: frozenset[str] | None = None
    about: str = ""
    derived: str | None = None


ABOUT_CLIENT = """A blocking client for Microsoft Foundry Local.

    Has every method of `FoundryAPIClient`, for code without asyncio. Creating a client does no I/O.
    The first call finds a running service or starts an engine, which stops when the client is
    closed, at the latest when the program exits. Many threads can use one client, including
    threads that run an event loop, such as a notebook's. Streams are plain iterators: leaving one
    early stops the engine's work, and so does Ctrl-C during a call.

    Calls run on the client's own thread. So do listeners, hooks and other callbacks, which
    therefore cannot call the client.
"""
CLIENT = ClassPair("client.client", "FoundryAPIClient", "FoundryClient", about=ABOUT_CLIENT)
NAMED = (
    CLIENT,
    ClassPair("client.models", "Models", "SyncModels", "models"),
    ClassPair(
        "client.responses",
        "Responses",
        "SyncResponses",
        "responses",
        frozenset({"conversation", "create", "delete", "get", "input_items", "list", "stream"}),
    ),
    ClassPair("client.responses", "Conversation", "SyncConversation"),
    ClassPair(
        "core.cache.base",
        "ResponseCache",
        "SyncCache",
        "cache",
        frozenset({"clear", "stats"}),
        "The cache of a client.",
    ),
)

END_OF_CLIENT = '''
def close(self) -> None:
    """Cancel running calls, close connections, and stop the engine that this client started."""
    self._loop.close()

def __repr__(self) -> str:
    return f"{type(self).__name__}({self.settings.described})"

def __enter__(self) -> Self:
    return self

def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    self.close()
'''


CONTEXT = """
def __enter__(self) -> Self:
    self._loop.run(self._async.__aenter__)
    return self

def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    leave = self._async.__aexit__
    self._loop.run(lambda: leave(kind, error, traceback))
"""


class Source:
    """The module of an async class."""

    def __init__(self, pair: ClassPair) -> None:
        self.pair = pair
        self.tree = ast.parse(_path(pair.module).read_text(encoding="utf-8"))
        self.node = next(
            node
            for node in self.tree.body
            if isinstance(node, ast.ClassDef) and node.name == pair.name
        )

    def bases(self) -> list[ClassPair]:
        """Return the base classes in this package."""
        homes = self.get_import_homes()
        names = [base.id for base in self.node.bases if isinstance(base, ast.Name)]
        modules = {name: homes.get(name, "").partition("foundry_api.")[2] for name in names}
        return [
            ClassPair(module, name, f"Sync{name}", derived=self.pair.name)
            for name, module in modules.items()
            if module
        ]

    def functions(self) -> list[Function]:
        methods = [node for node in self.node.body if isinstance(node, Function)]
        return [node for node in methods if self._is_public(node.name)]

    def _is_public(self, name: str) -> bool:
        calls = self.pair.calls
        return not name.startswith("_") if calls is None else name in calls

    def init(self) -> Function:
        return next(
            node
            for node in self.node.body
            if isinstance(node, Function) and node.name == "__init__"
        )

    def attributes(self) -> list[str]:
        """Return the public attributes that `__init__` sets."""
        targets = [node.targets for node in ast.walk(self.init()) if isinstance(node, ast.Assign)]
        names = [target.attr for (target,) in targets if isinstance(target, ast.Attribute)]
        return [name for name in dict.fromkeys(names) if not name.startswith("_")]

    def typed_attributes(self) -> Iterator[tuple[str, ast.expr]]:
        """Yield the public attributes that `__init__` annotates, with their types."""
        for node in ast.walk(self.init()):
            match node:
                case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                    if not name.startswith("_"):
                        yield name, annotation
                case _:
                    pass

    def get_description(self, attribute: str) -> str:
        """Return the docstring's description of an attribute."""
        match = re.search(
            rf"^ +{attribute}: (.*)$", ast.get_docstring(self.node) or "", re.MULTILINE
        )
        return match[1] if match else ""

    def is_context(self) -> bool:
        names = {node.name for node in self.node.body if isinstance(node, Function)}
        return "__aexit__" in names

    def get_import_homes(self) -> dict[str, str]:
        """Map each name of the module to the module that it is imported from."""
        by_name: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                by_name |= {alias.name: str(node.module) for alias in node.names}
        own = f"foundry_api.{self.pair.module}"
        return by_name | dict.fromkeys(dict(_iter_definitions(self.tree.body)), own)

    def private(self, names: set[str]) -> list[ast.stmt]:
        """Return the private definitions with these names, such as type variables."""
        # They are copied into the generated module, which must not import them.
        defined = dict(_iter_definitions(self.tree.body))
        return [node for name, node in defined.items() if name in names and name.startswith("_")]


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _iter_definitions(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        match node:
            case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(name)]):
                yield name, node
            case ast.If(body=inner):
                yield from _iter_definitions(inner)
            case _:
                pass


CLASS_PAIRS = tuple(pair for named in NAMED for pair in (*Source(named).bases(), named))
TWINS = {pair.name: pair.twin for pair in CLASS_PAIRS}
ATTRIBUTES = {pair.attribute: pair.twin for pair in CLASS_PAIRS if pair.attribute}
HOMES = {pair.name: f"foundry_api.{pair.module}" for pair in CLASS_PAIRS}
HOMES |= dict.fromkeys(STREAMS.values(), "collections.abc")
HOMES |= {"BackgroundLoop": "foundry_api.client.sync.background", "TracebackType": "types"}
HOMES |= dict.fromkeys(("Any", "Self", "TYPE_CHECKING"), "typing")


def write_module() -> str:
    """Make the source of the module with all blocking classes."""
    private: dict[str, ast.stmt] = {}
    classes: list[ast.stmt] = []
    homes: dict[str, str] = {}
    for pair in CLASS_PAIRS:
        source = Source(pair)
        node = make_class(source)
        private |= {
            ast.unparse(definition): definition
            for definition in source.private({name.id for name in _find_names(node)})
        }
        classes.append(node)
        homes |= source.get_import_homes()
    homes |= HOMES | dict.fromkeys(TWINS.values(), "")
    body = [*private.values(), *classes]
    public = sorted(pair.twin for pair in CLASS_PAIRS if pair.derived is None)
    about = "The blocking client, written by `python3 dev.py generate` from the async classes."
    parts = [
        ast.Expr(ast.Constant(about)),
        *_make_imports(homes, ast.Module(body, [])),
        *ast.parse(f"__all__ = {public!r}").body,
        *body,
    ]
    return _format("\n\n".join(_unparse(part) for part in parts))


def make_class(source: Source) -> ast.ClassDef:
    pair = source.pair
    bases: list[ast.expr] = [ast.Name(base.twin) for base in source.bases()]
    node = ast.ClassDef(pair.twin, bases, [], [_make_docstring(source), *_make_init(source)], [])
    functions = source.functions()
    overloaded = {function.name for function in functions if "overload" in _decorators(function)}
    node.body += [
        _make_method(function, is_overloaded=function.name in overloaded)
        for function in functions
        if not (pair is CLIENT and function.name in LIFECYCLE_METHODS)
    ]
    if pair is CLIENT:
        node.body += ast.parse(END_OF_CLIENT).body
    elif source.is_context():
        node.body += ast.parse(CONTEXT).body
    return node


def _make_docstring(source: Source) -> ast.Expr:
    pair, text = source.pair, ast.get_docstring(source.node, clean=False) or ""
    prose, _, sections = text.partition("\n    Args:\n")
    if pair is CLIENT:
        text = f"{pair.about}\n    Args:\n{sections}"
    else:  # users never construct it, so its Args are left out
        _, attributes, attribute_docs = sections.partition("\n    Attributes:\n")
        text = pair.about or prose + attributes + attribute_docs
    return ast.Expr(ast.Constant(_to_blocking(text)))


def _to_blocking(text: str) -> str:
    """Remove `await` and `async` from the code examples of a docstring."""
    return re.sub(r"\b(await (?=\w+\.)|async (?=for |with ))", "", text)


def _make_init(source: Source) -> list[ast.stmt]:
    pair = source.pair
    if pair.derived is not None:
        return ast.parse(f"_loop: BackgroundLoop\n_async: {pair.derived}").body
    init = _parse_function("def __init__(self, loop: BackgroundLoop, calls: object) -> None: ...")
    made = ["self._loop = loop", "self._async = calls"]
    if pair is CLIENT:
        init.args = source.init().args
        made = [f"self._async = {pair.name}({_format_arguments(init)})"]
        made += ["self._loop = BackgroundLoop(self._async.close)"]
        made += [f"self.{name} = {_get_twin(name)}" for name in source.attributes()]
    init.body = ast.parse("\n".join(made)).body
    if pair is CLIENT:
        return [init]
    init.args.args[-1].annotation = ast.Name(pair.name)
    return [init, *(_make_property(source, *attribute) for attribute in source.typed_attributes())]


def _make_property(source: Source, name: str, annotation: ast.expr) -> Function:
    """Make a property for an attribute, which may change."""
    text = f'@property\ndef {name}(self) -> None:\n    """{source.get_description(name)}"""\n'
    function = _parse_function(f"{text}    return self._async.{name}")
    function.returns = annotation
    return function


def _get_twin(attribute: str) -> str:
    value = f"self._async.{attribute}"
    twin = ATTRIBUTES.get(attribute)
    return f"{twin}(self._loop, {value})" if twin else value


def _make_method(node: Function, *, is_overloaded: bool) -> Function:
    """Make a method that runs the async one on the background loop."""
    returns = Blocking().visit(copy.deepcopy(node.returns)) if node.returns else None
    decorators = [
        decorator
        for decorator in node.decorator_list
        if ast.unparse(decorator) in {"overload", "property"}
    ]
    docstring = ast.get_docstring(node, clean=False)
    body: list[ast.stmt] = (
        [] if docstring is None else [ast.Expr(ast.Constant(_to_blocking(docstring)))]
    )
    if "overload" in _decorators(node):
        body += ast.parse("...").body
    elif is_overloaded:
        # The implementation accepts more than each of its overloads, so the call is untyped.
        body += ast.parse("calls: Any = self._async\n" + _make_delegation(node, "calls")).body
    else:
        body += ast.parse(_make_delegation(node, "self._async")).body
    return ast.FunctionDef(node.name, node.args, body, decorators, returns)


def _decorators(node: Function) -> set[str]:
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def _make_delegation(node: Function, target: str) -> str:
    value = f"{target}.{node.name}"
    returned = ast.unparse(node.returns) if node.returns else ""
    if "property" in _decorators(node):
        return f"return {_get_twin(node.name)}"
    passed = _format_arguments(node)
    function = f"lambda: {value}({passed})" if passed else value
    if returned.startswith(tuple(STREAMS)):
        return f"return self._loop.iterate({function})"
    is_async = isinstance(node, ast.AsyncFunctionDef)
    call = f"self._loop.run({function})" if is_async else f"{value}({passed})"
    return (
        f"return {TWINS[returned]}(self._loop, {call})" if returned in TWINS else f"return {call}"
    )


def _format_arguments(node: Function) -> str:
    """Format the arguments that a function passes to one with the same parameters."""
    arguments = node.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][1:]
    passed = [*positional, *([f"*{arguments.vararg.arg}"] if arguments.vararg else [])]
    passed += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    passed += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return ", ".join(passed)


def _parse_function(text: str) -> ast.FunctionDef:
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)  # noqa: S101 - all sources here are functions
    return function


class Blocking(ast.NodeTransformer):
    """Replaces async return types by their blocking twins."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name({**STREAMS, **TWINS}.get(node.id, node.id))


def _make_imports(homes: dict[str, str], node: ast.Module) -> list[ast.stmt]:
    """Import names that are used at run time, and under TYPE_CHECKING those of annotations."""
    inside = {
        id(name) for annotation in _iter_annotations(node) for name in _find_names(annotation)
    }
    runtime = {name.id for name in _find_names(node) if id(name) not in inside}
    checked = {name.id for name in _find_names(node) if id(name) in inside} - runtime
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    guard = ast.If(ast.Name("TYPE_CHECKING"), _make_from_imports(checked, homes), [])
    return [future, *_make_from_imports(runtime | {"TYPE_CHECKING"}, homes), guard]


def _make_from_imports(names: set[str], homes: dict[str, str]) -> list[ast.stmt]:
    modules: dict[str, list[ast.alias]] = {}
    for name in sorted(names):
        if homes.get(name) and not name.startswith("_"):
            modules.setdefault(homes[name], []).append(ast.alias(name))
    return [ast.ImportFrom(module, imported, 0) for module, imported in sorted(modules.items())]


def _find_names(node: ast.AST) -> list[ast.Name]:
    return [child for child in ast.walk(node) if isinstance(child, ast.Name)]


def _iter_annotations(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.walk(node):
        match child:
            case ast.arg(annotation=ast.expr() as annotation):
                yield annotation
            case ast.FunctionDef(returns=ast.expr() as returns):
                yield returns
            case ast.AnnAssign(annotation=annotation):
                yield annotation
            case _:
                pass


def _unparse(node: ast.stmt) -> str:
    return ast.unparse(ast.fix_missing_locations(ast.Module([node], [])))


def _format(text: str) -> str:
    for verb in (["check", "--select", "I,UP", "--fix", "--quiet"], ["format"]):
        command = [sys.executable, "-m", "ruff", *verb, "--stdin-filename", str(GENERATED), "-"]
        text = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", check=True
        ).stdout
    return text


def main(arguments: list[str]) -> int:
    """Write the module, or check it; return the exit code."""
    text = write_module()
    if GENERATED.exists() and GENERATED.read_text(encoding="utf-8") == text:
        return 0
    name = GENERATED.relative_to(PACKAGE.parent.parent)
    if arguments:
        print(f"{name} is stale; run: python3 dev.py generate")
        return 1
    GENERATED.write_text(text, encoding="utf-8", newline="\n")
    print(f"{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
