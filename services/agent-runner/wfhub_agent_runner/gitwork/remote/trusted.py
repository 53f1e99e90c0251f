"""The operator's files that say which hosts to believe: read, and looked at when the runner starts.

Raises: Rejected (`git-credentials`) for a file that cannot be read, or is too long.
"""

import ssl
import tempfile

from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits


def read_settings(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(limits.GIT_SETTINGS_BYTES_MAX + 1)
    except (OSError, ValueError) as e:
        raise Rejected("git-credentials", f"the runner cannot read {path}: {e}") from e
    if len(text) > limits.GIT_SETTINGS_BYTES_MAX:
        raise Rejected(
            "git-credentials", f"{path} is longer than {limits.GIT_SETTINGS_BYTES_MAX} bytes"
        )
    return text


def fault_of_known_hosts(text: str) -> str:
    """Empty: there is a host's key in it."""
    import paramiko  # heavy: who has no such file does not pay

    known = paramiko.HostKeys()
    with tempfile.NamedTemporaryFile("w") as file:  # it reads from names alone
        file.write(text)
        file.flush()
        known.load(file.name)
    return "" if known else "it has no key of a host: write it with `ssh-keyscan`, and compare"


def fault_of_authorities(text: str) -> str:
    """Empty: it is certificates in PEM."""
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as e:
        return f"it is no certificate in PEM: {e}"
    return ""
