# An allocation ends: the node drains, hands back what has not started and says goodbye. Nobody is charged.
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  n1: Capacity tasks=2 ranks=1
at 0.020  c1: Submit k1 tasks=3
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..2
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.1 attempt 1
  to n1   Grant g3 1.2 attempt 1
at 0.030  n1: Capacity tasks=0 ranks=1 draining=1
at 0.040  n1: Finished g3 1.2 RELEASED
  to n1   Kept g3 1.2
at 0.050  n1: Beat runs=g1:1.0
  at once n1: Beat
at 0.060  n1: Goodbye walltime
  record  AttemptFailed 1.0 attempt 1 WALLTIME n1 rank -1
at 0.070  n2: Finished g2 1.1 NONE
  record  OutcomeSettled 1.1 COMPLETED attempt 1 n2 rank 0
  to c1   Resolved 1.1 COMPLETED
  to n2   Kept g2 1.1
  to n2   Grant g4 1.0 attempt 2
