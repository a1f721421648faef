"""Raw records survive being saved, without pickles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest.records import RECORD, Run, empty_records, load_run


@pytest.mark.parametrize("stalls", [None, np.array([[1, 2]], dtype=np.int64), np.zeros((0, 2), np.int64)])
def test_a_saved_run_reads_back_the_same(tmp_path: Path, stalls: np.ndarray | None) -> None:
    records = empty_records(3)
    records["index"] = [1, 2, -1]
    run = Run(records, 1.5, 123, ("column1", "full"), stalls, {"repeats": 2})
    run.save(tmp_path / "deep" / "run.npz")
    again = load_run(tmp_path / "deep" / "run.npz")
    assert again.records.tobytes() == records.tobytes()
    assert (again.seconds, again.start_ns, again.stages, again.facts) == (1.5, 123, run.stages, run.facts)
    assert (again.stalls_ns is None) == (stalls is None)
    assert stalls is None or np.array_equal(again.stalls_ns, stalls)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", records=np.zeros(2, dtype=RECORD.descr[:3]))
    with pytest.raises(ValueError, match="another version"):
        load_run(tmp_path / "old.npz")
