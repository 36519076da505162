"""A real PostgreSQL, started in a folder of its own on a free port of the loopback, and gone after the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_USER = "thinkscale"


class Postgres:
    """One server. It refuses to run as root, so that root runs it as an unprivileged user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(folder / "cluster"), "-A", "trust", "-U", _USER, "--no-sync", "-E", "UTF8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            where = ["-h", "127.0.0.1", "-p", str(self._port), "-k", str(self._folder)]
            self._server = subprocess.Popen(
                [_binary("postgres"), "-D", str(self._folder / "cluster"), *where, "-c", "fsync=off"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                user=self._user,
            )
        asked = [_binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + 30
        while subprocess.run(asked, check=False).returncode != 0:
            if self._server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Cut every connection and end."""
        if self._server is not None:
            server, self._server = self._server, None
            server.send_signal(signal.SIGINT)
            server.wait(30)

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", _USER, name)
        return f"postgresql://{_USER}@127.0.0.1:{self._port}/{name}"

    def _run(self, program: str, *words: str) -> None:
        command = [_binary(program), *words]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, user=self._user)
        if done.returncode:
            pytest.fail(f"{program} failed: {done.stderr or done.stdout}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="thinkscale-postgres-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _binary(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    if found is None:
        pytest.fail(f"these tests need a PostgreSQL server, and {name} is not here: install the package postgresql")
    return found


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
