"""What the operator's settings grant to a task, before anything is connected."""

import pytest
from wfhub_agent_runner.egress_log import EgressLog
from wfhub_agent_runner.egress_policy import EgressPolicy
from wfhub_agent_runner.settings import RunnerSettings
from wfhub_common.egress import Endpoint
from wfhub_common.errors import Rejected

NEEDED = {
    "RUNNER_ID": "r",
    "RUNNER_HOME": "/h",
    "PROOFS_URL": "http://p",
    "GATEWAY_URL": "http://g",
}


def policy(project: str = "web", **variables: str) -> EgressPolicy:
    return RunnerSettings.from_env({**NEEDED, **variables}).egress_rules().of(project)


def test_without_the_setting_nothing_is_granted() -> None:
    assert policy() == EgressPolicy(project="web")
    assert not EgressPolicy().granted(()).allowed
    with pytest.raises(Rejected, match=r"a\.example:443.*EGRESS_ALLOWED") as refused:
        policy().granted(["a.example:443"])
    assert refused.value.code == "egress-forbidden"


def test_a_task_gets_what_it_asked_for_and_no_more() -> None:
    bound = policy(EGRESS_ALLOWED="A.example:443, b.example:80,", EGRESS_PRIVATE_HOSTS="b.example")
    granted = bound.granted(["a.example:443"])
    assert granted.allowed == {Endpoint("a.example", 443)}
    assert granted.private_hosts == {"b.example"}
    for other in ("a.example:80", "c.example:443"):
        with pytest.raises(Rejected, match=other):
            bound.granted(["a.example:443", other])


def test_an_entry_may_be_for_some_projects_only() -> None:
    allowed = "A.example:443,b.example:80=web, mobile; c.example:443;d.example:1=mobile"
    entries = {
        project: {str(entry) for entry in policy(project, EGRESS_ALLOWED=allowed).allowed}
        for project in ("web", "mobile", "other")
    }
    assert entries == {
        "web": {"a.example:443", "b.example:80", "c.example:443"},
        "mobile": {"a.example:443", "b.example:80", "c.example:443", "d.example:1"},
        "other": {"c.example:443"},
    }
    with pytest.raises(Rejected, match=r"project 'other' connect to a\.example:443"):
        policy("other", EGRESS_ALLOWED=allowed).granted(["a.example:443"])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EGRESS_ALLOWED", "a.example:443="),
        ("EGRESS_ALLOWED", "=web"),
        ("EGRESS_ALLOWED", "a.example:443;*.example:1=web"),
        ("EGRESS_ALLOWED", "*.example:443"),
        ("EGRESS_PRIVATE_HOSTS", "b.example:80"),
    ],
)
def test_a_setting_that_is_wrong_is_named_at_the_start(variable: str, value: str) -> None:
    with pytest.raises(SystemExit, match=variable):
        policy(**{variable: value})


def test_no_flood_of_refusals_hides_what_was_allowed(tmp_path: object) -> None:
    from pathlib import Path

    log = EgressLog(Path(str(tmp_path)) / "egress.log", lines_max=3)
    for _ in range(100):
        log.add(target="x.example:1", allowed=False, reason="not-allowed")
    log.add(target="a.example:443", allowed=True, reason="complete", sent_bytes=5)
    log.write()
    lines = log.path.read_text().splitlines()
    assert len(lines) == 3 + 1 + 1
    assert '"a.example:443"' in lines[3]
    assert '"connections_refused": 100' in lines[4]
    assert '"lines_left_out": 97' in lines[4]
