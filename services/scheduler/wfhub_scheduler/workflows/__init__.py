"""Workflows: graphs of tasks.

`documents` reads what was submitted (with `graph` and `expressions`), `settling` decides what
follows from a task's end, `filling` puts results into specs: rules. `rows` has the SQL;
`submission`, `advancing` and `stopping` are the three things that happen to a workflow.
"""
