"""Agents that the runner knows: a table of data, and the built-in agent's one script."""
