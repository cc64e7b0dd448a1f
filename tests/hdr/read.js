// Histogram logs as HdrHistogram's own reader understands them: one line of JSON for each tag, intervals added up.
"use strict";
const fs = require("fs");
const hdr = require("hdr-histogram-js");

const reader = new hdr.HistogramLogReader(fs.readFileSync(process.argv[2], "utf8"));
const tags = {};
for (let h = reader.nextIntervalHistogram(); h !== null; h = reader.nextIntervalHistogram()) {
  const t = tags[h.tag] = tags[h.tag] || {intervals: 0, sum: hdr.build({bitBucketSize: 64,
    highestTrackableValue: h.highestTrackableValue, numberOfSignificantValueDigits: 3})};
  t.intervals++;
  t.sum.add(h);
}
for (const [tag, t] of Object.entries(tags)) {
  const p = {};
  for (const q of [50, 75, 90, 95, 99, 99.9, 99.99]) p["p" + q] = t.sum.getValueAtPercentile(q);
  console.log(JSON.stringify({tag, intervals: t.intervals, n: t.sum.totalCount, min: t.sum.minNonZeroValue,
    max: t.sum.maxValue, mean: t.sum.mean, ...p}));
}
