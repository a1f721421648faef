"""A real engine process with real ONNX graphs, spoken to over its socket."""

from __future__ import annotations

import signal
import time

import numpy as np
import onnxruntime
import pytest

from model_repo.manifest import Manifest
from model_repo.pooling import pool, stage_log_probabilities
from server.messages import Cancel, Credit, Done, Heartbeat
from tests.models import publish_tiny_model
from tests.server.engine.conftest import image, job


def offline(model, stages: list[int], pixels: np.ndarray) -> np.ndarray:
    """The pooled probabilities of one image by hand: ONNX Runtime and the manifest's formula."""
    manifest: Manifest = model.manifest
    rows = []
    for place in stages:
        session = onnxruntime.InferenceSession(model.read(manifest.stages[place]))
        (logits,) = session.run(None, {session.get_inputs()[0].name: pixels[None]})
        rows.append(stage_log_probabilities(logits, manifest.stages[place].temperature))
    rule = manifest.pools[",".join(manifest.stage_names[place] for place in stages)]
    return pool(rows, rule.weights, rule.temperature)[0]


def test_jobs_are_refined_to_the_end_with_the_numbers_of_offline_pooling(start_engine, front_end, tiny):
    start_engine()
    front_end.greet()
    front_end.send(*[job(number) for number in range(40)])
    front_end.hear(lambda: len(front_end.ends) == 40)
    assert set(front_end.ends.values()) <= {"deepest", "no_gain"}
    for number in range(40):
        got = front_end.refinements[number]
        assert got[0].stage == 0
        for count in range(1, len(got) + 1):
            probabilities = offline(tiny, sorted(r.stage for r in got[:count]), image(number))
            top = got[count - 1].top
            assert [index for index, _ in top] == list(np.argsort(-probabilities)[:3])
            np.testing.assert_allclose([p for _, p in top], np.sort(probabilities)[::-1][:3], atol=1e-5)
        assert got[-1].queue_ns >= 0
        assert got[-1].compute_ns > 0


def test_a_stream_gets_every_rung_in_order_and_the_last_one_is_final(start_engine, front_end, tiny):
    start_engine()
    front_end.greet()
    front_end.send(job(1, every_stage=True))
    front_end.hear(lambda: 1 in front_end.ends)
    got = front_end.refinements[1]
    assert [r.stage for r in got] == [0, 1, 2]
    assert [r.final for r in got] == [None, None, "deepest"]
    alone = stage_log_probabilities(
        onnxruntime.InferenceSession(tiny.read(tiny.manifest.stages[1])).run(
            None, {"pixels": image(1)[None]}
        )[0],
        1.0,
    )
    assert got[1].stage_top[0] == int(alone[0].argmax())
    assert got[1].stage_top[1] == pytest.approx(float(np.exp(alone[0].max())), abs=1e-5)


def test_two_front_ends_get_their_own_answers(start_engine, front_end, connect, tmp_path, tiny):
    start_engine()
    other = connect()
    front_end.greet()
    other.greet()
    front_end.send(job(1))
    other.send(job(1, top_k=1, pixels=image(99).tobytes()))
    front_end.hear(lambda: 1 in front_end.ends)
    other.hear(lambda: 1 in other.ends)
    assert len(front_end.refinements[1][-1].top) == 3
    assert len(other.refinements[1][-1].top) == 1


def test_a_heartbeat_describes_the_models_once_and_credit_says_how_long_a_first_answer_takes(
    start_engine, front_end, tiny
):
    start_engine()
    front_end.greet()
    served = front_end.models["tiny@1"]
    assert served.backend == "onnxruntime"
    assert list(served.stages) == ["column1", "column2", "full"]
    assert [row.batch for row in served.stages["full"]] == [1, 2, 4, 8, 16, 32]
    assert all(0 < row.p50_ns <= row.p99_ns for row in served.stages["full"])
    assert front_end.credit.jobs == 512
    assert 0 < front_end.credit.first_answer_ns["tiny@1"] < 100_000_000
    front_end.heard.clear()
    front_end.hear(lambda: sum(isinstance(m, Heartbeat) for _, m in front_end.heard) >= 3, seconds=2)
    assert sum(bool(m.models) for _, m in front_end.heard if isinstance(m, Heartbeat)) <= 1


def test_what_cannot_be_served_is_refused_at_once(start_engine, front_end, tiny):
    start_engine()
    front_end.greet()
    front_end.send(
        job(1, model="other@1"),
        job(2, pixels=b"too short"),
        job(3, budget_ms=0.01),
        job(4, budget_ms=-5),
    )
    front_end.hear(lambda: len(front_end.ends) == 4, seconds=2)
    assert set(front_end.ends.values()) == {"rejected"}
    assert front_end.done[3].feasible_ns > 10_000
    front_end.send(job(5))
    front_end.hear(lambda: 5 in front_end.ends)
    assert front_end.ends[5] in {"deepest", "no_gain"}


def test_jobs_for_an_earlier_life_are_not_run_but_answered_with_the_present_epoch(
    start_engine, front_end, tiny
):
    start_engine()
    front_end.greet()
    epoch = front_end.epoch
    front_end.heard.clear()
    front_end.send(job(1), epoch=epoch + 1)
    front_end.hear(lambda: any(isinstance(m, Heartbeat) and m.models for _, m in front_end.heard), seconds=2)
    assert {heard for heard, _ in front_end.heard} == {epoch}
    front_end.send(job(2))
    front_end.hear(lambda: 2 in front_end.ends)
    assert 1 not in front_end.refinements
    assert 1 not in front_end.ends


def test_a_cancelled_job_is_dropped_before_its_launch(start_engine, front_end, tmp_path):
    publish_tiny_model(tmp_path / "models", hidden=2048)
    start_engine()
    front_end.greet()
    front_end.send(*[job(number, every_stage=True) for number in range(64)])
    front_end.send(*[Cancel(number) for number in range(32, 64)], Cancel(12345))
    front_end.hear(lambda: all(number in front_end.ends for number in range(32)))
    assert not any(number in front_end.ends for number in range(32, 64))
    assert sum(len(front_end.refinements.get(number, [])) for number in range(32, 64)) < 32 * 3


def test_bytes_that_are_no_message_do_no_harm(start_engine, front_end, tiny):
    start_engine()
    front_end.greet()
    front_end.send_bytes(b"\xff\x00 nonsense")
    front_end.send_bytes(b"")
    front_end.send(job(1))
    front_end.hear(lambda: 1 in front_end.ends)
    assert [r.stage for r in front_end.refinements[1]][:1] == [0]


def test_a_stage_that_cannot_be_loaded_is_named_and_the_ladder_goes_on_without_it(
    start_engine, front_end, tmp_path
):
    publish_tiny_model(tmp_path / "models", unloadable=["column2"])
    start_engine()
    front_end.greet()
    assert front_end.models["tiny@1"].failed == ["column2"]
    front_end.send(job(1, every_stage=True))
    front_end.hear(lambda: 1 in front_end.ends)
    assert [r.stage for r in front_end.refinements[1]] == [0, 2]


def test_without_a_usable_model_it_says_why_and_stays_unready(start_engine, front_end, tmp_path):
    publish_tiny_model(tmp_path / "models", name="none", stages=1, unloadable=["full"])
    damaged = publish_tiny_model(tmp_path / "models", name="damaged")
    (damaged.path / "full.onnx").write_bytes(b"tampered")
    engine = start_engine()
    front_end.send(Heartbeat("ready"))
    front_end.hear(lambda: "no usable model" in front_end.detail)
    assert front_end.state == "starting"
    assert "full.onnx: sha256" in front_end.detail
    assert "none@1" in front_end.detail
    assert engine.stop() == 0


def test_a_damaged_model_does_not_keep_the_others_from_being_served(start_engine, front_end, tmp_path, tiny):
    damaged = publish_tiny_model(tmp_path / "models", name="damaged")
    (damaged.path / "manifest.json").write_text("{}")
    start_engine()
    front_end.greet()
    assert list(front_end.models) == ["tiny@1"]
    assert "damaged@1" in front_end.detail


def test_the_profile_is_kept_and_used_again(start_engine, front_end, connect, tmp_path, tiny):
    engine = start_engine()
    front_end.greet()
    engine.stop()
    (kept,) = (tmp_path / "state" / "latency").glob("*.json")
    written = kept.stat().st_mtime_ns
    start_engine()
    again = connect()
    again.greet()
    assert kept.stat().st_mtime_ns == written
    assert "latency profile reused" in (tmp_path / "engine.log").read_text()


def test_a_pinned_engine_runs_one_rung(start_engine, front_end, tiny):
    start_engine(pin_rung=3)
    front_end.greet()
    front_end.send(job(1))
    front_end.hear(lambda: 1 in front_end.ends)
    assert [r.stage for r in front_end.refinements[1]] == [2]
    assert front_end.ends[1] == "deepest"


def test_the_null_backend_answers_every_stage(start_engine, front_end, tiny):
    start_engine(backend="null")
    front_end.greet()
    front_end.send(job(1, every_stage=True))
    front_end.hear(lambda: 1 in front_end.ends)
    assert [r.stage for r in front_end.refinements[1]] == [0, 1, 2]


def test_sigterm_finishes_what_is_here_takes_no_more_and_exits_0(start_engine, front_end, tmp_path):
    publish_tiny_model(tmp_path / "models", hidden=2048)
    engine = start_engine()
    front_end.greet()
    front_end.send(*[job(number, every_stage=True, budget_ms=5000) for number in range(20)])
    front_end.hear(lambda: front_end.refinements)
    engine.process.send_signal(signal.SIGTERM)
    front_end.hear(lambda: front_end.state == "draining" or len(front_end.ends) == 20)
    front_end.send(job(100))
    front_end.hear(lambda: all(number in front_end.ends for number in range(20)))
    assert engine.process.wait(5) == 0
    assert all(front_end.refinements[number][-1].stage == 2 for number in range(20))
    assert front_end.ends.get(100, "rejected") == "rejected"


def test_a_killed_engine_comes_back_under_another_epoch_on_the_same_socket(start_engine, front_end, tiny):
    engine = start_engine()
    front_end.greet()
    first = front_end.epoch
    engine.process.kill()
    engine.process.wait()
    engine.start()
    front_end.state = ""
    front_end.credit = None
    front_end.greet()
    assert front_end.epoch not in {0, first}
    front_end.send(job(1))
    front_end.hear(lambda: 1 in front_end.ends)


def test_no_answer_is_sent_late_by_a_job_that_could_still_wait(start_engine, front_end, tiny):
    """Done comes when nothing more can be gained, long before a far deadline."""
    start_engine()
    front_end.greet()
    front_end.send(job(1, budget_ms=60_000))
    begin = time.monotonic()
    front_end.hear(lambda: 1 in front_end.ends)
    assert time.monotonic() - begin < 30


def test_a_front_end_may_not_have_more_jobs_than_twice_its_credit(start_engine, front_end, tiny):
    start_engine(max_jobs=4)
    front_end.greet()
    assert front_end.credit.jobs == 4
    front_end.send(*[job(number) for number in range(20)])
    front_end.hear(lambda: len(front_end.ends) == 20)
    assert list(front_end.ends.values()).count("rejected") == 12
    assert isinstance(front_end.done[19], Done)


def test_the_jobs_of_a_front_end_that_is_gone_are_dropped(start_engine, front_end, connect, tmp_path):
    publish_tiny_model(tmp_path / "models", hidden=2048)
    engine = start_engine(max_jobs=1000)
    other = connect()
    front_end.greet()
    other.greet()
    other.send(*[job(number, every_stage=True, budget_ms=30_000) for number in range(300)])
    other.hear(lambda: other.refinements)
    other.close()
    front_end.send(job(1))
    front_end.hear(lambda: 1 in front_end.ends)
    front_end.hear(lambda: "front end gone" in (tmp_path / "engine.log").read_text(), seconds=5)
    front_end.hear(
        lambda: isinstance(front_end.credit, Credit) and front_end.credit.first_answer_ns["tiny@1"] < 1e8
    )
    assert engine.process.poll() is None


def test_the_runtime_is_told_to_send_nothing_to_its_maker(
    start_engine, front_end, tiny, tmp_path, monkeypatch
):
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    start_engine()
    front_end.greet()
    assert list((tmp_path / "t").iterdir()) == []
