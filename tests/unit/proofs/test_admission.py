"""Which announced artifacts the proof-store receipts, refuses, or waits for."""

import pytest
from wfhub_common import ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import ArtifactStored
from wfhub_common.subjects import AttemptSubject
from wfhub_proof_store import access, admission

ATTEMPT = ids.new_attempt_id()
DIGEST = "sha256:" + "a" * 64
AT = AttemptSubject("rnr_x", "prj_x", "tsk_x", ATTEMPT, "artifact")


def announced(**change: object) -> ArtifactStored:
    fields = {"attempt_id": ATTEMPT, "name": "agent.log", "digest": DIGEST, "size": 5}
    return ArtifactStored.model_validate({**fields, **change})


def decided(stored_bytes: int | None, age_s: float = 0, deliveries: int = 1) -> object:
    return admission.decide(
        announced(),
        stored_bytes=stored_bytes,
        age_s=age_s,
        deliveries=deliveries,
        blob_wait_s=600,
    )


def test_a_blob_of_the_announced_size_is_admitted_however_late() -> None:
    assert decided(5, age_s=10_000) == admission.Admitted()


def test_a_blob_of_another_size_is_refused_at_once() -> None:
    assert decided(4) == admission.Refused("5 bytes were announced, the blob has 4")


def test_a_missing_blob_is_waited_for_longer_each_time_and_then_refused() -> None:
    waits = [decided(None, deliveries=n) for n in (1, 2, 3, 100)]
    assert waits == [admission.NotYet(s) for s in (0.1, 0.2, 0.4, 5.0)]
    assert isinstance(decided(None, age_s=600), admission.Refused)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../b", "a//b", ".", "a\\b", "a\x00", "a\nb", "a\u202eb"]
)
@pytest.mark.hostile(17)
def test_a_name_that_could_mislead_is_refused(name: str) -> None:
    with pytest.raises(Rejected) as refused:
        admission.check_fields(announced(name=name))
    assert refused.value.code == "artifact-name"


@pytest.mark.parametrize("name", ["result.bundle", "logs/verify-1.log", "Änderung 1.txt", "..x"])
def test_an_ordinary_name_is_not(name: str) -> None:
    admission.check_fields(announced(name=name))


def test_a_media_type_cannot_carry_a_header() -> None:
    with pytest.raises(Rejected):
        admission.check_fields(announced(media_type="text/plain\r\nX: y"))


def test_a_message_speaks_for_the_attempt_of_its_subject_only() -> None:
    admission.check_claim(AT, announced())
    with pytest.raises(Rejected) as refused:
        admission.check_claim(AT, announced(attempt_id=ids.new_attempt_id()))
    assert refused.value.code == "attempt-mismatch"


@pytest.mark.parametrize("sender", ["api", "scheduler", "proof-store"])
def test_services_that_only_read_may_not_write(sender: str) -> None:
    with pytest.raises(Rejected) as refused:
        access.check_may_write(sender)
    assert refused.value.status == 403
