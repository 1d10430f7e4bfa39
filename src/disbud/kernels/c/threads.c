// Threads for the units of a call: those of the host's OpenMP runtime, where it has one, else ones of our own.
//
// torch's team waits for its next work by spinning for a while after each of torch's operations. Threads of our own
// would run beside those that spin, on the same cores; so the team is asked to take our work too. It does not survive a
// fork: in a child of the process that named it, and where none was named, POSIX threads are started for a call and
// joined at its end.

#include "threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

typedef struct {
    unit_of_work run;
    const void *job;
    int64_t units;
    atomic_llong next;
} work;

static team hosts;
static pid_t owner;

void disbud_use_team(team given) {
    hosts = given;
    owner = getpid();
}

static void take_units(void *shared) {
    work *all_of_it = shared;
    for (;;) {
        int64_t unit = atomic_fetch_add(&all_of_it->next, 1);
        if (unit >= all_of_it->units) return;
        all_of_it->run(all_of_it->job, unit);
    }
}

static void *take_units_and_end(void *shared) {
    take_units(shared);
    return 0;
}

// Where the system refuses a thread, those that run take its share.
static void run_on_own_threads(work *shared, int threads) {
    pthread_t others[MOST_THREADS];
    int started = 0;
    while (started + 1 < threads && !pthread_create(&others[started], 0, take_units_and_end, shared)) started++;
    take_units(shared);
    while (started > 0) pthread_join(others[--started], 0);
}

void run_units(unit_of_work run, const void *job, int64_t units, int threads) {
    work all_of_it = {run, job, units, 0};
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > units) threads = (int)units;
    if (threads <= 1)
        take_units(&all_of_it);
    else if (hosts && owner == getpid())
        hosts(take_units, &all_of_it, (unsigned)threads, 0);
    else
        run_on_own_threads(&all_of_it, threads);
}
