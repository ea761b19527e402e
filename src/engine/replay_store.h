/* Inside the store of replies: what replay.c and replay_file.c share. */
#ifndef HADAL_ENGINE_REPLAY_STORE_H
#define HADAL_ENGINE_REPLAY_STORE_H

#include "engine/replay_key.h"

#include <pthread.h>

enum { REPLAY_BUCKETS = 1 << 14 };

/* One allocation: the struct, its tokens, the name of its user. */
struct reply {
    struct reply *next;         /* in its bucket */
    struct reply *newer, *older; /* by last use */
    struct replay_key key;
    uint64_t context; /* hash of the tokens before the tag that opened it */
    size_t n_user, n_tokens;
    size_t n_reasoning; /* tokens up to and with </think>; 0 when it was not opened */
    bool opened;        /* by <think> */
    int32_t *tokens;
    char *user;
};

struct replay {
    pthread_mutex_t mutex;
    struct reply *bucket[REPLAY_BUCKETS];
    struct reply *newest, *oldest;
    int64_t bytes, bytes_max, n_replies;
    uint64_t n_remembered, n_found, n_unknown;
    int32_t think, think_end;
    int fd; /* of the file, -1: none */
    char *path;
    int64_t file_bytes;
    uint64_t vocabulary;
};

struct reply *reply_alloc(size_t n_user, size_t n_tokens); /* NULL when memory is gone */
/* Takes y over; false when it was there already or is too large. */
bool replay_insert(struct replay *r, struct reply *y);

/* replay_file.c */
int replay_file_open(struct replay *r, const struct tokenizer *t, const char *path, char **warning, struct err *e);
/* With the mutex held. On an error there is no file any more. */
void replay_file_append(struct replay *r, const struct reply *y);
void replay_file_close(struct replay *r);

#endif
