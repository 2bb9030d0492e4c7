"""A thread can send over an empty socket as soon as what another one sent has arrived."""

import socket
import threading

SENDS = 20_000

left, right = socket.socketpair()
left.settimeout(0)
turns = (threading.Semaphore(1), threading.Semaphore(0))
refused: list[OSError] = []


def send(turn: threading.Semaphore) -> None:
    while True:
        turn.acquire()
        try:
            left.send(b"\0")
        except BlockingIOError as error:
            refused.append(error)
            left.shutdown(socket.SHUT_WR)


for turn in turns:
    threading.Thread(target=send, args=(turn,), daemon=True).start()
for number in range(1, SENDS + 1):
    if not right.recv(1):
        raise SystemExit(f"send {number} of single bytes failed: {refused[0]}")
    turns[number % 2].release()
