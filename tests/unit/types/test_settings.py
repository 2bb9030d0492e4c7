"""Settings from arguments, the environment and defaults."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import Settings, normalize_url


def test_the_defaults_are_as_documented() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert dataclasses.asdict(settings) == {
        "model": "phi-4-mini",
        "timeout_s": 30.0,
        "deadline_s": None,
        "connect_timeout_s": 5.0,
        "max_retries": 3,
        "log_level": "INFO",
        "base_url": None,
        "base_urls": (),
        "services": None,
        "api_key": None,
        "service": "auto",
        "keep_alive_s": None,
        "memory_budget_mb": None,
        "engine_processes": 1,
        "engine_threads": None,
        "cache": "off",
        "home": None,
    }


def test_the_environment_is_read() -> None:
    settings = Settings.from_environment(
        {
            "FOUNDRY_MODEL": "demo",
            "FOUNDRY_TIMEOUT": "2.5",
            "FOUNDRY_RETRIES": "0",
            "FOUNDRY_LOG_LEVEL": "debug",
            "FOUNDRY_BASE_URL": "localhost:5273/v1",
            "FOUNDRY_API_KEY": "secret",
            "FOUNDRY_HOME": "somewhere",
            "FOUNDRY_OTHER": "ignored",
        }
    )
    assert settings == Settings(
        model="demo",
        timeout_s=2.5,
        max_retries=0,
        log_level="DEBUG",
        base_url="http://localhost:5273",
        api_key="secret",
        home=Path("somewhere"),
    )


def test_limits_and_services_are_read() -> None:
    settings = Settings.from_environment(
        {
            "FOUNDRY_TIMEOUT": "Auto",
            "FOUNDRY_DEADLINE": "60",
            "FOUNDRY_CONNECT_TIMEOUT": "0.5",
            "FOUNDRY_MODEL_IDLE": "600",
            "FOUNDRY_MEMORY_BUDGET": "8000",
            "FOUNDRY_ENGINE_PROCESSES": "2",
            "FOUNDRY_ENGINE_THREADS": "6",
            "FOUNDRY_CACHE": "./answers.db",
            "FOUNDRY_BASE_URLS": "localhost:1, http://localhost:2/v1,",
        }
    )
    assert settings == Settings(
        timeout_s="auto",
        deadline_s=60.0,
        connect_timeout_s=0.5,
        keep_alive_s=600.0,
        memory_budget_mb=8000.0,
        engine_processes=2,
        engine_threads=6,
        cache=Path("answers.db"),
        base_urls=("http://localhost:1", "http://localhost:2"),
    )
    assert [each.base_url for each in settings.per_service()] == list(settings.base_urls)
    assert Settings(model="x").per_service() == (Settings(model="x"),)


def test_base_url_and_base_urls_override_each_other() -> None:
    several = {"FOUNDRY_BASE_URLS": "localhost:1,localhost:2"}
    settings = Settings.from_environment(several, base_url="localhost:3")
    assert (settings.base_url, settings.base_urls) == ("http://localhost:3", ())
    settings = Settings.resolve(settings, base_urls=("localhost:1",))
    assert (settings.base_url, settings.base_urls) == (None, ("http://localhost:1",))


def test_base_url_and_base_urls_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="both"):
        Settings(base_url="localhost:1", base_urls=("localhost:2",))


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_MODEL", "mine")
    assert Settings.from_environment().model == "mine"
    assert Settings.resolve(None).model == "mine"


def test_arguments_override_the_environment() -> None:
    environ = {"FOUNDRY_MODEL": "theirs", "FOUNDRY_RETRIES": "9", "FOUNDRY_TIMEOUT": "9"}
    settings = Settings.from_environment(environ, model="mine", max_retries=0, timeout_s=None)
    assert (settings.model, settings.max_retries, settings.timeout_s) == ("mine", 0, 9.0)


def test_arguments_override_settings_without_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOUNDRY_MODEL", "the environment's")
    given = Settings(model="given", max_retries=1)
    settings = Settings.resolve(given, max_retries=0, base_url="http://localhost:1/v1", model=None)
    assert (settings.model, settings.max_retries) == ("given", 0)
    assert settings.base_url == "http://localhost:1"
    assert given == Settings(model="given", max_retries=1)


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
def test_a_blank_variable_is_ignored(blank: str) -> None:
    names = ("MODEL", "TIMEOUT", "RETRIES", "LOG_LEVEL", "BASE_URL", "BASE_URLS", "API_KEY", "HOME")
    assert Settings.from_environment({f"FOUNDRY_{name}": blank for name in names}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FOUNDRY_TIMEOUT", "soon"),
        ("FOUNDRY_TIMEOUT", "0"),
        ("FOUNDRY_TIMEOUT", "-1"),
        ("FOUNDRY_TIMEOUT", "nan"),
        ("FOUNDRY_TIMEOUT", "inf"),
        ("FOUNDRY_DEADLINE", "0"),
        ("FOUNDRY_CONNECT_TIMEOUT", "-1"),
        ("FOUNDRY_MODEL_IDLE", "0"),
        ("FOUNDRY_MEMORY_BUDGET", "-8000"),
        ("FOUNDRY_MEMORY_BUDGET", "8 GB"),
        ("FOUNDRY_CACHE", "memroy"),
        ("FOUNDRY_ENGINE_PROCESSES", "0"),
        ("FOUNDRY_ENGINE_PROCESSES", "3"),
        ("FOUNDRY_ENGINE_THREADS", "0"),
        ("FOUNDRY_ENGINE_THREADS", "1000"),
        ("FOUNDRY_ENGINE_THREADS", "all"),
        ("FOUNDRY_RETRIES", "-1"),
        ("FOUNDRY_RETRIES", "1.5"),
        ("FOUNDRY_RETRIES", "many"),
        ("FOUNDRY_LOG_LEVEL", "LOUD"),
    ],
)
def test_an_invalid_value_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable) as caught:
        Settings.from_environment({variable: value})
    assert caught.value.hint


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="service is 'cloud'"):
        Settings.from_environment({}, service="cloud")


def test_a_blank_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^model is empty"):
        Settings(model=" ")


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().model = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://127.0.0.1:5273", "http://127.0.0.1:5273"),
        ("127.0.0.1:5273", "http://127.0.0.1:5273"),
        ("localhost:5273", "http://localhost:5273"),
        (" http://127.0.0.1:5273 ", "http://127.0.0.1:5273"),
        ("HTTP://LocalHost:5273/", "http://localhost:5273"),
        ("http://127.0.0.1:5273/v1", "http://127.0.0.1:5273"),
        ("http://127.0.0.1:5273/v1/", "http://127.0.0.1:5273"),
        ("http://127.0.0.1:5273/openai/status", "http://127.0.0.1:5273"),
        ("http://0.0.0.0:39123", "http://127.0.0.1:39123"),
        ("http://*:43515", "http://127.0.0.1:43515"),
        ("http://[::]:5273", "http://127.0.0.1:5273"),
        ("http://[::1]:5273", "http://[::1]:5273"),
        ("https://models.example", "https://models.example"),
        ("https://models.example/foundry/v1?x=1#y", "https://models.example/foundry"),
        ("https://models.example/v1beta", "https://models.example/v1beta"),
    ],
)
def test_pasted_urls_are_normalized(given: str, normal: str) -> None:
    assert normalize_url(given) == normal
    assert Settings(base_url=given).base_url == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "/v1",
        "http://",
        "http:///v1",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:0",
        "http://[::1",
        "http://[nonsense]:5273",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(base_url=url)
    assert caught.value.hint


@example(url="0 ?")
@example(url="http://0/ ?")
@given(url=st.text() | st.from_regex(r"(https?://)?[\w.:@\[\]]*(:\d+)?(/v1|/openai/status|/)*"))
def test_any_text_is_a_url_or_a_configuration_error(url: str) -> None:
    try:
        normal = normalize_url(url)
    except ConfigurationError:
        return
    assert normalize_url(normal) == normal


SECRET = "hunter2"  # noqa: S105 - what must not be shown


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1",
        f"http://{SECRET}@127.0.0.1:5273",
        f"user:{SECRET}@127.0.0.1:5273",
        f"ftp://user:{SECRET}@127.0.0.1",
        f"http://user:{SECRET}@127.0.0.1:port",
        f"http://user:{SECRET}@[::1",
        f"http://user:{SECRET}@",
    ],
)
def test_a_credential_in_a_url_is_refused_and_hidden(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(base_url=url)
    assert SECRET not in str(caught.value)


def test_the_repr_shows_no_credential() -> None:
    settings = Settings.from_environment({"FOUNDRY_API_KEY": SECRET})
    assert settings.api_key == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


@pytest.mark.parametrize("level", ["debug", "Debug", "DEBUG"])
def test_a_log_level_is_case_insensitive(level: str) -> None:
    assert Settings(log_level=level).log_level == "DEBUG"
    assert Settings.from_environment({"FOUNDRY_LOG_LEVEL": level}).log_level == "DEBUG"


def test_an_unknown_log_level_is_shown_as_given() -> None:
    with pytest.raises(ConfigurationError, match="FOUNDRY_LOG_LEVEL is 'loud'"):
        Settings.from_environment({"FOUNDRY_LOG_LEVEL": "loud"})


@pytest.mark.skipif(sys.platform == "win32", reason="the environment is UTF-16 there")
def test_a_variable_must_be_utf8() -> None:
    with pytest.raises(ConfigurationError, match=r"FOUNDRY_MODEL is .*, which is not text"):
        Settings.from_environment({"FOUNDRY_MODEL": os.fsdecode(b"mod\xe8le")})
