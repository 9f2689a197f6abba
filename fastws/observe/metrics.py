"""Figures of connections for Prometheus, and a Grafana dashboard of them; needs ``pip install fastws[metrics]``."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..overflow import Lost
from .stats import Quantiles, Stats

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise ImportError("fastws.metrics needs prometheus_client: pip install fastws[metrics]") from exc

__all__ = ["ConnectionCollector", "dashboard"]

_LABELS = ("name", "side")
_QUANTILES = {"0.5": "p50", "0.99": "p99", "0.999": "p999", "1": "max"}
_REASONS = tuple(reason.name for reason in dataclasses.fields(Lost))
_STALLERS = ("consumer", "loop", "network", "peer")


class _Figure(NamedTuple):
    """A metric with one value for each (name, side).

    Attributes:
        name: Without the prefix, and without "_total" for counters.
        unit: That ``name`` ends with; "" if there is none.
        help: What it tells.
        of: Its value for a connection; None leaves it out.
        combine: Of several connections with the same labels.
    """

    name: str
    unit: str
    help: str
    of: Callable[[Stats], float | None]
    combine: Callable[[list[float]], float] = max


# Counters are added up, those of closed connections stay in the sum.
_COUNTERS = (
    _Figure("messages_received", "", "Messages received, those lost afterwards included.", lambda s: s.messages_in),
    _Figure("messages_sent", "", "Messages sent.", lambda s: s.messages_out),
    _Figure("messages_withheld", "", "Replies and heartbeats not sent, as the peer didn't read.", lambda s: s.withheld),
    _Figure("messages_delivered", "", "Messages that the consumer got.", lambda s: s.delivered),
    _Figure("messages_answered", "", "Messages that an automatic reply or a heartbeat took.", lambda s: s.answered),
    _Figure("received_bytes", "bytes", "Bytes read from the network.", lambda s: s.bytes_in),
    _Figure("sent_bytes", "bytes", "Bytes written to the network.", lambda s: s.bytes_out),
    _Figure("gaps", "", "Messages that didn't follow their predecessor on arrival.", lambda s: s.gaps),
    _Figure("reading_pauses", "", "Times that reading was paused as the queue was full.", lambda s: s.pauses),
    _Figure("reading_paused_seconds", "seconds", "Time for which reading was paused.", lambda s: s.paused_s),
    _Figure("pings_received", "", "Pings received.", lambda s: s.pings_in),
    _Figure("pongs_received", "", "Pongs received.", lambda s: s.pongs_in),
)
# Of several connections with the same labels, the worst counts; what is queued is added up.
_GAUGES = (
    _Figure("queue_messages", "", "Messages that wait for the consumer.", lambda s: s.queued_messages, sum),
    _Figure("queue_bytes", "bytes", "Payload bytes that wait for the consumer.", lambda s: s.queued_bytes, sum),
    _Figure("queue_max_messages", "", "Most messages that ever waited.", lambda s: s.queued_messages_max),
    _Figure("queue_max_bytes", "bytes", "Most payload bytes that ever waited.", lambda s: s.queued_bytes_max),
    _Figure("oldest_message_age_seconds", "seconds", "Age of the oldest message that waits.", lambda s: s.oldest_s),
    _Figure(
        "kernel_backlog_bytes", "bytes", "Bytes in the socket's receive buffer.", lambda s: s.kernel_backlog_bytes, sum
    ),
    _Figure("reading_paused", "", "1 while reading is paused as the queue is full.", lambda s: float(s.paused)),
    _Figure("reading_pause_max_seconds", "seconds", "Longest pause in reading.", lambda s: s.pause_max_s),
    _Figure(
        "ping_delay_max_seconds",
        "seconds",
        "Longest time from reading a ping to the pong.",
        lambda s: s.ping_delay_max_s,
    ),
    _Figure("latency_seconds", "seconds", "Round trip of the last ping of ours.", lambda s: s.latency_s),
    _Figure("loop_lag_seconds", "seconds", "By how much the event loop was late.", lambda s: s.loop_lag_s),
    _Figure(
        "loop_lag_max_seconds", "seconds", "By how much the event loop was late at most.", lambda s: s.loop_lag_max_s
    ),
    _Figure("exchange_lag_seconds", "seconds", "Age of the last message on arrival.", lambda s: s.exchange_lag_s),
    _Figure("idle_seconds", "seconds", "Time since the last byte came.", lambda s: s.idle_s),
)
_SUMMARIES: tuple[tuple[str, str, Callable[[Stats], Quantiles]], ...] = (
    ("queue_wait_seconds", "How long messages waited for the consumer.", lambda s: s.wait),
    ("processing_seconds", "How long the consumer took for a message.", lambda s: s.processing),
)


def _added(figures: dict[str, float], stats: Stats) -> None:
    """Add up what is counted."""
    values: dict[str, float] = {figure.name: figure.of(stats) or 0 for figure in _COUNTERS}
    values |= {f"lost {reason}": getattr(stats.lost, reason) for reason in _REASONS}
    values |= {name: of(stats).count for name, _, of in _SUMMARIES}
    for name, value in values.items():
        figures[name] = figures.get(name, 0) + value


@dataclass
class _Watched:
    ref: weakref.ref[Any]
    labels: tuple[str, str]
    stats: Stats = field(default_factory=Stats)

    def look(self) -> bool:
        """Take the figures; False if the connection is gone."""
        ws = self.ref()
        if ws is None:
            return False
        for _ in range(3):
            # Taken in the thread of an HTTP server, while the loop's changes what it looks at.
            with contextlib.suppress(RuntimeError):
                self.stats = ws.stats
                break
        return True


class ConnectionCollector(Collector):
    """Shows the figures of connections to Prometheus::

        collector = fastws.metrics.ConnectionCollector()
        prometheus_client.start_http_server(8000)
        async with fastws.connect(uri) as ws:
            collector.add(ws, "binance")

    Metrics have the labels ``name`` and ``side`` ("client" or "server"). Connections that share both are shown as
    one: what is counted or queued is added up, of ages, lags and quantiles the worst is shown. Counters include closed
    connections, so that they never go back; give a connection the name of its predecessor when you reconnect.

    Args:
        registry: Where to register; None doesn't.
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, _Watched] = {}
        self._closed: dict[tuple[str, str], dict[str, float]] = {}
        if registry is not None:
            registry.register(self)

    def add(self, ws: Any, name: str = "") -> None:
        """Show a connection from now on; it is referenced weakly. Adding it again changes its name.

        Args:
            ws: The connection.
            name: What it is connected to; few different ones, as each makes a time series of each metric.
        """
        watched = _Watched(weakref.ref(ws), (name, _side(ws)))
        watched.look()
        key = id(ws)
        with self._lock:
            before = self._watched.get(key)
            if before is not None and before.ref() is None:
                # Another one's that is deleted, and had the same address.
                self._keep(before)
            self._watched[key] = watched
        # Else counters would miss what came since the last scrape.
        waiter = getattr(ws, "connection_lost_waiter", None)
        if waiter is not None and not waiter.done():
            waiter.add_done_callback(lambda _: watched.look())

    def remove(self, ws: Any) -> None:
        """Don't show a connection any more; what it has counted stays. Without effect if it isn't shown."""
        with self._lock:
            watched = self._watched.pop(id(ws), None)
            if watched is not None:
                watched.look()
                self._keep(watched)

    def _keep(self, watched: _Watched) -> None:
        _added(self._closed.setdefault(watched.labels, {}), watched.stats)

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        open_: dict[tuple[str, str], list[Stats]] = {}
        connections: dict[tuple[str, str], int] = {}
        with self._lock:
            for key, watched in list(self._watched.items()):
                ws = watched.ref()
                if not watched.look() or (_is_closed(ws) and not watched.stats.queued_messages):
                    self._keep(watched)
                    del self._watched[key]
                    continue
                open_.setdefault(watched.labels, []).append(watched.stats)
                connections.setdefault(watched.labels, 0)
                connections[watched.labels] += not _is_closed(ws)
            counted = {labels: dict(figures) for labels, figures in self._closed.items()}
        for labels in counted:
            connections.setdefault(labels, 0)
        for labels, several in open_.items():
            for stats in several:
                _added(counted.setdefault(labels, {}), stats)
        yield _metric(
            "connections", "gauge", "Open connections.", "", [(labels, {}, n) for labels, n in connections.items()]
        )
        yield from _counters(counted)
        yield from _gauges(open_)
        yield from _summaries(open_, counted)

    def describe(self) -> list[Metric]:
        """Names of the metrics, for a registry that looks for duplicates."""
        return list(ConnectionCollector(None).collect())


def dashboard() -> dict[str, Any]:
    """A Grafana dashboard of these metrics, to be imported or provisioned as JSON."""
    text = importlib.resources.files(__package__).joinpath("grafana.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


_Rows = list[tuple[tuple[str, str], dict[str, str], float]]


def _counters(counted: dict[tuple[str, str], dict[str, float]]) -> Iterator[Metric]:
    for figure in _COUNTERS:
        rows: _Rows = [(labels, {}, figures[figure.name]) for labels, figures in counted.items()]
        yield _metric(figure.name, "counter", figure.help, figure.unit, rows)
    rows = [
        (labels, {"reason": reason}, figures[f"lost {reason}"])
        for labels, figures in counted.items()
        for reason in _REASONS
    ]
    yield _metric("messages_lost", "counter", "Messages that the consumer won't get, by reason.", "", rows)


def _gauges(open_: dict[tuple[str, str], list[Stats]]) -> Iterator[Metric]:
    for figure in _GAUGES:
        rows: _Rows = []
        for labels, several in open_.items():
            values = [value for stats in several if (value := figure.of(stats)) is not None]
            if values:
                rows.append((labels, {}, figure.combine(values)))
        yield _metric(figure.name, "gauge", figure.help, figure.unit, rows)
    rows = [
        (labels, {"by": by}, sum(stats.stalled_by == by for stats in several))
        for labels, several in open_.items()
        for by in _STALLERS
    ]
    yield _metric("stalled_connections", "gauge", "Connections that are held up, by who does it.", "", rows)


def _summaries(
    open_: dict[tuple[str, str], list[Stats]], counted: dict[tuple[str, str], dict[str, float]]
) -> Iterator[Metric]:
    for name, text, of in _SUMMARIES:
        metric = _metric(name, "summary", text, "seconds", [])
        for labels, several in open_.items():
            shown = [quantiles for stats in several if (quantiles := of(stats)).count]
            for quantile, attribute in _QUANTILES.items() if shown else ():
                value = max(getattr(quantiles, attribute) for quantiles in shown)
                metric.add_sample(metric.name, {**_named(labels), "quantile": quantile}, value)
        for labels, figures in counted.items():
            metric.add_sample(f"{metric.name}_count", _named(labels), figures[name])
        yield metric


def _metric(name: str, kind: Literal["counter", "gauge", "summary"], text: str, unit: str, rows: _Rows) -> Metric:
    metric = Metric(f"fastws_{name}", text, kind, unit)
    suffix = "_total" if kind == "counter" else ""
    for labels, more, value in rows:
        metric.add_sample(metric.name + suffix, {**_named(labels), **more}, value)
    return metric


def _named(labels: tuple[str, str]) -> dict[str, str]:
    return dict(zip(_LABELS, labels, strict=True))


def _side(ws: Any) -> str:
    side: str = ws.protocol.side.name
    return side.lower()


def _is_closed(ws: Any) -> bool:
    return getattr(getattr(ws, "state", None), "name", None) == "CLOSED"
