# Who has used less of its share goes first, whoever has more queued; it is counted in rank-seconds, not in tasks.
limits lease_s=1000
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=9 project=bio
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..8
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
# It ran alone for a while: four rank-seconds.
at 2.010  n1: Finished g1 1.0..1 NONE took=2
  record  OutcomeSettled 1.0..1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0..1 COMPLETED
  to n1   Kept g1 1.0..1
  to n1   Grant g2 1.2..3 attempt 1
# Somebody comes whose tasks take as long. Both ranks are busy.
at 2.020  c1: Submit k2 tasks=3 project=art
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..2
  to c1   Accepted k2 batch 0 job 2
at 2.030  people: why 2.0
  shown   2.0 PENDING Resources in 2.00 s
  shown     2 of 2 ranks have work
  shown     It would start now with 1 more idle rank: `pyfi up --slurm` asks for an allocation.
at 2.040  people: why 1.4
  shown   1.4 PENDING FairShare in 5.00 s
  shown     2 of 2 ranks have work
  shown     up to 3 go first: 3 of sample.work
  shown     project bio has used 8 rank-seconds (weight 1); art has used 0 rank-seconds (weight 1), and goes first
  shown     It would start now with 4 more idle ranks: `pyfi up --slurm` asks for an allocation.
  shown     With a priority above 0 it would be next: `--priority 1`.
# Its tasks go first until it has used as much.
at 4.010  n1: Finished g2 1.2..3 NONE took=2
  record  OutcomeSettled 1.2..3 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.2..3 COMPLETED
  to n1   Kept g2 1.2..3
  to n1   Grant g3 2.0..1 attempt 1
at 6.010  n1: Finished g3 2.0..1 NONE took=2
  record  OutcomeSettled 2.0..1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 2.0..1 COMPLETED
  to n1   Kept g3 2.0..1
  to n1   Grant g4 2.2 attempt 1, g5 1.4 attempt 1
# Both have used as much when the last of it has come.
at 6.020  people: why 1.5
  shown   1.5 PENDING Resources in 2.00 s
  shown     2 of 2 ranks have work
  shown     It would start now with 1 more idle rank: `pyfi up --slurm` asks for an allocation.
# Priority is above all shares.
at 6.030  c1: Submit k3 tasks=1 project=bio priority=1
  record  JobOpened 3 k3 of ada
  record  BatchAdmitted 3.0
  to c1   Accepted k3 batch 0 job 3
at 8.010  n1: Finished g4 2.2 NONE took=2
  record  OutcomeSettled 2.2 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 2.0..
  to c1   Resolved 2.2 COMPLETED
  to n1   Kept g4 2.2
  to n1   Grant g6 3.0 attempt 1
