"""The runner's delivery against the real store: an announcement that was lost is made again."""

import os
from pathlib import Path

import pytest
from wfhub_agent_runner import delivery
from wfhub_agent_runner.delivery import Delivery
from wfhub_agent_runner.spool import Item, Spool
from wfhub_common import digests
from wfhub_common.errors import RetryLater

from .conftest import RUNNER, Attempt, Hub


class FirstLost(Delivery):
    """As when the stream is wiped between its acknowledgement and the store's look at it."""

    announced = 0

    async def _announce(self, item: Item) -> None:
        self.announced += 1
        if self.announced > 1:
            await super()._announce(item)


async def test_what_gets_no_receipt_is_announced_again(
    running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RECEIPTS_WAIT_S", 0.5)
    of = Attempt()
    (tmp_path / "agent.log").write_text("done\n")
    spool = Spool(tmp_path / "spool")
    item = spool.put(
        tmp_path / "agent.log",
        project_id=of.project_id,
        task_id=of.task_id,
        attempt_id=of.attempt_id,
        name="agent.log",
        media_type="text/plain",
    )
    async with running.http() as http:
        runner = FirstLost(runner_id=RUNNER, spool=spool, broker=running.runners[RUNNER], http=http)
        (receipt,) = await runner.deliver([item])
    assert (receipt.name, receipt.attempt_id) == ("agent.log", of.attempt_id)
    assert runner.announced > 1
    assert list(spool.waiting()) == []


async def test_a_blob_is_fetched_as_it_was_stored_or_not_at_all(
    running: Hub, tmp_path: Path
) -> None:
    large = os.urandom(3 * 1024 * 1024 + 7)
    digest = digests.of_bytes(large)
    hexdigest = digests.hex_of(digest)
    async with running.http() as http:
        runner = Delivery(
            runner_id=RUNNER,
            spool=Spool(tmp_path / "spool"),
            broker=running.runners[RUNNER],
            http=http,
        )
        with pytest.raises(RetryLater, match="404"):
            await runner.fetch(digest, tmp_path / "blob")
        await http.put(f"/blobs/sha256/{hexdigest}", content=large)
        await runner.fetch(digest, tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == large
        (stored,) = running.store.root.glob(f"sha256/*/*/{hexdigest}")
        stored.chmod(0o600)
        with stored.open("r+b") as file:
            file.write(b"rot")
        with pytest.raises(RetryLater):
            await runner.fetch(digest, tmp_path / "blob")
