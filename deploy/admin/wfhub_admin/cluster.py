"""An installation's secrets as Secrets of a Kubernetes namespace, one a reader.

`<prefix>-state` keeps the truth and is made once: of two provisioners that start together, one
makes it and the other reads it. The rest is written anew each time. Rights needed: create, and get
and update by name (the chart's Role).
Raises: SystemExit with the API server's sentence.
"""

import base64
import ssl
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from wfhub_common import sealed, signing

from wfhub_admin import credentials
from wfhub_admin.credentials import Credentials
from wfhub_admin.outlay import Outlay, Truth
from wfhub_admin.settings import ProvisionSettings
from wfhub_admin.subscribers import Subscriber

TIMEOUT_S = 30.0
TRIES_MAX = 5  # of a write that another one came before
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
STATE = "state"
SEALING_KEYS = "sealing-keys.json"  # in it; the version before has none


@dataclass(frozen=True)
class Secrets:
    """The Secrets of one installation."""

    http: httpx.Client
    namespace: str
    prefix: str

    def read(self, name: str) -> dict[str, Any] | None:
        answer = self.http.get(f"{self._path}/{self.prefix}-{name}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return dict(_checked(answer).json())

    def create(self, name: str, files: dict[str, str]) -> bool:
        """False: it is there by now."""
        answer = self.http.post(self._path, json=self._object(name, files))
        if answer.status_code == httpx.codes.CONFLICT:
            return False
        _checked(answer)
        return True

    def write(self, name: str, files: dict[str, str]) -> None:
        if self.read(name) is None and self.create(name, files):
            return
        path = f"{self._path}/{self.prefix}-{name}"
        _checked(self.http.put(path, json=self._object(name, files)))

    def replace(self, name: str, files: dict[str, str], version: str) -> bool:
        """False: it was changed since `version`."""
        made = self._object(name, files)
        made["metadata"]["resourceVersion"] = version
        answer = self.http.put(f"{self._path}/{self.prefix}-{name}", json=made)
        if answer.status_code == httpx.codes.CONFLICT:
            return False
        _checked(answer)
        return True

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    def _object(self, name: str, files: dict[str, str]) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": f"{self.prefix}-{name}",
                "namespace": self.namespace,
                "labels": {
                    "app.kubernetes.io/name": "workflow-hub",
                    "app.kubernetes.io/managed-by": "wfhub-admin",
                },
            },
            "type": "Opaque",
            "data": {
                file: base64.b64encode(content.encode()).decode() for file, content in files.items()
            },
        }


def inside(host: str, port: int, *, namespace: str, prefix: str) -> Secrets:
    """The API server of the cluster that this pod is in. Raises: SystemExit."""
    if not host:
        raise SystemExit("KUBERNETES_SERVICE_HOST is not set: this is no pod")
    try:
        token = (ACCOUNT / "token").read_text().strip()
        trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    except OSError as e:
        raise SystemExit(f"no service account here: {e}") from e
    where = f"[{host}]" if ":" in host else host
    client = httpx.Client(
        base_url=f"https://{where}:{port}",
        headers={"Authorization": f"Bearer {token}"},
        verify=trusted,
        timeout=TIMEOUT_S,
        trust_env=False,
    )
    return Secrets(client, namespace, prefix)


def of(settings: ProvisionSettings) -> Secrets:
    return inside(
        settings.kubernetes_service_host,
        settings.kubernetes_service_port,
        namespace=settings.namespace,
        prefix=settings.secret_prefix,
    )


def truth(
    secrets: Secrets,
    *,
    runners: int,
    subscribers: Collection[Subscriber] = (),
    sealing_key: int = 1,
) -> Truth:
    """Made at the first time, with identities for at least `runners` runners, and `subscribers`,
    and sealing keys up to the number `sealing_key`."""
    for _ in range(TRIES_MAX):
        found = secrets.read(STATE)
        before = _read(found) if found else _new()
        have = credentials.with_identities(before.credentials, runners, subscribers)
        keys = sealed.grown(sealed.keys(before.sealing_keys), sealing_key).to_json()
        after = replace(before, credentials=have, sealing_keys=keys)
        if found is None:
            if secrets.create(STATE, _files(after)):
                return after
        elif after == before or secrets.replace(
            STATE, _files(after), found["metadata"]["resourceVersion"]
        ):
            return after
    raise SystemExit(f"{secrets.prefix}-{STATE} was changed by others {TRIES_MAX} times; try again")


def bring_back(secrets: Secrets, truth: Truth) -> None:
    """The truth of a backup, where there is none yet, the very same, or what was made of it."""
    if secrets.create(STATE, _files(truth)):
        return
    found = secrets.read(STATE)
    have = _read(found) if found else truth
    if have.signing_key != truth.signing_key or not credentials.grown_from(
        have.credentials, truth.credentials
    ):
        raise SystemExit(
            f"the Secret {secrets.prefix}-{STATE} is another installation's: restore under another"
            " release name, or remove that installation's Secrets and claims first"
        )


def write(made: Outlay, secrets: Secrets) -> None:
    for reader, files in made.items():
        secrets.write(reader, files)


def _new() -> Truth:
    with tempfile.TemporaryDirectory() as name:
        key = signing.load_or_create_private_key(Path(name) / "key")
        return Truth(
            credentials.new(),
            (Path(name) / "key").read_text(),
            signing.public_pem(key.public_key()),
        )


def _files(truth: Truth) -> dict[str, str]:
    return {
        "credentials.json": truth.credentials.to_json(),
        "signing-key": truth.signing_key,
        "proof-key.pub": truth.public_key,
        SEALING_KEYS: truth.sealing_keys,
    }


def _read(found: dict[str, Any]) -> Truth:
    try:
        files = {
            name: base64.b64decode(found["data"][name]).decode()
            for name in ("credentials.json", "signing-key", "proof-key.pub")
        }
        keys = base64.b64decode(found["data"].get(SEALING_KEYS, "")).decode()
        sealed.keys(keys)
        have = Credentials.from_json(files["credentials.json"])
    except (KeyError, TypeError, ValueError) as e:
        raise SystemExit(f"{found['metadata']['name']} is not a state of ours: {e}") from e
    return Truth(have, files["signing-key"], files["proof-key.pub"], keys)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        try:
            why = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            why = answer.text[:500]
        raise SystemExit(f"the API server answered {answer.status_code}: {why}")
    return answer
