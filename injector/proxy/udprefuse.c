/* Nobody answers a datagram's port: what the caller's kernel would have told it. */
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "proxy/px.h"

/* RFC 1071, over an even number of bytes */
static uint16_t checksum(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i += 2)
        sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

void px_udp_refuse(const struct px_space *space, const struct sockaddr_in *peer, struct in_addr local, uint16_t port)
{
    struct {
        struct iphdr outer;
        struct icmphdr icmp;
        struct iphdr inner;
        struct udphdr udp;
    } m = {0};
    _Static_assert(sizeof(m) == 56, "no padding");
    int raw = px_hold_raw(space, PX_IPV4);
    if (raw < 0)
        return;
    m.outer.version = m.inner.version = 4;
    m.outer.ihl = m.inner.ihl = 5;
    m.outer.ttl = m.inner.ttl = 64;
    m.outer.protocol = IPPROTO_ICMP;
    m.outer.tot_len = htons(sizeof(m));
    m.outer.saddr = m.inner.daddr = local.s_addr;
    m.outer.daddr = m.inner.saddr = peer->sin_addr.s_addr;
    m.inner.protocol = IPPROTO_UDP;
    m.inner.tot_len = htons(sizeof(m.inner) + sizeof(m.udp));
    m.udp.source = peer->sin_port;
    m.udp.dest = port;
    m.udp.len = htons(sizeof(m.udp));
    m.icmp.type = ICMP_DEST_UNREACH;
    m.icmp.code = ICMP_PORT_UNREACH;
    m.inner.check = checksum((const uint8_t *)&m.inner, sizeof(m.inner));
    m.icmp.checksum = checksum((const uint8_t *)&m.icmp, sizeof(m) - sizeof(m.outer));
    (void)sendto(raw, &m, sizeof(m), MSG_DONTWAIT, (const struct sockaddr *)peer, sizeof(*peer));
}
