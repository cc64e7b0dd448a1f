/* Answers of HTTP/2 that a fault gives in place of the dependency. What they say stays with the rule until it is
 * written: a thousand that wait take no thousand bodies. */
#include <stdio.h>
#include <string.h>

#include "proxy/h2_priv.h"
#include "squall/json.h"

void sq_h2_prepare(struct stream *s, const struct sq_rule *rule, const struct sq_head *head)
{
    json_t *code = json_object_get(rule->http, "grpc_status");
    s->grpc = sq_head_is_grpc(head) && json_is_integer(code);
    int status = s->grpc ? 200 : (int)sq_json_int_or(rule->http, "status", 503);
    s->bare =
        s->grpc || status == 204 || status == 304 || s->call.no_body || *sq_json_str_or(rule->http, "body", "") == '\0';
    s->answer = json_incref(rule->http);
    s->call.status = (uint16_t)status;
    if (!s->grpc)
        return;
    s->call.cut = json_integer_value(code) != 0;
    s->call.ready = true; /* a stream of messages may have no end */
}

void sq_h2_own_head(struct sq_out *o, const struct stream *s, const json_t *says)
{
    struct sq_out block = {0};
    const char *body = sq_json_str_or(says, "body", ""), *name;
    int status = s->call.status;
    json_t *v;
    char text[32];
    sq_h2_begin_block(&block);
    (void)snprintf(text, sizeof(text), "%d", status);
    sq_h2_field(&block, ":status", text);
    json_object_foreach(json_object_get(says, "headers"), name, v) sq_h2_field(&block, name, json_string_value(v));
    if (s->grpc) {
        (void)snprintf(text, sizeof(text), "%d", (int)sq_json_int_or(says, "grpc_status", 0));
        sq_h2_field(&block, "content-type", "application/grpc");
        sq_h2_field(&block, "grpc-status", text);
        sq_h2_percent_encoded(&block, "grpc-message", body);
    } else if (status != 204 && status != 304) {
        (void)snprintf(text, sizeof(text), "%zu", strlen(body));
        sq_h2_field(&block, "content-length", text);
    }
    sq_h2_block_frames(o, HEADERS, s->bare ? END_STREAM : 0, s->id, NULL, &block);
    sq_out_free(&block);
}

/* Its turn, at once: streams wait for nobody. */
static void give(struct sq_h2 *h, struct stream *s)
{
    json_t *says = s->answer;
    s->answer = NULL;
    sq_h2_start_delay(h, s);
    sq_h2_say_head(h, s, says);
    if (!s->bare)
        sq_h2_say_text(h, TO_CALLER, s, json_object_get(says, "body"), true, false);
    json_decref(says);
    s->done[TO_CALLER] = true;
    (void)sq_h2_run(h, TO_CALLER, s);
    sq_h2_maybe_over(h, s);
}

void sq_h2_dropped_goes_on(struct sq_h2 *h, struct stream *s)
{
    if (s->call.fate == SQ_FATE_RESET) {
        sq_h2_reset_stream(h, TO_CALLER, s->id, INTERNAL_ERROR);
        sq_h2_tell(h, s, SQ_OUT_FAILED);
        sq_h2_drop(h, s);
    } else if (s->answer && (s->call.ready || s->done[TO_DEP])) {
        give(h, s);
    } else if (s->done[TO_CALLER]) {
        sq_h2_maybe_over(h, s);
    } else if (s->told) { /* its edge was dropped meanwhile: nobody answers it */
        sq_h2_reset_stream(h, TO_CALLER, s->id, INTERNAL_ERROR);
        sq_h2_drop(h, s);
    }
}
