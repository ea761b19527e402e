/* Growable list of token ids. */
#include "text/text.h"

#include <stdlib.h>

void ids_add(struct ids *v, int32_t id)
{
    if (v->n == v->cap) {
        v->cap = v->cap ? v->cap + v->cap / 2 : 64;
        v->data = xrealloc(v->data, v->cap * sizeof *v->data);
    }
    v->data[v->n++] = id;
}

void ids_reserve(struct ids *v, size_t n)
{
    if (n <= v->cap)
        return;
    v->cap = n;
    v->data = xrealloc(v->data, n * sizeof *v->data);
}

void ids_free(struct ids *v)
{
    free(v->data);
    *v = (struct ids){0};
}
