/* To be preloaded: a process that opens a file whose name has the text STANBY_SNAG_NAME in it stands
   still there for as long as the file STANBY_SNAG exists, as on a disk that hangs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stand_still(const char *name) {
    const char *part = getenv("STANBY_SNAG_NAME"), *snag = getenv("STANBY_SNAG");
    if (part && snag && strstr(name, part))
        while (access(snag, F_OK) == 0)
            usleep(10000);
}

#define OPENAT(symbol)                                                             \
    int symbol(int folder, const char *name, int flags, ...) {                     \
        static int (*next)(int, const char *, int, ...);                           \
        va_list rest;                                                              \
        va_start(rest, flags);                                                     \
        mode_t mode = va_arg(rest, mode_t);                                        \
        va_end(rest);                                                              \
        if (!next)                                                                 \
            next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #symbol); \
        stand_still(name);                                                         \
        return next(folder, name, flags, mode);                                    \
    }

OPENAT(openat)
OPENAT(openat64)
