/* What the header needs of <stddef.h>, so that its reading does not depend on the machine. */
typedef unsigned long size_t;
#define NULL ((void*)0)
