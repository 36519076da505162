"""What /metrics shows, and that the dashboard asks for nothing else."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from thinkscale.serve.metrics import Metrics
from thinkscale.store.records import RequestRecord

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana.json"
ROUTE = {"model": "small", "policy": "careful"}


def record(**given: Any) -> RequestRecord:
    usual: dict[str, Any] = {
        "trace_id": "t",
        "at": 0.0,
        "key": "SECRET key name",
        "model": "small",
        "policy": "careful",
        "strategy": "self-consistency:n=4",
        "stop_reason": "consensus",
        "samples": 4,
        "seconds": 1.5,
        "queue_s": 0.02,
        "usage_by_purpose": {
            "generate": {"prompt_tokens": 100, "output_tokens": 50, "cached_tokens": 80, "calls": 4, "cost_usd": 0.25},
            "verify": {"prompt_tokens": 30, "output_tokens": 3, "cached_tokens": None, "calls": 2, "cost_usd": None},
        },
        "events": [
            {"event": "request", "prompt": "SECRET"},
            {"event": "failed", "status": 503, "error": "SECRET"},
            {"event": "failed", "status": None, "error": "SECRET"},
        ],
    }
    return RequestRecord(**{**usual, **given})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"thinkscale_{name}", labels)


def test_a_request_is_counted_everywhere_it_should_be() -> None:
    metrics = Metrics()
    for status in (200, 200, 402):
        metrics.finished(record(status=status), overhead_s=0.0015, first_token_s=0.3)
    assert value(metrics, "requests_total", **ROUTE, status="200") == 2
    assert value(metrics, "requests_total", **ROUTE, status="402") == 1
    assert value(metrics, "request_seconds_sum", **ROUTE) == 4.5
    assert value(metrics, "request_seconds_bucket", **ROUTE, le="1.0") == 0
    assert value(metrics, "request_seconds_bucket", **ROUTE, le="2.5") == 3
    assert value(metrics, "overhead_seconds_bucket", le="0.001") == 0
    assert value(metrics, "overhead_seconds_bucket", le="0.002") == 3
    assert value(metrics, "queue_seconds_sum") == pytest.approx(0.06)
    assert value(metrics, "first_token_seconds_count", **ROUTE) == 3
    assert value(metrics, "branches_total", **ROUTE) == 12
    assert value(metrics, "stop_reasons_total", **ROUTE, stop_reason="consensus") == 3
    tokens = {
        (purpose, kind): value(metrics, "tokens_total", model="small", purpose=purpose, kind=kind)
        for purpose in ("generate", "verify")
        for kind in ("prompt", "output", "cached")
    }
    assert tokens == {
        ("generate", "prompt"): 300,
        ("generate", "output"): 150,
        ("generate", "cached"): 240,
        ("verify", "prompt"): 90,
        ("verify", "output"): 9,
        ("verify", "cached"): 0,
    }
    assert value(metrics, "cost_usd_total", model="small", purpose="generate") == 0.75
    assert value(metrics, "unpriced_calls_total", model="small", purpose="generate") == 0
    assert value(metrics, "unpriced_calls_total", model="small", purpose="verify") == 6
    assert value(metrics, "upstream_failures_total", model="small", status="503") == 3
    assert value(metrics, "upstream_failures_total", model="small", status="none") == 3


def test_what_did_not_happen_is_not_counted() -> None:
    metrics = Metrics()
    refused = record(status=429, stop_reason=None, samples=0, usage_by_purpose={}, events=None)
    metrics.finished(refused, overhead_s=0.0, first_token_s=None)
    assert value(metrics, "requests_total", **ROUTE, status="429") == 1
    assert value(metrics, "first_token_seconds_count", **ROUTE) == 0
    assert b"stop_reason=" not in metrics.render()
    assert b"purpose=" not in metrics.render()


def test_gauges_follow_what_is_in_flight_and_queued() -> None:
    metrics = Metrics()
    waiting = [1, 2, 3]
    metrics.queued.set_function(lambda: len(waiting))
    with metrics.in_flight(), metrics.in_flight():
        assert value(metrics, "in_flight") == 2
    with pytest.raises(ValueError), metrics.in_flight():
        raise ValueError
    assert value(metrics, "in_flight") == 0
    assert value(metrics, "queued") == 3


def test_feedback_and_hidden_failures_are_counted() -> None:
    metrics = Metrics()
    for correct in (True, True, False, None):
        metrics.feedback("small", "careful", correct)
    found = {
        outcome: value(metrics, "feedback_total", **ROUTE, outcome=outcome)
        for outcome in ("correct", "wrong", "scored")
    }
    assert found == {"correct": 2, "wrong": 1, "scored": 1}
    metrics.upstream_failed("small", 500)
    assert value(metrics, "upstream_failures_total", model="small", status="500") == 1


def test_nothing_of_a_client_becomes_a_label() -> None:
    metrics = Metrics()
    metrics.finished(record(), overhead_s=0.0, first_token_s=None)
    names = {
        label
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        for label in sample.labels
    }
    assert names == {"model", "policy", "status", "purpose", "kind", "stop_reason", "le"}
    assert b"SECRET" not in metrics.render()
    before = len(metrics.render().splitlines())
    for number in range(100):
        metrics.finished(record(trace_id=str(number), key=str(number)), overhead_s=0.0, first_token_s=None)
    assert len(metrics.render().splitlines()) == before


def test_two_gateways_in_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics(), Metrics()
    one.finished(record(), overhead_s=0.0, first_token_s=None)
    assert value(other, "requests_total", **ROUTE, status="200") is None


def test_counting_is_cheap() -> None:
    metrics, one = Metrics(), record()
    metrics.finished(one, overhead_s=0.001, first_token_s=0.1)

    def lap() -> float:
        began = time.perf_counter()
        for _ in range(200):
            metrics.finished(one, overhead_s=0.001, first_token_s=0.1)
        return (time.perf_counter() - began) / 200

    assert min(lap() for _ in range(20)) < 50e-6


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    metrics = Metrics()
    metrics.finished(record(), overhead_s=0.0, first_token_s=0.1)
    metrics.feedback("small", "careful", True)
    samples = [
        sample for family in text_string_to_metric_families(metrics.render().decode()) for sample in family.samples
    ]
    labels = {sample.name: set[str]() for sample in samples}
    for sample in samples:
        labels[sample.name] |= set(sample.labels)
    dashboard = orjson.loads(DASHBOARD.read_bytes())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert len(panels) >= 10
    asked: set[str] = set()
    for query in queries:
        used = set(re.findall(r"\b(?:thinkscale|process)_\w+", query))
        assert used, query
        assert used <= labels.keys(), query
        grouped = {name.strip() for names in re.findall(r"\bby \(([^)]*)\)", query) for name in names.split(",")}
        matched = set(re.findall(r"(\w+)=~?\"", query))
        assert grouped | matched <= set.union(*(labels[name] for name in used)), query
        asked |= used
    ours = (name for name in labels if name.startswith("thinkscale_") and not name.endswith("_created"))
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert own <= shown, "every metric of ours has its place on the dashboard"


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids: list[int] = []
    for panel in orjson.loads(DASHBOARD.read_bytes())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        ids.append(panel["id"])
    assert len(ids) == len(set(ids))
