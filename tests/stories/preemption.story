# A task of a higher priority finds no idle rank: after a second the youngest preemptible one is ended, free of charge.
limits lease_s=1000
broker with n1 (2 ranks), n2 (1 rank), c1

at 0.010  c1: Submit k1 tasks=2 preemptible=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
at 1.000  c1: Submit k2 tasks=2 preemptible=1
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
  to n2   Mount 1
  to n2   Grant g2 2.0 attempt 1
at 1.010  n1: Beat runs=g1:1.0,g1:1.1
  at once n1: Beat
at 1.020  n2: Beat runs=g2:2.0
  at once n2: Beat
at 2.000  c1: Submit k3 tasks=1 priority=3
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0
  to c1   Accepted k3 batch 0 job 3
at 2.900  time passes
at 3.000  time passes
  to n2   Preempt g2 2.0 runs too
at 3.250  time passes
at 3.260  n2: Finished g2 2.0 PREEMPTED
  record  AttemptFailed 2.0 attempt 1 PREEMPTED n2 rank 0
  to n2   Kept g2 2.0
  to n2   Grant g3 3.0 attempt 1
# It waits while what is more urgent is there, and is the first of its class then.
at 3.270  people: why 2.0
  shown   2.0 PENDING Resources
  shown     3 of 3 ranks have work
  shown     It would start now with 1 more idle rank: `pyfi up --slurm` asks for an allocation.
at 4.000  n2: Finished g3 3.0 NONE took=0.7
  record  OutcomeSettled 3.0 COMPLETED attempt 1 n2 rank 0
  record  BatchClosed 3.0..
  to c1   Resolved 3.0 COMPLETED
  to n2   Kept g3 3.0
  to n2   Grant g4 2.0 attempt 2
