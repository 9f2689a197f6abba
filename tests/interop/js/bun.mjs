// Bun as a peer: bun bun.mjs client URI DEFLATE CERT, or bun bun.mjs server DEFLATE [CERT KEY].
import { drive } from "./driver.mjs";

const [role, ...args] = process.argv.slice(2);

function ping(socket, payload) {
  return new Promise((resolve) => {
    socket.addEventListener("pong", (event) => resolve(new Uint8Array(event.data)), { once: true });
    socket.ping(payload);
  });
}

async function client(uri, deflate, cert) {
  const tls = cert ? { ca: Bun.file(cert) } : undefined;
  const connect = () => new WebSocket(uri, { tls, perMessageDeflate: deflate === "true" });
  console.log(JSON.stringify(await drive({ connect, ping, deflate: deflate === "true" })));
  process.exit(0);
}

function server(deflate, cert, key) {
  const listener = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: cert ? { cert: Bun.file(cert), key: Bun.file(key) } : undefined,
    fetch(request, server) {
      return server.upgrade(request, { data: {} }) ? undefined : new Response("WebSocket only", { status: 426 });
    },
    websocket: {
      perMessageDeflate: deflate === "true",
      sendPings: false,
      backpressureLimit: 1 << 30,
      message(socket, message) {
        if (message === "!ping") {
          socket.ping(Uint8Array.from({ length: 125 }, (_, i) => i));
        } else if (typeof message === "string" && message.startsWith("!close ")) {
          const [, code, reason] = message.match(/^!close (\d+) (.*)$/);
          socket.close(Number(code), reason);
        } else {
          socket.send(message, deflate === "true");
        }
      },
      pong(socket, payload) {
        socket.send(payload.length === 125 && payload.every((byte, i) => byte === i) ? "pong" : "wrong pong");
      },
      close(socket, code, reason) {
        console.log(JSON.stringify({ close: [code, reason] }));
      },
    },
  });
  console.log(JSON.stringify({ port: listener.port }));
}

if (role === "client") await client(...args);
else server(...args);
