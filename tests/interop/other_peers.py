"""Peers outside of Python: Node's ws, Bun, and a browser; each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from .peer import Peer, ServerLog, Setup

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "js"
PACKAGES = HERE / "work" / "node_modules"
INSTALL = "python tests/interop/install.py installs it"


class OtherPeer(Peer):
    """A peer that is a program: as a server it answers as `answer` does, as a client it runs driver.mjs."""

    option = ""
    """What FASTWS_INTEROP must name for it."""

    def missing(self) -> str | None:
        wanted = os.environ.get("FASTWS_INTEROP", "").split(",")
        if self.option not in wanted and "all" not in wanted:
            return f"opt-in: FASTWS_INTEROP={self.option} (or all)"
        return self.not_installed()

    def not_installed(self) -> str | None:
        raise NotImplementedError

    def command(self, role: str, *args: str) -> list[str]:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        files = [setup.cert, setup.key] if setup.tls else []
        async with running(self.command("server", json.dumps(setup.deflate), *files)) as process:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                port: int = json.loads(await process.stdout.readline())["port"]

            async def note() -> None:
                async for line in process.stdout:  # type: ignore[union-attr]
                    code, reason = json.loads(line)["close"]
                    log.closes.append((code, reason))

            task = asyncio.create_task(note())
            try:
                yield port
            finally:
                task.cancel()

    async def results(self, setup: Setup, uri: str) -> dict[str, str]:
        """Run driver.mjs against a server; what it says of each scenario."""
        async with running(self.command("client", uri, json.dumps(setup.deflate), setup.cert)) as process:
            out, _ = await process.communicate()
        results: dict[str, str] = json.loads(out)
        return results


@contextlib.asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended with the block."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


class NodePeer(OtherPeer):
    name = "node-ws"
    option = "node"

    def not_installed(self) -> str | None:
        if shutil.which("node") is None:
            return "node isn't installed"
        return None if (PACKAGES / "ws").is_dir() else f"the npm package ws isn't installed; {INSTALL}"

    def command(self, role: str, *args: str) -> list[str]:
        return ["node", str(SCRIPTS / "ws.cjs"), str(PACKAGES), role, *args]


class BunPeer(OtherPeer):
    name = "bun"
    option = "bun"
    fragments = False

    def binary(self) -> str | None:
        packaged = sorted(str(path) for path in PACKAGES.glob("@oven/bun-*/bin/bun"))
        return packaged[0] if packaged else shutil.which("bun")

    def not_installed(self) -> str | None:
        return None if self.binary() else f"bun isn't installed; {INSTALL}"

    def command(self, role: str, *args: str) -> list[str]:
        binary = self.binary()
        assert binary is not None
        return [binary, str(SCRIPTS / "bun.mjs"), role, *args]


class BrowserPeer(OtherPeer):
    """Chromium without a window, which loads page.html and reports over HTTP."""

    name = "browser"
    option = "browser"

    def binary(self) -> str | None:
        return next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)

    def not_installed(self) -> str | None:
        return None if self.binary() else "no chromium on PATH"

    async def results(self, setup: Setup, uri: str) -> dict[str, str]:
        report: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

        async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target = head.split()[:2]
            path = SCRIPTS / target.partition("?")[0].rpartition("/")[2]
            body, status = b"", "404 Not Found"
            if method == "POST":
                length = next(int(h.partition(":")[2]) for h in head.lower().splitlines() if "content-length" in h)
                report.set_result(json.loads(await reader.readexactly(length)))
                status = "204 No Content"
            elif path.suffix in TYPES:
                body, status = path.read_bytes(), "200 OK"
            kind = TYPES.get(path.suffix, "text/plain")
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(page, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        binary = self.binary()
        assert binary is not None
        url = f"http://127.0.0.1:{port}/page.html?deflate={json.dumps(setup.deflate)}&uri={uri}"
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
                async with running([binary, *FLAGS, f"--user-data-dir={profile}", url]):
                    async with asyncio.timeout(55):
                        return await report
        finally:
            server.close()


TYPES = {".html": "text/html; charset=utf-8", ".mjs": "text/javascript; charset=utf-8"}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # ours is self-signed
]
