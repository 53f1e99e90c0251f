"""Trust: proof-store keys that the user has accepted, one PEM file per service.

`<config>/trust/<name>.pem`; the name is a local stack's own (one for each data directory), else
the service's host and port. A key is remembered when it is first seen, and said aloud; a
different one later is refused until the user removes or replaces the old one.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from wfhub_client.errors import Usage


def name_of(url: str) -> str:
    parts = urlsplit(url)
    return re.sub(r"[^A-Za-z0-9.-]", "_", parts.netloc.rpartition("@")[2]) or "service"


def remembered(folder: Path) -> dict[str, str]:
    """name → PEM of every key that was accepted."""
    return {path.stem: path.read_text() for path in sorted((folder / "trust").glob("*.pem"))}


def remember(folder: Path, name: str, pem: str, *, replace: bool = False) -> bool:
    """True when the key is new here. Raises: Usage when another key is remembered."""
    path = folder / "trust" / f"{name}.pem"
    known = path.read_text() if path.exists() else ""
    if known.strip() == pem.strip():
        return False
    if known and not replace:
        raise Usage(
            f"the service {name} now shows another proof key than the one in {path}; if that is "
            "meant (a new stack, a rotated key), run `wfhub proof trust --replace`"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(pem)
    return True
