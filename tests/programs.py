"""Programs that call an endpoint over plain sockets, so that a test can break them off."""

from __future__ import annotations

import json
import secrets
import socket
import struct
import urllib.request
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from tests.served import Served

TIMEOUT_S = 60.0


class Way(StrEnum):
    """How a program asks and listens."""

    CALL = "call"  # by name: /call/generate, then /call/generate/EVENT
    QUEUE = "queue"  # as Gradio's own clients: /queue/join, then /queue/data of a session


class End(StrEnum):
    """How its connection ends."""

    CLOSED = "closed"
    RESET = "reset"
    HALF = "half"  # it says that it sends no more, and stays


def generate_inputs(text: str, seed: int) -> list[Any]:
    """The arguments of /generate."""
    return [text, "", seed, None, None, None, "bark", 0, ""]


def post(served: Served, path: str, body: object) -> dict[str, Any]:
    """Send JSON to Gradio; returns its answer."""
    request = urllib.request.Request(
        f"{served.address}gradio_api/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def ask(served: Served, way: Way, endpoint: str, values: list[Any]) -> str:
    """Call an endpoint; returns the path of the stream in which its answer comes."""
    if way is Way.CALL:
        event = post(served, f"call/{endpoint}", {"data": values})["event_id"]
        return f"call/{endpoint}/{event}"
    session = secrets.token_hex(6)
    index = next(int(n) for n, fn in served.demo.fns.items() if fn.api_name == endpoint)
    post(served, "queue/join", {"data": values, "fn_index": index, "session_hash": session})
    return f"queue/data?session_hash={session}"


def page_inputs(served: Served, function: Any, given: Mapping[str, Any]) -> list[Any]:
    """What a page that was just opened hands to one of its functions.

    Args:
        given: other values, by the elem_id of their components.
    """
    values = {
        component["id"]: component["props"].get("value")
        for component in served.demo.get_config_file()["components"]
    }
    return [given.get(one.elem_id, values[one._id]) for one in function.inputs]


class Listener:
    """A stream of Gradio's that has begun."""

    def __init__(self, served: Served, path: str) -> None:
        where = urlsplit(served.address)
        self._socket = socket.create_connection((where.hostname, where.port), timeout=TIMEOUT_S)
        asked = f"GET /gradio_api/{path} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n"
        self._socket.sendall(asked.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(1)
        assert head.startswith(b"HTTP/1.1 200"), head

    def heard(self) -> str:
        """All of it, as soon as it has ended."""
        told = b""
        while not told.endswith(b"0\r\n\r\n"):  # the last of its chunks
            piece = self._socket.recv(65_536)
            assert piece, told
            told += piece
        return told.decode()

    def leave(self, how: End = End.CLOSED) -> None:
        """Break the connection off."""
        if how is End.HALF:
            self._socket.shutdown(socket.SHUT_WR)
            return
        if how is End.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
