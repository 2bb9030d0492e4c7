"""The options of the batch commands: the input, and the engine that runs it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from foundry_api.batch.request_body import parse_members
from foundry_api.batch.types import InputOptions
from foundry_api.cli.options import apply_options
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
    "add_engine_options",
    "add_input_options",
    "make_engine",
    "make_session",
]


_F = TypeVar("_F", bound="Callable[..., Any]")


class DurationParam(click.ParamType[float]):
    """A duration such as `90s`, `10m` or `2h`, converted to seconds."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        del ctx
        name = param.opts[0] if param is not None else "the time"
        return parse_duration(value, name) if isinstance(value, str) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The engine that runs the requests, and its limits. None for the default of the batch."""

    engine: Literal["local", "ray"]
    ray_address: str | None  # None starts a cluster of this machine alone
    base_urls: tuple[str, ...]
    concurrency: int | None  # per service; None searches for the best one
    max_attempts: int | None
    patience_s: float | None
    timeout_s: float | None
    deadline_s: float | None
    yes: bool  # download a missing model without asking


_INPUT = (
    click.argument("path", type=click.Path(), metavar="INPUT"),
    click.option(
        "--format",
        type=click.Choice(["auto", "openai", "text", "csv", "parquet"]),
        default="auto",
        help="Input format. [from the suffix: .jsonl, .json, .txt, .csv, .parquet, or with .gz]",
    ),
    click.option("--column", metavar="NAME", help="Prompt column of CSV and Parquet. [prompt]"),
    click.option(
        "--template",
        metavar="TEXT",
        help="Prompt template, with {column} for each column; {line} for plain text.",
    ),
    click.option("-s", "--system", metavar="TEXT", help="System message of each prompt."),
    click.option(
        "-m",
        "--model",
        metavar="NAME",
        help="Model of lines without one. [FOUNDRY_MODEL, else phi-4-mini]",
    ),
    click.option(
        "--set",
        "members",
        multiple=True,
        metavar="NAME=VALUE",
        help="Default request parameter, such as max_tokens=200; repeatable.",
    ),
)

_ENGINE = (
    click.option(
        "--base-urls",
        metavar="URL,URL",
        help="Distribute the lines over several services. [FOUNDRY_BASE_URLS]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="local: this process. ray: a Ray cluster, with an engine on each node.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster; auto finds a local one. [RAY_ADDRESS, else one is started]",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Concurrent requests per service. [adapted automatically]",
    ),
    click.option(
        "--attempts",
        type=click.IntRange(min=1),
        metavar="N",
        help="Attempts per line before it counts as failed. [3]",
    ),
    click.option(
        "--patience",
        type=DurationParam(),
        help="Give up after all services were unavailable for this long. [10m]",
    ),
    click.option(
        "--timeout",
        type=float,
        help="Seconds to wait for the next token. [FOUNDRY_TIMEOUT, else 30]",
    ),
    click.option("--deadline", type=float, help="Seconds for each answer. [FOUNDRY_DEADLINE]"),
    click.option("-y", "--yes", is_flag=True, help="Download a missing model without asking."),
)


def add_input_options(command: _F) -> _F:
    """Add the options of the input, which are passed as one argument `input_options`."""

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
        options = InputOptions(
            path=path,
            format=format,
            column=column,
            template=template,
            system=system,
            model=model,
            members=parse_members(members),
        )
        return command(*arguments, input_options=options, **rest)

    return apply_options(_INPUT, cast("_F", wrapper))


def add_engine_options(command: _F) -> _F:
    """Add the options of the engine, which are passed as one argument `engine_options`."""

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
        urls = tuple(url.strip() for url in (base_urls or "").split(",") if url.strip())
        if base_urls is not None and not urls:
            raise click.UsageError("--base-urls is empty: give URLs separated by commas.")
        if engine == "local" and ray_address is not None:
            raise click.UsageError("--ray-address requires --engine ray.")
        if engine == "ray" and concurrency is not None:
            raise click.UsageError("--concurrency requires --engine local.")
        options = EngineOptions(
            engine=engine,
            ray_address=ray_address,
            base_urls=urls,
            concurrency=concurrency,
            max_attempts=attempts,
            patience_s=patience,
            timeout_s=timeout,
            deadline_s=deadline,
            yes=yes,
        )
        return command(*arguments, engine_options=options, **rest)

    return apply_options(_ENGINE, cast("_F", wrapper))


def make_session(
    common: GlobalOptions, options: EngineOptions, *, model: str | None = None
) -> Session:
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
    max_attempts: int,
    patience_s: float,
    dedupe: bool | Path = False,
) -> BatchEngine:
    """Make the engine; a directory as `dedupe` is where answers of identical lines are stored."""
    if options.engine == "ray":
        from foundry_api.batch.ray_engine import RayEngine  # noqa: PLC0415 - few batches need it

        return RayEngine(
            address=options.ray_address,
            settings=session.settings,
            max_attempts=max_attempts,
            patience_s=patience_s,
            dedupe=bool(dedupe),
            on_notice=lambda message: click.echo(sanitize(message), err=True),
        )
    from foundry_api.batch.engine import LocalEngine  # noqa: PLC0415 - as above

    return LocalEngine(
        session.client, max_attempts=max_attempts, patience_s=patience_s, dedupe=dedupe
    )
