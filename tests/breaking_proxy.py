"""In front of a server on loopback: ends connections in the middle of answers, and may then be away for a while."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class BreakingProxy:
    """left : how many of the next answers are broken off.  away_s : how long nobody answers after the last of them."""

    def __init__(self, endpoint: str, left: int = 0, away_s: float = 0.0) -> None:
        self.left, self.away_s = left, away_s
        self._server = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        self.endpoint = f"http://127.0.0.1:{self._address[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self._refuse()

    def _refuse(self) -> None:
        with suppress(OSError):  # refused already
            self._listener.shutdown(socket.SHUT_RDWR)  # closing is not enough while a thread waits for it

    def _serve(self) -> None:
        while not self._closed:
            with suppress(OSError):  # the listener was shut down
                while True:
                    client, _ = self._listener.accept()
                    threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()
            self._listener.close()
            if not self._closed:
                time.sleep(self.away_s)
                self._listener = socket.create_server(self._address)

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
            while data := server.recv(2**16):
                header, _, body = data.partition(b"\r\n\r\n")
                if self.left and header.startswith(b"HTTP/1.1 20"):
                    self.left -= 1
                    if self.left == 0 and self.away_s:
                        self._refuse()
                    client.sendall(data[: len(header) + 4 + len(body) // 2 if body else len(header) // 2])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
