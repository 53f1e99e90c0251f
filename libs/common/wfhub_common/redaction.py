"""Secrets taken out of text that is kept for people to read, by their shapes. Pure.

It is a second net: what is stored should hold no secret in the first place.
"""

import re

REMOVED = "[redacted]"
SECRET_CHARS_MIN = 8  # a shorter "secret" is a placeholder; removing it would garble texts
_SHAPES = re.compile(
    r"""
      \bw[ahs]t_[A-Za-z0-9_-]{16,}                       # our own tokens (httpauth.py)
    | \b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}                  # model providers
    | \b(?:gh[opsur]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{16,}
    | \bAKIA[A-Z0-9]{16}\b
    | (?<=://)[^\s/@"'\\]{1,200}:[^\s/@"'\\]{1,200}(?=@) # user:password in a URL
    | (?<=Bearer\ )[A-Za-z0-9._~+/=-]{8,}
    | -----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]{0,30}PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)


def redacted(text: str) -> str:
    return _SHAPES.sub(REMOVED, text)


# The same shapes in bytes, each by the literal that it begins with: a search for a literal runs at
# memory's speed, where the expression above takes milliseconds for a long prompt.
_TOKEN = rb"[A-Za-z0-9_-]{16,}"
_BEGINNINGS = (
    *(b"wat_ wht_ wst_ sk- rk- pk- gho_ ghp_ ghs_ ghu_ ghr_ github_pat_ glpat-".split()),
    *(b"xoxa- xoxb- xoxp- xoxr- xoxs-".split()),
)
_WORD = rb"(?<![A-Za-z0-9_]%b)"  # after the literal: nothing of a word stands before it
_BY_LITERAL = (
    *((lit, re.compile(lit + _WORD % lit + _TOKEN), b"") for lit in _BEGINNINGS),
    (b"AKIA", re.compile(rb"AKIA" + _WORD % b"AKIA" + rb"[A-Z0-9]{16}\b"), b""),
    (b"://", re.compile(rb"""://[^\s/@"'\\]{1,200}:[^\s/@"'\\]{1,200}(?=@)"""), b"://"),
    (b"Bearer ", re.compile(rb"Bearer [A-Za-z0-9._~+/=-]{8,}"), b"Bearer "),
    (
        b"-----BEGIN ",
        re.compile(
            rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?"
            rb"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        b"",
    ),
)


def redacted_bytes(data: bytes, secrets: tuple[str, ...] = ()) -> bytes:
    """Of a body that should be UTF-8; `secrets` are known ones. The same object if there is none.
    A secret that JSON escapes is not seen: ours and the providers' have nothing to escape."""
    for secret in secrets:
        if len(secret) >= SECRET_CHARS_MIN and secret.encode() in data:
            data = data.replace(secret.encode(), REMOVED.encode())
    for literal, shape, kept in _BY_LITERAL:
        if literal in data:
            data = shape.sub(kept + REMOVED.encode(), data)
    return data
