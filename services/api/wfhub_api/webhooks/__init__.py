"""Webhooks: other systems are told of public events by HTTP (ADR 0044).

`rows` is what people ask for, `cursors` how far each webhook has come, `deliverer` the work:
it claims webhooks that are behind the log, and `sending` sends one event a request to where
`targets` allows. `patterns`, `retries` and `gaps` decide, without I/O.
"""
