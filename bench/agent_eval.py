"""An agent measured: real defects of real libraries, each as a task of the whole product.

`python bench/agent_eval.py [--model M] [--agent NAME] [--only DEFECT …] [--folder DIR]
[--wall-s S] [--requests N]`; a line a defect for people, then one JSON object as the last line.

Protocol. Each defect (agent_eval_parts/defects.py) is a task on the defective release with the
tests of the release that repaired it; the agent is told the symptom and the command that decides,
once. One try each, one after another, on a local stack. What a try may use is bounded (Bounds): the
agent's seconds, its requests to the model (a step is one, the task's budget), the seconds of each
check, and a deadline for the whole of it, which the scheduler keeps. So a run ends within
`ends_within_s`, beside the time that the stack takes to start; it is said before it begins.
Score. A defect is solved when the product's verification, on a clean checkout of the published
commit and outside the agent's sandbox, passes the tests that failed before, taken from beside the
repository, and breaks none of the others of their files. `solved_share` is the part that is solved.

--model repair   a cassette made on the spot of the repaired release: no model, all must be solved
        idle     a cassette that finishes at once: none may be solved
        local    a small model on this machine (needs `make .venv/.model-server`): none is expected,
                 so it has less time and fewer requests than others
        live     what LLM_PROVIDER, LLM_BASE_URL, … of the environment name
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wfhub_local.demo import commands, local_model, make_cassette
from wfhub_local.demo.folder import Folder
from wfhub_local.settings import GATEWAY_VARIABLES, picked

sys.path.insert(0, str(Path(__file__).parent))
from agent_eval_parts import cases, scripts
from agent_eval_parts.cases import Case
from agent_eval_parts.defects import DEFECTS

VERIFY_S_MAX = 120  # of each run of the tests that decide: before the work, and after it
PASSAGE_S_MAX = 60  # a task's way to its runner, its checkout, its proof and its publication


@dataclass(frozen=True)
class Bounds:
    """Of each defect."""

    wall_s: int
    requests: int

    @property
    def deadline_s(self) -> int:
        return self.wall_s + 2 * VERIFY_S_MAX + PASSAGE_S_MAX


BOUNDS = Bounds(wall_s=900, requests=50)
LOCAL_BOUNDS = Bounds(wall_s=60, requests=6)
CASSETTES = {"repair": scripts.repair, "idle": scripts.idle}
SAID_BY = {
    "repair": "nobody: a cassette made of the repaired release",
    "idle": "nobody: a cassette that finishes at once",
    "local": f"{local_model.NAME}, far too small for this work",
}
NOTE = "Turns made by bench/agent_eval.py to try the evaluation: no model said them."


@contextmanager
def gateway_of(
    model: str, folder: Path, prepared: list[Case], env: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """The gateway's settings, with what they need running meanwhile."""
    if model == "local":
        with local_model.serving(folder) as url:
            yield {"LLM_PROVIDER": "openai", "LLM_BASE_URL": url}
    elif model in CASSETTES:
        lines: list[dict[str, Any]] = [{**make_cassette.HEADER, "note": NOTE}]
        for case in prepared:
            turns = CASSETTES[model](case, folder)
            lines += make_cassette.exchanges(
                case.repository, case.prompt, turns, toolchain=folder / "toolchain"
            )
        cassette = folder / f"{model}.cassette.jsonl"
        cassette.write_text(make_cassette.text_of(lines))
        yield {"LLM_PROVIDER": "replay", "LLM_CASSETTE": str(cassette)}
    else:
        yield picked(env, GATEWAY_VARIABLES)


def evaluate(case: Case, shell: commands.Shell, agent: str, bounds: Bounds) -> dict[str, Any]:
    began = time.monotonic()
    deadline = datetime.now(UTC) + timedelta(seconds=bounds.deadline_s)
    task = shell.wfhub_json(
        "run",
        f"--repo={case.repository}",
        f"--prompt=@{case.prompt}",
        f"--title={case.defect.name}",
        f"--agent={agent}",
        f"--verify={case.check}",
        "--verify-base",
        f"--timeout-s={bounds.wall_s}",
        f"--budget=requests={bounds.requests}",
        f"--limit=verify_s={VERIFY_S_MAX}",
        f"--deadline={deadline.isoformat(timespec='seconds')}",
    )
    status = shell.wfhub_json("status", task["task_id"])
    attempts = [each for each in status.get("attempts") or [] if each["kind"] == "agent"]
    base = (attempts[-1].get("base_verdict") or {}).get("status") if attempts else None
    return {
        "defect": case.defect.name,
        "solved": task["state"] == "succeeded" and base == "failed",
        "failed_before": base == "failed",
        "state": task["state"],
        "reason": task["reason"],
        "usage": status.get("usage"),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", choices=(*CASSETTES, "local", "live"), default="repair")
    parser.add_argument("--agent", default="builtin")
    parser.add_argument("--only", nargs="*", choices=[d.name for d in DEFECTS], default=None)
    parser.add_argument("--wall-s", type=int, default=None, help="of the agent, each defect")
    parser.add_argument("--requests", type=int, default=None, help="to the model, each defect")
    parser.add_argument("--folder", type=Path, default=Path(".demo/eval"))
    asked = parser.parse_args()
    if asked.model in CASSETTES and asked.agent != "builtin":
        parser.error(f"--model {asked.model} is a script for the built-in agent")
    if asked.model == "live" and not {"LLM_PROVIDER", "LLM_BASE_URL"} & set(os.environ):
        parser.error("--model live: set LLM_BASE_URL, or LLM_PROVIDER and its key")
    usual = LOCAL_BOUNDS if asked.model == "local" else BOUNDS
    bounds = Bounds(asked.wall_s or usual.wall_s, asked.requests or usual.requests)
    folder = Folder(asked.folder.absolute())
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.make_config()
    chosen = [d for d in DEFECTS if asked.only is None or d.name in asked.only]
    prepared = [cases.prepare(defect, folder.path) for defect in chosen]
    ends_within_s = bounds.deadline_s * len(prepared)
    print(f"{len(prepared)} defects, {bounds}: ends within {ends_within_s} s", file=sys.stderr)
    began = time.monotonic()
    with (
        gateway_of(asked.model, folder.path, prepared, os.environ) as gateway,
        commands.stack(folder, os.environ, gateway) as shell,
    ):
        results = [evaluate(case, shell, asked.agent, bounds) for case in prepared]
    seconds = round(time.monotonic() - began, 1)
    solved = sum(result["solved"] for result in results)
    for result in results:
        mark = "solved" if result["solved"] else f"NOT SOLVED ({result['reason']})"
        print(f"{result['defect']:28} {mark:32} {result['seconds']:6.1f} s")
    summary = {
        "bench": "agent_eval",
        "agent": asked.agent,
        "model": asked.model,
        "said_by": SAID_BY.get(asked.model, os.environ.get("LLM_MODEL") or "the provider's model"),
        "defects": len(results),
        "solved": solved,
        "solved_share": round(solved / len(results), 3),
        "wall_s_max": bounds.wall_s,
        "requests_max": bounds.requests,
        "verify_s_max": VERIFY_S_MAX,
        "ends_within_s": ends_within_s,
        "seconds": seconds,
        "results": results,
    }
    print(json.dumps(summary))
    expected = {"repair": len(results), "idle": 0}.get(asked.model, solved)
    return 0 if solved == expected and all(r["failed_before"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
