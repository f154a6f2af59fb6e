/* Selects exactly in one read of the scores, as select_by_bracket.py does on a GPU: a sample bounds the threshold from
 * both sides, one read counts the magnitudes below the bounds and gathers the few between them, and the counts show
 * whether the threshold lies between the bounds. The result is exact for every sample. */
#include "kernels.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(PORTABLE) /* the tests define it */
#include <immintrin.h>
#define X86 1
#endif

#define SLACK 16 /* numbers that may be written past the gathered ones */
#define MOST_AT_ONCE (1 << 30) /* entries, so that their counts fit into 32 bits */
#define FEWEST_NARROWED 2048 /* numbers; counting fewer takes no longer than narrowing their bounds */
#define BITS_AT_ONCE 11
#define HIGHEST (LARGEST - 1) /* the highest bound, so that bound + 1 fits into 31 bits */
#define FRACTION 20 /* fractional bits of an index in a chunk, as a fixed-point number */

typedef struct {
    chunk data;        /* out: space for `size` and SLACK numbers; gets the magnitudes in [low, high] */
    int64_t low, high; /* bounds, in [1, HIGHEST] */
    int64_t below;     /* how many magnitudes are below low */
    int64_t zeros;     /* how many are zero; not counted if count_zeros is 0 */
    int64_t count_zeros, nonfinite; /* nonfinite: 1 if an entry is NaN or Inf */
} bracket;

typedef struct {
    bracket between;
    int64_t masked, smallest, rank_zeros; /* the number of masked entries, and the settings of Rule in rule.py */
    int64_t samples, margin; /* the size of the sample and its margin; 0 samples: all entries but zeros are gathered */
    int64_t threshold, below, ties; /* the result: the threshold, how many magnitudes are below it, how many equal it */
} selection;

FOR_NEWER_PROCESSORS
static void hash_block(uint32_t *out, int64_t size, uint32_t start, uint32_t key1, uint32_t key2) {
    for (int64_t i = 0; i < size; i++) out[i] = hash_of(start + (uint32_t)i, key1, key2);
}

FOR_NEWER_PROCESSORS
static void widen_block(uint32_t *out, int64_t size, const uint16_t *x) {
    for (int64_t i = 0; i < size; i++) out[i] = (uint32_t)x[i] << 16;
}

const uint32_t *block_of(const chunk *c, int64_t at, int64_t size, uint32_t *buffer) {
    if (c->data && c->width == 32) return (const uint32_t *)c->data + at;
    if (c->data)
        widen_block(buffer, size, (const uint16_t *)c->data + at);
    else
        hash_block(buffer, size, (uint32_t)(c->start + at), (uint32_t)c->key1, (uint32_t)c->key2);
    return buffer;
}

void random_bits(int32_t *out, int64_t size, uint32_t start, uint32_t key1, uint32_t key2) {
    hash_block((uint32_t *)out, size, start, key1, key2);
}

/* Adds a block's counts to those of a bracket; writes the magnitudes in [low, high] to out, and returns how many. */
static int64_t split_plain(const uint32_t *x, int64_t size, bracket *b, uint32_t *out) {
    const uint32_t low = (uint32_t)b->low, high = (uint32_t)b->high;
    int64_t found = 0;
    for (int64_t i = 0; i < size; i++) {
        const uint32_t m = x[i] & LARGEST;
        b->below += m < low;
        b->zeros += (m == 0) & b->count_zeros;
        b->nonfinite |= m >= BITS_OF_INF;
        out[found] = m;
        found += (m >= low) & (m <= high);
    }
    return found;
}

#ifdef X86
/* For each subset of eight entries, the permutation that moves its entries to the front. */
static uint32_t to_front[256][8];

__attribute__((constructor)) static void fill_to_front(void) {
    for (uint32_t set = 0; set < 256; set++)
        for (uint32_t i = 0, n = 0; i < 8; i++)
            if (set >> i & 1) to_front[set][n++] = i;
}

static int64_t sum_of(const uint32_t *counts, int num) {
    int64_t sum = 0;
    for (int i = 0; i < num; i++) sum += counts[i];
    return sum;
}

__attribute__((target("avx2,popcnt"))) static int64_t split_avx2(const uint32_t *x, int64_t size, bracket *b, uint32_t *out) {
    const __m256i low = _mm256_set1_epi32((int)b->low), high = _mm256_set1_epi32((int)b->high);
    const __m256i all = _mm256_set1_epi32((int)LARGEST), zero = _mm256_setzero_si256();
    __m256i below = zero, zeros = zero, largest = zero;
    uint32_t lanes[8];
    int64_t found = 0, i = 0;
    for (; i + 8 <= size; i += 8) {
        const __m256i m = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), all);
        const __m256i is_below = _mm256_cmpgt_epi32(low, m);
        const __m256i is_outside = _mm256_or_si256(is_below, _mm256_cmpgt_epi32(m, high));
        const unsigned set = 255u ^ (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(is_outside));
        const __m256i order = _mm256_loadu_si256((const __m256i *)to_front[set]);
        _mm256_storeu_si256((__m256i *)(out + found), _mm256_permutevar8x32_epi32(m, order));
        found += __builtin_popcount(set);
        below = _mm256_sub_epi32(below, is_below);
        largest = _mm256_max_epi32(largest, m);
        if (b->count_zeros) zeros = _mm256_sub_epi32(zeros, _mm256_cmpeq_epi32(m, zero));
    }
    _mm256_storeu_si256((__m256i *)lanes, below);
    b->below += sum_of(lanes, 8);
    _mm256_storeu_si256((__m256i *)lanes, zeros);
    b->zeros += sum_of(lanes, 8);
    _mm256_storeu_si256((__m256i *)lanes, largest);
    for (int lane = 0; lane < 8; lane++) b->nonfinite |= lanes[lane] >= BITS_OF_INF;
    return found + split_plain(x + i, size - i, b, out + found);
}

__attribute__((target("avx512f,popcnt"))) static int64_t split_avx512(const uint32_t *x, int64_t size, bracket *b, uint32_t *out) {
    const __m512i low = _mm512_set1_epi32((int)b->low), high = _mm512_set1_epi32((int)b->high);
    const __m512i all = _mm512_set1_epi32((int)LARGEST), one = _mm512_set1_epi32(1);
    __m512i largest = _mm512_setzero_si512(), below = largest, zeros = largest;
    int64_t found = 0, i = 0;
    for (; i + 16 <= size; i += 16) {
        const __m512i m = _mm512_and_si512(_mm512_loadu_si512(x + i), all);
        const __mmask16 reaches = _mm512_cmple_epi32_mask(low, m);
        const __mmask16 set = _mm512_mask_cmple_epi32_mask(reaches, m, high);
        _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(set, m));
        found += __builtin_popcount(set);
        below = _mm512_mask_add_epi32(below, (__mmask16)~reaches, below, one);
        largest = _mm512_max_epi32(largest, m);
        if (b->count_zeros) zeros = _mm512_mask_add_epi32(zeros, _mm512_testn_epi32_mask(m, m), zeros, one);
    }
    b->below += _mm512_reduce_add_epi32(below);
    b->zeros += _mm512_reduce_add_epi32(zeros);
    b->nonfinite |= (uint32_t)_mm512_reduce_max_epi32(largest) >= BITS_OF_INF;
    return found + split_plain(x + i, size - i, b, out + found);
}
#endif

static int64_t split_block(const uint32_t *x, int64_t size, bracket *b, uint32_t *out) {
#ifdef X86
#ifndef WITHOUT_AVX512 /* the tests define it */
    if (__builtin_cpu_supports("avx512f")) return split_avx512(x, size, b, out);
#endif
    if (__builtin_cpu_supports("avx2")) return split_avx2(x, size, b, out);
#endif
    return split_plain(x, size, b, out);
}

static void split(bracket *b) {
    uint32_t buffer[BLOCK];
    chunk *c = &b->data;
    c->found = b->below = b->zeros = b->nonfinite = 0;
    const int64_t step = c->data && c->width == 32 ? MOST_AT_ONCE : BLOCK;
    for (int64_t at = 0; at < c->size; at += step) {
        const int64_t size = c->size - at < step ? c->size - at : step;
        c->found += split_block(block_of(c, at, size, buffer), size, b, (uint32_t *)c->out + c->found);
    }
}

/* Counts and gathers the entries of each chunk by its bounds. */
void split_chunks(bracket *all, int64_t num, int64_t *taken) {
    int64_t i;
    while ((i = next_of(num, taken)) >= 0) split(all + i);
}

static inline uint32_t magnitude_at(const chunk *c, int64_t at) {
    if (!c->data) return hash_of((uint32_t)(c->start + at), (uint32_t)c->key1, (uint32_t)c->key2);
    if (c->width == 32) return ((const uint32_t *)c->data)[at] & LARGEST;
    return (uint32_t)((const uint16_t *)c->data)[at] << 16 & LARGEST;
}

/* Writes `count` of a chunk's magnitudes: one from each of `count` equal stretches, at a hashed position. */
static void sample(const chunk *c, int64_t count, uint32_t *out) {
    if (!count) return;
    const uint64_t step = ((uint64_t)c->size << FRACTION) / (uint64_t)count;
    for (int64_t k = 0; k < count; k++) {
        const uint64_t within = (hash_of((uint32_t)k, 0, 0) >> 15) * step >> 16;
        const int64_t at = (int64_t)(((uint64_t)k * step + within) >> FRACTION);
        out[k] = magnitude_at(c, at);
    }
}

/* Writes `found` samples of each chunk to its `out`. */
void sample_chunks(const chunk *chunks, int64_t num, int64_t *taken) {
    int64_t i;
    while ((i = next_of(num, taken)) >= 0) sample(chunks + i, chunks[i].found, (uint32_t *)chunks[i].out);
}

/* Returns the number at a rank, from 0, among numbers in [lowest, highest], and how many are below it and equal to it.
 * Overwrites the list. */
static uint32_t at_rank(uint32_t *x, int64_t size, uint32_t lowest, uint32_t highest, int64_t rank, int64_t *below, int64_t *ties) {
    int width = highest > lowest ? 32 - __builtin_clz(highest - lowest) : 0;
    int64_t left = rank;
    for (;;) {
        uint32_t counts[1 << BITS_AT_ONCE] = {0}, bin = 0;
        const int shift = width > BITS_AT_ONCE ? width - BITS_AT_ONCE : 0;
        for (int64_t k = 0; k < size; k++) counts[(x[k] - lowest) >> shift]++;
        while (left >= counts[bin]) left -= counts[bin++];
        if (!shift) {
            *below = rank - left;
            *ties = counts[bin];
            return lowest + bin;
        }
        int64_t found = 0;
        for (int64_t k = 0; k < size; k++) {
            const uint32_t number = x[k];
            x[found] = number;
            found += (number - lowest) >> shift == bin;
        }
        lowest += bin << shift;
        size = found;
        width = shift;
    }
}

static int64_t rank_of(const selection *s, int64_t zeros) {
    const int64_t size = s->between.data.size, ranked = size - (s->rank_zeros ? 0 : zeros), stay = size - s->masked;
    if (!s->smallest) return s->masked;
    const int64_t last = (stay < ranked ? stay : ranked) + size - ranked - 1;
    return last > 0 ? last : 0;
}

/* Sets the bounds so that all magnitudes lie between them, except zeros and NaNs with all bits set. */
static void unbound(selection *s) {
    s->between.low = 1;
    s->between.high = HIGHEST;
    s->between.count_zeros = 1;
}

static void bound(selection *s) {
    bracket *b = &s->between;
    uint32_t *buffer = (uint32_t *)b->data.out;
    int64_t zeros = 0, unused;
    unbound(s);
    if (!s->samples) return;
    sample(&b->data, s->samples, buffer);
    for (int64_t k = 0; s->smallest && k < s->samples; k++) zeros += buffer[k] == 0;
    memcpy(buffer + s->samples, buffer, (size_t)s->samples * sizeof *buffer);
    b->low = 0;
    const int64_t size = b->data.size, place = rank_of(s, zeros * size / s->samples) * s->samples / size;
    const int64_t first = place - s->margin, last = place + s->margin;
    if (first >= 0) b->low = at_rank(buffer, s->samples, 0, LARGEST, first, &unused, &unused);
    if (last < s->samples) b->high = at_rank(buffer + s->samples, s->samples, 0, LARGEST, last, &unused, &unused);
    b->count_zeros = s->smallest || b->low == 0; /* otherwise zeros are below the threshold, so their number is not needed */
    b->low += b->low == 0;
    b->high = b->high < b->low ? b->low : b->high > HIGHEST ? HIGHEST : b->high;
}

/* Narrows the bounds around the value that the rank would have if the numbers were uniform, and splits the numbers again;
 * vector instructions do that in a fraction of the time of counting. Does nothing if the rank lies outside of the
 * narrower bounds. */
static void narrow(bracket *b, int64_t rank) {
    const int64_t found = b->data.found;
    if (found < FEWEST_NARROWED || 2 * found > b->data.size) return;
    double root = 1; /* the square root of the largest power of 4 that is at most `found` */
    for (int64_t n = found; n >= 4; n /= 4) root *= 2;
    const double half = 4 / root + 1.0 / 32; /* four deviations of a rank, and 1/32 for numbers that are not uniform */
    const double place = (double)(rank - b->below) / (double)found, range = (double)(b->high - b->low);
    bracket inner = *b;
    inner.data.data = b->data.out;
    inner.data.width = 32;
    inner.data.size = found;
    inner.data.out += found;
    inner.count_zeros = 0;
    if (place > half) inner.low = b->low + (int64_t)((place - half) * range);
    if (place + half < 1) inner.high = b->low + (int64_t)((place + half) * range);
    split(&inner);
    inner.below += b->below;
    if (rank < inner.below || rank >= inner.below + inner.data.found) return;
    b->low = inner.low;
    b->high = inner.high;
    b->below = inner.below;
    b->data.out = inner.data.out;
    b->data.found = inner.data.found;
}

/* Finds the number at a rank by narrow and at_rank. x: the numbers, overwritten, with space for twice as many and SLACK;
 * found: gets the number, how many are below it, and how many equal it. */
void find_rank(uint32_t *x, int64_t size, int64_t lowest, int64_t highest, int64_t rank, int64_t *found) {
    bracket b = {.data = {.out = (int32_t *)x, .found = size, .size = 2 * size}, .low = lowest, .high = highest};
    if (lowest) narrow(&b, rank); /* samples, whose lowest is 0, are not uniform */
    found[0] = at_rank((uint32_t *)b.data.out, b.data.found, (uint32_t)b.low, (uint32_t)b.high, rank - b.below, found + 1, found + 2);
    found[1] += b.below;
}

/* Finds the threshold by the counts; returns 0 if its rank lies outside of the bounds and is not that of a zero. */
static int find(selection *s) {
    bracket *b = &s->between;
    const int64_t rank = rank_of(s, b->zeros), end = b->below + b->data.found;
    if (rank < b->zeros) {
        s->threshold = s->below = 0;
        s->ties = b->zeros;
    } else if (rank >= end && b->high == HIGHEST) { /* the threshold is a NaN with all bits set */
        s->threshold = LARGEST;
        s->below = end;
        s->ties = b->data.size - end;
    } else if (rank < b->below || rank >= end) {
        return 0;
    } else {
        narrow(b, rank);
        s->threshold = at_rank((uint32_t *)b->data.out, b->data.found, (uint32_t)b->low, (uint32_t)b->high, rank - b->below, &s->below, &s->ties);
        s->below += b->below;
    }
    return 1;
}

/* Selects in groups of one chunk each. buffer: space for the entries of the largest chunk and SLACK. */
void select_chunks(selection *all, int64_t num, int64_t *taken, int32_t *buffer) {
    int64_t i;
    while ((i = next_of(num, taken)) >= 0) {
        selection *s = all + i;
        s->between.data.out = buffer;
        bound(s);
        split(&s->between);
        if (find(s)) continue;
        unbound(s); /* the bounds of the sample missed the threshold */
        split(&s->between);
        find(s);
    }
}
