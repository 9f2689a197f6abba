"""The receive thread: what it does while Python can't, and how it begins and ends."""
