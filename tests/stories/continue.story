# A function returns Continue: the ledger has its state before anything else, and the next attempt goes on from it.
limits lease_s=1000 client_silence_s=1000
broker with c1

at 0.010  n1: Hello ranks=1 ends_in=30
  at once n1: Welcome 1
at 0.020  n1: Capacity tasks=1 ranks=1
at 0.030  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1 needs 15 s
at 25.000 n1: Finished g1 1.0 CONTINUED state=half took=24
  record  AttemptFailed 1.0 attempt 1 CONTINUED n1 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 0
  to n1   Kept g1 1.0
# Not on the node whose end it feared.
at 25.010 people: why 1.0
  shown   1.0 PENDING Walltime
  shown     n1 ends in 5 s
  shown     sample.work needs 3.01 s, which it had left when it returned Continue
  shown     It would start with 5 s left: `pyfi up --slurm -t TIME` asks for an allocation.
at 26.000 n2: Hello ranks=1 ends_in=30
  at once n2: Welcome 1
at 26.010 n2: Capacity tasks=1 ranks=1
  to n2   Mount 1
  to n2   Grant g2 1.0 attempt 2 needs 3.01 s from half
# A broker that starts again has the state.
at 27.000 broker: restarts
at 27.010 n3: Hello ranks=1 ends_in=300
  at once n3: Welcome 2
at 27.020 n3: Capacity tasks=1 ranks=1
at 27.030 c1: Hello
  at once c1: Welcome 2
at 27.040 c1: Watch 1
  ask     ReadPage job 1
at 29.100 time passes
  ask     ReadPayloads 1.0..
at 29.110 ledger: answers
  to c1   Page job 1 of 1: nothing yet
  to n3   Mount 1
  to n3   Grant g3 1.0 attempt 2 needs 3.01 s from half
# A leg, and much time is left: here again. At last it returns its result.
at 49.000 n3: Finished g3 1.0 CONTINUED state=more took=20
  record  AttemptFailed 1.0 attempt 2 CONTINUED n3 rank 0
  record  DurationsLearned socket 1 code 1 size 0 completed 0
  to n3   Kept g3 1.0
  to n3   Grant g4 1.0 attempt 3 needs 3.01 s from more
at 59.000 n3: Finished g4 1.0 NONE took=10
  record  OutcomeSettled 1.0 COMPLETED attempt 3 n3 rank 0
  record  BatchClosed 1.0..
  record  DurationsLearned socket 1 code 1 size 0 completed 1
  to c1   Resolved 1.0 COMPLETED
  to n3   Kept g4 1.0
