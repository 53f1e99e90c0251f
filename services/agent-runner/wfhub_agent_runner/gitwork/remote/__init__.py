"""Repositories on another machine, by https or ssh: spoken to in the access helper alone."""
