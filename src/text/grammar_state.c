/* States: sets of places, numbered; what a byte does to each is computed when it is first asked for. */
#include "text/grammar_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_MAX = 8192, LEARNED_BYTES_MAX = 16 << 20, CLOSURE_MAX = 1 << 14 };

/* ---------------------------------------------------------------- hash tables */

static void index_put(struct index *x, uint64_t hash, int32_t number)
{
    size_t at = (size_t)hash & x->mask;
    while (x->slots[at] != 0)
        at = (at + 1) & x->mask;
    x->slots[at] = number + 1;
}

/* Room for one more; true when the caller must put everything again. */
static bool index_grow(struct index *x)
{
    if (x->slots != NULL && 2 * ++x->n <= x->mask)
        return false;
    x->mask = x->slots == NULL ? 255 : 2 * x->mask + 1;
    free(x->slots);
    x->slots = xcalloc(x->mask + 1, sizeof *x->slots);
    return true;
}

static uint64_t hash_frame(const struct frame *f)
{
    return mix64((uint64_t)(uint32_t)f->node << 32 | (uint32_t)f->parent);
}

/* The stack `parent` with a return to node on it. */
static int32_t frame_push(struct grammar *g, int32_t node, int32_t parent)
{
    struct frame f = {.node = node, .parent = parent, .depth = g->frames[parent].depth + 1};
    uint64_t h = hash_frame(&f);
    struct index *x = &g->frame_index;
    for (size_t at = (size_t)h & x->mask; x->slots != NULL && x->slots[at] != 0; at = (at + 1) & x->mask) {
        int32_t i = x->slots[at] - 1;
        if (g->frames[i].node == node && g->frames[i].parent == parent)
            return i;
    }
    if (g->n_frames == g->cap_frames) {
        g->cap_frames = 2 * g->cap_frames;
        g->frames = xrealloc(g->frames, (size_t)g->cap_frames * sizeof *g->frames);
    }
    g->frames[g->n_frames] = f;
    if (index_grow(x))
        for (int32_t i = 1; i < g->n_frames; i++)
            index_put(x, hash_frame(&g->frames[i]), i);
    index_put(x, h, g->n_frames);
    return g->n_frames++;
}

/* ---------------------------------------------------------------- closure */

static bool is_there(const struct grammar *g, struct place p)
{
    for (int32_t i = 0; i < g->n_work; i++)
        if (g->work[i].node == p.node && g->work[i].frame == p.frame)
            return true;
    return false;
}

/* A place that can be finished within the limit joins the set, once. */
static void closure_add(struct grammar *g, int32_t node, int32_t frame)
{
    struct place p = {node, frame};
    if (g->nodes[node].need == NEED_NEVER || g->nodes[node].need + g->frames[frame].depth > STACK_MAX)
        return;
    if (is_there(g, p) || g->n_work == CLOSURE_MAX)
        return;
    if (g->n_work == g->cap_work) {
        g->cap_work = g->cap_work == 0 ? 64 : 2 * g->cap_work;
        g->work = xrealloc(g->work, (size_t)g->cap_work * sizeof *g->work);
    }
    g->work[g->n_work++] = p;
}

/* Follows everything that takes no byte. */
static void closure_finish(struct grammar *g)
{
    for (int32_t i = 0; i < g->n_work; i++) {
        struct place p = g->work[i];
        const struct node *n = &g->nodes[p.node];
        if (n->kind == NODE_EITHER) {
            closure_add(g, n->next, p.frame);
            closure_add(g, n->arg, p.frame);
        } else if (n->kind == NODE_CALL) {
            closure_add(g, n->arg, frame_push(g, n->next, p.frame));
        } else if (n->kind == NODE_RETURN && p.frame != 0) {
            closure_add(g, g->frames[p.frame].node, g->frames[p.frame].parent);
        }
    }
}

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->node != y->node ? (x->node > y->node) - (x->node < y->node) : (x->frame > y->frame) - (x->frame < y->frame);
}

static uint64_t hash_places(const struct place *p, int32_t n)
{
    uint64_t h = (uint64_t)n;
    for (int32_t i = 0; i < n; i++)
        h = mix64(h ^ ((uint64_t)(uint32_t)p[i].node << 32 | (uint32_t)p[i].frame));
    return h;
}

static int32_t state_find(const struct grammar *g, uint64_t hash, int32_t n)
{
    const struct index *x = &g->state_index;
    for (size_t at = (size_t)hash & x->mask; x->slots != NULL && x->slots[at] != 0; at = (at + 1) & x->mask) {
        const struct state *s = &g->states[x->slots[at] - 1];
        if (s->n == n && memcmp(&g->places[s->first], g->work, (size_t)n * sizeof *g->work) == 0)
            return x->slots[at] - 1;
    }
    return -1;
}

static void states_index_again(struct grammar *g)
{
    for (int32_t i = 1; i < g->n_states; i++)
        index_put(&g->state_index, hash_places(&g->places[g->states[i].first], g->states[i].n), i);
}

static int32_t state_add(struct grammar *g, uint64_t hash, int32_t n)
{
    if (g->n_states == g->cap_states) {
        g->cap_states = 2 * g->cap_states;
        g->states = xrealloc(g->states, (size_t)g->cap_states * sizeof *g->states);
    }
    if (g->n_places + (size_t)n > g->cap_places) {
        g->cap_places = 2 * (g->n_places + (size_t)n);
        g->places = xrealloc(g->places, g->cap_places * sizeof *g->places);
    }
    memcpy(g->places + g->n_places, g->work, (size_t)n * sizeof *g->work);
    g->states[g->n_states] = (struct state){.first = g->n_places, .n = n, .mask = -1};
    g->n_places += (size_t)n;
    if (index_grow(&g->state_index))
        states_index_again(g);
    index_put(&g->state_index, hash, g->n_states);
    return g->n_states++;
}

/* The state of the places in work and all that follow without a byte; only those that wait for something, and the
 * end. */
static int32_t closure_state(struct grammar *g)
{
    int32_t n = 0;
    closure_finish(g);
    for (int32_t i = 0; i < g->n_work; i++) {
        const struct node *node = &g->nodes[g->work[i].node];
        bool waits = node->kind == NODE_BYTES || node->kind == NODE_TOKEN;
        if (waits || (node->kind == NODE_RETURN && g->work[i].frame == 0))
            g->work[n++] = g->work[i];
    }
    g->n_work = 0;
    if (n == 0)
        return 0;
    qsort(g->work, (size_t)n, sizeof *g->work, compare_places);
    uint64_t hash = hash_places(g->work, n);
    int32_t found = state_find(g, hash, n);
    return found >= 0 ? found : state_add(g, hash, n);
}

/* ---------------------------------------------------------------- steps */

static void tables_open(struct grammar *g)
{
    g->cap_frames = 64;
    g->frames = xcalloc((size_t)g->cap_frames, sizeof *g->frames);
    g->n_frames = 1;
    g->cap_states = 64;
    g->states = xcalloc((size_t)g->cap_states, sizeof *g->states);
    g->states[0].mask = -1;
    g->n_states = 1;
}

void states_forget(struct grammar *g)
{
    for (int32_t i = 0; i < g->n_states; i++)
        free(g->states[i].next);
    for (int32_t i = 0; i < g->n_masks; i++)
        free(g->masks[i]);
    free(g->frames);
    free(g->states);
    free(g->places);
    free(g->frame_index.slots);
    free(g->state_index.slots);
    g->frames = NULL;
    g->states = NULL;
    g->places = NULL;
    g->frame_index = g->state_index = (struct index){0};
    g->n_frames = g->n_states = g->n_masks = 0;
    g->n_places = g->cap_places = g->bytes = 0;
    g->epoch++;
}

void states_trim(struct grammar *g)
{
    if (g->n_states > STATES_MAX || g->bytes > LEARNED_BYTES_MAX)
        states_forget(g);
}

int32_t state_start(struct grammar *g)
{
    if (g->states == NULL)
        tables_open(g);
    closure_add(g, g->start, 0);
    return closure_state(g);
}

int32_t state_after_byte(struct grammar *g, int32_t state, unsigned char byte)
{
    if (state == 0)
        return 0;
    if (g->states[state].next == NULL) {
        g->states[state].next = xcalloc(256, sizeof(int32_t));
        memset(g->states[state].next, 0xFF, 256 * sizeof(int32_t));
        g->bytes += 256 * sizeof(int32_t);
    }
    int32_t known = g->states[state].next[byte];
    if (known >= 0)
        return known;
    for (int32_t i = 0; i < g->states[state].n; i++) {
        struct place p = g->places[g->states[state].first + (size_t)i];
        const struct node *n = &g->nodes[p.node];
        if (n->kind == NODE_BYTES && set_has(&g->sets[n->arg], byte))
            closure_add(g, n->next, p.frame);
    }
    int32_t to = closure_state(g);
    g->states[state].next[byte] = to;
    return to;
}

int32_t state_after_token(struct grammar *g, int32_t state, int32_t token)
{
    for (int32_t i = 0; i < g->states[state].n; i++) {
        struct place p = g->places[g->states[state].first + (size_t)i];
        const struct node *n = &g->nodes[p.node];
        if (n->kind == NODE_TOKEN && n->arg == token)
            closure_add(g, n->next, p.frame);
    }
    return closure_state(g);
}

bool state_may_end(const struct grammar *g, int32_t state)
{
    for (int32_t i = 0; i < g->states[state].n; i++)
        if (g->places[g->states[state].first + (size_t)i].node == AT_RETURN)
            return true;
    return false;
}
