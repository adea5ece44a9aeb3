# A node is idle while another holds more than it runs: the broker asks for what that one has not started.
broker with n1 (1 rank), c1

at 0.010  n1: Capacity tasks=4 ranks=1
at 0.020  c1: Submit k1 tasks=4
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..3
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n1   Grant g2 1.1..3 attempt 1
at 0.030  n2: Hello ranks=2
  at once n2: Welcome 1
  to n1   Recall 2
at 0.040  n2: Capacity tasks=2 ranks=2
at 0.050  n1: Finished g2 1.2..3 RELEASED
  to n1   Kept g2 1.2..3
  to n2   Mount 1
  to n2   Grant g3 1.2..3 attempt 1
