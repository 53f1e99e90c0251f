"""The faults. Each is injected, proven to have met what it is aimed at, and taken back.

A fault answers with its proof (what was in its window, by the database's or the wire's word), or
None: then it does not count. docs/adr/0013-chaos.md lists them beside the wanted ones.
Units: seconds.
"""

from chaos.faults import messages, network, processes, storage
from chaos.faults.parts import Fault

FAULTS: dict[str, Fault] = {
    "scheduler-killed": processes.scheduler_killed,
    "runner-killed": processes.runner_killed,
    "completion-unanswered": messages.completion_unanswered,
    "claim-unanswered": messages.claim_unanswered,
    "submission-unanswered": messages.submission_unanswered,
    "nats-killed": processes.nats_killed,
    "postgres-killed": processes.postgres_killed,
    "runner-cut": network.runner_cut,
    "delivered-twice": messages.delivered_twice,
    "stream-wiped": storage.stream_wiped,
    "proof-store-killed": processes.proof_store_killed,
    "scheduler-stopped": processes.scheduler_stopped,
    "runner-stopped": processes.runner_stopped,
    "nats-away": processes.nats_away,
    "runner-cut-one-way": network.runner_cut_one_way,
    "scheduler-cut-from-postgres": network.scheduler_cut_from_postgres,
    "scheduler-cut-one-way": network.scheduler_cut_one_way,
    "scheduler-cut-from-nats": network.scheduler_cut_from_nats,
    "stream-truncated": storage.stream_truncated,
    "disk-full": storage.disk_full,
    "clock-jumped": processes.clock_jumped,
}
SHORT = tuple(list(FAULTS)[:11])  # of the cut for CI
