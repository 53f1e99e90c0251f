"""An installation's secrets as folders, one a reader: what compose mounts as volumes.

`state` keeps the truth (credentials.json, the signing key, the sealing keys). Each reader's folder
holds its files, its uid's alone; a file that is no longer its own is removed, and one that is as it
should be is left alone: a runner that works holds a lock on its identity's.
Raises: SystemExit when the truth is lost but readers have files that were made from it.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from wfhub_common import sealed, signing

from wfhub_admin import credentials
from wfhub_admin.credentials import Credentials
from wfhub_admin.files import private_file, private_folder
from wfhub_admin.outlay import POSTGRES, Outlay, Truth
from wfhub_admin.subscribers import Subscriber

CREDENTIALS, KEY = "credentials.json", "signing-key"
SEALING_KEYS = "sealing-keys.json"


def truth(
    state: Path,
    secrets: Path,
    *,
    runners: int,
    subscribers: Collection[Subscriber] = (),
    sealing_key: int = 1,
) -> Truth:
    """Made at the first time, with identities for at least `runners` runners, and `subscribers`,
    and sealing keys up to the number `sealing_key`."""
    file = state / CREDENTIALS
    if file.exists():
        before = Credentials.from_json(file.read_text())
    elif (secrets / POSTGRES / "password").exists():
        raise SystemExit(
            f"{file} is lost, but there are secrets that were made from it: restore that volume"
            " from a backup, or remove all volumes and lose what is in them"
        )
    else:
        before = credentials.new()
    after = credentials.with_identities(before, runners, subscribers)
    if after != before:
        private_file(file, after.to_json(), os.geteuid())
    signing.load_or_create_private_key(state / KEY)
    return replace(kept(state), sealing_keys=grown_keys(state / SEALING_KEYS, sealing_key))


def grown_keys(file: Path, newest: int) -> str:
    """The keys in `file`, up to `newest`; made where they are missing. Raises: SystemExit."""
    before = file.read_text() if file.exists() else ""
    try:
        after = sealed.grown(sealed.keys(before), newest).to_json()
    except ValueError as e:
        raise SystemExit(f"{file}: {e}: bring it back from a backup") from e
    if after != before:
        private_file(file, after, os.geteuid())
    return after


def kept(state: Path) -> Truth:
    """What is there; nothing is made."""
    try:
        have = Credentials.from_json((state / CREDENTIALS).read_text())
        key = state / KEY
        keys = state / SEALING_KEYS
        sealing_keys = keys.read_text() if keys.exists() else ""
        public_key = signing.public_key_path(key).read_text()
        return Truth(have, key.read_text(), public_key, sealing_keys)
    except OSError as e:
        raise SystemExit(
            f"cannot read {e.filename}: {e.strerror}: is the state volume there?"
        ) from e


def bring_back(state: Path, truth: Truth) -> None:
    """The truth of a backup, where there is none yet, the very same (an earlier try), or what was
    made of it: `secrets` runs between the keys and the rest, and adds identities."""
    file = state / CREDENTIALS
    have = Credentials.from_json(file.read_text()) if file.exists() else truth.credentials
    if not credentials.grown_from(have, truth.credentials):
        raise SystemExit(f"{state} has another installation's credentials: use empty volumes")
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = state / KEY
    private_file(key, truth.signing_key, os.geteuid())
    private_file(signing.public_key_path(key), truth.public_key, os.geteuid())
    if truth.sealing_keys and not (state / SEALING_KEYS).exists():
        private_file(state / SEALING_KEYS, truth.sealing_keys, os.geteuid())
    private_file(file, have.to_json(), os.geteuid())


def write(made: Outlay, secrets: Path, uids: Mapping[str, int]) -> None:
    for reader, files in made.items():
        folder = private_folder(secrets / reader, uids[reader])
        for old in folder.iterdir():
            if old.name not in files:
                old.unlink()
        for name, content in files.items():
            if not _is_there(folder / name, content):
                private_file(folder / name, content, uids[reader])


def _is_there(file: Path, content: str) -> bool:
    try:
        return file.read_text() == content
    except (FileNotFoundError, UnicodeDecodeError):
        return False
