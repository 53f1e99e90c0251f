"""An artifact's name cannot choose a folder, end the header, or smuggle a second one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_api.log_sources import logs_of
from wfhub_api.routes.proofs import disposition
from wfhub_common.messages import Receipt


@given(st.text(max_size=80))
@pytest.mark.hostile(17)
def test_a_disposition_is_one_plain_ascii_line(name: str) -> None:
    header = disposition(name)
    assert header.isascii()
    assert header.isprintable()
    plain = header.split('"')[1]
    assert "/" not in plain
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("name", "plain"), [("../../x", "x"), ("a b.txt", "a_b.txt"), ("", "artifact")]
)
def test_a_download_is_named_by_the_last_part(name: str, plain: str) -> None:
    assert f'filename="{plain}"' in disposition(name)


def test_the_agents_log_comes_first_and_only_logs_are_logs() -> None:
    receipts = [
        Receipt(
            attempt_id="a", name=name, digest="d", size=1, media_type="m", sender="s", stored_at="t"
        )
        for name in ("verify.log", "result.bundle", "base-verify.log", "agent.log")
    ]
    assert [r.name for r in logs_of(receipts)] == ["agent.log", "base-verify.log", "verify.log"]
