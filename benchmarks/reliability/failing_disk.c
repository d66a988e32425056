/* Loaded before libc (LD_PRELOAD): lets one write to a folder fail as a disk fails.
 *
 * Counted are the calls that change something under the folder: opening a file to be made,
 * write, pwrite, writev, fsync, fdatasync, ftruncate, fallocate, rename, mkdir. The call of the
 * chosen number fails with the chosen errno; with `persist` so do all after it, as on a disk
 * that stays full. SQLite's calls are counted like everybody's. Linux only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long fail_at = -1, seen = 0;
static int fail_errno = 0, persist = 0;

void failing_disk_arm(const char *path, long at, int error, int for_good) {
    strncpy(folder, path, sizeof folder - 1);
    fail_errno = error, persist = for_good;
    __sync_lock_test_and_set(&seen, 0);
    __sync_lock_test_and_set(&fail_at, at);
}

long failing_disk_seen(void) { return seen; }

static int strikes(const char *path) {
    if (fail_at < 0 || !path || !folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long number = __sync_fetch_and_add(&seen, 1);
    if (number == fail_at || (persist && number > fail_at)) {
        errno = fail_errno;
        return 1;
    }
    return 0;
}

static int strikes_fd(int fd) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    if (n < 0) return 0;
    path[n] = 0;
    return strikes(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        REAL(int, #name, const char *, int, ...); \
        if ((flags & O_CREAT) && strikes(path)) return -1; \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        MODE(flags) \
        REAL(int, #name, int, const char *, int, ...); \
        if ((flags & O_CREAT) && strikes(path)) return -1; \
        return real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(type, name, parameters, arguments, ...) \
    type name parameters { \
        REAL(type, #name, __VA_ARGS__); \
        if (strikes_fd(fd)) return -1; \
        return real arguments; \
    }
ON_FD(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), int, const void *, size_t)
ON_FD(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), int, const void *, size_t, off_t)
ON_FD(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), int, const void *, size_t, off64_t)
ON_FD(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), int, const struct iovec *, int)
ON_FD(int, fsync, (int fd), (fd), int)
ON_FD(int, fdatasync, (int fd), (fd), int)
ON_FD(int, ftruncate, (int fd, off_t n), (fd, n), int, off_t)
ON_FD(int, ftruncate64, (int fd, off64_t n), (fd, n), int, off64_t)
ON_FD(int, fallocate, (int fd, int m, off_t o, off_t n), (fd, m, o, n), int, int, off_t, off_t)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return strikes(to) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return strikes(to) ? -1 : real(a, from, b, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return strikes(path) ? -1 : real(path, mode);
}
