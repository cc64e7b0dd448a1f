// Writes latency.hlog by HdrHistogram's own JavaScript (npm: hdr-histogram-js 3.0.1), for test_dist.c:
//   npm install hdr-histogram-js@3.0.1 && node hlog.js > latency.hlog
// Microseconds. The percentiles of the whole are in its last comment.
const hdr = require("hdr-histogram-js");
let state = 1;
const next = () => (state = (state * 48271) % 2147483647) / 2147483647;
const all = hdr.build({bitBucketSize: 64, numberOfSignificantValueDigits: 3, autoResize: true, useWebAssembly: false});
const writer = new hdr.HistogramLogWriter(line => process.stdout.write(line));
writer.outputLogFormatVersion();
writer.outputComment("[from tests/golden/hlog.js]");
writer.outputStartTime(1700000000000);
writer.outputLegend();
const interval = (i, n, value, tag) => {
  const h = hdr.build({bitBucketSize: 64, numberOfSignificantValueDigits: 3, autoResize: true, useWebAssembly: false});
  for (let k = 0; k < n; k++) { const v = value(); h.recordValue(v); all.recordValue(v); }
  h.startTimeStampMsec = 1700000000000 + i * 1000;
  h.endTimeStampMsec = h.startTimeStampMsec + 1000;
  if (tag) h.tag = tag;
  writer.outputIntervalHistogram(h);
};
interval(0, 5000, () => 1000 + Math.floor(next() * 4000));
interval(1, 5000, () => Math.floor(2000 / Math.sqrt(1 - next())));
interval(2, 1, () => 1500000, "slowest");
writer.outputComment(`p50 ${all.getValueAtPercentile(50)} p99 ${all.getValueAtPercentile(99)} max ${all.maxValue} ` +
                     `mean ${all.mean} n ${all.totalCount}`);
