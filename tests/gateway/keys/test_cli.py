"""`foundry-api keys` as a separate process."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.limits.accounts import StoredBudget
from foundry_api.gateway.limits.budgets import BudgetState
from foundry_api.gateway.limits.persistence import BudgetFile
from support.cli_program import Terminal, run

if TYPE_CHECKING:
    from pathlib import Path


def list_names(home: Path) -> list[str]:
    return [key.name for key in KeyDatabase(home / "gateway").list()]


def test_the_life_of_a_key(own_home: Path) -> None:
    created = run(
        *("keys", "create", "--name", "ci", "--scope", "inference,metrics", "--models", "demo"),
        *("--rate", "60/m", "--tokens", "2000/m,100000/d", "--parallel", "4", "--weight", "2"),
        *("--expires", "90d"),
        home=own_home,
    )
    (key,) = KeyDatabase(own_home / "gateway").list()
    assert created.returncode == 0
    assert created.stdout.startswith(f"fk_{key.id}_")
    assert created.stdout.count("\n") == 1
    assert created.stderr.splitlines() == [
        f"The key ci ({key.id}) is created.",
        "Keep its token now; it cannot be shown again:",
    ]
    listed = run("keys", home=own_home).stdout
    assert listed == run("keys", "list", home=own_home).stdout
    header, row = listed.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES"]
    assert row.startswith(
        f"{key.id}  ci    active  inference,metrics  demo    60/m requests, 2000/m"
    )

    rotated = run("keys", "rotate", "ci", home=own_home)
    assert "the earlier one is valid for 1 d more." in rotated.stderr
    assert rotated.stdout != created.stdout
    shown = run("keys", "show", "ci", home=own_home).stdout
    assert shown.startswith("ci  active\n")
    assert "earlier token until" in shown
    rotated = run("keys", "rotate", key.id, "--grace", "0", home=own_home)
    assert "the earlier one is no longer valid." in rotated.stderr

    revoked = run("keys", "revoke", "ci", home=own_home)
    assert revoked.stdout == f"The key ci ({key.id}) is revoked.\n"
    assert "revoked" in run("keys", home=own_home).stdout
    removed = run("keys", "remove", "ci", home=own_home)
    assert removed.stdout == f"The key ci ({key.id}) is removed.\n"
    assert run("keys", home=own_home).stdout.startswith("There are no keys in ")


def test_a_key_is_changed(own_home: Path) -> None:
    limits = ("--rate", "60/m", "--tokens", "9/d", "--parallel", "4", "--expires", "1d")
    made = run("keys", "create", "--name", "ci", "--models", "demo", *limits, home=own_home)
    (key,) = KeyDatabase(own_home / "gateway").list()
    changed = run("keys", "update", "ci", "--rate", "90/m", "--weight", "2", home=own_home)
    assert changed.stdout == f"The key ci ({key.id}) is changed.\n"
    shown = json.loads(run("keys", "show", "ci", "--json", home=own_home).stdout)["key"]
    assert (shown["rate"], shown["weight"], shown["tokens"]) == ("90/m", 2.0, ["9/d"])
    assert (shown["models"], shown["scopes"]) == (["demo"], ["inference"])
    free = ("--models", "all", "--rate", "any", "--tokens", "any", "--parallel", "any")
    run("keys", "update", "ci", *free, "--expires", "never", home=own_home)
    shown = json.loads(run("keys", "show", "ci", "--json", home=own_home).stdout)["key"]
    for name in ("models", "rate", "parallel", "expires_at"):
        assert shown[name] is None
    assert shown["tokens"] == []
    assert made.stdout[3:11] == key.id  # the token stays
    nothing = run("keys", "update", "ci", home=own_home)
    assert (nothing.returncode, "at least one option" in nothing.stderr) == (2, True)
    audit = (own_home / "gateway" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in audit] == ["key.create", *["key.update"] * 2]


def test_what_a_key_has_used_is_shown(own_home: Path) -> None:
    run("keys", "create", "--name", "ci", "--rate", "60/h", "--tokens", "9/m,900/d", home=own_home)
    directory = own_home / "gateway"
    (key,) = KeyDatabase(directory).list()
    unused = run("keys", "show", "ci", home=own_home).stdout
    assert "60/h (0 used)" in unused
    assert not (directory / "usage.db").exists()  # looking makes no file
    file, ends_at = BudgetFile(directory / "usage.db"), time.time() + 3000
    file.read()
    file.write(
        [
            StoredBudget(key.id, "tokens/d", BudgetState(340, ends_at)),
            StoredBudget(key.id, "requests/h", BudgetState(50, ends_at)),
            StoredBudget("another", "tokens/m", BudgetState(5, ends_at)),
        ]
    )
    # A gateway still has it open.
    shown = run("keys", "show", "ci", home=own_home).stdout
    assert "9/m (0 used), 900/d (340 used)" in shown
    used = json.loads(run("keys", "show", "ci", "--json", home=own_home).stdout)["used"]
    assert used == {"tokens/m": 0, "tokens/d": 340, "requests/h": 50}
    file.close()
    (directory / "usage.db").write_bytes(b"not a database")
    unknown = run("keys", "show", "ci", home=own_home)
    assert "cannot be read from" in unknown.stderr
    assert "9/m, 900/d" in unknown.stdout
    assert (directory / "usage.db").read_bytes() == b"not a database"


def test_json(own_home: Path) -> None:
    made = json.loads(run("keys", "create", "--name", "ci", "--json", home=own_home).stdout)
    assert made["token"].startswith(f"fk_{made['key']['id']}_")
    assert made["key"] == {
        "id": made["key"]["id"],
        "name": "ci",
        "state": "active",
        "scopes": ["inference"],
        "models": None,
        "rate": None,
        "tokens": [],
        "parallel": None,
        "weight": 1.0,
        "created_at": made["key"]["created_at"],
        "expires_at": None,
        "grace_until": None,
        "revoked_at": None,
    }
    listed = json.loads(run("keys", "--json", home=own_home).stdout)
    assert listed == {"file": str(own_home / "gateway" / "keys.db"), "keys": [made["key"]]}
    assert (
        json.loads(run("keys", "show", "ci", "--json", home=own_home).stdout)["key"] == made["key"]
    )
    revoked = json.loads(run("keys", "revoke", "ci", "--json", home=own_home).stdout)
    assert revoked["key"]["state"] == "revoked"
    assert json.loads(run("keys", "remove", "ci", "--json", home=own_home).stdout) == revoked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "60"), "--rate is '60', which is not a limit."),
        (("--tokens", "5/s"), "--tokens is '5/s', which is not a limit."),
        (("--expires", "soon"), "--expires is 'soon', which is not a duration."),
        (("--scope", "admin"), "--scope is 'admin', with 'admin'."),
        (("--models", ","), "--models is ',', which is not a list of models."),
        (("--weight", "0"), "--weight"),
        (("--parallel", "0"), "--parallel"),
        (("--name", ""), "--name is '', which is not a name for a key."),
        (("--dir", ""), "--dir is "),
    ],
)
def test_a_wrong_option_is_named_and_creates_nothing(
    own_home: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = run("keys", "create", "--name", "ci", *arguments, home=own_home)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stdout == ""
    assert not own_home.exists()


def test_the_directory_may_stand_before_or_after_the_command(
    own_home: Path, tmp_path: Path
) -> None:
    directory = str(tmp_path / "edge site")
    assert run("keys", "create", "--name", "a", "--dir", directory).returncode == 0
    assert run("keys", "--dir", directory, "create", "--name", "b").returncode == 0
    for arguments in (("--dir", directory), ("list", "--dir", directory)):
        names = [
            key["name"] for key in json.loads(run("keys", *arguments, "--json").stdout)["keys"]
        ]
        assert names == ["a", "b"]
    assert not own_home.exists()


def test_a_file_of_the_gateway_says_where_the_keys_are(own_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"directory = '{tmp_path / 'place'}'\npepper_file = '{tmp_path / 'pepper'}'\n"
        "audit_log = false\n",
        encoding="utf-8",
    )
    (tmp_path / "pepper").write_text("0123456789abcdef" * 4, encoding="utf-8")
    for place in (("--config", str(file), "create"), ("create", "--config", str(file))):
        assert run("keys", *place, "--name", place[0]).returncode == 0
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"keys.db", "keys.db.lock"}
    assert not own_home.exists()
    assert run("serve", "--config", str(file), "--check").returncode == 0
    elsewhere = run("keys", "--config", str(file), "--dir", str(tmp_path / "empty"))
    assert elsewhere.stdout.startswith("There are no keys in ")
    file.write_text("directry = 'x'", encoding="utf-8")
    refused = run("keys", "--config", str(file))
    assert (refused.returncode, "Did you mean directory?" in refused.stderr) == (2, True)


def test_the_pepper_may_be_elsewhere(own_home: Path, tmp_path: Path) -> None:
    pepper = tmp_path / "pepper"
    variables = {"FOUNDRY_GATEWAY_PEPPER_FILE": str(pepper)}
    refused = run("keys", "create", "--name", "ci", home=own_home, **variables)
    assert refused.returncode == 2
    assert "pepper is missing or empty" in refused.stderr
    pepper.write_text("0123456789abcdef" * 4, encoding="utf-8")
    assert run("keys", "create", "--name", "ci", home=own_home, **variables).returncode == 0
    other = run("keys", "create", "--name", "b", home=own_home)
    assert other.returncode == 2
    assert "is missing or empty" in other.stderr


@pytest.mark.parametrize("command", ["show", "rotate", "revoke", "remove"])
def test_p18_a_token_in_place_of_a_name_is_not_repeated(own_home: Path, command: str) -> None:
    token = run("keys", "create", "--name", "ci", home=own_home).stdout.strip()
    for arguments in ((command, token, "-vv"), (command, token, "--json")):
        refused = run("keys", *arguments, home=own_home)
        assert refused.returncode == 1
        assert token[12:] not in refused.stdout + refused.stderr
    taken = run("keys", "create", "--name", token, "-vv", home=own_home)
    assert taken.returncode == 2
    assert token[12:] not in taken.stdout + taken.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_remove_asks_in_a_terminal(own_home: Path) -> None:
    run("keys", "create", "--name", "ci", home=own_home)
    for answer, code, left in (("n", 1, ["ci"]), ("y", 0, [])):
        with Terminal("keys", "remove", "ci", home=own_home) as terminal:
            terminal.expect("which is active? [y/N]")
            terminal.type_line(answer, "\n")
            assert terminal.exit_code() == code
        assert list_names(own_home) == left
