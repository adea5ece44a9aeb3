# A job that says how many of its tasks may run at once has no more granted, on all nodes together, also after a restart.
broker with n1 (2 ranks), n2 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=8 at_once=3 retries=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..7
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.2 attempt 1
at 0.020  people: queue
  shown   job 1 blocked=0 pending=5 running=3 reason=JobArrayTaskLimit
# Others are not held up by it.
at 0.030  c1: Submit k2 tasks=1
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n2   Grant g3 2.0 attempt 1
at 0.040  n1: Finished g1 1.0..1 NONE
  record  OutcomeSettled 1.0..1 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0..1 COMPLETED
  to n1   Kept g1 1.0..1
  to n1   Grant g4 1.3..4 attempt 1
# One that is tried again counts as before.
at 0.050  n2: Finished g2 1.2 ERROR
  record  AttemptFailed 1.2 attempt 1 ERROR n2 rank 0
  to n2   Kept g2 1.2
  to n2   Grant g5 1.2 attempt 2
# What an agent still runs counts after a restart.
at 0.060  broker: restarts
at 0.070  n1: Hello holds=g4
  at once n1: Welcome 2
  to n1   Mount 1
at 0.080  n1: Capacity tasks=9 ranks=2
at 2.100  time passes
  ask     ReadPayloads 1.0.. 2.0..
at 2.110  ledger: answers
  to n1   Grant g6 1.2 attempt 2, g7 2.0 attempt 1
# Cancelled and not yet ended: it still runs.
at 2.200  c1: Hello
  at once c1: Welcome 2
at 2.210  c1: Cancel 1.3
  record  OutcomeSettled 1.3 CANCELLED unrun: the task was cancelled
  to n1   Cancel g4 1.3
  to c1   Cancelled 1
at 2.220  n1: Finished g4 1.3 CANCELLED
  to n1   Kept g4 1.3
  to n1   Grant g8 1.5 attempt 1
