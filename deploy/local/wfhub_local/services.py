"""The five services as data: module, uid, environment, and how to see that each is up.

What a service need not know it is not given: the gateway alone has provider keys, the proof-store
alone the signing key, and each has its own NATS user, database role and service token.
"""

import contextlib
import http.client
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from wfhub_admin.credentials import Credentials, hand_over, handed
from wfhub_admin.files import private_folder
from wfhub_common import subjects

from wfhub_local import ports
from wfhub_local.layout import Layout
from wfhub_local.processes import Process
from wfhub_local.servers import uid_of
from wfhub_local.settings import (
    GATEWAY_VARIABLES,
    METRICS_PORT,
    NETWORK_VARIABLES,
    SERVICE_VARIABLES,
    Options,
    is_root,
    picked,
)

READYZ_S_MAX = 1.0
PORT_MAX = 65_535
RUNNER = "runner"

MODULES = {
    subjects.SCHEDULER: "wfhub_scheduler.main",
    subjects.PROOF_STORE: "wfhub_proof_store.main",
    subjects.GATEWAY: "wfhub_llm_gateway.main",
    subjects.API: "wfhub_api.main",
    RUNNER: "wfhub_agent_runner.main",
}
HTTP_SERVICES = (subjects.PROOF_STORE, subjects.GATEWAY, subjects.API)


@dataclass(frozen=True)
class Where:
    """What the services are told about each other."""

    nats_url: str
    nats_users: bool  # False: an external server, which has the users its operator gave it
    database_urls: Mapping[str, str]  # service → URL, with its role's password
    listeners: Mapping[str, int]  # HTTP service → descriptor of its listening socket
    http_ports: Mapping[str, int]

    def http_url(self, service: str) -> str:
        return f"http://{ports.HOST}:{self.http_ports[service]}"


@dataclass(frozen=True)
class Setting:
    """Everything that any service's process is described from."""

    options: Options
    layout: Layout
    credentials: Credentials
    where: Where
    user_env: Mapping[str, str]
    sealing_keys: str = field(default="", repr=False)


@dataclass(frozen=True)
class Own:
    """What is one service's own, beyond what all get."""

    env: Mapping[str, str]
    folders: tuple[Path, ...] = ()  # made, its uid's alone
    visible: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()


def all_of(s: Setting) -> list[Process]:
    """In the order they are started in."""
    return [
        _process(s, subjects.SCHEDULER, scheduler(s)),
        _process(s, subjects.PROOF_STORE, proof_store(s)),
        _process(s, subjects.GATEWAY, gateway(s)),
        _process(s, subjects.API, api(s)),
        *(runner_process(s, number) for number in range(1, s.options.runners + 1)),
    ]


def variables(user_env: Mapping[str, str]) -> tuple[str, ...]:
    """Names of all that a service is given of the user's environment, or that says how to."""
    config = user_env.get("LLM_CONFIG")
    return (
        *SERVICE_VARIABLES,
        *NETWORK_VARIABLES,
        *PROOF_STORE_VARIABLES,
        *GATEWAY_VARIABLES,
        *(_key_variables(Path(config)) if config else ()),
        *API_VARIABLES,
        *RUNNER_VARIABLES,
        METRICS_PORT,
        "PROOFS_ROOT",
        "SEALING_KEY",
    )


def scheduler(s: Setting) -> Own:
    public_key = s.layout.public_key
    return Own(env={"PROOF_PUBLIC_KEY_FILE": str(public_key)}, visible=(public_key,))


PROOF_STORE_VARIABLES = ("BLOB_BYTES_MAX",)


def proof_store(s: Setting) -> Own:
    root = Path(s.user_env.get("PROOFS_ROOT") or s.layout.proofs)
    return Own(
        env={
            **picked(s.user_env, PROOF_STORE_VARIABLES),
            "PROOFS_ROOT": str(root),
            "SIGNING_KEY_FILE": str(s.layout.signing_key),
        },
        folders=(root, s.layout.signing),
    )


GATEWAY_FILES = ("LLM_CASSETTE", "LLM_CONFIG", "LLM_PRICES")  # that it reads


def gateway(s: Setting) -> Own:
    given = picked(s.user_env, GATEWAY_VARIABLES)
    for name in (*GATEWAY_FILES, "LLM_RECORD"):
        if name in given:  # its working directory is another
            given[name] = str(Path(given[name]).absolute())
    if "LLM_CONFIG" in given:
        given |= picked(s.user_env, _key_variables(Path(given["LLM_CONFIG"])))
    spool, cassettes = s.layout.home("gateway"), s.layout.home("cassettes")
    return Own(
        env={
            **picked(s.user_env, NETWORK_VARIABLES),
            **given,
            "PROOFS_URL": s.where.http_url(subjects.PROOF_STORE),
            "GATEWAY_SPOOL": str(spool),
            "LLM_CASSETTES": str(cassettes),
        },
        folders=(spool, cassettes),
        visible=tuple(Path(given[name]) for name in GATEWAY_FILES if name in given),
        writable=(_recording(Path(given["LLM_RECORD"])),) if "LLM_RECORD" in given else (),
    )


def _key_variables(config: Path) -> tuple[str, ...]:
    """That hold keys of its providers. What is wrong with the file, the gateway says."""
    with contextlib.suppress(OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError):
        providers = yaml.safe_load(config.read_bytes()).get("providers") or {}
        found = [each.get("api_key_env") for each in providers.values() if isinstance(each, dict)]
        return tuple(name for name in found if isinstance(name, str))
    return ()


def _recording(file: Path) -> Path:
    """The gateway may not make files in the user's folders, so the file is made for it."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if is_root():
            os.fchown(descriptor, uid_of(subjects.GATEWAY), uid_of(subjects.GATEWAY))
        os.close(descriptor)
    return file


# What an operator sets for `wfhub up` and the API reads.
API_VARIABLES = (
    "WEBHOOKS_ENABLED",
    "WEBHOOK_PRIVATE_HOSTS",
    "WEBHOOK_HTTP_HOSTS",
    "WEBHOOK_CA_FILE",
)


def api(s: Setting) -> Own:
    given = picked(s.user_env, API_VARIABLES)
    if "WEBHOOK_CA_FILE" in given:  # its working directory is another
        given["WEBHOOK_CA_FILE"] = str(Path(given["WEBHOOK_CA_FILE"]).absolute())
    return Own(env={**given, "PROOFS_URL": s.where.http_url(subjects.PROOF_STORE)})


# What an operator sets for `wfhub up` and the runner reads.
RUNNER_VARIABLES = (
    "RUNNER_POOL",
    "WORKSPACE_ROOT",
    "WORKSPACE_FOLDERS",
    "SHARED_CACHES",
    "CACHE_BYTES_MAX",
    "CACHE_AGE_S",
    "DISK_FREE_BYTES_MIN",
    "GIT_HOSTS",
    "GIT_CREDENTIALS_FILE",
    "GIT_CREDENTIALS",
    "GIT_KNOWN_HOSTS_FILE",
    "GIT_CA_FILE",
    "CGROUP_ROOT",
    "EGRESS_ALLOWED",
    "EGRESS_PRIVATE_HOSTS",
    "SANDBOX_BACKEND",
    "CONTAINER_ENGINE",
    "CONTAINER_RUNTIME",
    "CONTAINER_IMAGE",
    "CONTAINER_IMAGES",
    "CONTAINER_AUTH_FILE",
)


def runner_process(s: Setting, number: int) -> Process:
    runner_id = s.credentials.runner_ids[number - 1]
    name = f"{RUNNER}-{number}"
    home = s.layout.home(name)
    ready = home / "ready"
    workspaces = picked(s.user_env, RUNNER_VARIABLES)
    own = Own(
        env={
            **picked(s.user_env, NETWORK_VARIABLES),
            **workspaces,
            "RUNNER_ID": runner_id,
            "RUNNER_NAME": name,
            "RUNNER_SLOTS": str(s.options.slots),
            "RUNNER_LABELS": ",".join(s.options.labels),
            "RUNNER_HOME": str(home),
            "HOME": str(home),
            "TOOLCHAINS": ":".join(str(path) for path in toolchains(_asked_toolchains(s))),
            "FILE_REPOS": "1" if s.options.file_repos else "0",
            "PROOFS_URL": s.where.http_url(subjects.PROOF_STORE),
            "GATEWAY_URL": s.where.http_url(subjects.GATEWAY),
            "READY_FILE": str(ready),
            **({"RUNNER_UID": str(uid_of(RUNNER))} if is_root() else {}),
        },
        folders=(home,),
    )
    return _process(s, RUNNER, own, name=name, sender=runner_id, ready_file=ready)


def _asked_toolchains(s: Setting) -> tuple[Path, ...]:
    """And what `wfhub agent install` put there."""
    installed = (s.layout.agents,) if s.layout.agents.is_dir() else ()
    return (*s.options.toolchains, *installed)


def toolchains(asked: tuple[Path, ...]) -> list[Path]:
    """The scripts that start an agent inside the sandbox need a Python: this one's, where the
    system's folders, which are always there, do not have it."""
    own = Path(sys.base_prefix)
    return [*([] if own.is_relative_to("/usr") else [own]), *asked]


def _process(
    s: Setting,
    service: str,
    own: Own,
    *,
    name: str = "",
    sender: str = "",
    ready_file: Path | None = None,
) -> Process:
    name, sender = name or service, sender or service
    uid = uid_of(service)
    folder = private_folder(s.layout.secrets(name), uid)
    for path in own.folders:
        private_folder(path, uid)
    secrets = handed(
        s.credentials,
        service,
        sender=sender,
        nats_url=s.where.nats_url,
        nats_users=s.where.nats_users,
        database_url=s.where.database_urls.get(service, ""),
        sealing_keys=s.sealing_keys,
    )
    env: dict[str, str] = {**picked(s.user_env, SERVICE_VARIABLES), **_metrics(s, name), **own.env}
    descriptors: tuple[int, ...] = ()
    if s.where.nats_users:
        env["NATS_USER"] = sender
    if service in s.where.listeners:
        descriptors = (s.where.listeners[service],)
        env["HTTP_LISTEN"] = f"fd:{descriptors[0]}"
    drops_itself = service == RUNNER and is_root()  # after it has forked a helper that stays root

    def clear() -> None:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)

    return Process(
        name=name,
        argv=(sys.executable, "-P", "-m", MODULES[service]),  # -P: import nothing from the cwd
        log=s.layout.log(name),
        uid=0 if drops_itself else uid,
        env={**env, **hand_over(folder, uid, secrets)},
        visible=(folder, *own.visible),
        writable=(*own.folders, *own.writable),
        descriptors=descriptors,
        before=clear,
        is_up=_probe(s, service, ready_file),
    )


def _metrics(s: Setting, name: str) -> dict[str, str]:
    """Where it serves them. Raises: SystemExit."""
    given = s.user_env.get(METRICS_PORT)
    if not given:
        return {}
    runners = (f"{RUNNER}-{number}" for number in range(1, s.options.runners + 1))
    names = (*(service for service in MODULES if service != RUNNER), *runners)
    if not given.isdigit() or not 0 < int(given) <= PORT_MAX - len(names):
        raise SystemExit(f"bad settings: {METRICS_PORT}: {given!r} is not the first of free ports")
    return {"METRICS_LISTEN": f"{ports.HOST}:{int(given) + names.index(name)}"}


def _probe(s: Setting, service: str, ready_file: Path | None) -> Callable[[], bool]:
    if ready_file is not None:
        return ready_file.exists
    if service in s.where.http_ports:
        port = s.where.http_ports[service]
        return lambda: answers_ready(port)
    return lambda: True  # the scheduler: that a runner could register is the sign


def answers_ready(port: int) -> bool:
    """The stack holds the listening socket, so a service that is not there yet does not refuse:
    it just does not answer."""
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=READYZ_S_MAX)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
