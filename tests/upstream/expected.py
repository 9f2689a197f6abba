"""Which of websockets' own tests fail with fastws's classes, and why that is right.

Keys are test ids without ``tests.asyncio.`` or
``tests.sync.``; ``*`` before ``ConnectionTests`` stands for the client's and the server's.
Only tests that look at private parts of websockets, or at a default that fastws documents as different, belong here.
"""

EXPECTED: dict[str, str] = {
    "test_connection.*ConnectionTests.test_backpressure": (
        "sets recv_messages.high and reads recv_messages.frames; fastws's connections don't use this private queue"
    ),
    "test_connection.*ConnectionTests.test_keepalive_reports_errors": (
        "wants the error logged one cycle of the loop later; fastws, which looks for signs of life meanwhile, takes two"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_data_received": (
        "injects its fault into Protocol.events_received, which data frames don't pass in fastws"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_send_context": (
        "injects its fault into Protocol.send_text, which fastws's send doesn't call"
    ),
}

_NOT_OUR_TRANSPORT = "breaks the transport that the loop has made, which isn't the connection's any more"

# With ``receive="thread"`` besides.
EXPECTED_THREAD: dict[str, str] = {
    "test_connection.*ConnectionTests.test_broadcast_reports_connection_failing_to_send": _NOT_OUR_TRANSPORT,
    "test_connection.*ConnectionTests.test_broadcast_skips_connection_failing_to_send": _NOT_OUR_TRANSPORT,
    "test_connection.*ConnectionTests.test_local_address": (
        "injects an address into asyncio.Transport.get_extra_info, which the pump's transport has of its own"
    ),
    "test_connection.*ConnectionTests.test_remote_address": (
        "injects an address into asyncio.Transport.get_extra_info, which the pump's transport has of its own"
    ),
    "test_connection.*ConnectionTests.test_writing_in_data_received_fails": _NOT_OUR_TRANSPORT,
    "test_connection.*ConnectionTests.test_writing_in_send_context_fails": _NOT_OUR_TRANSPORT,
}

_NOT_OUR_SOCKET = "makes a stand-in for the socket fail in sendall(); fastws writes to the descriptor"

# Of the threading API, for clients; those of servers aren't run.
EXPECTED_SYNC: dict[str, str] = {
    "test_connection.*ConnectionTests.test_backpressure": (
        "sets recv_messages.high and reads recv_messages.frames; fastws's connections don't use this private queue"
    ),
    "test_connection.*ConnectionTests.test_broadcast_reports_connection_failing_to_send": _NOT_OUR_SOCKET,
    "test_connection.*ConnectionTests.test_broadcast_skips_connection_failing_to_send": _NOT_OUR_SOCKET,
    "test_connection.*ConnectionTests.test_close_expected_during_connecting": (
        "wants the receiving thread to look at a handshake that nobody does; in fastws, handshake() reads the socket"
    ),
    "test_connection.*ConnectionTests.test_keepalive_reports_errors": (
        "injects its fault into Event.wait, by which fastws doesn't wait for pongs"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_recv_events": (
        "injects its fault into Protocol.events_received, which data frames don't pass in fastws"
    ),
    "test_connection.*ConnectionTests.test_unexpected_failure_in_send_context": (
        "injects its fault into Protocol.send_text, which fastws's send doesn't call"
    ),
    "test_connection.*ConnectionTests.test_writing_in_recv_events_fails": _NOT_OUR_SOCKET,
    "test_connection.*ConnectionTests.test_writing_in_send_context_fails": _NOT_OUR_SOCKET,
}

# Not compared on uvloop: they pass or fail there by chance, also with plain websockets.
RACES_ON_UVLOOP: dict[str, str] = {
    "*.test_keepalive_is_enabled": "wants a latency above zero; uvloop's clock counts milliseconds",
    "test_connection.*ConnectionTests.test_keepalive": "wants a latency above zero; uvloop's clock counts milliseconds",
}
