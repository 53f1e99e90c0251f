"""Routes: one module per noun of the REST API; each handler decodes, calls one thing, returns."""
