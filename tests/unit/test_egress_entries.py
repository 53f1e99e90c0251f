"""Entries of `egress`: exact, in one spelling, and no number that is read as an address."""

import pytest
from pydantic import ValidationError
from wfhub_common import egress, limits
from wfhub_common.egress import Endpoint
from wfhub_common.messages import TaskSpec

NOT_ENTRIES = [
    *("", ":", "example.org", "example.org:", ":443", "example.org:0", "example.org:65536"),
    *("example.org:0443", "example.org:+443", "example.org: 443", "example.org:４４３"),
    *("*.example.org:443", "*:443", "example.org.:443", ".example.org:443", "a..b:443"),
    *("-a.example:443", "a-.example:443", "exa mple.org:443", "example.org\n:443", "a/b:443"),
    *(
        "user@example.org:443",
        "http://example.org:80",
        "[::1]:443",
        "::1:443",
        "müller.example:443",
    ),
    *("\u212aernel.example:443", "127.1:80", "0x7f.0.0.1:80", "0x7f000001:80", "2130706433:80"),
    *("010.0.0.1:80", "1.2.3.256:80", "1.2.3.4.5:80", "a.0x:80", "a.1:80", "169.254.43518:80"),
    "a" * 64 + ".example:443",
    ".".join(["a" * 60] * 5) + ":443",
]


@pytest.mark.parametrize("text", NOT_ENTRIES)
def test_what_is_no_exact_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|registry"):
        egress.endpoint(text)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("registry.example:443", Endpoint("registry.example", 443)),
        ("Registry.EXAMPLE:443", Endpoint("registry.example", 443)),
        ("10.0.0.5:8443", Endpoint("10.0.0.5", 8443)),
        ("intranet:1", Endpoint("intranet", 1)),
        ("xn--mller-kva.example:65535", Endpoint("xn--mller-kva.example", 65535)),
        ("a1.2b:80", Endpoint("a1.2b", 80)),
        ("_srv.example:80", Endpoint("_srv.example", 80)),
    ],
)
def test_an_entry_has_one_spelling(text: str, entry: Endpoint) -> None:
    assert egress.endpoint(text) == entry
    assert egress.canonical(egress.canonical(text)) == str(entry)


def test_a_task_keeps_its_entries_in_that_spelling() -> None:
    assert TaskSpec(repo="/r").egress == ()
    assert TaskSpec(repo="/r", egress=("A.example:443",)).egress == ("a.example:443",)
    for wrong in (("*:443",), ("a.example:443",) * (limits.EGRESS_HOSTS_MAX + 1)):
        with pytest.raises(ValidationError, match="egress"):
            TaskSpec(repo="/r", egress=wrong)
