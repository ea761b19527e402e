#include "engine/users.h"

#include "base/base.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void users_init(struct users *u, int cap)
{
    *u = (struct users){.list = xcalloc((size_t)cap, sizeof *u->list), .cap = cap};
}

void users_free(struct users *u)
{
    for (int i = 0; i < u->n; i++)
        free(u->list[i].name);
    free(u->list);
    *u = (struct users){0};
}

static int add_user(struct users *u)
{
    assert(u->n < u->cap);
    u->list[u->n] = (struct user){0};
    return u->n++;
}

int users_take(struct users *u, char **name, bool (*in_use)(void *arg, int user), void *arg)
{
    int found = -1, empty = -1;
    for (int i = 0; i < u->n && found < 0; i++) {
        if (strcmp(u->list[i].name, *name) == 0)
            found = i;
        else if (empty < 0 && u->list[i].n_refs == 0 && !in_use(arg, i))
            empty = i;
    }
    if (found < 0) {
        found = empty >= 0 ? empty : add_user(u);
        free(u->list[found].name);
        u->list[found] = (struct user){.name = *name};
        *name = NULL;
    }
    u->list[found].n_refs++;
    return found;
}

void users_drop(struct users *u, int user)
{
    assert(u->list[user].n_refs > 0);
    u->list[user].n_refs--;
}

static double lowest_clock(const struct users *u)
{
    double lowest = -1;
    for (int i = 0; i < u->n; i++)
        if (u->list[i].n_jobs > 0 && (lowest < 0 || u->list[i].clock < lowest))
            lowest = u->list[i].clock;
    return lowest;
}

void users_begin_job(struct users *u, int user)
{
    struct user *x = &u->list[user];
    double lowest = lowest_clock(u);
    if (x->n_jobs++ == 0 && x->clock < lowest)
        x->clock = lowest;
}

void users_end_job(struct users *u, int user)
{
    assert(u->list[user].n_jobs > 0);
    u->list[user].n_jobs--;
}

void users_charge(struct users *u, int user, double work)
{
    u->list[user].clock += work;
}
