"""Opcodes, limits and error numbers of RFC 6455 and RFC 7692; fastws/wire.py says what they mean."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

cdef enum:
    MAX_CONTROL = 125       # RFC 6455 5.5
    MAX_HEADER = 14         # 2 + 8 + 4, RFC 6455 5.2
    RECORD_BYTES = 32       # what a queued frame costs besides its payload

cdef enum Status:
    STATUS_MESSAGE = 1
    STATUS_CONTROL = 2
    STATUS_VIOLATION = 4
    STATUS_BLOCKED = 8
    STATUS_NOTICE = 16

cdef enum Violation:
    RESERVED_BITS = 1
    INVALID_OPCODE = 2
    INCORRECT_MASKING = 3
    CONTROL_TOO_LONG = 4
    CONTROL_FRAGMENTED = 5
    LENGTH_TOO_LARGE = 6
    MESSAGE_TOO_BIG = 7
    FRAGMENT_TOO_BIG = 8
    INFLATED_TOO_BIG = 9
    UNEXPECTED_CONTINUATION = 10
    EXPECTED_CONTINUATION = 11
    RSV1_CONTINUATION = 12
    INVALID_UTF8 = 13
    INFLATE_FAILED = 14
    TOO_MANY_FRAGMENTS = 15
    OUT_OF_MEMORY = 16

cdef enum Utf8Reason:
    UTF8_START = 0
    UTF8_CONTINUATION = 1
    UTF8_END = 2
