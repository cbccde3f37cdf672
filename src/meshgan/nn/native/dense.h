// Dense routines: products with weights, and their gradients.
#pragma once

#include "rows.h"

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
            if (left.count == 3 && k + THREES <= left.terms) {
                accumulate_tile<THREES, 3>(left, a, right, n, from, end, sums);
                k += THREES;
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
