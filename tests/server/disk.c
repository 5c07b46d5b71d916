/* A disk that fails, for a program under LD_PRELOAD: what is in the folder DISK_FOLDER can be read, and writing fails as
 * the first letter of the file DISK_CONTROL says: r (the file system was made read-only), f (full), b (it fails). Files
 * that are open fail as well, as they do when a kernel makes a file system read-only after a fault. What is in the folder
 * DISK_EXCEPT is on another disk. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int fault(void) {
    const char *control = getenv("DISK_CONTROL");
    char order = 0;
    int fd = control ? (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY) : -1;
    if (fd < 0) return 0;
    if (syscall(SYS_read, fd, &order, 1) != 1) order = 0;
    syscall(SYS_close, fd);
    return order == 'r' ? EROFS : order == 'f' ? ENOSPC : order == 'b' ? EIO : 0;
}

static int there(const char *path) {
    const char *folder = getenv("DISK_FOLDER"), *except = getenv("DISK_EXCEPT");
    if (!folder || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    return !except || strncmp(path, except, strlen(except)) != 0;
}

static int open_there(int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return there(path);
}

static int fails(int found) {
    int error = found ? fault() : 0;
    if (error) errno = error;
    return error;
}

#define ON_FD(kind, name, parameters, number, ...)                    \
    kind name parameters {                                            \
        if (fails(open_there(fd))) return -1;                         \
        return (kind)syscall(number, __VA_ARGS__);                    \
    }

ON_FD(ssize_t, write, (int fd, const void *data, size_t size), SYS_write, fd, data, size)
ON_FD(ssize_t, writev, (int fd, const struct iovec *parts, int count), SYS_writev, fd, parts, count)
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), SYS_pwrite64, fd, data, size, at)
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), SYS_pwrite64, fd, data, size, at)
ON_FD(int, ftruncate, (int fd, off_t size), SYS_ftruncate, fd, size)
ON_FD(int, ftruncate64, (int fd, off64_t size), SYS_ftruncate, fd, size)
ON_FD(int, fsync, (int fd), SYS_fsync, fd)
ON_FD(int, fdatasync, (int fd), SYS_fdatasync, fd)

#define ON_PATH(name, parameters, path, number, ...)                  \
    int name parameters {                                             \
        if (fails(there(path))) return -1;                            \
        return (int)syscall(number, __VA_ARGS__);                     \
    }

ON_PATH(unlink, (const char *path), path, SYS_unlinkat, AT_FDCWD, path, 0)
ON_PATH(rename, (const char *from, const char *to), to, SYS_renameat, AT_FDCWD, from, AT_FDCWD, to)
ON_PATH(link, (const char *from, const char *to), to, SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0)
ON_PATH(mkdir, (const char *path, mode_t mode), path, SYS_mkdirat, AT_FDCWD, path, mode)

static int open_it(int folder, const char *path, int flags, mode_t mode) {
    int makes = (flags & O_CREAT) && syscall(SYS_faccessat, folder, path, F_OK) != 0;
    int error = there(path) ? fault() : 0;
    /* A full or failing disk lets what is there be opened; a read-only one lets it be opened for reading. */
    if (error && (makes || (flags & O_TMPFILE) == O_TMPFILE || (error == EROFS && (flags & O_ACCMODE) != O_RDONLY))) {
        errno = error;
        return -1;
    }
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name, parameters, folder)                                \
    int name parameters {                                             \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                 \
        return open_it(folder, path, flags, mode);                    \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), at)
OPEN(openat64, (int at, const char *path, int flags, ...), at)
