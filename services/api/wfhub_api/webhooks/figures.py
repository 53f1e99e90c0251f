"""Figures of webhooks, for /metrics (docs/metrics.md)."""

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common.metrics import SLOW_S, Metrics

from wfhub_api.views import select
from wfhub_api.webhooks.retries import Outcome

STATES = ("active", "failing", "paused", "disabled")

_COUNT = """
SELECT CASE WHEN w.paused THEN 'paused' WHEN w.disabled IS NOT NULL THEN 'disabled'
            WHEN c.failures > 0 THEN 'failing' ELSE 'active' END AS state, count(*) AS number
  FROM api.webhook w JOIN api.webhook_cursor c USING (webhook_id) GROUP BY 1
"""
# Of each that is at work, since when what comes next has been in the log.
_LAG = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - e.time)), 0) AS seconds
  FROM api.webhook w JOIN api.webhook_cursor c USING (webhook_id)
 CROSS JOIN LATERAL (SELECT time FROM sched.api_event
                      WHERE (generation, up_to) > (c.generation, c.pos)
                      ORDER BY generation, up_to LIMIT 1) e
 WHERE NOT w.paused AND w.disabled IS NULL
"""


class Figures:
    def __init__(self, metrics: Metrics, engine: AsyncEngine) -> None:
        self._engine = engine
        self._deliveries = metrics.counter(
            "webhook_deliveries", "Attempts to deliver an event, by how they ended.", "outcome"
        )
        self._seconds = metrics.histogram(
            "webhook_delivery_seconds", "From a request to its outcome.", buckets=SLOW_S
        )
        self._webhooks = metrics.gauge("webhooks", "Webhooks, by state.", "state")
        text = "The longest that an event has waited for a webhook that is neither paused nor off."
        self._lag = metrics.gauge("webhook_lag_seconds", text)
        metrics.look_up(self._look)

    def tried(self, outcome: Outcome, seconds: float) -> None:
        self._deliveries.labels(outcome.outcome).inc()
        self._seconds.observe(seconds)

    async def _look(self) -> None:
        found = {row.state: row.number for row in await select(self._engine, _COUNT)}
        for state in STATES:
            self._webhooks.labels(state).set(found.get(state, 0))
        (lag,) = await select(self._engine, _LAG)
        self._lag.set(float(lag.seconds))
