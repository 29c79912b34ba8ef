"""What a round of Flower's costs its server, with FedAvg and with TributaryStrategy in both modes.

    python measure.py SHAPES --clients 8 --rounds 2 [--strategies fedavg,relayed,direct]

SHAPES is a file of JSON, [[name, shape], ...]. Everything is real: SuperLink, SuperNodes, apps in processes of their own,
and `tributary up`. Figures go to standard output, a line of JSON each. Server means SuperLink, ServerApp and Tributary.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BIN = Path(sys.executable).parent
#: Seconds that anything may take.
PATIENCE = 1800
TICKS = os.sysconf("SC_CLK_TCK")
LABELS = {"fedavg": "Flower's FedAvg", "relayed": "TributaryStrategy", "direct": "TributaryStrategy, direct"}


def main():
    """All strategies, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--strategies", default="fedavg,relayed,direct")
    arguments = parser.parse_args()
    model_bytes = sum(4 * product(shape) for _, shape in json.loads(arguments.shapes.read_text()))
    baseline = None
    for strategy in arguments.strategies.split(","):
        rounds = measure(strategy, arguments)
        if strategy == "fedavg":
            baseline = rounds
        report(strategy, arguments.clients, rounds, baseline, model_bytes)


def measure(strategy, arguments):
    """The costs of each round but the first, which starts processes; of the first, if there is no other."""
    with tempfile.TemporaryDirectory(prefix="tributary-bench-strategy-") as folder:
        home = Path(folder)
        with tributary(home) as (aggregator, address), superlink(home, arguments.clients) as link:
            marks = home / "marks"
            marks.touch()
            run(home, strategy, arguments, address, marks)
            rounds = [watch(marks, number + 1, [link, aggregator]) for number in range(arguments.rounds)]
    return rounds[1:] or rounds


def watch(marks, number, servers):
    """One round, from its begin to its average."""
    begin, before = await_mark(marks, "begin", number), cpu(servers)
    end = await_mark(marks, "end", number)
    return {
        "seconds": end["time"] - begin["time"],
        "server_cpu_seconds": cpu(servers) - before,
        "app_cpu_seconds": end["cpu_seconds"] - begin["cpu_seconds"],
        "app_peak_bytes": end["peak_bytes"],
    }


def report(strategy, clients, rounds, baseline, model_bytes):
    """Writes the figures of one strategy."""
    quantities = {
        "cpu_per_update": ("CPU s", lambda cost: cost["server_cpu_seconds"] / clients),
        "app_cpu_per_update": ("CPU s", lambda cost: cost["app_cpu_seconds"] / clients),
        "app_memory": ("models", lambda cost: cost["app_peak_bytes"] / model_bytes),
        "wall": ("s", lambda cost: cost["seconds"]),
    }
    for what, (unit, quantity) in quantities.items():
        values = [quantity(cost) for cost in rounds]
        figure = {
            "name": f"flower_strategy.n{clients}.{strategy}.{what}",
            "value": statistics.median(values),
            "unit": unit,
            "runs": len(values),
            "min": min(values),
            "max": max(values),
            "label": f"{LABELS[strategy]}, {clients} clients",
        }
        if baseline and strategy != "fedavg":
            theirs = statistics.median(quantity(cost) for cost in baseline)
            figure |= {"against": LABELS["fedavg"], "ratio": theirs / max(figure["value"], 1e-9)}
        print(json.dumps(figure), flush=True)


# === processes ===


@contextmanager
def tributary(home):
    """A server with fedavg."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    binary = os.environ.get("TRIBUTARY_BIN", ROOT / "target/release/tributary")
    command = [binary, "up", "--listen", f"127.0.0.1:{port}", "--state-dir", home / "state"]
    with started(home, "tributary", command) as process:
        await_that(lambda: urllib.request.urlopen(f"{address}/ready").status == 200, "the server is ready")
        module = Path(os.environ.get("TRIBUTARY_FUNCTIONS_DIR", ROOT / "target/functions")) / "fedavg.wasm"
        sys.path.insert(0, str(ROOT / "python/src"))
        from tributary import Function, Server

        with Server(address) as operator:
            operator.apply(Function("fedavg", str(module)))
        yield process, address


@contextmanager
def superlink(home, clients):
    """A SuperLink with so many SuperNodes."""
    host, port = "127.0.0.1", free_port()
    config = f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{host}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(config)
    options = ["--insecure", "--disable-runtime-dependency-installation", "--host", host, "--port", str(port)]
    with started(home, "superlink", [BIN / "flower-superlink", *options]) as process:
        await_that(lambda: socket.create_connection((host, port)).close() is None, "the SuperLink is there")
        with nodes(home, clients, f"{host}:{port}"):
            yield process


@contextmanager
def nodes(home, clients, address):
    """So many SuperNodes."""
    if clients == 0:
        yield
        return
    options = ["--insecure", "--superlink", address, "--port", str(free_port())]
    with started(home, f"node-{clients}", [BIN / "flower-supernode", *options]), nodes(home, clients - 1, address):
        yield


@contextmanager
def started(home, name, command):
    """A process, ended with all that it has started."""
    with open(home / f"{name}.log", "wb") as log:
        child = subprocess.Popen(
            list(map(str, command)), cwd=home, env=environment(home), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def run(home, strategy, arguments, address, marks):
    """Starts the app's run."""
    app = home / "app"
    app.mkdir()
    for name in ("pyproject.toml", "flower_strategy.py"):
        shutil.copy(HERE / name, app)
    config = (
        f"strategy='{strategy}' tributary='{address}' clients={arguments.clients} rounds={arguments.rounds} "
        f"shapes='{arguments.shapes.resolve()}' marks='{marks}'"
    )
    command = [BIN / "flwr", "run", app, "bench", "--run-config", config]
    done = subprocess.run(list(map(str, command)), cwd=home, env=environment(home), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"`flwr run` failed: {done.stdout}{done.stderr}")


def environment(home):
    """What Flower's processes are told."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home)}
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    return os.environ | quiet | {"PATH": path, "PYTHONPATH": str(ROOT / "python/src")}


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# === looking ===


def await_mark(marks, word, number):
    """A mark that the server app has left."""
    found = []

    def look():
        lines = [json.loads(line) for line in marks.read_text().splitlines() if line.endswith("}")]
        found.extend(line for line in lines if (line["word"], line["round"]) == (word, number))
        return found

    await_that(look, f"{word} of round {number}")
    return found[0]


def await_that(happens, what):
    """Waits until something happens."""
    given_up = time.monotonic() + PATIENCE
    while time.monotonic() < given_up:
        try:
            if happens():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"never: {what}")


def cpu(processes):
    """CPU seconds of these processes and all that they have started."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        # Of the process, and of its children that have ended.
        ticks[pid] = sum(map(int, fields[11:15]))
    roots = {process.pid for process in processes}

    def belongs(pid):
        while pid and pid not in roots:
            pid = parents.get(pid, 0)
        return pid in roots

    return sum(ticks[pid] for pid in ticks if belongs(pid)) / TICKS


def product(shape):
    """The elements of a tensor."""
    count = 1
    for extent in shape:
        count *= extent
    return count


if __name__ == "__main__":
    main()
