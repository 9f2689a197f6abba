"""Configuration of `Admission` and what Python sees of it: notices, losses, keys."""

import math
from collections.abc import Mapping

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc
from libcpp.string cimport string
from libcpp.vector cimport vector

from fastws import overflow as vocabulary
from fastws.overflow import Lost

_SEPARATOR = vocabulary.KEY_SEPARATOR.encode()
_UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
_KINDS = {
    vocabulary.Block: POLICY_BLOCK,
    vocabulary.DropOldest: POLICY_DROP_OLDEST,
    vocabulary.DropNewest: POLICY_DROP_NEWEST,
    vocabulary.Disconnect: POLICY_DISCONNECT,
}


@cython.final
cdef class Gate:
    """What the decoder asks about each complete message; see the decoder for the arguments."""

    def __cinit__(self):
        self.admission.route_source = self.admission.time_value = -1
        self.admission.inspect_source = self.admission.track_source = -1
        self.admission.sequence = self.admission.first = self.admission.previous = -1
        self.callables = []
        self.disconnects = []
        self.sources = {}

    def __init__(self, overflow, max_queue_age, inspect, exchange_time, replies, track):
        cdef Admission* admission = &self.admission
        if max_queue_age is not None:
            if not isinstance(max_queue_age, (int, float)):
                raise TypeError(f"max_queue_age must be a number, not {type(max_queue_age).__name__}")
            if not max_queue_age > 0 or math.isinf(max_queue_age):
                raise ValueError(f"max_queue_age is {max_queue_age}, must be more than 0 seconds")
            admission.max_age_ns = max(int(max_queue_age * 1e9), 1)
        if overflow is None:
            overflow = vocabulary.Block()
        replies = tuple(replies)
        for name, value, kind in (
            ("inspect", inspect, vocabulary.Inspect),
            ("exchange_time", exchange_time, vocabulary.ExchangeTime),
            *(("replies", reply, vocabulary.Reply) for reply in replies),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be of {kind.__name__}, not {value!r}")
        looks = inspect is not None or exchange_time is not None or replies or track is not None
        if not looks and admission.max_age_ns == 0 and type(overflow) is vocabulary.Block:
            return
        admission.active = True
        admission.lens = new Lens(vocabulary.KEYS_MAX, vocabulary.KEY_BYTES_MAX, _SEPARATOR[0])
        self.configure_policies(overflow)
        if inspect is not None:
            admission.inspects = True
            admission.sequence = self.pointer(inspect.sequence)
            if inspect.first is not None:
                admission.first = self.pointer(inspect.first)
            if inspect.previous is not None:
                admission.previous = self.pointer(inspect.previous)
            if inspect.restart is not None:
                for value, text in self.condition("restart", inspect.restart):
                    admission.lens.add_restart(value, <string> text)
            if inspect.key is not None:
                admission.inspect_source = self.source_of(inspect.key)
        if exchange_time is not None:
            if exchange_time.unit not in _UNITS_NS:
                raise ValueError(
                    f"unit of exchange_time is {exchange_time.unit!r}, must be one of {', '.join(_UNITS_NS)}"
                )
            admission.time_value = self.pointer(exchange_time.pointer)
            admission.time_unit_ns = _UNITS_NS[exchange_time.unit]
        for reply in replies:
            admission.answers = True
            literal = reply.when.encode() if isinstance(reply.when, str) else b""
            admission.lens.add_answer(reply.send is not None, reply.deliver, <string> literal)
            if literal:
                continue
            for value, text in self.condition("a reply's when", reply.when):
                admission.lens.add_condition(value, <string> text)
        if track is not None:
            admission.track_source = self.source_of(track)

    def __dealloc__(self):
        admission_close(&self.admission)

    cdef int pointer(self, object pointer) except -1:
        """Index of the value at a JSON Pointer."""
        cdef int value
        if not isinstance(pointer, str):
            raise TypeError(f"a JSON Pointer must be a str, not {type(pointer).__name__}")
        cdef bytes encoded = pointer.encode()
        value = self.admission.lens.add_pointer(encoded, len(encoded))
        if value < 0:
            raise ValueError(
                f"{pointer!r} isn't a JSON Pointer (RFC 6901) of at most 32 parts: it must begin with '/'"
            )
        return value

    cdef list condition(self, str where, object pairs):
        """Values at JSON Pointers, and the bytes that they must be."""
        cdef list found = []
        if not isinstance(pairs, Mapping):
            raise TypeError(f"{where} is {pairs!r}, must be a mapping of JSON Pointers to strings")
        for pointer, text in pairs.items():
            if not isinstance(text, str):
                raise TypeError(f"{where} compares {pointer} with {text!r}, must be a str")
            found.append((self.pointer(pointer), text.encode()))
        return found

    cdef int source_of(self, object key) except -1:
        """Index of the source of a `Key`; the same for the same key."""
        cdef vector[int] values
        if key in self.sources:
            return self.sources[key]
        if isinstance(key, (str, tuple)):
            if key == ():
                raise ValueError("a key of no JSON Pointer")
            for pointer in (key,) if isinstance(key, str) else key:
                values.push_back(self.pointer(pointer))
            source = self.admission.lens.add_pointers(values)
        elif isinstance(key, vocabulary.Between):
            source = self.admission.lens.add_between(<string> bytes(key.before), <string> bytes(key.after))
        elif callable(key):
            source = self.admission.lens.add_callable()
            self.callables.append((source, key))
        else:
            raise TypeError(f"a key must be a JSON Pointer, several of them, Between or a callable, not {key!r}")
        self.sources[key] = source
        return source

    cdef int configure_policies(self, object overflow) except -1:
        cdef Admission* admission = &self.admission
        rules = []
        if isinstance(overflow, vocabulary.Route):
            rules = list(overflow.rules.items())
        admission.policies = <Policy*> calloc(len(rules) + 1, sizeof(Policy))
        if admission.policies == NULL:
            raise MemoryError("no memory for policies")
        if not isinstance(overflow, vocabulary.Route):
            self.set_policy(0, overflow, None)
            return 0
        admission.route_source = self.source_of(overflow.key)
        self.admission.policies[0].source = -1
        self.admission.policies[0].kind = self.kind_of(overflow.default, &self.admission.policies[0])
        for index, (pattern, policy) in enumerate(rules, 1):
            if not isinstance(pattern, str):
                raise TypeError(f"a pattern must be a str, not {pattern!r}")
            self.set_policy(index, policy, overflow.key)
            admission.lens.add_rule(<string> pattern.encode(), index)
        return 0

    cdef int set_policy(self, int index, object policy, object route_key) except -1:
        cdef Policy* target = &self.admission.policies[index]
        target.source = -1
        if isinstance(policy, (vocabulary.Conflate, vocabulary.Resync)):
            key = route_key if policy.key is None else policy.key
            if key is None:
                raise ValueError(f"{type(policy).__name__} needs a key outside of a Route")
            target.kind = POLICY_CONFLATE if isinstance(policy, vocabulary.Conflate) else POLICY_RESYNC
            target.source = self.source_of(key)
            target.otherwise = self.kind_of(policy.otherwise, target)
        else:
            target.kind = target.otherwise = self.kind_of(policy, target)
        return 0

    cdef int kind_of(self, object policy, Policy* target) except -1:
        if type(policy) not in _KINDS:
            raise TypeError(f"{policy!r} can't be a policy here")
        if isinstance(policy, vocabulary.Disconnect):
            target.disconnect = len(self.disconnects)
            self.disconnects.append((policy.code, policy.reason))
        return _KINDS[type(policy)]

    cdef bint ask(self, object message) noexcept:
        """Let callables find the keys of the message that is looked at next. False if there is no memory to do so."""
        cdef bytes encoded
        for source, function in self.callables:
            try:
                key = function(message)
                encoded = None if key is None else key.encode()
            except MemoryError:
                return False
            except BaseException as exc:
                encoded = None
                PyErr_SetObject(type(exc), exc)
                PyErr_WriteUnraisable(function)
            if encoded is None:
                self.admission.lens.give(source, NULL, 0)
            else:
                self.admission.lens.give(source, encoded, len(encoded))
        return True

    cdef object key_text(self, int source, uint32_t key):
        cdef KeySpace* keys
        if source < 0 or key == NO_KEY:
            return None
        keys = self.admission.lens.keys(source)
        return PyUnicode_DecodeUTF8(keys.text(key), keys.entry(key).length, "backslashreplace")

    def notices(self):
        cdef list taken = []
        cdef Notice* notice
        cdef uint32_t i
        for i in range(self.admission.notice_count):
            notice = &self.admission.notices[i]
            if notice.kind == NOTICE_DISCONNECT:
                code, reason = self.disconnects[notice.a]
                taken.append((notice.kind, reason, code, 0))
            else:
                taken.append((notice.kind, self.key_text(notice.source, notice.key), notice.a, notice.b))
        self.admission.notice_count = 0
        if self.admission.notices_lost:
            taken.append((NOTICE_LOST, None, self.admission.notices_lost, 0))
            self.admission.notices_lost = 0
        return taken

    def given_up(self):
        cdef KeySpace* keys
        cdef uint32_t i
        cdef set found = set()
        if self.admission.lens != NULL:
            for source in self.sources.values():
                keys = self.admission.lens.keys(source)
                for i in range(keys.size()):
                    if keys.entry(i).given_up:
                        found.add(self.key_text(source, i))
        return sorted(found)

    def resynced(self, str key not None):
        cdef KeySpace* keys
        cdef uint32_t i
        if self.admission.lens == NULL:
            return
        for source in self.sources.values():
            keys = self.admission.lens.keys(source)
            # By the name that is shown, which needn't be the bytes of the key.
            for i in range(keys.size()):
                if keys.entry(i).given_up and self.key_text(source, i) == key:
                    keys.entry(i).given_up = False

    def lost_by_key(self, limit):
        cdef dict found = {}
        cdef KeySpace* keys
        cdef uint32_t i
        cdef KeyEntry* entry
        if self.admission.lens == NULL or limit <= 0:
            return []
        for source in self.sources.values():
            keys = self.admission.lens.keys(source)
            for i in range(keys.size()):
                entry = keys.entry(i)
                if entry.dropped or entry.conflated:
                    key = self.key_text(source, i)
                    dropped, conflated = found.get(key, (0, 0))
                    found[key] = dropped + entry.dropped, conflated + entry.conflated
        losses = [(key, dropped, conflated) for key, (dropped, conflated) in found.items()]
        losses.sort(key=_most_first)
        return losses[:limit]

    def last_seen(self):
        cdef dict seen = {}
        cdef KeySpace* keys
        cdef uint32_t i
        if self.admission.track_source < 0:
            return seen
        keys = self.admission.lens.keys(self.admission.track_source)
        for i in range(keys.size()):
            if keys.entry(i).seen_ns:
                seen[self.key_text(self.admission.track_source, i)] = keys.entry(i).seen_ns
        return seen


cdef object losses_of(const uint64_t* counts):
    """A `Lost` of these counts. Runs Python code."""
    return Lost(
        dropped_oldest=counts[LOST_OLDEST],
        dropped_newest=counts[LOST_NEWEST],
        expired=counts[LOST_EXPIRED],
        conflated=counts[LOST_CONFLATED],
        resync=counts[LOST_RESYNC],
        discarded=counts[LOST_DISCARDED],
    )


def _most_first(loss):
    key, dropped, conflated = loss
    return -(dropped + conflated), key
