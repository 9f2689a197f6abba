"""From a broken rule to what the control plane needs: close code, reason for the peer, exception for the user."""

from __future__ import annotations

from websockets.exceptions import PayloadTooBig, ProtocolError, TooManyFragments

from .wire import RULES, Violation, describe, wire_reason

__all__ = ["failure"]


class _MessageTooBig(PayloadTooBig):
    """`PayloadTooBig` that names value, limit, section and close code."""

    def __init__(self, text: str, size: int | None, max_size: int, current_size: int | None) -> None:
        super().__init__(size, max_size, current_size)
        self.text = text

    def __str__(self) -> str:
        return self.text


class _InvalidText(UnicodeDecodeError):
    """`UnicodeDecodeError` for bytes that aren't kept: it names the position, not the bytes."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        super().__init__("utf-8", b"", position, position + 1, reason)
        self.text = text

    def __reduce__(self) -> tuple[type[_InvalidText], tuple[str, int, str]]:
        return _InvalidText, (self.text, self.start, self.reason)

    def __str__(self) -> str:
        return self.text


def failure(violation: Violation, value: int, limit: int, current_size: int | None) -> tuple[int, str, Exception]:
    """Return (close code, reason, exception) for a broken rule.

    The reason has the wording of ``websockets``, the exception says more.

    Args:
        violation: The rule.
        value: What was found.
        limit: What was allowed.
        current_size: Bytes of a fragmented message received before; None outside of one.
    """
    text = describe(violation, value, limit)
    code = RULES[violation].close_code
    reason = wire_reason(violation, value, limit)
    exc: Exception
    match violation:
        case Violation.MESSAGE_TOO_BIG | Violation.FRAGMENT_TOO_BIG | Violation.INFLATED_TOO_BIG:
            size = None if violation is Violation.INFLATED_TOO_BIG else value
            if current_size is not None and violation is not Violation.FRAGMENT_TOO_BIG:
                # PayloadTooBig counts from the beginning of the frame and adds what came before.
                size = None if size is None else size - current_size
                limit -= current_size if violation is Violation.MESSAGE_TOO_BIG else 0
            exc = _MessageTooBig(text, size, limit, current_size)
            reason = PayloadTooBig.__str__(exc)
        case Violation.INVALID_UTF8:
            exc = _InvalidText(text, value, reason.rpartition(" at position ")[0])
        case Violation.TOO_MANY_FRAGMENTS:
            exc = TooManyFragments(limit)
            exc.args = (text,)
        case Violation.OUT_OF_MEMORY:
            exc = MemoryError(text)
        case _:
            exc = ProtocolError(text)
    return code, reason, exc
