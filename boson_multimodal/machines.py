"""The name of a machine among those on which processes work together."""

import os
import socket


def machine_name() -> str:
    """Return the name of this machine; with the number of the node, if torchrun was started for several nodes.

    Containers on one machine, or nodes that were made of one image, may have one name.
    """
    node, nodes = os.environ.get("GROUP_RANK"), os.environ.get("GROUP_WORLD_SIZE", "1")
    return f"{socket.gethostname()} (node {node})" if node is not None and nodes != "1" else socket.gethostname()
