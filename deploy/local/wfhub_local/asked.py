"""What a running stack was asked for, and how what is asked of it now differs.

Texts by the name that a user gives it: an option as it is typed, a variable of the environment.
They are in `asked.json` of the data directory for as long as the stack runs. What may hold a secret
(variables, URLs) is kept as a digest: it can be compared, and not be read.
Only what is given is compared, so that a plain `wfhub up` is content with any stack.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping

from wfhub_admin.files import private_file

from wfhub_local.layout import Layout
from wfhub_local.services import variables
from wfhub_local.settings import Options, picked

_DIGEST = "sha256:"
NONE = "none"


def texts(options: Options, user_env: Mapping[str, str]) -> dict[str, str]:
    """All of it, each by its name."""
    subscribers = ("+".join((each.name, *each.projects)) for each in options.subscribers)
    said = {
        "--port": str(options.port),
        "--nats-url": _digest(options.nats_url),
        "--database-url": _digest(options.database_url),
        "--runners": str(options.runners),
        "--slots": str(options.slots),
        "--label": _listed(options.labels),
        "--subscriber": _listed(subscribers),
        "--toolchain": _listed(map(str, options.toolchains)),
        "--file-repos": "yes" if options.file_repos else "no",
    }
    given = picked(user_env, variables(user_env))
    return said | {name: _digest(value) for name, value in given.items()}


def keep(layout: Layout, options: Options, user_env: Mapping[str, str], *, port: int) -> None:
    """`port`: the API's, whatever was asked for."""
    kept = texts(options, user_env) | {"--port": str(port)}
    private_file(layout.asked, json.dumps(kept) + "\n", os.geteuid())


def differences(
    layout: Layout, options: Options, user_env: Mapping[str, str], *, given: Collection[str]
) -> list[str]:
    """One text for each thing that is asked for and not what runs. `given`: names of options; of
    the environment all is. None where nobody can tell: the stack is another user's."""
    try:
        running = json.loads(layout.asked.read_text())
    except (OSError, ValueError):
        return []
    now = texts(options, user_env)
    compared = [name for name in now if name in given or not name.startswith("--")]
    if options.port == 0:  # any
        compared = [name for name in compared if name != "--port"]
    return [
        _said(name, now[name], running.get(name, NONE))
        for name in compared
        if now[name] != running.get(name, NONE)
    ]


def _said(name: str, now: str, running: str) -> str:
    if now.startswith(_DIGEST) or running.startswith(_DIGEST):
        return f"{name} ({'not set' if running == NONE else 'another'} there)"
    return f"{name} {now} ({running} there)"


def _listed(texts: Iterable[str]) -> str:
    return ",".join(sorted(texts)) or NONE


def _digest(value: str) -> str:
    return _DIGEST + hashlib.sha256(value.encode()).hexdigest() if value else NONE
