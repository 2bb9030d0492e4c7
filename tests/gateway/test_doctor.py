"""The doctor beside a gateway that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.doctor import gateway as checks
from foundry_api.cli.doctor.context import DiagnosticContext
from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.runner import run_checks
from foundry_api.gateway.upstreams import config

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.gateway.gateway import Gateway


@pytest.mark.parametrize(
    ("draining", "expected"), [(False, "gateway-ready"), (True, "gateway-not-ready")]
)
async def test_the_doctor_asks_a_gateway_that_runs(
    gateway: Gateway, tmp_path: Path, *, draining: bool, expected: str
) -> None:
    gateway.context.draining = draining
    environ = {
        "FOUNDRY_HOME": str(tmp_path),
        "FOUNDRY_GATEWAY_DIRECTORY": str(tmp_path / "gateway"),
    }
    settings = make_usable_settings(environ)
    async with DiagnosticContext(settings, environ, quick=True) as context:
        findings = await run_checks(context, (checks.GROUP,))
    assert [finding.id for finding in findings] == ["gateway-unused", expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('address = "127.0.0.1:1"', "gateway-cluster-away"),
        ("address = 5", "gateway-settings-invalid"),
        ("", "gateway-cluster"),
    ],
)
async def test_the_doctor_reads_a_file_of_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda name: name)
    file = tmp_path / "gateway.toml"
    file.write_text(f'[[upstream]]\nname = "a"\nkind = "ray"\n{text}\n', encoding="utf-8")
    environ = {"FOUNDRY_HOME": str(tmp_path)}
    settings = make_usable_settings(environ)
    async with DiagnosticContext(settings, environ, quick=True, gateway_config=file) as context:
        findings = await run_checks(context, (checks.GROUP,))
    assert findings[-1].id == expected
    assert findings[-1].level == ("ok" if expected == "gateway-cluster" else "problem")
