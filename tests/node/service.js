'use strict';
// A service with a dependency, whose calls a breaker may guard: serve(guard) takes what wraps a function that returns a
// promise. BREAKER=off takes the breaker away and leaves timeout and fallback.
const http = require('node:http');

const [port, dependency] = [Number(process.argv[2]), Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true, maxSockets: 200 });

function call(traceparent) {
  return new Promise((resolve, reject) => {
    const headers = traceparent ? { traceparent } : {};
    const req = http.get({ host: '127.0.0.1', port: dependency, path: '/', agent, headers, timeout: 300 }, (res) => {
      let body = '';
      res.on('data', (chunk) => { body += chunk; });
      res.on('error', reject);
      res.on('end', () => (res.statusCode === 200 ? resolve(body) : reject(new Error(`status ${res.statusCode}`))));
    });
    req.on('timeout', () => req.destroy(new Error('timed out')));
    req.on('error', reject);
  });
}

exports.serve = (guard) => {
  const guarded = process.env.BREAKER === 'off' ? call : guard(call);
  const server = http.createServer((req, res) => {
    if (req.url === '/healthz') {
      res.end('ok\n');
      return;
    }
    guarded(req.headers.traceparent).then(
      (body) => res.end(`fresh: ${body}`),
      () => {
        res.setHeader('x-degraded', 'dependency');
        res.end('stale: served from yesterday\n');
      },
    );
  });
  server.keepAliveTimeout = 60000;
  server.listen(port, '127.0.0.1');
};
