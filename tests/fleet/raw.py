"""A WebSocket client by hand, which may break every rule there is."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

TEXT, BINARY, CLOSE, PING, CONTINUATION = 1, 2, 8, 9, 0


class Raw:
    """A blocking socket that has asked for an upgrade."""

    def __init__(self, port: int, path: str = "/v1/stream", **headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        fields = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(4096)
            if not data:
                break
            head += data
        first, _, self._buffer = head.partition(b"\r\n\r\n")
        self.head = first.decode("latin-1")
        self.status = int(self.head.split()[1])

    def frame(self, kind: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> None:
        head = bytes([kind | (0x80 if fin else 0)])
        mask_bit = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([mask_bit | len(payload)])
        elif len(payload) < 65536:
            head += bytes([mask_bit | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", len(payload))
        # A mask of zeros leaves the payload as it is.
        self.socket.sendall(head + (bytes(4) if masked else b"") + payload)

    def say(self, **message: Any) -> None:
        self.frame(TEXT, json.dumps(message).encode())

    def start(self, name: str, **more: Any) -> None:
        start = {"type": "start", "voice": "mirror", "user": name, "sample_rate": 24000}
        self.say(**(start | more))

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def next(self) -> tuple[int, bytes]:
        """(kind, payload) of the next frame; EOFError at the end."""
        kind, size = self._read(2)
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        return kind & 0x0F, self._read(size)

    def event(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; others are passed over."""
        while True:
            opcode, payload = self.next()
            if opcode == TEXT:
                event: dict[str, Any] = json.loads(payload)
                if event["type"] == kind:
                    return event

    def heard_until_ended(self) -> bytes:
        """All the audio that comes before `ended`."""
        heard = b""
        while True:
            opcode, payload = self.next()
            if opcode == BINARY:
                heard += payload
            elif opcode == TEXT and json.loads(payload)["type"] == "ended":
                return heard

    def close_code(self) -> int:
        """The code of the server's close frame, whatever comes before it; then it must hang up."""
        while True:
            opcode, payload = self.next()
            if opcode == CLOSE:
                break
        self.frame(CLOSE, payload[:2])
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
        (code,) = struct.unpack(">H", payload[:2])
        return int(code)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
