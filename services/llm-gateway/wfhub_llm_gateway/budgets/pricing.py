"""What asking costs here: the price table, and whose models cost nothing.

A model of a server of one's own has no price list: a provider that is `free` costs nothing,
whatever the model is called.
"""

from collections.abc import Collection
from dataclasses import dataclass

from wfhub_llm_gateway.budgets.prices import FREE, Price, Prices

FREE_PROVIDERS = ("ollama", "dmr", "replay")


@dataclass(frozen=True)
class Pricing:
    prices: Prices
    free: Collection[str] = FREE_PROVIDERS

    def of(self, provider: str, model: str) -> Price | None:
        """None: unknown."""
        return FREE if provider in self.free else self.prices.of(model)

    def highest(self, candidates: Collection[tuple[str, str]], prompt: int) -> Price | None:
        """Of (provider, model) that may answer a prompt of about so many tokens; None where one of
        them is unknown."""
        found = [self.of(provider, model) for provider, model in candidates]
        known = [price.of_estimate(prompt) for price in found if price is not None]
        if len(known) < len(found) or not known:
            return None
        return Price(
            input=max(price.input for price in known),
            output=max(price.output for price in known),
            cached_input=max(price.cached_input for price in known),
            cache_write=max(price.cache_write for price in known),
        )
