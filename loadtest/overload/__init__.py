"""The service over HTTP at multiples of its capacity, beside its goals and bounds."""
