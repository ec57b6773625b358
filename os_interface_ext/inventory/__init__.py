"""The embedded inventory: callers, quotas, networks, servers and ports in tables of our own."""
