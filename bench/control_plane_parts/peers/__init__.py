"""Other systems that run tasks, each doing nothing in the task, with durable settings.

Each module is a program for the bench's own environment (requirements/bench.lock), which has none
of the product; it starts its workers itself and prints one JSON line.
"""
