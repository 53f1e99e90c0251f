"""`wfhub run --egress` through every real part: settings, proxy, sandbox, log, proof."""

import base64
import contextlib
import glob
import http.server
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import gitrepos
import pytest

from .conftest import Stack, git, start

SMALL_BYTES = 10_000
HOST = "127.0.0.2"  # loopback, and not among what programs are told not to ask a proxy for


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "8")
        self.end_headers()
        self.wfile.write(b"package\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer((HOST, 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{HOST}:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    with gitrepos.shared_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def open_stack(
    tmp_path_factory: pytest.TempPathFactory, registry: str, cache: Path
) -> Iterator[Stack]:
    (cache / "wheel").write_text("kept\n")
    running = start(
        tmp_path_factory.mktemp("egress") / "data",
        LLM_PROVIDER="openai",
        LLM_BASE_URL="http://127.0.0.1:9",
        EGRESS_ALLOWED=f"{registry},other.example:443",
        EGRESS_PRIVATE_HOSTS=HOST,
        SHARED_CACHES=f"pip:{cache}=default;npm:{cache}=another",
    )
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0


def begun(file: Path) -> bytes:
    """Its first bytes; the stack that it is of may have removed it meanwhile."""
    with contextlib.suppress(OSError):
        if file.is_file():
            with file.open("rb") as opened:
                return opened.read(SMALL_BYTES)
    return b""


def test_the_agent_reaches_what_was_allowed_and_its_verification_does_not(
    open_stack: Stack, repository: Path, registry: str, tmp_path: Path
) -> None:
    fetch = f"curl -sS --max-time 10 http://{registry}/secret-path"
    code, result, progress = open_stack.run(
        *("--repo", str(repository), "--prompt", "fetch it", "--egress", registry),
        *("--agent-cmd", f"sh -c '{fetch} -o got.txt; curl -sS http://other.example:443/; true'"),
        *("--verify", "grep -qx package got.txt"),
        *("--verify", f'test -z "$http_proxy$HTTP_PROXY" && ! {fetch}'),
    )
    assert code == 0, (result, progress)
    shown = open_stack.wfhub("status", result["task_id"], "--json").stdout
    assert registry in shown
    exported = tmp_path / "proof.json"
    done = open_stack.wfhub("proof", "export", result["proof_id"], "-o", str(exported))
    assert done.returncode == 0, done.stderr
    statement = base64.b64decode(json.loads(exported.read_text())["envelope"]["payload"]).decode()
    assert "egress.log" in statement
    assert '"connections_allowed":1' in statement.replace(" ", "")
    assert '"connections_refused":1' in statement.replace(" ", "")
    blobs = [
        blob
        for name in glob.iglob("**", root_dir=open_stack.data, recursive=True, include_hidden=True)
        if len(blob := begun(open_stack.data / name)) < SMALL_BYTES
    ]
    logs = [blob for blob in blobs if b'"decision"' in blob and registry.encode() in blob]
    assert logs, "the log of the proxy is nowhere in the store"
    assert not any(b"secret-path" in blob for blob in logs)


def test_what_the_operator_did_not_allow_ends_the_task_at_once(
    open_stack: Stack, repository: Path
) -> None:
    code, result, progress = open_stack.run(
        *("--repo", str(repository), "--prompt", "x", "--agent-cmd", "touch x"),
        *("--egress", "elsewhere.example:443", "--attempts", "3"),
    )
    assert (code, result["reason"]) == (1, "egress-forbidden"), progress
    assert result["attempts"] == 1
    shown = open_stack.wfhub("status", result["task_id"], "--json").stdout
    assert "elsewhere.example:443" in shown
    assert "EGRESS_ALLOWED" in shown


def test_an_entry_that_is_not_exact_is_refused_before_anything_runs(
    open_stack: Stack, repository: Path
) -> None:
    done = open_stack.wfhub(
        *("run", "--repo", str(repository), "--prompt", "x", "--egress", "*.example:443")
    )
    assert done.returncode == 2
    assert "exact DNS name" in done.stderr


def test_set_up_goes_where_the_agent_may_not_and_is_kept_for_the_next(
    open_stack: Stack, repository: Path, registry: str, tmp_path: Path
) -> None:
    fetch = f"curl -sS --max-time 10 http://{registry}/dep"
    statements = []
    for number in range(2):
        code, result, progress = open_stack.run(
            *("--repo", str(repository), "--prompt", "x", "--setup-egress", registry),
            *("--setup", f"{fetch} -o dep.txt", "--setup", "echo changed > README.md"),
            *("--agent-cmd", f"sh -c 'cat dep.txt README.md > got.txt; {fetch} -o no.txt; true'"),
            *("--verify", "cat dep.txt README.md | cmp - got.txt && grep -qx colour README.md"),
        )
        assert code == 0, (result, progress)
        changed = git("diff", "--name-only", "main", result["branch"], cwd=repository)
        assert changed == "got.txt"
        exported = tmp_path / f"{number}.json"
        done = open_stack.wfhub("proof", "export", result["proof_id"], "-o", str(exported))
        assert done.returncode == 0, done.stderr
        payload = json.loads(exported.read_text())["envelope"]["payload"]
        statements.append(base64.b64decode(payload).decode().replace(" ", ""))
    assert ['"reused":true' in text for text in statements] == [False, True]
    assert all('"put_back":["README.md"]' in text for text in statements)
    assert "setup-egress.log" in statements[0]


def test_every_step_finds_the_shared_cache_of_its_project(
    open_stack: Stack, repository: Path
) -> None:
    kept = "grep -qx kept ~/.cache/pip/wheel && test ! -e ~/.npm"
    code, result, progress = open_stack.run(
        *("--repo", str(repository), "--prompt", "x", "--setup", f"{kept} && touch ~/.cache/pip/x"),
        *("--agent-cmd", f"sh -c '{kept} && test ! -e ~/.cache/pip/x && touch done'"),
        *("--verify", kept),
    )
    assert code == 0, (result, progress)


def test_a_set_up_that_fails_says_which_command(open_stack: Stack, repository: Path) -> None:
    code, result, progress = open_stack.run(
        *("--repo", str(repository), "--prompt", "x", "--agent-cmd", "touch x"),
        *("--setup", "true", "--setup", "echo no such mirror; exit 4"),
    )
    assert (code, result["reason"]) == (1, "setup-failed"), progress
    shown = open_stack.wfhub("status", result["task_id"], "--json").stdout
    assert "exit code 4; see setup.log" in shown
