/* For cppcheck, which does not read system headers: the macros that look like syntax of their own. */
#define json_array_foreach(array, index, value)                                                                        \
    for (index = 0; index < json_array_size(array) && (value = json_array_get(array, index)); index++)
#define json_object_foreach(object, key, value)                                                                        \
    for (key = json_object_iter_key(object); key && (value = json_object_get(object, key)); key = json_object_next(key))
#define STAILQ_HEAD(name, type)                                                                                        \
    struct name {                                                                                                      \
        struct type *stqh_first, **stqh_last;                                                                          \
    }
#define STAILQ_ENTRY(type)                                                                                             \
    struct {                                                                                                           \
        struct type *stqe_next;                                                                                        \
    }
#define STAILQ_FOREACH(v, head, field) for (v = (head)->stqh_first; v; v = v->field.stqe_next)
#define STAILQ_FIRST(head) ((head)->stqh_first)
#define TAILQ_HEAD(name, type)                                                                                         \
    struct name {                                                                                                      \
        struct type *tqh_first, **tqh_last;                                                                            \
    }
#define TAILQ_ENTRY(type)                                                                                              \
    struct {                                                                                                           \
        struct type *tqe_next, **tqe_prev;                                                                             \
    }
#define TAILQ_FOREACH(v, head, field) for (v = (head)->tqh_first; v; v = v->field.tqe_next)
#define TAILQ_FIRST(head) ((head)->tqh_first)
#define TAILQ_NEXT(v, field) ((v)->field.tqe_next)
#define TAILQ_EMPTY(head) ((head)->tqh_first == NULL)
#define LIST_HEAD(name, type)                                                                                          \
    struct name {                                                                                                      \
        struct type *lh_first;                                                                                         \
    }
#define LIST_ENTRY(type)                                                                                               \
    struct {                                                                                                           \
        struct type *le_next, **le_prev;                                                                               \
    }
#define LIST_FOREACH(v, head, field) for (v = (head)->lh_first; v; v = v->field.le_next)
#define LIST_FIRST(head) ((head)->lh_first)
#define LIBBPF_OPTS(type, name, ...) struct type name = {__VA_ARGS__}
