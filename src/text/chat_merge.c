/* From the messages of a request to the turns of the format: tool messages become blocks of user turns, results are
 * put into the order of their calls, and reasoning of earlier turns is dropped. */
#include "base/mutant.h"
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

bool json_is_truthy(const json_t *v)
{
    if (v == NULL)
        return false;
    switch (json_typeof(v)) {
    case JSON_OBJECT: return json_object_size(v) != 0;
    case JSON_ARRAY: return json_array_size(v) != 0;
    case JSON_STRING: return json_string_length(v) != 0;
    case JSON_INTEGER: return json_integer_value(v) != 0;
    case JSON_REAL: return json_real_value(v) != 0.0;
    case JSON_TRUE: return true;
    case JSON_FALSE:
    case JSON_NULL: return false;
    }
    return false;
}

static const json_t *get_given(const json_t *msg, const char *field)
{
    const json_t *v = json_object_get(msg, field);
    return json_is_null(v) ? NULL : v;
}

static enum turn_role role_of(const char *name)
{
    static const char *const names[] = {"system", "developer", "user", "latest_reminder", "assistant"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0)
            return (enum turn_role)i;
    return TURN_OTHER;
}

static int read_task(struct turn *t, struct err *e)
{
    static const char *const names[] = {"action", "query", "authority", "domain", "title", "read_url"};
    const json_t *task = get_given(t->msg, "task");
    if (task == NULL)
        return HD_OK;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (json_is_string(task) && strcmp(json_string_value(task), names[i]) == 0)
            t->task = names[i];
    if (t->task == NULL)
        return err_set(e, HD_EARG, "messages[%zu].task: must be one of action, query, authority, domain, title, read_url",
                       t->i_msg);
    return HD_OK;
}

/* Tools or a response format of one message; what Python holds for false counts as absent. */
static int read_extras(struct turn *t, struct err *e)
{
    const json_t *tools = json_object_get(t->msg, "tools"), *format = json_object_get(t->msg, "response_format");
    if (json_is_truthy(tools))
        t->tools = tools;
    if (json_is_truthy(format))
        t->response_format = format;
    if (t->tools != NULL && !json_is_array(tools))
        return err_set(e, HD_EARG, "messages[%zu].tools: must be an array", t->i_msg);
    if (t->response_format != NULL && !json_is_object(format))
        return err_set(e, HD_EARG, "messages[%zu].response_format: must be an object", t->i_msg);
    if (json_depth_over(t->tools, JSON_DEPTH_MAX) || json_depth_over(t->response_format, JSON_DEPTH_MAX))
        return err_set(e, HD_EARG, "messages[%zu]: tools or response_format nested too deeply", t->i_msg);
    return HD_OK;
}

static struct turn *add_turn(struct conversation *c, enum turn_role role, size_t i_msg, const json_t *msg)
{
    struct turn *t = &c->turns[c->n_turns++];
    *t = (struct turn){.role = role, .i_msg = i_msg, .msg = msg, .i_block = c->n_blocks};
    return t;
}

/* Blocks of a turn lie together because only the last turn ever grows. */
static void add_block(struct conversation *c, struct block b)
{
    c->blocks[c->n_blocks++] = b;
    c->turns[c->n_turns - 1].n_blocks++;
}

static int merge_user(struct conversation *c, size_t i, const json_t *msg, struct err *e)
{
    struct turn *last = c->n_turns != 0 ? &c->turns[c->n_turns - 1] : NULL;
    if (last == NULL || last->role != TURN_USER || last->task != NULL) {
        /* tools and response_format of a user message have no place in the format */
        int rc = read_task(add_turn(c, TURN_USER, i, msg), e);
        if (rc != HD_OK)
            return rc;
    }
    add_block(c, (struct block){.content = json_object_get(msg, "content"), .i_msg = i});
    return HD_OK;
}

static int merge_tool(struct conversation *c, size_t i, const json_t *msg, struct err *e)
{
    const json_t *id = get_given(msg, "tool_call_id");
    if (id != NULL && !json_is_string(id))
        return err_set(e, HD_EARG, "messages[%zu].tool_call_id: must be a string", i);
    if (c->n_turns == 0 || c->turns[c->n_turns - 1].role != TURN_USER)
        add_turn(c, TURN_USER, i, NULL);
    add_block(c, (struct block){.content = json_object_get(msg, "content"), .i_msg = i, .is_result = true});
    return HD_OK;
}

static int merge_message(struct conversation *c, size_t i, const json_t *msg, struct err *e)
{
    if (!json_is_object(msg))
        return err_set(e, HD_EARG, "messages[%zu]: must be an object", i);
    const char *role = json_string_value(json_object_get(msg, "role"));
    if (role == NULL)
        return err_set(e, HD_EARG, "messages[%zu].role: must be a string", i);
    if (strcmp(role, "tool") == 0)
        return merge_tool(c, i, msg, e);
    if (strcmp(role, "user") == 0)
        return merge_user(c, i, msg, e);
    struct turn *t = add_turn(c, role_of(role), i, msg);
    int rc = read_task(t, e);
    return rc != HD_OK ? rc : read_extras(t, e);
}

/* ---------------------------------------------------------------- order of tool results */

static const char *call_id(const json_t *call)
{
    const json_t *id = json_object_get(call, "id");
    if (!json_is_truthy(id))
        id = json_object_get(json_object_get(call, "function"), "id");
    return json_is_string(id) ? json_string_value(id) : "";
}

/* id -> place of the assistant's calls; NULL keeps what an earlier assistant said. */
static json_t *call_order(const struct turn *t)
{
    const json_t *calls = t->role == TURN_ASSISTANT ? json_object_get(t->msg, "tool_calls") : NULL;
    if (!json_is_array(calls) || json_array_size(calls) == 0)
        return NULL;
    json_t *order = json_object();
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const char *id = call_id(json_array_get(calls, i));
        if (id[0] != '\0')
            json_object_set_new_nocheck(order, id, json_integer((json_int_t)i));
    }
    return order;
}

static int compare_rank(const void *a, const void *b)
{
    const struct block *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->i_msg < y->i_msg ? -1 : x->i_msg > y->i_msg; /* equal ranks stay in their order */
}

/* Sorts the results of a user turn among the places that results have; texts stay where they are. */
static void sort_results(struct conversation *c, const struct turn *t, const json_t *order, const json_t *messages)
{
    struct block *blocks = c->blocks + t->i_block;
    struct block *results = xcalloc(t->n_blocks, sizeof *results);
    size_t n = 0;
    for (size_t i = 0; i < t->n_blocks; i++) {
        if (!blocks[i].is_result)
            continue;
        const char *id = json_string_value(json_object_get(json_array_get(messages, blocks[i].i_msg), "tool_call_id"));
        blocks[i].rank = (size_t)json_integer_value(json_object_get(order, id != NULL ? id : ""));
        results[n++] = blocks[i];
    }
    qsort(results, n, sizeof *results, compare_rank);
    for (size_t i = 0, k = 0; i < t->n_blocks; i++)
        if (blocks[i].is_result)
            blocks[i] = results[k++];
    free(results);
}

static void sort_all_results(struct conversation *c, const json_t *messages)
{
    json_t *order = NULL;
    for (size_t i = 0; i < c->n_turns; i++) {
        json_t *next = call_order(&c->turns[i]);
        if (next != NULL) {
            json_decref(order);
            order = next;
        }
        if (c->turns[i].role == TURN_USER && c->turns[i].n_blocks > 1 && order != NULL && !MUTANT(25))
            sort_results(c, &c->turns[i], order, messages);
    }
    json_decref(order);
}

/* ---------------------------------------------------------------- what is left out */

static void find_last_user(struct conversation *c)
{
    c->i_last_user = -1;
    for (size_t i = 0; i < c->n_turns; i++)
        if (c->turns[i].role == TURN_USER || c->turns[i].role == TURN_DEVELOPER)
            c->i_last_user = (ptrdiff_t)i;
}

/* Developer messages and unknown roles before the last user turn go; the assistants' reasoning there goes when they are
 * written. */
static void drop_thinking(struct conversation *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_turns; i++) {
        enum turn_role role = c->turns[i].role;
        if ((ptrdiff_t)i >= c->i_last_user || (role != TURN_DEVELOPER && role != TURN_OTHER))
            c->turns[n++] = c->turns[i];
    }
    c->n_turns = n;
    find_last_user(c);
}

/* Tools and response format of the request belong to the first message if that is a system message, otherwise to an
 * empty one before it. */
static int place_extras(struct conversation *c, const json_t *tools, const json_t *format, struct err *e)
{
    if (json_is_truthy(tools) && !json_is_array(tools))
        return err_set(e, HD_EARG, "tools: must be an array");
    if (json_is_truthy(format) && !json_is_object(format))
        return err_set(e, HD_EARG, "response_format: must be an object");
    if (json_depth_over(tools, JSON_DEPTH_MAX) || json_depth_over(format, JSON_DEPTH_MAX))
        return err_set(e, HD_EARG, "tools or response_format: nested too deeply");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!json_is_truthy(format) || (type != NULL && strcmp(type, "text") == 0))
        format = NULL; /* plain text is what the model does without being told */
    if (!json_is_truthy(tools))
        tools = NULL;
    if (tools == NULL && format == NULL)
        return HD_OK;
    if (c->n_turns == 0 || c->turns[0].role != TURN_SYSTEM) {
        memmove(c->turns + 1, c->turns, c->n_turns * sizeof *c->turns);
        c->turns[0] = (struct turn){.role = TURN_SYSTEM};
        c->n_turns++;
    }
    if (tools != NULL)
        c->turns[0].tools = tools;
    if (format != NULL)
        c->turns[0].response_format = format;
    return HD_OK;
}

int conversation_init(struct conversation *c, const json_t *messages, const json_t *tools,
                      const json_t *response_format, const struct chat_options *o, struct err *e)
{
    *c = (struct conversation){0};
    if (!json_is_array(messages))
        return err_set(e, HD_EARG, "messages: must be an array");
    size_t n = json_array_size(messages);
    c->turns = xcalloc(n + 1, sizeof *c->turns);
    c->blocks = xcalloc(n, sizeof *c->blocks);
    int rc = HD_OK;
    for (size_t i = 0; i < n && rc == HD_OK; i++)
        rc = merge_message(c, i, json_array_get(messages, i), e);
    if (rc == HD_OK)
        rc = place_extras(c, tools, response_format, e);
    if (rc != HD_OK) {
        conversation_free(c);
        return rc;
    }
    sort_all_results(c, messages);
    bool has_tools = false;
    for (size_t i = 0; i < c->n_turns; i++)
        has_tools |= c->turns[i].tools != NULL;
    c->drops_thinking = !o->keep_thinking && !has_tools;
    find_last_user(c);
    if (o->thinking && c->drops_thinking)
        drop_thinking(c);
    return HD_OK;
}

void conversation_free(struct conversation *c)
{
    free(c->turns);
    free(c->blocks);
    *c = (struct conversation){0};
}
