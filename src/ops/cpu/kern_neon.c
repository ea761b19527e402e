#define KERN_NAME kern_neon
#define KERN_TEXT "neon"
#define KERN_WIDTH 4
#include "ops/cpu/kern_decl.h"
#include "ops/cpu/kern_tmpl.h"
