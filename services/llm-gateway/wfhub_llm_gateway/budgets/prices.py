"""Prices of models, from a data file: prices.yaml beside this, overridden by the operator's own.

    models:
      gpt-5-mini: {input: 0.25, output: 2.00, cached_input: 0.025}
      "llama-*":  {input: 0, output: 0}

Keys are names of models or patterns (`*`, `?`); an exact name counts before a pattern, the
operator's file before ours, a longer pattern before a shorter one. `cached_input` is `input` where
it is left out, `cache_write` too. Figures are USD for a million tokens, with at most 3 decimals.
Where a price was read may stand with it: `source`, a name from the file's `sources` (url, read: a
day), and `unconfirmed`, those of its figures that the source does not say in the provider's name.
Units: nano-USD for a token. Raises: PricesError, which names file and key.
"""

from dataclasses import dataclass
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
_KEYS = ("input", "output", "cached_input", "cache_write")
_ABOUT = ("source", "unconfirmed")


class PricesError(Exception):
    """The file is no table of prices."""


@dataclass(frozen=True)
class Price:
    input: int
    output: int
    cached_input: int
    cache_write: int

    def reserve(self, prompt: int, completion: int) -> int:
        """The most that it may cost: nobody knows yet what comes from a cache."""
        return prompt * max(self.input, self.cache_write) + completion * self.output

    def cost(self, prompt: int, completion: int, cached: int, cache_written: int) -> int:
        cached = min(cached, prompt)
        written = min(cache_written, prompt - cached)
        fresh = prompt - cached - written
        return (
            fresh * self.input
            + cached * self.cached_input
            + written * self.cache_write
            + completion * self.output
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
    value = {key: amount for key, amount in value.items() if key not in _ABOUT}
    if unknown := sorted(set(map(str, value)) - set(_KEYS)):
        raise PricesError(f"{where}: unknown: {', '.join(unknown)}; there is {', '.join(_KEYS)}")
    given = {key: _nusd(amount, f"{where}.{key}") for key, amount in value.items()}
    return Price(**{key: given.get(key, given["input"]) for key in _KEYS})


def _nusd(amount: Any, where: str) -> int:
    try:
        nusd = Decimal(str(amount)) * NUSD_PER_UNIT
        plausible = not isinstance(amount, bool) and 0 <= nusd <= PRICE_MAX * NUSD_PER_UNIT
        if plausible and nusd == int(nusd):
            return int(nusd)
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise PricesError(f"{where}: {amount!r} is not USD for a million tokens, with 3 decimals")
