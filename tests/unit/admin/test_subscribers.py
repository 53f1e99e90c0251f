import json

import pytest
from pydantic import ValidationError
from wfhub_admin import subscribers
from wfhub_admin.settings import ProvisionSettings
from wfhub_admin.subscribers import Subscriber

ONE, OTHER = "prj_" + 24 * "a", "prj_" + 24 * "b"


def test_each_is_a_name_and_the_projects_it_hears_of() -> None:
    found = subscribers.parsed(f"ci:{ONE}+{OTHER}, audit,")
    assert found == (Subscriber("ci", (ONE, OTHER)), Subscriber("audit"))
    assert subscribers.parsed("") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("CI", "cannot be a subscriber's name"),
        ("scheduler", "no service's name"),
        ("a b", "cannot be a subscriber's name"),
        ("ci:", "no project id"),
        ("ci:default", "no project id"),
        (f"ci:{ONE}+*", "no project id"),
        ("ci,ci", "named twice"),
        (",".join(f"s{n}" for n in range(101)), "more than 100"),
    ],
)
def test_what_it_cannot_be_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        subscribers.parsed(text)
    with pytest.raises(ValidationError, match=why):
        ProvisionSettings(event_subscribers=text)


def test_the_other_system_is_told_all_that_it_needs() -> None:
    text = subscribers.told(Subscriber("ci", (ONE,)), nats_url="nats://nats:4222", password="p")
    assert json.loads(text) == {
        "url": "nats://nats:4222",
        "user": "ci",
        "password": "p",
        "projects": [ONE],
        "subjects": [f"wfhub.v1.evt.{ONE}.*.*.*"],
    }
