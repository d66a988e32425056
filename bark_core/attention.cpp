// Attention of many positions, for the processors that products.cpp is for.
//
// A thread takes one head's GROUP of queries at a time: their scores lie in its second cache, and
// keys and values come past in the order of register tiles, each once for all the queries.
//
// The law: what a position gets depends neither on those beside it nor on the number of threads:
// it is summed from the first key that it sees to the last.

#include "tiles.h"

#if BARK_HAS_PRODUCTS

namespace {

using namespace bark;

constexpr int GROUP = 48;   // queries
constexpr int PANELS = GROUP / ROWS;
constexpr int BLOCK = 256;  // keys

// Numbers of one sequence: head, position and channel; channels lie side by side.
struct Heads {
    const float* first;
    int64_t to_head, to_position;

    const float* at(int64_t head, int64_t position) const {
        return first + head * to_head + position * to_position;
    }
};

struct Call {
    Heads query, keys, values;
    float* out;  // [position, head, channel]
    int64_t n_head, n_query, n_keys, head_dim;
    int64_t n_past;  // the first query sees one key more, each other one more still; -1: all see all
};

struct OfThread {
    Buffer<float> scaled;   // [query, channel] of a panel
    Buffer<float> queries;  // [panel, channel, query]
    Buffer<float> scores;   // [panel, block of BLOCK keys, query, key]
    Buffer<Line> sums;      // [panel, OUTS channels, query]
};
struct Space {
    Buffer<Line> keys;    // [head, OUTS keys, channel]
    Buffer<Line> values;  // [head, block of BLOCK keys, OUTS channels, key]
    std::vector<OfThread> threads;
};
Space space;

class Attention {
  public:
    explicit Attention(const Call& call)
        : call_(call), key_panels_((call.n_keys + OUTS - 1) / OUTS),
          blocks_((call.n_keys + BLOCK - 1) / BLOCK), wide_((call.head_dim + OUTS - 1) / OUTS),
          groups_((call.n_query + GROUP - 1) / GROUP) {}

    void run(Team& team) {
        space.keys.grow(call_.n_head * key_panels_ * call_.head_dim);
        space.values.grow(call_.n_head * blocks_ * wide_ * BLOCK);
        prepare(space.threads, team, [&](OfThread& own) {
            own.scaled.grow(ROWS * call_.head_dim);
            own.queries.grow(PANELS * call_.head_dim * ROWS);
            own.scores.grow(PANELS * blocks_ * ROWS * BLOCK);
            own.sums.grow(PANELS * wide_ * ROWS);
        });
        team.run([&](int thread) {
            OfThread& own = space.threads[thread];
            for (int64_t piece; (piece = team.take()) < 2 * call_.n_head;)
                piece % 2 ? lay_out_values(piece / 2) : lay_out_keys(piece / 2);
            team.meet();
            // the last queries see the most: they are not to be left for the end
            for (int64_t piece; (piece = team.take()) < call_.n_head * groups_;)
                attend(piece / groups_, (groups_ - 1 - piece % groups_) * GROUP, own);
        });
    }

  private:
    // How many keys a query sees.
    int64_t seen(int64_t query) const {
        query = std::min(query, call_.n_query - 1);
        return call_.n_past < 0 ? call_.n_keys : call_.n_past + query + 1;
    }

    Line* keys(int64_t head, int64_t panel) {
        return &space.keys[(head * key_panels_ + panel) * call_.head_dim];
    }
    Line* values(int64_t head, int64_t block, int64_t part) {
        return &space.values[((head * blocks_ + block) * wide_ + part) * BLOCK];
    }
    float* scores(OfThread& own, int64_t panel, int64_t block) {
        return &own.scores[(panel * blocks_ + block) * ROWS * BLOCK];
    }
    float (*sums(OfThread& own, int64_t panel, int64_t part))[OUTS] {
        return reinterpret_cast<float (*)[OUTS]>(&own.sums[(panel * wide_ + part) * ROWS]);
    }

    void lay_out_keys(int64_t head) {
        for (int64_t panel = 0; panel < key_panels_; ++panel)
            for (int half = 0; half < OUTS; half += 8) {
                const float* rows[8];
                for (int i = 0; i < 8; ++i)  // what lies beyond the last key is never looked at
                    rows[i] = call_.keys.at(
                        head, std::min(panel * OUTS + half + i, call_.n_keys - 1));
                Line* to = keys(head, panel);
                int64_t k = 0;
                for (; k + 8 <= call_.head_dim; k += 8) {
                    __m256 words[8];
                    InFloat32::eight(rows, k, words);
                    UNROLL for (int i = 0; i < 8; ++i)
                        _mm256_store_ps(to[k + i].words + half, words[i]);
                }
                for (; k < call_.head_dim; ++k)
                    for (int i = 0; i < 8; ++i) to[k].words[half + i] = rows[i][k];
            }
    }

    void lay_out_values(int64_t head) {
        for (int64_t key = 0; key < call_.n_keys; ++key)
            for (int64_t part = 0; part < wide_; ++part) {
                const int64_t n = std::min<int64_t>(OUTS, call_.head_dim - part * OUTS);
                Line& to = values(head, key / BLOCK, part)[key % BLOCK];
                std::memcpy(to.words, call_.values.at(head, key) + part * OUTS, size_t(n) * 4);
                std::fill(to.words + n, to.words + OUTS, 0.0f);
            }
    }

    void attend(int64_t head, int64_t first, OfThread& own) {
        const int64_t n = std::min<int64_t>(GROUP, call_.n_query - first);
        const int64_t panels = (n + ROWS - 1) / ROWS;
        lay_out_queries(head, first, panels, own);
        for (int64_t part = 0; part < key_panels_; ++part)
            for (int64_t panel = 0; panel < panels; ++panel)
                if (part * OUTS < seen(first + panel * ROWS + ROWS - 1))
                    score(panel, part, keys(head, part), own);
        float shares[GROUP];
        for (int64_t row = 0; row < panels * ROWS; ++row)
            shares[row] = soften(first, row, own);
        weigh(head, first, panels, own);
        for (int64_t row = 0; row < n; ++row) {
            float* out = call_.out + ((first + row) * call_.n_head + head) * call_.head_dim;
            for (int64_t i = 0; i < call_.head_dim; ++i)
                out[i] = sums(own, row / ROWS, i / OUTS)[row % ROWS][i % OUTS] * shares[row];
        }
    }

    void lay_out_queries(int64_t head, int64_t first, int64_t panels, OfThread& own) {
        const float scale = 1.0f / std::sqrt(float(call_.head_dim));
        float* scaled = own.scaled.data();
        for (int64_t panel = 0; panel < panels; ++panel) {
            for (int m = 0; m < ROWS; ++m) {
                const int64_t row = std::min(first + panel * ROWS + m, call_.n_query - 1);
                const float* query = call_.query.at(head, row);
                float* to = scaled + m * call_.head_dim;
                for (int64_t i = 0; i < call_.head_dim; ++i) to[i] = query[i] * scale;
            }
            interleave(scaled, call_.head_dim, call_.head_dim,
                       &own.queries[panel * call_.head_dim * ROWS]);
        }
    }

    void score(int64_t panel, int64_t part, const Line* keys, OfThread& own) {
        alignas(64) float tile[ROWS][OUTS] = {};
        multiply<InFloat32>(&own.queries[panel * call_.head_dim * ROWS], keys, call_.head_dim, tile);
        float* to = scores(own, panel, part * OUTS / BLOCK) + part * OUTS % BLOCK;
        for (int m = 0; m < ROWS; ++m) std::memcpy(to + m * BLOCK, tile[m], sizeof tile[m]);
    }

    // Scores of a query become exp(score - the largest); one over their sum.
    float soften(int64_t first, int64_t row, OfThread& own) {
        const int64_t panel = row / ROWS, n = seen(first + row);
        const int64_t n_panel = seen(first + panel * ROWS + ROWS - 1);
        const auto each_block = [&](int64_t stop, const auto& work) {
            for (int64_t start = 0; start < stop; start += BLOCK)
                work(scores(own, panel, start / BLOCK) + row % ROWS * BLOCK, start,
                     std::min<int64_t>(BLOCK, stop - start));
        };
        float best = -INFINITY;
        each_block(n, [&](const float* part, int64_t, int64_t count) {
            float strands[16];
            std::fill(strands, strands + 16, -INFINITY);
            int64_t i = 0;
            for (; i + 16 <= count; i += 16)
                for (int j = 0; j < 16; ++j) strands[j] = std::max(strands[j], part[i + j]);
            for (; i < count; ++i) best = std::max(best, part[i]);
            for (float strand : strands) best = std::max(best, strand);
        });
        float total = 0.0f;
        each_block(n, [&](float* part, int64_t, int64_t count) {
            for (int64_t i = 0; i < count; ++i) part[i] = fast_exp(part[i] - best);
            total += strand_sum(int(count), [part](int i) { return part[i]; });
        });
        each_block(n_panel, [&](float* part, int64_t start, int64_t count) {
            // what the panel's later queries see and this one doesn't
            for (int64_t i = std::max<int64_t>(0, n - start); i < count; ++i) part[i] = 0.0f;
        });
        return 1.0f / total;
    }

    // The values, by those scores.
    void weigh(int64_t head, int64_t first, int64_t panels, OfThread& own) {
        std::fill_n(own.sums.data(), PANELS * wide_ * ROWS, Line{});
        for (int64_t block = 0; block < blocks_; ++block)
            for (int64_t part = 0; part < wide_; ++part)
                for (int64_t panel = 0; panel < panels; ++panel) {
                    const int64_t n = seen(first + panel * ROWS + ROWS - 1) - block * BLOCK;
                    if (n > 0)
                        multiply<InFloat32, BLOCK, 1>(
                            scores(own, panel, block), values(head, block, part),
                            std::min<int64_t>(n, BLOCK), sums(own, panel, part));
                }
    }

    const Call& call_;
    const int64_t key_panels_, blocks_, wide_, groups_;
};

}  // namespace

// Of each, where its first number lies and how far it is from head to head and from position to
// position: query, keys, values. To out [n_query, n_head, head_dim]; 0: there wasn't enough memory.
BARK_EXPORT int32_t bark_attention(const float* const* firsts, const int64_t* strides, float* out,
                                   int64_t n_head, int64_t n_query, int64_t n_keys,
                                   int64_t head_dim, int64_t n_past, int32_t n_threads) {
    std::lock_guard<std::mutex> lock(team_mutex);
    const auto heads = [&](int i) { return Heads{firsts[i], strides[2 * i], strides[2 * i + 1]}; };
    const Call call{heads(0), heads(1), heads(2), out, n_head, n_query, n_keys, head_dim, n_past};
    return with_memory([&] { Attention(call).run(team_of(n_threads)); });
}

#else

BARK_EXPORT int32_t bark_attention(const float* const*, const int64_t*, float*, int64_t, int64_t,
                                   int64_t, int64_t, int64_t, int32_t) {
    return 0;
}

#endif
