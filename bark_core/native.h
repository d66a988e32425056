// What decode_step.cpp and products.cpp share: vectors, functions of numbers, threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <sys/mman.h>
#include <unistd.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")

#if defined(_WIN32)
#define BARK_EXPORT extern "C" __declspec(dllexport)
#else
#define BARK_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace bark {

// ---- vectors ----------------------------------------------------------------------------------

using Half = _Float16;

#if defined(__AVX512F__)
constexpr int LANES = 16;
using Vec = __m512;
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec spread(float x) { return _mm512_set1_ps(x); }
inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
constexpr int LANES = 8;
using Vec = __m256;
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const int8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec spread(float x) { return _mm256_set1_ps(x); }
inline float sum(Vec v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#else  // any other processor: the compiler makes of it what it can
constexpr int LANES = 8;
struct Vec {
    float lane[LANES];
};
template <typename Make>
inline Vec make(Make of) {
    Vec v;
    for (int i = 0; i < LANES; ++i) v.lane[i] = of(i);
    return v;
}
inline Vec zero() { return make([](int) { return 0.0f; }); }
inline Vec load(const float* p) { return make([p](int i) { return p[i]; }); }
inline Vec load(const int8_t* p) { return make([p](int i) { return float(p[i]); }); }
inline Vec load(const Half* p) { return make([p](int i) { return float(p[i]); }); }
#if defined(FP_FAST_FMAF)
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return make([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
#else
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return make([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
#endif
inline void store(float* p, const Vec& v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline Vec spread(float x) { return make([x](int) { return x; }); }
inline float sum(const Vec& v) {
    float total = 0.0f;
    for (int i = 0; i < LANES; ++i) total += v.lane[i];
    return total;
}
#endif

#if defined(__GNUC__)
inline void fetch_ahead(const void* p) { __builtin_prefetch(p, 0, 2); }
#else
inline void fetch_ahead(const void*) {}
#endif

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

// ---- memory ------------------------------------------------------------------------------------

constexpr size_t LARGE_PAGE = size_t(1) << 21;

// Memory of so many bytes: in large pages, where the system has them and it would fill one.
class Memory {
  public:
    Memory() = default;
    Memory(Memory&& other) noexcept
        : first_(std::exchange(other.first_, nullptr)), n_bytes_(std::exchange(other.n_bytes_, 0)) {}
    ~Memory() { release(); }

    void* first() const { return first_; }

    // What was there is lost, unless there was enough.
    void grow(size_t n_bytes) {
        if (n_bytes <= n_bytes_) return;
        release();
        const bool large = size_t(alignment(n_bytes)) == LARGE_PAGE;
        if (large) n_bytes = (n_bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
        first_ = ::operator new(n_bytes, alignment(n_bytes));
        n_bytes_ = n_bytes;
#if defined(MADV_HUGEPAGE)
        if (large) madvise(first_, n_bytes, MADV_HUGEPAGE);
#endif
    }

  private:
    static std::align_val_t alignment(size_t n_bytes) {
        return std::align_val_t(n_bytes < LARGE_PAGE / 2 ? 64 : LARGE_PAGE);
    }
    void release() {
        if (first_) ::operator delete(first_, alignment(n_bytes_));
        first_ = nullptr;
        n_bytes_ = 0;
    }

    void* first_ = nullptr;
    size_t n_bytes_ = 0;
};

// Whether there was memory enough for it; what is called from elsewhere must not throw.
template <typename Work>
inline int32_t with_memory(const Work& work) {
    try {
        work();
        return 1;
    } catch (const std::bad_alloc&) {
        return 0;
    }
}

// ---- threads ----------------------------------------------------------------------------------

// Entry points of GNU's OpenMP, where torch computes with it: bark_share_threads.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
inline Parallel parallel = nullptr;
inline int (*n_parallel)() = nullptr;

// A team that goes through a list of phases together. Within a phase each thread takes the next
// piece of work until none is left, so that a thread that another program holds up delays the
// others by one piece at most.
//
// Its threads are those that torch computes with, if that is possible: they go on looking for
// work for some milliseconds after each of torch's operations, and others would have to share
// the processor's cores with them meanwhile.
class Team {
  public:
    explicit Team(int size) : wanted_(size), size_(size) {
        if (parallel) return;
        for (int i = 1; i < size; ++i) std::thread([this, i] { serve(i); }).detach();
    }

    int wanted() const { return wanted_; }

    // Run work(thread) on every thread, the caller's included.
    template <typename Work>
    void run(const Work& work) {
        if (parallel)
            run_shared(work);
        else
            run_own(work);
    }

    // The next piece of the current phase.
    int take() { return next_piece_.fetch_add(1, std::memory_order_relaxed); }

    // Wait until all threads have come here; then the next phase begins.
    void meet() {
        const int size = size_.load(std::memory_order_relaxed);
        if (size == 1) {
            next_piece_.store(0, std::memory_order_relaxed);
            return;
        }
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived_.store(0, std::memory_order_relaxed);
            next_piece_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1);
            if (n_asleep_.load()) {
                // whoever counted itself waits by now, or will see the new phase
                { std::lock_guard<std::mutex> lock(mutex_); }
                next_phase_.notify_all();
            }
            return;
        }
        for (int spins = 0; spins < 4000; ++spins) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            relax();
        }
        // The others are held up by other programs, which may need this very core: sleep.
        // Yielding it over and over made a step take seconds beside many of them.
        std::unique_lock<std::mutex> lock(mutex_);
        n_asleep_.fetch_add(1);
        next_phase_.wait(lock, [&] { return phase_.load() != phase; });
        n_asleep_.fetch_sub(1);
    }

  private:
    template <typename Work>
    void run_shared(const Work& work) {
        struct Call {
            Team* team;
            const Work* work;
            std::atomic<int> n_here{0};
        } call{this, &work};
        next_piece_.store(0);
        parallel(
            [](void* of) {
                Call& call = *static_cast<Call*>(of);
                // there may be fewer than were asked for; all of them store the same number
                call.team->size_.store(n_parallel(), std::memory_order_relaxed);
                (*call.work)(call.n_here.fetch_add(1));
            },
            &call, unsigned(wanted_), 0);
    }

    template <typename Work>
    void run_own(const Work& work) {
        call_ = [](const void* of, int thread) { (*static_cast<const Work*>(of))(thread); };
        work_ = &work;
        next_piece_.store(0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ++round_;
        }
        wake_.notify_all();
        call_(work_, 0);
        meet();
    }

    void serve(int thread) {
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_ != seen; });
                seen = round_;
            }
            call_(work_, thread);
            meet();
        }
    }

    const int wanted_;
    std::atomic<int> size_;
    void (*call_)(const void*, int) = nullptr;
    const void* work_ = nullptr;
    std::atomic<int> next_piece_{0};
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> phase_{0};
    std::atomic<int> n_asleep_{0};
    std::mutex mutex_;
    std::condition_variable wake_, next_phase_;
    uint64_t round_ = 0;
};

// One team a process, made anew after a fork and where the number of threads changes. Old teams
// sleep on: there is no moment at which ending them would be safe from a process that exits.
inline std::mutex team_mutex;

inline Team& team_of(int size) {
    static std::vector<Team*> teams;
    static long owner = 0;
#if !defined(_WIN32)
    const long process = long(getpid());
    if (owner != process) teams.clear();
    owner = process;
#endif
    for (Team* team : teams)
        if (team->wanted() == size) return *team;
    teams.push_back(new Team(size));
    return *teams.back();
}

// ---- functions of numbers ------------------------------------------------------------------------

// a * b + c, rounded once where the processor has an operation for it.
inline float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(FP_FAST_FMAF)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// exp without branches, so that loops over it become vector code; relative error 2e-7.
inline float fast_exp(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float scaled = fma(x, 1.44269504f, shift);
    const float n = scaled - shift;
    const float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x));
    float p = 1.0f / 5040;
    p = fma(p, r, 1.0f / 720);
    p = fma(p, r, 1.0f / 120);
    p = fma(p, r, 1.0f / 24);
    p = fma(p, r, 1.0f / 6);
    p = fma(p, r, 0.5f);
    p = fma(p, r, 1.0f);
    p = fma(p, r, 1.0f);
    int32_t bits;
    std::memcpy(&bits, &scaled, 4);
    bits = int32_t(uint32_t(bits + 127) << 23);
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

// Exact GELU: erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
inline float gelu(float x) {
    const float z = std::fabs(x) * 0.70710678f;
    const float t = 1.0f / fma(0.3275911f, z, 1.0f);
    float p = 1.061405429f;
    p = fma(p, t, -1.453152027f);
    p = fma(p, t, 1.421413741f);
    p = fma(p, t, -0.284496736f);
    p = fma(p, t, 0.254829592f);
    const float tail = p * t * fast_exp(-z * z);  // 1 - erf(z)
    return x >= 0.0f ? x * (1.0f - 0.5f * tail) : 0.5f * x * tail;
}

// Sums in sixteen strands, so that the loop becomes vector code in one fixed order.
template <typename Term>
inline float strand_sum(int n, const Term& term) {
    float strands[16] = {};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; ++j) strands[j] += term(i + j);
    float total = 0.0f;
    for (; i < n; ++i) total += term(i);
    for (float strand : strands) total += strand;
    return total;
}

}  // namespace bark
