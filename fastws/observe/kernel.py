"""What the kernel knows of a socket and Python doesn't ask: None or False where it can't be told."""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import NamedTuple

__all__ = ["TcpInfo", "backlog_bytes", "hung_up", "tcp_info"]

_HANGUP = 0 if not hasattr(select, "POLLRDHUP") else select.POLLRDHUP | select.POLLHUP | select.POLLERR
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
# The beginning of struct tcp_info, linux/tcp.h: tcpi_retransmits, tcpi_last_data_recv, tcpi_last_ack_recv.
_TCP_INFO_HEAD = struct.Struct("=xxB49xII")


class TcpInfo(NamedTuple):
    """A part of Linux's TCP_INFO.

    Attributes:
        retransmits: How often what wasn't acknowledged was sent again.
        idle_s: Seconds since bytes came.
        ack_s: Seconds since the peer's kernel acknowledged something.
    """

    retransmits: int
    idle_s: float
    ack_s: float


def backlog_bytes(fd: int) -> int | None:
    """Bytes that wait in the receive buffer (FIONREAD)."""
    try:
        import fcntl
        import termios

        answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4)
    except (ImportError, OSError, ValueError):
        return None
    return int(struct.unpack("i", answer)[0])


def hung_up(fd: int) -> bool:
    """Whether the peer has ended or reset the stream, although what it sent before may be unread. Linux only."""
    if not _HANGUP or fd < 0:
        return False
    poll = select.poll()
    poll.register(fd, _HANGUP)
    return any(events & _HANGUP for _, events in poll.poll(0))


def tcp_info(fd: int) -> TcpInfo | None:
    """What TCP says of its peer. Linux only."""
    if _TCP_INFO is None or fd < 0:
        return None
    try:
        with socket.socket(fileno=fd) as sock:
            try:
                head = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_HEAD.size)
            finally:
                sock.detach()
    except OSError:
        return None
    if len(head) < _TCP_INFO_HEAD.size:
        return None
    retransmits, idle_ms, ack_ms = _TCP_INFO_HEAD.unpack(head)
    return TcpInfo(retransmits, idle_ms / 1000, ack_ms / 1000)
