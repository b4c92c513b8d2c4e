/* Freshness-lease revocation: one key, one revocation, N gateway nodes (SPIN 6.5).
 * SAFETY: a request that STARTS after the revoke call RETURNED is never accepted.
 * Real time "now" ticks; a node clock may LAG real time by <= D in total, the revoker's
 * clock may LEAD by <= D in total (bounded rate drift over the wait).  Every process may
 * stall between any two steps for any time (GC pause, SIGSTOP, slow network, partition).
 * L2 is adversarial: a read returns nothing, or ANY record ever written (rollback, late
 * refill, FLUSHALL).  Push delivery and acks are lossy and unordered.
 * -DCRASH adds one crash/restart per node.   Ablations: see model_test.go
 */
#ifndef N
#define N 1
#endif
#ifndef L
#define L 1
#endif
#define D 1
#ifdef BUG_NO_DRIFT
#define W L
#else
#define W (L+2*D)
#endif
#ifndef TMAX
#define TMAX 4
#endif

byte now=0; byte lag[N]; byte lead=0;
bit revoked=0;                 /* system of record: state of the key = log head      */
bit member[N]; bit ack[N]; bit applied[N];
byte exp[N];                   /* lease expiry on the node's own clock               */
byte l1[N];                    /* 0 none, 1 active (2 revoked is irrelevant: denied) */
bit returned=0; byte tc=0; bit waitfor[N]; byte inc[N];
#ifdef BUG_RELOAD
#define ALIVE(n) 1
#else
#define ALIVE(n) (mi==inc[n])
#endif
#ifdef BUG_REDIS_LEASE
bit redis_head=0;
#endif
#ifdef BUG_MEASURED_WAIT
byte step=0;                   /* the database's clock was set forward by this       */
#define WAIT (W/(1+step))      /* by its rate over one tick of the revoker's         */
#else
#define WAIT W
#endif
#ifdef BUG_CACHED_CLOCK
byte cc[N];
#define CHK(n) cc[n]
#else
#define CHK(n) (now-lag[n])
#endif
#define LEASED(n) (CHK(n)<exp[n])

/* L2 record (asOf 0) is usable only under a lease and only if no newer invalidation was applied */
#ifdef BUG_NO_ASOF
#define L2_USABLE(n) LEASED(n)
#else
#define L2_USABLE(n) (LEASED(n) && !applied[n])
#endif
/* singleflight: join only a load begun at the current invalidation generation, under a lease */
#ifdef BUG_JOIN_FLIGHT
#define JOIN_OK(n) ALIVE(n)
#else
#define JOIN_OK(n) (tok==applied[n] && LEASED(n) && ALIVE(n))
#endif
#ifdef BUG_NO_FILL_TOKEN
#define FILL_OK(n) ALIVE(n)
#else
#define FILL_OK(n) (tok==applied[n] && ALIVE(n))
#endif
#if N>1
#define ALLACK ((waitfor[0]==0 || ack[0]) && (waitfor[1]==0 || ack[1]))
#else
#define ALLACK (waitfor[0]==0 || ack[0])
#endif

proctype Env() {
 do
 :: d_step { now<TMAX -> now++ }
 :: d_step { lead<D && now<TMAX -> lead++ }
 :: d_step { lag[0]<D && now>lag[0] -> lag[0]++ }
#if N>1
 :: d_step { lag[1]<D && now>lag[1] -> lag[1]++ }
#endif
#if defined(BUG_REDIS_LEASE) && !defined(NO_ROLLBACK)
 :: d_step { redis_head==1 -> redis_head=0 }   /* FLUSHALL / failover to a stale replica */
#endif
#ifdef BUG_MEASURED_WAIT
 :: d_step { step==0 -> step=W }
#endif
 od
}

proctype Renewer(byte n) {
 byte t0; bit h; byte mi;
 d_step { member[n]=1 }                    /* durable join BEFORE the first lease   */
 do
 :: 
#ifndef BUG_LEASE_AT_REPLY
    d_step { t0=now-lag[n]; mi=inc[n] };   /* clock BEFORE the request is sent      */
#else
    d_step { mi=inc[n] };
#endif
#ifdef BUG_REDIS_LEASE
    d_step { h=redis_head };
#else
    d_step { h=revoked };                  /* one-snapshot read of the log head     */
#endif
#ifdef BUG_LEASE_AT_REPLY
    d_step { t0=now-lag[n] };
#endif
#ifdef BUG_RENEW_NO_APPLY
    d_step { if :: t0+L>exp[n] -> exp[n]=t0+L :: else fi };
    d_step { if :: h -> applied[n]=1; l1[n]=0 :: else fi; t0=0; h=0 }
#else
    d_step { if :: h && ALIVE(n) -> applied[n]=1; l1[n]=0 :: else fi };
    d_step { if :: ALIVE(n) && t0+L>exp[n] -> exp[n]=t0+L :: else fi; t0=0; h=0 }
#endif
 od
}

#ifdef CRASH
/* a crash/restart empties L1 and drops the lease; -DBUG_RELOAD keeps the old
   incarnation's in-flight work running against the new cache (a config reload that
   rebuilds counters but shares the map does exactly this) */
proctype Crash(byte n) { d_step { l1[n]=0; exp[n]=0; applied[n]=0; inc[n]++ } }
#endif

proctype Push(byte n) {                    /* lossy delivery of the invalidation    */
#ifdef BUG_REDIS_LEASE
 redis_head==1;
#else
 revoked==1;
#endif
#ifdef BUG_ACK_EARLY
 d_step { ack[n]=1 };
 d_step { applied[n]=1; l1[n]=0 }
#elif defined(BUG_PURGE_ORDER)
 d_step { l1[n]=0 };                        /* entry deleted, generation bumped later */
 d_step { applied[n]=1 };
 d_step { ack[n]=1 }
#else
 d_step { applied[n]=1; l1[n]=0 };
 d_step { ack[n]=1 }
#endif
}

#ifdef BUG_CACHED_CLOCK
proctype Cache(byte n) { do :: d_step { cc[n]!=now-lag[n] -> cc[n]=now-lag[n] } od }
#endif

proctype Requests(byte n) {
 bit late; bit tok; byte mi;
#ifdef BUG_FILL_TOCTOU
 bit okf;
#endif
 do
 :: d_step { late=returned; mi=inc[n] };                       /* request arrives          */
    if
    :: d_step { LEASED(n) && l1[n]==1 && ALIVE(n) -> assert(!late); late=0 }  /* L1 hit: accepted      */
    :: d_step { !(LEASED(n) && l1[n]==1 && ALIVE(n)) -> tok=applied[n] };  /* miss/no lease: load      */
       if
       :: d_step { !revoked -> skip }                          /* record says active       */
       :: d_step { revoked -> late=0; tok=0 } ; goto done      /* record says revoked: 401 */
       :: d_step { L2_USABLE(n) -> skip }                      /* L2 said active, see macro*/
       fi;
       if                                                       /* a later request joins   */
       :: skip
       :: d_step { JOIN_OK(n) -> late=returned }
       fi;
       d_step { if :: ALIVE(n) -> assert(!late) :: else fi; 
#ifdef BUG_FILL_TOCTOU
         };
         d_step { okf=FILL_OK(n) };
         d_step { if :: okf -> l1[n]=1 :: else fi; late=0; tok=0; okf=0 }
#else
         if :: FILL_OK(n) -> l1[n]=1 :: else fi; late=0; tok=0 }
#endif
    fi;
 done: skip
 od
}

proctype Revoker() {
 byte i;
#ifdef BUG_MEMBERS_FIRST
 d_step { i=0; do :: i<N -> waitfor[i]=member[i]; i++ :: else -> break od; i=0 };
#endif
 d_step { revoked=1 };                      /* commit: state + log entry, one txn    */
#ifdef REDIS_APPEND_FIRST
 redis_head=1;                              /* strongest Redis variant: append before reading members */
#endif
#ifndef BUG_MEMBERS_FIRST
 d_step { i=0; do :: i<N -> waitfor[i]=member[i]; i++ :: else -> break od; i=0 };
#endif
 d_step { tc=now+lead };                    /* timer starts after the commit reply   */
#if defined(BUG_REDIS_LEASE) && !defined(REDIS_APPEND_FIRST)
 redis_head=1;
#endif
 if
 :: d_step { ALLACK -> returned=1 }
 :: d_step { now+lead >= tc+WAIT -> returned=1 }
 fi
}

init { atomic { byte k=0;
 run Env(); run Revoker();
 do :: k<N -> run Renewer(k); run Push(k); run Requests(k);
#ifdef BUG_CACHED_CLOCK
   run Cache(k);
#endif
#ifdef CRASH
   run Crash(k);
#endif
   k++ :: else -> break od } }
