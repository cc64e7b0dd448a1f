'use strict';
// opossum: a share of failures in a rolling window.
const CircuitBreaker = require('opossum');
const { serve } = require('./service');

serve((call) => {
  const breaker = new CircuitBreaker(call, {
    timeout: false, // the call has its own
    errorThresholdPercentage: 50,
    rollingCountTimeout: 5000,
    rollingCountBuckets: 10,
    volumeThreshold: 10,
    resetTimeout: 2000,
  });
  return (traceparent) => breaker.fire(traceparent);
});
