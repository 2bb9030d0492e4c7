"""dev.py: when it installs, which programs it runs, and its error messages.

No test installs a package. Steps of the installation are recorded instead of run, and verbs run in
a virtual environment without pip, whose `foundry_api` and `pytest` only report their arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[2]
TO_RUN = ("requirements.txt", "requirements-build.txt")
PINS = (*TO_RUN, "requirements-dev.txt", "pyproject.toml")
REPORT = """\
import json, os, sys
names = ("PYTHONUTF8", "PYTEST_XDIST_AUTO_NUM_WORKERS")
print(json.dumps({
    "arguments": sys.argv[1:],
    "directory": os.getcwd(),
    "environment": {name: os.environ.get(name) for name in names},
    "prefix": sys.prefix,
}))
"""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dev_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A separate checkout, with a space in its path."""
    root = tmp_path / "a checkout"
    root.mkdir()
    shutil.copy(CHECKOUT / "dev.py", root)
    for name in PINS:
        (root / name).write_text(f"# {name}\n")
    return root


@pytest.fixture
def dev(root: Path) -> Any:
    return load(root / "dev.py")


class Steps:
    """Replaces `run_step`: records the steps, and creates the Python of the environment."""

    def __init__(self, venv: Any, failing: str = "", error: Exception | None = None) -> None:
        self.names: list[str] = []
        self.commands: list[Sequence[str]] = []
        self.venv = venv
        self.failing = failing
        self.error = error

    def __call__(self, name: str, command: Sequence[str], env: dict[str, str]) -> None:
        assert Path(env["TMPDIR"]).is_dir()
        self.names.append(name)
        self.commands.append(command)
        if name == self.failing:
            assert self.error is not None
            raise self.error
        if name == "virtual environment":
            self.venv.python.parent.mkdir(parents=True)
            self.venv.python.touch()


EVERYTHING = ["virtual environment", "pinned packages", "foundry-api itself"]
IN_PLACE = EVERYTHING[1:]


def prepared(dev: Any, root: Path, pins: Sequence[str] | None = None, **options: Any) -> list[str]:
    """Run `prepare` and return its steps."""
    venv = dev.Venv(root, pins=pins or dev.PINS)
    steps = Steps(venv, **options)
    dev.prepare(venv, steps)
    return steps.names


class TestInstalling:
    def test_first_run_installs_and_second_run_does_nothing(self, dev: Any, root: Path) -> None:
        assert prepared(dev, root) == EVERYTHING
        assert prepared(dev, root) == []

    @pytest.mark.parametrize("name", PINS)
    def test_changed_pins_are_installed_in_place(self, dev: Any, root: Path, name: str) -> None:
        prepared(dev, root)
        (root / name).write_text("# other pins")
        assert prepared(dev, root) == IN_PLACE
        assert prepared(dev, root) == []

    def test_everything_contains_what_is_needed_to_run(self, dev: Any, root: Path) -> None:
        assert dev.PINS_TO_RUN == TO_RUN
        assert prepared(dev, root, TO_RUN) == EVERYTHING
        assert prepared(dev, root, TO_RUN) == []
        assert prepared(dev, root) == IN_PLACE
        assert prepared(dev, root, TO_RUN) == []
        assert prepared(dev, root) == []

    def test_other_pins_to_develop_change_nothing_that_runs(self, dev: Any, root: Path) -> None:
        prepared(dev, root)
        (root / "requirements-dev.txt").write_text("# other pins")
        assert prepared(dev, root, TO_RUN) == []
        assert prepared(dev, root) == IN_PLACE

    @pytest.mark.parametrize("name", [*TO_RUN, "pyproject.toml"])
    def test_a_pin_that_begins_like_the_one_before_is_installed(
        self, dev: Any, root: Path, name: str
    ) -> None:
        (root / name).write_text("hatchling==1.33")
        prepared(dev, root, TO_RUN)
        (root / name).write_text("hatchling==1.3")
        assert prepared(dev, root, TO_RUN) == IN_PLACE

    @pytest.mark.parametrize(
        ("verb", "installed"),
        [("chat", "requirements-build.txt"), ("test", "requirements-dev.txt")],
    )
    def test_a_verb_of_foundry_api_installs_only_what_that_needs(
        self, dev: Any, monkeypatch: pytest.MonkeyPatch, verb: str, installed: str
    ) -> None:
        def fail(venv: Any, _: object) -> None:
            raise dev.SetupError(f"{venv.pins[-1]} is not installed")

        said: list[str] = []
        monkeypatch.setattr(dev, "prepare", fail)
        monkeypatch.setattr(dev, "say", said.append)
        assert dev.main([verb]) == 1
        assert said == [f"dev.py: {installed} is not installed"]

    def test_each_older_engine_has_its_own_environment(self, dev: Any, root: Path) -> None:
        pins = root / "tests" / "engines"
        pins.mkdir(parents=True)
        for name in ("common", "sdk-1.2.4", "sdk-2.0.1"):
            (pins / f"{name}.txt").write_text("# pins")
        engines = dev.engines(root)
        assert [engine.name for engine in engines] == [".engines/1.2.4", ".engines/2.0.1"]
        steps = Steps(engines[0])
        dev.prepare(engines[0], steps)
        dev.prepare(engines[0], steps)
        assert steps.names == ["virtual environment", "pinned packages"]
        assert str(pins / "sdk-1.2.4.txt") in steps.commands[-1]
        (pins / "common.txt").write_text("# other pins")
        dev.prepare(engines[0], steps)
        assert steps.names[2:] == ["pinned packages"]

    def test_each_group_of_clients_has_its_own_environment(self, dev: Any, root: Path) -> None:
        pins = root / "tests" / "sdks"
        pins.mkdir(parents=True)
        for name in ("instructor", "sdks"):
            (pins / f"{name}.txt").write_text("# pins")
        clients = dev.clients(root)
        assert [client.name for client in clients] == [".clients/instructor", ".clients/sdks"]
        steps = Steps(clients[0])
        dev.prepare(clients[0], steps)
        assert steps.names == ["virtual environment", "pinned packages"]
        assert str(pins / "instructor.txt") in steps.commands[-1]

    def test_another_python_creates_the_environment_again(
        self, dev: Any, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepared(dev, root)
        left = root / ".venv" / "left"
        left.touch()
        monkeypatch.setattr(sys, "version", "3.99")
        assert prepared(dev, root) == EVERYTHING
        assert not left.exists()

    def test_a_moved_checkout_creates_the_environment_again(self, dev: Any, root: Path) -> None:
        # An editable install and the scripts in .venv contain the path of the checkout.
        prepared(dev, root)
        moved = root.rename(root.with_name("moved"))
        assert prepared(dev, moved) == EVERYTHING

    def test_a_removed_python_creates_the_environment_again(self, dev: Any, root: Path) -> None:
        prepared(dev, root)
        dev.Venv(root).python.unlink()
        assert prepared(dev, root) == EVERYTHING

    @pytest.mark.parametrize("step", EVERYTHING)
    def test_an_interrupted_installation_starts_over(self, dev: Any, root: Path, step: str) -> None:
        with pytest.raises(KeyboardInterrupt):
            prepared(dev, root, failing=step, error=KeyboardInterrupt())
        assert prepared(dev, root) == EVERYTHING

    @pytest.mark.parametrize("step", IN_PLACE)
    def test_an_interrupted_update_starts_over(self, dev: Any, root: Path, step: str) -> None:
        prepared(dev, root)
        (root / "requirements.txt").write_text("# other pins")
        with pytest.raises(KeyboardInterrupt):
            prepared(dev, root, failing=step, error=KeyboardInterrupt())
        assert prepared(dev, root) == EVERYTHING

    @pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
    def test_the_target_of_a_linked_environment_is_not_changed(
        self, dev: Any, root: Path, tmp_path: Path
    ) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (theirs / "dev.stamp").write_text("of another checkout")
        (root / ".venv").symlink_to(theirs)
        assert prepared(dev, root) == EVERYTHING
        assert [each.name for each in theirs.iterdir()] == ["dev.stamp"]
        assert not (root / ".venv").is_symlink()

    def test_an_interrupted_removal_starts_over(
        self, dev: Any, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half_removed(path: Path) -> None:
            (path / "dev.stamp").unlink()
            raise KeyboardInterrupt

        prepared(dev, root)
        dev.Venv(root).write_stamp("")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", half_removed)
            with pytest.raises(KeyboardInterrupt):
                prepared(dev, root)
        assert prepared(dev, root) == EVERYTHING

    def test_a_failed_pip_is_retried_in_place(self, dev: Any, root: Path) -> None:
        # A failure of the network must not destroy a working environment.
        prepared(dev, root)
        (root / "requirements.txt").write_text("# no such version")
        with pytest.raises(dev.SetupError):
            prepared(dev, root, failing="pinned packages", error=dev.SetupError("no network"))
        assert prepared(dev, root) == IN_PLACE

    def test_pins_changed_during_installation_are_installed_next_time(
        self, dev: Any, root: Path
    ) -> None:
        venv = dev.Venv(root)
        steps = Steps(venv)

        def edit(name: str, command: Sequence[str], env: dict[str, str]) -> None:
            steps(name, command, env)
            (root / "requirements.txt").write_text("# edited during the installation")

        dev.prepare(venv, edit)
        assert prepared(dev, root) == IN_PLACE

    def test_an_environment_without_stamp_is_kept(self, dev: Any, root: Path) -> None:
        venv = dev.Venv(root)
        venv.python.parent.mkdir(parents=True)
        venv.python.touch()
        assert prepared(dev, root) == IN_PLACE
        assert prepared(dev, root) == []

    def test_of_two_processes_one_installs_and_the_other_waits(
        self, dev: Any, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        venv = dev.Venv(root)
        first = Steps(venv)
        started, go_on, waiting = threading.Event(), threading.Event(), threading.Event()

        def say(text: str, end: str = "\n") -> None:
            del end
            if "waiting for another dev.py" in text:
                waiting.set()

        monkeypatch.setattr(dev, "say", say)

        def slow(name: str, command: Sequence[str], env: dict[str, str]) -> None:
            first(name, command, env)
            started.set()
            assert go_on.wait(10)

        second: list[str] = []
        one = threading.Thread(target=dev.prepare, args=(venv, slow))
        two = threading.Thread(target=lambda: second.extend(prepared(dev, root)))
        one.start()
        assert started.wait(10)
        two.start()
        assert waiting.wait(10)
        go_on.set()
        one.join(10)
        two.join(10)
        assert first.names == EVERYTHING
        assert second == []

    def test_temporary_files_are_removed(self, dev: Any, root: Path) -> None:
        scratch = root / ".venv" / "tmp"
        with pytest.raises(KeyboardInterrupt):
            prepared(dev, root, failing="pinned packages", error=KeyboardInterrupt())
        assert scratch.is_dir()
        prepared(dev, root)
        assert not scratch.exists()

    def test_pip_gets_no_index_and_no_target(self, dev: Any, root: Path) -> None:
        venv = dev.Venv(root)
        steps = Steps(venv)
        dev.prepare(venv, steps)
        _, pins, project = (list(command[1:]) for command in steps.commands)
        assert pins[-2:] == ["--requirement", str(root / "requirements-dev.txt")]
        assert project[-2:] == ["--editable", str(root)]
        options = {word for word in (*pins, *project) if word.startswith("--")}
        assert options <= {
            "--disable-pip-version-check",
            "--editable",
            "--no-build-isolation",
            "--no-deps",
            "--no-input",
            "--no-user",
            "--no-warn-script-location",
            "--quiet",
            "--requirement",
        }

    @pytest.mark.parametrize("missing", ["venv", "ensurepip"])
    def test_a_python_without_venv_or_ensurepip(
        self, dev: Any, root: Path, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == missing else found(name)
        )
        with pytest.raises(dev.SetupError, match=r"sudo apt install python3\.\d+-venv"):
            prepared(dev, root)
        assert not (root / ".venv").exists()

    def test_an_environment_that_cannot_be_removed(self, dev: Any, root: Path) -> None:
        (root / ".venv").write_text("a file where the directory goes")
        with pytest.raises(dev.SetupError, match=r"\.venv cannot be created"):
            prepared(dev, root)


class TestSteps:
    def test_success_shows_only_the_name(
        self, dev: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dev.run_step("greeting", [sys.executable, "-c", "print('many words')"], dict(os.environ))
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("  greeting ... ")
        assert "many words" not in err

    def test_failure_shows_the_output_and_what_to_do(
        self, dev: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        script = "import sys; print('on stdout'); sys.exit('no such host')"
        with pytest.raises(dev.SetupError, match=r"(?s)'greeting' failed.*run the same command"):
            dev.run_step("greeting", [sys.executable, "-c", script], dict(os.environ))
        err = capsys.readouterr().err
        assert "on stdout" in err
        assert "no such host" in err

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
    def test_sigterm_stops_the_running_step(self, root: Path) -> None:
        step = "import os, time; print(os.getpid(), file=open('step', 'w')); time.sleep(60)"
        script = (
            "import os, sys, dev\n"
            f"command = [sys.executable, '-c', {step!r}]\n"
            "dev.prepare = lambda *_: dev.run_step('long one', command, dict(os.environ))\n"
            "sys.exit(dev.main(['status']))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=root, stderr=subprocess.DEVNULL
        ) as process:
            while not (root / "step").is_file() or not (root / "step").read_text():
                time.sleep(0.01)
            process.terminate()
        assert process.returncode == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(int((root / "step").read_text()), 0)

    def test_a_step_cannot_read_standard_input(self, dev: Any) -> None:
        with pytest.raises(dev.SetupError):
            dev.run_step(
                "question", [sys.executable, "-c", "input('user name: ')"], dict(os.environ)
            )


@pytest.fixture
def ready(dev: Any, root: Path) -> Path:
    """A checkout with a real .venv that counts as installed, and programs that report."""
    venv = dev.Venv(root)
    make = [sys.executable, "-m", "venv", "--without-pip", str(venv.path)]
    subprocess.run(make, check=True)
    find = [str(venv.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.check_output(find, text=True).strip())
    (packages / "foundry_api").mkdir()
    (packages / "foundry_api" / "__main__.py").write_text(REPORT)
    (packages / "pytest.py").write_text(REPORT)
    venv.write_stamp(venv.recipe())
    return root


def run_dev(root: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "dev.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, timeout=60, **options
    )


def report(root: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    done = run_dev(root, *arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    received: dict[str, Any] = json.loads(done.stdout)
    return received


class TestHandingOver:
    def test_other_verbs_are_passed_to_foundry_api_unchanged(self, ready: Path) -> None:
        words = ["chat", "two words", "", "*", "$HOME", 'a "quote"', "--", "--help", "-k", "ü"]
        received = report(ready, *words)
        assert received["arguments"] == words
        assert Path(received["prefix"]) == ready / ".venv"
        assert received["environment"]["PYTHONUTF8"] == "1"

    def test_foundry_api_runs_in_the_current_directory(self, ready: Path, tmp_path: Path) -> None:
        # A file of the user with the name of a module is not imported.
        (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
        assert report(ready, "status", cwd=tmp_path)["directory"] == str(tmp_path)

    def test_tests_run_in_the_checkout_in_parallel(self, ready: Path, tmp_path: Path) -> None:
        received = report(ready, "test", "tests/unit", "-k", "a or b", cwd=tmp_path)
        parallel = ["-n", "auto", "--dist", "worksteal"]
        assert received["arguments"] == [*parallel, "tests/unit", "-k", "a or b"]
        assert received["directory"] == str(ready)
        assert int(received["environment"]["PYTEST_XDIST_AUTO_NUM_WORKERS"]) >= 2

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-n0"],
            ["-n", "4"],
            ["--numprocesses=4"],
            ["-p", "no:xdist"],
            ["tests/unit/test_sse.py::test_one"],
        ],
    )
    def test_an_explicit_number_of_workers_wins(self, ready: Path, arguments: list[str]) -> None:
        assert report(ready, "test", *arguments)["arguments"] == arguments

    def test_the_tests_with_a_real_model_need_no_older_engine(self, ready: Path) -> None:
        engine = ready / "tests" / "engines" / "sdk-1.2.4.txt"
        engine.parent.mkdir(parents=True)
        engine.write_text("# cannot be installed")
        received = report(ready, "test", "-k", "seed", "--real-model", "-n0")
        assert received["arguments"] == ["tests/real_model", "-k", "seed", "-n0"]

    @pytest.mark.skipif(sys.platform != "linux", reason="Wine runs on Linux")
    def test_the_tests_on_windows_have_their_own_program(self, ready: Path) -> None:
        program = ready / "tools" / "windows" / "run.py"
        program.parent.mkdir(parents=True)
        program.write_text(REPORT)
        received = report(ready, "test", "--windows", "tests/unit", "-k", "a")
        assert received["arguments"] == ["tests/unit", "-k", "a"]
        assert Path(received["prefix"]) == ready / ".venv"

    @pytest.mark.skipif(sys.platform == "linux", reason="Wine runs on Linux")
    def test_windows_tests_without_linux_are_a_usage_error(self, ready: Path) -> None:
        assert run_dev(ready, "test", "--windows").returncode == 2

    def test_the_tests_with_clients_of_others_run_in_one_process(self, ready: Path) -> None:
        received = report(ready, "test", "--sdks", "-k", "curl")
        assert received["arguments"] == ["-n0", "tests/sdks", "-k", "curl"]

    def test_the_real_model_is_built_by_its_own_program(self, ready: Path) -> None:
        program = ready / "tools" / "real_model" / "build.py"
        program.parent.mkdir(parents=True)
        program.write_text(REPORT)
        received = report(ready, "real-model", "whisper-base")
        assert received["arguments"] == ["whisper-base"]
        assert Path(received["prefix"]) == ready / ".venv"

    def test_a_number_of_workers_in_the_environment_wins(self, ready: Path) -> None:
        env = {**os.environ, "PYTEST_XDIST_AUTO_NUM_WORKERS": "3"}
        received = report(ready, "test", env=env)
        assert received["environment"]["PYTEST_XDIST_AUTO_NUM_WORKERS"] == "3"

    def test_the_exit_code_is_that_of_the_program(self, ready: Path) -> None:
        program(ready, "import sys; sys.exit(7)")
        assert run_dev(ready, "status").returncode == 7

    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C needs a console there")
    def test_ctrl_c_is_handled_by_the_program(self, ready: Path) -> None:
        program(
            ready,
            "import sys, time\n"
            "try:\n    print('ready', flush=True); time.sleep(60)\n"
            "except KeyboardInterrupt:\n    print('tidied up'); sys.exit(42)\n",
        )
        with subprocess.Popen(
            [sys.executable, str(ready / "dev.py"), "chat"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "tidied up\n"
        assert process.returncode == 42

    @pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C needs a console there")
    def test_without_exec_ctrl_c_is_handled_by_the_program(self, root: Path) -> None:
        program = (
            "import os, signal, sys, time\n"
            "time.sleep(0.1); os.kill(os.getppid(), signal.SIGINT); time.sleep(0.1); sys.exit(42)"
        )
        script = (
            "import os, sys, dev\n"
            f"sys.exit(dev.run_to_end([sys.executable, '-c', {program!r}], dict(os.environ)))"
        )
        assert (
            subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 42
        )

    @pytest.mark.skipif(sys.platform == "win32", reason="there, exec is not used")
    def test_a_ready_environment_starts_fast(self, ready: Path) -> None:
        # Run by this test's Python without `site`, whose .pth files import what they like.
        script = (
            "import importlib.util, os, sys\n"
            "def refuse(*_): raise AssertionError('a process was started')\n"
            "import subprocess; subprocess.Popen = refuse\n"
            "def handed_over(*_): print(*sorted(sys.modules)); sys.exit()\n"
            "os.execve = handed_over\n"
            f"sys.argv = [{str(ready / 'dev.py')!r}, 'status']\n"
            "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        done = subprocess.run(
            [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True
        )
        dear = {"asyncio", "ensurepip", "hashlib", "json", "pip", "ssl", "tomllib", "venv"}
        assert dear.isdisjoint(done.stdout.split())


def program(root: Path, text: str) -> None:
    """Replace the program `foundry_api`."""
    (main,) = (root / ".venv").rglob("foundry_api/__main__.py")
    main.write_text(text)


class TestLint:
    @pytest.fixture
    def linters(self, ready: Path) -> Path:
        """Replacements of the linters; ruff fails when it checks the format."""
        (main,) = (ready / ".venv").rglob("foundry_api/__main__.py")
        packages = main.parent.parent
        (packages / "ruff.py").write_text("import sys; sys.exit('--check' in sys.argv)")
        (packages / "mypy.py").write_text("print('mypy was here')")
        script = (
            "import os; print('asks for news:', not os.environ['PYRIGHT_PYTHON_IGNORE_WARNINGS'])"
        )
        (packages / "pyright.py").write_text(script)
        return packages

    def test_all_run_even_if_one_fails(self, linters: Path, ready: Path) -> None:
        done = run_dev(ready, "lint")
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "--- ruff check",
            "--- ruff format",
            "--- mypy",
            "mypy was here",
            "--- pyright",
            "asks for news: False",
            "--- lint: failed: ruff format",
        ]
        (linters / "ruff.py").write_text("")
        done = run_dev(ready, "lint")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "--- lint: all 4 passed")

    def test_arguments_are_refused(self, ready: Path) -> None:
        done = run_dev(ready, "lint", "src")
        assert done.returncode == 2
        assert "no arguments" in done.stderr


class TestBench:
    @pytest.fixture
    def benches(self, ready: Path) -> Path:
        bench = ready / "bench"
        bench.mkdir()
        (bench / "start.py").write_text(REPORT)
        (bench / "stop.py").write_text("import sys; sys.exit(3)")
        return ready

    def test_one_by_name_with_arguments(self, benches: Path) -> None:
        assert report(benches, "bench", "start", "--runs", "3")["arguments"] == ["--runs", "3"]
        assert run_dev(benches, "bench", "stop").returncode == 3

    def test_help_of_one_runs_nothing(self, benches: Path) -> None:
        (benches / "bench" / "stop.py").write_text('"""Stops.\n\nAt once."""\nraise SystemExit(3)')
        done = run_dev(benches, "bench", "stop", "--help")
        assert (done.returncode, done.stdout) == (0, "Stops.\n\nAt once.\n")
        # One with options of its own has a better help.
        (benches / "bench" / "stop.py").write_text('"""Stops."""\nprint("ArgumentParser")')
        assert run_dev(benches, "bench", "stop", "--help").stdout == "ArgumentParser\n"

    def test_all(self, benches: Path) -> None:
        done = run_dev(benches, "bench")
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert lines[0] == "--- start"
        assert lines[2:] == ["--- stop", "--- bench: failed: stop"]

    def test_an_unknown_name_lists_the_benchmarks(self, benches: Path) -> None:
        done = run_dev(benches, "bench", "nothing")
        assert done.returncode == 2
        assert "start, stop" in done.stderr

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_describes_the_benchmarks(self, benches: Path, option: str) -> None:
        (benches / "bench" / "stop.py").write_text('"""Time to stop.\n\nMore."""\nprint()\n')
        done = run_dev(benches, "bench", option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[2:] == ["  start  ", "  stop   Time to stop."]

    def test_each_benchmark_has_a_docstring(self, dev: Any) -> None:
        scripts = list((CHECKOUT / "bench").glob("*.py"))
        assert scripts
        assert [script.name for script in scripts if not dev.summary(script)] == []


class TestUsage:
    @pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
    def test_help_installs_nothing(self, root: Path, arguments: list[str]) -> None:
        done = run_dev(root, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: python3 dev.py")
        assert not (root / ".venv").exists()

    def test_usage_lists_every_verb(self, dev: Any) -> None:
        from foundry_api.cli.verbs import VERBS  # noqa: PLC0415 - the other tests run without it

        _, _, behind = dev.USAGE.partition("goes to foundry-api: ")
        named, _, _ = behind.partition("\n\n")
        assert re.split(r",\s+", named) == list(VERBS)

    def test_usage_lists_every_option_of_test(self, dev: Any) -> None:
        source = (CHECKOUT / "dev.py").read_text(encoding="utf-8")
        options = set(re.findall(r'"(--[a-z-]+)" in arguments', source))
        assert options == set(re.findall(r"^  test (--[a-z-]+) ", dev.USAGE, re.MULTILINE))

    def test_an_old_python_gets_a_message(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "version_info", (3, 8, 18, "final", 0))
        with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; this is 3\.8 "):
            load(root / "dev.py")

    def test_an_old_python_can_parse_the_file(self) -> None:
        import ast  # noqa: PLC0415

        ast.parse((CHECKOUT / "dev.py").read_text(), feature_version=(3, 6))

    def test_a_failed_installation_reports_its_reason(
        self, dev: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise dev.SetupError("no network")

        monkeypatch.setattr(dev, "prepare", fail)
        assert dev.main(["status"]) == 1
        assert capsys.readouterr().err == "dev.py: no network\n"

    def test_ctrl_c_during_the_installation(
        self, dev: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(dev, "prepare", interrupt)
        assert dev.main(["status"]) == 130
        assert capsys.readouterr().err == "\ndev.py: interrupted\n"
