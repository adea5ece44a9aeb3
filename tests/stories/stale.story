# The outcome of an attempt that was given up never counts, however right it is: it is noted as STALE.
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 4.000  n2: Beat
  at once n2: Beat
at 5.000  time passes
  to n2   Mount 1
  to n2   Grant g2 1.0 attempt 1
# n1 was not dead, only slow.
at 5.500  n1: Finished g1 1.0 NONE
  at once n1: Unknown
at 5.510  n1: Hello life=1 holds=g1
  at once n1: Welcome 1
  to n1   Cancel g1 all
at 5.520  n1: Finished g1 1.0 NONE
  record  AttemptFailed 1.0 attempt 1 STALE n1 rank 0
  to n1   Kept g1 1.0
at 5.600  n2: Finished g2 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 1 n2 rank 0
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 COMPLETED
  to n2   Kept g2 1.0
