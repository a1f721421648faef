"""The load tester: arrivals -> client -> records -> summary -> plots.

It talks to a server only over HTTP and /proc, and knows nothing of the server's insides; but for the engine bench,
which times the runtimes in process.
"""
