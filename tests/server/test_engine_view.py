"""The engine's state as a front end sees it, on a manual clock."""

from __future__ import annotations

from server.engine_view import RESTART_NS, SILENCE_NS, EngineView
from server.messages import Credit, Heartbeat, ServedModel

SECOND = 1_000_000_000
MODEL = ServedModel("tiny@1", "fake", {}, [])


def ready_view(now: int = 0) -> EngineView:
    view = EngineView()
    view.heard(1, now)
    assert view.heartbeat(Heartbeat("ready", models=[MODEL]), now)
    return view


def test_at_first_there_is_no_engine() -> None:
    view = EngineView()
    assert (view.ready, view.epoch, view.stalled(10 * SECOND)) == (False, 0, False)


def test_becoming_ready_is_told_once() -> None:
    view = EngineView()
    view.heard(1, 0)
    assert not view.heartbeat(Heartbeat("starting", "profiling"), 0)
    assert view.detail == "profiling"
    assert view.heartbeat(Heartbeat("ready"), 1)
    assert not view.heartbeat(Heartbeat("ready"), 2)


def test_a_heartbeat_without_models_changes_none() -> None:
    view = ready_view()
    view.heartbeat(Heartbeat("ready"), 1)
    assert list(view.models) == ["tiny@1"]


def test_silence_is_a_stall_not_a_loss() -> None:
    view = ready_view()
    assert not view.stalled(SILENCE_NS)
    assert view.stalled(SILENCE_NS + 1)
    assert view.ready
    view.heard(1, SILENCE_NS + 2)
    assert not view.stalled(SILENCE_NS + 3)


def test_loss_forgets_what_was_said() -> None:
    view = ready_view()
    view.credit = Credit(5, {"tiny@1": 7})
    assert view.first_answer_ns("tiny@1") == 7
    view.lost(SECOND)
    assert (view.ready, view.epoch, view.models, view.first_answer_ns("tiny@1")) == (False, 0, {}, 0)


def test_the_time_of_a_restart_is_estimated_from_the_last_ones() -> None:
    view = ready_view()
    view.lost(10 * SECOND)
    assert view.back_in_ns(11 * SECOND) == RESTART_NS - SECOND
    assert view.back_in_ns(30 * SECOND) == 0
    view.heard(2, 11 * SECOND)
    view.heartbeat(Heartbeat("ready"), 11 * SECOND)
    assert view.restart_ns == 2 * SECOND  # halfway to the second that it took
    view.lost(20 * SECOND)
    view.heard(3, 27 * SECOND)
    view.heartbeat(Heartbeat("ready"), 27 * SECOND)
    assert view.restart_ns == 7 * SECOND  # slower counts at once
