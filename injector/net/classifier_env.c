/* What the running kernel offers a classifier. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

#include "net/classifier.h"

/* Bytes into STRUCT of MEMBER (of an anonymous member, too); -1: it has none. */
static int offset_in(const struct btf *btf, int32_t type, const char *member, unsigned depth)
{
    const struct btf_type *t = type > 0 ? btf__type_by_id(btf, (uint32_t)type) : NULL;
    const struct btf_member *m = t && (btf_is_struct(t) || btf_is_union(t)) ? btf_members(t) : NULL;

    for (uint32_t i = 0; m && i < btf_vlen(t); i++) {
        const char *name = btf__name_by_offset(btf, m[i].name_off);
        int bits = (int)btf_member_bit_offset(t, i), inner;

        if (name && strcmp(name, member) == 0)
            return bits / 8;
        if (name && *name)
            continue;
        inner = depth < 4 ? offset_in(btf, (int32_t)m[i].type, member, depth + 1) : -1;
        if (inner >= 0)
            return bits / 8 + inner;
    }
    return -1;
}

static int offset_of(const struct btf *btf, const char *type, const char *member)
{
    return offset_in(btf, btf__find_by_name_kind(btf, type, BTF_KIND_STRUCT), member, 0);
}

static void look_at_sockets(struct sq_classify_env *env)
{
    struct btf *btf = btf__load_vmlinux_btf();
    int data, cgroup, level, ancestors, node, id;

    if (libbpf_get_error(btf))
        return;
    data = offset_of(btf, "sock", "sk_cgrp_data");
    cgroup = offset_of(btf, "sock_cgroup_data", "cgroup");
    level = offset_of(btf, "cgroup", "level");
    ancestors = offset_of(btf, "cgroup", "ancestors");
    node = offset_of(btf, "cgroup", "kn");
    id = offset_of(btf, "kernfs_node", "id");
    if (data > 0 && cgroup >= 0 && level >= 0 && ancestors >= 0 && node >= 0 && id >= 0) {
        env->sock_cgroup = (uint32_t)(data + cgroup);
        env->cgroup_level = (uint32_t)level;
        env->cgroup_ancestors = (uint32_t)ancestors;
        env->cgroup_node = (uint32_t)node;
        env->node_id = (uint32_t)id;
    }
    btf__free(btf);
}

void sq_classify_look(struct sq_classify_env *env)
{
    FILE *jit = fopen("/proc/sys/net/core/bpf_jit_enable", "re");
    int on = jit ? getc(jit) : '0';

    if (jit)
        (void)fclose(jit);
    *env = (struct sq_classify_env){0};
    env->callback = on != '0' && on != EOF &&
                    libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_for_each_map_elem, NULL) == 1;
    if (libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_probe_read_kernel, NULL) == 1)
        look_at_sockets(env);
}
