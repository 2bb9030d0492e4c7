"""`foundry-api serve`: run the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foundry_api.cli.errors import print_error
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import print_notice, sanitize_line, wrap_words
from foundry_api.cli.session import get_environment, make_log_handler, make_settings
from foundry_api.client.client import FoundryAPIClient
from foundry_api.gateway.config import PREFIX, gateway_variables, load_config
from foundry_api.gateway.errors import UnsafeAddress
from foundry_api.gateway.open_files import RESERVED_FILES, raise_max_open_files
from foundry_api.gateway.upstreams.config import make_services
from foundry_api.gateway.warm_up import WarmUp
from foundry_api.observe.log_limit import LogLimit
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ConfigurationError, FoundryError
from foundry_api.types.settings import find_misspelt_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.gateway import Gateway

__all__ = ["command"]

EXIT_UNSAFE = 78  # EX_CONFIG: systemd does not restart a service that ends with it


@click.command(
    "serve",
    epilog=format_examples(
        "serve  # serve this machine, without keys",
        "serve -m demo  # load a model now",
        "serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
        "serve --config gateway.toml --check",
    ),
)
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    help="Model to load now, and for requests that name none, alias or id.",
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on. [127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Port to listen on; 0 for any free one. [5270]",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with settings.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file of the certificate and its chain.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file of the private key.",
)
@click.option("--insecure-http", is_flag=True, help="Serve other machines without TLS.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time for running calls at the end. [60]",
)
@click.option("--check", is_flag=True, help="Check the configuration and exit.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    model: str | None,
    host: str | None,
    port: int | None,
    config_path: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure_http: bool,
    drain: float | None,
    check: bool,
) -> None:
    """Serve models to applications, with keys, limits and metrics.

    Speaks the HTTP APIs of OpenAI and Anthropic. Without keys, only this machine is served;
    `foundry-api keys create` makes one. docs/gateway.md lists all settings: each is a name in the
    TOML file and a variable, such as FOUNDRY_GATEWAY_PORT.
    """
    config = load_config(
        config_path,
        {
            "model": model,
            "host": host,
            "port": port,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "insecure_http": insecure_http or None,
            "drain_s": drain,
        },
        check_key_files=True,
    )
    for name, meant in find_misspelt_variables(os.environ, gateway_variables(), PREFIX).items():
        print_notice(sanitize_line(f"Warning: {name} is no setting; did you mean {meant}?"))
    settings = make_settings(
        common, base_urls=() if config.base_url is None else (config.base_url,)
    )
    raise_max_open_files(config.max_connections + RESERVED_FILES)
    if config.upstream:
        if common.base_url is not None:
            raise ConfigurationError(
                "--base-url and [[upstream]] are both given", hint="Give one of them."
            )
        # The file has all addresses and their keys, so those of the environment are not used.
        services = make_services(config.upstream)
        settings = replace(settings, base_url=None, base_urls=(), api_key=None, services=services)
    directory = config.directory or Paths.from_home(settings.home).gateway
    # No cache: by the time of an answer, one key could tell what another has asked.
    client = FoundryAPIClient(settings=replace(settings, cache="off"))
    run = _check if check else _serve
    try:
        with _log(common), asyncio.Runner(loop_factory=_find_loop_factory()) as runner:
            runner.run(run(client, config, directory))
    except UnsafeAddress as error:
        print_error(error)
        click.get_current_context().exit(EXIT_UNSAFE)


@contextlib.contextmanager
def _log(common: GlobalOptions) -> Generator[None]:
    """Log warnings to standard error, more with -v or FOUNDRY_LOG_LEVEL."""
    logger = logging.getLogger("foundry_api")
    handler = make_log_handler(common, get_environment(), default_level=logging.WARNING)
    handler.addFilter(LogLimit())  # every client can cause warnings, such as by an unknown model
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where it is installed; None for that of asyncio."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _check(client: FoundryAPIClient, config: GatewayConfig, directory: Path) -> None:
    async with client:
        gateway = await _make_gateway(config, client, directory)
        async with contextlib.aclosing(gateway):
            await gateway.check()
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    used = "" if loop == "asyncio" else f" The event loop is that of {loop}."
    click.echo(f"The configuration is valid.{used}")


async def _serve(client: FoundryAPIClient, config: GatewayConfig, directory: Path) -> None:
    signals: asyncio.Queue[str] = asyncio.Queue()
    # Until everything is closed: a signal too many must not lose what the keys have used.
    with _catch_signals(signals):
        async with client, AsyncExitStack() as stack:
            # The engine starts in its own process while this one imports the gateway.
            warm_up = WarmUp(client, config.model)
            stack.push_async_callback(warm_up.cancel)
            warm_up.start()
            gateway = await _make_gateway(config, client, directory, warm_up)
            stack.push_async_callback(gateway.aclose)
            await gateway.start()
            # What is there now stays to the end. A collection that looked at all of it would stop
            # the streams for 25 ms.
            gc.freeze()
            access = "" if gateway.context.keyring.keys else " without keys, to this machine only"
            address = f"Serving at {gateway.url}/v1{access}."
            line = f"{address} Its page is at {gateway.url}. Stop with Ctrl-C."
            click.echo(wrap_words(line, sys.stdout))
            await _reload_until_stop(gateway, signals)
            await warm_up.cancel()
            click.echo("Stopping; running calls may finish. A second Ctrl-C ends them.")
            await _drain(gateway, signals, config.drain_s)


async def _make_gateway(
    config: GatewayConfig,
    client: FoundryAPIClient,
    directory: Path,
    warm_up: WarmUp | None = None,
) -> Gateway:
    gc.disable()  # an import makes no garbage, and looking for some takes a tenth of it
    try:
        # In a thread, so that the event loop starts the engine meanwhile.
        module = await asyncio.to_thread(importlib.import_module, "foundry_api.gateway.gateway")
    finally:
        gc.enable()
    make: type[Gateway] = module.Gateway
    return make(config, client, directory, warm_up=warm_up)


async def _reload_until_stop(gateway: Gateway, signals: asyncio.Queue[str]) -> None:
    while await signals.get() == "reload":
        result = "ok"
        try:
            await gateway.reload()
        except FoundryError as error:
            result = type(error).__name__
            print_error(error)
        else:
            click.echo("Reloaded keys and TLS files.")
        gateway.context.audit.record("reload", result, target="SIGHUP")


async def _drain(gateway: Gateway, signals: asyncio.Queue[str], limit_s: float) -> None:
    """Wait for running calls, until a time limit or a second signal to stop."""

    async def wait_for_stop() -> None:
        while await signals.get() != "stop":
            pass

    drain = asyncio.ensure_future(gateway.drain(limit_s))
    second = asyncio.ensure_future(wait_for_stop())
    await asyncio.wait({drain, second}, return_when=asyncio.FIRST_COMPLETED)
    is_drained = drain.done()
    for task in (drain, second):
        task.cancel()
    await asyncio.gather(drain, second, return_exceptions=True)
    if not is_drained:
        await gateway.drain(0)


@contextlib.contextmanager
def _catch_signals(signals: asyncio.Queue[str]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    previous: dict[int, Any] = {}

    def stop(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(signals.put_nowait, "stop")

    def reload(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(signals.put_nowait, "reload")

    handlers = {"SIGINT": stop, "SIGTERM": stop, "SIGBREAK": stop, "SIGHUP": reload}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None:
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
