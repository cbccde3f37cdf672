// Both passes of one layer, for SIDE samples of a wide layer or up to GROUP samples of a narrow one.
#pragma once

#include <cstring>
#include <vector>

#include "dense.h"
#include "layers.h"
#include "sparse.h"

// Where the samples of a field lie.
struct Field {
    float* at;
    long row, one, two;  // from a row to the next, from sample 0 to sample 1, from sample 0 to sample 2

    float* of(int sample) const { return at + (sample & 1) * one + (sample >> 1) * two; }
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
