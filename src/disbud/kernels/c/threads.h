// Running independent units of work on several threads.
//
// Every unit writes what no other unit does and sums in its own fixed order, so results do not depend on the number of
// threads.
#ifndef DISBUD_THREADS_H
#define DISBUD_THREADS_H

#include <stdint.h>

#define MOST_THREADS 256

typedef void (*unit_of_work)(const void *job, int64_t unit);

void run_units(unit_of_work run, const void *job, int64_t units, int threads);

// The team of threads that the host program keeps: GOMP_parallel of its own OpenMP runtime, or null.
typedef void (*team)(void (*part)(void *), void *shared, unsigned threads, unsigned flags);
void disbud_use_team(team given);

#endif
