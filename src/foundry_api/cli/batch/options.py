"""The options of batches, in groups: what is read, and what answers it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from foundry_api.batch.request_body import parse_members
from foundry_api.batch.types import InputOptions
from foundry_api.cli.output import sanitize
from foundry_api.cli.session import Session
from foundry_api.observe.format import parse_duration
from foundry_api.resilience.limiter import LimiterSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.cli.options import GlobalOptions

__all__ = [
    "DurationParam",
    "EngineOptions",
    "engine_options",
    "input_options",
    "make_engine",
    "make_session",
]


_F = TypeVar("_F", bound="Callable[..., Any]")


class DurationParam(click.ParamType[float]):
    """A time as people write it, such as `90s`, `10m` or `2h`; taken as seconds."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, of what was written."""
        del ctx
        name = param.opts[0] if param is not None else "the time"
        return parse_duration(value, name) if isinstance(value, str) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What shall answer the lines.

    Attributes:
        engine: This process's client, or a Ray cluster.
        ray_address: Of the cluster; None starts one of this machine alone.
        base_urls: Services, if several.
        concurrency: Calls in flight at each service; None finds the best number.
        max_attempts: How often a line is begun; None for what the batch says.
        patience_s: Seconds that all services may be away; None for what the batch says.
        timeout_s: Seconds without a token before a call gives up.
        deadline_s: Seconds for a whole call.
        yes: Whether a missing model is downloaded without a question.
    """

    engine: Literal["local", "ray"]
    ray_address: str | None
    base_urls: tuple[str, ...]
    concurrency: int | None
    max_attempts: int | None
    patience_s: float | None
    timeout_s: float | None
    deadline_s: float | None
    yes: bool


_INPUT = (
    click.argument("path", type=click.Path(), metavar="INPUT"),
    click.option(
        "--format",
        type=click.Choice(["auto", "openai", "text", "csv", "parquet"]),
        default="auto",
        help="What it is; else its name tells: .jsonl, .json, .txt, .csv, .parquet, perhaps .gz.",
    ),
    click.option("--column", metavar="NAME", help="The prompt, of CSV and Parquet. [prompt]"),
    click.option(
        "--template",
        metavar="TEXT",
        help="The prompt, with {column} for a column's value; of plain text {line}.",
    ),
    click.option("-s", "--system", metavar="TEXT", help="Instructions ahead of each prompt."),
    click.option(
        "-m",
        "--model",
        metavar="NAME",
        help="Of lines that name none. [FOUNDRY_MODEL, else phi-4-mini]",
    ),
    click.option(
        "--set",
        "members",
        multiple=True,
        metavar="NAME=VALUE",
        help="Such as max_tokens=200, for lines that do not say it; repeatable.",
    ),
)

_ENGINE = (
    click.option(
        "--base-urls",
        metavar="URL,URL",
        help="Share the lines among several services. [FOUNDRY_BASE_URLS]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="local: this program asks. ray: a Ray cluster does, an engine on each node.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of the cluster; auto is one that runs here. [RAY_ADDRESS, else one is started]",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Lines in flight at each service. [found while it runs]",
    ),
    click.option(
        "--attempts",
        type=click.IntRange(min=1),
        metavar="N",
        help="How often a line is begun before it counts as failed. [3]",
    ),
    click.option(
        "--patience",
        type=DurationParam(),
        help="How long all services may be away before it gives up, such as 30m. [10m]",
    ),
    click.option(
        "--timeout", type=float, help="Seconds without a token. [FOUNDRY_TIMEOUT, else 30]"
    ),
    click.option("--deadline", type=float, help="Seconds for one answer. [FOUNDRY_DEADLINE]"),
    click.option("-y", "--yes", is_flag=True, help="Download a missing model without asking."),
)


def input_options(command: _F) -> _F:
    """Give a command the input and what makes requests of it, as one argument `read`."""

    @functools.wraps(command)
    def wrapper(
        *arguments: Any,
        path: str,
        format: Any,  # noqa: A002 - the option has that name
        column: str | None,
        template: str | None,
        system: str | None,
        model: str | None,
        members: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        read = InputOptions(
            path=path,
            format=format,
            column=column,
            template=template,
            system=system,
            model=model,
            members=parse_members(members),
        )
        return command(*arguments, read=read, **rest)

    return _apply_options(_INPUT, cast("_F", wrapper))


def engine_options(command: _F) -> _F:
    """Give a command what answers the lines, as one argument `wishes`."""

    @functools.wraps(command)
    def wrapper(
        *arguments: Any,
        base_urls: str | None,
        engine: Any,
        ray_address: str | None,
        concurrency: int | None,
        attempts: int | None,
        patience: float | None,
        timeout: float | None,
        deadline: float | None,
        yes: bool,
        **rest: Any,
    ) -> Any:
        wishes = EngineOptions(
            engine=engine,
            ray_address=ray_address,
            base_urls=_parse_addresses(base_urls),
            concurrency=concurrency,
            max_attempts=attempts,
            patience_s=patience,
            timeout_s=timeout,
            deadline_s=deadline,
            yes=yes,
        )
        _check_options(wishes)
        return command(*arguments, wishes=wishes, **rest)

    return _apply_options(_ENGINE, cast("_F", wrapper))


def _parse_addresses(value: str | None) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in (value or "").split(",") if url.strip())
    if value is not None and not urls:
        raise click.UsageError("--base-urls is empty: give addresses with commas between.")
    return urls


def _check_options(options: EngineOptions) -> None:
    """Refuse what would be ignored."""
    if options.engine == "local" and options.ray_address is not None:
        raise click.UsageError("--ray-address is for --engine ray.")
    if options.engine == "ray" and options.concurrency is not None:
        raise click.UsageError("--concurrency is for --engine local.")


def _apply_options(options: tuple[Callable[[Any], Any], ...], command: _F) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


def make_session(
    common: GlobalOptions, options: EngineOptions, *, model: str | None = None
) -> Session:
    """A client and its loop, as the options wish it."""
    return Session(
        common,
        model=model,
        base_urls=options.base_urls,
        limiter=LimiterSettings(concurrency=options.concurrency) if options.concurrency else None,
        timeout_s=options.timeout_s,
        deadline_s=options.deadline_s,
    )


def make_engine(
    session: Session,
    options: EngineOptions,
    *,
    attempts: int,
    patience_s: float,
    dedupe: bool | Path = False,
) -> BatchEngine:
    """The engine that the options wish.

    Args:
        session: Whose client asks, or whose settings the clients of a cluster have.
        options: What was said.
        attempts: How often a line is begun.
        patience_s: Seconds that all services may be away.
        dedupe: Whether identical lines are asked once; a directory keeps their answers.
    """
    if options.engine == "ray":
        from foundry_api.batch.ray_engine import RayEngine  # noqa: PLC0415 - few batches need it

        return RayEngine(
            address=options.ray_address,
            settings=session.settings,
            max_attempts=attempts,
            patience_s=patience_s,
            dedupe=bool(dedupe),
            on_notice=lambda message: click.echo(sanitize(message), err=True),
        )
    from foundry_api.batch.engine import LocalEngine  # noqa: PLC0415 - the other one is above

    return LocalEngine(session.client, max_attempts=attempts, patience_s=patience_s, dedupe=dedupe)
