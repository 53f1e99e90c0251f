"""With a model that refuses, aider exits 0 and so did others. What counts is what the relay saw."""

from pathlib import Path

import agent_lab
import pytest
from wfhub_agent_runner.sandbox.port import Exited
from wfhub_common.messages import AgentSpec, AttemptState

# As seen, with the versions that we lock: a lie is an exit code 0.
EXIT_CODES = {
    "aider": 0,
    "claude-code": 1,
    "codex": 1,
    "gemini-cli": 145,
    "mini-swe-agent": 1,
    "opencode": 1,
    "qwen-code": 1,  # 0 in other versions, with "subtype": "success"
}
QUICK = ("codex",)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.agents]) for n in EXIT_CODES],
)
def test_a_refused_agent_fails_with_the_models_reason_whatever_its_exit_code(
    name: str, toolchain: Path, tmp_path: Path
) -> None:
    worked = agent_lab.refused(tmp_path, toolchain, AgentSpec(name=name), 401)
    assert worked.traffic.requests >= 1, worked.output
    assert worked.traffic.answered == 0
    for has_verification in (False, True):
        decision = worked.decision(has_verification=has_verification)
        assert decision is not None, worked.output
        assert (decision.outcome, decision.reason) == (AttemptState.FAILED, "model-refused")
        assert "bad key" in decision.message
    assert worked.outcome == Exited(EXIT_CODES[name]), worked.output
