"""Agent command-line programs on this machine: where they come from, and whether they work.

`catalogue` says what there is to install (data), `installing` does it, `listing` and `selftest`
are `wfhub agent list` and `wfhub agent test`; `cli` has their options.
"""
