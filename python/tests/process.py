"""The process `tributary up`, in a state directory of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

from tributary import Server

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("TRIBUTARY_BIN", ROOT / "target/debug/tributary"))
FUNCTIONS = Path(os.environ.get("TRIBUTARY_FUNCTIONS_DIR", ROOT / "target/functions"))

GIVEN_UP_AFTER = 60.0
"""Seconds after which something that should happen is taken to be stuck."""


class Process:
    """A running server. Killed with its workers when the test ends, and its segments are removed."""

    def __init__(self, folder: Path) -> None:
        if not BINARY.exists():
            raise FileNotFoundError(f"{BINARY} is missing: run `cargo xtask build`, or set TRIBUTARY_BIN")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # One port for its whole life: clients shall find it again after a restart.
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._child: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, also again in the same state directory, and waits until it is ready."""
        command = [str(BINARY), "up", "--listen", f"127.0.0.1:{self.port}", "--workers", "2"]
        command += ["--sidecar", "userspace", "--state-dir", str(self.folder / "state")]
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with Server(self.address) as operator:
            eventually(operator.health, f"the server is ready; its log is {self.folder / 'log'}")

    def kill(self) -> None:
        """Kills it as a crash would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def stop(self) -> None:
        """Stops it cleanly."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait(GIVEN_UP_AFTER)
            self._child = None

    def count_updates(self, job: str, outcome: str) -> float:
        """How many updates of a job had that outcome."""
        with urlopen(f"{self.address}/metrics") as answer:
            text = answer.read().decode()
        series = f'tributary_updates_total{{fl_job="{job}",outcome="{outcome}"}} '
        counts = [line.removeprefix(series) for line in text.splitlines() if line.startswith(series)]
        return float(counts[0]) if counts else 0

    def signal_workers(self, number: signal.Signals) -> None:
        """Sends a signal to every process that hosts aggregators."""
        assert self._child is not None
        for children in Path(f"/proc/{self._child.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                os.kill(int(child), number)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is None:
            # What a killed server left in /dev/shm goes at its next start.
            self.start()
        self.stop()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def eventually(happens: object, what: str) -> None:
    """Waits until something happens; that it takes long is no failure, that it never comes is one."""
    assert callable(happens)
    given_up = time.monotonic() + GIVEN_UP_AFTER
    while not happens():
        assert time.monotonic() < given_up, f"never: {what}"
        time.sleep(0.02)
