"""Flower as its users run it: a SuperLink, SuperNodes, and `flwr run`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from process import GIVEN_UP_AFTER, eventually, free_port

BIN = Path(sys.executable).parent

#: Seconds that a run of an app may take.
RUN = 180.0


class Federation:
    """A SuperLink with so many SuperNodes, ended with the test.

    Each SuperNode has ``partition-id`` and ``num-partitions`` in its configuration.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.nodes = folder, nodes
        self.address = f"127.0.0.1:{free_port()}"
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Federation:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "{self.address}"\ninsecure = true\n'
        (self.folder / "config.toml").write_text(config)
        host, port = self.address.split(":")
        # Nothing is to be installed while a test runs.
        options = ["--insecure", "--disable-runtime-dependency-installation", "--host", host, "--port", port]
        self._start("superlink", "flower-superlink", *options)
        eventually(self._answers, f"the SuperLink is there; its log is in {self.folder}")
        for node in range(self.nodes):
            config = f"partition-id={node} num-partitions={self.nodes}"
            options = ["--insecure", "--superlink", self.address, "--port", str(free_port()), "--node-config", config]
            self._start(f"node-{node}", "flower-supernode", *options)
        return self

    def run(self, app: Path, config: Mapping[str, str | int]) -> str:
        """Runs an app to its end; what its server app logged."""
        values = " ".join(f"{name}={_toml(value)}" for name, value in config.items())
        command = [str(BIN / "flwr"), "run", str(app), "test", "--stream", "--run-config", values]
        done = subprocess.run(
            command, env=self._environment(), cwd=self.folder, capture_output=True, text=True, timeout=RUN, check=False
        )
        return done.stdout + done.stderr

    def _answers(self) -> bool:
        import socket

        host, port = self.address.split(":")
        with socket.socket() as sock:
            return sock.connect_ex((host, int(port))) == 0

    def _start(self, name: str, program: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._children.append(
                subprocess.Popen(
                    [str(BIN / program), *options],
                    env=self._environment(),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return {**os.environ, **quiet, "PATH": path, "FLWR_HOME": str(self.folder)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The nodes first: a SuperNode without its SuperLink tries again for long.
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(GIVEN_UP_AFTER)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _toml(value: str | int) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
