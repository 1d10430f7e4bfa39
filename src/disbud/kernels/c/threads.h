// Running independent units of work on several threads.
//
// POSIX threads are started for a call and joined at its end: nothing outlives it, so a process may fork at any time,
// and no thread spins beside torch's own. Every unit writes what no other unit does and sums in its own fixed order, so
// results do not depend on the number of threads.
#ifndef DISBUD_THREADS_H
#define DISBUD_THREADS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define MOST_THREADS 256

typedef void (*unit_of_work)(const void *job, int64_t unit);

typedef struct {
    unit_of_work run;
    const void *job;
    int64_t units;
    atomic_llong next;
} work;

static void *take_units(void *shared) {
    work *all_of_it = shared;
    for (;;) {
        int64_t unit = atomic_fetch_add(&all_of_it->next, 1);
        if (unit >= all_of_it->units) return 0;
        all_of_it->run(all_of_it->job, unit);
    }
}

// Where the system refuses a thread, those that run take its share.
static void run_units(unit_of_work run, const void *job, int64_t units, int threads) {
    work all_of_it = {run, job, units, 0};
    pthread_t others[MOST_THREADS];
    int started = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > units) threads = (int)units;
    while (started + 1 < threads && !pthread_create(&others[started], 0, take_units, &all_of_it)) started++;
    take_units(&all_of_it);
    while (started > 0) pthread_join(others[--started], 0);
}

#endif
