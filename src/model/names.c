#include "model/names.h"

#include "base/base.h"

#include <stdlib.h>
#include <string.h>

const char *name_store(struct name_block **list, const char *name, size_t n)
{
    struct name_block *b = *list;
    if (b == NULL || sizeof b->text - b->used < n + 1) {
        b = xcalloc(1, sizeof *b);
        b->next = *list;
        *list = b;
    }
    char *p = b->text + b->used;
    memcpy(p, name, n);
    p[n] = '\0';
    b->used += n + 1;
    return p;
}

void names_free(struct name_block **list)
{
    while (*list != NULL) {
        struct name_block *next = (*list)->next;
        free(*list);
        *list = next;
    }
}

static size_t cut(char *name, size_t n, char *at, size_t old_len, const char *new, size_t new_len)
{
    memcpy(at, new, new_len);
    memmove(at + new_len, at + old_len, n - (size_t)(at - name) - old_len + 1);
    return n - old_len + new_len;
}

size_t name_canonical(char *name, size_t n)
{
    static const struct {
        const char *old, *new;
    } spellings[] = {
        {".self_attn.", ".attn."},
        {".mlp.", ".ffn."},
        {".e_score_correction_bias", ".bias"},
        {".weight_scale_inv", ".scale"},
    };
    if (strncmp(name, "model.", 6) == 0)
        n = cut(name, n, name, 6, "", 0);
    if (strncmp(name, "layers.", 7) != 0 && strncmp(name, "mtp.", 4) != 0)
        return n;
    for (size_t i = 0; i < COUNT_OF(spellings); i++) {
        char *at = strstr(name, spellings[i].old);
        if (at != NULL)
            n = cut(name, n, at, strlen(spellings[i].old), spellings[i].new, strlen(spellings[i].new));
    }
    return n;
}
