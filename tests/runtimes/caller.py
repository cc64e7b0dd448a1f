#!/usr/bin/python3
"""A caller in Python, and with "curl" one that has curl do its calls: http.client as people use it.

    caller.py PORT [curl]      GET /call?port=N&timeout=MS[&host=H][&keep=1] makes one call and says how it went:
                               {"status", "error": "" or refused|timeout|reset|dns|..., "ms", "lag"}"""
import http.client, http.server, json, socket, subprocess, sys, threading, time, urllib.parse

kept = {}
CURL = {6: "dns", 7: "refused", 28: "timeout", 35: "reset", 52: "reset", 56: "reset"}


def by_python(host, port, timeout, keep):
    c = kept.pop((host, port), None) if keep else None
    c = c or http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        c.request("GET", "/who")
        answer = c.getresponse()
        answer.read()
        if keep:
            kept[host, port] = c
        else:
            c.close()
        return answer.status, ""
    except socket.gaierror:
        return 0, "dns"
    except ConnectionRefusedError:
        return 0, "refused"
    except ConnectionResetError:
        return 0, "reset"
    except TimeoutError as e:
        return 0, "timeout" if e.errno is None else f"errno {e.errno}"
    except OSError as e:
        return 0, f"errno {e.errno}"


def by_curl(host, port, timeout, keep):
    got = subprocess.run(["curl", "-sS", "-m", str(timeout), "-o", "/dev/null", "-w", "%{http_code}", f"http://{host}:{port}/who"],
                         capture_output=True, text=True)
    return int(got.stdout or 0), CURL.get(got.returncode, f"exit {got.returncode}") if got.returncode else ""


class Lag(threading.Thread):
    """How late the program itself runs while a call is under way."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = 0.0, threading.Event()
        self.start()

    def run(self):
        last = time.monotonic()
        while not self.over.wait(0.01):
            now = time.monotonic()
            self.most, last = max(self.most, now - last - 0.01), now


class Control(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        q = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        lag, begin = Lag(), time.monotonic()
        status, error = call(q.get("host", "127.0.0.1"), int(q["port"]), int(q["timeout"]) / 1000, "keep" in q)
        ms = (time.monotonic() - begin) * 1000
        lag.over.set()
        body = json.dumps({"status": status, "error": error, "ms": ms, "lag": lag.most * 1000}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused):
        pass


call = by_curl if "curl" in sys.argv[2:] else by_python
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Control).serve_forever()
