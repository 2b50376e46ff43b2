/* What a flood does beside the ordinary load of openloop.c, in the same loop: a process of its own would take turns of
 * milliseconds with it on the one core that both have, and these would be told as the server's. */
#ifndef FLOOD_H
#define FLOOD_H

#include <stdio.h>

/* Begin. The arguments are KIND RATE CONNECTIONS TEMPLATE STATUS READ_BYTES, see flood.c; NULL: they are wrong. */
#define FLOOD_ARGUMENTS 6
struct flood *flood_open(int port, char **arguments, double moment);

/* Take some answers, and do what is due next: at most one thing, so that the ordinary load is hardly kept waiting. */
void flood_step(struct flood *flood, double moment);

/* Print what was done and answered, as a JSON object. */
void flood_tell(const struct flood *flood, FILE *output);

#endif
