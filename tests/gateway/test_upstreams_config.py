"""The tables of upstreams in the configuration, and `serve --check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_api.gateway.config import GatewayConfig, load_config
from foundry_api.gateway.upstreams import config
from foundry_api.gateway.upstreams.config import UpstreamConfig, make_services
from foundry_api.gateway.upstreams.key_file import KeyFile
from foundry_api.types.errors import ConfigurationError
from support.cli_program import run

GOOD = """
port = 0

[[upstream]]
name = "here"

[[upstream]]
name = "gpu"
kind = "openai"
url = "http://10.0.0.7:8080/v1"
models = ["a", "b"]
aliases = { fast = "a" }
weight = 2.5
slots = 4

[fallbacks]
a = ["b"]
"""


def load(tmp_path: Path, text: str) -> GatewayConfig:
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, {}, {}, check_key_files=True)


def test_upstreams_are_read(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    here, gpu = config.upstream
    assert here == UpstreamConfig(name="here")
    assert (gpu.kind, gpu.models, gpu.weight, gpu.slots) == ("openai", ("a", "b"), 2.5, 4)
    assert config.fallbacks == {"a": ("b",)}
    services = make_services(config.upstream)
    assert [one.base_url for one in services] == [None, "http://10.0.0.7:8080"]
    assert services[1].aliases == {"fast": "a"}
    assert services[1].concurrency == 4


@pytest.mark.parametrize(
    ("table", "line", "problem"),
    [
        ('name = "x"\nwieght = 1', 6, "Object contains unknown field `wieght`"),
        ('name = "x"\nkind = "azure"', 6, "kind: Invalid enum value 'azure'"),
        ('name = "x"\nweight = "much"', 6, "weight: Expected `float`, got `str`"),
        ('name = "x"\nweight = 0.0', 6, "weight is 0, not above 0"),
        ('name = "x"\nslots = 0', 6, "slots is 0, not from 1"),
        ('name = "x"\nurl = "ftp://host"', 6, "url is 'ftp://host', not a service's address"),
        (
            'name = "x"\nurl = "h"\n# key\nkey_file = "/nowhere/key"',
            8,
            "cannot be read: No such file",
        ),
        ('name = "x y"', 5, "name is 'x y'; it takes up to 64"),
        ('kind = "foundry"', 4, "Object missing required field `name`"),
        ('name = "x"\nkind = "openai"', 4, "url is missing"),
        ('name = "Here"\nurl = "http://h"', 5, "name is 'here', as that of another upstream"),
        ('name = "x"', 4, "url is missing, as in another upstream"),
        ('name = "x"\nurl = "http://h"\nmodels = ["a", " "]', 7, "models has an empty name"),
        ('name = "x"\nurl = "http://h"\nkey = "secret"', 7, "unknown field `key`"),
        ('name = "x"\nkind = "ray"\nurl = "http://h"', 7, "url is not for kind ray"),
        ('name = "x"\nkind = "ray"\nkey_file = "k"', 7, "key_file is not for kind ray"),
        ('name = "x"\nurl = "http://h"\nmax_nodes = 3', 7, "max_nodes is for kind ray only"),
        ('name = "x"\nkind = "ray"\naddress = "h"', 7, "address is 'h', not auto"),
        ('name = "x"\nkind = "ray"\nmax_nodes = 0', 7, "max_nodes is 0, not from 1"),
        ('name = "x"\nkind = "ray"\nengine_port = 70000', 7, "engine_port is 70000, not from 0"),
        ('name = "x"\nkind = "ray"\nlabels = { a = "in(" }', 7, "labels has 'in(' for 'a'"),
        ('name = "x"\nkind = "ray"\nresources = { GPU = 0 }', 7, "resources has 0 of 'GPU'"),
    ],
)
def test_a_mistake_is_reported_with_its_upstream_and_line(
    tmp_path: Path, table: str, line: int, problem: str
) -> None:
    text = f'[[upstream]]\nname = "here"\n\n[[upstream]]\n{table}\n\n[fallbacks]\nname = ["b"]\n'
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    message = caught.value.message
    assert f"gateway.toml, line {line}: upstream " in message
    assert problem in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("upstream = 5", "upstream is not a list of tables"),
        ('upstream = [{name = "x", weight = -1.0}]', "gateway.toml: upstream 'x': weight is -1"),
        ('base_url = "http://h"\n[[upstream]]\nname = "x"', "base_url and [[upstream]] are both"),
        ('[fallbacks]\nbig = ["small", "BIG"]', "the fallbacks of 'big' are ['small', 'BIG']"),
        ("[fallbacks]\nbig = []", "the fallbacks of 'big' are []"),
    ],
)
def test_other_mistakes_are_reported(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert problem in caught.value.message


def test_a_key_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first\n", encoding="utf-8")
    key = KeyFile(path)
    path.write_text("second", encoding="utf-8")
    assert key() == "first"
    key.reload()
    assert key() == "second"
    for text, problem in (("", "is empty"), ("Bearer x", "has more than a key")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=problem):
            key.reload()
        assert key() == "second"
    assert "second" not in repr(key)


def test_only_the_gateway_needs_to_read_key_files(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[[upstream]]\nname = "x"\nkey_file = "/nowhere/key"\n', encoding="utf-8")
    assert load_config(path, {}, {}).upstream[0].key_file == Path("/nowhere/key")
    with pytest.raises(ConfigurationError, match="line 3: upstream 'x': key_file"):
        load_config(path, {}, {}, check_key_files=True)


CLUSTER = """
[[upstream]]
name = "here"

[[upstream]]
name = "cluster"
kind = "ray"
address = "ray://10.0.0.4:10001"
labels = { zone = "a" }
resources = { GPU = 1 }
max_nodes = 3
"""


@pytest.mark.parametrize(
    ("missing", "line", "command"),
    [("ray", 7, 'pip install "foundry-api[ray]"'), ("grpc", 8, 'pip install "ray[client]"')],
)
def test_a_cluster_needs_ray_where_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, line: int, command: str
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, CLUSTER)
    assert f"gateway.toml, line {line}: upstream 'cluster'" in caught.value.message
    assert command in caught.value.hint
    monkeypatch.setattr(config, "find_spec", lambda name: name)
    here, cluster = load(tmp_path, CLUSTER).upstream
    assert (cluster.labels, cluster.resources, cluster.max_nodes) == ({"zone": "a"}, {"GPU": 1}, 3)
    assert [one.name for one in make_services((here, cluster))] == ["here"]


def test_check_names_the_mistake(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert run("serve", "--config", str(path), "--check", home=tmp_path).returncode == 0
    path.write_text(GOOD.replace("slots", "slot"), encoding="utf-8")
    done = run("serve", "--config", str(path), "--check", home=tmp_path)
    assert done.returncode != 0
    assert "line 14: upstream 'gpu': Object contains unknown field `slot`" in done.stderr


def test_the_example_of_the_docs_is_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "gateway-upstreams.md"
    example = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "gateway.toml"
    path.write_text(example, encoding="utf-8")
    config = load_config(path, {}, {})
    assert [one.name for one in config.upstream] == ["desk", "server"]
    assert config.fallbacks == {"phi-4-mini": ("demo",)}
