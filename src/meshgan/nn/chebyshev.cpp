// Chains of Chebyshev convolutions on the CPU, forward and backward: the compiled path of nn/kernel.py.
//
// One layer computes y = act(sum_k T_k(L) x W_k + b) between the vertices of a graph ("fine", where L lives) and those
// of the level next to it ("coarse"). Sums over the channels are done on the coarse side, where there are a quarter as
// many vertices, because they commute with everything that acts on vertices:
//   an expanding layer multiplies first, p_k = x W_k, then spreads p_k to the fine vertices and sums over k by
//   Clenshaw's recurrence; its backward pass runs the recurrence of T_k(L') and collects each term on the coarse side;
//   a reducing layer runs the recurrence of T_k(L), collects each term at the vertices that are kept, and multiplies
//   last; its backward pass is Clenshaw's recurrence.
// So two sparse routines (clenshaw, terms) and two dense ones (multiply, accumulate) make all four passes.
//
// Rows of a field are 16 floats, one cache line. Sparse routines advance in waves: step k works on a block of rows as
// soon as step k-1 has passed the block's last neighbour, so that a block is in the first or second cache for all steps.
// Fields of three coordinates take four samples to a row. Every sample is computed by one thread, in an order that
// does not depend on the number of threads; gradients of weights are summed per sample, then over the samples in order.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILE = 24, STRIPE = 6, OUTER = 16;
#elif defined(__AVX2__) || defined(__AVX__)
constexpr int WIDTH = 8, TILE = 6, STRIPE = 2, OUTER = 4;
#else
constexpr int WIDTH = 4, TILE = 3, STRIPE = 1, OUTER = 2;
#endif
constexpr int LANES = 16;         // floats in a row
constexpr int PARTS = LANES / WIDTH;
constexpr int COORDINATES = 4;    // lanes of one sample in a row of a narrow field
constexpr int GROUP = 4;          // samples in a row of a narrow field
constexpr int DENSE_ROWS = 64;    // rows that are collected before they are multiplied

typedef float Vector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(WIDTH * 4)));
typedef float Lanes __attribute__((vector_size(WIDTH * 4)));

struct Row {
    Lanes part[PARTS];
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
struct Sparse {
    const int32_t* start;
    const Entry* entries;
};
struct Layer {
    int32_t expands, elu, narrow;             // narrow: the fine side has at most four channels, and it is the chain's end
    int32_t fine, coarse;                     // vertices
    int32_t inputs, outputs, terms;           // channels, terms of the polynomial
    int32_t block, blocks, lag, collect_lag;  // rows of a block, their number; how far apart consecutive steps stay
    Sparse laplacian, transposed;             // (fine, fine)
    Sparse spread, collect;                   // (fine, coarse) and (coarse, fine)
    const int32_t* needed;                    // (blocks,): coarse rows below this serve the fine blocks up to this one
    const int32_t* ready;                     // (blocks,): coarse rows below this need no fine block beyond this one
    const int32_t* kept;                      // (coarse,), reducing layers only: the fine row behind a coarse one
    const int32_t* order;                     // (fine,), narrow layers only: where a row lies outside the chain, or null
    const float* weight;                      // (terms, inputs, outputs)
    const float* bias;                        // (outputs,)
    float* weight_gradient;
    float* bias_gradient;
};

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

// Weights in the two orders that the dense routines read.
struct Packed {
    std::vector<float> gathering;   // [group, term, summed][coarse channel]
    std::vector<float> scattering;  // [group][coarse channel][term, lane], lanes padded with zeros
    std::vector<float> bias;        // padded with zeros
    long stride;                    // of a row of `scattering`
};

static Packed pack(const Layer& layer) {
    const long groups = groups_of(layer), summed = summed_of(layer), channels = coarse_channels(layer);
    const long lanes = layer.narrow ? COORDINATES : LANES;
    Packed packed;
    packed.stride = padded(layer.terms * lanes);
    packed.gathering.assign(weight_slots(layer), 0.0f);
    packed.scattering.assign(groups * channels * packed.stride, 0.0f);
    packed.bias.assign(padded(layer.outputs), 0.0f);
    memcpy(packed.bias.data(), layer.bias, layer.outputs * sizeof(float));
    for (long k = 0; k < layer.terms; ++k)
        for (long i = 0; i < layer.inputs; ++i)
            for (long o = 0; o < layer.outputs; ++o) {
                const float value = layer.weight[(k * layer.inputs + i) * layer.outputs + o];
                const long fine = layer.expands ? o : i, coarse = layer.expands ? i : o;
                const long group = fine / LANES, lane = fine % LANES;
                packed.gathering[((group * layer.terms + k) * summed + lane) * channels + coarse] = value;
                packed.scattering[(group * channels + coarse) * packed.stride + k * lanes + lane] = value;
            }
    return packed;
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense routines

// What becomes of the sums: stored, added to what is there, or finished as a layer's output.
enum Finish { STORE, ADD, OUTPUT };

// The left factor A[m; k, c]: `terms` runs of `count` numbers, `step` apart.
struct Left {
    const float* at;
    long row, terms, step, count;
};

template <int M, int N, Finish FINISH>
static INLINE void multiply_tile(const Left& a, long m, const float* b, long stride, float* to, long to_row,
                                 const float* bias, bool activate) {
    Row sum[M][N];
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) sum[i][j] = zero();
    const float* from = a.at + m * a.row;
    for (long k = 0; k < a.terms; ++k, from += a.step)
        for (long c = 0; c < a.count; ++c, b += stride) {
            Row right[N];
            for (int j = 0; j < N; ++j) right[j] = load(b + j * LANES);
            for (int i = 0; i < M; ++i) {
                const float left = from[i * a.row + c];
                for (int j = 0; j < N; ++j) add_scaled(sum[i][j], left, right[j]);
            }
        }
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            float* out = to + (m + i) * to_row + j * LANES;
            if (FINISH == ADD) sum[i][j] = sum[i][j] + load(out);
            if (FINISH == OUTPUT) {
                sum[i][j] = sum[i][j] + load(bias + j * LANES);
                if (activate) sum[i][j] = elu(sum[i][j]);
            }
            store(out, sum[i][j]);
        }
}

template <int N, Finish FINISH>
static void multiply_stripe(const Left& a, long from, long end, const float* b, long stride, float* to, long to_row,
                            const float* bias, bool activate) {
    constexpr int M = TILE / N > 16 ? 16 : TILE / N;
    long m = from;
    for (; m + M <= end; m += M) multiply_tile<M, N, FINISH>(a, m, b, stride, to, to_row, bias, activate);
    for (; m < end; ++m) multiply_tile<1, N, FINISH>(a, m, b, stride, to, to_row, bias, activate);
}

// to[m][n] = sum over (k, c) of A[m; k, c] B[k, c][n] for from <= m < end and `columns` columns.
template <Finish FINISH>
static void multiply(const Left& a, long from, long end, const float* b, long stride, long columns, float* to,
                     long to_row, const float* bias = nullptr, bool activate = false) {
    long n = 0;
    for (; STRIPE >= 6 && n + 6 * LANES <= columns; n += 6 * LANES)
        multiply_stripe<STRIPE >= 6 ? 6 : 1, FINISH>(a, from, end, b + n, stride, to + n, to_row, bias + n, activate);
    for (; STRIPE >= 4 && n + 4 * LANES <= columns; n += 4 * LANES)
        multiply_stripe<STRIPE >= 4 ? 4 : 1, FINISH>(a, from, end, b + n, stride, to + n, to_row, bias + n, activate);
    for (; STRIPE >= 2 && n + 2 * LANES <= columns; n += 2 * LANES)
        multiply_stripe<STRIPE >= 2 ? 2 : 1, FINISH>(a, from, end, b + n, stride, to + n, to_row, bias + n, activate);
    for (; n < columns; n += LANES)
        multiply_stripe<1, FINISH>(a, from, end, b + n, stride, to + n, to_row, bias + n, activate);
}

template <int K, int C>
static INLINE void accumulate_tile(const Left& a, long from, long end, const float* right, long right_row, float* to,
                                   long to_row) {
    Row sum[K * C];
    for (int i = 0; i < K * C; ++i) sum[i] = load(to + i * to_row);
    for (long m = from; m < end; ++m) {
        const Row row = load(right + m * right_row);
        const float* left = a.at + m * a.row;
        for (int k = 0; k < K; ++k)
            for (int c = 0; c < C; ++c) add_scaled(sum[k * C + c], left[k * a.step + c], row);
    }
    for (int i = 0; i < K * C; ++i) store(to + i * to_row, sum[i]);
}

// to[k, c][n] += sum over m of A[m; k, c] B[m][n] for `columns` columns: the gradient of the weights.
static void accumulate(const Left& a, long from, long end, const float* right, long right_row, long columns, float* to) {
    for (long n = 0; n < columns; n += LANES) {
        const float* b = right + n;
        float* out = to + n;
        long k = 0;
        for (; OUTER >= 16 && a.count == 3 && k + 6 <= a.terms; k += 6)
            accumulate_tile<6, 3>({a.at + k * a.step, a.row, 0, a.step, 0}, from, end, b, right_row,
                                  out + k * 3 * columns, columns);
        for (; k < a.terms; ++k) {
            long c = 0;
            const float* at = a.at + k * a.step;
            for (; c + OUTER <= a.count; c += OUTER)
                accumulate_tile<1, OUTER>({at + c, a.row, 0, 0, 0}, from, end, b, right_row,
                                          out + (k * a.count + c) * columns, columns);
            for (; c < a.count; ++c)
                accumulate_tile<1, 1>({at + c, a.row, 0, 0, 0}, from, end, b, right_row,
                                      out + (k * a.count + c) * columns, columns);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sparse routines: rows of LANES floats, `scale` rows apart

static INLINE void add_product(Row& sum, const Sparse& matrix, long row, const float* field, long scale) {
    const Entry* entry = matrix.entries + matrix.start[row];
    const Entry* end = matrix.entries + matrix.start[row + 1];
    for (; entry != end; ++entry) add_scaled(sum, entry->value, load(field + entry->offset * scale));
}

// Clenshaw's recurrence for sum_k T_k(L) S p_k: b_k = S p_k + 2 L b_{k+1} - b_{k+2}, the last with 1 L.
// `parts` holds p_k in rows of `terms` times LANES; `spread` null means S = 1. `produce(row)` is called before coarse
// rows below `row` are read; `finish(row, value)` takes the results. `field` is room for two fields.
template <class Produce, class Finish>
static INLINE void clenshaw(const Layer& layer, const Sparse& laplacian, const float* parts, float* field,
                            Produce produce, Finish finish) {
    const long terms = layer.terms, fine = layer.fine, lag = layer.lag;
    const bool spreads = layer.spread.start != nullptr;
    float* const fields[2] = {field, field + fine * LANES};
    for (long time = 0; time < layer.blocks + (terms - 1) * lag; ++time) {
        if (time < layer.blocks) produce(layer.needed[time]);
        for (long step = 0; step < terms; ++step) {
            const long block = time - step * lag;
            if (block < 0) break;
            if (block >= layer.blocks) continue;
            const long k = terms - 1 - step;
            const float factor = k ? 2.0f : 1.0f;
            float* const to = fields[step & 1];
            const float* const before = fields[(step & 1) ^ 1];
            const float* const part = parts + k * LANES;
            const long end = block + 1 == layer.blocks ? fine : (block + 1) * layer.block;
            for (long row = block * layer.block; row < end; ++row) {
                Row sum = zero();
                if (step) {
                    Row product = zero();
                    add_product(product, laplacian, row, before, 1);
                    if (step > 1) sum = sum - load(to + row * LANES);
                    add_scaled(sum, factor, product);
                }
                if (spreads)
                    add_product(sum, layer.spread, row, part, terms);
                else
                    sum = sum + load(part + row * terms * LANES);
                if (k)
                    store(to + row * LANES, sum);
                else
                    finish(row, sum);
            }
        }
    }
}

// The recurrence T_k = 2 L T_{k-1} - T_{k-2} from T_0 = `first`; each term is handed to `collect(k, from, end)` for coarse
// rows as soon as they are complete. For selections, `kept`, the last term is computed at the kept vertices only, by
// `last(row, value)`. `field` is room for two fields; with `strided`, terms stay apart in rows of `terms` times LANES.
template <class Collect, class Last>
static INLINE void recurrence(const Layer& layer, const Sparse& laplacian, const float* first, float* field,
                              bool kept_only, Collect collect, Last last) {
    const long terms = layer.terms, fine = layer.fine, lag = layer.collect_lag;
    float* const fields[2] = {field, field + fine * LANES};
    for (long time = 0; time < layer.blocks + (terms - 1) * lag; ++time) {
        for (long k = 0; k < terms; ++k) {
            const long block = time - k * lag;
            if (block < 0) break;
            if (block >= layer.blocks) continue;
            const float* const before = k == 1 ? first : fields[(k & 1) ^ 1];
            const float* const second = k == 2 ? first : fields[k & 1];
            float* const to = fields[k & 1];
            const float factor = k == 1 ? 1.0f : 2.0f;
            const long coarse_from = block ? layer.ready[block - 1] : 0, coarse_end = layer.ready[block];
            const auto term = [&](long row) INLINE_LAMBDA {
                Row product = zero(), sum = zero();
                add_product(product, laplacian, row, before, 1);
                if (k > 1) sum = sum - load(second + row * LANES);
                add_scaled(sum, factor, product);
                return sum;
            };
            if (k == 0) {
                collect(0, coarse_from, coarse_end, first);
            } else if (kept_only && k == terms - 1) {
                for (long row = coarse_from; row < coarse_end; ++row) last(row, term(layer.kept[row]));
            } else {
                const long end = block + 1 == layer.blocks ? fine : (block + 1) * layer.block;
                for (long row = block * layer.block; row < end; ++row) store(to + row * LANES, term(row));
                collect(k, coarse_from, coarse_end, to);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers: one sample, or up to GROUP samples of a narrow layer

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

static size_t room(const Layer& layer) {
    const size_t fields = 3 * (size_t)layer.fine * LANES;
    const size_t parts = (size_t)layer.coarse * layer.terms * LANES;
    const size_t gradient = (size_t)layer.coarse * padded(layer.outputs) * GROUP;
    return fields + parts + gradient + (size_t)DENSE_ROWS * padded(layer.terms * COORDINATES);
}

// Rows [from, end) of p_k = x W_k for the samples of a group; wide layers have one sample.
static void project(const Layer& layer, const Packed& packed, long group, const float* const* inputs, int samples,
                    long from, long end, float* parts, float* narrow_rows) {
    const long channels = coarse_channels(layer), row = layer.terms * LANES, stride = packed.stride;
    const float* weights = packed.scattering.data() + group * channels * stride;
    if (!layer.narrow)
        return multiply<STORE>({inputs[0], channels, 1, 0, channels}, from, end, weights, stride, stride, parts, row);
    for (; from < end; from += DENSE_ROWS) {
        const long stop = from + DENSE_ROWS < end ? from + DENSE_ROWS : end;
        for (int s = 0; s < samples; ++s) {
            const Left left = {inputs[s] + from * channels, channels, 1, 0, channels};
            multiply<STORE>(left, 0, stop - from, weights, stride, stride, narrow_rows, stride);
            for (long m = from; m < stop; ++m)
                for (long k = 0; k < layer.terms; ++k)
                    memcpy(parts + m * row + k * LANES + s * COORDINATES,
                           narrow_rows + (m - from) * stride + k * COORDINATES, COORDINATES * sizeof(float));
        }
    }
}

// sum_k T_k(L) S (x W_k) for one group of channels; `finish(row, value)` takes the results.
template <class Finish>
static void spread(const Layer& layer, const Packed& packed, const Sparse& laplacian, long group,
                   const float* const* inputs, int samples, float* memory, Finish finish) {
    float* const field = memory;
    float* const parts = field + 2 * (size_t)layer.fine * LANES;
    float* const narrow_rows = parts + (size_t)layer.coarse * layer.terms * LANES;
    if (layer.narrow && samples < GROUP) memset(parts, 0, sizeof(float) * layer.coarse * layer.terms * LANES);
    long done = 0;
    const auto produce = [&](long rows) {
        if (rows <= done) return;
        project(layer, packed, group, inputs, samples, done, rows, parts, narrow_rows);
        done = rows;
    };
    clenshaw(layer, laplacian, parts, field, produce, finish);
}

static INLINE long place_of(const Layer& layer, long row) { return layer.order ? layer.order[row] : row; }

// A row of a narrow field from fields outside the chain, and back.
static INLINE Row gather_narrow(const float* const* fields, int samples, long row, long channels) {
    float lanes[LANES] = {};
    for (int s = 0; s < samples; ++s)
        for (long c = 0; c < channels; ++c) lanes[s * COORDINATES + c] = fields[s][row * channels + c];
    return load(lanes);
}
static INLINE void scatter_narrow(const Row& value, float* const* fields, int samples, long row, long channels) {
    float lanes[LANES];
    store(lanes, value);
    for (int s = 0; s < samples; ++s)
        for (long c = 0; c < channels; ++c) fields[s][row * channels + c] = lanes[s * COORDINATES + c];
}

static void expand_forward(const Layer& layer, const Packed& packed, const float* const* inputs, float* const* outputs,
                           int samples, float* memory) {
    const bool activate = layer.elu;
    if (layer.narrow) {
        float lanes[LANES] = {};
        for (int s = 0; s < GROUP; ++s) memcpy(lanes + s * COORDINATES, layer.bias, layer.outputs * sizeof(float));
        const Row bias = load(lanes);
        return spread(layer, packed, layer.laplacian, 0, inputs, samples, memory, [&](long row, const Row& sum) {
            const Row value = sum + bias;
            scatter_narrow(activate ? elu(value) : value, outputs, samples, place_of(layer, row), layer.outputs);
        });
    }
    const long channels = padded(layer.outputs);
    for (long group = 0; group < groups_of(layer); ++group) {
        const Row bias = load(packed.bias.data() + group * LANES);
        float* const to = outputs[0] + group * LANES;
        spread(layer, packed, layer.laplacian, group, inputs, 1, memory, [&](long row, const Row& sum) {
            const Row value = sum + bias;
            store(to + row * channels, activate ? elu(value) : value);
        });
    }
}

// Gradients of an expanding layer; `input_gradients` may be null. Sums for the weights go to `slots`, one per sample.
static void expand_backward(const Layer& layer, const Packed& packed, const float* const* inputs,
                            const float* const* outputs, const float* const* gradients, float* const* input_gradients,
                            float* const* slots, int samples, float* memory) {
    const long fine = layer.fine, channels = coarse_channels(layer), row_size = layer.terms * LANES;
    const long outside = outputs_of(layer), summed = summed_of(layer);
    float* const field = memory;
    float* const first = field + 2 * (size_t)fine * LANES;
    float* const terms = first + (size_t)fine * LANES;
    for (long group = 0; group < groups_of(layer); ++group) {
        Row bias = zero();
        for (long row = 0; row < fine; ++row) {
            Row gradient, output;
            if (layer.narrow) {
                const long place = place_of(layer, row);
                gradient = gather_narrow(gradients, samples, place, layer.outputs);
                if (layer.elu) output = gather_narrow(outputs, samples, place, layer.outputs);
            } else {
                gradient = load(gradients[0] + row * outside + group * LANES);
                if (layer.elu) output = load(outputs[0] + row * outside + group * LANES);
            }
            if (layer.elu) gradient = through_elu(gradient, output);
            bias = bias + gradient;
            store(first + row * LANES, gradient);
        }
        float lanes[LANES];
        store(lanes, bias);
        for (int s = 0; slots && s < samples; ++s) {
            float* const to = slots[s] + weight_slots(layer);
            if (layer.narrow)
                memcpy(to, lanes + s * COORDINATES, COORDINATES * sizeof(float));
            else
                memcpy(to + group * LANES, lanes, LANES * sizeof(float));
        }
        long done = 0;
        const auto dense = [&](long end) {
            for (int s = 0; s < samples; ++s) {
                const Left left = {terms + s * COORDINATES, row_size, layer.terms, LANES, summed};
                const float* const weights = packed.gathering.data() + group * layer.terms * summed * channels;
                if (input_gradients) {
                    if (group)
                        multiply<ADD>(left, done, end, weights, channels, channels, input_gradients[s], channels);
                    else
                        multiply<STORE>(left, done, end, weights, channels, channels, input_gradients[s], channels);
                }
                if (slots)
                    accumulate(left, done, end, inputs[s], channels, channels,
                               slots[s] + group * layer.terms * summed * channels);
            }
            done = end;
        };
        const auto collect = [&](long k, long from, long end, const float* term) {
            for (long m = from; m < end; ++m) {
                Row sum = zero();
                if (layer.collect.start)
                    add_product(sum, layer.collect, m, term, 1);
                else
                    sum = load(term + m * LANES);
                store(terms + m * row_size + k * LANES, sum);
            }
            if (k == layer.terms - 1 && (end - done >= DENSE_ROWS || end == layer.coarse)) dense(end);
        };
        recurrence(layer, layer.transposed, first, field, false, collect, [](long, const Row&) {});
    }
}

// `kept` receives the terms at the kept vertices, one array per sample.
static void reduce_forward(const Layer& layer, const Packed& packed, const float* const* inputs, float* const* outputs,
                           float* const* kept, int samples, float* memory) {
    const long fine = layer.fine, channels = coarse_channels(layer), groups = groups_of(layer);
    const long lanes = layer.narrow ? COORDINATES : LANES, row_size = groups * layer.terms * lanes;
    const long outside = inputs_of(layer);
    float* const field = memory;
    float* const copy = field + 2 * (size_t)fine * LANES;
    for (long group = 0; group < groups; ++group) {
        const float* first = copy;
        if (layer.narrow)
            for (long row = 0; row < fine; ++row)
                store(copy + row * LANES, gather_narrow(inputs, samples, place_of(layer, row), layer.inputs));
        else if (groups == 1)
            first = inputs[0];
        else
            for (long row = 0; row < fine; ++row)
                store(copy + row * LANES, load(inputs[0] + row * outside + group * LANES));
        const auto keep = [&](long k, long m, const Row& value) {
            const long at = m * row_size + (group * layer.terms + k) * lanes;
            if (!layer.narrow) return store(kept[0] + at, value);
            float values[LANES];
            store(values, value);
            for (int s = 0; s < samples; ++s) memcpy(kept[s] + at, values + s * COORDINATES, COORDINATES * sizeof(float));
        };
        const auto collect = [&](long k, long from, long end, const float* term) {
            for (long m = from; m < end; ++m) keep(k, m, load(term + layer.kept[m] * LANES));
        };
        recurrence(layer, layer.laplacian, first, field, true, collect,
                   [&](long m, const Row& value) { keep(layer.terms - 1, m, value); });
    }
    for (int s = 0; s < samples; ++s)
        multiply<OUTPUT>({kept[s], row_size, groups * layer.terms, lanes, summed_of(layer)}, 0, layer.coarse,
                         packed.gathering.data(), channels, channels, outputs[s], channels, packed.bias.data(), layer.elu);
}

static void reduce_backward(const Layer& layer, const Packed& packed, const float* const* outputs,
                            const float* const* gradients, const float* const* kept, float* const* input_gradients,
                            float* const* slots, int samples, float* memory) {
    const long channels = coarse_channels(layer), groups = groups_of(layer), size = layer.coarse * channels;
    const long lanes = layer.narrow ? COORDINATES : LANES, row_size = groups * layer.terms * lanes;
    float* const through = memory;
    memory += GROUP * size;
    const float* incoming[GROUP] = {};
    for (int s = 0; s < samples; ++s) {
        float* const gradient = through + s * size;
        incoming[s] = gradient;
        for (long n = 0; n < channels; n += LANES) {
            Row bias = zero();
            for (long m = 0; m < layer.coarse; ++m) {
                Row value = load(gradients[s] + m * channels + n);
                if (layer.elu) value = through_elu(value, load(outputs[s] + m * channels + n));
                bias = bias + value;
                store(gradient + m * channels + n, value);
            }
            if (slots) store(slots[s] + weight_slots(layer) + n, bias);
        }
        if (slots)
            accumulate({kept[s], row_size, groups * layer.terms, lanes, summed_of(layer)}, 0, layer.coarse, gradient,
                       channels, channels, slots[s]);
    }
    if (!input_gradients) return;
    for (long group = 0; group < groups; ++group)
        spread(layer, packed, layer.transposed, group, incoming, samples, memory, [&](long row, const Row& value) {
            if (layer.narrow)
                scatter_narrow(value, input_gradients, samples, place_of(layer, row), layer.inputs);
            else
                store(input_gradients[0] + row * groups * LANES + group * LANES, value);
        });
}

// ---------------------------------------------------------------------------------------------------------------------
// Chains

typedef void (*Task)(void*);
typedef void (*Parallel)(Task, void*, unsigned, unsigned);  // GOMP_parallel of the OpenMP runtime that PyTorch uses

template <class Work>
static void in_parallel(long items, int threads, Parallel parallel, Work work) {
    struct Shared {
        std::atomic<long> next{0};
        long items;
        Work* work;
    } shared;
    shared.items = items;
    shared.work = &work;
    const Task task = [](void* data) {
        Shared& mine = *(Shared*)data;
        for (long item; (item = mine.next++) < mine.items;) (*mine.work)(item);
    };
    if (threads > items) threads = (int)items;
    if (threads <= 1) return task(&shared);
    if (parallel) return parallel(task, &shared, threads, 0);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(task, &shared);
    task(&shared);
    for (auto& other : others) other.join();
}

static thread_local Scratch scratch;

// Where things lie within the memory of one sample.
struct Places {
    std::vector<long> output, kept, slot;
    long tape = 0, slots = 0, widest = 0;
    size_t room = 0;

    Places(const Layer* layers, int count) {
        const auto aligned = [](long floats) { return (floats + LANES - 1) / LANES * LANES; };
        for (int l = 0; l < count; ++l) {
            const Layer& layer = layers[l];
            kept.push_back(tape);
            tape += aligned(kept_terms(layer));
            output.push_back(tape);
            const long size = rows_out(layer) * outputs_of(layer);
            if (l + 1 < count) tape += aligned(size);
            slot.push_back(slots);
            slots += weight_slots(layer) + bias_slots(layer);
            if (size > widest) widest = size;
            if (rows_in(layer) * inputs_of(layer) > widest) widest = rows_in(layer) * inputs_of(layer);
            if (::room(layer) > room) room = ::room(layer);
        }
        widest = aligned(widest);
    }
};

static long group_size(const Layer* layers, int count, long batch, int threads) {
    const bool narrow = layers[0].narrow || layers[count - 1].narrow;
    long size = narrow ? GROUP : 1;
    while (size > 1 && (batch + size - 1) / size < threads) size /= 2;
    return size;
}

static long input_size(const Layer* layers) {
    return rows_in(layers[0]) * (layers[0].narrow && !layers[0].expands ? layers[0].inputs : inputs_of(layers[0]));
}
static long output_size(const Layer* layers, int count) {
    const Layer& last = layers[count - 1];
    return rows_out(last) * (last.narrow && last.expands ? last.outputs : outputs_of(last));
}

extern "C" {

// Floats per sample that `forward` wants to keep for `backward`.
long meshgan_tape(const Layer* layers, int count) { return Places(layers, count).tape; }

// Floats per sample that `backward` needs for the gradients of the weights.
long meshgan_slots(const Layer* layers, int count) { return Places(layers, count).slots; }

// x (batch, V, C) to y (batch, V', C'); `tape` (batch, meshgan_tape) may be null. Returns 0, or 1 without memory.
int meshgan_forward(const Layer* layers, int count, long batch, const float* x, float* y, float* tape, int threads,
                    Parallel parallel) {
    const Places places(layers, count);
    std::vector<Packed> packed;
    for (int l = 0; l < count; ++l) packed.push_back(pack(layers[l]));
    const long group = group_size(layers, count, batch, threads);
    std::atomic<int> failed{0};
    in_parallel((batch + group - 1) / group, threads, parallel, [&](long unit) {
        const long start = unit * group;
        const int samples = (int)(start + group < batch ? group : batch - start);
        float* memory = scratch.reserve(places.room + (tape ? 0 : group * places.tape));
        if (!memory) {
            failed = 1;
            return;
        }
        float* const own = tape ? tape + start * places.tape : memory + places.room;
        const auto run = [&](int l, int s, int together) {
            const float* inputs[GROUP] = {};
            float *outputs[GROUP] = {}, *kept[GROUP] = {};
            for (int i = 0; i < together; ++i) {
                float* const mine = own + (s + i) * places.tape;
                inputs[i] = l ? mine + places.output[l - 1] : x + (start + s + i) * input_size(layers);
                outputs[i] = l + 1 < count ? mine + places.output[l] : y + (start + s + i) * output_size(layers, count);
                kept[i] = mine + places.kept[l];
            }
            if (layers[l].expands)
                expand_forward(layers[l], packed[l], inputs, outputs, together, memory);
            else
                reduce_forward(layers[l], packed[l], inputs, outputs, kept, together, memory);
        };
        const int from = layers[0].narrow ? 1 : 0, end = count > from && layers[count - 1].narrow ? count - 1 : count;
        if (from) run(0, 0, samples);
        for (int s = 0; s < samples; ++s)
            for (int l = from; l < end; ++l) run(l, s, 1);
        if (end < count) run(end, 0, samples);
    });
    return failed;
}

// Gradients of the weights and biases into the layers' own arrays, unless `slots` (batch, meshgan_slots) is null; of x
// into `dx`, unless that is null.
int meshgan_backward(const Layer* layers, int count, long batch, const float* x, const float* y, const float* tape,
                     const float* dy, float* dx, float* slots, int threads, Parallel parallel) {
    const Places places(layers, count);
    std::vector<Packed> packed;
    for (int l = 0; l < count; ++l) packed.push_back(pack(layers[l]));
    const long group = group_size(layers, count, batch, threads);
    std::atomic<int> failed{0};
    in_parallel((batch + group - 1) / group, threads, parallel, [&](long unit) {
        const long start = unit * group;
        const int samples = (int)(start + group < batch ? group : batch - start);
        // Each sample has two buffers for the gradients between layers, read and written in turn.
        float* const memory = scratch.reserve(places.room + 2 * group * places.widest);
        if (!memory) {
            failed = 1;
            return;
        }
        if (slots) memset(slots + start * places.slots, 0, sizeof(float) * samples * places.slots);
        const auto between = [&](int l, int s) { return memory + places.room + (2 * s + (l & 1)) * places.widest; };
        const auto run = [&](int l, int s, int together) {
            const float *inputs[GROUP] = {}, *outputs[GROUP] = {}, *gradients[GROUP] = {}, *kept[GROUP] = {};
            float *input_gradients[GROUP] = {}, *sums[GROUP] = {};
            for (int i = 0; i < together; ++i) {
                const long b = start + s + i;
                const float* const mine = tape + b * places.tape;
                inputs[i] = l ? mine + places.output[l - 1] : x + b * input_size(layers);
                outputs[i] = l + 1 < count ? mine + places.output[l] : y + b * output_size(layers, count);
                gradients[i] = l + 1 < count ? between(l + 1, s + i) : dy + b * output_size(layers, count);
                kept[i] = mine + places.kept[l];
                input_gradients[i] = l ? between(l, s + i) : dx + b * input_size(layers);
                sums[i] = slots ? slots + b * places.slots + places.slot[l] : nullptr;
            }
            float* const* const wanted = l || dx ? input_gradients : nullptr;
            if (layers[l].expands)
                expand_backward(layers[l], packed[l], inputs, outputs, gradients, wanted, slots ? sums : nullptr, together, memory);
            else
                reduce_backward(layers[l], packed[l], outputs, gradients, kept, wanted, slots ? sums : nullptr, together, memory);
        };
        const int from = layers[0].narrow ? 1 : 0, end = count > from && layers[count - 1].narrow ? count - 1 : count;
        if (end < count) run(end, 0, samples);
        for (int s = 0; s < samples; ++s)
            for (int l = end - 1; l >= from; --l) run(l, s, 1);
        if (from) run(0, 0, samples);
    });
    if (failed || !slots) return failed;
    // Sum over the samples, always in the same order, and put the weights back into the order of the parameters.
    std::vector<float> sum(places.slots, 0.0f);
    for (long b = 0; b < batch; ++b)
        for (long i = 0; i < places.slots; ++i) sum[i] += slots[b * places.slots + i];
    for (int l = 0; l < count; ++l) {
        const Layer& layer = layers[l];
        const long summed = summed_of(layer), channels = coarse_channels(layer);
        const float* const from = sum.data() + places.slot[l];
        for (long k = 0; k < layer.terms; ++k)
            for (long i = 0; i < layer.inputs; ++i)
                for (long o = 0; o < layer.outputs; ++o) {
                    const long fine = layer.expands ? o : i, coarse = layer.expands ? i : o;
                    const long at = ((fine / LANES * layer.terms + k) * summed + fine % LANES) * channels + coarse;
                    layer.weight_gradient[(k * layer.inputs + i) * layer.outputs + o] = from[at];
                }
        memcpy(layer.bias_gradient, from + weight_slots(layer), layer.outputs * sizeof(float));
    }
    return 0;
}
}
