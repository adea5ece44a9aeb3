# An allocation's end cuts a task off: it starts again where there is more time than it had, and others of its kind too.
limits lease_s=1000 client_silence_s=1000
broker with c1

at 0.010  n1: Hello ranks=1 ends_in=60
  at once n1: Welcome 1
at 0.020  n1: Capacity tasks=1 ranks=1
at 0.030  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1 needs 30 s
at 1.000  n1: Beat runs=g1:1.0
  at once n1: Beat
at 55.000 n1: Beat runs=g1:1.0
  at once n1: Beat
at 60.000 n1: Goodbye walltime
  record  AttemptFailed 1.0 attempt 1 WALLTIME n1 rank -1
  record  DurationsLearned socket 1 code 1 size 0 completed 0
at 61.000 n2: Hello ranks=1 ends_in=60
  at once n2: Welcome 1
at 61.010 n2: Capacity tasks=1 ranks=1
at 61.020 people: why 1.0
  shown   1.0 PENDING Walltime
  shown     n2 ends in 60 s
  shown     an allocation ended it before: it starts where 74 s are left
  shown     others of sample.work were ended too: it starts where 76 s are left
  shown     It would start with 78 s left: `pyfi up --slurm -t TIME` asks for an allocation.
at 61.030 people: why 1.1
  shown   1.1 PENDING Walltime
  shown     n2 ends in 60 s
  shown     others of sample.work were ended too: it starts where 76 s are left
  shown     It would start with 78 s left: `pyfi up --slurm -t TIME` asks for an allocation.
at 62.000 n3: Hello ranks=1 ends_in=90
  at once n3: Welcome 1
at 62.010 n3: Capacity tasks=1 ranks=1
  to n3   Mount 1
  to n3   Grant g2 1.0 attempt 2 needs 73.8 s
# One that falls silent at its end has had no time to say goodbye.
at 63.000 n4: Hello ranks=1 ends_in=500
  at once n4: Welcome 1
at 63.010 n4: Capacity tasks=1 ranks=1
  to n4   Mount 1
  to n4   Grant g3 1.1 attempt 1 needs 250 s
at 63.020 n4: Beat runs=g3:1.1
  at once n4: Beat
at 1200.000 time passes
  record  AttemptFailed 1.1 attempt 1 WALLTIME n4 rank -1
  record  DurationsLearned socket 1 code 1 size 0 completed 0
