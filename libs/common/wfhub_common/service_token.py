"""Whether the proof-store takes our SERVICE_TOKEN, and as ours, asked at a service's start.

It answers whose a token is in a header; one of a version that does not is believed.
As with all that is there and cannot be used (starting.py): a refusal is waited for START_WAIT_S,
since somebody may be at it, and is then the end. A proof-store that does not answer is no reason
not to start. Once it has said yes nobody asks again.
Units: seconds.
"""

import asyncio
import time
from typing import Any

import httpx

from wfhub_common.httpauth import SENDER_HEADER
from wfhub_common.log import get_logger
from wfhub_common.service import Stop

ANSWER_S_MAX = 10.0
RETRY_S = (0.5, 10.0)  # first and longest wait between two looks
ASKED = "/public-key"  # whoever has a token may read it

log = get_logger(__name__)


async def insist(
    proofs_url: str,
    token: str,
    stop: Stop,
    *,
    sender: str,
    start_wait_s: float,
    wait_for_it: bool = True,
) -> None:
    """`sender`: who we are to the proof-store. Returns when the token is taken as ours, when `stop`
    is set, for that or another reason, or, unless `wait_for_it`, when nobody answers."""
    ends_at = 0.0
    pause_s = RETRY_S[0]
    async with httpx.AsyncClient(base_url=proofs_url, trust_env=False) as http:
        while not stop.event.is_set():
            try:
                why = refusal(await http.get(ASKED, **_asking(token)), sender)
            except httpx.HTTPError:
                if not wait_for_it:
                    return
            else:
                if not why:
                    return
                ends_at = ends_at or time.monotonic() + start_wait_s
                if time.monotonic() >= ends_at:
                    stop.fatally(why)
                    return
                log.warning("waiting for the proof-store", why=why)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S[1])


def asked(proofs_url: str, token: str, sender: str) -> str:
    """What is wrong, or nothing, by one look; `sender` empty: anybody. Raises: httpx.HTTPError."""
    with httpx.Client(base_url=proofs_url, trust_env=False) as http:
        return refusal(http.get(ASKED, **_asking(token)), sender)


def refusal(answer: httpx.Response, sender: str) -> str:
    """What is wrong, or nothing. What else the proof-store answers says nothing of the token."""
    taken_for = answer.headers.get(SENDER_HEADER, "")
    if sender and taken_for not in ("", sender):
        return (
            f"bad settings: SERVICE_TOKEN: it is the one of {taken_for}, and this is {sender}:"
            " give each service what `wfhub-admin secrets` made for it"
        )
    if answer.status_code not in (401, 403):
        return ""
    return (
        "bad settings: SERVICE_TOKEN: the proof-store at PROOFS_URL refuses it: give this service"
        " what `wfhub-admin secrets` made for it, and restart the proof-store when its"
        " SERVICE_TOKENS_FILE was changed"
    )


def _asking(token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return {"headers": headers, "timeout": ANSWER_S_MAX}
