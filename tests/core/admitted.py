"""Decoders with a policy, and what is left in them."""

from __future__ import annotations

from fastws.overflow import Between

from .streams import TEXT, frame

KEY = Between(b"<", b">")
ROUTE_KEY = Between(b"@", b" ")


def numbered(count, *, start=0):
    return b"".join(frame(TEXT, b"%d" % i) for i in range(start, start + count))


def texts(*messages):
    return b"".join(frame(TEXT, message.encode()) for message in messages)


def check_sum(decoder):
    """Every message that arrived is in one place."""
    assert decoder.messages_received == (
        decoder.delivered + decoder.queued_messages + decoder.lost.total + decoder.answered
    )


def after(impl, overflow, *messages, **options):
    """A decoder that got these messages."""
    decoder = impl.FrameDecoder("client", overflow=overflow, **options)
    decoder.feed(texts(*messages))
    check_sum(decoder)
    return decoder


def left(decoder):
    """What the consumer gets."""
    messages = list(decoder.take())
    check_sum(decoder)
    return messages
