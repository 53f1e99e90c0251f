"""Routing: which server answers a request, and what happens when it does not.

`config` reads the operator's file; `reasons`, `choice`, `backoff` and `breaker` decide; `router` is
the provider that does it.
"""
