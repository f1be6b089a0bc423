"""A process that reads mutated files, watched by the one that starts it."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0  # for one small file: beyond it, it hangs


class Victim:
    """Runs `kinds.py` in a process of its own, again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def attempt(self, kind: str, folder: Path) -> dict[str, Any]:
        """What becomes of the files of a folder; a death or a hang is an answer too."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{kind}\t{folder}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer says that it has died
        answer = self._next()
        if not answer:
            return {"died": self.close()}
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> int | str:
        """End the process; its exit status."""
        if self._process is None:
            return "not started"
        hung = self._process.poll() is None
        if hung:
            try:
                self._process.wait(1)
                hung = False
            except subprocess.TimeoutExpired:
                self._process.kill()
        status = self._process.wait()
        self._process = None
        return "no answer" if hung else status

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kinds.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        )
        self._answers = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process, self._answers)).start()
        assert self._next() == "ready\n"

    def _next(self) -> str:
        try:
            return self._answers.get(timeout=PATIENCE_S)
        except queue.Empty:
            return ""

    @staticmethod
    def _listen(process: "subprocess.Popen[str]", answers: "queue.Queue[str]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                answers.put(line)
        answers.put("")
