"""Certificates for tests."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_certificate"]


def make_certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Make a certificate and its key with openssl; skip the test where there is none."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs openssl")
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = [
        *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-out", certificate, "-keyout", key),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
