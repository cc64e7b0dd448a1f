// A caller in Node.js: as caller.py, with the http module and an event loop that must never stall.
const http = require("http");

const agents = { keep: new http.Agent({ keepAlive: true }), fresh: new http.Agent({ keepAlive: false }) };
const ERRORS = { ECONNREFUSED: "refused", ECONNRESET: "reset", ENOTFOUND: "dns", EAI_AGAIN: "dns", ABORT_ERR: "timeout" };

function call(q, done) {
  const signal = AbortSignal.timeout(Number(q.get("timeout")));
  const options = { host: q.get("host") || "127.0.0.1", port: q.get("port"), path: "/who", signal,
    agent: q.get("keep") ? agents.keep : agents.fresh };
  const fail = (e) => done(0, ERRORS[e.code] || String(e.code || e));
  const request = http.get(options, (answer) => {
    answer.on("error", fail);
    answer.on("end", () => done(answer.statusCode, ""));
    answer.resume();
  });
  request.on("error", fail);
}

http.createServer((question, answer) => {
  const q = new URL(question.url, "http://x").searchParams, begin = performance.now();
  let last = begin, lag = 0, told = false;
  const watch = setInterval(() => {
    const now = performance.now();
    lag = Math.max(lag, now - last - 10);
    last = now;
  }, 10);
  call(q, (status, error) => {
    if (told) return;
    told = true;
    clearInterval(watch);
    const now = performance.now();
    lag = Math.max(lag, now - last - 10);
    answer.end(JSON.stringify({ status, error, ms: now - begin, lag }));
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
