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


# One of these is in whatever _SHAPES finds; looking for them is cheap.
_SIGNS = tuple(b"t_ k- h_ p_ u_ s_ r_ glpat- xox AKIA :// -----BEGIN Bearer".split())


def redacted_bytes(data: bytes, secrets: tuple[str, ...] = ()) -> bytes:
    """Of a body that should be UTF-8; `secrets` are known ones. The same object if there is none.
    A secret that JSON escapes is not seen: ours and the providers' have nothing to escape."""
    for secret in secrets:
        if len(secret) >= SECRET_CHARS_MIN and secret.encode() in data:
            data = data.replace(secret.encode(), REMOVED.encode())
    if not any(sign in data for sign in _SIGNS):
        return data
    text = data.decode(errors="surrogateescape")
    found = _SHAPES.sub(REMOVED, text)
    return data if found == text else found.encode(errors="surrogateescape")
