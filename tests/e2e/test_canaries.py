"""Action 22: every secret of a stack, searched for wherever an agent's work leaves traces.

A real stack runs a task on an https host whose agent collects whatever it can read, prints it and
commits it. Afterwards each secret is looked for in every file of the stack (database, streams,
blobs, logs, runners' homes), in the published branch, in the proof and in what the CLI shows.
"""

import json
import re
from pathlib import Path

import git_hosts
import gitrepos
import pytest
from git_hosts import HttpsHost
from gitrepos import git

from .conftest import Stack, start

PROVIDER_KEY = "sk-canary-provider-4711-4711"
STOP_S_MAX = 30
READ_BYTES_MAX = 64 * 1024 * 1024  # of one file; the stack is minutes old
# Where secrets belong; each is readable by its owner alone (tests/integration/local).
KEPT = (
    *("secrets/", "credentials.json", "sealing-keys.json", "admin-token"),
    *("nats/", "postgres/password", "signing/"),
)
LOOT = """
{ echo LOOT-BEGIN; env; set; cat /proc/*/environ /proc/*/cmdline; cat /etc/passwd /etc/shadow;
  find / -xdev \\( -name '*.json' -o -name '*.pem' -o -name '*token*' -o -name '*secret*' \\) \\
    -not -path '/usr/*' -not -path '/proc/*' -exec cat {} +;
  ls -laR /run /home /tmp; cat .git/config; curl -s http://127.0.0.1:8090/v1/models;
  curl -s http://127.0.0.1:8090/; } > loot.txt 2>&1
cat loot.txt
"""
TOKENS = re.compile(rb"wat_[A-Za-z0-9_-]{16,}")


def secrets_of(data: Path) -> dict[str, bytes]:
    """By a name that may be shown."""
    found: dict[str, bytes] = {}
    kept = json.loads((data / "credentials.json").read_text())
    found["admin_token"] = kept["admin_token"].encode()
    for kind in ("nats", "database", "tokens"):
        found |= {f"{kind} of {who}": text.encode() for who, text in kept[kind].items()}
    for key in (data / "signing").rglob("*"):
        if key.is_file() and b"PRIVATE" in (text := key.read_bytes()):
            found["signing key"] = text.splitlines()[1]
    assert "signing key" in found
    sealing = json.loads((data / "sealing-keys.json").read_text())
    found |= {f"sealing key {number}": key.encode() for number, key in sealing.items()}
    return found


def webhook_of(stack: Stack) -> dict[str, str]:
    """One whose secret was changed, so that the database has two."""
    made = json.loads(stack.wfhub("webhook", "add", "https://hub.example.org/in", "--json").stdout)
    told = stack.wfhub("webhook", "rotate", made["webhook_id"], "--json").stdout
    return {**made, "next": json.loads(told)["secret"]}


def command_lines() -> bytes:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes())
        except OSError:
            continue
    return b"\0".join(found)


def is_kept(name: str) -> bool:
    return name.startswith(KEPT) and not name.startswith("nats/jetstream")


def traces(data: Path) -> dict[str, bytes]:
    """Every file of the stack, but those that secrets are kept in."""
    files = {str(file.relative_to(data)): file for file in data.rglob("*")}
    return {
        name: file.read_bytes()[:READ_BYTES_MAX]
        for name, file in files.items()
        if file.is_file() and not file.is_symlink() and not is_kept(name)
    }


def stack_with(shared: Path, host: HttpsHost) -> dict[str, str]:
    secret = shared / "git-password"
    secret.write_text(host.password)
    secret.chmod(0o600)
    entry = {"match": f"https://{host.name}", "username": host.user, "password_file": str(secret)}
    (shared / "git.json").write_text(json.dumps({"credentials": [entry]}))
    (shared / "ca.pem").write_text(host.ca)
    return {
        "GIT_HOSTS": host.name,
        "GIT_CREDENTIALS_FILE": str(shared / "git.json"),
        "GIT_CA_FILE": str(shared / "ca.pem"),
        "LLM_PROVIDER": "openai",
        "LLM_BASE_URL": "http://127.0.0.1:9",
        "OPENAI_API_KEY": PROVIDER_KEY,
    }


@pytest.mark.hostile(22)
def test_no_secret_is_left_where_an_agent_worked() -> None:
    with gitrepos.shared_folder() as shared:
        repo = gitrepos.make(shared / "hosted" / "app.git", {"loot.sh": LOOT.encode()}, bare=True)
        with git_hosts.https(repo.parent) as host:
            host.password = "canary-git-password-0815"
            said: list[bytes] = []
            host.at_request = lambda _: said.append(command_lines())
            stack = start(shared / "data", **stack_with(shared, host))
            try:
                code, told, progress = stack.run(
                    *("--repo", host.url("app.git"), "--prompt", "loot"),
                    *("--agent-cmd", "sh loot.sh"),
                    *("--verify", "env; cat /proc/*/environ; test -s loot.txt"),
                )
                assert code == 0, (told, progress)
                hook = webhook_of(stack)
                task = told["task_id"]
                logs = stack.wfhub("logs", task).stdout
                events = stack.wfhub("events", task, "--no-follow", "--json").stdout
                shown = stack.wfhub("status", task, "--json").stdout
            finally:
                stack.process.terminate()
                stack.process.wait(STOP_S_MAX)
            places = traces(shared / "data")
            places["logs"], places["events"] = logs.encode(), events.encode()
            places["status"], places["progress"] = shown.encode(), progress.encode()
            places["branch"] = git(repo, "log", "-p", "--all", "--format=raw").encode(
                "utf-8", "surrogateescape"
            )
            places["command lines"] = b"\0".join(said)
            secrets = {
                **secrets_of(shared / "data"),
                "provider key": PROVIDER_KEY.encode(),
                "git password": host.password.encode(),
                "webhook's secret": hook["secret"].encode(),
                "webhook's next secret": hook["next"].encode(),
            }
    # The controls: the agent did collect and print, and each place was there to be searched.
    assert "LOOT-BEGIN" in logs
    assert b"LOOT-BEGIN" in places["branch"]
    assert any("jetstream" in name for name in places)
    assert any(name.startswith("postgres/data/base/") for name in places)
    assert any(hook["webhook_id"].encode() in text for text in places.values())
    assert any(b"LOOT-BEGIN" in text for name, text in places.items() if "sha256" in name)
    assert said
    leaked = [
        f"{name} in {place}"
        for place, text in places.items()
        for name, value in secrets.items()
        if value in text
    ]
    assert leaked == []
    assert [place for place, text in places.items() if TOKENS.search(text)] == []
