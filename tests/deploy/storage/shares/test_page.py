"""Option 2's page, typed on a Docker daemon of the guest: its block for NFS, then the one for SMB.

Other than on the page: the images are there already, both servers are this machine by /etc/hosts,
the project's files are a copy, and health checks have a minute, since a guest is slow at starting
processes. Needs `workflow-hub/*` in /disk/docker (test_page.py of the folder above).
"""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
import share_lab
import yaml
from deploy_tools import ROOT, tool
from share_lab import FOLDER, Server, Smb, run

PAGE = ROOT / "docs" / "deploy" / "network-storage.md"
COMPOSE = ROOT / "deploy" / "compose"
HERE = Path("/disk/repository/deploy/compose")
SHARED = FOLDER / "export" / "workspaces"
VOLUME = "workflow-hub_workspaces"
UID = 1000
PATIENT = {"interval": "20s", "timeout": "60s", "retries": 20}
SERVICES = ("postgres", "nats", "scheduler", "proof-store", "llm-gateway", "api", "agent-runner")
DOCKERD_S_MAX, TYPED_S_MAX, WARNED_S_MAX = 300, 900, 300
PLUGINS = Path("/usr/local/lib/docker/cli-plugins")
EDIT = "sh -c 'sed -i s/colour/color/ README.md'"

pytestmark = pytest.mark.timeout(0)  # the guest's own end is the bound


def started() -> "subprocess.Popen[bytes]":
    with Path("/disk/dockerd.log").open("ab") as log:
        argv = ["dockerd", "--data-root", "/disk/docker"]
        return subprocess.Popen(argv, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def docker() -> Iterator[None]:
    run("update-alternatives", "--set", "iptables", "/usr/sbin/iptables-legacy")  # no nft NAT here
    PLUGINS.mkdir(parents=True)
    (PLUGINS / "docker-compose").symlink_to(tool("docker-compose"))
    process = started()
    deadline = time.monotonic() + DOCKERD_S_MAX
    while run("docker", "version", check=False).returncode:
        assert time.monotonic() < deadline, Path("/disk/dockerd.log").read_text()[-3000:]
        if process.poll() is not None:  # it gives its containerd 15 s, which a guest may not have
            process = started()
        time.sleep(0.5)
    yield
    process.send_signal(signal.SIGTERM)
    process.wait()


@pytest.fixture(scope="module")
def here(docker: None) -> Path:
    """deploy/compose of a checkout, with a repository on the share that the page names."""
    with Path("/etc/hosts").open("a") as hosts:
        hosts.write("127.0.0.1 nfs.example.org server\n")
    HERE.parent.mkdir(parents=True)
    shutil.copytree(COMPOSE, HERE, ignore=shutil.ignore_patterns("workspaces", ".env"))
    patient = {"services": {name: {"healthcheck": PATIENT} for name in SERVICES}}
    (HERE / "patient.yaml").write_text(yaml.safe_dump(patient))
    repo = SHARED / "app"
    repo.mkdir(parents=True)
    git(repo, "init", "-q", "-b", "main")
    (repo / "README.md").write_text("colour\n")
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "first")
    run("chown", "-R", f"{UID}:{UID}", SHARED)
    return HERE


def git(repo: Path, *arguments: str) -> str:
    return run("git", "-c", "safe.directory=*", "-C", repo, *arguments).stdout.strip()


def typed(here: Path, block: str) -> None:
    """Line by line, as it stands but for what the module says."""
    for line in block.splitlines():
        if line.startswith("cd "):
            continue
        script = line.replace(" --build", " --no-build").replace(
            "network-storage.yaml'", "network-storage.yaml:patient.yaml'"
        )
        script = script.replace("username=runner,password=…", share_lab.SMB_USER)
        ran = said(here, "bash", "-euc", script)
        assert ran.returncode == 0, f"{line}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"


def said(here: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TYPED_S_MAX,
    )


def compose(here: Path, *words: str) -> str:
    done = said(here, "docker", "compose", *words)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def wfhub(here: Path, *words: str) -> str:
    return compose(here, "run", "--rm", "-T", "wfhub", *words)


def published(here: Path, repo: Path) -> dict[str, Any]:
    """A task's result, once its branch is there for the server and its proof is verified."""
    words = ("run", "--repo", "mount:app", "--prompt", "x", "--agent-cmd", EDIT, "--json")
    told = wfhub(here, *words).strip().splitlines()
    done: dict[str, Any] = json.loads(told[-1])
    assert done["state"] == "succeeded", told
    assert git(repo, "show", f"{done['branch']}:README.md") == "color"
    proven(here, done)
    return done


def proven(here: Path, done: dict[str, Any]) -> None:
    verified = wfhub(here, "proof", "verify", done["proof_id"])
    assert "tampered" not in verified, verified


def mounted(kind: str) -> str:
    """The kernel's options of the volume."""
    (found,) = (
        line for line in Path("/proc/mounts").read_text().splitlines() if f"/{VOLUME}/" in line
    )
    assert found.split()[2].startswith(kind), found
    return found.split()[3]


def test_nfs_then_smb_as_the_page_has_them(server: Server, here: Path) -> None:
    assert server.kind == "squashed"  # as exports are unless it is said otherwise
    nfs, smb, anew, ask = pages.blocks(PAGE.read_text())
    typed(here, nfs)
    assert "hard" in mounted("nfs4").split(",")
    first = published(here, SHARED / "app")
    doctor, _ = ask.splitlines()
    told = said(here, "bash", "-euc", doctor.replace("exec", "exec -T"))
    assert told.returncode == 0, told.stdout + told.stderr
    assert "share       /workspaces (nfs, " in told.stdout
    assert "can be: lower" in told.stdout
    assert "danger" not in told.stdout

    # The same repository, by another server: Samba's one user has it now.
    compose(here, "down")
    shutil.move(SHARED / "app", FOLDER / "app")
    samba = Smb()
    samba.start()
    run("chown", "-R", "3000:3000", FOLDER)
    typed(here, smb)
    typed(here, anew)
    assert "hard" in mounted("cifs").split(",")

    # Down and up, on another server: nothing is lost.
    assert first["task_id"] in wfhub(here, "list")
    proven(here, first)
    assert git(FOLDER / "app", "show", f"{first['branch']}:README.md") == "color"
    published(here, FOLDER / "app")

    env = here / ".env"
    env.write_text(env.read_text().replace("vers=3.1.1,hard", "vers=3.1.1,soft"))
    compose(here, "rm", "--stop", "--force", "agent-runner")
    typed(here, anew.splitlines()[1])
    compose(here, "up", "-d", "--no-build", "--no-deps", "agent-runner")
    assert "soft" in mounted("cifs").split(",")
    deadline = time.monotonic() + WARNED_S_MAX
    while "a share may lose work" not in (warned := compose(here, "logs", "agent-runner")):
        assert time.monotonic() < deadline, warned
        time.sleep(1)
    assert "mount it with hard" in warned

    compose(here, "down", "-v", "--timeout", "5")
    samba.stop()
    assert git(FOLDER / "app", "rev-parse", first["branch"])  # `down -v` is not the share's end
