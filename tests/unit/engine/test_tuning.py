"""The directories with settings for speed that the engine gets instead of the users' own."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.engine.models import tuning
from foundry_api.engine.models.directory import Configuration
from foundry_api.engine.models.tuning import (
    CHUNK_TOKENS,
    SMALL_MB,
    TunedDirectories,
    choose_threads,
    make_tuned_configuration,
)
from service.helpers import make_model_directory

if TYPE_CHECKING:
    from pathlib import Path

LARGE_MB = SMALL_MB


def tune(
    model: dict[str, Any],
    search: dict[str, Any] | None = None,
    *,
    threads: int | None = 4,
    overrides: bool = False,
    in_chunks: bool = True,
) -> dict[str, Any] | None:
    content = make_tuned_configuration(
        Configuration(model, search or {}),
        threads=threads,
        overrides=overrides,
        in_chunks=in_chunks,
    )
    return json.loads(content) if content is not None else None


def make_model(decoder: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    return {"type": "llama", "decoder": {"filename": "model.onnx", **(decoder or {})}, **model}


def test_the_other_settings_are_kept() -> None:
    model = make_model({"head_size": 64, "session_options": {"log_id": "x"}}, vocab_size=9)
    assert tune(model, {"top_k": 50, "temperature": 0.5}) == {
        "model": {
            "type": "llama",
            "vocab_size": 9,
            "tokenizer_dir": "files",
            "decoder": {
                "filename": "files/model.onnx",
                "head_size": 64,
                "session_options": {
                    "log_id": "x",
                    "intra_op_num_threads": 4,
                    "session.intra_op.allow_spinning": "0",
                },
            },
        },
        "search": {"top_k": 50, "temperature": 0.5, "chunk_size": CHUNK_TOKENS},
    }


@pytest.mark.parametrize(
    ("own", "threads", "overrides", "expected"),
    [
        (None, None, False, None),
        (None, 4, False, 4),
        (2, None, False, 2),
        (2, 4, False, 2),
        (2, 4, True, 4),
    ],
)
def test_the_users_number_of_threads_is_kept_unless_it_is_overridden(
    own: int | None, threads: int | None, *, overrides: bool, expected: int | None
) -> None:
    options = {} if own is None else {"intra_op_num_threads": own}
    tuned = tune(make_model({"session_options": options}), threads=threads, overrides=overrides)
    assert tuned
    assert tuned["model"]["decoder"]["session_options"].get("intra_op_num_threads") == expected


@pytest.mark.parametrize(
    ("model", "search", "in_chunks", "expected"),
    [
        (make_model(), {}, True, CHUNK_TOKENS),
        (make_model(), {"chunk_size": 64}, True, 64),
        (make_model(), {}, False, None),
        (make_model(type="phi3"), {}, True, None),
        (make_model({"sliding_window": {"window_size": 8}}), {}, True, None),
    ],
)
def test_only_models_that_allow_it_read_prompts_in_parts(
    model: dict[str, Any], search: dict[str, Any], *, in_chunks: bool, expected: int | None
) -> None:
    tuned = tune(model, search, in_chunks=in_chunks)
    assert tuned
    assert tuned["search"].get("chunk_size") == expected


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"decoder": 5},
        make_model(vision={"filename": "vision.onnx"}),
        make_model({"pipeline": [{"embed": {"filename": "embed.onnx"}}]}),
        make_model({"session_options": {"provider_options": [{"cuda": {}}]}}),
        make_model({"session_options": {"custom_ops_library": "ops.so"}}),
        make_model(
            {"session_options": {"session.model_external_initializers_file_folder_path": "x"}}
        ),
        make_model({"session_options": [1]}),
        make_model(tokenizer_dir="words"),
        make_model(name="\ud800"),
        make_model({"head_size": float("inf")}),
    ],
)
def test_other_models_keep_their_own_directory(model: dict[str, Any]) -> None:
    assert tune(model) is None


def test_an_unknown_section_keeps_the_own_directory() -> None:
    config = Configuration(make_model(), {}, frozenset({"model", "search", "engine"}))
    assert not make_tuned_configuration(config, threads=4, overrides=True, in_chunks=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux describes its CPUs in files")
@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ({0: "0", 1: "1"}, 2),
        ({0: "0-1", 1: "0-1"}, 1),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 2),
        ({cpu: str(cpu) for cpu in range(40)}, 16),
        ({}, None),
    ],
)
def test_one_thread_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: dict[int, str], expected: int | None
) -> None:
    for cpu, text in siblings.items():
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings) or {0})
    assert choose_threads(tmp_path) == expected


def read_threads(tuned: Path) -> int | None:
    config = json.loads((tuned / "genai_config.json").read_text(encoding="utf-8"))
    threads: int | None = config["model"]["decoder"]["session_options"].get("intra_op_num_threads")
    return threads


def test_a_directory_leads_to_the_users_files(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    tuned = TunedDirectories(tmp_path / "registered", 3).make(directory, size_mb=LARGE_MB)
    assert sorted(path.name for path in tuned.iterdir()) == ["files", "genai_config.json"]
    assert (tuned / "files" / "model.onnx").samefile(directory / "model.onnx")
    assert read_threads(tuned) == 3
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_each_directory_has_one_place(tmp_path: Path) -> None:
    one, other = (make_model_directory(tmp_path / name) for name in ("one", "other"))
    directories = TunedDirectories(tmp_path / "registered", None)
    tuned = directories.make(one, size_mb=1)
    assert directories.make(one, size_mb=1) == tuned != directories.make(other, size_mb=1)


@pytest.mark.parametrize(
    ("asked", "size_mb", "expected"),
    [(None, LARGE_MB - 1, None), (None, LARGE_MB, 8), (2, 1, 2), (2, LARGE_MB, 2)],
)
def test_small_models_leave_the_threads_to_the_engine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    size_mb: int,
    expected: int | None,
) -> None:
    monkeypatch.setattr(tuning, "choose_threads", lambda: 8)
    directory = make_model_directory(tmp_path / "model")
    tuned = TunedDirectories(tmp_path / "registered", asked).make(directory, size_mb=size_mb)
    assert read_threads(tuned) == expected


def test_an_update_applies_this_hosts_threads_and_keeps_the_chunks(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    config = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["type"] = "llama"
    (directory / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    tuned = TunedDirectories(tmp_path / "registered", 2).make(directory, size_mb=1)
    TunedDirectories(tmp_path / "registered", 5).update(directory, size_mb=1)
    assert read_threads(tuned) == 5
    changed = json.loads((tuned / "genai_config.json").read_text(encoding="utf-8"))
    assert changed["search"] == {"chunk_size": CHUNK_TOKENS}


def test_an_update_makes_a_lost_directory_again(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    directories = TunedDirectories(tmp_path / "registered", 2)
    tuned = directories.make(directory, size_mb=1)
    directories.remove_unused(set())
    directories.update(directory, size_mb=1)
    assert read_threads(tuned) == 2
    assert (tuned / "files" / "model.onnx").is_file()


def test_only_unused_directories_are_removed_and_never_the_users_files(tmp_path: Path) -> None:
    one, other = (make_model_directory(tmp_path / name) for name in ("one", "other"))
    directories = TunedDirectories(tmp_path / "registered", None)
    directories.remove_unused(set())  # there is no directory yet
    kept, unused = (directories.make(path, size_mb=1) for path in (one, other))
    directories.remove_unused({kept})
    assert [path.name for path in (tmp_path / "registered").iterdir()] == [kept.name]
    assert (kept / "files" / "tokenizer.json").is_file()
    assert not unused.exists()
    assert (other / "model.onnx").is_file()


def test_a_place_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    (tmp_path / "registered").write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match="registered"):
        TunedDirectories(tmp_path / "registered", None).make(directory, size_mb=1)


def test_a_host_that_reaches_the_home_by_another_path_removes_nothing(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    tuned = TunedDirectories(tmp_path / "registered", None).make(directory, size_mb=1)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    used = {tmp_path / "link" / "registered" / tuned.name}
    TunedDirectories(tmp_path / "registered", None).remove_unused(used)
    assert (tuned / "files" / "tokenizer.json").is_file()


@pytest.mark.parametrize("content", ["", "{}", "garbage", '{"model": {"type": []}}'])
def test_an_update_replaces_a_damaged_copy(tmp_path: Path, content: str) -> None:
    directory = make_model_directory(tmp_path / "model")
    directories = TunedDirectories(tmp_path / "registered", 2)
    tuned = directories.make(directory, size_mb=1)
    (tuned / "genai_config.json").write_text(content, encoding="utf-8")
    directories.update(directory, size_mb=1)
    assert read_threads(tuned) == 2


def test_an_update_restores_the_link(tmp_path: Path) -> None:
    one, other = (make_model_directory(tmp_path / name) for name in ("one", "other"))
    directories = TunedDirectories(tmp_path / "registered", 2)
    link = directories.make(one, size_mb=1) / "files"
    for wrong in (None, other, tmp_path / "missing"):
        link.unlink()
        if wrong is not None:
            link.symlink_to(wrong, target_is_directory=True)
        directories.update(one, size_mb=1)
        assert link.samefile(one)
