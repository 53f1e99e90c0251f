"""The sandbox an agent runs in: a port (`port`), its bwrap adapter, and the probes that test it."""
