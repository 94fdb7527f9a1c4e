"""What a process in the service's place can do, as one line of JSON: torch, what it has to reach, what it must not."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOENT, errno.EAFNOSUPPORT)
"""Forbidden, hidden, or not there as far as the process can tell."""


def outcome(act: Callable[[], object]) -> str:
    """What `act` returns, in words."""
    try:
        return str(act())
    except OSError as error:
        return "refused" if error.errno in REFUSALS else repr(error)
    except RuntimeError as error:  # torch's
        return repr(error)


def opened(path: str, flags: int = os.O_RDWR) -> str:
    """Open a file and let it go."""
    os.close(os.open(path, flags))
    return "opened"


def heard_from_jtop() -> str:
    """The first words of the jtop service."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/jtop.sock")
        return client.recv(16).decode()


def is_finite(made: torch.Tensor) -> str:
    """Whether something came out."""
    return "computed" if torch.isfinite(made).all() else "nonsense"


def inet_socket() -> str:
    """Open a socket to the network."""
    socket.socket(socket.AF_INET).close()
    return "opened"


if __name__ == "__main__":
    images, kernels = torch.randn(1, 16, 64, 64), torch.randn(32, 16, 3, 3)
    print(
        json.dumps(
            {
                "torch": {
                    "threads": torch.get_num_threads(),
                    "instructions": torch.backends.cpu.get_cpu_capability(),
                    "matmul": outcome(lambda: is_finite(images[0, 0] @ images[0, 1])),
                    "convolution": outcome(lambda: is_finite(functional.conv2d(images, kernels))),
                    "gelu": outcome(lambda: is_finite(functional.gelu(images))),
                },
                "reached": {
                    "jtop": outcome(heard_from_jtop),
                    "nvmap": outcome(lambda: opened("/dev/nvmap")),
                    "cpus": outcome(Path("/sys/devices/system/cpu/online").read_text).strip(),
                },
                "refused": {
                    "another device": outcome(lambda: opened("/dev/other")),
                    "the network": outcome(inet_socket),
                    "root's files": outcome(lambda: opened("/root", os.O_RDONLY)),
                    "settings": outcome(lambda: opened("/etc/dynhat/dynhat.toml")),
                },
            }
        )
    )
