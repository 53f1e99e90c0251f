"""Base URLs of model servers, in the spellings that people have them.

given                                         | used
http://host:8000, http://host:8000/           | http://host:8000/v1
http://host:8000/v1, …/v1/                    | http://host:8000/v1
http://host:12434/engines/llama.cpp           | http://host:12434/engines/llama.cpp/v1
http://host:12434/engines/llama.cpp/v1        | the same
https://host/v1beta/openai                    | the same: a version is in the path already
http://host:8000/v1/chat/completions          | http://host:8000/v1
https://host (of Gemini)                      | https://host/v1beta

OLLAMA_HOST may lack scheme and port, and may be the address that the server listens on (0.0.0.0).
Raises: ValueError for what is not an http(s) URL with a host.
"""

import re
from urllib.parse import urlsplit

OLLAMA_PORT = 11434
DMR_BASE_URL = "http://localhost:12434/engines/llama.cpp/v1"  # Docker Model Runner on its host
OPENAI_BASE_URL = "https://api.openai.com/v1"
ANTHROPIC_BASE_URL = "https://api.anthropic.com/v1"
GEMINI_BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
NEED_A_KEY = (OPENAI_BASE_URL, ANTHROPIC_BASE_URL, GEMINI_BASE_URL)

_VERSION = re.compile(r"v\d+[a-z0-9]*\Z")


def base(url: str, version: str = "v1") -> str:
    """`url` without a trailing slash, ending where `/chat/completions` can be appended."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(url)!r} is not a URL like http://host:port/v1")
    if re.search(r"\s", parts.netloc + parts.path) or parts.port == 0:  # looking raises for others
        raise ValueError(f"{shown(url)!r} is not a URL: it has white space, or no port")
    if parts.query or parts.fragment:
        raise ValueError(f"{shown(url)!r} must not have a query or a fragment")
    path = parts.path.rstrip("/")
    for endpoint in ("/chat/completions", "/responses", "/messages"):
        path = path.removesuffix(endpoint)
    if not any(_VERSION.match(segment) for segment in path.split("/")):
        path += f"/{version}"
    return f"{parts.scheme}://{parts.netloc}{path}"


def ollama(host: str) -> str:
    """The base URL for a value of OLLAMA_HOST ("" is its default)."""
    with_scheme = host.strip() or "127.0.0.1"
    if "://" not in with_scheme:
        with_scheme = f"http://{with_scheme}"
        parts = urlsplit(with_scheme)
        if parts.port is None:
            with_scheme = f"http://{parts.netloc.rstrip(':')}:{OLLAMA_PORT}{parts.path}"
    return base(re.sub(r"//0\.0\.0\.0(?=[:/]|\Z)", "//127.0.0.1", with_scheme))


def shown(url: str) -> str:
    """The URL as a log or an error may show it: without user and password."""
    return re.sub(r"//[^/@]*@", "//", url)
