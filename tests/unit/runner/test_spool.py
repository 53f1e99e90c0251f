from pathlib import Path

import pytest
from wfhub_agent_runner import spool as spooling
from wfhub_agent_runner.spool import Item, Spool
from wfhub_common import digests
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.subjects import AttemptSubject


def put(spool: Spool, source: Path, name: str = "agent.log", attempt: str = "att_a") -> Item:
    return spool.put(
        source,
        project_id="prj_x",
        task_id="tsk_x",
        attempt_id=attempt,
        name=name,
        media_type="text/plain",
    )


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"hello")
    item = put(Spool(tmp_path / "spool"), source)
    source.unlink()
    (again,) = Spool(tmp_path / "spool").waiting()
    assert again == item
    assert again.blob.read_bytes() == b"hello"
    assert again.digest == digests.of_bytes(b"hello")
    assert again.size == 5


def test_removing_the_last_item_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"x")
    spool = Spool(tmp_path / "spool")
    spool.remove(put(spool, source))
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_half_made_item_is_not_delivered(tmp_path: Path) -> None:
    half = tmp_path / "spool" / "att_a" / ".agent.log.tmp"
    half.mkdir(parents=True)
    (half / "item.json").write_text("{}")
    assert list(Spool(tmp_path / "spool").waiting()) == []


def test_a_full_spool_refuses_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "SPOOL_BYTES_MAX", 8)
    source = tmp_path / "log"
    source.write_bytes(b"12345")
    spool = Spool(tmp_path / "spool")
    put(spool, source)
    with pytest.raises(RetryLater, match="proof-store"):
        put(spool, source, name="verify.log")
    assert spool.bytes_waiting() == 5


def test_what_cannot_be_kept_takes_nothing_else_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling.limits, "BLOB_BYTES_MAX", 8)
    (tmp_path / "small").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(b"123456789")
    spool = Spool(tmp_path / "spool")
    at = AttemptSubject("rnr_x", "prj_x", "tsk_x", "att_a")
    artifacts = {"large": (tmp_path / "large", "a/b"), "small": (tmp_path / "small", "a/b")}
    kept, error = spool.put_all(artifacts, at)
    assert [item.name for item in kept] == ["small"]
    assert isinstance(error, Rejected)
    assert error.code == "artifact-too-large"
