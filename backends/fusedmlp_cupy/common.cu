// What every program begins with: types, numbers, row numbers, dropout's random words. Strict mode's
// is among them. device.py puts them together; this file is no program of its own.

#ifndef REAL
#error "compile with -DREAL=float or -DREAL=double"
#endif
typedef REAL real;
typedef unsigned char uint8;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;

#define KERNEL extern "C" __global__ void

// The order of fusedmlp.network.HIDDEN_ACTIVATIONS and OUTPUTS; kernels.py holds the same numbers.
enum { HIDDEN_SIGMOID, HIDDEN_TANH, HIDDEN_RELU, HIDDEN_IDENTITY };
enum { OUTPUT_SOFTMAX, OUTPUT_SIGMOID, OUTPUT_IDENTITY, OUTPUT_EXP };

// Block shapes that the sums below are written for: kernels.py holds the same numbers.
enum { ROW_LANES = 32, ROWS_PER_BLOCK = 4, COLUMN_LANES = 32, COLUMN_DEPTH = 8, SUM_THREADS = 256 };

// Those of fusedmlp/backend.py.
const double MAX_ROW_LOSS = 1e300, EXP_OVERFLOWS = 710;

// Scalars of a step that the host computes for the updates.
enum { RATE_COLUMNS = 5 };

// A cursor counts, on the device, the batches and the rows that a call has trained on. What kernels are
// told by value is meant from there on, so that a recorded launch is right wherever an epoch has got
// to: only `advance_cursor` writes it. Null where the values are meant from the call's begin.
enum { CURSOR_BATCHES, CURSOR_ROWS };

__device__ int64 batches_before(const int64* cursor) { return cursor ? cursor[CURSOR_BATCHES] : 0; }
__device__ int64 rows_before(const int64* cursor) { return cursor ? cursor[CURSOR_ROWS] : 0; }

__device__ int64 source_row(const int64* rows, int64 first, int row)
{
    return rows ? rows[first + row] : first + row;
}

// Philox4x32-10 as fusedmlp/backend.py defines the masks. They are computed where they are needed,
// forward and backward, and never stored.

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
// threshold is 64 bits wide because a tiny dropout rate rounds it up to 2^32, past every word.
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

// Whole numbers of a floating type's size, and its bits read as such.
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
