#include "scenario/schema.h"

#include <stdio.h>
#include <string.h>

#include "scenario/normalize.h"
#include "scenario/slo.h"
#include "squall/cleanup.h"
#include "squall/dest.h"

#define END                                                                                                            \
    {                                                                                                                  \
        .p = {.name = NULL }                                                                                           \
    }
#define DURATION(n, fl, d, lo, hi, text)                                                                               \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_DURATION, .flags = (fl), .def = (d), .doc = (text)}, .min = (lo), .max = (hi)  \
    }
#define VALUE(n, t, fl, d, text)                                                                                       \
    {                                                                                                                  \
        .p = {.name = (n), .type = (t), .flags = (fl), .def = (d), .doc = (text) }                                     \
    }
#define CHOICE(n, fl, d, v, text)                                                                                      \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_ENUM, .flags = (fl), .def = (d), .values = (v), .doc = (text) }                \
    }
#define NUMBER(n, t, fl, d, lo, hi, text)                                                                              \
    {                                                                                                                  \
        .p = {.name = (n), .type = (t), .flags = (fl), .def = (d), .doc = (text)}, .min = (lo), .max = (hi)            \
    }
#define NESTED(n, s, fl, sec, hi, text)                                                                                \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_MAP, .flags = (fl), .doc = (text)}, .shape = (s), .section = (sec),            \
        .max = (hi)                                                                                                    \
    }
#define OTHER(n, s, fl, hi, text)                                                                                      \
    {                                                                                                                  \
        .p = {.name = (n), .type = SQ_P_MAP, .flags = (fl), .doc = (text)}, .shape = (s), .max = (hi)                  \
    }

#define DAY_NS (86400e9)

static const struct sq_field metadata_fields[] = {
    VALUE("name", SQ_P_STRING, SQ_REQUIRED, NULL, "what runs and reports are called: a-z, 0-9, . _ and -"),
    VALUE("owner", SQ_P_STRING, 0, NULL, "who answers for it"),
    VALUE("description", SQ_P_STRING, 0, NULL, "free text"),
    OTHER("tags", SQ_F_TEXTS, 0, 50, "words to find it by"),
    END,
};
static const struct sq_section metadata = {"metadata", "Who it is.", metadata_fields, NULL};

static const struct sq_field ready_fields[] = {
    VALUE("http", SQ_P_STRING, 0, NULL, "GET this path on the instance's port; 200-399 is ready"),
    VALUE("tcp", SQ_P_BOOL, 0, NULL, "true: the instance's port accepts connections"),
    VALUE("unix", SQ_P_STRING, 0, NULL, "this Unix socket accepts connections; relative to cwd"),
    DURATION("within", 0, "10s", 10e6, 3600e9, "how long the service may take to become ready"),
    END,
};
static const struct sq_section ready = {
    "ready", "When a started service may be used; one of http, tcp, unix. Default: tcp when the service has a port.",
    ready_fields, sq_finish_ready};

static const struct sq_field select_fields[] = {
    NUMBER("pid", SQ_P_INT, 0, NULL, 2, 4194304, "a process id"),
    VALUE("pattern", SQ_P_STRING, 0, NULL, "an extended regular expression on the full command line"),
    NUMBER("port", SQ_P_INT, 0, NULL, 1, 65535, "whoever listens on this TCP port"),
    VALUE("unit", SQ_P_STRING, 0, NULL, "who is in this systemd unit, also later: nginx.service"),
    VALUE("cgroup", SQ_P_STRING, 0, NULL,
          "who is in this cgroup2, also later, and below it: a path as /proc/PID/cgroup shows it"),
    VALUE("container", SQ_P_STRING, 0, NULL,
          "who is in this container, also later: its id, or its first 6 digits or more"),
    END,
};
static const struct sq_section selector = {
    "select", "Finds a service that exists already; one of pid, pattern, port, unit, cgroup, container.", select_fields,
    sq_finish_select};

static const struct sq_field service_fields[] = {
    OTHER("command", SQ_F_TEXTS, 0, 1000,
          "program and arguments, no shell; ${instance} and ${port} are the instance's own; a program with a slash is "
          "relative to the scenario's file"),
    NUMBER("instances", SQ_P_INT, 0, "1", 1, 64, "how many to start: 0, 1, ... is ${instance}"),
    NUMBER("port", SQ_P_INT, 0, NULL, 1, 65535, "instance i gets port + i as ${port}"),
    NESTED("ready", SQ_F_SECTION, 0, &ready, 0, "when it may be used"),
    CHOICE("restart", 0, "never", "never|always|after_fault",
           "what its supervisor does when an instance ends; after_fault: starts it when the fault ends"),
    OTHER("env", SQ_F_TEXTMAP, 0, 500, "environment variables to add"),
    VALUE("cwd", SQ_P_STRING, 0, NULL, "working directory, relative to the scenario's file (default: its folder)"),
    NESTED("select", SQ_F_SECTION, 0, &selector, 0, "instead of command: a service that exists already"),
    END,
};
static const struct sq_section service = {"service", "A service to start, or one that exists already.", service_fields,
                                          sq_finish_service};

static const struct sq_field edge_fields[] = {
    VALUE("from", SQ_P_STRING, SQ_REQUIRED, NULL, "the caller: a service that the scenario starts or selects"),
    OTHER(
        "to", SQ_F_TEXTS, SQ_REQUIRED, SQ_DESTS,
        "the dependency: service:NAME, 127.0.0.1:5432, 10.0.0.0/8:5432-5440, [::1]:80, db.staging:5432, unix:/path, or "
        "resolvers (with protocol: dns): port 53 of any address"),
    OTHER("except", SQ_F_TEXTS, 0, SQ_DESTS,
          "destinations that are never taken, also when `to` means them; as `to`, but no Unix sockets"),
    CHOICE(
        "protocol", 0, "auto", "auto|http|tcp|udp|dns",
        "how calls are counted; auto looks at the first bytes; udp: each datagram; dns: each query, over UDP and TCP"),
    CHOICE("existing", 0, NULL, "leave|reset|wait",
           "of a selected caller: connections that were open before are left alone (default), reset, or waited for (10 "
           "s)"),
    CHOICE(
        "attach", 0, NULL, "auto|seccomp",
        "of a selected caller: how its calls are taken; seccomp (also to Unix sockets) stays in it for as long as it "
        "lives"),
    END,
};
static const struct sq_section edge = {"edge",
                                       "The calls of one caller to one dependency: armed before the steady state, "
                                       "counted, and where call faults act. Usually named caller->dependency.",
                                       edge_fields, sq_finish_edge};

static const struct sq_field stage_fields[] = {
    DURATION("for", SQ_REQUIRED, NULL, 1e6, DAY_NS, "how long this stage takes"),
    NUMBER("to", SQ_P_RATE, SQ_REQUIRED, NULL, 0, 1e6, "the rate at its end; in between it changes evenly"),
    END,
};
static const struct sq_section stage = {"stage", "One stretch of a ramp. After the last one the rate stays.",
                                        stage_fields, NULL};

static const struct sq_field tls_fields[] = {
    VALUE("ca", SQ_P_STRING, 0, NULL,
          "PEM file of the authorities to trust (default: the system's); paths are relative "
          "to the scenario's file"),
    VALUE("cert", SQ_P_STRING, 0, NULL, "PEM file of a client certificate"),
    VALUE("key", SQ_P_STRING, 0, NULL, "PEM file of its key (default: the certificate's file)"),
    VALUE("server_name", SQ_P_STRING, 0, NULL, "whom the certificate must name, also sent as SNI (default: the host)"),
    VALUE("verify", SQ_P_BOOL, 0, "true", "false: any certificate will do"),
    VALUE("resume", SQ_P_BOOL, 0, "true", "false: each connection makes a full handshake"),
    OTHER("alpn", SQ_F_TEXTS, 0, 8, "protocols to offer; [h2]: https speaks HTTP/2"),
    END,
};
static const struct sq_section tls = {"tls", "TLS below https://, grpcs://, rediss:// and tcp://.", tls_fields,
                                      sq_finish_tls};

static const struct sq_field request_fields[] = {
    VALUE("method", SQ_P_STRING, 0, "GET", "the HTTP method"),
    VALUE("url", SQ_P_STRING, SQ_REQUIRED, NULL,
          "http://host:port/path, https://, h2c:// (HTTP/2 without TLS), unix:/path/to.sock:/path, "
          "grpc://host:port/service "
          "or grpcs:// (health), tcp://host:port, udp://, dns://server/name?type=A, redis:// or rediss:// (PING), "
          "postgres://user@host/database (select 1), exec:program; http, tcp, redis and postgres also as "
          "SCHEME+unix:/path"),
    OTHER("headers", SQ_F_TEXTMAP, 0, 100, "header fields to send"),
    VALUE("body", SQ_P_STRING, 0, "", "what to send as the request's body"),
    DURATION("timeout", 0, "5s", 1e6, 600e9, "from the planned send; what takes longer is bad"),
    VALUE("keep_alive", SQ_P_BOOL, 0, NULL, "false: each request has a connection of its own (default true)"),
    NESTED("tls", SQ_F_SECTION, 0, &tls, 0, "how TLS is done"),
    VALUE("send", SQ_P_STRING, 0, NULL,
          "tcp, udp: bytes to send; the answer is what expect: {body: ..} says, else the same bytes"),
    OTHER("args", SQ_F_TEXTS, 0, 64, "exec: the program's arguments, no shell"),
    VALUE("password_env", SQ_P_STRING, 0, NULL, "redis, postgres: the environment variable that holds the password"),
    END,
};
static const struct sq_section request = {"request", "What the probe sends.", request_fields, sq_finish_request};

static const struct sq_field expect_fields[] = {
    OTHER(
        "status", SQ_F_STATUS, 0, 100,
        "statuses of a good answer (default 200-399; gRPC, DNS, exec and the others have their own codes, default 0)"),
    VALUE("body", SQ_P_STRING, 0, NULL, "a text that a good answer has in it"),
    END,
};
static const struct sq_section expect = {"expect", "What a good answer looks like.", expect_fields, NULL};

static const struct sq_field mix_fields[] = {
    NUMBER("weight", SQ_P_NUMBER, 0, "1", 1e-6, 1e6, "how often, compared with the others"),
    VALUE("method", SQ_P_STRING, 0, NULL, "instead of the request's"),
    VALUE("path", SQ_P_STRING, 0, NULL, "instead of the one in the request's url"),
    OTHER("headers", SQ_F_TEXTMAP, 0, 100, "besides the request's, or instead of them"),
    VALUE("body", SQ_P_STRING, 0, NULL, "instead of the request's"),
    NESTED("expect", SQ_F_SECTION, 0, &expect, 0, "instead of the endpoint's"),
    END,
};
static const struct sq_section mix = {"mix",
                                      "One of several requests to one place; which one is sent is drawn for each.",
                                      mix_fields, sq_finish_step_request};

static const struct sq_field capture_fields[] = {
    VALUE("header", SQ_P_STRING, 0, NULL, "the value of this header field"),
    OTHER("between", SQ_F_TEXTS, 0, 2, "[a, b]: what the body has between these two texts, where they come first"),
    VALUE("json", SQ_P_STRING, 0, NULL, "what the body, as JSON, has at this pointer (/items/0/id)"),
    END,
};
static const struct sq_section capture = {
    "capture", "A value of an answer that later requests of the session use as ${session.NAME}; one of these.",
    capture_fields, sq_finish_capture};

static const struct sq_field session_fields[] = {
    DURATION("think", 0, "0s", 0, 3600e9, "how long the user thinks before it, after the answer before"),
    VALUE("method", SQ_P_STRING, 0, NULL, "instead of the request's"),
    VALUE("path", SQ_P_STRING, 0, NULL, "instead of the one in the request's url"),
    OTHER("headers", SQ_F_TEXTMAP, 0, 100, "besides the request's, or instead of them"),
    VALUE("body", SQ_P_STRING, 0, NULL, "instead of the request's"),
    NESTED("expect", SQ_F_SECTION, 0, &expect, 0, "instead of the endpoint's"),
    NESTED("capture", SQ_F_NAMED, 0, &capture, 32, "values for later requests, by name"),
    END,
};
static const struct sq_section session = {
    "session", "One request of a user's session; it ends with the first answer that is not good.", session_fields,
    sq_finish_step_request};

static const struct sq_field endpoint_fields[] = {
    CHOICE(
        "executor", SQ_REQUIRED, NULL, "constant-arrival-rate|ramping-arrival-rate|black-friday|constant-connections",
        "how the schedule is made; requests are sent by it whether answers come or not, but for constant-connections, "
        "a closed loop that cannot see stalls"),
    NUMBER("rate", SQ_P_RATE, 0, NULL, 0, 1e6, "constant-arrival-rate: requests per second"),
    NUMBER("start", SQ_P_RATE, 0, NULL, 0, 1e6, "ramping-arrival-rate: the rate at the beginning"),
    NESTED("stages", SQ_F_LIST, 0, &stage, 64, "ramping-arrival-rate: how the rate changes"),
    VALUE("baseline", SQ_P_STRING, 0, NULL,
          "black-friday: an earlier run's folder, or a CSV with the column rate, one row a second"),
    VALUE("baseline_endpoint", SQ_P_STRING, 0, NULL, "black-friday: whose load of that run (default: the same name)"),
    NUMBER("multiply", SQ_P_NUMBER, 0, NULL, 1e-3, 1e4, "black-friday: so many times the baseline (default 1)"),
    CHOICE("arrivals", 0, NULL, "even|poisson",
           "even (the default), or poisson: as independent users come, by the run's seed"),
    NUMBER("connections", SQ_P_INT, 0, "100", 1, 10000, "most connections that may be open at once"),
    NUMBER("streams", SQ_P_INT, 0, NULL, 1, 1000, "HTTP/2: most requests at once on one of them (default 100)"),
    NUMBER("threads", SQ_P_INT, 0, NULL, 1, 64,
           "threads of the probe that share the requests and connections (default 1)"),
    VALUE("data", SQ_P_STRING, 0, NULL,
          "a CSV or JSON Lines file, row by row: ${data.COLUMN} in path, headers and body"),
    OTHER("from", SQ_F_TEXTS, 0, 16,
          "which hosts send it, each an equal part of the schedule: names of hosts, and self for this one (default)"),
    NESTED("request", SQ_F_SECTION, SQ_REQUIRED, &request, 0, "what to send"),
    NESTED("mix", SQ_F_LIST, 0, &mix, 64, "several requests, drawn by weight"),
    NESTED("session", SQ_F_LIST, 0, &session, 64, "several requests, one after the other"),
    NESTED("expect", SQ_F_SECTION, 0, &expect, 0, "what a good answer looks like"),
    END,
};
static const struct sq_section endpoint = {
    "load", "What the probe does, by the name of the endpoint; from before the steady state until after the last step.",
    endpoint_fields, sq_finish_endpoint};

static const struct sq_field host_fields[] = {
    VALUE("injector", SQ_P_STRING, SQ_REQUIRED, NULL,
          "the socket of its squalld, here (over ssh: -L LOCAL.sock:/run/squall/squalld/api.sock)"),
    END,
};
static const struct sq_section host = {"hosts", "Another host that load is sent from, by its injector.", host_fields,
                                       NULL};

static const struct sq_field lateness_fields[] = {
    DURATION("over", 0, "5ms", 1e5, 10e9, "a send that the probe itself made later than this is late"),
    NUMBER("share", SQ_P_PERCENT, 0, "1%", 0, 100, "more late sends than this void the run"),
    END,
};
static const struct sq_section lateness = {"lateness", "How late the probe itself may be.", lateness_fields, NULL};

static const struct sq_field steady_fields[] = {
    DURATION("for", 0, "10s", 1e9, DAY_NS, "how long to look before anything is done to the system"),
    OTHER("thresholds", SQ_F_THRESHOLDS, SQ_REQUIRED, 20, "what must hold over all endpoints together"),
    END,
};
static const struct sq_section steady = {
    "steady_state", "The gate: when it does not hold, no fault is injected and the run is inconclusive.", steady_fields,
    NULL};

static const struct sq_field step_fields[] = {
    VALUE("id", SQ_P_STRING, SQ_REQUIRED, NULL, "what checks refer to"),
    VALUE("name", SQ_P_STRING, 0, NULL, "what happens, for people (default: the id)"),
    VALUE("uses", SQ_P_STRING, 0, NULL, "the fault: squall explain lists them"),
    OTHER("target", SQ_F_LATER, 0, 0, "what the fault acts on"),
    OTHER("with", SQ_F_LATER, 0, 0, "the fault's parameters"),
    DURATION("duration", 0, NULL, 1e6, DAY_NS, "how long the fault stays"),
    DURATION("settle", 0, NULL, 0, DAY_NS, "wait after taking it back, load running (default 0s)"),
    DURATION("wait", 0, NULL, 1e6, DAY_NS, "instead of a fault: just wait, load running"),
    END,
};
static const struct sq_section step = {"step", "Steps run one after the other. A step is a fault or a wait.",
                                       step_fields, sq_finish_step};

static const struct sq_field check_fields[] = {
    VALUE("check", SQ_P_STRING, SQ_REQUIRED, NULL, "its name; what else it takes: squall explain CHECK"),
    END,
};
static const struct sq_section check = {"verify", "What must be true: checks, decided from the evidence.", check_fields,
                                        sq_finish_check};

static const struct sq_field sprt_fields[] = {
    VALUE("p0", SQ_P_PERCENT, 0, NULL, "the error rate of a system that is well (with burn_rate: that of 1)"),
    VALUE("p1", SQ_P_PERCENT, 0, NULL, "the error rate of one that is sick (with burn_rate: that of over)"),
    NUMBER("alpha", SQ_P_PERCENT, 0, "1%", 0.0001, 49, "how often a run that is well may be stopped, in all its time"),
    NUMBER("beta", SQ_P_PERCENT, 0, "1%", 0.0001, 49, "how often each look at one that is sick may miss it"),
    END,
};
static const struct sq_section sprt = {
    "sprt", "A sequential test: it may be looked at all the time, and stops as soon as chance is ruled out.",
    sprt_fields, NULL};

static const struct sq_field abort_fields[] = {
    CHOICE("metric", 0, NULL, "error_rate|burn_rate|p50|p95|p99", "what to watch, all endpoints together"),
    VALUE("slo", SQ_P_STRING, 0, NULL, "instead of metric: an SLO of the files in slos"),
    NUMBER("burn_rate", SQ_P_NUMBER, 0, NULL, 1e-3, 1e6, "of slo: how fast its budget may burn, such as 14.4"),
    OTHER("over", SQ_F_LATER, 0, 0,
          "the limit: a percentage for error_rate, a number for burn_rate, else a duration; not with an error_rate's "
          "sprt"),
    NUMBER("target", SQ_P_PERCENT, 0, NULL, 0.001, 99.9999, "of burn_rate: the SLO, the share that must be good"),
    NESTED("sprt", SQ_F_SECTION, 0, &sprt, 0, "of error_rate and burn_rate: a sequential test instead of a window"),
    DURATION("for", 0, "10s", 1e9, 900e9, "the window it is taken over, in whole seconds"),
    NUMBER("min_requests", SQ_P_INT, 0, "100", 1, 1e9, "fewer requests in the window than this decide nothing"),
    END,
};
static const struct sq_section abort_when = {"abort_when", "When the rehearsal must end at once.", abort_fields,
                                             sq_finish_abort};

static const struct sq_field safety_fields[] = {
    DURATION("max_duration", 0, "30m", 1e9, DAY_NS, "the whole run may take no longer"),
    DURATION("lease", 0, "10s", 1e9, 3600e9, "faults end by themselves this long after the controller was last heard"),
    NESTED("abort_when", SQ_F_LIST, 0, &abort_when, 20, "conditions that end the run"),
    END,
};
static const struct sq_section safety = {"safety", "What keeps a rehearsal from becoming an incident.", safety_fields,
                                         NULL};

static const struct sq_field prometheus_fields[] = {
    VALUE("url", SQ_P_STRING, 0, NULL, "whom to ask when an SLO file does not say, such as http://127.0.0.1:9090"),
    DURATION("every", 0, "5s", 1e9, 3600e9, "how often SLOs are asked for during the run"),
    END,
};
static const struct sq_section prometheus = {"prometheus", "The Prometheus that indicators of SLOs come from.",
                                             prometheus_fields, sq_finish_prometheus};

static const struct sq_field alerts_fields[] = {
    VALUE("listen", SQ_P_STRING, SQ_REQUIRED, NULL, "address and port, such as 127.0.0.1:9095"),
    END,
};
static const struct sq_section alerts = {
    "alerts", "Where the run receives alerts: the url of a webhook_config of Alertmanager leads here.", alerts_fields,
    sq_finish_alerts};

static const struct sq_field compare_fields[] = {
    VALUE("baseline", SQ_P_STRING, SQ_REQUIRED, NULL,
          "a file of squall baseline, or a folder of runs; relative to the scenario's file"),
    VALUE("candidate", SQ_P_STRING, 0, NULL, "earlier runs of this build; this run is one more of them"),
    VALUE("window", SQ_P_STRING, 0, NULL,
          "steady, load or a step's id (default: the steady state, else all of the load)"),
    END,
};
static const struct sq_section compare = {"compare",
                                          "The runs that the checks regression and trend compare this one with.",
                                          compare_fields, sq_finish_compare};

static const struct sq_field report_fields[] = {
    VALUE("junit", SQ_P_STRING, 0, NULL, "write JUnit XML here; relative to where squall runs"),
    VALUE("markdown", SQ_P_STRING, 0, NULL, "write Markdown here"),
    VALUE("html", SQ_P_STRING, 0, NULL, "write the HTML page here"),
    VALUE("json", SQ_P_STRING, 0, NULL, "write report.json here"),
    END,
};
static const struct sq_section report = {"report", "Copies of the reports, besides those in the run's folder.",
                                         report_fields, NULL};

static const struct sq_field spec_fields[] = {
    VALUE("hypothesis", SQ_P_STRING, 0, NULL, "what you believe will happen, in a sentence"),
    NESTED("services", SQ_F_NAMED, 0, &service, 100, "services to start or to find, by name"),
    NESTED("edges", SQ_F_NAMED, 0, &edge, 100, "calls to intercept, by name"),
    NESTED("load", SQ_F_NAMED, 0, &endpoint, 64, "what the probe sends, by endpoint"),
    NESTED("hosts", SQ_F_NAMED, 0, &host, 16, "hosts that load may be sent from"),
    NESTED("lateness", SQ_F_SECTION, 0, &lateness, 0, "how late the probe itself may be"),
    NESTED("steady_state", SQ_F_SECTION, 0, &steady, 0, "what must hold before the first fault"),
    NESTED("steps", SQ_F_LIST, SQ_REQUIRED, &step, 200, "faults and waits, one after the other"),
    NESTED("verify", SQ_F_LIST, 0, &check, 200, "what must be true"),
    NESTED("safety", SQ_F_SECTION, 0, &safety, 0, "limits"),
    OTHER("slos", SQ_F_TEXTS, 0, 20,
          "files of SLOs and performance budgets, relative to the scenario's: squall explain "
          "slo_file"),
    NESTED("prometheus", SQ_F_SECTION, 0, &prometheus, 0, "where indicators of SLOs come from"),
    NESTED("alerts", SQ_F_SECTION, 0, &alerts, 0, "where alerts are received, for the check alert"),
    NESTED("compare", SQ_F_SECTION, 0, &compare, 0, "other runs to compare with"),
    NESTED("report", SQ_F_SECTION, 0, &report, 0, "where else to write reports"),
    END,
};
static const struct sq_section spec = {"spec", "The rehearsal.", spec_fields, NULL};

static const struct sq_field scenario_fields[] = {
    CHOICE("apiVersion", SQ_REQUIRED, NULL, "squall/v1", "the version of this language"),
    CHOICE("kind", SQ_REQUIRED, NULL, "Scenario", "what the document is"),
    NESTED("metadata", SQ_F_SECTION, SQ_REQUIRED, &metadata, 0, "who it is"),
    OTHER("vars", SQ_F_LATER, 0, 0, "defaults of variables: ${name} in any value; --var name=value sets one"),
    NESTED("spec", SQ_F_SECTION, SQ_REQUIRED, &spec, 0, "the rehearsal"),
    END,
};
const struct sq_section sq_section_scenario = {"scenario", "A gameday scenario, one YAML document.", scenario_fields,
                                               NULL};

const struct sq_section *const *sq_sections(size_t *n)
{
    static const struct sq_section *const all[] = {
        &sq_section_scenario,
        &metadata,
        &spec,
        &service,
        &ready,
        &selector,
        &edge,
        &endpoint,
        &stage,
        &request,
        &tls,
        &expect,
        &mix,
        &session,
        &capture,
        &host,
        &lateness,
        &steady,
        &step,
        &check,
        &abort_when,
        &sprt,
        &safety,
        &sq_section_slo_file,
        &sq_section_objective,
        &sq_section_performance,
        &prometheus,
        &alerts,
        &compare,
        &report,
    };

    *n = SQ_COUNT(all);
    return all;
}

const struct sq_section *sq_section_find(const char *name)
{
    size_t n;
    const struct sq_section *const *all = sq_sections(&n);

    for (size_t i = 0; i < n; i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

char *sq_field_type(const struct sq_field *f, char *buf, size_t len)
{
    const char *what = f->section ? f->section->name : "";

    switch (f->shape) {
    case SQ_F_VALUE:
        (void)snprintf(buf, len, "%s", f->p.type == SQ_P_ENUM ? f->p.values : sq_ptype_name(f->p.type));
        break;
    case SQ_F_TEXTS:
        (void)snprintf(buf, len, "list of strings");
        break;
    case SQ_F_TEXTMAP:
        (void)snprintf(buf, len, "mapping of strings");
        break;
    case SQ_F_SECTION:
        (void)snprintf(buf, len, "mapping: squall explain %s", what);
        break;
    case SQ_F_NAMED:
        (void)snprintf(buf, len, "mapping of names: squall explain %s", what);
        break;
    case SQ_F_LIST:
        (void)snprintf(buf, len, "list: squall explain %s", what);
        break;
    case SQ_F_THRESHOLDS:
        (void)snprintf(buf, len, "list of thresholds");
        break;
    case SQ_F_STATUS:
        (void)snprintf(buf, len, "list of HTTP statuses");
        break;
    case SQ_F_LATER:
        (void)snprintf(buf, len, "see below");
        break;
    }
    return buf;
}
