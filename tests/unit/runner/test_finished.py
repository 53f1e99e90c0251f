from pathlib import Path

from wfhub_agent_runner.finished import Finished, Record
from wfhub_common import ids, messages
from wfhub_common.messages import AttemptState


def record() -> Record:
    complete = messages.Complete(attempt_id=ids.new_attempt_id(), outcome=AttemptState.REJECTED)
    return Record(complete, ())


def test_a_record_is_there_for_the_next_process(tmp_path: Path) -> None:
    kept = record()
    Finished(tmp_path / "finished").keep(kept)
    assert Finished(tmp_path / "finished").waiting() == {kept.complete.attempt_id: kept}


def test_a_record_that_cannot_be_read_stands_in_nobodys_way(tmp_path: Path) -> None:
    kept = record()
    finished = Finished(tmp_path)
    finished.keep(kept)
    (tmp_path / "att_torn.json").write_text('{"complete": {"attempt')
    (tmp_path / "att_other.json").write_text('{"complete": {}, "items": [{"size": 1}]}')
    for _ in range(2):
        assert finished.waiting() == {kept.complete.attempt_id: kept}
    assert len(list(tmp_path.glob("*.unreadable"))) == 2
