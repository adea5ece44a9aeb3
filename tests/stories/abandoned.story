# A client goes before it has sent the last batch of its job: in the end the job is closed, so that it can end.
limits lease_s=1000
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 last=no
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0, more follow
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  n1: Finished g1 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g1 1.0
at 61.000  time passes
at 122.000  time passes
  record  BatchAdmitted 1 without tasks
  record  BatchClosed 1.0..
  record  BatchClosed 1.1..
