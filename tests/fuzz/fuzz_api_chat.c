/* Any text as the body of a request of DeepSeek's chat completions. */
#include "api_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    api_body_run(&dialect_deepseek, data, size);
    return 0;
}
