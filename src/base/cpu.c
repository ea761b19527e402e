/* CPU features, asking the operating system too: a level counts only when its registers are saved on a switch. */
#include "base/base.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

struct x86_features {
    bool avx2_fma, avx512, vnni, bf16;
};

static struct x86_features detect(void)
{
    struct x86_features f = {0};
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0 || (c & bit_FMA) == 0 || (c & bit_F16C) == 0)
        return f;
    uint64_t os = xcr0();
    if ((os & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return f;
    f.avx2_fma = (b & bit_AVX2) != 0 && (b & bit_BMI2) != 0;
    const unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    f.avx512 = f.avx2_fma && (os & 0xe6) == 0xe6 && (b & need) == need && (c & bit_AVX512VBMI) != 0;
    f.vnni = f.avx512 && (c & bit_AVX512VNNI) != 0;
    f.bf16 = f.avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)) != 0;
    return f;
}

enum cpu_isa cpu_isa_best(void)
{
    struct x86_features f = detect();
    return f.avx512 ? ISA_AVX512 : f.avx2_fma ? ISA_AVX2 : ISA_REF;
}

bool cpu_has_avx512_bf16(void)
{
    return detect().bf16;
}

bool cpu_has_avx512_vnni(void)
{
    return detect().vnni;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#endif
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif

enum cpu_isa cpu_isa_best(void)
{
    unsigned long more = getauxval(AT_HWCAP2);
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) == 0)
        return ISA_NEON;
    if ((more & HWCAP2_BF16) == 0)
        return ISA_NEON_DOT;
    return (more & HWCAP2_I8MM) != 0 ? ISA_NEON_I8MM : ISA_NEON_BF16;
}

bool cpu_has_avx512_bf16(void)
{
    return false;
}

bool cpu_has_avx512_vnni(void)
{
    return false;
}

#else

enum cpu_isa cpu_isa_best(void)
{
    return ISA_REF;
}

bool cpu_has_avx512_bf16(void)
{
    return false;
}

bool cpu_has_avx512_vnni(void)
{
    return false;
}

#endif

static const char *const isa_names[ISA_COUNT] = {"reference", "avx2", "avx512", "neon", "neon-dot",
                                                "neon-bf16", "neon-i8mm"};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return isa_names[isa];
}

static bool isa_usable(enum cpu_isa isa)
{
    enum cpu_isa best = cpu_isa_best();
    if (isa == ISA_REF)
        return true;
    bool same_family = (isa >= ISA_NEON) == (best >= ISA_NEON);
    return same_family && isa <= best;
}

int cpu_isa_parse(const char *name, enum cpu_isa *isa, struct err *e)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(name, isa_names[i]) != 0)
            continue;
        if (!isa_usable((enum cpu_isa)i))
            return err_set(e, HD_EUNSUPPORTED, "isa: this machine has no %s (best is %s)", name,
                           isa_names[cpu_isa_best()]);
        *isa = (enum cpu_isa)i;
        return HD_OK;
    }
    return err_set(e, HD_EARG, "isa: '%s' is not one of reference, avx2, avx512, neon, neon-dot, neon-bf16, "
                   "neon-i8mm", name);
}
