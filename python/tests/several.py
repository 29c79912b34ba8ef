"""A NATS server, a controller and nodes: the real processes, on ports of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from process import BINARY, GIVEN_UP_AFTER, eventually, free_port
from tributary import Server

PREFIX = "py-events"
"""What all names in NATS begin with."""


def nats_server() -> str | None:
    """Where `nats-server` is: `TRIBUTARY_NATS_SERVER`, `PATH`, or where `cargo xtask setup` puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    tools = cache / "tributary/tools/bin"
    return os.environ.get("TRIBUTARY_NATS_SERVER") or shutil.which("nats-server", path=f"{os.environ['PATH']}:{tools}")


class Several:
    """Running processes. However a test ends, nothing of them stays."""

    def __init__(self, folder: Path, nodes: int, options: Sequence[str]) -> None:
        self.folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.nats = f"nats://127.0.0.1:{self._start_nats()}"
        self.controller = self._start("controller", "controller", [])
        self.nodes = {
            f"node-{number}": self._start_node(f"node-{number}-{os.getpid()}", options) for number in range(nodes)
        }
        with Server(self.controller) as operator:
            eventually(lambda: self._ready(operator) == nodes, f"all nodes are ready; their logs are in {folder}")

    @staticmethod
    def _ready(operator: Server) -> int:
        try:
            return len([node for node in operator.nodes() if node.name])
        except Exception:
            return 0

    @property
    def addresses(self) -> list[str]:
        """Of all nodes, whether they live or not."""
        return list(self.nodes.values())

    def node_at(self, address: str) -> str:
        """The name of the node at an address."""
        return next(name for name, own in self.nodes.items() if own == address)

    def kill(self, name: str) -> None:
        """Kills a process as a crash would."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def _start_nats(self) -> int:
        port, binary = free_port(), nats_server()
        assert binary is not None
        store = ["--jetstream", "--store_dir", str(self.folder / "nats")]
        self._run("nats", [binary, "--addr", "127.0.0.1", "--port", str(port), *store])

        def listens() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, "nats-server listens")
        return port

    def _start_node(self, name: str, options: Sequence[str]) -> str:
        number = len([name for name in self._children if name.startswith("node")])
        own = ["--state-dir", str(self.folder / name), "--workers", "1", "--sidecar", "userspace", "--name", name]
        return self._start(f"node-{number}", "node", [*own, *options])

    def _start(self, name: str, what: str, options: Sequence[str]) -> str:
        listen = f"127.0.0.1:{free_port()}"
        nats = ["--nats", self.nats, "--nats-prefix", PREFIX]
        self._run(name, [str(BINARY), what, "--listen", listen, *nats, *options])
        return f"http://{listen}"

    def _run(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> Several:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nodes first: they take leave of NATS.
        for name in sorted(self._children, reverse=True, key=lambda name: name.startswith("node")):
            self._children[name].terminate()
        for child in self._children.values():
            child.wait(GIVEN_UP_AFTER)
        # Segments carry what a node calls itself in its state directory; a killed one has left them.
        for own in self.folder.glob("*/node"):
            for segment in Path("/dev/shm").glob(f"tributary-{own.read_text().strip()}-*"):
                segment.unlink()
