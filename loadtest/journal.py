"""What happens to each request while a run goes on; becomes rows when it is over."""

import numpy as np

from loadtest.plan import Plan
from loadtest.records import NEVER, Outcome, Records, empty_records


class Journal:
    """What happened to each request, in plain lists: an item costs a third of one of an array."""

    def __init__(self, count: int) -> None:
        self.picked = [NEVER] * count
        self.sent = [NEVER] * count
        self.first_byte = [NEVER] * count
        self.done = [NEVER] * count
        self.status = [0] * count
        self.outcome = [int(Outcome.PENDING)] * count
        self.bodies: list[bytes | None] = [None] * count

    def to_records(self, plan: Plan, start: int) -> Records:
        """Rows of the plan with these stamps, counted from `start`."""
        records = empty_records(len(plan))
        records["image"], records["label"] = plan.images, plan.labels
        records["budget_ns"], records["intended_ns"] = plan.budgets_ns, plan.arrivals_ns
        records["status"], records["outcome"] = self.status, self.outcome
        for name, stamps in (
            ("picked_ns", self.picked),
            ("sent_ns", self.sent),
            ("first_byte_ns", self.first_byte),
            ("done_ns", self.done),
        ):
            values = np.array(stamps, dtype=np.int64)
            records[name] = np.where(values == NEVER, NEVER, values - start)
        return records
