from collections.abc import Generator
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Coroutine:
    """Nothing is done before it is awaited. Subclasses say what."""

    def __await__(self) -> Generator[Any, None, Any]: ...
    def __iter__(self) -> Generator[Any, None, Any]: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any, /) -> Any:
        """Run until the next suspension; StopIteration carries what it returns."""
    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any:
        """Raise an exception where it waits. If it wasn't begun, nothing is done."""
    def close(self) -> None:
        """Stop waiting. If it wasn't begun, nothing is done."""
    @property
    def cr_await(self) -> Any: ...
    @property
    def cr_frame(self) -> None: ...
    @property
    def cr_running(self) -> bool: ...
