"""fastws against other WebSocket implementations, in both roles. README.md tells how to run all of it."""
