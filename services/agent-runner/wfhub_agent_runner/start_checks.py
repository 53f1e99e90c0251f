"""What the runner's settings are checked for at start, while an operator is looking: that what they
name is there, can be read, and is what it should be.

As root or not: before this process changes its user it can read what the runner's own user may not.
Raises: SystemExit, one line with the setting's name, as all of these.
"""

import errno
import os
from typing import IO

from wfhub_common.errors import Rejected

from wfhub_agent_runner import shared_caches
from wfhub_agent_runner.gitwork import folders
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.remote import credentials
from wfhub_agent_runner.gitwork.remote.trusted import (
    fault_of_authorities,
    fault_of_known_hosts,
    read_settings,
)
from wfhub_agent_runner.gitwork.workspaces import take_home
from wfhub_agent_runner.settings import RunnerSettings


def repository_policy(settings: RunnerSettings) -> Policy:
    file = settings.git_credentials_file
    _check_files(settings)
    try:
        credentials.check(settings.git_credentials or (file.read_text() if file else ""))
    except (Rejected, OSError, ValueError) as e:
        raise SystemExit(f"bad settings: GIT_CREDENTIALS_FILE: {e}") from e
    for setting, folder in settings.repository_folders():
        insist(folder.is_dir(), setting, f"{folder} is not a folder here: is it mounted?")
    try:
        folders.parse_rules(settings.workspace_folders)
    except ValueError as e:
        raise SystemExit(f"bad settings: WORKSPACE_FOLDERS: {e}") from e
    return Policy(
        workspace_root=str(settings.workspace_root or ""),
        workspace_folders=settings.workspace_folders,
        file_repos=settings.file_repos,
        roots=tuple(map(str, settings.repo_root_paths())),
        hosts=settings.git_host_names(),
        credentials_file=str(file or ""),
        credentials=settings.git_credentials,
        known_hosts_file=str(settings.git_known_hosts_file or ""),
        ca_file=str(settings.git_ca_file or ""),
        remote_uid=settings.runner_uid,
    )


def _check_files(settings: RunnerSettings) -> None:
    """They are read again when they are needed."""
    for setting, file, fault in (
        ("GIT_KNOWN_HOSTS_FILE", settings.git_known_hosts_file, fault_of_known_hosts),
        ("GIT_CA_FILE", settings.git_ca_file, fault_of_authorities),
    ):
        if file is not None:
            try:
                why = fault(read_settings(str(file)))
            except Rejected as e:
                why = e.message
            insist(not why, setting, why)
    if (file := settings.container_auth_file) is not None:
        insist(file.is_file(), "CONTAINER_AUTH_FILE", f"{file} is not a file here")


def insist(holds: bool, setting: str, why: str) -> None:
    if not holds:
        raise SystemExit(f"bad settings: {setting}: {why}")


def caches(settings: RunnerSettings) -> tuple[shared_caches.Rule, ...]:
    try:
        rules = shared_caches.parse(settings.shared_caches)
    except ValueError as e:
        raise SystemExit(f"bad settings: SHARED_CACHES: {e}") from e
    for rule in rules:
        if not rule.folder.is_dir():
            raise SystemExit(f"bad settings: SHARED_CACHES: {rule.folder} is not a folder")
    return rules


def taken_home(settings: RunnerSettings) -> IO[str]:
    """Its lock, to be held until the process ends."""
    home = settings.runner_home
    try:
        for entry in home.iterdir():
            if not os.access(entry, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(entry))
        return take_home(home)
    except Rejected as e:
        raise SystemExit(f"bad settings: RUNNER_HOME: {e.message}") from e
    except OSError as e:
        raise SystemExit(
            f"bad settings: RUNNER_HOME: cannot write to {e.filename}: {e.strerror}: let {home} and"
            f" all that is in it belong to uid {os.geteuid()}"
        ) from e
