"""Parts of bench/llm_gateway.py: an upstream, the ways to it, and a client that measures them."""
