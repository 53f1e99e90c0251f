"""Schedules: tasks and workflows started at given instants, once each, whatever the replicas.

cron.py and triggers.py say which instants; plans.py which of them are late, missed or still to be
fired; overlaps.py what a firing does beside one that still runs: all pure. rows.py, firing.py,
turns.py and commands.py are the I/O around them.
"""
