/* Faults (Spread and Await of the protocol): a rank may end at any point. Everybody who waits gives up in the end, tells all
 * others, and says the same of whom: nobody waits for ever, and the first word told stays.
 *
 * A waiter gives up if it sees a fault word, or if the rank that it waits for has ended without having published.
 */
#ifndef R
#define R 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif

typedef Row { byte from[R] };
Row flags[R];
bool ended[R];
byte fault[R];     /* 0, or 1 + the rank that is blamed */
byte finished[R];  /* 1 = all rounds, 2 = with a fault */
byte dead = 255;   /* who was chosen to end */

inline tell(who) {
  byte q;
  atomic { if :: fault[me] == 0 -> fault[me] = 1 + who :: else -> skip fi };
  for (q : 0 .. R - 1) {
    atomic { if :: fault[q] == 0 -> fault[q] = fault[me] :: else -> skip fi }
  }
}

proctype rank(byte me) {
  byte round, p;
  for (round : 1 .. ROUNDS) {
    for (p : 0 .. R - 1) {
      /* Killed, perhaps: here, between any two of its stores. */
      if
      :: me == dead -> ended[me] = true; goto gone
      :: skip
      fi;
      if :: p != me -> flags[p].from[me] = round :: p == me -> skip fi
    }
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me ->
        do
        :: flags[me].from[p] >= round -> break
        :: fault[me] != 0 -> finished[me] = 2; goto gone
        :: ended[p] && flags[me].from[p] < round -> tell(p); finished[me] = 2; goto gone
        od
      fi
    }
  }
  finished[me] = 1;
gone:
  skip
}

init {
  byte r;
  atomic {
    if :: dead = 0 :: dead = 1 :: dead = 255 fi;
    for (r : 0 .. R - 1) { run rank(r) }
  }
  (_nr_pr == 1);
  for (r : 0 .. R - 1) {
    /* Whoever did not end has an answer, and blames nobody but the one that did. */
    assert(ended[r] || finished[r] != 0);
    assert(finished[r] != 2 || fault[r] == 1 + dead)
  }
}
