/* Counts magnitudes and masks entries on the CPU. Plain C without dependencies; native.py compiles it on first use, and
 * counting.py and entries.py compute the same with torch ops. The upper bits of a magnitude are its first 15, and the
 * lower bits its last 16. Each exported function works through a list that several threads may share. */
#include "kernels.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

#define NUM_UPPER 32768
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define UPPER_HALF 1 /* which 16 bits of a float32 are the upper ones */
#else
#define UPPER_HALF 0
#endif

FOR_NEWER_PROCESSORS
static int64_t zeros_of(const chunk *c) {
    int64_t zeros = 0;
    if (c->width == 32) {
        const uint32_t *x = c->data;
        for (int64_t i = 0; i < c->size; i++) zeros += (x[i] & 0x7fffffffu) == 0;
    } else {
        const uint16_t *x = c->data;
        for (int64_t i = 0; i < c->size; i++) zeros += (x[i] & 0x7fffu) == 0;
    }
    return zeros;
}

/* Neighbouring entries are counted in two tables, since two increments of one counter would wait for each other if the
 * entries are equal, as in rows of zeros. Blocks of zeros only, as in the rows of tokens that did not occur, are
 * skipped. */
static inline void count_halves(const uint16_t *half, int64_t size, int64_t step, int64_t at, uint32_t *counts) {
    uint32_t *others = counts + NUM_UPPER, skipped = 0;
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t words[4] = {0, 0, 0, 0};
        memcpy(words, half + step * i, (size_t)(16 * step));
        if (!(words[0] | words[1] | words[2] | words[3])) {
            skipped += 8;
            continue;
        }
        for (int64_t j = i; j < i + 8; j += 2) {
            counts[half[step * j + at] & 0x7fff]++;
            others[half[step * (j + 1) + at] & 0x7fff]++;
        }
    }
    for (; i < size; i++) counts[half[step * i + at] & 0x7fff]++;
    counts[0] += skipped;
    for (int64_t u = 0; u < NUM_UPPER; u++) {
        counts[u] += others[u];
        others[u] = 0;
    }
}

/* counts[u] += entries whose upper bits are u; returns the number of exact zeros. counts has 2 * NUM_UPPER elements; its
 * second half must be zero, and is zero again afterwards. */
static int64_t upper_of(const chunk *c, uint32_t *counts) {
    if (c->width == 32)
        count_halves(c->data, c->size, 2, UPPER_HALF, counts);
    else /* a bfloat16's magnitude has no lower bits */
        count_halves(c->data, c->size, 1, 0, counts);
    return counts[0] ? zeros_of(c) : 0;
}

/* Writes the lower bits of the float32 entries whose upper bits are `upper` to out, in order; returns how many. */
FOR_NEWER_PROCESSORS
static int64_t lower_of(const uint32_t *x, int64_t size, uint32_t upper, int32_t *out) {
    int64_t found = 0, i = 0;
    for (; i + 32 <= size; i += 32) { /* few blocks contain such an entry, and compilers vectorise this test */
        uint32_t any = 0;
        for (int64_t j = 0; j < 32; j++) any |= ((x[i + j] & 0x7fffffffu) >> 16) == upper;
        if (!any) continue;
        for (int64_t j = 0; j < 32; j++)
            if (((x[i + j] & 0x7fffffffu) >> 16) == upper) out[found++] = (int32_t)(x[i + j] & 0xffffu);
    }
    for (; i < size; i++)
        if (((x[i] & 0x7fffffffu) >> 16) == upper) out[found++] = (int32_t)(x[i] & 0xffffu);
    return found;
}

/* totals[group][u] += entries whose upper bits are u; totals[group][NUM_UPPER] += exact zeros.
 * scratch: 2 * NUM_UPPER zeros of this thread, which are zero again afterwards. */
void count_upper(const chunk *chunks, int64_t num_chunks, int64_t *taken, uint32_t *scratch, int64_t *totals) {
    int64_t i;
    while ((i = next_of(num_chunks, taken)) >= 0) {
        int64_t *total = totals + chunks[i].group * (NUM_UPPER + 1);
        int64_t zeros = upper_of(chunks + i, scratch);
        for (int64_t u = 0; u < NUM_UPPER; u++)
            if (scratch[u]) {
                __atomic_fetch_add(total + u, (int64_t)scratch[u], __ATOMIC_RELAXED);
                scratch[u] = 0;
            }
        __atomic_fetch_add(total + NUM_UPPER, zeros, __ATOMIC_RELAXED);
    }
}

/* Sets out and found of each chunk, which must be float32, by `lower_of` with the upper bits of its group. */
void collect_lower(chunk *chunks, int64_t num_chunks, int64_t *taken, const int64_t *uppers) {
    int64_t i;
    while ((i = next_of(num_chunks, taken)) >= 0) {
        chunk *c = chunks + i;
        c->found = lower_of(c->data, c->size, (uint32_t)uppers[c->group], c->out);
    }
}

typedef struct {
    chunk scores;
    int64_t lowest, highest; /* entries whose score lies in [lowest, highest] are kept */
    void *entries;
    int64_t width; /* bits of an entry. 32 or 16: masked entries become 0; 8: kept entries become 1, masked ones 0 */
    void *copy;    /* if not NULL, entries do not change; copy gets the masked entries, and STAYS for the kept ones */
    int64_t num_alike; /* the number of masked entries that have the bits of STAYS */
} bounded;

typedef struct {
    void *now;
    const void *before;  /* the values of entries that are not kept; NULL: zeros */
    const uint8_t *keep; /* 1 or 0 for each entry; NULL: `before` is a `copy` of `bounded`, with STAYS for kept entries */
    int64_t size, width; /* width: 32 or 16 */
} unkept;

#define STAYS32 0xffffffffu /* a NaN that no computation results in */
#define STAYS16 0xffffu

FOR_NEWER_PROCESSORS
static void keep_inside(const uint32_t *x, int64_t size, uint32_t lowest, uint32_t highest, uint8_t *keep) {
    for (int64_t i = 0; i < size; i++) {
        const uint32_t m = x[i] & LARGEST;
        keep[i] = (m >= lowest) & (m <= highest);
    }
}

FOR_NEWER_PROCESSORS
static void zero(void *x, int64_t size, int64_t width, const uint8_t *keep) {
    if (width == 32)
        for (int64_t i = 0; i < size; i++) ((uint32_t *)x)[i] &= -(uint32_t)keep[i];
    else
        for (int64_t i = 0; i < size; i++) ((uint16_t *)x)[i] &= (uint16_t)-keep[i];
}

FOR_NEWER_PROCESSORS
static void restore(void *now, const void *before, int64_t size, int64_t width, const uint8_t *keep) {
    if (width == 32)
        for (int64_t i = 0; i < size; i++) {
            const uint32_t mask = -(uint32_t)keep[i];
            ((uint32_t *)now)[i] = (((uint32_t *)now)[i] & mask) | (((const uint32_t *)before)[i] & ~mask);
        }
    else
        for (int64_t i = 0; i < size; i++) {
            const uint16_t mask = (uint16_t)-keep[i];
            ((uint16_t *)now)[i] = (uint16_t)((((uint16_t *)now)[i] & mask) | (((const uint16_t *)before)[i] & ~mask));
        }
}

/* Writes the masked entries to copy, and STAYS for the kept ones; returns how many masked entries equal STAYS. */
FOR_NEWER_PROCESSORS
static int64_t copy_unkept(const void *x, int64_t size, int64_t width, const uint8_t *keep, void *copy) {
    int64_t alike = 0;
    if (width == 32)
        for (int64_t i = 0; i < size; i++) {
            const uint32_t entry = ((const uint32_t *)x)[i];
            alike += (entry == STAYS32) & !keep[i];
            ((uint32_t *)copy)[i] = entry | -(uint32_t)keep[i];
        }
    else
        for (int64_t i = 0; i < size; i++) {
            const uint16_t entry = ((const uint16_t *)x)[i];
            alike += (entry == STAYS16) & !keep[i];
            ((uint16_t *)copy)[i] = (uint16_t)(entry | -keep[i]);
        }
    return alike;
}

FOR_NEWER_PROCESSORS
static void restore_copied(void *now, const void *copy, int64_t size, int64_t width) {
    if (width == 32)
        for (int64_t i = 0; i < size; i++) {
            const uint32_t entry = ((const uint32_t *)copy)[i];
            ((uint32_t *)now)[i] = entry == STAYS32 ? ((uint32_t *)now)[i] : entry;
        }
    else
        for (int64_t i = 0; i < size; i++) {
            const uint16_t entry = ((const uint16_t *)copy)[i];
            ((uint16_t *)now)[i] = entry == STAYS16 ? ((uint16_t *)now)[i] : entry;
        }
}

/* Requests the pages of memory that is about to be written, all at once, which is faster than one by one. */
static void populate(void *memory, int64_t num_bytes) {
#ifdef MADV_POPULATE_WRITE
    const uintptr_t page = 4096, first = (uintptr_t)memory & ~(page - 1);
    madvise((void *)first, (uintptr_t)memory + (uintptr_t)num_bytes - first, MADV_POPULATE_WRITE);
#else
    (void)memory, (void)num_bytes;
#endif
}

/* Masks the entries of each task by their scores. */
void mask_chunks(bounded *all, int64_t num, int64_t *taken) {
    uint32_t buffer[BLOCK];
    uint8_t keep[BLOCK];
    int64_t i;
    while ((i = next_of(num, taken)) >= 0) {
        bounded *b = all + i;
        if (b->copy) populate(b->copy, b->scores.size * b->width / 8);
        for (int64_t at = 0; at < b->scores.size; at += BLOCK) {
            const int64_t size = b->scores.size - at < BLOCK ? b->scores.size - at : BLOCK, offset = at * b->width / 8;
            const uint32_t *x = block_of(&b->scores, at, size, buffer);
            uint8_t *entries = (uint8_t *)b->entries + offset;
            keep_inside(x, size, (uint32_t)b->lowest, (uint32_t)b->highest, b->width == 8 ? entries : keep);
            if (b->copy)
                b->num_alike += copy_unkept(entries, size, b->width, keep, (uint8_t *)b->copy + offset);
            else if (b->width != 8)
                zero(entries, size, b->width, keep);
        }
    }
}

/* now = before where keep is 0. */
void restore_chunks(const unkept *all, int64_t num, int64_t *taken) {
    int64_t i;
    while ((i = next_of(num, taken)) >= 0) {
        const unkept *u = all + i;
        if (!u->keep)
            restore_copied(u->now, u->before, u->size, u->width);
        else if (u->before)
            restore(u->now, u->before, u->size, u->width, u->keep);
        else
            zero(u->now, u->size, u->width, u->keep);
    }
}

/* Returns the next eight bytes of a bit set, with the first entry in the lowest bit; bits past the last byte are 0. */
static inline uint64_t word_of(const uint8_t *bits, int64_t num_bytes) {
    uint64_t word = 0;
    for (int64_t i = 0; i < (num_bytes < 8 ? num_bytes : 8); i++) word |= (uint64_t)bits[i] << (8 * i);
    return word;
}

/* out = the entries of x whose bits are set, in order; x has `size` entries of `width` bits, 16 or 32. */
FOR_NEWER_PROCESSORS
void gather_set(const void *x, int64_t size, int64_t width, const uint8_t *bits, void *out) {
    int64_t num_bytes = (size + 7) / 8, found = 0;
    for (int64_t at = 0; at < num_bytes; at += 8)
        for (uint64_t word = word_of(bits + at, num_bytes - at); word; word &= word - 1) {
            int64_t i = 8 * at + __builtin_ctzll(word);
            if (width == 32)
                ((uint32_t *)out)[found++] = ((const uint32_t *)x)[i];
            else
                ((uint16_t *)out)[found++] = ((const uint16_t *)x)[i];
        }
}

/* The reverse: the entries of x whose bits are set = in. */
FOR_NEWER_PROCESSORS
void scatter_set(void *x, int64_t size, int64_t width, const uint8_t *bits, const void *in) {
    int64_t num_bytes = (size + 7) / 8, found = 0;
    for (int64_t at = 0; at < num_bytes; at += 8)
        for (uint64_t word = word_of(bits + at, num_bytes - at); word; word &= word - 1) {
            int64_t i = 8 * at + __builtin_ctzll(word);
            if (width == 32)
                ((uint32_t *)x)[i] = ((const uint32_t *)in)[found++];
            else
                ((uint16_t *)x)[i] = ((const uint16_t *)in)[found++];
        }
}
