"""The data plane in plain Python, written to be read beside RFC 6455 and RFC 7692.

It is the oracle that the compiled core is compared with, the baseline that it is measured against, and the fallback
where it can't be compiled. Where the two disagree, this one is right, or the contract is unclear.

Reading order: `header` (RFC 6455 5.2), `utf8` (8.1), `inflate` (RFC 7692 7.2.2), `inbox` and `batch` (what waits for
the consumer), `state`, `decoding` and `decoder` (which put them together), `encoder`, `sender`, `iterator` and
`intake`. Then what becomes of messages when there is no room: `keys`, `policies`, `backlog`, `inspection`, `losses`,
and `admission` (which puts these together).
"""

from __future__ import annotations

from .batch import Batch, rebuild_batch
from .decoder import FrameDecoder
from .encoder import FrameEncoder
from .header import apply_mask
from .intake import Intake
from .iterator import BlockingIterator, MessageIterator, Turn
from .receiver import recv
from .sender import Sender, send

__all__ = [
    "Batch",
    "BlockingIterator",
    "FrameDecoder",
    "FrameEncoder",
    "Intake",
    "MessageIterator",
    "Sender",
    "Turn",
    "apply_mask",
    "rebuild_batch",
    "recv",
    "send",
]
