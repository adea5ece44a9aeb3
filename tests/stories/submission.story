# A batch is committed before it is acknowledged; results are pushed after their commit.
broker with n1 (2 ranks), c1

at 0.010  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
at 0.020  n1: Finished g1 1.0..1 NONE
  record  OutcomeSettled 1.0..1 COMPLETED attempt 1 n1 rank 0
  record  BatchClosed 1.0..
  to c1   Resolved 1.0..1 COMPLETED
  to n1   Kept g1 1.0..1
