// Register tiles of ROWS positions x OUTS outputs, and what their words are: see products.cpp.

#pragma once

#include "native.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define BARK_HAS_PRODUCTS 1
#if !defined(__AVX512F__)
#define BARK_HAS_INT8_PRODUCTS 1
#endif

namespace bark {

#if defined(__AVX512F__)
constexpr int ROWS = 12;  // 24 registers of sums, of 32 that there are
#else
constexpr int ROWS = 6;  // 12 of 16
#endif
constexpr int OUTS = 2 * LANES;
constexpr int DEPTH = 768;  // words: a piece's weights and some panels fit the second cache

struct alignas(64) Line {
    float words[OUTS];
};

// 8 x 8 words from 8 rows: out[i] are the words i of all rows.
inline void transpose(const __m256 (&in)[8], __m256 (&out)[8]) {
    __m256 a[8], b[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(in[i], in[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        out[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        out[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

// 4 words of each of ROWS positions, as `interleave`.
inline void interleave_four(const float* from, int64_t apart, float* to) {
#if defined(__AVX512F__)
    static_assert(ROWS % 4 == 0);
    for (int m = 0; m < ROWS; m += 4) {
        __m128 four[4];
        UNROLL for (int i = 0; i < 4; ++i) four[i] = _mm_loadu_ps(from + (m + i) * apart);
        _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
        UNROLL for (int i = 0; i < 4; ++i) _mm_storeu_ps(to + i * ROWS + m, four[i]);
    }
#else
    static_assert(ROWS == 6);
    __m128 first[3], last[3];  // of two positions: words 0 and 1, 2 and 3
    UNROLL for (int i = 0; i < 3; ++i) {
        const __m128 even = _mm_loadu_ps(from + 2 * i * apart);
        const __m128 odd = _mm_loadu_ps(from + (2 * i + 1) * apart);
        first[i] = _mm_unpacklo_ps(even, odd);
        last[i] = _mm_unpackhi_ps(even, odd);
    }
    for (const auto& two : {first, last}) {
        _mm_storeu_ps(to, _mm_movelh_ps(two[0], two[1]));
        _mm_storeu_ps(to + 4, _mm_shuffle_ps(two[2], two[0], 0xE4));
        _mm_storeu_ps(to + 8, _mm_movehl_ps(two[2], two[1]));
        to += 12;
    }
#endif
}

// So many words of each of ROWS positions: to[k * ROWS + m] is word k of position m, `apart` words
// from that of the position before.
inline void interleave(const float* from, int64_t apart, int64_t depth, float* to) {
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4) interleave_four(from + k, apart, to + k * ROWS);
    for (; k < depth; ++k)
        for (int m = 0; m < ROWS; ++m) to[k * ROWS + m] = from[m * apart + k];
}

// The largest input without its sign. Of its bits, so that NaN is larger than all.
inline float largest_of(const float* x, int64_t n_in) {
    int32_t most = 0;
    for (int64_t k = 0; k < n_in; ++k) {
        int32_t bits;
        std::memcpy(&bits, x + k, 4);
        most = std::max(most, bits & 0x7FFFFFFF);
    }
    float largest;
    std::memcpy(&largest, &most, 4);
    return largest;
}

// How a row's inputs are rounded: each is `least` and so many whole steps.
struct Rounding {
    float step, least;
};

// What a word is, and what becomes of a sum. Each has
//   WORD: weights in a word,
//   measured: how a row's inputs are rounded,
//   words_of: a row's inputs as words, from word start to stop,
//   eight: 8 words of each of 8 outputs' weights, by words,
//   word: one of them at the end of a row, where there may be less than 8,
//   add: sum + the product of two words, in 8 lanes,
//   sum_of: all weights of an output added up,
//   number: a sum as a float, by the scales of 8 outputs and what their weights add up to.

struct InFloat32 {
    using Weight = float;
    static constexpr int WORD = 1;

    static Rounding measured(const float*, int64_t) { return {1.0f, 0.0f}; }
    static void words_of(const float* x, int64_t, Rounding, int64_t start, int64_t stop,
                         float* to) {
        std::memcpy(to, x + start, size_t(stop - start) * 4);
    }
    static void eight(const float* const (&rows)[8], int64_t at, __m256 (&out)[8]) {
        __m256 in[8];
        UNROLL for (int i = 0; i < 8; ++i) in[i] = _mm256_loadu_ps(rows[i] + at);
        transpose(in, out);
    }
    static float word(const float* row, int64_t at, int64_t) { return row[at]; }
    static Vec add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
    static float sum_of(const float*, int64_t) { return 0.0f; }
    static __m256 number(__m256 sum, __m256, __m256, Rounding) { return sum; }
};

#if BARK_HAS_INT8_PRODUCTS
// Weights in int8, inputs in 7 bits without a sign, so that two products fit 16 bits. Four are
// added by three operations: by pairs, the pairs, the sum.
struct InSevenBits {
    using Weight = int8_t;
    static constexpr int WORD = 4;
    static constexpr float STEPS = 127.0f;

    // From the least input to the largest. What isn't finite makes all of the row so.
    static Rounding measured(const float* x, int64_t n_in) {
        __m256 least = _mm256_set1_ps(x[0]), largest = least, finite = _mm256_setzero_ps();
        const auto look = [&](__m256 eight) {
            least = _mm256_min_ps(least, eight);
            largest = _mm256_max_ps(largest, eight);
            finite = _mm256_fmadd_ps(eight, _mm256_setzero_ps(), finite);  // 0, or NaN from then on
        };
        int64_t k = 0;
        for (; k + 8 <= n_in; k += 8) look(_mm256_loadu_ps(x + k));
        for (; k < n_in; ++k) look(_mm256_set1_ps(x[k]));
        float from[8], to[8], nothing[8];
        _mm256_storeu_ps(from, least);
        _mm256_storeu_ps(to, largest);
        _mm256_storeu_ps(nothing, finite);
        for (int i = 0; i < 8; ++i)
            if (nothing[i] != 0.0f) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
        const float first = *std::min_element(from, from + 8);
        return {(*std::max_element(to, to + 8) - first) / STEPS, first};
    }
    static void words_of(const float* x, int64_t n_in, Rounding by, int64_t start, int64_t stop,
                         float* to) {
        const float steps = by.step > 1e-30f ? 1.0f / by.step : 0.0f;
        const __m256 many = _mm256_set1_ps(steps), least = _mm256_set1_ps(by.least);
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        uint8_t* out = reinterpret_cast<uint8_t*>(to);
        int64_t k = 4 * start;
        for (; k + 32 <= std::min(4 * stop, n_in); k += 32) {
            __m256i eights[4];
            UNROLL for (int i = 0; i < 4; ++i) {
                const __m256 above = _mm256_sub_ps(_mm256_loadu_ps(x + k + 8 * i), least);
                eights[i] = _mm256_cvtps_epi32(_mm256_mul_ps(above, many));
            }
            const __m256i all = _mm256_packus_epi16(_mm256_packs_epi32(eights[0], eights[1]),
                                                    _mm256_packs_epi32(eights[2], eights[3]));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                                _mm256_permutevar8x32_epi32(all, order));
            out += 32;
        }
        for (; k < 4 * stop; ++k) {
            const float above = k < n_in ? (x[k] - by.least) * steps : 0.0f;
            *out++ = uint8_t(std::clamp(_mm_cvtss_si32(_mm_set_ss(above)), 0, 127));
        }
    }
    static void eight(const int8_t* const (&rows)[8], int64_t at, __m256 (&out)[8]) {
        __m256 in[8];
        UNROLL for (int i = 0; i < 8; ++i)
            in[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[i] + 4 * at));
        transpose(in, out);
    }
    static float word(const int8_t* row, int64_t at, int64_t n_in) {
        int8_t four[4] = {};
        std::memcpy(four, row + 4 * at, size_t(std::min<int64_t>(4, n_in - 4 * at)));
        float word;
        std::memcpy(&word, four, 4);
        return word;
    }
    static __m256 add(__m256 inputs, __m256 weights, __m256 sum) {
        const __m256i pairs =
            _mm256_maddubs_epi16(_mm256_castps_si256(inputs), _mm256_castps_si256(weights));
        const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), fours));
    }
    static float sum_of(const int8_t* weights, int64_t n_in) {
        int32_t sum = 0;
        for (int64_t k = 0; k < n_in; ++k) sum += weights[k];
        return float(sum);
    }
    static __m256 number(__m256 sum, __m256 scale, __m256 of_weights, Rounding by) {
        const __m256 steps = _mm256_cvtepi32_ps(_mm256_castps_si256(sum));
        const __m256 above = _mm256_mul_ps(steps, _mm256_set1_ps(by.step));
        const __m256 below = _mm256_mul_ps(of_weights, _mm256_set1_ps(by.least));
        return _mm256_mul_ps(_mm256_add_ps(above, below), scale);
    }
};

// Inputs as int16, to be multiplied with int8 weights one position at a time, where reading the
// weights takes the time: in 13 bits and a sign or more.
struct InSixteenBits {
    // A share of the largest input: by it all are divided.
    static float measured(const float* x, int64_t n_in) {
        return largest_of(x, n_in) / range(n_in);
    }
    static void words_of(const float* x, int64_t n_in, float scale, int64_t start, int64_t stop,
                         float* to) {
        const float steps = scale > 1e-30f ? 1.0f / scale : 0.0f;
        const __m256 many = _mm256_set1_ps(steps);
        int16_t* out = reinterpret_cast<int16_t*>(to);
        int64_t k = 2 * start;
        for (; k + 16 <= std::min(2 * stop, n_in); k += 16) {
            const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), many));
            const __m256i high =
                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + 8), many));
            const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), both);
            out += 16;
        }
        for (; k < 2 * stop; ++k)
            *out++ = k < n_in ? int16_t(_mm_cvtss_si32(_mm_set_ss(x[k] * steps))) : 0;
    }
    // What inputs may be at most, so that no sum of n_in products leaves 32 bits.
    static float range(int64_t n_in) {
        return float(std::min<int64_t>(INT16_MAX, INT32_MAX / (127 * std::max<int64_t>(n_in, 1))));
    }
};
#endif

// Inputs [depth, ROWS], weights [depth, OUTS] in words: add their products to the sums. Inputs lie
// so many words from position to position, and from word to word.
template <typename Kind, int TO_ROW = 1, int TO_WORD = ROWS>
inline void multiply(const float* x, const Line* weight, int64_t depth, float (*sums)[OUTS]) {
    Vec all[ROWS][2];
    UNROLL for (int m = 0; m < ROWS; ++m)
        UNROLL for (int h = 0; h < 2; ++h) all[m][h] = load(sums[m] + LANES * h);
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k) {
        const Vec low = load(weight[k].words), high = load(weight[k].words + LANES);
        UNROLL for (int m = 0; m < ROWS; ++m) {
            const Vec one = spread(x[k * TO_WORD + m * TO_ROW]);
            all[m][0] = Kind::add(one, low, all[m][0]);
            all[m][1] = Kind::add(one, high, all[m][1]);
        }
    }
    UNROLL for (int m = 0; m < ROWS; ++m)
        UNROLL for (int h = 0; h < 2; ++h) store(sums[m] + LANES * h, all[m][h]);
}

// Numbers that are kept from call to call, for memory that is asked for anew is cleared anew by the
// system.
template <typename Number>
class Buffer {
  public:
    // Room for so many; what was there is lost, unless there was enough. Throws bad_alloc.
    void grow(int64_t size) { memory_.grow(size_t(size) * sizeof(Number)); }
    Number& operator[](int64_t i) { return data()[i]; }
    Number* data() { return static_cast<Number*>(memory_.first()); }

  private:
    Memory memory_;
};

// Have each thread of a team find its own of these, with room in it: made before they begin, for
// what is thrown within a thread ends the program.
template <typename OfThread, typename Grow>
inline void prepare(std::vector<OfThread>& threads, const Team& team, const Grow& grow) {
    if (int(threads.size()) < team.wanted()) threads.resize(team.wanted());
    for (OfThread& own : threads) grow(own);
}

}  // namespace bark

#endif
