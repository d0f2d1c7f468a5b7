"""A real ds4d that holds the whole embedded model, for tests: started, assigned, killed, restarted.

DS4_BIN_DIR says where the programs are, DS4_MODEL which model.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable

BIN_DIR = Path(os.environ["DS4_BIN_DIR"])
MODEL = os.environ["DS4_MODEL"]
PATIENCE_S = 60.0  # no healthy machine comes near


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Agent:
    def __init__(self, assigned: bool = True) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ds4-"))  # short: it holds a socket's path
        self.socket = self.directory / "client.sock"
        self._address = "tcp://127.0.0.1:*"
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        (self.directory / "ds4d.toml").write_text(
            f'name = "a"\nmodel = "{MODEL}"\nstate_dir = "{self.directory}/state"\n'
            f'client.socket = "{self.socket}"\nengine.threads = 1\n'
        )
        try:
            self.start()
            if assigned:
                self.ctl("assign", "a=0:output")
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Listening, and ready if layers were assigned before. Restarts keep the address."""
        before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            config = str(self.directory / "ds4d.toml")
            command = [str(BIN_DIR / "ds4d"), "--config", config, "--listen", self._address]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

        def listens() -> bool:
            found = re.search(r"listening on (\S+)\n", self._log.read_text()[before:])
            if found:
                self._address = found[1]
            return found is not None or not self.is_running()

        if not eventually(listens) or not self.is_running():
            raise RuntimeError(f"ds4d did not come up:\n{self._log.read_text()}")
        (self.directory / "cluster.toml").write_text(f'[nodes]\na = "{self._address}"\n')

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ctl(self, *words: str) -> str:
        """What `ds4ctl` prints; raises if it fails."""
        cluster, state = str(self.directory / "cluster.toml"), str(self.directory / "state")
        command = [str(BIN_DIR / "ds4ctl"), "--cluster", cluster, "--state-dir", state, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode != 0:
            raise RuntimeError(f"ds4ctl {' '.join(words)}: {done.stderr}{self._log.read_text()}")
        return done.stdout

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, waited for."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(PATIENCE_S)
        self._process = None
        return code

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
