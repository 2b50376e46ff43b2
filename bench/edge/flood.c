/* Floods: bad input at a fixed rate, over a fixed number of connections that take turns.
 *
 * KIND   what is done when a connection's turn comes:
 *   ask     send a whole request, unless the last one is not answered yet
 *   once    the same, and close after the answer
 *   drip    send one byte more: of a request that never ends
 *   pipe    send what the kernel takes of many requests, and read no more than READ_BYTES of the answers
 *   vanish  reset the connection, open another, and send nothing, half a request or a whole one
 * RATE         turns per second, of DRIP after all were opened; 0: as fast as answers come, one after the other
 * TEMPLATE     file with what is sent; each sequence of sixteen # becomes a number that never comes again
 * STATUS       of every answer; any other is counted as unexpected, and with "" every one
 *
 * Connections are opened when their turn comes, also again when the server has ended one. They end with RST, which leaves
 * no port behind that would have to wait (TIME_WAIT), so thousands can come and go in a second.
 */
#define _GNU_SOURCE
#include "flood.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_TEMPLATE (1 << 20)
#define MAX_NUMBERS 16
#define NUMBER_BYTES 16
/* An answer begins with "HTTP/1.1 304". */
#define STATUS_PLACE 9
#define STATUS_BYTES 3
/* Connections that only drip are opened faster than their drops fall, yet so that a server can accept them. */
#define OPENED_PER_SECOND 5000.0
/* Answers taken in one step. */
#define MAX_EVENTS 16
/* Of a client that reads slowly: small, so that the server's answers soon find no place. */
#define SLOW_RECEIVE_BUFFER (1 << 16)

enum kind { ASK, ONCE, DRIP, PIPE, VANISH, KINDS };
static const char *const names[KINDS] = {"ask", "once", "drip", "pipe", "vanish"};

/* A place for one connection after the other. */
struct place {
    int descriptor;    /* -1: none is open */
    size_t sent;       /* bytes of the template, of DRIP also those behind it */
    size_t missing;    /* bytes of an answer that has begun */
    bool waiting;      /* for an answer */
};

struct flood {
    enum kind kind;
    struct sockaddr_in address;
    double rate, start;
    int count, poll;
    size_t read_bytes, size;
    const char *status;
    char *template;
    char *numbers[MAX_NUMBERS];
    struct place *places;
    unsigned long turns, number;
    /* For flood_tell: turns in which nothing could be done, connections that the server ended before it had answered. */
    unsigned long skipped, opened, requests, answers, unexpected, ended;
    unsigned long long received;
};

static char buffer[1 << 18];

static bool load_template(struct flood *flood, const char *path) {
    FILE *file = fopen(path, "rb");
    flood->template = calloc(1, MAX_TEMPLATE + 1);
    if (!file || !flood->template) return false;
    flood->size = fread(flood->template, 1, MAX_TEMPLATE, file);
    fclose(file);
    char *at = flood->template, *end = at + flood->size;
    for (int i = 0; i < MAX_NUMBERS; i++) {
        at = memmem(at, end - at, "################", NUMBER_BYTES);
        if (!at) break;
        flood->numbers[i] = at;
        at += NUMBER_BYTES;
    }
    return flood->size > 0;
}

struct flood *flood_open(int port, char **arguments, double moment) {
    struct flood *flood = calloc(1, sizeof *flood);
    if (!flood) return NULL;
    while (flood->kind < KINDS && strcmp(arguments[0], names[flood->kind])) flood->kind++;
    flood->rate = atof(arguments[1]);
    flood->count = atoi(arguments[2]);
    flood->status = arguments[4];
    flood->read_bytes = strtoul(arguments[5], NULL, 10);
    if (flood->kind == KINDS || flood->rate < 0 || flood->count < 1 || flood->read_bytes > sizeof buffer) return NULL;
    if (!load_template(flood, arguments[3])) return NULL;
    flood->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    flood->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    flood->start = moment;
    flood->poll = epoll_create1(0);
    flood->places = calloc(flood->count, sizeof *flood->places);
    if (!flood->places || flood->poll < 0) return NULL;
    for (int i = 0; i < flood->count; i++) flood->places[i].descriptor = -1;
    return flood;
}

static bool open_place(struct flood *flood, struct place *place) {
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    int one = 1, small = SLOW_RECEIVE_BUFFER, large = MAX_TEMPLATE;
    *place = (struct place){.descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    if (place->descriptor < 0) return false;
    setsockopt(place->descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(place->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (flood->kind == PIPE) setsockopt(place->descriptor, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    else setsockopt(place->descriptor, SOL_SOCKET, SO_SNDBUF, &large, sizeof large); /* a request goes in one piece */
    /* Over the loopback interface the connection is there when this returns, although it says that it is on its way. */
    connect(place->descriptor, (struct sockaddr *)&flood->address, sizeof flood->address);
    if (flood->kind != PIPE && flood->kind != VANISH) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = place};
        epoll_ctl(flood->poll, EPOLL_CTL_ADD, place->descriptor, &event);
    }
    flood->opened++;
    return true;
}

static void close_place(struct place *place) {
    close(place->descriptor);
    place->descriptor = -1;
}

static void end_place(struct flood *flood, struct place *place) {
    if (place->waiting || place->missing) flood->ended++;
    close_place(place);
}

/* How many bytes belong to the answer that `data` begins with. */
static size_t answer_size(char *data, size_t got) {
    char *end = memmem(data, got, "\r\n\r\n", 4);
    if (!end) return got;
    *end = 0; /* the search for the length must not go on into the body */
    char *length = strcasestr(data, "\r\ncontent-length:");
    *end = '\r';
    return end + 4 - data + (length ? strtoul(length + 17, NULL, 10) : 0);
}

static void look_at(struct flood *flood, const char *data, size_t got) {
    flood->answers++;
    if (got < STATUS_PLACE + STATUS_BYTES || strncmp(data + STATUS_PLACE, flood->status, STATUS_BYTES)) flood->unexpected++;
}

static void take(struct flood *flood, struct place *place) {
    ssize_t got = recv(place->descriptor, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        end_place(flood, place);
        return;
    }
    flood->received += got;
    if (!place->missing) {
        look_at(flood, buffer, got);
        place->missing = answer_size(buffer, got);
    }
    place->missing -= place->missing < (size_t)got ? place->missing : (size_t)got;
    if (place->missing) return;
    place->waiting = false;
    if (flood->kind == ONCE) close_place(place);
}

static void number_template(struct flood *flood) {
    flood->number++;
    for (int i = 0; i < MAX_NUMBERS && flood->numbers[i]; i++) {
        unsigned long rest = flood->number;
        for (int digit = NUMBER_BYTES - 1; digit >= 0; digit--, rest >>= 4)
            flood->numbers[i][digit] = "0123456789abcdef"[rest & 15];
    }
}

/* Send from `place->sent` on, up to `end`; say whether the connection is still there. */
static bool send_on(struct flood *flood, struct place *place, size_t end) {
    ssize_t sent = send(place->descriptor, flood->template + place->sent, end - place->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end_place(flood, place);
        return false;
    }
    if (sent > 0) {
        flood->requests += !place->sent; /* it begins */
        place->sent += sent;
    }
    return true;
}

static void ask(struct flood *flood, struct place *place) {
    if (place->waiting) {
        /* A large request may not have gone in one piece. Numbers stand at its beginning, so the rest is as it was. */
        if (place->sent < flood->size) send_on(flood, place, flood->size);
        flood->skipped++;
        return;
    }
    number_template(flood);
    place->sent = 0;
    place->waiting = true;
    send_on(flood, place, flood->size);
}

static void drip(struct flood *flood, struct place *place) {
    if (place->sent < flood->size) {
        place->waiting = true;
        send_on(flood, place, flood->size);
    } else if (send(place->descriptor, "x", 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
        end_place(flood, place);
    }
}

static void pipe_on(struct flood *flood, struct place *place) {
    if (place->sent == flood->size) place->sent = 0;
    place->waiting = true;
    if (!send_on(flood, place, flood->size)) return;
    ssize_t got = recv(place->descriptor, buffer, flood->read_bytes, 0);
    if (!got || (got < 0 && errno != EAGAIN)) {
        end_place(flood, place);
    } else if (got > 0) {
        flood->received += got;
        if (place->missing) return; /* the first answer of the connection was looked at */
        place->missing = 1;
        look_at(flood, buffer, got);
    }
}

static void vanish(struct flood *flood, struct place *place) {
    size_t end = flood->size * (flood->turns % 3) / 2;
    if (end) send_on(flood, place, end);
}

static void turn(struct flood *flood, struct place *place) {
    if (flood->kind == VANISH && place->descriptor >= 0) close_place(place);
    if (place->descriptor < 0 && !open_place(flood, place)) {
        flood->skipped++;
        return;
    }
    switch (flood->kind) {
        case DRIP: drip(flood, place); break;
        case PIPE: pipe_on(flood, place); break;
        case VANISH: vanish(flood, place); break;
        default: ask(flood, place);
    }
}

static double turns_due(const struct flood *flood, double moment) {
    double elapsed = moment - flood->start, opening = flood->count / OPENED_PER_SECOND;
    if (flood->kind != DRIP) return elapsed * flood->rate;
    return elapsed < opening ? elapsed * OPENED_PER_SECOND : flood->count + (elapsed - opening) * flood->rate;
}

void flood_step(struct flood *flood, double moment) {
    struct epoll_event events[MAX_EVENTS];
    int ready = epoll_wait(flood->poll, events, MAX_EVENTS, 0);
    for (int i = 0; i < ready; i++) take(flood, events[i].data.ptr);
    if (flood->rate && flood->turns >= turns_due(flood, moment)) return;
    turn(flood, &flood->places[flood->turns++ % flood->count]);
}

void flood_tell(const struct flood *flood, FILE *output) {
    fprintf(output,
            "{\"turns\": %lu, \"skipped\": %lu, \"opened\": %lu, \"requests\": %lu, \"answers\": %lu, \"unexpected\": %lu, "
            "\"ended\": %lu, \"received\": %llu}",
            flood->turns, flood->skipped, flood->opened, flood->requests, flood->answers, flood->unexpected, flood->ended,
            flood->received);
}
