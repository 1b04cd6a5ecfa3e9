/* The reduction of tensor-parallel ranks (kernels/dist/protocol.h): one step a round, BUFFERS buffers that alternate.
 *
 * Every rank writes its partial sum into every peer's buffer of this round and publishes, waits for every peer, and reads.
 * Checked: what is read is of this round, and every rank ends. -DBUFFERS=1 must fail: a fast rank overwrites what a slow
 * one has not read. -DTWICE: then every rank writes a sum into every peer's buffer, behind the partial sum, publishes that too,
 * waits and reads again (kernels/dist/reduce_twice.cu).
 */
#ifndef R
#define R 2
#endif
#ifndef ROUNDS
#define ROUNDS 5
#endif
#ifndef BUFFERS
#define BUFFERS 2
#endif

typedef Row { byte from[R] };
typedef Buffers { Row at[BUFFERS] };
Buffers partials[R];  /* round of what lies there */
Buffers flags[R];
#ifdef TWICE
Buffers sums[R];
Buffers sum_flags[R];
#endif

proctype rank(byte me) {
  byte round, p, b;
  for (round : 1 .. ROUNDS) {
    b = round % BUFFERS;
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me ->
        partials[p].at[b].from[me] = round;
        flags[p].at[b].from[me] = round
      fi
    }
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me -> (flags[me].at[b].from[p] == round)
      fi
    }
    /* The sum reads here. */
    for (p : 0 .. R - 1) {
      assert(p == me || partials[me].at[b].from[p] == round)
    }
#ifdef TWICE
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me ->
        sums[p].at[b].from[me] = round;
        sum_flags[p].at[b].from[me] = round
      fi
    }
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me -> (sum_flags[me].at[b].from[p] == round)
      fi
    }
    for (p : 0 .. R - 1) {
      assert(p == me || sums[me].at[b].from[p] == round)
    }
#endif
  }
}

init {
  byte r;
  atomic {
    for (r : 0 .. R - 1) { run rank(r) }
  }
}
