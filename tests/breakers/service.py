"""A service in Python whose dependency is behind the package circuitbreaker. BREAKER=off leaves timeout and fallback."""
import http.client, http.server, os, sys

from circuitbreaker import CircuitBreaker

PORT, DEPENDENCY = int(sys.argv[1]), int(sys.argv[2])


def call():
    conn = http.client.HTTPConnection("127.0.0.1", DEPENDENCY, timeout=0.3)
    try:
        conn.request("GET", "/")
        answer = conn.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
        return body
    finally:
        conn.close()


guarded = call if os.environ.get("BREAKER") == "off" else CircuitBreaker(failure_threshold=5, recovery_timeout=2)(call)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        degraded = False
        try:
            body = b"ok\n" if self.path == "/healthz" else guarded()
        except Exception:  # the breaker's, a timeout, a refusal: all of them are answered from yesterday
            body, degraded = b"stale: served from yesterday\n", True
        self.send_response(200)
        if degraded:
            self.send_header("x-degraded", "dependency")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


Server(("127.0.0.1", PORT), Handler).serve_forever()
