#define KERN_NAME row_kern_neon
#define KERN_TEXT "neon"
#define KERN_WIDTH 4
#include "ops/cpu/row_tmpl.h"
