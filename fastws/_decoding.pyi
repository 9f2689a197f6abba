from ._state import DecoderState

class Decoding(DecoderState):
    """The part of `FrameDecoder` that turns bytes into queued messages and control frames, without the GIL."""
