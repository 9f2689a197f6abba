"""``fastws.metrics``: Prometheus scrapes what ``connection.stats`` says, and the dashboard shows what there is."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from connection.net import on_asyncio, pair, until

import fastws
from fastws.observe.stats import Quantiles, Stats
from fastws.overflow import Lost

prometheus_client = pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics import parser as openmetrics  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

PACKAGE = Path(fastws.__file__).parent

FULL = Stats(
    messages_in=1000,
    messages_out=7,
    controls_out=3,
    withheld=2,
    bytes_in=50_000,
    bytes_out=700,
    delivered=880,
    answered=5,
    queued_messages=15,
    queued_messages_max=90,
    queued_bytes=750,
    queued_bytes_max=4500,
    oldest_s=1.5,
    kernel_backlog_bytes=333,
    wait=Quantiles(880, 0.001, 0.01, 0.1, 0.2),
    processing=Quantiles(879, 0.002, 0.02, 0.12, 0.22),
    paused=True,
    paused_s=2.5,
    pauses=4,
    pause_max_s=1.25,
    lost=Lost(10, 20, 30, 25, 8, 7),
    gaps=6,
    pings_in=11,
    pongs_in=12,
    ping_delay_max_s=0.03,
    latency_s=0.04,
    loop_lag_s=0.05,
    loop_lag_max_s=0.06,
    exchange_lag_s=0.07,
    stalled_by="consumer",
    idle_s=0.08,
)
"""Each figure has a value of its own."""

NOT_SHOWN = {"receive", "lost_by_key", "controls_out"}
"""A setting; keys would be too many time series."""


class Fake:
    def __init__(self, stats, side="CLIENT", state="OPEN"):
        self.protocol = SimpleNamespace(side=SimpleNamespace(name=side))
        self.state = SimpleNamespace(name=state)
        self.stats = stats


def collected(collector):
    """{(metric, labels as a frozenset): value}, through the text that Prometheus reads."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    return parsed(prometheus_client.generate_latest(registry).decode())


def parsed(text):
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, connection="feed", side="client", **labels):
    return samples[f"fastws_{name}", frozenset({"name": connection, "side": side, **labels}.items())]


def collector():
    return fastws.metrics.ConnectionCollector(None)


def test_each_figure_is_shown_once():
    shown = collector()
    fake = Fake(FULL)
    shown.add(fake, "feed")
    samples = collected(shown)
    expected = {
        "messages_received_total": 1000,
        "messages_sent_total": 7,
        "messages_withheld_total": 2,
        "received_bytes_total": 50_000,
        "sent_bytes_total": 700,
        "messages_delivered_total": 880,
        "messages_answered_total": 5,
        "queue_messages": 15,
        "queue_max_messages": 90,
        "queue_bytes": 750,
        "queue_max_bytes": 4500,
        "oldest_message_age_seconds": 1.5,
        "kernel_backlog_bytes": 333,
        "reading_paused": 1,
        "reading_paused_seconds_total": 2.5,
        "reading_pauses_total": 4,
        "reading_pause_max_seconds": 1.25,
        "gaps_total": 6,
        "pings_received_total": 11,
        "pongs_received_total": 12,
        "ping_delay_max_seconds": 0.03,
        "latency_seconds": 0.04,
        "loop_lag_seconds": 0.05,
        "loop_lag_max_seconds": 0.06,
        "exchange_lag_seconds": 0.07,
        "idle_seconds": 0.08,
        "connections": 1,
        "queue_wait_seconds_count": 880,
        "processing_seconds_count": 879,
    }
    assert {name: value(samples, name) for name in expected} == expected
    labelled = {
        "messages_lost_total": (
            "reason",
            {
                "dropped_oldest": 10,
                "dropped_newest": 20,
                "expired": 30,
                "conflated": 25,
                "resync": 8,
                "discarded": 7,
            },
        ),
        "queue_wait_seconds": ("quantile", {"0.5": 0.001, "0.99": 0.01, "0.999": 0.1, "1": 0.2}),
        "processing_seconds": ("quantile", {"0.5": 0.002, "0.99": 0.02, "0.999": 0.12, "1": 0.22}),
        "stalled_connections": ("by", {"consumer": 1, "loop": 0, "network": 0, "peer": 0}),
    }
    for name, (label, values) in labelled.items():
        assert {key: value(samples, name, **{label: key}) for key in values} == values
    # Nothing else, and no figure that was added to Stats and forgotten here.
    assert len(samples) == len(expected) + sum(len(values) for _, values in labelled.values())
    for figure in {figure.name for figure in dataclasses.fields(Stats)} - NOT_SHOWN:
        changed = Fake(dataclasses.replace(FULL, **{figure: getattr(Stats(), figure)}))
        other = collector()
        other.add(changed, "feed")
        assert collected(other) != samples, f"{figure} isn't shown"


def test_conventions():
    """Those of OpenMetrics, whose parser is strict: units, suffixes, quantiles."""
    shown = collector()
    fake = Fake(FULL)
    shown.add(fake, "feed")
    registry = prometheus_client.CollectorRegistry()
    registry.register(shown)
    from prometheus_client.openmetrics.exposition import generate_latest

    families = list(openmetrics.text_string_to_metric_families(generate_latest(registry).decode()))
    assert {family.type for family in families} == {"counter", "gauge", "summary"}
    for family in families:
        assert family.documentation
        for unit in ("seconds", "bytes"):
            assert family.name.endswith(unit) == (family.unit == unit), family.name


def test_what_is_unknown_is_left_out():
    shown = collector()
    fake = Fake(Stats(kernel_backlog_bytes=None, exchange_lag_s=None, idle_s=None))
    shown.add(fake, "feed")
    samples = collected(shown)
    names = {name for name, _ in samples}
    assert not names & {"fastws_kernel_backlog_bytes", "fastws_exchange_lag_seconds", "fastws_idle_seconds"}
    assert "fastws_queue_wait_seconds" not in names  # A quantile of nothing is no number.
    assert value(samples, "queue_wait_seconds_count") == 0


def test_connections_of_one_name():
    """What is counted or queued is added up; of the rest the worst is shown."""
    shown = collector()
    less = dataclasses.replace(
        FULL, messages_in=1, oldest_s=9.0, queued_messages=1, latency_s=0.01, wait=Quantiles(5, 0.5, 0.5, 0.5, 0.5)
    )
    fakes = [Fake(FULL), Fake(less), Fake(FULL, side="SERVER"), Fake(less)]
    for fake, name in zip(fakes, ["feed", "feed", "feed", "other"], strict=True):
        shown.add(fake, name)
    samples = collected(shown)
    assert value(samples, "connections") == 2
    assert value(samples, "messages_received_total") == 1001
    assert value(samples, "queue_messages") == 16
    assert value(samples, "oldest_message_age_seconds") == 9.0
    assert value(samples, "latency_seconds") == 0.04
    assert value(samples, "queue_wait_seconds", quantile="0.5") == 0.5
    assert value(samples, "queue_wait_seconds_count") == 885
    assert value(samples, "stalled_connections", by="consumer") == 2
    assert value(samples, "messages_received_total", side="server") == 1000
    assert value(samples, "messages_received_total", "other") == 1


@pytest.mark.parametrize("end", ["deleted", "closed", "removed"])
def test_counters_never_go_back(end):
    shown = collector()
    fake = Fake(FULL)
    shown.add(fake, "feed")
    before = collected(shown)
    if end == "deleted":
        del fake
        gc.collect()
    elif end == "removed":
        fake.stats = dataclasses.replace(FULL, messages_in=1200)
        shown.remove(fake)
        shown.remove(fake)
    else:
        # While messages wait, it is shown as before.
        fake.state.name = "CLOSED"
        closed = collected(shown)
        assert value(closed, "queue_messages") == 15
        assert value(closed, "connections") == 0
        fake.stats = dataclasses.replace(FULL, messages_in=1200, queued_messages=0)
    after = collected(shown)
    assert value(after, "messages_received_total") == (1000 if end == "deleted" else 1200)
    assert value(after, "connections") == 0
    assert not {name for name, _ in after} & {"fastws_queue_messages", "fastws_queue_wait_seconds"}
    counters = {key for key in before if key[0].endswith(("_total", "_count"))}
    assert len(counters) > 15
    assert all(after[key] >= before[key] for key in counters)
    # A successor goes on from there.
    successor = Fake(Stats(messages_in=10, lost=Lost(expired=2)))
    shown.add(successor, "feed")
    samples = collected(shown)
    assert value(samples, "messages_received_total") == value(after, "messages_received_total") + 10
    assert value(samples, "messages_lost_total", reason="expired") == 32
    assert value(samples, "connections") == 1


def test_connection_at_the_address_of_a_deleted_one():
    shown = collector()
    first = Fake(Stats(messages_in=10))
    shown.add(first, "feed")
    key = id(first)
    del first
    gc.collect()
    second = Fake(Stats(messages_in=5))
    shown._watched[id(second)] = shown._watched.pop(key)
    shown.add(second, "feed")
    assert value(collected(shown), "messages_received_total") == 15


def test_figures_that_change_while_they_are_taken():
    """The thread of the HTTP server isn't the loop's."""

    class Moving(Fake):
        failures = 0

        @property
        def stats(self):
            if self.failures:
                self.failures -= 1
                raise RuntimeError("dictionary changed size during iteration")
            return self._stats

        @stats.setter
        def stats(self, stats):
            self._stats = stats

    shown = collector()
    fake = Moving(FULL)
    shown.add(fake, "feed")
    fake.stats = dataclasses.replace(FULL, messages_in=2000)
    fake.failures = 1
    assert value(collected(shown), "messages_received_total") == 2000
    fake.failures = 10
    assert value(collected(shown), "messages_received_total") == 2000


# Over HTTP, with real connections


@on_asyncio
async def test_scrape():
    registry = prometheus_client.CollectorRegistry()
    shown = fastws.metrics.ConnectionCollector(registry)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)

    def get():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as response:
            return parsed(response.read().decode())

    async def scrape():
        return await asyncio.to_thread(get)

    async def use():
        async with pair() as (client, peer):
            shown.add(client, "feed")
            shown.add(peer, "feed")
            await peer.send_batch(["x" * 100] * 50)
            await until(lambda: client.stats.queued_messages == 50)
            for _ in range(20):
                await client.recv()
            await client.send("y")
            await until(lambda: peer.stats.queued_messages == 1)
            samples = await scrape()
            stats = client.stats
            assert stats.messages_in == 50
            assert value(samples, "messages_received_total") == stats.messages_in
            assert value(samples, "messages_delivered_total") == stats.delivered == 20
            assert value(samples, "queue_messages") == stats.queued_messages == 30
            assert value(samples, "queue_bytes") == stats.queued_bytes == 3000
            assert value(samples, "received_bytes_total") == stats.bytes_in
            assert value(samples, "messages_sent_total") == stats.messages_out == 1
            assert value(samples, "queue_wait_seconds_count") == stats.wait.count
            assert value(samples, "connections") == 1
            assert 0.0 < value(samples, "oldest_message_age_seconds") <= stats.oldest_s
            assert value(samples, "messages_sent_total", side="server") == 50
            assert value(samples, "queue_messages", side="server") == 1
            await client.recv()

    try:
        await use()
        gc.collect()
        # What came after the last scrape counts, too, and stays when the connection is gone.
        samples = await scrape()
        assert value(samples, "connections") == 0
        assert value(samples, "messages_received_total") == 50
        assert value(samples, "messages_delivered_total") == 21
        lost = [v for (name, labels), v in samples.items() if name == "fastws_messages_lost_total"]
        assert len(lost) == 12
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@on_asyncio
async def test_scrapes_while_messages_come():
    """Another thread looks all the time; counters only grow and nothing fails."""
    shown = collector()
    ended = threading.Event()
    seen, failed = [], []

    def look():
        while not ended.is_set():
            try:
                seen.append(value(collected(shown), "messages_received_total"))
            except Exception as exc:
                failed.append(exc)
                return

    async with pair() as (client, server):
        shown.add(client, "feed")
        thread = threading.Thread(target=look)
        thread.start()
        try:
            # Until the scraper saw both: it may get twenty looks in before the first message, or few in a long while.
            deadline = time.monotonic() + 30
            while not failed and (len(seen) < 20 or seen[-1] == seen[0]) and time.monotonic() < deadline:
                await server.send_batch(["x"] * 100)
                for _ in range(100):
                    await client.recv()
        finally:
            ended.set()
            await asyncio.to_thread(thread.join)
    assert not failed
    assert seen[-1] > seen[0]
    assert seen == sorted(seen)


# The dashboard


def test_dashboard_shows_what_there_is():
    """Each name in an expression, and each label that it selects or groups by, exists."""
    shown = collector()
    fake = Fake(FULL)
    shown.add(fake, "feed")
    labels = {}
    for name, pairs in collected(shown):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    board = fastws.metrics.dashboard()
    used = set()
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            (name,) = set(re.findall(r"\bfastws_\w+", expression))
            assert name in labels, f"{panel['title']}: there is no {name}"
            used.add(name)
            (selector,) = re.findall(r"\{(.*)\}", expression)
            (group,) = re.findall(r"\bby \((.*?)\)", expression)
            wanted = set(re.findall(r"(\w+)=", selector)) | set(group.split(", "))
            wanted |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wanted <= labels[name], f"{panel['title']}: {name} has no {wanted - labels[name]}"
            # A counter is shown by its growth, and nothing else is.
            assert name.endswith("_total") == ("rate(" in expression), expression
            assert expression.count("(") == expression.count(")")
    wanted = {
        "messages_received_total",
        "messages_lost_total",
        "queue_messages",
        "queue_bytes",
        "oldest_message_age_seconds",
        "reading_paused_seconds_total",
        "queue_wait_seconds",
        "loop_lag_seconds",
        "latency_seconds",
        "exchange_lag_seconds",
    }
    assert used >= {f"fastws_{name}" for name in wanted}


def test_dashboard_is_one_that_grafana_takes():
    board = fastws.metrics.dashboard()
    assert board == json.loads((PACKAGE / "observe" / "grafana.json").read_text())
    assert board["title"]
    assert board["schemaVersion"] >= 36
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert names == {"datasource", "name", "side"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__rate_interval", "__all"}
    assert used == names
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{panel['title']} overlaps"
                cells.add((x, y))
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


# Without prometheus_client


def test_without_prometheus_client():
    script = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "import fastws\n"
        "try:\n    fastws.metrics\n"
        "except ImportError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "pip install fastws[metrics]" in done.stdout, done.stderr
