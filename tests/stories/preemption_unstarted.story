# What a node has at hand and has not started makes room, too; and what is more urgent may lie at the node already.
limits lease_s=1000
broker with n1 (1 rank), c1

at 0.010  n1: Capacity tasks=3 ranks=1
at 0.020  c1: Submit k1 tasks=2 preemptible=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n1   Grant g2 1.1 attempt 1
at 0.030  n1: Beat runs=g1:1.0
  at once n1: Beat
# It is given to the node, which has room, and lies there behind long tasks.
at 0.040  c1: Submit k2 tasks=1 priority=1
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g3 2.0 attempt 1
at 1.030  n1: Beat runs=g1:1.0
  at once n1: Beat
at 1.040  time passes
  to n1   Preempt g2 1.1 unstarted
  to n1   Preempt g1 1.0 runs too
at 1.050  n1: Finished g2 1.1 RELEASED
  to n1   Kept g2 1.1
  to n1   Grant g4 1.1 attempt 1
at 1.060  n1: Finished g1 1.0 PREEMPTED
  record  AttemptFailed 1.0 attempt 1 PREEMPTED n1 rank 0
  to n1   Kept g1 1.0
  to n1   Grant g5 1.0 attempt 2
at 2.030  n1: Beat runs=g3:2.0
  at once n1: Beat
at 4.000  time passes
at 5.000  n1: Finished g3 2.0 NONE
  record  OutcomeSettled 2.0 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 2.0..
  to c1   Resolved 2.0 COMPLETED
  to n1   Kept g3 2.0
