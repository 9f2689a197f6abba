"""What the guides in docs/ show works: programs run, recipes do what they promise, names and links exist."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastws

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "slow-consumers.md"
TEXT = GUIDE.read_text()
TIMEOUT_S = 60.0

BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
PROGRAMS = [text for text in PYTHON if "asyncio.run(" in text]
RECIPES = [text for text in PYTHON if "asyncio.run(" not in text]
# `code` in the prose; what stands in blocks is left out.
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*\n(?:.*\n)*?```$", "", TEXT, flags=re.MULTILINE))


def test_blocks_are_seen():
    assert {language for language, _ in BLOCKS} == {"python", "text"}
    assert TEXT.count("```") == 2 * len(BLOCKS)
    assert len(PROGRAMS) >= 8
    assert len(RECIPES) == 5


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: f"program-{PROGRAMS.index(text) + 1}")
def test_programs_run(program, tmp_path):
    """To the end, and without a word on stderr (as of what isn't closed)."""
    (tmp_path / "app.py").write_text(program)
    command = [sys.executable, "-W", "always::ResourceWarning", "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


# Recipes


def recipe(name: str) -> dict[str, Any]:
    """Options of a recipe."""
    namespace: dict[str, Any] = {}
    for text in RECIPES:
        exec(text, namespace)
    options: dict[str, Any] = namespace[name]
    return options


async def fed(
    options: dict[str, Any], messages: list[Any]
) -> tuple[list[Any], list[fastws.Event], fastws.Stats, list[Any]]:
    """Feed all messages while nobody receives: (received, events, figures before, sent by us)."""
    events: list[fastws.Event] = []
    sent: list[Any] = []

    async def feed(websocket: Any) -> None:
        await websocket.send_batch(message if isinstance(message, str) else json.dumps(message) for message in messages)
        await websocket.send(json.dumps("end"))
        sent.extend([message async for message in websocket])

    async with fastws.serve(feed, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = options | {"on_event": lambda _, event: events.append(event)}
        async with fastws.connect(uri, **options) as websocket:
            async with asyncio.timeout(TIMEOUT_S):
                while websocket.stats.messages_in < len(messages) + 1 and not websocket.stats.paused:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                before = websocket.stats
                received = []
                while (message := await websocket.recv()) != '"end"':
                    received.append(message)
    notable = [event for event in events if isinstance(event, fastws.Gap | fastws.ResyncNeeded)]
    return received, notable, before, sent


def binance(stream: str, **data: Any) -> dict[str, Any]:
    return {"stream": stream, "data": data}


def okx(channel: str, **data: Any) -> dict[str, Any]:
    return {"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": [{"ts": "1597026383085", **data}]}


def bybit(topic: str, u: int, kind: str = "delta") -> dict[str, Any]:
    return {"topic": topic, "type": kind, "ts": 1724761127354, "data": {"u": u}}


def coinbase(channel: str, number: int, **event: Any) -> dict[str, Any]:
    return {"channel": channel, "client_id": "", "timestamp": "", "sequence_num": number, "events": [event]}


def deribit(channel: str, **data: Any) -> dict[str, Any]:
    params = {"channel": channel, "data": {"timestamp": 1699999999500, **data}}
    return {"jsonrpc": "2.0", "method": "subscription", "params": params}


# Of each recipe: messages of one state, with its key; deltas that leave a gap, and the gap; the deltas' key; an event.
VENUES = {
    "BINANCE": (
        [binance("btcusdt@bookTicker", u=number, s="BTCUSDT") for number in (7, 9)],
        "btcusdt@bookTicker",
        [binance("btcusdt@depth@100ms", E=1, U=first, u=last) for first, last in ((157, 160), (161, 163), (170, 171))],
        fastws.Gap("btcusdt@depth@100ms", 164, 170),
        "btcusdt@depth@100ms",
        binance("btcusdt@trade", E=1672515782136, t=12345),
    ),
    "BINANCE_FUTURES": (
        [binance("btcusdt@bookTicker", u=number, E=1) for number in (7, 9)],
        "btcusdt@bookTicker",
        [binance("btcusdt@depth", U=0, u=last, pu=before) for last, before in ((160, 150), (170, 160), (190, 180))],
        fastws.Gap("btcusdt@depth", 170, 180),
        "btcusdt@depth",
        binance("btcusdt@trade", E=1, t=1, X="INSURANCE_FUND"),
    ),
    "OKX": (
        [okx("bbo-tbt", seqId=number) for number in (7, 9)],
        "bbo-tbt|BTC-USDT",
        [okx("books", prevSeqId=before, seqId=last) for before, last in ((-1, 10), (10, 17), (18, 20), (-1, 30))],
        fastws.Gap("books|BTC-USDT", 17, 18),
        "books|BTC-USDT",
        okx("trades", tradeId="130639474"),
    ),
    "BYBIT": (
        [bybit("orderbook.1.BTCUSDT", 5, "snapshot")] * 2,
        "orderbook.1.BTCUSDT",
        [bybit("orderbook.50.BTCUSDT", number) for number in (8, 9)]
        + [bybit("orderbook.50.BTCUSDT", 1, "snapshot")]
        + [bybit("orderbook.50.BTCUSDT", number) for number in (2, 4)],
        fastws.Gap("orderbook.50.BTCUSDT", 3, 4),
        "orderbook.50.BTCUSDT",
        {"topic": "publicTrade.BTCUSDT", "ts": 1, "data": [{"i": "1"}]},
    ),
    "COINBASE": (
        [],
        None,
        [coinbase("l2_data", number, product_id="BTC-USD") for number in (0, 1, 3)],
        fastws.Gap(None, 2, 3),
        "BTC-USD",
        coinbase("market_trades", 4, trades=[{"trade_id": "1"}]),
    ),
    "DERIBIT": (
        [deribit("quote.BTC-PERPETUAL")] * 2,
        "quote.BTC-PERPETUAL",
        [
            deribit("book.BTC-PERPETUAL.100ms", type="snapshot", change_id=6),
            deribit("book.BTC-PERPETUAL.100ms", type="change", change_id=7, prev_change_id=6),
            deribit("book.BTC-PERPETUAL.100ms", type="snapshot", change_id=12),
            deribit("book.BTC-PERPETUAL.100ms", type="change", change_id=14, prev_change_id=12),
            deribit("book.BTC-PERPETUAL.100ms", type="change", change_id=20, prev_change_id=19),
        ],
        fastws.Gap("book.BTC-PERPETUAL.100ms", 14, 19),
        "book.BTC-PERPETUAL.100ms",
        deribit("trades.BTC-PERPETUAL.100ms"),
    ),
}


@pytest.mark.parametrize("venue", VENUES)
async def test_recipes(venue):
    """State is conflated, gaps are told, and of deltas without room the key is given up; events stay."""
    states, state_key, deltas, gap, delta_key, trade = VENUES[venue]
    options = recipe(venue)
    received, events, before, _ = await fed(options, [*states, *deltas, trade])
    assert events == [gap]
    assert len(received) == len(deltas) + 1 + bool(states)
    assert before.lost_by_key == (((state_key, 0, 1),) if states else ())
    assert before.lost.total == before.lost.conflated
    assert (before.exchange_lag_s is None) == ("exchange_time" not in options)

    room = len(deltas) + 2
    received, events, _, _ = await fed(options | {"max_queue": room}, [*deltas, *[trade] * room])
    assert fastws.ResyncNeeded(delta_key) in events
    assert len(received) == room
    assert all(json.loads(message) == trade for message in received)


async def test_recipe_for_top_levels():
    """Of Binance, the order of the rules counts."""
    message = {"stream": "btcusdt@depth20@100ms", "data": {"lastUpdateId": 160}}
    received, _, before, _ = await fed(recipe("BINANCE"), [message, message])
    assert (len(received), before.lost.conflated) == (1, 1)


async def test_recipe_answers():
    """Deribit's test request."""
    request = {"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "test_request"}}
    received, _, before, sent = await fed(recipe("DERIBIT"), [request, deribit("trades.BTC-PERPETUAL.raw")])
    assert (len(received), before.answered) == (1, 1)
    assert [json.loads(message)["method"] for message in sent] == ["public/test"]


@pytest.mark.parametrize(
    ("venue", "answer"),
    [("BYBIT", '{"success":true,"ret_msg":"pong","conn_id":"1","op":"ping"}'), ("OKX", "pong")],
)
async def test_recipe_heartbeats(venue, answer):
    """The answer is taken, nothing else."""
    received, _, before, _ = await fed(recipe(venue), [answer, "other"])
    assert (before.answered, received) == (1, ["other"])


# What is named


def test_names_exist():
    """Links, and names of fastws in the prose."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXT)
    assert not [link for link in links if not (GUIDE.parent / link).exists()]
    called = {name for code in CODE for name in re.findall(r"\b([A-Z][A-Za-z]+)\(", code)}
    dotted = {name for code in CODE for name in re.findall(r"\bfastws\.(\w+)", code)}
    assert called >= {"Block", "Conflate", "Disconnect", "Inspect", "Resync", "Route"}
    assert not [name for name in called | dotted if not hasattr(fastws, name)]


def test_figures_exist():
    """The tables of figures and of losses name what there is."""
    fields = {name for row in TEXT.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    assert set(fastws.Lost.__slots__) <= fields
    shown = {f"{name}_max" for name in ("queued_messages", "queued_bytes")}
    assert set(fastws.Stats.__slots__) - shown <= fields


def test_defaults_are_as_stated():
    from fastws.overflow import KEY_BYTES_MAX, KEY_SEPARATOR, KEYS_MAX

    options = fastws.Options()
    assert (KEYS_MAX, KEY_BYTES_MAX, KEY_SEPARATOR) == (65_536, 256, "|")
    assert (options.overflow, options.max_queue_bytes, options.on_close) == (fastws.Block(), 16 * 2**20, "drain")
    age, full = options.all_thresholds(None)
    assert (age.age, full.min_duration, full.bytes) == (1.0, 1.0, options.max_queue_bytes * 4 // 5)
