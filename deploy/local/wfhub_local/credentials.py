"""The stack's secrets: one file (credentials.json, the stack's own), made at the first start.

Each service's secrets folder is written from it at each start, owned by that service.
Raises: SystemExit when the file is lost but a database that knows the passwords is there.
"""

import os
from collections.abc import Collection

from wfhub_admin import credentials
from wfhub_admin.credentials import DATABASE_ADMIN, DATABASE_ROLES, Credentials, hand_over
from wfhub_admin.files import private_file
from wfhub_admin.subscribers import Subscriber

from wfhub_local.layout import Layout

__all__ = ["DATABASE_ADMIN", "DATABASE_ROLES", "Credentials", "hand_over", "load_or_create"]


def load_or_create(
    layout: Layout, runners: int, subscribers: Collection[Subscriber] = ()
) -> Credentials:
    """The stack's secrets, with identities for at least `runners` runners, and `subscribers`."""
    if layout.credentials.exists():
        before = Credentials.from_json(layout.credentials.read_text())
    elif (layout.postgres / "data").exists():
        raise SystemExit(
            f"{layout.credentials} is lost, but {layout.postgres} has a database that needs the"
            " passwords in it; put it back, or remove that folder and lose its tasks"
        )
    else:
        before = credentials.new()
    after = credentials.with_identities(before, runners, subscribers)
    if after != before:
        private_file(layout.credentials, after.to_json(), os.geteuid())
    private_file(layout.admin_token, after.admin_token + "\n", os.geteuid())
    return after
