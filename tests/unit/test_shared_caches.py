"""SHARED_CACHES: which project finds which folder."""

from pathlib import Path

import pytest
from wfhub_agent_runner import shared_caches

RULES = shared_caches.parse(" npm:/srv/npm=* ; pip:/srv/web-pip=web,mobile; pip:/srv/pip=*;")


def test_a_rule_that_names_the_project_wins() -> None:
    for_all = {"/home/agent/.cache/pip": Path("/srv/pip"), "/home/agent/.npm": Path("/srv/npm")}
    assert shared_caches.of(RULES, "other") == for_all
    of_web = for_all | {"/home/agent/.cache/pip": Path("/srv/web-pip")}
    assert shared_caches.of(RULES, "web") == of_web
    assert shared_caches.of((), "web") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("npm:/srv/npm", "no rule"),
        ("npm:/srv/npm=", "no rule"),
        ("npm=web", "no rule"),
        ("npm:srv/npm=web", "no rule"),
        ("nmp:/srv/npm=web", "no known cache; there are cargo"),
        ("npm:/a=web;npm:/b=mobile,web", "two npm caches for 'web'"),
    ],
)
def test_a_rule_that_cannot_be_read_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        shared_caches.parse(text)
