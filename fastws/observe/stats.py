"""Figures of a connection at one moment, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..overflow import Lost

__all__ = ["Quantiles", "StalledBy", "Stats"]

StalledBy: TypeAlias = Literal["consumer", "loop", "network", "peer"] | None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution of seconds, from a histogram with buckets of one eighth of a power of two.

    Attributes:
        count: Messages counted; messages between two looks at the clock (at most 32) count alike.
        p50: Median.
        p99: 99 of 100 took no longer.
        p999: 999 of 1000 took no longer.
        max: The longest.
    """

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a connection has done so far and how it is; times in seconds. Cost: some microseconds to take.

    ``messages_in == delivered + answered + queued_messages + lost.total``, at any time.

    Attributes:
        messages_in: Messages received, those that were lost afterwards included.
        messages_out: Messages sent.
        controls_out: Pings, pongs and close frames sent.
        withheld: Automatic replies and heartbeats that weren't sent, as more than 1 MiB waited for a peer that doesn't
            read.
        bytes_in: Bytes read from the transport since the opening handshake.
        bytes_out: Bytes given to the transport since the opening handshake.
        delivered: Messages that the consumer got.
        answered: Messages that an automatic reply or a heartbeat took.
        queued_messages: Messages that wait.
        queued_messages_max: Most that ever waited.
        queued_bytes: Payload bytes that wait.
        queued_bytes_max: Most that ever waited.
        oldest_s: Age of the oldest message that waits; 0.0 if none does.
        kernel_backlog_bytes: Bytes that wait in the socket's receive buffer (FIONREAD); None where it can't be told.
        wait: How long messages waited in the queue.
        processing: How long the consumer took for a message.
        paused: Whether reading is paused now, as the queue is full.
        paused_s: Time for which reading was paused.
        pauses: How often.
        pause_max_s: The longest time; so long a ping may have waited unread.
        lost: Messages lost, by reason.
        gaps: `Gap` events so far.
        lost_by_key: Keys that lost most, at most ten: (key, dropped, conflated).
        pings_in: Pings received.
        pongs_in: Pongs received.
        ping_delay_max_s: Longest time between reading a ping and answering it; what it waited before it was read
            is in ``loop_lag_max_s`` and ``pause_max_s``.
        latency_s: Round trip of the last ping of ours that was answered; 0.0 if none was.
        loop_lag_s: By how much the event loop was late when it was last looked at, which is every 50 ms while
            messages wait.
        loop_lag_max_s: By how much it was late at most.
        exchange_lag_s: Age of the last message on arrival, by the exchange's clock and ours; None without
            ``exchange_time``.
        stalled_by: Who holds things up now; the first that applies:
            "loop": the event loop is, or was within the last second, late by more than 100 ms;
            "consumer": reading is paused as the queue is full, or a message has waited for more than 100 ms;
            "network": a ping of ours is unanswered for more than a second, or the peer doesn't take what we send, and
            the kernel is sending again what wasn't acknowledged (Linux);
            "peer": the same, but the peer's kernel acknowledges, or ours doesn't tell.
        receive: Who reads the socket: the event loop, or a receive thread.
        idle_s: Time since the last byte came into the kernel's buffer; None where it can't be told (it can be for
            TCP on Linux).
    """

    messages_in: int = 0
    messages_out: int = 0
    controls_out: int = 0
    withheld: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    delivered: int = 0
    answered: int = 0
    queued_messages: int = 0
    queued_messages_max: int = 0
    queued_bytes: int = 0
    queued_bytes_max: int = 0
    oldest_s: float = 0.0
    kernel_backlog_bytes: int | None = None
    wait: Quantiles = field(default_factory=Quantiles)
    processing: Quantiles = field(default_factory=Quantiles)
    paused: bool = False
    paused_s: float = 0.0
    pauses: int = 0
    pause_max_s: float = 0.0
    lost: Lost = field(default_factory=Lost)
    gaps: int = 0
    lost_by_key: tuple[tuple[str, int, int], ...] = ()
    pings_in: int = 0
    pongs_in: int = 0
    ping_delay_max_s: float = 0.0
    latency_s: float = 0.0
    loop_lag_s: float = 0.0
    loop_lag_max_s: float = 0.0
    exchange_lag_s: float | None = None
    stalled_by: StalledBy = None
    idle_s: float | None = None
    receive: Literal["loop", "thread"] = "loop"
