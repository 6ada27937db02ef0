// First part of every program: types, row numbers, dropout masks. source.py assembles the programs,
// with enumerations of activations, outputs and updates before it; this file is none of its own.

#ifndef REAL
#error "compile with -DREAL=float or -DREAL=double"
#endif
typedef unsigned char uint8;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;

#define KERNEL extern "C" __global__ void

// Threads that share one sum; arguments.py holds the same numbers. In strict mode one thread adds
// everything in ascending order, as the reference engine does.
#ifdef STRICT
enum { ROW_LANES = 1, COLUMN_DEPTH = 1, SUM_THREADS = 1 };
#else
enum { ROW_LANES = 32, COLUMN_DEPTH = 8, SUM_THREADS = 256 };
#endif
enum { ROWS_PER_BLOCK = 4, COLUMN_LANES = 32 };

// The constants of the same names in fusedmlp/backend.py and network.py.
const double MAX_ROW_LOSS = 1e300, EXP_OVERFLOWS = 710, LEAKY_RELU_SLOPE = 0.01;

// Columns of `rates`: scalars of a step that the host computes for the optimizers.
enum { RATE_COLUMNS = 5 };

// A cursor counts, on the device, the batches and rows that a call has trained on. Batch and row
// numbers in a launch's arguments are relative to it, so that a replayed launch is right at any point of
// an epoch. Only `advance_cursor` writes it. A null cursor means 0.
enum { CURSOR_BATCHES, CURSOR_ROWS };

__device__ int64 batches_before(const int64* cursor) { return cursor ? cursor[CURSOR_BATCHES] : 0; }
__device__ int64 rows_before(const int64* cursor) { return cursor ? cursor[CURSOR_ROWS] : 0; }

__device__ int64 source_row(const int64* rows, int64 first, int row)
{
    return rows ? rows[first + row] : first + row;
}

// Philox4x32-10, by which fusedmlp/backend.py defines the dropout masks. Masks are recomputed forward
// and backward and never stored.

struct Words { uint32 word[4]; };

__device__ Words philox4x32(uint32 c0, uint32 c1, uint32 c2, uint32 c3, uint32 k0, uint32 k1)
{
    for (int round = 0; round < 10; ++round) {
        const uint64 p0 = (uint64)c0 * 0xD2511F53u;
        const uint64 p1 = (uint64)c2 * 0xCD9E8D57u;
        c0 = (uint32)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32)p1;
        c2 = (uint32)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

// One call serves four neighbouring units: bit u is set where unit 4·group + u is kept. The
// threshold is 64 bits wide because a tiny dropout rate rounds it up to 2^32, above every word.
__device__ uint32 kept_units(
    int group, int row, uint32 step, uint32 layer, uint32 seed_low, uint32 seed_high,
    uint64 threshold)
{
    const Words words = philox4x32((uint32)group, (uint32)row, step, layer, seed_low, seed_high);
    uint32 kept = 0;
    for (int unit = 0; unit < 4; ++unit)
        kept |= (uint32)(words.word[unit] < threshold) << unit;
    return kept;
}

// Integers of a floating type's size, and the bits of a number as such an integer.
template <typename T> struct Whole;
template <> struct Whole<float> { typedef int type; typedef uint32 wrapping; };
template <> struct Whole<double> { typedef int64 type; typedef uint64 wrapping; };

template <typename T>
__device__ typename Whole<T>::type bits(T x)
{
    union { T real; typename Whole<T>::type whole; } both;
    both.real = x;
    return both.whole;
}

template <typename T>
__device__ T from_bits(typename Whole<T>::wrapping n)
{
    union { T real; typename Whole<T>::wrapping whole; } both;
    both.whole = n;
    return both.real;
}
