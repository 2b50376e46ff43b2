/* Closed-loop load: each connection asks again as soon as it was answered, like wrk, at less CPU per request.
 *
 * Where a server needs as little CPU for an answer as wrk does, wrk's core is full first and both look alike. This program
 * compares an answer's start and counts its bytes instead of parsing it, and it polls instead of sleeping, so that the
 * server's core is the one that is full.
 *
 * closedloop PORT CONNECTIONS SECONDS ANSWER_BYTES ANSWER_START < request
 *
 * ANSWER_BYTES: size of every answer; it must begin with ANSWER_START. Anything else, and a connection that ends, ends
 * the run.
 */
#define _GNU_SOURCE
#include "client.h"

#include <sys/resource.h>

#define ARGUMENTS 5

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(int count, char **arguments) {
    if (count != 1 + ARGUMENTS) fail("five arguments are needed");
    int port = atoi(arguments[1]), connections = atoi(arguments[2]);
    double seconds = atof(arguments[3]);
    size_t answer = strtoul(arguments[4], NULL, 10);
    static char request[MAX_REQUEST];
    size_t request_bytes = fread(request, 1, sizeof request, stdin);
    if (!request_bytes || connections < 1 || seconds <= 0 || !answer) fail("bad arguments");

    struct connection *all = calloc(connections, sizeof *all);
    if (!all) fail("memory");
    int poll = epoll_create1(0);
    for (int i = 0; i < connections; i++) open_in(poll, &all[i], port);

    struct epoll_event events[MAX_EVENTS];
    double used = cpu_seconds(), start = now(), moment = start;
    long answers = 0;
    for (int i = 0; i < connections; i++) ask(&all[i], request, request_bytes);
    while (moment < start + seconds) {
        int ready = epoll_wait(poll, events, MAX_EVENTS, 0);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            enum outcome outcome = take(c, answer, arguments[5]);
            if (outcome == LATER) continue;
            if (outcome == WRONG) fail("another answer than expected, or none");
            answers++;
            ask(c, request, request_bytes);
        }
        moment = now();
    }
    printf("{\"requests\": %ld, \"bytes\": %ld, \"duration_us\": %.0f, \"cpu_us\": %.0f}\n", answers,
           answers * (long)answer, (moment - start) * 1e6, (cpu_seconds() - used) * 1e6);
    return 0;
}
