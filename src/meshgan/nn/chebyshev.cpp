// Chains of Chebyshev convolutions on the CPU, forward and backward: the compiled path of nn/kernel.py.
//
// One layer computes y = act(sum_k T_k(L) x W_k + b) between the vertices of a graph ("fine", where L lives) and those
// of the level next to it ("coarse"). Sums over the channels are done on the coarse side, where there are a quarter as
// many vertices, because they commute with everything that acts on vertices:
//   an expanding layer multiplies first, p_k = x W_k, then spreads p_k to the fine vertices and sums over k by
//   Clenshaw's recurrence; its backward pass runs the recurrence of T_k(L') and collects each term on the coarse side;
//   a reducing layer runs the recurrence of T_k(L), collects each term at the vertices that are kept, and multiplies
//   last; its backward pass is Clenshaw's recurrence.
// So two sparse routines (clenshaw, recurrence) and two dense ones (multiply, accumulate) make all four passes.
//
// The sparse routines are bound by loads, so a row of a field holds SIDE samples of 16 channels next to each other: each
// entry of a matrix is read once for all of them. Fields of three coordinates have four samples in 16 lanes. Both
// routines advance in waves: step k works on a block of rows as soon as step k - 1 has passed the block's last
// neighbour, so that even the fields of a large mesh stay in the second cache from one step to the next.
//
// Every sample is computed by one thread, with the same operations in the same order whatever the number of threads;
// gradients of weights are summed for each sample, then over the samples in their order.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <pthread.h>
#include <system_error>
#include <thread>
#include <vector>

// WIDTH floats in a register; the rest says how many of them the dense routines use at a time.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILE = 24, STRIPE = 6, OUTER = 16, NARROW_TILE = 12;
#elif defined(__AVX2__) || defined(__AVX__)
constexpr int WIDTH = 8, TILE = 6, STRIPE = 2, OUTER = 4, NARROW_TILE = 4;
#else
constexpr int WIDTH = 4, TILE = 3, STRIPE = 1, OUTER = 2, NARROW_TILE = 2;
#endif
constexpr long VERSION = 4;       // to be raised, here and in kernel.py, whenever a call or a struct changes its meaning
constexpr int LANES = 16;         // floats in a row
constexpr int PARTS = LANES / WIDTH;
constexpr int COORDINATES = 4;    // lanes of one sample in a row of a narrow field
constexpr int NARROW_TERMS = 6;   // terms of a narrow field that are multiplied at a time, in 24 lanes
constexpr int GROUP = 4;          // samples in a row of a narrow field, and the most that a thread takes at a time
constexpr int DENSE_ROWS = 64;    // rows that are collected before they are multiplied

typedef float Vector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(WIDTH * 4)));
typedef float Lanes __attribute__((vector_size(WIDTH * 4)));

struct Row {
    Lanes part[PARTS];
};

// Half a row, for the terms of narrow fields.
constexpr int HALF_WIDTH = WIDTH > 8 ? 8 : WIDTH, HALF_PARTS = 8 / HALF_WIDTH;
typedef float HalfVector __attribute__((vector_size(HALF_WIDTH * 4), aligned(4), may_alias));
typedef float HalfLanes __attribute__((vector_size(HALF_WIDTH * 4)));
typedef float Quarter __attribute__((vector_size(16), aligned(4), may_alias));
struct Half {
    HalfLanes part[HALF_PARTS];
};

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

static INLINE Row zero() {
    Row row;
    for (int i = 0; i < PARTS; ++i) row.part[i] = Lanes{};
    return row;
}
static INLINE Row load(const float* from) {
    Row row;
    for (int i = 0; i < PARTS; ++i) row.part[i] = *(const Vector*)(from + i * WIDTH);
    return row;
}
static INLINE void store(float* to, const Row& row) {
    for (int i = 0; i < PARTS; ++i) *(Vector*)(to + i * WIDTH) = row.part[i];
}
static INLINE void add_scaled(Row& sum, float factor, const Row& row) {
    for (int i = 0; i < PARTS; ++i) sum.part[i] += factor * row.part[i];
}
static INLINE Row operator+(Row a, const Row& b) {
    for (int i = 0; i < PARTS; ++i) a.part[i] += b.part[i];
    return a;
}
static INLINE Row operator-(Row a, const Row& b) {
    for (int i = 0; i < PARTS; ++i) a.part[i] -= b.part[i];
    return a;
}

static INLINE void add_scaled(Half& sum, float factor, const Half& half) {
    for (int i = 0; i < HALF_PARTS; ++i) sum.part[i] += factor * half.part[i];
}
// Four lanes from `I` on.
template <int I, class Wide>
static INLINE Quarter quarter(const Wide& wide) {
    constexpr int N = sizeof(wide.part[0]) / 4, J = I % N;
    return __builtin_shufflevector(wide.part[I / N], wide.part[I / N], J, J + 1, J + 2, J + 3);
}

// A row of four samples' coordinates.
static INLINE Row row_of(Quarter a, Quarter b, Quarter c, Quarter d) {
    Row row;
#if defined(__AVX512F__)
    typedef float Eight __attribute__((vector_size(32)));
    const Eight low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
    const Eight high = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
    row.part[0] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__) || defined(__AVX__)
    row.part[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
    row.part[1] = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
#else
    row.part[0] = a, row.part[1] = b, row.part[2] = c, row.part[3] = d;
#endif
    return row;
}

// exp(x) - 1 for x <= 0, to float rounding; NaN stays NaN.
static INLINE Lanes exponential_minus_one(Lanes x) {
    const Lanes floor = Lanes{} - 80.0f, shift = Lanes{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    x = x < floor ? floor : x;
    const Lanes shifted = x * 1.44269504f + shift;
    const Lanes n = shifted - shift;
    const Lanes r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    const Lanes power = (Lanes)(((Bits)shifted - (0x4B400000 - 127)) << 23);
    Lanes sum = r * (1.0f / 5040) + (1.0f / 720);
    sum = sum * r + (1.0f / 120);
    sum = sum * r + (1.0f / 24);
    sum = sum * r + (1.0f / 6);
    sum = sum * r + 0.5f;
    sum = sum * r * r + r;
    return power * sum + (power - 1.0f);
}
static INLINE Row elu(Row row) {
    for (int i = 0; i < PARTS; ++i) row.part[i] = row.part[i] > 0.0f ? row.part[i] : exponential_minus_one(row.part[i]);
    return row;
}
// The derivative of ELU, from its output, times a gradient.
static INLINE Row through_elu(Row gradient, const Row& output) {
    for (int i = 0; i < PARTS; ++i)
        gradient.part[i] = output.part[i] > 0.0f ? gradient.part[i] : gradient.part[i] * (output.part[i] + 1.0f);
    return gradient;
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers as Python describes them

struct Entry {
    int32_t offset;  // column * LANES
    float value;
};
// Consecutive rows, up to `end`, of `first` entries that multiply one field and `second` entries that multiply another.
struct Run {
    int32_t end;
    int16_t first, second;
};
// A sparse matrix, or two side by side, cut into the blocks that one step of a recurrence works on.
struct Sparse {
    const Run* runs;
    const Entry* entries;
    const int32_t* run_start;    // (blocks + 1,)
    const int32_t* entry_start;  // (blocks + 1,)
};
struct Layer {
    int32_t expands, elu, narrow;             // narrow: the fine side has at most four channels, and it is the chain's end
    int32_t fine, coarse;                     // vertices
    int32_t inputs, outputs, terms;           // channels, terms of the polynomial
    int32_t block, blocks, lag, collect_lag;  // rows of a block, their number; how far apart consecutive steps stay
    Sparse clenshaw;                          // rows of the fine side: Laplacian (forward) or its transpose, then spread
    Sparse recurrence;                        // rows of the fine side: the other of the two
    Sparse collect;                           // rows of the coarse side: spread, transposed; none if that is 1
    Sparse last;                              // reducing: rows of the coarse side: those of `recurrence`, then -collect
    const int32_t* needed;                    // (blocks,): coarse rows below this serve the fine blocks up to this one
    const int32_t* ready;                     // (blocks,): coarse rows below this need no fine block beyond this one
    const int32_t* order;                     // (fine,), narrow: where a row lies outside the chain, or null
};

// A layer with its parameters: weight (terms, inputs, outputs) and bias (outputs,), and where their gradients go.
struct Convolution : Layer {
    const float *weight, *bias;
    float *weight_gradient, *bias_gradient;
};

// `parameters` and `gradients` hold weight and bias of each layer in turn.
static std::vector<Convolution> convolutions(const Layer* layers, int count, const float* const* parameters,
                                             float* const* gradients) {
    std::vector<Convolution> result;
    for (int l = 0; l < count; ++l) {
        float* const weight_gradient = gradients ? gradients[2 * l] : nullptr;
        float* const bias_gradient = gradients ? gradients[2 * l + 1] : nullptr;
        result.push_back({layers[l], parameters[2 * l], parameters[2 * l + 1], weight_gradient, bias_gradient});
    }
    return result;
}

static INLINE long padded(long channels) { return (channels + LANES - 1) / LANES * LANES; }

static long inputs_of(const Layer& layer) { return layer.narrow && !layer.expands ? COORDINATES : padded(layer.inputs); }
static long outputs_of(const Layer& layer) { return layer.narrow && layer.expands ? COORDINATES : padded(layer.outputs); }
static long rows_in(const Layer& layer) { return layer.expands ? layer.coarse : layer.fine; }
static long rows_out(const Layer& layer) { return layer.expands ? layer.fine : layer.coarse; }
static long groups_of(const Layer& layer) { return layer.narrow ? 1 : padded(layer.expands ? layer.outputs : layer.inputs) / LANES; }
// Channels on the fine side that take part in sums over channels, of each group of lanes.
static long summed_of(const Layer& layer) { return layer.narrow ? (layer.expands ? layer.outputs : layer.inputs) : LANES; }
// Channels on the coarse side.
static long coarse_channels(const Layer& layer) { return padded(layer.expands ? layer.inputs : layer.outputs); }
static long weight_slots(const Layer& layer) {
    return groups_of(layer) * layer.terms * summed_of(layer) * coarse_channels(layer);
}
static long bias_slots(const Layer& layer) { return padded(layer.outputs); }
// Terms at the kept vertices, which the backward pass of a reducing layer needs.
static long kept_terms(const Layer& layer) {
    if (layer.expands) return 0;
    return (long)layer.coarse * groups_of(layer) * layer.terms * (layer.narrow ? COORDINATES : LANES);
}

// Calls `visit(fine channel's group, term, lane, where the coarse channels start, how far apart they are)`: `weight` is
// (terms, inputs, outputs), and the fine side's channels are an expanding layer's outputs, a reducing layer's inputs.
template <class Visit>
static void each_weight(const Layer& layer, Visit visit) {
    const long fine = layer.expands ? layer.outputs : layer.inputs;
    const long fine_step = layer.expands ? 1 : layer.outputs, coarse_step = layer.expands ? layer.outputs : 1;
    for (long k = 0; k < layer.terms; ++k)
        for (long channel = 0; channel < fine; ++channel)
            visit(channel / LANES, k, channel % LANES, k * layer.inputs * layer.outputs + channel * fine_step, coarse_step);
}

// Weights as the dense routines read them: rows of the coarse side's channels, [group, term, lane][coarse channel], for
// sums over terms; or rows of terms, [group][coarse channel][term, lane], for their projection. Padded with zeros.
struct Packed {
    std::vector<float> weights, bias;
    long stride = 0;  // of a row of terms
};

static Packed pack(const Convolution& layer, bool rows_of_terms) {
    const long groups = groups_of(layer), summed = summed_of(layer), channels = coarse_channels(layer);
    const long used = layer.expands ? layer.inputs : layer.outputs;
    const long lanes = layer.narrow ? COORDINATES : LANES, sixes = (layer.terms + NARROW_TERMS - 1) / NARROW_TERMS;
    Packed packed;
    packed.stride = layer.narrow ? sixes * NARROW_TERMS * COORDINATES : layer.terms * LANES;
    packed.weights.assign(rows_of_terms ? groups * channels * packed.stride : weight_slots(layer), 0.0f);
    each_weight(layer, [&](long group, long k, long lane, long from, long step) {
        float* to = packed.weights.data();
        to += rows_of_terms ? group * channels * packed.stride + k * lanes + lane
                            : ((group * layer.terms + k) * summed + lane) * channels;
        const long to_step = rows_of_terms ? packed.stride : 1;
        for (long c = 0; c < used; ++c) to[c * to_step] = layer.weight[from + c * step];
    });
    packed.bias.assign(padded(layer.outputs), 0.0f);
    memcpy(packed.bias.data(), layer.bias, layer.outputs * sizeof(float));
    return packed;
}

static std::vector<Packed> pack(const std::vector<Convolution>& layers, bool backward) {
    std::vector<Packed> packed;
    for (const Convolution& layer : layers) packed.push_back(pack(layer, (bool)layer.expands != backward));
    return packed;
}

// Puts gradients back into the order of the parameters.
static void unpack(const Convolution& layer, const float* sums) {
    const long summed = summed_of(layer), channels = coarse_channels(layer);
    const long used = layer.expands ? layer.inputs : layer.outputs;
    each_weight(layer, [&](long group, long k, long lane, long to, long to_step) {
        const float* const from = sums + ((group * layer.terms + k) * summed + lane) * channels;
        for (long c = 0; c < used; ++c) layer.weight_gradient[to + c * to_step] = from[c];
    });
    memcpy(layer.bias_gradient, sums + weight_slots(layer), layer.outputs * sizeof(float));
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense routines

// What becomes of the sums: stored, added to what is there, or finished as a layer's output.
enum Finish { STORE, ADD, OUTPUT };

// The left factor A[m; k, c]: rows of `terms` runs of `count` numbers, the runs `step` apart.
struct Left {
    const float* at;
    long row, terms, step, count;
};
// The right factor B[(k, c)][n] or B[m][n]: `columns` numbers in rows `row` apart.
struct Right {
    const float* at;
    long columns, row;
};
// Where sums go: column n of row m lies at `m * row + n / LANES * step + n % LANES`.
struct Target {
    float* at;
    long row, step;
    const float* bias;
    bool activate;
};

template <int M, int N, Finish FINISH>
static INLINE void multiply_tile(const Left& left, const Right& right, const Target& target, long m, long n) {
    Row sum[M][N];
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) sum[i][j] = zero();
    const float* a = left.at + m * left.row;
    const float* b = right.at + n;
    for (long k = 0; k < left.terms; ++k, a += left.step)
        for (long c = 0; c < left.count; ++c, b += right.row) {
            Row row[N];
            for (int j = 0; j < N; ++j) row[j] = load(b + j * LANES);
            for (int i = 0; i < M; ++i) {
                const float factor = a[i * left.row + c];
                for (int j = 0; j < N; ++j) add_scaled(sum[i][j], factor, row[j]);
            }
        }
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            float* const to = target.at + (m + i) * target.row + (n / LANES + j) * target.step;
            if (FINISH == ADD) sum[i][j] = sum[i][j] + load(to);
            if (FINISH == OUTPUT) {
                sum[i][j] = sum[i][j] + load(target.bias + n + j * LANES);
                if (target.activate) sum[i][j] = elu(sum[i][j]);
            }
            store(to, sum[i][j]);
        }
}

template <int N, Finish FINISH>
static void multiply_stripe(const Left& left, const Right& right, const Target& target, long from, long end, long n) {
    constexpr int M = TILE / N > 16 ? 16 : TILE / N;
    long m = from;
    for (; m + M <= end; m += M) multiply_tile<M, N, FINISH>(left, right, target, m, n);
    for (; m < end; ++m) multiply_tile<1, N, FINISH>(left, right, target, m, n);
}

// target[m][n] = sum over (k, c) of A[m; k, c] B[(k, c)][n], for rows from <= m < end.
template <Finish FINISH>
static void multiply(const Left& left, const Right& right, const Target& target, long from, long end) {
    constexpr int WIDE = STRIPE >= 6 ? 6 : 1, HALF = STRIPE >= 3 ? 3 : 1, PAIR = STRIPE >= 2 ? 2 : 1;
    long n = 0;
    const auto left_over = [&](int rows) { return right.columns - n >= rows * LANES; };
    for (; left_over(WIDE); n += WIDE * LANES) multiply_stripe<WIDE, FINISH>(left, right, target, from, end, n);
    for (; left_over(HALF); n += HALF * LANES) multiply_stripe<HALF, FINISH>(left, right, target, from, end, n);
    for (; left_over(PAIR); n += PAIR * LANES) multiply_stripe<PAIR, FINISH>(left, right, target, from, end, n);
    for (; left_over(1); n += LANES) multiply_stripe<1, FINISH>(left, right, target, from, end, n);
}

// M rows of six terms of a narrow field: term k of row m goes to `to + k * step + m * LANES`.
template <int M>
static INLINE void multiply_narrow_tile(const float* left, long row, long channels, const Right& right, float* to,
                                        long step, long terms) {
    Row first[M];
    Half second[M];
    for (int i = 0; i < M; ++i) first[i] = zero(), second[i] = Half{};
    const float* b = right.at;
    for (long c = 0; c < channels; ++c, b += right.row) {
        const Row four = load(b);
        Half two;
        for (int i = 0; i < HALF_PARTS; ++i) two.part[i] = *(const HalfVector*)(b + LANES + i * HALF_WIDTH);
        for (int i = 0; i < M; ++i) {
            add_scaled(first[i], left[i * row + c], four);
            add_scaled(second[i], left[i * row + c], two);
        }
    }
    for (int i = 0; i < M; ++i, to += LANES) {
        *(Quarter*)to = quarter<0>(first[i]);
        if (terms > 1) *(Quarter*)(to + step) = quarter<4>(first[i]);
        if (terms > 2) *(Quarter*)(to + 2 * step) = quarter<8>(first[i]);
        if (terms > 3) *(Quarter*)(to + 3 * step) = quarter<12>(first[i]);
        if (terms > 4) *(Quarter*)(to + 4 * step) = quarter<0>(second[i]);
        if (terms > 5) *(Quarter*)(to + 5 * step) = quarter<4>(second[i]);
    }
}

// The product of rows [from, end) of one sample with the weights of all terms of a narrow field.
static void multiply_narrow(const Left& left, const Right& right, long from, long end, float* to, long step, long terms) {
    for (long k = 0; k < terms; k += NARROW_TERMS) {
        const Right some = {right.at + k * COORDINATES, right.columns, right.row};
        float* const out = to + k * step;
        long m = from;
        for (; m + NARROW_TILE <= end; m += NARROW_TILE)
            multiply_narrow_tile<NARROW_TILE>(left.at + m * left.row, left.row, left.count, some, out + m * LANES, step,
                                              terms - k);
        for (; m < end; ++m)
            multiply_narrow_tile<1>(left.at + m * left.row, left.row, left.count, some, out + m * LANES, step, terms - k);
    }
}

template <int K, int C>
static INLINE void accumulate_tile(const Left& left, const float* a, const Right& right, long n, long from, long end,
                                   float* to) {
    const long columns = right.columns;
    const float* const b = right.at + n;
    Row sum[K * C];
    for (int i = 0; i < K * C; ++i) sum[i] = load(to + i * columns);
    for (long m = from; m < end; ++m) {
        const Row row = load(b + m * right.row);
        for (int k = 0; k < K; ++k)
            for (int c = 0; c < C; ++c) add_scaled(sum[k * C + c], a[m * left.row + k * left.step + c], row);
    }
    for (int i = 0; i < K * C; ++i) store(to + i * columns, sum[i]);
}

// to[(k, c)][n] += sum over m of A[m; k, c] B[m][n]: the gradient of the weights.
static void accumulate(const Left& left, const Right& right, long from, long end, float* to) {
    const long columns = right.columns;
    for (long n = 0; n < columns; n += LANES)
        for (long k = 0; k < left.terms;) {
            const float* const a = left.at + k * left.step;
            float* const sums = to + k * left.count * columns + n;
            if (OUTER >= 16 && left.count == 3 && k + 6 <= left.terms) {
                accumulate_tile<6, 3>(left, a, right, n, from, end, sums);
                k += 6;
                continue;
            }
            long c = 0;
            for (; c + OUTER <= left.count; c += OUTER)
                accumulate_tile<1, OUTER>(left, a + c, right, n, from, end, sums + c * columns);
            for (; c < left.count; ++c)
                accumulate_tile<1, 1>(left, a + c, right, n, from, end, sums + c * columns);
            ++k;
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sparse routines, on fields whose rows are SIDE times LANES floats

// to = factor first(field) + second(other) - minus, where minus may be `to`; some parts are left out by kind.
enum Kind { SECOND_ONLY, BOTH, BOTH_MINUS };

struct Product {
    const float* field;
    float factor;
    const float* other;
    const float* minus;
    float* to;
};

template <int SIDE>
static INLINE void add_entry(Row* sum, const Entry& entry, const float* field) {
    for (int s = 0; s < SIDE; ++s) add_scaled(sum[s], entry.value, load(field + ((long)entry.offset * SIDE + s * LANES)));
}

// Rows with N and M entries, or with as many as the run says if N is negative.
template <int SIDE, Kind KIND, int N, int M>
static INLINE const Entry* multiply_run(const Run& run, const Entry* entry, const Product& product, long row) {
    for (; row < run.end; ++row) {
        Row first[SIDE], second[SIDE];
        for (int s = 0; s < SIDE; ++s) first[s] = second[s] = zero();
        if (N < 0) {
            if (KIND != SECOND_ONLY)
                for (int i = 0; i < run.first; ++i) add_entry<SIDE>(first, entry[i], product.field);
            entry += run.first;
            for (int i = 0; i < run.second; ++i) add_entry<SIDE>(second, entry[i], product.other);
            entry += run.second;
        } else {
#pragma GCC unroll 16
            for (int i = 0; i < N; ++i) add_entry<SIDE>(first, entry[i], product.field);
#pragma GCC unroll 16
            for (int i = N; i < N + M; ++i) add_entry<SIDE>(second, entry[i], product.other);
            entry += N + M;
        }
        for (int s = 0; s < SIDE; ++s) {
            const long at = (row * SIDE + s) * LANES;
            if (KIND == BOTH_MINUS) second[s] = second[s] - load(product.minus + at);
            if (KIND != SECOND_ONLY) add_scaled(second[s], product.factor, first[s]);
            store(product.to + at, second[s]);
        }
    }
    return entry;
}

// One block of rows, the first of which is `row`.
template <int SIDE, Kind KIND>
static void multiply_sparse(const Sparse& matrix, long block, long row, const Product& product) {
    const Entry* entry = matrix.entries + matrix.entry_start[block];
    const Run* const end = matrix.runs + matrix.run_start[block + 1];
    for (const Run* run = matrix.runs + matrix.run_start[block]; run != end; row = run->end, ++run) {
        switch (KIND == SECOND_ONLY || run->second > 3 ? -1 : run->first * 4 + run->second) {
#define RUN(N, M)                                                               \
    case N * 4 + M:                                                             \
        entry = multiply_run<SIDE, KIND, N, M>(*run, entry, product, row);      \
        break;
#define RUNS(N) RUN(N, 0) RUN(N, 1) RUN(N, 2) RUN(N, 3)
            RUN(1, 0) RUN(2, 0) RUN(3, 0) RUNS(4) RUNS(5) RUNS(6) RUNS(7) RUNS(8) RUNS(9) RUN(10, 0) RUN(11, 0) RUN(12, 0)
#undef RUNS
#undef RUN
            default:
                entry = multiply_run<SIDE, KIND, -1, -1>(*run, entry, product, row);
        }
    }
}

static INLINE long block_end(const Layer& layer, long block) {
    return block + 1 == layer.blocks ? layer.fine : (block + 1) * layer.block;
}

// Clenshaw's recurrence for sum_k T_k(L) S p_k: b_k = S p_k + 2 L b_{k+1} - b_{k+2}, the last with 1 L. `parts` holds
// p_0, p_1, ... one after the other. `produce(row)` is called before coarse rows below `row` are read;
// `finish(from, end, rows)` takes the results. `fields` is room for two fields.
template <int SIDE, class Produce, class Finish>
static INLINE void clenshaw(const Layer& layer, const float* parts, float* fields, Produce produce, Finish finish) {
    const long terms = layer.terms, size = (long)layer.fine * SIDE * LANES, lag = layer.lag;
    for (long time = 0; time < layer.blocks + (terms - 1) * lag; ++time) {
        if (time < layer.blocks) produce(layer.needed[time]);
        for (long step = 0; step < terms; ++step) {
            const long block = time - step * lag;
            if (block < 0) break;
            if (block >= layer.blocks) continue;
            const long k = terms - 1 - step, row = block * layer.block;
            float* const to = fields + (step & 1) * size;
            const float* const before = fields + ((step & 1) ^ 1) * size;
            const Product product = {before, k ? 2.0f : 1.0f, parts + k * layer.coarse * SIDE * LANES, to, to};
            if (step == 0)
                multiply_sparse<SIDE, SECOND_ONLY>(layer.clenshaw, block, row, product);
            else if (step == 1)
                multiply_sparse<SIDE, BOTH>(layer.clenshaw, block, row, product);
            else
                multiply_sparse<SIDE, BOTH_MINUS>(layer.clenshaw, block, row, product);
            if (!k) finish(row, block_end(layer, block), to);
        }
    }
}

// The recurrence T_k = 2 L T_{k-1} - T_{k-2} from T_0 = `first`, which `start(from, end)` fills row by row. Terms are
// collected on the coarse side as soon as rows are complete: `collected(k)` says where term k goes, `done(k, end)` that its
// rows below `end` are there. `fields` is room for two fields. Without a matrix to collect by, the terms themselves are
// wanted, and `first` is the place of T_0.
template <int SIDE, class Start, class Collected, class Done>
static INLINE void recurrence(const Layer& layer, const float* first, float* fields, Start start, Collected collected,
                              Done done) {
    const long terms = layer.terms, size = (long)layer.fine * SIDE * LANES, lag = layer.collect_lag;
    const bool collects = layer.collect.runs != nullptr;
    const bool shortcut = !layer.expands && terms > 3;  // the last term is wanted at the kept vertices only
    const auto place = [&](long k) -> float* {
        if (!collects) return collected(k);
        return k ? fields + (k & 1) * size : (float*)first;
    };
    for (long time = 0; time < layer.blocks + (terms - 1) * lag; ++time) {
        for (long k = 0; k < terms; ++k) {
            const long block = time - k * lag;
            if (block < 0) break;
            if (block >= layer.blocks) continue;
            const long row = block * layer.block, coarse_row = block ? layer.ready[block - 1] : 0;
            const float factor = k == 1 ? 1.0f : 2.0f;
            if (k == 0) start(row, block_end(layer, block));
            if (shortcut && k == terms - 1) {
                const Product last = {place(k - 1), factor, place(k - 2), nullptr, collected(k)};
                multiply_sparse<SIDE, BOTH>(layer.last, block, coarse_row, last);
            } else {
                if (k > 1)
                    multiply_sparse<SIDE, BOTH_MINUS>(layer.recurrence, block, row,
                                                      {place(k - 1), factor, nullptr, place(k - 2), place(k)});
                else if (k)
                    multiply_sparse<SIDE, BOTH>(layer.recurrence, block, row,
                                                {place(0), factor, nullptr, nullptr, place(1)});
                if (collects)
                    multiply_sparse<SIDE, BOTH>(layer.collect, block, coarse_row,
                                                {place(k), 1.0f, nullptr, nullptr, collected(k)});
            }
            done(k, layer.ready[block]);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers: SIDE samples of a wide layer, or up to GROUP samples of a narrow one

// Where the samples of a field lie.
struct Field {
    float* at;
    long row, one, two;  // from a row to the next, from sample 0 to sample 1, from sample 0 to sample 2

    float* of(int sample) const { return at + (sample & 1) * one + (sample >> 1) * two; }
};

// Memory of one thread, kept for the next call.
struct Scratch {
    float* memory = nullptr;
    size_t size = 0;
    float* reserve(size_t floats) {
        if (floats > size) {
            free(memory);
            memory = (float*)aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
            size = memory ? floats : 0;
        }
        return memory;
    }
    ~Scratch() { free(memory); }
};

static size_t room(const Layer& layer, int side) {
    const size_t fields = 3 * (size_t)layer.fine * LANES;
    const size_t parts = (size_t)layer.coarse * layer.terms * LANES;
    const size_t gradient = (size_t)layer.coarse * padded(layer.outputs) * GROUP;
    return (fields + parts) * side + gradient;
}

// Rows [from, end) of all p_k = x W_k, for each sample.
template <int SIDE>
static void project(const Layer& layer, const Packed& packed, long group, const Field& inputs, int samples, long from,
                    long end, float* parts) {
    const long channels = coarse_channels(layer), size = (long)layer.coarse * SIDE * LANES;
    const Right right = {packed.weights.data() + group * channels * packed.stride, packed.stride, packed.stride};
    for (int s = 0; s < samples; ++s) {
        const Left left = {inputs.of(s), inputs.row, 1, 0, channels};
        if (layer.narrow)
            multiply_narrow(left, right, from, end, parts + s * COORDINATES, size, layer.terms);
        else
            multiply<STORE>(left, right, {parts + s * LANES, SIDE * LANES, size, nullptr, false}, from, end);
    }
}

// sum_k T_k(L) S (x W_k) for one group of channels; `finish(from, end, rows)` takes the results.
template <int SIDE, class Finish>
static INLINE void spread(const Layer& layer, const Packed& packed, long group, const Field& inputs, int samples,
                          float* memory, Finish finish) {
    float* const fields = memory;
    float* const parts = fields + 2 * (size_t)layer.fine * SIDE * LANES;
    if (layer.narrow && samples < GROUP) memset(parts, 0, sizeof(float) * layer.coarse * layer.terms * LANES);
    long done = 0;
    const auto produce = [&](long end) {
        if (end <= done) return;
        project<SIDE>(layer, packed, group, inputs, samples, done, end, parts);
        done = end;
    };
    clenshaw<SIDE>(layer, parts, fields, produce, finish);
}

static INLINE long place_of(const Layer& layer, long row) { return layer.order ? layer.order[row] : row; }

// Row `row` of one sample of a narrow field outside the chain, in which it is row `place`; missing channels are zero.
static INLINE Quarter coordinates(const Field& field, int sample, int samples, long place, long channels) {
    Quarter value = {};
    if (sample >= samples) return value;
    const float* const from = field.of(sample) + place * channels;
    if (channels == 3) return Quarter{from[0], from[1], from[2], 0.0f};
    for (long c = 0; c < channels; ++c) value[c] = from[c];
    return value;
}
static INLINE Row gather_narrow(const Field& field, int samples, long place, long channels) {
    return row_of(coordinates(field, 0, samples, place, channels), coordinates(field, 1, samples, place, channels),
                  coordinates(field, 2, samples, place, channels), coordinates(field, 3, samples, place, channels));
}
static INLINE void put_coordinates(Quarter value, const Field& field, int sample, int samples, long place, long channels) {
    if (sample >= samples) return;
    float* const to = field.of(sample) + place * channels;
    if (channels == 3)
        to[0] = value[0], to[1] = value[1], to[2] = value[2];
    else
        for (long c = 0; c < channels; ++c) to[c] = value[c];
}
static INLINE void scatter_narrow(const Row& value, const Field& field, int samples, long place, long channels) {
    put_coordinates(quarter<0>(value), field, 0, samples, place, channels);
    put_coordinates(quarter<4>(value), field, 1, samples, place, channels);
    put_coordinates(quarter<8>(value), field, 2, samples, place, channels);
    put_coordinates(quarter<12>(value), field, 3, samples, place, channels);
}

template <int SIDE>
static void expand_forward(const Convolution& layer, const Packed& packed, const Field& inputs, const Field& outputs,
                           int samples, float* memory) {
    const bool activate = layer.elu;
    if (layer.narrow) {
        float lanes[LANES] = {};
        for (int s = 0; s < GROUP; ++s) memcpy(lanes + s * COORDINATES, layer.bias, layer.outputs * sizeof(float));
        const auto finish = [&](long from, long end, const float* rows) {
            for (long row = from; row < end; ++row) {
                const Row value = load(rows + row * LANES) + load(lanes);
                scatter_narrow(activate ? elu(value) : value, outputs, samples, place_of(layer, row), layer.outputs);
            }
        };
        return spread<SIDE>(layer, packed, 0, inputs, samples, memory, finish);
    }
    for (long group = 0; group < groups_of(layer); ++group) {
        const float* const bias = packed.bias.data() + group * LANES;
        const auto finish = [&](long from, long end, const float* rows) {
            for (int s = 0; s < SIDE; ++s) {
                float* const to = outputs.of(s) + group * LANES;
                for (long row = from; row < end; ++row) {
                    const Row value = load(rows + (row * SIDE + s) * LANES) + load(bias);
                    store(to + row * outputs.row, activate ? elu(value) : value);
                }
            }
        };
        spread<SIDE>(layer, packed, group, inputs, samples, memory, finish);
    }
}

// Rows [from, end) of the gradient before the activation; `sums` adds them up, for the gradient of the bias.
template <int SIDE>
static void expand_gradient(const Layer& layer, long group, const Field& outputs, const Field& gradients, int samples,
                            long from, long end, float* to, Row* sums) {
    if (layer.narrow) {
        for (long row = from; row < end; ++row) {
            const long place = place_of(layer, row);
            Row gradient = gather_narrow(gradients, samples, place, layer.outputs);
            if (layer.elu) gradient = through_elu(gradient, gather_narrow(outputs, samples, place, layer.outputs));
            sums[0] = sums[0] + gradient;
            store(to + row * LANES, gradient);
        }
        return;
    }
    for (int s = 0; s < SIDE; ++s) {
        const float* const incoming = gradients.of(s) + group * LANES;
        const float* const result = outputs.of(s) + group * LANES;
        Row sum = sums[s];
        for (long row = from; row < end; ++row) {
            Row gradient = load(incoming + row * gradients.row);
            if (layer.elu) gradient = through_elu(gradient, load(result + row * outputs.row));
            sum = sum + gradient;
            store(to + (row * SIDE + s) * LANES, gradient);
        }
        sums[s] = sum;
    }
}

// Gradients of an expanding layer; those of the inputs and the `slots` may be null. Sums for the weights go to `slots`,
// one for each sample.
template <int SIDE>
static void expand_backward(const Layer& layer, const Packed& packed, const Field& inputs, const Field& outputs,
                            const Field& gradients, const Field& input_gradients, float* const* slots, int samples,
                            float* memory) {
    const long channels = coarse_channels(layer), summed = summed_of(layer);
    const long size = (long)layer.coarse * SIDE * LANES, lanes = layer.narrow ? COORDINATES : LANES;
    float* const fields = memory;
    float* const terms = fields + 3 * (size_t)layer.fine * SIDE * LANES;
    float* const first = layer.collect.runs ? terms - (size_t)layer.fine * SIDE * LANES : terms;
    for (long group = 0; group < groups_of(layer); ++group) {
        const long weights = group * layer.terms * summed * channels;
        Row sums[SIDE];
        for (int s = 0; s < SIDE; ++s) sums[s] = zero();
        const auto start = [&](long from, long end) {
            expand_gradient<SIDE>(layer, group, outputs, gradients, samples, from, end, first, sums);
        };
        long from = 0;
        const auto done = [&](long k, long end) {
            if (k < layer.terms - 1 || (end - from < DENSE_ROWS && end < layer.coarse)) return;
            for (int s = 0; s < samples; ++s) {
                const Left left = {terms + s * lanes, SIDE * LANES, layer.terms, size, summed};
                const Right right = {packed.weights.data() + weights, channels, channels};
                if (input_gradients.at) {
                    const Target target = {input_gradients.of(s), input_gradients.row, LANES, nullptr, false};
                    if (group)
                        multiply<ADD>(left, right, target, from, end);
                    else
                        multiply<STORE>(left, right, target, from, end);
                }
                if (slots) accumulate(left, {inputs.of(s), channels, inputs.row}, from, end, slots[s] + weights);
            }
            from = end;
        };
        recurrence<SIDE>(layer, first, fields, start, [&](long k) { return terms + k * size; }, done);
        float biases[SIDE * LANES];
        for (int s = 0; s < SIDE; ++s) store(biases + s * LANES, sums[s]);
        for (int s = 0; slots && s < samples; ++s)
            memcpy(slots[s] + weight_slots(layer) + group * LANES, biases + s * lanes, lanes * sizeof(float));
    }
}

// `kept` receives the terms at the kept vertices.
template <int SIDE>
static void reduce_forward(const Layer& layer, const Packed& packed, const Field& inputs, const Field& outputs,
                           const Field& kept, int samples, float* memory) {
    const long channels = coarse_channels(layer), groups = groups_of(layer), terms = layer.terms;
    const long size = (long)layer.coarse * kept.row;
    float* const fields = memory;
    float* const copy = fields + 2 * (size_t)layer.fine * SIDE * LANES;
    float* const rows = copy + (size_t)layer.fine * SIDE * LANES;
    const bool apart = inputs.row != SIDE * LANES || (SIDE == 2 && inputs.one != LANES);
    for (long group = 0; group < groups; ++group) {
        const float* const first = layer.narrow || apart ? copy : inputs.at;
        const auto start = [&](long from, long end) {
            if (layer.narrow)
                for (long row = from; row < end; ++row)
                    store(copy + row * LANES, gather_narrow(inputs, samples, place_of(layer, row), layer.inputs));
            else if (apart)
                for (int s = 0; s < SIDE; ++s)
                    for (long row = from; row < end; ++row)
                        store(copy + (row * SIDE + s) * LANES, load(inputs.of(s) + row * inputs.row + group * LANES));
        };
        // The terms of narrow layers are kept apart for each sample.
        std::vector<long> from(terms, 0);
        const auto done = [&](long k, long end) {
            if (!layer.narrow) return;
            for (long& m = from[k]; m < end; ++m)
                for (int s = 0; s < samples; ++s)
                    memcpy(kept.of(s) + k * size + m * kept.row, rows + (k * layer.coarse + m) * LANES + s * COORDINATES,
                           COORDINATES * sizeof(float));
        };
        const auto collected = [&](long k) {
            return layer.narrow ? rows + k * layer.coarse * LANES : kept.at + (group * terms + k) * size;
        };
        recurrence<SIDE>(layer, first, fields, start, collected, done);
    }
    for (int s = 0; s < samples; ++s)
        multiply<OUTPUT>({kept.of(s), kept.row, groups * terms, size, summed_of(layer)},
                         {packed.weights.data(), channels, channels},
                         {outputs.of(s), outputs.row, LANES, packed.bias.data(), (bool)layer.elu}, 0, layer.coarse);
}

template <int SIDE>
static void reduce_backward(const Layer& layer, const Packed& packed, const Field& outputs, const Field& gradients,
                            const Field& kept, const Field& input_gradients, float* const* slots, int samples,
                            float* memory) {
    const long channels = coarse_channels(layer), groups = groups_of(layer);
    const Field through = {memory, channels, layer.coarse * channels, 2 * layer.coarse * channels};
    memory += GROUP * layer.coarse * channels;
    for (int s = 0; s < samples; ++s) {
        for (long n = 0; n < channels; n += LANES) {
            Row bias = zero();
            for (long m = 0; m < layer.coarse; ++m) {
                Row value = load(gradients.of(s) + m * gradients.row + n);
                if (layer.elu) value = through_elu(value, load(outputs.of(s) + m * outputs.row + n));
                bias = bias + value;
                store(through.of(s) + m * channels + n, value);
            }
            if (slots) store(slots[s] + weight_slots(layer) + n, bias);
        }
        if (slots)
            accumulate({kept.of(s), kept.row, groups * layer.terms, layer.coarse * kept.row, summed_of(layer)},
                       {through.of(s), channels, channels}, 0, layer.coarse, slots[s]);
    }
    if (!input_gradients.at) return;
    for (long group = 0; group < groups; ++group) {
        const auto finish = [&](long from, long end, const float* rows) {
            if (layer.narrow)
                for (long row = from; row < end; ++row)
                    scatter_narrow(load(rows + row * LANES), input_gradients, samples, place_of(layer, row), layer.inputs);
            else
                for (int s = 0; s < SIDE; ++s)
                    for (long row = from; row < end; ++row)
                        store(input_gradients.of(s) + row * input_gradients.row + group * LANES,
                              load(rows + (row * SIDE + s) * LANES));
        };
        spread<SIDE>(layer, packed, group, through, samples, memory, finish);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Chains

// Threads that wait for work. The caller does the work itself and waits for no thread that has not begun an item, so one
// that the system holds back, because something else wants its core, costs nothing. Waiting threads give way: they spin
// for a moment, because the next call is often near, then sleep.
class Team {
  public:
    typedef void (*Task)(void* work, long item);

    // Never destroyed: its threads may outlive everything else. A process that was forked begins with no threads.
    static Team& get() {
        static Team* team = [] {
            pthread_atfork(nullptr, nullptr, [] { forked = true; });
            return new Team;
        }();
        if (forked.exchange(false)) team = new Team;
        return *team;
    }

    // Runs task(work, item) for all items on up to `threads` threads, the caller's among them.
    void run(long items, int threads, Task task, void* work) {
        std::unique_lock<std::mutex> mine(busy, std::try_to_lock);
        if (threads <= 1 || items <= 1 || !mine) {  // others are at work: their threads are not for us
            for (long item = 0; item < items; ++item) task(work, item);
            return;
        }
        begin(items, std::min((long)threads, items) - 1, task, work);
        work_on(ticket.load() >> SHIFT);
        wait([&] { return finished.load() == items; }, caller);
    }

  private:
    // A ticket is the number of a call and the number of its next item. A late thread, which has read what belongs to
    // a call that is over, cannot take an item: the ticket has changed.
    static constexpr int SHIFT = 32;
    static constexpr uint64_t ITEM = ((uint64_t)1 << SHIFT) - 1;
    static constexpr int SPINS = 4000;
    static std::atomic<bool> forked;

    std::mutex busy, asleep;
    std::condition_variable workers, caller;
    std::atomic<uint64_t> ticket{0};
    std::atomic<long> count{0}, finished{0};
    std::atomic<int> wanted{0};
    std::atomic<Task> job{nullptr};
    std::atomic<void*> data{nullptr};
    int hired = 0;

    void begin(long items, int helpers, Task task, void* work) {
        const uint64_t next = (ticket.load() >> SHIFT) + 1;
        count = 0;  // nobody takes an item while the call is being described
        job = task, data = work, finished = 0, wanted = helpers;
        {
            std::lock_guard<std::mutex> lock(asleep);
            ticket = next << SHIFT;
            count = items;
        }
        workers.notify_all();
        try {
            for (; hired < helpers; ++hired) std::thread([this, rank = hired] { serve(rank); }).detach();
        } catch (const std::system_error&) {  // no more threads are to be had: fewer do the work
        }
    }

    void work_on(uint64_t call) {
        for (;;) {
            uint64_t mine = ticket.load();
            const long items = count.load();
            const Task task = job.load();
            void* const work = data.load();
            if (mine >> SHIFT != call || (long)(mine & ITEM) >= items) return;
            if (!ticket.compare_exchange_weak(mine, mine + 1)) continue;
            task(work, (long)(mine & ITEM));
            if (++finished == items) {
                std::lock_guard<std::mutex> lock(asleep);
                caller.notify_one();
            }
        }
    }

    void serve(int rank) {
        for (uint64_t last = 0;;) {
            const auto called = [&] { return ticket.load() >> SHIFT != last && rank < wanted.load(); };
            wait(called, workers);
            last = ticket.load() >> SHIFT;
            work_on(last);
        }
    }

    template <class Condition>
    void wait(Condition condition, std::condition_variable& bell) {
        for (int spin = 0; spin < SPINS; ++spin) {
            if (condition()) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(asleep);
        bell.wait(lock, condition);
    }

    static INLINE void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};
std::atomic<bool> Team::forked{false};

template <class Work>
static void in_parallel(long items, int threads, Work work) {
    Team::get().run(items, threads, [](void* data, long item) { (*(Work*)data)(item); }, &work);
}

static thread_local Scratch scratch;

// Where things lie within the memory of one sample.
struct Places {
    const Layer* layers;
    int count;
    std::vector<long> output, kept, slot;
    long tape = 0, slots = 0, widest = 0;

    Places(const Layer* layers, int count) : layers(layers), count(count) {
        const auto widen = [&](long size) { return widest = size > widest ? size : widest; };
        for (int l = 0; l < count; ++l) {
            const Layer& layer = layers[l];
            kept.push_back(tape);
            tape += padded(kept_terms(layer));
            output.push_back(tape);
            if (l + 1 < count) tape += widen(padded(rows_out(layer) * outputs_of(layer)));
            slot.push_back(slots);
            slots += weight_slots(layer) + bias_slots(layer);
        }
    }
    size_t room(int side) const {
        size_t most = 0;
        for (int l = 0; l < count; ++l) most = std::max(most, ::room(layers[l], layers[l].narrow ? 1 : side));
        return most;
    }

    // A field outside the chain, of which a unit of samples starts at `start`.
    static Field outside(const float* at, long start, long rows, long channels) {
        const long size = rows * channels;
        return {at ? (float*)at + start * size : nullptr, channels, size, 2 * size};
    }
    // A field between layers or of kept terms; `side` samples lie next to each other.
    Field inside(float* at, long offset, long channels, int side) const {
        if (side == 2) return {at + 2 * offset, 2 * channels, channels, 2 * tape};
        return {at + offset, channels, tape, 2 * tape};
    }
    Field input(int l, const float* x, float* own, long start, int side) const {
        const Layer& layer = layers[l];
        if (l) return inside(own, output[l - 1], outputs_of(layers[l - 1]), side);
        return outside(x, start, rows_in(layer), layer.narrow && !layer.expands ? layer.inputs : inputs_of(layer));
    }
    Field result(int l, const float* y, float* own, long start, int side) const {
        const Layer& layer = layers[l];
        if (l + 1 < count) return inside(own, output[l], outputs_of(layer), side);
        return outside(y, start, rows_out(layer), layer.narrow && layer.expands ? layer.outputs : outputs_of(layer));
    }
    Field terms(int l, float* own, int side) const {
        Field field = inside(own, kept[l], LANES, side);
        if (layers[l].narrow) field.row = COORDINATES;
        if (layers[l].narrow && side == 2) field.one = padded(kept_terms(layers[l]));
        return field;
    }
};

// Calls `run(layer, first sample, samples)` for all layers of a unit: narrow ends take all samples together, the layers
// between them `side` samples at a time.
template <class Run>
static void in_order(const Layer* layers, int count, int samples, int side, bool backward, Run run) {
    const int from = layers[0].narrow, end = count > from && layers[count - 1].narrow ? count - 1 : count;
    const bool ends[2] = {from > 0, end < count};
    if (ends[backward]) run(backward ? end : 0, 0, samples);
    for (int s = 0; s < samples; s += side)
        for (int i = from; i < end; ++i)
            run(backward ? from + end - 1 - i : i, s, s + side < samples ? side : samples - s);
    if (ends[!backward]) run(backward ? 0 : end, 0, samples);
}

// Samples that a thread takes at a time.
static long unit_size(const Layer* layers, int count, long batch, int threads) {
    long size = layers[0].narrow || layers[count - 1].narrow ? GROUP : 2;
    while (size > 1 && (batch + size - 1) / size < threads) size /= 2;
    return size;
}

extern "C" {

// Python asks before it calls anything else: a library of another version is as good as none.
long meshgan_version() { return VERSION * 10000 + (long)sizeof(Layer); }

// Floats for each sample that `forward` wants to keep for `backward`.
long meshgan_tape(const Layer* layers, int count) { return Places(layers, count).tape; }

// Floats for each sample that `backward` needs for the gradients of the weights.
long meshgan_slots(const Layer* layers, int count) { return Places(layers, count).slots; }

// x (batch, V, C) to y (batch, V', C'); `tape` (batch, meshgan_tape) may be null. Returns 0, or 1 without memory.
int meshgan_forward(const Layer* given, int count, const float* const* parameters, long batch, const float* x, float* y,
                    float* tape, int threads) {
    const std::vector<Convolution> layers = convolutions(given, count, parameters, nullptr);
    const std::vector<Packed> packed = pack(layers, false);
    const Places places(given, count);
    const long unit = unit_size(given, count, batch, threads);
    std::atomic<int> failed{0};
    in_parallel((batch + unit - 1) / unit, threads, [&](long item) {
        const long start = item * unit;
        const int samples = (int)(start + unit < batch ? unit : batch - start), side = samples % 2 ? 1 : 2;
        const size_t room = places.room(side);
        float* const memory = scratch.reserve(room + (tape ? 0 : samples * places.tape));
        if (!memory) {
            failed = 1;
            return;
        }
        float* const own = tape ? tape + start * places.tape : memory + room;
        in_order(given, count, samples, side, false, [&](int l, int s, int together) {
            float* const mine = own + s * places.tape;
            const Field inputs = places.input(l, x, mine, start + s, side);
            const Field outputs = places.result(l, y, mine, start + s, side);
            const Field kept = places.terms(l, mine, side);
            const Convolution& layer = layers[l];
            if (side == 2 && !layer.narrow)
                layer.expands ? expand_forward<2>(layer, packed[l], inputs, outputs, together, memory)
                              : reduce_forward<2>(layer, packed[l], inputs, outputs, kept, together, memory);
            else
                layer.expands ? expand_forward<1>(layer, packed[l], inputs, outputs, together, memory)
                              : reduce_forward<1>(layer, packed[l], inputs, outputs, kept, together, memory);
        });
    });
    return failed;
}

// Gradients of weights and biases into `gradients`, unless `slots` (batch, meshgan_slots) is null; of x into `dx`, unless
// that is null. `threads` must be the number that `forward` was called with.
int meshgan_backward(const Layer* given, int count, const float* const* parameters, float* const* gradients, long batch,
                     const float* x, const float* y, const float* tape, const float* dy, float* dx, float* slots,
                     int threads) {
    const std::vector<Convolution> layers = convolutions(given, count, parameters, gradients);
    const std::vector<Packed> packed = pack(layers, true);
    const Places places(given, count);
    const long unit = unit_size(given, count, batch, threads);
    std::atomic<int> failed{0};
    in_parallel((batch + unit - 1) / unit, threads, [&](long item) {
        const long start = item * unit;
        const int samples = (int)(start + unit < batch ? unit : batch - start), side = samples % 2 ? 1 : 2;
        const size_t room = places.room(side);
        float* const memory = scratch.reserve(room + 2 * samples * places.widest);
        if (!memory) {
            failed = 1;
            return;
        }
        if (slots) memset(slots + start * places.slots, 0, sizeof(float) * samples * places.slots);
        // Gradients between layers lie in two buffers, read and written in turn.
        const auto between = [&](int l, int s) {
            float* const at = memory + room + (l & 1) * samples * places.widest + s * places.widest;
            const long channels = outputs_of(layers[l]);
            if (side == 2) return Field{at, 2 * channels, channels, 2 * places.widest};
            return Field{at, channels, places.widest, 2 * places.widest};
        };
        in_order(given, count, samples, side, true, [&](int l, int s, int together) {
            float* const mine = (float*)tape + (start + s) * places.tape;
            const Field inputs = places.input(l, x, mine, start + s, side);
            const Field outputs = places.result(l, y, mine, start + s, side);
            const Field kept = places.terms(l, mine, side);
            const Field gradients = l + 1 < count ? between(l, s) : places.result(l, dy, nullptr, start + s, side);
            const Field wanted = l ? between(l - 1, s) : places.input(l, dx, nullptr, start + s, side);
            float* sums[GROUP] = {};
            for (int i = 0; slots && i < together; ++i)
                sums[i] = slots + (start + s + i) * places.slots + places.slot[l];
            float* const* const to = slots ? sums : nullptr;
            const Convolution& layer = layers[l];
            if (side == 2 && !layer.narrow)
                layer.expands
                    ? expand_backward<2>(layer, packed[l], inputs, outputs, gradients, wanted, to, together, memory)
                    : reduce_backward<2>(layer, packed[l], outputs, gradients, kept, wanted, to, together, memory);
            else
                layer.expands
                    ? expand_backward<1>(layer, packed[l], inputs, outputs, gradients, wanted, to, together, memory)
                    : reduce_backward<1>(layer, packed[l], outputs, gradients, kept, wanted, to, together, memory);
        });
    });
    if (failed || !slots) return failed;
    // Sums over the samples, in their order whoever adds them up; they end in the first sample's slots.
    in_parallel(count, threads, [&](long l) {
        float* const sums = slots + places.slot[l];
        const long size = weight_slots(layers[l]) + bias_slots(layers[l]);
        for (long b = 1; b < batch; ++b)
            for (long i = 0; i < size; ++i) sums[i] += sums[b * places.slots + i];
        unpack(layers[l], sums);
    });
    return 0;
}
}
