"""Chaos: real processes, faults whose timing is proven, and an offline verdict (ADR 0013)."""
