"""Whole loops: what one message costs from the socket to the user's code, for fastws and its peers."""
