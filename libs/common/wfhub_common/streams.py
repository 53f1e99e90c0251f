"""The JetStream streams: the one place that declares them (FastStream never does: declare=False).

The scheduler provisions at start and after a stream vanished; others wait until theirs is there.
A stream that exists with another configuration is updated where JetStream allows it.
"""

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from wfhub_common import subjects

DAY_S = 86_400
EVENTS_AGE_S = 30 * DAY_S
INGEST_MESSAGES_MAX = 1_000_000
INGEST_BYTES_MAX = 256 * 1024**2
LOGS_AGE_S = 3600
LOGS_BYTES_MAX = 1024**3
LOGS_PER_ATTEMPT_MAX = 20_000
DLQ_AGE_S = 90 * DAY_S
MESSAGE_BYTES_MAX = 1024 * 1024


def configs(replicas: int = 1) -> tuple[StreamConfig, ...]:
    return (
        StreamConfig(
            name=subjects.EVENTS_STREAM,
            subjects=[subjects.EVENTS_FILTER],
            retention=RetentionPolicy.LIMITS,
            max_age=EVENTS_AGE_S,
            max_msg_size=MESSAGE_BYTES_MAX,
            allow_atomic=True,  # the relay publishes in atomic batches
            deny_delete=True,
            storage=StorageType.FILE,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=subjects.INGEST_STREAM,
            subjects=[subjects.INGEST_FILTER],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,  # a full queue is the publisher's to know: its spool waits
            max_msgs=INGEST_MESSAGES_MAX,
            max_bytes=INGEST_BYTES_MAX,
            max_msg_size=MESSAGE_BYTES_MAX,
            storage=StorageType.FILE,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=subjects.LOGS_STREAM,
            subjects=[subjects.LOGS_FILTER],
            retention=RetentionPolicy.LIMITS,
            max_age=LOGS_AGE_S,
            max_bytes=LOGS_BYTES_MAX,
            max_msgs_per_subject=LOGS_PER_ATTEMPT_MAX,
            max_msg_size=MESSAGE_BYTES_MAX,
            storage=StorageType.FILE,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=subjects.DLQ_STREAM,
            subjects=[subjects.DLQ_FILTER],
            retention=RetentionPolicy.LIMITS,
            max_age=DLQ_AGE_S,
            max_msg_size=MESSAGE_BYTES_MAX,
            storage=StorageType.FILE,
            num_replicas=replicas,
        ),
    )


async def provision(js: JetStreamContext, *, replicas: int = 1) -> None:
    """Create what is missing, update what differs. Idempotent."""
    for config in configs(replicas):
        assert config.name is not None
        try:
            await js.stream_info(config.name)
        except NotFoundError:
            await js.add_stream(config)
        else:
            await js.update_stream(config)
