"""Asking a provider in a format that it speaks, and answering in the client's own.

The same format passes byte for byte. `asking` is what everything that has a provider to ask
should use in place of `provider.ask`.
Raises: Rejected (`unsupported`, 400), before anything was sent; what Provider.ask raises.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, unsupported
from wfhub_llm_gateway.provider import Answer, Provider


@asynccontextmanager
async def asking(provider: Provider, asked: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
    if asked.format in provider.speaks:
        async with provider.ask(asked, attempt_id=attempt_id) as answer:
            yield answer
        return
    if asked.operation == "count":
        yield _estimated(asked)
        return
    raise unsupported(
        f"the provider {provider.name!r} does not speak this format ({asked.format}); "
        f"it speaks: {', '.join(provider.speaks)}"
    )


def _estimated(asked: Asked) -> Answer:
    """Nobody is asked: a provider of another format counts in no way that the client knows."""
    value = BY_NAME[asked.format].count_value(asked.prompt_estimate)
    return Answer(status=200, stream=False, chunks=_once(json.dumps(value).encode()))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
