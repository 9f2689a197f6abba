def live_segments() -> int:
    """Segments in use in this process, for leak tests."""

def pooled_bytes() -> int:
    """Bytes that the pools keep for the next read."""
