"""The names of ``websockets.asyncio``: ``from fastws.asyncio.client import connect``."""
