"""A service's main imports this first: what its libraries would load and it never uses stays away.

aiohttp is nats-py's way to WebSockets (no `ws://` broker; the gateway has it for its providers all
the same), and loads every certificate twice; rich is structlog's to colour tracebacks, with every
local variable in them; pydantic would read each installed package's metadata for plugins. That is
a quarter of the CPU that a start costs. Each of the three does without what is not installed, and
this is what they are told.
"""

import importlib
import os
import sys

_WITHOUT = {"nats.aio.transport": "aiohttp", "structlog.dev": "rich"}


def _imported_without(module: str, absent: str) -> None:
    if module in sys.modules or absent in sys.modules:
        return
    sys.modules[absent] = None  # type: ignore[assignment]  # to be imported, an ImportError
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[absent]


os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
for _module, _absent in _WITHOUT.items():
    _imported_without(_module, _absent)
