#include <stddef.h>

// glibc declares sched_getaffinity(2) only to programs that ask for GNU's extensions, which a module
// cannot. set: `size` bytes, a bit for each core; returns -1 if the machine has more cores than bits.
extern int sched_cores_of_thread(int thread, size_t size, unsigned char *set)
    __asm__("sched_getaffinity");
extern int sched_set_cores_of_thread(int thread, size_t size, const unsigned char *set)
    __asm__("sched_setaffinity");
