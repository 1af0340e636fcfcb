"""Prometheus metrics of the inference path. Few labels, and none with values that a tenant can invent."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from modelshare.server.endpoints.policy import PrefixHits

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class RouterMetrics:
    """The metrics of one process, in the registry that `/metrics` shows."""

    def __init__(self, registry: CollectorRegistry, hits: PrefixHits) -> None:
        self._requests = Counter(
            "modelshare_inference_requests",
            "Inference requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "modelshare_inference_seconds",
            "Time from the request to the end of the answer.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._tokens = Counter("modelshare_inference_tokens", "Tokens by kind.", ("kind",), registry=registry)
        self.under_way = Gauge("modelshare_inference_under_way", "Inference requests in progress.", registry=registry)
        self.waiting = Gauge("modelshare_inference_waiting", "Those that wait for their turn.", registry=registry)
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        """Looking metrics up by their labels takes longer than counting."""
        registry.register(_PrefixCollector(hits))
        self._prompt = self._tokens.labels("prompt")
        self._completion = self._tokens.labels("completion")

    def observe(self, route: str, status: int, seconds: float) -> None:
        known = self._known.get((route, status))
        if known is None:
            known = self._known[route, status] = self._requests.labels(route, str(status)), self._seconds.labels(route)
        known[0].inc()
        known[1].observe(seconds)

    def tokens(self, prompt: int, completion: int) -> None:
        if prompt:
            self._prompt.inc(prompt)
        if completion:
            self._completion.inc(completion)


class _PrefixCollector(Collector):
    """Reads the counts when they are asked for: a counter's lock would take longer than the choice."""

    def __init__(self, hits: PrefixHits) -> None:
        self._hits = hits

    def collect(self) -> Iterator[Metric]:
        metric = CounterMetricFamily(
            "modelshare_inference_prefix_requests",
            "Requests of conversations seen before, by whether they went to the conversation's machine.",
            labels=["result"],
        )
        metric.add_metric(["hit"], self._hits.hits)
        metric.add_metric(["miss"], self._hits.misses)
        yield metric
