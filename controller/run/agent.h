/* The probe on another host: what squalld starts there (`squall probe-agent`, injector/service_probe.c), and what it
 * and the controller say to each other.
 *
 * Its order is JSON in SQUALL_PROBE_ORDER: {"run_id","seed","window_s","lateness","matchers","load"} as struct
 * sq_probe_opts has them, and "zero_ns", "begin_ns" as sq_probe_start has them, in CLOCK_MONOTONIC of the agent's host.
 * It answers by lines of JSON on standard output:
 *   {"type":"begun","begin_ns"}          it sends; or {"type":"failed","message","hint"}
 *   {"type":"sample",...}                EVIDENCE.md
 *   {"type":"finished","sec","w","live"} what finished in a second since begin_ns (probe/window.h), for what must be
 *                                        known at once; "live": as struct sq_probe_live
 *   {"type":"end","probes":[...]}        the last one: sq_probe_end
 * SIGTERM: plan no more, wait for answers; SIGINT: at most a second. */
#ifndef CONTROLLER_RUN_AGENT_H
#define CONTROLLER_RUN_AGENT_H

#define SQ_AGENT_VERB "probe-agent"
#define SQ_AGENT_ORDER "SQUALL_PROBE_ORDER"

int sq_agent_main(void); /* the exit status */

#endif
