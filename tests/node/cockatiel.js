'use strict';
// cockatiel: failures in a row, and a pause that grows from attempt to attempt.
const { ConsecutiveBreaker, ExponentialBackoff, circuitBreaker, handleAll, noJitterGenerator } = require('cockatiel');
const { serve } = require('./service');

serve((call) => {
  const breaker = circuitBreaker(handleAll, {
    halfOpenAfter: new ExponentialBackoff({ initialDelay: 1000, maxDelay: 4000, generator: noJitterGenerator }),
    breaker: new ConsecutiveBreaker(5),
  });
  return (traceparent) => breaker.execute(() => call(traceparent));
});
