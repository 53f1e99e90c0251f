"""Secrets taken out of bodies, by shape and by value."""

from hypothesis import given
from hypothesis import strategies as st
from wfhub_common.redaction import REMOVED, redacted, redacted_bytes

SHAPES = (
    *("wat_" + "a" * 20, "sk-" + "b" * 20, "ghp_" + "c" * 36, "github_pat_" + "d" * 30),
    *("glpat-" + "e" * 20, "xoxb-" + "f" * 20, "AKIA" + "G" * 16, "Bearer abcdefgh.1234"),
    *("https://user:password@host/path", "-----BEGIN RSA PRIVATE KEY-----xyz"),
    *("-----BEGIN PRIVATE KEY-----xyz-----END PRIVATE KEY-----", "sk-short", "AKIA" + "g" * 16),
)
PIECES = st.sampled_from([*SHAPES, " ", "x", "_", "-", '"', "\\n", "é", "task-", "://", "@"])


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_bytes_lose_what_the_same_text_loses(text):
    assert redacted_bytes(text.encode()).decode() == redacted(text)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_bytes_lost_is_not_lost_again(text):
    found = redacted_bytes(text.encode())
    assert redacted_bytes(found) == found


def test_each_shape_is_found_within_json():
    for shape in SHAPES[:9]:
        body = f'{{"content": "it is {shape} ok"}}'.encode()
        found = redacted_bytes(body)
        assert REMOVED.encode() in found
        assert found.endswith(b' ok"}')


def test_known_secrets_go_whatever_their_shape_and_other_bytes_stay_as_they_are():
    body = b'{"a": "\xff known-secret-1 short"}'
    assert redacted_bytes(body, ("known-secret-1", "short")) == (b'{"a": "\xff [redacted] short"}')
    clean = b'{"a": 1}'
    assert redacted_bytes(clean, ("known-secret-1",)) is clean
