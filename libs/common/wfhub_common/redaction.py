"""Secrets taken out of text that is kept for people to read, by their shapes. Pure.

It is a second net: what is stored should hold no secret in the first place.
"""

import re

REMOVED = "[redacted]"
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
