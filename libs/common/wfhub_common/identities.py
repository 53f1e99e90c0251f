"""NATS identities: who may publish and hear what. One user a service, runner and subscriber.

The permissions are the first fence (SECURITY: a runner publishes no event, speaks on no other's
subject, owns no consumer); the SQL's `runner_id = :sender` is the second.
Permissions bind what one publishes, not where an answer to it goes: that is the subject which the
question names, and the answer's sender (JetStream's acknowledgement too) may speak there. So
runners and subscribers have accounts of their own, where no subject of ours means anything: only
what ACCOUNTS lists passes between them, and an answer stays in the asker's (ADR 0045).
Shape: `permissions` of a nats-server user, `exports` and `imports` of its accounts.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from wfhub_common import subjects as s


@dataclass(frozen=True)
class Permissions:
    publish: tuple[str, ...]  # empty: nothing at all
    subscribe: tuple[str, ...]
    responds: bool = False  # may answer requests it hears (`allow_responses`, one reply each)


def _inbox(user: str) -> str:
    return f"_INBOX.{user}.>"


def runner(runner_id: str) -> Permissions:
    return Permissions(
        publish=(
            *(s.rpc(runner_id, command) for command in s.RUNNER_COMMANDS),
            f"{s.ROOT}.ingest.{runner_id}.>",
            f"{s.ROOT}.log.{runner_id}.>",
        ),
        subscribe=(_inbox(runner_id), s.WAKE, s.steering(runner_id)),
        responds=True,
    )


def subscriber(projects: Collection[str] = ()) -> Permissions:
    """Another system: it hears the events of `projects` (ids; none: of all) as they happen, and
    says nothing. What it missed is at `GET /v1/events?after=`."""
    of = tuple(s.event(each, "*", "*", "*") for each in projects)
    return Permissions(publish=(), subscribe=of or (s.EVENTS_FILTER,))


@dataclass(frozen=True)
class Account:
    """`answers`: what others may ask here; `tells`: what they may hear. Patterns of subjects, by
    the account that they are for."""

    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tells: dict[str, tuple[str, ...]] = field(default_factory=dict)


HUB, RUNNERS, SUBSCRIBERS = "HUB", "RUNNERS", "SUBSCRIBERS"
ACCOUNTS: dict[str, Account] = {
    HUB: Account(  # the services, and every stream
        answers={
            RUNNERS: (
                *(s.rpc_filter(command) for command in s.RUNNER_COMMANDS),
                s.INGEST_FILTER,
                s.LOGS_FILTER,
            )
        },
        tells={RUNNERS: (s.WAKE,), SUBSCRIBERS: (s.EVENTS_FILTER,)},
    ),
    RUNNERS: Account(answers={HUB: (s.steering("*"),)}),
    SUBSCRIBERS: Account(),
}


def _consumes(stream: str) -> tuple[str, ...]:
    """What a durable or ordered consumer of one stream has to say to JetStream."""
    return (
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.*.{stream}",
        f"$JS.API.CONSUMER.*.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.ACK.{stream}.>",
        f"$JS.FC.{stream}.>",
    )


SERVICES: dict[str, Permissions] = {
    s.API: Permissions(
        publish=(
            *(s.rpc(s.API, command) for command in s.API_COMMANDS),
            *_consumes(s.LOGS_STREAM),
        ),
        subscribe=(_inbox(s.API), s.EVENTS_FILTER, s.LOGS_FILTER),
    ),
    s.SCHEDULER: Permissions(
        publish=(
            s.EVENTS_FILTER,
            s.WAKE,
            f"{s.ROOT}.ctl.>",
            s.dlq(s.SCHEDULER),
            s.rpc(s.SCHEDULER, "seal"),
            s.rpc(s.SCHEDULER, "seal_many"),
            "$JS.API.>",  # the one provisioner of streams
        ),
        subscribe=(_inbox(s.SCHEDULER), s.WAKE, f"{s.ROOT}.rpc.>"),
        responds=True,
    ),
    s.PROOF_STORE: Permissions(
        publish=(
            s.rpc(s.PROOF_STORE, "exchanges"),
            s.dlq(s.PROOF_STORE),
            *_consumes(s.INGEST_STREAM),
        ),
        subscribe=(
            _inbox(s.PROOF_STORE),
            s.rpc_filter("seal"),
            s.rpc_filter("seal_many"),
            s.rpc_filter("receipts"),
            s.rpc_filter("replay_ingest_letter"),
            s.rpc_filter("discard_ingest_letter"),
        ),
        responds=True,
    ),
    s.GATEWAY: Permissions(
        publish=(
            s.rpc(s.GATEWAY, "introspect"),
            s.rpc(s.GATEWAY, "introspect_many"),
            s.dlq(s.GATEWAY),
        ),
        subscribe=(
            _inbox(s.GATEWAY),
            s.rpc_filter("exchanges"),
            s.rpc_filter("usage"),
            s.CTL_ATTEMPT_ENDED,
            s.CTL_ATTEMPTS_ENDED,
        ),
        responds=True,
    ),
}
