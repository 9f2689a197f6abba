"""Consumers that are overloaded: what becomes of the connection, of the messages and of their age."""
