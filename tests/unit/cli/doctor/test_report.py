"""The report for an issue has no secrets."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from foundry_api.cli.doctor.context import DiagnosticContext
from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import Finding
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
@example(name="FOUNDRY_MODEL", planted="OUNDRY_M", around="{}")
def test_the_value_of_a_variable_is_not_in_the_report(name: str, planted: str, around: str) -> None:
    assume(planted.lower() not in PUBLIC_WORDS.lower())
    assume(planted not in written("", {}))
    assume(planted.lower() not in name.lower())  # "<value of NAME>" stands in for it
    for text in (planted, repr(planted), planted.upper(), planted.lower()):
        message = around.format(text)
        assert planted not in written(message, {name: planted}, remedy=message)


@given(planted=words, other=words)
@example(planted="aaaaaaaa", other="aaaaaaaab")
def test_a_secret_that_contains_another_secret(planted: str, other: str) -> None:
    assume(not any(value.lower() in PUBLIC_WORDS.lower() for value in (planted, other)))
    environ = {"A": planted, "B": planted + other}
    report = written(f"{planted} {planted + other} {other + planted}", environ)
    assume(planted not in written("", {}))
    assert planted not in report
    assert planted + other not in report


@given(name=st.sampled_from(environment_variables()), planted=words)
@example(name="FOUNDRY_MODEL", planted="PROBLEMS")  # a heading of every report
async def test_a_secret_in_the_wrong_variable_is_not_in_the_report(name: str, planted: str) -> None:
    """A key was pasted into the wrong variable, whose value is part of a finding."""
    assume(planted.lower() not in PUBLIC_WORDS.lower())
    environ = {name: planted, "FOUNDRY_BASE_URLS": f"http://u:{planted}@127.0.0.1:9"}
    async with DiagnosticContext(make_usable_settings(environ), environ, quick=True) as context:
        findings = await run_checks(context, NETWORK_FREE)
    report = render_markdown(findings, environ, PERSON)
    assume(planted.lower() not in written("", {}).lower())
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
def test_secrets_are_recognised_by_their_format(text: str) -> None:
    report = written(text.replace("{}", "q7Geheimnis"), {})
    assert "q7Geheimnis" not in report


def test_the_report_has_no_names_of_user_and_machine() -> None:
    report = written(
        "/home/annette/.foundry of annette@annettes-laptop.corp, at Annettes-Laptop", {}
    )
    assert "annette" not in report.lower()
    assert "~/.foundry" in report


def test_a_windows_home_is_recognised_in_every_notation() -> None:
    redacted = Redactor({}, UserIdentity(home="C:\\Users\\Anna B", user="anna"))
    for text in ("C:\\Users\\Anna B\\x", r"'C:\\Users\\Anna B\\x'", "c:/users/anna b/x"):
        assert "Anna" not in redacted(text)
        assert "~" in redacted(text)


def test_a_short_name_is_replaced_only_as_a_word() -> None:
    redacted = Redactor({}, UserIdentity(user="eva", hosts=("pc1",)))
    assert redacted("eva evaluates on pc1, not pc12") == "<user> evaluates on <host>, not pc12"


def test_harmless_text_is_kept() -> None:
    """A report in which everything is redacted would be useless."""
    environ = {
        "FOUNDRY_BASE_URL": "http://127.0.0.1:5273",
        "FOUNDRY_TIMEOUT": "soon",
        "PYTHON": "foundry-api",
    }
    text = "FOUNDRY_TIMEOUT is 'soon'; http://127.0.0.1:5273 is dead; run foundry-api up; 2.2.1"
    assert Redactor(environ, PERSON, PUBLIC_WORDS)(text) == text


def test_worst_findings_come_first_and_html_is_escaped() -> None:
    findings = [
        Finding(id=level, level=level, title=level, evidence="<b>", remedy="Do.", group="G")
        for level in ("ok", "problem", "note", "warning")
    ]
    report = render_markdown(findings, {}, PERSON)
    places = [report.index(f"(`{level}`, G)") for level in ("problem", "warning", "note", "ok")]
    assert places == sorted(places)
    assert "<b>" not in report
    assert report.count("remedy: Do.") == 2


def test_the_current_user() -> None:
    person = current_user()
    assert person.home
    assert "localhost" not in person.hosts


def test_credentials_are_removed_from_urls() -> None:
    assert strip_credential("http://me:secret@proxy:1") == "http://<redacted>@proxy:1"
    assert strip_credential("me:secret@proxy:1") == "<redacted>@proxy:1"
    assert strip_credential("proxy:1") == "proxy:1"
