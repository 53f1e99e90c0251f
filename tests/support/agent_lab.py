"""Real agents in a real sandbox, with a model server that the test scripts.

`work` and `refused` run the agent one relay away from that server, without a stack: for agents that
speak Chat Completions, which it speaks. `work_in_stack` has the gateway in between, for any.
To be called as root or not; the agent runs at the runner's uid.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import unprivileged
from sandbox_lab import Lab
from wfhub_agent_runner import outcomes
from wfhub_agent_runner.agents import context, parsers, planning
from wfhub_agent_runner.agents.entry import Wire
from wfhub_agent_runner.relay import GatewayRelay
from wfhub_agent_runner.sandbox import port
from wfhub_agent_runner.sandbox.bwrap import own_python
from wfhub_common.messages import AgentSpec
from wfhub_local.agents import selftest, task
from wfhub_local.agents.make_cassette import completion_of
from wfhub_local.agents.scripts import Turn
from wfhub_local.demo import scripted_model

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Worked:
    outcome: port.Outcome
    output: str
    asked: list[dict[str, Any]]
    events: list[dict[str, Any]]
    changed: list[str]  # paths, without .git
    traffic: outcomes.ModelTraffic
    lives_off_a_model: bool

    def decision(self, *, has_verification: bool = False) -> outcomes.Decision | None:
        return outcomes.of_agent_run(
            self.outcome,
            changed=bool(self.changed),
            traffic=self.traffic,
            has_verification=has_verification,
            lives_off_a_model=self.lives_off_a_model,
        )


def work(
    home: Path,
    toolchain: Path,
    spec: AgentSpec,
    turns: Sequence[Turn],
    files: Mapping[str, str] | None = None,
) -> Worked:
    answers = [completion_of(turn, number) for number, turn in enumerate(turns, 1)]
    aside = completion_of(Turn("Nothing to add."), 0)

    async def run() -> Worked:
        with scripted_model.serving(answers, aside=aside) as script:
            return await _run(home, toolchain, spec, script.url, script.requests, files or {})

    return unprivileged.run(home, run)


def work_in_stack(
    home: Path, toolchain: Path, name: str, turns: Sequence[Turn], files: Mapping[str, str]
) -> tuple[list[dict[str, Any]], selftest.Outcome]:
    """What the server was asked, and what came of the task."""
    home.chmod(0o755)  # service uids pass through it
    answers = [completion_of(turn, number) for number, turn in enumerate(turns, 1)]
    with scripted_model.serving(answers, aside=completion_of(Turn("Nothing to add."), 0)) as script:
        provider = {"LLM_PROVIDER": "openai", "LLM_BASE_URL": script.url}
        folder = selftest.Folder(home, toolchain)
        outcome = selftest.played(name, folder, provider, os.environ, more=files)
    return script.requests, outcome


def refused(home: Path, toolchain: Path, spec: AgentSpec, status: int) -> Worked:
    """With a model server that answers everything with one status."""

    async def run() -> Worked:
        with refusing(status) as url:
            return await _run(home, toolchain, spec, url, [], {})

    return unprivileged.run(home, run)


@contextmanager
def refusing(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            inner = {"message": "bad key", "type": "authentication_error", "code": status}
            body = json.dumps({"type": "error", "error": inner}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _run(
    home: Path,
    toolchain: Path,
    spec: AgentSpec,
    url: str,
    asked: list[dict[str, Any]],
    files: Mapping[str, str],
) -> Worked:
    lab = Lab(home)
    for name, text in {**task.FILES, **files}.items():
        (lab.lower / name).write_text(text)
    around = context.found_in(lab.lower)
    plan = planning.plan(spec, prompt=task.PROMPT, python=(str(own_python()),), around=around)
    layers = lab.layers()
    relay = GatewayRelay(
        socket_path=home / "s", gateway_url=url.removesuffix("/v1"), token="wat_real"
    )
    async with relay:
        ran = await lab.run(
            *plan.argv,
            env={"PATH": f"{toolchain / 'bin'}:{SYSTEM_PATH}", **plan.env},
            files=plan.files,
            binds={str(toolchain): toolchain},
            gateway_socket=relay.socket_path,
            wall_s=300,
            **layers,
        )
    upper = layers["upper"]
    paths = [path.relative_to(upper) for path in upper.rglob("*") if path.is_file()]
    found = parsers.events_of(plan.entry.parser, ran.output.encode())
    return Worked(
        outcome=ran.outcome,
        output=ran.output,
        asked=asked,
        events=[json.loads(event.line()) for event in found],
        changed=sorted(str(path) for path in paths if path.parts[0] != ".git"),
        traffic=outcomes.ModelTraffic(
            relay.requests, relay.answered, relay.last_error, relay.last_status
        ),
        lives_off_a_model=plan.entry.wire is not Wire.ANY,
    )
