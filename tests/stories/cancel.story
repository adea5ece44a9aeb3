# Cancel settles what waits and what runs at once; the node is told, and what it says later counts for nothing.
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 tasks=3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  c1: Cancel 1.2
  record  OutcomeSettled 1.2 CANCELLED unrun: the task was cancelled
  to c1   Resolved 1.2 CANCELLED
  to c1   Cancelled 1
at 0.030  c1: Cancel 1
  record  OutcomeSettled 1.0..1 CANCELLED unrun: the task was cancelled
  record  BatchClosed 1.0..
  to c1   Resolved 1.0..1 CANCELLED
  to n1   Cancel g1 1.0
  to c1   Cancelled 2
at 0.040  n1: Finished g1 1.0 CANCELLED
  to n1   Kept g1 1.0
# Nobody cancels another user's job.
at 0.050  c1: Submit k2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g2 2.0 attempt 1
at 0.060  x1: Hello
  at once x1: Welcome 1
at 0.070  x1: Cancel 2
  to x1   Cancelled 0
