"""The service: HTTP front ends, one engine process, and the supervisor that keeps them alive."""
