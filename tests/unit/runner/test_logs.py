import os
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from wfhub_agent_runner.logs import MASK, AttemptLog, LogFile, Redactor
from wfhub_common import limits, subjects


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


class Losing:
    """Takes each second message."""

    def __init__(self) -> None:
        self.came: list[tuple[bytes, dict[str, str]]] = []
        self._count = 0

    async def publish(self, data: bytes, _subject: str, headers: dict[str, str]) -> None:
        self._count += 1
        if self._count % 2 == 0:
            raise OSError("lost")
        self.came.append((data, headers))


async def test_each_chunk_of_the_live_tail_says_where_it_is_whatever_was_lost(
    tmp_path: Path,
) -> None:
    broker = Losing()
    at = subjects.AttemptSubject("rnr_x", "prj_x", "tsk_x", "att_x")
    path, secrets = tmp_path / "agent.log", ("wst_secret",)
    data = os.urandom(3 * limits.LOG_CHUNK_BYTES_MAX)
    async with AttemptLog("agent", path, at=at, broker=cast(Any, broker), secrets=secrets) as log:
        for piece in (b"a wst_sec", b"ret b", data[: len(data) // 2], data[len(data) // 2 :]):
            await log.write(piece)
    whole = path.read_bytes()
    assert whole == b"a " + MASK + b" b" + data
    assert len(broker.came) >= 2
    for sent, headers in broker.came:
        begins = int(headers[subjects.LOG_AT_HEADER])
        assert headers[subjects.LOG_HEADER] == "agent"
        assert whole[begins : begins + len(sent)] == sent
