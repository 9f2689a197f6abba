"""The one narrow stair between the floors: chooses the data plane once, compiled or plain Python.

``FASTWS_PURE=1`` in the environment selects `fastws.reference`. Otherwise the compiled core must be there: a slow
fallback that nobody asked for would be a surprise in production.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .pickled import rebuild_with

__all__ = [
    "IMPLEMENTATION",
    "Batch",
    "BlockingIterator",
    "Encryption",
    "FrameDecoder",
    "FrameEncoder",
    "Hub",
    "Intake",
    "MessageIterator",
    "Pump",
    "PumpSocket",
    "PumpedDecoder",
    "Sender",
    "Turn",
    "apply_mask",
    "libssl_missing",
    "rebuild_batch",
    "recv",
    "send",
]

IMPLEMENTATION = "pure" if os.environ.get("FASTWS_PURE", "0") not in ("", "0") else "compiled"
"""``"compiled"`` or ``"pure"``: which data plane this process uses."""

if TYPE_CHECKING or IMPLEMENTATION == "compiled":
    try:
        from ._batch import Batch, rebuild_batch
        from ._decoder import FrameDecoder
        from ._encoder import FrameEncoder, apply_mask
        from ._intake import Intake
        from ._iterator import BlockingIterator, MessageIterator, Turn
        from ._pump import Encryption, Hub, Pump, PumpSocket, libssl_missing
        from ._pumped import PumpedDecoder
        from ._receiver import recv
        from ._sender import Sender, send
    except ImportError as exc:
        raise ImportError(
            "the compiled core of fastws isn't built for this interpreter: "
            "install fastws again with a C++ compiler (pip install --force-reinstall fastws), "
            "or set FASTWS_PURE=1 to run the plain-Python data plane, which is much slower"
        ) from exc
else:
    from .reference import (
        Batch,
        BlockingIterator,
        FrameDecoder,
        FrameEncoder,
        Intake,
        MessageIterator,
        Sender,
        Turn,
        apply_mask,
        rebuild_batch,
        recv,
        send,
    )
    from .reference.pump import Encryption, Hub, Pump, PumpedDecoder, PumpSocket, libssl_missing


rebuild_with(rebuild_batch)
