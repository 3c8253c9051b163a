"""A relay between our standard streams and a port, as `nc` and AWS's tunnel are: python relay.py HOST PORT."""

import os
import socket
import sys
import threading


def main() -> None:
    """Copies both ways until either side ends."""
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def upwards() -> None:
        while data := os.read(0, 65536):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=upwards, daemon=True).start()
    while data := connection.recv(65536):
        os.write(1, data)


if __name__ == "__main__":
    main()
