/* Reads Hugging Face's tokenizer.json. Whatever would change ids and is not done here is refused by the name of its
 * field. */
#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct tokenizer *t;
    const char *path;
    struct err *e;
};

static int refuse(const struct reader *r, const char *field, const char *why)
{
    return err_set(r->e, HD_EUNSUPPORTED, "%s: %s: %s", r->path, field, why);
}

static int malformed(const struct reader *r, const char *field, const char *expected)
{
    return err_set(r->e, HD_EFORMAT, "%s: %s: expected %s", r->path, field, expected);
}

static bool is_unset(const json_t *v)
{
    return v == NULL || json_is_null(v);
}

/* The "type" of an object, "" when there is none. */
static const char *type_of(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type != NULL ? type : "";
}

static int type_refuse(const struct reader *r, const char *field, const json_t *v, const char *supported)
{
    return err_set(r->e, HD_EUNSUPPORTED, "%s: %s.type: '%.60s' is not supported (only %s)", r->path, field, type_of(v),
                   supported);
}

/* ---------------------------------------------------------------- model */

static int model_check(const struct reader *r, const json_t *model)
{
    if (!json_is_object(model))
        return malformed(r, "model", "an object");
    if (strcmp(type_of(model), "BPE") != 0)
        return type_refuse(r, "model", model, "BPE");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return refuse(r, "model.byte_fallback", "true is not supported");
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_unset(dropout) && json_number_value(dropout) != 0.0)
        return refuse(r, "model.dropout", "random merging is not supported");
    const char *affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < COUNT_OF(affixes); i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (!is_unset(affix) && json_string_length(affix) != 0)
            return err_set(r->e, HD_EUNSUPPORTED, "%s: model.%s: not supported", r->path, affixes[i]);
    }
    r->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return HD_OK;
}

static int vocab_read(const struct reader *r, json_t *vocab)
{
    if (!json_is_object(vocab))
        return malformed(r, "model.vocab", "an object of token to id");
    const char *key;
    size_t n_key;
    json_t *value;
    json_object_keylen_foreach(vocab, key, n_key, value) {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > TOKEN_ID_MAX)
            return err_set(r->e, HD_EFORMAT, "%s: model.vocab[\"%.60s\"]: expected an id of 0 to %d", r->path, key,
                           TOKEN_ID_MAX);
        if (vocab_has(&r->t->vocab, id))
            return err_set(r->e, HD_EFORMAT, "%s: model.vocab[\"%.60s\"]: another token has id %d", r->path, key,
                           (int)id);
        vocab_put_mapped(&r->t->vocab, (int32_t)id, key, n_key);
    }
    return HD_OK;
}

/* A rule is "left right" or ["left", "right"]. */
static bool merge_parts(const json_t *rule, const char *part[2], size_t n[2])
{
    if (json_is_array(rule) && json_array_size(rule) == 2) {
        for (size_t i = 0; i < 2; i++) {
            part[i] = json_string_value(json_array_get(rule, i));
            n[i] = json_string_length(json_array_get(rule, i));
        }
        return part[0] != NULL && part[1] != NULL;
    }
    const char *text = json_string_value(rule);
    const char *space = text != NULL ? strchr(text, ' ') : NULL;
    if (space == NULL)
        return false;
    part[0] = text;
    n[0] = (size_t)(space - text);
    part[1] = space + 1;
    n[1] = json_string_length(rule) - n[0] - 1;
    return true;
}

/* A rule whose parts exist and whose product does not can never apply. Hugging Face refuses such a file; here the rule is
 * left out with a warning, because a copy of DeepSeek's file with one renamed token is about. */
static void rule_leave_out(const struct reader *r, size_t rank, const char *const part[2], const size_t n[2])
{
    struct tokenizer *t = r->t;
    if (t->warning == NULL)
        t->warning = xasprintf("%s: model.merges[%zu]: '%.*s' and '%.*s' merge to no token of model.vocab: this file is "
                               "damaged and words with that token get other ids", r->path, rank, (int)n[0], part[0],
                               (int)n[1], part[1]);
}

/* scratch gets the bytes of left and right. */
static int merge_read(const struct reader *r, size_t rank, const json_t *rule, struct buf *scratch)
{
    const char *part[2];
    size_t n[2];
    if (!merge_parts(rule, part, n))
        return err_set(r->e, HD_EFORMAT, "%s: model.merges[%zu]: expected \"left right\" or [\"left\", \"right\"]",
                       r->path, rank);
    int32_t id[2];
    size_t start[2];
    buf_clear(scratch);
    for (int i = 0; i < 2; i++) {
        start[i] = scratch->len;
        bool mapped = alphabet_decode(part[i], n[i], scratch) && scratch->len != start[i];
        id[i] = mapped ? vocab_find(&r->t->vocab, scratch->data + start[i], scratch->len - start[i]) : -1;
        if (id[i] < 0)
            return err_set(r->e, HD_EFORMAT, "%s: model.merges[%zu]: '%.*s' is not in model.vocab", r->path, rank,
                           n[i] < 60 ? (int)n[i] : 60, part[i]);
    }
    int32_t product = vocab_find(&r->t->vocab, scratch->data, scratch->len);
    if (product < 0)
        rule_leave_out(r, rank, part, n);
    else
        merges_put(&r->t->merges, id[0], id[1], (int32_t)rank, product);
    return HD_OK;
}

static int merges_read(const struct reader *r, const json_t *merges)
{
    if (!json_is_array(merges))
        return malformed(r, "model.merges", "an array");
    if (json_array_size(merges) > INT32_MAX)
        return refuse(r, "model.merges", "too many rules");
    struct buf scratch = {0};
    int rc = HD_OK;
    for (size_t i = 0; i < json_array_size(merges) && rc == HD_OK; i++)
        rc = merge_read(r, i, json_array_get(merges, i), &scratch);
    buf_free(&scratch);
    return rc;
}

/* ---------------------------------------------------------------- pre-tokeniser */

/* Regex of the ByteLevel step itself when use_regex is on: GPT-2's. */
static const char regex_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int step_add(const struct reader *r, const char *regex, size_t n, const char *field)
{
    struct tokenizer *t = r->t;
    if (t->n_steps == SPLIT_STEPS_MAX)
        return refuse(r, field, "too many steps");
    int rc = split_step_open(&t->steps[t->n_steps], regex, n, r->path, field, r->e);
    if (rc == HD_OK)
        t->n_steps++;
    return rc;
}

/* A literal string as a regex: every ASCII punctuation escaped. */
static int step_add_literal(const struct reader *r, const json_t *text, const char *field)
{
    struct buf regex = {0};
    const char *s = json_string_value(text);
    for (size_t i = 0; i < json_string_length(text); i++) {
        if (strchr("\\^$.[]|()?*+{}#-&", s[i]) != NULL && s[i] != '\0')
            buf_char(&regex, '\\');
        buf_char(&regex, s[i]);
    }
    int rc = step_add(r, regex.data != NULL ? regex.data : "", regex.len, field);
    buf_free(&regex);
    return rc;
}

static int split_read(const struct reader *r, const json_t *step, const char *field)
{
    char name[160];
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (behavior == NULL || strcmp(behavior, "Isolated") != 0) {
        snprintf(name, sizeof name, "%s.behavior", field);
        return refuse(r, name, "only 'Isolated' is supported");
    }
    if (json_is_true(json_object_get(step, "invert"))) {
        snprintf(name, sizeof name, "%s.invert", field);
        return refuse(r, name, "true is not supported");
    }
    snprintf(name, sizeof name, "%s.pattern", field);
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
    if (json_is_string(regex))
        return step_add(r, json_string_value(regex), json_string_length(regex), name);
    if (json_is_string(literal) && json_string_length(literal) != 0)
        return step_add_literal(r, literal, name);
    return malformed(r, name, "{\"Regex\": text} or {\"String\": text}");
}

static int byte_level_read(const struct reader *r, const json_t *step, const char *field)
{
    char name[160];
    if (!json_is_false(json_object_get(step, "add_prefix_space"))) {
        snprintf(name, sizeof name, "%s.add_prefix_space", field);
        return refuse(r, name, "only false is supported");
    }
    if (json_is_false(json_object_get(step, "use_regex")))
        return HD_OK;
    snprintf(name, sizeof name, "%s.use_regex", field);
    return step_add(r, regex_gpt2, sizeof regex_gpt2 - 1, name);
}

/* The last step must be ByteLevel, and no other. */
static int step_read(const struct reader *r, const json_t *step, bool is_last, const char *field)
{
    bool is_byte_level = strcmp(type_of(step), "ByteLevel") == 0;
    if (is_last && !is_byte_level)
        return type_refuse(r, field, step, "ByteLevel as the last step");
    if (is_byte_level)
        return is_last ? byte_level_read(r, step, field) : type_refuse(r, field, step, "Split before the last step");
    if (strcmp(type_of(step), "Split") != 0)
        return type_refuse(r, field, step, "Split before the last step");
    return split_read(r, step, field);
}

static int pre_tokenizer_read(const struct reader *r, const json_t *pre)
{
    if (strcmp(type_of(pre), "Sequence") != 0)
        return step_read(r, pre, true, "pre_tokenizer");
    const json_t *steps = json_object_get(pre, "pretokenizers");
    size_t n = json_array_size(steps);
    if (n == 0)
        return malformed(r, "pre_tokenizer.pretokenizers", "an array of steps");
    int rc = HD_OK;
    for (size_t i = 0; i < n && rc == HD_OK; i++) {
        char field[80];
        snprintf(field, sizeof field, "pre_tokenizer.pretokenizers[%zu]", i);
        rc = step_read(r, json_array_get(steps, i), i + 1 == n, field);
    }
    return rc;
}

/* ---------------------------------------------------------------- what must not change the ids */

static int rest_check(const struct reader *r, const json_t *root)
{
    const char *off[] = {"truncation", "padding"};
    for (size_t i = 0; i < COUNT_OF(off); i++)
        if (!is_unset(json_object_get(root, off[i])))
            return refuse(r, off[i], "only null is supported");
    const json_t *normalizer = json_object_get(root, "normalizer");
    bool is_empty = strcmp(type_of(normalizer), "Sequence") == 0 &&
                    json_array_size(json_object_get(normalizer, "normalizers")) == 0;
    if (!is_unset(normalizer) && !is_empty)
        return type_refuse(r, "normalizer", normalizer, "an empty Sequence");
    /* ByteLevel as a post-processor moves offsets only. */
    const json_t *post = json_object_get(root, "post_processor");
    if (!is_unset(post) && strcmp(type_of(post), "ByteLevel") != 0)
        return type_refuse(r, "post_processor", post, "ByteLevel");
    const json_t *decoder = json_object_get(root, "decoder");
    if (strcmp(type_of(decoder), "ByteLevel") != 0)
        return type_refuse(r, "decoder", decoder, "ByteLevel");
    return HD_OK;
}

/* ---------------------------------------------------------------- added tokens */

static int added_read_one(const struct reader *r, const json_t *token, const json_t *vocab, const char *field)
{
    const json_t *id = json_object_get(token, "id"), *content = json_object_get(token, "content");
    if (!json_is_integer(id) || !json_is_string(content))
        return malformed(r, field, "an object with id and content");
    const char *off[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < COUNT_OF(off); i++)
        if (json_is_true(json_object_get(token, off[i])))
            return err_set(r->e, HD_EUNSUPPORTED, "%s: %s.%s: true is not supported", r->path, field, off[i]);
    const json_t *in_vocab = json_object_getn(vocab, json_string_value(content), json_string_length(content));
    if (json_is_integer(in_vocab) != vocab_has(&r->t->vocab, json_integer_value(id)) ||
        (json_is_integer(in_vocab) && json_integer_value(in_vocab) != json_integer_value(id)))
        return err_set(r->e, HD_EFORMAT, "%s: %s.id: %lld does not agree with model.vocab", r->path, field,
                       (long long)json_integer_value(id));
    return tokenizer_add(r->t, json_integer_value(id), json_string_value(content), json_string_length(content),
                         json_is_true(json_object_get(token, "special")),
                         json_is_true(json_object_get(token, "normalized")), r->path, field, r->e);
}

static int added_read(const struct reader *r, const json_t *added, const json_t *vocab)
{
    if (is_unset(added))
        return HD_OK;
    if (!json_is_array(added))
        return malformed(r, "added_tokens", "an array");
    int rc = HD_OK;
    for (size_t i = 0; i < json_array_size(added) && rc == HD_OK; i++) {
        char field[80];
        snprintf(field, sizeof field, "added_tokens[%zu]", i);
        rc = added_read_one(r, json_array_get(added, i), vocab, field);
    }
    return rc;
}

static int root_read(const struct reader *r, const json_t *root)
{
    if (!json_is_object(root))
        return err_set(r->e, HD_EFORMAT, "%s: expected a JSON object", r->path);
    json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab");
    int rc = model_check(r, model);
    if (rc == HD_OK)
        rc = rest_check(r, root);
    if (rc == HD_OK)
        rc = pre_tokenizer_read(r, json_object_get(root, "pre_tokenizer"));
    if (rc == HD_OK)
        rc = vocab_read(r, vocab);
    if (rc == HD_OK)
        rc = tokenizer_index(r->t, r->path, r->e);
    if (rc == HD_OK)
        rc = merges_read(r, json_object_get(model, "merges"));
    return rc != HD_OK ? rc : added_read(r, json_object_get(root, "added_tokens"), vocab);
}

int tokenizer_read_json(struct tokenizer *t, const char *json, size_t n, const char *path, struct err *e)
{
    json_error_t why;
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root == NULL)
        return err_set(e, HD_EFORMAT, "%s: not JSON: line %d: %s", path, why.line, why.text);
    struct reader r = {t, path, e};
    int rc = root_read(&r, root);
    json_decref(root);
    return rc;
}
