"""Containers of the chart's jobs that provision and back up, run as processes: their command lines,
environment, mounts at their paths, uid. `wfhub` of this tree takes the place of the images.

For real: the programs, Postgres, files. Simulated: the API server (secrets_double, over TLS, with a
service account's token as in a pod). Everything is at one loopback address, which the names of the
cluster's services resolve to: the plan that the job writes names Postgres by host and port 5432.
Needs root, and bwrap (it gives each container its paths, and claims nothing about confinement).
"""

import base64
import os
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from certificates import certificate_for
from chart_lab import CHART, Object, containers, objects, pods, template
from deploy_tools import ROOT
from secrets_double import ApiServer
from stack_lab import Stack, start
from wfhub_admin import postgres
from wfhub_admin.files import private_file, private_folder
from wfhub_agent_runner.sandbox.arguments import system_links
from wfhub_agent_runner.sandbox.bwrap import find_bwrap
from wfhub_common import privileges
from wfhub_local import servers
from wfhub_local.layout import Layout

ADDRESS = "127.77.0.1"
TOKEN = "of-the-service-account"
CONTAINER_S_MAX = 240
NO_MODEL = "http://127.0.0.1:9"  # the discard port
DATABASE_URL = "postgresql://postgres:{password}@" + ADDRESS + ":5432/wfhub"


@dataclass
class Job:
    """The pods of `hub-provision-1`, for a backup named `hub.wfhub`, and of `hub-backup`, and what
    they find. A volume of one name is the same for both."""

    folder: Path
    pods: list[Object]
    api: ApiServer
    port: int

    def volume(self, name: str) -> Path:
        return self.folder / "volumes" / name

    def secret(self, name: str, key: str) -> str:
        return base64.b64decode(self.api.held[f"hub-{name}"]["data"][key]).decode()

    @property
    def database_url(self) -> str:
        return DATABASE_URL.format(password=self.secret("postgres", "password"))

    @contextmanager
    def gone_on_with(self) -> Iterator[Stack]:
        """The job, container after container as a kubelet runs them; then the embedded stack on
        what they made."""
        self.succeed("keys", "secrets")
        with self.postgres():
            self.succeed("restore", "database")
            options = ("--database-url", self.database_url)
            stack = start(self.data_directory(), *options, LLM_BASE_URL=NO_MODEL)
            try:
                yield stack
            finally:
                end(stack)

    def succeed(self, *names: str) -> None:
        for name in names:
            ran = self.run(name)
            assert ran.returncode == 0, (name, ran.stderr)

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        ((pod, container),) = (
            (pod, each) for pod in self.pods for each in containers(pod) if each["name"] == name
        )
        return subprocess.run(
            [*self._bwrap(pod, container), *container["command"]],
            env={},
            capture_output=True,
            text=True,
            timeout=CONTAINER_S_MAX,
        )

    def backed_up(self) -> Path:
        """The file that the backups' job makes, with its Secret mounted."""
        (mounted,) = (v["secret"] for p in self.pods for v in p["volumes"] if v["name"] == "state")
        for item in mounted["items"]:
            name = mounted["secretName"].removeprefix("hub-")
            (self.volume("state") / item["path"]).write_text(self.secret(name, item["key"]))
        before = {*self.volume("backup").iterdir()}
        self.succeed("backup")
        (made,) = {*self.volume("backup").iterdir()} - before
        return made

    def _bwrap(self, pod: Object, container: Object) -> list[str]:
        uid = str(pod["securityContext"]["runAsUser"])
        words = [str(find_bwrap()[0]), "--unshare-user", "--uid", uid, "--gid", uid]
        for path, target in system_links().items():
            words += ["--symlink", target, path] if target else ["--ro-bind", path, path]
        for path in ("/usr", "/etc", sys.base_prefix, sys.prefix, str(ROOT)):
            words += ["--ro-bind", path, path]
        words += ["--ro-bind", str(self.folder / "hosts"), "/etc/hosts"]
        words += ["--proc", "/proc", "--dev", "/dev"]
        for mount in container["volumeMounts"]:
            how = "--ro-bind" if mount.get("readOnly") else "--bind"
            words += [how, str(self.volume(mount["name"])), mount["mountPath"]]
        environment = {
            "PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin",
            "KUBERNETES_SERVICE_HOST": ADDRESS,
            "KUBERNETES_SERVICE_PORT": str(self.port),
        }
        for each in container.get("env", []):
            environment[each["name"]] = each.get("value", "hub")  # a field: the namespace
        for key, value in environment.items():
            words += ["--setenv", key, value]
        return words

    @contextmanager
    def postgres(self) -> Iterator[None]:
        """With the password that the job made; once its Secret is there, as a pod would start."""
        root = self.folder / "postgres"
        root.mkdir()
        password = root / "password"
        password.write_text(self.secret("postgres", "password"))
        uid = servers.uid_of("postgres")
        assert uid is not None
        for path in (root, password):
            os.chown(path, uid, uid)
        data = root / "data"
        maker = self._as(uid, postgres.initdb_argv(data, password), root)
        subprocess.run(maker, check=True, cwd="/", stdout=subprocess.DEVNULL)
        settings = {"listen_addresses": ADDRESS, "port": 5432, "unix_socket_directories": ""}
        words = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = [str(postgres.binaries() / "postgres"), "-D", str(data), *words]
        with (self.folder / "postgres.log").open("wb") as log:
            server = subprocess.Popen(self._as(uid, argv, root), stderr=log, cwd="/")
        try:
            yield
        finally:
            server.send_signal(signal.SIGINT)  # fast
            server.wait(60)

    def _as(self, uid: int, argv: list[str], writable: Path) -> list[str]:
        """Wherever this tree lies, below a home that is its owner's alone too."""
        visible = privileges.code_paths()
        return privileges.launcher(uid, argv, keep_visible=visible, keep_writable=(writable,))

    def data_directory(self) -> Path:
        """What the embedded stack begins with: the Secret `state`, and the claim of the proofs."""
        layout = Layout(self.folder / "data")
        layout.make()
        uid = servers.uid_of("proof-store")
        assert uid is not None
        shutil.copytree(self.volume("proofs"), layout.proofs)
        for path in (layout.proofs, *layout.proofs.rglob("*")):
            os.chown(path, uid, uid)
        key = private_folder(layout.signing, uid) / layout.signing_key.name
        private_file(key, self.secret("state", "signing-key"), uid)
        private_file(key.with_name(f"{key.name}.pub"), self.secret("state", "proof-key.pub"), uid)
        credentials = self.secret("state", "credentials.json")
        private_file(layout.credentials, credentials, os.geteuid())
        return layout.data


@contextmanager
def job(folder: Path, backup: Path, passphrase: Path) -> Iterator[Job]:
    examples = (CHART / "examples" / f"{name}.yaml" for name in ("restored", "backed-up"))
    done = template(*(part for file in examples for part in ("--values", str(file))))
    assert done.returncode == 0, done.stderr
    found = [pod for name, pod in pods(objects(done.stdout)) if name in {"provision", "backup"}]
    folder.mkdir(mode=0o755)
    api = ApiServer()
    with api_server(api, folder) as port:
        made = Job(folder, found, api, port)
        for volume in (each for pod in found for each in pod["volumes"]):
            made.volume(volume["name"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(backup, made.volume("backup") / "hub.wfhub")
        shutil.copy(passphrase, made.volume("passphrase") / "passphrase")
        (made.volume("token") / "token").write_text(TOKEN)
        shutil.copy(folder / "host.crt", made.volume("token") / "ca.crt")
        (folder / "hosts").write_text(f"{ADDRESS} hub-postgres.hub.svc\n")
        yield made


@contextmanager
def api_server(held: ApiServer, folder: Path) -> Iterator[int]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            assert self.headers["authorization"] == f"Bearer {TOKEN}"
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"https://{ADDRESS}{self.path}"
            with lock:
                answer = held(httpx.Request(self.command, url, content=content))
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    certificate, key = certificate_for(ADDRESS, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((ADDRESS, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def end(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0


def is_proven(stack: Stack, done: dict[str, Any], folder: Path) -> None:
    """By the key that `stack` has now: it is the old one, or no old proof verifies."""
    assert stack.wfhub("proof", "trust").returncode == 0
    proof = folder / "proof.json"
    exported = stack.wfhub("proof", "export", done["proof_id"], "-o", str(proof))
    assert exported.returncode == 0, exported.stderr
    verified = stack.wfhub("proof", "verify", str(proof))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    logs = stack.wfhub("logs", done["task_id"])  # a blob
    assert logs.returncode == 0, logs.stderr
