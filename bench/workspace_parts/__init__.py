"""What bench/workspace.py is made of."""
