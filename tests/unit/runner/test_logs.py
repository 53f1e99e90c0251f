import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from wfhub_agent_runner.logs import MASK, LogFile, Redactor


@given(
    before=st.binary(max_size=40), after=st.binary(max_size=40), cuts=st.lists(st.integers(1, 20))
)
def test_a_secret_is_masked_wherever_the_chunks_are_cut(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    secret = "wst_0123456789abcdef"
    data = before + secret.encode() + after
    redactor, out = Redactor((secret,)), b""
    position = 0
    for size in [*cuts, len(data)]:
        out += redactor.feed(data[position : position + size])
        position += size
    out += redactor.finish()
    assert secret.encode() not in out
    assert out == data.replace(secret.encode(), MASK)


def test_a_log_keeps_head_and_tail_and_says_what_it_left_out(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=100)
    for n in range(1000):
        log.write(b"%04d\n" % n)
    log.close()
    text = (tmp_path / "log").read_bytes()
    assert text.startswith(b"0000\n0001\n")
    assert text.endswith(b"0998\n0999\n")
    assert b"bytes left out" in text
    assert len(text) < 200


def test_a_short_log_is_kept_whole(tmp_path: Path) -> None:
    data = os.urandom(90)
    log = LogFile(tmp_path / "log", bytes_max=100)
    log.write(data[:70])
    log.write(data[70:])
    log.close()
    assert (tmp_path / "log").read_bytes() == data
