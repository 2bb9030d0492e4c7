"""Concurrent calls to the real engine: the adaptive limiter and every fixed concurrency, in turn.

python3 dev.py bench burst                           # 512 calls to the demo model, five rounds
python3 dev.py bench burst --busy 0.5 --rounds 3 --samples FILE     # one piece of a longer run
python3 dev.py bench burst --model DIRECTORY --calls 48 --tokens 32 --fixed 1,2,4 --best 2

The adaptive limiter runs between two bursts at the concurrency that is known to be the best, and is
compared with both. How much these two differ shows the noise of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parts.results import save_figures

from foundry_api import FoundryAPIClient
from foundry_api.resilience.limiter import LimiterSettings

if TYPE_CHECKING:
    from collections.abc import Generator

CALLS = 512
TOKENS = 16
ROUNDS = 5
FIXED = (1, 2, 4, 8, 16, 32)
BEST = 4
AFTERWARDS = "the same"  # the best fixed concurrency, after the adaptive limiter
ALIAS = "bench-burst"
BURNER = """
import sys, time
share, period_s = float(sys.argv[1]), 0.1
while True:
    end = time.perf_counter() + share * period_s
    while time.perf_counter() < end:
        pass
    time.sleep((1 - share) * period_s)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst.

    Attributes:
        tokens_per_s: Of all calls together.
        limit: The limit at the end.
        first_token_s: Median time to first token, from the end of the queue on.
    """

    tokens_per_s: float
    limit: int
    first_token_s: float


@contextmanager
def burn(share: float) -> Generator[None]:
    """Use a share of one CPU in another process."""
    if not share:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BURNER, str(share)]) as process:
        try:
            yield
        finally:
            process.kill()


async def measure(base_url: str, limits: LimiterSettings, options: argparse.Namespace) -> Sample:
    async with FoundryAPIClient(
        base_url, model=options.alias, timeout=300, limiter=limits
    ) as client:
        await client.complete("Hello", max_tokens=2)
        started_at = time.perf_counter()
        answers = await asyncio.gather(
            *(
                client.complete(f"Tell me fact {n}.", max_tokens=options.tokens)
                for n in range(options.calls)
            )
        )
        elapsed_s = time.perf_counter() - started_at
        first_tokens = [
            answer.timings.time_to_first_token_s
            for answer in answers
            if answer.timings.time_to_first_token_s is not None
        ]
        return Sample(
            sum(answer.usage.completion_tokens for answer in answers) / elapsed_s,
            client.limiter.limit,
            statistics.median(first_tokens),
        )


async def run_rounds(options: argparse.Namespace) -> dict[str, list[Sample]]:
    # Configurations take turns, so that all see the same machine. The adaptive one is between two
    # samples of the fixed concurrency that is usually the best.
    configurations = {
        f"fixed at {n}": LimiterSettings(concurrency=n, maximum=options.calls)
        for n in (*options.fixed, options.calls)
    }
    best = f"fixed at {options.best}"
    order = [*(name for name in configurations if name != best), best, "adaptive", AFTERWARDS]
    configurations["adaptive"] = LimiterSettings()
    configurations[AFTERWARDS] = configurations[best]
    samples: dict[str, list[Sample]] = {name: [] for name in order}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        async with FoundryAPIClient(service="embedded", home=Path(home)) as own:
            if options.model is not None:
                await own.models.register(options.model.resolve(), options.alias)
            service = (await own.complete("Hello", model=options.alias, max_tokens=2)).service
            with burn(options.busy):
                for _ in range(options.rounds):
                    for name in order:
                        sample = await measure(service, configurations[name], options)
                        samples[name].append(sample)
                        print(
                            f"{name:14} {sample.tokens_per_s:8.0f} tokens/s, limit {sample.limit}"
                            f", {1000 * sample.first_token_s:.0f} ms",
                            flush=True,
                        )
    return samples


def add_samples(path: Path | None, samples: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Return the samples with those in the file, and write all of them to it."""
    if path is None:
        return samples
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        samples = {
            name: [*(Sample(**sample) for sample in earlier[name]), *added]
            for name, added in samples.items()
        }
    stored = {name: [asdict(sample) for sample in many] for name, many in samples.items()}
    path.write_text(json.dumps(stored), encoding="utf-8")
    return samples


def get_figures(samples: dict[str, list[Sample]], options: argparse.Namespace) -> dict[str, float]:
    rates = {
        name: statistics.median(sample.tokens_per_s for sample in many)
        for name, many in samples.items()
    }
    best = f"fixed at {options.best}"
    rounds = list(zip(samples[best], samples["adaptive"], samples[AFTERWARDS], strict=True))
    ratios = [
        2 * adaptive.tokens_per_s / (before.tokens_per_s + after.tokens_per_s)
        for before, adaptive, after in rounds
    ]
    controls = [after.tokens_per_s / before.tokens_per_s for before, _, after in rounds]
    limits = [sample.limit for sample in samples["adaptive"]]
    return {
        **{f"tokens/s, {name}": rate for name, rate in rates.items() if name != AFTERWARDS},
        "rounds": len(rounds),
        f"adaptive / {best}, median": statistics.median(ratios),
        f"adaptive / {best}, least": min(ratios),
        f"{best} / itself, least": min(*controls, *(1 / ratio for ratio in controls)),
        "adaptive / best fixed": rates["adaptive"]
        / max(rate for name, rate in rates.items() if name.startswith("fixed")),
        "gather / best fixed": rates[f"fixed at {options.calls}"]
        / max(rate for name, rate in rates.items() if name.startswith("fixed")),
        "limit at the end, median": statistics.median(limits),
        "limit at the end, highest": max(limits),
        **{
            f"ms to first token, {name}": 1000
            * statistics.median(sample.first_token_s for sample in samples[name])
            for name in (best, "adaptive", f"fixed at {options.calls}")
        },
    }


def get_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench burst")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--busy", type=float, default=0.0, help="share of a CPU to burn")
    parser.add_argument("--model", type=Path, help="directory of a model (default: demo)")
    parser.add_argument("--fixed", default=",".join(map(str, FIXED)), help="concurrencies")
    parser.add_argument("--best", type=int, default=BEST, help="the best one of these")
    parser.add_argument("--samples", type=Path, help="file with the samples of earlier pieces")
    options = parser.parse_args()
    options.fixed = [int(number) for number in options.fixed.split(",")]
    options.alias = "demo" if options.model is None else ALIAS
    return options


def main() -> None:
    options = get_options()
    samples = add_samples(options.samples, asyncio.run(run_rounds(options)))
    state = f"-busy-{options.busy:g}" if options.busy else ""
    model = "" if options.model is None else f"-{options.model.name}"
    save_figures(f"burst{model}{state}", get_figures(samples, options))


if __name__ == "__main__":
    main()
