/* The exchange of experts (kernels/dist/protocol.h): single buffers, no acknowledgement, a flag to every peer in both phases.
 *
 * Every rank runs ROUNDS rounds. In each it writes one slot of rows in every peer's window, or none (chosen freely: counts
 * differ), and publishes; waits for every peer's rows and reads them; writes a result into every peer's window and
 * publishes; waits for every peer's results and reads them.
 *
 * Checked: what is read is of this round (an unread slot is never overwritten), and every rank ends (no deadlock: an
 * invalid end state is an error). -DMERGED makes a rank's stores of one phase, and its reads, one step each, for more ranks
 * than the full interleaving allows. -DFLAG_ONLY_WITH_ROWS leaves the flag out where there were no rows, and must fail.
 */
#ifndef R
#define R 2
#endif
#ifndef ROUNDS
#define ROUNDS 4
#endif

#ifdef MERGED
#define STEP atomic
#else
#define STEP
#endif

typedef Row { byte from[R] };  /* by sender */
Row rows[R];      /* round whose rows lie in the slot of a sender, 0 = none yet */
Row results[R];   /* the same of results */
Row dispatch[R];  /* flags: round */
Row combine[R];

proctype rank(byte me) {
  byte round, p;
  bool sent;
  for (round : 1 .. ROUNDS) {
    STEP { for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me ->
        if
        :: rows[p].from[me] = round; sent = true
        :: sent = false
        fi;
#ifdef FLAG_ONLY_WITH_ROWS
        if :: sent -> dispatch[p].from[me] = round :: else -> skip fi
#else
        dispatch[p].from[me] = round
#endif
      fi
    } };
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me ->
        (dispatch[me].from[p] == round);
        /* Rows of this round, or of an earlier one where none were sent: never of a later one. */
        assert(rows[me].from[p] <= round)
      fi
    }
    /* The layer reads the rows here. */
    STEP { for (p : 0 .. R - 1) {
      assert(rows[me].from[p] <= round);
      if
      :: p == me -> skip
      :: p != me -> results[p].from[me] = round
      fi
    } };
    STEP { for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me -> combine[p].from[me] = round
      fi
    } };
    for (p : 0 .. R - 1) {
      if
      :: p == me -> skip
      :: p != me -> (combine[me].from[p] == round)
      fi
    }
    /* The sum reads the results here. */
    STEP { for (p : 0 .. R - 1) {
      assert(p == me || results[me].from[p] == round)
    } }
  }
}

init {
  byte r;
  atomic {
    for (r : 0 .. R - 1) { run rank(r) }
  }
}
