"""Tokens: made, listed and revoked by the bootstrap token alone: no other one makes more of it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from wfhub_api import tokens
from wfhub_api.hub import Admin, HubDep
from wfhub_api.openapi import errors
from wfhub_api.shapes import Shape

TokenId = Annotated[str, Path(pattern=r"^tok_[0-9a-f]{16}$")]

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])


class NewToken(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1,
        max_length=tokens.NAME_CHARS_MAX,
        pattern=tokens.NAME,
        description="what reviews, schedules and the log call who has it",
    )


class Token(Shape):
    token_id: str
    name: str
    created_at: datetime


class TokenWithSecret(Shape):
    token_id: str
    name: str
    token: str = Field(description="shown this once")


class TokenList(Shape):
    tokens: list[Token]


@router.post(
    "", status_code=201, summary="Make a token for somebody", responses=errors(403, 409, 413)
)
async def create_token(hub: HubDep, _admin: Admin, body: NewToken) -> TokenWithSecret:
    token_id, token = await tokens.create(hub.engine, body.name)
    return TokenWithSecret(token_id=token_id, name=body.name, token=token)


@router.get("", summary="List live tokens, oldest first", responses=errors(403))
async def list_tokens(hub: HubDep, _admin: Admin) -> TokenList:
    live = [row for row in await tokens.every(hub.engine) if row.revoked_at is None]
    return TokenList(
        tokens=[
            Token(token_id=row.token_id, name=row.name, created_at=row.created_at) for row in live
        ]
    )


@router.delete("/{token_id}", status_code=204, summary="Revoke a token", responses=errors(403, 404))
async def revoke_token(hub: HubDep, _admin: Admin, token_id: TokenId) -> None:
    await tokens.revoke(hub.engine, token_id)
