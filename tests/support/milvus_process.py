"""Becomes a Milvus server that dies with the process that started it.

`python -P milvus_process.py lite|standalone DIRECTORY PORT HEALTH_PORT`; with `-P`, no module beside this one is taken
for a package of its name. Standalone is the whole server, as `make test-milvus` installs it.
"""

import ctypes
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

PR_SET_PDEATHSIG = 1
# What a standalone server waits for before it does a step. Tests of small collections would spend their time on it.
FASTER = {
    "DATACOORD_SEGMENT_ASSIGNMENTEXPIRATION": "200",  # milliseconds until a flush takes what was inserted
    "QUERYCOORD_CHECKCHANNELINTERVAL": "100",
    "QUERYCOORD_CHECKSEGMENTINTERVAL": "100",
    "QUERYCOORD_DISTPULLINTERVAL": "100",
    "COMMON_SESSION_TTL": "10",  # seconds until parts of a killed server are given up
}
PARTS = ("PROXY", "ROOTCOORD", "DATACOORD", "DATANODE", "INDEXCOORD", "INDEXNODE", "QUERYCOORD", "QUERYNODE")


def main() -> None:
    kind, directory, port, health_port = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    {"lite": become_lite, "standalone": become_standalone}[kind](Path(directory), port, health_port)


def become_lite(directory: Path, port: str, _health_port: str) -> None:
    options = [f"--data-dir={directory}", "--host=127.0.0.1", f"--port={port}"]
    os.execv(sys.executable, [sys.executable, "-m", "milvus_lite", "server", *options])


def become_standalone(directory: Path, port: str, health_port: str) -> None:
    if not (directory / "configs").exists():  # A server that starts again looks for its parts where they were.
        configure(directory, int(port))
    programs = Path(sys.prefix) / "server" / "bin"
    os.environ.update(
        FASTER,
        **{f"{part}_IP": "127.0.0.1" for part in PARTS},
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT=health_port,
        MILVUS_RUN_DIR=str(directory / "run"),
        ETCD_CONFIG_PATH=str(directory / "etcd.yaml"),
        LD_LIBRARY_PATH=str(programs),
    )
    os.chdir(directory)  # It reads configs/milvus.yaml there.
    os.execv(programs / "milvus", ["milvus", "run", "standalone"])


def configure(directory: Path, port: int) -> None:
    """Write the configuration, with ports that no other server on this machine has."""
    import milvus

    config = milvus.MilvusServerConfig(data_dir=str(directory))
    inner = [name for name in config.configurable_items if name.endswith("_port")]
    *ports, client, peer = free_ports(len(inner) + 2)
    for name, number in {**dict(zip(inner, ports, strict=True)), "proxy_port": port}.items():
        config.set(name, number)
    config.resolve_storage()
    config.write_config()
    urls = {"listen-client": client, "advertise-client": client, "listen-peer": peer, "initial-advertise-peer": peer}
    lines = [f"{name}-urls: http://127.0.0.1:{number}" for name, number in urls.items()]
    (directory / "etcd.yaml").write_text("\n".join([*lines, f"initial-cluster: default=http://127.0.0.1:{peer}\n"]))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    main()
