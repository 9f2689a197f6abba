"""The message loop for WebSocket feeds that are faster than your code: a drop-in for ``websockets``.

``import fastws as websockets`` works for asyncio clients and servers. New are batches
(``connection.recv_batch()``, ``connection.batches()``), ``connection.send_batch()``, limits in bytes
(``max_queue_bytes``), and the data plane without I/O (`FrameDecoder`, `FrameEncoder`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from websockets import (
    ClientProtocol,
    Close,
    CloseCode,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Data,
    DuplicateParameter,
    ExtensionName,
    ExtensionParameter,
    Frame,
    HeaderLineTooLong,
    Headers,
    HeadersLike,
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderFormat,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidParameterName,
    InvalidParameterValue,
    InvalidProtocol,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidState,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    LoggerLike,
    MultipleValuesError,
    NegotiationError,
    Opcode,
    Origin,
    PayloadTooBig,
    Protocol,
    ProtocolError,
    ProxyError,
    Request,
    RequestLineTooLong,
    Response,
    SecurityError,
    ServerProtocol,
    Side,
    State,
    StatusLike,
    StatusLineTooLong,
    Subprotocol,
    TooManyFragments,
    TooManyHeaders,
    WebSocketException,
)

from .client import ClientConnection, connect, unix_connect
from .core import IMPLEMENTATION, Batch, FrameDecoder, FrameEncoder, Pump
from .liveness import Heartbeat, Staleness
from .observe.bus import EventIterator
from .observe.events import Closed, Event, EventsLost, Gap, MessagesLost, PeerGone, ResyncNeeded, SlowConsumer, Stale
from .observe.governor import SubscriptionGovernor
from .observe.pressure import Threshold
from .observe.stats import Quantiles, Stats
from .options import Options
from .overflow import (
    Between,
    Block,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    ExchangeTime,
    Inspect,
    Key,
    Lost,
    Policy,
    Reply,
    Resync,
    Route,
)
from .server import Server, ServerConnection, basic_auth, broadcast, serve, unix_serve
from .workers import WorkerPool, workers

if TYPE_CHECKING:
    from .observe import metrics as metrics
    from .observe.watchdog import StuckReport, Watchdog
    from .router import Router, route, unix_route

__version__ = "0.1.0"

__all__ = [
    "IMPLEMENTATION",
    "Batch",
    "Between",
    "Block",
    "ClientConnection",
    "ClientProtocol",
    "Close",
    "CloseCode",
    "Closed",
    "ConcurrencyError",
    "Conflate",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Data",
    "Disconnect",
    "DropNewest",
    "DropOldest",
    "DuplicateParameter",
    "Event",
    "EventIterator",
    "EventsLost",
    "ExchangeTime",
    "ExtensionName",
    "ExtensionParameter",
    "Frame",
    "FrameDecoder",
    "FrameEncoder",
    "Gap",
    "HeaderLineTooLong",
    "Headers",
    "HeadersLike",
    "Heartbeat",
    "Inspect",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidHeaderFormat",
    "InvalidHeaderValue",
    "InvalidMessage",
    "InvalidMethod",
    "InvalidOrigin",
    "InvalidParameterName",
    "InvalidParameterValue",
    "InvalidProtocol",
    "InvalidProxy",
    "InvalidProxyMessage",
    "InvalidProxyStatus",
    "InvalidState",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "Key",
    "LoggerLike",
    "Lost",
    "MessagesLost",
    "MultipleValuesError",
    "NegotiationError",
    "Opcode",
    "Options",
    "Origin",
    "PayloadTooBig",
    "PeerGone",
    "Policy",
    "Protocol",
    "ProtocolError",
    "ProxyError",
    "Pump",
    "Quantiles",
    "Reply",
    "Request",
    "RequestLineTooLong",
    "Response",
    "Resync",
    "ResyncNeeded",
    "Route",
    "Router",
    "SecurityError",
    "Server",
    "ServerConnection",
    "ServerProtocol",
    "Side",
    "SlowConsumer",
    "Stale",
    "Staleness",
    "State",
    "Stats",
    "StatusLike",
    "StatusLineTooLong",
    "StuckReport",
    "Subprotocol",
    "SubscriptionGovernor",
    "Threshold",
    "TooManyFragments",
    "TooManyHeaders",
    "Watchdog",
    "WebSocketException",
    "WorkerPool",
    "basic_auth",
    "broadcast",
    "connect",
    "route",
    "serve",
    "unix_connect",
    "unix_route",
    "unix_serve",
    "workers",
]

# Modules of websockets that programs reach through its package; fastws changes nothing in them.
_UPSTREAM_MODULES = frozenset(
    ("datastructures", "extensions", "frames", "headers", "http11", "protocol", "proxy", "streams", "typing", "uri")
)


def __getattr__(name: str) -> Any:
    if name in ("Router", "route", "unix_route"):
        # They import werkzeug, where it is installed.
        return getattr(importlib.import_module(f"{__name__}.router"), name)
    if name in ("StuckReport", "Watchdog"):
        return getattr(importlib.import_module(f"{__name__}.observe.watchdog"), name)
    if name == "metrics":
        # It imports prometheus_client, an extra.
        return importlib.import_module(f"{__name__}.observe.metrics")
    if name in _UPSTREAM_MODULES:
        return importlib.import_module(f"websockets.{name}")
    if name in ("asyncio", "exceptions", "sync"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
