# A task that cannot end before its node's allocation does is not started there; what it needs is learned.
limits lease_s=1000 client_silence_s=1000
broker with c1

at 0.010  n1: Hello ranks=2 ends_in=100
  at once n1: Welcome 1
at 0.020  n1: Capacity tasks=2 ranks=2
# Nothing is known, and more than half of the node's time is left: as many as there is room for.
at 0.030  c1: Submit k1 tasks=6
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..5
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1 needs 50 s
# One took 20 s: then a task needs up to 32.
at 20.000 n1: Finished g1 1.0 NONE took=20
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 1
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
  to n1   Grant g2 1.2 attempt 1 needs 19 s
at 22.000 n1: Finished g1 1.1 NONE took=22
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.1 COMPLETED
  to n1   Kept g1 1.1
  to n1   Grant g3 1.3 attempt 1 needs 20.7 s
at 40.000 n1: Finished g2 1.2 NONE took=20
  record  OutcomeSettled 1.2 COMPLETED attempt 1 n1 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 3
  to c1   Resolved 1.2 COMPLETED
  to n1   Kept g2 1.2
  to n1   Grant g4 1.4 attempt 1 needs 20.7 s
# 28 s are left, less the margin, and a task needs 28.
at 72.000 n1: Finished g3 1.3 NONE took=20
  record  OutcomeSettled 1.3 COMPLETED attempt 1 n1 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 4
  to c1   Resolved 1.3 COMPLETED
  to n1   Kept g3 1.3
at 73.000 people: why 1.5
  shown   1.5 PENDING Walltime
  shown     n1 ends in 27 s
  shown     sample.work needs 27.7 s, judged by 4 that completed
  shown     It would start with 30 s left: `pyfi up --slurm -t TIME` asks for an allocation.
# Another rank is free, and there is not enough time.
at 80.000 n1: Finished g4 1.4 NONE took=20
  record  OutcomeSettled 1.4 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.4 COMPLETED
  to n1   Kept g4 1.4
at 80.010 people: why 1.5
  shown   1.5 PENDING Walltime
  shown     n1 ends in 20 s
  shown     sample.work needs 27.2 s, judged by 5 that completed
  shown     It would start with 29 s left: `pyfi up --slurm -t TIME` asks for an allocation.
at 80.020 people: queue
  shown   job 1 blocked=0 pending=1 running=0 reason=Walltime
# What takes next to no time goes on.
at 80.030 c1: Submit k2 tasks=2 size=10 time_limit=5
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0..1
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g5 2.0..1 attempt 1 needs 5 s
at 80.040 people: queue
  shown   job 1 blocked=0 pending=1 running=0 reason=Walltime
  shown   job 2 blocked=0 pending=0 running=2 reason=None
# Another allocation comes: it starts there.
at 81.000 n2: Hello ranks=1 ends_in=60
  at once n2: Welcome 1
at 81.010 n2: Capacity tasks=1 ranks=1
  to n2   Mount 1
  to n2   Grant g6 1.5 attempt 1 needs 20.7 s
