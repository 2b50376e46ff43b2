/* What the generators share: connections to a server on the loopback interface, and the answers that are awaited on them. */
#ifndef CLIENT_H
#define CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_REQUEST 65536
#define MAX_EVENTS 256

struct connection {
    int descriptor;
    bool asked;
    size_t received;
    double meant, left;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "%s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static int connected(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    return descriptor;
}

static void open_in(int poll, struct connection *connection, int port) {
    connection->descriptor = connected(port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, connection->descriptor, &event) < 0) fail("epoll_ctl");
}

/* Send a request; of a connection that has ended already, the end will be read. */
static void ask(struct connection *connection, const char *request, size_t request_bytes) {
    connection->received = 0;
    connection->asked = true;
    ssize_t left = send(connection->descriptor, request, request_bytes, MSG_NOSIGNAL);
    if (left != (ssize_t)request_bytes && !(left < 0 && (errno == EPIPE || errno == ECONNRESET))) fail("send");
}

enum outcome { LATER, ANSWERED, WRONG };

/* Read what has arrived, and say what it makes of the answer that is awaited. */
static enum outcome take(struct connection *connection, size_t answer, const char *answer_start) {
    static char buffer[MAX_REQUEST];
    size_t start_bytes = strlen(answer_start);
    ssize_t got = recv(connection->descriptor, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return LATER;
    if (got <= 0 || !connection->asked) return WRONG;
    if (!connection->received && ((size_t)got < start_bytes || memcmp(buffer, answer_start, start_bytes))) return WRONG;
    connection->received += got;
    return connection->received < answer ? LATER : connection->received == answer ? ANSWERED : WRONG;
}

#endif
