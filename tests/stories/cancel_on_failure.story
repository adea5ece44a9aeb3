# A job that wants it is cancelled as a whole when one of its tasks fails.
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 tasks=3 cancel_on_failure=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  n1: Finished g1 1.0 ERROR error="ValueError"
  record  OutcomeSettled 1.0 FAILED attempt 1 n1 rank 0: ValueError
  record  OutcomeSettled 1.1..2 CANCELLED unrun: the task was cancelled
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 FAILED
  to c1   Resolved 1.1..2 CANCELLED
  to n1   Kept g1 1.0
