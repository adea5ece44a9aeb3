# A task that died on a node waits half a minute for another node to have room, rather than die there again.
limits lease_s=1000 client_silence_s=1000
broker with n1 (1 rank), n2 (1 rank), c1

at 0.010  c1: Submit k1 tasks=2
  record  JobOpened 1 k1 of ada
  record  BatchAdmitted 1.0..1
  to c1   Accepted k1 batch 0 job 1
  to n1   Mount 1
  to n1   Grant g1 1.0 attempt 1
  to n2   Mount 1
  to n2   Grant g2 1.1 attempt 1
at 1.000  n1: Finished g1 1.0 CRASH
  record  AttemptFailed 1.0 attempt 1 CRASH n1 rank 0
  to n1   Kept g1 1.0
at 30.900  time passes
at 31.000  time passes
  to n1   Grant g3 1.0 attempt 2
# One that raised may go to the same node at once.
at 32.000  n1: Finished g3 1.0 NONE
  record  OutcomeSettled 1.0 COMPLETED attempt 2 n1 rank 0
  to c1   Resolved 1.0 COMPLETED
  to n1   Kept g3 1.0
at 33.000  c1: Submit k2 retries=1
  record  JobOpened 2 k2 of ada
  record  BatchAdmitted 2.0
  to c1   Accepted k2 batch 0 job 2
  to n1   Grant g4 2.0 attempt 1
at 34.000  n1: Finished g4 2.0 ERROR
  record  AttemptFailed 2.0 attempt 1 ERROR n1 rank 0
  to n1   Kept g4 2.0
  to n1   Grant g5 2.0 attempt 2
