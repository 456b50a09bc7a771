/* Preloaded into a training process: counts the system calls that change something under a folder,
 * and at one of them kills the process or lets the call fail.
 *
 * A write that is to die writes half of its bytes first, as a machine that loses power may.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1 };

static atomic_long seen;
static long act_at; /* the number of the call, from 1; 0: never */
static int action;  /* KILL, or the errno of the failure */
static char folder[4096];

void faults_arm(long at, int what, const char *under) {
    act_at = at;
    action = what;
    strncpy(folder, under, sizeof folder - 1);
    atomic_store(&seen, 0);
}

long faults_seen(void) { return atomic_load(&seen); }

/* Whether this call is the one. A failing disk goes on failing. */
static int is_due(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)) != 0) return 0;
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (!act_at) return 0;
    return action == KILL ? number == act_at : number >= act_at;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int fails(const char *path) {
    if (!is_due(path)) return 0;
    if (action == KILL) die();
    errno = action;
    return 1;
}

static const char *path_of(int descriptor, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, buffer, size - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

static int fails_at(int base, const char *path) {
    char full[8192];
    if (path[0] == '/' || base == AT_FDCWD) return fails(path);
    path_of(base, full, 4096);
    size_t length = strlen(full);
    snprintf(full + length, sizeof full - length, "/%s", path);
    return fails(full);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

#define ON_PATH(name, parameters, path, arguments)      \
    int name parameters {                               \
        REAL(name);                                     \
        return fails(path) ? -1 : real arguments;       \
    }
#define ON_BASE(name, parameters, base, path, arguments) \
    int name parameters {                                \
        REAL(name);                                      \
        return fails_at(base, path) ? -1 : real arguments; \
    }
#define ON_DESCRIPTOR(name, parameters, descriptor, arguments)                              \
    int name parameters {                                                                   \
        REAL(name);                                                                         \
        char buffer[4096];                                                                  \
        return fails(path_of(descriptor, buffer, sizeof buffer)) ? -1 : real arguments;     \
    }

ON_PATH(rename, (const char *from, const char *to), from, (from, to))
ON_PATH(unlink, (const char *path), path, (path))
ON_PATH(rmdir, (const char *path), path, (path))
ON_PATH(mkdir, (const char *path, mode_t mode), path, (path, mode))
ON_BASE(renameat, (int a, const char *from, int b, const char *to), a, from, (a, from, b, to))
ON_BASE(unlinkat, (int base, const char *path, int flags), base, path, (base, path, flags))
ON_BASE(mkdirat, (int base, const char *path, mode_t mode), base, path, (base, path, mode))
ON_DESCRIPTOR(fsync, (int descriptor), descriptor, (descriptor))
ON_DESCRIPTOR(fdatasync, (int descriptor), descriptor, (descriptor))
ON_DESCRIPTOR(ftruncate, (int descriptor, off_t length), descriptor, (descriptor, length))
ON_DESCRIPTOR(ftruncate64, (int descriptor, off64_t length), descriptor, (descriptor, length))

ssize_t write(int descriptor, const void *bytes, size_t count) {
    REAL(write);
    char buffer[4096];
    if (is_due(path_of(descriptor, buffer, sizeof buffer))) {
        if (action == KILL) {
            real(descriptor, bytes, count / 2);
            die();
        }
        errno = action;
        return -1;
    }
    return real(descriptor, bytes, count);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    char buffer[4096];
    return fails(path_of(descriptor, buffer, sizeof buffer)) ? -1 : real(descriptor, parts, count);
}

#define OPEN(name)                                                    \
    int name(const char *path, int flags, ...) {                      \
        REAL(name);                                                   \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;     \
        va_end(rest);                                                 \
        if ((flags & O_CREAT) && fails(path)) return -1;              \
        return real(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)
