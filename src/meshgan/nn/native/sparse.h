// Sparse routines, on fields whose rows are SIDE times LANES floats.
#pragma once

#include "layers.h"

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
