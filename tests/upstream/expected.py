"""Which of websockets' own asyncio tests fail with fastws's classes, and why that is right.

Keys are test ids without ``tests.asyncio.``; ``*`` before ``ConnectionTests`` stands for the client's and the server's.
Only tests that look at private parts of websockets, or at a default that fastws documents as different, belong here.
"""

EXPECTED: dict[str, str] = {
    "test_connection.*ConnectionTests.test_backpressure": (
        "sets recv_messages.high and reads recv_messages.frames; fastws's connections don't use this private queue"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_data_received": (
        "injects its fault into Protocol.events_received, which data frames don't pass in fastws"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_send_context": (
        "injects its fault into Protocol.send_text, which fastws's send doesn't call"
    ),
}

# Not compared on uvloop: they pass or fail there by chance, also with plain websockets.
RACES_ON_UVLOOP: dict[str, str] = {
    "*.test_keepalive_is_enabled": "wants a latency above zero; uvloop's clock counts milliseconds",
    "test_connection.*ConnectionTests.test_keepalive": "wants a latency above zero; uvloop's clock counts milliseconds",
}
