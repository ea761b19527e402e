/* Token ids of a prompt, and which effort texts a checkpoint was trained with. */
#include "text/chat_parts.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* Added tokens cut the text before anything else looks at it, so encoding the text between our control tokens in one
 * piece gives the same ids as encoding the whole prompt, except that added tokens in it stay text. */
int chat_tokens(const struct chat_prompt *p, const struct tokenizer *t, bool match_added_in_user, struct ids *out,
                struct err *e)
{
    if (p->n_spans != 0 && match_added_in_user)
        return tokenizer_encode(t, p->text.data, p->text.len, true, out, e);
    return chat_span_tokens(p, t, 0, p->n_spans, out, e);
}

int chat_span_tokens(const struct chat_prompt *p, const struct tokenizer *t, size_t first, size_t end, struct ids *out,
                     struct err *e)
{
    for (size_t i = first; i < end; i++) {
        const struct chat_span *s = &p->spans[i];
        int rc = tokenizer_encode(t, p->text.data + s->start, s->end - s->start, s->is_control, out, e);
        if (rc != HD_OK)
            return rc;
    }
    return HD_OK;
}

static bool file_mentions(const char *path, const char *word)
{
    struct buf text = {0};
    bool found = file_read(&text, path, 16u << 20, NULL) == HD_OK && strstr(text.data, word) != NULL;
    buf_free(&text);
    return found;
}

/* Whether a Python file of the folder mentions the word. */
static bool folder_mentions(const char *folder, const char *word)
{
    DIR *d = opendir(folder);
    bool found = false;
    for (struct dirent *entry; d != NULL && !found && (entry = readdir(d)) != NULL;) {
        size_t n = strlen(entry->d_name);
        if (n <= 3 || strcmp(entry->d_name + n - 3, ".py") != 0)
            continue;
        char *path = path_join(folder, entry->d_name);
        found = file_mentions(path, word);
        free(path);
    }
    if (d != NULL)
        closedir(d);
    return found;
}

enum chat_profile chat_profile_of(const char *dir)
{
    char *encoding = path_join(dir, "encoding"), *config = path_join(dir, "config.json");
    enum chat_profile profile = CHAT_PREVIEW;
    if (folder_mentions(encoding, "REASONING_EFFORT_PROMPTS"))
        profile = CHAT_OFFICIAL;
    else if (!folder_mentions(encoding, "REASONING_EFFORT_MAX") && file_mentions(config, "\"dspark_"))
        profile = CHAT_OFFICIAL;
    free(encoding);
    free(config);
    return profile;
}
