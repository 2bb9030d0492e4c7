"""`foundry-api batch plan`: estimate a batch from a sample."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.batch.plan import make_plan
from foundry_api.batch.sources import open_seekable
from foundry_api.batch.types import STANDARD_STREAM, BatchOptions
from foundry_api.cli.batch.options import (
    DurationParam,
    add_engine_options,
    add_input_options,
    make_engine,
    make_session,
)
from foundry_api.cli.batch.progress import show_progress
from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import print_fields, print_json, print_table
from foundry_api.cli.session import make_settings
from foundry_api.observe.format import format_count, format_duration, format_int, format_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.batch.plan import BatchPlan
    from foundry_api.batch.sampling import Estimate
    from foundry_api.batch.types import InputOptions
    from foundry_api.cli.batch.options import EngineOptions

__all__ = ["command"]

SAMPLE_SIZE = 100
SMALL_SAMPLE = 20  # with fewer lines, the confidence interval means little


@click.command(
    "plan",
    epilog=format_examples(
        "batch plan prompts.jsonl",
        "batch plan prompts.jsonl --within 2h  # how many machines?",
        "batch plan prompts.jsonl --sample 200 --json",
    ),
)
@add_input_options
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=SAMPLE_SIZE,
    show_default=True,
    metavar="N",
    help="Number of lines to run, drawn at random.",
)
@click.option(
    "--within",
    type=DurationParam(),
    help="Estimate the number of machines for this duration, such as 2h.",
)
@add_engine_options
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    input_options: InputOptions,
    sample: int,
    within: float | None,
    engine_options: EngineOptions,
) -> None:
    """Estimate duration, tokens and machines of a batch.

    Runs a sample of the lines on the service. Their answers are not stored.
    """
    input_options = msgspec.structs.replace(
        input_options, model=make_settings(common, model=input_options.model).model
    )
    defaults = BatchOptions(input=input_options, output=STANDARD_STREAM)
    with (
        open_seekable(input_options) as source,
        make_session(common, engine_options, model=input_options.model) as session,
    ):
        engine = make_engine(
            session,
            engine_options,
            max_attempts=engine_options.max_attempts or defaults.max_attempts,
            patience_s=engine_options.patience_s or defaults.patience_s,
        )

        async def run() -> BatchPlan:
            with show_progress(f"Sampling {input_options.path}", common) as show:
                random = Random()  # noqa: S311 - the choice of lines need not be secure
                return await make_plan(
                    source, engine, sample=sample, random=random, on_progress=show
                )

        plan = retry_after_download(session, run, yes=engine_options.yes, ask=not common.as_json)
    if common.as_json:
        print_json(_to_json(plan, within))
    else:
        _print_plan(source.name, plan, within)


def _to_json(plan: BatchPlan, within: float | None) -> dict[str, Any]:
    machines = (
        {} if within is None else {"within_s": within, "machines": plan.count_machines(within)}
    )
    return {
        "total": plan.total,
        "bad": plan.bad,
        "sampled": plan.sampled,
        "failed": plan.failed,
        "seconds": plan.seconds,
        "prompt_tokens": plan.prompt_tokens,
        "completion_tokens": plan.completion_tokens,
        "lines_per_s": plan.lines_per_s,
        "tokens_per_s": plan.tokens_per_s,
        "warm_up_s": plan.warmup_s,
        "concurrency": plan.concurrency,
        "models": plan.models,
        **machines,
    }


def _print_plan(name: str, plan: BatchPlan, within: float | None) -> None:
    speed = f"{format_rate(plan.lines_per_s)} lines/s, {format_rate(plan.tokens_per_s)} tokens/s"
    bad = f", {format_count(plan.bad, 'bad line')}" if plan.bad else ""
    failed = f", {format_int(plan.failed)} failed" if plan.failed else ""
    print_fields(
        name,
        "",
        [
            ("lines", f"{format_int(plan.total)}{bad}"),
            ("sample", f"{format_count(plan.sampled, 'line')} measured{failed}"),
            ("time", _format_range(plan.seconds, format_duration)),
            ("speed", f"{speed}, {plan.concurrency:.1f} concurrent"),
            ("warm-up", format_duration(plan.warmup_s)),
            ("prompts", f"{_format_range(plan.prompt_tokens, format_int)} tokens"),
            ("answers", f"{_format_range(plan.completion_tokens, format_int)} tokens"),
            ("machines", "" if within is None else _format_machines(plan, within)),
        ],
    )
    if len(plan.models) > 1:
        rows = [
            [
                model_plan.model,
                format_int(model_plan.lines),
                format_duration(model_plan.lines * model_plan.seconds_per_line),
                format_rate(model_plan.completion_tokens),
            ]
            for model_plan in plan.models
        ]
        print_table(["MODEL", "LINES", "TIME", "TOKENS/LINE"], rows)
    if plan.sampled < min(SMALL_SAMPLE, plan.total):
        click.echo("The sample is small; use a larger --sample for a better estimate.")


def _format_range(estimate: Estimate, format_value: Callable[[float], str]) -> str:
    likely, low, high = map(format_value, (estimate.likely, estimate.low, estimate.high))
    return likely if low == high else f"{likely} ({low} to {high})"


def _format_machines(plan: BatchPlan, within: float) -> str:
    count = plan.count_machines(within)
    if count is None:
        return (
            f"{format_duration(within)} is not enough: "
            f"the warm-up alone takes {format_duration(plan.warmup_s)}"
        )
    machines = "this one is" if count == 1 else f"{format_int(count)} like this one are"
    return f"{machines} enough for {format_duration(within)}, even at the upper end"
