# The user's retries pay for errors and time limits, and for nothing else.
broker with n1 (1 rank), c1

at 0.010  c1: Submit k1 retries=1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  n1: Finished g1 1.0 ERROR
  record  AttemptFailed 1.0 attempt 1 ERROR n1 rank 0
  to n1   Kept g1 1.0
  to n1   Grant g2 1.0 attempt 2
at 0.030  n1: Finished g2 1.0 CRASH
  record  AttemptFailed 1.0 attempt 2 CRASH n1 rank 0
  to n1   Kept g2 1.0
  to n1   Grant g3 1.0 attempt 3
at 0.040  n1: Finished g3 1.0 WALLTIME
  record  AttemptFailed 1.0 attempt 3 WALLTIME n1 rank 0
  to n1   Kept g3 1.0
  to n1   Grant g4 1.0 attempt 4
at 0.050  n1: Finished g4 1.0 ERROR error="ValueError"
  record  OutcomeSettled 1.0 FAILED attempt 4 n1 rank 0: ValueError
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 FAILED
  to n1   Kept g4 1.0
# Without retries an error is final.
at 0.060  c1: Submit k2
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g5 2.0 attempt 1
at 0.070  n1: Finished g5 2.0 ERROR error="ValueError"
  record  OutcomeSettled 2.0 FAILED attempt 1 n1 rank 0: ValueError
  record  BatchClosed 2.0..
  to c1   Resolved 2.0 FAILED
  to n1   Kept g5 2.0
