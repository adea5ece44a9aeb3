# Late in an allocation, of what nobody knows the duration one task is tried on each node, or one for each eight ranks.
limits lease_s=1000 client_silence_s=1000
broker with c1

at 0.010  n1: Hello ranks=4 ends_in=100
  at once n1: Welcome 1
at 0.020  n1: Capacity tasks=4 ranks=4
at 60.000 c1: Submit k1 tasks=3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 60.010 people: why 1.1
  shown   1.1 PENDING Walltime
  shown     n1 ends in 40 s
  shown     nobody knows how long sample.work takes: late in an allocation only some of its ranks try it
  shown     It would start when one that is tried now has completed: `pyfi up --slurm -t TIME` asks for an allocation.
# A second function is not tried beside it. One whose time limit fits need not be tried.
at 60.020 c1: Submit k2 tasks=2 size=8
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
at 60.030 c1: Submit k3 tasks=2 size=8 time_limit=30
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0..1
  to c1   Accepted k3 batch 0 job 3
  to n1   Grant g2 3.0..1 attempt 1 needs 30 s
# The first one has completed: now it is known.
at 61.000 n1: Finished g1 1.0 NONE took=1
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 1
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
  to n1   Grant g3 1.1..2 attempt 1 needs 0.917 s
