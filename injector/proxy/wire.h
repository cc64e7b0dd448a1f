/* What squalld and its proxy share: the messages on their SOCK_SEQPACKET pair (fd 3 of the proxy), and the memory of
 * the flows. The proxy trusts squalld, squalld does not trust the proxy: it bounds and checks all that comes back.
 *
 * Messages are JSON objects, one a packet, at most SQ_WIRE_MAX bytes; descriptors ride along (SCM_RIGHTS).
 * squalld -> proxy
 *   {"op":"hello","beat_offset":N}                 fds: [beat memfd, bpf flows or memfd, seccomp flows memfd, tallies];
 * an absent one is a memfd of 2 * SQ_FLOWS entries that nobody writes; tallies (count.h; may be left out) are read and
 * written by both sides and the hooks
 *   {"op":"raw"}                                   fds: [AF_PACKET socket (unbound), raw IPv4 socket], and maybe
 * another pair for IPv6: SYN-hold is possible
 *   {"op":"edge","id":N,"name":S,"protocol":"auto|http|tcp|udp|dns"}
 *                                                  fds: [pass4, gate4], [.., pass6] or [.., pass6, gate6], bound,
 * listening: gates drop SYNs by their socket filter unless their TTL (hop limit) is SQ_TTL
 *   {"op":"dgrams","net":N}                        fds: [table of datagram flows]: what SQ_NET_DGRAM (0) or
 *                                                  SQ_NET_DGRAM_SECCOMP (1) stands for
 *   {"op":"dgram","edge":N,"space":N}              fds: [UDP socket, bound], and maybe one on ::1:
 *                                                  what is sent to them is the edge's
 *   {"op":"space","id":N}                          fds: [maker of sockets (maker.h), sock_diag], and as of "raw":
 * another network namespace, where they were made. 0 is the proxy's own, and what an absent "space" means
 *   {"op":"listen","edge":N,"space":N}             fds: as of "edge": more listeners of an edge, made there
 *   {"op":"unspace","id":N}                        it is left when nothing uses it any more
 *   {"op":"caller","id":N,"instance":S}            fds: the BPF links of this caller (held until "uncaller" or the end)
 *   {"op":"unix","edge":N,"caller":N,"dest":N}     fds: [listener]: accepted ones want {"op":"upstream"}; dest says
 *                                                  which of the edge's destinations it stands for
 *   {"op":"nft","edge":N,"caller":N,"tally":N}     fds: [listener4] or [listener4, listener6]: what nftables leads
 * there is the caller's, over that edge; SO_ORIGINAL_DST says where to; tally: index of struct sq_tally, `seen` counts
 * it
 *   {"op":"nat","caller":N,"keep":B}               fds: [netlink socket] or none: it is the owner of the table that
 * leads the caller's connects here, in the place of the one before; closed with "uncaller" or at the end. keep: a pipe
 * instead, to whoever holds the table that keeps NAT: a byte is written, and it is closed, behind the last such
 * connection
 *   {"op":"uncaller","id":N}  {"op":"unedge","id":N}
 *   {"op":"rules","edge":N,"epoch":N,"rules":[{"fault":S,"kind":"latency|error|blackhole","percent":R,"delay":ns,
 *        "jitter":ns,"errno":N,"seed":N,"callers":[ids] or absent,"number":N,"tally":N,"first":N,"every":N,"after":N}]}
 *        replaces all rules of the edge; answered by "ack". number: as in struct sq_flow; tally: index of struct
 * sq_tally Kinds on bytes (bytes.h): timeout, reset, loss, corrupt, limit_data, delay, slicer, bandwidth, slow_close,
 * noop, and on datagrams duplicate, dns; those have "stream":"upstream|downstream|both" (as latency on datagrams),
 * "rate":bytes/s,"size":N,"variation":N,"share":0..1,"correlation":0..1;
 * dns: "answer":S,"address":[S],"names":[S],"types":[S]
 * Kinds on requests of HTTP (head.h): http_status, http_delay, http_abort, http_header, http_body; those have
 * "match":{as in a target},"http":{as in SCENARIO.md: "status","grpc_status","body","headers";
 * "of","set","remove","replace", "truncate","patch"}, and in an ack "acts", "unjudged", "tls"
 * Of a latency: "table":S (may be left out), base64 of 1 to 4,096 numbers of 16 bits (jitter.h) that its jitter is
 * drawn from; an ack has "table_sum" instead, by which tables are told apart
 *   {"op":"ask","edge":N}                          answered by "ack": rules on bytes say "acts" and "acted" (bytes)
 *   {"op":"plain","id":N,"host":S,"port":N}        fds: [listener]: a proxy with one upstream, none of whose calls are
 *                                                  reported; "rules" and "ask" take its id. Answered by "ack"
 *   {"op":"unplain","id":N}                        ends it and all its connections. Answered by "ack"
 *   {"op":"listener","key":N,"seen":N}             fds: [seccomp listener] or [.., its door (squall/door.h)]: answered
 * with CONTINUE once squalld is dead; "seen", and "held" of "hello": where in the page of the heartbeat squalld notes
 * what it received (page.h)
 *   {"op":"upstream","req":N,"error":N}            fds: [connected socket] unless error (a positive errno)
 *   {"op":"quit"}                                  drain and leave
 * proxy -> squalld
 *   {"op":"ack","edge":N,"epoch":N,"rules":[as in force],"error":S or absent}
 *        of a plain proxy also "read":[up,down],"sent":[up,down] (bytes)
 *   {"op":"upstream","req":N,"edge":N,"caller":N,"dest":N}
 *   {"op":"lost","space":N}                        its maker is gone, or does not answer; or a
 *        "listen" or "dgram" there could not be done
 *   {"op":"calls","calls":[[start_ns,caller,edge,kind,outcome,status,dur_ns,held_ns,"fault or empty","trace or empty",
 *        answer_ns],...]}       at least every 100 ms when there are any; start is CLOCK_MONOTONIC,
 *        dur, held and answer are counted from it (answer 0: never)
 *   {"op":"stats","open":N,"bytes_up":N,"bytes_down":N,"rss":N,"lost":N,"stray":N,"dropped":N}   every second; lost:
 * calls that could not be reported; stray: accepted connections and datagrams of no known flow; dropped: datagrams that
 *        could not be passed on
 * The end of the socket means that squalld is dead or done: close the links (new calls go direct), pass everything
 * through without faults (bytes already held keep their due time), answer listeners with CONTINUE, leave when idle.
 * Plain proxies end at once, with their connections. */
#ifndef SQUALL_PROXY_WIRE_H
#define SQUALL_PROXY_WIRE_H

#include <stdint.h>

#define SQ_WIRE_MAX (64 * 1024)
#define SQ_WIRE_FDS 16
#define SQ_TTL 77 /* of a held SYN that is let through */

/* A redirected connect goes to 127.1.hi.lo (BPF) or 127.2.hi.lo (seccomp), where hi.lo is the flow's index: the proxy
 * learns the original destination from getsockname() of what it accepted, and from this table. */
#define SQ_FLOWS 65536u
#define SQ_NET_BPF 0x7f010000u
#define SQ_NET_SECCOMP 0x7f020000u
#define SQ_NET_DGRAM 0x7f030000u /* datagrams (BPF): hi.lo is a destination of a caller, in a table of its own */
#define SQ_NET_DGRAM_SECCOMP 0x7f040000u /* the same, by seccomp */

/* What an unconnected socket sends to an IPv6 address goes to [::1], where there is no room for the number: it comes
 * from 100::7371:7561:7f03:hi.lo instead, and the answer too (of the discard-only prefix, RFC 6666: should such a
 * packet ever leave lo, nobody gets it). */
#define SQ_DGRAM6_0 0x01000000u
#define SQ_DGRAM6_1 0u
#define SQ_DGRAM6_2 0x73717561u

#define SQ_FLOW_RULES 4

/* A socket that can't reach those (IPv6 only, or bound to an IPv6 address) goes to [::1], where there is no room for an
 * index: its flow is the entry SQ_FLOWS + (cookie of the socket) % SQ_FLOWS, and the proxy asks sock_diag(7) for the
 * cookie of the other end. */
#define SQ_FLOW_OF(cookie) (SQ_FLOWS + (uint32_t)((cookie) & (SQ_FLOWS - 1)))

struct sq_flow {
    uint64_t t_ns; /* CLOCK_MONOTONIC of the connect */
    uint32_t caller;
    uint32_t edge;
    uint16_t port;    /* network byte order */
    uint8_t family;   /* AF_INET, AF_INET6; 0: never written */
    uint8_t hits;     /* bit i: rule[i] hit this connect */
    uint8_t addr[16]; /* network byte order; IPv4 in the first four */
    union {
        uint32_t rule[SQ_FLOW_RULES]; /* numbers of the rules that were drawn for this connect; 0: none */
        uint8_t src[16]; /* of datagrams to [::1]: the IPv6 address that the caller's socket is bound to, or :: */
    };
    uint16_t via; /* of datagrams: the proxy's port that they are sent to, network byte order */
    uint8_t pad[2];
    uint64_t cookie; /* of the socket (SO_COOKIE), in the half that is found by it */
};
_Static_assert(sizeof(struct sq_flow) == 64, "shared with BPF and between processes");

enum sq_call_kind {
    SQ_CALL_REQUEST = 0,
    SQ_CALL_CONNECT = 1,
    SQ_CALL_CONN = 2
}; /* CONN: one whole non-HTTP connection */
enum sq_call_outcome {
    SQ_OUT_ANSWERED = 0, /* the answer reached the caller completely */
    SQ_OUT_FAILED = 1,   /* the fault failed it: errno, or reset by us */
    SQ_OUT_GAVE_UP = 2,  /* the caller closed before the answer was complete */
    SQ_OUT_REFUSED = 3,  /* the real dependency could not be reached */
    SQ_OUT_BROKEN = 4,   /* the real dependency closed before the answer was complete */
    SQ_OUT_OPEN = 5,     /* still open when counting ended */
    SQ_OUT_NONE = 6,     /* a datagram that no answer came to */
};

#endif
