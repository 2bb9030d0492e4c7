"""The program that runs the tests on Windows' Python: what it does before and after Wine."""

from __future__ import annotations

import ast
import importlib
import json
import struct
import subprocess
import sys
import threading
from asyncio.proactor_events import BaseProactorEventLoop
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("Wine runs on Linux", allow_module_level=True)

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "windows"
MODULES = ("environment", "forwarder", "run", "skips", "wakeups")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def test_arguments_choose_the_groups(load: Any) -> None:
    split = load("run").split_arguments
    options, groups = split(["-k", "sse", "tests/faults", "tests/test_hooks.py", "--timeout=9"])
    assert options == ["-k", "sse", "--timeout=9"]
    assert groups[-1] == ["tests/test_hooks.py"]
    assert {Path(file).parent.name for group in groups[:-1] for file in group} == {"faults"}


def test_a_path_that_does_not_exist_is_refused(load: Any) -> None:
    run = load("run")
    with pytest.raises(run.SetupError, match=r"there is no tests/unit/test_nothing\.py"):
        run.split_arguments(["-x", "tests/unit/test_nothing.py"])


def test_without_arguments_every_test_file_is_in_one_group(load: Any) -> None:
    _, groups = load("run").split_arguments([])
    files = [file for group in groups for file in group]
    real = TOOLS.parents[1].glob("tests/**/test_*.py")
    assert len(files) == len(set(files))
    assert {Path(file).name for file in files} == {
        path.name for path in real if not {"real_model", "sdks"} & set(path.parts)
    }


def test_a_test_that_ends_its_process_counts_as_failed(load: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    entries = [
        {"test": "a", "outcome": "started"},
        {"test": "a", "outcome": "skipped", "reason": "why"},
        {"test": "c", "outcome": "failed", "error": "assert 1 == 2"},
        {"test": "b", "outcome": "started"},
    ]
    record.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    run = load("run")
    result = run.GroupResult("01")
    result.read(record)
    assert result.unfinished == ["b"]
    assert result.errors == {"c": "assert 1 == 2"}
    result.take_down(record)
    assert result.counts == {"passed": 0, "failed": 2, "skipped": 1}
    summary = run.summarize([result])
    assert "FAILED b (.windows/groups/01.txt)" in summary
    assert "skipped 1: why" in summary
    again = run.GroupResult("01")
    again.read(record)
    assert again.failed == ["c", "b"]


def test_tests_that_cannot_be_collected_are_not_tried_for_ever(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, environment = load("run"), load("environment")
    (tmp_path / "drive_c").mkdir()
    prefix = environment.Prefix(tmp_path)
    executions: list[Any] = []

    def execute(self: Any, *_: object, environ: dict[str, str], **__: object) -> Any:
        executions.append(self)
        with (tmp_path / "drive_c" / environ[run.RECORD].partition("\\")[2]).open("a") as record:
            record.write('{"test": "tests/a.py", "outcome": "failed"}\n')
        return environment.Execution(b"1 error during collection", 2)

    monkeypatch.setattr(environment.Prefix, "execute", execute)
    monkeypatch.setattr(environment.Prefix, "copy_to", lambda *_: prefix)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    result = run.Runner(prefix, [], 1)._run_group("01", ["tests/a.py"])
    assert len(executions) == 2
    assert (result.failed, result.problem) == (["tests/a.py"], "pytest ended with 2")


def test_programs_of_windows_have_a_network_of_their_own_where_that_is_allowed(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the connections of a whole machine, Wine is too slow."""
    environment = load("environment")
    isolation = environment.find_isolation()
    if isolation:
        program = "import socket; print(socket.create_server(('127.0.0.1', 0)).getsockname()[0])"
        words = [*isolation, sys.executable, "-c", program]
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", environment.BYTECODE)
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # which would be in the checkout
        assert subprocess.run(words, capture_output=True, check=True).stdout == b"127.0.0.1\n"
        networks = {
            Path("/proc/self/ns/net").readlink().name,
            subprocess.run(
                [*isolation, "readlink", "/proc/self/ns/net"], capture_output=True, check=True
            )
            .stdout.decode()
            .strip(),
        }
        assert len(networks) == 2
    monkeypatch.setenv("PATH", "")
    assert environment.find_isolation() == ()


def test_bytecode_is_kept_whatever_this_machine_says(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environ = load("environment").Prefix(tmp_path).environ
    assert "PYTHONDONTWRITEBYTECODE" not in environ
    assert environ["PYTHONPYCACHEPREFIX"].startswith("C:")


def test_each_limit_of_wine_has_a_proof_that_needs_the_standard_library_only(load: Any) -> None:
    allowed = sys.stdlib_module_names | {"_winapi", "msvcrt"}
    proofs = {limit.proof for limit in load("skips").LIMITS} | {load("wakeups").PROOF}
    assert sorted(proofs) == sorted(path.name for path in (TOOLS / "proofs").glob("*.py"))
    for proof in proofs:
        tree = ast.parse((TOOLS / "proofs" / proof).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in allowed


def test_each_limit_of_wine_still_has_its_tests(load: Any) -> None:
    """A file or a test that was renamed would run, and fail, under Wine."""
    for limit in load("skips").LIMITS:
        for pattern in limit.tests:
            file, _, name = pattern.partition("[")[0].partition("::")
            source = (TOOLS.parents[1] / file).read_text(encoding="utf-8")
            assert name == "*" or f"def {name.rpartition('::')[2]}(" in source


def test_threads_wake_a_loop_one_at_a_time(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop_type: Any = BaseProactorEventLoop
    others: list[threading.Thread] = []

    def wake(loop: object) -> None:
        if not others:  # the other thread has to wait until this one is done
            others.append(threading.Thread(target=loop_type._write_to_self, args=[loop]))
            others[0].start()
            others[0].join(0.1)
            assert others[0].is_alive()

    monkeypatch.setattr(loop_type, "_write_to_self", wake)
    load("wakeups").send_one_at_a_time()
    loop_type._write_to_self(object())
    others[0].join(10)
    assert not others[0].is_alive()


def test_a_limit_may_be_of_one_set_of_parameters(load: Any) -> None:
    skips = load("skips")
    limit = skips.Limit("a.py", "reason", ("tests/a.py::test_one[x-y]", "tests/a.py::test_all"))
    found = {
        test: skips.find_limit(f"tests/a.py::{test}", [limit]) is not None
        for test in ("test_one[x-y]", "test_one[x]", "test_all[x]", "test_other")
    }
    assert found == {
        "test_one[x-y]": True,
        "test_one[x]": False,
        "test_all[x]": True,
        "test_other": False,
    }


def test_pins_are_those_of_windows(load: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\nruff==1\ncolorama==2 ; sys_platform == 'win32'\n")
    (tmp_path / "b.txt").write_text("# text\nuvloop==3 ; sys_platform != 'win32'\nidna==4 # why\n")
    assert load("environment")._list_pins(tmp_path / "a.txt") == ["idna==4", "colorama==2"]


def test_without_apt_the_message_says_what_to_install(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = load("environment")
    monkeypatch.setattr(environment.shutil, "which", lambda _: None)
    with pytest.raises(environment.SetupError, match="sudo apt-get install wine wine64"):
        environment._install_wine()


def test_a_dll_of_forwarders_exports_the_names(load: Any, tmp_path: Path) -> None:
    load("forwarder").write_forwarder(tmp_path / "a.dll", {"Two": "X.B", "One": "X.A"})
    content = (tmp_path / "a.dll").read_bytes()
    assert content[:2] == b"MZ"
    section = content[0x200:]
    count, functions, names = struct.unpack_from("<8xIIII", section, 12)[1:]
    assert count == 2

    def read(table: int, index: int) -> bytes:
        (address,) = struct.unpack_from("<I", section, table - 0x1000 + 4 * index)
        return section[address - 0x1000 :].partition(b"\0")[0]

    assert [read(names, at) for at in range(2)] == [b"One", b"Two"]
    assert [read(functions, at) for at in range(2)] == [b"X.A", b"X.B"]
