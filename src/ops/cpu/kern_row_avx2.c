#define KERN_NAME row_kern_avx2
#define KERN_TEXT "avx2"
#define KERN_WIDTH 8
#include "ops/cpu/row_tmpl.h"
