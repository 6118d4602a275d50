/* A disk that fails: after FAIL_AFTER bytes written below FAIL_UNDER, every further write and fsync there gives the error FAIL_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static long written;

void failing_disk_again(void) { written = 0; }

static int fails(int fd, size_t size) {
    const char *under = getenv("FAIL_UNDER");
    char link[64], path[PATH_MAX];
    if (!under) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (strncmp(path, under, strlen(under))) return 0;
    if (__sync_add_and_fetch(&written, (long)size) <= atol(getenv("FAIL_AFTER"))) return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); return fails(fd, size) ? -1 : real(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); return fails(fd, size) ? -1 : real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); return fails(fd, size) ? -1 : real(fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); return fails(fd, 4096) ? -1 : real(fd, parts, count); }
int fsync(int fd) { REAL(fsync); return fails(fd, 0) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return fails(fd, 0) ? -1 : real(fd); }
