"""A server of OpenAI's completions in this process, with models that answer as a test says."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers `/v1/models` and `/v1/completions`; `asked` has the requests' bodies.

    `say` is called with a request's body and returns the text, or a status and what to send with it. Whoever asks for
    one token only tries whether there is a server: that is answered here unless `tried` is said.
    """

    daemon_threads = True

    def __init__(self, say, models, tried):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.models, self.tried, self.asked = say, models, tried, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            self.send(200, {"data": [{"id": name} for name in self.server.models]})
        else:
            self.send(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        trial = body["max_tokens"] == 1 and not self.server.tried
        if not trial:
            self.server.asked.append(body)
        said = "." if trial else self.server.say(body)
        if isinstance(said, str):
            choice = {"index": 0, "text": said, "finish_reason": "stop" if said.rstrip().endswith(".") else "length"}
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
            said = 200, {"choices": [choice], "usage": usage}
        self.send(*said)

    def send(self, status, content):
        content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(say, models=("tuned",), tried=False):
    """Serve while the block runs."""
    with Server(say, models, tried) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
