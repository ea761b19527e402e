/* JSON text written piece by piece, compact, keys in the order of the calls (wire formats are compared by order too). */
#ifndef HADAL_SERVE_JSON_OUT_H
#define HADAL_SERVE_JSON_OUT_H

#include "base/base.h"

/* Commas are put where they belong; a key is followed by one value. No key: NULL (inside arrays). */
void out_open(struct buf *b, const char *key, char bracket); /* '{' or '[' */
void out_close(struct buf *b, char bracket);                 /* '}' or ']' */
void out_str(struct buf *b, const char *key, const char *text);
void out_text(struct buf *b, const char *key, const char *text, size_t n); /* any UTF-8 */
void out_int(struct buf *b, const char *key, int64_t v);
void out_bool(struct buf *b, const char *key, bool v);
void out_null(struct buf *b, const char *key);
void out_real(struct buf *b, const char *key, double v); /* shortest text that reads back, with a ".0" when whole */
void out_raw(struct buf *b, const char *key, const char *json, size_t n); /* JSON text as it is */

#endif
