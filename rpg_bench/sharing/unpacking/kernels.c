// Unpacking a ring into slots, and folding the slots' gradients into the ring's, on a CPU.
//
// Built at first use by the machine's own compiler (see native.py). Each kernel does the part of the work
// that its last two arguments name, [first, last), so that it can be divided over threads (see divide); no
// result depends on how it was divided. All return 0, or something else if there was no memory.
//
// A chunk is a run of at most 65536 scalars of one slot, in the order of memory. `starts` holds the
// position of each chunk in all slots together and, at its end, their size. `data` points to each
// chunk's scalars, `scale` is each chunk's c. Values are float32 or bfloat16, sums are float32.

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SIGN 0x80000000u
#define ENTRY 0x7fffffffu

static inline uint32_t bits(float value) { uint32_t word; memcpy(&word, &value, 4); return word; }
static inline float number(uint32_t word) { float value; memcpy(&value, &word, 4); return value; }

typedef uint32_t float32;
typedef uint16_t bfloat16;
static inline float32 to_float32(uint32_t word) { return word; }
static inline uint32_t from_float32(float32 value) { return value; }
// Rounds to nearest, ties to even; a NaN stays one.
static inline bfloat16 to_bfloat16(uint32_t word) {
    uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    return (word & ENTRY) > 0x7f800000u ? (word >> 16) | 0x40 : rounded;
}
static inline uint32_t from_bfloat16(bfloat16 value) { return (uint32_t)value << 16; }

// ---- Division over threads --------------------------------------------------------------------------

typedef union {
    void *pointer;
    int64_t number;
} argument;

typedef struct {
    int (*kernel)(const argument *given, int64_t first, int64_t last);
    const argument *given;
    int64_t count, shares, taken;
    int failed;
} work;

// What each thread does: share after share, until all are taken.
static void *take_shares(void *data) {
    work *const all = data;
    int64_t share;
    while ((share = __atomic_fetch_add(&all->taken, 1, __ATOMIC_RELAXED)) < all->shares)
        if (all->kernel(all->given, all->count * share / all->shares, all->count * (share + 1) / all->shares))
            __atomic_store_n(&all->failed, 1, __ATOMIC_RELAXED);
    return NULL;
}
static void take_shares_in_team(void *data) { take_shares(data); }

#define MOST_THREADS 256  // of our own

// All of a kernel's work, 0..count-1. team: OpenMP's call that lets its threads run a function (GOMP_parallel);
// without it threads are started here, fewer than asked if the system has no more.
int divide(int (*kernel)(const argument *, int64_t, int64_t), const argument *given, int64_t count, int64_t threads,
           void (*team)(void (*)(void *), void *, unsigned, unsigned)) {
    work all = {kernel, given, count, threads < count ? threads : count, 0, 0};
    if (all.shares > 1 && team) {
        team(take_shares_in_team, &all, threads, 0);
        return all.failed;
    }
    pthread_t others[MOST_THREADS];
    int64_t started = 0;
    while (started + 1 < all.shares && started < MOST_THREADS)
        if (pthread_create(&others[started], NULL, take_shares, &all)) break;
        else started++;
    take_shares(&all);
    for (int64_t other = 0; other < started; other++) pthread_join(others[other], NULL);
    return all.failed;
}

// ---- The allocation: a Feistel permutation of 0..size-1 (see allocation.py) --------------------------
// tables: of 8 rounds, one after another, `columns` and `rows` long by turns.

#define RUN 1024

static void round_trip(const uint32_t *tables, uint32_t rows, uint32_t columns, uint32_t *row, uint32_t *column, int64_t n) {
    for (int round = 0; round < 8; round += 2) {
        const uint32_t *down = tables, *right = tables + columns;
        for (int64_t i = 0; i < n; i++) {
            uint32_t r = row[i] + down[column[i]];
            row[i] = r < r - rows ? r : r - rows;  // modulo: the difference wraps
        }
        for (int64_t i = 0; i < n; i++) {
            uint32_t c = column[i] + right[row[i]];
            column[i] = c < c - columns ? c : c - columns;
        }
        tables += columns + rows;
    }
}

// images[i]: where position start + i goes.
int permute(const argument *given, int64_t first, int64_t last) {
    const uint32_t *tables = given[0].pointer;
    const int64_t rows = given[1].number;
    const int64_t columns = given[2].number;
    const int64_t size = given[3].number;
    const int64_t start = given[4].number;
    uint32_t *images = given[5].pointer;
    uint32_t row[RUN], column[RUN];
    for (int64_t done = first; done < last; done += RUN) {
        const int64_t n = last - done < RUN ? last - done : RUN;
        uint32_t r = (start + done) / columns, c = (start + done) % columns;
        for (int64_t i = 0; i < n; i++) {
            row[i] = r;
            column[i] = c;
            if (++c == columns) c = 0, r++;
        }
        round_trip(tables, rows, columns, row, column, n);
        for (int64_t i = 0; i < n; i++) images[done + i] = row[i] * (uint32_t)columns + column[i];
        // The grid has up to `rows` cells too many: walk on from these until inside.
        for (int64_t i = 0; i < n; i++)
            while (images[done + i] >= size) {
                row[0] = images[done + i] / columns;
                column[0] = images[done + i] % columns;
                round_trip(tables, rows, columns, row, column, 1);
                images[done + i] = row[0] * (uint32_t)columns + column[0];
            }
    }
    return 0;
}

// ---- Small rings: a look-up for each position ------------------------------------------------------
// words[position]: entry of the ring, the sign in the highest bit.

#define TERMS 64  // of a sum, made as vectors before each goes where it belongs

#define LOOK_UP(KIND)                                                                                          \
    int gather_##KIND(const argument *given, int64_t first, int64_t last) {                                    \
        const uint32_t *words = given[0].pointer;                                                              \
        const int64_t *starts = given[1].pointer;                                                              \
        KIND *const *data = given[2].pointer;                                                                  \
        const float *scale = given[3].pointer;                                                                 \
        const float *ring = given[4].pointer;                                                                  \
        for (int64_t chunk = first; chunk < last; chunk++) {                                                   \
            const uint32_t *word = words + starts[chunk];                                                      \
            const int64_t size = starts[chunk + 1] - starts[chunk];                                            \
            KIND *out = data[chunk];                                                                           \
            const float c = scale[chunk];                                                                      \
            for (int64_t i = 0; i < size; i++)                                                                 \
                out[i] = to_##KIND(bits(c * ring[word[i] & ENTRY]) ^ (word[i] & SIGN));                        \
        }                                                                                                      \
        return 0;                                                                                              \
    }                                                                                                          \
    /* Adds part number `first`..`last` of the chunks to sums[part], each part to a ring of its own. */        \
    int scatter_##KIND(const argument *given, int64_t first, int64_t last) {                                   \
        const uint32_t *words = given[0].pointer;                                                              \
        const int64_t *starts = given[1].pointer;                                                              \
        KIND *const *data = given[2].pointer;                                                                  \
        const float *scale = given[3].pointer;                                                                 \
        float *sums = given[4].pointer;                                                                        \
        const int64_t dof = given[5].number;                                                                   \
        const int64_t *parts = given[6].pointer;                                                               \
        for (int64_t part = first; part < last; part++) {                                                      \
            float *sum = sums + part * dof;                                                                    \
            memset(sum, 0, dof * sizeof(float));                                                               \
            for (int64_t chunk = parts[part]; chunk < parts[part + 1]; chunk++) {                              \
                const uint32_t *word = words + starts[chunk];                                                  \
                const int64_t size = starts[chunk + 1] - starts[chunk];                                        \
                const KIND *gradient = data[chunk];                                                            \
                const float c = scale[chunk];                                                                  \
                if (!gradient) continue;                                                                       \
                float terms[TERMS];                                                                            \
                for (int64_t i = 0; i < size; i += TERMS) {                                                    \
                    const int64_t count = size - i < TERMS ? size - i : TERMS;                                 \
                    for (int64_t j = 0; j < count; j++)                                                        \
                        terms[j] = c * number(from_##KIND(gradient[i + j]) ^ (word[i + j] & SIGN));            \
                    for (int64_t j = 0; j < count; j++) sum[word[i + j] & ENTRY] += terms[j];                  \
                }                                                                                              \
            }                                                                                                  \
        }                                                                                                      \
        return 0;                                                                                              \
    }
LOOK_UP(float32)
LOOK_UP(bfloat16)

// The parts' sums, entry by entry, in the order of the parts; into the first.
int merge(const argument *given, int64_t first, int64_t last) {
    float *sums = given[0].pointer;
    const int64_t dof = given[1].number;
    const int64_t parts = given[2].number;
    for (int64_t part = 1; part < parts; part++)
        for (int64_t entry = first; entry < last; entry++) sums[entry] += sums[part * dof + entry];
    return 0;
}

// ---- Large rings: two passes, none of which jumps about in more than a cache holds -----------------
// First pass, in the order of the ring: each use of an entry is appended to the bucket of its chunk.
// uses: chunk number (14 bits), whether the use is the first of the next entry, sign (highest bit);
// UNUSED steps over an entry without a use (scale has a number for its chunk too). Second pass, chunk by
// chunk: places[i] is where the i-th of the bucket belongs. The backward runs the passes in opposite order.
// Buckets begin at odd distances (bucket_starts): they fill up side by side, and at powers of two would
// compete for the same cache sets.
// These are more streams than a processor foresees, and a chunk is visited at random: without asking for
// each line ahead, most of the time goes into waiting for memory.

#define LINE 64  // bytes that caches move together
#define CHUNK 0x3fffu
#define NEXT 0x4000u
#define NEGATIVE 0x8000u
#define UNUSED 0xffffu

// Where a range goes on in each bucket; NULL if there is no memory.
static uint32_t *filled_up_to(const uint16_t *fill, const int64_t *bucket_starts, int64_t chunks) {
    uint32_t *positions = malloc(chunks * sizeof(uint32_t));
    for (int64_t chunk = 0; positions && chunk < chunks; chunk++) positions[chunk] = bucket_starts[chunk] + fill[chunk];
    return positions;
}

// Ranges of the ring: range r has entries range_entries[r].. and uses range_uses[r].., and finds bucket k
// filled with range_fill[r * chunks + k] values, modulo 65536: of a full one nobody asks.
#define TWO_PASSES(KIND)                                                                                       \
    int deal_##KIND(const argument *given, int64_t first, int64_t last) {                                      \
        const uint16_t *uses = given[0].pointer;                                                               \
        const int64_t *range_uses = given[1].pointer;                                                          \
        const int64_t *range_entries = given[2].pointer;                                                       \
        const uint16_t *range_fill = given[3].pointer;                                                         \
        const int64_t *bucket_starts = given[4].pointer;                                                       \
        const int64_t chunks = given[5].number;                                                                \
        const float *scale = given[6].pointer;                                                                 \
        const float *ring = given[7].pointer;                                                                  \
        KIND *buckets = given[8].pointer;                                                                      \
        uint32_t *fill = filled_up_to(range_fill + first * chunks, bucket_starts, chunks);                     \
        if (!fill) return 1;                                                                                   \
        const float *entry = ring + range_entries[first] - 1;                                                  \
        KIND values[TERMS];                                                                                    \
        for (int64_t i = range_uses[first]; i < range_uses[last]; i += TERMS) {                                \
            const int64_t count = range_uses[last] - i < TERMS ? range_uses[last] - i : TERMS;                 \
            float entries[TERMS];                                                                              \
            for (int64_t j = 0; j < count; j++) {                                                              \
                entry += (uses[i + j] >> 14) & 1;                                                              \
                entries[j] = *entry;                                                                           \
            }                                                                                                  \
            for (int64_t j = 0; j < count; j++) {                                                              \
                const uint32_t use = uses[i + j];                                                              \
                values[j] = to_##KIND(bits(scale[use & CHUNK] * entries[j]) ^ ((use & NEGATIVE) << 16));       \
            }                                                                                                  \
            for (int64_t j = 0; j < count; j++) {                                                              \
                if (uses[i + j] == UNUSED) continue;                                                           \
                KIND *const at = buckets + fill[uses[i + j] & CHUNK]++;                                        \
                __builtin_prefetch(at + LINE / sizeof(KIND), 1);                                               \
                *at = values[j];                                                                               \
            }                                                                                                  \
        }                                                                                                      \
        free(fill);                                                                                            \
        return 0;                                                                                              \
    }                                                                                                          \
    int place_##KIND(const argument *given, int64_t first, int64_t last) {                                     \
        const uint16_t *places = given[0].pointer;                                                             \
        const int64_t *starts = given[1].pointer;                                                              \
        KIND *const *data = given[2].pointer;                                                                  \
        const int64_t *bucket_starts = given[3].pointer;                                                       \
        const KIND *buckets = given[4].pointer;                                                                \
        for (int64_t chunk = first; chunk < last; chunk++) {                                                   \
            const uint16_t *place = places + starts[chunk];                                                    \
            const KIND *bucket = buckets + bucket_starts[chunk];                                               \
            const int64_t size = starts[chunk + 1] - starts[chunk];                                            \
            KIND *out = data[chunk];                                                                           \
            for (int64_t i = 0; i < size; i += LINE / sizeof(KIND)) __builtin_prefetch(out + i, 1);            \
            for (int64_t i = 0; i < size; i++) out[place[i]] = bucket[i];                                      \
        }                                                                                                      \
        return 0;                                                                                              \
    }                                                                                                          \
    int collect_##KIND(const argument *given, int64_t first, int64_t last) {                                   \
        const uint16_t *places = given[0].pointer;                                                             \
        const int64_t *starts = given[1].pointer;                                                              \
        KIND *const *data = given[2].pointer;                                                                  \
        const int64_t *bucket_starts = given[3].pointer;                                                       \
        KIND *buckets = given[4].pointer;                                                                      \
        for (int64_t chunk = first; chunk < last; chunk++) {                                                   \
            const uint16_t *place = places + starts[chunk];                                                    \
            KIND *bucket = buckets + bucket_starts[chunk];                                                     \
            const int64_t size = starts[chunk + 1] - starts[chunk];                                            \
            const KIND *gradient = data[chunk];                                                                \
            if (!gradient) {                                                                                   \
                memset(bucket, 0, size * sizeof(KIND));                                                        \
                continue;                                                                                      \
            }                                                                                                  \
            for (int64_t i = 0; i < size; i += LINE / sizeof(KIND)) __builtin_prefetch(gradient + i);          \
            for (int64_t i = 0; i < size; i++) bucket[i] = gradient[place[i]];                                 \
        }                                                                                                      \
        return 0;                                                                                              \
    }                                                                                                          \
    int fold_##KIND(const argument *given, int64_t first, int64_t last) {                                      \
        const uint16_t *uses = given[0].pointer;                                                               \
        const int64_t *range_uses = given[1].pointer;                                                          \
        const int64_t *range_entries = given[2].pointer;                                                       \
        const uint16_t *range_fill = given[3].pointer;                                                         \
        const int64_t *bucket_starts = given[4].pointer;                                                       \
        const int64_t chunks = given[5].number;                                                                \
        const float *scale = given[6].pointer;                                                                 \
        float *sums = given[7].pointer;                                                                        \
        const KIND *buckets = given[8].pointer;                                                                \
        uint32_t *fill = filled_up_to(range_fill + first * chunks, bucket_starts, chunks);                     \
        if (!fill) return 1;                                                                                   \
        memset(sums + range_entries[first], 0, (range_entries[last] - range_entries[first]) * sizeof(float));  \
        float *entry = sums + range_entries[first] - 1;                                                        \
        KIND values[TERMS] = {0};                                                                              \
        float terms[TERMS];                                                                                    \
        for (int64_t i = range_uses[first]; i < range_uses[last]; i += TERMS) {                                \
            const int64_t count = range_uses[last] - i < TERMS ? range_uses[last] - i : TERMS;                 \
            for (int64_t j = 0; j < count; j++) {                                                              \
                if (uses[i + j] == UNUSED) continue;                                                           \
                const KIND *const at = buckets + fill[uses[i + j] & CHUNK]++;                                  \
                __builtin_prefetch(at + LINE / sizeof(KIND));                                                  \
                values[j] = *at;                                                                               \
            }                                                                                                  \
            for (int64_t j = 0; j < count; j++) {                                                              \
                const uint32_t use = uses[i + j];                                                              \
                terms[j] = scale[use & CHUNK] * number(from_##KIND(values[j]) ^ ((use & NEGATIVE) << 16));     \
            }                                                                                                  \
            for (int64_t j = 0; j < count; j++) {                                                              \
                entry += (uses[i + j] >> 14) & 1;                                                              \
                if (uses[i + j] != UNUSED) *entry += terms[j];                                                 \
            }                                                                                                  \
        }                                                                                                      \
        free(fill);                                                                                            \
        return 0;                                                                                              \
    }
TWO_PASSES(float32)
TWO_PASSES(bfloat16)

// The two passes' tables are made range by range of the ring, a range being 2^shift entries. First: how many
// positions of each chunk take an entry of each range; counts, zero at first, is (chunks, ranges).
int count_uses(const argument *given, int64_t first, int64_t last) {
    const uint32_t *words = given[0].pointer;
    const int64_t *starts = given[1].pointer;
    const int64_t shift = given[2].number;
    const int64_t ranges = given[3].number;
    int64_t *counts = given[4].pointer;
    for (int64_t chunk = first; chunk < last; chunk++)
        for (int64_t i = starts[chunk]; i < starts[chunk + 1]; i++)
            counts[chunk * ranges + ((words[i] & ENTRY) >> shift)]++;
    return 0;
}

// Second: the positions of each range, ascending. next, (chunks, ranges), is where each chunk's begin.
// where[]: the sign, the chunk, and the place in it; entry[]: of the ring.
int collect_uses(const argument *given, int64_t first, int64_t last) {
    const uint32_t *words = given[0].pointer;
    const int64_t *starts = given[1].pointer;
    const int64_t shift = given[2].number;
    const int64_t ranges = given[3].number;
    int64_t *next = given[4].pointer;
    uint32_t *where = given[5].pointer;
    uint32_t *entry = given[6].pointer;
    for (int64_t chunk = first; chunk < last; chunk++) {
        int64_t *to = next + chunk * ranges;
        for (int64_t i = starts[chunk]; i < starts[chunk + 1]; i++) {
            const int64_t at = to[(words[i] & ENTRY) >> shift]++;
            where[at] = (words[i] & SIGN) | (uint32_t)chunk << 16 | (uint32_t)(i - starts[chunk]);
            entry[at] = words[i] & ENTRY;
        }
    }
    return 0;
}

// How many entries of each range nobody takes.
int count_unused(const argument *given, int64_t first, int64_t last) {
    const uint32_t *entry = given[0].pointer;
    const int64_t *bounds = given[1].pointer;
    const int64_t *range_entries = given[2].pointer;
    int64_t *unused = given[3].pointer;
    for (int64_t range = first; range < last; range++) {
        const int64_t low = range_entries[range], entries = range_entries[range + 1] - low;
        uint8_t *seen = calloc(entries, 1);
        if (!seen) return 1;
        int64_t distinct = 0;
        for (int64_t i = bounds[range]; i < bounds[range + 1]; i++) {
            distinct += !seen[entry[i] - low];
            seen[entry[i] - low] = 1;
        }
        unused[range] = entries - distinct;
        free(seen);
    }
    return 0;
}

// Third: each range's positions sorted by entry, as uses and places. bounds: where each range's positions
// begin; range_uses: where its uses do, which include the entries without one.
int make_passes(const argument *given, int64_t first, int64_t last) {
    const uint32_t *where = given[0].pointer;
    const uint32_t *entry = given[1].pointer;
    const int64_t *bounds = given[2].pointer;
    const int64_t *range_entries = given[3].pointer;
    const int64_t *range_uses = given[4].pointer;
    const uint16_t *range_fill = given[5].pointer;
    const int64_t *starts = given[6].pointer;
    const int64_t *bucket_starts = given[7].pointer;
    const int64_t chunks = given[8].number;
    uint16_t *uses = given[9].pointer;
    uint16_t *places = given[10].pointer;
    for (int64_t range = first; range < last; range++) {
        const int64_t low = range_entries[range], entries = range_entries[range + 1] - low;
        const int64_t begin = bounds[range], count = bounds[range + 1] - begin;
        int64_t used = range_uses[range];
        uint32_t *fill = filled_up_to(range_fill + range * chunks, bucket_starts, chunks);
        uint32_t *next = calloc(entries + 1, sizeof(uint32_t)), *sorted = malloc(count * sizeof(uint32_t) + 1);
        if (!fill || !next || !sorted) {
            free(fill), free(next), free(sorted);
            return 1;
        }
        for (int64_t i = 0; i < count; i++) next[entry[begin + i] - low + 1]++;
        for (int64_t e = 0; e < entries; e++) next[e + 1] += next[e];
        for (int64_t i = 0; i < count; i++) sorted[next[entry[begin + i] - low]++] = where[begin + i];
        // next[e] is now where the uses of entry e end.
        for (int64_t e = 0, i = 0; e < entries; e++) {
            if (i == next[e]) uses[used++] = UNUSED;
            for (uint32_t new = NEXT; i < next[e]; i++, new = 0) {
                const int64_t chunk = sorted[i] >> 16 & 0x7fff;
                uses[used++] = (uint16_t)(chunk | new | (sorted[i] >> 31 << 15));
                places[starts[chunk] + fill[chunk]++ - bucket_starts[chunk]] = (uint16_t)sorted[i];
            }
        }
        free(fill), free(next), free(sorted);
    }
    return 0;
}

// Positions sorted by entry. next, zero at first, has dof + 1 counters; in the end, where each entry's uses end.
int sort_by_entry(const argument *given, int64_t first, int64_t last) {
    const uint32_t *entry = given[0].pointer;
    const int64_t total = given[1].number;
    const int64_t dof = given[2].number;
    uint32_t *next = given[3].pointer;
    uint32_t *order = given[4].pointer;
    (void)first, (void)last;
    for (int64_t i = 0; i < total; i++) next[entry[i] + 1]++;
    for (int64_t e = 0; e < dof; e++) next[e + 1] += next[e];
    for (int64_t i = 0; i < total; i++) order[next[entry[i]]++] = (uint32_t)i;
    return 0;
}

// ---- Blocks of 16 entries: whole cache lines move --------------------------------------------------
// blocks[i]: which 16 entries the i-th 16 positions of a slot take; signs[i]: a bit for each of them.
// slot_blocks: number of each slot's first block; slot_size: its scalars (the last block may be short).

#define AHEAD 16  // blocks: how long before its turn each is asked of memory

// A whole block at once, in vectors that compilers map to whatever the processor has.
typedef float floats __attribute__((vector_size(64)));
typedef uint32_t words16 __attribute__((vector_size(64)));
typedef uint16_t halves16 __attribute__((vector_size(32)));

static inline words16 sign_bits(uint32_t sign) {
    const words16 shifts = {31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16};
    return ((words16){0} + sign) << shifts & SIGN;
}
static inline void store_float32(float32 *out, words16 word) { memcpy(out, &word, sizeof word); }
static inline void store_bfloat16(bfloat16 *out, words16 word) {
    const words16 nan = (words16)((word & ENTRY) > 0x7f800000u);
    const words16 rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    const halves16 half = __builtin_convertvector((nan & ((word >> 16) | 0x40)) | (~nan & rounded), halves16);
    memcpy(out, &half, sizeof half);
}
static inline words16 load_float32(const float32 *from) {
    words16 word;
    memcpy(&word, from, sizeof word);
    return word;
}
static inline words16 load_bfloat16(const bfloat16 *from) {
    halves16 half;
    memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, words16) << 16;
}
static inline floats load_floats(const float *from) {
    floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

#define BLOCKS(KIND)                                                                                           \
    static inline void write_block_##KIND(KIND *out, const float *entry, uint32_t sign, float c) {             \
        store_##KIND(out, (words16)(c * load_floats(entry)) ^ sign_bits(sign));                                \
    }                                                                                                          \
    static inline void add_block_##KIND(float *sum, const KIND *gradient, uint32_t sign, float c) {            \
        const floats total = load_floats(sum) + c * (floats)(load_##KIND(gradient) ^ sign_bits(sign));         \
        memcpy(sum, &total, sizeof total);                                                                     \
    }                                                                                                          \
    static inline void write_##KIND(KIND *restrict out, const float *restrict entry, uint32_t sign, float c,   \
                                    int64_t count) {                                                           \
        for (int64_t lane = 0; lane < count; lane++)                                                           \
            out[lane] = to_##KIND(bits(c * entry[lane]) ^ (sign << (31 - lane) & SIGN));                       \
    }                                                                                                          \
    static inline void add_##KIND(float *restrict sum, const KIND *restrict gradient, uint32_t sign, float c,  \
                                  int64_t count) {                                                             \
        for (int64_t lane = 0; lane < count; lane++)                                                           \
            sum[lane] += c * number(from_##KIND(gradient[lane]) ^ (sign << (31 - lane) & SIGN));               \
    }                                                                                                          \
    int gather_blocks_##KIND(const argument *given, int64_t first, int64_t last) {                             \
        const uint32_t *blocks = given[0].pointer;                                                             \
        const uint16_t *signs = given[1].pointer;                                                              \
        const int64_t *slot_blocks = given[2].pointer;                                                         \
        const int64_t *slot_size = given[3].pointer;                                                           \
        KIND *const *data = given[4].pointer;                                                                  \
        const float *scale = given[5].pointer;                                                                 \
        const float *ring = given[6].pointer;                                                                  \
        const int64_t *parts = given[7].pointer;                                                               \
        int64_t slot = 0;                                                                                      \
        for (int64_t block = parts[first]; block < parts[last]; block++) {                                     \
            while (block >= slot_blocks[slot + 1]) slot++;                                                     \
            const int64_t offset = 16 * (block - slot_blocks[slot]), left = slot_size[slot] - offset;          \
            const float *entry = ring + 16 * (int64_t)blocks[block];                                           \
            if (block + AHEAD < parts[last]) __builtin_prefetch(ring + 16 * (int64_t)blocks[block + AHEAD]);   \
            if (left >= 16) write_block_##KIND(data[slot] + offset, entry, signs[block], scale[slot]);         \
            else write_##KIND(data[slot] + offset, entry, signs[block], scale[slot], left);                    \
        }                                                                                                      \
        return 0;                                                                                              \
    }                                                                                                          \
    /* Small rings: in the order of positions, each part of them to a ring of its own. */                      \
    int scatter_blocks_##KIND(const argument *given, int64_t first, int64_t last) {                            \
        const uint32_t *blocks = given[0].pointer;                                                             \
        const uint16_t *signs = given[1].pointer;                                                              \
        const int64_t *slot_blocks = given[2].pointer;                                                         \
        const int64_t *slot_size = given[3].pointer;                                                           \
        KIND *const *data = given[4].pointer;                                                                  \
        const float *scale = given[5].pointer;                                                                 \
        float *sums = given[6].pointer;                                                                        \
        const int64_t dof = given[7].number;                                                                   \
        const int64_t *parts = given[8].pointer;                                                               \
        for (int64_t part = first; part < last; part++) {                                                      \
            float *sum = sums + part * dof;                                                                    \
            memset(sum, 0, dof * sizeof(float));                                                               \
            int64_t slot = 0;                                                                                  \
            for (int64_t block = parts[part]; block < parts[part + 1]; block++) {                              \
                while (block >= slot_blocks[slot + 1]) slot++;                                                 \
                if (!data[slot]) continue;                                                                     \
                const int64_t offset = 16 * (block - slot_blocks[slot]), left = slot_size[slot] - offset;      \
                float *entry = sum + 16 * (int64_t)blocks[block];                                              \
                if (left >= 16) add_block_##KIND(entry, data[slot] + offset, signs[block], scale[slot]);       \
                else add_##KIND(entry, data[slot] + offset, signs[block], scale[slot], left);                  \
            }                                                                                                  \
        }                                                                                                      \
        return 0;                                                                                              \
    }                                                                                                          \
    /* order: numbers of the blocks sorted by the ring's block, whose uses end at ends[ring block]. */         \
    int fold_blocks_##KIND(const argument *given, int64_t first, int64_t last) {                               \
        const uint32_t *order = given[0].pointer;                                                              \
        const uint16_t *slot_of = given[1].pointer;                                                            \
        const uint32_t *ends = given[2].pointer;                                                               \
        const uint16_t *signs = given[3].pointer;                                                              \
        const int64_t *slot_blocks = given[4].pointer;                                                         \
        const int64_t *slot_size = given[5].pointer;                                                           \
        KIND *const *data = given[6].pointer;                                                                  \
        const float *scale = given[7].pointer;                                                                 \
        float *sums = given[8].pointer;                                                                        \
        int64_t i = first ? ends[first - 1] : 0;                                                               \
        const int64_t uses = last ? ends[last - 1] : 0;                                                        \
        for (int64_t entry = first; entry < last; entry++) {                                                   \
            float sum[16] = {0};                                                                               \
            for (; i < ends[entry]; i++) {                                                                     \
                const int64_t block = order[i], slot = slot_of[i];                                             \
                const int64_t offset = 16 * (block - slot_blocks[slot]), left = slot_size[slot] - offset;      \
                if (i + AHEAD < uses) {                                                                        \
                    const int64_t later = slot_of[i + AHEAD];                                                  \
                    __builtin_prefetch(data[later] + 16 * (order[i + AHEAD] - slot_blocks[later]));            \
                }                                                                                              \
                if (!data[slot]) continue;                                                                     \
                if (left >= 16) add_block_##KIND(sum, data[slot] + offset, signs[block], scale[slot]);         \
                else add_##KIND(sum, data[slot] + offset, signs[block], scale[slot], left);                    \
            }                                                                                                  \
            memcpy(sums + 16 * entry, sum, sizeof sum);                                                        \
        }                                                                                                      \
        return 0;                                                                                              \
    }
BLOCKS(float32)
BLOCKS(bfloat16)
