"""The log of prompts and conversations: an SQLite file, which only a user who wants it has."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.storage.database_files import FileFormat, get_side_path
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.sqlite import ForeignFile, OtherFormat, check_row, is_damage, open_database
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from foundry_api.cli.chat_runner import Turn
    from foundry_api.types.messages import Chunk, Completion

__all__ = ["ChatLog", "ConversationRecorder", "LoggedConversation", "Summary"]

BUSY_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 5.0
SIDE_SUFFIXES = ("", "-wal", "-shm", ".lock")

SCHEMA = """
create table conversations (
    id integer primary key autoincrement, started real not null, updated real not null,
    model text not null, system text not null, options text not null
);
create table turns (
    conversation integer not null, position integer not null, at real not null,
    question text not null, answer text not null, messages text not null,
    prompt_tokens integer, completion_tokens integer, duration_s real,
    primary key (conversation, position)
) without rowid;
"""
# `fouc` in ASCII, which distinguishes this package's files from other SQLite databases.
FORMAT = FileFormat(application_id=0x666F7563, version=1, schema=SCHEMA)

SUMMARIES = """
select c.id, c.updated, c.model,
    (select count(*) from turns where conversation = c.id),
    (select question from turns where conversation = c.id order by position limit 1)
from conversations c
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in a list.

    Attributes:
        id: Its number.
        updated: When it was last continued, in seconds since the epoch.
        model: The model that answered last.
        turns: How many turns it has.
        question: The first question.
    """

    id: int
    updated: float
    model: str
    turns: int
    question: str


@dataclass(frozen=True, slots=True)
class LoggedConversation:
    """A conversation with its turns.

    Attributes:
        id: Its number.
        model: The model that answered last.
        system: The system message; empty if there is none.
        options: The options of the calls that were set.
        turns: The turns, oldest first.
    """

    id: int
    model: str
    system: str
    options: dict[str, Any]
    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[Message]:
        """All messages of the turns."""
        return [message for turn in self.turns for message in turn]


class ChatLog:
    """The file. Every method opens it, blocks, and raises FoundryError if that fails."""

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall_clock = wall_clock

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def save(
        self,
        conversation: LoggedConversation | None,
        *,
        model: str,
        system: str,
        options: dict[str, Any],
        turns: Sequence[Turn],
        last: Chunk | Completion | None,
    ) -> LoggedConversation:
        """Write the turns that are new, and remove those that are gone; return what is stored.

        Args:
            conversation: What is stored so far; None for a new conversation.
            model: The model.
            system: The system message, or an empty string.
            options: The options that are set.
            turns: All turns.
            last: The last chunk of the newest answer, for its counts.
        """
        stored = conversation.turns if conversation else ()
        kept = 0
        while kept < min(len(stored), len(turns)) and stored[kept] == turns[kept]:
            kept += 1
        now = self._wall_clock()
        values = (now, model, system, msgspec.json.encode(options).decode())
        with self._open() as database:
            if conversation is None:
                cursor = database.execute(
                    "insert into conversations (started, updated, model, system, options) "
                    "values (?, ?, ?, ?, ?)",
                    (now, *values),
                )
                number = cursor.lastrowid or 0
            else:
                number = conversation.id
                # With the id: it may have been pruned meanwhile.
                database.execute(
                    "insert into conversations (id, started, updated, model, system, options) "
                    "values (?, ?, ?, ?, ?, ?) on conflict (id) do update set "
                    "updated = excluded.updated, model = excluded.model, "
                    "system = excluded.system, options = excluded.options",
                    (number, now, *values),
                )
            database.execute(
                "delete from turns where conversation = ? and position >= ?", (number, kept)
            )
            for position, turn in enumerate(turns[kept:], kept):
                is_last = position == len(turns) - 1
                database.execute(
                    "insert into turns values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (number, position, now, *_make_columns(turn, last if is_last else None)),
                )
        return LoggedConversation(number, model, system, options, tuple(turns))

    def list(self, limit: int, term: str = "") -> list[Summary]:
        """Return the newest conversations; with a term, those in which it is."""
        where = ""
        parameters: list[Any] = []
        if term:
            where = (
                "where exists (select 1 from turns where conversation = c.id "
                "and (question like ? escape '\\' or answer like ? escape '\\'))"
            )
            escaped = term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            parameters += [f"%{escaped}%"] * 2
        with self._open() as database:
            rows = database.execute(
                f"{SUMMARIES} {where} order by c.updated desc, c.id desc limit ?",
                (*parameters, limit),
            ).fetchall()
        checked = (check_row(row, int, float, str, int, (str, type(None))) for row in rows)
        return [
            Summary(number, updated, model, turns, question or "")
            for number, updated, model, turns, question in checked
        ]

    def load(self, number: int | None = None) -> LoggedConversation:
        """Return a conversation by its number; None is the last one."""
        with self._open() as database:
            row = database.execute(
                "select id, model, system, options from conversations "
                "where ?1 is null or id = ?1 order by updated desc, id desc limit 1",
                (number,),
            ).fetchone()
            if row is None:
                raise InvalidRequest(
                    "no conversation is logged" if number is None else f"no conversation {number}",
                    hint="`foundry-api logs` lists them.",
                )
            found, model, system, options = check_row(row, int, str, str, str)
            turns = database.execute(
                "select messages from turns where conversation = ? order by position", (found,)
            ).fetchall()
            try:
                return LoggedConversation(
                    found,
                    model,
                    system,
                    msgspec.json.decode(options, type=dict[str, Any]),
                    tuple(msgspec.json.decode(text, type=tuple[Message, ...]) for (text,) in turns),
                )
            except (msgspec.MsgspecError, TypeError) as error:
                raise FoundryError(f"conversation {found} in {self.path} is damaged") from error

    def prune(self, before: float) -> int:
        """Delete the conversations that were last continued before a time; return how many."""
        with self._open() as database:
            database.execute(
                "delete from turns where conversation in "
                "(select id from conversations where updated < ?)",
                (before,),
            )
            deleted = database.execute(
                "delete from conversations where updated < ?", (before,)
            ).rowcount
            database.execute("commit")
            # What is deleted must not stay in the file.
            database.execute("vacuum")
            database.execute("pragma wal_checkpoint(truncate)")
            database.execute("begin")
        return deleted

    def remove(self) -> int:
        """Delete the file; return how many conversations were in it."""
        with self._open() as database:
            (count,) = database.execute("select count(*) from conversations").fetchone()
        with _translate_errors(self.path):
            for suffix in SIDE_SUFFIXES:
                get_side_path(self.path, suffix).unlink(missing_ok=True)
        return int(count)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """Open the file for one transaction."""
        with _translate_errors(self.path):
            self.path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            lock = FileLock(get_side_path(self.path, ".lock"), timeout_s=LOCK_TIMEOUT_S)
            with closing(
                open_database(self.path, FORMAT, lock=lock, timeout_s=BUSY_TIMEOUT_S)
            ) as database:
                database.execute("begin immediate")
                yield database
                database.execute("commit")


class ConversationRecorder:
    """Logs one conversation as it goes on.

    Args:
        log: The log.
        warn: Called once, with the error, if the log cannot be written.
        stored: What is stored of a conversation that is continued.
    """

    def __init__(
        self,
        log: ChatLog,
        warn: Callable[[FoundryError], object],
        stored: LoggedConversation | None = None,
    ) -> None:
        self._log = log
        self._warn: Callable[[FoundryError], object] | None = warn
        self._stored = stored

    def record(
        self,
        *,
        model: str,
        system: str | None,
        options: dict[str, Any],
        turns: Sequence[Turn],
        last: Chunk | Completion | None,
    ) -> None:
        """Log the turns. Other turns, as after `/reset` or `/load`, are another conversation."""
        stored = self._stored
        if not turns or (stored and stored.turns and stored.turns[0][0] != turns[0][0]):
            self._stored = stored = None
        if not turns or (stored is not None and stored.turns == tuple(turns)):
            return
        try:
            self._stored = self._log.save(
                stored, model=model, system=system or "", options=options, turns=turns, last=last
            )
        except FoundryError as error:
            if self._warn is not None:
                self._warn(error)
            self._warn = None


def _make_columns(turn: Turn, last: Chunk | Completion | None) -> tuple[Any, ...]:
    answer = turn[-1].content if turn[-1].role == "assistant" else ""
    usage = last.usage if last is not None else None
    timings = last.timings if last is not None else None
    return (
        turn[0].content,
        answer,
        msgspec.json.encode(turn).decode(),
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        timings.total_s if timings else None,
    )


@contextmanager
def _translate_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (ForeignFile, OtherFormat) as error:
        raise FoundryError(
            f"{path} is no log of this version: {error}",
            hint="Move it away, or turn the log off: `foundry-api config set logs off`.",
        ) from error
    except (sqlite3.Error, OSError, LockTimeout, UnicodeError) as error:
        problem = "is damaged" if is_damage(error) else "cannot be used"
        raise FoundryError(
            f"the log {path} {problem}: {error}",
            hint="Move it away, or turn the log off: `foundry-api config set logs off`.",
        ) from error
