"""What the demo says of a run, and when it calls it as expected."""

from dataclasses import replace
from typing import Any

import pytest
from wfhub_local.demo import modes, report
from wfhub_local.demo.modes import Mode
from wfhub_local.demo.report import Outcome

COMMIT = "c" * 40
TASK = "tsk_a"


def verdict(status: str, exit_code: int) -> dict[str, Any]:
    return {"status": status, "commands": [{"command": "pytest", "exit_code": exit_code}]}


SUCCEEDED = Outcome(
    mode=Mode("replay", "replayed from a cassette that was written by hand", {}),
    task={
        "task_id": TASK,
        "state": "succeeded",
        "reason": "",
        "message": "",
        "commit": COMMIT,
        "proof_id": "prf_a",
    },
    status={
        "attempts": [
            {
                "kind": "agent",
                "base_verdict": verdict("failed", 1),
                "verdict": verdict("passed", 0),
            },
            {"kind": "publish", "base_verdict": None, "verdict": None},
        ]
    },
    verified={
        "verified": True,
        "proof_id": "prf_a",
        "commit": COMMIT,
        "exchanges_count": 7,
        "replayed_count": 7,
        "labels": ["replayed: written by hand"],
    },
    published={f"refs/heads/wfhub/{TASK}": COMMIT},
    diff="--- a/parse.py\n+++ b/parse.py\n",
)
FAILED = replace(
    SUCCEEDED,
    task={**SUCCEEDED.task, "state": "failed", "reason": "no-changes", "proof_id": ""},
    status={"attempts": []},
    verified=None,
    published={},
    diff="",
)
LOCAL = Mode("local", "live, from a small model", {}, must_succeed=False)


def test_a_repair_that_was_verified_published_and_proven_is_as_expected() -> None:
    assert SUCCEEDED.as_expected
    said = "\n".join(report.lines(SUCCEEDED))
    assert "mode  replay: the model's words are replayed" in said
    assert "written by hand" in said
    assert "before  verification failed `pytest` → 1" in said
    assert "after  verification passed `pytest` → 0" in said
    assert "prf_a verified offline" in said
    assert "7 of them replayed" in said


@pytest.mark.parametrize(
    "change",
    [
        {"published": {}},
        {"published": {f"refs/heads/wfhub/{TASK}": "d" * 40}},
        {"verified": None},
        {"verified": {"verified": False, "why": "the signature does not match"}},
        {"status": {"attempts": []}},
        {
            "status": {
                "attempts": [
                    {
                        "kind": "agent",
                        "base_verdict": verdict("passed", 0),
                        "verdict": verdict("passed", 0),
                    }
                ]
            }
        },
    ],
)
def test_a_success_that_lacks_any_of_its_evidence_is_not_as_expected(
    change: dict[str, Any],
) -> None:
    outcome = replace(SUCCEEDED, **change)
    assert not outcome.as_expected
    assert not replace(outcome, mode=LOCAL).as_expected
    assert "NOT as it should be" in report.lines(outcome)[-1]


def test_a_small_model_may_fail_as_long_as_it_is_said() -> None:
    assert not FAILED.as_expected
    assert replace(FAILED, mode=LOCAL).as_expected
    said = "\n".join(report.lines(replace(FAILED, mode=LOCAL)))
    assert "failed no-changes" in said
    assert "as expected, and said so: no branch, no proof" in said


def test_a_failure_that_left_a_branch_is_never_as_expected() -> None:
    left = replace(FAILED, mode=LOCAL, published={f"refs/heads/wfhub/{TASK}": COMMIT})
    assert not left.as_expected


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, "replay"),
        ({"LLM_PROVIDER": "replay"}, "replay"),
        ({"LLM_PROVIDER": "ollama"}, "live"),
        ({"LLM_BASE_URL": "http://127.0.0.1:1/v1"}, "live"),
    ],
)
def test_a_named_provider_makes_the_demo_live(env: dict[str, str], name: str) -> None:
    assert modes.default_name(env) == name
