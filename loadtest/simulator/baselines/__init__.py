"""What others do, on the same footing: same model, same latency table, same world, deciding charged alike.

One module a scheduler; each says where it is published and what had to be settled to run it here. They are written
from the papers' descriptions.
"""
