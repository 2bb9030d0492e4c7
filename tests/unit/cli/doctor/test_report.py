"""The report that goes into an issue: whatever secret was planted where, it is not in there."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import Finding
from foundry_api.cli.doctor.machine import DiagnosticContext
from foundry_api.cli.doctor.redact import Redactor, UserIdentity, strip_credential
from foundry_api.cli.doctor.report import PUBLIC_WORDS, current_user, render_markdown
from foundry_api.cli.doctor.runner import GROUPS, run_checks
from foundry_api.types.settings import environment_variables

PERSON = UserIdentity(
    home="/home/annette", user="annette", hosts=("annettes-laptop.corp", "annettes-laptop")
)
NETWORK_FREE = tuple(group for group in GROUPS if group.name in {"Settings", "Space"})

secrets = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
    min_size=8,
    max_size=40,
).filter(lambda text: text == text.strip() and "," not in text and ";" not in text)
words = st.text(alphabet=string.ascii_letters + string.digits, min_size=8, max_size=40)


def written(text: str, environ: dict[str, str], *, remedy: str = "") -> str:
    finding = Finding(id="x", level="problem", title="T", evidence=text, remedy=remedy, group="G")
    return render_markdown([finding], environ, PERSON)


@given(
    name=st.sampled_from([*environment_variables(), "HTTP_PROXY", "OPENAI_API_KEY", "EDITOR", "X"]),
    planted=secrets,
    around=st.sampled_from(
        ["{}", "'{}'", "a {} b", "http://127.0.0.1:9/{}", "x={}&y", "C:\\{}\\x"]
    ),
)
@example(name="FOUNDRY_TIMEOUT", planted="a\\b'\"c d\ue000", around="{}")
@example(name="FOUNDRY_TIMEOUT", planted="12345678", around="{}")
def test_the_value_of_a_variable_is_not_in_the_report(name: str, planted: str, around: str) -> None:
    assume(planted.lower() not in PUBLIC_WORDS.lower())
    assume(planted not in written("", {}))
    for text in (planted, repr(planted), planted.upper(), planted.lower()):
        told = around.format(text)
        assert planted not in written(told, {name: planted}, remedy=told)


@given(planted=words, other=words)
@example(planted="aaaaaaaa", other="aaaaaaaab")
def test_a_secret_inside_another_hides_neither(planted: str, other: str) -> None:
    assume(not any(value.lower() in PUBLIC_WORDS.lower() for value in (planted, other)))
    environ = {"A": planted, "B": planted + other}
    told = written(f"{planted} {planted + other} {other + planted}", environ)
    assume(planted not in written("", {}))
    assert planted not in told
    assert planted + other not in told


@given(name=st.sampled_from(environment_variables()), planted=words)
async def test_a_secret_in_the_wrong_setting_is_not_in_a_real_report(
    name: str, planted: str
) -> None:
    """Somebody pastes a key into the wrong line, and a check tells what is in that line."""
    assume(planted.lower() not in PUBLIC_WORDS.lower())
    environ = {name: planted, "FOUNDRY_BASE_URLS": f"http://u:{planted}@127.0.0.1:9"}
    async with DiagnosticContext(make_usable_settings(environ), environ, quick=True) as machine:
        findings = await run_checks(machine, NETWORK_FREE)
    report = render_markdown(findings, environ, PERSON)
    assume(planted not in written("", {}))
    assert planted.lower() not in report.lower()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}",
        "authorization: basic {}",
        "api_key={}",
        '"api-key": "{}"',
        "password = {}, and so on",
        "https://me:{}@example.org/x",
        "https://example.org/{}?sig={}",
        "http://127.0.0.1:5273/x?token={}",
        "socks5://me:{}@127.0.0.1:1080",
        "sk-{}0123456789abcdef",
        "it says {}0123456789abcdefghij",
    ],
)
def test_secrets_that_no_variable_holds_are_known_by_their_shape(text: str) -> None:
    told = written(text.replace("{}", "q7Geheimnis"), {})
    assert "q7Geheimnis" not in told


def test_the_user_and_the_machine_are_not_named() -> None:
    told = written("/home/annette/.foundry of annette@annettes-laptop.corp, at Annettes-Laptop", {})
    assert "annette" not in told.lower()
    assert "~/.foundry" in told


def test_a_home_of_windows_is_known_however_it_is_written() -> None:
    redacted = Redactor({}, UserIdentity(home="C:\\Users\\Anna B", user="anna"))
    for text in ("C:\\Users\\Anna B\\x", r"'C:\\Users\\Anna B\\x'", "c:/users/anna b/x"):
        assert "Anna" not in redacted(text)
        assert "~" in redacted(text)


def test_a_short_name_is_replaced_where_it_is_a_word() -> None:
    redacted = Redactor({}, UserIdentity(user="eva", hosts=("pc1",)))
    assert redacted("eva evaluates on pc1, not pc12") == "<user> evaluates on <host>, not pc12"


def test_what_helps_stays() -> None:
    """A report of nothing but black bars would help nobody."""
    environ = {
        "FOUNDRY_BASE_URL": "http://127.0.0.1:5273",
        "FOUNDRY_TIMEOUT": "soon",
        "PYTHON": "foundry-api",
    }
    text = "FOUNDRY_TIMEOUT is 'soon'; http://127.0.0.1:5273 is dead; run foundry-api up; 2.2.1"
    assert Redactor(environ, PERSON, PUBLIC_WORDS)(text) == text


def test_the_worst_comes_first_and_html_is_escaped() -> None:
    findings = [
        Finding(id=level, level=level, title=level, evidence="<b>", remedy="Do.", group="G")
        for level in ("ok", "problem", "note", "warning")
    ]
    report = render_markdown(findings, {}, PERSON)
    places = [report.index(f"(`{level}`, G)") for level in ("problem", "warning", "note", "ok")]
    assert places == sorted(places)
    assert "<b>" not in report
    assert report.count("remedy: Do.") == 2


def test_this_person_is_known() -> None:
    person = current_user()
    assert person.home
    assert "localhost" not in person.hosts


def test_addresses_without_credentials() -> None:
    assert strip_credential("http://me:secret@proxy:1") == "http://<redacted>@proxy:1"
    assert strip_credential("me:secret@proxy:1") == "<redacted>@proxy:1"
    assert strip_credential("proxy:1") == "proxy:1"
