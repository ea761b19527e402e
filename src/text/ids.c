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

bool ids_try_reserve(struct ids *v, size_t n)
{
    if (n <= v->cap)
        return true;
    int32_t *data = n <= SIZE_MAX / sizeof *data ? realloc(v->data, n * sizeof *data) : NULL;
    if (data == NULL)
        return false;
    v->data = data;
    v->cap = n;
    return true;
}

void ids_free(struct ids *v)
{
    free(v->data);
    *v = (struct ids){0};
}
