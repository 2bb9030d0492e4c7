"""The checks of the doctor, without a service, and how they are run."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.doctor import foundry_command, network, services, versions
from foundry_api.cli.doctor.context import (
    CommandResults,
    DiagnosticContext,
    LazyTask,
    run_abandonable,
)
from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.runner import CHECK_FAILED, CHECK_TIMED_OUT, GROUPS, run_checks
from foundry_api.engine.foundry_command import CommandResult
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.storage.lock import FileLock
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import environment_variables

from .doctor_table import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KIND = FindingKind("a-kind", "problem", "It is broken", "Mend {what}.")


@pytest.fixture
async def context(own_home: Path) -> DiagnosticContext:
    return DiagnosticContext(make_usable_settings({}), {"FOUNDRY_HOME": str(own_home)}, quick=True)


# Findings


def test_ids_are_unique_and_problems_have_a_remedy() -> None:
    kinds = [kind for group in GROUPS for kind in group.kinds]
    ids = [kind.id for kind in (*kinds, CHECK_FAILED, CHECK_TIMED_OUT)]
    assert len(ids) == len(set(ids))
    assert [k.id for k in kinds if k.level in {"warning", "problem"} and not k.remedy] == []
    assert [k.id for k in kinds if k.title.endswith(".")] == []


def test_every_declared_kind_is_in_its_group() -> None:
    for group in GROUPS:
        module = __import__(group.checks[0].__module__, fromlist=["GROUP"])
        declared = {value for value in vars(module).values() if isinstance(value, FindingKind)}
        assert declared == set(group.kinds)


def test_the_table_in_the_documentation_is_current() -> None:
    written = Path(__file__).parents[4] / "docs" / "doctor.md"
    assert written.read_text(encoding="utf-8") == markdown()


# Running checks


async def test_failing_and_hanging_checks_do_not_affect_the_others(
    context: DiagnosticContext,
) -> None:
    async def fails(_: DiagnosticContext) -> Iterable[Finding]:
        raise OSError("no such thing")

    async def hangs(_: DiagnosticContext) -> Iterable[Finding]:
        await asyncio.Event().wait()
        return []

    async def times_out_itself(_: DiagnosticContext) -> Iterable[Finding]:
        raise TimeoutError("inside")

    async def works(_: DiagnosticContext) -> Iterable[Finding]:
        return [KIND.make_finding("seen", what="it")]

    steps: list[tuple[int, int]] = []
    group = CheckGroup("Group", (fails, hangs, times_out_itself, works), (KIND,))
    found = await run_checks(
        context, (group,), timeout_s=0.05, progress=lambda *step: steps.append(step)
    )
    assert [finding.id for finding in found] == [
        "check-failed",
        "check-timed-out",
        "check-failed",
        "a-kind",
    ]
    assert "OSError: no such thing" in found[0].evidence
    assert "hangs took longer than 50 ms" in found[1].evidence
    assert found[3] == Finding(
        id="a-kind",
        level="problem",
        title="It is broken",
        evidence="seen",
        remedy="Mend it.",
        group="Group",
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_blocking_work_returns_or_raises() -> None:
    assert await run_abandonable(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await run_abandonable(lambda: 1 // 0)


def test_hanging_work_does_not_delay_the_exit() -> None:
    """The thread outlives the event loop, and its late result is ignored."""
    go = threading.Event()

    async def wait() -> None:
        async with asyncio.timeout(0.01):
            await run_abandonable(go.wait)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    workers = [thread for thread in threading.enumerate() if thread.name == "doctor"]
    assert all(worker.daemon for worker in workers)
    go.set()
    for worker in workers:
        worker.join()


async def test_shared_work_runs_once() -> None:
    begun: list[int] = []

    async def work() -> int:
        begun.append(1)
        await asyncio.sleep(0)
        return 7

    once = LazyTask(work)
    first = asyncio.create_task(once.get())
    await asyncio.sleep(0)
    first.cancel()  # a check that ran out of time does not take it from the others
    assert await asyncio.gather(once.get(), once.get()) == [7, 7]
    assert begun == [1]
    await once.aclose()


# Settings


def test_invalid_variables_are_ignored() -> None:
    environ = {
        "FOUNDRY_TIMEOUT": "soon",
        "FOUNDRY_RETRIES": "7",
        "FOUNDRY_BASE_URL": "http://127.0.0.1:1",
        "FOUNDRY_BASE_URLS": "http://127.0.0.1:2",
    }
    settings = make_usable_settings(environ)
    assert (settings.timeout_s, settings.max_retries) == (30.0, 7)
    assert (settings.base_url, settings.base_urls) == ("http://127.0.0.1:1", ())


def test_an_invalid_argument_is_rejected() -> None:
    with pytest.raises(ConfigurationError):
        make_usable_settings({}, base_url="ftp://x")


async def found_in(module_group: CheckGroup, **environ: str) -> set[str]:
    async with DiagnosticContext(make_usable_settings(environ), environ, quick=True) as context:
        return {finding.id for finding in await run_checks(context, (module_group,))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FOUNDRY_TIMEOUTS", "misspelt-setting"),
        ("FOUNDRY_BASEURL", "misspelt-setting"),
        ("foundry_modell", "misspelt-setting"),
        ("FOUNDRY_ENDPOINT", "foreign-setting"),
    ],
)
async def test_misspelt_and_foreign_names(name: str, expected: str) -> None:
    settings = next(group for group in GROUPS if group.name == "Settings")
    assert expected in await found_in(settings, **{name: "x"})


async def test_other_variables_are_ignored() -> None:
    settings = next(group for group in GROUPS if group.name == "Settings")
    assert await found_in(settings, FOUNDRY_TEST_HOME="x", FOUNDRY_PROFILE="y") == {
        "settings-usable"
    }
    assert len(environment_variables()) == len(set(environment_variables()))


async def test_a_key_without_a_url() -> None:
    settings = next(group for group in GROUPS if group.name == "Settings")
    assert "key-without-address" in await found_in(settings, FOUNDRY_API_KEY="geheim")


# Gateway


async def find_gateway(home: Path, **environ: str) -> dict[str, str]:
    """Return the evidence of each finding of the gateway."""
    environ["FOUNDRY_HOME"] = str(home)
    settings = make_usable_settings(environ)
    async with DiagnosticContext(settings, environ, quick=True) as context:
        findings = await run_checks(context, [one for one in GROUPS if one.name == "Gateway"])
    return {finding.id: finding.evidence for finding in findings}


async def test_a_machine_without_a_gateway(own_home: Path) -> None:
    assert [*await find_gateway(own_home)] == ["gateway-unused"]
    assert not (own_home / "gateway").exists()


async def test_keys_of_a_gateway(own_home: Path) -> None:
    database = KeyDatabase(own_home / "gateway")
    database.create(NewKey(name="a"))
    database.create(NewKey(name="b"))
    database.revoke("b")
    found = await find_gateway(own_home)
    assert [*found] == ["gateway-keys"]
    assert found["gateway-keys"].startswith("2 keys in")
    assert found["gateway-keys"].endswith("1 active, 1 revoked")
    database.revoke("a")
    assert [*await find_gateway(own_home)] == ["gateway-keys-ended"]


@pytest.mark.parametrize("content", [b"", b"0" * 64], ids=["missing", "another"])
async def test_keys_with_the_wrong_pepper(own_home: Path, content: bytes) -> None:
    database = KeyDatabase(own_home / "gateway")
    database.create(NewKey(name="a"))
    database.pepper_file.write_bytes(content)
    assert [*await find_gateway(own_home)] == ["gateway-keys-unreadable"]


async def test_damaged_keys_are_left_as_they_are(own_home: Path) -> None:
    path = own_home / "gateway" / "keys.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    assert [*await find_gateway(own_home)] == ["gateway-keys-unreadable"]
    assert path.read_bytes() == b"no database" * 1000


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
async def test_keys_that_others_can_read(own_home: Path) -> None:
    database = KeyDatabase(own_home / "gateway")
    database.create(NewKey(name="a"))
    database.pepper_file.chmod(0o644)
    assert [*await find_gateway(own_home)] == ["gateway-readable-by-others", "gateway-keys"]
    assert database.pepper_file.stat().st_mode & 0o777 == 0o644  # the doctor changes nothing


async def test_invalid_settings_of_a_gateway(own_home: Path) -> None:
    found = await find_gateway(own_home, FOUNDRY_GATEWAY_PORT="many")
    assert [*found] == ["gateway-settings-invalid"]
    assert "FOUNDRY_GATEWAY_PORT is 'many'" in found["gateway-settings-invalid"]


@pytest.mark.parametrize("content", ["", "{}", '{"url": 5}', '{"url": "http://127.0.0.1:9"}'])
async def test_a_gateway_that_does_not_answer(own_home: Path, content: str) -> None:
    directory = own_home / "gateway"
    directory.mkdir(parents=True)
    (directory / "gateway.json").write_text(content, encoding="utf-8")
    assert [*await find_gateway(own_home)] == ["gateway-unused"]  # the file of one that was killed
    with FileLock(directory / "gateway.lock", timeout_s=1):
        found = await find_gateway(own_home)
    assert [*found] == ["gateway-unused", "gateway-silent"]


# Network


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        ("", False),
        ("*", True),
        ("localhost", False),
        ("localhost,127.0.0.1", True),
        ("localhost, 127.0.0.0/8, ::1", True),
        (".localhost,127.0.0.1:5273", True),
        ("notlocalhost,10.0.0.0/8", False),
    ],
)
def test_no_proxy_that_covers_the_loopback(no_proxy: str, expected: object) -> None:
    assert network.is_loopback_bypassed(no_proxy) is expected


def test_lower_case_proxy_variables_win() -> None:
    environ = {"http_proxy": "a:1", "HTTP_PROXY": "b:1", "ALL_PROXY": "c:1", "https_proxy": " "}
    assert network.get_proxies(environ) == {"http_proxy": "a:1", "ALL_PROXY": "c:1"}


@pytest.mark.parametrize("addresses", [[], ["192.0.2.7"], ["127.0.0.1", "192.0.2.7"]])
async def test_a_localhost_that_is_another_machine(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """A test cannot change the hosts file, so the lookup is replaced."""

    def looked_up(*_: object, **__: object) -> Iterator[object]:
        if not addresses:
            raise socket.gaierror("Name or service not known")
        return iter([(0, 0, 0, "", (address, 0)) for address in addresses])

    monkeypatch.setattr(network.socket, "getaddrinfo", looked_up)
    assert await found_in(CheckGroup("n", (network.check_loopback,), ())) == {"localhost-elsewhere"}


async def test_a_loopback_that_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test cannot set up a firewall, so the connection is replaced by a failure."""

    async def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(network.asyncio, "open_connection", refused)
    assert await found_in(CheckGroup("n", (network.check_loopback,), ())) == {"loopback-blocked"}


# Foundry's own command


def answers(server: str = "", service: str = "", version: str = "") -> CommandResults:
    return CommandResults(*(CommandResult(text, 0, 0.1) for text in (version, server, service)))


TABLE = "State    Ready\nPID      29056\nWeb URLs http://127.0.0.1:52364\n"


@pytest.mark.parametrize(
    ("results", "generation", "running"),
    [
        (answers(server='loading…\n{"running": true, "webUrls": []}'), "0.10", True),
        (answers(server='{"running": false, "state": "not_running"}'), "0.10", False),
        (answers(server=TABLE), "0.10", True),
        (answers(server=TABLE.replace("Ready", "Stopped")), "0.10", False),
        (
            answers(service="🟢 Model management service is running on http://127.0.0.1:1/x"),
            "0.3",
            True,
        ),
        (answers(service="🔴 Model management service is not running!\nTo start…"), "0.3", False),
        (answers(), None, None),
        (answers(server="{" * 100_000), "0.10", None),
    ],
)
def test_generation_and_state_from_the_output_of_the_command(
    results: CommandResults, generation: str | None, running: object
) -> None:
    detected = foundry_command.detect_generation(results)
    assert detected is None if generation is None else detected and detected.startswith(generation)
    assert foundry_command.reports_running(results) is running


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
def test_links_to_one_command_count_once(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        directory.mkdir()
    (first / "foundry").write_text("#!/bin/sh\n", encoding="utf-8")
    (first / "foundry").chmod(0o755)
    (second / "foundry").symlink_to(first / "foundry")
    path = os.pathsep.join(map(str, (second, first, tmp_path / "none", "")))
    assert foundry_command.find_programs(path) == [second / "foundry"]


# Services


def test_environments_with_their_own_loopback(tmp_path: Path) -> None:
    assert services.detect_confinement("6.6.87.2-microsoft-standard-WSL2") == (
        "the Windows Subsystem for Linux"
    )
    assert services.detect_confinement("6.1.0-amd64", tmp_path) == ""
    (tmp_path / ".dockerenv").touch()
    assert services.detect_confinement("6.1.0-amd64", tmp_path) == "a container"


# Versions


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("3.14.5", ">=3.14,<4", True),
        ("3.13", ">=3.14,<4", False),
        ("4.0", ">=3.14,<4", False),
        ("15.0.0", ">=15", True),
        ("2.2.1", "==2.2.1", True),
        ("2.2.1.post1", "==2.2.1", False),
        ("2.2.1", "==2.2.*", True),
        ("2.3.0", "==2.2.*", False),
        ("2.2.1+local", "==2.2.1", True),
        ("3.15.0b1", ">=3.14,<4", True),
        ("1.10", ">=1.9", True),
        ("2.2.0", "==2.2.1", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.5", "!=1.5,>1", False),
        ("1.5", "<=1.5", True),
        ("anything", "", True),
    ],
)
def test_version_ranges(version: str, specifier: str, expected: object) -> None:
    assert versions.is_satisfied(version, specifier) is expected


@pytest.mark.parametrize(
    ("system", "machine", "libc", "missing"),
    [
        ("Linux", "x86_64", "glibc", False),
        ("Linux", "x86_64", "", True),
        ("Darwin", "arm64", "", False),
        ("Darwin", "x86_64", "", True),
        ("Windows", "AMD64", "", False),
        ("FreeBSD", "amd64", "", True),
    ],
)
def test_platforms_without_an_engine(system: str, machine: str, libc: str, missing: object) -> None:
    assert bool(versions.explain_missing_engine(system, machine, libc)) is missing
