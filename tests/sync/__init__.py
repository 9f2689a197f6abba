"""``fastws.sync``: what it has in common with ``websockets.sync.client``, and what is its own."""
