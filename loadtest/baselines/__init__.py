"""Servers that the service is compared with; each runs as a process of its own."""
