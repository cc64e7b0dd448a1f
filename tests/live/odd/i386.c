/* A 32-bit program without a C library, so that building it needs no 32-bit one: gcc -m32 -nostdlib -static. It
 * connects to 127.0.0.1:PORT (argv[1]) by connect(2), by socketcall(2), or by one of them with MSG_FASTOPEN (argv[2], a
 * letter), and asks. Exit status: 0 the answer came, else the errno. */
typedef unsigned int u32;

#define FASTOPEN 0x20000000u
#define EINPROGRESS 115
#define EOPNOTSUPP 95

long sys(u32 nr, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f);
__asm__("sys: push %ebx; push %esi; push %edi; push %ebp; mov 20(%esp), %eax; mov 24(%esp), %ebx; mov 28(%esp), %ecx;"
        "mov 32(%esp), %edx; mov 36(%esp), %esi; mov 40(%esp), %edi; mov 44(%esp), %ebp; int $0x80;"
        "pop %ebp; pop %edi; pop %esi; pop %ebx; ret");

static long socketcall(u32 call, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f)
{
    u32 args[6] = {a, b, c, d, e, f};
    return sys(102, call, (u32)args, 0, 0, 0, 0);
}

static const char ask[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

static long fast(char how, u32 fd, u32 to)
{
    u32 iov[2] = {(u32)ask, sizeof ask - 1}, m[8] = {to, 16, (u32)iov, 1, 0, 0, 0, 0};
    switch (how) {
    case 't':
        return sys(369, fd, (u32)ask, sizeof ask - 1, FASTOPEN, to, 16);
    case 'm':
        return sys(370, fd, (u32)m, FASTOPEN, 0, 0, 0);
    case 'n':
        return sys(345, fd, (u32)m, 1, FASTOPEN, 0, 0);
    case 'T':
        return socketcall(11, fd, (u32)ask, sizeof ask - 1, FASTOPEN, to, 16);
    case 'M':
        return socketcall(16, fd, (u32)m, FASTOPEN, 0, 0, 0);
    default:
        return socketcall(20, fd, (u32)m, 1, FASTOPEN, 0, 0);
    }
}

/* Blocking, so what we cannot send with the SYN is EOPNOTSUPP, and connect(2) is next. */
static long begin(char how, u32 fd, u32 to, u32 *sent)
{
    long rc = -EOPNOTSUPP;
    if (how != 'c' && how != 'C')
        rc = fast(how, fd, to);
    if (rc == -EOPNOTSUPP)
        return how == 'C' ? socketcall(3, fd, to, 16, 0, 0, 0) : sys(362, fd, to, 16, 0, 0, 0);
    *sent = rc > 0;
    return rc < 0 ? rc : 0;
}

static long run(u32 port, char how)
{
    u32 to[4] = {2 | ((port & 0xff) << 24) | ((port >> 8) << 16), 0x0100007f, 0, 0}, sent = 0, n = 0;
    static char buf[4096];
    long fd = sys(359, 2, 1, 0, 0, 0, 0), rc = begin(how, (u32)fd, (u32)to, &sent), k;
    if (rc == 0 && !sent)
        rc = sys(4, (u32)fd, (u32)ask, sizeof ask - 1, 0, 0, 0);
    if (rc < 0)
        return -rc;
    while (n < sizeof buf && (k = sys(3, (u32)fd, (u32)buf + n, sizeof buf - n, 0, 0, 0)) > 0)
        n += (u32)k;
    return n >= 4 && buf[n - 4] == 'r' && buf[n - 1] == 'l' ? 0 : 71; /* EPROTO */
}

void begin_here(u32 *stack) __attribute__((noreturn, used));
void begin_here(u32 *stack)
{
    u32 port = 0;
    for (const char *p = (const char *)stack[2]; *p; p++)
        port = port * 10 + (u32)(*p - '0');
    (void)sys(1, (u32)run(port, *(const char *)stack[3]), 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

__asm__(".globl _start\n_start: mov %esp, %eax; push %eax; call begin_here");
