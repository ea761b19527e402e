/* Replays files through a fuzz target, so that the corpora run in every test without libFuzzer.
 * Prints one TAP line per file: reaching the end of a file without a crash is the test. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (f == NULL) {
            printf("not ok %d - cannot open %s\n", i, argv[i]);
            return 1;
        }
        fseek(f, 0, SEEK_END);
        long n = ftell(f);
        rewind(f);
        /* An exact-size heap block lets ASan see a read one byte past the input. */
        uint8_t *data = malloc(n > 0 ? (size_t)n : 1);
        if (data == NULL || fread(data, 1, (size_t)n, f) != (size_t)n) {
            printf("not ok %d - cannot read %s\n", i, argv[i]);
            return 1;
        }
        fclose(f);
        LLVMFuzzerTestOneInput(data, (size_t)n);
        free(data);
        printf("ok %d - %s\n", i, argv[i]);
        fflush(stdout);
    }
    return 0;
}
