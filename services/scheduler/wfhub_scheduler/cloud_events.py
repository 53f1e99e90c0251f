"""Events as they are published: a subject, and a CloudEvent as bytes, from a row of the outbox.

Built as text from jsonb's own text: parsing and validating what we wrote ourselves would cost
more than all the rest of the relay. No row may stop the relay: an event that is too large for the
stream is published without its data (`GET /v1/events` has it), and whatever is no token of a
subject becomes one.
"""

import json
import re
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

from wfhub_common import subjects
from wfhub_common.log import get_logger

from wfhub_scheduler.batches import Entry
from wfhub_scheduler.positions import Position

DATA_CHARS_MAX = 128 * 1024  # at most 4 bytes each: the stream takes 1 MiB a message
_HEAD = '{"specversion":"1.0","source":"/wfhub/scheduler","datacontenttype":"application/json"'
_TOKENS = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){3}")
_NO_TOKEN = re.compile(r"[^A-Za-z0-9_-]")

log = get_logger(__name__)


def entry(
    event_id: str,
    generation: int,
    pos: int,
    project_id: str,
    kind: str,
    entity_id: str,
    type_: str,
    time: datetime,
    data: str,
) -> Entry:
    """`data` is JSON text."""
    if len(data) > DATA_CHARS_MAX:
        log.error("event too large to publish whole", event_id=event_id, chars=len(data))
        data = json.dumps({"oversized_chars": len(data)})
    body = (
        f'{_HEAD},"id":{quoted(event_id)},"type":{quoted(type_)},"subject":{quoted(entity_id)}'
        f',"time":"{_spelled(time)}","wfhubproject":{quoted(project_id)},"wfhubpos":{pos}'
        f',"wfhubgeneration":{generation},"data":{data}}}'
    )
    what = type_.removeprefix(f"{kind}.")
    if not _TOKENS.fullmatch(f"{project_id}.{kind}.{entity_id}.{what}"):
        project_id, kind, entity_id, what = map(_token, (project_id, kind, entity_id, what))
    subject = subjects.event(project_id, kind, entity_id, what)
    return Entry(Position(generation, pos), event_id, subject, body.encode())


@lru_cache(maxsize=64)  # a batch's events have one time
def _spelled(time: datetime) -> str:
    return time.isoformat()


def _token(text: str) -> str:
    return _NO_TOKEN.sub("_", text) or "_"
