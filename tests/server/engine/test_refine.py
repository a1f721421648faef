from __future__ import annotations

import numpy as np
import pytest

from model_repo.manifest import Pool, Stage
from model_repo.pooling import pool, stage_log_probabilities
from server.engine.refine import JobRecord, Refiner
from tests.models import tiny_manifest

CLASSES = 5


def manifest():
    plain = tiny_manifest({"column1": b"1", "column2": b"2", "full": b"3"}, classes=CLASSES)
    stages = tuple(
        Stage(**{**stage.model_dump(), "temperature": 1.0 + 0.5 * place})
        for place, stage in enumerate(plain.stages)
    )
    pools = {
        key: Pool(
            weights=tuple(0.5 + 0.25 * n for n in range(key.count(",") + 1)), temperature=0.8, accuracy=0.7
        )
        for key in plain.pools
    }
    return plain.model_copy(update={"stages": stages, "pools": pools})


def record(number: int, top_k: int = 2) -> JobRecord:
    return JobRecord(b"f", number, "tiny@1", 10**12, 0, top_k, b"")


def draw(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (n, CLASSES)).astype(np.float32)


def test_a_batch_of_jobs_with_different_histories_is_pooled_as_one_by_one():
    rule = manifest()
    refiner = Refiner(rule)
    jobs = [record(n, top_k=1 + n % 4) for n in range(6)]
    first, second, last = draw(6, 1), draw(3, 2), draw(6, 3)
    refiner.refine(jobs, 0, first)
    refiner.refine(jobs[::2], 1, second)
    refined = refiner.refine(jobs, 2, last)
    for n in range(6):
        logits = {0: first[n], 2: last[n]} | ({1: second[n // 2]} if n % 2 == 0 else {})
        places = sorted(logits)
        rows = [stage_log_probabilities(logits[p][None], rule.stages[p].temperature) for p in places]
        key = ",".join(rule.stage_names[p] for p in places)
        expected = pool(rows, rule.pools[key].weights, rule.pools[key].temperature)[0]
        message = refined.message(n, None)
        assert message.number == n
        assert message.stage == 2
        assert len(message.top) == 1 + n % 4
        assert [index for index, _ in message.top] == list(np.argsort(-expected))[: 1 + n % 4]
        assert [p for _, p in message.top] == pytest.approx(
            sorted(expected, reverse=True)[: 1 + n % 4], abs=1e-5
        )
        assert refined.confidences[n] == pytest.approx(expected.max(), abs=1e-5)
        alone = np.exp(stage_log_probabilities(last[n][None], rule.stages[2].temperature))[0]
        assert message.stage_top == (int(alone.argmax()), pytest.approx(alone.max(), abs=1e-5))


def test_the_reason_to_stop_travels_in_the_message():
    refined = Refiner(manifest()).refine([record(7)], 0, draw(1, 1))
    assert refined.message(0, "no_gain").final == "no_gain"
    assert refined.message(0, None).final is None


def test_all_classes_may_be_asked_for():
    refined = Refiner(manifest()).refine([record(1, top_k=CLASSES)], 0, draw(1, 1))
    top = refined.message(0, None).top
    assert sorted(index for index, _ in top) == list(range(CLASSES))
    assert sum(p for _, p in top) == pytest.approx(1, abs=1e-5)
