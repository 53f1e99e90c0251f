"""Other systems that hear events by way of NATS: which, and of which projects.

In settings: `ci:prj_a+prj_b,audit` has `ci` hear two projects, by id, and `audit` all. Each is a
NATS user of that name (`identities.subscriber`), whose password is made with the other secrets.
Raises: ValueError, which says what is wrong with which.
"""

import json
import re
from dataclasses import dataclass

from wfhub_common import identities, ids

SUBSCRIBERS_MAX = 100
PROJECTS_MAX = 100  # of one
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Subscriber:
    name: str
    projects: tuple[str, ...] = ()  # none: all


def parsed(text: str) -> tuple[Subscriber, ...]:
    found = tuple(_one(part.strip()) for part in text.split(",") if part.strip())
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise ValueError("a subscriber is named twice")
    if len(found) > SUBSCRIBERS_MAX:
        raise ValueError(f"more than {SUBSCRIBERS_MAX} subscribers")
    return found


def _one(text: str) -> Subscriber:
    name, colon, listed = text.partition(":")
    projects = tuple(listed.split("+")) if colon else ()
    if not _NAME.fullmatch(name) or name in identities.SERVICES:
        raise ValueError(
            f"{name!r} cannot be a subscriber's name: a-z, then a-z, 0-9 and -, no service's name"
        )
    for project in projects:
        if not ids.is_id(project, "prj"):
            raise ValueError(
                f"{name}: {project!r} is no project id (`wfhub project list` has them)"
            )
    if len(projects) > PROJECTS_MAX:
        raise ValueError(f"{name}: more than {PROJECTS_MAX} projects; name none to hear all")
    return Subscriber(name, projects)


def told(subscriber: Subscriber, *, nats_url: str, password: str) -> str:
    """What the other system is given: JSON of how to connect and what it may subscribe to."""
    may = identities.subscriber(subscriber.projects)
    return json.dumps(
        {
            "url": nats_url,
            "user": subscriber.name,
            "password": password,
            "projects": list(subscriber.projects),
            "subjects": list(may.subscribe),
        }
    )
