"""The real Label Studio on loopback, with a database of its own, and its API."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER, PASSWORD, TOKEN = "someone@example.com", "not-a-secret-1", "0123456789abcdef" * 2 + "01234567"
STARTS_WITHIN = 300.0


@dataclass(frozen=True)
class Server:
    """A server that listens.

    Attributes:
        address: Without a slash at its end.
    """

    address: str

    def get(self, path: str) -> bytes:
        """What a GET answers.

        Raises:
            AssertionError: It is not answered with 200.
        """
        return self._ask(urllib.request.Request(self.address + path))

    def post(self, path: str, content: Any) -> Any:
        """What a POST of JSON answers."""
        return self._post(path, json.dumps(content).encode(), "application/json")

    def upload(self, path: str, file: Path) -> Any:
        """What the POST of a form answers that has one file."""
        mark = "between-parts"
        head = f'Content-Disposition: form-data; name="file"; filename="{file.name}"'
        parts = [f"--{mark}", head, "Content-Type: application/json", "", ""]
        end = f"\r\n--{mark}--\r\n".encode()
        form = f"multipart/form-data; boundary={mark}"
        return self._post(path, "\r\n".join(parts).encode() + file.read_bytes() + end, form)

    def _post(self, path: str, content: bytes, kind: str) -> Any:
        address, kinds = self.address + path, {"Content-Type": kind}
        return json.loads(self._ask(urllib.request.Request(address, content, kinds)))

    def _ask(self, request: urllib.request.Request) -> bytes:
        request.add_header("Authorization", f"Token {TOKEN}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            where = f"{request.get_method()} {request.full_url}"
            raise AssertionError(f"{where} answers {error.code}: {said}") from error

    def project(
        self, configuration: Path, tasks: Path, storages: Sequence[Path], title: str = "picks"
    ) -> int:
        """A project with a labelling configuration, tasks, and storages of local files."""
        said = {"title": title, "label_config": configuration.read_text(encoding="utf-8")}
        number = int(self.post("/api/projects", said)["id"])
        for storage in storages:
            self.post("/api/storages/localfiles", {"project": number, "path": str(storage)})
        answer = self.upload(f"/api/projects/{number}/import", tasks)
        count = len(json.loads(tasks.read_text(encoding="utf-8")))
        assert answer["task_count"] == answer["prediction_count"] == count, answer
        return number

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """The project's tasks, in the order in which they were imported."""
        answer = self.get(f"/api/tasks?project={project}&fields=all&page_size=1000")
        found = json.loads(answer)["tasks"]
        return sorted(found, key=lambda task: int(task["id"]))

    def annotate(
        self, task: int, labels: Sequence[str], shown: str, cancelled: bool = False
    ) -> None:
        """Label a task as its page does."""
        choice = {
            "from_name": "choice",
            "to_name": shown,
            "type": "choices",
            "value": {"choices": list(labels)},
        }
        said = {"result": [choice] if labels else [], "was_cancelled": cancelled}
        self.post(f"/api/tasks/{task}/annotations", said)

    def export(self, project: int, form: str) -> bytes:
        """An export as JSON, JSON_MIN or CSV."""
        return self.get(f"/api/projects/{project}/export?exportType={form}")


@contextmanager
def serving(program: Path, folder: Path, root: Path) -> Iterator[Server]:
    """A server that may show files below ``root`` and keeps its database in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(program), "start", "--no-browser", "--data-dir", str(folder),
                "--internal-host", "127.0.0.1", "--port", str(port), "--username", USER,
                "--password", PASSWORD, "--user-token", TOKEN, "--enable-legacy-api-token",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **settings(root)},
            start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(process, address, folder / "log")
        yield Server(address)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def settings(root: Path) -> Mapping[str, str]:
    """The environment of a server: what the docs name, and no words to anybody elsewhere."""
    return {
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(root),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(
        f"no server within {STARTS_WITHIN:.0f} s: {log.read_text(errors='replace')[-2000:]}"
    )
