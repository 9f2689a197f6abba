"""Keys and numbers of messages: JSON Pointers (RFC 6901), markers, callables; and the keys known so far."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from ..overflow import KEY_BYTES_MAX, KEY_SEPARATOR, KEYS_MAX, Between, Key

__all__ = ["KeySpace", "KeySpaces", "Message", "Number", "Pointer", "integer_of", "text_of"]

INTEGER_MAX = 2**63 - 1
_PARTS_MAX = 32
_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,19}", re.ASCII)


class Number(str):
    """A JSON number, as written."""

    __slots__ = ()


class _Missing:
    """There is nothing at a pointer; None is JSON's null."""


MISSING = _Missing()


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON (RFC 8259 6)")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _parse(payload: bytes) -> Any:
    try:
        return json.loads(
            payload.decode(),  # `loads` would take UTF-16, too.
            parse_int=Number,
            parse_float=Number,
            parse_constant=_no_constants,
            object_pairs_hook=_first_wins,
        )
    except (ValueError, RecursionError):  # Nested too deeply for `json` is as good as not JSON.
        return MISSING


class Message:
    """A complete message that is looked at; parsed at most once, and only if somebody asks.

    Args:
        is_text: Whether it is text rather than binary.
        payload: Its bytes.
    """

    def __init__(self, is_text: bool, payload: bytes) -> None:
        self.is_text = is_text
        self.payload = payload

    @functools.cached_property
    def document(self) -> Any:
        """The JSON value, numbers as `Number`; MISSING if it isn't JSON."""
        return _parse(self.payload)

    @property
    def content(self) -> str | bytes:
        """As the consumer gets it."""
        return self.payload.decode() if self.is_text else self.payload


class Pointer:
    """A JSON Pointer.

    Args:
        text: As in RFC 6901 section 3.

    Raises:
        ValueError: If it doesn't begin with "/", has more than 32 parts, or "~" isn't part of "~0" or "~1".
        TypeError: If it isn't a string.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"JSON Pointer is {text!r}, must be a str")
        if not text.startswith("/"):
            raise ValueError(f'JSON Pointer {text!r} must begin with "/" (RFC 6901 3)')
        if re.search("~(?![01])", text):
            raise ValueError(f'JSON Pointer {text!r} has "~" that isn\'t "~0" or "~1" (RFC 6901 3)')
        if text.count("/") > _PARTS_MAX:
            raise ValueError(f"JSON Pointer {text!r} has {text.count('/')} parts > max {_PARTS_MAX}")
        # In this order: "~01" is "~1", not "/" (RFC 6901 4).
        self._tokens = [token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/")]

    def find(self, message: Message) -> Any:
        """The value there; MISSING if there is none."""
        value = message.document
        for token in self._tokens:
            if isinstance(value, dict):
                value = value.get(token, MISSING)
            elif isinstance(value, list) and _ARRAY_INDEX.fullmatch(token):
                # Longer than any list is: `int` refuses thousands of digits.
                value = value[int(token)] if len(token) < 19 and int(token) < len(value) else MISSING
            else:
                return MISSING
        return value


def text_of(value: Any) -> str | None:
    """A JSON value as (part of) a key; None for null, objects, arrays, and what isn't there."""
    if value is True or value is False:
        return "true" if value else "false"
    return str(value) if isinstance(value, str) and _is_utf8(value) else None


def _is_utf8(text: str) -> bool:
    """False for the half of a surrogate pair, which JSON can escape and UTF-8 can't have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def integer_of(value: Any, *, negative: bool = False) -> int | None:
    """A JSON integer, or a string of digits, up to 2**63 - 1; None for anything else.

    Args:
        value: What is at the pointer.
        negative: Whether a JSON integer may be less than 0.
    """
    pattern = _SIGNED if negative and isinstance(value, Number) else _DIGITS
    if not isinstance(value, str) or not pattern.fullmatch(value):
        return None
    number = int(value)
    return number if -INTEGER_MAX - 1 <= number <= INTEGER_MAX else None


class _Ignored:
    """Raises where nobody can catch it: so the interpreter itself calls ``sys.unraisablehook``."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


Extractor = Callable[[Message], str | None]


def _by_pointers(texts: tuple[str, ...]) -> Extractor:
    if not texts:
        raise ValueError("a key needs at least one JSON Pointer")
    pointers = [Pointer(text) for text in texts]

    def extract(message: Message) -> str | None:
        parts = [text_of(pointer.find(message)) for pointer in pointers]
        found = [part for part in parts if part is not None]
        return KEY_SEPARATOR.join(found) if len(found) == len(parts) else None

    return extract


def _by_markers(between: Between) -> Extractor:
    def extract(message: Message) -> str | None:
        _, before, rest = message.payload.partition(between.before)
        key, after, _ = rest.partition(between.after)
        # Here, as what can't be decoded grows.
        if not (before and after) or len(key) > KEY_BYTES_MAX:
            return None
        return key.decode(errors="backslashreplace")

    return extract


def _by_callable(function: Callable[[str | bytes], str | None]) -> Extractor:
    def extract(message: Message) -> str | None:
        try:
            key = function(message.content)
            if key is not None and not isinstance(key, str):
                raise TypeError(f"{function!r} returned {key!r}, must return a str or None")
            return None if key is None or len(key.encode()) > KEY_BYTES_MAX else key
        except BaseException as error:
            _Ignored(error)
            return None

    return extract


def _extractor(key: Key) -> Extractor:
    if isinstance(key, Between):
        return _by_markers(key)
    if isinstance(key, str):
        return _limited(_by_pointers((key,)))
    if isinstance(key, tuple):
        return _limited(_by_pointers(key))
    if callable(key):
        return _by_callable(key)
    raise TypeError(f"key is {key!r}, must be a JSON Pointer, a tuple of them, Between, or a callable")


def _limited(extract: Extractor) -> Extractor:
    def limited(message: Message) -> str | None:
        key = extract(message)
        return None if key is None or len(key.encode()) > KEY_BYTES_MAX else key

    return limited


class KeySpace:
    """The keys that one `Key` has found so far, at most KEYS_MAX.

    Args:
        key: Where they are.

    Raises:
        ValueError: If it is a JSON Pointer that is wrong.
        TypeError: If it isn't a `Key`.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self._extract = _extractor(key)
        self._known: set[str] = set()

    def key_of(self, message: Message) -> str | None:
        """The key of a message; None if it has none, or is one too many."""
        key = self._extract(message)
        if key is None or key in self._known:
            return key
        if len(self._known) >= KEYS_MAX:
            return None
        self._known.add(key)
        return key


class KeySpaces:
    """One space for each distinct `Key`, however often it is used."""

    def __init__(self) -> None:
        self._spaces: list[KeySpace] = []

    def of(self, key: Key) -> KeySpace:
        """The space of ``key``, made if it is new. Raises what `KeySpace` raises."""
        for space in self._spaces:
            if type(space.key) is type(key) and space.key == key:
                return space
        space = KeySpace(key)
        self._spaces.append(space)
        return space

    def keys_of(self, message: Message) -> dict[KeySpace, str | None]:
        """The keys of a message, of all spaces."""
        return {space: space.key_of(message) for space in self._spaces}
