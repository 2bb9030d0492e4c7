"""The pinned requirements and the content of the wheel."""

from __future__ import annotations

import configparser
import functools
import re
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hatchling import build as backend
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO_MODEL = Path("src/foundry_api/engine/demo_model")
PAGE = CHECKOUT / "src/foundry_api/gateway/dashboard"
MAX_WHEEL_BYTES = 6 * 1024 * 1024

PLATFORMS = {
    "linux": ("linux", "Linux", "posix", "x86_64"),
    "windows": ("win32", "Windows", "nt", "AMD64"),
    "mac": ("darwin", "Darwin", "posix", "arm64"),
    "intel mac": ("darwin", "Darwin", "posix", "x86_64"),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


INCLUDED = {
    "requirements.txt": None,
    "requirements-build.txt": "requirements.txt",
    "requirements-dev.txt": "requirements-build.txt",
}


def lines(name: str) -> list[str]:
    """Return a requirements file without comments and blank lines."""
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(*names: str) -> list[Requirement]:
    return [Requirement(line) for name in names for line in lines(name) if line[:3] != "-r "]


def environment(platform: str, python: str) -> dict[str, str]:
    """Return the environment for markers."""
    sys_platform, platform_system, os_name, machine = PLATFORMS[platform]
    return {
        "sys_platform": sys_platform,
        "platform_system": platform_system,
        "os_name": os_name,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


class TestPins:
    @pytest.mark.parametrize(("name", "included"), INCLUDED.items())
    def test_every_line_is_one_exact_version(self, name: str, included: str | None) -> None:
        exact = re.compile(r"[a-z0-9-]+==[0-9.]+(b[0-9]+)?( ; .+)?")
        others = [line for line in lines(name) if not exact.fullmatch(line)]
        assert others == ([f"-r {included}"] if included else [])

    def test_nothing_is_pinned_twice(self) -> None:
        names = [pin.name for pin in pins(*INCLUDED)]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("python", PYTHONS)
    @pytest.mark.parametrize("platform", PLATFORMS)
    def test_dependencies_of_pinned_packages_are_pinned(self, platform: str, python: str) -> None:
        where = environment(platform, python)
        applying = [
            pin for pin in pins(*INCLUDED) if pin.marker is None or pin.marker.evaluate(where)
        ]
        versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in applying}
        unmet = [
            f"{package}: {need}"
            for package in versions
            for need in needs(package, where)
            if not need.specifier.contains(versions.get(canonicalize_name(need.name), "none"))
        ]
        assert unmet == []

    @pytest.mark.parametrize(
        "names",
        [("requirements.txt",), ("requirements.txt", "requirements-build.txt")],
        ids=["runtime", "build"],
    )
    def test_pins_suffice_without_developer_pins(self, names: tuple[str, ...]) -> None:
        where = environment("linux", "3.11")
        pinned = {pin.name for pin in pins(*names)}
        needed = {canonicalize_name(need.name) for name in pinned for need in needs(name, where)}
        assert needed <= pinned

    def test_the_projects_ranges_include_the_pins(self, project: dict[str, Any]) -> None:
        versions = {pin.name: str(pin.specifier)[2:] for pin in pins("requirements.txt")}
        ranges = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
        for given in map(Requirement, ranges):
            assert given.specifier.contains(versions[canonicalize_name(given.name)]), given

    def test_the_build_backend_is_the_pinned_one(self) -> None:
        text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
        (required,) = tomllib.loads(text)["build-system"]["requires"]
        assert required in lines("requirements-build.txt")


@functools.cache
def read_requirements(package: str) -> tuple[str, ...]:
    return tuple(metadata.requires(package) or ())


parse_requirement = functools.cache(Requirement)


def needs(package: str, where: dict[str, str]) -> list[Requirement]:
    """Return the requirements of an installed package, without extras and pip."""
    try:
        given = read_requirements(package)
    except metadata.PackageNotFoundError:
        return []
    return [
        need
        for need in map(parse_requirement, given)
        if need.name != "pip" and (need.marker is None or need.marker.evaluate(where))
    ]


def test_the_development_group_is_pinned() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    group = [Requirement(line).name for line in tomllib.loads(text)["dependency-groups"]["dev"]]
    pinned = {canonicalize_name(pin.name) for pin in pins(*INCLUDED)}
    assert {canonicalize_name(name) for name in group} - {"foundry-api"} <= pinned


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CHECKOUT)
        name = backend.build_wheel(str(directory))
    return zipfile.ZipFile(directory / name)


class TestWheel:
    def test_it_contains_only_the_package(self, wheel: zipfile.ZipFile) -> None:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
        assert len(tops) == 2
        assert tops > {"foundry_api"}
        assert all(top == "foundry_api" or top.endswith(".dist-info") for top in tops)
        assert not any("__pycache__" in name for name in wheel.namelist())

    def test_it_is_marked_as_typed(self, wheel: zipfile.ZipFile) -> None:
        assert "foundry_api/py.typed" in wheel.namelist()

    def test_the_command_is_installed(self, wheel: zipfile.ZipFile) -> None:
        (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        parser = configparser.ConfigParser()
        parser.read_string(wheel.read(name).decode())
        assert dict(parser["console_scripts"]) == {"foundry-api": "foundry_api.cli:main"}

    def test_it_contains_the_demo_model(self, wheel: zipfile.ZipFile) -> None:
        files = [path.name for path in (CHECKOUT / DEMO_MODEL).iterdir() if path.is_file()]
        assert "model.onnx" in files
        shipped = wheel.namelist()
        assert [
            name for name in files if f"foundry_api/engine/demo_model/{name}" not in shipped
        ] == []

    def test_it_contains_the_page_of_the_gateway(self, wheel: zipfile.ZipFile) -> None:
        files = {path.relative_to(CHECKOUT / "src").as_posix() for path in PAGE.glob("[sv]*/*")}
        assert files
        assert files <= {*wheel.namelist()}

    def test_it_has_the_licences_of_the_files_of_others(self, wheel: zipfile.ZipFile) -> None:
        licences = {path.name for path in PAGE.glob("vendor/LICENSE-*.txt")}
        assert {"LICENSE-htm.txt", "LICENSE-preact.txt", "LICENSE-uplot.txt"} <= licences
        shipped = {name.rpartition("/")[2] for name in wheel.namelist() if "/licenses/" in name}
        assert licences | {"LICENSE"} == shipped

    def test_it_is_small(self, wheel: zipfile.ZipFile) -> None:
        assert wheel.filename is not None
        assert Path(wheel.filename).stat().st_size < MAX_WHEEL_BYTES

    def test_its_requirements_are_the_projects(
        self, wheel: zipfile.ZipFile, project: dict[str, Any]
    ) -> None:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata_text = wheel.read(name).decode()
        assert f"Requires-Python: {project['requires-python']}" in metadata_text
        given = [
            Requirement(line[15:])
            for line in metadata_text.splitlines()
            if line[:15] == "Requires-Dist: "
        ]
        plain = {need.name for need in given if need.marker is None}
        assert plain == {Requirement(need).name for need in project["dependencies"]}


def test_the_installed_project_is_this_checkout() -> None:
    import foundry_api  # noqa: PLC0415

    assert Path(foundry_api.__file__).is_relative_to(CHECKOUT)
    assert sys.version_info >= (3, 11)
