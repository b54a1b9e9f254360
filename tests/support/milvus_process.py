"""Becomes a Milvus server that dies with the process that started it.

`python -P milvus_process.py lite|standalone DIRECTORY PORT HEALTH_PORT`, where `-P` keeps the modules beside this one from
being imported for those of packages. Standalone is the whole server, as `make test-milvus` installs it.
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
    "COMMON_SESSION_TTL": "5",  # seconds until parts of a killed server are given up
}


def main() -> None:
    kind, directory, port, health_port = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    {"lite": become_lite, "standalone": become_standalone}[kind](Path(directory), port, health_port)


def become_lite(directory: Path, port: str, _health_port: str) -> None:
    options = [f"--data-dir={directory}", "--host=127.0.0.1", f"--port={port}"]
    os.execv(sys.executable, [sys.executable, "-m", "milvus_lite", "server", *options])


def become_standalone(directory: Path, port: str, health_port: str) -> None:
    import milvus

    config = milvus.MilvusServerConfig(data_dir=str(directory))
    inner = [name for name in config.configurable_items if name.endswith("_port")]
    for name, number in {**dict(zip(inner, free_ports(len(inner)), strict=True)), "proxy_port": int(port)}.items():
        config.set(name, number)
    config.resolve_storage()
    config.write_config()
    programs = Path(sys.prefix) / "server" / "bin"
    os.environ.update(
        FASTER,
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT=health_port,
        MILVUS_RUN_DIR=str(directory / "run"),
        ETCD_CONFIG_PATH=str(etcd_config(directory)),
        LD_LIBRARY_PATH=str(programs),
    )
    os.chdir(directory)  # It reads configs/milvus.yaml there.
    os.execv(programs / "milvus", ["milvus", "run", "standalone"])


def etcd_config(directory: Path) -> Path:
    """The file that gives the etcd inside ports of its own, the same ones after a restart."""
    path = directory / "etcd.yaml"
    if not path.exists():
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        lines = [f"listen-client-urls: {client}", f"advertise-client-urls: {client}"]
        lines += [f"listen-peer-urls: {peer}", f"initial-advertise-peer-urls: {peer}"]
        path.write_text("\n".join([*lines, f"initial-cluster: default={peer}\n"]))
    return path


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    main()
