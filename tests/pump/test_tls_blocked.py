"""TLS while the event loop, or all of Python, is blocked: what needs Python waits, what doesn't goes on."""

from __future__ import annotations

import asyncio
import ssl
import textwrap
import threading
import time

import pytest
from connection.net import Link, on_asyncio, over_loops, raw_server, response_to, serving, tls_link
from core.streams import PING, PONG, TEXT, frame

import fastws
import fastws.security

from .pingers import pinger_process
from .test_blocked_loop import BLOCKED_S, INTERVAL_S, assert_complete, computing, keeping_the_gil, reported, sleeping
from .test_life import OPEN, run
from .test_tls import Blocking, Libssl, assert_pumped

pytestmark = [
    pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only"),
    pytest.mark.skipif(
        fastws.IMPLEMENTATION != "pure" and fastws.security.unreachable() is not None,
        reason="the libssl of this Python can't be reached",
    ),
]


async def assert_answers_without_the_gil(ws):
    await ws.recv()
    before = ws.stats.pings_in
    keeping_the_gil(BLOCKED_S)
    assert ws.stats.pings_in - before >= BLOCKED_S / INTERVAL_S / 4
    assert_complete(*await reported(ws))


@over_loops
async def test_pings_are_answered_without_the_gil(certificate, tmp_path):
    """A key log needs Python in handshakes only."""
    with pinger_process(INTERVAL_S, certificate) as (uri, options, _):
        options["ssl"].keylog_filename = str(tmp_path / "keys")
        async with fastws.connect(uri, receive="thread", ping_interval=None, **options) as ws:
            await assert_answers_without_the_gil(ws)


@over_loops
async def test_keys_and_tickets_without_the_gil(certificate):
    """RFC 8446 4.6: they come ahead of pings, and half of the new keys are to be answered by ours."""
    Libssl().needs("SSL_key_update", "SSL_new_session_ticket")
    with pinger_process(INTERVAL_S, certificate, renews=True) as (uri, options, _):
        options["ssl"].minimum_version = ssl.TLSVersion.TLSv1_3
        async with fastws.connect(uri, receive="thread", ping_interval=None, **options) as ws:
            await assert_answers_without_the_gil(ws)


@pytest.mark.parametrize("blocked_by", [sleeping, computing, keeping_the_gil])
@on_asyncio
async def test_each_record_needs_the_gil(certificate, blocked_by):
    """The pump calls Python with the session locked, while Python wants to write: the answers come, sooner or later."""
    with pinger_process(INTERVAL_S, certificate) as (uri, options, _):
        threads = set()
        options["ssl"]._msg_callback = lambda *args: threads.add(threading.get_ident())
        async with fastws.connect(uri, receive="thread", ping_interval=None, **options) as ws:
            await ws.recv()
            before = ws.stats.pings_in
            for _ in range(5):
                await ws.send("noise")
                blocked_by(BLOCKED_S / 5)
            if blocked_by is not keeping_the_gil:
                assert ws.stats.pings_in - before >= BLOCKED_S / INTERVAL_S / 8
            seen, report = await reported(ws)
            assert len(threads) == 2
            pings = report["pings"]
            while len(report["pongs"]) < pings:
                # Some are under way.
                _, report = await reported(ws)
            assert_complete(seen, report)


@over_loops
async def test_sni_callback_in_mid_stream(certificate):
    """A renegotiation (TLS 1.2) makes the pump of a server call it, although the loop is blocked."""
    context, client_context = certificate.server_context(), certificate.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    libssl = Libssl()
    called, answered = [], threading.Event()
    context.sni_callback = lambda sock, name, context: called.append((name, threading.get_ident()))

    async def handler(ws):
        assert_pumped(ws)
        assert libssl.on(ws.transport.get_extra_info("ssl_object"), "SSL_renegotiate") == 1
        await ws.send("x")
        deadline = time.monotonic() + 10
        while not answered.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)  # noqa: ASYNC251
        assert answered.is_set()
        await ws.recv()

    def talk(port):
        peer = Blocking(port, client_context)
        assert peer.read(3) == frame(TEXT, b"x")
        peer.send(PING, b"p")
        assert peer.read(3) == frame(PONG, b"p")
        answered.set()
        peer.send(TEXT, b"y")
        peer.read(4)
        peer.sock.close()

    async with serving(handler, Link("wss", {"ssl": context}, {}), receive="thread") as uri:
        await asyncio.to_thread(talk, int(uri.split(":")[2].strip("/")))
    assert [name for name, _ in called] == ["localhost"] * 2
    assert called[0][1] == threading.get_ident() != called[1][1]


@over_loops
async def test_certificate_in_mid_stream(certificate):
    """A server asks for it after the handshake (RFC 8446 4.6.2): reading makes the pump write."""
    context, client_context = certificate.server_context(), certificate.client_context()
    client_context.load_cert_chain(certificate.cert, certificate.key)
    context.load_verify_locations(certificate.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.post_handshake_auth = client_context.post_handshake_auth = True
    ended = asyncio.Event()

    async def script(peer):
        peer.head = await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(response_to(peer.head))
        sslobject = peer.writer.get_extra_info("ssl_object")
        assert not sslobject.getpeercert()
        sslobject.verify_client_post_handshake()
        for number in range(20):
            await peer.send(TEXT, b"%d" % number)
        for number in range(20):
            assert (await peer.read())[2] == b"%d" % number
        assert ("DNS", "localhost") in sslobject.getpeercert()["subjectAltName"]
        await peer.through()
        await ended.wait()

    link = tls_link(context, client_context)
    async with raw_server(script, link) as port:
        ws = await fastws.connect(
            link.uri(port), receive="thread", ping_interval=None, compression=None, close_timeout=0.2, **link.client
        )
        assert_pumped(ws)
        time.sleep(0.05)  # noqa: ASYNC251
        for _ in range(20):
            await ws.send(await ws.recv())
        await asyncio.sleep(0.05)
        ended.set()
        await ws.wait_closed()


@pytest.mark.parametrize("ending", ["sys.exit(3)", "asyncio.get_running_loop().stop()"])
def test_the_process_ends(ending, certificate):
    """With connections open, and a pump that wants to call Python all the time."""
    program = textwrap.dedent(OPEN).replace("receive=", "ssl=next(contexts), receive=").replace("ws://", "wss://")
    done = run(
        textwrap.dedent(
            """
            import ssl
            contexts = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=CERT)
            """
        ).replace("CERT", repr(str(certificate.cert)))
        + f"contexts[0].load_cert_chain({str(certificate.cert)!r}, {str(certificate.key)!r})\n"
        + "for context in contexts:\n    context._msg_callback = lambda *args: None\n"
        + "contexts = iter(contexts)\n"
        + program
        + textwrap.dedent(
            f"""
            async def flood(ws):
                while True:
                    await ws.send_batch(["x" * 1000] * 100)

            async def main():
                global kept
                kept = await opened()
                flooding = asyncio.create_task(flood(kept[0]))
                await asyncio.sleep(0.1)
                print(kept[0].stats.receive, flush=True)
                {ending}

            asyncio.run(main())
            """
        )
    )
    assert done.returncode in (1, 3), done.stderr
    assert done.stdout == "thread\n"
    for word in ("Fatal", "Segmentation", "terminate called", "excepthook"):
        assert word not in done.stderr
