"""Arrivals into a real engine process, without HTTP."""
