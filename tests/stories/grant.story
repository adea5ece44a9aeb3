# Nodes get what they asked for and no more: idle ranks first, then the buffers; the code is told once.
broker with n1 (2 ranks), n2 (1 rank), c1

at 0.010  c1: Submit k1 tasks=8
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..7
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0..1 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.2 attempt 1
at 0.020  n1: Capacity tasks=4 ranks=2
  to n1   Grant g3 1.3..4 attempt 1
at 0.030  n2: Finished g2 1.2 NONE
  record  OutcomeSettled 1.2 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 1.2 COMPLETED
  to n2   Kept g2 1.2
  to n2   Grant g4 1.5 attempt 1
at 0.040  n1: Capacity tasks=0 ranks=0 draining=1
