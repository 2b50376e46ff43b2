/* Open-loop load: requests leave at fixed moments, whether or not earlier ones were answered, as devices' do.
 *
 * An answer's time counts from the moment at which its request was meant to leave, so a server that stalls is charged for
 * all that waited (no coordinated omission). In C because the load must reach half of what the servers can do: the same
 * loop in Python takes about twice the CPU per request, more than its core has.
 *
 * openloop PORT CONNECTIONS RATE SECONDS WARM_SECONDS ANSWER_BYTES ANSWER_START OUTPUT [FLOOD...] < request
 *
 * ANSWER_BYTES: size of every answer; it must begin with ANSWER_START. Any other answer, and a connection that ends, are
 * counted as wrong, and the connection is opened anew. OUTPUT: two float32 arrays of one length, in microseconds: time to
 * the answer, and how late the request left. Requests of the first WARM_SECONDS are not recorded. FLOOD: see flood.c; it
 * begins and ends with the load.
 */
#define _GNU_SOURCE
#include "client.h"
#include "flood.h"

/* After the last request was due, for those that still wait to be sent or answered. */
#define DRAIN_SECONDS 10.0
/* Sent before answers are looked at again; after a stall this bounds how long answers lie unread. */
#define BURST 16
#define ARGUMENTS 8

int main(int count, char **arguments) {
    if (count != 1 + ARGUMENTS && count != 1 + ARGUMENTS + FLOOD_ARGUMENTS) fail("another number of arguments is needed");
    int port = atoi(arguments[1]), connections = atoi(arguments[2]);
    double rate = atof(arguments[3]), seconds = atof(arguments[4]), warm = atof(arguments[5]);
    size_t answer = strtoul(arguments[6], NULL, 10);
    static char request[MAX_REQUEST];
    size_t request_bytes = fread(request, 1, sizeof request, stdin);
    if (!request_bytes || connections < 1 || rate <= 0 || !answer) fail("bad arguments");

    long total = (long)(rate * (seconds + warm)), sent = 0, answered = 0, recorded = 0, wrong = 0;
    float *times = malloc((total + 1) * sizeof *times), *late = malloc((total + 1) * sizeof *late);
    struct connection *all = calloc(connections, sizeof *all);
    struct connection **idle = malloc(connections * sizeof *idle);
    if (!times || !late || !all || !idle) fail("memory");
    int poll = epoll_create1(0), free_count = 0;
    for (int i = 0; i < connections; i++) {
        open_in(poll, &all[i], port);
        idle[free_count++] = &all[i];
    }

    struct epoll_event events[MAX_EVENTS];
    double start = now(), end = start + warm + seconds, measured = start + warm, moment = start;
    struct flood *flood = count > 1 + ARGUMENTS ? flood_open(port, arguments + 1 + ARGUMENTS, start) : NULL;
    if (count > 1 + ARGUMENTS && !flood) fail("bad flood");
    while (answered < total && moment < end + DRAIN_SECONDS) {
        long due = moment < end ? (long)((moment - start) * rate) : total;
        for (int burst = 0; burst < BURST && sent < due && free_count; burst++) {
            struct connection *c = idle[--free_count];
            c->meant = start + sent++ / rate;
            c->left = now();
            ask(c, request, request_bytes);
        }
        if (flood && moment < end) flood_step(flood, moment);
        int ready = epoll_wait(poll, events, MAX_EVENTS, 0);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            enum outcome outcome = take(c, answer, arguments[7]);
            if (outcome == LATER) continue;
            moment = now();
            if (outcome == WRONG) {
                wrong++;
                close(c->descriptor);
                open_in(poll, c, port);
            }
            if (!c->asked) continue;
            c->asked = false;
            answered++;
            if (outcome == ANSWERED && c->meant >= measured) {
                times[recorded] = (moment - c->meant) * 1e6;
                late[recorded++] = (c->left - c->meant) * 1e6;
            }
            idle[free_count++] = c;
        }
        moment = now();
    }

    FILE *output = fopen(arguments[8], "wb");
    if (!output || fwrite(times, sizeof *times, recorded, output) != (size_t)recorded
        || fwrite(late, sizeof *late, recorded, output) != (size_t)recorded || fclose(output)) fail("output");
    printf("{\"recorded\": %ld, \"unanswered\": %ld, \"wrong\": %ld, \"flood\": ", recorded, total - answered, wrong);
    if (flood) flood_tell(flood, stdout);
    else printf("null");
    printf("}\n");
    return 0;
}
