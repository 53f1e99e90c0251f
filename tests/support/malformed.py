"""Test support: messages that nobody should have sent, and proof that they changed nothing."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

SLOW = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
HUGE = 900 * 1024  # bytes; below the broker's max_payload
NASTY = (
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "x" * 5000,
    "'; DROP TABLE x; --",
    "",
)

# As text of JSON: a lone surrogate stays an escape, which Python could not encode.
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec=None), max_size=20))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
_GARBAGE = (
    b"",
    b"\x00",
    b"null",
    b"[]",
    b"{",
    b"{}}",
    b'{"a":',
    b"\xff\xfe{}",
    b'"\xed\xa0\x80"',
    b'{"attempt_id":NaN}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'"' + b"x" * HUGE + b'"',
    b'{"' + b"k" * HUGE + b'":1}',
    b"[" + b"0," * (HUGE // 2) + b"0]",
    b"9" * 10_000,
)


def refused_by(request_type: type[BaseModel]) -> st.SearchStrategy[bytes]:
    """Bodies that are no such message: garbage, other shapes, and its own fields gone wrong."""
    fields = st.fixed_dictionaries(
        {}, optional=dict.fromkeys((*request_type.model_fields, "more"), values)
    )
    shapes = st.one_of(values, fields).map(lambda value: json.dumps(value).encode())
    bodies = st.one_of(st.sampled_from(_GARBAGE), st.binary(max_size=200), shapes)
    return bodies.filter(lambda body: not _is(request_type, body))


def _is(request_type: type[BaseModel], body: bytes) -> bool:
    try:
        request_type.model_validate_json(body)
    except ValidationError:
        return False
    return True


async def digest(pg: asyncpg.Connection, schema: str, *, but: tuple[str, ...] = ()) -> str:
    """Of every row of every table; it changes when anything does."""
    tables = await pg.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'"
        " AND relname <> ALL($2::text[]) ORDER BY relname",
        schema,
        list(but),
    )
    found = hashlib.sha256()
    for (table,) in tables:
        rows = await pg.fetch(f"SELECT t::text AS row FROM {schema}.{table} t ORDER BY 1")
        found.update(json.dumps([table, [row["row"] for row in rows]]).encode())
    return found.hexdigest()


async def unchanged(
    pg: asyncpg.Connection, schema: str, send: Callable[[], Awaitable[Any]]
) -> None:
    before = await digest(pg, schema)
    await send()
    assert await digest(pg, schema) == before
