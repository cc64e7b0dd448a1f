// squalld's Toxiproxy API by a client that nobody at Squall wrote: node toxiproxy.js http://127.0.0.1:8474
'use strict'
const assert = require('node:assert')
const net = require('node:net')
const { Toxiproxy } = require('toxiproxy-node-client')

// The first byte's answer: how it came, and after how many milliseconds.
function ask (listen, data = 'hello') {
  return new Promise(resolve => {
    const [host, port] = [listen.slice(0, listen.lastIndexOf(':')), Number(listen.slice(listen.lastIndexOf(':') + 1))]
    const begin = process.hrtime.bigint()
    const s = net.connect(port, host, () => s.write(data))
    const done = how => { resolve({ how, ms: Number(process.hrtime.bigint() - begin) / 1e6 }); s.destroy() }
    s.setTimeout(10000, () => done('silence'))
    s.on('data', () => done('data')).on('end', () => done('end')).on('error', e => done(e.code))
  })
}

async function main (url) {
  const echo = net.createServer(s => { s.on('error', () => {}); s.pipe(s) })
  await new Promise(resolve => echo.listen(0, '127.0.0.1', resolve))
  const upstream = `127.0.0.1:${echo.address().port}`
  const toxiproxy = new Toxiproxy(url)
  assert.match(await toxiproxy.getVersion(), /2\.12\.0/)

  const proxy = await toxiproxy.createProxy({ name: 'echo', listen: '127.0.0.1:0', upstream })
  assert.strictEqual(proxy.enabled, true)
  assert.strictEqual((await ask(proxy.listen)).how, 'data')
  await assert.rejects(toxiproxy.createProxy({ name: 'echo', listen: '127.0.0.1:0', upstream }), /409/)
  await assert.rejects(toxiproxy.get('nobody'), /404/)

  const latency = await proxy.addToxic({ name: 'slow', type: 'latency', stream: 'downstream', toxicity: 1, attributes: { latency: 300, jitter: 0 } })
  assert.deepStrictEqual(latency.toJson(), { name: 'slow', type: 'latency', stream: 'downstream', toxicity: 1, attributes: { latency: 300, jitter: 0 } })
  let got = await ask(proxy.listen)
  assert.ok(got.how === 'data' && got.ms >= 300, JSON.stringify(got))
  const changed = await latency.update({ toxicity: 1, attributes: { latency: 600, jitter: 0 } })
  assert.strictEqual(changed.attributes.latency, 600)
  got = await ask(proxy.listen)
  assert.ok(got.how === 'data' && got.ms >= 600, JSON.stringify(got))
  assert.strictEqual((await proxy.getToxic('slow')).attributes.latency, 600)
  await latency.remove()
  await assert.rejects(proxy.getToxic('slow'), /404/)

  await proxy.addToxic({ name: 'reset', type: 'reset_peer', stream: 'downstream', toxicity: 1, attributes: { timeout: 0 } })
  assert.strictEqual((await ask(proxy.listen)).how, 'ECONNRESET')
  await proxy.update({ enabled: false, listen: proxy.listen, upstream: proxy.upstream })
  assert.strictEqual((await ask(proxy.listen)).how, 'ECONNREFUSED')
  await toxiproxy.reset() // up again, without toxics
  assert.strictEqual((await ask(proxy.listen)).how, 'data')

  const populated = await toxiproxy.populate([{ name: 'a', listen: '127.0.0.1:0', upstream }, { name: 'b', listen: '127.0.0.1:0', upstream }])
  assert.deepStrictEqual(Object.keys(populated), ['a', 'b'])
  assert.strictEqual((await ask(populated.b.listen)).how, 'data')
  assert.deepStrictEqual(Object.keys(await toxiproxy.getAll()).sort(), ['a', 'b', 'echo'])
  for (const p of [proxy, populated.a, populated.b]) await p.remove()
  assert.deepStrictEqual(await toxiproxy.getAll(), {})
  echo.close()
  console.log('ok')
  process.exit(0)
}

main(process.argv[2]).catch(e => { console.error(e); process.exit(1) })
