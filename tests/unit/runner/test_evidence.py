"""What was observed of an attempt stays small enough for a proof, whatever its agent did."""

from pathlib import Path

from wfhub_agent_runner.agents import table
from wfhub_agent_runner.agents.planning import AgentPlan
from wfhub_agent_runner.evidence import Evidence
from wfhub_agent_runner.gitwork.workspaces import Snapshot
from wfhub_common import digests, limits
from wfhub_common.messages import (
    Change,
    CommandResult,
    RunnerObservations,
    TaskSpec,
    Verdict,
    VerdictStatus,
)

COMMAND = "make " + "x" * 7_000
SPEC = TaskSpec(repo="/r", prompt="p", verify=(COMMAND,) * 17, verify_base=True)
PROMPT = "x\n" * 40_000


def _verdict() -> Verdict:
    results = (
        CommandResult(command=each, exit_code=0, outcome="exited", duration_ms=1, log=f"v-{n}.log")
        for n, each in enumerate(SPEC.verify)
    )
    return Verdict(status=VerdictStatus.PASSED, commands=tuple(results))


def _observed(paths: list[str], tests: list[str], ci_files: list[str]) -> RunnerObservations:
    evidence = Evidence(verdict=_verdict(), base_verdict=_verdict())
    entry = table.ENTRIES["aider"]
    evidence.plan = AgentPlan(entry=entry, argv=("aider", PROMPT), env={}, files={})
    evidence.snapshot = Snapshot(
        commit="c" * 40,
        tree="d" * 40,
        changes=tuple(Change(path=path, change="added") for path in paths),
        changes_total=90_000,
        tests_changed=tuple(tests),
        tests_changed_total=70_000,
        ci_files=tuple(ci_files),
        ci_files_total=len(ci_files),
        ci_files_unclear="",
        bundle=Path("result.bundle"),
        patch=Path("result.patch"),
    )
    return evidence.observed("rnr_a", SPEC, {})


def test_the_longest_paths_and_commands_fit_and_what_is_left_out_is_counted() -> None:
    long = [f"{n:04}/" + "é/" * 2_000 for n in range(limits.CHANGES_LISTED_MAX)]
    observed = _observed(long, long, [".github/workflows/a.yml"])
    assert len(SPEC.model_dump_json(exclude={"prompt"}).encode()) <= limits.SPEC_BYTES_MAX
    assert len(observed.model_dump_json().encode()) <= limits.OBSERVED_BYTES_MAX
    assert (observed.changes_total, observed.tests_changed_total) == (90_000, 70_000)
    assert observed.ci_files == (".github/workflows/a.yml",)
    assert 0 < len(observed.tests_changed) < len(long)


def test_usual_paths_are_all_listed_and_arguments_shown() -> None:
    paths = [f"src/package/module_{n}.py" for n in range(limits.CHANGES_LISTED_MAX)]
    observed = _observed(paths, paths[:10], [])
    assert [change.path for change in observed.changes] == paths
    assert observed.tests_changed == tuple(paths[:10])
    assert observed.agent_argv[0] == "aider"
    assert observed.agent_argv[1].startswith("x\nx\n")
    assert digests.of_bytes(PROMPT.encode()) in observed.agent_argv[1]
