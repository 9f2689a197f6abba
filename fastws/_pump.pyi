import ssl
from typing import ClassVar, final

from typing_extensions import Buffer

from ._pumped import PumpedDecoder

@final
class Hub:
    """What pumps tell one event loop, or another waiter: one readable descriptor for any number of sockets.

    Attributes:
        STEP: The decoder has something to be looked at.
        END: The stream has ended.
        DRAINED: Writing may go on.
        GONE: The socket is closed; this is its last report.
        rung_ns: When what was taken last had made it readable (``time.monotonic_ns()``); 0 if nothing had.
    """

    STEP: ClassVar[int]
    END: ClassVar[int]
    DRAINED: ClassVar[int]
    GONE: ClassVar[int]

    @property
    def rung_ns(self) -> int: ...
    def __init__(self) -> None: ...
    def fileno(self) -> int:
        """Readable when there is something to `take`."""
    def take(self) -> list[tuple[PumpSocket, int]]:
        """What has happened since the last call: pairs of `PumpSocket` and a sum of STEP, END, DRAINED and GONE."""

@final
class PumpSocket:
    """A socket that a pump owns."""

    @property
    def pump(self) -> Pump: ...
    @property
    def decoder(self) -> PumpedDecoder: ...
    def write(self, data: Buffer, last: bool = False, /) -> bool:
        """Send whole frames: at once what the socket takes, the rest when it does.

        Args:
            data: The frames.
            last: Whether they end with the last fragment of a message, for which replies were held.

        Returns:
            Whether what waits has crossed the high-water mark: then pause writing until `Hub.DRAINED`. What can't be
            written any more is the end of the socket: `Hub.GONE`.
        """
    @property
    def is_full(self) -> bool:
        """Whether what waits has crossed the high-water mark, and not yet the low one."""
    def wait_drained(self, timeout_s: float | None = None, /) -> bool:
        """Wait without the GIL until it isn't full, or nothing can be written any more.

        Args:
            timeout_s: Seconds; None is no limit.

        Returns:
            Whether that is so; False after the timeout.
        """
    def begin_beats(self, text: bytes, every_s: float, expects: bool, /) -> None:
        """Send heartbeats from now on, the first after ``every_s`` seconds.

        Args:
            text: What they say.
            every_s: Seconds between two; one that was missed, as the process didn't run, isn't made up for.
            expects: Whether only what ``decoder.heard`` counts is an answer; else any message is.

        Raises:
            RuntimeError: If they have begun already.
        """
    def stop_answers(self) -> None:
        """No pong, reply or heartbeat may follow: a close frame is sent next (RFC 6455 5.5.1)."""
    def hold_replies(self) -> None:
        """No message of the pump may come between (RFC 6455 5.4): fragments are sent, until ``write(last, True)``."""
    def end(self) -> None:
        """Nothing more is written: shut the sending side down when all is sent."""
    def set_limits(self, high: int, low: int, /) -> None:
        """Bytes that wait: more than high pause writing, low or fewer let it go on."""
    def pause(self, paused: bool, /) -> None:
        """Whether reading shall rest."""
    def close(self) -> None:
        """Close it when all is sent; nothing is read any more. With TLS, when the peer has closed it as well."""
    def abort(self) -> None:
        """Close it now. In a forked child: its own descriptor only."""
    def abandon(self) -> None:
        """Close it now; nobody takes its report any more, as its loop is closed."""
    def release(self) -> None:
        """After `Hub.GONE` and `Pump.purge`: let go of the hub, which has a descriptor."""
    @property
    def waiting_bytes(self) -> int:
        """Bytes that the socket hasn't taken."""
    @property
    def sent(self) -> tuple[int, int, int]:
        """What the pump has sent of its own: (messages, bytes, withheld).

        The bytes are those of pongs and headers, too. Withheld are replies and heartbeats that it hasn't sent, as more
        than 1 MiB waited for a peer that doesn't read.
        """
    def take_log(self) -> tuple[list[int], int]:
        """Which replies and heartbeats were sent since the last call, if the decoder logs; `Hub.STEP` tells of them.

        Returns:
            Their indices, that of heartbeats behind those of the replies, and how many more there were.
        """
    @property
    def encryption(self) -> Encryption | None: ...
    @property
    def error(self) -> int:
        """errno of what ended it, or 0; EPROTO if it was TLS, see `tls_failure`."""
    @property
    def tls_failure(self) -> str | None:
        """What libssl says has made TLS fail; None if it hasn't."""

def libssl_missing() -> str | None:
    """Why Python's libssl can't be used without Python; None if it can."""

@final
class Encryption:
    """The TLS session of an `ssl.SSLSocket`, for use without Python.

    Args:
        sock: Not closed; nobody else may read or write it once a pump has adopted it.

    Raises:
        NotImplementedError: If it can't be used so.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None: ...
    @property
    def sock(self) -> ssl.SSLSocket: ...
    def close(self) -> None:
        """Close the socket, without a word to the peer. What was negotiated can still be asked for."""

@final
class Pump:
    """A native thread that reads many connections without the GIL.

    It starts with its first connection and ends with its last one. By default, all connections of a process share one.

    Args:
        name: Of the thread, for tools; the system may cut it (Linux: 15 bytes).
        cpu: Number of the CPU that it shall stay on; None leaves that to the system. Linux only.

    Raises:
        ValueError: If there is no such CPU for this process.
        NotImplementedError: If the system can't pin threads.
    """

    def __init__(self, *, name: str = ..., cpu: int | None = None) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def cpu(self) -> int | None: ...
    @property
    def connections(self) -> int:
        """Connections that it reads."""
    @property
    def running(self) -> bool:
        """Whether its thread runs."""
    def adopt(
        self, fd: int, decoder: PumpedDecoder, hub: Hub | None = None, encryption: Encryption | None = None, /
    ) -> PumpSocket:
        """Read a copy of a socket's descriptor into ``decoder``, after ``pause(False)``. Nobody else may read it.

        The socket of an ``encryption`` is closed when the pump is done with it.

        Raises:
            OSError: If the descriptor can't be copied, or no thread be started.
        """
    def purge(self) -> None:
        """Let go of sockets that are closed."""
    def stop(self) -> None:
        """End the thread, whatever is open; for the end of the process."""
