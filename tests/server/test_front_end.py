"""A real front-end process against a fake engine on the real socket: the wire contracts of the hot routes."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.messages import Done
from server.settings import Settings
from tests.server.conftest import Service, image_bytes
from tests.server.fake_engine import refinement, silent, whole_ladder

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def shared(start_service: Start) -> Service:
    service = start_service()
    service.front.wait_until()
    return service


@pytest.fixture
def service(shared: Service, png: bytes) -> Service:
    """The module's service, its engine behaving and its lists empty."""
    engine = shared.engine
    engine.behaviour, engine.first_answer_ns, engine.credit = whole_ladder, 500_000, 512
    wait_while(lambda: shared.front.classify(png, "deadline_ms=1000").status_code != 200)
    engine.jobs.clear()
    engine.cancelled.clear()
    return shared


def counter(service: Service, name: str) -> float:
    lines = service.front.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def events(response: httpx.Response) -> list[tuple[str, str | None, dict[str, Any]]]:
    found = []
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return found


# Answers


def test_an_answer_has_every_field_of_the_contract(service: Service, png: bytes) -> None:
    response = service.front.classify(png, "deadline_ms=5000&top_k=2", **{"X-Request-ID": "abc-1"})
    assert response.status_code == 200
    body = response.json()
    assert 0 < body.pop("elapsed_ms") < 5000
    assert body == {
        "request_id": "abc-1",
        "model": "tiny",
        "version": "1",
        "label": "class3",
        "index": 3,
        "probability": 0.9,
        "top_k": [
            {"label": "class3", "index": 3, "probability": 0.9},
            {"label": "class0", "index": 0, "probability": pytest.approx(0.1 / 9)},
        ],
        "stages_run": ["column1", "column2", "full"],
        "stage": {"name": "full", "depth": 3},
        "complete": True,
        "stop_reason": "deepest",
        "deadline_ms": 5000.0,
        "queue_ms": 0.1,
        "compute_ms": 0.6,
        "expected_accuracy": 0.8,
    }
    assert response.headers["X-Request-ID"] == "abc-1"
    assert "compute;dur=0.600" in response.headers["Server-Timing"]


def test_the_engine_gets_the_pixels_and_a_deadline_before_the_client_s(service: Service, png: bytes) -> None:
    before = time.monotonic_ns()
    service.front.classify(png, "deadline_ms=5000&top_k=4&min_confidence=0.95")
    (job,) = service.engine.jobs
    assert len(job.pixels) == 32 * 32 * 3
    assert (job.model, job.top_k, job.min_confidence, job.every_stage) == ("tiny@1", 4, 0.95, False)
    assert before < job.deadline_ns < time.monotonic_ns() + 5_000_000_000 - 2_000_000


@pytest.mark.parametrize("model", ["tiny", "tiny@1"])
def test_a_model_is_found_by_name_and_by_version(service: Service, png: bytes, model: str) -> None:
    assert service.front.classify(png, f"model={model}").status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "media", ["image/png", "image/jpeg", "application/octet-stream", "IMAGE/WEBP; q=1", ""]
)
def test_the_bytes_decide_the_type(service: Service, kind: str, media: str) -> None:
    headers = {"Content-Type": media} if media else {}
    assert service.front.classify(image_bytes(kind), **headers).status_code == 200


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "tab\there"])
def test_an_unfit_request_id_is_replaced(service: Service, png: bytes, given: str) -> None:
    response = service.front.classify(png, **{"X-Request-ID": given})
    assert response.headers["X-Request-ID"] not in ("", given)
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


def test_the_smallest_of_several_deadlines_counts(service: Service, png: bytes) -> None:
    response = service.front.classify(png, "deadline_ms=9000&deadline_ms=4000&deadline_ms=8000")
    assert response.json()["deadline_ms"] == 4000


def test_without_a_deadline_it_is_a_second(service: Service, png: bytes) -> None:
    assert service.front.classify(png).json()["deadline_ms"] == 1000


def test_enough_confidence_ends_it_early(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5)), (0, refinement(job, 1, 0.7))]
    body = service.front.classify(png, "deadline_ms=20000&min_confidence=0.6").json()
    assert (body["stop_reason"], body["complete"], body["stages_run"]) == (
        "confident",
        True,
        ["column1", "column2"],
    )
    assert service.engine.jobs[0].number in wait_for(service.engine.cancelled)


def test_what_the_engine_ends_is_answered_at_once(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5)), (0, Done(job.number, "overload"))]
    body = service.front.classify(png, "deadline_ms=20000").json()
    assert (body["stop_reason"], body["complete"], body["stages_run"]) == ("overload", False, ["column1"])
    assert body["stage"] == {"name": "column1", "depth": 1}
    assert body["expected_accuracy"] == 0.6


def test_skipped_rungs_are_not_named(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [
        (0, refinement(job, 2, 0.5)),
        (0, refinement(job, 0, 0.6, "no_gain")),
    ]
    body = service.front.classify(png).json()
    assert (body["stages_run"], body["stage"]["name"]) == (["column1", "full"], "full")


# The clock


def test_the_clock_ends_what_the_engine_does_not(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5)), (2.0, refinement(job, 1, 0.6))]
    body = service.front.classify(png, "deadline_ms=300").json()
    assert (body["stop_reason"], body["complete"], body["stages_run"]) == ("deadline", False, ["column1"])
    assert service.engine.jobs[0].number in wait_for(service.engine.cancelled)


def test_admitted_but_nothing_by_the_deadline_is_504(service: Service, png: bytes) -> None:
    service.engine.behaviour = silent
    response = service.front.classify(png, "deadline_ms=200")
    assert response.status_code == 504
    assert problem(response)["type"].endswith("nothing-in-time")


def test_an_expired_job_is_504_and_failed_stages_are_500(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, Done(job.number, "expired"))]
    assert service.front.classify(png).status_code == 504
    service.engine.behaviour = lambda job: [(0, Done(job.number, "stage_failed"))]
    assert service.front.classify(png).status_code == 500


# Refusals


def test_a_deadline_that_even_the_first_rung_cannot_make_is_refused_at_the_door(
    service: Service, png: bytes
) -> None:
    service.engine.first_answer_ns = 1_500_000_000
    wait_while(lambda: service.front.classify(png, "deadline_ms=1000").status_code == 200)
    response = service.front.classify(png, "deadline_ms=1000")
    assert response.status_code == 503
    body = problem(response)
    assert response.headers["Retry-After"] == "2"
    assert body["retry_after_ms"] == 1500
    assert 1500 < body["smallest_feasible_deadline_ms"] < 1600
    assert service.front.classify(png, "deadline_ms=5000").status_code == 200


def test_while_some_are_refused_the_next_is_refused_before_its_body_and_its_connection_lives_on(
    service: Service, png: bytes
) -> None:
    service.engine.first_answer_ns = 1_500_000_000
    wait_while(lambda: service.front.classify(png, "deadline_ms=1000").status_code == 200)
    counted = counter(service, 'anytime_requests_total{model="tiny@1",route="/classify",status="503"}')
    refused = request_bytes(png, "deadline_ms=1000", 17)
    head = refused.index(b"\r\n\r\n") + 4
    with service.front.connect() as connection:
        for place in (head, head + 10, len(refused)):
            connection.sendall(refused[:place])
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"request_id":"17"' in answer
            connection.sendall(refused[place:])
        connection.sendall(request_bytes(png, "deadline_ms=5000", 18))
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"request_id":"18"' in answer
    now = counter(service, 'anytime_requests_total{model="tiny@1",route="/classify",status="503"}')
    assert now == counted + 3


def test_a_wrong_parameter_is_told_even_while_others_are_refused(service: Service, png: bytes) -> None:
    service.engine.first_answer_ns = 1_500_000_000
    wait_while(lambda: service.front.classify(png, "deadline_ms=1000").status_code == 200)
    assert service.front.classify(png, "deadline_ms=never").status_code == 422
    assert service.front.classify(png, "model=unknown").status_code == 404


def test_the_engine_s_refusal_names_the_smallest_feasible_deadline(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, Done(job.number, "rejected", 40_000_000))]
    response = service.front.classify(png, "deadline_ms=1000")
    assert response.status_code == 503
    assert problem(response)["smallest_feasible_deadline_ms"] > 42
    assert response.headers["Retry-After"] == "1"


def test_without_credit_images_are_refused(service: Service, png: bytes) -> None:
    service.engine.credit = 0
    wait_while(lambda: service.front.classify(png).status_code == 200)
    response = service.front.classify(png)
    assert (response.status_code, problem(response)["title"]) == (503, "Overloaded")


def test_a_client_that_leaves_cancels_its_job(service: Service, png: bytes) -> None:
    service.engine.behaviour = silent
    with service.front.connect() as connection:
        connection.sendall(request_bytes(png, "deadline_ms=30000"))
        (job,) = wait_for(service.engine.jobs)
    assert wait_for(service.engine.cancelled) == [job.number]


# Streams


def test_a_stream_tells_each_rung_then_the_final_answer(service: Service, png: bytes) -> None:
    response = service.front.classify(png, "deadline_ms=5000", path="/classify/stream")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Accel-Buffering"] == "no"
    told = events(response)
    assert [(name, number) for name, number, _ in told] == [
        ("refinement", "1"),
        ("refinement", "2"),
        ("refinement", "3"),
        ("final", None),
    ]
    assert [data["stages_run"] for _, _, data in told] == [
        ["column1"],
        ["column1", "column2"],
        ["column1", "column2", "full"],
        ["column1", "column2", "full"],
    ]
    assert told[0][2]["stage_only"] == {"index": 3, "probability": 0.5}
    assert [(data["complete"], data["stop_reason"]) for _, _, data in told] == [(False, None)] * 3 + [
        (True, "deepest")
    ]
    assert service.engine.jobs[0].every_stage
    last, final = told[2][2], told[3][2]
    for field in ("label", "probability", "top_k", "stages_run", "expected_accuracy"):
        assert final[field] == last[field]


def test_the_clock_ends_a_stream_too(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5)), (2.0, refinement(job, 1, 0.6))]
    told = events(service.front.classify(png, "deadline_ms=300", path="/classify/stream"))
    assert [name for name, _, _ in told] == ["refinement", "final"]
    assert told[1][2]["stop_reason"] == "deadline"


def test_before_the_first_refinement_a_stream_has_ordinary_statuses(service: Service, png: bytes) -> None:
    service.engine.behaviour = silent
    assert service.front.classify(png, "deadline_ms=100", path="/classify/stream").status_code == 504
    assert service.front.classify(b"no", path="/classify/stream").status_code == 422


def test_the_first_event_leaves_before_the_second_is_there(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5))]
    with service.front.client.stream("POST", "/classify/stream?deadline_ms=20000", content=png) as response:
        assert next(response.iter_text()).startswith("event: refinement")
    (job,) = service.engine.jobs
    assert job.number in wait_for(service.engine.cancelled)


# Several files


def form(*files: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (f"{place}.png", data, "image/png")) for place, data in enumerate(files)]


def test_several_files_get_an_answer_or_a_problem_each_in_order(service: Service, png: bytes) -> None:
    response = service.front.client.post(
        "/classify?deadline_ms=5000", files=form(png, b"nonsense", image_bytes("GIF"), png)
    )
    assert response.status_code == 200
    answers = response.json()["answers"]
    assert [answer.get("status", 200) for answer in answers] == [200, 422, 415, 200]
    assert [(answer["file"], answer["file_index"]) for answer in answers] == [
        (f"{i}.png", i) for i in range(4)
    ]


def test_one_file_in_a_form_gets_a_list_of_one(service: Service, png: bytes) -> None:
    assert len(service.front.client.post("/classify", files=form(png)).json()["answers"]) == 1


def test_if_all_files_fail_the_highest_status_counts(service: Service) -> None:
    for path in ("/classify", "/classify/stream"):
        response = service.front.client.post(path, files=form(image_bytes("GIF"), b"nonsense"))
        assert response.status_code == 422
        assert [answer["status"] for answer in response.json()["answers"]] == [415, 422]


def test_a_stream_of_several_files_names_the_file_of_each_event(service: Service, png: bytes) -> None:
    response = service.front.client.post(
        "/classify/stream?deadline_ms=5000", files=form(png, b"nonsense", png)
    )
    told = events(response)
    assert [name for name, _, data in told if data["file_index"] == 0] == ["refinement"] * 3 + ["final"]
    assert [(name, data["status"]) for name, _, data in told if data["file"] == "1.png"] == [("error", 422)]
    assert [name for name, _, data in told if data["file_index"] == 2] == ["refinement"] * 3 + ["final"]


# The connection


def test_pipelined_requests_are_answered_in_order(service: Service, png: bytes) -> None:
    with service.front.connect() as connection:
        for number in range(5):
            connection.sendall(request_bytes(png, "deadline_ms=5000", number))
        received = b""
        while received.count(b'"request_id"') < 5:
            received += connection.recv(65536)
    order = [int(part.split(b'"')[0]) for part in received.split(b'"request_id":"')[1:]]
    assert order == [0, 1, 2, 3, 4]


def test_a_body_in_many_small_chunks_is_put_together(service: Service, png: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(png), 100):
            yield png[start : start + 100]

    assert service.front.client.post("/classify?deadline_ms=20000", content=chunks()).status_code == 200


def test_http_1_0_is_answered_and_closed(service: Service, png: bytes) -> None:
    with service.front.connect() as connection:
        connection.sendall(request_bytes(png, "deadline_ms=5000").replace(b"HTTP/1.1", b"HTTP/1.0"))
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in received


def test_there_is_a_place_for_the_descriptor_of_every_connection_before_the_first_comes(
    service: Service,
) -> None:
    """Where the kernel must enlarge the table while threads use it, the front end stands still for 10 to 20 ms."""
    status = Path(f"/proc/{service.front.process.pid}/status").read_text()
    places = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("FDSize:"))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert places >= min(Settings().max_connections, most)


def test_many_at_once_are_all_answered(service: Service, png: bytes) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: service.front.classify(png, "deadline_ms=20000").status_code, range(200))
        )
    assert answers == [200] * 200
    assert len({job.number for job in service.engine.jobs}) == 200


# The rest of the surface


def test_models_show_the_published_contract_and_what_is_measured_now(service: Service) -> None:
    (card,) = service.front.client.get("/models").json()["models"]
    assert (card["name"], card["version"], card["state"], card["default"]) == ("tiny", "1", "serving", True)
    assert [stage["name"] for stage in card["stages"]] == ["column1", "column2", "full"]
    stage = card["stages"][0]
    assert (stage["depth"], stage["test_accuracy"], stage["expected_accuracy"]) == (1, 0.6, 0.6)
    assert stage["latency"] == [{"batch": 1, "p50_ms": 0.1, "p99_ms": 0.2}]
    timing = card["timing"]
    assert (timing["first_answer_ms"], timing["slowdown"], timing["launch_tail_ms"]) == (0.5, 1.0, 0.0)
    assert timing["answering_ms"] >= 2.0
    assert card["expected_accuracy"]["column1,full"] == pytest.approx(0.8)
    del card["timing"]  # what is kept back for answering follows the loop's lag
    for name in ("tiny", "tiny@1"):
        (again,) = service.front.client.get(f"/models/{name}").json()["models"]
        del again["timing"]
        assert again == card
    assert service.front.client.get("/models/tiny@2").status_code == 404


def test_health_is_told(service: Service) -> None:
    assert service.front.client.get("/livez").json()["live"] is True
    ready = service.front.client.get("/readyz").json()
    assert (ready["ready"], ready["reason"], ready["models"]) == (True, "ready", ["tiny@1"])
    assert ready["processes"]["engine"] == 4242


def test_a_scrape_counts_what_was_done(service: Service, png: bytes) -> None:
    def value(name: str) -> float:
        text = service.front.client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    series = 'anytime_answers_total{model="tiny@1",stage="full",stop_reason="deepest"}'
    before = value(series)
    service.front.classify(png, "deadline_ms=20000")
    assert value(series) == before + 1
    assert value('anytime_requests_total{model="tiny@1",route="/classify",status="200"}') >= 1
    assert value("anytime_answer_seconds_count") >= 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/livez", 405),
        ("GET", "/classify", 405),
        ("DELETE", "/classify/stream", 405),
        ("POST", "/classify/", 404),
        ("GET", "/models/nothing", 404),
    ],
)
def test_every_error_is_a_problem_document(service: Service, method: str, path: str, status: int) -> None:
    response = service.front.client.request(method, path)
    assert response.status_code == status
    assert problem(response)["request_id"] == response.headers["X-Request-ID"]
    if status == 405:
        assert response.headers["Allow"] in ("GET", "POST")


def test_head_on_a_hot_route_has_no_body(service: Service, png: bytes) -> None:
    assert service.front.client.head("/classify").status_code == 405
    assert service.front.classify(png).status_code == 200


def test_the_openapi_document_describes_the_hot_routes(service: Service) -> None:
    document = service.front.client.get("/openapi.json").json()
    for path in ("/classify", "/classify/stream"):
        operation = document["paths"][path]["post"]
        assert {parameter["name"] for parameter in operation["parameters"]} == {
            "deadline_ms",
            "model",
            "top_k",
            "min_confidence",
            "debug",
        }
        assert {"200", "404", "408", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name


def test_the_page_of_the_document_loads_nothing_from_elsewhere(service: Service) -> None:
    client = service.front.client
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {path.rpartition(".")[2] for path in loaded} == {"js", "css", "png"}
    assert "'/openapi.json'" in page.text
    for path in loaded:
        assert path.startswith("/")
        assert client.get(path).status_code == 200
    missing = loaded[0].rpartition("/")[0] + "/nothing.js"
    assert problem(client.get(missing))["status"] == 404


def problem(response: httpx.Response) -> dict[str, Any]:
    """The document, after checking that it is one."""
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "error", "request_id"} <= set(body)
    assert body["status"] == response.status_code
    return body


def request_bytes(data: bytes, query: str, number: int = 0) -> bytes:
    head = (
        f"POST /classify?{query} HTTP/1.1\r\nHost: test\r\nX-Request-ID: {number}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def wait_for(items: list[Any]) -> list[Any]:
    """The list, once there is something in it."""
    wait_while(lambda: not items)
    return items


def wait_while(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.01)
