"""What the demo has measured, as a table, a sentence, or JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

__all__ = ["RECEIVERS", "Measured", "as_json", "compared", "notes", "table", "verdict"]

RECEIVERS = {
    "iterate": "fastws async for",
    "batches": "fastws batches",
    "websockets": "websockets async for",
}
"""What is compared, and what it is called in the table."""

_BUSY = 0.85
"""Share of a core below which it wasn't the receiver that set the pace."""

_ALIKE = 1.05
"""Ratio up to which two figures are called alike."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One receiver's figures.

    Attributes:
        receiver: A key of `RECEIVERS`.
        messages: Received at full speed.
        cpu_s: What they took of a core, user and system time.
        wall_s: How long it took.
        memory_bytes: Growth of peak memory meanwhile.
        paced_messages: Received at the given rate.
        offered: Messages that were due at that rate (about, if not all were sent).
        slow: Whether the receiver was slower than that; otherwise it was the feed, if not all were sent.
        ages_ns: Ages of a sample of them, ascending.
    """

    receiver: str
    messages: int
    cpu_s: float
    wall_s: float
    memory_bytes: int
    paced_messages: int
    offered: int
    slow: bool
    ages_ns: list[int]

    @property
    def name(self) -> str:
        return RECEIVERS[self.receiver]

    @property
    def messages_per_s(self) -> float:
        return self.messages / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU per message, in microseconds."""
        return self.cpu_s / self.messages * 1e6 if self.messages else math.nan

    @property
    def busy(self) -> float:
        """Share of a core at full speed."""
        return self.cpu_s / self.wall_s

    @property
    def behind(self) -> bool:
        """Whether messages couldn't be sent when they were due, so that their ages grew and grew."""
        return self.paced_messages < self.offered

    def age_ms(self, quantile: float) -> float:
        """A quantile of the ages in milliseconds (nearest rank); nan if there are none."""
        if not self.ages_ns:
            return math.nan
        return self.ages_ns[max(math.ceil(quantile * len(self.ages_ns)) - 1, 0)] / 1e6


def table(measured: list[Measured]) -> str:
    """The figures, a line for each receiver."""
    rows = [("", "messages/s", "CPU/message", "age p50", "age p99", "memory")]
    rows += [
        (
            one.name,
            f"{one.messages_per_s:,.0f}" + ("*" if one.busy < _BUSY else ""),
            f"{one.cpu_us:.2f} µs",
            _milliseconds(one.age_ms(0.5)),
            _milliseconds(one.age_ms(0.99)),
            f"+{one.memory_bytes / 2**20:.1f} MiB",
        )
        for one in measured
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _milliseconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f} ms"


def notes(measured: list[Measured], seconds: float, rate: float) -> list[str]:
    """What the figures mean, and what to know about these ones."""
    lines = [
        f"messages/s, CPU (user and system) and memory (growth of the peak): {seconds:g} s at full speed.",
        f"age: {seconds:g} s at {rate:,.0f} messages/s, from when the feed's schedule makes a message until the loop",
        "has it; time in the feed, in kernels and in queues counts.",
    ]
    if any(one.busy < _BUSY for one in measured):
        lines.append(f"* used less than {_BUSY:.0%} of a core: the feed or the machine set the pace, not the receiver.")
    for one in measured:
        if one.behind:
            which = f"of {one.offered:,} messages due, {{}} only {one.paced_messages:,}, ever later."
            lines.append(f"{one.name}: " + which.format("it took" if one.slow else "the feed could send"))
    return lines


def compared(ours: float, theirs: float) -> str:
    """How our cost relates to theirs, in words, with the ratio as it is.

    >>> compared(0.5, 4.2), compared(3.0, 2.0), compared(1.0, 1.01)
    ('8.4 times less', '1.5 times more', 'about as much')
    """
    ratio = theirs / ours if ours > 0 else math.inf
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return "about as much"
    word, ratio = ("less", ratio) if ratio > 1 else ("more", 1 / ratio if ratio else math.inf)
    return f"{ratio:.{0 if ratio >= 20 else 1}f} times {word}"


def verdict(measured: list[Measured], rate: float) -> str:
    """One sentence: how many times less, or more."""
    of = {one.receiver: one for one in measured}
    ours, batches, theirs = of["iterate"], of["batches"], of["websockets"]
    text = (
        f"Against websockets, a message costs fastws {compared(ours.cpu_us, theirs.cpu_us)} CPU with `async for` "
        f"and {compared(batches.cpu_us, theirs.cpu_us)} with batches"
    )
    ages = ours.age_ms(0.99), theirs.age_ms(0.99)
    # A feed that can't offer the rate says nothing about those who receive it.
    if not any(map(math.isnan, ages)) and not any(one.behind and not one.slow for one in measured):
        text += (
            f"; at {rate:,.0f} messages/s, 99% of them are younger than {ages[0]:,.2f} ms with fastws "
            f"and {ages[1]:,.2f} ms with websockets"
        )
    return text + "."


def as_json(measured: list[Measured]) -> list[dict[str, Any]]:
    """The figures with their units in their names; null where there is none."""
    return [
        {
            "receiver": one.name,
            "messages": one.messages,
            "cpu_s": one.cpu_s,
            "wall_s": one.wall_s,
            "messages_per_s": one.messages_per_s,
            "cpu_us_per_message": _number(one.cpu_us),
            "busy": one.busy,
            "memory_bytes": one.memory_bytes,
            "paced": {
                "offered": one.offered,
                "messages": one.paced_messages,
                "slow": one.slow,
                "sampled": len(one.ages_ns),
                "age_p50_ms": _number(one.age_ms(0.5)),
                "age_p99_ms": _number(one.age_ms(0.99)),
                "age_max_ms": _number(one.age_ms(1.0)),
            },
        }
        for one in measured
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
