"""What a connection tells of itself: figures, events, early warning."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.connection import Connection as UpstreamConnection
from websockets.frames import TEXT, Frame
from websockets.protocol import OPEN

from .core import FrameDecoder, PumpedDecoder, Turn
from .observe import kernel
from .observe.bus import EventBus, EventIterator
from .observe.events import Closed, Event, EventsLost, Gap, MessagesLost, PeerGone, ResyncNeeded, SlowConsumer
from .observe.pressure import Episode, Monitor, PauseClock, advice
from .observe.stats import Quantiles, StalledBy, Stats
from .options import Options, take_options
from .overflow import Lost
from .wire import RECORD_BYTES, Notice

__all__ = ["Observed"]

_STALL_S = 0.1
"""From here on, something that waits is stalled."""
_SILENCE_S = 1.0
"""From here on, a ping without an answer is a stall."""
_LOSS_EVERY_S = 1.0
"""Between two events that tell of losses."""
_NO_ROOM = (
    "Conflate pauses reading: %d messages wait, and there is no room for one of %r; the peer may cut the connection "
    "meanwhile. Give each key room (max_queue, max_queue_bytes), or say what may be lost instead (otherwise=)"
)
_NO_PUMP = (0, 0)
_UNSENT_MAX = 2**20
"""Bytes that a peer may leave unread before it gets no automatic replies any more."""
_WITHHELD = (
    "automatic replies and heartbeats aren't sent while more than 1 MiB waits for the peer, which doesn't read it; "
    "stats.withheld counts them"
)


class Observed(UpstreamConnection):
    """The part of `Connection` that looks at it.

    Args:
        *args: As ``websockets`` takes them.
        **kwargs: `Options`, and what ``websockets`` takes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._options = options = Options(**take_options(kwargs))
        super().__init__(*args, **kwargs)
        self.max_queue_bytes = options.max_queue_bytes
        self._decoder: FrameDecoder | None = None
        self._turn: Turn | None = None
        self._lost = False
        self._observing = False
        self._watched = False
        self._peer_gone = False
        self._bus = EventBus(options.on_event)
        self._resync_told: set[str] = set()
        self._monitor = Monitor.of(self.loop)
        self._pauses = PauseClock()
        # Ask a pump to tell of the next message; where the loop receives, it knows.
        self._arm: Callable[[], None] = _nothing
        self._pauses_seen = 0
        self._episodes: list[Episode] = []
        self._slow = 0
        self._sheds = bool(options.decoder_arguments)
        self._lost_told = Lost()
        self._lost_told_at = 0.0
        self._messages_out = 0
        self._bytes_out = 0
        self._controls_out = 0
        self._withheld = 0
        # Replies that wait for the last fragment of a message, and the sum of their sizes.
        self._deferred: list[str] = []
        self._deferred_bytes = 0
        self._withheld_told = False
        self._pings_in = 0
        self._pongs_in = 0
        self._ping_delay_max_ns = 0
        self._heard = 0

    # For users

    @property
    def stats(self) -> Stats:
        """All figures at this moment. Cost: some microseconds, more where thousands of keys have lost messages."""
        decoder, turn = self._decoder, self._turn
        if decoder is None or turn is None:
            return Stats(latency_s=self.latency, controls_out=self._controls_out)
        info = kernel.tcp_info(self._descriptor)
        figures = decoder.figures()
        lag_ns = figures.exchange_lag_ns
        pings, ping_delay_ns = self._pump_pings
        messages_out, bytes_out, withheld = self._sent
        paused_s, pause_max_s = self._pauses.read_s()
        return Stats(
            messages_in=figures.messages_received,
            messages_out=self._messages_out + messages_out,
            controls_out=self._controls_out + pings,
            withheld=self._withheld + withheld,
            bytes_in=figures.bytes_received,
            bytes_out=self._bytes_out + bytes_out,
            delivered=figures.delivered,
            answered=figures.answered,
            queued_messages=figures.queued_messages,
            queued_messages_max=figures.queued_messages_max,
            queued_bytes=figures.queued_bytes,
            queued_bytes_max=figures.queued_bytes_max,
            oldest_s=self._oldest_s,
            kernel_backlog_bytes=kernel.backlog_bytes(self._descriptor),
            wait=_quantiles(turn.wait),
            processing=_quantiles(turn.processing),
            paused=self._pauses.running,
            paused_s=paused_s,
            pauses=self._pauses.count,
            pause_max_s=pause_max_s,
            lost=figures.lost,
            gaps=figures.gaps,
            lost_by_key=tuple(decoder.lost_by_key()),
            pings_in=self._pings_in + pings,
            pongs_in=self._pongs_in,
            ping_delay_max_s=max(self._ping_delay_max_ns, ping_delay_ns) / 1e9,
            latency_s=self.latency,
            loop_lag_s=self._monitor.lag_now_s(),
            loop_lag_max_s=self._monitor.lag_max_s,
            exchange_lag_s=None if lag_ns is None else lag_ns / 1e9,
            stalled_by=self._stalled_by(info),
            idle_s=None if info is None else info.idle_s,
            receive="loop" if self._pump_pings is _NO_PUMP else "thread",
        )

    def events(self, max_events: int = 1024) -> EventIterator:
        """Iterate on what happens to the connection, until it is closed.

        There may be several iterators; each gets all events. The first begins with what has happened since the
        connection was opened, at most the last 64 events: so it misses nothing that came together with the handshake.
        Further ones do so, too, until the next event.

        Args:
            max_events: Most events that wait; then the oldest are dropped, and an `EventsLost` says how many.

        Raises:
            ValueError: If ``max_events`` is less than 1.
        """
        return self._bus.subscribe(functools.partial(EventIterator, max_events))

    @property
    def given_up(self) -> frozenset[str]:
        """Keys whose messages the policy `Resync` drops until ``resynced(key)``.

        `ResyncNeeded` tells of each; look here after `EventsLost`. Cost: grows with the keys that were ever seen.
        """
        return frozenset() if self._decoder is None else frozenset(self._decoder.given_up())

    def resynced(self, key: str) -> None:
        """After `ResyncNeeded`: messages of ``key`` are delivered again from now on. Get the snapshot afterwards."""
        self._resync_told.discard(key)
        if self._decoder is not None:
            self._decoder.resynced(key)

    # Figures

    @property
    def _pump_pings(self) -> tuple[int, int]:
        """(Pings that a pump has answered, its longest delay in nanoseconds)."""
        return self._decoder.pings if isinstance(self._decoder, PumpedDecoder) else _NO_PUMP

    @property
    def _descriptor(self) -> int:
        """File descriptor of the socket; -1 if there is none any more."""
        if self._lost or self.transport.is_closing():
            return -1
        sock = self.transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    @property
    def _oldest_s(self) -> float:
        oldest_ns = 0 if self._decoder is None else self._decoder.oldest_ns
        return (time.monotonic_ns() - oldest_ns) / 1e9 if oldest_ns else 0.0

    def _stalled_by(self, info: kernel.TcpInfo | None) -> StalledBy:
        if self._monitor.was_late(_STALL_S):
            return "loop"
        if self._pauses.running or self._oldest_s > _STALL_S:
            return "consumer"
        pinged_at = min((sent_at for _, sent_at in tuple(self.pending_pings.values())), default=None)
        if self.paused or (pinged_at is not None and time.monotonic() - pinged_at > _SILENCE_S):
            return "network" if info is not None and info.retransmits else "peer"
        return None

    @property
    def _sent(self) -> tuple[int, int, int]:
        """Messages and bytes that ``send()`` and a pump count by themselves, and messages that a pump has withheld."""
        return 0, 0, 0

    # Events

    def _emit(self, event: Event) -> None:
        self._bus.emit(self, event)

    def _observe(self) -> None:
        """The connection is open."""
        self._observing = True
        self._episodes = [Episode(threshold) for threshold in self._options.all_thresholds(self.max_queue_high)]

    def _notices(self, decoder: FrameDecoder) -> None:
        """Pass on what the decoder has noticed, and do what it can't."""
        for kind, text, first, second in decoder.notices():
            if kind == Notice.REPLY:
                self._reply(first)
            elif kind == Notice.GAP:
                self._emit(Gap(text, first, second))
            elif kind == Notice.RESYNC:
                self._need_resync(text or "")
            elif kind == Notice.DISCONNECT:
                if self.protocol.state is OPEN:
                    # It is us who go.
                    self._peer_gone = True
                    self.protocol.fail(first, text or "")
                    self._answer()
            elif kind == Notice.NO_ROOM:
                self.logger.warning(_NO_ROOM, first, text)
            elif kind == Notice.WITHHELD:
                self._tell_withheld()
            else:
                self._emit(EventsLost(first))
                # Which keys were among them isn't known, but which are given up.
                for key in decoder.given_up():
                    if key not in self._resync_told:
                        self._need_resync(key)

    def _need_resync(self, key: str) -> None:
        self._resync_told.add(key)
        self._emit(ResyncNeeded(key))

    def _reply(self, index: int) -> None:
        # What is of the heartbeat comes behind the user's.
        if index < len(self._options.replies):
            self._send_now(self._own_text(index))
        else:
            self._heard += 1

    def _own_text(self, index: int) -> str:
        """What one of the replies says, or, behind them, the heartbeat."""
        replies = self._options.replies
        one = replies[index] if index < len(replies) else self._options.heartbeat
        assert one is not None
        assert one.send is not None  # Or the decoder hadn't said.
        return one.send

    def _log_sent(self, indices: list[int], more: int) -> None:
        """A pump has sent replies and heartbeats."""
        for index in indices:
            self.logger.debug("> %s", Frame(TEXT, self._own_text(index).encode()))
        if more:
            self.logger.debug("> %d more replies and heartbeats", more)

    def _send_now(self, text: str) -> None:
        """Send a message from a callback, without waiting for anything."""
        if self._must_withhold():
            return
        if self.send_in_progress is not None:
            # Not between the fragments of another message, RFC 6455 5.4.
            if not self._deferred:
                self.send_in_progress.add_done_callback(lambda _: self._send_deferred())
            self._defer(text)
            return
        self.protocol.send_text(text.encode())
        self._answer()

    def _defer(self, text: str) -> None:
        self._deferred.append(text)
        self._deferred_bytes += len(text.encode())

    def _send_deferred(self) -> None:
        """A message in fragments was sent."""
        deferred, self._deferred, self._deferred_bytes = self._deferred, [], 0
        for text in deferred:
            self._send_now(text)

    def _must_withhold(self) -> bool:
        """Whether a reply or heartbeat can't be sent: it is counted if that is as the peer doesn't read."""
        if self.protocol.state is not OPEN:
            return True
        if self.transport.get_write_buffer_size() + self._deferred_bytes <= _UNSENT_MAX:
            return False
        self._withheld += 1
        self._tell_withheld()
        return True

    def _tell_withheld(self) -> None:
        if not self._withheld_told:
            self._withheld_told = True
            self.logger.warning(_WITHHELD)

    def _answer(self) -> None:
        raise NotImplementedError

    def _discard_queue(self) -> None:
        raise NotImplementedError

    def _peer_has_gone(self) -> None:
        """The stream has ended without a close frame."""
        if not self._peer_gone and self._observing and self.protocol.close_rcvd is None:
            self._peer_gone = True
            self._emit(PeerGone(0 if self._decoder is None else self._decoder.queued_messages, self._oldest_s))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._peer_has_gone()
        self._pauses.stop()
        self._monitor.forget(self)
        super().connection_lost(exc)
        if self._observing:
            self._tell_losses(time.monotonic(), at_once=True)
            queued = 0 if self._decoder is None else self._decoder.queued_messages
            code, reason = self.protocol.close_code, self.protocol.close_reason
            self._emit(Closed(1006 if code is None else code, reason or "", queued))
        self._bus.end()

    # Early warning

    def _watch(self) -> None:
        """Messages wait, or reading is paused: somebody must look at it."""
        self._watched = True
        self._monitor.watch(self)

    def _look(self, now: float) -> bool:
        """Called by the monitor."""
        decoder = self._decoder
        if decoder is None or self._lost:
            return False
        paused = self._pauses.running
        was_full = paused or self._pauses.count != self._pauses_seen
        self._pauses_seen = self._pauses.count
        messages = decoder.queued_messages
        if messages or self._slow or was_full:
            figures = {
                "messages": messages,
                "bytes": decoder.queued_bytes + RECORD_BYTES * decoder.queued_frames,
                "age": self._oldest_s,
            }
            for episode in self._episodes:
                crossing = episode.update(now, figures, was_full)
                if crossing is not None:
                    self._crossed(SlowConsumer(*crossing[:4], self.stats, crossing.lasted_s))
        if paused and not self._peer_gone and kernel.hung_up(self._descriptor):
            self._peer_has_gone()
            if self._options.on_close == "raise":
                self._discard_queue()
        told = self._tell_losses(now)
        self._watched = bool(messages or paused or self._slow or not told)
        if not self._watched:
            self._arm()
            self._watched = decoder.queued_messages > 0
        return self._watched

    def _tell_losses(self, now: float, *, at_once: bool = False) -> bool:
        """Whether all that policies have lost was told."""
        if self._decoder is None or not self._sheds:
            return True
        lost = self._decoder.lost
        if lost == self._lost_told:
            return True
        if not at_once and now - self._lost_told_at < _LOSS_EVERY_S:
            return False
        self._emit(MessagesLost(lost.since(self._lost_told)))
        self._lost_told, self._lost_told_at = lost, now
        return True

    def _crossed(self, event: SlowConsumer) -> None:
        """An episode has begun or ended; several thresholds may tell of the same, and it is logged once."""
        self._slow += 1 if event.phase == "started" else -1
        if event.phase == "started" and self._slow == 1:
            self.logger.warning("%s", advice(event.stats))
        elif not self._slow:
            self.logger.info("slow consumer: it has caught up after %.1f s", event.lasted_s)
        self._emit(event)


def _nothing() -> None:
    pass


def _quantiles(figures: tuple[int, int, int, int, int]) -> Quantiles:
    """From (count, p50, p99, p999, max) in nanoseconds."""
    count, *times = figures
    return Quantiles(count, *(ns / 1e9 for ns in times))
