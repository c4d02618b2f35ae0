"""A package index that wants a user and a password, on port 8999 of the loopback. Serves the folder that it is in."""

import base64
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

WANTED = "Basic " + base64.b64encode(b"reader:a-secret-of-the-index").decode()


class Index(SimpleHTTPRequestHandler):
    """Answers those who say who they are."""

    def do_GET(self) -> None:
        """Answer a request."""
        if self.headers.get("Authorization") == WANTED:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", 8999), Index).serve_forever()
