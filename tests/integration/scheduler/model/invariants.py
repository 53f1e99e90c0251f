"""The invariants, as questions to the whole database; every row of an answer is a violation.

They need no model: what they say must hold of any database the scheduler ever wrote, after each
commit. I1, I2, I4 and I6 are those of the fault list. The event log is the history: it says which
attempt was current when, and which way each task and attempt went.
"""

# Waits are pushed a day away, so that what the machine has not made due stays so.
STAND_STILL = """
UPDATE sched.unit SET run_at = now() + interval '1 day' WHERE state = 'ready' AND run_at > now();
UPDATE sched.task SET seal_due_at = now() + interval '1 day' WHERE seal_due_at > now();
"""

# What the model predicts, in its own words (model.py's fields).
SNAPSHOT = """
SELECT json_build_object(
  'tasks', (SELECT json_object_agg(t.task_id, json_build_object(
     'project', p.name, 'state', t.state, 'reason', t.reason, 'cancel', t.cancel_requested,
     'stopping', t.stopping_since IS NOT NULL, 'past', coalesce(t.deadline_at <= now(), false),
     'workflow', t.workflow_id, 'counted', t.workflow_settled,
     'current', t.current_attempt, 'winner', t.winner, 'used', t.attempts_used,
     'losses', t.infra_losses, 'sealed', t.proof_id IS NOT NULL, 'review', t.review,
     'seal_waits', t.seal_due_at > now(),
     'units', (SELECT json_object_agg(u.kind, json_build_object('state', u.state, 'tries', u.tries,
         'losses', u.losses, 'waits', u.state = 'ready' AND u.run_at > now()))
       FROM sched.unit u WHERE u.task_id = t.task_id)))
     FROM sched.task t JOIN sched.project p USING (project_id)),
  'attempts', (SELECT json_object_agg(attempt_id, json_build_object(
     'task_id', task_id, 'kind', kind, 'number', number, 'runner', runner_id,
     'incarnation', incarnation, 'claim_id', claim_id, 'state', state, 'reason', reason,
     'token', token_sha256,
     'expired', lease_until < now() AND finished_at IS NULL)) FROM sched.attempt),
  'projects', (SELECT json_object_agg(name, json_build_object('project_id', project_id,
     'limit', running_limit, 'weight', weight, 'queue', queue_limit, 'paused', paused))
     FROM sched.project),
  'pools', (SELECT json_object_agg(pool, json_build_object('limit', running_limit,
     'paused', paused)) FROM sched.pool WHERE running_limit IS NOT NULL OR paused),
  'runners', (SELECT json_object_agg(runner_id, json_build_object('incarnation', incarnation,
     'draining', draining)) FROM sched.runner),
  'workflows', (SELECT json_object_agg(workflow_id, json_build_object('state', state,
     'cancel', cancel_requested)) FROM sched.workflow),
  'flow_keys', (SELECT json_object_agg(p.name || ' ' || idempotency_key, workflow_id)
     FROM sched.workflow JOIN sched.project p USING (project_id)
    WHERE idempotency_key IS NOT NULL),
  'keys', (SELECT json_object_agg(p.name || ' ' || key, task_id)
     FROM sched.idempotency JOIN sched.project p USING (project_id)))
"""

_LIVE = "('leased', 'running', 'verifying')"
_FINAL = "('succeeded', 'failed', 'cancelled')"

_CHECKS: dict[str, str] = {
    "I1 one win at most": """
        SELECT task_id FROM sched.attempt WHERE state = 'won' GROUP BY task_id, kind
        HAVING count(*) > 1""",
    "I1 the winner won": """
        SELECT t.task_id FROM sched.task t
         WHERE t.winner IS NOT NULL AND NOT EXISTS (
               SELECT FROM sched.attempt a WHERE a.attempt_id = t.winner
                  AND a.task_id = t.task_id AND a.kind = 'agent' AND a.state = 'won')""",
    "I1 succeeded means published, once": """
        SELECT t.task_id FROM sched.task t
         WHERE (t.state = 'succeeded') IS DISTINCT FROM (
               (SELECT count(*) FROM sched.attempt a WHERE a.task_id = t.task_id
                   AND a.kind = 'publish' AND a.state = 'won') = 1)
            OR (SELECT count(*) FROM sched.event e WHERE e.task_id = t.task_id
                   AND e.type = 'task.state_changed' AND e.data ->> 'to' = 'succeeded')
               <> CAST(t.state = 'succeeded' AS integer)""",
    "I1 nothing is published without a proof": """
        SELECT task_id FROM sched.task
         WHERE state IN ('publishing', 'succeeded') AND proof_id IS NULL""",
    "I1 what was to be approved is published only then": """
        SELECT task_id FROM sched.task
         WHERE state IN ('publishing', 'succeeded') AND spec ->> 'review_s' IS NOT NULL
           AND review IS DISTINCT FROM 'approved'""",
    "I2 every open task has somebody or something to move it": f"""
        SELECT t.task_id || ' is ' || state FROM sched.task t
         WHERE state NOT IN {_FINAL} AND NOT CASE state
          WHEN 'blocked' THEN EXISTS (SELECT FROM sched.workflow_node n
                JOIN sched.workflow_node need ON need.workflow_id = n.workflow_id
                 AND need.number = ANY(n.needs)
                JOIN sched.task before ON before.task_id = need.task_id
               WHERE n.task_id = t.task_id AND NOT before.workflow_settled)
          WHEN 'ready' THEN EXISTS (SELECT FROM sched.unit u WHERE u.task_id = t.task_id
                               AND u.kind = 'agent' AND u.state = 'ready')
          WHEN 'running' THEN EXISTS (SELECT FROM sched.unit u WHERE u.task_id = t.task_id
                               AND u.kind = 'agent' AND u.state = 'leased')
          WHEN 'sealing' THEN seal_due_at IS NOT NULL
          WHEN 'review' THEN review_until IS NOT NULL
          WHEN 'publishing' THEN EXISTS (SELECT FROM sched.unit u WHERE u.task_id = t.task_id
                               AND u.kind = 'publish' AND u.state IN ('ready', 'leased'))
          ELSE false END""",
    "I4 the current attempt lives, and what lives is current": f"""
        SELECT coalesce(t.task_id, a.task_id)
          FROM (SELECT * FROM sched.task WHERE current_attempt IS NOT NULL) t
          FULL JOIN (SELECT * FROM sched.attempt WHERE state IN {_LIVE}) a
            ON a.attempt_id = t.current_attempt AND a.task_id = t.task_id
         WHERE t.task_id IS NULL OR a.task_id IS NULL""",
    # A lease opens a turn; all that is said until the next lease must be of that attempt.
    "I4 events come from the attempt that is current": """
        SELECT entity_id || ' said ' || type || ' in the turn of '
               || coalesce(holder, 'nobody') FROM (
          SELECT *, first_value(entity_id)
                      OVER (PARTITION BY task_id, turn ORDER BY batch_id, n) AS holder
            FROM (SELECT *, count(*) FILTER (WHERE data ->> 'to' = 'leased')
                              OVER (PARTITION BY task_id ORDER BY batch_id, n) AS turn
                    FROM sched.event WHERE kind = 'attempt') numbered) held
         WHERE entity_id <> holder OR turn = 0""",
    "I4 an attempt goes forward, and ends once": f"""
        SELECT entity_id || ' from ' || coalesce(was, 'nothing') || ' ('
               || coalesce(data ->> 'from', 'nothing') || ') to ' || (data ->> 'to') FROM (
          SELECT *, lag(data ->> 'to') OVER (PARTITION BY entity_id ORDER BY batch_id, n) AS was
            FROM sched.event WHERE type = 'attempt.state_changed') way
         WHERE was IS DISTINCT FROM data ->> 'from'
            OR NOT CASE coalesce(was, '')
                WHEN '' THEN data ->> 'to' = 'leased'
                WHEN 'leased' THEN data ->> 'to' <> 'leased'
                WHEN 'running' THEN data ->> 'to' NOT IN ('leased', 'running')
                WHEN 'verifying' THEN data ->> 'to' NOT IN {_LIVE}
                ELSE false END""",
    "I4 nobody speaks after its end": f"""
        SELECT entity_id || ' said ' || type FROM (
          SELECT *, bool_or(type = 'attempt.state_changed' AND data ->> 'to' NOT IN {_LIVE})
                      OVER (PARTITION BY entity_id ORDER BY batch_id, n
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS over
            FROM sched.event WHERE kind = 'attempt') spoken
         WHERE over""",
    "an attempt ends as its events say": """
        SELECT a.attempt_id FROM sched.attempt a
         WHERE a.state IS DISTINCT FROM (
           SELECT e.data ->> 'to' FROM sched.event e WHERE e.entity_id = a.attempt_id
              AND e.type = 'attempt.state_changed' ORDER BY e.batch_id DESC, e.n DESC LIMIT 1)""",
    "a task goes a legal way, and its end is the end": """
        SELECT task_id || ' from ' || coalesce(was, 'nothing') || ' ('
               || coalesce(data ->> 'from', 'nothing') || ') to ' || (data ->> 'to') FROM (
          SELECT *, lag(coalesce(data ->> 'to', data ->> 'state'))
                      OVER (PARTITION BY task_id ORDER BY batch_id, n) AS was
            FROM sched.event WHERE type IN ('task.submitted', 'task.state_changed')) way
         WHERE CASE type WHEN 'task.submitted' THEN was IS NOT NULL
               ELSE was IS DISTINCT FROM data ->> 'from' OR NOT coalesce(CASE was
                WHEN 'blocked' THEN data ->> 'to' IN ('ready', 'failed', 'cancelled')
                WHEN 'ready' THEN data ->> 'to' IN ('running', 'failed', 'cancelled')
                WHEN 'running' THEN data ->> 'to' IN ('ready', 'sealing', 'failed', 'cancelled')
                WHEN 'sealing' THEN data ->> 'to' IN
                    ('review', 'publishing', 'failed', 'cancelled')
                WHEN 'review' THEN data ->> 'to' IN ('publishing', 'failed', 'cancelled')
                WHEN 'publishing' THEN data ->> 'to' IN ('succeeded', 'failed')
                END, false) END""",
    "a task ends as its events say": """
        SELECT t.task_id FROM sched.task t
         WHERE t.state IS DISTINCT FROM (
           SELECT coalesce(e.data ->> 'to', e.data ->> 'state') FROM sched.event e
            WHERE e.task_id = t.task_id AND e.type IN ('task.submitted', 'task.state_changed')
            ORDER BY e.batch_id DESC, e.n DESC LIMIT 1)""",
    # Of a workflow: nothing starts before what it needs, and each end is counted once.
    "a task starts after what it needs": f"""
        SELECT t.task_id FROM sched.workflow_node n JOIN sched.task t USING (task_id)
          JOIN sched.workflow_node need ON need.workflow_id = n.workflow_id
           AND need.number = ANY(n.needs)
          JOIN sched.task before ON before.task_id = need.task_id
         WHERE (t.state NOT IN ('blocked', 'failed', 'cancelled') OR t.attempts_used > 0)
           AND (before.state NOT IN {_FINAL} OR NOT before.workflow_settled
                OR (n.needs_policy = 'all_succeeded' AND before.state <> 'succeeded'))""",
    "a workflow counts each end once": f"""
        SELECT w.workflow_id FROM sched.workflow w
          CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE NOT t.workflow_settled) AS open,
                   count(*) FILTER (WHERE t.workflow_settled AND t.state <> 'succeeded') AS bad,
                   bool_or(t.workflow_settled AND t.state NOT IN {_FINAL}) AS early
              FROM sched.task t WHERE t.workflow_id = w.workflow_id) is_
         WHERE (w.open_count, w.unsuccessful_count) <> (is_.open, is_.bad) OR is_.early""",
    "a node waits for what is not counted": """
        SELECT n.task_id FROM sched.workflow_node n
         WHERE n.needs_left <> (SELECT count(*) FROM sched.workflow_node need
                 JOIN sched.task before ON before.task_id = need.task_id
                WHERE need.workflow_id = n.workflow_id AND need.number = ANY(n.needs)
                  AND NOT before.workflow_settled)""",
    "a runner is told to stop only while it works": """
        SELECT task_id FROM sched.task
         WHERE stopping_since IS NOT NULL AND (state <> 'running' OR current_attempt IS NULL)""",
    "a unit is leased while an attempt of it lives": f"""
        SELECT u.unit_id FROM sched.unit u
         WHERE (u.state = 'leased') <> EXISTS (SELECT FROM sched.attempt a
                WHERE a.unit_id = u.unit_id AND a.state IN {_LIVE})""",
    "no unit is ready for a task that cannot use it": f"""
        SELECT u.unit_id FROM sched.unit u JOIN sched.task t USING (task_id)
         WHERE (t.state IN {_FINAL} AND u.state IN ('ready', 'leased'))
            OR (u.state = 'ready' AND t.current_attempt IS NOT NULL)
            OR (u.state = 'ready' AND t.state <> CASE u.kind
                  WHEN 'agent' THEN 'ready' WHEN 'publish' THEN 'publishing' END)""",
    "a key names a task": """
        SELECT i.key FROM sched.idempotency i LEFT JOIN sched.task t USING (task_id)
         WHERE t.project_id IS DISTINCT FROM i.project_id""",
    "tries are the attempts that ended by themselves": """
        SELECT t.task_id FROM sched.task t
         WHERE attempts_used <> (SELECT count(*) FROM sched.attempt a
                WHERE a.task_id = t.task_id AND a.kind = 'agent'
                  AND a.state IN ('won', 'rejected', 'failed', 'cancelled'))
            OR infra_losses <> (SELECT count(*) FROM sched.attempt a
                WHERE a.task_id = t.task_id AND a.state = 'lost')""",
}

FAULTS = "\nUNION ALL ".join(
    f"SELECT '{name}' AS name, CAST(found AS text) AS what FROM ({check}) AS broken (found)"
    for name, check in _CHECKS.items()
)
