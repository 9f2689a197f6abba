"""Extensions that the core doesn't know, so that ``websockets`` keeps the data plane."""

from __future__ import annotations

from websockets.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory


class Nothing(Extension):
    """Changes nothing."""

    name = "x-nothing"

    def decode(self, frame, *, max_size=None):
        return frame

    def encode(self, frame):
        return frame


class Factory(ClientExtensionFactory, ServerExtensionFactory):
    """Negotiates an extension that has no parameters, on either side."""

    def __init__(self, extension):
        self.name = extension.name
        self._extension = extension

    def get_request_params(self):
        return []

    def process_response_params(self, params, accepted_extensions):
        return self._extension()

    def process_request_params(self, params, accepted_extensions):
        return [], self._extension()
