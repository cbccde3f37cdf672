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
#include <cstring>
#include <vector>

#include "layers.h"
#include "passes.h"
#include "team.h"

constexpr long VERSION = 5;  // to be raised, here and in kernel.py, whenever a call or a struct changes its meaning

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
