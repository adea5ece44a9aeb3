# What runs longer than was expected is charged as it runs: its owner does not get the next rank as if it had used nothing.
limits lease_s=1000
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=1 project=bio
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  c1: Submit k2 tasks=9 project=art
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..8
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g2 2.0 attempt 1
at 1.000  n1: Beat runs=g1:1.0,g2:2.0
  at once n1: Beat
at 5.000  n1: Beat runs=g1:1.0,g2:2.0
  at once n1: Beat
at 5.010  n1: Finished g2 2.0 NONE took=5
  record  OutcomeSettled 2.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 2.0 COMPLETED
  to n1   Kept g2 2.0
  to n1   Grant g3 2.1 attempt 1
at 9.000  n1: Beat runs=g1:1.0,g3:2.1
  at once n1: Beat
# Eight seconds are known of one; of the other five that are told, and five that are expected.
at 9.010  c1: Submit k3 tasks=9 project=bio
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0..8
  to c1   Accepted k3 batch 0 job 3
at 9.020  people: why 3.0
  shown   3.0 PENDING Resources in 2.50 s
  shown     2 of 2 ranks have work
  shown     It would start now with 1 more idle rank: `pyfi up --slurm` asks for an allocation.
at 20.000  n1: Beat runs=g1:1.0,g3:2.1
  at once n1: Beat
  record  DurationsLearned socket 1 code 1 size 0 completed 1
# Nineteen of the one, five and eleven of the other.
at 20.010  n1: Finished g3 2.1 NONE took=11
  record  OutcomeSettled 2.1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 2.1 COMPLETED
  to n1   Kept g3 2.1
  to n1   Grant g4 2.2 attempt 1
