"""What the benchmarks send: JSON as exchanges write it, varied, ASCII, and the same in every run.

Trades follow Binance's USD-M futures ``aggTrade`` (about 150 bytes), books its ``depthUpdate``.
"""

from __future__ import annotations

import itertools
import random

__all__ = ["books", "make", "texts", "trades"]

SEED = 20240229
START_MS = 1_709_164_800_000

SYMBOLS = {
    # symbol: (price, digits of a price, digits of a quantity, typical quantity)
    "BTCUSDT": (62_414.30, 2, 3, 0.05),
    "ETHUSDT": (3_381.55, 2, 3, 0.8),
    "SOLUSDT": (112.4150, 4, 0, 12.0),
    "XRPUSDT": (0.57410, 5, 1, 900.0),
    "BNBUSDT": (399.410, 3, 2, 1.5),
    "DOGEUSDT": (0.119870, 6, 0, 4_000.0),
    "1000SHIBUSDT": (0.012735, 6, 0, 30_000.0),
    "AVAXUSDT": (40.2180, 4, 0, 20.0),
    "LINKUSDT": (19.453, 3, 2, 15.0),
    "MATICUSDT": (0.98740, 5, 0, 700.0),
}


def make(payload: str, count: int) -> list[str]:
    """``count`` different messages of the kind ``payload``: "trade", "book16k" or "text256"."""
    return {"trade": trades, "book16k": books, "text256": texts}[payload](count)


def trades(count: int) -> list[str]:
    """Trades of about 150 bytes: few symbols make most of them (Zipf), prices walk, quantities are lognormal."""
    rng = random.Random(SEED)
    names = list(SYMBOLS)
    cumulative = list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))
    prices = {name: SYMBOLS[name][0] for name in names}
    identifiers = {name: rng.randrange(900_000_000, 2_100_000_000) for name in names}
    firsts = {name: identifier * 2 for name, identifier in identifiers.items()}
    now = float(START_MS)
    found = []
    for name in rng.choices(names, cum_weights=cumulative, k=count):
        _, price_digits, quantity_digits, typical = SYMBOLS[name]
        now += rng.expovariate(0.8)
        prices[name] *= 1 + rng.gauss(0, 2e-5)
        identifiers[name] += 1
        first = firsts[name]
        last = first + int(rng.expovariate(0.7))
        firsts[name] = last + 1
        quantity = max(rng.lognormvariate(0, 1.3) * typical, 10**-quantity_digits)
        found.append(
            f'{{"e":"aggTrade","E":{int(now) + 3},"a":{identifiers[name]},"s":"{name}",'
            f'"p":"{prices[name]:.{price_digits}f}","q":"{quantity:.{quantity_digits}f}",'
            f'"f":{first},"l":{last},"T":{int(now)},"m":{"true" if rng.random() < 0.5 else "false"}}}'
        )
    return found


def books(count: int, size: int = 16 * 1024) -> list[str]:
    """Order book updates of ``size`` bytes, at most one price level short of it."""
    rng = random.Random(SEED)
    update, found = 4_201_883_201_553, []
    for number in range(count):
        mid = 62_414.30 + rng.gauss(0, 5)
        first, update = update + 1, update + rng.randrange(200, 900)
        head = f'{{"e":"depthUpdate","E":{START_MS + number * 100},"s":"BTCUSDT","U":{first},"u":{update},"b":['
        middle, tail = '],"a":[', "]}"
        sides: list[str] = []
        left = size - len(head) - len(tail)
        for direction in (-1, 1):
            budget, price, levels = left // 2 - len(middle), mid, []
            while True:
                price += direction * rng.choice((0.1, 0.1, 0.2, 0.7, 1.9))
                level = f'["{price:.2f}","{rng.lognormvariate(-2, 2):.3f}"]'
                budget -= len(level) + 1
                if budget < 0:
                    break
                levels.append(level)
            sides.append(",".join(levels))
        found.append(head + middle.join(sides) + tail)
    return found


def texts(count: int, size: int = 256) -> list[str]:
    """Order requests of exactly ``size`` bytes."""
    rng = random.Random(SEED)
    found = []
    for number in range(count):
        head = (
            f'{{"id":"{rng.getrandbits(64):016x}","method":"order.place","params":{{"symbol":"BTCUSDT","side":"BUY",'
            f'"type":"LIMIT","price":"{62_414 + rng.gauss(0, 5):.2f}","quantity":"0.050",'
            f'"timestamp":{START_MS + number}}},"signature":"'
        )
        tail = '"}'
        digits = size - len(head) - len(tail)
        found.append(f"{head}{rng.getrandbits(4 * digits):0{digits}x}{tail}")
    return found
