// Layers as Python describes them, and their weights as the dense routines read them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "rows.h"

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
