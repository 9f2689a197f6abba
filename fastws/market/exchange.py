"""A simulated exchange: what a combined stream of a large venue looks like, from a seed.

Messages have the shapes of Binance's USD-M futures streams (``bookTicker``, ``trade``, ``depth``) with event times
in microseconds. A few symbols make most of the traffic (Zipf), prices walk, quantities are lognormal, and messages
come in groups: what one order does to the book is published at one instant, and now and then the whole market moves.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Published", "simulate"]

START_US = 1_767_225_600_000_000
"""When simulated time begins: 2026-01-01T00:00:00Z, in microseconds since the epoch."""

_MATCHING_US = (120, 2_500)
"""Least and most microseconds from the matching engine ("T") to the gateway ("E")."""

_CALM_EVENTS_PER_S = 900.0
_STORM_FACTOR = 30.0
_STORM_CHANCE = 1 / 600
"""Chance for each event that the market begins to move."""
_STORM_EVENTS = (40, 400)

_INSTRUMENTS = (
    # symbol, price, digits of a price, digits of a quantity, typical quantity
    ("BTCUSDT", 97_312.4, 1, 3, 0.04),
    ("ETHUSDT", 3_411.72, 2, 3, 0.9),
    ("SOLUSDT", 188.41, 2, 0, 21.0),
    ("XRPUSDT", 2.2914, 4, 1, 640.0),
    ("BNBUSDT", 704.63, 2, 2, 1.1),
    ("DOGEUSDT", 0.32471, 5, 0, 3_100.0),
    ("ADAUSDT", 0.9213, 4, 0, 850.0),
    ("AVAXUSDT", 37.914, 3, 0, 24.0),
    ("LINKUSDT", 22.087, 3, 2, 17.0),
    ("1000PEPEUSDT", 0.0184271, 7, 0, 61_000.0),
    ("LTCUSDT", 103.55, 2, 3, 4.2),
    ("DOTUSDT", 6.918, 3, 1, 110.0),
)


class Published(NamedTuple):
    """A message that the exchange publishes.

    Attributes:
        time_us: When ("E" in the message), in microseconds since the epoch.
        message: JSON.
    """

    time_us: int
    message: str


class _Book:
    """One instrument: its price walks, its identifiers count up."""

    def __init__(
        self, rng: random.Random, symbol: str, price: float, price_digits: int, quantity_digits: int, typical: float
    ) -> None:
        self.rng = rng
        self.symbol = symbol
        self.stream = symbol.lower()
        self.tick = 10.0**-price_digits
        self.bid = round(price / self.tick)
        self.ask = self.bid + 1
        self.price_digits = price_digits
        self.quantity_digits = quantity_digits
        self.typical = typical
        self.trade_id = rng.randrange(10**8, 10**9)
        self.last_update = rng.randrange(10**12, 9 * 10**12)
        self.first_update = self.last_update + 1

    def price(self, ticks: int) -> str:
        return f"{ticks * self.tick:.{self.price_digits}f}"

    def quantity(self) -> str:
        quantity = max(self.rng.lognormvariate(0.0, 1.3) * self.typical, 10.0**-self.quantity_digits)
        return f"{quantity:.{self.quantity_digits}f}"

    def update(self) -> int:
        self.last_update += self.rng.randrange(1, 120)
        return self.last_update

    def move(self) -> None:
        """The best prices move by a few ticks."""
        step = round(self.rng.gauss(0.0, 1.6))
        self.bid = max(self.bid + step, 100)
        self.ask = self.bid + self.rng.choice((1, 1, 1, 2, 3))

    def envelope(self, channel: str, data: str) -> str:
        return f'{{"stream":"{self.stream}@{channel}","data":{data}}}'

    def book_ticker(self, event_us: int, match_us: int) -> str:
        return self.envelope(
            "bookTicker",
            f'{{"e":"bookTicker","u":{self.update()},"s":"{self.symbol}","b":"{self.price(self.bid)}",'
            f'"B":"{self.quantity()}","a":"{self.price(self.ask)}","A":"{self.quantity()}",'
            f'"T":{match_us},"E":{event_us}}}',
        )

    def trade(self, event_us: int, match_us: int, maker_buys: bool, level: int) -> str:
        self.trade_id += 1
        price = self.bid - level if maker_buys else self.ask + level
        return self.envelope(
            "trade",
            f'{{"e":"trade","E":{event_us},"T":{match_us},"s":"{self.symbol}","t":{self.trade_id},'
            f'"p":"{self.price(price)}","q":"{self.quantity()}","X":"MARKET","m":{"true" if maker_buys else "false"}}}',
        )

    def depth(self, event_us: int, match_us: int, levels: int) -> str:
        """Changed levels since the last depth message; a quantity of 0 removes a level."""
        previous = self.first_update - 1
        first, last = self.first_update, self.update()
        self.first_update = last + 1
        return self.envelope(
            "depth",
            f'{{"e":"depthUpdate","E":{event_us},"T":{match_us},"s":"{self.symbol}","U":{first},"u":{last},'
            f'"pu":{previous},"b":[{self.side(self.bid, -1, levels)}],"a":[{self.side(self.ask, 1, levels)}]}}',
        )

    def side(self, best: int, direction: int, levels: int) -> str:
        rng, ticks, found = self.rng, best, []
        for _ in range(rng.randrange(levels + 1)):
            quantity = self.quantity() if rng.random() < 0.7 else f"{0:.{self.quantity_digits}f}"
            found.append(f'["{self.price(max(ticks, 1))}","{quantity}"]')
            ticks += direction * rng.randrange(1, 9)
        return ",".join(found)


def simulate(seed: int = 0, start_us: int = START_US) -> Iterator[Published]:
    """Publish messages without end; the same for the same arguments.

    Args:
        seed: Of the pseudo-random numbers.
        start_us: When simulated time begins, in microseconds since the epoch.

    Yields:
        Messages by time; those of one event have the same.
    """
    rng = random.Random(seed)
    books = [_Book(rng, *instrument) for instrument in _INSTRUMENTS]
    cumulative = list(itertools.accumulate(1 / rank for rank in range(1, len(books) + 1)))
    now, storm = float(start_us), 0
    while True:
        if storm:
            storm -= 1
        elif rng.random() < _STORM_CHANCE:
            storm = rng.randrange(*_STORM_EVENTS)
        now += rng.expovariate(_CALM_EVENTS_PER_S * (_STORM_FACTOR if storm else 1.0)) * 1e6
        book = rng.choices(books, cum_weights=cumulative)[0]
        for message in _event(rng, book, int(now), bool(storm)):
            yield Published(int(now), message)


def _event(rng: random.Random, book: _Book, event_us: int, storm: bool) -> Iterator[str]:
    """What one order, or the batch of a depth stream, brings about."""
    match_us = event_us - rng.randrange(*_MATCHING_US)
    kind = rng.random()
    if kind < 0.55:
        book.move()
        yield book.book_ticker(event_us, match_us)
    elif kind < 0.85:
        # An order that takes liquidity: its trades go through the levels, then the best prices are others.
        maker_buys = rng.random() < 0.5
        for level in range(1 + int(rng.expovariate(0.25 if storm else 1.2))):
            yield book.trade(event_us, match_us, maker_buys, level)
        book.move()
        yield book.book_ticker(event_us, match_us)
    else:
        yield book.depth(event_us, match_us, 60 if rng.random() < 0.1 else 8)
