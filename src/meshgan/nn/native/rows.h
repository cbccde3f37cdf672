// Rows of 16 floats in the registers of this instruction set, and what is done with them.
#pragma once

#include <cstdint>
#include <cstring>

// WIDTH floats in a register; the rest says how many of them the dense routines use at a time, THREES how many terms of
// three channels.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILE = 24, STRIPE = 6, OUTER = 16, THREES = 6, NARROW_TILE = 12;
#elif defined(__AVX2__) || defined(__AVX__)
constexpr int WIDTH = 8, TILE = 6, STRIPE = 2, OUTER = 4, THREES = 2, NARROW_TILE = 4;
#else
constexpr int WIDTH = 4, TILE = 3, STRIPE = 1, OUTER = 2, THREES = 1, NARROW_TILE = 2;
#endif
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
// Shuffles of parts of vectors are younger in GCC (12) than vectors; through memory they are the same, a little slower.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#endif
#endif

// Four lanes from `I` on.
template <int I, class Wide>
static INLINE Quarter quarter(const Wide& wide) {
    constexpr int N = sizeof(wide.part[0]) / 4, J = I % N;
#if defined(SHUFFLES)
    return __builtin_shufflevector(wide.part[I / N], wide.part[I / N], J, J + 1, J + 2, J + 3);
#else
    Quarter four;
    memcpy(&four, (const char*)&wide.part[I / N] + J * 4, sizeof(four));
    return four;
#endif
}

// A row of four samples' coordinates.
static INLINE Row row_of(Quarter a, Quarter b, Quarter c, Quarter d) {
    Row row;
#if defined(SHUFFLES) && defined(__AVX512F__)
    typedef float Eight __attribute__((vector_size(32)));
    const Eight low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
    const Eight high = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
    row.part[0] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(SHUFFLES) && (defined(__AVX2__) || defined(__AVX__))
    row.part[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
    row.part[1] = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
#else
    const Quarter four[4] = {a, b, c, d};
    memcpy(&row, four, sizeof(row));
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
