/* Declarations that the C files of this folder share. A magnitude is the 31 bits of |x| as a float32. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LARGEST 0x7fffffffu
#define BITS_OF_INF 0x7f800000u
#define BLOCK 2048 /* entries that are processed together if their magnitudes must be computed */

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define FOR_NEWER_PROCESSORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_NEWER_PROCESSORS
#endif

typedef struct {
    const void *data;    /* NULL: the scores are hashes of the indices start, start + 1, ... */
    int64_t size;        /* entries, below 2^32 */
    int64_t width;       /* bits of an entry: 32 for float32 or bits, 16 for bfloat16 */
    int64_t group;
    int32_t *out;        /* functions that gather entries write their bits here */
    int64_t found;       /* the number of entries in out; for sample_chunks, the number to draw */
    int64_t start, key1, key2;
} chunk;

static inline int64_t next_of(int64_t num, int64_t *taken) {
    int64_t i = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
    return i < num ? i : -1;
}

/* A hash of an index under two keys, a bijection of 31 bits; random_bits.py computes the same with torch ops. Shifts and
 * multipliers: Wellons, "Prospecting for Hash Functions" (2018), lowbias32, here on 31 bits and with a key before each
 * multiplication. */
static inline uint32_t hash_of(uint32_t index, uint32_t key1, uint32_t key2) {
    uint32_t h = (index ^ key1) & LARGEST;
    h ^= h >> 16;
    h = (h * 0x7feb352du) & LARGEST;
    h = (h ^ (h >> 15) ^ key2) & LARGEST;
    h = (h * 0x846ca68bu) & LARGEST;
    return h ^ (h >> 16);
}

/* Returns the `size` entries of a chunk from `at` on as bits of float32, with their signs: a pointer into the chunk, or
 * `buffer`, to which they are written. */
const uint32_t *block_of(const chunk *c, int64_t at, int64_t size, uint32_t *buffer);
