// One step of Bark's causal transformers on a CPU: the next position of several rows at once.
//
// bark_core/native.py builds it at first use, with products.cpp, and bark_core/cpu_step.py calls
// it. Plain C++17, no libraries.
//
// The law: a row's numbers depend neither on the rows beside it nor on the number of threads.
// Each output is summed by one thread in one register, from the first input to the last,
// whatever the tile it falls into.

#include "tiles.h"

namespace {

using namespace bark;

// ---- what Python hands over (bark_core/cpu_step.py has the same fields) ------------------------

enum Kind : int64_t { FLOAT32 = 0, INT8 = 1 };

struct Linear {
    const void* weight;  // [n_out, n_in]
    const float* scale;  // [n_out], INT8 only
    const float* bias;   // [n_out] or null
    int64_t kind;
};

struct Layer {
    const float *norm_1, *norm_1_bias, *norm_2, *norm_2_bias;
    Linear attention, projection, widening, narrowing;
};

struct Model {
    const float* tokens;     // [vocabulary, width]
    const float* positions;  // [block size, width]
    const float *last_norm, *last_norm_bias;
    Linear head;
    const Layer* layers;
    int64_t n_layer, n_head, width;
};

struct Row {
    void* keys;    // [head, position, channel] of the first layer
    void* values;
    int64_t layer_stride, head_stride;  // of both, in numbers
    int64_t half;                       // 1: they are float16, 0: float32
    int64_t position;                   // where the token stands
    int64_t token;
};

// ---- arithmetic -------------------------------------------------------------------------------

constexpr float NORM_EPS = 1e-5f;

void layer_norm(const float* x, const float* weight, const float* bias, int width, float* out) {
    const float mean = strand_sum(width, [=](int i) { return x[i]; }) / width;
    const float variance =
        strand_sum(width, [=](int i) { return (x[i] - mean) * (x[i] - mean); }) / width;
    const float scale = 1.0f / std::sqrt(variance + NORM_EPS);
    for (int i = 0; i < width; ++i) out[i] = (x[i] - mean) * scale * weight[i];
    if (bias)
        for (int i = 0; i < width; ++i) out[i] += bias[i];
}

// A tile of N outputs x M rows: dot products over n_in, each in one register from start to end.
// The weights of its outputs lie `apart` numbers from each other. What lies `ahead` numbers behind
// them is asked for meanwhile; 0: nothing is.
template <int N, int M, typename Weight>
inline void tile(const Weight* weight, int64_t apart, const float* const* x, int n_in,
                 int64_t ahead, float (*out)[N]) {
    constexpr int A_LINE = 64 / sizeof(Weight);
    Vec sums[N][M];
    UNROLL for (int n = 0; n < N; ++n)
        UNROLL for (int m = 0; m < M; ++m) sums[n][m] = zero();
    int i = 0;
    for (; i + LANES <= n_in; i += LANES) {
        Vec inputs[M];
        UNROLL for (int m = 0; m < M; ++m) inputs[m] = load(x[m] + i);
        UNROLL for (int n = 0; n < N; ++n) {
            const Weight* row = weight + n * apart + i;
            if (ahead && (A_LINE <= LANES || i % A_LINE == 0)) fetch_ahead(row + ahead);
            const Vec w = load(row);
            UNROLL for (int m = 0; m < M; ++m) sums[n][m] = fma(w, inputs[m], sums[n][m]);
        }
    }
    UNROLL for (int n = 0; n < N; ++n)
        UNROLL for (int m = 0; m < M; ++m) {
            float total = sum(sums[n][m]);
            for (int j = i; j < n_in; ++j) total += float(weight[n * apart + j]) * x[m][j];
            out[m][n] = total;
        }
}

#if BARK_HAS_INT8_PRODUCTS
// The same with inputs in int16, in whole numbers: half the work of making float32 of weights.
template <int N, int M>
inline void tile(const int8_t* weight, int64_t apart, const int16_t* const* x, int n_in,
                 int64_t ahead, float (*out)[N]) {
    __m256i sums[N][M];
    UNROLL for (int n = 0; n < N; ++n)
        UNROLL for (int m = 0; m < M; ++m) sums[n][m] = _mm256_setzero_si256();
    int i = 0;
    for (; i + 16 <= n_in; i += 16) {
        __m256i inputs[M];
        UNROLL for (int m = 0; m < M; ++m)
            inputs[m] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[m] + i));
        UNROLL for (int n = 0; n < N; ++n) {
            const int8_t* row = weight + n * apart + i;
            if (ahead && i % 64 == 0) fetch_ahead(row + ahead);
            const __m256i w =
                _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
            UNROLL for (int m = 0; m < M; ++m)
                sums[n][m] = _mm256_add_epi32(sums[n][m], _mm256_madd_epi16(w, inputs[m]));
        }
    }
    UNROLL for (int n = 0; n < N; ++n)
        UNROLL for (int m = 0; m < M; ++m) {
            __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums[n][m]),
                                         _mm256_extracti128_si256(sums[n][m], 1));
            four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
            int32_t total = _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
            for (int j = i; j < n_in; ++j) total += weight[n * apart + j] * x[m][j];
            out[m][n] = float(total);
        }
}
#endif

constexpr int PIECE = 32;  // outputs that a thread takes at a time, at most

// N outputs, the first and every `apart`th after it, for all rows: out [n_rows, PIECE].
template <int N, typename Weight, typename Input>
inline void tiles(const Weight* weight, int apart, int n_in, const Input* const* x, int n_rows,
                  int64_t ahead, float* out) {
    int m = 0;
    const auto run = [&](auto rows) {
        constexpr int M = decltype(rows)::value;
        // plain reading alone keeps the memory busy; computing beside it doesn't let it
        constexpr bool AHEAD = M > 1 || sizeof(Weight) < 4;
        float part[M][N];
        tile<N, M>(weight, int64_t(apart) * n_in, x + m, n_in, AHEAD && m == 0 ? ahead : 0, part);
        for (int a = 0; a < M; ++a)
            for (int b = 0; b < N; ++b) out[(m + a) * PIECE + b * apart] = part[a][b];
        m += M;
    };
#if defined(__AVX512F__)  // has the registers for it
    while (n_rows - m >= 4) run(std::integral_constant<int, 4>{});
#else  // three where no single one is left by it
    while (n_rows - m >= 3 && n_rows - m != 4) run(std::integral_constant<int, 3>{});
#endif
    while (n_rows - m >= 2) run(std::integral_constant<int, 2>{});
    while (n_rows - m >= 1) run(std::integral_constant<int, 1>{});
}

// Outputs start .. stop - 1 of a linear layer for all rows: out [n_rows, PIECE]. Each of a tile's
// outputs is the first of a run of neighbours that the next tiles go on with, so that the memory
// gives a few long streams: it takes its time to begin one. After these comes output `then`.
template <typename Weight, typename Input>
void piece_of(const void* of, int n_in, int start, int stop, int then, const Input* const* x,
              int n_rows, float* out) {
    const Weight* weight = static_cast<const Weight*>(of) + int64_t(start) * n_in;
    int n = 0;
    const auto run = [&](auto at_once) {
        constexpr int N = decltype(at_once)::value;
        const int apart = (stop - start - n) / N;
        for (int i = 0; i < apart; ++i) {
            const int next = i + 1 < apart ? 1 : then - start - n - i;
            tiles<N>(weight + int64_t(n + i) * n_in, apart, n_in, x, n_rows, int64_t(next) * n_in,
                     out + n + i);
        }
        n += apart * N;
    };
    if (n_rows == 1 && sizeof(Weight) == 4)  // sums enough to fill the pipes
        run(std::integral_constant<int, 8>{});
    run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 1>{});
}

// What a thread needs for a linear layer.
struct Working {
    std::vector<float> out;  // [row, PIECE]
#if BARK_HAS_INT8_PRODUCTS
    std::vector<float> numbers;  // inputs in int16, of each row
    std::vector<float> scales;   // of each row
    std::vector<const int16_t*> rows;

    void narrow(const float* const* x, int n_in, int n_rows) {
        const int64_t words = (n_in + 1) / 2;
        numbers.resize(size_t(words * n_rows));
        scales.resize(size_t(n_rows));
        rows.resize(size_t(n_rows));
        for (int m = 0; m < n_rows; ++m) {
            float* to = &numbers[size_t(words * m)];
            scales[m] = InSixteenBits::measured(x[m], n_in);
            InSixteenBits::words_of(x[m], n_in, scales[m], 0, words, to);
            rows[m] = reinterpret_cast<const int16_t*>(to);
        }
    }
#endif
};

// One thread's share of a linear layer's outputs first .. first + n_out - 1:
// take(row, output, count, values) gets some that follow each other.
template <typename Take>
inline void linear(Team& team, const Linear& layer, int first, int n_out, int n_in,
                   const float* const* x, int n_rows, Working& own, const Take& take) {
    own.out.resize(size_t(n_rows) * PIECE);
#if BARK_HAS_INT8_PRODUCTS
    if (layer.kind == INT8) own.narrow(x, n_in, n_rows);
#endif
    // a team that is large takes less at a time, so that all have about as much to do
    const int at_once = n_out < 4 * PIECE * team.wanted() ? PIECE / 2 : PIECE;
    int piece = team.take();
    for (int next; piece * at_once < n_out; piece = next) {
        next = team.take();
        const int start = first + piece * at_once, stop = std::min(first + n_out, start + at_once);
        const int then = next * at_once < n_out ? first + next * at_once : start;
        const int count = stop - start;
        float* out = own.out.data();
        if (layer.kind == FLOAT32)
            piece_of<float>(layer.weight, n_in, start, stop, then, x, n_rows, out);
        else {
#if BARK_HAS_INT8_PRODUCTS
            piece_of<int8_t>(layer.weight, n_in, start, stop, then, own.rows.data(), n_rows, out);
            for (int m = 0; m < n_rows; ++m)
                for (int n = 0; n < count; ++n) out[m * PIECE + n] *= own.scales[m];
#else
            piece_of<int8_t>(layer.weight, n_in, start, stop, then, x, n_rows, out);
#endif
        }
        for (int m = 0; m < n_rows; ++m, out += PIECE) {
            if (layer.scale)
                for (int n = 0; n < count; ++n) out[n] *= layer.scale[start + n];
            if (layer.bias)
                for (int n = 0; n < count; ++n) out[n] += layer.bias[start + n];
            take(m, start, count, out);
        }
    }
}

// One head of one row over all its positions: query [D], keys and values [n, D] to out [D].
template <typename Number>
void attend(const float* query, const Number* keys, const Number* values, int n, int head_dim,
            float* scores, float* out) {
    const float scale = 1.0f / std::sqrt(float(head_dim));
    float best = -INFINITY;
    int t = 0;
    const auto score = [&](auto at_once) {
        constexpr int N = decltype(at_once)::value;
        const int apart = (n - t) / N;
        for (int i = 0; i < apart; ++i) {
            float some[1][N];
            tile<N, 1>(keys + int64_t(t + i) * head_dim, int64_t(apart) * head_dim, &query,
                       head_dim, head_dim, some);
            for (int j = 0; j < N; ++j) {
                float& of = scores[t + i + j * apart];
                of = some[0][j] * scale;
                best = std::max(best, of);
            }
        }
        t += apart * N;
    };
    score(std::integral_constant<int, 4>{});  // streams, as in `piece_of`
    score(std::integral_constant<int, 1>{});
    for (t = 0; t < n; ++t) scores[t] = fast_exp(scores[t] - best);
    const float total = strand_sum(n, [=](int t) { return scores[t]; });
    const float share = 1.0f / total;
    const int64_t ahead = 16 * int64_t(head_dim);
    int i = 0;
    const auto weigh = [&](auto at_once) {
        constexpr int N = decltype(at_once)::value;
        for (; i + N * LANES <= head_dim; i += N * LANES) {
            Vec sums[N];
            UNROLL for (int j = 0; j < N; ++j) sums[j] = zero();
            for (int at = 0; at < n; ++at) {
                const Vec weight = spread(scores[at]);
                const Number* value = values + int64_t(at) * head_dim + i;
                UNROLL for (int j = 0; j < N; ++j) {
                    if (j * LANES * sizeof(Number) % 64 == 0)
                        fetch_ahead(value + j * LANES + ahead);
                    sums[j] = fma(weight, load(value + j * LANES), sums[j]);
                }
            }
            for (int j = 0; j < N; ++j) {
                float lanes[LANES];
                store(lanes, sums[j]);
                for (int k = 0; k < LANES; ++k) out[i + j * LANES + k] = lanes[k] * share;
            }
        }
    };
    weigh(std::integral_constant<int, 8>{});  // 64 channels in AVX2: the values come past once
    weigh(std::integral_constant<int, 4>{});
    weigh(std::integral_constant<int, 1>{});
    for (; i < head_dim; ++i) {
        float sum_of = 0.0f;
        for (int at = 0; at < n; ++at) sum_of += scores[at] * float(values[int64_t(at) * head_dim + i]);
        out[i] = sum_of * share;
    }
}

// ---- the step ----------------------------------------------------------------------------------

// Buffers of one call.
struct Space {
    Space(const Model& model, int n_rows, int n_threads, int64_t n_positions)
        : residual(size_t(n_rows) * model.width), query(residual.size()), mixed(residual.size()),
          wide(residual.size() * 4), normed(n_threads), scores(n_threads), working(n_threads) {
        for (auto& of_thread : normed) of_thread.resize(residual.size());
        for (auto& of_thread : scores) of_thread.resize(n_positions);
    }
    std::vector<float> residual, query, mixed, wide;
    std::vector<std::vector<float>> normed, scores;  // each thread's own
    std::vector<Working> working;
};

// One thread's part of a step.
class Step {
  public:
    Step(const Model& model, Team& team, Space& space, const Row* rows, int n_rows, int thread)
        : model_(model), team_(team), space_(space), rows_(rows), n_rows_(n_rows),
          thread_(thread), width_(int(model.width)), head_dim_(int(model.width / model.n_head)),
          normed_(n_rows), mixed_(n_rows), wide_(n_rows) {
        for (int m = 0; m < n_rows; ++m) {
            normed_[m] = &space.normed[thread][size_t(m) * width_];
            mixed_[m] = &space.mixed[size_t(m) * width_];
            wide_[m] = &space.wide[size_t(m) * width_ * 4];
        }
    }

    // hidden [n_rows, width]: normalised, ready for the head.
    void run(float* hidden) {
        embed();
        team_.meet();
        for (int l = 0; l < model_.n_layer; ++l) {
            const Layer& layer = model_.layers[l];
            norm_all(layer.norm_1, layer.norm_1_bias);
            query_keys_values(layer.attention, l);
            team_.meet();
            attend_all(l);
            team_.meet();
            add(layer.projection, width_, mixed_.data());
            team_.meet();
            norm_all(layer.norm_2, layer.norm_2_bias);
            widen(layer.widening);
            team_.meet();
            add(layer.narrowing, 4 * width_, wide_.data());
            team_.meet();
        }
        for (int m; (m = team_.take()) < n_rows_;)
            layer_norm(residual(m), model_.last_norm, model_.last_norm_bias, width_,
                       hidden + size_t(m) * width_);
    }

  private:
    float* residual(int m) { return &space_.residual[size_t(m) * width_]; }

    void embed() {
        for (int m; (m = team_.take()) < n_rows_;) {
            const float* token = model_.tokens + rows_[m].token * width_;
            const float* position = model_.positions + rows_[m].position * width_;
            for (int i = 0; i < width_; ++i) residual(m)[i] = token[i] + position[i];
        }
    }

    // each thread norms all rows for itself: quicker than to wait for each other
    void norm_all(const float* weight, const float* bias) {
        for (int m = 0; m < n_rows_; ++m)
            layer_norm(residual(m), weight, bias, width_,
                       &space_.normed[thread_][size_t(m) * width_]);
    }

    void query_keys_values(const Linear& layer, int l) {
        linear(team_, layer, 0, 3 * width_, width_, normed_.data(), n_rows_,
               space_.working[thread_], [&](int m, int start, int count, const float* values) {
                   for (int i = 0; i < count;) {
                       const int n = start + i, place = n % head_dim_;
                       const int run = std::min(count - i, head_dim_ - place);
                       keep(rows_[m], m, l, n, run, values + i);
                       i += run;
                   }
               });
    }

    // Some queries, keys or values of one head.
    void keep(const Row& row, int m, int l, int n, int count, const float* values) {
        if (n < width_) {
            std::copy_n(values, count, &space_.query[size_t(m) * width_ + n]);
            return;
        }
        const int channel = n % width_;
        const int64_t at = l * row.layer_stride + channel / head_dim_ * row.head_stride +
                           row.position * head_dim_ + channel % head_dim_;
        void* cache = n < 2 * width_ ? row.keys : row.values;
        if (row.half)
            std::copy_n(values, count, static_cast<Half*>(cache) + at);
        else
            std::copy_n(values, count, static_cast<float*>(cache) + at);
    }

    void attend_all(int l) {
        const int n_head = int(model_.n_head);
        for (int piece; (piece = team_.take()) < n_rows_ * n_head;) {
            const int m = piece / n_head, head = piece % n_head;
            const Row& row = rows_[m];
            const int64_t at = l * row.layer_stride + head * row.head_stride;
            const size_t channel = size_t(m) * width_ + size_t(head) * head_dim_;
            if (row.half)
                attend_one<Half>(row, at, channel);
            else
                attend_one<float>(row, at, channel);
        }
    }

    template <typename Number>
    void attend_one(const Row& row, int64_t at, size_t channel) {
        attend(&space_.query[channel], static_cast<const Number*>(row.keys) + at,
               static_cast<const Number*>(row.values) + at, int(row.position) + 1, head_dim_,
               space_.scores[thread_].data(), &space_.mixed[channel]);
    }

    void widen(const Linear& layer) {
        linear(team_, layer, 0, 4 * width_, width_, normed_.data(), n_rows_,
               space_.working[thread_], [&](int m, int start, int count, const float* values) {
                   float* to = &space_.wide[size_t(m) * width_ * 4 + start];
                   for (int n = 0; n < count; ++n) to[n] = gelu(values[n]);
               });
    }

    void add(const Linear& layer, int n_in, const float* const* x) {
        linear(team_, layer, 0, width_, n_in, x, n_rows_, space_.working[thread_],
               [&](int m, int start, int count, const float* values) {
                   float* to = residual(m) + start;
                   for (int n = 0; n < count; ++n) to[n] += values[n];
               });
    }

    const Model& model_;
    Team& team_;
    Space& space_;
    const Row* rows_;
    const int n_rows_, thread_, width_, head_dim_;
    std::vector<const float*> normed_, mixed_, wide_;
};

}  // namespace

// Sizes of the structs, so that a caller with other ones notices.
BARK_EXPORT int64_t bark_sizes() {
    return int64_t(sizeof(Row)) + (int64_t(sizeof(Model)) << 16) + (int64_t(sizeof(Layer)) << 32);
}

// Compute with the threads of GNU's OpenMP from now on: its GOMP_parallel, omp_get_num_threads.
BARK_EXPORT void bark_share_threads(Parallel run, int (*count)()) {
    parallel = run;
    n_parallel = count;
}

// The next position of each row: its keys and values go into its cache, its hidden state into
// hidden [n_rows, width].
BARK_EXPORT void bark_step(const Model* model, const Row* rows, int32_t n_rows, float* hidden,
                           int32_t n_threads) {
    std::lock_guard<std::mutex> lock(team_mutex);
    Team& team = team_of(n_threads);
    int64_t n_positions = 1;
    for (int m = 0; m < n_rows; ++m) n_positions = std::max(n_positions, rows[m].position + 1);
    Space space(*model, n_rows, n_threads, n_positions);
    team.run([&](int thread) {
        Step(*model, team, space, rows, n_rows, thread).run(hidden);
    });
}

// Outputs start .. stop - 1 of the head: hidden [n_rows, width] to out [n_rows, stop - start].
BARK_EXPORT void bark_logits(const Model* model, const float* hidden, int32_t n_rows,
                             int32_t start, int32_t stop, float* out, int32_t n_threads) {
    std::lock_guard<std::mutex> lock(team_mutex);
    Team& team = team_of(n_threads);
    const int count = stop - start;
    team.run([&](int) {
        std::vector<const float*> x(n_rows);
        for (int m = 0; m < n_rows; ++m) x[m] = hidden + m * model->width;
        Working own;
        linear(team, model->head, start, count, int(model->width), x.data(), n_rows, own,
               [&](int m, int first, int n, const float* values) {
                   std::copy_n(values, n, out + int64_t(m) * count + first - start);
               });
    });
}
