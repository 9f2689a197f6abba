// The client's side of the tests for peers with the WebSocket API of browsers: Node's ws, Bun, a browser.
// Runs every scenario against a server that answers as peer.py says, and gives {scenario: "ok" | "skipped: …" | error}.

const SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20];
const BURST = 10000;
const CLOSES = [[1000, ""], [1000, "done"], [3000, "ä".repeat(61)], [4999, "bye"]];
const FRAGMENTED = "Grüße, κόσμε, 世界 und 𝄞! ".repeat(50);
const TIMEOUT_MS = 20000;

// Messages and the close of a connection, to be awaited one by one.
class Connection {
  constructor(socket) {
    this.socket = socket;
    this.queue = [];
    this.waiting = null;
    this.closed = null;
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#push({ data: event.data });
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = (event) => reject(new Error(`handshake failed: ${event.message ?? "no reason given"}`));
      socket.onclose = (event) => {
        reject(new Error(`closed before it was open: ${event.code}`));
        this.closed = [event.code, event.reason, event.wasClean];
        this.#push({ close: this.closed });
      };
    });
  }

  #push(item) {
    if (this.waiting) {
      const resolve = this.waiting;
      this.waiting = null;
      resolve(item);
    } else {
      this.queue.push(item);
    }
  }

  async #next() {
    if (this.queue.length) return this.queue.shift();
    return new Promise((resolve) => { this.waiting = resolve; });
  }

  async recv() {
    const item = await this.#next();
    if (item.close) throw new Error(`closed with ${item.close}`);
    return item.data;
  }

  // Waits for the close, and gives [code, reason, wasClean].
  async close(...args) {
    if (args.length) this.socket.close(...args);
    while (!this.closed) await this.#next();
    return this.closed;
  }
}

function same(actual, expected, what) {
  const plain = (value) => (value instanceof ArrayBuffer ? new Uint8Array(value) : value);
  const [a, b] = [plain(actual), plain(expected)];
  if (a instanceof Uint8Array && b instanceof Uint8Array) {
    if (a.length === b.length && a.every((byte, i) => byte === b[i])) return;
    throw new Error(`${what}: ${a.length} bytes differ from the expected ${b.length}`);
  }
  if (JSON.stringify(a) !== JSON.stringify(b)) {
    throw new Error(`${what}: got ${JSON.stringify(a)?.slice(0, 100)}, expected ${JSON.stringify(b)?.slice(0, 100)}`);
  }
}

const scenarios = {
  async sizes({ connection }) {
    for (const size of SIZES) {
      const text = Array.from({ length: size }, (_, i) => String.fromCharCode(32 + (i % 95))).join("");
      connection.socket.send(text);
      same(await connection.recv(), text, `text of ${size}`);
      const bytes = Uint8Array.from({ length: size }, (_, i) => i % 256);
      connection.socket.send(bytes);
      same(await connection.recv(), bytes, `binary of ${size}`);
    }
  },
  async fragmented_to_client({ connection }) {
    for (let i = 0; i < 3; i++) {
      connection.socket.send("!fragments");
      same(await connection.recv(), FRAGMENTED, "fragmented message");
    }
  },
  async fragmented_to_server({ connection, peer }) {
    if (!peer.sendFragments) return "skipped: can't send fragments";
    await peer.sendFragments(connection.socket, new TextEncoder().encode(FRAGMENTED), 7);
    same(await connection.recv(), FRAGMENTED, "fragmented message");
  },
  async pings_by_server({ connection }) {
    connection.socket.send("!ping");
    same(await connection.recv(), "pong", "answer");
  },
  async pings_by_client({ connection, peer }) {
    if (!peer.ping) return "skipped: can't send pings";
    const payload = Uint8Array.from({ length: 125 }, (_, i) => i);
    same(await peer.ping(connection.socket, payload), payload, "pong");
  },
  async burst({ connection }) {
    const message = (i) => (i % 3 ? `message ${i}` : new TextEncoder().encode(`message ${i}`));
    for (let i = 0; i < BURST; i++) connection.socket.send(message(i));
    for (let i = 0; i < BURST; i++) same(await connection.recv(), message(i), `message ${i}`);
  },
};
for (const [code, reason] of CLOSES) {
  scenarios[`close_by_client ${code} ${reason.slice(0, 4)}`] = async ({ connection }) => {
    connection.socket.send("last words");
    same(await connection.recv(), "last words", "echo");
    const [closeCode, , wasClean] = await connection.close(code, reason);
    same([closeCode, wasClean], [code, true], "close");
  };
  scenarios[`close_by_server ${code} ${reason.slice(0, 4)}`] = async ({ connection }) => {
    connection.socket.send(`!close ${code} ${reason}`);
    same(await connection.close(), [code, reason, true], "close");
  };
}
// A close frame without a code.
scenarios["close_by_client 1005"] = async ({ connection }) => {
  connection.socket.close();
  const [code, , wasClean] = await connection.close();
  same([code, wasClean], [1005, true], "close");
};

export async function drive(peer) {
  const results = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    let timer;
    const timeout = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("timeout")), TIMEOUT_MS);
    });
    try {
      const connection = new Connection(peer.connect());
      await Promise.race([connection.opened, timeout]);
      const negotiated = (connection.socket.extensions ?? "").includes("permessage-deflate");
      if (peer.deflate !== undefined && peer.tellsExtensions !== false) same(negotiated, peer.deflate, "deflate");
      results[name] = (await Promise.race([scenario({ connection, peer }), timeout])) ?? "ok";
      if (!connection.closed) await Promise.race([connection.close(1000), timeout]);
    } catch (error) {
      results[name] = String(error?.message ?? error);
    } finally {
      clearTimeout(timer);
    }
  }
  return results;
}
