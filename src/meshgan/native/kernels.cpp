// What has to run before Numba could have been imported: pictures, lips that meet, and areas about vertices.
//
// Each function is one that `compiled(native=…)` decorates in Python, operation by operation and type by type, so that
// both give the same bits (tests/test_compiled.py): that one is where it is explained, and what Numba compiles where
// this library is not there. It is built without contracted or reordered sums, for the oldest processor of its kind.
// An array comes as its address, followed by its shape; arrays are contiguous, and of the types that the decorator says.
// What indices may be has been checked by the caller; what coordinates may be has not: NaN and infinity come too.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

// Each function is built twice, for any processor and for one with AVX2; which of them runs is found out on loading.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx2", "default"), flatten))
#else
#define WIDE
#endif

namespace {

constexpr double SUBPIXEL = 256.0, FARTHEST = 1048576.0;  // of view/raster.py
constexpr int LEVELS = 4096;
constexpr double STEP_MM = 0.5, FAR = 999.0, STEEP = 0.15;  // of data/corpora/lips.py
constexpr double FLAT_MM = 0.7, CLEAR_MM = 0.03, OVERLAP_MM = 0.04;
constexpr long LOOKS = 8;
constexpr double OFFSETS[LOOKS][2] = {{0.0, 0.0}, {0.5, 0.5}, {0.25, 0.75}, {0.75, 0.25},
                                      {0.5, 0.0}, {0.0, 0.5}, {0.25, 0.25}, {0.75, 0.75}};
constexpr long PLACES = 168, DEPTHS = 96, ROUNDS = 20;

// Whole numbers of any double: what lies outside of their range, or is NaN, is `Numba`'s least number on x86 everywhere.
long whole(double value) {
    return value > -9e18 && value < 9e18 ? static_cast<long>(value) : std::numeric_limits<long>::min();
}

struct Picture {
    const double* points;
    const float* normals;
    const int32_t* triangles;
    const float* albedo;
    long shades, channels;
    const float *directions, *strengths, *ambient;
    long lamps;
};

void project(const float* vertices, long count, const float* matrix, const float* offset, double* points) {
    for (long v = 0; v < count; ++v)
        for (int c = 0; c < 3; ++c) {
            float value = offset[c];
            for (int d = 0; d < 3; ++d) value += matrix[3 * c + d] * vertices[3 * v + d];
            double& point = points[3 * v + c];
            if (std::fabs(value) < FARTHEST)
                point = c < 2 ? std::nearbyint(value * SUBPIXEL) / SUBPIXEL : static_cast<double>(value);
            else
                point = std::numeric_limits<double>::quiet_NaN();
        }
}

// Fills those of `areas` and `normals` that are not null: twice the areas about each vertex, and unit normals.
template <class Index>
void surround(const float* vertices, long count, const Index* triangles, long sides, float* areas, float* normals) {
    if (areas) std::fill(areas, areas + count, 0.0f);
    if (normals) std::fill(normals, normals + 3 * count, 0.0f);
    for (long t = 0; t < sides; ++t) {
        const Index* corner = triangles + 3 * t;
        const float *p = vertices + 3L * corner[0], *q = vertices + 3L * corner[1], *r = vertices + 3L * corner[2];
        const float ux = q[0] - p[0], uy = q[1] - p[1], uz = q[2] - p[2];
        const float vx = r[0] - p[0], vy = r[1] - p[1], vz = r[2] - p[2];
        const float x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
        if (!(std::fabs(x) + std::fabs(y) + std::fabs(z) < std::numeric_limits<float>::infinity())) continue;
        if (areas) {
            const float area = std::sqrt(x * x + y * y + z * z);
            for (int k = 0; k < 3; ++k) areas[corner[k]] += area;
        }
        if (normals)
            for (int k = 0; k < 3; ++k) {
                float* normal = normals + 3L * corner[k];
                normal[0] += x, normal[1] += y, normal[2] += z;
            }
    }
    for (long v = 0; normals && v < count; ++v) {
        float* normal = normals + 3 * v;
        const float length = std::sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
        const float scale = 1.0f / (length + 1e-12f);
        for (int k = 0; k < 3; ++k) normal[k] *= scale;
    }
}

void cover(const double* points, const int32_t* triangles, long sides, float* depth, int32_t* owner, long samples) {
    const long last = samples - 1;
    for (long t = 0; t < sides; ++t) {
        const int32_t* corner = triangles + 3 * t;
        const double *i = points + 3L * corner[0], *j = points + 3L * corner[1], *k = points + 3L * corner[2];
        const double xi = i[0], yi = i[1], xj = j[0], yj = j[1], xk = k[0], yk = k[1];
        const double area = (xj - xi) * (yk - yi) - (xk - xi) * (yj - yi);
        const double zi = i[2], zj = j[2], zk = k[2];
        if (!(std::fabs(area) > 0) || std::isnan(zi + zj + zk)) continue;
        const long left = std::max(0L, whole(std::ceil(std::min({xi, xj, xk}) - 0.5)));
        const long right = std::min(last, whole(std::floor(std::max({xi, xj, xk}) - 0.5)));
        const long top = std::max(0L, whole(std::ceil(std::min({yi, yj, yk}) - 0.5)));
        const long bottom = std::min(last, whole(std::floor(std::max({yi, yj, yk}) - 0.5)));
        const double sign = area > 0 ? 1.0 : -1.0;
        const double across_i = sign * (yj - yk), down_i = sign * (xk - xj);
        const double across_j = sign * (yk - yi), down_j = sign * (xi - xk);
        const double across_k = sign * (yi - yj), down_k = sign * (xj - xi);
        const double slope_j = (zj - zi) / std::fabs(area), slope_k = (zk - zi) / std::fabs(area);
        for (long row = top; row <= bottom; ++row) {
            const double x = left + 0.5, y = row + 0.5;
            double wi = across_i * (x - xj) + down_i * (y - yj);
            double wj = across_j * (x - xk) + down_j * (y - yk);
            double wk = across_k * (x - xi) + down_k * (y - yi);
            for (long column = left; column <= right; ++column) {
                if (wi >= 0 && wj >= 0 && wk >= 0) {
                    const float z = static_cast<float>(zi + wj * slope_j + wk * slope_k);
                    const long at = row * samples + column;
                    if (z > depth[at]) depth[at] = z, owner[at] = static_cast<int32_t>(t);
                }
                wi += across_i, wj += across_j, wk += across_k;
            }
        }
    }
}

void lighten(const Picture& of, double column, double row, const int32_t* corner, float* radiance) {
    const double *i = of.points + 3L * corner[0], *j = of.points + 3L * corner[1], *k = of.points + 3L * corner[2];
    const double px = column - i[0], py = row - i[1];
    const double ax = j[0] - i[0], ay = j[1] - i[1], bx = k[0] - i[0], by = k[1] - i[1];
    const double area = ax * by - bx * ay;
    const float wj = static_cast<float>((px * by - bx * py) / area), wk = static_cast<float>((ax * py - px * ay) / area);
    const float wi = 1.0f - wj - wk;
    const float *a = of.normals + 3L * corner[0], *b = of.normals + 3L * corner[1], *c = of.normals + 3L * corner[2];
    const float nx = wi * a[0] + wj * b[0] + wk * c[0];
    const float ny = wi * a[1] + wj * b[1] + wk * c[1];
    const float nz = wi * a[2] + wj * b[2] + wk * c[2];
    const float square = nx * nx + ny * ny + nz * nz;
    for (long hue = 0; hue < of.channels; ++hue) radiance[hue] = of.ambient[hue];
    if (area < 0 && square > 0) {
        const float scale = 1.0f / std::sqrt(square);
        for (long lamp = 0; lamp < of.lamps; ++lamp) {
            const float* direction = of.directions + 3 * lamp;
            const float cosine = scale * (nx * direction[0] + ny * direction[1] + nz * direction[2]);
            if (cosine > 0)
                for (long hue = 0; hue < of.channels; ++hue)
                    radiance[hue] += cosine * of.strengths[of.channels * lamp + hue];
        }
    }
    for (long hue = 0; hue < of.channels; ++hue) {
        const float* shade = of.albedo + hue;
        if (of.shades == 1)
            radiance[hue] *= shade[0];
        else
            radiance[hue] *= wi * shade[of.channels * corner[0]] + wj * shade[of.channels * corner[1]] +
                             wk * shade[of.channels * corner[2]];
    }
}

void shade(const Picture& of, const int32_t* owner, long supersample, const float* background, const uint8_t* table,
           uint8_t* image, long size) {
    const long samples = size * supersample;
    std::vector<float> pixel(of.channels), sample(of.channels);
    for (long row = 0; row < size; ++row)
        for (long column = 0; column < size; ++column) {
            const long top = row * supersample, left = column * supersample;
            const long bottom = top + supersample - 1, right = left + supersample - 1;
            std::fill(pixel.begin(), pixel.end(), 0.0f);
            long alike = 0, across = 0, down = 0;
            for (long y = top; y <= bottom; ++y)
                for (long x = left; x <= right; ++x) {
                    const int32_t t = owner[y * samples + x];
                    alike += 1, across += x, down += y;
                    if ((x < right && owner[y * samples + x + 1] == t) ||
                        (x == right && y < bottom && owner[(y + 1) * samples + left] == t))
                        continue;
                    const float weight = static_cast<float>(alike);
                    if (t < 0) {
                        for (long hue = 0; hue < of.channels; ++hue) pixel[hue] += weight * background[hue];
                    } else {
                        const double wide = weight;
                        lighten(of, across / wide + 0.5, down / wide + 0.5, of.triangles + 3L * t, sample.data());
                        for (long hue = 0; hue < of.channels; ++hue) pixel[hue] += weight * sample[hue];
                    }
                    alike = across = down = 0;
                }
            for (long hue = 0; hue < of.channels; ++hue) {
                double linear = static_cast<double>(pixel[hue]) / static_cast<double>(supersample * supersample);
                linear = linear < 1.0 ? linear : 1.0;  // and where it is NaN
                image[(row * size + column) * of.channels + hue] = table[whole(linear * (LEVELS - 1) + 0.5)];
            }
        }
}

struct Steps {
    long start, stop;
};

double inverse(double slope) { return slope != 0 ? 1 / slope : 0.0; }

Steps inside(double value, double inverse, Steps steps) {
    const double bound = (-1e-9 - value) * inverse;
    if (inverse > 0) {
        if (bound > steps.start) steps.start = whole(std::ceil(std::min(bound, steps.stop + 1.0)));
    } else if (inverse < 0) {
        if (bound < steps.stop) steps.stop = whole(std::floor(std::max(bound, steps.start - 1.0)));
    } else if (value < -1e-9) {
        steps.stop = steps.start - 1;
    }
    return steps;
}

void heights(const double* points, const uint32_t* triangles, long sides, double sign, const double* corner,
             double* field) {
    for (long i = 0; i < sides; ++i) {
        const uint32_t* at = triangles + 3 * i;
        const double *p = points + 3L * at[0], *q = points + 3L * at[1], *r = points + 3L * at[2];
        const double ux = q[0] - p[0], uy = q[1] - p[1], uz = q[2] - p[2];
        const double vx = r[0] - p[0], vy = r[1] - p[1], vz = r[2] - p[2];
        const double flat = ux * vz - vx * uz, left = uy * vz - vy * uz, front_on = ux * vy - uy * vx;
        if (flat * flat <= STEEP * STEEP * (flat * flat + left * left + front_on * front_on)) continue;
        const long low = std::max(whole(std::ceil((std::min({p[0], q[0], r[0]}) - corner[0]) / STEP_MM)), 0L);
        const long high = std::min(whole(std::floor((std::max({p[0], q[0], r[0]}) - corner[0]) / STEP_MM)), PLACES - 1);
        const long back = std::max(whole(std::ceil((std::min({p[2], q[2], r[2]}) - corner[1]) / STEP_MM)), 0L);
        const long front = std::min(whole(std::floor((std::max({p[2], q[2], r[2]}) - corner[1]) / STEP_MM)), DEPTHS - 1);
        const double share = STEP_MM / flat;
        const double s_x = share * vz, s_z = -share * vx, t_x = -share * uz, t_z = share * ux;
        const double in_s = inverse(s_x), in_t = inverse(t_x), in_rest = inverse(-s_x - t_x);
        const double x = (corner[0] - p[0]) / STEP_MM, z = (corner[1] - p[2]) / STEP_MM;
        const double slope = s_x * uy + t_x * vy;
        for (long d = back; d <= front; ++d) {
            const double s = s_z * (z + d) + s_x * x, t = t_z * (z + d) + t_x * x;
            Steps steps = inside(s, in_s, {low, high});
            steps = inside(t, in_t, steps);
            steps = inside(1 - s - t, in_rest, steps);
            const double height = p[1] + s * uy + t * vy;
            for (long g = std::max(steps.start, 0L); g <= std::min(steps.stop, PLACES - 1); ++g) {
                const double there = height + g * slope;
                double& known = field[DEPTHS * g + d];
                if (sign * there < sign * known) known = there;
            }
        }
    }
}

// A mouth as it is drawn: the points of both lips, their heights over the grid, and where that starts.
struct Drawing {
    const int64_t* middle;
    long size;
    const uint32_t *above, *below;
    long uppers, lowers;
    std::vector<double> points, upper, lower;
    double corner[2] = {0.0, 0.0};
    long back = 0, front = 0;  // between which places lips are

    Drawing(const int64_t* middle, long size, const uint32_t* above, long uppers, const uint32_t* below, long lowers)
        : middle(middle), size(size), above(above), below(below), uppers(uppers), lowers(lowers), points(3 * size),
          upper(PLACES * DEPTHS), lower(PLACES * DEPTHS) {}

    void draw(const float* mouth, double off_x, double off_z) {
        const double far = std::numeric_limits<double>::infinity();
        double least_x = far, most_x = -far, least_z = far, most_z = -far;
        for (long i = 0; i < size; ++i) {
            for (int k = 0; k < 3; ++k) points[3 * i + k] = mouth[3 * middle[i] + k];
            const double x = points[3 * i], z = points[3 * i + 2];
            least_x = x < least_x ? x : least_x, most_x = x > most_x ? x : most_x;
            least_z = z < least_z ? z : least_z, most_z = z > most_z ? z : most_z;
        }
        corner[0] = (least_x + most_x) / 2 + STEP_MM * (off_x - (PLACES - 1) / 2.0);
        corner[1] = (least_z + most_z) / 2 + STEP_MM * (off_z - (DEPTHS - 1) / 2.0);
        std::fill(upper.begin(), upper.end(), FAR);
        std::fill(lower.begin(), lower.end(), -FAR);
        heights(points.data(), above, uppers, 1.0, corner, upper.data());
        heights(points.data(), below, lowers, -1.0, corner, lower.data());
        back = std::max(whole((least_z - corner[1]) / STEP_MM), 0L);
        front = std::min(whole((most_z - corner[1]) / STEP_MM) + 2, DEPTHS);
    }

    double between(double* gap) const {
        double least_of_all = 2 * FAR;
        for (long g = 0; g < PLACES; ++g) {
            double least = 2 * FAR;
            for (long d = back; d < front; ++d) {
                const double between = upper[DEPTHS * g + d] - lower[DEPTHS * g + d];
                least = between < least ? between : least;
            }
            gap[g] = least;
            least_of_all = least < least_of_all ? least : least_of_all;
        }
        return least_of_all;
    }

    void flatten(float* mouth, const int64_t* own, long count, const std::vector<double>& side, double sign) const {
        for (long i = 0; i < count; ++i) {
            float* point = mouth + 3 * own[i];
            const double x = std::min(std::max(0.0, (point[0] - corner[0]) / STEP_MM), PLACES - 1.001);
            const double z = std::min(std::max(0.0, (point[2] - corner[1]) / STEP_MM), DEPTHS - 1.001);
            const long g = static_cast<long>(x), d = static_cast<long>(z);
            double height = 0.0, push = 0.0, total = 0.0;
            for (int k = 0; k < 4; ++k) {
                const long gg = g + k / 2, dd = d + k % 2, at = DEPTHS * gg + dd;
                const double share = (1 - std::fabs(x - gg)) * (1 - std::fabs(z - dd));
                if (std::fabs(side[at]) < FAR) {
                    height += share * side[at];
                    push += share * std::max(0.0, lower[at] - upper[at]) / 2;
                    total += share;
                }
            }
            if (push > 0) {
                const double beyond = std::max(0.0, sign * (point[1] - height / total));
                point[1] = static_cast<float>(point[1] + sign * std::max(0.0, push - beyond));
            }
        }
    }
};

void widest(const double* gap, double flat, long reach, double* wide) {
    for (long g = 0; g < PLACES; ++g) {
        double most = 0.0;
        for (long i = std::max(g - reach, 0L); i < std::min(g + reach + 1, PLACES); ++i) {
            const double missing = CLEAR_MM - gap[i] - flat;
            most = missing > most ? missing : most;
        }
        wide[g] = most;
    }
}

void smoothed(const double* amounts, const double* blur, long count, double* smooth) {
    double total = 0.0;
    for (long i = 0; i < count; ++i) total += blur[i];
    for (long g = 0; g < PLACES; ++g) {
        double there = 0.0;
        for (long i = 0; i < count; ++i)
            there += blur[i] * amounts[std::min(std::max(g + i - count / 2, 0L), PLACES - 1)];
        smooth[g] = there / total;
    }
}

void shift(float* mouth, const int64_t* moving, long count, const double* corner, const double* amounts,
           const double* in_y) {
    for (long i = 0; i < count; ++i) {
        float* point = mouth + 3 * moving[i];
        const double place = std::min(std::max(0.0, (point[0] - corner[0]) / STEP_MM), PLACES - 1.0);
        const long first = std::min(static_cast<long>(place), PLACES - 2);
        const double there = amounts[first] + (place - first) * (amounts[first + 1] - amounts[first]);
        point[1] += static_cast<float>(there * in_y[i]);
    }
}

// Nothing leaves the library but a number: 1 where memory did not suffice.
template <class Body>
int guarded(const Body& body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" {

long meshgan_kernels_version() { return 2; }  // as in compiled.py; to be raised whenever a call changes its meaning

// view/raster.py
WIDE int draw(const float* faces, long count, long vertices, long, const int32_t* triangles, long sides, long,
         const float* albedo, long surfaces, long shades, long channels, long supersample, const float* matrix, long,
         long, const float* offset, long, const float* directions, long lamps, long, const float* strengths, long, long,
         const float* ambient, long, const float* background, long, const uint8_t* table, long, uint8_t* images, long,
         long size, long, long) {
    return guarded([&] {
        const long samples = size * supersample;
        std::vector<double> points(3 * vertices);
        std::vector<float> normals(3 * vertices), depth(samples * samples);
        std::vector<int32_t> owner(samples * samples);
        for (long b = 0; b < count; ++b) {
            const float* face = faces + 3 * vertices * b;
            project(face, vertices, matrix, offset, points.data());
            surround(face, vertices, triangles, sides, nullptr, normals.data());
            std::fill(depth.begin(), depth.end(), -std::numeric_limits<float>::infinity());
            std::fill(owner.begin(), owner.end(), -1);
            cover(points.data(), triangles, sides, depth.data(), owner.data(), samples);
            const Picture of{points.data(), normals.data(), triangles, albedo + (surfaces > 1 ? b : 0) * shades * channels,
                             shades,        channels,       directions, strengths, ambient, lamps};
            shade(of, owner.data(), supersample, background, table, images + b * size * size * channels, size);
        }
    });
}

// data/corpora/motion.py
WIDE int areas(const float* faces, long count, long vertices, long, const uint32_t* triangles, long sides, long, float* areas,
          long, long, float* normals, long, long wanted, long) {
    for (long b = 0; b < count; ++b)
        surround(faces + 3 * vertices * b, vertices, triangles, sides, areas + vertices * b,
                 wanted ? normals + 3 * wanted * b : nullptr);
    return 0;
}

// data/corpora/lips.py
WIDE int look(const float* mouths, long count, long size, long, const int64_t* middle, long known, const uint32_t* above,
         long uppers, long, const uint32_t* below, long lowers, long, const double* off, long, double* corner, long, long,
         double* gap, long, long) {
    return guarded([&] {
        Drawing drawing(middle, known, above, uppers, below, lowers);
        for (long b = 0; b < count; ++b) {
            drawing.draw(mouths + 3 * size * b, off[0], off[1]);
            std::copy(drawing.corner, drawing.corner + 2, corner + 2 * b);
            drawing.between(gap + PLACES * b);
        }
    });
}

WIDE int part(float* mouths, long count, long size, long, const int64_t* middle, long known, const uint32_t* above,
         long uppers, long, const uint32_t* below, long lowers, long, const int64_t* high, long highs, const int64_t* low,
         long lows, const int64_t* moving, long movings, const double* blur, long blurs, const double* in_y, long) {
    return guarded([&] {
        Drawing drawing(middle, known, above, uppers, below, lowers);
        double gap[PLACES], wide[PLACES], amounts[PLACES];
        for (long b = 0; b < count; ++b) {
            float* mouth = mouths + 3 * size * b;
            long sound = 0;
            for (long turn = 0; turn < ROUNDS; ++turn) {
                const double* off = OFFSETS[turn % LOOKS];
                drawing.draw(mouth, off[0], off[1]);
                const double least = drawing.between(gap);
                sound += 1;
                if (least < -OVERLAP_MM) {
                    sound = 0;
                    widest(gap, turn == 0 ? FLAT_MM : 0.0, blurs / 2, wide);
                    smoothed(wide, blur, blurs, amounts);
                    shift(mouth, moving, movings, drawing.corner, amounts, in_y);
                    drawing.draw(mouth, off[0], off[1]);
                    drawing.flatten(mouth, high, highs, drawing.upper, 1.0);
                    drawing.flatten(mouth, low, lows, drawing.lower, -1.0);
                }
                if (sound == LOOKS) break;
            }
        }
    });
}

WIDE int pull(float* mouths, long count, long size, long, const int64_t* moving, long movings, const double* corner, long,
         long, const double* amounts, long, long, const double* blur, long blurs, const double* in_y, long) {
    double smooth[PLACES];
    for (long b = 0; b < count; ++b) {
        smoothed(amounts + PLACES * b, blur, blurs, smooth);
        shift(mouths + 3 * size * b, moving, movings, corner + 2 * b, smooth, in_y);
    }
    return 0;
}

}  // extern "C"
