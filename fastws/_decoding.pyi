from typing_extensions import disjoint_base

from ._state import DecoderState

@disjoint_base
class Decoding(DecoderState):
    """The part of `FrameDecoder` that turns bytes into queued messages and control frames, without the GIL."""
