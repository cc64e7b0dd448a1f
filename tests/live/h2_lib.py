"""What the tests of HTTP/2 share: Node.js as client and server, frames by hand."""
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time

from proxy_rig import Rig, rule

NODE = shutil.which("node")
# /big: so many bytes; /echo: the body back; grpc.*: a message and trailers
SERVER = r"""
const http2 = require('http2'); let seen = {};
const s = http2.createServer();
s.on('stream', (st, h) => {
  st.on('error', () => {});
  const p = h[':path']; seen[p] = (seen[p] || 0) + 1;
  if (p === '/json') { const b = JSON.stringify({a: 1, b: {c: 2}, pad: 'x'.repeat(+(h['x-pad'] || 0))}); st.respond({':status': 200, 'content-type': 'application/json', 'content-length': b.length}); st.end(b); return; }
  if (p === '/late') { setTimeout(() => { if (!st.destroyed) { st.respond({':status': 200}); st.end('late'); } }, 4000); return; }
  if (p === '/body') { let all = []; st.on('data', d => all.push(d)); st.on('end', () => { const b = Buffer.concat(all); st.respond({':status': 200, 'x-length': h['content-length'] || ''}); st.end(b); }); return; }
  if (p === '/seen') { st.respond({':status': 200}); st.end(JSON.stringify(seen)); return; }
  if (p.startsWith('/big')) { st.respond({':status': 200, 'x-a': '1'}); st.end(Buffer.alloc(+p.slice(5), 'x')); return; }
  if ((h['content-type'] || '').startsWith('application/grpc')) {
    st.on('data', () => {}); st.on('end', () => {});
    st.respond({':status': 200, 'content-type': 'application/grpc'}, {waitForTrailers: true});
    st.on('wantTrailers', () => st.sendTrailers({'grpc-status': '0'})); st.end(Buffer.alloc(12)); return; }
  let n = 0; st.on('data', d => n += d.length);
  st.on('end', () => { if (st.destroyed) return; st.respond({':status': 200, 'x-got': h['x-user'] || '', 'x-cookie': h['cookie'] || '', 'x-a': '1', 'x-path': p}); st.end('' + n); });
});
s.listen(0, '127.0.0.1', () => console.log(s.address().port));
"""
CLIENT = r"""
const http2 = require('http2');
const [host, port, jobs] = [process.argv[2], +process.argv[3], JSON.parse(process.argv[4])];
const c = http2.connect('http://' + host + ':' + port, {settings: {initialWindowSize: jobs.window || 65535}});
c.on('error', e => { console.log(JSON.stringify({conn: e.code || '' + e})); process.exit(0); });
function one(j) { return new Promise(done => {
  const t = process.hrtime.bigint(), r = {path: j.path, status: 0, body: '', n: 0, headers: {}, trailers: {}};
  const st = c.request(Object.assign({':path': j.path, ':method': j.method || 'GET'}, j.headers || {}), {endStream: !(j.body || j.text)});
  st.on('response', h => { r.status = h[':status']; for (const k in h) if (k[0] !== ':') r.headers[k] = h[k]; });
  st.on('trailers', h => { for (const k in h) r.trailers[k] = h[k]; });
  st.on('data', d => { r.n += d.length; if (r.n < 20000 && d.length < 5000) r.body += d; });
  st.on('error', e => r.error = e.code);
  st.on('close', () => { r.rst = st.rstCode; r.ms = Number(process.hrtime.bigint() - t) / 1e6; done(r); });
  if (j.timeout) setTimeout(() => st.close(8), j.timeout).unref();
  if (j.text) { st.end(j.text); } else if (j.body) { st.write(Buffer.alloc(j.body, 'y')); if (!j.open) st.end(); }
}); }
(async () => {
  let out = [];
  for (let i = 0; i < (jobs.rounds || 1); i++) out = out.concat(await Promise.all(jobs.list.map(one)));
  console.log(JSON.stringify(out)); c.close();
})();
"""


def until_listened(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)


def hr(kind, do=None, match=None, **kw):
    return rule("http_" + kind, http=do or {}, match=match or {}, **kw)


class Node:
    def __init__(self):
        self.dir = tempfile.mkdtemp()
        for name, text in (("server.js", SERVER), ("client.js", CLIENT)):
            with open(os.path.join(self.dir, name), "w") as f:
                f.write(text)
        self.p = subprocess.Popen([NODE, os.path.join(self.dir, "server.js")], stdout=subprocess.PIPE)
        self.port = int(self.p.stdout.readline())
        self.addr = ("127.0.0.1", self.port)

    def end(self):
        self.p.kill()
        self.p.wait()
        shutil.rmtree(self.dir)

    def ask(self, rig, items, **kw):
        r = subprocess.run([NODE, os.path.join(self.dir, "client.js"), rig.flow(self.addr), str(rig.edges[1][0]),
                            json.dumps(dict(kw, list=items))], capture_output=True, timeout=20)
        assert r.returncode == 0 and r.stdout, r
        return json.loads(r.stdout)

    def seen(self, rig):
        return json.loads(self.ask(rig, [{"path": "/seen"}])[0]["body"])


def with_node(test):
    def run():
        if not NODE:
            print("     Node.js is not here: not tested with it")
            return
        node, rig = Node(), Rig()
        try:
            rig.edge(1)
            test(node, rig)
            rig.quit()
        finally:
            node.end()
    run.__name__ = test.__name__
    return run


def frame(kind, flags, stream, body=b""):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = b"\x82\x86\x84\x41\x01x"  # GET http / x
