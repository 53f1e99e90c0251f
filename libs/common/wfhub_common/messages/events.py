"""What other systems subscribe to."""

from datetime import datetime
from typing import Any, Literal

from wfhub_common.messages.base import Fact


class CloudEvent(Fact):
    """CloudEvents 1.0, structured JSON. Extension attributes: wfhubpos, wfhubgeneration."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = "/wfhub/scheduler"
    type: str  # e.g. task.state_changed, attempt.state_changed, attempt.step
    subject: str  # the entity's id
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]
    wfhubproject: str
    wfhubpos: int
    wfhubgeneration: int
