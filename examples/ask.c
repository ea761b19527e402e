/* Asks a model one question: cc ask.c $(pkg-config --cflags --libs hadal) && ./a.out MODEL_DIR "QUESTION_AS_JSON_TEXT" */
#include <hadal.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    hadal *h;
    hadal_request *r;
    hadal_event ev = {0};
    hadal_error e;
    char json[4096];
    if (argc != 3)
        return fprintf(stderr, "usage: %s MODEL_DIR QUESTION\n", argv[0]), 2;
    snprintf(json, sizeof json, "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}], "
                                "\"thinking\": {\"type\": \"disabled\"}, \"max_tokens\": 40}", argv[2]);
    if (hadal_open(&h, argv[1], NULL, &e) != HADAL_OK)
        return fprintf(stderr, "%s\n", e.message), 1;
    if (hadal_submit(h, json, NULL, NULL, &r, &e) != HADAL_OK)
        return fprintf(stderr, "%s\n", e.message), 1;
    while (hadal_next(r, &ev, -1))
        if (ev.kind == HADAL_EVENT_CONTENT)
            fwrite(ev.text, 1, ev.text_bytes, stdout);
    printf("\n%lld tokens\n", (long long)ev.completion_tokens);
    hadal_release(&r);
    hadal_close(&h);
    return ev.finish == HADAL_FINISH_ERROR;
}
