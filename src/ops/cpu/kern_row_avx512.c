#define KERN_NAME row_kern_avx512
#define KERN_TEXT "avx512"
#define KERN_WIDTH 16
#include "ops/cpu/row_tmpl.h"
