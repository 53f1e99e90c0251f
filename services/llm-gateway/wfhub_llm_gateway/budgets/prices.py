"""Prices of models, from a data file: prices.yaml beside this, overridden by the operator's own.

    models:
      gpt-5-mini: {input: 0.25, output: 2.00, cached_input: 0.025}
      "llama-*":  {input: 0, output: 0}
      gemini-2.5-pro:
        {input: 1.25, output: 10, above: {200_000: {input: 2.5, output: 15}}}

Keys are names of models or patterns (`*`, `?`); an exact name counts before a pattern, the
operator's file before ours, a longer pattern before a shorter one. `cached_input` is `input` where
it is left out, `cache_write` too. `above` has what all of a request costs whose prompt has more
tokens than that, what came from a cache included. Figures are USD for a million tokens, with at
most 3 decimals.
Where a price was read may stand with it: `source`, a name from the file's `sources` (url, read: a
day), and `unconfirmed`, those of its figures that the source does not say in the provider's name.
Units: nano-USD for a token. Raises: PricesError, which names file and key.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

NUSD_PER_UNIT = 1000  # 1 USD for 10^6 tokens is 1000 nano-USD for one
PRICE_MAX = 1_000_000  # USD for a million tokens: beyond it is a mistake
FILE_BYTES_MAX = 4 * 1024 * 1024
OURS = Path(__file__).with_name("prices.yaml")
# What is reserved for a prompt that is estimated to be so near to the next price is that one.
ESTIMATE_SHARE = 0.75
_KEYS = ("input", "output", "cached_input", "cache_write")
ABOVE = "above"
_ABOUT = ("source", "unconfirmed")


class PricesError(Exception):
    """The file is no table of prices."""


@dataclass(frozen=True)
class Price:
    """`above`: (tokens, price) for longer prompts, the longest first."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    above: tuple[tuple[int, "Price"], ...] = ()

    def of_estimate(self, prompt: int) -> "Price":
        """The one price to reserve by, for a prompt that nobody has counted yet."""
        return self._of(lambda tokens: prompt > tokens * ESTIMATE_SHARE)

    def _of(self, is_above: Callable[[int], bool]) -> "Price":
        base = replace(self, above=()) if self.above else self
        return next((price for tokens, price in self.above if is_above(tokens)), base)

    def reserve(self, prompt: int, completion: int) -> int:
        """The most that it may cost: nobody knows yet what comes from a cache."""
        return prompt * max(self.input, self.cache_write) + completion * self.output

    def cost(self, prompt: int, completion: int, cached: int, cache_written: int) -> int:
        price = self._of(lambda tokens: prompt > tokens)
        cached = min(cached, prompt)
        written = min(cache_written, prompt - cached)
        fresh = prompt - cached - written
        return (
            fresh * price.input
            + cached * price.cached_input
            + written * price.cache_write
            + completion * price.output
        )


FREE = Price(0, 0, 0, 0)


@dataclass(frozen=True)
class Prices:
    tables: tuple[dict[str, Price], ...]  # the first that knows a model counts

    def of(self, model: str) -> Price | None:
        return _found(self, model)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=1024)
def _found(prices: Prices, model: str) -> Price | None:
    for table in prices.tables:
        if model in table:
            return table[model]
        for pattern in sorted(table, key=len, reverse=True):
            if fnmatchcase(model, pattern):
                return table[pattern]
    return None


def load(operators: Path | None = None) -> Prices:
    files = (OURS,) if operators is None else (operators, OURS)
    return Prices(tuple(_table(path) for path in files))


def _table(path: Path) -> dict[str, Price]:
    try:
        text = path.read_bytes()
        if len(text) > FILE_BYTES_MAX:
            raise PricesError(f"{path}: over {FILE_BYTES_MAX} bytes")
        value = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as e:
        raise PricesError(f"cannot read {path}: {e}") from e
    models = value.get("models") if isinstance(value, dict) else None
    if not isinstance(models, dict) or not set(value) <= {"models", "sources"}:
        raise PricesError(f"{path}: its keys are `models`, with a price for each, and `sources`")
    sources = value.get("sources", {})
    if not isinstance(sources, dict):
        raise PricesError(f"{path}: sources: names, each with `url` and `read`")
    return {
        str(name): _price(price, f"{path}: models.{name}", sources)
        for name, price in models.items()
    }


def _price(value: Any, where: str, sources: dict[str, Any]) -> Price:
    if not isinstance(value, dict) or not {"input", "output"} <= set(value):
        raise PricesError(f"{where}: a price has `input` and `output`")
    if value.get("source") is not None and value["source"] not in sources:
        raise PricesError(f"{where}.source: {value['source']!r} is not in the file's `sources`")
    above = _above(value.get(ABOVE, {}), f"{where}.{ABOVE}")
    value = {key: amount for key, amount in value.items() if key not in (*_ABOUT, ABOVE)}
    return replace(_rates(value, where, (*_KEYS, ABOVE)), above=above)


def _above(value: Any, where: str) -> tuple[tuple[int, Price], ...]:
    if not isinstance(value, dict):
        raise PricesError(f"{where}: lengths of prompts in tokens, each with its price")
    for tokens in value:
        if type(tokens) is not int or tokens < 1:
            raise PricesError(f"{where}: {tokens!r} is no number of tokens")
    found = {n: _rates(price, f"{where}.{n}", _KEYS) for n, price in value.items()}
    return tuple(sorted(found.items(), reverse=True))


def _rates(value: Any, where: str, known: tuple[str, ...]) -> Price:
    if not isinstance(value, dict) or not {"input", "output"} <= set(value):
        raise PricesError(f"{where}: a price has `input` and `output`")
    if unknown := sorted(set(map(str, value)) - set(_KEYS)):
        raise PricesError(f"{where}: unknown: {', '.join(unknown)}; there is {', '.join(known)}")
    given = {key: _nusd(amount, f"{where}.{key}") for key, amount in value.items()}
    fresh = given["input"]
    return Price(
        fresh, given["output"], given.get("cached_input", fresh), given.get("cache_write", fresh)
    )


def _nusd(amount: Any, where: str) -> int:
    try:
        nusd = Decimal(str(amount)) * NUSD_PER_UNIT
        plausible = not isinstance(amount, bool) and 0 <= nusd <= PRICE_MAX * NUSD_PER_UNIT
        if plausible and nusd == int(nusd):
            return int(nusd)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise PricesError(f"{where}: {amount!r} is not USD for a million tokens, with 3 decimals")
