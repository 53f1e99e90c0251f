"""About tokens and model use: asked by the gateway, and asked of it."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from wfhub_common.messages.base import Command, Fact, Name
from wfhub_common.messages.budgets import SpendingLimit

TokenDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
INTROSPECTED_MAX = 250  # in one message: answers of up to 2 KiB each fit RPC_BYTES_MAX


class Introspect(Command):
    """Asked by the gateway: whose token is this, and until when? (RFC 7662 in spirit.)"""

    token_sha256: TokenDigest


class IntrospectMany(Command):
    """The same of all tokens that are in use, so that no request need wait for it."""

    token_sha256s: tuple[TokenDigest, ...] = Field(min_length=1, max_length=INTROSPECTED_MAX)


class TokenInfo(Fact):
    active: bool
    attempt_id: str = ""
    task_id: str = ""
    project_id: str = ""
    models: tuple[str, ...] | None = None  # None: any the gateway serves
    budget_tokens: int | None = None  # as in `limits`, for the attempt
    project: str = ""  # its name
    limits: tuple[SpendingLimit, ...] = ()
    cassette_mode: str = ""  # record, replay
    cassette: str = ""  # its name, in the project
    valid_until: datetime | None = None
    # The same as the database's clock counts it, when it was asked: two machines' clocks differ.
    # None from a scheduler of before: then `valid_until` is what there is.
    valid_for_s: float | None = None


class TokenInfos(Fact):
    """In the order they were asked about."""

    tokens: tuple[TokenInfo, ...]


class AttemptEnded(Fact):
    """Hint to the gateway: the attempt's token is dead from now on."""

    attempt_id: str


class AttemptsEnded(Fact):
    """The same hint of several, which ended in one transaction."""

    attempt_ids: tuple[str, ...]


class ExchangesOf(Command):
    attempt_id: Name


class Exchange(Fact):
    """One request to a model as the gateway recorded it."""

    seq: int
    provider: str
    model: str
    replayed: bool
    status: int  # HTTP status given to the agent
    request_digest: str
    response_digest: str
    prompt_tokens: int
    completion_tokens: int
    started_at: str
    duration_ms: int
    note: str = ""  # e.g. that a replayed cassette was written by hand
    cached_tokens: int = 0  # of the prompt, as the provider said
    nusd: int = 0  # what it cost by the gateway's prices, 10^-9 USD; 0 also where they have none
    first_byte_ms: int = -1  # -1: none came
    # exchange_chain.py says what these are; a link of 0 is in no chain.
    link: int = 0
    record_digest: str = ""


class Exchanges(Fact):
    """`chain_digest` is the end of their chain, as exchange_chain.py has it."""

    attempt_id: str
    exchanges: tuple[Exchange, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nusd: int = 0
    chain_digest: str = ""


class UsageOf(Command):
    task_id: Name


class Usage(Fact):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    nusd: int = 0
