"""The wire formats that clients speak: one module each, all of the shape that port.py describes.

`BY_NAME` has them all. A format knows its requests, its errors and its usage; what one has in
common with another is known to wfhub_llm_gateway.translation alone.
"""

from collections.abc import Mapping
from types import MappingProxyType

from wfhub_llm_gateway.formats.chat import CHAT
from wfhub_llm_gateway.formats.gemini import GEMINI
from wfhub_llm_gateway.formats.messages import MESSAGES
from wfhub_llm_gateway.formats.port import WireFormat
from wfhub_llm_gateway.formats.responses import RESPONSES

BY_NAME: Mapping[str, WireFormat] = MappingProxyType(
    {each.name: each for each in (CHAT, RESPONSES, MESSAGES, GEMINI)}
)
