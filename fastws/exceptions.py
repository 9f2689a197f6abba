"""The exceptions of ``websockets``: fastws raises these and no others of its own."""

from websockets.exceptions import *  # noqa: F403
from websockets.exceptions import __all__ as __all__
