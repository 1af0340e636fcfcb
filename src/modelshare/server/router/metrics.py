"""Prometheus metrics of the inference path. Few labels, and none with values that a tenant can invent.

They are counted in plain numbers, and named when they are asked for: the locks of the library's own counters would be
a tenth of what a request costs.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modelshare.server.endpoints.policy import PrefixHits

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class _Durations:
    """How long the requests of one route took."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        """Requests by the first of `_SECONDS` that is not below their duration; the last ones took longer."""
        self.seconds = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus counts them: each includes all before."""
        limits = [*(str(float(limit)) for limit in _SECONDS), "+Inf"]
        return list(zip(limits, accumulate(self.counts), strict=True))


class RouterMetrics(Collector):
    """The metrics of one process, in the registry that `/metrics` shows."""

    def __init__(
        self,
        registry: CollectorRegistry,
        hits: PrefixHits,
        in_progress: Callable[[], int],
        waiting: Callable[[], int],
    ) -> None:
        """`in_progress`: the number of requests in progress, and `waiting`: of those that wait for their turn."""
        self._hits = hits
        self._in_progress = in_progress
        self._waiting = waiting
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, _Durations] = {}
        self._prompt_tokens = self._completion_tokens = 0
        registry.register(self)

    def observe(self, route: str, status: int, seconds: float) -> None:
        key = route, status
        self._requests[key] = self._requests.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = _Durations()
        durations.counts[bisect_left(_SECONDS, seconds)] += 1
        durations.seconds += seconds

    def tokens(self, prompt: int, completion: int) -> None:
        self._prompt_tokens += prompt
        self._completion_tokens += completion

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "modelshare_inference_requests",
            "Inference requests by route and status.",
            ("route", "status"),
            [((route, str(status)), count) for (route, status), count in self._requests.items()],
        )
        seconds = HistogramMetricFamily(
            "modelshare_inference_seconds", "Time from the request to the end of the answer.", labels=["route"]
        )
        for route, durations in self._durations.items():
            seconds.add_metric([route], durations.buckets(), durations.seconds)
        yield seconds
        yield _counter(
            "modelshare_inference_tokens",
            "Tokens by kind.",
            ("kind",),
            [(("prompt",), self._prompt_tokens), (("completion",), self._completion_tokens)],
        )
        yield GaugeMetricFamily(
            "modelshare_inference_under_way", "Inference requests in progress.", self._in_progress()
        )
        yield GaugeMetricFamily("modelshare_inference_waiting", "Those that wait for their turn.", self._waiting())
        yield _counter(
            "modelshare_inference_prefix_requests",
            "Requests of conversations seen before, by whether they went to the conversation's machine.",
            ("result",),
            [(("hit",), self._hits.hits), (("miss",), self._hits.misses)],
        )


def _counter(name: str, text: str, labels: Sequence[str], counts: Sequence[tuple[Sequence[str], int]]) -> Metric:
    """`counts`: with the labels' values."""
    metric = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts:
        metric.add_metric(values, count)
    return metric
