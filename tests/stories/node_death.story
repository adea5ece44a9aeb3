# A node falls silent: only the task that it said to run has made an attempt; the buffered one starts as the first.
broker with n1 (1 rank), c1

at 0.010  n1: Capacity tasks=2 ranks=1
at 0.020  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n1   Grant g2 1.1 attempt 1
at 1.000  n1: Beat runs=g1:1.0
  at once n1: Beat
at 2.000  n2: Hello ranks=2
  at once n2: Welcome 1
  to n1   Recall 1
at 6.000  time passes
  record  AttemptFailed 1.0 attempt 1 NODE_FAIL n1 rank -1
at 6.010  n2: Capacity tasks=2 ranks=2
  to n2   Mount 1
  to n2   Grant g3 1.0 attempt 2, g4 1.1 attempt 1
