# A task that ran over its time limit is TIMEOUT unless the user's retries last.
limits lease_s=1000
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 time_limit=5 retries=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 5.010  n1: Finished g1 1.0 TIME_LIMIT
  record  AttemptFailed 1.0 attempt 1 TIME_LIMIT n1 rank 0
  to n1   Kept g1 1.0
  to n1   Grant g2 1.0 attempt 2
at 10.010  n1: Finished g2 1.0 TIME_LIMIT error="work ran over its time limit of 5 s"
  record  OutcomeSettled 1.0 TIMEOUT attempt 2 n1 rank 0: work ran over its time limit of 5 s
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 TIMEOUT
  to n1   Kept g2 1.0
