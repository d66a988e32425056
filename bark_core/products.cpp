// Products of many positions with a layer's weights, for processors with AVX2 or AVX-512:
// out[m][n] = sum over k of x[m][k] * weight[n][k], + bias[n].
//
// Elsewhere torch's libraries are as quick. bark_core/products.py calls it, and tells where.
//
// A tile of ROWS positions x OUTS outputs is summed in registers. Inputs and weights are laid out
// in the order in which it reads them: inputs all at once, weights on their way into the cache, so
// that there is never a second copy of them. They are handled in words of 4 bytes, which are one
// float32 or four int8: beside weights in int8, inputs are rounded to 7 bits between the least and
// the largest of their position, and what the processor multiplies and adds are whole numbers.
// That is for processors without AVX-512: what has it multiplies bytes itself.
//
// The law: each output is summed from the first word to the last, whatever the tile it falls into
// and whoever computes it, so a position's numbers depend neither on those beside it nor on the
// number of threads.

#include "tiles.h"

#if BARK_HAS_PRODUCTS

namespace {

using namespace bark;

constexpr int PIECE = 96;      // outputs that a thread takes at a time, at most
constexpr int FEW_PANELS = 8;  // that stay in the second cache beside a piece's weights

struct Call {
    const float* x;      // [n_rows, n_in]
    const void* weight;  // [n_out, n_in]
    const float* scale;  // [n_out], of int8 weights
    const float* bias;   // [n_out] or null
    float* out;          // [n_rows, n_out]
    int64_t n_rows, n_in, n_out;
    bool gelu;
};

struct OfThread {
    Buffer<Line> weights;  // [panel of OUTS outputs, word, output]
    Buffer<float> rows;
};
struct Space {
    Buffer<float> inputs;  // [block of DEPTH words, panel of ROWS positions, word, position]
    Buffer<Rounding> roundings;  // a position's
    std::vector<OfThread> threads;
};
Space space;

template <typename Kind>
class Product {
  public:
    explicit Product(const Call& call)
        : call_(call), n_words_((call.n_in + Kind::WORD - 1) / Kind::WORD),
          n_panels_((call.n_rows + ROWS - 1) / ROWS) {}

    void run(Team& team) {
        // some for each thread, so that all have about as much to do
        const int64_t share = call_.n_out / (4 * team.wanted()) / OUTS * OUTS;
        const int64_t at_once = std::clamp<int64_t>(share, OUTS, PIECE);
        space.inputs.grow(n_words_ * n_panels_ * ROWS);
        space.roundings.grow(n_panels_ * ROWS);
        prepare(space.threads, team, [](OfThread& own) {
            own.weights.grow(PIECE / OUTS * DEPTH);
            own.rows.grow(ROWS * DEPTH);
        });
        team.run([&](int thread) {
            OfThread& own = space.threads[thread];
            for (int64_t panel; (panel = team.take()) < n_panels_;)
                lay_out_inputs(panel, own.rows.data());
            team.meet();
            for (int64_t piece; (piece = team.take()) * at_once < call_.n_out;)
                compute(piece * at_once, at_once, own.weights.data());
        });
    }

  private:
    using Weight = typename Kind::Weight;

    float* inputs(int64_t block, int64_t panel) {
        const int64_t depth = depth_of(block);
        return &space.inputs[(block * DEPTH * n_panels_ + panel * depth) * ROWS];
    }
    int64_t depth_of(int64_t block) const {
        return std::min<int64_t>(DEPTH, n_words_ - block * DEPTH);
    }

    void lay_out_inputs(int64_t panel, float* words) {
        const float* rows[ROWS];
        for (int m = 0; m < ROWS; ++m) {
            // what lies beyond the last position is never looked at
            rows[m] = call_.x + std::min(panel * ROWS + m, call_.n_rows - 1) * call_.n_in;
            space.roundings[panel * ROWS + m] = Kind::measured(rows[m], call_.n_in);
        }
        for (int64_t block = 0; block * DEPTH < n_words_; ++block) {
            const int64_t depth = depth_of(block), start = block * DEPTH;
            for (int m = 0; m < ROWS; ++m)
                Kind::words_of(rows[m], call_.n_in, space.roundings[panel * ROWS + m], start,
                               start + depth, words + m * DEPTH);
            interleave(words, DEPTH, depth, inputs(block, panel));
        }
    }

    // So many outputs from `first` on, of all positions.
    void compute(int64_t first, int64_t count, Line* weights) {
        count = std::min(count, call_.n_out - first);
        const int64_t n_outs = (count + OUTS - 1) / OUTS;
        alignas(64) float of_weights[PIECE] = {};
        for (int64_t n = 0; n < count; ++n)
            of_weights[n] = Kind::sum_of(weight_of(first + n), call_.n_in);
        for (int64_t block = 0; block * DEPTH < n_words_; ++block) {
            const int64_t depth = depth_of(block);
            for (int64_t n = 0; n < n_outs; ++n)
                lay_out_weights(first + n * OUTS, block * DEPTH, depth, weights + n * depth);
            for (int64_t few = 0; few < n_panels_; few += FEW_PANELS)
                for (int64_t n = 0; n < n_outs; ++n)
                    for (int64_t m = few; m < std::min(few + FEW_PANELS, n_panels_); ++m)
                        tile(m, first + n * OUTS, block, weights + n * depth, of_weights + n * OUTS);
        }
    }

    const Weight* weight_of(int64_t output) const {
        return static_cast<const Weight*>(call_.weight) + output * call_.n_in;
    }

    void lay_out_weights(int64_t first, int64_t start, int64_t depth, Line* to) {
        for (int half = 0; half < OUTS; half += 8) {
            const Weight* rows[8];
            for (int i = 0; i < 8; ++i)
                rows[i] = weight_of(std::min(first + half + i, call_.n_out - 1));
            int64_t k = 0;
            for (; k + 8 <= depth && (start + k + 8) * Kind::WORD <= call_.n_in; k += 8) {
                __m256 words[8];
                Kind::eight(rows, start + k, words);
                UNROLL for (int i = 0; i < 8; ++i)
                    _mm256_store_ps(to[k + i].words + half, words[i]);
            }
            for (; k < depth; ++k)
                for (int i = 0; i < 8; ++i)
                    to[k].words[half + i] = Kind::word(rows[i], start + k, call_.n_in);
        }
    }

    // A tile's part of the sums, which lie in `out` from block to block.
    void tile(int64_t panel, int64_t first, int64_t block, const Line* weights,
              const float* of_weights) {
        const int64_t n_rows = std::min<int64_t>(ROWS, call_.n_rows - panel * ROWS);
        const int64_t n_outs = std::min<int64_t>(OUTS, call_.n_out - first);
        float* out = call_.out + panel * ROWS * call_.n_out + first;
        alignas(64) float sums[ROWS][OUTS] = {};
        const auto copy = [&](const auto& one_row) {
            if (n_outs == OUTS)
                for (int64_t m = 0; m < n_rows; ++m) one_row(m, size_t(OUTS) * 4);
            else
                for (int64_t m = 0; m < n_rows; ++m) one_row(m, size_t(n_outs) * 4);
        };
        if (block)
            copy([&](int64_t m, size_t n) { std::memcpy(sums[m], out + m * call_.n_out, n); });
        multiply<Kind>(inputs(block, panel), weights, depth_of(block), sums);
        if ((block + 1) * DEPTH >= n_words_) finish(panel, first, n_outs, of_weights, sums);
        copy([&](int64_t m, size_t n) { std::memcpy(out + m * call_.n_out, sums[m], n); });
    }

    void finish(int64_t panel, int64_t first, int64_t n_outs, const float* of_weights,
                float (*sums)[OUTS]) {
        alignas(64) float scale[OUTS] = {}, bias[OUTS] = {};
        if (call_.scale) std::memcpy(scale, call_.scale + first, size_t(n_outs) * 4);
        if (call_.bias) std::memcpy(bias, call_.bias + first, size_t(n_outs) * 4);
        for (int m = 0; m < ROWS; ++m) {
            for (int h = 0; h < OUTS; h += 8) {
                const __m256 number = Kind::number(_mm256_load_ps(sums[m] + h),
                                                   _mm256_load_ps(scale + h),
                                                   _mm256_load_ps(of_weights + h),
                                                   space.roundings[panel * ROWS + m]);
                _mm256_store_ps(sums[m] + h, _mm256_add_ps(number, _mm256_load_ps(bias + h)));
            }
            if (call_.gelu)
                for (int n = 0; n < OUTS; ++n) sums[m][n] = gelu(sums[m][n]);
        }
    }

    const Call& call_;
    const int64_t n_words_, n_panels_;
};

}  // namespace

BARK_EXPORT int32_t bark_has_products() { return 1; }
BARK_EXPORT int32_t bark_has_int8_products() {
#if BARK_HAS_INT8_PRODUCTS
    return 1;
#else
    return 0;
#endif
}

// x [n_rows, n_in], weight [n_out, n_in], float32 or, where there are scales, int8, if
// bark_has_int8_products; bias may be null; gelu: of the outputs. To out [n_rows, n_out]; 0: there
// wasn't enough memory.
BARK_EXPORT int32_t bark_product(const float* x, const void* weight, const float* scale,
                                 const float* bias, float* out, int64_t n_rows, int64_t n_in,
                                 int64_t n_out, int32_t gelu, int32_t n_threads) {
    std::lock_guard<std::mutex> lock(team_mutex);
    const Call call{x, weight, scale, bias, out, n_rows, n_in, n_out, gelu != 0};
    return with_memory([&] {
        Team& team = team_of(n_threads);
#if BARK_HAS_INT8_PRODUCTS
        if (scale) return Product<InSevenBits>(call).run(team);
#endif
        Product<InFloat32>(call).run(team);
    });
}

#else

BARK_EXPORT int32_t bark_has_products() { return 0; }
BARK_EXPORT int32_t bark_has_int8_products() { return 0; }

BARK_EXPORT int32_t bark_product(const float*, const void*, const float*, const float*, float*,
                                 int64_t, int64_t, int64_t, int32_t, int32_t) {
    return 0;
}

#endif
