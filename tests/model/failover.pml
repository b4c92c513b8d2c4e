/* History and failover: one key, two nodes, one failover (SPIN 6.5).
 * A takeaway is a change that removes access, such as a revoke.
 * SAFETY: a request that STARTS after a takeaway returned complete is never accepted, unless a
 * change that gives the access back has begun since.
 * Node A takes access away, fences B and adopts histories; node B caches, serves and acknowledges.
 * Every process may stall between any two steps for any time, which also models a partition.
 * A commit is visible on the primary at once.  Its writer gets the reply when the standby has it.
 * The failover continues from the state of the standby, so it loses no acknowledged commit.
 * There is no clock here: once W has passed since T, leases requested before T have expired.
 * lease.pml shows that W is long enough for that.
 *   FENCE   A declares B dead at any time, and B joins again
 *   SHARED  Redis returns any entry that was ever written to it
 *   LOSSY   writers get the reply at once.  A failover or a restore can lose acknowledged commits,
 *           and later ones must still hold.  A notices each failover, even one that keeps
 *           its position, and adds one fencing row for all nodes that it has not seen.
 * Ablations: see model_test.go
 */
#define NONE    0
#define ACTIVE  1
#define FENCING 2
#ifndef TAKES
#define TAKES 2                  /* takeaways                                             */
#endif
#ifndef OTHERS
#define OTHERS 1                 /* changes of other keys                                 */
#endif
#ifndef GIVES
#define GIVES 1                  /* whether the key is given back, once                   */
#endif

/* the primary */
byte rev=0; bit key=0;           /* the head; whether the key is active                   */
byte touched=0;                  /* bit r: revision r changed the key                     */
byte row[2]; byte acked[2];      /* B's rows, by incarnation                              */
bit mark=0;                      /* history of new revisions: 1 after the failover        */
byte was[2];                     /* bit r: the key was active at revision r with this mark */
bit epoch=0;
/* the standby, and after the failover the last revision that both histories have         */
byte base=0; byte copy[2];
#define IN_HISTORY(r,m) ((m)==mark || (r)<=base)
#define MASK(r) ((2<<(r))-1)     /* revisions up to r                                     */

bit denied=0;                    /* a takeaway has returned complete                      */
bit given=0;                     /* the key was given back since the takeaway began       */
bit take_waits=0, fence_waits=0, join_waits=0;  /* committed, and the writer has no reply  */
#ifdef LOSSY
#define WAITS 0
#else
#define WAITS (!mark)              /* the new primary replies at once                        */
#endif

/* node B */
bit inc=0;
byte applied=0; bit amark=0;     /* its position                                          */
byte changed=0;                  /* the last applied change of the key                    */
bit seal=0;                      /* its epoch                                             */
bit lease=0, cached=0;
bit fresh=0;                     /* nothing was invalidated since the load began          */
bit asked=0;                     /* a renewal has read the head                           */
/* leases and renewals from before the wait of the takeaway, the fence, the failover     */
bit old0=0, old1=0, old2=0, ask0=0, ask1=0, ask2=0;

/* node A */
byte at=0; bit atmark=0;         /* its position                                          */
bit another=0;                   /* it has adopted another history                        */
bit known[2];                    /* the rows that it last saw                             */
bit anybody=0;                   /* a fencing row for the nodes of the lost history       */
bit took=0;                      /* it has committed a takeaway                           */

inline drop() { lease=0; old0=0; old1=0; old2=0 }
inline unask() { asked=0; ask0=0; ask1=0; ask2=0 }
inline over0() { if :: old0 -> drop() :: else fi; if :: ask0 -> unask() :: else fi }
inline over1() { if :: old1 -> drop() :: else fi; if :: ask1 -> unask() :: else fi }
inline over2() { if :: old2 -> drop() :: else fi; if :: ask2 -> unask() :: else fi }
inline commit() { was[mark]=was[mark]|(key<<rev) }
inline takeaway() { rev++; key=0; touched=touched|(1<<rev) }

proctype Env() {
 bit gave=0, stood=0, settled=0; byte others=0;
 do
 :: d_step { !mark && (base!=rev || copy[0]!=row[0] || copy[1]!=row[1] || take_waits || fence_waits || join_waits) ->
    base=rev; stood=0; copy[0]=row[0]; copy[1]=row[1]; take_waits=0; fence_waits=0; join_waits=0 }
 :: d_step { !mark -> mark=1; rev=base; touched=touched&MASK(base); row[0]=copy[0]; row[1]=copy[1];
    copy[0]=0; copy[1]=0; old2=lease; ask2=asked;
    key=(was[0]>>base)&1; was[1]=was[0]&MASK(base);
    if :: acked[0]>base -> acked[0]=base :: else fi; if :: acked[1]>base -> acked[1]=base :: else fi;
    if :: row[0]==NONE -> acked[0]=0 :: else fi; if :: row[1]==NONE -> acked[1]=0 :: else fi;
#ifdef LOSSY
    if :: key -> denied=0; stood=0 :: else fi
#endif
    }
 :: d_step { GIVES!=0 && !gave && !key -> gave=1; rev++; key=1; touched=touched|(1<<rev); commit();
    stood=denied && !mark; denied=0; given=1 }
 :: d_step { mark && !settled -> settled=1; over2();          /* W after the failover, a change that */
    if :: stood && !key -> denied=1 :: else fi; stood=0 }    /* it lost is in force nowhere         */
 :: d_step { others<OTHERS -> others++; rev++; commit() }
 od
}

/* B joins, renews, applies, acknowledges */
#ifdef BUG_VISIBLE_JOIN
#define JOINED (!join_waits || row[inc]==ACTIVE)
#else
#define JOINED (!join_waits)
#endif
#ifdef BUG_ACK_BY_NUMBER
#define ACK_OK true
#else
#define ACK_OK IN_HISTORY(applied,amark)
#endif
proctype Renewer() {
 byte head=0; bit hmark=0;
join: skip;
 d_step { if :: row[inc]==NONE -> row[inc]=ACTIVE :: else fi; join_waits=WAITS };
 if
 :: d_step { JOINED -> join_waits=0 }
 :: !JOINED -> goto join                     /* it timed out: repeat it as a write          */
 fi;
 do
 :: d_step { IN_HISTORY(applied,amark) && row[inc]==ACTIVE -> head=rev; hmark=mark; asked=1 };
    d_step {
      if :: rev<head || (touched>>(applied+1)) & ((1<<(head-applied))-1) -> cached=0; fresh=0; changed=head :: else fi;
      if :: head!=applied -> applied=head; amark=hmark :: else fi;
      if :: asked -> lease=1; old0=ask0; old1=ask1; old2=ask2 :: else fi;
      unask(); head=0; hmark=0 };
    if
    :: skip
    :: d_step { row[inc]!=NONE && acked[inc]<applied && ACK_OK -> acked[inc]=applied }
    fi
 :: d_step { !IN_HISTORY(applied,amark) || row[inc]!=ACTIVE ->
      drop(); cached=0; fresh=0;
      if :: !IN_HISTORY(applied,amark) -> epoch=1 :: else fi;
      seal=epoch; applied=rev; amark=mark; changed=rev };
    if :: d_step { inc==0 -> inc=1 }; goto join :: inc==1 -> break fi
 od
}

/* B's requests */
#ifdef BUG_NEWER
#define KNOWN(r) true
#else
#define KNOWN(r) ((r)<=had)
#endif
#ifdef BUG_SHARED_BY_NUMBER
#define SHARED_OK(r,m) true
#else
#define SHARED_OK(r,m) ((m)==amark || (r)<=base)
#endif
proctype Requests() {
 byte had=0, r=0; bit m=0;
 do
 :: d_step { lease && cached -> assert(!denied) }            /* from the cache              */
 :: d_step { fresh=1; had=applied };                         /* a load begins               */
    if
    :: d_step { key && KNOWN(rev) -> assert(!denied); had=0 };
#ifdef BUG_JOIN_NEWER

#endif
       d_step {                                              /* others may have joined      */
         assert(!(denied && fresh && lease));
         if :: fresh -> cached=1; fresh=0 :: else fi }
#ifdef BUG_JOIN_NEWER
    :: d_step { key && !KNOWN(rev) -> assert(!denied); had=0 };
       d_step { assert(!(denied && fresh && lease)); fresh=0 }
#endif
    :: d_step { !key || !KNOWN(rev) -> assert(!(key && denied)); had=0; fresh=0 }
    fi
#ifdef SHARED
 :: atomic { lease && was[0]+was[1]!=0 ->
    do :: r<applied -> r++ :: !m && mark -> m=1 :: break od;
    if
    :: ((was[m]>>r)&1) && r>=changed && (!seal || m) && SHARED_OK(r,m) -> assert(!denied); cached=1
    :: else
    fi; r=0; m=0 }
#endif
 od
}

/* A renews, reads the rows, adopts another history, declares B dead */
#ifdef BUG_NOTICE_BY_POSITION
#define SAME_HISTORY IN_HISTORY(at,atmark)
#else
#define SAME_HISTORY (atmark==mark)
#endif
inline renewA() {
 if
 :: SAME_HISTORY
 :: else ->
    another=1; epoch=1;
#if defined(BUG_KNOWN_ONLY)
    if :: known[0] && row[0]==NONE -> row[0]=FENCING :: else fi;
    if :: known[1] && row[1]==NONE -> row[1]=FENCING :: else fi;
#elif !defined(BUG_FORGET_NODES)
    anybody=1;
#endif
    if :: took && key -> takeaway() :: else fi
 fi;
 at=rev; atmark=mark
}

#ifdef BUG_REMOVE_ANY
#define REMOVABLE true
#else
#define REMOVABLE (row[who]==FENCING)
#endif
proctype Keeper() {
 bit who=0;
 do
#ifdef LOSSY
 :: d_step { (at!=rev || atmark!=mark) -> renewA() }
#ifdef BUG_KNOWN_ONLY
 :: d_step { known[0]!=(row[0]!=NONE) || known[1]!=(row[1]!=NONE) -> known[0]=(row[0]!=NONE); known[1]=(row[1]!=NONE) }
#endif
#endif
#ifdef FENCE
 :: if :: d_step { row[0]==ACTIVE -> who=0 } :: d_step { row[1]==ACTIVE -> who=1 } fi;
    d_step { if :: row[who]==ACTIVE -> row[who]=FENCING :: else fi; fence_waits=WAITS };
    if
    :: d_step { !fence_waits -> old1=lease; ask1=asked };
       d_step { over1() };                                  /* W has passed                 */
       d_step { if :: REMOVABLE -> row[who]=NONE; acked[who]=0 :: else fi; who=0 }
    :: d_step { fence_waits -> who=0 }
    fi
#else
 :: false
#endif
 od
}

#define ACKED(i) (row[i]==NONE || acked[i]>=s)
proctype Revoker() {
 byte takes=0; byte s=0; bit was_another=0;
 do
 :: takes<TAKES -> takes++;
    d_step { given=0; was_another=another;
     if
#if defined(BUG_VISIBLE_REVOKE)
     :: !key -> take_waits=0
#elif defined(BUG_NO_REVISION)
     :: !key -> take_waits=WAITS
#endif
     :: else -> takeaway(); take_waits=WAITS /* a revision also when nothing changes        */
     fi; s=rev };
    if
    :: d_step { take_waits -> s=0; was_another=0 } /* it timed out                            */
    :: d_step { !take_waits -> old0=lease; ask0=asked; took=1 };
    if
    :: !anybody && ACKED(0) && ACKED(1)
    :: d_step { over0() }                    /* W has passed                                */
    fi;
    d_step {
#ifdef LOSSY
#ifdef BUG_NO_LAST_LOOK
     if :: was_another==another && !given -> denied=1 :: else fi;
#else
     renewA();
     if :: was_another==another && !given -> denied=1 :: else fi;
#endif
#else
     if :: !given -> denied=1 :: else fi;
#endif
     s=0; was_another=0 }
    fi
 :: takes==TAKES -> break
 od
}

init { atomic {
  if :: key=1; was[0]=1 :: GIVES!=0 -> denied=1 fi;
  run Env(); run Renewer(); run Requests(); run Keeper(); run Revoker() } }
