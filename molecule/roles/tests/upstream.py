"""A webserver that does as the reverse proxy asks: it has a gate, and leaves nothing unanswered in the end."""

import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GATE = Path("/run/lvao-airflow/lvao-airflow-webserver/gate")
# A line for each request that it has broken off.
BROKEN = Path("/run/lvao-test-broken")


class Handler(BaseHTTPRequestHandler):
    """Says who asked, and gives back what it got."""

    def do_POST(self) -> None:
        """Answer with the body, after the pause that the query asks for."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(float(self.path.partition("?")[2] or 0))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Answer with the request's headers, a line for each, or with a line a second, or break off."""
        if self.path == "/broken":
            with BROKEN.open("a") as broken:
                broken.write(f"{self.path}\n")
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        seconds = int(self.path.partition("?")[2] or 0)
        for line in range(seconds) if seconds else self.headers.items():
            self.wfile.write(json.dumps(line).encode() + b"\n")
            time.sleep(seconds and 1)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """Waits in the end for what is under way."""

    daemon_threads = False
    request_queue_size = 100


def main() -> None:
    """Serve until SIGTERM."""
    server = Server(("127.0.0.1", 8081), Handler)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever).start()
    GATE.parent.mkdir(parents=True, exist_ok=True)
    GATE.touch()
    stop.wait()
    GATE.unlink()
    time.sleep(1)
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
