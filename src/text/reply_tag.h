/* Recognising the tags of tool-call markup at the start of a text that may still grow. */
#ifndef HADAL_REPLY_TAG_H
#define HADAL_REPLY_TAG_H

#include "text/text.h"

enum tag_match { TAG_NO, TAG_PARTIAL, TAG_YES }; /* PARTIAL: more text may make it a tag */

enum tag_kind { TAG_CALLS, TAG_INVOKE, TAG_PARAMETER, TAG_NAMELESS };

struct tag {
    enum tag_kind kind;
    bool is_close;
    bool is_bare; /* written without the DSML token */
    size_t n;     /* bytes; of an opening invoke or parameter tag without its attributes */
};

/* at_end: no more text will come, so the answer is never PARTIAL. */
enum tag_match literal_match(const char *text, size_t n, const char *literal, bool at_end);
enum tag_match tag_match(const char *text, size_t n, bool at_end, struct tag *t);

enum param_type { PARAM_STRING, PARAM_JSON };

struct tag_head {
    const char *name;
    size_t n_name;
    enum param_type type;
};

/* Reads the attributes of an invoke or parameter tag from n bytes that end in '>'. */
bool tag_head_read(const char *text, size_t n, enum tag_kind kind, struct tag_head *h);
/* Whether text can be the start of attributes. */
bool tag_head_may_start(const char *text, size_t n);

#endif
