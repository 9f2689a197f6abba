// Node's ws as a peer: node ws.cjs PACKAGES client URI DEFLATE CERT, or node ws.cjs PACKAGES server DEFLATE [CERT KEY].
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { createRequire } = require("node:module");

const [, , packages, role, ...args] = process.argv;
const { WebSocket, WebSocketServer } = createRequire(`${packages}/`)("ws");
// The default threshold leaves messages below 1 KiB uncompressed.
const perMessageDeflate = (deflate) => (deflate === "true" ? { threshold: 0 } : false);

async function sendFragments(socket, bytes, size) {
  for (let i = 0; i < bytes.length; i += size) {
    if (i === size) socket.ping("between fragments");
    socket.send(bytes.subarray(i, i + size), { binary: false, fin: i + size >= bytes.length });
  }
}

function ping(socket, payload) {
  return new Promise((resolve) => {
    socket.once("pong", (data) => resolve(new Uint8Array(data)));
    socket.ping(payload);
  });
}

async function client(uri, deflate, cert) {
  const { drive } = await import("./driver.mjs");
  const ca = cert ? fs.readFileSync(cert) : undefined;
  const connect = () => new WebSocket(uri, { ca, perMessageDeflate: perMessageDeflate(deflate) });
  const results = await drive({ connect, sendFragments, ping, deflate: deflate === "true" });
  console.log(JSON.stringify(results));
}

function server(deflate, cert, key) {
  const listener = cert
    ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
    : http.createServer();
  const fragmented = Buffer.from("Grüße, κόσμε, 世界 und 𝄞! ".repeat(50));
  new WebSocketServer({ server: listener, perMessageDeflate: perMessageDeflate(deflate) }).on("connection", (socket) => {
    socket.on("message", async (data, isBinary) => {
      const command = isBinary ? "" : data.toString();
      if (command === "!ping") {
        const payload = Buffer.from(Array.from({ length: 125 }, (_, i) => i));
        const pong = Buffer.from(await ping(socket, payload));
        socket.send(pong.equals(payload) ? "pong" : "wrong pong");
      } else if (command === "!fragments") {
        await sendFragments(socket, fragmented, 7);
      } else if (command.startsWith("!close ")) {
        const [, code, reason] = command.match(/^!close (\d+) (.*)$/);
        socket.close(Number(code), reason);
      } else {
        socket.send(data, { binary: isBinary });
      }
    });
    socket.on("close", (code, reason) => console.log(JSON.stringify({ close: [code, reason.toString()] })));
  });
  listener.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: listener.address().port })));
}

if (role === "client") client(...args);
else server(...args);
