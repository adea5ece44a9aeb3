# The third death of one kind makes a poison task: FAILED with the reason. Deaths of other kinds are counted apart.
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  c1: Submit k1
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
at 0.020  n1: Finished g1 1.0 CRASH
  record  AttemptFailed 1.0 attempt 1 CRASH n1 rank 0
  to n1   Kept g1 1.0
  to n2   Mount 1
  to n2   Grant g2 1.0 attempt 2
at 0.030  n2: Finished g2 1.0 CRASH
  record  AttemptFailed 1.0 attempt 2 CRASH n2 rank 0
  to n2   Kept g2 1.0
  to n1   Grant g3 1.0 attempt 3
at 0.040  n1: Finished g3 1.0 OUT_OF_MEMORY
  record  AttemptFailed 1.0 attempt 3 OUT_OF_MEMORY n1 rank 0
  to n1   Kept g3 1.0
  to n2   Grant g4 1.0 attempt 4
at 0.050  n2: Finished g4 1.0 CRASH
  record  OutcomeSettled 1.0 FAILED attempt 4 n2 rank 0: its process died 3 times and it is not tried again; the last time: signal 9
  record  BatchClosed 1.0..
  to c1   Resolved 1.0 FAILED
  to n2   Kept g4 1.0
