"""A bare pass-through: `python passthrough.py PORT UPSTREAM_URL`. uvicorn and httpx, as the gateway
has them, and nothing between: no token, no row, no budget, no record.
"""

import sys
from typing import Any

import httpx
import uvicorn

CLIENT = httpx.AsyncClient(
    timeout=None,
    limits=httpx.Limits(max_connections=4000, max_keepalive_connections=400),
    trust_env=False,
)
UPSTREAM = sys.argv[2] if len(sys.argv) > 2 else ""


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    request = CLIENT.build_request(
        scope["method"],
        UPSTREAM + scope["path"],
        content=body,
        headers={"content-type": "application/json"},
    )
    response = await CLIENT.send(request, stream=True)
    try:
        kind = response.headers.get("content-type", "").encode()
        headers = [(b"content-type", kind)]
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await response.aclose()


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="critical",
        access_log=False,
        lifespan="off",
        backlog=4096,
    )
