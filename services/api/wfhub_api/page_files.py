"""The web page: the files of the folder page/, read once, and nothing else.

They hold no data and need no token: what the page shows, it asks of the REST API with the token
that its user gives it. It routes by the part of the address behind `#`, which no server sees, so
`/` and `/page/<file>` are all addresses there are; one that is not in the table is not served,
whatever it says. Browsers keep the files and ask each time whether they are the same (ETag).
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Scripts, styles and answers from here only. Trusted types: a text that is to become markup is
    # an error, wherever in the page that may be said.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    content: bytes
    media_type: str
    etag: str


def read(folder: Path = FOLDER) -> dict[str, PageFile]:
    """By the path that it is served at."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _TYPES or not path.is_file():
            continue
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        address = "/" if path.name == INDEX else f"/page/{path.name}"
        found[address] = PageFile(content, _TYPES[path.suffix], etag)
    return found


def routes(files: dict[str, PageFile]) -> list[Route]:
    """One each, called `page`, outside of the OpenAPI document."""
    return [
        Route(address, partial(_answer, file), methods=["GET"], name="page")
        for address, file in files.items()
    ]


async def _answer(file: PageFile, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _has(if_none_match: str, etag: str) -> bool:
    """Compared weakly, as RFC 9110 says for this header: a proxy may have made it weak."""
    return etag in (each.strip().removeprefix("W/") for each in if_none_match.split(","))
