/* libcurl's transfers on a libuv loop (libcurl-multi(3)): the injectors' client and the client of Prometheus and
 * webhooks have it in common. */
#ifndef SQUALL_RUN_MULTI_H
#define SQUALL_RUN_MULTI_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "squall/err.h"

struct sq_multi;

/* The transfer that was added with REQUEST has ended and is removed. May add others, and close the multi. */
typedef void sq_multi_done(void *request, CURLcode code);

/* *OUT is ended with sq_multi_close. */
int sq_multi_new(uv_loop_t *loop, sq_multi_done *done, struct sq_multi **out, struct sq_err *e);

/* EASY stays the caller's. */
int sq_multi_add(struct sq_multi *m, CURL *easy, void *request, struct sq_err *e);
void sq_multi_remove(struct sq_multi *m, CURL *easy);

/* All transfers must have been removed. CLOSED is called from the loop when nothing of it is left. */
void sq_multi_close(struct sq_multi *m, void (*closed)(void *arg), void *arg);

/* What a transfer reads: at most MOST bytes, else it fails with too_big. Zero but for MOST; data is to be freed. */
struct sq_answer {
    char *data;
    size_t len, cap, most;
    bool too_big;
};
void sq_multi_read_into(CURL *easy, struct sq_answer *a);

#endif
