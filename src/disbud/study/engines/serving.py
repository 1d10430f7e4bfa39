"""The worker's side of the pool: a process that answers one request after the other until its driver is gone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection

READY = b"ready"


def serve(connection: Connection) -> None:
    """Run what the driver sends, on one thread, and send back what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to decide on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    connection.send_bytes(READY)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(answer(*pickle.loads(request)))


def answer(function: bytes, item: bytes) -> bytes:
    """What a function makes of an item, both as pickles; the pickle of the result, or of a Failure.

    Plain pickles: torch's own way through pipes shares memory, which dies with a worker that is killed.
    """
    from disbud.study.engines.protocol import Failure, guarded

    try:
        called, given = pickle.loads(function), pickle.loads(item)
    except Exception as error:
        return pickle.dumps(Failure(f"it cannot be read in a worker: {type(error).__name__}: {error}"))
    result = guarded(called, given)
    try:
        return pickle.dumps(result)
    except Exception as error:
        return pickle.dumps(Failure(f"the result cannot be sent to the driver: {error}"))


def _end_with_the_driver() -> None:
    """Whatever ends the driver ends its workers, even in the middle of an item."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
