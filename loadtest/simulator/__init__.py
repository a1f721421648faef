"""The simulator: the policy that serves, and what others do, on recorded latencies and recorded answers.

Discrete events over time that nobody waits for. Talks to no server; imports of the server the policy alone, and
what `record` needs to make a recording.
"""
