"""Workflows: graphs of tasks.

`documents` reads what was submitted (with `graph` and `expressions`), `settling` decides what
follows from a task's end; both are rules. `submission`, `advancing` and `stopping` do the I/O.
"""
