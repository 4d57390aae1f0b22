"""What stands behind the proxies: a plain picows echo server, and the model of the echo workers.

`python -m understudy.bench.edge_echo` prints the port it listens on and ends with its parent,
that is, when its standard input closes.
"""

from __future__ import annotations

import logging
import socket
import threading

import numpy as np
from numpy.typing import NDArray
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from understudy import eventloop
from understudy.models.mirror import MirrorModel
from understudy.worker.__main__ import leave_with_parent


class EchoModel(MirrorModel):
    """A mirror that gives back the very array it got, so that idle slots cost nothing."""

    def step(self, frames: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        return frames


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


async def serve() -> None:
    def route(request: WSUpgradeRequest) -> WSListener:
        return Echo()

    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = await ws_create_server(route, sock=sock)
    print(sock.getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    logging.getLogger("picows").setLevel(logging.ERROR)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    eventloop.run(serve())


if __name__ == "__main__":
    main()
