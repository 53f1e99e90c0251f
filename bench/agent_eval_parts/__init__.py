"""The parts of bench/agent_eval.py."""
