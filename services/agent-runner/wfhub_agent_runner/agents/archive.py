"""The built-in agent as one file: a zip that Python runs, the same bytes for the same sources.

Inside, `__main__.py` starts the package `wfhub_agent`, which is the folder builtin/ beside this.
"""

import hashlib
import io
import zipfile
from functools import cache
from importlib import metadata, resources

NAME = "wfhub-agent.pyz"
_START = b"""import os
import sys

from wfhub_agent.__main__ import main

sys.exit(main(os.environ))
"""


@cache
def content() -> bytes:
    folder = resources.files(__package__) / "builtin"
    sources = {
        f"wfhub_agent/{f.name}": f.read_bytes() for f in folder.iterdir() if _is_source(f.name)
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted({**sources, "__main__.py": _START}.items()):
            # ZipInfo's own date, 1980: the digest of the agent is the digest of its sources.
            archive.writestr(zipfile.ZipInfo(name), source, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


@cache
def version() -> str:
    """Of the distribution, and of the very sources."""
    digest = hashlib.sha256(content()).hexdigest()
    return f"{metadata.version('workflow-hub')}+{digest[:12]}"


def _is_source(name: str) -> bool:
    return name.endswith(".py")
