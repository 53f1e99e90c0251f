"""Logs are made safe to show, however they are cut into chunks."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_api.plain_text import SEQUENCE_CHARS_MAX, PlainText, plain


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;new title\x07after", "after"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP1$qm\x1b\\dcs", "dcs"),
        ("\x9b31mc1\x9d0;t\x9c!".encode(), "c1!"),
        (b"\x1b(Bcharset\x1b7save\x1bc", "charsetsave"),
        (b"bell\x07 null\x00 del\x7f cr\r\n", "bell null del cr\n"),
        ("a\u202eb\u2066c\u200fd\u061ce".encode(), "abcde"),
        (b"bad \xff utf8", "bad \ufffd utf8"),
        ("деталь ✓ 🙂".encode(), "деталь ✓ 🙂"),
        (b"unterminated \x1b]0;title\nnext", "unterminated ]0;title\nnext"),
        (b"\x1b\x1b[0m[31m", "[31m"),
        (b"end \x1b[", "end ["),
    ],
)
def test_what_is_shown(raw: bytes, shown: str) -> None:
    assert plain(raw) == shown


@given(st.binary(max_size=200))
def test_nothing_unsafe_is_ever_shown(raw: bytes) -> None:
    for character in plain(raw):
        code = ord(character)
        assert character in "\n\t" or code >= 0x20
        assert not 0x7F <= code <= 0x9F
        assert code not in (0x061C, 0x200E, 0x200F)
        assert not 0x202A <= code <= 0x202E
        assert not 0x2066 <= code <= 0x2069


_PARTS = st.sampled_from(
    [b"a", b"\n", "é".encode(), b"\x1b[31m", b"\x1b]0;t\x07", b"\x1b]8;;u\x1b\\", b"\x1b(B", b"\r"]
)


@given(st.lists(_PARTS, max_size=12).map(b"".join), st.data())
def test_chunk_borders_make_no_difference(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    filter_ = PlainText()
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert "".join(map(filter_.feed, pieces)) + filter_.finish() == plain(raw)


def test_an_endless_sequence_is_not_kept_for_ever() -> None:
    filter_ = PlainText()
    filter_.feed(b"\x1b]0;")
    shown = "".join(filter_.feed(b"x" * 1000) for _ in range(10))
    assert len(shown) > 10_000 - 2 * SEQUENCE_CHARS_MAX


@pytest.mark.parametrize(
    "evil", [b"\x1b]", b"\x1b[", b"\x1b", b"\x1b]0;a", "\x9d".encode(), b"\x1b(("]
)
def test_hostile_bytes_take_linear_time(evil: bytes) -> None:
    began = time.thread_time()
    plain(evil * 500_000)
    assert time.thread_time() - began < 5
