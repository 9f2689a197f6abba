"""Starts a `pinger`, plain or with TLS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interop.certificate import Certificate

PINGER = Path(__file__).with_name("pinger.py")


@contextlib.contextmanager
def pinger_process(
    interval: float, certificate: Certificate | None = None, patience: float = 1000.0, *, renews: bool = False
) -> Iterator[tuple[str, dict[str, Any], subprocess.Popen[str]]]:
    """(URI, options of the client, process) of a server that pings each ``interval`` seconds.

    It closes when no heartbeat has come for ``patience`` seconds. With ``renews``, a ticket of TLS 1.3 or new keys
    are ahead of each ping.
    """
    command = [sys.executable, str(PINGER), str(interval), str(patience)]
    options: dict[str, Any] = {}
    if certificate is not None:
        command += [str(certificate.cert), str(certificate.key), *(["renew"] if renews else [])]
        options["ssl"] = certificate.client_context()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            scheme = "ws" if certificate is None else "wss"
            yield f"{scheme}://127.0.0.1:{process.stdout.readline().strip()}", options, process
        finally:
            process.kill()
