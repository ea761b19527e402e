/* Who the engine works for: a number per user id, and how much work each had, for fair turns.
 *
 * Idea: start-time fair queueing. A user's clock advances by rows / weight; who has the lowest clock is next. A user that
 * comes back starts at the lowest clock of those that have work: being away saves up nothing. */
#ifndef HADAL_ENGINE_USERS_H
#define HADAL_ENGINE_USERS_H

#include <stdbool.h>
#include <stdint.h>

struct user {
    char *name;
    int n_refs; /* jobs and kept states */
    int n_jobs; /* waiting or running */
    double clock;
};

struct users {
    struct user *list; /* [cap] */
    int n, cap;
};

void users_init(struct users *u, int cap); /* never more at a time */
void users_free(struct users *u);
/* The number of a user id, with a reference; a new user takes *name over (then NULL). Numbers without references are
 * given to new users unless `in_use` says that something else still goes by that number. */
int users_take(struct users *u, char **name, bool (*in_use)(void *arg, int user), void *arg);
void users_drop(struct users *u, int user);
void users_begin_job(struct users *u, int user);
void users_end_job(struct users *u, int user);
void users_charge(struct users *u, int user, double work);

#endif
